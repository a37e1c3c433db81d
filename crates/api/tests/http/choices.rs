//! Several choices of one request (`n`).

use crate::support::*;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use stoa_nodes::client::{Cause, ClientEvent, Failure};
use stoa_types::{FinishReason, JobId, TokenAmount};

const ONCE: (&str, &str) = ("idempotency-key", "order 7");

/// Three choices: the second says its name in two pieces, the third ends after the others.
fn three() -> Vec<Vec<Step>> {
    let slow = [
        vec![Step::Wait(60)],
        answer(&["third"], content("third", &[])),
    ];
    vec![
        answer(&["first"], content("first", &[])),
        answer(&["sec", "ond"], content("second", &[])),
        slow.concat(),
    ]
}

fn failing(cause: Cause) -> Vec<Step> {
    let failure = Failure::new(cause, TokenAmount::ZERO);
    vec![Step::Say(ClientEvent::Failed(failure))]
}

async fn server(mut scripts: Vec<Vec<Step>>) -> Server {
    let mut hall = Hall::new(scripts.remove(0));
    hall.further = scripts;
    Server::with(hall, quick()).await
}

fn ask(n: usize, changes: Value) -> Value {
    let mut body = request(changes);
    body["n"] = n.into();
    body
}

fn told(server: &Server, end: End) -> Vec<(usize, u64)> {
    let told = server.hall.told.lock().expect("not poisoned");
    let ends = told.iter().filter(|(_, is, _)| *is == end);
    ends.map(|(at, _, tokens)| (*at, *tokens)).collect()
}

fn id_of(at: usize) -> String {
    choice_of(JOB, at).to_string()
}

#[tokio::test]
async fn a_whole_answer_holds_all_choices_their_receipts_and_their_sums() {
    let server = server(three()).await;
    let body = ask(3, json!({"stoa": {"receipt": "inline"}}));
    let reply = server.chat(body).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let answer = reply.json();
    let texts = ["first", "second", "third"];
    for (at, text) in texts.iter().enumerate() {
        let choice = &answer["choices"][at];
        assert_eq!(choice["index"], at);
        assert_eq!(choice["message"]["content"], *text);
        assert_eq!(choice["finish_reason"], "stop");
        let stoa = &answer["stoa"]["choices"][at];
        assert_eq!(
            (&stoa["choice"], &stoa["receipt_id"]),
            (&json!(at), &json!(id_of(at)))
        );
        assert_eq!(stoa["request_id"], id_of(0));
        assert!(stoa["receipt"]["provider_signature"].is_string());
        assert_eq!(stoa["stop"], "eos");
    }
    assert_eq!(answer["id"], format!("chatcmpl-{}", "5a".repeat(32)));
    assert_eq!(answer["usage"]["prompt_tokens"], 3 * 1_000_005);
    assert_eq!(answer["usage"]["completion_tokens"], 21);
    let stoa = &answer["stoa"];
    assert_eq!(stoa["cost"]["total"], "0.300009");
    assert_eq!(stoa["refund"], "0.75");
    assert_eq!(reply.headers["x-stoa-job"], id_of(0));
    let receipts: Vec<_> = (0..3).map(id_of).collect();
    assert_eq!(reply.headers["x-stoa-receipt-id"], receipts.join(", "));
    assert_eq!(told(&server, End::Gone), []);
}

#[tokio::test]
async fn one_choice_is_answered_as_ever() {
    let asked = server(vec![answer(&["four"], content("four", &[]))]).await;
    let one = asked.chat(ask(1, json!({}))).await.json();
    let plain = Server::start(answer(&["four"], content("four", &[]))).await;
    let mut without = plain.chat(request(json!({}))).await.json();
    without["created"] = one["created"].clone();
    assert_eq!(one, without);
    assert!(one["stoa"].get("choices").is_none() && one["stoa"].get("choice").is_none());
}

#[tokio::test]
async fn nothing_of_a_whole_answer_is_delivered_before_all_of_it_is_there() {
    let server = server(three()).await;
    server.chat(ask(3, json!({}))).await;
    let ends = server.hall.told.lock().expect("not poisoned").clone();
    let delivered = |(at, tokens)| (at, End::Delivered, tokens);
    assert_eq!(ends, [(0, 1), (1, 2), (2, 1)].map(delivered));
}

/// The pieces of each choice as SDKs join them: text, finish reason, `stoa` object.
fn joined(chunks: &[Value], n: usize) -> Vec<(String, Value, Value)> {
    let mut choices = vec![(String::new(), Value::Null, Value::Null); n];
    for chunk in chunks {
        let Some(choice) = chunk["choices"].get(0) else {
            continue;
        };
        let at = choice["index"].as_u64().expect("always an index") as usize;
        assert!(choices[at].1.is_null(), "nothing follows its end");
        choices[at].0 += choice["delta"]["content"].as_str().unwrap_or_default();
        choices[at].1 = choice["finish_reason"].clone();
        choices[at].2 = chunk["stoa"].clone();
    }
    choices
}

#[tokio::test]
async fn a_stream_says_what_the_whole_answer_says() {
    let whole = server(three()).await.chat(ask(3, json!({}))).await.json();
    for keep in [false, true] {
        let server = server(three()).await;
        let options = json!({"stream": true, "stream_options": {"include_usage": true}});
        let text = ask(3, options).to_string();
        let mut headers = vec![AUTHORIZED, JSON];
        headers.extend(keep.then_some(ONCE));
        let path = "/v1/chat/completions";
        let reply = server.send("POST", path, &headers, text.as_bytes()).await;
        assert_eq!(reply.events().last(), Some(&"[DONE]"));
        let chunks = reply.chunks();
        assert!(chunks.iter().all(|chunk| chunk["id"] == whole["id"]));
        for (at, (text, finish, stoa)) in joined(&chunks, 3).into_iter().enumerate() {
            let choice = &whole["choices"][at];
            assert_eq!(choice["message"]["content"], text);
            assert_eq!(choice["finish_reason"], finish);
            assert_eq!(whole["stoa"]["choices"][at], stoa);
        }
        let last = chunks.last().expect("pieces");
        assert_eq!(
            (&last["choices"], &last["usage"]),
            (&json!([]), &whole["usage"])
        );
        let usages = chunks.iter().filter(|chunk| !chunk["usage"].is_null());
        assert_eq!(usages.count(), 1);
        assert_eq!(told(&server, End::Gone), []);
        // Each is charged as it ends; where the answer is kept, none before all of it is.
        let third = told(&server, End::Delivered)
            .iter()
            .position(|end| end.0 == 2);
        assert_eq!(third, Some(2));
    }
}

#[tokio::test]
async fn text_completions_have_choices_too() {
    for stream in [false, true] {
        let server = server(three()).await;
        let body =
            json!({"model": "stoa/tiny", "prompt": "one", "n": 3, "echo": true, "stream": stream});
        let reply = server
            .post("/v1/completions", body.to_string().as_bytes())
            .await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        let mut texts = vec![String::new(); 3];
        let pieces = if stream {
            reply.chunks()
        } else {
            vec![reply.json()]
        };
        for piece in &pieces {
            for choice in piece["choices"].as_array().expect("choices") {
                let at = choice["index"].as_u64().expect("an index") as usize;
                texts[at] += choice["text"].as_str().expect("text");
            }
        }
        assert_eq!(texts, ["onefirst", "onesecond", "onethird"]);
    }
}

#[tokio::test]
async fn tool_calls_of_different_choices_have_different_ids() {
    let call = || answer(&[], content("", &[("look", "{}")]));
    let server = server(vec![call(), call()]).await;
    let answer = server.chat(ask(2, json!({}))).await.json();
    let id = |at: usize| answer["choices"][at]["message"]["tool_calls"][0]["id"].clone();
    assert!(id(0).is_string() && id(0) != id(1));
    let body = ask(2, json!({"stream": true}));
    let chunks = server.chat(body).await.chunks();
    for at in 0..2 {
        let of = |chunk: &&Value| {
            let choice = &chunk["choices"][0];
            choice["index"] == at && choice["delta"]["tool_calls"][0]["id"].is_string()
        };
        let first = chunks.iter().find(of).expect("a call");
        assert_eq!(first["choices"][0]["delta"]["tool_calls"][0]["id"], id(at));
    }
}

#[tokio::test]
async fn a_request_that_is_refused_says_so_once() {
    for stream in [false, true] {
        let cause = Cause::CapReached {
            needed: TokenAmount::from_units(9),
            choices: 2,
            available: TokenAmount::from_units(3),
        };
        let server = server(vec![failing(cause.clone()), failing(cause)]).await;
        let reply = server.chat(ask(2, json!({"stream": stream}))).await;
        assert_eq!(reply.error(), (429, "insufficient_quota".to_owned(), false));
        let error = reply.json();
        let text = error["error"]["message"].as_str().expect("text");
        assert!(text.contains("for 2 choices"), "{text}");
        assert_eq!(error["error"]["stoa"]["choices"], 2);
    }
}

/// Begins to answer and is lost.
fn lost() -> Vec<Step> {
    let mut steps = answer(&["be"], content("begun", &[]));
    steps.truncate(2);
    steps.push(Step::Wait(30));
    steps.extend(failing(Cause::ProviderLost));
    steps
}

#[tokio::test]
async fn a_whole_answer_that_loses_one_choice_is_an_error_that_costs_nothing() {
    let server = server(vec![answer(&["first"], content("first", &[])), lost()]).await;
    let reply = server.chat(ask(2, json!({}))).await;
    assert_eq!(reply.error(), (502, "provider_down".to_owned(), true));
    assert_eq!(reply.json()["error"]["stoa"]["billed"], "0");
    server.cancelled().await;
    assert_eq!(told(&server, End::Delivered), []);
    assert_eq!(
        told(&server, End::Gone),
        [(0, 0)],
        "nothing of it was written"
    );
}

#[tokio::test]
async fn a_stream_that_loses_one_choice_ends_the_others_and_names_what_was_charged() {
    for keep in [false, true] {
        let mut scripts = three();
        scripts[1] = lost();
        let server = server(scripts).await;
        let text = ask(3, json!({"stream": true})).to_string();
        let mut headers = vec![AUTHORIZED, JSON];
        headers.extend(keep.then_some(ONCE));
        let path = "/v1/chat/completions";
        let reply = server.send("POST", path, &headers, text.as_bytes()).await;
        assert_eq!(reply.status, 200);
        let events = reply.events();
        let error: Value = serde_json::from_str(events.last().expect("an end")).expect("JSON");
        let facts = &error["error"]["stoa"];
        assert_eq!(error["error"]["code"], "provider_lost");
        assert_eq!(
            (&facts["choice"], &facts["billed"]),
            (&json!(1), &json!("0.200006"))
        );
        assert_eq!(facts["charged"].as_array().map(Vec::len), Some(2));
        let chunks: Vec<Value> = events[..events.len() - 1]
            .iter()
            .map(|event| serde_json::from_str(event).expect("JSON"))
            .collect();
        let choices = joined(&chunks, 3);
        assert_eq!(
            (choices[0].0.as_str(), &choices[0].1),
            ("first", &json!("stop"))
        );
        assert_eq!((choices[1].0.as_str(), &choices[1].1), ("be", &Value::Null));
        assert_eq!(
            (choices[2].0.as_str(), &choices[2].1),
            ("third", &json!("stop"))
        );
        assert_eq!(told(&server, End::Gone), []);
        if keep {
            // It is not run again, and the truth is told.
            let again = server.send("POST", path, &headers, text.as_bytes()).await;
            assert_eq!(
                again.error(),
                (409, "idempotency_answer_lost".to_owned(), false)
            );
            assert_eq!(again.json()["error"]["stoa"]["receipt_id"], id_of(0));
            assert_eq!(server.hall.submissions(), 1);
        }
    }
}

#[tokio::test]
async fn a_choice_that_was_delivered_before_anything_was_told_of_it_is_not_given_up() {
    // Its text is a call, which is told at the end; meanwhile its charge is under way.
    let mut call = answer(&["", ""], content("", &[("look", "{}")]));
    call.insert(call.len() - 1, Step::Wait(200));
    let mut late = vec![Step::Wait(60)];
    late.extend(failing(Cause::ProviderDown));
    let server = server(vec![call, late]).await;
    let reply = server.chat(ask(2, json!({"stream": true}))).await;
    let events = reply.events();
    let (error, pieces) = events.split_last().expect("an end");
    let error: Value = serde_json::from_str(error).expect("JSON");
    let facts = &error["error"]["stoa"];
    let told_facts = (&facts["choice"], &facts["billed"], &facts["charged"]);
    let expected = (&json!(1), &json!("0.100003"), &json!([id_of(0)]));
    assert_eq!(told_facts, expected, "{error}");
    let calls = |piece: &&&str| piece.contains("tool_calls") && piece.contains("look");
    assert_eq!(pieces.iter().filter(calls).count(), 1, "{pieces:?}");
    assert_eq!(told(&server, End::Delivered), [(0, 2)]);
    assert_eq!(told(&server, End::Gone), []);
}

#[tokio::test]
async fn a_kept_stream_whose_last_choice_is_cut_off_ends_with_the_others() {
    let mut cut = content("be", &[]);
    cut.finish_reason = FinishReason::Cancelled;
    let mut steps = answer(&["be", "gun"], content("begun", &[]));
    steps.truncate(3);
    steps.push(Step::Wait(60));
    steps.push(Step::Say(ClientEvent::Done(Arc::new(done(cut)))));
    let server = server(vec![answer(&["first"], content("first", &[])), steps]).await;
    let text = ask(2, json!({"stream": true})).to_string();
    let headers = [AUTHORIZED, JSON, ONCE];
    let path = "/v1/chat/completions";
    let reply = server.send("POST", path, &headers, text.as_bytes());
    let reply = tokio::time::timeout(Duration::from_secs(10), reply)
        .await
        .expect("it ends");
    let error: Value = serde_json::from_str(reply.events().last().expect("an end")).expect("JSON");
    let facts = &error["error"]["stoa"];
    let told_facts = (&facts["choice"], &facts["billed"], &facts["charged"]);
    // Both are paid: one whole, the other as far as it was written.
    let expected = (&json!(1), &json!("0.200006"), &json!([id_of(0)]));
    assert_eq!(told_facts, expected, "{error}");
    assert_eq!(told(&server, End::Delivered), [(0, 1)]);
}

#[tokio::test]
async fn what_failed_after_the_whole_was_charged_says_what_was_billed_and_what_was_not_delivered() {
    let expired = || {
        let mut steps = answer(&["late"], content("late", &[]));
        let mut failure = Failure::new(Cause::AllotmentExpired, TokenAmount::ZERO);
        failure.undelivered = vec![undelivered()].into();
        steps.pop();
        steps.push(Step::Say(ClientEvent::Failed(failure)));
        steps
    };
    for stream in [false, true] {
        let first = answer(&["first"], content("first", &[]));
        let server = server(vec![first, expired(), expired()]).await;
        let reply = server.chat(ask(3, json!({"stream": stream}))).await;
        let error: Value = match stream {
            false => reply.json(),
            true => serde_json::from_str(reply.events().last().expect("an end")).expect("JSON"),
        };
        let facts = &error["error"]["stoa"];
        let told_facts = (&facts["billed"], &facts["charged"]);
        assert_eq!(told_facts, (&json!("0.100003"), &json!([id_of(0)])));
        assert_eq!(facts["undelivered"].as_array().map(Vec::len), Some(2));
        let text = error["error"]["message"].as_str().expect("text");
        let expected = match stream {
            false => "was billed for other choices, and nothing was delivered.",
            true => "was billed for what was delivered.",
        };
        assert!(text.ends_with(expected), "{text}");
    }
}

/// Four choices that are too long together, and not one by one.
fn long() -> Vec<Vec<Step>> {
    // Six bytes of JSON each.
    let text = "\u{1}".repeat(1 << 20);
    vec![answer(&["be", &text], content(&format!("be{text}"), &[])); 4]
}

#[tokio::test]
async fn a_whole_answer_that_cannot_be_kept_is_not_charged() {
    let server = server(long()).await;
    let text = ask(4, json!({})).to_string();
    let headers = [AUTHORIZED, JSON, ONCE];
    let path = "/v1/chat/completions";
    let reply = server.send("POST", path, &headers, text.as_bytes()).await;
    let expected = (422, "answer_too_long_to_keep".to_owned(), false);
    assert_eq!(reply.error(), expected);
    let error = reply.json();
    let message = error["error"]["message"].as_str().expect("text");
    assert!(message.ends_with("No token was billed."), "{message}");
    assert_eq!(error["error"]["stoa"]["billed"], "0");
    assert_eq!(told(&server, End::Delivered), []);
    assert_eq!(told(&server, End::Gone).len(), 4);
    let plain = server.chat(ask(4, json!({}))).await;
    assert_eq!(plain.status, 200, "nothing need be kept");
}

#[tokio::test]
async fn a_stream_that_cannot_be_kept_ends_with_an_error_that_names_what_is_owed() {
    let server = server(long()).await;
    let text = ask(4, json!({"stream": true})).to_string();
    let headers = [AUTHORIZED, JSON, ONCE];
    let path = "/v1/chat/completions";
    let reply = server.send("POST", path, &headers, text.as_bytes()).await;
    let events = reply.events();
    let error: Value = serde_json::from_str(events.last().expect("an end")).expect("JSON");
    assert_eq!(error["error"]["code"], "answer_too_long_to_keep");
    let message = error["error"]["message"].as_str().expect("text");
    assert!(
        message.contains("What was written of it is billed"),
        "{message}"
    );
    let gone = told(&server, End::Gone);
    let owe = gone.iter().filter(|(_, tokens)| *tokens > 0);
    let owe: Vec<_> = owe.map(|(at, _)| id_of(*at)).collect();
    assert!(gone.len() == 4 && !owe.is_empty(), "{gone:?}");
    let facts = &error["error"]["stoa"];
    let told_facts = (&facts["billed"], &facts["receipt_ids"]);
    assert_eq!(told_facts, (&Value::Null, &json!(owe)));
    assert_eq!(told(&server, End::Delivered), []);
}

#[tokio::test]
async fn a_stream_that_fails_before_anything_was_told_gives_the_others_up() {
    let mut silent = answer(&[], content("", &[]));
    silent.truncate(1);
    silent.push(Step::Hang);
    let mut late = vec![Step::Wait(30)];
    late.extend(failing(Cause::ProviderDown));
    let server = server(vec![silent, late]).await;
    let reply = server.chat(ask(2, json!({"stream": true}))).await;
    let error: Value = serde_json::from_str(reply.events()[0]).expect("JSON");
    assert_eq!(error["error"]["stoa"]["billed"], "0");
    assert_eq!(reply.events().len(), 1);
    server.cancelled().await;
    assert_eq!(told(&server, End::Gone), [(0, 0)]);
}

#[tokio::test]
async fn a_client_that_leaves_cancels_every_choice_at_what_it_was_written() {
    let hanging = |text: &str| {
        let mut steps = answer(&[text], content("more", &[]));
        steps.truncate(2);
        steps.push(Step::Hang);
        steps
    };
    let server = server(vec![hanging("a"), hanging("b"), vec![Step::Hang]]).await;
    let text = ask(3, json!({"stream": true})).to_string();
    let headers = [AUTHORIZED, JSON];
    let path = "/v1/chat/completions";
    let mut stream = server.open("POST", path, &headers, text.as_bytes()).await;
    let mut seen = Vec::new();
    while !(contains(&seen, "\"content\":\"a\"") && contains(&seen, "\"content\":\"b\"")) {
        let mut piece = [0; 4096];
        let n = tokio::io::AsyncReadExt::read(&mut stream, &mut piece)
            .await
            .expect("open");
        assert!(n > 0, "{}", String::from_utf8_lossy(&seen));
        seen.extend_from_slice(&piece[..n]);
    }
    drop(stream);
    for _ in 0..1_000 {
        if told(&server, End::Gone).len() == 3 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut gone = told(&server, End::Gone);
    gone.sort_unstable();
    assert_eq!(gone, [(0, 1), (1, 1), (2, 0)]);
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes
        .windows(text.len())
        .any(|window| window == text.as_bytes())
}

#[tokio::test]
async fn a_request_sent_again_gets_the_same_choices_and_is_run_once() {
    for stream in [false, true] {
        let server = server(three()).await;
        let text = ask(3, json!({"stream": stream})).to_string();
        let headers = [AUTHORIZED, JSON, ONCE];
        let path = "/v1/chat/completions";
        let first = server.send("POST", path, &headers, text.as_bytes()).await;
        assert_eq!(first.status, 200, "{}", first.text());
        let again = server.send("POST", path, &headers, text.as_bytes()).await;
        assert_eq!((again.status, &again.body), (200, &first.body));
        assert_eq!(server.hall.submissions(), 1);
        // What was kept before the charge is what was told, byte for byte: nothing was kept a second time.
        let kept = server.hall.kept.kept.lock().expect("not poisoned");
        let kept = kept.values().next().expect("kept");
        assert!(matches!(kept, stoa_api::Kept::Prepared(..)), "{kept:?}");
    }
}

#[tokio::test]
async fn a_crash_between_the_charges_of_a_kept_request_does_not_run_it_again() {
    let server = server(three()).await;
    let text = ask(3, json!({})).to_string();
    let headers = [AUTHORIZED, JSON, ONCE];
    let path = "/v1/chat/completions";
    server.send("POST", path, &headers, text.as_bytes()).await;
    // As if it had crashed after the charge of the second alone.
    let forget = |job: JobId| server.hall.fates.lock().expect("not poisoned").remove(&job);
    forget(JOB);
    forget(choice_of(JOB, 2));
    let again = server.send("POST", path, &headers, text.as_bytes()).await;
    assert_eq!(
        again.error(),
        (409, "idempotency_answer_lost".to_owned(), false)
    );
    assert_eq!(again.json()["error"]["stoa"]["receipt_id"], id_of(1));
    // Before the first charge nothing was owed: it is run.
    forget(choice_of(JOB, 1));
    let run = server.send("POST", path, &headers, text.as_bytes()).await;
    assert_eq!((run.status, server.hall.submissions()), (200, 2));
}

#[tokio::test]
async fn each_choice_counts_as_a_request() {
    let mut hall = Hall::new(answer(&["a"], content("a", &[])));
    hall.further = vec![answer(&["b"], content("b", &[])); 3];
    hall.rates.requests_per_minute = 6;
    let server = Server::with(hall, quick()).await;
    assert_eq!(server.chat(ask(4, json!({}))).await.status, 200);
    let refused = server.chat(ask(4, json!({}))).await;
    assert_eq!(refused.error().0, 429, "{}", refused.text());
    assert_eq!(server.chat(ask(2, json!({}))).await.status, 200);
}

#[tokio::test]
async fn numbers_of_choices_that_are_not_served_are_refused_by_name() {
    let server = server(three()).await;
    for (n, field) in [
        (json!(0), "n"),
        (json!(9), "n"),
        (json!("2"), "n"),
        (json!(1.5), "n"),
    ] {
        let reply = server.chat(request(json!({"n": n}))).await;
        assert_eq!(
            reply.error(),
            (400, "invalid_value".to_owned(), false),
            "{n}"
        );
        assert_eq!(reply.json()["error"]["param"], field);
    }
    let best = server.chat(request(json!({"n": 2, "best_of": 2}))).await;
    assert_eq!(best.json()["error"]["param"], "best_of");
    assert_eq!(server.hall.submissions(), 0);
}

#[tokio::test]
async fn what_is_kept_never_counts_as_written_before_it_is_delivered() {
    for keep in [false, true] {
        let server = server(three()).await;
        let text = ask(3, json!({"stream": true})).to_string();
        let mut headers = vec![AUTHORIZED, JSON];
        headers.extend(keep.then_some(ONCE));
        let path = "/v1/chat/completions";
        let reply = server.send("POST", path, &headers, text.as_bytes()).await;
        assert_eq!(reply.events().last(), Some(&"[DONE]"));
        let written = server.hall.written.lock().expect("not poisoned");
        let written: Vec<_> = written
            .iter()
            .map(stoa_api::WrittenTokens::tokens)
            .collect();
        // A router charges what was written whole, whoever says so.
        let expected = if keep { [0, 1, 0] } else { [1, 2, 1] };
        assert_eq!(written, expected);
    }
}

#[tokio::test]
async fn more_log_probabilities_than_can_be_kept_are_refused_before_anything_is_ordered() {
    let server = server(three()).await;
    for (changes, status) in [
        (json!({"logprobs": true, "top_logprobs": 20}), 400),
        (json!({"logprobs": true, "top_logprobs": 7}), 400),
        (json!({"logprobs": true, "top_logprobs": 6}), 200),
    ] {
        let text = ask(3, changes.clone()).to_string();
        let once = ("idempotency-key", &*format!("of {changes}"));
        let headers = [AUTHORIZED, JSON, once];
        let path = "/v1/chat/completions";
        let reply = server.send("POST", path, &headers, text.as_bytes()).await;
        assert_eq!(reply.status, status, "{}", reply.text());
    }
    assert_eq!(server.hall.submissions(), 1);
    let one = ask(1, json!({"logprobs": true, "top_logprobs": 20})).to_string();
    let headers = [AUTHORIZED, JSON, ONCE];
    let path = "/v1/chat/completions";
    let reply = server.send("POST", path, &headers, one.as_bytes()).await;
    assert_eq!(reply.status, 200, "one may ask for all");
}
