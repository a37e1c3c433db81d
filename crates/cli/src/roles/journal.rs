//! The router's journal on a disk: entries go in with their numbers, and come back as inputs when they are durable.
//!
//! A thread beside folds the durable entries into a book of its own and writes it down as a snapshot now and then, so that a start
//! reads the newest snapshot and the entries behind it. That book is the fold of what the journal kept and of nothing else: the
//! router's own is ahead of the disk, and remembers reservations that the journal refused. The router's loop never waits for it.

mod fold;
mod snapshots;

use fold::{ENTRY_KIND, OWNER_KIND, RECORD_VERSION};
use snapshots::Keeper;
use std::collections::VecDeque;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use stoa_crypto::Domain;
use stoa_ledger::book::{Entry, RouterBook};
use stoa_store::{
    AppendError, Disk, GroupCommit, Journal, JournalOptions, LockError, NewRecord, OpenError,
    Position, RealDisk, Recovery,
};
use stoa_types::Address;

pub use fold::{Owner, Unusable};

/// Entries between two snapshots, while the book is small.
const ENTRIES_PER_SNAPSHOT: u64 = 50_000;

/// Why the journal cannot be used. No record was changed.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The folder is in use, or what it holds is damaged or of another version.
    #[error(transparent)]
    Open(OpenError),
    /// The folder itself cannot be used.
    #[error("the journal's folder {folder} cannot be used: {source}; {}. No record was changed", advice(source.kind()))]
    Folder {
        /// Which.
        folder: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// What the journal holds is undamaged and of no use here.
    #[error("{what} in {folder} {why}")]
    Content {
        /// The record or snapshot.
        what: String,
        /// The journal's folder.
        folder: String,
        /// Why it is of no use.
        why: Box<Unusable>,
    },
}

impl From<OpenError> for JournalError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Locked(LockError::Io { folder, source }) => Self::Folder { folder, source },
            other => Self::Open(other),
        }
    }
}

/// What a person does about a folder that the system refuses.
fn advice(refused: ErrorKind) -> &'static str {
    match refused {
        ErrorKind::PermissionDenied => {
            "let this user read and write it, or choose another data folder with --data"
        }
        ErrorKind::NotADirectory | ErrorKind::AlreadyExists => {
            "something that is no folder stands in its place: move that away, or choose another data folder with --data"
        }
        ErrorKind::ReadOnlyFilesystem => {
            "mount the file system writable, or choose another data folder with --data"
        }
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "free some disk space and start again",
        _ => "check the disk and start again",
    }
}

/// What became of an entry.
#[derive(Debug)]
pub enum Written {
    /// It is on disk.
    Durable(u64),
    /// It was not written and leaves no trace.
    Refused {
        /// Its number.
        sequence: u64,
        /// Why.
        reason: String,
    },
    /// The disk failed: what is durable is unknown until the next start.
    Fatal(String),
}

/// Called on the journal's thread, or at once for a refusal.
pub type Tell = Arc<dyn Fn(Written) + Send + Sync>;

/// The open journal of one router.
pub struct RouterJournal<D: Disk = RealDisk> {
    /// Goes before the journal closes: it writes into the same folder.
    keeper: Keeper,
    group: GroupCommit<D>,
    tell: Tell,
    /// Entries that must be written but found no room: they keep their order, and reservations behind them are refused.
    backlog: Mutex<VecDeque<(u64, Arc<[u8]>)>>,
}

/// What a journal held when it was opened.
pub struct Recovered {
    /// The books.
    pub book: RouterBook,
    /// Entries that they are made of.
    pub entries: usize,
    /// What was repaired, in words for the log.
    pub repaired: Option<String>,
}

/// A journal that was read and takes no entries yet.
pub struct OpenJournal<D: Disk = RealDisk> {
    journal: Journal<D>,
    owner: Owner,
    /// Whether the journal says whose it is.
    signed: bool,
    /// What was read: the thread of the snapshots makes its own book of it.
    recovery: Recovery,
}

/// Opens the folder and rebuilds the books.
pub fn open(
    folder: &Path,
    domain: Domain,
    router: Address,
) -> Result<(OpenJournal, Recovered), JournalError> {
    let disk = RealDisk::open(folder).map_err(|source| JournalError::Folder {
        folder: folder.display().to_string(),
        source,
    })?;
    open_on(disk, JournalOptions::default(), domain, router)
}

/// Opens the folder of any disk.
fn open_on<D: Disk>(
    disk: D,
    options: JournalOptions,
    domain: Domain,
    router: Address,
) -> Result<(OpenJournal<D>, Recovered), JournalError> {
    let folder = disk.describe("").trim_end_matches('/').to_owned();
    let (journal, recovery) = Journal::open(disk, options)?;
    report(&recovery);
    let owner = Owner { domain, router };
    let (fold, _) = fold::rebuild(&recovery, owner)
        .map_err(|(what, why)| JournalError::Content { what, folder, why })?;
    let opened = OpenJournal {
        journal,
        owner,
        signed: fold.signed,
        recovery,
    };
    let recovered = Recovered {
        entries: usize::try_from(fold.entries).unwrap_or(usize::MAX),
        book: fold.book,
        repaired: opened.recovery.repaired.as_ref().map(|tail| {
            format!(
                "{} bytes at {} of {} cut ({})",
                tail.bytes, tail.offset, tail.file, tail.what
            )
        }),
    };
    Ok((opened, recovered))
}

impl<D: Disk> OpenJournal<D> {
    /// The journal with a record that says whose it is.
    fn signed(mut self) -> Result<Self, AppendError> {
        if !self.signed {
            let owner = NewRecord {
                kind: OWNER_KIND,
                version: RECORD_VERSION,
                payload: &self.owner.encode(),
            };
            self.journal.append_batch(&[owner])?;
            self.signed = true;
        }
        Ok(self)
    }
}

impl<D: Disk> RouterJournal<D> {
    /// Starts the writer; what becomes of each entry goes to `tell`.
    pub fn start(opened: OpenJournal<D>, tell: Tell) -> std::io::Result<Self> {
        Self::start_with(opened, tell, ENTRIES_PER_SNAPSHOT)
    }

    fn start_with(opened: OpenJournal<D>, tell: Tell, every: u64) -> std::io::Result<Self> {
        let opened = opened.signed().map_err(std::io::Error::other)?;
        Ok(Self {
            keeper: Keeper::start(&opened.journal, opened.owner, opened.recovery, every)?,
            group: GroupCommit::start(opened.journal)?,
            tell,
            backlog: Mutex::default(),
        })
    }

    /// Writes an entry; what becomes of it is told later. Only reservations may be refused: everything else waits for room.
    pub fn write(&self, sequence: u64, entry: &Entry) {
        let payload: Arc<[u8]> = entry.encode().into();
        let mut backlog = self.backlog.lock().unwrap_or_else(PoisonError::into_inner);
        let refusable = entry.is_reservation();
        if backlog.is_empty() {
            match self.submit(sequence, &payload) {
                Ok(()) => return,
                Err(AppendError::Failed(failure) | AppendError::Poisoned(failure)) => {
                    return (self.tell)(Written::Fatal(failure.to_string()));
                }
                Err(error) if refusable => {
                    metrics::counter!("stoa_router_journal_refused_total").increment(1);
                    return (self.tell)(Written::Refused {
                        sequence,
                        reason: error.to_string(),
                    });
                }
                Err(error) => tracing::warn!(sequence, %error, "journal entry waits for room"),
            }
        } else if refusable {
            metrics::counter!("stoa_router_journal_refused_total").increment(1);
            let reason = "the journal has no room; free some disk space".to_owned();
            return (self.tell)(Written::Refused { sequence, reason });
        }
        backlog.push_back((sequence, payload));
        show_waiting(backlog.len());
    }

    /// Tries again what found no room. Call it every now and then.
    pub fn retry(&self) {
        let mut backlog = self.backlog.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some((sequence, payload)) = backlog.front() {
            match self.submit(*sequence, payload) {
                Ok(()) => {
                    backlog.pop_front();
                    show_waiting(backlog.len());
                }
                Err(AppendError::Failed(failure) | AppendError::Poisoned(failure)) => {
                    return (self.tell)(Written::Fatal(failure.to_string()));
                }
                Err(_) => return,
            }
        }
    }

    fn submit(&self, sequence: u64, payload: &Arc<[u8]>) -> Result<(), AppendError> {
        let (tell, durable, kept) = (self.tell.clone(), self.keeper.durable(), payload.clone());
        let began = Instant::now();
        let done = move |result: Result<Position, AppendError>| match result {
            Ok(position) => {
                metrics::histogram!("stoa_router_journal_seconds").record(began.elapsed());
                tell(Written::Durable(sequence));
                durable.tell(position, kept);
            }
            Err(error) => tell(Written::Fatal(error.to_string())),
        };
        let record = NewRecord {
            kind: ENTRY_KIND,
            version: RECORD_VERSION,
            payload,
        };
        self.group.submit(&[record], Box::new(done)).map(drop)
    }
}

fn show_waiting(entries: usize) {
    metrics::gauge!("stoa_router_journal_waiting").set(entries as f64);
}

/// Says in the log what was not as written and did no harm.
fn report(recovery: &Recovery) {
    for finding in &recovery.findings {
        tracing::warn!(
            ?finding,
            "the router's journal is not quite as it was written; nothing is lost"
        );
    }
    if let Some(snapshot) = &recovery.snapshot {
        let (covers, behind) = (snapshot.covers.sequence, recovery.records.len());
        tracing::info!(%covers, behind, "the router's book starts from a snapshot");
    }
}

#[cfg(test)]
mod tests;
