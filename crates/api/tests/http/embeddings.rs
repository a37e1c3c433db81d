//! `POST /v1/embeddings`: what a client gets of the vectors that a router took, and what it is told where there are none.

use crate::support::*;
use serde_json::{Value, json};
use stoa_api::{Grant, Scope};
use stoa_nodes::client::{Cause, ClientEvent, Failure};
use stoa_nodes::work::{Input, Prompt};
use stoa_types::{SignedReceipt, TokenAmount};
use stoa_verify::{Content, vector_line};

const PATH: &str = "/v1/embeddings";
const VECTORS: [[f32; 3]; 2] = [[0.6, -0.8, 0.0], [5.960_464_5e-8, 0.333_333_34, 1.0]];

fn text() -> String {
    let line = |v: &[f32; 3]| vector_line(&v.map(f32::to_le_bytes).concat());
    VECTORS.iter().map(line).collect()
}

fn script() -> Vec<Step> {
    let whole = text();
    let lines: Vec<&str> = whole.split_inclusive('\n').collect();
    let content = Content {
        input_units: 9,
        output_units: 2,
        ..content(&whole, &[])
    };
    answer(&lines, content)
}

async fn ask(server: &Server, body: Value) -> Reply {
    server.post(PATH, body.to_string().as_bytes()).await
}

#[tokio::test]
async fn numbers_and_base64_are_the_same_bits_and_the_text_of_the_receipt() {
    let server = Server::start(script()).await;
    let body = |form: &str| json!({"model": "stoa/tiny", "input": ["a", "b"], "encoding_format": form, "user": "u"});
    let numbers = ask(&server, body("float")).await;
    assert_eq!(numbers.status, 200, "{}", numbers.text());
    let numbers = numbers.json();
    let base64 = ask(&server, body("base64")).await.json();
    for list in [&numbers, &base64] {
        assert_eq!(list["object"], "list");
        assert_eq!(list["model"], "stoa/tiny");
        assert_eq!(
            list["usage"],
            json!({"prompt_tokens": 9, "total_tokens": 9})
        );
        assert_eq!(list["data"].as_array().map(Vec::len), Some(2));
        assert_eq!(list["stoa"]["ignored_parameters"], json!([]));
        assert_eq!(list["stoa"].get("stop"), None);
        let receipt = &list["stoa"]["receipt"];
        let receipt: SignedReceipt =
            serde_json::from_value(receipt.clone()).expect("a signed receipt");
        assert_eq!(receipt.receipt.output_units, 2);
    }
    let mut lines = String::new();
    for index in 0..2 {
        let (number, base64) = (&numbers["data"][index], &base64["data"][index]);
        assert_eq!(
            (&number["object"], &number["index"]),
            (&json!("embedding"), &json!(index))
        );
        assert_eq!(
            (&base64["object"], &base64["index"]),
            (&json!("embedding"), &json!(index))
        );
        let floats: Vec<f32> =
            serde_json::from_value(number["embedding"].clone()).expect("numbers");
        assert_eq!(floats, VECTORS[index]);
        lines += base64["embedding"].as_str().expect("base64");
        lines.push('\n');
    }
    assert_eq!(lines, text(), "what the response digest commits to");
    assert!(
        numbers.to_string().contains("5.9604645e-8"),
        "shortest form"
    );
}

#[tokio::test]
async fn numbers_are_what_comes_without_a_form_and_headers_name_the_job() {
    let server = Server::start(script()).await;
    let body = json!({"model": "stoa/tiny", "input": [[1, 2], [3]], "dimensions": 3, "stoa": {"receipt": "header"}});
    let reply = ask(&server, body.clone()).await;
    let list = reply.json();
    assert!(list["data"][0]["embedding"].is_array());
    assert_eq!(list["stoa"].get("receipt"), None);
    assert_eq!(reply.headers["x-stoa-receipt-id"], JOB.to_string());
    assert_eq!(reply.headers["x-request-id"], JOB.to_string());
    let submitted = server.hall.submitted.lock().expect("not poisoned");
    let (_, request) = &submitted[0];
    let expected = Prompt::Embed {
        inputs: vec![Input::Tokens(vec![1, 2]), Input::Tokens(vec![3])],
        dimensions: 3,
    };
    assert_eq!(request.prompt, expected);
    let digest = stoa_crypto::keccak256(body.to_string());
    assert_eq!(request.request_digest, digest);
}

#[tokio::test]
async fn a_stream_is_not_a_thing_of_vectors_and_has_no_effect() {
    let server = Server::start(script()).await;
    let body = json!({"model": "stoa/tiny", "input": "a", "stream": true, "temperature": 1});
    let list = ask(&server, body).await.json();
    let ignored = &list["stoa"]["ignored_parameters"];
    assert_eq!(ignored, &json!(["stream", "temperature"]));
    let strict = json!({"model": "stoa/tiny", "input": "a", "stream": true, "stoa": {"require_parameters": true}});
    let reply = ask(&server, strict).await;
    assert_eq!(
        reply.error(),
        (400, "unsupported_parameter".to_owned(), false)
    );
}

#[tokio::test]
async fn an_input_above_the_context_is_told_of_the_input() {
    let cause = Cause::ContextLength {
        tokens: 2000,
        context: 1024,
    };
    let failed = |cause| {
        vec![Step::Say(ClientEvent::Failed(Failure::new(
            cause,
            TokenAmount::ZERO,
        )))]
    };
    let server = Server::start(failed(cause)).await;
    let reply = ask(&server, json!({"model": "stoa/tiny", "input": "a"})).await;
    let code = "context_length_exceeded".to_owned();
    assert_eq!(reply.error(), (400, code, false));
    assert_eq!(reply.json()["error"]["param"], "input");
    let cause = Cause::Unsupported {
        parameter: "dimensions".to_owned(),
        reason: "a vector of 999 dimensions is asked for; the model's have 192".to_owned(),
    };
    let server = Server::start(failed(cause)).await;
    let reply = ask(
        &server,
        json!({"model": "stoa/tiny", "input": "a", "dimensions": 999}),
    )
    .await;
    assert_eq!(
        reply.error(),
        (400, "unsupported_parameter".to_owned(), false)
    );
    assert_eq!(reply.json()["error"]["param"], "dimensions");
}

#[tokio::test]
async fn what_is_no_vector_is_never_handed_on_as_one() {
    let broken = content("not base64\n", &[]);
    let server = Server::start(answer(&["not base64\n"], broken)).await;
    let reply = ask(&server, json!({"model": "stoa/tiny", "input": "a"})).await;
    assert_eq!(reply.status, 500);
    // Nothing was delivered: it was given up before it was charged.
    let billed = &reply.json()["error"]["stoa"]["billed"];
    assert_eq!(billed, "0", "{}", reply.text());
    assert_eq!(*server.hall.delivered.borrow(), None);
}

#[tokio::test]
async fn a_repeated_request_gets_the_first_answer_and_a_key_needs_the_scope_of_calls() {
    let hall = Hall::new(script());
    hall.limited(
        "reader",
        Grant {
            routes: Some([Scope::Models].into()),
            ..Grant::default()
        },
    );
    let server = Server::with(hall, quick()).await;
    let body = json!({"model": "stoa/tiny", "input": ["a", "b"]}).to_string();
    let send = async |key: &str| {
        let headers = [
            ("x-api-key", key),
            ("content-type", "application/json"),
            ("idempotency-key", "once"),
        ];
        server.send("POST", PATH, &headers, body.as_bytes()).await
    };
    let (first, again) = (send(KEY).await, send(KEY).await);
    assert_eq!((first.status, first.text()), (200, again.text()));
    assert_eq!(again.headers["x-stoa-idempotent-replay"], "true");
    assert_eq!(server.hall.submissions(), 1);
    assert_eq!(send("reader").await.status, 403);
    assert_eq!(server.hall.submissions(), 1);
}
