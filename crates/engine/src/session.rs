//! One sequence of tokens and the thread it runs on.

use crate::cache::Sequence;
use crate::error::EngineError;
use crate::model::Model;
use crate::pass::{Entry, ROWS, Runner, Wanted};
use crate::pooling::{self, TextVector};
use crate::threads::Threads;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A sequence with a runner of its own. Uses the thread that calls it and no other, unless it was given more.
#[derive(Debug)]
pub struct Session {
    runner: Runner,
    sequence: Sequence,
    logits: Vec<i32>,
    /// The residual that the logits are made of, where it is kept.
    state: Option<Vec<i32>>,
}

impl Session {
    /// An empty sequence.
    pub fn new(model: &Arc<Model>) -> Self {
        Self::with_threads(model, Threads::one())
    }

    /// An empty sequence whose passes are shared among threads.
    pub fn with_threads(model: &Arc<Model>, threads: Threads) -> Self {
        Self {
            sequence: Sequence::new(model.config()),
            logits: vec![0; model.config().vocab],
            runner: Runner::new(model, threads),
            state: None,
        }
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        self.runner.model()
    }

    /// Tokens in the sequence.
    pub fn len(&self) -> usize {
        self.sequence.len()
    }

    /// Whether the sequence is empty.
    pub fn is_empty(&self) -> bool {
        self.sequence.is_empty()
    }

    /// Forgets all tokens from `length` on, to continue from a shared beginning.
    pub fn truncate(&mut self, length: usize) {
        self.sequence.truncate(length);
    }

    /// Appends tokens and gives the logits after the last one (16 fraction bits). The bits are the same whether tokens come
    /// together or one by one. Nothing is appended when there is an error.
    pub fn prefill(&mut self, tokens: &[u32]) -> Result<&[i32], EngineError> {
        self.prefill_unless(tokens, &AtomicBool::new(false))?;
        Ok(&self.logits)
    }

    /// [`Session::prefill`] that stops between parts when the flag is raised; says whether it came to the end.
    pub(crate) fn prefill_unless(
        &mut self,
        tokens: &[u32],
        cancel: &AtomicBool,
    ) -> Result<bool, EngineError> {
        self.check(tokens)?;
        let parts = tokens.chunks(ROWS);
        let last = parts.len() - 1;
        for (index, part) in parts.enumerate() {
            if cancel.load(Ordering::Relaxed) {
                return Ok(false);
            }
            let logits = &mut self.logits;
            let wanted = match &mut self.state {
                _ if index != last => Wanted::Nothing,
                None => Wanted::Last(logits),
                Some(residual) => Wanted::LastState { residual, logits },
            };
            let entry = Entry {
                sequence: &mut self.sequence,
                tokens: part,
                wanted,
            };
            self.runner.run(&mut [entry])?;
        }
        Ok(true)
    }

    /// The vector of a text: its first `dimensions` elements, or all where that is 0. What the session held is forgotten, and the text
    /// stands in it afterwards. `None` when the flag was raised before the end; it is looked at between parts of the text.
    pub fn text_vector(
        &mut self,
        tokens: &[u32],
        dimensions: usize,
        cancel: &AtomicBool,
    ) -> Result<Option<TextVector>, EngineError> {
        let width = self.model().config().width;
        if dimensions > width {
            return Err(EngineError::TooManyDimensions { dimensions, width });
        }
        self.truncate(0);
        let taken = if dimensions == 0 { width } else { dimensions };
        let mut sums = vec![0; taken];
        let whole = self.add_states(tokens, &mut sums, cancel)?;
        Ok(whole.then(|| pooling::text_vector(&sums)))
    }

    /// Appends tokens and adds the first elements of each one's last state to `sums`; says whether it came to the end. The sums are the
    /// same however a text is cut into calls.
    pub fn add_states(
        &mut self,
        tokens: &[u32],
        sums: &mut [i128],
        cancel: &AtomicBool,
    ) -> Result<bool, EngineError> {
        self.check(tokens)?;
        // An encoder's states depend on the whole text.
        let encoder = self.model().config().architecture.encoder.is_some();
        let rows = if encoder { tokens.len() } else { ROWS };
        for part in tokens.chunks(rows) {
            if cancel.load(Ordering::Relaxed) {
                return Ok(false);
            }
            let entry = Entry {
                sequence: &mut self.sequence,
                tokens: part,
                wanted: Wanted::States(sums),
            };
            self.runner.run(&mut [entry])?;
        }
        Ok(true)
    }

    /// Appends one token and gives the logits after it.
    pub fn step(&mut self, token: u32) -> Result<&[i32], EngineError> {
        self.prefill(&[token])
    }

    /// Whether the residual that logits are made of is kept, from the next token on.
    pub fn keep_state(&mut self, keep: bool) {
        self.state = keep.then(Vec::new);
    }

    /// The residual after the last layer that the logits are made of, 16 fraction bits; empty where it is not kept.
    pub fn state(&self) -> &[i32] {
        self.state.as_deref().unwrap_or(&[])
    }

    /// Logits after the last token.
    pub fn logits(&self) -> &[i32] {
        &self.logits
    }

    /// Of all tokens, before the first part of them is appended.
    fn check(&self, tokens: &[u32]) -> Result<(), EngineError> {
        self.runner.check(&self.sequence, tokens)
    }
}
