#![no_main]

libfuzzer_sys::fuzz_target!(
    init: stoa_fuzz::begin("grammar"),
    |input: &[u8]| stoa_fuzz::fuzz("grammar", input)
);
