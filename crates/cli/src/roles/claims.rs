//! Claims of non-delivery (docs/decisions/0030-non-delivery.md): what a router does about orders that were taken and not delivered, and a
//! provider about claims against it.

mod losses;
mod made;
mod watch;

use super::earnings::Earnings;
use super::owed::{Holds, Owed, OwedFolder};
use super::router::{RouterHandle, now};
pub use losses::HELD_BACK;
use losses::Losses;
use made::{Claimed, Made, Presence};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use stoa_chain::{
    AccessError, AuditAccount, ChainAccess, ClaimRules, ClaimState, ClaimView, OpenClaim,
    SendError, View,
};
use stoa_crypto::{Domain, SecretKey, receipt_digest};
use stoa_nodes::client::Undelivered;
use stoa_nodes::receipts::{Facts, OrderName, expected_receipt, nothing_delivered};
use stoa_nodes::work::Work;
use stoa_runtime::{Backend, CancelFlag, run_unless};
use stoa_types::{
    Address, Digest, FinishReason, JobId, Millis, Receipt, Signature, SignedReceipt, Timestamp,
};
pub use watch::{Claims, ClaimsWatch};

/// How often the chain is looked at.
const POLL: Duration = Duration::from_millis(500);
/// Before something that failed is tried again; doubles up to the second value.
const PAUSE: Duration = Duration::from_secs(5);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// How long somebody else's claim is left to whoever made it before it is punished for it.
const LEFT_TO_OTHERS: Millis = Millis::from_secs(60);
/// Newest jobs among which one of a provider is looked for.
const JOBS_LOOKED_THROUGH: usize = 20_000;
/// After its time to answer a claim that nobody decided can be taken back, as the contract counts.
pub const TAKE_BACK: Millis = Millis::from_secs(7 * 86_400);
/// Longest that one answer is computed.
const COMPUTING_MAX: Duration = Duration::from_secs(600);

/// What was tried a moment ago, and is left alone for a while: longer each time.
#[derive(Default)]
struct Tried(BTreeMap<Digest, (Instant, Duration)>);

impl Tried {
    /// It was not tried after all.
    fn forget(&mut self, what: Digest) {
        self.0.remove(&what);
    }

    /// Whether it is time to try this, which counts as trying.
    fn again(&mut self, what: Digest, now: Instant) -> bool {
        self.0.retain(|_, (next, _)| now < *next + 2 * PAUSE_MAX);
        let (next, pause) = self.0.entry(what).or_insert((now, PAUSE));
        if now < *next {
            return false;
        }
        *next = now + *pause;
        *pause = (2 * *pause).min(PAUSE_MAX);
        true
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
        let (mut tried, mut made) = (Tried::default(), Made::default());
        let (mut losses, mut presence) = (Losses::default(), Presence::new(now()));
        loop {
            tokio::time::sleep(POLL).await;
            {
                let core = self.router.core();
                let connected = core.stock().iter().filter(|(_, standing)| standing.online);
                presence.see(connected.map(|(provider, _)| *provider), now());
            }
            for claim in self.watch.all() {
                self.look_at(&claim, &mut tried).await;
            }
            let known = self.claims && self.knows_what_was_claimed(&mut made).await;
            let Some(lost) = self.watch.lost(self.me()) else {
                continue;
            };
            if self.claims {
                // Who does not claim has not read back far enough to tell.
                losses.set(&lost, self.rules.deposit, now());
            }
            if known {
                self.claim_what_is_due(&presence, &losses, &mut made, &mut tried)
                    .await;
            }
        }
    }

    fn me(&self) -> Address {
        self.account.account().address()
    }

    /// Whether all is known that was claimed, by this process or one before it.
    async fn knows_what_was_claimed(&self, made: &mut Made) -> bool {
        let Some(tickets) = self.watch.made(self.me()) else {
            return false;
        };
        let (contracts, chain) = (
            self.account.contracts(),
            self.account.account().sender().chain(),
        );
        let read = |ticket| contracts.claim(chain, ticket);
        made.recall(&tickets, read).await
    }

    /// The receipt of both for this very order.
    fn receipt(&self, job: JobId, ticket: Digest) -> Option<SignedReceipt> {
        let core = self.router.core();
        let signed = core.book().receipt(job)?;
        (signed.receipt.ticket_hash == ticket).then(|| signed.clone())
    }

    /// Whether a provider delivered anything to this router since then: it is there, would answer, and earn the deposit.
    fn delivered(&self, provider: Address, since: Timestamp) -> bool {
        let core = self.router.core();
        let newest = core.book().newest_jobs().take(JOBS_LOOKED_THROUGH);
        let mut receipts = newest.filter_map(|job| core.book().receipt(job));
        // Times are what each provider signed: one that is early says nothing of the others.
        receipts.any(|signed| {
            signed.receipt.provider == provider && signed.receipt.delivered_at > since
        })
    }

    /// Whether the claim is still undecided, as the chain has it now; nothing is done about one that cannot be read.
    async fn is_open(&self, ticket: Digest) -> bool {
        let chain = self.account.account().sender().chain();
        is_open(&self.account.contracts().claim(chain, ticket).await, ticket)
    }

    async fn look_at(&self, claim: &OpenClaim, tried: &mut Tried) {
        let ticket = claim.ticket;
        if claim.router == self.me()
            && claim.claimant != self.me()
            && let Some(signed) = self.receipt(claim.job, ticket)
        {
            if tried.again(ticket, Instant::now()) && self.is_open(ticket).await {
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
        let mine = claim.claimant == self.me();
        let left = if mine { Millis(0) } else { LEFT_TO_OTHERS };
        let due = claim.answer_by.plus(left) <= now();
        if !due || !tried.again(ticket, Instant::now()) || !self.is_open(ticket).await {
            return;
        }
        if mine && claim.answer_by.plus(TAKE_BACK).plus(Millis::from_secs(1)) <= now() {
            let taken = self.account.take_back_claim(ticket).await;
            return tell("take_back", ticket, taken);
        }
        let punished = self.account.punish_non_delivery(ticket).await;
        tell("punish", ticket, punished);
    }

    /// What is due of providers that were away ever since, and took no deposit lately.
    async fn claim_what_is_due(
        &self,
        presence: &Presence,
        losses: &Losses,
        made: &mut Made,
        tried: &mut Tried,
    ) {
        let window = Millis::from_secs(self.rules.claim_seconds);
        // Whoever started just now has not looked for long enough to say who is away.
        let least = Millis(window.0 / 8);
        let due = self.router.undelivered().due(now(), window);
        let is_wanted = |order: &Undelivered| {
            let ticket = &order.ticket.ticket;
            presence.is_away(ticket.provider, ticket.deadline, least, now())
                && tried.again(order.acceptance.acceptance.ticket, Instant::now())
        };
        made.claim_each(&due, losses, is_wanted, |order| self.claim(order))
            .await;
    }

    /// Claims an order, unless a claim is there, this router's or another's.
    async fn claim(&self, due: Undelivered) -> Result<Claimed, AccessError> {
        let (job, deadline) = (due.ticket.ticket.job_id, due.ticket.ticket.deadline);
        let ticket = due.acceptance.acceptance.ticket;
        let chain = self.account.account().sender().chain();
        let provider = due.ticket.ticket.provider;
        if self.receipt(job, ticket).is_some() || self.delivered(provider, deadline) {
            return Ok(Claimed::Nothing);
        }
        let contracts = self.account.contracts();
        if let Some(claim) = contracts.claim(chain, ticket).await? {
            return Ok(Claimed::already(&claim, self.me()));
        }
        let held = self.view.stake_token_balance(self.me()).await?;
        if held < self.rules.deposit {
            counted("claim", "no_deposit");
            tracing::warn!(%job, %provider, %held, deposit = %self.rules.deposit,
                "what a provider took and did not deliver is not claimed: the router's account lacks the deposit in stake tokens");
            return Ok(Claimed::Nothing);
        }
        let (order, word) = (&due.ticket, &due.acceptance);
        let call = self
            .account
            .claim_non_delivery(order, word, self.rules.deposit)
            .await;
        let claimed = Claimed::sent(&call);
        tell("claim", ticket, call);
        Ok(claimed)
    }
}

/// A provider's part: answers every claim against it.
pub struct ProviderClaims<C> {
    /// Sends.
    pub account: AuditAccount<C>,
    /// Claims that are open.
    pub watch: ClaimsWatch,
    /// What it has to show.
    pub answers: AnswerMaker,
}

/// Whether a claim that was read is undecided.
fn is_open(read: &Result<Option<ClaimView>, AccessError>, ticket: Digest) -> bool {
    match read {
        Ok(claim) => claim.is_some_and(|claim| claim.state == ClaimState::Open),
        Err(error) => {
            tracing::warn!(%ticket, %error, "a claim of non-delivery cannot be read; it is looked at again");
            false
        }
    }
}

/// What an order is answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Shown {
    receipt: Receipt,
    provider: Signature,
    router: Option<Signature>,
}

/// What there is for an order that is claimed.
enum Found {
    Shown(Box<Shown>),
    /// To be computed.
    Work(Box<Owed>, Box<Work>),
}

impl<C: ChainAccess + Clone> ProviderClaims<C> {
    /// Runs until it is dropped.
    pub async fn run(self) {
        let me = self.account.account().address();
        let mut tried = Tried::default();
        loop {
            tokio::time::sleep(POLL).await;
            // Where it has no loop any more, nobody else does.
            self.answers.owed.expire(now());
            self.answers.earnings.retry(Instant::now());
            let mut to_compute = Vec::new();
            for claim in self.watch.all() {
                if claim.provider != me || !tried.again(claim.ticket, Instant::now()) {
                    continue;
                }
                let chain = self.account.account().sender().chain();
                let read = self.account.contracts().claim(chain, claim.ticket).await;
                let Some(view) = read.ok().flatten() else {
                    tracing::warn!(ticket = %claim.ticket, "a claim against this provider cannot be read; it is looked at again");
                    continue;
                };
                if view.state != ClaimState::Open {
                    continue;
                }
                match self.answers.find(claim.ticket, &view).await {
                    Found::Shown(shown) => self.show(claim.ticket, &shown).await,
                    Found::Work(owed, work) => to_compute.push((claim, view, owed, work)),
                }
            }
            // Others are answered first. One at a time: what was claimed since is looked at before the next.
            if let Some((claim, view, owed, work)) = to_compute.pop() {
                to_compute
                    .iter()
                    .for_each(|(other, ..)| tried.forget(other.ticket));
                let limit = computing_limit(claim.answer_by.since(now()));
                tracing::warn!(job = %claim.job, ?limit, "claimed and not delivered: it is computed now, and not paid");
                let shown = self
                    .answers
                    .compute(claim.ticket, &view, (owed, work), limit);
                self.show(claim.ticket, &shown.await).await;
            }
        }
    }

    async fn show(&self, ticket: Digest, shown: &Shown) {
        let router = shown.router.as_ref();
        let sent = self
            .account
            .answer_claim(&shown.receipt, &shown.provider, router);
        tell("answer", ticket, sent.await);
    }
}

/// How long one answer may be computed where so much time is left for it.
fn computing_limit(left: Millis) -> Duration {
    Duration::from_millis(left.0 / 4).min(COMPUTING_MAX)
}

/// Nobody waits for it any more, whoever stopped waiting.
struct CancelOnDrop(CancelFlag);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// What a provider has to show for its orders. There is something for every claim against it: where it has nothing else, it signs that.
pub struct AnswerMaker {
    /// Signs receipts.
    pub key: SecretKey,
    /// For this chain and vault.
    pub domain: Domain,
    /// Under these rules.
    pub profile_hash: Digest,
    /// Receipts with both signatures.
    pub earnings: Arc<Earnings>,
    /// What it took.
    pub owed: OwedFolder,
    /// What computes.
    pub backends: Vec<Arc<dyn Backend>>,
}

impl AnswerMaker {
    /// The provider's own receipt or the order, while it is owed; then the receipt of both; and where there is neither, what the provider
    /// can sign of the claim alone.
    async fn find(&self, ticket: Digest, claim: &ClaimView) -> Found {
        match self.owed.find(ticket) {
            Some(owed) => match owed.holds.clone() {
                Holds::Receipt { receipt, signature } => Found::Shown(Box::new(Shown {
                    receipt: *receipt,
                    provider: signature,
                    router: None,
                })),
                Holds::Work(work) => Found::Work(Box::new(owed), work),
            },
            None => Found::Shown(Box::new(match self.earned(ticket).await {
                Some(signed) => Shown {
                    receipt: signed.receipt,
                    provider: signed.provider_signature,
                    router: Some(signed.router_signature),
                },
                None => {
                    tracing::warn!(job = %claim.job, "there is neither a receipt nor the order to compute: the claim is answered with nothing delivered");
                    self.nothing(ticket, claim)
                }
            })),
        }
    }

    async fn earned(&self, ticket: Digest) -> Option<SignedReceipt> {
        let earnings = self.earnings.clone();
        let found = tokio::task::spawn_blocking(move || earnings.find(ticket)).await;
        let found = found.map_err(|error| error.to_string()).flatten();
        found.unwrap_or_else(|error| {
            tracing::warn!(%ticket, %error, "the journal of earned receipts cannot be read for a claim");
            None
        })
    }

    fn nothing(&self, ticket: Digest, claim: &ClaimView) -> Shown {
        let order = OrderName {
            ticket,
            job: claim.job,
            account: claim.account,
            router: claim.router,
            provider: claim.provider,
        };
        let receipt = nothing_delivered(&self.domain, self.profile_hash, &order, now());
        Shown {
            provider: self.key.sign(receipt_digest(&receipt)),
            receipt,
            router: None,
        }
    }

    /// Does what was ordered, and keeps what there is to show for it: nothing, where it fails or takes longer than this.
    async fn compute(
        &self,
        ticket: Digest,
        claim: &ClaimView,
        (owed, work): (Box<Owed>, Box<Work>),
        limit: Duration,
    ) -> Shown {
        let shown = match self.computed(&owed, *work, limit).await {
            Ok(receipt) => Shown {
                provider: self.key.sign(receipt_digest(&receipt)),
                receipt,
                router: None,
            },
            Err(reason) => {
                tracing::warn!(job = %claim.job, %reason, "a claimed order cannot be computed: the claim is answered with nothing delivered");
                self.owed.forget(ticket);
                return self.nothing(ticket, claim);
            }
        };
        let holds = Holds::Receipt {
            receipt: Box::new(shown.receipt.clone()),
            signature: shown.provider,
        };
        self.owed.keep(ticket, Owed { holds, ..*owed });
        shown
    }

    async fn computed(&self, owed: &Owed, work: Work, limit: Duration) -> Result<Receipt, String> {
        let model_root = owed.ticket.model_root;
        let mut backends = self.backends.iter();
        let backend = backends.find(|backend| backend.facts().model_root == model_root);
        let backend = backend
            .cloned()
            .ok_or("this provider does not serve that model any more")?;
        let facts = backend.facts().clone();
        let cancel = CancelOnDrop(CancelFlag::new());
        let flag = cancel.0.clone();
        let run = move || run_unless(&*backend, &work, &flag);
        let run = tokio::time::timeout(limit, tokio::task::spawn_blocking(run)).await;
        drop(cancel);
        let run = run.map_err(|_| format!("it takes longer than {limit:?}"))?;
        let done = run.map_err(|error| error.to_string())?;
        let (content, prompt, output) = done.map_err(|error| error.to_string())?;
        if content.finish_reason == FinishReason::Cancelled {
            return Err("it was not computed to its end".to_owned());
        }
        let facts = Facts {
            prompt_root: stoa_crypto::token_root(&prompt),
            runtime_digest: facts.runtime_digest,
            accepted_at: owed.accepted_at,
            delivered_at: now(),
        };
        let (domain, ticket) = (&self.domain, &owed.ticket);
        expected_receipt(domain, self.profile_hash, ticket, &content, &output, facts)
            .ok_or_else(|| "its charge does not fit an amount".to_owned())
    }
}

#[cfg(test)]
mod tests;
