//! A validator's ballots in a journal of its own: on disk before they are committed, so that no second one is ever made for a round.

use std::path::{Path, PathBuf};
use stoa_nodes::validator::Voted;
use stoa_store::{
    AppendError, GroupCommit, Journal, JournalOptions, NewRecord, RealDisk, Recovery,
};

/// Kind and version of the journal's records: one ballot each, as JSON.
const KIND: u16 = 1;
const VERSION: u16 = 1;
/// Many validators may share a disk: small segments.
const OPTIONS: JournalOptions = JournalOptions {
    segment_bytes: 1 << 20,
};

/// Folder of the journal below a validator's data folder.
pub fn folder(data: &Path) -> PathBuf {
    data.join("ballots")
}

/// The open journal.
pub struct Votes {
    folder: PathBuf,
    /// `None` after it failed, until it is opened again.
    group: Option<GroupCommit<RealDisk>>,
}

impl Votes {
    /// Opens the journal and gives the ballots in it.
    pub fn open(folder: &Path) -> Result<(Self, Vec<Voted>), String> {
        let (group, recovery) = open(folder)?;
        let read = |record: stoa_store::Record<'_>| {
            serde_json::from_slice(record.payload)
                .map_err(|error| format!("record {} is no ballot: {error}", record.sequence))
        };
        let kept = recovery
            .records
            .iter()
            .map(read)
            .collect::<Result<_, _>>()?;
        let votes = Self {
            folder: folder.to_owned(),
            group: Some(group),
        };
        Ok((votes, kept))
    }

    /// Writes a ballot; `durable` is told when it is on disk, and never where it could not be written. Whoever asks again has the journal
    /// opened anew if it failed.
    pub fn keep(
        &mut self,
        voted: &Voted,
        durable: impl FnOnce() + Send + 'static,
    ) -> Result<(), String> {
        let group = match self.group.take() {
            Some(group) => group,
            None => open(&self.folder)?.0,
        };
        let payload = serde_json::to_vec(voted).expect("a ballot holds only plain values");
        let record = NewRecord {
            kind: KIND,
            version: VERSION,
            payload: &payload,
        };
        let told = move |result: Result<_, AppendError>| match result {
            Ok(_) => durable(),
            Err(error) => tracing::error!(%error, "a ballot was not written; it is tried again"),
        };
        match group.submit(&[record], Box::new(told)) {
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
        Ok(())
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
    use stoa_types::Digest;

    #[test]
    fn what_was_told_to_be_durable_is_there_after_a_restart() {
        let folder = tempfile::tempdir().expect("a folder");
        let voted = |round| Voted {
            round,
            verdicts: vec![(Digest([1; 32]), Outcome::Good, Digest([2; 32]))],
        };
        let (mut votes, kept) = Votes::open(folder.path()).expect("opens");
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
        let (_, kept) = Votes::open(folder.path()).expect("opens");
        assert_eq!(kept, [voted(1), voted(2), voted(3)]);
    }
}
