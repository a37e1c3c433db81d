//! Identities and digests: fixed byte arrays that print as `0x…`.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Why a hexadecimal text was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {what}: write 0x and {digits} lower-case hexadecimal digits")]
pub struct HexError {
    text: String,
    what: &'static str,
    digits: usize,
}

macro_rules! bytes_type {
    ($name:ident, $len:expr, $what:literal, $doc:literal) => {
        #[doc = $doc]
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// All bytes zero: "none" where a field must be filled.
            pub const ZERO: Self = Self([0; $len]);

            /// Whether all bytes are zero.
            pub fn is_zero(&self) -> bool {
                self.0 == [0; $len]
            }

            /// The bytes.
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "0x{}", hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl From<[u8; $len]> for $name {
            fn from(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }
        }

        /// Strict: `0x` and lower-case digits only, so that one value has one text.
        impl FromStr for $name {
            type Err = HexError;
            fn from_str(text: &str) -> Result<Self, HexError> {
                let error = || HexError {
                    text: text.chars().take(80).collect(),
                    what: $what,
                    digits: 2 * $len,
                };
                let digits = text.strip_prefix("0x").ok_or_else(error)?;
                if digits.len() != 2 * $len || digits.bytes().any(|b| b.is_ascii_uppercase()) {
                    return Err(error());
                }
                let mut bytes = [0; $len];
                hex::decode_to_slice(digits, &mut bytes).map_err(|_| error())?;
                Ok(Self(bytes))
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                std::borrow::Cow::<str>::deserialize(d)?
                    .parse()
                    .map_err(serde::de::Error::custom)
            }
        }
    };
}

bytes_type!(
    Address,
    20,
    "an account address",
    "An account on chain: the last 20 bytes of the keccak of a secp256k1 key."
);
bytes_type!(
    Digest,
    32,
    "a digest",
    "A 32-byte digest; the field's name says of what and by which function."
);
bytes_type!(
    JobId,
    32,
    "a job id",
    "One paid call. Job id = request id = receipt id (DECISIONS 1)."
);
bytes_type!(
    EndpointId,
    32,
    "an endpoint id",
    "ed25519 key of a transport endpoint; not an account (DECISIONS 4)."
);
bytes_type!(
    Signature,
    65,
    "a signature",
    "secp256k1 signature `r || s || v`, v in {27, 28}, low s."
);

/// Where a machine stands: two capital letters, ISO 3166 or a devnet's XA, XB, XC (DECISIONS 30).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Region(pub [u8; 2]);

impl TryFrom<String> for Region {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        match text.as_bytes() {
            [a, b] if a.is_ascii_uppercase() && b.is_ascii_uppercase() => Ok(Self([*a, *b])),
            _ => Err(format!(
                "`{text}` is not a region: write two capital letters such as DE"
            )),
        }
    }
}

impl From<Region> for String {
    fn from(region: Region) -> String {
        region.to_string()
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", char::from(self.0[0]), char::from(self.0[1]))
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_value_has_one_text() {
        let address: Address = "0x00000000000000000000000000000000000000ff"
            .parse()
            .expect("valid");
        assert_eq!(
            address.to_string(),
            "0x00000000000000000000000000000000000000ff"
        );
        for bad in [
            "",
            "0x",
            "00000000000000000000000000000000000000ff",
            "0x00000000000000000000000000000000000000FF",
            "0xff",
        ] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }
}
