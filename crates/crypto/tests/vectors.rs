//! Golden bytes of what is signed and hashed: `vectors/receipt.json` is read here and by the Solidity tests.
//! `STOA_BLESS=1 cargo test -p stoa-crypto` writes it anew; a changed file is a new protocol version.

use serde_json::{Value, json};
use stoa_crypto::*;
use stoa_types::*;

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../vectors/receipt.json");

fn digest(label: &str) -> Digest {
    keccak256(label)
}

fn receipt(charge: u128) -> Receipt {
    Receipt {
        version: RECEIPT_VERSION,
        chain_id: 2_147_483_649,
        vault: SecretKey::for_tests("vault").address(),
        profile_hash: digest("profile"),
        job_id: JobId(digest("job").0),
        account: SecretKey::for_tests("developer").address(),
        router: SecretKey::for_tests("router").address(),
        provider: SecretKey::for_tests("provider").address(),
        model_root: digest("model"),
        runtime_digest: digest("runtime"),
        parameters_digest: digest("parameters"),
        prompt_root: token_root(&[1, 2, 3]),
        request_digest: digest("request"),
        output_root: token_root(&[4, 5]),
        response_digest: digest("response"),
        input_units: 3,
        output_units: 2,
        input_price: Price::per_million(TokenAmount::from_units(100_000)),
        output_price: Price::per_million(TokenAmount::from_units(400_000)),
        charge: TokenAmount::from_units(charge),
        fee_version: 1,
        paid_by: PaidBy::Allotment,
        tier: Tier::Exact,
        evidence_digest: Digest::ZERO,
        ticket_hash: digest("ticket"),
        attempt: 0,
        segments_root: Digest::ZERO,
        accepted_at: Timestamp(1_790_000_000_000),
        delivered_at: Timestamp(1_790_000_000_250),
    }
}

fn ticket() -> Ticket {
    let r = receipt(1);
    Ticket {
        job_id: r.job_id,
        account: r.account,
        router: r.router,
        provider: r.provider,
        model_root: r.model_root,
        parameters_digest: r.parameters_digest,
        request_digest: r.request_digest,
        work_digest: digest("work"),
        input_price: r.input_price,
        output_price: r.output_price,
        input_units_max: 30,
        output_units_max: 20,
        reserve: TokenAmount::from_units(11),
        fee_version: 1,
        tier: Tier::Exact,
        attempt: 0,
        issued_at: Timestamp(1_789_999_999_990),
        deadline: Timestamp(1_790_000_120_000),
    }
}

fn acceptance(domain: &Domain) -> Acceptance {
    Acceptance {
        ticket: ticket_digest(domain, &ticket()),
        accepted_at: Timestamp(1_790_000_000_000),
    }
}

fn vectors() -> Value {
    let receipts: Vec<_> = [1u128, 7, u128::from(u64::MAX)].map(receipt).into();
    let provider = SecretKey::for_tests("provider");
    let router = SecretKey::for_tests("router");
    let cases: Vec<_> = receipts
        .iter()
        .map(|r| {
            let d = receipt_digest(r);
            json!({"receipt": r, "paid_by_code": r.paid_by.code(), "tier_code": r.tier.code(), "digest": d, "leaf": receipt_leaf(r),
                "provider_signature": provider.sign(d), "router_signature": router.sign(d)})
        })
        .collect();
    let tree = MerkleTree::new(receipts.iter().map(receipt_leaf).collect());
    let proofs: Vec<_> = (0..receipts.len())
        .map(|i| tree.proof(i).expect("in range"))
        .collect();
    let domain = Domain {
        chain_id: receipts[0].chain_id,
        vault: receipts[0].vault,
    };
    let accepted = acceptance(&domain);
    let accepted_digest = acceptance_digest(&domain, &accepted);
    let ordered = ticket_digest(&domain, &ticket());
    let gross = TokenAmount::from_units(123_456_789);
    json!({
        "domain": {"chain_id": domain.chain_id, "vault": domain.vault, "separator": domain.separator()},
        "receipts": cases,
        "tree": {"root": tree.root(), "proofs": proofs},
        "ticket": {"ticket": ticket(), "tier_code": ticket().tier.code(), "digest": ordered, "router_signature": router.sign(ordered)},
        "acceptance": {"acceptance": accepted, "digest": accepted_digest, "provider_signature": provider.sign(accepted_digest)},
        "payout": {"router": router.address(), "class": 0, "provider": provider.address(), "fee_version": 1, "lifetime_gross": gross,
            "leaf": payout_leaf(router.address(), 0, provider.address(), 1, gross)},
        "debit": {"router": router.address(), "class": 0, "developer": receipts[0].account, "generation": 3, "lifetime_debit": gross,
            "leaf": debit_leaf(router.address(), 0, receipts[0].account, 3, gross)},
        "token_roots": [{"ids": [], "root": token_root(&[])}, {"ids": [1, 2, 3], "root": token_root(&[1, 2, 3])}],
    })
}

#[test]
fn receipt_vectors_are_the_committed_bytes() {
    let mut found = vectors();
    // Whether maps keep the order in which they were made hangs on who else is built.
    found.sort_all_objects();
    let text = format!("{found:#}\n");
    if std::env::var_os("STOA_BLESS").is_some() {
        std::fs::write(PATH, &text).expect("vectors/ is writable");
    }
    assert_eq!(
        std::fs::read_to_string(PATH).expect("vectors/receipt.json is committed"),
        text
    );
}

#[test]
fn any_changed_field_changes_digest_and_leaf() {
    let original = serde_json::to_value(receipt(5)).expect("serializes");
    let base = receipt(5);
    for (field, value) in original.as_object().expect("an object") {
        let mut changed = original.clone();
        changed[field] = match value {
            Value::Number(n) => json!(n.as_u64().expect("unsigned") + 1),
            Value::String(s) if s.starts_with("0x") => json!(format!(
                "{}{}",
                &s[..s.len() - 1],
                if s.ends_with('0') { "1" } else { "0" }
            )),
            Value::String(s) if s == "allotment" => json!("voucher"),
            Value::String(s) if s == "exact" => json!("zk"),
            Value::String(s) => json!((s.parse::<u128>().expect("an amount") + 1).to_string()),
            other => panic!("unexpected {other}"),
        };
        let other: Receipt = serde_json::from_value(changed).expect("still a receipt");
        assert_ne!(
            receipt_digest(&other),
            receipt_digest(&base),
            "{field} is not signed"
        );
        assert_ne!(
            receipt_leaf(&other),
            receipt_leaf(&base),
            "{field} is not in the leaf"
        );
    }
}

#[test]
fn an_acceptance_is_of_one_ticket_one_time_and_one_network() {
    let domain = Domain {
        chain_id: 7,
        vault: SecretKey::for_tests("vault").address(),
    };
    let base = acceptance(&domain);
    let signed = acceptance_digest(&domain, &base);
    let provider = SecretKey::for_tests("provider");
    assert_eq!(
        recover(signed, &provider.sign(signed)).expect("signed just now"),
        provider.address()
    );
    let other_ticket = Acceptance {
        ticket: digest("another ticket"),
        ..base
    };
    let later = Acceptance {
        accepted_at: Timestamp(base.accepted_at.0 + 1),
        ..base
    };
    let other_chain = Domain {
        chain_id: 8,
        ..domain
    };
    let other_vault = Domain {
        vault: SecretKey::for_tests("another vault").address(),
        ..domain
    };
    for (changed, what) in [
        (acceptance_digest(&domain, &other_ticket), "the ticket"),
        (acceptance_digest(&domain, &later), "the time"),
        (acceptance_digest(&other_chain, &base), "the chain"),
        (acceptance_digest(&other_vault, &base), "the vault"),
    ] {
        assert_ne!(changed, signed, "{what} is not signed");
    }
    assert_eq!(ticket_bytes(&ticket()).len(), 18 * 32);
}
