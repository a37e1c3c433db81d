//! One streamed answer of an upstream server: its events in the only order that makes an answer, or a fault that names what is wrong.
//!
//! The structs here read less than `stoa_openai`'s and other things beside: what is needed for counting stands in fields that OpenAI
//! does not have (`timings`, counts on every piece).

use super::UpstreamFault;
use super::fault::word;
use serde::Deserialize;
use std::borrow::Cow;
use stoa_types::FinishReason;

/// Counts of a whole answer as the server tells them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) struct Usage {
    pub prompt_tokens: u64,
    #[serde(default)]
    pub completion_tokens: u64,
}

#[derive(Deserialize)]
struct Piece<'a> {
    #[serde(borrow, default)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    choices: Vec<Choice<'a>>,
    #[serde(default)]
    usage: Option<Usage>,
    /// llama.cpp's running counts.
    #[serde(default)]
    timings: Option<Timings>,
    #[serde(default)]
    error: Option<serde_json::Value>,
}

#[derive(Clone, Copy, Deserialize)]
struct Timings {
    #[serde(default)]
    cache_n: u64,
    #[serde(default)]
    prompt_n: u64,
    #[serde(default)]
    predicted_n: u64,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(default)]
    index: u32,
    #[serde(borrow, default)]
    delta: Option<Delta<'a>>,
    /// Of `/v1/completions`.
    #[serde(borrow, default)]
    text: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    finish_reason: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(borrow, default)]
    content: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    reasoning_content: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    reasoning: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    tool_calls: Option<Vec<CallPiece<'a>>>,
}

#[derive(Deserialize)]
struct CallPiece<'a> {
    #[serde(default)]
    index: u32,
    #[serde(borrow, default)]
    function: Option<FunctionPiece<'a>>,
}

#[derive(Deserialize)]
struct FunctionPiece<'a> {
    #[serde(borrow, default)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    arguments: Option<Cow<'a, str>>,
}

/// A tool call as it was put together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Call {
    pub name: String,
    pub arguments: String,
}

/// What one event brought.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Step {
    /// Reasoning that is set apart; it comes before the text.
    pub thought: String,
    /// Text of the answer.
    pub text: String,
    /// Bytes of what is not shown at once or at all: tool calls.
    pub hidden: usize,
    /// The server's running counts, where it tells them.
    pub so_far: Option<Usage>,
}

impl Step {
    /// Bytes that the server sent of the answer.
    fn bytes(&self) -> usize {
        self.thought.len() + self.text.len() + self.hidden
    }
}

/// How a stream that was right ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ending {
    pub finish: FinishReason,
    pub calls: Vec<Call>,
    pub usage: Usage,
}

/// Most tool calls of one answer.
const CALLS_MAX: usize = 128;
/// Most bytes of all tool calls of one answer.
const CALL_BYTES_MAX: usize = 1 << 20;

/// Follows a stream from its first event to `[DONE]`.
#[derive(Debug, Default)]
pub(crate) struct StreamReader {
    id: Option<String>,
    calls: Vec<Call>,
    call_bytes: usize,
    finish: Option<String>,
    usage: Option<Usage>,
    done: bool,
}

impl StreamReader {
    /// Takes the data of one event.
    pub fn event(&mut self, data: &str) -> Result<Step, UpstreamFault> {
        if self.done {
            return Err(UpstreamFault::OutOfOrder {
                what: "something after [DONE]",
            });
        }
        if data.trim() == "[DONE]" {
            self.done = true;
            return Ok(Step::default());
        }
        let piece: Piece<'_> =
            serde_json::from_str(data).map_err(|_| UpstreamFault::Malformed {
                what: "not the JSON of a piece of an answer",
            })?;
        if let Some(error) = piece.error.as_ref().filter(|error| !error.is_null()) {
            return Err(UpstreamFault::ErrorEvent { kind: kind(error) });
        }
        self.same_answer(piece.id.as_deref())?;
        let so_far = piece.usage.or(piece.timings.map(|t| Usage {
            prompt_tokens: t.cache_n.saturating_add(t.prompt_n),
            completion_tokens: t.predicted_n,
        }));
        let mut step = Step {
            so_far,
            ..Step::default()
        };
        // The piece with the counts of the whole has no choices, or is the one with the end.
        let ends = piece.choices.is_empty();
        for choice in piece.choices {
            self.choice(choice, &mut step)?;
        }
        if let Some(usage) = piece.usage {
            if self.finish.is_none() && ends {
                return Err(UpstreamFault::OutOfOrder {
                    what: "the counts of the whole before its end",
                });
            }
            if self.finish.is_some() {
                self.usage = Some(usage);
            }
        }
        Ok(step)
    }

    fn same_answer(&mut self, id: Option<&str>) -> Result<(), UpstreamFault> {
        let Some(id) = id.filter(|id| !id.is_empty()) else {
            return Ok(());
        };
        match &self.id {
            None => self.id = Some(id.to_owned()),
            Some(first) if first != id => {
                return Err(UpstreamFault::OutOfOrder {
                    what: "a piece of another answer",
                });
            }
            Some(_) => {}
        }
        Ok(())
    }

    fn choice(&mut self, choice: Choice<'_>, step: &mut Step) -> Result<(), UpstreamFault> {
        if choice.index != 0 {
            return Err(UpstreamFault::OutOfOrder {
                what: "a second answer, where one was asked for",
            });
        }
        let before = step.bytes();
        if let Some(text) = &choice.text {
            step.text.push_str(text);
        }
        if let Some(delta) = choice.delta {
            // vLLM wrote the same under both names for a time.
            let named = [delta.reasoning_content, delta.reasoning];
            let thought = named.iter().flatten().find(|thought| !thought.is_empty());
            step.thought
                .push_str(thought.map_or("", |thought| thought.as_ref()));
            step.text.push_str(delta.content.as_deref().unwrap_or(""));
            for piece in delta.tool_calls.unwrap_or_default() {
                step.hidden += self.call(piece)?;
            }
        }
        if self.finish.is_some() && step.bytes() != before {
            return Err(UpstreamFault::OutOfOrder {
                what: "more of the answer after its finish_reason",
            });
        }
        match (choice.finish_reason, &self.finish) {
            (Some(reason), None) => self.finish = Some(reason.into_owned()),
            (Some(reason), Some(first)) if *first != *reason => {
                return Err(UpstreamFault::OutOfOrder {
                    what: "a second finish_reason",
                });
            }
            _ => {}
        }
        Ok(())
    }

    /// Adds to the tool call that the piece belongs to; gives the bytes it brought.
    fn call(&mut self, piece: CallPiece<'_>) -> Result<usize, UpstreamFault> {
        let at = piece.index as usize;
        if at > self.calls.len() || at >= CALLS_MAX {
            return Err(UpstreamFault::OutOfOrder {
                what: "a tool call whose number does not follow the last one",
            });
        }
        if at == self.calls.len() {
            self.calls.push(Call::default());
        }
        let (Some(call), Some(function)) = (self.calls.get_mut(at), piece.function) else {
            return Ok(0);
        };
        let arguments = function.arguments.as_deref().unwrap_or("");
        let mut bytes = arguments.len();
        // Some servers repeat the name on every piece.
        if let Some(name) = function.name.filter(|name| !name.is_empty()) {
            if call.name.is_empty() {
                bytes += name.len();
                call.name = name.into_owned();
            } else if call.name != *name {
                return Err(UpstreamFault::OutOfOrder {
                    what: "a tool call that changes its name",
                });
            }
        }
        call.arguments.push_str(arguments);
        self.call_bytes += bytes;
        if self.call_bytes > CALL_BYTES_MAX {
            return Err(UpstreamFault::TooLong {
                limit: CALL_BYTES_MAX,
            });
        }
        Ok(bytes)
    }

    /// Whether `[DONE]` was read.
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// Judges the stream after its last byte.
    pub fn end(self) -> Result<Ending, UpstreamFault> {
        if !self.done {
            return Err(UpstreamFault::MissingDone);
        }
        let finish = self.finish.ok_or(UpstreamFault::MissingFinish)?;
        let usage = self.usage.ok_or(UpstreamFault::MissingUsage)?;
        let finish = match finish.as_str() {
            // The last three are TGI's own words.
            "stop" | "eos_token" | "stop_sequence" | "end_of_sequence_token" => FinishReason::Stop,
            "length" => FinishReason::Length,
            "tool_calls" | "function_call" => FinishReason::ToolCalls,
            other => {
                return Err(UpstreamFault::UnknownFinish {
                    reason: word(other),
                });
            }
        };
        if finish == FinishReason::ToolCalls && self.calls.is_empty() {
            return Err(UpstreamFault::OutOfOrder {
                what: "the finish_reason of tool calls without one",
            });
        }
        Ok(Ending {
            finish,
            calls: self.calls,
            usage,
        })
    }
}

/// A server's word for an error object or text.
pub(crate) fn kind(error: &serde_json::Value) -> String {
    let named = ["type", "error_type", "code"]
        .iter()
        .find_map(|key| error.get(key)?.as_str());
    word(named.unwrap_or(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    const USAGE: &str =
        r#"{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7}}"#;
    const STOP: &str = r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;

    fn text(text: &str) -> String {
        format!(
            r#"{{"id":"a","choices":[{{"index":0,"delta":{{"content":"{text}"}},"finish_reason":null}}]}}"#
        )
    }

    fn read(events: &[&str]) -> Result<(String, Ending), UpstreamFault> {
        let mut reader = StreamReader::default();
        let mut all = String::new();
        for event in events {
            all.push_str(&reader.event(event)?.text);
        }
        reader.end().map(|end| (all, end))
    }

    #[test]
    fn a_right_stream_gives_text_counts_and_reason() {
        let role = r#"{"id":"a","choices":[{"index":0,"delta":{"role":"assistant","content":null},"finish_reason":null}],"usage":null}"#;
        let (said, end) =
            read(&[role, &text("He"), &text("llo"), STOP, USAGE, "[DONE]"]).expect("right");
        assert_eq!(said, "Hello");
        assert_eq!(end.finish, FinishReason::Stop);
        assert_eq!(
            (end.usage.prompt_tokens, end.usage.completion_tokens),
            (5, 2)
        );
        let completion = r#"{"choices":[{"index":0,"text":"up","finish_reason":"length"}],"usage":{"prompt_tokens":1,"completion_tokens":1}}"#;
        let (said, end) = read(&[completion, "[DONE]"]).expect("right");
        assert_eq!((said.as_str(), end.finish), ("up", FinishReason::Length));
    }

    #[test]
    fn every_break_of_order_has_its_name() {
        let other = text("x").replace("\"a\"", "\"b\"");
        let second = text("x").replace("\"index\":0", "\"index\":1");
        let odd = STOP.replace("stop", "content_filter");
        let calls = STOP.replace("stop", "tool_calls");
        let length = STOP.replace("stop", "length");
        let error = r#"{"error":{"message":"secret prompt","type":"server_error"}}"#;
        let answer = text("y");
        let cases: [(Vec<&str>, &str); 15] = [
            (vec![], "missing_done"),
            (vec![STOP, USAGE], "missing_done"),
            (vec![STOP, "[DONE]"], "missing_usage"),
            (vec!["[DONE]"], "missing_finish"),
            (vec![USAGE], "out_of_order"),
            (vec![STOP, "[DONE]", USAGE], "out_of_order"),
            (vec![&other, STOP, &other], "out_of_order"),
            (vec![&answer, &other], "out_of_order"),
            (vec![&second], "out_of_order"),
            (vec![&odd, USAGE, "[DONE]"], "unknown_finish"),
            (vec![&calls, USAGE, "[DONE]"], "out_of_order"),
            (vec![STOP, &length], "out_of_order"),
            (vec!["{"], "malformed"),
            (vec!["[1]"], "malformed"),
            (vec![error], "error_event"),
        ];
        for (events, name) in cases {
            let fault = read(&events).expect_err(name);
            assert_eq!(fault.label(), name, "{events:?}: {fault}");
            assert!(!fault.to_string().contains("secret"), "{fault}");
        }
    }

    #[test]
    fn tool_calls_are_put_together_and_must_come_in_order() {
        let piece = |index: u32, function: &str| {
            format!(
                r#"{{"choices":[{{"index":0,"delta":{{"tool_calls":[{{"index":{index},"function":{function}}}]}}}}]}}"#
            )
        };
        let calls = STOP.replace("stop", "tool_calls");
        let first = piece(0, r#"{"name":"now","arguments":""}"#);
        let more = piece(0, r#"{"name":"now","arguments":"{}"}"#);
        let next = piece(1, r#"{"name":"later","arguments":"{\"a\":1}"}"#);
        let (_, end) = read(&[&first, &more, &next, &calls, USAGE, "[DONE]"]).expect("right");
        let named: Vec<_> = end
            .calls
            .iter()
            .map(|c| (c.name.as_str(), c.arguments.as_str()))
            .collect();
        assert_eq!(named, [("now", "{}"), ("later", "{\"a\":1}")]);
        for wrong in [piece(2, r#"{"name":"x"}"#), piece(0, r#"{"name":"other"}"#)] {
            let fault = read(&[&first, &wrong]).expect_err("out of order");
            assert_eq!(fault.label(), "out_of_order");
        }
    }

    #[test]
    fn reasoning_is_read_by_either_name_once_and_not_behind_the_end() {
        let delta = |delta: &str| format!(r#"{{"choices":[{{"index":0,"delta":{delta}}}]}}"#);
        for named in [
            r#"{"reasoning_content":"so"}"#,
            r#"{"reasoning":"so","content":null}"#,
            r#"{"reasoning":"so","reasoning_content":"so"}"#,
            r#"{"reasoning":"so","reasoning_content":""}"#,
        ] {
            let mut reader = StreamReader::default();
            let step = reader.event(&delta(named)).expect("right");
            assert_eq!((step.thought.as_str(), step.text.as_str()), ("so", ""));
            reader.event(STOP).expect("right");
            let late = reader.event(&delta(named)).expect_err("late");
            assert_eq!(late.label(), "out_of_order");
        }
    }

    #[test]
    fn running_counts_are_read_where_a_server_tells_them() {
        let mut reader = StreamReader::default();
        let llama = r#"{"choices":[{"index":0,"delta":{"content":"a"}}],"timings":{"cache_n":4,"prompt_n":1,"predicted_n":3}}"#;
        let step = reader.event(llama).expect("right");
        let counts = |prompt_tokens, completion_tokens| {
            Some(Usage {
                prompt_tokens,
                completion_tokens,
            })
        };
        assert_eq!(step.so_far, counts(5, 3));
        let vllm = r#"{"choices":[{"index":0,"delta":{"content":"b"}}],"usage":{"prompt_tokens":5,"completion_tokens":4}}"#;
        assert_eq!(reader.event(vllm).expect("right").so_far, counts(5, 4));
    }
}
