//! Answers of one model for all who ask at once: from the thread that waits for an answer to the engine's scheduler and back.

use crate::backend::{CancelFlag, RunError};
use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use stoa_engine::{
    Ended, EngineError, Finish, Generation, Model, Request, Scheduler, SchedulerOptions, Sink,
    Stats, Tenant, TokenEvent,
};

/// Tokens that wait for whoever reads an answer; with so many it stands still.
const TOKENS_WAITING: usize = 32;

/// A model that is served.
#[derive(Debug)]
pub(crate) struct Serving(Scheduler);

impl Serving {
    pub fn start(model: &Arc<Model>, options: SchedulerOptions) -> Result<Self, EngineError> {
        Ok(Self(Scheduler::start(model, options)?))
    }

    pub fn stats(&self) -> Stats {
        self.0.stats()
    }

    /// Takes an answer to its end and gives each token to `on_token`, on this thread.
    pub fn answer(
        &self,
        tenant: Tenant,
        prompt: &[u32],
        generation: Generation,
        cancel: &CancelFlag,
        mut on_token: impl FnMut(&TokenEvent) -> ControlFlow<()>,
    ) -> Result<Finish, RunError> {
        let line = Arc::new(Line::default());
        // Whatever ends this call, the engine does not go on for nobody.
        let _leave = Leave(&line);
        self.0.submit(Request {
            tenant,
            prompt: prompt.to_vec(),
            generation,
            sink: Box::new(Writer {
                line: Arc::clone(&line),
                cancel: cancel.clone(),
            }),
        });
        loop {
            match line.next() {
                // What was made meanwhile is wanted by nobody.
                Said::Token(_) if cancel.is_cancelled() => return Ok(Finish::Cancelled),
                Said::Token(event) => {
                    let flow = on_token(&event);
                    if let Some(finish) = event.finish {
                        return Ok(finish);
                    }
                    if flow.is_break() {
                        return Ok(Finish::Cancelled);
                    }
                }
                Said::End(Ended::Finished(finish)) => return Ok(finish),
                Said::End(Ended::Failed(error)) => return Err(RunError::of_engine(error)),
            }
        }
    }
}

enum Said {
    Token(TokenEvent),
    End(Ended),
}

/// What goes from the scheduler's thread to a reader's.
#[derive(Default)]
struct Line {
    state: Mutex<State>,
    news: Condvar,
}

#[derive(Default)]
struct State {
    tokens: VecDeque<TokenEvent>,
    end: Option<Ended>,
    /// Nobody reads any more.
    left: bool,
}

impl Line {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while the lock is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the next token, or for the end after the last.
    fn next(&self) -> Said {
        let mut state = self.state();
        loop {
            if let Some(event) = state.tokens.pop_front() {
                return Said::Token(event);
            }
            if let Some(end) = state.end.take() {
                return Said::End(end);
            }
            let waited = self.news.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn end(&self, ended: Ended) {
        self.state().end.get_or_insert(ended);
        self.news.notify_one();
    }
}

struct Leave<'a>(&'a Line);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.0.state().left = true;
    }
}

/// The scheduler's side of a line.
struct Writer {
    line: Arc<Line>,
    cancel: CancelFlag,
}

impl Sink for Writer {
    fn token(&mut self, event: TokenEvent) -> bool {
        let mut state = self.line.state();
        state.tokens.push_back(event);
        let wanted = !state.left;
        drop(state);
        self.line.news.notify_one();
        wanted
    }

    fn end(self: Box<Self>, ended: Ended) {
        self.line.end(ended);
    }

    fn has_room(&self) -> bool {
        self.line.state().tokens.len() < TOKENS_WAITING
    }

    fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled() || self.line.state().left
    }
}

impl Drop for Writer {
    /// One that is dropped without a word leaves nobody waiting for ever.
    fn drop(&mut self) {
        self.line.end(Ended::Failed(EngineError::Panicked));
    }
}
