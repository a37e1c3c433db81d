//! A router's journal: entries wait for a sync; a crash keeps what was synced, and by chance a beginning of what was not.

use crate::rng::Rng;
use stoa_ledger::book::Entry;

/// The journal of one simulated router.
#[derive(Debug, Default)]
pub struct Journal {
    durable: Vec<Vec<u8>>,
    waiting: Vec<(u64, Vec<u8>)>,
    syncing: usize,
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

    /// The running sync ended: the number up to which all is durable, and whether another sync must be started.
    pub fn synced(&mut self) -> Option<(u64, bool)> {
        let batch: Vec<_> = self.waiting.drain(..self.syncing).collect();
        let (up_to, _) = *batch.last().map(|(sequence, _)| (*sequence, ())).as_ref()?;
        self.durable
            .extend(batch.into_iter().map(|(_, bytes)| bytes));
        self.syncing = self.waiting.len();
        Some((up_to, self.syncing > 0))
    }

    /// Power is gone: a beginning of the unsynced entries may have reached the disk. Returns how many were lost.
    pub fn crash(&mut self, rng: &mut Rng) -> usize {
        let kept = if rng.chance(300) {
            rng.below(self.syncing as u64 + 1) as usize
        } else {
            0
        };
        let lost = self.waiting.len() - kept;
        let tail = self.waiting.drain(..).take(kept).map(|(_, bytes)| bytes);
        self.durable.extend(tail);
        self.syncing = 0;
        lost
    }

    /// What a restart reads.
    pub fn entries(&self) -> Vec<Entry> {
        self.durable
            .iter()
            .map(|bytes| Entry::decode(bytes).expect("the journal holds what was written"))
            .collect()
    }

    /// Whether a reservation of this job is durable.
    pub fn holds_reservation(&self, job: stoa_types::JobId) -> bool {
        self.entries()
            .iter()
            .any(|entry| matches!(entry, Entry::Reserved { job: held, .. } if *held == job))
    }

    /// Whether a charge of this job is durable.
    pub fn holds_charge(&self, job: stoa_types::JobId) -> bool {
        self.entries().iter().any(
            |entry| matches!(entry, Entry::Charged { receipt } if receipt.receipt.job_id == job),
        )
    }
}
