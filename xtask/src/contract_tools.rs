//! Static analysis of the contracts, and where tools from PyPI are found: in an environment below `contracts/cache`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::contracts::{ContractsError, call, file, parse, read};

/// Where the explained findings stand.
const FINDINGS: &str = "../docs/contracts.md";

/// What slither wrote.
#[derive(Deserialize)]
struct Report {
    results: Results,
}

#[derive(Deserialize)]
struct Results {
    #[serde(default)]
    detectors: Vec<Finding>,
}

#[derive(Deserialize)]
struct Finding {
    check: String,
    elements: Vec<Element>,
}

/// A place in the sources: a function, a variable, a line.
#[derive(Deserialize)]
struct Element {
    #[serde(rename = "type")]
    kind: String,
    name: String,
    #[serde(default)]
    type_specific_fields: Within,
}

#[derive(Default, Deserialize)]
struct Within {
    parent: Option<Box<Element>>,
}

/// Findings by detector and place; line numbers would change with every edit above them.
type Findings = BTreeMap<(String, String), usize>;

/// Runs slither; every finding must be explained in docs/contracts.md, and every explanation must have its finding.
pub fn slither(contracts: &Path) -> Result<(), ContractsError> {
    let path = search_path(contracts)?;
    let report = contracts.join("cache/slither.json");
    if report.exists() {
        fs::remove_file(&report).map_err(|source| file(&report, source))?;
    }
    // Its own exit status says only that there are findings.
    let env = [("PATH", path.as_str()), ("FOUNDRY_PROFILE", "slither")];
    let _ = call(
        contracts,
        "slither",
        &[".", "--json", "cache/slither.json"],
        &env,
    );
    let found = count(&parse::<Report>(&report)?);
    let page = contracts.join(FINDINGS);
    let explained = explained(&String::from_utf8_lossy(&read(&page)?));
    let wrong: Vec<String> = found
        .keys()
        .chain(explained.keys())
        .filter(|key| found.get(*key) != explained.get(*key))
        .map(|key| {
            let times = |findings: &Findings| findings.get(key).copied().unwrap_or(0);
            let (check, place) = key;
            format!(
                "{check} in {place}: {} found, {} explained",
                times(&found),
                times(&explained)
            )
        })
        .collect();
    if wrong.is_empty() {
        println!(
            "contracts: slither has {} findings, all explained",
            found.values().sum::<usize>()
        );
        Ok(())
    } else {
        Err(ContractsError::Unexplained { findings: wrong })
    }
}

fn count(report: &Report) -> Findings {
    let mut findings = Findings::new();
    for finding in &report.results.detectors {
        let place = finding.elements.first().map(place).unwrap_or_default();
        *findings.entry((finding.check.clone(), place)).or_default() += 1;
    }
    findings
}

/// `Contract.function`, and the variable behind it if there is one.
fn place(element: &Element) -> String {
    match &element.type_specific_fields.parent {
        Some(parent) if element.kind == "node" => place(parent),
        Some(parent) if parent.kind == "contract" || parent.kind == "function" => {
            format!("{}.{}", place(parent), element.name)
        }
        _ => element.name.clone(),
    }
}

/// The rows `| detector | place | count | why |` of a page.
fn explained(page: &str) -> Findings {
    page.lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split('|').map(str::trim);
            let check = cells.next()?.trim_matches('`').to_owned();
            let place = cells.next()?.trim_matches('`').to_owned();
            let times = cells.next()?.parse().ok()?;
            cells
                .next()
                .filter(|why| !why.is_empty())
                .map(|_| ((check, place), times))
        })
        .collect()
}

/// Copies a folder with all that is in it.
pub(crate) fn copy_folder(from: &Path, to: &Path) -> Result<(), ContractsError> {
    fs::create_dir_all(to).map_err(|source| file(to, source))?;
    for entry in fs::read_dir(from).map_err(|source| file(from, source))? {
        let path = entry.map_err(|source| file(from, source))?.path();
        let target = to.join(path.file_name().unwrap_or_default());
        if path.is_dir() {
            copy_folder(&path, &target)?;
        } else {
            copy_file(&path, &target)?;
        }
    }
    Ok(())
}

/// Copies one file, over an older one if need be.
pub(crate) fn copy_file(from: &Path, to: &Path) -> Result<(), ContractsError> {
    fs::copy(from, to)
        .map(|_| ())
        .map_err(|source| file(from, source))
}

/// The search path under which the tools and forge are found; installs the pinned versions unless they are there.
pub(crate) fn search_path(contracts: &Path) -> Result<String, ContractsError> {
    let venv = contracts.join("cache/venv");
    let stamp = venv.join("requirements.txt");
    let wanted = contracts.join("tools/requirements.txt");
    if !stamp.exists() || read(&stamp)? != read(&wanted)? {
        call(contracts, "python3", &["-m", "venv", "cache/venv"], &[])?;
        let install = ["install", "-q", "-r", "tools/requirements.txt"];
        call(contracts, "cache/venv/bin/pip", &install, &[])?;
        copy_file(&wanted, &stamp)?;
    }
    let mut path = absolute(&venv.join("bin"))?;
    for name in forge_folders(contracts)? {
        path = format!("{path}:{}", absolute(&name)?);
    }
    let rest = std::env::var("PATH").unwrap_or_default();
    Ok(format!("{path}:{rest}"))
}

fn absolute(path: &Path) -> Result<String, ContractsError> {
    fs::canonicalize(path)
        .map(|path| path.to_string_lossy().into_owned())
        .map_err(|source| file(path, source))
}

/// Where npm puts forge: a package for each platform. Without one, forge must be on the search path already.
fn forge_folders(contracts: &Path) -> Result<Vec<PathBuf>, ContractsError> {
    let scope = contracts.join("node_modules/@foundry-rs");
    if !scope.exists() {
        return Ok(Vec::new());
    }
    let mut folders = Vec::new();
    for entry in fs::read_dir(&scope).map_err(|source| file(&scope, source))? {
        let bin = entry
            .map_err(|source| file(&scope, source))?
            .path()
            .join("bin");
        if bin.join("forge").exists() {
            folders.push(bin);
        }
    }
    Ok(folders)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_named_by_its_function_and_not_by_its_line() {
        let report = r#"{"results": {"detectors": [{"check": "timestamp", "elements": [{"type": "node", "name": "a < b",
            "type_specific_fields": {"parent": {"type": "function", "name": "release",
            "type_specific_fields": {"parent": {"type": "contract", "name": "PaymentVault"}}}}}]}]}}"#;
        let found = count(&serde_json::from_str(report).unwrap());
        let page = "| detector | place | count | why |\n| `timestamp` | `PaymentVault.release` | 1 | windows are long |\n";
        assert_eq!(found, explained(page));
        assert!(explained("| `timestamp` | `PaymentVault.release` | 1 | |\n").is_empty());
    }
}
