//! How long to wait between two attempts to reach the router.

use std::time::Duration;

/// Doubling wait with jitter, bounded. The random number is an argument, so that this is a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    base: Duration,
    max: Duration,
    failures: u32,
}

impl Backoff {
    /// First wait at most `base`, later ones at most `max`.
    pub const fn new(base: Duration, max: Duration) -> Self {
        Self {
            base,
            max,
            failures: 0,
        }
    }

    /// Wait before the next attempt: between half of the ceiling and the ceiling, placed by `random`.
    pub fn next_wait(&mut self, random: u32) -> Duration {
        let ceiling = self
            .base
            .saturating_mul(1_u32.checked_shl(self.failures).unwrap_or(u32::MAX))
            .min(self.max);
        self.failures = self.failures.saturating_add(1);
        let half = ceiling / 2;
        let micros = u64::try_from(half.as_micros()).unwrap_or(u64::MAX);
        // The product of a 64-bit and a 32-bit number fits 128 bits; shifted back it is below `micros`.
        let jitter = (u128::from(micros) * u128::from(random)) >> 32;
        half + Duration::from_micros(u64::try_from(jitter).unwrap_or(micros))
    }

    /// The peer answered: start again with the shortest wait.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

impl Default for Backoff {
    /// 200 ms, doubling to 10 s.
    fn default() -> Self {
        Self::new(Duration::from_millis(200), Duration::from_secs(10))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_to_the_limit_and_jitter_stays_within_half() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        for ceiling_ms in [100, 200, 400, 800, 1000, 1000] {
            let low = { backoff }.next_wait(0);
            let high = backoff.next_wait(u32::MAX);
            assert_eq!(low, Duration::from_millis(ceiling_ms) / 2);
            assert!(high > low && high <= Duration::from_millis(ceiling_ms));
        }
        for _ in 0..100 {
            assert!(backoff.next_wait(u32::MAX) <= Duration::from_secs(1));
        }
        backoff.reset();
        assert_eq!(backoff.next_wait(0), Duration::from_millis(50));
    }
}
