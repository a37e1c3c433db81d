//! The file behind a batch: whoever holds the files of a router can rebuild its roots and claim without it (DECISIONS 13).

use super::batch::PayoutSet;
use super::state::RouterBook;
use crate::wire::{Reader, Wire, WireError, unknown, wire_struct};
use stoa_types::{Address, Digest, SignedReceipt};

const LEAF_FILE_VERSION: u8 = 1;

/// All leaves of one batch, and those of its payout root when it has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeafFile {
    /// Whose batch.
    pub router: Address,
    /// Number of the post, from 1.
    pub index: u64,
    /// Number of the first leaf, over all batches from 0.
    pub first: u64,
    /// Receipts in the order of the job tree, each with the generation of the allotment that pays.
    pub leaves: Vec<(SignedReceipt, u32)>,
    /// Leaves of the payout root.
    pub payout: Option<PayoutSet>,
}

wire_struct!(LeafFile {
    router,
    index,
    first,
    leaves,
    payout,
});

impl LeafFile {
    /// The file, version first.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![LEAF_FILE_VERSION];
        self.write(&mut out);
        out
    }

    /// The inverse of [`LeafFile::encode`].
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(bytes);
        let version = u8::read(&mut reader)?;
        if version != LEAF_FILE_VERSION {
            return Err(unknown("known version of leaf files", version));
        }
        let file = Self::read(&mut reader)?;
        reader.finish()?;
        Ok(file)
    }

    /// BLAKE3 of the file, as posted.
    pub fn content_id(&self) -> Digest {
        Self::id_of(&self.encode())
    }

    /// The same of bytes that may be a file: what is not the file that was posted need not be read.
    pub fn id_of(bytes: &[u8]) -> Digest {
        Digest(*blake3::hash(bytes).as_bytes())
    }
}

impl RouterBook {
    /// The leaf file of a sealed batch.
    pub fn leaf_file(&self, index: u64) -> Option<LeafFile> {
        let batch = self.batch(index)?;
        let jobs = self.leaf_range(batch.sealed.first, batch.sealed.job_count)?;
        Some(LeafFile {
            router: self.router,
            index,
            first: batch.sealed.first,
            leaves: jobs
                .iter()
                .map(|job| ((*job.receipt).clone(), job.generation))
                .collect(),
            payout: batch.payout.clone(),
        })
    }
}
