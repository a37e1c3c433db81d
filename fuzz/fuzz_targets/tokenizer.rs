#![no_main]

libfuzzer_sys::fuzz_target!(
    init: stoa_fuzz::begin("tokenizer"),
    |input: &[u8]| stoa_fuzz::fuzz("tokenizer", input)
);
