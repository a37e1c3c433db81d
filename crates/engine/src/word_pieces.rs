//! Vocabularies of word pieces (`bert` in GGUF files) as a `tokenizer.json` of BERT's has them.

use crate::error::ImportError;
use crate::sentence_pieces::SPACE;
use crate::tokenizer::{CONTROL, GgufVocabulary, UNKNOWN, USER_DEFINED, added_tokens, vocab};
use serde_json::{Value, json};

/// What goes on with a word begins so.
const GOES_ON: &str = "##";
/// Letters of the longest word that is taken apart; a longer one is unknown.
const LETTERS_MAX: usize = 100;

/// What a file says of its word pieces beside the tokens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WordPieces {
    /// The token before a text.
    pub first: u32,
    /// The token after it.
    pub last: u32,
    /// The token of a word that no pieces make.
    pub unknown: u32,
    /// Whether capitals become small letters, where the file says it.
    pub lowercase: Option<bool>,
    /// Whether accents are taken off; unless the file says it, where capitals become small.
    pub strip_accents: Option<bool>,
}

/// The tokenizer's JSON, as docs/iq8.md section 7 says.
pub(crate) fn document(v: &GgufVocabulary, words: &WordPieces) -> Result<Value, ImportError> {
    let frame = [words.first, words.last, words.unknown];
    if let Some(id) = frame.iter().find(|id| **id as usize >= v.tokens.len()) {
        let reason = format!(
            "its first, last and unknown token are {}, {} and {}, and {id} is outside the vocabulary",
            words.first, words.last, words.unknown
        );
        return Err(ImportError::Tokenizer(reason));
    }
    let kind = |id: usize| match v.types.get(id) {
        _ if frame.contains(&(id as u32)) => CONTROL,
        Some(&(CONTROL | UNKNOWN)) => CONTROL,
        Some(kind) => *kind,
        None => 0,
    };
    let types: Vec<i64> = (0..v.tokens.len()).map(kind).collect();
    let written = |(token, kind): (&String, &i64)| match *kind {
        CONTROL => token.clone(),
        _ => written(token),
    };
    let tokens: Vec<String> = v.tokens.iter().zip(&types).map(written).collect();
    let lowercase = match words.lowercase {
        Some(said) => said,
        None => has_no_capitals(&tokens, &types)?,
    };
    let at = |id: u32| json!([tokens[id as usize], id]);
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": added_tokens(&tokens, &types, &[CONTROL, USER_DEFINED]),
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                       "strip_accents": words.strip_accents, "lowercase": lowercase},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "BertProcessing", "sep": at(words.last), "cls": at(words.first)},
        "decoder": {"type": "WordPiece", "prefix": GOES_ON, "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": tokens[words.unknown as usize], "continuing_subword_prefix": GOES_ON,
                  "max_input_chars_per_word": LETTERS_MAX, "vocab": vocab(&tokens)?},
    }))
}

/// A token as BERT's vocabularies have it. In GGUF files a space stands before what begins a word, and nothing before what goes on.
fn written(token: &str) -> String {
    match token.strip_prefix(SPACE) {
        Some(word) if !word.is_empty() => word.to_owned(),
        _ => format!("{GOES_ON}{token}"),
    }
}

/// Whether capitals become small letters in a file that does not say it: they do, unless tokens have some. Those could never be met, so
/// such a vocabulary is of a model that tells them apart.
fn has_no_capitals(tokens: &[String], types: &[i64]) -> Result<bool, ImportError> {
    // Names of tokens that stand for no text.
    let in_brackets = |token: &str| {
        let of = |open, close| token.starts_with(open) && token.ends_with(close);
        of('[', ']') || of('<', '>')
    };
    let capital = |token: &str| token.contains(|c: char| c.is_ascii_uppercase());
    let mut tokens = tokens.iter().zip(types);
    let odd =
        tokens.find(|(token, kind)| **kind != CONTROL && capital(token) && !in_brackets(token));
    match odd {
        None => Ok(true),
        Some((token, _)) => Err(ImportError::metadata(
            "tokenizer.ggml.normalizer.lowercase",
            format!(
                "is absent, and the token {token:?} has capitals: set it to false, or import the folder that the file was made of"
            ),
        )),
    }
}
