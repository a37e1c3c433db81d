//! Opening a folder: what is whole is read, a torn tail is cut, anything else is refused with the reason.
//!
//! Nothing is changed before everything was judged. Repairs never write in place: the last segment is written anew beside and
//! renamed over, because a second power cut during a write in place could take acknowledged records.

use std::collections::BTreeSet;

use crate::disk::{Disk, DiskFile};
use crate::error::{Failure, OpenError};
use crate::format::{BLOCK, Sealer, SegmentHeader, Slot, Tip, check_version, is_zero};
use crate::scan::{Records, Scanner, Stop};
use crate::segment::{REPAIR_TMP, SPARE_FILE, number_in, segment_name};
use crate::snapshot::{Catalogue, SNAPSHOT_TMP, Snapshot, read_snapshot, snapshot_name};
use crate::watermark::{Found, WATERMARK_FILE, WATERMARK_TMP};

/// What was read when a journal was opened.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Recovery {
    /// The newest whole snapshot.
    pub snapshot: Option<Snapshot>,
    /// All records behind the snapshot.
    pub records: Records,
    /// The batch that was cut off, if one was.
    pub repaired: Option<TornTail>,
    /// Other things that were not as written and did no harm.
    pub findings: Vec<Finding>,
}

/// The end of the journal that a crash left half-written. No record in it had been acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TornTail {
    /// The segment.
    pub file: String,
    /// Where the tail started.
    pub offset: u64,
    /// Its length, to the last byte that was not zero.
    pub bytes: u64,
    /// The number that the batch would have had.
    pub batch: u64,
    /// What was wrong with it.
    pub what: &'static str,
}

/// Something that was not as written, while all records are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// Bytes that belong to no record were not zero. They were left as they are.
    StrayBytes {
        /// The segment.
        file: String,
        /// The first of them.
        offset: u64,
    },
    /// One of the two slots of the watermark was damaged; it was written anew.
    WatermarkSlot {
        /// The slot, 0 or 1.
        slot: usize,
    },
    /// The watermark was missing or wholly damaged. The journal ended cleanly, so the watermark was written anew from it; should
    /// the last batch have vanished together with the watermark, nothing can tell.
    WatermarkRebuilt,
    /// A snapshot was damaged; the one before was used. The file goes when the next snapshot is taken.
    SnapshotDamaged {
        /// The file.
        file: String,
        /// What is wrong.
        what: &'static str,
    },
}

/// The folder's files by kind.
#[derive(Debug, Default)]
pub(crate) struct Folder {
    pub(crate) segments: BTreeSet<u64>,
    snapshots: BTreeSet<u64>,
    has_watermark: bool,
    pub(crate) leftovers: Vec<String>,
}

impl Folder {
    pub(crate) fn read<D: Disk>(disk: &D) -> Result<Self, OpenError> {
        let mut folder = Self::default();
        for name in disk
            .list()
            .map_err(|error| failed("list", disk.describe(""), &error))?
        {
            if let Some(segment) = number_in(&name, "journal-", ".log", 16) {
                folder.segments.insert(segment);
            } else if let Some(covers) = number_in(&name, "snapshot-", ".bin", 20) {
                folder.snapshots.insert(covers);
            } else if name == WATERMARK_FILE {
                folder.has_watermark = true;
            } else if [SPARE_FILE, REPAIR_TMP, SNAPSHOT_TMP, WATERMARK_TMP].contains(&name.as_str())
            {
                folder.leftovers.push(name);
            }
        }
        Ok(folder)
    }

    /// The first segment from which on none is missing. Whether that reaches back far enough is for the snapshot to say.
    fn first_without_gap(&self) -> u64 {
        let last = *self
            .segments
            .last()
            .expect("a folder without segments is fresh");
        let run = self
            .segments
            .iter()
            .rev()
            .zip((0..=last).rev())
            .take_while(|(segment, expected)| *segment == expected);
        run.last().map_or(last, |(segment, _)| *segment)
    }

    /// Whether no journal was ever here. A watermark or snapshot without any segment is no fresh folder.
    pub(crate) fn is_fresh<D: Disk>(&self, disk: &D) -> Result<bool, OpenError> {
        if !self.segments.is_empty() {
            return Ok(false);
        }
        let witness = if self.has_watermark {
            Some(WATERMARK_FILE.to_owned())
        } else {
            self.snapshots.last().map(|last| snapshot_name(*last))
        };
        match witness {
            None => Ok(true),
            Some(witness) => Err(OpenError::Missing {
                file: disk.describe("journal-*.log"),
                why: format!("{} is there and no segment is", disk.describe(&witness)),
            }),
        }
    }
}

pub(crate) fn failed(operation: &'static str, file: String, error: &std::io::Error) -> OpenError {
    OpenError::Disk(Failure::new(operation, file, error))
}

/// What the folder holds, judged and not yet changed.
#[derive(Debug)]
pub(crate) struct Judged {
    pub(crate) sealer: Sealer,
    pub(crate) recovery: Recovery,
    pub(crate) tip: Tip,
    pub(crate) watermark: Found,
    pub(crate) catalogue: Catalogue,
    pub(crate) last: SegmentHeader,
    /// Where the next batch goes in the last segment.
    pub(crate) offset: usize,
    /// The last segment up to `offset`, to be written anew.
    pub(crate) rewrite: Option<Vec<u8>>,
}

struct Judge<'a, D: Disk> {
    disk: &'a D,
    folder: &'a Folder,
    sealer: Sealer,
    findings: Vec<Finding>,
    catalogue: Catalogue,
}

/// Judges a folder that holds a journal.
pub(crate) fn judge<D: Disk>(disk: &D, folder: &Folder) -> Result<Judged, OpenError> {
    let first = folder.first_without_gap();
    let (sealer, first_header) = read_header(disk, first, None)?;
    let watermark = Found::read(disk, &sealer, folder.has_watermark)?;
    // Segments before a gap, if any, were being deleted; the next snapshot deletes them.
    let catalogue = Catalogue {
        segments: folder
            .segments
            .range(..first)
            .map(|segment| (*segment, 0))
            .collect(),
        ..Catalogue::default()
    };
    let mut judge = Judge {
        disk,
        folder,
        sealer,
        findings: Vec::new(),
        catalogue,
    };
    let snapshot = judge.choose_snapshot(&first_header)?;
    let covered = snapshot
        .as_ref()
        .map_or(0, |snapshot| snapshot.covers.sequence.0);
    let start = judge.choose_start(first, first_header, covered)?;
    let wanted_batch = watermark.newest().map_or(u64::MAX, |(_, slot)| slot.batch);
    let mut scanner = Scanner::new(judge.sealer.clone(), start.before, covered, wanted_batch);
    let end = judge.scan_all(&mut scanner, start.segment)?;
    judge.check_snapshot(&scanner, snapshot.as_ref(), end.header.segment)?;
    let repaired = judge.check_end(&scanner, &watermark, &end)?;
    let unsure = watermark
        .newest()
        .is_none_or(|(_, slot)| slot.batch < scanner.tip.batch);
    let rewrite = (repaired.is_some() || (unsure && end.offset > BLOCK))
        .then(|| end.bytes[..end.offset].to_vec());
    Ok(Judged {
        sealer: judge.sealer,
        recovery: Recovery {
            snapshot,
            records: scanner.records,
            repaired,
            findings: judge.findings,
        },
        tip: scanner.tip,
        watermark,
        catalogue: judge.catalogue,
        last: end.header,
        offset: end.offset,
        rewrite,
    })
}

fn read_header<D: Disk>(
    disk: &D,
    segment: u64,
    sealer: Option<&Sealer>,
) -> Result<(Sealer, SegmentHeader), OpenError> {
    let name = segment_name(segment);
    let file = disk.describe(&name);
    let block = disk
        .read_head(&name, BLOCK)
        .map_err(|error| failed("read", file.clone(), &error))?;
    let (sealer, header) = check_header(disk, segment, sealer, &block)?;
    let size = disk
        .size(&name)
        .map_err(|error| failed("measure", file.clone(), &error))?;
    if header.bytes != size {
        return Err(OpenError::Damaged {
            file,
            offset: header.bytes.min(size),
            what: format!("it has {size} bytes and was made with {}", header.bytes),
        });
    }
    Ok((sealer, header))
}

fn check_header<D: Disk>(
    disk: &D,
    segment: u64,
    sealer: Option<&Sealer>,
    block: &[u8],
) -> Result<(Sealer, SegmentHeader), OpenError> {
    let file = disk.describe(&segment_name(segment));
    let damaged = |what: &str| OpenError::Damaged {
        file: file.clone(),
        offset: 0,
        what: what.to_owned(),
    };
    let (own, header) = SegmentHeader::decode(block)
        .ok_or_else(|| damaged("the segment header fails its checksum"))?;
    check_version(&file, header.version)?;
    if header.segment != segment {
        return Err(damaged(&format!(
            "it is segment {} under the name of segment {segment}",
            header.segment
        )));
    }
    if sealer.is_some_and(|sealer| sealer.id != own.id) {
        return Err(damaged("it belongs to another journal"));
    }
    Ok((own, header))
}

struct End {
    header: SegmentHeader,
    bytes: Vec<u8>,
    offset: usize,
    stop: Stop,
}

impl<D: Disk> Judge<'_, D> {
    fn file(&self, segment: u64) -> String {
        self.disk.describe(&segment_name(segment))
    }

    /// The newest whole snapshot; the damaged ones are reported.
    fn choose_snapshot(&mut self, first: &SegmentHeader) -> Result<Option<Snapshot>, OpenError> {
        let mut chosen = None;
        for covers in self.folder.snapshots.iter().rev() {
            if chosen.is_some() {
                self.catalogue.snapshots.insert(0, *covers);
                continue;
            }
            match read_snapshot(self.disk, &self.sealer, *covers)? {
                Ok(snapshot) => {
                    self.catalogue.snapshots.insert(0, *covers);
                    chosen = Some(snapshot);
                }
                Err(what) => {
                    self.catalogue.damaged.push(*covers);
                    self.findings.push(Finding::SnapshotDamaged {
                        file: self.disk.describe(&snapshot_name(*covers)),
                        what,
                    });
                }
            }
        }
        let covered = chosen
            .as_ref()
            .map_or(0, |snapshot| snapshot.covers.sequence.0);
        if first.before.record.sequence.0 > covered {
            let why = format!(
                "the first segment starts behind record {}, and no whole snapshot reaches that far{}",
                first.before.record.sequence,
                self.catalogue
                    .damaged
                    .first()
                    .map_or_else(String::new, |damaged| format!(
                        " ({} is damaged)",
                        snapshot_name(*damaged)
                    ))
            );
            let file = match first.segment.checked_sub(1) {
                Some(before) if before > 0 => self.file(before),
                _ => self.disk.describe("snapshot-*.bin"),
            };
            return Err(OpenError::Missing { file, why });
        }
        Ok(chosen)
    }

    /// The last segment that starts at or before the first record behind the snapshot.
    fn choose_start(
        &mut self,
        first: u64,
        first_header: SegmentHeader,
        covered: u64,
    ) -> Result<SegmentHeader, OpenError> {
        self.catalogue
            .segments
            .insert(first, first_header.before.record.sequence.0);
        let mut start = first_header;
        for segment in self.folder.segments.range(first + 1..) {
            let (_, header) = read_header(self.disk, *segment, Some(&self.sealer))?;
            self.catalogue
                .segments
                .insert(*segment, header.before.record.sequence.0);
            if header.before.record.sequence.0 <= covered {
                start = header;
            }
        }
        Ok(start)
    }

    /// Reads all segments from `start` on; every one but the last must be whole.
    fn scan_all(&mut self, scanner: &mut Scanner, start: u64) -> Result<End, OpenError> {
        let last = *self
            .folder
            .segments
            .last()
            .expect("there is a first segment");
        let mut segment = start;
        loop {
            let (header, bytes) = self.read_segment(scanner, segment)?;
            scanner.strays.clear();
            if let Some(at) = SegmentHeader::padding(&bytes)
                .iter()
                .position(|byte| *byte != 0)
            {
                scanner
                    .strays
                    .push(BLOCK - SegmentHeader::padding(&bytes).len() + at);
            }
            let stop = scanner.segment(segment, &bytes, BLOCK);
            let file = self.file(segment);
            self.findings
                .extend(scanner.strays.drain(..).map(|at| Finding::StrayBytes {
                    file: file.clone(),
                    offset: at as u64,
                }));
            if segment == last {
                let offset = match stop {
                    Stop::Clean { offset } | Stop::Bad { offset, .. } => offset,
                };
                return Ok(End {
                    header,
                    bytes,
                    offset,
                    stop,
                });
            }
            self.check_inner_end(scanner, segment, &bytes, stop)?;
            segment += 1;
        }
    }

    fn read_segment(
        &self,
        scanner: &Scanner,
        segment: u64,
    ) -> Result<(SegmentHeader, Vec<u8>), OpenError> {
        let name = segment_name(segment);
        let file = self.file(segment);
        let bytes = self
            .disk
            .read(&name)
            .map_err(|error| failed("read", file.clone(), &error))?;
        let (_, header) = check_header(self.disk, segment, Some(&self.sealer), &bytes)?;
        if header.before != scanner.tip {
            let what = format!(
                "it continues batch {}, but the segment before ends with batch {}",
                header.before.batch, scanner.tip.batch
            );
            return Err(OpenError::Damaged {
                file,
                offset: 0,
                what,
            });
        }
        Ok((header, bytes))
    }

    /// A segment is followed by another only after all its batches were synced: the next header tells where it ended.
    fn check_inner_end(
        &mut self,
        scanner: &Scanner,
        segment: u64,
        bytes: &[u8],
        stop: Stop,
    ) -> Result<(), OpenError> {
        let (_, next) = read_header(self.disk, segment + 1, Some(&self.sealer))?;
        let offset = match stop {
            Stop::Clean { offset } | Stop::Bad { offset, .. } => offset,
        };
        if next.before == scanner.tip {
            if let Some(at) = bytes[offset.min(bytes.len())..]
                .iter()
                .position(|byte| *byte != 0)
            {
                self.findings.push(Finding::StrayBytes {
                    file: self.file(segment),
                    offset: (offset + at) as u64,
                });
            }
            return Ok(());
        }
        let reason = if let Stop::Bad { what, .. } = stop {
            what
        } else {
            "it is not there"
        };
        let what = format!(
            "batch {} cannot be read ({reason}), and segment {} continues batch {}",
            scanner.tip.batch + 1,
            segment + 1,
            next.before.batch
        );
        Err(OpenError::Damaged {
            file: self.file(segment),
            offset: offset as u64,
            what,
        })
    }

    fn check_snapshot(
        &self,
        scanner: &Scanner,
        snapshot: Option<&Snapshot>,
        last: u64,
    ) -> Result<(), OpenError> {
        let Some(snapshot) = snapshot else {
            return Ok(());
        };
        let covers = snapshot.covers.sequence;
        let witness = self.disk.describe(&snapshot_name(covers.0));
        match scanner.watched_record.1 {
            Some(hash) if hash == snapshot.covers.hash => Ok(()),
            Some(_) => Err(OpenError::Damaged {
                file: witness,
                offset: 0,
                what: format!("its record {covers} is not the journal's record {covers}"),
            }),
            None => Err(OpenError::TooShort {
                file: self.file(last),
                found: format!("record {}", scanner.tip.record.sequence),
                acknowledged: format!("record {covers}"),
                witness,
            }),
        }
    }

    /// Decides whether what stands behind the last whole batch is a torn tail.
    fn check_end(
        &mut self,
        scanner: &Scanner,
        watermark: &Found,
        end: &End,
    ) -> Result<Option<TornTail>, OpenError> {
        let file = self.file(end.header.segment);
        let next = scanner.tip.batch + 1;
        let offset = end.offset as u64;
        let acknowledged = watermark.newest().map(|(_, slot)| slot);
        if let Stop::Bad {
            what,
            follows: Some((at, batch)),
            ..
        } = end.stop
        {
            let what = format!(
                "batch {next} cannot be read ({what}), and the header of batch {batch} stands at byte {at}"
            );
            return Err(OpenError::Damaged { file, offset, what });
        }
        self.check_watermark(scanner, watermark, end)?;
        let Stop::Bad {
            what,
            end: tail_end,
            ..
        } = end.stop
        else {
            return Ok(None);
        };
        if acknowledged.is_none() && self.folder.has_watermark {
            let what = format!(
                "both slots fail their checksums, and {file} has a tail at byte {offset} that may have been acknowledged ({what})"
            );
            return Err(OpenError::Damaged {
                file: self.disk.describe(WATERMARK_FILE),
                offset: 0,
                what,
            });
        }
        if acknowledged.is_none() {
            let why = format!(
                "{file} has a tail at byte {offset} that may have been acknowledged ({what})"
            );
            return Err(OpenError::Missing {
                file: self.disk.describe(WATERMARK_FILE),
                why,
            });
        }
        Ok(Some(TornTail {
            file,
            offset,
            bytes: tail_end as u64 - offset,
            batch: next,
            what,
        }))
    }

    fn check_watermark(
        &mut self,
        scanner: &Scanner,
        watermark: &Found,
        end: &End,
    ) -> Result<(), OpenError> {
        let file = self.file(end.header.segment);
        let witness = self.disk.describe(WATERMARK_FILE);
        let Some((
            _,
            Slot {
                batch, batch_hash, ..
            },
        )) = watermark.newest()
        else {
            if scanner.tip.batch > 0 && matches!(end.stop, Stop::Clean { .. }) {
                self.findings.push(Finding::WatermarkRebuilt);
            }
            return Ok(());
        };
        if batch > scanner.tip.batch {
            if let Stop::Bad { what, .. } = end.stop {
                let what = format!(
                    "batch {} cannot be read ({what}), and {witness} says that batch {batch} was acknowledged",
                    scanner.tip.batch + 1
                );
                return Err(OpenError::Damaged {
                    file,
                    offset: end.offset as u64,
                    what,
                });
            }
            let (found, acknowledged) = (
                format!("batch {}", scanner.tip.batch),
                format!("batch {batch}"),
            );
            return Err(OpenError::TooShort {
                file,
                found,
                acknowledged,
                witness,
            });
        }
        if scanner
            .watched_batch
            .1
            .is_some_and(|hash| hash != batch_hash)
        {
            let what = format!("its batch {batch} is not the journal's batch {batch}");
            return Err(OpenError::Damaged {
                file: witness,
                offset: 0,
                what,
            });
        }
        let damaged = watermark.slots.iter().position(Option::is_none);
        self.findings
            .extend(damaged.map(|slot| Finding::WatermarkSlot { slot }));
        Ok(())
    }
}

/// Writes the last segment anew with `content` and zeros behind it. What was there stays until the new file is durable.
pub(crate) fn rewrite_segment<D: Disk>(
    disk: &D,
    header: &SegmentHeader,
    content: &[u8],
) -> Result<(), Failure> {
    debug_assert!(!is_zero(content), "a segment starts with its header");
    let failed =
        |operation| move |error| Failure::new(operation, disk.describe(REPAIR_TMP), &error);
    let mut file = disk.create(REPAIR_TMP).map_err(failed("create"))?;
    file.write_at(0, content).map_err(failed("write"))?;
    file.allocate(header.bytes).map_err(failed("allocate"))?;
    file.sync().map_err(failed("sync"))?;
    disk.rename(REPAIR_TMP, &segment_name(header.segment))
        .map_err(failed("rename"))?;
    disk.sync_dir().map_err(failed("sync the folder of"))
}
