//! Static analysis and symbolic proofs of the contracts, with tools from PyPI in an environment below `contracts/cache`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use crate::contracts::{ContractsError, call, file, parse, read};

/// Where the explained findings stand.
const FINDINGS: &str = "../docs/contracts.md";
/// Halmos, and how it reaches both solvers; arrays of one entry and texts of 65 bytes bound calls with unknown arguments.
const HALMOS: [&str; 10] = [
    "--no-status",
    "--forge-build-out",
    "cache/halmos/out",
    "--default-array-lengths",
    "1",
    "--default-bytes-lengths",
    "65",
    "--solver-timeout-assertion",
    "900s",
    "--solver-command",
];

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

/// A change of a contract that a proof must notice.
#[derive(Deserialize)]
struct Mutation {
    proof: String,
    contract: String,
    file: String,
    find: String,
    put: String,
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

/// Proves all `check_` functions, then shows that each mutation is refuted by its proof.
pub fn proofs(contracts: &Path) -> Result<(), ContractsError> {
    let path = search_path(contracts)?;
    let env = [("PATH", path.as_str()), ("FOUNDRY_PROFILE", "halmos")];
    let all = [&HALMOS[..], &["python tools/solve", "--function", "check_"]].concat();
    call(contracts, "halmos", &all, &env)?;
    let mutations: Vec<Mutation> = parse(&contracts.join("test/halmos/mutations.json"))?;
    let copy = contracts.join("cache/mutant");
    for mutation in &mutations {
        refute(contracts, &copy, mutation, &env)?;
        println!("contracts: a mutation is refuted by {}", mutation.proof);
    }
    Ok(())
}

/// Changes one place in a copy; the proof must fail there, and the copy must compile.
fn refute(
    contracts: &Path,
    copy: &Path,
    mutation: &Mutation,
    env: &[(&str, &str)],
) -> Result<(), ContractsError> {
    if copy.join("src").exists() {
        fs::remove_dir_all(copy).map_err(|source| file(copy, source))?;
    }
    for folder in ["src", "test", "tools"] {
        copy_folder(&contracts.join(folder), &copy.join(folder))?;
    }
    for name in ["foundry.toml", "package.json", "package-lock.json"] {
        copy_file(&contracts.join(name), &copy.join(name))?;
    }
    call(
        copy,
        "ln",
        &["-s", "../../node_modules", "node_modules"],
        env,
    )?;
    let changed = copy.join(&mutation.file);
    let text = String::from_utf8_lossy(&read(&changed)?).into_owned();
    let survives = || ContractsError::Mutation {
        proof: mutation.proof.clone(),
        find: mutation.find.clone(),
    };
    if text.matches(&mutation.find).count() != 1 {
        return Err(survives());
    }
    let text = text.replace(&mutation.find, &mutation.put);
    fs::write(&changed, text).map_err(|source| file(&changed, source))?;
    call(copy, "forge", &["build", "-q"], env)?;
    let name = format!("^{}", mutation.proof);
    let which = [
        "--contract",
        &mutation.contract,
        "--early-exit",
        "--match-test",
        &name,
    ];
    match refuted(copy, &which, env)? {
        true => Ok(()),
        false => Err(survives()),
    }
}

/// A counterexample, and not merely a solver that gave up.
fn refuted(folder: &Path, which: &[&str], env: &[(&str, &str)]) -> Result<bool, ContractsError> {
    let output = Command::new("halmos")
        .args(HALMOS)
        .arg("python tools/solve")
        .args(which)
        .envs(env.iter().copied())
        .current_dir(folder)
        .output()
        .map_err(|source| ContractsError::Start {
            program: "halmos".to_owned(),
            source,
        })?;
    Ok(String::from_utf8_lossy(&output.stdout).contains("Counterexample"))
}

fn copy_folder(from: &Path, to: &Path) -> Result<(), ContractsError> {
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

fn copy_file(from: &Path, to: &Path) -> Result<(), ContractsError> {
    fs::copy(from, to)
        .map(|_| ())
        .map_err(|source| file(from, source))
}

/// The search path under which the tools and forge are found; installs the pinned versions unless they are there.
fn search_path(contracts: &Path) -> Result<String, ContractsError> {
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
