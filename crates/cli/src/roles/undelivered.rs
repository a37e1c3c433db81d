//! Orders that providers took and did not deliver, on the router's disk: what can be claimed from each ticket's deadline on, also after a
//! restart. Both signatures, and nothing of prompt or answer.

use super::records::Records;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use stoa_nodes::client::Undelivered;
use stoa_types::{JobId, Millis, Timestamp};

/// Blocks count whole seconds: the contract's clock may be as far behind.
const BLOCK: Millis = Millis::from_secs(1);

/// Folder of these below a router's data folder.
pub fn folder(router: &Path) -> PathBuf {
    router.join("undelivered")
}

/// The newest of them. Clones share it.
#[derive(Clone)]
pub struct Undeliveries(Arc<Mutex<Kept>>);

struct Kept {
    records: Records<Undelivered>,
    /// Not written yet: the disk refused it, and it is tried again with the next.
    unwritten: Vec<Undelivered>,
}

impl Undeliveries {
    /// Opens the folder.
    pub fn open(folder: &Path) -> Result<Self, String> {
        let (records, _) = Records::open(folder)?;
        let kept = Kept {
            records,
            unwritten: Vec::new(),
        };
        Ok(Self(Arc::new(Mutex::new(kept))))
    }

    /// Keeps one: off the way of any call, for what can be lost with it is a claim.
    pub fn keep(&self, undelivered: Undelivered) {
        let mut kept = self.lock();
        kept.unwritten.push(undelivered);
        let unwritten = std::mem::take(&mut kept.unwritten);
        for undelivered in unwritten {
            let job = undelivered.ticket.ticket.job_id;
            if let Err(error) = kept.records.keep(&undelivered, || {}) {
                tracing::warn!(%job, %error, "an order that was taken and not delivered is not on disk yet; it is tried again with the next");
                if kept.unwritten.len() < UNWRITTEN_MAX {
                    kept.unwritten.push(undelivered);
                }
            }
        }
    }

    /// What can still be claimed and not much longer, for so long after its deadline as `window` says: in its last quarter, so that whoever was
    /// only away for a while has come back before.
    pub fn due(&self, now: Timestamp, window: Millis) -> Vec<Undelivered> {
        let kept = self.lock();
        let late = Millis(window.0 - window.0 / 4);
        let is_due = |undelivered: &&Undelivered| {
            let deadline = undelivered.ticket.ticket.deadline;
            deadline.plus(late).plus(BLOCK) <= now && now < deadline.plus(window)
        };
        let all = kept.records.newest().chain(&kept.unwritten);
        all.filter(is_due).cloned().collect()
    }

    /// Those of one job, by attempt.
    pub fn of_job(&self, job: JobId) -> Vec<Undelivered> {
        let kept = self.lock();
        let all = kept.records.newest().chain(&kept.unwritten);
        all.filter(|u| u.ticket.ticket.job_id == job)
            .cloned()
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Most that wait for a disk which takes nothing.
const UNWRITTEN_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::roles::test_ticket;
    use stoa_types::{Acceptance, Digest, Signature, SignedAcceptance, SignedTicket};

    fn undelivered(job: u8, attempt: u32) -> Undelivered {
        let ticket = test_ticket(job, attempt, 2);
        let acceptance = Acceptance {
            ticket: Digest([8; 32]),
            accepted_at: Timestamp(1),
        };
        let signature = Signature([9; 65]);
        Undelivered {
            ticket: SignedTicket { ticket, signature },
            acceptance: SignedAcceptance {
                acceptance,
                signature,
            },
        }
    }

    #[test]
    fn an_order_is_due_in_the_last_quarter_of_its_window() {
        let folder = tempfile::tempdir().expect("a folder");
        let kept = Undeliveries::open(folder.path()).expect("opens");
        for (job, deadline) in [(1, 1_000_000), (2, 1_000_005)] {
            let mut one = undelivered(job, 0);
            one.ticket.ticket.deadline = Timestamp(deadline);
            kept.keep(one);
        }
        let due = |now| {
            let due = kept.due(Timestamp(1_000_000 + now), Millis(400_000));
            let jobs = due.iter().map(|u| u.ticket.ticket.job_id.0[0]);
            jobs.collect::<Vec<u8>>()
        };
        assert_eq!(due(300_000 + BLOCK.0 - 1), [0_u8; 0]);
        assert_eq!(due(300_000 + BLOCK.0), [1]);
        assert_eq!(due(300_005 + BLOCK.0), [1, 2]);
        assert_eq!(due(400_000), [2]);
        assert_eq!(due(400_005), [0_u8; 0]);
    }

    #[test]
    fn what_was_taken_and_not_delivered_is_known_after_a_restart() {
        let folder = tempfile::tempdir().expect("a folder");
        let kept = Undeliveries::open(folder.path()).expect("opens");
        for (job, attempt) in [(1, 0), (2, 0), (1, 1)] {
            kept.keep(undelivered(job, attempt));
        }
        let of_first = vec![undelivered(1, 0), undelivered(1, 1)];
        assert_eq!(kept.of_job(JobId([1; 32])), of_first);
        drop(kept);
        let kept = Undeliveries::open(folder.path()).expect("opens");
        assert_eq!(kept.of_job(JobId([1; 32])), of_first);
        assert_eq!(kept.of_job(JobId([3; 32])), []);
    }
}
