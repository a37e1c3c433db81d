//! Brings up a planter: its customer with money, its provider, the right to plant, its plants, its loop.

use super::Joined;
use super::developer::{self, Allowance};
use super::provider::{self, Machine, OF_PLANTER, Router};
use super::stake::StakeSource;
use super::validator::settling;
use crate::config::Config;
use crate::data::{DataDir, DataError};
use crate::http::Api;
use crate::process::Failure;
use crate::roles::audit_watch::AuditWatch;
use crate::roles::planter::{self, PlanterHandle, PlanterParts, Purchases};
use crate::roles::provider::{Desk, ProviderHandle};
use crate::roles::records::{self, Records};
use std::net::SocketAddr;
use std::sync::Arc;
use stoa_chain::{Account, AuditAccount, AuditContracts, ChainAccess};
use stoa_crypto::SecretKey;
use stoa_net::{AuditClient, Timeouts};
use stoa_nodes::planter::{Planter, PlanterConfig};
use stoa_types::{Millis, Tier};
use tokio::sync::{mpsc, watch};

/// How long its provider waits for a commitment to be in a block: well within the time that a router waits for a first token.
const PATIENCE: Millis = Millis::from_secs(5);

/// A planter and its provider.
pub struct PlanterUp {
    planter: PlanterHandle,
    /// Its provider's loops, drained like any other's.
    pub provider: Vec<ProviderHandle>,
}

impl PlanterUp {
    /// Stops the planter; gives its provider, which may still have work.
    pub async fn stop(self) -> Vec<ProviderHandle> {
        self.planter.stop().await;
        self.provider
    }
}

/// The key of the account that pays for plants.
pub fn customer(data: &DataDir) -> Result<SecretKey, DataError> {
    data.account_key("planter-customer")
}

/// What a planter needs of the network beside the chain.
pub struct Ground<'a> {
    /// The contracts that judge, and what they say.
    pub audits: &'a (AuditContracts, AuditWatch),
    /// The router that it buys from, where its provider dials it.
    pub router: Router,
    /// Local address from which its provider dials.
    pub bind: SocketAddr,
    /// The router's API, with the customer's key.
    pub api: Api,
    /// What its provider serves with.
    pub machine: &'a Machine,
}

/// Starts the planter of a devnet, whose deployer is the admin: it names the planter, stakes for its provider and pays its customer.
pub async fn start<C: ChainAccess + Clone>(
    joined: &Joined<C>,
    data: &DataDir,
    config: &Config,
    ground: Ground<'_>,
    deployer: &Account<C>,
) -> Result<PlanterUp, Failure> {
    let (contracts, watch) = ground.audits;
    let key = customer(data)?;
    let exact = ground.machine.backends.iter();
    let exact = exact.map(|backend| backend.facts());
    let mut exact = exact.filter(|facts| facts.tier == Tier::Exact);
    let model = exact
        .next()
        .ok_or("no model is served here whose answers can be judged")?;
    let model = model.model.clone();
    let router = ground.router.account;
    let money = &config.developer;
    let paying = developer::fund(joined, key.clone(), router, money, deployer).await?;
    tokio::spawn(Allowance::new(joined, paying, router, money.clone()).keep_alive());
    let planter = joined.account(data.account_key("planter")?).await?;
    appoint(joined, contracts, planter.address(), deployer).await?;
    let source = StakeSource::Granted(deployer);
    let (machine, n) = (ground.machine, OF_PLANTER);
    provider::register(joined, data, config, machine, n, &source).await?;
    let (orders, asked) = mpsc::unbounded_channel();
    let (open, door) = watch::channel(!config.planter.alone);
    let desk = Desk {
        customer: key.address(),
        orders,
        open: door,
    };
    let to = (&[ground.router][..], ground.bind);
    let provider = provider::start(joined, data, config, machine, n, to, Some(&desk)).await?;
    let folder = records::plants(&data.folder("planter")?);
    let (records, kept) =
        Records::open(&folder).map_err(|error| format!("the planter's plants: {error}"))?;
    let core = Planter::recover(
        PlanterConfig {
            key,
            chain_id: joined.chain_id,
            rounds: contracts.rounds,
            set: config.up.plants,
            rest: Millis::from_secs(config.planter.rest_seconds),
            pause: Millis(config.planter.pause_ms),
            patience: PATIENCE,
            settling: settling(&joined.profile.rules),
        },
        kept,
    );
    let alone = config.planter.alone;
    let own = provider::key(data, n)?.address();
    tracing::info!(planter = %planter.address(), provider = %own, plants = config.up.plants, "planter");
    let planter = planter::start(PlanterParts {
        core,
        account: AuditAccount::new(planter, *contracts),
        watch: watch.clone(),
        client: Arc::new(AuditClient::bind(ground.bind, Timeouts::default()).await?),
        api: ground.api,
        purchases: Purchases {
            model,
            prompts: prompts(config)?,
            only: alone.then_some(own),
        },
        records,
        orders: asked,
        open: alone.then_some(open),
    });
    Ok(PlanterUp { planter, provider })
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
