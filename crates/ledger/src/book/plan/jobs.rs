//! Reservations and their ends.

use super::Change;
use super::allotments::cover;
use crate::book::state::{AllotmentKey, AllotmentState, ChargedJob, Ended, Reservation};
use crate::book::{BookError, RouterBook};
use crate::fees::{self, Usage};
use stoa_crypto::receipt_leaf;
use stoa_types::{JobId, PaidBy, RECEIPT_VERSION, Receipt, SignedReceipt, Timestamp, TokenAmount};

impl RouterBook {
    pub(super) fn reservation_of(&self, job: JobId) -> Result<&Reservation, BookError> {
        self.open.get(&job).ok_or(match self.ended.get(&job) {
            Some(Ended::Charged(_)) => BookError::AlreadyCharged { job },
            Some(Ended::Released(_)) => BookError::AlreadyReleased { job },
            None => BookError::NotReserved { job },
        })
    }

    /// The allotment behind a reservation, with the hold taken off.
    pub(super) fn without_hold(
        &self,
        held: &Reservation,
    ) -> Result<(AllotmentKey, AllotmentState), BookError> {
        let key = (held.account, held.generation);
        let allotment = self.allotments.get(&key).ok_or(BookError::NoAllotment {
            account: held.account,
        })?;
        let rest = allotment
            .held
            .checked_sub(held.amount)
            .ok_or(BookError::TooLarge)?;
        Ok((
            key,
            AllotmentState {
                held: rest,
                ..allotment.clone()
            },
        ))
    }

    /// Holds `amount` for each of the jobs, or nothing.
    pub(super) fn plan_reserved(
        &self,
        jobs: &[JobId],
        key: AllotmentKey,
        amount: TokenAmount,
        until: Timestamp,
    ) -> Result<Change, BookError> {
        for (at, job) in jobs.iter().enumerate() {
            let is_twice = jobs[..at].contains(job);
            self.check_new(*job, is_twice)?;
        }
        let allotment = self.live_allotment(key)?;
        let sum = TokenAmount::checked_sum(jobs.iter().map(|_| amount));
        let sum = sum.ok_or(BookError::TooLarge)?;
        let reservation = Reservation {
            account: key.0,
            generation: key.1,
            amount,
            until,
            fee_version: allotment.fee_version,
        };
        let open = jobs.iter().map(|job| (*job, Some(reservation.clone())));
        Ok(Change {
            allotments: vec![(key, hold(allotment, sum, until)?)],
            open: open.collect(),
            ..Change::default()
        })
    }

    fn check_new(&self, job: JobId, is_twice: bool) -> Result<(), BookError> {
        if is_twice || self.open.contains_key(&job) {
            return Err(BookError::AlreadyReserved { job });
        }
        match self.ended.get(&job) {
            Some(Ended::Charged(_)) => Err(BookError::AlreadyCharged { job }),
            Some(Ended::Released(_)) => Err(BookError::AlreadyReleased { job }),
            None => Ok(()),
        }
    }

    pub(super) fn plan_reserve_changed(
        &self,
        job: JobId,
        amount: TokenAmount,
        until: Timestamp,
    ) -> Result<Change, BookError> {
        let held = self.reservation_of(job)?;
        let key = (held.account, held.generation);
        self.live_allotment(key)?;
        let (_, without) = self.without_hold(held)?;
        let reservation = Reservation {
            amount,
            until,
            ..held.clone()
        };
        Ok(Change {
            allotments: vec![(key, hold(&without, amount, until)?)],
            open: vec![(job, Some(reservation))],
            ..Change::default()
        })
    }

    pub(super) fn plan_charged(&self, signed: &SignedReceipt) -> Result<Change, BookError> {
        let receipt = &signed.receipt;
        let job = receipt.job_id;
        let held = self.reservation_of(job)?;
        self.check_receipt(receipt, held)?;
        let (key, without) = self.without_hold(held)?;
        if without.released {
            return Err(BookError::AllotmentReleased {
                account: key.0,
                generation: key.1,
            });
        }
        let charged = without.charged.checked_add(receipt.charge);
        let allotment = AllotmentState {
            charged: charged.ok_or(BookError::TooLarge)?,
            ..without
        };
        let payee = (receipt.provider, receipt.fee_version);
        let before = self.gross.get(&payee).copied().unwrap_or_default();
        let gross = before
            .checked_add(receipt.charge)
            .ok_or(BookError::TooLarge)?;
        let ended = Ended::Charged(ChargedJob {
            number: self.leaves.len() as u64,
            leaf: receipt_leaf(receipt),
            generation: held.generation,
            receipt: Box::new(signed.clone()),
        });
        Ok(Change {
            allotments: vec![(key, allotment)],
            open: vec![(job, None)],
            ended: Some((job, ended)),
            gross: (!receipt.charge.is_zero()).then_some((payee, gross)),
            ..Change::default()
        })
    }

    fn check_receipt(&self, receipt: &Receipt, held: &Reservation) -> Result<(), BookError> {
        let job = receipt.job_id;
        let fields = [
            ("version", receipt.version == RECEIPT_VERSION),
            ("chain id", receipt.chain_id == self.domain.chain_id),
            ("vault", receipt.vault == self.domain.vault),
            ("router", receipt.router == self.router),
            ("account", receipt.account == held.account),
            ("way of paying", receipt.paid_by == PaidBy::Allotment),
            ("fee version", receipt.fee_version == held.fee_version),
        ];
        if let Some((what, _)) = fields.into_iter().find(|(_, same)| !same) {
            return Err(BookError::ForeignReceipt { job, what });
        }
        let usage = Usage {
            input_units: receipt.input_units,
            output_units: receipt.output_units,
            input_price: receipt.input_price,
            output_price: receipt.output_price,
        };
        let expected = fees::charge(&usage, held.amount)?;
        if receipt.charge == expected {
            Ok(())
        } else {
            Err(BookError::WrongCharge {
                job,
                found: receipt.charge,
                expected,
            })
        }
    }
}

/// The allotment with `amount` held until `until`.
fn hold(
    allotment: &AllotmentState,
    amount: TokenAmount,
    until: Timestamp,
) -> Result<AllotmentState, BookError> {
    if until >= allotment.expiry {
        return Err(BookError::Expired {
            until,
            expiry: allotment.expiry,
        });
    }
    cover(allotment, amount)?;
    let held = allotment.held.checked_add(amount);
    Ok(AllotmentState {
        held: held.ok_or(BookError::TooLarge)?,
        ..allotment.clone()
    })
}
