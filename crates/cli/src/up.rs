//! `stoa up`: a whole network in one process on loopback, of the same roles that `stoa router` and its like start alone.

use crate::cheats::{Cheat, ValidatorCheat, may_cheat};
use crate::config::{Config, Rhythm};
use crate::data::DataDir;
use crate::join::JoinFile;
use crate::launch::developer::Allowance;
use crate::launch::models;
use crate::launch::planter::{self, Ground, PlanterUp};
use crate::launch::provider::{self, Machine, ProviderUp, Router};
use crate::launch::router::{self, Door, RouterUp};
use crate::launch::service::{gone, listen, local, serve_metrics, until};
use crate::launch::stake::StakeSource;
use crate::launch::validator::{self, Bench};
use crate::launch::{Joined, chain, developer};
use crate::network::{Network, contract_names};
use crate::process::{Failure, StopSignal, complain, say};
use crate::profile::Profile;
use crate::roles::gateway::RouterGateway;
use crate::roles::router::{RouterStopped, now};
use crate::roles::validator::ValidatorHandle;
use crate::telemetry::TelemetryArgs;
use crate::upstream::{UpstreamArgs, connect_and_try};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use stoa_api::{Gateway, KeyHash};
use stoa_chain::{AuditState, ChainAccess};
use stoa_evm::Chain;
use stoa_runtime::{Backend, discover_hardware};
use tokio::net::TcpListener;
use tokio::sync::watch;

/// Arguments of `stoa up`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Port of API and dashboard; 0 takes any free port for all listeners.
    #[arg(long)]
    port: Option<u16>,
    /// Network profile: stoa or infera.
    #[arg(long)]
    profile: Option<String>,
    /// Number of providers, 1 to 100.
    #[arg(long, value_name = "N")]
    providers: Option<u32>,
    /// Number of validators, 0 to 64. They compute a share of the answers again; whoever sold a wrong one loses stake.
    #[arg(long, value_name = "N")]
    validators: Option<u32>,
    /// The first provider, the router or the first validator cheats, for devnets: to see how it is found out and what follows. Repeat for
    /// several.
    #[arg(long, value_name = "HOW")]
    cheat: Vec<Cheat>,
    /// False answers that a planter buys at a time to see which validators look, 0 to 20; 0 is no planter.
    #[arg(long, value_name = "N")]
    plants: Option<u32>,
    #[command(flatten)]
    rhythm: Rhythm,
    /// Serves this model instead of the default one: an imported model, a GGUF file or a safetensors folder. Repeat for several: those
    /// that memory has no place for are loaded when they are asked for.
    #[arg(long, value_name = "FILE")]
    model: Vec<PathBuf>,
    #[command(flatten)]
    upstream: UpstreamArgs,
    /// Lays the settings of this file over the defaults (config/default.toml): ports, prices, slots, availability windows.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    telemetry: TelemetryArgs,
    /// Deletes the network in the data folder first, with its keys and money.
    #[arg(long)]
    fresh: bool,
    /// Prints one line of JSON on standard output when ready, and nothing else; the log goes to standard error.
    #[arg(long)]
    json: bool,
}

/// Starts the network, tells how to reach it, and runs until Ctrl-C or a fatal fault.
pub async fn run(data: &Path, args: &Args, started: Instant) -> Result<(), Failure> {
    let hardware = discover_hardware();
    let mut config = Config::load(args.config.as_deref())?;
    config.apply(args);
    config.check(hardware.cores)?;
    args.telemetry.start(&config.telemetry)?;
    let asked = config.asked_profile(&args.rhythm)?;
    may_cheat(!args.cheat.is_empty(), &asked)?;
    let named = args.profile.is_some() || args.rhythm.is_named();
    let data = DataDir::open(data)?;
    // Whatever can be refused is refused before anything is deleted or changed.
    let listeners = Listeners::bind(&config).await?;
    let providers = config.up.providers;
    let own_models = match &args.model[..] {
        [] => None,
        named => Some(models::exact(&data, &config, providers, named)?),
    };
    let upstream = connect_and_try(&config).await?;
    if args.fresh {
        data.clear()?;
    }
    let profile = Profile::settle(&data, asked, named)?;
    may_cheat(!args.cheat.is_empty(), &profile.rules)?;
    let exact = match own_models {
        Some(models) => models,
        None => models::exact(&data, &config, providers, &[])?,
    };
    let machine = Machine {
        hardware,
        upstream_places: upstream.as_ref().map(|u| u.info().concurrency),
        backends: models::backends(upstream, exact),
        providers,
        silent: false,
    };
    let network = start(&data, &config, profile, listeners, (machine, &args.cheat)).await?;
    network.info.save(&data.path(""))?;
    // Before anybody is told that it is up: whoever stops it on reading so has it stopped in good order.
    let stop = StopSignal::new()?;
    if let Err(error) = tell(&network, args, started) {
        // Whoever read it has gone; the network was started to run.
        tracing::warn!(%error, "nobody reads what was printed; network.json in the data folder says the same");
    }
    network.serve(&data, stop).await
}

impl Config {
    fn apply(&mut self, args: &Args) {
        if let Some(port) = args.port {
            self.up.port = port;
            if port == 0 {
                (self.up.rpc_port, self.up.metrics_port) = (0, 0);
            }
        }
        if let Some(profile) = &args.profile {
            self.up.profile.clone_from(profile);
        }
        if let Some(providers) = args.providers {
            self.up.providers = providers;
        }
        if let Some(validators) = args.validators {
            self.up.validators = validators;
        }
        if let Some(plants) = args.plants {
            self.up.plants = plants;
        }
        args.upstream.apply(self);
    }
}

/// All sockets, bound before anything is changed: a port in use costs nothing.
struct Listeners {
    api: TcpListener,
    rpc: TcpListener,
    metrics: TcpListener,
}

impl Listeners {
    async fn bind(config: &Config) -> Result<Self, Failure> {
        let up = &config.up;
        Ok(Self {
            api: listen(local(up.port), "the API", "--port").await?,
            rpc: listen(local(up.rpc_port), "the chain's RPC", OTHER_PORTS).await?,
            metrics: listen(local(up.metrics_port), "metrics", OTHER_PORTS).await?,
        })
    }
}

/// How to choose the ports that have no option of their own.
/// How long calls are held back until all validators have their seats.
const SEATS_PATIENCE: Duration = Duration::from_secs(3);
/// Further identities of the planter that are let in at a start; the last of them stays until the next.
const IDENTITIES_AHEAD: u32 = 8;
const OTHER_PORTS: &str = "--port 0 (any free ports), or in a file named with --config";

/// A running network.
struct Running {
    info: Network,
    login: String,
    models: Vec<String>,
    router: RouterUp,
    providers: Vec<ProviderUp>,
    validators: Vec<ValidatorHandle>,
    planter: Option<PlanterUp>,
    chain: Arc<Chain>,
    stop: watch::Sender<bool>,
}

async fn start(
    data: &DataDir,
    config: &Config,
    profile: Profile,
    listeners: Listeners,
    (machine, cheats): (Machine, &[Cheat]),
) -> Result<Running, Failure> {
    let (stop, stopped) = watch::channel(false);
    let chain = chain::open(data, &profile)?;
    let url = |listener: &TcpListener| {
        let address = listener.local_addr();
        address.map(|address| format!("http://{address}"))
    };
    let (api_url, rpc_url) = (url(&listeners.api)?, url(&listeners.rpc)?);
    let metrics_url = url(&listeners.metrics)?;
    let rpc_config = stoa_evm::rpc::RpcConfig::default();
    let served = stoa_evm::rpc::serve(
        listeners.rpc,
        chain.clone(),
        rpc_config,
        until(stopped.clone()),
    );
    tokio::spawn(served);
    serve_metrics(listeners.metrics, until(stopped.clone()))?;
    tokio::spawn(chain::watch(chain.clone()));

    let (joined, deployer) = chain::found(data, profile, &chain).await?;
    let deployer = Arc::new(deployer);
    let file = JoinFile {
        rpc: rpc_url.clone(),
        chain_id: joined.chain_id,
        contracts: joined.contracts,
        profile: joined.profile.text.clone(),
    };
    file.publish(data)?;
    let router_account = data.account_key("router")?.address();
    let settings = &config.developer;
    let developer_key = data.account_key("developer")?;
    let developer =
        developer::fund(&joined, developer_key, router_account, settings, &deployer).await?;
    let source = StakeSource::Granted(&deployer);
    for n in 0..machine.providers {
        provider::register(&joined, data, config, &machine, n, &source).await?;
    }
    let door = Door {
        listen: local(0),
        announced: Vec::new(),
    };
    let cheat = cheats.iter().find_map(|cheat| cheat.of_router());
    let router = router::start(&joined, data, config, (&door, cheat), &source).await?;
    // Before any call is taken: works are sealed to who has a seat.
    let cheat = cheats.iter().find_map(|cheat| cheat.of_validator());
    let audited = (&router, &machine, cheat);
    let validators = start_validators(&joined, data, config, audited, &source).await?;
    let dialled = [Router {
        account: router.account,
        address: router.address.clone(),
    }];
    let mut providers = Vec::new();
    for n in 0..machine.providers {
        let to = (&dialled[..], local(0));
        let cheat = cheats.iter().find_map(|cheat| cheat.of_provider());
        let own = match cheat.filter(|_| n == 0) {
            Some(cheat) => cheat.with(machine.clone()),
            None => machine.clone(),
        };
        let claims = (None, router.claims.as_ref());
        providers.push(provider::start(&joined, data, config, &own, n, to, claims).await?);
    }

    let key = api_key(data)?;
    let mut configured = vec![(KeyHash::of(&key), developer.address())];
    let strangers = config.router.keys.iter();
    configured.extend(strangers.map(|known| (KeyHash::from_bytes(known.hash.0), known.account)));
    let identities = identities(data, config)?;
    for n in identities.clone() {
        let customer = planter::identity(data, n)?;
        configured.push((customer.key, customer.customer));
    }
    let gateway = router::gateway(data, config, &router, &configured)?;
    wait_for_providers(&gateway, providers.len()).await?;
    let models = offered(&gateway, &machine.backends);
    let login_token = router::serve_api(config, listeners.api, gateway, until(stopped))?;
    let info = Network {
        api: format!("{api_url}/v1"),
        key,
        rpc: rpc_url,
        metrics: format!("{metrics_url}/metrics"),
        chain_id: joined.chain_id,
        contracts: contract_names(&joined.contracts),
        router: router.account,
        developer: developer.address(),
        providers: (0..machine.providers)
            .map(|n| provider::key(data, n).map(|key| key.address()))
            .collect::<Result<_, _>>()?,
        validators: (0..config.up.validators)
            .map(|n| validator::key(data, n).map(|key| key.address()))
            .collect::<Result<_, _>>()?,
        more: Vec::new(),
    };
    let planter = match (identities.last(), &router.audits) {
        (Some(last), Some(audits)) => {
            let ground = Ground {
                joined: joined.clone(),
                data: data.clone(),
                config: config.clone(),
                audits: audits.clone(),
                claims: router.claims.clone(),
                router: router.account,
                api: info.api.clone(),
                bind: local(0),
                machine: machine.clone(),
                set: config.up.plants,
                giver: Some(deployer.clone()),
                last: Some(last),
            };
            Some(planter::start(ground).await?)
        }
        _ => None,
    };
    let mut allowance = Allowance::new(&joined, developer, router.account, settings.clone());
    // A network that rested may find its allotment near its end, or over: calls must work when `ready` is told.
    if let Some(until) = allowance.renew().await? {
        tracing::warn!(
            minutes = until.since(now()).0 / 60_000 + 1,
            "the developer's allotment ended while the network was stopped; calls are refused until the vault gives it back"
        );
    }
    tokio::spawn(allowance.keep_alive());
    Ok(Running {
        login: format!("{api_url}/login?token={login_token}"),
        models,
        info,
        router,
        providers,
        validators,
        planter,
        chain,
        stop,
    })
}

/// Validators that judge with the models that are served here.
async fn start_validators<C: ChainAccess + Clone>(
    joined: &Joined<C>,
    data: &DataDir,
    config: &Config,
    (router, machine, cheat): (&RouterUp, &Machine, Option<ValidatorCheat>),
    source: &StakeSource<'_, C>,
) -> Result<Vec<ValidatorHandle>, Failure> {
    let Some(audits) = &router.audits else {
        return Ok(Vec::new());
    };
    if config.up.validators == 0 {
        return Ok(Vec::new());
    }
    // After a restart the router is elsewhere: who asked at its old place would wait for nobody, one question after the other.
    let (_, watch) = audits;
    let place = router.address.addresses.iter().map(ToString::to_string);
    let place = place.collect::<Vec<_>>().join(",");
    let moved = |state: &AuditState| {
        let reached = state.reached(router.account);
        reached.is_some_and(|reached| reached.addresses == place)
    };
    if !watch.shows(SEATS_PATIENCE, moved).await {
        tracing::warn!(
            "validators have not seen yet where the router is; they ask again when they have"
        );
    }
    let cores = machine.hardware.cores;
    let bench = Bench::new(audits.clone(), &machine.backends, cores, local(0)).await?;
    let (_, watch) = audits;
    // The registry named where the router was in its last life, until a moment ago: who dials there finds nobody, and goes on doing so.
    let addresses = router.address.addresses.iter().map(ToString::to_string);
    let here = addresses.collect::<Vec<_>>().join(",");
    let is_here = |state: &AuditState| {
        let reached = state.reached(router.account);
        reached.is_some_and(|at| at.addresses == here)
    };
    if !watch.shows(SEATS_PATIENCE, is_here).await {
        tracing::warn!(
            "the registry's word of where the router is has not been read yet; validators may dial its old address"
        );
    }
    let mut running = Vec::new();
    for n in 0..config.up.validators {
        let stake = (config.validator.stake, source);
        let cheat = cheat.filter(|_| n == 0);
        running.push(validator::start(joined, data, &bench, n, stake, cheat).await?);
    }
    // The router seals work to those whose seats it has seen: who were missing could say nothing about the first calls.
    let seats = (0..config.up.validators).map(|n| validator::key(data, n).map(|key| key.address()));
    let seats = seats.collect::<Result<Vec<_>, _>>()?;
    let all = |state: &AuditState| seats.iter().all(|who| state.is_seated(*who));
    if !watch.shows(SEATS_PATIENCE, all).await {
        tracing::warn!("not every validator has its seat yet; until then it cannot judge calls");
    }
    Ok(running)
}

/// The models that are offered, those of the first backend first.
fn offered(gateway: &RouterGateway, backends: &[Arc<dyn Backend>]) -> Vec<String> {
    let mut models: Vec<_> = gateway.models().into_iter().map(|model| model.id).collect();
    let first = backends
        .first()
        .map(|backend| backend.facts().model.as_str());
    models.sort_by_key(|model| Some(model.as_str()) != first);
    models
}

async fn wait_for_providers(gateway: &Arc<RouterGateway>, wanted: usize) -> Result<(), Failure> {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let online = gateway
            .providers()
            .iter()
            .filter(|provider| provider.online)
            .count();
        if online >= wanted {
            return Ok(());
        }
        if Instant::now() > end {
            return Err(format!(
                "only {online} of {wanted} providers connected within 20 s; see the log"
            )
            .into());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The planter's identities whose API keys the router is to know, if there is to be a planter: nobody but validators is shown up by one.
fn identities(data: &DataDir, config: &Config) -> Result<std::ops::Range<u32>, Failure> {
    if config.up.plants == 0 || config.up.validators == 0 {
        return Ok(0..0);
    }
    let first = planter::present(data)?;
    let more = match config.planter.sets_per_identity {
        0 => 0,
        _ => IDENTITIES_AHEAD,
    };
    Ok(first..first.saturating_add(1 + more))
}

/// The developer's API key; the router keeps only its hash.
fn api_key(data: &DataDir) -> Result<String, Failure> {
    Ok(format!("sk-stoa-{}", hex::encode(data.secret("api")?)))
}

fn tell(network: &Running, args: &Args, started: Instant) -> std::io::Result<()> {
    let info = &network.info;
    let ready_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    if args.json {
        return say(serde_json::json!({
            "ready": true, "ready_ms": ready_ms, "api": info.api, "key": info.key, "dashboard": network.login, "rpc": info.rpc,
            "metrics": info.metrics, "chain_id": info.chain_id, "contracts": info.contracts, "models": network.models,
        }));
    }
    let (chain, providers) = (info.chain_id, network.providers.len());
    let validators = network.validators.len();
    let model = network.models.first().map_or("", String::as_str);
    let body =
        serde_json::json!({"model": model, "messages": [{"role": "user", "content": "Hello"}]});
    say(format_args!(
        "Stoa is up after {ready_ms} ms: chain {chain}, 1 router, {providers} {}, {validators} {}.

  API        {}
  API key    {}
  dashboard  {}
  chain RPC  {}
  metrics    {}

  curl -s {}/chat/completions -H 'Authorization: Bearer {}' -d {}

Ctrl-C drains and stops; starting again goes on from the same state.",
        if providers == 1 {
            "provider"
        } else {
            "providers"
        },
        if validators == 1 {
            "validator"
        } else {
            "validators"
        },
        info.api,
        info.key,
        network.login,
        info.rpc,
        info.metrics,
        info.api,
        info.key,
        quoted(&body.to_string()),
    ))
}

/// One word of a shell's command line, whatever it holds: a model may be named after any file.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

impl Running {
    /// Runs until Ctrl-C or SIGTERM, or until something had to stop.
    async fn serve(mut self, data: &DataDir, mut stop: StopSignal) -> Result<(), Failure> {
        tokio::select! {
            () = stop.wait() => {}
            stopped = &mut self.router.task => return ended(stopped),
            gone = gone(data) => return Err(gone),
        }
        let _ = complain(
            "stopping: running calls may end, then everything is closed; a second Ctrl-C stops at once",
        );
        tokio::select! {
            () = self.drain() => {}
            // What was promised is on disk; a start recovers from any moment.
            () = stop.wait() => return Err("stopped at once; calls under way were not waited for".into()),
        }
        Ok(())
    }

    async fn drain(mut self) {
        if let Some(planter) = self.planter {
            self.providers.extend(planter.stop().await);
        }
        router::drain(&self.router.handle).await;
        let _ = self.stop.send(true);
        let mut draining = tokio::task::JoinSet::new();
        for provider in self.providers {
            draining.spawn(provider.drain(Duration::from_secs(2)));
        }
        draining.join_all().await;
        for validator in self.validators {
            validator.stop().await;
        }
        self.router.endpoint.close().await;
        self.chain.close();
    }
}

/// How the router's loop ended by itself.
fn ended(
    stopped: Result<Result<(), RouterStopped>, tokio::task::JoinError>,
) -> Result<(), Failure> {
    Ok(stopped??)
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn the_printed_curl_line_can_be_pasted_whatever_the_model_is_called() {
        let told = std::process::Command::new("sh")
            .args([
                "-c",
                &format!("printf %s {}", quoted("it's $HOME `x` \\ \"m\"")),
            ])
            .output()
            .expect("a shell");
        assert_eq!(told.stdout, b"it's $HOME `x` \\ \"m\"");
    }
}
