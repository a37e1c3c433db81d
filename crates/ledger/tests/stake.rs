//! Stake: minimums, unbonding, slashing.

use proptest::prelude::*;
use stoa_ledger::stake::{
    MAX_DEVELOPERS, Role, SlashOrder, StakeError, StakeEvent, StakeParams, StakeRegistry,
};
use stoa_types::{Address, Bps, Digest, NetworkProfile, StakeAmount, TokenAmount};

const ADMIN: Address = Address([0xad; 20]);
const SLASHER: Address = Address([0x51; 20]);
const UNBONDING: u64 = 604_800;

fn who(id: u8) -> Address {
    Address([id; 20])
}

fn tokens(whole: u128) -> StakeAmount {
    StakeAmount::from_units(whole * 10u128.pow(18))
}

fn registry() -> StakeRegistry {
    let text = NetworkProfile::builtin_text("stoa").expect("listed");
    let profile = NetworkProfile::parse(text).expect("valid");
    let params = StakeParams::from_profile(&profile, TokenAmount::from_units(100_000));
    let mut registry = StakeRegistry::new(params, ADMIN).expect("valid");
    registry.set_slasher(ADMIN, SLASHER).expect("by the admin");
    registry
}

fn order(fault: u8, offender: Address, bps: u16) -> SlashOrder {
    SlashOrder {
        fault_id: Digest([fault; 32]),
        offender,
        role: Role::Provider,
        severity: Bps::new(bps).expect("in range"),
        harmed: vec![(who(7), TokenAmount::from_units(5))],
        challenger: who(8),
    }
}

fn staked(amount: StakeAmount) -> StakeRegistry {
    let mut registry = registry();
    registry
        .stake(Role::Provider, who(1), amount)
        .expect("stakes");
    registry
}

#[test]
fn the_minimum_follows_the_larger_of_floor_throughput_and_one_job() {
    let mut registry = registry();
    let provider = |registry: &StakeRegistry| registry.minimum(Role::Provider, who(1));
    // 2 x 50 tokens of payment at 0.1 each.
    assert_eq!(provider(&registry), Ok(tokens(1_000)));
    assert_eq!(registry.minimum(Role::Router, who(1)), Ok(tokens(2_000)));
    // 10,000 tokens/s at 400,000 per million for 150 s: 600,000 units, below the floor of 50,000,000.
    registry.set_throughput(who(1), 10_000 * 400_000);
    assert_eq!(provider(&registry), Ok(tokens(1_000)));
    // A million tokens/s at the same price: 60,000,000 units, twice that at 100,000 each.
    registry.set_throughput(who(1), 1_000_000 * 400_000);
    assert_eq!(provider(&registry), Ok(tokens(1_200)));
    // One unit more of exposed value rounds up twice.
    registry.set_throughput(who(1), 1_000_000 * 400_000 + 1);
    assert_eq!(
        provider(&registry),
        Ok(StakeAmount::from_units(
            2 * 60_000_001 * 10u128.pow(18) / 100_000
        ))
    );
    registry
        .set_stake_price(ADMIN, TokenAmount::from_units(30_000))
        .expect("by the admin");
    let expected = (2 * 60_000_001 * 10u128.pow(18)).div_ceil(30_000);
    assert_eq!(provider(&registry), Ok(StakeAmount::from_units(expected)));
}

#[test]
fn one_job_at_the_lowest_sampling_rate_is_covered() {
    let text = NetworkProfile::builtin_text("stoa").expect("listed");
    let profile = NetworkProfile::parse(text).expect("valid");
    // 1,000,000 / 0.005 = 200,000,000, above every floor.
    let params = StakeParams::from_profile(&profile, TokenAmount::from_units(1_000_000));
    let registry = StakeRegistry::new(params, ADMIN).expect("valid");
    for role in [Role::Provider, Role::Router, Role::Validator] {
        assert_eq!(registry.minimum(role, who(1)), Ok(tokens(4_000)));
    }
}

#[test]
fn a_provider_is_active_from_the_minimum_on() {
    let mut registry = staked(StakeAmount::from_units(10u128.pow(21) - 1));
    assert_eq!(registry.is_active(Role::Provider, who(1)), Ok(false));
    registry
        .stake(Role::Provider, who(1), StakeAmount::from_units(1))
        .expect("stakes");
    assert_eq!(registry.is_active(Role::Provider, who(1)), Ok(true));
    assert_eq!(registry.is_active(Role::Router, who(1)), Ok(false));
}

#[test]
fn s4_stake_meets_fault_until_the_unbonding_is_over() {
    let mut registry = staked(tokens(100));
    let unbond = |registry: &mut StakeRegistry, amount, now| {
        registry.request_unbond(Role::Provider, who(1), amount, now)
    };
    unbond(&mut registry, tokens(60), 1_000).expect("active");
    assert_eq!(registry.slashable(Role::Provider, who(1)), tokens(100));
    // A second request starts the time of both again.
    unbond(&mut registry, tokens(10), 2_000).expect("active");
    let early = registry.withdraw(Role::Provider, who(1), 2_000 + UNBONDING - 1);
    assert_eq!(
        early,
        Err(StakeError::StillUnbonding {
            withdrawable_at: 2_000 + UNBONDING
        })
    );
    let before = registry.slashable(Role::Provider, who(1));
    registry
        .slash(SLASHER, &order(1, who(1), 5_000))
        .expect("first fault");
    assert_eq!(before, tokens(100));
    let held = registry.stake_of(Role::Provider, who(1));
    assert_eq!((held.active, held.unbonding), (tokens(0), tokens(50)));
    registry
        .withdraw(Role::Provider, who(1), 2_000 + UNBONDING)
        .expect("over");
    assert_eq!(
        registry.withdraw(Role::Provider, who(1), u64::MAX),
        Err(StakeError::NothingUnbonding)
    );
    registry.check_conservation().expect("sums hold");
}

#[test]
fn s1_slash_exact_in_the_registry() {
    let mut registry = staked(StakeAmount::from_units(1_009));
    let events = registry
        .slash(SLASHER, &order(1, who(1), 1_000))
        .expect("first fault");
    assert_eq!(registry.owed(who(7)), StakeAmount::from_units(40));
    assert_eq!(registry.owed(who(8)), StakeAmount::from_units(40));
    assert_eq!(
        registry.accounts().burned,
        StakeAmount::from_units(100 - 80)
    );
    let Some(StakeEvent::Slashed { sigma, .. }) = events.last() else {
        panic!("the slash itself is the last event");
    };
    assert_eq!(*sigma, StakeAmount::from_units(100));
    registry.collect(who(7)).expect("owed");
    assert_eq!(
        registry.collect(who(7)),
        Err(StakeError::NothingOwed { who: who(7) })
    );
    registry.check_conservation().expect("sums hold");
}

#[test]
fn a_share_without_a_recipient_is_burned() {
    let mut registry = staked(StakeAmount::from_units(1_000));
    let mut nobody = order(1, who(1), 10_000);
    nobody.harmed = vec![
        (Address::ZERO, TokenAmount::from_units(1)),
        (who(7), TokenAmount::from_units(3)),
    ];
    nobody.challenger = Address::ZERO;
    registry.slash(SLASHER, &nobody).expect("first fault");
    assert_eq!(registry.owed(who(7)), StakeAmount::from_units(300));
    assert_eq!(registry.accounts().burned, StakeAmount::from_units(700));
    registry.check_conservation().expect("sums hold");
}

#[test]
fn s2_slash_once_per_fault_and_only_by_the_slasher() {
    let mut registry = staked(tokens(10));
    let first = order(1, who(1), 1_000);
    assert_eq!(
        registry.slash(who(8), &first),
        Err(StakeError::NotAllowed { caller: who(8) })
    );
    registry.slash(SLASHER, &first).expect("first");
    let before = registry.clone();
    let again = registry.slash(SLASHER, &first);
    assert_eq!(
        again,
        Err(StakeError::AlreadySlashed {
            fault_id: first.fault_id
        })
    );
    let mut crowd = order(2, who(1), 1_000);
    crowd.harmed = vec![(who(7), TokenAmount::from_units(1)); MAX_DEVELOPERS + 1];
    assert!(registry.slash(SLASHER, &crowd).is_err());
    assert_eq!(
        registry.slash(SLASHER, &order(3, who(1), 0)),
        Err(StakeError::BadSeverity)
    );
    assert_eq!(registry, before);
}

#[derive(Debug, Clone)]
enum Step {
    Stake(u8, u8, u64),
    Unbond(u8, u8, u64),
    Withdraw(u8, u8),
    Slash {
        offender: u8,
        role: u8,
        fault: u8,
        bps: u16,
        harmed: Vec<(u8, u32)>,
        challenger: u8,
    },
    Collect(u8),
    Wait(u64),
}

fn any_step() -> impl Strategy<Value = Step> {
    let (who, role) = (|| 1u8..4, || 0u8..3);
    prop_oneof![
        3 => (role(), who(), 0u64..10_000).prop_map(|(r, w, n)| Step::Stake(r, w, n)),
        2 => (role(), who(), 0u64..10_000).prop_map(|(r, w, n)| Step::Unbond(r, w, n)),
        2 => (role(), who()).prop_map(|(r, w)| Step::Withdraw(r, w)),
        3 => (who(), role(), 0u8..20, 0u16..=10_000, prop::collection::vec((0u8..6, 0u32..100), 0..4), 0u8..6)
            .prop_map(|(offender, role, fault, bps, harmed, challenger)| Step::Slash { offender, role, fault, bps, harmed, challenger }),
        1 => who().prop_map(Step::Collect),
        2 => (0u64..2 * UNBONDING).prop_map(Step::Wait),
    ]
}

const ROLES: [Role; 3] = [Role::Provider, Role::Router, Role::Validator];

fn take(
    registry: &mut StakeRegistry,
    step: &Step,
    now: &mut u64,
) -> Result<Vec<StakeEvent>, StakeError> {
    let units = |n: &u64| StakeAmount::from_units(u128::from(*n));
    match step {
        Step::Stake(role, id, n) => registry.stake(ROLES[usize::from(*role)], who(*id), units(n)),
        Step::Unbond(role, id, n) => {
            registry.request_unbond(ROLES[usize::from(*role)], who(*id), units(n), *now)
        }
        Step::Withdraw(role, id) => registry.withdraw(ROLES[usize::from(*role)], who(*id), *now),
        Step::Slash {
            offender,
            role,
            fault,
            bps,
            harmed,
            challenger,
        } => {
            let mut order = order(*fault, who(*offender), *bps);
            order.role = ROLES[usize::from(*role)];
            order.harmed = harmed
                .iter()
                .map(|(id, charge)| (who(*id), TokenAmount::from_units(u128::from(*charge))))
                .collect();
            order.challenger = who(*challenger);
            registry.slash(SLASHER, &order)
        }
        Step::Collect(id) => registry.collect(who(*id)),
        Step::Wait(seconds) => {
            *now += seconds;
            Ok(Vec::new())
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn s1_s2_s3_stake_is_conserved_and_a_slash_is_exact_bounded_and_single(
        steps in prop::collection::vec(any_step(), 0..150),
    ) {
        let mut registry = registry();
        let mut now = 1_000;
        let mut faults = std::collections::BTreeSet::new();
        for step in &steps {
            let before = registry.clone();
            match take(&mut registry, step, &mut now) {
                Err(_) => prop_assert_eq!(&registry, &before, "a refused call changed something"),
                Ok(events) => {
                    if let Some(StakeEvent::Slashed { fault_id, offender, role, sigma, developer, challenger, burned, .. }) = events.last() {
                        prop_assert!(faults.insert(*fault_id), "slashed twice");
                        prop_assert_eq!(developer.units() + challenger.units() + burned.units(), sigma.units());
                        prop_assert!(*sigma <= before.slashable(*role, *offender));
                        let left = registry.slashable(*role, *offender).units();
                        prop_assert_eq!(left + sigma.units(), before.slashable(*role, *offender).units());
                        let awarded: u128 = events.iter().map(|event| match event {
                            StakeEvent::Awarded { amount, .. } => amount.units(),
                            _ => 0,
                        }).sum();
                        prop_assert_eq!(awarded + burned.units(), sigma.units());
                        prop_assert!(burned.units() * 5 >= sigma.units());
                    }
                }
            }
            registry.check_conservation().expect("sums hold after every call");
        }
    }
}
