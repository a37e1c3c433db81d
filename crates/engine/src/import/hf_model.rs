//! A Llama model in a folder of `config.json`, `tokenizer.json` and safetensors.

use super::elements::Format;
use super::exact::Exact;
use super::reader::Reader;
use super::{Checkpoint, Entry, Part, Role};
use crate::config::{Config, Rotary, RotaryScaling, positive_fixed};
use crate::error::ImportError;
use crate::tokenizer::TokenizerSource;
use safetensors::tensor::{Dtype, Metadata};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Longest header of a safetensors file that is read.
const HEADER_LIMIT: u64 = 100 << 20;

pub(super) fn open(folder: &Path) -> Result<Checkpoint, ImportError> {
    let description = json(folder, "config.json")?
        .ok_or_else(|| not_a_model(folder, "it is a folder without config.json"))?;
    let config = config(&description)?;
    let tied = description["tie_word_embeddings"]
        .as_bool()
        .unwrap_or(false);
    let mut tensors = BTreeMap::new();
    for file in shards(folder)? {
        for (name, entry) in read_table(&folder.join(file))? {
            let role = role(&name)?.filter(|r| !(tied && *r == Role::Output));
            if let Some(first) = role.and_then(|role| tensors.insert(role, entry)) {
                let reason = format!("stands in {} and in another file", first.file.display());
                return Err(ImportError::tensor(first.name, reason));
            }
        }
    }
    if !tied && !tensors.contains_key(&Role::Output) {
        return Err(ImportError::tensor(
            "lm_head.weight",
            "is absent and the embeddings are not tied",
        ));
    }
    let tokenizer_config = json(folder, "tokenizer_config.json")?.unwrap_or(Value::Null);
    let bytes = text(folder, "tokenizer.json")?
        .ok_or_else(|| not_a_model(folder, "it is a folder without tokenizer.json"))?;
    let mut ends = ids(&description["eos_token_id"]);
    if let Some(generation) = json(folder, "generation_config.json")? {
        ends.extend(ids(&generation["eos_token_id"]));
    }
    Ok(Checkpoint {
        name: folder
            .file_name()
            .map(|n| n.to_string_lossy().into_owned())
            .unwrap_or_default(),
        tokenizer: TokenizerSource::from_hugging_face(bytes, &tokenizer_config, ends)?,
        template: template(folder, &tokenizer_config)?,
        config,
        tensors,
    })
}

fn not_a_model(folder: &Path, reason: &str) -> ImportError {
    ImportError::NotAModel {
        path: folder.to_owned(),
        reason: reason.to_owned(),
    }
}

/// Text of a file of the folder, `None` when there is no such file.
fn text(folder: &Path, name: &str) -> Result<Option<String>, ImportError> {
    let path = folder.join(name);
    if !path.exists() {
        return Ok(None);
    }
    std::fs::read_to_string(&path)
        .map(Some)
        .map_err(|source| ImportError::Read { path, source })
}

fn json(folder: &Path, name: &str) -> Result<Option<Value>, ImportError> {
    let Some(text) = text(folder, name)? else {
        return Ok(None);
    };
    serde_json::from_str(&text)
        .map(Some)
        .map_err(|e| ImportError::metadata(name, format!("is not valid JSON: {e}")))
}

fn ids(value: &Value) -> Vec<u32> {
    let list = match value {
        Value::Array(list) => list.as_slice(),
        single => std::slice::from_ref(single),
    };
    list.iter()
        .filter_map(|id| u32::try_from(id.as_u64()?).ok())
        .collect()
}

fn template(folder: &Path, tokenizer_config: &Value) -> Result<Option<String>, ImportError> {
    if let Some(file) = text(folder, "chat_template.jinja")? {
        return Ok(Some(file));
    }
    Ok(match &tokenizer_config["chat_template"] {
        Value::String(template) => Some(template.clone()),
        // Older files keep several templates by name.
        Value::Array(list) => list
            .iter()
            .find(|t| t["name"] == "default")
            .and_then(|t| t["template"].as_str())
            .map(str::to_owned),
        _ => None,
    })
}

/// Names of the safetensors files: one, or those of the index.
fn shards(folder: &Path) -> Result<Vec<String>, ImportError> {
    let Some(index) = json(folder, "model.safetensors.index.json")? else {
        return Ok(vec!["model.safetensors".to_owned()]);
    };
    let map = index["weight_map"].as_object().ok_or_else(|| {
        ImportError::metadata("model.safetensors.index.json", "has no weight_map")
    })?;
    let names: BTreeSet<String> = map
        .values()
        .filter_map(|v| v.as_str().map(str::to_owned))
        .collect();
    if let Some(bad) = names.iter().find(|n| n.contains(['/', '\\'])) {
        return Err(ImportError::metadata(
            "model.safetensors.index.json",
            format!("names a file outside the folder: {bad}"),
        ));
    }
    Ok(names.into_iter().collect())
}

fn read_table(path: &Path) -> Result<Vec<(String, Entry)>, ImportError> {
    let mut reader = Reader::open(path)?;
    let length = u64::from_le_bytes(reader.array("the length of the header")?);
    if length > HEADER_LIMIT {
        return Err(reader.not_a_model(format!("its header claims {length} bytes")));
    }
    let header = reader.bytes("the header", length)?;
    let metadata: Metadata = serde_json::from_slice(&header)
        .map_err(|e| reader.not_a_model(format!("its header is not valid safetensors: {e}")))?;
    let mut entries = Vec::new();
    for (name, info) in metadata.tensors() {
        let (begin, end) = (info.data_offsets.0 as u64, info.data_offsets.1 as u64);
        if end > reader.left() {
            let reason = format!(
                "ends at byte {end} of the data, beyond the end of the file ({} bytes)",
                reader.length()
            );
            return Err(ImportError::tensor(name, reason));
        }
        let format = match info.dtype {
            Dtype::F32 => Format::F32,
            Dtype::F16 => Format::F16,
            Dtype::BF16 => Format::Bf16,
            other => {
                let reason = format!("is stored as {other:?}; F32, F16 and BF16 are read");
                return Err(ImportError::tensor(name, reason));
            }
        };
        let (rows, columns) = match info.shape[..] {
            [columns] => (1, columns),
            [rows, columns] => (rows, columns),
            _ => {
                return Err(ImportError::tensor(
                    name,
                    format!("has the shape {:?}", info.shape),
                ));
            }
        };
        let entry = Entry {
            split_halves: name.ends_with("q_proj.weight") || name.ends_with("k_proj.weight"),
            name: name.clone(),
            format,
            rows,
            columns,
            file: path.to_owned(),
            offset: 8 + length + begin,
            bytes: end - begin,
        };
        entries.push((name, entry));
    }
    Ok(entries)
}

/// Role of a tensor; `None` for buffers that hold no weights.
fn role(name: &str) -> Result<Option<Role>, ImportError> {
    let unknown = || {
        ImportError::tensor(
            name,
            "has no place in the Llama architecture; leaving it out would change the answers",
        )
    };
    match name {
        "model.embed_tokens.weight" => return Ok(Some(Role::Embedding)),
        "model.norm.weight" => return Ok(Some(Role::OutputNorm)),
        "lm_head.weight" => return Ok(Some(Role::Output)),
        _ if name.ends_with("rotary_emb.inv_freq") => return Ok(None),
        _ => {}
    }
    let (layer, part) = name
        .strip_prefix("model.layers.")
        .and_then(|n| n.strip_suffix(".weight"))
        .and_then(|n| n.split_once('.'))
        .ok_or_else(unknown)?;
    let part = match part {
        "input_layernorm" => Part::AttentionNorm,
        "self_attn.q_proj" => Part::Query,
        "self_attn.k_proj" => Part::Key,
        "self_attn.v_proj" => Part::Value,
        "self_attn.o_proj" => Part::AttentionOutput,
        "post_attention_layernorm" => Part::FfnNorm,
        "mlp.gate_proj" => Part::Gate,
        "mlp.up_proj" => Part::Up,
        "mlp.down_proj" => Part::Down,
        _ => return Err(unknown()),
    };
    Ok(Some(Role::Layer(
        layer.parse().map_err(|_| unknown())?,
        part,
    )))
}

fn config(d: &Value) -> Result<Config, ImportError> {
    let size = |key: &str| -> Result<usize, ImportError> {
        let value = d[key].as_u64();
        value
            .and_then(|v| usize::try_from(v).ok())
            .ok_or_else(|| ImportError::metadata(key, "is absent or not a positive integer"))
    };
    if d["model_type"] != "llama" {
        let reason = format!("is {}; this engine runs llama", d["model_type"]);
        return Err(ImportError::metadata("model_type", reason));
    }
    for key in ["attention_bias", "mlp_bias"] {
        if d[key].as_bool().unwrap_or(false) {
            return Err(ImportError::metadata(key, "is not supported"));
        }
    }
    if !matches!(d["hidden_act"].as_str(), None | Some("silu")) {
        return Err(ImportError::metadata(
            "hidden_act",
            format!("{} is not supported; silu is", d["hidden_act"]),
        ));
    }
    let (width, heads) = (size("hidden_size")?, size("num_attention_heads")?);
    let head_width = match d["head_dim"].as_u64() {
        Some(width) => width as usize,
        None => width.checked_div(heads).unwrap_or(0),
    };
    if head_width == 0 || head_width > 1 << 9 {
        return Err(ImportError::metadata(
            "head_dim",
            format!("{head_width} is outside 1 to 512"),
        ));
    }
    let epsilon = d["rms_norm_eps"].as_f64().and_then(Exact::from_f64);
    Ok(Config {
        vocab: size("vocab_size")?,
        width,
        layers: size("num_hidden_layers")?,
        heads,
        kv_heads: d["num_key_value_heads"]
            .as_u64()
            .map_or(heads, |h| h as usize),
        head_width,
        ffn: size("intermediate_size")?,
        context: size("max_position_embeddings")?,
        epsilon_q32: positive_fixed("rms_norm_eps", epsilon, 32)?,
        rotary: rotary(d)?.frequencies(head_width)?,
    })
}

fn rotary(d: &Value) -> Result<Rotary, ImportError> {
    // Newer files keep base and scaling together in `rope_parameters`.
    let parameters = if d["rope_parameters"].is_object() {
        &d["rope_parameters"]
    } else {
        &d["rope_scaling"]
    };
    let fixed = |from: &Value, key: &str| {
        positive_fixed(key, from[key].as_f64().and_then(Exact::from_f64), 16)
    };
    let base_q16 = if d["rope_theta"].is_number() {
        fixed(d, "rope_theta")?
    } else if parameters["rope_theta"].is_number() {
        fixed(parameters, "rope_theta")?
    } else {
        10_000 << 16
    };
    let kind = parameters["rope_type"]
        .as_str()
        .or(parameters["type"].as_str());
    let scaling = match kind {
        None | Some("default") => RotaryScaling::None,
        Some("linear") => RotaryScaling::Linear(fixed(parameters, "factor")?),
        Some("llama3") => RotaryScaling::Llama3 {
            factor: fixed(parameters, "factor")?,
            low: fixed(parameters, "low_freq_factor")?,
            high: fixed(parameters, "high_freq_factor")?,
            original_context: fixed(parameters, "original_max_position_embeddings")? >> 16,
        },
        Some(other) => {
            let reason = format!("{other} is not supported; default, linear and llama3 are");
            return Err(ImportError::metadata("rope_scaling", reason));
        }
    };
    Ok(Rotary { base_q16, scaling })
}
