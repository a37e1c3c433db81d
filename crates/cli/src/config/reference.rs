//! `docs/configuration.md`, made of the types and of `config/default.toml`: which keys there are and of what type is asked of the parser,
//! so that the page cannot say otherwise than the program. `STOA_BLESS=1 cargo test -p stoa reference` writes it anew.

use super::{Config, DEFAULT};
use clap::CommandFactory;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;

/// What the types do not say of each key: its unit, and the commands that read it.
const ROWS: &[(&str, &str, &str)] = &[
    ("up.profile", "", "up, chain, doctor"),
    ("up.port", "", "up"),
    ("up.rpc_port", "", "up, chain"),
    ("up.metrics_port", "", "up"),
    ("up.providers", "providers", "up"),
    ("up.validators", "validators", "up"),
    ("up.plants", "plants", "up"),
    (
        "developer.deposit",
        "payment tokens",
        "up, connect, planter",
    ),
    ("developer.cap", "payment tokens", "up, connect, planter"),
    ("developer.allotment_seconds", "s", "up, connect, planter"),
    (
        "developer.renew_before_seconds",
        "s",
        "up, connect, planter",
    ),
    ("router.stake", "stake tokens", "up, router"),
    ("router.calls_max", "calls", "up, router"),
    ("router.claim_undelivered", "", "up, router"),
    ("router.header_hold_ms_max", "ms", "up, router"),
    ("router.listen", "", "router"),
    ("router.announce", "", "router"),
    ("router.hosts", "", "up, router"),
    ("router.api", "", "router"),
    ("router.metrics", "", "router"),
    ("router.keys", "", "up, router"),
    (
        "router.account_rate.requests_per_minute",
        "requests/min",
        "up, router",
    ),
    (
        "router.account_rate.tokens_per_minute",
        "tokens/min",
        "up, router",
    ),
    (
        "router.account_rate.pages_per_minute",
        "requests/min",
        "up, router",
    ),
    (
        "router.account_rate.reads_per_minute",
        "requests/min",
        "up, router",
    ),
    ("router.keys.account", "", "up, router"),
    ("router.keys.hash", "", "up, router"),
    ("validator.stake", "stake tokens", "up, validator"),
    ("validator.listen", "", "validator"),
    ("validator.metrics", "", "validator"),
    ("planter.rest_seconds", "s", "up, planter"),
    ("planter.pause_ms", "ms", "up, planter"),
    ("planter.prompts", "", "up, planter"),
    ("planter.alone", "", "up, planter"),
    ("planter.sets_per_identity", "sets", "up, planter"),
    ("planter.set", "plants", "planter"),
    ("planter.listen", "", "planter"),
    ("planter.metrics", "", "planter"),
    ("provider.stake", "stake tokens", "up, provider"),
    ("provider.slots", "jobs", "up, provider, doctor"),
    ("provider.reserved_percent", "%", "up, provider, doctor"),
    ("provider.windows", "", "up, provider"),
    ("provider.utc_offset_minutes", "min", "up, provider"),
    ("provider.claimed_tps", "tokens/s", "up, provider, doctor"),
    ("provider.listen", "", "provider"),
    ("provider.metrics", "", "provider"),
    (
        "engine.memory_mib",
        "MiB",
        "up, provider, validator, planter",
    ),
    (
        "engine.context_max",
        "tokens",
        "up, provider, validator, planter",
    ),
    ("engine.pinned", "", "up, provider, validator, planter"),
    ("upstream.url", "", "up, provider, doctor"),
    ("upstream.model", "", "up, provider, doctor"),
    ("upstream.key_file", "", "up, provider, doctor"),
    ("upstream.context", "tokens", "up, provider, doctor"),
    ("upstream.concurrency", "requests", "up, provider, doctor"),
    (
        "upstream.message_overhead",
        "tokens",
        "up, provider, doctor",
    ),
    ("upstream.first_event_seconds", "s", "up, provider, doctor"),
    ("upstream.silence_seconds", "s", "up, provider, doctor"),
    ("telemetry.otlp", "", "up, router, provider, validator"),
    (
        "telemetry.traces_per_second",
        "calls/s",
        "up, router, provider, validator",
    ),
    ("providers.region", "", "up, provider"),
    (
        "providers.input_price",
        "payment tokens per 10^6 tokens",
        "up, provider, doctor",
    ),
    (
        "providers.output_price",
        "payment tokens per 10^6 tokens",
        "up, provider, doctor",
    ),
    ("providers.slots", "jobs", "up, provider, doctor"),
    ("providers.reserved_percent", "%", "up, provider, doctor"),
    ("providers.windows", "", "up, provider"),
];

/// Tables within tables, with their own part of the page.
const NESTED: &[&str] = &["router.account_rate", "router.keys"];

/// What the parser says to `text` laid over the defaults.
fn complaint(text: &str) -> String {
    Config::layered(DEFAULT, text, "")
        .err()
        .unwrap_or_else(|| panic!("this is to be refused: {text}"))
        .to_string()
}

/// The words between backquotes behind `expected`.
fn expected_fields(text: &str) -> Vec<String> {
    let told = complaint(text);
    let (_, fields) = told.split_once("expected").expect("it lists the fields");
    let words = fields.split('`').skip(1).step_by(2);
    words.map(str::to_owned).collect()
}

/// The settings of a place in the file: a whole entry with `assignment` in it.
fn place(section: &str, assignment: &str) -> String {
    match section {
        "providers" => format!("[[providers]]\n{assignment}\n"),
        "router.keys" => format!("[router]\nkeys = [{{ {assignment} }}]\n"),
        section => format!("[{section}]\n{assignment}\n"),
    }
}

fn type_of(section: &str, key: &str) -> String {
    // A table with one odd key is of no setting's type.
    let told = complaint(&place(section, &format!("{key} = {{ odd = 1 }}")));
    let (_, told) = told
        .rsplit_once("expected ")
        .unwrap_or_else(|| panic!("{section}.{key}: {told}"));
    let integer = |low: &str, high: &str| format!("integer, {low} to {high}");
    match told {
        "u8" => integer("0", "255"),
        "u16" => integer("0", "65535"),
        "u32" => integer("0", "2^32 - 1"),
        "u64" => integer("0", "2^63 - 1"),
        "i32" => integer("-2^31", "2^31 - 1"),
        "a sequence" => "list".to_owned(),
        "a string" | "string" => "string".to_owned(),
        "socket address" => "IP:PORT".to_owned(),
        other => other.to_owned(),
    }
}

/// Default and meaning of each key of the default file, and the meaning of each section; of a list's entries the first counts.
fn told_by_default_file() -> BTreeMap<String, (String, String)> {
    let (mut told, mut section) = (BTreeMap::new(), "");
    for line in DEFAULT.lines() {
        let (code, comment) = line.split_once(" # ").unwrap_or((line, ""));
        let (code, comment) = (code.trim(), comment.trim().to_owned());
        if let Some(name) = code.strip_prefix('[') {
            section = name.trim_matches(['[', ']']);
            told.entry(section.to_owned())
                .or_insert((String::new(), comment));
        } else if let Some((key, value)) = code.split_once(" = ") {
            let name = format!("{section}.{key}");
            told.entry(name).or_insert((value.to_owned(), comment));
        }
    }
    told
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

fn section_table(page: &mut String, section: &str, told: &BTreeMap<String, (String, String)>) {
    let title = match section {
        "providers" => "[[providers]]".to_owned(),
        "router.keys" => "[[router.keys]]".to_owned(),
        section => format!("[{section}]"),
    };
    let about = told.get(section).map_or("", |(_, comment)| comment);
    let _ = write!(page, "\n## `{title}`\n\n");
    if !about.is_empty() {
        let _ = write!(page, "{}.\n\n", about.trim_end_matches('.'));
    }
    page.push_str("| key | type | default | unit | read by | |\n|---|---|---|---|---|---|\n");
    for key in expected_fields(&place(section, "odd_one = 1")) {
        let name = format!("{section}.{key}");
        if NESTED.contains(&name.as_str()) && !ROWS.iter().any(|row| row.0 == name) {
            continue;
        }
        let (_, unit, commands) = ROWS
            .iter()
            .find(|row| row.0 == name)
            .unwrap_or_else(|| panic!("{name}: say its unit and who reads it in ROWS"));
        let (default, comment) = match told.get(&name) {
            Some((value, comment)) => (format!("`{value}`"), comment.clone()),
            None if section == "providers" => {
                (format!("`provider.{key}`"), "of this provider".to_owned())
            }
            None => ("none".to_owned(), String::new()),
        };
        let kind = type_of(section, &key);
        let _ = writeln!(
            page,
            "| `{key}` | {kind} | {} | {unit} | {commands} | {} |",
            cell(&default),
            cell(&comment)
        );
    }
}

/// Environment variables that options are taken from.
fn environment(page: &mut String) {
    page.push_str("\n## Environment\n\n| variable | in place of | |\n|---|---|---|\n");
    let mut rows = BTreeSet::new();
    let mut pending = vec![crate::Cli::command()];
    while let Some(command) = pending.pop() {
        for option in command.get_arguments() {
            if let (Some(variable), Some(long)) = (option.get_env(), option.get_long()) {
                let help = option.get_help().map(ToString::to_string);
                let help = help.unwrap_or_default();
                let variable = variable.to_string_lossy();
                // Several commands may take the same option.
                rows.insert(format!("| `{variable}` | `--{long}` | {} |\n", cell(&help)));
            }
        }
        pending.extend(command.get_subcommands().cloned());
    }
    page.extend(rows);
    page.push_str(
        "| `OTEL_EXPORTER_OTLP_HEADERS` | | `name=value` pairs, separated by commas, values percent-encoded: sent to the collector with every request |\n\
         | `RUST_LOG` | | what is logged, by module and level; `info,iroh=warn,noq=warn` if not set |\n\
         | `NO_COLOR` | | if set, the log has no colours |\n",
    );
}

fn page() -> String {
    let mut page = "# Configuration\n\nMade of the types in `crates/cli/src/config.rs` and of [default.toml](../config/default.toml), which is the \
        default itself: a test\ncompares this page with both. A file named with `--config` is laid over the defaults: name only what differs; a list \
        replaces the whole list;\nan unknown key is refused. Options on the command line come before the file. Numbers of the protocol (fees, windows, \
        limits) are in\n[profiles](../config/profiles/) and are the same for a whole network.\n"
        .to_owned();
    let told = told_by_default_file();
    for section in expected_fields("odd_one = 1") {
        section_table(&mut page, &section, &told);
        let within = format!("{section}.");
        for nested in NESTED.iter().filter(|name| name.starts_with(&within)) {
            section_table(&mut page, nested, &told);
        }
    }
    environment(&mut page);
    page
}

#[test]
fn the_reference_of_the_settings_is_what_types_and_defaults_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
    let page = page();
    if std::env::var_os("STOA_BLESS").is_some() {
        std::fs::write(&path, &page).expect("writes");
    }
    for (name, ..) in ROWS {
        let key = name.rsplit('.').next().unwrap_or_default();
        assert!(
            page.contains(&format!("\n| `{key}` |")),
            "there is no {name}"
        );
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == page,
        "docs/configuration.md is stale; write it anew with STOA_BLESS=1 cargo test -p stoa reference"
    );
}

#[test]
fn every_setting_of_the_default_file_says_what_it_means() {
    for (name, (_, comment)) in told_by_default_file() {
        let explained_above = name.starts_with("providers.") || name == "upstream";
        assert!(explained_above || !comment.is_empty(), "{name}");
    }
}
