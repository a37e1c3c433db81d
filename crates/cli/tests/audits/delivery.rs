//! A provider that takes orders, delivers nothing and goes away, in a running network: it is claimed, says nothing, and pays.

use super::{CHEAP_FIRST, Up, ask, told};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// A ticket lives for twelve seconds, is claimed in the last six of twenty-four, and answered for twenty seconds.
const PATIENCE: Duration = Duration::from_secs(180);

/// The error of a call that only `provider` may answer.
fn refused(data: &Path, provider: &str) -> Value {
    let network = std::fs::read_to_string(data.join("network.json")).expect("a network");
    let network: Value = serde_json::from_str(&network).expect("JSON");
    let (api, key) = (network["api"].as_str(), network["key"].as_str());
    let host = api.expect("a URL").trim_start_matches("http://");
    let host = host.trim_end_matches("/v1");
    let body = json!({
        "model": "stoa-tiny", "messages": [{"role": "user", "content": "Say it"}], "max_tokens": 4,
        "stoa": {"providers": {"only": [provider]}},
    });
    let body = body.to_string();
    let request = format!(
        "POST /v1/chat/completions HTTP/1.0\r\nHost: {host}\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        key.expect("a key"),
        body.len()
    );
    let mut stream = TcpStream::connect(host).expect("listens");
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answered");
    let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
    let told: Value = serde_json::from_str(body).unwrap_or_else(|_| panic!("{answer}"));
    told["error"].clone()
}

fn provider(data: &Path, id: &Value) -> Value {
    let rows = told(data, &["providers", "--json"]);
    let mut rows = rows.as_array().expect("a list").iter();
    rows.find(|row| row["id"] == *id).expect("listed").clone()
}

#[test]
fn who_takes_orders_and_delivers_nothing_is_slashed_and_nobody_pays_for_it() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let (data, settings) = (folder.path().join("data"), folder.path().join("my.toml"));
    std::fs::write(&settings, CHEAP_FIRST).expect("writes");
    let settings = settings.to_str().expect("UTF-8");
    let mut args = vec!["--batch-seconds", "1", "--ticket-seconds", "12"];
    args.extend(["--providers", "2", "--config", settings]);
    args.extend(["--cheat", "no-delivery"]);
    let up = Up::start(&data, &args);
    let network = std::fs::read_to_string(data.join("network.json")).expect("a network");
    let network: Value = serde_json::from_str(&network).expect("JSON");
    let (cheat, honest) = (&network["providers"][0], &network["providers"][1]);
    let cheat_id = cheat.as_str().expect("an account");

    // Another one answers, and it is told who took the call first.
    ask(&data, 0);
    let jobs = told(&data, &["jobs", "--json"]);
    assert_eq!(jobs[0]["provider"], *honest, "{jobs}");
    let job = jobs[0]["job"].as_str().expect("an id").to_owned();
    let explained = told(&data, &["explain", &job, "--json"]);
    let taken = &explained["undelivered"];
    assert_eq!(taken.as_array().map(Vec::len), Some(1), "{explained}");
    assert_eq!(taken[0]["ticket"]["ticket"]["provider"], *cheat);

    // Where nobody else may, the error says so, with both signatures, and nothing is billed.
    let error = refused(&data, cheat_id);
    assert_eq!(error["code"], "deadline_exceeded", "{error}");
    assert_eq!(error["stoa"]["billed"], "0", "{error}");
    let order = &error["stoa"]["undelivered"][0];
    assert_eq!(order["ticket"]["ticket"]["provider"], *cheat, "{error}");
    assert!(order["acceptance"]["signature"].is_string(), "{error}");

    // Two orders are what it takes; then it is gone, and that is what is claimed.
    let end = Instant::now() + PATIENCE;
    let row = loop {
        let row = provider(&data, cheat);
        if row["slashed"] != "0" {
            break row;
        }
        assert!(Instant::now() < end, "never slashed: {row}");
        std::thread::sleep(Duration::from_millis(500));
    };
    assert_eq!(row["slashed"], "200", "1 % of its stake: {row}");
    // Both orders are of one day, as the contract counts: one fault.
    let kept = provider(&data, honest);
    assert_eq!(kept["slashed"], "0", "{kept}");
    assert!(
        row["rated"].as_u64() < kept["rated"].as_u64(),
        "{row} {kept}"
    );
    ask(&data, 1);
    let jobs = told(&data, &["jobs", "--json"]);
    assert_eq!(jobs[0]["provider"], *honest, "{jobs}");
    let log = up.end();
    assert!(!log.contains("ERROR"), "{log}");
}
