//! The decision: what it prefers, whom it leaves out, and that its log gives the same choice again.

use proptest::prelude::*;
use std::collections::BTreeMap;
use stoa_market::{
    Candidate, Constraints, Decision, NoMatch, PPM, Rule, Score, Snapshot, Weights, decide,
    draw_seed, price_score,
};
use stoa_types::{Address, Bps, Digest, NetworkProfile, Price, Region, Tier, TokenAmount};

const SEED: Digest = Digest([7; 32]);

fn weights() -> Weights {
    let profile = NetworkProfile::parse(NetworkProfile::builtin_text("stoa").expect("listed"));
    Weights::from(&profile.expect("valid").routing)
}

fn price(units: u128) -> Price {
    Price::per_million(TokenAmount::from_units(units))
}

fn candidate(id: u8) -> Candidate {
    Candidate {
        provider: Address([id; 20]),
        input_price: price(100_000),
        output_price: price(400_000),
        ttft_ms: 200,
        ok: 100,
        total: 100,
        reputation_ppm: 900_000,
        region: Region(*b"XA"),
        tier: Tier::Exact,
        free_slots: 2,
        warm: true,
        online: true,
        context: 4_096,
    }
}

fn snapshot(candidates: Vec<Candidate>) -> Snapshot {
    Snapshot::new(candidates, weights(), 500, 200)
}

fn choose(candidates: Vec<Candidate>) -> Decision {
    decide(&snapshot(candidates), &Constraints::default(), SEED).expect("somebody matches")
}

/// A candidate that differs from `candidate(id)` by `change`.
fn with(id: u8, change: impl FnOnce(&mut Candidate)) -> Candidate {
    let mut candidate = candidate(id);
    change(&mut candidate);
    candidate
}

#[test]
fn a_clearly_better_price_latency_reliability_or_reputation_wins() {
    let worse: [fn(&mut Candidate); 4] = [
        |c| c.output_price = price(4_000_000),
        |c| c.ttft_ms = 2_000,
        |c| c.ok = 0,
        |c| c.reputation_ppm = 200_000,
    ];
    for worsen in worse {
        for (good, bad) in [(1, 2), (2, 1)] {
            let decision = choose(vec![candidate(good), with(bad, worsen)]);
            assert_eq!(decision.choice(), Address([good; 20]));
            assert_eq!(decision.ranking.len(), 2);
        }
    }
}

#[test]
fn a_warm_candidate_goes_before_a_better_cold_one() {
    let cold = with(1, |c| c.warm = false);
    let warm = with(2, |c| c.ttft_ms = 5_000);
    let decision = choose(vec![cold, warm]);
    assert_eq!(decision.ranking, [Address([2; 20]), Address([1; 20])]);
}

#[test]
fn a_candidate_with_room_for_the_request_goes_before_a_better_one_without() {
    let short = |id| with(id, |c| (c.context, c.input_price) = (256, price(50_000)));
    let cold = with(3, |c| (c.context, c.warm) = (1_000, false));
    let all = vec![short(1), short(2), cold];
    let order = |room, all: &[Candidate]| {
        let snapshot = snapshot(all.to_vec()).needing(room);
        let decision = decide(&snapshot, &Constraints::default(), SEED).expect("matches");
        let json = serde_json::to_string(&decision).expect("serializes");
        let read: Decision = serde_json::from_str(&json).expect("reads back");
        assert_eq!(read.replay(), Ok(()));
        decision.ranking
    };
    assert_eq!(order(257, &all)[0], Address([3; 20]));
    assert_eq!(order(257, &all).len(), 3, "the others stay to be tried");
    // Where all have room it changes nothing; where nobody has, the longest goes first, and near ones are alike.
    for room in [0, 256] {
        assert_eq!(order(room, &all)[2], Address([3; 20]), "{room}");
    }
    assert_eq!(order(1_001, &all)[0], Address([3; 20]));
    let near = with(2, |c| c.context = 500);
    let alike = [with(1, |c| c.context = 1_000), near.clone()];
    let ranked = order(1_001, &alike);
    assert_eq!(order(0, &alike), ranked);
    let one_token = with(3, |c| (c.context, c.input_price) = (1, price(1)));
    assert_eq!(order(1_001, &[one_token, near])[1], Address([3; 20]));
    // Nobody keeps the others from every call by a context that is only claimed.
    let claims = with(4, |c| (c.context, c.ok, c.total) = (u64::MAX, 0, 1));
    let newcomer = with(5, |c| (c.context, c.ok, c.total) = (u64::MAX, 0, 0));
    assert_eq!(order(257, &[short(1), claims.clone()])[0], Address([1; 20]));
    assert_eq!(
        order(257, &[short(1), claims, newcomer])[0],
        Address([5; 20])
    );
}

/// A request of 500 to which all of `short` are too short, with one whose context is `long`.
fn with_room(short: Vec<Candidate>, long: impl FnOnce(&mut Candidate)) -> Decision {
    let long = with(9, |c| {
        c.context = u64::MAX;
        long(c);
    });
    let snapshot = snapshot([short, vec![long]].concat()).needing(500);
    decide(&snapshot, &Constraints::default(), SEED).expect("matches")
}

fn times(c: &mut Candidate, percent: u128) {
    for asked in [&mut c.input_price, &mut c.output_price] {
        *asked = price(asked.amount_per_million().units() * percent / 100);
    }
}

#[test]
fn a_longer_context_is_worth_half_the_median_more_and_no_more() {
    let short = |count: u8| {
        (1..=count)
            .map(|id| with(id, |c| c.context = 256))
            .collect()
    };
    let first = |count, percent| {
        with_room(short(count), |c| times(c, percent)).choice() == Address([9; 20])
    };
    assert!(first(3, 150));
    assert!(!first(3, 151) && !first(3, 900));
    // The median of two is the middle between them.
    assert!(first(1, 299));
    assert!(!first(1, 301) && !first(1, 900));
    // Price and score decide then: where it is better in all else and little dearer it may still be first.
    let slow = |id| {
        with(id, |c| {
            (c.context, c.ttft_ms, c.ok, c.reputation_ppm) = (256, 5_000, 51, 500_000)
        })
    };
    let better = with_room((1..=3).map(slow).collect(), |c| times(c, 151));
    assert_eq!(better.choice(), Address([9; 20]));
    assert!(!better.scores.iter().any(|score| score.behind));
}

#[test]
fn a_context_that_nobody_would_pay_for_makes_no_other_too_short() {
    // Nobody cheap has room for 500: who offers much less than another is behind as if the dear one were not there.
    let offers = |context| move |c: &mut Candidate| c.context = context;
    let others = vec![
        with(1, offers(1)),
        with(2, offers(400)),
        with(3, offers(400)),
    ];
    let decision = with_room(others, |c| times(c, 900));
    let behind = |id| {
        decision
            .scores
            .iter()
            .any(|s| s.provider == Address([id; 20]) && s.behind)
    };
    assert_eq!([1, 2, 3, 9].map(behind), [true, false, false, true]);
}

#[test]
fn a_record_of_before_room_had_a_price_replays() {
    let short = vec![with(1, |c| c.context = 256), with(2, |c| c.context = 256)];
    let mut snapshot = with_room(short, |c| times(c, 900)).snapshot;
    snapshot.room_cost_bps_max = 0;
    let before = decide(&snapshot, &Constraints::default(), SEED).expect("matches");
    assert_eq!(
        before.choice(),
        Address([9; 20]),
        "room was worth any price"
    );
    let json = serde_json::to_string(&before).expect("serializes");
    assert!(!json.contains("room_cost"));
    let read: Decision = serde_json::from_str(&json).expect("reads back");
    assert_eq!(read.replay(), Ok(()));
}

#[test]
fn a_record_of_before_there_were_contexts_replays() {
    let decision = choose(vec![with(1, |c| c.context = 0), with(2, |c| c.context = 0)]);
    let json = serde_json::to_string(&decision).expect("serializes");
    for word in ["context", "room", "behind"] {
        assert!(!json.contains(word), "{word}: {json}");
    }
    let read: Decision = serde_json::from_str(&json).expect("reads back");
    assert_eq!(read.replay(), Ok(()));
    let mut denied = decide(
        &snapshot(vec![candidate(1), with(2, |c| c.context = 9)]).needing(10),
        &Constraints::default(),
        SEED,
    )
    .expect("matches");
    denied.scores[1].behind = false;
    assert!(denied.replay().is_err());
}

#[test]
fn near_ties_are_drawn_by_the_seed_and_spread_over_the_candidates() {
    let mut wins = BTreeMap::new();
    for round in 0..200u8 {
        let seed = draw_seed(Digest([round; 32]), Digest::ZERO);
        let all: Vec<_> = (1..=4).map(candidate).collect();
        let decision = decide(&snapshot(all), &Constraints::default(), seed).expect("matches");
        *wins.entry(decision.choice()).or_insert(0) += 1;
    }
    assert_eq!(wins.len(), 4);
    assert!(wins.values().all(|count| *count > 20), "{wins:?}");
}

#[test]
fn scores_are_those_of_the_definition() {
    // Costs 1 : 2 : 4 with the median 2: P is full at half the median, one half at it, a quarter at twice.
    let cheap = with(1, |c| {
        (c.input_price, c.output_price) = (price(100), price(100))
    });
    let middle = with(2, |c| {
        (c.input_price, c.output_price) = (price(200), price(200))
    });
    let dear = with(3, |c| {
        (c.input_price, c.output_price) = (price(400), price(400))
    });
    let decision = choose(vec![dear, cheap, middle]);
    let prices: Vec<_> = decision.scores.iter().map(|score| score.price).collect();
    assert_eq!(prices, [1_000_000, 500_000, 250_000]);
    assert_eq!(decision.reference_cost, 200 * 700);
    let first = &decision.scores[0];
    assert_eq!(first.latency, 1_000_000);
    assert_eq!(first.reliability, 1_000_000 * 101 / 102);
    assert_eq!(first.reputation, 900_000);
    // (3000 x 1,000,000 + 3000 x 1,000,000 + 2000 x 990,196 + 2000 x 900,000) / 10,000
    assert_eq!(first.total, 978_039);
}

#[test]
fn each_rule_excludes_under_its_own_name() {
    let constraints = Constraints {
        tier_min: Some(Tier::Exact),
        output_price_max: Some(price(500_000)),
        regions_exclude: [Region(*b"XB")].into(),
        providers_ignore: [Address([5; 20])].into(),
        ..Constraints::default()
    };
    let candidates = vec![
        candidate(1),
        with(2, |c| c.online = false),
        with(3, |c| c.tier = Tier::Statistical),
        with(4, |c| c.region = Region(*b"XB")),
        candidate(5),
        with(6, |c| c.reputation_ppm = 199_999),
        with(7, |c| c.output_price = price(500_001)),
        with(8, |c| c.free_slots = 0),
    ];
    let decision = decide(&snapshot(candidates), &constraints, SEED).expect("one matches");
    assert_eq!(decision.ranking, [Address([1; 20])]);
    let rules: Vec<_> = decision
        .excluded
        .iter()
        .map(|(_, rule)| rule.as_str())
        .collect();
    assert_eq!(
        rules,
        [
            "offline",
            "tier",
            "region",
            "provider",
            "reputation",
            "price",
            "busy"
        ]
    );
}

#[test]
fn the_cost_ceiling_excludes_only_where_not_even_one_token_fits() {
    let afford = |units| Constraints {
        cost_max: Some(TokenAmount::from_units(units)),
        ..Constraints::default()
    };
    // 500 x 100,000 + 400,000 = 50,400,000: 51 units with one token of output.
    let one = || snapshot(vec![candidate(1)]);
    assert!(decide(&one(), &afford(51), SEED).is_ok());
    assert!(matches!(
        decide(&one(), &afford(50), SEED),
        Err(NoMatch::PriceCeiling { .. })
    ));
}

#[test]
fn nobody_matches_for_the_reason_that_helps_the_caller() {
    let fail = |candidates, constraints: &Constraints| {
        decide(&snapshot(candidates), constraints, SEED).expect_err("nobody matches")
    };
    let free = Constraints::default();
    let offline = || with(1, |c| c.online = false);
    assert_eq!(fail(vec![], &free), NoMatch::NoneOnline);
    assert_eq!(fail(vec![offline()], &free), NoMatch::NoneOnline);

    let tee = Constraints {
        tier_min: Some(Tier::Tee),
        ..Constraints::default()
    };
    let counts = BTreeMap::from([(Rule::Offline, 1), (Rule::Tier, 2)]);
    assert_eq!(
        fail(vec![offline(), candidate(2), candidate(3)], &tee),
        NoMatch::PolicyExcludes { excluded: counts }
    );

    let ceiling = Constraints {
        output_price_max: Some(price(1)),
        ..Constraints::default()
    };
    let busy_and_dear = with(2, |c| {
        c.free_slots = 0;
        c.output_price = price(300_000);
    });
    let wrong_region_and_cheap = with(3, |c| {
        c.region = Region(*b"XB");
        c.output_price = price(2);
    });
    let only_here = Constraints {
        regions_only: [Region(*b"XA")].into(),
        ..ceiling
    };
    // The busy one counts for the price, the one elsewhere does not.
    assert_eq!(
        fail(
            vec![candidate(1), busy_and_dear, wrong_region_and_cheap],
            &only_here
        ),
        NoMatch::PriceCeiling {
            lowest: price(300_000)
        }
    );

    // One is too dear, the other only busy: waiting helps.
    let most = Constraints {
        output_price_max: Some(price(400_000)),
        ..Constraints::default()
    };
    let busy = with(1, |c| c.free_slots = 0);
    let dear = with(2, |c| c.output_price = price(400_001));
    assert_eq!(
        fail(vec![busy, dear], &most),
        NoMatch::AllBusy { matching: 1 }
    );
}

#[test]
fn a_tampered_log_does_not_replay() {
    let decision = choose((1..=3).map(candidate).collect());
    assert_eq!(decision.replay(), Ok(()));
    let mut swapped = decision.clone();
    swapped.ranking.reverse();
    assert!(swapped.replay().is_err());
    let mut reseeded = decision.clone();
    reseeded.seed = Digest([8; 32]);
    assert!(reseeded.replay().is_err());
    let mut hidden = decision;
    hidden.snapshot.candidates.remove(0);
    assert!(hidden.replay().is_err());
}

prop_compose! {
    fn any_candidate()(
        id in 1u8..40,
        prices in (0u128..2_000_000, prop_oneof![4 => 0u128..4_000_000, 1 => Just(u128::MAX)]),
        ttft_ms in prop_oneof![0u64..5_000, Just(u64::MAX)],
        (ok, total) in (0u32..1_200, 0u32..1_000),
        reputation_ppm in 0u32..1_100_000,
        region in prop_oneof![Just(Region(*b"XA")), Just(Region(*b"XB"))],
        tier in (0u8..5).prop_map(|code| Tier::from_code(code).expect("a tier")),
        (free_slots, warm, online) in (0u32..3, any::<bool>(), any::<bool>()),
        context in prop_oneof![Just(0u64), 1u64..2_000, Just(u64::MAX)],
    ) -> Candidate {
        Candidate {
            provider: Address([id; 20]),
            input_price: price(prices.0),
            output_price: price(prices.1),
            ttft_ms, ok, total, reputation_ppm, region, tier, free_slots, warm, online, context,
        }
    }
}

fn any_constraints() -> impl Strategy<Value = Constraints> {
    (
        prop::option::of(Just(Tier::Exact)),
        prop::option::of((0u128..4_000_000).prop_map(price)),
        prop::option::of((0u128..2_000).prop_map(TokenAmount::from_units)),
        any::<bool>(),
    )
        .prop_map(|(tier_min, output_price_max, cost_max, here)| Constraints {
            tier_min,
            output_price_max,
            cost_max,
            regions_only: here.then_some(Region(*b"XA")).into_iter().collect(),
            ..Constraints::default()
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn the_order_of_candidates_changes_nothing(
        mut candidates in prop::collection::vec(any_candidate(), 0..20),
        constraints in any_constraints(),
        turn in 0usize..20,
    ) {
        let decision = decide(&snapshot(candidates.clone()), &constraints, SEED);
        candidates.reverse();
        let middle = turn.min(candidates.len());
        candidates.rotate_left(middle);
        let mut unordered = snapshot(Vec::new());
        unordered.candidates = candidates;
        prop_assert_eq!(decide(&unordered, &constraints, SEED), decision);
    }

    #[test]
    fn everybody_is_scored_in_range_or_left_out_by_a_rule_and_the_log_replays(
        candidates in prop::collection::vec(any_candidate(), 0..20),
        constraints in any_constraints(),
        room in prop_oneof![Just(0u64), 1u64..2_000],
    ) {
        let snapshot = snapshot(candidates).needing(room);
        let known = snapshot.candidates.len();
        match decide(&snapshot, &constraints, SEED) {
            Ok(decision) => {
                prop_assert_eq!(decision.scores.len() + decision.excluded.len(), known);
                prop_assert_eq!(decision.ranking.len(), decision.scores.len());
                for score in &decision.scores {
                    for part in [score.price, score.latency, score.reliability, score.reputation, score.total] {
                        prop_assert!(part <= PPM);
                    }
                    prop_assert!(decision.ranking.contains(&score.provider));
                }
                let group = |s: &Score| (s.behind, !s.warm);
                let first = decision.scores.iter().map(group).min().expect("somebody");
                let best = decision.scores.iter().filter(|s| group(s) == first)
                    .map(|s| s.total).max().expect("somebody");
                let chosen = decision.scores.iter().find(|s| s.provider == decision.choice()).expect("scored");
                prop_assert!(u64::from(chosen.total) * 10_000 >= u64::from(best) * 9_500);
                let json = serde_json::to_string(&decision).expect("serializes");
                let read: Decision = serde_json::from_str(&json).expect("reads back");
                prop_assert_eq!(read.replay(), Ok(()));
                prop_assert_eq!(read, decision);
            }
            Err(NoMatch::NoneOnline) => prop_assert!(snapshot.candidates.iter().all(|c| !c.online)),
            Err(NoMatch::PolicyExcludes { excluded }) => {
                prop_assert_eq!(excluded.values().map(|n| *n as usize).sum::<usize>(), known);
            }
            Err(NoMatch::PriceCeiling { lowest }) => {
                prop_assert!(snapshot.candidates.iter().any(|c| c.output_price == lowest));
            }
            Err(NoMatch::AllBusy { matching }) => prop_assert!(matching > 0),
        }
    }

    #[test]
    fn undercutting_below_half_the_median_gains_nothing(
        others in prop::collection::vec(1_000u128..1_000_000, 2..12),
        cut in 0u128..1_000,
    ) {
        // An odd number in all, so that the median does not move when the lowest price falls further.
        let others = &others[..others.len() / 2 * 2];
        let mut sorted = others.to_vec();
        sorted.sort_unstable();
        let offer = |id: usize, units| with(u8::try_from(id).expect("few"), |c| {
            c.input_price = price(units);
            c.output_price = price(units);
        });
        let decide_at = |own| {
            let mut all: Vec<_> = others.iter().enumerate().map(|(id, units)| offer(id + 2, *units)).collect();
            all.push(offer(1, own));
            choose(all)
        };
        // With the own price below all others, the median is the lower middle one of the others.
        let half = sorted[(sorted.len() - 1) / 2] / 2;
        let own = half.min(sorted[0]);
        let (at_half, below) = (decide_at(own), decide_at(own.saturating_sub(cut)));
        prop_assert_eq!(at_half.scores, below.scores);
        prop_assert_eq!(at_half.ranking, below.ranking);
    }

    #[test]
    fn a_lower_price_never_scores_less(a in any::<u128>(), b in any::<u128>(), reference in any::<u128>()) {
        let (low, high) = (a.min(b), a.max(b));
        prop_assert!(price_score(low, reference) >= price_score(high, reference));
        prop_assert!(price_score(low, reference) <= PPM);
    }
}

#[test]
fn a_share_of_all_weights_keeps_the_total_in_range() {
    let all_on_price = Weights {
        price: Bps::new(10_000).expect("whole"),
        latency: Bps::new(0).expect("none"),
        reliability: Bps::new(0).expect("none"),
        reputation: Bps::new(0).expect("none"),
        ..weights()
    };
    let snapshot = Snapshot::new([candidate(1)], all_on_price, 1, 1);
    let decision = decide(&snapshot, &Constraints::default(), SEED).expect("matches");
    assert_eq!(decision.scores[0].total, 500_000);
}
