//! What the chain says of audits, read by one task for everybody in the process who wants to know it.

use super::router::now;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use stoa_chain::{AccessError, AuditFollower, AuditState, ChainAccess};
use tokio::sync::watch;

const POLL: Duration = Duration::from_millis(250);

/// The newest state, and word of its changes. Clones share it.
#[derive(Clone)]
pub struct AuditWatch {
    state: Arc<Mutex<AuditState>>,
    changed: watch::Receiver<u64>,
}

impl AuditWatch {
    /// Reads to the head, then goes on reading until every watch is gone.
    pub async fn start<C: ChainAccess + Clone>(
        mut follower: AuditFollower<C>,
    ) -> Result<Self, AccessError> {
        follower.catch_up(now()).await?;
        let version = follower.state().version();
        let (tell, changed) = watch::channel(version);
        let watch = Self {
            state: follower.shared(),
            changed,
        };
        tokio::spawn(async move {
            let mut told = false;
            while !tell.is_closed() {
                tokio::time::sleep(POLL).await;
                match follower.catch_up(now()).await {
                    Ok(()) => told = false,
                    Err(error) if !std::mem::replace(&mut told, true) => {
                        tracing::warn!(%error, "audits cannot be followed; they are read on when the chain answers");
                    }
                    Err(_) => {}
                }
                let version = follower.state().version();
                tell.send_if_modified(|known| std::mem::replace(known, version) != version);
            }
        });
        Ok(watch)
    }

    /// What is known: hold it briefly.
    pub fn state(&self) -> MutexGuard<'_, AuditState> {
        // Every change is whole before the lock is let go.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the state shows something, for so long at most. Whether it does.
    pub async fn shows(&self, patience: Duration, what: impl Fn(&AuditState) -> bool) -> bool {
        let mut changes = self.changes();
        let shown = changes.wait_for(|_| what(&self.state()));
        let shown = tokio::time::timeout(patience, shown).await;
        shown.is_ok_and(|told| told.is_ok())
    }

    /// Word of changes; ends with the follower.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.clone()
    }
}
