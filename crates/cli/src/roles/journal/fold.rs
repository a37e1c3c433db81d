//! What the journal's records come to: the book of one router.

use stoa_crypto::Domain;
use stoa_ledger::book::{BookError, ENTRY_VERSION, Entry, Imbalance, RestoreError, RouterBook};
use stoa_ledger::wire::{Wire, WireError};
use stoa_store::{Record, Recovery};
use stoa_types::Address;

/// One entry of the book.
pub(super) const ENTRY_KIND: u16 = 1;
/// Whose journal it is; the first record.
pub(super) const OWNER_KIND: u16 = 2;
/// Version of both.
pub(super) const RECORD_VERSION: u16 = 1;
/// Version of the state in a snapshot.
const STATE_VERSION: u8 = 1;

/// The router that a journal belongs to, and the vault that it works on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// Chain and vault.
    pub domain: Domain,
    /// The router's account.
    pub router: Address,
}

impl Owner {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = self.domain.to_wire();
        self.router.write(&mut bytes);
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let (domain, router) = bytes.split_at_checked(28).unwrap_or((bytes, &[]));
        Ok(Self {
            domain: Domain::from_wire(domain)?,
            router: Address::from_wire(router)?,
        })
    }
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Domain { chain_id, vault } = self.domain;
        write!(
            f,
            "router {} on chain {chain_id}, vault {vault}",
            self.router
        )
    }
}

/// Why a whole, undamaged record or snapshot was not taken.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// Of another making.
    #[error(
        "is not of a router's book ({0}). No record was changed; choose the router's own data folder with --data"
    )]
    Foreign(String),
    /// Of a later version.
    #[error(
        "has version {found}, and this program reads versions up to {known}. No record was changed; start the newer program that wrote it"
    )]
    Newer {
        /// Its version.
        found: u16,
        /// The newest version that is read.
        known: u16,
    },
    /// It does not follow from what stands before it.
    #[error(
        "contradicts what stands before it ({0}). No record was changed; keep the folder and report this"
    )]
    Contradiction(#[from] BookError),
    /// The sums of a snapshot do not agree.
    #[error("does not balance ({0}). No record was changed; keep the folder and report this")]
    Imbalance(#[from] Imbalance),
    /// The journal of another router, or of the same one on another chain.
    #[error(
        "says that this is the journal of {found}, but the program runs as {expected}. No record was changed; \
         choose that router's own data folder with --data, or start from nothing with --fresh"
    )]
    Another {
        /// Whose it is.
        found: Owner,
        /// Who wanted to use it.
        expected: Owner,
    },
}

impl From<WireError> for Unusable {
    fn from(error: WireError) -> Self {
        Self::Foreign(error.to_string())
    }
}

impl From<RestoreError> for Unusable {
    fn from(error: RestoreError) -> Self {
        match error {
            RestoreError::Malformed(error) => error.into(),
            RestoreError::Inconsistent(imbalance) => imbalance.into(),
        }
    }
}

/// The book after some records.
#[derive(Debug)]
pub(super) struct Fold {
    pub(super) owner: Owner,
    pub(super) book: RouterBook,
    /// Entries that the book is made of.
    pub(super) entries: u64,
    /// Whether the journal says whose it is.
    pub(super) signed: bool,
}

impl Fold {
    /// Before the first record.
    pub(super) fn new(owner: Owner) -> Self {
        Self {
            owner,
            book: RouterBook::new(owner.domain, owner.router),
            entries: 0,
            signed: false,
        }
    }

    /// The state of a snapshot.
    pub(super) fn restore(owner: Owner, state: &[u8]) -> Result<Self, Unusable> {
        let (head, book) = state
            .split_at_checked(9)
            .ok_or_else(|| Unusable::Foreign("it is too short".to_owned()))?;
        if head[0] > STATE_VERSION {
            return Err(newer(head[0].into(), STATE_VERSION.into()));
        }
        let entries = u64::from_wire(&head[1..])?;
        let book = RouterBook::restore(book)?;
        let found = Owner {
            domain: book.domain(),
            router: book.router(),
        };
        same(found, owner)?;
        Ok(Self {
            owner,
            book,
            entries,
            signed: true,
        })
    }

    /// What a snapshot of this state holds. A book that does not balance is not written down.
    pub(super) fn state(&self) -> Result<Vec<u8>, Imbalance> {
        self.book.check_conservation()?;
        let mut state = vec![STATE_VERSION];
        self.entries.write(&mut state);
        state.append(&mut self.book.snapshot());
        Ok(state)
    }

    /// Takes the next record of the journal.
    pub(super) fn record(&mut self, record: &Record<'_>) -> Result<(), Unusable> {
        if record.version > RECORD_VERSION {
            return Err(newer(record.version, RECORD_VERSION));
        }
        match record.kind {
            ENTRY_KIND => self.entry(record.payload),
            OWNER_KIND => {
                self.signed = true;
                same(Owner::decode(record.payload)?, self.owner)
            }
            other => Err(Unusable::Foreign(format!("it is of kind {other}"))),
        }
    }

    /// Takes the next entry.
    pub(super) fn entry(&mut self, payload: &[u8]) -> Result<(), Unusable> {
        if let Some(version) = payload.first().filter(|version| **version > ENTRY_VERSION) {
            return Err(newer((*version).into(), ENTRY_VERSION.into()));
        }
        self.book.apply(&Entry::decode(payload)?)?;
        self.entries += 1;
        Ok(())
    }
}

/// The record or snapshot that was not taken, and why.
pub(super) type Misfit = (String, Box<Unusable>);

/// The book that the newest snapshot and the records behind it come to, and how many entries are behind it.
pub(super) fn rebuild(recovery: &Recovery, owner: Owner) -> Result<(Fold, u64), Misfit> {
    let mut fold = match &recovery.snapshot {
        Some(snapshot) => Fold::restore(owner, &snapshot.state).map_err(|why| {
            let covers = snapshot.covers.sequence;
            (format!("the snapshot of record {covers}"), why.into())
        })?,
        None => Fold::new(owner),
    };
    let saved = fold.entries;
    for record in recovery.records.iter() {
        fold.record(&record)
            .map_err(|why| (format!("record {}", record.sequence), why.into()))?;
    }
    let unsaved = fold.entries - saved;
    Ok((fold, unsaved))
}

fn newer(found: u16, known: u16) -> Unusable {
    Unusable::Newer { found, known }
}

fn same(found: Owner, expected: Owner) -> Result<(), Unusable> {
    if found == expected {
        return Ok(());
    }
    Err(Unusable::Another { found, expected })
}
