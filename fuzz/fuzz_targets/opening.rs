#![no_main]

libfuzzer_sys::fuzz_target!(
    init: stoa_fuzz::begin("opening"),
    |input: &[u8]| stoa_fuzz::fuzz("opening", input)
);
