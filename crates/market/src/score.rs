//! The four factors and their sum, in parts per million (SPEC C.6.1). Floor division throughout.

use crate::{Candidate, Weights};
use serde::{Deserialize, Serialize};
use stoa_crypto::{Words, keccak256};
use stoa_types::{Address, Digest};

/// The whole, in parts per million.
pub const PPM: u32 = 1_000_000;
pub(crate) const BPS_WHOLE: u128 = 10_000;

/// `whole / part` in ppm for `part >= whole`; full when both are zero. Values that large that the product would not fit are brought into
/// range together, which keeps their ratio.
fn ratio_ppm(whole: u128, part: u128) -> u32 {
    if part == 0 {
        return PPM;
    }
    let shift = 20u32.saturating_sub(whole.leading_zeros());
    let ppm = (whole >> shift) * u128::from(PPM) / (part >> shift).max(1);
    u32::try_from(ppm).map_or(PPM, |ppm| ppm.min(PPM))
}

/// `P = 10^6 x p_ref / (2 x max(p, p_ref / 2))`, written without the halves as `10^6 x p_ref / max(2p, p_ref)`. It is full at half the
/// reference and below, so deeper undercutting gains nothing.
pub fn price_score(cost: u128, reference: u128) -> u32 {
    ratio_ppm(reference, cost.saturating_mul(2).max(reference))
}

/// `L = 10^6 x t_target / max(t, t_target)`.
pub fn latency_score(ttft_ms: u64, target_ms: u64) -> u32 {
    ratio_ppm(u128::from(target_ms), u128::from(ttft_ms.max(target_ms)))
}

/// `R = 10^6 x (ok + 1) / (n + 2)`: a newcomer starts at one half.
pub fn reliability_score(ok: u32, total: u32) -> u32 {
    let ok = u128::from(ok.min(total)) + 1;
    ratio_ppm(ok, u128::from(total) + 2)
}

/// Score of one candidate with its parts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Score {
    /// Who.
    pub provider: Address,
    /// Whether the model is loaded there: warm candidates go before all others.
    pub warm: bool,
    /// Price, in ppm.
    pub price: u32,
    /// Latency, in ppm.
    pub latency: u32,
    /// Reliability, in ppm.
    pub reliability: u32,
    /// Reputation, in ppm.
    pub reputation: u32,
    /// Weighted sum, in ppm.
    pub total: u32,
    /// Lot for ties: keccak of seed and provider; the lowest wins.
    pub lot: Digest,
    /// Whether it comes after all others, warm or not: its context is too short for the request, or much shorter than another's where all
    /// are; or another's is, and it has failed more than it delivered or costs much more than the median.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub behind: bool,
}

impl Score {
    pub(crate) fn of(
        candidate: &Candidate,
        cost: u128,
        reference: u128,
        weights: &Weights,
        seed: Digest,
    ) -> Self {
        let price = price_score(cost, reference);
        let latency = latency_score(candidate.ttft_ms, weights.ttft_target_ms);
        let reliability = reliability_score(candidate.ok, candidate.total);
        let reputation = candidate.reputation_ppm.min(PPM);
        let weighted = [
            (weights.price, price),
            (weights.latency, latency),
            (weights.reliability, reliability),
            (weights.reputation, reputation),
        ];
        let sum: u128 = weighted
            .iter()
            .map(|(weight, part)| u128::from(weight.get()) * u128::from(*part))
            .sum();
        let total = u32::try_from(sum / BPS_WHOLE).map_or(PPM, |total| total.min(PPM));
        let lot = Words::new().digest(seed).address(candidate.provider);
        Self {
            provider: candidate.provider,
            warm: candidate.warm,
            price,
            latency,
            reliability,
            reputation,
            total,
            lot: keccak256(lot.as_bytes()),
            behind: false,
        }
    }
}

/// The order in which candidates are tried: those with room for the request first, and of these the warm ones; in each group the best score,
/// where all within `tie_bps` of the best draw lots; then the same among the rest.
pub(crate) fn rank(scores: &[Score], weights: &Weights) -> Vec<Address> {
    let mut ranking = Vec::with_capacity(scores.len());
    for group in [(false, true), (false, false), (true, true), (true, false)] {
        let of_group = |score: &&Score| (score.behind, score.warm) == group;
        let mut rest: Vec<_> = scores.iter().filter(of_group).collect();
        while let Some(best) = rest.iter().map(|score| score.total).max() {
            let near = |score: &&&Score| {
                u128::from(score.total) * BPS_WHOLE
                    >= u128::from(best) * (BPS_WHOLE - u128::from(weights.tie_bps.get()))
            };
            let Some(next) = rest.iter().filter(near).min_by_key(|score| score.lot) else {
                break;
            };
            let next = next.provider;
            ranking.push(next);
            rest.retain(|score| score.provider != next);
        }
    }
    ranking
}
