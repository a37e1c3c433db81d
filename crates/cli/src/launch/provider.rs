//! Brings up a provider: registration, loadout and stake on chain, its receipts, its backends, one link for each router.

use super::Joined;
use super::stake::{self, StakeSource};
use crate::config::{Config, PROVIDERS_MAX, ProviderOffer, market_slots};
use crate::data::{DataDir, DataError, write_private};
use crate::process::Failure;
use crate::roles::claims::{AnswerMaker, Claims, ProviderClaims};
use crate::roles::earnings::{self, Earnings};
use crate::roles::gas;
use crate::roles::owed::{self, OwedFolder};
use crate::roles::provider::{self, Desk, ProviderHandle, ProviderParts};
use crate::roles::traces::JobTraces;
use crate::telemetry::tracer;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use stoa_chain::{Account, AuditAccount, ChainAccess, Offer, StakeRole, StakeView, View};
use stoa_crypto::SecretKey;
use stoa_net::{Backoff, EndpointSecret, ProviderEndpoint, RouterAddress};
use stoa_nodes::provider::{Provider, ProviderConfig};
use stoa_runtime::{Backend, Executor, ProviderPolicy};
use stoa_types::{Address, Hardware, Millis, Region};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Orders that a provider takes before it goes away, where that is its cheat.
const SILENT_ORDERS: u32 = 2;

/// How often the stake of a provider that is over is looked at.
const LOOK: Duration = Duration::from_secs(60);

/// Number of a planter's own provider: no other has so high a number.
pub const OF_PLANTER: u32 = PROVIDERS_MAX;

/// What providers of one process share: the machine and what computes on it.
#[derive(Clone)]
pub struct Machine {
    /// What it is.
    pub hardware: Hardware,
    /// What serves models; the first is named first.
    pub backends: Vec<Arc<dyn Backend>>,
    /// Requests that an upstream server takes at once.
    pub upstream_places: Option<u32>,
    /// Providers on it.
    pub providers: u32,
    /// Whether its provider goes away after some orders and leaves claims against it unanswered, as a cheat does.
    pub silent: bool,
}

/// A provider at work. What it runs ends with it.
pub struct ProviderUp {
    /// Its loops, one for each router, in their order.
    pub links: Vec<ProviderHandle>,
    /// Absent where the network has no claims, or nobody answers them.
    pub answering: Option<Answering>,
}

impl ProviderUp {
    /// Takes no new work, lets running work end (up to `patience`). Claims against it are answered on.
    pub async fn drain(self, patience: Duration) -> Option<Answering> {
        let mut draining = JoinSet::new();
        for link in self.links {
            draining.spawn(link.drain(patience));
        }
        draining.join_all().await;
        self.answering
    }

    /// Drains, and answers no claims any more: its receipts and what it owes can be opened again.
    pub async fn end(self, patience: Duration) {
        if let Some(answering) = self.drain(patience).await {
            answering.end().await;
        }
    }
}

/// Answers claims of non-delivery against a provider until it is dropped.
pub struct Answering {
    task: JoinSet<()>,
    over: watch::Sender<bool>,
}

impl Answering {
    /// Its provider takes no work any more, for good: it ends by itself once nothing is at stake.
    pub fn for_the_rest(self) -> Self {
        self.over.send_replace(true);
        self
    }

    /// Ends it. Nothing of it runs any more when this returns.
    pub async fn end(mut self) {
        self.task.shutdown().await;
    }

    /// Waits until it ends by itself.
    #[cfg(test)]
    pub async fn ended(mut self) {
        while self.task.join_next().await.is_some() {}
    }
}

/// Waits until a provider that is over has no stake left, active or unbonding: nobody can slash it any more. A stake that cannot be read is
/// taken to be there.
async fn without_stake<C: ChainAccess>(
    view: View<C>,
    provider: Address,
    mut over: watch::Receiver<bool>,
) {
    if over.wait_for(|over| *over).await.is_err() {
        return std::future::pending().await;
    }
    let mut ticks = tokio::time::interval(LOOK);
    loop {
        ticks.tick().await;
        match view.stake(StakeRole::Provider, provider).await {
            Ok(stake) if !is_at_stake(&stake) => return,
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(%provider, %error, "the stake of a provider that is over cannot be read");
            }
        }
    }
}

/// Whether a slash could take anything.
pub fn is_at_stake(stake: &StakeView) -> bool {
    !stake.active.is_zero() || !stake.unbonding.is_zero()
}

/// A router that a provider dials.
#[derive(Debug, Clone)]
pub struct Router {
    /// Its account.
    pub account: Address,
    /// Where it is reached.
    pub address: RouterAddress,
}

/// The key of provider `n`.
pub fn key(data: &DataDir, n: u32) -> Result<SecretKey, DataError> {
    data.account_key(&format!("provider-{n}"))
}

fn endpoint_secret(data: &DataDir, n: u32) -> Result<EndpointSecret, DataError> {
    data.secret(&format!("provider-{n}-endpoint"))
        .map(EndpointSecret::from_bytes)
}

/// Region and prices of provider `n`.
fn place(config: &Config, n: u32) -> &ProviderOffer {
    &config.providers[config.offer(n)]
}

/// Registration, loadout and stake of provider `n`; what stands on chain already is not sent again. The stake is looked at every time:
/// a slash may have taken it below what lets the provider in.
pub async fn register<C: ChainAccess + Clone>(
    joined: &Joined<C>,
    data: &DataDir,
    config: &Config,
    machine: &Machine,
    n: u32,
    source: &StakeSource<'_, C>,
) -> Result<(), Failure> {
    let (key, place) = (key(data, n)?, place(config, n));
    let settings = &config.provider;
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
    let offers: Vec<_> = machine.backends.iter().map(offer).collect();
    let named = offers
        .iter()
        .map(|offer| format!("{} {} {}", offer.name, offer.model_root, offer.tier));
    let named = named.collect::<Vec<_>>().join(" ");
    let published = format!("{named} {input} {output} {region} {tps} {stake}");
    let path = data.folder(&format!("provider-{n}"))?.join("published");
    let stands = std::fs::read_to_string(&path).ok().as_deref() == Some(&published);
    let provider = joined.account(key).await?;
    // What was published once may have been taken back since, by who announced that this provider leaves.
    let stands = stands && !joined.view().is_leaving(provider.address()).await?;
    if !stands {
        publish(
            joined,
            &endpoint_secret(data, n)?,
            &provider,
            region,
            &offers,
        )
        .await?;
    }
    stake::ensure(joined, &provider, StakeRole::Provider, stake, source).await?;
    if !stands {
        write_private(&path, published.as_bytes())?;
    }
    Ok(())
}

async fn publish<C: ChainAccess + Clone>(
    joined: &Joined<C>,
    secret: &EndpointSecret,
    provider: &Account<C>,
    region: Region,
    offers: &[Offer],
) -> Result<(), Failure> {
    let registry = joined.contracts.provider_registry;
    let me = provider.address();
    let proof = secret.prove(joined.chain_id, registry, me);
    // Registering again is how a region changes.
    provider
        .register_provider(secret.endpoint_id(), proof, region, me)
        .await?;
    provider.set_loadout(offers).await?;
    Ok(())
}

/// Starts provider `n`: one loop for each of its routers, over the same backends and receipts. Its slots are divided among them, one each
/// at least. A planter's own provider has a desk.
pub async fn start<C: ChainAccess + Clone>(
    joined: &Joined<C>,
    data: &DataDir,
    config: &Config,
    machine: &Machine,
    n: u32,
    (routers, bind): (&[Router], SocketAddr),
    (desk, claims): (Option<&Desk>, Option<&Claims>),
) -> Result<ProviderUp, Failure> {
    let key = key(data, n)?;
    let kept = Kept::open(joined, data, n)?;
    let (jobs, gross) = kept.earnings.total();
    tracing::info!(account = %key.address(), jobs, %gross, "provider's receipts");
    let answering = match claims.filter(|_| !machine.silent) {
        Some(claims) => Some(kept.answer(joined, claims, key.clone(), machine).await?),
        None => None,
    };
    let policy = config.policy(config.offer(n));
    let slots = slots(machine, &policy);
    let executor = Arc::new(Executor::new(slots)?);
    let share = u32::try_from(routers.len()).unwrap_or(u32::MAX).max(1);
    let mut links = Vec::new();
    for router in routers {
        let core = core(
            joined,
            (key.clone(), router.account),
            place(config, n),
            machine,
            (slots / share).max(1),
        );
        let link = stoa_net::ProviderConfig {
            secret: endpoint_secret(data, n)?,
            bind,
            router: router.address.clone(),
            hello: core.hello(),
            backoff: Backoff::default(),
            timeouts: stoa_net::Timeouts::default(),
        };
        links.push(provider::start(ProviderParts {
            core,
            endpoint: Arc::new(ProviderEndpoint::connect(link).await?),
            backends: machine.backends.clone(),
            executor: executor.clone(),
            policy: policy.clone(),
            utc_offset_minutes: config.provider.utc_offset_minutes,
            earnings: kept.earnings.clone(),
            owed: kept.owed.clone(),
            router: router.account,
            traces: JobTraces::new(tracer("stoa-provider", key.address())),
            vanishes_after: machine.silent.then_some(SILENT_ORDERS),
            desk: desk.cloned(),
        }));
    }
    Ok(ProviderUp { links, answering })
}

/// Answers claims against provider `n`, which takes no work any more: what it took can still be claimed, and its stake is within reach.
pub async fn answer_for<C: ChainAccess + Clone>(
    joined: &Joined<C>,
    data: &DataDir,
    machine: &Machine,
    n: u32,
    claims: &Claims,
) -> Result<Answering, Failure> {
    let kept = Kept::open(joined, data, n)?;
    let answering = kept.answer(joined, claims, key(data, n)?, machine).await?;
    Ok(answering.for_the_rest())
}

/// What a provider keeps in its folder. Nobody else can open it meanwhile.
struct Kept {
    earnings: Arc<Earnings>,
    owed: OwedFolder,
}

impl Kept {
    /// Opens what provider `n` keeps.
    fn open<C: ChainAccess + Clone>(
        joined: &Joined<C>,
        data: &DataDir,
        n: u32,
    ) -> Result<Self, Failure> {
        let own = data.folder(&format!("provider-{n}"))?;
        let earnings = Earnings::open(&earnings::folder(&own))
            .map_err(|error| format!("provider {n}'s receipts: {error}"))?;
        let owed = open_owed(joined, &own, key(data, n)?)?;
        let paid = owed.clone();
        // What is durable there is not owed any more.
        let earnings = Arc::new(earnings.telling(move |order| paid.forget(order)));
        Ok(Self { earnings, owed })
    }

    /// Answers claims of non-delivery against this provider from now on.
    async fn answer<C: ChainAccess + Clone>(
        &self,
        joined: &Joined<C>,
        claims: &Claims,
        key: SecretKey,
        machine: &Machine,
    ) -> Result<Answering, Failure> {
        let account = joined.account(key.clone()).await?;
        let duty = ProviderClaims {
            account: AuditAccount::new(account, claims.audits),
            watch: claims.watch.clone(),
            answers: AnswerMaker {
                key,
                domain: joined.domain(),
                profile_hash: joined.profile.hash,
                earnings: self.earnings.clone(),
                owed: self.owed.clone(),
                backends: machine.backends.clone(),
            },
        };
        let provider = duty.account.account().address();
        let (over, is_over) = watch::channel(false);
        let gas = gas::watch(joined.chain.clone(), provider);
        let idle = without_stake(joined.view(), provider, is_over);
        let mut task = JoinSet::new();
        task.spawn(async move {
            tokio::select! {
                () = duty.run() => {}
                () = gas => {}
                () = idle => {
                    tracing::info!(%provider, "a provider that is over has nothing at stake any more; claims against it are not answered");
                }
            }
        });
        Ok(Answering { task, over })
    }
}

/// What was taken and can still be claimed.
fn open_owed<C: ChainAccess + Clone>(
    joined: &Joined<C>,
    folder: &Path,
    key: SecretKey,
) -> Result<OwedFolder, Failure> {
    let delivery = &joined.profile.rules.delivery;
    let seconds = delivery
        .claim_seconds
        .saturating_add(delivery.answer_seconds);
    let folder = owed::folder(folder);
    OwedFolder::open(&folder, key, Millis::from_secs(seconds))
        .map_err(|error| format!("{} cannot be used: {error}", folder.display()).into())
}

fn core<C: ChainAccess + Clone>(
    joined: &Joined<C>,
    (key, router): (SecretKey, Address),
    place: &ProviderOffer,
    machine: &Machine,
    slots: u32,
) -> Provider {
    let offer = |backend: &Arc<dyn Backend>| {
        let (input, output) = (place.input_price, place.output_price);
        backend.facts().offer(input, output)
    };
    Provider::new(ProviderConfig {
        key,
        domain: joined.domain(),
        profile_hash: joined.profile.hash,
        router,
        region: place.region,
        hardware: machine.hardware.clone(),
        slots,
        offers: machine.backends.iter().map(offer).collect(),
        ticket_life: Millis::from_secs(joined.profile.rules.settlement.ticket_seconds),
    })
}

/// Jobs at once: what the policy allows, and no more than its share of what the upstream server takes.
fn slots(machine: &Machine, policy: &ProviderPolicy) -> u32 {
    let slots = market_slots(policy, machine.hardware.cores);
    match machine.upstream_places {
        Some(places) => slots.min((places / machine.providers.max(1)).max(1)),
        None => slots,
    }
}
