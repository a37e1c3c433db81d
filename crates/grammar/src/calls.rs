//! How tool calls are written, and the grammar of them.

use crate::error::GrammarError;
use crate::grammar::{Calls, Tool};
use crate::marker::Marker;
use crate::schema::{self, Reading};
use crate::vocabulary::Vocabulary;
use llguidance::api::TopLevelGrammar;
use serde_json::{Value, json};
use std::fmt::Write;
use std::sync::Arc;

/// Markers around a tool call in a model's text, made once for a vocabulary. Between them stands an object of `name` and `arguments`.
#[derive(Debug, Clone)]
pub struct CallSyntax {
    open: String,
    close: String,
    marker: Arc<Marker>,
}

impl PartialEq for CallSyntax {
    fn eq(&self, other: &Self) -> bool {
        (&self.open, &self.close) == (&other.open, &other.close)
    }
}

impl Eq for CallSyntax {}

impl CallSyntax {
    /// Calls between `open` and `close`; the next call or the answer's end closes a call where `close` is empty.
    pub fn new(vocabulary: &Vocabulary, open: &str, close: &str) -> Self {
        Self {
            open: open.to_owned(),
            close: close.to_owned(),
            marker: Arc::new(Marker::new(vocabulary, open)),
        }
    }

    /// The marks that open and close a call.
    pub(crate) fn marks(&self) -> (&str, &str) {
        (&self.open, &self.close)
    }

    pub(crate) fn marker(&self) -> &Arc<Marker> {
        &self.marker
    }
}

/// The grammar of calls. Where none is demanded it begins after the first opening marker. `relaxed` says how the arguments of tools are read
/// that are not strict.
pub(crate) fn grammar(
    vocabulary: &Vocabulary,
    calls: &Calls,
    relaxed: Reading<'_>,
) -> Result<TopLevelGrammar, GrammarError> {
    let open = terminal(vocabulary, &calls.syntax.open);
    let close = match calls.syntax.close.as_str() {
        "" => String::new(),
        close => format!("space? {}", terminal(vocabulary, close)),
    };
    let marked = calls.required || calls.instead.is_some();
    let first = if marked { open.as_str() } else { "" };
    let more = match calls.several {
        true => format!("(space? {open} call)*"),
        false => String::new(),
    };
    let instead = match calls.instead {
        Some(_) => " | answer",
        None => "",
    };
    let bodies: Vec<String> = (0..calls.tools.len())
        .map(|n| format!("tool_{n}"))
        .collect();
    if bodies.is_empty() {
        return Err(GrammarError::Compile("there is no tool to call".to_owned()));
    }
    let mut text = format!(
        "start: {first} call {more}{instead}\ncall: space? body {close}\nspace: /{}/\nbody: {}\n",
        schema::SPACE,
        bodies.join(" | ")
    );
    for (body, tool) in bodies.iter().zip(&calls.tools) {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{body}: %json {}", call_schema(tool, relaxed)?);
    }
    if let Some(json) = &calls.instead {
        let schema = schema::of_answer(json, relaxed)?.ok_or_else(|| {
            GrammarError::Compile("only JSON may come in place of calls".to_owned())
        })?;
        let _ = writeln!(text, "answer: %json {schema}");
    }
    Ok(TopLevelGrammar::from_lark(text))
}

/// A marker in the library's notation: one control token, or its letters.
fn terminal(vocabulary: &Vocabulary, marker: &str) -> String {
    match vocabulary.control(marker) {
        Some(id) => format!("<[{id}]>"),
        None => Value::from(marker).to_string(),
    }
}

/// The schema of one call: its name, then its arguments.
fn call_schema(tool: &Tool, relaxed: Reading<'_>) -> Result<Value, GrammarError> {
    let arguments = match &tool.parameters {
        None => json!({"type": "object", "properties": {}, "additionalProperties": false}),
        Some(text) => {
            let reading = if tool.strict {
                Reading::Strict
            } else {
                relaxed
            };
            schema::arguments(text, reading, "#/properties/arguments")?
        }
    };
    let call = json!({
        "type": "object",
        "properties": {"name": {"const": tool.name}, "arguments": arguments},
        "required": ["name", "arguments"],
        "additionalProperties": false,
    });
    Ok(schema::with_options(call, tool.strict))
}
