//! A model in a GGUF file.

use super::elements::RawTensor;
use super::families::{self, Family, Mixture};
use super::gguf::{Gguf, TensorInfo, Value};
use super::reader::Reader;
use super::roles::{self, Named, Role};
use super::{Checkpoint, Entry, each_expert, no_place, put};
use crate::config::{
    Architecture, Config, Encoder, Experts, MAX_GAIN_Q16, ONE_Q16, Pooling, Rotary, RotaryScaling,
    positive_fixed, yarn_gain,
};
use crate::error::ImportError;
use crate::fixed::round_shift;
use crate::tokenizer::{GgufVocabulary, TokenizerSource, Tokens, begins_texts};
use crate::word_pieces::WordPieces;
use std::collections::BTreeMap;
use std::path::Path;

const ROTARY_FACTORS: &str = "rope_freqs.weight";
const TOKEN_TYPES: &str = "token_types.weight";

/// What a description may say of its architecture: keys that are read, and those that change nothing here. Any other could change the
/// answers, and is refused.
const KEYS: [&str; 40] = [
    "attention.causal",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.layer_norm_epsilon",
    "attention.layer_norm_rms_epsilon",
    "attention.sliding_window",
    "attention.value_length",
    "block_count",
    "context_length",
    "embedding_length",
    "expert_count",
    "expert_feed_forward_length",
    "expert_gating_func",
    "expert_group_count",
    "expert_group_used_count",
    "expert_shared_count",
    "expert_shared_feed_forward_length",
    "expert_used_count",
    "expert_weights_norm",
    "expert_weights_scale",
    "feed_forward_length",
    "interleave_moe_layer_step",
    "leading_dense_block_count",
    "pooling_type",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scale_linear",
    "rope.scaling.attn_factor",
    "rope.scaling.factor",
    "rope.scaling.finetuned",
    "rope.scaling.original_context_length",
    "rope.scaling.type",
    "rope.scaling.yarn_attn_factor",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
    "rope.scaling.yarn_ext_factor",
    "rope.scaling.yarn_log_multiplier",
    "tensor_data_layout",
    "vocab_size",
];

pub(super) fn open(path: &Path) -> Result<Checkpoint, ImportError> {
    let mut reader = Reader::open(path)?;
    let file = Gguf::read(&mut reader)?;
    if let Some(parts) = file.integer("split.count")?.filter(|parts| *parts > 1) {
        let reason = format!(
            "it is one of {parts} parts of a model: bring them together with `llama-gguf-split --merge FIRST-PART WHOLE.gguf` and take \
             that file"
        );
        return Err(reader.not_a_model(reason));
    }
    let name = file.text("general.architecture").unwrap_or("absent");
    let family = families::in_gguf(name)
        .ok_or_else(|| ImportError::metadata("general.architecture", families::unknown(name)))?;
    let vocabulary = Vocabulary(&file).read(family.encoder)?;
    let description = Description {
        file: &file,
        family,
    };
    description.check_keys()?;
    let config = description.config(&mut reader, vocabulary.tokens.len())?;
    let mut tensors = BTreeMap::new();
    for (name, info) in &file.tensors {
        if name != ROTARY_FACTORS {
            place(name, info, path, family, &mut tensors)?;
        }
    }
    let stem = path.file_stem().map(|s| s.to_string_lossy().into_owned());
    Ok(Checkpoint {
        name: file
            .text("general.name")
            .map(str::to_owned)
            .or(stem)
            .unwrap_or_default(),
        config,
        tensors,
        tokenizer: TokenizerSource::from_gguf(&vocabulary)?,
        template: file.text("tokenizer.chat_template").map(str::to_owned),
    })
}

/// Finds the places of a tensor: one, or one for each expert whose part it holds.
fn place(
    name: &str,
    info: &TensorInfo,
    path: &Path,
    family: Family,
    tensors: &mut BTreeMap<Role, Entry>,
) -> Result<(), ImportError> {
    let whole = |rows: u64, columns: u64, role: Role| Entry {
        name: name.to_owned(),
        format: info.format,
        rows: rows as usize,
        columns: columns as usize,
        file: path.to_owned(),
        offset: info.offset,
        bytes: info.bytes,
        split_halves: family.split_halves && role.turns(),
    };
    match (
        roles::in_gguf(name).ok_or_else(|| no_place(name))?,
        &info.shape[..],
    ) {
        (Named::One(role), [columns]) => put(tensors, role, whole(1, *columns, role)),
        (Named::One(role), [columns, rows]) => put(tensors, role, whole(*rows, *columns, role)),
        (Named::Experts(layer, part), [columns, inner @ .., count]) if inner.len() < 2 => {
            let rows = inner.first().unwrap_or(&1).saturating_mul(*count);
            let all = whole(rows, *columns, Role::Layer(layer, part(0)));
            let mut each = each_expert(&all, *count, layer, part)?.into_iter();
            each.try_for_each(|(role, entry)| put(tensors, role, entry))
        }
        (_, shape) => {
            let reason = format!("has the shape {shape:?}, which is not that of its name");
            Err(ImportError::tensor(name, reason))
        }
    }
}

/// The metadata of a file, with its architecture's name before each key.
struct Description<'a> {
    file: &'a Gguf,
    family: Family,
}

impl Description<'_> {
    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.family.gguf)
    }

    fn need(&self, key: &str) -> Result<usize, ImportError> {
        self.file.need_integer(&self.key(key))
    }

    fn maybe(&self, key: &str) -> Result<Option<usize>, ImportError> {
        self.file.integer(&self.key(key))
    }

    /// A positive number with 16 fraction bits.
    fn fixed(&self, key: &str) -> Result<Option<u64>, ImportError> {
        let key = self.key(key);
        let value = self.file.float(&key);
        value.map(|v| positive_fixed(&key, v, 16)).transpose()
    }

    fn refused<T>(&self, key: &str, reason: impl Into<String>) -> Result<T, ImportError> {
        Err(ImportError::metadata(self.key(key), reason))
    }

    /// Refuses what is said of the architecture and not known here.
    fn check_keys(&self) -> Result<(), ImportError> {
        let before = self.key("");
        let said = self.file.metadata.keys();
        let mut keys = said.filter_map(|key| key.strip_prefix(&before));
        if let Some(key) = keys.find(|key| !KEYS.contains(key)) {
            return self.refused(
                key,
                "is not known to this engine and could change the answers",
            );
        }
        for (key, neutral) in [
            ("leading_dense_block_count", 0),
            ("interleave_moe_layer_step", 1),
            ("expert_gating_func", 1),
            ("expert_group_count", 1),
            ("expert_group_used_count", 1),
        ] {
            if self.maybe(key)?.is_some_and(|n| n != 0 && n != neutral) {
                return self.refused(key, "has a value that this engine does not cover");
            }
        }
        for (key, neutral) in [
            ("expert_weights_scale", ONE_Q16),
            ("rope.scale_linear", ONE_Q16),
            ("rope.scaling.yarn_ext_factor", ONE_Q16),
        ] {
            if self
                .fixed_or_zero(key)?
                .is_some_and(|n| n != 0 && n != neutral)
            {
                return self.refused(key, "is supported as one only");
            }
        }
        if self
            .fixed_or_zero("rope.scaling.yarn_log_multiplier")?
            .is_some_and(|n| n != 0)
        {
            return self.refused("rope.scaling.yarn_log_multiplier", "is not supported");
        }
        Ok(())
    }

    fn fixed_or_zero(&self, key: &str) -> Result<Option<u64>, ImportError> {
        match self.file.float(&self.key(key)) {
            Some(Some(value)) if value.mantissa == 0 => Ok(Some(0)),
            _ => self.fixed(key),
        }
    }

    fn config(&self, reader: &mut Reader, tokens: usize) -> Result<Config, ImportError> {
        let (width, heads) = (
            self.need("embedding_length")?,
            self.need("attention.head_count")?,
        );
        let head_width = match self.maybe("attention.key_length")? {
            Some(length) => length,
            None => width.checked_div(heads).unwrap_or(0),
        };
        for key in ["rope.dimension_count", "attention.value_length"] {
            if self.maybe(key)?.is_some_and(|d| d != head_width) {
                return self.refused(key, format!("differs from the head width {head_width}"));
            }
        }
        // Checked here because the frequencies below are made for half a head.
        if head_width == 0 || head_width > 1 << 9 {
            let reason = format!("{head_width} is outside 1 to 512");
            return Err(ImportError::metadata("head width", reason));
        }
        let layers = self.need("block_count")?;
        let experts = self.experts()?;
        let ffn = match experts {
            // Files of experts alone may leave out the width that no layer has.
            Some(e) => self.maybe("feed_forward_length")?.unwrap_or(e.width),
            None => self.need("feed_forward_length")?,
        };
        let rotary = match self.family.encoder {
            true => None,
            false => Some(self.rotary(reader, head_width)?),
        };
        let frequencies = rotary
            .as_ref()
            .map(|r| r.frequencies(head_width))
            .transpose()?;
        Ok(Config {
            vocab: tokens,
            width,
            layers,
            heads,
            kv_heads: self.maybe("attention.head_count_kv")?.unwrap_or(heads),
            head_width,
            ffn,
            context: self.need("context_length")?,
            epsilon_q32: self.epsilon()?,
            rotary: frequencies.unwrap_or_default(),
            rotary_gain_q16: rotary.map_or(ONE_Q16, |r| r.gain_q16()),
            architecture: Architecture {
                biases: self.family.biases,
                head_norm: self.family.head_norm,
                windows: self.windows(layers)?,
                experts,
                encoder: self.encoder()?,
            },
        })
    }

    fn epsilon(&self) -> Result<u64, ImportError> {
        let key = match self.family.encoder {
            true => self.key("attention.layer_norm_epsilon"),
            false => self.key("attention.layer_norm_rms_epsilon"),
        };
        let epsilon = self.file.float(&key);
        let epsilon = epsilon.ok_or_else(|| ImportError::metadata(&key, "is absent"))?;
        super::epsilon(&key, epsilon, self.family.encoder)
    }

    fn windows(&self, layers: usize) -> Result<Vec<u64>, ImportError> {
        let window = self.maybe("attention.sliding_window")?.unwrap_or(0);
        if window == 0 || layers > 1 << 10 {
            return Ok(Vec::new());
        }
        Ok(vec![window as u64; layers])
    }

    fn experts(&self) -> Result<Option<Experts>, ImportError> {
        let count = self.maybe("expert_count")?.unwrap_or(0);
        let renormalise = match (self.family.experts, count) {
            (_, 0) if !matches!(self.family.experts, Mixture::Always { .. }) => return Ok(None),
            (_, 0) => return self.refused("expert_count", "is absent or 0"),
            (Mixture::Never, _) => {
                return self.refused("expert_count", "is not one of this architecture");
            }
            (Mixture::MayBe, _) => true,
            (Mixture::Always { renormalise }, _) => renormalise,
        };
        let renormalise = match self.file.metadata.get(&self.key("expert_weights_norm")) {
            Some(Value::Bool(said)) => *said,
            None => renormalise,
            Some(_) => return self.refused("expert_weights_norm", "is not true or false"),
        };
        let width = match self.maybe("expert_feed_forward_length")? {
            Some(width) => width,
            None => self.need("feed_forward_length")?,
        };
        let has_shared = |name: &str| name.ends_with("ffn_up_shexp.weight");
        let shared = match self.maybe("expert_shared_feed_forward_length")? {
            Some(width) => width,
            None if self.file.tensors.keys().any(|name| has_shared(name)) => {
                return self.refused("expert_shared_feed_forward_length", "is absent");
            }
            None => 0,
        };
        Ok(Some(Experts {
            count,
            chosen: self.need("expert_used_count")?,
            width,
            shared,
            renormalise,
        }))
    }

    /// Refuses what a model that was trained to make vectors says of them and a decoder here does not do.
    fn check_decoder(&self) -> Result<(), ImportError> {
        match self.file.metadata.get(&self.key("attention.causal")) {
            None | Some(Value::Bool(true)) => {}
            Some(_) => {
                let reason = "is not true: a position of this architecture sees itself and what stands before it, and no more";
                return self.refused("attention.causal", reason);
            }
        }
        match self.maybe("pooling_type")? {
            // The mean is what vectors of its texts are made of here.
            None | Some(0 | 1) => Ok(()),
            Some(other) => {
                let reason = format!(
                    "is {other} ({}); a decoder's vectors are made of the mean (1) here: take another model for embeddings",
                    pooling_name(other)
                );
                self.refused("pooling_type", reason)
            }
        }
    }

    fn encoder(&self) -> Result<Option<Encoder>, ImportError> {
        if !self.family.encoder {
            self.check_decoder()?;
            return Ok(None);
        }
        let causal = self.file.metadata.get(&self.key("attention.causal"));
        if !matches!(causal, None | Some(Value::Bool(false))) {
            return self.refused("attention.causal", "is true; encoders see the whole text");
        }
        let pooling = match self.maybe("pooling_type")? {
            None | Some(1) => Pooling::Mean,
            Some(2) => Pooling::First,
            Some(other) => {
                let name = pooling_name(other);
                let reason = format!(
                    "is {other} ({name}); 1 (the mean) and 2 (the first token) make one vector of a text"
                );
                return self.refused("pooling_type", reason);
            }
        };
        let Some(types) = self.file.tensors.get(TOKEN_TYPES) else {
            let reason = "is absent: DistilBERT has none, and is not supported";
            return Err(ImportError::tensor(TOKEN_TYPES, reason));
        };
        let token_types = match types.shape[..] {
            [_, rows] => rows as usize,
            _ => 1,
        };
        Ok(Some(Encoder {
            token_types,
            pooling,
        }))
    }

    fn rotary(&self, reader: &mut Reader, head_width: usize) -> Result<Rotary, ImportError> {
        let base_q16 = self.fixed("rope.freq_base")?.unwrap_or(10_000 << 16);
        let scaling = match self.file.tensors.get(ROTARY_FACTORS) {
            Some(_) if !matches!(self.scaling()?, RotaryScaling::None) => {
                return self.refused("rope.scaling.type", "stands beside factors of each pair");
            }
            Some(info) => RotaryScaling::PerPair(factors(info, reader, head_width)?),
            None => self.scaling()?,
        };
        Ok(Rotary { base_q16, scaling })
    }

    fn scaling(&self) -> Result<RotaryScaling, ImportError> {
        let factor = || match self.fixed("rope.scaling.factor")? {
            Some(factor) => Ok(factor),
            None => self.refused("rope.scaling.factor", "is absent"),
        };
        let gain = match self.fixed("rope.scaling.attn_factor")? {
            Some(gain) => Some(gain),
            None => self.fixed("rope.scaling.yarn_attn_factor")?,
        };
        match self.file.text(&self.key("rope.scaling.type")) {
            Some("yarn") => {
                let factor = factor()?;
                let context = match self.maybe("rope.scaling.original_context_length")? {
                    Some(context) => context,
                    None => self.need("context_length")?,
                };
                let turns = |key, usual: u64| Ok(self.fixed(key)?.unwrap_or(usual << 16));
                // In these files the factor comes on top of what follows from the stretching.
                // Beyond the greatest gain it is refused, whatever stands here.
                let whole = |gain: u64| round_shift((gain * yarn_gain(factor)) as i64, 16) as u64;
                Ok(RotaryScaling::Yarn {
                    factor,
                    fast: turns("rope.scaling.yarn_beta_fast", 32)?,
                    slow: turns("rope.scaling.yarn_beta_slow", 1)?,
                    original_context: context as u64,
                    gain: gain.map(|gain| whole(gain.min(2 * MAX_GAIN_Q16))),
                })
            }
            _ if gain.is_some_and(|g| g != ONE_Q16) => {
                self.refused("rope.scaling.attn_factor", "is supported with yarn only")
            }
            None | Some("none") => Ok(RotaryScaling::None),
            Some("linear") => Ok(RotaryScaling::Linear(factor()?)),
            Some(other) => {
                let reason = format!("{other} is not supported; none, linear and yarn are");
                self.refused("rope.scaling.type", reason)
            }
        }
    }
}

/// What a number of `pooling_type` means.
fn pooling_name(number: usize) -> &'static str {
    let names = [
        "none",
        "the mean",
        "the first token",
        "the last token",
        "a ranking",
    ];
    names.get(number).unwrap_or(&"unknown")
}

fn factors(
    info: &TensorInfo,
    reader: &mut Reader,
    head_width: usize,
) -> Result<Vec<u64>, ImportError> {
    if info.shape != [head_width as u64 / 2] {
        let reason = format!(
            "has the shape {:?}; one factor per pair is right",
            info.shape
        );
        return Err(ImportError::tensor(ROTARY_FACTORS, reason));
    }
    reader.seek(info.offset)?;
    let bytes = reader.bytes(ROTARY_FACTORS, info.bytes)?;
    let tensor = RawTensor {
        name: ROTARY_FACTORS,
        format: info.format,
        rows: 1,
        columns: head_width / 2,
        pieces: &&bytes[..],
    };
    let values = tensor.values()?;
    let to_q16 = |x: &i64| round_shift(*x, values.fraction - 16).max(0) as u64;
    Ok(values.x.iter().map(to_q16).collect())
}

/// What a file says of its tokenizer.
struct Vocabulary<'a>(&'a Gguf);

impl Vocabulary<'_> {
    fn flag(&self, key: &str) -> Option<bool> {
        match self.0.metadata.get(&format!("tokenizer.ggml.{key}")) {
            Some(Value::Bool(flag)) => Some(*flag),
            _ => None,
        }
    }

    fn texts(&self, key: &str) -> Result<Vec<String>, ImportError> {
        let key = format!("tokenizer.ggml.{key}");
        match self.0.metadata.get(&key) {
            Some(Value::Texts(texts)) => Ok(texts.clone()),
            _ => Err(ImportError::metadata(key, "is not a list of texts")),
        }
    }

    fn id(&self, key: &str) -> Result<Option<u32>, ImportError> {
        let key = format!("tokenizer.ggml.{key}_token_id");
        let id = self.0.integer(&key)?;
        id.map(|id| u32::try_from(id).map_err(|_| ImportError::metadata(&key, "is no token id")))
            .transpose()
    }

    fn kind(&self, encoder: bool) -> Result<Tokens, ImportError> {
        let name = self.0.text("tokenizer.ggml.model").unwrap_or("absent");
        let supported = match (name, encoder) {
            ("bert", true) => return Ok(Tokens::Words(self.words()?)),
            ("gpt2", false) => return Ok(Tokens::Bytes),
            ("llama", false) => return Ok(Tokens::Pieces),
            ("gpt2", true) => "as RoBERTa has it; of encoders, WordPiece (bert) is supported",
            ("t5", true) => "as XLM-RoBERTa has it; of encoders, WordPiece (bert) is supported",
            (_, true) => "of encoders, WordPiece (bert) is supported",
            (_, false) => "byte-level BPE (gpt2) and pieces with scores (llama) are supported",
        };
        let reason = format!("is {name}; {supported}");
        Err(ImportError::metadata("tokenizer.ggml.model", reason))
    }

    /// Word pieces; the tokens that a file does not name are those of BERT's own vocabularies.
    fn words(&self) -> Result<WordPieces, ImportError> {
        let first = match self.id("cls")? {
            Some(id) => Some(id),
            None => self.id("bos")?,
        };
        Ok(WordPieces {
            first: first.unwrap_or(101),
            // Spelt so in these files.
            last: self.id("seperator")?.unwrap_or(102),
            unknown: self.id("unknown")?.unwrap_or(100),
            lowercase: self.flag("normalizer.lowercase"),
            strip_accents: self.flag("normalizer.strip_accents"),
        })
    }

    /// The rule by which a text is split before its letters are merged; only letters for bytes need one.
    fn splitting(&self, needed: bool) -> Result<&str, ImportError> {
        let key = "tokenizer.ggml.pre";
        match self.0.text(key) {
            // What files from before there was the key were made for is anybody's guess, and a wrong one gives other tokens, not an error.
            None | Some("default") if needed => {
                let reason = "is absent or \"default\", so how the model's texts are split into tokens is not known: convert the model again with a \
                              current converter (llama.cpp's convert_hf_to_gguf.py), which writes it, or take a newer file of the model";
                Err(ImportError::metadata(key, reason))
            }
            said => Ok(said.unwrap_or_default()),
        }
    }

    fn read(&self, encoder: bool) -> Result<GgufVocabulary, ImportError> {
        let kind = self.kind(encoder)?;
        let (bytes, pieces) = match kind {
            Tokens::Bytes => (true, false),
            Tokens::Pieces => (false, true),
            Tokens::Words(_) => (false, false),
        };
        // What stands around word pieces is no part of an answer: they have neither.
        let id = |key| {
            if bytes || pieces {
                self.id(key)
            } else {
                Ok(None)
            }
        };
        // Begin and end of a vocabulary of pieces that does not say which they are.
        let bos = id("bos")?.or(pieces.then_some(1));
        let eos = id("eos")?.or(pieces.then_some(2));
        let more_ends = [id("eot")?, id("eom")?];
        let list = |key: &str| self.0.metadata.get(&format!("tokenizer.ggml.{key}"));
        let pre = self.splitting(bytes)?;
        let begins = self.flag("add_bos_token");
        let begins = begins.unwrap_or(pieces || begins_texts(pre));
        Ok(GgufVocabulary {
            tokens: self.texts("tokens")?,
            merges: match bytes {
                true => self.texts("merges")?,
                false => Vec::new(),
            },
            types: match list("token_type") {
                Some(Value::Integers(types)) => types.clone(),
                _ => Vec::new(),
            },
            bos,
            eos,
            ends: eos
                .into_iter()
                .chain(more_ends.into_iter().flatten())
                .collect(),
            add_bos: begins && (bytes || pieces),
            pre: pre.to_owned(),
            scores: match list("scores") {
                Some(Value::Floats(scores)) if pieces => scores.clone(),
                _ => Vec::new(),
            },
            space_prefix: self.flag("add_space_prefix").unwrap_or(true),
            kind,
        })
    }
}
