//! Bytes of the journal, all integers little endian.
//!
//! ```text
//! journal-ID.log   one block: segment header; then batches, each from a block boundary; then zeros up to the fixed size
//! batch            header (104 bytes, its last 16 are the previous record's hash), records, zeros up to the block
//! record           length u32, kind u16, version u16, sequence u64, payload, hash (16 bytes)
//! ```
//!
//! Each record's hash covers the 16 bytes in front of it, which are the hash of the record before: the records of a journal form
//! one chain, and the hash of the last one speaks for all. Each batch header names the hash of its last record and of the batch
//! before. Hashes are BLAKE3 keyed by the journal's own id and cut to 16 bytes: bytes of another journal, or a header forged
//! inside a payload, do not pass.
//!
//! A batch starts at a block of its own because a power cut may destroy every sector of the write in flight; a sector shared with
//! the batch before would take acknowledged records with it.

use crate::error::{OpenError, oldest_readable};

/// Version of the files that this program writes. It also reads the version before.
pub const FORMAT_VERSION: u16 = 1;
/// Unit of placement: no sector of a known disk is larger.
pub(crate) const BLOCK: usize = 4096;
pub(crate) const BLOCK_BYTES: u64 = BLOCK as u64;
pub(crate) const RECORD_HEADER: usize = 16;
pub(crate) const HASH: usize = 16;
/// What a record costs besides its payload.
pub(crate) const RECORD_OVERHEAD: usize = RECORD_HEADER + HASH;
pub(crate) const BATCH_HEADER: usize = SEAL + 80;
const SEAL: usize = 8 + HASH;

const SEGMENT_MAGIC: [u8; 8] = *b"stoaSEG\n";
const BATCH_MAGIC: [u8; 8] = *b"stoaBAT\n";
const SLOT_MAGIC: [u8; 8] = *b"stoaMRK\n";
const SNAPSHOT_MAGIC: [u8; 8] = *b"stoaSNP\n";

const SEGMENT_BODY: usize = 90;
const SLOT_BODY: usize = 50;
const SNAPSHOT_BODY: usize = 66;
pub(crate) const SNAPSHOT_HEADER: usize = SEAL + SNAPSHOT_BODY;

/// A BLAKE3 hash cut to 16 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Hash(pub [u8; HASH]);

/// Number of a record in its journal, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Sequence(pub u64);

impl std::fmt::Display for Sequence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// A record and, by the chain of hashes, all before it. Sequence 0 stands for the empty journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The record.
    pub sequence: Sequence,
    /// Its hash.
    pub hash: Hash,
}

/// A record to append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewRecord<'a> {
    /// What the payload is; a number of the caller.
    pub kind: u16,
    /// Version of the payload's encoding.
    pub version: u16,
    /// The bytes.
    pub payload: &'a [u8],
}

impl NewRecord<'_> {
    pub(crate) fn encoded_bytes(&self) -> u64 {
        self.payload.len() as u64 + RECORD_OVERHEAD as u64
    }
}

/// A record read from the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its number.
    pub sequence: Sequence,
    /// What the payload is.
    pub kind: u16,
    /// Version of the payload's encoding.
    pub version: u16,
    /// The bytes.
    pub payload: &'a [u8],
}

/// Rounds up to a whole block.
pub(crate) fn blocks(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK_BYTES) * BLOCK_BYTES
}

/// Whether all bytes are zero.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

/// Hashes for one journal.
#[derive(Debug, Clone)]
pub(crate) struct Sealer {
    pub(crate) id: [u8; 16],
    key: [u8; 32],
}

impl Sealer {
    pub(crate) fn new(id: [u8; 16]) -> Self {
        Self {
            id,
            key: blake3::derive_key("stoa store journal hashes v1", &id),
        }
    }

    pub(crate) fn hash(&self, bytes: &[u8]) -> Hash {
        let mut hash = Hash::default();
        hash.0
            .copy_from_slice(&blake3::keyed_hash(&self.key, bytes).as_bytes()[..HASH]);
        hash
    }

    /// Where the chain of records starts.
    pub(crate) fn genesis(&self) -> Position {
        Position {
            sequence: Sequence(0),
            hash: self.hash(b"before the first record"),
        }
    }

    /// Where the chain of batches starts.
    pub(crate) fn genesis_batch(&self) -> Hash {
        self.hash(b"before the first batch")
    }

    /// Magic, checksum, body. The checksum covers magic and body, so that one kind of header never passes for another.
    fn seal(&self, magic: [u8; 8], body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(SEAL + body.len());
        bytes.extend_from_slice(&magic);
        bytes.extend_from_slice(&self.checksum(magic, body).0);
        bytes.extend_from_slice(body);
        bytes
    }

    fn checksum(&self, magic: [u8; 8], body: &[u8]) -> Hash {
        let mut input = [0; 8 + 96];
        input[..8].copy_from_slice(&magic);
        input[8..8 + body.len()].copy_from_slice(body);
        self.hash(&input[..8 + body.len()])
    }

    fn unseal<'a>(
        &self,
        magic: [u8; 8],
        bytes: &'a [u8],
        body_bytes: usize,
    ) -> Option<(Hash, &'a [u8])> {
        let bytes = bytes.get(..SEAL + body_bytes)?;
        if bytes[..8] != magic {
            return None;
        }
        let (mut stored, body) = (Fields(&bytes[8..SEAL]), &bytes[SEAL..]);
        let stored = stored.hash();
        (stored == self.checksum(magic, body)).then_some((stored, body))
    }
}

/// Cuts integers and hashes from the front of bytes whose length the caller has checked.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (head, rest) = self
            .0
            .split_first_chunk::<N>()
            .expect("the length was checked against the sum of the fields");
        self.0 = rest;
        *head
    }
    fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.take())
    }
    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }
    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }
    fn hash(&mut self) -> Hash {
        Hash(self.take())
    }
}

/// Refuses versions that this program must not try to read.
pub(crate) fn check_version(file: &str, found: u16) -> Result<(), OpenError> {
    if (oldest_readable()..=FORMAT_VERSION).contains(&found) {
        return Ok(());
    }
    Err(OpenError::Version {
        file: file.to_owned(),
        found,
    })
}

/// First block of a segment. Its layout up to the checksum stays the same in all versions, so that any program can tell a version
/// it does not know from damage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) version: u16,
    pub(crate) id: [u8; 16],
    pub(crate) segment: u64,
    pub(crate) bytes: u64,
    /// Last batch before this segment.
    pub(crate) before: Tip,
}

/// Where the chains of batches and records stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tip {
    pub(crate) batch: u64,
    pub(crate) batch_hash: Hash,
    pub(crate) record: Position,
}

impl SegmentHeader {
    pub(crate) fn encode(&self, sealer: &Sealer) -> Vec<u8> {
        let mut body = Vec::with_capacity(SEGMENT_BODY);
        body.extend_from_slice(&self.version.to_le_bytes());
        body.extend_from_slice(&self.id);
        body.extend_from_slice(&self.segment.to_le_bytes());
        body.extend_from_slice(&self.segment.saturating_sub(1).to_le_bytes());
        body.extend_from_slice(&self.bytes.to_le_bytes());
        body.extend_from_slice(&self.before.batch.to_le_bytes());
        body.extend_from_slice(&self.before.batch_hash.0);
        body.extend_from_slice(&self.before.record.sequence.0.to_le_bytes());
        body.extend_from_slice(&self.before.record.hash.0);
        debug_assert_eq!(body.len(), SEGMENT_BODY);
        let mut block = sealer.seal(SEGMENT_MAGIC, &body);
        block.resize(BLOCK, 0);
        block
    }

    /// `None` when the bytes are no whole header.
    pub(crate) fn decode(bytes: &[u8]) -> Option<(Sealer, Self)> {
        let id = bytes.get(SEAL + 2..SEAL + 18)?.try_into().ok()?;
        let sealer = Sealer::new(id);
        let (_, body) = sealer.unseal(SEGMENT_MAGIC, bytes, SEGMENT_BODY)?;
        let mut fields = Fields(body);
        let (version, id, segment) = (fields.u16(), fields.take(), fields.u64());
        if fields.u64() != segment.saturating_sub(1) {
            return None;
        }
        let bytes = fields.u64();
        let (batch, batch_hash) = (fields.u64(), fields.hash());
        let record = Position {
            sequence: Sequence(fields.u64()),
            hash: fields.hash(),
        };
        Some((
            sealer,
            Self {
                version,
                id,
                segment,
                bytes,
                before: Tip {
                    batch,
                    batch_hash,
                    record,
                },
            },
        ))
    }

    /// Bytes of the first block that carry nothing.
    pub(crate) fn padding(block: &[u8]) -> &[u8] {
        block.get(SEAL + SEGMENT_BODY..BLOCK).unwrap_or_default()
    }
}

/// A batch being filled; the header is written when its place is known.
#[derive(Debug, Default)]
pub(crate) struct BatchBuffer {
    bytes: Vec<u8>,
    count: u32,
    first: u64,
}

impl BatchBuffer {
    /// An empty batch behind a record, in a used buffer if there is one.
    pub(crate) fn after(record: Position, mut buffer: Vec<u8>) -> Self {
        buffer.clear();
        buffer.resize(BATCH_HEADER - HASH, 0);
        buffer.extend_from_slice(&record.hash.0);
        Self {
            bytes: buffer,
            count: 0,
            first: record.sequence.0 + 1,
        }
    }

    /// Encodes a record and moves the tip of the chain to it. The caller keeps the batch below 4 GiB.
    pub(crate) fn push(&mut self, sealer: &Sealer, tip: &mut Position, record: &NewRecord<'_>) {
        let chained_from = self.bytes.len() - HASH;
        let length = u32::try_from(record.payload.len()).expect("a batch is smaller than 4 GiB");
        tip.sequence.0 += 1;
        self.bytes.extend_from_slice(&length.to_le_bytes());
        self.bytes.extend_from_slice(&record.kind.to_le_bytes());
        self.bytes.extend_from_slice(&record.version.to_le_bytes());
        self.bytes.extend_from_slice(&tip.sequence.0.to_le_bytes());
        self.bytes.extend_from_slice(record.payload);
        tip.hash = sealer.hash(&self.bytes[chained_from..]);
        self.bytes.extend_from_slice(&tip.hash.0);
        self.count += 1;
    }

    pub(crate) fn count(&self) -> usize {
        self.count as usize
    }

    /// Size without the padding.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Fills in the header and pads to the block. Returns the batch's hash.
    pub(crate) fn seal(
        &mut self,
        sealer: &Sealer,
        batch: u64,
        segment: u64,
        previous: Hash,
    ) -> Hash {
        let length = u32::try_from(self.bytes.len()).expect("a batch is smaller than 4 GiB");
        let body_hash: [u8; HASH] = *self.bytes.last_chunk().expect("a batch has a header");
        let mut header = Vec::with_capacity(BATCH_HEADER);
        header.extend_from_slice(&batch.to_le_bytes());
        header.extend_from_slice(&segment.to_le_bytes());
        header.extend_from_slice(&self.first.to_le_bytes());
        header.extend_from_slice(&length.to_le_bytes());
        header.extend_from_slice(&self.count.to_le_bytes());
        header.extend_from_slice(&previous.0);
        header.extend_from_slice(&body_hash);
        header.extend_from_slice(&self.bytes[BATCH_HEADER - HASH..BATCH_HEADER]);
        let header = sealer.seal(BATCH_MAGIC, &header);
        self.bytes[..BATCH_HEADER].copy_from_slice(&header);
        let padded = usize::try_from(blocks(self.bytes())).expect("a batch is smaller than 4 GiB");
        self.bytes.resize(padded, 0);
        Fields(&header[8..SEAL]).hash()
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.bytes
    }

    /// Gives the memory back for the next batch.
    pub(crate) fn into_buffer(self) -> Vec<u8> {
        self.bytes
    }
}

/// Header of a batch whose own checksum is right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BatchHeader {
    pub(crate) hash: Hash,
    pub(crate) batch: u64,
    pub(crate) segment: u64,
    pub(crate) first: u64,
    pub(crate) length: u32,
    pub(crate) count: u32,
    pub(crate) previous_batch: Hash,
    pub(crate) body: Hash,
    pub(crate) previous_record: Hash,
}

impl BatchHeader {
    /// `None` when the bytes are no whole header.
    pub(crate) fn decode(sealer: &Sealer, bytes: &[u8]) -> Option<Self> {
        let (hash, body) = sealer.unseal(BATCH_MAGIC, bytes, BATCH_HEADER - SEAL)?;
        let mut fields = Fields(body);
        Some(Self {
            hash,
            batch: fields.u64(),
            segment: fields.u64(),
            first: fields.u64(),
            length: fields.u32(),
            count: fields.u32(),
            previous_batch: fields.hash(),
            body: fields.hash(),
            previous_record: fields.hash(),
        })
    }
}

/// Reads one record that starts at `at` and checks its hash. Returns it with its hash and the offset behind it.
pub(crate) fn decode_record<'a>(
    sealer: &Sealer,
    batch: &'a [u8],
    at: usize,
) -> Option<(Record<'a>, Hash, usize)> {
    let mut fields = Fields(batch.get(at..at.checked_add(RECORD_HEADER)?)?);
    let length = usize::try_from(fields.u32()).ok()?;
    let (kind, version, sequence) = (fields.u16(), fields.u16(), Sequence(fields.u64()));
    let payload_end = at.checked_add(RECORD_HEADER)?.checked_add(length)?;
    let end = payload_end.checked_add(HASH)?;
    let mut stored = Fields(batch.get(payload_end..end)?);
    let stored = stored.hash();
    let chained = batch.get(at.checked_sub(HASH)?..payload_end)?;
    (sealer.hash(chained) == stored).then(|| {
        let payload = &batch[at + RECORD_HEADER..payload_end];
        (
            Record {
                sequence,
                kind,
                version,
                payload,
            },
            stored,
            end,
        )
    })
}

/// One slot of the watermark file: the last batch known to have been synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) batch: u64,
    pub(crate) batch_hash: Hash,
    pub(crate) record: u64,
}

impl Slot {
    pub(crate) fn encode(&self, sealer: &Sealer) -> Vec<u8> {
        let mut body = Vec::with_capacity(SLOT_BODY);
        body.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        body.extend_from_slice(&sealer.id);
        body.extend_from_slice(&self.batch.to_le_bytes());
        body.extend_from_slice(&self.batch_hash.0);
        body.extend_from_slice(&self.record.to_le_bytes());
        debug_assert_eq!(body.len(), SLOT_BODY);
        let mut block = sealer.seal(SLOT_MAGIC, &body);
        block.resize(BLOCK, 0);
        block
    }

    /// `None` when the block is no whole slot of this journal.
    pub(crate) fn decode(
        sealer: &Sealer,
        file: &str,
        block: &[u8],
    ) -> Result<Option<Self>, OpenError> {
        let Some((_, body)) = sealer.unseal(SLOT_MAGIC, block, SLOT_BODY) else {
            return Ok(None);
        };
        let mut fields = Fields(body);
        check_version(file, fields.u16())?;
        if fields.take() != sealer.id || !is_zero(&block[SEAL + SLOT_BODY..]) {
            return Ok(None);
        }
        Ok(Some(Self {
            batch: fields.u64(),
            batch_hash: fields.hash(),
            record: fields.u64(),
        }))
    }
}

/// Head of a snapshot file; the state follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SnapshotHeader {
    pub(crate) covers: Position,
    pub(crate) state_bytes: u64,
    pub(crate) state_hash: Hash,
}

impl SnapshotHeader {
    pub(crate) fn encode(&self, sealer: &Sealer) -> Vec<u8> {
        let mut body = Vec::with_capacity(SNAPSHOT_BODY);
        body.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        body.extend_from_slice(&sealer.id);
        body.extend_from_slice(&self.covers.sequence.0.to_le_bytes());
        body.extend_from_slice(&self.covers.hash.0);
        body.extend_from_slice(&self.state_bytes.to_le_bytes());
        body.extend_from_slice(&self.state_hash.0);
        debug_assert_eq!(body.len(), SNAPSHOT_BODY);
        sealer.seal(SNAPSHOT_MAGIC, &body)
    }

    /// `None` when the bytes are no whole head of a snapshot of this journal.
    pub(crate) fn decode(
        sealer: &Sealer,
        file: &str,
        bytes: &[u8],
    ) -> Result<Option<Self>, OpenError> {
        let Some((_, body)) = sealer.unseal(SNAPSHOT_MAGIC, bytes, SNAPSHOT_BODY) else {
            return Ok(None);
        };
        let mut fields = Fields(body);
        check_version(file, fields.u16())?;
        if fields.take() != sealer.id {
            return Ok(None);
        }
        let covers = Position {
            sequence: Sequence(fields.u64()),
            hash: fields.hash(),
        };
        Ok(Some(Self {
            covers,
            state_bytes: fields.u64(),
            state_hash: fields.hash(),
        }))
    }
}
