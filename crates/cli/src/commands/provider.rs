//! `stoa provider`: a provider alone. It dials out to routers and needs no reachable port.

use super::Outcome;
use crate::cheats::{ProviderCheat, may_cheat};
use crate::config::Config;
use crate::data::DataDir;
use crate::launch::models;
use crate::launch::provider::{self, Answering, Machine, Router};
use crate::launch::routers::{Registration, Routers};
use crate::launch::service::{gone, listen, serve_metrics, until};
use crate::launch::stake::StakeSource;
use crate::launch::{JoinArgs, Joined};
use crate::process::{StopSignal, complain, say};
use crate::roles::claims::Claims;
use crate::roles::provider::ProviderHandle;
use crate::telemetry::TelemetryArgs;
use crate::upstream::{UpstreamArgs, connect_and_try};
use serde_json::json;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use stoa_chain::{AuditContracts, ChainAccess, Rpc};
use stoa_runtime::discover_hardware;
use stoa_types::{Address, Millis};
use tokio::sync::watch;

/// How often the registry is asked where the routers are.
const LOOK: Duration = Duration::from_millis(500);
/// How long the routers may take to let it in before it says that it waits for them.
const CONNECT_PATIENCE: Duration = Duration::from_secs(1);
/// How long running jobs may take after Ctrl-C.
const DRAIN_PATIENCE: Duration = Duration::from_secs(30);

/// Arguments of `stoa provider`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    join: JoinArgs,
    /// Account of a router to work for; repeat for several. Without it: all that are registered and staked at the start.
    #[arg(long, value_name = "ADDRESS")]
    router: Vec<Address>,
    /// Serves this model instead of the default one: an imported model, a GGUF file or a safetensors folder. Repeat for several: those
    /// that memory has no place for are loaded when they are asked for.
    #[arg(long, value_name = "FILE")]
    model: Vec<PathBuf>,
    #[command(flatten)]
    upstream: UpstreamArgs,
    /// It cheats, for devnets: to see how it is found out and what follows.
    #[arg(long, value_name = "HOW")]
    cheat: Option<ProviderCheat>,
    /// Local UDP address from which routers are dialled.
    #[arg(long, value_name = "IP:PORT")]
    listen: Option<SocketAddr>,
    /// Address of the Prometheus metrics.
    #[arg(long, value_name = "IP:PORT")]
    metrics: Option<SocketAddr>,
    /// Lays the settings of this file over the defaults; the first of its [[providers]] counts.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    telemetry: TelemetryArgs,
    /// Prints one line of JSON when ready.
    #[arg(long)]
    json: bool,
}

/// Runs a provider until Ctrl-C or SIGTERM.
pub async fn provider(data: &Path, args: &Args) -> Outcome {
    let hardware = discover_hardware();
    let mut config = Config::load(args.config.as_deref())?;
    args.upstream.apply(&mut config);
    config.provider.listen = args.listen.unwrap_or(config.provider.listen);
    config.provider.metrics = args.metrics.unwrap_or(config.provider.metrics);
    config.check(hardware.cores)?;
    args.telemetry.start(&config.telemetry)?;
    let data = DataDir::open(data)?;
    let mut signal = StopSignal::new()?;
    let (stop, stopped) = watch::channel(false);
    let work = tokio::select! {
        work = start(&data, &config, args, hardware, stopped) => work?,
        // Until it serves there is nothing to drain.
        stopped = signal.wait_early() => return Err(stopped.into()),
    };
    let drained = work.follow(&data, signal).await;
    let _ = stop.send(true);
    drained
}

/// A provider at work.
struct Work {
    directory: Routers<Rpc>,
    links: Vec<Link>,
    /// Answers claims for as long as it works.
    answering: Option<Answering>,
}

/// The loop that works for one router.
struct Link {
    router: Address,
    /// The start of the router that it was last dialled for.
    registration: Registration,
    redials: Redials,
    handle: ProviderHandle,
}

/// How often a router may have itself dialled anew by registering again: so many times at once, and once more after each pause. Each time ends
/// the link that stands, and whoever pays for a registration in each block must not keep a provider busy with it.
#[derive(Debug)]
struct Redials {
    left: u32,
    /// When one was last added.
    since: Instant,
}

/// More than a router that is restarted again and again needs.
const REDIALS_AT_ONCE: u32 = 8;
const REDIAL_PAUSE: Duration = Duration::from_secs(5);

impl Redials {
    fn new(now: Instant) -> Self {
        Self {
            left: REDIALS_AT_ONCE,
            since: now,
        }
    }

    fn take(&mut self, now: Instant) -> bool {
        while self.left < REDIALS_AT_ONCE
            && now.saturating_duration_since(self.since) >= REDIAL_PAUSE
        {
            self.left += 1;
            self.since += REDIAL_PAUSE;
        }
        if self.left == REDIALS_AT_ONCE {
            self.since = now;
        }
        let taken = self.left > 0;
        self.left = self.left.saturating_sub(1);
        taken
    }
}

async fn start(
    data: &DataDir,
    config: &Config,
    args: &Args,
    hardware: stoa_types::Hardware,
    stopped: watch::Receiver<bool>,
) -> Outcome<Work> {
    let metrics = listen(config.provider.metrics, "metrics", "--metrics").await?;
    serve_metrics(metrics, until(stopped))?;
    let machine = machine(data, config, args, hardware).await?;
    let joined = args.join.join(data).await?;
    may_cheat(args.cheat.is_some(), &joined.profile.rules)?;
    let machine = match args.cheat {
        Some(cheat) => cheat.with(machine),
        None => machine,
    };
    let patient = joined.patiently();
    provider::register(&patient, data, config, &machine, 0, &StakeSource::Awaited).await?;
    let mut directory = Routers::new(&joined);
    let found = find_routers(&mut directory, &args.router).await?;
    check_ports(config.provider.listen, found.len())?;
    let routers = found.iter().map(|(account, registration)| Router {
        account: *account,
        address: registration.address.clone(),
    });
    let routers: Vec<_> = routers.collect();
    let to = (&routers[..], config.provider.listen);
    let audits = AuditContracts::find(&patient.chain, &patient.contracts).await?;
    let claims = audits.and_then(|audits| Claims::start(&joined, audits, Millis(0)));
    let claims = (None, claims.as_ref());
    let up = provider::start(&joined, data, config, &machine, 0, to, claims).await?;
    let links = found.into_iter().zip(up.links);
    let links: Vec<_> = links
        .map(|((router, registration), handle)| Link {
            router,
            registration,
            redials: Redials::new(Instant::now()),
            handle,
        })
        .collect();
    wait_for_one(&links).await?;
    let account = provider::key(data, 0)?.address();
    let found = links.iter().map(|link| link.router).collect();
    if let Err(error) = tell(args, &joined, account, found) {
        tracing::warn!(%error, "nobody reads what was printed");
    }
    Ok(Work {
        directory,
        links,
        answering: up.answering,
    })
}

/// Each router is dialled from a socket of its own.
fn check_ports(listen: SocketAddr, routers: usize) -> Outcome {
    if listen.port() == 0 || routers < 2 {
        return Ok(());
    }
    Err(format!(
        "one port, {listen}, cannot serve {routers} routers, because each is dialled from a port of its own; use port 0 with --listen, or \
         name one router with --router"
    )
    .into())
}

/// Waits for the first router that lets it in; not for ever, because routers may come later.
async fn wait_for_one(links: &[Link]) -> std::io::Result<()> {
    let end = tokio::time::Instant::now() + CONNECT_PATIENCE;
    while !links.iter().any(|link| link.handle.is_connected()) {
        if tokio::time::Instant::now() > end {
            return complain("no router has let it in yet; they are dialled again and again");
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// What computes: refused before anything is sent to the chain.
async fn machine(
    data: &DataDir,
    config: &Config,
    args: &Args,
    hardware: stoa_types::Hardware,
) -> Outcome<Machine> {
    let exact = models::exact(data, config, 1, &args.model)?;
    let upstream = connect_and_try(config).await?;
    Ok(Machine {
        hardware,
        upstream_places: upstream.as_ref().map(|u| u.info().concurrency),
        backends: models::backends(upstream, exact),
        providers: 1,
        silent: false,
    })
}

/// The routers to work for: those that were named, or all that are staked. Waits until there is one.
async fn find_routers<C: ChainAccess + Clone>(
    directory: &mut Routers<C>,
    named: &[Address],
) -> Outcome<Vec<(Address, Registration)>> {
    let named: BTreeSet<_> = named.iter().copied().collect();
    let mut told = String::new();
    loop {
        let read = if named.is_empty() {
            directory.read_staked().await
        } else {
            let read = directory.read().await;
            read.map(|()| named.iter().copied().collect())
        };
        let waiting = match &read {
            Ok(_) if named.is_empty() => {
                "waiting for a router: none is registered with stake on this network".to_owned()
            }
            Ok(_) => "waiting for the named routers to be registered on this network".to_owned(),
            Err(error) => format!("waiting for the chain: {error}"),
        };
        let wanted = read.unwrap_or_default();
        let found = wanted.iter().filter_map(|account| {
            let registration = directory.get(*account)?.clone();
            Some((*account, registration))
        });
        let found: Vec<_> = found.collect();
        if !found.is_empty() && found.len() == wanted.len() {
            return Ok(found);
        }
        if told != waiting {
            complain(&waiting)?;
            told = waiting;
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn tell(
    args: &Args,
    joined: &Joined<Rpc>,
    account: Address,
    routers: Vec<Address>,
) -> std::io::Result<()> {
    if args.json {
        return say(
            json!({"ready": true, "account": account, "chain_id": joined.chain_id, "routers": routers}),
        );
    }
    let routers: Vec<_> = routers.iter().map(ToString::to_string).collect();
    say(format_args!(
        "provider {account} on chain {}, works for {}

Ctrl-C lets running jobs end and stops; starting again goes on from the same state.",
        joined.chain_id,
        routers.join(", ")
    ))
}

impl Work {
    /// Keeps the links to where the routers are, until it is told to stop; then drains.
    async fn follow(mut self, data: &DataDir, mut signal: StopSignal) -> Outcome {
        let mut ticks = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                () = signal.wait() => break,
                gone = gone(data) => return Err(gone),
                // Given up where it stands: a chain that does not answer must not keep the signal waiting.
                () = async { ticks.tick().await; self.look().await } => {}
            }
        }
        let _ = complain("stopping: running jobs may end; a second Ctrl-C stops at once");
        let mut draining = tokio::task::JoinSet::new();
        for link in self.links {
            draining.spawn(link.handle.drain(DRAIN_PATIENCE));
        }
        let ending = async {
            draining.join_all().await;
            if let Some(answering) = self.answering {
                answering.end().await;
            }
        };
        tokio::select! {
            () = ending => Ok(()),
            () = signal.wait() => Err("stopped at once; jobs under way were not waited for".into()),
        }
    }

    async fn look(&mut self) {
        if let Err(error) = self.directory.read().await {
            tracing::debug!(%error, "the registry cannot be read");
            return;
        }
        for link in &mut self.links {
            let now = self.directory.get(link.router);
            // Not now is later: the newest registration is still another one at the next look.
            if let Some(registration) = now.filter(|now| **now != link.registration)
                && link.redials.take(Instant::now())
            {
                tracing::info!(router = %link.router, "the router started anew");
                // What one router says of itself must not end the work for the others.
                if let Err(error) = link.handle.redial(&registration.address) {
                    tracing::warn!(router = %link.router, %error, "the router cannot be dialled where it says");
                }
                link.registration = registration.clone();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_router_that_registers_in_every_block_is_dialled_anew_only_now_and_then() {
        let start = Instant::now();
        let mut redials = Redials::new(start);
        let at = |seconds| start + Duration::from_secs(seconds);
        // A block each second for ten minutes.
        let taken = (0..600).filter(|second| redials.take(at(*second))).count();
        assert_eq!(taken, 8 + 119, "eight at once, then one each five seconds");
        // After a rest, restarts are followed at once again.
        assert!((0..8).all(|_| redials.take(at(3_600))));
        assert!(!redials.take(at(3_600)));
        assert!(redials.take(at(3_605)));
    }
}
