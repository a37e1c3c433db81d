//! What can go wrong, in words for the person who runs the engine.

use std::path::PathBuf;

/// Why a model was not loaded. Nothing was kept in memory.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The file system refused.
    #[error("cannot read {path}: {source}", path = .path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Not a file of a known kind.
    #[error("{path} is not a model this engine reads: {reason}", path = .path.display())]
    NotAModel {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The file ends too early.
    #[error("{path} is cut short: {what} needs {need} bytes, {have} are left", path = .path.display())]
    Truncated {
        /// Which file.
        path: PathBuf,
        /// What was being read.
        what: String,
        /// Bytes it needs.
        need: u64,
        /// Bytes there are.
        have: u64,
    },
    /// A value of the model's description is absent, malformed or not supported.
    #[error("model description, {key}: {reason}")]
    Metadata {
        /// Which value.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A tensor is absent, malformed or not supported.
    #[error("tensor {name}: {reason}")]
    Tensor {
        /// Which tensor.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The tokenizer cannot be built.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// The chat template cannot be compiled.
    #[error("chat template: {0}")]
    Template(String),
    /// The model does not fit the memory that the caller allows. Said before loading.
    #[error(
        "the model needs {need} bytes of memory ({weights} for weights, {cache} for one full context) and {limit} are allowed; \
         choose a smaller model or raise the limit"
    )]
    TooLarge {
        /// Bytes needed in sum.
        need: u64,
        /// Bytes of weights.
        weights: u64,
        /// Bytes of the KV cache of one full context.
        cache: u64,
        /// Bytes allowed.
        limit: u64,
    },
}

impl ImportError {
    pub(crate) fn tensor(name: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Tensor {
            name: name.into(),
            reason: reason.into(),
        }
    }

    pub(crate) fn metadata(key: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Metadata {
            key: key.into(),
            reason: reason.into(),
        }
    }
}

/// Why a generation did not start or go on. The session is as it was before the call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// A vector of more elements was asked for than the model's states have.
    #[error("a vector of {dimensions} dimensions is asked for; the model's have {width}")]
    TooManyDimensions {
        /// Asked for.
        dimensions: usize,
        /// Width of the model.
        width: usize,
    },
    /// More tokens than the model's context holds.
    #[error(
        "context length exceeded: {used} tokens are in use, {more} more were asked for, the model holds {context}"
    )]
    ContextExceeded {
        /// Tokens already in the session.
        used: usize,
        /// Tokens asked for.
        more: usize,
        /// Tokens the model holds.
        context: usize,
    },
    /// A token id outside the vocabulary.
    #[error("token id {id} is outside the vocabulary of {vocab}")]
    UnknownToken {
        /// The id.
        id: u32,
        /// Size of the vocabulary.
        vocab: usize,
    },
    /// There is nothing to continue.
    #[error("the prompt is empty; give at least one token")]
    EmptyPrompt,
    /// The text cannot be tokenised.
    #[error("cannot tokenise the text: {0}")]
    Tokenize(String),
    /// The model has no chat template.
    #[error("the model has no chat template; use a plain completion")]
    NoTemplate,
    /// The chat template refused the messages.
    #[error("the chat template refused the messages: {0}")]
    Template(String),
}
