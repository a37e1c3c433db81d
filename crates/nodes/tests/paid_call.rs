//! A router and providers wired together without a network: what a paid call does, step by step, when nothing and when everything
//! goes wrong. Faults of network and disk are the simulator's subject.

use std::collections::{BTreeMap, VecDeque};
use stoa_crypto::{
    Domain, SecretKey, acceptance_digest, choice_seed, keccak256, receipt_digest, recover,
};
use stoa_ledger::book::{Entry, RouterBook};
use stoa_nodes::client::{
    Budget, Cause, ClientEvent, ClientRequest, Constraints, Controls, Done, Failure, KeyId,
    Undelivered,
};
use stoa_nodes::message::{ModelOffer, RefusalReason, ToProvider, ToRouter};
use stoa_nodes::provider::{self, Counted, Generated, Prepared, Provider, ProviderConfig};
use stoa_nodes::router::{ChainEvent, Input, Keeping, Output, Router, RouterConfig};
use stoa_nodes::work::{AnswerShape, Input as WorkInput, Prompt};
use stoa_types::*;
use stoa_verify::{check_signatures, vector_line};

const START: Timestamp = Timestamp(1_790_000_000_000);
const MODEL: &str = "stoa-tiny";

struct World {
    now: Timestamp,
    router: Router,
    providers: BTreeMap<Address, Provider>,
    /// Written but not yet synced entries; `None` = sync at once.
    unsynced: Option<Vec<u64>>,
    journal: Vec<Entry>,
    heard: BTreeMap<JobId, Vec<ClientEvent>>,
    earned: Vec<SignedReceipt>,
    warnings: Vec<String>,
    alerts: Vec<stoa_nodes::client::SpendAlert>,
    prepared: VecDeque<(Address, (JobId, u32))>,
    running: Vec<(Address, (JobId, u32))>,
    /// Messages to the router are changed by this before they arrive.
    tamper: fn(ToRouter) -> Vec<ToRouter>,
    input_units: u64,
    /// What was asked to be kept or erased for audits, with the number of journal entries before it.
    kept: Vec<(usize, Keeping)>,
    /// Orders that were taken and not delivered.
    undelivered: Vec<Undelivered>,
    /// What providers kept before they gave their word, and what they had to show for it.
    took: Vec<provider::Taken>,
    owed: Vec<provider::Shown>,
    lapsed: Vec<Digest>,
    /// Whether clients take what they are told.
    reads: bool,
}

fn profile() -> NetworkProfile {
    NetworkProfile::parse(NetworkProfile::builtin_text("stoa").expect("built in")).expect("valid")
}

fn domain() -> Domain {
    Domain {
        chain_id: 31_337,
        vault: SecretKey::for_tests("vault").address(),
    }
}

fn price(units: u128) -> Price {
    Price::per_million(TokenAmount::from_units(units))
}

fn account() -> Address {
    SecretKey::for_tests("developer").address()
}

fn job(n: u8) -> JobId {
    JobId(keccak256([n]).0)
}

fn request(n: u8) -> ClientRequest {
    ClientRequest {
        model: MODEL.to_owned(),
        prompt: Prompt::Text("hello".to_owned()),
        answer: AnswerShape::Any,
        temperature: Q16(0),
        min_p: Q16(0),
        seed: None,
        output_tokens_max: Some(8),
        stop: Vec::new(),
        controls: Controls::default(),
        choices: 1,
        message_count: 1,
        request_digest: keccak256([n, n]),
        body_bytes: 100,
        constraints: Constraints::default(),
    }
}

impl World {
    fn new(providers: u8) -> Self {
        Self::with_offers(providers, |_| {})
    }

    /// Providers before servers of others: no weights, tier `none`.
    fn of_tier_none(providers: u8) -> Self {
        Self::with_offers(providers, |offer| {
            offer.model_root = Digest::ZERO;
            offer.tier = Tier::None;
        })
    }

    fn with_offers(providers: u8, change: fn(&mut ModelOffer)) -> Self {
        let router_key = SecretKey::for_tests("router");
        let profile_hash = keccak256("profile");
        let config = RouterConfig {
            key: router_key.clone(),
            domain: domain(),
            profile: profile(),
            profile_hash,
        };
        let book = RouterBook::new(domain(), router_key.address());
        let (router, outputs) = Router::recover(config, book, 1);
        assert!(outputs.is_empty());
        let mut world = Self {
            now: START,
            router,
            providers: BTreeMap::new(),
            unsynced: None,
            journal: Vec::new(),
            heard: BTreeMap::new(),
            earned: Vec::new(),
            warnings: Vec::new(),
            alerts: Vec::new(),
            prepared: VecDeque::new(),
            running: Vec::new(),
            tamper: |message| vec![message],
            input_units: 5,
            kept: Vec::new(),
            undelivered: Vec::new(),
            took: Vec::new(),
            owed: Vec::new(),
            lapsed: Vec::new(),
            reads: true,
        };
        world.allot(1_000_000);
        for n in 0..providers {
            let mut offer = ModelOffer {
                model: MODEL.to_owned(),
                model_root: keccak256("weights"),
                runtime_digest: keccak256("iq8"),
                tier: Tier::Exact,
                context: 1024,
                input_price: price(100_000 + 10_000 * u128::from(n)),
                output_price: price(400_000 + 40_000 * u128::from(n)),
                quantization: "q8_0".to_owned(),
                reasons: true,
                message_overhead: 8,
            };
            change(&mut offer);
            let config = ProviderConfig {
                key: SecretKey::for_tests(&format!("provider {n}")),
                domain: domain(),
                profile_hash,
                router: router_key.address(),
                region: Region(*b"XA"),
                hardware: Hardware::default(),
                slots: 2,
                offers: vec![offer],
                ticket_life: Millis::from_secs(120),
            };
            let provider = Provider::new(config);
            let account = provider.account();
            let hello = provider.hello();
            world.providers.insert(account, provider);
            world.provider(account, provider::Input::Connected);
            world.input(Input::ProviderUp(Box::new(hello)));
        }
        world
    }

    fn allot(&mut self, cap: u128) {
        self.allot_to(account(), cap);
    }

    fn allot_to(&mut self, account: Address, cap: u128) {
        self.input(Input::Chain(ChainEvent::Allotment {
            account,
            generation: 1,
            cap: TokenAmount::from_units(cap),
            debited: TokenAmount::ZERO,
            expiry: START.plus(Millis::from_secs(86_400)),
            fee_version: 1,
        }));
    }

    fn input(&mut self, input: Input) {
        let outputs = self.router.handle(input, self.now);
        self.router
            .book()
            .check_conservation()
            .expect("conserved after every event");
        for output in outputs {
            match output {
                Output::Journal { sequence, entry } => {
                    self.journal.push(*entry);
                    match &mut self.unsynced {
                        Some(waiting) => waiting.push(sequence),
                        None => self.input(Input::Synced { up_to: sequence }),
                    }
                }
                Output::Client { job, event } => {
                    let complete = matches!(event, ClientEvent::Complete(_));
                    self.heard.entry(job).or_default().push(event);
                    if complete && self.reads {
                        let tokens = self.told(job);
                        self.input(Input::Delivered { job, tokens });
                    }
                }
                Output::Send { provider, message } => {
                    self.provider(provider, provider::Input::Router(*message))
                }
                Output::Warn { text, .. } => self.warnings.push(text),
                Output::SpendAlert(alert) => self.alerts.push(alert),
                Output::Decided { decision, .. } => {
                    decision.replay().expect("every decision can be replayed")
                }
                Output::Audits(keeping) => self.kept.push((self.journal.len(), keeping)),
                Output::Undelivered(undelivered) => self.undelivered.push(*undelivered),
                Output::Chain(_) => {}
            }
        }
    }

    fn provider(&mut self, account: Address, input: provider::Input) {
        let now = self.now;
        let Some(provider) = self.providers.get_mut(&account) else {
            return;
        };
        for output in provider.handle(input, now) {
            match output {
                provider::Output::Send(message) => {
                    for message in (self.tamper)(message) {
                        self.input(Input::Provider {
                            provider: account,
                            message,
                        });
                    }
                }
                provider::Output::Prepare { attempt, .. } => {
                    self.prepared.push_back((account, attempt))
                }
                provider::Output::Run(attempt) => self.running.push((account, attempt)),
                provider::Output::Stop(attempt) => self.running.retain(|(_, a)| *a != attempt),
                provider::Output::Earned(receipt) => self.earned.push(*receipt),
                provider::Output::Took(taken) => self.took.push(*taken),
                provider::Output::Owes(shown) => self.owed.push(*shown),
                provider::Output::Lapsed(order) => self.lapsed.push(order),
                provider::Output::Warn { text, .. } => self.warnings.push(text),
            }
        }
    }

    fn submit(&mut self, n: u8) {
        self.submit_of(account(), n, request(n));
    }

    fn submit_of(&mut self, account: Address, n: u8, request: ClientRequest) {
        self.input(Input::Submit {
            job: job(n),
            account,
            request: Box::new(request),
            entropy: 7,
        });
    }

    /// The provider that was ordered from last refuses.
    fn refuse(&mut self, reason: RefusalReason) -> Address {
        let (account, attempt) = self.prepared.pop_front().expect("dispatched");
        let result = Err(reason);
        self.provider(account, provider::Input::Prepared { attempt, result });
        account
    }

    fn reputation(&self, provider: Address) -> u32 {
        let standing = self.router.stock().get(provider).expect("met");
        standing.track.reputation.ppm()
    }

    fn prepare(&mut self) {
        while let Some((account, attempt)) = self.prepared.pop_front() {
            let prepared = Prepared {
                input_units: self.input_units,
                prompt_root: keccak256("prompt"),
            };
            self.provider(
                account,
                provider::Input::Prepared {
                    attempt,
                    result: Ok(prepared),
                },
            );
        }
    }

    fn tokens(&mut self, count: u32) {
        for (account, attempt) in self.running.clone() {
            for n in 0..count {
                let event = Generated::Tokens {
                    tokens: vec![n],
                    text: format!("t{n} "),
                    logprobs: Vec::new(),
                };
                self.provider(account, provider::Input::Generated { attempt, event });
            }
        }
    }

    fn end(&mut self) {
        for (account, attempt) in std::mem::take(&mut self.running) {
            let event = Generated::End {
                tool_calls: Vec::new(),
                finish_reason: FinishReason::Stop,
            };
            self.provider(account, provider::Input::Generated { attempt, event });
        }
    }

    /// Tokens that the client was told.
    fn told(&self, job: JobId) -> u64 {
        let tokens = |event: &ClientEvent| match event {
            ClientEvent::Delta { tokens, .. } => u64::from(*tokens),
            _ => 0,
        };
        self.heard.get(&job).into_iter().flatten().map(tokens).sum()
    }

    /// The client leaves after it was told everything so far.
    fn leave(&mut self, n: u8) {
        let read = self.told(job(n));
        self.input(Input::ClientGone { job: job(n), read });
    }

    fn done(&self, n: u8) -> &Done {
        match self.heard.get(&job(n)).and_then(|events| events.last()) {
            Some(ClientEvent::Done(done)) => done,
            other => panic!("job {n} is not done: {other:?}"),
        }
    }

    fn failure(&self, n: u8) -> &Failure {
        match self.heard.get(&job(n)).and_then(|events| events.last()) {
            Some(ClientEvent::Failed(failure)) => failure,
            other => panic!("job {n} did not fail: {other:?}"),
        }
    }

    fn free(&self) -> u128 {
        let available = self
            .router
            .book()
            .available(account(), self.now, Millis(0))
            .expect("allotted");
        available.amount.units()
    }

    fn tick(&mut self, ms: u64) {
        self.now = self.now.plus(Millis(ms));
        self.input(Input::Tick);
    }
}

#[test]
fn a_call_is_reserved_answered_charged_and_signed_by_both() {
    let mut world = World::new(3);
    world.submit(1);
    assert!(world.free() < 1_000_000, "the reserve is held");
    world.prepare();
    world.tokens(3);
    world.end();
    let done = world.done(1).clone();
    assert_eq!(done.content.text, "t0 t1 t2 ");
    assert_eq!(
        (done.content.input_units, done.content.output_units),
        (5, 3)
    );
    check_signatures(&done.receipt).expect("both signed");
    assert_eq!(
        world.earned,
        vec![done.receipt.clone()],
        "the provider holds the same receipt"
    );
    assert_eq!(
        world.free(),
        1_000_000 - done.receipt.receipt.charge.units(),
        "the overage is free again"
    );
    assert_eq!(world.router.active(), 0);
    assert!(world.warnings.is_empty(), "{:?}", world.warnings);
}

#[test]
fn nothing_is_dispatched_before_the_reservation_is_durable() {
    let mut world = World::new(1);
    world.unsynced = Some(Vec::new());
    world.submit(1);
    assert!(world.prepared.is_empty());
    let sequence = world.unsynced.as_ref().expect("gathering")[0];
    world.input(Input::Synced { up_to: sequence });
    assert_eq!(world.prepared.len(), 1);
}

#[test]
fn the_end_is_not_told_before_the_charge_is_durable() {
    let mut world = World::new(1);
    world.submit(1);
    world.prepare();
    world.tokens(2);
    world.unsynced = Some(Vec::new());
    world.end();
    assert!(!matches!(
        world.heard[&job(1)].last(),
        Some(ClientEvent::Done(_))
    ));
    assert!(world.earned.is_empty());
    let sequence = world.unsynced.as_ref().expect("gathering")[0];
    world.input(Input::Synced { up_to: sequence });
    world.done(1);
    assert_eq!(world.earned.len(), 1);
}

#[test]
fn a_reservation_without_room_on_disk_refuses_the_call_and_frees_the_money() {
    let mut world = World::new(1);
    world.unsynced = Some(Vec::new());
    world.submit(1);
    let sequence = world.unsynced.as_ref().expect("gathering")[0];
    world.input(Input::NotWritten {
        sequence,
        reason: "disk full".to_owned(),
    });
    assert!(matches!(
        world.failure(1).cause,
        Cause::RouterUnavailable { .. }
    ));
    assert_eq!(world.free(), 1_000_000);
}

#[test]
fn a_provider_lost_before_the_first_token_is_replaced_unnoticed() {
    let mut world = World::new(2);
    world.submit(1);
    let (first, _) = world.prepared[0];
    world.prepared.clear();
    world.input(Input::ProviderDown(first));
    world.prepare();
    world.tokens(1);
    world.end();
    let done = world.done(1);
    assert_ne!(done.receipt.receipt.provider, first);
    assert_eq!(done.started.failovers, 1);
    assert_eq!(done.receipt.receipt.attempt, 1);
}

#[test]
fn a_provider_lost_mid_stream_costs_nothing_and_says_so() {
    let mut world = World::new(2);
    world.submit(1);
    world.prepare();
    world.tokens(2);
    let (provider, _) = world.running[0];
    world.input(Input::ProviderDown(provider));
    let failure = world.failure(1);
    assert_eq!(failure.cause, Cause::ProviderLost);
    assert!(failure.billed.is_zero());
    assert_eq!(world.free(), 1_000_000);
}

#[test]
fn a_client_that_leaves_pays_for_what_it_got_and_no_more() {
    let mut world = World::new(1);
    world.submit(1);
    world.prepare();
    world.tokens(3);
    world.leave(1);
    assert!(world.running.is_empty(), "the provider stopped");
    let receipt = world
        .router
        .book()
        .receipt(job(1))
        .expect("charged")
        .receipt
        .clone();
    assert_eq!(receipt.output_units, 3);
    assert_eq!(world.earned.len(), 1);
    assert_eq!(world.free(), 1_000_000 - receipt.charge.units());
}

#[test]
fn a_client_that_leaves_before_the_first_token_pays_nothing() {
    let mut world = World::new(1);
    world.submit(1);
    world.prepare();
    world.leave(1);
    assert!(world.running.is_empty());
    assert_eq!(world.free(), 1_000_000);
    assert!(world.earned.is_empty());
}

#[test]
fn a_silent_provider_is_given_up_after_the_first_token_deadline() {
    let mut world = World::new(1);
    world.submit(1);
    world.prepare();
    world.tick(9_999);
    assert_eq!(world.router.active(), 1);
    world.tick(1);
    assert_eq!(world.failure(1).cause, Cause::DeadlineExceeded);
    assert_eq!(
        world.router.book().job_state(job(1)),
        Some(JobState::TimedOut)
    );
    assert_eq!(world.free(), 1_000_000);
}

/// Each lie of a provider, and that it earns nothing by it.
#[test]
fn a_provider_that_lies_in_its_receipt_is_refused_and_paid_nothing() {
    let lies: Vec<fn(&mut Receipt)> = vec![
        |r| r.output_units += 1,
        |r| r.input_units += 1,
        |r| r.charge = TokenAmount::from_units(r.charge.units() + 1),
        |r| r.output_price = Price::per_million(TokenAmount::from_units(1_000_000)),
        |r| r.model_root = keccak256("other weights"),
        |r| r.output_root = keccak256("other tokens"),
        |r| r.response_digest = keccak256("other text"),
        |r| r.account = Address([9; 20]),
        |r| r.tier = Tier::Zk,
        |r| r.delivered_at = Timestamp(0),
    ];
    let last = lies.len() - 1;
    for (number, lie) in lies.into_iter().enumerate() {
        let mut world = World::new(1);
        world.submit(1);
        world.prepare();
        world.tokens(2);
        let (account, (id, attempt)) = world.running[0];
        world.tamper = |message| {
            if matches!(message, ToRouter::Final(_)) {
                Vec::new()
            } else {
                vec![message]
            }
        };
        let mut forged = None;
        let provider = world.providers.get_mut(&account).expect("known");
        let event = Generated::End {
            tool_calls: Vec::new(),
            finish_reason: FinishReason::Stop,
        };
        for output in provider.handle(
            provider::Input::Generated {
                attempt: (id, attempt),
                event,
            },
            START,
        ) {
            if let provider::Output::Send(ToRouter::Final(mut end)) = output {
                lie(&mut end.receipt);
                end.signature = SecretKey::for_tests("provider 0")
                    .sign(stoa_crypto::receipt_digest(&end.receipt));
                forged = Some(ToRouter::Final(end));
            }
        }
        world.input(Input::Provider {
            provider: account,
            message: forged.expect("a final was made"),
        });
        // Delivered before it was accepted contradicts itself; any other lie is a receipt that proves nothing.
        let contradicts = number == last;
        let cause = &world.failure(1).cause;
        assert_eq!(
            matches!(cause, Cause::VerificationFailed { .. }),
            !contradicts,
            "lie {number}: {cause:?}"
        );
        assert_eq!(
            matches!(cause, Cause::ProviderInvalid { .. }),
            contradicts,
            "lie {number}: {cause:?}"
        );
        assert_eq!(world.free(), 1_000_000, "lie {number} was paid");
        assert!(world.router.book().receipt(job(1)).is_none());
    }
}

#[test]
fn more_tokens_than_ordered_end_the_attempt() {
    let mut world = World::new(1);
    world.submit(1);
    world.prepare();
    world.tokens(9);
    assert!(matches!(
        world.failure(1).cause,
        Cause::ProviderInvalid { .. }
    ));
    assert_eq!(world.free(), 1_000_000);
}

/// What is kept of an order that was taken is signed by both for this network, and names who took it, when and until when.
fn check_undelivered(undelivered: &Undelivered, provider: Address, at: Timestamp) {
    let Undelivered { ticket, acceptance } = undelivered;
    let hash = stoa_crypto::ticket_digest(&domain(), &ticket.ticket);
    let router = SecretKey::for_tests("router").address();
    let word = acceptance_digest(&domain(), &acceptance.acceptance);
    assert_eq!(recover(hash, &ticket.signature), Ok(router));
    assert_eq!(recover(word, &acceptance.signature), Ok(provider));
    assert_eq!(acceptance.acceptance.ticket, hash);
    assert_eq!(acceptance.acceptance.accepted_at, at);
    assert_eq!(ticket.ticket.provider, provider);
    assert!(ticket.ticket.deadline > at);
}

#[test]
fn a_call_that_nobody_delivered_carries_the_word_of_everybody_who_took_it() {
    let mut world = World::new(2);
    world.submit(1);
    let mut took = Vec::new();
    for _ in 0..2 {
        world.prepare();
        took.push((world.running[0].0, world.now));
        // Silent until the router gives it up, and the next one is asked.
        world.tick(10_001);
    }
    let failure = world.failure(1).clone();
    assert_eq!(failure.cause, Cause::DeadlineExceeded);
    assert!(failure.billed.is_zero());
    assert_eq!(failure.undelivered.len(), 2);
    for (undelivered, (provider, at)) in failure.undelivered.iter().zip(took) {
        check_undelivered(undelivered, provider, at);
    }
    assert_eq!(world.undelivered[..], failure.undelivered[..], "kept, too");
    let losses: Vec<_> = world.router.losses().collect();
    assert!(losses.iter().all(|loss| loss.undelivered.is_some()));
}

#[test]
fn a_call_that_another_provider_delivered_leaves_the_word_of_the_first_and_no_more() {
    let mut world = World::new(2);
    world.submit(1);
    world.prepare();
    let (first, _) = world.running[0];
    let at = world.now;
    world.tick(10_001);
    world.prepare();
    world.tokens(2);
    world.end();
    assert_ne!(world.done(1).receipt.receipt.provider, first);
    assert_eq!(world.undelivered.len(), 1);
    check_undelivered(&world.undelivered[0], first, at);
}

#[test]
fn who_did_not_take_the_order_or_could_not_deliver_it_gave_no_word_that_is_kept() {
    // Silent before it accepted.
    let mut world = World::new(1);
    world.submit(1);
    world.tick(10_001);
    assert!(world.failure(1).undelivered.is_empty());
    // Left by its client, with nothing and with something read.
    for read in [0, 3] {
        let mut world = World::new(1);
        world.submit(1);
        world.prepare();
        world.tokens(read);
        let running = world.running.clone();
        world.leave(1);
        world.input(Input::ProviderDown(running[0].0));
        assert!(world.undelivered.is_empty(), "left after {read}");
    }
    // Cut off by the router itself.
    let mut world = World::new(1);
    world.submit(1);
    world.prepare();
    let (provider, _) = world.running[0];
    world.input(Input::ProviderCutOff(provider));
    assert_eq!(world.failure(1).cause, Cause::ProviderDown);
    assert!(world.failure(1).undelivered.is_empty());
    assert!(world.undelivered.is_empty());
    // A refusal after the order was taken, by what the server behind says of it.
    let mut world = World::of_tier_none(1);
    world.submit(1);
    world.prepare();
    let (account, attempt) = world.running[0];
    let event = Generated::Refused {
        reason: RefusalReason::Policy,
    };
    world.provider(account, provider::Input::Generated { attempt, event });
    assert!(world.failure(1).undelivered.is_empty());
}

#[test]
fn an_acceptance_of_another_order_by_somebody_else_or_after_the_deadline_ends_the_attempt() {
    fn as_signed(
        key: &str,
        change: fn(&mut stoa_types::Acceptance),
        message: ToRouter,
    ) -> ToRouter {
        let ToRouter::Accepted {
            job,
            attempt,
            mut acceptance,
            input_units,
        } = message
        else {
            return message;
        };
        change(&mut acceptance.acceptance);
        let digest = acceptance_digest(&domain(), &acceptance.acceptance);
        acceptance.signature = SecretKey::for_tests(key).sign(digest);
        ToRouter::Accepted {
            job,
            attempt,
            acceptance,
            input_units,
        }
    }
    let lies: [fn(ToRouter) -> Vec<ToRouter>; 5] = [
        |message| {
            vec![as_signed(
                "provider 0",
                |a| a.accepted_at = Timestamp(1),
                message,
            )]
        },
        |message| vec![as_signed("somebody", |_| {}, message)],
        |message| {
            vec![as_signed(
                "provider 0",
                |a| a.ticket = Digest([1; 32]),
                message,
            )]
        },
        |message| {
            vec![as_signed(
                "provider 0",
                |a| a.accepted_at = Timestamp(u64::MAX),
                message,
            )]
        },
        |message| match message {
            ToRouter::Accepted {
                job,
                attempt,
                acceptance,
                ..
            } => vec![ToRouter::Accepted {
                job,
                attempt,
                acceptance,
                input_units: u64::MAX,
            }],
            other => vec![other],
        },
    ];
    for (number, tamper) in lies.into_iter().enumerate() {
        let mut world = World::new(1);
        world.tamper = tamper;
        world.submit(1);
        world.prepare();
        let cause = &world.failure(1).cause;
        assert!(
            matches!(cause, Cause::VerificationFailed { .. }),
            "lie {number}: {cause:?}"
        );
        assert!(world.undelivered.is_empty(), "lie {number} is no word");
        assert_eq!(world.free(), 1_000_000);
    }
}

#[test]
fn a_second_word_for_one_order_changes_nothing_and_a_receipt_cannot_name_its_time() {
    let mut world = World::new(1);
    world.tamper = |message| match message.clone() {
        ToRouter::Accepted {
            job,
            attempt,
            mut acceptance,
            input_units,
        } => {
            acceptance.acceptance.accepted_at = Timestamp(acceptance.acceptance.accepted_at.0 + 1);
            let digest = acceptance_digest(&domain(), &acceptance.acceptance);
            acceptance.signature = SecretKey::for_tests("provider 0").sign(digest);
            let second = ToRouter::Accepted {
                job,
                attempt,
                acceptance,
                input_units: input_units + 1,
            };
            vec![message, second]
        }
        _ => vec![message],
    };
    world.submit(1);
    world.prepare();
    world.tokens(2);
    world.end();
    assert_eq!(world.done(1).content.input_units, 5);

    let mut world = World::new(1);
    world.tamper = |message| match message {
        ToRouter::Final(mut end) => {
            end.receipt.accepted_at = Timestamp(end.receipt.accepted_at.0 - 1);
            end.signature = SecretKey::for_tests("provider 0").sign(receipt_digest(&end.receipt));
            vec![ToRouter::Final(end)]
        }
        other => vec![other],
    };
    world.submit(1);
    world.prepare();
    world.tokens(2);
    world.end();
    let cause = &world.failure(1).cause;
    assert!(matches!(cause, Cause::ProviderInvalid { .. }), "{cause:?}");
}

#[test]
fn messages_repeated_by_the_network_change_nothing() {
    let mut world = World::new(1);
    world.tamper = |message| match message {
        // A repeated delta would be more tokens: streams are ordered and exact, so only whole messages outside them repeat.
        ToRouter::Accepted { .. } | ToRouter::Final(_) | ToRouter::Status { .. } => {
            vec![message.clone(), message]
        }
        other => vec![other],
    };
    world.submit(1);
    world.prepare();
    world.tokens(2);
    world.end();
    world.done(1);
    let charged = world
        .journal
        .iter()
        .filter(|entry| matches!(entry, Entry::Charged { .. }))
        .count();
    assert_eq!(charged, 1);
}

#[test]
fn a_receipt_offered_again_after_a_lost_connection_is_countersigned_if_it_was_charged() {
    let mut world = World::new(1);
    world.submit(1);
    world.prepare();
    world.tokens(2);
    let (account, _) = world.running[0];
    // The countersignature is lost with the connection.
    let mut provider = world.providers[&account].clone();
    let mut end = None;
    let event = Generated::End {
        tool_calls: Vec::new(),
        finish_reason: FinishReason::Stop,
    };
    for output in provider.handle(
        provider::Input::Generated {
            attempt: (job(1), 0),
            event,
        },
        world.now,
    ) {
        if let provider::Output::Send(ToRouter::Final(sent)) = output {
            end = Some(sent);
        }
    }
    world.input(Input::Provider {
        provider: account,
        message: ToRouter::Final(end.expect("made")),
    });
    world.earned.clear();
    world.providers.insert(account, provider);
    world.provider(account, provider::Input::Disconnected);
    world.provider(account, provider::Input::Connected);
    assert_eq!(world.earned.len(), 1);
    assert_eq!(world.earned[0], world.done(1).receipt);
}

#[test]
fn an_empty_allotment_and_an_unknown_model_are_told_apart() {
    let mut world = World::new(1);
    let mut other = request(1);
    other.model = "gpt-9".to_owned();
    world.input(Input::Submit {
        job: job(1),
        account: account(),
        request: Box::new(other),
        entropy: 1,
    });
    assert!(matches!(world.failure(1).cause, Cause::UnknownModel { .. }));
    let stranger = SecretKey::for_tests("stranger").address();
    world.input(Input::Submit {
        job: job(2),
        account: stranger,
        request: Box::new(request(2)),
        entropy: 1,
    });
    assert_eq!(world.failure(2).cause, Cause::NoAllotment);
    let mut huge = request(3);
    huge.body_bytes = u64::MAX;
    huge.output_tokens_max = Some(u32::MAX);
    world.input(Input::Submit {
        job: job(3),
        account: account(),
        request: Box::new(huge),
        entropy: 1,
    });
    assert_eq!(
        world.router.active(),
        1,
        "bounded by context and profile, so it is affordable"
    );
}

#[test]
fn a_cost_ceiling_shortens_the_answer_and_one_below_the_prompt_is_refused() {
    let mut world = World::new(1);
    let mut capped = request(1);
    capped.output_tokens_max = Some(1000);
    capped.constraints.cost_max = Some(TokenAmount::from_units(100));
    world.input(Input::Submit {
        job: job(1),
        account: account(),
        request: Box::new(capped),
        entropy: 1,
    });
    let held = world
        .router
        .book()
        .reservation(job(1))
        .expect("reserved")
        .amount;
    assert!(held <= TokenAmount::from_units(100), "{held}");
    let mut dust = request(2);
    dust.constraints.cost_max = Some(TokenAmount::from_units(1));
    world.input(Input::Submit {
        job: job(2),
        account: account(),
        request: Box::new(dust),
        entropy: 1,
    });
    assert!(
        matches!(world.failure(2).cause, Cause::PriceCeiling { .. }),
        "{:?}",
        world.failure(2)
    );
}

#[test]
fn a_ticket_for_another_chain_price_or_provider_is_not_worked_on() {
    let mut world = World::new(1);
    let mut dispatches = Vec::new();
    let outputs = {
        world.unsynced = Some(Vec::new());
        world.submit(1);
        let sequence = world.unsynced.as_ref().expect("gathering")[0];
        world
            .router
            .handle(Input::Synced { up_to: sequence }, world.now)
    };
    for output in outputs {
        if let Output::Send { message, .. } = output
            && let ToProvider::Dispatch(dispatch) = *message
        {
            dispatches.push(*dispatch);
        }
    }
    let dispatch = dispatches.pop().expect("ordered");
    let account = dispatch.ticket.ticket.provider;
    let changes: Vec<fn(&mut Ticket)> = vec![
        |t| t.output_price = Price::default(),
        |t| t.provider = Address([1; 20]),
        |t| t.deadline = Timestamp(0),
        |t| t.reserve = TokenAmount::from_units(u128::MAX),
        |t| t.model_root = Digest::ZERO,
    ];
    for change in changes {
        let mut changed = dispatch.clone();
        change(&mut changed.ticket.ticket);
        let input = provider::Input::Router(ToProvider::Dispatch(Box::new(changed)));
        let outputs = world
            .providers
            .get_mut(&account)
            .expect("known")
            .handle(input, START);
        assert!(
            outputs
                .iter()
                .any(|o| matches!(o, provider::Output::Send(ToRouter::Refused { .. }))),
            "a changed ticket was taken: {outputs:?}"
        );
    }
}

#[test]
fn a_restart_releases_what_was_open_and_keeps_what_was_charged() {
    let mut world = World::new(1);
    world.submit(1);
    world.prepare();
    world.tokens(1);
    world.end();
    world.submit(2);
    world.prepare();
    world.tokens(1);
    let book = RouterBook::new(domain(), world.router.config().key.address())
        .replay(&world.journal)
        .expect("replays");
    let (router, outputs) = Router::recover(world.router.config().clone(), book, 1);
    assert_eq!(outputs.len(), 1, "one release");
    assert!(router.book().receipt(job(1)).is_some());
    assert_eq!(router.book().job_state(job(2)), Some(JobState::Refunded));
}

#[test]
fn with_the_chain_unreachable_known_cover_serves_and_unknown_cover_is_not_denied() {
    let mut world = World::new(1);
    world.input(Input::ChainReachable(false));
    world.submit(1);
    world.prepare();
    world.tokens(1);
    world.end();
    world.done(1);
    let stranger = SecretKey::for_tests("stranger").address();
    world.input(Input::Submit {
        job: job(2),
        account: stranger,
        request: Box::new(request(2)),
        entropy: 1,
    });
    assert_eq!(world.failure(2).cause, Cause::SettlementUnavailable);
}

#[test]
fn a_clock_that_jumps_loses_no_money_and_ends_every_call() {
    let mut world = World::new(1);
    world.submit(1);
    world.prepare();
    world.tokens(1);
    world.now = Timestamp(START.0 - 3_600_000);
    world.input(Input::Tick);
    world.tokens(1);
    world.end();
    let charge = world.done(1).receipt.receipt.charge.units();
    world.now = START;
    world.submit(2);
    world.prepare();
    world.tick(40 * 86_400_000);
    assert_eq!(world.failure(2).cause, Cause::DeadlineExceeded);
    assert_eq!(world.router.active(), 0);
    world.now = START;
    assert_eq!(world.free(), 1_000_000 - charge);
}

#[test]
fn an_allotment_that_ends_before_a_ticket_could_is_told_as_expired() {
    let mut world = World::new(1);
    world.now = START.plus(Millis::from_secs(86_400 - 60));
    world.submit(1);
    assert_eq!(world.failure(1).cause, Cause::AllotmentExpired);
}

#[test]
fn a_cap_that_is_reached_says_what_is_needed_and_what_is_free() {
    let mut world = World::new(1);
    world.input(Input::Chain(ChainEvent::Allotment {
        account: SecretKey::for_tests("poor").address(),
        generation: 1,
        cap: TokenAmount::from_units(3),
        debited: TokenAmount::ZERO,
        expiry: START.plus(Millis::from_secs(86_400)),
        fee_version: 1,
    }));
    let account = SecretKey::for_tests("poor").address();
    world.input(Input::Submit {
        job: job(1),
        account,
        request: Box::new(request(1)),
        entropy: 1,
    });
    assert!(
        matches!(world.failure(1).cause, Cause::CapReached { available, .. } if available.units() == 3)
    );
}

#[test]
fn a_client_that_leaves_while_the_full_disk_refuses_its_reservation_leaves_no_trace() {
    let mut world = World::new(1);
    world.unsynced = Some(Vec::new());
    let written = world.journal.len();
    world.submit(1);
    let sequence = world.unsynced.as_ref().expect("gathering")[0];
    world.journal.truncate(written); // The reservation never reached the disk.
    world.leave(1);
    assert_eq!(
        world.journal.len(),
        written,
        "nothing to release is known yet"
    );
    world.input(Input::NotWritten {
        sequence,
        reason: "the disk is full".to_owned(),
    });
    assert_eq!((world.free(), world.router.active()), (1_000_000, 0));
    assert!(
        !world.heard.contains_key(&job(1)),
        "nobody listens any more"
    );
    RouterBook::new(domain(), SecretKey::for_tests("router").address())
        .replay(&world.journal)
        .expect("what was written replays");
}

#[test]
fn a_client_that_leaves_while_its_reservation_is_written_is_released_once_it_is() {
    let mut world = World::new(1);
    world.unsynced = Some(Vec::new());
    world.submit(1);
    let sequence = world.unsynced.take().expect("gathering")[0];
    world.leave(1);
    world.leave(1);
    world.input(Input::Synced { up_to: sequence });
    assert!(world.prepared.is_empty(), "nothing was ordered");
    assert_eq!((world.free(), world.router.active()), (1_000_000, 0));
    RouterBook::new(domain(), SecretKey::for_tests("router").address())
        .replay(&world.journal)
        .expect("what was written replays");
}

#[test]
fn an_allotment_released_while_a_job_runs_costs_the_job_and_not_the_router() {
    for tokens in [0, 2] {
        let mut world = World::new(2);
        world.submit(1);
        world.prepare();
        world.tokens(tokens);
        world.input(Input::Chain(ChainEvent::AllotmentClosed {
            account: account(),
            generation: 1,
        }));
        world.end();
        assert_eq!(world.failure(1).cause, Cause::AllotmentExpired);
        assert_eq!(world.failure(1).billed, TokenAmount::ZERO);
        assert!(world.earned.is_empty());
        assert_eq!(world.router.active(), 0);
        assert_eq!(world.router.book().open_reservations().count(), 0);
        assert!(world.providers.values().all(Provider::is_idle));
    }
}

#[test]
fn an_allotment_that_expires_or_is_renewed_while_a_job_runs_still_pays_for_it() {
    for (cap, expires_after_ms) in [(1_000_000, 1), (2_000_000, 1_000)] {
        let mut world = World::new(1);
        world.submit(1);
        world.prepare();
        world.tokens(2);
        world.input(Input::Chain(ChainEvent::Allotment {
            account: account(),
            generation: 1,
            cap: TokenAmount::from_units(cap),
            debited: TokenAmount::ZERO,
            expiry: world.now.plus(Millis(expires_after_ms)),
            fee_version: 2,
        }));
        world.now = world.now.plus(Millis(5));
        world.end();
        assert_eq!(world.done(1).receipt.receipt.fee_version, 1, "as ordered");
        world.submit(2);
        assert_eq!(world.failure(2).cause, Cause::AllotmentExpired);
    }
}

#[test]
fn a_provider_whose_clock_runs_ahead_cannot_hold_up_the_settlement_of_all() {
    let mut world = World::new(1);
    world.submit(1);
    world.prepare();
    world.tokens(1);
    let router_time = world.now;
    world.now = router_time.plus(Millis::from_secs(110));
    let (account, attempt) = world.running[0];
    let event = Generated::End {
        tool_calls: Vec::new(),
        finish_reason: FinishReason::Stop,
    };
    let outputs = world
        .providers
        .get_mut(&account)
        .expect("there")
        .handle(provider::Input::Generated { attempt, event }, world.now);
    world.now = router_time;
    for output in outputs {
        if let provider::Output::Send(message) = output {
            world.input(Input::Provider {
                provider: account,
                message,
            });
        }
    }
    assert!(world.done(1).receipt.receipt.delivered_at > world.now);
    world.tick(1_000);
    let sealed = |entry: &Entry| matches!(entry, Entry::BatchSealed(_));
    assert!(world.journal.iter().any(sealed), "sealed without waiting");
}

#[test]
fn a_receipt_dated_after_its_ticket_is_refused() {
    let mut world = World::new(1);
    world.tamper = |mut message| {
        if let ToRouter::Final(end) = &mut message {
            end.receipt.delivered_at = Timestamp(u64::MAX);
            end.signature =
                SecretKey::for_tests("provider 0").sign(stoa_crypto::receipt_digest(&end.receipt));
        }
        vec![message]
    };
    world.submit(1);
    world.prepare();
    world.tokens(1);
    world.end();
    assert!(matches!(
        world.failure(1).cause,
        Cause::ProviderInvalid { .. }
    ));
    assert_eq!(world.free(), 1_000_000);
}

#[test]
fn more_text_than_the_tokens_can_stand_for_ends_the_attempt() {
    let mut world = World::new(1);
    world.tamper = |mut message| {
        if let ToRouter::Delta { text, .. } = &mut message {
            *text = "x".repeat(1 << 20);
        }
        vec![message]
    };
    world.submit(1);
    world.prepare();
    world.tokens(1);
    assert!(matches!(
        world.failure(1).cause,
        Cause::ProviderInvalid { .. }
    ));
}

fn likely(id: u32, logprob: i32) -> TokenLogprob {
    TokenLogprob {
        id,
        bytes: TokenBytes(format!("t{id} ").into_bytes()),
        logprob: SignedQ16(logprob),
    }
}

/// A call that asks for log-probabilities, and one token with these.
fn with_logprobs(asked: Option<u8>, logprobs: Vec<Logprobs>) -> World {
    let mut world = World::new(1);
    let mut asking = request(1);
    asking.controls.logprobs = asked;
    world.submit_of(account(), 1, asking);
    world.prepare();
    let (account, attempt) = world.running[0];
    let event = Generated::Tokens {
        tokens: vec![7],
        text: "t7 ".to_owned(),
        logprobs,
    };
    world.provider(account, provider::Input::Generated { attempt, event });
    world
}

#[test]
fn log_probabilities_reach_the_client_with_their_tokens_and_the_order_names_them() {
    let entry = Logprobs {
        chosen: likely(7, -500),
        top: vec![likely(9, -3), likely(7, -500)],
    };
    let mut world = with_logprobs(Some(2), vec![entry.clone()]);
    let told = world.heard[&job(1)].iter().find_map(|event| match event {
        ClientEvent::Delta { logprobs, .. } => Some(logprobs.clone()),
        _ => None,
    });
    assert_eq!(told, Some(vec![entry]));
    world.end();
    assert_eq!(world.done(1).parameters.logprobs, Some(2));
}

#[test]
fn whoever_answers_is_named_with_whether_its_model_s_reasoning_is_to_be_set_apart() {
    let reasons = |mut world: World| {
        world.submit(1);
        world.prepare();
        world.tokens(1);
        let told = world.heard[&job(1)].iter().find_map(|event| match event {
            ClientEvent::Started(started) => Some(started.reasons),
            _ => None,
        });
        world.end();
        assert_eq!(told, Some(world.done(1).started.reasons));
        told
    };
    assert_eq!(reasons(World::new(1)), Some(true));
    let without = World::with_offers(1, |offer| offer.reasons = false);
    assert_eq!(reasons(without), Some(false));
}

#[test]
fn tokens_of_reasoning_are_counted_where_the_model_is_known_to_reason() {
    let counted = |mut world: World| {
        world.submit(1);
        world.prepare();
        let (account, attempt) = world.running[0];
        for (tokens, text) in [
            (vec![1, 2], "<think>a"),
            (vec![3], "</think>"),
            (vec![4, 5], "b"),
        ] {
            let event = Generated::Tokens {
                tokens,
                text: text.to_owned(),
                logprobs: Vec::new(),
            };
            world.provider(account, provider::Input::Generated { attempt, event });
        }
        world.end();
        let done = world.done(1);
        (done.reasoning_units, done.content.output_units)
    };
    assert_eq!(counted(World::new(1)), (3, 5));
    let without = World::with_offers(1, |offer| offer.reasons = false);
    assert_eq!(counted(without), (0, 5));
}

#[test]
fn log_probabilities_that_cannot_be_end_the_attempt() {
    let entry = |chosen, top: &[TokenLogprob]| Logprobs {
        chosen,
        top: top.to_vec(),
    };
    let mut endless = likely(7, 0);
    endless.bytes = TokenBytes(vec![b'x'; 1 << 20]);
    for (asked, logprobs) in [
        (None, vec![entry(likely(7, 0), &[])]),
        (Some(1), vec![]),
        (Some(1), vec![entry(likely(7, 0), &[]); 2]),
        (Some(1), vec![entry(likely(8, 0), &[])]),
        (Some(1), vec![entry(likely(7, 5), &[])]),
        (
            Some(1),
            vec![entry(likely(7, 0), &[likely(7, 0), likely(8, 0)])],
        ),
        (Some(1), vec![entry(endless, &[])]),
    ] {
        let world = with_logprobs(asked, logprobs.clone());
        let cause = world.failure(1).cause.clone();
        assert!(
            matches!(cause, Cause::ProviderInvalid { .. }),
            "{logprobs:?}"
        );
    }
}

#[test]
fn log_probabilities_of_long_tokens_are_passed_on_up_to_what_an_answer_s_tokens_can_come_to() {
    let entry = |bytes: usize| {
        let long = |id: u32| TokenLogprob {
            bytes: TokenBytes(vec![b'x'; bytes]),
            ..likely(id, -5)
        };
        Logprobs {
            chosen: long(7),
            top: (0..20).map(long).collect(),
        }
    };
    for (bytes, most) in [(6, 8), (64, 8), (1000, 3), (1024, 3)] {
        let mut world = with_logprobs(Some(20), vec![entry(bytes)]);
        let (account, attempt) = world.running[0];
        for _ in 1..8 {
            let event = Generated::Tokens {
                tokens: vec![7],
                text: "t7 ".to_owned(),
                logprobs: vec![entry(bytes)],
            };
            world.provider(account, provider::Input::Generated { attempt, event });
        }
        assert_eq!(world.told(job(1)), most, "{bytes}");
        if most < 8 {
            let cause = world.failure(1).cause.to_string();
            assert!(cause.contains("more bytes than"), "{cause}");
        }
    }
}

#[test]
fn a_provider_that_claims_endless_slots_changes_nothing_for_the_router() {
    let mut world = World::new(1);
    let account = *world.providers.keys().next().expect("one");
    let hello = stoa_nodes::message::Hello {
        slots: u32::MAX,
        ..world.providers[&account].hello()
    };
    world.input(Input::ProviderUp(Box::new(hello)));
    world.tamper = |message| {
        let status = ToRouter::Status {
            free_slots: u32::MAX,
            draining: false,
        };
        vec![status, message]
    };
    world.submit(1);
    world.prepare();
    world.tokens(1);
    world.end();
    world.done(1);
}

#[test]
fn a_provider_that_comes_back_dearer_than_it_was_chosen_is_not_ordered_from() {
    let mut world = World::new(1);
    world.unsynced = Some(Vec::new());
    world.submit(1);
    let sequence = world.unsynced.take().expect("gathering")[0];
    let account = *world.providers.keys().next().expect("one");
    let mut hello = world.providers[&account].hello();
    hello.models[0].output_price = price(900_000);
    world.input(Input::ProviderUp(Box::new(hello)));
    world.input(Input::Synced { up_to: sequence });
    world.failure(1);
    assert!(world.prepared.is_empty());
    assert_eq!(world.free(), 1_000_000);
}

#[test]
fn a_cancellation_that_arrives_twice_gives_one_receipt() {
    let mut world = World::new(1);
    world.submit(1);
    world.prepare();
    world.tokens(3);
    let account = *world.providers.keys().next().expect("one");
    let cancel = ToProvider::Cancel {
        job: job(1),
        attempt: 0,
        delivered: 2,
    };
    let provider = world.providers.get_mut(&account).expect("there");
    let finals = |outputs: Vec<provider::Output>| {
        outputs
            .iter()
            .filter(|o| matches!(o, provider::Output::Send(ToRouter::Final(_))))
            .count()
    };
    let first = provider.handle(provider::Input::Router(cancel.clone()), world.now);
    let later = world.now.plus(Millis(5));
    let second = provider.handle(provider::Input::Router(cancel), later);
    assert_eq!((finals(first), finals(second)), (1, 0));
}

/// What one provider says to an order that the router really made, changed and signed again.
fn answer_to_changed_order(change: impl Fn(&mut stoa_nodes::message::Dispatch)) -> RefusalReason {
    let mut world = World::new(1);
    world.unsynced = Some(Vec::new());
    world.submit(1);
    let sequence = world.unsynced.as_ref().expect("gathering")[0];
    let outputs = world
        .router
        .handle(Input::Synced { up_to: sequence }, world.now);
    let mut dispatch = outputs
        .into_iter()
        .find_map(|output| match output {
            Output::Send { message, .. } => match *message {
                ToProvider::Dispatch(dispatch) => Some(*dispatch),
                _ => None,
            },
            _ => None,
        })
        .expect("ordered");
    change(&mut dispatch);
    dispatch.ticket.signature = SecretKey::for_tests("router").sign(stoa_crypto::ticket_digest(
        &domain(),
        &dispatch.ticket.ticket,
    ));
    let provider = world.providers.values_mut().next().expect("one");
    let input = provider::Input::Router(ToProvider::Dispatch(Box::new(dispatch)));
    match &provider.handle(input, START)[..] {
        [provider::Output::Send(ToRouter::Refused { reason, .. })] => reason.clone(),
        outputs => panic!("{outputs:?}"),
    }
}

#[test]
fn a_ticket_that_lives_longer_than_the_network_lets_it_is_not_worked_on() {
    let refused = answer_to_changed_order(|dispatch| {
        dispatch.ticket.ticket.deadline = START.plus(Millis::from_secs(721));
    });
    let RefusalReason::BadTicket { reason } = &refused else {
        panic!("{refused:?}");
    };
    assert!(reason.contains("deadline"), "{reason}");
}

/// An order that was taken came to nothing: nothing of it is kept, and what its provider signs where that is claimed is for this order alone,
/// and no receipt that anybody could post.
fn check_nothing_to_show(world: &World) {
    let [taken] = &world.took[..] else {
        panic!("taken once: {:?}", world.took);
    };
    assert_eq!(
        (&world.lapsed[..], world.owed.len()),
        (&[taken.order][..], 0)
    );
    let ticket = &taken.ticket;
    assert_eq!(taken.order, stoa_crypto::ticket_digest(&domain(), ticket));
    let order = stoa_nodes::receipts::OrderName::of(&domain(), ticket);
    let receipt = &stoa_nodes::receipts::nothing_delivered(
        &domain(),
        keccak256("profile"),
        &order,
        world.now,
    );
    assert_eq!(receipt.ticket_hash, taken.order);
    assert_eq!(
        (receipt.job_id, receipt.account),
        (ticket.job_id, ticket.account)
    );
    assert_eq!(
        (receipt.provider, receipt.router),
        (ticket.provider, ticket.router)
    );
    assert_eq!(
        (receipt.chain_id, receipt.vault),
        (domain().chain_id, domain().vault)
    );
    assert!(receipt.charge.is_zero());
    let provider_signature = SecretKey::for_tests("provider 0").sign(receipt_digest(receipt));
    let key = SecretKey::for_tests("router");
    let signed = SignedReceipt {
        receipt: receipt.clone(),
        provider_signature,
        router_signature: key.sign(receipt_digest(receipt)),
    };
    let ticket = SignedTicket {
        ticket: ticket.clone(),
        signature: key.sign(taken.order),
    };
    let work = taken.work.canonical_bytes();
    let posted = stoa_verify::judge::check_order(&domain(), key.address(), &signed, &ticket, &work);
    assert!(
        matches!(posted, Err(stoa_verify::judge::OrderFault::Forged(_))),
        "a router that posts it is at fault: {posted:?}"
    );
}

#[test]
fn of_an_order_that_came_to_nothing_nothing_is_kept_and_a_claim_of_it_can_be_answered() {
    type End = fn(&mut World, Address, (JobId, u32));
    let ends: [(&str, End); 6] = [
        ("the model missed the shape", |world, account, attempt| {
            let event = Generated::Failed {
                reason: "no object".to_owned(),
            };
            world.provider(account, provider::Input::Generated { attempt, event });
        }),
        ("the server behind refused", |world, account, attempt| {
            let event = Generated::Refused {
                reason: RefusalReason::Policy,
            };
            world.provider(account, provider::Input::Generated { attempt, event });
        }),
        ("cancelled", |world, account, (job, attempt)| {
            let delivered = 0;
            let cancel = ToProvider::Cancel {
                job,
                attempt,
                delivered,
            };
            world.provider(account, provider::Input::Router(cancel));
        }),
        ("the link broke", |world, account, _| {
            world.provider(account, provider::Input::Disconnected);
        }),
        ("its time was over", |world, account, _| {
            world.now = world.now.plus(Millis::from_secs(121));
            world.provider(account, provider::Input::Tick);
        }),
        ("done too late", |world, _, _| {
            world.now = world.now.plus(Millis::from_secs(121));
            world.end();
        }),
    ];
    for (how, end) in ends {
        let mut world = World::new(1);
        world.submit(1);
        world.prepare();
        assert_eq!((world.took.len(), world.owed.len()), (1, 0), "{how}");
        let (account, attempt) = world.running[0];
        end(&mut world, account, attempt);
        check_nothing_to_show(&world);
    }
}

#[test]
fn what_is_delivered_is_shown_by_the_receipt_that_the_router_is_offered() {
    let mut world = World::new(1);
    world.submit(1);
    world.prepare();
    world.tokens(2);
    world.end();
    let [shown] = &world.owed[..] else {
        panic!("{:?}", world.owed);
    };
    assert_eq!(shown.receipt, world.done(1).receipt.receipt);
    assert_eq!(shown.signature, world.done(1).receipt.provider_signature);
}

#[test]
fn of_one_attempt_one_ticket_is_taken_whatever_became_of_it() {
    for taken in [false, true] {
        let mut world = World::new(1);
        world.submit(1);
        let account = world.prepared[0].0;
        if taken {
            world.prepare();
        }
        let cancel = ToProvider::Cancel {
            job: job(1),
            attempt: 0,
            delivered: 0,
        };
        world.provider(account, provider::Input::Router(cancel));
        let (work, mut ticket) = order_of(1);
        ticket.ticket.input_units_max += 1;
        let digest = stoa_crypto::ticket_digest(&domain(), &ticket.ticket);
        ticket.signature = SecretKey::for_tests("router").sign(digest);
        let again = stoa_nodes::message::Dispatch {
            ticket,
            work,
            profile_hash: keccak256("profile"),
            trace: None,
        };
        let provider = world.providers.get_mut(&account).expect("there");
        let again = provider::Input::Router(ToProvider::Dispatch(Box::new(again)));
        let refused = provider.handle(again, world.now);
        let is_refusal = |output: &provider::Output| {
            matches!(
                output,
                provider::Output::Send(ToRouter::Refused {
                    reason: RefusalReason::BadTicket { .. },
                    ..
                })
            )
        };
        assert!(
            matches!(&refused[..], [one] if is_refusal(one)),
            "taken {taken}: {refused:?}"
        );
        // What the first one's backend says late is nobody's any more.
        let result = Ok(Prepared {
            input_units: 5,
            prompt_root: keccak256("prompt"),
        });
        let attempt = (job(1), 0);
        let late = provider.handle(provider::Input::Prepared { attempt, result }, world.now);
        assert_eq!(late, [], "taken {taken}");
    }
}

/// Work and ticket as the router of a fresh world orders them.
fn order_of(n: u8) -> (stoa_nodes::work::Work, SignedTicket) {
    let mut world = World::new(1);
    world.unsynced = Some(Vec::new());
    world.submit(n);
    let up_to = world.unsynced.as_ref().expect("gathering")[0];
    let outputs = world.router.handle(Input::Synced { up_to }, world.now);
    let ordered = outputs.into_iter().find_map(|output| match output {
        Output::Send { message, .. } => match *message {
            ToProvider::Dispatch(dispatch) => Some((dispatch.work, dispatch.ticket)),
            _ => None,
        },
        _ => None,
    });
    ordered.expect("ordered")
}

#[test]
fn a_model_that_misses_the_shape_that_was_asked_for_is_no_failure_to_deliver() {
    for (answer, missed) in [
        (AnswerShape::JsonObject, true),
        (AnswerShape::ToolCall, true),
        (AnswerShape::Any, false),
    ] {
        let mut world = World::new(1);
        let asked = ClientRequest {
            answer: answer.clone(),
            ..request(1)
        };
        world.submit_of(account(), 1, asked);
        world.prepare();
        let (account, attempt) = world.running[0];
        let event = Generated::Failed {
            reason: "the model's answer is not the JSON object that was asked for".to_owned(),
        };
        world.provider(account, provider::Input::Generated { attempt, event });
        assert_eq!(
            world.failure(1).undelivered.is_empty(),
            missed,
            "{answer:?}"
        );
        assert_eq!(world.undelivered.is_empty(), missed, "{answer:?}");
    }
}

#[test]
fn a_ticket_whose_reserve_would_cut_the_pay_is_not_worked_on_though_the_router_signed_it() {
    let refused = answer_to_changed_order(|dispatch| {
        let reserve = &mut dispatch.ticket.ticket.reserve;
        *reserve = TokenAmount::from_units(reserve.units() - 1);
    });
    assert!(
        matches!(&refused, RefusalReason::BadTicket { reason } if reason.contains("reserve")),
        "{refused:?}"
    );
}

#[test]
fn an_order_of_other_work_than_its_ticket_names_is_not_worked_on() {
    let refused = answer_to_changed_order(|dispatch| {
        dispatch.work.prompt = stoa_nodes::work::Prompt::Text("something else".to_owned());
    });
    assert!(
        matches!(&refused, RefusalReason::BadTicket { reason } if reason.contains("other work")),
        "{refused:?}"
    );
}

// ---- what the client really got

#[test]
fn a_client_that_leaves_pays_for_what_was_written_to_it_and_not_for_what_was_passed_on() {
    for (read, units) in [(0, None), (1, Some(1)), (2, Some(2)), (99, Some(5))] {
        let mut world = World::new(1);
        world.submit(1);
        world.prepare();
        world.tokens(5);
        world.input(Input::ClientGone { job: job(1), read });
        assert!(world.running.is_empty(), "the provider stopped");
        let receipt = world
            .router
            .book()
            .receipt(job(1))
            .map(|r| r.receipt.clone());
        assert_eq!(
            receipt.as_ref().map(|r| r.output_units),
            units,
            "read {read}"
        );
        let charge = receipt.map_or(0, |receipt| receipt.charge.units());
        assert_eq!(world.free(), 1_000_000 - charge);
        assert_eq!(world.earned.len(), usize::from(units.is_some()));
        assert_eq!((world.router.active(), world.warnings.len()), (0, 0));
    }
}

#[test]
fn an_answer_is_cut_between_deltas_and_never_within_one() {
    let mut world = World::new(1);
    world.submit(1);
    world.prepare();
    let (provider, attempt) = world.running[0];
    for (tokens, text) in [(vec![1, 2], "ab"), (vec![3, 4, 5], "cde")] {
        let text = text.to_owned();
        let logprobs = Vec::new();
        let event = Generated::Tokens {
            tokens,
            text,
            logprobs,
        };
        world.provider(provider, provider::Input::Generated { attempt, event });
    }
    world.input(Input::ClientGone {
        job: job(1),
        read: 4,
    });
    let receipt = &world
        .router
        .book()
        .receipt(job(1))
        .expect("charged")
        .receipt;
    assert_eq!(receipt.output_units, 2, "the second delta was not whole");
    assert_eq!(
        world.earned[0].receipt, *receipt,
        "both hold the same receipt"
    );
}

#[test]
fn nothing_is_charged_before_the_client_has_got_everything() {
    let mut world = World::new(1);
    world.reads = false;
    world.submit(1);
    world.prepare();
    world.tokens(3);
    world.end();
    let charged = |world: &World| world.router.book().receipt(job(1)).is_some();
    assert!(!charged(&world));
    let Some(ClientEvent::Complete(told)) = world.heard[&job(1)].last().cloned() else {
        panic!("{:?}", world.heard[&job(1)]);
    };
    world.input(Input::Delivered {
        job: job(1),
        tokens: 2,
    });
    assert!(!charged(&world), "one token is still on its way");
    world.input(Input::Delivered {
        job: job(1),
        tokens: 3,
    });
    assert_eq!(world.done(1).content.output_units, 3);
    assert_eq!(*world.done(1), *told, "what could be kept is what is said");
    assert_eq!(world.earned.len(), 1);
    world.input(Input::Delivered {
        job: job(1),
        tokens: 3,
    });
    assert_eq!(world.earned.len(), 1, "told twice, charged once");
}

#[test]
fn choices_without_tokens_are_charged_where_they_are_delivered_and_not_where_their_client_leaves() {
    let mut world = World::new(1);
    world.reads = false;
    let jobs = world.submit_choices(1, 2);
    serve(&mut world, 0);
    for &job in &jobs {
        let complete = matches!(last_of(&world, job), Some(ClientEvent::Complete(_)));
        assert!(complete, "{:?}", last_of(&world, job));
        world.input(Input::Written { job, tokens: 0 });
    }
    for &job in &jobs {
        world.input(Input::ClientGone { job, read: 0 });
        assert!(world.router.book().receipt(job).is_none());
    }
    assert_eq!((world.free(), world.router.active()), (1_000_000, 0));
    assert!(world.earned.is_empty());
    let told = world.submit_choices(2, 2);
    serve(&mut world, 0);
    for &job in &told {
        world.input(Input::Delivered { job, tokens: 0 });
        assert_eq!(world.ended(job).expect("charged").content.output_units, 0);
    }
}

#[test]
fn a_client_that_leaves_while_it_still_reads_pays_for_what_it_read_though_the_answer_was_finished()
{
    for (read, units) in [(0, None), (2, Some(2)), (3, Some(3))] {
        let mut world = World::new(1);
        world.reads = false;
        world.submit(1);
        world.prepare();
        world.tokens(3);
        world.end();
        world.input(Input::ClientGone { job: job(1), read });
        let receipt = world
            .router
            .book()
            .receipt(job(1))
            .map(|r| r.receipt.clone());
        assert_eq!(
            receipt.as_ref().map(|r| r.output_units),
            units,
            "read {read}"
        );
        let earned: Vec<_> = world.earned.iter().map(|e| e.receipt.clone()).collect();
        assert_eq!(earned, Vec::from_iter(receipt.clone()), "both agree");
        let charge = receipt.map_or(0, |receipt| receipt.charge.units());
        assert_eq!(world.free(), 1_000_000 - charge);
        assert_eq!(world.router.active(), 0);
    }
}

#[test]
fn a_receipt_repeated_while_the_client_reads_is_neither_refused_nor_charged_twice() {
    let mut world = World::new(1);
    world.reads = false;
    world.submit(1);
    world.prepare();
    world.tokens(2);
    world.end();
    let account = *world.providers.keys().next().expect("one");
    world.provider(account, provider::Input::Disconnected);
    world.input(Input::ProviderDown(account));
    let hello = world.providers[&account].hello();
    world.input(Input::ProviderUp(Box::new(hello)));
    world.provider(account, provider::Input::Connected);
    assert!(world.warnings.is_empty(), "{:?}", world.warnings);
    world.input(Input::Delivered {
        job: job(1),
        tokens: 2,
    });
    world.done(1);
    assert_eq!(world.earned.len(), 1);
}

#[test]
fn a_client_that_neither_reads_nor_leaves_pays_for_what_it_read_when_the_ticket_ends() {
    for (tokens, units) in [(0, 0), (1, 1), (2, 2)] {
        let mut world = World::new(1);
        world.reads = false;
        world.submit(1);
        world.prepare();
        world.tokens(2);
        world.end();
        let job = job(1);
        world.input(Input::Written { job, tokens });
        assert!(world.router.book().receipt(job).is_none(), "not yet");
        let seconds = profile().settlement.ticket_seconds;
        // The provider signs no receipt after the deadline, so the router cuts just at it.
        world.tick(seconds * 1000);
        let receipt = world.router.book().receipt(job);
        assert_eq!(receipt.map_or(0, |r| r.receipt.output_units), units);
        assert_eq!(world.router.active(), 0);
    }
}

// ---- refusals that blame the request

fn too_long() -> RefusalReason {
    RefusalReason::ContextLength {
        tokens: 2000,
        context: 1024,
    }
}

fn long_request(n: u8) -> ClientRequest {
    ClientRequest {
        body_bytes: 3_000,
        ..request(n)
    }
}

#[test]
fn a_limit_of_one_provider_harms_nobody_and_another_one_serves() {
    let limit = || RefusalReason::Limit {
        parameter: "max_tokens".to_owned(),
        reason: "room for 512".to_owned(),
    };
    let mut world = World::new(3);
    world.submit_of(account(), 1, long_request(1));
    let (first, second) = (world.refuse(limit()), world.refuse(limit()));
    world.prepare();
    world.tokens(1);
    world.end();
    assert!(world.done(1).content.output_units > 0);
    let mut alone = World::new(1);
    alone.submit_of(account(), 1, long_request(1));
    let only = alone.refuse(limit());
    let cause = &alone.failure(1).cause;
    assert!(
        matches!(cause, Cause::Unsupported { parameter, .. } if parameter == "max_tokens"),
        "{cause}"
    );
    for (world, provider) in [(&world, first), (&world, second), (&alone, only)] {
        assert_eq!(world.reputation(provider), 500_000);
    }
}

fn room(parameter: &str) -> RefusalReason {
    RefusalReason::Limit {
        parameter: parameter.to_owned(),
        reason: "room for 512".to_owned(),
    }
}

#[test]
fn a_limit_that_comes_last_does_not_hide_that_another_provider_was_busy_down_or_late() {
    type Trouble = fn(&mut World);
    let troubles: [(Trouble, &str); 4] = [
        (
            |world| {
                world.refuse(RefusalReason::Busy);
            },
            "busy",
        ),
        (|world| world.tick(10_001), "late"),
        (
            |world| {
                let (account, _) = world.prepared.pop_front().expect("dispatched");
                world.input(Input::ProviderDown(account));
            },
            "down",
        ),
        // Beyond the first attempt too: it was taken by others meanwhile.
        (
            |world| {
                let (first, _) = world.prepared[0];
                let other = *world.providers.keys().find(|a| **a != first).expect("two");
                let (free_slots, draining) = (0, false);
                world.input(Input::Provider {
                    provider: other,
                    message: ToRouter::Status {
                        free_slots,
                        draining,
                    },
                });
            },
            "full",
        ),
    ];
    for (trouble, which) in troubles {
        let mut world = World::new(2);
        world.submit(1);
        trouble(&mut world);
        let late = which == "late";
        if late {
            world.prepared.pop_front();
        }
        world.refuse(room("max_tokens"));
        let cause = &world.failure(1).cause;
        let right = match which {
            "down" => *cause == Cause::ProviderDown,
            "late" => *cause == Cause::DeadlineExceeded,
            _ => matches!(cause, Cause::OverCapacity { .. }),
        };
        assert!(right, "{which}: {cause}");
    }
    // The other way round as well.
    let mut world = World::new(2);
    world.submit(1);
    world.refuse(room("max_tokens"));
    world.refuse(RefusalReason::Busy);
    let cause = &world.failure(1).cause;
    assert!(matches!(cause, Cause::OverCapacity { .. }), "{cause}");
}

#[test]
fn a_refusal_of_what_was_taken_is_a_lie_but_for_a_server_of_others_before_the_first_token() {
    let refused = |mut world: World, tokens: u32| {
        world.submit(1);
        world.prepare();
        world.tokens(tokens);
        let (provider, (job, attempt)) = world.running[0];
        let reason = RefusalReason::Busy;
        world.input(Input::Provider {
            provider,
            message: ToRouter::Refused {
                job,
                attempt,
                reason,
            },
        });
        let fault = world.router.losses().next().expect("lost").fault;
        (world.reputation(provider), world.undelivered.len(), fault)
    };
    let (unharmed, harmed) = ((500_000, 0, false), refused(World::new(2), 0));
    assert!(harmed.0 < 500_000 && harmed.1 == 1 && harmed.2);
    assert_eq!(refused(World::new(2), 2), harmed);
    assert_eq!(refused(World::of_tier_none(2), 2), harmed);
    assert_eq!(refused(World::of_tier_none(2), 0), unharmed);
}

#[test]
fn a_provider_that_computes_answers_itself_fails_what_it_took_and_refuses_it_no_more() {
    let mut world = World::new(1);
    world.submit(1);
    world.prepare();
    let (account, attempt) = world.running[0];
    let reason = RefusalReason::Busy;
    let event = Generated::Refused { reason };
    world.provider(account, provider::Input::Generated { attempt, event });
    assert_eq!(world.failure(1).cause, Cause::ProviderDown);
    assert_eq!(world.reputation(account), 500_000);
}

#[test]
fn of_what_a_provider_writes_in_a_refusal_little_is_kept_and_told_and_on_one_line() {
    let long = "\n\u{1b}[31mé".repeat(200_000);
    let parameter = || long.clone();
    let reason = || long.clone();
    let reasons = [
        RefusalReason::Unsupported {
            parameter: parameter(),
            reason: reason(),
        },
        RefusalReason::Limit {
            parameter: parameter(),
            reason: reason(),
        },
        RefusalReason::BadTicket { reason: reason() },
    ];
    let checked = |text: &str, most: usize| {
        assert_eq!(text.chars().count(), most);
        assert!(!text.contains(char::is_control) && text.contains('é'));
    };
    for refused in reasons {
        let mut world = World::new(1);
        world.submit(1);
        world.refuse(refused);
        let kept = world.router.losses().next().expect("lost").cause.clone();
        assert_eq!(kept, world.failure(1).cause);
        match kept {
            Cause::Unsupported { parameter, reason } => {
                checked(&parameter, 64);
                checked(&reason, 1_000);
            }
            Cause::ProviderInvalid { reason } => checked(&reason, 1_000),
            other => panic!("{other}"),
        }
    }
    // Nor is more of it logged where it fails.
    let mut world = World::new(1);
    world.submit(1);
    world.prepare();
    let (account, attempt) = world.running[0];
    let event = Generated::Failed { reason: long };
    world.provider(account, provider::Input::Generated { attempt, event });
    let warned = world.warnings.last().expect("warned");
    assert!(warned.len() < 3_000 && !warned.contains(char::is_control));
}

#[test]
fn a_prompt_beyond_the_models_own_context_is_no_lie_where_a_shorter_one_is_offered() {
    let mut world = World::with_offers(1, |offer| offer.context = 256);
    world.submit_of(account(), 1, long_request(1));
    let provider = world.refuse(too_long());
    let cause = Cause::ContextLength {
        tokens: 2000,
        context: 1024,
    };
    assert_eq!(world.failure(1).cause, cause);
    assert_eq!(world.reputation(provider), 500_000);
    // A context longer than the prompt, or shorter than was offered, is a lie as before.
    for (tokens, context) in [(2000, 2000), (2000, 255), (4000, 1024)] {
        let mut world = World::with_offers(1, |offer| offer.context = 256);
        world.submit_of(account(), 1, long_request(1));
        let liar = world.refuse(RefusalReason::ContextLength { tokens, context });
        assert!(world.reputation(liar) < 500_000, "{tokens} of {context}");
    }
}

fn short_of_other_weights(offer: &mut ModelOffer) {
    offer.context = 256;
    offer.model_root = keccak256("other weights");
}

/// One provider with a context of 1,024, somewhat dearer than the others, which have 256 and other weights.
fn of_two_contexts(providers: u8) -> (World, Address) {
    let world = World::with_offers(providers, |offer| {
        if offer.input_price == price(100_000) {
            (offer.input_price, offer.output_price) = (price(160_000), price(640_000));
        } else {
            short_of_other_weights(offer);
        }
    });
    (world, SecretKey::for_tests("provider 0").address())
}

/// The same, but the longer context costs nine times as much.
fn of_two_contexts_and_prices(providers: u8) -> (World, Address) {
    let world = World::with_offers(providers, |offer| {
        if offer.input_price == price(100_000) {
            (offer.input_price, offer.output_price) = (price(900_000), price(3_600_000));
        } else {
            short_of_other_weights(offer);
        }
    });
    (world, SecretKey::for_tests("provider 0").address())
}

/// A prompt of some tokens, so that with an answer of usual length it is too long for a context of 256.
fn asking(n: u8, output_tokens: u32) -> ClientRequest {
    ClientRequest {
        prompt: Prompt::Text("hello, how are you?".to_owned()),
        output_tokens_max: Some(output_tokens),
        ..request(n)
    }
}

#[test]
fn a_short_context_of_one_provider_cuts_no_answer_of_another() {
    // The longer context goes first although it is dearer, with the whole limit.
    let (mut world, long) = of_two_contexts(3);
    world.submit_of(account(), 1, asking(1, 500));
    assert_eq!(world.prepared[0].0, long);
    world.prepare();
    world.tokens(300);
    world.end();
    let done = world.done(1);
    assert_eq!(done.parameters.max_output_tokens, 500);
    assert_eq!((done.content.output_units, done.shortened), (300, false));
    // Where it is lost, another answers within its own context.
    world.submit_of(account(), 2, asking(2, 500));
    world.refuse(RefusalReason::Busy);
    world.prepare();
    world.tokens(1);
    world.end();
    let done = world.done(2);
    assert_ne!(done.started.provider, long);
    assert_eq!(done.parameters.max_output_tokens, 256);
    assert!(!done.shortened, "it was no want of money");
    check_signatures(&done.receipt).expect("both signed");
    // Who offers room for one token gets no call that others have more room for, though none has enough.
    let mut world = World::with_offers(2, |offer| {
        if offer.input_price == price(100_000) {
            (offer.context, offer.input_price) = (1, price(1));
        }
    });
    world.submit_of(account(), 1, asking(1, 4_096));
    world.prepare();
    world.tokens(1);
    world.end();
    let done = world.done(1);
    assert_ne!(done.started.provider, long);
    assert_eq!(done.parameters.max_output_tokens, 1_024);
}

#[test]
fn tokens_of_a_prompt_that_are_known_leave_the_rest_of_the_context_to_the_answer() {
    let mut world = World::with_offers(1, |offer| offer.context = 256);
    let ids = ClientRequest {
        prompt: Prompt::Tokens(vec![1; 200]),
        body_bytes: 1_000,
        ..asking(1, 500)
    };
    world.submit_of(account(), 1, ids);
    world.input_units = 200;
    world.prepare();
    world.tokens(1);
    world.end();
    assert_eq!(world.done(1).parameters.max_output_tokens, 56);
    // And a long prompt goes where it fits.
    for (n, length, first) in [(1, 100, false), (2, 300, true)] {
        let (mut world, long) = of_two_contexts(3);
        let ids = ClientRequest {
            prompt: Prompt::Tokens(vec![1; length]),
            ..asking(n, 8)
        };
        world.submit_of(account(), n, ids);
        assert_eq!(world.prepared[0].0 == long, first, "{length}");
    }
}

#[test]
fn an_answer_that_money_and_then_a_context_cut_did_not_end_for_want_of_money() {
    let shortened = |busy: bool| {
        let (mut world, long) = of_two_contexts(2);
        let mut asked = asking(1, 1_000);
        let cost = (264 * 160_000 + 400 * 640_000_u128).div_ceil(1_000_000);
        asked.constraints.cost_max = Some(TokenAmount::from_units(cost));
        world.submit_of(account(), 1, asked);
        assert_eq!(world.prepared[0].0, long);
        if busy {
            world.refuse(RefusalReason::Busy);
        }
        world.prepare();
        world.tokens(1);
        world.end();
        let done = world.done(1);
        (done.parameters.max_output_tokens, done.shortened)
    };
    let (by_money, short) = shortened(false);
    assert!(short && (257..1_000).contains(&by_money), "{by_money}");
    assert_eq!(shortened(true), (256, false));
}

#[test]
fn while_a_longer_context_is_only_busy_nobody_hears_that_the_request_is_too_long() {
    let refusals = [
        room("max_tokens"),
        RefusalReason::ContextLength {
            tokens: 300,
            context: 256,
        },
    ];
    for refusal in refusals {
        let (mut world, long) = of_two_contexts(2);
        let status = |free_slots| Input::Provider {
            provider: long,
            message: ToRouter::Status {
                free_slots,
                draining: false,
            },
        };
        world.input(status(0));
        world.submit_of(account(), 1, long_request(1));
        world.refuse(refusal.clone());
        let cause = &world.failure(1).cause;
        assert!(matches!(cause, Cause::OverCapacity { .. }), "{cause}");
        // With it away for good the limit is told.
        world.input(Input::ProviderDown(long));
        world.submit_of(account(), 2, long_request(2));
        world.refuse(refusal);
        let cause = world.failure(2).cause.clone();
        let told = matches!(
            cause,
            Cause::Unsupported { .. } | Cause::ContextLength { .. }
        );
        assert!(told, "{cause}");
    }
}

#[test]
fn a_request_that_a_fourth_provider_has_room_for_does_not_end_with_the_three_before_it() {
    let attempts = profile().routing.attempts_max;
    assert_eq!(attempts, 3);
    let refusal = || RefusalReason::ContextLength {
        tokens: 300,
        context: 260,
    };
    // All but one are short; whose lot comes when is for the request to say.
    for refused in [room("max_tokens"), refusal()] {
        let served = |n: u8| {
            let mut world = World::with_offers(9, |offer| {
                if offer.input_price != price(100_000) {
                    let odd = offer.input_price > price(140_000);
                    offer.context = if odd { 260 } else { 256 };
                    offer.model_root = keccak256("other weights");
                }
                (offer.input_price, offer.output_price) = (price(900_000), price(3_600_000));
            });
            let long = SecretKey::for_tests("provider 0").address();
            world.submit_of(account(), n, long_request(n));
            let mut before = 0;
            while world.prepared.front().is_some_and(|(p, _)| *p != long) {
                world.refuse(refused.clone());
                before += 1;
            }
            world.prepare();
            world.tokens(1);
            world.end();
            assert_eq!(world.done(n).started.provider, long);
            before
        };
        let before: Vec<u32> = (1..=20).map(served).collect();
        assert_eq!(before.iter().max(), Some(&attempts), "{before:?}");
    }
}

/// Who is ordered from first, and with which limit.
fn first_order(mut world: World, request: ClientRequest) -> (Address, u32) {
    world.submit_of(account(), 1, request);
    let provider = world.prepared[0].0;
    world.prepare();
    world.tokens(1);
    world.end();
    (provider, world.done(1).parameters.max_output_tokens)
}

#[test]
fn a_generous_output_limit_is_served_at_the_ordinary_price() {
    // All ordinary ones have a context of 4,096; who asks for as much as that loses none of them.
    let world = || {
        World::with_offers(4, |offer| {
            if offer.input_price == price(100_000) {
                offer.context = 1 << 20;
                (offer.input_price, offer.output_price) = (price(135_000), price(540_000));
            } else {
                offer.context = 4_096;
            }
        })
    };
    let long = SecretKey::for_tests("provider 0").address();
    let firsts: Vec<_> = (1..=20)
        .map(|n| {
            let asked = ClientRequest {
                request_digest: keccak256([n]),
                ..asking(1, 4_096)
            };
            first_order(world(), asked)
        })
        .collect();
    let taken = firsts.iter().filter(|(first, _)| *first == long).count();
    assert!(taken < 10, "{taken} of 20");
    assert!(firsts.iter().all(|(_, limit)| *limit == 4_096));
    // A prompt that they have no room for goes to the longer context all the same.
    let ids = ClientRequest {
        prompt: Prompt::Tokens(vec![1; 4_000]),
        body_bytes: 8_000,
        ..asking(1, 4_096)
    };
    assert_eq!(first_order(world(), ids).0, long);
}

#[test]
fn nobody_dear_takes_a_call_from_others_by_its_context() {
    let (world, long) = of_two_contexts_and_prices(4);
    assert_ne!(first_order(world, asking(1, 4_096)).0, long);
}

#[test]
fn little_money_needs_little_room() {
    // It buys some 90 tokens where that is cheapest, for which every context has room.
    let (world, long) = of_two_contexts(4);
    let mut asked = asking(1, 4_096);
    assert_eq!(first_order(world, asked.clone()).0, long);
    let cost = (264 * 110_000 + 90 * 440_000_u128).div_ceil(1_000_000);
    asked.constraints.cost_max = Some(TokenAmount::from_units(cost));
    let (world, _) = of_two_contexts(4);
    let (first, limit) = first_order(world, asked.clone());
    assert_ne!(first, long);
    assert!(limit > 40, "{limit}");
    // So does what is left of a key's budget.
    let (world, _) = of_two_contexts(4);
    asked.constraints.cost_max = None;
    asked.constraints.budget = Some(Budget {
        key: world.router.key_of(job(1)),
        amount: TokenAmount::from_units(cost),
        first_day: 0,
        resets_at: None,
    });
    assert_ne!(first_order(world, asked).0, long);
}

/// Four providers without room for it are asked before the longest and dearest, as it seems to fit everywhere.
/// Whoever is asked before `provider` has no room for prompt and answer together.
fn refuse_for_room_until(world: &mut World, provider: Address) {
    while world.prepared[0].0 != provider {
        world.refuse(RefusalReason::Limit {
            parameter: "max_tokens".to_owned(),
            reason: "prompt and answer have no room together".to_owned(),
        });
    }
}

#[test]
fn an_answer_that_needs_a_longer_context_than_those_asked_first_is_neither_refused_nor_cut() {
    let long = SecretKey::for_tests("provider 0").address();
    fn short(offer: &mut ModelOffer) {
        short_of_other_weights(offer);
        (offer.input_price, offer.output_price) = (price(100_000), price(400_000));
        offer.context = 512;
    }
    let asked_last: fn(&mut ModelOffer) = |offer| match offer.input_price == price(100_000) {
        true => (offer.input_price, offer.output_price) = (price(160_000), price(640_000)),
        false => short(offer),
    };
    let by_lot: fn(&mut ModelOffer) = |offer| {
        if offer.input_price != price(100_000) {
            short(offer);
        }
    };
    for (offered, n) in (1..=8).map(|n| (by_lot, n)).chain([(asked_last, 1)]) {
        let mut world = World::with_offers(5, offered);
        // By the estimate it has room in most contexts, so these are asked as well.
        world.submit_of(account(), 1, asking(n, 600));
        refuse_for_room_until(&mut world, long);
        world.prepare();
        world.tokens(550);
        world.end();
        let done = world.done(1);
        assert_eq!(done.started.provider, long);
        assert_eq!(done.parameters.max_output_tokens, 600);
        assert_eq!((done.content.output_units, done.shortened), (550, false));
        check_signatures(&done.receipt).expect("both signed");
    }
}

#[test]
fn money_that_buys_no_whole_answer_of_a_longer_context_buys_what_the_others_would_give() {
    let mut world = World::with_offers(5, |offer| {
        if offer.input_price == price(100_000) {
            (offer.input_price, offer.output_price) = (price(160_000), price(640_000));
        } else {
            short_of_other_weights(offer);
            (offer.input_price, offer.output_price) = (price(100_000), price(400_000));
        }
    });
    let long = SecretKey::for_tests("provider 0").address();
    let mut request = asking(1, 1_000);
    // More than 256 tokens there, and less than 1,000.
    request.constraints.cost_max = Some(TokenAmount::from_units(400));
    world.submit_of(account(), 1, request);
    refuse_for_room_until(&mut world, long);
    world.prepare();
    world.tokens(260);
    world.end();
    let done = world.done(1);
    assert_eq!(done.started.provider, long);
    let limit = done.parameters.max_output_tokens;
    assert!((257..1_000).contains(&limit), "{limit}");
}

fn seems_to_fit(n: u8) -> ClientRequest {
    long_request(n)
}

fn no_room_for(tokens: u64) -> RefusalReason {
    RefusalReason::ContextLength {
        tokens,
        context: 256,
    }
}

#[test]
fn a_prompt_that_only_a_dear_provider_has_room_for_is_served_where_the_allotment_covers_it() {
    let (mut world, long) = of_two_contexts_and_prices(5);
    world.submit_of(account(), 1, seems_to_fit(1));
    let held = world.router.book().reservation(job(1)).expect("reserved");
    let covers = (1_024 * 900_000 + 8 * 3_600_000_u128).div_ceil(1_000_000);
    assert_eq!(held.amount, TokenAmount::from_units(covers));
    for _ in 0..3 {
        assert_ne!(world.refuse(no_room_for(300)), long);
    }
    world.input_units = 300;
    world.prepare();
    world.tokens(1);
    world.end();
    assert_eq!(world.done(1).started.provider, long);
    check_signatures(&world.done(1).receipt).expect("both signed");
    let paid = (300 * 900_000 + 3_600_000) / 1_000_000;
    assert_eq!(
        world.free(),
        1_000_000 - paid,
        "what it did not cost is free"
    );
}

#[test]
fn where_a_longer_context_is_too_dear_nobody_hears_that_no_context_is_long_enough() {
    let poor = || SecretKey::for_tests("another developer").address();
    let covers = (1_024 * 900_000 + 8 * 3_600_000_u128).div_ceil(1_000_000);
    let told = |cap: u128, change: &dyn Fn(&mut ClientRequest, &World)| {
        let (mut world, long) = of_two_contexts_and_prices(5);
        world.allot_to(poor(), cap);
        let mut asked = seems_to_fit(1);
        change(&mut asked, &world);
        world.submit_of(poor(), 1, asked);
        let held = world.router.book().reservation(job(1)).expect("reserved");
        assert!(held.amount < TokenAmount::from_units(covers));
        for _ in 0..3 {
            assert_ne!(world.refuse(no_room_for(300)), long);
        }
        assert!(world.prepared.is_empty());
        assert!(world.router.book().reservation(job(1)).is_none());
        world.failure(1).cause.clone()
    };
    let unchanged = |_: &mut ClientRequest, _: &World| {};
    let cause = told(covers - 1, &unchanged);
    assert!(matches!(cause, Cause::CapReached { .. }), "{cause}");
    // It does not hold most of what other calls need.
    let by_price = |cause: Cause| match cause {
        Cause::NoProviderMatches { excluded } => {
            assert_eq!(
                excluded,
                [("context".to_owned(), 3), ("price".to_owned(), 1)].into()
            );
        }
        other => panic!("{other}"),
    };
    by_price(told(4 * covers - 1, &unchanged));
    // Nor a shorter answer than the others would give.
    let ceiling = TokenAmount::from_units(covers - 1);
    by_price(told(1_000_000, &|asked, _| {
        asked.constraints.cost_max = Some(ceiling)
    }));
    let budget = |asked: &mut ClientRequest, world: &World| {
        asked.constraints.budget = Some(Budget {
            key: world.router.key_of(job(1)),
            amount: TokenAmount::from_units(4 * covers - 1),
            first_day: 0,
            resets_at: None,
        });
    };
    by_price(told(1_000_000, &budget));
    // Where its context would not suffice either it is the prompt.
    let (mut world, _) = of_two_contexts_and_prices(5);
    world.allot_to(poor(), covers - 1);
    world.submit_of(poor(), 1, seems_to_fit(1));
    for _ in 0..2 {
        world.refuse(no_room_for(2_000));
    }
    let cause = &world.failure(1).cause;
    assert!(
        matches!(cause, Cause::ContextLength { tokens: 2_000, .. }),
        "{cause}"
    );
}

#[test]
fn two_short_contexts_do_not_speak_for_a_longer_one_of_other_weights() {
    let (mut world, long) = of_two_contexts_and_prices(3);
    // By the length of its text it may fit everywhere.
    world.submit_of(account(), 1, long_request(1));
    for _ in 0..2 {
        let refused = RefusalReason::ContextLength {
            tokens: 300,
            context: 256,
        };
        let short = world.refuse(refused);
        assert_ne!(short, long);
        assert_eq!(world.reputation(short), 500_000);
    }
    world.prepare();
    world.tokens(1);
    world.end();
    assert_eq!(world.done(1).started.provider, long);
    assert!(world.warnings.is_empty(), "{:?}", world.warnings);
}

#[test]
fn a_prompt_beyond_the_context_is_believed_when_two_providers_say_so() {
    let mut world = World::new(3);
    world.submit_of(account(), 1, long_request(1));
    let first = world.refuse(too_long());
    let second = world.refuse(too_long());
    assert_ne!(first, second);
    let cause = Cause::ContextLength {
        tokens: 2000,
        context: 1024,
    };
    assert_eq!(world.failure(1).cause, cause);
    assert!(world.prepared.is_empty(), "a third is not asked");
    assert_eq!(
        (world.reputation(first), world.reputation(second)),
        (500_000, 500_000)
    );
}

#[test]
fn a_lone_provider_is_believed_that_a_prompt_is_too_long() {
    let mut world = World::new(1);
    world.submit_of(account(), 1, long_request(1));
    world.refuse(too_long());
    assert!(matches!(
        world.failure(1).cause,
        Cause::ContextLength { .. }
    ));
}

#[test]
fn a_count_above_what_the_request_can_have_is_a_lie_and_costs_reputation() {
    let mut world = World::new(2);
    world.submit(1);
    let liar = world.refuse(too_long());
    world.prepare();
    world.tokens(1);
    world.end();
    assert_ne!(world.done(1).started.provider, liar);
    assert!(world.reputation(liar) < 500_000);
}

#[test]
fn a_prompt_that_arguments_of_the_template_made_longer_than_any_bound_is_blamed_on_the_request() {
    let chat = |n: u8, tools: &str, arguments: &str| ClientRequest {
        prompt: Prompt::Chat {
            messages: r#"[{"role":"user","content":"hello"}]"#.to_owned(),
            tools: tools.to_owned(),
            arguments: arguments.to_owned(),
        },
        ..request(n)
    };
    let said_of = |tools: &str, arguments: &str, refuses: bool| {
        let mut world = World::new(1);
        world.submit_of(account(), 1, chat(1, tools, arguments));
        let provider = *world.providers.keys().next().expect("one");
        match refuses {
            // The model's own context has no room for it.
            true => drop(world.refuse(too_long())),
            // More than the ticket pays for: the provider's own check says so.
            false => {
                world.input_units = 1_000;
                world.prepare();
            }
        }
        (world.failure(1).cause.clone(), world.reputation(provider))
    };
    let said = |arguments: &str, refuses| said_of("[]", arguments, refuses);
    let (cause, reputation) = said(r#"{"style":"long"}"#, false);
    let named = matches!(&cause, Cause::Unsupported { parameter, .. } if parameter == "chat_template_kwargs");
    assert!(
        named && cause.to_string().contains("1000 tokens"),
        "{cause}"
    );
    assert_eq!(reputation, 500_000);
    let (cause, reputation) = said(r#"{"style":"long"}"#, true);
    assert!(matches!(cause, Cause::ContextLength { .. }), "{cause}");
    assert_eq!(reputation, 500_000);
    // A template may indent tools.
    let tools = r#"[{"type":"function","function":{"name":"add"}}]"#;
    let (cause, reputation) = said_of(tools, "", false);
    let named = matches!(&cause, Cause::Unsupported { parameter, .. } if parameter == "tools");
    assert!(named, "{cause}");
    assert_eq!(reputation, 500_000);
    // Without either the router knows a bound, and who counts more lies.
    for refuses in [false, true] {
        let (cause, reputation) = said("", refuses);
        assert!(matches!(cause, Cause::ProviderInvalid { .. }), "{cause}");
        assert!(reputation < 500_000);
    }
}

#[test]
fn the_bound_of_a_prompt_has_room_for_the_spaces_between_the_parts_of_tools() {
    let numbers = vec!["1"; 250].join(",");
    let tools = format!(
        r#"[{{"type":"function","function":{{"name":"a","parameters":{{"enum":[{numbers}]}}}}}}]"#
    );
    // Three tokens for two bytes: a comma, a space, a digit.
    let written = tools.len() as u64 + 250;
    let asked = ClientRequest {
        body_bytes: tools.len() as u64,
        prompt: Prompt::Chat {
            messages: r#"[{"role":"user","content":"hello"}]"#.to_owned(),
            tools,
            arguments: String::new(),
        },
        ..request(1)
    };
    let mut world = World::new(1);
    world.submit_of(account(), 1, asked);
    world.input_units = written;
    world.prepare();
    world.tokens(1);
    world.end();
    assert!(world.done(1).content.input_units >= written);
}

#[test]
fn a_refusal_that_the_next_provider_contradicts_costs_reputation_each_time() {
    let mut world = World::new(2);
    let mut liar = Address([0; 20]);
    let mut before = 500_000;
    let reasons = [
        too_long(),
        RefusalReason::Unsupported {
            parameter: "tools".to_owned(),
            reason: "no template".to_owned(),
        },
    ];
    for (n, reason) in (1..).zip(reasons) {
        world.submit_of(account(), n, long_request(n));
        liar = world.refuse(reason);
        world.prepare();
        world.tokens(1);
        world.end();
        assert_ne!(world.done(n).started.provider, liar);
        let after = world.reputation(liar);
        assert!(after < before.max(500_001), "{after} after {before}");
        before = after;
    }
    assert_eq!(world.warnings.len(), 2, "{:?}", world.warnings);
    assert!(
        world.warnings[0].contains(&liar.to_string())
            || world.warnings[1].contains(&liar.to_string())
    );
}

// ---- waiting for a slot

/// Two slots, both taken.
fn full_world() -> World {
    let mut world = World::new(1);
    world.submit(1);
    world.submit(2);
    world.prepare();
    world
}

impl World {
    /// One running job ends.
    fn end_one(&mut self) {
        let (account, attempt) = self.running.remove(0);
        let event = Generated::End {
            tool_calls: Vec::new(),
            finish_reason: FinishReason::Stop,
        };
        self.provider(account, provider::Input::Generated { attempt, event });
    }

    fn waits(&self, n: u8) -> bool {
        !self.heard.contains_key(&job(n)) && self.router.book().job_state(job(n)).is_none()
    }
}

#[test]
fn a_call_that_finds_all_providers_busy_waits_and_is_served_when_one_is_free() {
    let mut world = full_world();
    let free = world.free();
    world.submit(3);
    assert!(world.waits(3));
    assert_eq!(
        (world.free(), world.router.active()),
        (free, 3),
        "nothing is reserved for it"
    );
    assert_eq!(world.router.account_of(job(3)), Some(account()));
    world.tick(1_000);
    world.end_one();
    world.prepare();
    world.tokens(1);
    world.end();
    assert!(world.done(3).ttft_ms >= 1_000, "the wait counts");
    assert_eq!(world.router.active(), 0);
}

#[test]
fn one_free_slot_is_promised_to_one_call() {
    let mut world = full_world();
    for n in 3..=5 {
        world.submit(n);
    }
    world.unsynced = Some(Vec::new());
    world.end_one();
    let charge_and_reserve = world.unsynced.take().expect("gathering");
    let reserved = |n| world.router.book().job_state(job(n)) == Some(JobState::Reserved);
    assert_eq!((3..=5).filter(|n| reserved(*n)).count(), 1);
    let up_to = *charge_and_reserve.last().expect("entries");
    world.input(Input::Synced { up_to });
    assert_eq!(world.prepared.len(), 1);
}

#[test]
fn accounts_take_turns_in_the_line() {
    let mut world = full_world();
    let other = SecretKey::for_tests("another developer").address();
    world.allot_to(other, 1_000_000);
    for n in 3..=6 {
        world.submit(n);
    }
    world.submit_of(other, 7, request(7));
    world.end_one();
    world.end_one();
    let served: Vec<u8> = (3..=7).filter(|n| !world.waits(*n)).collect();
    assert_eq!(
        served,
        [3, 7],
        "the oldest of each account, though 4 came before 7"
    );
}

#[test]
fn a_call_of_one_choice_passes_one_of_its_account_that_needs_more_slots_than_are_free() {
    let mut world = full_world();
    world.submit_choices(3, 2);
    world.submit(4);
    world.end_one();
    assert_eq!((world.waits(3), world.waits(4)), (true, false));
    world.end_one();
    assert!(world.waits(3), "one of two slots is the other call's");
}

#[test]
fn nobody_waits_longer_than_the_limit_and_everybody_is_told_when_to_come_back() {
    let mut world = full_world();
    world.submit(3);
    world.tick(4_999);
    assert!(world.waits(3));
    world.tick(1);
    let Cause::OverCapacity { retry_ms } = world.failure(3).cause else {
        panic!("{:?}", world.failure(3));
    };
    assert!((100..=120_000).contains(&retry_ms));
    assert_eq!(world.router.active(), 2);
}

#[test]
fn what_a_caller_is_told_grows_with_the_line_and_with_how_long_jobs_take() {
    let told = |slow: u64, waiting: u8| {
        let mut world = full_world();
        world.tokens(1);
        world.tick(slow);
        world.end_one();
        world.submit(100);
        world.prepare();
        for n in 0..waiting {
            world.submit(101 + n);
        }
        world.tick(5_000);
        match world.failure(101).cause {
            Cause::OverCapacity { retry_ms } => retry_ms,
            ref other => panic!("{other:?}"),
        }
    };
    assert!(told(4_000, 1) > told(400, 1));
    assert!(told(400, 8) > told(400, 1));
}

#[test]
fn the_line_is_bounded_for_one_account_and_in_all() {
    let mut world = full_world();
    let mut n = 0u32;
    let mut submit = |world: &mut World, account: Address| {
        n += 1;
        let job = JobId(keccak256(n.to_be_bytes()).0);
        let request = Box::new(request(9));
        world.input(Input::Submit {
            job,
            account,
            request,
            entropy: 1,
        });
        world.heard.contains_key(&job)
    };
    let refused = (0..70).filter(|_| submit(&mut world, account())).count();
    assert_eq!(refused, 6, "64 of one account wait");
    for k in 0..4 {
        let other = SecretKey::for_tests(&format!("developer {k}")).address();
        world.allot_to(other, 1_000_000);
        let refused = (0..64).filter(|_| submit(&mut world, other)).count();
        assert_eq!(refused, if k < 3 { 0 } else { 64 }, "256 in all");
    }
}

#[test]
fn a_client_that_leaves_the_line_leaves_no_trace_and_a_router_that_drains_empties_it() {
    let mut world = full_world();
    world.submit(3);
    world.submit(4);
    world.leave(3);
    world.input(Input::Drain);
    assert!(matches!(
        world.failure(4).cause,
        Cause::RouterUnavailable { .. }
    ));
    world.end();
    assert!(world.waits(3), "it was never taken in");
    assert_eq!(world.router.active(), 0);
}

#[test]
fn an_account_that_cannot_pay_does_not_wait_to_hear_it() {
    let mut world = full_world();
    let poor = SecretKey::for_tests("poor").address();
    world.allot_to(poor, 3);
    world.submit_of(poor, 3, request(3));
    assert!(matches!(world.failure(3).cause, Cause::CapReached { .. }));
}

#[test]
fn a_call_whose_provider_goes_while_it_waits_is_told_that_and_not_that_it_is_busy() {
    let mut world = full_world();
    world.submit(3);
    let account = *world.providers.keys().next().expect("one");
    world.input(Input::ProviderDown(account));
    world.tick(5_000);
    assert!(matches!(world.failure(3).cause, Cause::ModelOffline { .. }));
}

#[test]
fn a_model_that_a_staked_provider_published_is_offline_and_not_unknown_before_anybody_connected() {
    let mut world = World::new(1);
    let account = *world.providers.keys().next().expect("one");
    let unmet = |world: &mut World, job, models: &[&str]| {
        let models = models.iter().map(|name| ((*name).to_owned(), Tier::Exact));
        world.input(Input::Chain(ChainEvent::Published {
            provider: account,
            models: models.collect(),
        }));
        let mut call = request(job);
        call.model = "published".to_owned();
        world.submit_of(self::account(), job, call);
        world.failure(job).cause.clone()
    };
    assert!(matches!(
        unmet(&mut world, 7, &[]),
        Cause::UnknownModel { .. }
    ));
    let told = unmet(&mut world, 8, &["other", "published"]);
    assert!(matches!(told, Cause::ModelOffline { .. }), "{told:?}");
    let gone = unmet(&mut world, 9, &["other"]);
    assert!(matches!(gone, Cause::UnknownModel { .. }), "{gone:?}");
}

#[test]
fn jobs_are_found_by_account_before_and_after_a_restart() {
    let mut world = World::new(1);
    let other = SecretKey::for_tests("another developer").address();
    world.allot_to(other, 1_000_000);
    for n in 1..=4 {
        let account = if n == 2 { other } else { account() };
        world.submit_of(account, n, request(n));
        world.prepare();
        world.tokens(1);
        world.end();
    }
    let (again, _) = Router::recover(
        world.router.config().clone(),
        world.router.book().clone(),
        99,
    );
    for router in [&world.router, &again] {
        let mine: Vec<_> = router.newest_jobs_of(account()).collect();
        assert_eq!(mine, [job(4), job(3), job(1)]);
        assert_eq!(router.newest_jobs_of(other).collect::<Vec<_>>(), [job(2)]);
    }
}

// ---- answers of other servers (tier `none`)

impl World {
    fn counted(&mut self, input_units: u64, output_units: Option<u64>) {
        let counted = Counted {
            input_units,
            output_units,
        };
        for (account, attempt) in self.running.clone() {
            let event = Generated::Counted(counted);
            self.provider(account, provider::Input::Generated { attempt, event });
        }
    }

    /// Counts of the receipt of call `n`.
    fn billed(&self, n: u8) -> (u64, u64) {
        let receipt = &self.done(n).receipt.receipt;
        assert_eq!(check_signatures(&self.done(n).receipt), Ok(()));
        (receipt.input_units, receipt.output_units)
    }
}

#[test]
fn a_server_s_own_counts_lower_the_bill_and_never_raise_it() {
    for (told, billed) in [
        ((3, Some(2)), (3, 2)),
        ((900, Some(900)), (5, 4)),
        ((0, None), (0, 4)),
    ] {
        let mut world = World::of_tier_none(1);
        world.submit(1);
        world.prepare();
        world.counted(0, None);
        world.tokens(4);
        world.counted(told.0, told.1);
        world.end();
        assert_eq!(world.billed(1), billed, "{told:?}");
        assert_eq!(world.done(1).receipt.receipt.tier, Tier::None);
    }
}

#[test]
fn an_exact_provider_cannot_count_otherwise_than_was_accepted_and_sent() {
    let mut world = World::new(1);
    world.submit(1);
    world.prepare();
    world.tokens(4);
    world.counted(3, Some(2));
    world.end();
    assert_eq!(world.billed(1), (5, 4));
    let mut world = World::new(1);
    world.tamper = |mut message| {
        if let ToRouter::Final(end) = &mut message {
            end.content.output_units = 1;
        }
        vec![message]
    };
    world.submit(1);
    world.prepare();
    world.tokens(2);
    world.end();
    assert!(matches!(
        world.failure(1).cause,
        Cause::ProviderInvalid { .. }
    ));
}

#[test]
fn who_leaves_before_the_server_counted_the_prompt_pays_for_the_answer_alone() {
    for (told, billed) in [(0, (0, 2)), (4, (4, 2))] {
        let mut world = World::of_tier_none(1);
        world.submit(1);
        world.prepare();
        world.counted(told, None);
        world.tokens(2);
        world.leave(1);
        assert_eq!(world.billed(1), billed);
    }
}

#[test]
fn a_model_that_nobody_offers_at_a_higher_tier_is_asked_for_by_its_name_alone() {
    let mut world = World::of_tier_none(1);
    world.submit(1);
    assert_eq!(world.prepared.len(), 1, "dispatched");
    let mut exact = request(2);
    exact.constraints.tier = Some(Tier::Exact);
    world.submit_of(account(), 2, exact);
    assert!(matches!(
        world.failure(2).cause,
        Cause::NoProviderMatches { .. }
    ));
}

#[test]
fn a_stranger_s_word_on_chain_does_not_lift_the_tier_of_what_others_serve() {
    let mut world = World::of_tier_none(1);
    let model = request(1).model;
    world.input(Input::Chain(ChainEvent::Published {
        provider: SecretKey::for_tests("stranger").address(),
        models: vec![(model, Tier::Exact)],
    }));
    world.submit(1);
    assert_eq!(world.prepared.len(), 1, "dispatched");
}

#[test]
fn a_model_once_offered_exactly_is_not_answered_by_less_while_that_provider_is_away() {
    let mut world = World::new(1);
    let exact = *world.providers.keys().next().expect("one");
    world.input(Input::ProviderDown(exact));
    let mut hello = world.providers[&exact].hello();
    hello.account = SecretKey::for_tests("float").address();
    hello.models[0].tier = Tier::None;
    hello.models[0].model_root = Digest::ZERO;
    world.input(Input::ProviderUp(Box::new(hello)));
    world.submit(1);
    assert!(world.prepared.is_empty());
    let cause = &world.failure(1).cause;
    assert!(matches!(cause, Cause::NoProviderMatches { .. }), "{cause}");
}

#[test]
fn a_server_that_refuses_while_it_runs_is_replaced_and_believed_by_two_whatever_was_accepted() {
    let mut world = World::of_tier_none(3);
    world.submit_of(account(), 1, long_request(1));
    for _ in 0..2 {
        world.prepare();
        let (provider, attempt) = world.running.pop().expect("runs");
        let event = Generated::Refused { reason: too_long() };
        world.provider(provider, provider::Input::Generated { attempt, event });
        assert_eq!(world.reputation(provider), 500_000, "no lie");
    }
    let cause = &world.failure(1).cause;
    assert!(matches!(cause, Cause::ContextLength { .. }), "{cause}");
    assert!(world.prepared.is_empty(), "a third is not asked");
    assert!(world.warnings.is_empty(), "{:?}", world.warnings);
    assert_eq!(world.free(), 1_000_000);
}

#[test]
fn a_server_that_is_full_while_it_runs_hands_the_job_to_the_next_provider() {
    let mut world = World::of_tier_none(2);
    world.submit(1);
    world.prepare();
    let (full, attempt) = world.running.pop().expect("runs");
    let event = Generated::Refused {
        reason: RefusalReason::Busy,
    };
    world.provider(full, provider::Input::Generated { attempt, event });
    world.prepare();
    world.tokens(1);
    world.end();
    assert_ne!(world.done(1).started.provider, full);
    assert_eq!(world.reputation(full), 500_000);
}

// ---- audits

/// A call from its submission to its charge.
fn call(world: &mut World, n: u8) {
    world.submit(n);
    world.prepare();
    world.tokens(2);
    world.end();
}

#[test]
fn what_an_audit_needs_is_kept_before_the_charge_and_erased_when_nobody_may_ask_for_it_any_more() {
    let mut world = World::new(1);
    call(&mut world, 1);
    assert!(world.kept.is_empty(), "nobody asked for it");
    world.router.keep_for_audits();
    call(&mut world, 2);
    world.submit(3);
    world.prepare();
    world.tokens(1);
    world.leave(3);
    let charged = |n| {
        let charge = |entry: &Entry| matches!(entry, Entry::Charged { receipt } if receipt.receipt.job_id == job(n));
        world.journal.iter().position(charge)
    };
    assert_eq!(world.kept.len(), 2);
    for (n, (before, kept)) in [2, 3].into_iter().zip(&world.kept) {
        assert_eq!(charged(n), Some(*before), "kept right before its charge");
        let Keeping::Keep {
            job: id,
            ticket,
            work,
        } = kept
        else {
            panic!("{kept:?}");
        };
        assert_eq!(*id, job(n));
        let signed = world.router.book().receipt(*id).expect("charged");
        stoa_verify::judge::check_order(&domain(), signed.receipt.router, signed, ticket, work)
            .expect("holds");
        assert!(world.router.is_auditable(*id));
    }
    assert!(!world.router.is_auditable(job(9)));
    world.tick(60_000);
    let batch = world.router.book().batch(1).expect("sealed").clone();
    world.input(Input::Chain(ChainEvent::BatchPosted {
        index: 1,
        head: batch.head,
        block: 7,
        at: world.now,
        pay_root: batch.sealed.pay_root,
    }));
    world.kept.clear();
    for _ in 0..2 {
        // Rounds may be over before this router has heard of all its posts.
        world.input(Input::Chain(ChainEvent::AuditsOver { posts: 3 }));
    }
    let [(_, Keeping::Erase { jobs })] = &world.kept[..] else {
        panic!("{:?}", world.kept);
    };
    assert_eq!(*jobs, [job(1), job(2), job(3)]);
    assert!(!world.router.is_auditable(job(2)));
    call(&mut world, 4);
    assert!(world.router.is_auditable(job(4)));
}

#[test]
fn nothing_is_kept_of_answers_that_nobody_can_judge() {
    let mut world = World::of_tier_none(1);
    world.router.keep_for_audits();
    call(&mut world, 1);
    world.done(1);
    assert!(world.kept.is_empty());
}

#[test]
fn a_convicted_provider_gets_no_work_though_it_is_the_cheapest() {
    let mut world = World::new(2);
    call(&mut world, 1);
    let first = world.done(1).started.provider;
    let rated = |provider, reputation_ppm| {
        Input::Chain(ChainEvent::ProviderRated {
            provider,
            reputation_ppm,
        })
    };
    // Convicted while a call waits for its reservation: it is not dispatched there either.
    world.unsynced = Some(Vec::new());
    world.submit(2);
    world.input(rated(first, 0));
    let sequence = world.unsynced.take().expect("gathering")[0];
    world.input(Input::Synced { up_to: sequence });
    world.prepare();
    world.tokens(2);
    world.end();
    call(&mut world, 3);
    for n in [2, 3] {
        assert_ne!(world.done(n).started.provider, first, "call {n}");
    }
    assert_eq!(world.router.stock().reputation_ppm(first), 0);
    // A verdict that found it right raises nobody above what this router saw itself.
    let seen = world.reputation(world.done(3).started.provider);
    let second = world.done(3).started.provider;
    world.input(rated(second, 1_000_000));
    assert_eq!(world.router.stock().reputation_ppm(second), seen);
}

/// A call with a key that may spend `amount` in all.
fn budgeted(world: &mut World, n: u8, key: u64, amount: u128) -> JobId {
    let job = world.router.job_id(KeyId(key), [n; 24]);
    let mut request = request(n);
    request.constraints.budget = Some(Budget {
        key: KeyId(key),
        amount: TokenAmount::from_units(amount),
        first_day: 0,
        resets_at: None,
    });
    world.input(Input::Submit {
        job,
        account: account(),
        request: Box::new(request),
        entropy: 7,
    });
    job
}

fn last_of(world: &World, job: JobId) -> Option<&ClientEvent> {
    world.heard.get(&job).and_then(|events| events.last())
}

fn over_budget(world: &World, job: JobId) -> bool {
    match last_of(world, job) {
        Some(ClientEvent::Failed(failure)) => {
            matches!(failure.cause, Cause::BudgetExceeded { .. })
        }
        _ => false,
    }
}

#[test]
fn a_key_never_spends_more_than_its_limit_whatever_is_under_way_at_once() {
    let mut world = World::new(3);
    let mut reserve = 0;
    let mut jobs = Vec::new();
    for n in 0..6 {
        let before = world.free();
        jobs.push(budgeted(&mut world, n, 9, 70));
        reserve = reserve.max(before - world.free());
    }
    let refused = jobs.iter().filter(|job| over_budget(&world, **job)).count();
    let served = jobs.len() - refused;
    assert!(
        refused > 0 && served > 0,
        "{refused} refused of reserve {reserve}"
    );
    assert!(served as u128 * reserve <= 70, "what is held counts");
    world.prepare();
    world.tokens(3);
    world.end();
    let (spent, held) = world.router.spent_by(KeyId(9), 0);
    let charges = jobs
        .iter()
        .filter_map(|job| world.router.book().receipt(*job));
    let charged = TokenAmount::checked_sum(charges.map(|signed| signed.receipt.charge));
    assert_eq!((Some(spent), held), (charged, TokenAmount::ZERO));
    let other = budgeted(&mut world, 7, 10, 70);
    assert!(!over_budget(&world, other), "another key has its own limit");
}

/// Answers what was ordered, to its end.
fn serve(world: &mut World, tokens: u32) {
    world.prepare();
    world.tokens(tokens);
    world.end();
}

#[test]
fn a_spend_limit_shortens_an_answer_that_it_does_not_cover_whole_and_ends_it_there() {
    let mut rich = World::new(1);
    let before = rich.free();
    let job = budgeted(&mut rich, 1, 9, 1_000_000);
    let whole = before - rich.free();
    serve(&mut rich, 1);
    assert!(matches!(last_of(&rich, job), Some(ClientEvent::Done(done)) if !done.shortened));

    let mut world = World::new(1);
    let job = budgeted(&mut world, 1, 9, whole - 1);
    let held = before - world.free();
    assert!(held > 0 && held < whole, "{held} of {whole}");
    serve(&mut world, 1);
    let Some(ClientEvent::Done(done)) = last_of(&world, job) else {
        panic!("{:?}", last_of(&world, job));
    };
    assert!(done.shortened && done.parameters.max_output_tokens > 0);
    assert!(done.receipt.receipt.charge.units() < whole);
}

#[test]
fn a_ceiling_of_cost_holds_for_a_call_without_output_too() {
    let mut world = World::new(1);
    let mut request = request(1);
    request.output_tokens_max = Some(0);
    request.constraints.cost_max = Some(TokenAmount::from_units(1));
    let before = world.free();
    world.submit_of(account(), 1, request);
    assert!(matches!(world.failure(1).cause, Cause::PriceCeiling { .. }));
    assert_eq!(world.free(), before);
}

#[test]
fn whoever_watches_is_told_once_when_a_key_passes_a_share_of_its_limit() {
    let mut world = World::new(1);
    world.input_units = 90;
    for n in 1..=9 {
        budgeted(&mut world, n, 9, 100);
        serve(&mut world, 2);
    }
    let (spent, _) = world.router.spent_by(KeyId(9), 0);
    let told: Vec<_> = world.alerts.iter().map(|alert| alert.percent).collect();
    let reached: Vec<_> =
        stoa_nodes::router::spend_alerts(spent, TokenAmount::from_units(100)).collect();
    assert!(!told.is_empty(), "{spent} of 100 was spent");
    assert_eq!(told, reached, "each share once");
}

#[test]
fn a_policy_of_one_server_is_asked_about_at_a_second_and_then_told() {
    let mut world = World::new(3);
    world.submit(1);
    let first = world.refuse(RefusalReason::Policy);
    let second = world.refuse(RefusalReason::Policy);
    assert_ne!(first, second);
    assert_eq!(world.failure(1).cause, Cause::ContentPolicy);
    assert_eq!(world.free(), 1_000_000);
    assert!(world.prepared.is_empty(), "a third is not asked");
}

#[test]
fn what_a_key_spent_is_known_after_a_restart_from_the_book_alone() {
    let mut world = World::new(1);
    let job = budgeted(&mut world, 1, 9, 1_000);
    world.submit(2);
    world.prepare();
    world.tokens(3);
    world.end();
    let before = world.router.spent_by(KeyId(9), 0);
    assert!(!before.0.is_zero());
    let config = world.router.config().clone();
    let (recovered, _) = Router::recover(config, world.router.book().clone(), 100);
    assert_eq!(recovered.spent_by(KeyId(9), 0), before);
    assert_eq!(recovered.key_of(job), KeyId(9));
    assert_eq!(recovered.spent_by(KeyId(8), 0).0, TokenAmount::ZERO);
    let today = stoa_nodes::router::day_of(world.now);
    assert_eq!(recovered.spent_by(KeyId(9), today + 1).0, TokenAmount::ZERO);
}

#[test]
fn a_job_s_id_tells_its_key_to_its_router_alone() {
    let world = World::new(0);
    let [one, two] = [1, 2].map(|n| world.router.job_id(KeyId(9), [n; 24]));
    assert_ne!(one.0[24..], two.0[24..], "no two ids of a key look alike");
    assert_eq!(world.router.key_of(two), KeyId(9));
    let mut config = world.router.config().clone();
    config.key = SecretKey::for_tests("another router");
    let book = RouterBook::new(domain(), config.key.address());
    let (other, _) = Router::recover(config, book, 1);
    assert_ne!(other.key_of(one), KeyId(9));
}

#[test]
fn a_key_that_cannot_pay_does_not_wait_in_line_and_nothing_is_held_for_it() {
    let mut world = full_world();
    let before = world.free();
    let job = budgeted(&mut world, 200, 9, 1);
    assert!(over_budget(&world, job));
    assert_eq!(world.free(), before);
}

fn vectors_request(n: u8, inputs: usize) -> ClientRequest {
    ClientRequest {
        prompt: Prompt::Embed {
            inputs: vec![WorkInput::Text("hello".to_owned()); inputs],
            dimensions: 0,
        },
        seed: Some(0),
        output_tokens_max: None,
        choices: 1,
        message_count: 0,
        ..request(n)
    }
}

/// The line of a vector of three elements.
fn line(first: f32) -> String {
    let floats = [first, 0.0, 0.5];
    vector_line(&floats.map(f32::to_le_bytes).concat())
}

impl World {
    fn order_vectors(&mut self, n: u8, inputs: usize) {
        self.submit_of(account(), n, vectors_request(n, inputs));
        self.prepare();
    }

    fn unit(&mut self, id: u32, text: &str) {
        for (account, attempt) in self.running.clone() {
            let event = Generated::Tokens {
                tokens: vec![id],
                text: text.to_owned(),
                logprobs: Vec::new(),
            };
            self.provider(account, provider::Input::Generated { attempt, event });
        }
    }
}

#[test]
fn vectors_are_one_job_of_a_unit_each_and_paid_by_their_input() {
    let mut world = World::new(1);
    world.order_vectors(1, 3);
    for first in [0.25, -0.25, 1.0] {
        world.unit(3, &line(first));
    }
    world.end();
    let done = world.done(1);
    assert_eq!(done.content.text, line(0.25) + &line(-0.25) + &line(1.0));
    let receipt = &done.receipt.receipt;
    assert_eq!((receipt.input_units, receipt.output_units), (5, 3));
    assert_eq!(receipt.output_root, stoa_crypto::token_root(&[3, 3, 3]));
    assert_eq!(receipt.response_digest, done.content.digest());
    assert_eq!(done.parameters.max_output_tokens, 3);
    assert!(!done.shortened);
    assert_eq!(receipt.input_price.raw_cost(1), Some(100_000));
    assert_eq!(receipt.output_price, Price::default());
}

#[test]
fn what_is_no_vector_fails_over_before_the_first_and_costs_nothing() {
    let wrong: [(u32, String); 7] = [
        (2, line(1.0)),                       // Another count than the line has.
        (3, line(1.0).trim_end().to_owned()), // No line end.
        (3, line(1.0) + &line(1.0)),          // Two for one unit.
        (3, line(f32::NAN)),
        (3, "t1 ".to_owned()),
        (3, String::new()),
        (0, "\n".to_owned()),
    ];
    for (id, text) in wrong {
        let mut world = World::new(2);
        world.order_vectors(1, 2);
        world.unit(id, &text);
        world.prepare();
        for _ in 0..2 {
            world.unit(3, &line(0.5));
        }
        world.end();
        assert_eq!(world.done(1).content.text, line(0.5).repeat(2), "{text:?}");
        assert_eq!(world.done(1).started.failovers, 1);
    }
    // Vectors of one answer have one size.
    let mut world = World::new(1);
    world.order_vectors(1, 2);
    world.unit(3, &line(0.5));
    world.unit(1, &vector_line(&1.0f32.to_le_bytes()));
    let cause = &world.failure(1).cause;
    assert!(matches!(cause, Cause::ProviderInvalid { .. }), "{cause:?}");
    assert_eq!(world.failure(1).billed, TokenAmount::ZERO);
}

#[test]
fn asked_dimensions_are_what_a_vector_must_have() {
    let mut world = World::new(1);
    let mut asked = vectors_request(1, 1);
    asked.prompt = Prompt::Embed {
        inputs: vec![WorkInput::Tokens(vec![1])],
        dimensions: 2,
    };
    world.submit_of(account(), 1, asked);
    world.prepare();
    world.unit(3, &line(0.5));
    let cause = &world.failure(1).cause;
    assert!(matches!(cause, Cause::ProviderInvalid { .. }), "{cause:?}");
}

#[test]
fn an_answer_without_its_last_vectors_is_not_charged() {
    let mut world = World::new(1);
    world.order_vectors(1, 3);
    for _ in 0..2 {
        world.unit(3, &line(0.5));
    }
    world.end();
    let cause = &world.failure(1).cause;
    assert!(matches!(cause, Cause::ProviderInvalid { .. }), "{cause:?}");
    assert!(world.earned.is_empty());
}

#[test]
fn a_client_that_leaves_owes_the_vectors_it_got() {
    let mut world = World::new(1);
    world.order_vectors(1, 3);
    for _ in 0..2 {
        world.unit(3, &line(0.5));
    }
    world.input(Input::ClientGone {
        job: job(1),
        read: 1,
    });
    let receipt = &world.earned[0].receipt;
    assert_eq!(
        (receipt.output_units, receipt.output_price),
        (1, Price::default())
    );
    // Nothing was read of this one.
    world.order_vectors(2, 3);
    world.unit(3, &line(0.5));
    world.input(Input::ClientGone {
        job: job(2),
        read: 0,
    });
    assert_eq!(world.earned.len(), 1);
}

#[test]
fn vectors_fit_the_money_whole_or_are_refused() {
    let refusal = |change: &dyn Fn(&mut ClientRequest)| {
        let mut world = World::new(2);
        let mut asked = vectors_request(1, 8);
        change(&mut asked);
        world.submit_of(account(), 1, asked);
        world.failure(1).cause.clone()
    };
    let reserve = |provider: u128| {
        let raw = 8 * 13 * (100_000 + 10_000 * provider);
        raw.div_ceil(1_000_000)
    };
    let ceiling = |units| {
        move |asked: &mut ClientRequest| {
            asked.constraints.cost_max = Some(TokenAmount::from_units(units));
        }
    };
    assert!(reserve(1) > reserve(0));
    let cause = refusal(&ceiling(reserve(0) - 1));
    assert!(matches!(cause, Cause::PriceCeiling { .. }), "{cause:?}");
    // What the cheaper one can serve is not refused because the dearer one cannot.
    let mut world = World::new(2);
    let mut asked = vectors_request(1, 8);
    ceiling(reserve(0))(&mut asked);
    world.submit_of(account(), 1, asked);
    let held = world.router.book().reservation(job(1)).expect("reserved");
    assert_eq!(held.amount.units(), reserve(0));
    let limited = |units| {
        move |asked: &mut ClientRequest| {
            asked.constraints.budget = Some(Budget {
                key: KeyId(1),
                amount: TokenAmount::from_units(units),
                first_day: 0,
                resets_at: None,
            });
        }
    };
    let cause = refusal(&limited(reserve(1) - 1));
    assert!(matches!(cause, Cause::BudgetExceeded { .. }), "{cause:?}");
    let mut world = World::new(2);
    let mut asked = vectors_request(1, 8);
    limited(reserve(1))(&mut asked);
    world.submit_of(account(), 1, asked);
    assert!(world.router.book().reservation(job(1)).is_some());
}

#[test]
fn so_many_vectors_may_be_asked_for_and_the_context_has_no_say_in_it() {
    let mut world = World::new(1);
    world.allot(1_000_000_000);
    world.order_vectors(1, 2048);
    let ordered = world.router.book().reservation(job(1)).expect("reserved");
    // 2,048 times 13 tokens: above the context of 1,024 and not cut to it.
    let raw: u128 = 2048 * 13 * 100_000;
    assert_eq!(ordered.amount.units(), raw.div_ceil(1_000_000));
    for (n, inputs) in [(2, 0), (3, 2049)] {
        world.submit_of(account(), n, vectors_request(n, inputs));
        let cause = &world.failure(n).cause;
        let named = matches!(cause, Cause::Unsupported { parameter, .. } if parameter == "input");
        assert!(named, "{cause:?}");
    }
    // An input counts no more than the context, or it is not served.
    let mut long = vectors_request(4, 1);
    long.prompt = Prompt::Embed {
        inputs: vec![
            WorkInput::Text("x".repeat(5000)),
            WorkInput::Tokens(vec![1; 7]),
        ],
        dimensions: 0,
    };
    world.submit_of(account(), 4, long);
    let ordered = world.router.book().reservation(job(4)).expect("reserved");
    let raw: u128 = (1024 + 7) * 100_000;
    assert_eq!(ordered.amount.units(), raw.div_ceil(1_000_000));
    let refused = RefusalReason::ContextLength {
        tokens: 5001,
        context: 1024,
    };
    world.refuse(refused);
    let cause = &world.failure(4).cause;
    assert!(matches!(cause, Cause::ContextLength { .. }), "{cause:?}");
}

// ---- several choices of one request

fn choices(n: u8, choices: u32) -> ClientRequest {
    ClientRequest {
        choices,
        ..request(n)
    }
}

impl World {
    fn ids(&self, n: u8, choices: u32) -> Vec<JobId> {
        self.router.choice_ids(job(n), choices)
    }

    fn submit_choices(&mut self, n: u8, count: u32) -> Vec<JobId> {
        self.submit_of(account(), n, choices(n, count));
        self.ids(n, count)
    }

    fn ended(&self, job: JobId) -> Result<&Done, &Failure> {
        match last_of(self, job) {
            Some(ClientEvent::Done(done)) => Ok(done),
            Some(ClientEvent::Failed(failure)) => Err(failure),
            other => panic!("{job} has not ended: {other:?}"),
        }
    }

    /// Why all choices of a request were refused.
    fn refusal(&self, jobs: &[JobId]) -> Cause {
        let causes = jobs
            .iter()
            .map(|job| &self.ended(*job).expect_err("refused").cause);
        let causes: Vec<_> = causes.collect();
        assert!(causes.iter().all(|cause| *cause == causes[0]), "{causes:?}");
        causes[0].clone()
    }
}

#[test]
fn each_choice_is_a_job_with_a_seed_a_receipt_and_a_charge_of_its_own() {
    let mut world = World::new(3);
    let before = world.journal.len();
    let jobs = world.submit_choices(1, 3);
    let Some(Entry::ReservedTogether {
        jobs: held, amount, ..
    }) = world.journal.get(before)
    else {
        panic!("{:?}", world.journal);
    };
    assert_eq!(
        (held, world.journal.len()),
        (&jobs, before + 1),
        "one entry"
    );
    assert_eq!(world.free(), 1_000_000 - 3 * amount.units());
    serve(&mut world, 3);
    let mut charged = 0;
    for (index, job) in (0..).zip(&jobs) {
        let done = world.ended(*job).expect("answered");
        check_signatures(&done.receipt).expect("both signed");
        assert_eq!(done.receipt.receipt.job_id, *job);
        assert_eq!(done.parameters.seed, choice_seed(7, index));
        charged += done.receipt.receipt.charge.units();
    }
    assert_eq!(world.free(), 1_000_000 - charged);
    assert_eq!((world.router.active(), world.earned.len()), (0, 3));
    let keys = jobs.iter().map(|job| world.router.key_of(*job));
    assert!(
        keys.into_iter()
            .all(|key| key == world.router.key_of(job(1)))
    );
}

#[test]
fn a_request_whose_choices_cost_more_than_is_free_reserves_none_of_them() {
    let mut world = World::new(1);
    let jobs = world.submit_choices(1, 1);
    let each = 1_000_000 - world.free();
    serve(&mut world, 1);
    let poor = SecretKey::for_tests("poor").address();
    world.allot_to(poor, 2 * each - 1);
    let before = world.journal.len();
    world.submit_of(poor, 2, choices(2, 2));
    let refused = world.refusal(&world.ids(2, 2));
    let text = refused.to_string();
    assert!(
        matches!(refused, Cause::CapReached { needed, .. } if needed.units() == 2 * each),
        "{refused:?}"
    );
    assert!(text.contains("for 2 choices"), "{text}");
    assert_eq!(world.journal.len(), before, "nothing was written");
    world.ended(jobs[0]).expect("answered");
    world.allot_to(poor, 2 * each);
    world.submit_of(poor, 3, choices(3, 2));
    serve(&mut world, 1);
    world.ended(world.ids(3, 2)[1]).expect("answered");
}

#[test]
fn choices_without_room_on_disk_are_all_refused_and_free_their_money() {
    let mut world = World::new(2);
    world.unsynced = Some(Vec::new());
    let jobs = world.submit_choices(1, 3);
    let sequence = world.unsynced.as_ref().expect("gathering")[0];
    world.input(Input::ClientGone {
        job: jobs[1],
        read: 0,
    });
    world.input(Input::NotWritten {
        sequence,
        reason: "disk full".to_owned(),
    });
    for told in [jobs[0], jobs[2]] {
        let failure = world.ended(told).expect_err("refused");
        assert!(matches!(failure.cause, Cause::RouterUnavailable { .. }));
    }
    assert!(!world.heard.contains_key(&jobs[1]), "it left");
    assert_eq!((world.free(), world.router.active()), (1_000_000, 0));
}

#[test]
fn after_a_crash_between_any_two_entries_no_part_of_a_request_stays_held() {
    let mut world = World::new(2);
    let jobs = world.submit_choices(1, 3);
    serve(&mut world, 2);
    let key = world.router.config().key.address();
    for kept in 0..=world.journal.len() {
        let book = RouterBook::new(domain(), key)
            .replay(&world.journal[..kept])
            .expect("replays");
        let (router, _) = Router::recover(world.router.config().clone(), book, 1);
        let book = router.book();
        book.check_conservation().expect("conserved");
        assert_eq!(book.open_reservations().count(), 0, "after {kept} entries");
        let charges = jobs.iter().filter_map(|job| book.receipt(*job));
        let charged = TokenAmount::checked_sum(charges.map(|signed| signed.receipt.charge));
        if let Some((_, state)) = book.allotment(account()) {
            assert_eq!(
                (state.held, Some(state.charged)),
                (TokenAmount::ZERO, charged)
            );
        }
    }
}

#[test]
fn choices_run_at_once_on_as_many_providers_as_they_need() {
    let mut world = World::new(2);
    let jobs = world.submit_choices(1, 4);
    assert_eq!(world.prepared.len(), 4);
    for provider in world.providers.keys() {
        let there = world.prepared.iter().filter(|(at, _)| at == provider);
        assert_eq!(there.count(), 2, "each has two slots");
    }
    serve(&mut world, 1);
    for job in jobs {
        world.ended(job).expect("answered");
    }
}

#[test]
fn more_choices_than_all_providers_run_at_once_are_refused_by_that_number() {
    let mut world = World::new(1);
    let jobs = world.submit_choices(1, 3);
    let Cause::Unsupported { parameter, reason } = world.refusal(&jobs) else {
        panic!("{:?}", world.refusal(&jobs));
    };
    assert!(
        parameter == "n" && reason.contains("run 2 answers at once"),
        "{reason}"
    );
    for count in [0, stoa_nodes::client::CHOICES_MAX + 1] {
        world.submit_of(account(), 2, choices(2, count));
        let failure = world.failure(2);
        assert!(
            matches!(failure.cause, Cause::Unsupported { .. }),
            "{failure:?}"
        );
    }
    assert_eq!((world.free(), world.router.active()), (1_000_000, 0));
}

#[test]
fn choices_wait_together_for_their_slots_and_hold_nothing_until_then() {
    let mut world = World::new(1);
    world.submit(1);
    world.prepare();
    let free = world.free();
    let jobs = world.submit_choices(2, 2);
    assert_eq!((world.router.active(), world.free()), (3, free));
    for job in &jobs {
        assert_eq!(world.router.account_of(*job), Some(account()));
    }
    world.tokens(1);
    world.end();
    assert_eq!(world.prepared.len(), 2, "both slots are free now");
    serve(&mut world, 1);
    for job in &jobs {
        world.ended(*job).expect("answered");
    }
    // Whoever leaves while it waits leaves with all its choices.
    world.submit(3);
    world.prepare();
    for job in world.submit_choices(4, 2) {
        world.input(Input::ClientGone { job, read: 0 });
    }
    assert_eq!(world.router.active(), 1);
    // Whoever waits too long is told so in all of them.
    let late = world.submit_choices(5, 2);
    world.tick(5_000);
    assert!(matches!(world.refusal(&late), Cause::OverCapacity { .. }));
}

#[test]
fn a_ceiling_of_cost_and_a_spend_limit_hold_for_all_choices_together() {
    let mut world = World::new(1);
    world.submit(1);
    let each = 1_000_000 - world.free();
    serve(&mut world, 1);
    let before = world.free();
    let mut request = choices(2, 2);
    request.constraints.cost_max = Some(TokenAmount::from_units(2 * each - 2));
    world.submit_of(account(), 2, request.clone());
    let held = before - world.free();
    assert!(held > 0 && held <= 2 * each - 2, "{held} of {each} each");
    serve(&mut world, 1);
    for job in world.ids(2, 2) {
        assert!(world.ended(job).expect("answered").shortened);
    }
    request.constraints.cost_max = Some(TokenAmount::from_units(3));
    world.submit_of(account(), 3, request);
    assert!(matches!(world.failure(3).cause, Cause::PriceCeiling { .. }));

    let mut limited = choices(4, 2);
    limited.constraints.budget = Some(Budget {
        key: KeyId(9),
        amount: TokenAmount::from_units(10),
        first_day: 0,
        resets_at: None,
    });
    let free = world.free();
    world.submit_of(account(), 4, limited);
    let cause = world.refusal(&world.ids(4, 2));
    assert!(
        matches!(cause, Cause::BudgetExceeded { choices: 2, needed, .. } if needed.units() > 10),
        "{cause:?}"
    );
    assert_eq!(world.free(), free);
}

#[test]
fn a_choice_that_fails_before_its_first_token_is_tried_elsewhere_alone() {
    let mut world = World::new(3);
    let jobs = world.submit_choices(1, 2);
    let refuser = world.refuse(RefusalReason::Busy);
    serve(&mut world, 1);
    let ends: Vec<_> = jobs
        .iter()
        .map(|job| world.ended(*job).expect("answered"))
        .collect();
    let moved = ends.iter().filter(|done| done.started.failovers == 1);
    assert_eq!(moved.clone().count(), 1);
    assert!(
        moved
            .into_iter()
            .all(|done| done.started.provider != refuser)
    );
}
