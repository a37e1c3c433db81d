use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Body of every error, and of the `data:` line that ends a broken stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The error.
    pub error: ErrorObject,
}

/// Four keys that are always there, `null` where empty, and the causes for machines.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ErrorObject {
    /// What happened and what was left unchanged.
    pub message: String,
    /// Class of the error.
    #[serde(rename = "type", default)]
    pub kind: Option<String>,
    /// JSON path of the part of the request that is at fault.
    #[serde(default)]
    pub param: Option<String>,
    /// The error's name.
    #[serde(default, deserialize_with = "code")]
    pub code: Option<String>,
    /// Causes and figures; Stoa's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stoa: Option<Value>,
}

/// Some servers send the HTTP status as a number here.
fn code<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(match Option::<Value>::deserialize(deserializer)? {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(text),
        Some(other) => Some(other.to_string()),
    })
}
