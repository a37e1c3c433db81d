//! Whether the upstream server can be used now: asked regularly, at once after a doubt, and ever more rarely while it is gone.

use super::UpstreamFault;
use super::client::Client;
use super::kind::{ServerKind, listed};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// How often a server that is well is asked.
const INTERVAL: Duration = Duration::from_secs(5);
/// Waits between questions to one that is not.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));

/// What is known of a server's health.
#[derive(Debug, Default)]
pub(crate) struct Health {
    /// What is wrong, if anything.
    fault: watch::Sender<Option<UpstreamFault>>,
    doubt: Notify,
}

impl Health {
    /// What is wrong, if anything.
    pub fn fault(&self) -> Option<UpstreamFault> {
        self.fault.borrow().clone()
    }

    /// Looks at the server now instead of at the next regular time.
    pub fn doubt(&self) {
        self.doubt.notify_one();
    }

    fn set(&self, fault: Option<UpstreamFault>) {
        metrics::gauge!("stoa_upstream_healthy").set(if fault.is_none() { 1.0 } else { 0.0 });
        self.fault.send_if_modified(|known| {
            match (&known, &fault) {
                (None, Some(fault)) => {
                    tracing::warn!(%fault, "the upstream server cannot be used; no jobs are taken until it can");
                }
                (Some(_), None) => tracing::info!("the upstream server can be used again"),
                _ => {}
            }
            let changed = *known != fault;
            *known = fault;
            changed
        });
    }
}

/// What is asked.
pub(crate) struct Asked {
    pub client: Client,
    pub kind: ServerKind,
    pub model: String,
}

impl Asked {
    /// Whether the server lists the model and says that it is well.
    pub async fn check(&self) -> Result<(), UpstreamFault> {
        let models = listed(&self.client.get_json("/v1/models").await?);
        if !models.iter().any(|model| model.id == self.model) {
            return Err(UpstreamFault::NotFound);
        }
        match self.kind.health_path() {
            Some(path) => self.client.get(path).await.map(drop),
            None => Ok(()),
        }
    }
}

/// Asks for ever; the caller ends the task.
pub(crate) async fn keep_watch(asked: Asked, health: Arc<Health>) {
    let mut wait = INTERVAL;
    loop {
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = health.doubt.notified() => {}
        }
        let fault = asked.check().await.err();
        wait = match (&fault, health.fault()) {
            (None, _) => INTERVAL,
            (Some(_), None) => BACKOFF.0,
            (Some(_), Some(_)) => (wait * 2).clamp(BACKOFF.0, BACKOFF.1),
        };
        health.set(fault);
    }
}
