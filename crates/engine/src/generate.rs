//! From prompt to answer: sampling, stop tokens, stop strings, limits, streaming.

use crate::error::EngineError;
use crate::model::Model;
use crate::sampler::sample;
use crate::session::Session;
use crate::tokenizer::Detokenizer;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use stoa_types::SamplingParameters;

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// The model chose a token that ends the answer.
    EndToken,
    /// The text came to a stop string; it ends before it.
    StopString,
    /// The limit of tokens, or the model's context, is reached.
    Length,
    /// The caller does not want more.
    Cancelled,
}

impl Finish {
    /// OpenAI's word; `None` when the answer was broken off.
    pub fn reason(self) -> Option<&'static str> {
        match self {
            Self::EndToken | Self::StopString => Some("stop"),
            Self::Length => Some("length"),
            Self::Cancelled => None,
        }
    }
}

/// One chosen token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenEvent {
    /// Its id.
    pub id: u32,
    /// Its place in the answer, from 0.
    pub index: u32,
    /// Text that is certain now: whole characters, and nothing that may belong to a stop string.
    pub text: String,
    /// Set on the last token.
    pub finish: Option<Finish>,
}

/// A whole answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Every chosen token, the one that ended the answer included.
    pub tokens: Vec<u32>,
    /// The text of all events together.
    pub text: String,
    /// Why it ended.
    pub finish: Finish,
}

/// How text is made of tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TextOptions {
    /// Show control tokens as text (the token that ends the answer stays hidden), for example to find tool calls.
    pub render_special: bool,
}

/// Generates an answer to `prompt` in a new session. See [`generate_in`].
pub fn generate(
    model: &Arc<Model>,
    prompt: &[u32],
    parameters: &SamplingParameters,
    options: TextOptions,
    cancel: &AtomicBool,
    on_token: impl FnMut(&TokenEvent) -> ControlFlow<()>,
) -> Result<Answer, EngineError> {
    let mut session = Session::new(model);
    generate_in(&mut session, prompt, parameters, options, cancel, on_token)
}

/// Appends `prompt` to a session and generates an answer, calling `on_token` for each token as soon as it is chosen.
///
/// Every chosen token gives one event, the ending one too, so that the tokens of the events are what a receipt commits to.
/// The flag and the result of `on_token` are looked at once per token, the flag also between parts of the prompt.
pub fn generate_in(
    session: &mut Session,
    prompt: &[u32],
    parameters: &SamplingParameters,
    options: TextOptions,
    cancel: &AtomicBool,
    mut on_token: impl FnMut(&TokenEvent) -> ControlFlow<()>,
) -> Result<Answer, EngineError> {
    let model = Arc::clone(session.model());
    let mut answer = Answer {
        tokens: Vec::new(),
        text: String::new(),
        finish: Finish::Length,
    };
    if !session.prefill_unless(prompt, cancel)? {
        answer.finish = Finish::Cancelled;
        return Ok(answer);
    }
    let mut text = TextStream::new(&parameters.stop, options);
    let mut left = (model.config().context - session.len())
        .saturating_add(1)
        .min(parameters.max_output_tokens as usize);
    while left > 0 {
        if cancel.load(Ordering::Relaxed) {
            answer.finish = Finish::Cancelled;
            break;
        }
        left -= 1;
        let id = sample(session.logits(), parameters, session.len() as u32);
        let event = text.event(&model, id, answer.tokens.len() as u32, left == 0);
        answer.tokens.push(id);
        answer.text.push_str(&event.text);
        let flow = on_token(&event);
        if let Some(finish) = event.finish {
            answer.finish = finish;
            break;
        }
        if flow.is_break() {
            answer.finish = Finish::Cancelled;
            break;
        }
        session.step(id)?;
    }
    Ok(answer)
}

/// Tokens to text, cut at stop strings.
#[derive(Debug)]
struct TextStream<'a> {
    detokenizer: Detokenizer,
    stops: StopScanner<'a>,
}

impl<'a> TextStream<'a> {
    fn new(stops: &'a [String], options: TextOptions) -> Self {
        Self {
            detokenizer: Detokenizer::new(options.render_special),
            stops: StopScanner::new(stops),
        }
    }

    fn event(&mut self, model: &Model, id: u32, index: u32, last: bool) -> TokenEvent {
        let end = model.tokenizer().is_end(id);
        let mut piece = if end {
            String::new()
        } else {
            self.detokenizer.push(model.tokenizer(), id)
        };
        if end || last {
            piece.push_str(&self.detokenizer.finish());
        }
        let (mut text, stopped) = self.stops.push(&piece);
        let finish = if stopped {
            Some(Finish::StopString)
        } else if end {
            Some(Finish::EndToken)
        } else {
            last.then_some(Finish::Length)
        };
        if finish.is_some() && !stopped {
            text.push_str(&self.stops.finish());
        }
        TokenEvent {
            id,
            index,
            text,
            finish,
        }
    }
}

/// Finds stop strings in a stream, and holds back what may be the beginning of one.
#[derive(Debug)]
pub struct StopScanner<'a> {
    stops: &'a [String],
    held: String,
}

impl<'a> StopScanner<'a> {
    /// A scanner for `stops`; empty ones are ignored.
    pub fn new(stops: &'a [String]) -> Self {
        Self {
            stops,
            held: String::new(),
        }
    }

    fn stops(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.stops
            .iter()
            .map(String::as_str)
            .filter(|s| !s.is_empty())
    }

    /// Takes more text; gives what is certain, and whether a stop string was found (what follows it is dropped).
    pub fn push(&mut self, text: &str) -> (String, bool) {
        self.held.push_str(text);
        if let Some(at) = self.stops().filter_map(|s| self.held.find(s)).min() {
            self.held.truncate(at);
            return (std::mem::take(&mut self.held), true);
        }
        let keep = self
            .stops()
            .map(|s| overlap(&self.held, s))
            .max()
            .unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// What was held back, when nothing more comes.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Length of the longest end of `text` that is a proper beginning of `stop`.
fn overlap(text: &str, stop: &str) -> usize {
    (1..stop.len().min(text.len() + 1))
        .rev()
        .filter(|n| stop.is_char_boundary(*n))
        .find(|n| text.ends_with(&stop[..*n]))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stream(stops: &[String], pieces: &[String]) -> (String, bool) {
        let mut scanner = StopScanner::new(stops);
        let mut out = String::new();
        for piece in pieces {
            let (text, stopped) = scanner.push(piece);
            out.push_str(&text);
            if stopped {
                return (out, true);
            }
        }
        out.push_str(&scanner.finish());
        (out, false)
    }

    #[test]
    fn a_stop_string_over_several_tokens_is_cut_off_whole() {
        let stops = vec!["END.".to_owned()];
        let pieces = ["one E", "N", "D two EN", "D", ". three"].map(str::to_owned);
        assert_eq!(stream(&stops, &pieces), ("one END two ".to_owned(), true));
    }

    proptest! {
        #[test]
        fn text_ends_exactly_before_the_first_stop_string(
            text in "[abé]{0,30}", stop in "[abé]{1,4}", cuts in proptest::collection::vec(any::<bool>(), 30),
        ) {
            let mut pieces = vec![String::new()];
            for (c, cut) in text.chars().zip(cuts) {
                if cut {
                    pieces.push(String::new());
                }
                pieces.last_mut().expect("never empty").push(c);
            }
            let expected = match text.find(&stop) {
                Some(at) => (text[..at].to_owned(), true),
                None => (text.clone(), false),
            };
            prop_assert_eq!(stream(&[stop], &pieces), expected);
        }
    }
}
