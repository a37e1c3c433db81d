//! What is asked of a model, as the provider gets it: already parsed, nothing left to interpret.

use serde::{Deserialize, Serialize};
use stoa_types::SamplingParameters;

/// One generation to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Work {
    /// Prompt in one of its forms.
    pub prompt: Prompt,
    /// Integer sampling parameters, seed included.
    pub sampling: SamplingParameters,
    /// What shape the answer must have; checked after decoding.
    pub answer: AnswerShape,
}

/// Input of a generation. Messages and tools are JSON text (arrays), kept as the client wrote them but for normalised roles.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Prompt {
    /// Rendered through the model's chat template.
    Chat {
        /// JSON array of messages.
        messages: String,
        /// JSON array of tools; `[]` for none.
        tools: String,
    },
    /// Plain text, tokenized as it stands.
    Text(String),
    /// Token ids.
    Tokens(Vec<u32>),
}

/// Shape that the decoded answer is checked against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnswerShape {
    /// Any text; tool calls if tools were given.
    Any,
    /// A JSON object.
    JsonObject,
    /// At least one tool call.
    ToolCall,
    /// Text only, even if tools were given.
    NoTools,
}
