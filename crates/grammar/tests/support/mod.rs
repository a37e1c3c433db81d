//! A small vocabulary, and answers of a model that says anything.

#![allow(dead_code, reason = "each test file uses a part")]

use std::sync::OnceLock;
use stoa_engine::TokenSet;
use stoa_engine::sampler::{philox4x32, sample, sample_within};
use stoa_grammar::{Compiled, Vocabulary};
use stoa_types::{Q16, SamplingParameters};

/// Tokens of several bytes: parts of JSON, of words, of characters, and markers.
const PIECES: [&[u8]; 22] = [
    b"{\"",
    b"\":",
    b"\",",
    b"\"}",
    b"true",
    b"tr",
    b"ue",
    b"null",
    b"name",
    b"\"name\"",
    b"  ",
    b"\n",
    b", ",
    b": ",
    b"12",
    b"-1",
    b"}}",
    b"]",
    "é".as_bytes(),
    b"\xe2\x82",
    b"<tool_call>",
    b"</tool_call>",
];
/// Control tokens, of which the last ends an answer.
const CONTROL: [&str; 3] = ["<|tool_call|>", "<|system|>", "<|end|>"];

/// Every byte, the pieces, the control tokens.
pub fn texts() -> &'static [Box<[u8]>] {
    static TEXTS: OnceLock<Vec<Box<[u8]>>> = OnceLock::new();
    TEXTS.get_or_init(|| {
        let bytes = (0..=255u8).map(|byte| vec![byte].into());
        let pieces = PIECES.iter().map(|piece| (*piece).into());
        let control = CONTROL.iter().map(|text| text.as_bytes().into());
        bytes.chain(pieces).chain(control).collect()
    })
}

/// The token that ends an answer.
pub fn end() -> u32 {
    texts().len() as u32 - 1
}

pub fn vocabulary() -> Vocabulary {
    let control = (0..texts().len())
        .map(|id| id + CONTROL.len() >= texts().len())
        .collect();
    Vocabulary::of_parts(texts().to_vec(), control, &[end()]).expect("usable")
}

/// The allowed tokens as text, bytes above ASCII and control tokens included.
pub fn shown(set: Option<&TokenSet>) -> String {
    let Some(set) = set else {
        return "all".to_owned();
    };
    let text = |id: u32| String::from_utf8_lossy(&texts()[id as usize]).into_owned();
    set.ids(texts().len())
        .map(text)
        .collect::<Vec<_>>()
        .join(" ")
}

/// What a model without sense writes under a grammar at temperature 2, and whether it came to an end.
pub fn ramble(grammar: &Compiled, seed: u64, most: u32) -> (Vec<u32>, bool) {
    let size = texts().len();
    let parameters = SamplingParameters {
        temperature: Q16(2 << 16),
        seed,
        max_output_tokens: most,
        ..SamplingParameters::default()
    };
    let mut constraint = grammar.begin();
    let mut tokens = Vec::new();
    for position in 0..most {
        let logits: Vec<i32> = (0..size as u32)
            .map(|id| logit(seed, position, id))
            .collect();
        let id = match constraint.allowed().expect("goes on") {
            None => sample(&logits, &parameters, position),
            Some(set) => sample_within(&logits, set, &parameters, position).expect("not empty"),
        };
        if id == end() {
            return (tokens, true);
        }
        constraint.accept(id).expect("it was allowed");
        tokens.push(id);
    }
    (tokens, false)
}

/// Anything within some units, but that white space is rare and what closes is likely: otherwise few answers would end.
fn logit(seed: u64, position: u32, id: u32) -> i32 {
    let noise = philox4x32([id, position, 7, 7], [seed as u32, (seed >> 32) as u32])[0];
    let base = (noise % (6 << 16)) as i32;
    match texts()[id as usize].first() {
        Some(b' ' | b'\n' | b'\t' | b'\r') => base - (6 << 16),
        Some(b'"' | b'}' | b']' | b'<') => base + (4 << 16),
        _ => base,
    }
}

/// The bytes of tokens.
pub fn bytes(tokens: &[u32]) -> Vec<u8> {
    tokens
        .iter()
        .flat_map(|id| texts()[*id as usize].to_vec())
        .collect()
}
