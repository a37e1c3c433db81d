//! Brings up a router: stake, books, the socket that providers dial, its place in the registry, its loop, its API.

use super::stake::{self, StakeSource};
use super::{Joined, developer, random};
use crate::config::Config;
use crate::data::DataDir;
use crate::process::Failure;
use crate::roles::audit_watch::AuditWatch;
use crate::roles::audits::{self, Answers, Kept};
use crate::roles::claims::{Claims, HELD_BACK, RouterClaims};
use crate::roles::forger::{Forger, RouterCheat};
use crate::roles::gateway::{RouterGateway, SharedView};
use crate::roles::keys::KeyStore;
use crate::roles::payouts::{self, PayoutTrees};
use crate::roles::replays::{Bounds, Replays};
use crate::roles::router::{DecisionLog, RouterHandle, RouterParts, RouterStopped, now};
use crate::roles::settler::{Follower, SharedRegistered};
use crate::roles::shelf::Shelf;
use crate::roles::traces::CallTraces;
use crate::roles::undelivered::Undeliveries;
use crate::roles::{journal, router, settler, undelivered, watch};
use crate::telemetry::tracer;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};
use stoa_api::{KeyHash, ServerConfig, Timings};
use stoa_chain::{Account, AuditAccount, AuditContracts, ChainAccess, StakeRole};
use stoa_crypto::{Domain, SecretKey};
use stoa_net::{EndpointSecret, RouterAddress, RouterEndpoint, Welcome};
use stoa_nodes::router::{ChainEvent, Input, Router, RouterConfig};
use stoa_types::{Address, Millis, StakeAmount};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

/// How long running calls may take after Ctrl-C.
const DRAIN_PATIENCE: Duration = Duration::from_secs(10);

/// Claims of non-delivery that `up` lets a router make at a time.
const DEPOSITS_GRANTED: u128 = 10;

/// Where a router listens for providers.
#[derive(Debug, Clone)]
pub struct Door {
    /// UDP address of the socket.
    pub listen: SocketAddr,
    /// What the registry tells providers to dial; empty for where it listens.
    pub announced: Vec<SocketAddr>,
}

/// A running router.
pub struct RouterUp {
    /// To its loop.
    pub handle: RouterHandle,
    /// Its account.
    pub account: Address,
    /// What pages show of the chain.
    pub view: SharedView,
    /// What its payout roots prove, for whoever asks.
    pub payouts: PayoutTrees,
    /// Where providers are connected.
    pub endpoint: Arc<RouterEndpoint>,
    /// What the registry tells providers to dial.
    pub address: RouterAddress,
    /// Ends with the loop.
    pub task: JoinHandle<Result<(), RouterStopped>>,
    /// What the chain says of audits, where the network has them.
    pub audits: Option<(AuditContracts, AuditWatch)>,
    /// Claims of non-delivery, where the network has them.
    pub claims: Option<Claims>,
}

/// A router that serves beyond what developers allotted allots as much to itself: the vault takes no root above all allotments together.
async fn cover<C: ChainAccess + Clone>(
    joined: &Joined<C>,
    config: &Config,
    key: &SecretKey,
    source: &StakeSource<'_, C>,
) -> Result<(), Failure> {
    let StakeSource::Granted(minter) = source else {
        tracing::warn!(
            "this router has no money of its own in the vault: roots above all allotments together are refused there"
        );
        return Ok(());
    };
    let settings = &config.developer;
    developer::fund(joined, key.clone(), key.address(), settings, minter).await?;
    Ok(())
}

/// Starts the router of a data folder. When this returns, it has read the chain to its head, lets providers in, and the registry names where.
pub async fn start<C: ChainAccess + Clone>(
    joined: &Joined<C>,
    data: &DataDir,
    config: &Config,
    (door, cheat): (&Door, Option<RouterCheat>),
    source: &StakeSource<'_, C>,
) -> Result<RouterUp, Failure> {
    let key = data.account_key("router")?;
    let forger = Forger::new(cheat, &key);
    let address = key.address();
    if cheat.is_some_and(RouterCheat::needs_cover) {
        cover(joined, config, &key, source).await?;
    }
    let patient = joined.patiently();
    let account = patient.account(key.clone()).await?;
    let stake = config.router.stake;
    stake::ensure(&patient, &account, StakeRole::Router, stake, source).await?;

    let domain = joined.domain();
    let folder = data.folder("router")?;
    let (journal, recovered) = journal::open(&data.folder("router/journal")?, domain, address)?;
    tracing::info!(entries = recovered.entries, repaired = ?recovered.repaired, "router's journal");
    let registered = SharedRegistered::default();
    let secret = EndpointSecret::from_bytes(data.secret("router-endpoint")?);
    let endpoint = bind_door(joined, door, &secret, address, &registered).await?;

    let core_config = RouterConfig {
        key,
        domain,
        profile: joined.profile.rules.clone(),
        profile_hash: joined.profile.hash,
    };
    let (mut core, outputs) = Router::recover(core_config, recovered.book, 1);
    let audits = super::validator::watch(joined).await?;
    let kept = match &audits {
        Some((_, watch)) => Some(keep_works(&mut core, data, watch, domain)?),
        None => None,
    };
    let (calls, chain_calls) = mpsc::unbounded_channel();
    let parts = RouterParts {
        core,
        outputs,
        journal,
        endpoint: endpoint.clone(),
        chain: calls,
        decisions: DecisionLog::open(folder.join("decisions.jsonl"))?,
        audits: kept,
        undelivered: Undeliveries::open(&undelivered::folder(&folder))?,
        traces: CallTraces::new(tracer("stoa-router", address)),
    };
    let (handle, mut task) = router::start(parts)?;
    let mut judged = None;
    if let (Some((_, watch)), Some(shelf)) = (&audits, handle.shelf()) {
        let kept = (watch.clone(), shelf);
        let answers = Answers::new(handle.clone(), address, kept, forger.clone());
        judged = Some(answers.answerer());
        tokio::spawn(audits::follow(watch.clone(), handle.clone(), address));
    }
    let trees = PayoutTrees::new(handle.clone());
    endpoint.answer_audits(payouts::answerer(trees.clone(), judged));
    tokio::spawn(watch::watch(handle.clone()));
    let view = SharedView::default();
    let (told, caught_up) = oneshot::channel();
    let follower = Follower {
        chain: joined.chain.clone(),
        contracts: joined.contracts,
        audits: audits.as_ref().map(|(contracts, _)| *contracts),
        chain_id: joined.chain_id,
        router: handle.clone(),
        account: address,
        registered,
        view: view.clone(),
        forger: forger.clone(),
    };
    tokio::spawn(follower.run(told));
    tokio::select! {
        read = caught_up => read.map_err(|_| "the chain could not be followed")?,
        ended = &mut task => ended??,
    }
    endpoint.open();
    let public = publish(&patient, &account, &secret, &endpoint, door).await?;
    let answered = if config.router.claim_undelivered {
        HELD_BACK
    } else {
        Millis(0)
    };
    let claims = audits
        .as_ref()
        .and_then(|(contracts, _)| Claims::start(joined, *contracts, answered));
    if let Some(claims) = &claims {
        follow_claims(joined, config, account.clone(), claims, (&handle, source)).await?;
    }
    // It keeps the patience of the start: a call that meets a chain that is away goes on where it was when the chain is back, which is sooner
    // than the state machine would ask for it again. Whoever waits behind it would meet the same chain.
    let carried = settler::carry_out(account, handle.clone(), forger, chain_calls);
    tokio::spawn(carried);
    Ok(RouterUp {
        handle,
        account: address,
        view,
        payouts: trees,
        endpoint,
        address: public,
        task,
        audits,
        claims,
    })
}

/// Claims what it was not delivered, and the rest of a router's part, from now on. On a devnet it is given some deposits.
async fn follow_claims<C: ChainAccess + Clone>(
    joined: &Joined<C>,
    config: &Config,
    account: Account<C>,
    claims: &Claims,
    (router, source): (&RouterHandle, &StakeSource<'_, C>),
) -> Result<(), Failure> {
    let chain = joined.patiently().chain;
    let Some(rules) = claims.audits.claim_rules(&chain).await? else {
        return Ok(());
    };
    let most = rules.deposit.units().saturating_mul(DEPOSITS_GRANTED);
    stake::grant(
        joined,
        account.address(),
        StakeAmount::from_units(most),
        source,
    )
    .await?;
    let duty = RouterClaims {
        account: AuditAccount::new(account, claims.audits),
        view: joined.view(),
        rules,
        router: router.clone(),
        watch: claims.watch.clone(),
        claims: config.router.claim_undelivered,
    };
    tokio::spawn(duty.run());
    Ok(())
}

/// Has the router keep works from now on, and forgets those that nobody may ask for any more.
fn keep_works(
    core: &mut Router,
    data: &DataDir,
    watch: &AuditWatch,
    domain: Domain,
) -> Result<Kept, Failure> {
    core.keep_for_audits();
    let posts = watch.state().over(core.book().router());
    // What it lets go of at once is told again when the shelf is open: nothing of it is wanted.
    drop(core.handle(Input::Chain(ChainEvent::AuditsOver { posts }), now()));
    let folder = data.folder("router/audits")?;
    let shelf = Shelf::open(folder.clone(), |job| core.is_auditable(job))
        .map_err(|error| format!("{} cannot be used: {error}", folder.display()))?;
    tracing::info!(works = shelf.len(), "kept for audits");
    Ok(Kept {
        shelf,
        watch: watch.clone(),
        domain,
    })
}

/// Binds the socket that providers dial. Nobody is let in before it is opened: until the chain is read, everybody would be a stranger.
async fn bind_door<C: ChainAccess + Clone>(
    joined: &Joined<C>,
    door: &Door,
    secret: &EndpointSecret,
    router: Address,
    registered: &SharedRegistered,
) -> Result<Arc<RouterEndpoint>, Failure> {
    let known = registered.clone();
    let authorize = Arc::new(move |endpoint, hello: &_| {
        known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .authorize(endpoint, hello)
    });
    let listen = stoa_net::RouterConfig {
        secret: secret.clone(),
        bind: door.listen,
        welcome: Welcome {
            router,
            chain_id: joined.chain_id,
            vault: joined.contracts.vault,
            profile_hash: joined.profile.hash,
        },
        timeouts: stoa_net::Timeouts::default(),
    };
    Ok(Arc::new(
        RouterEndpoint::bind_closed(listen, authorize).await?,
    ))
}

/// Registers where the router is reached, and says where that is.
async fn publish<C: ChainAccess + Clone>(
    joined: &Joined<C>,
    router: &Account<C>,
    secret: &EndpointSecret,
    endpoint: &RouterEndpoint,
    door: &Door,
) -> Result<RouterAddress, Failure> {
    let mut address = endpoint.address();
    if !door.announced.is_empty() {
        address.addresses.clone_from(&door.announced);
    }
    let registry = joined.contracts.provider_registry;
    let proof = secret.prove(joined.chain_id, registry, router.address());
    let addresses: Vec<_> = address.addresses.iter().map(ToString::to_string).collect();
    router
        .register_router(address.endpoint, proof, &addresses.join(","))
        .await?;
    Ok(address)
}

/// What the API serves: the router, to holders of the keys in its folder and of those `configured`.
pub fn gateway(
    data: &DataDir,
    config: &Config,
    router: &RouterUp,
    configured: &[(KeyHash, Address)],
) -> Result<Arc<RouterGateway>, Failure> {
    let keys = KeyStore::open(&data.folder("router")?, configured)?;
    let replays = Replays::open(data.folder("router/replays")?, Bounds::STANDARD)?;
    Ok(Arc::new(RouterGateway::new(
        router.handle.clone(),
        (keys, replays),
        (router.view.clone(), router.payouts.clone()),
        config.router.calls_max,
        router.audits.as_ref().map(|(_, watch)| watch.clone()),
    )))
}

/// Serves the API until `stopped`. Gives the token of the operator's login.
pub fn serve_api(
    config: &Config,
    listener: TcpListener,
    gateway: Arc<RouterGateway>,
    stopped: impl Future<Output = ()> + Send + 'static,
) -> Result<String, Failure> {
    let login_token = hex::encode(random()?);
    let hosts = hosts(listener.local_addr()?, &config.router.hosts);
    let timings = Timings {
        header_hold: Duration::from_millis(config.router.header_hold_ms_max),
        ..Timings::STANDARD
    };
    let server = ServerConfig {
        seed: random()?,
        login_token: login_token.clone(),
        hosts,
        timings,
        rates: config.router.account_rate.into(),
        pages_per_minute: config.router.account_rate.pages_per_minute,
        reads_per_minute: config.router.account_rate.reads_per_minute,
    };
    tokio::spawn(stoa_api::serve(listener, gateway, server, stopped));
    Ok(login_token)
}

/// What browsers call a server that listens there, besides what its settings name.
fn hosts(listens: SocketAddr, named: &[String]) -> Vec<String> {
    let (ip, mut own) = (listens.ip(), Vec::new());
    if ip.is_loopback() || ip.is_unspecified() {
        own.extend(["localhost", "127.0.0.1", "[::1]"].map(str::to_owned));
    }
    if !ip.is_unspecified() {
        own.push(match ip {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        });
    }
    let with_port = |host: String| match listens.port() {
        80 => host,
        port => format!("{host}:{port}"),
    };
    let own = own.into_iter().map(with_port);
    own.chain(named.iter().cloned()).collect()
}

/// Takes no new calls and waits, for a while, until running ones have ended and what was earned is posted.
pub async fn drain(router: &RouterHandle) {
    router.input(Input::Drain);
    let end = Instant::now() + DRAIN_PATIENCE;
    // A batch without a payout root keeps its newest leaf for the next one: a single unsealed job may rightly remain.
    let idle = || {
        let core = router.core();
        core.active() == 0 && core.book().unsealed_count() <= 1 && core.book().next_post().is_none()
    };
    while Instant::now() < end && !idle() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::hosts;

    #[test]
    fn a_server_is_known_by_where_it_listens_and_by_what_it_is_told() {
        let of = |listens: &str| {
            hosts(
                listens.parse().expect("an address"),
                &["a.example".to_owned()],
            )
        };
        let local = ["localhost:8080", "127.0.0.1:8080", "[::1]:8080"];
        assert_eq!(of("0.0.0.0:8080")[..3], local);
        assert!(of("127.0.0.1:8080").starts_with(&local.map(str::to_owned)));
        assert_eq!(of("203.0.113.7:8080"), ["203.0.113.7:8080", "a.example"]);
        assert_eq!(of("[2001:db8::1]:80"), ["[2001:db8::1]", "a.example"]);
    }
}
