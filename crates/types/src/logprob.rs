//! Log-probabilities of tokens, as they travel from a provider to a client.

use crate::SignedQ16;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Most alternatives that can be asked for beside a token.
pub const TOP_LOGPROBS_MAX: u8 = 20;

/// The bytes that a token stands for; hexadecimal digits where they are written as text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TokenBytes(pub Vec<u8>);

impl Serialize for TokenBytes {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&hex::encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for TokenBytes {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        hex::decode(&text)
            .map(Self)
            .map_err(|_| serde::de::Error::custom("the bytes of a token are hexadecimal digits"))
    }
}

/// How likely the model held one token to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenLogprob {
    /// Its id.
    pub id: u32,
    /// What it stands for.
    pub bytes: TokenBytes,
    /// Natural logarithm of its probability, never above 0.
    pub logprob: SignedQ16,
}

/// What a model held likely in the place of one token of an answer.
///
/// Nothing of it is signed: it follows from the model, the prompt and the tokens, which a receipt names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Logprobs {
    /// The token that was chosen.
    pub chosen: TokenLogprob,
    /// The likeliest tokens, as many as were asked for, the likeliest first; the chosen one may be among them.
    pub top: Vec<TokenLogprob>,
}

/// Why what is said of an answer's tokens cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LogprobsError {
    /// There is not one for each token, or one where none was asked for.
    #[error("it did not send one entry of log-probabilities for each token")]
    Count,
    /// An entry is of another token than was chosen.
    #[error("it sent log-probabilities of another token than it chose")]
    Token,
    /// More alternatives than were asked for.
    #[error("it sent more alternatives than were asked for")]
    TooMany,
    /// A probability above one, or alternatives out of order.
    #[error("it sent log-probabilities that are above 0 or out of order")]
    Value,
    /// Bytes beyond those of any token.
    #[error("it sent more bytes than a token can stand for")]
    Bytes,
}

impl Logprobs {
    /// Bytes of all the tokens that it names.
    pub fn named_bytes(&self) -> usize {
        let all = self.top.iter().chain([&self.chosen]);
        all.map(|one| one.bytes.0.len()).sum()
    }

    /// Checks what whoever passes entries on can know of them: `asked` is the number of alternatives, `None` where nothing was asked for.
    pub fn check(
        entries: &[Self],
        tokens: &[u32],
        asked: Option<u8>,
        bytes_max: usize,
    ) -> Result<(), LogprobsError> {
        let Some(most) = asked else {
            return if entries.is_empty() {
                Ok(())
            } else {
                Err(LogprobsError::Count)
            };
        };
        if entries.len() != tokens.len() {
            return Err(LogprobsError::Count);
        }
        for (entry, token) in entries.iter().zip(tokens) {
            if entry.chosen.id != *token {
                return Err(LogprobsError::Token);
            }
            if entry.top.len() > usize::from(most) {
                return Err(LogprobsError::TooMany);
            }
            let mut all = entry.top.iter().chain([&entry.chosen]);
            if all.any(|one| one.bytes.0.len() > bytes_max) {
                return Err(LogprobsError::Bytes);
            }
            let falling = entry.top.is_sorted_by(|a, b| a.logprob >= b.logprob);
            let first = entry.top.first().unwrap_or(&entry.chosen).logprob;
            if !falling || first.0 > 0 || entry.chosen.logprob > first {
                return Err(LogprobsError::Value);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(id: u32, logprob: i32) -> TokenLogprob {
        TokenLogprob {
            id,
            bytes: TokenBytes(vec![0xe9, b'"']),
            logprob: SignedQ16(logprob),
        }
    }

    fn entry(chosen: TokenLogprob, top: &[TokenLogprob]) -> Logprobs {
        let top = top.to_vec();
        Logprobs { chosen, top }
    }

    #[test]
    fn bytes_travel_as_digits_and_come_back() {
        let entry = entry(one(7, -5), &[one(9, 0), one(7, -5)]);
        let text = serde_json::to_string(&entry).expect("writes");
        assert!(text.contains(r#""bytes":"e922""#), "{text}");
        let read: Logprobs = serde_json::from_str(&text).expect("reads");
        assert_eq!(read, entry);
        for bad in ["e9 22", "e92", "zz"] {
            assert!(serde_json::from_str::<Logprobs>(&text.replace("e922", bad)).is_err());
        }
    }

    #[test]
    fn what_cannot_be_said_of_tokens_is_named() {
        let check = |entries: &[Logprobs], asked| Logprobs::check(entries, &[7], asked, 4);
        let right = entry(one(7, -5), &[one(9, 0), one(7, -5)]);
        assert_eq!(check(std::slice::from_ref(&right), Some(2)), Ok(()));
        assert_eq!(check(&[entry(one(7, -5), &[])], Some(0)), Ok(()));
        assert_eq!(check(&[], None), Ok(()));
        for (entries, asked, error) in [
            (vec![], Some(0), LogprobsError::Count),
            (vec![right.clone()], None, LogprobsError::Count),
            (vec![right.clone(); 2], Some(2), LogprobsError::Count),
            (vec![right.clone()], Some(1), LogprobsError::TooMany),
            (vec![entry(one(8, -5), &[])], Some(0), LogprobsError::Token),
            (vec![entry(one(7, 1), &[])], Some(0), LogprobsError::Value),
            (
                vec![entry(one(7, 0), &[one(9, -1)])],
                Some(1),
                LogprobsError::Value,
            ),
            (
                vec![entry(one(7, -9), &[one(9, -5), one(8, -4)])],
                Some(2),
                LogprobsError::Value,
            ),
        ] {
            assert_eq!(check(&entries, asked), Err(error));
        }
        let mut long = right;
        long.top[0].bytes.0 = vec![0; 5];
        assert_eq!(check(&[long], Some(2)), Err(LogprobsError::Bytes));
    }
}
