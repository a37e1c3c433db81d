use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Answer of `GET /v1/models`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelList {
    /// `list`.
    pub object: String,
    /// The models.
    pub data: Vec<Model>,
}

/// One model.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Model {
    /// Name.
    pub id: String,
    /// `model`.
    pub object: String,
    /// Seconds since the Unix epoch.
    pub created: u64,
    /// Who offers it.
    pub owned_by: String,
    /// Context in tokens.
    pub context_length: Option<u64>,
    /// Most output tokens of one call.
    pub max_output_tokens: Option<u64>,
    /// Prices.
    pub pricing: Option<Pricing>,
    /// Weight format.
    pub quantization: Option<String>,
    /// Request fields that have an effect.
    pub supported_parameters: Vec<String>,
    /// What the model can do.
    pub supported_features: Vec<String>,
    /// What it reads.
    pub input_modalities: Vec<String>,
    /// What it writes.
    pub output_modalities: Vec<String>,
    /// `warm`, `cold` or `offline`.
    pub readiness: Option<String>,
    /// When it goes away, if that is known.
    pub deprecation_date: Option<String>,
    /// Digests, tiers, regions, slots.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stoa: Option<Value>,
}

/// Prices per token as decimal text: exact in every reader.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Pricing {
    /// Per prompt token.
    pub prompt: String,
    /// Per output token.
    pub completion: String,
    /// Per request.
    pub request: String,
    /// Per picture.
    pub image: String,
    /// Per prompt token read from a cache.
    pub input_cache_read: String,
    /// Per prompt token written to a cache.
    pub input_cache_write: String,
}
