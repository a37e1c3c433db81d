//! From the exact bytes of a request body to what the router and the provider work with. Pure: the same bytes always give the same
//! result, so that whoever re-runs an answer starts from the bytes that the receipt's request digest names.

mod constraints;
mod embeddings;
mod keys;
mod messages;
mod object;
mod sampling;
mod shapes;
mod tools;

pub use constraints::ReceiptPlace;
pub use embeddings::parse_embeddings;
pub(crate) use keys::{parse_new_key, parse_rotation, parse_sign_in};

use crate::error::ApiError;
use crate::json::{Json, clip};
use object::{Object, invalid, unsupported};
use stoa_crypto::keccak256;
use stoa_nodes::client::ClientRequest;
use stoa_nodes::work::{AnswerShape, Prompt};

/// Output limit of text completions that name none, as OpenAI has it.
const COMPLETION_TOKENS_DEFAULT: u32 = 16;

/// A request body, read.
#[derive(Debug, Clone, PartialEq)]
pub struct ParsedRequest {
    /// What the router gets.
    pub request: ClientRequest,
    /// How the client wants the answer; has no effect on what is computed.
    pub delivery: Delivery,
    /// Fields that were accepted and have no effect.
    pub ignored: Vec<String>,
}

/// How the client wants the answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Delivery {
    /// As server-sent events.
    pub stream: bool,
    /// A last piece with the counts.
    pub include_usage: bool,
    /// A single tool call in the form of the deprecated `function_call`.
    pub legacy_functions: bool,
    /// Text that stands before a text completion (`echo`).
    pub echo: Option<String>,
    /// Where the receipt is shown.
    pub receipt: ReceiptPlace,
    /// How vectors are written.
    pub vectors: VectorForm,
    /// Log-probabilities stand in it.
    pub logprobs: bool,
}

/// How the vectors of an answer are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum VectorForm {
    /// As numbers.
    #[default]
    Float,
    /// As base64 of little-endian 32-bit floats: the very text of the receipt's digest.
    Base64,
}

const SHARED_FIELDS: &[&str] = &[
    "model",
    "stream",
    "stream_options",
    "temperature",
    "min_p",
    "top_p",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "seed",
    "stop",
    "n",
    "best_of",
    "stoa",
    "logprobs",
    "max_tokens",
];
const CHAT_FIELDS: &[&str] = &[
    "messages",
    "max_completion_tokens",
    "tools",
    "functions",
    "tool_choice",
    "function_call",
    "response_format",
    "parallel_tool_calls",
    "top_logprobs",
    "chat_template_kwargs",
];
const COMPLETION_FIELDS: &[&str] = &["prompt", "echo", "response_format"];
/// Bookkeeping of the client: no answer depends on it.
const SILENT_FIELDS: &[&str] = &[
    "metadata",
    "user",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "client_metadata",
];

/// Reads the body of `POST /v1/chat/completions`.
pub fn parse_chat(body: &[u8]) -> Result<ParsedRequest, ApiError> {
    let json = parse(body)?;
    let root = Object::root(&json)?;
    let mut ignored = Vec::new();
    let model = root.required_text("model", 256)?;
    let (messages, message_count) = messages::messages(&root, &mut ignored)?;
    let tools = tools::tools(&root, &mut ignored)?;
    let logprobs = sampling::chat_logprobs(&root)?;
    let max_tokens = root.count("max_tokens")?;
    let output_tokens_max = root.count("max_completion_tokens")?.or(max_tokens);
    let prompt = Prompt::Chat {
        messages,
        tools: tools.text,
        arguments: messages::template_arguments(&root)?,
    };
    let parts = Parts {
        model,
        prompt,
        answer: tools.shape,
        output_tokens_max,
        logprobs,
        message_count,
        delivery: Delivery {
            legacy_functions: tools.legacy,
            ..Delivery::default()
        },
    };
    finish(body, &root, parts, CHAT_FIELDS, ignored)
}

/// Reads the body of `POST /v1/completions`.
pub fn parse_completion(body: &[u8]) -> Result<ParsedRequest, ApiError> {
    let json = parse(body)?;
    let root = Object::root(&json)?;
    let ignored = Vec::new();
    let model = root.required_text("model", 256)?;
    let prompt = prompt(&root)?;
    let logprobs = root.integer("logprobs", 0, 5)?;
    let logprobs = logprobs.map(|n| u8::try_from(n).expect("the range was checked"));
    let echo = match (root.boolean("echo")?, &prompt) {
        (Some(true), _) if logprobs.is_some_and(|top| top > 0) => {
            return Err(unsupported(
                "echo",
                "there are log-probabilities of the answer's tokens only, not of the prompt's",
            ));
        }
        (Some(true), Prompt::Text(text)) => Some(text.clone()),
        (Some(true), _) => {
            return Err(unsupported(
                "echo",
                "a prompt of token ids cannot be repeated as text",
            ));
        }
        _ => None,
    };
    let parts = Parts {
        model,
        prompt,
        answer: shapes::shape(&root)?.unwrap_or(AnswerShape::Any),
        output_tokens_max: Some(
            root.count("max_tokens")?
                .unwrap_or(COMPLETION_TOKENS_DEFAULT),
        ),
        logprobs,
        message_count: 0,
        delivery: Delivery {
            echo,
            ..Delivery::default()
        },
    };
    finish(body, &root, parts, COMPLETION_FIELDS, ignored)
}

/// What differs between the routes.
struct Parts<'a> {
    model: &'a str,
    prompt: Prompt,
    answer: AnswerShape,
    output_tokens_max: Option<u32>,
    /// How many alternatives to each token, where log-probabilities are asked for.
    logprobs: Option<u8>,
    message_count: u32,
    delivery: Delivery,
}

/// What both kinds of answers that are text have.
fn finish(
    body: &[u8],
    root: &Object<'_>,
    mut parts: Parts<'_>,
    fields: &[&str],
    mut ignored: Vec<String>,
) -> Result<ParsedRequest, ApiError> {
    let mut sampling = sampling::sampling(root, &mut ignored)?;
    sampling.controls.logprobs = parts.logprobs;
    parts.delivery.logprobs = parts.logprobs.is_some();
    let (stream, include_usage) = sampling::streaming(root)?;
    parts.delivery.stream = stream;
    parts.delivery.include_usage = include_usage;
    let known = [SHARED_FIELDS, shapes::FIELDS, fields].concat();
    finish_request(body, root, parts, sampling, &known, ignored)
}

fn finish_request(
    body: &[u8],
    root: &Object<'_>,
    parts: Parts<'_>,
    sampling: sampling::Sampling,
    known: &[&str],
    mut ignored: Vec<String>,
) -> Result<ParsedRequest, ApiError> {
    let options = constraints::options(root)?;
    sampling::note_ignored(root, known, SILENT_FIELDS, &mut ignored);
    if let (true, Some(first)) = (options.require_parameters, ignored.first()) {
        return Err(unsupported(
            first,
            "it has no effect here, and `stoa.require_parameters` is set",
        ));
    }
    let request = ClientRequest {
        model: parts.model.to_owned(),
        prompt: parts.prompt,
        answer: parts.answer,
        temperature: sampling.temperature,
        min_p: sampling.min_p,
        seed: sampling.seed,
        output_tokens_max: parts.output_tokens_max,
        stop: sampling.stop,
        controls: sampling.controls,
        choices: sampling.choices,
        message_count: parts.message_count,
        request_digest: keccak256(body),
        body_bytes: body.len() as u64,
        constraints: options.constraints,
    };
    let delivery = Delivery {
        receipt: options.receipt,
        ..parts.delivery
    };
    Ok(ParsedRequest {
        request,
        delivery,
        ignored,
    })
}

fn parse(body: &[u8]) -> Result<Json, ApiError> {
    serde_json::from_slice(body).map_err(|error| ApiError::NotJson {
        reason: clip(&error.to_string(), 200),
    })
}

/// One prompt: text or token ids, alone or in a list of one.
fn prompt(root: &Object<'_>) -> Result<Prompt, ApiError> {
    let several = || invalid("prompt", "must be one prompt: one call answers one");
    match root.required("prompt")? {
        Json::Text(text) => Ok(Prompt::Text(text.clone())),
        Json::Array(items) => match items.as_slice() {
            [] => Err(invalid("prompt", "must not be empty")),
            [Json::Text(text)] => Ok(Prompt::Text(text.clone())),
            [Json::Array(ids)] if ids.is_empty() => Err(invalid("prompt[0]", "must not be empty")),
            [Json::Array(ids)] => Ok(Prompt::Tokens(sampling::token_ids(ids, "prompt[0]")?)),
            [Json::Text(_) | Json::Array(_), ..] => Err(several()),
            ids => Ok(Prompt::Tokens(sampling::token_ids(ids, "prompt")?)),
        },
        other => Err(invalid(
            "prompt",
            format!("must be a string or an array, not {}", other.kind()),
        )),
    }
}
