//! A deployed network on an embedded chain whose clock the test moves.
#![allow(dead_code, missing_docs)]

use std::sync::Arc;
use std::time::Duration;

use stoa_chain::*;
use stoa_crypto::SecretKey;
use stoa_evm::{Chain, ChainConfig, Genesis, ManualClock};
use stoa_types::{Address, NetworkProfile, TokenAmount};

pub const START: u64 = 1_800_000_000;

pub struct Network {
    pub chain: Arc<Chain>,
    pub clock: Arc<ManualClock>,
    pub contracts: Contracts,
    pub profile: NetworkProfile,
    _folder: tempfile::TempDir,
}

pub fn key(label: &str) -> SecretKey {
    SecretKey::for_tests(label)
}

pub fn who(label: &str) -> Address {
    key(label).address()
}

pub fn units(units: u128) -> TokenAmount {
    TokenAmount::from_units(units)
}

pub fn profile() -> NetworkProfile {
    NetworkProfile::parse(NetworkProfile::builtin_text("stoa").expect("listed")).expect("valid")
}

pub fn beneficiaries() -> Beneficiaries {
    Beneficiaries {
        admin: who("deployer"),
        treasury: who("treasury"),
        validators: who("validators"),
        buyback: who("buyback"),
    }
}

pub fn empty_chain() -> (Arc<Chain>, Arc<ManualClock>, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    let clock = Arc::new(ManualClock::new(START));
    let config = ChainConfig {
        genesis: Some(Genesis {
            timestamp: START,
            salt: Default::default(),
            allocations: Vec::new(),
        }),
        seal_window: Duration::ZERO,
        clock: clock.clone(),
        ..ChainConfig::default()
    };
    let chain = Chain::open(folder.path().join("chain.redb"), config).expect("opens");
    (Arc::new(chain), clock, folder)
}

pub async fn sender<C: ChainAccess>(chain: C, label: &str) -> Sender<C> {
    Sender::new(chain, key(label), Duration::from_secs(10))
        .await
        .expect("the chain answers")
}

pub async fn network() -> Network {
    let (chain, clock, folder) = empty_chain();
    let profile = profile();
    let deployer = sender(Embedded(chain.clone()), "deployer").await;
    let contracts = deploy(&deployer, &profile, &beneficiaries())
        .await
        .expect("deploys");
    Network {
        chain,
        clock,
        contracts,
        profile,
        _folder: folder,
    }
}

impl Network {
    pub fn access(&self) -> Embedded {
        Embedded(self.chain.clone())
    }

    pub async fn account(&self, label: &str) -> Account<Embedded> {
        Account::new(sender(self.access(), label).await, self.contracts)
    }

    pub fn view(&self) -> View<Embedded> {
        View::new(self.access(), self.contracts)
    }

    /// A developer with `amount` in the vault.
    pub async fn developer(&self, label: &str, amount: u128) -> Account<Embedded> {
        let account = self.account(label).await;
        account
            .mint_test_dollars(account.address(), units(amount))
            .await
            .expect("mints");
        account.deposit(units(amount)).await.expect("deposits");
        account
    }
}
