//! Random histories of the book: the sums hold after every entry, a refused entry changes nothing, and the journal's bytes give the same
//! book again from any point.

mod common;

use common::*;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use stoa_ledger::book::{Entry, ReleaseCause, RouterBook};
use stoa_ledger::wire::WireError;
use stoa_types::{JobId, SignedReceipt};

/// A step of a history; numbers are reduced to what the book holds at that moment, or left wrong on purpose.
#[derive(Debug, Clone)]
enum Step {
    See {
        account: u8,
        generation: u32,
        cap: u128,
        fee_version: u16,
    },
    Close {
        account: u8,
        generation: u32,
    },
    Reserve {
        id: u64,
        choices: u64,
        account: u8,
        generation: Option<u32>,
        amount: u128,
        until: u64,
    },
    Change {
        pick: usize,
        amount: u128,
    },
    Release {
        pick: usize,
        id: Option<u64>,
    },
    Charge {
        pick: usize,
        provider: u8,
        cost: u64,
        tamper: bool,
    },
    Seal {
        limit: u32,
        with_payout: bool,
    },
    Post {
        wrong: bool,
    },
    Promote,
    Void,
    Sync {
        pick: usize,
        extra: u128,
    },
    Absorb {
        pick: usize,
        amount: u128,
    },
    Repeat {
        pick: usize,
    },
    Reverse {
        pick: usize,
    },
    TakeBack {
        pick: usize,
    },
}

fn any_step() -> impl Strategy<Value = Step> {
    let account = || 1u8..4;
    prop_oneof![
        3 => (prop_oneof![1u8..4, Just(0xee)], 1u32..4, 0u128..3_000, 1u16..3)
            .prop_map(|(account, generation, cap, fee_version)| Step::See { account, generation, cap, fee_version }),
        1 => (account(), 1u32..4).prop_map(|(account, generation)| Step::Close { account, generation }),
        12 => ((0u64..60, prop_oneof![3 => Just(1u64), 1 => 2u64..4]), account(), prop::option::weighted(0.1, 0u32..5), 0u128..400, prop_oneof![9 => 1u64..1_000, 1 => Just(1_000_000)])
            .prop_map(|((id, choices), account, generation, amount, until)| Step::Reserve { id, choices, account, generation, amount, until }),
        2 => (any::<usize>(), 0u128..400).prop_map(|(pick, amount)| Step::Change { pick, amount }),
        2 => (any::<usize>(), prop::option::weighted(0.2, 0u64..60)).prop_map(|(pick, id)| Step::Release { pick, id }),
        10 => (any::<usize>(), 5u8..8, 0u64..500, prop::bool::weighted(0.1))
            .prop_map(|(pick, provider, cost, tamper)| Step::Charge { pick, provider, cost, tamper }),
        3 => (1u32..6, any::<bool>()).prop_map(|(limit, with_payout)| Step::Seal { limit, with_payout }),
        3 => prop::bool::weighted(0.1).prop_map(|wrong| Step::Post { wrong }),
        3 => Just(Step::Promote),
        1 => Just(Step::Void),
        3 => (any::<usize>(), prop_oneof![3 => Just(0u128), 1 => 1u128..100]).prop_map(|(pick, extra)| Step::Sync { pick, extra }),
        1 => (any::<usize>(), 1u128..50).prop_map(|(pick, amount)| Step::Absorb { pick, amount }),
        2 => any::<usize>().prop_map(|pick| Step::Repeat { pick }),
        2 => any::<usize>().prop_map(|pick| Step::Reverse { pick }),
        3 => any::<usize>().prop_map(|pick| Step::TakeBack { pick }),
    ]
}

fn open_job(book: &RouterBook, pick: usize) -> Option<JobId> {
    let open: Vec<_> = book.open_reservations().map(|(job, _)| job).collect();
    (!open.is_empty()).then(|| open[pick % open.len()])
}

fn charge_entry(
    book: &RouterBook,
    pick: usize,
    provider: u8,
    cost: u64,
    tamper: bool,
) -> Option<Entry> {
    let job = open_job(book, pick)?;
    let held = book.reservation(job)?.clone();
    let mut signed: SignedReceipt =
        receipt(0, held.account.0[0], provider, cost, held.amount.units());
    signed.receipt.job_id = job;
    signed.receipt.fee_version = held.fee_version;
    if tamper {
        signed.receipt.charge = signed.receipt.charge.checked_add(units(1))?;
    }
    Some(charged(signed))
}

/// The entry that a step stands for, given the book and what was taken so far.
fn entry_of(book: &RouterBook, taken: &[Entry], step: &Step) -> Option<Entry> {
    Some(match step.clone() {
        Step::See {
            account,
            generation,
            cap,
            fee_version,
        } => Entry::AllotmentSeen {
            account: address(account),
            generation,
            cap: units(cap),
            debited: book
                .allotments()
                .find(|(who, number, _)| (*who, *number) == (address(account), generation))
                .map(|(_, _, state)| state.debited)
                .unwrap_or_default(),
            expiry: secs(1_000),
            fee_version,
        },
        Step::Close {
            account,
            generation,
        } => Entry::AllotmentClosed {
            account: address(account),
            generation,
        },
        Step::Reserve {
            id,
            choices,
            account,
            generation,
            amount,
            until,
        } => {
            let live = book.allotment(address(account)).map(|(live, _)| live);
            let generation = generation.or(live).unwrap_or(1);
            let (account, amount, until) = (address(account), units(amount), secs(until));
            match choices {
                1 => Entry::Reserved {
                    job: job(id),
                    account,
                    generation,
                    amount,
                    until,
                },
                _ => Entry::ReservedTogether {
                    jobs: (id..id + choices).map(job).collect(),
                    account,
                    generation,
                    amount,
                    until,
                },
            }
        }
        Step::Change { pick, amount } => Entry::ReserveChanged {
            job: open_job(book, pick)?,
            amount: units(amount),
            until: secs(10),
        },
        Step::Release { pick, id } => Entry::Released {
            job: id.map(job).or(open_job(book, pick))?,
            cause: ReleaseCause::ProviderFailed,
        },
        Step::Charge {
            pick,
            provider,
            cost,
            tamper,
        } => charge_entry(book, pick, provider, cost, tamper)?,
        Step::Seal { limit, with_payout } => book.seal(secs(50), limit, with_payout)?,
        Step::Post { wrong } => Entry::BatchPosted {
            index: book.posted_count() + 1 + u64::from(wrong),
            chain_head: book.chain_head(book.posted_count() + 1)?,
            block: 7,
            at: secs(60),
        },
        Step::Promote => {
            let batch = book.outstanding_payouts().next()?;
            Entry::PayoutPromoted {
                pay_root: batch.sealed.pay_root,
                gross: batch.sealed.gross,
            }
        }
        Step::Void => Entry::PayoutVoided {
            pay_root: book.outstanding_payouts().last()?.sealed.pay_root,
        },
        Step::Sync { pick, extra } => {
            let due = book.debit_entries();
            let entry = due.get(pick % due.len().max(1))?;
            Entry::DebitsSynced {
                account: entry.account,
                generation: entry.generation,
                debited: entry.lifetime_debit.checked_add(units(extra))?,
            }
        }
        Step::Absorb { pick, amount } => {
            let late = book.late_debits();
            let (account, generation, _) = *late.get(pick % late.len().max(1))?;
            let router_generation = book.allotment(ROUTER)?.0;
            Entry::LateDebitsAbsorbed {
                account,
                generation,
                amount: units(amount),
                router_generation,
            }
        }
        Step::Reverse { pick } => {
            let jobs: Vec<_> = book.newest_jobs().collect();
            Entry::JobReversed {
                job: *jobs.get(pick % jobs.len().max(1))?,
            }
        }
        Step::TakeBack { pick } => match book.take_back_due() {
            Some(entry) => entry,
            // Also what must be refused.
            None => Entry::ChargeTakenBack {
                job: book.newest_jobs().nth(pick % 8)?,
            },
        },
        Step::Repeat { pick } => taken.get(pick % taken.len().max(1))?.clone(),
    })
}

/// What may never fall or vanish, whatever comes.
fn check_monotone(before: &RouterBook, after: &RouterBook) {
    for (account, generation, old) in before.allotments() {
        let (_, _, new) = after
            .allotments()
            .find(|(who, number, _)| (*who, *number) == (account, generation))
            .expect("a generation is never forgotten");
        assert!(new.debited >= old.debited && new.cap >= old.cap);
        assert!(new.released || !old.released);
        if old.released {
            assert!(new.charged <= old.charged, "charged after the release");
        }
    }
    for job in before.newest_jobs() {
        assert_eq!(before.receipt(job), after.receipt(job), "a receipt changed");
    }
    for batch in before.batches() {
        let now = after
            .batch(batch.sealed.index)
            .expect("a batch is never forgotten");
        assert_eq!((&now.sealed, now.head), (&batch.sealed, batch.head));
    }
}

fn run(steps: &[Step]) -> (RouterBook, Vec<Entry>) {
    let mut book = book();
    let mut taken = Vec::new();
    for step in steps {
        let Some(entry) = entry_of(&book, &taken, step) else {
            continue;
        };
        let before = book.clone();
        assert_eq!(
            book.check(&entry).is_ok(),
            book.apply(&entry).is_ok(),
            "check and apply disagree"
        );
        if book == before {
            continue;
        }
        taken.push(entry);
        book.check_conservation()
            .expect("sums hold after every entry");
        check_monotone(&before, &book);
    }
    (book, taken)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn m1_m2_m8_sums_hold_and_totals_never_fall_through_any_history(steps in prop::collection::vec(any_step(), 0..250)) {
        let (book, taken) = run(&steps);
        let jobs: std::collections::BTreeSet<_> = book.newest_jobs().collect();
        let charges = taken.iter().filter(|entry| matches!(entry, Entry::Charged { .. })).count();
        prop_assert_eq!(jobs.len(), charges, "M9: a job has one leaf");
    }

    #[test]
    fn p2_the_journal_s_bytes_and_a_snapshot_with_its_tail_give_the_same_book(
        steps in prop::collection::vec(any_step(), 0..250),
        cut in any::<usize>(),
    ) {
        let (whole, taken) = run(&steps);
        let log: Vec<_> = taken.iter().map(Entry::encode).collect();
        let read: Vec<_> = log.iter().map(|bytes| Entry::decode(bytes).expect("reads back")).collect();
        prop_assert_eq!(&read, &taken);
        prop_assert_eq!(&book().replay(&read).expect("replays"), &whole);

        let cut = cut % (taken.len() + 1);
        let half = book().replay(&read[..cut]).expect("replays");
        let restored = RouterBook::restore(&half.snapshot()).expect("restores");
        prop_assert_eq!(&restored, &half);
        prop_assert_eq!(&restored.replay(&read[cut..]).expect("goes on"), &whole);
    }

    #[test]
    fn the_next_batch_is_the_same_after_a_restart(steps in prop::collection::vec(any_step(), 0..150)) {
        let (whole, taken) = run(&steps);
        let again = book().replay(&taken).expect("replays");
        prop_assert_eq!(again.seal(secs(99), 4, true), whole.seal(secs(99), 4, true));
        prop_assert_eq!(again.debit_entries(), whole.debit_entries());
        prop_assert_eq!(again.next_post(), whole.next_post());
    }

    #[test]
    fn damaged_bytes_are_refused_or_read_as_one_other_value(
        steps in prop::collection::vec(any_step(), 1..60),
        pick in any::<usize>(), at in any::<usize>(), bit in 0u8..8,
    ) {
        let (book, taken) = run(&steps);
        let snapshot = book.snapshot();
        for cut in [0, 1, at % snapshot.len(), snapshot.len() - 1] {
            prop_assert!(RouterBook::restore(&snapshot[..cut]).is_err());
        }
        if taken.is_empty() { return Ok(()); }
        let entry = &taken[pick % taken.len()];
        let mut bytes = entry.encode();
        prop_assert!(Entry::decode(&bytes[..at % bytes.len()]).is_err());
        let place = at % bytes.len();
        bytes[place] ^= 1 << bit;
        if let Ok(other) = Entry::decode(&bytes) {
            prop_assert_ne!(&other, entry);
            prop_assert_eq!(other.encode(), bytes.clone(), "one value has one encoding");
        }
        bytes.push(0);
        prop_assert!(Entry::decode(&bytes).is_err());
    }

    #[test]
    fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        if let Ok(entry) = Entry::decode(&bytes) {
            prop_assert_eq!(entry.encode(), bytes.clone());
        }
        let _ = RouterBook::restore(&bytes);
    }
}

#[test]
fn the_random_histories_reach_every_kind_of_entry() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let steps = prop::collection::vec(any_step(), 250);
    let mut kinds = std::collections::BTreeSet::new();
    for _ in 0..60 {
        let history = steps.new_tree(&mut runner).expect("generates").current();
        let (_, taken) = run(&history);
        kinds.extend(taken.iter().map(|entry| entry.encode()[1]));
    }
    assert_eq!(
        kinds.into_iter().collect::<Vec<_>>(),
        (1..=16).filter(|kind| *kind != 13).collect::<Vec<u8>>()
    );
}

#[test]
fn an_unknown_version_or_kind_is_refused_by_name() {
    let mut bytes = seen(1, 1, 5).encode();
    bytes[0] = 2;
    assert!(matches!(
        Entry::decode(&bytes),
        Err(WireError::Unknown { value: 2, .. })
    ));
    bytes[0] = 1;
    bytes[1] = 99;
    assert!(matches!(
        Entry::decode(&bytes),
        Err(WireError::Unknown { value: 99, .. })
    ));
    let mut snapshot = book().snapshot();
    snapshot[0] = 9;
    assert!(RouterBook::restore(&snapshot).is_err());
}

#[test]
fn a_snapshot_with_a_changed_amount_is_refused() {
    let mut book = book();
    apply(&mut book, &[seen(1, 1, 1_000), reserved(1, 1, 1, 77)]);
    let mut snapshot = book.snapshot();
    let held = 77u128.to_be_bytes();
    let at = snapshot
        .windows(16)
        .position(|window| window == held)
        .expect("the amount is in it");
    snapshot[at + 15] = 78;
    assert!(RouterBook::restore(&snapshot).is_err());
}
