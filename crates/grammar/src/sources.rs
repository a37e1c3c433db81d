//! What a grammar is made of, so that making it can be tried elsewhere.

use crate::calls::CallSyntax;
use crate::compiled::Compiled;
use crate::error::GrammarError;
use crate::grammar::{Calls, Grammar, Tool};
use crate::vocabulary::Vocabulary;
use serde::{Deserialize, Serialize};
use std::panic::AssertUnwindSafe;
use std::sync::OnceLock;

/// The texts of a [`Grammar`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sources(Kind);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Kind {
    JsonObject,
    JsonSchema {
        schema: String,
        strict: bool,
    },
    Regex(String),
    Calls {
        open: String,
        close: String,
        tools: Vec<Tool>,
        required: bool,
        several: bool,
        instead: Option<Box<Kind>>,
    },
}

impl Sources {
    /// Those of a grammar.
    pub fn of(grammar: &Grammar) -> Self {
        Self(Kind::of(grammar))
    }

    /// Makes the grammar over a vocabulary of single bytes, on the stack of the caller, which has [`TRIAL_STACK_BYTES`]. How large a
    /// vocabulary is has little say in what making a grammar takes.
    pub fn try_out(&self) -> Result<(), GrammarError> {
        let vocabulary = of_bytes()?;
        let grammar = self.0.grammar(vocabulary);
        // Nothing that a panic leaves half done is looked at again.
        let made = AssertUnwindSafe(|| Compiled::new(vocabulary, &grammar).map(drop));
        std::panic::catch_unwind(made)
            .unwrap_or_else(|_| Err(GrammarError::Compile("it broke the grammar library".into())))
    }
}

/// Stack of who calls [`Sources::try_out`]: half of what [`Vocabulary::compile`] has.
pub const TRIAL_STACK_BYTES: usize = 128 << 20;

impl Kind {
    fn of(grammar: &Grammar) -> Self {
        match grammar {
            Grammar::JsonObject => Self::JsonObject,
            Grammar::JsonSchema { schema, strict } => Self::JsonSchema {
                schema: schema.clone(),
                strict: *strict,
            },
            Grammar::Regex(expression) => Self::Regex(expression.clone()),
            Grammar::Calls(calls) => {
                let (open, close) = calls.syntax.marks();
                Self::Calls {
                    open: open.to_owned(),
                    close: close.to_owned(),
                    tools: calls.tools.clone(),
                    required: calls.required,
                    several: calls.several,
                    instead: calls.instead.as_deref().map(|g| Box::new(Self::of(g))),
                }
            }
        }
    }

    fn grammar(&self, vocabulary: &Vocabulary) -> Grammar {
        match self.clone() {
            Self::JsonObject => Grammar::JsonObject,
            Self::JsonSchema { schema, strict } => Grammar::JsonSchema { schema, strict },
            Self::Regex(expression) => Grammar::Regex(expression),
            Self::Calls {
                open,
                close,
                tools,
                required,
                several,
                instead,
            } => Grammar::Calls(Calls {
                syntax: CallSyntax::new(vocabulary, &open, &close),
                tools,
                required,
                several,
                instead: instead.map(|kind| Box::new(kind.grammar(vocabulary))),
            }),
        }
    }
}

/// All bytes, and a token that ends an answer.
fn of_bytes() -> Result<&'static Vocabulary, GrammarError> {
    static VOCABULARY: OnceLock<Result<Vocabulary, GrammarError>> = OnceLock::new();
    let made = VOCABULARY.get_or_init(|| {
        let bytes = (0..=u8::MAX).map(|byte| [byte].into());
        let texts: Vec<Box<[u8]>> = bytes.chain([(*b"<end>").into()]).collect();
        let control = (0..texts.len()).map(|id| id == 256).collect();
        Vocabulary::of_parts(texts, control, &[256])
    });
    made.as_ref().map_err(Clone::clone)
}
