//! Batches and payout roots on their way.

use super::Change;
use crate::book::batch::{BatchRecord, Posted};
use crate::book::entry::SealedBatch;
use crate::book::state::{AllotmentKey, AllotmentState};
use crate::book::{BookError, RouterBook};
use stoa_types::{Digest, TokenAmount};

impl RouterBook {
    pub(super) fn plan_sealed(&self, sealed: &SealedBatch) -> Result<Change, BookError> {
        let index = sealed.index;
        let wrong = |what| BookError::WrongBatch { index, what };
        if index != self.batches.len() as u64 + 1 {
            return Err(wrong("number"));
        }
        let with_payout = sealed.pay_root != Digest::ZERO;
        let composed = self.compose(sealed.job_count, with_payout, sealed.sealed_at)?;
        if composed.record.sealed != *sealed {
            let found = &composed.record.sealed;
            let what = if found.job_root != sealed.job_root {
                "job root"
            } else if found.pay_root != sealed.pay_root || found.gross != sealed.gross {
                "payout root"
            } else {
                "content"
            };
            return Err(wrong(what));
        }
        let sealed_allotment = |(key, sealed): (&AllotmentKey, &TokenAmount)| {
            let known = self.allotments.get(key);
            let known = known.ok_or(BookError::NoAllotment { account: key.0 })?;
            let state = AllotmentState {
                sealed: *sealed,
                ..known.clone()
            };
            Ok((*key, state))
        };
        let allotments: Result<Vec<_>, BookError> = composed
            .sealed_debits
            .iter()
            .map(sealed_allotment)
            .collect();
        let mut outstanding = self.outstanding.clone();
        outstanding.extend(with_payout.then_some(index));
        Ok(Change {
            allotments: allotments?,
            sealed_gross: Some(composed.sealed_gross),
            batch: Some((index, composed.record)),
            outstanding: Some(outstanding),
            ..Change::default()
        })
    }

    pub(super) fn plan_posted(
        &self,
        index: u64,
        chain_head: Digest,
        posted: Posted,
    ) -> Result<Change, BookError> {
        let next = self.posted_count() + 1;
        if index < next {
            return Err(BookError::AlreadyPosted { index });
        }
        let batch = self.batch(index).filter(|_| index == next);
        let batch = batch.ok_or(BookError::NotNextPost { index, next })?;
        if batch.head != chain_head {
            return Err(BookError::WrongChainHead {
                index,
                found: chain_head,
                expected: batch.head,
            });
        }
        let record = BatchRecord {
            posted: Some(posted),
            ..batch.clone()
        };
        Ok(Change {
            batch: Some((index, record)),
            ..Change::default()
        })
    }

    /// The outstanding batch with this payout root.
    fn outstanding_batch(&self, pay_root: Digest) -> Option<(usize, &BatchRecord)> {
        self.outstanding
            .iter()
            .enumerate()
            .filter_map(|(position, index)| Some((position, self.batch(*index)?)))
            .find(|(_, batch)| batch.sealed.pay_root == pay_root)
    }

    pub(super) fn plan_promoted(
        &self,
        pay_root: Digest,
        gross: TokenAmount,
    ) -> Result<Change, BookError> {
        // Also those that later ones have replaced: events may be told again.
        let past = self.claimable.unwrap_or(0);
        let promoted = || {
            self.batches.iter().rev().any(|batch| {
                batch.sealed.index <= past && !batch.voided && batch.sealed.pay_root == pay_root
            })
        };
        // First the one that waits: a root that says nothing new has the value of one that was promoted.
        let waits = self
            .outstanding_batch(pay_root)
            .filter(|(position, batch)| {
                *position == 0 && batch.posted.is_some() && batch.sealed.gross == gross
            })
            .map(|(_, batch)| batch);
        let batch = match waits {
            Some(batch) => batch,
            None if pay_root != Digest::ZERO && promoted() => {
                return Err(BookError::AlreadyPromoted { pay_root });
            }
            None => return Err(BookError::NotPending { pay_root }),
        };
        Ok(Change {
            outstanding: Some(self.outstanding[1..].to_vec()),
            claimable: Some(batch.sealed.index),
            ..Change::default()
        })
    }

    pub(super) fn plan_voided(&self, pay_root: Digest) -> Result<Change, BookError> {
        let (position, batch) = self
            .outstanding_batch(pay_root)
            .ok_or(BookError::NotPending { pay_root })?;
        let mut outstanding = self.outstanding.clone();
        outstanding.remove(position);
        let record = BatchRecord {
            voided: true,
            ..batch.clone()
        };
        Ok(Change {
            batch: Some((batch.sealed.index, record)),
            outstanding: Some(outstanding),
            ..Change::default()
        })
    }

    pub(super) fn plan_stands(&self, pay_root: Digest) -> Result<Change, BookError> {
        let batch = self
            .next_post()
            .filter(|batch| batch.voided && batch.sealed.pay_root == pay_root)
            .ok_or(BookError::NotPending { pay_root })?;
        let mut outstanding = self.outstanding.clone();
        let after = outstanding.partition_point(|index| *index < batch.sealed.index);
        outstanding.insert(after, batch.sealed.index);
        let record = BatchRecord {
            voided: false,
            ..batch.clone()
        };
        Ok(Change {
            batch: Some((batch.sealed.index, record)),
            outstanding: Some(outstanding),
            ..Change::default()
        })
    }
}
