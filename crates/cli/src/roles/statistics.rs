//! What a router's calls were like since it started, counted for the dashboard. Nothing here is kept over a restart, and the pages say so.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use stoa_api::{ApiError, FailedCall, LostChoice, MarketRecord, Performance, Scored};
use stoa_market::{Decision, Score};
use stoa_nodes::client::{Cause, ClientEvent, Failure};
use stoa_types::{Address, JobId, Timestamp};

/// Failed calls that are remembered.
const FAILED_KEPT: usize = 200;
/// Of these, of one account: who fails often leaves the others theirs.
const FAILED_KEPT_OF_ACCOUNT: usize = 50;
/// Lost choices that are remembered of each provider.
const LOST_KEPT: usize = 20;

/// Counts what the router's loop tells.
pub struct Statistics(Mutex<Counts>);

#[derive(Default)]
struct Counts {
    performance: Performance,
    causes: BTreeMap<&'static str, u64>,
    /// Calls that have not ended.
    open: HashMap<JobId, Open>,
    failed: VecDeque<FailedCall>,
    markets: BTreeMap<Address, Market>,
}

struct Open {
    account: Address,
    model: String,
    since: Timestamp,
    matched: bool,
}

#[derive(Default)]
struct Market {
    record: MarketRecord,
    excluded: BTreeMap<&'static str, u64>,
    lost: VecDeque<LostChoice>,
}

impl Statistics {
    /// Nothing has happened yet.
    pub fn new(since: Timestamp) -> Self {
        let performance = Performance {
            since,
            ..Performance::default()
        };
        Self(Mutex::new(Counts {
            performance,
            ..Counts::default()
        }))
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call came in.
    pub fn submitted(&self, job: JobId, account: Address, model: &str, now: Timestamp) {
        let mut counts = self.counts();
        counts.performance.calls += 1;
        let open = Open {
            account,
            model: model.to_owned(),
            since: now,
            matched: false,
        };
        counts.open.insert(job, open);
    }

    /// A provider was found for it.
    pub fn decided(&self, job: JobId, decision: &Decision, now: Timestamp) {
        let mut counts = self.counts();
        let Counts {
            performance,
            open,
            markets,
            ..
        } = &mut *counts;
        if let Some(call) = open.get_mut(&job).filter(|call| !call.matched) {
            call.matched = true;
            performance.matched += 1;
            performance.queue.observe(now.since(call.since).0);
        }
        let first = decision.choice();
        let best = decision.scores.iter().find(|s| s.provider == first);
        performance.cold_starts += u64::from(best.is_some_and(|score| !score.warm));
        for (provider, rule) in &decision.excluded {
            let market = markets.entry(*provider).or_default();
            market.record.considered += 1;
            *market.excluded.entry(rule.as_str()).or_default() += 1;
        }
        for score in &decision.scores {
            let market = markets.entry(score.provider).or_default();
            market.scored(score, best, decision, now);
        }
    }

    /// What its client heard.
    pub fn told(&self, job: JobId, event: &ClientEvent, now: Timestamp) {
        let mut counts = self.counts();
        match event {
            ClientEvent::Done(done) => {
                let Some(call) = counts.open.remove(&job) else {
                    return;
                };
                let performance = &mut counts.performance;
                performance.delivered += 1;
                performance.failovers += u64::from(done.started.failovers > 0);
                performance.first_token.observe(done.ttft_ms);
                performance.total.observe(now.since(call.since).0);
            }
            ClientEvent::Failed(failure) => counts.failed(job, failure, now),
            ClientEvent::Started(_) | ClientEvent::Delta { .. } | ClientEvent::Complete(_) => {}
        }
    }

    /// Its client left before the end.
    pub fn left(&self, job: JobId) {
        let mut counts = self.counts();
        if counts.open.remove(&job).is_some() {
            counts.performance.left += 1;
        }
    }

    /// How calls went.
    pub fn performance(&self) -> Performance {
        let counts = self.counts();
        let mut causes: Vec<_> = counts.causes.iter().map(|(k, n)| (*k, *n)).collect();
        causes.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        Performance {
            causes,
            ..counts.performance.clone()
        }
    }

    /// Failed calls that `shown` says, newest first.
    pub fn failed(&self, shown: impl Fn(&FailedCall) -> bool) -> Vec<FailedCall> {
        let counts = self.counts();
        let newest = counts.failed.iter().rev();
        newest.filter(|call| shown(call)).cloned().collect()
    }

    /// How a provider fared in the choice of providers.
    pub fn market(&self, provider: Address) -> MarketRecord {
        let counts = self.counts();
        let Some(market) = counts.markets.get(&provider) else {
            return MarketRecord::default();
        };
        MarketRecord {
            excluded: market.excluded.iter().map(|(k, n)| (*k, *n)).collect(),
            lost: market.lost.iter().rev().cloned().collect(),
            ..market.record.clone()
        }
    }

    /// The last score of a provider.
    pub fn scored(&self, provider: Address) -> Option<Scored> {
        let counts = self.counts();
        counts.markets.get(&provider)?.record.scored.clone()
    }
}

impl Counts {
    fn failed(&mut self, job: JobId, failure: &Failure, now: Timestamp) {
        let Some(call) = self.open.remove(&job) else {
            return;
        };
        let counter = match &failure.cause {
            _ if call.matched => &mut self.performance.failed,
            Cause::ModelOffline { .. }
            | Cause::NoProviderMatches { .. }
            | Cause::PriceCeiling { .. }
            | Cause::OverCapacity { .. } => &mut self.performance.unmatched,
            _ => &mut self.performance.refused,
        };
        *counter += 1;
        let word = ApiError::Failed(failure.clone()).row().cause;
        *self.causes.entry(word).or_default() += 1;
        self.failed.push_back(FailedCall {
            job,
            account: call.account,
            model: call.model.clone(),
            cause: failure.cause.to_string(),
            billed: failure.billed,
            at: now,
        });
        let own = |failed: &FailedCall| failed.account == call.account;
        if self.failed.iter().filter(|failed| own(failed)).count() > FAILED_KEPT_OF_ACCOUNT {
            let oldest = self.failed.iter().position(own);
            oldest.and_then(|at| self.failed.remove(at));
        } else if self.failed.len() > FAILED_KEPT {
            self.failed.pop_front();
        }
    }
}

impl Market {
    fn scored(&mut self, score: &Score, best: Option<&Score>, decision: &Decision, now: Timestamp) {
        let mut ranking = decision.ranking.iter();
        let place = ranking.position(|provider| *provider == score.provider);
        let short = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        self.record.considered += 1;
        self.record.scored = Some(Scored {
            at: now,
            score: score.clone(),
            place: short(place.map_or(usize::MAX, |place| place + 1)),
            of: short(decision.scores.len()),
        });
        let Some(best) = best.filter(|best| best.provider != score.provider) else {
            self.record.first += 1;
            return;
        };
        self.record.behind += 1;
        self.lost.push_back(LostChoice {
            at: now,
            winner: best.provider,
            theirs: best.clone(),
            ours: score.clone(),
            tie_bps: decision.snapshot.weights.tie_bps,
        });
        if self.lost.len() > LOST_KEPT {
            self.lost.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stoa_types::TokenAmount;

    const NOW: Timestamp = Timestamp::from_secs(1);

    fn fail(statistics: &Statistics, number: u32, account: Address) {
        let mut job = JobId([account.0[0]; 32]);
        job.0[..4].copy_from_slice(&number.to_be_bytes());
        statistics.submitted(job, account, "m", NOW);
        let failure = Failure::new(Cause::NoAllotment, TokenAmount::ZERO);
        statistics.told(job, &ClientEvent::Failed(failure), NOW);
    }

    #[test]
    fn an_account_whose_calls_fail_all_the_time_leaves_the_others_theirs() {
        let statistics = Statistics::new(NOW);
        let (quiet, noisy) = (Address([1; 20]), Address([2; 20]));
        fail(&statistics, 0, quiet);
        for number in 0..1_000 {
            fail(&statistics, number, noisy);
        }
        let of = |account| statistics.failed(|call| call.account == account);
        assert_eq!(of(quiet).len(), 1);
        let kept = of(noisy);
        assert_eq!(kept.len(), FAILED_KEPT_OF_ACCOUNT);
        assert_eq!(kept[0].job.0[..4], 999_u32.to_be_bytes(), "the newest stay");
        assert_eq!(statistics.performance().refused, 1_001);
    }
}
