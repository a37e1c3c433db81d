//! How one entry changes the book: first the whole change is worked out, then it is made; the second part cannot fail.

use super::batch::{BatchRecord, Posted};
use super::entry::SealedBatch;
use super::state::{AllotmentKey, AllotmentState, ChargedJob, Ended, PayoutKey, Reservation};
use super::{BookError, Entry, RouterBook};
use crate::fees::{self, Usage};
use std::collections::BTreeMap;
use stoa_crypto::receipt_leaf;
use stoa_types::{
    Address, Digest, JobId, PaidBy, RECEIPT_VERSION, Receipt, SignedReceipt, Timestamp, TokenAmount,
};

/// New values of what an entry changes.
#[derive(Debug, Default)]
struct Change {
    allotments: Vec<(AllotmentKey, AllotmentState)>,
    live: Option<(Address, Option<u32>)>,
    open: Option<(JobId, Option<Reservation>)>,
    ended: Option<(JobId, Ended)>,
    gross: Option<(PayoutKey, TokenAmount)>,
    sealed_gross: Option<BTreeMap<PayoutKey, TokenAmount>>,
    /// Number and new record; a number beyond the last is appended.
    batch: Option<(u64, BatchRecord)>,
    outstanding: Option<Vec<u64>>,
    claimable: Option<u64>,
}

/// The fields of `AllotmentSeen`.
struct Seen {
    account: Address,
    generation: u32,
    cap: TokenAmount,
    debited: TokenAmount,
    expiry: Timestamp,
    fee_version: u16,
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
        match change.open {
            Some((job, Some(reservation))) => {
                self.open.insert(job, reservation);
            }
            Some((job, None)) => {
                self.open.remove(&job);
            }
            None => {}
        }
        if let Some((job, ended)) = change.ended {
            if matches!(ended, Ended::Charged(_)) {
                self.leaves.push(job);
            }
            self.ended.insert(job, ended);
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
            } => self.plan_reserved(*job, (*account, *generation), *amount, *until),
            Entry::ReserveChanged { job, amount, until } => {
                self.plan_reserve_changed(*job, *amount, *until)
            }
            Entry::Released { job, cause } => {
                let held = self.reservation_of(*job)?;
                Ok(Change {
                    allotments: vec![self.without_hold(held)?],
                    open: Some((*job, None)),
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
        }
    }

    // ---- allotments

    /// The allotment, which must be the account's live one.
    fn live_allotment(&self, key: AllotmentKey) -> Result<&AllotmentState, BookError> {
        let (account, generation) = key;
        if self
            .allotments
            .get(&key)
            .is_some_and(|state| state.released)
        {
            return Err(BookError::AllotmentReleased {
                account,
                generation,
            });
        }
        match self.live.get(&account) {
            None => Err(BookError::NoAllotment { account }),
            Some(live) if *live != generation => Err(BookError::WrongGeneration {
                account,
                found: generation,
                live: *live,
            }),
            Some(_) => self
                .allotments
                .get(&key)
                .ok_or(BookError::NoAllotment { account }),
        }
    }

    fn plan_seen(&self, seen: Seen) -> Result<Change, BookError> {
        let key = (seen.account, seen.generation);
        let newest = self
            .allotments
            .range((seen.account, 0)..=(seen.account, u32::MAX))
            .next_back();
        match newest {
            Some(((_, known), _)) if *known == seen.generation => {
                self.plan_seen_again(key, self.live_allotment(key)?, &seen)
            }
            Some(((_, known), _)) if *known > seen.generation => Err(BookError::WrongGeneration {
                account: seen.account,
                found: seen.generation,
                live: *known,
            }),
            before => self.plan_seen_first(key, before, &seen),
        }
    }

    fn plan_seen_first(
        &self,
        key: AllotmentKey,
        before: Option<(&AllotmentKey, &AllotmentState)>,
        seen: &Seen,
    ) -> Result<Change, BookError> {
        if !seen.debited.is_zero() {
            return Err(BookError::DebitedBeyondBook {
                account: seen.account,
                debited: seen.debited,
                charged: TokenAmount::ZERO,
            });
        }
        let mut allotments = Vec::new();
        if let Some((key, state)) = before.filter(|(_, state)| !state.released) {
            let released = AllotmentState {
                released: true,
                ..state.clone()
            };
            allotments.push((*key, released));
        }
        let state = AllotmentState {
            cap: seen.cap,
            debited: TokenAmount::ZERO,
            expiry: seen.expiry,
            fee_version: seen.fee_version,
            held: TokenAmount::ZERO,
            charged: TokenAmount::ZERO,
            sealed: TokenAmount::ZERO,
            released: false,
        };
        allotments.push((key, state));
        Ok(Change {
            allotments,
            live: Some((seen.account, Some(seen.generation))),
            ..Change::default()
        })
    }

    fn plan_seen_again(
        &self,
        key: AllotmentKey,
        known: &AllotmentState,
        seen: &Seen,
    ) -> Result<Change, BookError> {
        let back = |what| BookError::ChainWentBack {
            account: seen.account,
            what,
        };
        if seen.cap < known.cap {
            return Err(back("cap"));
        }
        if seen.fee_version < known.fee_version {
            return Err(back("fee version"));
        }
        let state = AllotmentState {
            cap: seen.cap,
            expiry: seen.expiry,
            fee_version: seen.fee_version,
            ..self.with_debited(seen.account, known, seen.debited)?
        };
        Ok(Change {
            allotments: vec![(key, state)],
            ..Change::default()
        })
    }

    fn with_debited(
        &self,
        account: Address,
        known: &AllotmentState,
        debited: TokenAmount,
    ) -> Result<AllotmentState, BookError> {
        if debited < known.debited {
            return Err(BookError::ChainWentBack {
                account,
                what: "booked debit",
            });
        }
        // Debits come from claimable roots, so from sealed batches.
        if debited > known.sealed {
            return Err(BookError::DebitedBeyondBook {
                account,
                debited,
                charged: known.sealed,
            });
        }
        Ok(AllotmentState {
            debited,
            ..known.clone()
        })
    }

    fn plan_closed(&self, account: Address, generation: u32) -> Result<Change, BookError> {
        let key = (account, generation);
        let released = AllotmentState {
            released: true,
            ..self.live_allotment(key)?.clone()
        };
        Ok(Change {
            allotments: vec![(key, released)],
            live: Some((account, None)),
            ..Change::default()
        })
    }

    fn plan_synced(
        &self,
        account: Address,
        generation: u32,
        debited: TokenAmount,
    ) -> Result<Change, BookError> {
        let key = (account, generation);
        // A debit that was booked just before the release may be reported after it.
        let known = self
            .allotments
            .get(&key)
            .ok_or(BookError::NoAllotment { account })?;
        Ok(Change {
            allotments: vec![(key, self.with_debited(account, known, debited)?)],
            ..Change::default()
        })
    }

    fn plan_absorbed(
        &self,
        from: AllotmentKey,
        amount: TokenAmount,
        router_generation: u32,
    ) -> Result<Change, BookError> {
        let (account, _) = from;
        let source = self
            .allotments
            .get(&from)
            .ok_or(BookError::NoAllotment { account })?;
        let late = source.late();
        let left = |total: TokenAmount| total.checked_sub(amount);
        let enough = !amount.is_zero() && amount <= late;
        let (Some(charged), Some(sealed)) = (left(source.charged), left(source.sealed)) else {
            return Err(BookError::NothingLate { amount, late });
        };
        if !enough {
            return Err(BookError::NothingLate { amount, late });
        }
        let to = (self.router, router_generation);
        let target = self.live_allotment(to)?;
        cover(target, amount)?;
        let raise = |total: TokenAmount| total.checked_add(amount).ok_or(BookError::TooLarge);
        let source = AllotmentState {
            charged,
            sealed,
            ..source.clone()
        };
        let target = AllotmentState {
            charged: raise(target.charged)?,
            sealed: raise(target.sealed)?,
            ..target.clone()
        };
        Ok(Change {
            allotments: vec![(from, source), (to, target)],
            ..Change::default()
        })
    }

    // ---- jobs

    fn reservation_of(&self, job: JobId) -> Result<&Reservation, BookError> {
        self.open.get(&job).ok_or(match self.ended.get(&job) {
            Some(Ended::Charged(_)) => BookError::AlreadyCharged { job },
            Some(Ended::Released(_)) => BookError::AlreadyReleased { job },
            None => BookError::NotReserved { job },
        })
    }

    /// The allotment behind a reservation, with the hold taken off.
    fn without_hold(
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

    fn plan_reserved(
        &self,
        job: JobId,
        key: AllotmentKey,
        amount: TokenAmount,
        until: Timestamp,
    ) -> Result<Change, BookError> {
        if self.open.contains_key(&job) {
            return Err(BookError::AlreadyReserved { job });
        }
        match self.ended.get(&job) {
            Some(Ended::Charged(_)) => return Err(BookError::AlreadyCharged { job }),
            Some(Ended::Released(_)) => return Err(BookError::AlreadyReleased { job }),
            None => {}
        }
        let allotment = self.live_allotment(key)?;
        let reservation = Reservation {
            account: key.0,
            generation: key.1,
            amount,
            until,
            fee_version: allotment.fee_version,
        };
        Ok(Change {
            allotments: vec![(key, hold(allotment, amount, until)?)],
            open: Some((job, Some(reservation))),
            ..Change::default()
        })
    }

    fn plan_reserve_changed(
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
            open: Some((job, Some(reservation))),
            ..Change::default()
        })
    }

    fn plan_charged(&self, signed: &SignedReceipt) -> Result<Change, BookError> {
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
            open: Some((job, None)),
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

    // ---- batches

    fn plan_sealed(&self, sealed: &SealedBatch) -> Result<Change, BookError> {
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

    fn plan_posted(
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

    fn plan_promoted(&self, pay_root: Digest, gross: TokenAmount) -> Result<Change, BookError> {
        if self
            .claimable_batch()
            .is_some_and(|batch| batch.sealed.pay_root == pay_root)
        {
            return Err(BookError::AlreadyPromoted { pay_root });
        }
        let batch = self
            .outstanding_batch(pay_root)
            .filter(|(position, batch)| {
                *position == 0 && batch.posted.is_some() && batch.sealed.gross == gross
            })
            .map(|(_, batch)| batch)
            .ok_or(BookError::NotPending { pay_root })?;
        Ok(Change {
            outstanding: Some(self.outstanding[1..].to_vec()),
            claimable: Some(batch.sealed.index),
            ..Change::default()
        })
    }

    fn plan_voided(&self, pay_root: Digest) -> Result<Change, BookError> {
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
}

impl AllotmentState {
    /// Sealed charges that can no longer be debited.
    pub fn late(&self) -> TokenAmount {
        let unsettled = self.sealed.checked_sub(self.debited);
        unsettled
            .filter(|_| self.released)
            .unwrap_or(TokenAmount::ZERO)
    }
}

fn cover(allotment: &AllotmentState, needed: TokenAmount) -> Result<(), BookError> {
    let available = allotment.available();
    if needed <= available {
        Ok(())
    } else {
        Err(BookError::OverCap { needed, available })
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
