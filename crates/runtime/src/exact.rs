//! The integer engine as a backend: answers that anyone can recompute bit for bit.

use crate::answer::{AnswerStream, End, Shape};
use crate::backend::{
    Backend, CancelFlag, Emit, Generation, ModelFacts, Piece, Prepared, RunError,
};
use crate::grammars::Grammars;
use crate::memory::available_memory;
use crate::prompt::{PromptMaker, check_sampling, message_overhead, reasons, unsupported};
use crate::serving::Serving;
use crate::templates::{RenderError, Templates};
use crate::vectors;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, Mutex};
use stoa_engine::{
    EngineError, Finish, ImportError, LoadOptions, MemoryEstimate, Model, SchedulerOptions, Stats,
    THREADS_MAX, TextOptions, TokenEvent, semantics_digest,
};
use stoa_grammar::Compiled;
use stoa_nodes::message::RefusalReason;
use stoa_nodes::work::{Prompt, Work};
use stoa_types::Tier;

/// How to open a model.
#[derive(Debug, Clone, Default)]
pub struct ExactOptions {
    /// Name to offer it under; the file's own when absent.
    pub name: Option<String>,
    /// Jobs at once. 0 counts as 1.
    pub slots: u32,
    /// Longest context that is offered, prompt and answer together; the model's own when absent or longer.
    pub context_max: Option<u32>,
    /// Bytes that may be used; what the machine has free when absent.
    pub memory_limit: Option<u64>,
    /// Threads that compute; 0 for as many as the machine has processors.
    pub threads: u32,
    /// It is a pack of a store: takes the root that it states, which was compared when it was imported, and maps it, since nobody changes it.
    /// Any other pack is copied into memory.
    pub trust_root: bool,
    /// Where its chat template is rendered.
    pub templates: Templates,
    /// Where the grammars of its callers are tried before they are made.
    pub grammars: Grammars,
}

/// Why a model was not opened. Nothing of it is in memory.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Said before any weight is read.
    #[error(
        "the model needs {need} bytes of memory ({weights} for weights and {cache} for one full context) and {available} are \
         available; choose a smaller model, or a smaller `engine.context_max`"
    )]
    TooLarge {
        /// Bytes needed in sum.
        need: u64,
        /// Bytes of weights.
        weights: u64,
        /// Bytes of one full context.
        cache: u64,
        /// Bytes available.
        available: u64,
    },
    /// The system gave no threads to compute with.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The file is no model, or not one that this engine runs.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// What the template writes around messages could not be found out.
    #[error("the chat template was not tried: {0}")]
    Template(#[from] RenderError),
    /// Its template refuses every chat: who asked it would be refused, whatever they ask.
    #[error(
        "{0}; no chat that was tried passes it: take a file of the model with another template, or with none, which serves text completions alone"
    )]
    NoChat(EngineError),
    /// They cannot be looked for in what clients send.
    #[error("the tokenizer has too many control tokens: {0}")]
    ControlTokens(#[from] aho_corasick::BuildError),
}

/// A model on the integer engine. Clones share the weights.
#[derive(Debug, Clone)]
pub struct ExactBackend {
    model: Arc<Model>,
    facts: ModelFacts,
    prompts: Arc<PromptMaker>,
    serving: Arc<Serving>,
    memory: u64,
    /// Held while vectors are made.
    vector_turns: Arc<Mutex<()>>,
}

impl ExactBackend {
    /// Opens a GGUF file, a safetensors folder or a pack, if it fits into memory, and starts the thread that serves it. Computes its
    /// root, which takes about a third of a second per 100 MB where the file is no pack whose root is trusted.
    pub fn open(path: impl AsRef<Path>, options: &ExactOptions) -> Result<Self, OpenError> {
        let path = path.as_ref();
        let limit = options.memory_limit.or_else(available_memory);
        let estimate = Model::memory_estimate_within(path, options.context_max)?;
        let cache_bytes = cache_bytes(estimate, options.slots, limit)?;
        let load = LoadOptions {
            trust_root: options.trust_root,
            map: options.trust_root,
            ..LoadOptions::default()
        };
        let model = Arc::new(Model::open_with(path, load)?);
        let context = u32::try_from(model.info().context).unwrap_or(u32::MAX);
        let facts = ModelFacts {
            model: (options.name.clone()).unwrap_or_else(|| model.info().name.clone()),
            model_root: model.root(),
            runtime_digest: semantics_digest(),
            tier: Tier::Exact,
            context: context.min(options.context_max.unwrap_or(u32::MAX)),
            quantization: "iq8".to_owned(),
            message_overhead: message_overhead(&model, &options.templates)?,
            reasons: reasons(&model, &options.templates)?,
        };
        let threads = match options.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads as usize,
        };
        let serving = SchedulerOptions {
            threads: threads.min(THREADS_MAX),
            cache_bytes,
            answers: options.slots.max(1) as usize,
            guesses: true,
        };
        Ok(Self {
            serving: Arc::new(Serving::start(&model, serving)?),
            vector_turns: Arc::default(),
            prompts: Arc::new(PromptMaker::new(
                &model,
                options.templates.clone(),
                options.grammars.clone(),
            )?),
            memory: model.info().bytes.saturating_add(cache_bytes),
            model,
            facts,
        })
    }

    /// What its engine did and holds.
    pub fn stats(&self) -> Stats {
        self.serving.stats()
    }

    /// Whether a prompt fits. An answer ends where the model's own context does; where a shorter one is offered it has to fit too, or who
    /// computes it again would find it cut too early.
    fn check_context(&self, prompt: usize, answer: u32) -> Result<(), RefusalReason> {
        let (tokens, own) = (prompt as u64, self.model.info().context as u64);
        if tokens > own {
            let context = own;
            return Err(RefusalReason::ContextLength { tokens, context });
        }
        let (together, offered) = (tokens + u64::from(answer), u64::from(self.facts.context));
        if offered < own && together > offered {
            return Err(RefusalReason::Limit {
                parameter: "max_tokens".to_owned(),
                reason: format!(
                    "prompt and answer may take {together} tokens together, and the provider has room for {offered}"
                ),
            });
        }
        Ok(())
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Bytes of the weights, and of all that keys and values may take.
    pub(crate) fn memory(&self) -> u64 {
        self.memory
    }
}

/// Twice what all slots with full contexts need, so that beginnings are kept beside them.
pub(crate) fn cache_wished(estimate: MemoryEstimate, slots: u32) -> u64 {
    estimate.cache.saturating_mul(2 * u64::from(slots.max(1)))
}

/// Memory for keys and values: what is wished, and no more than
/// is left beside the weights. Less than one full context is refused: then some prompt could never be answered.
fn cache_bytes(estimate: MemoryEstimate, slots: u32, limit: Option<u64>) -> Result<u64, OpenError> {
    let wished = cache_wished(estimate, slots);
    let Some(available) = limit else {
        return Ok(wished);
    };
    let need = estimate
        .weights
        .saturating_add(estimate.cache.max(estimate.loading));
    if need > available {
        return Err(OpenError::TooLarge {
            need,
            weights: estimate.weights,
            cache: estimate.cache,
            available,
        });
    }
    // The system and other programs get something too.
    let left = available - estimate.weights;
    Ok(wished.min((left - left / 8).max(estimate.cache)))
}

impl Backend for ExactBackend {
    fn facts(&self) -> &ModelFacts {
        &self.facts
    }

    fn prepare(&self, work: &Work) -> Result<Prepared, RefusalReason> {
        if let Prompt::Embed { inputs, dimensions } = &work.prompt {
            let model = (&*self.model, self.facts.context);
            return vectors::prepare(model, work, inputs, *dimensions);
        }
        if self.model.config().architecture.encoder.is_some() {
            return Err(unsupported("model", EngineError::Encoder.to_string()));
        }
        check_sampling(&work.sampling, Some(self.model.info().vocab))?;
        let shape = self.prompts.shape(work)?;
        let prompt = self.prompts.tokens(&self.model, &work.prompt, &shape)?;
        self.check_context(prompt.len(), work.sampling.max_output_tokens)?;
        let grammar = self.prompts.grammar(&self.model, work, &shape)?;
        Ok(Prepared {
            grammar,
            ..Prepared::new(work.clone(), prompt)
        })
    }

    fn run(
        &self,
        prepared: &Prepared,
        cancel: &CancelFlag,
        emit: &mut Emit<'_>,
    ) -> Result<Generation, RunError> {
        if let Prompt::Embed { inputs, dimensions } = &prepared.work.prompt {
            let model = (&self.model, &*self.vector_turns);
            return vectors::run(model, inputs, *dimensions, cancel, emit);
        }
        let failed = |reason| RunError::Failed(format!("{reason:?}"));
        let shape = self.prompts.shape(&prepared.work).map_err(failed)?;
        let options = TextOptions {
            render_special: matches!(shape, Shape::Tools { .. }),
        };
        let constraint = prepared.grammar.as_ref().map(Compiled::begin);
        let mut judge = Judge {
            stream: Some(AnswerStream::new(&shape)),
            end: None,
        };
        let (prompt, sampling) = (&prepared.prompt, &prepared.work.sampling);
        let generation = stoa_engine::Generation::new(&self.model, prompt.len(), sampling, options)
            .held_to(constraint);
        let on_token = |event: &TokenEvent| match judge.text(event) {
            Some(text) => emit(Piece {
                tokens: vec![event.id],
                text,
                logprobs: event.logprobs.as_deref().cloned().into_iter().collect(),
            }),
            None => ControlFlow::Break(()),
        };
        let finish = self
            .serving
            .answer(prepared.tenant, prompt, generation, cancel, on_token)?;
        let end = judge.end(finish).map_err(RunError::Failed)?;
        Ok(Generation {
            tool_calls: end.tool_calls,
            finish_reason: end.finish_reason,
        })
    }
}

/// Follows a generation token by token and judges it at its last one.
struct Judge<'a> {
    stream: Option<AnswerStream<'a>>,
    end: Option<Result<End, String>>,
}

impl Judge<'_> {
    /// Text that leaves with a token. The last token leaves with the text that had to wait for it; `None` when the answer turned
    /// out not to be what was demanded.
    fn text(&mut self, event: &TokenEvent) -> Option<String> {
        let mut text = self.stream.as_mut()?.push(&event.text);
        if let Some(finish) = event.finish {
            let end = self.stream.take()?.finish(finish);
            text.push_str(end.as_ref().map_or("", |end| &end.tail));
            let met = end.is_ok();
            self.end = Some(end);
            return met.then_some(text);
        }
        Some(text)
    }

    /// The end; without a last token the generation was cancelled, or none was asked for.
    fn end(self, finish: Finish) -> Result<End, String> {
        match (self.end, self.stream) {
            (Some(end), _) => end,
            (None, Some(stream)) => stream.finish(finish),
            (None, None) => Err("the engine went on after its last token".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_that_does_not_fit_is_refused_with_its_figures_and_one_that_does_gets_what_is_left() {
        let estimate = MemoryEstimate {
            weights: 100,
            cache: 10,
            loading: 30,
        };
        let cache = |slots, limit| cache_bytes(estimate, slots, limit);
        let error = cache(1, Some(129)).expect_err("loading").to_string();
        for figure in ["130 bytes", "100 for weights", "10 for one", "129"] {
            assert!(error.contains(figure), "{error}");
        }
        assert_eq!(cache(3, None).ok(), Some(60));
        assert_eq!(cache(3, Some(1_000)).ok(), Some(60));
        assert_eq!(
            cache(3, Some(140)).ok(),
            Some(35),
            "an eighth is left alone"
        );
        let tight = MemoryEstimate {
            loading: 0,
            ..estimate
        };
        assert_eq!(cache_bytes(tight, 9, Some(110)).ok(), Some(10));
    }
}
