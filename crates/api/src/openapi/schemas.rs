//! Shapes that the routes take and give.

use serde_json::{Value, json};
use stoa_nodes::client::CHOICES_MAX;
use stoa_nodes::work::INPUTS_MAX;
use stoa_types::{LOGIT_BIAS_ENTRIES_MAX, TOP_LOGPROBS_MAX};

fn object(properties: Value, required: &[&str]) -> Value {
    json!({"type": "object", "properties": properties, "required": required})
}

fn closed(properties: Value, required: &[&str]) -> Value {
    let mut schema = object(properties, required);
    schema["additionalProperties"] = false.into();
    schema
}

fn nullable(kind: &str) -> Value {
    json!({"type": [kind, "null"]})
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

fn list(of: Value) -> Value {
    object(
        json!({"object": {"const": "list"}, "data": {"type": "array", "items": of}}),
        &["object", "data"],
    )
}

/// Text or one of the groups of a union, `null` included.
fn either(kinds: &[Value]) -> Value {
    json!({"anyOf": kinds})
}

pub(super) fn all() -> Value {
    let mut schemas = json!({
        "Object": {"type": "object"},
        "Text": {"type": "string"},
        "List": list(json!({"type": "object"})),
        "Error": error(),
        "Events": object(
            json!({"data": {"type": "string", "description": "A `chat.completion.chunk` or `text_completion`; at the end `[DONE]`."}}),
            &["data"],
        ),
        "Model": model(),
        "ModelList": list(reference("Model")),
        "Usage": usage(),
        "ChatRequest": chat_request(),
        "ChatCompletion": chat_completion(),
        "CompletionRequest": completion_request(),
        "Completion": completion(),
        "EmbeddingRequest": embedding_request(),
        "EmbeddingList": embedding_list(),
        "StoaOptions": stoa_options(),
    });
    for (name, schema) in own() {
        schemas[name] = schema;
    }
    schemas
}

/// Shapes of Stoa's own routes.
fn own() -> Vec<(&'static str, Value)> {
    let text = json!({"type": "string"});
    let count = json!({"type": "integer", "minimum": 0});
    vec![
        (
            "Health",
            object(
                json!({"status": text, "failing": {"type": "array", "items": text}}),
                &["status"],
            ),
        ),
        (
            "SignInNonce",
            object(
                json!({"object": {"const": "stoa.sign_in_nonce"}, "nonce": text, "chain_id": count, "expires_at": count}),
                &["object", "nonce", "chain_id", "expires_at"],
            ),
        ),
        (
            "SignInMessage",
            object(
                json!({"object": {"const": "stoa.sign_in_message"}, "message": text, "expires_at": count}),
                &["object", "message", "expires_at"],
            ),
        ),
        (
            "SignIn",
            closed(
                json!({"message": text, "signature": text}),
                &["message", "signature"],
            ),
        ),
        (
            "Session",
            object(
                json!({"object": {"const": "stoa.session"}, "account": nullable("string"), "expires_at": count}),
                &["object", "account"],
            ),
        ),
        (
            "Receipt",
            object(
                json!({"object": {"const": "stoa.receipt"}, "id": text, "receipt": {"type": "object"}, "state": text}),
                &["object", "id", "receipt", "state"],
            ),
        ),
        (
            "Limits",
            object(
                json!({
                    "body_bytes_max": count, "output_tokens_max": count, "output_tokens_default": count,
                    "calls_max": nullable("integer"), "rate_limit": reference("RateLimit"), "reads_per_minute": count,
                }),
                &[
                    "body_bytes_max",
                    "output_tokens_max",
                    "output_tokens_default",
                    "rate_limit",
                    "reads_per_minute",
                ],
            ),
        ),
        (
            "Account",
            object(
                json!({"account": text, "vault_balance": text, "allotment_cap": text, "reserved": text,
                    "charged": text, "available": text, "expires_at": count}),
                &["account", "available"],
            ),
        ),
        ("RateLimit", rate_limit()),
        ("SpendLimit", spend_limit()),
        ("NewKey", new_key()),
        ("Key", key(&[])),
        ("IssuedKey", key(&["secret"])),
        ("KeyList", list(reference("Key"))),
        (
            "Rotation",
            closed(
                json!({"old_valid_seconds": {"type": "integer", "minimum": 0, "maximum": 604_800}}),
                &[],
            ),
        ),
    ]
}

fn error() -> Value {
    let mut undelivered = object(
        json!({"ticket": {"type": "object"}, "acceptance": {"type": "object"}}),
        &["ticket", "acceptance"],
    );
    undelivered["description"] = "An order that a provider took and did not deliver: the ticket that the router signed and the provider's \
        word that it took it."
        .into();
    let mut facts = object(
        json!({
            "cause": {"type": "string"}, "request_id": {"type": "string"}, "billed": {"type": "string"},
            "undelivered": {"type": "array", "items": undelivered},
            "choice": {"type": "integer", "minimum": 0, "description": "Which of several choices failed after something had been told."},
            "charged": {"type": "array", "items": {"type": "string"}, "description": "Receipts of the other choices, which were delivered."},
        }),
        &["cause", "request_id", "billed"],
    );
    facts["description"] = "Cause and figures for machines; more of them with some causes.".into();
    let inner = object(
        json!({
            "message": {"type": "string"}, "type": {"type": "string"}, "param": nullable("string"),
            "code": {"type": "string"}, "stoa": facts,
        }),
        &["message", "type", "param", "code", "stoa"],
    );
    object(json!({"error": inner}), &["error"])
}

fn model() -> Value {
    object(
        json!({
            "id": {"type": "string"}, "object": {"const": "model"}, "created": {"type": "integer"},
            "owned_by": {"type": "string"}, "context_length": nullable("integer"),
            "max_output_tokens": nullable("integer"), "pricing": {"type": ["object", "null"]},
            "quantization": nullable("string"), "stoa": {"type": ["object", "null"]},
        }),
        &["id", "object", "created", "owned_by"],
    )
}

fn usage() -> Value {
    let count = json!({"type": "integer", "minimum": 0});
    object(
        json!({
            "prompt_tokens": count, "completion_tokens": count, "total_tokens": count,
            "prompt_tokens_details": {"type": "object"}, "completion_tokens_details": {"type": "object"},
        }),
        &[
            "prompt_tokens",
            "completion_tokens",
            "total_tokens",
            "prompt_tokens_details",
            "completion_tokens_details",
        ],
    )
}

/// Fields that both paid calls take. Others are accepted and have no effect.
fn shared_fields() -> Value {
    json!({
        "model": {"type": "string", "minLength": 1, "maxLength": 256},
        "stream": nullable("boolean"),
        "stream_options": either(&[object(json!({"include_usage": nullable("boolean")}), &[]), json!({"type": "null"})]),
        "max_tokens": {"type": ["integer", "null"], "minimum": 0, "maximum": u32::MAX},
        "temperature": {"type": ["number", "null"], "minimum": 0, "maximum": 2},
        "min_p": {"type": ["number", "null"], "minimum": 0, "maximum": 1},
        "top_p": {"type": ["number", "null"], "minimum": 0, "maximum": 1},
        "presence_penalty": {"type": ["number", "null"], "minimum": -2, "maximum": 2},
        "frequency_penalty": {"type": ["number", "null"], "minimum": -2, "maximum": 2},
        "logit_bias": {
            "type": ["object", "null"],
            "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
            "maxProperties": LOGIT_BIAS_ENTRIES_MAX,
            "propertyNames": {"pattern": "^(0|[1-9][0-9]{0,8})$"},
        },
        "seed": nullable("integer"),
        "stop": either(&[
            json!({"type": "string"}),
            json!({"type": "array", "items": {"type": "string"}, "maxItems": 4}),
            json!({"type": "null"}),
        ]),
        "n": {"type": ["integer", "null"], "minimum": 1, "maximum": CHOICES_MAX, "description": "Answers, each with a receipt and a charge \
              of its own; all are reserved for or none, and all run at once."},
        "stoa": either(&[reference("StoaOptions"), json!({"type": "null"})]),
    })
}

fn with(mut fields: Value, more: Value) -> Value {
    if let (Some(fields), Value::Object(more)) = (fields.as_object_mut(), more) {
        fields.extend(more);
    }
    fields
}

fn chat_request() -> Value {
    let message = object(
        json!({
            "role": {"enum": ["system", "developer", "user", "assistant"]},
            "content": {"type": "string"},
        }),
        &["role", "content"],
    );
    let own = json!({
        "messages": {"type": "array", "items": message, "minItems": 1, "maxItems": 64},
        "max_completion_tokens": {"type": ["integer", "null"], "minimum": 0, "maximum": u32::MAX},
        "tools": {"type": ["array", "null"], "items": {"type": "object"}},
        "logprobs": nullable("boolean"),
        "chat_template_kwargs": {"type": ["object", "null"], "additionalProperties": {"type": ["string", "number", "boolean"]}, "maxProperties": 16},
        "top_logprobs": {"type": ["integer", "null"], "minimum": 0, "maximum": TOP_LOGPROBS_MAX},
        "tool_choice": {"enum": ["none", "auto", "required", null]},
        "parallel_tool_calls": nullable("boolean"),
        "response_format": response_format(),
        "structured_outputs": structured_outputs(),
    });
    object(with(shared_fields(), own), &["model", "messages"])
}

/// The answer is held to it while it is decoded.
fn response_format() -> Value {
    let named = json!({
        "name": {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"},
        "schema": {"type": "object"},
        "strict": nullable("boolean"),
    });
    either(&[
        object(
            json!({"type": {"enum": ["text", "json_object"]}}),
            &["type"],
        ),
        object(
            json!({"type": {"const": "json_schema"}, "json_schema": object(named, &["name", "schema"])}),
            &["type", "json_schema"],
        ),
        json!({"type": "null"}),
    ])
}

/// The same as vLLM has it, one of them.
fn structured_outputs() -> Value {
    let text = json!({"type": "string", "minLength": 1});
    either(&[
        object(json!({"json": {"type": "object"}}), &["json"]),
        object(json!({"regex": text}), &["regex"]),
        object(
            json!({"choice": {"type": "array", "items": text, "minItems": 1, "maxItems": 1000}}),
            &["choice"],
        ),
        json!({"type": "null"}),
    ])
}

fn completion_request() -> Value {
    let own = json!({
        "prompt": either(&[
            json!({"type": "string"}),
            json!({"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 1}),
            json!({"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}),
        ]),
        "echo": nullable("boolean"),
        "logprobs": {"type": ["integer", "null"], "minimum": 0, "maximum": 5},
    });
    object(with(shared_fields(), own), &["model", "prompt"])
}

fn embedding_request() -> Value {
    let ids = json!({"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": u32::MAX}, "minItems": 1});
    let text = json!({"type": "string", "minLength": 1});
    object(
        json!({
            "model": {"type": "string", "minLength": 1, "maxLength": 256},
            "input": either(&[
                text.clone(),
                json!({"type": "array", "items": text, "minItems": 1, "maxItems": INPUTS_MAX}),
                ids.clone(),
                json!({"type": "array", "items": ids, "minItems": 1, "maxItems": INPUTS_MAX}),
            ]),
            "encoding_format": {"enum": ["float", "base64", null]},
            "dimensions": {"type": ["integer", "null"], "minimum": 1, "maximum": u32::MAX},
            "user": nullable("string"),
            "stoa": either(&[reference("StoaOptions"), json!({"type": "null"})]),
        }),
        &["model", "input"],
    )
}

fn embedding_list() -> Value {
    let vector = either(&[
        json!({"type": "array", "items": {"type": "number"}, "minItems": 1}),
        json!({"type": "string", "contentEncoding": "base64"}),
    ]);
    let one = object(
        json!({"object": {"const": "embedding"}, "index": {"type": "integer", "minimum": 0}, "embedding": vector}),
        &["object", "index", "embedding"],
    );
    let count = json!({"type": "integer", "minimum": 0});
    let usage = object(
        json!({"prompt_tokens": count, "total_tokens": count}),
        &["prompt_tokens", "total_tokens"],
    );
    object(
        json!({
            "object": {"const": "list"}, "data": {"type": "array", "items": one, "minItems": 1}, "model": {"type": "string"},
            "usage": usage, "stoa": {"type": "object"},
        }),
        &["object", "data", "model", "usage", "stoa"],
    )
}

fn stoa_options() -> Value {
    closed(
        json!({
            "tier": {"enum": ["none", "statistical", "exact", "tee", "zk"]},
            "max_cost": {"type": "string", "pattern": "^[0-9]{1,9}(\\.[0-9]{1,6})?$"},
            "require_parameters": {"type": "boolean"},
            "receipt": {"enum": ["inline", "header", "none"]},
        }),
        &[],
    )
}

fn answer(object_word: &str, choice: Value) -> Value {
    object(
        json!({
            "id": {"type": "string"}, "object": {"const": object_word}, "created": {"type": "integer"},
            "model": {"type": "string"}, "choices": {"type": "array", "items": choice, "minItems": 1},
            "usage": reference("Usage"), "stoa": {"type": "object", "description": "Cost, receipt and provider of the answer. Where several choices \
              were asked for: the sums, and under `choices` such an object of each."},
        }),
        &[
            "id", "object", "created", "model", "choices", "usage", "stoa",
        ],
    )
}

fn finish_reason() -> Value {
    json!({"enum": ["stop", "length", "tool_calls", "function_call", "content_filter"]})
}

fn chat_completion() -> Value {
    let message = object(
        json!({"role": {"const": "assistant"}, "content": nullable("string"), "reasoning_content": {"type": "string"}, "tool_calls": {"type": "array"}}),
        &["role", "content"],
    );
    let choice = object(
        json!({"index": {"type": "integer"}, "message": message, "finish_reason": finish_reason()}),
        &["index", "message", "finish_reason"],
    );
    answer("chat.completion", choice)
}

fn completion() -> Value {
    let choice = object(
        json!({"index": {"type": "integer"}, "text": {"type": "string"}, "finish_reason": finish_reason()}),
        &["index", "text", "finish_reason"],
    );
    answer("text_completion", choice)
}

fn rate_limit() -> Value {
    let count = json!({"type": "integer", "minimum": 1, "maximum": u32::MAX});
    closed(
        json!({"requests_per_minute": count, "tokens_per_minute": count}),
        &["requests_per_minute", "tokens_per_minute"],
    )
}

fn spend_limit() -> Value {
    closed(
        json!({
            "amount": {"type": "string", "pattern": "^[0-9]{1,9}(\\.[0-9]{1,6})?$"},
            "period": {"enum": ["day", "month", "total"]},
        }),
        &["amount", "period"],
    )
}

fn scopes() -> Value {
    json!({"enum": ["inference", "models", "jobs", "account"]})
}

fn new_key() -> Value {
    let null = || json!({"type": "null"});
    closed(
        json!({
            "name": {"type": ["string", "null"], "maxLength": 100, "pattern": "^[ -~]*$"},
            "routes": {"type": ["array", "null"], "items": scopes(), "minItems": 1, "maxItems": 4},
            "models": {"type": ["array", "null"], "items": {"type": "string", "minLength": 1, "maxLength": 256}, "minItems": 1, "maxItems": 64},
            "spend_limit": either(&[reference("SpendLimit"), null()]),
            "rate_limit": either(&[reference("RateLimit"), null()]),
            "expires_in_seconds": {"type": ["integer", "null"], "minimum": 1, "maximum": 315_360_000},
        }),
        &[],
    )
}

fn key(more: &[&str]) -> Value {
    let null = || json!({"type": "null"});
    let mut required = vec![
        "object",
        "id",
        "name",
        "routes",
        "models",
        "spend_limit",
        "rate_limit",
        "spent",
        "reserved",
        "alerts_percent",
        "resets_at",
        "created_at",
        "created_by",
        "expires_at",
        "revoked_at",
        "configured",
    ];
    required.extend(more);
    object(
        json!({
            "object": {"const": "stoa.key"},
            "id": {"type": "string", "pattern": "^key_[0-9a-f]{16}$"},
            "secret": {"type": "string"},
            "name": {"type": "string"},
            "routes": {"type": ["array", "null"], "items": scopes()},
            "models": {"type": ["array", "null"], "items": {"type": "string"}},
            "spend_limit": either(&[reference("SpendLimit"), null()]),
            "rate_limit": either(&[reference("RateLimit"), null()]),
            "spent": {"type": "string"},
            "reserved": {"type": "string"},
            "alerts_percent": {"type": "array", "items": {"enum": [50, 80, 100]}},
            "resets_at": nullable("integer"),
            "created_at": {"type": "integer"},
            "created_by": {"type": "string"},
            "expires_at": nullable("integer"),
            "revoked_at": nullable("integer"),
            "configured": {"type": "boolean"},
        }),
        &required,
    )
}
