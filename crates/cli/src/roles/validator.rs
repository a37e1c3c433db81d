//! A validator as a process: one loop owns the state machine; the chain, routers and judges feed it and carry out what it wants.

use super::audit_watch::AuditWatch;
use super::kept_sums::KeptSums;
use super::questions::{self, Questions};
use super::records::Records;
use super::round_traces::RoundTraces;
use super::router::now;

use crate::cheats::{Deed, ValidatorCheat};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};
use stoa_chain::{AccessError, AuditAccount, ChainAccess, SendError, StakeRole};
use stoa_crypto::PublicKey;
use stoa_ledger::audit::Outcome;
use stoa_ledger::audit::rounds::Phase;
use stoa_net::{Answer, AuditClient, Received, Room, Urgency};
use stoa_nodes::audit::Question;
use stoa_nodes::validator::{Input, Output, Validator, Voted};
use stoa_runtime::ExactJudge;
use stoa_types::{Address, Digest};
use stoa_verify::judge::{Answered, Judge, NotJudged};
use tokio::sync::{Semaphore, mpsc, watch};

/// How often the state machine learns that time passed: the contracts count seconds.
const TICK: Duration = Duration::from_millis(500);
/// How often the seat is looked after.
const SEAT: Duration = Duration::from_secs(5);
/// A ballot is left with routers again after this: one that was started anew has forgotten it.
const LEAVE_AGAIN: Duration = Duration::from_secs(60);

/// Everything a validator's loop needs.
pub struct ValidatorParts<C> {
    /// The state machine, recovered.
    pub core: Validator,
    /// Its account, staked.
    pub account: AuditAccount<C>,
    /// Its public key, which routers seal work to.
    pub key: PublicKey,
    /// What the chain says of audits.
    pub watch: AuditWatch,
    /// Computes answers again.
    pub judge: Arc<ExactJudge>,
    /// Judges at work at once, of all validators of the process.
    pub bench: Arc<Semaphore>,
    /// Its ballots.
    pub votes: Records<Voted>,
    /// What it measures payout roots by.
    pub sums: KeptSums,
    /// Asks routers.
    pub client: Arc<AuditClient>,
    /// Its rounds, for whoever runs a collector.
    pub traces: RoundTraces,
    /// How it cheats, on a devnet that wants to see it.
    pub cheat: Option<ValidatorCheat>,
}

/// A running validator.
pub struct ValidatorHandle {
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
}

impl ValidatorHandle {
    /// Stops. Nothing has to be waited for: what was promised is on disk and on chain.
    pub async fn stop(self) {
        let _ = self.stop.send(true);
        let _ = self.task.await;
    }
}

enum Event {
    Input(Box<Input>),
    /// What a router gave, and the room that it takes up until it is read.
    Came(Box<Input>, Room),
    /// A call was carried out or refused, as the metrics say.
    Sent(Box<Output>, &'static str),
    /// A question was answered or not.
    Asked(Asking),
    /// A router has a ballot.
    Left(u64, Address),
}

/// What is being asked for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Asking {
    Leaves(Address, u64),
    Work(u64, Digest),
    /// Of the validator, by the router: while one keeps it back another gives it.
    Ballot(u64, Address, Address),
    Leave(u64, Address),
}

struct Loop<C> {
    core: Validator,
    account: Arc<AuditAccount<C>>,
    key: PublicKey,
    watch: AuditWatch,
    judge: Arc<ExactJudge>,
    bench: Arc<Semaphore>,
    votes: Records<Voted>,
    sums: KeptSums,
    traces: RoundTraces,
    cheat: Option<ValidatorCheat>,
    /// What a cheat waits with.
    later: Option<Output>,
    events: mpsc::UnboundedSender<Event>,
    /// Calls that wait for the account; those that a phase ends for go first.
    calls: VecDeque<Output>,
    sending: Option<Output>,
    questions: Questions<Asking>,
    /// Ballots that routers have, and since when.
    left: BTreeMap<(u64, Address), Instant>,
    /// Asked for each ballot so far: routers take turns.
    tries: BTreeMap<(u64, Address), usize>,
}

/// Starts the validator's loop.
pub fn start<C: ChainAccess + Clone>(parts: ValidatorParts<C>) -> ValidatorHandle {
    let (events, receiver) = mpsc::unbounded_channel();
    let (stop, stopped) = watch::channel(false);
    let state = Loop {
        core: parts.core,
        account: Arc::new(parts.account),
        key: parts.key,
        watch: parts.watch,
        judge: parts.judge,
        bench: parts.bench,
        votes: parts.votes,
        sums: parts.sums,
        traces: parts.traces,
        cheat: parts.cheat,
        later: None,
        events,
        calls: VecDeque::new(),
        sending: None,
        questions: Questions::new(parts.client),
        left: BTreeMap::new(),
        tries: BTreeMap::new(),
    };
    let task = tokio::spawn(state.run(receiver, stopped));
    ValidatorHandle { stop, task }
}

impl<C: ChainAccess + Clone> Loop<C> {
    async fn run(
        mut self,
        receiver: mpsc::UnboundedReceiver<Event>,
        stopped: watch::Receiver<bool>,
    ) {
        self.work(receiver, stopped).await;
        // What is still open is told as far as it came.
        self.traces.look(std::iter::empty());
        self.questions.close().await;
    }

    async fn work(
        &mut self,
        mut receiver: mpsc::UnboundedReceiver<Event>,
        mut stopped: watch::Receiver<bool>,
    ) {
        let mut changes = self.watch.changes();
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // What was sent before the start must be seen first.
        let first = tokio::time::Instant::now() + 2 * TICK;
        let mut seat = tokio::time::interval_at(first, SEAT);
        seat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = stopped.wait_for(|stop| *stop) => return,
                event = receiver.recv() => match event {
                    Some(event) => self.event(event),
                    None => return,
                },
                changed = changes.changed() => {
                    if changed.is_err() { return }
                    self.look();
                }
                _ = ticks.tick() => self.look(),
                _ = seat.tick() => self.keep_seat(),
            }
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Input(input) => {
                self.trace(&input);
                self.handle(*input);
            }
            Event::Came(input, room) => {
                self.event(Event::Input(input));
                drop(room);
            }
            Event::Sent(output, result) => {
                self.traces.sent(&output, result);
                if self.sending.as_ref() == Some(&*output) {
                    self.sending = None;
                }
                self.send_next();
            }
            Event::Asked(what) => self.questions.ended(&what),
            Event::Left(round, router) => drop(self.left.insert((round, router), Instant::now())),
        }
    }

    /// Shows the state machine what the contracts say now.
    fn look(&mut self) {
        let view = self.watch.state().view_of(self.core.account(), now());
        let standing = view.rounds.iter();
        self.traces
            .look(standing.map(|round| (round.number, round.phase)));
        let rounds = view.rounds.iter();
        let shown = rounds
            // Before, others could still choose whether to show theirs.
            .filter(|round| round.phase > Phase::Unseal)
            .filter(|round| round.shown.contains(&self.core.account()));
        let routers = shown.flat_map(|round| {
            let routers = round.covers.iter().map(|covered| covered.router);
            routers.map(|router| (round.number, router))
        });
        let routers: Vec<_> = routers.collect();
        self.handle(Input::Chain(Box::new(view)));
        if let (Some(cheat), Some(output)) = (self.cheat, self.later.take()) {
            self.cheat(cheat, output);
        }
        for (round, router) in routers {
            self.leave(round, router);
        }
        metrics::gauge!("stoa_validator_jobs_open", "validator" => self.name())
            .set(self.core.busy() as f64);
    }

    /// What came is told to the tracer.
    fn trace(&mut self, input: &Input) {
        match input {
            Input::Leaves { .. } => self.traces.fetched(None),
            Input::Work { round, .. } => self.traces.fetched(Some(*round)),
            Input::Found {
                round,
                subject,
                result,
            } => {
                let outcome = result.as_ref().map(|found| match found.answered {
                    Answered::Good => outcome_name(Outcome::Good),
                    Answered::WrongOutput => outcome_name(Outcome::WrongOutput),
                    Answered::WrongCount => outcome_name(Outcome::WrongCount),
                });
                let outcome = outcome.map_err(|_| "not judged");
                self.traces.found(*round, *subject, outcome);
            }
            _ => {}
        }
    }

    fn name(&self) -> String {
        self.core.account().to_string()
    }

    fn handle(&mut self, input: Input) {
        for output in self.core.handle(input, now()) {
            match self.cheat {
                None => self.carry_out(output),
                Some(cheat) => self.cheat(cheat, output),
            }
        }
    }

    /// What a validator that cheats does in place of an honest one.
    fn cheat(&mut self, cheat: ValidatorCheat, wanted: Output) {
        let other = |round| {
            let view = self.watch.state().round_of(round, now())?;
            view.committed.values().next().copied()
        };
        match cheat.instead_of(wanted, other) {
            Deed::Do(output) => self.carry_out(*output),
            Deed::Tell(answer) => self.handle(answer.into()),
            Deed::Later(output) => self.later = Some(*output),
            Deed::Nothing => {}
        }
    }

    fn carry_out(&mut self, output: Output) {
        self.traces.wants(&output);
        match output {
            Output::Open
            | Output::Reveal { .. }
            | Output::Draw
            | Output::Renew { .. }
            | Output::Commit { .. }
            | Output::Unseal { .. }
            | Output::Bring(_) => self.call(output),
            Output::FetchLeaves {
                router,
                post,
                is_older,
                ..
            } => {
                let question = Question::Leaves { post };
                let urgency = if is_older {
                    Urgency::Later
                } else {
                    Urgency::Now
                };
                self.ask_for(Asking::Leaves(router, post), router, (question, urgency));
            }
            Output::FetchWork {
                router,
                round,
                subject,
                request,
            } => self.ask(
                Asking::Work(round, subject),
                router,
                Question::Work(request),
            ),
            Output::FetchBallot { round, validator } => self.ask_for_ballot(round, validator),
            Output::Judge {
                round,
                subject,
                case,
            } => self.judge(round, subject, case),
            Output::Keep(voted) => self.keep(&voted),
            Output::KeepSums(set) => self.sums.keep(set),
            Output::ForgetSums { router, below } => self.sums.forget(router, below),
            Output::Forget { round } => {
                self.left.retain(|(of, _), _| *of != round);
                self.tries.retain(|(of, _), _| *of != round);
            }
            Output::Warn(text) => tracing::warn!(validator = %self.core.account(), "{text}"),
        }
    }

    // ---- the chain

    /// Calls wait for each other; what is asked for again while it waits is carried out once.
    fn call(&mut self, call: Output) {
        if self.sending.as_ref() == Some(&call) || self.calls.contains(&call) {
            return;
        }
        if matches!(call, Output::Bring(_)) {
            self.calls.push_back(call);
        } else {
            self.calls.push_front(call);
        }
        self.send_next();
    }

    fn send_next(&mut self) {
        if self.sending.is_some() {
            return;
        }
        let Some(call) = self.calls.pop_front() else {
            return;
        };
        self.sending = Some(call.clone());
        let (account, events) = (self.account.clone(), self.events.clone());
        tokio::spawn(async move {
            let who = account.account().address();
            let sent = send(&account, &call).await;
            let (name, result) = (name_of(&call), result_of(&sent));
            metrics::counter!("stoa_validator_calls_total", "call" => name, "result" => result)
                .increment(1);
            match sent {
                Ok(()) => tracing::debug!(validator = %who, call = name, "on chain"),
                // Another one was faster, or the phase is over.
                Err(_) if result == "refused" => {
                    tracing::debug!(validator = %who, call = name, "refused by the contract");
                }
                Err(error) => {
                    tracing::warn!(validator = %who, call = name, %error, "a call failed; it is asked for again where it is still due");
                }
            }
            let _ = events.send(Event::Sent(Box::new(call), result));
        });
    }

    /// Joins, or joins again after an outage that cost the seat, while the stake lasts; gives staked routers their seats.
    fn keep_seat(&mut self) {
        let (seated, strangers) = {
            let state = self.watch.state();
            let strangers: Vec<_> = state.not_enrolled().collect();
            (state.is_seated(self.core.account()), strangers)
        };
        if seated && strangers.is_empty() {
            return;
        }
        let (account, key, tip) = (self.account.clone(), self.key, self.core.tip_to_join());
        tokio::spawn(async move {
            let who = account.account().address();
            let chain = account.account().sender().chain().clone();
            let view = stoa_chain::View::new(chain, *account.account().contracts());
            if !seated {
                match account.join(tip, &key).await {
                    Ok(_) => tracing::info!(validator = %who, "took a seat"),
                    Err(error) => {
                        tracing::warn!(validator = %who, %error, "no seat; it is tried again");
                    }
                }
            }
            for router in strangers {
                let staked = view.stake(StakeRole::Router, router).await;
                if staked.is_ok_and(|stake| stake.is_active) && account.enrol(router).await.is_ok()
                {
                    tracing::info!(%router, "its posts are audited from now on");
                }
            }
        });
    }

    // ---- routers

    fn ask(&mut self, what: Asking, router: Address, question: Question) {
        self.ask_for(what, router, (question, Urgency::Now));
    }

    fn ask_for(&mut self, what: Asking, router: Address, question: (Question, Urgency)) {
        let (events, asked) = (self.events.clone(), what.clone());
        let then = move |answer| {
            match answer {
                Ok(Received {
                    answer: Answer::Nothing(reason),
                    ..
                }) => {
                    tracing::debug!(%router, ?what, reason, "a router has nothing");
                }
                Ok(received) => {
                    if let Some(event) = told(&what, router, received) {
                        let _ = events.send(event);
                    }
                }
                Err(error) => {
                    tracing::warn!(%router, ?what, %error, "a router does not answer; it is asked again");
                }
            }
            let _ = events.send(Event::Asked(what));
        };
        let reached = questions::reached(&self.watch, router);
        self.questions.ask(asked, router, reached, question, then);
    }

    /// Routers under the round take turns: one that keeps ballots back holds nothing up while another gives them.
    fn ask_for_ballot(&mut self, round: u64, validator: Address) {
        let routers = self.routers_of(round);
        let tries = self.tries.entry((round, validator)).or_default();
        let turn = *tries;
        *tries += 1;
        if let Some(router) = routers.get(turn % routers.len().max(1)) {
            let question = Question::Ballot { round, validator };
            self.ask(Asking::Ballot(round, validator, *router), *router, question);
        }
    }

    fn routers_of(&self, round: u64) -> Vec<Address> {
        let view = self.watch.state().round_of(round, now());
        let covers = view.map(|view| view.covers).unwrap_or_default();
        covers.iter().map(|covered| covered.router).collect()
    }

    /// Leaves the own ballot with a router, for others to fetch.
    fn leave(&mut self, round: u64, router: Address) {
        let had = self.left.get(&(round, router));
        if had.is_some_and(|at| at.elapsed() < LEAVE_AGAIN) {
            return;
        }
        let validator = self.core.account();
        let Some(voted) = self.core.shown_ballot(round) else {
            return;
        };
        if voted.verdicts.is_empty() {
            return; // A root of zero says it all.
        }
        let question = Question::Show {
            validator,
            voted: voted.clone(),
        };
        self.ask(Asking::Leave(round, router), router, question);
    }

    // ---- judging

    /// The work is plain from here on: it is in memory only, and goes with the judge.
    fn judge(&mut self, round: u64, subject: Digest, case: Box<stoa_verify::judge::Case>) {
        let (judge, bench, events) = (self.judge.clone(), self.bench.clone(), self.events.clone());
        tokio::spawn(async move {
            let Ok(_place) = bench.acquire_owned().await else {
                return;
            };
            let judged = tokio::task::spawn_blocking(move || judge.judge(&case));
            let result = judged.await;
            let result = result.unwrap_or_else(|error| Err(NotJudged::Failed(error.to_string())));
            let found = Input::Found {
                round,
                subject,
                result,
            };
            let _ = events.send(Event::Input(Box::new(found)));
        });
    }

    fn keep(&mut self, voted: &Voted) {
        for (_, outcome, _) in &voted.verdicts {
            metrics::counter!("stoa_validator_verdicts_total", "outcome" => outcome_name(*outcome))
                .increment(1);
        }
        let (events, round) = (self.events.clone(), voted.round);
        let durable = move || {
            let _ = events.send(Event::Input(Box::new(Input::Durable { round })));
        };
        if let Err(error) = self.votes.keep(voted, durable) {
            tracing::error!(validator = %self.core.account(), round, %error, "the ballot is not on disk and is not committed; it is tried again");
        }
    }
}

fn outcome_name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Good => "good",
        Outcome::WrongOutput => "wrong_output",
        Outcome::WrongCount => "wrong_count",
        Outcome::Withheld => "withheld",
        Outcome::Forged => "forged",
        Outcome::BadSums => "bad_sums",
        Outcome::Unable => "unable",
        Outcome::Void => "void",
    }
}

/// How a transaction went, for the metrics: what the contract refuses was done by another one, or its phase is over.
pub(super) fn result_of<T>(sent: &Result<T, SendError>) -> &'static str {
    match sent {
        Ok(_) => "done",
        Err(SendError::NotSent(AccessError::Reverted { .. }) | SendError::Reverted { .. }) => {
            "refused"
        }
        Err(_) => "failed",
    }
}

fn name_of(call: &Output) -> &'static str {
    match call {
        Output::Open => "open",
        Output::Reveal { .. } => "reveal",
        Output::Draw => "draw",
        Output::Renew { .. } => "renew",
        Output::Commit { .. } => "commit",
        Output::Unseal { .. } => "unseal",
        _ => "bring",
    }
}

async fn send<C: ChainAccess>(account: &AuditAccount<C>, call: &Output) -> Result<(), SendError> {
    match call {
        Output::Open => account.open().await,
        Output::Reveal { preimage } => account.reveal(*preimage).await,
        Output::Draw => account.draw().await,
        Output::Renew { tip } => account.renew(*tip).await,
        Output::Commit { round, commitment } => account.commit(*round, *commitment).await,
        Output::Unseal { round, root, salt } => account.unseal(*round, *root, *salt).await,
        Output::Bring(claim) => account.bring(claim).await,
        _ => return Ok(()), // No call.
    }
    .map(drop)
}

/// What an answer means; `None` for one that was not asked for.
fn told(what: &Asking, router: Address, Received { answer, room }: Received) -> Option<Event> {
    let input = match (what, answer) {
        (Asking::Leaves(router, post), Answer::Leaves(bytes)) => Input::Leaves {
            router: *router,
            post: *post,
            bytes: bytes.to_vec(),
        },
        (Asking::Work(round, subject), Answer::Work(kept)) => Input::Work {
            round: *round,
            subject: *subject,
            kept,
        },
        (Asking::Ballot(_, validator, _), Answer::Ballot(voted)) => Input::Ballot {
            validator: *validator,
            voted,
        },
        (Asking::Leave(round, _), Answer::Taken) => return Some(Event::Left(*round, router)),
        _ => return None,
    };
    Some(Event::Came(Box::new(input), room))
}
