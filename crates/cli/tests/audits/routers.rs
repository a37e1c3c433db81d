//! Routers that cheat in a running network: each is found out, slashed, and what it did is on the job, the account and the pages.

use super::{Up, ask, told, until};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::ops::RangeInclusive;
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

/// A cheat of a router, and what comes of it.
struct Cheat {
    how: &'static str,
    /// What it is convicted of.
    fault: (&'static str, u64),
    /// What the page of audits says of it.
    words: &'static str,
    /// What the developer is charged in the end, in the token's smallest units.
    charged: RangeInclusive<u128>,
    settings: &'static str,
}

/// What right answers cost, whatever else the router did.
const RIGHT: RangeInclusive<u128> = 1..=u128::MAX;
/// Who gives nothing to judge by is paid for what was ruled on before.
const ANY: RangeInclusive<u128> = 0..=u128::MAX;

/// A network whose router cheats, until it was punished for that and the developer is charged what is right.
fn found_out(cheat: Cheat) {
    let folder = tempfile::tempdir().expect("temporary folder");
    let data = folder.path().join("data");
    let file = folder.path().join("my.toml");
    std::fs::write(&file, cheat.settings).expect("writes");
    let file = file.to_str().expect("UTF-8");
    let options = ["--batch-seconds", "5", "--validators", "3", "--cheat"];
    let up = Up::start(
        &data,
        &[&options[..], &[cheat.how, "--config", file]].concat(),
    );
    for n in 0..2 {
        ask(&data, n);
    }
    let (kind, severity) = cheat.fault;
    let wanted = (Value::from(kind), Value::from(severity));
    until("a conviction", || faults(&data).contains(&wanted));
    // The router reads the chain by itself, a moment later than who asks the chain.
    until("a page that tells it", || {
        let shown = page(&up, "/dashboard/audits");
        shown.contains(cheat.words) && shown.contains("router")
    });
    // Nobody else is punished for it.
    let providers = told(&data, &["providers", "--json"]);
    assert_eq!(providers[0]["slashed"], "0", "{providers}");
    let account = || told(&data, &["account", "--json"]);
    let debited = account()["allotment"]["debited"].clone();
    assert_eq!(debited, "0", "nothing was taken from the developer");
    // The two calls may stand in batches of which one is ruled on later.
    until("the right charge", || {
        let account = account();
        let charged = account["charged"].as_str().expect("an amount").parse();
        cheat.charged.contains(&charged.expect("a number"))
    });
    drop(up.end());
}

#[test]
fn a_router_that_charges_too_much_loses_its_stake_and_the_developer_owes_nothing_for_it() {
    found_out(Cheat {
        how: "overcharge",
        fault: ("overcharge", 10_000),
        words: "charged more than counts and prices give",
        charged: 0..=0,
        settings: "",
    });
}

#[test]
fn a_router_whose_payout_roots_overpay_it_loses_its_stake_before_they_are_claimable() {
    found_out(Cheat {
        how: "bad-sums",
        fault: ("bad_sums", 10_000),
        words: "the payout root does not follow from the leaves",
        charged: RIGHT,
        settings: "",
    });
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
    found_out(Cheat {
        how: "over-issue",
        fault: ("bad_sums", 10_000),
        words: "debits more than was allotted",
        charged: 21..=40,
        settings: LITTLE,
    });
}

#[test]
fn a_router_that_posts_a_job_twice_loses_its_stake() {
    found_out(Cheat {
        how: "double-post",
        fault: ("double_post", 10_000),
        words: "posted one job twice",
        charged: RIGHT,
        settings: "",
    });
}

#[test]
fn a_router_that_gives_nobody_its_leaf_files_pays_and_is_paid_nothing() {
    found_out(Cheat {
        how: "withhold",
        fault: ("withheld", 500),
        words: "the router did not give what is needed to judge",
        charged: ANY,
        settings: "",
    });
}
