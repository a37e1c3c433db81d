//! Every row of the truth table, over the wire.

use crate::support::*;
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;
use stoa_api::Timings;
use stoa_nodes::client::{Cause, ClientEvent, Failure, Undelivered};
use stoa_types::{Price, TokenAmount};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn amount(units: u128) -> TokenAmount {
    TokenAmount::from_units(units)
}

/// One row of the table.
struct Case {
    cause: Cause,
    status: u16,
    kind: &'static str,
    code: &'static str,
    retry: bool,
    /// `stoa.cause`.
    fine: &'static str,
    /// The code inside a stream.
    in_stream: &'static str,
}

impl Case {
    /// Where it is told as `fine` in `stoa.cause`, and has that code inside a stream.
    fn told(self, fine: &'static str, in_stream: &'static str) -> Self {
        Self {
            fine,
            in_stream,
            ..self
        }
    }
}

/// A row whose three codes are one.
fn row(cause: Cause, status: u16, kind: &'static str, code: &'static str, retry: bool) -> Case {
    Case {
        cause,
        status,
        kind,
        code,
        retry,
        fine: code,
        in_stream: code,
    }
}

fn cases() -> Vec<Case> {
    let mut cases = of_requests();
    cases.extend(of_money_and_market());
    cases.extend(of_answers());
    cases
}

fn of_requests() -> Vec<Case> {
    let (model, reason) = ("m".to_owned(), "why".to_owned());
    let invalid = "invalid_request_error";
    let missing = Cause::UnknownModel {
        model: model.clone(),
    };
    let long = Cause::ContextLength {
        tokens: 2000,
        context: 1024,
    };
    let tools = Cause::Unsupported {
        parameter: "tools".to_owned(),
        reason,
    };
    vec![
        row(missing, 404, "not_found_error", "model_not_found", false),
        row(
            Cause::ModelOffline { model },
            503,
            "provider_error",
            "model_offline",
            true,
        ),
        row(long, 400, invalid, "context_length_exceeded", false),
        row(tools, 400, invalid, "unsupported_parameter", false),
        row(
            Cause::ContentPolicy,
            400,
            invalid,
            "content_policy_violation",
            false,
        ),
        row(Cause::ClientTooSlow, 408, invalid, "request_timeout", true)
            .told("client_too_slow", "deadline_exceeded"),
    ]
}

fn of_money_and_market() -> Vec<Case> {
    let (needed, available) = (amount(9), amount(3));
    let (quota, constraint) = ("insufficient_quota", "constraint_error");
    let cap = Cause::CapReached {
        needed,
        choices: 1,
        available,
    };
    let budget = Cause::BudgetExceeded {
        needed,
        choices: 1,
        available,
        resets_at: None,
    };
    let ceiling = Cause::PriceCeiling {
        lowest: Price::per_million(amount(400_000)),
    };
    let nobody = Cause::NoProviderMatches {
        excluded: BTreeMap::from([("region".to_owned(), 3)]),
    };
    let busy = Cause::OverCapacity { retry_ms: 700 };
    let away = Cause::RouterUnavailable {
        reason: "why".to_owned(),
    };
    vec![
        row(Cause::NoAllotment, 429, quota, quota, false).told("no_allotment", quota),
        row(Cause::AllotmentExpired, 429, quota, quota, false).told("allotment_expired", quota),
        row(cap, 429, quota, quota, false).told("cap_reached", quota),
        row(budget, 429, quota, "budget_exceeded", false),
        row(ceiling, 422, constraint, "price_ceiling_exceeded", false),
        row(nobody, 422, constraint, "no_provider_matches_policy", false),
        row(busy, 503, "capacity_error", "over_capacity", true),
        row(away, 503, "capacity_error", "router_overloaded", true),
        row(
            Cause::SettlementUnavailable,
            503,
            "settlement_error",
            "settlement_unavailable",
            true,
        ),
    ]
}

fn of_answers() -> Vec<Case> {
    let (reason, provider) = ("why".to_owned(), "provider_error");
    let wrong = Cause::ProviderInvalid {
        reason: reason.clone(),
    };
    let unverified = Cause::VerificationFailed { reason };
    vec![
        row(Cause::ProviderDown, 502, provider, "provider_down", true)
            .told("provider_down", "provider_lost"),
        row(Cause::ProviderLost, 502, provider, "provider_down", true)
            .told("provider_lost", "provider_lost"),
        row(
            Cause::DeadlineExceeded,
            504,
            provider,
            "deadline_exceeded",
            true,
        ),
        row(wrong, 502, provider, "provider_invalid_response", true)
            .told("provider_invalid_response", "verification_failed"),
        row(unverified, 502, provider, "verification_failed", true),
        row(Cause::Internal, 500, "server_error", "internal_error", true),
    ]
}

fn fail(cause: Cause, billed: u128) -> Step {
    Step::Say(ClientEvent::Failed(Failure::new(cause, amount(billed))))
}

#[tokio::test]
async fn every_cause_is_one_row_before_the_first_byte_streamed_or_not() {
    for case in cases() {
        let (cause, fine) = (case.cause, case.fine);
        for stream in [false, true] {
            let server = Server::start(vec![fail(cause.clone(), 0)]).await;
            let reply = server.chat(request(json!({"stream": stream}))).await;
            let told = (case.status, case.code.to_owned(), case.retry);
            assert_eq!(reply.error(), told, "{cause:?}");
            let error = &reply.json()["error"];
            assert_eq!(error["type"], case.kind);
            assert_eq!(error["stoa"]["cause"], fine);
            assert_eq!(error["stoa"]["billed"], "0");
            assert!(
                error["message"]
                    .as_str()
                    .expect("text")
                    .ends_with("No token was billed.")
            );
            assert_eq!(reply.headers["x-request-id"], JOB.to_string());
            assert_eq!(reply.headers["x-stoa-job"], JOB.to_string());
        }
    }
}

#[tokio::test]
async fn a_call_that_was_taken_and_not_delivered_carries_both_signatures() {
    let taken = undelivered();
    let failure = Failure {
        undelivered: Box::new([taken.clone()]),
        ..Failure::new(Cause::DeadlineExceeded, TokenAmount::ZERO)
    };
    for stream in [false, true] {
        let script = vec![Step::Say(ClientEvent::Failed(failure.clone()))];
        let server = Server::start(script).await;
        let reply = server.chat(request(json!({"stream": stream}))).await;
        let error = &reply.json()["error"];
        assert_eq!(error["stoa"]["billed"], "0");
        let told: Vec<Undelivered> =
            serde_json::from_value(error["stoa"]["undelivered"].clone()).expect("orders");
        assert_eq!(told, std::slice::from_ref(&taken));
        let message = error["message"].as_str().expect("text");
        let provider = taken.ticket.ticket.provider.to_string();
        assert!(message.contains(&provider), "{message}");
        assert!(message.contains("did not deliver"), "{message}");
        assert!(message.ends_with("No token was billed."), "{message}");
    }
}

#[tokio::test]
async fn every_cause_inside_a_stream_is_one_error_event_and_no_done() {
    for case in cases() {
        let cause = case.cause;
        let script = vec![
            Step::Say(ClientEvent::Started(started())),
            delta("par"),
            fail(cause.clone(), 0),
        ];
        let server = Server::start(script).await;
        let body = request(json!({"stream": true, "stream_options": {"include_usage": true}}));
        let reply = server.chat(body).await;
        assert_eq!(reply.status, 200);
        let events = reply.chunks();
        let (error, before) = events.split_last().expect("events");
        assert_eq!(error["error"]["code"], case.in_stream, "{cause:?}");
        assert_eq!(error["error"]["type"], case.kind);
        assert_eq!(error["error"]["stoa"]["cause"], case.fine);
        assert!(error["error"].get("param").is_some());
        assert!(!reply.text().contains("[DONE]"));
        assert!(
            before.iter().all(|chunk| chunk["usage"].is_null()),
            "no counts after an error"
        );
    }
}

#[tokio::test]
async fn an_error_says_what_was_billed() {
    let script = vec![
        Step::Say(ClientEvent::Started(started())),
        delta("par"),
        fail(Cause::ProviderLost, 1_500),
    ];
    let server = Server::start(script).await;
    let error = server
        .chat(request(json!({"stream": true})))
        .await
        .chunks()
        .pop()
        .expect("events");
    assert_eq!(error["error"]["stoa"]["billed"], "0.0015");
    let message = error["error"]["message"].as_str().expect("text");
    assert!(
        message.ends_with("0.0015 was billed for what was delivered."),
        "{message}"
    );
}

#[tokio::test]
async fn figures_of_a_cause_are_there_for_machines() {
    let facts = |cause| async {
        Server::start(vec![fail(cause, 0)])
            .await
            .chat(request(json!({})))
            .await
            .json()["error"]
            .clone()
    };
    let ceiling = facts(Cause::PriceCeiling {
        lowest: Price::per_million(amount(400_000)),
    })
    .await;
    assert_eq!(ceiling["stoa"]["lowest_price"], "0.4");
    let policy = facts(Cause::NoProviderMatches {
        excluded: BTreeMap::from([("region".to_owned(), 3)]),
    })
    .await;
    assert_eq!(policy["stoa"]["excluded"], json!({"region": 3}));
    let full = facts(Cause::OverCapacity { retry_ms: 700 }).await;
    assert_eq!(full["stoa"]["queue_ms_estimate"], 700);
    let cap = facts(Cause::CapReached {
        needed: amount(9),
        choices: 1,
        available: amount(3),
    })
    .await;
    assert_eq!(
        (&cap["stoa"]["needed"], &cap["stoa"]["available"]),
        (&json!("0.000009"), &json!("0.000003"))
    );
    let context = facts(Cause::ContextLength {
        tokens: 2000,
        context: 1024,
    })
    .await;
    assert_eq!(
        (&context["param"], &context["stoa"]["context_length"]),
        (&json!("messages"), &json!(1024))
    );
    assert_eq!(
        facts(Cause::UnknownModel {
            model: "m".to_owned()
        })
        .await["param"],
        "model"
    );
}

#[tokio::test]
async fn a_router_that_falls_silent_is_an_error_and_never_an_empty_success() {
    for script in [vec![], vec![Step::Say(ClientEvent::Started(started()))]] {
        let begun = !script.is_empty();
        let server = Server::start(script).await;
        let whole = server.chat(request(json!({}))).await;
        assert_eq!(whole.error(), (500, "internal_error".to_owned(), true));
        let stream = server.chat(request(json!({"stream": true}))).await;
        if begun {
            assert_eq!(
                stream.chunks().pop().expect("an event")["error"]["code"],
                "internal_error"
            );
            assert!(!stream.text().contains("[DONE]"));
        } else {
            assert_eq!(stream.error().0, 500);
        }
    }
}

#[tokio::test]
async fn text_that_contradicts_the_final_answer_is_an_error_that_names_the_charge() {
    let server = Server::start(answer(&["five"], content("four", &[]))).await;
    let reply = server.chat(request(json!({"stream": true}))).await;
    let error = reply.chunks().pop().expect("events");
    assert_eq!(error["error"]["code"], "internal_error");
    assert_eq!(error["error"]["stoa"]["billed"], "0.100003");
    assert!(!reply.text().contains("[DONE]"));
}

#[tokio::test]
async fn a_body_over_the_limit_is_413_and_one_at_the_limit_is_read() {
    let server = Server::start(answer(&["four"], content("four", &[]))).await;
    let mut body = request(json!({"metadata": {"pad": ""}})).to_string();
    let room = usize::try_from(BODY_MAX).expect("small") - body.len();
    body = request(json!({"metadata": {"pad": "x".repeat(room)}})).to_string();
    assert_eq!(body.len() as u64, BODY_MAX);
    assert_eq!(
        server
            .post("/v1/chat/completions", body.as_bytes())
            .await
            .status,
        200
    );
    body.push(' ');
    let reply = server.post("/v1/chat/completions", body.as_bytes()).await;
    assert_eq!(reply.error(), (413, "request_too_large".to_owned(), false));
    let huge = vec![b' '; 5 << 20];
    let reply = server.post("/v1/chat/completions", &huge).await;
    assert_eq!(reply.error(), (413, "request_too_large".to_owned(), false));
    assert_eq!(server.hall.submissions(), 1);
}

#[tokio::test]
async fn a_client_that_asks_before_uploading_is_refused_before_it_uploads() {
    let server = Server::start(Vec::new()).await;
    let mut stream = tokio::net::TcpStream::connect(server.address)
        .await
        .expect("listening");
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\nexpect: 100-continue\r\n\
         content-length: 99999999\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.expect("sent");
    let mut answer = vec![0; 12];
    stream.read_exact(&mut answer).await.expect("answered");
    assert_eq!(answer, b"HTTP/1.1 413");
}

#[tokio::test]
async fn an_upload_that_stalls_is_408() {
    let timings = Timings {
        upload: Duration::from_millis(100),
        ..quick()
    };
    let server = Server::with(Hall::new(Vec::new()), timings).await;
    let mut stream = tokio::net::TcpStream::connect(server.address)
        .await
        .expect("listening");
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\nconnection: close\r\n\
         content-length: 100\r\n\r\n{{"
    );
    stream.write_all(head.as_bytes()).await.expect("sent");
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.expect("answered");
    assert_eq!(
        Reply::parse(&bytes).error(),
        (408, "request_timeout".to_owned(), true)
    );
}

#[tokio::test]
async fn only_forms_and_encoded_bodies_are_refused_for_their_type() {
    let server = Server::start(answer(&["four"], content("four", &[]))).await;
    let body = request(json!({})).to_string();
    for (header, status) in [
        (("content-type", "application/json; charset=utf-8"), 200),
        (("content-type", "application/x-www-form-urlencoded"), 200),
        (("accept", "*/*"), 200),
        (("content-type", "multipart/form-data; boundary=x"), 415),
        (("content-type", "text/html"), 415),
        (("content-encoding", "gzip"), 415),
    ] {
        let reply = server
            .send(
                "POST",
                "/v1/chat/completions",
                &[AUTHORIZED, header],
                body.as_bytes(),
            )
            .await;
        assert_eq!(reply.status, status, "{header:?}");
    }
}

#[tokio::test]
async fn a_bad_body_is_400_and_never_500() {
    let server = Server::start(Vec::new()).await;
    let deep = "[".repeat(5_000);
    let bodies: [(&[u8], &str); 12] = [
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b"nonsense", "invalid_json"),
        (b"[]", "invalid_json"),
        (b"\"text\"", "invalid_json"),
        (b"null", "invalid_json"),
        (b"{} {}", "invalid_json"),
        (b"{\"model\":\"\xff\"}", "invalid_json"),
        (b"{\"model\":\"\\ud800\"}", "invalid_json"),
        (b"{\"model\":1e999}", "invalid_json"),
        (deep.as_bytes(), "invalid_json"),
        (b"{}", "missing_required_parameter"),
    ];
    for path in ["/v1/chat/completions", "/v1/completions"] {
        for (body, code) in bodies {
            let reply = server.post(path, body).await;
            assert_eq!(
                reply.error(),
                (400, code.to_owned(), false),
                "{}",
                String::from_utf8_lossy(body)
            );
        }
    }
    assert_eq!(server.hall.submissions(), 0);
}

#[tokio::test]
async fn a_prompt_that_is_too_long_is_named_as_the_request_named_it() {
    let cause = Cause::ContextLength {
        tokens: 2000,
        context: 1024,
    };
    let billed = amount(0);
    let server = Server::start(vec![Step::Say(ClientEvent::Failed(Failure::new(
        cause, billed,
    )))])
    .await;
    let chat = server.chat(request(json!({}))).await;
    assert_eq!(chat.json()["error"]["param"], "messages");
    let body = json!({"model": "stoa/tiny", "prompt": "long"}).to_string();
    let completion = server.post("/v1/completions", body.as_bytes()).await;
    assert_eq!(
        completion.error(),
        (400, "context_length_exceeded".to_owned(), false)
    );
    assert_eq!(completion.json()["error"]["param"], "prompt");
}
