//! Sampling parameters as integers: floats never enter a signature (DECISIONS 9).

use crate::TOP_LOGPROBS_MAX;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

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

/// Fixed point with 16 fractional bits, signed.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct SignedQ16(pub i32);

impl SignedQ16 {
    /// Nothing is added or taken away.
    pub const ZERO: Self = Self(0);

    /// Nearest fixed-point value, half to even. `None` when `value` is not finite or its magnitude is above 32,767.
    pub fn from_f64(value: f64) -> Option<Self> {
        if !value.is_finite() || !(-32_767.0..=32_767.0).contains(&value) {
            return None;
        }
        Some(Self((value * 65_536.0).round_ties_even() as i32))
    }

    /// For display only.
    pub fn to_f64(self) -> f64 {
        f64::from(self.0) / 65_536.0
    }

    /// Whether it is zero.
    pub fn is_zero(&self) -> bool {
        self.0 == 0
    }

    /// Whether it lies between `-most` and `most`.
    fn within(self, most: u32) -> bool {
        self.0.unsigned_abs() <= most << 16
    }
}

/// Most entries of a logit bias.
pub const LOGIT_BIAS_ENTRIES_MAX: usize = 300;
/// Greatest magnitude of a token's bias.
pub const LOGIT_BIAS_MAX: u32 = 100;
/// Greatest magnitude of a penalty.
pub const PENALTY_MAX: u32 = 2;
/// Most stop strings; OpenAI takes 4.
pub const STOP_STRINGS_MAX: usize = 16;
/// Longest stop string in bytes.
pub const STOP_BYTES_MAX: usize = 1_024;

/// What decides the tokens besides model and prompt. Its canonical bytes are hashed into ticket and receipt.
///
/// The default chooses greedily and nothing at all: its limit of tokens is 0.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
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
    /// Stop strings, at most [`STOP_STRINGS_MAX`]; the text ends before the first of them.
    pub stop: Vec<String>,
    /// What is added to the logits of single tokens, by id; no entry is zero.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub logit_bias: BTreeMap<u32, SignedQ16>,
    /// Taken off the logit of a token that stands in the answer already.
    #[serde(default, skip_serializing_if = "SignedQ16::is_zero")]
    pub presence_penalty: SignedQ16,
    /// Taken off the logit of a token for each time that it stands in the answer already.
    #[serde(default, skip_serializing_if = "SignedQ16::is_zero")]
    pub frequency_penalty: SignedQ16,
    /// Log-probabilities are told with every token, and those of so many of the likeliest tokens in its place. None are where it is absent.
    /// It changes no token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<u8>,
    /// Name of the rules of the grammar that the answer is held to while it is decoded (0034); empty where there is none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub grammar: String,
}

/// Parameters of these bytes have no field of [`EXTENDED`].
const PLAIN: &[u8] = b"stoa.sampling.v1";
/// The same, then how many further fields are set (a byte) and each of them: its number, the length of its bytes, its bytes; numbers ascend.
const EXTENDED: &[u8] = b"stoa.sampling.v2";

/// Numbers of the further fields.
const LOGIT_BIAS: u8 = 1;
const PRESENCE_PENALTY: u8 = 2;
const FREQUENCY_PENALTY: u8 = 3;
const LOGPROBS: u8 = 4;
const GRAMMAR: u8 = 8;

/// Why parameters are not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParametersError {
    /// More tokens are biased than may be.
    #[error("`logit_bias` names {entries} tokens; at most {LOGIT_BIAS_ENTRIES_MAX} may be named")]
    BiasEntries {
        /// How many.
        entries: usize,
    },
    /// A bias is out of its range, or none.
    #[error(
        "the bias of token {token} must lie between -{LOGIT_BIAS_MAX} and {LOGIT_BIAS_MAX} and not be 0"
    )]
    Bias {
        /// Whose.
        token: u32,
    },
    /// A penalty is out of its range.
    #[error("`{parameter}` must lie between -{PENALTY_MAX} and {PENALTY_MAX}")]
    Penalty {
        /// Which.
        parameter: &'static str,
    },
    /// More alternatives are asked for than are told.
    #[error("`top_logprobs` must be at most {TOP_LOGPROBS_MAX}")]
    Logprobs,
    /// Every token is compared with all of them.
    #[error(
        "`stop` may hold at most {STOP_STRINGS_MAX} strings of 1 to {STOP_BYTES_MAX} bytes each"
    )]
    Stop,
}

impl ParametersError {
    /// Name of the parameter at fault.
    pub fn parameter(&self) -> &'static str {
        match self {
            Self::BiasEntries { .. } | Self::Bias { .. } => "logit_bias",
            Self::Penalty { parameter } => parameter,
            Self::Logprobs => "top_logprobs",
            Self::Stop => "stop",
        }
    }
}

impl SamplingParameters {
    /// Checks the ranges that the types leave open: whoever takes work from others asks this first.
    pub fn check(&self) -> Result<(), ParametersError> {
        let entries = self.logit_bias.len();
        if entries > LOGIT_BIAS_ENTRIES_MAX {
            return Err(ParametersError::BiasEntries { entries });
        }
        for (token, bias) in &self.logit_bias {
            if bias.is_zero() || !bias.within(LOGIT_BIAS_MAX) {
                return Err(ParametersError::Bias { token: *token });
            }
        }
        for (parameter, penalty) in [
            ("presence_penalty", self.presence_penalty),
            ("frequency_penalty", self.frequency_penalty),
        ] {
            if !penalty.within(PENALTY_MAX) {
                return Err(ParametersError::Penalty { parameter });
            }
        }
        if self.logprobs.is_some_and(|top| top > TOP_LOGPROBS_MAX) {
            return Err(ParametersError::Logprobs);
        }
        let fits = |stop: &String| (1..=STOP_BYTES_MAX).contains(&stop.len());
        if self.stop.len() > STOP_STRINGS_MAX || !self.stop.iter().all(fits) {
            return Err(ParametersError::Stop);
        }
        Ok(())
    }

    /// One byte form: version, fixed-width big-endian integers, then each stop string with its length, then the further fields. Where none
    /// of those is set the version and the bytes are those that there were before them.
    pub fn canonical_bytes(&self) -> Vec<u8> {
        let further = self.further_bytes();
        let version = if further.is_empty() { PLAIN } else { EXTENDED };
        let mut bytes = version.to_vec();
        bytes.extend(self.temperature.0.to_be_bytes());
        bytes.extend(self.min_p.0.to_be_bytes());
        bytes.extend(self.seed.to_be_bytes());
        bytes.extend(self.max_output_tokens.to_be_bytes());
        bytes.extend((self.stop.len() as u32).to_be_bytes());
        for stop in &self.stop {
            bytes.extend((stop.len() as u32).to_be_bytes());
            bytes.extend(stop.as_bytes());
        }
        bytes.extend(further);
        bytes
    }

    fn further_bytes(&self) -> Vec<u8> {
        let (mut bytes, mut count) = (vec![0], 0);
        let mut field = |number: u8, body: &[u8]| {
            count += 1;
            bytes.push(number);
            bytes.extend((body.len() as u32).to_be_bytes());
            bytes.extend(body);
        };
        if !self.logit_bias.is_empty() {
            let entry =
                |(id, bias): (&u32, &SignedQ16)| [id.to_be_bytes(), bias.0.to_be_bytes()].concat();
            let entries: Vec<u8> = self.logit_bias.iter().flat_map(entry).collect();
            field(LOGIT_BIAS, &entries);
        }
        for (number, penalty) in [
            (PRESENCE_PENALTY, self.presence_penalty),
            (FREQUENCY_PENALTY, self.frequency_penalty),
        ] {
            if !penalty.is_zero() {
                field(number, &penalty.0.to_be_bytes());
            }
        }
        if let Some(top) = self.logprobs {
            field(LOGPROBS, &[top]);
        }
        if !self.grammar.is_empty() {
            field(GRAMMAR, self.grammar.as_bytes());
        }
        if count == 0 {
            return Vec::new();
        }
        bytes[0] = count;
        bytes
    }

    /// The inverse of [`Self::canonical_bytes`]; `None` for any other bytes.
    pub fn from_canonical_bytes(bytes: &[u8]) -> Option<Self> {
        let rest = bytes
            .strip_prefix(PLAIN)
            .or_else(|| bytes.strip_prefix(EXTENDED))?;
        let (temperature, rest) = rest.split_first_chunk()?;
        let (min_p, rest) = rest.split_first_chunk()?;
        let (seed, rest) = rest.split_first_chunk()?;
        let (max_output_tokens, rest) = rest.split_first_chunk()?;
        let (count, mut rest) = rest.split_first_chunk()?;
        let mut stop = Vec::new();
        for _ in 0..u32::from_be_bytes(*count) {
            let (text, after) = pull(rest)?;
            stop.push(String::from_utf8(text.to_vec()).ok()?);
            rest = after;
        }
        let mut parameters = Self {
            temperature: Q16(u32::from_be_bytes(*temperature)),
            min_p: Q16(u32::from_be_bytes(*min_p)),
            seed: u64::from_be_bytes(*seed),
            max_output_tokens: u32::from_be_bytes(*max_output_tokens),
            stop,
            ..Self::default()
        };
        if let Some((_count, after)) = rest.split_first() {
            rest = after;
        }
        while let Some((number, after)) = rest.split_first() {
            let (body, after) = pull(after)?;
            parameters.set_further(*number, body)?;
            rest = after;
        }
        // One value has one form: whatever else reads as it (fields twice, out of order, of no effect, the other version) is none.
        (parameters.canonical_bytes() == bytes).then_some(parameters)
    }

    fn set_further(&mut self, number: u8, body: &[u8]) -> Option<()> {
        let signed = |body: &[u8]| Some(SignedQ16(i32::from_be_bytes(body.try_into().ok()?)));
        match number {
            LOGIT_BIAS => {
                let (entries, []) = body.as_chunks::<8>() else {
                    return None;
                };
                for [a, b, c, d, bias @ ..] in entries {
                    let id = u32::from_be_bytes([*a, *b, *c, *d]);
                    self.logit_bias.insert(id, signed(bias)?);
                }
            }
            PRESENCE_PENALTY => self.presence_penalty = signed(body)?,
            FREQUENCY_PENALTY => self.frequency_penalty = signed(body)?,
            LOGPROBS => {
                let [top] = body else {
                    return None;
                };
                self.logprobs = Some(*top);
            }
            GRAMMAR => self.grammar = String::from_utf8(body.to_vec()).ok()?,
            _ => return None,
        }
        Some(())
    }
}

/// A part with its length before it, and what follows.
fn pull(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)
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
            ..SamplingParameters::default()
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
            stop: stop.iter().map(|s| (*s).to_owned()).collect(),
            ..SamplingParameters::default()
        };
        assert_ne!(
            with(&["ab", "c"]).canonical_bytes(),
            with(&["a", "bc"]).canonical_bytes()
        );
    }

    fn extended() -> SamplingParameters {
        SamplingParameters {
            stop: vec!["x".to_owned()],
            logit_bias: BTreeMap::from([(7, SignedQ16(-1)), (9, SignedQ16(100 << 16))]),
            presence_penalty: SignedQ16(2 << 16),
            frequency_penalty: SignedQ16(-(2 << 16)),
            ..SamplingParameters::default()
        }
    }

    #[test]
    fn parameters_without_further_fields_have_the_bytes_and_the_text_that_they_had_before() {
        let plain = SamplingParameters {
            stop: vec!["x".to_owned()],
            ..SamplingParameters::default()
        };
        let bytes = plain.canonical_bytes();
        assert_eq!(&bytes[..16], b"stoa.sampling.v1");
        assert_eq!(bytes.len(), 16 + 24 + 5);
        assert_eq!(
            serde_json::to_string(&plain).expect("writes"),
            r#"{"temperature":0,"min_p":0,"seed":0,"max_output_tokens":0,"stop":["x"]}"#
        );
    }

    #[test]
    fn further_fields_have_one_byte_form() {
        let read = SamplingParameters::from_canonical_bytes;
        let parameters = extended();
        let bytes = parameters.canonical_bytes();
        assert_eq!(&bytes[..16], b"stoa.sampling.v2");
        assert_eq!(read(&bytes), Some(parameters.clone()));
        assert!((0..bytes.len()).all(|length| read(&bytes[..length]).is_none()));
        let (head, further) = bytes.split_at(16 + 24 + 5);
        let (count, further) = further.split_at(1);
        assert_eq!(count, [3]);
        let (bias, penalties) = further.split_at(5 + 16);
        let (presence, frequency) = penalties.split_at(5 + 4);
        let other = |parts: &[&[u8]]| {
            let count = [parts.len() as u8];
            read(&[&[head, &count], parts].concat().concat())
        };
        assert_eq!(other(&[bias, presence, frequency]), Some(parameters));
        assert_eq!(other(&[bias, frequency, presence]), None, "out of order");
        assert_eq!(other(&[bias, bias, presence]), None, "twice");
        assert_eq!(other(&[&[9, 0, 0, 0, 0]]), None, "of an unknown number");
        assert_eq!(other(&[&[1, 0, 0, 0, 0]]), None, "a bias of nothing");
        assert_eq!(other(&[&[2, 0, 0, 0, 4, 0, 0, 0, 0]]), None, "no penalty");
        assert_eq!(other(&[&[2, 0, 0, 0, 3, 0, 0, 1]]), None, "too short");
        assert_eq!(other(&[]), None, "nothing set");
        let miscounted = [head, &[2], bias, presence, frequency].concat();
        assert_eq!(read(&miscounted), None);
        let swapped = [&bias[..5], &bias[13..], &bias[5..13]].concat();
        assert_eq!(other(&[&swapped]), None, "ids that fall");
        let same = [&bias[..5], &bias[5..13], &bias[5..13]].concat();
        assert_eq!(other(&[&same]), None, "an id twice");
        let downgraded = [PLAIN, &bytes[16..]].concat();
        assert_eq!(read(&downgraded), None);
    }

    #[test]
    fn asking_for_log_probabilities_is_part_of_the_bytes_also_where_no_alternative_is_asked_for() {
        let with = |logprobs| SamplingParameters {
            logprobs,
            ..SamplingParameters::default()
        };
        let all = [None, Some(0), Some(20), Some(255)].map(with);
        for parameters in &all {
            let bytes = parameters.canonical_bytes();
            let read = SamplingParameters::from_canonical_bytes(&bytes);
            assert_eq!(read.as_ref(), Some(parameters));
        }
        assert_ne!(all[0].canonical_bytes(), all[1].canonical_bytes());
    }

    #[test]
    fn the_rules_of_a_grammar_are_part_of_the_bytes() {
        let with = |grammar: &str| SamplingParameters {
            grammar: grammar.to_owned(),
            ..extended()
        };
        for grammar in ["", "stoa.grammar.v0", "é"] {
            let bytes = with(grammar).canonical_bytes();
            let read = SamplingParameters::from_canonical_bytes(&bytes);
            assert_eq!(read, Some(with(grammar)));
        }
        assert_eq!(with("").canonical_bytes(), extended().canonical_bytes());
        assert_ne!(with("a").canonical_bytes(), with("b").canonical_bytes());
    }

    #[test]
    fn values_out_of_range_are_named() {
        assert_eq!(extended().check(), Ok(()));
        assert_eq!(SamplingParameters::default().check(), Ok(()));
        let with = |change: fn(&mut SamplingParameters)| {
            let mut parameters = extended();
            change(&mut parameters);
            parameters.check().map_err(|e| e.parameter())
        };
        for bias in [0, i32::MIN, i32::MAX, (100 << 16) + 1, -(100 << 16) - 1] {
            let mut parameters = extended();
            parameters.logit_bias.insert(8, SignedQ16(bias));
            assert_eq!(parameters.check(), Err(ParametersError::Bias { token: 8 }));
        }
        let presence = with(|p| p.presence_penalty = SignedQ16((2 << 16) + 1));
        assert_eq!(presence, Err("presence_penalty"));
        let frequency = with(|p| p.frequency_penalty = SignedQ16(i32::MIN));
        assert_eq!(frequency, Err("frequency_penalty"));
        assert_eq!(with(|p| p.logprobs = Some(20)), Ok(()));
        assert_eq!(with(|p| p.logprobs = Some(21)), Err("top_logprobs"));
        let many = with(|p| p.logit_bias = (0..301).map(|id| (id, SignedQ16(1))).collect());
        assert_eq!(many, Err("logit_bias"));
        let most = with(|p| p.logit_bias = (0..300).map(|id| (id, SignedQ16(1))).collect());
        assert_eq!(most, Ok(()));
        let stops = |count, bytes| {
            let mut parameters = extended();
            parameters.stop = vec!["x".repeat(bytes); count];
            parameters.check().map_err(|e| e.parameter())
        };
        assert_eq!(stops(STOP_STRINGS_MAX, STOP_BYTES_MAX), Ok(()));
        for (count, bytes) in [(17, 1), (1, 1_025), (1, 0)] {
            assert_eq!(stops(count, bytes), Err("stop"));
        }
    }

    #[test]
    fn signed_fixed_point_rounds_half_to_even_and_refuses_nonsense() {
        assert_eq!(SignedQ16::from_f64(-1.0), Some(SignedQ16(-65_536)));
        assert_eq!(SignedQ16::from_f64(-0.5 / 65_536.0), Some(SignedQ16(0)));
        assert_eq!(SignedQ16::from_f64(-1.5 / 65_536.0), Some(SignedQ16(-2)));
        for bad in [f64::NAN, f64::NEG_INFINITY, 32_768.0, -1e300] {
            assert_eq!(SignedQ16::from_f64(bad), None);
        }
    }
}
