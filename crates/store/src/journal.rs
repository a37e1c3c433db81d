//! The journal itself: one batch after the other, each durable before the call returns. No thread, no clock.

use std::sync::Arc;

use crate::disk::{Disk, DiskFile};
use crate::error::{AppendError, Failure, OpenError};
use crate::format::{
    BLOCK_BYTES, BatchBuffer, FORMAT_VERSION, Hash, NewRecord, Position, Sealer, SegmentHeader,
    Sequence, Slot, Tip, blocks,
};
use crate::recover::{Folder, Judged, Recovery, failed, judge, rewrite_segment};
use crate::segment::{found_segment, prepare_spare, segment_name};
use crate::snapshot::{Catalogue, Shared, Snapshots};
use crate::watermark::Watermark;

/// Records in one batch at most.
pub const BATCH_RECORDS_MAX: usize = 4096;
const BATCH_BYTES_MAX: u64 = 4 << 20;
const SEGMENT_BYTES_MIN: u64 = 4 * BLOCK_BYTES;
const SEGMENT_BYTES_MAX: u64 = 1 << 30;

/// How a journal is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JournalOptions {
    /// Size of new segments: a multiple of 4,096 from 16 KiB to 1 GiB. Two of them are taken from the disk at any time.
    pub segment_bytes: u64,
}

impl Default for JournalOptions {
    fn default() -> Self {
        Self {
            segment_bytes: 16 << 20,
        }
    }
}

impl JournalOptions {
    fn check(self) -> Result<Self, OpenError> {
        let size = self.segment_bytes;
        if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&size)
            || !size.is_multiple_of(BLOCK_BYTES)
        {
            return Err(OpenError::Options(format!(
                "segment_bytes is {size}; it must be a multiple of {BLOCK_BYTES} from {SEGMENT_BYTES_MIN} to {SEGMENT_BYTES_MAX}"
            )));
        }
        Ok(self)
    }

    /// Bytes in one batch at most: it must fit into an empty segment, of any size that an older program may have left.
    pub(crate) fn batch_bytes_max(self) -> u64 {
        BATCH_BYTES_MAX.min(self.segment_bytes - BLOCK_BYTES)
    }
}

/// The records of one batch, durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// The first of them.
    pub first: Sequence,
    /// The last of them, with the hash that speaks for all records up to it.
    pub last: Position,
}

/// A write-ahead journal, open in a folder that it holds alone.
#[derive(Debug)]
pub struct Journal<D: Disk> {
    disk: D,
    options: JournalOptions,
    sealer: Sealer,
    file: D::File,
    segment: u64,
    segment_bytes: u64,
    offset: u64,
    tip: Tip,
    spare: Option<D::File>,
    watermark: Watermark<D>,
    shared: Arc<Shared>,
    poisoned: Option<Failure>,
    buffer: Vec<u8>,
    _lock: D::Lock,
}

impl<D: Disk> Journal<D> {
    /// Opens the journal in the disk's folder, or founds one in an empty folder. What it says when it refuses is in [`OpenError`].
    pub fn open(disk: D, options: JournalOptions) -> Result<(Self, Recovery), OpenError> {
        let options = options.check()?;
        let lock = disk.lock()?;
        let folder = Folder::read(&disk)?;
        if folder.is_fresh(&disk)? {
            remove_leftovers(&disk, &folder)?;
            return Ok((Self::found(disk, lock, options)?, Recovery::default()));
        }
        let judged = judge(&disk, &folder)?;
        remove_leftovers(&disk, &folder)?;
        Self::resume(disk, lock, options, judged)
    }

    fn found(disk: D, lock: D::Lock, options: JournalOptions) -> Result<Self, OpenError> {
        let sealer = Sealer::new(disk.fresh_id());
        let tip = Tip {
            batch: 0,
            batch_hash: sealer.genesis_batch(),
            record: sealer.genesis(),
        };
        let mut file = prepare_spare(&disk, options.segment_bytes).map_err(OpenError::Disk)?;
        let header = SegmentHeader {
            version: FORMAT_VERSION,
            id: sealer.id,
            segment: 1,
            bytes: options.segment_bytes,
            before: tip,
        };
        found_segment(&disk, &mut file, &sealer, &header).map_err(OpenError::Disk)?;
        let watermark = Watermark::create(&disk, &sealer, slot(&tip))
            .map_err(|error| failed("create", disk.describe("watermark"), &error))?;
        let catalogue = Catalogue {
            segments: [(1, 0)].into(),
            ..Catalogue::default()
        };
        Ok(Self {
            disk,
            options,
            sealer,
            file,
            segment: 1,
            segment_bytes: options.segment_bytes,
            offset: BLOCK_BYTES,
            tip,
            spare: None,
            watermark,
            shared: Arc::new(Shared::new(catalogue, 0)),
            poisoned: None,
            buffer: Vec::new(),
            _lock: lock,
        })
    }

    fn resume(
        disk: D,
        lock: D::Lock,
        options: JournalOptions,
        judged: Judged,
    ) -> Result<(Self, Recovery), OpenError> {
        let Judged {
            sealer,
            recovery,
            tip,
            watermark,
            catalogue,
            last,
            offset,
            rewrite,
        } = judged;
        // The process before may have died between a rename and the sync of the folder.
        disk.sync_dir().map_err(|error| {
            failed(
                "sync the folder of",
                disk.describe(&segment_name(last.segment)),
                &error,
            )
        })?;
        if let Some(content) = rewrite {
            rewrite_segment(&disk, &last, &content).map_err(OpenError::Disk)?;
        }
        let name = segment_name(last.segment);
        let file = disk
            .open(&name)
            .map_err(|error| failed("open", disk.describe(&name), &error))?;
        let watermark = Watermark::open(&disk, &sealer, watermark, slot(&tip))
            .map_err(|error| failed("write", disk.describe("watermark"), &error))?;
        let journal = Self {
            disk,
            options,
            sealer,
            file,
            segment: last.segment,
            segment_bytes: last.bytes,
            // Batches of this version never go into a segment of another.
            offset: if last.version == FORMAT_VERSION {
                offset as u64
            } else {
                last.bytes
            },
            tip,
            spare: None,
            watermark,
            shared: Arc::new(Shared::new(catalogue, tip.record.sequence.0)),
            poisoned: None,
            buffer: Vec::new(),
            _lock: lock,
        };
        Ok((journal, recovery))
    }

    /// The last durable record.
    pub fn position(&self) -> Position {
        self.tip.record
    }

    /// Takes snapshots of this journal, from any thread.
    pub fn snapshots(&self) -> Snapshots<D> {
        Snapshots {
            disk: self.disk.clone(),
            sealer: self.sealer.clone(),
            shared: self.shared.clone(),
        }
    }

    /// Appends records as one batch: after a crash all of them are found, or none. They are durable when this returns `Ok`.
    pub fn append_batch(&mut self, records: &[NewRecord<'_>]) -> Result<Appended, AppendError> {
        if let Some(failure) = &self.poisoned {
            return Err(AppendError::Poisoned(failure.clone()));
        }
        check_size(records, self.batch_bytes_max())?;
        let mut tip = self.tip.record;
        let mut batch = BatchBuffer::after(tip, std::mem::take(&mut self.buffer));
        for record in records {
            batch.push(&self.sealer, &mut tip, record);
        }
        let appended = self.commit(&mut batch, tip);
        self.buffer = batch.into_buffer();
        appended
    }

    /// Makes the watermark durable and closes the journal. Dropping a journal loses nothing either; the next start then does more.
    pub fn close(mut self) -> Result<(), Failure> {
        if let Some(failure) = self.poisoned.take() {
            return Err(failure);
        }
        self.watermark
            .sync()
            .map_err(|error| Failure::new("sync", self.disk.describe("watermark"), &error))
    }

    pub(crate) fn batch_bytes_max(&self) -> u64 {
        self.options.batch_bytes_max()
    }

    /// Writes and syncs a batch that continues this journal and ends with the record `last`.
    pub(crate) fn commit(
        &mut self,
        batch: &mut BatchBuffer,
        last: Position,
    ) -> Result<Appended, AppendError> {
        if let Some(failure) = &self.poisoned {
            return Err(AppendError::Poisoned(failure.clone()));
        }
        if self.offset + blocks(batch.bytes()) > self.segment_bytes {
            self.roll()?;
        }
        let first = Sequence(self.tip.record.sequence.0 + 1);
        let number = self.tip.batch + 1;
        let hash = batch.seal(&self.sealer, number, self.segment, self.tip.batch_hash);
        self.write(
            batch.as_slice(),
            Tip {
                batch: number,
                batch_hash: hash,
                record: last,
            },
        )
        .map_err(|failure| {
            self.poisoned = Some(failure.clone());
            AppendError::Failed(failure)
        })?;
        Ok(Appended { first, last })
    }

    fn write(&mut self, bytes: &[u8], tip: Tip) -> Result<(), Failure> {
        let name = segment_name(self.segment);
        let failed = |disk: &D, operation, name: &str, error| {
            Failure::new(operation, disk.describe(name), &error)
        };
        self.file
            .write_at(self.offset, bytes)
            .map_err(|error| failed(&self.disk, "write", &name, error))?;
        self.file
            .sync()
            .map_err(|error| failed(&self.disk, "sync", &name, error))?;
        self.watermark
            .write(&self.sealer, slot(&tip))
            .map_err(|error| failed(&self.disk, "write", "watermark", error))?;
        self.offset += bytes.len() as u64;
        self.tip = tip;
        self.shared.set_durable(tip.record.sequence.0);
        Ok(())
    }

    /// Goes on in a new segment. A full disk changes nothing; any other failure ends the journal.
    fn roll(&mut self) -> Result<(), AppendError> {
        let mut spare = match self.spare.take() {
            Some(spare) => spare,
            None => prepare_spare(&self.disk, self.options.segment_bytes)
                .map_err(|failure| self.refuse(failure))?,
        };
        let header = SegmentHeader {
            version: FORMAT_VERSION,
            id: self.sealer.id,
            segment: self.segment + 1,
            bytes: self.options.segment_bytes,
            before: self.tip,
        };
        // Nothing of the batch was written yet, but whether the new segment exists is unknown.
        found_segment(&self.disk, &mut spare, &self.sealer, &header).map_err(|failure| {
            self.poisoned = Some(failure.clone());
            AppendError::Poisoned(failure)
        })?;
        self.shared
            .catalogue()
            .segments
            .insert(header.segment, header.before.record.sequence.0);
        self.file = spare;
        self.segment = header.segment;
        self.segment_bytes = header.bytes;
        self.offset = BLOCK_BYTES;
        Ok(())
    }

    fn refuse(&mut self, failure: Failure) -> AppendError {
        if failure.is_full() {
            return AppendError::DiskFull {
                cause: failure,
                needed_bytes: self.options.segment_bytes,
            };
        }
        self.poisoned = Some(failure.clone());
        AppendError::Poisoned(failure)
    }

    pub(crate) fn disk(&self) -> &D {
        &self.disk
    }

    pub(crate) fn sealer(&self) -> &Sealer {
        &self.sealer
    }

    /// Where the next batch goes, and the size of the segment.
    pub(crate) fn place(&self) -> (u64, u64) {
        (self.offset, self.segment_bytes)
    }

    /// Size of the segments to come.
    pub(crate) fn next_segment_bytes(&self) -> u64 {
        self.options.segment_bytes
    }

    /// Hands over a prepared file for the next roll.
    pub(crate) fn give_spare(&mut self, spare: D::File) {
        self.spare = Some(spare);
    }
}

pub(crate) fn check_size(records: &[NewRecord<'_>], max_bytes: u64) -> Result<u64, AppendError> {
    let bytes = records.iter().map(NewRecord::encoded_bytes).sum::<u64>();
    if records.is_empty() {
        return Err(AppendError::Empty);
    }
    if records.len() > BATCH_RECORDS_MAX
        || blocks(bytes + crate::format::BATCH_HEADER as u64) > max_bytes
    {
        return Err(AppendError::TooLarge {
            bytes,
            records: records.len(),
            max_bytes,
            max_records: BATCH_RECORDS_MAX,
        });
    }
    Ok(bytes)
}

fn slot(tip: &Tip) -> Slot {
    Slot {
        batch: tip.batch,
        batch_hash: tip.batch_hash,
        record: tip.record.sequence.0,
    }
}

fn remove_leftovers<D: Disk>(disk: &D, folder: &Folder) -> Result<(), OpenError> {
    for name in &folder.leftovers {
        disk.remove(name)
            .map_err(|error| failed("delete", disk.describe(name), &error))?;
    }
    Ok(())
}

impl Hash {
    /// As text, for logs.
    pub fn to_hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
