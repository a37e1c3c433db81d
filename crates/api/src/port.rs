//! The port between HTTP and the router: what `api` needs from whoever serves it.
//!
//! The binary implements [`Gateway`] over the router's loop; tests implement it with a script. What takes time arrives through
//! [`Call::events`]; a method that may wait for a disk says so and is called beside the threads that carry streams.

use crate::board::Board;
use crate::keys::{Grant, KeyFault, KeyName, KeyRecord, NewKey};
use crate::replay::ReplayStore;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use stoa_nodes::client::{Cause, ClientEvent, ClientRequest, KeyId};
use stoa_types::{
    Address, Digest, JobId, JobState, Millis, Price, Region, SamplingParameters, SignedReceipt,
    Tier, Timestamp, TokenAmount, TraceParent,
};
use stoa_verify::SettlementProof;
use tokio::sync::mpsc;

/// What the HTTP surface asks of a router.
pub trait Gateway: Send + Sync + 'static {
    /// Account of an API key. Look for its hash: see [`crate::KeyRing`].
    fn authenticate(&self, key: &str) -> Result<Account, KeyError>;

    /// Keys of an account with what they spent, newest first.
    fn keys(&self, account: Address) -> Vec<KeyRow>;

    /// One key of an account with what it spent.
    fn key(&self, account: Address, key: KeyName) -> Option<KeyRow>;

    /// What the caller's key may still spend in the present period; `None` without a spend limit.
    fn spend_left(&self, caller: &Account) -> Option<TokenAmount>;

    /// Makes a key; it is on disk when this returns. May take as long as the disk does.
    fn create_key(&self, by: &Account, new: NewKey) -> Result<IssuedKey, KeyFault>;

    /// Gives a key another secret; the one before is accepted for `grace` more. As [`Gateway::create_key`].
    fn rotate_key(&self, by: &Account, key: KeyName, grace: Millis) -> Result<IssuedKey, KeyFault>;

    /// Refuses a key from now on. As [`Gateway::create_key`].
    fn revoke_key(&self, by: &Account, key: KeyName) -> Result<KeyRow, KeyFault>;

    /// A new random id for a call of this caller; `None` when the system has no random bytes.
    fn new_job(&self, caller: &Account) -> Option<JobId>;

    /// Starts one paid call under a new id, below a span of its client where that names one: a job for each choice that the request asks
    /// for, in their order, the first under `job`. All are refused or none. Every refusal arrives as the first event,
    /// [`ClientEvent::Failed`].
    fn submit(
        &self,
        caller: &Account,
        job: JobId,
        request: ClientRequest,
        above: Option<TraceParent>,
    ) -> Vec<Call>;

    /// Why the call would be refused now, should it be submitted.
    fn would_refuse(&self, caller: &Account, request: &ClientRequest) -> Option<Cause>;

    /// What became of the job that was submitted as `job`, or of all together where so many choices were asked for.
    fn fate(&self, job: JobId, choices: u32) -> Fate;

    /// Where answers are kept for callers that ask again.
    fn replays(&self) -> &dyn ReplayStore;

    /// Models that would be routed now.
    fn models(&self) -> Vec<ModelEntry>;

    /// Receipt of a job; `None` when there is none, or when `viewer` may not see it: the caller cannot tell which.
    fn receipt(&self, viewer: Viewer, job: JobId) -> Option<ReceiptView>;

    /// Why the provider was chosen: candidates, score terms, excluded providers with the rule. `None` as for [`Gateway::receipt`].
    fn explain(&self, viewer: Viewer, job: JobId) -> Option<serde_json::Value>;

    /// Balances of one account; `None` when the router knows nothing of it.
    fn account(&self, account: Address) -> Option<AccountRow>;

    /// Jobs that `viewer` may see, newest first, as many as the dashboard shows.
    fn jobs(&self, viewer: Viewer) -> Vec<JobRow>;

    /// What each provider can claim in the vault under the claimable payout root: public data, whoever holds a key may carry it
    /// to the chain (DECISIONS 13).
    fn claims(&self) -> Vec<ClaimRow>;

    /// Providers known now.
    fn providers(&self) -> Vec<ProviderRow>;

    /// What the dashboard shows.
    fn board(&self) -> &dyn Board;

    /// Bounds on what a request may ask.
    fn limits(&self) -> RequestLimits;

    /// State of each part that a call needs; a part with a problem makes `/health/ready` answer 503.
    fn ready(&self) -> Vec<PartState>;
}

/// Who an API key belongs to, and what it may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Who pays.
    pub address: Address,
    /// Which key it was.
    pub key: KeyId,
    /// What the key may do.
    pub grant: Arc<Grant>,
}

impl Account {
    /// Whose documents the key may see: with any limit, those of its own calls alone.
    pub fn viewer(&self) -> Viewer {
        if self.grant.is_unlimited() {
            Viewer::Account(self.address)
        } else {
            Viewer::Key(self.address, self.key)
        }
    }
}

/// What became of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It costs what its receipt says; of several choices all do.
    Charged,
    /// Some choices were charged, this one among them; the others cost nothing and never will.
    Partly(JobId),
    /// It may still be charged.
    UnderWay,
    /// It cost nothing and never will: it failed, or was cut off by a restart.
    Nothing,
}

/// One key as its account sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRow {
    /// As it is kept.
    pub record: KeyRecord,
    /// Charged for its calls in the present period of its limit, or in all.
    pub spent: TokenAmount,
    /// Held for its calls under way.
    pub held: TokenAmount,
    /// When the next period of its limit begins.
    pub resets_at: Option<Timestamp>,
}

/// A key that was just made or rotated.
pub struct IssuedKey {
    /// The key itself: shown once and kept nowhere.
    pub secret: String,
    /// The rest of it.
    pub row: KeyRow,
}

/// Why an API key was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Nobody has this key.
    #[error("this API key is not known here")]
    Unknown,
    /// It was valid once.
    #[error("this API key was revoked")]
    Revoked,
    /// Its time is over.
    #[error("this API key has expired")]
    Expired,
}

/// Who asks for a job's documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Viewer {
    /// The holder of an API key without any limit: sees the jobs of this account and no other.
    Account(Address),
    /// The holder of a limited key: sees the account's jobs that came with this key and no other.
    Key(Address, KeyId),
    /// Whoever opened the dashboard by the login link: sees all.
    Operator,
}

/// One job under way.
#[derive(Debug)]
pub struct Call {
    /// Its id, also the receipt's, and for the first choice the request's.
    pub job: JobId,
    /// What happens: `Started`, deltas, `Complete`, then one of `Done` and `Failed`. The channel is bounded; a full one means that the
    /// client reads slowly: it is cut off, and the end says what it was billed.
    pub events: mpsc::Receiver<ClientEvent>,
    /// The client's end. Dropped when the client goes away.
    pub client: ClientEnd,
}

/// Tokens that were written to a client. Clones share the count.
#[derive(Debug, Clone, Default)]
pub struct WrittenTokens(Arc<AtomicU64>);

impl WrittenTokens {
    /// So many more.
    pub fn add(&self, tokens: u64) {
        self.0.fetch_add(tokens, Ordering::AcqRel);
    }

    /// All so far.
    pub fn tokens(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

/// The client's end of a call: counts what was written to it, says when it has got everything, and, dropped before the call ended,
/// that it is gone. A client owes what was written to it and no more.
pub struct ClientEnd {
    written: WrittenTokens,
    delivered: Box<dyn Fn(u64) + Send + Sync>,
    gone: Option<Box<dyn FnOnce(u64) + Send + Sync>>,
}

impl ClientEnd {
    /// `delivered` is told the tokens of the whole answer, `gone` those in `written`.
    pub fn new(
        written: WrittenTokens,
        delivered: impl Fn(u64) + Send + Sync + 'static,
        gone: impl FnOnce(u64) + Send + Sync + 'static,
    ) -> Self {
        Self {
            written,
            delivered: Box::new(delivered),
            gone: Some(Box::new(gone)),
        }
    }

    /// The count.
    pub fn written(&self) -> &WrittenTokens {
        &self.written
    }

    /// Answers [`ClientEvent::Complete`]: everything before it was written, `tokens` in all.
    pub fn deliver(&self, tokens: u64) {
        (self.delivered)(tokens);
    }

    /// The call is over: there is nothing left to cancel.
    pub fn disarm(&mut self) {
        self.gone = None;
    }
}

impl Drop for ClientEnd {
    fn drop(&mut self) {
        if let Some(gone) = self.gone.take() {
            gone(self.written.tokens());
        }
    }
}

impl fmt::Debug for ClientEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (written, armed) = (self.written.tokens(), self.gone.is_some());
        write!(f, "ClientEnd(written: {written}, armed: {armed})")
    }
}

/// One model that routes now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelEntry {
    /// Name that clients ask for; may contain `/`.
    pub id: String,
    /// When it was first offered here.
    pub created: Timestamp,
    /// Longest context among its providers, in tokens.
    pub context: u32,
    /// Most output tokens of one call.
    pub output_tokens_max: u32,
    /// Lowest input price among its providers.
    pub input_price: Price,
    /// Lowest output price among its providers.
    pub output_price: Price,
    /// Weight format.
    pub quantization: String,
    /// Root of its weights; zero for an upstream server.
    pub model_root: Digest,
    /// How its answers can be checked.
    pub tiers: Vec<Tier>,
    /// Where its providers stand.
    pub regions: Vec<Region>,
    /// Providers online.
    pub providers: u32,
    /// Jobs that could start now.
    pub free_slots: u32,
}

/// A job's receipt and where its settlement stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReceiptView {
    /// With both signatures.
    pub receipt: SignedReceipt,
    /// State of the job.
    pub state: JobState,
    /// The parameters whose digest the receipt carries, where the router still holds them.
    pub parameters: Option<SamplingParameters>,
    /// Path into the batch, once it is posted.
    pub proof: Option<SettlementProof>,
}

/// Money of one account at this router, in payment token units.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AccountRow {
    /// The account.
    pub account: Address,
    /// Free balance in the vault.
    pub vault_balance: TokenAmount,
    /// Cap of its allotment to this router.
    pub allotment_cap: TokenAmount,
    /// Held for calls under way.
    pub reserved: TokenAmount,
    /// Charged against the allotment so far.
    pub charged: TokenAmount,
    /// What a new call could reserve.
    pub available: TokenAmount,
    /// When the allotment ends.
    pub expires_at: Timestamp,
}

/// One provider as anyone may see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProviderRow {
    /// Its account.
    pub id: Address,
    /// Whether it is connected.
    pub online: bool,
    /// Where it stands.
    pub region: Region,
    /// Names of its models.
    pub models: Vec<String>,
    /// Lowest price of input tokens, per 10^6.
    pub input_price: Price,
    /// Lowest price of output tokens, per 10^6.
    pub output_price: Price,
    /// Jobs it runs at once.
    pub slots: u32,
    /// Jobs that could start now.
    pub free_slots: u32,
    /// Reputation in millionths.
    pub reputation_ppm: u32,
    /// Jobs delivered through this router.
    pub jobs: u64,
    /// Smoothed time to first token in ms; `None` before the first job.
    pub ttft_ms: Option<u64>,
}

/// One job on the dashboard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct JobRow {
    /// The job.
    pub job: JobId,
    /// Where it stands.
    pub state: JobState,
    /// Model asked for.
    pub model: String,
    /// Who answers; `None` before the choice.
    pub provider: Option<Address>,
    /// Price of output tokens, per 10^6; `None` before the choice.
    pub output_price: Option<Price>,
    /// What is held for it, or what it cost once it is delivered.
    pub amount: TokenAmount,
    /// Time to first token in ms.
    pub ttft_ms: Option<u64>,
    /// Prompt tokens, once known.
    pub input_units: u64,
    /// Output tokens so far.
    pub output_units: u64,
    /// When it was reserved.
    pub reserved_at: Timestamp,
}

/// Arguments of the vault's `claim` for one provider and fee version, beside the router.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimRow {
    /// Provider.
    pub provider: Address,
    /// Fee version of its leaf.
    pub fee_version: u16,
    /// Lifetime gross under the claimable root.
    pub lifetime_gross: TokenAmount,
    /// Root over providers.
    pub provider_root: Digest,
    /// Root over debits.
    pub debit_root: Digest,
    /// From the provider's leaf to the provider root.
    pub proof: Vec<Digest>,
}

/// One batch on the dashboard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BatchRow {
    /// Its number.
    pub batch: u64,
    /// Where it stands, in one word: `open`, `posted`, `settled`.
    pub state: String,
    /// Root of its receipts; zero while it is open.
    pub root: Digest,
    /// Transaction that posted it.
    pub transaction: Option<Digest>,
    /// Number of receipts.
    pub receipts: u64,
    /// Sum of the charges.
    pub total: TokenAmount,
    /// The jobs in it: the newest, at most some dozens.
    pub jobs: Vec<JobId>,
    /// When it was posted.
    pub posted_at: Option<Timestamp>,
}

/// Bounds on what a request may ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct RequestLimits {
    /// Largest request body in bytes.
    pub body_bytes_max: u64,
    /// Most output tokens of one call.
    pub output_tokens_max: u32,
    /// Output tokens when a request names no limit.
    pub output_tokens_default: u32,
    /// Calls under way at once; `None` where only the allotment bounds them.
    pub calls_max: Option<u32>,
}

/// State of one part that a call needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PartState {
    /// `chain`, `store`, `providers`.
    pub part: &'static str,
    /// What is wrong; `None` when nothing is.
    pub problem: Option<String>,
}
