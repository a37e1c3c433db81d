//! What an answer may be asked to be.

use crate::calls::CallSyntax;

/// What an answer is held to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Grammar {
    /// A JSON object.
    JsonObject,
    /// JSON that fits a schema.
    JsonSchema {
        /// The schema's text. Properties are written in its order.
        schema: String,
        /// Whether a keyword that cannot be enforced is refused; it is left out otherwise.
        strict: bool,
    },
    /// Text that a regular expression matches from begin to end.
    Regex(String),
    /// Calls of tools.
    Calls(Calls),
}

/// Calls of tools, as a model writes them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Calls {
    /// The model's way to write them.
    pub syntax: CallSyntax,
    /// What may be called.
    pub tools: Vec<Tool>,
    /// A call is demanded. Otherwise the answer is any text, and only what follows a call's opening marker is held to the tools.
    pub required: bool,
    /// More than one call may be made.
    pub several: bool,
    /// JSON that may come in place of calls, and nothing else may: [`Grammar::JsonObject`] or [`Grammar::JsonSchema`].
    pub instead: Option<Box<Grammar>>,
}

/// Something that a model may call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// The schema of its arguments, an object; it takes none when absent.
    pub parameters: Option<String>,
    /// Whether a keyword that cannot be enforced is refused; it is left out otherwise.
    pub strict: bool,
}
