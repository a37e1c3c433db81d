//! Plain serde structs of the OpenAI wire format, used by the HTTP surface and by upstream backends.
//!
//! Answers are written with every field that strict clients read, and read with none but the necessary ones required: other
//! servers leave fields out or send `null`. Requests are what a client of an upstream server sends; the HTTP surface has its own
//! reader with JSON paths in its errors.

mod chat;
mod completion;
mod embedding;
mod error;
mod logprobs;
mod model;
mod usage;

pub use chat::{
    AssistantMessage, ChatChoice, ChatChunk, ChatCompletion, ChatRequest, ChunkChoice, Delta,
    FunctionCall, FunctionCallDelta, FunctionDefinition, Message, StreamOptions, Tool, ToolCall,
    ToolCallDelta,
};
pub use completion::{Completion, CompletionChoice, CompletionRequest};
pub use embedding::{Embedding, EmbeddingList, EmbeddingUsage, Vector};
pub use error::{ErrorBody, ErrorObject};
pub use logprobs::{ChatLogprobs, CompletionLogprobs, LikelyToken, TokenLikelihood};
pub use model::{Model, ModelList, Pricing};
pub use usage::{CompletionDetails, PromptDetails, Usage};
