//! Fuzzing of everything that Stoa's engine reads: see README.md beside this.

pub mod gauge;
pub mod grammar;
pub mod seeds;
pub mod target;
pub mod targets;

#[path = "../../crates/engine/tests/support/mod.rs"]
#[allow(missing_docs)]
pub mod support;

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use target::Target;

#[global_allocator]
static GAUGE: gauge::Gauge = gauge::Gauge;

/// Highest part so far of what an input may take in memory, in thousandths.
static HIGHEST: AtomicUsize = AtomicUsize::new(0);

/// Every target.
pub fn all() -> impl Iterator<Item = &'static Target> {
    targets::TARGETS.iter().chain([&grammar::TARGET])
}

fn target(name: &str) -> &'static Target {
    let found = all().find(|target| target.name == name);
    found.unwrap_or_else(|| panic!("there is no target {name}"))
}

/// Makes ready for fuzzing: writes the inputs to begin with to where `cargo fuzz` keeps its own.
pub fn begin(name: &str) {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        // The engine catches these.
        if panic
            .location()
            .is_some_and(|at| at.file().contains("/minijinja-"))
        {
            return;
        }
        gauge::lift();
        report(panic);
    }));
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(name);
    std::fs::create_dir_all(&corpus).expect("the corpus can be written");
    for (number, seed) in (target(name).seeds)().iter().enumerate() {
        let path = corpus.join(format!("seed-{number}"));
        std::fs::write(path, seed).expect("the corpus can be written");
    }
}

/// Runs a fuzzer's input; tells where one comes nearer to its bound than all before it.
pub fn fuzz(name: &str, input: &[u8]) {
    let target = target(name);
    let peak = target.run(input);
    let part = peak * 1000 / target.bound(input.len());
    if HIGHEST.fetch_max(part, Relaxed) < part {
        eprintln!(
            "PEAK {peak} bytes for {} of input: {part} thousandths of what may be",
            input.len()
        );
    }
}
