//! Model files: what they hold, before any of it is turned into integer weights.

pub(crate) mod elements;
pub(crate) mod exact;
mod gguf;
mod gguf_model;
mod hf_model;
mod reader;

pub use elements::{Format, Values};

use crate::config::Config;
use crate::error::ImportError;
use crate::packed::PackedMatrix;
use crate::tokenizer::TokenizerSource;
use elements::RawTensor;
use reader::Reader;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What a tensor is for. The order of this type is the order of tensors in the model root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Token embedding, `vocab` rows.
    Embedding,
    /// Norm before the output.
    OutputNorm,
    /// Output matrix, absent when tied to the embedding.
    Output,
    /// A tensor of a layer.
    Layer(u32, Part),
}

/// Tensors of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Norm before attention.
    AttentionNorm,
    /// Query projection. Rows of a head are in pairs: `(2i, 2i + 1)` turn together.
    Query,
    /// Key projection, in pairs like the query.
    Key,
    /// Value projection.
    Value,
    /// Projection of the attention's output.
    AttentionOutput,
    /// Norm before the feed-forward network.
    FfnNorm,
    /// Gate projection.
    Gate,
    /// Up projection.
    Up,
    /// Down projection.
    Down,
}

impl Part {
    /// Every part, in order.
    pub const ALL: [Self; 9] = [
        Self::AttentionNorm,
        Self::Query,
        Self::Key,
        Self::Value,
        Self::AttentionOutput,
        Self::FfnNorm,
        Self::Gate,
        Self::Up,
        Self::Down,
    ];

    /// Rows and columns of a part; norms have one row.
    fn shape(self, c: &Config) -> (usize, usize) {
        match self {
            Self::AttentionNorm | Self::FfnNorm => (1, c.width),
            Self::Query => (c.query_width(), c.width),
            Self::Key | Self::Value => (c.kv_width(), c.width),
            Self::AttentionOutput => (c.width, c.query_width()),
            Self::Gate | Self::Up => (c.ffn, c.width),
            Self::Down => (c.width, c.ffn),
        }
    }
}

/// Where a tensor's bytes are.
#[derive(Debug, Clone)]
struct Entry {
    name: String,
    format: Format,
    rows: usize,
    columns: usize,
    file: PathBuf,
    offset: u64,
    bytes: u64,
    /// Whether rotary pairs are split halves, to be brought together.
    split_halves: bool,
}

/// A model on disk: its description read and checked, its tensors found, nothing loaded.
#[derive(Debug)]
pub struct Checkpoint {
    name: String,
    config: Config,
    tensors: BTreeMap<Role, Entry>,
    tokenizer: TokenizerSource,
    template: Option<String>,
}

/// Memory that a model takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryEstimate {
    /// Bytes of integer weights.
    pub weights: u64,
    /// Bytes of the KV cache of one session that fills the context.
    pub cache: u64,
    /// Largest tensor as stored and half unpacked, held only while loading.
    pub loading: u64,
}

impl MemoryEstimate {
    /// Highest need: while loading, or with one full session.
    pub fn peak(&self) -> u64 {
        self.weights + self.cache.max(self.loading)
    }
}

impl Checkpoint {
    /// Opens a GGUF file, or a folder with `config.json`, `tokenizer.json` and safetensors.
    pub fn open(path: &Path) -> Result<Self, ImportError> {
        let checkpoint = if path.is_dir() {
            hf_model::open(path)?
        } else {
            gguf_model::open(path)?
        };
        checkpoint.config.check()?;
        checkpoint.check_tensors()?;
        Ok(checkpoint)
    }

    /// Every tensor is there with its right shape.
    fn check_tensors(&self) -> Result<(), ImportError> {
        let c = &self.config;
        let layers = (0..c.layers as u32)
            .flat_map(|l| Part::ALL.map(|part| (Role::Layer(l, part), part.shape(c))));
        let head = [(Role::OutputNorm, (1, c.width))];
        for (role, (rows, columns)) in head.into_iter().chain(layers) {
            let entry = self.entry(role)?;
            if (entry.rows, entry.columns) != (rows, columns) {
                let reason = format!(
                    "is {} x {}; {rows} x {columns} is right",
                    entry.rows, entry.columns
                );
                return Err(ImportError::tensor(&entry.name, reason));
            }
        }
        let output = self.tensors.get(&Role::Output);
        for entry in std::iter::once(self.entry(Role::Embedding)?).chain(output) {
            if entry.columns != c.width || entry.rows < c.vocab {
                let reason = format!(
                    "is {} x {}; at least {} x {} is right",
                    entry.rows, entry.columns, c.vocab, c.width
                );
                return Err(ImportError::tensor(&entry.name, reason));
            }
        }
        // Layers are last in the order of roles, so the last tensor has the highest layer.
        match self.tensors.iter().next_back() {
            Some((Role::Layer(layer, _), entry)) if *layer as usize >= c.layers => {
                let reason = format!(
                    "belongs to layer {layer} of a model with {} layers",
                    c.layers
                );
                Err(ImportError::tensor(&entry.name, reason))
            }
            _ => Ok(()),
        }
    }

    fn entry(&self, role: Role) -> Result<&Entry, ImportError> {
        self.tensors
            .get(&role)
            .ok_or_else(|| ImportError::tensor(format!("{role:?}"), "is absent from the file"))
    }

    /// Name of the model, as its file gives it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Shape of the model.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Source of the tokenizer.
    pub fn tokenizer(&self) -> &TokenizerSource {
        &self.tokenizer
    }

    /// Chat template, when the file has one.
    pub fn template(&self) -> Option<&str> {
        self.template.as_deref()
    }

    /// Whether the file has a tensor of this role.
    pub fn has(&self, role: Role) -> bool {
        self.tensors.contains_key(&role)
    }

    /// Parameters of the tensors in the file.
    pub fn parameters(&self) -> u64 {
        let size = |e: &Entry| e.rows as u64 * e.columns as u64;
        self.tensors.values().map(size).sum()
    }

    /// Memory that this model will take.
    pub fn memory_estimate(&self) -> MemoryEstimate {
        let c = &self.config;
        let packed = |e: &Entry| PackedMatrix::bytes_for(e.rows as u64, e.columns as u64);
        // A number takes 8 bytes while it is quantised; Q8_0 has one number per block.
        let loading = |e: &Entry| {
            let numbers = if e.format == Format::Q8_0 {
                e.columns as u64 / 32
            } else {
                e.columns as u64
            };
            e.bytes + 8 * e.rows as u64 * numbers
        };
        let per_position = c.layers as u64
            * c.kv_heads as u64
            * (2 * c.head_width as u64 + c.head_width as u64 / 16 + 16);
        MemoryEstimate {
            weights: self.tensors.values().map(packed).sum(),
            cache: per_position * c.context as u64,
            loading: self.tensors.values().map(loading).max().unwrap_or(0),
        }
    }

    /// Integer weights of a matrix.
    pub fn matrix(&self, role: Role) -> Result<PackedMatrix, ImportError> {
        let entry = self.entry(role)?;
        let bytes = entry.read()?;
        let half = self.config.head_width / 2;
        let pair = |row: usize| {
            let (head, within) = (row / (2 * half), row % (2 * half));
            head * 2 * half + 2 * (within % half) + within / half
        };
        if entry.split_halves {
            entry.raw(&bytes).matrix(&pair)
        } else {
            entry.raw(&bytes).matrix(&|row| row)
        }
    }

    /// Integer weights of a norm: 16-bit numbers and their exponent.
    pub fn norm(&self, role: Role) -> Result<(Vec<i16>, i32), ImportError> {
        let entry = self.entry(role)?;
        let bytes = entry.read()?;
        entry.raw(&bytes).norm()
    }

    /// The values of a tensor before quantisation, in the file's own row order, for reference engines.
    pub fn values(&self, role: Role) -> Result<Values, ImportError> {
        let entry = self.entry(role)?;
        let bytes = entry.read()?;
        entry.raw(&bytes).values()
    }

    /// Whether the rotary pairs of query and key rows are split halves (safetensors) rather than neighbours (GGUF).
    pub fn split_halves(&self) -> bool {
        self.tensors
            .get(&Role::Layer(0, Part::Query))
            .is_some_and(|e| e.split_halves)
    }
}

impl Entry {
    fn read(&self) -> Result<Vec<u8>, ImportError> {
        let mut reader = Reader::open(&self.file)?;
        reader.seek(self.offset)?;
        reader.bytes(&self.name, self.bytes)
    }

    fn raw<'a>(&'a self, bytes: &'a [u8]) -> RawTensor<'a> {
        RawTensor {
            name: &self.name,
            format: self.format,
            rows: self.rows,
            columns: self.columns,
            bytes,
        }
    }
}
