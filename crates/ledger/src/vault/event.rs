//! The contract's events, by the contract's names.

use crate::fees::FeeSchedule;
use stoa_types::{Address, Digest, TokenAmount};

/// What a call did.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)] // the fields are those of the contract's events
pub enum Event {
    /// `payer` added to the free balance of `developer`.
    Deposited {
        developer: Address,
        payer: Address,
        amount: TokenAmount,
    },
    /// `developer` took tokens home.
    Withdrawn {
        developer: Address,
        amount: TokenAmount,
    },
    /// A new allotment.
    Allotted {
        developer: Address,
        router: Address,
        generation: u32,
        cap: TokenAmount,
        expiry: u64,
    },
    /// Cap and expiry from now on.
    ToppedUp {
        developer: Address,
        router: Address,
        generation: u32,
        cap: TokenAmount,
        expiry: u64,
    },
    /// It ends at `expiry`.
    Revoked {
        developer: Address,
        router: Address,
        generation: u32,
        expiry: u64,
    },
    /// The rest went back; the generation is closed.
    Released {
        developer: Address,
        router: Address,
        generation: u32,
        released: TokenAmount,
    },
    /// Post number `index`, from 1.
    BatchPosted {
        router: Address,
        index: u64,
        job_root: Digest,
        job_count: u32,
        pay_root: Digest,
        gross: TokenAmount,
        content_id: Digest,
        chain_head: Digest,
    },
    /// A payout root became claimable.
    Promoted {
        router: Address,
        pay_root: Digest,
        gross: TokenAmount,
    },
    /// A pending payout root was cancelled.
    PendingVoided {
        router: Address,
        pay_root: Digest,
        gross: TokenAmount,
    },
    /// The booked debit from now on.
    DebitSynced {
        router: Address,
        developer: Address,
        generation: u32,
        lifetime_debit: TokenAmount,
    },
    /// A claim of `gross`, of which `net` is owed to the provider.
    Claimed {
        router: Address,
        provider: Address,
        fee_version: u16,
        lifetime_claimed: TokenAmount,
        gross: TokenAmount,
        net: TokenAmount,
    },
    /// What `who` was owed went to `to`.
    Collected {
        who: Address,
        to: Address,
        amount: TokenAmount,
    },
    /// The pools got what they were owed.
    ProtocolCollected {
        treasury: TokenAmount,
        validators: TokenAmount,
        buyback: TokenAmount,
    },
    /// Leaves may name this version from now on.
    FeeVersionAdded { version: u16, schedule: FeeSchedule },
    /// Only `verdict` may void.
    VerdictSet { verdict: Address },
    /// `admin` holds the role.
    AdminSet { admin: Address },
}
