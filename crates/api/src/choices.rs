//! The choices of one request while they are under way: their events as one line, and what they used of the caller's minute.

use crate::port::{Call, WrittenTokens};
use crate::rates::Taken;
use std::future::poll_fn;
use std::task::{Context, Poll};
use stoa_nodes::client::{Cause, ClientEvent, Failure};
use stoa_types::{JobId, TokenAmount};

/// Dropped, it cancels every choice that is not over.
pub(crate) struct Choices {
    calls: Vec<Call>,
    over: Vec<bool>,
    /// Who is looked at first, so that nobody is passed over for long.
    turn: usize,
}

impl Choices {
    pub(crate) fn new(calls: Vec<Call>) -> Self {
        Self {
            over: vec![false; calls.len()],
            calls,
            turn: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.calls.len()
    }

    pub(crate) fn jobs(&self) -> Vec<JobId> {
        self.calls.iter().map(|call| call.job).collect()
    }

    /// The counts of what was written of each.
    pub(crate) fn written(&self) -> Vec<WrittenTokens> {
        let written = |call: &Call| call.client.written().clone();
        self.calls.iter().map(written).collect()
    }

    /// What happens next, and to which choice; one must not be over. A line that breaks off without a result is a failure.
    pub(crate) async fn next(&mut self) -> (usize, ClientEvent) {
        poll_fn(|context| self.poll(context)).await
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<(usize, ClientEvent)> {
        let count = self.calls.len();
        for at in (self.turn..count).chain(0..self.turn.min(count)) {
            if self.over[at] {
                continue;
            }
            if let Poll::Ready(event) = self.calls[at].events.poll_recv(context) {
                self.turn = (at + 1) % count;
                let broken_off =
                    || ClientEvent::Failed(Failure::new(Cause::Internal, TokenAmount::ZERO));
                return Poll::Ready((at, event.unwrap_or_else(broken_off)));
            }
        }
        Poll::Pending
    }

    /// All of a choice was written, so many tokens.
    pub(crate) fn deliver(&self, at: usize, tokens: u64) {
        self.calls[at].client.deliver(tokens);
    }

    /// A choice told its end: there is nothing left to cancel.
    pub(crate) fn end(&mut self, at: usize) {
        self.calls[at].client.disarm();
        self.over[at] = true;
    }

    pub(crate) fn is_over(&self, at: usize) -> bool {
        self.over[at]
    }

    pub(crate) fn are_over(&self) -> bool {
        self.over.iter().all(|over| *over)
    }
}

/// What a request took of what its caller may do in a minute, until it is known what its choices used.
pub(crate) struct Tally {
    taken: Option<Taken>,
    used: u64,
    open: usize,
}

impl Tally {
    pub(crate) fn new(taken: Taken, choices: usize) -> Self {
        Self {
            taken: Some(taken),
            used: 0,
            open: choices,
        }
    }

    /// What a finished choice used; nothing of a failed one that cost nothing.
    pub(crate) fn see(&mut self, event: &ClientEvent) {
        let used = match event {
            ClientEvent::Done(done) => done
                .content
                .input_units
                .saturating_add(done.content.output_units),
            ClientEvent::Failed(failure) if failure.billed.is_zero() => 0,
            // It used what nobody tells: what was taken stays taken.
            ClientEvent::Failed(_) => return drop(self.taken.take()),
            _ => return,
        };
        self.used = self.used.saturating_add(used);
        self.open = self.open.saturating_sub(1);
        if self.open == 0 {
            self.close();
        }
    }

    /// What is still open is given up and costs nothing.
    pub(crate) fn close(&mut self) {
        if let Some(taken) = self.taken.take() {
            taken.settle(self.used);
        }
    }
}
