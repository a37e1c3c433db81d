//! Seeded randomness: one stream per purpose, so that a component that draws more numbers does not shift the others.

/// SplitMix64: small, and good enough to explore schedules.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// Stream `purpose` of `seed`.
    pub fn stream(seed: u64, purpose: &str) -> Self {
        let mix = purpose
            .bytes()
            .fold(seed ^ 0x9e37_79b9_7f4a_7c15, |state, byte| {
                Self(state ^ u64::from(byte)).draw()
            });
        Self(mix)
    }

    /// Next 64 bits.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `bound`; 0 when `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.draw() % bound }
    }

    /// From `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// True with `per_mille` in 1,000.
    pub fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }

    /// A delay around `mean`: mostly below it, sometimes several times longer.
    pub fn delay(&mut self, least: u64, mean: u64) -> u64 {
        let spread = self.below(2 * mean + 1);
        let tail = if self.chance(20) {
            self.below(10 * mean + 1)
        } else {
            0
        };
        least + spread + tail
    }
}
