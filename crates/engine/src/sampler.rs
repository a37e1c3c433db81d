//! Choosing a token: integer Gumbel-max. The choice is the argmax of `logit + temperature * noise(seed, position, id)`, so one
//! token with a higher value disproves a wrong choice.

use crate::constraint::TokenSet;
use crate::fixed;
use crate::tables::Tables;
use std::collections::BTreeMap;
use stoa_types::SamplingParameters;

/// Marks this use of Philox, so that no other use shares its numbers ("IQ8G").
const DOMAIN: u32 = 0x4951_3847;

/// Philox4x32-10: four random words for a counter and a key.
pub fn philox4x32(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let a = u64::from(counter[0]) * 0xd251_1f53;
        let b = u64::from(counter[2]) * 0xcd9e_8d57;
        counter = [
            (b >> 32) as u32 ^ counter[1] ^ key[0],
            b as u32,
            (a >> 32) as u32 ^ counter[3] ^ key[1],
            a as u32,
        ];
        key[0] = key[0].wrapping_add(0x9e37_79b9);
        key[1] = key[1].wrapping_add(0xbb67_ae85);
    }
    counter
}

/// Noise of one token: standard Gumbel with 16 fraction bits.
pub fn noise(seed: u64, position: u32, id: u32) -> i32 {
    let words = philox4x32(
        [id / 4, position, DOMAIN, 0],
        [seed as u32, (seed >> 32) as u32],
    );
    Tables::get().gumbel_noise(words[id as usize % 4])
}

/// The value whose argmax is the choice: 32 fraction bits, below `2^55` in magnitude.
pub fn score(logit: i32, temperature: u32, noise: i32) -> i64 {
    (i64::from(logit) << 16) + i64::from(temperature) * i64::from(noise)
}

/// Lowest logit that min-p leaves: `p >= min_p * p_max` at this temperature, as `logit >= max + temperature * ln(min_p)`.
pub(crate) fn lowest_logit(highest: i32, temperature: u32, min_p: u32) -> i64 {
    if min_p == 0 {
        return i64::MIN;
    }
    let ln_q16 = fixed::round_div(
        fixed::ln(u128::from(min_p.min(1 << 16)), 16),
        1 << (fixed::FINE - 16),
    );
    let distance = fixed::round_shift(i64::from(temperature) * ln_q16 as i64, 16);
    i64::from(highest) + distance
}

/// Whether [`adjust`] can change a logit.
pub fn adjusts(parameters: &SamplingParameters) -> bool {
    !parameters.logit_bias.is_empty() || penalises(parameters)
}

/// Whether what stands in the answer lowers or raises logits.
pub fn penalises(parameters: &SamplingParameters) -> bool {
    !parameters.presence_penalty.is_zero() || !parameters.frequency_penalty.is_zero()
}

/// Makes of the model's logits those that the choice is made from: bias and penalties, as one exact sum that saturates once. `counts` says
/// how often each token stands in the answer. Ids beyond the vocabulary have no logit and no effect.
pub fn adjust(logits: &mut [i32], parameters: &SamplingParameters, counts: &BTreeMap<u32, u32>) {
    let presence = i64::from(parameters.presence_penalty.0);
    let frequency = i64::from(parameters.frequency_penalty.0);
    let biases = &parameters.logit_bias;
    let repeated = counts.keys().filter(|id| !biases.contains_key(id));
    for id in biases.keys().chain(repeated) {
        let Some(logit) = logits.get_mut(*id as usize) else {
            continue;
        };
        let bias = biases.get(id).map_or(0, |bias| i64::from(bias.0));
        let count = counts.get(id).map_or(0, |count| i64::from(*count));
        let penalty = presence * count.min(1) + frequency * count;
        *logit = fixed::saturate(i64::from(*logit) + bias - penalty);
    }
}

/// Chooses the token at `position` (its index in prompt and answer together). Among equals the lowest id wins.
///
/// # Panics
/// On an empty `logits`.
pub fn sample(logits: &[i32], parameters: &SamplingParameters, position: u32) -> u32 {
    choose_among(logits, 0..logits.len() as u32, parameters, position)
        .expect("a vocabulary has at least one token")
}

/// The same as if the vocabulary had only the tokens of `allowed`; `None` if it has none of them.
pub fn sample_within(
    logits: &[i32],
    allowed: &TokenSet,
    parameters: &SamplingParameters,
    position: u32,
) -> Option<u32> {
    choose_among(logits, allowed.ids(logits.len()), parameters, position)
}

/// Chooses one of `ids`, which ascend.
fn choose_among(
    logits: &[i32],
    ids: impl Iterator<Item = u32> + Clone,
    parameters: &SamplingParameters,
    position: u32,
) -> Option<u32> {
    let best = greedy_among(logits, ids.clone())?;
    let temperature = parameters.temperature.0;
    if temperature == 0 {
        return Some(best);
    }
    let highest = logits[best as usize];
    let floor = lowest_logit(highest, temperature, parameters.min_p.0);
    let value = |id: u32| {
        score(
            logits[id as usize],
            temperature,
            noise(parameters.seed, position, id),
        )
    };
    let largest_noise = Tables::get().gumbel[GREATEST];
    let (mut chosen, mut top) = (best, value(best));
    for id in ids {
        let logit = logits[id as usize];
        // Most tokens cannot win with any noise: their noise need not be computed.
        if i64::from(logit) < floor || score(logit, temperature, largest_noise) < top {
            continue;
        }
        let v = value(id);
        if v > top || (v == top && id < chosen) {
            (chosen, top) = (id, v);
        }
    }
    Some(chosen)
}

/// Index of the table's greatest entry: the start of the last octave of the upper tail.
const GREATEST: usize = (crate::tables::GUMBEL_OCTAVES - 1) * (crate::tables::GUMBEL_STEPS + 1);

/// The token with the highest logit, the lowest id among equals.
///
/// # Panics
/// On an empty `logits`.
pub fn greedy(logits: &[i32]) -> u32 {
    greedy_among(logits, 0..logits.len() as u32).expect("a vocabulary has at least one token")
}

/// The one of `ids`, which ascend, with the highest logit.
fn greedy_among(logits: &[i32], mut ids: impl Iterator<Item = u32>) -> Option<u32> {
    let mut best = ids.next()?;
    for id in ids {
        if logits[id as usize] > logits[best as usize] {
            best = id;
        }
    }
    Some(best)
}

#[cfg(test)]
mod tests {
    use super::*;
    use stoa_types::{Q16, SignedQ16};

    fn parameters(temperature: f64, min_p: f64, seed: u64) -> SamplingParameters {
        SamplingParameters {
            temperature: Q16::from_f64(temperature).expect("in range"),
            min_p: Q16::from_f64(min_p).expect("in range"),
            seed,
            max_output_tokens: 1,
            stop: vec![],
            ..SamplingParameters::default()
        }
    }

    #[test]
    fn philox_agrees_with_its_published_vectors() {
        assert_eq!(
            philox4x32([0; 4], [0; 2]),
            [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]
        );
        assert_eq!(
            philox4x32([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox4x32(
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0]
            ),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn greedy_takes_the_lowest_id_among_equals() {
        assert_eq!(sample(&[1, 7, 7, 3], &parameters(0.0, 0.0, 9), 5), 1);
    }

    #[test]
    fn skipping_hopeless_tokens_changes_nothing() {
        let logits: Vec<i32> = (0..300i32).map(|i| (i * 7919 % 1000 - 500) * 900).collect();
        for seed in 0..300 {
            let p = parameters(0.9, 0.0, seed);
            let value = |id: u32| score(logits[id as usize], p.temperature.0, noise(seed, 3, id));
            let full = (0..300u32).max_by_key(|id| (value(*id), std::cmp::Reverse(*id)));
            assert_eq!(Some(sample(&logits, &p, 3)), full);
        }
    }

    #[test]
    fn frequencies_follow_the_softmax() {
        let logits = [2 << 16, 1 << 16, 0, -(1 << 16)];
        let (temperature, n) = (0.7, 40_000);
        let mut counts = [0u32; 4];
        for position in 0..n {
            counts[sample(&logits, &parameters(temperature, 0.0, 42), position) as usize] += 1;
        }
        let weights: Vec<f64> = [2.0f64, 1.0, 0.0, -1.0]
            .iter()
            .map(|l| (l / temperature).exp())
            .collect();
        let sum: f64 = weights.iter().sum();
        for (count, weight) in counts.iter().zip(weights) {
            let (got, expected) = (f64::from(*count) / f64::from(n), weight / sum);
            let sigma = (expected * (1.0 - expected) / f64::from(n)).sqrt();
            assert!((got - expected).abs() < 4.5 * sigma, "{got} {expected}");
        }
    }

    #[test]
    fn bias_and_penalties_are_one_sum_that_saturates_once() {
        let mut p = parameters(0.0, 0.0, 0);
        p.logit_bias = [(1, 500), (2, i32::MAX), (3, i32::MIN), (4_000_000_000, 5)]
            .map(|(id, bias)| (id, SignedQ16(bias)))
            .into();
        p.presence_penalty = SignedQ16(1000);
        p.frequency_penalty = SignedQ16(-10);
        let counts = [(0, 3), (1, 1), (4, u32::MAX), (9, 1)].into();
        let mut logits = [7, 7, 7, -7, 7];
        adjust(&mut logits, &p, &counts);
        assert_eq!(
            logits,
            [7 - 970, 7 + 500 - 990, i32::MAX, i32::MIN, i32::MAX]
        );
        // The penalty that a bias outweighs is not lost in between.
        p.frequency_penalty = SignedQ16(i32::MIN);
        p.presence_penalty = SignedQ16(i32::MAX);
        let mut logits = [0, 0, 0, i32::MAX];
        adjust(&mut logits, &p, &[(3, 1)].into());
        assert_eq!(logits, [0, 500, i32::MAX, 0]);
    }

    #[test]
    fn a_forbidden_token_is_as_if_the_vocabulary_had_it_not() {
        let logits: Vec<i32> = (0..200)
            .map(|i: i32| (i * 7919 % 65_537) - 30_000)
            .collect();
        for (seed, temperature) in [(1, 0.0), (2, 0.5), (3, 2.0)] {
            for min_p in [0.0, 0.3] {
                let parameters = parameters(temperature, min_p, seed);
                for step in 2..9 {
                    let mut allowed = TokenSet::none(logits.len());
                    (0..logits.len() as u32)
                        .step_by(step)
                        .for_each(|id| allowed.insert(id));
                    // Beyond the logits there is nothing to choose.
                    allowed.insert(logits.len() as u32 + 5);
                    let lowered: Vec<i32> = (0u32..)
                        .zip(&logits)
                        .map(|(id, logit)| match allowed.contains(id) {
                            true => *logit,
                            false => i32::MIN,
                        })
                        .collect();
                    let position = step as u32;
                    assert_eq!(
                        sample_within(&logits, &allowed, &parameters, position),
                        Some(sample(&lowered, &parameters, position))
                    );
                }
                let all = TokenSet::all(logits.len());
                assert_eq!(
                    sample_within(&logits, &all, &parameters, 9),
                    Some(sample(&logits, &parameters, 9))
                );
                let none = TokenSet::none(logits.len());
                assert_eq!(sample_within(&logits, &none, &parameters, 9), None);
            }
        }
    }

    #[test]
    fn min_p_removes_the_tail_and_nothing_else() {
        // p relative to the best: 1, 0.5, 0.25 at temperature 1.
        let ln2 = 45_426;
        let logits = [0, -ln2, -2 * ln2];
        let drawn = |min_p: f64| {
            let mut seen = [false; 3];
            for seed in 0..200 {
                seen[sample(&logits, &parameters(1.0, min_p, seed), 0) as usize] = true;
            }
            seen
        };
        assert_eq!(drawn(0.0), [true, true, true]);
        assert_eq!(drawn(0.3), [true, true, false]);
        assert_eq!(drawn(0.6), [true, false, false]);
        assert_eq!(drawn(0.5), [true, true, false], "the limit itself is kept");
        // Above one it counts as one: what is as likely as the best stays.
        let equal = |seed| sample(&[5, 5, 4], &parameters(1.0, 1.5, seed), 0);
        let seen: std::collections::BTreeSet<u32> = (0..50).map(equal).collect();
        assert_eq!(seen, [0, 1].into());
    }

    #[test]
    fn among_equal_scores_the_lowest_id_wins_wherever_the_best_logit_stands() {
        for seed in 0..50 {
            // At temperature 1 a logit of minus its noise makes every score the same.
            let logits: Vec<i32> = (0..40).map(|id| -noise(seed, 9, id)).collect();
            assert_eq!(sample(&logits, &parameters(1.0, 0.0, seed), 9), 0);
        }
    }
}
