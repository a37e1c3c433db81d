//! What the book remembers, and its snapshot.

use super::batch::BatchRecord;
use super::{Entry, ReleaseCause, RestoreError};
use crate::wire::{Reader, Wire, WireError, unknown, wire_struct};
use std::collections::{BTreeMap, VecDeque};
use stoa_crypto::Domain;
use stoa_types::{Address, Digest, JobId, SignedReceipt, Timestamp, TokenAmount};

const SNAPSHOT_VERSION: u8 = 3;
/// Jobs that ended without a charge of which the book still knows how: the newest. Whoever looks longer finds nothing, as for a job that
/// never was; job ids are drawn at random and not used again.
pub(crate) const RELEASED_KEPT: usize = 10_000;

/// One generation of an account's allotment to this router.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllotmentState {
    /// Cap on chain.
    pub cap: TokenAmount,
    /// Debited on chain.
    pub debited: TokenAmount,
    /// No ticket counts after this.
    pub expiry: Timestamp,
    /// Fee version of new tickets.
    pub fee_version: u16,
    /// Open reserves.
    pub held: TokenAmount,
    /// Lifetime charges; `charged - debited` is unsettled.
    pub charged: TokenAmount,
    /// The part of the lifetime charges that is in sealed batches.
    pub sealed: TokenAmount,
    /// The vault released it.
    pub released: bool,
}

wire_struct!(AllotmentState {
    cap,
    debited,
    expiry,
    fee_version,
    held,
    charged,
    sealed,
    released,
});

impl AllotmentState {
    /// What a new reservation may take.
    pub fn available(&self) -> TokenAmount {
        let used = self.charged.checked_add(self.held);
        used.and_then(|used| self.cap.checked_sub(used))
            .unwrap_or(TokenAmount::ZERO)
    }
}

/// What is held for one job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    /// Who pays.
    pub account: Address,
    /// From which generation.
    pub generation: u32,
    /// How much.
    pub amount: TokenAmount,
    /// Deadline of the ticket.
    pub until: Timestamp,
    /// Fee version of the ticket: a change of fees never alters it.
    pub fee_version: u16,
}

wire_struct!(Reservation {
    account,
    generation,
    amount,
    until,
    fee_version,
});

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ended {
    /// With a receipt.
    Charged(ChargedJob),
    /// Without.
    Released(ReleaseCause),
}

/// A job with its one leaf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ChargedJob {
    /// Number of the leaf, over all batches from 0.
    pub number: u64,
    /// Leaf hash.
    pub leaf: Digest,
    /// Generation that pays.
    pub generation: u32,
    /// The receipt.
    pub receipt: Box<SignedReceipt>,
}

wire_struct!(ChargedJob {
    number,
    leaf,
    generation,
    receipt,
});

impl Wire for Ended {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Charged(job) => {
                out.push(0);
                job.write(out);
            }
            Self::Released(cause) => {
                out.push(1);
                cause.write(out);
            }
        }
    }
    fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        match u8::read(reader)? {
            0 => ChargedJob::read(reader).map(Self::Charged),
            1 => ReleaseCause::read(reader).map(Self::Released),
            other => Err(unknown("end of a job", other)),
        }
    }
}

pub(crate) type AllotmentKey = (Address, u32);
pub(crate) type PayoutKey = (Address, u16);

/// The ledger of one router on one vault. See the module's page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouterBook {
    pub(crate) domain: Domain,
    pub(crate) router: Address,
    /// Live generation of each account.
    pub(crate) live: BTreeMap<Address, u32>,
    pub(crate) allotments: BTreeMap<AllotmentKey, AllotmentState>,
    pub(crate) open: BTreeMap<JobId, Reservation>,
    pub(crate) ended: BTreeMap<JobId, Ended>,
    /// The released ones among them in the order of their release: at most [`RELEASED_KEPT`].
    pub(crate) released: VecDeque<JobId>,
    /// Charged jobs in the order of their leaves.
    pub(crate) leaves: Vec<JobId>,
    /// Lifetime gross of each provider and fee version, all charges.
    pub(crate) gross: BTreeMap<PayoutKey, TokenAmount>,
    /// The part of it in sealed batches.
    pub(crate) sealed_gross: BTreeMap<PayoutKey, TokenAmount>,
    /// Batch number `i` is element `i - 1`.
    pub(crate) batches: Vec<BatchRecord>,
    /// Batches whose payout roots wait, oldest first.
    pub(crate) outstanding: Vec<u64>,
    /// Batch whose payout root is claimable.
    pub(crate) claimable: Option<u64>,
    /// Jobs that a verdict reversed, and whether their charges have left the totals.
    pub(crate) reversed: BTreeMap<JobId, bool>,
}

wire_struct!(RouterBook {
    domain,
    router,
    live,
    allotments,
    open,
    ended,
    leaves,
    gross,
    sealed_gross,
    batches,
    outstanding,
    claimable,
    released,
    reversed,
});

impl Wire for Domain {
    fn write(&self, out: &mut Vec<u8>) {
        self.chain_id.write(out);
        self.vault.write(out);
    }
    fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self {
            chain_id: u64::read(reader)?,
            vault: Address::read(reader)?,
        })
    }
}

impl RouterBook {
    /// An empty book of `router` on the vault and chain of `domain`.
    pub fn new(domain: Domain, router: Address) -> Self {
        Self {
            domain,
            router,
            live: BTreeMap::new(),
            allotments: BTreeMap::new(),
            open: BTreeMap::new(),
            ended: BTreeMap::new(),
            released: VecDeque::new(),
            leaves: Vec::new(),
            gross: BTreeMap::new(),
            sealed_gross: BTreeMap::new(),
            batches: Vec::new(),
            outstanding: Vec::new(),
            claimable: None,
            reversed: BTreeMap::new(),
        }
    }

    /// The book after `entries`, in order; stops at the first that does not follow.
    pub fn replay<'a>(
        mut self,
        entries: impl IntoIterator<Item = &'a Entry>,
    ) -> Result<Self, super::BookError> {
        for entry in entries {
            self.apply(entry)?;
        }
        Ok(self)
    }

    /// Lets go of the oldest jobs that cost nothing: failed calls must not fill book and snapshots for ever.
    pub(crate) fn forget_released(&mut self) {
        while self.released.len() > RELEASED_KEPT {
            if let Some(job) = self.released.pop_front() {
                self.ended.remove(&job);
            }
        }
    }

    /// The whole book as bytes, version first.
    pub fn snapshot(&self) -> Vec<u8> {
        let mut out = vec![SNAPSHOT_VERSION];
        self.write(&mut out);
        out
    }

    /// The inverse of [`RouterBook::snapshot`]; a snapshot whose sums do not agree is refused.
    pub fn restore(bytes: &[u8]) -> Result<Self, RestoreError> {
        let (version, rest) = bytes.split_first().ok_or(WireError::Truncated { at: 0 })?;
        let mut rest = rest.to_vec();
        match *version {
            SNAPSHOT_VERSION => {}
            // Without reversals, which are the last field.
            2 => BTreeMap::<JobId, bool>::new().write(&mut rest),
            // Also without the order of the releases, the field before.
            1 => {
                VecDeque::<JobId>::new().write(&mut rest);
                BTreeMap::<JobId, bool>::new().write(&mut rest);
            }
            other => return Err(unknown("known version of snapshots", other).into()),
        }
        let mut reader = Reader::new(&rest);
        let mut book = Self::read(&mut reader)?;
        reader.finish()?;
        if *version == 1 {
            let released =
                |(job, end): (&JobId, &Ended)| matches!(end, Ended::Released(_)).then_some(*job);
            book.released = book.ended.iter().filter_map(released).collect();
            book.forget_released();
        }
        book.check_conservation()?;
        Ok(book)
    }
}
