//! What can go wrong, with what to do and what was left as it was.

use std::io;

use crate::disk::LockError;
use crate::format::FORMAT_VERSION;

/// A call to the disk that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{operation} {file} failed: {cause}")]
pub struct Failure {
    /// What was being done.
    pub operation: &'static str,
    /// The file, as the disk describes it.
    pub file: String,
    /// What the system said.
    pub cause: String,
    /// Its kind.
    pub kind: io::ErrorKind,
}

impl Failure {
    pub(crate) fn new(operation: &'static str, file: String, error: &io::Error) -> Self {
        Self {
            operation,
            file,
            cause: error.to_string(),
            kind: error.kind(),
        }
    }

    /// Whether the disk, or this user's part of it, is full.
    pub fn is_full(&self) -> bool {
        matches!(
            self.kind,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        )
    }
}

/// Why a journal was not opened. The files were left as they were, unless the text says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process, or another journal of this one, holds the folder.
    #[error(transparent)]
    Locked(#[from] LockError),
    /// A call to the disk failed while the journal was read or made ready. Opening again is safe.
    #[error("{0}; opening again is safe once the cause is gone")]
    Disk(Failure),
    /// Bytes that were durable are not what was written.
    #[error(
        "{file} is damaged at byte {offset}: {what}. Records that may have been acknowledged are affected, so nothing was cut and \
         nothing was changed. Put back a copy of the whole folder, or move the folder away and start from the chain"
    )]
    Damaged {
        /// The file.
        file: String,
        /// Where the first wrong byte may be.
        offset: u64,
        /// What is wrong.
        what: String,
    },
    /// The journal ends before the last batch that is known to have been acknowledged.
    #[error(
        "{file} ends with {found}, but {acknowledged} was acknowledged ({witness} says so): durable records are missing. \
         Nothing was changed. Put back a copy of the whole folder"
    )]
    TooShort {
        /// The last segment.
        file: String,
        /// The last batch or record that is there and whole.
        found: String,
        /// The batch or record that should be there.
        acknowledged: String,
        /// The file that knows of it.
        witness: String,
    },
    /// Files that belong together are not all there.
    #[error("{file} is missing: {why}. Nothing was changed. Put back a copy of the whole folder")]
    Missing {
        /// The file.
        file: String,
        /// How its absence was noticed.
        why: String,
    },
    /// The folder was written by a version of the program that this one cannot read.
    #[error(
        "{file} has format version {found}; this program reads versions {} to {FORMAT_VERSION}. Nothing was changed. Use a newer program",
        oldest_readable()
    )]
    Version {
        /// The file.
        file: String,
        /// Its version.
        found: u16,
    },
    /// The options make no sense together.
    #[error("journal options: {0}")]
    Options(String),
}

pub(crate) fn oldest_readable() -> u16 {
    FORMAT_VERSION.saturating_sub(1).max(1)
}

/// Why records were not appended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// A write or sync failed under these records. They may or may not be found at the next start; nobody may be told that they are durable.
    #[error(
        "{0}; whether these records are durable is unknown until the journal is opened again, and the journal takes no more"
    )]
    Failed(Failure),
    /// An earlier write or sync failed. These records were not written.
    #[error(
        "the journal stopped when {0}; these records were not written; end the process and start it again"
    )]
    Poisoned(Failure),
    /// There is no room for the next segment. These records were not written; appends are taken again when there is space.
    #[error(
        "the disk is full ({cause}); these records were not written; free at least {needed_bytes} bytes, appends are then taken again"
    )]
    DiskFull {
        /// What the system said.
        cause: Failure,
        /// Size of a segment.
        needed_bytes: u64,
    },
    /// Too much is waiting for the disk, or the next segment is still being prepared. These records were not written; try again later.
    #[error(
        "{waiting_bytes} bytes are waiting for the disk; these records were not written; try again later"
    )]
    Busy {
        /// Bytes accepted and not yet durable.
        waiting_bytes: u64,
    },
    /// The records do not fit into one batch. They were not written.
    #[error(
        "{bytes} bytes in {records} records do not fit into one batch of at most {max_bytes} bytes and {max_records} records; nothing was written"
    )]
    TooLarge {
        /// Encoded size.
        bytes: u64,
        /// Number of records.
        records: usize,
        /// Limit of a batch.
        max_bytes: u64,
        /// Limit of a batch.
        max_records: usize,
    },
    /// No record was given.
    #[error("no record to append")]
    Empty,
    /// The journal was closed. These records were not written.
    #[error("the journal is closed; these records were not written")]
    Closed,
}

/// Why a snapshot was not taken. The journal and the older snapshots are as they were.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The state covers records that are not durable yet.
    #[error(
        "the snapshot covers record {covers}, but only {durable} are durable; no snapshot was written"
    )]
    NotDurable {
        /// Last record in the state.
        covers: u64,
        /// Last durable record.
        durable: u64,
    },
    /// A snapshot of this record or a later one exists.
    #[error("a snapshot up to record {newest} exists; one up to {covers} was not written")]
    NotNewer {
        /// Last record in the state.
        covers: u64,
        /// Last record of the newest snapshot.
        newest: u64,
    },
    /// A call to the disk failed.
    #[error("{0}; the journal and the older snapshots are as they were")]
    Disk(Failure),
    /// What was read back is not what was written.
    #[error(
        "{file} does not read back as it was written ({what}); the journal and the older snapshots are as they were"
    )]
    NotVerified {
        /// The file.
        file: String,
        /// What is wrong.
        what: String,
    },
}
