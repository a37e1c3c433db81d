//! What a provider earned: receipts with both signatures in a journal of its own. With them it can claim alone.
//!
//! A receipt that finds no room on the disk waits in memory and is written when there is some; after a failed write the journal is
//! opened anew, and what is not found in it is written again. Both are tried at growing intervals and said in the log.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use stoa_store::{
    AppendError, Disk, GroupCommit, Journal, JournalOptions, NewRecord, RealDisk, Recovery,
};
use stoa_types::{Digest, JobId, SignedReceipt, TokenAmount};

/// Kind and version of the journal's records: one earned receipt each, as JSON.
const KIND: u16 = 1;
const VERSION: u16 = 1;
/// Several providers may share a disk: small segments.
const OPTIONS: JournalOptions = JournalOptions {
    segment_bytes: 1 << 20,
};
/// Between two tries of what could not be written; doubles up to the second value.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);

/// Folder of a provider's journal below its data folder.
pub fn folder(data: &Path) -> PathBuf {
    data.join("receipts")
}

/// A receipt on its way to the disk.
#[derive(Clone)]
struct Unkept {
    job: JobId,
    /// Digest of the job's ticket.
    order: Digest,
    payload: Arc<[u8]>,
}

/// What the journal's thread and the provider's loop share.
#[derive(Default)]
struct Shared {
    /// Handed to the journal, not yet durable; by the number of the hand-over.
    submitted: BTreeMap<u64, Unkept>,
    /// Why the open journal takes no more.
    failed: Option<String>,
}

struct Writing<D: Disk> {
    /// `None` while it could not be opened again.
    group: Option<GroupCommit<D>>,
    /// Found no room, oldest first.
    waiting: VecDeque<Unkept>,
    next: u64,
    jobs: u64,
    gross: TokenAmount,
    /// When to try again, while something could not be written.
    retry: Option<Instant>,
    /// How long the next wait is.
    pause: Duration,
}

/// Receipts with both signatures, durable: what a provider can claim with alone.
pub struct Earnings<D: Disk = RealDisk> {
    disk: Box<dyn Fn() -> Result<D, String> + Send + Sync>,
    writing: Mutex<Writing<D>>,
    shared: Arc<Mutex<Shared>>,
    /// Is told the order of each receipt that is on disk.
    durable: Arc<dyn Fn(Digest) + Send + Sync>,
}

impl Earnings {
    /// Opens the journal in `folder`.
    pub fn open(folder: &Path) -> Result<Self, String> {
        let folder = folder.to_owned();
        Self::open_on(move || RealDisk::open(&folder).map_err(|error| error.to_string()))
    }
}

impl<D: Disk> Earnings<D> {
    /// Opens the journal on the disk that `disk` gives; it is asked again after a failure.
    fn open_on(
        disk: impl Fn() -> Result<D, String> + Send + Sync + 'static,
    ) -> Result<Self, String> {
        let (group, recovery) = open_journal(disk()?)?;
        let (mut jobs, mut gross) = (0, TokenAmount::ZERO);
        for receipt in receipts(&recovery)? {
            (jobs, gross) = add((jobs, gross), receipt.receipt.charge);
        }
        let writing = Writing {
            group: Some(group),
            waiting: VecDeque::new(),
            next: 0,
            jobs,
            gross,
            retry: None,
            pause: RETRY,
        };
        Ok(Self {
            disk: Box::new(disk),
            writing: Mutex::new(writing),
            shared: Arc::default(),
            durable: Arc::new(|_| {}),
        })
    }

    /// Tells `durable` the order of each receipt once that is on disk.
    pub fn telling(mut self, durable: impl Fn(Digest) + Send + Sync + 'static) -> Self {
        self.durable = Arc::new(durable);
        self
    }

    /// Jobs and gross charges so far.
    pub fn total(&self) -> (u64, TokenAmount) {
        let writing = self.writing();
        (writing.jobs, writing.gross)
    }

    /// Keeps a receipt: at once, or as soon as the disk takes it.
    pub fn keep(&self, receipt: &SignedReceipt) {
        let payload = serde_json::to_vec(receipt).expect("a receipt holds only plain values");
        let mut writing = self.writing();
        (writing.jobs, writing.gross) = add((writing.jobs, writing.gross), receipt.receipt.charge);
        writing.waiting.push_back(Unkept {
            job: receipt.receipt.job_id,
            order: receipt.receipt.ticket_hash,
            payload: payload.into(),
        });
        // While something waits, its own time decides: a full disk is not asked for every receipt.
        if writing.retry.is_none() {
            self.write(&mut writing, Instant::now());
        }
    }

    /// Tries again what could not be written, when it is time to. Call it every now and then.
    pub fn retry(&self, now: Instant) {
        let mut writing = self.writing();
        let failed = self.shared().failed.take();
        if let Some(reason) = failed {
            tracing::error!(%reason, "the journal of earned receipts failed; it is opened anew, and nothing earned is forgotten");
            writing.group = None;
            writing.retry = Some(now);
        }
        if writing.retry.is_none_or(|at| now < at) {
            return;
        }
        writing.retry = None;
        if writing.group.is_none()
            && let Err(error) = self.reopen(&mut writing)
        {
            return self.later(&mut writing, now, &error);
        }
        self.write(&mut writing, now);
        if writing.retry.is_none() {
            writing.pause = RETRY;
            tracing::info!(
                "the disk takes earned receipts again; those that waited are handed to it"
            );
        }
    }

    /// The receipt for the order with this hash. The journal is opened anew for it: rarely does anybody ask.
    pub fn find(&self, order: Digest) -> Result<Option<SignedReceipt>, String> {
        let mut writing = self.writing();
        // Waits for what was handed over.
        writing.group = None;
        let now = Instant::now();
        let kept = match self.reopen(&mut writing) {
            Ok(kept) => kept,
            Err(error) => {
                self.later(&mut writing, now, &error);
                return Err(error);
            }
        };
        let waiting = writing.waiting.iter();
        let waiting = waiting.filter_map(|one| serde_json::from_slice(&one.payload).ok());
        let found = kept
            .into_iter()
            .chain(waiting)
            .find(|signed: &SignedReceipt| signed.receipt.ticket_hash == order);
        self.write(&mut writing, now);
        Ok(found)
    }

    /// Receipts that are not on disk yet.
    pub fn unkept(&self) -> usize {
        self.writing().waiting.len() + self.shared().submitted.len()
    }

    /// Hands what waits to the journal, oldest first, until it takes no more.
    fn write(&self, writing: &mut Writing<D>, now: Instant) {
        while let Some(unkept) = writing.waiting.front().cloned() {
            let Some(group) = &writing.group else {
                return self.later(writing, now, "the journal is not open");
            };
            let number = writing.next;
            // Before the journal knows of it: the answer may come at once.
            self.shared().submitted.insert(number, unkept.clone());
            let (shared, durable) = (self.shared.clone(), self.durable.clone());
            let order = unkept.order;
            let told = move |result: Result<_, AppendError>| {
                let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
                match result {
                    Ok(_) => {
                        shared.submitted.remove(&number);
                        drop(shared);
                        durable(order);
                    }
                    Err(error) => shared.failed = Some(error.to_string()),
                }
            };
            let record = NewRecord {
                kind: KIND,
                version: VERSION,
                payload: &unkept.payload,
            };
            if let Err(error) = group.submit(&[record], Box::new(told)) {
                let mut shared = self.shared();
                shared.submitted.remove(&number);
                if matches!(error, AppendError::Poisoned(_) | AppendError::Closed) {
                    shared.failed = Some(error.to_string());
                }
                drop(shared);
                return self.later(writing, now, &error.to_string());
            }
            writing.next += 1;
            writing.waiting.pop_front();
        }
    }

    /// Opens the journal anew, and puts what it does not hold back in front of what waits. Gives what it holds.
    fn reopen(&self, writing: &mut Writing<D>) -> Result<Vec<SignedReceipt>, String> {
        let (group, recovery) = open_journal((self.disk)()?)?;
        let kept = receipts(&recovery)?;
        let held: BTreeSet<JobId> = kept.iter().map(|signed| signed.receipt.job_id).collect();
        let unsure = {
            let mut shared = self.shared();
            // The closed journal's last words.
            shared.failed = None;
            std::mem::take(&mut shared.submitted)
        };
        for (_, unkept) in unsure.into_iter().rev() {
            if held.contains(&unkept.job) {
                (self.durable)(unkept.order);
            } else {
                writing.waiting.push_front(unkept);
            }
        }
        writing.group = Some(group);
        Ok(kept)
    }

    fn later(&self, writing: &mut Writing<D>, now: Instant, error: &str) {
        let receipts = writing.waiting.len() + self.shared().submitted.len();
        tracing::warn!(receipts, %error, again_in = ?writing.pause,
            "earned receipts are not on disk yet; they are kept in memory and written as soon as the disk takes them");
        writing.retry = Some(now + writing.pause);
        writing.pause = (2 * writing.pause).min(RETRY_MAX);
    }

    fn writing(&self) -> MutexGuard<'_, Writing<D>> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<D: Disk> Drop for Earnings<D> {
    /// One last try; then the log says what only the router holds.
    fn drop(&mut self) {
        self.retry(Instant::now() + RETRY_MAX);
        // Waits for what was handed over.
        self.writing().group = None;
        let receipts = self.unkept();
        if receipts > 0 {
            tracing::error!(
                receipts,
                "earned receipts are not on disk; the router still holds them"
            );
        }
    }
}

fn open_journal<D: Disk>(disk: D) -> Result<(GroupCommit<D>, Recovery), String> {
    let (journal, recovery) = Journal::open(disk, OPTIONS).map_err(|error| error.to_string())?;
    let group = GroupCommit::start(journal).map_err(|error| error.to_string())?;
    Ok((group, recovery))
}

fn receipts(recovery: &Recovery) -> Result<Vec<SignedReceipt>, String> {
    let read = |record: stoa_store::Record<'_>| {
        serde_json::from_slice(record.payload)
            .map_err(|error| format!("record {} is not a receipt: {error}", record.sequence))
    };
    recovery.records.iter().map(read).collect()
}

fn add((jobs, gross): (u64, TokenAmount), charge: TokenAmount) -> (u64, TokenAmount) {
    (jobs + 1, gross.checked_add(charge).unwrap_or(gross))
}

#[cfg(test)]
mod tests;
