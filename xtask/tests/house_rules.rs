//! The house's own rules (docs/ARCHITECTURE.md, "Invariants"): each failure names the rule and what to do.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Rows of the workspace, lowest first. A crate may need crates of lower rows, and of its own row only among the words.
const ROWS: &[&[&str]] = &[
    &["types"],
    &["crypto", "openai"],
    &["market", "ledger", "verify"],
    &["nodes"],
    &["sim"],
    &["engine", "evm", "store", "net"],
    &["runtime", "chain", "api"],
    &["cli"],
];
/// Crates that must stay functions of input and time.
const PURE: &[&str] = &[
    "types", "crypto", "openai", "market", "ledger", "verify", "nodes",
];
/// Words that a pure crate must not say outside its tests, and what they would bring in.
const IMPURE: &[(&str, &str)] = &[
    ("std::time", "a clock"),
    ("SystemTime", "a clock"),
    ("Instant::now", "a clock"),
    ("std::net", "a socket"),
    ("std::fs", "a file"),
    ("std::env", "the environment"),
    ("std::process", "a process"),
    ("std::thread", "a thread"),
    ("tokio", "the runtime"),
    ("getrandom", "global randomness"),
    ("rand::", "global randomness"),
    ("HashMap", "an order that differs from run to run"),
    ("HashSet", "an order that differs from run to run"),
];
/// Files that may contain `unsafe`, each for one reason given at its top.
const UNSAFE: &[&str] = &["crates/engine/src/kernel/x86.rs"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask lies in the workspace")
        .to_owned()
}

fn row(name: &str) -> usize {
    ROWS.iter()
        .position(|row| row.contains(&name))
        .unwrap_or_else(|| panic!("crate `{name}` stands in no row: add it to ROWS"))
}

fn crates() -> Vec<String> {
    let folder = fs::read_dir(root().join("crates")).expect("crates/ exists");
    let mut names: Vec<_> = folder
        .map(|e| {
            e.expect("readable")
                .file_name()
                .into_string()
                .expect("UTF-8")
        })
        .collect();
    names.sort();
    names
}

/// Names of the workspace crates in a section of a manifest.
fn needs(name: &str, section: &str) -> Vec<String> {
    let text = fs::read_to_string(root().join("crates").join(name).join("Cargo.toml"))
        .expect("a manifest");
    let manifest: toml::Table = text.parse().expect("TOML");
    let table = manifest
        .get(section)
        .and_then(|s| s.as_table())
        .cloned()
        .unwrap_or_default();
    table
        .keys()
        .filter_map(|key| key.strip_prefix("stoa-").map(str::to_owned))
        .collect()
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// The part of a source file before its tests.
fn without_tests(text: &str) -> &str {
    text.split("#[cfg(test)]").next().unwrap_or(text)
}

#[test]
fn arrows_between_crates_point_down() {
    for name in crates() {
        for need in needs(&name, "dependencies") {
            let same_words = row(&name) == row(&need) && row(&name) < 2;
            assert!(
                row(&need) < row(&name) || same_words,
                "crate `{name}` needs `{need}`, which does not lie below it: move the code down, or pass a value instead"
            );
        }
    }
}

#[test]
fn every_row_names_crates_that_exist() {
    let existing = crates();
    for name in ROWS.iter().flat_map(|row| row.iter()) {
        assert!(
            existing.iter().any(|e| e == name),
            "ROWS names `{name}`, which is gone"
        );
    }
}

#[test]
fn cores_name_no_clock_socket_file_thread_runtime_or_global_randomness() {
    for name in PURE {
        let mut files = Vec::new();
        sources(&root().join("crates").join(name).join("src"), &mut files);
        for file in files.iter().filter(|f| !f.ends_with("tests.rs")) {
            let text = fs::read_to_string(file).expect("readable");
            let code = without_tests(&text)
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"));
            for (number, line) in code.enumerate() {
                for (word, brings) in IMPURE {
                    assert!(
                        !line.contains(word),
                        "{}: about line {}: `{word}` brings {brings} into a core: take it as an argument instead",
                        file.display(),
                        number + 1
                    );
                }
            }
        }
    }
}

#[test]
fn unsafe_code_stands_only_where_it_is_listed() {
    let mut files = Vec::new();
    sources(&root().join("crates"), &mut files);
    for file in files {
        let relative = file
            .strip_prefix(root())
            .expect("below the root")
            .to_string_lossy()
            .into_owned();
        let text = fs::read_to_string(&file).expect("readable");
        let found = text.lines().any(|line| {
            let code = line.split("//").next().unwrap_or(line);
            code.contains("unsafe {")
                || code.contains("unsafe fn")
                || code.contains("unsafe impl")
                || code.contains("unsafe extern")
        });
        assert!(
            !found || UNSAFE.contains(&relative.as_str()),
            "{relative} contains `unsafe` but is not on the list in this test"
        );
    }
}

/// Each heavy dependency sits behind one crate (design: one binary, rules that keep the build fast).
#[test]
fn each_heavy_dependency_has_one_home() {
    let homes: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("revm", &["evm", "chain"][..]), // chain: only in its differential test, the vault's bytecode in memory
        ("redb", &["evm", "store"][..]), // store: only in its benchmark, as the peer
        ("iroh", &["net"][..]),
        ("tokenizers", &["engine"][..]),
        ("axum", &["api", "evm", "cli"][..]),
        ("maud", &["api"][..]),
    ]);
    for name in crates() {
        let text = fs::read_to_string(root().join("crates").join(&name).join("Cargo.toml"))
            .expect("a manifest");
        let manifest: toml::Table = text.parse().expect("TOML");
        for section in ["dependencies", "dev-dependencies"] {
            for key in manifest
                .get(section)
                .and_then(|s| s.as_table())
                .into_iter()
                .flat_map(|t| t.keys())
            {
                if let Some(allowed) = homes.get(key.as_str()) {
                    assert!(
                        allowed.contains(&name.as_str()),
                        "`{key}` belongs behind {allowed:?}, but `{name}` names it"
                    );
                }
            }
        }
    }
}
