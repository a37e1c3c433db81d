//! What can go wrong with an upstream server, and what the router is told of it.

use std::time::Duration;
use stoa_nodes::message::RefusalReason;

/// Why an upstream server gave no answer that may be handed on. Nothing is claimed for it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamFault {
    /// No connection.
    #[error("the upstream server cannot be reached: {reason}")]
    Unreachable {
        /// Why.
        reason: String,
    },
    /// The connection broke in the middle.
    #[error("the connection to the upstream server broke: {reason}")]
    Broken {
        /// Why.
        reason: String,
    },
    /// It takes no more for now, by its own word or by the configured limit.
    #[error("the upstream server takes no more requests for now ({by})")]
    Busy {
        /// Whose limit it was.
        by: &'static str,
    },
    /// The prompt does not fit.
    #[error("the prompt has {tokens} tokens, the upstream server's context is {context}")]
    ContextLength {
        /// Tokens of the prompt, as the server counts them.
        tokens: u64,
        /// What it takes.
        context: u64,
    },
    /// It says that the request is wrong.
    #[error("the upstream server refuses the request (status {status}, {kind})")]
    Rejected {
        /// HTTP status.
        status: u16,
        /// Its word for the error.
        kind: String,
        /// The parameter that it names.
        parameter: Option<String>,
    },
    /// It refuses the content.
    #[error("the upstream server refuses the content of the request (status {status}, {kind})")]
    Policy {
        /// HTTP status.
        status: u16,
        /// Its word for the error.
        kind: String,
    },
    /// The operator's key is not accepted.
    #[error(
        "the upstream server does not accept the key (status {status}); set the right one with --upstream-key-file"
    )]
    Unauthorized {
        /// HTTP status.
        status: u16,
    },
    /// Route or model are not there.
    #[error("the upstream server does not serve this model or route (status 404)")]
    NotFound,
    /// Its own fault.
    #[error("the upstream server failed (status {status})")]
    Server {
        /// HTTP status.
        status: u16,
    },
    /// An error object within a stream that began well.
    #[error("the upstream server broke its stream off with an error ({kind})")]
    ErrorEvent {
        /// Its word for the error.
        kind: String,
    },
    /// No stream of events.
    #[error("the upstream server answered `{content_type}` where a stream of events was asked for")]
    NotAStream {
        /// What it declared.
        content_type: String,
    },
    /// An event of another shape.
    #[error("the upstream server sent an event that is not what the protocol says: {what}")]
    Malformed {
        /// What is wrong.
        what: &'static str,
    },
    /// Bytes that are no text.
    #[error("the upstream server sent bytes that are not UTF-8")]
    NotUtf8,
    /// An event without end.
    #[error("the upstream server sent a line or event of more than {limit} bytes")]
    TooLong {
        /// Most bytes.
        limit: usize,
    },
    /// Right events at the wrong time.
    #[error("the upstream server sent events out of order: {what}")]
    OutOfOrder {
        /// Which.
        what: &'static str,
    },
    /// The stream ended before its end mark.
    #[error("the upstream server's stream ended without [DONE]")]
    MissingDone,
    /// No counts.
    #[error("the upstream server sent no usage; it must understand stream_options.include_usage")]
    MissingUsage,
    /// No reason for the end.
    #[error("the upstream server's stream ended without a finish_reason")]
    MissingFinish,
    /// A reason that nobody knows.
    #[error("the upstream server ended its answer for the unknown reason `{reason}`")]
    UnknownFinish {
        /// Its word.
        reason: String,
    },
    /// Nothing came for too long.
    #[error("the upstream server was silent for {waited:?} ({during})")]
    Silent {
        /// How long it was waited for.
        waited: Duration,
        /// What was waited for.
        during: &'static str,
    },
    /// More text than the ordered tokens can stand for.
    #[error("the upstream server sent more text than the {most} tokens that were ordered can be")]
    TooMuch {
        /// Tokens that were ordered.
        most: u32,
    },
    /// The model's answer is not what the request demands.
    #[error("{reason}")]
    Unmet {
        /// What is missing.
        reason: String,
    },
}

impl UpstreamFault {
    /// A short name for metrics: of few values, and never with anything of a request in it.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "unreachable",
            Self::Broken { .. } => "broken",
            Self::Busy { .. } => "busy",
            Self::ContextLength { .. } => "context_length",
            Self::Rejected { .. } => "rejected",
            Self::Policy { .. } => "policy",
            Self::Unauthorized { .. } => "unauthorized",
            Self::NotFound => "not_found",
            Self::Server { .. } => "server",
            Self::ErrorEvent { .. } => "error_event",
            Self::NotAStream { .. } => "not_a_stream",
            Self::Malformed { .. } => "malformed",
            Self::NotUtf8 => "not_utf8",
            Self::TooLong { .. } => "too_long",
            Self::OutOfOrder { .. } => "out_of_order",
            Self::MissingDone => "missing_done",
            Self::MissingUsage => "missing_usage",
            Self::MissingFinish => "missing_finish",
            Self::UnknownFinish { .. } => "unknown_finish",
            Self::Silent { .. } => "silent",
            Self::TooMuch { .. } => "too_much",
            Self::Unmet { .. } => "unmet",
        }
    }

    /// What the router is told where the server did not fail but declined; `None` for a failure. The server's own message is not
    /// repeated: it may hold parts of the prompt, and reasons reach logs.
    pub fn refusal(&self) -> Option<RefusalReason> {
        match self {
            Self::Busy { .. } => Some(RefusalReason::Busy),
            Self::ContextLength { tokens, context } => Some(RefusalReason::ContextLength {
                tokens: *tokens,
                context: *context,
            }),
            Self::Policy { .. } => Some(RefusalReason::Policy),
            Self::Rejected {
                parameter, kind, ..
            } => Some(RefusalReason::Unsupported {
                parameter: parameter.clone().unwrap_or_else(|| "request".to_owned()),
                reason: format!("the inference server refuses it ({kind})"),
            }),
            _ => None,
        }
    }

    /// Whether the server itself is in doubt, so that its health is looked at before the next request.
    pub(crate) fn is_doubt(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. }
                | Self::Broken { .. }
                | Self::Unauthorized { .. }
                | Self::NotFound
                | Self::Server { .. }
                | Self::Silent { .. }
        )
    }
}

/// Longest word of a server that is repeated.
const WORD_CHARS_MAX: usize = 60;

/// A server's word for something, fit for logs: short, and of letters, digits and a few marks only.
pub(crate) fn word(text: &str) -> String {
    let kept = text
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | '[' | ']'));
    let kept: String = kept.take(WORD_CHARS_MAX).collect();
    if kept.is_empty() {
        "unnamed".to_owned()
    } else {
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_says_reaches_no_log_but_as_a_word() {
        assert_eq!(word("invalid_request_error"), "invalid_request_error");
        assert_eq!(word("your prompt \"Hello\"\n"), "yourpromptHello");
        assert_eq!(word("\u{1b}[31m!"), "[31m");
        assert_eq!(word("…"), "unnamed");
        assert_eq!(word(&"a".repeat(500)).len(), WORD_CHARS_MAX);
    }

    #[test]
    fn declining_is_told_apart_from_failing() {
        let busy = UpstreamFault::Busy { by: "status 429" };
        assert_eq!(busy.refusal(), Some(RefusalReason::Busy));
        assert!(!busy.is_doubt());
        let long = UpstreamFault::ContextLength {
            tokens: 9,
            context: 8,
        };
        let expected = RefusalReason::ContextLength {
            tokens: 9,
            context: 8,
        };
        assert_eq!(long.refusal(), Some(expected));
        for failure in [
            UpstreamFault::Server { status: 500 },
            UpstreamFault::MissingDone,
            UpstreamFault::NotFound,
        ] {
            assert_eq!(failure.refusal(), None, "{failure}");
        }
    }
}
