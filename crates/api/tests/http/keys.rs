//! Keys: made, listed, rotated, revoked; what a limited one may not do.

use crate::support::*;
use serde_json::json;
use std::collections::BTreeSet;
use stoa_api::{Access, Grant, Need, Period, ROUTES, RateLimit, Scope, SpendLimit};
use stoa_nodes::client::{Cause, ClientEvent, Failure};
use stoa_types::{Timestamp, TokenAmount};

fn bearer(key: &str) -> String {
    format!("Bearer {key}")
}

/// One grant for each kind of limit, and a group's worth of routes each.
fn limited() -> Vec<Grant> {
    let routes = |scope| Grant {
        routes: Some(BTreeSet::from([scope])),
        ..Grant::default()
    };
    let mut grants: Vec<_> = Scope::ALL.into_iter().map(routes).collect();
    grants.push(Grant {
        models: Some(BTreeSet::from(["another".to_owned()])),
        ..Grant::default()
    });
    grants.push(Grant {
        spend_limit: Some(SpendLimit {
            amount: TokenAmount::from_units(1),
            period: Period::Day,
        }),
        ..Grant::default()
    });
    grants.push(Grant {
        rate_limit: Some(RateLimit {
            requests_per_minute: 100,
            tokens_per_minute: 100_000,
        }),
        ..Grant::default()
    });
    grants
}

const BODY: &[u8] =
    br#"{"model":"stoa/tiny","messages":[{"role":"user","content":"x"}],"prompt":"x","input":"x"}"#;

/// A body that every route with one accepts.
fn body(path: &str) -> &'static [u8] {
    if path.starts_with("/v1/stoa") {
        b"{}"
    } else {
        BODY
    }
}

#[tokio::test]
async fn every_route_refuses_every_key_whose_grant_does_not_reach_it_and_nothing_happens() {
    let hall = Hall::new(vec![Step::Hang]);
    let limited_keys: Vec<_> = limited()
        .into_iter()
        .enumerate()
        .map(|(n, grant)| {
            let secret = format!("limited {n}");
            hall.limited(&secret, grant.clone());
            (secret, grant)
        })
        .collect();
    let server = Server::with(hall, quick()).await;
    let before = server.hall.keys(alice()).len();
    let mut refused = 0;
    for route in ROUTES.iter().filter(|route| route.access == Access::Key) {
        for (secret, grant) in &limited_keys {
            let other_model = grant.models.is_some() && route.need == Need::Scope(Scope::Inference);
            if route.need.met_by(grant) && !other_model {
                continue;
            }
            let key = bearer(secret);
            let headers = [("authorization", key.as_str()), JSON];
            let reply = server
                .send(
                    route.method.as_str(),
                    route.example,
                    &headers,
                    body(route.path),
                )
                .await;
            let expected = (403, "key_scope".to_owned(), false);
            assert_eq!(
                reply.error(),
                expected,
                "{} {} with {grant:?}",
                route.method,
                route.path
            );
            refused += 1;
        }
    }
    assert!(refused > 40, "the matrix has {refused} refusals");
    assert_eq!(server.hall.submissions(), 0);
    assert_eq!(server.hall.keys(alice()).len(), before);
    assert!(
        server
            .hall
            .kept
            .kept
            .lock()
            .expect("not poisoned")
            .is_empty()
    );
}

#[tokio::test]
async fn a_key_opens_the_routes_of_its_groups() {
    let failure = Failure::new(Cause::ProviderDown, TokenAmount::ZERO);
    let hall = Hall::new(vec![Step::Say(ClientEvent::Failed(failure))]);
    for scope in Scope::ALL {
        let routes = Some(BTreeSet::from([scope]));
        hall.limited(
            scope.as_str(),
            Grant {
                routes,
                ..Grant::default()
            },
        );
    }
    let server = Server::with(hall, quick()).await;
    for route in ROUTES {
        let Need::Scope(scope) = route.need else {
            continue;
        };
        let key = bearer(scope.as_str());
        let headers = [("authorization", key.as_str()), JSON];
        let reply = server
            .send(
                route.method.as_str(),
                route.example,
                &headers,
                body(route.path),
            )
            .await;
        assert!(![401, 403].contains(&reply.status), "{}", route.path);
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_call_is_told_before_what_the_key_may_not_do() {
    let hall = Hall::new(Vec::new());
    let routes = Some(BTreeSet::from([Scope::Models]));
    hall.limited(
        "reader",
        Grant {
            routes,
            ..Grant::default()
        },
    );
    let server = Server::with(hall, quick()).await;
    let key = bearer("reader");
    for (body, code) in [("{", "invalid_json"), ("{}", "missing_required_parameter")] {
        let headers = [("authorization", key.as_str()), JSON];
        let reply = server
            .send("POST", "/v1/completions", &headers, body.as_bytes())
            .await;
        assert_eq!(reply.error(), (400, code.to_owned(), false));
    }
}

async fn create(server: &Server, body: serde_json::Value) -> serde_json::Value {
    let reply = server
        .post("/v1/stoa/keys", body.to_string().as_bytes())
        .await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

#[tokio::test]
async fn a_key_is_made_shown_once_rotated_and_revoked() {
    let server = Server::start(Vec::new()).await;
    let limits = json!({
        "name": "CI",
        "routes": ["inference", "models"],
        "models": ["stoa/tiny"],
        "spend_limit": {"amount": "1.5", "period": "day"},
        "rate_limit": {"requests_per_minute": 60, "tokens_per_minute": 10_000},
        "expires_in_seconds": 3600,
    });
    let made = create(&server, limits.clone()).await;
    let secret = made["secret"].as_str().expect("shown").to_owned();
    let id = made["id"].as_str().expect("an id").to_owned();
    for field in ["name", "routes", "models", "spend_limit", "rate_limit"] {
        assert_eq!(made[field], limits[field], "{field}");
    }
    assert_eq!(made["expires_at"], NOW.secs() + 3600);
    let listed = server.get("/v1/stoa/keys").await;
    assert!(!listed.text().contains(&secret) && listed.text().contains(&id));
    let one = server.get(&format!("/v1/stoa/keys/{id}")).await.json();
    assert_eq!((&one["id"], one.get("secret")), (&made["id"], None));

    let status = async |key: &str| {
        let key = bearer(key);
        let headers = [("authorization", key.as_str())];
        server.send("GET", "/v1/models", &headers, b"").await.status
    };
    assert_eq!(status(&secret).await, 200);
    let rotated = server
        .post(&format!("/v1/stoa/keys/{id}/rotate"), b"")
        .await
        .json();
    let next = rotated["secret"].as_str().expect("shown").to_owned();
    assert_eq!((status(&secret).await, status(&next).await), (401, 200));
    let path = format!("/v1/stoa/keys/{id}");
    let revoked = server.send("DELETE", &path, &[AUTHORIZED], b"").await;
    assert_eq!(revoked.json()["revoked_at"], NOW.secs());
    let key = bearer(&next);
    let headers = [("authorization", key.as_str())];
    let reply = server.send("GET", "/v1/models", &headers, b"").await;
    assert_eq!(reply.error(), (401, "key_revoked".to_owned(), false));
    let reply = server.post(&format!("{path}/rotate"), b"{}").await;
    assert_eq!(reply.error(), (409, "invalid_state".to_owned(), false));
}

#[tokio::test]
async fn an_expired_key_is_no_credential() {
    let hall = Hall::new(Vec::new());
    let expires_at = Some(Timestamp(NOW.0));
    let owner = stoa_api::Gateway::authenticate(&hall, KEY).expect("alice's");
    let new = stoa_api::NewKey {
        lifetime: Some(stoa_types::Millis(0)),
        ..Default::default()
    };
    assert_eq!(hall.key("old", new).grant.expires_at, expires_at);
    assert_eq!(owner.address, alice());
    let server = Server::with(hall, quick()).await;
    let reply = server
        .send("GET", "/v1/models", &[("x-api-key", "old")], b"")
        .await;
    assert_eq!(reply.error(), (401, "invalid_api_key".to_owned(), false));
    assert_eq!(reply.json()["error"]["stoa"]["cause"], "key_expired");
}

#[tokio::test]
async fn another_account_s_key_looks_exactly_like_none() {
    let server = Server::start(Vec::new()).await;
    let id = create(&server, json!({})).await["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    let bob = [("authorization", "Bearer a key of bob"), JSON];
    for (method, suffix) in [("GET", ""), ("DELETE", ""), ("POST", "/rotate")] {
        let mut shown = Vec::new();
        for key in [id.as_str(), "key_00000000000000ff", "nonsense"] {
            let path = format!("/v1/stoa/keys/{key}{suffix}");
            let reply = server.send(method, &path, &bob, b"").await;
            assert_eq!(
                reply.error(),
                (404, "not_found".to_owned(), false),
                "{method} {path}"
            );
            let mut json = reply.json();
            json["error"]["stoa"]["request_id"] = "".into();
            shown.push(json);
        }
        assert!(shown.iter().all(|json| *json == shown[0]));
    }
    let listed = server.send("GET", "/v1/stoa/keys", &bob, b"").await;
    assert!(!listed.text().contains(&id));
    assert_eq!(
        server.get(&format!("/v1/stoa/keys/{id}")).await.json()["revoked_at"],
        json!(null)
    );
}

#[tokio::test]
async fn the_configured_key_cannot_be_changed_from_outside() {
    let server = Server::start(Vec::new()).await;
    let keys = server.get("/v1/stoa/keys").await.json();
    let configured = keys["data"].as_array().expect("a list").iter();
    let mut configured =
        configured.filter(|key| key["configured"] == true && key["revoked_at"].is_null());
    let id = configured.next().expect("alice's own")["id"]
        .as_str()
        .expect("text")
        .to_owned();
    let path = format!("/v1/stoa/keys/{id}");
    let reply = server.send("DELETE", &path, &[AUTHORIZED], b"").await;
    assert_eq!(reply.error(), (409, "invalid_state".to_owned(), false));
    assert_eq!(server.get("/v1/models").await.status, 200);
}

#[tokio::test]
async fn a_misspelt_or_senseless_limit_makes_no_key() {
    let server = Server::start(Vec::new()).await;
    let before = server.hall.keys(alice()).len();
    for (body, param) in [
        (
            json!({"spend_limt": {"amount": "1", "period": "day"}}),
            "spend_limt",
        ),
        (
            json!({"spend_limit": {"amount": 1, "period": "day"}}),
            "spend_limit.amount",
        ),
        (
            json!({"spend_limit": {"amount": "1", "period": "week"}}),
            "spend_limit.period",
        ),
        (
            json!({"spend_limit": {"amount": "1"}}),
            "spend_limit.period",
        ),
        (
            json!({"spend_limit": {"amount": "-1", "period": "day"}}),
            "spend_limit.amount",
        ),
        (
            json!({"rate_limit": {"requests_per_minute": 5}}),
            "rate_limit.tokens_per_minute",
        ),
        (
            json!({"rate_limit": {"requests_per_minute": 0, "tokens_per_minute": 1}}),
            "rate_limit.requests_per_minute",
        ),
        (json!({"routes": []}), "routes"),
        (json!({"routes": ["keys"]}), "routes[0]"),
        (json!({"models": [""]}), "models[0]"),
        (json!({"expires_in_seconds": 0}), "expires_in_seconds"),
        (json!({"name": "a\nb"}), "name"),
    ] {
        let reply = server
            .post("/v1/stoa/keys", body.to_string().as_bytes())
            .await;
        assert_eq!(reply.status, 400, "{body}");
        assert_eq!(reply.json()["error"]["param"], param, "{body}");
    }
    assert_eq!(server.hall.keys(alice()).len(), before);
}

#[tokio::test]
async fn a_used_up_budget_says_when_it_begins_anew() {
    let cause = Cause::BudgetExceeded {
        needed: TokenAmount::from_units(9),
        choices: 1,
        available: TokenAmount::from_units(3),
        resets_at: Some(Timestamp(u64::MAX / 2)),
    };
    let failure = Failure::new(cause, TokenAmount::ZERO);
    let server = Server::start(vec![Step::Say(ClientEvent::Failed(failure))]).await;
    let reply = server.chat(request(json!({}))).await;
    assert_eq!(reply.error(), (429, "budget_exceeded".to_owned(), false));
    let error = &reply.json()["error"];
    assert_eq!(error["type"], "insufficient_quota");
    assert_eq!(error["stoa"]["available"], "0.000003");
    let wait: u64 = reply.headers["retry-after"].parse().expect("seconds");
    assert!(
        wait > 1_000_000,
        "true even where no client waits that long: {wait}"
    );
}

use stoa_api::Gateway;

#[tokio::test]
async fn a_limited_key_reads_itself_and_no_other_key_and_learns_what_it_has_left() {
    let failure = Failure::new(Cause::ProviderDown, TokenAmount::ZERO);
    let hall = Hall::new(vec![Step::Say(ClientEvent::Failed(failure))]);
    let spend_limit = Some(SpendLimit {
        amount: TokenAmount::from_units(5),
        period: Period::Day,
    });
    let own = hall.limited(
        "limited",
        Grant {
            spend_limit,
            ..Grant::default()
        },
    );
    let server = Server::with(hall, quick()).await;
    let key = bearer("limited");
    let headers = [("authorization", key.as_str()), JSON];
    let own_row = server
        .send("GET", "/v1/stoa/keys/self", &headers, b"")
        .await;
    let row = own_row.json();
    assert_eq!(row["id"], own.id.to_string());
    assert_eq!(
        (&row["spent"], &row["alerts_percent"]),
        (&json!("0.000003"), &json!([50]))
    );
    assert!(row.get("secret").is_none());
    let by_id = format!("/v1/stoa/keys/{}", own.id);
    for (method, path) in [
        ("GET", by_id.as_str()),
        ("DELETE", by_id.as_str()),
        ("GET", "/v1/stoa/keys"),
    ] {
        let reply = server.send(method, path, &headers, b"").await;
        assert_eq!(
            reply.error(),
            (403, "key_scope".to_owned(), false),
            "{method} {path}"
        );
    }
    let call = server
        .send("POST", "/v1/chat/completions", &headers, BODY)
        .await;
    assert_eq!(call.headers["x-stoa-budget-remaining"], "0.000002");
    let free = server.chat(request(json!({}))).await;
    assert!(!free.headers.contains_key("x-stoa-budget-remaining"));
}

#[tokio::test]
async fn a_limited_key_sees_no_document_of_a_call_that_came_with_another_key() {
    let hall = Hall::new(Vec::new());
    let routes = Some(BTreeSet::from([Scope::Jobs]));
    hall.limited(
        "auditor",
        Grant {
            routes,
            ..Grant::default()
        },
    );
    let server = Server::with(hall, quick()).await;
    let key = bearer("auditor");
    for path in ["/v1/receipts/", "/v1/stoa/receipts/", "/v1/stoa/explain/"] {
        let path = format!("{path}{JOB}");
        assert_eq!(server.get(&path).await.status, 200, "{path}");
        let headers = [("authorization", key.as_str())];
        assert_eq!(
            server.send("GET", &path, &headers, b"").await.status,
            404,
            "{path}"
        );
    }
    let headers = [("authorization", key.as_str())];
    let jobs = server.send("GET", "/v1/stoa/jobs", &headers, b"").await;
    assert_eq!(jobs.json()["data"], json!([]));
}
