//! The receipt file as an adversary sees it.

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
