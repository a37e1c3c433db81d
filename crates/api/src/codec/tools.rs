//! Tools, the choice among them, and the shape that the answer must have.

use super::object::{Object, invalid, unsupported};
use super::shapes;
use crate::error::ApiError;
use crate::json::{Json, clip};
use std::collections::BTreeSet;
use stoa_nodes::work::AnswerShape;

/// Tools that reach the model.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tools {
    /// JSON array for the chat template.
    pub(super) text: String,
    /// What the answer must be.
    pub(super) shape: AnswerShape,
    /// The request used the deprecated `functions` alone: answer in its form.
    pub(super) legacy: bool,
}

struct Tool {
    name: String,
    json: Json,
}

/// What the caller wants of the tools.
enum Choice {
    None,
    Auto,
    Required,
    /// One of these must be called.
    Only(Vec<String>, String),
    /// One of these may be called.
    Allowed(Vec<String>, String),
}

/// Reads `tools`, `functions`, `tool_choice`, `function_call`, `parallel_tool_calls` and the shape of the text.
pub(super) fn tools(root: &Object<'_>, ignored: &mut Vec<String>) -> Result<Tools, ApiError> {
    let mut tools = definitions(root, ignored)?;
    let legacy = root.get("tools").is_none() && root.get("functions").is_some();
    let text_shape = shapes::shape(root)?;
    let choice = match choice(root)? {
        Some(choice) => choice,
        None => legacy_choice(root)?.unwrap_or(Choice::Auto),
    };
    // The deprecated form has room for one call.
    let one = legacy || root.boolean("parallel_tool_calls")? == Some(false);
    let (may_call, must_call) = match one {
        true => (AnswerShape::OneCallAtMost, AnswerShape::OneCall),
        false => (AnswerShape::Any, AnswerShape::ToolCall),
    };
    let shaped = text_shape.is_some();
    // Beside JSON, tools may be called in its place.
    let free = text_shape.unwrap_or(may_call);
    let shape = match choice {
        Choice::Auto => free,
        // With no tools in the prompt there is nothing to forbid.
        Choice::None if tools.is_empty() => free,
        Choice::None if shaped => {
            tools.clear();
            free
        }
        Choice::None => AnswerShape::NoTools,
        Choice::Required if tools.is_empty() => {
            return Err(invalid(
                "tool_choice",
                "a tool call is required but no function is offered",
            ));
        }
        Choice::Required => must_call,
        Choice::Only(names, path) => {
            keep(&mut tools, &names, &path)?;
            if tools.is_empty() {
                return Err(invalid(
                    path,
                    "a tool call is required but names no function",
                ));
            }
            must_call
        }
        Choice::Allowed(names, path) => {
            keep(&mut tools, &names, &path)?;
            free
        }
    };
    if matches!(shape, AnswerShape::Regex(_)) && !tools.is_empty() {
        let reason = "cannot be called in place of a text that must match an expression; send `tool_choice` `none`, or leave one of them out";
        return Err(invalid("tools", reason));
    }
    // Without tools there is no call to count.
    let shape = match shape {
        AnswerShape::OneCallAtMost if tools.is_empty() => AnswerShape::Any,
        shape => shape,
    };
    let text = Json::Array(tools.into_iter().map(|tool| tool.json).collect()).to_text();
    Ok(Tools {
        text,
        shape,
        legacy,
    })
}

/// Keeps the named tools; every name must be known.
fn keep(tools: &mut Vec<Tool>, names: &[String], path: &str) -> Result<(), ApiError> {
    let offered: BTreeSet<&str> = tools.iter().map(|tool| tool.name.as_str()).collect();
    let unknown = names.iter().find(|name| !offered.contains(name.as_str()));
    if let Some(unknown) = unknown {
        return Err(invalid(
            path,
            format!("no function `{}` is offered in `tools`", clip(unknown, 64)),
        ));
    }
    let wanted: BTreeSet<&String> = names.iter().collect();
    tools.retain(|tool| wanted.contains(&tool.name));
    Ok(())
}

fn definitions(root: &Object<'_>, ignored: &mut Vec<String>) -> Result<Vec<Tool>, ApiError> {
    let mut tools = Vec::new();
    for (index, value) in root.array("tools")?.unwrap_or_default().iter().enumerate() {
        let tool = Object::at(value, format!("tools[{index}]"))?;
        match tool.text("type")? {
            None | Some("function") => {
                let function = tool.object("function")?;
                let missing = || ApiError::Missing {
                    param: tool.path("function"),
                };
                tools.push(function_tool(&function.ok_or_else(missing)?)?);
            }
            // Kinds that only other services run (web_search, namespace, custom, …): the model does not see them.
            Some(_) => ignored.push(format!("tools[{index}]")),
        }
    }
    for (index, value) in root
        .array("functions")?
        .unwrap_or_default()
        .iter()
        .enumerate()
    {
        tools.push(function_tool(&Object::at(
            value,
            format!("functions[{index}]"),
        )?)?);
    }
    Ok(tools)
}

/// Name, description and parameters in this order, so that the prompt does not depend on the client's.
fn function_tool(function: &Object<'_>) -> Result<Tool, ApiError> {
    let name = function.required_text("name", 256)?;
    let mut fields = vec![("name".to_owned(), Json::text(name))];
    if let Some(description) = function.text("description")? {
        fields.push(("description".to_owned(), Json::text(description)));
    }
    if function.object("parameters")?.is_some()
        && let Some(parameters) = function.get("parameters")
    {
        fields.push(("parameters".to_owned(), parameters.clone()));
    }
    // Whether its keywords must all be enforced; the model does not see this.
    if function.boolean("strict")? == Some(true) {
        fields.push(("strict".to_owned(), Json::Bool(true)));
    }
    let json = Json::object([
        ("type", Json::text("function")),
        ("function", Json::Object(fields)),
    ]);
    Ok(Tool {
        name: name.to_owned(),
        json,
    })
}

fn choice(root: &Object<'_>) -> Result<Option<Choice>, ApiError> {
    let Some(value) = root.get("tool_choice") else {
        return Ok(None);
    };
    if let Json::Text(word) = value {
        return word_choice(word, "tool_choice").map(Some);
    }
    let choice = Object::at(value, "tool_choice".to_owned())?;
    match choice.required_text("type", 64)? {
        "function" => {
            let missing = || ApiError::Missing {
                param: choice.path("function"),
            };
            let function = choice.object("function")?.ok_or_else(missing)?;
            let name = function.required_text("name", 256)?;
            Ok(Some(Choice::Only(
                vec![name.to_owned()],
                function.path("name"),
            )))
        }
        "allowed_tools" => allowed_tools(&choice).map(Some),
        word @ ("none" | "auto" | "required") => word_choice(word, "tool_choice").map(Some),
        other => Err(unsupported(
            choice.path("type"),
            format!("only functions can be chosen, not `{}`", clip(other, 64)),
        )),
    }
}

fn word_choice(word: &str, path: &str) -> Result<Choice, ApiError> {
    match word {
        "none" => Ok(Choice::None),
        "auto" => Ok(Choice::Auto),
        "required" | "any" => Ok(Choice::Required),
        other => {
            let reason = format!(
                "must be none, auto, required or an object, not `{}`",
                clip(other, 64)
            );
            Err(invalid(path, reason))
        }
    }
}

fn allowed_tools(choice: &Object<'_>) -> Result<Choice, ApiError> {
    let missing = || ApiError::Missing {
        param: choice.path("allowed_tools"),
    };
    let allowed = choice.object("allowed_tools")?.ok_or_else(missing)?;
    let path = allowed.path("tools");
    let mut names = Vec::new();
    for (index, value) in allowed
        .array("tools")?
        .unwrap_or_default()
        .iter()
        .enumerate()
    {
        let tool = Object::at(value, format!("{path}[{index}]"))?;
        // Hosted tools may be named here too; they were left out of `tools` already.
        if let Some(function) = tool.object("function")? {
            names.push(function.required_text("name", 256)?.to_owned());
        }
    }
    match allowed.text("mode")? {
        None | Some("auto") => Ok(Choice::Allowed(names, path)),
        Some("required") => Ok(Choice::Only(names, path)),
        Some(_) => Err(invalid(allowed.path("mode"), "must be auto or required")),
    }
}

fn legacy_choice(root: &Object<'_>) -> Result<Option<Choice>, ApiError> {
    match root.get("function_call") {
        None => Ok(None),
        Some(Json::Text(word)) => word_choice(word, "function_call").map(Some),
        Some(value) => {
            let function = Object::at(value, "function_call".to_owned())?;
            let name = function.required_text("name", 256)?;
            Ok(Some(Choice::Only(
                vec![name.to_owned()],
                function.path("name"),
            )))
        }
    }
}
