//! Why an answer cannot be held to a grammar.

/// Nothing was computed for it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GrammarError {
    /// The text is no JSON.
    #[error("it is not a JSON schema: {0}")]
    NotJson(String),
    /// A bound of size.
    #[error("{what} may have at most {most}; make it smaller")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// The most there may be.
        most: u64,
    },
    /// A keyword that answers cannot be held to.
    #[error(
        "`{keyword}` at {at} cannot be enforced while an answer is decoded; leave it out, or send the schema without `strict`"
    )]
    Keyword {
        /// Where it stands, as a JSON pointer from the schema's root (`#`).
        at: String,
        /// The keyword.
        keyword: String,
    },
    /// A keyword whose value is not what it must be.
    #[error("`{keyword}` at {at} {reason}")]
    Value {
        /// Where it stands, as a JSON pointer from the schema's root (`#`).
        at: String,
        /// The keyword.
        keyword: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The grammar cannot be made, or needs more steps than are allowed.
    #[error("no grammar can be made of it: {0}")]
    Compile(String),
    /// This machine cannot make it now: it says nothing of the grammar.
    #[error("no thread could be started to make the grammar: {0}")]
    Machine(String),
    /// The model's vocabulary cannot be used.
    #[error("this model's answers cannot be held to a grammar: {0}")]
    Vocabulary(String),
}

/// The first line of what the library says, and not more of it than a client wants to read.
pub(crate) fn said(error: impl std::fmt::Display) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    // The library's own words for these two are of no use to a client.
    if line.starts_with("NoExtension") {
        return "no text fits it".to_owned();
    }
    if line.starts_with("oneOf constraints") {
        return "`oneOf` needs choices that a type or a constant tells apart; use `anyOf`"
            .to_owned();
    }
    line.chars().take(300).collect()
}
