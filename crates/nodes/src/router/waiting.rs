//! Calls that wait because every provider that may answer them is busy: a bounded line, one call of each account in turn, and nobody
//! waits longer than [`WAIT_MAX`]. Nothing is reserved for a call that waits.

use super::{Output, Router, refused};
use crate::client::{Cause, ClientRequest};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use stoa_types::{Address, JobId, Millis, Timestamp};

/// Longest wait: a short answer takes less, and clients expect a refusal sooner than a late answer.
const WAIT_MAX: Millis = Millis::from_secs(5);
/// Calls in line.
const CALLS_MAX: usize = 256;
/// Calls of one account in line: whoever sends more leaves room for others.
const CALLS_PER_ACCOUNT_MAX: usize = 64;
/// How long a job holds a slot, before any was seen to.
const SLOT_TIME_START_MS: u64 = 500;
/// Bounds of what a caller is told; above the upper one SDKs give up instead of coming back.
const RETRY_MS: (u64, u64) = (100, 120_000);

/// A call as it was submitted.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) account: Address,
    /// One for each choice; it waits under the first.
    pub(super) jobs: Vec<JobId>,
    pub(super) request: Arc<ClientRequest>,
    pub(super) entropy: u64,
    pub(super) since: Timestamp,
}

/// The fewest choices that found no room, for whom and of which model: fewer may still find some.
type Full = BTreeMap<(Address, String), usize>;

/// The line.
#[derive(Debug, Clone, Default)]
pub(super) struct Queue {
    calls: BTreeMap<JobId, Call>,
    /// Calls of each account, oldest first; no account without a call.
    lines: BTreeMap<Address, VecDeque<JobId>>,
    /// Whose turn it was last.
    last: Option<Address>,
}

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.calls.len()
    }

    /// All choices of all calls.
    pub(super) fn jobs(&self) -> usize {
        self.calls.values().map(|call| call.jobs.len()).sum()
    }

    pub(super) fn account_of(&self, job: JobId) -> Option<Address> {
        let mut calls = self.calls.values();
        let call = calls.find(|call| call.jobs.contains(&job))?;
        Some(call.account)
    }

    fn len_of(&self, account: Address) -> usize {
        self.lines.get(&account).map_or(0, VecDeque::len)
    }

    /// All choices of all calls of an account.
    pub(super) fn jobs_of(&self, account: Address) -> usize {
        let own = self.calls.values().filter(|call| call.account == account);
        own.map(|call| call.jobs.len()).sum()
    }

    /// Whether there is room for one more call of the account.
    fn has_room(&self, account: Address) -> bool {
        self.calls.len() < CALLS_MAX && self.len_of(account) < CALLS_PER_ACCOUNT_MAX
    }

    fn join(&mut self, call: Call) {
        if let Some(first) = call.jobs.first().copied() {
            self.lines.entry(call.account).or_default().push_back(first);
            self.calls.insert(first, call);
        }
    }

    /// Takes a call out of the line, by its first choice.
    pub(super) fn leave(&mut self, job: JobId) -> Option<Call> {
        let call = self.calls.remove(&job)?;
        if let Some(line) = self.lines.get_mut(&call.account) {
            line.retain(|other| *other != job);
            if line.is_empty() {
                self.lines.remove(&call.account);
            }
        }
        Some(call)
    }

    /// The oldest call, of the account whose turn it is, that may find room: for a model that is not `full` for so many choices.
    fn next(&self, full: &Full) -> Option<JobId> {
        let open = |(account, line): (&Address, &VecDeque<JobId>)| {
            let may = |job: &&JobId| {
                self.calls.get(job).is_some_and(|call| {
                    let least = full.get(&(*account, call.request.model.clone()));
                    least.is_none_or(|least| call.jobs.len() < *least)
                })
            };
            line.iter().find(may).copied()
        };
        let after = self.lines.iter().filter(|(a, _)| Some(**a) > self.last);
        let before = self.lines.iter().filter(|(a, _)| Some(**a) <= self.last);
        after.chain(before).find_map(open)
    }
}

impl Router {
    /// What a caller is told who finds every provider of the model busy: when a slot is free for it, going by how long jobs take.
    pub(super) fn over_capacity(&self, model: &str) -> Cause {
        let each = self.slot_time.predicted_ms().unwrap_or(SLOT_TIME_START_MS);
        let ahead = self.queue.len() as u64 + 1;
        let slots = u64::from(self.stock.slots(model).max(1));
        let (least, most) = RETRY_MS;
        Cause::OverCapacity {
            retry_ms: each
                .saturating_mul(ahead)
                .div_ceil(slots)
                .clamp(least, most),
        }
    }

    /// Every provider is busy: the call joins the line, if there is room.
    pub(super) fn wait(&mut self, call: Call, outputs: &mut Vec<Output>) {
        if self.queue.has_room(call.account) {
            self.queue.join(call);
        } else {
            let cause = self.over_capacity(&call.request.model);
            outputs.extend(refused(&call.jobs, &cause));
        }
    }

    /// A slot may be free: the next in line gets it.
    pub(super) fn serve_waiting(&mut self, now: Timestamp, outputs: &mut Vec<Output>) {
        if self.queue.len() == 0 || !self.stock.take_freed() {
            return;
        }
        let mut full = Full::new();
        while let Some(job) = self.queue.next(&full) {
            let Some(call) = self.queue.calls.get(&job) else {
                return;
            };
            let (account, choices) = (call.account, call.jobs.len());
            let model = call.request.model.clone();
            match self.admit(call, now) {
                Err(Cause::OverCapacity { .. }) => drop(full.insert((account, model), choices)),
                outcome => {
                    self.queue.last = Some(account);
                    self.answer_waiting(job, outcome, outputs);
                }
            }
        }
    }

    fn answer_waiting(
        &mut self,
        job: JobId,
        outcome: Result<super::admission::Admitted, Cause>,
        outputs: &mut Vec<Output>,
    ) {
        let Some(call) = self.queue.leave(job) else {
            return;
        };
        match outcome {
            Ok(admitted) => self.take_in(call, admitted, outputs),
            Err(cause) => outputs.extend(refused(&call.jobs, &cause)),
        }
    }

    /// Whoever waited too long is told why, as it is now.
    pub(super) fn end_waits(&mut self, now: Timestamp, outputs: &mut Vec<Output>) {
        let calls = self.queue.calls.iter();
        let late: Vec<_> = calls
            .filter(|(_, call)| now.since(call.since) >= WAIT_MAX)
            .map(|(job, _)| *job)
            .collect();
        for job in late {
            if let Some(call) = self.queue.calls.get(&job) {
                let outcome = self.admit(call, now);
                self.answer_waiting(job, outcome, outputs);
            }
        }
    }

    /// The router shuts down.
    pub(super) fn turn_waiting_away(&mut self, outputs: &mut Vec<Output>) {
        for call in std::mem::take(&mut self.queue).calls.into_values() {
            let reason = "it drains; running calls end, no new one begins".to_owned();
            let cause = Cause::RouterUnavailable { reason };
            outputs.extend(refused(&call.jobs, &cause));
        }
    }
}
