//! Routes that only read.

use crate::support::*;
use serde_json::json;
use stoa_types::SignedReceipt;

#[tokio::test]
async fn models_are_listed_and_found_by_names_with_slashes() {
    let server = Server::start(Vec::new()).await;
    let list = server.get("/v1/models").await.json();
    assert_eq!(list["object"], "list");
    let one = server.get("/v1/models/stoa/tiny").await;
    assert_eq!(one.status, 200);
    assert_eq!(list["data"], json!([one.json()]));
    let model = one.json();
    assert_eq!(model["object"], "model");
    assert_eq!(model["created"], 1_790_000_000);
    assert_eq!(model["pricing"]["prompt"], "0.0000001");
    assert_eq!(model["context_length"], 1024);
    assert_eq!(model["stoa"]["providers_online"], 3);
    assert_eq!(server.get("/v1/models/stoa%2Ftiny").await.status, 200);
}

#[tokio::test]
async fn an_unknown_model_is_404_with_its_own_code() {
    let server = Server::start(Vec::new()).await;
    let reply = server.get("/v1/models/gpt-99").await;
    assert_eq!(reply.error(), (404, "model_not_found".to_owned(), false));
    assert!(
        reply.json()["error"]["message"]
            .as_str()
            .expect("text")
            .contains("gpt-99")
    );
}

#[tokio::test]
async fn a_receipt_is_the_same_at_both_routes_and_by_every_id() {
    let server = Server::start(Vec::new()).await;
    let one = server.get(&format!("/v1/receipts/{JOB}")).await;
    assert_eq!(one.status, 200);
    let bare = hex::encode(JOB.0);
    for path in [
        format!("/v1/stoa/receipts/{JOB}"),
        format!("/v1/receipts/{bare}"),
        format!("/v1/receipts/chatcmpl-{bare}"),
    ] {
        assert_eq!(server.get(&path).await.body, one.body, "{path}");
    }
    let body = one.json();
    assert_eq!(body["id"], JOB.to_string());
    assert_eq!(body["state"], "delivered");
    let receipt: SignedReceipt =
        serde_json::from_value(body["receipt"].clone()).expect("a receipt");
    assert_eq!(stoa_verify::check_signatures(&receipt), Ok(()));
    assert!(body.get("proof").is_some_and(serde_json::Value::is_null));
}

#[tokio::test]
async fn explanation_limits_providers_and_account_are_served() {
    let server = Server::start(Vec::new()).await;
    assert_eq!(
        server.get(&format!("/v1/stoa/explain/{JOB}")).await.json()["seed"],
        7
    );
    assert_eq!(
        server.get("/v1/stoa/limits").await.json()["body_bytes_max"],
        BODY_MAX
    );
    assert_eq!(
        server.get("/v1/stoa/providers").await.json()["data"][0]["region"],
        "XA"
    );
    assert_eq!(
        server.get("/v1/stoa/account").await.json()["available"],
        "48250000"
    );
    let bob = [("authorization", "Bearer a key of bob")];
    assert_eq!(
        server
            .send("GET", "/v1/stoa/account", &bob, b"")
            .await
            .error()
            .0,
        404
    );
}

#[tokio::test]
async fn readiness_names_the_failing_part_and_nothing_secret() {
    let mut hall = Hall::new(Vec::new());
    hall.ready = false;
    let server = Server::with(hall, quick()).await;
    let reply = server.send("GET", "/health/ready", &[], b"").await;
    assert_eq!(reply.status, 503);
    assert_eq!(
        reply.json(),
        json!({"status": "not ready", "failing": ["store"]})
    );
    assert_eq!(server.send("GET", "/healthz", &[], b"").await.status, 200);
}

#[tokio::test]
async fn every_answer_has_its_own_request_id() {
    let server = Server::start(Vec::new()).await;
    let mut ids = std::collections::BTreeSet::new();
    for path in ["/health", "/v1/models", "/v1/nothing", "/v1/models"] {
        let id = server.get(path).await.headers["x-request-id"].clone();
        assert_eq!(id.len(), 66);
        assert!(ids.insert(id));
    }
}
