//! What is different where vectors are asked for (0026): such a call is served whole or not at all, and what comes must be vectors.

use super::Current;
use crate::client::{Cause, ClientRequest};
use crate::work::{INPUTS_MAX, Input, Prompt};
use stoa_types::Limits;
use stoa_verify::{VECTOR_BYTES_MAX, VECTORS_BYTES_MAX, read_vectors};

/// Tokens that an input may gain beyond its bytes: begin and end marks.
const INPUT_MARGIN_TOKENS: u64 = 8;

/// Whether so many vectors may be asked for.
pub(super) fn check_order(request: &ClientRequest, limits: &Limits) -> Result<(), Cause> {
    let Some(vectors) = request.prompt.vectors() else {
        return Ok(());
    };
    let most = limits
        .output_tokens_max
        .min(u32::try_from(INPUTS_MAX).unwrap_or(u32::MAX));
    if (1..=most).contains(&vectors) {
        return Ok(());
    }
    Err(Cause::Unsupported {
        parameter: "input".to_owned(),
        reason: format!("one call takes 1 to {most} inputs, not {vectors}"),
    })
}

/// Upper bound of the tokens of all inputs, each of them within the model's context.
pub(super) fn input_bound(inputs: &[Input], context: u64) -> u64 {
    let bound = |input: &Input| match input {
        Input::Text(text) => (text.len() as u64).saturating_add(INPUT_MARGIN_TOKENS),
        Input::Tokens(ids) => ids.len() as u64,
    };
    let each = inputs.iter().map(|input| bound(input).min(context));
    each.fold(0, u64::saturating_add)
}

/// Whether new units are vectors of the size that was asked for, each the id of the number of its elements. `None` where texts were asked for.
pub(super) fn check_lines(
    prompt: &Prompt,
    current: &Current,
    units: &[u32],
    text: &str,
) -> Option<Result<(), &'static str>> {
    let Prompt::Embed { dimensions, .. } = prompt else {
        return None;
    };
    let long = current.text.len() + text.len() > VECTORS_BYTES_MAX
        || text.len() > units.len().saturating_mul(VECTOR_BYTES_MAX);
    if long {
        return Some(Err("it sent more bytes than vectors may have"));
    }
    let first = current.output.first().or(units.first());
    let size = match dimensions {
        0 => first.copied().unwrap_or(0),
        asked => *asked,
    };
    let lines = read_vectors(text).unwrap_or_default();
    let right = lines.len() == units.len()
        && units.iter().all(|unit| *unit == size)
        && lines
            .iter()
            .all(|line| line.len() as u64 == u64::from(size));
    Some(if right {
        Ok(())
    } else {
        Err("it sent something else than the vectors that were ordered")
    })
}
