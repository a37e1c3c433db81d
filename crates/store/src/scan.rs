//! Reading a segment: which batches are whole, where they end, and whether what comes then is a torn tail or damage.

use crate::format::{
    BATCH_HEADER, BLOCK, BatchHeader, HASH, Hash, NewRecord, Position, Record, Sealer, Sequence,
    Tip, blocks, decode_record, is_zero,
};

/// Records read from a journal, in order.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Records {
    payloads: Vec<u8>,
    entries: Vec<Entry>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    sequence: Sequence,
    end: usize,
    kind: u16,
    version: u16,
}

impl Records {
    /// Number of records.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The records, oldest first.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Record<'_>> {
        self.entries.iter().enumerate().map(|(index, entry)| {
            let start = index
                .checked_sub(1)
                .map_or(0, |before| self.entries[before].end);
            let payload = &self.payloads[start..entry.end];
            Record {
                sequence: entry.sequence,
                kind: entry.kind,
                version: entry.version,
                payload,
            }
        })
    }

    fn push(&mut self, record: Record<'_>) {
        self.payloads.extend_from_slice(record.payload);
        let end = self.payloads.len();
        self.entries.push(Entry {
            sequence: record.sequence,
            end,
            kind: record.kind,
            version: record.version,
        });
    }

    fn truncate(&mut self, count: usize) {
        self.entries.truncate(count);
        self.payloads
            .truncate(self.entries.last().map_or(0, |entry| entry.end));
    }
}

impl<'a> From<Record<'a>> for NewRecord<'a> {
    fn from(record: Record<'a>) -> Self {
        NewRecord {
            kind: record.kind,
            version: record.version,
            payload: record.payload,
        }
    }
}

/// Where the scan of a segment ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Only zeros, or nothing, from here on.
    Clean {
        /// Offset of the next batch.
        offset: usize,
    },
    /// Something else than a whole next batch.
    Bad {
        /// Where the next batch should be.
        offset: usize,
        /// What is wrong there.
        what: &'static str,
        /// Behind the last byte that is not zero.
        end: usize,
        /// A whole batch header further on, which proves that the batch at `offset` had been made durable.
        follows: Option<(usize, u64)>,
    },
}

/// Walks over batches and keeps what the recovery asks for.
#[derive(Debug)]
pub(crate) struct Scanner {
    pub(crate) sealer: Sealer,
    /// The last whole batch so far.
    pub(crate) tip: Tip,
    /// Records up to this one are checked and not kept.
    pub(crate) skip: u64,
    pub(crate) records: Records,
    /// Offsets of bytes that should be zero and belong to no record.
    pub(crate) strays: Vec<usize>,
    /// Batch whose hash is wanted, and the hash.
    pub(crate) watched_batch: (u64, Option<Hash>),
    /// Record whose hash is wanted, and the hash.
    pub(crate) watched_record: (u64, Option<Hash>),
}

impl Scanner {
    /// Starts behind a batch.
    pub(crate) fn new(sealer: Sealer, tip: Tip, skip: u64, watched_batch: u64) -> Self {
        let batch = (tip.batch == watched_batch).then_some(tip.batch_hash);
        let record = (tip.record.sequence.0 == skip).then_some(tip.record.hash);
        Self {
            sealer,
            tip,
            skip,
            records: Records::default(),
            strays: Vec::new(),
            watched_batch: (watched_batch, batch),
            watched_record: (skip, record),
        }
    }

    /// Reads batches from `offset` to the end of the segment or to the first that is not whole.
    pub(crate) fn segment(&mut self, segment: u64, bytes: &[u8], mut offset: usize) -> Stop {
        while offset < bytes.len() {
            match self.batch(segment, &bytes[offset..]) {
                Ok(length) => {
                    let next =
                        offset + usize::try_from(blocks(length as u64)).unwrap_or(usize::MAX);
                    let padding = &bytes[offset + length..next.min(bytes.len())];
                    if let Some(at) = padding.iter().position(|byte| *byte != 0) {
                        self.strays.push(offset + length + at);
                    }
                    offset = next;
                }
                Err(what) => return self.stop(segment, bytes, offset, what),
            }
        }
        Stop::Clean { offset }
    }

    fn stop(&self, segment: u64, bytes: &[u8], offset: usize, what: &'static str) -> Stop {
        let rest = &bytes[offset..];
        if is_zero(rest) {
            return Stop::Clean { offset };
        }
        let end = bytes
            .iter()
            .rposition(|byte| *byte != 0)
            .map_or(offset, |last| last + 1);
        // The length in a damaged header is not to be trusted: look at every place where a batch may start.
        let follows = (offset + BLOCK..end).step_by(BLOCK).find_map(|at| {
            let header = BatchHeader::decode(&self.sealer, &bytes[at..])?;
            (header.segment == segment && header.batch > self.tip.batch)
                .then_some((at, header.batch))
        });
        Stop::Bad {
            offset,
            what,
            end,
            follows,
        }
    }

    /// Reads the batch at the start of `bytes`: all of it or nothing. Returns its length.
    pub(crate) fn batch(&mut self, segment: u64, bytes: &[u8]) -> Result<usize, &'static str> {
        let header = BatchHeader::decode(&self.sealer, bytes)
            .ok_or("no batch header with a right checksum")?;
        let length = self.check_place(segment, &header, bytes.len())?;
        let kept = self.records.len();
        match self.read_records(&header, &bytes[..length]) {
            Ok(tip) => {
                self.tip = tip;
                if tip.batch == self.watched_batch.0 {
                    self.watched_batch.1 = Some(tip.batch_hash);
                }
                Ok(length)
            }
            Err(what) => {
                self.records.truncate(kept);
                Err(what)
            }
        }
    }

    fn check_place(
        &self,
        segment: u64,
        header: &BatchHeader,
        room: usize,
    ) -> Result<usize, &'static str> {
        if header.segment != segment {
            return Err("the batch belongs to another segment");
        }
        if header.batch != self.tip.batch + 1 || header.first != self.tip.record.sequence.0 + 1 {
            return Err("the batch is not the next one");
        }
        if header.previous_batch != self.tip.batch_hash
            || header.previous_record != self.tip.record.hash
        {
            return Err("the batch does not continue the one before");
        }
        let length = usize::try_from(header.length).unwrap_or(usize::MAX);
        if length > room || length < BATCH_HEADER {
            return Err("the batch does not fit into its segment");
        }
        Ok(length)
    }

    fn read_records(&mut self, header: &BatchHeader, batch: &[u8]) -> Result<Tip, &'static str> {
        let mut at = BATCH_HEADER;
        let mut record_tip = self.tip.record;
        for _ in 0..header.count {
            let (record, hash, end) =
                decode_record(&self.sealer, batch, at).ok_or("a record fails its checksum")?;
            if record.sequence.0 != record_tip.sequence.0 + 1 {
                return Err("a record is not the next one");
            }
            record_tip = Position {
                sequence: record.sequence,
                hash,
            };
            if record.sequence.0 > self.skip {
                self.records.push(record);
            } else if record.sequence.0 == self.watched_record.0 {
                self.watched_record.1 = Some(hash);
            }
            at = end;
        }
        if at != batch.len() || record_tip.hash != header.body || batch.len() < BATCH_HEADER + HASH
        {
            return Err("the batch does not end with the record that its header names");
        }
        Ok(Tip {
            batch: header.batch,
            batch_hash: header.hash,
            record: record_tip,
        })
    }
}
