//! `stoa up`: a whole network in one process on loopback. The same roles as separate processes would be; here they share one chain.

use crate::config::{Config, DEFAULT, ProviderOffer};
use crate::data::{DataDir, write_private};
use crate::network::Network;
use crate::roles::gateway::{ChainView, RouterGateway};
use crate::roles::provider::{Earnings, ProviderHandle, ProviderParts, earnings_folder};
use crate::roles::router::{DecisionLog, RouterHandle, RouterParts, RouterStopped, now};
use crate::roles::settler::{Follower, SharedRegistered};
use crate::roles::{journal, provider, router, settler};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use stoa_api::{Gateway, KeyHash, KeyRing, ServerConfig, Timings};
use stoa_chain::{
    Account, Beneficiaries, Contracts, Embedded, Offer, Sender, StakeRole, View, deploy,
    evm_address,
};
use stoa_crypto::{Domain, SecretKey, keccak256};
use stoa_evm::{Allocation, Chain, ChainConfig, Genesis};
use stoa_net::{Backoff, EndpointSecret, ProviderEndpoint, RouterEndpoint, Welcome};
use stoa_nodes::provider::{Provider, ProviderConfig};
use stoa_nodes::router::{Input, Router, RouterConfig};
use stoa_runtime::{
    Backend, ExactBackend, ExactOptions, Executor, ProviderPolicy, discover_hardware,
};
use stoa_types::{Address, Digest, Millis, NetworkProfile, Tier, TokenAmount};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};

/// The default model, so that the binary alone is a network.
const DEFAULT_MODEL: &[u8] = include_bytes!("../../../models/stoa-tiny/stoa-tiny.Q8_0.gguf");
const DEFAULT_MODEL_NAME: &str = "stoa-tiny";
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
    /// Number of providers.
    #[arg(long)]
    providers: Option<u32>,
    /// Seconds per batch, for devnets: the challenge window becomes twice that, the smallest claim 1 unit.
    #[arg(long, value_name = "N")]
    batch_seconds: Option<u64>,
    /// Serves this GGUF file or safetensors folder instead of the default model.
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// Deletes everything in the data folder first.
    #[arg(long)]
    fresh: bool,
    /// Prints one line of JSON when ready, and nothing else.
    #[arg(long)]
    json: bool,
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Starts the network, tells how to reach it, and runs until Ctrl-C or a fatal fault.
pub async fn run(data: &Path, args: &Args, started: Instant) -> Result<(), Failure> {
    let mut config = Config::parse(DEFAULT)?;
    config.apply(args);
    let data = DataDir::open(data)?;
    if args.fresh {
        data.clear()?;
    }
    let listeners = Listeners::bind(&config).await?;
    let profile = settle_profile(&data, &config, args)?;
    let network = start(&data, &config, profile, listeners, args).await?;
    network.info.save(&data.path(""))?;
    tell(&network, args, started);
    network.serve().await
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
            rpc: listen(config.up.rpc_port, "the chain's RPC", "--port 0").await?,
            metrics: listen(config.up.metrics_port, "metrics", "--port 0").await?,
        })
    }
}

async fn listen(port: u16, what: &str, option: &str) -> Result<TcpListener, Failure> {
    let bound = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await;
    bound.map_err(|error| {
        format!("port {port} for {what} cannot be used: {error}; choose another with {option}")
            .into()
    })
}

/// The profile in force: fixed at the first start, because the contracts carry its numbers.
struct Profile {
    profile: NetworkProfile,
    hash: Digest,
}

fn settle_profile(data: &DataDir, config: &Config, args: &Args) -> Result<Profile, Failure> {
    let path = data.path("profile.toml");
    let mut profile = NetworkProfile::parse(NetworkProfile::builtin_text(&config.up.profile)?)?;
    if let Some(seconds) = args.batch_seconds {
        if !profile.devnet {
            return Err(format!(
                "--batch-seconds is for devnets; profile `{}` is none",
                profile.name
            )
            .into());
        }
        if !(1..=3600).contains(&seconds) {
            return Err("--batch-seconds takes 1 to 3600".into());
        }
        profile.settlement.batch_seconds = seconds;
        profile.settlement.window_seconds = 2 * seconds;
        // A batch and two windows must fit between the end of an allotment and its return.
        profile.settlement.settle_delay_seconds =
            profile.settlement.settle_delay_seconds.max(6 * seconds);
        profile.settlement.claim_min = TokenAmount::from_units(1);
    }
    let asked = args.profile.is_some() || args.batch_seconds.is_some();
    let text = match std::fs::read_to_string(&path) {
        Ok(kept) if !asked || kept == profile.to_text() => kept,
        Ok(_) => {
            return Err(format!(
                "the network in {} was started with another profile or --batch-seconds, and its contracts keep those numbers; leave the options out, or use --fresh or another --data",
                data.path("").display()
            )
            .into());
        }
        Err(_) => {
            let text = profile.to_text();
            write_private(&path, text.as_bytes())?;
            text
        }
    };
    Ok(Profile {
        profile: NetworkProfile::parse(&text)?,
        hash: keccak256(&text),
    })
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
    chain: Embedded,
    chain_id: u64,
    contracts: Contracts,
    deployer: Account<Embedded>,
}

async fn start(
    data: &DataDir,
    config: &Config,
    profile: Profile,
    listeners: Listeners,
    args: &Args,
) -> Result<Running, Failure> {
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
    let backend = open_backend(data, config, args)?;

    let ground = prepare_chain(data, config, &profile, &chain).await?;
    let developer = fund_developer(&ground).await?;
    for n in 0..config.up.providers {
        register_provider(&ground, n, &backend).await?;
    }
    let (router, router_task, endpoint, follower_ready) = start_router(&ground).await?;
    // Providers dial once the router has read their registrations.
    follower_ready
        .await
        .map_err(|_| "the chain could not be followed")?;
    let providers = start_providers(&ground, &endpoint, &backend).await?;

    let key = api_key(data)?;
    let mut keys = KeyRing::default();
    keys.add(KeyHash::of(&key), developer.address());
    let view = router.view.clone();
    let gateway = Arc::new(RouterGateway::new(
        router.handle.clone(),
        keys,
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
    };
    wait_for_providers(&gateway, providers.len()).await?;
    tokio::spawn(stoa_api::serve(
        listeners.api,
        gateway.clone(),
        server,
        until(stopped),
    ));
    tokio::spawn(renew(
        developer,
        ground.chain.clone(),
        ground.contracts,
        router.account,
        profile.profile.clone(),
        config.clone(),
    ));

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
        models: gateway.models().into_iter().map(|model| model.id).collect(),
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

fn open_chain(data: &DataDir, profile: &Profile) -> Result<Chain, Failure> {
    let path = data.path("chain.redb");
    let genesis = if path.exists() {
        None
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

fn open_backend(
    data: &DataDir,
    config: &Config,
    args: &Args,
) -> Result<Arc<ExactBackend>, Failure> {
    let slots = config.provider.slots * config.up.providers.max(1);
    let path = match &args.model {
        Some(path) => path.clone(),
        None => {
            let path = data
                .folder("models")?
                .join(format!("{DEFAULT_MODEL_NAME}.gguf"));
            if std::fs::read(&path).ok().as_deref() != Some(DEFAULT_MODEL) {
                write_private(&path, DEFAULT_MODEL)?;
            }
            path
        }
    };
    let name = args.model.is_none().then(|| DEFAULT_MODEL_NAME.to_owned());
    Ok(Arc::new(ExactBackend::open(
        &path,
        &ExactOptions {
            name,
            slots,
            memory_limit: None,
        },
    )?))
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
        chain: access,
        chain_id: chain.chain_id(),
        contracts,
        deployer,
    })
}

/// Deposits and allots at the first start; later starts leave it to [`renew`].
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
        let life = Millis::from_secs(ground.profile.profile.settlement.allotment_seconds);
        developer
            .allot(router, settings.cap, now().plus(life))
            .await?;
    }
    Ok(developer)
}

/// Keeps the developer's allotment alive: tops up below half the cap, prolongs before the end, allots anew after a release
/// (DECISIONS 22).
async fn renew(
    developer: Account<Embedded>,
    chain: Embedded,
    contracts: Contracts,
    router: Address,
    profile: NetworkProfile,
    config: Config,
) {
    let view = View::new(chain, contracts);
    let mut ticks = tokio::time::interval(Duration::from_secs(10));
    loop {
        ticks.tick().await;
        if let Err(error) = renew_once(&developer, &view, router, &profile, &config).await {
            tracing::warn!(%error, "the developer's allotment could not be renewed; it is tried again");
        }
    }
}

async fn renew_once(
    developer: &Account<Embedded>,
    view: &View<Embedded>,
    router: Address,
    profile: &NetworkProfile,
    config: &Config,
) -> Result<(), Failure> {
    let settings = &config.developer;
    let allotment = view.allotment(developer.address(), router).await?;
    let end = now().plus(Millis::from_secs(profile.settlement.allotment_seconds));
    if !allotment.live {
        developer.allot(router, settings.cap, end).await?;
        return Ok(());
    }
    if now() >= allotment.expiry {
        if now()
            >= allotment
                .expiry
                .plus(Millis::from_secs(profile.settlement.settle_delay_seconds))
        {
            developer.release(developer.address(), router).await?;
        }
        return Ok(());
    }
    let left = allotment
        .cap
        .checked_sub(allotment.debited)
        .unwrap_or_default();
    let free = view.free(developer.address()).await?;
    let wanted = settings.cap.checked_sub(left).unwrap_or_default();
    let low = left.units() * 2 < settings.cap.units() && free >= wanted;
    let late = now().plus(Millis::from_secs(settings.renew_before_seconds)) >= allotment.expiry;
    if low || late {
        let add = if low { wanted } else { TokenAmount::ZERO };
        developer.top_up(router, add, late.then_some(end)).await?;
    }
    Ok(())
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
fn place(config: &Config, n: u32) -> Result<&ProviderOffer, Failure> {
    let offers = &config.providers;
    Ok(offers
        .get(n as usize % offers.len().max(1))
        .ok_or("the configuration lists no provider")?)
}

async fn start_providers(
    ground: &Ground<'_>,
    router: &Arc<RouterEndpoint>,
    backend: &Arc<ExactBackend>,
) -> Result<Vec<ProviderHandle>, Failure> {
    let mut running = Vec::new();
    for n in 0..ground.config.up.providers {
        running.push(start_provider(ground, router, backend, n).await?);
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
    backend: &Arc<ExactBackend>,
    n: u32,
) -> Result<ProviderHandle, Failure> {
    let key = provider_key(ground.data, n)?;
    let place = place(ground.config, n)?;
    let policy = ProviderPolicy {
        slots: ground.config.provider.slots,
        reserved_percent: 0,
        windows: Vec::new(),
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
        hardware: discover_hardware(),
        slots: policy.slots,
        offers: vec![backend.facts().offer(place.input_price, place.output_price)],
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
    let folder = earnings_folder(&ground.data.folder(&format!("provider-{n}"))?);
    let earnings =
        Arc::new(Earnings::open(&folder).map_err(|e| format!("provider {n}'s receipts: {e}"))?);
    let (jobs, gross) = earnings.total();
    tracing::info!(account = %key.address(), jobs, %gross, "provider's receipts");
    let endpoint = Arc::new(ProviderEndpoint::connect(link).await?);
    let executor = Arc::new(Executor::new(policy.slots)?);
    Ok(provider::start(ProviderParts {
        core,
        endpoint,
        backend: backend.clone(),
        executor,
        policy,
        earnings,
    }))
}

/// Registration, loadout and stake of provider `n`; what stands on chain already is not sent again.
async fn register_provider(
    ground: &Ground<'_>,
    n: u32,
    backend: &Arc<ExactBackend>,
) -> Result<(), Failure> {
    let (key, place) = (provider_key(ground.data, n)?, place(ground.config, n)?);
    let facts = backend.facts();
    let loadout = format!(
        "{} {} {} {}",
        facts.model, facts.model_root, place.input_price, place.output_price
    );
    let path = ground
        .data
        .folder(&format!("provider-{n}"))?
        .join("loadout");
    if std::fs::read_to_string(&path).ok().as_deref() == Some(&loadout) {
        return Ok(());
    }
    let provider = account(&ground.chain, key.clone(), ground.contracts).await?;
    let view = View::new(ground.chain.clone(), ground.contracts);
    if view.payee(key.address()).await?.is_none() {
        let secret = endpoint_secret(ground.data, n)?;
        let proof = secret.prove(
            ground.chain_id,
            ground.contracts.provider_registry,
            key.address(),
        );
        provider
            .register_provider(secret.endpoint_id(), proof, place.region, key.address())
            .await?;
    }
    let offer = Offer {
        model_root: facts.model_root,
        input_price: place.input_price,
        output_price: place.output_price,
        tokens_per_second: ground.config.provider.claimed_tps,
        tier: Tier::Exact,
        name: facts.model.clone(),
    };
    provider.set_loadout(&[offer]).await?;
    ensure_stake(
        ground,
        &provider,
        StakeRole::Provider,
        ground.config.provider.stake,
    )
    .await?;
    write_private(&path, loadout.as_bytes())?;
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

fn tell(network: &Running, args: &Args, started: Instant) {
    let info = &network.info;
    let ready_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    if args.json {
        let line = serde_json::json!({
            "ready": true, "ready_ms": ready_ms, "api": info.api, "key": info.key, "dashboard": network.login, "rpc": info.rpc,
            "metrics": info.metrics, "chain_id": info.chain_id, "contracts": info.contracts, "models": network.models,
        });
        return println!("{line}");
    }
    let model = network.models.first().map_or("", String::as_str);
    let body =
        serde_json::json!({"model": model, "messages": [{"role": "user", "content": "Hello"}]});
    println!(
        "Stoa is up after {ready_ms} ms: chain {}, 1 router, {} providers.",
        info.chain_id,
        network.providers.len()
    );
    println!();
    println!("  API        {}", info.api);
    println!("  API key    {}", info.key);
    println!("  dashboard  {}", network.login);
    println!("  chain RPC  {}", info.rpc);
    println!("  metrics    {}", info.metrics);
    println!();
    println!(
        "  curl -s {}/chat/completions -H 'Authorization: Bearer {}' -d '{body}'",
        info.api, info.key
    );
    println!();
    println!("Ctrl-C drains and stops; starting again goes on from the same state.");
}

impl Running {
    /// Runs until Ctrl-C or SIGTERM, or until the router had to stop.
    async fn serve(mut self) -> Result<(), Failure> {
        let mut terminate =
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::select! {
            interrupted = tokio::signal::ctrl_c() => interrupted?,
            _ = terminate.recv() => {}
            stopped = &mut self.router_task => return stopped?.map_err(Into::into),
        }
        eprintln!("stopping: running calls may end, then everything is closed");
        self.drain().await;
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
        for provider in self.providers {
            provider.drain(Duration::from_secs(2)).await;
        }
        self.endpoint.close().await;
        self.chain.close();
    }
}
