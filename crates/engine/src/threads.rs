//! Threads that share the work of a pass. Integer sums do not depend on who makes them, so their number changes no bit.

use crate::error::EngineError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Most threads of one pool.
pub const THREADS_MAX: usize = 256;

/// The caller's own thread, or a pool. A pool's threads look for work for some microseconds after the last piece, then sleep. Clones are the
/// same threads.
#[derive(Debug, Clone, Default)]
pub struct Threads(Option<Arc<rayon::ThreadPool>>);

impl Threads {
    /// The caller's own thread and no other.
    pub fn one() -> Self {
        Self(None)
    }

    /// `count` threads; one stands for the caller's own.
    pub fn new(count: usize) -> Result<Self, EngineError> {
        if count <= 1 {
            return Ok(Self::one());
        }
        if count > THREADS_MAX {
            return Err(EngineError::TooManyThreads { count });
        }
        rayon::ThreadPoolBuilder::new()
            .num_threads(count)
            .thread_name(|number| format!("stoa-engine-{number}"))
            .build()
            .map(|pool| Self(Some(Arc::new(pool))))
            .map_err(|error| EngineError::Threads(error.to_string()))
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.as_ref().map_or(1, |pool| pool.current_num_threads())
    }

    /// Number of the thread that asks, below [`Threads::count`].
    pub(crate) fn own_number(&self) -> usize {
        self.0
            .as_ref()
            .and_then(|pool| pool.current_thread_index())
            .unwrap_or(0)
    }

    /// Runs `work` where [`Threads::share`] is shared out. In a pool it becomes the work of one of its threads.
    pub(crate) fn run<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        match &self.0 {
            Some(pool) => pool.install(work),
            None => work(),
        }
    }

    /// [`Threads::run`] for work of which pieces are handed over every few microseconds: the other threads look for them without
    /// falling asleep in between, and fall asleep after [`PATIENCE`] without one.
    pub(crate) fn run_closely<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        let Some(pool) = &self.0 else {
            return work();
        };
        pool.install(|| {
            let (own, over) = (rayon::current_thread_index(), AtomicBool::new(false));
            let work = || {
                // Told also when the work panics: who waits for helpers waits for all of them.
                let _over = Over(&over);
                work()
            };
            beside(pool.current_num_threads(), &|| help(own, &over), work)
        })
    }

    /// Calls `run` for neighbouring items of `data`, all in all once for each, with the number of the first. An item has `size` elements
    /// and takes about as long as `work` multiplications.
    pub(crate) fn share<T: Send>(
        &self,
        data: &mut [T],
        size: usize,
        work: usize,
        run: impl Fn(usize, &mut [T]) + Sync,
    ) {
        let (threads, least) = (self.count(), (PIECE / work.max(1)).max(1));
        if threads == 1 || data.len() / size < 2 * least {
            run(0, data);
            return;
        }
        let left = Mutex::new(Left {
            data,
            size,
            first: 0,
            least,
        });
        let take = || {
            left.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(threads)
        };
        on_all(threads, &|| {
            while let Some((first, piece)) = take() {
                run(first, piece);
            }
        });
    }
}

/// Multiplications of two bytes, as fast as they are in a product of many rows, that are worth handing to another thread: a hand-over
/// costs about a microsecond.
const PIECE: usize = 1 << 17;

/// Items that no thread has taken.
struct Left<'a, T> {
    data: &'a mut [T],
    /// Elements of an item.
    size: usize,
    /// Number of the first.
    first: usize,
    /// Items that are worth taking.
    least: usize,
}

impl<'a, T> Left<'a, T> {
    /// Half of what would be a thread's share of the rest: large pieces first, small ones so that all threads end together.
    fn take(&mut self, threads: usize) -> Option<(usize, &'a mut [T])> {
        let items = self.data.len() / self.size;
        let piece = (items / (2 * threads)).max(self.least).min(items);
        let taken = self.data.split_off_mut(..piece * self.size)?;
        let first = self.first;
        self.first += piece;
        (piece > 0).then_some((first, taken))
    }
}

/// Calls `work` on so many threads of the pool at once, the own one among them.
fn on_all(threads: usize, work: &(impl Fn() + Sync)) {
    match threads {
        0 | 1 => work(),
        _ => {
            let (half, other) = (threads / 2, Other::default());
            rayon::join(
                || {
                    on_all(threads - half, work);
                    other.wait();
                },
                || other.run(|| on_all(half, work)),
            );
        }
    }
}

/// Work that another thread may have taken. Pieces end within microseconds of each other; a thread that fell asleep in between would take
/// longer to wake than it had to wait.
#[derive(Default)]
struct Other {
    begun: AtomicBool,
    done: AtomicBool,
}

impl Other {
    fn run(&self, work: impl FnOnce()) {
        self.begun.store(true, Ordering::Release);
        // Told also when the work panics.
        let _done = Over(&self.done);
        work();
    }

    /// Waits a little, awake, for what has begun.
    fn wait(&self) {
        if !self.begun.load(Ordering::Acquire) {
            return;
        }
        let since = Instant::now();
        while !self.done.load(Ordering::Acquire) && since.elapsed() < PATIENCE {
            std::hint::spin_loop();
        }
    }
}

/// Runs `work` here, with `help` for each of the other `threads` to take. What is handed over lies on this thread's stack.
fn beside<R: Send>(
    threads: usize,
    help: &(impl Fn() + Sync),
    work: impl FnOnce() -> R + Send,
) -> R {
    match threads {
        0 | 1 => work(),
        _ => rayon::join(|| beside(threads - 1, help, work), help).0,
    }
}

/// How long a thread looks for the next piece.
const PATIENCE: Duration = Duration::from_micros(100);

/// Tells helpers that there is nothing left to help with.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Does what can be taken from others until they are done. `worker`: the one whose work it is, which would wait for itself here.
fn help(worker: Option<usize>, over: &AtomicBool) {
    let mut last = Instant::now();
    while rayon::current_thread_index() != worker && !over.load(Ordering::Acquire) {
        match rayon::yield_now() {
            Some(rayon::Yield::Executed) => last = Instant::now(),
            _ if last.elapsed() > PATIENCE => return,
            _ => std::hint::spin_loop(),
        }
    }
}
