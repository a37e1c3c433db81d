use crate::{ChatLogprobs, Usage};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Request of `POST /v1/chat/completions`, as a client of an upstream server sends it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ChatRequest {
    /// Model name.
    pub model: String,
    /// The conversation.
    pub messages: Vec<Message>,
    /// Tools that the model may call.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<Tool>,
    /// `none`, `auto`, `required`, or an object that names a function.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_choice: Option<Value>,
    /// `{"type":"text"}` or `{"type":"json_object"}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_format: Option<Value>,
    /// Output limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_completion_tokens: Option<u32>,
    /// Output limit; deprecated, but all that some servers know.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// Temperature.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// Least relative probability.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_p: Option<f64>,
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

/// What to add to a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct StreamOptions {
    /// One last piece with the counts.
    pub include_usage: bool,
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Message {
    /// `system`, `user`, `assistant`, `tool`.
    pub role: String,
    /// Text, a list of parts, or `null` beside tool calls.
    pub content: Value,
    /// Name of the speaker or of the function.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Calls that the assistant made.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// Which call this is the result of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
}

/// A tool that the model may call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tool {
    /// `function`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The function.
    pub function: FunctionDefinition,
}

/// A function that the model may call.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct FunctionDefinition {
    /// Name.
    pub name: String,
    /// What it is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// JSON Schema of its arguments.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameters: Option<Value>,
}

/// One call of a tool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolCall {
    /// Unique within the conversation.
    #[serde(default)]
    pub id: String,
    /// `function`.
    #[serde(rename = "type", default = "function")]
    pub kind: String,
    /// The call.
    pub function: FunctionCall,
}

fn function() -> String {
    "function".to_owned()
}

/// Name and arguments of a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionCall {
    /// Function name.
    pub name: String,
    /// Arguments as JSON text.
    #[serde(default)]
    pub arguments: String,
}

/// Answer of `POST /v1/chat/completions`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChatCompletion {
    /// `chatcmpl-…`.
    #[serde(default)]
    pub id: String,
    /// `chat.completion`.
    #[serde(default)]
    pub object: String,
    /// Seconds since the Unix epoch.
    #[serde(default)]
    pub created: u64,
    /// Model that answered.
    #[serde(default)]
    pub model: String,
    /// One choice.
    pub choices: Vec<ChatChoice>,
    /// Counts.
    #[serde(default)]
    pub usage: Option<Usage>,
    /// `default`.
    #[serde(default)]
    pub service_tier: Option<String>,
    /// Deprecated; `null`.
    #[serde(default)]
    pub system_fingerprint: Option<String>,
    /// Provider, cost, receipt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stoa: Option<Value>,
}

/// One answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChatChoice {
    /// 0.
    #[serde(default)]
    pub index: u32,
    /// The answer.
    pub message: AssistantMessage,
    /// `stop`, `length`, `tool_calls`, `content_filter` or `function_call`.
    #[serde(default)]
    pub finish_reason: Option<String>,
    /// Where they are asked for.
    #[serde(default)]
    pub logprobs: Option<ChatLogprobs>,
}

/// What the assistant says.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct AssistantMessage {
    /// `assistant`.
    pub role: String,
    /// Text; `null` beside tool calls without text.
    pub content: Option<String>,
    /// Reasoning in front of the text, where there is some and it is told apart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// Always `null` here.
    pub refusal: Option<String>,
    /// Calls in order.
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "crate::usage::null_is_default"
    )]
    pub tool_calls: Vec<ToolCall>,
    /// Always empty here.
    #[serde(deserialize_with = "crate::usage::null_is_default")]
    pub annotations: Vec<Value>,
    /// Always `null` here.
    pub audio: Option<Value>,
    /// The call, where the request used the deprecated `functions`.
    pub function_call: Option<FunctionCall>,
}

/// One piece of a streamed answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChatChunk {
    /// The same on all pieces.
    #[serde(default)]
    pub id: String,
    /// `chat.completion.chunk`.
    #[serde(default)]
    pub object: String,
    /// The same on all pieces.
    #[serde(default)]
    pub created: u64,
    /// The same on all pieces.
    #[serde(default)]
    pub model: String,
    /// One choice; none on the usage piece.
    #[serde(default)]
    pub choices: Vec<ChunkChoice>,
    /// Counts; the outer `None` leaves the key out, the inner one writes `null`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Option<Usage>>,
    /// `default`.
    #[serde(default)]
    pub service_tier: Option<String>,
    /// Deprecated; `null`.
    #[serde(default)]
    pub system_fingerprint: Option<String>,
    /// Provider, cost, receipt: on the piece with the finish reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stoa: Option<Value>,
}

/// What is new in one piece.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChunkChoice {
    /// 0.
    #[serde(default)]
    pub index: u32,
    /// What is new.
    #[serde(default)]
    pub delta: Delta,
    /// `null` before the last piece.
    #[serde(default)]
    pub finish_reason: Option<String>,
    /// Of the tokens since the piece before, where they are asked for.
    #[serde(default)]
    pub logprobs: Option<ChatLogprobs>,
}

/// Change of the message. A key that is not there changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Delta {
    /// `assistant`, on the first piece only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// More text; `Some(None)` writes `null`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<Option<String>>,
    /// More of the reasoning in front of the text, where the model's is told apart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// More of the tool calls.
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "crate::usage::null_is_default"
    )]
    pub tool_calls: Vec<ToolCallDelta>,
    /// More of the call, where the request used the deprecated `functions`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub function_call: Option<FunctionCallDelta>,
}

/// More of one tool call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolCallDelta {
    /// Which call.
    #[serde(default)]
    pub index: u32,
    /// On its first piece only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// `function`, on its first piece only.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// More of the call.
    #[serde(default)]
    pub function: FunctionCallDelta,
}

/// More of a function call.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct FunctionCallDelta {
    /// On its first piece only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// More argument text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arguments: Option<String>,
}
