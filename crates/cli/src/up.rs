//! `stoa up`: a whole network in one process on loopback. The same roles as separate processes would be; here they share one chain.

use crate::config::{Config, Developer as DeveloperSettings, ProviderOffer, market_slots};
use crate::data::{DataDir, write_private};
use crate::network::Network;
use crate::process::{StopSignal, complain, one_line, say};
use crate::roles::earnings::{self, Earnings};
use crate::roles::gateway::{ChainView, RouterGateway};
use crate::roles::keys::KeyStore;
use crate::roles::provider::{ProviderHandle, ProviderParts};
use crate::roles::replays::{Bounds, Replays};
use crate::roles::router::{DecisionLog, RouterHandle, RouterParts, RouterStopped, now};
use crate::roles::settler::{Follower, SharedRegistered};
use crate::roles::{journal, provider, router, settler};
use crate::upstream::{UpstreamArgs, connect_and_try};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use stoa_api::{Gateway, KeyHash, RATES_OF_ACCOUNTS, ServerConfig, Timings};
use stoa_chain::{
    Account, AllotmentView, Beneficiaries, Contracts, Embedded, Offer, Sender, StakeRole, View,
    deploy, evm_address,
};
use stoa_crypto::{Domain, SecretKey, keccak256};
use stoa_evm::{Allocation, Chain, ChainConfig, Genesis};
use stoa_net::{Backoff, EndpointSecret, ProviderEndpoint, RouterEndpoint, Welcome};
use stoa_nodes::provider::{Provider, ProviderConfig};
use stoa_nodes::router::{Input, Router, RouterConfig};
use stoa_runtime::{
    Backend, ExactBackend, ExactOptions, Executor, ProviderPolicy, UpstreamBackend,
    discover_hardware,
};
use stoa_types::{Address, Digest, Hardware, Millis, NetworkProfile, Timestamp, TokenAmount};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};

/// The default model, so that the binary alone is a network.
pub const DEFAULT_MODEL: &[u8] = include_bytes!("../../../models/stoa-tiny/stoa-tiny.Q8_0.gguf");
pub const DEFAULT_MODEL_NAME: &str = "stoa-tiny";
/// How long running calls may take after Ctrl-C.
const DRAIN_PATIENCE: Duration = Duration::from_secs(10);
/// How long a transaction may take to be mined before it is sent again.
const MINING_PATIENCE: Duration = Duration::from_secs(10);
/// Native coin of each account: gas costs nothing here, but wallets like to see a balance.
const NATIVE_WEI: u128 = 1_000_000_000_000_000_000_000;

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
    /// Seconds per batch, for devnets: the challenge window becomes twice that, the smallest claim 1 unit.
    #[arg(long, value_name = "N")]
    batch_seconds: Option<u64>,
    /// Serves this GGUF file or safetensors folder instead of the default model.
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    #[command(flatten)]
    upstream: UpstreamArgs,
    /// Lays the settings of this file over the defaults (config/default.toml): ports, prices, slots, availability windows.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Deletes the network in the data folder first, with its keys and money.
    #[arg(long)]
    fresh: bool,
    /// Prints one line of JSON on standard output when ready, and nothing else; the log goes to standard error.
    #[arg(long)]
    json: bool,
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Starts the network, tells how to reach it, and runs until Ctrl-C or a fatal fault.
pub async fn run(data: &Path, args: &Args, started: Instant) -> Result<(), Failure> {
    let hardware = discover_hardware();
    let mut config = Config::load(args.config.as_deref())?;
    config.apply(args);
    config.check(hardware.cores)?;
    let asked = config.asked_profile(args.batch_seconds)?;
    let named = args.profile.is_some() || args.batch_seconds.is_some();
    let data = DataDir::open(data)?;
    // Whatever can be refused is refused before anything is deleted or changed.
    let listeners = Listeners::bind(&config).await?;
    let own_model = match &args.model {
        Some(path) => Some(open_backend(&config, path, None)?),
        None => None,
    };
    let upstream = connect_and_try(&config).await?;
    if args.fresh {
        data.clear()?;
    }
    let profile = Profile::settle(&data, asked, named)?;
    let exact = match own_model {
        Some(backend) => backend,
        None => open_backend(&config, &default_model(&data)?, Some(DEFAULT_MODEL_NAME))?,
    };
    let parts = Parts {
        profile,
        listeners,
        upstream_places: upstream.as_ref().map(|u| u.info().concurrency),
        backends: backends(upstream, exact),
        hardware,
    };
    let network = start(&data, &config, parts).await?;
    network.info.save(&data.path(""))?;
    // Before anybody is told that it is up: whoever stops it on reading so has it stopped in good order.
    let stop = StopSignal::new()?;
    if let Err(error) = tell(&network, args, started) {
        // Whoever read it has gone; the network was started to run.
        tracing::warn!(%error, "nobody reads what was printed; network.json in the data folder says the same");
    }
    network.serve(&data, stop).await
}

/// What a start has found and taken before it changes anything.
struct Parts {
    profile: Profile,
    listeners: Listeners,
    /// What all providers serve from; the first is named first.
    backends: Vec<Arc<dyn Backend>>,
    /// Requests that an upstream server takes at once.
    upstream_places: Option<u32>,
    hardware: Hardware,
}

/// The upstream server first, which was asked for by name; then the exact engine, unless both have a model of one name.
fn backends(upstream: Option<UpstreamBackend>, exact: Arc<ExactBackend>) -> Vec<Arc<dyn Backend>> {
    let mut backends: Vec<Arc<dyn Backend>> = Vec::new();
    backends.extend(upstream.map(|upstream| Arc::new(upstream) as Arc<dyn Backend>));
    let name = &exact.facts().model;
    if backends.iter().any(|other| other.facts().model == *name) {
        tracing::warn!(model = %name, "the upstream server serves a model of this name; the engine's own is left out");
    } else {
        backends.push(exact);
    }
    backends
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
        args.upstream.apply(self);
    }

    /// The profile that the settings name, with the rhythm of `--batch-seconds`.
    pub fn asked_profile(&self, batch_seconds: Option<u64>) -> Result<NetworkProfile, Failure> {
        let mut profile = NetworkProfile::parse(NetworkProfile::builtin_text(&self.up.profile)?)?;
        let Some(seconds) = batch_seconds else {
            return Ok(profile);
        };
        if !profile.devnet {
            let name = profile.name;
            return Err(format!("--batch-seconds is for devnets; profile `{name}` is none").into());
        }
        if !(1..=3600).contains(&seconds) {
            return Err("--batch-seconds takes 1 to 3600".into());
        }
        let settlement = &mut profile.settlement;
        settlement.batch_seconds = seconds;
        settlement.window_seconds = 2 * seconds;
        // A batch and two windows must fit between the end of an allotment and its return.
        settlement.settle_delay_seconds = settlement.settle_delay_seconds.max(6 * seconds);
        settlement.claim_min = TokenAmount::from_units(1);
        // A ruling must come while the payout root can still be voided.
        profile.audit = profile.audit.within(2 * seconds);
        Ok(profile)
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
        Ok(Self {
            api: listen(config.up.port, "the API", "--port").await?,
            rpc: listen(config.up.rpc_port, "the chain's RPC", OTHER_PORTS).await?,
            metrics: listen(config.up.metrics_port, "metrics", OTHER_PORTS).await?,
        })
    }
}

/// How to choose the ports that have no option of their own.
const OTHER_PORTS: &str = "--port 0 (any free ports), or in a file named with --config";

/// Binds a port of loopback; `option` says how to choose another.
pub async fn listen(port: u16, what: &str, option: &str) -> Result<TcpListener, Failure> {
    let bound = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await;
    bound.map_err(|error| {
        format!("port {port} for {what} cannot be used: {error}; choose another with {option}")
            .into()
    })
}

/// The profile in force: fixed at the first start, because the contracts carry its numbers.
pub struct Profile {
    profile: NetworkProfile,
    hash: Digest,
}

impl Profile {
    /// The profile of the first start, which stays. Another one that was `named` in an option is refused.
    pub fn settle(data: &DataDir, asked: NetworkProfile, named: bool) -> Result<Self, Failure> {
        let path = data.path("profile.toml");
        let text = match std::fs::read_to_string(&path) {
            Ok(kept) if !named || kept == asked.to_text() => kept,
            Ok(_) => {
                return Err(format!(
                    "the network in {} was started with another profile or --batch-seconds, and its contracts keep those numbers; leave the options out, or use --fresh or another --data",
                    data.path("").display()
                )
                .into());
            }
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(format!(
                    "cannot read {}: {error}; nothing was changed",
                    path.display()
                )
                .into());
            }
            Err(_) if data.path("chain.redb").exists() => {
                return Err(format!(
                    "{} is missing, but a chain stands in the folder, and its contracts keep those numbers: put the file back from your backup, or use --fresh or another --data",
                    path.display()
                )
                .into());
            }
            Err(_) => {
                let text = asked.to_text();
                write_private(&path, text.as_bytes())?;
                text
            }
        };
        let profile = NetworkProfile::parse(&text).map_err(|error| {
            format!(
                "{} is damaged: {}; put it back from your backup",
                path.display(),
                one_line(error)
            )
        })?;
        Ok(Self {
            profile,
            hash: keccak256(&text),
        })
    }
}

/// A running network.
struct Running {
    info: Network,
    login: String,
    models: Vec<String>,
    router: RouterHandle,
    router_task: tokio::task::JoinHandle<Result<(), RouterStopped>>,
    endpoint: Arc<RouterEndpoint>,
    providers: Vec<ProviderHandle>,
    chain: Arc<Chain>,
    stop: watch::Sender<bool>,
}

/// What all parts of a starting network share.
struct Ground<'a> {
    data: &'a DataDir,
    config: &'a Config,
    profile: &'a Profile,
    hardware: Hardware,
    backends: Vec<Arc<dyn Backend>>,
    upstream_places: Option<u32>,
    chain: Embedded,
    chain_id: u64,
    contracts: Contracts,
    deployer: Account<Embedded>,
}

async fn start(data: &DataDir, config: &Config, parts: Parts) -> Result<Running, Failure> {
    let Parts {
        profile,
        listeners,
        backends,
        upstream_places,
        hardware,
    } = parts;
    let (stop, stopped) = watch::channel(false);
    let chain = Arc::new(open_chain(data, &profile)?);
    let local = |listener: &TcpListener| {
        listener
            .local_addr()
            .map(|address| format!("http://{address}"))
    };
    let (api_url, rpc_url, metrics_url) = (
        local(&listeners.api)?,
        local(&listeners.rpc)?,
        local(&listeners.metrics)?,
    );
    tokio::spawn(stoa_evm::rpc::serve(
        listeners.rpc,
        chain.clone(),
        stoa_evm::rpc::RpcConfig::default(),
        until(stopped.clone()),
    ));
    serve_metrics(listeners.metrics, until(stopped.clone()))?;

    let found = (hardware, backends, upstream_places);
    let ground = prepare_chain(data, config, &profile, found, &chain).await?;
    let developer = fund_developer(&ground).await?;
    for n in 0..config.up.providers {
        register_provider(&ground, n).await?;
    }
    let (router, router_task, endpoint, follower_ready) = start_router(&ground).await?;
    // Providers dial once the router has read their registrations.
    follower_ready
        .await
        .map_err(|_| "the chain could not be followed")?;
    let providers = start_providers(&ground, &endpoint).await?;

    let key = api_key(data)?;
    let configured = [(KeyHash::of(&key), developer.address())];
    let keys = KeyStore::open(&data.folder("router")?, &configured)?;
    let replays = Replays::open(data.folder("router/replays")?, Bounds::STANDARD)?;
    let view = router.view.clone();
    let gateway = Arc::new(RouterGateway::new(
        router.handle.clone(),
        (keys, replays),
        view,
        config.router.calls_max,
    ));
    let login_token = hex::encode(random()?);
    let timings = Timings {
        header_hold: Duration::from_millis(config.router.header_hold_ms_max),
        ..Timings::STANDARD
    };
    let server = ServerConfig {
        seed: random()?,
        login_token: login_token.clone(),
        timings,
        rates: RATES_OF_ACCOUNTS,
    };
    wait_for_providers(&gateway, providers.len()).await?;
    tokio::spawn(stoa_api::serve(
        listeners.api,
        gateway.clone(),
        server,
        until(stopped),
    ));
    let mut allowance = Allowance {
        view: View::new(ground.chain.clone(), ground.contracts),
        developer,
        router: router.account,
        settle_delay: Millis::from_secs(profile.profile.settlement.settle_delay_seconds),
        settings: config.developer.clone(),
        short: false,
    };
    // A network that rested may find its allotment near its end, or over: calls must work when `ready` is told.
    if let Some(until) = allowance.renew().await? {
        tracing::warn!(
            minutes = until.since(now()).0 / 60_000 + 1,
            "the developer's allotment ended while the network was stopped; calls are refused until the vault gives it back"
        );
    }
    tokio::spawn(allowance.keep_alive());

    let info = Network {
        api: format!("{api_url}/v1"),
        key,
        rpc: rpc_url,
        metrics: format!("{metrics_url}/metrics"),
        chain_id: ground.chain_id,
        contracts: contract_names(&ground.contracts),
        router: router.account,
        developer: data.account_key("developer")?.address(),
        providers: (0..config.up.providers)
            .map(|n| provider_key(data, n).map(|key| key.address()))
            .collect::<Result<_, _>>()?,
    };
    Ok(Running {
        login: format!("{api_url}/login?token={login_token}"),
        models: models(&gateway, &ground.backends),
        info,
        router: router.handle,
        router_task,
        endpoint,
        providers,
        chain,
        stop,
    })
}

fn contract_names(contracts: &Contracts) -> std::collections::BTreeMap<String, Address> {
    let names = [
        ("TestDollar", contracts.payment_token),
        ("StoaToken", contracts.stake_token),
        ("ProviderRegistry", contracts.provider_registry),
        ("StakeRegistry", contracts.stake_registry),
        ("PaymentVault", contracts.vault),
    ];
    names
        .map(|(name, address)| (name.to_owned(), address))
        .into()
}

fn random() -> Result<[u8; 32], Failure> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| format!("no random bytes: {error}"))?;
    Ok(bytes)
}

async fn until(mut stopped: watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stop| *stop).await;
}

fn serve_metrics(
    listener: TcpListener,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Failure> {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().install_recorder()?;
    let page = recorder.clone();
    let app = axum::Router::new().route(
        "/metrics",
        axum::routing::get(move || std::future::ready(page.render())),
    );
    tokio::spawn(async move {
        let mut upkeep = tokio::time::interval(Duration::from_secs(5));
        loop {
            upkeep.tick().await;
            recorder.run_upkeep();
        }
    });
    tokio::spawn(async move {
        axum::serve(listener, app)
            .with_graceful_shutdown(shutdown)
            .await
    });
    Ok(())
}

/// Opens the chain of the data folder, or makes it with the accounts that a network wants.
pub fn open_chain(data: &DataDir, profile: &Profile) -> Result<Chain, Failure> {
    let path = data.path("chain.redb");
    let genesis = if path.exists() {
        None
    } else if data.path("router/journal").exists() {
        return Err(format!(
            "{} is missing, but the router's journal beside it is of that chain: put it back from your backup, or use --fresh; nothing was changed",
            path.display()
        )
        .into());
    } else {
        Some(genesis(data, profile)?)
    };
    let seal_window = Duration::from_millis(profile.profile.chain.seal_window_ms);
    Ok(Chain::open(
        path,
        ChainConfig {
            genesis,
            seal_window,
            ..ChainConfig::default()
        },
    )?)
}

fn genesis(data: &DataDir, profile: &Profile) -> Result<Genesis, Failure> {
    let named = ["deployer", "router", "developer"].map(|name| data.account_key(name));
    let accounts = named.into_iter().collect::<Result<Vec<_>, _>>()?;
    let balance = alloy_primitives::U256::from(NATIVE_WEI);
    let allocations = accounts
        .iter()
        .map(|key| Allocation {
            address: evm_address(key.address()),
            balance,
        })
        .collect();
    let salt = keccak256([&profile.hash.0[..], &random()?].concat());
    Ok(Genesis {
        timestamp: now().secs(),
        salt: salt.0.into(),
        allocations,
    })
}

/// The model that is built in, as a file.
fn default_model(data: &DataDir) -> Result<PathBuf, Failure> {
    let file = format!("{DEFAULT_MODEL_NAME}.gguf");
    let path = data.folder("models")?.join(file);
    if std::fs::read(&path).ok().as_deref() != Some(DEFAULT_MODEL) {
        write_private(&path, DEFAULT_MODEL)?;
    }
    Ok(path)
}

fn open_backend(
    config: &Config,
    path: &Path,
    name: Option<&str>,
) -> Result<Arc<ExactBackend>, Failure> {
    // All providers share it.
    let slots = (0..config.up.providers)
        .map(|n| config.policy(config.offer(n)).slots)
        .sum();
    let options = ExactOptions {
        name: name.map(str::to_owned),
        slots,
        memory_limit: None,
    };
    Ok(Arc::new(ExactBackend::open(path, &options)?))
}

async fn account(
    chain: &Embedded,
    key: SecretKey,
    contracts: Contracts,
) -> Result<Account<Embedded>, Failure> {
    Ok(Account::new(
        Sender::new(chain.clone(), key, MINING_PATIENCE).await?,
        contracts,
    ))
}

async fn prepare_chain<'a>(
    data: &'a DataDir,
    config: &'a Config,
    profile: &'a Profile,
    (hardware, backends, upstream_places): (Hardware, Vec<Arc<dyn Backend>>, Option<u32>),
    chain: &Arc<Chain>,
) -> Result<Ground<'a>, Failure> {
    let access = Embedded(chain.clone());
    let key = data.account_key("deployer")?;
    let pot = |name: &str| data.account_key(name).map(|key| key.address());
    let beneficiaries = Beneficiaries {
        admin: key.address(),
        treasury: pot("treasury")?,
        validators: pot("validators")?,
        buyback: pot("buyback")?,
    };
    let sender = Sender::new(access.clone(), key, MINING_PATIENCE).await?;
    let contracts = deploy(&sender, &profile.profile, &beneficiaries).await?;
    let deployer = Account::new(sender, contracts);
    Ok(Ground {
        data,
        config,
        profile,
        hardware,
        backends,
        upstream_places,
        chain: access,
        chain_id: chain.chain_id(),
        contracts,
        deployer,
    })
}

/// Deposits and allots at the first start; later starts leave it to [`Allowance`].
async fn fund_developer(ground: &Ground<'_>) -> Result<Account<Embedded>, Failure> {
    let key = ground.data.account_key("developer")?;
    let developer = account(&ground.chain, key, ground.contracts).await?;
    let router = ground.data.account_key("router")?.address();
    let view = View::new(ground.chain.clone(), ground.contracts);
    let settings = &ground.config.developer;
    if view
        .allotment(developer.address(), router)
        .await?
        .generation
        == 0
    {
        if view.free(developer.address()).await? < settings.cap {
            ground
                .deployer
                .mint_test_dollars(developer.address(), settings.deposit)
                .await?;
            developer.deposit(settings.deposit).await?;
        }
        let life = Millis::from_secs(settings.allotment_seconds);
        developer
            .allot(router, settings.cap, now().plus(life))
            .await?;
    }
    Ok(developer)
}

/// Keeps the developer's allotment alive: tops up below half the cap, prolongs before the end, allots anew after a release
/// (DECISIONS 22).
struct Allowance {
    view: View<Embedded>,
    developer: Account<Embedded>,
    router: Address,
    settle_delay: Millis,
    settings: DeveloperSettings,
    /// Whether the log has said that the deposit comes to its end.
    short: bool,
}

impl Allowance {
    async fn keep_alive(mut self) {
        let mut ticks = tokio::time::interval(Duration::from_secs(10));
        loop {
            ticks.tick().await;
            if let Err(error) = self.renew().await {
                tracing::warn!(%error, "the developer's allotment could not be renewed; it is tried again");
            }
        }
    }

    /// Does what is due. Gives the time until which the vault holds an allotment that is over: till then nothing can be done.
    async fn renew(&mut self) -> Result<Option<Timestamp>, Failure> {
        let (developer, router) = (&self.developer, self.router);
        let allotment = self.view.allotment(developer.address(), router).await?;
        let end = now().plus(Millis::from_secs(self.settings.allotment_seconds));
        if allotment.live && now() < allotment.expiry {
            self.top_up(&allotment, end).await?;
            return Ok(None);
        }
        if allotment.live {
            let releasable = allotment.expiry.plus(self.settle_delay);
            if now() < releasable {
                return Ok(Some(releasable));
            }
            developer.release(developer.address(), router).await?;
        }
        let free = self.view.free(developer.address()).await?;
        let cap = self.settings.cap.min(free);
        if cap.is_zero() {
            self.say_short(free);
        } else {
            developer.allot(router, cap, end).await?;
        }
        Ok(None)
    }

    async fn top_up(&mut self, allotment: &AllotmentView, end: Timestamp) -> Result<(), Failure> {
        let (cap, debited) = (allotment.cap, allotment.debited);
        let left = cap.checked_sub(debited).unwrap_or_default();
        let wanted = self.settings.cap.checked_sub(left).unwrap_or_default();
        let ahead = Millis::from_secs(self.settings.renew_before_seconds);
        let late = now().plus(ahead) >= allotment.expiry;
        let mut add = TokenAmount::ZERO;
        if wanted > left {
            let free = self.view.free(self.developer.address()).await?;
            add = wanted.min(free);
            if free < wanted {
                self.say_short(free);
            }
        }
        if late || !add.is_zero() {
            let prolonged = late.then_some(end);
            self.developer.top_up(self.router, add, prolonged).await?;
        }
        Ok(())
    }

    fn say_short(&mut self, free: TokenAmount) {
        if !std::mem::replace(&mut self.short, true) {
            tracing::warn!(%free, account = %self.developer.address(),
                "the developer's deposit comes to its end; calls are refused when the rest of the allotment is used");
        }
    }
}

struct RouterUp {
    handle: RouterHandle,
    account: Address,
    view: Arc<Mutex<ChainView>>,
}

type RouterStarted = (
    RouterUp,
    tokio::task::JoinHandle<Result<(), RouterStopped>>,
    Arc<RouterEndpoint>,
    oneshot::Receiver<()>,
);

async fn start_router(ground: &Ground<'_>) -> Result<RouterStarted, Failure> {
    let key = ground.data.account_key("router")?;
    let account_address = key.address();
    let chain_account = account(&ground.chain, key.clone(), ground.contracts).await?;
    ensure_stake(
        ground,
        &chain_account,
        StakeRole::Router,
        ground.config.router.stake,
    )
    .await?;

    let domain = Domain {
        chain_id: ground.chain_id,
        vault: ground.contracts.vault,
    };
    let folder = ground.data.folder("router")?;
    let journal_folder = ground.data.folder("router/journal")?;
    let (journal, recovered) = journal::open(&journal_folder, domain, account_address)?;
    tracing::info!(entries = recovered.entries, repaired = ?recovered.repaired, "router's journal");
    let registered = SharedRegistered::default();
    let endpoint = open_router_endpoint(ground, &chain_account, &registered).await?;

    let config = RouterConfig {
        key,
        domain,
        profile: ground.profile.profile.clone(),
        profile_hash: ground.profile.hash,
    };
    let (core, outputs) = Router::recover(config, recovered.book, 1);
    let (calls, chain_calls) = mpsc::unbounded_channel();
    let decisions = DecisionLog::open(folder.join("decisions.jsonl"))?;
    let parts = RouterParts {
        core,
        outputs,
        journal,
        endpoint: endpoint.clone(),
        chain: calls,
        decisions,
    };
    let (handle, task) = router::start(parts)?;
    tokio::spawn(settler::carry_out(
        chain_account,
        handle.clone(),
        chain_calls,
    ));
    let view = Arc::new(Mutex::new(ChainView::default()));
    let (caught_up, ready) = oneshot::channel();
    let follower = Follower {
        chain: ground.chain.clone(),
        contracts: ground.contracts,
        chain_id: ground.chain_id,
        router: handle.clone(),
        account: account_address,
        registered,
        view: view.clone(),
    };
    tokio::spawn(follower.run(caught_up));
    Ok((
        RouterUp {
            handle,
            account: account_address,
            view,
        },
        task,
        endpoint,
        ready,
    ))
}

/// Opens the socket that providers dial, and publishes it on chain.
async fn open_router_endpoint(
    ground: &Ground<'_>,
    router: &Account<Embedded>,
    registered: &SharedRegistered,
) -> Result<Arc<RouterEndpoint>, Failure> {
    let registry = ground.contracts.provider_registry;
    let secret = EndpointSecret::from_bytes(ground.data.secret("router-endpoint")?);
    let proof = secret.prove(ground.chain_id, registry, router.address());
    let welcome = Welcome {
        router: router.address(),
        chain_id: ground.chain_id,
        vault: ground.contracts.vault,
        profile_hash: ground.profile.hash,
    };
    let known = registered.clone();
    let authorize = Arc::new(move |endpoint, hello: &_| {
        known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .authorize(endpoint, hello)
    });
    let listen = stoa_net::RouterConfig {
        secret: secret.clone(),
        bind: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        welcome,
        timeouts: stoa_net::Timeouts::default(),
    };
    let endpoint = Arc::new(RouterEndpoint::bind(listen, authorize).await?);
    let addresses = endpoint.address().addresses;
    let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    router
        .register_router(secret.endpoint_id(), proof, &addresses.join(","))
        .await?;
    Ok(endpoint)
}

async fn ensure_stake(
    ground: &Ground<'_>,
    staker: &Account<Embedded>,
    role: StakeRole,
    wanted: stoa_types::StakeAmount,
) -> Result<(), Failure> {
    let view = View::new(ground.chain.clone(), ground.contracts);
    let stake = view.stake(role, staker.address()).await?;
    // What was claimed in the loadout may demand more than the configuration names.
    let missing = wanted.max(stake.minimum).checked_sub(stake.active);
    let Some(missing) = missing.filter(|missing| !missing.is_zero()) else {
        return Ok(());
    };
    ground
        .deployer
        .send_stake_tokens(staker.address(), missing)
        .await?;
    staker.stake(role, missing).await?;
    Ok(())
}

fn provider_key(data: &DataDir, n: u32) -> Result<SecretKey, crate::data::DataError> {
    data.account_key(&format!("provider-{n}"))
}

/// Region and prices of provider `n`.
fn place(config: &Config, n: u32) -> &ProviderOffer {
    &config.providers[config.offer(n)]
}

async fn start_providers(
    ground: &Ground<'_>,
    router: &Arc<RouterEndpoint>,
) -> Result<Vec<ProviderHandle>, Failure> {
    let mut running = Vec::new();
    for n in 0..ground.config.up.providers {
        running.push(start_provider(ground, router, n).await?);
    }
    Ok(running)
}

fn endpoint_secret(data: &DataDir, n: u32) -> Result<EndpointSecret, crate::data::DataError> {
    data.secret(&format!("provider-{n}-endpoint"))
        .map(EndpointSecret::from_bytes)
}

async fn start_provider(
    ground: &Ground<'_>,
    router: &Arc<RouterEndpoint>,
    n: u32,
) -> Result<ProviderHandle, Failure> {
    let key = provider_key(ground.data, n)?;
    let place = place(ground.config, n);
    let policy = ground.config.policy(ground.config.offer(n));
    let slots = slots(ground, &policy);
    let offer = |backend: &Arc<dyn Backend>| {
        let (input, output) = (place.input_price, place.output_price);
        backend.facts().offer(input, output)
    };
    let config = ProviderConfig {
        key: key.clone(),
        domain: Domain {
            chain_id: ground.chain_id,
            vault: ground.contracts.vault,
        },
        profile_hash: ground.profile.hash,
        router: ground.data.account_key("router")?.address(),
        region: place.region,
        hardware: ground.hardware.clone(),
        slots,
        offers: ground.backends.iter().map(offer).collect(),
    };
    let core = Provider::new(config);
    let link = stoa_net::ProviderConfig {
        secret: endpoint_secret(ground.data, n)?,
        bind: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        router: router.address(),
        hello: core.hello(),
        backoff: Backoff::default(),
        timeouts: stoa_net::Timeouts::default(),
    };
    let folder = earnings::folder(&ground.data.folder(&format!("provider-{n}"))?);
    let earnings =
        Arc::new(Earnings::open(&folder).map_err(|e| format!("provider {n}'s receipts: {e}"))?);
    let (jobs, gross) = earnings.total();
    tracing::info!(account = %key.address(), jobs, %gross, "provider's receipts");
    let endpoint = Arc::new(ProviderEndpoint::connect(link).await?);
    let executor = Arc::new(Executor::new(slots)?);
    Ok(provider::start(ProviderParts {
        core,
        endpoint,
        backends: ground.backends.clone(),
        executor,
        policy,
        utc_offset_minutes: ground.config.provider.utc_offset_minutes,
        earnings,
    }))
}

/// Jobs at once: what the policy allows, and no more than its share of what the upstream server takes.
fn slots(ground: &Ground<'_>, policy: &ProviderPolicy) -> u32 {
    let slots = market_slots(policy, ground.hardware.cores);
    match ground.upstream_places {
        Some(places) => slots.min((places / ground.config.up.providers).max(1)),
        None => slots,
    }
}

/// The models that are offered, those of the first backend first.
fn models(gateway: &RouterGateway, backends: &[Arc<dyn Backend>]) -> Vec<String> {
    let mut models: Vec<_> = gateway.models().into_iter().map(|model| model.id).collect();
    let first = backends
        .first()
        .map(|backend| backend.facts().model.as_str());
    models.sort_by_key(|model| Some(model.as_str()) != first);
    models
}

/// Registration, loadout and stake of provider `n`; what stands on chain already is not sent again.
async fn register_provider(ground: &Ground<'_>, n: u32) -> Result<(), Failure> {
    let (key, place) = (provider_key(ground.data, n)?, place(ground.config, n));
    let settings = &ground.config.provider;
    let (stake, region, tps) = (settings.stake, place.region, settings.claimed_tps);
    let (input, output) = (place.input_price, place.output_price);
    let offer = |backend: &Arc<dyn Backend>| Offer {
        model_root: backend.facts().model_root,
        input_price: input,
        output_price: output,
        tokens_per_second: tps,
        tier: backend.facts().tier,
        name: backend.facts().model.clone(),
    };
    let offers: Vec<_> = ground.backends.iter().map(offer).collect();
    let named = offers
        .iter()
        .map(|offer| format!("{} {} {}", offer.name, offer.model_root, offer.tier));
    let named = named.collect::<Vec<_>>().join(" ");
    let published = format!("{named} {input} {output} {region} {tps} {stake}");
    let path = ground
        .data
        .folder(&format!("provider-{n}"))?
        .join("published");
    if std::fs::read_to_string(&path).ok().as_deref() == Some(&published) {
        return Ok(());
    }
    let provider = account(&ground.chain, key.clone(), ground.contracts).await?;
    let registry = ground.contracts.provider_registry;
    let secret = endpoint_secret(ground.data, n)?;
    let proof = secret.prove(ground.chain_id, registry, key.address());
    // Registering again is how a region changes.
    provider
        .register_provider(secret.endpoint_id(), proof, region, key.address())
        .await?;
    provider.set_loadout(&offers).await?;
    ensure_stake(ground, &provider, StakeRole::Provider, stake).await?;
    write_private(&path, published.as_bytes())?;
    Ok(())
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
    let model = network.models.first().map_or("", String::as_str);
    let body =
        serde_json::json!({"model": model, "messages": [{"role": "user", "content": "Hello"}]});
    say(format_args!(
        "Stoa is up after {ready_ms} ms: chain {chain}, 1 router, {providers} {}.

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
            stopped = &mut self.router_task => return stopped?.map_err(Into::into),
            () = gone(data) => return Err(format!(
                "the data folder {} was deleted or replaced while the network ran, and what it promises is no longer kept: it stopped",
                data.path("").display()
            )
            .into()),
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

    async fn drain(self) {
        self.router.input(Input::Drain);
        let end = Instant::now() + DRAIN_PATIENCE;
        // A batch without a payout root keeps its newest leaf for the next one: a single unsealed job may rightly remain.
        let idle = |router: &RouterHandle| {
            let core = router.core();
            core.active() == 0
                && core.book().unsealed_count() <= 1
                && core.book().next_post().is_none()
        };
        while Instant::now() < end && !idle(&self.router) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let _ = self.stop.send(true);
        let mut draining = tokio::task::JoinSet::new();
        for provider in self.providers {
            draining.spawn(provider.drain(Duration::from_secs(2)));
        }
        draining.join_all().await;
        self.endpoint.close().await;
        self.chain.close();
    }
}

/// Ends when the data folder no longer stands where it was.
async fn gone(data: &DataDir) {
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    while data.is_there() {
        ticks.tick().await;
    }
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
