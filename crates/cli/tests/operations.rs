//! What operators are given: the metrics that the page lists are those that a running network shows, dashboard and alerts use no others,
//! the files in `deploy/` name options that there are, and a log of JSON says of which job it speaks and holds no secret.

mod support;
mod traces;

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use support::{Up, refused, stoa, told, value_of};
use yaml_rust2::{Yaml, YamlLoader};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Names and kinds in the table of `docs/operations.md`.
fn listed() -> BTreeMap<String, String> {
    let page = read("docs/operations.md");
    let rows = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `stoa_"));
    let row = |row: &str| {
        let mut cells = row.split('|').map(str::trim);
        let name = cells.next().expect("a name").trim_end_matches('`');
        (
            format!("stoa_{name}"),
            cells.next().expect("a kind").to_owned(),
        )
    };
    rows.map(row).collect()
}

/// Names of metrics in an expression, without what Prometheus appends to a histogram's.
fn metrics_in(expression: &str) -> BTreeSet<String> {
    let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let names = words.filter(|word| word.starts_with("stoa_"));
    names.map(plain).collect()
}

fn plain(name: &str) -> String {
    let plain = ["_bucket", "_sum", "_count"]
        .iter()
        .find_map(|end| name.strip_suffix(end));
    plain.unwrap_or(name).to_owned()
}

/// Only what went wrong, or an upstream server, shows these.
const NOT_IN_A_QUIET_NETWORK: &[&str] = &[
    "stoa_router_calls_shed_total",
    "stoa_router_spend_alerts_total",
    "stoa_router_undelivered_total",
    "stoa_claims_total",
    "stoa_router_deposits_lost_units",
    "stoa_router_journal_refused_total",
    "stoa_router_journal_waiting",
    "stoa_api_errors_total",
    "stoa_api_stream_errors_total",
    "stoa_api_clients_lost_total",
    "stoa_api_connections_refused_total",
    "stoa_telemetry_spans_total",
];

const PROMPT: &str = "Say xylophone-canary-7431";

#[test]
fn a_running_network_shows_the_metrics_that_are_listed_and_logs_jobs_by_id_and_no_secret() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let (data, log) = (folder.path().join("data"), folder.path().join("log"));
    let up = Up::start(&data, 3, &log);
    let answer = told(stoa(&data).args(["ask", PROMPT, "--json"]));
    let answer: Value = serde_json::from_str(&answer).expect("JSON");
    let job = answer["stoa"]["receipt"]["receipt"]["job_id"].clone();
    // Once it is settled, everything has been seen that a quiet network shows.
    let page = up.wait_for_posts(1.0);
    compare(&page);
    for (metric, expected) in [
        ("stoa_router_calls_total", 1.0),
        ("stoa_router_calls_ended_total{outcome=\"delivered\"}", 1.0),
        ("stoa_router_ttft_seconds_count", 1.0),
        ("stoa_router_providers_online", 3.0),
        ("stoa_router_chain_reachable", 1.0),
        ("stoa_router_books_match", 1.0),
        ("stoa_router_calls_active", 0.0),
        ("stoa_provider_link_up", 1.0),
    ] {
        assert_eq!(value_of(&page, metric), Some(expected), "{metric}");
    }
    assert!(value_of(&page, "stoa_router_charged_units_total") > Some(0.0));
    assert!(value_of(&page, "stoa_chain_head_block") > Some(0.0));
    up.stop();
    check_log(&fs::read_to_string(&log).expect("UTF-8"), &data, &job);
}

/// Whether a call must be audited first, which the next batches decide.
fn is_of_audits(name: &str) -> bool {
    [
        "stoa_router_works_kept",
        "stoa_router_audit_questions_total",
    ]
    .contains(&name)
}

fn compare(page: &str) {
    let shown: BTreeMap<String, String> = page
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .filter_map(|line| line.split_once(' '))
        .map(|(name, kind)| (name.to_owned(), kind.to_owned()))
        .collect();
    let listed = listed();
    for (name, kind) in &shown {
        assert_eq!(Some(kind), listed.get(name), "{name}: as the page says");
        let help = format!("# HELP {name} ");
        assert!(page.contains(&help), "{name} does not say what it is");
    }
    let quiet = |name: &&String| {
        !NOT_IN_A_QUIET_NETWORK.contains(&name.as_str())
            && !name.starts_with("stoa_upstream_")
            && !name.starts_with("stoa_validator_")
            && !name.starts_with("stoa_planter_")
            && !is_of_audits(name)
    };
    for name in listed.keys().filter(quiet) {
        assert!(shown.contains_key(name), "{name} is listed and not shown");
    }
}

fn check_log(log: &str, data: &Path, job: &Value) {
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}")))
        .collect();
    for line in &lines {
        assert!(
            line["timestamp"].is_string() && line["level"].is_string(),
            "{line}"
        );
    }
    let logged = |message: &str| {
        lines
            .iter()
            .any(|l| l["message"] == message && &l["job"] == job)
    };
    for message in ["job ordered", "job delivered", "job earned"] {
        assert!(logged(message), "`{message}` is not logged with its job");
    }
    let id = job.as_str().expect("an id");
    let nameless = lines
        .iter()
        .find(|l| l.to_string().contains(id) && &l["job"] != job);
    assert_eq!(nameless, None, "it speaks of a job without the field");
    assert!(!log.contains("xylophone"), "the prompt is in the log");
    for entry in fs::read_dir(data.join("keys")).expect("keys") {
        let key = fs::read_to_string(entry.expect("readable").path()).expect("text");
        assert!(!log.contains(key.trim()), "a key is in the log");
    }
}

fn yaml(path: &str) -> Yaml {
    let mut documents = YamlLoader::load_from_str(&read(path))
        .unwrap_or_else(|error| panic!("{path} is no YAML: {error}"));
    assert_eq!(documents.len(), 1, "{path}");
    documents.remove(0)
}

fn text(value: &Yaml) -> &str {
    value
        .as_str()
        .unwrap_or_else(|| panic!("no text: {value:?}"))
}

#[test]
fn the_dashboard_uses_metrics_that_there_are() {
    let dashboard: Value = serde_json::from_str(&read("deploy/grafana/stoa.json")).expect("JSON");
    let listed = listed();
    let (mut used, mut ids) = (BTreeSet::new(), BTreeSet::new());
    for panel in dashboard["panels"].as_array().expect("panels") {
        assert!(ids.insert(panel["id"].as_u64()), "an id twice: {panel}");
        for target in panel["targets"].as_array().into_iter().flatten() {
            used.extend(metrics_in(target["expr"].as_str().expect("an expression")));
        }
    }
    let unknown: Vec<_> = used.iter().filter(|m| !listed.contains_key(*m)).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    let unseen: Vec<_> = listed.keys().filter(|m| !used.contains(*m)).collect();
    assert_eq!(unseen, ["stoa_router_calls_total"], "on no panel");
}

#[test]
fn the_alerts_use_metrics_that_there_are_and_say_what_to_do() {
    let listed = listed();
    let prometheus = yaml("deploy/prometheus.yml");
    let files = prometheus["rule_files"].as_vec().expect("rule files");
    for file in files {
        let alerts = yaml(&format!("deploy/{}", text(file)));
        let rules = alerts["groups"][0]["rules"].as_vec().expect("rules");
        assert!(!rules.is_empty());
        let page = read("docs/operations.md");
        for rule in rules {
            let name = text(&rule["alert"]);
            for metric in metrics_in(text(&rule["expr"])) {
                assert!(listed.contains_key(&metric), "{name}: no {metric}");
            }
            for part in ["summary", "action"] {
                assert!(!text(&rule["annotations"][part]).is_empty(), "{name}");
            }
            assert!(page.contains(&format!("`{name}`")), "{name}: not explained");
        }
    }
}

/// Error codes that an answer may have, as the truth table names them.
fn codes() -> BTreeSet<String> {
    let source = read("crates/api/src/error.rs");
    let is_code = |text: &&str| text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    let texts = source.split('"').filter(is_code);
    texts.map(str::to_owned).collect()
}

#[test]
fn every_outcome_that_an_alert_waits_for_is_one_that_a_call_can_have() {
    let alerts = read("deploy/alerts.yml");
    let waited = alerts.split("outcome=~\"").skip(1);
    let mut seen = 0;
    for pattern in waited.filter_map(|rest| rest.split('"').next()) {
        for word in pattern.split('|') {
            let begins = word.strip_suffix(".*");
            let codes = codes();
            let there = match begins {
                Some(begin) => codes.iter().any(|code| code.starts_with(begin)),
                None => codes.contains(word),
            };
            assert!(there, "no call ends with {word}");
            seen += 1;
        }
    }
    assert!(seen > 5, "the alert on failed calls has outcomes");
}

#[test]
fn a_role_that_is_stopped_before_it_is_ready_says_so_and_does_not_end_as_if_all_were_well() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = |name: &str| folder.path().join(name);
    // The chain is gone when the router starts: it waits for it.
    let mut chain = stoa(&path("chain"))
        .args(["chain", "--json", "--port", "0"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut line = String::new();
    let out = chain.stdout.take().expect("piped");
    BufReader::new(out).read_line(&mut line).expect("reads");
    chain.kill().expect("killed");
    chain.wait().expect("waits");
    // It is handed out: a container's user and the user of a unit must be able to read a copy.
    let join = fs::metadata(path("chain/join.json")).expect("there");
    assert_eq!(join.permissions().mode() & 0o777, 0o644);
    for (signal, status) in [("-TERM", 143), ("-INT", 130)] {
        let mut router = stoa(&path("router"))
            .args(["router", "--api", "127.0.0.1:0", "--metrics", "127.0.0.1:0"])
            .arg("--join")
            .arg(path("chain/join.json"))
            .env("RUST_LOG", "stoa=loud")
            .stderr(Stdio::piped())
            .spawn()
            .expect("starts");
        let mut told = BufReader::new(router.stderr.take().expect("piped"));
        let mut text = String::new();
        while !text.contains("waiting for the chain") {
            assert!(told.read_line(&mut text).expect("reads") > 0, "{text}");
        }
        let pid = router.id().to_string();
        let sent = Command::new("kill").args([signal, &pid]).status();
        assert!(sent.expect("kill runs").success());
        assert_eq!(router.wait().expect("waits").code(), Some(status));
        told.read_to_string(&mut text).expect("reads");
        assert!(text.contains("stopped before it was ready"), "{text}");
        assert!(text.contains("RUST_LOG cannot be read"), "{text}");
    }
}

#[test]
fn a_role_alone_refuses_settings_that_up_refuses_before_it_makes_anything() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = |name: &str| folder.path().join(name);
    for (command, text, named) in [
        ("router", "[router]\ncalls_max = 0", "router.calls_max"),
        (
            "router",
            "[router.account_rate]\nrequests_per_minute = 0",
            "requests_per_minute",
        ),
        (
            "connect",
            "[developer]\nallotment_seconds = 1",
            "developer.allotment_seconds",
        ),
    ] {
        fs::write(path("settings.toml"), text).expect("written");
        let mut role = stoa(&path("data"));
        role.arg(command).arg("--config").arg(path("settings.toml"));
        if command == "connect" {
            let nobody = format!("0x{}", "11".repeat(20));
            role.args(["--router", &nobody, "--api", "http://127.0.0.1:1/v1"]);
        }
        let error = refused(&mut role);
        assert!(error.contains(named), "{command}: {error}");
        assert!(!path("data").exists(), "{command} made its folder");
    }
}

/// Whether the program knows every option: with `--help` behind them it says so before it does anything.
fn is_understood(arguments: &[String]) -> bool {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stoa"));
    let output = command.args(arguments).arg("--help").output();
    output.expect("starts").status.success()
}

#[test]
fn the_compose_file_is_one_and_names_files_and_options_that_there_are() {
    let error = refused(stoa(&root()).args(["provider", "--no-such-option", "--help"]));
    assert!(error.contains("--no-such-option"), "{error}");
    let compose = yaml("deploy/compose.yaml");
    let services = compose["services"].as_hash().expect("services");
    let names: Vec<_> = services.keys().map(text).collect();
    assert_eq!(names, ["backend", "agent", "prometheus", "grafana"]);
    let volumes = compose["volumes"].as_hash().expect("volumes");
    for (name, service) in services {
        for mount in service["volumes"].as_vec().into_iter().flatten() {
            let mount = text(mount);
            let (source, _) = mount.split_once(":/").expect("a place in the container");
            let known = volumes.contains_key(&Yaml::String(source.to_owned()));
            let there = root().join("deploy").join(source).exists();
            assert!(
                known || there || source.starts_with("${"),
                "{name:?}: {mount}"
            );
        }
    }
    let agent = &services[&Yaml::String("agent".to_owned())];
    let file = text(&agent["build"]["dockerfile"]);
    assert!(read(file).contains("ENTRYPOINT [\"stoa\"]"), "{file}");
    let command: Vec<_> = agent["command"].as_vec().expect("a command").clone();
    let command: Vec<_> = command.iter().map(|word| text(word).to_owned()).collect();
    assert!(is_understood(&command), "{command:?}");
    let port = command.last().and_then(|word| word.rsplit(':').next());
    let targets = &yaml("deploy/prometheus.yml")["scrape_configs"][0]["static_configs"][0];
    let target = text(&targets["targets"][0]);
    assert_eq!(target, format!("agent:{}", port.expect("a port")));
    for file in ["datasources/prometheus.yaml", "dashboards/stoa.yaml"] {
        yaml(&format!("deploy/grafana/provisioning/{file}"));
    }
}

#[test]
fn the_units_start_commands_that_there_are_in_folders_that_systemd_makes() {
    for role in ["chain", "router", "provider", "validator"] {
        let unit = read(&format!("deploy/systemd/stoa-{role}.service"));
        let value = |key: &str| {
            let line = unit.lines().find_map(|line| line.strip_prefix(key));
            line.unwrap_or_else(|| panic!("{role}: no {key}"))
        };
        let start = value("ExecStart=/usr/local/bin/stoa ");
        let command: Vec<_> = start.split(' ').map(str::to_owned).collect();
        assert_eq!(command[0], role);
        assert!(is_understood(&command), "{start}");
        let folder = value("StateDirectory=");
        let data = format!("STOA_DATA=/var/lib/{folder}/data ");
        assert!(value("Environment=").starts_with(&data), "{role}");
        assert_eq!(value("Restart="), "on-failure");
    }
}
