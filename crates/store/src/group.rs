//! Group commit: many callers, one writer thread, one sync for all that wait.
//!
//! There is no timer. While batch *k* is being synced, callers encode and hash their records straight into batch *k* + 1; when the
//! sync returns, the writer takes what is there. So batches grow with the load and a lone caller waits for one sync only. Callers
//! are told on a thread of its own, so that their work overlaps with the next sync.
//!
//! A record is accepted only when its place on the disk is already allocated: the queue plans each batch's place, and a batch that
//! needs a new segment takes the prepared one or is refused.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::disk::Disk;
use crate::error::{AppendError, Failure};
use crate::format::{BATCH_HEADER, BLOCK_BYTES, BatchBuffer, NewRecord, Position, Sealer, blocks};
use crate::journal::{BATCH_RECORDS_MAX, Journal, check_size};
use crate::segment::prepare_spare;
use crate::snapshot::Snapshots;

/// Told once, on a thread of the journal, when the records are durable or will not be. It should hand over and return: the next
/// callers wait behind it.
pub type Done = Box<dyn FnOnce(Result<Position, AppendError>) + Send>;

/// Bytes that may wait for the disk before callers are sent away.
const BACKLOG_BYTES_MAX: u64 = 8 << 20;
/// How long to wait before asking a full disk again.
const FULL_RETRY: Duration = Duration::from_millis(100);
const BUFFERS_KEPT: usize = 4;

/// What a group commit has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupStats {
    /// Batches made durable, each with one sync.
    pub batches: u64,
    /// Records in them.
    pub records: u64,
}

/// A journal that many threads append to.
///
/// Dropping it makes durable what was accepted, tells the callers, and closes the journal.
#[derive(Debug)]
pub struct GroupCommit<D: Disk> {
    group: Arc<Group<D::File>>,
    snapshots: Snapshots<D>,
    writer: Option<JoinHandle<Result<(), Failure>>>,
    teller: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Group<F> {
    queue: Mutex<Queue<F>>,
    work: Condvar,
    sealer: Sealer,
    batch_bytes_max: u64,
    next_segment_bytes: u64,
    batches: AtomicU64,
    records: AtomicU64,
}

#[derive(Debug)]
struct Queue<F> {
    /// Full batches in front of the open one.
    closed: VecDeque<Waiting<F>>,
    open: Waiting<F>,
    /// The last accepted record.
    tip: Position,
    /// Where the open batch will start, and the size of its segment.
    offset: u64,
    segment_bytes: u64,
    waiting_bytes: u64,
    spare: Spare<F>,
    buffers: Vec<Vec<u8>>,
    state: State,
}

#[derive(Debug, Clone)]
enum State {
    Taking,
    Closing,
    Poisoned(Failure),
}

/// The segment after the current one.
#[derive(Debug)]
enum Spare<F> {
    Wanted,
    Preparing,
    Ready(F),
    /// A waiting batch has it.
    Planned,
    Full(Failure, Instant),
}

struct Waiting<F> {
    batch: BatchBuffer,
    /// The prepared segment that this batch starts.
    segment: Option<F>,
    last: Position,
    done: Vec<(Position, Done)>,
}

impl<F> std::fmt::Debug for Waiting<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Waiting")
            .field("records", &self.batch.count())
            .field("last", &self.last)
            .finish_non_exhaustive()
    }
}

impl<F> Waiting<F> {
    fn after(last: Position, buffer: Vec<u8>) -> Self {
        Self {
            batch: BatchBuffer::after(last, buffer),
            segment: None,
            last,
            done: Vec::new(),
        }
    }
}

struct Delivery {
    done: Vec<(Position, Done)>,
    failed: Option<AppendError>,
}

impl<F> Queue<F> {
    /// Gets the open batch ready for `records` records of `bytes` bytes: in the open batch, a new one, or a new segment.
    fn make_room(
        &mut self,
        records: usize,
        bytes: u64,
        group: &Group<F>,
    ) -> Result<(), AppendError> {
        if self.waiting_bytes > 0 && self.waiting_bytes + bytes > BACKLOG_BYTES_MAX {
            return Err(AppendError::Busy {
                waiting_bytes: self.waiting_bytes,
            });
        }
        let grown = blocks(self.open.batch.bytes() + bytes);
        let fits = self.open.batch.count() + records <= BATCH_RECORDS_MAX
            && grown <= group.batch_bytes_max
            && self.offset + grown <= self.segment_bytes;
        if fits {
            return Ok(());
        }
        if self.open.batch.count() > 0 {
            let open = self.take_open();
            self.closed.push_back(open);
        }
        if self.offset + blocks(BATCH_HEADER as u64 + bytes) <= self.segment_bytes {
            return Ok(());
        }
        self.plan_segment(group)
    }

    fn plan_segment(&mut self, group: &Group<F>) -> Result<(), AppendError> {
        match std::mem::replace(&mut self.spare, Spare::Planned) {
            Spare::Ready(file) => {
                self.open.segment = Some(file);
                self.offset = BLOCK_BYTES;
                self.segment_bytes = group.next_segment_bytes;
                Ok(())
            }
            Spare::Full(cause, since) => {
                let refusal = AppendError::DiskFull {
                    cause: cause.clone(),
                    needed_bytes: group.next_segment_bytes,
                };
                let again = since.elapsed() >= FULL_RETRY;
                self.spare = if again {
                    Spare::Wanted
                } else {
                    Spare::Full(cause, since)
                };
                if again {
                    group.work.notify_all();
                }
                Err(refusal)
            }
            other => {
                self.spare = other;
                Err(AppendError::Busy {
                    waiting_bytes: self.waiting_bytes,
                })
            }
        }
    }

    /// Takes the open batch; the next one goes behind it.
    fn take_open(&mut self) -> Waiting<F> {
        self.offset += blocks(self.open.batch.bytes());
        let buffer = self.buffers.pop().unwrap_or_default();
        std::mem::replace(&mut self.open, Waiting::after(self.tip, buffer))
    }

    fn next_batch(&mut self) -> Option<Waiting<F>> {
        let taken = self.closed.pop_front();
        taken.or_else(|| (self.open.batch.count() > 0).then(|| self.take_open()))
    }
}

impl<F> Group<F> {
    fn queue(&self) -> MutexGuard<'_, Queue<F>> {
        // No caller's code runs under the lock; a panic in ours poisons nothing that is read later without a check.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<D: Disk> GroupCommit<D> {
    /// Starts the threads of an open journal. Fails only when the system gives no thread.
    pub fn start(journal: Journal<D>) -> std::io::Result<Self> {
        let (offset, segment_bytes) = journal.place();
        let tip = journal.position();
        let group = Arc::new(Group {
            queue: Mutex::new(Queue {
                closed: VecDeque::new(),
                open: Waiting::after(tip, Vec::new()),
                tip,
                offset,
                segment_bytes,
                waiting_bytes: 0,
                spare: Spare::Wanted,
                buffers: Vec::new(),
                state: State::Taking,
            }),
            work: Condvar::new(),
            sealer: journal.sealer().clone(),
            batch_bytes_max: journal.batch_bytes_max(),
            next_segment_bytes: journal.next_segment_bytes(),
            batches: AtomicU64::new(0),
            records: AtomicU64::new(0),
        });
        let snapshots = journal.snapshots();
        let (deliveries, told) = channel();
        let teller = thread::Builder::new()
            .name("journal-teller".to_owned())
            .spawn(move || tell(&told))?;
        let writer = Writer {
            journal,
            group: group.clone(),
            deliveries,
            preparing: None,
        };
        let writer = thread::Builder::new()
            .name("journal-writer".to_owned())
            .spawn(move || writer.run())?;
        Ok(Self {
            group,
            snapshots,
            writer: Some(writer),
            teller: Some(teller),
        })
    }

    /// Accepts records that become durable together, and says where they stand. `done` is called when they are durable, or with
    /// the reason why they are not. After an `Err` nothing was accepted and `done` is never called. Does not wait for the disk.
    pub fn submit(&self, records: &[NewRecord<'_>], done: Done) -> Result<Position, AppendError> {
        let group = &*self.group;
        let bytes = check_size(records, group.batch_bytes_max)?;
        let mut queue = group.queue();
        match &queue.state {
            State::Taking => {}
            State::Closing => return Err(AppendError::Closed),
            State::Poisoned(failure) => return Err(AppendError::Poisoned(failure.clone())),
        }
        queue.make_room(records.len(), bytes, group)?;
        let Queue { open, tip, .. } = &mut *queue;
        for record in records {
            open.batch.push(&group.sealer, tip, record);
        }
        open.last = *tip;
        open.done.push((*tip, done));
        let position = *tip;
        let first = queue.waiting_bytes == 0;
        queue.waiting_bytes += bytes;
        drop(queue);
        // Otherwise the writer has work already and looks again by itself.
        if first {
            group.work.notify_all();
        }
        Ok(position)
    }

    /// Appends records and waits until they are durable.
    pub fn append(&self, records: &[NewRecord<'_>]) -> Result<Position, AppendError> {
        let (tell, told) = channel();
        self.submit(
            records,
            Box::new(move |result| {
                // The receiver waits below.
                let _ = tell.send(result);
            }),
        )?;
        told.recv().unwrap_or(Err(AppendError::Closed))
    }

    /// The last accepted record; it may not be durable yet.
    pub fn position(&self) -> Position {
        self.group.queue().tip
    }

    /// Takes snapshots of this journal, from any thread.
    pub fn snapshots(&self) -> Snapshots<D> {
        self.snapshots.clone()
    }

    /// Counts so far; the batch size that the load has formed is `records / batches`.
    pub fn stats(&self) -> GroupStats {
        GroupStats {
            batches: self.group.batches.load(Ordering::Relaxed),
            records: self.group.records.load(Ordering::Relaxed),
        }
    }

    /// Makes durable what was accepted, tells all callers, and closes the journal.
    pub fn close(mut self) -> Result<(), Failure> {
        self.finish()
    }
}

impl<D: Disk> GroupCommit<D> {
    fn finish(&mut self) -> Result<(), Failure> {
        let mut queue = self.group.queue();
        if matches!(queue.state, State::Taking) {
            queue.state = State::Closing;
        }
        drop(queue);
        self.group.work.notify_all();
        let here = thread::current().id();
        let gone = || {
            Failure::new(
                "run",
                "the journal's writer thread".to_owned(),
                &std::io::Error::other("it panicked"),
            )
        };
        let result = match self.writer.take() {
            Some(writer) => writer.join().unwrap_or_else(|_| Err(gone())),
            None => Ok(()),
        };
        // The last owner may be a callback, on the teller's own thread: it ends by itself then.
        if let Some(teller) = self
            .teller
            .take()
            .filter(|teller| teller.thread().id() != here)
        {
            teller.join().map_err(|_| gone())?;
        }
        result
    }
}

impl<D: Disk> Drop for GroupCommit<D> {
    fn drop(&mut self) {
        // Whoever wants to know calls `close`; the callers of a failed batch were told.
        let _ = self.finish();
    }
}

fn tell(told: &Receiver<Delivery>) {
    while let Ok(Delivery { done, failed }) = told.recv() {
        for (position, done) in done {
            let result = failed.clone().map_or(Ok(position), Err);
            // One caller's panic is not the others' loss; the panic hook has reported it.
            let _ = catch_unwind(AssertUnwindSafe(|| done(result)));
        }
    }
}

/// The panic hook has reported the panic itself.
fn panicked<D: Disk>(operation: &'static str, journal: &Journal<D>) -> Failure {
    let error = std::io::Error::other("the journal's thread panicked");
    Failure::new(operation, journal.disk().describe("journal"), &error)
}

struct Writer<D: Disk> {
    journal: Journal<D>,
    group: Arc<Group<D::File>>,
    deliveries: Sender<Delivery>,
    preparing: Option<JoinHandle<()>>,
}

impl<D: Disk> Writer<D> {
    fn run(mut self) -> Result<(), Failure> {
        while let Some(waiting) = self.wait() {
            self.commit(waiting);
        }
        if let Some(preparing) = self.preparing.take() {
            // It writes into the folder, which is ours only until the journal is closed.
            let _ = preparing.join();
        }
        let state = self.group.queue().state.clone();
        let closed = self.journal.close();
        if let State::Poisoned(failure) = state {
            Err(failure)
        } else {
            closed
        }
    }

    /// The next batch, or `None` when all is done.
    fn wait(&mut self) -> Option<Waiting<D::File>> {
        let group = self.group.clone();
        let mut queue = group.queue();
        loop {
            if let State::Poisoned(failure) = &queue.state {
                let failure = failure.clone();
                self.refuse_all(&mut queue, &failure);
                return None;
            }
            if matches!(queue.spare, Spare::Wanted) {
                queue.spare = Spare::Preparing;
                drop(queue);
                self.prepare();
                queue = group.queue();
                continue;
            }
            if let Some(waiting) = queue.next_batch() {
                return Some(waiting);
            }
            if matches!(queue.state, State::Closing) {
                return None;
            }
            queue = group
                .work
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn commit(&mut self, mut waiting: Waiting<D::File>) {
        let rolls = waiting.segment.is_some();
        if let Some(segment) = waiting.segment.take() {
            self.journal.give_spare(segment);
        }
        let (records, bytes) = (
            waiting.batch.count() as u64,
            waiting.batch.bytes() - BATCH_HEADER as u64,
        );
        let committed = catch_unwind(AssertUnwindSafe(|| {
            self.journal.commit(&mut waiting.batch, waiting.last)
        }));
        // Nothing is known of the batch then, as after a failed sync; a writer that is gone without a word would leave all callers waiting.
        let failed = committed
            .unwrap_or_else(|_| Err(AppendError::Failed(panicked("write", &self.journal))))
            .err();
        let mut queue = self.group.queue();
        queue.waiting_bytes -= bytes;
        if rolls {
            queue.spare = Spare::Wanted;
        }
        if queue.buffers.len() < BUFFERS_KEPT {
            queue.buffers.push(waiting.batch.into_buffer());
        }
        match &failed {
            None => {
                self.group.batches.fetch_add(1, Ordering::Relaxed);
                self.group.records.fetch_add(records, Ordering::Relaxed);
            }
            Some(
                AppendError::Failed(failure)
                | AppendError::Poisoned(failure)
                | AppendError::DiskFull { cause: failure, .. },
            ) => {
                queue.state = State::Poisoned(failure.clone());
            }
            Some(other) => unreachable!("the queue checked sizes before: {other}"),
        }
        drop(queue);
        self.deliver(waiting.done, failed);
    }

    fn deliver(&self, done: Vec<(Position, Done)>, failed: Option<AppendError>) {
        // The teller ends only when this sender is gone.
        let _ = self.deliveries.send(Delivery { done, failed });
    }

    fn refuse_all(&self, queue: &mut Queue<D::File>, failure: &Failure) {
        while let Some(waiting) = queue.next_batch() {
            self.deliver(waiting.done, Some(AppendError::Poisoned(failure.clone())));
        }
        queue.waiting_bytes = 0;
    }

    /// Prepares the next segment beside the writer.
    fn prepare(&mut self) {
        if let Some(before) = self.preparing.take() {
            // It has put its result into the queue already.
            let _ = before.join();
        }
        let (disk, group) = (self.journal.disk().clone(), self.group.clone());
        let gone = panicked("prepare", &self.journal);
        let work = move || {
            let prepared = catch_unwind(AssertUnwindSafe(|| {
                prepare_spare(&disk, group.next_segment_bytes)
            }));
            let prepared = prepared.unwrap_or(Err(gone));
            let mut queue = group.queue();
            match prepared {
                Ok(file) => queue.spare = Spare::Ready(file),
                Err(failure) if failure.is_full() => {
                    queue.spare = Spare::Full(failure, Instant::now())
                }
                Err(failure) => queue.state = State::Poisoned(failure),
            }
            drop(queue);
            group.work.notify_all();
        };
        match thread::Builder::new()
            .name("journal-spare".to_owned())
            .spawn(work)
        {
            Ok(thread) => self.preparing = Some(thread),
            Err(error) => {
                let failure = Failure::new(
                    "start a thread to prepare",
                    self.journal.disk().describe("spare.tmp"),
                    &error,
                );
                self.group.queue().state = State::Poisoned(failure);
            }
        }
    }
}
