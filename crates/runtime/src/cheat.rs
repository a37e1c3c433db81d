//! Providers that cheat, for devnets that show what happens to one: never for paid work. What a cheat sells is signed like an honest answer.

use crate::backend::{
    Backend, CancelFlag, Emit, Generation, ModelFacts, Piece, Prepared, RunError,
};
use std::ops::ControlFlow;
use std::sync::Arc;
use stoa_nodes::message::RefusalReason;
use stoa_nodes::work::{Input, Prompt, Work};
use stoa_types::FinishReason;
use stoa_verify::{read_vectors, vector_line};

/// How a provider cheats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cheat {
    /// Sells under the model's name what costs nothing to make: the prompt's own tokens again, in place of a smaller model's; for vectors,
    /// those of each input's first letter.
    SwapModel,
    /// Changes the first token of the right answer, or the last bit of the first element of its first vector.
    AlterOutput,
    /// Counts four prompt tokens more than there are.
    Overcount,
    /// Takes the work and says nothing more, until it is told to stop.
    NoDelivery,
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
            Cheat::NoDelivery => Ok(silence(cancel)),
            Cheat::AlterOutput => {
                let mut first = true;
                let vectors = prepared.work.prompt.vectors().is_some();
                self.honest.run(prepared, cancel, &mut |mut piece| {
                    let changes = std::mem::take(&mut first);
                    if vectors && changes {
                        piece.text = altered_line(&piece.text);
                        return emit(piece);
                    }
                    if let Some(token) = piece.tokens.first_mut().filter(|_| changes) {
                        *token ^= 1;
                    }
                    emit(piece)
                })
            }
            Cheat::SwapModel if prepared.work.prompt.vectors().is_some() => {
                self.honest.run(&beginnings(prepared), cancel, emit)
            }
            Cheat::SwapModel => Ok(repeat(prepared, cancel, emit)),
        }
    }
}

/// Waits for the end of whoever waits for an answer.
fn silence(cancel: &CancelFlag) -> Generation {
    while !cancel.is_cancelled() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    Generation {
        tool_calls: Vec::new(),
        finish_reason: FinishReason::Cancelled,
    }
}

/// The line with the last bit of its first element turned over.
fn altered_line(line: &str) -> String {
    let mut vectors = read_vectors(line).unwrap_or_default();
    if let Some(bits) = vectors.first_mut().and_then(|vector| vector.first_mut()) {
        *bits ^= 1;
    }
    let bytes = |vector: &Vec<u32>| -> Vec<u8> {
        let floats = vector.iter().map(|bits| bits.to_le_bytes());
        floats.flatten().collect()
    };
    vectors.iter().map(|v| vector_line(&bytes(v))).collect()
}

/// The work with nothing left of each input but its first letter or token.
fn beginnings(prepared: &Prepared) -> Prepared {
    let mut work = prepared.work.clone();
    if let Prompt::Embed { inputs, .. } = &mut work.prompt {
        for input in inputs {
            match input {
                Input::Text(text) => *text = text.chars().take(1).collect(),
                Input::Tokens(ids) => ids.truncate(1),
            }
        }
    }
    Prepared::new(work, prepared.prompt.clone())
}

/// The prompt's tokens, as many as were asked for.
fn repeat(prepared: &Prepared, cancel: &CancelFlag, emit: &mut Emit<'_>) -> Generation {
    let ended = |finish_reason| Generation {
        tool_calls: Vec::new(),
        finish_reason,
    };
    let most = usize::try_from(prepared.work.sampling.max_output_tokens).unwrap_or(usize::MAX);
    for token in prepared.prompt.iter().cycle().take(most) {
        let goes_on = emit(Piece::new(vec![*token], format!("{token} ")));
        if cancel.is_cancelled() || goes_on == ControlFlow::Break(()) {
            return ended(FinishReason::Cancelled);
        }
    }
    ended(FinishReason::Length)
}
