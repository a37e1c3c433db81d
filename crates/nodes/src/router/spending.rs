//! Which key a call came with, and what the calls of each key cost.
//!
//! The key's id is woven into the job's id, masked so that only the router can tell it. The book keeps every job's id with its
//! charge, so the spending of each key is recovered with the book after any crash and needs no record of its own.

use super::Output;
use super::Router;
use crate::client::{Cause, KeyId, SpendAlert};
use std::collections::BTreeMap;
use stoa_crypto::keccak256;
use stoa_types::{JobId, Timestamp, TokenAmount};

/// Bytes of a job's id that are drawn at random; the other eight are the masked key.
const DRAWN: usize = 24;
const DAY_MS: u64 = 86_400_000;
/// A sum that fits no amount: more than any limit.
const MOST: TokenAmount = TokenAmount::from_units(u128::MAX);

/// Shares of a spend limit, in percent, at which somebody is told.
const ALERT_PERCENTS: [u32; 3] = [50, 80, 100];

/// The shares of a limit, in percent, that `spent` has reached; none of a limit of nothing.
pub fn spend_alerts(spent: TokenAmount, limit: TokenAmount) -> impl Iterator<Item = u32> {
    // Divided before it is multiplied: no amount overflows, and less than one unit is lost.
    let share = move |percent: u32| {
        let percent = u128::from(percent);
        limit.units() / 100 * percent + limit.units() % 100 * percent / 100
    };
    let reached = move |percent: &u32| !limit.is_zero() && spent.units() >= share(*percent);
    ALERT_PERCENTS.into_iter().filter(reached)
}

/// Days since the Unix epoch, in universal time.
pub fn day_of(time: Timestamp) -> u64 {
    time.0 / DAY_MS
}

/// What the calls of each key cost, by day.
#[derive(Debug, Clone, Default)]
pub(super) struct Spending {
    days: BTreeMap<KeyId, BTreeMap<u64, TokenAmount>>,
}

impl Spending {
    pub(super) fn add(&mut self, key: KeyId, at: Timestamp, charge: TokenAmount) {
        let days = self.days.entry(key).or_default();
        let spent = days.entry(day_of(at)).or_default();
        *spent = spent.checked_add(charge).unwrap_or(MOST);
    }

    fn since(&self, key: KeyId, day: u64) -> TokenAmount {
        let days = self.days.get(&key).into_iter();
        let spent = days.flat_map(|days| days.range(day..).map(|(_, spent)| *spent));
        TokenAmount::checked_sum(spent).unwrap_or(MOST)
    }
}

impl Router {
    /// Id of a new job: `drawn` must be random and new.
    pub fn job_id(&self, key: KeyId, drawn: [u8; DRAWN]) -> JobId {
        let mask = self.mask(&drawn);
        let mut id = [0; 32];
        id[..DRAWN].copy_from_slice(&drawn);
        id[DRAWN..].copy_from_slice(&(key.0 ^ mask).to_be_bytes());
        JobId(id)
    }

    /// The key that a job came with, going by its id. For an id that this router did not make it is any number.
    pub fn key_of(&self, job: JobId) -> KeyId {
        let (drawn, masked) = job.0.split_at(DRAWN);
        let masked = masked.try_into().map_or(0, u64::from_be_bytes);
        KeyId(masked ^ self.mask(drawn))
    }

    /// Id of choice `index` of a request: the request's own for choice 0. It names the same key, and follows from that of the request for
    /// this router alone.
    pub fn choice_id(&self, request: JobId, index: u32) -> JobId {
        if index == 0 {
            return request;
        }
        let domain = b"stoa: job of a choice, v1".as_slice();
        let secret = self.config.key.to_bytes();
        let digest = keccak256([domain, &secret, &request.0, &index.to_be_bytes()].concat()).0;
        let mut drawn = [0; DRAWN];
        drawn.copy_from_slice(&digest[..DRAWN]);
        self.job_id(self.key_of(request), drawn)
    }

    /// Ids of all choices of a request, in their order.
    pub fn choice_ids(&self, request: JobId, choices: u32) -> Vec<JobId> {
        let choices = 0..choices.max(1);
        choices
            .map(|index| self.choice_id(request, index))
            .collect()
    }

    fn mask(&self, drawn: &[u8]) -> u64 {
        let domain = b"stoa: key of a job, v1".as_slice();
        let secret = self.config.key.to_bytes();
        let digest = keccak256([domain, &secret, drawn].concat()).0;
        digest[..8].try_into().map_or(0, u64::from_be_bytes)
    }

    /// What was charged for the calls of a key from a day on, and what is held for those under way.
    pub fn spent_by(&self, key: KeyId, first_day: u64) -> (TokenAmount, TokenAmount) {
        let own = self.jobs.iter().filter(|(_, state)| state.key == key);
        // A job that is being charged is counted as charged already.
        let held = own.filter(|(job, _)| self.book.receipt(**job).is_none());
        let held = TokenAmount::checked_sum(held.map(|(_, state)| state.reserve));
        (self.spending.since(key, first_day), held.unwrap_or(MOST))
    }

    /// Counts a charge for its key; says so where that passes a share of the key's limit.
    pub(super) fn spend(
        &mut self,
        job: JobId,
        charge: TokenAmount,
        now: Timestamp,
        outputs: &mut Vec<Output>,
    ) {
        let Some(state) = self.jobs.get(&job) else {
            return;
        };
        let (key, budget) = (state.key, state.request.constraints.budget);
        self.spending.add(key, now, charge);
        let Some(budget) = budget else {
            return;
        };
        let (amount, spent) = (budget.amount, self.spending.since(key, budget.first_day));
        let before = spent.checked_sub(charge).unwrap_or(TokenAmount::ZERO);
        let reached = spend_alerts(spent, amount).last();
        if let Some(percent) = reached.filter(|_| reached > spend_alerts(before, amount).last()) {
            outputs.push(Output::SpendAlert(SpendAlert {
                key,
                percent,
                spent,
                amount,
            }));
        }
    }

    /// What was charged for the calls of a key on each day from a day on, oldest first; days without a charge are left out.
    pub fn spent_by_day(
        &self,
        key: KeyId,
        first_day: u64,
    ) -> impl Iterator<Item = (u64, TokenAmount)> {
        let days = self.spending.days.get(&key).into_iter();
        days.flat_map(move |days| days.range(first_day..).map(|(day, spent)| (*day, *spent)))
    }

    /// What the key of a call may still spend; `None` without a limit.
    pub(super) fn left_of_budget(&self, call: &super::waiting::Call) -> Option<TokenAmount> {
        let budget = call.request.constraints.budget?;
        let (charged, held) = self.spent_by(budget.key, budget.first_day);
        let used = charged.checked_add(held).unwrap_or(MOST);
        Some(budget.amount.checked_sub(used).unwrap_or(TokenAmount::ZERO))
    }

    /// Refuses a reservation that the key's spend limit does not cover.
    pub(super) fn within_budget(
        &self,
        call: &super::waiting::Call,
        needed: TokenAmount,
    ) -> Result<(), Cause> {
        match self.left_of_budget(call) {
            Some(available) if needed > available => Err(Cause::BudgetExceeded {
                needed,
                choices: call.request.choices,
                available,
                resets_at: call.request.constraints.budget.and_then(|b| b.resets_at),
            }),
            _ => Ok(()),
        }
    }
}
