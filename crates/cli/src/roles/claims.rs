//! Claims of non-delivery (docs/decisions/0030-non-delivery.md): what a router does about orders that were taken and not delivered, and a
//! provider about claims against it.

use super::earnings::Earnings;
use super::owed::{Holds, Owed, OwedFolder};
use super::router::{RouterHandle, now};
use crate::launch::Joined;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use stoa_chain::{
    AccessError, AuditAccount, AuditContracts, ChainAccess, ClaimRules, Contracts, Cursor, Indexer,
    OpenClaim, OpenClaims, SendError, View,
};
use stoa_crypto::{Domain, SecretKey, receipt_digest};
use stoa_nodes::client::Undelivered;
use stoa_nodes::receipts::{Facts, expected_receipt};
use stoa_nodes::work::Work;
use stoa_runtime::{Backend, run_to_end};
use stoa_types::{
    Address, Digest, FinishReason, JobId, Millis, Receipt, Signature, SignedReceipt, Tier,
    Timestamp,
};
use stoa_verify::Content;

/// How often the chain is looked at.
const POLL: Duration = Duration::from_millis(500);
/// Before something that failed is tried again.
const PAUSE: Duration = Duration::from_secs(5);
/// How long somebody else's claim is left to whoever made it before it is punished for it.
const LEFT_TO_OTHERS: Millis = Millis::from_secs(60);
/// Newest jobs among which one of a provider is looked for.
const JOBS_LOOKED_THROUGH: usize = 20_000;

/// The open claims of the network. Clones share them.
#[derive(Clone, Default)]
pub struct ClaimsWatch(Arc<Mutex<OpenClaims>>);

impl ClaimsWatch {
    /// Follows the claims for as long as somebody else holds the watch.
    pub fn start<C: ChainAccess + Clone>(
        chain: C,
        contracts: Contracts,
        audits: AuditContracts,
    ) -> Self {
        let watch = Self::default();
        let followed = watch.clone();
        tokio::spawn(async move { followed.follow(&chain, contracts, audits).await });
        watch
    }

    async fn follow<C: ChainAccess + Clone>(
        self,
        chain: &C,
        contracts: Contracts,
        audits: AuditContracts,
    ) {
        let read_anew = || {
            // Of the vault nothing is asked.
            Indexer::new(chain.clone(), contracts, Cursor::starting_at(0), 0)
                .with_audits(Some(audits))
                .vault_from(u64::MAX)
        };
        let mut indexer = read_anew();
        let mut told = false;
        while Arc::strong_count(&self.0) > 1 {
            let pause = match indexer.step().await {
                Ok(progress) if progress.rolled_back_to.is_some() => {
                    indexer = read_anew();
                    *self.lock() = OpenClaims::default();
                    Duration::ZERO
                }
                Ok(progress) => {
                    told = false;
                    let mut open = self.lock();
                    progress.events.iter().for_each(|e| open.take(&e.event));
                    if progress.at_head {
                        POLL
                    } else {
                        Duration::ZERO
                    }
                }
                Err(error) => {
                    if !std::mem::replace(&mut told, true) {
                        tracing::warn!(%error, "claims of non-delivery cannot be followed; they are read on when the chain answers");
                    }
                    PAUSE
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, OpenClaims> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn all(&self) -> Vec<OpenClaim> {
        self.lock().all().copied().collect()
    }
}

/// The claims of a network, and where they are made. Clones share the watch.
#[derive(Clone)]
pub struct Claims {
    /// Who judges.
    pub audits: AuditContracts,
    /// Claims that are open.
    pub watch: ClaimsWatch,
}

impl Claims {
    /// Follows them, where the network has any.
    pub fn start<C: ChainAccess + Clone>(
        joined: &Joined<C>,
        audits: AuditContracts,
    ) -> Option<Self> {
        audits.claims?;
        let watch = ClaimsWatch::start(joined.chain.clone(), joined.contracts, audits);
        Some(Self { audits, watch })
    }
}

/// What failed a moment ago, and is left alone for a while.
#[derive(Default)]
struct Tried(BTreeMap<Digest, Instant>);

impl Tried {
    /// Whether it is time to try this, which counts as trying.
    fn again(&mut self, what: Digest) -> bool {
        let now = Instant::now();
        self.0.retain(|_, at| now.duration_since(*at) < PAUSE);
        let again = !self.0.contains_key(&what);
        self.0.entry(what).or_insert(now);
        again
    }
}

fn counted(call: &'static str, outcome: &'static str) {
    metrics::counter!("stoa_claims_total", "call" => call, "outcome" => outcome).increment(1);
}

/// What became of a call; who was faster is nobody's failure.
fn tell<T>(call: &'static str, claim: Digest, result: Result<T, SendError>) {
    match result {
        Ok(_) => {
            counted(call, "done");
            tracing::info!(ticket = %claim, call, "claim of non-delivery");
        }
        Err(error) => {
            counted(call, "failed");
            tracing::warn!(ticket = %claim, call, %error, "a claim of non-delivery was not carried on; it is looked at again");
        }
    }
}

/// A router's part: claims what it was not delivered, clears whom it was delivered by, and has punished what nobody answered.
pub struct RouterClaims<C> {
    /// Sends.
    pub account: AuditAccount<C>,
    /// Reads.
    pub view: View<C>,
    /// Times and deposit.
    pub rules: ClaimRules,
    /// The router.
    pub router: RouterHandle,
    /// Claims that are open.
    pub watch: ClaimsWatch,
    /// Whether it claims by itself.
    pub claims: bool,
}

impl<C: ChainAccess + Clone> RouterClaims<C> {
    /// Runs until it is dropped.
    pub async fn run(self) {
        let mut tried = Tried::default();
        let mut settled = BTreeSet::new();
        loop {
            tokio::time::sleep(POLL).await;
            for claim in self.watch.all() {
                self.look_at(&claim, &mut tried).await;
            }
            if self.claims {
                self.claim_what_is_due(&mut settled, &mut tried).await;
            }
        }
    }

    fn me(&self) -> Address {
        self.account.account().address()
    }

    /// The receipt of both for this very order.
    fn receipt(&self, job: JobId, ticket: Digest) -> Option<SignedReceipt> {
        let core = self.router.core();
        let signed = core.book().receipt(job)?;
        (signed.receipt.ticket_hash == ticket).then(|| signed.clone())
    }

    /// Whether a provider delivered anything to this router since then: it is there, would answer, and earn the deposit.
    fn is_there(&self, provider: Address, since: Timestamp) -> bool {
        let core = self.router.core();
        let newest = core.book().newest_jobs().take(JOBS_LOOKED_THROUGH);
        let receipts = newest.filter_map(|job| core.book().receipt(job));
        let mut later = receipts.take_while(|signed| signed.receipt.delivered_at > since);
        later.any(|signed| signed.receipt.provider == provider)
    }

    async fn look_at(&self, claim: &OpenClaim, tried: &mut Tried) {
        let ticket = claim.ticket;
        if claim.router == self.me()
            && claim.claimant != self.me()
            && let Some(signed) = self.receipt(claim.job, ticket)
        {
            if tried.again(ticket) {
                let SignedReceipt {
                    receipt,
                    provider_signature,
                    router_signature,
                } = &signed;
                let shown =
                    self.account
                        .answer_claim(receipt, provider_signature, Some(router_signature));
                tell("answer", ticket, shown.await);
            }
            return;
        }
        let left = if claim.claimant == self.me() {
            Millis(0)
        } else {
            LEFT_TO_OTHERS
        };
        if claim.answer_by.plus(left) <= now() && tried.again(ticket) {
            tell(
                "punish",
                ticket,
                self.account.punish_non_delivery(ticket).await,
            );
        }
    }

    /// The first order of each provider and day: all that was not delivered in a day is one fault.
    async fn claim_what_is_due(&self, settled: &mut BTreeSet<Digest>, tried: &mut Tried) {
        let window = Millis::from_secs(self.rules.claim_seconds);
        for due in self.router.undelivered().due(now(), window) {
            let ticket = due.acceptance.acceptance.ticket;
            if settled.contains(&ticket) || !tried.again(ticket) {
                continue;
            }
            match self.claim(&due, ticket).await {
                Ok(true) => drop(settled.insert(ticket)),
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(%ticket, %error, "whether it is claimed cannot be read; it is tried again");
                }
            }
        }
    }

    /// Whether nothing is left to do for it.
    async fn claim(&self, due: &Undelivered, ticket: Digest) -> Result<bool, AccessError> {
        let job = due.ticket.ticket.job_id;
        let chain = self.account.account().sender().chain();
        let provider = due.ticket.ticket.provider;
        if self.receipt(job, ticket).is_some()
            || self.is_there(provider, due.acceptance.acceptance.accepted_at)
            || self
                .account
                .contracts()
                .claim(chain, ticket)
                .await?
                .is_some()
        {
            return Ok(true);
        }
        let held = self.view.stake_token_balance(self.me()).await?;
        if held < self.rules.deposit {
            counted("claim", "no_deposit");
            tracing::warn!(%job, %provider, %held, deposit = %self.rules.deposit,
                "what a provider took and did not deliver is not claimed: the router's account lacks the deposit in stake tokens");
            return Ok(false);
        }
        let (order, word) = (&due.ticket, &due.acceptance);
        let claimed = self
            .account
            .claim_non_delivery(order, word, self.rules.deposit)
            .await;
        let done = claimed.is_ok();
        tell("claim", ticket, claimed);
        Ok(done)
    }
}

/// A provider's part: shows its receipt for each order that is claimed of it, and computes it where it has none.
pub struct ProviderClaims<C> {
    /// Sends.
    pub account: AuditAccount<C>,
    /// Signs receipts.
    pub key: SecretKey,
    /// For this chain and vault.
    pub domain: Domain,
    /// Under these rules.
    pub profile_hash: Digest,
    /// Claims that are open.
    pub watch: ClaimsWatch,
    /// Receipts with both signatures.
    pub earnings: Arc<Earnings>,
    /// What it took.
    pub owed: OwedFolder,
    /// What computes.
    pub backends: Vec<Arc<dyn Backend>>,
}

/// What an order is answered with.
struct Shown {
    receipt: Receipt,
    provider: Signature,
    router: Option<Signature>,
}

impl<C: ChainAccess + Clone> ProviderClaims<C> {
    /// Runs until it is dropped.
    pub async fn run(self) {
        let me = self.account.account().address();
        let mut tried = Tried::default();
        loop {
            tokio::time::sleep(POLL).await;
            self.owed.expire(now());
            for claim in self.watch.all() {
                if claim.provider == me && tried.again(claim.ticket) {
                    self.answer(&claim).await;
                }
            }
        }
    }

    async fn answer(&self, claim: &OpenClaim) {
        let (job, ticket) = (claim.job, claim.ticket);
        let shown = match self.shown(job, ticket).await {
            Ok(shown) => shown,
            Err(reason) => {
                counted("answer", "nothing_to_show");
                return tracing::error!(account = %claim.provider, %job, %reason, answer_by_ms = claim.answer_by.0,
                    "a claim of non-delivery cannot be answered; this provider is slashed for it when the time is over");
            }
        };
        let router = shown.router.as_ref();
        let sent = self
            .account
            .answer_claim(&shown.receipt, &shown.provider, router);
        tell("answer", ticket, sent.await);
    }

    /// The receipt of both, the provider's own, or one that is made now.
    async fn shown(&self, job: JobId, ticket: Digest) -> Result<Shown, String> {
        let earnings = self.earnings.clone();
        let found = tokio::task::spawn_blocking(move || earnings.find(ticket)).await;
        if let Some(signed) = found.map_err(|error| error.to_string())?? {
            return Ok(Shown {
                receipt: signed.receipt,
                provider: signed.provider_signature,
                router: Some(signed.router_signature),
            });
        }
        let owed = self.owed.find(ticket);
        let owed = owed.ok_or("neither a receipt nor the order is in this folder")?;
        let (receipt, provider) = match owed.holds.clone() {
            Holds::Receipt { receipt, signature } => (*receipt, signature),
            Holds::Work(work) => {
                tracing::warn!(%job, "claimed and not delivered: it is computed now, and not paid");
                self.compute(owed, *work).await?
            }
        };
        Ok(Shown {
            receipt,
            provider,
            router: None,
        })
    }

    /// Does what was ordered, and keeps the receipt.
    async fn compute(&self, owed: Owed, work: Work) -> Result<(Receipt, Signature), String> {
        let model_root = owed.ticket.model_root;
        let mut backends = self.backends.iter();
        let backend = backends.find(|backend| backend.facts().model_root == model_root);
        let backend = backend
            .cloned()
            .ok_or("it does not serve that model any more")?;
        let facts = backend.facts().clone();
        let run = move || run_to_end(&*backend, &work);
        let run = tokio::task::spawn_blocking(run).await;
        let (content, prompt, output) = match run.map_err(|error| error.to_string())? {
            Ok(done) => done,
            // Behind it is somebody else's server, which refuses. It counts nothing, and says so.
            Err(_) if owed.ticket.tier == Tier::None => (nothing(), Vec::new(), Vec::new()),
            Err(error) => return Err(error.to_string()),
        };
        let facts = Facts {
            prompt_root: stoa_crypto::token_root(&prompt),
            runtime_digest: facts.runtime_digest,
            accepted_at: owed.accepted_at,
            delivered_at: now(),
        };
        let (domain, ticket) = (&self.domain, &owed.ticket);
        let receipt = expected_receipt(domain, self.profile_hash, ticket, &content, &output, facts)
            .ok_or("its charge does not fit an amount")?;
        let signature = self.key.sign(receipt_digest(&receipt));
        let holds = Holds::Receipt {
            receipt: Box::new(receipt.clone()),
            signature,
        };
        let order = receipt.ticket_hash;
        self.owed.keep(order, Owed { holds, ..owed });
        Ok((receipt, signature))
    }
}

/// An answer without content.
fn nothing() -> Content {
    Content {
        text: String::new(),
        tool_calls: Vec::new(),
        finish_reason: FinishReason::Cancelled,
        input_units: 0,
        output_units: 0,
    }
}
