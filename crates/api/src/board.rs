//! The port behind the dashboard: what a person may look at, as plain values.
//!
//! [`Viewer`] says who looks. Whoever holds the login link sees everything; an account that signed in with its wallet sees its own calls,
//! keys and money, and, where it is a provider, its own earnings and lost jobs. What the chain shows to anyone is shown to both.

use crate::port::{
    AccountRow, BatchRow, JobRow, KeyRow, PartState, ProviderRow, ReceiptView, Viewer,
};
use serde::Serialize;
use stoa_market::{Decision, Score};
use stoa_types::{Address, Bps, Digest, JobId, Price, StakeAmount, Tier, Timestamp, TokenAmount};
use stoa_verify::{BundleError, Report};
use tokio::sync::watch;

/// What the dashboard asks of a router. Lists are newest first and bounded by whoever fills them.
pub trait Board: Send + Sync {
    /// The router's time.
    fn now(&self) -> Timestamp;

    /// Chain id of the vault.
    fn chain_id(&self) -> u64;

    /// Counts up whenever something may look different.
    fn changes(&self) -> watch::Receiver<u64>;

    /// Whether the account has an allotment, a key or a registration here: others have nothing to look at.
    fn knows(&self, account: Address) -> bool;

    /// The first page.
    fn overview(&self, viewer: Viewer) -> Overview;

    /// Calls under way, charged and failed.
    fn calls(&self, viewer: Viewer) -> Calls;

    /// One call; `None` when there is none, or when `viewer` may not see it. May read a file.
    fn call(&self, viewer: Viewer, job: JobId) -> Option<CallView>;

    /// All providers.
    fn provider_lines(&self) -> Vec<ProviderLine>;

    /// One provider.
    fn provider(&self, viewer: Viewer, id: Address) -> Option<ProviderView>;

    /// Who checks, what was ruled, who was slashed.
    fn audits(&self) -> Audits;

    /// Balances, batches and payouts.
    fn money(&self, viewer: Viewer) -> Money;

    /// Keys with what they spent.
    fn key_uses(&self, viewer: Viewer) -> Vec<KeyUse>;

    /// How calls went since this router started.
    fn performance(&self) -> Performance;

    /// Checks a receipt file as far as the file alone allows.
    fn check_file(&self, bytes: &[u8]) -> Result<Report, BundleError>;
}

/// What the first page shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Overview {
    /// When it was taken.
    pub now: Timestamp,
    /// Chain id of the vault.
    pub chain_id: u64,
    /// Height of the chain as the router knows it.
    pub block: u64,
    /// The router.
    pub router: Address,
    /// Calls in progress, those that wait for a slot included.
    pub active: u64,
    /// State of each part that a call needs.
    pub parts: Vec<PartState>,
    /// Jobs under way and recent.
    pub jobs: Vec<JobRow>,
    /// Balances.
    pub accounts: Vec<AccountRow>,
    /// Batches.
    pub batches: Vec<BatchRow>,
    /// Providers.
    pub providers: Vec<ProviderRow>,
}

/// Calls of whoever looks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Calls {
    /// Under way, then charged.
    pub jobs: Vec<JobRow>,
    /// Without an answer, since the router started.
    pub failed: Vec<FailedCall>,
}

/// A call that ended without its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedCall {
    /// The call.
    pub job: JobId,
    /// Who called.
    pub account: Address,
    /// Model asked for.
    pub model: String,
    /// Why, as the client was told.
    pub cause: String,
    /// What was charged for what was delivered.
    pub billed: TokenAmount,
    /// When it ended.
    pub at: Timestamp,
}

/// Everything about one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallView {
    /// As in the list; `None` for a call that failed.
    pub row: Option<JobRow>,
    /// How it failed, if it did.
    pub failed: Option<FailedCall>,
    /// Why the provider was chosen.
    pub decision: Option<Decision>,
    /// Attempts that ended without a receipt.
    pub losses: Vec<LossRow>,
    /// Receipt and proof.
    pub receipt: Option<ReceiptView>,
    /// What this router found when it checked the receipt just now.
    pub report: Option<Report>,
    /// Number of the batch, once it is sealed, and its transaction, once it is posted.
    pub batch: Option<(u64, Option<Digest>)>,
}

/// An attempt at a job that a provider lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LossRow {
    /// The job.
    pub job: JobId,
    /// Who lost it.
    pub provider: Address,
    /// Which attempt, from 0.
    pub attempt: u32,
    /// Why.
    pub cause: String,
    /// Whether it counts against the provider's reliability.
    pub counts: bool,
    /// When.
    pub at: Timestamp,
    /// When the provider signed that it takes the order and until when it owed it, where it did and did not deliver.
    pub taken: Option<(Timestamp, Timestamp)>,
}

/// Stake of somebody in a role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StakeRow {
    /// Counts towards the minimum.
    pub active: StakeAmount,
    /// On its way out, still slashable.
    pub unbonding: StakeAmount,
    /// Least active stake.
    pub minimum: StakeAmount,
}

/// The last time a provider was scored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scored {
    /// When.
    pub at: Timestamp,
    /// Its score with the parts.
    pub score: Score,
    /// Place among those scored, from 1.
    pub place: u32,
    /// How many were scored.
    pub of: u32,
}

/// One provider in the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderLine {
    /// As anyone sees it.
    pub row: ProviderRow,
    /// `None` until the chain was read.
    pub stake: Option<StakeRow>,
    /// How often it was slashed.
    pub slashes: u64,
    /// Good and all outcomes of its latest jobs.
    pub reliability: (u32, u32),
    /// `None` before its first call.
    pub scored: Option<Scored>,
}

/// One provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderView {
    /// As in the list.
    pub line: ProviderLine,
    /// What it offers.
    pub offers: Vec<OfferRow>,
    /// What was taken from its stake.
    pub slashes: Vec<SlashRow>,
    /// What was ruled about its jobs.
    pub rulings: Vec<RulingRow>,
    /// What only the provider itself and the operator see.
    pub own: Option<ProviderOwn>,
}

/// One model of a provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfferRow {
    /// Name.
    pub model: String,
    /// How its answers can be checked.
    pub tier: Tier,
    /// Context in tokens.
    pub context: u32,
    /// Price of 10^6 input tokens.
    pub input_price: Price,
    /// Price of 10^6 output tokens.
    pub output_price: Price,
}

/// A provider's earnings and lost jobs at this router.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ProviderOwn {
    /// One row for each fee version.
    pub payouts: Vec<PayoutRow>,
    /// How it fared in the choice of providers since the router started.
    pub market: MarketRecord,
    /// Attempts it lost.
    pub losses: Vec<LossRow>,
}

/// How a provider fared in the choice of providers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MarketRecord {
    /// Calls in whose choice it stood.
    pub considered: u64,
    /// Of these, it was the first choice.
    pub first: u64,
    /// Of these, it was scored and another was first.
    pub behind: u64,
    /// Of these, it was left out, by which rule.
    pub excluded: Vec<(&'static str, u64)>,
    /// Its last score.
    pub scored: Option<Scored>,
    /// The newest calls for which another was first.
    pub lost: Vec<LostChoice>,
}

/// A call for which another provider was first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostChoice {
    /// When.
    pub at: Timestamp,
    /// Who was first.
    pub winner: Address,
    /// The winner's score.
    pub theirs: Score,
    /// Its own.
    pub ours: Score,
    /// Scores so close to the best draw lots.
    pub tie_bps: Bps,
}

/// What a provider earned under one fee version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PayoutRow {
    /// Provider.
    pub provider: Address,
    /// Fee version.
    pub fee_version: u16,
    /// Charged for its work in all, before fees.
    pub gross: TokenAmount,
    /// The part that the claimable root covers.
    pub claimable: TokenAmount,
    /// The part that it claimed; `None` while the chain was not read that far.
    pub claimed: Option<TokenAmount>,
}

/// A slash on chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlashRow {
    /// When.
    pub at: Timestamp,
    /// Transaction.
    pub transaction: Digest,
    /// Whose stake.
    pub offender: Address,
    /// `provider`, `router` or `validator`.
    pub role: &'static str,
    /// Share of the stake.
    pub severity_bps: u16,
    /// What was taken.
    pub taken: StakeAmount,
    /// Of it, for the developer.
    pub developer: StakeAmount,
    /// Of it, for the challenger.
    pub challenger: StakeAmount,
    /// Of it, burned.
    pub burned: StakeAmount,
    /// The fault's id on chain.
    pub fault: Digest,
    /// Why, where the chain's other events say so.
    pub why: Option<String>,
}

/// One validator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValidatorRow {
    /// Its account.
    pub id: Address,
    /// `None` until the chain was read.
    pub stake: Option<StakeRow>,
    /// Whether it has a seat.
    pub seated: bool,
    /// Links of the beacon that it revealed.
    pub revealed: u64,
    /// Ballots that it committed.
    pub ballots: u64,
    /// Ballots that it showed.
    pub unsealed: u64,
    /// Verdicts in which it differed without being wrong.
    pub differed: u64,
    /// How often it was slashed.
    pub slashes: u64,
    /// When it was last heard of on chain.
    pub last_at: Option<Timestamp>,
}

/// A round of audits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoundRow {
    /// Its number.
    pub round: u64,
    /// Where it stands.
    pub phase: String,
    /// When it was opened.
    pub opened_at: Timestamp,
    /// Validators in its committee.
    pub committee: u64,
    /// Beacon, once it is drawn.
    pub beacon: Option<Digest>,
}

/// A ruling of a panel or an objective fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RulingRow {
    /// When.
    pub at: Timestamp,
    /// Transaction.
    pub transaction: Digest,
    /// About which job, where the router knows it.
    pub job: Option<JobId>,
    /// What it is about, as the chain names it.
    pub subject: Digest,
    /// Who answers for it, if anybody does.
    pub about: Option<Address>,
    /// What was found, in a few words.
    pub outcome: String,
    /// Whether the finding is a fault.
    pub fault: bool,
}

/// Who checks and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Audits {
    /// Whether the router follows the contracts that judge.
    pub followed: bool,
    /// Validators with a stake.
    pub validators: Vec<ValidatorRow>,
    /// Rounds.
    pub rounds: Vec<RoundRow>,
    /// Rulings.
    pub rulings: Vec<RulingRow>,
    /// Slashes of all roles.
    pub slashes: Vec<SlashRow>,
}

/// Where the money is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Money {
    /// Balances.
    pub accounts: Vec<AccountRow>,
    /// Batches.
    pub batches: Vec<BatchRow>,
    /// Payouts to providers.
    pub payouts: Vec<PayoutRow>,
}

/// A key and what its calls cost by day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyUse {
    /// As its account sees it.
    pub row: KeyRow,
    /// Days since the Unix epoch with what was charged on them, oldest first, the latest days only.
    pub days: Vec<(u64, TokenAmount)>,
}

/// How calls went since the router started.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Performance {
    /// When it started.
    pub since: Timestamp,
    /// Calls that came in.
    pub calls: u64,
    /// Of these, a provider was found.
    pub matched: u64,
    /// Of these, refused for want of a provider: none online, none that meets the policy or the price, or all busy for too long.
    pub unmatched: u64,
    /// Of these, refused before a provider was looked for: the request, or its cover.
    pub refused: u64,
    /// Matched calls that were answered.
    pub delivered: u64,
    /// Matched calls that ended without their answer.
    pub failed: u64,
    /// Calls whose client left before the end.
    pub left: u64,
    /// Answers that another provider than the first gave.
    pub failovers: u64,
    /// Matched calls whose first choice had to load the model.
    pub cold_starts: u64,
    /// From the call to the choice of a provider.
    pub queue: Histogram,
    /// From the call to the first token.
    pub first_token: Histogram,
    /// From the call to the charged receipt.
    pub total: Histogram,
    /// Why calls failed, as the client was told, with how often.
    pub causes: Vec<(&'static str, u64)>,
}

/// Upper bounds of the buckets in ms; the last bucket has none.
const BOUNDS_MS: [u64; 13] = [
    5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 30_000, 60_000,
];

/// How long something took, counted in buckets.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Histogram {
    counts: [u64; BOUNDS_MS.len() + 1],
}

impl Histogram {
    /// Counts one duration.
    pub fn observe(&mut self, ms: u64) {
        let bucket = BOUNDS_MS.partition_point(|bound| *bound < ms);
        if let Some(count) = self.counts.get_mut(bucket) {
            *count += 1;
        }
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Each bucket's upper bound in ms and its count.
    pub fn buckets(&self) -> impl Iterator<Item = (Option<u64>, u64)> {
        let bounds = BOUNDS_MS.iter().copied().map(Some).chain([None]);
        bounds.zip(self.counts)
    }

    /// The upper bound of the bucket that holds the given share of all, smallest first. The outer `None` means that nothing was counted,
    /// the inner that it lies above the last bound.
    pub fn quantile(&self, percent: u64) -> Option<Option<u64>> {
        let wanted = (self.count() * percent).div_ceil(100).max(1);
        let mut seen = 0;
        self.buckets().find_map(|(bound, count)| {
            seen += count;
            (seen >= wanted).then_some(bound)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_counted_in_the_bucket_that_reaches_it() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(50), None);
        for ms in [0, 5, 6, 100, 60_000, 60_001] {
            histogram.observe(ms);
        }
        let counted: Vec<_> = histogram
            .buckets()
            .filter(|(_, count)| *count > 0)
            .collect();
        let expected = [
            (Some(5), 2),
            (Some(10), 1),
            (Some(100), 1),
            (Some(60_000), 1),
            (None, 1),
        ];
        assert_eq!(counted, expected);
        assert_eq!(histogram.quantile(50), Some(Some(10)));
        assert_eq!(histogram.quantile(100), Some(None));
    }
}
