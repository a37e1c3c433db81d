//! Vectors of texts from a running network: bought over HTTP, held against their receipt, and computed again by `stoa verify`.

mod support;

use serde_json::{Value, json};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use stoa_types::FinishReason;
use stoa_verify::{Bundle, Content, read_vectors};
use support::{Up, refused, stoa, told};

const MODEL: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../models/stoa-tiny/stoa-tiny.Q8_0.gguf"
);

/// `POST /v1/embeddings`.
fn embed(up: &Up, body: &str) -> Value {
    let text = |name: &str| up.ready[name].as_str().expect("a text").to_owned();
    let url = text("api");
    let host = url.trim_start_matches("http://").trim_end_matches("/v1");
    let mut stream = TcpStream::connect(host).expect("listens");
    let head = format!(
        "POST /v1/embeddings HTTP/1.0\r\nhost: {host}\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        text("key"),
        body.len()
    );
    stream.write_all(head.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answered");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.0 200"), "{answer}");
    serde_json::from_str(body).expect("JSON")
}

/// The file that `stoa verify` takes, made of what the client sent and got.
fn bundle(request: &str, answer: &Value) -> Bundle {
    let vectors = answer["data"].as_array().expect("vectors").iter();
    let lines = vectors.map(|one| one["embedding"].as_str().expect("base64").to_owned() + "\n");
    let count = |name: &str| answer["usage"][name].as_u64().expect("a count");
    let part = |name: &str| answer["stoa"][name].clone();
    Bundle {
        receipt: serde_json::from_value(part("receipt")).expect("a receipt"),
        proof: None,
        parameters: serde_json::from_value(part("parameters")).expect("parameters"),
        request: request.to_owned(),
        response: Content {
            text: lines.collect(),
            tool_calls: Vec::new(),
            finish_reason: FinishReason::Stop,
            input_units: count("prompt_tokens"),
            output_units: answer["data"].as_array().expect("vectors").len() as u64,
        },
    }
}

fn verify(data: &Path, file: &Path) -> std::process::Command {
    let mut command = stoa(data);
    command.arg("verify").arg(file).args(["--rerun", MODEL]);
    command
}

#[test]
fn vectors_are_bought_and_computed_again_from_their_receipt() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    let up = Up::start(&data, 2, &folder.path().join("log"));
    let input = json!(["A cat sleeps.", "a dog", "x", "A cat sleeps."]);
    let model = up.ready["models"][0].as_str().unwrap_or("stoa-tiny");
    let request = json!({"model": model, "input": input, "encoding_format": "base64"}).to_string();
    let (first, again) = (embed(&up, &request), embed(&up, &request));
    assert_eq!(first["data"], again["data"], "the same wherever it is made");
    let bundle = bundle(&request, &first);
    assert_eq!(bundle.response.output_units, 4);
    let vectors = read_vectors(&bundle.response.text).expect("vectors");
    assert_eq!(vectors[0], vectors[3], "whatever stands beside it");
    assert_ne!(vectors[0], vectors[1]);
    let numbers = embed(&up, &request.replace("base64", "float"));
    for (bits, one) in vectors
        .iter()
        .zip(numbers["data"].as_array().expect("vectors"))
    {
        let floats: Vec<f32> = serde_json::from_value(one["embedding"].clone()).expect("numbers");
        let same: Vec<u32> = floats.iter().map(|f| f.to_bits()).collect();
        assert_eq!(&same, bits);
        let length: f64 = floats.iter().map(|f| f64::from(*f).powi(2)).sum();
        assert!((length - 1.0).abs() < 1e-6, "{length}");
    }
    let file = folder.path().join("receipt.json");
    fs::write(&file, bundle.to_bytes()).expect("written");
    up.wait_for_posts(1.0);
    told(stoa(&data).arg("receipt").arg(&file).arg("--wait"));
    let rpc = up.ready["rpc"].as_str().expect("a URL").to_owned();
    let report = told(verify(&data, &file).args(["--rpc", &rpc]));
    assert!(
        !report.contains("not checked") && !report.contains("FALSE"),
        "{report}"
    );
    let mut altered = bundle.clone();
    let other = altered.response.text.replacen('A', "B", 1);
    assert_ne!(other, bundle.response.text);
    altered.response.text = other;
    fs::write(&file, altered.to_bytes()).expect("written");
    assert!(refused(&mut verify(&data, &file)).contains("false: "));
    up.stop();
}
