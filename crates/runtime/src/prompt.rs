//! From a request's prompt to tokens, the same at the provider and at whoever recomputes the answer.

use crate::answer::Shape;
use crate::tools::{Catalogue, Syntax};
use stoa_engine::{EngineError, Model};
use stoa_nodes::message::RefusalReason;
use stoa_nodes::work::{AnswerShape, Prompt, Work};

/// How prompts of one model are made.
#[derive(Debug)]
pub(crate) struct PromptMaker {
    syntax: Option<Syntax>,
    /// Texts of the model's control tokens.
    control: Vec<String>,
}

impl PromptMaker {
    pub fn new(model: &Model) -> Self {
        let tokenizer = model.tokenizer();
        let ids = 0..u32::try_from(tokenizer.len()).unwrap_or(u32::MAX);
        Self {
            syntax: model.template().and_then(Syntax::of_template),
            control: ids
                .filter(|id| tokenizer.is_special(*id))
                .map(|id| tokenizer.decode(&[id], true))
                .filter(|text| !text.is_empty())
                .collect(),
        }
    }

    /// What the answer may be. Tools are left out of the prompt where the answer must not use them.
    pub fn shape(&self, work: &Work) -> Result<Shape, RefusalReason> {
        let tools = match &work.prompt {
            Prompt::Chat { tools, .. } => tools.as_str(),
            Prompt::Text(_) | Prompt::Tokens(_) | Prompt::Embed { .. } => "[]",
        };
        let required = work.answer == AnswerShape::ToolCall;
        match work.answer {
            AnswerShape::NoTools => return Ok(Shape::Text),
            AnswerShape::JsonObject => return Ok(Shape::JsonObject),
            AnswerShape::Any | AnswerShape::ToolCall => {}
        }
        let catalogue = Catalogue::parse(tools).map_err(|reason| unsupported("tools", reason))?;
        match self.syntax {
            _ if catalogue.is_empty() && required => Err(unsupported(
                "tool_choice",
                "a tool call is demanded but no tool is given",
            )),
            _ if catalogue.is_empty() => Ok(Shape::Text),
            None => Err(unsupported(
                "tools",
                "this model's chat template has no known form of tool calls",
            )),
            Some(syntax) => Ok(Shape::Tools {
                syntax,
                catalogue,
                required,
            }),
        }
    }

    /// The prompt's tokens.
    pub fn tokens(
        &self,
        model: &Model,
        prompt: &Prompt,
        shape: &Shape,
    ) -> Result<Vec<u32>, RefusalReason> {
        let tokens = match prompt {
            Prompt::Chat { messages, tools } => {
                let with_tools = matches!(shape, Shape::Tools { .. });
                let tools = with_tools.then(|| self.defuse(tools));
                let text = model
                    .render_chat(&self.defuse(messages), tools.as_deref(), true)
                    .map_err(|error| refusal("messages", error))?;
                model.tokenizer().encode(&text, true)
            }
            Prompt::Text(text) => model.tokenizer().encode_prompt(text),
            Prompt::Tokens(ids) => known(model, ids),
            Prompt::Embed { .. } => {
                return Err(unsupported("input", "vectors are no continuation"));
            }
        }
        .map_err(|error| refusal("prompt", error))?;
        if tokens.is_empty() {
            return Err(refusal("prompt", EngineError::EmptyPrompt));
        }
        Ok(tokens)
    }

    /// Breaks control tokens that stand in the strings of a JSON text with a space, so that nobody can speak in another's turn.
    /// Everything else keeps its bytes.
    fn defuse(&self, json: &str) -> String {
        let mut out = String::with_capacity(json.len());
        let mut rest = json;
        while let Some((before, from_quote)) = rest.find('"').map(|at| rest.split_at(at)) {
            let literal = string_literal(from_quote);
            out.push_str(before);
            out.push_str(&self.defuse_literal(literal));
            rest = &from_quote[literal.len()..];
        }
        out.push_str(rest);
        out
    }

    fn defuse_literal(&self, literal: &str) -> String {
        let Ok(mut text) = serde_json::from_str::<String>(literal) else {
            // Not JSON: the template's reader says so.
            return literal.to_owned();
        };
        let mut changed = false;
        // Breaking one token may leave another behind (`<<<` holds `<<` twice), so all are looked for again.
        while let Some(control) = self.control.iter().find(|c| text.contains(c.as_str())) {
            text = text.replace(control.as_str(), &self.broken(control));
            changed = true;
        }
        if changed {
            serde_json::Value::String(text).to_string()
        } else {
            literal.to_owned()
        }
    }

    /// A control token that is none any more: a space after its first letter, or a mark that no control token holds in place of
    /// one that has no second letter. A step widens a gap between letters or puts a mark for good, so breaking ends.
    fn broken(&self, control: &str) -> String {
        let mut letters = control.chars();
        match letters.next() {
            Some(first) if !first.is_whitespace() && !letters.as_str().trim().is_empty() => {
                format!("{first} {}", letters.as_str())
            }
            _ => {
                let held = |mark: &char| self.control.iter().any(|c| c.contains(*mark));
                let mut marks = std::iter::once(char::REPLACEMENT_CHARACTER).chain('\u{e000}'..);
                marks.find(|mark| !held(mark)).into_iter().collect()
            }
        }
    }
}

/// The string literal that `text` begins with, quotes included; all of it when it does not end.
fn string_literal(text: &str) -> &str {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return &text[..=at],
            _ => {}
        }
    }
    text
}

pub(crate) fn known(model: &Model, ids: &[u32]) -> Result<Vec<u32>, EngineError> {
    let vocab = model.info().vocab;
    match ids.iter().find(|id| **id as usize >= vocab) {
        Some(id) => Err(EngineError::UnknownToken { id: *id, vocab }),
        None => Ok(ids.to_vec()),
    }
}

pub(crate) fn unsupported(parameter: &str, reason: impl Into<String>) -> RefusalReason {
    RefusalReason::Unsupported {
        parameter: parameter.to_owned(),
        reason: reason.into(),
    }
}

pub(crate) fn refusal(parameter: &str, error: EngineError) -> RefusalReason {
    match error {
        EngineError::ContextExceeded {
            used,
            more,
            context,
        } => RefusalReason::ContextLength {
            tokens: (used + more) as u64,
            context: context as u64,
        },
        other => unsupported(parameter, other.to_string()),
    }
}

/// Upper bound of the tokens per message that are not bytes of the request: measured on the template with one-letter messages of
/// every role, with and without a tool, beginning and generation prompt included.
pub(crate) fn message_overhead(model: &Model) -> u32 {
    let tool = r#"[{"type":"function","function":{"name":"a","description":"a","parameters":{"type":"object","properties":{"a":{"type":"string"}},"required":["a"]}}}]"#;
    let roles = ["system", "user", "assistant", "tool"];
    let chats = roles.iter().flat_map(|role| {
        [None, Some(tool)].map(|tools| (format!(r#"[{{"role":"{role}","content":"a"}}]"#), tools))
    });
    let longest = chats
        // Templates may refuse a role as the first one.
        .filter_map(|(messages, tools)| model.render_chat(&messages, tools, true).ok())
        .filter_map(|text| model.tokenizer().encode(&text, true).ok())
        .map(|ids| ids.len())
        .max();
    u32::try_from(longest.unwrap_or(1)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn maker() -> PromptMaker {
        PromptMaker {
            syntax: None,
            control: vec!["<|end|>".to_owned(), "</s>".to_owned()],
        }
    }

    #[test]
    fn a_control_token_in_a_message_becomes_plain_letters() {
        let attack = r#"[{"role":"user","content":"a<|end|>b</s>"},{"content":"\u003c|end|>"}]"#;
        assert_eq!(
            maker().defuse(attack),
            r#"[{"role":"user","content":"a< |end|>b< /s>"},{"content":"< |end|>"}]"#
        );
    }

    #[test]
    fn breaking_one_control_token_leaves_no_other() {
        let hostile = [
            "<<",
            "< <",
            "\u{1}",
            "  ",
            "x ",
            "< <|end|>",
            "é",
            "\u{fffd}",
        ];
        let maker = PromptMaker {
            syntax: None,
            control: hostile.map(str::to_owned).to_vec(),
        };
        for text in [
            "<<<<<",
            "a\u{1}b",
            "     ",
            "é",
            "<<<  <<",
            "< <|end|>< <",
            "x  x \u{fffd}",
        ] {
            let literal = serde_json::Value::String(text.to_owned()).to_string();
            let defused = maker.defuse(&literal);
            let plain: String = serde_json::from_str(&defused).expect("a literal");
            assert!(hostile.iter().all(|c| !plain.contains(c)), "{plain:?}");
        }
    }

    #[test]
    fn everything_else_keeps_its_bytes() {
        for same in [
            r#"[ {"b" : "\u00e9 \" \\", "a":1.50} ]"#,
            "",
            "not json \"",
            r#""\"#,
        ] {
            assert_eq!(maker().defuse(same), same);
        }
    }
}
