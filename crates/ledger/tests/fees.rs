//! The rounding rules: who gets the rounding, and that parts sum to the whole.

use proptest::prelude::*;
use stoa_ledger::fees::{FeeError, FeeSchedule, SlashShares, Usage, charge, reserve, slash, split};
use stoa_types::{Bps, NetworkProfile, Price, StakeAmount, TokenAmount};

fn units(units: u128) -> TokenAmount {
    TokenAmount::from_units(units)
}

fn stake(units: u128) -> StakeAmount {
    StakeAmount::from_units(units)
}

fn usage(input: u64, output: u64, input_price: u128, output_price: u128) -> Usage {
    Usage {
        input_units: input,
        output_units: output,
        input_price: Price::per_million(units(input_price)),
        output_price: Price::per_million(units(output_price)),
    }
}

fn schedule() -> FeeSchedule {
    let text = NetworkProfile::builtin_text("stoa").expect("listed");
    FeeSchedule::from(&NetworkProfile::parse(text).expect("valid").fees)
}

const SLASH: SlashShares = SlashShares {
    developer: Bps::new(4_000).expect("in range"),
    challenger: Bps::new(4_000).expect("in range"),
};

#[test]
fn a_charge_is_floored_at_least_one_unit_and_never_above_the_reserve() {
    let most = units(1_000);
    assert_eq!(charge(&usage(1, 1, 999_999, 1_000_000), most), Ok(units(1)));
    assert_eq!(charge(&usage(2, 1, 999_999, 1_000_001), most), Ok(units(2)));
    assert_eq!(charge(&usage(1, 1, 1, 1), most), Ok(units(1)));
    assert_eq!(charge(&usage(1, 1, 0, 0), most), Ok(units(1)));
    assert_eq!(
        charge(&usage(0, 5_000, 0, 1_000_000), most),
        Ok(units(1_000))
    );
    assert_eq!(
        charge(&usage(1_000_000, 0, 1_000_000, 0), most),
        Ok(units(0))
    );
    assert_eq!(
        charge(&usage(u64::MAX, 1, u128::MAX, 0), most),
        Err(FeeError::TooLarge)
    );
}

#[test]
fn a_reserve_is_rounded_up_and_covers_the_least_charge() {
    assert_eq!(reserve(&usage(1, 1, 1, 0)), Ok(units(1)));
    assert_eq!(reserve(&usage(3, 0, 1_000_000, 0)), Ok(units(3)));
    assert_eq!(reserve(&usage(3, 1, 1_000_000, 1)), Ok(units(4)));
    assert_eq!(reserve(&usage(0, 5, 0, 0)), Ok(units(1)));
}

#[test]
fn splitting_lifetime_totals_and_subtracting_would_not_be_monotone() {
    let provider = |gross| split(units(gross), &schedule()).expect("small").provider;
    assert_eq!(provider(19_999), units(19_403));
    assert_eq!(provider(20_000), units(19_400));
}

#[test]
fn the_profile_s_fees_are_three_percent_in_four_parts() {
    let parts = split(units(1_000_000), &schedule()).expect("small");
    assert_eq!(parts.router, units(15_000));
    assert_eq!(parts.treasury, units(5_000));
    assert_eq!(parts.validators, units(5_000));
    assert_eq!(parts.buyback, units(5_000));
    assert_eq!(parts.provider, units(970_000));
}

#[test]
fn s1_slash_exact_40_40_20_with_the_remainder_burned() {
    let parts = slash(stake(9), SLASH, &[units(1)], true).expect("small");
    assert_eq!(parts.developers, [stake(3)]);
    assert_eq!(parts.challenger, stake(3));
    assert_eq!(parts.burned, stake(3));
    let nobody = slash(stake(10), SLASH, &[], false).expect("small");
    assert_eq!(nobody.burned, stake(10));
    let two = slash(stake(100), SLASH, &[units(1), units(2)], true).expect("small");
    assert_eq!(two.developers, [stake(13), stake(26)]);
    assert_eq!(two.burned, stake(21));
}

proptest! {
    #[test]
    fn the_final_charge_never_exceeds_the_reserve_of_the_most_it_may_use(
        input in 0u64..1 << 40, output in 0u64..1 << 20, used in 0u64..1 << 20,
        prices in (0u128..1 << 40, 0u128..1 << 40),
    ) {
        let most = reserve(&usage(input, output, prices.0, prices.1)).expect("fits");
        let uncapped = charge(&usage(input, used.min(output), prices.0, prices.1), units(u128::MAX)).expect("fits");
        prop_assert!(uncapped <= most);
    }

    #[test]
    fn m6_fees_exact_shares_sum_to_delta_and_none_exceeds_its_share(
        delta in 0u128..1 << 100, bps in (0u16..=500, 0u16..=170, 0u16..=170, 0u16..=160),
    ) {
        let share = |bps| Bps::new(bps).expect("small");
        let fees = FeeSchedule {
            router: share(bps.0), treasury: share(bps.1), validators: share(bps.2), buyback: share(bps.3),
        };
        let parts = split(units(delta), &fees).expect("fits");
        let all = [parts.router, parts.treasury, parts.validators, parts.buyback, parts.provider];
        prop_assert_eq!(TokenAmount::checked_sum(all), Some(units(delta)));
        for (part, bps) in all.iter().zip([bps.0, bps.1, bps.2, bps.3]) {
            prop_assert!(part.units() * 10_000 <= delta * u128::from(bps));
            prop_assert!((part.units() + 1) * 10_000 > delta * u128::from(bps));
        }
    }

    #[test]
    fn s1_slash_exact_for_any_charges(
        sigma in 0u128..1_000_000_000 * 10u128.pow(18),
        charges in prop::collection::vec(any::<u64>().prop_map(|c| units(u128::from(c))), 0..6),
        challenger in any::<bool>(),
    ) {
        let parts = slash(stake(sigma), SLASH, &charges, challenger).expect("fits");
        let given = StakeAmount::checked_sum(parts.developers.iter().copied()).expect("fits");
        prop_assert_eq!(given.units() + parts.challenger.units() + parts.burned.units(), sigma);
        prop_assert!(given.units() <= sigma * 4_000 / 10_000);
        let harmed = charges.iter().any(|charge| !charge.is_zero());
        if harmed && challenger {
            prop_assert!(parts.burned.units() * 10 >= sigma * 2);
            prop_assert!(parts.burned.units() * 10 < sigma * 2 + 10 * (2 + charges.len() as u128));
        }
        if !harmed { prop_assert!(given.is_zero()); }
    }

    /// Shares and charges so large that the product needs 256 bits: compared by reducing both to the same fraction.
    #[test]
    fn a_pro_rata_share_is_exact_beyond_128_bits(share in any::<u128>(), scale in 1u128..1 << 60, part in 0u128..1 << 60) {
        let (own, other) = (units(part * scale), units(((1 << 60) - part) * scale));
        let whole = SlashShares { developer: Bps::new(10_000).expect("whole"), challenger: Bps::new(0).expect("none") };
        let sigma = stake(share / 10_000);
        let parts = slash(sigma, whole, &[own, other], false).expect("fits");
        // share x part / 2^60 in two halves that fit.
        let (high, low) = (sigma.units() >> 60, sigma.units() & ((1 << 60) - 1));
        prop_assert_eq!(parts.developers[0].units(), high * part + ((low * part) >> 60));
    }
}
