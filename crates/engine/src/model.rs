//! A loaded model: integer weights, tokenizer, template, root.

use crate::chat::ChatTemplate;
use crate::config::Config;
use crate::error::{EngineError, ImportError};
use crate::import::{Checkpoint, MemoryEstimate, Part, Role};
use crate::kernel::Kernel;
use crate::ops::{self, Norm};
use crate::packed::PackedMatrix;
use crate::root;
use crate::tokenizer::{Tokenizer, TokenizerSource};
use std::path::Path;
use std::sync::OnceLock;
use stoa_types::Digest;

/// How to load a model.
#[derive(Debug, Clone, Copy, Default)]
pub struct LoadOptions {
    /// Most bytes that weights and one full context may take; `None` sets no limit.
    pub memory_limit: Option<u64>,
    /// Inner loops; `None` takes the fastest.
    pub kernel: Option<Kernel>,
}

/// What a model is, for listings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelInfo {
    /// Name from the file.
    pub name: String,
    /// Most positions.
    pub context: usize,
    /// Tokens of the vocabulary.
    pub vocab: usize,
    /// Parameters of the file's tensors.
    pub parameters: u64,
    /// Bytes of integer weights in memory.
    pub bytes: u64,
    /// Inner loops in use.
    pub kernel: &'static str,
}

/// Weights of one layer.
#[derive(Debug)]
pub(crate) struct Layer {
    pub attention_norm: Norm,
    pub query: PackedMatrix,
    pub key: PackedMatrix,
    pub value: PackedMatrix,
    pub attention_output: PackedMatrix,
    pub ffn_norm: Norm,
    pub gate: PackedMatrix,
    pub up: PackedMatrix,
    pub down: PackedMatrix,
}

/// All weights.
#[derive(Debug)]
pub(crate) struct Weights {
    pub embedding: PackedMatrix,
    pub output_norm: Norm,
    /// Absent when the embedding serves.
    pub output: Option<PackedMatrix>,
    pub layers: Vec<Layer>,
}

/// A model ready to run. Shared between sessions.
#[derive(Debug)]
pub struct Model {
    info: ModelInfo,
    config: Config,
    weights: Weights,
    tokenizer: Tokenizer,
    tokenizer_source: TokenizerSource,
    template: Option<ChatTemplate>,
    root: OnceLock<Digest>,
    kernel: Kernel,
    query_factor: i64,
}

impl Model {
    /// Loads a GGUF file or a safetensors folder with the fastest inner loops and no memory limit.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, ImportError> {
        Self::open_with(path, LoadOptions::default())
    }

    /// Memory that the model at `path` will take; reads its description only.
    pub fn memory_estimate(path: impl AsRef<Path>) -> Result<MemoryEstimate, ImportError> {
        Ok(Checkpoint::open(path.as_ref())?.memory_estimate())
    }

    /// Loads a model. One that does not fit the limit is refused before any weight is read.
    pub fn open_with(path: impl AsRef<Path>, options: LoadOptions) -> Result<Self, ImportError> {
        let checkpoint = Checkpoint::open(path.as_ref())?;
        let estimate = checkpoint.memory_estimate();
        if let Some(limit) = options
            .memory_limit
            .filter(|limit| estimate.peak() > *limit)
        {
            return Err(ImportError::TooLarge {
                need: estimate.peak(),
                weights: estimate.weights,
                cache: estimate.cache,
                limit,
            });
        }
        Self::load(&checkpoint, options.kernel.unwrap_or_else(Kernel::best))
    }

    fn load(checkpoint: &Checkpoint, kernel: Kernel) -> Result<Self, ImportError> {
        // The small and fragile things first: a broken template is told before gigabytes are read.
        let tokenizer = Tokenizer::new(checkpoint.tokenizer())?;
        let template = checkpoint.template().map(ChatTemplate::new).transpose()?;
        let mut config = checkpoint.config().clone();
        if tokenizer.is_empty() {
            return Err(ImportError::Tokenizer("it has no tokens".to_owned()));
        }
        // Rows beyond the tokenizer are padding: they have no text and are never chosen.
        config.vocab = config.vocab.min(tokenizer.len());
        let weights = Weights::load(checkpoint, config.layers)?;
        let info = ModelInfo {
            name: checkpoint.name().to_owned(),
            context: config.context,
            vocab: config.vocab,
            parameters: checkpoint.parameters(),
            bytes: checkpoint.memory_estimate().weights,
            kernel: kernel.name(),
        };
        Ok(Self {
            query_factor: ops::query_factor(config.head_width),
            info,
            config,
            weights,
            tokenizer,
            tokenizer_source: checkpoint.tokenizer().clone(),
            template,
            root: OnceLock::new(),
            kernel,
        })
    }

    /// What it is.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// Its shape.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Its tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Inner loops in use.
    pub fn kernel(&self) -> Kernel {
        self.kernel
    }

    /// Chat template, when it has one.
    pub fn template(&self) -> Option<&str> {
        self.template.as_ref().map(ChatTemplate::source)
    }

    /// Root of semantics, shape, tables, tokenizer, template and every weight row. Computed at the first call, about a second
    /// per 100 MB of weights.
    pub fn root(&self) -> Digest {
        *self.root.get_or_init(|| {
            root::model_root(
                &self.config,
                &self.tokenizer_source,
                self.template(),
                &self.weights,
            )
        })
    }

    /// The prompt for a chat. `messages` and `tools` are JSON arrays in OpenAI's form.
    pub fn render_chat(
        &self,
        messages: &str,
        tools: Option<&str>,
        add_generation_prompt: bool,
    ) -> Result<String, EngineError> {
        let template = self.template.as_ref().ok_or(EngineError::NoTemplate)?;
        let text =
            |id: Option<u32>| id.map_or(String::new(), |id| self.tokenizer.decode(&[id], true));
        let (begin, _) = self.tokenizer.begin();
        let (begin, end) = (text(begin), text(self.tokenizer.eos()));
        template.render(messages, tools, add_generation_prompt, &begin, &end)
    }

    pub(crate) fn weights(&self) -> &Weights {
        &self.weights
    }

    pub(crate) fn query_factor(&self) -> i64 {
        self.query_factor
    }
}

impl Weights {
    fn load(checkpoint: &Checkpoint, layers: usize) -> Result<Self, ImportError> {
        let norm = |role| -> Result<Norm, ImportError> {
            let (g, exponent) = checkpoint.norm(role)?;
            Ok(Norm { g, exponent })
        };
        let output = if checkpoint.has(Role::Output) {
            Some(checkpoint.matrix(Role::Output)?)
        } else {
            None
        };
        let layer = |index: u32| -> Result<Layer, ImportError> {
            let matrix = |part| checkpoint.matrix(Role::Layer(index, part));
            Ok(Layer {
                attention_norm: norm(Role::Layer(index, Part::AttentionNorm))?,
                query: matrix(Part::Query)?,
                key: matrix(Part::Key)?,
                value: matrix(Part::Value)?,
                attention_output: matrix(Part::AttentionOutput)?,
                ffn_norm: norm(Role::Layer(index, Part::FfnNorm))?,
                gate: matrix(Part::Gate)?,
                up: matrix(Part::Up)?,
                down: matrix(Part::Down)?,
            })
        };
        Ok(Self {
            embedding: checkpoint.matrix(Role::Embedding)?,
            output_norm: norm(Role::OutputNorm)?,
            output,
            layers: (0..layers as u32).map(layer).collect::<Result<_, _>>()?,
        })
    }
}
