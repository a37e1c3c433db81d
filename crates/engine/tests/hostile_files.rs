//! The inputs that fuzzing begins with, those that it found, and changes of them, without a fuzzer: no panic, and no more memory than an
//! input's length allows. `fuzz/README.md` says how to look for more.

mod support;

#[path = "../../../fuzz/src/gauge.rs"]
#[allow(dead_code, reason = "fuzzers lift the bound")]
mod gauge;
#[path = "../../../fuzz/src/seeds.rs"]
mod seeds;
#[path = "../../../fuzz/src/target.rs"]
mod target;
#[path = "../../../fuzz/src/targets.rs"]
mod targets;

#[global_allocator]
static GAUGE: gauge::Gauge = gauge::Gauge;

// One test: the gauge counts what all threads take.
#[test]
fn hostile_files_of_every_kind_are_read_within_their_bounds() {
    for target in &targets::TARGETS {
        let highest = target.run_all(25);
        println!("{}: at most {highest} bytes", target.name);
        // The gauge counts: nothing is read in less.
        assert!(highest > 1_000, "{}: {highest}", target.name);
    }
    std::fs::remove_dir_all(targets::folder()).expect("it was made for these");
}
