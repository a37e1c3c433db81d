//! Executable model of PaymentVault: every call of the contract as a method, with the same checks in the same order and the same events.
//!
//! A method takes the caller and, where the contract reads it, the time of the block in seconds. It either happens whole or returns a
//! [`VaultError`] and changes nothing. [`Vault::check_conservation`] is the equation that must hold after every call
//! (design: settlement 7.11). The payment token is the caller's to model: a deposit presumes that the transfer succeeded, and what leaves
//! stands in the event.

mod admin;
mod conservation;
mod developer;
mod error;
mod event;
mod router;
mod settlement;

pub use conservation::{Accounts, VaultImbalance};
pub use error::VaultError;
pub use event::Event;
pub use settlement::{Claim, DebitProof};

use crate::fees::{FeeSchedule, Split};
use std::collections::BTreeMap;
use stoa_types::{Address, Digest, NetworkProfile, TokenAmount};

/// The most that the vault accepts to hold.
pub const MAX_HELD: TokenAmount = TokenAmount::from_units(u64::MAX as u128);
/// How far ahead an allotment may expire, in seconds.
pub const MAX_ALLOTMENT: u64 = 30 * 86_400;
/// The most receipts in a batch.
pub const MAX_JOBS: u32 = 10_000;
/// A chain head is stored after every so many posts (DECISIONS 21).
pub const CHECKPOINT_EVERY: u64 = 64;
/// Bound of the router's share, and of the three protocol shares together, in basis points.
pub const MAX_FEE_BPS: u32 = 500;

/// What a vault is built with. Nothing of it ever changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VaultParams {
    /// Seconds from posting a payout root until it is claimable.
    pub window: u64,
    /// Seconds from `revoke` until an allotment expires.
    pub notice: u64,
    /// Seconds from expiry until an allotment can be released.
    pub settle_delay: u64,
    /// Smallest claim.
    pub claim_min: TokenAmount,
    /// Fee version 1.
    pub fees: FeeSchedule,
    /// Receiver of the treasury's share.
    pub treasury: Address,
    /// Receiver of the validators' share.
    pub validators_pool: Address,
    /// Receiver of the buyback share.
    pub buyback: Address,
}

impl VaultParams {
    /// The profile's numbers with three receivers: treasury, validator pool, buyback pot.
    pub fn from_profile(profile: &NetworkProfile, receivers: [Address; 3]) -> Self {
        let [treasury, validators_pool, buyback] = receivers;
        Self {
            window: profile.settlement.window_seconds,
            notice: profile.settlement.notice_seconds,
            settle_delay: profile.settlement.settle_delay_seconds,
            claim_min: profile.settlement.claim_min,
            fees: FeeSchedule::from(&profile.fees),
            treasury,
            validators_pool,
            buyback,
        }
    }
}

/// One generation of a developer's allotment to a router.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allotment {
    /// Most that can be debited.
    pub cap: TokenAmount,
    /// Booked debits.
    pub debited: TokenAmount,
    /// What went back at the release.
    pub released: TokenAmount,
    /// When it ends, in seconds.
    pub expiry: u64,
    /// Not released yet.
    pub live: bool,
}

/// A payout root that waits for its window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PendingRoot {
    /// Payout root.
    pub pay_root: Digest,
    /// Lifetime gross that it names.
    pub gross: TokenAmount,
    /// When it was posted, in seconds.
    pub at: u64,
}

/// All of one router.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouterTotals {
    /// Number of posts.
    pub posts: u64,
    /// Head of the job chain.
    pub chain_head: Digest,
    /// Heads after every [`CHECKPOINT_EVERY`] posts, by posts / [`CHECKPOINT_EVERY`].
    pub checkpoints: BTreeMap<u64, Digest>,
    /// Payout root in its window.
    pub pending: Option<PendingRoot>,
    /// Claimable payout root and its gross; zero until the first.
    pub claimable: (Digest, TokenAmount),
    /// Ever allotted.
    pub cap_total: TokenAmount,
    /// Ever released.
    pub released_total: TokenAmount,
    /// Ever debited.
    pub debited_total: TokenAmount,
    /// Ever claimed, fees included.
    pub claimed_gross: TokenAmount,
    /// Fee shares not collected yet.
    pub fee_owed: TokenAmount,
}

impl Default for RouterTotals {
    fn default() -> Self {
        Self {
            posts: 0,
            chain_head: Digest::ZERO,
            checkpoints: BTreeMap::new(),
            pending: None,
            claimable: (Digest::ZERO, TokenAmount::ZERO),
            cap_total: TokenAmount::ZERO,
            released_total: TokenAmount::ZERO,
            debited_total: TokenAmount::ZERO,
            claimed_gross: TokenAmount::ZERO,
            fee_owed: TokenAmount::ZERO,
        }
    }
}

/// Shares of the protocol not collected yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ProtocolOwed {
    /// Treasury.
    pub treasury: TokenAmount,
    /// Validator pool.
    pub validators: TokenAmount,
    /// Buyback pot.
    pub buyback: TokenAmount,
}

/// What the provider registry says of a provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Payee {
    /// Where its money goes.
    pub payee: Address,
    /// It takes no new jobs; its last claim may be small.
    pub leaving: bool,
}

/// Which allotment: developer, router, generation.
pub(crate) type AllotmentKey = (Address, Address, u32);
/// Which payout leaf: router, provider, fee version.
pub(crate) type LeafKey = (Address, Address, u16);

/// The vault. See the module's page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vault {
    params: VaultParams,
    admin: Address,
    verdict: Address,
    balance: TokenAmount,
    deposited: TokenAmount,
    paid_out: TokenAmount,
    free: BTreeMap<Address, TokenAmount>,
    allotments: BTreeMap<AllotmentKey, Allotment>,
    routers: BTreeMap<Address, RouterTotals>,
    claimed: BTreeMap<LeafKey, TokenAmount>,
    owed: BTreeMap<Address, TokenAmount>,
    protocol: ProtocolOwed,
    fees: BTreeMap<u16, FeeSchedule>,
    registry: BTreeMap<Address, Payee>,
}

impl Vault {
    /// An empty vault.
    pub fn new(params: VaultParams, admin: Address) -> Result<Self, VaultError> {
        let receivers = [params.treasury, params.validators_pool, params.buyback];
        if receivers.contains(&Address::ZERO) {
            return Err(VaultError::ZeroAddress);
        }
        let fees = params.fees;
        let mut vault = Self {
            params,
            admin,
            verdict: Address::ZERO,
            balance: TokenAmount::ZERO,
            deposited: TokenAmount::ZERO,
            paid_out: TokenAmount::ZERO,
            free: BTreeMap::new(),
            allotments: BTreeMap::new(),
            routers: BTreeMap::new(),
            claimed: BTreeMap::new(),
            owed: BTreeMap::new(),
            protocol: ProtocolOwed::default(),
            fees: BTreeMap::new(),
            registry: BTreeMap::new(),
        };
        vault.insert_fees(fees)?;
        Ok(vault)
    }

    // ---- views

    /// Parameters.
    pub fn params(&self) -> &VaultParams {
        &self.params
    }

    /// Tokens that the vault holds.
    pub fn balance(&self) -> TokenAmount {
        self.balance
    }

    /// Deposited and bound to nothing.
    pub fn free(&self, developer: Address) -> TokenAmount {
        self.free.get(&developer).copied().unwrap_or_default()
    }

    /// The newest generation of an allotment.
    pub fn allotment(&self, developer: Address, router: Address) -> Option<(u32, &Allotment)> {
        self.allotments
            .range((developer, router, 0)..=(developer, router, u32::MAX))
            .next_back()
            .map(|((_, _, generation), allotment)| (*generation, allotment))
    }

    /// All generations of all allotments: developer, router, generation.
    pub fn allotments(&self) -> impl Iterator<Item = (&(Address, Address, u32), &Allotment)> {
        self.allotments.iter()
    }

    /// A router's totals; all zero for one that never acted.
    pub fn totals(&self, router: Address) -> RouterTotals {
        self.routers.get(&router).cloned().unwrap_or_default()
    }

    /// All routers.
    pub fn routers(&self) -> impl Iterator<Item = (Address, &RouterTotals)> {
        self.routers
            .iter()
            .map(|(router, totals)| (*router, totals))
    }

    /// Lifetime gross that has been claimed of a leaf.
    pub fn claimed(&self, router: Address, provider: Address, fee_version: u16) -> TokenAmount {
        let claimed = self.claimed.get(&(router, provider, fee_version));
        claimed.copied().unwrap_or_default()
    }

    /// What `collect` would pay for an account: its shares as provider and as router.
    pub fn owed(&self, who: Address) -> TokenAmount {
        let provider = self.owed.get(&who).copied().unwrap_or_default();
        let router = self.routers.get(&who).map(|totals| totals.fee_owed);
        provider
            .checked_add(router.unwrap_or_default())
            .expect("shares are part of the balance, which is below 2^64")
    }

    /// What `collectProtocol` would pay.
    pub fn owed_protocol(&self) -> ProtocolOwed {
        self.protocol
    }

    /// The newest fee version.
    pub fn latest_fee_version(&self) -> u16 {
        self.fees
            .last_key_value()
            .map_or(0, |(version, _)| *version)
    }

    /// Shares of a fee version.
    pub fn fee_schedule(&self, version: u16) -> Option<FeeSchedule> {
        self.fees.get(&version).copied()
    }

    // ---- what the contract reads from others

    /// The provider registry's record of a provider, as the vault sees it from now on.
    pub fn set_payee(&mut self, provider: Address, payee: Payee) {
        self.registry.insert(provider, payee);
    }

    fn payee_of(&self, provider: Address) -> Option<Address> {
        self.registry.get(&provider).map(|record| record.payee)
    }

    fn is_leaving(&self, provider: Address) -> bool {
        self.registry
            .get(&provider)
            .is_some_and(|record| record.leaving)
    }

    fn router_mut(&mut self, router: Address) -> &mut RouterTotals {
        self.routers.entry(router).or_default()
    }
}

fn plus(a: TokenAmount, b: TokenAmount) -> Result<TokenAmount, VaultError> {
    a.checked_add(b).ok_or(VaultError::TooLarge)
}

fn minus(a: TokenAmount, b: TokenAmount) -> Result<TokenAmount, VaultError> {
    a.checked_sub(b).ok_or(VaultError::TooLarge)
}

impl ProtocolOwed {
    fn plus(self, parts: &Split) -> Result<Self, VaultError> {
        Ok(Self {
            treasury: plus(self.treasury, parts.treasury)?,
            validators: plus(self.validators, parts.validators)?,
            buyback: plus(self.buyback, parts.buyback)?,
        })
    }
}
