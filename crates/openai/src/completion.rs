use crate::{CompletionLogprobs, StreamOptions, Usage};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Request of `POST /v1/completions`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct CompletionRequest {
    /// Model name.
    pub model: String,
    /// Text, or token ids.
    pub prompt: Value,
    /// Output limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// Temperature.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// Seed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<i64>,
    /// Stop strings.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stop: Vec<String>,
    /// Whether to stream.
    pub stream: bool,
    /// What to add to a stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream_options: Option<StreamOptions>,
}

/// Answer of `POST /v1/completions`, and each piece of its stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Completion {
    /// `cmpl-…`.
    #[serde(default)]
    pub id: String,
    /// `text_completion`.
    #[serde(default)]
    pub object: String,
    /// Seconds since the Unix epoch.
    #[serde(default)]
    pub created: u64,
    /// Model that answered.
    #[serde(default)]
    pub model: String,
    /// One choice; none on the usage piece of a stream.
    #[serde(default)]
    pub choices: Vec<CompletionChoice>,
    /// Counts; the outer `None` leaves the key out, the inner one writes `null`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Option<Usage>>,
    /// Deprecated; `null`.
    #[serde(default)]
    pub system_fingerprint: Option<String>,
    /// Provider, cost, receipt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stoa: Option<Value>,
}

/// One answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CompletionChoice {
    /// 0.
    #[serde(default)]
    pub index: u32,
    /// Text, or the next piece of it.
    #[serde(default)]
    pub text: String,
    /// Where they are asked for.
    #[serde(default)]
    pub logprobs: Option<CompletionLogprobs>,
    /// `stop` or `length`; `null` before the last piece.
    #[serde(default)]
    pub finish_reason: Option<String>,
}
