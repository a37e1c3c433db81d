//! The one thread that carries all connections to a server.
//!
//! A server computes a token for each of its streams in one step and sends them together: a thread that is woken once takes all of
//! them. With the connections on the network's threads and a waiting thread for each stream every token wakes three.

use std::future::Future;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

/// The thread; it ends, and what runs on it, when this is dropped.
pub(super) struct Lane {
    handle: Handle,
    /// Dropped with the lane: what the thread waits for.
    _open: oneshot::Sender<()>,
}

impl Lane {
    /// Starts the thread.
    pub fn start() -> std::io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (open, closed) = oneshot::channel::<()>();
        std::thread::Builder::new()
            .name("stoa-upstream".to_owned())
            .spawn(move || {
                let _ = runtime.block_on(closed);
            })?;
        Ok(Self {
            handle,
            _open: open,
        })
    }

    /// Runs something beside whatever else runs here, for as long as the lane lives.
    pub fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        self.handle.spawn(future);
    }

    /// Runs something that ends when the set is dropped. It must never block the thread.
    pub fn begin<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> JoinSet<T> {
        let mut set = JoinSet::new();
        set.spawn_on(future, &self.handle);
        set
    }

    /// Runs something here and waits for it; its panic goes on in the caller.
    pub async fn run<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> T {
        end_of(self.begin(future)).await
    }

    /// Waits on the calling thread, which is none of a runtime's.
    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.handle.block_on(future)
    }
}

/// What the one task of a set came to.
pub(super) async fn end_of<T: 'static>(mut set: JoinSet<T>) -> T {
    let end = set.join_next().await.expect("the set holds one task");
    end.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}
