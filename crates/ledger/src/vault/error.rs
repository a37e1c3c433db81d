//! The contract's errors, by the contract's names.

use crate::fees::FeeError;
use stoa_types::{Address, Digest, TokenAmount};

/// Why a call failed. It changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // each field is named in its sentence
pub enum VaultError {
    /// The amount is zero.
    #[error("the amount is zero")]
    ZeroAmount,
    /// An address that must be set is zero.
    #[error("an address that must be set is zero")]
    ZeroAddress,
    /// The caller does not hold the role that this call needs.
    #[error("{caller} does not hold the role that this call needs")]
    NotAllowed { caller: Address },
    /// The vault would hold too much.
    #[error("the vault would hold {balance}, more than {max}")]
    VaultFull {
        balance: TokenAmount,
        max: TokenAmount,
    },
    /// Too little is unbound.
    #[error("{developer} has {free} free, less than {wanted}")]
    InsufficientFree {
        developer: Address,
        free: TokenAmount,
        wanted: TokenAmount,
    },
    /// A generation is not released yet.
    #[error("generation {generation} of the allotment of {developer} to {router} is not released")]
    AllotmentLive {
        developer: Address,
        router: Address,
        generation: u32,
    },
    /// None is live.
    #[error("{developer} has no live allotment to {router}")]
    NoAllotment { developer: Address, router: Address },
    /// It is over.
    #[error("the allotment expired at {expiry}")]
    AllotmentExpired { expiry: u64 },
    /// Out of range.
    #[error("expiry {expiry} is not within {earliest} to {latest}")]
    BadExpiry {
        expiry: u64,
        earliest: u64,
        latest: u64,
    },
    /// Too early.
    #[error("the rest of the allotment returns at {releasable_at}")]
    NotReleasable { releasable_at: u64 },
    /// Out of range.
    #[error("a batch holds {count} receipts; allowed are 1 to {max}")]
    BadJobCount { count: u32, max: u32 },
    /// The slot is taken, or its window is not over.
    #[error("a payout root of {router} waits until {promotable_at}")]
    PayRootPending { router: Address, promotable_at: u64 },
    /// The slot is empty.
    #[error("no payout root of {router} waits")]
    NothingPending { router: Address },
    /// A lifetime total went back.
    #[error("the lifetime gross fell from {claimable} to {gross}")]
    GrossFell {
        gross: TokenAmount,
        claimable: TokenAmount,
    },
    /// More than was allotted.
    #[error("the lifetime gross {gross} exceeds {covered}, which is allotted and not released")]
    Insolvent {
        gross: TokenAmount,
        covered: TokenAmount,
    },
    /// Another payout root is claimable.
    #[error("{pay_root} is not the claimable payout root of {router}")]
    NotClaimable { router: Address, pay_root: Digest },
    /// The proof does not lead to the root.
    #[error("the proof does not lead from {leaf} to the root")]
    BadProof { leaf: Digest },
    /// Not the live generation.
    #[error("{developer}: generation {generation} is not the live one, {live} (0: none lives)")]
    WrongGeneration {
        developer: Address,
        generation: u32,
        live: u32,
    },
    /// A lifetime total went back.
    #[error("{developer}: the lifetime debit fell from {booked} to {lifetime_debit}")]
    DebitFell {
        developer: Address,
        lifetime_debit: TokenAmount,
        booked: TokenAmount,
    },
    /// The hard cap.
    #[error("{developer}: the lifetime debit {lifetime_debit} exceeds the cap {cap}")]
    CapExceeded {
        developer: Address,
        lifetime_debit: TokenAmount,
        cap: TokenAmount,
    },
    /// It never registered.
    #[error("{provider} has never registered")]
    UnknownProvider { provider: Address },
    /// Too little to claim.
    #[error(
        "the claim would pay {amount}, less than {min}: too little is left, or its debits are not booked"
    )]
    BelowMinimum {
        amount: TokenAmount,
        min: TokenAmount,
    },
    /// There is none.
    #[error("there is no fee version {version}")]
    UnknownFeeVersion { version: u16 },
    /// Above the bounds.
    #[error("shares of {router_bps} and {protocol_bps} basis points are above their bound")]
    FeeTooHigh { router_bps: u32, protocol_bps: u32 },
    /// Nothing to pay.
    #[error("nothing is owed to {who}")]
    NothingOwed { who: Address },
    /// A sum left its type: the contract panics.
    #[error("an amount does not fit its type")]
    TooLarge,
    /// A rounding rule failed: the contract panics.
    #[error(transparent)]
    Fee(#[from] FeeError),
}
