//! Messages: roles, content parts and tool calls, reduced to what a chat template reads.

use super::object::{Object, invalid, text_at, unsupported};
use crate::error::ApiError;
use crate::json::{Json, clip};

/// The conversation as a JSON array and its length. Roles become `system`, `user`, `assistant` or `tool`; a list of text parts
/// becomes one string, parts joined by a line end; unknown fields are left out.
pub(super) fn messages(
    root: &Object<'_>,
    ignored: &mut Vec<String>,
) -> Result<(String, u32), ApiError> {
    root.required("messages")?;
    let list = root.array("messages")?.unwrap_or_default();
    if list.is_empty() {
        return Err(invalid("messages", "must hold at least one message"));
    }
    let count = u32::try_from(list.len()).map_err(|_| invalid("messages", "too many messages"))?;
    let read = list
        .iter()
        .enumerate()
        .map(|(index, value)| message(&Object::at(value, format!("messages[{index}]"))?, ignored));
    let messages = read.collect::<Result<Vec<_>, _>>()?;
    Ok((Json::Array(messages).to_text(), count))
}

fn message(from: &Object<'_>, ignored: &mut Vec<String>) -> Result<Json, ApiError> {
    let role = match from.required_text("role", 32)? {
        "system" | "developer" => "system",
        "user" => "user",
        "assistant" => "assistant",
        "tool" | "function" => "tool",
        other => {
            let reason = format!(
                "must be developer, system, user, assistant, tool or function, not `{}`",
                clip(other, 32)
            );
            return Err(invalid(from.path("role"), reason));
        }
    };
    let content = match from.get("content") {
        Some(value) => content(value, &from.path("content"))?,
        None if role == "assistant" => String::new(),
        None => {
            return Err(ApiError::Missing {
                param: from.path("content"),
            });
        }
    };
    let mut fields = vec![
        ("role".to_owned(), Json::text(role)),
        ("content".to_owned(), Json::Text(content)),
    ];
    for name in ["name", "tool_call_id"] {
        if let Some(text) = from.text(name)? {
            fields.push((name.to_owned(), Json::text(text)));
        }
    }
    // What the model thought before it said that, in either of the names that servers give it.
    if role == "assistant"
        && let Some(text) = from.text("reasoning_content")?.or(from.text("reasoning")?)
    {
        fields.push(("reasoning_content".to_owned(), Json::text(text)));
    }
    let calls = tool_calls(from, ignored)?;
    if !calls.is_empty() {
        fields.push(("tool_calls".to_owned(), Json::Array(calls)));
    }
    Ok(Json::Object(fields))
}

/// Most arguments for a chat template.
const ARGUMENTS_MAX: usize = 16;
/// Longest text of an argument, in characters.
const ARGUMENT_TEXT_MAX: usize = 256;
/// What a template always gets, and no request can replace.
const RESERVED: [&str; 5] = [
    "messages",
    "tools",
    "add_generation_prompt",
    "bos_token",
    "eos_token",
];

/// The object of further arguments for the chat template (`chat_template_kwargs`), such as `enable_thinking`; empty for none. Texts, numbers
/// and truth values are taken.
pub(super) fn template_arguments(root: &Object<'_>) -> Result<String, ApiError> {
    let Some(asked) = root.object("chat_template_kwargs")? else {
        return Ok(String::new());
    };
    let mut fields = Vec::new();
    for (name, value) in asked.fields() {
        let path = asked.path(name);
        if RESERVED.contains(&name) {
            return Err(invalid(path, "is not for a request to set"));
        }
        let fits = match value {
            Json::Text(text) => text.chars().count() <= ARGUMENT_TEXT_MAX,
            Json::Bool(_) | Json::Number(_) => true,
            _ => false,
        };
        if !fits {
            let reason = format!(
                "must be true, false, a number, or a text of at most {ARGUMENT_TEXT_MAX} characters"
            );
            return Err(invalid(path, reason));
        }
        fields.push((name.to_owned(), value.clone()));
    }
    if fields.len() > ARGUMENTS_MAX {
        let reason = format!("must hold at most {ARGUMENTS_MAX} arguments");
        return Err(invalid("chat_template_kwargs", reason));
    }
    if fields.is_empty() {
        return Ok(String::new());
    }
    Ok(Json::Object(fields).to_text())
}

/// Text of a string or of a list of parts.
fn content(value: &Json, path: &str) -> Result<String, ApiError> {
    match value {
        Json::Text(text) => Ok(text.clone()),
        Json::Array(parts) => {
            let texts = parts.iter().enumerate().map(|(index, value)| {
                let path = format!("{path}[{index}]");
                part(value, path)
            });
            Ok(texts.collect::<Result<Vec<_>, _>>()?.join("\n"))
        }
        other => Err(invalid(
            path,
            format!(
                "must be a string or an array of parts, not {}",
                other.kind()
            ),
        )),
    }
}

fn part(value: &Json, path: String) -> Result<String, ApiError> {
    if let Json::Text(text) = value {
        return Ok(text.clone());
    }
    let part = Object::at(value, path.clone())?;
    match part.required_text("type", 64)? {
        "text" | "input_text" | "output_text" => {
            Ok(text_at(part.required("text")?, &part.path("text"))?.to_owned())
        }
        "refusal" => Ok(text_at(part.required("refusal")?, &part.path("refusal"))?.to_owned()),
        kind @ ("image_url" | "input_audio" | "file" | "input_image" | "input_file"
        | "video_url") => Err(unsupported(
            path,
            format!("the models of this network read text only, not `{kind}`"),
        )),
        other => Err(invalid(
            part.path("type"),
            format!("`{}` is no content part", clip(other, 64)),
        )),
    }
}

/// Calls of an assistant message, the deprecated single `function_call` included.
fn tool_calls(from: &Object<'_>, ignored: &mut Vec<String>) -> Result<Vec<Json>, ApiError> {
    let mut calls = Vec::new();
    for (index, value) in from
        .array("tool_calls")?
        .unwrap_or_default()
        .iter()
        .enumerate()
    {
        let call = Object::at(value, format!("{}[{index}]", from.path("tool_calls")))?;
        let Some(function) = call.object("function")? else {
            match call.text("type")? {
                None | Some("function") => {
                    return Err(ApiError::Missing {
                        param: call.path("function"),
                    });
                }
                Some(_) => ignored.push(format!("{}[{index}]", from.path("tool_calls"))),
            }
            continue;
        };
        let id = call
            .text("id")?
            .map_or_else(|| format!("call_{index}"), str::to_owned);
        calls.push(function_call(id, &function)?);
    }
    if let Some(function) = from.object("function_call")? {
        calls.push(function_call(format!("call_{}", calls.len()), &function)?);
    }
    Ok(calls)
}

fn function_call(id: String, function: &Object<'_>) -> Result<Json, ApiError> {
    let name = function.required_text("name", 256)?;
    let arguments = function.text("arguments")?.unwrap_or("{}");
    Ok(Json::object([
        ("id", Json::Text(id)),
        ("type", Json::text("function")),
        (
            "function",
            Json::object([
                ("name", Json::text(name)),
                ("arguments", Json::text(arguments)),
            ]),
        ),
    ]))
}
