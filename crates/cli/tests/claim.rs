//! A provider that runs alone is paid: chain, router, provider and developer as processes of their own.

#[path = "support/program.rs"]
mod program;

use program::{PATIENCE, refused, stoa, told};
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use stoa_api::ClaimRow;
use stoa_chain::{Account, Claim, Contracts, PayRoots, Rpc, Sender, View};
use stoa_crypto::SecretKey;
use stoa_types::{Address, TokenAmount};

/// A role's process.
struct Role {
    child: Child,
    log: PathBuf,
    out: Option<BufReader<std::process::ChildStdout>>,
}

impl Role {
    fn spawn(data: &Path, args: &[&str]) -> Self {
        let log = data.with_extension("log");
        let mut child = stoa(data)
            .args(args)
            .arg("--json")
            .stdout(Stdio::piped())
            .stderr(fs::File::create(&log).expect("a log"))
            .spawn()
            .expect("starts");
        let out = child.stdout.take().map(BufReader::new);
        Self { child, log, out }
    }

    fn ready(&mut self) -> Value {
        let mut line = String::new();
        let out = self.out.as_mut().expect("piped");
        out.read_line(&mut line).expect("reads");
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("not ready: {log}"))
    }

    /// The account that waits for its stake.
    fn account(&self) -> Address {
        let end = Instant::now() + PATIENCE;
        loop {
            let log = fs::read_to_string(&self.log).expect("a log");
            let line = log
                .lines()
                .find(|line| line.starts_with("waiting for stake"));
            let word = line.and_then(|line| line.split(' ').find(|word| word.starts_with("0x")));
            if let Some(word) = word {
                return word.trim_end_matches(',').parse().expect("an account");
            }
            assert!(Instant::now() < end, "no word about stake: {log}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn stop(&mut self) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &pid]).status();
        assert!(sent.expect("kill runs").success());
        assert!(self.child.wait().expect("waits").success());
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn json(command: &mut Command) -> Value {
    serde_json::from_str(&told(command)).expect("JSON")
}

fn amount(value: &Value) -> TokenAmount {
    serde_json::from_value(value.clone()).expect("an amount")
}

struct Hall {
    folder: tempfile::TempDir,
    chain: Value,
    api: String,
    paid: Address,
    _chain: Role,
    router: Role,
    provider: Role,
}

fn start_provider(folder: &tempfile::TempDir) -> Role {
    let text = |path: PathBuf| path.to_str().expect("UTF-8").to_owned();
    let at = |name: &str| folder.path().join(name);
    // Dear enough for fees of whole units.
    let (join, prices) = (text(at("chain").join("join.json")), text(at("prices.toml")));
    let dear = "[[providers]]\nregion = \"XA\"\ninput_price = \"100\"\noutput_price = \"400\"\n";
    fs::write(&prices, dear).expect("written");
    let any = "127.0.0.1:0";
    let args = ["provider", "--listen", any, "--metrics", any, "--config"];
    Role::spawn(
        &at("provider"),
        &[&args[..], &[&prices, "--join", &join]].concat(),
    )
}

impl Hall {
    fn data(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Chain, router that knows the developer's key, provider.
    fn open() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        let text = |path: PathBuf| path.to_str().expect("UTF-8").to_owned();
        let mut chain = Role::spawn(
            &at("chain"),
            &["chain", "--port", "0", "--batch-seconds", "1"],
        );
        let ready = chain.ready();
        let fund = |account: Address| {
            let account = account.to_string();
            told(stoa(&at("chain")).args(["fund", &account, "--stake", "100000"]));
        };
        let (join, settings) = (text(at("chain").join("join.json")), text(at("router.toml")));
        fs::write(&settings, "").expect("written");
        let start = |name: &str, args: &[&str]| {
            Role::spawn(&at(name), &[args, &["--join", &join]].concat())
        };
        let any = "127.0.0.1:0";
        let router_args = [
            "router",
            "--listen",
            any,
            "--api",
            any,
            "--metrics",
            any,
            "--config",
            &settings,
        ];
        let mut router = start("router", &router_args);
        let account = router.account();
        fund(account);
        let api = router.ready()["api"].as_str().expect("a URL").to_owned();
        router.stop();
        // The developer's key counts from the router's next start, which takes its port again.
        let at_api = api.trim_start_matches("http://").trim_end_matches("/v1");
        let router_args = [
            "router",
            "--listen",
            any,
            "--api",
            at_api,
            "--metrics",
            any,
            "--config",
            &settings,
        ];
        let account = account.to_string();
        let connected = json(stoa(&at("developer")).args([
            "connect", "--join", &join, "--router", &account, "--api", &api, "--json",
        ]));
        let (payer, hash) = (&connected["account"], &connected["key_hash"]);
        let known = format!("[router]\nkeys = [{{ account = {payer}, hash = {hash} }}]\n");
        fs::write(&settings, known).expect("written");
        let mut router = start("router", &router_args);
        router.ready();
        let mut provider = start_provider(&folder);
        let paid = provider.account();
        fund(paid);
        provider.ready();
        Self {
            chain: ready,
            api,
            paid,
            _chain: chain,
            router,
            provider,
            folder,
        }
    }

    fn claim(&self) -> Vec<Value> {
        let rows = json(stoa(&self.data("provider")).args(["claim", "--json"]));
        rows.as_array().expect("a list").clone()
    }

    fn charged(&self) -> TokenAmount {
        amount(&json(stoa(&self.data("developer")).args(["account", "--json"]))["charged"])
    }

    /// What the provider holds on chain.
    fn holds(&self) -> TokenAmount {
        let contracts: Contracts =
            serde_json::from_value(self.chain["contracts"].clone()).expect("contracts");
        let rpc = Rpc::new(self.chain["rpc"].as_str().expect("a URL")).expect("a URL");
        let view = View::new(rpc, contracts);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime
            .block_on(view.token_balance(self.paid))
            .expect("read")
    }

    /// What the router's API says can be claimed.
    fn claimable(&self) -> Vec<ClaimRow> {
        let network = fs::read(self.data("developer").join("network.json")).expect("reads");
        let network: Value = serde_json::from_slice(&network).expect("JSON");
        let host = self
            .api
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
    fn claim_and_leave(&self, router: Address, row: ClaimRow) -> bool {
        let contracts: Contracts =
            serde_json::from_value(self.chain["contracts"].clone()).expect("contracts");
        let rpc = Rpc::new(self.chain["rpc"].as_str().expect("a URL")).expect("a URL");
        let keys = fs::read_dir(self.data("provider").join("keys")).expect("reads");
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
}

#[test]
fn a_provider_alone_claims_all_that_it_earned_and_is_told_what_must_wait() {
    let mut hall = Hall::open();
    assert_eq!(hall.claim(), Vec::<Value>::new(), "nothing was earned yet");
    for n in 0..3 {
        let ask = format!("What is {n} + 2?");
        told(stoa(&hall.data("developer")).args(["ask", &ask, "--max-tokens", "8"]));
    }
    let charged = hall.charged();
    assert!(!charged.is_zero());

    let none = TokenAmount::ZERO;
    let (mut gross, mut paid, mut waited) = (none, none, false);
    let end = Instant::now() + PATIENCE;
    while gross < charged {
        let rows = hall.claim();
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
    assert_eq!(hall.holds(), paid, "what was told is what is there");
    assert!(!paid.is_zero() && paid < gross, "fees are taken off");
    for row in hall.claim() {
        assert_eq!(row["provider"], hall.paid.to_string());
        assert!(amount(&row["gross"]).is_zero() && amount(&row["paid"]).is_zero());
    }
    one_router_is_asked_and_a_developer_s_folder_is_a_provider_s_too(&mut hall);

    let other = refused(stoa(&hall.data("chain")).args(["claim"]));
    assert!(other.contains("no provider's key"), "{other}");
    what_the_vault_owes_needs_no_router(hall);
}

fn one_router_is_asked_and_a_developer_s_folder_is_a_provider_s_too(hall: &mut Hall) {
    let rows = hall.claim();
    let router = rows[0]["router"].as_str().expect("its account").to_owned();
    let data = hall.data("provider");
    let only = json(stoa(&data).args(["claim", "--json", "--router", &router]));
    assert_eq!(only.as_array(), Some(&rows));
    let stranger = Address([7; 20]).to_string();
    let unknown = refused(stoa(&data).args(["claim", "--router", &stranger]));
    assert!(unknown.contains("never registered"), "{unknown}");
    hall.provider.stop();
    let join = hall.data("chain").join("join.json");
    let join = join.to_str().expect("UTF-8");
    told(stoa(&data).args([
        "connect", "--join", join, "--router", &router, "--api", &hall.api,
    ]));
    assert_eq!(
        hall.claim(),
        rows,
        "its own key opens nothing at the router"
    );
}

fn what_the_vault_owes_needs_no_router(mut hall: Hall) {
    let data = hall.data("provider");
    let rows = hall.claim();
    let router = rows[0]["router"].as_str().expect("its account").parse();
    let router = router.expect("an account");
    let (before, covered) = (hall.holds(), hall.claimable()[0].lifetime_gross);
    hall.provider = start_provider(&hall.folder);
    hall.provider.ready();
    told(stoa(&hall.data("developer")).args(["ask", "And 9 + 9?", "--max-tokens", "8"]));
    let end = Instant::now() + PATIENCE;
    // Claimable by the books, and debited in the vault.
    loop {
        let row = hall.claimable().remove(0);
        if row.lifetime_gross > covered && hall.claim_and_leave(router, row) {
            break;
        }
        assert!(Instant::now() < end, "nothing was claimable");
        std::thread::sleep(Duration::from_millis(300));
    }
    assert_eq!(hall.holds(), before, "it is left in the vault");
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
    assert_eq!(Some(hall.holds()), before.checked_add(paid));
}
