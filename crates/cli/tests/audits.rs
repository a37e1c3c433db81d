//! Audits in a running network: answers are computed again, rulings come, and what they say is on the chain.

#[path = "audits/delivery.rs"]
mod delivery;
#[path = "audits/planters.rs"]
mod planters;
#[path = "audits/routers.rs"]
mod routers;

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

fn stoa(data: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stoa"));
    command
        .env_remove("STOA_DATA")
        .arg("--data")
        .arg(data)
        .args(args)
        .stdin(Stdio::null());
    command
}

/// What a command prints as JSON.
fn told(data: &Path, args: &[&str]) -> Value {
    let output = stoa(data, args).output().expect("starts");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    serde_json::from_str(&text).unwrap_or_else(|_| panic!("{args:?}: {text} {log}"))
}

/// A running network; it is killed, and its log shown, where a test ends without having ended it.
struct Up {
    child: Child,
    ready: Value,
    log: Option<std::thread::JoinHandle<String>>,
}

impl Up {
    fn start(data: &Path, args: &[&str]) -> Self {
        let mut child = stoa(data, &["up", "--json", "--port", "0"])
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starts");
        let mut stderr = child.stderr.take().expect("piped");
        let log = std::thread::spawn(move || {
            let mut log = String::new();
            let _ = stderr.read_to_string(&mut log);
            log
        });
        let stdout = child.stdout.take().expect("piped");
        let mut up = Self {
            child,
            ready: Value::Null,
            log: Some(log),
        };
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).expect("reads");
        assert!(line.contains("ready"), "{line}");
        up.ready = serde_json::from_str(&line).expect("JSON");
        up
    }

    /// Ends it with a signal; gives its log.
    fn end(mut self) -> String {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-INT", &pid]).status();
        assert!(sent.expect("kill runs").success());
        assert!(self.child.wait().expect("waits").success());
        let log = self.log.take().expect("not read yet");
        log.join().expect("read")
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let Some(log) = self.log.take() else { return };
        let _ = self.child.kill();
        let _ = self.child.wait();
        eprintln!("{}", log.join().unwrap_or_default());
    }
}

fn ask(data: &Path, n: usize) {
    let prompt = format!("Say {n}");
    let output = stoa(data, &["ask", "--max-tokens", "8", &prompt]).output();
    let output = output.expect("starts");
    assert!(
        output.status.success(),
        "{:?}",
        String::from_utf8(output.stderr)
    );
}

/// Buys vectors.
fn embed(up: &Up, n: usize) {
    let input = format!("Say {n}");
    let request = json!({"model": up.ready["models"][0], "input": input});
    let (status, body) = post(up, "/embeddings", &request.to_string());
    assert_eq!(status, 200, "{body}");
}

/// A request to the API; gives status and body.
fn post(up: &Up, path: &str, body: &str) -> (u16, String) {
    let text = |name: &str| up.ready[name].as_str().expect("a text").to_owned();
    let url = text("api");
    let host = url.trim_start_matches("http://").trim_end_matches("/v1");
    let mut stream = TcpStream::connect(host).expect("listens");
    let head = format!(
        "POST /v1{path} HTTP/1.0\r\nhost: {host}\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        text("key"),
        body.len()
    );
    stream.write_all(head.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answered");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    (status.expect("a status"), body.to_owned())
}

/// Each provider's rated reputation and audited jobs.
fn rated(data: &Path) -> Vec<(u64, u64)> {
    let providers = told(data, &["providers", "--json"]);
    let number = |row: &Value, key: &str| row[key].as_u64().unwrap_or_else(|| panic!("{row}"));
    let rows = providers.as_array().expect("a list").iter();
    rows.map(|row| (number(row, "rated"), number(row, "audited")))
        .collect()
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "{what}: not in time");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn honest_answers_are_computed_again_by_a_panel_and_raise_reputations() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let data = folder.path().join("data");
    let options = [
        "--batch-seconds",
        "2",
        "--providers",
        "2",
        "--validators",
        "3",
    ];
    let up = Up::start(&data, &options);
    for n in 0..4 {
        ask(&data, n);
    }
    let audited = |data: &Path| rated(data).iter().map(|(_, audited)| audited).sum::<u64>();
    until("four rulings", || audited(&data) == 4);
    let slashed: Vec<Value> = told(&data, &["providers", "--json"])
        .as_array()
        .expect("a list")
        .iter()
        .map(|row| row["slashed"].clone())
        .collect();
    assert_eq!(slashed, [json!("0"), json!("0")]);
    for (reputation, jobs) in rated(&data) {
        assert_eq!(reputation > 500_000, jobs > 0, "{reputation} {jobs}");
    }
    drop(up.end());
    // Works that are kept and seats that are held outlive a restart: what comes after is audited too.
    let up = Up::start(&data, &options);
    ask(&data, 4);
    until("a fifth ruling", || audited(&data) == 5);
    let log = up.end();
    assert!(!log.contains("ERROR"), "{log}");
}

/// The first provider is by far the cheapest: it gets the calls.
const CHEAP_FIRST: &str = r#"
[[providers]]
region = "XA"
input_price = "1"
output_price = "1"

[[providers]]
region = "XB"
input_price = "100"
output_price = "100"
"#;

/// A network whose first provider cheats: what becomes of it, of the developer's money and of the next call. The calls are bought by `buy`.
fn cheats(how: &str, kinds: &[&str], buy: impl Fn(&Up, &Path, usize)) {
    let folder = tempfile::tempdir().expect("temporary folder");
    let (data, settings) = (folder.path().join("data"), folder.path().join("my.toml"));
    std::fs::write(&settings, CHEAP_FIRST).expect("writes");
    let settings = settings.to_str().expect("UTF-8");
    let up = Up::start(
        &data,
        &[
            "--batch-seconds",
            "2",
            "--providers",
            "2",
            "--validators",
            "3",
            "--config",
            settings,
            "--cheat",
            how,
        ],
    );
    let network = std::fs::read_to_string(data.join("network.json")).expect("a network");
    let network: Value = serde_json::from_str(&network).expect("JSON");
    let cheat = network["providers"][0]
        .as_str()
        .expect("its account")
        .to_owned();
    let rows = |data: &Path| told(data, &["providers", "--json"]);
    let row_of = |rows: &Value, id: &str| {
        let rows = rows.as_array().expect("a list").iter();
        rows.clone()
            .find(|row| row["id"] == *id)
            .expect("listed")
            .clone()
    };
    // Calls go on, so that batches do: what stands late stands in a later one.
    let mut asked = 0;
    until("a slash", || {
        buy(&up, &data, asked);
        asked += 1;
        std::thread::sleep(Duration::from_millis(600));
        row_of(&rows(&data), &cheat)["slashed"] != "0"
    });
    let listed = rows(&data);
    assert_eq!(row_of(&listed, &cheat)["rated"], 0);
    let honest = network["providers"][1].as_str().expect("its account");
    assert_eq!(row_of(&listed, honest)["slashed"], "0");
    // The dear one gets the next call after its router has read of it.
    until("left by its router", || {
        row_of(&rows(&data), &cheat)["online"] == false
    });
    ask(&data, asked);
    let jobs = told(&data, &["jobs", "--json"]);
    assert_eq!(jobs[0]["provider"], *honest, "{jobs}");
    refunded_to_the_unit(&data, honest);
    let jobs = told(&data, &["jobs", "--json"]);
    let jobs = jobs.as_array().expect("a list").iter();
    let mut cheated = jobs.filter(|job| job["provider"] == *cheat).peekable();
    assert!(cheated.peek().is_some());
    let mut first = u64::MAX;
    for job in cheated {
        let job = job["job"].as_str().expect("an id").to_owned();
        let audit = &told(&data, &["explain", &job, "--json"])["audit"];
        let outcome = audit["outcome"].as_str().expect("ruled");
        assert!(kinds.contains(&outcome), "{audit}");
        assert_eq!(audit["reversed"], true, "{audit}");
        if let Some(batches) = audit["batches_to_slash"].as_u64() {
            // Counted on the chain: what the router had posted when the slash stood, after the batch that holds the job.
            first = first.min(audit["batch"].as_u64().expect("posted"));
            assert!(batches <= 2, "{audit}");
        }
    }
    assert_eq!(
        first, 1,
        "the first cheated job is of the first batch, and it is slashed for it"
    );
    drop(up.end());
}

/// Goes on calling until the vault has debited the developer: to the unit what the calls of the honest provider cost, up to one of them,
/// and nothing for the others.
fn refunded_to_the_unit(data: &Path, honest: &str) {
    let units = |value: &Value| value.as_str().and_then(|text| text.parse::<u128>().ok());
    // Amounts of the honest provider's jobs, summed from the oldest on.
    let sums = || {
        let jobs = told(data, &["jobs", "--json"]);
        let jobs = jobs.as_array().expect("a list").iter().rev();
        let right = jobs.filter(|job| job["provider"] == *honest);
        let amounts = right.map(|job| units(&job["amount"]).expect("units"));
        let mut sum = 0;
        amounts
            .map(|amount| {
                sum += amount;
                sum
            })
            .collect::<Vec<u128>>()
    };
    let mut next = 1_000;
    until("a debit", || {
        ask(data, next);
        next += 1;
        std::thread::sleep(Duration::from_millis(700));
        let account = told(data, &["account", "--json"]);
        let debited = units(&account["allotment"]["debited"]).expect("units");
        let sums = sums();
        assert!(
            debited == 0 || sums.contains(&debited),
            "{account} {sums:?}"
        );
        debited != 0
    });
    let account = told(data, &["account", "--json"]);
    assert_eq!(
        units(&account["charged"]).as_ref(),
        sums().last(),
        "{account}"
    );
}

#[test]
fn who_alters_answers_is_slashed_and_left_and_nothing_is_charged_for_them() {
    cheats("alter-output", &["wrong_output"], |_, data, n| ask(data, n));
}

#[test]
fn who_counts_too_much_is_slashed_and_left_and_nothing_is_charged_for_it() {
    cheats("overcount", &["wrong_count"], |_, data, n| ask(data, n));
}

#[test]
fn who_sells_another_model_s_answers_and_vectors_is_slashed_and_left_and_nothing_is_charged_for_it()
{
    // Vectors first: the first cheated job is slashed for, whatever came after it.
    let buy = |up: &Up, data: &Path, n: usize| match n % 2 {
        0 => embed(up, n),
        _ => ask(data, n),
    };
    cheats("swap-model", &["wrong_output", "wrong_count"], buy);
}

/// A devnet of two providers and three validators, the first of which cheats; an honest call is ruled good all the same. Gives what
/// `stoa validators` says of the cheat once it shows `fault`, which must be its only kind of fault.
fn validator_cheats(how: &str, fault: &str) -> Value {
    let folder = tempfile::tempdir().expect("temporary folder");
    let data = folder.path().join("data");
    let mut args = vec!["--batch-seconds", "2", "--providers", "2"];
    args.extend(["--validators", "3", "--cheat", how]);
    let up = Up::start(&data, &args);
    ask(&data, 0);
    let network = std::fs::read_to_string(data.join("network.json")).expect("a network");
    let network: Value = serde_json::from_str(&network).expect("JSON");
    let cheat = network["validators"][0].clone();
    let rows = || told(&data, &["validators", "--json"]);
    let row_of = |rows: &Value| {
        let rows = rows.as_array().expect("a list").iter();
        let mut cheats = rows.filter(|row| row["id"] == cheat);
        cheats.next().expect("listed").clone()
    };
    until("its fault", || {
        row_of(&rows())["faults"][fault] != Value::Null
    });
    // An honest majority rules all the same, and nobody else pays.
    until("a ruling", || {
        rated(&data).iter().map(|(_, audited)| audited).sum::<u64>() == 1
    });
    let listed = rows();
    for row in listed.as_array().expect("a list") {
        assert_eq!(row["id"] == cheat, row["slashed"] != "0", "{listed}");
    }
    for row in told(&data, &["providers", "--json"])
        .as_array()
        .expect("a list")
    {
        assert_eq!(row["slashed"], "0", "{row}");
    }
    let row = row_of(&listed);
    drop(up.end());
    row
}

#[test]
fn a_validator_that_always_accuses_pays_and_the_accused_does_not() {
    let row = validator_cheats("accuses", "dissent");
    assert_eq!(row["slashed"], "1000", "5 % of its stake: {row}");
    assert_eq!(row["seated"], true, "{row}");
    assert_eq!(row["shown"], row["ballots"], "{row}");
}

#[test]
fn a_validator_that_sleeps_pays_and_rounds_go_on_without_it() {
    let row = validator_cheats("sleeps", "missed_reveal");
    assert_eq!(row["ballots"], 0, "{row}");
}

#[test]
fn a_validator_that_copies_cannot_show_what_it_committed_and_pays() {
    let row = validator_cheats("copies", "missed_ballot");
    assert_eq!(row["shown"], 0, "{row}");
    assert_ne!(row["ballots"], 0, "{row}");
}

/// Plants that were named so far, as the metrics say.
fn plants_named(network: &Value) -> u64 {
    let url = network["metrics"].as_str().expect("its address");
    let address = url
        .trim_start_matches("http://")
        .trim_end_matches("/metrics");
    let mut stream = TcpStream::connect(address).expect("listens");
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("sends");
    let mut page = String::new();
    stream.read_to_string(&mut page).expect("reads");
    let mut lines = page
        .lines()
        .filter(|line| line.starts_with("stoa_planter_calls_total"));
    let line = lines.find(|line| line.contains("\"name\"") && line.contains("\"done\""));
    let value = line.and_then(|line| line.rsplit(' ').next());
    value
        .and_then(|value| value.parse::<f64>().ok())
        .expect("a plant was named") as u64
}

/// A planter's settings: sets of plants one after the other.
const PLANTER: &str = "[planter]\nrest_seconds = 1\npause_ms = 1\n";

#[test]
fn a_lazy_validator_loses_stake_by_a_plant_and_nobody_else_pays_for_it() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let (data, settings) = (folder.path().join("data"), folder.path().join("my.toml"));
    std::fs::write(&settings, PLANTER).expect("writes");
    let settings = settings.to_str().expect("UTF-8");
    let mut args = vec!["--batch-seconds", "2", "--providers", "2"];
    args.extend(["--validators", "3", "--cheat", "lazy", "--plants", "2"]);
    args.extend(["--config", settings]);
    let up = Up::start(&data, &args);
    let network = std::fs::read_to_string(data.join("network.json")).expect("a network");
    let network: Value = serde_json::from_str(&network).expect("JSON");
    let lazy = &network["validators"][0];
    let rows = || told(&data, &["validators", "--json"]);
    until("a slash", || {
        let rows = rows();
        let slashed = |row: &&Value| row["slashed"] != "0";
        rows.as_array()
            .expect("a list")
            .iter()
            .any(|row| slashed(&row))
    });
    let named = plants_named(&network);
    println!("the lazy validator lost stake after {named} plants");
    assert!(named <= 500, "{named}");
    for row in rows().as_array().expect("a list") {
        let faults = &row["faults"];
        if row["id"] == *lazy {
            assert_ne!(faults["dissent"], Value::Null, "{row}");
        } else {
            assert_eq!(
                (&row["slashed"], faults),
                (&json!("0"), &json!({})),
                "{row}"
            );
        }
    }
    // The provider that sold the wrong answers is the planter's: no reputation moved and no stake was lost.
    let providers = told(&data, &["providers", "--json"]);
    let providers = providers.as_array().expect("a list");
    assert_eq!(providers.len(), 3);
    for row in providers {
        assert_eq!(row["slashed"], "0", "{row}");
    }
    // It is open while its planter buys: a call of somebody else that falls into that moment may be sent to it, and no other.
    let known = network["providers"].as_array().expect("a list");
    let mut calls = 0;
    until("a call between the planter's purchases", || {
        ask(&data, calls);
        calls += 1;
        let jobs = told(&data, &["jobs", "--json"]);
        known.contains(&jobs[0]["provider"])
    });
    let log = up.end();
    assert!(!log.contains("ERROR"), "{log}");
}
