//! Room for a request in the contexts that are offered: who is asked first, and how long an answer may be there.

use crate::message::ModelOffer;
use crate::work::{Input, Prompt};

/// Bytes of text to a token, generously: most vocabularies take three to five. What follows from it is an estimate, and only orders
/// providers.
const TOKEN_BYTES_LIKELY: u64 = 8;

/// Context that prompt and answer likely need together. Each input of vectors stands alone.
pub(super) fn needed(prompt: &Prompt, output_units: u32) -> u64 {
    let answer = u64::from(output_units);
    match prompt {
        Prompt::Chat {
            messages, tools, ..
        } => likely(messages) + likely(tools) + answer,
        Prompt::Text(text) => likely(text) + answer,
        Prompt::Tokens(ids) => ids.len() as u64 + answer,
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
