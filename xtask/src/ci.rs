//! What CI runs, step for step; the same command runs it at a desk.

use std::iter::Peekable;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Crates that must not be in the graph: a second TLS provider panics at the first handshake, and the system's OpenSSL would be
/// one more thing to install.
const BANNED: &[&str] = &["aws-lc-sys", "aws-lc-rs", "openssl-sys", "native-tls"];
/// Licences of the dependencies; a new one is a decision.
const LICENCES: &[&str] = &[
    "MIT",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "Unicode-3.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "MIT-0",
    "BSL-1.0",
    "Unlicense",
    "0BSD",
    "Apache-2.0 WITH LLVM-exception",
];

/// Arguments of `cargo xtask ci`.
#[derive(clap::Args)]
pub struct Args {
    /// Only steps whose name contains this.
    #[arg(long)]
    only: Option<String>,
}

/// Why CI failed.
#[derive(Debug, thiserror::Error)]
pub enum CiError {
    /// A command could not be started.
    #[error("{step}: `{command}` did not start: {source}")]
    Start {
        /// Step.
        step: &'static str,
        /// Command.
        command: String,
        /// Why.
        source: std::io::Error,
    },
    /// A command failed.
    #[error("{step}: `{command}` failed")]
    Failed {
        /// Step.
        step: &'static str,
        /// Command.
        command: String,
    },
    /// `--only` names nothing.
    #[error("no step's name contains `{0}`; the steps are: {1}")]
    NoStep(String, String),
    /// A rule is broken.
    #[error("{step}: {what}")]
    Rule {
        /// Step.
        step: &'static str,
        /// Which.
        what: String,
    },
}

type Step = (&'static str, fn() -> Result<(), CiError>);

/// The steps, cheap ones first.
const STEPS: &[Step] = &[
    ("format", || cargo("format", &["fmt", "--all", "--check"])),
    ("dependencies", dependencies),
    ("clippy", || {
        cargo(
            "clippy",
            &[
                "clippy",
                "--workspace",
                "--all-targets",
                "--locked",
                "--",
                "-D",
                "warnings",
            ],
        )
    }),
    ("test", || {
        cargo("test", &["test", "--workspace", "--locked"])
    }),
    ("release", release),
    ("contracts", contracts),
    ("sim", sim),
    ("wallets", wallets),
    ("dashboard", dashboard),
    ("hosts", || {
        crate::hosts::run().map_err(|what| CiError::Rule {
            step: "hosts",
            what,
        })
    }),
    ("e2e", || {
        crate::e2e::run().map_err(|what| CiError::Rule { step: "e2e", what })
    }),
];

/// Runs all steps and prints how long each took; stops at the first failure.
pub fn run(args: &Args) -> Result<(), CiError> {
    let mut times: Vec<(&str, Duration)> = Vec::new();
    for (name, step) in STEPS {
        if args
            .only
            .as_ref()
            .is_some_and(|only| !name.contains(only.as_str()))
        {
            continue;
        }
        println!("==> {name}");
        let start = Instant::now();
        step()?;
        times.push((name, start.elapsed()));
    }
    for (name, time) in &times {
        println!("{name:>14} {:>7.1} s", time.as_secs_f64());
    }
    if times.is_empty() {
        let names: Vec<_> = STEPS.iter().map(|(name, _)| *name).collect();
        return Err(CiError::NoStep(
            args.only.clone().unwrap_or_default(),
            names.join(", "),
        ));
    }
    println!("{} passed, 0 failed", times.len());
    Ok(())
}

/// Takes away what the cargo that runs this task has set about xtask: build scripts that watch those variables would be run again,
/// and everything above them built again.
pub fn plain(command: &mut Command) -> &mut Command {
    let about_xtask = |name: &str| {
        name == "CARGO" || name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")
    };
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(about_xtask) {
            command.env_remove(name);
        }
    }
    command
}

/// The workspace's folder.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .map_or_else(PathBuf::new, Path::to_owned)
}

/// Folder of built programs of a profile.
pub fn target(profile: &str) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| root().join("target"), PathBuf::from)
        .join(profile)
}

fn cargo(step: &'static str, args: &[&str]) -> Result<(), CiError> {
    command(step, Command::new(env!("CARGO")).args(args))
}

fn command(step: &'static str, command: &mut Command) -> Result<(), CiError> {
    let shown = format!("{command:?}");
    let status = plain(command).current_dir(root()).status();
    let status = status.map_err(|source| CiError::Start {
        step,
        command: shown.clone(),
        source,
    })?;
    if status.success() {
        Ok(())
    } else {
        Err(CiError::Failed {
            step,
            command: shown,
        })
    }
}

fn output(step: &'static str, args: &[&str]) -> Result<(bool, String), CiError> {
    let mut command = Command::new(env!("CARGO"));
    let out = plain(&mut command)
        .args(args)
        .current_dir(root())
        .stderr(Stdio::null())
        .output();
    let out = out.map_err(|source| CiError::Start {
        step,
        command: format!("{command:?}"),
        source,
    })?;
    Ok((
        out.status.success(),
        String::from_utf8_lossy(&out.stdout).into_owned(),
    ))
}

/// No banned crate on any target, no licence that is not on the list.
fn dependencies() -> Result<(), CiError> {
    let step = "dependencies";
    for name in BANNED {
        // Exit code 101 only says that the crate is not locked: an empty standard output is what counts.
        let (_, tree) = output(
            step,
            &[
                "tree",
                "--workspace",
                "--target",
                "all",
                "-e",
                "normal,build,dev",
                "-i",
                name,
            ],
        )?;
        if !tree.trim().is_empty() {
            return Err(CiError::Rule {
                step,
                what: format!("`{name}` is in the graph:\n{tree}"),
            });
        }
    }
    let (ok, lines) = output(
        step,
        &[
            "tree",
            "--workspace",
            "--locked",
            "-e",
            "normal,build",
            "--prefix",
            "none",
            "-f",
            "{l}\t{p}",
        ],
    )?;
    if !ok {
        return Err(CiError::Rule {
            step,
            what: "`cargo tree --locked` failed: is Cargo.lock up to date?".to_owned(),
        });
    }
    let unknown = |line: &&str| !line.split('\t').next().is_some_and(licence_is_listed);
    match lines
        .lines()
        .filter(|line| !line.trim().is_empty())
        .find(unknown)
    {
        Some(line) => Err(CiError::Rule {
            step,
            what: format!("a licence that is not on the list: {line}"),
        }),
        None => Ok(()),
    }
}

/// Whether an SPDX expression can be met with listed licences only. `AND` binds closer than `OR`; a slash is an old `OR`.
fn licence_is_listed(expression: &str) -> bool {
    let spaced = expression
        .replace('(', " ( ")
        .replace(')', " ) ")
        .replace('/', " OR ")
        .replace(" WITH ", "\u{a0}WITH\u{a0}");
    let mut words = spaced.split(' ').filter(|word| !word.is_empty()).peekable();
    any_of(&mut words).is_some_and(|met| met && words.next().is_none())
}

/// Alternatives; `None` when it is no expression.
fn any_of<'a, I: Iterator<Item = &'a str>>(words: &mut Peekable<I>) -> Option<bool> {
    let mut met = all_of(words)?;
    while words.next_if_eq(&"OR").is_some() {
        met |= all_of(words)?;
    }
    Some(met)
}

fn all_of<'a, I: Iterator<Item = &'a str>>(words: &mut Peekable<I>) -> Option<bool> {
    let mut met = one(words)?;
    while words.next_if_eq(&"AND").is_some() {
        met &= one(words)?;
    }
    Some(met)
}

fn one<'a, I: Iterator<Item = &'a str>>(words: &mut Peekable<I>) -> Option<bool> {
    match words.next()? {
        "(" => {
            let met = any_of(words)?;
            words.next_if_eq(&")").map(|_| met)
        }
        name => Some(LICENCES.contains(&name.replace('\u{a0}', " ").as_str())),
    }
}

/// The binary as the README builds it, and the simulator. Not `--workspace`: that would unite features and build much twice.
fn release() -> Result<(), CiError> {
    cargo("release", &["build", "--release", "--locked"])?;
    cargo(
        "release",
        &["build", "--release", "--locked", "-p", "stoa-sim"],
    )
}

/// The committed artefacts are what the sources give; forge's tests at CI depth; the gas snapshot.
fn contracts() -> Result<(), CiError> {
    cargo(
        "contracts",
        &[
            "run",
            "--release",
            "--locked",
            "-p",
            "xtask",
            "--",
            "contracts",
            "--check",
            "--forge",
        ],
    )
}

fn sim() -> Result<(), CiError> {
    let program = target("release").join("stoa-sim");
    command(
        "sim",
        Command::new(&program).args(["campaign", "--schedules", "100000"]),
    )?;
    let audits = "audits --runs 20 --honest-jobs 50000 --lazy 50";
    command("sim", Command::new(&program).args(audits.split(' ')))?;
    command(
        "sim",
        Command::new(&program).args(["determinism", "--seeds", "100"]),
    )
}

/// cast, ethers, viem and alloy against the embedded chain and against anvil; `tests/e2e/wallets/README.md` says what is compared.
fn wallets() -> Result<(), CiError> {
    let step = "wallets";
    let folder = root().join("tests/e2e/wallets");
    if !folder.join("node_modules/viem").is_dir() {
        let mut install = Command::new("npm");
        install
            .args(["ci", "--no-audit", "--no-fund", "--prefix"])
            .arg(&folder);
        command(step, &mut install)?;
    }
    // A workspace of its own, so that nobody else compiles alloy's provider.
    let manifest = folder.join("alloy/Cargo.toml");
    let mut format = Command::new(env!("CARGO"));
    format
        .args(["fmt", "--check", "--manifest-path"])
        .arg(&manifest);
    command(step, &mut format)?;
    let built = target("wallets");
    let mut build = Command::new(env!("CARGO"));
    build
        .args(["build", "--quiet", "--locked", "--manifest-path"])
        .arg(&manifest)
        .arg("--target-dir")
        .arg(&built);
    command(step, &mut build)?;
    let mut compare = Command::new("node");
    compare
        .arg(folder.join("run.mjs"))
        .arg("--stoa")
        .arg(target("release").join("stoa"))
        .arg("--alloy")
        .arg(built.join("debug/stoa-wallet-alloy"));
    command(step, &mut compare)
}

/// Every page in headless Chromium: console, live update, tab order, labels and contrast, a phone's width, light and dark.
fn dashboard() -> Result<(), CiError> {
    let step = "dashboard";
    let folder = root().join("tests/e2e/dashboard");
    let packages =
        ["axe-core", "puppeteer-core", "viem"].map(|name| folder.join("node_modules").join(name));
    if !packages.iter().all(|package| package.is_dir()) {
        let mut install = Command::new("npm");
        install
            .args(["ci", "--no-audit", "--no-fund", "--prefix"])
            .arg(&folder);
        command(step, &mut install)?;
    }
    let mut check = Command::new("node");
    check
        .arg(folder.join("check.mjs"))
        .arg("--stoa")
        .arg(target("release").join("stoa"));
    command(step, &mut check)
}

#[cfg(test)]
mod tests {
    use super::{Args, licence_is_listed, run};

    #[test]
    fn a_licence_passes_when_one_alternative_is_listed_as_a_whole() {
        for listed in [
            "MIT OR Apache-2.0",
            "MIT/Apache-2.0",
            "GPL-3.0 OR MIT",
            "(MIT OR GPL-3.0) AND Unicode-3.0",
            "MIT AND (Apache-2.0 WITH LLVM-exception OR GPL-3.0)",
        ] {
            assert!(licence_is_listed(listed), "{listed}");
        }
        for unlisted in [
            "",
            "GPL-3.0",
            "MIT AND GPL-3.0",
            "(MIT OR Apache-2.0) AND GPL-3.0",
            "GPL-3.0 AND (MIT OR Apache-2.0)",
            "MIT WITH LLVM-exception",
            "(MIT",
            "MIT Apache-2.0",
        ] {
            assert!(!licence_is_listed(unlisted), "{unlisted}");
        }
    }

    #[test]
    fn a_step_that_is_not_there_is_no_success() {
        let only = Some("sym".to_owned());
        let error = run(&Args { only }).expect_err("there is none");
        assert!(error.to_string().contains("sim"), "{error}");
    }
}
