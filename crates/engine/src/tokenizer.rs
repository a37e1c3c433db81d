//! Text to token ids and back: BPE on bytes or with bytes to fall back on, and the word pieces of encoders.

use crate::config::MAX_VOCABULARY;
use crate::error::{EngineError, ImportError};
use crate::word_pieces::WordPieces;
use crate::{sentence_pieces, tokenizer_parts, word_pieces};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;
use tokenizers::{DecoderWrapper, ModelWrapper};

/// A tokenizer as a model file describes it, in one form for all kinds of files: the JSON of a `tokenizer.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenizerSource {
    #[serde(skip)]
    json: String,
    bos: Option<u32>,
    eos: Option<u32>,
    ends: BTreeSet<u32>,
    add_bos: bool,
}

/// Vocabulary of a GGUF file.
#[derive(Debug, Clone)]
pub(crate) struct GgufVocabulary {
    pub tokens: Vec<String>,
    pub merges: Vec<String>,
    pub types: Vec<i64>,
    pub pre: String,
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub ends: Vec<u32>,
    pub add_bos: bool,
    pub kind: Tokens,
    /// binary32 bits, for pieces.
    pub scores: Vec<u32>,
    /// Whether a text of pieces gets a space before it.
    pub space_prefix: bool,
}

/// What a vocabulary's tokens are made of.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Tokens {
    /// Letters for bytes, with merges.
    Bytes,
    /// Pieces with scores.
    Pieces,
    /// Word pieces.
    Words(WordPieces),
}

/// GGUF token types.
pub(crate) const UNKNOWN: i64 = 2;
pub(crate) const CONTROL: i64 = 3;
pub(crate) const USER_DEFINED: i64 = 4;
pub(crate) const BYTE: i64 = 6;

/// Ids that a vocabulary may leave out, beside three for each that it has.
const IDS_LEFT_OUT: usize = 1 << 12;

/// Special tokens that end an answer wherever they exist.
const END_NAMES: [&str; 8] = [
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|end_of_turn|>",
    "<end_of_turn>",
];

impl TokenizerSource {
    pub(crate) fn from_gguf(v: &GgufVocabulary) -> Result<Self, ImportError> {
        let document = match &v.kind {
            Tokens::Pieces => sentence_pieces::document(v)?,
            Tokens::Words(words) => word_pieces::document(v, words)?,
            Tokens::Bytes => of_bytes(v)?,
        };
        Ok(Self {
            json: sorted_json(&document),
            bos: v.bos,
            eos: v.eos,
            ends: v.ends.iter().copied().collect(),
            add_bos: v.add_bos,
        })
    }

    pub(crate) fn from_hugging_face(
        json: String,
        config: &Value,
        ends: Vec<u32>,
        encoder: bool,
    ) -> Result<Self, ImportError> {
        let document: Value = serde_json::from_str(&json).map_err(|e| {
            ImportError::Tokenizer(format!("tokenizer.json is not valid JSON: {e}"))
        })?;
        let decoder = &document["decoder"];
        let decoders = match decoder["type"] == "Sequence" {
            true => decoder["decoders"]
                .as_array()
                .map_or(&[][..], Vec::as_slice),
            false => std::slice::from_ref(decoder),
        };
        let has = |kind: &str| decoders.iter().any(|d| d["type"] == kind);
        let model = &document["model"];
        // Without bytes to fall back on, letters that have no token would vanish from prompts.
        let pieces = has("ByteFallback") && model["byte_fallback"] == true;
        let whole = (0..=255).all(|b| model["vocab"][format!("<0x{b:02X}>")].is_u64());
        let known = match encoder {
            true => model["type"] == "WordPiece",
            false => model["type"] == "BPE" && (has("ByteLevel") || pieces && whole),
        };
        if !known {
            let reason = "of encoders word pieces, of others BPE on bytes, or with tokens for all bytes to fall back on, is supported; tokenizer.json describes \
                          something else";
            return Err(ImportError::Tokenizer(reason.to_owned()));
        }
        let id_of = |key: &str| {
            let name = config[key].as_str().or(config[key]["content"].as_str())?;
            let added = document["added_tokens"].as_array()?;
            let found = added
                .iter()
                .find(|t| t["content"] == name)
                .map(|t| &t["id"]);
            u32::try_from(
                found
                    .unwrap_or(&document["model"]["vocab"][name])
                    .as_u64()?,
            )
            .ok()
        };
        let eos = id_of("eos_token").or(ends.first().copied());
        Ok(Self {
            bos: id_of("bos_token"),
            eos,
            ends: ends.into_iter().chain(eos).collect(),
            add_bos: config["add_bos_token"].as_bool().unwrap_or(false),
            json,
        })
    }

    /// The JSON of a `tokenizer.json`.
    pub fn json(&self) -> &str {
        &self.json
    }

    /// The same tokens with this JSON.
    pub(crate) fn with_json(self, json: String) -> Self {
        Self { json, ..self }
    }

    /// What the model root hashes: the begin and end tokens, whether a begin token is added, then the JSON.
    pub fn canonical_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for id in [self.bos, self.eos] {
            bytes.extend(id.map_or(u64::MAX, u64::from).to_be_bytes());
        }
        bytes.push(u8::from(self.add_bos));
        bytes.extend((self.ends.len() as u64).to_be_bytes());
        bytes.extend(self.ends.iter().flat_map(|id| id.to_be_bytes()));
        bytes.extend(self.json.as_bytes());
        bytes
    }
}

/// The tokenizer's JSON of letters for bytes.
fn of_bytes(v: &GgufVocabulary) -> Result<Value, ImportError> {
    let (pre_tokenizer, ignore_merges) = pre_tokenizer(&v.pre)?;
    let added = added_tokens(&v.tokens, &v.types, &[CONTROL, USER_DEFINED]);
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "added_tokens": added, "pre_tokenizer": pre_tokenizer,
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                  "ignore_merges": ignore_merges, "vocab": vocab(&v.tokens)?, "merges": v.merges},
    }))
}

/// Token to id.
pub(crate) fn vocab(tokens: &[String]) -> Result<serde_json::Map<String, Value>, ImportError> {
    let mut vocab = serde_json::Map::new();
    for (id, token) in tokens.iter().enumerate() {
        if vocab.insert(token.clone(), json!(id)).is_some() {
            let reason = format!("token {token:?} appears twice");
            return Err(ImportError::Tokenizer(reason));
        }
    }
    Ok(vocab)
}

/// The tokens of some types, by id. All but user-defined ones are special.
pub(crate) fn added_tokens(tokens: &[String], types: &[i64], added: &[i64]) -> Vec<Value> {
    let with_types = tokens.iter().zip(types).enumerate();
    let of_type = with_types.filter(|(_, (_, kind))| added.contains(kind));
    of_type
        .map(|(id, (token, kind))| {
            json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                   "normalized": false, "special": *kind != USER_DEFINED})
        })
        .collect()
}

/// JSON without spaces, the members of every object in the order of their names' bytes. The model root hashes it, so it must not
/// depend on how the JSON library was built.
fn sorted_json(value: &Value) -> String {
    match value {
        Value::Object(members) => {
            let sorted: BTreeMap<_, _> = members.iter().collect();
            let members = sorted
                .into_iter()
                .map(|(name, value)| format!("{}:{}", json!(name), sorted_json(value)));
            format!("{{{}}}", members.collect::<Vec<_>>().join(","))
        }
        Value::Array(list) => {
            let list: Vec<_> = list.iter().map(sorted_json).collect();
            format!("[{}]", list.join(","))
        }
        simple => simple.to_string(),
    }
}

/// Whether files of this splitting rule that do not say so want the begin token before a text.
pub(crate) fn begins_texts(pre: &str) -> bool {
    matches!(pre, "llama-bpe" | "llama3" | "llama-v3" | "tekken")
}

/// Splitting before BPE, by GGUF's name for it; and whether whole words are looked up first.
fn pre_tokenizer(name: &str) -> Result<(Value, bool), ImportError> {
    let byte_level = |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": regex});
    let split = |pattern: &str| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
    let sequence = |list: Value| json!({"type": "Sequence", "pretokenizers": list});
    Ok(match name {
        "gpt-2" | "gpt2" | "phi-2" | "jina-es" | "jina-de" | "mpt" | "olmo" => {
            (byte_level(true), false)
        }
        "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" | "exaone" => (
            sequence(json!([{"type": "Digits", "individual_digits": true}, byte_level(true)])),
            false,
        ),
        "llama-bpe" | "llama3" | "llama-v3" | "dbrx" | "smaug-bpe" => (
            sequence(json!([
                split(
                    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
                ),
                byte_level(false)
            ])),
            true,
        ),
        "tekken" => (
            sequence(json!([
                split(
                    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
                ),
                byte_level(false)
            ])),
            true,
        ),
        "qwen2" | "deepseek-r1-qwen" | "stablelm2" => (
            sequence(json!([
                split(
                    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
                ),
                byte_level(false)
            ])),
            false,
        ),
        other => {
            let reason =
                format!("the splitting rule {other:?} (tokenizer.ggml.pre) is not supported");
            return Err(ImportError::Tokenizer(reason));
        }
    })
}

/// Encodes and decodes.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// The same, taking special tokens in the text as plain letters; made when first needed.
    plain: OnceLock<tokenizers::Tokenizer>,
    pieces: Vec<Piece>,
    bos: Option<u32>,
    eos: Option<u32>,
    ends: BTreeSet<u32>,
    add_bos: bool,
    /// Word pieces: what the post-processor puts around a text belongs to it.
    framed: bool,
}

#[derive(Debug, Clone, Default)]
struct Piece {
    bytes: Box<[u8]>,
    special: bool,
}

impl Tokenizer {
    /// Builds the tokenizer.
    pub fn new(source: &TokenizerSource) -> Result<Self, ImportError> {
        tokenizer_parts::check(&source.json)?;
        let mut inner: tokenizers::Tokenizer = source
            .json
            .parse()
            .map_err(|e| ImportError::Tokenizer(format!("{e}")))?;
        // Neither may cut or lengthen a prompt behind the caller's back.
        inner.with_padding(None);
        inner
            .with_truncation(None)
            .map_err(|e| ImportError::Tokenizer(format!("{e}")))?;
        let pieces = pieces(&inner)?;
        let known = |id: &u32| (*id as usize) < pieces.len();
        if let Some(id) = source.bos.iter().chain(&source.eos).find(|id| !known(id)) {
            let reason = format!("the begin or end token {id} is outside the vocabulary");
            return Err(ImportError::Tokenizer(reason));
        }
        let mut ends = source.ends.clone();
        ends.extend(END_NAMES.iter().filter_map(|name| {
            let id = inner.token_to_id(name)?;
            pieces.get(id as usize)?.special.then_some(id)
        }));
        let own_begin = inner
            .encode_fast("", true)
            .is_ok_and(|e| source.bos.is_some() && e.get_ids().first().copied() == source.bos);
        Ok(Self {
            plain: OnceLock::new(),
            pieces,
            bos: source.bos,
            eos: source.eos,
            ends,
            add_bos: source.add_bos || own_begin,
            framed: matches!(inner.get_model(), ModelWrapper::WordPiece(_)),
            inner,
        })
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.pieces.len()
    }

    /// Whether there are no tokens.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Token that begins a text, and whether plain prompts get it.
    pub fn begin(&self) -> (Option<u32>, bool) {
        (self.bos, self.add_bos)
    }

    /// Token that ends a text.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// Whether generation ends with this token.
    pub fn is_end(&self, id: u32) -> bool {
        self.ends.contains(&id)
    }

    /// Id of a token by its text.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Whether the token is a control token, whose text is shown only on request.
    pub fn is_special(&self, id: u32) -> bool {
        self.pieces.get(id as usize).is_some_and(|p| p.special)
    }

    /// Text to ids. With `parse_special`, control tokens written in the text become those tokens (for rendered templates);
    /// without, they are letters like any others (for what a user wrote).
    pub fn encode(&self, text: &str, parse_special: bool) -> Result<Vec<u32>, EngineError> {
        self.encode_with(text, parse_special, false)
    }

    fn encode_with(
        &self,
        text: &str,
        parse_special: bool,
        framed: bool,
    ) -> Result<Vec<u32>, EngineError> {
        let tokenizer = if parse_special {
            &self.inner
        } else {
            self.plain.get_or_init(|| {
                let mut plain = self.inner.clone();
                plain.set_encode_special_tokens(true);
                plain
            })
        };
        let encoding = tokenizer
            .encode_fast(text, framed)
            .map_err(|e| EngineError::Tokenize(e.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Ids of a plain prompt: the begin token where the model wants one, then the text; of word pieces with what stands around a text.
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<u32>, EngineError> {
        if self.framed {
            return self.encode_with(text, false, true);
        }
        let mut ids: Vec<u32> = self.bos.filter(|_| self.add_bos).into_iter().collect();
        ids.extend(self.encode(text, false)?);
        Ok(ids)
    }

    /// Bytes of a token; none for unknown ids, and for control tokens unless `render_special`.
    pub fn bytes(&self, id: u32, render_special: bool) -> &[u8] {
        match self.pieces.get(id as usize) {
            Some(piece) if render_special || !piece.special => &piece.bytes,
            _ => &[],
        }
    }

    /// Ids to text, as the streaming decoder gives it.
    pub fn decode(&self, ids: &[u32], render_special: bool) -> String {
        let mut decoder = Detokenizer::new(render_special);
        let mut text: String = ids.iter().map(|id| decoder.push(self, *id)).collect();
        text.push_str(&decoder.finish());
        text
    }
}

/// Whether tokens are pieces of text with tokens for bytes beside them, rather than letters that stand for bytes.
fn falls_back_on_bytes(tokenizer: &tokenizers::Tokenizer) -> bool {
    match tokenizer.get_decoder() {
        Some(DecoderWrapper::Sequence(list)) => {
            let mut decoders = list.get_decoders().iter();
            decoders.any(|d| matches!(d, DecoderWrapper::ByteFallback(_)))
        }
        Some(DecoderWrapper::ByteFallback(_)) => true,
        _ => false,
    }
}

/// Bytes of every token: from the letters that byte-level BPE writes for bytes, or of a piece.
fn pieces(tokenizer: &tokenizers::Tokenizer) -> Result<Vec<Piece>, ImportError> {
    let bytes_of: BTreeMap<char, u8> = byte_letters().into_iter().zip(0u8..=255).collect();
    let added = tokenizer.get_added_tokens_decoder();
    let vocabulary = tokenizer.get_vocab(true);
    let length = vocabulary.values().max().map_or(0, |id| *id as usize + 1);
    // One hostile id would otherwise take memory for all before it. Some files leave out a few.
    if length > MAX_VOCABULARY.min(4 * vocabulary.len() + IDS_LEFT_OUT) {
        let reason = format!(
            "it has the token id {} and {} tokens in all; the greatest id may be {}",
            length - 1,
            vocabulary.len(),
            MAX_VOCABULARY - 1
        );
        return Err(ImportError::Tokenizer(reason));
    }
    let mut pieces = vec![Piece::default(); length];
    let by_pieces = falls_back_on_bytes(tokenizer);
    for (token, id) in vocabulary {
        let plain: Option<Box<[u8]>> = if by_pieces {
            let byte = sentence_pieces::byte_of(&token).map(|byte| [byte].into());
            byte.or_else(|| Some(token.replace(sentence_pieces::SPACE, " ").as_bytes().into()))
        } else {
            token.chars().map(|c| bytes_of.get(&c).copied()).collect()
        };
        pieces[id as usize] = match added.get(&id) {
            Some(token) => Piece {
                bytes: token.content.as_bytes().into(),
                special: token.special,
            },
            None => Piece {
                bytes: plain.unwrap_or_else(|| token.as_bytes().into()),
                special: false,
            },
        };
    }
    Ok(pieces)
}

/// The letter that stands for each byte: printable Latin-1 for itself, the others in order from U+0100.
pub(crate) fn byte_letters() -> Vec<char> {
    let mut next = 0x100;
    (0..=255u32)
        .map(|byte| {
            let printable = matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
            let code = if printable {
                byte
            } else {
                next += 1;
                next - 1
            };
            char::from_u32(code).expect("below U+0200 every number is a character")
        })
        .collect()
}

/// Turns tokens into text one by one, and never gives a part of a character.
#[derive(Debug, Clone, Default)]
pub struct Detokenizer {
    pending: Vec<u8>,
    render_special: bool,
}

impl Detokenizer {
    /// A decoder at the beginning of a text.
    pub fn new(render_special: bool) -> Self {
        Self {
            pending: Vec::new(),
            render_special,
        }
    }

    /// Text that is complete after this token. Bytes that are not UTF-8 become U+FFFD.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> String {
        self.pending
            .extend_from_slice(tokenizer.bytes(id, self.render_special));
        let mut text = String::new();
        loop {
            match std::str::from_utf8(&self.pending) {
                Ok(valid) => {
                    text.push_str(valid);
                    self.pending.clear();
                    return text;
                }
                Err(error) => {
                    let valid = error.valid_up_to();
                    text.push_str(&String::from_utf8_lossy(&self.pending[..valid]));
                    let Some(bad) = error.error_len() else {
                        self.pending.drain(..valid);
                        return text;
                    };
                    text.push(char::REPLACEMENT_CHARACTER);
                    self.pending.drain(..valid + bad);
                }
            }
        }
    }

    /// What is left at the end: U+FFFD for an unfinished character, else nothing.
    pub fn finish(&mut self) -> String {
        let rest = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        rest
    }
}
