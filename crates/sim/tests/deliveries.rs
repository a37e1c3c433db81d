//! Claims of non-delivery by name: who vanishes or lies is slashed, and nobody else is.

use stoa_sim::{Trick, run_deliveries};

const SEEDS: u64 = 20;

fn holds(trick: Trick) -> Vec<stoa_sim::DeliveryOutcome> {
    let run = |seed| match run_deliveries(seed, trick) {
        Ok(outcome) => outcome,
        Err(what) => panic!("seed {seed}: {what}"),
    };
    (0..SEEDS).map(run).collect()
}

#[test]
fn provider_that_accepts_and_vanishes_is_slashed_once_within_two_days_twenty_of_twenty_times() {
    for outcome in holds(Trick::AcceptAndVanish) {
        assert!(outcome.hours_to_slash.is_some_and(|hours| hours <= 48));
        assert!(outcome.punished >= 1 && outcome.slashes == 1, "{outcome:?}");
    }
}

#[test]
fn providers_that_are_away_for_less_than_a_day_are_never_slashed() {
    let outcomes = holds(Trick::Nobody);
    let sum = |of: fn(&stoa_sim::DeliveryOutcome) -> u64| outcomes.iter().map(of).sum::<u64>();
    assert_eq!(sum(|o| o.slashes + o.punished + o.refuted), 0);
    assert!(sum(|o| o.answered) > 0 && sum(|o| o.outages) > 0);
}

#[test]
fn router_that_claims_what_it_signed_for_pays() {
    for outcome in holds(Trick::ClaimDelivered) {
        assert!(outcome.refuted >= 1 && outcome.punished == 0, "{outcome:?}");
    }
}

#[test]
fn router_that_keeps_deliveries_to_itself_slashes_nobody_and_loses_deposits() {
    for outcome in holds(Trick::KeepDelivery) {
        assert!(outcome.answered >= 1, "{outcome:?}");
        assert_eq!(outcome.slashes, 0);
    }
}
