//! A planter as a process of its own.

use super::{PLANTER, Up, stoa, told, until};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::thread::JoinHandle;

/// A planter that runs, and whoever gives it what it asks for.
struct Alone {
    child: Child,
    ready: Value,
    giver: JoinHandle<String>,
}

/// Runs the commands that the planter names, in the folder of the chain; gives all that it said.
fn give(stderr: ChildStderr, chain: &Path) -> JoinHandle<String> {
    let chain = chain.to_owned();
    std::thread::spawn(move || {
        let mut log = String::new();
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            let wanted = line.split('`').nth(1);
            if let Some(fund) = wanted.and_then(|command| command.strip_prefix("stoa fund ")) {
                let args: Vec<_> = ["fund"].into_iter().chain(fund.split(' ')).collect();
                let given = stoa(&chain, &args).output().expect("starts");
                assert!(given.status.success(), "{args:?}: {given:?}");
            }
            log.push_str(&line);
            log.push('\n');
        }
        log
    })
}

impl Alone {
    fn start(data: &Path, chain: &Path, settings: &str, network: &Value) -> Self {
        let join = chain.join("join.json");
        let mut args = vec!["planter", "--json", "--config", settings];
        args.extend(["--join", join.to_str().expect("UTF-8")]);
        args.extend(["--router", network["router"].as_str().expect("named")]);
        args.extend(["--api", network["api"].as_str().expect("named")]);
        args.extend(["--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0"]);
        let mut child = stoa(data, &args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starts");
        let giver = give(child.stderr.take().expect("piped"), chain);
        let mut line = String::new();
        let stdout = child.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("reads");
        let ready = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line}"));
        Self {
            child,
            ready,
            giver,
        }
    }

    fn end(mut self) -> String {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-INT", &pid]).status();
        assert!(sent.expect("kill runs").success());
        assert!(self.child.wait().expect("waits").success());
        self.giver.join().expect("read")
    }
}

fn network(data: &Path) -> Value {
    let text = std::fs::read_to_string(data.join("network.json")).expect("a network");
    serde_json::from_str(&text).expect("JSON")
}

/// What the identity that is over holds begins to come back while the next one plants.
fn take_back_from_the_first(own: &Path, identity: &Value) {
    let whats = |listed: &Value| -> Vec<String> {
        let listed = listed.as_array().expect("a list").iter();
        let what = listed.map(|one| one["what"].as_str().expect("a word").to_owned());
        what.collect()
    };
    let first = told(own, &["take-back", "--json"]);
    assert_eq!(first.as_array().map(Vec::len), Some(1), "{first}");
    assert_eq!(first[0]["customer"], identity["customer"]);
    assert_eq!(first[0]["provider"], identity["provider"]);
    let moved = ["revoked", "leaving", "unbonding"];
    assert_eq!(whats(&first[0]["moved"]), moved, "{first}");
    let again = told(own, &["take-back", "--json"]);
    assert_eq!(again[0]["moved"], json!([]), "{again}");
    let waits = ["allotment", "stake"];
    assert_eq!(whats(&again[0]["waits"]), waits, "{again}");
    let said = stoa(own, &["take-back", "--all"]).output().expect("starts");
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.contains("in use by another process"), "{said}");
}

#[test]
fn a_planter_of_its_own_costs_the_lazy_validator_stake_and_goes_on_as_another_customer() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let (data, own) = (folder.path().join("data"), folder.path().join("planter"));
    let settings = folder.path().join("my.toml");
    let path = settings.to_str().expect("UTF-8");
    let planter = format!("{PLANTER}set = 2\nsets_per_identity = 1\n");
    std::fs::write(&settings, &planter).expect("writes");
    let mut args = vec!["--batch-seconds", "2", "--providers", "2", "--config", path];
    args.extend(["--validators", "3", "--cheat", "lazy"]);
    let up = Up::start(&data, &args);
    let alone = Alone::start(&own, &data, path, &network(&data));
    let identities = alone.ready["identities"]
        .as_array()
        .expect("a list")
        .clone();
    assert_eq!(identities.len(), 2);
    alone.end();
    up.end();
    // The router's operator lets both customers in.
    let keys = identities.iter().map(|identity| {
        let (account, hash) = (&identity["customer"], &identity["key_hash"]);
        format!("{{ account = {account}, hash = {hash} }}")
    });
    let keys = keys.collect::<Vec<_>>().join(", ");
    std::fs::write(&settings, format!("{planter}[router]\nkeys = [{keys}]\n")).expect("writes");
    let up = Up::start(&data, &args);
    let network = network(&data);
    let alone = Alone::start(&own, &data, path, &network);
    let rows = || told(&data, &["validators", "--json"]);
    until("a slash", || {
        let rows = rows();
        let mut rows = rows.as_array().expect("a list").iter();
        rows.any(|row| row["slashed"] != "0")
    });
    let second = &identities[1]["provider"];
    until("another provider", || {
        let providers = told(&data, &["providers", "--json"]);
        let mut rows = providers.as_array().expect("a list").iter();
        rows.any(|row| row["id"] == *second)
    });
    take_back_from_the_first(&own, &identities[0]);
    for row in rows().as_array().expect("a list") {
        let faults = &row["faults"];
        if row["id"] == network["validators"][0] {
            assert_ne!(faults["dissent"], Value::Null, "{row}");
        } else {
            assert_eq!(
                (&row["slashed"], faults),
                (&json!("0"), &json!({})),
                "{row}"
            );
        }
    }
    let providers = told(&data, &["providers", "--json"]);
    for row in providers.as_array().expect("a list") {
        assert_eq!(row["slashed"], "0", "{row}");
    }
    until("word of the third customer", || {
        let keys = std::fs::read_dir(own.join("keys")).expect("a folder");
        let mut names = keys.map(|entry| entry.expect("readable").file_name());
        names.any(|name| name == "planter-customer-2.key")
    });
    let log = alone.end();
    assert!(log.contains("takes over next"), "{log}");
    assert!(!log.contains("ERROR"), "{log}");
    up.end();
}
