use super::*;
use serde_json::{Value, json};
use stoa_crypto::{SecretKey, keccak256, receipt_digest};
use stoa_verify::{check_bundle, reasoning};

const REQUEST: &str = r#"{"messages":[{"role":"user","content":"2+2?"}]}"#;

/// The answer that the API makes of `text`, with its parts told apart or not, and of calls.
fn answer(text: &str, reasons: bool, calls: &[(&str, &str)]) -> Value {
    let parameters: SamplingParameters = serde_json::from_value(json!({
        "max_output_tokens": 24, "min_p": 0, "seed": 7, "stop": [], "temperature": 0,
    }))
    .expect("parameters");
    let vectors: Value =
        serde_json::from_str(include_str!("../../../../../vectors/receipt.json")).expect("JSON");
    let mut receipt: stoa_types::Receipt =
        serde_json::from_value(vectors["receipts"][0]["receipt"].clone()).expect("a receipt");
    let tool_calls = calls.iter().map(|(name, arguments)| ToolCall {
        name: (*name).to_owned(),
        arguments: (*arguments).to_owned(),
    });
    let finish_reason = match calls {
        [] => FinishReason::Stop,
        _ => FinishReason::ToolCalls,
    };
    let content = Content {
        text: text.to_owned(),
        tool_calls: tool_calls.collect(),
        finish_reason,
        input_units: receipt.input_units,
        output_units: receipt.output_units,
    };
    let (provider, router) = (SecretKey::for_tests("p"), SecretKey::for_tests("r"));
    (receipt.provider, receipt.router) = (provider.address(), router.address());
    receipt.request_digest = keccak256(REQUEST);
    receipt.parameters_digest = keccak256(parameters.canonical_bytes());
    receipt.response_digest = content.digest();
    let digest = receipt_digest(&receipt);
    let signed = SignedReceipt {
        provider_signature: provider.sign(digest),
        router_signature: router.sign(digest),
        receipt,
    };
    let parts = reasoning::split(text, reasons);
    let mut message = json!({"role": "assistant", "content": parts.content});
    if parts.content.is_empty() && !calls.is_empty() {
        message["content"] = Value::Null;
    }
    if !parts.reasoning.is_empty() {
        message["reasoning_content"] = parts.reasoning.into();
    }
    if !calls.is_empty() {
        let call = |(name, arguments): &(&str, &str)| json!({"id": "c", "type": "function", "function": {"name": name, "arguments": arguments}});
        message["tool_calls"] = calls.iter().map(call).collect();
    }
    json!({
        "choices": [{"index": 0, "message": message, "finish_reason": finish_reason.as_openai()}],
        "stoa": {"receipt": signed, "parameters": parameters},
    })
}

fn read(answer: &Value) -> Said {
    let answer: Answer = serde_json::from_value(answer.clone()).expect("an answer");
    let mut choices = answer.choices(REQUEST).expect("a choice");
    assert_eq!(choices.len(), 1);
    choices.remove(0)
}

#[test]
fn an_honest_answer_s_file_holds_whatever_marks_its_text_has() {
    for calls in [&[][..], &[("now", "{}")]] {
        for (text, reasoning, content) in [
            ("four", "", "four"),
            ("<think>2 and 2</think>\n\nfour", "2 and 2", "\n\nfour"),
            ("<think>2 and 2</think>", "2 and 2", ""),
            ("<think> 2 and\n", " 2 and\n", ""),
            ("<think></think>four", "", "four"),
            ("<think></think>", "", ""),
            ("<think>", "", ""),
            ("", "", ""),
        ] {
            let said = read(&answer(text, true, calls));
            assert_eq!(said.parts.reasoning, reasoning);
            assert_eq!(said.parts.content, content);
            assert_eq!(said.bundle.response.text, text);
            let report = check_bundle(&said.bundle);
            assert!(report.holds(), "{text}: {report}");
            // Where nothing is told apart the same text stands whole.
            let said = read(&answer(text, false, calls));
            assert_eq!(said.bundle.response.text, text);
            assert!(check_bundle(&said.bundle).holds());
        }
    }
}

#[test]
fn an_answer_that_the_receipt_is_not_for_is_found_false() {
    let whole = answer("<think>2 and 2</think>four", true, &[]);
    for (part, other) in [
        ("content", "five"),
        ("content", "four "),
        ("reasoning_content", "2 and 3"),
        ("reasoning_content", ""),
    ] {
        let mut changed = whole.clone();
        changed["choices"][0]["message"][part] = other.into();
        let report = check_bundle(&read(&changed).bundle);
        let claim = report.first_false().map(|check| check.claim);
        assert_eq!(claim, Some("it is for this answer"), "{part}: {other}");
    }
}

#[test]
fn a_legacy_call_is_read_as_the_call_that_it_is() {
    let choice: Choice = serde_json::from_str(
        r#"{"message": {"content": null, "function_call": {"name": "add", "arguments": "{}"}}, "finish_reason": "function_call"}"#,
    )
    .expect("a choice");
    assert!(matches!(
        choice.finish_reason,
        End::Legacy(LegacyCall::FunctionCall)
    ));
    assert_eq!(
        choice
            .message
            .function_call
            .map(|call| call.name)
            .as_deref(),
        Some("add")
    );
    let usual: Choice =
        serde_json::from_str(r#"{"message": {"content": "a"}, "finish_reason": "stop"}"#)
            .expect("a choice");
    assert!(matches!(
        usual.finish_reason,
        End::Usual(FinishReason::Stop)
    ));
    assert!(
        serde_json::from_str::<Choice>(
            r#"{"message": {"content": "a"}, "finish_reason": "other"}"#
        )
        .is_err()
    );
}
