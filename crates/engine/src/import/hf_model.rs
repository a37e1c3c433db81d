//! A model in a folder of `config.json`, `tokenizer.json` and safetensors.

use super::exact::Exact;
use super::families::{self, Family, Mixture};
use super::formats::Format;
use super::reader::Reader;
use super::roles::{self, Named, Role};
use super::{Checkpoint, Entry, each_expert, no_place, put};
use crate::config::{
    Architecture, Config, Encoder, Experts, ONE_Q16, Pooling, Rotary, RotaryScaling, positive_fixed,
};
use crate::error::ImportError;
use crate::tokenizer::TokenizerSource;
use safetensors::tensor::{Dtype, Metadata};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// What says how the states of a text become its vector.
const POOLING: &str = "1_Pooling/config.json";
/// Longest header of a safetensors file that is read.
const HEADER_LIMIT: u64 = 100 << 20;

pub(super) fn open(folder: &Path) -> Result<Checkpoint, ImportError> {
    let description = json(folder, "config.json")?
        .ok_or_else(|| not_a_model(folder, "it is a folder without config.json"))?;
    let d = Description::new(&description)?;
    let config = d.config(encoder(folder, &d)?)?;
    let tied = d.flag("tie_word_embeddings", false)? || d.family.encoder;
    let mut tensors = BTreeMap::new();
    for file in shards(folder)? {
        for (role, entry) in read_table(&folder.join(file), d.family)? {
            if tied && role == Role::Output {
                continue;
            }
            put(&mut tensors, role, entry)?;
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
        name: name(folder),
        tokenizer: TokenizerSource::from_hugging_face(
            bytes,
            &tokenizer_config,
            ends,
            d.family.encoder,
        )?,
        template: template(folder, &tokenizer_config)?,
        config,
        tensors,
    })
}

/// Name of the folder, which `.` and `..` do not say.
fn name(folder: &Path) -> String {
    let whole = folder.file_name().is_none().then(|| folder.canonicalize());
    let whole = whole.and_then(Result::ok);
    let name = whole.as_deref().unwrap_or(folder).file_name();
    name.map_or_else(|| "model".to_owned(), |n| n.to_string_lossy().into_owned())
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

fn read_table(path: &Path, family: Family) -> Result<Vec<(Role, Entry)>, ImportError> {
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
        if is_unused(&name, family) {
            continue;
        }
        let named = roles::in_safetensors(&name).ok_or_else(|| no_place(&name))?;
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
        let entry = |role: Role| Entry {
            split_halves: role.turns() && !family.encoder,
            name: name.clone(),
            format,
            rows,
            columns,
            file: path.to_owned(),
            offset: 8 + length + begin,
            bytes: end - begin,
        };
        match named {
            Named::One(role) => entries.push((role, entry(role))),
            Named::Experts(layer, part) => {
                let whole = entry(Role::Layer(layer, part(0)));
                entries.extend(each_expert(&whole, rows as u64, layer, part)?);
            }
        }
    }
    Ok(entries)
}

/// Buffers and layers that no answer depends on.
fn is_unused(name: &str, family: Family) -> bool {
    let of_encoders = name.ends_with("embeddings.position_ids")
        || name.trim_start_matches("bert.").starts_with("pooler.");
    name.ends_with("rotary_emb.inv_freq") || (family.encoder && of_encoders)
}

/// What a `config.json` may say only in a way that changes nothing: any other value could change the answers.
const NEUTRAL: [(&str, &[&str]); 28] = [
    ("attention_bias", &["false"]),
    ("attention_multiplier", &["1", "1.0"]),
    ("attn_logit_softcapping", &[]),
    ("clip_qkv", &[]),
    ("cross_layer_sharing", &["false"]),
    ("decoder_sparse_step", &["1"]),
    ("embedding_multiplier", &["1", "1.0"]),
    ("final_logit_softcapping", &[]),
    ("is_decoder", &["false"]),
    ("add_cross_attention", &["false"]),
    ("logit_scale", &["1", "1.0"]),
    ("logits_scaling", &["1", "1.0"]),
    ("mlp_bias", &["false"]),
    ("mlp_only_layers", &["[]"]),
    ("n_group", &["1"]),
    ("no_rope_layers", &["[]"]),
    ("partial_rotary_factor", &["1", "1.0"]),
    ("position_embedding_type", &["\"absolute\""]),
    ("qk_layernorm", &["false"]),
    ("quantization_config", &[]),
    ("query_pre_attn_scalar", &[]),
    ("residual_multiplier", &["1", "1.0"]),
    ("routed_scaling_factor", &["1", "1.0"]),
    ("scoring_func", &["\"softmax\""]),
    ("topk_group", &["1"]),
    ("use_bidirectional_attention", &["false"]),
    ("use_qk_norm", &["false"]),
    ("attn_temperature_tuning", &["false", "0"]),
];

/// A `config.json` and what is known of its architecture.
struct Description<'a> {
    json: &'a Value,
    family: Family,
}

fn refused<T>(key: &str, reason: impl Into<String>) -> Result<T, ImportError> {
    Err(ImportError::metadata(key, reason))
}

impl<'a> Description<'a> {
    fn new(json: &'a Value) -> Result<Self, ImportError> {
        let name = json["model_type"].as_str().unwrap_or("absent");
        let Some(family) = families::in_config(name) else {
            return refused("model_type", families::unknown(name));
        };
        for (key, neutral) in NEUTRAL {
            let value = &json[key];
            if !value.is_null() && !neutral.contains(&value.to_string().as_str()) {
                let reason = format!("{value} is not supported by this engine");
                return refused(key, reason);
            }
        }
        let activation = if family.encoder { "gelu" } else { "silu" };
        match json["hidden_act"].as_str() {
            None => {}
            Some(said) if said == activation => {}
            Some(said) => {
                let reason = format!("{said} is not supported; {activation} is");
                return refused("hidden_act", reason);
            }
        }
        Ok(Self { json, family })
    }

    fn maybe(&self, key: &str) -> Result<Option<usize>, ImportError> {
        match &self.json[key] {
            Value::Null => Ok(None),
            value => match value.as_u64().and_then(|v| usize::try_from(v).ok()) {
                Some(size) => Ok(Some(size)),
                None => refused(key, "is not a positive integer"),
            },
        }
    }

    fn need(&self, key: &str) -> Result<usize, ImportError> {
        let reason = || ImportError::metadata(key, "is absent or not a positive integer");
        self.maybe(key)?.ok_or_else(reason)
    }

    fn flag(&self, key: &str, absent: bool) -> Result<bool, ImportError> {
        match &self.json[key] {
            Value::Null => Ok(absent),
            Value::Bool(said) => Ok(*said),
            _ => refused(key, "is not true or false"),
        }
    }

    fn config(&self, encoder: Option<Encoder>) -> Result<Config, ImportError> {
        let (width, heads) = (self.need("hidden_size")?, self.need("num_attention_heads")?);
        let head_width = match self.maybe("head_dim")? {
            Some(width) => width,
            None => width.checked_div(heads).unwrap_or(0),
        };
        if head_width == 0 || head_width > 1 << 9 {
            return refused("head_dim", format!("{head_width} is outside 1 to 512"));
        }
        let layers = self.need("num_hidden_layers")?;
        let rotary = match self.family.encoder {
            true => None,
            false => Some(rotary(self.json)?),
        };
        let frequencies = rotary
            .as_ref()
            .map(|r| r.frequencies(head_width))
            .transpose()?;
        let epsilon_key = match self.family.encoder {
            true => "layer_norm_eps",
            false => "rms_norm_eps",
        };
        let epsilon = self.json[epsilon_key].as_f64().and_then(Exact::from_f64);
        Ok(Config {
            vocab: self.need("vocab_size")?,
            width,
            layers,
            heads,
            kv_heads: self.maybe("num_key_value_heads")?.unwrap_or(heads),
            head_width,
            ffn: self.need("intermediate_size")?,
            context: self.need("max_position_embeddings")?,
            epsilon_q32: super::epsilon(epsilon_key, epsilon, self.family.encoder)?,
            rotary: frequencies.unwrap_or_default(),
            rotary_gain_q16: rotary.map_or(ONE_Q16, |r| r.gain_q16()),
            architecture: Architecture {
                biases: self.family.biases,
                head_norm: self.family.head_norm,
                windows: self.windows(layers)?,
                experts: self.experts()?,
                encoder,
            },
        })
    }

    /// Windows of the layers, as far as the description has them in use.
    fn windows(&self, layers: usize) -> Result<Vec<u64>, ImportError> {
        let window = self.maybe("sliding_window")?.unwrap_or(0) as u64;
        let name = self.json["model_type"].as_str().unwrap_or("");
        // Qwen's say separately whether a window is used, Mistral's use what they name; others have none.
        let in_use = match name.starts_with("qwen") {
            true => self.flag("use_sliding_window", false)?,
            false => window != 0,
        };
        let has_one = ["mistral", "mixtral"].contains(&name) || name.starts_with("qwen");
        if in_use && !has_one {
            return refused("sliding_window", "is not known of this architecture");
        }
        if window == 0 || !in_use || layers > 1 << 10 {
            return Ok(Vec::new());
        }
        if let Value::Array(types) = &self.json["layer_types"] {
            let windows = types.iter().map(|kind| match kind.as_str() {
                Some("full_attention") => Ok(0),
                Some("sliding_attention") => Ok(window),
                _ => refused("layer_types", format!("{kind} is not supported")),
            });
            return windows.collect();
        }
        let first = self.maybe("max_window_layers")?.unwrap_or(0);
        let of_layer = |layer| if layer < first { 0 } else { window };
        Ok((0..layers).map(of_layer).collect())
    }

    fn experts(&self) -> Result<Option<Experts>, ImportError> {
        let count = match self.maybe("num_local_experts")? {
            Some(count) => count,
            None => self.maybe("num_experts")?.unwrap_or(0),
        };
        let renormalise = match (self.family.experts, count) {
            (Mixture::Always { .. }, 0) => return refused("num_experts", "is absent or 0"),
            (_, 0) => return Ok(None),
            (Mixture::Never, _) => {
                return refused("num_experts", "is not one of this architecture");
            }
            (Mixture::MayBe, _) => true,
            // Absent, it is false in these descriptions.
            (Mixture::Always { .. }, _) => self.flag("norm_topk_prob", false)?,
        };
        let width = match self.maybe("moe_intermediate_size")? {
            Some(width) => width,
            None => self.need("intermediate_size")?,
        };
        Ok(Some(Experts {
            count,
            chosen: self.need("num_experts_per_tok")?,
            width,
            shared: self.maybe("shared_expert_intermediate_size")?.unwrap_or(0),
            renormalise,
        }))
    }
}

/// Refuses what a model that was trained to make vectors says of them and a decoder here does not do.
fn check_decoder(d: &Description<'_>, pooling: Option<Pooling>) -> Result<(), ImportError> {
    if !d.flag("is_causal", true)? {
        let reason = "is false: a position of this architecture sees itself and what stands before it, and no more";
        return refused("is_causal", reason);
    }
    match pooling {
        None | Some(Pooling::Mean) => Ok(()),
        Some(Pooling::First) => refused(
            POOLING,
            "the first token: a decoder's vectors are made of the mean here",
        ),
    }
}

/// What an encoder's folder says of it.
fn encoder(folder: &Path, d: &Description<'_>) -> Result<Option<Encoder>, ImportError> {
    let pooling = pooling(folder)?;
    if !d.family.encoder {
        check_decoder(d, pooling)?;
        return Ok(None);
    }
    if let Some(Value::Array(modules)) = json(folder, "modules.json")? {
        let known = ["Transformer", "Pooling", "Normalize"];
        let kind = |module: &Value| module["type"].as_str().unwrap_or("").to_owned();
        let strange = |kind: &String| !known.iter().any(|known| kind.ends_with(known));
        if let Some(kind) = modules.iter().map(kind).find(strange) {
            return refused("modules.json", format!("{kind} is not supported"));
        }
    }
    Ok(Some(Encoder {
        token_types: d.need("type_vocab_size")?,
        pooling: pooling.unwrap_or(Pooling::Mean),
    }))
}

/// How the states of a text become its vector, where a folder says it.
fn pooling(folder: &Path) -> Result<Option<Pooling>, ImportError> {
    let Some(said) = json(folder, POOLING)? else {
        return Ok(None);
    };
    let modes = said.as_object().into_iter().flatten();
    let chosen: Vec<&str> = modes
        .filter(|(key, value)| key.starts_with("pooling_mode") && **value == true)
        .map(|(key, _)| key.as_str())
        .collect();
    match chosen[..] {
        ["pooling_mode_mean_tokens"] => Ok(Some(Pooling::Mean)),
        ["pooling_mode_cls_token"] => Ok(Some(Pooling::First)),
        _ => {
            let reason = format!(
                "{chosen:?}: of encoders the mean or the first token is supported, of others the mean"
            );
            refused(POOLING, reason)
        }
    }
}

fn rotary(d: &Value) -> Result<Rotary, ImportError> {
    // Newer files keep base and scaling together in `rope_parameters`.
    let parameters = if d["rope_parameters"].is_object() {
        &d["rope_parameters"]
    } else {
        &d["rope_scaling"]
    };
    let partly = &parameters["partial_rotary_factor"];
    if !partly.is_null() && partly.as_f64() != Some(1.0) {
        return refused(
            "partial_rotary_factor",
            format!("{partly} is not supported"),
        );
    }
    if let Some((key, _)) = parameters
        .as_object()
        .into_iter()
        .flatten()
        .find(|(_, v)| v.is_object())
    {
        let reason = format!("{key} has rules of its own, which is not supported");
        return refused("rope_parameters", reason);
    }
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
        Some("yarn") => yarn(d, parameters)?,
        Some(other) => {
            let reason = format!("{other} is not supported; default, linear, llama3 and yarn are");
            return Err(ImportError::metadata("rope_scaling", reason));
        }
    };
    Ok(Rotary { base_q16, scaling })
}

fn yarn(d: &Value, parameters: &Value) -> Result<RotaryScaling, ImportError> {
    for key in ["mscale", "mscale_all_dim", "truncate"] {
        if !matches!(parameters[key], Value::Null | Value::Bool(true)) {
            return refused(&format!("rope_scaling.{key}"), "is not supported");
        }
    }
    let maybe = |key: &str| match &parameters[key] {
        Value::Null => Ok(None),
        value => positive_fixed(key, value.as_f64().and_then(Exact::from_f64), 16).map(Some),
    };
    let Some(factor) = maybe("factor")? else {
        return refused("rope_scaling.factor", "is absent");
    };
    let context = match &parameters["original_max_position_embeddings"] {
        Value::Null => &d["max_position_embeddings"],
        said => said,
    };
    Ok(RotaryScaling::Yarn {
        factor,
        fast: maybe("beta_fast")?.unwrap_or(32 << 16),
        slow: maybe("beta_slow")?.unwrap_or(1 << 16),
        original_context: context.as_u64().unwrap_or(0),
        gain: maybe("attention_factor")?,
    })
}
