//! Why the book refuses.

use crate::fees::FeeError;
use crate::wire::WireError;
use stoa_types::{Address, Digest, JobId, Timestamp, TokenAmount};

/// Why an entry was refused. The book is unchanged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BookError {
    /// The account has allotted nothing to this router.
    #[error("{account} has no allotment to this router; deposit and allot first")]
    NoAllotment {
        /// Whose money.
        account: Address,
    },
    /// Another generation than the live one.
    #[error("{account}: generation {found} is not the live one, which is {live}")]
    WrongGeneration {
        /// Whose money.
        account: Address,
        /// Named.
        found: u32,
        /// Live.
        live: u32,
    },
    /// The vault has released it.
    #[error("{account}: generation {generation} is released; nothing can be drawn from it")]
    AllotmentReleased {
        /// Whose money.
        account: Address,
        /// Generation.
        generation: u32,
    },
    /// The ticket would outlive the allotment.
    #[error("the ticket would end at {until:?}, the allotment ends at {expiry:?}; renew it")]
    Expired {
        /// End of the ticket.
        until: Timestamp,
        /// End of the allotment.
        expiry: Timestamp,
    },
    /// The cap does not cover it.
    #[error("{needed} is needed but only {available} of the allotment is free")]
    OverCap {
        /// Needed.
        needed: TokenAmount,
        /// Free.
        available: TokenAmount,
    },
    /// A fact of the chain contradicts an earlier one.
    #[error(
        "{account}: the chain's {what} went back; the node at the other end is stale or another chain"
    )]
    ChainWentBack {
        /// Whose money.
        account: Address,
        /// Which value.
        what: &'static str,
    },
    /// The chain booked debits that this book never charged.
    #[error(
        "{account}: {debited} is debited on chain but the book charged only {charged}; it is not this router's whole journal"
    )]
    DebitedBeyondBook {
        /// Whose money.
        account: Address,
        /// On chain.
        debited: TokenAmount,
        /// In the book.
        charged: TokenAmount,
    },
    /// The job has a reservation.
    #[error("job {job} is reserved already")]
    AlreadyReserved {
        /// Which.
        job: JobId,
    },
    /// The job has its one leaf.
    #[error("job {job} is charged already; a job has one leaf")]
    AlreadyCharged {
        /// Which.
        job: JobId,
    },
    /// The job ended without a charge.
    #[error("job {job} is released already")]
    AlreadyReleased {
        /// Which.
        job: JobId,
    },
    /// Nothing is held for the job.
    #[error("job {job} has no reservation")]
    NotReserved {
        /// Which.
        job: JobId,
    },
    /// The receipt is not about this router's job.
    #[error("the receipt of job {job} is not valid here: its {what} differs")]
    ForeignReceipt {
        /// Which.
        job: JobId,
        /// Which field.
        what: &'static str,
    },
    /// The charge is not what the rule gives.
    #[error("job {job}: the charge is {found}, but units and prices give {expected}")]
    WrongCharge {
        /// Which.
        job: JobId,
        /// In the receipt.
        found: TokenAmount,
        /// By rule.
        expected: TokenAmount,
    },
    /// Only what was posted is ruled on.
    #[error("job {job} is in no posted batch, so no verdict can have reversed it")]
    NotPosted {
        /// Which.
        job: JobId,
    },
    /// The verdict was told before.
    #[error("job {job} is reversed already")]
    AlreadyReversed {
        /// Which.
        job: JobId,
    },
    /// It is not reversed, taken back already, or paid by a payout root that stands.
    #[error("the charge of job {job} cannot be taken back: {why}")]
    NotTakenBack {
        /// Which.
        job: JobId,
        /// What stands in the way.
        why: &'static str,
    },
    /// The batch is not the next one, or its roots do not follow from the leaves.
    #[error("batch {index} does not follow from the book: its {what} differs")]
    WrongBatch {
        /// Number of the post.
        index: u64,
        /// Which field.
        what: &'static str,
    },
    /// The batch is on chain already.
    #[error("batch {index} is posted already")]
    AlreadyPosted {
        /// Number of the post.
        index: u64,
    },
    /// The batch is not the next to be posted.
    #[error("batch {index} cannot be posted now: the next is {next}")]
    NotNextPost {
        /// Named.
        index: u64,
        /// Next.
        next: u64,
    },
    /// The chain's head differs from what the posts before give.
    #[error(
        "after batch {index} the chain's head is {found}, the book's {expected}; posts of another journal are on chain"
    )]
    WrongChainHead {
        /// Number of the post.
        index: u64,
        /// On chain.
        found: Digest,
        /// In the book.
        expected: Digest,
    },
    /// No outstanding payout root of that name, or not yet posted, or another gross.
    #[error("{pay_root} is not the next payout root to become claimable")]
    NotPending {
        /// Named.
        pay_root: Digest,
    },
    /// The payout root is claimable already.
    #[error("{pay_root} is claimable already")]
    AlreadyPromoted {
        /// Which.
        pay_root: Digest,
    },
    /// More than can be absorbed.
    #[error("{amount} is more than the {late} of late debits in sealed batches")]
    NothingLate {
        /// Named.
        amount: TokenAmount,
        /// Late.
        late: TokenAmount,
    },
    /// A sum left 128 bits.
    #[error("an amount does not fit 128 bits")]
    TooLarge,
    /// A rounding rule failed.
    #[error(transparent)]
    Fee(#[from] FeeError),
}

/// Why an account cannot pay for a call now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CoverError {
    /// Nothing is allotted to this router.
    #[error("the account has no allotment to this router; deposit and allot first")]
    NoAllotment,
    /// The allotment is over, or ends before a ticket could.
    #[error("the allotment ends too soon for a ticket; renew it")]
    Expired,
}

/// Why a snapshot was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// Not bytes of a snapshot.
    #[error("the snapshot cannot be read: {0}")]
    Malformed(#[from] WireError),
    /// Bytes of a snapshot, but its sums do not agree.
    #[error("the snapshot contradicts itself: {0}")]
    Inconsistent(#[from] Imbalance),
}

/// A sum that does not hold: a fault of this program or damage that escaped the journal's checks. Stop and keep the files.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Imbalance {
    /// More is debited, charged and held than allotted.
    #[error("{account} generation {generation}: {used} is charged or held, above the cap {cap}")]
    AboveCap {
        /// Whose money.
        account: Address,
        /// Generation.
        generation: u32,
        /// Charged and held.
        used: TokenAmount,
        /// Cap.
        cap: TokenAmount,
    },
    /// A stored total is not the sum of its parts.
    #[error("the {what} is not the sum of its parts")]
    Total {
        /// Which.
        what: &'static str,
    },
}
