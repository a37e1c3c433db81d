//! The router's ledger, rule by rule.

mod common;

use common::*;
use stoa_crypto::{debit_leaf, hash_pair, payout_leaf, receipt_leaf, verify_proof};
use stoa_ledger::book::{
    BookError, CoverError, Entry, LeafFile, RENEW_AFTER, ReleaseCause, RouterBook, SealRule,
};
use stoa_types::{Digest, JobState, Millis, TokenAmount};

/// A book with two accounts of cap 1,000.
fn two_accounts() -> RouterBook {
    let mut book = book();
    apply(&mut book, &[seen(1, 1, 1_000), seen(2, 1, 1_000)]);
    book
}

fn refuse(book: &mut RouterBook, entry: &Entry) -> BookError {
    let before = book.clone();
    let error = book.apply(entry).expect_err("must be refused");
    assert_eq!(*book, before, "a refused entry changed the book");
    error
}

#[test]
fn a_reservation_a_charge_and_the_overage_add_up() {
    let mut book = two_accounts();
    let free = |book: &RouterBook| {
        let cover = book.available(address(1), secs(0), Millis::from_secs(120));
        cover.expect("covered").amount
    };
    apply(&mut book, &[reserved(1, 1, 1, 600)]);
    assert_eq!(free(&book), units(400));
    assert_eq!(book.job_state(job(1)), Some(JobState::Reserved));
    apply(&mut book, &[charged(receipt(1, 1, 9, 250, 600))]);
    assert_eq!(free(&book), units(750));
    assert_eq!(book.job_state(job(1)), Some(JobState::Delivered));
    assert_eq!(book.lifetime_gross(address(9), 1), units(250));
    apply(&mut book, &[reserved(2, 1, 1, 750)]);
    assert_eq!(free(&book), TokenAmount::ZERO);
    let over = refuse(&mut book, &reserved(3, 1, 1, 1));
    assert!(matches!(over, BookError::OverCap { .. }));
    apply(
        &mut book,
        &[Entry::Released {
            job: job(2),
            cause: ReleaseCause::NoProvider,
        }],
    );
    assert_eq!(free(&book), units(750));
    assert_eq!(book.job_state(job(2)), Some(JobState::Refunded));
}

#[test]
fn an_entry_applied_twice_is_refused_by_name() {
    let mut book = two_accounts();
    let release = |id| Entry::Released {
        job: job(id),
        cause: ReleaseCause::TimedOut,
    };
    apply(&mut book, &[reserved(1, 1, 1, 100), reserved(2, 1, 1, 100)]);
    let again = refuse(&mut book, &reserved(1, 1, 1, 100));
    assert_eq!(again, BookError::AlreadyReserved { job: job(1) });
    let receipt_1 = charged(receipt(1, 1, 9, 50, 100));
    apply(&mut book, &[receipt_1.clone(), release(2)]);
    for entry in [&receipt_1, &reserved(1, 1, 1, 100), &release(1)] {
        assert_eq!(
            refuse(&mut book, entry),
            BookError::AlreadyCharged { job: job(1) }
        );
    }
    for entry in [
        &release(2),
        &reserved(2, 1, 1, 1),
        &charged(receipt(2, 1, 9, 1, 100)),
    ] {
        assert_eq!(
            refuse(&mut book, entry),
            BookError::AlreadyReleased { job: job(2) }
        );
    }
    assert_eq!(book.job_state(job(2)), Some(JobState::TimedOut));
    let unknown = refuse(&mut book, &charged(receipt(3, 1, 9, 1, 100)));
    assert_eq!(unknown, BookError::NotReserved { job: job(3) });

    let sealed = book.seal(secs(30), 10, true).expect("one leaf");
    apply(&mut book, std::slice::from_ref(&sealed));
    assert!(matches!(
        refuse(&mut book, &sealed),
        BookError::WrongBatch { .. }
    ));
    let posted = Entry::BatchPosted {
        index: 1,
        chain_head: book.chain_head(1).expect("sealed"),
        block: 1,
        at: secs(31),
    };
    apply(&mut book, std::slice::from_ref(&posted));
    assert_eq!(
        refuse(&mut book, &posted),
        BookError::AlreadyPosted { index: 1 }
    );
    promote(&mut book);
    let batch = book.claimable_batch().expect("promoted").sealed.clone();
    let promoted = Entry::PayoutPromoted {
        pay_root: batch.pay_root,
        gross: batch.gross,
    };
    assert_eq!(
        refuse(&mut book, &promoted),
        BookError::AlreadyPromoted {
            pay_root: batch.pay_root
        }
    );
}

#[test]
fn a_fail_over_changes_the_reserve_within_the_cap() {
    let mut book = two_accounts();
    let change = |amount, until| Entry::ReserveChanged {
        job: job(1),
        amount: units(amount),
        until: secs(until),
    };
    apply(&mut book, &[reserved(1, 1, 1, 600), reserved(2, 1, 1, 300)]);
    apply(&mut book, &[change(700, 1_100)]);
    assert!(matches!(
        refuse(&mut book, &change(701, 1_100)),
        BookError::OverCap { .. }
    ));
    assert!(matches!(
        refuse(&mut book, &change(1, 1_000_000)),
        BookError::Expired { .. }
    ));
    apply(&mut book, &[change(10, 1_200)]);
    assert_eq!(book.reservation(job(1)).expect("open").amount, units(10));
}

fn together(ids: &[u64], amount: u128) -> Entry {
    Entry::ReservedTogether {
        jobs: ids.iter().copied().map(job).collect(),
        account: address(1),
        generation: 1,
        amount: units(amount),
        until: secs(1_000),
    }
}

#[test]
fn the_choices_of_a_request_are_reserved_all_or_none_and_end_one_by_one() {
    let mut book = two_accounts();
    let held = |book: &RouterBook| book.allotment(address(1)).expect("live").1.held;
    // The cap of 1,000 covers three of 333 and not of 334; what was refused left nothing behind.
    assert!(matches!(
        refuse(&mut book, &together(&[1, 2, 3], 334)),
        BookError::OverCap { needed, .. } if needed == units(1_002)
    ));
    assert_eq!(book.open_reservations().count(), 0);
    apply(&mut book, &[together(&[1, 2, 3], 333)]);
    assert_eq!(held(&book), units(999));
    for id in 1..=3 {
        assert_eq!(book.reservation(job(id)).expect("open").amount, units(333));
    }
    apply(&mut book, &[charged(receipt(2, 1, 9, 50, 333))]);
    let released = Entry::Released {
        job: job(1),
        cause: ReleaseCause::Cancelled,
    };
    apply(&mut book, &[released]);
    assert_eq!(held(&book), units(333));
    book.check_conservation().expect("conserved");
}

#[test]
fn a_job_is_reserved_once_beside_others_too() {
    let mut book = two_accounts();
    apply(&mut book, &[reserved(2, 1, 1, 10)]);
    for (ids, twice) in [(&[1, 2][..], 2), (&[3, 4, 3], 3)] {
        assert_eq!(
            refuse(&mut book, &together(ids, 1)),
            BookError::AlreadyReserved { job: job(twice) }
        );
    }
    assert_eq!(book.open_reservations().count(), 1);
    let most = Entry::ReservedTogether {
        jobs: vec![job(5), job(6)],
        account: address(1),
        generation: 1,
        amount: units(u128::MAX),
        until: secs(1_000),
    };
    assert_eq!(refuse(&mut book, &most), BookError::TooLarge);
}

#[test]
fn no_ticket_outlives_its_allotment() {
    let mut book = two_accounts();
    let life = Millis::from_secs(120);
    let cover = |book: &RouterBook, at| book.available(address(1), secs(at), life);
    assert!(cover(&book, 999_879).is_ok());
    assert_eq!(cover(&book, 999_880), Err(CoverError::Expired));
    let nobody = book.available(address(3), secs(0), life);
    assert_eq!(nobody, Err(CoverError::NoAllotment));
    let late = Entry::Reserved {
        job: job(1),
        account: address(1),
        generation: 1,
        amount: units(1),
        until: secs(1_000_000),
    };
    assert!(matches!(
        refuse(&mut book, &late),
        BookError::Expired { .. }
    ));
    apply(
        &mut book,
        &[Entry::AllotmentClosed {
            account: address(1),
            generation: 1,
        }],
    );
    assert_eq!(cover(&book, 0), Err(CoverError::NoAllotment));
    let released = refuse(&mut book, &reserved(1, 1, 1, 1));
    assert!(matches!(released, BookError::AllotmentReleased { .. }));
}

#[test]
fn a_receipt_must_be_about_this_job_and_charge_by_the_rule() {
    let mut book = two_accounts();
    apply(&mut book, &[reserved(1, 1, 1, 100)]);
    let good = receipt(1, 1, 9, 50, 100);
    let foreign: [fn(&mut stoa_types::Receipt); 7] = [
        |r| r.version = 2,
        |r| r.chain_id = 1,
        |r| r.vault = address(3),
        |r| r.router = address(3),
        |r| r.account = address(2),
        |r| r.paid_by = stoa_types::PaidBy::Voucher,
        |r| r.fee_version = 2,
    ];
    for change in foreign {
        let mut changed = good.clone();
        change(&mut changed.receipt);
        let error = refuse(&mut book, &charged(changed));
        assert!(matches!(error, BookError::ForeignReceipt { .. }), "{error}");
    }
    for charge in [49, 51, 0, 100] {
        let mut changed = good.clone();
        changed.receipt.charge = units(charge);
        let error = refuse(&mut book, &charged(changed));
        assert!(matches!(error, BookError::WrongCharge { .. }), "{error}");
    }
    apply(&mut book, &[charged(good)]);
}

#[test]
fn m7_a_fee_change_never_alters_an_issued_ticket() {
    let mut book = two_accounts();
    apply(&mut book, &[reserved(1, 1, 1, 100)]);
    let Entry::AllotmentSeen {
        account,
        generation,
        cap,
        debited,
        expiry,
        ..
    } = seen(1, 1, 1_000)
    else {
        unreachable!("made so");
    };
    apply(
        &mut book,
        &[Entry::AllotmentSeen {
            account,
            generation,
            cap,
            debited,
            expiry,
            fee_version: 2,
        }],
    );
    let mut newer = receipt(1, 1, 9, 50, 100);
    newer.receipt.fee_version = 2;
    assert!(matches!(
        refuse(&mut book, &charged(newer)),
        BookError::ForeignReceipt { .. }
    ));
    apply(&mut book, &[charged(receipt(1, 1, 9, 50, 100))]);
    apply(&mut book, &[reserved(2, 1, 1, 100)]);
    assert_eq!(book.reservation(job(2)).expect("open").fee_version, 2);
}

#[test]
fn generations_do_not_mix() {
    let mut book = two_accounts();
    run_job(&mut book, 1, 1, 9, 300);
    apply(&mut book, &[seen(1, 2, 500)]);
    let cover = book.available(address(1), secs(0), Millis(0));
    let cover = cover.expect("covered");
    assert_eq!((cover.generation, cover.amount), (2, units(500)));
    assert!(matches!(
        refuse(&mut book, &reserved(2, 1, 1, 1)),
        BookError::AllotmentReleased { .. }
    ));
    assert!(matches!(
        refuse(&mut book, &reserved(2, 1, 3, 1)),
        BookError::WrongGeneration { .. }
    ));
    assert!(matches!(
        refuse(&mut book, &seen(1, 1, 9_000)),
        BookError::WrongGeneration { .. }
    ));
    assert!(matches!(
        refuse(&mut book, &seen(2, 1, 999)),
        BookError::ChainWentBack { .. }
    ));
}

#[test]
fn debits_that_came_too_late_are_taken_over_by_the_router() {
    let mut book = two_accounts();
    run_job(&mut book, 1, 1, 9, 300);
    seal_and_post(&mut book, true, secs(30));
    apply(
        &mut book,
        &[Entry::AllotmentClosed {
            account: address(1),
            generation: 1,
        }],
    );
    assert_eq!(book.late_debits(), [(address(1), 1, units(300))]);
    let absorb = |amount| Entry::LateDebitsAbsorbed {
        account: address(1),
        generation: 1,
        amount: units(amount),
        router_generation: 1,
    };
    assert!(matches!(
        refuse(&mut book, &absorb(300)),
        BookError::NoAllotment { .. }
    ));
    apply(&mut book, &[seen(0xee, 1, 299)]);
    assert!(matches!(
        refuse(&mut book, &absorb(300)),
        BookError::OverCap { .. }
    ));
    apply(&mut book, &[seen(0xee, 1, 400)]);
    assert!(matches!(
        refuse(&mut book, &absorb(301)),
        BookError::NothingLate { .. }
    ));
    apply(&mut book, &[absorb(300)]);
    assert!(book.late_debits().is_empty());
    promote(&mut book);
    // Even a job that costs nothing carries the root in which the debits have moved.
    apply(
        &mut book,
        &[reserved(3, 2, 1, 9), charged(receipt(3, 2, 9, 0, 9))],
    );
    let moved = book.seal(secs(150), 10, true).expect("a leaf");
    assert!(matches!(moved, Entry::BatchSealed(batch) if batch.gross == units(300)));
    run_job(&mut book, 2, 2, 9, 10);
    let index = seal_and_post(&mut book, true, secs(200));
    let set = book
        .batch(index)
        .and_then(|batch| batch.payout.clone())
        .expect("with payout");
    assert_eq!(
        set.debits.into_iter().collect::<Vec<_>>(),
        [((address(2), 1), units(10)), ((ROUTER, 1), units(300))]
    );
}

#[test]
fn one_tree_proves_every_claim_until_another_root_is_claimable() {
    let mut book = two_accounts();
    run_job(&mut book, 1, 1, 9, 100);
    run_job(&mut book, 2, 2, 8, 50);
    seal_and_post(&mut book, true, secs(30));
    assert!(book.claimable_index().is_none() && book.claimable_leaves().is_none());
    promote(&mut book);
    let tree = book.claimable_leaves().expect("claimable").hash();
    assert_eq!(Some(tree.batch()), book.claimable_index());
    for provider in [8, 9] {
        let own = tree.claims(|(id, _)| id == address(provider));
        assert_eq!(own, [book.payout_claim(address(provider), 1).expect("one")]);
    }
    assert_eq!(tree.claims(|(id, _)| id == address(7)), []);
    // What is earned since then changes nothing that the tree proves, until it is claimable itself.
    run_job(&mut book, 3, 1, 9, 30);
    let earned: Vec<_> = book.lifetime_grosses_of(address(9)).collect();
    assert_eq!(earned, [(1, units(130))]);
    assert_eq!(Some(tree.batch()), book.claimable_index());
    seal_and_post(&mut book, true, secs(60));
    promote(&mut book);
    assert_ne!(Some(tree.batch()), book.claimable_index());
    let next = book.claimable_leaves().expect("claimable").hash();
    let claims = next.claims(|(id, _)| id == address(9));
    assert_eq!(claims[0].lifetime_gross, units(130));
}

#[test]
fn payout_roots_claims_and_debits_are_proved_as_the_vault_checks_them() {
    let mut book = two_accounts();
    for (id, account, provider, cost) in [(1, 1, 9, 100), (2, 2, 9, 50), (3, 1, 8, 30)] {
        run_job(&mut book, id, account, provider, cost);
    }
    seal_and_post(&mut book, true, secs(30));
    assert_eq!(book.payout_claim(address(9), 1), None, "M10: not final yet");
    assert!(book.debit_entries().is_empty());
    promote(&mut book);
    let claim = book.payout_claim(address(9), 1).expect("claimable");
    assert_eq!(claim.lifetime_gross, units(150));
    let leaf = payout_leaf(ROUTER, 0, address(9), 1, claim.lifetime_gross);
    assert!(verify_proof(claim.provider_root, leaf, &claim.proof));
    let mut roots = claim.provider_root.0.to_vec();
    roots.extend(claim.debit_root.0);
    let sealed = book.batch(1).expect("sealed").sealed.clone();
    assert_eq!(stoa_crypto::keccak256(&roots), sealed.pay_root);
    let entries = book.debit_entries();
    assert_eq!(entries.len(), 2);
    for entry in &entries {
        let leaf = debit_leaf(
            ROUTER,
            0,
            entry.account,
            entry.generation,
            entry.lifetime_debit,
        );
        assert!(verify_proof(claim.debit_root, leaf, &entry.proof));
    }
    apply(
        &mut book,
        &[Entry::DebitsSynced {
            account: address(1),
            generation: 1,
            debited: units(130),
        }],
    );
    assert_eq!(book.debit_entries().len(), 1);
    assert!(matches!(
        refuse(
            &mut book,
            &Entry::DebitsSynced {
                account: address(2),
                generation: 1,
                debited: units(51)
            }
        ),
        BookError::DebitedBeyondBook { .. }
    ));
    assert_eq!(book.job_state(job(2)), Some(JobState::Settled));
}

#[test]
fn a_job_is_proved_by_its_batch_and_the_chain_of_batches() {
    let mut book = two_accounts();
    for id in 0..5 {
        run_job(&mut book, id, 1, 9, 10);
    }
    let sealed = book.seal(secs(30), 3, true).expect("leaves");
    apply(&mut book, &[sealed]);
    assert_eq!(book.proof(job(4)), None);
    assert_eq!(book.job_state(job(2)), Some(JobState::Delivered));
    let second = book.seal(secs(31), 3, true).expect("leaves");
    apply(&mut book, &[second]);
    let proof = book.proof(job(4)).expect("sealed");
    assert_eq!((proof.index, proof.leaf_index, proof.job_count), (2, 1, 2));
    let leaf = receipt_leaf(&book.receipt(job(4)).expect("kept").receipt);
    assert_eq!(proof.leaf, leaf);
    assert!(verify_proof(proof.job_root, leaf, &proof.siblings));
    assert_eq!(proof.previous_head, book.chain_head(1).expect("sealed"));
    let links = book.chain_links(0, 2).expect("both");
    assert_eq!(links.len(), 2);
    assert_eq!(links[1].job_root, proof.job_root);
    assert_eq!(hash_pair(proof.siblings[0], leaf), proof.job_root);
}

#[test]
fn posts_follow_the_chain_s_own_head_in_order() {
    let mut book = two_accounts();
    for id in 0..4 {
        run_job(&mut book, id, 1, 9, 10);
        let sealed = book.seal(secs(30 + id), 1, true).expect("a leaf");
        apply(&mut book, &[sealed]);
    }
    let post = |book: &RouterBook, index| Entry::BatchPosted {
        index,
        chain_head: book.chain_head(index).expect("sealed"),
        block: index,
        at: secs(100),
    };
    let early = post(&book, 2);
    assert_eq!(
        refuse(&mut book, &early),
        BookError::NotNextPost { index: 2, next: 1 }
    );
    let foreign = Entry::BatchPosted {
        index: 1,
        chain_head: Digest([1; 32]),
        block: 1,
        at: secs(100),
    };
    assert!(matches!(
        refuse(&mut book, &foreign),
        BookError::WrongChainHead { .. }
    ));
    for index in 1..=4 {
        let next = post(&book, index);
        apply(&mut book, &[next]);
    }
    assert_eq!(book.posted_count(), 4);
    assert!(book.next_post().is_none());
    assert_eq!(book.job_state(job(3)), Some(JobState::Committed));
}

#[test]
fn a_sealed_batch_that_does_not_follow_from_the_leaves_is_refused() {
    let mut book = two_accounts();
    run_job(&mut book, 1, 1, 9, 10);
    run_job(&mut book, 2, 1, 9, 10);
    let Some(Entry::BatchSealed(good)) = book.seal(secs(30), 10, true) else {
        panic!("two leaves");
    };
    let wrong: [fn(&mut stoa_ledger::book::SealedBatch); 8] = [
        |b| b.index = 2,
        |b| b.first = 1,
        |b| b.job_count = 3,
        |b| b.job_root = Digest([1; 32]),
        |b| b.pay_root = Digest([1; 32]),
        |b| b.gross = units(21),
        |b| b.content_id = Digest::ZERO,
        |b| b.debit_root = Digest::ZERO,
    ];
    for change in wrong {
        let mut batch = good.clone();
        change(&mut batch);
        let error = refuse(&mut book, &Entry::BatchSealed(batch));
        assert!(matches!(error, BookError::WrongBatch { .. }), "{error}");
    }
    apply(&mut book, &[Entry::BatchSealed(good)]);
}

#[test]
fn without_a_payout_root_one_leaf_is_held_back_to_carry_the_next() {
    let mut book = two_accounts();
    run_job(&mut book, 1, 1, 9, 10);
    assert_eq!(book.seal(secs(30), 10, false), None);
    run_job(&mut book, 2, 1, 9, 20);
    let index = seal_and_post(&mut book, false, secs(30));
    let batch = book.batch(index).expect("sealed");
    assert_eq!(batch.pay_root_to_post(), (Digest::ZERO, TokenAmount::ZERO));
    assert_eq!(book.unsealed_count(), 1);
    let index = seal_and_post(&mut book, true, secs(60));
    let batch = book.batch(index).expect("sealed");
    assert_eq!(batch.sealed.gross, units(30));
    assert_eq!(book.unsealed_count(), 0);
}

#[test]
fn batches_fall_due_by_age_by_size_and_with_the_payout_slot() {
    let rule = SealRule {
        age: Millis::from_secs(60),
        job_limit: 4,
        window: Millis::from_secs(90),
    };
    let mut book = two_accounts();
    assert_eq!(book.seal_due(secs(500), &rule), None);
    // Test receipts are delivered at 20 s.
    run_job(&mut book, 1, 1, 9, 10);
    assert_eq!(book.seal_due(secs(79), &rule), None);
    assert!(book.seal_due(secs(80), &rule).is_some());
    seal_and_post(&mut book, true, secs(80));
    // Old leaves wait until the batch before is old enough too.
    run_job(&mut book, 2, 1, 9, 10);
    run_job(&mut book, 3, 1, 9, 10);
    assert_eq!(book.seal_due(secs(139), &rule), None);
    let Some(Entry::BatchSealed(alone)) = book.seal_due(secs(140), &rule) else {
        panic!("old enough");
    };
    assert_eq!((alone.job_count, alone.pay_root), (1, Digest::ZERO));
    // The slot is free once the window is over.
    let Some(Entry::BatchSealed(paying)) = book.seal_due(secs(170), &rule) else {
        panic!("old enough");
    };
    assert_eq!((paying.job_count, paying.gross), (2, units(30)));
    // A full batch does not wait.
    run_job(&mut book, 4, 1, 9, 10);
    run_job(&mut book, 5, 1, 9, 10);
    let Some(Entry::BatchSealed(full)) = book.seal_due(secs(81), &rule) else {
        panic!("full");
    };
    assert_eq!(full.job_count, 3);
}

#[test]
fn a_voided_payout_root_is_paid_by_the_next_one() {
    let mut book = two_accounts();
    run_job(&mut book, 1, 1, 9, 10);
    let sealed = book.seal(secs(30), 10, true).expect("a leaf");
    apply(&mut book, &[sealed]);
    let pay_root = book.batch(1).expect("sealed").sealed.pay_root;
    apply(&mut book, &[Entry::PayoutVoided { pay_root }]);
    assert_eq!(
        book.batch(1).expect("sealed").pay_root_to_post(),
        (Digest::ZERO, TokenAmount::ZERO)
    );
    assert_eq!(
        refuse(&mut book, &Entry::PayoutVoided { pay_root }),
        BookError::NotPending { pay_root }
    );
    run_job(&mut book, 2, 1, 9, 20);
    let next = book.seal(secs(60), 10, true).expect("a leaf");
    apply(&mut book, &[next]);
    assert_eq!(book.batch(2).expect("sealed").sealed.gross, units(30));
}

#[test]
fn a_reversed_charge_leaves_all_totals_once_no_root_can_pay_it() {
    let mut book = two_accounts();
    run_job(&mut book, 1, 1, 9, 10);
    run_job(&mut book, 2, 1, 8, 7);
    let reversed = Entry::JobReversed { job: job(1) };
    let taken = Entry::ChargeTakenBack { job: job(1) };
    let early = BookError::NotPosted { job: job(1) };
    assert_eq!(refuse(&mut book, &reversed), early);
    seal_and_post(&mut book, true, secs(30));
    let not = |book: &mut RouterBook, part: &str| {
        let error = refuse(book, &taken).to_string();
        assert!(error.contains(part), "{error}");
    };
    not(&mut book, "no verdict");
    apply(&mut book, std::slice::from_ref(&reversed));
    assert!(book.knows(&reversed));
    let twice = BookError::AlreadyReversed { job: job(1) };
    assert_eq!(refuse(&mut book, &reversed), twice);
    // The root that pays it still waits in the vault.
    not(&mut book, "may still become claimable");
    assert_eq!(book.take_back_due(), None);
    let free = book.allotment(address(1)).expect("live").1.available();
    let pay_root = book.batch(1).expect("sealed").sealed.pay_root;
    apply(&mut book, &[Entry::PayoutVoided { pay_root }]);
    assert_eq!(book.take_back_due(), Some(taken.clone()));
    apply(&mut book, std::slice::from_ref(&taken));
    not(&mut book, "before");
    assert_eq!(book.job_state(job(1)), Some(JobState::Reversed));
    assert_eq!(book.lifetime_gross(address(9), 1), TokenAmount::ZERO);
    let now = book.allotment(address(1)).expect("live").1.available();
    assert_eq!(
        Some(now),
        free.checked_add(units(10)),
        "refunded to the unit"
    );
    run_job(&mut book, 3, 1, 8, 20);
    seal_and_post(&mut book, true, secs(60));
    assert_eq!(book.batch(2).expect("sealed").sealed.gross, units(27));
    promote(&mut book);
    assert_eq!(book.payout_claim(address(9), 1), None);
    assert_eq!(
        book.proof(job(1)).map(|proof| proof.index),
        Some(1),
        "its leaf stays"
    );
}

#[test]
fn a_reversed_charge_under_a_claimable_root_stays_paid() {
    let mut book = two_accounts();
    run_job(&mut book, 1, 1, 9, 10);
    seal_and_post(&mut book, true, secs(30));
    promote(&mut book);
    apply(&mut book, &[Entry::JobReversed { job: job(1) }]);
    let error = refuse(&mut book, &Entry::ChargeTakenBack { job: job(1) });
    assert!(
        error
            .to_string()
            .contains("a claimable payout root pays it")
    );
    assert_eq!(book.job_state(job(1)), Some(JobState::Settled));
    assert_eq!(book.lifetime_gross(address(9), 1), units(10));
    // It holds up no payout of what comes after.
    run_job(&mut book, 2, 1, 9, 10);
    let sealed = book.seal(secs(60), 10, true).expect("a leaf");
    apply(&mut book, &[sealed]);
    assert_eq!(book.payout_of_reversed(), None);
    let next = book.next_post().expect("sealed");
    assert_ne!(next.sealed.pay_root, Digest::ZERO);
}

#[test]
fn a_root_on_its_way_to_the_vault_holds_a_reversal_up_until_it_is_known_how_it_got_there() {
    let mut book = two_accounts();
    run_job(&mut book, 1, 1, 9, 10);
    run_job(&mut book, 2, 1, 9, 10);
    seal_and_post(&mut book, false, secs(30));
    let sealed = book.seal(secs(60), 10, true).expect("a leaf");
    apply(&mut book, &[sealed, Entry::JobReversed { job: job(1) }]);
    let batch = book.payout_of_reversed().expect("unposted").clone();
    let pay_root = batch.sealed.pay_root;
    apply(&mut book, &[Entry::PayoutVoided { pay_root }]);
    assert_eq!(book.payout_of_reversed(), None);
    assert_eq!(
        book.take_back_due(),
        None,
        "an older transaction may carry it"
    );
    let posted = Entry::BatchPosted {
        index: 2,
        chain_head: batch.head,
        block: 9,
        at: secs(61),
    };
    let mut late = book.clone();
    apply(
        &mut late,
        &[Entry::PayoutStands { pay_root }, posted.clone()],
    );
    assert_eq!(late.take_back_due(), None);
    apply(&mut book, &[posted]);
    assert!(book.take_back_due().is_some());
}

#[test]
fn a_reversed_charge_that_the_router_took_over_comes_back_from_its_own_allotment() {
    let mut book = two_accounts();
    run_job(&mut book, 1, 1, 9, 10);
    run_job(&mut book, 2, 1, 9, 10);
    seal_and_post(&mut book, false, secs(30));
    let own = Entry::AllotmentSeen {
        account: ROUTER,
        generation: 1,
        cap: units(100),
        debited: TokenAmount::ZERO,
        expiry: secs(1_000),
        fee_version: 1,
    };
    let closed = Entry::AllotmentClosed {
        account: address(1),
        generation: 1,
    };
    apply(&mut book, &[own, closed]);
    let absorbed = book.absorb_due().expect("late");
    apply(&mut book, &[absorbed, Entry::JobReversed { job: job(1) }]);
    let before = book.allotment(ROUTER).expect("live").1.charged;
    let taken = book.take_back_due().expect("nothing pays it");
    apply(&mut book, &[taken]);
    let after = book.allotment(ROUTER).expect("live").1.charged;
    assert_eq!(before.checked_sub(after), Some(units(10)));
    book.check_conservation().expect("holds");
}

#[test]
fn m13_how_jobs_are_cut_into_batches_changes_no_lifetime_gross() {
    let run = |limit: u32| {
        let mut book = two_accounts();
        for id in 0..12 {
            run_job(
                &mut book,
                id,
                1 + (id % 2) as u8,
                8 + (id % 3) as u8,
                10 + id,
            );
        }
        while book.unsealed_count() > 0 {
            let sealed = book.seal(secs(30), limit, true).expect("leaves");
            apply(&mut book, &[sealed]);
        }
        let last = book.batches().last().expect("some").clone();
        (last.sealed.pay_root, last.sealed.gross)
    };
    let whole = run(12);
    for limit in [1, 2, 5, 7] {
        assert_eq!(run(limit), whole);
    }
}

#[test]
fn m14_a_missed_payout_root_costs_nothing() {
    let earn = |with_each: bool| {
        let mut book = two_accounts();
        for round in 0..6 {
            run_job(&mut book, 2 * round, 1, 9, 10);
            run_job(&mut book, 2 * round + 1, 2, 9, 15);
            seal_and_post(&mut book, with_each || round == 5, secs(100 * round + 30));
            if book.outstanding_payouts().next().is_some() {
                promote(&mut book);
            }
        }
        book.payout_claim(address(9), 1)
            .expect("claimable")
            .lifetime_gross
    };
    assert_eq!(earn(true), units(150));
    assert_eq!(earn(false), units(150));
}

#[test]
fn a_leaf_file_holds_what_rebuilds_the_batch() {
    let mut book = two_accounts();
    for id in 0..3 {
        run_job(&mut book, id, 1, 9, 10);
    }
    seal_and_post(&mut book, true, secs(30));
    let file = book.leaf_file(1).expect("sealed");
    let sealed = &book.batch(1).expect("sealed").sealed;
    assert_eq!(file.content_id(), sealed.content_id);
    let read = LeafFile::decode(&file.encode()).expect("reads back");
    assert_eq!(read, file);
    let leaves = read
        .leaves
        .iter()
        .map(|(signed, _)| receipt_leaf(&signed.receipt));
    let tree = stoa_crypto::MerkleTree::new(leaves.collect());
    assert_eq!(tree.root(), sealed.job_root);
    let set = read.payout.expect("with payout");
    assert_eq!(set.provider_tree(ROUTER).root(), sealed.provider_root);
    assert_eq!(set.debit_tree(ROUTER).root(), sealed.debit_root);
}

#[test]
fn a_job_without_output_costs_nothing_but_has_a_leaf() {
    let mut book = two_accounts();
    apply(
        &mut book,
        &[reserved(1, 1, 1, 100), charged(receipt(1, 1, 9, 0, 100))],
    );
    let index = seal_and_post(&mut book, true, secs(30));
    let batch = book.batch(index).expect("sealed");
    assert_eq!(batch.sealed.job_count, 1);
    assert_eq!(batch.sealed.pay_root, Digest::ZERO);
    assert_eq!(book.lifetime_gross(address(9), 1), TokenAmount::ZERO);
}

#[test]
fn failed_calls_are_forgotten_at_last_and_charged_ones_never() {
    let mut book = two_accounts();
    apply(
        &mut book,
        &[reserved(1, 1, 1, 600), charged(receipt(1, 1, 9, 250, 600))],
    );
    let failed = |n: u64| {
        let mut id = stoa_types::JobId([0xfe; 32]);
        id.0[..8].copy_from_slice(&n.to_be_bytes());
        id
    };
    let mut size = 0;
    for n in 0..10_050 {
        let Entry::Reserved {
            account,
            generation,
            amount,
            until,
            ..
        } = reserved(2, 1, 1, 10)
        else {
            unreachable!("it is a reservation");
        };
        let (job, cause) = (failed(n), ReleaseCause::NoProvider);
        let reserve = Entry::Reserved {
            job,
            account,
            generation,
            amount,
            until,
        };
        apply(&mut book, &[reserve, Entry::Released { job, cause }]);
        if n == 9_999 {
            size = book.snapshot().len();
        }
    }
    assert_eq!(book.snapshot().len(), size, "it grows no more");
    assert_eq!(book.job_state(failed(49)), None);
    assert_eq!(book.job_state(failed(50)), Some(JobState::Refunded));
    assert_eq!(book.job_state(job(1)), Some(JobState::Delivered));
    assert_eq!(RouterBook::restore(&book.snapshot()), Ok(book.clone()));
    // Snapshots of older versions end without reversals, and without the order of the releases.
    let mut old = RouterBook::restore(&two_accounts().snapshot())
        .expect("whole")
        .snapshot();
    for version in [2, 1] {
        let empty = old.len() - 4;
        assert_eq!(old[empty..], [0; 4], "an empty list ends it");
        old.truncate(empty);
        old[0] = version;
        assert_eq!(RouterBook::restore(&old), Ok(two_accounts()));
    }
}

/// Posts one batch of a job that costs `cost`; whether it carries a payout root, which becomes claimable if it `stands`.
fn post_one(book: &mut RouterBook, id: u64, cost: u64, stands: bool) -> bool {
    run_job(book, id, 1, 9, cost);
    let index = seal_and_post(book, true, secs(30));
    let batch = book.batch(index).expect("sealed");
    let has_root = batch.sealed.pay_root != Digest::ZERO;
    if has_root && stands {
        promote(book);
    }
    has_root
}

#[test]
fn a_root_that_says_nothing_new_is_posted_again_before_validators_measure_none_any_more() {
    let mut book = two_accounts();
    assert!(post_one(&mut book, 1, 10, true));
    let root = book.claimable_batch().expect("promoted").sealed.pay_root;
    let rooted: Vec<u64> = (2..=400)
        .filter(|id| post_one(&mut book, *id, 0, true))
        .collect();
    assert_eq!(
        rooted,
        [1 + RENEW_AFTER, 1 + 2 * RENEW_AFTER, 1 + 3 * RENEW_AFTER]
    );
    let claimable = book
        .claimable_batch()
        .expect("promoted again")
        .sealed
        .clone();
    assert_eq!((claimable.index, claimable.pay_root), (385, root));
    assert_eq!(book.lifetime_gross(address(9), 1), units(10));
}

#[test]
fn a_router_whose_jobs_all_cost_nothing_has_a_root_to_be_measured_by() {
    let mut book = two_accounts();
    let rooted = (1..=150).filter(|id| post_one(&mut book, *id, 0, true));
    assert_eq!(rooted.collect::<Vec<u64>>(), [RENEW_AFTER]);
    let batch = book.claimable_batch().expect("promoted");
    assert_eq!(batch.sealed.gross, TokenAmount::ZERO);
    assert!(post_one(&mut book, 151, 10, true));
    assert_eq!(book.posts_since_claimable(), 1);
}
