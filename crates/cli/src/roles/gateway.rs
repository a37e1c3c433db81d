//! The router as the HTTP surface sees it.

use super::audit_watch::AuditWatch;
use super::keys::KeyStore;
use super::payouts::PayoutTrees;
use super::replays::Replays;
use super::router::{RouterHandle, now};
use super::trail::Trail;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use stoa_api::{
    Account, AccountRow, BatchRow, Board, Call, ClaimRow, ClientEnd, Fate, Gateway, IssuedKey,
    JobRow, KeyError, KeyFault, KeyName, KeyRecord, KeyRow, ModelEntry, NewKey, PartState,
    ProviderRow, ReceiptView, ReplayStore, RequestLimits, Viewer, WrittenTokens,
};
use stoa_crypto::MerkleTree;
use stoa_ledger::book::{BatchRecord, PayoutClaim, RouterBook};
use stoa_nodes::client::{Cause, ClientRequest};
use stoa_nodes::message::ModelOffer;
use stoa_nodes::router::{JobSummary, Standing};
use stoa_types::{
    Address, Digest, JobId, JobState, Millis, Price, Timestamp, TokenAmount, TraceParent,
};
use stoa_verify::{BatchStatement, SettlementProof};

/// Jobs, batches and jobs per batch on the dashboard.
const JOBS_SHOWN: usize = 50;
pub(super) const BATCHES_SHOWN: usize = 20;
pub(super) const JOBS_PER_BATCH_SHOWN: usize = 24;
/// A limited key's jobs are looked for among so many of its account's newest.
const JOBS_LOOKED_THROUGH: usize = 5_000;
/// Trees of batches that are kept; one of 10,000 receipts takes less than a MiB.
const TREES_KEPT: usize = 32;

/// What the dashboard and `stoa account` know of the chain, refreshed by whoever watches it.
#[derive(Debug, Clone, Default)]
pub struct ChainView {
    /// Height.
    pub block: u64,
    /// Free balances in the vault.
    pub vault_balances: BTreeMap<Address, TokenAmount>,
    /// When each model was first offered.
    pub first_offered: BTreeMap<String, Timestamp>,
    /// Transaction of each posted batch.
    pub posted: BTreeMap<u64, Digest>,
    /// What each provider claimed under each fee version.
    pub claimed: BTreeMap<(Address, u16), TokenAmount>,
    /// Stakes, slashes and rulings. Shared, since it is copied with the rest at every look.
    pub trail: Arc<Trail>,
    /// What is wrong with the chain, if anything.
    pub problem: Option<String>,
}

/// The view, shared. Who reads it has it as it is now for as long as needed, and copies nothing; who changes it changes the next one.
#[derive(Clone, Default)]
pub struct SharedView(Arc<Mutex<Arc<ChainView>>>);

impl SharedView {
    fn lock(&self) -> MutexGuard<'_, Arc<ChainView>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As it is now.
    pub fn read(&self) -> Arc<ChainView> {
        self.lock().clone()
    }

    /// Changes what is read from now on.
    pub fn change<T>(&self, change: impl FnOnce(&mut ChainView) -> T) -> T {
        change(Arc::make_mut(&mut self.lock()))
    }
}

/// [`Gateway`] over a running router.
pub struct RouterGateway {
    pub(super) router: RouterHandle,
    pub(super) keys: KeyStore,
    replays: Replays,
    view: SharedView,
    payouts: PayoutTrees,
    calls_max: u32,
    /// What the chain says of audits, where the network has them.
    pub(super) audits: Option<AuditWatch>,
    sealed: Mutex<SealedBatches>,
}

/// What sealed batches never change and take long to work out: kept, so that the router's lock is held briefly.
#[derive(Default)]
struct SealedBatches {
    /// Trees that were asked for last, newest last.
    trees: VecDeque<(u64, Arc<MerkleTree>)>,
    /// Sums of the charges.
    totals: BTreeMap<u64, TokenAmount>,
}

impl RouterGateway {
    /// Serves `router` to the holders of `keys`.
    pub fn new(
        router: RouterHandle,
        (keys, replays): (KeyStore, Replays),
        (view, payouts): (SharedView, PayoutTrees),
        calls_max: u32,
        audits: Option<AuditWatch>,
    ) -> Self {
        Self {
            router,
            keys,
            replays,
            view,
            payouts,
            calls_max,
            audits,
            sealed: Mutex::default(),
        }
    }

    fn sealed(&self) -> MutexGuard<'_, SealedBatches> {
        self.sealed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tree of a sealed batch. It is hashed while nobody waits for a lock.
    fn tree(&self, index: u64) -> Option<Arc<MerkleTree>> {
        let kept = |sealed: &SealedBatches| {
            let tree = sealed.trees.iter().find(|(known, _)| *known == index);
            tree.map(|(_, tree)| tree.clone())
        };
        if let Some(tree) = kept(&self.sealed()) {
            return Some(tree);
        }
        let leaves = self.router.core().book().leaves_of(index)?;
        let tree = Arc::new(MerkleTree::new(leaves));
        let mut sealed = self.sealed();
        if kept(&sealed).is_none() {
            sealed.trees.push_back((index, tree.clone()));
            if sealed.trees.len() > TREES_KEPT {
                sealed.trees.pop_front();
            }
        }
        Some(tree)
    }

    pub(super) fn batch_total(&self, book: &RouterBook, index: u64) -> TokenAmount {
        if let Some(total) = self.sealed().totals.get(&index) {
            return *total;
        }
        let charges = book
            .jobs_of(index)
            .iter()
            .filter_map(|job| book.receipt(*job))
            .map(|signed| signed.receipt.charge);
        let total = TokenAmount::checked_sum(charges).unwrap_or_default();
        let mut sealed = self.sealed();
        sealed.totals.insert(index, total);
        if sealed.totals.len() > 2 * BATCHES_SHOWN {
            sealed.totals.pop_first();
        }
        total
    }

    pub(super) fn view(&self) -> Arc<ChainView> {
        self.view.read()
    }

    /// Whether `viewer` may see the job. Whose it is, its id says where no book does: it tells the key that it came with.
    pub(super) fn may_see(&self, viewer: Viewer, job: JobId) -> bool {
        let core = self.router.core();
        let owner = core
            .book()
            .receipt(job)
            .map(|signed| signed.receipt.account)
            .or_else(|| core.account_of(job))
            .or_else(|| self.keys.account_of(core.key_of(job)));
        match (viewer, owner) {
            (Viewer::Operator, _) => true,
            (Viewer::Account(account), Some(owner)) => account == owner,
            (Viewer::Key(account, key), Some(owner)) => account == owner && key == core.key_of(job),
            (Viewer::Account(_) | Viewer::Key(..), None) => false,
        }
    }
}

impl RouterGateway {
    pub(super) fn key_row(&self, record: KeyRecord) -> KeyRow {
        let budget = record.grant.budget(record.id.0, now());
        let (first_day, resets_at) = budget.map_or((0, None), |b| (b.first_day, b.resets_at));
        let (spent, held) = self.router.core().spent_by(record.id.0, first_day);
        KeyRow {
            record,
            spent,
            held,
            resets_at,
        }
    }
}

/// The request with what its key may spend.
fn limited(caller: &Account, mut request: ClientRequest) -> ClientRequest {
    request.constraints.budget = caller.grant.budget(caller.key, now());
    request
}

impl Gateway for RouterGateway {
    fn authenticate(&self, key: &str) -> Result<Account, KeyError> {
        self.keys.authenticate(key)
    }

    fn keys(&self, account: Address) -> Vec<KeyRow> {
        let records = self.keys.of(account).into_iter();
        records.map(|record| self.key_row(record)).collect()
    }

    fn key(&self, account: Address, key: KeyName) -> Option<KeyRow> {
        self.keys.get(account, key).map(|key| self.key_row(key))
    }

    fn spend_left(&self, caller: &Account) -> Option<TokenAmount> {
        let budget = caller.grant.budget(caller.key, now())?;
        let (spent, held) = self.router.core().spent_by(budget.key, budget.first_day);
        let used = spent.checked_add(held).unwrap_or(budget.amount);
        Some(budget.amount.checked_sub(used).unwrap_or_default())
    }

    fn create_key(&self, by: &Account, new: NewKey) -> Result<IssuedKey, KeyFault> {
        let (secret, record) = self.keys.create(by, new)?;
        self.router.changed();
        let row = self.key_row(record);
        Ok(IssuedKey { secret, row })
    }

    fn rotate_key(&self, by: &Account, key: KeyName, grace: Millis) -> Result<IssuedKey, KeyFault> {
        let (secret, record) = self.keys.rotate(by, key, grace)?;
        self.router.changed();
        let row = self.key_row(record);
        Ok(IssuedKey { secret, row })
    }

    fn revoke_key(&self, by: &Account, key: KeyName) -> Result<KeyRow, KeyFault> {
        let record = self.keys.revoke(by, key)?;
        self.router.changed();
        Ok(self.key_row(record))
    }

    fn new_job(&self, caller: &Account) -> Option<JobId> {
        let mut drawn = [0; 24];
        getrandom::fill(&mut drawn).ok()?;
        Some(self.router.core().job_id(caller.key, drawn))
    }

    fn would_refuse(&self, caller: &Account, request: &ClientRequest) -> Option<Cause> {
        let request = limited(caller, request.clone());
        let core = self.router.core();
        core.would_refuse(caller.address, &request, now())
    }

    fn fate(&self, job: JobId, choices: u32) -> Fate {
        let core = self.router.core();
        let jobs = core.choice_ids(job, choices);
        let is_charged = |job: &JobId| core.book().receipt(*job).is_some();
        let charged: Vec<_> = jobs.iter().copied().filter(is_charged).collect();
        let open = |job: &JobId| !is_charged(job) && core.account_of(*job).is_some();
        if jobs.iter().any(open) {
            return Fate::UnderWay;
        }
        match charged.first() {
            None => Fate::Nothing,
            Some(_) if charged.len() == jobs.len() => Fate::Charged,
            Some(first) => Fate::Partly(*first),
        }
    }

    fn replays(&self) -> &dyn ReplayStore {
        &self.replays
    }

    fn submit(
        &self,
        caller: &Account,
        job: JobId,
        request: ClientRequest,
        above: Option<TraceParent>,
    ) -> Vec<Call> {
        let request = limited(caller, request);
        let account = caller.address;
        let (jobs, active) = {
            let core = self.router.core();
            (core.choice_ids(job, request.choices), core.active())
        };
        let written: Vec<_> = jobs.iter().map(|_| WrittenTokens::default()).collect();
        let clients: Vec<_> = jobs.into_iter().zip(written).collect();
        let events = if active + clients.len() > self.calls_max as usize {
            metrics::counter!("stoa_router_calls_shed_total").increment(clients.len() as u64);
            let refuse =
                |_: &_| RouterHandle::refused("it has as many calls under way as it can take");
            clients.iter().map(refuse).collect()
        } else {
            self.router.submit(account, (request, above), &clients)
        };
        let calls = clients.into_iter().zip(events);
        let call = |((job, written), events)| {
            let (reads, leaves) = (self.router.clone(), self.router.clone());
            Call {
                job,
                events,
                client: ClientEnd::new(
                    written,
                    move |tokens| reads.delivered(job, tokens),
                    move |read| leaves.cancel(job, read),
                ),
            }
        };
        calls.map(call).collect()
    }

    fn models(&self) -> Vec<ModelEntry> {
        let view = self.view();
        let core = self.router.core();
        let limits = &core.config().profile.limits;
        let mut entries = Vec::new();
        for (id, offers) in core.stock().models() {
            let Some((_, first)) = offers.first() else {
                continue;
            };
            let standings: Vec<&Standing> = offers
                .iter()
                .filter_map(|(account, _)| core.stock().get(*account))
                .collect();
            let mut tiers: Vec<_> = offers.iter().map(|(_, offer)| offer.tier).collect();
            tiers.sort();
            tiers.dedup();
            let mut regions: Vec<_> = standings.iter().map(|s| s.hello.region).collect();
            regions.sort();
            regions.dedup();
            entries.push(ModelEntry {
                id: id.to_owned(),
                created: view.first_offered.get(id).copied().unwrap_or_default(),
                context: longest_context(&offers),
                output_tokens_max: limits.output_tokens_max.min(longest_context(&offers)),
                input_price: offers
                    .iter()
                    .map(|(_, o)| o.input_price)
                    .min()
                    .unwrap_or_default(),
                output_price: offers
                    .iter()
                    .map(|(_, o)| o.output_price)
                    .min()
                    .unwrap_or_default(),
                quantization: first.quantization.clone(),
                model_root: first.model_root,
                tiers,
                regions,
                providers: u32::try_from(offers.len()).unwrap_or(u32::MAX),
                free_slots: standings
                    .iter()
                    .fold(0, |sum, s| sum.saturating_add(s.open_slots())),
            });
        }
        entries
    }

    fn receipt(&self, viewer: Viewer, job: JobId) -> Option<ReceiptView> {
        if !self.may_see(viewer, job) {
            return None;
        }
        let batch = self.router.core().book().batch_of(job);
        let tree = batch.and_then(|(index, _)| self.tree(index));
        let core = self.router.core();
        // While the call is under way its charge may not be durable: a receipt that is given must never be untrue.
        if core.account_of(job).is_some() {
            return None;
        }
        let receipt = core.book().receipt(job)?.clone();
        let state = core.book().job_state(job)?;
        let proof = tree
            .and_then(|tree| core.book().proof_in(job, &tree))
            .filter(|proof| proof.posted.is_some())
            .map(|proof| {
                let config = core.config();
                let chain = (config.domain.chain_id, config.domain.vault);
                let root = (proof.job_root, proof.job_count);
                let batch = BatchStatement::sign(
                    &config.key,
                    chain,
                    proof.index,
                    root,
                    proof.content_id,
                    proof.previous_head,
                );
                SettlementProof {
                    batch,
                    siblings: proof.siblings,
                }
            });
        Some(ReceiptView {
            receipt,
            state,
            parameters: None,
            proof,
        })
    }

    fn explain(&self, viewer: Viewer, job: JobId) -> Option<serde_json::Value> {
        if !self.may_see(viewer, job) {
            return None;
        }
        let decision = self.router.decision(job)?;
        let replayed = decision
            .replay()
            .map_or_else(|error| error.to_string(), |()| "the same choice".to_owned());
        Some(serde_json::json!({
            "job": job,
            "choice": decision.choice(),
            "replayed": replayed,
            "state": self.router.core().book().job_state(job),
            "decision": decision,
            "undelivered": self.router.undelivered().of_job(job),
        }))
    }

    fn account(&self, account: Address) -> Option<AccountRow> {
        let view = self.view();
        account_row(self.router.core().book(), &view, account)
    }

    fn jobs(&self, viewer: Viewer) -> Vec<JobRow> {
        let core = self.router.core();
        let book = core.book();
        let (account, key) = match viewer {
            Viewer::Operator => return newest_rows(&core),
            Viewer::Account(account) => (account, None),
            Viewer::Key(account, key) => (account, Some(key)),
        };
        let shown = |job: JobId| key.is_none_or(|key| core.key_of(job) == key);
        let live = live_rows(&core, |row| row.account == account && shown(row.job));
        let past = core
            .newest_jobs_of(account)
            .take(JOBS_LOOKED_THROUGH)
            .filter(|job| shown(*job))
            .take(JOBS_SHOWN)
            .filter_map(|job| past_row(&core, book, job));
        each_once(live, past)
    }

    fn claims(&self) -> Vec<ClaimRow> {
        let tree = self.payouts.newest();
        let claims = tree.map_or_else(Vec::new, |tree| tree.claims(|_| true));
        let row = |claim: PayoutClaim| ClaimRow {
            provider: claim.provider,
            fee_version: claim.fee_version,
            lifetime_gross: claim.lifetime_gross,
            provider_root: claim.provider_root,
            debit_root: claim.debit_root,
            proof: claim.proof,
        };
        claims.into_iter().map(row).collect()
    }

    fn providers(&self) -> Vec<ProviderRow> {
        self.router
            .core()
            .stock()
            .iter()
            .map(|(account, standing)| provider_row(*account, standing))
            .collect()
    }

    fn board(&self) -> &dyn Board {
        self
    }

    fn limits(&self) -> RequestLimits {
        let core = self.router.core();
        let limits = &core.config().profile.limits;
        RequestLimits {
            body_bytes_max: limits.body_bytes_max,
            output_tokens_max: limits.output_tokens_max,
            output_tokens_default: limits.output_tokens_default,
            calls_max: Some(self.calls_max),
        }
    }

    fn ready(&self) -> Vec<PartState> {
        let online = self
            .router
            .core()
            .stock()
            .iter()
            .any(|(_, standing)| standing.online);
        vec![
            PartState {
                part: "chain",
                problem: self.view().problem.clone(),
            },
            PartState {
                part: "providers",
                problem: (!online).then(|| "no provider is connected".to_owned()),
            },
        ]
    }
}

pub(super) fn account_row(
    book: &RouterBook,
    view: &ChainView,
    account: Address,
) -> Option<AccountRow> {
    let (_, state) = book.allotment(account)?;
    let available = book
        .available(account, now(), Millis(0))
        .map_or(TokenAmount::ZERO, |available| available.amount);
    Some(AccountRow {
        account,
        vault_balance: view
            .vault_balances
            .get(&account)
            .copied()
            .unwrap_or_default(),
        allotment_cap: state.cap,
        reserved: state.held,
        charged: state.charged,
        available,
        expires_at: state.expiry,
    })
}

pub(super) fn provider_row(id: Address, standing: &Standing) -> ProviderRow {
    let prices = |price: fn(&ModelOffer) -> Price| {
        standing
            .hello
            .models
            .iter()
            .map(price)
            .min()
            .unwrap_or_default()
    };
    ProviderRow {
        id,
        online: standing.online,
        region: standing.hello.region,
        models: standing
            .hello
            .models
            .iter()
            .map(|offer| offer.model.clone())
            .collect(),
        input_price: prices(|offer| offer.input_price),
        output_price: prices(|offer| offer.output_price),
        slots: standing.hello.slots,
        free_slots: standing.open_slots(),
        reputation_ppm: standing.track.reputation.ppm(),
        jobs: standing.track.delivered,
        ttft_ms: standing.track.latency.predicted_ms(),
    }
}

/// What `/v1/models` says: requests go first to who has room for them.
fn longest_context(offers: &[(Address, &ModelOffer)]) -> u32 {
    let contexts = offers.iter().map(|(_, offer)| offer.context);
    contexts.max().unwrap_or(0)
}

/// The newest jobs of all accounts.
fn newest_rows(core: &stoa_nodes::router::Router) -> Vec<JobRow> {
    let (book, past) = (core.book(), core.book().newest_jobs().take(JOBS_SHOWN));
    let past = past.filter_map(|job| past_row(core, book, job));
    let mut rows = each_once(live_rows(core, |_| true), past);
    rows.truncate(JOBS_SHOWN);
    rows
}

/// Calls under way, then charged ones. A call whose charge is in the books and not yet told to its client is both: it stands among the first.
fn each_once(live: Vec<JobRow>, past: impl Iterator<Item = JobRow>) -> Vec<JobRow> {
    let under_way: BTreeSet<JobId> = live.iter().map(|row| row.job).collect();
    let past = past.filter(|row| !under_way.contains(&row.job));
    live.into_iter().chain(past).collect()
}

/// Calls in progress that `shown` says, newest first.
fn live_rows(
    core: &stoa_nodes::router::Router,
    shown: impl Fn(&JobSummary<'_>) -> bool,
) -> Vec<JobRow> {
    let mut rows: Vec<JobRow> = core
        .summaries()
        .filter(|summary| shown(summary))
        .map(|summary| live_row(&summary))
        .collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.reserved_at));
    rows
}

pub(super) fn live_row(summary: &JobSummary<'_>) -> JobRow {
    JobRow {
        job: summary.job,
        state: summary.state,
        model: summary.model.to_owned(),
        provider: summary.provider,
        output_price: summary.output_price,
        amount: summary.reserve,
        ttft_ms: summary.ttft_ms,
        input_units: summary.input_units,
        output_units: summary.output_units,
        reserved_at: summary.submitted_at,
    }
}

pub(super) fn past_row(
    core: &stoa_nodes::router::Router,
    book: &RouterBook,
    job: JobId,
) -> Option<JobRow> {
    let receipt = &book.receipt(job)?.receipt;
    let offers = core.stock().get(receipt.provider).map(|s| &s.hello.models);
    let model = offers.and_then(|models| {
        models
            .iter()
            .find(|offer| offer.model_root == receipt.model_root)
    });
    Some(JobRow {
        job,
        state: book.job_state(job).unwrap_or(JobState::Delivered),
        model: model.map_or_else(
            || receipt.model_root.to_string(),
            |offer| offer.model.clone(),
        ),
        provider: Some(receipt.provider),
        output_price: Some(receipt.output_price),
        amount: receipt.charge,
        ttft_ms: core.ttft_of(job),
        input_units: receipt.input_units,
        output_units: receipt.output_units,
        reserved_at: receipt.accepted_at,
    })
}

pub(super) fn batch_row(
    book: &RouterBook,
    view: &ChainView,
    batch: &BatchRecord,
    total: TokenAmount,
) -> BatchRow {
    let jobs = book.jobs_of(batch.sealed.index);
    let settled = jobs.first().and_then(|job| book.job_state(*job)) == Some(JobState::Settled);
    let state = match batch.posted {
        None => "sealed",
        Some(_) if settled => "settled",
        Some(_) => "posted",
    };
    BatchRow {
        batch: batch.sealed.index,
        state: state.to_owned(),
        root: batch.sealed.job_root,
        transaction: view.posted.get(&batch.sealed.index).copied(),
        receipts: u64::from(batch.sealed.job_count),
        total,
        jobs: jobs.iter().copied().take(JOBS_PER_BATCH_SHOWN).collect(),
        posted_at: batch.posted.map(|posted| posted.at),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_listed_with_the_longest_context_whoever_comes_first() {
        let offer = |context| ModelOffer {
            model: "m".to_owned(),
            model_root: Digest::ZERO,
            runtime_digest: Digest::ZERO,
            tier: stoa_types::Tier::None,
            context,
            input_price: Price::default(),
            output_price: Price::default(),
            quantization: String::new(),
            reasons: false,
            message_overhead: 0,
        };
        let (short, long) = (offer(256), offer(32_768));
        let of = |n: u8, offer| (Address([n; 20]), offer);
        assert_eq!(longest_context(&[of(1, &short), of(2, &long)]), 32_768);
    }

    #[test]
    fn a_call_that_is_being_charged_is_one_row() {
        let row = |n: u8, state| JobRow {
            job: JobId([n; 32]),
            state,
            model: "m".to_owned(),
            provider: None,
            output_price: None,
            amount: TokenAmount::ZERO,
            ttft_ms: None,
            input_units: 0,
            output_units: 0,
            reserved_at: Timestamp(0),
        };
        let live = vec![row(3, JobState::Accepted), row(2, JobState::Delivered)];
        let past = [row(2, JobState::Delivered), row(1, JobState::Settled)];
        let rows = each_once(live, past.into_iter());
        let jobs: Vec<u8> = rows.iter().map(|row| row.job.0[0]).collect();
        assert_eq!(jobs, [3, 2, 1]);
    }
}
