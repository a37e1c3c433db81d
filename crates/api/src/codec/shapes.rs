//! The shape that an answer's text is held to: `response_format`, and the parameters that vLLM has for the same.

use super::object::{Object, invalid, text_at};
use crate::error::ApiError;
use crate::json::{Json, clip};
use std::fmt::Write;
use stoa_nodes::work::{AnswerShape, GRAMMAR_BYTES_MAX};

/// Names of vLLM's parameters, which both kinds of answers that are text take.
pub(super) const FIELDS: &[&str] = &[
    "guided_json",
    "guided_regex",
    "guided_choice",
    "structured_outputs",
];
/// Most texts of which one is to be chosen.
const CHOICES_MAX: usize = 1_000;
/// Longest name of a schema, as OpenAI has it.
const NAME_MAX: usize = 64;

/// The shape that is asked for, if any; two are one too many.
pub(super) fn shape(root: &Object<'_>) -> Result<Option<AnswerShape>, ApiError> {
    let mut found = None;
    let mut take = |param: String, shape: Option<AnswerShape>| match (&found, shape) {
        (_, None) => Ok(()),
        (Some(_), Some(_)) => Err(invalid(
            param,
            "the answer can be held to one shape only; ask for one of them",
        )),
        (None, Some(shape)) => {
            found = Some(shape);
            Ok(())
        }
    };
    take("response_format".to_owned(), response_format(root)?)?;
    for (object, json, regex, choice) in [
        (Some(root), "guided_json", "guided_regex", "guided_choice"),
        (
            root.object("structured_outputs")?.as_ref(),
            "json",
            "regex",
            "choice",
        ),
    ] {
        let Some(object) = object else {
            continue;
        };
        take(object.path(json), guided_json(object, json)?)?;
        take(object.path(regex), guided_regex(object, regex)?)?;
        take(object.path(choice), guided_choice(object, choice)?)?;
    }
    Ok(found)
}

fn response_format(root: &Object<'_>) -> Result<Option<AnswerShape>, ApiError> {
    let Some(format) = root.object("response_format")? else {
        return Ok(None);
    };
    match format.required_text("type", 64)? {
        "text" => Ok(None),
        "json_object" => Ok(Some(AnswerShape::JsonObject)),
        "json_schema" => json_schema(&format).map(Some),
        other => Err(invalid(
            format.path("type"),
            format!(
                "must be text, json_object or json_schema, not `{}`",
                clip(other, 64)
            ),
        )),
    }
}

fn json_schema(format: &Object<'_>) -> Result<AnswerShape, ApiError> {
    let missing = || ApiError::Missing {
        param: format.path("json_schema"),
    };
    let named = format.object("json_schema")?.ok_or_else(missing)?;
    let name = named.required_text("name", NAME_MAX)?;
    if !name
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
    {
        let reason = "may have letters, digits, underscores and dashes only";
        return Err(invalid(named.path("name"), reason));
    }
    let path = named.path("schema");
    let schema = named.required("schema")?;
    // Its other bounds and keywords are looked at where the grammar is made.
    Object::at(schema, path.clone())?;
    Ok(AnswerShape::JsonSchema {
        schema: bounded(schema.to_text(), &path)?,
        strict: named.boolean("strict")?.unwrap_or_default(),
    })
}

fn bounded(text: String, path: &str) -> Result<String, ApiError> {
    if text.len() > GRAMMAR_BYTES_MAX {
        let reason = format!("must have at most {GRAMMAR_BYTES_MAX} bytes");
        return Err(invalid(path, reason));
    }
    Ok(text)
}

/// A schema, as itself or as text. vLLM enforces all of it, so this is strict.
fn guided_json(object: &Object<'_>, name: &str) -> Result<Option<AnswerShape>, ApiError> {
    let path = object.path(name);
    let schema = match object.get(name) {
        None => return Ok(None),
        Some(Json::Text(text)) => text.clone(),
        Some(schema) => {
            Object::at(schema, path.clone())?;
            schema.to_text()
        }
    };
    let schema = bounded(schema, &path)?;
    Ok(Some(AnswerShape::JsonSchema {
        schema,
        strict: true,
    }))
}

fn guided_regex(object: &Object<'_>, name: &str) -> Result<Option<AnswerShape>, ApiError> {
    let Some(expression) = object.text(name)? else {
        return Ok(None);
    };
    let path = object.path(name);
    if expression.is_empty() {
        return Err(invalid(path, "must not be empty"));
    }
    bounded(expression.to_owned(), &path).map(|expression| Some(AnswerShape::Regex(expression)))
}

/// One of some texts, as an expression.
fn guided_choice(object: &Object<'_>, name: &str) -> Result<Option<AnswerShape>, ApiError> {
    let Some(choices) = object.array(name)? else {
        return Ok(None);
    };
    let path = object.path(name);
    if choices.is_empty() || choices.len() > CHOICES_MAX {
        let reason = format!("must have 1 to {CHOICES_MAX} entries");
        return Err(invalid(path, reason));
    }
    let mut expression = String::new();
    for (index, choice) in choices.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let text = text_at(choice, &path)?;
        if text.is_empty() {
            return Err(invalid(path, "must not be empty"));
        }
        expression.push_str(if index == 0 { "" } else { "|" });
        text.chars().for_each(|c| literal(&mut expression, c));
    }
    bounded(expression, &path).map(|expression| Some(AnswerShape::Regex(expression)))
}

/// A character that stands for itself in an expression.
fn literal(expression: &mut String, c: char) {
    if c.is_alphanumeric() || c == ' ' {
        expression.push(c);
    } else {
        // Writing to a string cannot fail.
        let _ = write!(expression, "\\u{{{:x}}}", u32::from(c));
    }
}
