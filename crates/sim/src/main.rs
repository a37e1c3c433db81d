//! `stoa-sim`: campaigns of simulated schedules.
//!
//! ```text
//! stoa-sim campaign --schedules 20000 [--first SEED]   all CPU cores; a summary as JSON; exit code 1 on a violation
//! stoa-sim run --seed SEED                             one schedule, with its trace hash
//! stoa-sim determinism --seeds 100                     each seed in two processes of its own: equal trace hashes
//! stoa-sim audits --runs 20 --honest-jobs 1000000 --lazy 1000 [--first SEED]
//!                                                      each cheat so often, honest jobs with faults, lazy validators of each kind
//! stoa-sim deliveries --runs 20 [--first SEED]         two weeks of claims of non-delivery for each way to vanish or lie
//! ```

use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use stoa_sim::{AuditCampaign, Coverage, DeliveryOutcome, Trick, Violation, run, run_deliveries};

const USAGE: &str = "usage: stoa-sim campaign --schedules N [--first SEED] | run --seed SEED | determinism --seeds N | audits [--runs N] [--honest-jobs N] [--lazy N] [--first SEED] | deliveries [--runs N] [--first SEED]";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |name: &str| {
        let position = args.iter().position(|arg| arg == name)?;
        args.get(position + 1)?.parse::<u64>().ok()
    };
    match args.first().map(String::as_str) {
        Some("campaign") => match number("--schedules") {
            Some(count) => campaign(number("--first").unwrap_or(0), count),
            None => usage(),
        },
        Some("run") => number("--seed").map_or_else(usage, one),
        Some("determinism") => number("--seeds").map_or_else(usage, determinism),
        Some("audits") => audits(AuditCampaign {
            first: number("--first").unwrap_or(0),
            runs: number("--runs").unwrap_or(20),
            honest_jobs: number("--honest-jobs").unwrap_or(1_000_000),
            lazy: number("--lazy").unwrap_or(1_000),
        }),
        Some("deliveries") => deliveries(
            number("--first").unwrap_or(0),
            number("--runs").unwrap_or(20),
        ),
        _ => usage(),
    }
}

fn usage() -> ExitCode {
    eprintln!("{USAGE}");
    ExitCode::from(2)
}

fn report(violation: &Violation) {
    for line in &violation.trace {
        eprintln!("  {line}");
    }
    eprintln!(
        "seed {}, step {}: {}",
        violation.seed, violation.step, violation.what
    );
    eprintln!("again with: stoa-sim run --seed {}", violation.seed);
}

fn one(seed: u64) -> ExitCode {
    match run(seed) {
        Ok(outcome) => {
            println!(
                "{} {} events, {} answered, {} failed",
                outcome.trace, outcome.events, outcome.answered, outcome.failed
            );
            ExitCode::SUCCESS
        }
        Err(violation) => {
            report(&violation);
            ExitCode::FAILURE
        }
    }
}

#[derive(Default)]
struct Sum {
    coverage: Coverage,
    events: u64,
    answered: u64,
    failed: u64,
}

fn campaign(first: u64, count: u64) -> ExitCode {
    let next = AtomicU64::new(first);
    let broken = AtomicBool::new(false);
    let sum = Mutex::new(Sum::default());
    let work = || {
        while !broken.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + count {
                return;
            }
            match run(seed) {
                Ok(outcome) => {
                    let mut sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
                    sum.coverage.add(&outcome.coverage);
                    sum.events += outcome.events;
                    sum.answered += outcome.answered;
                    sum.failed += outcome.failed;
                }
                Err(violation) => {
                    broken.store(true, Ordering::Relaxed);
                    report(&violation);
                }
            }
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(work);
        }
    });
    let sum = sum.into_inner().unwrap_or_else(PoisonError::into_inner);
    let faults: Vec<_> = sum
        .coverage
        .0
        .iter()
        .map(|((fault, role), n)| serde_json::json!({"fault": fault, "role": role, "count": n}))
        .collect();
    let missing = sum.coverage.missing();
    println!(
        "{}",
        serde_json::json!({"schedules": count, "first": first, "events": sum.events, "answered": sum.answered, "failed": sum.failed,
            "violations": u64::from(broken.load(Ordering::Relaxed)), "faults": faults, "never_met": missing})
    );
    if broken.into_inner() || !missing.is_empty() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

fn audits(campaign: AuditCampaign) -> ExitCode {
    let report = campaign.run();
    println!("{}", serde_json::json!(report));
    if report.holds() {
        ExitCode::SUCCESS
    } else {
        report.broken.iter().for_each(|what| eprintln!("{what}"));
        ExitCode::FAILURE
    }
}

/// Prints the sums of each trick, with the longest time to a slash.
fn deliveries(first: u64, runs: u64) -> ExitCode {
    for trick in Trick::ALL {
        let mut sum = DeliveryOutcome::default();
        for seed in first..first.saturating_add(runs) {
            match run_deliveries(seed, trick) {
                Ok(outcome) => sum.add(&outcome),
                Err(what) => {
                    eprintln!("{trick:?}, seed {seed}: {what}");
                    return ExitCode::FAILURE;
                }
            }
        }
        println!(
            "{}",
            serde_json::json!({"trick": trick, "runs": runs, "sum": sum})
        );
    }
    ExitCode::SUCCESS
}

fn determinism(seeds: u64) -> ExitCode {
    let Ok(program) = std::env::current_exe() else {
        return usage();
    };
    let told = |seed: u64| {
        let output = Command::new(&program)
            .args(["run", "--seed", &seed.to_string()])
            .output();
        output
            .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
            .unwrap_or_default()
    };
    for seed in 0..seeds {
        let (once, again) = (told(seed), told(seed));
        if once.is_empty() || once != again {
            eprintln!("seed {seed} differs between two processes:\n{once}{again}");
            return ExitCode::FAILURE;
        }
    }
    println!("{seeds} seeds gave equal traces in two processes each");
    ExitCode::SUCCESS
}
