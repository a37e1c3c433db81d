//! What a role must never forget, in a journal of its own: a validator's ballots, on disk before they are committed, so that no second one
//! is ever made for a round; a planter's plants, before their commitments are sent; a router's orders that were taken and not delivered. Only
//! the newest are of use to anybody: older ones go.

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use stoa_store::{
    AppendError, GroupCommit, Journal, JournalOptions, NewRecord, RealDisk, Recovery, SnapshotError,
};

/// Kind and version of the journal's records, as JSON: one ballot, one word about a plant, or one order. Which, the folder says.
const KIND: u16 = 1;
const VERSION: u16 = 1;
/// Many roles may share a disk: small segments.
const OPTIONS: JournalOptions = JournalOptions {
    segment_bytes: 1 << 20,
};
/// Records that are kept. Nobody can vote any more in a round so many rounds ago, and a planter has a few plants open.
const KEPT: usize = 2_000;

/// Folder of a validator's ballots below its data folder.
pub fn ballots(data: &Path) -> PathBuf {
    data.join("ballots")
}

/// Folder of a planter's plants below its data folder.
pub fn plants(data: &Path) -> PathBuf {
    data.join("plants")
}

/// The open journal.
pub struct Records<T> {
    folder: PathBuf,
    /// `None` after it failed, until it is opened again.
    group: Option<GroupCommit<RealDisk>>,
    /// The newest.
    recent: VecDeque<T>,
    /// Written since the older ones went.
    since: usize,
    /// How many are kept.
    most: usize,
}

impl<T: Serialize + DeserializeOwned + Clone> Records<T> {
    /// Opens the journal and gives the newest records in it.
    pub fn open(folder: &Path) -> Result<(Self, Vec<T>), String> {
        Self::open_for(folder, KEPT)
    }

    fn open_for(folder: &Path, most: usize) -> Result<(Self, Vec<T>), String> {
        let (group, recovery) = open(folder)?;
        let mut recent: VecDeque<T> = match &recovery.snapshot {
            Some(snapshot) => serde_json::from_slice(&snapshot.state)
                .map_err(|error| format!("the snapshot is none of these records: {error}"))?,
            None => VecDeque::new(),
        };
        let since = recovery.records.len();
        for record in recovery.records.iter() {
            let read = serde_json::from_slice(record.payload);
            recent.push_back(
                read.map_err(|error| {
                    format!("record {} cannot be read: {error}", record.sequence)
                })?,
            );
        }
        recent.drain(..recent.len().saturating_sub(most));
        let kept = recent.iter().cloned().collect();
        let records = Self {
            folder: folder.to_owned(),
            group: Some(group),
            recent,
            since,
            most,
        };
        Ok((records, kept))
    }

    /// Writes a record; `durable` is told when it is on disk, and never where it could not be written. Whoever asks again has the journal
    /// opened anew if it failed.
    pub fn keep(
        &mut self,
        record: &T,
        durable: impl FnOnce() + Send + 'static,
    ) -> Result<(), String> {
        let group = match self.group.take() {
            Some(group) => group,
            None => open(&self.folder)?.0,
        };
        if self.since > 2 * self.most {
            self.forget(&group);
        }
        let payload = serde_json::to_vec(record).expect("a record holds only plain values");
        let written = NewRecord {
            kind: KIND,
            version: VERSION,
            payload: &payload,
        };
        let told = move |result: Result<_, AppendError>| match result {
            Ok(_) => durable(),
            Err(error) => tracing::error!(%error, "a record was not written; it is tried again"),
        };
        match group.submit(&[written], Box::new(told)) {
            Ok(_) => self.group = Some(group),
            Err(AppendError::Failed(error) | AppendError::Poisoned(error)) => {
                return Err(error.to_string());
            }
            Err(AppendError::Closed) => return Err("the journal is closed".to_owned()),
            Err(error) => {
                self.group = Some(group);
                return Err(error.to_string());
            }
        }
        self.recent.push_back(record.clone());
        let old = self.recent.len().saturating_sub(self.most);
        self.recent.drain(..old);
        self.since += 1;
        Ok(())
    }

    /// The newest, oldest first.
    pub fn newest(&self) -> impl Iterator<Item = &T> {
        self.recent.iter()
    }

    /// Lets go of what is older than the newest. Where it fails nothing is lost: the files only stay longer.
    fn forget(&mut self, group: &GroupCommit<RealDisk>) {
        let state = serde_json::to_vec(&self.recent).expect("records hold only plain values");
        match group.snapshots().take(group.position(), &state) {
            Ok(_) => self.since = 0,
            // The newest one is still on its way to the disk.
            Err(SnapshotError::NotDurable { .. }) => {}
            Err(error) => {
                self.since = 0;
                tracing::warn!(%error, "old records could not be let go; it is tried again later");
            }
        }
    }
}

fn open(folder: &Path) -> Result<(GroupCommit<RealDisk>, Recovery), String> {
    let disk = RealDisk::open(folder).map_err(|error| error.to_string())?;
    let (journal, recovery) = Journal::open(disk, OPTIONS).map_err(|error| error.to_string())?;
    let group = GroupCommit::start(journal).map_err(|error| error.to_string())?;
    Ok((group, recovery))
}

#[cfg(test)]
mod tests {
    use super::*;
    use stoa_ledger::audit::Outcome;
    use stoa_nodes::validator::Voted;
    use stoa_types::Digest;

    #[test]
    fn what_was_told_to_be_durable_is_there_after_a_restart() {
        let folder = tempfile::tempdir().expect("a folder");
        let voted = |round| Voted {
            round,
            verdicts: vec![(Digest([1; 32]), Outcome::Good, Digest([2; 32]))],
        };
        let (mut votes, kept) = Records::open(folder.path()).expect("opens");
        assert_eq!(kept, []);
        let (tell, told) = std::sync::mpsc::channel();
        for round in 1..4 {
            let tell = tell.clone();
            let durable = move || tell.send(round).expect("somebody listens");
            votes.keep(&voted(round), durable).expect("written");
        }
        let patience = std::time::Duration::from_secs(20);
        let told: Vec<u64> = (0..3)
            .map(|_| told.recv_timeout(patience).expect("durable"))
            .collect();
        assert_eq!(told, [1, 2, 3]);
        drop(votes);
        let (_, kept) = Records::<Voted>::open(folder.path()).expect("opens");
        assert_eq!(kept, [voted(1), voted(2), voted(3)]);
    }

    #[test]
    fn the_newest_are_there_after_a_restart_and_older_ones_take_no_room() {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut records, kept) = Records::<u64>::open_for(folder.path(), 10).expect("opens");
        assert!(kept.is_empty());
        let (tell, told) = std::sync::mpsc::channel();
        for number in 0..200_u64 {
            let tell = tell.clone();
            let durable = move || tell.send(number).expect("somebody listens");
            records.keep(&number, durable).expect("written");
            let patience = std::time::Duration::from_secs(20);
            assert_eq!(told.recv_timeout(patience), Ok(number));
        }
        drop(records);
        let (group, recovery) = open(folder.path()).expect("opens");
        let behind = recovery.records.len();
        assert!(behind < 30, "{behind} are read again at every start");
        drop(group);
        let (_, kept) = Records::<u64>::open_for(folder.path(), 10).expect("opens");
        assert_eq!(kept, (190..200).collect::<Vec<_>>());
    }
}
