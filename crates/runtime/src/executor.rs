//! Generation on threads of its own: as many as the provider has slots, none of them the network's.

use crate::backend::{Backend, CancelFlag, Piece, Prepared, RunError};
use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use stoa_nodes::message::RefusalReason;
use stoa_nodes::provider::Generated;
use stoa_nodes::work::Work;
use stoa_types::FinishReason;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};

/// Events that wait for a reader; when full, the generation waits too.
const EVENT_QUEUE: usize = 32;
/// How often a generation looks whether its reader made room.
const FULL_QUEUE_PAUSE: Duration = Duration::from_millis(1);

/// What a running job says. The last event is `End`, `Failed` or `Disconnect`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Tokens, counts, the end or a failure, as the provider core takes them.
    Generated(Generated),
    /// Scripts only: drop the connection without a word.
    Disconnect,
}

/// All slots are taken by jobs that somebody waits for. Nothing was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("all {slots} slots are taken")]
pub struct Busy {
    /// Number of slots.
    pub slots: u32,
}

struct Task {
    number: u64,
    backend: Arc<dyn Backend>,
    prepared: Prepared,
    cancel: CancelFlag,
    events: mpsc::Sender<Event>,
    /// Room for the last event, so that telling the end never waits for a reader.
    last: mpsc::OwnedPermit<Event>,
}

/// A job on a thread.
struct Running {
    number: u64,
    cancel: CancelFlag,
    events: mpsc::WeakSender<Event>,
}

impl Running {
    /// Whether somebody still waits for it. A job that nobody waits for is about to end and takes no slot.
    fn is_wanted(&self) -> bool {
        let heard = self.events.upgrade().is_some_and(|e| !e.is_closed());
        heard && !self.cancel.is_cancelled()
    }
}

impl Task {
    fn is_wanted(&self) -> bool {
        !self.cancel.is_cancelled() && !self.events.is_closed()
    }

    /// Ends a job that never ran.
    fn end_unrun(self) {
        let end = Generated::End {
            tool_calls: Vec::new(),
            finish_reason: FinishReason::Cancelled,
        };
        self.last.send(Event::Generated(end));
    }
}

#[derive(Default)]
struct State {
    next_number: u64,
    /// Started, but its thread still works on a job that nobody waits for.
    waiting: VecDeque<Task>,
    running: Vec<Running>,
    closed: bool,
}

struct Shared {
    slots: u32,
    state: Mutex<State>,
    /// A task was added, or no more will come.
    work: Condvar,
    free: watch::Sender<u32>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while the lock is held, and no state in between is ever visible.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the slots that no job holds.
    fn publish(&self, state: &State) {
        let taken = state.waiting.len() + state.running.len();
        let free = self
            .slots
            .saturating_sub(u32::try_from(taken).unwrap_or(u32::MAX));
        self.free
            .send_if_modified(|known| std::mem::replace(known, free) != free);
    }

    /// The next task for a thread; `None` when the executor is gone and nothing is left.
    fn next(&self) -> Option<Task> {
        let mut state = self.state();
        loop {
            if let Some(task) = state.waiting.pop_front() {
                state.running.push(Running {
                    number: task.number,
                    cancel: task.cancel.clone(),
                    events: task.events.downgrade(),
                });
                return Some(task);
            }
            if state.closed {
                return None;
            }
            state = self
                .work
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn ended(&self, number: u64) {
        let mut state = self.state();
        state.running.retain(|running| running.number != number);
        self.publish(&state);
    }
}

/// A fixed number of generating threads. Dropping it lets started jobs end and then ends the threads.
///
/// A slot belongs to a job from its start until it ends or nobody waits for it any more. A job that was just cancelled may still
/// hold its thread for a moment (it looks at its flag once per token); one that is started then waits for that thread instead of
/// being refused, since the market has counted the slot as free from the cancellation on. At most `slots` jobs wait.
pub struct Executor {
    shared: Arc<Shared>,
}

impl Drop for Executor {
    fn drop(&mut self) {
        self.shared.state().closed = true;
        self.shared.work.notify_all();
    }
}

impl Executor {
    /// Starts `slots` threads, at least one.
    pub fn new(slots: u32) -> std::io::Result<Self> {
        let slots = slots.max(1);
        // Made first: when a thread cannot be had, dropping it ends those before.
        let executor = Self {
            shared: Arc::new(Shared {
                slots,
                state: Mutex::default(),
                work: Condvar::new(),
                free: watch::Sender::new(slots),
            }),
        };
        for number in 0..slots {
            let shared = Arc::clone(&executor.shared);
            std::thread::Builder::new()
                .name(format!("stoa-generate-{number}"))
                .spawn(move || work_off(&shared))?;
        }
        Ok(executor)
    }

    /// Number of slots.
    pub fn slots(&self) -> u32 {
        self.shared.slots
    }

    /// Watch of the slots that no job holds; a cancelled job holds its slot here until it has ended.
    pub fn free_slots(&self) -> watch::Receiver<u32> {
        self.shared.free.subscribe()
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
        let busy = Busy {
            slots: self.shared.slots,
        };
        let (events, receiver) = mpsc::channel(EVENT_QUEUE + 1);
        // A new channel has room.
        let last = events.clone().try_reserve_owned().map_err(|_| busy)?;
        let mut state = self.shared.state();
        // What was given up before it ran makes room at once.
        let (waiting, given_up) = std::mem::take(&mut state.waiting)
            .into_iter()
            .partition(Task::is_wanted);
        state.waiting = waiting;
        let given_up: VecDeque<Task> = given_up;
        given_up.into_iter().for_each(Task::end_unrun);
        let wanted = state.running.iter().filter(|r| r.is_wanted()).count();
        if state.waiting.len() + wanted >= self.shared.slots as usize {
            self.shared.publish(&state);
            return Err(busy);
        }
        let number = state.next_number;
        state.next_number += 1;
        state.waiting.push_back(Task {
            number,
            backend,
            prepared,
            cancel,
            events,
            last,
        });
        self.shared.publish(&state);
        drop(state);
        self.shared.work.notify_one();
        Ok(receiver)
    }

    /// Waits until no job runs. The caller stops new ones first.
    pub async fn idle(&self) {
        // `self` holds the sender, so the wait ends with the condition and not otherwise.
        let slots = self.shared.slots;
        let _ = self.free_slots().wait_for(|free| *free == slots).await;
    }
}

fn work_off(shared: &Shared) {
    while let Some(task) = shared.next() {
        run(shared, task);
    }
}

fn run(shared: &Shared, task: Task) {
    let Task {
        number,
        backend,
        prepared,
        cancel,
        events,
        last,
    } = task;
    let mut begun = false;
    let mut emit = |piece: Piece| {
        begun = true;
        let event = Event::Generated(Generated::Tokens {
            tokens: piece.tokens,
            text: piece.text,
            logprobs: piece.logprobs,
        });
        hand_over(&events, event, &cancel)
    };
    let mut counted = |counted| {
        let _ = hand_over(
            &events,
            Event::Generated(Generated::Counted(counted)),
            &cancel,
        );
    };
    let result = catch_unwind(AssertUnwindSafe(|| {
        backend.run_counted(&prepared, &cancel, &mut emit, &mut counted)
    }));
    let failed = |reason: String| Event::Generated(Generated::Failed { reason });
    let end = match result {
        Ok(Ok(end)) => Event::Generated(Generated::End {
            tool_calls: end.tool_calls,
            finish_reason: end.finish_reason,
        }),
        Ok(Err(RunError::Failed(reason) | RunError::Machine(reason))) => failed(reason),
        Ok(Err(RunError::Disconnect)) => Event::Disconnect,
        Ok(Err(RunError::Upstream(fault))) => match fault.refusal().filter(|_| !begun) {
            Some(reason) => Event::Generated(Generated::Refused { reason }),
            None => failed(fault.to_string()),
        },
        Err(_) => failed("the backend panicked".to_owned()),
    };
    // The slot is free before the end is told: whoever hears of the end can start the next job.
    shared.ended(number);
    last.send(end);
}

/// Puts an event into the queue. While the queue is full it waits for the reader, but not longer than until the job is cancelled:
/// a reader that stalls must not hold a thread for ever.
fn hand_over(events: &mpsc::Sender<Event>, event: Event, cancel: &CancelFlag) -> ControlFlow<()> {
    let mut event = event;
    loop {
        match events.try_send(event) {
            Ok(()) => return ControlFlow::Continue(()),
            Err(TrySendError::Closed(_)) => return ControlFlow::Break(()),
            Err(TrySendError::Full(_)) if cancel.is_cancelled() => return ControlFlow::Break(()),
            Err(TrySendError::Full(back)) => event = back,
        }
        std::thread::sleep(FULL_QUEUE_PAUSE);
    }
}
