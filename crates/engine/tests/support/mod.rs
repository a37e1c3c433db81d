//! Small random models, and writers of the file formats that the engine reads.
#![allow(dead_code)]

pub mod encoder_reference;
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
    pub family: Family,
    /// Window of attention, 0 for none.
    pub window: usize,
    pub experts: Option<Mixture>,
    pub scaling: Option<Scaling>,
}

/// Architectures that the writers know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    Llama,
    Mistral,
    Qwen2,
    Qwen3,
    Mixtral,
    Qwen2Moe,
    Qwen3Moe,
    Bert,
}

/// A mixture of experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mixture {
    pub count: usize,
    pub chosen: usize,
    pub ffn: usize,
    pub shared: usize,
    pub renormalise: bool,
}

/// A stretching of the rotary frequencies that both kinds of files can name.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scaling {
    pub kind: &'static str,
    pub factor: f32,
    pub original: usize,
}

impl Family {
    pub const DECODERS: [Self; 7] = [
        Self::Llama,
        Self::Mistral,
        Self::Qwen2,
        Self::Qwen3,
        Self::Mixtral,
        Self::Qwen2Moe,
        Self::Qwen3Moe,
    ];

    /// Names in GGUF files and in `config.json`.
    pub fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Llama => ("llama", "llama"),
            Self::Mistral => ("llama", "mistral"),
            Self::Mixtral => ("llama", "mixtral"),
            Self::Qwen2 => ("qwen2", "qwen2"),
            Self::Qwen3 => ("qwen3", "qwen3"),
            Self::Qwen2Moe => ("qwen2moe", "qwen2_moe"),
            Self::Qwen3Moe => ("qwen3moe", "qwen3_moe"),
            Self::Bert => ("bert", "bert"),
        }
    }

    fn biases(self) -> bool {
        matches!(self, Self::Qwen2 | Self::Qwen2Moe)
    }

    fn head_norm(self) -> bool {
        matches!(self, Self::Qwen3 | Self::Qwen3Moe)
    }
}

impl Shape {
    /// A small model of an architecture.
    pub fn of(family: Family) -> Self {
        let mixture = Mixture {
            count: 6,
            chosen: 2,
            ffn: 96,
            shared: 0,
            renormalise: true,
        };
        if family == Family::Bert {
            let (heads, head) = (3, 32);
            return Self {
                family,
                heads,
                kv_heads: heads,
                head,
                ..Self::small()
            };
        }
        let experts = match family {
            Family::Mixtral | Family::Qwen3Moe => Some(mixture),
            Family::Qwen2Moe => Some(Mixture {
                chosen: 3,
                shared: 64,
                renormalise: false,
                ..mixture
            }),
            _ => None,
        };
        Self {
            family,
            experts,
            tied: family == Family::Qwen2,
            // In safetensors of Mixtral this is the width of its experts.
            ffn: if family == Family::Mixtral { 96 } else { 160 },
            ..Self::small()
        }
    }

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
            family: Family::Llama,
            window: 0,
            experts: None,
            scaling: None,
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

/// Tokens of an encoder's toy: four special ones, letters that begin a word and letters that go on.
fn word_pieces() -> Vec<String> {
    let letters = ('a'..='z').map(String::from);
    let more = ('a'..='z').map(|c| format!("##{c}"));
    let words = ["hello", "world", "##ing"].map(str::to_owned);
    let special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"].map(str::to_owned);
    special
        .into_iter()
        .chain(letters)
        .chain(more)
        .chain(words)
        .collect()
}

impl Toy {
    /// An encoder.
    pub fn encoder(shape: Shape, seed: u64) -> Self {
        let (tokens, mut random) = (word_pieces(), Random(seed.wrapping_mul(2) | 1));
        let mut tensors = BTreeMap::new();
        let mut add = |name: String, rows: usize, columns: usize, scale: f32, offset: f32| {
            let values = (0..rows * columns).map(|_| offset + scale * random.next());
            tensors.insert(name, (rows, columns, values.collect()));
        };
        let (width, all) = (shape.width, shape.heads * shape.head);
        for (table, rows) in [
            ("word", tokens.len()),
            ("position", shape.context),
            ("token_type", 2),
        ] {
            let name = format!("embeddings.{table}_embeddings.weight");
            add(name, rows, width, 0.1, 0.0);
        }
        let mut norm = |name: &str| {
            add(format!("{name}.LayerNorm.weight"), 1, width, 0.3, 1.0);
            add(format!("{name}.LayerNorm.bias"), 1, width, 0.2, 0.0);
        };
        norm("embeddings");
        for layer in 0..shape.layers {
            norm(&format!("encoder.layer.{layer}.attention.output"));
            norm(&format!("encoder.layer.{layer}.output"));
        }
        for layer in 0..shape.layers {
            for (part, rows, columns) in [
                ("attention.self.query", all, width),
                ("attention.self.key", all, width),
                ("attention.self.value", all, width),
                ("attention.output.dense", width, all),
                ("intermediate.dense", shape.ffn, width),
                ("output.dense", width, shape.ffn),
            ] {
                let name = format!("encoder.layer.{layer}.{part}");
                let spread = 1.7 / (columns as f32).sqrt();
                add(format!("{name}.weight"), rows, columns, spread, 0.0);
                add(format!("{name}.bias"), 1, rows, 0.3, 0.0);
            }
        }
        Self {
            shape,
            tokens,
            merges: vec![],
            tensors,
            template: String::new(),
        }
    }

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
            let name = |part: &str| format!("model.layers.{layer}.{part}");
            for norm in ["input_layernorm", "post_attention_layernorm"] {
                add(name(norm) + ".weight", 1, width, 0.3, 1.0);
            }
            let (query, kv) = (heads * head, kv_heads * head);
            for (part, rows, columns) in [
                ("self_attn.q_proj", query, width),
                ("self_attn.k_proj", kv, width),
                ("self_attn.v_proj", kv, width),
                ("self_attn.o_proj", width, query),
            ] {
                add(name(part) + ".weight", rows, columns, spread(columns), 0.0);
            }
            if shape.family.biases() {
                for (part, rows) in [("q", query), ("k", kv), ("v", kv)] {
                    let name = name(&format!("self_attn.{part}_proj.bias"));
                    add(name, 1, rows, 0.7, 0.0);
                }
            }
            if shape.family.head_norm() {
                for part in ["self_attn.q_norm.weight", "self_attn.k_norm.weight"] {
                    add(name(part), 1, head, 0.5, 1.2);
                }
            }
            let mut network = |before: &str, parts: [&str; 3], ffn: usize| {
                for (part, rows, columns) in [
                    (parts[0], ffn, width),
                    (parts[1], ffn, width),
                    (parts[2], width, ffn),
                ] {
                    let name = name(&format!("{before}.{part}.weight"));
                    add(name, rows, columns, spread(columns), 0.0);
                }
            };
            let usual = ["gate_proj", "up_proj", "down_proj"];
            let Some(mixture) = shape.experts else {
                network("mlp", usual, ffn);
                continue;
            };
            let (block, parts) = match shape.family {
                Family::Mixtral => ("block_sparse_moe", ["w1", "w3", "w2"]),
                _ => ("mlp", usual),
            };
            for expert in 0..mixture.count {
                network(&format!("{block}.experts.{expert}"), parts, mixture.ffn);
            }
            if mixture.shared != 0 {
                network("mlp.shared_expert", usual, mixture.shared);
                let gate = name("mlp.shared_expert_gate.weight");
                add(gate, 1, width, 2.0 * spread(width), 0.0);
            }
            let router = name(&format!("{block}.gate.weight"));
            add(router, mixture.count, width, 3.0 * spread(width), 0.0);
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
        let name = s.family.names().0;
        let key = |key: &str| format!("{name}.{key}");
        file.text("general.architecture", name);
        file.text("general.name", "toy");
        if s.family == Family::Bert {
            file.describe_encoder(toy);
            for (name, (rows, columns, values)) in &toy.tensors {
                file.tensor(toy, name, *rows, *columns, values, storage);
            }
            return file;
        }
        for (part, value) in [
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
            file.number(&key(part), value as u32);
        }
        file.float(&key("attention.layer_norm_rms_epsilon"), 1e-5);
        file.float(&key("rope.freq_base"), 10_000.0);
        if s.window != 0 {
            file.number(&key("attention.sliding_window"), s.window as u32);
        }
        if let Some(m) = s.experts {
            for (part, value) in [
                ("expert_count", m.count),
                ("expert_used_count", m.chosen),
                ("expert_feed_forward_length", m.ffn),
                ("expert_shared_feed_forward_length", m.shared),
            ] {
                file.number(&key(part), value as u32);
            }
        }
        if let Some(scaling) = s.scaling {
            file.text(&key("rope.scaling.type"), scaling.kind);
            file.float(&key("rope.scaling.factor"), scaling.factor);
            let original = key("rope.scaling.original_context_length");
            file.number(&original, scaling.original as u32);
        }
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
            file.tensor(toy, name, *rows, *columns, values, storage);
        }
        file
    }

    /// What llama.cpp's converter writes of an encoder: no widths of heads, word pieces with a mark where words begin.
    fn describe_encoder(&mut self, toy: &Toy) {
        let s = &toy.shape;
        for (part, value) in [
            ("context_length", s.context),
            ("embedding_length", s.width),
            ("block_count", s.layers),
            ("feed_forward_length", s.ffn),
            ("attention.head_count", s.heads),
            ("pooling_type", 1),
        ] {
            self.number(&format!("bert.{part}"), value as u32);
        }
        self.float("bert.attention.layer_norm_epsilon", 1e-12);
        self.flag("bert.attention.causal", false);
        self.text("tokenizer.ggml.model", "bert");
        self.text("tokenizer.ggml.pre", "jina-v2-en");
        self.number("tokenizer.ggml.token_type_count", 2);
        let special = |id: usize| id < 4;
        let marked = |(id, token): (usize, &String)| match token.strip_prefix("##") {
            _ if special(id) => token.clone(),
            Some(more) => more.to_owned(),
            None => format!("▁{token}"),
        };
        let tokens: Vec<String> = toy.tokens.iter().enumerate().map(marked).collect();
        let kinds = (0..tokens.len()).map(|id| if special(id) { 3 } else { 1 });
        self.texts("tokenizer.ggml.tokens", &tokens);
        self.integers("tokenizer.ggml.token_type", &kinds.collect::<Vec<_>>());
        for (token, id) in [
            ("padding", 0),
            ("unknown", 1),
            ("bos", 2),
            ("eos", 3),
            ("seperator", 3),
        ] {
            self.number(&format!("tokenizer.ggml.{token}_token_id"), id);
        }
    }

    /// A tensor under GGUF's name. A part of the first expert begins the tensor of all, which those of the others follow.
    fn tensor(
        &mut self,
        toy: &Toy,
        name: &str,
        rows: usize,
        columns: usize,
        values: &[f32],
        storage: Storage,
    ) {
        let vector = rows == 1;
        // Only llama.cpp's files of Llamas have pairs side by side.
        let turned = toy.shape.family.names().0 == "llama"
            && (name.contains("q_proj") || name.contains("k_proj"));
        let values = if turned {
            toy.paired(rows, columns, values)
        } else {
            values.to_vec()
        };
        // Vectors stand as F32 in files of Q8_0, and the router's matrix and an encoder's small tables.
        let tables = [
            "mlp.gate.weight",
            "moe.gate.weight",
            "position_embeddings.weight",
            "token_type_embeddings.weight",
        ];
        let plain = vector || tables.iter().any(|table| name.ends_with(table));
        let storage = if plain && storage == Storage::Q8_0 {
            Storage::F32
        } else {
            storage
        };
        let mut shape = vec![columns as u64];
        if !vector {
            shape.push(rows as u64);
        }
        let code = match storage {
            Storage::F32 => 0,
            Storage::F16 => 1,
            Storage::Q8_0 => 8,
        };
        let bytes = stored(&values, storage);
        match name.split_once("experts.") {
            Some((before, after)) => {
                let (expert, part) = after.split_once('.').expect("a number and a part");
                let part = match part {
                    "gate_proj.weight" | "w1.weight" => "ffn_gate_exps.weight",
                    "up_proj.weight" | "w3.weight" => "ffn_up_exps.weight",
                    _ => "ffn_down_exps.weight",
                };
                let layer = before.split('.').nth(2).expect("a layer");
                let name = format!("blk.{layer}.{part}");
                let count = toy.shape.experts.expect("it has some").count;
                shape.push(count as u64);
                let whole = self.tensors.iter().position(|t| t.0 == name);
                let at = whole.unwrap_or_else(|| {
                    let room = vec![0; bytes.len() * count];
                    self.tensors.push((name, shape, code, room));
                    self.tensors.len() - 1
                });
                let expert: usize = expert.parse().expect("a number");
                let start = expert * bytes.len();
                self.tensors[at].3[start..start + bytes.len()].copy_from_slice(&bytes);
            }
            None => self.tensors.push((gguf_name(name), shape, code, bytes)),
        }
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

    pub fn flag(&mut self, key: &str, flag: bool) {
        self.value(key, 7, vec![u8::from(flag)]);
    }

    pub fn floats(&mut self, key: &str, floats: &[f32]) {
        let mut body = 6u32.to_le_bytes().to_vec();
        body.extend((floats.len() as u64).to_le_bytes());
        body.extend(floats.iter().flat_map(|i| i.to_le_bytes()));
        self.value(key, 9, body);
    }

    /// Another vocabulary, with an embedding of zeros of its size.
    pub fn vocabulary(&mut self, tokens: &[String], types: &[i32]) {
        self.texts("tokenizer.ggml.tokens", tokens);
        self.integers("tokenizer.ggml.token_type", types);
        for key in ["bos_token_id", "eos_token_id"] {
            self.values
                .retain(|(k, _)| k != &format!("tokenizer.ggml.{key}"));
        }
        let embedding = self.tensors.iter_mut().find(|t| t.0 == "token_embd.weight");
        let embedding = embedding.expect("every model has one");
        let width = embedding.1[0];
        *embedding = (
            embedding.0.clone(),
            vec![width, tokens.len() as u64],
            0,
            vec![0; tokens.len() * width as usize * 4],
        );
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
        ("embeddings.word_embeddings", "token_embd"),
        ("embeddings.position_embeddings", "position_embd"),
        ("embeddings.token_type_embeddings", "token_types"),
        ("embeddings.LayerNorm", "token_embd_norm"),
        ("encoder.layer.", "blk."),
        ("attention.self.query", "attn_q"),
        ("attention.self.key", "attn_k"),
        ("attention.self.value", "attn_v"),
        ("attention.output.dense", "attn_output"),
        ("attention.output.LayerNorm", "attn_output_norm"),
        ("intermediate.dense", "ffn_up"),
        ("output.dense", "ffn_down"),
        ("output.LayerNorm", "layer_output_norm"),
        ("model.layers.", "blk."),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("post_attention_layernorm", "ffn_norm"),
        ("input_layernorm", "attn_norm"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("block_sparse_moe.gate", "ffn_gate_inp"),
        ("mlp.shared_expert_gate", "ffn_gate_inp_shexp"),
        ("mlp.shared_expert.gate_proj", "ffn_gate_shexp"),
        ("mlp.shared_expert.up_proj", "ffn_up_shexp"),
        ("mlp.shared_expert.down_proj", "ffn_down_shexp"),
        ("mlp.gate.", "ffn_gate_inp."),
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
    let mut config = serde_json::json!({
        "model_type": s.family.names().1, "hidden_size": s.width, "num_hidden_layers": s.layers, "num_attention_heads": s.heads,
        "num_key_value_heads": s.kv_heads, "head_dim": s.head, "intermediate_size": s.ffn, "max_position_embeddings": s.context,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": s.tied, "hidden_act": "silu",
        "vocab_size": toy.tokens.len(), "eos_token_id": END,
    });
    describe(s, &mut config);
    let encoder = s.family == Family::Bert;
    if encoder {
        config = serde_json::json!({
            "model_type": "bert", "hidden_size": s.width, "num_hidden_layers": s.layers, "num_attention_heads": s.heads,
            "intermediate_size": s.ffn, "max_position_embeddings": s.context, "layer_norm_eps": 1e-12, "hidden_act": "gelu",
            "vocab_size": toy.tokens.len(), "type_vocab_size": 2, "position_embedding_type": "absolute", "pad_token_id": 0,
        });
    }
    let (code, size) = if storage == Storage::F16 {
        ("F16", 2)
    } else {
        ("F32", 4)
    };
    let mut header = serde_json::Map::new();
    let mut body = Vec::new();
    for (name, (rows, columns, values)) in &toy.tensors {
        let shape = if *rows == 1 && !name.contains("shared_expert_gate") {
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
    if encoder {
        write("tokenizer.json", word_piece_json(toy).as_bytes());
        return folder;
    }
    write("tokenizer.json", tokenizer_json(toy).as_bytes());
    write(
        "tokenizer_config.json",
        br#"{"bos_token":"<|begin|>","eos_token":"<|end|>"}"#,
    );
    write("chat_template.jinja", toy.template.as_bytes());
    folder
}

/// What a `config.json` says of the architecture.
fn describe(s: &Shape, config: &mut serde_json::Value) {
    if s.window != 0 {
        config["sliding_window"] = s.window.into();
        if s.family == Family::Qwen2 {
            config["use_sliding_window"] = true.into();
            config["max_window_layers"] = 0.into();
        }
    }
    if let Some(m) = s.experts {
        let count = if s.family == Family::Mixtral {
            "num_local_experts"
        } else {
            config["moe_intermediate_size"] = m.ffn.into();
            config["norm_topk_prob"] = m.renormalise.into();
            "num_experts"
        };
        config[count] = m.count.into();
        config["num_experts_per_tok"] = m.chosen.into();
        if m.shared != 0 {
            config["shared_expert_intermediate_size"] = m.shared.into();
        }
    }
    if let Some(scaling) = s.scaling {
        config["rope_scaling"] = serde_json::json!({
            "rope_type": scaling.kind, "factor": f64::from(scaling.factor),
            "original_max_position_embeddings": scaling.original,
        });
    }
}

/// Says of an encoder's folder that a text's vector is the state of its first token.
pub fn pool_first_token(folder: &Path) {
    let pooling = folder.join("1_Pooling");
    std::fs::create_dir_all(&pooling).expect("a temporary folder takes folders");
    let said = r#"{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}"#;
    std::fs::write(pooling.join("config.json"), said).expect("a temporary folder takes files");
}

fn word_piece_json(toy: &Toy) -> String {
    let vocab: serde_json::Map<_, _> = (0..)
        .zip(&toy.tokens)
        .map(|(id, t): (u32, _)| (t.clone(), id.into()))
        .collect();
    let added: Vec<_> = (0..4)
        .map(|id| {
            serde_json::json!({"id": id, "content": toy.tokens[id as usize], "single_word": false, "lstrip": false,
                               "rstrip": false, "normalized": false, "special": true})
        })
        .collect();
    serde_json::json!({
        "version": "1.0", "truncation": {"max_length": 8, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
        "padding": {"strategy": {"Fixed": 16}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
                    "pad_type_id": 0, "pad_token": "[PAD]"},
        "added_tokens": added,
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null,
                       "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100, "vocab": vocab},
    })
    .to_string()
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
