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
    &["grammar"],
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
const UNSAFE: &[&str] = &[
    "crates/engine/src/kernel/neon.rs",
    "crates/engine/src/kernel/x86.rs",
    "crates/engine/src/mapping.rs",
    "fuzz/src/gauge.rs",
];

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

fn manifest(path: &Path) -> toml::Table {
    let text = fs::read_to_string(path).expect("a manifest");
    text.parse().expect("TOML")
}

fn member(name: &str) -> toml::Table {
    manifest(&root().join("crates").join(name).join("Cargo.toml"))
}

/// All dependencies of the given kinds, also those for one platform only: name and what is said of it.
fn dependencies(manifest: &toml::Table, kinds: &[&str]) -> Vec<(String, toml::Value)> {
    let platforms = manifest.get("target").and_then(toml::Value::as_table);
    let platforms = platforms.into_iter().flat_map(|table| table.values());
    let tables = platforms
        .filter_map(toml::Value::as_table)
        .chain([manifest]);
    let sections = tables.flat_map(|table| kinds.iter().filter_map(|kind| table.get(*kind)));
    sections
        .filter_map(toml::Value::as_table)
        .flat_map(|section| section.clone())
        .collect()
}

/// What a program is built from; what tests need beside it.
const BUILT: &[&str] = &["dependencies", "build-dependencies"];
const ALL: &[&str] = &["dependencies", "build-dependencies", "dev-dependencies"];

/// Names of the workspace crates that a crate is built from.
fn needs(manifest: &toml::Table) -> Vec<String> {
    let names = dependencies(manifest, BUILT).into_iter();
    names
        .filter_map(|(key, _)| key.strip_prefix("stoa-").map(str::to_owned))
        .collect()
}

/// Whether crate `name` may need crate `need`.
fn points_down(name: &str, need: &str) -> bool {
    let same_words = row(name) == row(need) && row(name) < 2;
    row(need) < row(name) || same_words
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

/// A source file without comments and without its items for tests: numbered lines.
fn code(text: &str) -> Vec<(usize, &str)> {
    let mut lines = text.lines().enumerate();
    let mut kept = Vec::new();
    while let Some((number, line)) = lines.next() {
        if line.trim() == "#[cfg(test)]" {
            // The item ends with its first line, or with a brace as far to the right as it began.
            let end = line.replace("#[cfg(test)]", "}");
            let mut first = true;
            for (_, line) in lines.by_ref() {
                let attribute = first && line.trim_start().starts_with("#[");
                if line == end || (first && !attribute && line.trim_end().ends_with([';', '}'])) {
                    break;
                }
                first &= attribute;
            }
        } else if !line.trim_start().starts_with("//") {
            kept.push((number + 1, line));
        }
    }
    kept
}

/// The first impure word of a source file: line, word, and what it brings.
fn impure(text: &str) -> Option<(usize, &'static str, &'static str)> {
    let code = code(text);
    let found = code.iter().find_map(|(number, line)| {
        let word = IMPURE.iter().find(|(word, _)| line.contains(word));
        word.map(|(word, brings)| (*number, *word, *brings))
    });
    // `use std::{fs, time::Instant};` names the same, over several lines perhaps.
    found.or_else(|| {
        let joined: String = code.iter().map(|(_, line)| line.trim()).collect();
        let groups = joined.split("std::{").skip(1);
        let words = groups.flat_map(|rest| {
            let group = rest.split(';').next().unwrap_or(rest);
            group.split(['{', '}', ',', ':', ' ']).collect::<Vec<_>>()
        });
        let named: Vec<_> = words.collect();
        let of_std = |(word, _): &&(&str, &str)| {
            word.strip_prefix("std::")
                .is_some_and(|word| named.contains(&word))
        };
        let (word, brings) = IMPURE.iter().find(of_std)?;
        Some((0, *word, *brings))
    })
}

/// Whether a source file says `unsafe` in its code: a block, a function, an implementation, an attribute.
fn says_unsafe(text: &str) -> bool {
    text.lines().any(|line| {
        let code = line.split("//").next().unwrap_or(line);
        let mut rest = code;
        while let Some(at) = rest.find("unsafe") {
            let before = rest[..at].chars().next_back();
            let after = rest[at + "unsafe".len()..].chars().next();
            let in_name = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
            // `-` and quotes: a word in a text, as in a content security policy.
            let in_text = |c: Option<char>| c.is_some_and(|c| matches!(c, '-' | '"' | '\'' | '`'));
            if !in_name(before) && !in_name(after) && !in_text(before) && !in_text(after) {
                return true;
            }
            rest = &rest[at + "unsafe".len()..];
        }
        false
    })
}

#[test]
fn arrows_between_crates_point_down() {
    for name in crates() {
        for need in needs(&member(&name)) {
            assert!(
                points_down(&name, &need),
                "crate `{name}` needs `{need}`, which does not lie below it: move the code down, or pass a value instead"
            );
        }
    }
}

/// One version and one feature set for each dependency; a renamed one would slip past the other rules.
#[test]
fn members_take_their_dependencies_from_the_workspace_as_they_are() {
    let workspace_only: toml::Value =
        toml::Table::from_iter([("workspace".to_owned(), true.into())]).into();
    let mut used: Vec<String> = Vec::new();
    let mut members: Vec<_> = crates().iter().map(|name| member(name)).collect();
    members.push(manifest(&root().join("xtask/Cargo.toml")));
    for member in &members {
        for (name, said) in dependencies(member, ALL) {
            assert_eq!(
                said, workspace_only,
                "write `{name}.workspace = true` and set version and features in the root's Cargo.toml"
            );
            used.push(name);
        }
    }
    let workspace = manifest(&root().join("Cargo.toml"));
    let offered = workspace["workspace"]["dependencies"]
        .as_table()
        .expect("a table");
    for (name, said) in offered {
        let ours = said.get("path").is_some();
        assert!(
            ours || used.contains(name),
            "no crate uses `{name}`: take it out of the root's Cargo.toml"
        );
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
        assert!(!files.is_empty(), "crate `{name}` has no source");
        for file in files.iter().filter(|f| !f.ends_with("tests.rs")) {
            let text = fs::read_to_string(file).expect("readable");
            if let Some((line, word, brings)) = impure(&text) {
                panic!(
                    "{}: line {line}: `{word}` brings {brings} into a core: take it as an argument instead",
                    file.display()
                );
            }
        }
    }
}

#[test]
fn unsafe_code_stands_only_where_it_is_listed() {
    let mut files = Vec::new();
    sources(&root().join("crates"), &mut files);
    sources(&root().join("xtask/src"), &mut files);
    sources(&root().join("fuzz/src"), &mut files);
    let mut listed = UNSAFE.to_vec();
    for file in files {
        let relative = file
            .strip_prefix(root())
            .expect("below the root")
            .to_string_lossy()
            .into_owned();
        let text = fs::read_to_string(&file).expect("readable");
        if says_unsafe(&text) {
            assert!(
                UNSAFE.contains(&relative.as_str()),
                "{relative} contains `unsafe` but is not on the list in this test"
            );
            listed.retain(|name| *name != relative);
        }
    }
    assert!(listed.is_empty(), "listed without need: {listed:?}");
}

/// Each heavy dependency sits behind one crate (design: one binary, rules that keep the build fast).
#[test]
fn each_heavy_dependency_has_one_home() {
    let homes: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("revm", &["evm", "chain"][..]), // chain: only in its differential test, the vault's bytecode in memory
        ("redb", &["evm", "store"][..]), // store: only in its benchmark, as the peer
        ("iroh", &["net"][..]),
        ("tokenizers", &["engine"][..]),
        ("llguidance", &["grammar"][..]),
        ("toktrie", &["grammar"][..]),
        ("axum", &["api", "evm", "cli"][..]),
        ("maud", &["api"][..]),
        // Each speaks to another server of others: a chain's RPC, an inference server, a router's API (0021).
        ("reqwest", &["chain", "runtime", "cli"][..]),
    ]);
    for name in crates() {
        for (key, _) in dependencies(&member(&name), ALL) {
            if let Some(allowed) = homes.get(key.as_str()) {
                assert!(
                    allowed.contains(&name.as_str()),
                    "`{key}` belongs behind {allowed:?}, but `{name}` names it"
                );
            }
        }
    }
}

/// The rules themselves: each must notice what it is there for.
mod notices {
    use super::*;

    #[test]
    fn an_arrow_that_points_up_or_sideways_whatever_section_it_stands_in() {
        for section in [
            "dependencies",
            "build-dependencies",
            "target.'cfg(unix)'.dependencies",
        ] {
            let text = format!("[{section}]\nstoa-nodes.workspace = true\nserde.workspace = true");
            assert_eq!(needs(&text.parse().expect("TOML")), ["nodes"], "{section}");
        }
        let test_only = "[dev-dependencies]\nstoa-nodes.workspace = true";
        assert!(needs(&test_only.parse().expect("TOML")).is_empty());
        assert!(points_down("nodes", "ledger") && points_down("types", "types"));
        assert!(!points_down("ledger", "nodes"), "up");
        assert!(!points_down("ledger", "market"), "sideways");
    }

    #[test]
    fn an_impure_word_wherever_it_stands_but_not_in_tests_and_comments() {
        let after_tests = "#[cfg(test)]\nmod tests {\n    use std::fs;\n}\nuse std::thread;\n";
        assert_eq!(impure(after_tests), Some((5, "std::thread", "a thread")));
        let after_one = "#[cfg(test)]\nmod tests;\nfn f() -> HashMap<u8, u8> {}\n";
        assert_eq!(impure(after_one).map(|(line, ..)| line), Some(3));
        let helper = "#[cfg(test)]\nimpl A {\n    fn f() {}\n}\nfn now() { Instant::now() }";
        assert_eq!(impure(helper).map(|(line, ..)| line), Some(5));
        let grouped = "use std::{\n    collections::BTreeMap,\n    time::{Duration, Instant},\n};";
        assert_eq!(impure(grouped), Some((0, "std::time", "a clock")));
        for pure in [
            "// std::fs is not used here",
            "#[cfg(test)]\nmod tests {\n    use std::fs;\n}",
            "#[cfg(test)]\n#[allow(unused)]\nmod tests {\n    use std::fs;\n}",
            "use std::{collections::BTreeMap, fmt};",
        ] {
            assert_eq!(impure(pure), None, "{pure}");
        }
    }

    #[test]
    fn unsafe_in_any_form_but_not_as_a_word() {
        for code in [
            "unsafe { f() }",
            "pub unsafe fn f();",
            "unsafe impl Send for A {}",
            "unsafe trait A {}",
            "#[unsafe(no_mangle)]",
            "    unsafe",
        ] {
            assert!(says_unsafe(code), "{code}");
        }
        for code in [
            "// unsafe { }",
            "#![deny(unsafe_code)]",
            "\"script-src 'unsafe-inline'\"",
            "contains(\"unsafe\")",
        ] {
            assert!(!says_unsafe(code), "{code}");
        }
    }
}
