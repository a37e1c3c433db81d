//! Charges that a verdict took away.
//!
//! A payout root that stands is the vault's truth: a charge under it is not taken back here while the root may still pay it. What a
//! verdict reverses before a root becomes claimable was debited from nobody, so that taking it out of the totals refunds it to the unit.

use super::Change;
use crate::book::batch::BatchRecord;
use crate::book::state::{AllotmentKey, AllotmentState, ChargedJob};
use crate::book::{BookError, Entry, RouterBook};
use stoa_types::{Digest, JobId, TokenAmount};

impl RouterBook {
    pub(super) fn plan_reversed(&self, job: JobId) -> Result<Change, BookError> {
        if self.reversed.contains_key(&job) {
            return Err(BookError::AlreadyReversed { job });
        }
        let (index, _) = self.batch_of(job).ok_or(BookError::NotPosted { job })?;
        if index > self.posted_count() {
            return Err(BookError::NotPosted { job });
        }
        Ok(Change {
            reversed: Some((job, false)),
            ..Change::default()
        })
    }

    pub(super) fn plan_taken_back(&self, job: JobId) -> Result<Change, BookError> {
        let not = |why| BookError::NotTakenBack { job, why };
        let why = match self.reversed.get(&job) {
            None => Some("no verdict reversed it"),
            Some(true) => Some("it was taken back before"),
            Some(false) => self.still_paid(job),
        };
        if let Some(why) = why {
            return Err(not(why));
        }
        let charged = self.charged_job(job).ok_or(not("it was never charged"))?;
        let receipt = &charged.receipt.receipt;
        let charge = receipt.charge;
        let mut change = Change {
            reversed: Some((job, true)),
            ..Change::default()
        };
        if charge.is_zero() {
            return Ok(change);
        }
        let payee = (receipt.provider, receipt.fee_version);
        let less = |total: Option<&TokenAmount>| total.and_then(|total| total.checked_sub(charge));
        let gross = less(self.gross.get(&payee)).ok_or(BookError::TooLarge)?;
        let mut sealed_gross = self.sealed_gross.clone();
        let sealed = less(sealed_gross.get(&payee)).ok_or(BookError::TooLarge)?;
        // A total of nothing is no total: the sums are compared with those of the receipts.
        sealed_gross.insert(payee, sealed);
        sealed_gross.retain(|_, total| !total.is_zero());
        change.gross = Some((payee, gross));
        change.sealed_gross = Some(sealed_gross);
        let key = (receipt.account, charged.generation);
        change.allotments = self.relieved(key, charge).ok_or(not(
            "what it was paid from has been debited, which no root that paid it can have done",
        ))?;
        Ok(change)
    }

    /// What stands in the way of taking a reversed charge back.
    fn still_paid(&self, job: JobId) -> Option<&'static str> {
        let Some((index, _)) = self.batch_of(job) else {
            return Some("it is in no batch");
        };
        if self.claimable.is_some_and(|paid| index <= paid) {
            return Some("a claimable payout root pays it");
        }
        let waits = |batch: &BatchRecord| {
            let own = batch.sealed.index;
            // One that is on its way to the vault may get there with its root, whatever is decided here.
            own >= index
                && batch.sealed.pay_root != Digest::ZERO
                && (self.outstanding.contains(&own) || batch.posted.is_none())
        };
        let waiting = self.batches.iter().rev().any(waits);
        waiting.then_some("a payout root that pays it may still become claimable")
    }

    /// The allotments without a sealed charge: first the one that was charged, then those by which the router took it over.
    fn relieved(
        &self,
        key: AllotmentKey,
        charge: TokenAmount,
    ) -> Option<Vec<(AllotmentKey, AllotmentState)>> {
        let own = (self.router, 0)..=(self.router, u32::MAX);
        let own = self.allotments.range(own).rev().map(|(key, _)| *key);
        let mut left = charge;
        let mut changed = Vec::new();
        for key in std::iter::once(key).chain(own.filter(|other| *other != key)) {
            let state = self.allotments.get(&key)?;
            let part = left.min(self.undebited(key, state));
            left = left.checked_sub(part)?;
            let relieved = AllotmentState {
                charged: state.charged.checked_sub(part)?,
                sealed: state.sealed.checked_sub(part)?,
                ..state.clone()
            };
            changed.push((key, relieved));
            if left.is_zero() {
                return Some(changed);
            }
        }
        None
    }

    /// Sealed charges of an allotment that no claimable root debits.
    fn undebited(&self, key: AllotmentKey, state: &AllotmentState) -> TokenAmount {
        let set = self.claimable_batch().and_then(|b| b.payout.as_ref());
        let claimable = set.and_then(|set| set.debits.get(&key)).copied();
        let claimable = claimable.filter(|_| !state.released).unwrap_or_default();
        let debited = claimable.max(state.debited);
        state.sealed.checked_sub(debited).unwrap_or_default()
    }

    /// The next reversed charge that nothing pays any more, as the entry that takes it out of the totals.
    pub fn take_back_due(&self) -> Option<Entry> {
        let due = |(job, taken): (&JobId, &bool)| {
            let entry = Entry::ChargeTakenBack { job: *job };
            (!taken && self.check(&entry).is_ok()).then_some(entry)
        };
        self.reversed.iter().find_map(due)
    }

    /// A payout root that is not posted yet and pays a reversed charge: it must not be posted.
    pub fn payout_of_reversed(&self) -> Option<&BatchRecord> {
        self.outstanding_payouts()
            .find(|batch| batch.posted.is_none() && self.pays_reversed(batch))
    }

    /// A payout root in its window that pays a reversed charge: its post was under way when the verdict cancelled the one before, so that
    /// the router has to cancel it itself.
    pub fn pending_of_reversed(&self) -> Option<&BatchRecord> {
        self.outstanding_payouts()
            .find(|batch| batch.posted.is_some() && self.pays_reversed(batch))
    }

    fn pays_reversed(&self, batch: &BatchRecord) -> bool {
        let own = batch.sealed.index;
        // A charge under the claimable root stays paid: no later root could leave it out.
        let settled = self.claimable.unwrap_or_default();
        self.reversed.iter().any(|(job, taken)| {
            let index = self.batch_of(*job).map(|(index, _)| index);
            !taken && index.is_some_and(|index| settled < index && index <= own)
        })
    }

    /// Whether a verdict reversed the job, and whether its charge has left the totals since.
    pub fn reversal(&self, job: JobId) -> Option<bool> {
        self.reversed.get(&job).copied()
    }
}

impl ChargedJob {
    /// What the job still adds to the totals of `book`.
    pub(crate) fn counts(&self, book: &RouterBook) -> bool {
        let receipt = &self.receipt.receipt;
        !receipt.charge.is_zero() && book.reversed.get(&receipt.job_id) != Some(&true)
    }
}
