//! A Llama model in a GGUF file.

use super::elements::RawTensor;
use super::gguf::{Gguf, TensorInfo, Value};
use super::reader::Reader;
use super::{Checkpoint, Entry, Part, Role};
use crate::config::{Config, Rotary, RotaryScaling, positive_fixed};
use crate::error::ImportError;
use crate::tokenizer::{GgufVocabulary, TokenizerSource};
use std::collections::BTreeMap;
use std::path::Path;

const ROTARY_FACTORS: &str = "rope_freqs.weight";

pub(super) fn open(path: &Path) -> Result<Checkpoint, ImportError> {
    let mut reader = Reader::open(path)?;
    let file = Gguf::read(&mut reader)?;
    match file.text("general.architecture") {
        Some("llama") => {}
        other => {
            let reason = format!("is {}; this engine runs llama", other.unwrap_or("absent"));
            return Err(ImportError::metadata("general.architecture", reason));
        }
    }
    let vocabulary = vocabulary(&file)?;
    let config = config(&file, &mut reader, vocabulary.tokens.len())?;
    let mut tensors = BTreeMap::new();
    for (name, info) in &file.tensors {
        if name != ROTARY_FACTORS {
            tensors.insert(role(name)?, entry(name, info, path)?);
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

fn role(name: &str) -> Result<Role, ImportError> {
    let unknown = || {
        ImportError::tensor(
            name,
            "has no place in the Llama architecture; leaving it out would change the answers",
        )
    };
    match name {
        "token_embd.weight" => return Ok(Role::Embedding),
        "output_norm.weight" => return Ok(Role::OutputNorm),
        "output.weight" => return Ok(Role::Output),
        _ => {}
    }
    let (layer, part) = name
        .strip_prefix("blk.")
        .and_then(|n| n.strip_suffix(".weight"))
        .and_then(|n| n.split_once('.'))
        .ok_or_else(unknown)?;
    let part = match part {
        "attn_norm" => Part::AttentionNorm,
        "attn_q" => Part::Query,
        "attn_k" => Part::Key,
        "attn_v" => Part::Value,
        "attn_output" => Part::AttentionOutput,
        "ffn_norm" => Part::FfnNorm,
        "ffn_gate" => Part::Gate,
        "ffn_up" => Part::Up,
        "ffn_down" => Part::Down,
        _ => return Err(unknown()),
    };
    Ok(Role::Layer(layer.parse().map_err(|_| unknown())?, part))
}

fn entry(name: &str, info: &TensorInfo, path: &Path) -> Result<Entry, ImportError> {
    let (rows, columns) = match info.shape[..] {
        [columns] => (1, columns),
        [columns, rows] => (rows, columns),
        _ => return Err(ImportError::tensor(name, "has more than two dimensions")),
    };
    Ok(Entry {
        name: name.to_owned(),
        format: info.format,
        rows: rows as usize,
        columns: columns as usize,
        file: path.to_owned(),
        offset: info.offset,
        bytes: info.bytes,
        split_halves: false,
    })
}

fn config(file: &Gguf, reader: &mut Reader, tokens: usize) -> Result<Config, ImportError> {
    let need = |key: &str| file.need_integer(&format!("llama.{key}"));
    let maybe = |key: &str| file.integer(&format!("llama.{key}"));
    if maybe("expert_count")?.unwrap_or(0) != 0 {
        return Err(ImportError::metadata(
            "llama.expert_count",
            "mixtures of experts are not supported",
        ));
    }
    let (width, heads) = (need("embedding_length")?, need("attention.head_count")?);
    let head_width = match maybe("attention.key_length")? {
        Some(length) => length,
        None => width.checked_div(heads).unwrap_or(0),
    };
    for key in ["rope.dimension_count", "attention.value_length"] {
        if maybe(key)?.is_some_and(|d| d != head_width) {
            let reason = format!("differs from the head width {head_width}");
            return Err(ImportError::metadata(format!("llama.{key}"), reason));
        }
    }
    let epsilon_key = "llama.attention.layer_norm_rms_epsilon";
    let epsilon = file
        .float(epsilon_key)
        .ok_or_else(|| ImportError::metadata(epsilon_key, "is absent"))?;
    // Checked here because the frequencies below are made for half a head.
    if head_width == 0 || head_width > 1 << 9 {
        return Err(ImportError::metadata(
            "head width",
            format!("{head_width} is outside 1 to 512"),
        ));
    }
    let rotary = rotary(file, reader, head_width)?;
    Ok(Config {
        vocab: tokens,
        width,
        layers: need("block_count")?,
        heads,
        kv_heads: maybe("attention.head_count_kv")?.unwrap_or(heads),
        head_width,
        ffn: need("feed_forward_length")?,
        context: need("context_length")?,
        epsilon_q32: positive_fixed(epsilon_key, epsilon, 32)?,
        rotary: rotary.frequencies(head_width)?,
    })
}

fn rotary(file: &Gguf, reader: &mut Reader, head_width: usize) -> Result<Rotary, ImportError> {
    let base_q16 = match file.float("llama.rope.freq_base") {
        Some(base) => positive_fixed("llama.rope.freq_base", base, 16)?,
        None => 10_000 << 16,
    };
    let scaling = if let Some(info) = file.tensors.get(ROTARY_FACTORS) {
        RotaryScaling::PerPair(factors(info, reader, head_width)?)
    } else {
        let factor = || {
            let key = "llama.rope.scaling.factor";
            positive_fixed(key, file.float(key).flatten(), 16)
        };
        match file.text("llama.rope.scaling.type") {
            None | Some("none") => RotaryScaling::None,
            Some("linear") => RotaryScaling::Linear(factor()?),
            Some(other) => {
                let reason = format!("{other} is not supported; none and linear are");
                return Err(ImportError::metadata("llama.rope.scaling.type", reason));
            }
        }
    };
    Ok(Rotary { base_q16, scaling })
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
        bytes: &bytes,
    };
    let values = tensor.values()?;
    let to_q16 = |x: &i64| crate::fixed::round_shift(*x, values.fraction - 16).max(0) as u64;
    Ok(values.x.iter().map(to_q16).collect())
}

fn vocabulary(file: &Gguf) -> Result<GgufVocabulary, ImportError> {
    match file.text("tokenizer.ggml.model") {
        Some("gpt2") => {}
        other => {
            let reason = format!(
                "is {}; byte-level BPE (gpt2) is supported",
                other.unwrap_or("absent")
            );
            return Err(ImportError::metadata("tokenizer.ggml.model", reason));
        }
    }
    let texts = |key: &str| match file.metadata.get(key) {
        Some(Value::Texts(texts)) => Ok(texts.clone()),
        _ => Err(ImportError::metadata(key, "is not a list of texts")),
    };
    let id = |key: &str| -> Result<Option<u32>, ImportError> {
        let key = format!("tokenizer.ggml.{key}");
        let id = file.integer(&key)?;
        id.map(|id| u32::try_from(id).map_err(|_| ImportError::metadata(&key, "is no token id")))
            .transpose()
    };
    let types = match file.metadata.get("tokenizer.ggml.token_type") {
        Some(Value::Integers(types)) => types.clone(),
        _ => Vec::new(),
    };
    let end_ids = ["eos_token_id", "eot_token_id", "eom_token_id"];
    Ok(GgufVocabulary {
        tokens: texts("tokenizer.ggml.tokens")?,
        merges: texts("tokenizer.ggml.merges")?,
        types,
        pre: file
            .text("tokenizer.ggml.pre")
            .unwrap_or("default")
            .to_owned(),
        bos: id("bos_token_id")?,
        eos: id("eos_token_id")?,
        ends: end_ids
            .iter()
            .filter_map(|k| id(k).transpose())
            .collect::<Result<_, _>>()?,
        add_bos: matches!(
            file.metadata.get("tokenizer.ggml.add_bos_token"),
            Some(Value::Bool(true))
        ),
    })
}
