//! Answers of a running network, bought over HTTP, held against their receipts, and computed again by `stoa verify`: vectors of texts,
//! several choices of one request, and what a server of others set apart as reasoning.

mod support;

use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};
use stoa_crypto::choice_seed;
use stoa_types::{FinishReason, TokenAmount};
use stoa_verify::{Bundle, Content, read_vectors};
use support::{PATIENCE, Up, refused, stoa, told};

const MODEL: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../models/stoa-tiny/stoa-tiny.Q8_0.gguf"
);

/// A request whose answer can be read from the stream.
fn open(up: &Up, method: &str, path: &str, header: &str, body: &str) -> TcpStream {
    let text = |name: &str| up.ready[name].as_str().expect("a text").to_owned();
    let url = text("api");
    let host = url.trim_start_matches("http://").trim_end_matches("/v1");
    let mut stream = TcpStream::connect(host).expect("listens");
    let head = format!(
        "{method} /v1{path} HTTP/1.0\r\nhost: {host}\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n{header}\
         content-length: {}\r\n\r\n{body}",
        text("key"),
        body.len()
    );
    stream.write_all(head.as_bytes()).expect("sent");
    stream
}

/// Status and body of an answer.
fn send(up: &Up, method: &str, path: &str, header: &str, body: &str) -> (u16, String) {
    let mut answer = String::new();
    let mut stream = open(up, method, path, header, body);
    stream.read_to_string(&mut answer).expect("answered");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).expect("a status");
    (status.parse().expect("a number"), body.to_owned())
}

fn post(up: &Up, path: &str, body: &str) -> Value {
    let (status, body) = send(up, "POST", path, "", body);
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).expect("JSON")
}

/// `POST /v1/embeddings`.
fn embed(up: &Up, body: &str) -> Value {
    post(up, "/embeddings", body)
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

#[test]
fn a_provider_with_a_shorter_context_than_its_models_is_no_liar_about_a_prompt_beyond_both() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (data, settings) = (folder.path().join("data"), folder.path().join("up.toml"));
    fs::write(&settings, "[engine]\ncontext_max = 300\n").expect("written");
    let options = ["--config", settings.to_str().expect("a path")];
    let up = Up::start_with(&data, 1, &folder.path().join("log"), &options, &[]);
    let model = up.ready["models"][0].as_str().unwrap_or("stoa-tiny");
    let ask = |words: usize| {
        let text = "cat dog ".repeat(words / 2);
        let body = json!({"model": model, "prompt": text, "max_tokens": 16}).to_string();
        let (status, body) = send(&up, "POST", "/completions", "", &body);
        (status, serde_json::from_str::<Value>(&body).expect("JSON"))
    };
    let reputation = || {
        let (_, body) = send(&up, "GET", "/stoa/providers", "", "");
        let told: Value = serde_json::from_str(&body).expect("JSON");
        told["data"][0]["reputation_ppm"].as_u64()
    };
    let before = reputation();
    assert!(before.is_some());
    // Beyond the model's own 1,024, and beyond the 300 that are offered.
    for (words, code, said) in [
        (2_000, "context_length_exceeded", "context is 1024"),
        (400, "unsupported_parameter", "room for 300"),
    ] {
        let (status, told) = ask(words);
        assert_eq!(
            (status, &told["error"]["code"]),
            (400, &json!(code)),
            "{told}"
        );
        let message = told["error"]["message"].as_str().unwrap_or_default();
        assert!(message.contains(said), "{message}");
        assert_eq!(reputation(), before);
    }
    let (status, told) = ask(20);
    assert_eq!(status, 200, "{told}");
    up.stop();
}

const CHAT: &str = "/chat/completions";

/// A body that asks for so many choices.
fn asked(up: &Up, n: u32, changes: &Value) -> String {
    let model = up.ready["models"][0].as_str().unwrap_or("stoa-tiny");
    let mut body = json!({
        "model": model, "messages": [{"role": "user", "content": "Tell me a story about a cat."}],
        "temperature": 0.9, "seed": 7, "max_completion_tokens": 24, "n": n,
    });
    for (name, value) in changes.as_object().expect("fields") {
        body[name] = value.clone();
    }
    body.to_string()
}

fn amount(value: &Value) -> TokenAmount {
    TokenAmount::parse(value.as_str().expect("text")).expect("an amount")
}

fn units(value: &Value) -> TokenAmount {
    let units = value.as_str().expect("text").parse();
    TokenAmount::from_units(units.expect("units"))
}

/// What the account was charged so far, and what is held for it.
fn account(up: &Up) -> (TokenAmount, TokenAmount) {
    let (status, body) = send(up, "GET", "/stoa/account", "", "");
    assert_eq!(status, 200, "{body}");
    let row: Value = serde_json::from_str(&body).expect("JSON");
    (units(&row["charged"]), units(&row["reserved"]))
}

/// What was charged once nothing is held any more.
fn charged_at_rest(up: &Up) -> TokenAmount {
    let end = Instant::now() + PATIENCE;
    loop {
        let (charged, held) = account(up);
        if held.is_zero() {
            return charged;
        }
        assert!(Instant::now() < end, "{held} stays held");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn charges(answer: &Value) -> TokenAmount {
    let parts = answer["stoa"]["choices"].as_array().expect("of each");
    let charges = parts
        .iter()
        .map(|part| units(&part["receipt"]["receipt"]["charge"]));
    TokenAmount::checked_sum(charges).expect("fits")
}

/// Texts of the choices of a stream that ended well, by their index.
fn streamed(body: &str, n: usize) -> Vec<String> {
    let mut texts = vec![String::new(); n];
    let mut events = body.lines().filter_map(|line| line.strip_prefix("data: "));
    for event in events.clone().filter(|event| *event != "[DONE]") {
        let chunk: Value = serde_json::from_str(event).expect("JSON");
        for choice in chunk["choices"]
            .as_array()
            .unwrap_or_else(|| panic!("{body}"))
        {
            let at = choice["index"].as_u64().expect("an index") as usize;
            texts[at] += choice["delta"]["content"].as_str().unwrap_or_default();
        }
    }
    assert_eq!(events.next_back(), Some("[DONE]"), "{body}");
    texts
}

fn choice_bundle(request: &str, answer: &Value, at: usize) -> Bundle {
    let part = &answer["stoa"]["choices"][at];
    let choice = &answer["choices"][at];
    let count = |name: &str| part["receipt"]["receipt"][name].as_u64().expect("a count");
    Bundle {
        receipt: serde_json::from_value(part["receipt"].clone()).expect("a receipt"),
        proof: None,
        parameters: serde_json::from_value(part["parameters"].clone()).expect("parameters"),
        request: request.to_owned(),
        response: Content {
            text: choice["message"]["content"]
                .as_str()
                .expect("text")
                .to_owned(),
            tool_calls: Vec::new(),
            finish_reason: serde_json::from_value(choice["finish_reason"].clone()).expect("known"),
            input_units: count("input_units"),
            output_units: count("output_units"),
        },
    }
}

#[test]
fn choices_are_bought_together_paid_each_and_computed_again_from_their_receipts() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    let log = folder.path().join("log");
    let up = Up::start(&data, 2, &log);
    let (before, _) = account(&up);
    let request = asked(&up, 3, &json!({}));
    let answer = post(&up, CHAT, &request);
    let paid = charges(&answer);
    assert_eq!(amount(&answer["stoa"]["cost"]["total"]), paid);
    assert_eq!(
        charged_at_rest(&up).checked_sub(before),
        Some(paid),
        "the sum, and no more"
    );
    let bundles: Vec<_> = (0..3)
        .map(|at| choice_bundle(&request, &answer, at))
        .collect();
    for (index, bundle) in (0..).zip(&bundles) {
        assert_eq!(bundle.parameters.seed, choice_seed(7, index));
    }
    assert!(
        bundles
            .iter()
            .any(|one| one.response != bundles[0].response)
    );

    // Each receipt is its choice's, and says which.
    let file = folder.path().join("receipt.json");
    fs::write(&file, bundles[2].to_bytes()).expect("written");
    let report = told(&mut verify(&data, &file));
    assert!(report.contains("this is choice 2 of 3"), "{report}");
    let mut swapped = bundles[1].clone();
    swapped.response = bundles[2].response.clone();
    fs::write(&file, swapped.to_bytes()).expect("written");
    assert!(refused(&mut verify(&data, &file)).contains("false: "));

    // The answer as it came does as well, beside the body that it is the answer to.
    let body = folder.path().join("body.json");
    fs::write(&file, answer.to_string()).expect("written");
    fs::write(&body, &request).expect("written");
    let report = told(verify(&data, &file).arg("--request").arg(&body));
    assert_eq!(
        report.matches("holds        it is for this answer").count(),
        3
    );
    assert!(report.contains("this is choice 0 of 3"), "{report}");
    fs::write(&body, request.clone() + " ").expect("written");
    let error = refused(verify(&data, &file).arg("--request").arg(&body));
    assert!(error.contains("false: it is for this request"), "{error}");

    // The same seed gives the same choices, streamed as well.
    let stream = asked(&up, 3, &json!({"stream": true}));
    let (_, body) = send(&up, "POST", CHAT, "", &stream);
    let texts: Vec<_> = bundles
        .iter()
        .map(|one| one.response.text.clone())
        .collect();
    assert_eq!(streamed(&body, 3), texts);

    // Greedy choices are equal, and each is paid.
    let greedy = post(&up, CHAT, &asked(&up, 2, &json!({"temperature": 0})));
    assert_eq!(
        greedy["choices"][0]["message"],
        greedy["choices"][1]["message"]
    );
    let parts = &greedy["stoa"]["choices"];
    assert_eq!(parts[0]["cost"], parts[1]["cost"]);
    assert!(!amount(&parts[0]["cost"]["total"]).is_zero());

    // Sent again under one Idempotency-Key it is the same answer, charged once.
    let (header, request) = (
        "idempotency-key: three\r\n",
        asked(&up, 3, &json!({"stream": true})),
    );
    let (_, first) = send(&up, "POST", CHAT, header, &request);
    let once = charged_at_rest(&up);
    let (_, again) = send(&up, "POST", CHAT, header, &request);
    assert_eq!((first, once), (again, charged_at_rest(&up)));

    // What cannot be served costs nothing.
    for refused in [
        json!({"n": 9}),
        json!({"n": 0}),
        json!({"n": 2, "best_of": 2}),
    ] {
        let (status, body) = send(&up, "POST", CHAT, "", &asked(&up, 1, &refused));
        assert!(
            status == 400 && body.contains("No token was billed"),
            "{body}"
        );
    }
    assert_eq!(account(&up), (once, TokenAmount::ZERO));

    // `stoa ask` saves a file for each choice.
    let save = folder.path().join("cat.json");
    told(
        stoa(&data)
            .args(["ask", "Hello", "--n", "2", "--save"])
            .arg(&save),
    );
    for name in ["cat.0.json", "cat.1.json"] {
        let report = told(&mut verify(&data, &folder.path().join(name)));
        assert!(
            report.contains("the model computed this answer"),
            "{report}"
        );
    }
    up.stop();
}

/// Reads until every choice has begun.
fn read_begun(stream: &mut TcpStream, n: usize) {
    let mut seen = Vec::new();
    let begun = |seen: &[u8], at: usize| {
        String::from_utf8_lossy(seen).contains(&format!("\"choices\":[{{\"index\":{at},"))
    };
    while !(0..n).all(|at| begun(&seen, at)) {
        let mut piece = [0; 1024];
        let count = stream.read(&mut piece).expect("open");
        assert!(count > 0, "{}", String::from_utf8_lossy(&seen));
        seen.extend_from_slice(&piece[..count]);
    }
}

#[test]
fn choices_whose_client_leaves_or_whose_router_is_killed_leave_nothing_held() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    let up = Up::start(&data, 2, &folder.path().join("log"));
    let long = json!({"stream": true, "max_completion_tokens": 400});
    let request = asked(&up, 3, &long);
    let mut stream = open(&up, "POST", CHAT, "", &request);
    read_begun(&mut stream, 3);
    drop(stream);
    let left = charged_at_rest(&up);
    let (_, held) = account(&up);
    assert!(held.is_zero());

    let mut stream = open(&up, "POST", CHAT, "", &request);
    read_begun(&mut stream, 3);
    drop(up); // Killed, while its client reads.
    let up = Up::start(&data, 2, &folder.path().join("log"));
    let charged = charged_at_rest(&up);
    assert!(charged >= left, "{charged} after {left}");
    let answer = post(&up, CHAT, &asked(&up, 3, &json!({})));
    let after = charged_at_rest(&up);
    assert_eq!(after.checked_sub(charged), Some(charges(&answer)));
    up.stop();
}

/// One request of a server that says it is vLLM: each chat it answers with the same seven tokens, of which four are reasoning.
fn serve_reasoning(mut stream: &TcpStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        if let Some(bytes) = line.to_lowercase().strip_prefix("content-length: ") {
            length = bytes.trim().parse().expect("a number");
        }
        head += &line;
        if line.trim().is_empty() {
            break;
        }
    }
    reader.take(length).read_to_end(&mut Vec::new())?;
    let usage = |tokens: u64| json!({"prompt_tokens": 5, "completion_tokens": tokens});
    let piece = |delta: Value, finish: Value, tokens: u64| {
        let choice = json!({"index": 0, "delta": delta, "finish_reason": finish});
        json!({"id": "a", "choices": [choice], "usage": usage(tokens)})
    };
    let (kind, body) = if head.contains("/v1/chat/completions") {
        let both = json!({"reasoning": " and two", "reasoning_content": " and two"});
        let events = [
            piece(json!({"role": "assistant", "content": ""}), Value::Null, 0),
            piece(json!({"reasoning": "Two"}), Value::Null, 2),
            piece(both, Value::Null, 4),
            piece(json!({"content": "\n\nfo"}), Value::Null, 6),
            piece(json!({"content": "ur"}), "stop".into(), 7),
            json!({"id": "a", "choices": [], "usage": usage(7)}),
        ];
        let events = events.map(|event| format!("data: {event}\n\n"));
        let body = events.concat() + "data: [DONE]\n\n";
        ("text/event-stream", body)
    } else if head.contains("/v1/models") {
        let model = json!({"id": "org/reasoner", "owned_by": "vllm", "max_model_len": 4096});
        ("application/json", json!({"data": [model]}).to_string())
    } else {
        ("application/json", json!({"version": "0.11.0"}).to_string())
    };
    write!(
        stream,
        "HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}

#[test]
fn what_a_server_sets_apart_as_reasoning_reaches_the_client_is_counted_and_stands_in_the_receipt() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let address = listener.local_addr().expect("bound");
    // It ends with the test's process.
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || serve_reasoning(&stream));
        }
    });
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (data, log) = (folder.path().join("data"), folder.path().join("log"));
    let url = format!("http://{address}/v1");
    let up = Up::start_with(&data, 1, &log, &["--upstream", &url], &[]);
    let mut body = json!({
        "model": "org/reasoner", "messages": [{"role": "user", "content": "2+2?"}], "max_completion_tokens": 50,
    });
    let answer = post(&up, CHAT, &body.to_string());
    let message = &answer["choices"][0]["message"];
    assert_eq!(message["reasoning_content"], "Two and two", "{answer}");
    assert_eq!(message["content"], "\n\nfour");
    let counted = |usage: &Value| {
        let details = &usage["completion_tokens_details"];
        (
            usage["completion_tokens"].as_u64(),
            details["reasoning_tokens"].as_u64(),
        )
    };
    assert_eq!(counted(&answer["usage"]), (Some(7), Some(4)), "{answer}");

    body["stream"] = true.into();
    body["stream_options"] = json!({"include_usage": true});
    let (_, stream) = send(&up, "POST", CHAT, "", &body.to_string());
    let events = stream.lines().filter_map(|l| l.strip_prefix("data: "));
    let chunks: Vec<Value> = events
        .filter(|event| *event != "[DONE]")
        .map(|event| serde_json::from_str(event).expect("JSON"))
        .collect();
    let joined = |part: &str| -> String {
        let deltas = chunks.iter().map(|chunk| &chunk["choices"][0]["delta"]);
        deltas.filter_map(|delta| delta[part].as_str()).collect()
    };
    assert_eq!(joined("reasoning_content"), "Two and two");
    assert_eq!(joined("content"), "\n\nfour");
    let usage = &chunks.last().expect("chunks")["usage"];
    assert_eq!(counted(usage), (Some(7), Some(4)));

    let file = folder.path().join("receipt.json");
    let ask = ["ask", "2+2?", "--model", "org/reasoner", "--save"];
    let output = stoa(&data).args(ask).arg(&file).output().expect("starts");
    assert!(output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stdout), "\n\nfour\n");
    let beside = String::from_utf8_lossy(&output.stderr);
    assert!(beside.contains("reasoning: Two and two"), "{beside}");
    let report = told(stoa(&data).arg("verify").arg(&file));
    assert!(
        report.contains("holds        it is for this answer"),
        "{report}"
    );
    up.stop();
}
