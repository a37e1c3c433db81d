//! Segment files: names, preparation ahead of need, and the step that turns a prepared file into a segment.

use std::io;

use crate::disk::{Disk, DiskFile};
use crate::error::Failure;
use crate::format::{Sealer, SegmentHeader};

pub(crate) const SPARE_FILE: &str = "spare.tmp";
pub(crate) const REPAIR_TMP: &str = "repair.tmp";

pub(crate) fn segment_name(segment: u64) -> String {
    format!("journal-{segment:016}.log")
}

/// Reads the number out of `prefix` + digits + `suffix`; any other spelling is another file.
pub(crate) fn number_in(name: &str, prefix: &str, suffix: &str, digits: usize) -> Option<u64> {
    let number = name.strip_prefix(prefix)?.strip_suffix(suffix)?;
    (number.len() == digits && number.bytes().all(|byte| byte.is_ascii_digit()))
        .then(|| number.parse().ok())?
}

/// Fills a file with zeros and syncs it, so that a segment never asks for space once it is in use.
/// After an error the space is given back.
pub(crate) fn prepare_spare<D: Disk>(disk: &D, bytes: u64) -> Result<D::File, Failure> {
    let prepared = || -> Result<D::File, (&'static str, io::Error)> {
        let mut file = disk.create(SPARE_FILE).map_err(|error| ("create", error))?;
        file.allocate(bytes).map_err(|error| ("allocate", error))?;
        file.sync().map_err(|error| ("sync", error))?;
        Ok(file)
    };
    prepared().map_err(|(operation, error)| {
        // The file holds nothing; a later attempt empties it anyway.
        let _ = disk.remove(SPARE_FILE);
        Failure::new(operation, disk.describe(SPARE_FILE), &error)
    })
}

/// Writes the header into the prepared file and gives it its name. Durable when it returns.
pub(crate) fn found_segment<D: Disk>(
    disk: &D,
    spare: &mut D::File,
    sealer: &Sealer,
    header: &SegmentHeader,
) -> Result<(), Failure> {
    let name = segment_name(header.segment);
    let failed =
        |operation| move |error| Failure::new(operation, disk.describe(SPARE_FILE), &error);
    spare
        .write_at(0, &header.encode(sealer))
        .map_err(failed("write"))?;
    spare.sync().map_err(failed("sync"))?;
    disk.rename(SPARE_FILE, &name).map_err(failed("rename"))?;
    disk.sync_dir().map_err(failed("sync the folder of"))
}
