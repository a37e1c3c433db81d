//! A network in a temporary folder, for tests: an embedded chain with the contracts of the profile `stoa`, and nothing else.

use super::{Joined, chain};
use crate::data::DataDir;
use crate::profile::Profile;
use crate::roles::router::now;
use std::sync::Arc;
use stoa_chain::{Account, Embedded};
use stoa_evm::{Clock, ManualClock, SystemClock};
use stoa_types::{Address, NetworkProfile, TokenAmount};

/// The network, whose time is that of `clock`.
pub struct Devnet<C> {
    /// What a role joins.
    pub joined: Joined<Embedded>,
    /// Holds the tokens.
    pub deployer: Account<Embedded>,
    /// The folder, open.
    pub data: DataDir,
    /// Dates the blocks.
    pub clock: Arc<C>,
    /// Kept, or the folder is gone.
    pub folder: tempfile::TempDir,
}

impl Devnet<SystemClock> {
    /// With the machine's time.
    pub async fn open() -> Self {
        Self::with(SystemClock).await
    }
}

impl Devnet<ManualClock> {
    /// With time that a test moves.
    pub async fn with_moved_time() -> Self {
        Self::with(ManualClock::new(now().secs())).await
    }
}

impl<C: Clock + 'static> Devnet<C> {
    async fn with(clock: C) -> Self {
        let (folder, clock) = (tempfile::tempdir().expect("a folder"), Arc::new(clock));
        let data = DataDir::open(folder.path()).expect("opens");
        let text = NetworkProfile::builtin_text("stoa").expect("built in");
        let profile = Profile::of(text).expect("valid");
        let embedded = chain::open_by(&data, &profile, clock.clone()).expect("a chain");
        let founded = chain::found(&data, profile, &embedded).await;
        let (joined, deployer) = founded.expect("contracts");
        Self {
            joined,
            deployer,
            data,
            clock,
            folder,
        }
    }
}

/// Time passes, and a block says so.
pub async fn pass(deployer: &Account<Embedded>, clock: &ManualClock, seconds: u64) {
    clock.advance(seconds);
    let (nobody, one) = (Address([1; 20]), TokenAmount::from_units(1));
    let sent = deployer.mint_test_dollars(nobody, one).await;
    sent.expect("a block");
}
