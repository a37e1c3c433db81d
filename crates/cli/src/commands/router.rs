//! `stoa router`: a router alone, against a chain by RPC.

use super::Outcome;
use crate::cheats::may_cheat;
use crate::config::{Config, Router as Settings};
use crate::data::DataDir;
use crate::launch::JoinArgs;
use crate::launch::router::{self, Door, RouterUp};
use crate::launch::service::{gone, listen, serve_metrics, until};
use crate::launch::stake::StakeSource;
use crate::process::{StopSignal, complain, say};
use crate::roles::forger::RouterCheat;
use crate::telemetry::TelemetryArgs;
use serde_json::json;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use stoa_api::KeyHash;
use tokio::sync::watch;

/// Arguments of `stoa router`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    join: JoinArgs,
    /// UDP address on which providers are awaited.
    #[arg(long, value_name = "IP:PORT")]
    listen: Option<SocketAddr>,
    /// Where providers reach it, if that is elsewhere. Repeat or separate with commas.
    #[arg(long, value_delimiter = ',', value_name = "IP:PORT")]
    announce: Vec<SocketAddr>,
    /// Address of API and dashboard.
    #[arg(long, value_name = "IP:PORT")]
    api: Option<SocketAddr>,
    /// Address of the Prometheus metrics.
    #[arg(long, value_name = "IP:PORT")]
    metrics: Option<SocketAddr>,
    /// It cheats, for devnets: to see how validators find it out and what follows.
    #[arg(long, value_name = "HOW")]
    cheat: Option<RouterCheat>,
    /// Lays the settings of this file over the defaults.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    telemetry: TelemetryArgs,
    /// Prints one line of JSON when ready.
    #[arg(long)]
    json: bool,
}

impl Args {
    fn apply(&self, settings: &mut Settings) {
        settings.listen = self.listen.unwrap_or(settings.listen);
        settings.api = self.api.unwrap_or(settings.api);
        settings.metrics = self.metrics.unwrap_or(settings.metrics);
        if !self.announce.is_empty() {
            settings.announce.clone_from(&self.announce);
        }
    }
}

/// Runs a router until Ctrl-C or SIGTERM, or until its journal fails.
pub async fn router(data: &Path, args: &Args) -> Outcome {
    let mut config = Config::load(args.config.as_deref())?;
    args.apply(&mut config.router);
    config.router.check()?;
    args.telemetry.start(&config.telemetry)?;
    let data = DataDir::open(data)?;
    let mut signal = StopSignal::new()?;
    let (stop, stopped) = watch::channel(false);
    let up = tokio::select! {
        up = start(&data, &config, args, stopped) => up?,
        // Until it serves there is nothing to drain.
        stopped = signal.wait_early() => return Err(stopped.into()),
    };
    run(&data, up, signal, stop).await
}

async fn start(
    data: &DataDir,
    config: &Config,
    args: &Args,
    stopped: watch::Receiver<bool>,
) -> Outcome<RouterUp> {
    let settings = &config.router;
    let api = listen(settings.api, "the API", "--api").await?;
    let metrics = listen(settings.metrics, "metrics", "--metrics").await?;
    serve_metrics(metrics, until(stopped.clone()))?;
    let joined = args.join.join(data).await?;
    may_cheat(args.cheat.is_some(), &joined.profile.rules)?;
    let door = Door {
        listen: settings.listen,
        announced: settings.announce.clone(),
    };
    let door = (&door, args.cheat);
    let up = router::start(&joined, data, config, door, &StakeSource::Awaited).await?;
    let keys = settings.keys.iter();
    let keys = keys.map(|key| (KeyHash::from_bytes(key.hash.0), key.account));
    let gateway = router::gateway(data, config, &up, &keys.collect::<Vec<_>>())?;
    let url = format!("http://{}", api.local_addr()?);
    let token = router::serve_api(config, api, gateway, until(stopped))?;
    if let Err(error) = tell(args, &up, &url, &token) {
        tracing::warn!(%error, "nobody reads what was printed");
    }
    Ok(up)
}

fn tell(args: &Args, up: &RouterUp, url: &str, token: &str) -> std::io::Result<()> {
    let address = &up.address;
    let dashboard = format!("{url}/login?token={token}");
    if args.json {
        return say(json!({
            "ready": true, "account": up.account, "api": format!("{url}/v1"), "dashboard": dashboard,
            "endpoint": address.endpoint, "addresses": address.addresses,
        }));
    }
    let addresses: Vec<_> = address.addresses.iter().map(ToString::to_string).collect();
    say(format_args!(
        "router {}

  API        {url}/v1
  dashboard  {dashboard}
  providers  {}

Ctrl-C drains and stops; starting again goes on from the same state.",
        up.account,
        addresses.join(", ")
    ))
}

async fn run(
    data: &DataDir,
    mut up: RouterUp,
    mut signal: StopSignal,
    stop: watch::Sender<bool>,
) -> Outcome {
    tokio::select! {
        () = signal.wait() => {}
        ended = &mut up.task => return Ok(ended??),
        gone = gone(data) => return Err(gone),
    }
    let _ = complain("stopping: running calls may end; a second Ctrl-C stops at once");
    tokio::select! {
        () = router::drain(&up.handle) => {}
        () = signal.wait() => return Err("stopped at once; calls under way were not waited for".into()),
    }
    let _ = stop.send(true);
    up.endpoint.close().await;
    Ok(())
}
