//! The schemas and expressions that fuzzing begins with and changes of them, without a fuzzer: no panic, and no more memory than the
//! bounds of a grammar allow. `fuzz/README.md` says how to look for more.

#[path = "../../../fuzz/src/gauge.rs"]
#[allow(dead_code, reason = "fuzzers lift the bound")]
mod gauge;
#[path = "../../../fuzz/src/grammar.rs"]
mod grammar;
#[path = "../../../fuzz/src/target.rs"]
mod target;

#[global_allocator]
static GAUGE: gauge::Gauge = gauge::Gauge;

#[test]
fn hostile_schemas_and_expressions_are_compiled_within_their_bound() {
    let highest = grammar::TARGET.run_all(40);
    println!("at most {highest} bytes");
    // The gauge counts: nothing is compiled in less.
    assert!(highest > 10_000, "{highest}");
}
