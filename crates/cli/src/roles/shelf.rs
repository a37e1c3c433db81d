//! What a router keeps of jobs for audits, sealed, on its disk: records in a row of files. A file is deleted when nothing in it is wanted
//! any more. The files hold nothing that the router could read, and nothing else of a prompt is written.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use stoa_nodes::audit::KeptWork;
use stoa_types::{JobId, SignedTicket};

/// A file takes records until it holds so many bytes.
const FILE_BYTES: u64 = 8 << 20;
/// Length of a record's body, its job, and the first half of BLAKE3 over its body.
const HEADER: usize = 4 + 32 + 16;
/// Longer records are not read: nothing that was written is so long.
const BODY_BYTES_MAX: u32 = 64 << 20;

#[derive(Debug, Clone, Copy)]
struct Place {
    file: u64,
    offset: u64,
    bytes: u32,
}

/// The shelf of one router.
#[derive(Debug)]
pub struct Shelf {
    folder: PathBuf,
    places: BTreeMap<JobId, Place>,
    /// Wanted records of each file.
    wanted: BTreeMap<u64, u32>,
    current: u64,
    writes: Option<(File, u64)>,
}

impl Shelf {
    /// Opens the folder, forgets all jobs that are not `wanted` any more, and deletes files in which nothing is.
    pub fn open(folder: PathBuf, wanted: impl Fn(JobId) -> bool) -> io::Result<Self> {
        let mut shelf = Self {
            folder,
            places: BTreeMap::new(),
            wanted: BTreeMap::new(),
            current: 0,
            writes: None,
        };
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&shelf.folder)? {
            let name = entry?.file_name();
            let number = name.to_str().and_then(|name| name.strip_suffix(".kept"));
            numbers.extend(number.and_then(|number| number.parse::<u64>().ok()));
        }
        numbers.sort_unstable();
        for number in numbers.iter().copied() {
            shelf.current = shelf.current.max(number);
            for (job, place) in records(&shelf.path(number), number)? {
                if wanted(job) {
                    shelf.places.insert(job, place);
                }
            }
        }
        for place in shelf.places.values() {
            *shelf.wanted.entry(place.file).or_default() += 1;
        }
        for number in numbers {
            if !shelf.wanted.contains_key(&number) {
                fs::remove_file(shelf.path(number))?;
            }
        }
        Ok(shelf)
    }

    fn path(&self, number: u64) -> PathBuf {
        self.folder.join(format!("{number}.kept"))
    }

    /// Puts a job's work on the shelf. It is durable after [`Shelf::sync`].
    pub fn put(&mut self, job: JobId, kept: &KeptWork) -> io::Result<()> {
        let ticket = serde_json::to_vec(&kept.ticket).expect("a ticket holds only plain values");
        let length = u32::try_from(ticket.len()).map_err(io::Error::other)?;
        let body = [&length.to_be_bytes()[..], &ticket, &kept.sealed].concat();
        let bytes = u32::try_from(body.len()).map_err(io::Error::other)?;
        let mut record = bytes.to_be_bytes().to_vec();
        record.extend(job.0);
        record.extend(&blake3::hash(&body).as_bytes()[..16]);
        record.extend(&body);
        if self
            .writes
            .as_ref()
            .is_none_or(|(_, end)| *end >= FILE_BYTES)
        {
            self.next_file()?;
        }
        let Some((file, end)) = &mut self.writes else {
            return Err(io::Error::other("no file is open"));
        };
        if let Err(error) = file.write_all(&record) {
            // What was half written is behind the end of what counts: the rest goes into another file.
            self.writes = None;
            return Err(error);
        }
        let place = Place {
            file: self.current,
            offset: *end,
            bytes,
        };
        *end += record.len() as u64;
        // What was kept of it before is not wanted any more, wherever it stands.
        *self.wanted.entry(self.current).or_default() += 1;
        if let Some(before) = self.places.insert(job, place) {
            self.let_go(before.file);
        }
        Ok(())
    }

    /// One record of a file is not wanted any more; a file goes when none is.
    fn let_go(&mut self, file: u64) {
        let left = self.wanted.entry(file).or_default();
        *left = left.saturating_sub(1);
        if *left > 0 {
            return;
        }
        self.wanted.remove(&file);
        if file == self.current {
            self.writes = None;
        }
        if let Err(error) = fs::remove_file(self.path(file)) {
            tracing::warn!(%error, file, "sealed works that nobody may ask for any more could not be deleted; the next start tries again");
        }
    }

    fn next_file(&mut self) -> io::Result<()> {
        self.sync()?;
        self.current += 1;
        let path = self.path(self.current);
        let mut options = OpenOptions::new();
        let file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        File::open(&self.folder)?.sync_all()?;
        self.writes = Some((file, 0));
        Ok(())
    }

    /// What was put is on disk when this returns.
    pub fn sync(&self) -> io::Result<()> {
        self.writes
            .as_ref()
            .map_or(Ok(()), |(file, _)| file.sync_data())
    }

    /// What was kept of a job.
    pub fn get(&self, job: JobId) -> Option<KeptWork> {
        let place = self.places.get(&job)?;
        let mut record = vec![0; HEADER + place.bytes as usize];
        let file = File::open(self.path(place.file)).ok()?;
        file.read_exact_at(&mut record, place.offset).ok()?;
        let (header, body) = record.split_at(HEADER);
        if header[36..] != blake3::hash(body).as_bytes()[..16] {
            tracing::error!(%job, "what was kept for audits is damaged on disk");
            return None;
        }
        let (length, rest) = body.split_first_chunk::<4>()?;
        let ticket_bytes = usize::try_from(u32::from_be_bytes(*length)).ok()?;
        let (ticket, sealed) = rest.split_at_checked(ticket_bytes)?;
        let ticket: SignedTicket = serde_json::from_slice(ticket).ok()?;
        Some(KeptWork {
            ticket,
            sealed: sealed.to_vec(),
        })
    }

    /// Lets go of jobs; a file goes when it holds no other.
    pub fn erase(&mut self, jobs: &[JobId]) {
        for job in jobs {
            let Some(place) = self.places.remove(job) else {
                continue;
            };
            self.let_go(place.file);
        }
    }

    /// Jobs on the shelf.
    pub fn len(&self) -> usize {
        self.places.len()
    }
}

/// The whole records of a file; what a crash left of another one behind them is no record.
fn records(path: &Path, number: u64) -> io::Result<Vec<(JobId, Place)>> {
    let mut file = File::open(path)?;
    let end = file.metadata()?.len();
    let (mut offset, mut found) = (0, Vec::new());
    let mut header = [0; HEADER];
    while offset + HEADER as u64 <= end {
        file.seek(SeekFrom::Start(offset))?;
        file.read_exact(&mut header)?;
        let (length, rest) = header.split_at(4);
        let bytes = u32::from_be_bytes(length.try_into().expect("split at 4"));
        let next = offset + HEADER as u64 + u64::from(bytes);
        if bytes > BODY_BYTES_MAX || next > end {
            break;
        }
        let job = JobId(
            rest[..32]
                .try_into()
                .expect("a header holds 32 bytes of it"),
        );
        let place = Place {
            file: number,
            offset,
            bytes,
        };
        found.push((job, place));
        offset = next;
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
