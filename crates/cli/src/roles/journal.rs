//! The router's journal on a disk: entries go in with their numbers, and come back as inputs when they are durable.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use stoa_crypto::Domain;
use stoa_ledger::book::{Entry, RouterBook};
use stoa_store::{
    AppendError, Disk, GroupCommit, Journal, JournalOptions, LockError, NewRecord, OpenError,
    Position, RealDisk, Recovery,
};
use stoa_types::Address;

/// Kind and version of the journal's records: one entry of the router's book each.
const ENTRY_KIND: u16 = 1;
const ENTRY_RECORD_VERSION: u16 = 1;

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
    /// A record is whole but not of this program's making.
    #[error(
        "journal record {sequence} is not an entry of a router's book: {reason}; it was written by another program or version"
    )]
    Foreign {
        /// Which.
        sequence: u64,
        /// Why.
        reason: String,
    },
    /// The entries contradict each other.
    #[error(
        "journal record {sequence} contradicts those before it: {reason}; keep the folder and report this"
    )]
    Contradiction {
        /// Which.
        sequence: u64,
        /// Why.
        reason: String,
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
    group: GroupCommit<D>,
    tell: Tell,
    /// Entries that must be written but found no room: they keep their order, and reservations behind them are refused.
    backlog: Mutex<VecDeque<(u64, Vec<u8>)>>,
}

/// What a journal held when it was opened.
pub struct Recovered {
    /// The books.
    pub book: RouterBook,
    /// Entries read.
    pub entries: usize,
    /// What was repaired, in words for the log.
    pub repaired: Option<String>,
}

/// A journal that was read and takes no entries yet.
pub struct OpenJournal<D: Disk = RealDisk>(Journal<D>);

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
    let (journal, recovery) = Journal::open(disk, options)?;
    Ok((OpenJournal(journal), rebuild(recovery, domain, router)?))
}

impl<D: Disk> RouterJournal<D> {
    /// Starts the writer; what becomes of each entry goes to `tell`.
    pub fn start(opened: OpenJournal<D>, tell: Tell) -> std::io::Result<Self> {
        Ok(Self {
            group: GroupCommit::start(opened.0)?,
            tell,
            backlog: Mutex::default(),
        })
    }

    /// Writes an entry; what becomes of it is told later. Only reservations may be refused: everything else waits for room.
    pub fn write(&self, sequence: u64, entry: &Entry) {
        let payload = entry.encode();
        let mut backlog = self.backlog.lock().unwrap_or_else(PoisonError::into_inner);
        let refusable = matches!(entry, Entry::Reserved { .. });
        if backlog.is_empty() {
            match self.submit(sequence, &payload) {
                Ok(()) => return,
                Err(AppendError::Failed(failure) | AppendError::Poisoned(failure)) => {
                    return (self.tell)(Written::Fatal(failure.to_string()));
                }
                Err(error) if refusable => {
                    return (self.tell)(Written::Refused {
                        sequence,
                        reason: error.to_string(),
                    });
                }
                Err(error) => tracing::warn!(sequence, %error, "journal entry waits for room"),
            }
        } else if refusable {
            let reason = "the journal has no room; free some disk space".to_owned();
            return (self.tell)(Written::Refused { sequence, reason });
        }
        backlog.push_back((sequence, payload));
    }

    /// Tries again what found no room. Call it every now and then.
    pub fn retry(&self) {
        let mut backlog = self.backlog.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some((sequence, payload)) = backlog.front() {
            match self.submit(*sequence, payload) {
                Ok(()) => drop(backlog.pop_front()),
                Err(AppendError::Failed(failure) | AppendError::Poisoned(failure)) => {
                    return (self.tell)(Written::Fatal(failure.to_string()));
                }
                Err(_) => return,
            }
        }
    }

    fn submit(&self, sequence: u64, payload: &[u8]) -> Result<(), AppendError> {
        let tell = self.tell.clone();
        let done = move |result: Result<Position, AppendError>| match result {
            Ok(_) => tell(Written::Durable(sequence)),
            Err(error) => tell(Written::Fatal(error.to_string())),
        };
        let record = NewRecord {
            kind: ENTRY_KIND,
            version: ENTRY_RECORD_VERSION,
            payload,
        };
        self.group.submit(&[record], Box::new(done)).map(drop)
    }
}

fn rebuild(recovery: Recovery, domain: Domain, router: Address) -> Result<Recovered, JournalError> {
    let mut book = RouterBook::new(domain, router);
    for record in recovery.records.iter() {
        let sequence = record.sequence.0;
        let foreign = |reason: String| JournalError::Foreign { sequence, reason };
        if (record.kind, record.version) != (ENTRY_KIND, ENTRY_RECORD_VERSION) {
            return Err(foreign(format!(
                "kind {} version {}",
                record.kind, record.version
            )));
        }
        let entry = Entry::decode(record.payload).map_err(|error| foreign(error.to_string()))?;
        book.apply(&entry)
            .map_err(|error| JournalError::Contradiction {
                sequence,
                reason: error.to_string(),
            })?;
    }
    let repaired = recovery.repaired.map(|tail| {
        format!(
            "{} bytes at {} of {} cut ({})",
            tail.bytes, tail.offset, tail.file, tail.what
        )
    });
    Ok(Recovered {
        book,
        entries: recovery.records.len(),
        repaired,
    })
}

#[cfg(test)]
mod tests;
