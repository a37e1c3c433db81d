//! Seeds of the choices of one request (decision 0039).

use crate::keccak256;

const DOMAIN: &[u8] = b"stoa.choice.v1";

/// Seed of choice `index` of a request: the request's own for choice 0, for each further one the first 8 bytes of
/// keccak-256(`stoa.choice.v1` ‖ seed ‖ index), all numbers of 8 bytes, big-endian.
pub fn choice_seed(seed: u64, index: u32) -> u64 {
    if index == 0 {
        return seed;
    }
    let index = u64::from(index).to_be_bytes();
    let [a, b, c, d, e, f, g, h, ..] = keccak256([DOMAIN, &seed.to_be_bytes(), &index].concat()).0;
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

/// Which of `choices` choices of a request with this seed has the seed `found`.
pub fn choice_of_seed(seed: u64, choices: u32, found: u64) -> Option<u32> {
    (0..choices).find(|index| choice_seed(seed, *index) == found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computed by a keccak of another hand.
    #[test]
    fn seeds_of_choices_are_the_golden_ones() {
        let golden = [
            (0, 0, 0x0000000000000000),
            (0, 1, 0x702c446c383fff7b),
            (42, 1, 0x7dd9e3118ad414ac),
            (42, 2, 0xbbe9b1da18dd8a03),
            (42, 7, 0x338e0737f69a245a),
            (u64::MAX, 1, 0x961e0a936cc2582f),
        ];
        for (seed, index, expected) in golden {
            assert_eq!(
                choice_seed(seed, index),
                expected,
                "choice {index} of seed {seed}"
            );
        }
    }

    #[test]
    fn a_choice_is_found_by_its_seed_and_no_stranger_is() {
        for index in 0..8 {
            assert_eq!(choice_of_seed(42, 8, choice_seed(42, index)), Some(index));
        }
        assert_eq!(choice_of_seed(42, 3, choice_seed(42, 3)), None);
        assert_eq!(choice_of_seed(42, 8, choice_seed(43, 1)), None);
    }
}
