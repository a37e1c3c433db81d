//! What the journal asks of a disk: one flat folder of files.
//!
//! Everything the journal does to the outside goes through these two traits, so that a test can fail or cut the power at any call.

use std::io;

/// One folder that a journal owns alone. Clones speak of the same folder.
pub trait Disk: Clone + Send + 'static {
    /// An open file.
    type File: DiskFile;
    /// Held while a journal is open; dropping it unlocks the folder.
    type Lock: Send;

    /// Takes the folder for this process alone, or says who holds it.
    fn lock(&self) -> Result<Self::Lock, LockError>;
    /// The name of a file as a person would type it, for messages.
    fn describe(&self, name: &str) -> String;
    /// Names of all files in the folder, in no special order.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Creates a file, or empties the one of that name.
    fn create(&self, name: &str) -> io::Result<Self::File>;
    /// Opens an existing file for writing.
    fn open(&self, name: &str) -> io::Result<Self::File>;
    /// The whole content of a file.
    fn read(&self, name: &str) -> io::Result<Vec<u8>>;
    /// The first `bytes` of a file, or all of it where it is shorter.
    fn read_head(&self, name: &str, bytes: usize) -> io::Result<Vec<u8>>;
    /// Size of a file in bytes.
    fn size(&self, name: &str) -> io::Result<u64>;
    /// Gives a file another name and replaces what had that name.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Deletes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes creations, renames and deletions durable.
    fn sync_dir(&self) -> io::Result<()>;
    /// Sixteen bytes that no other journal has.
    fn fresh_id(&self) -> [u8; 16];
}

/// One open file of a [`Disk`].
pub trait DiskFile: Send {
    /// Writes all bytes at the offset. After an error any part of them may have been written.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Fills the file with zeros up to `bytes`, so that later writes below that need no new space.
    fn allocate(&mut self, bytes: u64) -> io::Result<()>;
    /// Returns when all that was written is durable. After an error nothing is known about it.
    fn sync(&mut self) -> io::Result<()>;
}

/// Why a folder could not be taken. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has the folder open.
    #[error("data folder {folder} is locked by process {}; stop that process or choose another folder", holder(.pid))]
    Held {
        /// The folder.
        folder: String,
        /// The process that holds it, where it left its number.
        pid: Option<u32>,
    },
    /// The lock file itself could not be used.
    #[error("data folder {folder} cannot be locked: {source}")]
    Io {
        /// The folder.
        folder: String,
        /// What the system said.
        source: io::Error,
    },
}

fn holder(pid: &Option<u32>) -> String {
    pid.map_or_else(|| "unknown".to_owned(), |pid| pid.to_string())
}
