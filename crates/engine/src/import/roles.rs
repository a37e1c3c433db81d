//! What the tensors of a model are for: their numbers in the model root, their shapes, and their names in both kinds of files.

use crate::config::Config;
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;

/// What a tensor is for. The order of this type is the order of the numbers in the model root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// Token embedding, `vocab` rows.
    Embedding,
    /// Norm before the output.
    OutputNorm,
    /// Output matrix, absent when tied to the embedding.
    Output,
    /// A vector for each position, of an encoder.
    Positions,
    /// A vector for each token type, of an encoder.
    TokenTypes,
    /// Norm of an encoder's embedding.
    EmbeddingNorm,
    /// Bias of that norm.
    EmbeddingNormBias,
    /// A tensor of a layer.
    Layer(u32, Part),
}

/// Tensors of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Part {
    /// Norm before attention; of an encoder the one after it.
    AttentionNorm,
    /// Query projection. Rows of a head are in pairs: `(2i, 2i + 1)` turn together.
    Query,
    /// Key projection, in pairs like the query.
    Key,
    /// Value projection.
    Value,
    /// Projection of the attention's output.
    AttentionOutput,
    /// Norm before the feed-forward network; of an encoder the one after it.
    FfnNorm,
    /// Gate projection.
    Gate,
    /// Up projection.
    Up,
    /// Down projection.
    Down,
    /// Bias of the query, in pairs like its rows.
    QueryBias,
    /// Bias of the key, in pairs like its rows.
    KeyBias,
    /// Bias of the value.
    ValueBias,
    /// Bias of the attention's output.
    AttentionOutputBias,
    /// Norm of each query head, in pairs like its rows.
    QueryNorm,
    /// Norm of each key head, in pairs like its rows.
    KeyNorm,
    /// Bias of the up projection.
    UpBias,
    /// Bias of the down projection.
    DownBias,
    /// Bias of the attention's norm.
    AttentionNormBias,
    /// Bias of the feed-forward network's norm.
    FfnNormBias,
    /// Gate projection of the expert that every token passes.
    SharedGate,
    /// Up projection of that expert.
    SharedUp,
    /// Down projection of that expert.
    SharedDown,
    /// How much that expert counts.
    SharedRouter,
    /// Gate projection of an expert.
    ExpertGate(u32),
    /// Up projection of an expert.
    ExpertUp(u32),
    /// Down projection of an expert.
    ExpertDown(u32),
    /// What chooses an expert: its row of the router.
    ExpertRouter(u32),
}

/// What a tensor becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Rows of int8.
    Matrix,
    /// 16-bit weights of a vector: of a norm, or of what chooses an expert.
    Norm,
    /// 32-bit numbers.
    Bias,
}

/// Numbers of a layer's tensors: this many, and the first of the experts among them.
const PER_LAYER: u64 = 1 << 16;
const FIRST_EXPERT: u64 = 64;

impl Ord for Role {
    fn cmp(&self, other: &Self) -> Ordering {
        self.order().cmp(&other.order())
    }
}

impl PartialOrd for Role {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Role {
    /// Layer (0 outside of any) and number in it: no two roles have the same, whatever a forged file says.
    fn order(self) -> (u64, u64) {
        match self {
            Self::Embedding => (0, 0),
            Self::OutputNorm => (0, 1),
            Self::Output => (0, 2),
            Self::Positions => (0, 3),
            Self::TokenTypes => (0, 4),
            Self::EmbeddingNorm => (0, 5),
            Self::EmbeddingNormBias => (0, 6),
            Self::Layer(layer, part) => (u64::from(layer) + 1, part.number()),
        }
    }

    /// Its number in the model root. Its own as long as layers and experts are within the bounds of a model.
    pub fn number(self) -> u32 {
        let (layer, number) = self.order();
        (layer * PER_LAYER + number) as u32
    }

    /// What it becomes.
    pub fn kind(self) -> Kind {
        match self {
            Self::OutputNorm | Self::EmbeddingNorm => Kind::Norm,
            Self::EmbeddingNormBias => Kind::Bias,
            Self::Layer(_, part) => part.kind(),
            Self::Embedding | Self::Output | Self::Positions | Self::TokenTypes => Kind::Matrix,
        }
    }

    /// Rows and columns; norms and biases have one row. The embedding and the output may have more rows.
    pub fn shape(self, c: &Config) -> (usize, usize) {
        let token_types = c.architecture.encoder.map_or(0, |e| e.token_types);
        match self {
            Self::Embedding | Self::Output => (c.vocab, c.width),
            Self::OutputNorm | Self::EmbeddingNorm | Self::EmbeddingNormBias => (1, c.width),
            Self::Positions => (c.context, c.width),
            Self::TokenTypes => (token_types, c.width),
            Self::Layer(_, part) => part.shape(c),
        }
    }

    /// Whether its rows are those of rotary pairs.
    pub fn turns(self) -> bool {
        use Part::{Key, KeyBias, KeyNorm, Query, QueryBias, QueryNorm};
        let turning = [Query, Key, QueryBias, KeyBias, QueryNorm, KeyNorm];
        matches!(self, Self::Layer(_, part) if turning.contains(&part))
    }

    /// Every tensor that a model of this description has, in order. The output stands among them; a tied model has none.
    pub fn all(c: &Config) -> impl Iterator<Item = Self> {
        let head: &[Self] = match c.architecture.encoder {
            None => &[Self::Embedding, Self::OutputNorm, Self::Output],
            Some(_) => &[
                Self::Embedding,
                Self::Positions,
                Self::TokenTypes,
                Self::EmbeddingNorm,
                Self::EmbeddingNormBias,
            ],
        };
        let parts = Part::all(c);
        // One by one: a file that claims more experts than it has is refused at the first of them.
        let layers = (0..c.layers as u32).flat_map(move |layer| {
            let of_layer = parts.clone().into_iter();
            of_layer.map(move |part| Self::Layer(layer, part))
        });
        head.iter().copied().chain(layers)
    }
}

impl Part {
    fn number(self) -> u64 {
        let experts = |e: u32, i: u64| FIRST_EXPERT + 4 * u64::from(e) + i;
        match self {
            Self::AttentionNorm => 0,
            Self::Query => 1,
            Self::Key => 2,
            Self::Value => 3,
            Self::AttentionOutput => 4,
            Self::FfnNorm => 5,
            Self::Gate => 6,
            Self::Up => 7,
            Self::Down => 8,
            Self::QueryBias => 9,
            Self::KeyBias => 10,
            Self::ValueBias => 11,
            Self::AttentionOutputBias => 12,
            Self::QueryNorm => 13,
            Self::KeyNorm => 14,
            Self::UpBias => 15,
            Self::DownBias => 16,
            Self::AttentionNormBias => 17,
            Self::FfnNormBias => 18,
            Self::SharedGate => 20,
            Self::SharedUp => 21,
            Self::SharedDown => 22,
            Self::SharedRouter => 23,
            Self::ExpertGate(e) => experts(e, 0),
            Self::ExpertUp(e) => experts(e, 1),
            Self::ExpertDown(e) => experts(e, 2),
            Self::ExpertRouter(e) => experts(e, 3),
        }
    }

    fn kind(self) -> Kind {
        match self {
            Self::AttentionNorm | Self::FfnNorm | Self::QueryNorm | Self::KeyNorm => Kind::Norm,
            Self::SharedRouter | Self::ExpertRouter(_) => Kind::Norm,
            Self::QueryBias
            | Self::KeyBias
            | Self::ValueBias
            | Self::AttentionOutputBias
            | Self::UpBias
            | Self::DownBias
            | Self::AttentionNormBias
            | Self::FfnNormBias => Kind::Bias,
            _ => Kind::Matrix,
        }
    }

    fn shape(self, c: &Config) -> (usize, usize) {
        let experts = c.architecture.experts;
        let width = experts.map_or(0, |e| e.width);
        let shared = experts.map_or(0, |e| e.shared);
        match self {
            Self::AttentionNorm | Self::FfnNorm | Self::SharedRouter => (1, c.width),
            Self::AttentionNormBias | Self::FfnNormBias => (1, c.width),
            Self::AttentionOutputBias | Self::DownBias => (1, c.width),
            Self::QueryNorm | Self::KeyNorm => (1, c.head_width),
            Self::Query => (c.query_width(), c.width),
            Self::Key | Self::Value => (c.kv_width(), c.width),
            Self::QueryBias => (1, c.query_width()),
            Self::KeyBias | Self::ValueBias => (1, c.kv_width()),
            Self::AttentionOutput => (c.width, c.query_width()),
            Self::Gate | Self::Up => (c.ffn, c.width),
            Self::UpBias => (1, c.ffn),
            Self::Down => (c.width, c.ffn),
            Self::SharedGate | Self::SharedUp => (shared, c.width),
            Self::SharedDown => (c.width, shared),
            Self::ExpertGate(_) | Self::ExpertUp(_) => (width, c.width),
            Self::ExpertDown(_) => (c.width, width),
            Self::ExpertRouter(_) => (1, c.width),
        }
    }

    /// Every tensor of a layer, in the order of the numbers.
    pub fn all(c: &Config) -> Vec<Self> {
        let a = &c.architecture;
        let mut parts = vec![Self::AttentionNorm, Self::Query, Self::Key, Self::Value];
        parts.extend([Self::AttentionOutput, Self::FfnNorm]);
        match a.experts {
            None if a.encoder.is_some() => parts.extend([Self::Up, Self::Down]),
            None => parts.extend([Self::Gate, Self::Up, Self::Down]),
            Some(e) => {
                if e.shared != 0 {
                    parts.extend([Self::SharedGate, Self::SharedUp, Self::SharedDown]);
                    parts.push(Self::SharedRouter);
                }
                parts.extend((0..e.count as u32).flat_map(|e| {
                    [
                        Self::ExpertGate(e),
                        Self::ExpertUp(e),
                        Self::ExpertDown(e),
                        Self::ExpertRouter(e),
                    ]
                }));
            }
        }
        if a.biases || a.encoder.is_some() {
            parts.extend([Self::QueryBias, Self::KeyBias, Self::ValueBias]);
        }
        if a.encoder.is_some() {
            parts.extend([Self::AttentionOutputBias, Self::UpBias, Self::DownBias]);
            parts.extend([Self::AttentionNormBias, Self::FfnNormBias]);
        }
        if a.head_norm {
            parts.extend([Self::QueryNorm, Self::KeyNorm]);
        }
        parts.sort_by_key(|part| part.number());
        parts
    }
}

/// Names of a layer's tensors: in GGUF files, and in safetensors of decoders and encoders.
const PARTS: [(Part, &str, &[&str]); 25] = [
    (
        Part::AttentionNorm,
        "attn_norm.weight",
        &["input_layernorm.weight"],
    ),
    (
        Part::AttentionNorm,
        "attn_output_norm.weight",
        &["attention.output.LayerNorm.weight"],
    ),
    (
        Part::AttentionNormBias,
        "attn_output_norm.bias",
        &["attention.output.LayerNorm.bias"],
    ),
    (
        Part::Query,
        "attn_q.weight",
        &["self_attn.q_proj.weight", "attention.self.query.weight"],
    ),
    (
        Part::Key,
        "attn_k.weight",
        &["self_attn.k_proj.weight", "attention.self.key.weight"],
    ),
    (
        Part::Value,
        "attn_v.weight",
        &["self_attn.v_proj.weight", "attention.self.value.weight"],
    ),
    (
        Part::QueryBias,
        "attn_q.bias",
        &["self_attn.q_proj.bias", "attention.self.query.bias"],
    ),
    (
        Part::KeyBias,
        "attn_k.bias",
        &["self_attn.k_proj.bias", "attention.self.key.bias"],
    ),
    (
        Part::ValueBias,
        "attn_v.bias",
        &["self_attn.v_proj.bias", "attention.self.value.bias"],
    ),
    (
        Part::QueryNorm,
        "attn_q_norm.weight",
        &["self_attn.q_norm.weight"],
    ),
    (
        Part::KeyNorm,
        "attn_k_norm.weight",
        &["self_attn.k_norm.weight"],
    ),
    (
        Part::AttentionOutput,
        "attn_output.weight",
        &["self_attn.o_proj.weight", "attention.output.dense.weight"],
    ),
    (
        Part::AttentionOutputBias,
        "attn_output.bias",
        &["self_attn.o_proj.bias", "attention.output.dense.bias"],
    ),
    (
        Part::FfnNorm,
        "ffn_norm.weight",
        &["post_attention_layernorm.weight"],
    ),
    (
        Part::FfnNorm,
        "layer_output_norm.weight",
        &["output.LayerNorm.weight"],
    ),
    (
        Part::FfnNormBias,
        "layer_output_norm.bias",
        &["output.LayerNorm.bias"],
    ),
    (Part::Gate, "ffn_gate.weight", &["mlp.gate_proj.weight"]),
    (
        Part::Up,
        "ffn_up.weight",
        &["mlp.up_proj.weight", "intermediate.dense.weight"],
    ),
    (
        Part::UpBias,
        "ffn_up.bias",
        &["mlp.up_proj.bias", "intermediate.dense.bias"],
    ),
    (
        Part::Down,
        "ffn_down.weight",
        &["mlp.down_proj.weight", "output.dense.weight"],
    ),
    (
        Part::DownBias,
        "ffn_down.bias",
        &["mlp.down_proj.bias", "output.dense.bias"],
    ),
    (
        Part::SharedGate,
        "ffn_gate_shexp.weight",
        &["mlp.shared_expert.gate_proj.weight"],
    ),
    (
        Part::SharedUp,
        "ffn_up_shexp.weight",
        &["mlp.shared_expert.up_proj.weight"],
    ),
    (
        Part::SharedDown,
        "ffn_down_shexp.weight",
        &["mlp.shared_expert.down_proj.weight"],
    ),
    (
        Part::SharedRouter,
        "ffn_gate_inp_shexp.weight",
        &["mlp.shared_expert_gate.weight"],
    ),
];

/// Names of the other tensors: in GGUF files, and in safetensors.
const OTHERS: [(Role, &str, &[&str]); 7] = [
    (
        Role::Embedding,
        "token_embd.weight",
        &[
            "model.embed_tokens.weight",
            "embeddings.word_embeddings.weight",
        ],
    ),
    (
        Role::OutputNorm,
        "output_norm.weight",
        &["model.norm.weight"],
    ),
    (Role::Output, "output.weight", &["lm_head.weight"]),
    (
        Role::Positions,
        "position_embd.weight",
        &["embeddings.position_embeddings.weight"],
    ),
    (
        Role::TokenTypes,
        "token_types.weight",
        &["embeddings.token_type_embeddings.weight"],
    ),
    (
        Role::EmbeddingNorm,
        "token_embd_norm.weight",
        &["embeddings.LayerNorm.weight"],
    ),
    (
        Role::EmbeddingNormBias,
        "token_embd_norm.bias",
        &["embeddings.LayerNorm.bias"],
    ),
];

/// A part of each expert.
pub(super) type ExpertPart = fn(u32) -> Part;

/// Names of the experts' tensors: in GGUF files, where all experts of a layer share one, and in safetensors.
const EXPERTS: [(ExpertPart, &str, [&str; 2]); 3] = [
    (
        Part::ExpertGate,
        "ffn_gate_exps.weight",
        ["gate_proj.weight", "w1.weight"],
    ),
    (
        Part::ExpertUp,
        "ffn_up_exps.weight",
        ["up_proj.weight", "w3.weight"],
    ),
    (
        Part::ExpertDown,
        "ffn_down_exps.weight",
        ["down_proj.weight", "w2.weight"],
    ),
];

/// Names of a layer's router, whose rows are the experts'.
const ROUTERS: [&str; 3] = [
    "ffn_gate_inp.weight",
    "mlp.gate.weight",
    "block_sparse_moe.gate.weight",
];

/// What a tensor of a file holds.
pub(super) enum Named {
    /// One tensor.
    One(Role),
    /// A part of every expert of a layer, one after the other.
    Experts(u32, ExpertPart),
}

/// What a tensor of a GGUF file is for, by its name.
pub(super) fn in_gguf(name: &str) -> Option<Named> {
    if let Some((role, ..)) = OTHERS.iter().find(|(_, gguf, _)| *gguf == name) {
        return Some(Named::One(*role));
    }
    let (layer, name) = name.strip_prefix("blk.")?.split_once('.')?;
    let layer = small_number(layer)?;
    if let Some((part, ..)) = EXPERTS.iter().find(|(_, gguf, _)| *gguf == name) {
        return Some(Named::Experts(layer, *part));
    }
    if name == ROUTERS[0] {
        return Some(Named::Experts(layer, Part::ExpertRouter));
    }
    let (part, ..) = PARTS.iter().find(|(_, gguf, _)| *gguf == name)?;
    Some(Named::One(Role::Layer(layer, *part)))
}

/// What a tensor of a safetensors file is for, by its name.
pub(super) fn in_safetensors(name: &str) -> Option<Named> {
    // Encoders are stored with and without the name of their kind.
    let name = name.strip_prefix("bert.").unwrap_or(name);
    if let Some((role, ..)) = OTHERS.iter().find(|(.., names)| names.contains(&name)) {
        return Some(Named::One(*role));
    }
    let rest = name
        .strip_prefix("model.layers.")
        .or_else(|| name.strip_prefix("encoder.layer."))?;
    let (layer, name) = rest.split_once('.')?;
    let layer = small_number(layer)?;
    if let Some((part, ..)) = PARTS.iter().find(|(.., names)| names.contains(&name)) {
        return Some(Named::One(Role::Layer(layer, *part)));
    }
    if ROUTERS[1..].contains(&name) {
        return Some(Named::Experts(layer, Part::ExpertRouter));
    }
    let rest = name
        .strip_prefix("mlp.experts.")
        .or_else(|| name.strip_prefix("block_sparse_moe.experts."))?;
    let (expert, name) = rest.split_once('.')?;
    let (part, ..) = EXPERTS.iter().find(|(.., names)| names.contains(&name))?;
    let expert = small_number(expert)?;
    Some(Named::One(Role::Layer(layer, part(expert))))
}

/// The number of a layer or an expert, as it is usually written: `00` or `+0` would be another name of `0`. Within the numbers of tensors,
/// whatever the file says.
fn small_number(text: &str) -> Option<u32> {
    let number: u32 = text.parse().ok()?;
    (number < 1 << 14 && number.to_string() == text).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_the_tables_is_found_and_numbers_are_those_of_no_other() {
        let mut numbers = std::collections::BTreeMap::new();
        for (part, gguf, names) in PARTS {
            let role = Role::Layer(3, part);
            let name = format!("blk.3.{gguf}");
            assert!(matches!(in_gguf(&name), Some(Named::One(found)) if found == role));
            for name in names {
                let found = ["model.layers", "encoder.layer", "bert.encoder.layer"]
                    .map(|before| in_safetensors(&format!("{before}.3.{name}")));
                let right = |n: &Option<Named>| matches!(n, Some(Named::One(r)) if *r == role);
                assert!(found.iter().all(right), "{name}");
            }
            assert_eq!(*numbers.entry(role.number()).or_insert(role), role);
        }
        let experts = [
            ("mlp.experts.5.up_proj.weight", 5),
            ("block_sparse_moe.experts.6.w3.weight", 6),
        ];
        for (name, e) in experts {
            let found = in_safetensors(&format!("model.layers.0.{name}"));
            let expected = Role::Layer(0, Part::ExpertUp(e));
            assert!(matches!(found, Some(Named::One(role)) if role == expected));
        }
        assert_eq!(Role::Layer(0, Part::ExpertUp(5)).number(), 65_536 + 64 + 21);
        assert!(in_gguf("blk.99999.attn_q.weight").is_none());
        for number in ["00", "+0", "01", ""] {
            assert!(in_gguf(&format!("blk.{number}.attn_q.weight")).is_none());
            let name = format!("mlp.experts.{number}.up_proj.weight");
            assert!(in_safetensors(&format!("model.layers.0.{name}")).is_none());
            assert!(in_safetensors(&format!("model.layers.{number}.mlp.up_proj.weight")).is_none());
        }
        assert!(in_safetensors("model.layers.0.mlp.experts.99999.w1.weight").is_none());
    }
}
