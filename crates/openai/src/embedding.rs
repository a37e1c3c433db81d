use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Answer of `POST /v1/embeddings`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EmbeddingList {
    /// `list`.
    #[serde(default)]
    pub object: String,
    /// One for each input, in order.
    pub data: Vec<Embedding>,
    /// Model that answered.
    #[serde(default)]
    pub model: String,
    /// Counts.
    #[serde(default)]
    pub usage: EmbeddingUsage,
    /// Provider, cost, receipt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stoa: Option<Value>,
}

/// The vector of one input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Embedding {
    /// `embedding`.
    #[serde(default)]
    pub object: String,
    /// Place of the input.
    pub index: u32,
    /// The vector.
    pub embedding: Vector,
}

/// A vector in the form that was asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Vector {
    /// Base64 of little-endian 32-bit floats.
    Base64(String),
    /// The same floats as numbers, each the shortest that is read back as it.
    Float(Vec<f32>),
}

/// Token counts of one answer: the input units of its receipt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct EmbeddingUsage {
    /// Tokens of all inputs.
    pub prompt_tokens: u64,
    /// The same: vectors are paid by their input alone.
    pub total_tokens: u64,
}
