//! An allocator that knows how much is in use and how often it was asked, and refuses what goes beyond a bound: then the program ends where
//! too much was asked for.
//! Unsafe because allocators are; it hands every request on to the system's.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The allocator.
pub struct Gauge;

static IN_USE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
static BOUND: AtomicUsize = AtomicUsize::new(usize::MAX);
static ASKED: AtomicUsize = AtomicUsize::new(0);

/// Counts `bytes` more; `false` where that goes beyond the bound, and nothing is counted.
fn take(bytes: usize) -> bool {
    let now = IN_USE.fetch_add(bytes, Relaxed).wrapping_add(bytes);
    if now > BOUND.load(Relaxed) {
        give(bytes);
        return false;
    }
    PEAK.fetch_max(now, Relaxed);
    true
}

fn give(bytes: usize) {
    IN_USE.fetch_sub(bytes, Relaxed);
}

// SAFETY: every pointer comes from the system's allocator and goes back to it with the layout that it came with; null, which these
// functions may return, stands for memory that there is not.
unsafe impl GlobalAlloc for Gauge {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ASKED.fetch_add(1, Relaxed);
        match take(layout.size()) {
            // SAFETY: the caller's promises are those that the system's allocator asks for.
            true => unsafe { System.alloc(layout) },
            false => std::ptr::null_mut(),
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        ASKED.fetch_add(1, Relaxed);
        match take(layout.size()) {
            // SAFETY: as above.
            true => unsafe { System.alloc_zeroed(layout) },
            false => std::ptr::null_mut(),
        }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        give(layout.size());
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ASKED.fetch_add(1, Relaxed);
        if size > layout.size() && !take(size - layout.size()) {
            return std::ptr::null_mut();
        }
        if size < layout.size() {
            give(layout.size() - size);
        }
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// Does `work` and tells how many bytes more than before were in use at most, by all threads. Where they would be more than `bound`, the
/// program ends.
pub fn measured<T>(bound: usize, work: impl FnOnce() -> T) -> (T, usize) {
    let before = IN_USE.load(Relaxed);
    PEAK.store(before, Relaxed);
    BOUND.store(before.saturating_add(bound), Relaxed);
    let done = work();
    BOUND.store(usize::MAX, Relaxed);
    (done, PEAK.load(Relaxed).saturating_sub(before))
}

/// Takes the bound away: what is written about a failure needs memory of its own.
pub fn lift() {
    BOUND.store(usize::MAX, Relaxed);
}

/// How often memory was asked for so far, by all threads: new, or another size of what was given.
pub fn asked() -> usize {
    ASKED.load(Relaxed)
}
