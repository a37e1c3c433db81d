//! Sampling parameters as integers: floats never enter a signature (DECISIONS 9).

use serde::{Deserialize, Serialize};

/// Fixed point with 16 fractional bits, unsigned.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Q16(pub u32);

impl Q16 {
    /// One.
    pub const ONE: Self = Self(1 << 16);

    /// Nearest fixed-point value, half to even. `None` when `value` is negative, not finite, or above 65,535.
    pub fn from_f64(value: f64) -> Option<Self> {
        if !value.is_finite() || !(0.0..=65_535.0).contains(&value) {
            return None;
        }
        // Scaling by a power of two is exact; only the rounding can lose something.
        let scaled = value * 65_536.0;
        Some(Self(scaled.round_ties_even() as u32))
    }

    /// For display only.
    pub fn to_f64(self) -> f64 {
        f64::from(self.0) / 65_536.0
    }
}

/// What decides the tokens besides model and prompt. Its canonical bytes are hashed into ticket and receipt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SamplingParameters {
    /// 0 is greedy: the highest logit, the lowest id among equals.
    pub temperature: Q16,
    /// Tokens below this share of the best token's probability are never drawn.
    pub min_p: Q16,
    /// Seed of the noise. The router draws one when the client sends none.
    pub seed: u64,
    /// Most tokens to generate; 0 gives an empty answer.
    pub max_output_tokens: u32,
    /// Stop strings, at most 16; the text ends before the first of them.
    pub stop: Vec<String>,
}

impl SamplingParameters {
    /// One byte form: version, fixed-width big-endian integers, then each stop string with its length.
    pub fn canonical_bytes(&self) -> Vec<u8> {
        let mut bytes = b"stoa.sampling.v1".to_vec();
        bytes.extend(self.temperature.0.to_be_bytes());
        bytes.extend(self.min_p.0.to_be_bytes());
        bytes.extend(self.seed.to_be_bytes());
        bytes.extend(self.max_output_tokens.to_be_bytes());
        bytes.extend((self.stop.len() as u32).to_be_bytes());
        for stop in &self.stop {
            bytes.extend((stop.len() as u32).to_be_bytes());
            bytes.extend(stop.as_bytes());
        }
        bytes
    }

    /// The inverse of [`Self::canonical_bytes`]; `None` for any other bytes.
    pub fn from_canonical_bytes(bytes: &[u8]) -> Option<Self> {
        let rest = bytes.strip_prefix(b"stoa.sampling.v1")?;
        let (temperature, rest) = rest.split_first_chunk()?;
        let (min_p, rest) = rest.split_first_chunk()?;
        let (seed, rest) = rest.split_first_chunk()?;
        let (max_output_tokens, rest) = rest.split_first_chunk()?;
        let (count, mut rest) = rest.split_first_chunk()?;
        let mut stop = Vec::new();
        for _ in 0..u32::from_be_bytes(*count) {
            let (length, after) = rest.split_first_chunk()?;
            let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
            let (text, after) = after.split_at_checked(length)?;
            stop.push(String::from_utf8(text.to_vec()).ok()?);
            rest = after;
        }
        rest.is_empty().then_some(Self {
            temperature: Q16(u32::from_be_bytes(*temperature)),
            min_p: Q16(u32::from_be_bytes(*min_p)),
            seed: u64::from_be_bytes(*seed),
            max_output_tokens: u32::from_be_bytes(*max_output_tokens),
            stop,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fixed_point_rounds_half_to_even_and_refuses_nonsense() {
        assert_eq!(Q16::from_f64(1.0), Some(Q16::ONE));
        assert_eq!(Q16::from_f64(0.5 / 65_536.0), Some(Q16(0)));
        assert_eq!(Q16::from_f64(1.5 / 65_536.0), Some(Q16(2)));
        for bad in [-0.1, f64::NAN, f64::INFINITY, 70_000.0] {
            assert_eq!(Q16::from_f64(bad), None);
        }
    }

    #[test]
    fn canonical_bytes_are_read_back_and_no_others_are() {
        let parameters = SamplingParameters {
            temperature: Q16(1),
            min_p: Q16(2),
            seed: u64::MAX,
            max_output_tokens: 7,
            stop: vec!["é".to_owned(), String::new()],
        };
        let bytes = parameters.canonical_bytes();
        let read = SamplingParameters::from_canonical_bytes;
        assert_eq!(read(&bytes), Some(parameters));
        assert!((0..bytes.len()).all(|length| read(&bytes[..length]).is_none()));
        assert_eq!(read(&[bytes.as_slice(), &[0]].concat()), None);
    }

    #[test]
    fn stop_strings_cannot_be_shifted_into_each_other() {
        let with = |stop: &[&str]| SamplingParameters {
            temperature: Q16(0),
            min_p: Q16(0),
            seed: 0,
            max_output_tokens: 1,
            stop: stop.iter().map(|s| (*s).to_owned()).collect(),
        };
        assert_ne!(
            with(&["ab", "c"]).canonical_bytes(),
            with(&["a", "bc"]).canonical_bytes()
        );
    }
}
