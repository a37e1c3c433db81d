//! How one entry changes the book: first the whole change is worked out, then it is made; the second part cannot fail.

mod allotments;
mod batches;
mod jobs;
mod reversals;

use super::batch::{BatchRecord, Posted};
use super::state::{AllotmentKey, AllotmentState, Ended, PayoutKey, Reservation};
use super::{BookError, Entry, RouterBook};
use allotments::Seen;
use std::collections::BTreeMap;
use stoa_types::{Address, JobId, TokenAmount};

/// New values of what an entry changes.
#[derive(Debug, Default)]
pub(super) struct Change {
    allotments: Vec<(AllotmentKey, AllotmentState)>,
    live: Option<(Address, Option<u32>)>,
    open: Vec<(JobId, Option<Reservation>)>,
    ended: Option<(JobId, Ended)>,
    gross: Option<(PayoutKey, TokenAmount)>,
    sealed_gross: Option<BTreeMap<PayoutKey, TokenAmount>>,
    /// Number and new record; a number beyond the last is appended.
    batch: Option<(u64, BatchRecord)>,
    outstanding: Option<Vec<u64>>,
    claimable: Option<u64>,
    /// A reversed job, and whether its charge has left the totals.
    reversed: Option<(JobId, bool)>,
}

impl RouterBook {
    /// Whether [`RouterBook::apply`] would take the entry.
    pub fn check(&self, entry: &Entry) -> Result<(), BookError> {
        self.plan(entry).map(drop)
    }

    /// Takes the entry. On an error the book is unchanged.
    pub fn apply(&mut self, entry: &Entry) -> Result<(), BookError> {
        let change = self.plan(entry)?;
        self.make(change);
        Ok(())
    }

    fn make(&mut self, change: Change) {
        self.allotments.extend(change.allotments);
        match change.live {
            Some((account, Some(generation))) => {
                self.live.insert(account, generation);
            }
            Some((account, None)) => {
                self.live.remove(&account);
            }
            None => {}
        }
        for (job, reservation) in change.open {
            match reservation {
                Some(reservation) => self.open.insert(job, reservation),
                None => self.open.remove(&job),
            };
        }
        if let Some((job, ended)) = change.ended {
            match ended {
                Ended::Charged(_) => self.leaves.push(job),
                Ended::Released(_) => self.released.push_back(job),
            }
            self.ended.insert(job, ended);
            self.forget_released();
        }
        self.gross.extend(change.gross);
        if let Some(sealed_gross) = change.sealed_gross {
            self.sealed_gross = sealed_gross;
        }
        if let Some((index, record)) = change.batch {
            match self.batch_mut(index) {
                Some(slot) => *slot = record,
                None => self.batches.push(record),
            }
        }
        if let Some(outstanding) = change.outstanding {
            self.outstanding = outstanding;
        }
        self.claimable = change.claimable.or(self.claimable);
        self.reversed.extend(change.reversed);
    }

    fn plan(&self, entry: &Entry) -> Result<Change, BookError> {
        match entry {
            Entry::AllotmentSeen {
                account,
                generation,
                cap,
                debited,
                expiry,
                fee_version,
            } => self.plan_seen(Seen {
                account: *account,
                generation: *generation,
                cap: *cap,
                debited: *debited,
                expiry: *expiry,
                fee_version: *fee_version,
            }),
            Entry::AllotmentClosed {
                account,
                generation,
            } => self.plan_closed(*account, *generation),
            Entry::Reserved {
                job,
                account,
                generation,
                amount,
                until,
            } => self.plan_reserved(&[*job], (*account, *generation), *amount, *until),
            Entry::ReservedTogether {
                jobs,
                account,
                generation,
                amount,
                until,
            } => self.plan_reserved(jobs, (*account, *generation), *amount, *until),
            Entry::ReserveChanged { job, amount, until } => {
                self.plan_reserve_changed(*job, *amount, *until)
            }
            Entry::Released { job, cause } => {
                let held = self.reservation_of(*job)?;
                Ok(Change {
                    allotments: vec![self.without_hold(held)?],
                    open: vec![(*job, None)],
                    ended: Some((*job, Ended::Released(*cause))),
                    ..Change::default()
                })
            }
            Entry::Charged { receipt } => self.plan_charged(receipt),
            Entry::BatchSealed(sealed) => self.plan_sealed(sealed),
            Entry::BatchPosted {
                index,
                chain_head,
                block,
                at,
            } => self.plan_posted(
                *index,
                *chain_head,
                Posted {
                    block: *block,
                    at: *at,
                },
            ),
            Entry::PayoutPromoted { pay_root, gross } => self.plan_promoted(*pay_root, *gross),
            Entry::PayoutVoided { pay_root } => self.plan_voided(*pay_root),
            Entry::PayoutStands { pay_root } => self.plan_stands(*pay_root),
            Entry::DebitsSynced {
                account,
                generation,
                debited,
            } => self.plan_synced(*account, *generation, *debited),
            Entry::LateDebitsAbsorbed {
                account,
                generation,
                amount,
                router_generation,
            } => self.plan_absorbed((*account, *generation), *amount, *router_generation),
            Entry::JobReversed { job } => self.plan_reversed(*job),
            Entry::ChargeTakenBack { job } => self.plan_taken_back(*job),
        }
    }
}
