//! What is asked of an upstream server: the client's own messages and tools, and the parameters that the ticket names.

use super::UpstreamFault;
use super::kind::ServerKind;
use super::stream::Ending;
use crate::answer::is_json;
use crate::prompt::check_sampling;
use crate::tools::Catalogue;
use serde::de::IgnoredAny;
use serde_json::{Map, Value, json};
use stoa_crypto::keccak256;
use stoa_nodes::message::RefusalReason;
use stoa_nodes::work::{AnswerShape, Input, Prompt, Work};
use stoa_types::{Digest, FinishReason, Q16, SamplingParameters, SignedQ16};
use stoa_verify::{ToolCall, reasoning};

/// What the answer may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wanted {
    Text,
    JsonObject,
    /// JSON of a schema, which the server holds its answer to.
    JsonSchema {
        schema: String,
        strict: bool,
    },
    Tools {
        catalogue: Catalogue,
        required: bool,
        several: bool,
    },
}

/// A request that this server can take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    pub wanted: Wanted,
    /// Upper bound of the prompt's tokens, made as the router makes its own.
    pub input_bound: u64,
    pub prompt_root: Digest,
    /// Whether it has stop strings.
    stops: bool,
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
        check_sampling(&work.sampling, None)?;
        if work.sampling.logprobs.is_some() {
            let reason = "this model runs on another's server, whose log-probabilities nobody could check; ask for tier `exact`";
            return Err(no("logprobs", reason));
        }
        for (name, asked) in [
            ("logit_bias", !work.sampling.logit_bias.is_empty()),
            (
                "presence_penalty",
                !work.sampling.presence_penalty.is_zero(),
            ),
        ] {
            if asked && !kind.takes_bias_and_presence() {
                return Err(no(name, "the inference server does nothing with it"));
            }
        }
        let (bytes, messages) = match &work.prompt {
            Prompt::Chat {
                messages,
                tools,
                arguments,
            } => {
                // Their text goes into a larger one: what is not one whole array could say more than it may.
                let count = elements(messages).ok_or(no("messages", "not a JSON array"))?;
                elements(tools).ok_or(no("tools", "not a JSON array"))?;
                check_arguments(arguments, kind)
                    .map_err(|reason| no("chat_template_kwargs", reason))?;
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
                    stops: false,
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
            wanted: wanted(work, kind)?,
            input_bound: bound.min(u64::from(context)),
            prompt_root: upstream_prompt_root(&work.prompt),
            stops: !work.sampling.stop.is_empty(),
        })
    }

    /// Judges a whole answer. One that the client's own limit or stop string cut need not be what was demanded, as for the exact engine:
    /// servers do not all say whether a stop string or the model ended it.
    pub fn judge(&self, ending: &Ending, held: &str) -> Result<Judged, UpstreamFault> {
        let cut = match ending.finish {
            FinishReason::Length => true,
            FinishReason::Stop => self.stops,
            _ => false,
        };
        self.wanted.judge(ending, held, cut)
    }
}

/// Whether arguments for a template are one whole object, and the server hands them to its template.
fn check_arguments(arguments: &str, kind: ServerKind) -> Result<(), &'static str> {
    if arguments.is_empty() {
        return Ok(());
    }
    // Their text goes into a larger one too.
    serde_json::from_str::<Map<String, Value>>(arguments).map_err(|_| "not a JSON object")?;
    match kind {
        ServerKind::LlamaCpp | ServerKind::Vllm | ServerKind::Sglang => Ok(()),
        ServerKind::Tgi | ServerKind::Other => Err("the inference server has no such parameter"),
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

fn wanted(work: &Work, kind: ServerKind) -> Result<Wanted, RefusalReason> {
    let unsupported = |parameter: &str, reason: &str| RefusalReason::Unsupported {
        parameter: parameter.to_owned(),
        reason: reason.to_owned(),
    };
    let (tools, is_chat) = match &work.prompt {
        Prompt::Chat { tools, .. } => (tools.as_str(), true),
        Prompt::Text(_) | Prompt::Tokens(_) | Prompt::Embed { .. } => ("[]", false),
    };
    let is_json = matches!(
        work.answer,
        AnswerShape::JsonObject | AnswerShape::JsonSchema { .. }
    );
    if is_json && tools != "[]" {
        let reason = "inference servers do not all hold an answer to JSON where it may be a call instead; send `tool_choice` `none`, or no \
                      `response_format`";
        return Err(unsupported("tools", reason));
    }
    let (required, several) = match &work.answer {
        AnswerShape::NoTools => return Ok(Wanted::Text),
        AnswerShape::JsonObject => return Ok(Wanted::JsonObject),
        AnswerShape::JsonSchema { schema, strict } if is_chat && kind.takes_schemas() => {
            if serde_json::from_str::<IgnoredAny>(schema).is_err() {
                return Err(unsupported(
                    "response_format.json_schema.schema",
                    "not JSON",
                ));
            }
            let (schema, strict) = (schema.clone(), *strict);
            return Ok(Wanted::JsonSchema { schema, strict });
        }
        AnswerShape::JsonSchema { .. } => {
            let reason = "the inference server is not known to hold answers to a schema";
            return Err(unsupported("response_format", reason));
        }
        AnswerShape::Regex(_) => {
            let reason = "inference servers have no common parameter for expressions";
            return Err(unsupported("regex", reason));
        }
        AnswerShape::Any => (false, true),
        AnswerShape::ToolCall => (true, true),
        AnswerShape::OneCallAtMost => (false, false),
        AnswerShape::OneCall => (true, false),
    };
    let catalogue = Catalogue::parse(tools).map_err(|reason| unsupported("tools", &reason))?;
    match catalogue.is_empty() {
        true if required => Err(unsupported(
            "tool_choice",
            "a tool call is demanded but no tool is given",
        )),
        true => Ok(Wanted::Text),
        false => Ok(Wanted::Tools {
            catalogue,
            required,
            several,
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
        Prompt::Chat {
            messages,
            tools,
            arguments,
        } => {
            part(0, messages.as_bytes());
            part(1, tools.as_bytes());
            if !arguments.is_empty() {
                part(5, arguments.as_bytes());
            }
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
        Prompt::Chat {
            messages,
            tools,
            arguments,
        } => {
            chat_body(&mut text, messages, tools, wanted);
            if !arguments.is_empty() {
                text += &format!(r#","chat_template_kwargs":{arguments}"#);
            }
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
    text += &bias_and_penalties(sampling);
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

/// Bias and penalties, each only where it is asked for: a server that knows none of them is left alone. Sixteen binary places are few enough
/// that the decimal text says exactly what the ticket says.
fn bias_and_penalties(sampling: &SamplingParameters) -> String {
    let mut text = String::new();
    if !sampling.logit_bias.is_empty() {
        let entry = |(id, bias): (&u32, &SignedQ16)| (id.to_string(), json!(bias.to_f64()));
        let biases: Map<String, Value> = sampling.logit_bias.iter().map(entry).collect();
        text += &format!(r#","logit_bias":{}"#, Value::from(biases));
    }
    for (name, penalty) in [
        ("presence_penalty", sampling.presence_penalty),
        ("frequency_penalty", sampling.frequency_penalty),
    ] {
        if !penalty.is_zero() {
            text += &format!(r#","{name}":{}"#, penalty.to_f64());
        }
    }
    text
}

/// What follows the model in a request for a chat's next message.
fn chat_body(text: &mut String, messages: &str, tools: &str, wanted: &Wanted) {
    *text += &format!(r#""messages":{messages}"#);
    match wanted {
        Wanted::Tools {
            required, several, ..
        } => {
            *text += &format!(r#","tools":{tools}"#);
            if *required {
                *text += r#","tool_choice":"required""#;
            }
            if !several {
                *text += r#","parallel_tool_calls":false"#;
            }
        }
        Wanted::JsonObject => *text += r#","response_format":{"type":"json_object"}"#,
        // The name is not part of the order: the servers demand one and do nothing with it.
        Wanted::JsonSchema { schema, strict } => {
            *text += &format!(
                r#","response_format":{{"type":"json_schema","json_schema":{{"name":"answer","strict":{strict},"schema":{schema}}}}}"#
            );
        }
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
        matches!(
            self,
            Self::JsonObject | Self::JsonSchema { .. } | Self::Tools { required: true, .. }
        )
    }

    /// Judges a whole answer, which may have been `cut`: an invalid tool call is never handed on (DECISIONS 35). `held` is text not
    /// shown yet.
    fn judge(&self, ending: &Ending, held: &str, cut: bool) -> Result<Judged, UpstreamFault> {
        let text_reason = match ending.finish {
            FinishReason::Length => FinishReason::Length,
            _ => FinishReason::Stop,
        };
        let unmet = |reason: String| Err(UpstreamFault::Unmet { reason });
        let text = |tail: String| Judged {
            tail,
            tool_calls: Vec::new(),
            finish: text_reason,
        };
        let calls = match (self, ending.calls.is_empty()) {
            (Self::JsonObject, _) if !cut && !is_json(&said(held), true) => {
                return unmet(
                    "the model's answer is not the JSON object that was asked for".to_owned(),
                );
            }
            (Self::JsonSchema { .. }, _) if !cut && !is_json(&said(held), false) => {
                return unmet("the model's answer is not the JSON that was asked for".to_owned());
            }
            (Self::Tools { required: true, .. }, true) if !cut => {
                return unmet("the model made no tool call, which was asked for".to_owned());
            }
            (_, true) => return Ok(text(held.to_owned())),
            (Self::Tools { several: false, .. }, false) if ending.calls.len() > 1 => {
                Err("only one call may be made".to_owned())
            }
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

/// What an answer says behind its reasoning.
fn said(text: &str) -> String {
    reasoning::split(text, true).content
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
                arguments: String::new(),
            },
            sampling: SamplingParameters {
                temperature: Q16::ONE,
                min_p: Q16::default(),
                seed: 7,
                max_output_tokens: 9,
                stop: vec!["\n".to_owned()],
                ..SamplingParameters::default()
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
            let wanted = wanted(&work, ServerKind::Other).expect("tools are there");
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
    fn bias_and_penalties_reach_the_server_as_they_stand_in_the_ticket_and_only_where_they_are_set()
    {
        let names = ["logit_bias", "presence_penalty", "frequency_penalty"];
        let sent = |work: &Work| -> Value {
            let body = body(work, &Wanted::Text, ServerKind::Vllm, "m");
            serde_json::from_str(&body.with_limit(1)).expect("JSON")
        };
        let mut work = work("[]", AnswerShape::Any);
        let plain = sent(&work);
        assert!(names.iter().all(|name| plain.get(name).is_none()));
        work.sampling.logit_bias = [(7, SignedQ16(-1)), (9, SignedQ16(100 << 16))].into();
        work.sampling.presence_penalty = SignedQ16(6_554);
        work.sampling.frequency_penalty = SignedQ16(-(2 << 16));
        let body = sent(&work);
        assert_eq!(
            body["logit_bias"],
            json!({"7": -1.0 / 65_536.0, "9": 100.0})
        );
        let penalties = [6_554.0 / 65_536.0, -2.0];
        for (name, penalty) in names[1..].iter().zip(penalties) {
            let read = body[*name].as_f64().and_then(SignedQ16::from_f64);
            assert_eq!(read, SignedQ16::from_f64(penalty), "{name}");
        }
    }

    #[test]
    fn arguments_for_a_template_reach_servers_that_have_one_whole_or_not_at_all() {
        let with = |arguments: &str| {
            let mut work = work("[]", AnswerShape::Any);
            if let Prompt::Chat { arguments: to, .. } = &mut work.prompt {
                *to = arguments.to_owned();
            }
            work
        };
        let asked = with(r#"{"enable_thinking":false}"#);
        let body = body(&asked, &Wanted::Text, ServerKind::Vllm, "m");
        let body: Value = serde_json::from_str(&body.with_limit(1)).expect("JSON");
        assert_eq!(body["chat_template_kwargs"]["enable_thinking"], false);
        let root = |work: &Work| upstream_prompt_root(&work.prompt);
        assert_ne!(root(&asked), root(&with("")));
        let taken = |work: &Work, kind| Request::new(work, kind, 64, 4096).is_ok();
        for (kind, takes) in [
            (ServerKind::LlamaCpp, true),
            (ServerKind::Vllm, true),
            (ServerKind::Sglang, true),
            (ServerKind::Tgi, false),
            (ServerKind::Other, false),
        ] {
            assert_eq!(taken(&asked, kind), takes);
            assert!(taken(&with(""), kind));
            assert!(!taken(&with(r#"{},"n":1000,"x":{}"#), kind));
        }
    }

    #[test]
    fn what_is_no_array_cannot_put_words_into_the_request() {
        let mut wrong = work("[]", AnswerShape::Any);
        wrong.prompt = Prompt::Chat {
            messages: r#"[],"n":1000,"x":[]"#.to_owned(),
            tools: "[]".to_owned(),
            arguments: String::new(),
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
        let mut biased = work("[]", AnswerShape::Any);
        biased.sampling.logit_bias = [(1, SignedQ16(1))].into();
        let mut penalised = work("[]", AnswerShape::Any);
        penalised.sampling.presence_penalty = SignedQ16(1);
        let mut likely = work("[]", AnswerShape::Any);
        likely.sampling.logprobs = Some(0);
        let mut too_much = work("[]", AnswerShape::Any);
        too_much.sampling.frequency_penalty = SignedQ16(i32::MAX);
        for (work, named) in [
            (with_min_p, "min_p"),
            (biased, "logit_bias"),
            (penalised, "presence_penalty"),
            (too_much, "frequency_penalty"),
            (likely, "logprobs"),
            (ids, "prompt"),
            (work("[]", AnswerShape::ToolCall), "tool_choice"),
            (work("[]", schema("{}")), "response_format"),
            (work("[]", AnswerShape::Regex("a".to_owned())), "regex"),
        ] {
            let refused = Request::new(&work, ServerKind::Tgi, 64, 4096);
            assert!(
                matches!(&refused, Err(RefusalReason::Unsupported { parameter, .. }) if parameter == named),
                "{refused:?}"
            );
        }
    }

    fn schema(text: &str) -> AnswerShape {
        AnswerShape::JsonSchema {
            schema: text.to_owned(),
            strict: true,
        }
    }

    #[test]
    fn schemas_and_single_calls_are_handed_on_to_servers_that_know_them() {
        let sent = |work: &Work| -> Value {
            let wanted = wanted(work, ServerKind::Vllm).expect("known");
            let body = body(work, &wanted, ServerKind::Vllm, "m");
            serde_json::from_str(&body.with_limit(1)).expect("JSON")
        };
        let body = sent(&work("[]", schema(r#"{"type": "object"}"#)));
        assert_eq!(
            body["response_format"],
            json!({"type": "json_schema", "json_schema": {"name": "answer", "strict": true, "schema": {"type": "object"}}})
        );
        let one = work(TOOLS, AnswerShape::OneCall);
        let body = sent(&one);
        assert_eq!(body["tool_choice"], "required");
        assert_eq!(body["parallel_tool_calls"], false);
        // A call in place of JSON is more than is known of servers.
        for answer in [AnswerShape::JsonObject, schema("{}")] {
            let refused = wanted(&work(TOOLS, answer), ServerKind::Vllm);
            let by_name = matches!(refused, Err(RefusalReason::Unsupported { ref parameter, .. }) if parameter == "tools");
            assert!(by_name);
        }
        // What is no JSON could say more than it may.
        let broken = wanted(&work("[]", schema("{}},\"n\":9")), ServerKind::Vllm);
        assert!(broken.is_err());
        let call = ("get_weather", r#"{"city":"Paris"}"#);
        let two = ending(FinishReason::Stop, &[call, call]);
        let wanted = wanted(&one, ServerKind::Vllm).expect("known");
        assert!(wanted.judge(&two, "", false).is_err());
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
                arguments: String::new(),
            },
            Prompt::Chat {
                messages: "[1]".to_owned(),
                tools: "[]".to_owned(),
                arguments: String::new(),
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
            wanted(&work(TOOLS, answer), ServerKind::Other).expect("tools")
        };
        let good = ending(
            FinishReason::Stop,
            &[("get_weather", r#"{"city":"Paris"}"#)],
        );
        for required in [false, true] {
            let judged = tools(required).judge(&good, "so: ", false).expect("valid");
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
            let judged = tools(false).judge(&bad, "", false).expect("text");
            assert_eq!(
                (judged.finish, judged.tool_calls.len()),
                (FinishReason::Stop, 0)
            );
            assert!(judged.tail.contains("\"name\""), "{}", judged.tail);
            assert_eq!(
                tools(true)
                    .judge(&bad, "", false)
                    .expect_err("demanded")
                    .label(),
                "unmet"
            );
        }
        let none = ending(FinishReason::Stop, &[]);
        assert_eq!(
            tools(true)
                .judge(&none, "talk", false)
                .expect_err("none")
                .label(),
            "unmet"
        );
        assert_eq!(
            tools(false).judge(&none, "", false).expect("text").finish,
            FinishReason::Stop
        );
        let cut = ending(FinishReason::Length, &[("get_weather", "{\"ci")]);
        assert_eq!(
            tools(true).judge(&cut, "", true).expect("cut").finish,
            FinishReason::Length
        );
        assert!(
            Wanted::Text
                .judge(&good, "", false)
                .expect("text")
                .tool_calls
                .is_empty()
        );
    }

    #[test]
    fn what_was_demanded_must_be_met_unless_the_client_s_limit_or_stop_string_cut_it() {
        let judge = |answer: &AnswerShape, stops: bool, finish, held: &str| {
            let tools = match answer {
                AnswerShape::ToolCall => TOOLS,
                _ => "[]",
            };
            let mut work = work(tools, answer.clone());
            if !stops {
                work.sampling.stop.clear();
            }
            let request = Request::new(&work, ServerKind::Vllm, 64, 4096).expect("taken");
            request.judge(&ending(finish, &[]), held)
        };
        let object = AnswerShape::JsonObject;
        let whole = judge(&object, false, FinishReason::Stop, "{}");
        assert_eq!(whole.expect("one").tail, "{}");
        for (shape, other) in [
            (object, "[]"),
            (schema("{}"), "{\"a"),
            (AnswerShape::ToolCall, "talk"),
        ] {
            let unmet = judge(&shape, false, FinishReason::Stop, other);
            assert_eq!(unmet.expect_err("unmet").label(), "unmet");
            for (stops, finish) in [
                (false, FinishReason::Length),
                (true, FinishReason::Length),
                (true, FinishReason::Stop),
            ] {
                let cut = judge(&shape, stops, finish, other).expect("cut");
                assert_eq!((cut.tail.as_str(), cut.finish), (other, finish));
            }
        }
        // A server that says that it made calls has to have made valid ones.
        let work = work(TOOLS, AnswerShape::ToolCall);
        let request = Request::new(&work, ServerKind::Vllm, 64, 4096).expect("taken");
        let bad = ending(FinishReason::ToolCalls, &[("rm", "{}")]);
        assert_eq!(request.judge(&bad, "").expect_err("unmet").label(), "unmet");
    }
}
