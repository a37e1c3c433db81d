//! Reading files piece by piece: every length is compared with what is left of the file before memory is taken for it.

use crate::error::ImportError;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// A file with a position and its length.
#[derive(Debug)]
pub struct Reader {
    file: BufReader<File>,
    path: PathBuf,
    length: u64,
    allowed: u64,
    position: u64,
}

impl Reader {
    /// Opens `path`.
    pub fn open(path: &Path) -> Result<Self, ImportError> {
        let failed = |source| ImportError::Read {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        Ok(Self {
            file: BufReader::new(file),
            path: path.to_owned(),
            length,
            allowed: length,
            position: 0,
        })
    }

    /// Bytes of the file.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Where the next read begins.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Bytes after the position that may be read.
    pub fn left(&self) -> u64 {
        self.length.min(self.allowed).saturating_sub(self.position)
    }

    /// Refuses when fewer than `need` bytes are left.
    pub fn expect(&self, what: &str, need: u64) -> Result<(), ImportError> {
        if need <= self.left() {
            return Ok(());
        }
        Err(ImportError::Truncated {
            path: self.path.clone(),
            what: what.to_owned(),
            need,
            have: self.left(),
        })
    }

    /// Treats the file as if it ended after `limit` bytes; a later call may allow more again.
    pub fn limit(&mut self, limit: u64) {
        self.allowed = limit;
    }

    /// The next `count` bytes.
    pub fn bytes(&mut self, what: &str, count: u64) -> Result<Vec<u8>, ImportError> {
        self.expect(what, count)?;
        let mut bytes = vec![0; count as usize];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], ImportError> {
        self.expect(what, N as u64)?;
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    /// Fills `bytes` from the position on.
    pub fn fill(&mut self, bytes: &mut [u8]) -> Result<(), ImportError> {
        self.file
            .read_exact(bytes)
            .map_err(|source| ImportError::Read {
                path: self.path.clone(),
                source,
            })?;
        self.position += bytes.len() as u64;
        Ok(())
    }

    /// Moves to `position`.
    pub fn seek(&mut self, position: u64) -> Result<(), ImportError> {
        self.file
            .seek(SeekFrom::Start(position))
            .map_err(|source| ImportError::Read {
                path: self.path.clone(),
                source,
            })?;
        self.position = position;
        Ok(())
    }

    /// The error that this is no model.
    pub fn not_a_model(&self, reason: impl Into<String>) -> ImportError {
        ImportError::NotAModel {
            path: self.path.clone(),
            reason: reason.into(),
        }
    }
}
