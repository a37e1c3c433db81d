//! Orders that providers took and did not deliver, on the router's disk: what can be claimed from each ticket's deadline on, also after a
//! restart. Both signatures, and nothing of prompt or answer.

use super::records::Records;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use stoa_nodes::client::Undelivered;
use stoa_types::{JobId, Millis, Timestamp};

/// Blocks count whole seconds: the contract's clock may be as far behind.
const BLOCK: Millis = Millis::from_secs(1);
const DAY_SECONDS: u64 = 86_400;

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

    /// What can be claimed now: the first order of each provider and day of which nothing was delivered by its deadline, for so long after it.
    /// All that a provider did not deliver in a day is one fault.
    pub fn due(&self, now: Timestamp, window: Millis) -> Vec<Undelivered> {
        let kept = self.lock();
        let mut first = BTreeMap::new();
        for undelivered in kept.records.newest().chain(&kept.unwritten) {
            let ticket = &undelivered.ticket.ticket;
            if ticket.deadline.plus(BLOCK) <= now {
                let day = ticket.deadline.secs() / DAY_SECONDS;
                first.entry((ticket.provider, day)).or_insert(undelivered);
            }
        }
        let open = |u: &&Undelivered| now < u.ticket.ticket.deadline.plus(window);
        first.into_values().filter(open).cloned().collect()
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
    use stoa_types::{
        Acceptance, Address, Digest, Price, Signature, SignedAcceptance, SignedTicket, Ticket,
        Tier, Timestamp, TokenAmount,
    };

    fn undelivered(job: u8, attempt: u32) -> Undelivered {
        let ticket = Ticket {
            job_id: JobId([job; 32]),
            account: Address([1; 20]),
            router: Address([2; 20]),
            provider: Address([3; 20]),
            model_root: Digest([4; 32]),
            parameters_digest: Digest([5; 32]),
            request_digest: Digest([6; 32]),
            work_digest: Digest([7; 32]),
            input_price: Price::default(),
            output_price: Price::default(),
            input_units_max: 1,
            output_units_max: 1,
            reserve: TokenAmount::ZERO,
            fee_version: 1,
            tier: Tier::Exact,
            attempt,
            issued_at: Timestamp(1),
            deadline: Timestamp(2),
        };
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
    fn one_order_of_each_provider_and_day_is_due_from_its_deadline_until_the_window_ends() {
        let folder = tempfile::tempdir().expect("a folder");
        let kept = Undeliveries::open(folder.path()).expect("opens");
        let day = 1_000 * DAY_SECONDS;
        for (provider, deadline) in [(1, day), (1, day + 5), (2, day + 5), (1, 2 * day)] {
            let mut one = undelivered(1, 0);
            one.ticket.ticket.provider = Address([provider; 20]);
            one.ticket.ticket.deadline = Timestamp(deadline);
            kept.keep(one);
        }
        let due = |now| {
            let due = kept.due(Timestamp(now), Millis(day));
            let tickets = due.iter().map(|u| &u.ticket.ticket);
            let named = tickets.map(|t| (t.provider.0[0], t.deadline.0));
            named.collect::<Vec<_>>()
        };
        assert_eq!(due(day + BLOCK.0 - 1), []);
        assert_eq!(due(day + BLOCK.0), [(1, day)]);
        assert_eq!(due(2 * day - 1), [(1, day), (2, day + 5)]);
        // The second of the first provider's day is not claimed when the first cannot be any more.
        assert_eq!(due(2 * day + 1), [(2, day + 5)]);
        assert_eq!(due(2 * day + BLOCK.0), [(1, 2 * day)]);
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
