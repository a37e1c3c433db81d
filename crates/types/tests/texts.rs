//! One value, one text: what is printed is read back, what is read is printed as it was, and no text is a panic.

use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use stoa_types::*;

/// Reading JSON never panics; what was read is written as one text, which is read as the same value.
fn json<T: Serialize + DeserializeOwned + PartialEq + Debug>(text: &str) {
    if let Ok(value) = serde_json::from_str::<T>(text) {
        let canonical = serde_json::to_string(&value).expect("writes");
        let again: T = serde_json::from_str(&canonical).expect("our own text");
        assert_eq!(again, value);
    }
}

/// As [`json`], and only the canonical text is read at all.
fn strict<T: Serialize + DeserializeOwned + PartialEq + Debug>(text: &str) {
    if let Ok(value) = serde_json::from_str::<T>(text) {
        assert_eq!(serde_json::to_string(&value).expect("writes"), text);
    }
}

fn sampling() -> impl Strategy<Value = SamplingParameters> {
    let stop = prop::collection::vec("[ab]{0,3}", 0..4);
    let bias = prop::collection::btree_map(0u32..3, (-2i32..3).prop_map(SignedQ16), 0..3);
    let integers = (0u32..3, 0u32..3, 0u64..3, 0u32..3);
    let penalties = (-1i32..2, -1i32..2, prop::option::of(0u8..2));
    let rest = (penalties, "[ab]{0,2}");
    (integers, stop, bias, rest).prop_map(|(integers, stop, logit_bias, (penalties, grammar))| {
        let (temperature, min_p, seed, most) = integers;
        SamplingParameters {
            temperature: Q16(temperature),
            min_p: Q16(min_p),
            seed,
            max_output_tokens: most,
            stop,
            logit_bias,
            presence_penalty: SignedQ16(penalties.0),
            frequency_penalty: SignedQ16(penalties.1),
            logprobs: penalties.2,
            grammar,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn amounts_are_read_back_from_both_their_texts(units in any::<u128>(), small in any::<u32>()) {
        for units in [units, u128::from(small)] {
            let (token, stake) = (TokenAmount::from_units(units), StakeAmount::from_units(units));
            prop_assert_eq!(TokenAmount::parse(&token.to_string()), Ok(token));
            prop_assert_eq!(StakeAmount::parse(&stake.to_string()), Ok(stake));
            strict::<TokenAmount>(&format!("\"{units}\""));
            let text = serde_json::to_string(&token).expect("writes");
            prop_assert_eq!(serde_json::from_str::<TokenAmount>(&text).expect("reads"), token);
        }
    }

    #[test]
    fn no_text_is_a_panic_and_a_decimal_is_read_exactly(text in "[0-9]{0,45}[.]?[0-9]{0,20}|\\PC{0,40}") {
        for (read, decimals) in [
            (TokenAmount::parse(&text).map(TokenAmount::units), 6u32),
            (StakeAmount::parse(&text).map(StakeAmount::units), 18),
        ] {
            let Ok(units) = read else { continue };
            let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
            let digits = format!("{whole}{fraction:0<width$}", width = decimals as usize);
            let digits = digits.trim_start_matches('0');
            prop_assert_eq!(units.to_string(), if digits.is_empty() { "0" } else { digits });
        }
        let _ = (text.parse::<Address>(), text.parse::<Digest>(), text.parse::<Signature>(), text.parse::<Tier>());
        let _ = (NetworkProfile::parse(&text), Region::try_from(text.clone()));
        strict::<TokenAmount>(&text);
        strict::<TokenAmount>(&format!("\"{text}\""));
    }

    #[test]
    fn ids_have_one_text(bytes in any::<[u8; 32]>(), signature in prop::collection::vec(any::<u8>(), 65), text in "(0x|0X|)[0-9a-fA-F]{0,70}") {
        let digest = Digest(bytes);
        prop_assert_eq!(digest.to_string().parse::<Digest>(), Ok(digest));
        let signature = Signature(signature.try_into().expect("65 bytes"));
        prop_assert_eq!(signature.to_string().parse::<Signature>(), Ok(signature));
        for text in [text, format!("0x{}", &digest.to_string()[2..].to_uppercase())] {
            if let Ok(read) = text.parse::<Digest>() {
                prop_assert_eq!(read.to_string(), text.clone());
            }
            if let Ok(read) = text.parse::<Address>() {
                prop_assert_eq!(read.to_string(), text);
            }
        }
    }

    #[test]
    fn arbitrary_json_is_no_panic(text in "\\PC{0,60}|[\\[\\]{}\",:0-9a-z_ ]{0,60}") {
        json::<Ticket>(&text);
        json::<SignedTicket>(&text);
        json::<SignedReceipt>(&text);
        json::<SamplingParameters>(&text);
        json::<Hardware>(&text);
        json::<Logprobs>(&text);
        strict::<Region>(&text);
        strict::<Digest>(&text);
        strict::<Tier>(&text);
        strict::<PaidBy>(&text);
    }

    #[test]
    fn shares_are_exact_floors_or_nothing(units in any::<u128>(), bps in 0u16..=10_000) {
        let bps = Bps::new(bps).expect("in range");
        match TokenAmount::from_units(units).share(bps) {
            Some(share) => {
                let scaled = units * u128::from(bps.get());
                prop_assert!(share.units() * 10_000 <= scaled && scaled - share.units() * 10_000 < 10_000);
            }
            None => prop_assert!(units.checked_mul(u128::from(bps.get())).is_none()),
        }
        prop_assert!(Bps::new(10_001).is_none());
    }

    #[test]
    fn two_parameters_share_their_canonical_bytes_only_when_they_are_equal(a in sampling(), b in sampling()) {
        prop_assert_eq!(a == b, a.canonical_bytes() == b.canonical_bytes());
        let text = serde_json::to_string(&a).expect("writes");
        prop_assert_eq!(serde_json::from_str::<SamplingParameters>(&text).expect("reads"), a);
    }

    #[test]
    fn tiers_come_back_from_their_numbers_and_words(code in any::<u8>()) {
        if let Some(tier) = Tier::from_code(code) {
            prop_assert_eq!(tier.code(), code);
            prop_assert_eq!(tier.to_string().parse::<Tier>().expect("its own word"), tier);
            prop_assert_eq!(serde_json::to_string(&tier).expect("writes"), format!("\"{tier}\""));
        }
    }

    #[test]
    fn fixed_point_is_the_nearest_value(value in 0.0f64..=65_535.0) {
        let fixed = Q16::from_f64(value).expect("in range");
        prop_assert!((fixed.to_f64() - value).abs() <= 0.5 / 65_536.0);
        prop_assert_eq!(Q16::from_f64(fixed.to_f64()), Some(fixed));
    }
}

#[test]
fn a_named_parameter_that_nobody_acts_on_is_refused() {
    let text = r#"{"temperature":0,"min_p":0,"seed":1,"max_output_tokens":1,"stop":[],"top_k":5}"#;
    assert!(serde_json::from_str::<SamplingParameters>(text).is_err());
    let twice =
        r#"{"temperature":0,"temperature":1,"min_p":0,"seed":1,"max_output_tokens":1,"stop":[]}"#;
    assert!(serde_json::from_str::<SamplingParameters>(twice).is_err());
}
