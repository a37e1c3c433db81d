//! Deposits that a router lost to answers: a provider that answers is not gone, and gets no second one soon.

use std::collections::{BTreeMap, BTreeSet};
use stoa_types::{Address, Digest, Millis, StakeAmount, Timestamp};

/// How long after its time to answer a claim that was answered keeps its router from claiming anything more of the same provider. An answer
/// that shows nothing costs no more than its gas and gets the deposit: without this, one could be had for every day.
pub const HELD_BACK: Millis = Millis::from_secs(30 * 86_400);

/// A claim that an answer ended: its deposit is the provider's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lost {
    pub(super) provider: Address,
    /// By when it was to be answered, as the chain counts.
    pub(super) answer_by: Timestamp,
}

/// What a router lost lately. Nothing of it is kept: the chain has it.
#[derive(Default)]
pub(super) struct Losses {
    /// `None` before the first look, which finds what an earlier run was warned of.
    told: Option<BTreeSet<Digest>>,
    held_back: BTreeSet<Address>,
}

impl Losses {
    /// Takes up all that the chain tells of now; what is new is logged.
    pub(super) fn set(
        &mut self,
        lost: &BTreeMap<Digest, Lost>,
        deposit: StakeAmount,
        now: Timestamp,
    ) {
        let until = |lost: &Lost| lost.answer_by.plus(HELD_BACK);
        let lately: BTreeMap<_, _> = lost.iter().filter(|(_, lost)| now < until(lost)).collect();
        let known: BTreeSet<_> = lately.keys().map(|ticket| **ticket).collect();
        if self.told.is_none() && !known.is_empty() {
            tracing::info!(claims = known.len(), lost = %deposit, providers = ?lately.values().map(|lost| lost.provider).collect::<BTreeSet<_>>(),
                "claims of non-delivery were answered lately, before this start: nothing more is claimed of these providers for a while");
        }
        let told = self.told.replace(known.clone()).unwrap_or(known);
        for (ticket, lost) in &lately {
            if !told.contains(*ticket) {
                tracing::warn!(%ticket, provider = %lost.provider, lost = %deposit, days = HELD_BACK.0 / 86_400_000,
                    "a claim of non-delivery was answered, and the provider got the deposit: nothing more is claimed of this provider for so many days after its time to answer");
            }
        }
        self.held_back = lately.values().map(|lost| lost.provider).collect();
        let amount = deposit.units().saturating_mul(lately.len() as u128);
        metrics::gauge!("stoa_router_deposits_lost_units").set(amount as f64);
    }

    /// Whether nothing is to be claimed of this provider now.
    pub(super) fn hold_back(&self, provider: Address) -> bool {
        self.held_back.contains(&provider)
    }
}
