//! Symbolic proofs of the contracts, and the mutations that show that each proof would notice something.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use serde::Deserialize;

use crate::contract_tools::{copy_file, copy_folder, search_path};
use crate::contracts::{ContractsError, call, file, parse, read};

/// Halmos, and how it reaches the solvers, one at a time beside itself. Arrays of one entry and texts of 65 bytes bound calls with unknown
/// arguments; a query that nobody answers in its time fails its proof and no other. A proof fails on an assertion and on an overflow of
/// its own sums.
const HALMOS: [&str; 17] = [
    "--no-status",
    "--forge-build-out",
    "cache/halmos/out",
    "--default-array-lengths",
    "1",
    "--default-bytes-lengths",
    "65",
    "--solver-timeout-assertion",
    "180s",
    "--solver-threads",
    "1",
    "--panic-error-codes",
    "0x01,0x11",
    "--solver-command",
    "python tools/solve",
    "--json-output",
    RESULTS,
];
/// Where halmos writes what came of each proof.
const RESULTS: &str = "cache/proofs.json";
/// Where the proofs stand.
const PROOFS: &str = "test/halmos";

/// A change of a contract that a proof must notice.
#[derive(Deserialize)]
struct Mutation {
    proof: String,
    contract: String,
    file: String,
    find: String,
    put: String,
}

/// What halmos wrote: results by contract.
#[derive(Deserialize)]
struct Results {
    test_results: BTreeMap<String, Vec<Proof>>,
}

/// What came of one proof.
#[derive(Deserialize)]
struct Proof {
    /// With the types of its arguments.
    name: String,
    exitcode: u8,
    models: Vec<Model>,
    num_paths: (u64, u64, u64),
    time: (f64, f64, f64),
    num_bounded_loops: u64,
}

/// Arguments for which a proof fails.
#[derive(Deserialize)]
struct Model {
    is_valid: bool,
}

/// What came of a proof, on the contracts or on a mutation of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Proved,
    Refuted,
    Unanswered,
    Unfollowed,
    AllRefused,
    NotRun,
    Misfit,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Proved => "proved",
            Self::Refuted => "refuted",
            Self::Unanswered => "no solver answered in time",
            Self::Unfollowed => "a path was not followed to its end",
            Self::AllRefused => "every path is refused, nothing is proved",
            Self::NotRun => "halmos did not run it, or it does not compile",
            Self::Misfit => "the mutated text does not stand in the source exactly once",
        })
    }
}

impl Proof {
    /// By halmos' exit codes; a loop that was cut off is no proof, and a model that may not be one refutes nothing.
    fn outcome(&self) -> Outcome {
        match self.exitcode {
            0 if self.num_bounded_loops == 0 => Outcome::Proved,
            1 if self.models.iter().any(|model| model.is_valid) => Outcome::Refuted,
            1 | 2 => Outcome::Unanswered,
            4 => Outcome::AllRefused,
            _ => Outcome::Unfollowed,
        }
    }

    fn name(&self) -> &str {
        self.name.split('(').next().unwrap_or_default()
    }
}

/// One line of the table at the end.
struct Row {
    name: String,
    seconds: f64,
    paths: u64,
    outcome: Outcome,
    wanted: Outcome,
}

/// Proves all `check_` functions with `only` in their names where `prove` asks for it, then shows that each mutation is refuted by its
/// proof. Goes on past what fails, and ends with a table.
pub fn proofs(contracts: &Path, prove: bool, only: &str) -> Result<(), ContractsError> {
    let path = search_path(contracts)?;
    let env = [("PATH", path.as_str()), ("FOUNDRY_PROFILE", "halmos")];
    let mut rows = if prove {
        prove_all(contracts, only, &env)?
    } else {
        Vec::new()
    };
    let mutations: Vec<Mutation> = parse(&contracts.join(PROOFS).join("mutations.json"))?;
    for mutation in mutations.iter().filter(|m| m.proof.contains(only)) {
        let row = refute(contracts, mutation, &env)?;
        println!("contracts: {}: {}", row.name, row.outcome);
        rows.push(row);
    }
    print!("{}", table(&rows));
    let mut wrong: Vec<String> = rows
        .iter()
        .filter(|row| row.outcome != row.wanted)
        .map(|row| format!("{}: {}", row.name, row.outcome))
        .collect();
    if rows.is_empty() {
        wrong.push(format!("no proof has `{only}` in its name"));
    }
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(ContractsError::Unproved { rows: wrong })
    }
}

/// A row for every such `check_` function of the sources, also for one that halmos did not run.
fn prove_all(
    contracts: &Path,
    only: &str,
    env: &[(&str, &str)],
) -> Result<Vec<Row>, ContractsError> {
    let names = format!("^check_\\w*{only}");
    let ran = halmos(contracts, &["--match-test", &names], Stdio::inherit(), env)?;
    let mut missing = proof_names(contracts)?;
    missing.retain(|name| name.contains(only));
    let mut rows: Vec<Row> = Vec::new();
    for proof in &ran {
        missing.remove(proof.name());
        rows.push(Row {
            name: proof.name().to_owned(),
            seconds: proof.time.0,
            paths: proof.num_paths.0,
            outcome: proof.outcome(),
            wanted: Outcome::Proved,
        });
    }
    rows.extend(missing.into_iter().map(|name| Row {
        name,
        seconds: 0.0,
        paths: 0,
        outcome: Outcome::NotRun,
        wanted: Outcome::Proved,
    }));
    Ok(rows)
}

/// The names of all proofs in the sources.
fn proof_names(contracts: &Path) -> Result<BTreeSet<String>, ContractsError> {
    let folder = contracts.join(PROOFS);
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(&folder).map_err(|source| file(&folder, source))? {
        let path = entry.map_err(|source| file(&folder, source))?.path();
        let text = String::from_utf8_lossy(&read(&path)?).into_owned();
        names.extend(names_in(&text));
    }
    Ok(names)
}

fn names_in(text: &str) -> BTreeSet<String> {
    text.lines()
        .filter_map(|line| line.trim_start().strip_prefix("function "))
        .filter_map(|line| line.split('(').next())
        .filter(|name| name.starts_with("check_"))
        .map(str::to_owned)
        .collect()
}

/// Changes one place in a copy and runs the one proof there.
fn refute(
    contracts: &Path,
    mutation: &Mutation,
    env: &[(&str, &str)],
) -> Result<Row, ContractsError> {
    let started = Instant::now();
    let copy = contracts.join("cache/mutant").join(&mutation.contract);
    let mut row = Row {
        name: format!("{} with `{}`", mutation.proof, mutation.put),
        seconds: 0.0,
        paths: 0,
        outcome: Outcome::Misfit,
        wanted: Outcome::Refuted,
    };
    copy_for(contracts, &copy, &mutation.contract, env)?;
    let changed = copy.join(&mutation.file);
    let text = String::from_utf8_lossy(&read(&changed)?).into_owned();
    if text.matches(&mutation.find).count() == 1 {
        let text = text.replace(&mutation.find, &mutation.put);
        fs::write(&changed, text).map_err(|source| file(&changed, source))?;
        let name = format!("^{}\\(", mutation.proof);
        let which = ["--early-exit", "--match-test", &name];
        let ran = halmos(&copy, &which, Stdio::null(), env)?;
        row.outcome = ran.first().map_or(Outcome::NotRun, Proof::outcome);
        row.paths = ran.first().map_or(0, |proof| proof.num_paths.0);
    }
    row.seconds = started.elapsed().as_secs_f64();
    Ok(row)
}

/// A fresh copy of what one contract of proofs needs. What forge compiled there stays: it recompiles only what differs.
fn copy_for(
    contracts: &Path,
    copy: &Path,
    contract: &str,
    env: &[(&str, &str)],
) -> Result<(), ContractsError> {
    for folder in ["src", "test", "tools"] {
        let to = copy.join(folder);
        if to.exists() {
            fs::remove_dir_all(&to).map_err(|source| file(&to, source))?;
        }
    }
    for folder in ["src", "test/utils", PROOFS, "tools"] {
        copy_folder(&contracts.join(folder), &copy.join(folder))?;
    }
    for name in ["foundry.toml", "package.json", "package-lock.json"] {
        copy_file(&contracts.join(name), &copy.join(name))?;
    }
    let folder = copy.join(PROOFS);
    let wanted = format!("{contract}.t.sol");
    for entry in fs::read_dir(&folder).map_err(|source| file(&folder, source))? {
        let path = entry.map_err(|source| file(&folder, source))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.ends_with(".t.sol") && name != wanted {
            fs::remove_file(&path).map_err(|source| file(&path, source))?;
        }
    }
    if copy.join("node_modules").exists() {
        return Ok(());
    }
    let link = ["-s", "../../../node_modules", "node_modules"];
    call(copy, "ln", &link, env)
}

/// Runs halmos; nothing came of proofs that it did not reach. Its exit status says only that something is not proved.
fn halmos(
    folder: &Path,
    which: &[&str],
    output: Stdio,
    env: &[(&str, &str)],
) -> Result<Vec<Proof>, ContractsError> {
    let results = folder.join(RESULTS);
    if results.exists() {
        fs::remove_file(&results).map_err(|source| file(&results, source))?;
    }
    Command::new("halmos")
        .args(HALMOS)
        .args(which)
        .envs(env.iter().copied())
        .current_dir(folder)
        .stdout(output)
        .status()
        .map_err(|source| ContractsError::Start {
            program: "halmos".to_owned(),
            source,
        })?;
    if !results.exists() {
        return Ok(Vec::new());
    }
    let ran: Results = parse(&results)?;
    Ok(ran.test_results.into_values().flatten().collect())
}

/// The rows as a table, with their sums.
fn table(rows: &[Row]) -> String {
    let mut text = "| what | seconds | paths | result |\n|---|---|---|---|\n".to_owned();
    for row in rows {
        let (name, outcome) = (&row.name, row.outcome);
        let wrong = if outcome == row.wanted {
            ""
        } else {
            " (WRONG)"
        };
        text += &format!(
            "| {name} | {:.1} | {} | {outcome}{wrong} |\n",
            row.seconds, row.paths
        );
    }
    for wanted in [Outcome::Proved, Outcome::Refuted] {
        let all: Vec<&Row> = rows.iter().filter(|row| row.wanted == wanted).collect();
        if all.is_empty() {
            continue;
        }
        let good = all.iter().filter(|row| row.outcome == wanted).count();
        let seconds: f64 = all.iter().map(|row| row.seconds).sum();
        text += &format!("{wanted}: {good} of {} in {seconds:.0} s\n", all.len());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What halmos writes for one proof.
    fn result(exitcode: u8, loops: u64, models: &str) -> Outcome {
        let text = format!(
            r#"{{"exitcode": 1, "test_results": {{"test/halmos/VaultProofs.t.sol:VaultProofs": [{{"name": "check_M2_cap(uint40,(bool))",
            "exitcode": {exitcode}, "num_models": 0, "models": [{models}], "num_paths": [7, 3, 0], "time": [2.5, 2.0, 0.5],
            "num_bounded_loops": {loops}}}]}}}}"#
        );
        let results: Results = serde_json::from_str(&text).unwrap();
        let proof = &results.test_results.values().next().unwrap()[0];
        assert_eq!(proof.name(), "check_M2_cap");
        proof.outcome()
    }

    #[test]
    fn only_a_pass_of_every_path_is_a_proof() {
        assert_eq!(result(0, 0, ""), Outcome::Proved);
        assert_eq!(result(0, 1, ""), Outcome::Unfollowed);
        assert_eq!(result(2, 0, ""), Outcome::Unanswered);
        assert_eq!(result(3, 0, ""), Outcome::Unfollowed);
        assert_eq!(result(4, 0, ""), Outcome::AllRefused);
        assert_eq!(result(5, 0, ""), Outcome::Unfollowed);
    }

    #[test]
    fn only_a_model_that_holds_refutes() {
        let model = |valid: bool| format!(r#"{{"model": {{}}, "is_valid": {valid}}}"#);
        assert_eq!(result(1, 0, &model(true)), Outcome::Refuted);
        assert_eq!(result(1, 0, &model(false)), Outcome::Unanswered);
    }

    #[test]
    fn every_proof_of_the_sources_has_a_mutation_that_it_must_refute() {
        let contracts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../contracts");
        let mutations: Vec<Mutation> =
            parse(&contracts.join(PROOFS).join("mutations.json")).unwrap();
        let refuting: BTreeSet<String> = mutations.iter().map(|m| m.proof.clone()).collect();
        assert_eq!(refuting, proof_names(&contracts).unwrap());
        for m in &mutations {
            let text = String::from_utf8(read(&contracts.join(&m.file)).unwrap()).unwrap();
            assert_eq!(text.matches(&m.find).count(), 1, "{}", m.find);
        }
    }

    #[test]
    fn a_row_that_does_not_hold_is_marked_and_counted_out() {
        let row = |outcome, wanted| Row {
            name: "check_M2_cap".to_owned(),
            seconds: 1.25,
            paths: 7,
            outcome,
            wanted,
        };
        let rows = [
            row(Outcome::Proved, Outcome::Proved),
            row(Outcome::Unanswered, Outcome::Proved),
            row(Outcome::Proved, Outcome::Refuted),
        ];
        let text = table(&rows);
        assert!(text.contains("| check_M2_cap | 1.2 | 7 | proved |\n"));
        assert!(text.contains("| no solver answered in time (WRONG) |"));
        assert!(text.contains("| proved (WRONG) |"));
        assert!(text.ends_with("proved: 1 of 2 in 2 s\nrefuted: 0 of 1 in 1 s\n"));
        assert!(!table(&rows[2..]).contains("proved: "));
    }
}
