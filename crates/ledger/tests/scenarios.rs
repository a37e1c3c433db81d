//! Regression scenarios of the money path that the vault decides, each under the sentence that must stay true (docs/scenarios.md).

mod world;

use stoa_ledger::fees::FeeSchedule;
use stoa_ledger::vault::VaultError;
use stoa_types::{Bps, TokenAmount};
use world::*;

/// The whole life of one allotment; whoever acts, the next line may never come.
const LIFE: [Step; 10] = [
    Step::Deposit(0, 1_000_000),
    Step::Allot(0, 0, 600_000, DAY),
    Step::PostJobs(0),
    Step::Post(0),
    Step::Wait(WINDOW),
    Step::Promote(0),
    Step::Sync(0),
    Step::Claim(0, 0),
    Step::Collect(PROVIDERS[0]),
    Step::Collect(ROUTERS[0]),
];
const EARNED: u128 = 100_000;

/// The first `steps` lines happened; the router had booked its charges before it posted.
fn lived(steps: usize) -> World {
    let mut world = World::new();
    world.must(Step::Leave(0));
    for (n, step) in LIFE.into_iter().take(steps).enumerate() {
        if n == 3 {
            world.earn(0, 0, 0, EARNED);
        }
        world.must(step);
    }
    world
}

/// Whoever is owed something takes it, and the developer takes the rest: nothing of it needs the router. Gives what the developer got back.
fn wind_up(world: &mut World) -> u128 {
    world.now += WINDOW;
    for step in [Step::Promote(0), Step::Sync(0), Step::Claim(0, 0)] {
        // What happened before is refused and changes nothing.
        drop(world.take(&step));
    }
    world.now += DAY + SETTLE_DELAY;
    drop(world.take(&Step::Release(0, 0)));
    for who in [PROVIDERS[0], ROUTERS[0]] {
        drop(world.take(&Step::Collect(who)));
    }
    drop(world.take(&Step::CollectProtocol));
    let back = world.vault.free(DEVELOPERS[0]).units();
    if back > 0 {
        world.must(Step::Withdraw(0, back));
    }
    world.vault.check_conservation().expect("sums hold");
    back
}

#[test]
fn unsettled_escrow_returns_to_its_owner() {
    let mut world = lived(2);
    // The router served and the provider vanished; nobody ever posts.
    world.earn(0, 0, 0, EARNED);
    world.must(Step::Wait(DAY + SETTLE_DELAY - 1));
    world.refuse(Step::Release(0, 0));
    world.must(Step::Wait(1));
    world.must(Step::Release(0, 0));
    assert_eq!(world.vault.free(DEVELOPERS[0]), units(1_000_000));
    let pools = world.vault.owed_protocol();
    let others = [pools.treasury, pools.validators, pools.buyback];
    assert_eq!(others, [TokenAmount::ZERO; 3]);
    assert_eq!(world.vault.owed(ROUTERS[0]), TokenAmount::ZERO);
    assert_eq!(wind_up(&mut world), 1_000_000);
}

#[test]
fn escrow_is_never_lost() {
    for steps in 1..=LIFE.len() {
        let mut world = lived(steps);
        let back = wind_up(&mut world);
        // Posted with a payout root, it is paid to the unit; else the developer has all of it.
        let paid = if steps >= 4 { EARNED } else { 0 };
        assert_eq!(back, 1_000_000 - paid, "after {steps} steps");
        assert_eq!(
            world.vault.balance(),
            TokenAmount::ZERO,
            "after {steps} steps"
        );
    }
}

#[test]
fn refund_does_not_depend_on_who_closes() {
    for steps in 2..=LIFE.len() {
        let ends = [
            // The allotment runs out; the developer ends it; it is topped up, then ended.
            vec![],
            vec![Step::Revoke(0, 0)],
            vec![Step::TopUp(0, 0, 50_000, None), Step::Revoke(0, 0)],
        ];
        let refunds = ends.map(|end| {
            let mut world = lived(steps);
            for step in end {
                world.must(step);
            }
            wind_up(&mut world)
        });
        let metered = if steps >= 4 { EARNED } else { 0 };
        assert_eq!(refunds, [1_000_000 - metered; 3], "after {steps} steps");
    }
}

#[test]
fn payer_cannot_censor_the_finish() {
    // The router is gone right after its post, and the developer does all to get away with its money.
    let mut world = lived(4);
    world.must(Step::Revoke(0, 0));
    world.refuse(Step::Release(0, 0));
    world.refuse(Step::Withdraw(0, 400_001));
    world.must(Step::Wait(WINDOW));
    for step in [Step::Promote(0), Step::Sync(0), Step::Claim(0, 0)] {
        world.must(step);
    }
    world.must(Step::Wait(NOTICE + SETTLE_DELAY));
    world.must(Step::Release(0, 0));
    let got = world.vault.owed(PROVIDERS[0]);
    assert_eq!(got, units(EARNED - EARNED * 3 / 100));
    assert_eq!(world.vault.free(DEVELOPERS[0]), units(1_000_000 - EARNED));
}

#[test]
fn one_bad_lease_blocks_no_withdrawal() {
    let mut world = World::new();
    for developer in 0..2 {
        world.must(Step::Deposit(developer, 1_000_000));
        world.must(Step::Allot(developer, 0, 1_000_000, DAY));
    }
    world.must(Step::Leave(0));
    // Provider 2 is registered nowhere, and developer 1 is debited above its cap: both lines of the root fail for ever.
    world.earn(0, 0, 0, 300_000);
    world.earn(0, 2, 0, 50_000);
    world.earn(0, 1, 1, 1_000_001);
    world.must(Step::Post(0));
    world.must(Step::Wait(WINDOW));
    world.must(Step::Promote(0));
    assert!(matches!(
        world.refuse(Step::SyncAll(0)),
        VaultError::CapExceeded { .. }
    ));
    world.must(Step::Sync(0));
    assert!(matches!(
        world.refuse(Step::Claim(0, 2)),
        VaultError::UnknownProvider { .. }
    ));
    world.must(Step::Claim(0, 0));
    assert_eq!(world.vault.owed(PROVIDERS[0]), units(291_000));
}

#[test]
fn one_empty_wallet_blocks_no_close() {
    // The vault asks no call of settlement who sends it: what the router's wallet cannot pay for, anyone brings.
    let mut world = lived(4);
    world.must(Step::Deposit(1, 1_000_000));
    world.must(Step::Allot(1, 1, 1_000_000, DAY));
    world.earn(1, 1, 1, EARNED);
    // One router has not even the gas for its own post; the other's money moves all the same.
    world.must(Step::Wait(WINDOW));
    for step in [Step::Promote(0), Step::Sync(0), Step::Claim(0, 0)] {
        world.must(step);
    }
    world.must(Step::Post(1));
    world.must(Step::Wait(WINDOW));
    for step in [Step::Promote(1), Step::Sync(1), Step::Claim(1, 1)] {
        world.must(step);
    }
    let claimed = |router| world.vault.totals(ROUTERS[router]).claimed_gross;
    assert_eq!([claimed(0), claimed(1)], [units(EARNED); 2]);
}

#[test]
fn cumulative_bill_never_loops() {
    let mut world = lived(8);
    // The same totals again, lower ones, an older set: each is refused once, and the higher bill goes through after all of them.
    world.must(Step::Post(0));
    world.must(Step::Wait(WINDOW));
    world.must(Step::Promote(0));
    world.must(Step::Sync(0));
    world.refuse(Step::Claim(0, 0));
    world.earn_back(0, 0, 0, 1);
    assert!(matches!(
        world.refuse(Step::Post(0)),
        VaultError::GrossFell { .. }
    ));
    world.refuse(Step::SyncForged(0, 0, EARNED - 1));
    world.earn(0, 0, 0, 50_001);
    world.must(Step::Post(0));
    world.must(Step::Wait(WINDOW));
    world.must(Step::Promote(0));
    world.must(Step::Sync(0));
    world.must(Step::Claim(0, 0));
    let totals = world.vault.totals(ROUTERS[0]);
    assert_eq!(totals.claimed_gross, units(EARNED + 50_000));
    assert_eq!(totals.debited_total, units(EARNED + 50_000));
}

#[test]
fn no_role_sets_its_own_fee() {
    let share = |bps| Bps::new(bps).expect("small");
    let own = FeeSchedule {
        router: share(500),
        treasury: share(0),
        validators: share(0),
        buyback: share(0),
    };
    let mut world = lived(7);
    for who in [ROUTERS[0], PROVIDERS[0], DEVELOPERS[0], VERDICT] {
        assert!(world.vault.add_fee_version(who, own).is_err());
    }
    // Also the admin changes nothing that was earned under the first schedule.
    world.vault.add_fee_version(ADMIN, own).expect("bounded");
    world.must(Step::Claim(0, 0));
    assert_eq!(world.vault.owed(ROUTERS[0]), units(EARNED * 15 / 1_000));
}

#[test]
fn voucher_replay_is_refused() {
    let mut world = lived(8);
    // The same claim and the same debits again; the same root at another router; after the allotment's next generation.
    world.refuse(Step::Claim(0, 0));
    world.must(Step::Sync(0));
    world.refuse(Step::Claim(0, 0));
    let debited = world.vault.totals(ROUTERS[0]).debited_total;
    assert_eq!(debited, units(EARNED));
    world.books[1] = world.books[0].clone();
    assert!(matches!(
        world.refuse(Step::Post(1)),
        VaultError::Insolvent { .. }
    ));
    world.must(Step::Wait(DAY + SETTLE_DELAY));
    world.must(Step::Release(0, 0));
    world.must(Step::Allot(0, 0, 900_000, DAY));
    assert!(matches!(
        world.refuse(Step::SyncAll(0)),
        VaultError::WrongGeneration { .. }
    ));
    assert_eq!(world.vault.totals(ROUTERS[0]).debited_total, debited);
}

#[test]
fn one_deposit_covers_two_routers_once() {
    let mut world = lived(2);
    world.must(Step::Allot(0, 1, 400_000, DAY));
    world.refuse(Step::TopUp(0, 1, 1, None));
    for (router, earned) in [(0, 600_001), (1, 400_001)] {
        world.earn(router, 0, 0, earned);
        assert!(matches!(
            world.refuse(Step::Post(router)),
            VaultError::Insolvent { .. }
        ));
    }
}
