//! Canonical content of an answer: the same whether it was streamed or not (DECISIONS 8).

use crate::reasoning::{self, Parts};
use serde::{Deserialize, Serialize};
use stoa_crypto::keccak256;
use stoa_types::{Digest, FinishReason};

/// One call of a tool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToolCall {
    /// Function name.
    pub name: String,
    /// Arguments as JSON text.
    pub arguments: String,
}

/// What an answer says, without any framing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Content {
    /// Text; empty beside tool calls.
    pub text: String,
    /// Tool calls in order.
    pub tool_calls: Vec<ToolCall>,
    /// Why generation ended.
    pub finish_reason: FinishReason,
    /// Prompt tokens.
    pub input_units: u64,
    /// Output tokens.
    pub output_units: u64,
}

impl Content {
    /// The same with the text of these parts that `digest`, a receipt's `response_digest`, is for; with the likeliest where none is.
    #[must_use]
    pub fn of_parts(&self, parts: &Parts, digest: Digest) -> Self {
        let with = |text| Self {
            text,
            ..self.clone()
        };
        let mut all: Vec<Self> = reasoning::texts(parts).into_iter().map(with).collect();
        let named = all.iter().position(|content| content.digest() == digest);
        all.swap_remove(named.unwrap_or(0))
    }

    /// keccak of the canonical bytes: every part with its length, integers big-endian. This is the receipt's `response_digest`.
    pub fn digest(&self) -> Digest {
        let mut bytes = b"stoa.content.v1".to_vec();
        push(&mut bytes, &self.text);
        bytes.extend((self.tool_calls.len() as u64).to_be_bytes());
        for call in &self.tool_calls {
            push(&mut bytes, &call.name);
            push(&mut bytes, &call.arguments);
        }
        push(&mut bytes, self.finish_reason.as_str());
        bytes.extend(self.input_units.to_be_bytes());
        bytes.extend(self.output_units.to_be_bytes());
        keccak256(bytes)
    }
}

fn push(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_be_bytes());
    bytes.extend(text.as_bytes());
}
