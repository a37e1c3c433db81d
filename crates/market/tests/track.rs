//! What a router remembers of a provider.

use stoa_market::track::{Latency, Outcome, Reliability, Reputation};
use stoa_types::Timestamp;

#[test]
fn reliability_counts_the_last_thousand_jobs_of_one_day() {
    let mut seen = Reliability::default();
    for second in 0..1_500 {
        seen.observe(Timestamp::from_secs(second), second >= 500);
    }
    let last = Timestamp::from_secs(1_499);
    assert_eq!(seen.counts(last), (1_000, 1_000));
    seen.observe(last, false);
    assert_eq!(seen.counts(last), (999, 1_000));
    let next_day = Timestamp::from_secs(86_400 + 1_000);
    assert_eq!(seen.counts(next_day), (500 - 1 + 1, 501));
    assert_eq!(seen.counts(Timestamp::from_secs(400_000)), (0, 0));
}

#[test]
fn latency_starts_at_the_first_observation_and_settles_on_a_constant() {
    let mut latency = Latency::default();
    assert_eq!(latency.predicted_ms(), None);
    latency.observe(800);
    assert_eq!(latency.predicted_ms(), Some(800));
    latency.observe(0);
    assert_eq!(latency.predicted_ms(), Some(700));
    for _ in 0..200 {
        latency.observe(120);
    }
    assert_eq!(latency.predicted_ms(), Some(121));
    latency.observe(u64::MAX);
    assert!(latency.predicted_ms().is_some_and(|ms| ms < u64::MAX / 2));
}

#[test]
fn reputation_is_slow_to_earn_and_quick_to_lose() {
    let mut reputation = Reputation::default();
    assert_eq!(reputation.ppm(), 500_000);
    reputation.observe(Outcome::Good, true);
    assert_eq!(reputation.ppm(), 500_000 + 500_000 / 64);
    let (mut earned, mut jobs) = (reputation, 1);
    while earned.ppm() < 900_000 {
        earned.observe(Outcome::Good, true);
        jobs += 1;
    }
    assert_eq!(jobs, 103);
    let before = earned.ppm();
    earned.observe(Outcome::Bad, true);
    assert_eq!(earned.ppm(), before - before / 8);
    earned.observe(Outcome::Fraud, true);
    assert_eq!(earned.ppm(), 0);
}

#[test]
fn reputation_never_leaves_its_range() {
    let mut reputation = Reputation::default();
    for _ in 0..5_000 {
        reputation.observe(Outcome::Good, false);
        assert!(reputation.ppm() <= 1_000_000);
    }
    assert!(reputation.ppm() > 999_900);
    for _ in 0..5_000 {
        reputation.observe(Outcome::Bad, false);
    }
    assert!(reputation.ppm() < 8);
}

#[test]
fn newcomers_and_doubtful_providers_are_sampled_most() {
    let mut reputation = Reputation::default();
    for _ in 0..199 {
        reputation.observe(Outcome::Good, true);
        assert_eq!(reputation.sampling_bps(), 1_000);
    }
    reputation.observe(Outcome::Good, true);
    let settled = reputation.sampling_bps();
    assert!((50..120).contains(&settled), "{settled}");
    for _ in 0..10 {
        reputation.observe(Outcome::Bad, true);
    }
    assert_eq!(reputation.sampling_bps(), 1_000);
    let mut unverified = Reputation::default();
    for _ in 0..1_000 {
        unverified.observe(Outcome::Good, false);
    }
    assert_eq!(unverified.sampling_bps(), 1_000);
}
