//! The seeded random source of the corpus generator: SplitMix64, so that a seed gives the same corpus on every machine.

/// A SplitMix64 generator, for held-out tasks or for practice: the training text has more of what is hard to learn.
#[derive(Debug, Clone)]
pub struct Rng {
    state: u64,
    practice: bool,
}

impl Rng {
    /// A generator that starts from `seed` and draws as the held-out tasks are drawn.
    pub fn new(seed: u64) -> Self {
        Self {
            state: seed,
            practice: false,
        }
    }

    /// A generator of training tasks that starts from `seed`.
    pub fn practice(seed: u64) -> Self {
        Self {
            state: seed,
            practice: true,
        }
    }

    /// True in `percent` of 100 calls in practice; otherwise false, and nothing is drawn.
    pub fn practises(&mut self, percent: usize) -> bool {
        self.practice && self.chance(percent)
    }

    /// The next 64 bits.
    pub fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which must not be zero.
    pub fn below(&mut self, bound: usize) -> usize {
        (((self.next() as u128) * (bound as u128)) >> 64) as usize
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: usize, high: usize) -> usize {
        low + self.below(high - low + 1)
    }

    /// True in `percent` of 100 calls.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// One element of a list that is not empty.
    pub fn pick<'a, T: ?Sized>(&mut self, list: &[&'a T]) -> &'a T {
        list[self.below(list.len())]
    }

    /// `count` different elements of a list, in random order.
    pub fn pick_distinct<'a, T: ?Sized>(&mut self, list: &[&'a T], count: usize) -> Vec<&'a T> {
        let mut copy: Vec<&'a T> = list.to_vec();
        self.shuffle(&mut copy);
        copy.truncate(count);
        copy
    }

    /// Put a list into random order.
    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        for i in (1..list.len()).rev() {
            list.swap(i, self.below(i + 1));
        }
    }
}

/// FNV-1a of a text: decides which side of the split a combination of arguments falls on, whatever the seed.
pub fn hash_text(text: &str) -> u64 {
    let fnv = text.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
    });
    Rng::new(fnv).next()
}
