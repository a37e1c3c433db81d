//! Audits: the model of AuditRounds, PanelVerdict and Reputation, and what a validator computes beside them (docs/audits.md).
//!
//! - [`rounds`]: validators, the beacon, ballots and plants, each in its phase.
//! - [`verdict`]: rulings by panel, faults that need no panel, and what they cost.
//! - [`delivery`]: claims that nothing was delivered, and their answers.
//! - [`standing`]: reputation and the share of jobs that is audited.
//! - [`sums`], [`caps`]: whether a payout root follows from the leaves, and stays below what developers allotted.
//! - [`ballot`], [`panel`], [`hash`]: what all validators and the contracts must compute alike.
//!
//! As in [`crate::vault`], a call checks in the contract's order and happens whole or not at all.

pub mod ballot;
pub mod caps;
pub mod delivery;
pub mod hash;
pub mod panel;
pub mod place;
pub mod rounds;
pub mod standing;
pub mod sums;
#[cfg(test)]
mod tests;
pub mod verdict;

use serde::{Deserialize, Serialize};

/// The most validators that take part, and the most routers: it bounds every loop of the contracts.
pub const MAX_SEATS: usize = 64;
/// Validators of a panel, and how many equal verdicts decide.
pub const PANEL: usize = 3;
/// Equal verdicts that decide; one where a devnet has one validator.
pub const VOTES: usize = 2;

/// What a validator found, and what a panel ruled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Recomputation gives what the receipt says.
    Good,
    /// Recomputation gives another output root, response digest or finish.
    WrongOutput,
    /// Recomputation gives another prompt root or another number of tokens.
    WrongCount,
    /// The router does not give what an audit needs.
    Withheld,
    /// The leaf has no valid signature of the provider, or its ticket is not the router's.
    Forged,
    /// The payout root does not follow from the leaves.
    BadSums,
    /// The validator cannot judge: it has not got the model, or no key to the work. It never rules and costs nothing.
    Unable,
    /// The payout root is not right and its router is not to blame: it pays a charge that was reversed while its post was under way, or too
    /// many posts lie between it and the claimable one. It is cancelled, and costs nobody anything.
    Void,
}

impl Outcome {
    /// All, by code.
    pub const ALL: [Self; 8] = [
        Self::Good,
        Self::WrongOutput,
        Self::WrongCount,
        Self::Withheld,
        Self::Forged,
        Self::BadSums,
        Self::Unable,
        Self::Void,
    ];

    /// Its number in ballots and contracts.
    pub const fn code(self) -> u8 {
        match self {
            Self::Good => 0,
            Self::WrongOutput => 1,
            Self::WrongCount => 2,
            Self::Withheld => 3,
            Self::Forged => 4,
            Self::BadSums => 5,
            Self::Unable => 6,
            Self::Void => 7,
        }
    }

    /// Whether every validator that recomputes must find the same. What a router hands out it can hand out to one validator and not to
    /// another, so that honest validators may differ on [`Self::Withheld`] and [`Self::Forged`].
    pub const fn is_content(self) -> bool {
        !matches!(self, Self::Withheld | Self::Forged | Self::Unable)
    }

    /// Whether it says something about the payout root of a batch.
    pub const fn is_of_sums(self) -> bool {
        matches!(self, Self::BadSums | Self::Void)
    }

    /// Whether a ruling on a batch takes the place of one that was reached by adding up different votes: `BadSums` weighs more than `Withheld`,
    /// and that more than `Void`. So it does not matter which votes are brought first.
    pub const fn overrules(self, combined: Self) -> bool {
        matches!(
            (self, combined),
            (Self::BadSums, Self::Withheld | Self::Void) | (Self::Withheld, Self::Void)
        )
    }

    /// The outcome that `needed` of the votes share. About a batch, a vote that its payout root is wrong counts with those that could not
    /// measure it, where it does not decide alone, and those with a vote that cancels it: a router that gives the files of a wrong root to
    /// one validator and not to another must not make them disagree.
    pub fn decided(
        votes: impl IntoIterator<Item = Self>,
        needed: usize,
        is_batch: bool,
    ) -> Option<Self> {
        let mut tally = [0; Self::ALL.len()];
        for vote in votes {
            tally[usize::from(vote.code())] += 1;
        }
        let of = |outcome: Self| usize::from(outcome.code());
        let (withheld, bad) = (tally[of(Self::Withheld)], tally[of(Self::BadSums)]);
        if is_batch && bad == 0 {
            tally[of(Self::Void)] += withheld;
        } else if is_batch && bad < needed {
            tally[of(Self::Withheld)] += bad;
        }
        let decide = |outcome: &Self| *outcome != Self::Unable && tally[of(*outcome)] >= needed;
        Self::ALL.into_iter().find(decide)
    }
}
