//! From a model's text to an answer: text shown, tool calls handed on whole.
//!
//! What is demanded is met by the grammar under which the answer was decoded (0034); what is left to do here is to find tool calls in
//! the text, and a second look that costs little. Tool calls are withheld from the first marker on and checked. One that does not pass,
//! because the limit of tokens cut it, is given as plain text without its markers, with the finish reason of plain text. A demanded
//! shape that was not met all the same fails the generation, and nothing is charged for it.

use crate::tools::{Catalogue, Syntax};
use serde::de::IgnoredAny;
use stoa_engine::Finish;
use stoa_types::FinishReason;
use stoa_verify::ToolCall;

/// What an answer may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Shape {
    Text,
    /// JSON, of which an object may be demanded.
    Json {
        object: bool,
    },
    Tools {
        syntax: Syntax,
        catalogue: Catalogue,
        /// A tool call is demanded.
        required: bool,
        /// More than one may be made.
        several: bool,
        /// JSON may come in place of calls, of which an object may be demanded, and no other text.
        instead: Option<bool>,
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
    /// Whether an answer that may be calls or JSON turned out to be JSON.
    in_json: bool,
}

impl<'a> AnswerStream<'a> {
    pub fn new(shape: &'a Shape) -> Self {
        Self {
            shape,
            held: String::new(),
            in_call: false,
            in_json: false,
        }
    }

    /// Takes text of the model; gives what may be shown.
    pub fn push(&mut self, text: &str) -> String {
        match self.shape {
            Shape::Text => text.to_owned(),
            Shape::Json { .. } => {
                self.held.push_str(text);
                text.to_owned()
            }
            Shape::Tools { required: true, .. } => {
                self.held.push_str(text);
                String::new()
            }
            Shape::Tools {
                syntax,
                instead: Some(_),
                ..
            } => self.push_either(syntax.open, text),
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

    /// Of an answer that is calls or JSON: its begin says which, and JSON is shown as it comes. A marker within JSON is a part of it.
    fn push_either(&mut self, open: &str, text: &str) -> String {
        let shown = self.held.len();
        self.held.push_str(text);
        if self.in_json {
            return self.held[shown..].to_owned();
        }
        if open.starts_with(&self.held) || self.held.starts_with(open) {
            return String::new();
        }
        self.in_json = true;
        self.held.clone()
    }

    /// Judges what was withheld; the error says which demanded shape was not met.
    pub fn finish(self, finish: Finish) -> Result<End, String> {
        // Both are the client's own: its limit and its stop strings.
        let cut = matches!(finish, Finish::Length | Finish::StopString);
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
            Shape::Tools {
                instead: Some(object),
                ..
            } if self.in_json => self.json(*object, cut).map(text),
            Shape::Json { object } => self.json(*object, cut).map(text),
            Shape::Tools {
                syntax,
                catalogue,
                required,
                instead,
                ..
            } => {
                let demanded = *required || instead.is_some();
                let at = self.held.find(syntax.open).unwrap_or(self.held.len());
                match catalogue.calls(*syntax, &self.held[at..]) {
                    Ok(tool_calls) => Ok(End {
                        tail: self.held[..at].to_owned(),
                        tool_calls,
                        finish_reason: FinishReason::ToolCalls,
                    }),
                    Err(reason) if demanded && !cut => Err(format!(
                        "the model made no valid tool call, which was asked for: {reason}"
                    )),
                    Err(_) => Ok(text(syntax.strip(&self.held))),
                }
            }
        }
    }
}

impl AnswerStream<'_> {
    /// What is left to show of JSON, all of which was shown: nothing, if that is what it is.
    fn json(&self, object: bool, cut: bool) -> Result<String, String> {
        match cut || is_json(&self.held, object) {
            true => Ok(String::new()),
            false => Err("the model's answer is not the JSON that was asked for".to_owned()),
        }
    }
}

/// Whether a text is JSON, of an object if one is wanted. It may have numbers that this program cannot hold.
pub(crate) fn is_json(text: &str, object: bool) -> bool {
    let well_formed = match serde_json::from_str::<IgnoredAny>(text) {
        Ok(_) => true,
        // The reader's stack has an end; what is nested deeper is not looked at.
        Err(error) => error.to_string().starts_with("recursion limit exceeded"),
    };
    well_formed && (!object || text.trim_start().starts_with('{'))
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
            several: true,
            instead: None,
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
    fn json_is_shown_as_it_comes_and_looked_at_again_at_its_end() {
        let object = Shape::Json { object: true };
        let (shown, end) = stream(&object, "{\"a\":1e999}", 2, Finish::EndToken);
        assert_eq!(shown, "{\"a\":1e999}");
        assert_eq!(end, text_end("", FinishReason::Stop));
        let any = Shape::Json { object: false };
        assert!(stream(&any, "[1]", 2, Finish::EndToken).1.is_ok());
        let deep = "[".repeat(200) + &"]".repeat(200);
        assert!(stream(&any, &deep, 9, Finish::EndToken).1.is_ok());
        for wrong in ["[1]", "{\"a\":", "Sure: {}", ""] {
            assert!(
                stream(&object, wrong, 2, Finish::EndToken).1.is_err(),
                "{wrong}"
            );
        }
        for (cut, reason) in [
            (Finish::Length, FinishReason::Length),
            (Finish::StopString, FinishReason::Stop),
        ] {
            let (shown, end) = stream(&object, "{\"a\":", 2, cut);
            assert_eq!((shown.as_str(), end), ("{\"a\":", text_end("", reason)));
        }
    }

    #[test]
    fn an_answer_that_may_be_calls_or_json_is_what_its_begin_says() {
        let Shape::Tools {
            syntax, catalogue, ..
        } = tools(false)
        else {
            panic!("tools")
        };
        let either = Shape::Tools {
            syntax,
            catalogue,
            required: false,
            several: false,
            instead: Some(true),
        };
        // Letters of a marker within JSON are letters.
        let json = r#"{"a":"<|tool_call|>"}"#;
        for size in 1..30 {
            let (shown, end) = stream(&either, json, size, Finish::EndToken);
            assert_eq!(
                (shown.as_str(), end),
                (json, text_end("", FinishReason::Stop))
            );
            let (shown, end) = stream(&either, CALL, size, Finish::EndToken);
            assert_eq!(shown, "");
            assert_eq!(end.expect("valid").finish_reason, FinishReason::ToolCalls);
            let (shown, end) = stream(&either, "{\"a\":", size, Finish::Length);
            assert_eq!(
                (shown.as_str(), end),
                ("{\"a\":", text_end("", FinishReason::Length))
            );
            let (shown, end) = stream(&either, "<|tool", size, Finish::Length);
            assert_eq!(
                (shown.as_str(), end),
                ("", text_end("<|tool", FinishReason::Length))
            );
        }
        for wrong in ["[1]", "Sure: {}", "", "<|tool", "<|tool_call|>{}"] {
            assert!(
                stream(&either, wrong, 2, Finish::EndToken).1.is_err(),
                "{wrong}"
            );
        }
    }

    #[test]
    fn a_cancelled_answer_keeps_what_was_shown_and_nothing_else() {
        let (shown, end) = stream(&tools(false), &format!("yes {CALL}"), 4, Finish::Cancelled);
        assert_eq!(shown, "yes ");
        assert_eq!(end, text_end("", FinishReason::Cancelled));
    }
}
