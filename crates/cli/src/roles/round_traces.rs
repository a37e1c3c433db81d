//! Which step of a round began and ended when: what a validator's loop tells the tracer, one trace for each round. Where nothing is recorded
//! it keeps a number for each round that is open, and nothing else.

use crate::telemetry::{Clock, Kind, Span, Tracer};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use stoa_ledger::audit::rounds::Phase;
use stoa_nodes::validator::{Claim, Output};
use stoa_types::Digest;

/// So long after rulings began, or after the last thing that was brought, a round is over for the tracer: rulings are taken for days.
const QUIET: Duration = Duration::from_secs(10);

/// The rounds of a validator that are traced.
pub struct RoundTraces {
    tracer: Tracer,
    /// Rounds that were seen; `None` for those that are not recorded, or not any more.
    rounds: BTreeMap<u64, Option<Steps>>,
}

/// The spans of a round that have not ended.
struct Steps {
    clock: Clock,
    /// The round itself, above all others.
    round: Span,
    /// From the first question to a router to the last answer before the ballot.
    fetch: Option<Span>,
    /// When the last answer came.
    fetched: u128,
    /// Jobs that are computed again.
    judge: BTreeMap<Digest, Span>,
    judged: u64,
    commit: Option<Span>,
    unseal: Option<Span>,
    /// From the shown ballots to the last thing that was brought.
    rulings: Option<Span>,
    brought: u64,
    /// When something was last done for it.
    heard: u128,
    quiet_since: Instant,
}

/// The round that a claim is about.
fn round_of(claim: &Claim) -> u64 {
    match claim {
        Claim::Rule { evidence, .. } | Claim::Overcharge(evidence) => evidence.round,
        Claim::DoublePost(first, _) => first.round,
        Claim::RuleBatch { round, .. }
        | Claim::Show { round, .. }
        | Claim::Silence { round, .. }
        | Claim::Missed { round, .. } => *round,
    }
}

impl RoundTraces {
    /// Traces of the rounds that `tracer` takes.
    pub fn new(tracer: Tracer) -> Self {
        Self {
            tracer,
            rounds: BTreeMap::new(),
        }
    }

    /// What the contracts show: rounds and where they stand.
    pub fn look(&mut self, shown: impl Iterator<Item = (u64, Phase)>) {
        let shown: BTreeMap<_, _> = shown.collect();
        let gone: Vec<_> = self.rounds.keys().copied().collect();
        for round in gone.into_iter().filter(|round| !shown.contains_key(round)) {
            let steps = self.rounds.remove(&round).flatten();
            self.end(steps);
        }
        for (round, phase) in shown {
            let begun = phase < Phase::Rulings;
            let new = || begun.then(|| Steps::new(&self.tracer, round)).flatten();
            let steps = self.rounds.entry(round).or_insert_with(new);
            let over = steps.as_mut().is_some_and(|steps| {
                phase >= Phase::Rulings && steps.is_quiet_in_rulings(&self.tracer)
            });
            if over {
                let steps = steps.take();
                self.end(steps);
            }
        }
    }

    fn steps(&mut self, round: u64) -> Option<(&Tracer, &mut Steps)> {
        let steps = self.rounds.get_mut(&round)?.as_mut()?;
        Some((&self.tracer, steps))
    }

    /// Something is done for a round.
    pub fn wants(&mut self, output: &Output) {
        match output {
            // A file may be wanted by several rounds; it is told of the newest.
            Output::FetchLeaves { .. } => {
                let newest = self.rounds.keys().next_back().copied();
                self.fetches(newest.unwrap_or_default());
            }
            Output::FetchWork { round, .. } => self.fetches(*round),
            Output::Judge { round, subject, .. } => self.judges(*round, *subject),
            Output::Commit { round, .. } => {
                if let Some((tracer, steps)) =
                    self.steps(*round).filter(|(_, s)| s.commit.is_none())
                {
                    tracer.end(steps.fetch.take(), steps.fetched);
                    steps.commit = steps.below(tracer, "commit", Kind::Client);
                }
            }
            Output::Unseal { round, .. } => {
                if let Some((tracer, steps)) =
                    self.steps(*round).filter(|(_, s)| s.unseal.is_none())
                {
                    steps.unseal = steps.below(tracer, "unseal", Kind::Client);
                }
            }
            _ => {}
        }
    }

    fn fetches(&mut self, round: u64) {
        if let Some((tracer, steps)) = self.steps(round)
            && steps.fetch.is_none()
            && steps.fetched == 0
        {
            steps.fetch = steps.below(tracer, "fetch", Kind::Client);
            steps.fetched = steps.clock.nanos();
        }
    }

    /// A router answered: with a file, of which no round is told, or with a work.
    pub fn fetched(&mut self, round: Option<u64>) {
        let newest = self.rounds.keys().next_back().copied();
        if let Some((_, steps)) = self.steps(round.or(newest).unwrap_or_default()) {
            steps.fetched = steps.clock.nanos();
        }
    }

    fn judges(&mut self, round: u64, subject: Digest) {
        if let Some((tracer, steps)) = self.steps(round)
            && !steps.judge.contains_key(&subject)
            && let Some(mut span) = steps.below(tracer, "judge", Kind::Internal)
        {
            span.text("stoa.subject", subject);
            steps.judge.insert(subject, span);
        }
    }

    /// A job was judged, or could not be: `outcome` in a word of ours.
    pub fn found(
        &mut self,
        round: u64,
        subject: Digest,
        outcome: Result<&'static str, &'static str>,
    ) {
        let Some((tracer, steps)) = self.steps(round) else {
            return;
        };
        let now = steps.hear();
        let Some(mut span) = steps.judge.remove(&subject) else {
            return;
        };
        match outcome {
            Ok(outcome) => span.text("stoa.outcome", outcome),
            Err(fault) => span.fail(fault),
        }
        steps.judged += 1;
        tracer.end(Some(span), now);
    }

    /// A transaction ended: `done`, `refused` or `failed`. What is not in a block yet is sent again, within the same span.
    pub fn sent(&mut self, call: &Output, result: &'static str) {
        let done = result != "failed";
        match call {
            Output::Commit { round, .. } if done => {
                if let Some((tracer, steps)) = self.steps(*round) {
                    let now = steps.hear();
                    tracer.end(steps.commit.take(), now);
                }
            }
            Output::Unseal { round, .. } if done => {
                if let Some((tracer, steps)) = self.steps(*round) {
                    let now = steps.hear();
                    tracer.end(steps.unseal.take(), now);
                }
            }
            Output::Bring(claim) => {
                if let Some((_, steps)) = self.steps(round_of(claim)) {
                    steps.hear();
                    steps.brought += u64::from(result == "done");
                }
            }
            _ => {}
        }
    }

    fn end(&self, steps: Option<Steps>) {
        if let Some(steps) = steps {
            steps.end(&self.tracer);
        }
    }
}

impl Steps {
    fn new(tracer: &Tracer, number: u64) -> Option<Self> {
        let clock = Clock::start();
        let mut round = tracer.begin("round", None, &clock)?;
        round.number("stoa.round", number);
        Some(Self {
            clock,
            round,
            fetch: None,
            fetched: 0,
            judge: BTreeMap::new(),
            judged: 0,
            commit: None,
            unseal: None,
            rulings: None,
            brought: 0,
            heard: clock.nanos(),
            quiet_since: Instant::now(),
        })
    }

    fn below(&self, tracer: &Tracer, name: &'static str, kind: Kind) -> Option<Span> {
        tracer.below(&self.round, name, kind, &self.clock)
    }

    fn hear(&mut self) -> u128 {
        self.heard = self.clock.nanos();
        self.quiet_since = Instant::now();
        self.heard
    }

    /// Whether rulings are under way and nothing was brought for a while.
    fn is_quiet_in_rulings(&mut self, tracer: &Tracer) -> bool {
        if self.rulings.is_none() {
            self.rulings = self.below(tracer, "rulings", Kind::Client);
            self.hear();
        }
        self.quiet_since.elapsed() >= QUIET
    }

    fn end(mut self, tracer: &Tracer) {
        tracer.end(self.fetch, self.fetched);
        for (_, mut span) in self.judge {
            span.fail("the round was over");
            tracer.end(Some(span), self.heard);
        }
        for mut span in [self.commit, self.unseal].into_iter().flatten() {
            span.fail("not in a block");
            tracer.end(Some(span), self.heard);
        }
        if let Some(rulings) = &mut self.rulings {
            rulings.number("stoa.brought", self.brought);
        }
        tracer.end(self.rulings, self.heard);
        self.round.number("stoa.judged", self.judged);
        tracer.end(Some(self.round), self.heard);
    }
}
