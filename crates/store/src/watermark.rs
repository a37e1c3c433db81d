//! The watermark: a second file that remembers the last batch known to be durable.
//!
//! A damaged last batch looks like one that a power cut tore; only a witness elsewhere can tell that it had been acknowledged.
//! The file has two slots, each in a block of its own. The slot is written after the batch was synced and before anybody is told,
//! so it is never ahead of the journal; it is synced only now and then. Writes go to one slot until it has been synced and then
//! to the other, so that a power cut finds at least one slot that was not in flight.

use std::io;

use crate::disk::{Disk, DiskFile};
use crate::error::{Failure, OpenError};
use crate::format::{BLOCK, BLOCK_BYTES, Sealer, Slot};

pub(crate) const WATERMARK_FILE: &str = "watermark";
pub(crate) const WATERMARK_TMP: &str = "watermark.tmp";
/// Batches between two syncs of the file.
const SYNC_EVERY: u32 = 256;

/// What the file said at start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) slots: [Option<Slot>; 2],
}

impl Found {
    /// Reads both slots; a missing file has none.
    pub(crate) fn read<D: Disk>(
        disk: &D,
        sealer: &Sealer,
        exists: bool,
    ) -> Result<Self, OpenError> {
        if !exists {
            return Ok(Self { slots: [None; 2] });
        }
        let file = disk.describe(WATERMARK_FILE);
        let bytes = disk
            .read(WATERMARK_FILE)
            .map_err(|error| OpenError::Disk(Failure::new("read", file.clone(), &error)))?;
        let mut slots = [None; 2];
        for (slot, block) in slots.iter_mut().zip(bytes.chunks_exact(BLOCK)) {
            *slot = Slot::decode(sealer, &file, block)?;
        }
        Ok(Self { slots })
    }

    /// The newest slot and its index.
    pub(crate) fn newest(&self) -> Option<(usize, Slot)> {
        let slots = self
            .slots
            .iter()
            .enumerate()
            .filter_map(|(index, slot)| slot.map(|slot| (index, slot)));
        slots.max_by_key(|(_, slot)| slot.batch)
    }
}

/// The file, open for writing.
#[derive(Debug)]
pub(crate) struct Watermark<D: Disk> {
    file: D::File,
    slot: u64,
    unsynced: u32,
}

impl<D: Disk> Watermark<D> {
    /// Creates the file with both slots alike.
    pub(crate) fn create(disk: &D, sealer: &Sealer, value: Slot) -> io::Result<Self> {
        let mut file = disk.create(WATERMARK_TMP)?;
        file.write_at(0, &value.encode(sealer).repeat(2))?;
        file.sync()?;
        disk.rename(WATERMARK_TMP, WATERMARK_FILE)?;
        disk.sync_dir()?;
        Ok(Self {
            file,
            slot: 0,
            unsynced: 0,
        })
    }

    /// Opens the file, of which at least one slot is whole, and leaves both whole and synced.
    pub(crate) fn open(disk: &D, sealer: &Sealer, found: Found, value: Slot) -> io::Result<Self> {
        let Some((newest, slot)) = found.newest() else {
            return Self::create(disk, sealer, value);
        };
        let mut file = disk.open(WATERMARK_FILE)?;
        let other = 1 - newest;
        if slot != value || found.slots[other].is_none() {
            file.write_at(other as u64 * BLOCK_BYTES, &value.encode(sealer))?;
        }
        // Also what an earlier process wrote and did not live to sync.
        file.sync()?;
        Ok(Self {
            file,
            slot: newest as u64,
            unsynced: 0,
        })
    }

    /// Remembers a batch that has been synced.
    pub(crate) fn write(&mut self, sealer: &Sealer, value: Slot) -> io::Result<()> {
        if self.unsynced >= SYNC_EVERY {
            self.sync()?;
        }
        self.file
            .write_at(self.slot * BLOCK_BYTES, &value.encode(sealer))?;
        self.unsynced += 1;
        Ok(())
    }

    /// Makes the newest slot durable and turns to the other.
    pub(crate) fn sync(&mut self) -> io::Result<()> {
        if self.unsynced > 0 {
            self.file.sync()?;
            self.slot = 1 - self.slot;
            self.unsynced = 0;
        }
        Ok(())
    }
}
