//! What a client gets: whole answers, streams, and that both say the same.

use crate::support::*;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use stoa_api::Timings;
use stoa_nodes::client::ClientEvent;
use stoa_types::SignedReceipt;
use stoa_verify::reasoning::Parts;
use tokio::io::AsyncReadExt;

const CHINESE: &str = "天安门广场,你好 🌍";

async fn both(
    pieces: &[&str],
    content: stoa_verify::Content,
    changes: Value,
) -> (Value, Vec<Value>, Reply) {
    let server = Server::start(answer(pieces, content)).await;
    let whole = server.chat(request(changes.clone())).await;
    assert_eq!(whole.status, 200, "{}", whole.text());
    let mut changes = changes;
    changes["stream"] = true.into();
    changes["stream_options"] = json!({"include_usage": true});
    let stream = server.chat(request(changes)).await;
    assert_eq!(stream.status, 200, "{}", stream.text());
    assert_eq!(stream.events().last(), Some(&"[DONE]"));
    assert!(!server.hall.was_cancelled.load(Ordering::SeqCst));
    (whole.json(), stream.chunks(), stream)
}

/// Joins the deltas as SDKs do.
fn join(chunks: &[Value]) -> Value {
    let mut message = json!({"role": null, "content": null});
    let mut calls: Vec<Value> = Vec::new();
    for chunk in chunks {
        let Some(delta) = chunk["choices"].get(0).map(|choice| &choice["delta"]) else {
            continue;
        };
        if let Some(role) = delta["role"].as_str() {
            assert!(message["role"].is_null(), "the role comes once");
            message["role"] = role.into();
        }
        if let Some(text) = delta["content"].as_str() {
            message["content"] =
                (message["content"].as_str().unwrap_or_default().to_owned() + text).into();
        }
        for call in delta["tool_calls"].as_array().unwrap_or(&Vec::new()) {
            let index =
                usize::try_from(call["index"].as_u64().expect("always an index")).expect("small");
            if index == calls.len() {
                assert!(
                    call["id"].is_string()
                        && call["type"] == "function"
                        && call["function"]["name"].is_string()
                );
                calls.push(call.clone());
                calls[index]
                    .as_object_mut()
                    .expect("object")
                    .remove("index");
            } else {
                assert!(
                    call.get("id").is_none()
                        && call.get("type").is_none()
                        && call["function"].get("name").is_none()
                );
                let more = call["function"]["arguments"].as_str().expect("text");
                let so_far = calls[index]["function"]["arguments"]
                    .as_str()
                    .expect("text")
                    .to_owned();
                calls[index]["function"]["arguments"] = (so_far + more).into();
            }
        }
    }
    if !calls.is_empty() {
        message["tool_calls"] = calls.into();
    }
    message
}

fn check_order(whole: &Value, chunks: &[Value]) {
    let first = &chunks[0];
    assert_eq!(first["choices"][0]["delta"]["role"], "assistant");
    for chunk in chunks {
        for key in ["id", "created", "model"] {
            assert_eq!(chunk[key], first[key]);
        }
        assert_eq!(chunk["object"], "chat.completion.chunk");
    }
    let (usage, others) = chunks.split_last().expect("chunks");
    assert_eq!(usage["choices"], json!([]));
    assert_eq!(usage["usage"], whole["usage"]);
    for chunk in others {
        assert_eq!(chunk["usage"], Value::Null);
        assert!(chunk.get("usage").is_some());
        assert_eq!(chunk["choices"].as_array().map(Vec::len), Some(1));
    }
    let (finish, before) = others.split_last().expect("chunks");
    assert_eq!(
        finish["choices"][0]["finish_reason"],
        whole["choices"][0]["finish_reason"]
    );
    assert_eq!(finish["choices"][0]["delta"], json!({}));
    assert!(
        before
            .iter()
            .all(|chunk| chunk["choices"][0]["finish_reason"].is_null()
                && chunk.get("stoa").is_none())
    );
    assert_eq!(finish["stoa"], whole["stoa"]);
}

fn check_same_message(whole: &Value, chunks: &[Value]) {
    let message = &whole["choices"][0]["message"];
    let joined = join(chunks);
    for key in ["role", "content", "tool_calls"] {
        assert_eq!(joined.get(key), message.get(key), "{key}");
    }
}

#[tokio::test]
async fn a_streamed_answer_says_the_same_as_a_whole_one() {
    for pieces in [&["fo", "", "ur"][..], &["four"], &["f", "o", "u"], &[]] {
        let (whole, chunks, _) = both(pieces, content("four", &[]), json!({})).await;
        check_order(&whole, &chunks);
        check_same_message(&whole, &chunks);
        assert_eq!(whole["choices"][0]["message"]["content"], "four");
    }
}

/// An answer of a model that may reason first.
fn reasoning_script(pieces: &[&str], content: stoa_verify::Content) -> Vec<Step> {
    let mut script = answer(pieces, content.clone());
    let mut done = done(content);
    done.started.reasons = true;
    done.reasoning_units = 4;
    let (started, done) = (done.started.clone(), Arc::new(done));
    script.truncate(script.len() - 2);
    script[0] = Step::Say(ClientEvent::Started(started));
    script.push(Step::Say(ClientEvent::Complete(done.clone())));
    script.push(Step::Say(ClientEvent::Done(done)));
    script
}

#[tokio::test]
async fn reasoning_is_set_apart_whole_and_streamed_and_only_where_the_model_is_known_to_reason() {
    let text = "<think>Two and <two>.</think>\n\nfour";
    let cuts: [&[&str]; 4] = [
        &[text],
        &["<th", "ink>Two and <t", "wo>.</", "thi", "nk>\n\nfo", "ur"],
        &["<think>", "Two and <two>.", "</think>", "\n\n", "four"],
        &[],
    ];
    let call = [("now", "{}")];
    for (pieces, calls) in cuts
        .into_iter()
        .flat_map(|p| [(p, &[][..]), (p, &call[..])])
    {
        let server = Server::start(reasoning_script(pieces, content(text, calls))).await;
        let whole = server.chat(request(json!({}))).await.json();
        let message = &whole["choices"][0]["message"];
        assert_eq!(message["reasoning_content"], "Two and <two>.");
        assert_eq!(message["content"], "\n\nfour");
        let details = &whole["usage"]["completion_tokens_details"];
        assert_eq!(details["reasoning_tokens"], 4);
        let streamed = json!({"stream": true, "stream_options": {"include_usage": true}});
        let stream = server.chat(request(streamed)).await;
        assert_eq!(stream.events().last(), Some(&"[DONE]"));
        let chunks = stream.chunks();
        check_order(&whole, &chunks);
        check_same_message(&whole, &chunks);
        let deltas = chunks.iter().map(|chunk| &chunk["choices"][0]["delta"]);
        let reasoning = deltas.filter_map(|delta| delta["reasoning_content"].as_str());
        assert_eq!(reasoning.collect::<String>(), "Two and <two>.");
        assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
    }
    // Nothing but reasoning, and an answer without any.
    for (text, reasoning, rest) in [
        ("<think>cut", json!("cut"), ""),
        ("<thin", Value::Null, "<thin"),
    ] {
        let server = Server::start(reasoning_script(&[text], content(text, &[]))).await;
        let whole = server.chat(request(json!({}))).await.json();
        let message = &whole["choices"][0]["message"];
        assert_eq!(
            (&message["reasoning_content"], message["content"].as_str()),
            (&reasoning, Some(rest))
        );
        let stream = server.chat(request(json!({"stream": true}))).await;
        check_same_message(&whole, &stream.chunks());
    }
    // A model that knows no marks may write them as letters.
    let (whole, chunks, _) = both(&[text], content(text, &[]), json!({})).await;
    assert_eq!(whole["choices"][0]["message"]["content"], text);
    assert!(
        whole["choices"][0]["message"]
            .get("reasoning_content")
            .is_none()
    );
    check_same_message(&whole, &chunks);
}

#[tokio::test]
async fn whoever_has_the_parts_of_an_answer_finds_the_text_that_its_receipt_is_for() {
    for text in [
        "four",
        "<think>2 and 2</think>\n\nfour",
        "<think>2 and 2</think>",
        "<think>2 and 2",
        "<think></think>four",
        "<think></think>",
        "<think>",
        "",
    ] {
        let content = content(text, &[]);
        let server = Server::start(reasoning_script(&[text], content.clone())).await;
        let whole = server.chat(request(json!({}))).await.json();
        let stream = server.chat(request(json!({"stream": true}))).await;
        let chunks = stream.chunks();
        let streamed = |part: &str| -> String {
            let deltas = chunks.iter().map(|chunk| &chunk["choices"][0]["delta"]);
            deltas.filter_map(|delta| delta[part].as_str()).collect()
        };
        let message = &whole["choices"][0]["message"];
        let told = |part: &str| message[part].as_str().unwrap_or_default().to_owned();
        let receipt: SignedReceipt =
            serde_json::from_value(whole["stoa"]["receipt"].clone()).expect("a receipt");
        for parts in [
            Parts {
                reasoning: told("reasoning_content"),
                content: told("content"),
            },
            Parts {
                reasoning: streamed("reasoning_content"),
                content: streamed("content"),
            },
        ] {
            let found = content.of_parts(&parts, receipt.receipt.response_digest);
            assert_eq!(found.text, text, "{parts:?}");
        }
    }
}

/// An answer of three tokens: half a letter, the other half, and an end that is no text.
fn likely_script() -> Vec<Step> {
    let mut script = answer(&[], content("é", &[]));
    script.splice(
        1..1,
        [
            likely_delta(1, &[0xc3], "", -65_536),
            likely_delta(2, &[0xa9], "é", -2),
            likely_delta(3, b"<|end|>", "", 0),
        ],
    );
    script
}

/// All elements of a list that stands in the pieces of a stream.
fn gathered(chunks: &[Value], list: &str) -> Vec<Value> {
    let lists = chunks
        .iter()
        .map(|chunk| &chunk["choices"][0]["logprobs"][list]);
    lists
        .filter_map(Value::as_array)
        .flatten()
        .cloned()
        .collect()
}

#[tokio::test]
async fn log_probabilities_come_with_every_token_whole_and_streamed() {
    let server = Server::start(likely_script()).await;
    let asked = json!({"logprobs": true, "top_logprobs": 1});
    let whole = server.chat(request(asked.clone())).await.json();
    let tokens = whole["choices"][0]["logprobs"]["content"].clone();
    let texts = [r"bytes:\xc3", r"bytes:\xa9", "<|end|>"];
    for (index, text) in texts.into_iter().enumerate() {
        assert_eq!(tokens[index]["token"], text);
        assert_eq!(tokens[index]["top_logprobs"][0]["token"], "other");
    }
    assert_eq!(tokens[0]["logprob"], -1.0);
    assert_eq!(tokens[0]["bytes"], json!([0xc3]));
    let mut streamed = asked;
    streamed["stream"] = true.into();
    let stream = server.chat(request(streamed)).await;
    let chunks = stream.chunks();
    assert_eq!(Value::from(gathered(&chunks, "content")), tokens);
    let finish = chunks.last().expect("chunks");
    assert_eq!(finish["choices"][0]["finish_reason"], "stop");
    assert_eq!(
        finish["choices"][0]["logprobs"]["content"][0], tokens[2],
        "what no text follows leaves with the end"
    );
    let plain = server.chat(request(json!({}))).await.json();
    assert!(plain["choices"][0]["logprobs"].is_null());
    let empty = Server::start(answer(&[], content("", &[]))).await;
    let empty = empty.chat(request(json!({"logprobs": true}))).await.json();
    assert_eq!(empty["choices"][0]["logprobs"]["content"], json!([]));
}

#[tokio::test]
async fn a_text_completion_s_log_probabilities_are_lists_whose_offsets_go_on_through_a_stream() {
    let server = Server::start(likely_script()).await;
    let ask = async |stream: bool| {
        let body = json!({"model": "stoa/tiny", "prompt": "x", "logprobs": 1, "stream": stream});
        let body = body.to_string();
        server.post("/v1/completions", body.as_bytes()).await
    };
    let whole = ask(false).await.json();
    let lists = &whole["choices"][0]["logprobs"];
    assert_eq!(lists["text_offset"], json!([0, 1, 1]));
    assert_eq!(lists["tokens"][2], "<|end|>");
    assert_eq!(lists["token_logprobs"][0], -1.0);
    assert_eq!(lists["top_logprobs"][2]["<|end|>"], 0.0);
    let echoed = json!({"model": "stoa/tiny", "prompt": "écho", "logprobs": 0, "echo": true});
    let echoed = echoed.to_string();
    let echoed = server.post("/v1/completions", echoed.as_bytes()).await;
    let offsets = &echoed.json()["choices"][0]["logprobs"]["text_offset"];
    assert_eq!(*offsets, json!([4, 5, 5]), "behind the prompt");
    let chunks = ask(true).await.chunks();
    for list in ["text_offset", "tokens", "token_logprobs", "top_logprobs"] {
        assert_eq!(Value::from(gathered(&chunks, list)), lists[list], "{list}");
    }
}

#[tokio::test]
async fn an_empty_answer_is_empty_text_in_both_forms() {
    let (whole, chunks, _) = both(&[], content("", &[]), json!({})).await;
    check_order(&whole, &chunks);
    check_same_message(&whole, &chunks);
    assert_eq!(whole["choices"][0]["message"]["content"], "");
}

#[tokio::test]
async fn tool_calls_stream_with_index_id_and_name_once_and_join_to_the_whole() {
    let long = json!({"城市": "北京".repeat(400), "n": 1}).to_string();
    let calls = [("get_weather", long.as_str()), ("get_time", "{}")];
    let (whole, chunks, _) = both(
        &[],
        content("", &calls),
        json!({"tools": [tool("get_weather")]}),
    )
    .await;
    check_order(&whole, &chunks);
    check_same_message(&whole, &chunks);
    let choice = &whole["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls");
    assert_eq!(choice["message"]["content"], Value::Null);
    let calls = choice["message"]["tool_calls"].as_array().expect("calls");
    assert_eq!(calls.len(), 2);
    assert_ne!(calls[0]["id"], calls[1]["id"]);
    assert_eq!(calls[0]["function"]["arguments"], long);
}

#[tokio::test]
async fn text_beside_tool_calls_stays_before_them() {
    let (whole, chunks, _) = both(
        &["I look."],
        content("I look.", &[("f", "{}")]),
        json!({"tools": [tool("f")]}),
    )
    .await;
    check_order(&whole, &chunks);
    check_same_message(&whole, &chunks);
}

fn tool(name: &str) -> Value {
    json!({"type": "function", "function": {"name": name, "parameters": {"type": "object"}}})
}

#[tokio::test]
async fn a_lone_call_goes_out_as_function_call_where_only_functions_came_in() {
    let functions = json!({"functions": [{"name": "f", "parameters": {}}]});
    let (whole, chunks, _) = both(&[], content("", &[("f", "{\"a\":1}")]), functions).await;
    let choice = &whole["choices"][0];
    assert_eq!(choice["finish_reason"], "function_call");
    assert_eq!(
        choice["message"]["function_call"],
        json!({"name": "f", "arguments": "{\"a\":1}"})
    );
    assert!(choice["message"].get("tool_calls").is_none());
    let deltas = chunks
        .iter()
        .filter_map(|c| c["choices"].get(0))
        .map(|c| &c["delta"]["function_call"]);
    let arguments: String = deltas
        .filter_map(|call| call["arguments"].as_str())
        .collect();
    assert_eq!(arguments, "{\"a\":1}");
    check_order(&whole, &chunks);
}

#[tokio::test]
async fn chinese_text_and_emoji_pass_byte_for_byte() {
    let pieces: Vec<String> = CHINESE.chars().map(String::from).collect();
    let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
    let (whole, chunks, stream) = both(&pieces, content(CHINESE, &[]), json!({})).await;
    check_same_message(&whole, &chunks);
    assert_eq!(whole["choices"][0]["message"]["content"], CHINESE);
    assert!(stream.text().contains("天"), "raw UTF-8, not escapes");
}

#[tokio::test]
async fn a_whole_answer_has_every_field_that_strict_clients_read() {
    let server = Server::start(answer(&["four"], content("four", &[]))).await;
    let reply = server
        .chat(request(json!({"top_p": 0.5, "vendor_field": 1})))
        .await;
    let body = reply.json();
    assert_eq!(body["object"], "chat.completion");
    assert_eq!(body["id"], format!("chatcmpl-{}", hex::encode(JOB.0)));
    assert_eq!(body["model"], "stoa/tiny");
    assert!(
        body["created"]
            .as_u64()
            .is_some_and(|secs| secs > 1_700_000_000)
    );
    let message = &body["choices"][0]["message"];
    for key in [
        "role",
        "content",
        "refusal",
        "annotations",
        "audio",
        "function_call",
    ] {
        assert!(message.get(key).is_some(), "{key}");
    }
    assert_eq!(body["choices"][0]["logprobs"], Value::Null);
    let usage = &body["usage"];
    assert_eq!(usage["total_tokens"], 1_000_012);
    assert_eq!(
        usage["prompt_tokens_details"]
            .as_object()
            .map(serde_json::Map::len),
        Some(5)
    );
    assert_eq!(
        usage["completion_tokens_details"]
            .as_object()
            .map(serde_json::Map::len),
        Some(5)
    );
    let stoa = &body["stoa"];
    assert_eq!(
        stoa["cost"],
        json!({"input": "0.1", "output": "0.000003", "total": "0.100003"})
    );
    assert_eq!(stoa["ignored_parameters"], json!(["top_p", "vendor_field"]));
    assert_eq!(stoa["receipt_id"], JOB.to_string());
    assert_eq!(stoa["refund"], "0.25");
    assert_eq!(stoa["settlement"], "pending");
    let receipt: SignedReceipt =
        serde_json::from_value(stoa["receipt"].clone()).expect("a receipt");
    assert_eq!(stoa_verify::check_signatures(&receipt), Ok(()));
    for (name, value) in [
        ("x-request-id", JOB.to_string()),
        ("x-stoa-job", JOB.to_string()),
        ("x-stoa-receipt-id", JOB.to_string()),
        ("x-stoa-provider", started().provider.to_string()),
        ("x-stoa-tier", "exact".to_owned()),
        ("x-stoa-failovers", "1".to_owned()),
        ("content-type", "application/json".to_owned()),
    ] {
        assert_eq!(reply.headers.get(name), Some(&value), "{name}");
    }
}

#[tokio::test]
async fn a_stream_carries_the_headers_and_no_usage_unless_asked() {
    let server = Server::start(answer(&["four"], content("four", &[]))).await;
    let reply = server.chat(request(json!({"stream": true}))).await;
    assert_eq!(reply.headers["content-type"], "text/event-stream");
    assert_eq!(
        reply.headers["x-stoa-provider"],
        started().provider.to_string()
    );
    assert_eq!(reply.headers["x-request-id"], JOB.to_string());
    for chunk in reply.chunks() {
        assert!(chunk.get("usage").is_none());
        assert_eq!(
            chunk["choices"].as_array().map(Vec::len),
            Some(1),
            "clients index choices[0]"
        );
    }
}

#[tokio::test]
async fn the_receipt_stays_out_where_only_its_id_was_asked_for() {
    let server = Server::start(answer(&["four"], content("four", &[]))).await;
    let body = server
        .chat(request(json!({"stoa": {"receipt": "header"}})))
        .await
        .json();
    assert!(body["stoa"].get("receipt").is_none());
    assert_eq!(body["stoa"]["receipt_id"], JOB.to_string());
}

#[tokio::test]
async fn text_completions_answer_whole_and_streamed_alike_and_echo_the_prompt() {
    let server = Server::start(answer(&["fo", "ur"], content("four", &[]))).await;
    let body = json!({"model": "stoa/tiny", "prompt": "2+2=", "echo": true});
    let whole = server
        .post("/v1/completions", body.to_string().as_bytes())
        .await
        .json();
    assert_eq!(whole["object"], "text_completion");
    assert_eq!(whole["choices"][0]["text"], "2+2=four");
    assert_eq!(whole["choices"][0]["finish_reason"], "stop");
    let mut body = body;
    body["stream"] = true.into();
    body["stream_options"] = json!({"include_usage": true});
    let stream = server
        .post("/v1/completions", body.to_string().as_bytes())
        .await;
    let chunks = stream.chunks();
    let texts = chunks
        .iter()
        .filter_map(|chunk| chunk["choices"].get(0)?["text"].as_str());
    assert_eq!(texts.collect::<String>(), "2+2=four");
    let (usage, others) = chunks.split_last().expect("chunks");
    assert_eq!(usage["usage"], whole["usage"]);
    assert_eq!(
        others.last().expect("chunks")["choices"][0]["finish_reason"],
        "stop"
    );
    assert_eq!(others.last().expect("chunks")["stoa"], whole["stoa"]);
    assert_eq!(stream.events().last(), Some(&"[DONE]"));
}

#[tokio::test]
async fn a_client_that_leaves_a_stream_cancels_the_call() {
    let script = vec![
        Step::Say(ClientEvent::Started(started())),
        delta("a"),
        Step::Hang,
    ];
    let server = Server::start(script).await;
    let body = request(json!({"stream": true})).to_string();
    let mut stream = server
        .open(
            "POST",
            "/v1/chat/completions",
            &[AUTHORIZED, JSON],
            body.as_bytes(),
        )
        .await;
    let mut seen = Vec::new();
    while !seen.windows(7).any(|w| w == b"\"a\"},\"f") {
        let mut piece = [0; 1024];
        let n = stream.read(&mut piece).await.expect("open");
        assert!(n > 0, "{}", String::from_utf8_lossy(&seen));
        seen.extend_from_slice(&piece[..n]);
    }
    assert!(!server.hall.was_cancelled.load(Ordering::SeqCst));
    drop(stream);
    server.cancelled().await;
}

#[tokio::test]
async fn a_client_that_leaves_before_the_first_token_cancels_the_call() {
    for changes in [json!({"stream": true}), json!({})] {
        let server = Server::start(vec![Step::Hang]).await;
        let body = request(changes).to_string();
        let stream = server
            .open(
                "POST",
                "/v1/chat/completions",
                &[AUTHORIZED, JSON],
                body.as_bytes(),
            )
            .await;
        while server.hall.submissions() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        drop(stream);
        server.cancelled().await;
    }
}

#[tokio::test]
async fn a_client_that_stops_reading_is_cut_off_and_memory_stays_bounded() {
    let piece = "x".repeat(64 << 10);
    let mut script = vec![Step::Say(ClientEvent::Started(started()))];
    script.extend((0..2_000).map(|_| delta(&piece)));
    let timings = Timings {
        slow_reader: Duration::from_millis(200),
        ..quick()
    };
    let server = Server::with(Hall::new(script), timings).await;
    let body = request(json!({"stream": true})).to_string();
    let mut stream = server
        .open(
            "POST",
            "/v1/chat/completions",
            &[AUTHORIZED, JSON],
            body.as_bytes(),
        )
        .await;
    // 128 MB wait behind a socket that nobody reads: the call must end, not pile them up.
    server.cancelled().await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    let mut bytes = Vec::new();
    let end = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut bytes)).await;
    // A reset or an end, but no proper last chunk: the connection was given up.
    drop(end.expect("the connection is closed"));
    assert!(
        !bytes.ends_with(b"0\r\n\r\n") && bytes.len() < 32 << 20,
        "{} bytes",
        bytes.len()
    );
}

#[tokio::test]
async fn silence_is_filled_with_comments_and_a_late_start_commits_the_status() {
    let mut script = vec![Step::Wait(250)];
    script.extend(answer(&["four"], content("four", &[])));
    let timings = Timings {
        header_hold: Duration::from_millis(20),
        keep_alive: Duration::from_millis(30),
        ..quick()
    };
    let server = Server::with(Hall::new(script), timings).await;
    let reply = server.chat(request(json!({"stream": true}))).await;
    assert_eq!(reply.status, 200);
    assert!(
        !reply.headers.contains_key("x-stoa-provider"),
        "nobody was chosen when the headers left"
    );
    assert!(reply.text().starts_with(": keep-alive\n\n"));
    assert_eq!(reply.events().last(), Some(&"[DONE]"));
}

#[tokio::test]
async fn a_call_is_below_its_client_s_span_where_the_header_is_one_and_goes_on_where_it_is_not() {
    let server = Server::start(answer(&["Hi"], content("Hi", &[]))).await;
    let valid = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let body = request(json!({})).to_string();
    let header = |value| ("traceparent", value);
    for (headers, expected) in [
        (vec![], None),
        (vec![header(valid)], Some(valid)),
        (vec![header("00-abc")], None),
        (vec![header(valid), header(valid)], None),
        (vec![header(&valid.to_uppercase())], None),
    ] {
        let headers: Vec<_> = [AUTHORIZED, JSON].into_iter().chain(headers).collect();
        let path = "/v1/chat/completions";
        let reply = server.send("POST", path, &headers, body.as_bytes()).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        let above = server.hall.above.lock().expect("not poisoned").pop();
        let above = above.expect("submitted").map(|above| above.to_string());
        assert_eq!(above.as_deref(), expected, "{headers:?}");
    }
}
