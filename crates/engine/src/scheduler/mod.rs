//! Continuous batching: requests of many tenants share passes through one model on one thread of their own.
//!
//! A request waits until a place and memory for its whole answer are free, its prompt is read in parts beside the answers of others, and
//! each pass gives every answer one token. What a request gets is the same bits that it would get alone.

mod batch;
mod fair;
mod guess;
mod prefix;

pub use batch::Stats;

use crate::cache::CacheShape;
use crate::error::EngineError;
use crate::generate::{Finish, Generation, TokenEvent};
use crate::model::Model;
use crate::pass::Runner;
use crate::threads::Threads;
use batch::Batch;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often the thread looks whether a stream that stands still has room again, or is cancelled.
const PAUSE: Duration = Duration::from_millis(1);

/// Who asks: requests of one tenant share what was computed for equal beginnings, those of two never do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tenant(pub [u8; 32]);

/// How an answer ended.
#[derive(Debug, Clone)]
pub enum Ended {
    /// As its last event says, or cancelled.
    Finished(Finish),
    /// The engine could not go on.
    Failed(EngineError),
}

/// Takes an answer. Called on the scheduler's thread, which serves everybody: nothing here may wait.
pub trait Sink: Send {
    /// A token. False when no more are wanted.
    fn token(&mut self, event: TokenEvent) -> bool;

    /// The end; nothing comes after it.
    fn end(self: Box<Self>, ended: Ended);

    /// Whether another token can be taken now. An answer without room stands still. It keeps its memory for some seconds, and
    /// beyond them while nobody else waits for it; then it goes on where it was as soon as there is room and memory again.
    fn has_room(&self) -> bool;

    /// Whether nobody wants the answer any more. Looked at before every pass.
    fn is_cancelled(&self) -> bool;
}

/// What is to be answered.
pub struct Request {
    /// Who asks.
    pub tenant: Tenant,
    /// Tokens to continue.
    pub prompt: Vec<u32>,
    /// The answer, of which nothing is chosen yet.
    pub generation: Generation,
    /// Where the answer goes.
    pub sink: Box<dyn Sink>,
}

/// Bounds of a scheduler.
#[derive(Debug, Clone, Copy)]
pub struct SchedulerOptions {
    /// Threads that share a pass.
    pub threads: usize,
    /// Bytes for keys and values: of running answers and of beginnings kept for later.
    pub cache_bytes: u64,
    /// Answers in the making at once.
    pub answers: usize,
    /// Whether tokens are guessed where that saves time. It changes no answer.
    pub guesses: bool,
}

#[derive(Default)]
struct Inbox {
    requests: Vec<Request>,
    stats: Stats,
    /// No more requests will come.
    closed: bool,
    /// The thread is gone.
    ended: bool,
}

#[derive(Default)]
struct Shared {
    inbox: Mutex<Inbox>,
    /// A request came, or no more will.
    news: Condvar,
}

impl Shared {
    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        // Nothing panics while the lock is held.
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A model that answers many at once. Dropping it lets what was begun end, then ends its thread.
pub struct Scheduler {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for Scheduler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scheduler")
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

impl Scheduler {
    /// Starts the thread, which first takes one token through the model: that reads a mapped file into memory. A request whose prompt and
    /// answer do not fit `cache_bytes` is refused; room for one full context never refuses any.
    pub fn start(model: &Arc<Model>, options: SchedulerOptions) -> Result<Self, EngineError> {
        let page = CacheShape::of(model.config()).page_bytes();
        let pages = usize::try_from(options.cache_bytes / page.max(1)).unwrap_or(usize::MAX);
        let runner = Runner::new(model, Threads::new(options.threads)?);
        let shared = Arc::new(Shared::default());
        let (own, answers) = (Arc::clone(&shared), options.answers.max(1));
        let thread = std::thread::Builder::new()
            .name("stoa-scheduler".to_owned())
            .spawn(move || {
                Loop {
                    shared: own,
                    pages,
                    answers,
                    guesses: options.guesses,
                }
                .run(runner)
            })
            .map_err(|error| EngineError::Threads(error.to_string()))?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Hands a request over. Its sink hears of everything that follows.
    pub fn submit(&self, request: Request) {
        let mut inbox = self.shared.inbox();
        if inbox.ended {
            drop(inbox);
            return request.sink.end(Ended::Failed(EngineError::Panicked));
        }
        inbox.requests.push(request);
        drop(inbox);
        self.shared.news.notify_one();
    }

    /// What was done and is held, as of the last pass.
    pub fn stats(&self) -> Stats {
        self.shared.inbox().stats
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        self.shared.inbox().closed = true;
        self.shared.news.notify_all();
        if let Some(thread) = self.thread.take() {
            // Its panics are caught and told to the requests.
            let _ = thread.join();
        }
    }
}

/// Tells those who wait that the thread is gone.
struct Closing<'a>(&'a Shared);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        let mut inbox = self.0.inbox();
        inbox.ended = true;
        let left = std::mem::take(&mut inbox.requests);
        drop(inbox);
        for request in left {
            request.sink.end(Ended::Failed(EngineError::Panicked));
        }
    }
}

/// The thread's own.
struct Loop {
    shared: Arc<Shared>,
    pages: usize,
    answers: usize,
    guesses: bool,
}

impl Loop {
    fn run(&self, mut runner: Runner) {
        // However this thread ends, nobody waits for it.
        let _closing = Closing(&self.shared);
        // Where there are more threads, the loop is work of one of them, which then shares passes without being woken for each.
        runner.threads().clone().run(move || {
            runner.warm_up();
            self.serve(&mut Batch::new(
                runner,
                self.pages,
                self.answers,
                self.guesses,
            ));
        });
    }

    fn serve(&self, batch: &mut Batch) {
        let mut moved = true;
        while self.take_in(batch, moved) {
            let step = catch_unwind(AssertUnwindSafe(|| batch.step()));
            moved = match step {
                Ok(Ok(moved)) => moved,
                // What one request does wrong is refused when it is added: this is nobody's own fault.
                Ok(Err(_)) | Err(_) => {
                    batch.fail_all();
                    true
                }
            };
        }
    }

    /// Takes new requests, waiting for some where there is nothing to do; false at the end. `moved`: whether the last step did anything.
    fn take_in(&self, batch: &mut Batch, moved: bool) -> bool {
        let mut inbox = self.shared.inbox();
        inbox.stats = batch.stats();
        if inbox.requests.is_empty() {
            if batch.is_idle() {
                while inbox.requests.is_empty() && !inbox.closed {
                    let waited = self.shared.news.wait(inbox);
                    inbox = waited.unwrap_or_else(PoisonError::into_inner);
                }
            } else if !moved {
                let waited = self.shared.news.wait_timeout(inbox, PAUSE);
                inbox = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
        }
        let over = inbox.closed && inbox.requests.is_empty() && batch.is_idle();
        let requests = std::mem::take(&mut inbox.requests);
        drop(inbox);
        requests.into_iter().for_each(|request| batch.add(request));
        !over
    }
}
