#![no_main]

libfuzzer_sys::fuzz_target!(
    init: stoa_fuzz::begin("template"),
    |input: &[u8]| stoa_fuzz::fuzz("template", input)
);
