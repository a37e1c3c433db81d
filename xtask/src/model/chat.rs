//! The words of a task: turns, tools, and the text that the chat template makes of them.

use serde_json::{Map, Value, json};

/// A type of tool argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A JSON string.
    Text,
    /// A JSON integer.
    Integer,
    /// True or false.
    Flag,
}

impl Kind {
    /// The name of the type in a JSON schema.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Text => "string",
            Kind::Integer => "integer",
            Kind::Flag => "boolean",
        }
    }
}

/// One argument of a tool.
#[derive(Debug, Clone)]
pub struct Argument {
    /// Its name.
    pub name: String,
    /// Its type.
    pub kind: Kind,
    /// Whether a call must give it.
    pub required: bool,
}

/// A tool as a request offers it. Arguments are kept sorted by name, as the chat template shows them.
#[derive(Debug, Clone)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// What it does, in one sentence.
    pub description: String,
    /// Its arguments.
    pub arguments: Vec<Argument>,
}

impl Tool {
    /// The line that the chat template writes for this tool.
    pub fn line(&self) -> String {
        let list: Vec<String> = self
            .arguments
            .iter()
            .map(|a| {
                format!(
                    "{}{}: {}",
                    a.name,
                    if a.required { "" } else { "?" },
                    a.kind.name()
                )
            })
            .collect();
        format!("{}({}) {}", self.name, list.join(", "), self.description)
    }

    /// The tool in the wire format of chat completions.
    pub fn wire(&self) -> Value {
        let properties: Map<String, Value> = self
            .arguments
            .iter()
            .map(|a| (a.name.clone(), json!({ "type": a.kind.name() })))
            .collect();
        let required: Vec<&str> = self
            .arguments
            .iter()
            .filter(|a| a.required)
            .map(|a| a.name.as_str())
            .collect();
        json!({ "type": "function", "function": { "name": self.name, "description": self.description,
            "parameters": { "type": "object", "properties": properties, "required": required } } })
    }
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turn {
    /// What the system prompt says.
    System(String),
    /// What the user says.
    User(String),
    /// What the assistant answers.
    Assistant(String),
    /// A tool call of the assistant: name and JSON object of arguments.
    Call {
        /// The tool.
        name: String,
        /// Its arguments as compact JSON.
        arguments: String,
    },
    /// What a tool returned.
    Result(String),
}

impl Turn {
    /// The text between the role marker and the end marker.
    pub fn body(&self) -> String {
        match self {
            Turn::System(text) | Turn::User(text) | Turn::Assistant(text) | Turn::Result(text) => {
                text.clone()
            }
            Turn::Call { name, arguments } => {
                format!("<|tool_call|>{{\"name\":\"{name}\",\"arguments\":{arguments}}}")
            }
        }
    }

    fn marker(&self) -> &'static str {
        match self {
            Turn::System(_) => "<|system|>",
            Turn::User(_) => "<|user|>",
            Turn::Assistant(_) | Turn::Call { .. } => "<|assistant|>",
            Turn::Result(_) => "<|tool|>",
        }
    }

    /// The message in the wire format of chat completions.
    pub fn wire(&self) -> Value {
        match self {
            Turn::System(text) => json!({ "role": "system", "content": text }),
            Turn::User(text) => json!({ "role": "user", "content": text }),
            Turn::Assistant(text) => json!({ "role": "assistant", "content": text }),
            Turn::Call { name, arguments } => {
                json!({ "role": "assistant", "content": null, "tool_calls": [
                { "id": "call_0", "type": "function", "function": { "name": name, "arguments": arguments } }] })
            }
            Turn::Result(text) => {
                json!({ "role": "tool", "tool_call_id": "call_0", "content": text })
            }
        }
    }
}

/// The text of a conversation, exactly as the chat template writes it (without the generation prompt).
pub fn render(tools: &[Tool], turns: &[Turn]) -> String {
    let mut text = String::from("<|bos|>");
    if !tools.is_empty() {
        let lines: Vec<String> = tools.iter().map(Tool::line).collect();
        text.push_str(&format!("<|tools|>{}<|end|>", lines.join("\n")));
    }
    for turn in turns {
        text.push_str(turn.marker());
        text.push_str(&turn.body());
        text.push_str("<|end|>");
    }
    text
}

/// How an answer is judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// The text must be equal.
    Exact,
    /// The call must name the same tool with the same arguments.
    Call,
    /// A story: every one of these words must occur and none of the other known names may.
    Story(Vec<String>),
}

/// One task: a conversation that ends in the expected answer.
#[derive(Debug, Clone)]
pub struct Task {
    /// The family, under which it is scored.
    pub family: &'static str,
    /// What decides the side of the split; empty means training only. The first is the one that a held-out task is held out by.
    pub keys: Vec<String>,
    /// The tools offered.
    pub tools: Vec<Tool>,
    /// The turns; the last one is the answer.
    pub turns: Vec<Turn>,
    /// How the answer is judged.
    pub check: Check,
}

impl Task {
    /// A task of one question and one answer, judged by equality.
    pub fn ask(
        family: &'static str,
        key: String,
        question: impl Into<String>,
        answer: impl Into<String>,
    ) -> Self {
        let turns = vec![Turn::User(question.into()), Turn::Assistant(answer.into())];
        Self {
            family,
            keys: vec![key],
            tools: Vec::new(),
            turns,
            check: Check::Exact,
        }
    }

    /// The same, but never held out.
    pub fn train_only(
        family: &'static str,
        question: impl Into<String>,
        answer: impl Into<String>,
    ) -> Self {
        let mut task = Self::ask(family, String::new(), question, answer);
        task.keys.clear();
        task
    }
}
