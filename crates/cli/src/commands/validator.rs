//! `stoa validator`: a validator alone. It dials out to routers and needs no reachable port.

use super::Outcome;
use crate::cheats::{ValidatorCheat, may_cheat};
use crate::config::Config;
use crate::data::DataDir;
use crate::launch::JoinArgs;
use crate::launch::models;
use crate::launch::service::{gone, listen, serve_metrics, until};
use crate::launch::stake::StakeSource;
use crate::launch::validator::{self, Bench};
use crate::process::{StopSignal, complain, say};
use crate::roles::validator::ValidatorHandle;
use crate::telemetry::TelemetryArgs;
use serde_json::json;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use stoa_runtime::{Backend, discover_hardware};
use stoa_types::Address;
use tokio::sync::watch;

/// Arguments of `stoa validator`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    join: JoinArgs,
    /// Judges answers of this model (an imported one, a GGUF file or a safetensors folder) too, besides the default model; repeat for several. A validator that lacks
    /// the model of a drawn job cannot judge it, and its silence costs stake.
    #[arg(long, value_name = "FILE")]
    model: Vec<PathBuf>,
    /// It cheats, for devnets: to see how it is found out and what follows.
    #[arg(long, value_name = "HOW")]
    cheat: Option<ValidatorCheat>,
    /// Local UDP address from which routers are dialled.
    #[arg(long, value_name = "IP:PORT")]
    listen: Option<SocketAddr>,
    /// Address of the Prometheus metrics.
    #[arg(long, value_name = "IP:PORT")]
    metrics: Option<SocketAddr>,
    /// Lays the settings of this file over the defaults.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    telemetry: TelemetryArgs,
    /// Prints one line of JSON when ready.
    #[arg(long)]
    json: bool,
}

/// Runs a validator until Ctrl-C or SIGTERM.
pub async fn validator(data: &Path, args: &Args) -> Outcome {
    let mut config = Config::load(args.config.as_deref())?;
    config.validator.listen = args.listen.unwrap_or(config.validator.listen);
    config.validator.metrics = args.metrics.unwrap_or(config.validator.metrics);
    args.telemetry.start(&config.telemetry)?;
    let data = DataDir::open(data)?;
    let mut signal = StopSignal::new()?;
    let (stop, stopped) = watch::channel(false);
    let running = tokio::select! {
        running = start(&data, &config, args, stopped) => running?,
        // Until it has its seat there is nothing to end.
        stopped = signal.wait_early() => return Err(stopped.into()),
    };
    tokio::select! {
        () = signal.wait() => {}
        gone = gone(&data) => return Err(gone),
    }
    let _ = complain("stopping; a second Ctrl-C stops at once");
    tokio::select! {
        () = running.stop() => {}
        // Ballots are on disk before they are sent.
        () = signal.wait() => return Err("stopped at once".into()),
    }
    let _ = stop.send(true);
    Ok(())
}

async fn start(
    data: &DataDir,
    config: &Config,
    args: &Args,
    stopped: watch::Receiver<bool>,
) -> Outcome<ValidatorHandle> {
    let settings = &config.validator;
    let metrics = listen(settings.metrics, "metrics", "--metrics").await?;
    serve_metrics(metrics, until(stopped))?;
    let models = models(data, config, args)?;
    let joined = args.join.join(data).await?;
    may_cheat(args.cheat.is_some(), &joined.profile.rules)?;
    let Some(audits) = validator::watch(&joined).await? else {
        return Err(
            "nobody may slash on this network, so there is nothing to judge: its stake registry names no verdict"
                .into(),
        );
    };
    let cores = discover_hardware().cores;
    let bench = Bench::new(audits, &models, cores, settings.listen).await?;
    let stake = (settings.stake, &StakeSource::Awaited);
    // Only the start is patient; its loop must notice at once that the chain is away.
    let patient = joined.patiently();
    let running = validator::start(&patient, data, &bench, 0, stake, args.cheat).await?;
    let account = validator::key(data, 0)?.address();
    if let Err(error) = tell(args, account, joined.chain_id, &models) {
        tracing::warn!(%error, "nobody reads what was printed");
    }
    Ok(running)
}

fn models(data: &DataDir, config: &Config, args: &Args) -> Outcome<Vec<Arc<dyn Backend>>> {
    let models = models::for_judging(data, config, &args.model)?;
    Ok(models
        .into_iter()
        .map(|model| Arc::new(model) as _)
        .collect())
}

fn tell(
    args: &Args,
    account: Address,
    chain_id: u64,
    models: &[Arc<dyn Backend>],
) -> std::io::Result<()> {
    let names: Vec<_> = models.iter().map(|m| m.facts().model.as_str()).collect();
    if args.json {
        return say(
            json!({"ready": true, "account": account, "chain_id": chain_id, "models": names}),
        );
    }
    say(format_args!(
        "validator {account} on chain {chain_id}, judges answers of {}

Ctrl-C stops it; while it is away it misses ballots, which costs stake.",
        names.join(", ")
    ))
}
