//! The differences between the servers that speak OpenAI's protocol. Everything else is one client.

use super::UpstreamFault;
use super::client::Client;
use serde_json::Value;

/// Which server it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerKind {
    /// llama.cpp's server.
    LlamaCpp,
    /// vLLM.
    Vllm,
    /// SGLang.
    Sglang,
    /// Hugging Face's text-generation-inference.
    Tgi,
    /// Another one: only what the protocol itself says is used.
    Other,
}

impl ServerKind {
    /// Its name in logs and in the runtime digest.
    pub const fn name(self) -> &'static str {
        match self {
            Self::LlamaCpp => "llama.cpp",
            Self::Vllm => "vllm",
            Self::Sglang => "sglang",
            Self::Tgi => "tgi",
            Self::Other => "openai-compatible",
        }
    }

    /// Route that says whether it can generate; `None` where the list of models is all there is.
    pub(crate) const fn health_path(self) -> Option<&'static str> {
        match self {
            Self::Other => None,
            _ => Some("/health"),
        }
    }

    /// What asks for counts on every piece.
    pub(crate) const fn counting(self) -> &'static str {
        match self {
            Self::LlamaCpp => {
                r#","timings_per_token":true,"stream_options":{"include_usage":true}"#
            }
            Self::Vllm | Self::Sglang => {
                r#","stream_options":{"include_usage":true,"continuous_usage_stats":true}"#
            }
            Self::Tgi | Self::Other => r#","stream_options":{"include_usage":true}"#,
        }
    }

    /// Switches off the samplers that a server adds on its own: only temperature and `min_p` stand in the receipt.
    pub(crate) const fn plain_sampling(self) -> &'static str {
        match self {
            Self::LlamaCpp => r#","top_p":1,"top_k":0"#,
            Self::Vllm | Self::Sglang => r#","top_p":1,"top_k":-1"#,
            // TGI takes `top_p` below 1 only, and uses none when it is absent.
            Self::Tgi => "",
            Self::Other => r#","top_p":1"#,
        }
    }

    /// Whether `min_p` is a parameter of its own.
    pub(crate) const fn takes_min_p(self) -> bool {
        matches!(self, Self::LlamaCpp | Self::Vllm | Self::Sglang)
    }

    /// Whether `logit_bias` and `presence_penalty` have an effect. TGI takes the fields and does nothing with them.
    pub(crate) const fn takes_bias_and_presence(self) -> bool {
        !matches!(self, Self::Tgi)
    }

    /// Whether it holds an answer to the schema of a `response_format`.
    pub(crate) const fn takes_schemas(self) -> bool {
        matches!(self, Self::LlamaCpp | Self::Vllm | Self::Sglang)
    }

    /// Whether a prompt may be token ids.
    pub(crate) const fn takes_token_ids(self) -> bool {
        !matches!(self, Self::Tgi)
    }

    /// The seed as it takes it.
    pub(crate) const fn seed(self, seed: u64) -> u64 {
        match self {
            // All ones mean "draw one".
            Self::LlamaCpp => seed % (u32::MAX as u64),
            _ => seed & (i64::MAX as u64),
        }
    }
}

/// One model that a server lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    pub id: String,
    pub owned_by: String,
    pub context: Option<u64>,
    pub format: Option<String>,
}

/// The models of `GET /v1/models`.
pub(crate) fn listed(answer: &Value) -> Vec<Listed> {
    let models = answer["data"].as_array();
    let one = |model: &Value| {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        Some(Listed {
            id: text(&model["id"])?,
            owned_by: text(&model["owned_by"]).unwrap_or_default(),
            context: model["max_model_len"]
                .as_u64()
                .or(model["meta"]["n_ctx"].as_u64())
                .or(model["meta"]["n_ctx_train"].as_u64()),
            format: text(&model["meta"]["ftype"]),
        })
    };
    models.into_iter().flatten().filter_map(one).collect()
}

/// What a server's own routes say beside the list of models.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct About {
    pub kind: ServerKind,
    pub version: Option<String>,
    pub context: Option<u64>,
    /// Requests that it works on at once.
    pub slots: Option<u64>,
    pub format: Option<String>,
}

/// Asks the routes by which the servers differ, the likeliest first.
pub(crate) async fn recognise(client: &Client, model: &Listed) -> Result<About, UpstreamFault> {
    let own = match model.owned_by.as_str() {
        "llamacpp" => Some(ServerKind::LlamaCpp),
        "vllm" => Some(ServerKind::Vllm),
        "sglang" => Some(ServerKind::Sglang),
        _ => None,
    };
    let routes = [
        (ServerKind::LlamaCpp, "/props"),
        (ServerKind::Sglang, "/get_server_info"),
        (ServerKind::Tgi, "/info"),
        (ServerKind::Vllm, "/version"),
    ];
    for (kind, route) in routes {
        if own.is_some_and(|own| own != kind) {
            continue;
        }
        match client.get_json(route).await {
            Ok(answer) => {
                if let Some(about) = about(kind, &answer, own.is_some()) {
                    return Ok(about);
                }
            }
            Err(fault @ UpstreamFault::Unreachable { .. }) => return Err(fault),
            // A route that is closed or not there says that it is another server, or that it tells nothing more.
            Err(_) => {}
        }
    }
    Ok(About {
        kind: own.unwrap_or(ServerKind::Other),
        version: None,
        context: None,
        slots: None,
        format: None,
    })
}

/// Reads the answer of a server's own route; `None` when it is not that server's. `sure`: the list of models named it already.
fn about(kind: ServerKind, answer: &Value, sure: bool) -> Option<About> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let found = About {
        kind,
        version: text(&answer["version"]).or(text(&answer["build_info"])),
        context: None,
        slots: None,
        format: None,
    };
    Some(match kind {
        ServerKind::LlamaCpp if answer["default_generation_settings"].is_object() => About {
            context: answer["default_generation_settings"]["n_ctx"].as_u64(),
            slots: answer["total_slots"].as_u64(),
            format: text(&answer["model_ftype"]),
            ..found
        },
        ServerKind::Sglang if sure || answer["model_path"].is_string() => About {
            context: answer["context_length"]
                .as_u64()
                .or(answer["max_total_num_tokens"].as_u64()),
            slots: answer["max_running_requests"].as_u64(),
            format: text(&answer["dtype"]),
            ..found
        },
        ServerKind::Tgi if answer["router"].is_string() || answer["max_total_tokens"].is_u64() => {
            About {
                context: answer["max_total_tokens"].as_u64(),
                slots: answer["max_concurrent_requests"].as_u64(),
                format: text(&answer["model_dtype"]),
                ..found
            }
        }
        ServerKind::Vllm if sure => found,
        _ => return None,
    })
}

/// Tokens of the prompt that a server's refusal names, if it is the refusal of a prompt that is too long.
pub(crate) fn context_refusal(error: &Value) -> Option<Option<u64>> {
    let message = error["message"]
        .as_str()
        .or(error.as_str())
        .unwrap_or_default();
    let of_context = error["type"] == "exceed_context_size_error"
        || error["code"] == "context_length_exceeded"
        || message.contains("context length")
        || message.contains("context size")
        || message.contains("`max_new_tokens` must be <=")
        || message.contains("must have less than");
    if !of_context {
        return None;
    }
    if let Some(tokens) = error["n_prompt_tokens"].as_u64() {
        return Some(Some(tokens));
    }
    let marks = [
        " in the messages",
        " input tokens",
        " tokens from the input",
        " `inputs` tokens",
        " in the input",
        " prompt tokens",
    ];
    let before = |mark: &str| {
        message.match_indices(mark).find_map(|(at, _)| {
            let head = &message[..at];
            let rest = head.trim_end_matches(|c: char| c.is_ascii_digit());
            head[rest.len()..].parse().ok()
        })
    };
    Some(marks.into_iter().find_map(before))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_count_of_a_prompt_that_is_too_long_is_read_from_each_server_s_words() {
        // The first was given by llama.cpp's server; the others are stand-ins written after the servers' sources.
        let cases = [
            (
                json!({"code":400,"message":"request (10003 tokens) exceeds the available context size (1024 tokens), try increasing it",
                "type":"exceed_context_size_error","n_prompt_tokens":10003,"n_ctx":1024}),
                Some(Some(10003)),
            ),
            (
                json!({"message":"This model's maximum context length is 4096 tokens. However, you requested 5000 tokens (4900 in the messages, 100 in the completion).","type":"BadRequestError"}),
                Some(Some(4900)),
            ),
            (
                json!({"message":"'max_tokens' or 'max_completion_tokens' is too large: 4096. This model's maximum context length is 4096 tokens and your request has 12 input tokens"}),
                Some(Some(12)),
            ),
            (
                json!({"message":"Requested token count exceeds the model's maximum context length of 4096 tokens. You requested a total of 5000 tokens: 4000 tokens from the input messages and 1000 tokens for the completion."}),
                Some(Some(4000)),
            ),
            (
                json!(
                    "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 100 `inputs` tokens and 4000 `max_new_tokens`"
                ),
                Some(Some(100)),
            ),
            (
                json!({"message":"the context length is too long","code":"context_length_exceeded"}),
                Some(None),
            ),
            (json!({"message":"temperature must be a number"}), None),
        ];
        for (error, expected) in cases {
            assert_eq!(context_refusal(&error), expected, "{error}");
        }
    }

    #[test]
    fn a_model_list_gives_what_each_server_says_of_its_context() {
        let answer = json!({"data":[
            {"id":"a","owned_by":"vllm","max_model_len":4096},
            {"id":"b.gguf","owned_by":"llamacpp","meta":{"n_ctx":1024,"n_ctx_train":2048,"ftype":"Q8_0"}},
            {"object":"model"}, {"id":"c"}]});
        let found: Vec<_> = listed(&answer)
            .into_iter()
            .map(|m| (m.id, m.context))
            .collect();
        let expected = [("a", Some(4096)), ("b.gguf", Some(1024)), ("c", None)];
        assert_eq!(found, expected.map(|(id, c)| (id.to_owned(), c)));
        assert!(listed(&json!({"models":[]})).is_empty());
    }

    #[test]
    fn a_seed_is_one_that_the_server_takes() {
        assert_eq!(ServerKind::LlamaCpp.seed(u64::from(u32::MAX)), 0);
        assert_eq!(ServerKind::Vllm.seed(u64::MAX), i64::MAX as u64);
        assert_eq!(ServerKind::Tgi.seed(7), 7);
    }
}
