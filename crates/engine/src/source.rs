//! What a model is opened from: a file of weights, or a pack.

use crate::config::Config;
use crate::error::ImportError;
use crate::import::{Checkpoint, MemoryEstimate, Tensors};
use crate::pack::{self, Pack, is_pack};
use crate::tokenizer::TokenizerSource;
use std::path::Path;
use stoa_types::Digest;

/// A model on disk, its description checked.
#[derive(Debug)]
pub enum Source {
    /// Weights as they were published.
    Checkpoint(Box<Checkpoint>),
    /// Weights as they are computed with.
    Pack(Box<Pack>),
}

/// What both kinds have.
macro_rules! either {
    ($self:ident, $source:ident => $value:expr) => {
        match $self {
            Self::Checkpoint($source) => $value,
            Self::Pack($source) => $value,
        }
    };
}

impl Source {
    /// Opens a GGUF file, a folder with `config.json`, `tokenizer.json` and safetensors, or a pack, which is mapped ([`Pack::open`]).
    pub fn open(path: &Path) -> Result<Self, ImportError> {
        Self::open_with(path, true)
    }

    /// The same; a pack is mapped or copied into memory.
    pub(crate) fn open_with(path: &Path, map: bool) -> Result<Self, ImportError> {
        if !is_pack(path) {
            return Ok(Self::Checkpoint(Box::new(Checkpoint::open(path)?)));
        }
        let pack = if map {
            Pack::open(path)
        } else {
            Pack::read(path)
        };
        Ok(Self::Pack(Box::new(pack?)))
    }

    /// Shape of the model at `path` and the memory that it will take, from its description alone.
    pub(crate) fn memory_estimate_of(path: &Path) -> Result<(Config, MemoryEstimate), ImportError> {
        if is_pack(path) {
            return pack::memory_estimate(path);
        }
        let checkpoint = Checkpoint::open(path)?;
        Ok((checkpoint.config().clone(), checkpoint.memory_estimate()))
    }

    /// Name of the model, as its file gives it.
    pub fn name(&self) -> &str {
        either!(self, s => s.name())
    }

    /// Shape of the model.
    pub fn config(&self) -> &Config {
        either!(self, s => s.config())
    }

    /// Shape of the model with the vocabulary that its tokenizer of this many tokens has.
    pub(crate) fn config_for(&self, tokens: usize) -> Result<Config, ImportError> {
        match self {
            Self::Checkpoint(checkpoint) => checkpoint.config().with_tokens(tokens),
            Self::Pack(pack) => pack.config_for(tokens),
        }
    }

    /// Source of the tokenizer.
    pub fn tokenizer(&self) -> &TokenizerSource {
        either!(self, s => s.tokenizer())
    }

    /// Chat template, when the file has one.
    pub fn template(&self) -> Option<&str> {
        either!(self, s => s.template())
    }

    /// Parameters of the tensors.
    pub fn parameters(&self) -> u64 {
        either!(self, s => s.parameters())
    }

    /// Memory that this model will take.
    pub fn memory_estimate(&self) -> MemoryEstimate {
        either!(self, s => s.memory_estimate())
    }

    /// The model root that a pack states.
    pub(crate) fn stated_root(&self) -> Option<Digest> {
        match self {
            Self::Checkpoint(_) => None,
            Self::Pack(pack) => Some(pack.claimed_root()),
        }
    }

    /// All tensors. `progress` hears the bytes that were read and all of them, of a file of weights.
    pub fn load(&self, progress: &mut dyn FnMut(u64, u64)) -> Result<Tensors, ImportError> {
        match self {
            Self::Checkpoint(checkpoint) => checkpoint.load(progress),
            Self::Pack(pack) => pack.load(),
        }
    }
}
