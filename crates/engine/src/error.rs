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
    /// A pack is not as it was written.
    #[error("{path} is damaged: {reason}; nothing of it was used: remove it and import the model again", path = .path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A pack could not be written.
    #[error("cannot write the pack: {source}; what was begun is of no use")]
    Write {
        /// What the system said.
        source: std::io::Error,
    },
    /// Whoever watched the work stopped it.
    #[error("stopped before the model was complete")]
    Stopped,
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

    /// A value of the description that is absent, malformed or not supported.
    pub fn metadata(key: impl Into<String>, reason: impl Into<String>) -> Self {
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
    /// A sequence was made for a model of another shape.
    #[error("the sequence belongs to a model of another shape; make one for this model")]
    OtherShape,
    /// More threads than any machine has use for.
    #[error("{count} threads are asked for; at most 256 are")]
    TooManyThreads {
        /// Asked for.
        count: usize,
    },
    /// The system gave no threads.
    #[error("no threads to compute with: {0}")]
    Threads(String),
    /// The whole answer would not fit the memory for keys and values.
    #[error(
        "prompt and answer may come to {positions} tokens and the memory for them holds {room}: ask for a shorter answer, or serve with more"
    )]
    NoRoom {
        /// Tokens of the prompt and of the longest answer.
        positions: usize,
        /// Tokens that fit.
        room: usize,
    },
    /// A pass broke off, which should never be. Everything in it is given up.
    #[error("the engine broke off; the answer is not complete")]
    Panicked,
    /// The model reads texts and writes none.
    #[error(
        "the model is an encoder: it makes vectors of texts and writes none; take a model that answers"
    )]
    Encoder,
    /// A part of a text was given to an encoder, whose every state depends on the whole.
    #[error(
        "an encoder takes a text whole, and the sequence has a part of one; begin an empty one"
    )]
    TextInParts,
    /// There is nothing to continue.
    #[error("the prompt is empty; give at least one token")]
    EmptyPrompt,
    /// A token was asked for after the answer's last one.
    #[error("the answer is over; it has no further token")]
    AnswerOver,
    /// The answer is held to a grammar and cannot go on under it.
    #[error(transparent)]
    Constraint(#[from] crate::constraint::ConstraintError),
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

impl EngineError {
    /// Whether it follows from model and work alone, so that every machine has the same. Others are of this machine.
    pub fn is_of_the_work(&self) -> bool {
        !matches!(
            self,
            Self::OtherShape
                | Self::TooManyThreads { .. }
                | Self::Threads(_)
                | Self::NoRoom { .. }
                | Self::Panicked
        )
    }
}
