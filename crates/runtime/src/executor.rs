//! Generation on threads of its own: as many as the provider has slots, none of them the network's.

use crate::backend::{Backend, CancelFlag, Prepared, RunError};
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use stoa_nodes::message::RefusalReason;
use stoa_nodes::provider::Generated;
use stoa_nodes::work::Work;
use tokio::sync::{mpsc, watch};

/// Events that wait for a reader; when full, the generation waits too.
const EVENT_QUEUE: usize = 32;

/// What a running job says. The last event is `End`, `Failed` or `Disconnect`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Tokens, the end or a failure, as the provider core takes them.
    Generated(Generated),
    /// Scripts only: drop the connection without a word.
    Disconnect,
}

/// All slots are taken. Nothing was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("all {slots} slots are taken")]
pub struct Busy {
    /// Number of slots.
    pub slots: u32,
}

struct Task {
    backend: Arc<dyn Backend>,
    prepared: Prepared,
    cancel: CancelFlag,
    events: mpsc::Sender<Event>,
    slot: Slot,
}

/// A taken slot; dropping it frees it.
struct Slot(Arc<watch::Sender<u32>>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.send_modify(|free| *free += 1);
    }
}

/// A fixed number of generating threads. Dropping it lets running jobs end and then ends the threads.
pub struct Executor {
    slots: u32,
    free: Arc<watch::Sender<u32>>,
    tasks: std::sync::mpsc::Sender<Task>,
}

impl Executor {
    /// Starts `slots` threads, at least one.
    pub fn new(slots: u32) -> std::io::Result<Self> {
        let slots = slots.max(1);
        let (tasks, queue) = std::sync::mpsc::channel();
        let queue = Arc::new(Mutex::new(queue));
        for number in 0..slots {
            let queue = Arc::clone(&queue);
            std::thread::Builder::new()
                .name(format!("stoa-generate-{number}"))
                .spawn(move || work_off(&queue))?;
        }
        Ok(Self {
            slots,
            free: Arc::new(watch::Sender::new(slots)),
            tasks,
        })
    }

    /// Number of slots.
    pub fn slots(&self) -> u32 {
        self.slots
    }

    /// Watch of the free slots.
    pub fn free_slots(&self) -> watch::Receiver<u32> {
        self.free.subscribe()
    }

    /// Tokenizes a prompt without holding up the caller's thread.
    pub async fn prepare(
        &self,
        backend: Arc<dyn Backend>,
        work: Work,
    ) -> Result<Prepared, RefusalReason> {
        let prepared = tokio::task::spawn_blocking(move || {
            catch_unwind(AssertUnwindSafe(|| backend.prepare(&work)))
        });
        match prepared.await {
            Ok(Ok(result)) => result,
            _ => Err(RefusalReason::Unsupported {
                parameter: "prompt".to_owned(),
                reason: "the backend failed on it".to_owned(),
            }),
        }
    }

    /// Runs a prepared job on a free slot. Dropping the receiver stops it as raising `cancel` does.
    pub fn start(
        &self,
        backend: Arc<dyn Backend>,
        prepared: Prepared,
        cancel: CancelFlag,
    ) -> Result<mpsc::Receiver<Event>, Busy> {
        let busy = Busy { slots: self.slots };
        let taken = self
            .free
            .send_if_modified(|free| match free.checked_sub(1) {
                Some(rest) => {
                    *free = rest;
                    true
                }
                None => false,
            });
        if !taken {
            return Err(busy);
        }
        let (events, receiver) = mpsc::channel(EVENT_QUEUE);
        let task = Task {
            backend,
            prepared,
            cancel,
            events,
            slot: Slot(Arc::clone(&self.free)),
        };
        // The threads end only after this sender is dropped.
        self.tasks.send(task).map_err(|_| busy)?;
        Ok(receiver)
    }

    /// Waits until no job runs. The caller stops new ones first.
    pub async fn idle(&self) {
        // `self` holds the sender, so the wait ends with the condition and not otherwise.
        let _ = self.free_slots().wait_for(|free| *free == self.slots).await;
    }
}

fn work_off(queue: &Mutex<std::sync::mpsc::Receiver<Task>>) {
    loop {
        // A panic cannot happen while the lock is held: receiving does not panic.
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        match next {
            Ok(task) => run(task),
            Err(_) => return,
        }
    }
}

fn run(task: Task) {
    let Task {
        backend,
        prepared,
        cancel,
        events,
        slot,
    } = task;
    let mut emit = |tokens, text| {
        let event = Event::Generated(Generated::Tokens { tokens, text });
        match events.blocking_send(event) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    };
    let result = catch_unwind(AssertUnwindSafe(|| {
        backend.run(&prepared, &cancel, &mut emit)
    }));
    let failed = |reason: String| Event::Generated(Generated::Failed { reason });
    let last = match result {
        Ok(Ok(end)) => Event::Generated(Generated::End {
            tool_calls: end.tool_calls,
            finish_reason: end.finish_reason,
        }),
        Ok(Err(RunError::Failed(reason))) => failed(reason),
        Ok(Err(RunError::Disconnect)) => Event::Disconnect,
        Err(_) => failed("the backend panicked".to_owned()),
    };
    // The slot is free before the end is told: whoever hears of the end can start the next job.
    drop(slot);
    let _ = events.blocking_send(last);
}
