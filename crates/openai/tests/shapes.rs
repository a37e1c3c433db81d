//! What other servers send is read; what this one writes has the fields that strict clients look for.

use serde_json::{Value, json};
use stoa_openai::{ChatChunk, ChatCompletion, ChatRequest, Completion, Delta, ErrorBody, Usage};

#[test]
fn a_sparse_chunk_of_another_server_is_read() {
    let chunk: ChatChunk = serde_json::from_value(json!({
        "id": "x", "choices": [{"index": 0, "delta": {"content": "天", "tool_calls": null}}], "vendor": 1
    }))
    .expect("readable");
    assert_eq!(chunk.choices[0].delta.content, Some(Some("天".to_owned())));
    assert_eq!(chunk.usage, None);
}

#[test]
fn a_sparse_answer_of_another_server_is_read() {
    let answer: ChatCompletion = serde_json::from_value(json!({
        "choices": [{"message": {"role": "assistant", "content": null, "tool_calls": [
            {"function": {"name": "f", "arguments": "{}"}}]}, "finish_reason": "tool_calls"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5, "prompt_tokens_details": null}
    }))
    .expect("readable");
    assert_eq!(answer.choices[0].message.tool_calls[0].kind, "function");
    assert_eq!(answer.usage.map(|u| u.total_tokens), Some(5));
}

#[test]
fn an_error_with_a_numeric_code_is_read() {
    let body: ErrorBody =
        serde_json::from_value(json!({"error": {"message": "full", "type": null, "code": 429}}))
            .expect("readable");
    assert_eq!(body.error.code.as_deref(), Some("429"));
    let written = serde_json::to_value(&body).expect("writes");
    for key in ["message", "type", "param", "code"] {
        assert!(written["error"].get(key).is_some(), "{key} is missing");
    }
}

#[test]
fn every_usage_detail_is_written() {
    let usage = serde_json::to_value(Usage::of_text(3, 2, 1)).expect("writes");
    assert_eq!(
        usage,
        json!({"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0, "text_tokens": 3, "image_tokens": 0,
                "cache_write_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 1, "audio_tokens": 0, "text_tokens": 2,
                "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0}})
    );
}

#[test]
fn an_absent_key_of_a_delta_is_not_written_and_null_is() {
    let silent = serde_json::to_value(Delta::default()).expect("writes");
    assert_eq!(silent, json!({}));
    let null = Delta {
        content: Some(None),
        ..Delta::default()
    };
    assert_eq!(
        serde_json::to_value(null).expect("writes"),
        json!({"content": null})
    );
}

#[test]
fn a_request_leaves_out_what_was_not_asked() {
    let mut request = serde_json::to_value(ChatRequest::default()).expect("writes");
    request.sort_all_objects();
    let keys: Vec<_> = request
        .as_object()
        .expect("object")
        .keys()
        .cloned()
        .collect();
    assert_eq!(keys, ["messages", "model", "stream"]);
}

#[test]
fn a_usage_key_of_null_is_told_from_none() {
    let piece = |usage| Completion {
        id: "c".to_owned(),
        object: "text_completion".to_owned(),
        created: 1,
        model: "m".to_owned(),
        choices: Vec::new(),
        usage,
        system_fingerprint: None,
        stoa: None,
    };
    let with_null = serde_json::to_value(piece(Some(None))).expect("writes");
    assert_eq!(with_null.get("usage"), Some(&Value::Null));
    let without = serde_json::to_value(piece(None)).expect("writes");
    assert_eq!(without.get("usage"), None);
}
