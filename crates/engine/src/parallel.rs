//! Work on a list by several threads.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;

/// Most threads for work on files.
const MAX_THREADS: usize = 16;

/// Threads for work on files: as many as the machine has processors, within a limit.
pub(crate) fn threads() -> usize {
    std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(MAX_THREADS)
}

/// Does `work` for `0..count` on several threads and gives each result to `take` on this one, as they are done: no more results exist
/// at a time than there are threads, and one. The first error ends it.
pub(crate) fn as_done<T: Send, E: Send>(
    count: usize,
    work: impl Fn(usize) -> Result<T, E> + Sync,
    mut take: impl FnMut(usize, T) -> Result<(), E>,
) -> Result<(), E> {
    let (next, work) = (AtomicUsize::new(0), &work);
    let (give, done) = sync_channel(0);
    std::thread::scope(|scope| {
        for _ in 0..threads().min(count) {
            let (give, next) = (give.clone(), &next);
            scope.spawn(move || {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    // Nobody takes any more after an error.
                    if index >= count || give.send((index, work(index))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(give);
        for (index, result) in done {
            take(index, result?)?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_result_is_taken_once_and_few_wait() {
        let (alive, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let mut seen = vec![];
        let work = |index: usize| {
            most.fetch_max(alive.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            Ok::<_, ()>(index * index)
        };
        let done = as_done(500, work, |index, square| {
            alive.fetch_sub(1, Ordering::SeqCst);
            seen.push((index, square));
            Ok(())
        });
        assert_eq!(done, Ok(()));
        seen.sort_unstable();
        assert!(seen.into_iter().eq((0..500).map(|i| (i, i * i))));
        assert!(most.into_inner() <= threads() + 1);
    }

    #[test]
    fn an_error_of_either_side_ends_all() {
        let started = AtomicUsize::new(0);
        let work = |index: usize| {
            started.fetch_add(1, Ordering::SeqCst);
            if index == 7 { Err(index) } else { Ok(()) }
        };
        assert_eq!(as_done(100_000, work, |_, ()| Ok(())), Err(7));
        assert!(started.into_inner() < 100);
        let fails = as_done(100_000, Ok::<_, usize>, |i, _| {
            if i == 9 { Err(49) } else { Ok(()) }
        });
        assert_eq!(fails, Err(49));
    }

    #[test]
    #[should_panic(expected = "panicked")]
    fn a_panic_of_a_worker_does_not_leave_the_others_waiting() {
        let work = |index: usize| {
            assert!(index != 3, "on purpose");
            Ok::<_, ()>(())
        };
        let _ = as_done(100, work, |_, ()| Ok(()));
    }
}
