//! `cargo xtask contracts`: Solidity sources to committed artefacts, reproducibly.
//!
//! The compiler is npm's `solc`, pinned by `contracts/package-lock.json`; `contracts/tools/compile.mjs` runs it. The manifest beside the
//! artefacts holds a SHA-256 of every input and output, so that a plain `cargo test` without Node notices a source that changed
//! without a rebuild.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{contract_proofs, contract_tools};

/// Options of `cargo xtask contracts`.
#[derive(clap::Args)]
pub struct Args {
    /// Compile, compare with the committed artefacts byte for byte, and write nothing.
    #[arg(long)]
    check: bool,
    /// Then run the Solidity tests at the depth of CI and compare the gas snapshot.
    #[arg(long)]
    forge: bool,
    /// Then run slither; every finding must be explained in docs/contracts.md. Needs Python and installs from PyPI.
    #[arg(long)]
    slither: bool,
    /// Then prove the properties with halmos and refute the mutations. Needs Python and installs from PyPI.
    #[arg(long)]
    proofs: bool,
    /// Then refute the mutations alone, without the proofs of the contracts as they are.
    #[arg(long, conflicts_with = "proofs")]
    mutations: bool,
    /// Of the proofs and their mutations only those with this in their names.
    #[arg(long, default_value = "")]
    only: String,
    /// All of it, with the invariants at 1,000 runs of 100 calls: for a night or before a release.
    #[arg(long)]
    deep: bool,
    /// Accept the storage layouts as they are now. A deployed contract keeps its layout; only a new one may differ.
    #[arg(long)]
    accept_layout: bool,
}

/// Why the artefacts could not be written or do not hold. Committed artefacts are untouched unless the error says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum ContractsError {
    /// A file or folder could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A program could not be started.
    #[error("`{program}` could not be started ({source}); it comes with Node.js 20 or later")]
    Start {
        /// The program.
        program: String,
        /// What the system said.
        source: io::Error,
    },
    /// A program failed; its own message stands above.
    #[error("`{command}` in contracts/ failed; its message stands above")]
    Failed {
        /// The command line.
        command: String,
    },
    /// A file is not what this task wrote.
    #[error("{path} is not what this task or forge writes ({source}); run `cargo xtask contracts`")]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The committed artefacts are not what the sources give.
    #[error("these differ from what the sources give: {}; run `cargo xtask contracts` and commit the result", .files.join(", "))]
    Stale {
        /// The files that differ, are missing, or are not made by this task.
        files: Vec<String>,
    },
    /// A storage layout changed.
    #[error(
        "a storage layout is not that of contracts/snapshots/storage.txt; `cargo xtask contracts --accept-layout` accepts it"
    )]
    Layout,
    /// Slither and docs/contracts.md do not agree.
    #[error("slither and the table of docs/contracts.md differ: {}; fix the contract or explain the finding", .findings.join("; "))]
    Unexplained {
        /// What differs.
        findings: Vec<String>,
    },
    /// Some proofs failed or were given up, or do not refute their mutations. All others were tried too.
    #[error(
        "these do not hold (`--proofs --only NAME` runs one of them again): {}",
        rows.join("; ")
    )]
    Unproved {
        /// Which, and what came of each.
        rows: Vec<String>,
    },
}

/// What was compiled with what, and the SHA-256 of every input and output, by path below `contracts/`.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Manifest {
    #[serde(flatten)]
    build: Build,
    sources: BTreeMap<String, String>,
    outputs: BTreeMap<String, String>,
}

/// The compiler, the library and the settings, as `compile.mjs` reports them.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Build {
    solc: String,
    openzeppelin: String,
    settings: String,
}

/// Writes the artefacts or, with `--check`, compares them; then runs the Solidity tests if asked.
pub fn run(args: &Args) -> Result<(), ContractsError> {
    let contracts = contracts_folder();
    install(&contracts)?;
    let built = build(&contracts)?;
    let committed = contracts.join("artifacts");
    if args.check {
        compare(&built, &committed)?;
        println!("contracts: the committed artefacts are what the sources give");
    } else {
        replace(&built, &committed)?;
        println!(
            "contracts: wrote {} files to contracts/artifacts",
            files_below(&committed)?.len()
        );
    }
    if args.accept_layout {
        let path = contracts.join(LAYOUTS);
        fs::write(&path, layouts(&contracts)?).map_err(|source| file(&path, source))?;
    }
    layouts_are_kept(&contracts)?;
    if args.forge || args.deep {
        forge(&contracts, if args.deep { "deep" } else { "ci" })?;
    }
    if args.slither || args.deep {
        contract_tools::slither(&contracts)?;
    }
    let proofs = args.proofs || args.deep;
    if proofs || args.mutations {
        contract_proofs::proofs(&contracts, proofs, &args.only)?;
    }
    Ok(())
}

/// The storage of every contract, one line a slot, beside the gas snapshot.
const LAYOUTS: &str = "snapshots/storage.txt";

/// An artefact is rebuilt without a thought; a layout that changed must be accepted by name.
fn layouts_are_kept(contracts: &Path) -> Result<(), ContractsError> {
    if read(&contracts.join(LAYOUTS))? == layouts(contracts)?.into_bytes() {
        Ok(())
    } else {
        Err(ContractsError::Layout)
    }
}

/// The layouts of the committed artefacts.
fn layouts(contracts: &Path) -> Result<String, ContractsError> {
    let mut text = String::new();
    for name in files_below(&contracts.join("artifacts"))? {
        if name == "manifest.json" {
            continue;
        }
        let laid: Laid = parse(&contracts.join("artifacts").join(&name))?;
        text += &format!("{}\n", name.trim_end_matches(".json"));
        text += &lines(&laid.layout.storage);
        for (name, members) in &laid.layout.structs {
            text += &format!("  {name}\n{}", lines(members));
        }
    }
    Ok(text)
}

fn lines(variables: &[Variable]) -> String {
    variables
        .iter()
        .map(|v| format!("    {:>3} {:>2} {} {}\n", v.slot, v.offset, v.kind, v.label))
        .collect()
}

/// The part of an artefact that says where its variables stand.
#[derive(Deserialize)]
struct Laid {
    #[serde(rename = "storageLayout")]
    layout: Layout,
}

#[derive(Deserialize)]
struct Layout {
    storage: Vec<Variable>,
    structs: BTreeMap<String, Vec<Variable>>,
}

#[derive(Deserialize)]
struct Variable {
    label: String,
    slot: u64,
    offset: u64,
    #[serde(rename = "type")]
    kind: String,
}

/// The folder of the contracts beside this package.
fn contracts_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../contracts")
}

/// Installs the pinned compiler and libraries unless they are there.
fn install(contracts: &Path) -> Result<(), ContractsError> {
    if contracts.join("node_modules/solc").is_dir() {
        return Ok(());
    }
    call(contracts, "npm", &["ci"], &[])
}

/// Compiles into `contracts/cache/artifacts` and adds the manifest.
fn build(contracts: &Path) -> Result<PathBuf, ContractsError> {
    let out = contracts.join("cache/artifacts");
    if out.exists() {
        fs::remove_dir_all(&out).map_err(|source| file(&out, source))?;
    }
    fs::create_dir_all(&out).map_err(|source| file(&out, source))?;
    call(
        contracts,
        "node",
        &["tools/compile.mjs", "cache/artifacts"],
        &[],
    )?;
    let report = out.join("build.json");
    let build = parse(&report)?;
    fs::remove_file(&report).map_err(|source| file(&report, source))?;
    let manifest = Manifest {
        build,
        sources: hash_sources(contracts)?,
        outputs: hash_folder(&out)?,
    };
    let text = serde_json::to_string_pretty(&manifest)
        .expect("a manifest holds only strings and maps of strings");
    let path = out.join("manifest.json");
    fs::write(&path, text + "\n").map_err(|source| file(&path, source))?;
    Ok(out)
}

/// SHA-256 of everything that decides the bytecode: the sources, the compile script and the lock file of compiler and libraries.
fn hash_sources(contracts: &Path) -> Result<BTreeMap<String, String>, ContractsError> {
    let mut hashes: BTreeMap<String, String> = hash_folder(&contracts.join("src"))?
        .into_iter()
        .map(|(name, hash)| (format!("src/{name}"), hash))
        .collect();
    for name in ["package-lock.json", "tools/compile.mjs"] {
        hashes.insert(name.to_owned(), sha256(&read(&contracts.join(name))?));
    }
    Ok(hashes)
}

/// SHA-256 of every file below `folder`, by path.
fn hash_folder(folder: &Path) -> Result<BTreeMap<String, String>, ContractsError> {
    files_below(folder)?
        .into_iter()
        .map(|name| Ok((name.clone(), sha256(&read(&folder.join(&name))?))))
        .collect()
}

/// Paths of all files below `folder`, relative to it, with `/` between parts, sorted.
fn files_below(folder: &Path) -> Result<Vec<String>, ContractsError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(|source| file(folder, source))? {
        let entry = entry.map_err(|source| file(folder, source))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.path().is_dir() {
            names.extend(
                files_below(&entry.path())?
                    .into_iter()
                    .map(|below| format!("{name}/{below}")),
            );
        } else {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Fails with the names of all files that are not equal in both folders.
fn compare(built: &Path, committed: &Path) -> Result<(), ContractsError> {
    let fresh = hash_folder(built)?;
    let old = hash_folder(committed)?;
    let names: std::collections::BTreeSet<&String> = fresh.keys().chain(old.keys()).collect();
    let files: Vec<String> = names
        .into_iter()
        .filter(|name| fresh.get(*name) != old.get(*name))
        .map(|name| format!("contracts/artifacts/{name}"))
        .collect();
    stale_unless_empty(files)
}

/// Makes `committed` equal to `built`, also where a contract is gone. On an error some files may be new and others old.
fn replace(built: &Path, committed: &Path) -> Result<(), ContractsError> {
    if committed.exists() {
        fs::remove_dir_all(committed).map_err(|source| file(committed, source))?;
    }
    fs::create_dir_all(committed).map_err(|source| file(committed, source))?;
    for name in files_below(built)? {
        let to = committed.join(&name);
        fs::copy(built.join(&name), &to).map_err(|source| file(&to, source))?;
    }
    Ok(())
}

/// Runs the Solidity tests at the depth of `profile`; the gas snapshot must not differ, and what was tested must be what is committed.
fn forge(contracts: &Path, profile: &str) -> Result<(), ContractsError> {
    let test = ["--no-install", "forge", "test", "--gas-snapshot-check=true"];
    call(contracts, "npx", &test, &[("FOUNDRY_PROFILE", profile)])?;
    let mut files = Vec::new();
    for name in files_below(&contracts.join("artifacts"))? {
        let contract = name.trim_end_matches(".json");
        if contract == "manifest" {
            continue;
        }
        let committed: Committed = parse(&contracts.join("artifacts").join(&name))?;
        let tested: Tested = parse(&contracts.join(format!("out/{contract}.sol/{name}")))?;
        if committed.bytecode != tested.bytecode.object {
            files.push(format!("contracts/artifacts/{name}"));
        }
    }
    stale_unless_empty(files)
}

/// The part of a committed artefact that forge's output is compared with.
#[derive(Deserialize)]
struct Committed {
    bytecode: String,
}

/// The same part of forge's output.
#[derive(Deserialize)]
struct Tested {
    bytecode: Object,
}

/// Bytecode as forge writes it.
#[derive(Deserialize)]
struct Object {
    object: String,
}

pub(crate) fn parse<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, ContractsError> {
    serde_json::from_slice(&read(path)?).map_err(|source| ContractsError::Parse {
        path: path.to_owned(),
        source,
    })
}

fn stale_unless_empty(files: Vec<String>) -> Result<(), ContractsError> {
    if files.is_empty() {
        Ok(())
    } else {
        Err(ContractsError::Stale { files })
    }
}

pub(crate) fn call(
    folder: &Path,
    program: &str,
    args: &[&str],
    env: &[(&str, &str)],
) -> Result<(), ContractsError> {
    let status = Command::new(program)
        .args(args)
        .envs(env.iter().copied())
        .current_dir(folder)
        .status()
        .map_err(|source| ContractsError::Start {
            program: program.to_owned(),
            source,
        })?;
    if status.success() {
        Ok(())
    } else {
        Err(ContractsError::Failed {
            command: format!("{program} {}", args.join(" ")),
        })
    }
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>, ContractsError> {
    fs::read(path).map_err(|source| file(path, source))
}

pub(crate) fn file(path: &Path, source: io::Error) -> ContractsError {
    ContractsError::File {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        serde_json::from_slice(&read(&contracts_folder().join("artifacts/manifest.json")).unwrap())
            .unwrap()
    }

    #[test]
    fn no_contract_source_changed_without_a_rebuild() {
        let now = hash_sources(&contracts_folder()).unwrap();
        assert_eq!(
            now,
            manifest().sources,
            "a contract source changed: run `cargo xtask contracts` and commit the artefacts"
        );
    }

    #[test]
    fn no_storage_layout_moved() {
        layouts_are_kept(&contracts_folder()).unwrap();
    }

    #[test]
    fn no_artefact_was_edited_by_hand() {
        let mut now = hash_folder(&contracts_folder().join("artifacts")).unwrap();
        now.remove("manifest.json");
        assert_eq!(
            now,
            manifest().outputs,
            "an artefact is not what the manifest says: run `cargo xtask contracts`"
        );
    }
}
