//! The sums of the book, recomputed from their parts.

use super::error::Imbalance;
use super::state::{Ended, RouterBook};
use std::collections::BTreeMap;
use stoa_types::{Address, JobId, TokenAmount};

impl RouterBook {
    /// Recomputes every stored sum from its parts.
    pub fn check_conservation(&self) -> Result<(), Imbalance> {
        self.check_caps()?;
        self.check_allotment_sums()?;
        self.check_payout_sums()?;
        self.check_batches()?;
        let posted = |job: &JobId| {
            self.batch_of(*job)
                .is_some_and(|(i, _)| i <= self.posted_count())
        };
        let ruled = self.reversed.keys().all(posted);
        require(ruled, "set of reversed jobs")?;
        let exclusive = self.open.keys().all(|job| !self.ended.contains_key(job));
        require(exclusive, "set of jobs that are reserved or ended")
    }

    fn check_caps(&self) -> Result<(), Imbalance> {
        for ((account, generation), state) in &self.allotments {
            let used = sum([state.charged, state.held], "charges and reserves")?;
            if used > state.cap {
                return Err(Imbalance::AboveCap {
                    account: *account,
                    generation: *generation,
                    used,
                    cap: state.cap,
                });
            }
            let ordered = state.debited <= state.sealed && state.sealed <= state.charged;
            require(ordered, "settled part of an allotment's charges")?;
            let live = self.live.get(account) == Some(generation);
            require(live != state.released, "set of live allotments")?;
        }
        let known = |(account, generation): (&Address, &u32)| {
            self.allotments.contains_key(&(*account, *generation))
        };
        require(self.live.iter().all(known), "set of live allotments")
    }

    fn check_allotment_sums(&self) -> Result<(), Imbalance> {
        let mut held = BTreeMap::new();
        for reservation in self.open.values() {
            let key = (reservation.account, reservation.generation);
            add(&mut held, key, reservation.amount)?;
        }
        for (key, state) in &self.allotments {
            let expected = held.remove(key).unwrap_or_default();
            require(state.held == expected, "reserve of an allotment")?;
        }
        require(held.is_empty(), "reserve of an unknown allotment")
    }

    fn check_payout_sums(&self) -> Result<(), Imbalance> {
        let (mut gross, mut sealed_gross) = (BTreeMap::new(), BTreeMap::new());
        let charged_jobs = self
            .ended
            .values()
            .filter(|ended| matches!(ended, Ended::Charged(_)))
            .count();
        require(charged_jobs == self.leaves.len(), "number of leaves")?;
        for (number, job) in self.leaves.iter().enumerate() {
            let Some(job) = self
                .charged_job(*job)
                .filter(|job| job.number == number as u64)
            else {
                return require(false, "order of leaves");
            };
            let receipt = &job.receipt.receipt;
            if !job.counts(self) {
                continue;
            }
            let key = (receipt.provider, receipt.fee_version);
            add(&mut gross, key, receipt.charge)?;
            if job.number < self.sealed_leaves() {
                add(&mut sealed_gross, key, receipt.charge)?;
            }
        }
        let known = self.gross.iter().filter(|(_, gross)| !gross.is_zero());
        require(gross.iter().eq(known), "providers' lifetime gross")?;
        require(
            sealed_gross == self.sealed_gross,
            "providers' gross in batches",
        )?;
        let states = || self.allotments.values();
        let charged = sum(states().map(|state| state.charged), "lifetime debits")?;
        let sealed = sum(states().map(|state| state.sealed), "debits in batches")?;
        let gross = sum(gross.into_values(), "lifetime gross")?;
        let sealed_gross = sum(sealed_gross.into_values(), "gross in batches")?;
        require(charged == gross, "developers' lifetime debits")?;
        require(sealed == sealed_gross, "developers' debits in batches")
    }

    fn check_batches(&self) -> Result<(), Imbalance> {
        let mut first = 0;
        for (position, batch) in self.batches.iter().enumerate() {
            let in_order = batch.sealed.index == position as u64 + 1 && batch.sealed.first == first;
            require(in_order, "sequence of batches")?;
            first += u64::from(batch.sealed.job_count);
            let posted_in_order =
                batch.posted.is_none() || batch.sealed.index <= self.posted_count();
            require(posted_in_order, "sequence of posts")?;
            let Some(set) = &batch.payout else { continue };
            let gross = sum(set.providers.values().copied(), "gross of a payout root")?;
            let debits = sum(set.debits.values().copied(), "debits of a payout root")?;
            require(
                gross == batch.sealed.gross && debits == gross,
                "gross of a payout root",
            )?;
        }
        require(first <= self.leaves.len() as u64, "number of sealed leaves")
    }
}

fn require(holds: bool, what: &'static str) -> Result<(), Imbalance> {
    if holds {
        Ok(())
    } else {
        Err(Imbalance::Total { what })
    }
}

fn sum(
    amounts: impl IntoIterator<Item = TokenAmount>,
    what: &'static str,
) -> Result<TokenAmount, Imbalance> {
    TokenAmount::checked_sum(amounts).ok_or(Imbalance::Total { what })
}

fn add<K: Ord>(
    totals: &mut BTreeMap<K, TokenAmount>,
    key: K,
    amount: TokenAmount,
) -> Result<(), Imbalance> {
    let total = totals.entry(key).or_default();
    *total = sum([*total, amount], "running total")?;
    Ok(())
}
