//! Two tenants of one server, random requests: nothing of the one reaches the other. Handlers are called without sockets, so that many
//! requests are a matter of seconds; `STOA_TENANT_REQUESTS` says how many.

use axum::body::{Body, to_bytes};
use axum::http::Request;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use stoa_api::*;
use stoa_crypto::{SecretKey, personal_digest};
use stoa_nodes::client::{Cause, ClientEvent, ClientRequest, Failure, KeyId};
use stoa_types::*;
use tokio::sync::{mpsc, watch};

/// Requests of one run; a build without optimisation answers some thousands a second.
const REQUESTS: u64 = 4_000;
const NOW: Timestamp = Timestamp::from_secs(1_790_000_000);
const BODY_MAX: usize = 1 << 20;

/// Every word that a tenant's data consists of begins like this.
fn canary(tenant: usize) -> String {
    format!("canary-of-tenant-{tenant}-")
}

fn wallet(tenant: usize) -> SecretKey {
    SecretKey::for_tests(["one", "two"][tenant])
}

fn account(tenant: usize) -> Address {
    wallet(tenant).address()
}

fn tenant_of(owner: Address) -> usize {
    usize::from(owner == account(1))
}

fn root_key(tenant: usize) -> String {
    format!("{}root", canary(tenant))
}

/// Keeps each tenant's things under its account, as a router does.
struct House {
    ring: Mutex<KeyRing>,
    drawn: AtomicU64,
    jobs: Mutex<BTreeMap<JobId, Address>>,
    kept: Mutex<BTreeMap<ReplayId, Kept>>,
}

impl House {
    fn new() -> Self {
        let mut ring = KeyRing::default();
        for tenant in [0, 1] {
            ring.add(KeyHash::of(&root_key(tenant)), account(tenant));
        }
        Self {
            ring: Mutex::new(ring),
            drawn: AtomicU64::new(1),
            jobs: Mutex::default(),
            kept: Mutex::default(),
        }
    }

    fn draw(&self) -> u64 {
        self.drawn.fetch_add(1, Ordering::SeqCst)
    }

    fn ring(&self) -> std::sync::MutexGuard<'_, KeyRing> {
        self.ring.lock().expect("not poisoned")
    }

    fn owns(&self, viewer: Viewer, job: JobId) -> Option<Address> {
        let owner = *self.jobs.lock().expect("not poisoned").get(&job)?;
        let may = match viewer {
            Viewer::Account(account) | Viewer::Key(account, _) => account == owner,
            Viewer::Operator => true,
        };
        may.then_some(owner)
    }
}

fn row(record: KeyRecord) -> KeyRow {
    KeyRow {
        record,
        spent: TokenAmount::ZERO,
        held: TokenAmount::ZERO,
        resets_at: None,
    }
}

impl ReplayStore for House {
    fn find(&self, id: ReplayId) -> Result<Option<Kept>, ReplayFault> {
        Ok(self.kept.lock().expect("not poisoned").get(&id).cloned())
    }

    fn claim(&self, id: ReplayId, claim: &Claim) -> Result<(), ReplayFault> {
        let mut kept = self.kept.lock().expect("not poisoned");
        kept.insert(id, Kept::Claimed(*claim));
        Ok(())
    }

    fn prepare(&self, id: ReplayId, claim: &Claim, sealed: &[u8]) -> Result<(), ReplayFault> {
        let mut kept = self.kept.lock().expect("not poisoned");
        kept.insert(id, Kept::Prepared(*claim, sealed.to_vec()));
        Ok(())
    }

    fn answer(&self, id: ReplayId, claim: &Claim, sealed: &[u8]) -> Result<(), ReplayFault> {
        let mut kept = self.kept.lock().expect("not poisoned");
        kept.insert(id, Kept::Answered(*claim, sealed.to_vec()));
        Ok(())
    }

    fn forget(&self, id: ReplayId) {
        self.kept.lock().expect("not poisoned").remove(&id);
    }
}

impl Gateway for House {
    fn authenticate(&self, key: &str) -> Result<Account, KeyError> {
        self.ring().authenticate(key, NOW)
    }

    fn keys(&self, account: Address) -> Vec<KeyRow> {
        self.ring().of(account).into_iter().map(row).collect()
    }

    fn key(&self, account: Address, key: KeyName) -> Option<KeyRow> {
        self.ring().get(account, key).map(row)
    }

    fn spend_left(&self, caller: &Account) -> Option<TokenAmount> {
        caller.grant.spend_limit.map(|limit| limit.amount)
    }

    fn create_key(&self, by: &Account, new: NewKey) -> Result<IssuedKey, KeyFault> {
        let n = self.draw();
        let tenant = tenant_of(by.address);
        let secret = format!("{}{n}", canary(tenant));
        let name = format!("{}{n}", canary(tenant));
        let new = NewKey { name, ..new };
        let record = self
            .ring()
            .create(by, new, KeyId(n), KeyHash::of(&secret), NOW)?;
        let row = row(record);
        Ok(IssuedKey { secret, row })
    }

    fn rotate_key(&self, by: &Account, key: KeyName, grace: Millis) -> Result<IssuedKey, KeyFault> {
        let secret = format!("{}{}", canary(tenant_of(by.address)), self.draw());
        let hash = KeyHash::of(&secret);
        let row = row(self.ring().rotate(by.address, key, hash, grace, NOW)?);
        Ok(IssuedKey { secret, row })
    }

    fn revoke_key(&self, by: &Account, key: KeyName) -> Result<KeyRow, KeyFault> {
        self.ring().revoke_own(by.address, key, NOW).map(row)
    }

    fn new_job(&self, _: &Account) -> Option<JobId> {
        let mut job = [0x5a; 32];
        job[..8].copy_from_slice(&self.draw().to_be_bytes());
        Some(JobId(job))
    }

    /// Fails with the tenant's own words, in one of several ways.
    fn submit(
        &self,
        caller: &Account,
        job: JobId,
        _: ClientRequest,
        _: Option<TraceParent>,
    ) -> Vec<Call> {
        let (sender, events) = mpsc::channel(4);
        let mut jobs = self.jobs.lock().expect("not poisoned");
        jobs.insert(job, caller.address);
        let reason = format!("{}{job}", canary(tenant_of(caller.address)));
        let cause = match job.0[7] % 3 {
            0 => Cause::ProviderInvalid { reason },
            1 => Cause::RouterUnavailable { reason },
            _ => Cause::Unsupported {
                parameter: reason.clone(),
                reason,
            },
        };
        let billed = TokenAmount::ZERO;
        let told = sender.try_send(ClientEvent::Failed(Failure::new(cause, billed)));
        told.expect("there is room");
        let client = ClientEnd::new(WrittenTokens::default(), |_| {}, |_| {});
        vec![Call {
            job,
            events,
            client,
        }]
    }

    fn would_refuse(&self, _: &Account, _: &ClientRequest) -> Option<Cause> {
        None
    }

    fn fate(&self, _: JobId, _: u32) -> Fate {
        Fate::Nothing
    }

    fn replays(&self) -> &dyn ReplayStore {
        self
    }

    fn models(&self) -> Vec<ModelEntry> {
        Vec::new()
    }

    fn receipt(&self, _: Viewer, _: JobId) -> Option<ReceiptView> {
        None
    }

    fn explain(&self, viewer: Viewer, job: JobId) -> Option<serde_json::Value> {
        let owner = self.owns(viewer, job)?;
        Some(serde_json::json!({"why": canary(tenant_of(owner)), "job": job}))
    }

    fn account(&self, account: Address) -> Option<AccountRow> {
        Some(AccountRow {
            account,
            vault_balance: TokenAmount::ZERO,
            allotment_cap: TokenAmount::ZERO,
            reserved: TokenAmount::ZERO,
            charged: TokenAmount::ZERO,
            available: TokenAmount::ZERO,
            expires_at: NOW,
        })
    }

    fn jobs(&self, viewer: Viewer) -> Vec<JobRow> {
        let jobs = self.jobs.lock().expect("not poisoned");
        let own = jobs.iter().rev().filter(|(_, owner)| match viewer {
            Viewer::Account(account) | Viewer::Key(account, _) => **owner == account,
            Viewer::Operator => true,
        });
        own.take(20)
            .map(|(job, owner)| JobRow {
                job: *job,
                state: JobState::Delivered,
                model: canary(tenant_of(*owner)),
                provider: None,
                output_price: None,
                amount: TokenAmount::ZERO,
                ttft_ms: None,
                input_units: 0,
                output_units: 0,
                reserved_at: NOW,
            })
            .collect()
    }

    fn claims(&self) -> Vec<ClaimRow> {
        Vec::new()
    }

    fn providers(&self) -> Vec<ProviderRow> {
        Vec::new()
    }

    fn board(&self) -> &dyn Board {
        self
    }

    fn limits(&self) -> RequestLimits {
        RequestLimits {
            body_bytes_max: 10_000,
            output_tokens_max: 512,
            output_tokens_default: 256,
            calls_max: None,
        }
    }

    fn ready(&self) -> Vec<PartState> {
        Vec::new()
    }
}

/// What the pages show: each tenant's jobs and keys.
impl Board for House {
    fn now(&self) -> Timestamp {
        NOW
    }

    fn chain_id(&self) -> u64 {
        1
    }

    fn changes(&self) -> watch::Receiver<u64> {
        watch::channel(0).1
    }

    fn knows(&self, _: Address) -> bool {
        true
    }

    fn overview(&self, viewer: Viewer) -> Overview {
        Overview {
            now: NOW,
            chain_id: 1,
            block: 1,
            router: Address::ZERO,
            active: 0,
            parts: Vec::new(),
            jobs: self.jobs(viewer),
            accounts: Vec::new(),
            batches: Vec::new(),
            providers: Vec::new(),
        }
    }

    fn calls(&self, viewer: Viewer) -> Calls {
        let jobs = self.jobs(viewer);
        let failed = jobs.iter().map(|row| FailedCall {
            job: row.job,
            account: Address::ZERO,
            model: row.model.clone(),
            cause: row.model.clone(),
            billed: TokenAmount::ZERO,
            at: NOW,
        });
        Calls {
            failed: failed.collect(),
            jobs,
        }
    }

    fn call(&self, viewer: Viewer, job: JobId) -> Option<CallView> {
        self.owns(viewer, job)?;
        let mut jobs = self.jobs(viewer).into_iter();
        Some(CallView {
            row: jobs.find(|row| row.job == job),
            failed: None,
            decision: None,
            losses: Vec::new(),
            receipt: None,
            report: None,
            batch: None,
        })
    }

    fn provider_lines(&self) -> Vec<ProviderLine> {
        Vec::new()
    }

    fn provider(&self, _: Viewer, _: Address) -> Option<ProviderView> {
        None
    }

    fn audits(&self) -> Audits {
        Audits::default()
    }

    fn money(&self, viewer: Viewer) -> Money {
        let batch = |row: JobRow| BatchRow {
            batch: 1,
            state: row.model,
            root: Digest::ZERO,
            transaction: None,
            receipts: 1,
            total: TokenAmount::ZERO,
            jobs: vec![row.job],
            posted_at: None,
        };
        Money {
            batches: self.jobs(viewer).into_iter().map(batch).collect(),
            ..Money::default()
        }
    }

    fn key_uses(&self, viewer: Viewer) -> Vec<KeyUse> {
        let records = match viewer {
            Viewer::Operator => self.ring().all(),
            Viewer::Account(account) | Viewer::Key(account, _) => self.ring().of(account),
        };
        // The newest: pages of thousands of keys would be all that this test does.
        let rows = records.into_iter().take(20).map(row);
        let days = Vec::new;
        rows.map(|row| KeyUse { row, days: days() }).collect()
    }

    fn performance(&self) -> Performance {
        unreachable!("no account opens the operator's pages")
    }

    fn check_file(&self, bytes: &[u8]) -> Result<stoa_verify::Report, stoa_verify::BundleError> {
        let bundle = stoa_verify::Bundle::parse(bytes)?;
        Ok(stoa_verify::check_bundle(&bundle))
    }
}

/// xorshift: the same requests in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 11).expect("64 bits") % sides
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        (!of.is_empty()).then(|| &of[self.roll(of.len())])
    }
}

/// What has been learnt: ids that any tenant may try, its own or not.
#[derive(Default)]
struct Seen {
    jobs: Vec<String>,
    keys: Vec<String>,
    /// What each tenant's browser shows.
    cookies: [String; 2],
    /// Secrets of each tenant, the newest last.
    secrets: [Vec<String>; 2],
}

/// One random request of a tenant.
fn request(dice: &mut Dice, seen: &Seen, tenant: usize) -> Request<Body> {
    // Whoever signs out sees nothing any more: the browsers stay signed in.
    let rows: Vec<_> = ROUTES
        .iter()
        .filter(|row| row.path != "/sign-out")
        .collect();
    let route = rows[dice.roll(rows.len())];
    let mut path = route.example.to_owned();
    if let (true, Some(job)) = (route.path.contains("{job}"), dice.pick(&seen.jobs)) {
        path = route.path.replace("{job}", job);
    }
    if let (true, Some(key)) = (route.path.contains("{key}"), dice.pick(&seen.keys)) {
        path = route.path.replace("{key}", key);
    }
    let own = &seen.secrets[tenant];
    let key = match dice.roll(4) {
        0 => dice.pick(own).cloned(),
        _ => None,
    };
    let key = key.unwrap_or_else(|| root_key(tenant));
    let mut request = Request::builder().method(route.method.clone()).uri(path);
    if dice.roll(8) > 0 {
        request = request.header("authorization", format!("Bearer {key}"));
    }
    // A browser in which the tenant is signed in.
    if dice.roll(3) > 0 {
        request = request.header("cookie", &seen.cookies[tenant]);
    }
    if dice.roll(2) == 0 {
        // Few, so that both tenants use the same ones.
        request = request.header("idempotency-key", format!("order {}", dice.roll(50)));
    }
    let body = match dice.roll(4) {
        0 => "{}".to_owned(),
        1 => r#"{"spend_limit":{"amount":"1","period":"day"}}"#.to_owned(),
        n => format!(
            r#"{{"model":"m","prompt":"p","messages":[{{"role":"user","content":"{}"}}],"stream":{}}}"#,
            dice.roll(20),
            n == 2
        ),
    };
    request.body(Body::from(body)).expect("well formed")
}

/// Remembers ids and secrets of an answer for requests to come.
fn learn(seen: &mut Seen, tenant: usize, text: &str, job: Option<&str>) {
    let bound = |list: &mut Vec<String>| {
        if list.len() > 200 {
            list.remove(0);
        }
    };
    if let Some(job) = job {
        seen.jobs.push(job.to_owned());
        bound(&mut seen.jobs);
    }
    let Ok(json) = serde_json::from_str::<serde_json::Value>(text) else {
        return;
    };
    if let Some(secret) = json["secret"].as_str() {
        seen.secrets[tenant].push(secret.to_owned());
        bound(&mut seen.secrets[tenant]);
        seen.keys
            .push(json["id"].as_str().expect("an id").to_owned());
        bound(&mut seen.keys);
    }
}

/// Signs a tenant in by its wallet; gives its browser's cookie.
async fn signed_in(service: &TowerToHyperService<axum::Router>, tenant: usize) -> String {
    let address = account(tenant);
    let path = format!("/sign-in/message?address={address}&origin=https://stoa.example");
    let request = Request::get(path).body(Body::empty()).expect("well formed");
    let Ok(reply) = service.call(request).await;
    let bytes = to_bytes(reply.into_body(), BODY_MAX).await.expect("a body");
    let told: serde_json::Value = serde_json::from_slice(&bytes).expect("JSON");
    let message = told["message"].as_str().expect("a message");
    let signature = wallet(tenant).sign(personal_digest(message.as_bytes()));
    let body = serde_json::json!({"message": message, "signature": signature.to_string()});
    let request = Request::post("/sign-in")
        .body(Body::from(body.to_string()))
        .expect("well formed");
    let Ok(reply) = service.call(request).await;
    let cookie = reply.headers()["set-cookie"].to_str().expect("ASCII");
    cookie.split(';').next().expect("a pair").to_owned()
}

#[tokio::test]
async fn random_requests_of_two_tenants_leak_no_byte_between_them() {
    let asked = std::env::var("STOA_TENANT_REQUESTS").ok();
    let requests = asked.and_then(|n| n.parse().ok()).unwrap_or(REQUESTS);
    let config = ServerConfig {
        seed: [1; 32],
        login_token: "login".to_owned(),
        hosts: vec!["stoa.example".to_owned()],
        timings: Timings {
            header_hold: Duration::from_secs(5),
            ..Timings::STANDARD
        },
        rates: RateLimit {
            requests_per_minute: 100_000_000,
            tokens_per_minute: 100_000_000_000,
        },
        pages_per_minute: 100_000_000,
        reads_per_minute: 100_000_000,
    };
    let service = TowerToHyperService::new(app(Arc::new(House::new()), config));
    let (mut dice, mut seen) = (Dice(0x9e37_79b9_7f4a_7c15), Seen::default());
    for tenant in [0, 1] {
        seen.cookies[tenant] = signed_in(&service, tenant).await;
    }
    let (mut own, mut good) = (0_u64, 0_u64);
    for n in 0..requests {
        let tenant = dice.roll(2);
        let request = request(&mut dice, &seen, tenant);
        let asked = format!("{} {}", request.method(), request.uri());
        let Ok(response) = service.call(request).await;
        let (parts, body) = response.into_parts();
        let live = parts
            .headers
            .get("content-type")
            .is_some_and(|media| media == "text/event-stream");
        let bytes = if live && asked.contains("dashboard") {
            Vec::new() // It never ends.
        } else {
            to_bytes(body, BODY_MAX).await.expect("a body").to_vec()
        };
        let headers = format!("{:?}", parts.headers);
        let text = String::from_utf8(bytes).expect("UTF-8");
        let foreign = canary(1 - tenant);
        assert!(
            !text.contains(&foreign) && !headers.contains(&foreign),
            "request {n}, {asked} of tenant {tenant}: {headers} {text}"
        );
        assert!(parts.status.as_u16() != 500, "request {n}, {asked}: {text}");
        own += u64::from(text.contains(&canary(tenant)));
        good += u64::from(parts.status.is_success());
        let job = parts
            .headers
            .get("x-stoa-job")
            .and_then(|job| job.to_str().ok());
        learn(&mut seen, tenant, &text, job);
    }
    println!(
        "{requests} requests, {good} answered, {own} with the tenant's own data, 0 with another's"
    );
    assert!(
        own > requests / 10,
        "the requests must reach data: {own} of {requests}"
    );
}
