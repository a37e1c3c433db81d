//! Golden values of audits: `vectors/audit.json` is read here and by the Solidity tests.
//! `STOA_BLESS=1 cargo test -p stoa-ledger --test audit_vectors` writes it anew; a changed file is a new protocol version.

use serde_json::{Value, json};
use stoa_crypto::{SecretKey, keccak256};
use stoa_ledger::audit::ballot::{Ballot, Verdict};
use stoa_ledger::audit::panel::{Member, panel};
use stoa_ledger::audit::standing::{Mark, Sampling, Standing};
use stoa_ledger::audit::{Outcome, PANEL, hash};
use stoa_types::{Address, Bps, Digest, JobId};

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../vectors/audit.json");

fn address(label: &str) -> Address {
    SecretKey::for_tests(label).address()
}

fn beacon_case() -> Value {
    let preimages = ["a", "b", "c"].map(|label| (address(label), keccak256(label)));
    let mix = preimages.iter().fold(Digest::ZERO, |mix, (who, preimage)| {
        hash::mixed(mix, hash::contribution(*who, *preimage))
    });
    let block_hash = keccak256("block");
    let (validators, preimages) = (preimages.map(|p| p.0), preimages.map(|p| p.1));
    let tips = preimages.map(hash::link);
    json!({
        "round": 7,
        "block_hash": block_hash,
        "validators": validators,
        "preimages": preimages,
        "tips": tips,
        "mix": mix,
        "beacon": hash::beacon(7, block_hash, mix),
    })
}

fn panel_case(weights: &[u128], subject: &str) -> Value {
    let label = |n: usize| format!("validator {n}");
    let members: Vec<_> = weights
        .iter()
        .enumerate()
        .map(|(n, weight)| Member {
            validator: address(&label(n)),
            weight: *weight,
        })
        .collect();
    let (beacon, subject) = (keccak256("beacon"), keccak256(subject));
    json!({
        "validators": members.iter().map(|m| m.validator).collect::<Vec<_>>(),
        "weights": weights.iter().map(u128::to_string).collect::<Vec<_>>(),
        "beacon": beacon,
        "subject": subject,
        "places": panel(&members, beacon, subject, PANEL),
    })
}

fn panels() -> Vec<Value> {
    let stake = 10u128.pow(22);
    let mut cases = vec![
        panel_case(&[stake], "alone"),
        panel_case(&[stake, stake], "two"),
        panel_case(&[0, stake, 0, 1], "two of four"),
    ];
    let many: Vec<u128> = (1..=64).map(|n| n * stake).collect();
    cases.extend((0..5).map(|n| panel_case(&many, &format!("many {n}"))));
    cases
}

fn ballot_case(count: u8) -> Value {
    let mut ballot = Ballot::new();
    for n in 0..count {
        let outcome = Outcome::ALL[usize::from(n) % Outcome::ALL.len()];
        let digest = keccak256([n, 1]);
        ballot.insert(keccak256([n]), Verdict { outcome, digest });
    }
    let entries: Vec<_> = ballot
        .iter()
        .map(|(subject, verdict)| {
            let proof = ballot.proof(subject).expect("in the ballot");
            json!({
                "subject": subject,
                "outcome": verdict.outcome.code(),
                "found": verdict.digest,
                "leaf": hash::verdict_leaf(*subject, verdict.outcome, verdict.digest),
                "bits": proof.iter().map(|step| step.bit).collect::<Vec<_>>(),
                "siblings": proof.iter().map(|step| step.sibling).collect::<Vec<_>>(),
            })
        })
        .collect();
    json!({"root": ballot.root(), "entries": entries})
}

fn standings() -> Value {
    let sampling = Sampling {
        most: Bps::new(1_000).expect("a share"),
        least: Bps::new(50).expect("a share"),
        first_jobs: 20,
    };
    let mut standing = Standing::default();
    let mut after = Vec::new();
    for n in 0..300u32 {
        let mark = if n % 97 == 96 { Mark::Bad } else { Mark::Good };
        standing = standing.after(mark);
        if n % 25 == 24 {
            after.push(json!({
                "marks": n + 1,
                "reputation": standing.reputation,
                "verified": standing.verified,
                "rate": sampling.rate(standing),
            }));
        }
    }
    json!(after)
}

fn vectors() -> Value {
    let (router, leaf, job) = (address("router"), keccak256("leaf"), JobId([9; 32]));
    let (root, salt) = (keccak256("root"), keccak256("salt"));
    let account = address("developer");
    let ballots = [1, 2, 3, 17].map(ballot_case);
    let plant_digest = hash::plant_digest(31_337, router, job);
    json!({
        "subjects": {
            "router": router,
            "leaf": leaf,
            "post": 42,
            "job": hash::job_subject(router, leaf),
            "batch": hash::batch_subject(router, 42),
        },
        "beacon": beacon_case(),
        "panels": panels(),
        "ballots": ballots,
        "commitment": {
            "round": 7, "validator": router, "root": root, "salt": salt,
            "commitment": hash::commitment(7, router, root, salt),
        },
        "plant": {
            "job": job, "account": account, "salt": salt,
            "commitment": hash::plant_commitment(job, account, salt),
            "chain_id": 31_337, "rounds": router, "digest": plant_digest,
            "signature": SecretKey::for_tests("developer").sign(plant_digest),
        },
        "standings": standings(),
    })
}

#[test]
fn audits_hash_and_draw_as_in_the_vectors() {
    let mut found = vectors();
    // Whether maps keep the order in which they were made hangs on who else is built.
    found.sort_all_objects();
    let found = serde_json::to_string_pretty(&found).expect("JSON") + "\n";
    if std::env::var_os("STOA_BLESS").is_some() {
        std::fs::write(PATH, &found).expect("vectors/audit.json can be written");
    }
    let committed = std::fs::read_to_string(PATH).expect("vectors/audit.json is committed");
    assert_eq!(committed.replace("\r\n", "\n"), found);
}
