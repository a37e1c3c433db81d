//! What a target is, and how tests run one without a fuzzer.

use std::path::Path;

/// Most bytes in use for each byte of an input.
const RATIO: usize = 64;

/// A kind of input.
pub struct Target {
    /// Its name.
    pub name: &'static str,
    /// Bytes that may be in use whatever the input: the library's tables, buffers of files, threads.
    pub room: usize,
    /// Reads an input within a bound; gives the most bytes that were in use.
    pub read: fn(&[u8], usize) -> usize,
    /// Inputs to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

impl Target {
    /// Most bytes that may be in use for an input of a length.
    pub fn bound(&self, length: usize) -> usize {
        RATIO * length + self.room
    }

    /// Reads an input; ends the program where it takes more memory than it may. Gives the most bytes that were in use.
    pub fn run(&self, input: &[u8]) -> usize {
        (self.read)(input, self.bound(input.len()))
    }

    /// Reads every seed, what fuzzing found, and so many changes of each. Gives the most bytes that were in use.
    pub fn run_all(&self, changes: usize) -> usize {
        let mut inputs = (self.seeds)();
        let found = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/found");
        let files = std::fs::read_dir(found.join(self.name));
        let files = files.into_iter().flatten().flatten();
        inputs.extend(files.map(|file| std::fs::read(file.path()).expect("readable")));
        let (mut highest, mut random) = (0, Random(7));
        for input in inputs {
            highest = highest.max(self.run(&input));
            for _ in 0..changes {
                highest = highest.max(self.run(&changed(&input, &mut random)));
            }
        }
        highest
    }
}

/// Numbers from a small generator.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % n.max(1)
    }
}

/// An input with a few bytes changed, some cut out, or some written twice.
fn changed(input: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..=random.below(3) {
        if bytes.is_empty() {
            return bytes;
        }
        let from = random.below(bytes.len());
        let to = (from + 1 + random.below(24)).min(bytes.len());
        match random.below(4) {
            0 => bytes[from] = random.below(256) as u8,
            1 => bytes[from..to].fill([0, 1, 0x7f, 0xff][random.below(4)]),
            2 => drop(bytes.drain(from..to)),
            _ => {
                let again = bytes[from..to].to_vec();
                bytes.splice(to..to, again);
            }
        }
    }
    bytes
}
