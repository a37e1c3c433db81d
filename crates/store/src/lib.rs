//! Write-ahead journal with adaptive group commit: what it acknowledges survives kill -9, power cuts and, where it can be
//! noticed, a lying disk.
//!
//! - [`Journal`] is the core: one batch of opaque, versioned records after the other, each durable before the call returns.
//!   It has no thread and no clock, and all it does to the outside goes through the [`Disk`] trait.
//! - [`GroupCommit`] puts a writer thread on top: while one batch is being synced the next fills; its size follows the load.
//! - [`RealDisk`] is a folder; [`faulty::FaultyDisk`] is a simulated disk that fails at any call.
//!
//! # What holds
//!
//! 1. Nobody is told that a record is durable before the sync of its batch has returned.
//! 2. A batch is written only after the one before was synced. So a whole batch header behind a damaged batch proves that
//!    acknowledged records are damaged, and the journal refuses to open; a damaged batch with nothing whole behind it, above the
//!    watermark, is the torn tail of a crash, and is cut.
//! 3. After a failed write or sync the journal takes nothing more. The failed batch is written anew at the next start, into a new
//!    file, because the system may show pages that never reached the disk.
//! 4. Segments have their full size before they are used: a full disk refuses appends before they are accepted.
//! 5. Old segments go only after the snapshot that replaces them was read back; the snapshot before and its segments stay.
//!
//! # What remains
//!
//! A power cut that loses the newest watermark *and* damages the last acknowledged batch cannot be told from a torn tail.
//! Deleting the whole folder cannot be told from a first start. A mirrored journal closes both.

mod disk;
mod error;
pub mod faulty;
mod format;
mod group;
mod journal;
mod real;
mod recover;
mod scan;
mod segment;
mod snapshot;
#[cfg(test)]
mod tests;
mod watermark;

pub use disk::{Disk, DiskFile, LockError};
pub use error::{AppendError, Failure, OpenError, SnapshotError};
pub use format::{FORMAT_VERSION, Hash, NewRecord, Position, Record, Sequence};
pub use group::{Done, GroupCommit, GroupStats};
pub use journal::{Appended, BATCH_RECORDS_MAX, Journal, JournalOptions};
pub use real::{RealDisk, RealFile, RealLock};
pub use recover::{Finding, Recovery, TornTail};
pub use scan::Records;
pub use snapshot::{Snapshot, SnapshotTaken, Snapshots};
