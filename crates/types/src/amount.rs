//! Amounts of the two tokens, prices and shares. Money is integer, checked, and rounds in named places only (DECISIONS 20).

use serde::{Deserialize, Serialize};
use std::fmt;

/// Why an amount could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AmountError {
    /// The text is not a decimal number with at most the token's number of decimals.
    #[error("`{0}` is not an amount: write digits with at most {1} decimals, for example 1.5")]
    Malformed(String, u32),
    /// The number does not fit.
    #[error("`{0}` is too large for an amount")]
    TooLarge(String),
}

macro_rules! amount {
    ($name:ident, $decimals:expr, $doc:literal) => {
        #[doc = $doc]
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(u128);

        impl $name {
            /// Nothing.
            pub const ZERO: Self = Self(0);
            /// Decimals of the token.
            pub const DECIMALS: u32 = $decimals;

            /// An amount of smallest units.
            pub const fn from_units(units: u128) -> Self {
                Self(units)
            }

            /// Number of smallest units.
            pub const fn units(self) -> u128 {
                self.0
            }

            /// Whether nothing is left.
            pub const fn is_zero(self) -> bool {
                self.0 == 0
            }

            /// `None` when the sum does not fit: money never wraps and never saturates.
            #[must_use]
            pub fn checked_add(self, other: Self) -> Option<Self> {
                self.0.checked_add(other.0).map(Self)
            }

            /// `None` when `other` is larger.
            #[must_use]
            pub fn checked_sub(self, other: Self) -> Option<Self> {
                self.0.checked_sub(other.0).map(Self)
            }

            /// Share in basis points, rounded down. Who receives the remainder is the caller's rule.
            #[must_use]
            pub fn share(self, bps: Bps) -> Option<Self> {
                Some(Self(self.0.checked_mul(u128::from(bps.get()))? / 10_000))
            }

            /// Sum, `None` when it does not fit.
            #[must_use]
            pub fn checked_sum(items: impl IntoIterator<Item = Self>) -> Option<Self> {
                items.into_iter().try_fold(Self::ZERO, Self::checked_add)
            }

            /// Reads `12`, `12.5` or `0.000001` (whole tokens).
            pub fn parse(text: &str) -> Result<Self, AmountError> {
                parse_decimal(text, $decimals).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&format_decimal(self.0, $decimals))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        /// As a string of smallest units: exact in every JSON reader.
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<str>::deserialize(d)?;
                let canonical = text == "0"
                    || (!text.starts_with('0')
                        && !text.is_empty()
                        && text.bytes().all(|b| b.is_ascii_digit()));
                if !canonical {
                    return Err(serde::de::Error::custom(format!(
                        "`{}` is not a whole number of smallest units",
                        shown(&text)
                    )));
                }
                text.parse().map(Self).map_err(|_| {
                    serde::de::Error::custom(format!("`{}` is too large", shown(&text)))
                })
            }
        }
    };
}

amount!(TokenAmount, 6, "Payment token, in units of 10^-6 token.");
amount!(StakeAmount, 18, "Stake token, in units of 10^-18 token.");

/// As much of a refused text as an error repeats.
fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

fn parse_decimal(text: &str, decimals: u32) -> Result<u128, AmountError> {
    let malformed = || AmountError::Malformed(shown(text), decimals);
    let (whole, fraction) = match text.split_once('.') {
        Some((_, "")) => return Err(malformed()),
        Some(parts) => parts,
        None => (text, ""),
    };
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) || fraction.len() > decimals as usize
    {
        return Err(malformed());
    }
    let padded = format!("{whole}{fraction:0<width$}", width = decimals as usize);
    padded
        .parse()
        .map_err(|_| AmountError::TooLarge(shown(text)))
}

fn format_decimal(units: u128, decimals: u32) -> String {
    let scale = 10u128.pow(decimals);
    let fraction = format!("{:0width$}", units % scale, width = decimals as usize);
    let trimmed = fraction.trim_end_matches('0');
    if trimmed.is_empty() {
        format!("{}", units / scale)
    } else {
        format!("{}.{trimmed}", units / scale)
    }
}

/// A share in basis points, at most 10,000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct Bps(u16);

impl Bps {
    /// `None` above 10,000.
    pub const fn new(bps: u16) -> Option<Self> {
        if bps <= 10_000 { Some(Self(bps)) } else { None }
    }

    /// The number of basis points.
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl TryFrom<u16> for Bps {
    type Error = String;
    fn try_from(bps: u16) -> Result<Self, String> {
        Self::new(bps).ok_or_else(|| format!("{bps} basis points are more than the whole (10,000)"))
    }
}

impl From<Bps> for u16 {
    fn from(bps: Bps) -> u16 {
        bps.0
    }
}

/// Price of 10^6 tokens of text, in payment token units.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Price(TokenAmount);

impl Price {
    /// Price of 10^6 tokens.
    pub const fn per_million(amount: TokenAmount) -> Self {
        Self(amount)
    }

    /// What 10^6 tokens cost.
    pub const fn amount_per_million(self) -> TokenAmount {
        self.0
    }

    /// `tokens x price` before the division by 10^6; `None` when it does not fit.
    pub fn raw_cost(self, tokens: u64) -> Option<u128> {
        self.0.units().checked_mul(u128::from(tokens))
    }
}

impl fmt::Display for Price {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_print_and_parse_as_decimals_of_whole_tokens() {
        for (text, units) in [
            ("0", 0),
            ("1", 1_000_000),
            ("1.5", 1_500_000),
            ("0.000001", 1),
        ] {
            let amount = TokenAmount::parse(text).expect("valid");
            assert_eq!(amount.units(), units);
            assert_eq!(amount.to_string(), text);
        }
        for bad in ["", ".", "1.", ".5", "-1", "1e3", "0.0000001", "1,5"] {
            let read = TokenAmount::parse(bad);
            assert!(read.is_err(), "{bad} was read as {read:?}");
        }
    }

    #[test]
    fn sums_and_differences_never_wrap() {
        let most = TokenAmount::from_units(u128::MAX);
        assert_eq!(most.checked_add(TokenAmount::from_units(1)), None);
        assert_eq!(
            TokenAmount::ZERO.checked_sub(TokenAmount::from_units(1)),
            None
        );
        assert_eq!(most.share(Bps::new(2).expect("in range")), None);
    }

    #[test]
    fn json_amounts_are_canonical_strings() {
        let json = serde_json::to_string(&TokenAmount::from_units(7)).expect("serializes");
        assert_eq!(json, "\"7\"");
        for bad in ["\"07\"", "\"+7\"", "\"7.0\"", "7", "\"\"", "\" 7\""] {
            assert!(serde_json::from_str::<TokenAmount>(bad).is_err(), "{bad}");
        }
        let empty = serde_json::from_str::<TokenAmount>("\"\"").expect_err("no number");
        assert!(empty.to_string().contains("not a whole number"), "{empty}");
    }
}
