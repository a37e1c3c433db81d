//! Brings up a planter: the right to plant, and one identity after the other, each a customer with money, a provider with stake, its plants
//! and its loop. After the first plant that is named both are known, so that both change together.

pub mod take_back;

use super::developer::{self, Allowance};
use super::provider::{self, Answering, Machine, OF_PLANTER, ProviderUp, Router};
use super::stake::StakeSource;
use super::validator::settling;
use super::{Joined, customer, routers};
use crate::config::Config;
use crate::data::{DataDir, DataError, write_private};
use crate::http::Api;
use crate::process::{Failure, complain};
use crate::roles::audit_watch::AuditWatch;
use crate::roles::claims::Claims;
use crate::roles::planter::{self, PlanterHandle, PlanterParts, Purchases};
use crate::roles::provider::Desk;
use crate::roles::questions::goodbye;
use crate::roles::records::{self, Records};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use stoa_api::KeyHash;
use stoa_chain::{Account, AuditAccount, AuditContracts, ChainAccess, StakeRole};
use stoa_crypto::SecretKey;
use stoa_net::{AuditClient, RouterAddress, Timeouts};
use stoa_nodes::planter::{Planter, PlanterConfig};
use stoa_types::{Address, Digest, Millis, Tier};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

/// How long its provider waits for a commitment to be in a block: well within the time that a router waits for a first token.
const PATIENCE: Millis = Millis::from_secs(5);
/// What the next identity lacks is asked for again after this.
const AGAIN: Duration = Duration::from_secs(10);
/// How long the provider of an identity that is over may take to end what it does.
const DRAIN_PATIENCE: Duration = Duration::from_secs(30);
/// How often it is looked whether an account may plant.
const LOOK: Duration = Duration::from_secs(1);

/// A planter at work.
pub struct PlanterUp {
    stop: watch::Sender<bool>,
    task: JoinHandle<Option<ProviderUp>>,
}

impl PlanterUp {
    /// Stops the planter; gives its provider, which may still have work.
    pub async fn stop(self) -> Option<ProviderUp> {
        let _ = self.stop.send(true);
        self.task.await.unwrap_or_default()
    }
}

/// One customer and one provider, which plants have shown to belong together.
pub struct Identity {
    /// The account that pays.
    pub customer: Address,
    /// Hash of its API key: the router has to know it.
    pub key: KeyHash,
    /// Who serves it.
    pub provider: Address,
}

/// Identity `n` of a data folder, counted from 0.
pub fn identity(data: &DataDir, n: u32) -> Result<Identity, Failure> {
    Ok(Identity {
        customer: customer_key(data, n)?.address(),
        key: KeyHash::of(&api_key(data, n)?),
        provider: provider::key(data, provider_of(n))?.address(),
    })
}

/// The identity that acts, or will when the planter starts.
pub fn present(data: &DataDir) -> Result<u32, Failure> {
    present_in(&data.path(""))
}

/// The same of a folder that may be in use.
pub fn present_in(root: &Path) -> Result<u32, Failure> {
    let path = root.join("planter").join("identity");
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            let number = text.trim().parse();
            Ok(number.map_err(|_| format!("{} names no identity", path.display()))?)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(format!("cannot read {}: {error}", path.display()).into()),
    }
}

/// What belongs to an identity; the first has plain names.
fn named(what: &str, n: u32) -> String {
    match n {
        0 => what.to_owned(),
        n => format!("{what}-{n}"),
    }
}

fn provider_of(n: u32) -> u32 {
    OF_PLANTER.saturating_add(n)
}

/// The key of the account that pays for plants.
fn customer_key(data: &DataDir, n: u32) -> Result<SecretKey, DataError> {
    data.account_key(&customer_key_name(n))
}

fn customer_key_name(n: u32) -> String {
    named("planter-customer", n)
}

fn api_key(data: &DataDir, n: u32) -> Result<String, DataError> {
    let secret = data.secret(&named("planter-api", n))?;
    Ok(format!("sk-stoa-{}", hex::encode(secret)))
}

/// A planter does not begin at a router without a seat: nobody looks at what that posts, so that its plants show nothing. One that began there before
/// goes on, because plants that are posted and not named cost stake.
pub async fn check_seat<C: ChainAccess + Clone>(
    joined: &Joined<C>,
    data: &DataDir,
    router: Address,
    patience: Duration,
) -> Result<(), Failure> {
    let Err(error) = customer::check_seat(joined, router, patience).await else {
        return Ok(());
    };
    if !began_at(joined, data, router).await? {
        return Err(error);
    }
    tracing::warn!(%error, "the planter goes on where it began, for what it planted");
    Ok(())
}

/// Whether a customer of this folder ever allotted to that router: before that it could not plant there. No key is made.
async fn began_at<C: ChainAccess + Clone>(
    joined: &Joined<C>,
    data: &DataDir,
    router: Address,
) -> Result<bool, Failure> {
    let view = joined.view();
    for n in (0..=present(data)?).rev() {
        let file = format!("keys/{}.key", customer_key_name(n));
        if !data.path(&file).exists() {
            continue;
        }
        let customer = customer_key(data, n)?.address();
        if view.allotment(customer, router).await?.generation > 0 {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What a planter needs of the network beside the chain.
pub struct Ground<C> {
    /// The network.
    pub joined: Joined<C>,
    /// Its keys and plants.
    pub data: DataDir,
    /// Its settings.
    pub config: Config,
    /// The contracts that judge, and what they say.
    pub audits: (AuditContracts, AuditWatch),
    /// Claims of non-delivery, where the network has them.
    pub claims: Option<Claims>,
    /// The router that it buys from, and that its provider works for.
    pub router: Address,
    /// Base URL of that router's API.
    pub api: String,
    /// Local address from which it dials.
    pub bind: SocketAddr,
    /// What its provider serves with.
    pub machine: Machine,
    /// Plants of one set.
    pub set: u32,
    /// Who gives money, stake and the right to plant: the deployer of a devnet. Without it they are waited for.
    pub giver: Option<Arc<Account<C>>>,
    /// The last identity whose API key the router knows, where that is fixed.
    pub last: Option<u32>,
}

/// The loops of one identity.
struct Acting {
    planter: PlanterHandle,
    provider: ProviderUp,
    /// Keeps its customer's allotment.
    allowance: JoinSet<()>,
    /// Where its router was when it was dialled last.
    router: RouterAddress,
}

impl Acting {
    async fn stop(self) -> Option<ProviderUp> {
        self.planter.stop().await;
        Some(self.provider)
    }

    /// Its provider takes no work any more. Claims against it are answered on where its identity is over; where that begins again, it does so
    /// with a provider of its own.
    async fn retire(mut self, over: bool) -> Option<Answering> {
        self.allowance.shutdown().await;
        if over {
            let answering = self.provider.drain(DRAIN_PATIENCE).await;
            return answering.map(Answering::for_the_rest);
        }
        self.provider.end(DRAIN_PATIENCE).await;
        None
    }
}

/// Starts a planter. Its first identity is at work when this returns.
pub async fn start<C: ChainAccess + Clone>(ground: Ground<C>) -> Result<PlanterUp, Failure> {
    let (joined, (contracts, _)) = (&ground.joined, &ground.audits);
    let account = ground.data.account_key("planter")?.address();
    match &ground.giver {
        Some(admin) => appoint(joined, contracts, account, admin).await?,
        None => wait_for_right(joined, contracts, account).await?,
    }
    let client = AuditClient::bind(ground.bind, Timeouts::default()).await?;
    let client = Arc::new(client);
    let n = present(&ground.data)?;
    let answering = ground.answer_for_those_before(n).await;
    let acting = ground.begin(n, &client).await?;
    let (stop, stopped) = watch::channel(false);
    let task = tokio::spawn(ground.go_on(n, acting, answering, client, stopped));
    Ok(PlanterUp { stop, task })
}

impl<C: ChainAccess + Clone> Ground<C> {
    /// Claims against providers of identities that are over are answered as long as they have anything at stake.
    async fn answer_for_those_before(&self, present: u32) -> Vec<Answering> {
        let mut answering = Vec::new();
        for n in 0..present {
            match self.answer_for(n).await {
                Ok(answers) => answering.extend(answers),
                Err(error) => {
                    tracing::warn!(identity = n, %error, "claims against the provider of an identity that is over are not answered until the next start");
                }
            }
        }
        answering
    }

    async fn answer_for(&self, n: u32) -> Result<Option<Answering>, Failure> {
        let Some(claims) = &self.claims else {
            return Ok(None);
        };
        let (joined, data, number) = (&self.joined, &self.data, provider_of(n));
        let provider = provider::key(data, number)?.address();
        // A chain that is away for a moment must not leave it unanswered for until the next start.
        let view = joined.patiently().view();
        let stake = view.stake(StakeRole::Provider, provider).await?;
        if !provider::is_at_stake(&stake) {
            return Ok(None);
        }
        let answering = provider::answer_for(joined, data, &self.machine, number, claims).await?;
        Ok(Some(answering))
    }

    /// Lets one identity follow the other until it is told to stop; gives the provider of the last.
    async fn go_on(
        self,
        n: u32,
        acting: Acting,
        answering: Vec<Answering>,
        client: Arc<AuditClient>,
        stopped: watch::Receiver<bool>,
    ) -> Option<ProviderUp> {
        let last = self.take_turns(n, acting, answering, &client, stopped);
        let last = last.await;
        goodbye(client).await;
        last
    }

    async fn take_turns(
        &self,
        mut n: u32,
        mut acting: Acting,
        mut answering: Vec<Answering>,
        client: &Arc<AuditClient>,
        mut stopped: watch::Receiver<bool>,
    ) -> Option<ProviderUp> {
        let mut changes = self.audits.1.changes();
        loop {
            let ended = tokio::select! {
                () = stop(&mut stopped) => return acting.stop().await,
                over = acting.planter.over() => Some(over),
                changed = changes.changed() => {
                    if changed.is_err() {
                        return acting.stop().await;
                    }
                    self.follow(&mut acting);
                    None
                }
            };
            let Some(over) = ended else {
                continue;
            };
            answering.extend(acting.retire(over).await);
            if over {
                n = n.saturating_add(1);
                tracing::info!(
                    identity = n,
                    "another customer and another provider plant from now on; what those before hold comes back with `stoa take-back`"
                );
            } else {
                tracing::error!(
                    identity = n,
                    "the planter's loop ended before its sets were bought; it begins again"
                );
            }
            acting = tokio::select! {
                () = stop(&mut stopped) => return None,
                next = self.begin_after(n, over, client) => next,
            };
            if over {
                self.announce(n.saturating_add(1));
            }
        }
    }

    /// The next identity at once; the same one after a while, so that a defect does not come back in a hurry.
    async fn begin_after(&self, n: u32, over: bool, client: &Arc<AuditClient>) -> Acting {
        if !over {
            tokio::time::sleep(AGAIN).await;
        }
        self.begin_at_last(n, client).await
    }

    /// Tells the operator whom the router has to know before this identity takes over, where nobody here can let it in.
    fn announce(&self, n: u32) {
        if self.last.is_some() {
            return;
        }
        match identity(&self.data, n) {
            Ok(next) => {
                let hash = Digest(next.key.to_bytes());
                tracing::warn!(customer = %next.customer, key_hash = %hash,
                    "this customer of the planter takes over next: the router's operator has to let it in, as those before");
            }
            Err(error) => tracing::warn!(%error, "the next customer of the planter has no key"),
        }
    }

    /// A router that was started anew may be elsewhere.
    fn follow(&self, acting: &mut Acting) {
        let Some(now_at) = self.reached().filter(|now_at| *now_at != acting.router) else {
            return;
        };
        for link in &acting.provider.links {
            if let Err(error) = link.redial(&now_at) {
                tracing::warn!(router = %self.router, %error, "the router cannot be dialled where it says");
            }
        }
        acting.router = now_at;
    }

    fn reached(&self) -> Option<RouterAddress> {
        let state = self.audits.1.state();
        let reached = state.reached(self.router)?;
        routers::address(reached.endpoint, &reached.addresses)
    }

    async fn begin_at_last(&self, n: u32, client: &Arc<AuditClient>) -> Acting {
        loop {
            match self.begin(n, client).await {
                Ok(acting) => return acting,
                Err(error) => {
                    tracing::warn!(identity = n, %error, "the next customer and provider of the planter are not ready; it is tried again");
                }
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Money, stake and loops of identity `n`. Where it was begun before, only what is missing is done.
    async fn begin(&self, n: u32, client: &Arc<AuditClient>) -> Result<Acting, Failure> {
        let (joined, data, config) = (&self.joined, &self.data, &self.config);
        let folder = data.folder("planter")?;
        write_private(&folder.join("identity"), n.to_string().as_bytes())?;
        let address = self.reached();
        let address = address.ok_or_else(|| {
            format!(
                "the registry does not say where router {} is reached",
                self.router
            )
        })?;
        let paying = self.pay(n).await?;
        let money = config.developer.clone();
        let keeping = Allowance::new(joined, paying, self.router, money).keep_alive();
        let mut allowance = JoinSet::new();
        let (machine, number) = (&self.machine, provider_of(n));
        let source = match &self.giver {
            Some(giver) => StakeSource::Granted(giver),
            None => StakeSource::Awaited,
        };
        provider::register(joined, data, config, machine, number, &source).await?;
        let (orders, asked) = mpsc::unbounded_channel();
        let (open, door) = watch::channel(!config.planter.alone);
        let desk = Desk {
            customer: customer_key(data, n)?.address(),
            orders,
            open: door,
        };
        let dialled = [Router {
            account: self.router,
            address: address.clone(),
        }];
        let to = (&dialled[..], self.bind);
        let duties = (Some(&desk), self.claims.as_ref());
        let provider = provider::start(joined, data, config, machine, number, to, duties).await?;
        let parts = self.parts(n, client, asked, open).await?;
        allowance.spawn(keeping);
        Ok(Acting {
            planter: planter::start(parts),
            provider,
            allowance,
            router: address,
        })
    }

    /// What a customer may spend at the router.
    async fn pay(&self, n: u32) -> Result<Account<C>, Failure> {
        let (key, money) = (customer_key(&self.data, n)?, &self.config.developer);
        if let Some(giver) = &self.giver {
            return developer::fund(&self.joined, key, self.router, money, giver).await;
        }
        let account = self.joined.account(key).await?;
        customer::allot(&self.joined, &account, self.router, money).await?;
        Ok(account)
    }

    /// The loop's parts.
    async fn parts(
        &self,
        n: u32,
        client: &Arc<AuditClient>,
        orders: mpsc::UnboundedReceiver<crate::roles::provider::PlantOrder>,
        open: watch::Sender<bool>,
    ) -> Result<PlanterParts<C>, Failure> {
        let (contracts, watch) = &self.audits;
        let (data, settings) = (&self.data, &self.config.planter);
        let own = match n {
            0 => "planter".to_owned(),
            n => format!("planter/identity-{n}"),
        };
        let folder = records::plants(&data.folder(&own)?);
        let (records, kept) =
            Records::open(&folder).map_err(|error| format!("the planter's plants: {error}"))?;
        // The router would not let another one in.
        let ends = self.last.is_none_or(|last| n < last);
        let config = PlanterConfig {
            key: customer_key(data, n)?,
            chain_id: self.joined.chain_id,
            rounds: contracts.rounds,
            router: self.router,
            set: self.set,
            sets: if ends { settings.sets_per_identity } else { 0 },
            rest: Millis::from_secs(settings.rest_seconds),
            pause: Millis(settings.pause_ms),
            patience: PATIENCE,
            settling: settling(&self.joined.profile.rules),
        };
        let planter = self.joined.account(data.account_key("planter")?).await?;
        let provider = provider::key(data, provider_of(n))?.address();
        tracing::info!(planter = %planter.address(), %provider, plants = self.set, "planter");
        Ok(PlanterParts {
            core: Planter::recover(config, kept),
            account: AuditAccount::new(planter, *contracts),
            watch: watch.clone(),
            client: client.clone(),
            api: Api::at(&self.api, &api_key(data, n)?),
            purchases: Purchases {
                model: self.model()?,
                prompts: prompts(&self.config)?,
                only: settings.alone.then_some(provider),
            },
            records,
            orders,
            open: settings.alone.then_some(open),
        })
    }

    /// The model whose answers can be judged.
    fn model(&self) -> Result<String, Failure> {
        let mut backends = self.machine.backends.iter().map(|backend| backend.facts());
        let exact = backends.find(|facts| facts.tier == Tier::Exact);
        let exact = exact.ok_or("no model is served here whose answers can be judged")?;
        Ok(exact.model.clone())
    }
}

/// Waits until it is to stop, or nobody can say so any more.
async fn stop(stopped: &mut watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stop| *stop).await;
}

async fn wait_for_right<C: ChainAccess + Clone>(
    joined: &Joined<C>,
    contracts: &AuditContracts,
    planter: Address,
) -> Result<(), Failure> {
    let mut told = false;
    while !contracts.is_planter(&joined.chain, planter).await? {
        if !std::mem::replace(&mut told, true) {
            complain(format_args!(
                "waiting for the right to plant: the admin of the audits has to name {planter}, the account of this planter; in the folder of \
                 a devnet's chain, `stoa fund {planter} --planter` does it"
            ))?;
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// Lets the planter plant, where the admin has not yet.
async fn appoint<C: ChainAccess + Clone>(
    joined: &Joined<C>,
    contracts: &AuditContracts,
    planter: stoa_types::Address,
    admin: &Account<C>,
) -> Result<(), Failure> {
    if contracts.is_planter(&joined.chain, planter).await? {
        return Ok(());
    }
    contracts.set_planter(admin.sender(), planter, true).await?;
    Ok(())
}

/// What it asks.
fn prompts(config: &Config) -> Result<Vec<String>, Failure> {
    let file = &config.planter.prompts;
    if file.is_empty() {
        return Ok(made_up());
    }
    let text =
        std::fs::read_to_string(file).map_err(|error| format!("cannot read {file}: {error}"))?;
    let prompts: Vec<_> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .map(str::to_owned)
        .collect();
    if prompts.is_empty() {
        return Err(format!("{file} holds no prompt: put one in each line").into());
    }
    Ok(prompts)
}

/// Some prompts that anybody might send.
fn made_up() -> Vec<String> {
    const WANTS: [&str; 5] = [
        "Tell me a story about",
        "Write two sentences about",
        "What do you know of",
        "Explain to a child",
        "Give me a title for a text about",
    ];
    const THINGS: [&str; 7] = [
        "a river",
        "the moon",
        "an old house",
        "bread",
        "a lost key",
        "winter",
        "the sea",
    ];
    let pair = |n: usize| format!("{} {}.", WANTS[n % 5], THINGS[n % 7]);
    (0..35).map(pair).collect()
}

#[cfg(test)]
mod tests;
