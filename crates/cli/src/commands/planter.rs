//! `stoa planter`: a planter alone, with a customer and a provider of its own. It dials out to a router and needs no reachable port.

use super::Outcome;
use crate::config::Config;
use crate::data::DataDir;
use crate::launch::customer::SEAT_PATIENCE;
use crate::launch::models;
use crate::launch::planter::{self, Ground, Identity, PlanterUp};
use crate::launch::provider::Machine;
use crate::launch::service::{gone, listen, serve_metrics, until};
use crate::launch::{JoinArgs, customer, validator};
use crate::process::{StopSignal, complain, say};
use crate::roles::claims::Claims;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use stoa_runtime::discover_hardware;
use stoa_types::{Address, Digest, Millis};
use tokio::sync::watch;

/// How long the registry may take to say where the router is.
const ROUTER_PATIENCE: Duration = Duration::from_secs(60);
/// How long its provider's running jobs may take after Ctrl-C.
const DRAIN_PATIENCE: Duration = Duration::from_secs(30);

/// Arguments of `stoa planter`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    join: JoinArgs,
    /// Account of the router that it buys from.
    #[arg(long, value_name = "ADDRESS")]
    router: Address,
    /// Base URL of that router's API, ending in /v1.
    #[arg(long, value_name = "URL")]
    api: String,
    /// Begins also at a router without a seat: no validator judges what it posts.
    #[arg(long)]
    unjudged: bool,
    /// Its provider serves this model (an imported one, a GGUF file or a safetensors folder) instead of the default one; validators must have it.
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// Local UDP address from which routers are dialled.
    #[arg(long, value_name = "IP:PORT")]
    listen: Option<SocketAddr>,
    /// Address of the Prometheus metrics.
    #[arg(long, value_name = "IP:PORT")]
    metrics: Option<SocketAddr>,
    /// Lays the settings of this file over the defaults: [planter], [developer] for its customer, [provider] for its provider.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Prints one line of JSON when ready.
    #[arg(long)]
    json: bool,
}

/// Runs a planter until Ctrl-C or SIGTERM.
pub async fn planter(data: &Path, args: &Args) -> Outcome {
    let mut config = Config::load(args.config.as_deref())?;
    config.planter.listen = args.listen.unwrap_or(config.planter.listen);
    config.planter.metrics = args.metrics.unwrap_or(config.planter.metrics);
    config.check(discover_hardware().cores)?;
    let data = DataDir::open(data)?;
    let mut signal = StopSignal::new()?;
    let (stop, stopped) = watch::channel(false);
    let running = tokio::select! {
        running = start(&data, &config, args, stopped) => running?,
        // Until it has its first customer and provider there is nothing to end.
        stopped = signal.wait_early() => return Err(stopped.into()),
    };
    tokio::select! {
        () = signal.wait() => {}
        gone = gone(&data) => return Err(gone),
    }
    let _ = complain("stopping: its provider's jobs may end; a second Ctrl-C stops at once");
    let ending = async {
        if let Some(provider) = running.stop().await {
            provider.end(DRAIN_PATIENCE).await;
        }
    };
    tokio::select! {
        () = ending => {}
        // Plants are on disk before they are stored.
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
) -> Outcome<PlanterUp> {
    let settings = &config.planter;
    let metrics = listen(settings.metrics, "metrics", "--metrics").await?;
    serve_metrics(metrics, until(stopped))?;
    let api = customer::checked_api(&args.api)?;
    let machine = machine(data, config, args)?;
    let joined = args.join.join(data).await?;
    customer::check_router(&joined.patiently(), args.router).await?;
    if !args.unjudged {
        planter::check_seat(&joined.patiently(), data, args.router, SEAT_PATIENCE).await?;
    }
    let Some(audits) = validator::watch(&joined).await? else {
        return Err(
            "nobody judges on this network, so that no plant would show anything: its stake registry names no verdict"
                .into(),
        );
    };
    let known = |state: &stoa_chain::AuditState| state.reached(args.router).is_some();
    if !audits.1.shows(ROUTER_PATIENCE, known).await {
        return Err(format!("router {} is not registered on this network", args.router).into());
    }
    let account = data.account_key("planter")?.address();
    let present = planter::present(data)?;
    let next = (config.planter.sets_per_identity > 0).then(|| present.saturating_add(1));
    let identities = std::iter::once(present).chain(next);
    let identities = identities.map(|n| planter::identity(data, n));
    let identities = identities.collect::<Outcome<Vec<_>>>()?;
    if let Err(error) = complain(lines(&identities)) {
        tracing::warn!(%error, "nobody reads what was printed");
    }
    let running = planter::start(Ground {
        claims: Claims::start(&joined, audits.0, Millis(0)),
        joined,
        data: data.clone(),
        config: config.clone(),
        audits,
        router: args.router,
        api,
        bind: settings.listen,
        machine,
        set: settings.set,
        giver: None,
        last: None,
    })
    .await?;
    if let Err(error) = tell(args, account, &identities) {
        tracing::warn!(%error, "nobody reads what was printed");
    }
    Ok(running)
}

fn machine(data: &DataDir, config: &Config, args: &Args) -> Outcome<Machine> {
    let exact = models::exact(data, config, 1, args.model.as_slice())?;
    Ok(Machine {
        hardware: discover_hardware(),
        upstream_places: None,
        backends: models::backends(None, exact),
        providers: 1,
        silent: false,
    })
}

fn hash(identity: &Identity) -> Digest {
    Digest(identity.key.to_bytes())
}

/// What the router's operator adds to its settings.
fn lines(identities: &[Identity]) -> String {
    let entries = identities.iter().map(|identity| {
        let (account, hash) = (identity.customer, hash(identity));
        format!("{{ account = \"{account}\", hash = \"{hash}\" }}")
    });
    let entries = entries.collect::<Vec<_>>().join(", ");
    format!(
        "The router's operator lets the planter's customer in by this line in the [router] settings, as any other's; the second account, \
         if there is one, takes over later:\n\n  keys = [{entries}]\n"
    )
}

fn tell(args: &Args, account: Address, identities: &[Identity]) -> std::io::Result<()> {
    if args.json {
        let identities = identities.iter().map(|identity| {
            let key_hash = hash(identity);
            json!({"customer": identity.customer, "key_hash": key_hash, "provider": identity.provider})
        });
        let identities: Vec<Value> = identities.collect();
        return say(
            json!({"ready": true, "account": account, "router": args.router, "identities": identities}),
        );
    }
    say(format_args!(
        "planter {account} buys from router {}

Ctrl-C stops it; while it is away, plants that are posted and not named cost the stake of its own provider.",
        args.router
    ))
}
