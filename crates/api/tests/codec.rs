//! Reading of request bodies: what is tolerated, what is refused, and with which path.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use stoa_api::ApiError;
use stoa_api::codec::{
    ParsedRequest, ReceiptPlace, VectorForm, parse_chat, parse_completion, parse_embeddings,
};
use stoa_crypto::keccak256;
use stoa_nodes::client::Controls;
use stoa_nodes::work::{AnswerShape, Input, Prompt};
use stoa_types::{Address, Price, Q16, Region, SignedQ16, Tier, TokenAmount};

fn chat_body(changes: &Value) -> Value {
    let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
    for (name, value) in changes.as_object().expect("an object") {
        body[name] = value.clone();
    }
    body
}

fn chat(changes: Value) -> ParsedRequest {
    parse_chat(chat_body(&changes).to_string().as_bytes())
        .unwrap_or_else(|e| panic!("{changes}: {e}"))
}

fn completion(changes: Value) -> ParsedRequest {
    try_completion(&changes).unwrap_or_else(|e| panic!("{changes}: {e}"))
}

fn try_completion(changes: &Value) -> Result<ParsedRequest, ApiError> {
    let mut body = json!({"model": "m", "prompt": "hi"});
    for (name, value) in changes.as_object().expect("an object") {
        body[name] = value.clone();
    }
    parse_completion(body.to_string().as_bytes())
}

/// Code and path of a refusal.
fn refused(changes: Value) -> (&'static str, String) {
    let error =
        parse_chat(chat_body(&changes).to_string().as_bytes()).expect_err(&changes.to_string());
    path_of(error)
}

fn path_of(error: ApiError) -> (&'static str, String) {
    let code = error.row().code;
    match error {
        ApiError::Missing { param }
        | ApiError::Invalid { param, .. }
        | ApiError::Unsupported { param, .. } => (code, param),
        other => panic!("{other:?}"),
    }
}

fn invalid(param: &str) -> (&'static str, String) {
    ("invalid_value", param.to_owned())
}

fn unsupported(param: &str) -> (&'static str, String) {
    ("unsupported_parameter", param.to_owned())
}

fn prompt(parsed: &ParsedRequest) -> (Value, Value) {
    let Prompt::Chat {
        messages, tools, ..
    } = &parsed.request.prompt
    else {
        panic!("a chat prompt");
    };
    (
        serde_json::from_str(messages).expect("JSON"),
        serde_json::from_str(tools).expect("JSON"),
    )
}

fn tool(name: &str) -> Value {
    json!({"type": "function", "function": {"name": name, "description": "d", "parameters": {"type": "object"}}})
}

#[test]
fn a_minimal_request_gets_the_documented_defaults() {
    let body = br#"{"model":"m","messages":[{"role":"user","content":"hi"}]}"#;
    let parsed = parse_chat(body).expect("valid");
    let request = &parsed.request;
    assert_eq!(request.model, "m");
    assert_eq!(request.temperature, Q16::ONE);
    assert_eq!(
        (request.min_p, request.seed, request.output_tokens_max),
        (Q16(0), None, None)
    );
    assert_eq!(request.answer, AnswerShape::Any);
    assert_eq!(request.message_count, 1);
    assert_eq!(request.request_digest, keccak256(body));
    assert_eq!(request.body_bytes, body.len() as u64);
    assert_eq!(
        request.constraints,
        stoa_nodes::client::Constraints::default()
    );
    assert!(!parsed.delivery.stream && parsed.ignored.is_empty());
}

#[test]
fn the_same_bytes_give_the_same_request() {
    let body = chat_body(
        &json!({"tools": [tool("f")], "seed": -1, "stop": ["a", "b"], "temperature": 0.7}),
    );
    let bytes = body.to_string();
    assert_eq!(parse_chat(bytes.as_bytes()), parse_chat(bytes.as_bytes()));
}

#[test]
fn null_is_the_same_as_absent_for_every_optional_field() {
    let names = [
        "tools",
        "tool_choice",
        "functions",
        "function_call",
        "stop",
        "temperature",
        "top_p",
        "min_p",
        "seed",
        "n",
        "max_tokens",
        "max_completion_tokens",
        "presence_penalty",
        "frequency_penalty",
        "logit_bias",
        "logprobs",
        "top_logprobs",
        "stream",
        "stream_options",
        "response_format",
        "parallel_tool_calls",
        "stoa",
        "user",
        "metadata",
        "store",
        "service_tier",
        "reasoning_effort",
        "verbosity",
        "modalities",
        "audio",
        "prediction",
        "unheard_of",
    ];
    for name in names {
        let parsed = chat(json!({name: null}));
        let plain = chat(json!({}));
        assert_eq!(parsed.ignored, plain.ignored, "{name}");
        assert_eq!(parsed.delivery, plain.delivery, "{name}");
        assert_eq!(prompt(&parsed), prompt(&plain), "{name}");
    }
}

#[test]
fn unknown_fields_are_ignored_at_every_level_and_reported_at_the_top() {
    let parsed = chat(json!({
        "client_metadata": {"a": 1}, "vendor": [1],
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hi", "cache_control": {}}], "x": 1}],
        "stream_options": {"include_obfuscation": false, "y": 1},
    }));
    assert_eq!(parsed.ignored, ["vendor"]);
    assert_eq!(
        prompt(&parsed).0,
        json!([{"role": "user", "content": "hi"}])
    );
}

#[test]
fn bookkeeping_fields_are_taken_in_silence() {
    let parsed = chat(json!({
        "user": "u", "metadata": {"k": "v"}, "store": false, "safety_identifier": "s", "prompt_cache_key": "p",
        "prompt_cache_retention": "24h", "service_tier": "auto", "modalities": ["text"], "reasoning_effort": "none",
        "n": 1, "top_p": 1, "presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {"foo": 0}, "logprobs": false,
        "top_logprobs": 0,
    }));
    assert!(parsed.ignored.is_empty(), "{:?}", parsed.ignored);
}

#[test]
fn fields_without_effect_are_reported() {
    for (name, value) in [
        ("top_p", json!(0.9)),
        ("reasoning_effort", json!("high")),
        ("verbosity", json!("low")),
        ("prediction", json!({"type": "content", "content": "x"})),
        ("store", json!(true)),
        ("service_tier", json!("flex")),
        ("modalities", json!(["text", "audio"])),
        ("web_search_options", json!({})),
    ] {
        assert_eq!(chat(json!({name: value})).ignored, [name]);
    }
}

#[test]
fn bias_and_penalties_are_read_to_the_bit_and_nothing_of_them_is_ignored() {
    let parsed = chat(json!({
        "presence_penalty": 0.1, "frequency_penalty": -2, "temperature": 0,
        "logit_bias": {"50256": -100, "0": 1.5, "4294967295": 1e-5, "7": 0, "8": -1e-9, "not an id": 0.0},
    }));
    let controls = parsed.request.controls;
    assert_eq!(controls.presence_penalty, SignedQ16(6_554));
    assert_eq!(controls.frequency_penalty, SignedQ16(-131_072));
    let biases = [(0, 98_304), (50_256, -6_553_600), (u32::MAX, 1)];
    let biases = biases.map(|(id, bias)| (id, SignedQ16(bias)));
    assert_eq!(controls.logit_bias, BTreeMap::from(biases));
    assert!(parsed.ignored.is_empty());
    let none = chat(json!({"logit_bias": {}, "presence_penalty": -0.0}));
    assert_eq!(none.request.controls, Controls::default());
    let twice =
        r#"{"model":"m","messages":[{"role":"user","content":"x"}],"logit_bias":{"5":1,"5":2}}"#;
    let refusal = parse_chat(twice.as_bytes());
    assert!(matches!(refusal, Err(ApiError::NotJson { .. })));
}

#[test]
fn require_parameters_turns_ignored_into_refused() {
    let refusal = refused(json!({"top_p": 0.9, "stoa": {"require_parameters": true}}));
    assert_eq!(refusal, unsupported("top_p"));
    assert!(
        chat(json!({"stoa": {"require_parameters": true}}))
            .ignored
            .is_empty()
    );
}

#[test]
fn deprecated_length_and_functions_are_honoured() {
    assert_eq!(
        chat(json!({"max_tokens": 7})).request.output_tokens_max,
        Some(7)
    );
    let both = chat(json!({"max_tokens": 7, "max_completion_tokens": 0}));
    assert_eq!(
        both.request.output_tokens_max,
        Some(0),
        "the newer field wins, and 0 is valid"
    );
    let functions = json!([{"name": "f", "parameters": {"foo": "bar"}}]);
    let legacy = chat(json!({"functions": functions, "function_call": {"name": "f"}}));
    assert!(legacy.delivery.legacy_functions);
    assert_eq!(
        legacy.request.answer,
        AnswerShape::OneCall,
        "its form has room for one"
    );
    let tools =
        json!([{"type": "function", "function": {"name": "f", "parameters": {"foo": "bar"}}}]);
    assert_eq!(prompt(&legacy).1, tools);
    let mixed = chat(json!({"functions": functions, "tools": [tool("g")]}));
    assert!(!mixed.delivery.legacy_functions);
    assert_eq!(prompt(&mixed).1.as_array().map(Vec::len), Some(2));
}

#[test]
fn tools_null_and_tool_choice_none_without_tools_are_fine() {
    for changes in [
        json!({"tools": null, "tool_choice": "none"}),
        json!({"tools": [], "tool_choice": "auto"}),
        json!({"tool_choice": "none"}),
    ] {
        let parsed = chat(changes);
        assert_eq!(parsed.request.answer, AnswerShape::Any);
        assert_eq!(prompt(&parsed).1, json!([]));
    }
}

#[test]
fn tool_choice_decides_the_shape_and_the_tools() {
    let two = json!([tool("f"), tool("g")]);
    let with = |choice: Value| {
        let parsed = chat(json!({"tools": two, "tool_choice": choice}));
        let names: Vec<String> = prompt(&parsed)
            .1
            .as_array()
            .expect("tools")
            .iter()
            .map(|tool| {
                tool["function"]["name"]
                    .as_str()
                    .expect("a name")
                    .to_owned()
            })
            .collect();
        (parsed.request.answer, names.join(" "))
    };
    assert_eq!(with(json!("auto")), (AnswerShape::Any, "f g".to_owned()));
    assert_eq!(
        with(json!("none")),
        (AnswerShape::NoTools, "f g".to_owned())
    );
    assert_eq!(
        with(json!("required")),
        (AnswerShape::ToolCall, "f g".to_owned())
    );
    let named = json!({"type": "function", "function": {"name": "g"}});
    assert_eq!(with(named.clone()), (AnswerShape::ToolCall, "g".to_owned()));
    let allowed = |mode: &str| json!({"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [named]}});
    assert_eq!(with(allowed("auto")), (AnswerShape::Any, "g".to_owned()));
    assert_eq!(
        with(allowed("required")),
        (AnswerShape::ToolCall, "g".to_owned())
    );
}

#[test]
fn a_choice_that_cannot_be_met_is_refused() {
    assert_eq!(
        refused(json!({"tool_choice": "required"})),
        invalid("tool_choice")
    );
    assert_eq!(
        refused(json!({"tool_choice": "perhaps"})),
        invalid("tool_choice")
    );
    let unknown = json!({"type": "function", "function": {"name": "h"}});
    let refusal = refused(json!({"tools": [tool("f")], "tool_choice": unknown}));
    assert_eq!(refusal, invalid("tool_choice.function.name"));
    let hosted = json!({"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [{"type": "web_search"}]}});
    let refusal = refused(json!({"tools": [tool("f")], "tool_choice": hosted}));
    assert_eq!(refusal, invalid("tool_choice.allowed_tools.tools"));
}

#[test]
fn tools_of_unknown_kinds_are_left_out_and_reported() {
    let tools = json!([{"type": "web_search"}, tool("f"), {"type": "namespace", "tools": []}, {"type": "custom", "custom": {}}]);
    let parsed = chat(json!({"tools": tools, "parallel_tool_calls": true}));
    assert_eq!(prompt(&parsed).1, json!([tool("f")]));
    assert_eq!(parsed.ignored, ["tools[0]", "tools[2]", "tools[3]"]);
}

#[test]
fn the_fields_of_a_tool_schema_keep_the_order_of_the_client() {
    let body = r#"{"model":"m","messages":[{"role":"user","content":"hi"}],"tools":[{"function":{"parameters":
        {"type":"object","properties":{"zulu":{"type":"string"},"alpha":{"type":"integer"}}},"name":"f"},"type":"function"}]}"#;
    let Prompt::Chat { tools, .. } = parse_chat(body.as_bytes()).expect("valid").request.prompt
    else {
        panic!("a chat prompt");
    };
    let expected = r#"[{"type":"function","function":{"name":"f","parameters":{"type":"object","properties":{"zulu":{"type":"string"},"alpha":{"type":"integer"}}}}}]"#;
    assert_eq!(tools, expected);
}

#[test]
fn content_may_be_text_or_parts_in_every_role() {
    let parts = json!([{"type": "text", "text": "天"}, {"type": "text", "text": "b"}]);
    for role in [
        "developer",
        "system",
        "user",
        "assistant",
        "tool",
        "function",
    ] {
        let parsed = chat(json!({"messages": [{"role": role, "content": parts}]}));
        let expected = match role {
            "developer" => "system",
            "function" => "tool",
            same => same,
        };
        assert_eq!(
            prompt(&parsed).0,
            json!([{"role": expected, "content": "天\nb"}])
        );
    }
}

#[test]
fn a_lone_developer_message_is_valid() {
    let parsed = chat(json!({"messages": [{"role": "developer", "content": "be brief"}]}));
    assert_eq!(prompt(&parsed).0[0]["role"], "system");
}

#[test]
fn an_assistant_turn_with_calls_needs_no_content() {
    let calls = json!([{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{\"a\":1}"}}]);
    for content in [json!(null), json!("")] {
        let parsed = chat(json!({"messages": [
            {"role": "user", "content": "go"},
            {"role": "assistant", "content": content, "tool_calls": calls, "refusal": null},
            {"role": "tool", "tool_call_id": "c1", "content": "4"},
        ]}));
        let messages = prompt(&parsed).0;
        assert_eq!(
            messages[1],
            json!({"role": "assistant", "content": "", "tool_calls": calls})
        );
        assert_eq!(
            messages[2],
            json!({"role": "tool", "content": "4", "tool_call_id": "c1"})
        );
        assert_eq!(parsed.request.message_count, 3);
    }
}

#[test]
fn a_function_call_of_old_becomes_a_tool_call() {
    let parsed = chat(json!({"messages": [
        {"role": "assistant", "content": null, "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "function", "name": "f", "content": "4"},
    ]}));
    let messages = prompt(&parsed).0;
    assert_eq!(
        messages[0]["tool_calls"][0]["function"],
        json!({"name": "f", "arguments": "{}"})
    );
    assert_eq!(
        messages[1],
        json!({"role": "tool", "content": "4", "name": "f"})
    );
}

#[test]
fn pictures_sound_and_files_are_refused_truthfully() {
    for kind in ["image_url", "input_audio", "file"] {
        let refusal = refused(
            json!({"messages": [{"role": "user", "content": [{"type": "text", "text": "?"}, {"type": kind, kind: {}}]}]}),
        );
        assert_eq!(refusal, unsupported("messages[0].content[1]"));
    }
}

#[test]
fn wrong_types_name_their_path() {
    for (changes, param) in [
        (json!({"model": 7}), "model"),
        (json!({"model": ""}), "model"),
        (json!({"model": "x".repeat(300)}), "model"),
        (json!({"messages": {}}), "messages"),
        (json!({"messages": []}), "messages"),
        (json!({"messages": [7]}), "messages[0]"),
        (
            json!({"messages": [{"role": "robot", "content": ""}]}),
            "messages[0].role",
        ),
        (
            json!({"messages": [{"role": 1, "content": ""}]}),
            "messages[0].role",
        ),
        (
            json!({"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": 7}]}),
            "messages[1].content",
        ),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "text", "text": 7}]}]}),
            "messages[0].content[0].text",
        ),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "hologram"}]}]}),
            "messages[0].content[0].type",
        ),
        (
            json!({"messages": [{"role": "user", "content": "a", "name": 1}]}),
            "messages[0].name",
        ),
        (
            json!({"messages": [{"role": "assistant", "tool_calls": {}}]}),
            "messages[0].tool_calls",
        ),
        (
            json!({"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}]}),
            "messages[0].tool_calls[0].function.arguments",
        ),
        (json!({"temperature": "hot"}), "temperature"),
        (json!({"temperature": 2.1}), "temperature"),
        (json!({"temperature": -0.1}), "temperature"),
        (json!({"temperature": 1e300}), "temperature"),
        (json!({"min_p": 1.5}), "min_p"),
        (json!({"top_p": 7}), "top_p"),
        (json!({"presence_penalty": 3}), "presence_penalty"),
        (json!({"logit_bias": {"1": 101}}), "logit_bias.1"),
        (json!({"presence_penalty": "NaN"}), "presence_penalty"),
        (json!({"frequency_penalty": -2.001}), "frequency_penalty"),
        (json!({"frequency_penalty": 1e300}), "frequency_penalty"),
        (json!({"logit_bias": {"1": -1e300}}), "logit_bias.1"),
        (json!({"logit_bias": {"1": "NaN"}}), "logit_bias.1"),
        (json!({"logit_bias": {"foo": 1}}), "logit_bias.foo"),
        (json!({"logit_bias": {"-1": 1}}), "logit_bias.-1"),
        (json!({"logit_bias": {"+1": 1}}), "logit_bias.+1"),
        (json!({"logit_bias": {"01": 1}}), "logit_bias.01"),
        (json!({"logit_bias": {"": 1}}), "logit_bias."),
        (
            json!({"logit_bias": {"4294967296": 1}}),
            "logit_bias.4294967296",
        ),
        (
            json!({"logit_bias": (0..301).map(|n| (n.to_string(), 0)).collect::<BTreeMap<_, _>>()}),
            "logit_bias",
        ),
        (json!({"logit_bias": []}), "logit_bias"),
        (json!({"seed": 1.5}), "seed"),
        (json!({"seed": 1e30}), "seed"),
        (json!({"max_tokens": -1}), "max_tokens"),
        (
            json!({"max_completion_tokens": 1u64 << 33}),
            "max_completion_tokens",
        ),
        (
            json!({"max_completion_tokens": "many"}),
            "max_completion_tokens",
        ),
        (json!({"n": 0}), "n"),
        (json!({"n": -1}), "n"),
        (json!({"n": 9}), "n"),
        (json!({"stream": "yes"}), "stream"),
        (json!({"stream_options": true}), "stream_options"),
        (
            json!({"stream_options": {"include_usage": 1}}),
            "stream_options.include_usage",
        ),
        (json!({"stop": 7}), "stop"),
        (json!({"stop": ["a", 7]}), "stop[1]"),
        (json!({"stop": ""}), "stop"),
        (json!({"stop": ["a", ""]}), "stop[1]"),
        (json!({"stop": vec!["a"; 17]}), "stop"),
        (json!({"stop": "x".repeat(1025)}), "stop"),
        (json!({"tools": {}}), "tools"),
        (json!({"tools": [7]}), "tools[0]"),
        (
            json!({"tools": [{"type": "function", "function": {"name": ""}}]}),
            "tools[0].function.name",
        ),
        (
            json!({"tools": [{"type": "function", "function": {"name": "f", "parameters": 7}}]}),
            "tools[0].function.parameters",
        ),
        (json!({"response_format": "json"}), "response_format"),
        (
            json!({"response_format": {"type": "xml"}}),
            "response_format.type",
        ),
        (json!({"top_logprobs": 21}), "top_logprobs"),
    ] {
        assert_eq!(refused(changes.clone()), invalid(param), "{changes}");
    }
}

#[test]
fn missing_fields_are_named() {
    let missing = |body: &str| path_of(parse_chat(body.as_bytes()).expect_err("incomplete"));
    for (body, param) in [
        (r"{}", "model"),
        (r#"{"model":null,"messages":[]}"#, "model"),
        (r#"{"model":"m"}"#, "messages"),
        (
            r#"{"model":"m","messages":[{"content":"x"}]}"#,
            "messages[0].role",
        ),
        (
            r#"{"model":"m","messages":[{"role":"user"}]}"#,
            "messages[0].content",
        ),
        (
            r#"{"model":"m","messages":[{"role":"user","content":[{"text":"x"}]}]}"#,
            "messages[0].content[0].type",
        ),
        (
            r#"{"model":"m","messages":[{"role":"user","content":"x"}],"tools":[{"type":"function"}]}"#,
            "tools[0].function",
        ),
    ] {
        assert_eq!(
            missing(body),
            ("missing_required_parameter", param.to_owned()),
            "{body}"
        );
    }
}

#[test]
fn log_probabilities_are_asked_for_in_each_route_s_own_way() {
    let asked = |changes: Value| {
        let parsed = chat(changes);
        let asked = parsed.request.controls.logprobs;
        assert_eq!(parsed.delivery.logprobs, asked.is_some());
        assert!(parsed.ignored.is_empty());
        asked
    };
    assert_eq!(asked(json!({"logprobs": true})), Some(0));
    assert_eq!(
        asked(json!({"logprobs": true, "top_logprobs": 20})),
        Some(20)
    );
    assert_eq!(asked(json!({"logprobs": false, "top_logprobs": 0})), None);
    assert_eq!(asked(json!({})), None);
    for changes in [
        json!({"top_logprobs": 2}),
        json!({"logprobs": false, "top_logprobs": 2}),
        json!({"logprobs": true, "top_logprobs": 21}),
        json!({"logprobs": true, "top_logprobs": -1}),
        json!({"logprobs": true, "top_logprobs": 1.5}),
    ] {
        assert_eq!(refused(changes), invalid("top_logprobs"));
    }
    assert_eq!(refused(json!({"logprobs": 3})), invalid("logprobs"));
    let asked = |n: u8| completion(json!({"logprobs": n})).request.controls.logprobs;
    assert_eq!((asked(0), asked(5)), (Some(0), Some(5)));
    // In text completions it is no field.
    let other = completion(json!({"top_logprobs": 3}));
    assert_eq!(other.ignored, ["top_logprobs"]);
    assert_eq!(other.request.controls.logprobs, None);
}

#[test]
fn arguments_for_the_template_are_scalars_that_replace_nothing() {
    let arguments = |changes: Value| match chat(changes).request.prompt {
        Prompt::Chat { arguments, .. } => arguments,
        other => panic!("{other:?}"),
    };
    assert_eq!(arguments(json!({})), "");
    assert_eq!(arguments(json!({"chat_template_kwargs": {}})), "");
    assert_eq!(arguments(json!({"chat_template_kwargs": {"a": null}})), "");
    let asked = json!({"enable_thinking": false, "level": "high", "n": 1.5});
    let taken = arguments(json!({"chat_template_kwargs": asked.clone()}));
    assert_eq!(serde_json::from_str::<Value>(&taken).expect("JSON"), asked);
    let many: BTreeMap<String, u8> = (0..17).map(|n| (format!("a{n}"), 0)).collect();
    for (asked, param) in [
        (json!({"messages": "x"}), "chat_template_kwargs.messages"),
        (json!({"bos_token": "x"}), "chat_template_kwargs.bos_token"),
        (json!({"a": {}}), "chat_template_kwargs.a"),
        (json!({"a": [1]}), "chat_template_kwargs.a"),
        (json!({"a": "x".repeat(257)}), "chat_template_kwargs.a"),
        (json!(many), "chat_template_kwargs"),
        (json!(7), "chat_template_kwargs"),
    ] {
        assert_eq!(
            refused(json!({"chat_template_kwargs": asked})),
            invalid(param)
        );
    }
}

#[test]
fn what_an_assistant_thought_reaches_the_template_by_one_name() {
    let message = |field: &str| json!([{"role": "assistant", "content": "4", field: "2+2"}]);
    let expected = json!([{"role": "assistant", "content": "4", "reasoning_content": "2+2"}]);
    for field in ["reasoning_content", "reasoning"] {
        let parsed = chat(json!({"messages": message(field)}));
        assert_eq!(prompt(&parsed).0, expected);
    }
    let user = json!([{"role": "user", "content": "4", "reasoning_content": "2+2"}]);
    let parsed = chat(json!({"messages": user}));
    assert_eq!(prompt(&parsed).0, json!([{"role": "user", "content": "4"}]));
    let wrong = json!([{"role": "assistant", "content": "4", "reasoning_content": 7}]);
    assert_eq!(
        refused(json!({"messages": wrong})),
        invalid("messages[0].reasoning_content")
    );
}

#[test]
fn a_json_object_can_be_asked_for() {
    let format = json!({"type": "json_object"});
    assert_eq!(
        chat(json!({"response_format": format})).request.answer,
        AnswerShape::JsonObject
    );
    assert_eq!(
        chat(json!({"response_format": {"type": "text"}}))
            .request
            .answer,
        AnswerShape::Any
    );
}

fn json_schema(schema: &str, strict: bool) -> AnswerShape {
    let schema = schema.to_owned();
    AnswerShape::JsonSchema { schema, strict }
}

#[test]
fn a_schema_keeps_the_client_s_order_and_its_strictness() {
    let body = |format: &str| {
        format!(
            r#"{{"model":"m","messages":[{{"role":"user","content":"hi"}}],"response_format":{format}}}"#
        )
    };
    let read = |format: &str| parse_chat(body(format).as_bytes()).map(|p| p.request.answer);
    let schema = r#"{"type":"object","properties":{"z":{},"a":{}}}"#;
    for (strict, expected) in [
        ("", false),
        (r#","strict":null"#, false),
        (r#","strict":true"#, true),
    ] {
        let format = format!(
            r#"{{"type":"json_schema","json_schema":{{"name":"A_b-1","description":"d","schema":{schema}{strict}}}}}"#
        );
        assert_eq!(read(&format).expect("valid"), json_schema(schema, expected));
    }
    let long = "x".repeat(70_000);
    for (format, param) in [
        (
            r#"{"type":"json_schema"}"#.to_owned(),
            "response_format.json_schema",
        ),
        (
            r#"{"type":"json_schema","json_schema":{"schema":{}}}"#.to_owned(),
            "response_format.json_schema.name",
        ),
        (
            r#"{"type":"json_schema","json_schema":{"name":"a b","schema":{}}}"#.to_owned(),
            "response_format.json_schema.name",
        ),
        (
            r#"{"type":"json_schema","json_schema":{"name":"a"}}"#.to_owned(),
            "response_format.json_schema.schema",
        ),
        (
            r#"{"type":"json_schema","json_schema":{"name":"a","schema":[]}}"#.to_owned(),
            "response_format.json_schema.schema",
        ),
        (
            format!(
                r#"{{"type":"json_schema","json_schema":{{"name":"a","schema":{{"title":"{long}"}}}}}}"#
            ),
            "response_format.json_schema.schema",
        ),
    ] {
        match read(&format) {
            Err(ApiError::Missing { param: found } | ApiError::Invalid { param: found, .. }) => {
                assert_eq!(found, param);
            }
            other => panic!("{format:.80}: {other:?}"),
        }
    }
}

#[test]
fn the_parameters_of_vllm_ask_for_the_same() {
    let shape = |fields: Value| chat(fields).request.answer;
    let object = json!({"type": "object"});
    let schema = json_schema(r#"{"type":"object"}"#, true);
    assert_eq!(shape(json!({"guided_json": object})), schema);
    assert_eq!(shape(json!({"guided_json": object.to_string()})), schema);
    assert_eq!(
        shape(json!({"structured_outputs": {"json": object}})),
        schema
    );
    let regex = |text: &str| AnswerShape::Regex(text.to_owned());
    assert_eq!(shape(json!({"guided_regex": "a+"})), regex("a+"));
    assert_eq!(
        shape(json!({"structured_outputs": {"regex": "a+"}})),
        regex("a+")
    );
    let choice = regex(r"yes|n\u{2e}o é");
    assert_eq!(shape(json!({"guided_choice": ["yes", "n.o é"]})), choice);
    let asked = completion(json!({"structured_outputs": {"choice": ["yes", "n.o é"]}}));
    assert_eq!(asked.request.answer, choice);
    assert!(asked.ignored.is_empty());
    let object = json!({"type": "json_object"});
    for (fields, param) in [
        (json!({"guided_regex": ""}), "guided_regex"),
        (json!({"guided_choice": []}), "guided_choice"),
        (json!({"guided_choice": ["a", ""]}), "guided_choice[1]"),
        (
            json!({"structured_outputs": {"json": 5}}),
            "structured_outputs.json",
        ),
        (
            json!({"guided_regex": "a", "response_format": object}),
            "guided_regex",
        ),
        (
            json!({"structured_outputs": {"regex": "a", "choice": ["b"]}}),
            "structured_outputs.choice",
        ),
        (json!({"guided_regex": "a", "tools": [tool("f")]}), "tools"),
    ] {
        assert_eq!(refused(fields), invalid(param));
    }
}

#[test]
fn one_call_is_asked_for_where_only_one_may_be_made() {
    let with = |fields: Value| {
        let mut all = json!({"tools": [tool("f")], "parallel_tool_calls": false});
        if let (Some(all), Value::Object(fields)) = (all.as_object_mut(), fields) {
            all.extend(fields);
        }
        let parsed = chat(all);
        assert!(parsed.ignored.is_empty());
        parsed.request.answer
    };
    assert_eq!(with(json!({})), AnswerShape::OneCallAtMost);
    assert_eq!(
        with(json!({"tool_choice": "required"})),
        AnswerShape::OneCall
    );
    assert_eq!(with(json!({"tool_choice": "none"})), AnswerShape::NoTools);
    assert_eq!(with(json!({"tools": []})), AnswerShape::Any);
    let object = json!({"type": "json_object"});
    assert_eq!(
        with(json!({"response_format": object})),
        AnswerShape::JsonObject
    );
}

#[test]
fn tools_beside_json_may_be_called_in_its_place_and_are_left_out_where_none_may_be() {
    let with = |more: Value| {
        let mut all = json!({"tools": [tool("f")], "response_format": {"type": "json_object"}});
        for (name, value) in more.as_object().expect("an object") {
            all[name] = value.clone();
        }
        let parsed = chat(all);
        match parsed.request.prompt {
            Prompt::Chat { tools, .. } => (tools != "[]", parsed.request.answer),
            other => panic!("{other:?}"),
        }
    };
    let object = AnswerShape::JsonObject;
    assert_eq!(with(json!({})), (true, object.clone()));
    assert_eq!(with(json!({"tool_choice": "none"})), (false, object));
    assert_eq!(
        with(json!({"tool_choice": "required"})),
        (true, AnswerShape::ToolCall)
    );
}

#[test]
fn the_strictness_of_a_tool_reaches_the_provider() {
    let mut strict = tool("f");
    strict["function"]["strict"] = json!(true);
    let mut lax = tool("g");
    lax["function"]["strict"] = json!(false);
    let parsed = chat(json!({"tools": [strict, lax]}));
    assert_eq!(prompt(&parsed).1, json!([strict, tool("g")]));
}

#[test]
fn numbers_are_read_to_the_bit() {
    let request =
        chat(json!({"temperature": 0.7, "min_p": 0.05, "seed": -1, "max_tokens": 5.0})).request;
    assert_eq!(request.temperature, Q16(45_875));
    assert_eq!(request.min_p, Q16(3_277));
    assert_eq!(request.seed, Some(u64::MAX));
    assert_eq!(request.output_tokens_max, Some(5));
    assert_eq!(
        chat(json!({"seed": u64::MAX})).request.seed,
        Some(u64::MAX),
        "as the choices of a request show theirs"
    );
    assert_eq!(
        chat(json!({"seed": i64::MAX})).request.seed,
        Some(i64::MAX as u64)
    );
    assert_eq!(chat(json!({"temperature": 0})).request.temperature, Q16(0));
}

#[test]
fn stop_is_one_string_or_several() {
    assert_eq!(chat(json!({"stop": "END"})).request.stop, ["END"]);
    assert_eq!(chat(json!({"stop": ["a", "b"]})).request.stop, ["a", "b"]);
    assert!(chat(json!({"stop": []})).request.stop.is_empty());
}

#[test]
fn usage_is_streamed_only_when_streaming() {
    let options = json!({"include_usage": true});
    assert!(
        !chat(json!({"stream_options": options}))
            .delivery
            .include_usage
    );
    assert!(
        chat(json!({"stream": true, "stream_options": options}))
            .delivery
            .include_usage
    );
}

#[test]
fn constraints_reach_the_router_exactly() {
    let provider = Address([0xab; 20]);
    let parsed = chat(json!({"stoa": {
        "tier": "optimistic",
        "max_price": {"input_per_mtok": "0.15", "output_per_mtok": "0.6", "request": "1"},
        "max_cost": "0.002",
        "regions": {"only": ["XA", "XB"], "exclude": ["XC"]},
        "providers": {"only": [provider.to_string().to_uppercase().replace("0X", "0x")], "ignore": []},
        "receipt": "header",
    }}));
    let constraints = &parsed.request.constraints;
    let amount = |text| TokenAmount::parse(text).expect("valid");
    assert_eq!(constraints.tier, Some(Tier::Exact));
    assert_eq!(
        constraints.input_price_max,
        Some(Price::per_million(amount("0.15")))
    );
    assert_eq!(
        constraints.output_price_max,
        Some(Price::per_million(amount("0.6")))
    );
    assert_eq!(constraints.cost_max, Some(amount("0.002")));
    assert_eq!(
        constraints.regions_only,
        [Region(*b"XA"), Region(*b"XB")].into()
    );
    assert_eq!(constraints.regions_exclude, [Region(*b"XC")].into());
    assert_eq!(constraints.providers_only, [provider].into());
    assert_eq!(parsed.delivery.receipt, ReceiptPlace::Header);
    for tier in [json!(2), json!(["exact"]), json!("2")] {
        assert_eq!(
            chat(json!({"stoa": {"tier": tier}}))
                .request
                .constraints
                .tier,
            Some(Tier::Exact)
        );
    }
}

#[test]
fn a_misspelt_or_malformed_constraint_is_never_ignored() {
    for (stoa, param) in [
        (json!(7), "stoa"),
        (json!({"max_prise": {}}), "stoa.max_prise"),
        (
            json!({"max_price": {"output_per_mtoken": "1"}}),
            "stoa.max_price.output_per_mtoken",
        ),
        (
            json!({"max_price": {"output_per_mtok": 0.4}}),
            "stoa.max_price.output_per_mtok",
        ),
        (
            json!({"max_price": {"output_per_mtok": "cheap"}}),
            "stoa.max_price.output_per_mtok",
        ),
        (
            json!({"max_price": {"output_per_mtok": "-1"}}),
            "stoa.max_price.output_per_mtok",
        ),
        (json!({"max_cost": "0.0000001"}), "stoa.max_cost"),
        (json!({"max_cost": "9".repeat(60)}), "stoa.max_cost"),
        (json!({"tier": "best"}), "stoa.tier"),
        (json!({"tier": []}), "stoa.tier"),
        (json!({"regions": {"only": []}}), "stoa.regions.only"),
        (
            json!({"regions": {"only": ["europe"]}}),
            "stoa.regions.only[0]",
        ),
        (json!({"regions": {"onyl": ["XA"]}}), "stoa.regions.onyl"),
        (
            json!({"providers": {"only": ["0x12"]}}),
            "stoa.providers.only[0]",
        ),
        (json!({"receipt": "paper"}), "stoa.receipt"),
    ] {
        assert_eq!(refused(json!({"stoa": stoa})), invalid(param), "{stoa}");
    }
    for name in [
        "redundancy",
        "max_latency",
        "privacy",
        "sort",
        "budget",
        "failover",
        "payment",
    ] {
        assert_eq!(
            refused(json!({"stoa": {name: 1}})),
            unsupported(&format!("stoa.{name}"))
        );
    }
    assert_eq!(
        refused(json!({"stoa": {"tier": ["tee", "zk"]}})),
        unsupported("stoa.tier")
    );
}

#[test]
fn a_field_that_stands_twice_is_refused() {
    let body = r#"{"model":"m","messages":[{"role":"user","content":"x"}],"stoa":{"max_cost":"1","max_cost":"9"}}"#;
    let error = parse_chat(body.as_bytes()).expect_err("ambiguous");
    assert_eq!(error.row().code, "invalid_json");
    assert!(error.to_string().contains("max_cost"), "{error}");
}

#[test]
fn a_text_completion_takes_one_prompt_in_any_form() {
    for (prompt, expected) in [
        (json!("hi"), Prompt::Text("hi".to_owned())),
        (json!(["hi"]), Prompt::Text("hi".to_owned())),
        (json!([1, 2]), Prompt::Tokens(vec![1, 2])),
        (json!([[1, 2]]), Prompt::Tokens(vec![1, 2])),
        (json!(""), Prompt::Text(String::new())),
    ] {
        let parsed = completion(json!({"prompt": prompt}));
        assert_eq!(parsed.request.prompt, expected);
        assert_eq!(parsed.request.output_tokens_max, Some(16));
        assert_eq!(parsed.request.message_count, 0);
    }
}

#[test]
fn a_text_completion_refuses_what_it_cannot_give() {
    let refused =
        |changes: Value| path_of(try_completion(&changes).expect_err(&changes.to_string()));
    for (changes, param) in [
        (json!({"prompt": []}), "prompt"),
        (json!({"prompt": ["a", "b"]}), "prompt"),
        (json!({"prompt": [[1], [2]]}), "prompt"),
        (json!({"prompt": [[]]}), "prompt[0]"),
        (json!({"prompt": [1, "a"]}), "prompt[1]"),
        (json!({"prompt": [[1, -2]]}), "prompt[0][1]"),
        (json!({"prompt": 7}), "prompt"),
        (json!({"best_of": 3}), "best_of"),
        (json!({"best_of": 3, "n": 3}), "best_of"),
        (json!({"n": 0}), "n"),
        (json!({"n": 9}), "n"),
        (json!({"logprobs": 9}), "logprobs"),
        (json!({"echo": 1}), "echo"),
    ] {
        assert_eq!(refused(changes.clone()), invalid(param), "{changes}");
    }
    assert_eq!(
        completion(json!({"logprobs": 0, "echo": true}))
            .request
            .controls
            .logprobs,
        Some(0),
        "of the answer's tokens"
    );
    assert_eq!(
        refused(json!({"logprobs": 3, "echo": true})),
        unsupported("echo")
    );
    assert_eq!(
        refused(json!({"prompt": [1], "echo": true})),
        unsupported("echo")
    );
    let missing = ("missing_required_parameter", "prompt".to_owned());
    assert_eq!(refused(json!({"prompt": null})), missing);
}

#[test]
fn a_text_completion_is_lenient_too() {
    let parsed = completion(
        json!({"best_of": 0, "suffix": "end", "user": "u", "echo": false, "max_tokens": 0}),
    );
    assert_eq!(parsed.ignored, ["suffix"]);
    assert_eq!(parsed.request.output_tokens_max, Some(0));
    assert_eq!(parsed.delivery.echo, None);
    assert_eq!(
        completion(json!({"echo": true})).delivery.echo.as_deref(),
        Some("hi")
    );
}

#[test]
fn an_agents_first_request_is_read() {
    let mut tools: Vec<Value> = (0..7).map(|n| tool(&format!("tool_{n}"))).collect();
    tools.push(json!({"type": "namespace", "name": "n", "tools": []}));
    tools.push(json!({"type": "web_search"}));
    let long = "x".repeat(9_000);
    let parsed = chat(json!({
        "messages": [
            {"role": "developer", "content": long}, {"role": "developer", "content": [{"type": "text", "text": long}]},
            {"role": "user", "content": long}, {"role": "user", "content": "天安门"},
        ],
        "tools": tools, "tool_choice": "auto", "parallel_tool_calls": true, "stream": true, "store": false,
        "include": ["reasoning.encrypted_content"], "prompt_cache_key": "k", "client_metadata": {"a": "b"},
    }));
    assert_eq!(parsed.request.message_count, 4);
    assert_eq!(parsed.ignored, ["tools[7]", "tools[8]", "include"]);
}

#[test]
fn no_damaged_body_panics() {
    let golden = chat_body(&json!({
        "tools": [tool("f")], "tool_choice": {"type": "function", "function": {"name": "f"}}, "stop": ["天"], "seed": 5,
        "stoa": {"max_cost": "1", "regions": {"only": ["XA"]}}, "logit_bias": {"1": 2}, "stream_options": {"include_usage": true},
    }))
    .to_string()
    .into_bytes();
    let mut refused = 0;
    for position in 0..golden.len() {
        for byte in [b'"', b'{', b'0', b',', 0xff, b'\\'] {
            let mut body = golden.clone();
            body[position] = byte;
            refused += u32::from(parse_chat(&body).is_err());
            refused += u32::from(parse_completion(&body).is_err());
        }
        refused += u32::from(parse_chat(&golden[..position]).is_err());
    }
    assert!(refused > 1_000);
}

/// 4 MiB of small fields are read in the time that reading takes, not in its square: at 200,000 entries the difference is minutes.
#[test]
fn a_body_of_very_many_small_entries_is_read_quickly_and_not_echoed() {
    let bias: Vec<_> = (0..200_000).map(|n| format!("\"{n}\":1")).collect();
    let tool = |n: u32| format!(r#"{{"function":{{"name":"t{n}"}}}}"#);
    let tools: Vec<_> = (0..60_000).map(tool).collect();
    let unknown = vec![r#"{"type":"x"}"#; 100_000];
    let start = r#"{"model":"m","messages":[{"role":"user","content":"x"}]"#;
    let tools = tools.join(",");
    let bodies = [
        format!(r#"{start},"logit_bias":{{{}}}}}"#, bias.join(",")),
        format!(
            r#"{start},"tools":[{tools}],"tool_choice":{{"type":"allowed_tools","allowed_tools":{{"tools":[{tools}]}}}}}}"#
        ),
        format!(r#"{start},"tools":[{}]}}"#, unknown.join(",")),
    ];
    let began = std::time::Instant::now();
    for (index, body) in bodies.into_iter().enumerate() {
        match parse_chat(body.as_bytes()) {
            Ok(parsed) => assert!(parsed.ignored.len() <= 32),
            Err(error) => assert_eq!((index, path_of(error)), (0, invalid("logit_bias"))),
        }
    }
    assert!(began.elapsed().as_secs() < 10, "{:?}", began.elapsed());
}

fn try_embeddings(changes: &Value) -> Result<ParsedRequest, ApiError> {
    let mut body = json!({"model": "m", "input": "hi"});
    for (name, value) in changes.as_object().expect("an object") {
        body[name] = value.clone();
    }
    parse_embeddings(body.to_string().as_bytes())
}

fn inputs(input: Value) -> Vec<Input> {
    let parsed = try_embeddings(&json!({"input": input})).expect("taken");
    match parsed.request.prompt {
        Prompt::Embed {
            inputs,
            dimensions: 0,
        } => inputs,
        other => panic!("{other:?}"),
    }
}

#[test]
fn texts_and_token_ids_alone_and_in_lists_are_inputs_in_their_order() {
    let text = |text: &str| Input::Text(text.to_owned());
    assert_eq!(inputs(json!("hé")), [text("hé")]);
    assert_eq!(
        inputs(json!(["b", "a", " "])),
        [text("b"), text("a"), text(" ")]
    );
    assert_eq!(inputs(json!([5, 0])), [Input::Tokens(vec![5, 0])]);
    assert_eq!(
        inputs(json!([[5], [6, 7]])),
        [Input::Tokens(vec![5]), Input::Tokens(vec![6, 7])]
    );
    assert_eq!(inputs(json!(vec!["x"; 2048])).len(), 2048);
}

#[test]
fn an_embedding_call_draws_nothing_and_says_how_vectors_are_written() {
    let with = |changes: Value| try_embeddings(&changes).expect("taken");
    let plain = with(json!({"user": "u", "seed": 5, "stop": "x", "stream": true}));
    let request = &plain.request;
    let drawn = (request.temperature, request.min_p, request.seed);
    assert_eq!(drawn, (Q16(0), Q16(0), Some(0)));
    assert!(request.stop.is_empty() && !plain.delivery.stream);
    assert_eq!(request.output_tokens_max, None, "the inputs say how many");
    assert_eq!(plain.ignored, ["seed", "stop", "stream"]);
    assert_eq!(plain.delivery.vectors, VectorForm::Float);
    let base64 = with(json!({"encoding_format": "base64", "dimensions": 7}));
    assert_eq!(base64.delivery.vectors, VectorForm::Base64);
    assert!(matches!(
        base64.request.prompt,
        Prompt::Embed { dimensions: 7, .. }
    ));
}

#[test]
fn inputs_that_are_none_are_refused_with_their_path() {
    let refused =
        |input: Value| path_of(try_embeddings(&json!({"input": input})).expect_err("refused"));
    assert_eq!(
        path_of(try_embeddings(&json!({"input": null})).expect_err("refused")),
        ("missing_required_parameter", "input".to_owned())
    );
    for input in [json!(""), json!([]), json!(5), json!({"a": 1}), json!(true)] {
        assert_eq!(refused(input), invalid("input"));
    }
    assert_eq!(refused(json!(vec!["x"; 2049])), invalid("input"));
    assert_eq!(refused(json!(["a", ""])), invalid("input[1]"));
    assert_eq!(refused(json!(["a", 5])), invalid("input[1]"));
    assert_eq!(refused(json!(["a", [5]])), invalid("input[1]"));
    assert_eq!(refused(json!([[5], "a"])), invalid("input[1]"));
    assert_eq!(refused(json!([[5], []])), invalid("input[1]"));
    assert_eq!(refused(json!([5, "a"])), invalid("input[1]"));
    assert_eq!(refused(json!([5, -1])), invalid("input[1]"));
    assert_eq!(
        refused(json!([[5, 4_294_967_296u64]])),
        invalid("input[0][1]")
    );
    assert_eq!(refused(json!([null])), invalid("input[0]"));
    for (field, value) in [
        ("encoding_format", json!("int8")),
        ("encoding_format", json!(1)),
        ("dimensions", json!(0)),
        ("dimensions", json!(1.5)),
        ("dimensions", json!("8")),
    ] {
        let error = try_embeddings(&json!({field: value})).expect_err("refused");
        assert_eq!(path_of(error), invalid(field));
    }
}
