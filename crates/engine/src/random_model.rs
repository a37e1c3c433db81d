//! Models of random weights in any shape, as Q8_0 files in the GGUF format: what speed is measured on where no trained model of that size
//! can be had. Their answers mean nothing; what they cost is what a trained model of the shape costs.

use crate::tokenizer::byte_letters;
use std::fs::File;
use std::io::{BufWriter, Seek, Write};
use std::path::Path;

/// Elements that share a scale in Q8_0.
const BLOCK: usize = 32;
/// Bytes of a Q8_0 block: a binary16 scale and the elements.
const BLOCK_BYTES: u64 = 34;
/// Where tensors begin in a GGUF file, in bytes.
const ALIGNMENT: u64 = 32;
/// First token that is not text; those before it are the bytes and one word.
const BEGIN: usize = 257;
const END: usize = 258;

/// A Llama-shaped model whose embedding is its output too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RandomModel {
    /// Tokens, at least 259: the bytes, a word, a begin and an end token, and fillers.
    pub vocab: usize,
    /// Width of the residual stream, in whole blocks of 32.
    pub width: usize,
    /// Number of layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_width: usize,
    /// Width of the feed-forward part.
    pub ffn: usize,
    /// Longest sequence.
    pub context: usize,
    /// Everything random follows from it.
    pub seed: u64,
}

impl RandomModel {
    /// The shape that speed is told of: 100,073,472 weights in 12 layers with grouped heads.
    pub fn hundred_million() -> Self {
        Self {
            vocab: 32_000,
            width: 768,
            layers: 12,
            heads: 12,
            kv_heads: 4,
            head_width: 64,
            ffn: 2_048,
            context: 4_096,
            seed: 1,
        }
    }

    /// Number of weights, norms left out.
    pub fn weights(&self) -> u64 {
        let matrices = self.matrices();
        let all = matrices.iter().map(|m| m.rows as u64 * m.columns as u64);
        all.sum()
    }

    /// Writes the file. What stood at `path` is replaced; when there is an error, an unfinished file may stand there.
    pub fn write_gguf(&self, path: &Path) -> std::io::Result<()> {
        let mut file = BufWriter::new(File::create(path)?);
        let (matrices, norms) = (self.matrices(), self.norms());
        let head = Head::of(self, &matrices, &norms);
        file.write_all(&head.0)?;
        let mut random = Random(self.seed.wrapping_mul(2) | 1);
        for matrix in &matrices {
            pad(&mut file)?;
            matrix.write(&mut random, &mut file)?;
        }
        for _ in &norms {
            pad(&mut file)?;
            let ones = 1f32.to_le_bytes().repeat(self.width);
            file.write_all(&ones)?;
        }
        file.into_inner()?.sync_all()
    }

    fn matrices(&self) -> Vec<Matrix> {
        let (query, kv) = (
            self.heads * self.head_width,
            self.kv_heads * self.head_width,
        );
        let mut all = vec![Matrix {
            name: "token_embd.weight".to_owned(),
            rows: self.vocab,
            columns: self.width,
            // Residuals of about a half.
            halvings: 7,
        }];
        for layer in 0..self.layers {
            let parts = [
                ("attn_q", query, self.width),
                ("attn_k", kv, self.width),
                ("attn_v", kv, self.width),
                ("attn_output", self.width, query),
                ("ffn_gate", self.ffn, self.width),
                ("ffn_up", self.ffn, self.width),
                ("ffn_down", self.width, self.ffn),
            ];
            all.extend(parts.map(|(part, rows, columns)| Matrix {
                name: format!("blk.{layer}.{part}.weight"),
                rows,
                columns,
                // One over the root of the columns, over the spread of the elements, which is about 2^6.
                halvings: columns.ilog2().div_ceil(2) + 6,
            }));
        }
        all
    }

    fn norms(&self) -> Vec<String> {
        let of_layers = (0..self.layers).flat_map(|layer| {
            ["attn_norm", "ffn_norm"].map(|part| format!("blk.{layer}.{part}.weight"))
        });
        let last = std::iter::once("output_norm.weight".to_owned());
        of_layers.chain(last).collect()
    }

    fn tokens(&self) -> Vec<String> {
        let bytes = byte_letters().into_iter().map(String::from);
        let named = ["he", "<|begin|>", "<|end|>"].map(str::to_owned);
        let fillers = (END + 1..self.vocab).map(|id| format!("<|{id}|>"));
        bytes.chain(named).chain(fillers).collect()
    }
}

/// One matrix of the file.
struct Matrix {
    name: String,
    rows: usize,
    columns: usize,
    /// Scales are from `2^-halvings` to twice that.
    halvings: u32,
}

impl Matrix {
    fn bytes(&self) -> u64 {
        (self.rows * self.columns / BLOCK) as u64 * BLOCK_BYTES
    }

    fn write(&self, random: &mut Random, to: &mut impl Write) -> std::io::Result<()> {
        // A binary16 number with the exponent -halvings and a random fraction.
        let exponent = (15 - self.halvings.min(14)) as u16;
        for _ in 0..self.rows * self.columns / BLOCK {
            let scale = exponent << 10 | (random.next() >> 54) as u16;
            let mut block = [0; BLOCK_BYTES as usize];
            block[..2].copy_from_slice(&scale.to_le_bytes());
            for eight in block[2..].chunks_exact_mut(8) {
                eight.copy_from_slice(&random.next().to_le_bytes());
                // -128 is no element of the engine's format; files that are made from weights hold none.
                eight
                    .iter_mut()
                    .for_each(|q| *q = if *q == 128 { 127 } else { *q });
            }
            to.write_all(&block)?;
        }
        Ok(())
    }
}

/// Header, metadata and tensor table.
struct Head(Vec<u8>);

/// Type codes of GGUF.
const U32: u32 = 4;
const I32: u32 = 5;
const F32: u32 = 6;
const TEXT: u32 = 8;
const LIST: u32 = 9;
/// Storage codes of GGUF.
const STORED_F32: u32 = 0;
const STORED_Q8_0: u32 = 8;

impl Head {
    fn of(model: &RandomModel, matrices: &[Matrix], norms: &[String]) -> Self {
        let mut values = Self(Vec::new());
        let count = values.metadata(model);
        let mut head = Self(b"GGUF".to_vec());
        head.bytes(&3u32.to_le_bytes());
        head.bytes(&((matrices.len() + norms.len()) as u64).to_le_bytes());
        head.bytes(&count.to_le_bytes());
        head.bytes(&values.0);
        let mut offset = 0u64;
        for matrix in matrices {
            let shape = [matrix.columns as u64, matrix.rows as u64];
            head.tensor(&matrix.name, &shape, STORED_Q8_0, offset);
            offset = (offset + matrix.bytes()).next_multiple_of(ALIGNMENT);
        }
        for norm in norms {
            head.tensor(norm, &[model.width as u64], STORED_F32, offset);
            offset = (offset + model.width as u64 * 4).next_multiple_of(ALIGNMENT);
        }
        head
    }

    /// All metadata; their number.
    fn metadata(&mut self, model: &RandomModel) -> u64 {
        self.text("general.architecture", "llama");
        self.text("general.name", "random weights");
        let numbers = [
            ("llama.context_length", model.context),
            ("llama.embedding_length", model.width),
            ("llama.block_count", model.layers),
            ("llama.feed_forward_length", model.ffn),
            ("llama.attention.head_count", model.heads),
            ("llama.attention.head_count_kv", model.kv_heads),
            ("llama.attention.key_length", model.head_width),
            ("llama.attention.value_length", model.head_width),
            ("llama.rope.dimension_count", model.head_width),
            ("tokenizer.ggml.bos_token_id", BEGIN),
            ("tokenizer.ggml.eos_token_id", END),
        ];
        for (key, number) in numbers {
            self.key(key, U32);
            self.bytes(&(number as u32).to_le_bytes());
        }
        let floats = [
            ("llama.attention.layer_norm_rms_epsilon", 1e-5f32),
            ("llama.rope.freq_base", 10_000.0),
        ];
        for (key, number) in floats {
            self.key(key, F32);
            self.bytes(&number.to_le_bytes());
        }
        self.text("tokenizer.ggml.model", "gpt2");
        self.text("tokenizer.ggml.pre", "gpt-2");
        self.texts("tokenizer.ggml.tokens", &model.tokens());
        self.texts("tokenizer.ggml.merges", &["h e".to_owned()]);
        let kinds = (0..model.vocab).map(|id| if id < BEGIN { 1 } else { 3i32 });
        self.list("tokenizer.ggml.token_type", I32, model.vocab);
        kinds.for_each(|kind| self.bytes(&kind.to_le_bytes()));
        2 + numbers.len() as u64 + floats.len() as u64 + 5
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn string(&mut self, text: &str) {
        self.bytes(&(text.len() as u64).to_le_bytes());
        self.bytes(text.as_bytes());
    }

    fn key(&mut self, key: &str, code: u32) {
        self.string(key);
        self.bytes(&code.to_le_bytes());
    }

    fn text(&mut self, key: &str, text: &str) {
        self.key(key, TEXT);
        self.string(text);
    }

    fn list(&mut self, key: &str, code: u32, length: usize) {
        self.key(key, LIST);
        self.bytes(&code.to_le_bytes());
        self.bytes(&(length as u64).to_le_bytes());
    }

    fn texts(&mut self, key: &str, texts: &[String]) {
        self.list(key, TEXT, texts.len());
        texts.iter().for_each(|text| self.string(text));
    }

    fn tensor(&mut self, name: &str, shape: &[u64], storage: u32, offset: u64) {
        self.string(name);
        self.bytes(&(shape.len() as u32).to_le_bytes());
        shape.iter().for_each(|n| self.bytes(&n.to_le_bytes()));
        self.bytes(&storage.to_le_bytes());
        self.bytes(&offset.to_le_bytes());
    }
}

fn pad(file: &mut BufWriter<File>) -> std::io::Result<()> {
    let at = file.stream_position()?;
    let missing = at.next_multiple_of(ALIGNMENT) - at;
    file.write_all(&[0; ALIGNMENT as usize][..missing as usize])
}

/// SplitMix64 (Steele, Lea and Flood 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Model, Session};
    use std::sync::Arc;

    fn small() -> RandomModel {
        RandomModel {
            vocab: 300,
            width: 64,
            layers: 2,
            heads: 2,
            kv_heads: 1,
            head_width: 32,
            ffn: 96,
            context: 128,
            seed: 3,
        }
    }

    #[test]
    fn a_written_model_is_read_and_its_logits_are_neither_zero_nor_at_their_bounds() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("random.gguf");
        small().write_gguf(&path).expect("written");
        let model = Arc::new(Model::open(&path).expect("read"));
        assert_eq!((model.config().vocab, model.config().layers), (300, 2));
        let mut session = Session::new(&model);
        let logits = session.prefill(&[1, 2, 3]).expect("in bounds").to_vec();
        let largest = logits.iter().map(|l| l.unsigned_abs()).max();
        assert!(
            largest.is_some_and(|l| (1 << 12..1 << 26).contains(&l)),
            "{largest:?}"
        );
        let again = folder.path().join("again.gguf");
        small().write_gguf(&again).expect("written");
        let read = |path| std::fs::read(path).expect("there");
        assert_eq!(read(&path), read(&again), "the seed decides all");
    }

    #[test]
    fn the_shape_that_speed_is_told_of_has_more_than_a_hundred_million_weights() {
        assert_eq!(RandomModel::hundred_million().weights(), 100_073_472);
    }
}
