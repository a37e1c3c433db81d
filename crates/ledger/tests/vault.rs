//! The vault, sentence by sentence (design: settlement 8).

mod world;

use stoa_ledger::fees::FeeSchedule;
use stoa_ledger::vault::{Event, MAX_ALLOTMENT, VaultError};
use stoa_types::{Address, Bps, Digest, TokenAmount};
use world::*;

/// One developer with an allotment of 1,000,000 to a router, and a registered provider.
fn funded() -> World {
    let mut world = World::new();
    world.must(Step::Deposit(0, 2_000_000));
    world.must(Step::Allot(0, 0, 1_000_000, DAY));
    world
}

/// Posts a payout root of `gross` for provider 0 and debits of developer 0, and waits until it is claimable.
fn settle(world: &mut World, gross: u128) {
    world.earn(0, 0, 0, gross);
    world.must(Step::Post(0));
    world.must(Step::Wait(WINDOW));
    world.must(Step::Promote(0));
}

#[test]
fn m1_conservation_holds_through_a_whole_life() {
    let mut world = funded();
    settle(&mut world, 500_000);
    world.must(Step::Sync(0));
    world.must(Step::Claim(0, 0));
    let accounts = world.vault.check_conservation().expect("holds");
    assert_eq!(accounts.free, units(1_000_000));
    assert_eq!(accounts.allotted, units(500_000));
    assert_eq!(accounts.unclaimed, TokenAmount::ZERO);
    assert_eq!(accounts.owed, units(500_000));
    world.must(Step::Collect(PROVIDERS[0]));
    world.must(Step::Collect(ROUTERS[0]));
    world.must(Step::CollectProtocol);
    world.must(Step::Donate(7));
    world.must(Step::Revoke(0, 0));
    world.must(Step::Wait(NOTICE + SETTLE_DELAY));
    world.must(Step::Release(0, 0));
    world.must(Step::Withdraw(0, 1_500_000));
    let accounts = world.vault.check_conservation().expect("holds");
    assert_eq!(accounts.surplus, units(7));
    assert_eq!(world.vault.balance(), units(7));
}

#[test]
fn m2_cap_is_hard() {
    let mut world = funded();
    world.must(Step::Allot(0, 1, 10, DAY));
    world.must(Step::Deposit(1, 5_000_000));
    world.must(Step::Allot(1, 0, 5_000_000, DAY));
    settle(&mut world, 1_000_001);
    let error = world.refuse(Step::SyncAll(0));
    assert!(matches!(error, VaultError::CapExceeded { .. }));
}

#[test]
fn m3_expiry_is_hard_and_generations_do_not_mix() {
    let mut world = funded();
    settle(&mut world, 300_000);
    world.must(Step::Wait(DAY + SETTLE_DELAY));
    world.must(Step::Release(0, 0));
    let late = world.refuse(Step::SyncAll(0));
    assert!(matches!(late, VaultError::WrongGeneration { live: 0, .. }));
    world.must(Step::Allot(0, 0, 1_000_000, DAY));
    let other = world.refuse(Step::SyncAll(0));
    assert!(matches!(other, VaultError::WrongGeneration { live: 2, .. }));
}

#[test]
fn m4_free_is_untouchable_by_anyone_else() {
    let mut world = funded();
    let before = world.vault.free(DEVELOPERS[0]);
    settle(&mut world, 900_000);
    world.must(Step::Sync(0));
    world.must(Step::Claim(0, 0));
    world.refuse(Step::Withdraw(1, 1));
    assert_eq!(world.vault.free(DEVELOPERS[0]), before);
}

#[test]
fn m5_router_holds_nothing_but_its_fee_share() {
    let mut world = funded();
    settle(&mut world, 1_000_000);
    world.must(Step::Sync(0));
    assert_eq!(world.vault.owed(ROUTERS[0]), TokenAmount::ZERO);
    world.must(Step::Claim(0, 0));
    assert_eq!(world.vault.owed(ROUTERS[0]), units(15_000));
    assert_eq!(world.vault.owed(PROVIDERS[0]), units(970_000));
}

#[test]
fn m6_fees_exact() {
    let mut world = funded();
    settle(&mut world, 19_999);
    world.must(Step::Sync(0));
    world.must(Step::Claim(0, 0));
    let protocol = world.vault.owed_protocol();
    let shares = [protocol.treasury, protocol.validators, protocol.buyback];
    assert_eq!(shares, [units(99); 3]);
    assert_eq!(world.vault.owed(ROUTERS[0]), units(299));
    assert_eq!(world.vault.owed(PROVIDERS[0]), units(19_999 - 299 - 3 * 99));
}

#[test]
fn m7_fee_version_fixed() {
    let mut world = funded();
    let share = |bps| Bps::new(bps).expect("small");
    let dearer = FeeSchedule {
        router: share(500),
        treasury: share(500),
        validators: share(0),
        buyback: share(0),
    };
    assert!(world.vault.add_fee_version(DEVELOPERS[0], dearer).is_err());
    world.vault.add_fee_version(ADMIN, dearer).expect("bounded");
    settle(&mut world, 100_000);
    world.must(Step::Sync(0));
    world.must(Step::Claim(0, 0));
    assert_eq!(world.vault.owed(ROUTERS[0]), units(1_500));
    let above = FeeSchedule {
        router: share(501),
        ..dearer
    };
    let error = world.vault.add_fee_version(ADMIN, above);
    assert!(matches!(error, Err(VaultError::FeeTooHigh { .. })));
}

#[test]
fn m8_cumulative_monotone() {
    let mut world = funded();
    settle(&mut world, 200_000);
    world.must(Step::Sync(0));
    world.earn_back(0, 0, 0, 100_000);
    let error = world.refuse(Step::Post(0));
    assert!(matches!(error, VaultError::GrossFell { .. }));
    // The router hides the fall behind another provider: the debit still cannot fall.
    world.earn(0, 1, 1, 500_000);
    world.must(Step::Post(0));
    world.must(Step::Wait(WINDOW));
    world.must(Step::Promote(0));
    let error = world.refuse(Step::SyncAll(0));
    assert!(matches!(error, VaultError::DebitFell { .. }));
}

#[test]
fn m9_no_double_payment() {
    let mut world = funded();
    settle(&mut world, 200_000);
    world.must(Step::Sync(0));
    world.must(Step::Claim(0, 0));
    let error = world.refuse(Step::Claim(0, 0));
    let nothing = TokenAmount::ZERO;
    assert!(matches!(error, VaultError::BelowMinimum { amount, .. } if amount == nothing));
    world.must(Step::Sync(0));
    assert_eq!(world.vault.totals(ROUTERS[0]).debited_total, units(200_000));
}

#[test]
fn m10_claim_needs_final() {
    let mut world = funded();
    world.earn(0, 0, 0, 200_000);
    world.must(Step::Post(0));
    for step in [Step::SyncNewest(0), Step::ClaimNewest(0, 0)] {
        let error = world.refuse(step);
        assert!(matches!(error, VaultError::NotClaimable { .. }), "{error}");
    }
    world.must(Step::Wait(WINDOW - 1));
    let error = world.refuse(Step::Promote(0));
    assert!(matches!(error, VaultError::PayRootPending { .. }));
    world.must(Step::Void(0));
    world.must(Step::Wait(1));
    let error = world.refuse(Step::Promote(0));
    assert!(matches!(error, VaultError::NothingPending { .. }));
    assert!(matches!(
        world.refuse(Step::SyncNewest(0)),
        VaultError::NotClaimable { .. }
    ));
}

#[test]
fn m11_solvent_root() {
    let mut world = funded();
    world.earn(0, 0, 0, 1_000_001);
    let error = world.refuse(Step::Post(0));
    assert!(matches!(error, VaultError::Insolvent { covered, .. } if covered == units(1_000_000)));
    world.earn_back(0, 0, 0, 1);
    world.must(Step::Post(0));
}

#[test]
fn m12_remainder_claimable() {
    let mut world = funded();
    world.must(Step::Deposit(1, 1_000_000));
    world.must(Step::Allot(1, 0, 1_000_000, DAY));
    world.earn(0, 0, 0, 300_000);
    world.earn(0, 0, 1, 200_000);
    world.must(Step::Post(0));
    world.must(Step::Wait(WINDOW));
    world.must(Step::Promote(0));
    world.must(Step::SyncOne(0, 1));
    let first = world.must(Step::Claim(0, 0));
    assert!(matches!(first[..], [Event::Claimed { gross, .. }] if gross == units(200_000)));
    world.must(Step::Sync(0));
    let rest = world.must(Step::Claim(0, 0));
    assert!(matches!(rest[..], [Event::Claimed { gross, .. }] if gross == units(300_000)));
}

#[test]
fn m13_batch_split_neutral() {
    let paid = |cuts: &[u128]| {
        let mut world = funded();
        for part in cuts {
            world.earn(0, 0, 0, *part);
            world.must(Step::Post(0));
            world.must(Step::Wait(WINDOW));
        }
        world.must(Step::Promote(0));
        world.must(Step::Sync(0));
        world.must(Step::Claim(0, 0));
        world.vault.owed(PROVIDERS[0])
    };
    assert_eq!(paid(&[60_000, 1, 39_999]), paid(&[100_000]));
}

#[test]
fn m14_missed_batch_costs_nothing() {
    let mut often = funded();
    let mut seldom = funded();
    for _ in 0..4 {
        for world in [&mut often, &mut seldom] {
            world.earn(0, 0, 0, 25_000);
        }
        often.must(Step::Post(0));
        often.must(Step::Wait(WINDOW));
        often.must(Step::Promote(0));
        often.must(Step::Sync(0));
        often.must(Step::Claim(0, 0));
        seldom.must(Step::PostJobs(0));
        seldom.must(Step::Wait(WINDOW));
    }
    seldom.must(Step::Post(0));
    seldom.must(Step::Wait(WINDOW));
    seldom.must(Step::Promote(0));
    seldom.must(Step::Sync(0));
    seldom.must(Step::Claim(0, 0));
    let gross = |world: &World| world.vault.totals(ROUTERS[0]).claimed_gross;
    assert_eq!(gross(&often), units(100_000));
    assert_eq!(gross(&seldom), gross(&often));
}

#[test]
fn x1_exit_bounded_for_a_developer_alone() {
    let mut world = funded();
    world.must(Step::Wait(100));
    world.must(Step::Revoke(0, 0));
    world.must(Step::Wait(NOTICE + SETTLE_DELAY - 1));
    let error = world.refuse(Step::Release(0, 0));
    assert!(matches!(error, VaultError::NotReleasable { .. }));
    world.must(Step::Wait(1));
    world.must(Step::Release(0, 0));
    world.must(Step::Withdraw(0, 2_000_000));
}

#[test]
fn a_post_promotes_what_is_due_and_keeps_the_slot_otherwise() {
    let mut world = funded();
    world.earn(0, 0, 0, 10);
    world.must(Step::Post(0));
    world.earn(0, 0, 0, 10);
    let error = world.refuse(Step::Post(0));
    assert!(matches!(error, VaultError::PayRootPending { .. }));
    world.must(Step::PostJobs(0));
    world.must(Step::Wait(WINDOW));
    let events = world.must(Step::Post(0));
    assert!(matches!(
        events[..],
        [
            Event::Promoted { gross, .. },
            Event::BatchPosted { index: 3, .. }
        ] if gross == units(10)
    ));
}

#[test]
fn a_chain_head_is_stored_every_64_posts() {
    let mut world = funded();
    for _ in 0..130 {
        world.must(Step::PostJobs(0));
    }
    let totals = world.vault.totals(ROUTERS[0]);
    assert_eq!(totals.posts, 130);
    assert_eq!(
        totals.checkpoints.keys().copied().collect::<Vec<_>>(),
        [1, 2]
    );
    assert_ne!(totals.checkpoints[&1], Digest::ZERO);
}

#[test]
fn small_and_strange_claims_are_refused() {
    let mut world = funded();
    settle(&mut world, 9_999);
    world.must(Step::Sync(0));
    let small = world.refuse(Step::Claim(0, 0));
    assert!(matches!(small, VaultError::BelowMinimum { .. }));
    world.must(Step::Leave(0));
    world.must(Step::Claim(0, 0));

    let mut world = funded();
    // Provider 2 never registered.
    world.earn(0, 2, 0, 50_000);
    world.must(Step::Post(0));
    world.must(Step::Wait(WINDOW));
    world.must(Step::Promote(0));
    world.must(Step::Sync(0));
    let unknown = world.refuse(Step::Claim(0, 2));
    assert!(matches!(unknown, VaultError::UnknownProvider { .. }));
}

#[test]
fn deposits_and_allotments_are_checked() {
    let mut world = World::new();
    world.refuse(Step::Deposit(0, 0));
    let full = world.refuse(Step::Deposit(0, 1 << 64));
    assert!(matches!(full, VaultError::VaultFull { .. }));
    world.must(Step::Deposit(0, 100));
    for (cap, life) in [(101, DAY), (0, DAY), (100, 0), (100, MAX_ALLOTMENT + 1)] {
        world.refuse(Step::Allot(0, 0, cap, life));
    }
    world.must(Step::Allot(0, 0, 60, DAY));
    let live = world.refuse(Step::Allot(0, 0, 1, DAY));
    assert!(matches!(
        live,
        VaultError::AllotmentLive { generation: 1, .. }
    ));
    world.refuse(Step::TopUp(0, 0, 41, None));
    world.refuse(Step::TopUp(0, 0, 1, Some(DAY - 1)));
    world.must(Step::TopUp(0, 0, 40, Some(2 * DAY)));
    world.must(Step::Wait(2 * DAY));
    let over = world.refuse(Step::TopUp(0, 0, 0, Some(3 * DAY)));
    assert!(matches!(over, VaultError::AllotmentExpired { .. }));
    let nobody = world
        .vault
        .allot(DEVELOPERS[0], Address::ZERO, units(1), 5, 4);
    assert_eq!(nobody, Err(VaultError::ZeroAddress));
}
