//! Random calls, false ones among them: nothing that the vault promises breaks, whatever routers, providers and developers try.

mod world;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use stoa_ledger::vault::{Event, Vault};
use stoa_types::TokenAmount;
use world::*;

/// A call, or a change of what a router claims to have earned.
#[derive(Debug, Clone)]
enum Act {
    Call(Step),
    Earn(usize, usize, usize, u128),
    EarnCovered(usize, usize, usize, u128),
    EarnBack(usize, usize, usize, u128),
}

fn amount() -> impl Strategy<Value = u128> {
    prop_oneof![6 => 0u128..200_000, 1 => 0u128..3, 1 => 0u128..1 << 65]
}

fn any_call() -> impl Strategy<Value = Step> {
    let (d, r, p) = (|| 0usize..3, || 0usize..2, || 0usize..3);
    let life = prop_oneof![4 => 1u64..2 * DAY, 1 => 0u64..40 * DAY];
    let money = prop_oneof![
        4 => (d(), amount()).prop_map(|(d, n)| Step::Deposit(d, n)),
        2 => (d(), amount()).prop_map(|(d, n)| Step::Withdraw(d, n)),
        1 => (0u128..100).prop_map(Step::Donate),
        4 => (d(), r(), amount(), life).prop_map(|(d, r, n, life)| Step::Allot(d, r, n, life)),
        2 => (d(), r(), amount(), prop::option::of(0u64..40 * DAY)).prop_map(|(d, r, n, end)| Step::TopUp(d, r, n, end)),
        1 => (d(), r()).prop_map(|(d, r)| Step::Revoke(d, r)),
        2 => (d(), r()).prop_map(|(d, r)| Step::Release(d, r)),
    ];
    let posts = prop_oneof![
        4 => r().prop_map(Step::Post),
        1 => r().prop_map(Step::PostJobs),
        1 => (r(), amount()).prop_map(|(r, n)| Step::PostFalseGross(r, n)),
        3 => r().prop_map(Step::Promote),
        1 => r().prop_map(Step::Void),
    ];
    let settling = prop_oneof![
        6 => r().prop_map(Step::Sync),
        1 => r().prop_map(Step::SyncAll),
        2 => (r(), d()).prop_map(|(r, d)| Step::SyncOne(r, d)),
        1 => r().prop_map(Step::SyncNewest),
        1 => (r(), d(), amount()).prop_map(|(r, d, n)| Step::SyncForged(r, d, n)),
        5 => (r(), p()).prop_map(|(r, p)| Step::Claim(r, p)),
        1 => (r(), p()).prop_map(|(r, p)| Step::ClaimNewest(r, p)),
        1 => (r(), p(), 1u128..1_000).prop_map(|(r, p, n)| Step::ClaimForged(r, p, n)),
        1 => p().prop_map(|p| Step::Collect(PROVIDERS[p])),
        1 => r().prop_map(|r| Step::Collect(ROUTERS[r])),
        1 => Just(Step::CollectProtocol),
        1 => p().prop_map(Step::Leave),
    ];
    let wait = prop_oneof![8 => Just(WINDOW), 2 => 0u64..DAY, 1 => 0u64..40 * DAY];
    prop_oneof![4 => money, 4 => posts, 5 => settling, 3 => wait.prop_map(Step::Wait)]
}

fn any_act() -> impl Strategy<Value = Act> {
    let who = || (0usize..2, 0usize..3, 0usize..3);
    prop_oneof![
        40 => any_call().prop_map(Act::Call),
        12 => (who(), 0u128..60_000).prop_map(|((r, p, d), n)| Act::EarnCovered(r, p, d, n)),
        1 => (who(), 0u128..60_000).prop_map(|((r, p, d), n)| Act::Earn(r, p, d, n)),
        1 => (who(), 0u128..60_000).prop_map(|((r, p, d), n)| Act::EarnBack(r, p, d, n)),
    ]
}

/// M2, M3, M8: caps bound debits, a released generation is closed for good, totals never fall.
fn check_totals(before: &Vault, after: &Vault) {
    for (key, old) in before.allotments() {
        let (_, new) = after
            .allotments()
            .find(|(k, _)| *k == key)
            .expect("never forgotten");
        assert!(new.debited <= new.cap, "M2");
        assert!(new.debited >= old.debited && new.cap >= old.cap, "M8");
        if !old.live {
            assert_eq!(new, old, "M3: a released generation changed");
        }
    }
    for (router, old) in before.routers() {
        let new = after.totals(router);
        let pairs = [
            (old.cap_total, new.cap_total),
            (old.released_total, new.released_total),
            (old.debited_total, new.debited_total),
            (old.claimed_gross, new.claimed_gross),
            (old.claimable.1, new.claimable.1),
        ];
        assert!(pairs.iter().all(|(old, new)| new >= old), "M8");
        assert!(new.posts >= old.posts, "D2: a post went back");
        for provider in PROVIDERS {
            assert!(
                after.claimed(router, provider, 1) >= before.claimed(router, provider, 1),
                "M8"
            );
        }
    }
}

/// M4: a free balance falls only by a call of its developer.
fn check_free(before: &Vault, after: &Vault, step: &Step) {
    let caller = match step {
        Step::Withdraw(d, _) | Step::Allot(d, ..) | Step::TopUp(d, ..) => Some(*d),
        _ => None,
    };
    for (number, developer) in DEVELOPERS.into_iter().enumerate() {
        if caller != Some(number) {
            assert!(after.free(developer) >= before.free(developer), "M4");
        }
    }
}

/// M5, M6, M10, M11: what the events of one call may do.
fn check_events(before: &Vault, after: &Vault, events: &[Event]) {
    let share = |bps: u128, gross: &TokenAmount| gross.units() * bps / 10_000;
    let mut fee = TokenAmount::ZERO;
    for event in events {
        match event {
            Event::Claimed {
                router,
                gross,
                net,
                provider,
                ..
            } => {
                fee = units(share(150, gross));
                let protocol = 3 * share(50, gross);
                assert_eq!(net.units() + fee.units() + protocol, gross.units(), "M6");
                let claimable = before.totals(*router).claimable;
                assert_eq!(after.totals(*router).claimable, claimable, "M10");
                assert_eq!(
                    after.owed(*provider).units() - before.owed(*provider).units(),
                    net.units()
                );
                assert_eq!(
                    after.owed(*router).units() - before.owed(*router).units(),
                    fee.units(),
                    "M5"
                );
            }
            Event::BatchPosted {
                router,
                pay_root,
                gross,
                ..
            } if pay_root.0 != [0; 32] => {
                let totals = after.totals(*router);
                assert!(
                    gross.units() <= totals.cap_total.units() - totals.released_total.units(),
                    "M11"
                );
            }
            _ => {}
        }
    }
    for router in ROUTERS {
        let raised = after
            .owed(router)
            .units()
            .saturating_sub(before.owed(router).units());
        assert!(raised <= fee.units(), "M5");
    }
}

/// Runs a history; returns the names of the calls that succeeded and of the errors that came.
fn run(acts: &[Act]) -> (World, Vec<String>) {
    let mut world = World::new();
    for developer in 0..3 {
        world.must(Step::Deposit(developer, 600_000));
        world.must(Step::Allot(developer, 0, 400_000, 20 * DAY));
    }
    let mut seen = Vec::new();
    let name = |text: String| {
        text.split([' ', '(', '{'])
            .next()
            .unwrap_or_default()
            .to_owned()
    };
    for act in acts {
        let step = match act {
            Act::Earn(r, p, d, n) => {
                world.earn(*r, *p, *d, *n);
                continue;
            }
            Act::EarnCovered(r, p, d, n) => {
                world.earn_covered(*r, *p, *d, *n);
                continue;
            }
            Act::EarnBack(r, p, d, n) => {
                world.earn_back(*r, *p, *d, *n);
                continue;
            }
            Act::Call(step) => step,
        };
        let before = world.vault.clone();
        match world.take(step) {
            Err(error) => {
                assert_eq!(world.vault, before, "a refused call changed the vault");
                seen.push(name(format!("{error:?}")));
            }
            Ok(events) => {
                check_totals(&before, &world.vault);
                check_free(&before, &world.vault, step);
                check_events(&before, &world.vault, &events);
                seen.push(name(format!("{step:?}")));
            }
        }
        world
            .vault
            .check_conservation()
            .unwrap_or_else(|error| panic!("M1 after {step:?}: {error}"));
    }
    (world, seen)
}

/// X1, X2: from any state every developer alone gets all that is not debited, within notice and settle delay.
fn check_exit(mut world: World) {
    for router in 0..2 {
        for developer in 0..3 {
            let _ = world.take(&Step::Revoke(developer, router));
        }
    }
    world.must(Step::Wait(NOTICE + SETTLE_DELAY));
    for router in 0..2 {
        for developer in 0..3 {
            let _ = world.take(&Step::Release(developer, router));
        }
    }
    let accounts = world.vault.check_conservation().expect("sums hold");
    assert_eq!(accounts.allotted, TokenAmount::ZERO, "X1");
    for (number, developer) in DEVELOPERS.into_iter().enumerate() {
        let free = world.vault.free(developer);
        if !free.is_zero() {
            world.must(Step::Withdraw(number, free.units()));
        }
    }
    let accounts = world.vault.check_conservation().expect("sums hold");
    assert_eq!(accounts.free, TokenAmount::ZERO, "X2");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn m1_to_m11_and_x1_hold_through_any_history(acts in prop::collection::vec(any_act(), 0..200)) {
        let (world, _) = run(&acts);
        check_exit(world);
    }

    /// M12: however debits are booked and claims cut, the provider ends with its whole gross, and no more.
    #[test]
    fn m12_partial_claims_leave_the_rest_claimable(
        parts in prop::collection::vec((0usize..3, 1u128..200_000), 1..6),
        order in prop::collection::vec(0usize..3, 0..6),
    ) {
        let mut world = World::new();
        for developer in 0..3 {
            world.must(Step::Deposit(developer, 1_200_000));
            world.must(Step::Allot(developer, 0, 1_200_000, DAY));
        }
        for (developer, amount) in &parts {
            world.earn(0, 0, *developer, *amount);
        }
        world.must(Step::Post(0));
        world.must(Step::Wait(WINDOW));
        world.must(Step::Promote(0));
        for developer in order {
            let _ = world.take(&Step::SyncOne(0, developer));
            let _ = world.take(&Step::Claim(0, 0));
        }
        world.must(Step::Sync(0));
        world.must(Step::Leave(0));
        let _ = world.take(&Step::Claim(0, 0));
        let gross: u128 = parts.iter().map(|(_, amount)| amount).sum();
        prop_assert_eq!(world.vault.claimed(ROUTERS[0], PROVIDERS[0], 1), units(gross));
        prop_assert_eq!(world.vault.totals(ROUTERS[0]).claimed_gross, units(gross));
    }
}

#[test]
fn the_random_histories_reach_every_call_and_nearly_every_error() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let acts = prop::collection::vec(any_act(), 200);
    let mut seen = std::collections::BTreeMap::new();
    for _ in 0..120 {
        let history = acts.new_tree(&mut runner).expect("generates").current();
        for name in run(&history).1 {
            *seen.entry(name).or_insert(0u32) += 1;
        }
    }
    for must in [
        "Deposit",
        "Withdraw",
        "Allot",
        "TopUp",
        "Revoke",
        "Release",
        "Post",
        "PostJobs",
        "Promote",
        "Void",
        "Sync",
        "SyncAll",
        "SyncOne",
        "Claim",
        "Collect",
        "CollectProtocol",
        "Leave",
        "PostFalseGross",
        "InsufficientFree",
        "AllotmentLive",
        "NoAllotment",
        "BadExpiry",
        "NotReleasable",
        "PayRootPending",
        "NothingPending",
        "GrossFell",
        "Insolvent",
        "NotClaimable",
        "BadProof",
        "WrongGeneration",
        "CapExceeded",
        "BelowMinimum",
        "NothingOwed",
        "VaultFull",
        "DebitFell",
        "UnknownProvider",
    ] {
        assert!(
            seen.contains_key(must),
            "{must} was never reached: {seen:?}"
        );
    }
    assert!(seen["Claim"] >= 50, "few claims succeed: {seen:?}");
}
