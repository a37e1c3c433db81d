//! Whom a router saw, and what it claimed: what it goes by where it is to claim.

use super::losses::Losses;
use std::collections::{BTreeMap, BTreeSet};
use stoa_chain::{AccessError, ClaimState, ClaimView, SendError};
use stoa_nodes::client::Undelivered;
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
    known: Known,
}

/// How surely a claim stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    /// It may get into a block, or be decided against who made it: it is looked at again, as long as its order can be claimed.
    Perhaps,
    /// It is this router's, and in a block.
    Made,
    /// An event told of it: where a reorganisation takes that back, so does this.
    Told,
}

/// What came of an order that was to be claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Claimed {
    /// This router's claim stands.
    Stands,
    /// A claim may stand, and count as this router's.
    Perhaps,
    /// Somebody else's was decided, and not against the provider: nothing else is shielded by it.
    Spent,
    /// Nothing new.
    Nothing,
}

impl Claimed {
    /// By a claim that there is already: an accomplice's that was answered must not keep this router from what else it lost.
    pub(super) fn already(claim: &ClaimView, router: Address) -> Self {
        match claim.state {
            _ if claim.claimant == router => Self::Stands,
            ClaimState::Open | ClaimState::Punished => Self::Perhaps,
            ClaimState::Answered | ClaimState::Refuted | ClaimState::TakenBack => Self::Spent,
        }
    }

    /// By what came of the call. One that was handed over may still get into a block, with its deposit.
    pub(super) const fn sent<T>(call: &Result<T, SendError>) -> Self {
        match call {
            Ok(_) => Self::Stands,
            // A nonce that was used may have been used by this very call, whose receipt the asked server lacks yet.
            Err(SendError::Unknown { .. } | SendError::NonceTaken { .. }) => Self::Perhaps,
            // What was handed over before this call may be why it failed.
            Err(_) => Self::Nothing,
        }
    }
}

impl Made {
    /// What came of the claim on this ticket, of which no event may have told yet.
    pub(super) fn take(&mut self, claimed: Claimed, order: &Undelivered) {
        let ticket = order.acceptance.acceptance.ticket;
        let known = match claimed {
            Claimed::Stands => Known::Made,
            Claimed::Perhaps => Known::Perhaps,
            Claimed::Spent => {
                self.claims.remove(&ticket);
                return;
            }
            Claimed::Nothing => return,
        };
        let standing = Standing {
            provider: order.ticket.ticket.provider,
            deadline: order.ticket.ticket.deadline,
            known,
        };
        self.claims.insert(ticket, standing);
    }

    /// Forgets what may have been claimed of other orders than these, which are all that can be.
    pub(super) fn keep_due(&mut self, due: &[Undelivered]) {
        let due: BTreeSet<Digest> = due.iter().map(|u| u.acceptance.acceptance.ticket).collect();
        self.claims
            .retain(|ticket, made| made.known != Known::Perhaps || due.contains(ticket));
    }

    /// Whether this order is the fault of a claim that stands, or may: but for its own that is not known to stand, which is to be looked at again.
    pub(super) fn covers(&self, order: &Undelivered) -> bool {
        let own = order.acceptance.acceptance.ticket;
        let order = &order.ticket.ticket;
        let near = |made: Timestamp| made.0.abs_diff(order.deadline.0) < FAULT.0;
        self.claims.iter().any(|(ticket, made)| {
            let is_open = *ticket == own && made.known == Known::Perhaps;
            made.provider == order.provider && near(made.deadline) && !is_open
        })
    }

    /// Claims what is due, by `claim`: one order of each provider and day, for all that was not delivered in a day is one fault;
    /// and nothing of who answered lately.
    pub(super) async fn claim_each<F>(
        &mut self,
        due: &[Undelivered],
        losses: &Losses,
        mut is_wanted: impl FnMut(&Undelivered) -> bool,
        claim: impl Fn(Undelivered) -> F,
    ) where
        F: Future<Output = Result<Claimed, AccessError>>,
    {
        self.keep_due(due);
        for order in due {
            let held_back = losses.hold_back(order.ticket.ticket.provider);
            if held_back || self.covers(order) || !is_wanted(order) {
                continue;
            }
            match claim(order.clone()).await {
                Ok(claimed) => self.take(claimed, order),
                Err(error) => {
                    let ticket = order.acceptance.acceptance.ticket;
                    tracing::warn!(%ticket, %error, "whether it is claimed cannot be read; it is tried again");
                }
            }
        }
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
            .retain(|ticket, made| made.known != Known::Told || tickets.contains(ticket));
        for ticket in tickets {
            if let Some(made) = self.claims.get_mut(ticket) {
                made.known = Known::Told;
                continue;
            }
            match read(*ticket).await {
                Ok(Some(claim)) => {
                    let standing = Standing {
                        provider: claim.provider,
                        deadline: claim.deadline,
                        known: Known::Told,
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
