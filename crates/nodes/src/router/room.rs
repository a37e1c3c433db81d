//! Room for a request in the contexts that are offered: who is asked first, and how long an answer may be there.

use crate::message::ModelOffer;
use crate::work::{Input, Prompt};

/// Bytes of text to a token, generously: most vocabularies take three to five. What follows from it is an estimate, and only orders
/// providers.
const TOKEN_BYTES_LIKELY: u64 = 8;

/// Context that prompt and answer likely need together. Each input of vectors stands alone.
///
/// Most answers are far shorter than their limit: beyond an answer of `usual_units` nobody needs more than most of those offer that there are,
/// whose contexts these are. Else who asks for as much as the model can say would be kept for the longest context, whatever its price.
pub(super) fn needed(
    prompt: &Prompt,
    output_units: u32,
    usual_units: u32,
    contexts: Vec<u64>,
) -> u64 {
    let likely_tokens = prompt_tokens(prompt);
    if prompt.vectors().is_some() {
        return likely_tokens;
    }
    let least = likely_tokens + u64::from(output_units.min(usual_units));
    let whole = likely_tokens + u64::from(output_units);
    whole.min(ordinary(contexts)).max(least)
}

/// The median, the lower one of two: a single one that claims more does not raise it.
fn ordinary(mut contexts: Vec<u64>) -> u64 {
    contexts.sort_unstable();
    let middle = contexts.len().saturating_sub(1) / 2;
    contexts.get(middle).copied().unwrap_or(0)
}

fn prompt_tokens(prompt: &Prompt) -> u64 {
    match prompt {
        Prompt::Chat {
            messages, tools, ..
        } => likely(messages) + likely(tools),
        Prompt::Text(text) => likely(text),
        Prompt::Tokens(ids) => ids.len() as u64,
        Prompt::Embed { inputs, .. } => {
            let each = inputs.iter().map(|input| match input {
                Input::Text(text) => likely(text),
                Input::Tokens(ids) => ids.len() as u64,
            });
            each.max().unwrap_or(0)
        }
    }
}

fn likely(text: &str) -> u64 {
    text.len() as u64 / TOKEN_BYTES_LIKELY
}

/// Output limit of an order: what is asked for, or what of the provider's own context the prompt surely leaves. Another one's shorter
/// context cuts nothing.
pub(super) fn output_limit(offer: &ModelOffer, prompt: &Prompt, most: u32) -> u32 {
    let taken = match prompt {
        Prompt::Embed { .. } => return most,
        Prompt::Tokens(ids) => u32::try_from(ids.len()).unwrap_or(u32::MAX),
        Prompt::Chat { .. } | Prompt::Text(_) => 0,
    };
    most.min(offer.context.saturating_sub(taken).max(1))
}
