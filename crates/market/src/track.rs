//! What a router remembers of a provider between calls: small, pure, restorable.

use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use stoa_types::{Millis, Timestamp};

const WINDOW_JOBS: usize = 1_000;
const WINDOW_AGE: Millis = Millis::from_secs(86_400);

/// Outcomes of the last 1,000 jobs, none older than 24 h (SPEC C.6.1, R).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reliability {
    outcomes: VecDeque<(Timestamp, bool)>,
}

impl Reliability {
    /// Adds the outcome of one job.
    pub fn observe(&mut self, now: Timestamp, ok: bool) {
        self.outcomes.push_back((now, ok));
        self.forget(now);
    }

    fn forget(&mut self, now: Timestamp) {
        let old = |(at, _): &(Timestamp, bool)| now.since(*at) > WINDOW_AGE;
        while self.outcomes.len() > WINDOW_JOBS || self.outcomes.front().is_some_and(old) {
            self.outcomes.pop_front();
        }
    }

    /// Good and all jobs of the window that ends `now`.
    pub fn counts(&self, now: Timestamp) -> (u32, u32) {
        let recent = self
            .outcomes
            .iter()
            .filter(|(at, _)| now.since(*at) <= WINDOW_AGE);
        recent.fold((0, 0), |(good, all), (_, ok)| {
            (good + u32::from(*ok), all + 1)
        })
    }
}

/// Moving average of times to first token: each observation moves it by an eighth of the difference. Kept in 1/256 ms, so that it
/// settles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Latency {
    scaled: Option<u64>,
}

impl Latency {
    const SCALE: u64 = 256;
    /// About half a year: longer waits are all the same and stay far from the end of the type.
    const LONGEST_MS: u64 = 1 << 34;

    /// Adds one observation; the first is taken as it is.
    pub fn observe(&mut self, ttft_ms: u64) {
        let seen = ttft_ms.min(Self::LONGEST_MS) * Self::SCALE;
        self.scaled = Some(match self.scaled {
            None => seen,
            Some(mean) if seen >= mean => mean + (seen - mean) / 8,
            Some(mean) => mean - (mean - seen) / 8,
        });
    }

    /// The average in ms, rounded up; `None` before the first observation.
    pub fn predicted_ms(&self) -> Option<u64> {
        self.scaled.map(|mean| mean.div_ceil(Self::SCALE))
    }
}

/// Outcome of a verified or delivered job, as far as reputation counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Delivered and, where verified, right.
    Good,
    /// Not delivered, or failed verification without proof of intent.
    Bad,
    /// Proven fraud.
    Fraud,
}

/// Reputation in ppm: slow to earn, quick to lose (SPEC C.6.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reputation {
    ppm: u32,
    verified: u64,
}

impl Default for Reputation {
    fn default() -> Self {
        Self {
            ppm: Self::START,
            verified: 0,
        }
    }
}

impl Reputation {
    const WHOLE: u32 = 1_000_000;
    const START: u32 = 500_000;
    const NEWCOMER_JOBS: u64 = 200;
    const SAMPLING_MOST_BPS: u32 = 1_000;
    const SAMPLING_LEAST_BPS: u32 = 50;

    /// The value.
    pub fn ppm(&self) -> u32 {
        self.ppm
    }

    /// Adds one outcome; `verified` tells a checked answer from one that was merely delivered.
    pub fn observe(&mut self, outcome: Outcome, verified: bool) {
        let ppm = self.ppm.min(Self::WHOLE);
        self.verified = self.verified.saturating_add(u64::from(verified));
        self.ppm = match outcome {
            Outcome::Good => ppm + (Self::WHOLE - ppm) / 64,
            Outcome::Bad => ppm - ppm / 8,
            Outcome::Fraud => 0,
        };
    }

    /// How many of this provider's jobs are to be verified, in basis points, before the network's common factor.
    pub fn sampling_bps(&self) -> u32 {
        let ppm = self.ppm.min(Self::WHOLE);
        if self.verified < Self::NEWCOMER_JOBS || ppm <= Self::START {
            return Self::SAMPLING_MOST_BPS;
        }
        let span = Self::SAMPLING_MOST_BPS - Self::SAMPLING_LEAST_BPS;
        // At most 950 x 500,000: fits.
        Self::SAMPLING_MOST_BPS - span * (ppm - Self::START) / (Self::WHOLE - Self::START)
    }
}
