//! Fuzzing of what the engine reads (fuzz/README.md), one target after the other.

use crate::ci::{plain, root};
use std::path::Path;
use std::process::Command;

/// Arguments of `cargo xtask fuzz`.
#[derive(clap::Args)]
pub struct Args {
    /// Seconds for each target.
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// Only the targets whose name contains this.
    #[arg(long)]
    only: Option<String>,
}

/// Why fuzzing ended early.
#[derive(Debug, thiserror::Error)]
pub enum FuzzError {
    /// The targets cannot be listed.
    #[error("fuzz/fuzz_targets: {0}")]
    Targets(#[from] std::io::Error),
    /// No target has such a name.
    #[error("no target's name contains `{0}`")]
    NoTarget(String),
    /// The fuzzer could not be run, or found something.
    #[error(
        "{target}: see above; what was found lies in fuzz/artifacts/{target}. Is cargo-fuzz there (cargo install cargo-fuzz)?"
    )]
    Found {
        /// Which.
        target: String,
    },
}

/// Names of the targets.
fn targets(folder: &Path) -> Result<Vec<String>, FuzzError> {
    let files = std::fs::read_dir(folder.join("fuzz_targets"))?;
    let mut names = vec![];
    for file in files {
        let path = file?.path();
        names.extend(path.file_stem().map(|s| s.to_string_lossy().into_owned()));
    }
    names.sort();
    Ok(names)
}

/// Runs each target for so many seconds; stops at the first that finds something.
pub fn run(args: &Args) -> Result<(), FuzzError> {
    let folder = root().join("fuzz");
    let only = args.only.as_deref().unwrap_or("");
    let names = targets(&folder)?.into_iter();
    let names: Vec<String> = names.filter(|name| name.contains(only)).collect();
    if names.is_empty() {
        return Err(FuzzError::NoTarget(only.to_owned()));
    }
    for target in names {
        println!("==> {target}");
        let mut command = Command::new("cargo");
        command.args(["fuzz", "run", "--sanitizer", "none", "-O", &target, "--"]);
        command
            .arg(format!("-max_total_time={}", args.seconds))
            .arg(format!("-dict=dictionaries/{target}.txt"))
            .args(["-timeout=60", "-rss_limit_mb=6000"]);
        let ended = plain(&mut command).current_dir(&folder).status();
        if !ended.is_ok_and(|status| status.success()) {
            return Err(FuzzError::Found { target });
        }
    }
    Ok(())
}
