//! The thread that folds durable entries and writes the fold down now and then.

use super::fold::{Fold, Owner, rebuild};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Instant;
use stoa_store::{Disk, Journal, Position, Recovery, Snapshots};

/// A snapshot holds the whole book: as it grows, more entries go by between two, at least this part of those in the book. So all
/// that is ever written stays within a small multiple of the journal, and a start folds at most a quarter of the entries.
const PART: u64 = 4;

/// An entry that is on disk, or the end.
enum Event {
    Durable(Position, Arc<[u8]>),
    Close,
}

/// Tells the keeper what is durable, in the order of the journal.
#[derive(Clone)]
pub(super) struct Durable(Sender<Event>);

impl Durable {
    pub(super) fn tell(&self, position: Position, payload: Arc<[u8]>) {
        // A keeper that stopped has said why; the journal goes on without snapshots.
        let _ = self.0.send(Event::Durable(position, payload));
    }
}

/// The running thread. Close it before the journal: it writes into the journal's folder.
pub(super) struct Keeper {
    durable: Durable,
    closing: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Starts from what was read of an open journal; takes a snapshot at least every `every` entries, the first at once when so
    /// many are in none.
    pub(super) fn start<D: Disk>(
        journal: &Journal<D>,
        owner: Owner,
        recovery: Recovery,
        every: u64,
    ) -> std::io::Result<Self> {
        let (sender, events) = channel();
        let closing = Arc::new(AtomicBool::new(false));
        let (position, snapshots, ends) =
            (journal.position(), journal.snapshots(), closing.clone());
        let run = move || {
            // The start has folded the same: it went on with its book, and a copy would have kept it waiting.
            let Ok((fold, unsaved)) = rebuild(&recovery, owner) else {
                return;
            };
            drop(recovery);
            let work = Work {
                saved: fold.entries - unsaved,
                fold,
                position,
                snapshots,
                every,
                closing: ends,
            };
            work.run(&events);
        };
        let thread = thread::Builder::new()
            .name("journal-snapshots".to_owned())
            .spawn(run)?;
        Ok(Self {
            durable: Durable(sender),
            closing,
            thread: Some(thread),
        })
    }

    pub(super) fn durable(&self) -> Durable {
        self.durable.clone()
    }
}

impl Drop for Keeper {
    /// Waits for a snapshot that is being written, and begins no other.
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Release);
        let _ = self.durable.0.send(Event::Close);
        if let Some(thread) = self.thread.take() {
            // A panic has been reported by its hook.
            let _ = thread.join();
        }
    }
}

struct Work<D: Disk> {
    fold: Fold,
    position: Position,
    /// Entries in the newest snapshot, or when the last one failed.
    saved: u64,
    snapshots: Snapshots<D>,
    every: u64,
    closing: Arc<AtomicBool>,
}

impl<D: Disk> Work<D> {
    fn run(mut self, events: &Receiver<Event>) {
        loop {
            if self.closing.load(Ordering::Acquire) {
                return;
            }
            if self.fold.entries - self.saved >= self.every.max(self.saved / PART) {
                self.save();
            }
            let Ok(Event::Durable(position, payload)) = events.recv() else {
                return;
            };
            if let Err(error) = self.fold.entry(&payload) {
                let record = position.sequence;
                tracing::error!(%record, "a journal record {error}; no more snapshots are taken");
                return;
            }
            self.position = position;
        }
    }

    fn save(&mut self) {
        let began = Instant::now();
        self.saved = self.fold.entries;
        let state = match self.fold.state() {
            Ok(state) => state,
            Err(error) => {
                return tracing::error!(%error, "the book does not balance; no snapshot was taken");
            }
        };
        match self.snapshots.take(self.position, &state) {
            Ok(taken) => {
                let (entries, bytes) = (self.fold.entries, state.len());
                tracing::info!(entries, bytes, segments_deleted = taken.segments_deleted,
                    took = ?began.elapsed(), "snapshot of the router's book");
            }
            Err(error) => {
                tracing::warn!(%error, "no snapshot of the router's book; a start reads more until the next one")
            }
        }
    }
}
