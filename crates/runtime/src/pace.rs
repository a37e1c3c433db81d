//! How often a job's text leaves the provider.
//!
//! A message costs the same whether it carries one token or ten: a link, a router and a client each pay for it. Text that comes faster
//! than anybody reads is therefore put together. The first text leaves at once, and so does any that comes [`INTERVAL`] after the one
//! before: a stream of up to 50 pieces a second is not touched. Text with which reasoning ends leaves by itself, so that the tokens of both
//! parts can be told apart.

use crate::backend::Piece;
use crate::executor::Event;
use std::time::Duration;
use stoa_nodes::provider::Generated;
use stoa_verify::reasoning::{CLOSE, Splitter};
use tokio::sync::mpsc::Receiver;
use tokio::time::{Instant, timeout_at};

/// Least time between two messages with text.
pub(crate) const INTERVAL: Duration = Duration::from_millis(20);
/// Text that is put together at most, in bytes; a longer piece leaves as it came.
pub(crate) const TEXT_BYTES_MAX: usize = 16 << 10;
/// Entries of log-probabilities that are put together at most: each may hold twenty alternatives.
const LOGPROBS_MAX: usize = 32;

/// The events of one job, in their order, with text put together where it comes fast.
pub struct Paced {
    events: Receiver<Event>,
    interval: Duration,
    /// Text leaves at once from then on.
    due: Option<Instant>,
    /// What came behind text that was put together, and whether reasoning ends with it.
    next: Option<(Event, bool)>,
    /// Follows the text to the end of its reasoning; `None` from there on.
    reasoning: Option<Splitter>,
}

impl Paced {
    /// Paces what an executor's job says.
    pub fn new(events: Receiver<Event>) -> Self {
        Self::every(INTERVAL, events)
    }

    fn every(interval: Duration, events: Receiver<Event>) -> Self {
        Self {
            events,
            interval,
            due: None,
            next: None,
            reasoning: Some(Splitter::new(true)),
        }
    }

    /// The next event; `None` after the last. Cancelling it loses text.
    pub async fn next(&mut self) -> Option<Event> {
        let (event, alone) = match self.next.take() {
            Some(next) => next,
            None => {
                let event = self.events.recv().await?;
                let alone = self.ends(&event);
                (event, alone)
            }
        };
        let Event::Generated(Generated::Tokens {
            mut tokens,
            mut text,
            mut logprobs,
        }) = event
        else {
            return Some(event);
        };
        while !alone && let Some(more) = self.more(text.len(), logprobs.len()).await {
            tokens.extend(more.tokens);
            text.push_str(&more.text);
            logprobs.extend(more.logprobs);
        }
        self.due = Some(Instant::now() + self.interval);
        Some(Event::Generated(Generated::Tokens {
            tokens,
            text,
            logprobs,
        }))
    }

    /// What comes before the message is due, or waits already, and fits behind so many bytes of text and so many entries.
    async fn more(&mut self, bytes: usize, entries: usize) -> Option<Piece> {
        let due = self.due?;
        // Also when it is overdue: what waits already needs no message of its own.
        let event = timeout_at(due, self.events.recv()).await.ok()??;
        let alone = self.ends(&event);
        match event {
            Event::Generated(Generated::Tokens {
                tokens,
                text,
                logprobs,
            }) if !alone
                && bytes + text.len() <= TEXT_BYTES_MAX
                && entries + logprobs.len() <= LOGPROBS_MAX =>
            {
                Some(Piece {
                    tokens,
                    text,
                    logprobs,
                })
            }
            event => {
                self.next = Some((event, alone));
                None
            }
        }
    }

    /// Whether the answer's reasoning ends with this event. Every event is asked about once, in order.
    fn ends(&mut self, event: &Event) -> bool {
        let (Event::Generated(Generated::Tokens { text, .. }), Some(splitter)) =
            (event, &mut self.reasoning)
        else {
            return false;
        };
        let reasons = splitter.is_inside() || text.contains(CLOSE);
        splitter.push(text);
        if !splitter.is_past() {
            return false;
        }
        self.reasoning = None;
        reasons
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stoa_types::FinishReason;
    use tokio::sync::mpsc;

    fn tokens(id: u32, text: &str) -> Event {
        Event::Generated(Generated::Tokens {
            tokens: vec![id],
            text: text.to_owned(),
            logprobs: Vec::new(),
        })
    }

    fn end() -> Event {
        Event::Generated(Generated::End {
            tool_calls: Vec::new(),
            finish_reason: FinishReason::Stop,
        })
    }

    const NEVER: Duration = Duration::from_secs(3600);

    /// All messages that become of these events.
    async fn messages(interval: Duration, events: Vec<Event>) -> Vec<Event> {
        let (sender, receiver) = mpsc::channel(events.len());
        for event in events {
            sender.send(event).await.expect("room");
        }
        drop(sender);
        let (mut paced, mut messages) = (Paced::every(interval, receiver), Vec::new());
        while let Some(event) = paced.next().await {
            messages.push(event);
        }
        messages
    }

    fn together(ids: &[u32], text: &str) -> Event {
        Event::Generated(Generated::Tokens {
            tokens: ids.to_vec(),
            text: text.to_owned(),
            logprobs: Vec::new(),
        })
    }

    #[tokio::test]
    async fn the_first_text_leaves_at_once_and_what_comes_before_the_interval_is_over_leaves_together()
     {
        let (sender, receiver) = mpsc::channel(32);
        let mut paced = Paced::every(Duration::from_millis(1), receiver);
        sender.send(tokens(0, "a")).await.expect("room");
        // Nothing else has come: it does not wait for more.
        assert_eq!(paced.next().await, Some(tokens(0, "a")));
        sender.send(tokens(1, "b")).await.expect("room");
        sender.send(tokens(2, "c")).await.expect("room");
        // More may come for ever; it leaves when the interval is over.
        assert_eq!(paced.next().await, Some(together(&[1, 2], "bc")));
    }

    #[tokio::test]
    async fn the_end_is_told_behind_all_text_and_waits_for_nothing() {
        let events = vec![tokens(1, "a"), tokens(2, "b"), tokens(3, "c"), end()];
        let expected = [tokens(1, "a"), together(&[2, 3], "bc"), end()];
        assert_eq!(messages(NEVER, events).await, expected);
    }

    #[tokio::test]
    async fn text_is_put_together_up_to_a_bound_and_none_is_lost() {
        let half = "x".repeat(TEXT_BYTES_MAX / 2);
        let events: Vec<_> = (0..4).map(|id| tokens(id, &half)).collect();
        let expected = [
            tokens(0, &half),
            together(&[1, 2], &"x".repeat(TEXT_BYTES_MAX)),
            tokens(3, &half),
        ];
        assert_eq!(messages(NEVER, events).await, expected);
    }

    #[tokio::test]
    async fn text_with_which_reasoning_ends_leaves_by_itself_and_only_that() {
        let events = || {
            ["<think>", "a", "b", "</", "think>", "c", "</think>", "d"]
                .into_iter()
                .zip(0..)
                .map(|(text, id)| tokens(id, text))
                .collect::<Vec<_>>()
        };
        let expected = [
            tokens(0, "<think>"),
            together(&[1, 2, 3], "ab</"),
            tokens(4, "think>"),
            together(&[5, 6, 7], "c</think>d"),
        ];
        assert_eq!(messages(NEVER, events()).await, expected);
        // Of what does not begin with reasoning nothing is told apart.
        let plain = [vec![tokens(9, "so ")], events()].concat();
        let all = "<think>ab</think>c</think>d";
        let expected = [tokens(9, "so "), together(&[0, 1, 2, 3, 4, 5, 6, 7], all)];
        assert_eq!(messages(NEVER, plain).await, expected);
    }
}
