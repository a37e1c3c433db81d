//! The `stoa` binary: a whole network with `up`, and the commands of developers, providers and auditors.

mod apart;
mod archive;
mod cheats;
mod commands;
mod config;
mod data;
mod http;
mod join;
mod launch;
mod log;
mod logs;
mod measures;
mod network;
mod packs;
mod process;
mod profile;
mod roles;
mod telemetry;
mod up;
mod upstream;

use clap::{Parser, Subcommand};
use commands::{
    Outcome, ask, audit, backup, bench, chain, claim, claim_undelivered, connect, doctor, fund,
    keys, model, money, planter, provider, router, show, take_back, validator, validators, verify,
};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

/// An open market hall for AI compute.
#[derive(Parser)]
#[command(name = "stoa", version, disable_help_subcommand = true)]
struct Cli {
    /// Data folder.
    #[arg(
        long,
        global = true,
        env = "STOA_DATA",
        default_value = "stoa-data",
        value_name = "DIR"
    )]
    data: PathBuf,
    /// Form of the log on standard error.
    #[arg(
        long,
        global = true,
        env = "STOA_LOG_FORMAT",
        value_enum,
        default_value_t
    )]
    log_format: log::Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Starts a whole network on loopback: chain, contracts, a router, providers, a funded developer.
    Up(up::Args),
    /// Says what a provider on this machine would serve and earn, what is wrong and what to do.
    Doctor(doctor::Args),
    /// Imports models as packs that start at once, and lists, checks and removes them.
    Model(model::Args),
    /// Measures this machine.
    #[command(subcommand)]
    Bench(bench::Args),
    /// Runs the embedded chain with the network's contracts alone.
    Chain(chain::Args),
    /// Runs a router alone, against a chain by RPC.
    Router(router::Args),
    /// Runs a provider alone; it dials out to routers and needs no reachable port.
    Provider(provider::Args),
    /// Runs a validator alone: it computes drawn answers again, and who sold a wrong one loses stake.
    Validator(validator::Args),
    /// Runs a planter alone: it buys answers that it knows to be wrong, and validators that do not look lose stake.
    Planter(planter::Args),
    /// Makes this folder the developer of a router elsewhere: deposit, allotment, API key.
    Connect(connect::Args),
    /// Hands out a devnet's stake tokens and test dollars, in the folder of its chain; says what an account holds.
    Fund(fund::Args),
    /// Makes one paid call.
    Ask(ask::Args),
    /// Puts the settlement proof into a saved receipt file.
    Receipt(ask::ReceiptArgs),
    /// Checks a saved receipt file: offline, against the chain, or by computing the answer again.
    Verify(verify::Args),
    /// Says why a provider was chosen, and replays the choice.
    Explain(show::ExplainArgs),
    /// Shows the developer's balances.
    Account(show::ShowArgs),
    /// Lists the developer's jobs.
    Jobs(show::ShowArgs),
    /// Lists providers with stake, reputation and prices.
    Providers(show::ShowArgs),
    /// Lists validators with stake, and what they were punished for.
    Validators(show::ShowArgs),
    /// Makes, lists, replaces and revokes API keys.
    Keys(keys::KeysArgs),
    /// Claims and collects what the providers of this data folder earned.
    Claim(claim::Args),
    /// Claims on chain that a provider took a call, delivered nothing and is gone; the deposit is lost to one that still answers.
    ClaimUndelivered(claim_undelivered::Args),
    /// Withdraws free balance from the vault to the developer's wallet.
    Withdraw(money::WithdrawArgs),
    /// Takes back what a planter's identities that are over hold: allotments, deposits, stake.
    TakeBack(take_back::Args),
    /// Copies the data folder of a stopped role into one file.
    Backup(backup::Args),
    /// Makes a data folder of such a copy.
    Restore(backup::Args),
    /// Checks the books of a stopped router.
    Audit(show::ShowArgs),
    /// Renders chat templates that it is given, in limited memory: what `stoa` starts beside itself.
    #[command(name = apart::RENDER_TEMPLATES, hide = true)]
    RenderTemplates,
    /// Makes grammars that it is given for nothing, in limited memory: what `stoa` starts beside itself.
    #[command(name = apart::TRY_GRAMMARS, hide = true)]
    TryGrammars,
}

fn main() -> ExitCode {
    let started = Instant::now();
    // One TLS provider for the whole process; a second one in the graph would panic at the first handshake.
    if rustls::crypto::ring::default_provider()
        .install_default()
        .is_err()
    {
        eprintln!("stoa: the TLS provider was installed twice");
        return ExitCode::FAILURE;
    }
    let cli = Cli::parse();
    log::start(cli.log_format);
    match cli.command {
        Command::RenderTemplates => return apart::run(apart::Work::Templates),
        Command::TryGrammars => return apart::run(apart::Work::Grammars),
        _ => {}
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("stoa: the runtime did not start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(async {
        let outcome = run(&cli, started).await;
        telemetry::finish().await;
        outcome
    });
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = process::complain(format_args!("stoa: {error}"));
            match error.downcast_ref::<process::StoppedEarly>() {
                Some(stopped) => ExitCode::from(stopped.status),
                None => ExitCode::FAILURE,
            }
        }
    }
}

async fn run(cli: &Cli, started: Instant) -> Outcome {
    let data = &cli.data;
    match &cli.command {
        Command::Up(args) => up::run(data, args, started).await,
        Command::Doctor(args) => doctor::doctor(data, args).await,
        Command::Model(args) => model::model(data, args).await,
        Command::Bench(args) => bench::bench(data, args),
        Command::Chain(args) => chain::chain(data, args).await,
        Command::Router(args) => router::router(data, args).await,
        Command::Provider(args) => provider::provider(data, args).await,
        Command::Validator(args) => validator::validator(data, args).await,
        Command::Planter(args) => planter::planter(data, args).await,
        Command::Connect(args) => connect::connect(data, args).await,
        Command::Fund(args) => fund::fund(data, args).await,
        Command::Ask(args) => ask::ask(data, args).await,
        Command::Receipt(args) => ask::receipt(data, args).await,
        Command::Verify(args) => verify::verify(data, args).await,
        Command::Explain(args) => show::explain(data, args).await,
        Command::Account(args) => money::account(data, args).await,
        Command::Jobs(args) => show::jobs(data, args).await,
        Command::Providers(args) => show::providers(data, args).await,
        Command::Validators(args) => validators::validators(data, args).await,
        Command::Keys(args) => keys::keys(data, args).await,
        Command::Claim(args) => claim::claim(data, args).await,
        Command::ClaimUndelivered(args) => claim_undelivered::run(data, args).await,
        Command::Withdraw(args) => money::withdraw(data, args).await,
        Command::TakeBack(args) => take_back::run(data, args).await,
        Command::Backup(args) => backup::backup(data, args),
        Command::Restore(args) => backup::restore(data, args),
        Command::Audit(args) => audit::audit(data, args),
        // It has no use for the runtime: see `main`.
        Command::RenderTemplates | Command::TryGrammars => Ok(()),
    }
}
