//! Routers that cheat in a running network: each is found out, slashed, and what it did is on the job, the account and the pages.

use super::{Up, ask, told, until};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;

/// What a page of the dashboard shows.
fn page(up: &Up, path: &str) -> String {
    let login = up.ready["dashboard"].as_str().expect("a URL");
    let rest = login.strip_prefix("http://").expect("plain HTTP");
    let (host, login) = rest.split_once('/').expect("a path");
    let get = |path: &str, cookie: &str| {
        let mut stream = TcpStream::connect(host).expect("listens");
        let request = format!("GET {path} HTTP/1.0\r\nHost: {host}\r\nCookie: {cookie}\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("sent");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("answered");
        text
    };
    let welcome = get(&format!("/{login}"), "");
    let lines = welcome
        .lines()
        .map(str::to_ascii_lowercase)
        .zip(welcome.lines());
    let mut cookies = lines.filter(|(lower, _)| lower.starts_with("set-cookie:"));
    let (_, cookie) = cookies.next().expect("logged in");
    let cookie = cookie.split_once(':').expect("a header").1.trim();
    let cookie = cookie.split(';').next().expect("a pair");
    get(path, cookie)
}

/// Faults of the router about any of the jobs.
fn faults(data: &Path) -> Vec<(Value, Value)> {
    let jobs = told(data, &["jobs", "--json"]);
    let jobs = jobs.as_array().expect("a list").iter();
    let jobs = jobs.map(|job| job["job"].as_str().expect("an id").to_owned());
    let explained = jobs.map(|job| told(data, &["explain", &job, "--json"]));
    let faults = explained.flat_map(|job| job["router_faults"].as_array().expect("a list").clone());
    let pair = |fault: Value| (fault["kind"].clone(), fault["severity_bps"].clone());
    faults.map(pair).collect()
}

/// A network whose router cheats, until it was punished for that; the page of audits says `words`. Gives what the developer is charged then.
fn cheats(how: &str, kind: &str, severity: u64, words: &str) -> u128 {
    cheats_under("", how, kind, severity, words)
}

/// The same under these settings.
fn cheats_under(settings: &str, how: &str, kind: &str, severity: u64, words: &str) -> u128 {
    let folder = tempfile::tempdir().expect("temporary folder");
    let data = folder.path().join("data");
    let file = folder.path().join("my.toml");
    std::fs::write(&file, settings).expect("writes");
    let file = file.to_str().expect("UTF-8");
    let options = ["--batch-seconds", "5", "--validators", "3", "--cheat", how];
    let up = Up::start(&data, &[&options[..], &["--config", file]].concat());
    for n in 0..2 {
        ask(&data, n);
    }
    let wanted = (Value::from(kind), Value::from(severity));
    until("a conviction", || faults(&data).contains(&wanted));
    // The router reads the chain by itself, a moment later than who asks the chain.
    until("a page that tells it", || {
        let shown = page(&up, "/dashboard/audits");
        shown.contains(words) && shown.contains("router")
    });
    // Nobody else is punished for it.
    let providers = told(&data, &["providers", "--json"]);
    assert_eq!(providers[0]["slashed"], "0", "{providers}");
    let account = || told(&data, &["account", "--json"]);
    let debited = account()["allotment"]["debited"].clone();
    assert_eq!(debited, "0", "nothing was taken from the developer");
    let charged = account()["charged"].as_str().expect("an amount").parse();
    drop(up.end());
    charged.expect("a number")
}

#[test]
fn a_router_that_charges_too_much_loses_its_stake_and_the_developer_owes_nothing_for_it() {
    let words = "charged more than counts and prices give";
    assert_eq!(cheats("overcharge", "overcharge", 10_000, words), 0);
}

#[test]
fn a_router_whose_payout_roots_overpay_it_loses_its_stake_before_they_are_claimable() {
    let words = "the payout root does not follow from the leaves";
    assert!(
        cheats("bad-sums", "bad_sums", 10_000, words) > 0,
        "the answers were right"
    );
}

/// Prices at which a call costs 16 units, and an allotment of 20, which is all that the developer has.
const LITTLE: &str = r#"
[developer]
deposit = "0.00002"
cap = "0.00002"

[[providers]]
region = "XA"
input_price = "1"
output_price = "1"
"#;

#[test]
fn a_router_that_serves_a_developer_beyond_its_allotment_loses_its_stake() {
    let words = "debits more than was allotted";
    let charged = cheats_under(LITTLE, "over-issue", "bad_sums", 10_000, words);
    assert!((21..=40).contains(&charged), "{charged}");
}

#[test]
fn a_router_that_posts_a_job_twice_loses_its_stake() {
    cheats("double-post", "double_post", 10_000, "posted one job twice");
}

#[test]
fn a_router_that_gives_nobody_its_leaf_files_pays_and_is_paid_nothing() {
    let words = "the router did not give what is needed to judge";
    cheats("withhold", "withheld", 500, words);
}
