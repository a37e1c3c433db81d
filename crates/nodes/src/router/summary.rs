//! What a router tells about the calls it works on.

use super::{Job, Phase, Router};
use crate::client::{Cause, Undelivered};
use stoa_types::{Address, JobId, JobState, Price, Ticket, Timestamp, TokenAmount};

/// Delivered jobs whose time to first token is remembered.
const RECENT: usize = 64;
/// Lost attempts that are remembered.
const LOSSES: usize = 512;

/// An attempt at a job that ended without a receipt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// The job.
    pub job: JobId,
    /// Who lost it.
    pub provider: Address,
    /// Which attempt, from 0.
    pub attempt: u32,
    /// Why.
    pub cause: Cause,
    /// Whether it counts against the provider.
    pub fault: bool,
    /// When.
    pub at: Timestamp,
    /// What the provider had signed for, where it took the order and delivered nothing.
    pub undelivered: Option<Undelivered>,
}

/// One call in progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobSummary<'a> {
    /// The job.
    pub job: JobId,
    /// Who pays.
    pub account: Address,
    /// Where it stands.
    pub state: JobState,
    /// Model asked for.
    pub model: &'a str,
    /// Who works on it.
    pub provider: Option<Address>,
    /// Price of output tokens.
    pub output_price: Option<Price>,
    /// What is held.
    pub reserve: TokenAmount,
    /// Time to first token.
    pub ttft_ms: Option<u64>,
    /// Prompt tokens, once the provider counted them.
    pub input_units: u64,
    /// Output tokens so far.
    pub output_units: u64,
    /// When it was submitted.
    pub submitted_at: Timestamp,
}

impl Router {
    /// Calls in progress.
    pub fn summaries(&self) -> impl Iterator<Item = JobSummary<'_>> {
        self.jobs.iter().map(|(job, state)| summary(*job, state))
    }

    /// Calls of an account in progress, those that wait for a slot included; each choice of a request counts.
    pub fn active_of(&self, account: Address) -> usize {
        let running = self.jobs.values().filter(|job| job.account == account);
        running.count() + self.queue.jobs_of(account)
    }

    /// Whose call this is, while it is in progress.
    pub fn account_of(&self, job: JobId) -> Option<Address> {
        let waiting = || self.queue.account_of(job);
        self.jobs
            .get(&job)
            .map(|state| state.account)
            .or_else(waiting)
    }

    /// Charged jobs of an account, newest first.
    pub fn newest_jobs_of(&self, account: Address) -> impl Iterator<Item = JobId> {
        let jobs = self.by_account.get(&account);
        jobs.into_iter().flatten().rev().copied()
    }

    /// Finds account and key of every charged job once, so that nobody has to look through all of them later.
    pub(super) fn index_accounts(&mut self) {
        for job in self.book.newest_jobs() {
            if let Some(signed) = self.book.receipt(job) {
                let jobs = self.by_account.entry(signed.receipt.account).or_default();
                jobs.push(job);
                let (charge, at) = (signed.receipt.charge, signed.receipt.delivered_at);
                self.spending.add(self.key_of(job), at, charge);
            }
        }
        for jobs in self.by_account.values_mut() {
            jobs.reverse();
        }
    }

    /// Time to first token of a recently delivered job.
    pub fn ttft_of(&self, job: JobId) -> Option<u64> {
        self.recent_ttft
            .iter()
            .find(|(id, _)| *id == job)
            .map(|(_, ms)| *ms)
    }

    /// The newest attempts that ended without a receipt, newest first, since this router started.
    pub fn losses(&self) -> impl Iterator<Item = &Loss> {
        self.losses.iter().rev()
    }

    pub(super) fn remember_loss(
        &mut self,
        ticket: &Ticket,
        cause: Cause,
        fault: bool,
        at: Timestamp,
        undelivered: Option<Undelivered>,
    ) {
        self.losses.push_back(Loss {
            job: ticket.job_id,
            provider: ticket.provider,
            attempt: ticket.attempt,
            cause,
            fault,
            at,
            undelivered,
        });
        if self.losses.len() > LOSSES {
            self.losses.pop_front();
        }
    }

    pub(super) fn remember_ttft(&mut self, job: JobId, ms: u64) {
        self.recent_ttft.push_back((job, ms));
        if self.recent_ttft.len() > RECENT {
            self.recent_ttft.pop_front();
        }
    }
}

fn summary(job: JobId, state: &Job) -> JobSummary<'_> {
    let current = state.current.as_ref();
    let accepted = current.and_then(|current| current.taken.as_ref());
    let place = match state.phase {
        Phase::Reserving | Phase::Abandoned => JobState::Reserved,
        Phase::Delivering(_) | Phase::Charging(_) => JobState::Delivered,
        _ if accepted.is_some() => JobState::Accepted,
        _ => JobState::Dispatched,
    };
    JobSummary {
        job,
        account: state.account,
        state: place,
        model: &state.request.model,
        provider: current.map(|current| current.provider),
        output_price: current.map(|current| current.ticket.output_price),
        reserve: state.reserve,
        ttft_ms: state
            .first_token_at
            .map(|at| at.since(state.submitted_at).0),
        input_units: accepted.map_or(0, |taken| taken.input_units),
        output_units: current.map_or(0, |current| current.output.len() as u64),
        submitted_at: state.submitted_at,
    }
}
