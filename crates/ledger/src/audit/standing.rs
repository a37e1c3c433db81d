//! Reputation of a provider, and how many of its jobs are audited (SPEC C.6.5, DECISIONS 26).

use super::hash::modulo;
use std::collections::BTreeMap;
use stoa_types::{Bps, Digest};

/// Full reputation.
pub const FULL: u32 = 1_000_000;
/// What an unknown provider has.
pub const START: u32 = 500_000;
/// Verified outcomes until the rate may fall.
pub const PROVEN: u32 = 200;

/// A provider's record of verified outcomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// In millionths.
    pub reputation: u32,
    /// Verified outcomes, good and bad.
    pub verified: u32,
}

impl Default for Standing {
    fn default() -> Self {
        Self {
            reputation: START,
            verified: 0,
        }
    }
}

/// A verified outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// The answer was what it should be.
    Good,
    /// Something failed that need not be fraud.
    Bad,
    /// Proven fraud.
    Fraud,
}

impl Standing {
    /// After one more verified outcome: trust is slow to earn and quick to lose.
    #[must_use]
    pub fn after(self, mark: Mark) -> Self {
        let reputation = match mark {
            Mark::Good => self.reputation + FULL.saturating_sub(self.reputation) / 64,
            Mark::Bad => self.reputation - self.reputation / 8,
            Mark::Fraud => 0,
        };
        Self {
            reputation,
            verified: self.verified.saturating_add(1),
        }
    }
}

/// How much is audited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sampling {
    /// Share of jobs of new and of mistrusted providers.
    pub most: Bps,
    /// Share of jobs of a provider with full reputation.
    pub least: Bps,
    /// Jobs of each provider that are audited in full before sampling starts; zero outside devnets.
    pub first_jobs: u32,
}

impl Sampling {
    /// The share of jobs audited: `most` until [`PROVEN`] outcomes or at a reputation of [`START`] or less, then linear down to `least`.
    pub fn rate(&self, standing: Standing) -> Bps {
        let (most, least) = (self.most.get(), self.least.get());
        let above = standing.reputation.min(FULL).saturating_sub(START);
        if standing.verified < PROVEN || above == 0 || least >= most {
            return self.most;
        }
        let fall = u64::from(most - least) * u64::from(above) / u64::from(FULL - START);
        let fall = u16::try_from(fall).unwrap_or(most - least);
        Bps::new(most - fall).unwrap_or(self.most)
    }

    /// Whether a job is audited: it is one of the provider's first, or the beacon draws it. `ordinal` counts the provider's jobs in this
    /// round from zero, in the order of the posts and of their leaves.
    pub fn audits(
        &self,
        beacon: Digest,
        subject: Digest,
        standing: Standing,
        ordinal: u32,
    ) -> bool {
        standing.verified.saturating_add(ordinal) < self.first_jobs
            || self.draws(beacon, subject, standing)
    }

    /// Whether the beacon draws a job, wherever it stands among the provider's.
    pub fn draws(&self, beacon: Digest, subject: Digest, standing: Standing) -> bool {
        let words = stoa_crypto::Words::new().digest(beacon).digest(subject);
        let drawn = modulo(stoa_crypto::keccak256(words.as_bytes()), 10_000);
        drawn.is_some_and(|drawn| drawn < u128::from(self.rate(standing).get()))
    }
}

/// A provider's standings, by the newest round when they were written, so that all validators of a round sample by the same numbers while
/// rulings of earlier rounds still change them, and so that the verdict knows later what they sampled.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Record {
    history: BTreeMap<u64, Standing>,
}

impl Record {
    /// With one more outcome, written while `newest` is the newest round.
    #[must_use]
    pub fn after(mut self, mark: Mark, newest: u64) -> Self {
        let last = self.history.last_key_value().map_or(0, |(round, _)| *round);
        let now = self.now().after(mark);
        self.history.insert(newest.max(last), now);
        self
    }

    /// The standing now.
    pub fn now(&self) -> Standing {
        self.at(u64::MAX)
    }

    /// The standing when `round` opened.
    pub fn at(&self, round: u64) -> Standing {
        let before = self.history.range(..round).next_back();
        before.map(|(_, standing)| *standing).unwrap_or_default()
    }
}
