//! A router's journal: entries wait for a sync; a crash keeps what was synced, and by chance a beginning of what was not.

use crate::rng::Rng;
use std::collections::BTreeSet;
use stoa_ledger::book::{Entry, RouterBook};
use stoa_types::JobId;

/// The journal of one simulated router.
#[derive(Debug, Default)]
pub struct Journal {
    /// The book that the entries before `durable` became.
    snapshot: Option<Vec<u8>>,
    durable: Vec<Vec<u8>>,
    waiting: Vec<(u64, Vec<u8>)>,
    syncing: usize,
    /// Jobs whose reservation or charge is durable.
    reserved: BTreeSet<JobId>,
    charged: BTreeSet<JobId>,
}

impl Journal {
    /// Takes an entry; true when a sync must be started for it.
    pub fn write(&mut self, sequence: u64, entry: &Entry) -> bool {
        self.waiting.push((sequence, entry.encode()));
        if self.syncing > 0 {
            return false;
        }
        self.syncing = self.waiting.len();
        true
    }

    /// The number up to which all is durable when the running sync ends.
    pub fn syncing_up_to(&self) -> Option<u64> {
        let last = self.syncing.checked_sub(1)?;
        self.waiting.get(last).map(|(sequence, _)| *sequence)
    }

    /// The running sync ended: the number up to which all is durable, and whether another sync must be started.
    pub fn synced(&mut self) -> Option<(u64, bool)> {
        let up_to = self.syncing_up_to()?;
        let batch: Vec<_> = self.waiting.drain(..self.syncing).collect();
        batch.into_iter().for_each(|(_, bytes)| self.keep(bytes));
        self.syncing = self.waiting.len();
        Some((up_to, self.syncing > 0))
    }

    fn keep(&mut self, bytes: Vec<u8>) {
        match decode(&bytes) {
            Entry::Reserved { job, .. } => drop(self.reserved.insert(job)),
            Entry::ReservedTogether { jobs, .. } => self.reserved.extend(jobs),
            Entry::Charged { receipt } => drop(self.charged.insert(receipt.receipt.job_id)),
            _ => {}
        }
        self.durable.push(bytes);
    }

    /// Power is gone: a beginning of the unsynced entries may have reached the disk. Returns how many were lost.
    pub fn crash(&mut self, rng: &mut Rng) -> usize {
        let kept = if rng.chance(300) {
            rng.below(self.syncing as u64 + 1) as usize
        } else {
            0
        };
        let lost = self.waiting.len() - kept;
        let tail: Vec<_> = self.waiting.drain(..).take(kept).collect();
        tail.into_iter().for_each(|(_, bytes)| self.keep(bytes));
        self.syncing = 0;
        lost
    }

    /// What a restart makes of it, from the empty book of this router.
    pub fn book(&self, empty: RouterBook) -> RouterBook {
        let base = match &self.snapshot {
            Some(bytes) => RouterBook::restore(bytes).expect("a snapshot of a sound book"),
            None => empty,
        };
        let entries: Vec<_> = self.durable.iter().map(|bytes| decode(bytes)).collect();
        base.replay(&entries)
            .expect("a journal that was synced in order replays")
    }

    /// All that is durable becomes a snapshot, without the router's memory having a part in it.
    pub fn compact(&mut self, empty: RouterBook) {
        self.snapshot = Some(self.book(empty).snapshot());
        self.durable.clear();
    }

    /// Whether a reservation of this job is durable.
    pub fn holds_reservation(&self, job: JobId) -> bool {
        self.reserved.contains(&job)
    }

    /// Whether a charge of this job is durable.
    pub fn holds_charge(&self, job: JobId) -> bool {
        self.charged.contains(&job)
    }
}

fn decode(bytes: &[u8]) -> Entry {
    Entry::decode(bytes).expect("the journal holds what was written")
}
