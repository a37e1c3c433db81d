//! The embedded chain of a data folder, and the contracts on it.

use super::{Joined, MINING_PATIENCE, random};
use crate::data::DataDir;
use crate::process::Failure;
use crate::profile::Profile;
use crate::roles::router::now;
use std::sync::Arc;
use std::time::Duration;
use stoa_chain::{Account, Beneficiaries, Embedded, Sender, deploy, evm_address};
use stoa_crypto::keccak256;
use stoa_evm::{Allocation, Chain, ChainConfig, Clock, Genesis, SystemClock};

/// Native coin of each account: gas costs nothing here, but wallets like to see a balance.
const NATIVE_WEI: u128 = 1_000_000_000_000_000_000_000;

/// Opens the chain of the data folder, or makes it with the accounts that a network wants.
pub fn open(data: &DataDir, profile: &Profile) -> Result<Arc<Chain>, Failure> {
    open_by(data, profile, Arc::new(SystemClock))
}

/// The same; this clock dates its blocks.
pub fn open_by(
    data: &DataDir,
    profile: &Profile,
    clock: Arc<dyn Clock>,
) -> Result<Arc<Chain>, Failure> {
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
    let seal_window = Duration::from_millis(profile.rules.chain.seal_window_ms);
    let config = ChainConfig {
        genesis,
        seal_window,
        clock,
        ..ChainConfig::default()
    };
    Ok(Arc::new(Chain::open(path, config)?))
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

/// Measures the chain as long as it is open.
pub async fn watch(chain: Arc<Chain>) {
    let (mut head, mut counted) = (chain.watch_head(), chain.head().number);
    let transactions = metrics::counter!("stoa_chain_transactions_total");
    loop {
        let number = head.borrow_and_update().number;
        metrics::gauge!("stoa_chain_head_block").set(number as f64);
        for block in counted.saturating_add(1)..=number {
            if let Ok(Some((header, _))) = chain.block(block) {
                transactions.increment(u64::from(header.transaction_count));
            }
        }
        counted = number;
        if head.changed().await.is_err() {
            return;
        }
    }
}

/// Puts the contracts on the chain, or finds them there. Gives the network, and the account that deployed it and holds its stake tokens.
pub async fn found(
    data: &DataDir,
    profile: Profile,
    chain: &Arc<Chain>,
) -> Result<(Joined<Embedded>, Account<Embedded>), Failure> {
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
    let contracts = deploy(&sender, &profile.rules, &beneficiaries).await?;
    let joined = Joined {
        chain: access,
        chain_id: chain.chain_id(),
        contracts,
        profile,
    };
    Ok((joined, Account::new(sender, contracts)))
}
