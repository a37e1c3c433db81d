//! From a model's text to an answer: tool calls withheld, checked, and only then handed on (DECISIONS 35).
//!
//! Decoding is not constrained by a grammar yet. What can be streamed at once is streamed; what must be checked first is withheld:
//! everything from the first tool call on, the whole answer where a tool call or a JSON object is demanded. A tool call that does
//! not pass is given as plain text without its markers, with the finish reason of plain text; a demanded shape that is not met
//! fails the generation, and nothing is charged for it.

use crate::tools::{Catalogue, Syntax};
use serde_json::Value;
use stoa_engine::Finish;
use stoa_types::FinishReason;
use stoa_verify::ToolCall;

/// What an answer may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Shape {
    Text,
    JsonObject,
    Tools {
        syntax: Syntax,
        catalogue: Catalogue,
        /// A tool call is demanded.
        required: bool,
    },
}

/// The end of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct End {
    /// Text that was withheld and is now certain.
    pub tail: String,
    pub tool_calls: Vec<ToolCall>,
    pub finish_reason: FinishReason,
}

/// Splits a model's text into what can be shown and what must be checked first.
#[derive(Debug)]
pub(crate) struct AnswerStream<'a> {
    shape: &'a Shape,
    held: String,
    in_call: bool,
}

impl<'a> AnswerStream<'a> {
    pub fn new(shape: &'a Shape) -> Self {
        Self {
            shape,
            held: String::new(),
            in_call: false,
        }
    }

    /// Takes text of the model; gives what may be shown.
    pub fn push(&mut self, text: &str) -> String {
        match self.shape {
            Shape::Text => text.to_owned(),
            Shape::JsonObject | Shape::Tools { required: true, .. } => {
                self.held.push_str(text);
                String::new()
            }
            Shape::Tools { syntax, .. } => {
                self.held.push_str(text);
                if self.in_call {
                    return String::new();
                }
                let certain = match self.held.find(syntax.open) {
                    Some(at) => {
                        self.in_call = true;
                        at
                    }
                    None => self.held.len() - begun(&self.held, syntax.open),
                };
                let rest = self.held.split_off(certain);
                std::mem::replace(&mut self.held, rest)
            }
        }
    }

    /// Judges what was withheld; the error says which demanded shape was not met.
    pub fn finish(self, finish: Finish) -> Result<End, String> {
        let cut = finish == Finish::Length;
        let text_reason = match finish {
            Finish::EndToken | Finish::StopString => FinishReason::Stop,
            Finish::Length => FinishReason::Length,
            Finish::Cancelled => FinishReason::Cancelled,
        };
        let text = |tail: String| End {
            tail,
            tool_calls: Vec::new(),
            finish_reason: text_reason,
        };
        if finish == Finish::Cancelled {
            return Ok(text(String::new()));
        }
        match self.shape {
            Shape::Text => Ok(text(String::new())),
            // A cut object is what the client's own limit asked for.
            Shape::JsonObject if cut || is_object(&self.held) => Ok(text(self.held)),
            Shape::JsonObject => {
                Err("the model's answer is not the JSON object that was asked for".to_owned())
            }
            Shape::Tools {
                syntax,
                catalogue,
                required,
            } => {
                let at = self.held.find(syntax.open).unwrap_or(self.held.len());
                match catalogue.calls(*syntax, &self.held[at..]) {
                    Ok(tool_calls) => Ok(End {
                        tail: self.held[..at].to_owned(),
                        tool_calls,
                        finish_reason: FinishReason::ToolCalls,
                    }),
                    Err(reason) if *required && !cut => Err(format!(
                        "the model made no valid tool call, which was asked for: {reason}"
                    )),
                    Err(_) => Ok(text(syntax.strip(&self.held))),
                }
            }
        }
    }
}

pub(crate) fn is_object(text: &str) -> bool {
    matches!(serde_json::from_str(text), Ok(Value::Object(_)))
}

/// Length of the longest end of `text` with which `marker` may begin.
fn begun(text: &str, marker: &str) -> usize {
    (1..marker.len())
        .rev()
        .find(|n| marker.is_char_boundary(*n) && text.ends_with(&marker[..*n]))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALL: &str = r#"<|tool_call|>{"name":"now","arguments":{}}"#;

    fn tools(required: bool) -> Shape {
        Shape::Tools {
            syntax: Syntax::of_template("<|tool_call|>").expect("known"),
            catalogue: Catalogue::parse(r#"[{"name":"now"}]"#).expect("valid"),
            required,
        }
    }

    /// Streams `text` in pieces of `size` bytes; gives what was shown before the end, and the end.
    fn stream(
        shape: &Shape,
        text: &str,
        size: usize,
        finish: Finish,
    ) -> (String, Result<End, String>) {
        let mut stream = AnswerStream::new(shape);
        let mut shown = String::new();
        let characters: Vec<char> = text.chars().collect();
        for piece in characters.chunks(size) {
            shown.push_str(&stream.push(&piece.iter().collect::<String>()));
        }
        (shown, stream.finish(finish))
    }

    fn text_end(tail: &str, finish_reason: FinishReason) -> Result<End, String> {
        Ok(End {
            tail: tail.to_owned(),
            tool_calls: Vec::new(),
            finish_reason,
        })
    }

    #[test]
    fn a_tool_call_is_never_shown_as_text_however_it_is_cut() {
        for size in 1..50 {
            let (shown, end) = stream(
                &tools(false),
                &format!("é a < b {CALL}"),
                size,
                Finish::EndToken,
            );
            assert_eq!(shown, "é a < b ");
            let end = end.expect("valid");
            assert_eq!(
                (end.tail.as_str(), end.finish_reason),
                ("", FinishReason::ToolCalls)
            );
            assert_eq!(end.tool_calls[0].name, "now");
        }
    }

    #[test]
    fn an_invalid_tool_call_becomes_plain_text_with_the_reason_of_text() {
        let broken = r#"<|tool_call|>{"name":"later","arguments":{}}"#;
        let body = r#"{"name":"later","arguments":{}}"#;
        for (finish, reason) in [
            (Finish::EndToken, FinishReason::Stop),
            (Finish::Length, FinishReason::Length),
        ] {
            let (shown, end) = stream(&tools(false), broken, 3, finish);
            assert_eq!(shown, "");
            assert_eq!(end, text_end(body, reason));
        }
    }

    #[test]
    fn text_that_only_looks_like_a_marker_is_shown_in_the_end() {
        let (shown, end) = stream(&tools(false), "x <|tool", 1, Finish::EndToken);
        assert_eq!(shown, "x ");
        assert_eq!(end, text_end("<|tool", FinishReason::Stop));
    }

    #[test]
    fn a_demanded_tool_call_that_is_not_made_fails() {
        let (shown, end) = stream(&tools(true), "I would rather talk", 2, Finish::EndToken);
        assert_eq!(shown, "");
        assert!(end.expect_err("no call").contains("no valid tool call"));
        let (_, end) = stream(&tools(true), CALL, 2, Finish::EndToken);
        assert_eq!(end.expect("valid").finish_reason, FinishReason::ToolCalls);
    }

    #[test]
    fn a_demanded_object_is_shown_only_when_it_is_one() {
        let shape = Shape::JsonObject;
        let (shown, end) = stream(&shape, " {\"a\":1}\n", 2, Finish::EndToken);
        assert_eq!(shown, "");
        assert_eq!(end, text_end(" {\"a\":1}\n", FinishReason::Stop));
        for wrong in ["[1]", "{\"a\":", "Sure: {}", ""] {
            assert!(
                stream(&shape, wrong, 2, Finish::EndToken).1.is_err(),
                "{wrong}"
            );
        }
        let (_, cut) = stream(&shape, "{\"a\":", 2, Finish::Length);
        assert_eq!(cut, text_end("{\"a\":", FinishReason::Length));
    }

    #[test]
    fn a_cancelled_answer_keeps_what_was_shown_and_nothing_else() {
        let (shown, end) = stream(&tools(false), &format!("yes {CALL}"), 4, Finish::Cancelled);
        assert_eq!(shown, "yes ");
        assert_eq!(end, text_end("", FinishReason::Cancelled));
    }
}
