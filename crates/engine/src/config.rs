//! The shape of a Llama model, and the rotary frequencies that follow from it.

use crate::error::ImportError;
use crate::fixed::{self, FINE};
use crate::import::exact::Exact;
use crate::kernel::MAX_BLOCKS;
use crate::quant::BLOCK;

/// Dimensions and constants of a model. All of it stands in the model root.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    /// RMSNorm's epsilon with 32 fraction bits.
    pub epsilon_q32: u64,
    /// Turns per position of each rotary pair, with 64 fraction bits.
    pub rotary: Vec<u64>,
}

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
        Ok(())
    }

    /// Width of all query heads together.
    pub fn query_width(&self) -> usize {
        self.heads * self.head_width
    }

    /// Width of all key heads together.
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_width
    }

    /// What the model root hashes: each number as 8 bytes big-endian, in the order of the fields, then the frequencies.
    pub fn canonical_bytes(&self) -> Vec<u8> {
        let sizes = [
            self.vocab,
            self.width,
            self.layers,
            self.heads,
            self.kv_heads,
            self.head_width,
            self.ffn,
            self.context,
        ];
        let mut bytes: Vec<u8> = sizes
            .iter()
            .flat_map(|s| (*s as u64).to_be_bytes())
            .collect();
        bytes.extend(self.epsilon_q32.to_be_bytes());
        bytes.extend(self.rotary.iter().flat_map(|f| f.to_be_bytes()));
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
        (0..head_width / 2)
            .map(|pair| {
                let exponent = fixed::round_div(2 * pair as i128 * log2_base, head_width as i128);
                let power = fixed::exp2_negative(exponent);
                let turns = fixed::round_div(power << (FINE + 1), pi) as u64;
                let scaled = self.scaling.apply(turns, pair)?;
                Ok((scaled + (1 << (DROPPED_BITS - 1))) >> DROPPED_BITS << DROPPED_BITS)
            })
            .collect()
    }
}

impl RotaryScaling {
    fn apply(&self, turns: u64, pair: usize) -> Result<u64, ImportError> {
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
            rotary: vec![],
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
        ] {
            assert!(bad.check().expect_err("refused").to_string().contains(word));
        }
    }
}
