#![no_main]

libfuzzer_sys::fuzz_target!(
    init: stoa_fuzz::begin("pack"),
    |input: &[u8]| stoa_fuzz::fuzz("pack", input)
);
