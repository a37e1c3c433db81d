#![no_main]

libfuzzer_sys::fuzz_target!(
    init: stoa_fuzz::begin("gguf"),
    |input: &[u8]| stoa_fuzz::fuzz("gguf", input)
);
