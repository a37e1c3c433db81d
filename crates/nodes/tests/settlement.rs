//! What a router asks of the chain, and what it makes of the chain's events, when nothing goes as planned.

#[path = "../../ledger/tests/common/mod.rs"]
mod common;

use common::*;
use stoa_crypto::{SecretKey, keccak256};
use stoa_ledger::book::{Entry, RENEW_AFTER, RouterBook};
use stoa_nodes::client::{Cause, ClientRequest, Constraints, Controls};
use stoa_nodes::router::{ChainCall, ChainEvent, Input, Output, Router, RouterConfig};
use stoa_nodes::work::{AnswerShape, Prompt};
use stoa_types::{Digest, NetworkProfile, Q16, Timestamp, TokenAmount};

struct World {
    router: Router,
    journal: Vec<Entry>,
    calls: Vec<ChainCall>,
    warnings: Vec<String>,
    now: Timestamp,
}

impl World {
    /// A router that comes back with `book`, an hour after anything in it.
    fn new(book: RouterBook) -> Self {
        let text = NetworkProfile::builtin_text("stoa").expect("built in");
        let config = RouterConfig {
            key: SecretKey::for_tests("router"),
            domain: DOMAIN,
            profile: NetworkProfile::parse(text).expect("valid"),
            profile_hash: keccak256("profile"),
        };
        let (router, _) = Router::recover(config, book, 1);
        Self {
            router,
            journal: Vec::new(),
            calls: Vec::new(),
            warnings: Vec::new(),
            now: secs(5_000),
        }
    }

    /// Feeds it; all that it writes is durable at once.
    fn input(&mut self, input: Input) {
        let mut outputs = self.router.handle(input, self.now);
        while !outputs.is_empty() {
            let mut durable = None;
            for output in outputs {
                match output {
                    Output::Journal { sequence, entry } => {
                        self.journal.push(*entry);
                        durable = Some(sequence);
                    }
                    Output::Chain(call) => self.calls.push(call),
                    Output::Warn { text, .. } => self.warnings.push(text),
                    _ => {}
                }
            }
            outputs = match durable {
                Some(up_to) => self.router.handle(Input::Synced { up_to }, self.now),
                None => Vec::new(),
            };
        }
        self.router.book().check_conservation().expect("sums hold");
    }

    fn tick(&mut self, seconds: u64) {
        self.now = Timestamp(self.now.0 + 1_000 * seconds);
        self.input(Input::Tick);
    }

    fn told(&mut self, event: ChainEvent) {
        self.input(Input::Chain(event));
    }

    /// The vault tells that it holds batch `index`, posted in `block`, with the payout root that was asked for or without.
    fn posted(&mut self, index: u64, block: u64, with_root: bool) {
        let batch = self.router.book().batch(index).expect("sealed");
        let pay_root = if with_root {
            batch.sealed.pay_root
        } else {
            Digest::ZERO
        };
        self.told(ChainEvent::BatchPosted {
            index,
            head: batch.head,
            block,
            at: self.now,
            pay_root,
        });
    }

    fn pay_root(&self, index: u64) -> Digest {
        self.router
            .book()
            .batch(index)
            .expect("sealed")
            .sealed
            .pay_root
    }
}

fn two_accounts() -> RouterBook {
    let mut book = book();
    apply(&mut book, &[seen(1, 1, 1_000), seen(2, 1, 1_000)]);
    book
}

fn own_allotment(cap: u128) -> ChainEvent {
    ChainEvent::Allotment {
        account: ROUTER,
        generation: 1,
        cap: units(cap),
        debited: TokenAmount::ZERO,
        expiry: secs(100_000),
        fee_version: 1,
    }
}

#[test]
fn a_chain_call_that_always_fails_does_not_keep_the_others_waiting() {
    let mut book = two_accounts();
    run_job(&mut book, 1, 1, 9, 300);
    seal_and_post(&mut book, true, secs(30));
    promote(&mut book);
    run_job(&mut book, 2, 1, 9, 100);
    let sealed = book.seal(secs(100), 10, true).expect("a leaf");
    apply(&mut book, &[sealed]);
    let mut world = World::new(book);
    for _ in 0..6 {
        world.tick(10);
    }
    let of = |kind: fn(&ChainCall) -> bool| world.calls.iter().filter(|call| kind(call)).count();
    let posts = of(|call| matches!(call, ChainCall::Post { index: 2, .. }));
    let syncs = of(|call| matches!(call, ChainCall::SyncDebits));
    assert_eq!((posts, syncs), (3, 3), "{:?}", world.calls);
    // One at a time: nothing is asked for before its time.
    world.tick(1);
    assert_eq!(world.calls.len(), 6);
}

#[test]
fn a_cancelled_payout_root_is_paid_by_the_next_and_an_old_cancelling_told_again_means_nothing_newer()
 {
    let mut book = two_accounts();
    run_job(&mut book, 1, 1, 9, 300);
    seal_and_post(&mut book, true, secs(4_990));
    let mut world = World::new(book);
    let first = world.pay_root(1);
    let voided = |block| ChainEvent::PayoutVoided {
        pay_root: first,
        block,
    };
    world.told(voided(6));
    world.told(voided(6));
    assert_eq!(world.journal, [Entry::PayoutVoided { pay_root: first }]);
    // A job that cost nothing brings a leaf: the totals are the same, so is the root.
    let mut book = world.router.book().clone();
    apply(
        &mut book,
        &[reserved(2, 2, 1, 9), charged(receipt(2, 2, 9, 0, 9))],
    );
    let mut world = World::new(book);
    world.tick(100);
    assert_eq!(world.pay_root(2), first);
    assert!(
        matches!(&world.calls[..], [ChainCall::Post { index: 2, pay_root, .. }] if *pay_root == first)
    );
    world.posted(2, 8, true);
    let written = world.journal.len();
    world.told(voided(6));
    assert_eq!(world.journal.len(), written, "that was batch 1");
    world.told(voided(9));
    assert_eq!(
        world.journal.last(),
        Some(&Entry::PayoutVoided { pay_root: first })
    );
    assert!(
        !world
            .warnings
            .iter()
            .any(|text| text.contains("contradicts"))
    );
}

#[test]
fn charges_of_an_allotment_that_was_released_too_early_are_covered_by_the_router_and_booked() {
    let mut book = two_accounts();
    run_job(&mut book, 1, 1, 9, 300);
    seal_and_post(&mut book, true, secs(4_000));
    run_job(&mut book, 2, 1, 9, 20);
    let mut world = World::new(book);
    world.told(ChainEvent::AllotmentClosed {
        account: address(1),
        generation: 1,
    });
    for _ in 0..4 {
        world.tick(10);
    }
    let cover = world.calls.iter().find_map(|call| match call {
        ChainCall::CoverLate {
            generation, cap, ..
        } => Some((*generation, *cap)),
        _ => None,
    });
    assert_eq!(
        cover,
        Some((0, units(320))),
        "sealed or not: {:?}",
        world.calls
    );
    world.told(own_allotment(320));
    world.tick(1);
    let absorbed = Entry::LateDebitsAbsorbed {
        account: address(1),
        generation: 1,
        amount: units(320),
        router_generation: 1,
    };
    assert!(world.journal.contains(&absorbed), "{:?}", world.journal);
    assert!(world.router.book().late_debits().is_empty());
    assert_eq!(world.router.book().own_cap_needed(), None);
    let calls = world.calls.len();
    for _ in 0..8 {
        world.tick(10);
    }
    let again = |call: &ChainCall| matches!(call, ChainCall::CoverLate { .. });
    assert!(!world.calls[calls..].iter().any(again), "once is enough");
}

/// A book whose second batch was sealed with a root, before all that covered it was released, and a third leaf behind it.
fn insolvent() -> RouterBook {
    let mut book = book();
    apply(&mut book, &[seen(1, 1, 1_000)]);
    run_job(&mut book, 1, 1, 9, 300);
    let sealed = book.seal(secs(100), 10, true).expect("a leaf");
    apply(&mut book, &[sealed]);
    run_job(&mut book, 2, 1, 9, 20);
    book
}

#[test]
fn a_root_that_the_vault_refuses_as_insolvent_does_not_hold_up_the_batches_behind_it() {
    let mut world = World::new(insolvent());
    let pay_root = world.pay_root(1);
    world.told(ChainEvent::AllotmentClosed {
        account: address(1),
        generation: 1,
    });
    world.tick(1);
    assert!(world.journal.contains(&Entry::PayoutVoided { pay_root }));
    assert!(
        world
            .warnings
            .iter()
            .any(|text| text.contains("without its payout root"))
    );
    world.tick(10);
    let posts = |call: &ChainCall| matches!(call, ChainCall::Post { index: 1, pay_root, .. } if *pay_root == Digest::ZERO);
    assert!(world.calls.iter().any(posts), "{:?}", world.calls);
    // Without cover no root is sealed either; the last leaf waits for one.
    world.posted(1, 7, false);
    world.tick(100);
    assert_eq!(world.router.book().batches().len(), 1);
    world.told(own_allotment(320));
    world.tick(100);
    let batch = world.router.book().batch(2).expect("sealed");
    assert_eq!(batch.sealed.gross, units(320));
}

#[test]
fn a_root_that_reached_the_vault_before_it_was_cancelled_here_stands() {
    let mut world = World::new(insolvent());
    let pay_root = world.pay_root(1);
    world.told(ChainEvent::AllotmentClosed {
        account: address(1),
        generation: 1,
    });
    world.tick(1);
    assert_eq!(world.router.book().outstanding_payouts().count(), 0);
    world.posted(1, 7, true);
    assert!(world.journal.contains(&Entry::PayoutStands { pay_root }));
    world.told(ChainEvent::PayoutPromoted {
        pay_root,
        gross: units(300),
        block: 9,
    });
    assert_eq!(
        world
            .router
            .book()
            .claimable_batch()
            .map(|batch| batch.sealed.index),
        Some(1)
    );
    assert!(
        !world
            .warnings
            .iter()
            .any(|text| text.contains("contradicts"))
    );
}

#[test]
fn events_told_again_after_a_start_are_not_written_again() {
    let mut book = two_accounts();
    run_job(&mut book, 1, 1, 9, 300);
    seal_and_post(&mut book, true, secs(4_990));
    promote(&mut book);
    let synced = Entry::DebitsSynced {
        account: address(1),
        generation: 1,
        debited: units(300),
    };
    apply(&mut book, &[synced]);
    let mut world = World::new(book);
    world.told(ChainEvent::Allotment {
        account: address(1),
        generation: 1,
        cap: units(1_000),
        debited: units(300),
        expiry: secs(1_000_000),
        fee_version: 1,
    });
    world.told(ChainEvent::DebitSynced {
        account: address(1),
        generation: 1,
        debited: units(300),
    });
    world.told(ChainEvent::AllotmentClosed {
        account: address(7),
        generation: 4,
    });
    assert_eq!(world.journal, []);
    assert_eq!(world.warnings, Vec::<String>::new());
}

#[test]
fn a_reversed_job_costs_nobody_anything_in_whichever_order_the_verdict_s_events_come() {
    for order in [[0, 1], [1, 0]] {
        let mut book = two_accounts();
        run_job(&mut book, 1, 1, 9, 300);
        seal_and_post(&mut book, true, secs(4_990));
        run_job(&mut book, 2, 2, 8, 20);
        let mut world = World::new(book);
        let pay_root = world.pay_root(1);
        let reversed = ChainEvent::JobReversed { job: job(1) };
        let voided = ChainEvent::PayoutVoided { pay_root, block: 8 };
        let events = [voided, reversed.clone()];
        for event in order {
            world.told(events[event].clone());
        }
        assert_eq!(world.router.book().reversal(job(1)), Some(true));
        world.told(reversed);
        let taken = Entry::ChargeTakenBack { job: job(1) };
        let count = world.journal.iter().filter(|e| **e == taken).count();
        assert_eq!(count, 1, "told again, it changes nothing");
        let debts = world.router.book().allotment(address(1)).expect("live");
        assert_eq!(debts.1.charged, TokenAmount::ZERO);
        world.tick(100);
        let batch = world.router.book().batch(2).expect("sealed");
        assert_eq!(batch.sealed.gross, units(20), "the corrected root");
        assert_eq!(world.warnings.len(), 1, "{:?}", world.warnings);
    }
}

#[test]
fn a_root_with_a_reversed_job_is_not_posted_any_more_and_waits_for_no_answer() {
    let mut book = two_accounts();
    run_job(&mut book, 1, 1, 9, 300);
    run_job(&mut book, 2, 2, 8, 20);
    seal_and_post(&mut book, false, secs(4_900));
    let sealed = book.seal(secs(4_980), 10, true).expect("a leaf");
    apply(&mut book, &[sealed]);
    let mut world = World::new(book);
    world.told(ChainEvent::JobReversed { job: job(1) });
    let pay_root = world.pay_root(2);
    assert!(world.journal.contains(&Entry::PayoutVoided { pay_root }));
    assert_eq!(world.router.book().reversal(job(1)), Some(false));
    world.tick(20);
    let bare = |call: &ChainCall| matches!(call, ChainCall::Post { index: 2, pay_root, .. } if *pay_root == Digest::ZERO);
    assert!(world.calls.iter().all(bare), "{:?}", world.calls);
    world.posted(2, 9, false);
    assert_eq!(world.router.book().reversal(job(1)), Some(true));
}

#[test]
fn a_post_under_way_that_brings_a_reversed_charge_back_is_cancelled_by_its_router() {
    let mut book = two_accounts();
    run_job(&mut book, 1, 1, 9, 300);
    seal_and_post(&mut book, true, secs(4_800));
    promote(&mut book);
    run_job(&mut book, 2, 1, 9, 40);
    run_job(&mut book, 3, 2, 8, 20);
    seal_and_post(&mut book, false, secs(4_900));
    let sealed = book.seal(secs(4_980), 10, true).expect("a leaf");
    apply(&mut book, &[sealed]);
    run_job(&mut book, 4, 2, 8, 5);
    let mut world = World::new(book);
    let pay_root = world.pay_root(3);
    // The post is on its way with its root when the verdict reverses a job that the root pays.
    world.told(ChainEvent::JobReversed { job: job(2) });
    assert!(world.journal.contains(&Entry::PayoutVoided { pay_root }));
    world.posted(3, 9, true);
    assert!(world.journal.contains(&Entry::PayoutStands { pay_root }));
    assert_eq!(world.router.book().reversal(job(2)), Some(false));
    world.tick(20);
    let void = ChainCall::VoidOwn { pay_root };
    assert_eq!(world.calls.last(), Some(&void), "{:?}", world.calls);
    world.told(ChainEvent::PayoutVoided {
        pay_root,
        block: 10,
    });
    assert_eq!(world.router.book().reversal(job(2)), Some(true));
    world.tick(100);
    let batch = world.router.book().batch(4).expect("sealed");
    assert_eq!(batch.sealed.gross, units(325), "all but the 40");
    let again = world.calls.iter().filter(|call| **call == void).count();
    assert_eq!(again, 1, "{:?}", world.calls);
}

/// A book of `posts` posts whose roots were all cancelled, and a job that waits for the next.
fn far_back(posts: u64) -> RouterBook {
    let mut book = two_accounts();
    for id in 1..=posts {
        run_job(&mut book, id, 1, 9, 1);
        seal_and_post(&mut book, true, secs(30));
        let pending = book.outstanding_payouts().next().expect("it has a root");
        let pay_root = pending.sealed.pay_root;
        apply(&mut book, &[Entry::PayoutVoided { pay_root }]);
    }
    run_job(&mut book, posts + 1, 1, 9, 1);
    book
}

fn any_request() -> ClientRequest {
    ClientRequest {
        model: "m".to_owned(),
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
        request_digest: Digest([1; 32]),
        body_bytes: 100,
        constraints: Constraints::default(),
    }
}

#[test]
fn a_router_none_of_whose_roots_stands_warns_in_time_and_takes_no_calls_beyond_256_posts() {
    let refusal = |world: &World| {
        let cause = world
            .router
            .would_refuse(address(1), &any_request(), world.now);
        match cause {
            Some(Cause::RouterUnavailable { reason }) => Some(reason),
            _ => None,
        }
    };
    let mut world = World::new(far_back(255));
    assert_eq!(refusal(&world), None);
    world.tick(1);
    let warned = |text: &&String| text.contains("for 256 posts");
    assert_eq!(world.warnings.iter().filter(warned).count(), 1);
    let reason = refusal(&world).expect("the next post would be one too many");
    assert!(reason.contains("taken again"), "{reason}");
    let world = World::new(far_back(256));
    let reason = refusal(&world).expect("no call is taken");
    assert!(reason.contains("begin anew"), "{reason}");
}

#[test]
fn a_promotion_that_is_told_again_is_not_taken_for_that_of_an_equal_root_posted_later() {
    let mut book = two_accounts();
    run_job(&mut book, 1, 1, 9, 10);
    seal_and_post(&mut book, true, secs(30));
    promote(&mut book);
    for id in 2..=RENEW_AFTER + 1 {
        run_job(&mut book, id, 1, 9, 0);
        seal_and_post(&mut book, true, secs(30));
    }
    let again = book.outstanding_payouts().next().expect("posted again");
    let (pay_root, index) = (again.sealed.pay_root, again.sealed.index);
    assert_eq!(index, RENEW_AFTER + 1);
    let mut world = World::new(book);
    let claimable = |world: &World| {
        let batch = world.router.book().claimable_batch();
        batch.map(|batch| batch.sealed.index)
    };
    // Test posts are in block 5.
    for (block, expected) in [(4, 1), (6, index), (6, index)] {
        let gross = units(10);
        world.told(ChainEvent::PayoutPromoted {
            pay_root,
            gross,
            block,
        });
        assert_eq!(claimable(&world), Some(expected), "block {block}");
    }
    assert_eq!(world.warnings, [] as [String; 0]);
}
