//! One schedule: hosts, links, disk, chain and clients on one virtual time line.

use crate::chain::{Act, ModelChain};
use crate::disk::Journal;
use crate::faults::{Coverage, Fault, Ranges, Role};
use crate::invariants::{self, Told};
use crate::rng::Rng;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use stoa_crypto::{Domain, SecretKey, keccak256};
use stoa_ledger::book::{Entry, RouterBook};
use stoa_nodes::client::{ClientEvent, ClientRequest, Constraints, Controls, Done};
use stoa_nodes::message::{ModelOffer, ToProvider, ToRouter};
use stoa_nodes::provider::{self, Generated, Prepared, Provider, ProviderConfig};
use stoa_nodes::router::{Input, Output, Router, RouterConfig};
use stoa_nodes::work::{AnswerShape, Prompt};
use stoa_types::{
    Address, Digest, FinishReason, Hardware, JobId, Millis, NetworkProfile, Price, Q16, Region,
    Tier, Timestamp, TokenAmount,
};

const START_MS: u64 = 1_790_000_000_000;
const MODEL: &str = "model";
/// How long the network gets to drain after it was healed.
const DRAIN_MS: u64 = 900_000;
/// Then another customer comes, where only a new leaf can carry what is left: longer than a batch, two windows and their retries.
const CUSTOMER_MS: u64 = 150_000;
/// Accounts that call in turn.
const DEVELOPERS: u64 = 2;
const TICK_MS: u64 = 500;
const BLOCK_MS: u64 = 1_000;
/// Lines of the trace shown with a violation.
const TRACE_SHOWN: usize = 40;

/// What a schedule came to.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Hash over all events in order.
    pub trace: Digest,
    /// Number of events.
    pub events: u64,
    /// Faults met.
    pub coverage: Coverage,
    /// Calls answered.
    pub answered: u64,
    /// Calls that failed.
    pub failed: u64,
    /// Units charged in all.
    pub charged: u128,
}

/// A broken invariant, with what led to it.
#[derive(Debug, Clone)]
pub struct Violation {
    /// Seed of the schedule.
    pub seed: u64,
    /// Number of the event after which it was noticed.
    pub step: u64,
    /// What is broken.
    pub what: String,
    /// The last events.
    pub trace: Vec<String>,
}

#[derive(Debug, Clone)]
enum Event {
    Submit(u64),
    Leave(JobId),
    Read(JobId),
    ToRouter {
        provider: usize,
        link: u64,
        message: Box<ToRouter>,
    },
    ToProvider {
        provider: usize,
        link: u64,
        message: Box<ToProvider>,
    },
    Prepared {
        provider: usize,
        life: u64,
        attempt: provider::Attempt,
    },
    Generate {
        provider: usize,
        life: u64,
        attempt: provider::Attempt,
        left: u64,
    },
    Synced {
        life: u64,
    },
    ChainTold {
        life: u64,
        position: usize,
    },
    Tick,
    Block,
    Crash(Option<usize>),
    Restart(Option<usize>),
    Developer(u64, Act),
    Cut(usize),
    Heal(usize),
    ChainCut,
    ChainBack,
    Drain(Option<usize>),
    Refused {
        life: u64,
        sequence: u64,
    },
    Customer(u64),
    AllHealed,
}

struct ProviderHost {
    core: Option<Provider>,
    config: ProviderConfig,
    life: u64,
    /// Number of the present link; 0 while there is none.
    link: u64,
    cut: bool,
    skew: i64,
}

/// What a client was told, and what of it reached it.
#[derive(Default)]
struct Heard {
    text: String,
    tokens: u64,
    read: u64,
    left: bool,
}

struct World {
    seed: u64,
    ranges: Ranges,
    now: u64,
    number: u64,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    events: BTreeMap<u64, Event>,
    router: Option<Router>,
    router_config: RouterConfig,
    router_life: u64,
    router_skew: i64,
    /// The book as it was when the router crashed, so that invariants hold while it is down.
    journal: Journal,
    cursor: usize,
    providers: Vec<ProviderHost>,
    next_link: u64,
    chain: ModelChain,
    told: Told,
    /// What each client heard.
    heard: BTreeMap<JobId, Heard>,
    network: Rng,
    disk: Rng,
    schedule: Rng,
    adversary: Rng,
    last_arrival: BTreeMap<(usize, bool), u64>,
    /// Reservations that the journal refused and the router does not know of yet.
    refused: BTreeSet<u64>,
    /// Charges that the router made with each provider since it started.
    charged: BTreeMap<Address, u64>,
    forged: BTreeSet<Address>,
    chain_cut: bool,
    draining: bool,
    /// What the chain told that the router's book holds to be impossible.
    contradiction: Option<String>,
    healed: bool,
    coverage: Coverage,
    trace: Digest,
    lines: Vec<String>,
    steps: u64,
}

/// Runs the schedule of `seed`.
pub fn run(seed: u64) -> Result<Outcome, Box<Violation>> {
    run_with(seed, Ranges::draw(seed))
}

/// The same within other ranges than the seed draws.
pub fn run_with(seed: u64, ranges: Ranges) -> Result<Outcome, Box<Violation>> {
    let mut world = World::new(seed, ranges);
    world.plan();
    world.go()
}

impl World {
    fn new(seed: u64, ranges: Ranges) -> Self {
        let text = NetworkProfile::builtin_text("stoa").expect("built in");
        let mut profile = NetworkProfile::parse(text).expect("checked by its own tests");
        profile.settlement.batch_seconds = ranges.batch_seconds;
        profile.settlement.window_seconds = 2 * ranges.batch_seconds;
        profile.settlement.claim_min = TokenAmount::from_units(1);
        if ranges.short_lives {
            profile.settlement.ticket_seconds = 10;
            profile.settlement.notice_seconds = 10;
            profile.settlement.settle_delay_seconds = 3;
            profile.settlement.allotment_seconds = 25;
        }
        let profile_hash = keccak256("simulated profile");
        let key = SecretKey::for_tests("router");
        let domain = Domain {
            chain_id: 31_337,
            vault: SecretKey::for_tests("vault").address(),
        };
        let mut skews = Rng::stream(seed, "clock");
        let mut skew = |most: u64| {
            if most == 0 {
                0
            } else {
                skews.below(2 * most + 1) as i64 - most as i64
            }
        };
        let router_skew = skew(ranges.skew_ms.min(2_000));
        let config = |n: u64| provider_config(n, domain, profile_hash, key.address());
        let providers: Vec<_> = (0..ranges.providers)
            .map(|n| ProviderHost {
                core: None,
                config: config(n),
                life: 0,
                link: 0,
                cut: false,
                skew: skew(ranges.skew_ms),
            })
            .collect();
        let accounts: Vec<_> = providers.iter().map(|p| p.config.key.address()).collect();
        let chain = ModelChain::new(
            &profile,
            key.address(),
            &developers(),
            &accounts,
            ranges.cap,
            START_MS / 1000,
        );
        Self {
            seed,
            now: START_MS,
            number: 0,
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            router: None,
            router_config: RouterConfig {
                key,
                domain,
                profile,
                profile_hash,
            },
            router_life: 0,
            router_skew,
            journal: Journal::default(),
            cursor: 0,
            providers,
            next_link: 0,
            chain,
            told: Told::default(),
            heard: BTreeMap::new(),
            network: Rng::stream(seed, "network"),
            disk: Rng::stream(seed, "disk"),
            schedule: Rng::stream(seed, "schedule"),
            adversary: Rng::stream(seed, "adversary"),
            last_arrival: BTreeMap::new(),
            refused: BTreeSet::new(),
            charged: BTreeMap::new(),
            forged: BTreeSet::new(),
            chain_cut: false,
            draining: false,
            contradiction: None,
            healed: false,
            coverage: Coverage::default(),
            trace: Digest::ZERO,
            lines: Vec::new(),
            steps: 0,
            ranges,
        }
    }

    fn at(&mut self, time: u64, event: Event) {
        self.number += 1;
        self.queue.push(Reverse((time.max(self.now), self.number)));
        self.events.insert(self.number, event);
    }

    /// Draws the whole schedule of calls and faults.
    fn plan(&mut self) {
        if self.ranges.skew_ms > 0 {
            self.coverage.saw(Fault::Skew, Role::Router);
            self.coverage.saw(Fault::Skew, Role::Provider);
        }
        self.restart_router();
        for n in 0..self.providers.len() {
            self.restart_provider(n);
        }
        let span = self.ranges.span_ms;
        for n in 0..self.ranges.calls {
            let time = self.now + 200 + self.schedule.below(span);
            self.at(time, Event::Submit(n));
        }
        let end = self.now + span + 5_000;
        self.plan_repeated(self.ranges.crash_every_ms, end, |world, time| {
            let whom = if world.schedule.chance(400) {
                None
            } else {
                Some(world.schedule.below(world.ranges.providers) as usize)
            };
            let back = time + world.schedule.between(1, 8_000);
            world.at(time, Event::Crash(whom));
            world.at(back, Event::Restart(whom));
        });
        self.plan_repeated(self.ranges.partition_every_ms, end, |world, time| {
            let whom = world.schedule.below(world.ranges.providers) as usize;
            let back = time + world.schedule.between(1_000, 15_000);
            world.at(time, Event::Cut(whom));
            world.at(back, Event::Heal(whom));
        });
        self.plan_repeated(self.ranges.chain_cut_every_ms, end, |world, time| {
            let back = time + world.schedule.between(1_000, 40_000);
            world.at(time, Event::ChainCut);
            world.at(back, Event::ChainBack);
        });
        self.plan_repeated(self.ranges.drain_every_ms, end, |world, time| {
            let whom = if world.schedule.chance(500) {
                None
            } else {
                Some(world.schedule.below(world.ranges.providers) as usize)
            };
            world.at(time, Event::Drain(whom));
            // Who drains ends and comes back.
            let gone = time + world.schedule.between(500, 5_000);
            let back = gone + world.schedule.between(1, 3_000);
            world.at(gone, Event::Crash(whom));
            world.at(back, Event::Restart(whom));
        });
        let acts_end = if self.ranges.short_lives {
            end + 15_000
        } else {
            end
        };
        self.plan_repeated(self.ranges.developer_every_ms, acts_end, Self::plan_act);
        self.at(self.now + TICK_MS, Event::Tick);
        self.at(self.now + BLOCK_MS, Event::Block);
        self.at(end + 16_000, Event::AllHealed);
    }

    fn plan_act(&mut self, time: u64) {
        let whom = self.schedule.below(DEVELOPERS);
        let life = self.schedule.between(11, 40);
        let add = u128::from(self.schedule.between(1, 500));
        let act = match self
            .schedule
            .below(if self.ranges.short_lives { 6 } else { 4 })
        {
            0 => Act::TopUp { add, life: 0 },
            1 => Act::TopUp { add, life },
            2 => Act::Revoke,
            3 | 4 => Act::Release,
            _ => Act::Allot { life },
        };
        self.at(time, Event::Developer(whom, act));
    }

    fn act(&mut self, n: u64, act: Act) {
        let seconds = self.now / 1000;
        let done = match act {
            // Anyone may, for everybody: also for what the router allotted to itself.
            Act::Release => developers()
                .into_iter()
                .chain([self.router_config.key.address()])
                .filter(|who| self.chain.act(*who, act, seconds))
                .count()
                .gt(&0),
            _ => self.chain.act(developer(n), act, seconds),
        };
        if !done {
            return;
        }
        let fault = match act {
            Act::TopUp { .. } => Fault::ToppedUp,
            Act::Revoke => Fault::Revoked,
            Act::Release => Fault::Released,
            Act::Allot { .. } | Act::Renew => Fault::Renewed,
        };
        self.coverage.saw(fault, Role::Client);
        self.follow_chain();
    }

    fn plan_repeated(&mut self, every: u64, end: u64, mut plan: impl FnMut(&mut Self, u64)) {
        let mut time = self.now;
        if every == 0 {
            return;
        }
        loop {
            time += 100 + self.schedule.below(2 * every);
            if time >= end {
                return;
            }
            plan(self, time);
        }
    }

    fn go(mut self) -> Result<Outcome, Box<Violation>> {
        let mut end = u64::MAX;
        while let Some(Reverse((time, number))) = self.queue.pop() {
            if time > end {
                break;
            }
            self.now = time;
            let event = self
                .events
                .remove(&number)
                .expect("every queued number has its event");
            let (healing, block) = (
                matches!(event, Event::AllHealed),
                matches!(event, Event::Block),
            );
            if healing {
                end = time + DRAIN_MS;
            }
            self.step(event)?;
            if block && self.healed && self.drained().is_ok() {
                break;
            }
        }
        self.finish()
    }

    fn step(&mut self, event: Event) -> Result<(), Box<Violation>> {
        self.steps += 1;
        let line = format!("{} {}", self.now - START_MS, short(&event));
        self.trace = keccak256([&self.trace.0[..], line.as_bytes()].concat());
        if self.lines.len() >= 4 * TRACE_SHOWN {
            self.lines.drain(..2 * TRACE_SHOWN);
        }
        if !matches!(event, Event::Tick | Event::Block) {
            self.lines.push(line);
        }
        self.event(event);
        if let Some(what) = self.contradiction.take() {
            return Err(self.violation(what));
        }
        if let Some(router) = &self.router {
            let links_change_nothing =
                self.ranges.loss + self.ranges.duplication + self.ranges.skew_ms == 0
                    && self.ranges.ordered;
            let honest = |who| links_change_nothing && !self.forged.contains(&who);
            invariants::check(router.book(), &self.chain, &self.told)
                .and_then(|()| invariants::check_stock(router.stock(), &self.charged, honest))
                .map_err(|what| self.violation(what))?;
        }
        Ok(())
    }

    fn violation(&self, what: String) -> Box<Violation> {
        let from = self.lines.len().saturating_sub(TRACE_SHOWN);
        Box::new(Violation {
            seed: self.seed,
            step: self.steps,
            what,
            trace: self.lines[from..].to_vec(),
        })
    }

    /// Whether nothing is left to do: no call under way, everything settled, claimed and accounted for.
    fn drained(&self) -> Result<(), String> {
        let router = self.router.as_ref().ok_or("the router did not come back")?;
        if router.active() > 0 {
            return Err(format!("{} calls never ended", router.active()));
        }
        let providers: Vec<_> = self
            .providers
            .iter()
            .map(|p| p.config.key.address())
            .collect();
        invariants::check_slots(router.stock())?;
        invariants::check_drained(router.book(), &self.chain, &providers, &developers())
    }

    fn finish(self) -> Result<Outcome, Box<Violation>> {
        self.drained().map_err(|what| self.violation(what))?;
        let book = self.router.as_ref().map(Router::book);
        let hosts = self.providers.iter();
        let gross = |host: &ProviderHost| {
            let account = host.config.key.address();
            book.map_or(0, |book| book.lifetime_gross(account, 1).units())
        };
        Ok(Outcome {
            charged: hosts.map(gross).sum(),
            trace: self.trace,
            events: self.steps,
            answered: self.told.done.len() as u64,
            failed: self.told.failed.len() as u64,
            coverage: self.coverage,
        })
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Submit(n) => self.submit(n),
            Event::Leave(job) => self.leave(job),
            Event::Read(job) => self.read(job),
            Event::ToRouter {
                provider,
                link,
                message,
            } => {
                if self.providers[provider].link == link {
                    self.arrived_at_router(provider, *message);
                }
            }
            Event::ToProvider {
                provider,
                link,
                message,
            } => {
                if self.providers[provider].link == link {
                    self.provider_input(provider, provider::Input::Router(*message));
                }
            }
            Event::Prepared {
                provider,
                life,
                attempt,
            } => {
                if self.providers[provider].life == life {
                    let prepared = Prepared {
                        input_units: 5,
                        prompt_root: keccak256("prompt"),
                    };
                    self.provider_input(
                        provider,
                        provider::Input::Prepared {
                            attempt,
                            result: Ok(prepared),
                        },
                    );
                }
            }
            Event::Generate {
                provider,
                life,
                attempt,
                left,
            } => self.generate(provider, life, attempt, left),
            Event::Synced { life } => self.synced(life),
            Event::ChainTold { life, position } => {
                if self.router_life == life
                    && let Some(event) = self.chain.told(position)
                {
                    self.router_input(Input::Chain(event));
                }
            }
            Event::Tick => self.tick(),
            Event::Block => self.block(),
            Event::Crash(None) => self.crash_router(),
            Event::Crash(Some(n)) => self.crash_provider(n),
            Event::Restart(None) => self.restart_router(),
            Event::Restart(Some(n)) => self.restart_provider(n),
            Event::Developer(n, act) => self.act(n, act),
            Event::Cut(n) => self.cut(n),
            Event::Heal(n) => self.heal(n),
            Event::ChainCut => self.cut_chain(),
            Event::ChainBack => self.chain_back(),
            Event::Drain(whom) => self.drain(whom),
            Event::Refused { life, sequence } => {
                if self.router_life == life {
                    self.refuse(sequence);
                }
            }
            Event::Customer(n) => self.customer(n),
            Event::AllHealed => self.heal_all(),
        }
    }

    // ---- clients

    fn submit(&mut self, n: u64) {
        let job = JobId(keccak256([self.seed.to_be_bytes(), n.to_be_bytes()].concat()).0);
        let Some(router) = &self.router else {
            return; // Nobody answers the door: the client knows, and owes nothing.
        };
        let request = request(self.seed, n);
        let jobs = router.choice_ids(job, request.choices);
        if !self.healed && self.schedule.chance(self.ranges.leave) {
            let time = self.now + self.schedule.below(3_000);
            self.coverage.saw(Fault::Left, Role::Client);
            for choice in jobs {
                self.at(time, Event::Leave(choice));
            }
        }
        let entropy = self.schedule.draw();
        self.router_input(Input::Submit {
            job,
            account: developer(n % DEVELOPERS),
            request: Box::new(request),
            entropy,
        });
    }

    /// The client goes away and has read a part of what was sent.
    fn leave(&mut self, job: JobId) {
        let heard = self.heard.entry(job).or_default();
        heard.left = true;
        let read = heard.read.max(self.schedule.below(heard.tokens + 1));
        heard.read = read;
        self.router_input(Input::ClientGone { job, read });
    }

    /// All that was sent has reached the client, unless it left before.
    fn read(&mut self, job: JobId) {
        let heard = self.heard.entry(job).or_default();
        if heard.left {
            return;
        }
        heard.read = heard.tokens;
        let tokens = heard.tokens;
        self.router_input(Input::Delivered { job, tokens });
    }

    // ---- router

    fn router_now(&self) -> Timestamp {
        Timestamp(self.now.saturating_add_signed(self.router_skew))
    }

    fn router_input(&mut self, input: Input) {
        let now = self.router_now();
        let Some(router) = &mut self.router else {
            return;
        };
        let outputs = router.handle(input, now);
        self.router_outputs(outputs);
    }

    fn router_outputs(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            match output {
                Output::Journal { sequence, entry } => self.journal(sequence, &entry),
                Output::Client { job, event } => self.client(job, event),
                Output::Send { provider, message } => {
                    if let ToProvider::Dispatch(dispatch) = &*message {
                        let job = dispatch.ticket.ticket.job_id;
                        assert!(
                            self.journal.holds_reservation(job),
                            "{job}: ordered before its reservation was durable"
                        );
                    }
                    if let Some(n) = self
                        .providers
                        .iter()
                        .position(|p| p.config.key.address() == provider)
                    {
                        self.send_to_provider(n, *message);
                    }
                }
                Output::Chain(call) => {
                    let Some(router) = self.router.as_ref().filter(|_| !self.chain_cut) else {
                        continue;
                    };
                    self.chain.send(call, router.book());
                }
                Output::Decided { decision, .. } => {
                    decision.replay().expect("every decision can be replayed")
                }
                Output::Warn { text, .. } if text.contains("contradicts the books") => {
                    self.contradiction.get_or_insert(text);
                }
                Output::Undelivered(undelivered) => self.told.undelivered.push(*undelivered),
                Output::Warn { .. } | Output::Audits(_) | Output::SpendAlert(_) => {}
            }
        }
    }

    fn journal(&mut self, sequence: u64, entry: &Entry) {
        match entry {
            entry
                if entry.is_reservation()
                    && !self.healed
                    && self.disk.chance(self.ranges.disk_full) =>
            {
                self.coverage.saw(Fault::DiskFull, Role::Router);
                self.refused.insert(sequence);
                let (life, late) = (self.router_life, self.disk.below(400));
                return self.at(self.now + late, Event::Refused { life, sequence });
            }
            Entry::Charged { receipt } => {
                *self.charged.entry(receipt.receipt.provider).or_default() += 1;
            }
            Entry::LateDebitsAbsorbed { .. } => self.coverage.saw(Fault::Absorbed, Role::Router),
            Entry::PayoutVoided { pay_root } => {
                let unposted = |router: &Router| {
                    router
                        .book()
                        .next_post()
                        .is_some_and(|batch| batch.sealed.pay_root == *pay_root)
                };
                if self.router.as_ref().is_some_and(unposted) {
                    self.coverage.saw(Fault::LeftOut, Role::Router);
                }
            }
            _ => {}
        }
        if self.journal.write(sequence, entry) {
            self.start_sync();
        }
    }

    /// The journal's refusal arrives, perhaps after other inputs.
    fn refuse(&mut self, sequence: u64) {
        if !self.refused.remove(&sequence) {
            return;
        }
        self.coverage.saw(Fault::RefusedLate, Role::Router);
        self.router_input(Input::NotWritten {
            sequence,
            reason: "the simulated disk is full".to_owned(),
        });
    }

    fn start_sync(&mut self) {
        let took = self.disk.below(self.ranges.sync_ms + 1);
        let life = self.router_life;
        self.at(self.now + took, Event::Synced { life });
    }

    fn synced(&mut self, life: u64) {
        if self.router_life != life {
            return;
        }
        // A refusal is told before any later entry is durable, as the real journal's queue does.
        let up_to = self.journal.syncing_up_to().unwrap_or_default();
        let before: Vec<_> = self.refused.range(..up_to).copied().collect();
        before
            .into_iter()
            .for_each(|sequence| self.refuse(sequence));
        if let Some((up_to, more)) = self.journal.synced() {
            if self.disk.chance(self.ranges.compaction) {
                self.coverage.saw(Fault::Compacted, Role::Router);
                self.journal.compact(self.empty_book());
            }
            if more {
                self.start_sync();
            }
            self.router_input(Input::Synced { up_to });
        }
    }

    fn client(&mut self, job: JobId, event: ClientEvent) {
        match event {
            ClientEvent::Done(done) => {
                assert!(
                    self.journal.holds_charge(job),
                    "{job}: the client was told before the charge was durable"
                );
                self.check_answer(job, &done);
                self.told.done.insert(job, done.receipt.clone());
            }
            ClientEvent::Failed(failure) => {
                self.told.failed.insert(job, failure.billed);
            }
            ClientEvent::Delta { text, tokens, .. } => {
                let heard = self.heard.entry(job).or_default();
                heard.text.push_str(&text);
                heard.tokens += u64::from(tokens);
            }
            ClientEvent::Complete(_) => {
                let took = self.schedule.below(400);
                self.at(self.now + took, Event::Read(job));
            }
            ClientEvent::Started(_) => {}
        }
    }

    /// The receipt that a client is given is about what it heard and about the offer as it was made: what no book can check.
    fn check_answer(&self, job: JobId, done: &Done) {
        let receipt = &done.receipt.receipt;
        let nothing = Heard::default();
        let client = self.heard.get(&job).unwrap_or(&nothing);
        let text = &done.content.text;
        let all = client.text == *text || (client.left && client.text.starts_with(text.as_str()));
        assert!(all, "{job}: {:?} was heard, not {text:?}", client.text);
        assert!(
            receipt.output_units <= client.read,
            "{job}: {} tokens are charged, {} were read",
            receipt.output_units,
            client.read
        );
        let config = self
            .providers
            .iter()
            .map(|host| &host.config)
            .find(|config| config.key.address() == receipt.provider)
            .expect("only these providers exist");
        let offer = &config.offers[0];
        let tokens: Vec<u32> = text
            .split_whitespace()
            .map(|n| n.parse().expect("simulated providers write their tokens"))
            .collect();
        let same = receipt.response_digest == done.content.digest()
            && receipt.output_root == stoa_crypto::token_root(&tokens)
            && receipt.output_units == tokens.len() as u64
            && receipt.model_root == offer.model_root
            && receipt.runtime_digest == offer.runtime_digest
            && receipt.profile_hash == config.profile_hash
            && (receipt.input_price, receipt.output_price)
                == (offer.input_price, offer.output_price);
        assert!(
            same,
            "{job}: the receipt is not about this answer: {receipt:?}"
        );
        stoa_verify::check_signatures(&done.receipt).expect("both signed it");
    }

    fn crash_router(&mut self) {
        if self.router.take().is_none() {
            return;
        }
        self.coverage.saw(Fault::Crash, Role::Router);
        self.router_life += 1;
        self.draining = false;
        self.refused.clear();
        if self.journal.crash(&mut self.disk) > 0 {
            self.coverage.saw(Fault::UnsyncedLost, Role::Router);
        }
        for n in 0..self.providers.len() {
            self.unlink(n);
        }
    }

    fn restart_router(&mut self) {
        if self.router.is_some() {
            return;
        }
        if self.router_life > 0 {
            self.coverage.saw(Fault::Restart, Role::Router);
        }
        self.charged.clear();
        let book = self.journal.book(self.empty_book());
        let (router, outputs) = Router::recover(self.router_config.clone(), book, 1);
        self.router = Some(router);
        // The reader of chain events has no memory of its own: it tells everything again.
        self.cursor = 0;
        self.router_outputs(outputs);
        self.follow_chain();
        for n in 0..self.providers.len() {
            self.link(n);
        }
    }

    fn empty_book(&self) -> RouterBook {
        RouterBook::new(self.router_config.domain, self.router_config.key.address())
    }

    /// A router or a provider is told to finish what runs and to take nothing new.
    fn drain(&mut self, whom: Option<usize>) {
        match whom {
            None if self.router.is_some() => {
                self.coverage.saw(Fault::Drained, Role::Router);
                self.draining = true;
                self.router_input(Input::Drain);
            }
            Some(n) if self.providers[n].core.is_some() => {
                self.coverage.saw(Fault::Drained, Role::Provider);
                self.provider_input(n, provider::Input::Drain(true));
            }
            _ => {}
        }
    }

    // ---- providers and links

    fn provider_input(&mut self, n: usize, input: provider::Input) {
        let host = &mut self.providers[n];
        let now = Timestamp(self.now.saturating_add_signed(host.skew));
        let life = host.life;
        let Some(core) = &mut host.core else { return };
        for output in core.handle(input, now) {
            match output {
                provider::Output::Send(message) => self.send_to_router(n, message),
                provider::Output::Prepare { attempt, .. } => {
                    let time = self.now + self.schedule.below(20);
                    self.at(
                        time,
                        Event::Prepared {
                            provider: n,
                            life,
                            attempt,
                        },
                    );
                }
                provider::Output::Run(attempt) => {
                    let left = self.schedule.between(0, 8);
                    let time = self.now + self.schedule.below(200);
                    self.at(
                        time,
                        Event::Generate {
                            provider: n,
                            life,
                            attempt,
                            left,
                        },
                    );
                }
                provider::Output::Earned(receipt) => {
                    self.told.earned.insert(receipt.receipt.job_id, *receipt);
                }
                provider::Output::Stop(_)
                | provider::Output::Took(_)
                | provider::Output::Owes(_)
                | provider::Output::Lapsed(_)
                | provider::Output::Warn { .. } => {}
            }
        }
    }

    fn generate(&mut self, n: usize, life: u64, attempt: provider::Attempt, left: u64) {
        if self.providers[n].life != life {
            return;
        }
        if !self.healed && self.adversary.chance(self.ranges.stall / 4) {
            return self.coverage.saw(Fault::Stall, Role::Provider);
        }
        let event = match left {
            0 => Generated::End {
                tool_calls: Vec::new(),
                finish_reason: FinishReason::Stop,
            },
            _ => Generated::Tokens {
                tokens: vec![left as u32],
                text: format!("{left} "),
                logprobs: Vec::new(),
            },
        };
        self.provider_input(n, provider::Input::Generated { attempt, event });
        if left > 0 {
            let time = self.now + self.schedule.below(300);
            self.at(
                time,
                Event::Generate {
                    provider: n,
                    life,
                    attempt,
                    left: left - 1,
                },
            );
        }
    }

    fn arrived_at_router(&mut self, n: usize, message: ToRouter) {
        let provider = self.providers[n].config.key.address();
        match message {
            ToRouter::Hello(hello) => self.router_input(Input::ProviderUp(hello)),
            message => self.router_input(Input::Provider { provider, message }),
        }
    }

    fn send_to_router(&mut self, n: usize, mut message: ToRouter) {
        let link = self.providers[n].link;
        if link == 0 {
            return;
        }
        if let ToRouter::Final(end) = &mut message
            && !self.healed
            && self.adversary.chance(self.ranges.garbage)
        {
            self.coverage.saw(Fault::Garbage, Role::Provider);
            let key = &self.providers[n].config.key;
            self.forged.insert(key.address());
            forge(end, &mut self.adversary, key);
        }
        let message = Box::new(message);
        self.deliver(
            n,
            true,
            Event::ToRouter {
                provider: n,
                link,
                message,
            },
        );
    }

    fn send_to_provider(&mut self, n: usize, message: ToProvider) {
        let link = self.providers[n].link;
        if link > 0 {
            self.deliver(
                n,
                false,
                Event::ToProvider {
                    provider: n,
                    link,
                    message: Box::new(message),
                },
            );
        }
    }

    /// Puts a message on the wire: late, lost, twice, or out of order.
    fn deliver(&mut self, n: usize, up: bool, event: Event) {
        let role = if up { Role::Router } else { Role::Provider };
        // The transport keeps the newest status and its order, whatever becomes of the streams of jobs.
        let status = matches!(&event, Event::ToRouter { message, .. } if matches!(**message, ToRouter::Status { .. }));
        let calm = self.healed || status;
        if !calm && self.network.chance(self.ranges.loss) {
            return self.coverage.saw(Fault::Lost, role);
        }
        let copies = if !calm && self.network.chance(self.ranges.duplication) {
            2
        } else {
            1
        };
        if copies == 2 {
            self.coverage.saw(Fault::Duplicated, role);
        }
        for _ in 0..copies {
            let mut time = self.now
                + self
                    .network
                    .delay(self.ranges.delay_least_ms, self.ranges.delay_mean_ms);
            let last = self.last_arrival.entry((n, up)).or_default();
            if self.ranges.ordered || calm {
                time = time.max(*last);
            } else if time < *last {
                self.coverage.saw(Fault::Reordered, role);
            }
            *last = time.max(*last);
            self.at(time, event.clone());
        }
    }

    fn link(&mut self, n: usize) {
        let host = &self.providers[n];
        if host.cut || host.core.is_none() || self.router.is_none() || host.link > 0 {
            return;
        }
        self.next_link += 1;
        self.providers[n].link = self.next_link;
        // The handshake is answered or there is no link: the transport's hello is not lost.
        let hello = self.providers[n]
            .core
            .as_ref()
            .map(Provider::hello)
            .expect("checked above");
        self.router_input(Input::ProviderUp(Box::new(hello)));
        self.provider_input(n, provider::Input::Connected);
    }

    /// The link is gone; both sides notice.
    fn unlink(&mut self, n: usize) {
        if std::mem::take(&mut self.providers[n].link) == 0 {
            return;
        }
        let provider = self.providers[n].config.key.address();
        self.router_input(Input::ProviderDown(provider));
        self.provider_input(n, provider::Input::Disconnected);
    }

    fn cut(&mut self, n: usize) {
        self.coverage.saw(Fault::Partition, Role::Provider);
        self.providers[n].cut = true;
        self.unlink(n);
    }

    fn heal(&mut self, n: usize) {
        self.providers[n].cut = false;
        self.link(n);
    }

    fn crash_provider(&mut self, n: usize) {
        if self.providers[n].core.is_none() {
            return;
        }
        self.coverage.saw(Fault::Crash, Role::Provider);
        self.providers[n].core = None;
        self.providers[n].life += 1;
        self.unlink(n);
    }

    fn restart_provider(&mut self, n: usize) {
        if self.providers[n].core.is_some() {
            return;
        }
        if self.providers[n].life > 0 {
            self.coverage.saw(Fault::Restart, Role::Provider);
        }
        self.providers[n].core = Some(Provider::new(self.providers[n].config.clone()));
        self.link(n);
    }

    // ---- chain and time

    fn tick(&mut self) {
        // While nothing fails, nothing depends on a fine clock.
        let next = if self.healed { 2 * TICK_MS } else { TICK_MS };
        self.at(self.now + next, Event::Tick);
        self.router_input(Input::Tick);
        for n in 0..self.providers.len() {
            self.provider_input(n, provider::Input::Tick);
        }
    }

    fn block(&mut self) {
        self.at(self.now + BLOCK_MS, Event::Block);
        if !self.healed {
            if self.network.chance(self.ranges.chain_faults) && self.chain.drop_one() {
                self.coverage.saw(Fault::TransactionLost, Role::Chain);
            }
            if self.network.chance(self.ranges.chain_faults) && self.chain.repeat_one() {
                self.coverage.saw(Fault::TransactionTwice, Role::Chain);
            }
            if self.network.chance(self.ranges.chain_faults) {
                return self.coverage.saw(Fault::Outage, Role::Chain);
            }
        }
        let seconds = self.now / 1000;
        self.chain.mine(seconds);
        if !self.healed && self.adversary.chance(self.ranges.void) && self.chain.void(seconds) {
            self.coverage.saw(Fault::Voided, Role::Chain);
        }
        if let Some(router) = &self.router {
            for host in &self.providers {
                self.chain
                    .claim(host.config.key.address(), router.book(), seconds);
            }
        }
        self.follow_chain();
    }

    fn follow_chain(&mut self) {
        if self.router.is_none() || self.chain_cut {
            return;
        }
        let life = self.router_life;
        while self.cursor < self.chain.log.len() {
            let position = self.cursor;
            self.cursor += 1;
            self.at(self.now, Event::ChainTold { life, position });
            if !self.healed && self.network.chance(self.ranges.chain_faults) {
                self.coverage.saw(Fault::EventTwice, Role::Chain);
                self.at(self.now, Event::ChainTold { life, position });
            }
        }
    }

    /// The router loses the chain; for everybody else it goes on.
    fn cut_chain(&mut self) {
        self.coverage.saw(Fault::ChainCut, Role::Router);
        self.chain_cut = true;
        self.router_input(Input::ChainReachable(false));
    }

    fn chain_back(&mut self) {
        self.chain_cut = false;
        self.router_input(Input::ChainReachable(true));
        self.follow_chain();
    }

    /// A post needs a leaf. Where a root was cancelled or debits moved after the last leaf had its batch, the next customer brings one;
    /// everywhere else all must drain without.
    fn customer(&mut self, n: u64) {
        let needs_a_leaf = [
            (Fault::Voided, Role::Chain),
            (Fault::Absorbed, Role::Router),
            (Fault::LeftOut, Role::Router),
        ];
        let tail = needs_a_leaf
            .iter()
            .any(|seen| self.coverage.0.contains_key(seen));
        if !tail || self.drained().is_ok() {
            return;
        }
        let (who, seconds) = (developer(n % DEVELOPERS), self.now / 1000);
        for act in [Act::Release, Act::Renew] {
            self.chain.act(who, act, seconds);
        }
        // Track records begin anew with the router: who lost its name under faults may serve again.
        self.crash_router();
        self.restart_router();
        self.follow_chain();
        self.at(self.now + 1_000, Event::Submit(n));
        self.at(self.now + CUSTOMER_MS, Event::Customer(n + DEVELOPERS));
    }

    /// From here on nothing fails: everything must drain.
    fn heal_all(&mut self) {
        self.healed = true;
        let faults = |event: &Event| {
            matches!(
                event,
                Event::Crash(_) | Event::Cut(_) | Event::ChainCut | Event::Drain(_)
            )
        };
        self.events
            .values_mut()
            .filter(|event| faults(event))
            .for_each(|event| *event = Event::Heal(0));
        for n in 0..self.providers.len() {
            self.providers[n].cut = false;
            self.providers[n].skew = 0;
            self.restart_provider(n);
            self.provider_input(n, provider::Input::Drain(false));
        }
        if self.draining {
            self.crash_router();
        }
        self.restart_router();
        self.chain_back();
        let first = self.ranges.calls.next_multiple_of(DEVELOPERS);
        self.at(self.now + CUSTOMER_MS, Event::Customer(first));
        for n in 0..self.providers.len() {
            self.link(n);
        }
    }
}

fn developer(n: u64) -> Address {
    let mut bytes = [0xde; 20];
    bytes[19] = n as u8;
    Address(bytes)
}

fn developers() -> Vec<Address> {
    (0..DEVELOPERS).map(developer).collect()
}

fn provider_config(
    n: u64,
    domain: Domain,
    profile_hash: Digest,
    router: Address,
) -> ProviderConfig {
    let price = |units: u64| Price::per_million(TokenAmount::from_units(u128::from(units)));
    let offer = ModelOffer {
        model: MODEL.to_owned(),
        model_root: keccak256("weights"),
        runtime_digest: keccak256("runtime"),
        tier: Tier::Exact,
        context: 64,
        input_price: price(1_000_000 + 100_000 * n),
        output_price: price(2_000_000 + 100_000 * n),
        quantization: "q8_0".to_owned(),
        reasons: false,
        message_overhead: 4,
    };
    ProviderConfig {
        key: SecretKey::for_tests(&format!("provider {n}")),
        domain,
        profile_hash,
        router,
        region: Region(*b"XA"),
        hardware: Hardware::default(),
        slots: 2,
        offers: vec![offer],
        ticket_life: Millis::from_secs(120),
    }
}

fn request(seed: u64, n: u64) -> ClientRequest {
    ClientRequest {
        model: MODEL.to_owned(),
        prompt: Prompt::Text("simulated".to_owned()),
        answer: AnswerShape::Any,
        temperature: Q16(0),
        min_p: Q16(0),
        seed: None,
        output_tokens_max: Some(8),
        stop: Vec::new(),
        controls: Controls::default(),
        // Some ask for several choices.
        choices: if n % 4 == 3 { 3 } else { 1 },
        message_count: 1,
        request_digest: keccak256([seed.to_be_bytes(), n.to_be_bytes()].concat()),
        body_bytes: 20,
        constraints: Constraints::default(),
    }
}

/// A provider that tries to be paid for what it did not do, signing its lie.
fn forge(end: &mut stoa_nodes::message::Final, rng: &mut Rng, key: &SecretKey) {
    match rng.below(11) {
        0 => end.receipt.output_units += 1,
        1 => end.receipt.charge = TokenAmount::from_units(end.receipt.charge.units() + 1),
        2 => end.receipt.account = Address([1; 20]),
        3 => end.receipt.attempt += 1,
        4 => end.receipt.model_root = Digest::ZERO,
        5 => end.receipt.response_digest = Digest::ZERO,
        6 => end.receipt.output_root = Digest::ZERO,
        7 => end.receipt.runtime_digest = Digest::ZERO,
        8 => end.receipt.profile_hash = Digest::ZERO,
        9 => {
            // Dearer than ordered, and consistent with itself.
            let r = &mut end.receipt;
            r.output_price = Price::per_million(TokenAmount::from_units(3_000_000));
            let usage = stoa_ledger::fees::Usage {
                input_units: r.input_units,
                output_units: r.output_units,
                input_price: r.input_price,
                output_price: r.output_price,
            };
            let most = TokenAmount::from_units(u128::MAX);
            r.charge = stoa_ledger::fees::charge(&usage, most).unwrap_or(r.charge);
        }
        _ => end.receipt.job_id = JobId([7; 32]),
    }
    end.signature = key.sign(stoa_crypto::receipt_digest(&end.receipt));
}

/// One line of the trace: enough to tell two runs apart and to follow one.
fn short(event: &Event) -> String {
    let job = |id: &JobId| id.to_string()[2..10].to_owned();
    match event {
        Event::Submit(n) => format!("submit {n}"),
        Event::Leave(id) => format!("leave {}", job(id)),
        Event::Read(id) => format!("read {}", job(id)),
        Event::ToRouter {
            provider, message, ..
        } => {
            let (kind, about) = (
                kind_up(message),
                message
                    .job()
                    .map(|(id, attempt)| format!(" {} {attempt}", job(&id))),
            );
            format!("p{provider} -> router {kind}{}", about.unwrap_or_default())
        }
        Event::ToProvider {
            provider, message, ..
        } => format!("router -> p{provider} {}", kind_down(message)),
        Event::Prepared {
            provider, attempt, ..
        } => format!("p{provider} prepared {} {}", job(&attempt.0), attempt.1),
        Event::Generate {
            provider,
            attempt,
            left,
            ..
        } => format!(
            "p{provider} generate {} {} left {left}",
            job(&attempt.0),
            attempt.1
        ),
        other => format!("{other:?}"),
    }
}

fn kind_up(message: &ToRouter) -> &'static str {
    match message {
        ToRouter::Hello(_) => "hello",
        ToRouter::Status { .. } => "status",
        ToRouter::Accepted { .. } => "accepted",
        ToRouter::Refused { .. } => "refused",
        ToRouter::Delta { .. } => "delta",
        ToRouter::Final(_) => "final",
        ToRouter::Failed { .. } => "failed",
    }
}

fn kind_down(message: &ToProvider) -> &'static str {
    match message {
        ToProvider::Dispatch(_) => "dispatch",
        ToProvider::Cancel { .. } => "cancel",
        ToProvider::Countersigned(_) => "countersigned",
        ToProvider::ReceiptRefused { .. } => "receipt refused",
    }
}
