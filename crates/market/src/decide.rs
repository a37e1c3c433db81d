//! The decision of one call and its replayable record.

use crate::score::{BPS_WHOLE, PPM, Score, rank};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use stoa_crypto::{Words, keccak256};
use stoa_types::{Address, Bps, Digest, Price, Region, RoutingParameters, Tier, TokenAmount};

/// Costs beyond this are not a price anybody pays; staying below it keeps every product in 128 bits.
const RAW_COST_MAX: u128 = u128::MAX >> 24;
const TOKENS_PER_PRICE: u128 = 1_000_000;

/// Cost, in ten-thousandths of the median, up to which a longer context puts shorter ones behind: it is only claimed, and worth no more.
const ROOM_COST_BPS_MAX: u32 = 15_000;

/// What the router knows of one provider of the model at the moment of the call.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Candidate {
    /// Who.
    pub provider: Address,
    /// Price of 10^6 prompt tokens.
    pub input_price: Price,
    /// Price of 10^6 output tokens.
    pub output_price: Price,
    /// Predicted time to first token, queueing and network included.
    pub ttft_ms: u64,
    /// Good jobs in the window.
    pub ok: u32,
    /// All jobs in the window.
    pub total: u32,
    /// Reputation in ppm.
    pub reputation_ppm: u32,
    /// Where.
    pub region: Region,
    /// How its answers can be checked.
    pub tier: Tier,
    /// Jobs it can take now.
    pub free_slots: u32,
    /// Whether the model is loaded.
    pub warm: bool,
    /// Whether it is connected and takes jobs.
    pub online: bool,
    /// Context that it offers, in tokens; 0 in records of before there was one, which has room for everything.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub context: u64,
}

fn is_zero<N: Default + PartialEq>(number: &N) -> bool {
    *number == N::default()
}

/// Hard limits of one request.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Constraints {
    /// Lowest acceptable tier.
    pub tier_min: Option<Tier>,
    /// Highest input price.
    pub input_price_max: Option<Price>,
    /// Highest output price.
    pub output_price_max: Option<Price>,
    /// Highest cost of the call: excludes providers at which not even the prompt and one token of output fit.
    pub cost_max: Option<TokenAmount>,
    /// The answer cannot be shortened: all of it must stay within [`Self::cost_max`], not its first token alone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub whole: bool,
    /// Only these regions; empty = any.
    pub regions_only: BTreeSet<Region>,
    /// Not these regions.
    pub regions_exclude: BTreeSet<Region>,
    /// Only these providers; empty = any.
    pub providers_only: BTreeSet<Address>,
    /// Not these providers.
    pub providers_ignore: BTreeSet<Address>,
}

/// Weights and thresholds, from the profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Weights {
    /// Price.
    pub price: Bps,
    /// Latency.
    pub latency: Bps,
    /// Reliability.
    pub reliability: Bps,
    /// Reputation.
    pub reputation: Bps,
    /// Time to first token at which the latency score is full.
    pub ttft_target_ms: u64,
    /// Least reputation.
    pub reputation_min_ppm: u32,
    /// Scores within this share of the best draw lots.
    pub tie_bps: Bps,
}

impl From<&RoutingParameters> for Weights {
    fn from(routing: &RoutingParameters) -> Self {
        Self {
            price: routing.price_bps,
            latency: routing.latency_bps,
            reliability: routing.reliability_bps,
            reputation: routing.reputation_bps,
            ttft_target_ms: routing.ttft_target_ms,
            reputation_min_ppm: routing.reputation_min_ppm,
            tie_bps: routing.tie_bps,
        }
    }
}

/// All that is known when a call is decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    /// Providers of the model, by address.
    pub candidates: Vec<Candidate>,
    /// Weights.
    pub weights: Weights,
    /// Prompt tokens, or their bound.
    pub input_units: u64,
    /// Output limit.
    pub output_units: u64,
    /// Context that prompt and answer need together, in tokens, as far as the router can tell: an estimate that puts nobody out.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub room: u64,
    /// Cost, in ten-thousandths of the median, above which a longer context puts nobody behind; 0 in records of before there was a bound.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub room_cost_bps_max: u32,
}

impl Snapshot {
    /// Orders the candidates by address; of two offers of one provider the one with the lower input price stays, then the lower output
    /// price.
    pub fn new(
        candidates: impl IntoIterator<Item = Candidate>,
        weights: Weights,
        input_units: u64,
        output_units: u64,
    ) -> Self {
        let mut candidates: Vec<_> = candidates.into_iter().collect();
        normalise(&mut candidates);
        Self {
            candidates,
            weights,
            input_units,
            output_units,
            room: 0,
            room_cost_bps_max: 0,
        }
    }

    /// The same of a request that needs so much context.
    #[must_use]
    pub fn needing(self, room: u64) -> Self {
        Self {
            room,
            room_cost_bps_max: ROOM_COST_BPS_MAX,
            ..self
        }
    }

    /// What the request would cost there at its limits, times 10^6. It is the price `p` of the score: one number for input and output
    /// price, in the proportion of this call.
    fn raw_cost(&self, candidate: &Candidate, output_units: u64) -> Option<u128> {
        let input = candidate.input_price.raw_cost(self.input_units)?;
        let output = candidate.output_price.raw_cost(output_units)?;
        input
            .checked_add(output)
            .filter(|cost| *cost <= RAW_COST_MAX)
    }
}

fn normalise(candidates: &mut Vec<Candidate>) {
    candidates.sort();
    candidates.dedup_by_key(|candidate| candidate.provider);
}

/// Why a candidate was left out. The order is the order of checking: a candidate is left out by the first that it misses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rule {
    /// Not connected, or takes no new jobs.
    Offline,
    /// Its tier is below the one asked for.
    Tier,
    /// Its region is excluded or not among those asked for.
    Region,
    /// It is on the ignore list or not on the only list.
    Provider,
    /// Its reputation is below the least.
    Reputation,
    /// Above a ceiling.
    Price,
    /// It matches, but has no free slot.
    Busy,
}

impl Rule {
    /// The word in errors and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Offline => "offline",
            Self::Tier => "tier",
            Self::Region => "region",
            Self::Provider => "provider",
            Self::Reputation => "reputation",
            Self::Price => "price",
            Self::Busy => "busy",
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why nobody can take the call. Price is judged over all matching providers that are online, busy ones included, so that "busy" is only
/// said where waiting helps.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoMatch {
    /// No provider of the model is online.
    #[error("no provider is online")]
    NoneOnline,
    /// Providers are online, but none meets the policy.
    #[error("no provider meets the constraints")]
    PolicyExcludes {
        /// How many were left out by which rule.
        excluded: BTreeMap<Rule, u32>,
    },
    /// Matching providers are online, all above a ceiling.
    #[error("every matching provider is above the price ceiling; the lowest asks {lowest}")]
    PriceCeiling {
        /// Lowest output price among them.
        lowest: Price,
    },
    /// Matching providers within the ceiling are online, all busy.
    #[error("all {matching} matching providers are busy")]
    AllBusy {
        /// How many.
        matching: u32,
    },
}

/// A choice with everything it came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decision {
    /// What was known.
    pub snapshot: Snapshot,
    /// What was asked.
    pub constraints: Constraints,
    /// Seed of the lots.
    pub seed: Digest,
    /// Median cost of the scored candidates, times 10^6, in smallest units.
    #[serde(with = "decimal")]
    pub reference_cost: u128,
    /// Who was left out, by which rule, in the order of addresses.
    pub excluded: Vec<(Address, Rule)>,
    /// Who was scored, in the order of addresses.
    pub scores: Vec<Score>,
    /// In which order to try; never empty.
    pub ranking: Vec<Address>,
}

/// A logged decision does not follow from its own inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the logged {0} does not follow from the logged inputs")]
pub struct ReplayMismatch(pub &'static str);

impl Decision {
    /// Who gets the call.
    pub fn choice(&self) -> Address {
        // `decide` makes no decision without a scored candidate; a log that was tampered with fails `replay`.
        self.ranking.first().copied().unwrap_or(Address::ZERO)
    }

    /// Decides again from the recorded inputs and compares.
    pub fn replay(&self) -> Result<(), ReplayMismatch> {
        let again = decide(&self.snapshot, &self.constraints, self.seed)
            .map_err(|_| ReplayMismatch("choice"))?;
        let parts = [
            ("snapshot", again.snapshot == self.snapshot),
            ("exclusions", again.excluded == self.excluded),
            (
                "reference cost",
                again.reference_cost == self.reference_cost,
            ),
            ("scores", again.scores == self.scores),
            ("ranking", again.ranking == self.ranking),
        ];
        match parts.into_iter().find(|(_, same)| !same) {
            Some((what, _)) => Err(ReplayMismatch(what)),
            None => Ok(()),
        }
    }
}

/// The seed of a call's lots: neither the router nor a provider controls both of its parts.
pub fn draw_seed(last_batch_root: Digest, request_digest: Digest) -> Digest {
    let words = Words::new().digest(last_batch_root).digest(request_digest);
    keccak256(words.as_bytes())
}

/// Decides who gets a call.
pub fn decide(
    snapshot: &Snapshot,
    constraints: &Constraints,
    seed: Digest,
) -> Result<Decision, NoMatch> {
    let mut snapshot = snapshot.clone();
    normalise(&mut snapshot.candidates);
    let mut excluded = Vec::new();
    let mut eligible = Vec::new();
    for candidate in &snapshot.candidates {
        match judge(&snapshot, constraints, candidate) {
            Ok(cost) => eligible.push((candidate, cost)),
            Err(rule) => excluded.push((candidate.provider, rule)),
        }
    }
    if eligible.is_empty() {
        return Err(no_match(&snapshot, &excluded));
    }
    let reference_cost = median(eligible.iter().map(|(_, cost)| *cost).collect());
    let mut scores: Vec<_> = eligible
        .iter()
        .map(|(candidate, cost)| {
            Score::of(candidate, *cost, reference_cost, &snapshot.weights, seed)
        })
        .collect();
    place_by_room(&snapshot, &eligible, reference_cost, &mut scores);
    let ranking = rank(&scores, &snapshot.weights);
    Ok(Decision {
        snapshot,
        constraints: constraints.clone(),
        seed,
        reference_cost,
        excluded,
        scores,
        ranking,
    })
}

/// Puts behind who has no room for the request. A long context is only claimed: whoever fails more than it delivers, or is dear, keeps nobody
/// from a call by it.
fn place_by_room(
    snapshot: &Snapshot,
    eligible: &[(&Candidate, u128)],
    reference_cost: u128,
    scores: &mut [Score],
) {
    let most = reference_cost.saturating_mul(u128::from(snapshot.room_cost_bps_max));
    let bounded = snapshot.room_cost_bps_max != 0;
    let dear = |cost: u128| bounded && cost.saturating_mul(BPS_WHOLE) > most;
    let keeps_nobody: Vec<_> = eligible
        .iter()
        .zip(scores.iter())
        .map(|((_, cost), score)| score.reliability < PPM / 2 || dear(*cost))
        .collect();
    let counted = eligible.iter().zip(&keeps_nobody);
    let counted = counted.filter(|(_, keeps_nobody)| !bounded || !**keeps_nobody);
    let needed = context_needed(snapshot.room, counted.map(|((c, _), _)| c.context));
    let short = |candidate: &Candidate| candidate.context != 0 && candidate.context < needed;
    let some_short = eligible.iter().any(|(candidate, _)| short(candidate));
    for ((score, (candidate, _)), keeps_nobody) in scores.iter_mut().zip(eligible).zip(keeps_nobody)
    {
        score.behind = short(candidate) || (some_short && keeps_nobody);
    }
}

/// Below which a context is too short: what the request needs, where somebody offers that. Else nobody can serve it whole, and who offers
/// less than half of the longest cuts it more than it must be.
fn context_needed(room: u64, offered: impl Iterator<Item = u64>) -> u64 {
    let longest = offered.max().unwrap_or(0);
    if longest >= room { room } else { longest / 2 }
}

/// The candidate's cost, or the first rule that it misses.
fn judge(
    snapshot: &Snapshot,
    constraints: &Constraints,
    candidate: &Candidate,
) -> Result<u128, Rule> {
    let only = |set: &BTreeSet<Region>| set.is_empty() || set.contains(&candidate.region);
    let listed = constraints.providers_only.is_empty()
        || constraints.providers_only.contains(&candidate.provider);
    let rules = [
        (Rule::Offline, candidate.online),
        (
            Rule::Tier,
            constraints
                .tier_min
                .is_none_or(|least| candidate.tier >= least),
        ),
        (
            Rule::Region,
            only(&constraints.regions_only)
                && !constraints.regions_exclude.contains(&candidate.region),
        ),
        (
            Rule::Provider,
            listed && !constraints.providers_ignore.contains(&candidate.provider),
        ),
        (
            Rule::Reputation,
            candidate.reputation_ppm >= snapshot.weights.reputation_min_ppm,
        ),
    ];
    if let Some((rule, _)) = rules.into_iter().find(|(_, met)| !met) {
        return Err(rule);
    }
    let cost = within_ceilings(snapshot, constraints, candidate).ok_or(Rule::Price)?;
    if candidate.free_slots == 0 {
        return Err(Rule::Busy);
    }
    Ok(cost)
}

/// The cost of the call at its limits, when no ceiling is broken.
fn within_ceilings(
    snapshot: &Snapshot,
    constraints: &Constraints,
    candidate: &Candidate,
) -> Option<u128> {
    let under = |ceiling: Option<Price>, price| ceiling.is_none_or(|most| price <= most);
    let prices = under(constraints.input_price_max, candidate.input_price)
        && under(constraints.output_price_max, candidate.output_price);
    let fewest = if constraints.whole {
        snapshot.output_units
    } else {
        snapshot.output_units.min(1)
    };
    let least = snapshot.raw_cost(candidate, fewest)?;
    let affordable = constraints
        .cost_max
        .is_none_or(|most| least.div_ceil(TOKENS_PER_PRICE) <= most.units());
    let cost = snapshot.raw_cost(candidate, snapshot.output_units)?;
    (prices && affordable).then_some(cost)
}

fn no_match(snapshot: &Snapshot, excluded: &[(Address, Rule)]) -> NoMatch {
    let by = |rule| excluded.iter().filter(move |(_, found)| *found == rule);
    let online = excluded.iter().any(|(_, rule)| *rule != Rule::Offline);
    if !online {
        return NoMatch::NoneOnline;
    }
    let busy = by(Rule::Busy).count();
    if busy > 0 {
        return NoMatch::AllBusy {
            matching: u32::try_from(busy).unwrap_or(u32::MAX),
        };
    }
    let dear: BTreeSet<_> = by(Rule::Price).map(|(provider, _)| *provider).collect();
    let lowest = snapshot
        .candidates
        .iter()
        .filter(|candidate| dear.contains(&candidate.provider))
        .map(|candidate| candidate.output_price)
        .min();
    if let Some(lowest) = lowest {
        return NoMatch::PriceCeiling { lowest };
    }
    let mut counts = BTreeMap::new();
    for (_, rule) in excluded {
        *counts.entry(*rule).or_insert(0) += 1;
    }
    NoMatch::PolicyExcludes { excluded: counts }
}

/// The middle value; of two middle values their mean, rounded down.
fn median(mut costs: Vec<u128>) -> u128 {
    costs.sort_unstable();
    let high = costs.len() / 2;
    let low = costs.len().saturating_sub(1) / 2;
    match (costs.get(low), costs.get(high)) {
        // Both are far below the end of the type, see RAW_COST_MAX.
        (Some(low), Some(high)) => (low + high) / 2,
        _ => 0,
    }
}

/// Large integers as decimal text, exact in every JSON reader.
mod decimal {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use std::borrow::Cow;

    pub fn serialize<S: Serializer>(value: &u128, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u128, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        let value = text.parse::<u128>().map_err(D::Error::custom)?;
        if value.to_string() == text {
            Ok(value)
        } else {
            Err(D::Error::custom("not a canonical decimal number"))
        }
    }
}
