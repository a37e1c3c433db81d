//! Grammars that an answer is held to while it is decoded: JSON, a JSON Schema, a regular expression, tool calls.
//!
//! A [`Vocabulary`] is made once for a tokenizer. It compiles a [`Grammar`] into a [`Compiled`] one, which begins a
//! [`stoa_engine::Constraint`] for each answer: the set of tokens that may come next. Forbidden tokens are never chosen, and a token
//! that ends the answer may come exactly where the grammar may end. So what was asked for is met by construction, unless the limit of
//! tokens cuts it.
//!
//! The sets are part of what validators recompute. They follow from vocabulary, grammar and the tokens so far: every bound is one of
//! steps or sizes and none of time, and a bound that is met is an error and never another set: it ends the answer as a limit of tokens
//! does. [`SEMANTICS`] names these rules, the library's version included (docs/decisions/0034).

mod calls;
mod compiled;
mod error;
mod grammar;
mod marker;
mod schema;
mod sources;
mod vocabulary;

pub use calls::CallSyntax;
pub use compiled::Compiled;
pub use error::GrammarError;
pub use grammar::{Calls, Grammar, Tool};
pub use sources::{Sources, TRIAL_STACK_BYTES};
pub use vocabulary::Vocabulary;

/// Name of these rules: which sets of tokens a grammar allows. It stands for llguidance 1.9.1, for the reader and writer of JSON that it and
/// we have, and for the options and the reading of schemas of this crate; a change of any is a new name.
pub const SEMANTICS: &str = "stoa.grammar.v1";

/// Longest text of one schema or expression, in bytes.
pub const SOURCE_BYTES_MAX: usize = 64 << 10;
/// Longest text of all schemas of one answer together, in bytes.
pub const TOTAL_BYTES_MAX: usize = 256 << 10;
/// Deepest nesting of a schema's text.
pub const DEPTH_MAX: usize = 64;
/// Most values (schemas, constants and their parts) that a schema may be made of.
pub const VALUES_MAX: usize = 10_000;
/// Greatest count that a schema may demand or allow: of characters, items or properties.
pub const COUNT_MAX: u64 = 100_000;
