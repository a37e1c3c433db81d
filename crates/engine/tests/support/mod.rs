//! Small random models, and writers of the file formats that the engine reads.
#![allow(dead_code)]

pub mod float_reference;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Shape of a toy model.
#[derive(Debug, Clone)]
pub struct Shape {
    pub width: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head: usize,
    pub ffn: usize,
    pub context: usize,
    pub tied: bool,
}

impl Shape {
    /// Two layers with grouped heads of two blocks.
    pub fn small() -> Self {
        Self {
            width: 96,
            layers: 2,
            heads: 4,
            kv_heads: 2,
            head: 64,
            ffn: 160,
            context: 512,
            tied: true,
        }
    }
}

/// A model of random weights. Query and key rows are in split halves, as in safetensors.
pub struct Toy {
    pub shape: Shape,
    pub tokens: Vec<String>,
    pub merges: Vec<String>,
    /// Safetensors names; rows, columns, values.
    pub tensors: BTreeMap<String, (usize, usize, Vec<f32>)>,
    pub template: String,
}

/// First id of the control tokens.
pub const BEGIN: u32 = 259;
/// The token that ends an answer.
pub const END: u32 = 260;
/// A control token that ends nothing.
pub const TOOL_CALL: u32 = 261;

/// Uniform numbers in [-1, 1) from a small generator.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    }

    pub fn below(&mut self, n: u32) -> u32 {
        ((self.next() + 1.0) / 2.0 * n as f32) as u32 % n
    }
}

/// The letters of byte-level BPE.
pub fn byte_letters() -> Vec<String> {
    let mut next = 0x100;
    (0..=255u32)
        .map(|byte| {
            let code = if matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) {
                byte
            } else {
                next += 1;
                next - 1
            };
            char::from_u32(code).expect("a letter").to_string()
        })
        .collect()
}

impl Toy {
    pub fn new(shape: Shape, seed: u64) -> Self {
        let mut tokens = byte_letters();
        tokens.extend(["he", "ll", "hell"].map(str::to_owned));
        tokens.extend(["<|begin|>", "<|end|>", "<|tool_call|>"].map(str::to_owned));
        let vocab = tokens.len();
        let mut random = Random(seed.wrapping_mul(2) | 1);
        let mut tensors = BTreeMap::new();
        let mut add = |name: String, rows: usize, columns: usize, scale: f32, offset: f32| {
            let values = (0..rows * columns)
                .map(|_| offset + scale * random.next())
                .collect();
            tensors.insert(name, (rows, columns, values));
        };
        let Shape {
            width,
            heads,
            kv_heads,
            head,
            ffn,
            ..
        } = shape;
        let spread = |columns: usize| 1.7 / (columns as f32).sqrt();
        add("model.embed_tokens.weight".into(), vocab, width, 0.6, 0.0);
        add("model.norm.weight".into(), 1, width, 0.3, 1.0);
        if !shape.tied {
            add("lm_head.weight".into(), vocab, width, spread(width), 0.0);
        }
        for layer in 0..shape.layers {
            let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
            for norm in ["input_layernorm", "post_attention_layernorm"] {
                add(name(norm), 1, width, 0.3, 1.0);
            }
            for (part, rows, columns) in [
                ("self_attn.q_proj", heads * head, width),
                ("self_attn.k_proj", kv_heads * head, width),
                ("self_attn.v_proj", kv_heads * head, width),
                ("self_attn.o_proj", width, heads * head),
                ("mlp.gate_proj", ffn, width),
                ("mlp.up_proj", ffn, width),
                ("mlp.down_proj", width, ffn),
            ] {
                add(name(part), rows, columns, spread(columns), 0.0);
            }
        }
        Self {
            shape,
            tokens,
            merges: ["h e", "l l", "he ll"].map(str::to_owned).to_vec(),
            tensors,
            template: "<|begin|>{% for m in messages %}{{ m.content }}<|end|>{% endfor %}"
                .to_owned(),
        }
    }

    /// Rows of a query or key tensor brought to neighbouring pairs, as GGUF keeps them.
    fn paired(&self, rows: usize, columns: usize, values: &[f32]) -> Vec<f32> {
        let head = self.shape.head;
        let mut out = vec![0.0; values.len()];
        for row in 0..rows {
            let (base, within) = (row / head * head, row % head);
            let to = base + 2 * (within % (head / 2)) + within / (head / 2);
            out[to * columns..][..columns].copy_from_slice(&values[row * columns..][..columns]);
        }
        out
    }
}

/// Storage of a written tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    F32,
    F16,
    Q8_0,
}

/// binary16 bits of a number, rounded half to even; numbers here are never near overflow.
pub fn f16(value: f32) -> u16 {
    let bits = value.to_bits();
    let sign = (bits >> 16 & 0x8000) as u16;
    let exponent = (bits >> 23 & 255) as i32 - 112;
    let mantissa = bits & 0x7f_ffff | 0x80_0000;
    let shift = if exponent <= 0 { 14 - exponent } else { 13 };
    if shift > 24 {
        return sign;
    }
    let half = 1u32 << (shift - 1);
    let mut short = mantissa >> shift;
    let rest = mantissa & ((1 << shift) - 1);
    if rest > half || (rest == half && short & 1 == 1) {
        short += 1;
    }
    // With the implicit bit in place, a carry moves into the exponent by itself.
    sign + if exponent <= 0 {
        short as u16
    } else {
        (((exponent - 1) as u32) << 10) as u16 + short as u16
    }
}

/// Bytes of values in a storage format.
pub fn stored(values: &[f32], storage: Storage) -> Vec<u8> {
    match storage {
        Storage::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        Storage::F16 => values.iter().flat_map(|v| f16(*v).to_le_bytes()).collect(),
        Storage::Q8_0 => values
            .chunks(32)
            .flat_map(|block| {
                let d = block.iter().fold(0f32, |a, v| a.max(v.abs())) / 127.0;
                let mut bytes = f16(d).to_le_bytes().to_vec();
                bytes.extend(block.iter().map(|v| (v / d).round() as i8 as u8));
                bytes
            })
            .collect(),
    }
}

/// A GGUF file under construction.
pub struct GgufWriter {
    pub values: Vec<(String, Vec<u8>)>,
    pub tensors: Vec<(String, Vec<u64>, u32, Vec<u8>)>,
}

fn gguf_text(text: &str) -> Vec<u8> {
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes
}

impl GgufWriter {
    /// The toy in GGUF's names and order.
    pub fn new(toy: &Toy, storage: Storage) -> Self {
        let mut file = Self {
            values: vec![],
            tensors: vec![],
        };
        let s = &toy.shape;
        file.text("general.architecture", "llama");
        file.text("general.name", "toy");
        for (key, value) in [
            ("context_length", s.context),
            ("embedding_length", s.width),
            ("block_count", s.layers),
            ("feed_forward_length", s.ffn),
            ("attention.head_count", s.heads),
            ("attention.head_count_kv", s.kv_heads),
            ("attention.key_length", s.head),
            ("attention.value_length", s.head),
            ("rope.dimension_count", s.head),
        ] {
            file.number(&format!("llama.{key}"), value as u32);
        }
        file.float("llama.attention.layer_norm_rms_epsilon", 1e-5);
        file.float("llama.rope.freq_base", 10_000.0);
        file.text("tokenizer.ggml.model", "gpt2");
        file.text("tokenizer.ggml.pre", "gpt-2");
        file.texts("tokenizer.ggml.tokens", &toy.tokens);
        file.texts("tokenizer.ggml.merges", &toy.merges);
        let kinds: Vec<i32> = (0..toy.tokens.len() as u32)
            .map(|id| if id >= BEGIN { 3 } else { 1 })
            .collect();
        file.integers("tokenizer.ggml.token_type", &kinds);
        file.number("tokenizer.ggml.bos_token_id", BEGIN);
        file.number("tokenizer.ggml.eos_token_id", END);
        file.text("tokenizer.chat_template", &toy.template);
        for (name, (rows, columns, values)) in &toy.tensors {
            let norm = *rows == 1;
            let turned = name.contains("q_proj") || name.contains("k_proj");
            let values = if turned {
                toy.paired(*rows, *columns, values)
            } else {
                values.clone()
            };
            // Norms are vectors: Q8_0 files keep them as F32.
            let storage = if norm && storage == Storage::Q8_0 {
                Storage::F32
            } else {
                storage
            };
            let shape = if norm {
                vec![*columns as u64]
            } else {
                vec![*columns as u64, *rows as u64]
            };
            let code = match storage {
                Storage::F32 => 0,
                Storage::F16 => 1,
                Storage::Q8_0 => 8,
            };
            file.tensors
                .push((gguf_name(name), shape, code, stored(&values, storage)));
        }
        file
    }

    fn value(&mut self, key: &str, code: u32, body: Vec<u8>) {
        let mut bytes = code.to_le_bytes().to_vec();
        bytes.extend(body);
        self.values.retain(|(k, _)| k != key);
        self.values.push((key.to_owned(), bytes));
    }

    pub fn text(&mut self, key: &str, text: &str) {
        self.value(key, 8, gguf_text(text));
    }

    pub fn number(&mut self, key: &str, number: u32) {
        self.value(key, 4, number.to_le_bytes().to_vec());
    }

    pub fn float(&mut self, key: &str, number: f32) {
        self.value(key, 6, number.to_le_bytes().to_vec());
    }

    pub fn texts(&mut self, key: &str, texts: &[String]) {
        let mut body = 8u32.to_le_bytes().to_vec();
        body.extend((texts.len() as u64).to_le_bytes());
        body.extend(texts.iter().flat_map(|t| gguf_text(t)));
        self.value(key, 9, body);
    }

    pub fn integers(&mut self, key: &str, integers: &[i32]) {
        let mut body = 5u32.to_le_bytes().to_vec();
        body.extend((integers.len() as u64).to_le_bytes());
        body.extend(integers.iter().flat_map(|i| i.to_le_bytes()));
        self.value(key, 9, body);
    }

    /// The file.
    pub fn bytes(&self) -> Vec<u8> {
        let mut head = b"GGUF".to_vec();
        head.extend(3u32.to_le_bytes());
        head.extend((self.tensors.len() as u64).to_le_bytes());
        head.extend((self.values.len() as u64).to_le_bytes());
        for (key, value) in &self.values {
            head.extend(gguf_text(key));
            head.extend(value);
        }
        let mut body: Vec<u8> = Vec::new();
        for (name, shape, code, bytes) in &self.tensors {
            head.extend(gguf_text(name));
            head.extend((shape.len() as u32).to_le_bytes());
            head.extend(shape.iter().flat_map(|n| n.to_le_bytes()));
            head.extend(code.to_le_bytes());
            head.extend((body.len() as u64).to_le_bytes());
            body.extend(bytes);
            body.resize(body.len().next_multiple_of(32), 0);
        }
        head.resize(head.len().next_multiple_of(32), 0);
        head.extend(body);
        head
    }

    pub fn write(&self, folder: &Path, name: &str) -> PathBuf {
        let path = folder.join(name);
        std::fs::write(&path, self.bytes()).expect("a temporary folder takes files");
        path
    }
}

fn gguf_name(name: &str) -> String {
    match name {
        "model.embed_tokens.weight" => return "token_embd.weight".into(),
        "model.norm.weight" => return "output_norm.weight".into(),
        "lm_head.weight" => return "output.weight".into(),
        _ => {}
    }
    [
        ("model.layers.", "blk."),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("post_attention_layernorm", "ffn_norm"),
        ("input_layernorm", "attn_norm"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ]
    .iter()
    .fold(name.to_owned(), |n, (from, to)| n.replace(from, to))
}

/// The toy as a safetensors folder.
pub fn write_folder(toy: &Toy, folder: &Path, storage: Storage) -> PathBuf {
    let folder = folder.join("toy");
    std::fs::create_dir_all(&folder).expect("a temporary folder takes folders");
    let s = &toy.shape;
    let config = serde_json::json!({
        "model_type": "llama", "hidden_size": s.width, "num_hidden_layers": s.layers, "num_attention_heads": s.heads,
        "num_key_value_heads": s.kv_heads, "head_dim": s.head, "intermediate_size": s.ffn, "max_position_embeddings": s.context,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": s.tied, "hidden_act": "silu",
        "vocab_size": toy.tokens.len(), "eos_token_id": END,
    });
    let (code, size) = if storage == Storage::F16 {
        ("F16", 2)
    } else {
        ("F32", 4)
    };
    let mut header = serde_json::Map::new();
    let mut body = Vec::new();
    for (name, (rows, columns, values)) in &toy.tensors {
        let shape = if *rows == 1 {
            vec![*columns]
        } else {
            vec![*rows, *columns]
        };
        let end = body.len() + values.len() * size;
        header.insert(
            name.clone(),
            serde_json::json!({"dtype": code, "shape": shape, "data_offsets": [body.len(), end]}),
        );
        body.extend(stored(values, storage));
    }
    let header = serde_json::Value::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend(body);
    let write = |name: &str, bytes: &[u8]| {
        std::fs::write(folder.join(name), bytes).expect("a temporary folder takes files");
    };
    write("model.safetensors", &file);
    write("config.json", config.to_string().as_bytes());
    write("tokenizer.json", tokenizer_json(toy).as_bytes());
    write(
        "tokenizer_config.json",
        br#"{"bos_token":"<|begin|>","eos_token":"<|end|>"}"#,
    );
    write("chat_template.jinja", toy.template.as_bytes());
    folder
}

fn tokenizer_json(toy: &Toy) -> String {
    let vocab: serde_json::Map<_, _> = (0..)
        .zip(&toy.tokens)
        .map(|(id, t): (u32, _)| (t.clone(), id.into()))
        .collect();
    let added: Vec<_> = (BEGIN..toy.tokens.len() as u32)
        .map(|id| {
            serde_json::json!({"id": id, "content": toy.tokens[id as usize], "single_word": false, "lstrip": false,
                               "rstrip": false, "normalized": false, "special": true})
        })
        .collect();
    serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                  "vocab": vocab, "merges": toy.merges},
    })
    .to_string()
}
