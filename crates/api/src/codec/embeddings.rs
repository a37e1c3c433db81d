//! The body of `POST /v1/embeddings`.

use super::object::{Object, invalid, text_at};
use super::{Delivery, ParsedRequest, Parts, VectorForm, finish_request, parse, sampling};
use crate::error::ApiError;
use crate::json::Json;
use stoa_nodes::work::{AnswerShape, INPUTS_MAX, Input, Prompt};

const FIELDS: &[&str] = &["model", "input", "encoding_format", "dimensions", "stoa"];

/// Reads the body of `POST /v1/embeddings`.
pub fn parse_embeddings(body: &[u8]) -> Result<ParsedRequest, ApiError> {
    let json = parse(body)?;
    let root = Object::root(&json)?;
    let model = root.required_text("model", 256)?;
    let inputs = inputs(&root)?;
    let dimensions = root.integer("dimensions", 1, i128::from(u32::MAX))?;
    let parts = Parts {
        model,
        prompt: Prompt::Embed {
            inputs,
            dimensions: dimensions.map_or(0, |n| u32::try_from(n).expect("the range was checked")),
        },
        answer: AnswerShape::Any,
        output_tokens_max: None,
        logprobs: None,
        message_count: 0,
        delivery: Delivery {
            vectors: form(&root)?,
            ..Delivery::default()
        },
    };
    finish_request(
        body,
        &root,
        parts,
        sampling::no_sampling(),
        FIELDS,
        Vec::new(),
    )
}

fn form(root: &Object<'_>) -> Result<VectorForm, ApiError> {
    match root.text("encoding_format")? {
        None | Some("float") => Ok(VectorForm::Float),
        Some("base64") => Ok(VectorForm::Base64),
        Some(_) => Err(invalid("encoding_format", "must be `float` or `base64`")),
    }
}

/// A text, token ids, or a list of either: whatever the list holds, all of it is of one kind.
fn inputs(root: &Object<'_>) -> Result<Vec<Input>, ApiError> {
    let items = match root.required("input")? {
        Json::Text(text) => return Ok(vec![text_input(text, "input")?]),
        Json::Array(items) => items,
        other => {
            return Err(invalid(
                "input",
                format!("must be a string or an array, not {}", other.kind()),
            ));
        }
    };
    match items.first() {
        None => return Err(invalid("input", "must not be empty")),
        Some(Json::Number(_)) => return Ok(vec![ids(items, "input")?]),
        Some(_) => {}
    }
    if items.len() > INPUTS_MAX {
        return Err(invalid(
            "input",
            format!("must hold at most {INPUTS_MAX} inputs, not {}", items.len()),
        ));
    }
    let of_texts = matches!(items.first(), Some(Json::Text(_)));
    let one = |(index, item): (usize, &Json)| {
        let path = format!("input[{index}]");
        match item {
            item if of_texts => text_input(text_at(item, &path)?, &path),
            Json::Array(items) => ids(items, &path),
            other => Err(invalid(
                path,
                format!(
                    "must be a string or an array of token ids, not {}",
                    other.kind()
                ),
            )),
        }
    };
    items.iter().enumerate().map(one).collect()
}

fn text_input(text: &str, path: &str) -> Result<Input, ApiError> {
    if text.is_empty() {
        return Err(invalid(path, "must not be empty"));
    }
    Ok(Input::Text(text.to_owned()))
}

fn ids(items: &[Json], path: &str) -> Result<Input, ApiError> {
    if items.is_empty() {
        return Err(invalid(path, "must not be empty"));
    }
    Ok(Input::Tokens(sampling::token_ids(items, path)?))
}
