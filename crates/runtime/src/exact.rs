//! The integer engine as a backend: answers that anyone can recompute bit for bit.

use crate::answer::{AnswerStream, End, Shape};
use crate::backend::{Backend, CancelFlag, Emit, Generation, ModelFacts, Prepared, RunError};
use crate::memory::available_memory;
use crate::prompt::{PromptMaker, message_overhead};
use crate::vectors;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use stoa_engine::{
    Finish, ImportError, LoadOptions, MemoryEstimate, Model, TextOptions, TokenEvent, generate,
    semantics_digest,
};
use stoa_nodes::message::RefusalReason;
use stoa_nodes::work::{Prompt, Work};
use stoa_types::Tier;

/// How to open a model.
#[derive(Debug, Clone, Default)]
pub struct ExactOptions {
    /// Name to offer it under; the file's own when absent.
    pub name: Option<String>,
    /// Jobs at once; each needs its own cache of a full context. 0 counts as 1.
    pub slots: u32,
    /// Bytes that may be used; what the machine has free when absent.
    pub memory_limit: Option<u64>,
}

/// Why a model was not opened. Nothing of it is in memory.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Said before any weight is read.
    #[error(
        "the model needs {need} bytes of memory ({weights} for weights and {cache} for each of {slots} jobs at once) and {available} \
         are available; choose a smaller model or fewer slots"
    )]
    TooLarge {
        /// Bytes needed in sum.
        need: u64,
        /// Bytes of weights.
        weights: u64,
        /// Bytes of one full context.
        cache: u64,
        /// Jobs at once.
        slots: u32,
        /// Bytes available.
        available: u64,
    },
    /// The file is no model, or not one that this engine runs.
    #[error(transparent)]
    Import(#[from] ImportError),
}

/// A model on the integer engine. Clones share the weights.
#[derive(Debug, Clone)]
pub struct ExactBackend {
    model: Arc<Model>,
    facts: ModelFacts,
    prompts: Arc<PromptMaker>,
}

impl ExactBackend {
    /// Opens a GGUF file or safetensors folder, if it fits into memory.
    pub fn open(path: impl AsRef<Path>, options: &ExactOptions) -> Result<Self, OpenError> {
        let path = path.as_ref();
        let limit = options.memory_limit.or_else(available_memory);
        if let Some(available) = limit {
            check_fit(
                Model::memory_estimate(path)?,
                options.slots.max(1),
                available,
            )?;
        }
        let model = Model::open_with(path, LoadOptions::default())?;
        Ok(Self::new(Arc::new(model), options.name.clone()))
    }

    /// Serves a model that is already loaded. Computes its root, which takes about a second per 100 MB.
    pub fn new(model: Arc<Model>, name: Option<String>) -> Self {
        let facts = ModelFacts {
            model: name.unwrap_or_else(|| model.info().name.clone()),
            model_root: model.root(),
            runtime_digest: semantics_digest(),
            tier: Tier::Exact,
            context: u32::try_from(model.info().context).unwrap_or(u32::MAX),
            quantization: "iq8".to_owned(),
            message_overhead: message_overhead(&model),
        };
        Self {
            prompts: Arc::new(PromptMaker::new(&model)),
            model,
            facts,
        }
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }
}

fn check_fit(estimate: MemoryEstimate, slots: u32, available: u64) -> Result<(), OpenError> {
    let caches = estimate.cache.saturating_mul(u64::from(slots));
    let need = estimate
        .weights
        .saturating_add(caches.max(estimate.loading));
    if need <= available {
        return Ok(());
    }
    Err(OpenError::TooLarge {
        need,
        weights: estimate.weights,
        cache: estimate.cache,
        slots,
        available,
    })
}

impl Backend for ExactBackend {
    fn facts(&self) -> &ModelFacts {
        &self.facts
    }

    fn prepare(&self, work: &Work) -> Result<Prepared, RefusalReason> {
        if let Prompt::Embed { inputs, dimensions } = &work.prompt {
            return vectors::prepare(&self.model, work, inputs, *dimensions);
        }
        let shape = self.prompts.shape(work)?;
        let prompt = self.prompts.tokens(&self.model, &work.prompt, &shape)?;
        let context = u64::from(self.facts.context);
        if prompt.len() as u64 > context {
            return Err(RefusalReason::ContextLength {
                tokens: prompt.len() as u64,
                context,
            });
        }
        Ok(Prepared::new(work.clone(), prompt))
    }

    fn run(
        &self,
        prepared: &Prepared,
        cancel: &CancelFlag,
        emit: &mut Emit<'_>,
    ) -> Result<Generation, RunError> {
        if let Prompt::Embed { inputs, dimensions } = &prepared.work.prompt {
            return vectors::run(&self.model, inputs, *dimensions, cancel, emit);
        }
        let shape = self
            .prompts
            .shape(&prepared.work)
            .map_err(|reason| RunError::Failed(format!("{reason:?}")))?;
        let options = TextOptions {
            render_special: matches!(shape, Shape::Tools { .. }),
        };
        let mut judge = Judge {
            stream: Some(AnswerStream::new(&shape)),
            end: None,
        };
        let answer = generate(
            &self.model,
            &prepared.prompt,
            &prepared.work.sampling,
            options,
            cancel.atomic(),
            |event| match judge.text(event) {
                Some(text) => emit(vec![event.id], text),
                None => ControlFlow::Break(()),
            },
        )
        .map_err(|error| RunError::Failed(error.to_string()))?;
        let end = judge.end(answer.finish).map_err(RunError::Failed)?;
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
    fn a_model_that_does_not_fit_is_refused_with_its_figures() {
        let estimate = MemoryEstimate {
            weights: 100,
            cache: 10,
            loading: 30,
        };
        assert!(check_fit(estimate, 4, 140).is_ok());
        let error = check_fit(estimate, 5, 140)
            .expect_err("one slot too many")
            .to_string();
        for figure in ["150 bytes", "100 for weights", "10 for each of 5", "140"] {
            assert!(error.contains(figure), "{error}");
        }
        assert!(
            check_fit(estimate, 1, 129).is_err(),
            "loading needs more than a cache"
        );
    }
}
