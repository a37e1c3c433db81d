//! Providers that cheat, for devnets that show what happens to one: never for paid work. What a cheat sells is signed like an honest answer.

use crate::backend::{Backend, CancelFlag, Emit, Generation, ModelFacts, Prepared, RunError};
use std::ops::ControlFlow;
use std::sync::Arc;
use stoa_nodes::message::RefusalReason;
use stoa_nodes::work::Work;
use stoa_types::FinishReason;

/// How a provider cheats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cheat {
    /// Sells under the model's name what costs nothing to make: the prompt's own tokens again, in place of a smaller model's.
    SwapModel,
    /// Changes the first token of the right answer.
    AlterOutput,
    /// Counts four prompt tokens more than there are.
    Overcount,
}

/// An honest backend in the hands of a cheat.
pub struct CheatingBackend {
    honest: Arc<dyn Backend>,
    cheat: Cheat,
}

impl CheatingBackend {
    /// Cheats with the answers of `honest`.
    pub fn new(honest: Arc<dyn Backend>, cheat: Cheat) -> Self {
        Self { honest, cheat }
    }
}

impl Backend for CheatingBackend {
    fn facts(&self) -> &ModelFacts {
        self.honest.facts()
    }

    fn prepare(&self, work: &Work) -> Result<Prepared, RefusalReason> {
        let mut prepared = self.honest.prepare(work)?;
        if self.cheat == Cheat::Overcount {
            prepared.facts.input_units += 4;
        }
        Ok(prepared)
    }

    fn run(
        &self,
        prepared: &Prepared,
        cancel: &CancelFlag,
        emit: &mut Emit<'_>,
    ) -> Result<Generation, RunError> {
        match self.cheat {
            Cheat::Overcount => self.honest.run(prepared, cancel, emit),
            Cheat::AlterOutput => {
                let mut first = true;
                self.honest.run(prepared, cancel, &mut |mut tokens, text| {
                    let changes = std::mem::take(&mut first);
                    if let Some(token) = tokens.first_mut().filter(|_| changes) {
                        *token ^= 1;
                    }
                    emit(tokens, text)
                })
            }
            Cheat::SwapModel => Ok(repeat(prepared, cancel, emit)),
        }
    }
}

/// The prompt's tokens, as many as were asked for.
fn repeat(prepared: &Prepared, cancel: &CancelFlag, emit: &mut Emit<'_>) -> Generation {
    let ended = |finish_reason| Generation {
        tool_calls: Vec::new(),
        finish_reason,
    };
    let most = usize::try_from(prepared.work.sampling.max_output_tokens).unwrap_or(usize::MAX);
    for token in prepared.prompt.iter().cycle().take(most) {
        let goes_on = emit(vec![*token], format!("{token} "));
        if cancel.is_cancelled() || goes_on == ControlFlow::Break(()) {
            return ended(FinishReason::Cancelled);
        }
    }
    ended(FinishReason::Length)
}
