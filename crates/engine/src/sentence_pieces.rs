//! Vocabularies of pieces with scores (`llama` in GGUF files, as SentencePiece makes them) as byte-pair encoding with byte fallback.

use crate::error::ImportError;
use crate::tokenizer::{BYTE, CONTROL, GgufVocabulary, UNKNOWN, USER_DEFINED, added_tokens, vocab};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The letter that stands for a space.
pub(crate) const SPACE: char = '\u{2581}';
/// Longest piece that merges are made for, in bytes.
const LONGEST: usize = 256;
/// Most bytes of merges for each byte of the vocabulary; real ones have about two.
const MERGES_PER_BYTE: usize = 16;
/// Merges' bytes that any vocabulary may have.
const FREE_BYTES: usize = 1 << 20;

/// The token that stands for a byte.
fn byte_token(byte: u8) -> String {
    format!("<0x{byte:02X}>")
}

/// The byte that a token stands for.
pub(crate) fn byte_of(token: &str) -> Option<u8> {
    let hex = token.strip_prefix("<0x")?.strip_suffix('>')?;
    let byte = u8::from_str_radix(hex, 16).ok()?;
    (byte_token(byte) == token).then_some(byte)
}

/// The tokenizer's JSON, as docs/iq8.md section 7 says.
pub(crate) fn document(v: &GgufVocabulary) -> Result<Value, ImportError> {
    if v.scores.len() != v.tokens.len() {
        let reason = format!(
            "there are {} tokens and {} scores",
            v.tokens.len(),
            v.scores.len()
        );
        return Err(ImportError::metadata("tokenizer.ggml.scores", reason));
    }
    let vocab = vocab(&v.tokens)?;
    // A letter without a piece and without bytes would vanish from prompts.
    if let Some(byte) = (0..=255u8).find(|b| !vocab.contains_key(&byte_token(*b))) {
        let reason = format!("the token {} is absent", byte_token(byte));
        return Err(ImportError::Tokenizer(reason));
    }
    let merges = merges(v)?;
    let space =
        json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE.to_string()});
    let normalizer = if v.space_prefix {
        let prefix = json!({"type": "Prepend", "prepend": SPACE.to_string()});
        json!({"type": "Sequence", "normalizers": [prefix, space]})
    } else {
        space
    };
    let back = json!({"type": "Replace", "pattern": {"String": SPACE.to_string()}, "content": " "});
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null, "post_processor": null, "pre_tokenizer": null,
        "added_tokens": added_tokens(&v.tokens, &v.types, &[CONTROL, USER_DEFINED, UNKNOWN]), "normalizer": normalizer,
        "decoder": {"type": "Sequence", "decoders": [back, {"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": true, "ignore_merges": false,
                  "vocab": vocab, "merges": merges},
    }))
}

/// All ways to make a piece of two others: highest score first, lowest id among equals, longest left half first.
fn merges(v: &GgufVocabulary) -> Result<Vec<[&str; 2]>, ImportError> {
    // What stands for bytes and control tokens must not come out of letters.
    let plain = |id: usize| {
        !matches!(
            v.types.get(id),
            Some(&(UNKNOWN | CONTROL | USER_DEFINED | BYTE))
        )
    };
    let pieces: BTreeMap<&str, usize> = v
        .tokens
        .iter()
        .enumerate()
        .filter(|(id, _)| plain(*id))
        .map(|(id, token)| (token.as_str(), id))
        .collect();
    let mut order = Vec::with_capacity(pieces.len());
    for (token, id) in &pieces {
        order.push((std::cmp::Reverse(score(v.scores[*id])?), *id, *token));
    }
    order.sort_unstable();
    let allowed = MERGES_PER_BYTE * v.tokens.iter().map(String::len).sum::<usize>() + FREE_BYTES;
    let (mut merges, mut bytes) = (vec![], 0);
    for (_, _, token) in order.into_iter().filter(|(_, _, t)| t.len() <= LONGEST) {
        for (at, _) in token
            .char_indices()
            .skip(1)
            .collect::<Vec<_>>()
            .into_iter()
            .rev()
        {
            let (left, right) = token.split_at(at);
            if pieces.contains_key(left) && pieces.contains_key(right) {
                bytes += token.len();
                merges.push([left, right]);
            }
        }
        if bytes > allowed {
            let reason = format!("its pieces can be made in more ways than {allowed} bytes hold");
            return Err(ImportError::Tokenizer(reason));
        }
    }
    Ok(merges)
}

/// A number that orders binary32 scores.
fn score(bits: u32) -> Result<u32, ImportError> {
    if bits & 0x7f80_0000 == 0x7f80_0000 {
        let reason = "holds a number that is infinite or none";
        return Err(ImportError::metadata("tokenizer.ggml.scores", reason));
    }
    Ok(match bits {
        // Minus zero is zero.
        0x8000_0000 => 0x8000_0000,
        _ if bits >> 31 == 1 => !bits,
        _ => bits | 0x8000_0000,
    })
}
