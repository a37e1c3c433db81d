//! What the router's journal holds. One entry is one change of the ledger; the order of entries is the truth.

use crate::wire::{Reader, Wire, WireError, unknown, wire_struct};
use stoa_types::{Address, Digest, JobId, JobState, SignedReceipt, Timestamp, TokenAmount};

/// Version byte of every encoded entry.
pub const ENTRY_VERSION: u8 = 1;

/// Why a reservation ended without a charge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ReleaseCause {
    /// No provider took the job, or all failed.
    NoProvider,
    /// The client went away before anything was delivered.
    Cancelled,
    /// The provider failed, or its answer was invalid.
    ProviderFailed,
    /// Accepted, but not delivered by the deadline.
    TimedOut,
    /// Found open after a restart; the router no longer works on it.
    Restarted,
}

impl ReleaseCause {
    const ALL: [Self; 5] = [
        Self::NoProvider,
        Self::Cancelled,
        Self::ProviderFailed,
        Self::TimedOut,
        Self::Restarted,
    ];

    /// The terminal state that it gives the job.
    pub const fn state(self) -> JobState {
        match self {
            Self::TimedOut => JobState::TimedOut,
            _ => JobState::Refunded,
        }
    }
}

impl Wire for ReleaseCause {
    fn write(&self, out: &mut Vec<u8>) {
        let code = match self {
            Self::NoProvider => 0u8,
            Self::Cancelled => 1,
            Self::ProviderFailed => 2,
            Self::TimedOut => 3,
            Self::Restarted => 4,
        };
        code.write(out);
    }
    fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let code = u8::read(reader)?;
        let cause = Self::ALL.get(usize::from(code)).copied();
        cause.ok_or(unknown("cause of a release", code))
    }
}

/// A sealed batch: what will be posted. All of it follows from the entries before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedBatch {
    /// Number of the post, from 1, as the vault counts.
    pub index: u64,
    /// Number of the first leaf, counted over all batches from 0.
    pub first: u64,
    /// How many leaves.
    pub job_count: u32,
    /// Root over the receipts' leaves.
    pub job_root: Digest,
    /// Root over providers' lifetime gross; zero without a payout root.
    pub provider_root: Digest,
    /// Root over developers' lifetime debits; zero without a payout root.
    pub debit_root: Digest,
    /// `keccak256(abi.encode(provider_root, debit_root))`; zero when the batch posts its job root alone.
    pub pay_root: Digest,
    /// Lifetime gross under the payout root; zero without one.
    pub gross: TokenAmount,
    /// BLAKE3 of the leaf file.
    pub content_id: Digest,
    /// When it was sealed.
    pub sealed_at: Timestamp,
}

wire_struct!(SealedBatch {
    index,
    first,
    job_count,
    job_root,
    provider_root,
    debit_root,
    pay_root,
    gross,
    content_id,
    sealed_at,
});

/// One change of the router's ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// The vault holds this allotment to the router. Written when it is first seen and whenever cap, expiry or fee version changed.
    /// A higher generation closes the one before.
    AllotmentSeen {
        /// Whose money.
        account: Address,
        /// Generation, from 1.
        generation: u32,
        /// Cap.
        cap: TokenAmount,
        /// Debited on chain.
        debited: TokenAmount,
        /// No ticket counts after this.
        expiry: Timestamp,
        /// Fee version of tickets issued from now on.
        fee_version: u16,
    },
    /// The vault released the generation: nothing can be debited from it any more.
    AllotmentClosed {
        /// Whose money.
        account: Address,
        /// Generation.
        generation: u32,
    },
    /// The most that a job can cost is held.
    Reserved {
        /// The job.
        job: JobId,
        /// Who pays.
        account: Address,
        /// From which generation.
        generation: u32,
        /// How much.
        amount: TokenAmount,
        /// Deadline of the ticket; before the allotment's expiry.
        until: Timestamp,
    },
    /// The most that each of several jobs of one request can cost is held: for all of them or, where this is not written, for none.
    ReservedTogether {
        /// The jobs.
        jobs: Vec<JobId>,
        /// Who pays.
        account: Address,
        /// From which generation.
        generation: u32,
        /// How much for each.
        amount: TokenAmount,
        /// Deadline of the tickets; before the allotment's expiry.
        until: Timestamp,
    },
    /// A fail-over needs another amount or a later deadline for the same job.
    ReserveChanged {
        /// The job.
        job: JobId,
        /// How much now.
        amount: TokenAmount,
        /// Deadline of the new ticket.
        until: Timestamp,
    },
    /// The whole reserve is free again; the job is over and costs nothing.
    Released {
        /// The job.
        job: JobId,
        /// Why.
        cause: ReleaseCause,
    },
    /// A receipt with both signatures: closes the reservation, frees the overage, and adds one leaf.
    Charged {
        /// The receipt.
        receipt: Box<SignedReceipt>,
    },
    /// The oldest leaves became a batch.
    BatchSealed(SealedBatch),
    /// The vault holds the batch.
    BatchPosted {
        /// Number of the post.
        index: u64,
        /// Head of the router's job chain after it, from the vault's event.
        chain_head: Digest,
        /// Block.
        block: u64,
        /// Time of the block.
        at: Timestamp,
    },
    /// The oldest outstanding payout root became claimable.
    PayoutPromoted {
        /// Which.
        pay_root: Digest,
        /// Its lifetime gross.
        gross: TokenAmount,
    },
    /// An outstanding payout root was cancelled, or could not be posted; its jobs stay and enter the next one.
    PayoutVoided {
        /// Which.
        pay_root: Digest,
    },
    /// The vault holds a payout root whose batch was to be posted without it: it got there before the cancelling was known.
    PayoutStands {
        /// Which.
        pay_root: Digest,
    },
    /// The vault booked debits of an allotment.
    DebitsSynced {
        /// Whose money.
        account: Address,
        /// Generation.
        generation: u32,
        /// Debited on chain now.
        debited: TokenAmount,
    },
    /// The router takes over debits that came too late for a released generation, into an allotment of its own.
    LateDebitsAbsorbed {
        /// Whose debits.
        account: Address,
        /// The released generation.
        generation: u32,
        /// How much.
        amount: TokenAmount,
        /// Generation of the router's allotment to itself.
        router_generation: u32,
    },
    /// A verdict said that the account does not owe this job. Its charge counts until it is taken back.
    JobReversed {
        /// Which.
        job: JobId,
    },
    /// The charge of a reversed job left all lifetime totals. Its receipt and leaf stay: they are what was posted.
    ChargeTakenBack {
        /// Which.
        job: JobId,
    },
}

/// Entries whose fields are all plain: kind number, name, fields.
macro_rules! plain_entries {
    ($($kind:literal => $name:ident { $($field:ident),* }),* $(,)?) => {
        fn write_plain(entry: &Entry, out: &mut Vec<u8>) {
            match entry {
                $(Entry::$name { $($field),* } => {
                    out.push($kind);
                    $($field.write(out);)*
                })*
                Entry::BatchSealed(batch) => {
                    out.push(SEALED_KIND);
                    batch.write(out);
                }
            }
        }
        fn read_plain(kind: u8, reader: &mut Reader<'_>) -> Result<Entry, WireError> {
            match kind {
                $($kind => {
                    $(let $field = Wire::read(reader)?;)*
                    Ok(Entry::$name { $($field),* })
                })*
                SEALED_KIND => SealedBatch::read(reader).map(Entry::BatchSealed),
                other => Err(unknown("kind of journal entry", other)),
            }
        }
    };
}

const SEALED_KIND: u8 = 7;
plain_entries! {
    1 => AllotmentSeen { account, generation, cap, debited, expiry, fee_version },
    2 => AllotmentClosed { account, generation },
    3 => Reserved { job, account, generation, amount, until },
    4 => ReserveChanged { job, amount, until },
    5 => Released { job, cause },
    6 => Charged { receipt },
    8 => BatchPosted { index, chain_head, block, at },
    9 => PayoutPromoted { pay_root, gross },
    10 => PayoutVoided { pay_root },
    11 => DebitsSynced { account, generation, debited },
    12 => LateDebitsAbsorbed { account, generation, amount, router_generation },
    13 => PayoutStands { pay_root },
    14 => JobReversed { job },
    15 => ChargeTakenBack { job },
    16 => ReservedTogether { jobs, account, generation, amount, until },
}

impl Entry {
    /// Whether it holds money for work that is not ordered yet: a journal without room may refuse it, and then it never was.
    pub fn is_reservation(&self) -> bool {
        matches!(self, Self::Reserved { .. } | Self::ReservedTogether { .. })
    }

    /// Version, kind, fields.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![ENTRY_VERSION];
        write_plain(self, &mut out);
        out
    }

    /// The inverse of [`Entry::encode`]; the whole of `bytes` must be one entry of a known version.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(bytes);
        let version = u8::read(&mut reader)?;
        if version != ENTRY_VERSION {
            return Err(unknown("known version of journal entries", version));
        }
        let kind = u8::read(&mut reader)?;
        let entry = read_plain(kind, &mut reader)?;
        reader.finish()?;
        Ok(entry)
    }
}
