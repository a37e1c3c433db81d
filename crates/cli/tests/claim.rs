//! A provider that runs alone is paid: chain, router, provider and developer as processes of their own.

#[path = "support/hall.rs"]
mod hall;
#[path = "support/program.rs"]
mod program;

use hall::{Hall, json, start_provider};
use program::{PATIENCE, refused, stoa, told};
use serde_json::Value;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};
use stoa_api::ClaimRow;
use stoa_chain::{Account, Claim, Contracts, PayRoots, Rpc, Sender, View};
use stoa_crypto::SecretKey;
use stoa_types::{Address, TokenAmount};

fn amount(value: &Value) -> TokenAmount {
    serde_json::from_value(value.clone()).expect("an amount")
}

/// What the developer knows of the network.
fn network(hall: &Hall) -> Value {
    let network = fs::read(hall.data("developer").join("network.json")).expect("reads");
    serde_json::from_slice(&network).expect("JSON")
}

fn claim(hall: &Hall) -> Vec<Value> {
    let rows = json(stoa(&hall.data("provider")).args(["claim", "--json"]));
    rows.as_array().expect("a list").clone()
}

fn charged(hall: &Hall) -> TokenAmount {
    amount(&json(stoa(&hall.data("developer")).args(["account", "--json"]))["charged"])
}

/// What the provider holds on chain.
fn holds(hall: &Hall) -> TokenAmount {
    let contracts: Contracts =
        serde_json::from_value(hall.chain["contracts"].clone()).expect("contracts");
    let rpc = Rpc::new(hall.chain["rpc"].as_str().expect("a URL")).expect("a URL");
    let view = View::new(rpc, contracts);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime
        .block_on(view.token_balance(hall.paid))
        .expect("read")
}

/// What the router's API says can be claimed.
fn claimable(hall: &Hall) -> Vec<ClaimRow> {
    let network = network(hall);
    let host = network["api"]
        .as_str()
        .expect("a URL")
        .trim_start_matches("http://")
        .trim_end_matches("/v1");
    let mut stream = TcpStream::connect(host).expect("listens");
    let key = network["key"].as_str().expect("a key");
    let head = format!(
        "GET /v1/stoa/claims HTTP/1.0\r\nhost: {host}\r\nauthorization: Bearer {key}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answered");
    let body = answer.split_once("\r\n\r\n").expect("a body").1;
    let mut rows: Value = serde_json::from_str(body).expect("JSON");
    serde_json::from_value(rows["data"].take()).expect("rows")
}

/// Claims in the vault and leaves there what is owed for it; whether the vault took the claim.
fn claim_and_leave(hall: &Hall, router: Address, row: ClaimRow) -> bool {
    let contracts: Contracts =
        serde_json::from_value(hall.chain["contracts"].clone()).expect("contracts");
    let rpc = Rpc::new(hall.chain["rpc"].as_str().expect("a URL")).expect("a URL");
    let keys = fs::read_dir(hall.data("provider").join("keys")).expect("reads");
    let files = keys.map(|entry| entry.expect("reads").path());
    let mut files = files.filter(|path| path.to_string_lossy().contains("provider-"));
    let text = fs::read_to_string(files.next().expect("a key")).expect("reads");
    let mut secret = [0; 32];
    hex::decode_to_slice(text.trim(), &mut secret).expect("a key");
    let key = SecretKey::from_bytes(secret).expect("a key");
    let claim = Claim {
        router,
        provider: row.provider,
        fee_version: row.fee_version,
        lifetime_gross: row.lifetime_gross,
        roots: PayRoots {
            provider_root: row.provider_root,
            debit_root: row.debit_root,
        },
        proof: row.proof,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let sender = Sender::new(rpc, key, PATIENCE).await.expect("a sender");
        let account = Account::new(sender, contracts);
        account.claim(&claim).await.is_ok()
    })
}

#[test]
fn a_provider_alone_claims_all_that_it_earned_and_is_told_what_must_wait() {
    let mut hall = Hall::open(&["--batch-seconds", "1"], &[]);
    assert_eq!(claim(&hall), Vec::<Value>::new(), "nothing was earned yet");
    for n in 0..3 {
        let ask = format!("What is {n} + 2?");
        told(stoa(&hall.data("developer")).args(["ask", &ask, "--max-tokens", "8"]));
    }
    let charged = charged(&hall);
    assert!(!charged.is_zero());

    let none = TokenAmount::ZERO;
    let (mut gross, mut paid, mut waited) = (none, none, false);
    let end = Instant::now() + PATIENCE;
    while gross < charged {
        let rows = claim(&hall);
        let add = |to: TokenAmount, name: &str| {
            let sums = rows.iter().map(|row| amount(&row[name])).chain([to]);
            TokenAmount::checked_sum(sums).expect("small")
        };
        (gross, paid) = (add(gross, "gross"), add(paid, "paid"));
        // Whatever the books charged is claimed, or is told to wait.
        assert_eq!(add(add(gross, "not_claimable_yet"), "waiting"), charged);
        waited |= gross < charged;
        assert!(Instant::now() < end, "{gross} of {charged}: {rows:?}");
        std::thread::sleep(Duration::from_millis(300));
    }
    assert!(waited, "a payout root is claimable after a while only");
    assert_eq!(gross, charged);
    assert_eq!(holds(&hall), paid, "what was told is what is there");
    assert!(!paid.is_zero() && paid < gross, "fees are taken off");
    for row in claim(&hall) {
        assert_eq!(row["provider"], hall.paid.to_string());
        assert!(amount(&row["gross"]).is_zero() && amount(&row["paid"]).is_zero());
    }
    one_router_is_asked_and_a_developer_s_folder_is_a_provider_s_too(&mut hall);

    let other = refused(stoa(&hall.data("chain")).args(["claim"]));
    assert!(other.contains("no provider's key"), "{other}");
    what_the_vault_owes_needs_no_router(hall);
}

fn one_router_is_asked_and_a_developer_s_folder_is_a_provider_s_too(hall: &mut Hall) {
    let rows = claim(hall);
    let router = rows[0]["router"].as_str().expect("its account").to_owned();
    let data = hall.data("provider");
    let only = json(stoa(&data).args(["claim", "--json", "--router", &router]));
    assert_eq!(only.as_array(), Some(&rows));
    let stranger = Address([7; 20]).to_string();
    let unknown = refused(stoa(&data).args(["claim", "--router", &stranger]));
    assert!(unknown.contains("never registered"), "{unknown}");
    hall.provider.stop();
    let network = network(hall);
    let api = network["api"].as_str().expect("a URL");
    let join = hall.data("chain").join("join.json");
    let join = join.to_str().expect("UTF-8");
    told(stoa(&data).args(["connect", "--join", join, "--router", &router, "--api", api]));
    assert_eq!(claim(hall), rows, "its own key opens nothing at the router");
}

fn what_the_vault_owes_needs_no_router(mut hall: Hall) {
    let data = hall.data("provider");
    let rows = claim(&hall);
    let router = rows[0]["router"].as_str().expect("its account").parse();
    let router = router.expect("an account");
    let (before, covered) = (holds(&hall), claimable(&hall)[0].lifetime_gross);
    hall.provider = start_provider(&hall.folder, &[]);
    hall.provider.ready();
    told(stoa(&hall.data("developer")).args(["ask", "And 9 + 9?", "--max-tokens", "8"]));
    let end = Instant::now() + PATIENCE;
    // Claimable by the books, and debited in the vault.
    loop {
        let row = claimable(&hall).remove(0);
        if row.lifetime_gross > covered && claim_and_leave(&hall, router, row) {
            break;
        }
        assert!(Instant::now() < end, "nothing was claimable");
        std::thread::sleep(Duration::from_millis(300));
    }
    assert_eq!(holds(&hall), before, "it is left in the vault");
    hall.router.stop();
    let output = stoa(&data).args(["claim", "--json"]).output();
    let output = output.expect("starts");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && error.contains("cannot be asked"));
    let rows: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let collected = &rows[0];
    assert!(collected.get("router").is_none(), "{rows}");
    let paid = amount(&collected["paid"]);
    assert!(!paid.is_zero());
    assert_eq!(Some(holds(&hall)), before.checked_add(paid));
}
