//! Snapshots: the whole state up to a record, written aside, so that a restart reads little and old segments can go.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::disk::{Disk, DiskFile};
use crate::error::{Failure, OpenError, SnapshotError};
use crate::format::{Position, SNAPSHOT_HEADER, Sealer, Sequence, SnapshotHeader};
use crate::segment::segment_name;

pub(crate) const SNAPSHOT_TMP: &str = "snapshot.tmp";
/// The newest, and the one before should the newest be damaged later.
const KEPT: usize = 2;

pub(crate) fn snapshot_name(covers: u64) -> String {
    format!("snapshot-{covers:020}.bin")
}

/// A state and the record it stands behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The last record that the state contains.
    pub covers: Position,
    /// The caller's bytes.
    pub state: Vec<u8>,
}

/// What taking a snapshot did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotTaken {
    /// The last record that the state contains.
    pub covers: Sequence,
    /// Segments deleted because no kept snapshot needs them.
    pub segments_deleted: usize,
}

/// Files of an open journal that snapshots make superfluous.
#[derive(Debug, Default)]
pub(crate) struct Catalogue {
    /// Segment and the last record before it.
    pub(crate) segments: BTreeMap<u64, u64>,
    /// Snapshots not known to be damaged, oldest first.
    pub(crate) snapshots: Vec<u64>,
    /// Snapshots known to be damaged.
    pub(crate) damaged: Vec<u64>,
}

#[derive(Debug, Default)]
pub(crate) struct Shared {
    catalogue: Mutex<Catalogue>,
    durable: AtomicU64,
    taking: Mutex<()>,
}

impl Shared {
    pub(crate) fn new(catalogue: Catalogue, durable: u64) -> Self {
        Self {
            catalogue: Mutex::new(catalogue),
            durable: AtomicU64::new(durable),
            taking: Mutex::default(),
        }
    }

    pub(crate) fn catalogue(&self) -> MutexGuard<'_, Catalogue> {
        // The catalogue is changed by single inserts and removals: a panic elsewhere leaves it whole.
        self.catalogue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_durable(&self, sequence: u64) {
        self.durable.store(sequence, Ordering::Release);
    }

    pub(crate) fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }
}

/// Takes snapshots of a journal, on any thread, beside the thread that appends.
#[derive(Debug, Clone)]
pub struct Snapshots<D: Disk> {
    pub(crate) disk: D,
    pub(crate) sealer: Sealer,
    pub(crate) shared: Arc<Shared>,
}

impl<D: Disk> Snapshots<D> {
    /// Writes the state that stands behind record `covers`, reads it back, and only then deletes segments that the two newest
    /// snapshots make superfluous. Blocks until all is durable.
    pub fn take(&self, covers: Position, state: &[u8]) -> Result<SnapshotTaken, SnapshotError> {
        let _one_at_a_time = self
            .shared
            .taking
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let (sequence, durable) = (covers.sequence.0, self.shared.durable());
        if sequence > durable {
            return Err(SnapshotError::NotDurable {
                covers: sequence,
                durable,
            });
        }
        if let Some(newest) = self
            .shared
            .catalogue()
            .snapshots
            .last()
            .filter(|newest| **newest >= sequence)
        {
            return Err(SnapshotError::NotNewer {
                covers: sequence,
                newest: *newest,
            });
        }
        if let Err(failure) = self.write(covers, state) {
            // A half-written file only takes space; it is never read.
            let _ = self.disk.remove(SNAPSHOT_TMP);
            return Err(SnapshotError::Disk(failure));
        }
        self.verify(covers, state)?;
        self.shared.catalogue().snapshots.push(sequence);
        let segments_deleted = self.prune().map_err(SnapshotError::Disk)?;
        Ok(SnapshotTaken {
            covers: covers.sequence,
            segments_deleted,
        })
    }

    fn write(&self, covers: Position, state: &[u8]) -> Result<(), Failure> {
        let failed = |operation| {
            move |error| Failure::new(operation, self.disk.describe(SNAPSHOT_TMP), &error)
        };
        let header = SnapshotHeader {
            covers,
            state_bytes: state.len() as u64,
            state_hash: self.sealer.hash(state),
        };
        let mut file = self.disk.create(SNAPSHOT_TMP).map_err(failed("create"))?;
        file.write_at(0, &header.encode(&self.sealer))
            .map_err(failed("write"))?;
        file.write_at(SNAPSHOT_HEADER as u64, state)
            .map_err(failed("write"))?;
        file.sync().map_err(failed("sync"))?;
        self.disk
            .rename(SNAPSHOT_TMP, &snapshot_name(covers.sequence.0))
            .map_err(failed("rename"))?;
        self.disk.sync_dir().map_err(failed("sync the folder of"))
    }

    fn verify(&self, covers: Position, state: &[u8]) -> Result<(), SnapshotError> {
        let name = snapshot_name(covers.sequence.0);
        let file = self.disk.describe(&name);
        let what = match read_snapshot(&self.disk, &self.sealer, covers.sequence.0) {
            Ok(Ok(read)) if read.covers == covers && read.state == state => return Ok(()),
            Ok(Ok(_)) => "another state".to_owned(),
            Ok(Err(what)) => what.to_owned(),
            Err(error) => error.to_string(),
        };
        // Not to be found at the next start in place of the older, whole one.
        let _ = self.disk.remove(&name);
        Err(SnapshotError::NotVerified { file, what })
    }

    /// Deletes what the newest snapshots make superfluous, oldest first, so that what is left after a crash is without gaps.
    /// What could not be deleted stays in the catalogue for the next time.
    fn prune(&self) -> Result<usize, Failure> {
        let catalogue = self.shared.catalogue();
        let superfluous = catalogue.snapshots.len().saturating_sub(KEPT);
        let old: Vec<u64> = catalogue
            .damaged
            .iter()
            .chain(&catalogue.snapshots[..superfluous])
            .copied()
            .collect();
        let oldest_kept = catalogue.snapshots[superfluous..]
            .first()
            .filter(|_| catalogue.snapshots.len() >= KEPT);
        let boundary = oldest_kept.copied().unwrap_or(0);
        let following = catalogue.segments.iter().skip(1);
        let covered = catalogue
            .segments
            .keys()
            .zip(following)
            .take_while(|(_, (_, before))| **before <= boundary);
        let segments: Vec<u64> = covered.map(|(segment, _)| *segment).collect();
        // Not held while the disk works: the appending thread takes it too.
        drop(catalogue);
        for segment in &segments {
            self.delete(&segment_name(*segment))?;
            self.shared.catalogue().segments.remove(segment);
        }
        for covers in &old {
            self.delete(&snapshot_name(*covers))?;
            let mut catalogue = self.shared.catalogue();
            catalogue.snapshots.retain(|kept| kept != covers);
            catalogue.damaged.retain(|kept| kept != covers);
        }
        self.disk.sync_dir().map_err(|error| {
            Failure::new(
                "sync the folder of",
                self.disk.describe(SNAPSHOT_TMP),
                &error,
            )
        })?;
        Ok(segments.len())
    }

    fn delete(&self, name: &str) -> Result<(), Failure> {
        match self.disk.remove(name) {
            // An earlier attempt may have deleted it and reported an error.
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(Failure::new("delete", self.disk.describe(name), &error))
            }
            _ => Ok(()),
        }
    }
}

/// Reads a snapshot. The inner error says what is damaged.
pub(crate) fn read_snapshot<D: Disk>(
    disk: &D,
    sealer: &Sealer,
    covers: u64,
) -> Result<Result<Snapshot, &'static str>, OpenError> {
    let name = snapshot_name(covers);
    let file = disk.describe(&name);
    let mut bytes = disk
        .read(&name)
        .map_err(|error| OpenError::Disk(Failure::new("read", file.clone(), &error)))?;
    let Some(header) = SnapshotHeader::decode(sealer, &file, &bytes)? else {
        return Ok(Err("its header fails its checksum"));
    };
    bytes.drain(..SNAPSHOT_HEADER);
    if header.covers.sequence.0 != covers {
        return Ok(Err("it is not the snapshot that its name says"));
    }
    if header.state_bytes != bytes.len() as u64 {
        return Ok(Err("it is shorter or longer than its header says"));
    }
    if header.state_hash != sealer.hash(&bytes) {
        return Ok(Err("its state fails its checksum"));
    }
    Ok(Ok(Snapshot {
        covers: header.covers,
        state: bytes,
    }))
}
