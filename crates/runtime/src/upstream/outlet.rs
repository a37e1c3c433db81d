//! What a stream says on its way from the lane to the thread that waits for it: put together where it comes fast, as [`crate::Paced`]
//! does for all backends, but before another thread is woken for it.

use crate::pace::{INTERVAL, TEXT_BYTES_MAX};
use std::time::Duration;
use stoa_nodes::provider::Counted;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Messages that wait for the other thread; when full, the server's stream is not read.
const QUEUE: usize = 4;

/// One message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// Counts known by now.
    Counted(Counted),
    /// Units and their text.
    Text(Vec<u32>, String),
}

/// Nobody listens any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unheard;

/// The lane's end.
pub(super) struct Outlet {
    tell: mpsc::Sender<Told>,
    ids: Vec<u32>,
    text: String,
    interval: Duration,
    /// When text left last.
    left: Option<Instant>,
}

impl Outlet {
    /// An outlet and what comes out of it.
    pub fn new() -> (Self, mpsc::Receiver<Told>) {
        Self::every(INTERVAL)
    }

    fn every(interval: Duration) -> (Self, mpsc::Receiver<Told>) {
        let (tell, told) = mpsc::channel(QUEUE);
        let outlet = Self {
            tell,
            ids: Vec::new(),
            text: String::new(),
            interval,
            left: None,
        };
        (outlet, told)
    }

    /// Tells counts, behind all text before them.
    pub async fn counted(&mut self, counted: Counted) -> Result<(), Unheard> {
        self.flush().await?;
        self.send(Told::Counted(counted)).await
    }

    /// Takes units with their text: the first leave at once, and so do any that come an interval after the last.
    pub async fn text(&mut self, ids: Vec<u32>, text: &str) -> Result<(), Unheard> {
        if self.text.len().saturating_add(text.len()) > TEXT_BYTES_MAX {
            self.flush().await?;
        }
        self.ids.extend(ids);
        self.text.push_str(text);
        match self.due() {
            Some(due) if due <= Instant::now() => self.flush().await,
            _ => Ok(()),
        }
    }

    /// When what waits has to leave; `None` while nothing waits.
    pub fn due(&self) -> Option<Instant> {
        let waits = !self.ids.is_empty();
        waits.then(|| {
            self.left
                .map_or_else(Instant::now, |left| left + self.interval)
        })
    }

    /// Sends what waits.
    pub async fn flush(&mut self) -> Result<(), Unheard> {
        if self.ids.is_empty() {
            return Ok(());
        }
        self.left = Some(Instant::now());
        let (ids, text) = (
            std::mem::take(&mut self.ids),
            std::mem::take(&mut self.text),
        );
        self.send(Told::Text(ids, text)).await
    }

    async fn send(&self, told: Told) -> Result<(), Unheard> {
        self.tell.send(told).await.map_err(|_| Unheard)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(ids: &[u32], text: &str) -> Result<Told, mpsc::error::TryRecvError> {
        Ok(Told::Text(ids.to_vec(), text.to_owned()))
    }

    const NEVER: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn the_first_text_leaves_at_once_then_what_came_in_an_interval_and_all_before_a_count() {
        let (mut outlet, mut told) = Outlet::every(NEVER);
        outlet.text(vec![1], "a").await.expect("heard");
        assert_eq!(told.try_recv(), text(&[1], "a"));
        assert_eq!(outlet.due(), None);
        outlet.text(vec![1], "b").await.expect("heard");
        outlet.text(vec![1, 0], "c").await.expect("heard");
        assert!(told.try_recv().is_err());
        assert!(outlet.due().is_some_and(|due| due > Instant::now()));
        let counted = Counted {
            input_units: 1,
            output_units: None,
        };
        outlet.counted(counted).await.expect("heard");
        assert_eq!(told.try_recv(), text(&[1, 1, 0], "bc"));
        assert_eq!(told.try_recv(), Ok(Told::Counted(counted)));
    }

    #[tokio::test]
    async fn text_that_comes_an_interval_after_the_last_leaves_at_once() {
        let (mut outlet, mut told) = Outlet::every(Duration::ZERO);
        for piece in ["a", "b"] {
            outlet.text(vec![1], piece).await.expect("heard");
            assert_eq!(told.try_recv(), text(&[1], piece));
        }
    }

    #[tokio::test]
    async fn text_is_put_together_up_to_a_bound_and_a_listener_that_left_is_noticed() {
        let (mut outlet, mut told) = Outlet::every(NEVER);
        let half = "x".repeat(TEXT_BYTES_MAX / 2);
        for id in 0..4 {
            outlet.text(vec![id], &half).await.expect("heard");
        }
        assert_eq!(told.try_recv(), text(&[0], &half));
        assert_eq!(told.try_recv(), text(&[1, 2], &half.repeat(2)));
        drop(told);
        assert_eq!(outlet.flush().await, Err(Unheard));
    }
}
