//! `Idempotency-Key`: one request, one bill, the same bytes.

use crate::support::*;
use serde_json::json;
use std::sync::atomic::Ordering;
use std::time::Duration;
use stoa_api::{Fate, Grant, Kept};
use stoa_nodes::client::{Cause, ClientEvent, Failure};
use stoa_types::TokenAmount;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const ONCE: (&str, &str) = ("idempotency-key", "order 7");

async fn server(script: Vec<Step>) -> Server {
    let mut hall = Hall::new(script);
    hall.fresh_jobs = true;
    Server::with(hall, quick()).await
}

async fn once(server: &Server, body: &serde_json::Value) -> Reply {
    let text = body.to_string();
    let headers = [AUTHORIZED, JSON, ONCE];
    server
        .send("POST", "/v1/chat/completions", &headers, text.as_bytes())
        .await
}

fn answered() -> Vec<Step> {
    answer(&["fo", "ur"], content("four", &[]))
}

fn failing(cause: Cause) -> Vec<Step> {
    let billed = TokenAmount::ZERO;
    vec![Step::Say(ClientEvent::Failed(Failure::new(cause, billed)))]
}

fn replayed(reply: &Reply) -> bool {
    reply
        .headers
        .get("x-stoa-idempotent-replay")
        .is_some_and(|value| value == "true")
}

#[tokio::test]
async fn a_request_sent_again_gets_the_same_bytes_and_is_run_once() {
    for stream in [false, true] {
        let server = server(answered()).await;
        let body = request(json!({"stream": stream}));
        let first = once(&server, &body).await;
        assert_eq!(first.status, 200, "{}", first.text());
        assert!(!replayed(&first));
        for _ in 0..3 {
            let again = once(&server, &body).await;
            assert!(replayed(&again));
            assert_eq!((again.status, &again.body), (200, &first.body));
            for name in [
                "content-type",
                "x-request-id",
                "x-stoa-job",
                "x-stoa-provider",
            ] {
                assert_eq!(again.headers[name], first.headers[name], "{name}");
            }
        }
        assert_eq!(server.hall.submissions(), 1);
        let plain = server.chat(body).await;
        assert_eq!(plain.status, 200);
        assert_eq!(
            server.hall.submissions(),
            2,
            "without the header nothing is guessed"
        );
    }
}

#[tokio::test]
async fn what_is_kept_cannot_be_read_without_the_key_and_the_header() {
    let server = server(answered()).await;
    once(&server, &request(json!({}))).await;
    let kept = server.hall.kept.kept.lock().expect("not poisoned");
    let Some(Kept::Prepared(_, sealed)) = kept.values().next() else {
        panic!("nothing is kept");
    };
    let text = String::from_utf8_lossy(sealed);
    assert!(!text.contains("four") && !text.contains("order"), "{text}");
}

#[tokio::test]
async fn another_body_is_refused_and_changes_nothing() {
    let server = server(answered()).await;
    let first = once(&server, &request(json!({}))).await;
    let other = once(&server, &request(json!({"seed": 1}))).await;
    assert_eq!(
        other.error(),
        (422, "idempotency_mismatch".to_owned(), false)
    );
    let again = once(&server, &request(json!({}))).await;
    assert_eq!(again.body, first.body);
    assert_eq!(server.hall.submissions(), 1);
}

#[tokio::test]
async fn another_account_or_route_has_its_own_header_and_another_key_of_the_account_none() {
    let server = server(answered()).await;
    server.hall.limited("second", Grant::default());
    once(&server, &request(json!({}))).await;
    let text = request(json!({})).to_string();
    let send = async |key: &str| {
        let headers = [("x-api-key", key), JSON, ONCE];
        server
            .send("POST", "/v1/chat/completions", &headers, text.as_bytes())
            .await
    };
    assert_eq!(send(BOB_KEY).await.status, 200);
    assert_eq!(server.hall.submissions(), 2);
    let second = send("second").await;
    assert_eq!(
        second.error(),
        (422, "idempotency_mismatch".to_owned(), false)
    );
    assert_eq!(second.json()["error"]["stoa"]["cause"], "another_api_key");
    let body = json!({"model": "stoa/tiny", "prompt": "2+2?"}).to_string();
    let headers = [AUTHORIZED, JSON, ONCE];
    let reply = server
        .send("POST", "/v1/completions", &headers, body.as_bytes())
        .await;
    assert_eq!(reply.status, 200);
    assert_eq!(server.hall.submissions(), 3);
}

#[tokio::test]
async fn a_request_under_way_is_read_along_from_its_start() {
    let mut script = answered();
    script.insert(2, Step::Wait(300));
    let server = server(script).await;
    let body = request(json!({"stream": true}));
    let (first, second) = tokio::join!(once(&server, &body), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        once(&server, &body).await
    });
    assert_eq!(first.body, second.body);
    assert!(replayed(&second) && first.events().last() == Some(&"[DONE]"));
    assert_eq!(server.hall.submissions(), 1);
}

#[tokio::test]
async fn a_client_that_leaves_finds_its_answer_when_it_comes_back() {
    let mut script = answered();
    script.insert(2, Step::Wait(200));
    let server = server(script).await;
    let body = request(json!({"stream": true}));
    let text = body.to_string();
    let headers = [AUTHORIZED, JSON, ONCE];
    let mut left = server
        .open("POST", "/v1/chat/completions", &headers, text.as_bytes())
        .await;
    let mut some = [0; 64];
    left.read_exact(&mut some).await.expect("the answer begins");
    left.shutdown().await.expect("shut");
    drop(left);
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert!(!server.hall.was_cancelled.load(Ordering::SeqCst));
    let again = once(&server, &body).await;
    assert!(replayed(&again) && again.events().last() == Some(&"[DONE]"));
    assert_eq!(server.hall.submissions(), 1);
}

#[tokio::test]
async fn a_failure_worth_a_retry_is_not_remembered_and_a_final_one_is() {
    let down = server(failing(Cause::ProviderDown)).await;
    for n in 1..=3 {
        assert_eq!(once(&down, &request(json!({}))).await.status, 502);
        assert_eq!(down.hall.submissions(), n);
    }
    let refused = server(failing(Cause::NoAllotment)).await;
    let first = once(&refused, &request(json!({}))).await;
    let again = once(&refused, &request(json!({}))).await;
    assert_eq!(first.error(), (429, "insufficient_quota".to_owned(), false));
    assert_eq!((again.status, &again.body), (429, &first.body));
    assert_eq!(refused.hall.submissions(), 1);
}

#[tokio::test]
async fn a_stream_that_broke_off_unbilled_may_be_run_again() {
    let mut script = vec![Step::Say(ClientEvent::Started(started())), delta("fo")];
    script.extend(failing(Cause::ProviderLost));
    let server = server(script).await;
    let body = request(json!({"stream": true}));
    for n in 1..=2 {
        let reply = once(&server, &body).await;
        assert!(reply.text().contains("provider_lost"), "{}", reply.text());
        assert_eq!(server.hall.submissions(), n);
    }
}

/// As after a crash before the end was told: the answer is kept or not, the call was charged or not.
async fn crashed(fate: Fate, keeps: bool) -> (Server, Reply, Reply) {
    let server = server(answered()).await;
    server.hall.kept.loses.store(!keeps, Ordering::SeqCst);
    let body = request(json!({}));
    let first = once(&server, &body).await;
    {
        let kept = server.hall.kept.kept.lock().expect("not poisoned");
        let claim = match kept.values().next() {
            Some(Kept::Prepared(claim, _)) if keeps => *claim,
            Some(Kept::Claimed(claim)) if !keeps => *claim,
            other => panic!("{other:?}"),
        };
        let mut fates = server.hall.fates.lock().expect("not poisoned");
        fates.insert(claim.job, fate);
    }
    let reply = once(&server, &body).await;
    (server, first, reply)
}

#[tokio::test]
async fn after_a_crash_a_charged_request_is_not_run_again_and_an_uncharged_one_is() {
    let (server, _, reply) = crashed(Fate::Charged, false).await;
    assert_eq!(
        reply.error(),
        (409, "idempotency_answer_lost".to_owned(), false)
    );
    assert_eq!(server.hall.submissions(), 1);
    let (server, first, reply) = crashed(Fate::Charged, true).await;
    assert_eq!((reply.status, &reply.body), (200, &first.body));
    assert!(replayed(&reply));
    assert_eq!(server.hall.submissions(), 1);
    for keeps in [false, true] {
        let (server, _, reply) = crashed(Fate::Nothing, keeps).await;
        assert_eq!(reply.status, 200);
        assert!(!replayed(&reply), "what was never charged is no answer");
        assert_eq!(server.hall.submissions(), 2);
    }
}

#[tokio::test]
async fn an_answer_is_kept_before_its_call_can_be_charged() {
    for stream in [false, true] {
        let mut script = answered();
        script.truncate(script.len() - 1);
        script.push(Step::Hang);
        let server = server(script).await;
        let text = request(json!({"stream": stream})).to_string();
        let headers = [AUTHORIZED, JSON, ONCE];
        let _asking = server
            .open("POST", "/v1/chat/completions", &headers, text.as_bytes())
            .await;
        let mut told = server.hall.delivered.subscribe();
        let told = told.wait_for(Option::is_some);
        let told = tokio::time::timeout(Duration::from_secs(20), told).await;
        assert!(told.is_ok(), "the call is delivered");
        let kept = server.hall.kept.kept.lock().expect("not poisoned");
        let kept = kept.values().next();
        assert!(matches!(kept, Some(Kept::Prepared(..))), "{kept:?}");
    }
}

#[tokio::test]
async fn a_request_that_still_runs_and_cannot_be_read_along_with_is_not_run_beside_it() {
    for keeps in [false, true] {
        let (server, _, reply) = crashed(Fate::UnderWay, keeps).await;
        assert_eq!(
            reply.error(),
            (409, "idempotency_in_progress".to_owned(), true)
        );
        assert_eq!(server.hall.submissions(), 1);
    }
}

#[tokio::test]
async fn a_key_is_rotated_once_for_one_header_so_that_a_retry_does_not_end_the_old_secret_early() {
    let server = server(Vec::new()).await;
    let id = |n: u8| format!("/v1/stoa/keys/key_{n:016x}/rotate");
    for secret in ["first", "second"] {
        server.hall.limited(secret, Grant::default());
    }
    let headers = [AUTHORIZED, JSON, ONCE];
    let body = br#"{"old_valid_seconds":60}"#;
    let first = server.send("POST", &id(1), &headers, body).await;
    let again = server.send("POST", &id(1), &headers, body).await;
    assert_eq!((first.status, &first.body), (200, &again.body));
    let old = [("authorization", "Bearer first")];
    assert_eq!(
        server.send("GET", "/v1/models", &old, b"").await.status,
        200
    );
    let other = server.send("POST", &id(2), &headers, body).await;
    let expected = (422, "idempotency_mismatch".to_owned(), false);
    assert_eq!(other.error(), expected, "another key is another request");
}

#[tokio::test]
async fn nothing_is_ordered_before_the_claim_is_kept() {
    let server = server(answered()).await;
    server.hall.kept.full.store(true, Ordering::SeqCst);
    let reply = once(&server, &request(json!({}))).await;
    assert_eq!(reply.error(), (503, "router_overloaded".to_owned(), true));
    assert_eq!(server.hall.submissions(), 0);
}

#[tokio::test]
async fn a_malformed_header_is_refused_by_name() {
    let server = server(answered()).await;
    let long = "x".repeat(256);
    let body = request(json!({})).to_string();
    for headers in [
        vec![AUTHORIZED, JSON, ("idempotency-key", "")],
        vec![AUTHORIZED, JSON, ("idempotency-key", &long)],
        vec![AUTHORIZED, JSON, ONCE, ("idempotency-key", "second")],
    ] {
        let reply = server
            .send("POST", "/v1/chat/completions", &headers, body.as_bytes())
            .await;
        assert_eq!(reply.error(), (400, "invalid_value".to_owned(), false));
        assert_eq!(reply.json()["error"]["param"], "Idempotency-Key");
    }
    assert_eq!(server.hall.submissions(), 0);
}

#[tokio::test]
async fn a_key_is_made_once_for_one_header() {
    let server = server(Vec::new()).await;
    let headers = [AUTHORIZED, JSON, ONCE];
    let first = server.send("POST", "/v1/stoa/keys", &headers, b"{}").await;
    let again = server.send("POST", "/v1/stoa/keys", &headers, b"{}").await;
    assert_eq!((first.status, &first.body), (200, &again.body));
}
