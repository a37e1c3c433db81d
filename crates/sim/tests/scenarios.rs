//! Regression scenarios of the money path on the network of production, each under the sentence that must stay true (docs/scenarios.md).
//!
//! Each forces what its sentence is about into every schedule; all invariants of the simulator hold after every event besides.

use stoa_sim::{Fault, Outcome, Ranges, Role, run_with};

/// Of the sixteen calls every fourth asks for three choices, each a job.
const JOBS: u64 = 12 + 4 * 3;

/// Nothing fails, and a batch every few seconds.
fn calm(seed: u64) -> Ranges {
    Ranges {
        providers: 3,
        calls: 16,
        span_ms: 10_000,
        loss: 0,
        duplication: 0,
        ordered: true,
        partition_every_ms: 0,
        crash_every_ms: 0,
        sync_ms: 50,
        disk_full: 0,
        skew_ms: 0,
        stall: 0,
        garbage: 0,
        leave: 0,
        chain_faults: 0,
        cap: 1_000_000,
        batch_seconds: 5,
        developer_every_ms: 0,
        short_lives: false,
        chain_cut_every_ms: 0,
        void: 0,
        compaction: 0,
        drain_every_ms: 0,
        ..Ranges::draw(seed)
    }
}

fn each(seeds: u64, ranges: impl Fn(u64) -> Ranges, check: impl Fn(u64, &Outcome)) {
    for seed in 0..seeds {
        match run_with(seed, ranges(seed)) {
            Ok(outcome) => check(seed, &outcome),
            Err(violation) => panic!("seed {seed}: {}\n{:#?}", violation.what, violation.trace),
        }
    }
}

fn met(outcome: &Outcome, fault: Fault, role: Role) -> u64 {
    outcome
        .coverage
        .0
        .get(&(fault, role))
        .copied()
        .unwrap_or_default()
}

const DEVELOPERS: u128 = 2;

#[test]
fn no_token_is_served_without_cover() {
    // Two cents for sixteen calls; allotments are revoked and released meanwhile.
    let ranges = |seed| Ranges {
        cap: 40,
        developer_every_ms: 1_500,
        short_lives: true,
        ..calm(seed)
    };
    each(20, ranges, |seed, outcome| {
        assert!(outcome.failed > 0, "seed {seed}: all were served");
    });
    // Nothing at all is allotted: nothing is served.
    each(
        5,
        |seed| Ranges {
            cap: 1,
            ..calm(seed)
        },
        |_, outcome| {
            assert_eq!((outcome.answered, outcome.charged), (0, 0));
        },
    );
}

#[test]
fn hundred_streams_never_overspend_a_budget() {
    let ranges = |seed| Ranges {
        calls: 100,
        span_ms: 3_000,
        providers: 4,
        cap: 300,
        crash_every_ms: 3_000,
        partition_every_ms: 3_000,
        ..calm(seed)
    };
    each(5, ranges, |seed, outcome| {
        assert!(outcome.charged <= 300 * DEVELOPERS, "{}", outcome.charged);
        assert!(outcome.answered > 0 && outcome.failed > 0, "seed {seed}");
    });
}

#[test]
fn overpayment_is_at_most_one_quantum() {
    // Every client leaves somewhere: it pays for what it read and for no token more, which is checked at each answer.
    each(
        20,
        |seed| Ranges {
            leave: 1_000,
            ..calm(seed)
        },
        |_, outcome| {
            assert!(met(outcome, Fault::Left, Role::Client) >= 10);
        },
    );
}

#[test]
fn retry_never_repeats_text() {
    let ranges = |seed| Ranges {
        duplication: 500,
        loss: 100,
        ordered: false,
        partition_every_ms: 2_000,
        ..calm(seed)
    };
    each(20, ranges, |_, outcome| {
        assert!(met(outcome, Fault::Duplicated, Role::Router) > 0);
    });
}

#[test]
fn voucher_replay_is_charged_once_also_after_restarts() {
    let ranges = |seed| Ranges {
        duplication: 700,
        crash_every_ms: 2_000,
        sync_ms: 200,
        ..calm(seed)
    };
    each(20, ranges, |_, outcome| {
        assert!(met(outcome, Fault::Duplicated, Role::Provider) > 0);
    });
}

#[test]
fn balances_survive_restart() {
    let ranges = |seed| Ranges {
        crash_every_ms: 600,
        sync_ms: 300,
        compaction: 300,
        ..calm(seed)
    };
    each(20, ranges, |_, outcome| {
        assert!(met(outcome, Fault::Crash, Role::Router) > 0);
    });
}

#[test]
fn payment_is_off_the_request_path() {
    // No block for as long as calls come: all are answered, and settled when blocks come again.
    let ranges = |seed| Ranges {
        chain_faults: 1_000,
        ..calm(seed)
    };
    each(10, ranges, |seed, outcome| {
        assert!(met(outcome, Fault::Outage, Role::Chain) >= 10);
        assert_eq!((outcome.answered, outcome.failed), (JOBS, 0), "seed {seed}");
    });
}

#[test]
fn unaccepted_bid_frees_its_capacity() {
    // No provider ever finishes: each reservation and each slot is free again, and nobody pays.
    // As many jobs as there are slots: who waits for one would be left to providers that work again.
    let ranges = |seed| Ranges {
        calls: 4,
        stall: 4_000,
        ..calm(seed)
    };
    each(30, ranges, |_, outcome| {
        assert_eq!((outcome.answered, outcome.charged), (0, 0));
        assert_eq!(outcome.failed, JOBS / 4);
    });
}

#[test]
fn payer_cannot_censor_the_finish_by_dropping_messages() {
    // A third of all messages is lost in both directions, receipts and countersignatures among them; what was charged is settled and claimed
    // to the unit when the links are back.
    let ranges = |seed| Ranges {
        loss: 300,
        ..calm(seed)
    };
    each(20, ranges, |_, outcome| {
        assert!(met(outcome, Fault::Lost, Role::Provider) > 0);
    });
}

#[test]
fn forged_bills_are_paid_nothing() {
    // Of an empty answer, which costs nothing, one of the forgeries is the truth.
    let ranges = |seed| Ranges {
        garbage: 1_000,
        ..calm(seed)
    };
    each(20, ranges, |_, outcome| {
        assert_eq!(outcome.charged, 0);
        assert!(met(outcome, Fault::Garbage, Role::Provider) > 0);
    });
}
