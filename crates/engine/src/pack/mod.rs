//! Packs: a whole model in one file, in the form in which it is computed with; those of a store are mapped into memory rather than read.
//!
//! ```text
//! 0        64 bytes: "STOAPACK", version (4), zeros (4), offset and length of the header (8 each), BLAKE3 of the header (32)
//! 64       segments, each at a multiple of 64 bytes, zeros between them: the tokenizer's JSON, the chat template, every tensor
//!          of a matrix all elements in kernel order, then all scales (2 bytes each); of a norm 2 bytes, of a bias 4 bytes a number
//! header   JSON: semantics, model root, name, shape, and of every segment where it lies, its length and its BLAKE3
//! ```
//!
//! Numbers are little-endian. The BLAKE3 of the header is the pack's [`Pack::digest`] and its name: every byte of the file follows
//! from it, through the hashes in the header and the rule that segments lie one after another. A tensor is described by its
//! [`Role`] alone, so that what an architecture adds is packed without a new version of the format.

mod read;
mod write;

pub use read::Pack;
pub(crate) use read::memory_estimate;
pub use write::{Packed, write};

use crate::config::Config;
use crate::import::{Kind, Loss, Role};
use crate::packed::PackedMatrix;
use crate::tokenizer::TokenizerSource;
use serde::{Deserialize, Serialize};
use std::io::Read;
use std::path::Path;
use stoa_types::Digest;

/// First bytes of every pack.
const MAGIC: &[u8; 8] = b"STOAPACK";
/// Version of the format.
const VERSION: u32 = 1;
/// Bytes before the first segment, and what segments' offsets are multiples of.
const ALIGNMENT: u64 = 64;
/// Longest header that is read.
const HEADER_LIMIT: u64 = 64 << 20;

/// What a pack holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    semantics: String,
    root: Digest,
    name: String,
    config: Config,
    parameters: u64,
    losses: Vec<Loss>,
    tokenizer: TokenizerSource,
    tokenizer_json: Segment,
    template: Option<Segment>,
    tensors: Vec<PlacedTensor>,
}

/// A tensor in a pack.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PlacedTensor {
    role: Role,
    rows: usize,
    columns: usize,
    /// 0 for biases.
    exponent: i32,
    segment: Segment,
}

/// Bytes of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Segment {
    offset: u64,
    bytes: u64,
    blake3: Digest,
}

impl Segment {
    /// Where the next one begins; `None` when that is no number.
    fn next(&self) -> Option<u64> {
        let end = self.offset.checked_add(self.bytes)?;
        end.checked_next_multiple_of(ALIGNMENT)
    }
}

impl Header {
    /// All segments, in the order in which they lie.
    fn segments(&self) -> impl Iterator<Item = &Segment> {
        let texts = std::iter::once(&self.tokenizer_json).chain(&self.template);
        texts.chain(self.tensors.iter().map(|t| &t.segment))
    }
}

/// Bytes of a tensor's segment.
fn tensor_bytes(kind: Kind, rows: u64, columns: u64) -> u64 {
    match kind {
        Kind::Matrix => PackedMatrix::bytes_for(rows, columns),
        Kind::Norm => rows.saturating_mul(columns).saturating_mul(2),
        Kind::Bias => rows.saturating_mul(columns).saturating_mul(4),
    }
}

fn blake3_of(bytes: &[u8]) -> Digest {
    Digest(*blake3::hash(bytes).as_bytes())
}

/// Whether the file begins as a pack does.
pub fn is_pack(path: &Path) -> bool {
    let mut first = [0; 8];
    let read = std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut first));
    read.is_ok() && first == *MAGIC
}
