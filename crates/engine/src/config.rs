//! What a model consists of: its shape, the table of what its architecture has, and the rotary frequencies that follow from both.

use crate::error::ImportError;
use crate::fixed::{self, FINE};
use crate::import::exact::Exact;
use crate::kernel::MAX_BLOCKS;
use crate::ops;
use crate::quant::BLOCK;
use serde::{Deserialize, Serialize};

/// Dimensions and constants of a model. All of it stands in the model root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Tokens of the vocabulary.
    pub vocab: usize,
    /// Width of the residual stream.
    pub width: usize,
    /// Transformer layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_width: usize,
    /// Width of the feed-forward network.
    pub ffn: usize,
    /// Most positions.
    pub context: usize,
    /// Epsilon of the norms with 32 fraction bits.
    pub epsilon_q32: u64,
    /// Turns per position of each rotary pair, with 64 fraction bits. None where positions have vectors of their own.
    pub rotary: Vec<u64>,
    /// What queries and keys are multiplied by when they turn, 16 fraction bits.
    pub rotary_gain_q16: u64,
    /// What else the architecture has.
    pub architecture: Architecture,
}

/// The table of what an architecture has beyond what all have. The forward pass reads it, and no name of an architecture; importers fill
/// it. The default is Llama's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Architecture {
    /// Query, key and value have biases.
    pub biases: bool,
    /// Every query and key head passes an RMSNorm before it turns.
    pub head_norm: bool,
    /// Positions that each layer's attention sees, its own included; 0 sees all. Empty: all layers see all.
    pub windows: Vec<u64>,
    /// A mixture of experts in place of the feed-forward network.
    pub experts: Option<Experts>,
    /// The model reads texts and writes none.
    pub encoder: Option<Encoder>,
}

/// A mixture of experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Experts {
    /// Experts of a layer.
    pub count: usize,
    /// Experts that a token passes.
    pub chosen: usize,
    /// Feed-forward width of an expert.
    pub width: usize,
    /// Feed-forward width of the expert that every token passes, 0 when there is none.
    pub shared: usize,
    /// The weights of the chosen experts sum to one, rather than those of all.
    pub renormalise: bool,
}

/// An encoder as BERT has it: vectors of positions and token types beside those of tokens, attention to the whole text, LayerNorm after
/// each part, biases on every matrix, GELU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Encoder {
    /// Token types; texts are of type 0.
    pub token_types: usize,
    /// How the states of a text become its vector.
    pub pooling: Pooling,
}

/// How the states of a text become its vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Pooling {
    /// The mean of all states.
    Mean,
    /// The state of the first token.
    First,
}

impl Pooling {
    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mean => "mean of all states",
            Self::First => "state of the first token",
        }
    }
}

/// One, with 16 fraction bits.
pub const ONE_Q16: u64 = 1 << 16;
/// Largest gain of a rotation: queries keep within their overflow bound.
pub(crate) const MAX_GAIN_Q16: u64 = 2 * ONE_Q16;
/// Most experts of a layer, and most that a token passes.
pub(crate) const MAX_EXPERTS: usize = 1 << 10;
const MAX_CHOSEN: usize = 1 << 6;
/// Most token types of an encoder.
const MAX_TOKEN_TYPES: usize = 1 << 8;

/// Most tokens of a vocabulary.
pub(crate) const MAX_VOCABULARY: usize = 1 << 22;

/// Largest values the overflow bounds are stated for.
const LIMITS: [(&str, usize); 6] = [
    ("vocabulary", MAX_VOCABULARY),
    ("width", 1 << 16),
    ("layers", 1 << 10),
    ("head width", 1 << 9),
    ("feed-forward width", MAX_BLOCKS * BLOCK),
    ("context", 1 << 20),
];

impl Config {
    /// Refuses shapes that the semantics does not cover.
    pub fn check(&self) -> Result<(), ImportError> {
        let sizes = [
            self.vocab,
            self.width,
            self.layers,
            self.head_width,
            self.ffn,
            self.context,
        ];
        for ((name, limit), size) in LIMITS.into_iter().zip(sizes) {
            if size == 0 || size > limit {
                let reason = format!("{size} is outside 1 to {limit}");
                return Err(ImportError::metadata(name, reason));
            }
        }
        for (name, size) in [
            ("width", self.width),
            ("head width", self.head_width),
            ("feed-forward width", self.ffn),
        ] {
            if size % BLOCK != 0 {
                let reason = format!("{size} is not a multiple of {BLOCK}");
                return Err(ImportError::metadata(name, reason));
            }
        }
        let grouped = self.kv_heads > 0 && self.heads.is_multiple_of(self.kv_heads);
        if !grouped || self.heads == 0 || self.heads > 1 << 10 {
            let reason = format!(
                "{} query heads cannot share {} key heads",
                self.heads, self.kv_heads
            );
            return Err(ImportError::metadata("heads", reason));
        }
        if self.query_width() > MAX_BLOCKS * BLOCK {
            return Err(ImportError::metadata(
                "heads",
                "the heads together are too wide",
            ));
        }
        self.check_architecture()
    }

    fn check_architecture(&self) -> Result<(), ImportError> {
        let a = &self.architecture;
        let bad = |name: &str, reason: String| Err(ImportError::metadata(name, reason));
        if self.rotary_gain_q16 == 0 || self.rotary_gain_q16 > MAX_GAIN_Q16 {
            return bad(
                "rotary scaling",
                "its attention factor is outside 0 to 2".to_owned(),
            );
        }
        let pairs = match a.encoder {
            Some(_) => 0,
            None => self.head_width / 2,
        };
        if self.rotary.len() != pairs {
            let reason = format!("{} frequencies for {pairs} pairs", self.rotary.len());
            return bad("rotary", reason);
        }
        if a.encoder.is_some() && (a.experts.is_some() || a.head_norm || !a.windows.is_empty()) {
            let reason = "has no experts, no norms of heads and no windows here";
            return bad("encoder", reason.to_owned());
        }
        if !a.windows.is_empty() && a.windows.len() != self.layers {
            let reason = format!("{} for {} layers", a.windows.len(), self.layers);
            return bad("attention windows", reason);
        }
        if let Some(e) = a.experts {
            if e.count == 0 || e.count > MAX_EXPERTS || e.chosen == 0 {
                return bad("experts", format!("{} of {}", e.chosen, e.count));
            }
            if e.chosen > e.count.min(MAX_CHOSEN) {
                let reason = format!("{} of {} cannot be chosen", e.chosen, e.count);
                return bad("experts", reason);
            }
            for width in [e.width, e.shared] {
                let fits = width.is_multiple_of(BLOCK) && width <= MAX_BLOCKS * BLOCK;
                if !fits || e.width == 0 {
                    let reason =
                        format!("a width of {width} is not a multiple of {BLOCK} within bounds");
                    return bad("experts", reason);
                }
            }
        }
        let token_types = a.encoder.map_or(1, |e| e.token_types);
        if token_types == 0 || token_types > MAX_TOKEN_TYPES {
            let reason = format!("{token_types} is outside 1 to {MAX_TOKEN_TYPES}");
            return bad("token types", reason);
        }
        Ok(())
    }

    /// What a query is multiplied by, so that scores come in powers of two, 30 fraction bits: the rotation's gain counts twice, for query
    /// and key.
    pub(crate) fn query_factor(&self) -> i64 {
        let gain = self.rotary_gain_q16 as i64;
        // Below 2^28.1 times 2^34.
        fixed::round_shift(ops::query_factor(self.head_width) * (gain * gain), 32)
    }

    /// Width of the widest feed-forward network.
    pub(crate) fn widest_ffn(&self) -> usize {
        match self.architecture.experts {
            None => self.ffn,
            Some(experts) => experts.width.max(experts.shared),
        }
    }

    /// This shape with the vocabulary that a tokenizer of `tokens` has. Rows beyond it are padding: they have no text and are never
    /// chosen.
    pub(crate) fn with_tokens(&self, tokens: usize) -> Result<Self, ImportError> {
        if tokens == 0 {
            return Err(ImportError::Tokenizer("it has no tokens".to_owned()));
        }
        Ok(Self {
            vocab: self.vocab.min(tokens),
            ..self.clone()
        })
    }

    /// Positions that a layer's attention sees before and at its own; `usize::MAX` for all.
    pub fn window(&self, layer: usize) -> usize {
        match self.architecture.windows.get(layer) {
            None | Some(0) => usize::MAX,
            Some(window) => usize::try_from(*window).unwrap_or(usize::MAX),
        }
    }

    /// Width of all query heads together.
    pub fn query_width(&self) -> usize {
        self.heads * self.head_width
    }

    /// Width of all key heads together.
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_width
    }

    /// What the model root hashes: named lists of numbers. Each is its name, a zero byte, the number of values (4 bytes) and the values
    /// (8 bytes each), big-endian. Lists of what an architecture lacks are left out.
    pub fn canonical_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut field = |name: &str, values: &[u64]| {
            bytes.extend(name.as_bytes());
            bytes.push(0);
            bytes.extend((values.len() as u32).to_be_bytes());
            bytes.extend(values.iter().flat_map(|v| v.to_be_bytes()));
        };
        for (name, value) in [
            ("vocabulary", self.vocab),
            ("width", self.width),
            ("layers", self.layers),
            ("heads", self.heads),
            ("key-heads", self.kv_heads),
            ("head-width", self.head_width),
            ("ffn-width", self.ffn),
            ("context", self.context),
        ] {
            field(name, &[value as u64]);
        }
        field("epsilon", &[self.epsilon_q32]);
        field("rotary", &self.rotary);
        if self.rotary_gain_q16 != ONE_Q16 {
            field("rotary-gain", &[self.rotary_gain_q16]);
        }
        let a = &self.architecture;
        if a.biases {
            field("biases", &[1]);
        }
        if a.head_norm {
            field("head-norm", &[1]);
        }
        if a.windows.iter().any(|w| *w != 0) {
            field("windows", &a.windows);
        }
        if let Some(e) = a.experts {
            let sizes = [e.count, e.chosen, e.width, e.shared].map(|n| n as u64);
            field("experts", &sizes);
            field("experts-renormalised", &[u64::from(e.renormalise)]);
        }
        if let Some(e) = a.encoder {
            let pooling = match e.pooling {
                Pooling::Mean => 1,
                Pooling::First => 2,
            };
            field("encoder", &[e.token_types as u64, pooling]);
        }
        bytes
    }
}

/// How positions turn into angles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotary {
    /// Base of the frequencies, 16 fraction bits.
    pub base_q16: u64,
    /// Stretching of the frequencies for long contexts.
    pub scaling: RotaryScaling,
}

/// Stretching of the rotary frequencies. Factors have 16 fraction bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RotaryScaling {
    /// None.
    None,
    /// Every frequency divided by a factor.
    Linear(u64),
    /// Every frequency divided by its own factor.
    PerPair(Vec<u64>),
    /// Low frequencies divided, high ones kept, a ramp between them (Llama 3).
    Llama3 {
        /// Divisor of the low frequencies.
        factor: u64,
        /// Turns over the original context below which a frequency is low.
        low: u64,
        /// Turns over the original context above which a frequency is high.
        high: u64,
        /// Context the model was first trained for.
        original_context: u64,
    },
    /// Low frequencies divided, high ones kept, a ramp between them by the number of the pair (YaRN).
    Yarn {
        /// Divisor of the low frequencies.
        factor: u64,
        /// Turns over the original context from which a frequency is kept.
        fast: u64,
        /// Turns over the original context up to which a frequency is divided.
        slow: u64,
        /// Context the model was first trained for.
        original_context: u64,
        /// What queries and keys are multiplied by; `None` for `1 + ln(factor) / 10`.
        gain: Option<u64>,
    },
}

/// Bits of a frequency that are rounded away.
const DROPPED_BITS: u32 = 16;

impl Rotary {
    /// Turns per position with 64 fraction bits, for `head_width / 2` pairs: `base^(-2i / head_width) / (2 pi)`, scaled.
    ///
    /// Rounded to 48 bits: the series below has ten bits more, so that any careful implementation finds the same numbers.
    pub fn frequencies(&self, head_width: usize) -> Result<Vec<u64>, ImportError> {
        if self.base_q16 < 1 << 16 || self.base_q16 >> 56 != 0 {
            return Err(ImportError::metadata(
                "rotary base",
                "must be from 1 to 2^40",
            ));
        }
        let log2_base = fixed::log2(u128::from(self.base_q16), 16);
        let pi = fixed::pi();
        let ramp = self.scaling.ramp(head_width, log2_base)?;
        (0..head_width / 2)
            .map(|pair| {
                let exponent = fixed::round_div(2 * pair as i128 * log2_base, head_width as i128);
                let power = fixed::exp2_negative(exponent);
                let turns = fixed::round_div(power << (FINE + 1), pi) as u64;
                let scaled = self.scaling.apply(turns, pair, ramp)?;
                Ok((scaled + (1 << (DROPPED_BITS - 1))) >> DROPPED_BITS << DROPPED_BITS)
            })
            .collect()
    }
}

impl Rotary {
    /// What queries and keys are multiplied by, 16 fraction bits.
    pub fn gain_q16(&self) -> u64 {
        match self.scaling {
            RotaryScaling::Yarn {
                gain: Some(gain), ..
            } => gain,
            RotaryScaling::Yarn { factor, .. } => yarn_gain(factor),
            _ => ONE_Q16,
        }
    }
}

/// `1 + ln(factor) / 10` with 16 fraction bits, 1 for factors up to one.
pub(crate) fn yarn_gain(factor: u64) -> u64 {
    if factor <= ONE_Q16 {
        return ONE_Q16;
    }
    let ln = fixed::ln(u128::from(factor), 16);
    ONE_Q16 + fixed::round_div(ln, 10 << (FINE - 16)) as u64
}

/// First pair of the ramp and the first after it.
type Ramp = (i128, i128);

impl RotaryScaling {
    /// Where YaRN's ramp stands: the pairs that turn `fast` times (rounded down) and `slow` times (rounded up) over the original context.
    fn ramp(&self, head_width: usize, log2_base: i128) -> Result<Ramp, ImportError> {
        let Self::Yarn {
            fast,
            slow,
            original_context,
            ..
        } = self
        else {
            return Ok((0, 0));
        };
        let context = u128::from(*original_context);
        if slow > fast || *slow == 0 || context == 0 || context > 1 << 24 || log2_base == 0 {
            return Err(ImportError::metadata(
                "rotary scaling",
                "its turns or its original context are out of bounds",
            ));
        }
        let whole_turn = fixed::log2(2 * fixed::pi() as u128, FINE);
        let pair = |turns: u64| {
            let log2 = fixed::log2(context, 0) - whole_turn - fixed::log2(u128::from(turns), 16);
            // Pairs in twos: the quotient is `d / 2` times a ratio of two logarithms.
            let (dividend, divisor) = (log2 * head_width as i128, 2 * log2_base);
            (
                dividend.div_euclid(divisor),
                dividend.rem_euclid(divisor) != 0,
            )
        };
        let (low, (high, more)) = (pair(*fast).0, pair(*slow));
        let first = low.max(0);
        let last = (high + i128::from(more)).min(head_width as i128 - 1);
        if last < first {
            return Err(ImportError::metadata(
                "rotary scaling",
                "its ramp lies outside the head",
            ));
        }
        Ok((first, last))
    }

    fn apply(&self, turns: u64, pair: usize, ramp: Ramp) -> Result<u64, ImportError> {
        let divide = |factor: u64| {
            if factor < 1 << 16 {
                return Err(ImportError::metadata(
                    "rotary scaling",
                    "a factor is below one",
                ));
            }
            Ok(fixed::round_div(i128::from(turns) << 16, i128::from(factor)) as u64)
        };
        match self {
            Self::None => Ok(turns),
            Self::Linear(factor) => divide(*factor),
            Self::PerPair(factors) => divide(*factors.get(pair).ok_or_else(|| {
                ImportError::metadata("rotary scaling", "fewer factors than pairs")
            })?),
            Self::Llama3 {
                factor,
                low,
                high,
                original_context,
            } => {
                if high <= low || *original_context > 1 << 24 {
                    return Err(ImportError::metadata(
                        "rotary scaling",
                        "the factors are out of order",
                    ));
                }
                // Turns over the original context, 16 fraction bits.
                let turned = ((u128::from(turns) * u128::from(*original_context)) >> 48) as u64;
                if turned >= *high {
                    return Ok(turns);
                }
                let divided = divide(*factor)?;
                if turned <= *low {
                    return Ok(divided);
                }
                let ramp = i128::from(turned - low);
                let span = i128::from(turns - divided) * ramp;
                Ok(divided + fixed::round_div(span, i128::from(high - low)) as u64)
            }
            Self::Yarn { factor, .. } => {
                let divided = divide(*factor)?;
                let (first, last) = ramp;
                // A ramp of no width is a step after its first pair.
                let width = (last - first).max(1);
                let kept = (width - (pair as i128 - first)).clamp(0, width);
                let span = i128::from(turns - divided) * kept;
                Ok(divided + fixed::round_div(span, width) as u64)
            }
        }
    }
}

/// A positive number of a model description as an integer with `fraction` bits.
pub fn positive_fixed(key: &str, value: Option<Exact>, fraction: i32) -> Result<u64, ImportError> {
    let fixed = value.map(|v| v.to_fixed(fraction));
    match fixed {
        Some(fixed) if fixed > 0 && fixed < i64::MAX => Ok(fixed as u64),
        _ => Err(ImportError::metadata(
            key,
            "is not a positive number of usual size",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequencies_agree_with_their_definition() {
        let rotary = Rotary {
            base_q16: 10_000 << 16,
            scaling: RotaryScaling::None,
        };
        for (i, turns) in rotary.frequencies(64).expect("valid").iter().enumerate() {
            let expected = 10_000f64.powf(-(2.0 * i as f64) / 64.0) / std::f64::consts::TAU;
            let got = *turns as f64 / 2f64.powi(64);
            assert!(
                (got - expected).abs() < 2f64.powi(-48),
                "{i}: {got} {expected}"
            );
        }
    }

    #[test]
    fn llama3_scaling_keeps_high_and_divides_low_frequencies() {
        let plain = Rotary {
            base_q16: 500_000 << 16,
            scaling: RotaryScaling::None,
        };
        let scaled = Rotary {
            scaling: RotaryScaling::Llama3 {
                factor: 32 << 16,
                low: 1 << 16,
                high: 4 << 16,
                original_context: 8192,
            },
            ..plain.clone()
        };
        let (a, b) = (
            plain.frequencies(64).expect("valid"),
            scaled.frequencies(64).expect("valid"),
        );
        assert_eq!(a[0], b[0]);
        assert!(
            a[31].abs_diff(32 * b[31]) <= 33 << 15,
            "divided and rounded"
        );
        assert!(a.iter().zip(&b).all(|(a, b)| a >= b && *b >= a / 33));
    }

    #[test]
    fn absurd_shapes_are_refused_by_name() {
        let good = Config {
            vocab: 10,
            width: 32,
            layers: 1,
            heads: 2,
            kv_heads: 1,
            head_width: 32,
            ffn: 64,
            context: 8,
            epsilon_q32: 1,
            rotary: vec![0; 16],
            rotary_gain_q16: ONE_Q16,
            architecture: Architecture::default(),
        };
        assert!(good.check().is_ok());
        for (bad, word) in [
            (
                Config {
                    width: 48,
                    ..good.clone()
                },
                "width",
            ),
            (
                Config {
                    kv_heads: 0,
                    ..good.clone()
                },
                "heads",
            ),
            (
                Config {
                    layers: usize::MAX,
                    ..good.clone()
                },
                "layers",
            ),
            (
                Config {
                    context: 0,
                    ..good.clone()
                },
                "context",
            ),
            (
                Config {
                    rotary: vec![0; 15],
                    ..good.clone()
                },
                "rotary",
            ),
        ] {
            assert!(bad.check().expect_err("refused").to_string().contains(word));
        }
    }
}
