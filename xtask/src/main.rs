//! Project tasks: one command for each thing a developer does.

mod ci;
mod contract_proofs;
mod contract_tools;
mod contracts;
mod e2e;
mod fuzz;
mod hosts;
mod model;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Project tasks. Each one is a module with an `Args` and a `run`.
#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    disable_help_subcommand = true
)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// What CI runs, step for step.
    Ci(ci::Args),
    /// Compiles the contracts and writes their artefacts, or checks that the committed ones are what the sources give.
    Contracts(contracts::Args),
    /// The network as a user meets it: openai package, README's commands, kill -9 under load. Needs a release build and Python.
    E2e,
    /// Fuzzing of all that the engine reads, each for a while. Needs cargo-fuzz.
    Fuzz(fuzz::Args),
    /// Roles on hosts of their own (network namespaces, NAT), killed and cut off under load. Needs a release build, nft and Python.
    Hosts,
    /// The default model: its corpus and held-out tasks.
    Model(model::Args),
}

fn main() -> ExitCode {
    let outcome: Result<(), Box<dyn std::error::Error>> = match Cli::parse().task {
        Task::Ci(args) => ci::run(&args).map_err(Into::into),
        Task::E2e => e2e::run().map_err(Into::into),
        Task::Fuzz(args) => fuzz::run(&args).map_err(Into::into),
        Task::Hosts => hosts::run().map_err(Into::into),
        Task::Contracts(args) => contracts::run(&args).map_err(Into::into),
        Task::Model(args) => model::run(&args).map_err(Into::into),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}
