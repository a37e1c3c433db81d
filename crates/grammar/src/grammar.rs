//! What an answer may be asked to be.

use crate::calls::CallSyntax;
use serde::{Deserialize, Serialize};

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

/// Keywords for which schemas are joined, each part of one with each of another. Choices of values are joined with what stands beside them
/// too, once.
const JOINING: [&str; 5] = ["$ref", "allOf", "anyOf", "oneOf", "patternProperties"];
/// Longest text of which even the dearest keyword of a plain schema makes little: some 16 MB where it has no [`JOINING`] keyword.
const PLAIN_BYTES_MAX: usize = 1 << 10;

impl Grammar {
    /// Whether making it surely takes little: its texts are short, and no schema has a keyword for which schemas are joined. What is not
    /// plain is tried apart first where strangers write it ([`crate::Sources::try_out`]).
    pub fn is_plain(&self) -> bool {
        let texts = self.texts();
        if texts.iter().map(|text| text.len()).sum::<usize>() > PLAIN_BYTES_MAX {
            return false;
        }
        // An escaped letter may stand in a keyword.
        let joins =
            |text: &str| text.contains('\\') || JOINING.iter().any(|word| text.contains(word));
        matches!(self, Self::Regex(_)) || !texts.into_iter().any(joins)
    }

    /// Everything in it that somebody wrote.
    pub(crate) fn texts(&self) -> Vec<&str> {
        match self {
            Self::JsonObject => vec![],
            Self::JsonSchema { schema: text, .. } | Self::Regex(text) => vec![text],
            Self::Calls(calls) => {
                let tools = calls.tools.iter();
                let of_tools = tools.flat_map(|t| [Some(t.name.as_str()), t.parameters.as_deref()]);
                let instead = calls.instead.iter().flat_map(|json| json.texts());
                of_tools.flatten().chain(instead).collect()
            }
        }
    }
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// The schema of its arguments, an object; it takes none when absent.
    pub parameters: Option<String>,
    /// Whether a keyword that cannot be enforced is refused; it is left out otherwise.
    pub strict: bool,
}
