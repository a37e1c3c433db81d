//! Rate limits, as clients see them.

use crate::support::*;
use serde_json::json;
use stoa_api::RateLimit;
use stoa_nodes::client::Cause;

async fn server(requests: u32, refuses: Option<Cause>) -> Server {
    let mut hall = Hall::new(answer(&["four"], content("four", &[])));
    hall.rates = RateLimit {
        requests_per_minute: requests,
        tokens_per_minute: 10_000_000,
    };
    hall.refuses = refuses;
    Server::with(hall, quick()).await
}

#[tokio::test]
async fn every_paid_answer_says_where_its_caller_stands() {
    let server = server(600, None).await;
    let reply = server.chat(request(json!({"stream": true}))).await;
    assert_eq!(reply.headers["x-ratelimit-limit-requests"], "600");
    assert_eq!(reply.headers["x-ratelimit-limit-tokens"], "10000000");
    let left: u32 = reply.headers["x-ratelimit-remaining-requests"]
        .parse()
        .expect("a number");
    assert!(left >= 599);
    assert!(reply.headers["x-ratelimit-reset-requests"].ends_with("s"));
    let refused = server.chat(json!({})).await;
    assert_eq!(refused.status, 400);
    assert!(
        refused.headers.contains_key("x-ratelimit-remaining-tokens"),
        "errors too"
    );
    let models = server.get("/v1/models").await;
    assert!(!models.headers.contains_key("x-ratelimit-limit-requests"));
    let stranger = server.send("POST", "/v1/completions", &[], b"{}").await;
    assert!(!stranger.headers.contains_key("x-ratelimit-limit-requests"));
}

#[tokio::test]
async fn a_caller_above_its_limit_hears_when_to_come_back_and_nothing_is_submitted() {
    let server = server(1, None).await;
    assert_eq!(server.chat(request(json!({}))).await.status, 200);
    let reply = server.chat(request(json!({}))).await;
    assert_eq!(reply.error(), (429, "rate_limit_exceeded".to_owned(), true));
    assert_eq!(reply.json()["error"]["type"], "rate_limit_error");
    let wait: u64 = reply.headers["retry-after-ms"].parse().expect("a number");
    assert!((58_000..=75_000).contains(&wait), "{wait}");
    assert_eq!(reply.headers["x-ratelimit-remaining-requests"], "0");
    assert_eq!(server.hall.submissions(), 1);
    // A replay would not be a call: it costs none.
    let other = [("x-api-key", BOB_KEY), JSON];
    let body = request(json!({})).to_string();
    let bob = server
        .send("POST", "/v1/chat/completions", &other, body.as_bytes())
        .await;
    assert_eq!(bob.status, 200, "another account has its own");
}

#[tokio::test]
async fn who_cannot_pay_is_told_that_and_not_to_come_back_soon() {
    let server = server(1, Some(Cause::NoAllotment)).await;
    server.chat(request(json!({}))).await;
    let reply = server.chat(request(json!({}))).await;
    assert_eq!(reply.error(), (429, "insufficient_quota".to_owned(), false));
}
