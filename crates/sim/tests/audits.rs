//! Each cheat by name: who does it is slashed in time, nobody else is, and developers pay what was right.

use stoa_sim::{AuditPlan, Cheat, Outages, run_audits, run_plan, run_planted};

const SEEDS: u64 = 3;

fn holds(cheat: Cheat) {
    for seed in 0..SEEDS {
        if let Err(what) = run_audits(seed, cheat) {
            panic!("seed {seed}: {what}");
        }
    }
}

macro_rules! each {
    ($($name:ident: $cheat:ident),* $(,)?) => {
        $(#[test] fn $name() { holds(Cheat::$cheat) })*
    };
}

each! {
    network_without_a_cheat_slashes_nobody: Nobody,
    swapped_model_is_convicted_and_the_developer_refunded: SwapModel,
    now_and_then_altered_output_is_convicted_at_the_first_time: AlterOutput,
    overcounted_prompt_is_convicted: Overcount,
    charge_above_the_counts_takes_the_router_s_stake: Overcharge,
    job_posted_twice_takes_the_router_s_stake: DoublePost,
    withheld_leaf_file_is_the_router_s_fault_and_no_validator_s: WithholdLeaves,
    withheld_work_is_the_router_s_fault_and_no_provider_s: WithholdWork,
    receipt_that_no_provider_signed_takes_the_router_s_stake: Forge,
    router_that_credits_itself_with_more_loses_its_stake: OverpaySelf,
    router_that_gives_one_provider_s_pay_to_another_loses_its_stake: DropPay,
    router_that_shows_no_older_leaf_file_is_paid_nothing_and_pays_for_it: WithholdBase,
    router_that_keeps_a_reversed_charge_loses_its_stake: KeepReversed,
    router_that_serves_a_developer_beyond_its_allotment_loses_its_stake: OverIssue,
    router_that_leaves_its_seat_before_it_posts_a_wrong_root_loses_its_stake: LeaveAndPost,
    router_that_serves_two_of_three_costs_the_third_nothing: ServeSome,
    copied_verdict_earns_nothing: Copy,
    sleeping_validator_pays_and_holds_up_nobody: Sleep,
    validator_that_always_accuses_pays_and_no_provider_does: Accuse,
    validator_that_calls_all_good_pays_at_the_first_wrong_answer: Lazy,
}

/// Seeds of even numbers audit every job, those of odd numbers two in five.
#[test]
fn every_cheat_has_its_occasion_in_these_seeds_and_none_takes_longer_than_two_batches() {
    for cheat in Cheat::ALL {
        let harmless = matches!(cheat, Cheat::Nobody | Cheat::ServeSome);
        let outcome = run_audits(0, cheat).expect("holds");
        assert_eq!(outcome.batches_to_slash.is_none(), harmless, "{cheat:?}");
        assert!(outcome.batches_to_slash.unwrap_or_default() <= 2);
        assert!(outcome.audited > 0);
    }
}

#[test]
fn lazy_validator_loses_stake_within_500_planted_checks_and_nobody_else_does() {
    for (validators, lazy) in [(3, 1_000), (3, 100), (7, 300)] {
        for seed in 0..3 {
            let (planted, _) = run_planted(seed, validators, lazy).expect("the others are honest");
            assert!(planted.caught && planted.checks <= 500, "{planted:?}");
        }
    }
}

#[test]
fn plants_cost_nobody_anything_where_all_look() {
    let (planted, outcome) = run_planted(1, 3, 0).expect("all are honest");
    assert!(!planted.caught);
    assert!(outcome.plants >= 400 && outcome.convictions == 0);
    assert_eq!(
        planted.checks, outcome.plants,
        "all three sit on every panel"
    );
}

#[test]
fn missed_validation_without_fault_costs_nothing() {
    let outcome = run_plan(7, AuditPlan::honest(Outages::Short)).expect("holds");
    assert!(outcome.crashes + outcome.outages > 3, "{outcome:?}");
    assert_eq!(outcome.convictions, 0);
}

#[test]
fn outages_that_outlast_phases_cost_a_missed_duty_at_most_and_only_who_was_away() {
    for seed in 0..3 {
        let plan = AuditPlan {
            jobs: (5, 20),
            ..AuditPlan::honest(Outages::Long)
        };
        run_plan(seed, plan).unwrap_or_else(|what| panic!("seed {seed}: {what}"));
    }
}

#[test]
fn a_root_under_way_at_a_reversal_is_cancelled_and_costs_its_router_nothing() {
    let outcomes =
        (0..70).map(|seed| run_audits(seed, Cheat::SwapModel).expect("the router is honest"));
    let (bad, void) = outcomes.fold((0, 0), |(bad, void), outcome| {
        (bad + outcome.bad_sums, void + outcome.void)
    });
    assert!(void > 0, "none was under way in these seeds");
    assert_eq!(bad, 0);
}

#[test]
fn routers_whose_sums_are_wrong_are_found_out_by_their_sums() {
    for cheat in [
        Cheat::OverpaySelf,
        Cheat::DropPay,
        Cheat::KeepReversed,
        Cheat::OverIssue,
        Cheat::LeaveAndPost,
    ] {
        let bad: u64 = (0..SEEDS)
            .map(|seed| run_audits(seed, cheat).map_or(0, |o| o.bad_sums))
            .sum();
        assert!(bad >= SEEDS, "{cheat:?}: {bad}");
    }
}
