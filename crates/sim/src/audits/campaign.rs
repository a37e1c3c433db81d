//! Many seeds of every cheat, honest networks with faults, and lazy validators among plants; one report.

use super::{AuditOutcome, AuditPlan, Cheat, Outages, Planted, run_audits, run_plan, run_planted};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Committees and shares of unseen jobs, per mille, that lazy validators are tried with.
const LAZY: [(usize, u64); 6] = [(3, 1_000), (3, 200), (3, 50), (7, 1_000), (7, 200), (7, 50)];
/// Planted checks after which a lazy validator should have lost stake.
const CHECKS: u64 = 500;

/// What a campaign runs.
#[derive(Debug, Clone, Copy)]
pub struct AuditCampaign {
    /// First seed.
    pub first: u64,
    /// Runs of each cheat in which it had the occasion.
    pub runs: u64,
    /// Jobs of honest networks with short outages, all others having as many again in all.
    pub honest_jobs: u64,
    /// Lazy validators of each kind.
    pub lazy: u64,
}

/// All runs of one cheat.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct CheatReport {
    /// Runs in which it had the occasion.
    pub runs: u64,
    /// Of them those in which it was slashed in time and nobody else was.
    pub caught: u64,
    /// Batches from the first audited cheated job to the slash, at most.
    pub slowest: u64,
    /// Charges that were reversed.
    pub reversed: u64,
}

/// Runs in which everybody was honest.
#[derive(Debug, Clone, Copy, Default, Serialize)]
#[allow(missing_docs)] // as in AuditOutcome
pub struct HonestReport {
    pub schedules: u64,
    pub jobs: u64,
    pub audited: u64,
    pub rulings: u64,
    pub accusations: u64,
    pub crashes: u64,
    pub outages: u64,
    /// Punished duties that were missed in long outages.
    pub missed_duties: u64,
}

/// Lazy validators of one kind.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct LazyReport {
    /// Validators in the committee.
    pub validators: usize,
    /// Jobs called good unseen, per mille.
    pub lazy: u64,
    /// How many were tried.
    pub seeds: u64,
    /// Lost stake within 500 planted checks.
    pub within_500: u64,
    /// Planted checks until the slash: mean in hundredths, and most.
    pub mean_checks_hundredths: u64,
    /// The most of all that were caught.
    pub most_checks: u64,
}

/// What a campaign found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct AuditReport {
    /// By cheat.
    pub cheats: BTreeMap<Cheat, CheatReport>,
    /// Short outages only.
    pub honest: HonestReport,
    /// Outages that outlast phases.
    pub long_outages: HonestReport,
    /// Every job audited, nothing away.
    pub all_audited: HonestReport,
    /// Lazy validators among plants.
    pub lazy: Vec<LazyReport>,
    /// What did not hold, with its seed.
    pub broken: Vec<String>,
}

impl AuditReport {
    /// Whether everything held that was asked for.
    pub fn holds(&self) -> bool {
        let caught = self.cheats.values().all(|cheat| cheat.caught == cheat.runs);
        let lazy = |lazy: &LazyReport| lazy.within_500 * 1_000 >= lazy.seeds * 999;
        self.broken.is_empty() && caught && self.lazy.iter().all(lazy)
    }
}

impl AuditCampaign {
    /// Runs it on all cores.
    pub fn run(&self) -> AuditReport {
        let report = Mutex::new(AuditReport::default());
        self.run_cheats(&report);
        let plans = [
            AuditPlan::honest(Outages::Short),
            AuditPlan::honest(Outages::Long),
            all_audited(),
        ];
        for (place, plan) in plans.iter().enumerate() {
            // Outages that last long, and audits of everything, are dearer: a tenth and at most a thousand jobs.
            let jobs = [
                self.honest_jobs,
                self.honest_jobs / 10,
                self.honest_jobs.min(1_000),
            ][place];
            self.run_honest(place, plan, jobs, &report);
        }
        self.run_lazy(&report);
        report.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn run_cheats(&self, report: &Mutex<AuditReport>) {
        let next = AtomicU64::new(0);
        let cheats = Cheat::ALL.len() as u64;
        let most = 20 * self.runs * cheats;
        on_all_cores(|| {
            loop {
                let task = next.fetch_add(1, Ordering::Relaxed);
                let cheat = Cheat::ALL[(task % cheats) as usize];
                let seed = self.first + task / cheats;
                let enough = |cheat: &CheatReport| cheat.runs >= self.runs;
                let stop = with(report, |report| {
                    let all =
                        report.cheats.len() as u64 == cheats && report.cheats.values().all(enough);
                    all || task >= most || !report.broken.is_empty()
                });
                if stop {
                    return;
                }
                let done = with(report, |report| {
                    report.cheats.get(&cheat).is_some_and(enough)
                });
                if !done {
                    let result = run_audits(seed, cheat);
                    with(report, |report| {
                        report.add_cheat(seed, cheat, result, self.runs)
                    });
                }
            }
        });
    }

    fn run_honest(&self, place: usize, plan: &AuditPlan, jobs: u64, report: &Mutex<AuditReport>) {
        let next = AtomicU64::new(self.first);
        let broken = AtomicBool::new(false);
        on_all_cores(|| {
            while !broken.load(Ordering::Relaxed) {
                if with(report, |report| report.honest_at(place).jobs) >= jobs {
                    return;
                }
                let seed = next.fetch_add(1, Ordering::Relaxed);
                let result = run_plan(seed, plan.clone());
                broken.fetch_or(result.is_err(), Ordering::Relaxed);
                with(report, |report| report.add_honest(seed, place, result));
            }
        });
    }

    fn run_lazy(&self, report: &Mutex<AuditReport>) {
        for (validators, lazy) in LAZY {
            let next = AtomicU64::new(self.first);
            let results = Mutex::new(Vec::new());
            on_all_cores(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= self.first + self.lazy {
                        return;
                    }
                    let result = run_planted(seed, validators, lazy).map(|(planted, _)| planted);
                    with(&results, |results| results.push((seed, result)));
                }
            });
            let results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
            with(report, |report| report.add_lazy(validators, lazy, results));
        }
    }
}

/// A network in which every job is audited and nothing fails but every tenth fetch.
fn all_audited() -> AuditPlan {
    let mut plan = AuditPlan::honest(Outages::None);
    plan.sampling.first_jobs = 1_000_000;
    plan
}

impl AuditReport {
    fn add_cheat(
        &mut self,
        seed: u64,
        cheat: Cheat,
        result: Result<AuditOutcome, String>,
        runs: u64,
    ) {
        let entry = self.cheats.entry(cheat).or_default();
        match result {
            Ok(outcome) => {
                let harmless = matches!(cheat, Cheat::Nobody | Cheat::ServeSome);
                let occasion = harmless || outcome.batches_to_slash.is_some();
                if occasion && entry.runs < runs {
                    entry.runs += 1;
                    entry.caught += 1;
                    let took = outcome.batches_to_slash.unwrap_or_default();
                    entry.slowest = entry.slowest.max(took);
                    entry.reversed += outcome.reversed;
                }
            }
            Err(what) => {
                entry.runs += 1;
                self.broken.push(format!("{cheat:?}, seed {seed}: {what}"));
            }
        }
    }

    fn honest_at(&mut self, place: usize) -> &mut HonestReport {
        match place {
            0 => &mut self.honest,
            1 => &mut self.long_outages,
            _ => &mut self.all_audited,
        }
    }

    fn add_honest(&mut self, seed: u64, place: usize, result: Result<AuditOutcome, String>) {
        match result {
            Ok(outcome) => {
                let sum = self.honest_at(place);
                sum.schedules += 1;
                sum.jobs += outcome.jobs;
                sum.audited += outcome.audited;
                sum.rulings += outcome.rulings;
                sum.accusations += outcome.accusations;
                sum.crashes += outcome.crashes;
                sum.outages += outcome.outages;
                sum.missed_duties += outcome.convictions;
            }
            Err(what) => self
                .broken
                .push(format!("honest network {place}, seed {seed}: {what}")),
        }
    }

    fn add_lazy(
        &mut self,
        validators: usize,
        lazy: u64,
        results: Vec<(u64, Result<Planted, String>)>,
    ) {
        let mut sum = LazyReport {
            validators,
            lazy,
            ..LazyReport::default()
        };
        let mut checks = 0;
        for (seed, result) in results {
            match result {
                Ok(planted) => {
                    sum.seeds += 1;
                    if planted.caught && planted.checks <= CHECKS {
                        sum.within_500 += 1;
                        checks += planted.checks;
                        sum.most_checks = sum.most_checks.max(planted.checks);
                    }
                }
                Err(what) => self.broken.push(format!(
                    "{validators} validators, {lazy} lazy, seed {seed}: {what}"
                )),
            }
        }
        sum.mean_checks_hundredths = (checks * 100)
            .checked_div(sum.within_500)
            .unwrap_or_default();
        self.lazy.push(sum);
    }
}

fn with<T, R>(shared: &Mutex<T>, change: impl FnOnce(&mut T) -> R) -> R {
    change(&mut shared.lock().unwrap_or_else(PoisonError::into_inner))
}

fn on_all_cores(work: impl Fn() + Sync) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(&work);
        }
    });
}
