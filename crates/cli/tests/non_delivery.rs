//! A provider that took an order and was killed over it: whoever claims that nothing was delivered is answered when it is back.

#[path = "support/hall.rs"]
mod hall;
#[path = "support/program.rs"]
mod program;

use hall::{Hall, json, start_provider};
use program::{refused, stoa, told};
use std::fs;
use std::time::{Duration, Instant};
use stoa_chain::{AuditContracts, ClaimState, ClaimView, Contracts, Rpc, StakeRole, View};
use stoa_types::Digest;

/// A ticket lives for ten seconds, and is claimed in the last quarter of the forty for it.
const PATIENCE: Duration = Duration::from_secs(120);

/// What the chain says of the claim on an order, once there is one, and how much the provider was slashed.
fn claim_on(hall: &Hall, order: Digest) -> (Option<ClaimView>, u128) {
    let contracts: Contracts =
        serde_json::from_value(hall.chain["contracts"].clone()).expect("contracts");
    let rpc = Rpc::new(hall.chain["rpc"].as_str().expect("a URL")).expect("a URL");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let audits = AuditContracts::find(&rpc, &contracts).await.expect("read");
        let audits = audits.expect("they judge");
        let claim = audits.claim(&rpc, order).await.expect("read");
        let view = View::new(rpc, contracts);
        let stake = view.stake(StakeRole::Provider, hall.paid).await;
        (claim, stake.expect("read").active.units())
    })
}

fn until<T>(what: &str, found: impl Fn() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(Instant::now() < end, "{what}: not in time");
        std::thread::sleep(Duration::from_millis(250));
    }
}

#[test]
fn a_provider_killed_over_an_order_computes_it_when_it_is_claimed_and_keeps_its_stake() {
    // In its first life it takes orders and sits on them: that is where the kill meets it. In its second it is honest.
    let mut hall = Hall::open(
        &["--batch-seconds", "2", "--ticket-seconds", "10"],
        &["--cheat", "no-delivery"],
    );
    let developer = hall.data("developer");
    let asked = std::thread::spawn(move || refused(stoa(&developer).args(["ask", "Say it"])));
    let owed = hall.data("provider").join("provider-0/owed");
    let order: Digest = until("taken and kept", || {
        let file = fs::read_dir(&owed).ok()?.next()?.ok()?.path();
        let name = file.file_stem()?.to_str()?.to_owned();
        (file.extension()? == "json").then(|| name.parse().expect("an order"))
    });
    hall.provider.child.kill().expect("killed");
    hall.provider.child.wait().expect("gone");

    // The developer is told the truth, and billed nothing.
    let said = asked.join().expect("asked");
    let provider = hall.paid.to_string();
    assert!(said.contains("did not deliver"), "{said}");
    assert!(said.contains(&provider), "{said}");
    assert!(said.contains("No token was billed"), "{said}");
    let account = json(stoa(&hall.data("developer")).args(["account", "--json"]));
    assert_eq!(account["charged"], "0", "{account}");

    // It could claim itself, when the deadline is over.
    let (_, told_how) = said.split_once("stoa claim-undelivered ").expect(&said);
    let job = told_how.split(' ').next().expect("a word").to_owned();
    let ask = ["claim-undelivered", &job, "--json"];
    let mine = json(stoa(&hall.data("developer")).args(ask));
    assert_eq!(mine["claims"][0]["state"], "too_early", "{mine}");
    assert_eq!(mine["claims"][0]["ticket"], order.to_string());
    assert_eq!(mine["claims"][0]["provider"], provider);

    let (_, staked) = claim_on(&hall, order);
    // It stays away until it is claimed: of one that came back before, the router would claim nothing.
    until("claimed", || claim_on(&hall, order).0);
    hall.provider = start_provider(&hall.folder, &[]);
    hall.provider.ready();
    let claim = until("answered", || {
        let (claim, _) = claim_on(&hall, order);
        claim.filter(|claim| claim.state != ClaimState::Open)
    });
    assert_eq!(claim.state, ClaimState::Answered);
    assert_eq!((claim.provider, claim.claimant), (hall.paid, claim.router));
    assert_eq!(claim_on(&hall, order).1, staked, "not slashed");
    let mine = json(stoa(&hall.data("developer")).args(ask));
    assert_eq!(mine["claims"][0]["state"], "answered", "{mine}");
    // It works again, and is paid as ever.
    told(stoa(&hall.data("developer")).args(["ask", "Say more", "--max-tokens", "4"]));
    hall.provider.stop();
    hall.router.stop();
}
