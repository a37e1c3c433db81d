//! What is asked of an upstream server: the client's own messages and tools, and the parameters that the ticket names.

use super::UpstreamFault;
use super::kind::ServerKind;
use super::stream::Ending;
use crate::answer::is_object;
use crate::tools::Catalogue;
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use stoa_crypto::keccak256;
use stoa_nodes::message::RefusalReason;
use stoa_nodes::work::{AnswerShape, Input, Prompt, Work};
use stoa_types::{Digest, FinishReason, Q16};
use stoa_verify::ToolCall;

/// What the answer may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wanted {
    Text,
    JsonObject,
    Tools {
        catalogue: Catalogue,
        required: bool,
    },
}

/// A request that this server can take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    pub wanted: Wanted,
    /// Upper bound of the prompt's tokens, made as the router makes its own.
    pub input_bound: u64,
    pub prompt_root: Digest,
}

/// Tokens that an input may gain beyond its bytes: begin and end marks.
const INPUT_MARGIN_TOKENS: u64 = 8;
/// Tokens that a prompt may gain beyond its bytes and per-message overhead: begin and end marks.
const PROMPT_MARGIN_TOKENS: u64 = 64;

impl Request {
    pub fn new(
        work: &Work,
        kind: ServerKind,
        overhead: u32,
        context: u32,
    ) -> Result<Self, RefusalReason> {
        let no = |parameter: &str, reason: &str| RefusalReason::Unsupported {
            parameter: parameter.to_owned(),
            reason: reason.to_owned(),
        };
        if work.sampling.min_p != Q16::default() && !kind.takes_min_p() {
            return Err(no("min_p", "the inference server has no such parameter"));
        }
        let (bytes, messages) = match &work.prompt {
            Prompt::Chat { messages, tools } => {
                // Their text goes into a larger one: what is not one whole array could say more than it may.
                let count = elements(messages).ok_or(no("messages", "not a JSON array"))?;
                elements(tools).ok_or(no("tools", "not a JSON array"))?;
                (messages.len() + tools.len(), count)
            }
            Prompt::Text(text) => (text.len(), 0),
            Prompt::Tokens(_) if !kind.takes_token_ids() => {
                return Err(no("prompt", "the inference server takes text only"));
            }
            Prompt::Tokens(ids) => (ids.len(), 0),
            Prompt::Embed { inputs, .. } => {
                check_inputs(work, inputs, kind).map_err(|reason| no("input", reason))?;
                return Ok(Self {
                    wanted: Wanted::Text,
                    input_bound: inputs_bound(inputs, context),
                    prompt_root: upstream_prompt_root(&work.prompt),
                });
            }
        };
        let bound = match &work.prompt {
            Prompt::Tokens(_) => bytes as u64,
            _ => (bytes as u64)
                .saturating_add((messages + 1).saturating_mul(u64::from(overhead)))
                .saturating_add(PROMPT_MARGIN_TOKENS),
        };
        Ok(Self {
            wanted: wanted(work)?,
            input_bound: bound.min(u64::from(context)),
            prompt_root: upstream_prompt_root(&work.prompt),
        })
    }
}

/// Whether vectors are ordered whole, of inputs that the server takes.
fn check_inputs(work: &Work, inputs: &[Input], kind: ServerKind) -> Result<(), &'static str> {
    let of_ids = inputs.iter().any(|i| matches!(i, Input::Tokens(_)));
    if of_ids && !kind.takes_token_ids() {
        return Err("the inference server takes text only");
    }
    let count = work.sampling.max_output_tokens as usize;
    if inputs.is_empty() || inputs.len() != count || work.answer != AnswerShape::Any {
        return Err("vectors are ordered whole: as many units as inputs, of no other shape");
    }
    Ok(())
}

/// Upper bound of the tokens of all inputs, made as the router makes its own.
fn inputs_bound(inputs: &[Input], context: u32) -> u64 {
    let bound = |input: &Input| match input {
        Input::Text(text) => (text.len() as u64).saturating_add(INPUT_MARGIN_TOKENS),
        Input::Tokens(ids) => ids.len() as u64,
    };
    let each = inputs
        .iter()
        .map(|input| bound(input).min(u64::from(context)));
    each.fold(0, u64::saturating_add)
}

fn elements(array: &str) -> Option<u64> {
    let all: Vec<IgnoredAny> = serde_json::from_str(array).ok()?;
    Some(all.len() as u64)
}

fn wanted(work: &Work) -> Result<Wanted, RefusalReason> {
    let tools = match &work.prompt {
        Prompt::Chat { tools, .. } => tools.as_str(),
        Prompt::Text(_) | Prompt::Tokens(_) | Prompt::Embed { .. } => "[]",
    };
    let required = work.answer == AnswerShape::ToolCall;
    match work.answer {
        AnswerShape::NoTools => return Ok(Wanted::Text),
        AnswerShape::JsonObject => return Ok(Wanted::JsonObject),
        AnswerShape::Any | AnswerShape::ToolCall => {}
    }
    let unsupported = |parameter: &str, reason: String| RefusalReason::Unsupported {
        parameter: parameter.to_owned(),
        reason,
    };
    let catalogue = Catalogue::parse(tools).map_err(|reason| unsupported("tools", reason))?;
    match catalogue.is_empty() {
        true if required => Err(unsupported(
            "tool_choice",
            "a tool call is demanded but no tool is given".to_owned(),
        )),
        true => Ok(Wanted::Text),
        false => Ok(Wanted::Tools {
            catalogue,
            required,
        }),
    }
}

/// The prompt root of an answer of tier `none`: over the prompt's own bytes, since the server's tokens are not known (0021).
pub fn upstream_prompt_root(prompt: &Prompt) -> Digest {
    let mut bytes = b"stoa.upstream.prompt.v1".to_vec();
    let mut part = |kind: u8, part: &[u8]| {
        bytes.push(kind);
        bytes.extend((part.len() as u64).to_be_bytes());
        bytes.extend(part);
    };
    match prompt {
        Prompt::Chat { messages, tools } => {
            part(0, messages.as_bytes());
            part(1, tools.as_bytes());
        }
        Prompt::Text(text) => part(2, text.as_bytes()),
        Prompt::Tokens(ids) => {
            part(3, &id_bytes(ids));
        }
        Prompt::Embed { inputs, dimensions } => {
            part(4, &dimensions.to_be_bytes());
            for input in inputs {
                match input {
                    Input::Text(text) => part(2, text.as_bytes()),
                    Input::Tokens(ids) => part(3, &id_bytes(ids)),
                }
            }
        }
    }
    keccak256(bytes)
}

fn id_bytes(ids: &[u32]) -> Vec<u8> {
    ids.iter().flat_map(|id| id.to_be_bytes()).collect()
}

/// What is sent, but for the limit of tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Body {
    pub route: &'static str,
    text: String,
    /// Where the limit goes; nowhere in a request for vectors.
    limit_at: Option<usize>,
}

impl Body {
    /// The whole with a limit, which may be less than was ordered where the context ends before.
    pub fn with_limit(&self, most: u32) -> String {
        let Some((before, after)) = self.limit_at.and_then(|at| self.text.split_at_checked(at))
        else {
            return self.text.clone();
        };
        format!("{before}{most}{after}")
    }
}

/// Makes the body. Messages and tools keep the client's bytes. Some MB of prompt take their time: this belongs on the job's own thread.
pub(crate) fn body(work: &Work, wanted: &Wanted, kind: ServerKind, model: &str) -> Body {
    let sampling = &work.sampling;
    let mut text = format!(r#"{{"model":{},"#, Value::from(model));
    let route = match &work.prompt {
        Prompt::Chat { messages, tools } => {
            chat_body(&mut text, messages, tools, wanted);
            "/v1/chat/completions"
        }
        Prompt::Text(prompt) => {
            text += &format!(r#""prompt":{}"#, Value::from(prompt.as_str()));
            "/v1/completions"
        }
        Prompt::Tokens(ids) => {
            text += &format!(r#""prompt":{}"#, json!(ids));
            "/v1/completions"
        }
        Prompt::Embed { inputs, dimensions } => {
            text += &vectors_body(inputs, *dimensions);
            return Body {
                route: "/v1/embeddings",
                text,
                limit_at: None,
            };
        }
    };
    text += r#","max_tokens":"#;
    let limit_at = Some(text.len());
    let (temperature, min_p) = (sampling.temperature.to_f64(), sampling.min_p.to_f64());
    let seed = kind.seed(sampling.seed);
    text += &format!(r#","temperature":{temperature},"seed":{seed}"#);
    if kind.takes_min_p() {
        text += &format!(r#","min_p":{min_p}"#);
    }
    if !sampling.stop.is_empty() {
        text += &format!(r#","stop":{}"#, json!(sampling.stop));
    }
    text += kind.plain_sampling();
    text += r#","stream":true"#;
    text += kind.counting();
    text.push('}');
    Body {
        route,
        text,
        limit_at,
    }
}

/// What follows the model in a request for a chat's next message.
fn chat_body(text: &mut String, messages: &str, tools: &str, wanted: &Wanted) {
    *text += &format!(r#""messages":{messages}"#);
    match wanted {
        Wanted::Tools { required, .. } => {
            *text += &format!(r#","tools":{tools}"#);
            if *required {
                *text += r#","tool_choice":"required""#;
            }
        }
        Wanted::JsonObject => *text += r#","response_format":{"type":"json_object"}"#,
        Wanted::Text => {}
    }
}

/// What follows the model in a request for vectors. Floats are what every server gives; some know no base64.
fn vectors_body(inputs: &[Input], dimensions: u32) -> String {
    let input = |input: &Input| match input {
        Input::Text(text) => Value::from(text.as_str()),
        Input::Tokens(ids) => json!(ids),
    };
    let inputs: Vec<Value> = inputs.iter().map(input).collect();
    let mut body = format!(
        r#""input":{},"encoding_format":"float""#,
        Value::from(inputs)
    );
    if dimensions > 0 {
        body += &format!(r#","dimensions":{dimensions}"#);
    }
    body.push('}');
    body
}

/// The end of an answer, judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Judged {
    /// Text that was held back, and what became text.
    pub tail: String,
    pub tool_calls: Vec<ToolCall>,
    pub finish: FinishReason,
}

impl Wanted {
    /// Whether nothing may be shown before the whole was judged.
    pub fn withholds(&self) -> bool {
        matches!(self, Self::JsonObject | Self::Tools { required: true, .. })
    }

    /// Judges a whole answer: an invalid tool call is never handed on (DECISIONS 35). `held` is text not shown yet.
    pub fn judge(&self, ending: &Ending, held: &str) -> Result<Judged, UpstreamFault> {
        let cut = ending.finish == FinishReason::Length;
        let text_reason = if cut {
            FinishReason::Length
        } else {
            FinishReason::Stop
        };
        let unmet = |reason: String| Err(UpstreamFault::Unmet { reason });
        let text = |tail: String| Judged {
            tail,
            tool_calls: Vec::new(),
            finish: text_reason,
        };
        let calls = match (self, ending.calls.is_empty()) {
            (Self::JsonObject, _) if !cut && !is_object(held) => {
                return unmet(
                    "the model's answer is not the JSON object that was asked for".to_owned(),
                );
            }
            (Self::Tools { required: true, .. }, true) if !cut => {
                return unmet("the model made no tool call, which was asked for".to_owned());
            }
            (_, true) => return Ok(text(held.to_owned())),
            (Self::Tools { catalogue, .. }, false) => check_calls(catalogue, ending),
            (_, false) => Err("no tool was offered".to_owned()),
        };
        match (calls, self) {
            (Ok(tool_calls), _) => Ok(Judged {
                tail: held.to_owned(),
                tool_calls,
                finish: FinishReason::ToolCalls,
            }),
            (Err(reason), Self::Tools { required: true, .. }) if !cut => unmet(format!(
                "the model made no valid tool call, which was asked for: {reason}"
            )),
            (Err(_), _) => {
                let mut tail = held.to_owned();
                for call in &ending.calls {
                    let (name, arguments) = (&call.name, &call.arguments);
                    tail += &json!({"name": name, "arguments": arguments}).to_string();
                }
                Ok(text(tail))
            }
        }
    }
}

fn check_calls(catalogue: &Catalogue, ending: &Ending) -> Result<Vec<ToolCall>, String> {
    let one = |call: &super::stream::Call| {
        // No arguments at all is how some servers write an empty object.
        let arguments = match call.arguments.as_str() {
            "" => "{}",
            arguments => arguments,
        };
        catalogue.check(&call.name, arguments)
    };
    ending.calls.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::super::stream::{Call, Usage};
    use super::*;
    use stoa_types::SamplingParameters;

    const TOOLS: &str = r#"[{"type":"function","function":{"name":"get_weather","parameters":{"type":"object",
        "properties":{"city":{"type":"string"}},"required":["city"]}}}]"#;

    fn work(tools: &str, answer: AnswerShape) -> Work {
        Work {
            prompt: Prompt::Chat {
                messages: r#"[{"role":"user",  "content":"h\u00e9"}]"#.to_owned(),
                tools: tools.to_owned(),
            },
            sampling: SamplingParameters {
                temperature: Q16::ONE,
                min_p: Q16::default(),
                seed: 7,
                max_output_tokens: 9,
                stop: vec!["\n".to_owned()],
            },
            answer,
        }
    }

    fn ending(finish: FinishReason, calls: &[(&str, &str)]) -> Ending {
        let calls = calls.iter().map(|(name, arguments)| Call {
            name: (*name).to_owned(),
            arguments: (*arguments).to_owned(),
        });
        Ending {
            finish,
            calls: calls.collect(),
            usage: Usage {
                prompt_tokens: 1,
                completion_tokens: 1,
            },
        }
    }

    #[test]
    fn every_server_gets_valid_json_that_keeps_the_client_s_messages() {
        for kind in [
            ServerKind::LlamaCpp,
            ServerKind::Vllm,
            ServerKind::Sglang,
            ServerKind::Tgi,
            ServerKind::Other,
        ] {
            let work = work(TOOLS, AnswerShape::ToolCall);
            let wanted = wanted(&work).expect("tools are there");
            let body = body(&work, &wanted, kind, "a\"b");
            assert_eq!(body.route, "/v1/chat/completions");
            let text = body.with_limit(5);
            assert!(
                text.contains(r#"[{"role":"user",  "content":"h\u00e9"}]"#),
                "{text}"
            );
            let body: Value = serde_json::from_str(&text).expect("JSON");
            assert_eq!(body["model"], "a\"b");
            assert_eq!(body["max_tokens"], 5);
            assert_eq!(body["stream"], true);
            assert_eq!(body["stream_options"]["include_usage"], true);
            assert_eq!(body["tool_choice"], "required");
            assert_eq!(body["stop"], json!(["\n"]));
            assert_eq!(body["temperature"], 1.0);
            assert_eq!(body.get("min_p").is_some(), kind.takes_min_p());
            // TGI refuses a `top_p` of 1.
            assert_eq!(body.get("top_p").is_some(), kind != ServerKind::Tgi);
        }
    }

    #[test]
    fn what_is_no_array_cannot_put_words_into_the_request() {
        let mut wrong = work("[]", AnswerShape::Any);
        wrong.prompt = Prompt::Chat {
            messages: r#"[],"n":1000,"x":[]"#.to_owned(),
            tools: "[]".to_owned(),
        };
        let refused = Request::new(&wrong, ServerKind::Vllm, 64, 4096);
        assert!(
            matches!(refused, Err(RefusalReason::Unsupported { parameter, .. }) if parameter == "messages")
        );
    }

    #[test]
    fn what_a_server_cannot_do_is_refused_by_its_name() {
        let mut with_min_p = work("[]", AnswerShape::Any);
        with_min_p.sampling.min_p = Q16::ONE;
        let mut ids = work("[]", AnswerShape::Any);
        ids.prompt = Prompt::Tokens(vec![1, 2]);
        for (work, named) in [
            (with_min_p, "min_p"),
            (ids, "prompt"),
            (work("[]", AnswerShape::ToolCall), "tool_choice"),
        ] {
            let refused = Request::new(&work, ServerKind::Tgi, 64, 4096);
            assert!(
                matches!(&refused, Err(RefusalReason::Unsupported { parameter, .. }) if parameter == named),
                "{refused:?}"
            );
        }
    }

    #[test]
    fn the_bound_of_a_prompt_is_not_above_the_context() {
        let bound = |context| {
            let request =
                Request::new(&work("[]", AnswerShape::Any), ServerKind::Vllm, 10, context);
            request.expect("fits").input_bound
        };
        let messages = r#"[{"role":"user",  "content":"h\u00e9"}][]"#.len() as u64;
        assert_eq!(bound(4096), messages + 2 * 10 + PROMPT_MARGIN_TOKENS);
        assert_eq!(bound(50), 50);
    }

    #[test]
    fn different_prompts_have_different_roots() {
        let prompts = [
            Prompt::Text("ab".to_owned()),
            Prompt::Text("a".to_owned()),
            Prompt::Tokens(vec![1]),
            Prompt::Chat {
                messages: "[]".to_owned(),
                tools: "[1]".to_owned(),
            },
            Prompt::Chat {
                messages: "[1]".to_owned(),
                tools: "[]".to_owned(),
            },
        ];
        let roots: std::collections::BTreeSet<_> =
            prompts.iter().map(upstream_prompt_root).collect();
        assert_eq!(roots.len(), prompts.len());
    }

    #[test]
    fn an_invalid_tool_call_becomes_text_or_fails_where_one_is_demanded() {
        let tools = |required| {
            let answer = if required {
                AnswerShape::ToolCall
            } else {
                AnswerShape::Any
            };
            wanted(&work(TOOLS, answer)).expect("tools")
        };
        let good = ending(
            FinishReason::Stop,
            &[("get_weather", r#"{"city":"Paris"}"#)],
        );
        for required in [false, true] {
            let judged = tools(required).judge(&good, "so: ").expect("valid");
            assert_eq!(
                judged.finish,
                FinishReason::ToolCalls,
                "whatever the server calls it"
            );
            assert_eq!((judged.tail.as_str(), judged.tool_calls.len()), ("so: ", 1));
        }
        for bad in [
            ending(FinishReason::ToolCalls, &[("get_weather", "{}")]),
            ending(FinishReason::ToolCalls, &[("rm", "{}")]),
            ending(FinishReason::ToolCalls, &[("get_weather", r#"{"city":"#)]),
        ] {
            let judged = tools(false).judge(&bad, "").expect("text");
            assert_eq!(
                (judged.finish, judged.tool_calls.len()),
                (FinishReason::Stop, 0)
            );
            assert!(judged.tail.contains("\"name\""), "{}", judged.tail);
            assert_eq!(
                tools(true).judge(&bad, "").expect_err("demanded").label(),
                "unmet"
            );
        }
        let none = ending(FinishReason::Stop, &[]);
        assert_eq!(
            tools(true).judge(&none, "talk").expect_err("none").label(),
            "unmet"
        );
        assert_eq!(
            tools(false).judge(&none, "").expect("text").finish,
            FinishReason::Stop
        );
        let cut = ending(FinishReason::Length, &[("get_weather", "{\"ci")]);
        assert_eq!(
            tools(true).judge(&cut, "").expect("cut").finish,
            FinishReason::Length
        );
        assert!(
            Wanted::Text
                .judge(&good, "")
                .expect("text")
                .tool_calls
                .is_empty()
        );
    }

    #[test]
    fn a_demanded_object_must_be_one_unless_it_was_cut() {
        let end = |finish| ending(finish, &[]);
        let judge = |finish, held| Wanted::JsonObject.judge(&end(finish), held);
        assert_eq!(judge(FinishReason::Stop, "{}").expect("one").tail, "{}");
        assert_eq!(
            judge(FinishReason::Stop, "[]").expect_err("none").label(),
            "unmet"
        );
        assert!(judge(FinishReason::Length, "{\"a").is_ok());
    }
}
