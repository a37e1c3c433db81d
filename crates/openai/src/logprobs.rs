//! Log-probabilities, in the two forms that the routes have.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Of a chat's answer, or of a piece of it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ChatLogprobs {
    /// One entry for each token.
    pub content: Option<Vec<TokenLikelihood>>,
    /// Always `null` here.
    pub refusal: Option<Vec<TokenLikelihood>>,
}

/// A token with its log-probability.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LikelyToken {
    /// Its text.
    pub token: String,
    /// Natural logarithm of its probability.
    pub logprob: f64,
    /// Its bytes.
    pub bytes: Option<Vec<u8>>,
}

/// A token of the answer, and the likeliest in its place.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TokenLikelihood {
    /// The token itself.
    #[serde(flatten)]
    pub chosen: LikelyToken,
    /// As many as were asked for.
    pub top_logprobs: Vec<LikelyToken>,
}

/// Of a text completion, or of a piece of it; the lists have one element for each token.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct CompletionLogprobs {
    /// Texts of the tokens.
    pub tokens: Vec<String>,
    /// Their log-probabilities.
    pub token_logprobs: Vec<Option<f64>>,
    /// The likeliest tokens in their places, by text; the token itself among them.
    pub top_logprobs: Vec<BTreeMap<String, f64>>,
    /// Where each begins in the text, in characters.
    pub text_offset: Vec<u64>,
}
