//! Answers kept for Idempotency-Keys: one file each, sealed by `api`, for a day, bounded in number and bytes.

use super::router::now;
use crate::data::write_private;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use stoa_api::{Claim, Kept, ReplayFault, ReplayId, ReplayStore};
use stoa_nodes::client::KeyId;
use stoa_types::{Address, Digest, JobId, Millis, Timestamp};

const KEPT_FOR: Millis = Millis::from_secs(86_400);
const VERSION: u32 = 1;

/// How much is kept.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Headers of one account.
    pub per_account: usize,
    /// Headers in all.
    pub entries: usize,
    /// Bytes in all.
    pub bytes: u64,
}

impl Bounds {
    /// What a router keeps: a thirtieth of it is an answer a second, all day long.
    pub const STANDARD: Self = Self {
        per_account: 50_000,
        entries: 100_000,
        bytes: 1 << 30,
    };
}

/// What stands before the sealed answer, as one line of JSON.
#[derive(Serialize, Deserialize)]
struct Line {
    version: u32,
    account: Address,
    key: u64,
    body: Digest,
    job: JobId,
    at: Timestamp,
    /// What follows is an answer only if the job was charged.
    #[serde(default)]
    if_charged: bool,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    account: Address,
    at: Timestamp,
    bytes: u64,
}

#[derive(Debug, Default)]
struct Index {
    entries: BTreeMap<ReplayId, Entry>,
    per_account: BTreeMap<Address, usize>,
    bytes: u64,
}

impl Index {
    fn insert(&mut self, id: ReplayId, entry: Entry) {
        self.remove(id);
        self.bytes += entry.bytes;
        *self.per_account.entry(entry.account).or_default() += 1;
        self.entries.insert(id, entry);
    }

    fn remove(&mut self, id: ReplayId) {
        let Some(entry) = self.entries.remove(&id) else {
            return;
        };
        self.bytes -= entry.bytes;
        if let Some(count) = self.per_account.get_mut(&entry.account) {
            *count -= 1;
            if *count == 0 {
                self.per_account.remove(&entry.account);
            }
        }
    }
}

/// The folder of kept answers.
pub struct Replays {
    folder: PathBuf,
    bounds: Bounds,
    index: Mutex<Index>,
}

fn over(at: Timestamp) -> bool {
    now().since(at) >= KEPT_FOR
}

impl Replays {
    /// Reads what is kept and forgets what is over or no record: such a file says nothing about any request. A file that the disk does
    /// not give back now may be a claim, and a forgotten claim is a request that is paid twice: that is an error.
    pub fn open(folder: PathBuf, bounds: Bounds) -> std::io::Result<Self> {
        let mut index = Index::default();
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let mut id = [0; 32];
            let named = name.is_some_and(|name| hex::decode_to_slice(name, &mut id).is_ok());
            let bytes = std::fs::read(&path).map_err(|error| {
                let what = format!("the kept answer {} cannot be read: {error}", path.display());
                std::io::Error::new(error.kind(), what)
            })?;
            match parse(&bytes).map(|(line, _)| (line, bytes.len() as u64)) {
                Some((line, bytes)) if named && !over(line.at) => index.insert(
                    ReplayId(id),
                    Entry {
                        account: line.account,
                        at: line.at,
                        bytes,
                    },
                ),
                _ => std::fs::remove_file(&path)?,
            }
        }
        Ok(Self {
            folder,
            bounds,
            index: Mutex::new(index),
        })
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, id: ReplayId) -> PathBuf {
        self.folder.join(hex::encode(id.0))
    }

    /// Makes room for an entry, or says that there is none.
    fn make_room(&self, id: ReplayId, entry: Entry) -> Result<(), ReplayFault> {
        let mut index = self.index();
        let has_room = |index: &Index| {
            let known = index.entries.get(&id);
            let own = index.per_account.get(&entry.account).copied().unwrap_or(0);
            let new = usize::from(known.is_none());
            own + new <= self.bounds.per_account
                && index.entries.len() + new <= self.bounds.entries
                && index.bytes - known.map_or(0, |known| known.bytes) + entry.bytes
                    <= self.bounds.bytes
        };
        if !has_room(&index) {
            let old = index.entries.iter().filter(|(_, entry)| over(entry.at));
            let old: Vec<_> = old.map(|(id, _)| *id).collect();
            for id in old {
                index.remove(id);
                // A file that stays is removed at the next start.
                let _ = std::fs::remove_file(self.path(id));
            }
            if !has_room(&index) {
                return Err(ReplayFault::Full);
            }
        }
        index.insert(id, entry);
        Ok(())
    }

    fn write(
        &self,
        id: ReplayId,
        claim: &Claim,
        sealed: &[u8],
        if_charged: bool,
    ) -> Result<(), ReplayFault> {
        let at = now();
        let line = Line {
            version: VERSION,
            account: claim.account,
            key: claim.key.0,
            body: Digest(claim.body),
            job: claim.job,
            at,
            if_charged,
        };
        let mut bytes = serde_json::to_vec(&line).expect("ids and numbers");
        bytes.push(b'\n');
        bytes.extend_from_slice(sealed);
        let before = self.index().entries.get(&id).copied();
        let entry = Entry {
            account: claim.account,
            at,
            bytes: bytes.len() as u64,
        };
        self.make_room(id, entry)?;
        write_private(&self.path(id), &bytes).map_err(|error| {
            let mut index = self.index();
            index.remove(id);
            if let Some(before) = before {
                index.insert(id, before);
            }
            tracing::warn!(%error, "an answer for an Idempotency-Key could not be kept");
            ReplayFault::Disk("the disk refused".to_owned())
        })
    }
}

fn parse(bytes: &[u8]) -> Option<(Line, &[u8])> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let line: Line = serde_json::from_slice(&bytes[..end]).ok()?;
    (line.version == VERSION).then_some((line, &bytes[end + 1..]))
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, ReplayFault> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(ReplayFault::Disk(error.to_string())),
    }
}

impl ReplayStore for Replays {
    fn find(&self, id: ReplayId) -> Result<Option<Kept>, ReplayFault> {
        if !self.index().entries.contains_key(&id) {
            return Ok(None);
        }
        let Some(bytes) = read(&self.path(id))? else {
            return Ok(None);
        };
        let damaged = || ReplayFault::Disk("a kept answer is damaged".to_owned());
        let (line, sealed) = parse(&bytes).ok_or_else(damaged)?;
        if over(line.at) {
            return Ok(None);
        }
        let claim = Claim {
            account: line.account,
            key: KeyId(line.key),
            body: line.body.0,
            job: line.job,
        };
        Ok(Some(match (sealed, line.if_charged) {
            ([], _) => Kept::Claimed(claim),
            (sealed, true) => Kept::Prepared(claim, sealed.to_vec()),
            (sealed, false) => Kept::Answered(claim, sealed.to_vec()),
        }))
    }

    fn claim(&self, id: ReplayId, claim: &Claim) -> Result<(), ReplayFault> {
        self.write(id, claim, &[], false)
    }

    fn prepare(&self, id: ReplayId, claim: &Claim, sealed: &[u8]) -> Result<(), ReplayFault> {
        self.write(id, claim, sealed, true)
    }

    fn answer(&self, id: ReplayId, claim: &Claim, sealed: &[u8]) -> Result<(), ReplayFault> {
        self.write(id, claim, sealed, false)
    }

    fn forget(&self, id: ReplayId) {
        self.index().remove(id);
        if let Err(error) = std::fs::remove_file(self.path(id)) {
            tracing::debug!(%error, "a kept claim could not be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Bounds = Bounds {
        per_account: 2,
        entries: 3,
        bytes: 4_000,
    };

    fn claim(account: u8) -> Claim {
        Claim {
            account: Address([account; 20]),
            key: KeyId(7),
            body: [3; 32],
            job: JobId([4; 32]),
        }
    }

    fn id(n: u8) -> ReplayId {
        ReplayId([n; 32])
    }

    fn open(folder: &Path) -> Replays {
        Replays::open(folder.to_owned(), SMALL).expect("opens")
    }

    #[test]
    fn claims_and_answers_are_there_after_a_restart_and_forgotten_ones_are_not() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let replays = open(folder.path());
        replays.claim(id(1), &claim(1)).expect("kept");
        replays.claim(id(2), &claim(1)).expect("kept");
        replays
            .answer(id(2), &claim(1), b"sealed\nbytes")
            .expect("kept");
        replays.claim(id(3), &claim(2)).expect("kept");
        replays.forget(id(3));
        let prepared = Kept::Prepared(claim(2), b"sealed".to_vec());
        replays.prepare(id(4), &claim(2), b"sealed").expect("kept");
        std::fs::write(folder.path().join("half"), "{").expect("writes");
        drop(replays);
        let replays = open(folder.path());
        assert_eq!(replays.find(id(1)), Ok(Some(Kept::Claimed(claim(1)))));
        let answered = Kept::Answered(claim(1), b"sealed\nbytes".to_vec());
        assert_eq!(replays.find(id(2)), Ok(Some(answered)));
        assert_eq!(replays.find(id(3)), Ok(None));
        assert_eq!(replays.find(id(4)), Ok(Some(prepared)));
        assert!(!folder.path().join("half").exists());
    }

    #[test]
    fn a_claim_that_the_disk_does_not_give_back_stops_the_start_and_is_not_forgotten() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let elsewhere = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join(hex::encode(id(1).0));
        // Reading what leads to a folder is an error of the system.
        std::os::unix::fs::symlink(elsewhere.path(), &path).expect("linked");
        let Err(error) = Replays::open(folder.path().to_owned(), SMALL) else {
            panic!("it was passed over");
        };
        assert!(error.to_string().contains(&hex::encode(id(1).0)), "{error}");
        assert!(path.symlink_metadata().is_ok(), "it is still there");
    }

    #[test]
    fn room_is_bounded_for_each_account_and_in_all_and_nothing_kept_is_given_up_early() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let replays = open(folder.path());
        for n in [1, 2] {
            replays.claim(id(n), &claim(1)).expect("room");
        }
        assert_eq!(replays.claim(id(3), &claim(1)), Err(ReplayFault::Full));
        replays
            .claim(id(3), &claim(2))
            .expect("room of another account");
        assert_eq!(replays.claim(id(4), &claim(3)), Err(ReplayFault::Full));
        assert_eq!(
            replays.answer(id(1), &claim(1), &[7; 5_000]),
            Err(ReplayFault::Full)
        );
        assert_eq!(replays.find(id(1)), Ok(Some(Kept::Claimed(claim(1)))));
        replays
            .answer(id(1), &claim(1), &[7; 50])
            .expect("a known one needs no new place");
        replays.forget(id(2));
        replays.claim(id(5), &claim(1)).expect("room again");
    }

    #[test]
    fn what_is_older_than_a_day_is_not_found_and_makes_room() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let old = Timestamp(now().0 - KEPT_FOR.0);
        let replays = open(folder.path());
        for n in [1, 2] {
            replays.claim(id(n), &claim(1)).expect("room");
            let path = replays.path(id(n));
            let mut bytes = std::fs::read(&path).expect("kept");
            bytes.pop();
            let mut line: Line = serde_json::from_slice(&bytes).expect("a line");
            line.at = old;
            let mut bytes = serde_json::to_vec(&line).expect("JSON");
            bytes.push(b'\n');
            std::fs::write(path, bytes).expect("writes");
            replays.index().entries.get_mut(&id(n)).expect("known").at = old;
        }
        assert_eq!(replays.find(id(1)), Ok(None));
        replays.claim(id(3), &claim(1)).expect("room");
        assert!(!replays.path(id(2)).exists());
    }

    #[test]
    fn an_answer_that_the_disk_refuses_leaves_the_claim() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let replays = open(folder.path());
        replays.claim(id(1), &claim(1)).expect("kept");
        // A folder where the temporary file should be.
        let name = format!(".{}.new", hex::encode(id(1).0));
        std::fs::create_dir(folder.path().join(name)).expect("made");
        let refused = replays.answer(id(1), &claim(1), b"sealed");
        assert!(matches!(refused, Err(ReplayFault::Disk(_))));
        assert_eq!(replays.find(id(1)), Ok(Some(Kept::Claimed(claim(1)))));
    }
}
