//! Whom a router saw, and what it claimed: what it goes by where it is to claim.

use std::collections::{BTreeMap, BTreeSet};
use stoa_chain::{AccessError, ClaimView};
use stoa_types::{Address, Digest, Millis, Timestamp};

/// Claims whose deadlines lie closer than this are one fault, as the contract counts.
pub(super) const FAULT: Millis = Millis::from_secs(86_400);

/// When each provider was connected last, as far as this process saw.
pub(super) struct Presence {
    began: Timestamp,
    seen: BTreeMap<Address, Timestamp>,
}

impl Presence {
    /// Nobody seen yet.
    pub(super) fn new(began: Timestamp) -> Self {
        let seen = BTreeMap::new();
        Self { began, seen }
    }

    /// These are connected now.
    pub(super) fn see(&mut self, connected: impl Iterator<Item = Address>, now: Timestamp) {
        self.seen.extend(connected.map(|provider| (provider, now)));
    }

    /// Whether a provider was not seen for so long since then, or has not been seen for twice that time: that it was there once since says
    /// nothing about who is gone now. Whoever began later than that does not know whom it would have seen, and takes everybody for seen when it
    /// began: to start anew can only delay a claim.
    pub(super) fn is_away(
        &self,
        provider: Address,
        since: Timestamp,
        least: Millis,
        now: Timestamp,
    ) -> bool {
        let seen = self.seen.get(&provider).filter(|seen| **seen >= since);
        let began = (self.began > since).then_some(self.began);
        match seen.copied().or(began) {
            Some(seen) => now.since(seen).0 >= least.0.saturating_mul(2),
            None => now.since(since) >= least,
        }
    }
}

/// Claims that stand on this router's tickets, by ticket: what else the same provider lost within a day of one is the same fault. Nothing of it is
/// kept: the chain has it.
#[derive(Default)]
pub(super) struct Made {
    claims: BTreeMap<Digest, Standing>,
    told: bool,
}

struct Standing {
    provider: Address,
    deadline: Timestamp,
    /// Whether an event told of it: where a reorganisation takes that back, so does this.
    seen: bool,
}

impl Made {
    /// A claim stands on this ticket, which no event may have told of yet.
    pub(super) fn add(&mut self, ticket: Digest, provider: Address, deadline: Timestamp) {
        let standing = Standing {
            provider,
            deadline,
            seen: false,
        };
        self.claims.insert(ticket, standing);
    }

    /// Whether what a provider lost at this deadline is the fault of a claim that stands.
    pub(super) fn covers(&self, provider: Address, deadline: Timestamp) -> bool {
        let near = |made: Timestamp| made.0.abs_diff(deadline.0) < FAULT.0;
        let mut claims = self.claims.values();
        claims.any(|made| made.provider == provider && near(made.deadline))
    }

    /// Takes up the claims on these tickets, of which events tell, reading from the chain whom each is against; whether all are known now. Before
    /// they are, nothing may be claimed: it may have been claimed before a restart.
    pub(super) async fn recall<F>(
        &mut self,
        tickets: &BTreeSet<Digest>,
        read: impl Fn(Digest) -> F,
    ) -> bool
    where
        F: Future<Output = Result<Option<ClaimView>, AccessError>>,
    {
        self.claims
            .retain(|ticket, made| !made.seen || tickets.contains(ticket));
        for ticket in tickets {
            if let Some(known) = self.claims.get_mut(ticket) {
                known.seen = true;
                continue;
            }
            match read(*ticket).await {
                Ok(Some(claim)) => {
                    let standing = Standing {
                        provider: claim.provider,
                        deadline: claim.deadline,
                        seen: true,
                    };
                    self.claims.insert(*ticket, standing);
                }
                // Its block was taken back: the events will tell.
                Ok(None) => return false,
                Err(error) => {
                    if !std::mem::replace(&mut self.told, true) {
                        tracing::warn!(%ticket, %error, "a claim on this router's order cannot be read; nothing is claimed until it is");
                    }
                    return false;
                }
            }
        }
        self.told = false;
        true
    }
}
