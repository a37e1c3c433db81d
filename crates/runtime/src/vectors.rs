//! Vectors of texts on the integer engine (0026): a unit for each input, its text a line that anyone can compute again.

use crate::backend::{CancelFlag, Emit, Generation, Piece, Prepared, RunError};
use crate::prompt::{known, refusal, unsupported};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::time::Duration;
use stoa_engine::{EngineError, Model, Session};
use stoa_nodes::message::RefusalReason;
use stoa_nodes::work::{AnswerShape, INPUTS_MAX, Input, Work};
use stoa_types::FinishReason;
use stoa_verify::{VECTOR_BYTES_MAX, VECTORS_BYTES_MAX, vector_line, vector_line_bytes};

/// Tokens of every input, if their vectors can be made and are ordered whole. With the model goes the longest input that it takes.
pub(crate) fn prepare(
    (model, context): (&Model, u32),
    work: &Work,
    inputs: &[Input],
    dimensions: u32,
) -> Result<Prepared, RefusalReason> {
    check_order(work, inputs.len())?;
    let width = model.config().width;
    let asked = dimensions as usize;
    if asked > width {
        let error = EngineError::TooManyDimensions {
            dimensions: asked,
            width,
        };
        return Err(unsupported("dimensions", error.to_string()));
    }
    let line = vector_line_bytes(if asked == 0 { width } else { asked });
    let bytes = line.saturating_mul(inputs.len());
    if line > VECTOR_BYTES_MAX || bytes > VECTORS_BYTES_MAX {
        let reason = format!(
            "the vectors of {} inputs have {bytes} bytes; {VECTORS_BYTES_MAX} fit one answer",
            inputs.len()
        );
        return Err(unsupported("input", reason));
    }
    let tokens = inputs
        .iter()
        .map(|input| fitting(tokens(model, input)?, context));
    let tokens: Vec<_> = tokens.collect::<Result<_, _>>()?;
    Ok(Prepared::new(work.clone(), tokens.concat()))
}

/// Whether the rest of the work is what stands around inputs, and no other.
fn check_order(work: &Work, inputs: usize) -> Result<(), RefusalReason> {
    if inputs == 0 || inputs > INPUTS_MAX {
        let reason = format!("one call takes 1 to {INPUTS_MAX} inputs, not {inputs}");
        return Err(unsupported("input", reason));
    }
    let whole = work.sampling.max_output_tokens as usize == inputs;
    if !whole || work.answer != AnswerShape::Any {
        return Err(unsupported(
            "input",
            "vectors are ordered whole: as many units as inputs, of no other shape",
        ));
    }
    Ok(())
}

fn tokens(model: &Model, input: &Input) -> Result<Vec<u32>, RefusalReason> {
    let tokens = match input {
        Input::Text(text) => model.tokenizer().encode_prompt(text),
        Input::Tokens(ids) => known(model, ids),
    }
    .map_err(|error| refusal("input", error))?;
    if tokens.is_empty() {
        return Err(refusal("input", EngineError::EmptyPrompt));
    }
    let context = model.config().context;
    if tokens.len() > context {
        return Err(RefusalReason::ContextLength {
            tokens: tokens.len() as u64,
            context: context as u64,
        });
    }
    Ok(tokens)
}

/// The tokens of an input, if they are no more than the context that is offered.
fn fitting(tokens: Vec<u32>, offered: u32) -> Result<Vec<u32>, RefusalReason> {
    if tokens.len() > offered as usize {
        return Err(RefusalReason::Limit {
            parameter: "input".to_owned(),
            reason: format!(
                "an input has {} tokens, and the provider has room for {offered}",
                tokens.len()
            ),
        });
    }
    Ok(tokens)
}

/// How often one who waits for a turn looks whether it is still wanted.
const PAUSE: Duration = Duration::from_millis(2);

/// Waits for a turn: each takes the memory of a whole context beside that of the answers, so there is one at a time. `None` when it was
/// cancelled before.
fn turn<'a>(turns: &'a Mutex<()>, cancel: &CancelFlag) -> Option<MutexGuard<'a, ()>> {
    while !cancel.is_cancelled() {
        match turns.try_lock() {
            Ok(turn) => return Some(turn),
            // Whoever panicked left nothing behind.
            Err(TryLockError::Poisoned(turn)) => return Some(turn.into_inner()),
            Err(TryLockError::WouldBlock) => std::thread::sleep(PAUSE),
        }
    }
    None
}

/// Makes the vectors one after the other. The id of a unit is the number of its elements.
pub(crate) fn run(
    (model, turns): (&Arc<Model>, &Mutex<()>),
    inputs: &[Input],
    dimensions: u32,
    cancel: &CancelFlag,
    emit: &mut Emit<'_>,
) -> Result<Generation, RunError> {
    let ended = |finish_reason| {
        Ok(Generation {
            tool_calls: Vec::new(),
            finish_reason,
        })
    };
    let Some(_turn) = turn(turns, cancel) else {
        return ended(FinishReason::Cancelled);
    };
    let mut session = Session::new(model);
    for input in inputs {
        // A prepared prompt does not say where an input ends; tokens cost nothing beside their vector.
        let tokens =
            tokens(model, input).map_err(|reason| RunError::Failed(format!("{reason:?}")))?;
        let vector = session
            .text_vector(&tokens, dimensions as usize, cancel.atomic())
            .map_err(RunError::of_engine)?;
        let Some(vector) = vector else {
            return ended(FinishReason::Cancelled);
        };
        let elements = u32::try_from(vector.elements().len())
            .map_err(|_| RunError::Failed("the vector is too wide".into()))?;
        let line = vector_line(&vector.to_le_bytes());
        if emit(Piece::new(vec![elements], line)) == ControlFlow::Break(()) {
            return ended(FinishReason::Cancelled);
        }
    }
    ended(FinishReason::Stop)
}
