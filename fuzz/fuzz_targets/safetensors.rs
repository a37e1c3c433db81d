#![no_main]

libfuzzer_sys::fuzz_target!(
    init: stoa_fuzz::begin("safetensors"),
    |input: &[u8]| stoa_fuzz::fuzz("safetensors", input)
);
