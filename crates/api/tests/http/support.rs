//! A router that follows a script, a real server over it, and a client that shows the bytes.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::Duration;
use stoa_api::{
    Account, AccountRow, Audits, BatchRow, Board, Call, CallView, Calls, Claim, ClaimRow,
    ClientEnd, FailedCall, Fate, Gateway, Grant, IssuedKey, JobRow, Kept, KeyError, KeyFault,
    KeyHash, KeyName, KeyRecord, KeyRing, KeyRow, KeyUse, LossRow, ModelEntry, Money, NewKey,
    Overview, PartState, Performance, ProviderLine, ProviderOwn, ProviderRow, ProviderView,
    RateLimit, ReceiptView, ReplayFault, ReplayId, ReplayStore, RequestLimits, ServerConfig,
    SlashRow, Timings, Viewer, WrittenTokens, serve,
};
use stoa_crypto::{SecretKey, receipt_digest};
use stoa_nodes::client::{Cause, ClientEvent, ClientRequest, Done, KeyId, Started, Undelivered};
use stoa_types::*;
use stoa_verify::{Content, ToolCall};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc, watch};

pub const KEY: &str = "a key of alice";
pub const BOB_KEY: &str = "a key of bob";
pub const REVOKED_KEY: &str = "a key of yesterday";
pub const NOW: Timestamp = Timestamp::from_secs(1_790_000_000);
pub const CHAIN: u64 = 2_147_483_700;
pub const LOGIN: &str = "the-login-token";
pub const BODY_MAX: u64 = 10_000;
pub const JOB: JobId = JobId([0x5a; 32]);
pub const HOSTILE: &str = "<script>alert(1)</script>";

/// One step of a scripted call.
#[derive(Clone)]
pub enum Step {
    Say(ClientEvent),
    Wait(u64),
    /// Stay silent until the client goes.
    Hang,
}

pub fn alice() -> Address {
    SecretKey::for_tests("alice").address()
}

/// While it is shut, whoever passes waits.
#[derive(Default)]
pub struct Gate(Mutex<Waiting>, Condvar);

#[derive(Default)]
struct Waiting {
    shut: bool,
    now: usize,
}

impl Gate {
    pub fn shut(&self, shut: bool) {
        self.0.lock().expect("not poisoned").shut = shut;
        self.1.notify_all();
    }

    pub fn waiting(&self) -> usize {
        self.0.lock().expect("not poisoned").now
    }

    fn pass(&self) {
        let mut waiting = self.0.lock().expect("not poisoned");
        waiting.now += 1;
        waiting = self
            .1
            .wait_while(waiting, |waiting| waiting.shut)
            .expect("not poisoned");
        waiting.now -= 1;
    }
}

/// A router with three keys, one model, one finished job of alice, and a script for every call.
pub struct Hall {
    pub ring: Mutex<KeyRing>,
    drawn: AtomicU64,
    pub kept: Shelf,
    /// What became of jobs; nothing of those that are not here.
    pub fates: Arc<Mutex<BTreeMap<JobId, Fate>>>,
    /// Every call gets an id of its own instead of [`JOB`].
    pub fresh_jobs: bool,
    pub refuses: Option<Cause>,
    pub rates: RateLimit,
    pub pages_per_minute: u32,
    pub reads_per_minute: u32,
    script: Vec<Step>,
    /// What the choices after the first do.
    pub further: Vec<Vec<Step>>,
    /// What was told of choices in turn: their index, whether they were delivered or given up, and the tokens.
    pub told: Arc<Mutex<Vec<(usize, End, u64)>>>,
    /// Counts of what was written of each choice of each call.
    pub written: Mutex<Vec<WrittenTokens>>,
    pub submitted: Mutex<Vec<(Address, ClientRequest)>>,
    /// The client's span of each call.
    pub above: Mutex<Vec<Option<TraceParent>>>,
    pub cancelled: Arc<Notify>,
    pub was_cancelled: Arc<AtomicBool>,
    /// Tokens that the client had got when its call was cancelled.
    pub read: Arc<AtomicU64>,
    /// Tokens that it was said to have got in all.
    pub delivered: Arc<watch::Sender<Option<u64>>>,
    pub ready: bool,
    /// Counts up when the pages change.
    pub changes: watch::Sender<u64>,
    /// Height that the pages show.
    pub block: AtomicU64,
    /// Holds the pages of accounts back.
    pub gate: Gate,
    /// Bounded as in a router.
    channel: usize,
}

impl Hall {
    pub fn new(script: Vec<Step>) -> Self {
        let mut keys = KeyRing::default();
        keys.add(KeyHash::of(KEY), alice());
        keys.add(KeyHash::of(BOB_KEY), SecretKey::for_tests("bob").address());
        keys.add(KeyHash::of(REVOKED_KEY), alice());
        keys.revoke(KeyHash::of(REVOKED_KEY));
        Self {
            ring: Mutex::new(keys),
            drawn: AtomicU64::new(0),
            kept: Shelf::default(),
            fates: Arc::default(),
            fresh_jobs: false,
            refuses: None,
            rates: RateLimit {
                requests_per_minute: 60_000,
                tokens_per_minute: 100_000_000,
            },
            pages_per_minute: 120,
            reads_per_minute: 600,
            script,
            further: Vec::new(),
            told: Arc::default(),
            written: Mutex::default(),
            submitted: Mutex::default(),
            above: Mutex::default(),
            cancelled: Arc::default(),
            was_cancelled: Arc::default(),
            read: Arc::default(),
            delivered: Arc::new(watch::Sender::new(None)),
            ready: true,
            changes: watch::Sender::new(0),
            block: AtomicU64::new(12),
            gate: Gate::default(),
            channel: 8,
        }
    }

    /// Makes a key of alice behind `secret`.
    pub fn key(&self, secret: &str, new: NewKey) -> KeyRecord {
        let owner = self.authenticate(KEY).expect("alice's");
        let id = KeyId(self.drawn.fetch_add(1, Ordering::SeqCst) + 1);
        let mut ring = self.ring.lock().expect("not poisoned");
        ring.create(&owner, new, id, KeyHash::of(secret), NOW)
            .expect("made")
    }

    /// Makes a key of alice that may do no more than `grant` says.
    pub fn limited(&self, secret: &str, grant: Grant) -> KeyRecord {
        let new = NewKey {
            grant,
            ..NewKey::default()
        };
        self.key(secret, new)
    }

    pub fn submissions(&self) -> usize {
        self.submitted.lock().expect("not poisoned").len()
    }

    /// One choice of a call.
    fn line(&self, request: JobId, at: usize) -> Call {
        let job = choice_of(request, at);
        let (sender, events) = mpsc::channel(self.channel);
        let script = match at {
            0 => self.script.clone(),
            further => self.further[further - 1].clone(),
        };
        let is_delivered = match at {
            0 => self.delivered.clone(),
            _ => Arc::new(watch::Sender::new(None)),
        };
        let mut delivered = is_delivered.subscribe();
        let fates = self.fates.clone();
        tokio::spawn(async move {
            for step in script {
                match step {
                    Step::Say(event) => {
                        let complete = matches!(event, ClientEvent::Complete(_));
                        if sender.send(event).await.is_err() {
                            return;
                        }
                        // As a router: the end follows when the client has got everything.
                        if complete {
                            if delivered.wait_for(Option::is_some).await.is_err() {
                                return;
                            }
                            let mut fates = fates.lock().expect("not poisoned");
                            fates.insert(job, Fate::Charged);
                        }
                    }
                    Step::Wait(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
                    Step::Hang => sender.closed().await,
                }
            }
        });
        let (notify, flag) = (self.cancelled.clone(), self.was_cancelled.clone());
        let (read, told, ends) = (self.read.clone(), self.told.clone(), self.told.clone());
        let gone = move |tokens| {
            read.store(tokens, Ordering::SeqCst);
            flag.store(true, Ordering::SeqCst);
            let mut told = told.lock().expect("not poisoned");
            told.push((at, End::Gone, tokens));
            notify.notify_one();
        };
        let written = WrittenTokens::default();
        self.written
            .lock()
            .expect("not poisoned")
            .push(written.clone());
        let client = ClientEnd::new(
            written,
            move |tokens| {
                let mut told = ends.lock().expect("not poisoned");
                told.push((at, End::Delivered, tokens));
                is_delivered.send_replace(Some(tokens));
            },
            gone,
        );
        Call {
            job,
            events,
            client,
        }
    }
}

/// How a choice ended for its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Delivered,
    Gone,
}

/// Id of a choice of a request.
pub fn choice_of(request: JobId, at: usize) -> JobId {
    let mut job = request;
    job.0[31] ^= at as u8;
    job
}

impl Gateway for Hall {
    fn authenticate(&self, key: &str) -> Result<Account, KeyError> {
        let ring = self.ring.lock().expect("not poisoned");
        ring.authenticate(key, NOW)
    }

    fn keys(&self, account: Address) -> Vec<KeyRow> {
        let ring = self.ring.lock().expect("not poisoned");
        ring.of(account).into_iter().map(key_row).collect()
    }

    fn key(&self, account: Address, key: KeyName) -> Option<KeyRow> {
        let ring = self.ring.lock().expect("not poisoned");
        ring.get(account, key).map(key_row)
    }

    fn spend_left(&self, caller: &Account) -> Option<TokenAmount> {
        let limit = caller.grant.spend_limit?.amount;
        limit.checked_sub(TokenAmount::from_units(3))
    }

    fn create_key(&self, by: &Account, new: NewKey) -> Result<IssuedKey, KeyFault> {
        let id = KeyId(self.drawn.fetch_add(1, Ordering::SeqCst) + 1);
        let secret = format!("made {}", id.0);
        let mut ring = self.ring.lock().expect("not poisoned");
        let record = ring.create(by, new, id, KeyHash::of(&secret), NOW)?;
        let row = key_row(record);
        Ok(IssuedKey { secret, row })
    }

    fn rotate_key(&self, by: &Account, key: KeyName, grace: Millis) -> Result<IssuedKey, KeyFault> {
        let secret = format!("rotated {}", self.drawn.fetch_add(1, Ordering::SeqCst));
        let mut ring = self.ring.lock().expect("not poisoned");
        let record = ring.rotate(by.address, key, KeyHash::of(&secret), grace, NOW)?;
        let row = key_row(record);
        Ok(IssuedKey { secret, row })
    }

    fn revoke_key(&self, by: &Account, key: KeyName) -> Result<KeyRow, KeyFault> {
        let mut ring = self.ring.lock().expect("not poisoned");
        ring.revoke_own(by.address, key, NOW).map(key_row)
    }

    fn new_job(&self, _: &Account) -> Option<JobId> {
        if !self.fresh_jobs {
            return Some(JOB);
        }
        let mut job = JOB;
        job.0[..8].copy_from_slice(&self.drawn.fetch_add(1, Ordering::SeqCst).to_be_bytes());
        Some(job)
    }

    fn would_refuse(&self, _: &Account, _: &ClientRequest) -> Option<Cause> {
        self.refuses.clone()
    }

    fn fate(&self, job: JobId, choices: u32) -> Fate {
        let fates = self.fates.lock().expect("not poisoned");
        let jobs = (0..choices as usize).map(|at| choice_of(job, at));
        let fate = |job| fates.get(&job).copied().unwrap_or(Fate::Nothing);
        let all: Vec<_> = jobs.map(|job| (job, fate(job))).collect();
        match all.iter().find(|(_, fate)| *fate == Fate::Charged) {
            Some((first, _)) if all.iter().any(|(_, fate)| *fate != Fate::Charged) => {
                Fate::Partly(*first)
            }
            _ => all[0].1,
        }
    }

    fn replays(&self) -> &dyn ReplayStore {
        &self.kept
    }

    fn submit(
        &self,
        caller: &Account,
        job: JobId,
        request: ClientRequest,
        above: Option<TraceParent>,
    ) -> Vec<Call> {
        self.above.lock().expect("not poisoned").push(above);
        let choices = request.choices as usize;
        self.submitted
            .lock()
            .expect("not poisoned")
            .push((caller.address, request));
        (0..choices).map(|at| self.line(job, at)).collect()
    }

    fn models(&self) -> Vec<ModelEntry> {
        vec![ModelEntry {
            id: "stoa/tiny".to_owned(),
            created: Timestamp::from_secs(1_790_000_000),
            context: 1024,
            output_tokens_max: 512,
            input_price: price("0.1"),
            output_price: price("0.4"),
            quantization: "q8_0".to_owned(),
            model_root: Digest([3; 32]),
            tiers: vec![Tier::Exact],
            regions: vec![Region(*b"XA")],
            providers: 3,
            free_slots: 6,
        }]
    }

    fn receipt(&self, viewer: Viewer, job: JobId) -> Option<ReceiptView> {
        self.explain(viewer, job)?;
        let done = done(content("four", &[]));
        Some(ReceiptView {
            receipt: done.receipt,
            state: JobState::Delivered,
            parameters: Some(done.parameters),
            proof: None,
        })
    }

    fn explain(&self, viewer: Viewer, job: JobId) -> Option<Value> {
        // The job came with alice's own key, not with a limited one.
        let may = viewer == Viewer::Operator || viewer == Viewer::Account(alice());
        (may && job == JOB)
            .then(|| json!({"seed": 7, "candidates": [{"provider": HOSTILE, "score": 12}]}))
    }

    fn account(&self, account: Address) -> Option<AccountRow> {
        (account == alice()).then(|| account_row(account))
    }

    fn jobs(&self, viewer: Viewer) -> Vec<JobRow> {
        if viewer != Viewer::Operator {
            self.gate.pass();
        }
        let jobs = vec![job_row()];
        if viewer == Viewer::Account(alice()) {
            jobs
        } else {
            Vec::new()
        }
    }

    fn claims(&self) -> Vec<ClaimRow> {
        Vec::new()
    }

    fn providers(&self) -> Vec<ProviderRow> {
        vec![provider_row()]
    }

    fn board(&self) -> &dyn Board {
        self
    }

    fn limits(&self) -> RequestLimits {
        RequestLimits {
            body_bytes_max: BODY_MAX,
            output_tokens_max: 512,
            output_tokens_default: 256,
            calls_max: None,
        }
    }

    fn ready(&self) -> Vec<PartState> {
        let problem = (!self.ready).then(|| "disk at /secret/path is full".to_owned());
        vec![
            PartState {
                part: "chain",
                problem: None,
            },
            PartState {
                part: "store",
                problem,
            },
        ]
    }
}

impl Board for Hall {
    fn now(&self) -> Timestamp {
        NOW
    }

    fn chain_id(&self) -> u64 {
        CHAIN
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn knows(&self, account: Address) -> bool {
        account == alice() || account == SecretKey::for_tests("bob").address()
    }

    fn overview(&self, viewer: Viewer) -> Overview {
        if viewer != Viewer::Operator {
            self.gate.pass();
        }
        let own = viewer == Viewer::Operator || viewer == Viewer::Account(alice());
        Overview {
            now: Timestamp::from_secs(1_790_000_060),
            chain_id: CHAIN,
            block: self.block.load(Ordering::SeqCst),
            router: SecretKey::for_tests("router").address(),
            active: 0,
            parts: self.ready(),
            jobs: if own { vec![job_row()] } else { Vec::new() },
            accounts: if own {
                vec![account_row(alice())]
            } else {
                Vec::new()
            },
            batches: vec![batch_row()],
            providers: vec![provider_row()],
        }
    }

    fn calls(&self, viewer: Viewer) -> Calls {
        let own = viewer == Viewer::Operator || viewer == Viewer::Account(alice());
        let failed = FailedCall {
            job: JobId([0x5b; 32]),
            account: alice(),
            model: HOSTILE.to_owned(),
            cause: HOSTILE.to_owned(),
            billed: TokenAmount::ZERO,
            at: NOW,
        };
        Calls {
            jobs: if own { vec![job_row()] } else { Vec::new() },
            failed: if own { vec![failed] } else { Vec::new() },
        }
    }

    fn call(&self, viewer: Viewer, job: JobId) -> Option<CallView> {
        let receipt = self.receipt(viewer, job)?;
        let report = stoa_verify::check_receipt(&receipt.receipt, None);
        Some(CallView {
            row: Some(job_row()),
            failed: None,
            decision: Some(decision()),
            losses: vec![loss_row()],
            report: Some(report),
            receipt: Some(receipt),
            batch: Some((1, Some(Digest([8; 32])))),
        })
    }

    fn provider_lines(&self) -> Vec<ProviderLine> {
        vec![provider_line()]
    }

    fn provider(&self, viewer: Viewer, id: Address) -> Option<ProviderView> {
        let own = viewer == Viewer::Operator || viewer == Viewer::Account(id);
        (id == provider_key().address()).then(|| ProviderView {
            line: provider_line(),
            offers: Vec::new(),
            slashes: vec![slash_row()],
            rulings: Vec::new(),
            own: own.then(|| ProviderOwn {
                losses: vec![loss_row()],
                ..ProviderOwn::default()
            }),
        })
    }

    fn audits(&self) -> Audits {
        Audits {
            followed: true,
            slashes: vec![slash_row()],
            ..Audits::default()
        }
    }

    fn money(&self, viewer: Viewer) -> Money {
        let overview = self.overview(viewer);
        Money {
            accounts: overview.accounts,
            batches: overview.batches,
            payouts: Vec::new(),
        }
    }

    fn key_uses(&self, viewer: Viewer) -> Vec<KeyUse> {
        let ring = self.ring.lock().expect("not poisoned");
        let records = match viewer {
            Viewer::Operator => ring.all(),
            Viewer::Account(account) | Viewer::Key(account, _) => ring.of(account),
        };
        let used = |record| KeyUse {
            row: key_row(record),
            days: vec![(20_717, TokenAmount::from_units(3))],
        };
        records.into_iter().map(used).collect()
    }

    fn performance(&self) -> Performance {
        Performance {
            calls: 3,
            matched: 2,
            unmatched: 1,
            ..Performance::default()
        }
    }

    fn check_file(&self, bytes: &[u8]) -> Result<stoa_verify::Report, stoa_verify::BundleError> {
        Ok(stoa_verify::check_bundle(&stoa_verify::Bundle::parse(
            bytes,
        )?))
    }
}

fn decision() -> stoa_market::Decision {
    let candidate = |provider, output_price| stoa_market::Candidate {
        provider,
        input_price: price("0.1"),
        output_price,
        ttft_ms: 40,
        ok: 1,
        total: 1,
        reputation_ppm: 500_000,
        region: Region(*b"XA"),
        tier: Tier::Exact,
        free_slots: 1,
        warm: true,
        online: true,
        context: 4_096,
    };
    let other = candidate(
        SecretKey::for_tests("other provider").address(),
        price("0.8"),
    );
    let candidates = vec![candidate(provider_key().address(), price("0.4")), other];
    let text = NetworkProfile::builtin_text("stoa").expect("built in");
    let routing = &NetworkProfile::parse(text).expect("valid").routing;
    let weights = stoa_market::Weights::from(routing);
    let snapshot = stoa_market::Snapshot::new(candidates, weights, 10, 10);
    let constraints = stoa_market::Constraints::default();
    stoa_market::decide(&snapshot, &constraints, Digest([7; 32])).expect("both match")
}

fn loss_row() -> LossRow {
    LossRow {
        job: JOB,
        provider: provider_key().address(),
        attempt: 0,
        cause: "the provider broke off".to_owned(),
        counts: true,
        at: NOW,
        taken: Some((NOW, Timestamp::from_secs(1_790_000_120))),
    }
}

fn slash_row() -> SlashRow {
    SlashRow {
        at: NOW,
        transaction: Digest([8; 32]),
        offender: provider_key().address(),
        role: "provider",
        severity_bps: 2_500,
        taken: StakeAmount::from_units(10),
        developer: StakeAmount::from_units(4),
        challenger: StakeAmount::from_units(4),
        burned: StakeAmount::from_units(2),
        fault: Digest([2; 32]),
        why: Some("wrong output".to_owned()),
    }
}

fn provider_line() -> ProviderLine {
    ProviderLine {
        row: provider_row(),
        stake: None,
        slashes: 1,
        reliability: (1, 2),
        scored: None,
    }
}

fn key_row(record: KeyRecord) -> KeyRow {
    KeyRow {
        record,
        spent: TokenAmount::from_units(3),
        held: TokenAmount::ZERO,
        resets_at: None,
    }
}

/// Keeps answers in memory.
#[derive(Default)]
pub struct Shelf {
    pub kept: Mutex<BTreeMap<ReplayId, Kept>>,
    pub full: AtomicBool,
    /// There is room for claims and none for answers.
    pub loses: AtomicBool,
}

impl ReplayStore for Shelf {
    fn find(&self, id: ReplayId) -> Result<Option<Kept>, ReplayFault> {
        Ok(self.kept.lock().expect("not poisoned").get(&id).cloned())
    }

    fn claim(&self, id: ReplayId, claim: &Claim) -> Result<(), ReplayFault> {
        if self.full.load(Ordering::SeqCst) {
            return Err(ReplayFault::Full);
        }
        let mut kept = self.kept.lock().expect("not poisoned");
        kept.insert(id, Kept::Claimed(*claim));
        Ok(())
    }

    fn prepare(&self, id: ReplayId, claim: &Claim, sealed: &[u8]) -> Result<(), ReplayFault> {
        if self.loses.load(Ordering::SeqCst) {
            return Err(ReplayFault::Full);
        }
        let mut kept = self.kept.lock().expect("not poisoned");
        kept.insert(id, Kept::Prepared(*claim, sealed.to_vec()));
        Ok(())
    }

    fn answer(&self, id: ReplayId, claim: &Claim, sealed: &[u8]) -> Result<(), ReplayFault> {
        if self.loses.load(Ordering::SeqCst) {
            return Err(ReplayFault::Full);
        }
        let mut kept = self.kept.lock().expect("not poisoned");
        kept.insert(id, Kept::Answered(*claim, sealed.to_vec()));
        Ok(())
    }

    fn forget(&self, id: ReplayId) {
        self.kept.lock().expect("not poisoned").remove(&id);
    }
}

fn price(text: &str) -> Price {
    Price::per_million(TokenAmount::parse(text).expect("valid"))
}

fn account_row(account: Address) -> AccountRow {
    let amount = |text| TokenAmount::parse(text).expect("valid");
    AccountRow {
        account,
        vault_balance: amount("100"),
        allotment_cap: amount("50"),
        reserved: amount("0.5"),
        charged: amount("1.25"),
        available: amount("48.25"),
        expires_at: Timestamp::from_secs(1_790_080_000),
    }
}

fn provider_row() -> ProviderRow {
    ProviderRow {
        id: provider_key().address(),
        online: true,
        region: Region(*b"XA"),
        models: vec![HOSTILE.to_owned()],
        input_price: price("0.1"),
        output_price: price("0.4"),
        slots: 4,
        free_slots: 3,
        reputation_ppm: 500_000,
        jobs: 2,
        ttft_ms: Some(41),
    }
}

fn job_row() -> JobRow {
    JobRow {
        job: JOB,
        state: JobState::Delivered,
        model: HOSTILE.to_owned(),
        provider: Some(provider_key().address()),
        output_price: Some(price("0.4")),
        amount: TokenAmount::from_units(3),
        ttft_ms: Some(41),
        input_units: 5,
        output_units: 7,
        reserved_at: Timestamp::from_secs(1_790_000_000),
    }
}

fn batch_row() -> BatchRow {
    BatchRow {
        batch: 1,
        state: "posted".to_owned(),
        root: Digest([9; 32]),
        transaction: Some(Digest([8; 32])),
        receipts: 1,
        total: TokenAmount::from_units(3),
        jobs: vec![JOB],
        posted_at: Some(Timestamp::from_secs(1_790_000_030)),
    }
}

fn provider_key() -> SecretKey {
    SecretKey::for_tests("provider")
}

pub fn started() -> Started {
    Started {
        provider: provider_key().address(),
        tier: Tier::Exact,
        region: Region(*b"XA"),
        failovers: 1,
        reasons: false,
    }
}

pub fn content(text: &str, calls: &[(&str, &str)]) -> Content {
    let tool_calls: Vec<_> = calls
        .iter()
        .map(|(name, arguments)| ToolCall {
            name: (*name).to_owned(),
            arguments: (*arguments).to_owned(),
        })
        .collect();
    let finish_reason = if tool_calls.is_empty() {
        FinishReason::Stop
    } else {
        FinishReason::ToolCalls
    };
    Content {
        text: text.to_owned(),
        tool_calls,
        finish_reason,
        input_units: 1_000_005,
        output_units: 7,
    }
}

/// A finished call with a receipt that both parties signed.
pub fn done(content: Content) -> Done {
    let parameters = SamplingParameters {
        temperature: Q16::ONE,
        min_p: Q16(0),
        seed: 42,
        max_output_tokens: 256,
        stop: Vec::new(),
        ..SamplingParameters::default()
    };
    let router = SecretKey::for_tests("router");
    let receipt = Receipt {
        version: RECEIPT_VERSION,
        chain_id: 2_147_483_700,
        vault: Address([4; 20]),
        profile_hash: Digest([5; 32]),
        job_id: JOB,
        account: alice(),
        router: router.address(),
        provider: provider_key().address(),
        model_root: Digest([3; 32]),
        runtime_digest: Digest([6; 32]),
        parameters_digest: stoa_crypto::keccak256(parameters.canonical_bytes()),
        prompt_root: Digest([7; 32]),
        request_digest: Digest([8; 32]),
        output_root: Digest([9; 32]),
        response_digest: content.digest(),
        input_units: content.input_units,
        output_units: content.output_units,
        input_price: price("0.1"),
        output_price: price("0.4"),
        charge: TokenAmount::from_units(100_003),
        fee_version: 1,
        paid_by: PaidBy::Allotment,
        tier: Tier::Exact,
        evidence_digest: Digest::ZERO,
        ticket_hash: Digest([10; 32]),
        attempt: 1,
        segments_root: Digest::ZERO,
        accepted_at: Timestamp(1_790_000_000_000),
        delivered_at: Timestamp(1_790_000_000_250),
    };
    let digest = receipt_digest(&receipt);
    let (provider_signature, router_signature) = (provider_key().sign(digest), router.sign(digest));
    Done {
        shortened: false,
        content,
        reasoning_units: 0,
        receipt: SignedReceipt {
            receipt,
            provider_signature,
            router_signature,
        },
        parameters,
        started: started(),
        ttft_ms: 41,
        refund: TokenAmount::from_units(250_000),
    }
}

/// The script of an answer that arrives in these pieces.
pub fn answer(pieces: &[&str], content: Content) -> Vec<Step> {
    let mut script = vec![Step::Say(ClientEvent::Started(started()))];
    script.extend(pieces.iter().map(|piece| delta(piece)));
    let done = Arc::new(done(content));
    script.push(Step::Say(ClientEvent::Complete(done.clone())));
    script.push(Step::Say(ClientEvent::Done(done)));
    script
}

/// A delta of one token with its log-probability and that of one other.
pub fn likely_delta(id: u32, bytes: &[u8], text: &str, logprob: i32) -> Step {
    let one = |id, bytes: &[u8], logprob| TokenLogprob {
        id,
        bytes: TokenBytes(bytes.to_vec()),
        logprob: SignedQ16(logprob),
    };
    Step::Say(ClientEvent::Delta {
        text: text.to_owned(),
        tokens: 1,
        logprobs: vec![Logprobs {
            chosen: one(id, bytes, logprob),
            top: vec![one(9, b"other", -1)],
        }],
    })
}

pub fn delta(text: &str) -> Step {
    Step::Say(ClientEvent::Delta {
        text: text.to_owned(),
        tokens: 1,
        logprobs: Vec::new(),
    })
}

/// A server on a free port, gone with the value.
pub struct Server {
    pub address: SocketAddr,
    pub hall: Arc<Hall>,
    _stop: tokio::sync::oneshot::Sender<()>,
}

pub fn quick() -> Timings {
    Timings {
        header_hold: Duration::from_secs(20),
        keep_alive: Duration::from_secs(15),
        slow_reader: Duration::from_secs(20),
        upload: Duration::from_secs(20),
        first_request: Duration::from_secs(20),
        idle: Duration::from_secs(20),
        connections_max: 100,
    }
}

impl Server {
    pub async fn start(script: Vec<Step>) -> Self {
        Self::with(Hall::new(script), quick()).await
    }

    pub async fn with(hall: Hall, timings: Timings) -> Self {
        Self::seeded(hall, timings, [1; 32]).await
    }

    pub async fn seeded(hall: Hall, timings: Timings, seed: [u8; 32]) -> Self {
        let hall = Arc::new(hall);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let config = ServerConfig {
            seed,
            login_token: LOGIN.to_owned(),
            hosts: vec!["localhost".to_owned(), "stoa.example".to_owned()],
            timings,
            rates: hall.rates,
            pages_per_minute: hall.pages_per_minute,
            reads_per_minute: hall.reads_per_minute,
        };
        let gateway = hall.clone();
        tokio::spawn(async move {
            serve(listener, gateway, config, async { drop(stopped.await) })
                .await
                .expect("serves");
        });
        Self {
            address,
            hall,
            _stop: stop,
        }
    }

    pub async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Reply {
        let mut stream = self.open(method, path, headers, body).await;
        let mut bytes = Vec::new();
        stream
            .read_to_end(&mut bytes)
            .await
            .expect("a whole answer");
        Reply::parse(&bytes)
    }

    pub async fn open(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> TcpStream {
        let mut head =
            format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if method == "POST" || !body.is_empty() {
            head.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        let mut stream = TcpStream::connect(self.address).await.expect("listening");
        stream.write_all(head.as_bytes()).await.expect("sent");
        stream.write_all(body).await.expect("sent");
        stream
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.send("GET", path, &[AUTHORIZED], b"").await
    }

    pub async fn post(&self, path: &str, body: &[u8]) -> Reply {
        self.send("POST", path, &[AUTHORIZED, JSON], body).await
    }

    pub async fn chat(&self, body: Value) -> Reply {
        self.post("/v1/chat/completions", body.to_string().as_bytes())
            .await
    }

    /// Waits until the script's call is cancelled.
    pub async fn cancelled(&self) {
        let wait = tokio::time::timeout(Duration::from_secs(10), self.hall.cancelled.notified());
        wait.await.expect("the call was cancelled");
    }
}

pub const AUTHORIZED: (&str, &str) = ("authorization", "Bearer a key of alice");
pub const JSON: (&str, &str) = ("content-type", "application/json");

/// A minimal chat request with changes.
pub fn request(changes: Value) -> Value {
    let mut body = json!({"model": "stoa/tiny", "messages": [{"role": "user", "content": "2+2?"}]});
    for (name, value) in changes.as_object().expect("an object") {
        body[name] = value.clone();
    }
    body
}

/// One answer, as bytes on the wire say it.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn parse(bytes: &[u8]) -> Self {
        let end = bytes
            .windows(4)
            .position(|w| w == b"\r\n\r\n")
            .expect("a head");
        let head = std::str::from_utf8(&bytes[..end]).expect("ASCII");
        let mut lines = head.lines();
        let status = lines
            .next()
            .and_then(|line| line.split(' ').nth(1))
            .expect("a status line");
        let headers: BTreeMap<_, _> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        let body = &bytes[end + 4..];
        let chunked = headers
            .get("transfer-encoding")
            .is_some_and(|coding| coding == "chunked");
        let body = if chunked {
            join_chunks(body)
        } else {
            body.to_vec()
        };
        Self {
            status: status.parse().expect("a number"),
            headers,
            body,
        }
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("UTF-8")
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    /// `data:` of each event, without comments.
    pub fn events(&self) -> Vec<&str> {
        self.text()
            .split("\n\n")
            .filter_map(|event| event.strip_prefix("data: "))
            .collect()
    }

    /// The events before `[DONE]` as JSON.
    pub fn chunks(&self) -> Vec<Value> {
        let events = self
            .events()
            .into_iter()
            .take_while(|data| *data != "[DONE]");
        events
            .map(|data| serde_json::from_str(data).expect("JSON"))
            .collect()
    }

    /// Status, code and whether a retry is advised, after checking what every error must have.
    pub fn error(&self) -> (u16, String, bool) {
        let json = self.json();
        let error = &json["error"];
        for key in ["message", "type", "param", "code"] {
            assert!(error.get(key).is_some(), "{key} is missing: {json}");
        }
        assert!(error["stoa"]["cause"].is_string(), "{json}");
        assert!(
            error["message"].as_str().expect("text").contains("billed"),
            "{json}"
        );
        assert_eq!(
            self.headers["x-request-id"],
            error["stoa"]["request_id"].as_str().expect("text")
        );
        let retry = &self.headers["x-should-retry"];
        match retry.as_str() {
            "true" => {
                let ms: u64 = self.headers["retry-after-ms"].parse().expect("a number");
                let seconds: u64 = self.headers["retry-after"].parse().expect("a number");
                assert!(ms > 0 && ms <= 120_000 && seconds == ms.div_ceil(1000));
            }
            "false" => assert!(!self.headers.contains_key("retry-after-ms")),
            other => panic!("x-should-retry: {other}"),
        }
        (
            self.status,
            error["code"].as_str().expect("text").to_owned(),
            retry == "true",
        )
    }
}

fn join_chunks(mut bytes: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = bytes.windows(2).position(|w| w == b"\r\n") {
        let size = std::str::from_utf8(&bytes[..end]).expect("ASCII");
        let size = usize::from_str_radix(size, 16).expect("a chunk size");
        body.extend_from_slice(&bytes[end + 2..end + 2 + size]);
        bytes = &bytes[end + 2 + size + 2..];
    }
    body
}

/// An order that the provider took and did not deliver.
pub fn undelivered() -> Undelivered {
    let ticket = Ticket {
        job_id: JOB,
        account: Address([2; 20]),
        router: SecretKey::for_tests("router").address(),
        provider: provider_key().address(),
        model_root: Digest([3; 32]),
        parameters_digest: Digest([4; 32]),
        request_digest: Digest([8; 32]),
        work_digest: Digest([5; 32]),
        input_price: Price::default(),
        output_price: Price::default(),
        input_units_max: 10,
        output_units_max: 20,
        reserve: TokenAmount::from_units(1_000),
        fee_version: 1,
        tier: Tier::Exact,
        attempt: 0,
        issued_at: NOW,
        deadline: NOW.plus(stoa_types::Millis::from_secs(120)),
    };
    let acceptance = Acceptance {
        ticket: Digest([10; 32]),
        accepted_at: NOW,
    };
    let signature = provider_key().sign(Digest([11; 32]));
    Undelivered {
        ticket: SignedTicket { ticket, signature },
        acceptance: SignedAcceptance {
            acceptance,
            signature,
        },
    }
}
