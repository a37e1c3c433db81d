//! A loaded model: integer weights, tokenizer, template, root.

use crate::cache::CacheShape;
use crate::chat::{ChatTemplate, Rendering};
use crate::config::{Architecture, Config};
use crate::error::{EngineError, ImportError};
use crate::import::{Loss, MemoryEstimate, Part, Role, Tensors};
use crate::kernel::Kernel;
use crate::ops::Norm;
use crate::packed::PackedMatrix;
use crate::root;
use crate::source::Source;
use crate::tokenizer::{Tokenizer, TokenizerSource};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::OnceLock;
use stoa_crypto::MerkleTree;
use stoa_types::Digest;

/// How to load a model.
#[derive(Debug, Clone, Copy, Default)]
pub struct LoadOptions {
    /// Most bytes that weights and one full context may take; `None` sets no limit.
    pub memory_limit: Option<u64>,
    /// Inner loops; `None` takes the fastest.
    pub kernel: Option<Kernel>,
    /// Takes the model root that a pack states instead of computing it: only for packs whose root was once compared with their
    /// bytes, and which are named by their digest.
    pub trust_root: bool,
    /// Maps a pack instead of copying it into memory: only for packs of a store, which nobody changes. The numbers of any other would change
    /// with its file after they were checked, and the process would end where it is cut short.
    pub map: bool,
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
    /// What the matrices lost when they were quantised, by their format in the file.
    pub losses: Vec<Loss>,
}

/// A matrix and what is added to its products.
#[derive(Debug)]
pub(crate) struct Linear {
    pub matrix: PackedMatrix,
    /// 16 fraction bits; empty where there is none.
    pub bias: Vec<i32>,
}

/// Matrices of a feed-forward network with a gate.
#[derive(Debug)]
pub(crate) struct Gated {
    pub gate: PackedMatrix,
    pub up: PackedMatrix,
    pub down: PackedMatrix,
}

/// A mixture of experts.
#[derive(Debug)]
pub(crate) struct Mixture {
    /// What chooses each expert.
    pub routers: Vec<Norm>,
    pub experts: Vec<Gated>,
    /// The expert that every token passes, and the row that says how much it counts.
    pub shared: Option<(Gated, Norm)>,
}

/// What follows a layer's attention.
#[derive(Debug)]
pub(crate) enum FeedForward {
    /// SwiGLU.
    Gated(Gated),
    /// GELU without a gate.
    Plain { up: Linear, down: Linear },
    /// Some of many.
    Experts(Mixture),
}

/// Weights of a norm and what is added afterwards.
#[derive(Debug)]
pub(crate) struct LayerNorm {
    pub norm: Norm,
    /// 16 fraction bits; empty where there is none.
    pub bias: Vec<i32>,
}

/// Weights of one layer.
#[derive(Debug)]
pub(crate) struct Layer {
    pub attention_norm: LayerNorm,
    pub query: Linear,
    pub key: Linear,
    pub value: Linear,
    /// Norms of query and key heads.
    pub head_norms: Option<[Norm; 2]>,
    pub attention_output: Linear,
    pub ffn_norm: LayerNorm,
    pub feed_forward: FeedForward,
}

/// Tables that an encoder adds to the embedding, and the norm of the sum.
#[derive(Debug)]
pub(crate) struct EncoderWeights {
    pub positions: PackedMatrix,
    pub token_types: PackedMatrix,
    pub norm: LayerNorm,
}

/// All weights.
#[derive(Debug)]
pub(crate) struct Weights {
    pub embedding: PackedMatrix,
    /// Absent from an encoder.
    pub output_norm: Option<Norm>,
    pub encoder: Option<EncoderWeights>,
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
    /// Loads a GGUF file, a safetensors folder or a pack with the fastest inner loops and no memory limit.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, ImportError> {
        Self::open_with(path, LoadOptions::default())
    }

    /// Memory that the model at `path` will take; reads its description only.
    pub fn memory_estimate(path: impl AsRef<Path>) -> Result<MemoryEstimate, ImportError> {
        Self::memory_estimate_within(path, None)
    }

    /// [`Self::memory_estimate`] where no sequence grows beyond `context`.
    pub fn memory_estimate_within(
        path: impl AsRef<Path>,
        context: Option<u32>,
    ) -> Result<MemoryEstimate, ImportError> {
        let (config, estimate) = Source::memory_estimate_of(path.as_ref())?;
        let most = context.map_or(config.context, |most| config.context.min(most as usize));
        Ok(MemoryEstimate {
            cache: CacheShape::of(&config).bytes(most),
            ..estimate
        })
    }

    /// Loads a model. One that does not fit the limit is refused before any weight is read.
    pub fn open_with(path: impl AsRef<Path>, options: LoadOptions) -> Result<Self, ImportError> {
        let path = path.as_ref();
        if let Some(limit) = options.memory_limit {
            let estimate = Self::memory_estimate(path)?;
            if estimate.peak() > limit {
                return Err(ImportError::TooLarge {
                    need: estimate.peak(),
                    weights: estimate.weights,
                    cache: estimate.cache,
                    limit,
                });
            }
        }
        Self::load(&Source::open_with(path, options.map)?, options)
    }

    fn load(source: &Source, options: LoadOptions) -> Result<Self, ImportError> {
        let kernel = options.kernel.unwrap_or_else(Kernel::best);
        // The small and fragile things first: a broken template is told before gigabytes are read.
        let tokenizer = Tokenizer::new(source.tokenizer())?;
        let template = source.template().map(ChatTemplate::new).transpose()?;
        let config = source.config_for(tokenizer.len())?;
        let mut tensors = source.load(&mut |_, _| {})?;
        let weights = Weights::take(&mut tensors, &config)?;
        let info = ModelInfo {
            name: source.name().to_owned(),
            context: config.context,
            vocab: config.vocab,
            parameters: source.parameters(),
            bytes: source.memory_estimate().weights,
            kernel: kernel.name(),
            losses: tensors.losses,
        };
        Ok(Self {
            query_factor: config.query_factor(),
            info,
            config,
            weights,
            tokenizer,
            tokenizer_source: source.tokenizer().clone(),
            template,
            root: source
                .stated_root()
                .filter(|_| options.trust_root)
                .map_or_else(OnceLock::new, OnceLock::from),
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

    /// Root of semantics, shape, tables, tokenizer, template and every weight row. Computed at the first call, about a third of a
    /// second per 100 MB of weights.
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

    /// The tree of the root, and the first leaf of each tensor: for openings. Computed at each call.
    pub(crate) fn root_tree(&self) -> (MerkleTree, BTreeMap<u32, usize>) {
        let (config, template) = (&self.config, self.template());
        root::model_tree(config, &self.tokenizer_source, template, &self.weights)
    }

    /// The prompt for a chat. `messages` and `tools` are JSON arrays in OpenAI's form.
    pub fn render_chat(
        &self,
        messages: &str,
        tools: Option<&str>,
        add_generation_prompt: bool,
    ) -> Result<String, EngineError> {
        self.render_chat_with(messages, tools, "", add_generation_prompt)
    }

    /// The same with further arguments for the template: a JSON object, or empty.
    pub fn render_chat_with(
        &self,
        messages: &str,
        tools: Option<&str>,
        arguments: &str,
        add_generation_prompt: bool,
    ) -> Result<String, EngineError> {
        let rendering = self.rendering(messages, tools, arguments, add_generation_prompt);
        rendering?.render()
    }

    /// What [`Model::render_chat_with`] renders.
    pub fn rendering<'a>(
        &'a self,
        messages: &'a str,
        tools: Option<&'a str>,
        arguments: &'a str,
        add_generation_prompt: bool,
    ) -> Result<Rendering<'a>, EngineError> {
        let template = self.template().ok_or(EngineError::NoTemplate)?;
        let text =
            |id: Option<u32>| id.map_or(String::new(), |id| self.tokenizer.decode(&[id], true));
        let (begin, _) = self.tokenizer.begin();
        Ok(Rendering {
            template: template.into(),
            messages: messages.into(),
            tools: tools.map(Cow::from),
            arguments: arguments.into(),
            add_generation_prompt,
            begin: text(begin).into(),
            end: text(self.tokenizer.eos()).into(),
            context: self.config.context,
        })
    }

    pub(crate) fn weights(&self) -> &Weights {
        &self.weights
    }

    pub(crate) fn query_factor(&self) -> i64 {
        self.query_factor
    }
}

/// A tensor as the model root sees it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Tensor<'a> {
    Matrix(&'a PackedMatrix),
    Norm(&'a Norm),
    Bias(&'a [i32]),
}

/// Tensors with their roles.
type Roles<'a> = Vec<(Role, Tensor<'a>)>;

impl Linear {
    fn take(
        tensors: &mut Tensors,
        role: impl Fn(Part) -> Role,
        parts: (Part, Part),
    ) -> Result<Self, ImportError> {
        Ok(Self {
            matrix: tensors.matrix(role(parts.0))?,
            bias: tensors.maybe_bias(role(parts.1))?,
        })
    }
}

impl LayerNorm {
    fn take(tensors: &mut Tensors, norm: Role, bias: Role) -> Result<Self, ImportError> {
        Ok(Self {
            norm: tensors.norm(norm)?,
            bias: tensors.maybe_bias(bias)?,
        })
    }
}

impl Gated {
    fn take(
        tensors: &mut Tensors,
        role: impl Fn(Part) -> Role,
        parts: [Part; 3],
    ) -> Result<Self, ImportError> {
        let [gate, up, down] = parts.map(|part| tensors.matrix(role(part)));
        Ok(Self {
            gate: gate?,
            up: up?,
            down: down?,
        })
    }

    fn tensors(&self, parts: [Part; 3]) -> impl Iterator<Item = (Part, Tensor<'_>)> {
        let matrices = [&self.gate, &self.up, &self.down].map(Tensor::Matrix);
        parts.into_iter().zip(matrices)
    }
}

const DENSE: [Part; 3] = [Part::Gate, Part::Up, Part::Down];
const SHARED: [Part; 3] = [Part::SharedGate, Part::SharedUp, Part::SharedDown];

fn expert(e: u32) -> [Part; 3] {
    [Part::ExpertGate(e), Part::ExpertUp(e), Part::ExpertDown(e)]
}

impl FeedForward {
    fn take(
        tensors: &mut Tensors,
        a: &Architecture,
        role: impl Fn(Part) -> Role + Copy,
    ) -> Result<Self, ImportError> {
        if a.encoder.is_some() {
            return Ok(Self::Plain {
                up: Linear::take(tensors, role, (Part::Up, Part::UpBias))?,
                down: Linear::take(tensors, role, (Part::Down, Part::DownBias))?,
            });
        }
        let Some(mixture) = a.experts else {
            return Ok(Self::Gated(Gated::take(tensors, role, DENSE)?));
        };
        let shared = if mixture.shared == 0 {
            None
        } else {
            let row = tensors.norm(role(Part::SharedRouter))?;
            Some((Gated::take(tensors, role, SHARED)?, row))
        };
        let numbers = 0..mixture.count as u32;
        let routers = numbers
            .clone()
            .map(|e| tensors.norm(role(Part::ExpertRouter(e))));
        let routers = routers.collect::<Result<_, _>>()?;
        let experts = numbers.map(|e| Gated::take(tensors, role, expert(e)));
        Ok(Self::Experts(Mixture {
            routers,
            experts: experts.collect::<Result<_, _>>()?,
            shared,
        }))
    }

    fn tensors(&self) -> Vec<(Part, Tensor<'_>)> {
        match self {
            Self::Gated(gated) => gated.tensors(DENSE).collect(),
            Self::Plain { up, down } => vec![
                (Part::Up, Tensor::Matrix(&up.matrix)),
                (Part::UpBias, Tensor::Bias(&up.bias)),
                (Part::Down, Tensor::Matrix(&down.matrix)),
                (Part::DownBias, Tensor::Bias(&down.bias)),
            ],
            Self::Experts(mixture) => {
                let routers = (0..).zip(&mixture.routers);
                let router = |(e, norm)| (Part::ExpertRouter(e), Tensor::Norm(norm));
                let mut all: Vec<_> = routers.map(router).collect();
                if let Some((shared, row)) = &mixture.shared {
                    all.extend(shared.tensors(SHARED));
                    all.push((Part::SharedRouter, Tensor::Norm(row)));
                }
                let experts = (0..).zip(&mixture.experts);
                all.extend(experts.flat_map(|(e, gated)| gated.tensors(expert(e))));
                all
            }
        }
    }
}

impl Layer {
    fn take(tensors: &mut Tensors, a: &Architecture, index: u32) -> Result<Self, ImportError> {
        let role = |part| Role::Layer(index, part);
        let head_norms = if a.head_norm {
            let query = tensors.norm(role(Part::QueryNorm))?;
            Some([query, tensors.norm(role(Part::KeyNorm))?])
        } else {
            None
        };
        let output = (Part::AttentionOutput, Part::AttentionOutputBias);
        let mut norm = |norm, bias| LayerNorm::take(tensors, role(norm), role(bias));
        Ok(Self {
            attention_norm: norm(Part::AttentionNorm, Part::AttentionNormBias)?,
            ffn_norm: norm(Part::FfnNorm, Part::FfnNormBias)?,
            query: Linear::take(tensors, role, (Part::Query, Part::QueryBias))?,
            key: Linear::take(tensors, role, (Part::Key, Part::KeyBias))?,
            value: Linear::take(tensors, role, (Part::Value, Part::ValueBias))?,
            attention_output: Linear::take(tensors, role, output)?,
            feed_forward: FeedForward::take(tensors, a, role)?,
            head_norms,
        })
    }

    fn tensors(&self) -> Vec<(Part, Tensor<'_>)> {
        let mut all = vec![
            (Part::AttentionNorm, Tensor::Norm(&self.attention_norm.norm)),
            (
                Part::AttentionNormBias,
                Tensor::Bias(&self.attention_norm.bias),
            ),
            (Part::Query, Tensor::Matrix(&self.query.matrix)),
            (Part::QueryBias, Tensor::Bias(&self.query.bias)),
            (Part::Key, Tensor::Matrix(&self.key.matrix)),
            (Part::KeyBias, Tensor::Bias(&self.key.bias)),
            (Part::Value, Tensor::Matrix(&self.value.matrix)),
            (Part::ValueBias, Tensor::Bias(&self.value.bias)),
            (
                Part::AttentionOutput,
                Tensor::Matrix(&self.attention_output.matrix),
            ),
            (
                Part::AttentionOutputBias,
                Tensor::Bias(&self.attention_output.bias),
            ),
            (Part::FfnNorm, Tensor::Norm(&self.ffn_norm.norm)),
            (Part::FfnNormBias, Tensor::Bias(&self.ffn_norm.bias)),
        ];
        if let Some([query, key]) = &self.head_norms {
            all.push((Part::QueryNorm, Tensor::Norm(query)));
            all.push((Part::KeyNorm, Tensor::Norm(key)));
        }
        all.extend(self.feed_forward.tensors());
        all
    }
}

impl Weights {
    /// Every tensor with its number in the model root, in the order of the numbers.
    pub fn tensors(&self) -> Vec<(u32, Tensor<'_>)> {
        let mut all: Roles<'_> = vec![(Role::Embedding, Tensor::Matrix(&self.embedding))];
        let norm = self.output_norm.iter().map(Tensor::Norm);
        all.extend(norm.map(|norm| (Role::OutputNorm, norm)));
        let output = self.output.iter().map(Tensor::Matrix);
        all.extend(output.map(|output| (Role::Output, output)));
        if let Some(encoder) = &self.encoder {
            all.extend([
                (Role::Positions, Tensor::Matrix(&encoder.positions)),
                (Role::TokenTypes, Tensor::Matrix(&encoder.token_types)),
                (Role::EmbeddingNorm, Tensor::Norm(&encoder.norm.norm)),
                (Role::EmbeddingNormBias, Tensor::Bias(&encoder.norm.bias)),
            ]);
        }
        for (index, layer) in (0..).zip(&self.layers) {
            let parts = layer.tensors().into_iter();
            all.extend(parts.map(|(part, tensor)| (Role::Layer(index, part), tensor)));
        }
        // A bias that a model does not have is empty.
        all.retain(|(_, tensor)| !matches!(tensor, Tensor::Bias([])));
        let mut numbered: Vec<_> = all
            .into_iter()
            .map(|(role, tensor)| (role.number(), tensor))
            .collect();
        numbered.sort_by_key(|(number, _)| *number);
        numbered
    }

    fn take(tensors: &mut Tensors, config: &Config) -> Result<Self, ImportError> {
        let a = &config.architecture;
        let output = if tensors.has(Role::Output) {
            Some(tensors.matrix(Role::Output)?)
        } else {
            None
        };
        let (output_norm, encoder) = match a.encoder {
            None => (Some(tensors.norm(Role::OutputNorm)?), None),
            Some(_) => {
                let (norm, bias) = (Role::EmbeddingNorm, Role::EmbeddingNormBias);
                let encoder = EncoderWeights {
                    positions: tensors.matrix(Role::Positions)?,
                    token_types: tensors.matrix(Role::TokenTypes)?,
                    norm: LayerNorm::take(tensors, norm, bias)?,
                };
                (None, Some(encoder))
            }
        };
        let layers = (0..config.layers as u32).map(|index| Layer::take(tensors, a, index));
        let layers = layers.collect::<Result<_, _>>()?;
        Ok(Self {
            embedding: tensors.matrix(Role::Embedding)?,
            output_norm,
            encoder,
            output,
            layers,
        })
    }
}
