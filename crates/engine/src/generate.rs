//! From prompt to answer: sampling, stop tokens, stop strings, limits, streaming.

use crate::constraint::{Constraint, ConstraintError};
use crate::error::EngineError;
use crate::logprob::describe;
use crate::model::Model;
use crate::sampler::{adjust, adjusts, penalises, sample, sample_within};
use crate::session::Session;
use crate::tokenizer::Detokenizer;
use crate::trace::checkpoint;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use stoa_types::{Logprobs, SamplingParameters};

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// The model chose a token that ends the answer.
    EndToken,
    /// The text came to a stop string; it ends before it.
    StopString,
    /// The limit of tokens, the model's context, or a bound of the grammar's work is reached.
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
    /// Log-probabilities, where they are asked for: of the model's own logits, whatever bias and penalties made of them.
    pub logprobs: Option<Box<Logprobs>>,
    /// The checkpoint of the state that it was chosen from, where checkpoints are made ([`crate::trace::checkpoint`]).
    pub checkpoint: Option<[u8; 32]>,
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

/// One answer in the making: everything of it but the model's passes. Whoever drives it gives [`Generation::choose`] the logits after
/// the prompt, then those after each chosen token, until an event says that the answer is over. Nothing in it depends on how the logits
/// were come by, so that a [`Session`] alone and a pass over many answers at once choose the same tokens.
#[derive(Debug)]
pub struct Generation {
    model: Arc<Model>,
    parameters: SamplingParameters,
    /// Tokens before the answer.
    prompt_length: usize,
    /// Most tokens that the answer may have.
    limit: usize,
    stream: TextStream,
    tokens: Vec<u32>,
    text: String,
    finish: Option<Finish>,
    /// How often each token stands in the answer; empty where nobody asks.
    counts: BTreeMap<u32, u32>,
    /// Room for logits with bias and penalties.
    adjusted: Vec<i32>,
    constraint: Option<Box<dyn Constraint>>,
    checkpoints: bool,
}

impl Generation {
    /// An answer of which nothing is chosen yet, after `prompt_length` tokens. It is over at once where no token may be chosen.
    pub fn new(
        model: &Arc<Model>,
        prompt_length: usize,
        parameters: &SamplingParameters,
        options: TextOptions,
    ) -> Self {
        // The last token needs no place in the cache.
        let room = (model.config().context + 1).saturating_sub(prompt_length);
        let limit = room.min(parameters.max_output_tokens as usize);
        Self {
            model: Arc::clone(model),
            prompt_length,
            limit,
            stream: TextStream::new(&parameters.stop, options),
            tokens: Vec::new(),
            text: String::new(),
            finish: (limit == 0).then_some(Finish::Length),
            counts: BTreeMap::new(),
            adjusted: Vec::new(),
            parameters: parameters.clone(),
            constraint: None,
            checkpoints: false,
        }
    }

    /// The same answer, held to a constraint that is at its begin.
    pub fn held_to(self, constraint: Option<Box<dyn Constraint>>) -> Self {
        Self { constraint, ..self }
    }

    /// The same answer, with a checkpoint for each token: whoever drives it gives the state with the logits.
    pub fn with_checkpoints(self) -> Self {
        Self {
            checkpoints: true,
            ..self
        }
    }

    /// Whether checkpoints are made.
    pub fn makes_checkpoints(&self) -> bool {
        self.checkpoints
    }

    /// [`Generation::choose`], with the residual after the last layer that the logits are made of. It is looked at only where checkpoints
    /// are made.
    pub fn choose_from(
        &mut self,
        logits: &[i32],
        state: &[i32],
    ) -> Result<TokenEvent, EngineError> {
        let mut event = self.choose(logits)?;
        event.checkpoint = self.checkpoints.then(|| checkpoint(state));
        Ok(event)
    }

    /// Chooses the next token from the logits after the last one. Refused, with nothing changed, when the answer is over or when its
    /// constraint has no first token.
    pub fn choose(&mut self, logits: &[i32]) -> Result<TokenEvent, EngineError> {
        if self.finish.is_some() {
            return Err(EngineError::AnswerOver);
        }
        let id = self.pick(logits)?;
        let index = self.tokens.len();
        self.tokens.push(id);
        let last = self.tokens.len() >= self.limit || !self.may_go_on(id);
        let mut event = self.stream.event(&self.model, id, index as u32, last);
        let asked = self.parameters.logprobs;
        event.logprobs = asked.map(|top| Box::new(describe(&self.model, logits, id, top)));
        self.text.push_str(&event.text);
        self.finish = event.finish;
        Ok(event)
    }

    /// Whether the constraint has a set for what follows `id`. Where it has none, because a bound of its work is met or no token would
    /// do, the answer ends with `id` as one that a limit cuts: that follows from its tokens alone, so everybody ends it there.
    fn may_go_on(&mut self, id: u32) -> bool {
        let Some(constraint) = &mut self.constraint else {
            return true;
        };
        // What ends the answer is none of the constraint's business.
        if self.model.tokenizer().is_end(id) {
            return true;
        }
        let vocab = self.model.config().vocab;
        match constraint.accept(id).and_then(|()| constraint.allowed()) {
            Ok(Some(allowed)) => allowed.ids(vocab).next().is_some(),
            Ok(None) => true,
            Err(_) => false,
        }
    }

    /// Id of the token that these logits give.
    fn pick(&mut self, logits: &[i32]) -> Result<u32, ConstraintError> {
        let position = (self.prompt_length + self.tokens.len()) as u32;
        let mut logits = logits;
        if adjusts(&self.parameters) {
            self.adjusted.clear();
            self.adjusted.extend_from_slice(logits);
            adjust(&mut self.adjusted, &self.parameters, &self.counts);
            logits = &self.adjusted;
        }
        let allowed = match &mut self.constraint {
            Some(constraint) => constraint.allowed()?,
            None => None,
        };
        let id = match allowed {
            None => Some(sample(logits, &self.parameters, position)),
            Some(allowed) => sample_within(logits, allowed, &self.parameters, position),
        };
        let none = "the model has none of the tokens that may follow";
        let id = id.ok_or_else(|| ConstraintError::new(none))?;
        if penalises(&self.parameters) {
            *self.counts.entry(id).or_default() += 1;
        }
        Ok(id)
    }

    /// Ends the answer where it is; one that is over stays as it ended.
    pub fn cancel(&mut self) {
        self.finish.get_or_insert(Finish::Cancelled);
    }

    /// Steps that its constraint's sets took to make since this was last asked.
    pub fn take_constraint_steps(&mut self) -> u64 {
        self.constraint.as_mut().map_or(0, |c| c.take_steps())
    }

    /// Why the answer is over; `None` while it wants a token.
    pub fn finish(&self) -> Option<Finish> {
        self.finish
    }

    /// The chosen tokens.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Tokens before the answer.
    pub fn prompt_length(&self) -> usize {
        self.prompt_length
    }

    /// Most tokens that the answer may have: the caller's limit, or what the context leaves.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// The answer so far; one that is not over counts as cancelled.
    pub fn into_answer(self) -> Answer {
        Answer {
            tokens: self.tokens,
            text: self.text,
            finish: self.finish.unwrap_or(Finish::Cancelled),
        }
    }
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
    on_token: impl FnMut(&TokenEvent) -> ControlFlow<()>,
) -> Result<Answer, EngineError> {
    let length = session.len() + prompt.len();
    let generation = Generation::new(session.model(), length, parameters, options);
    drive(generation, session, prompt, cancel, on_token)
}

/// Appends `prompt` to a session and takes an answer to its end there.
pub fn drive(
    mut generation: Generation,
    session: &mut Session,
    prompt: &[u32],
    cancel: &AtomicBool,
    mut on_token: impl FnMut(&TokenEvent) -> ControlFlow<()>,
) -> Result<Answer, EngineError> {
    session.keep_state(generation.makes_checkpoints());
    if !session.prefill_unless(prompt, cancel)? {
        generation.cancel();
    }
    while generation.finish().is_none() {
        if cancel.load(Ordering::Relaxed) {
            generation.cancel();
            break;
        }
        let event = generation.choose_from(session.logits(), session.state())?;
        if on_token(&event).is_break() {
            generation.cancel();
        }
        if generation.finish().is_none() {
            session.step(event.id)?;
        }
    }
    Ok(generation.into_answer())
}

/// Tokens to text, cut at stop strings.
#[derive(Debug)]
struct TextStream {
    detokenizer: Detokenizer,
    stops: StopScanner,
}

impl TextStream {
    fn new(stops: &[String], options: TextOptions) -> Self {
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
        let (mut text, stopped) = self.stops.push_owned(piece);
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
            logprobs: None,
            checkpoint: None,
        }
    }
}

/// Finds stop strings in a stream, and holds back what may be the beginning of one.
#[derive(Debug)]
pub struct StopScanner {
    stops: Vec<String>,
    held: String,
}

impl StopScanner {
    /// A scanner for `stops`; empty ones are ignored.
    pub fn new(stops: &[String]) -> Self {
        Self {
            stops: stops.iter().filter(|s| !s.is_empty()).cloned().collect(),
            held: String::new(),
        }
    }

    /// Takes more text; gives what is certain, and whether a stop string was found (what follows it is dropped).
    pub fn push(&mut self, text: &str) -> (String, bool) {
        self.push_owned(text.to_owned())
    }

    /// [`StopScanner::push`] of a text whose memory may be the result's.
    fn push_owned(&mut self, text: String) -> (String, bool) {
        match self.held.is_empty() {
            true => self.held = text,
            false => self.held.push_str(&text),
        }
        if let Some(at) = self.stops.iter().filter_map(|s| self.held.find(s)).min() {
            self.held.truncate(at);
            return (std::mem::take(&mut self.held), true);
        }
        let keep = self
            .stops
            .iter()
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
