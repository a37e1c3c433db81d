//! The receipt file as an adversary sees it.

use proptest::prelude::*;
use stoa_crypto::*;
use stoa_types::*;
use stoa_verify::*;

fn bundle() -> Bundle {
    let (provider, router) = (
        SecretKey::for_tests("provider"),
        SecretKey::for_tests("router"),
    );
    let vault = SecretKey::for_tests("vault").address();
    let parameters = SamplingParameters {
        temperature: Q16::ONE,
        min_p: Q16(0),
        seed: 7,
        max_output_tokens: 8,
        stop: vec!["\n".to_owned()],
        ..SamplingParameters::default()
    };
    let request =
        r#"{"model":"stoa-tiny","messages":[{"role":"user","content":"Grüße, 你好"}]}"#.to_owned();
    let response = Content {
        text: "hello".to_owned(),
        tool_calls: vec![ToolCall {
            name: "f".to_owned(),
            arguments: "{}".to_owned(),
        }],
        finish_reason: FinishReason::Stop,
        input_units: 3,
        output_units: 2,
    };
    let receipt = Receipt {
        version: RECEIPT_VERSION,
        chain_id: 31_337,
        vault,
        profile_hash: keccak256("profile"),
        job_id: JobId(keccak256("job").0),
        account: SecretKey::for_tests("developer").address(),
        router: router.address(),
        provider: provider.address(),
        model_root: keccak256("model"),
        runtime_digest: keccak256("iq8"),
        parameters_digest: keccak256(parameters.canonical_bytes()),
        prompt_root: token_root(&[1, 2, 3]),
        request_digest: keccak256(&request),
        output_root: token_root(&[4, 5]),
        response_digest: response.digest(),
        input_units: 3,
        output_units: 2,
        input_price: Price::per_million(TokenAmount::from_units(100)),
        output_price: Price::per_million(TokenAmount::from_units(100)),
        charge: TokenAmount::from_units(1),
        fee_version: 1,
        paid_by: PaidBy::Allotment,
        tier: Tier::Exact,
        evidence_digest: Digest::ZERO,
        ticket_hash: keccak256("ticket"),
        attempt: 0,
        segments_root: Digest::ZERO,
        accepted_at: Timestamp(1_000),
        delivered_at: Timestamp(2_000),
    };
    let digest = receipt_digest(&receipt);
    let leaf = receipt_leaf(&receipt);
    let tree = MerkleTree::new(vec![keccak256("other"), leaf, keccak256("third")]);
    let batch = BatchStatement::sign(
        &router,
        (31_337, vault),
        4,
        (tree.root(), 3),
        keccak256("leaves"),
        keccak256("previous"),
    );
    let proof = SettlementProof {
        batch,
        siblings: tree.proof(1).expect("in range"),
    };
    let signed = SignedReceipt {
        provider_signature: provider.sign(digest),
        router_signature: router.sign(digest),
        receipt,
    };
    Bundle {
        receipt: signed,
        proof: Some(proof),
        parameters,
        request,
        response,
    }
}

fn accepted(bytes: &[u8]) -> bool {
    Bundle::parse(bytes).is_ok_and(|bundle| check_bundle(&bundle).holds())
}

#[test]
fn an_honest_file_holds_and_says_what_it_did_not_check() {
    let mut bundle = bundle();
    assert!(accepted(&bundle.to_bytes()), "{}", check_bundle(&bundle));
    bundle.proof = None;
    let report = check_bundle(&bundle);
    assert!(report.holds());
    assert!(report.to_string().contains("not checked  it is in a batch"));
}

#[test]
fn one_changed_byte_breaks_the_receipt() {
    let bytes = bundle().to_bytes();
    for position in 0..bytes.len() {
        for change in [
            bytes[position] ^ 1,
            bytes[position] ^ 0x20,
            b'0',
            b'"',
            b' ',
        ] {
            if change == bytes[position] {
                continue;
            }
            let mut changed = bytes.clone();
            changed[position] = change;
            assert!(
                !accepted(&changed),
                "byte {position} ({}) may become {}",
                char::from(bytes[position]),
                char::from(change)
            );
        }
        let mut shorter = bytes.clone();
        shorter.remove(position);
        assert!(!accepted(&shorter), "byte {position} may be removed");
    }
}

#[test]
fn a_proof_of_another_router_or_chain_is_refused() {
    let mut other = bundle();
    let stranger = SecretKey::for_tests("stranger");
    let proof = other.proof.as_mut().expect("has a proof");
    proof.batch.router_signature = stranger.sign(keccak256("anything"));
    assert!(check_bundle(&other).first_false().is_some());
}

/// The bundle with another receipt, signed anew by whom it names.
fn signed_again(change: impl FnOnce(&mut Receipt)) -> Bundle {
    let mut bundle = bundle();
    bundle.proof = None;
    let signed = &mut bundle.receipt;
    change(&mut signed.receipt);
    let digest = receipt_digest(&signed.receipt);
    signed.provider_signature = SecretKey::for_tests("provider").sign(digest);
    signed.router_signature = SecretKey::for_tests("router").sign(digest);
    bundle
}

fn first_false(bundle: &Bundle) -> Option<&'static str> {
    check_bundle(bundle).first_false().map(|check| check.claim)
}

#[test]
fn each_part_of_another_receipt_is_refused_by_the_claim_that_it_breaks() {
    let whole = bundle();
    let mut other = whole.clone();
    other.request.push(' ');
    assert_eq!(first_false(&other), Some("it is for this request"));
    let mut other = whole.clone();
    other.parameters.seed += 1;
    assert_eq!(
        first_false(&other),
        Some("it is for these sampling parameters")
    );
    let mut other = whole.clone();
    other.response.tool_calls.push(ToolCall {
        name: "f".to_owned(),
        arguments: "{}".to_owned(),
    });
    assert_eq!(first_false(&other), Some("it is for this answer"));
    let mut other = whole.clone();
    let signed = &mut other.receipt;
    std::mem::swap(&mut signed.provider_signature, &mut signed.router_signature);
    assert_eq!(first_false(&other), Some("the provider signed it"));
    let mut other = whole.clone();
    other.receipt.router_signature = other.receipt.provider_signature;
    assert_eq!(first_false(&other), Some("the router signed it"));
    // A receipt of the same parties for another chain, with everything else as it was: the proof is of the first chain.
    let mut other = signed_again(|r| r.chain_id += 1);
    other.proof = whole.proof;
    assert_eq!(
        first_false(&other),
        Some("it is in a batch that the router signed")
    );
}

#[test]
fn counts_that_are_not_the_answer_s_are_false_though_everybody_signed_them() {
    assert_eq!(
        first_false(&signed_again(|r| r.input_units += 1)),
        Some("its input count is the answer's")
    );
    assert_eq!(
        first_false(&signed_again(|r| r.output_units += 1)),
        Some("its output count is the answer's")
    );
}

#[test]
fn a_receipt_that_this_version_cannot_mean_is_not_well_formed() {
    let changes: [fn(&mut Receipt); 7] = [
        |r| r.version += 1,
        |r| r.delivered_at = Timestamp(r.accepted_at.0 - 1),
        |r| r.segments_root = keccak256("segments"),
        |r| r.paid_by = PaidBy::Voucher,
        |r| r.evidence_digest = keccak256("evidence"),
        |r| r.model_root = Digest::ZERO,
        |r| {
            r.tier = Tier::None;
            r.evidence_digest = keccak256("evidence");
        },
    ];
    for change in changes {
        let bundle = signed_again(change);
        assert_eq!(
            first_false(&bundle),
            Some("the receipt is well formed"),
            "{bundle:?}"
        );
    }
}

#[test]
fn evidence_that_cannot_be_checked_is_said_to_be_unchecked() {
    for tier in [Tier::Statistical, Tier::Tee, Tier::Zk] {
        let bundle = signed_again(|r| {
            r.tier = tier;
            r.evidence_digest = keccak256("evidence");
        });
        let report = check_bundle(&bundle).to_string();
        assert!(
            report.contains("not checked  its evidence holds"),
            "{report}"
        );
    }
}

#[test]
fn the_report_names_whose_receipt_it_is() {
    let bundle = bundle();
    let r = &bundle.receipt.receipt;
    let report = check_bundle(&bundle).to_string();
    for line in [
        format!("provider     {}\n", r.provider),
        format!("router       {}\n", r.router),
        format!("account      {}\n", r.account),
        format!("vault        {} on chain 31337\n", r.vault),
        format!("profile      {}\n", r.profile_hash),
        format!("job          {}\n", r.job_id),
    ] {
        assert!(report.contains(&line), "{line} in {report}");
    }
}

#[test]
fn a_claim_stands_once_and_what_is_false_stays_false() {
    let mut report = Report::default();
    report.not_checked("a", "first reason");
    report.not_checked("a", "second reason");
    assert_eq!(report.to_string(), "not checked  a: first reason\n");
    report.check("a", Err("wrong".to_owned()));
    report.check("a", Ok(()));
    report.not_checked("a", "later");
    assert_eq!(report.to_string(), "FALSE        a: wrong\n");
}

#[test]
fn a_proof_with_parts_missing_doubled_or_in_another_order_is_refused() {
    let whole = bundle();
    let siblings = whole.proof.clone().expect("has a proof").siblings;
    assert_eq!(siblings.len(), 2);
    for changed in [
        vec![],
        vec![siblings[0]],
        vec![siblings[1]],
        vec![siblings[1], siblings[0]],
        vec![siblings[0], siblings[0]],
        vec![siblings[0], siblings[1], siblings[1]],
    ] {
        let mut other = whole.clone();
        other.proof.as_mut().expect("has a proof").siblings = changed;
        assert!(!check_bundle(&other).holds());
    }
}

#[test]
fn a_leaf_deeper_than_the_signed_count_allows_is_refused() {
    let mut other = bundle();
    let router = SecretKey::for_tests("router");
    let (chain_id, vault) = {
        let r = &other.receipt.receipt;
        (r.chain_id, r.vault)
    };
    let proof = other.proof.as_mut().expect("has a proof");
    // The router posts three receipts as two, or as none.
    for (count, holds) in [(4, true), (3, true), (2, false), (1, false), (0, false)] {
        proof.batch = BatchStatement::sign(
            &router,
            (chain_id, vault),
            4,
            (proof.batch.job_root, count),
            keccak256("leaves"),
            keccak256("previous"),
        );
        let leaf = receipt_leaf(&other.receipt.receipt);
        assert_eq!(
            proof.check(leaf, chain_id, vault, router.address()).is_ok(),
            holds,
            "{count}"
        );
    }
}

#[test]
fn a_file_cannot_speak_to_the_terminal_through_an_error() {
    let error = Bundle::parse(b"{\"\\u001b[2Jholds\\n\":1}").expect_err("no bundle");
    let text = error.to_string();
    assert!(text.contains("holds"), "{text}");
    assert!(!text.contains(char::is_control), "{text:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn whatever_parses_is_its_own_canonical_form(bytes in any::<Vec<u8>>()) {
        if let Ok(bundle) = Bundle::parse(&bytes) {
            prop_assert_eq!(bundle.to_bytes(), bytes);
        }
    }

    #[test]
    fn a_bundle_of_any_texts_is_read_back_as_it_was(
        request in any::<String>(), text in any::<String>(), name in any::<String>(), stop in any::<Vec<String>>(), seed in any::<u64>(),
        charge in any::<u128>(), price in any::<u128>(), times in any::<(u64, u64)>(), proof in any::<bool>(),
    ) {
        let mut bundle = bundle();
        bundle.request = request;
        bundle.response.text = text;
        bundle.response.tool_calls.push(ToolCall { name: name.clone(), arguments: name });
        bundle.parameters.stop = stop;
        bundle.parameters.seed = seed;
        let receipt = &mut bundle.receipt.receipt;
        receipt.charge = TokenAmount::from_units(charge);
        receipt.input_price = Price::per_million(TokenAmount::from_units(price));
        (receipt.accepted_at, receipt.delivered_at) = (Timestamp(times.0), Timestamp(times.1));
        if !proof { bundle.proof = None; }
        let bytes = bundle.to_bytes();
        let again = Bundle::parse(&bytes).expect("canonical");
        prop_assert_eq!(&again, &bundle);
        // And judging it never panics.
        let _ = check_bundle(&again).to_string();
    }

    #[test]
    fn pieces_moved_cut_or_doubled_never_give_a_file_that_holds(from in 0usize..2600, to in 0usize..2600, at in 0usize..2600) {
        let bytes = bundle().to_bytes();
        let clip = |i: usize| i.min(bytes.len());
        let (from, to) = (clip(from.min(to)), clip(from.max(to)));
        let piece = &bytes[from..to];
        let mut cut = bytes[..from].to_vec();
        cut.extend(&bytes[to..]);
        let at = at.min(cut.len());
        let mut moved = cut.clone();
        moved.splice(at..at, piece.iter().copied());
        let mut doubled = bytes.clone();
        doubled.splice(to..to, piece.iter().copied());
        for changed in [cut, moved, doubled] {
            prop_assert!(changed == bytes || !accepted(&changed));
        }
    }
}

#[test]
fn every_part_of_an_answer_and_its_border_change_the_digest() {
    let answer = bundle().response;
    let call = |name: &str, arguments: &str| ToolCall {
        name: name.to_owned(),
        arguments: arguments.to_owned(),
    };
    let changes: [fn(&mut Content); 5] = [
        |c| c.text.push('!'),
        |c| c.tool_calls.clear(),
        |c| c.finish_reason = FinishReason::Length,
        |c| c.input_units += 1,
        |c| c.output_units += 1,
    ];
    for change in changes {
        let mut other = answer.clone();
        change(&mut other);
        assert_ne!(other.digest(), answer.digest(), "{other:?}");
    }
    let with = |calls: Vec<ToolCall>| Content {
        tool_calls: calls,
        ..answer.clone()
    };
    assert_ne!(
        with(vec![call("ab", "c")]).digest(),
        with(vec![call("a", "bc")]).digest()
    );
}

#[test]
fn what_a_router_signs_of_a_batch_names_chain_vault_router_number_and_head() {
    let batch = bundle().proof.expect("has a proof").batch;
    let (vault, router) = (Address([1; 20]), Address([2; 20]));
    let signed = batch.digest(1, vault, router);
    assert_ne!(batch.digest(2, vault, router), signed);
    assert_ne!(batch.digest(1, Address([3; 20]), router), signed);
    assert_ne!(batch.digest(1, vault, Address([3; 20])), signed);
    let changes: [fn(&mut BatchStatement); 5] = [
        |b| b.index += 1,
        |b| b.job_root = Digest([9; 32]),
        |b| b.job_count += 1,
        |b| b.content_id = Digest([9; 32]),
        |b| b.previous_head = Digest([9; 32]),
    ];
    for change in changes {
        let mut other = batch.clone();
        change(&mut other);
        assert_ne!(other.digest(1, vault, router), signed, "{other:?}");
    }
}
