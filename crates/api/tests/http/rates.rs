//! Rate limits, as clients see them.

use crate::support::*;
use serde_json::json;
use stoa_api::{Access, KeyHash, Need, ROUTES, RateLimit, Scope};
use stoa_nodes::client::Cause;

async fn server(requests: u32, refuses: Option<Cause>) -> Server {
    let mut hall = Hall::new(answer(&["four"], content("four", &[])));
    hall.rates = RateLimit {
        requests_per_minute: requests,
        tokens_per_minute: 10_000_000,
    };
    hall.reads_per_minute = 60;
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
    assert_eq!(
        models.headers["x-ratelimit-limit-requests"], "60",
        "no call"
    );
    assert!(!models.headers.contains_key("x-ratelimit-limit-tokens"));
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

#[tokio::test]
async fn what_is_read_by_key_has_a_rate_of_its_own_however_many_keys_the_account_has() {
    let mut hall = Hall::new(answer(&["four"], content("four", &[])));
    hall.reads_per_minute = 3;
    let other = "sk-stoa-another-of-alice";
    hall.ring
        .lock()
        .expect("no panic")
        .add(KeyHash::of(other), alice());
    let server = Server::with(hall, quick()).await;
    let by = |key: &'static str| [("x-api-key", key), JSON];
    for (key, left) in [(KEY, "2"), (other, "1"), (KEY, "0")] {
        let reply = server.send("GET", "/v1/stoa/jobs", &by(key), b"").await;
        assert_eq!(reply.status, 200);
        assert_eq!(reply.headers["x-ratelimit-limit-requests"], "3");
        assert_eq!(reply.headers["x-ratelimit-remaining-requests"], left);
    }
    let unpaid = ROUTES.iter().filter(|route| route.access == Access::Key);
    let others = [Need::Scope(Scope::Inference), Need::Unlimited];
    let unpaid = unpaid.filter(|route| !others.contains(&route.need));
    let mut refused = 0;
    for route in unpaid {
        let method = route.method.as_str();
        let reply = server.send(method, route.example, &by(other), b"").await;
        assert_eq!(
            reply.error(),
            (429, "rate_limit_exceeded".to_owned(), true),
            "{}",
            route.path
        );
        let wait: u64 = reply.headers["retry-after-ms"].parse().expect("a number");
        assert!((15_000..=25_000).contains(&wait), "{wait}");
        assert!(reply.headers.contains_key("retry-after"));
        assert!(reply.text().contains("more than 3 requests a minute"));
        refused += 1;
    }
    assert!(refused >= 8, "{refused} routes");
    assert_eq!(server.hall.submissions(), 0);
    // Its calls have their own, and so has another account.
    assert_eq!(server.chat(request(json!({}))).await.status, 200);
    let bob = server.send("GET", "/v1/stoa/jobs", &by(BOB_KEY), b"").await;
    assert_eq!(bob.status, 200);
}

#[tokio::test]
async fn whoever_exhausts_the_reads_of_an_account_by_a_key_that_leaked_does_not_keep_its_owner_from_revoking_it()
 {
    let mut hall = Hall::new(answer(&["four"], content("four", &[])));
    hall.reads_per_minute = 2;
    let server = Server::with(hall, quick()).await;
    let by = [("x-api-key", KEY), JSON];
    for status in [200, 200, 429] {
        let read = server.send("GET", "/v1/stoa/jobs", &by, b"").await;
        assert_eq!(read.status, status);
    }
    let managing = ROUTES.iter().filter(|route| route.access == Access::Key);
    let managing = managing.filter(|route| route.need == Need::Unlimited);
    let mut answered = Vec::new();
    for route in managing {
        let method = route.method.as_str();
        let reply = server.send(method, route.example, &by, b"{}").await;
        answered.push((route.path, reply.status));
    }
    assert!(answered.len() >= 3, "{answered:?}");
    for (path, status) in &answered[..2] {
        assert_ne!(*status, 429, "{path}");
    }
    // They have a rate, too.
    for (path, status) in &answered[2..] {
        assert_eq!(*status, 429, "{path}");
    }
}
