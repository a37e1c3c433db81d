//! How fast each key and each account may call, and how fast an account may ask for pages and for what it pays nothing for: buckets of requests
//! and of tokens, refilled all the time. One counter for the whole process; who has shown no credential has none, so strangers cost no memory.

use crate::error::ApiError;
use crate::keys::RateLimit;
use crate::port::Account;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use stoa_nodes::client::KeyId;
use stoa_types::Address;

/// Levels are kept in sixty-thousandths, so that a limit per minute fills exactly its own number of them in a millisecond.
const SCALE: i128 = 60_000;
/// Buckets that are kept before the full ones are forgotten: a full bucket is as good as none.
const BUCKETS_KEPT: usize = 10_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Whose {
    Account(Address),
    Key(KeyId),
    /// An account in a browser. However many sessions it has, it has one.
    Viewer(Address),
    /// An account that asks by key for what is not paid. However many keys it has, it has one.
    Reader(Address),
    /// A key by which keys are managed: nothing that another one does, which may have leaked, keeps its owner from revoking that one.
    Manager(KeyId),
}

/// What fills a pair of buckets. What is not paid has no tokens.
#[derive(Debug, Clone, Copy)]
struct Limit {
    requests: u32,
    tokens: Option<u64>,
}

impl From<RateLimit> for Limit {
    fn from(limit: RateLimit) -> Self {
        Self {
            requests: limit.requests_per_minute,
            tokens: Some(limit.tokens_per_minute),
        }
    }
}

/// Whose buckets a request takes from: a caller's account's, and its key's where that has a limit; or a viewer's, a reader's, a manager's.
#[derive(Debug, Clone)]
pub(crate) struct Party(Vec<(Whose, Limit)>);

/// Room for one kind of thing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bucket {
    per_minute: u64,
    level: i128,
}

impl Bucket {
    pub(crate) fn full(per_minute: u64) -> Self {
        Self {
            per_minute,
            level: i128::from(per_minute) * SCALE,
        }
    }

    fn capacity(&self) -> i128 {
        i128::from(self.per_minute) * SCALE
    }

    pub(crate) fn refill(&mut self, ms: u64) {
        let more = i128::from(ms) * i128::from(self.per_minute);
        self.level = self.level.saturating_add(more).min(self.capacity());
    }

    pub(crate) fn is_full(&self) -> bool {
        self.level >= self.capacity()
    }

    /// Takes `count`, or says in how many milliseconds they are there.
    pub(crate) fn take(&mut self, count: u64) -> Result<(), u64> {
        let cost = self.cost(count);
        if self.level < cost {
            return Err(self.until(cost).max(1));
        }
        self.level -= cost;
        Ok(())
    }

    /// What `count` takes away: never more than a full bucket, or it could never be given.
    fn cost(&self, count: u64) -> i128 {
        (i128::from(count) * SCALE).min(self.capacity())
    }

    /// Milliseconds until the level is there.
    fn until(&self, level: i128) -> u64 {
        let missing = (level - self.level).max(0);
        let rate = i128::from(self.per_minute.max(1));
        u64::try_from((missing + rate - 1) / rate).unwrap_or(u64::MAX)
    }

    fn remaining(&self) -> u64 {
        u64::try_from(self.level.max(0) / SCALE).unwrap_or(u64::MAX)
    }
}

#[derive(Debug, Clone, Copy)]
struct Pair {
    requests: Bucket,
    tokens: Option<Bucket>,
    at: Instant,
}

impl Pair {
    fn full(limit: Limit, at: Instant) -> Self {
        Self {
            requests: Bucket::full(limit.requests.into()),
            tokens: limit.tokens.map(Bucket::full),
            at,
        }
    }

    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_millis();
        let ms = u64::try_from(passed).unwrap_or(u64::MAX);
        // Parts of a millisecond are counted with the next whole one.
        self.at += std::time::Duration::from_millis(ms);
        self.requests.refill(ms);
        if let Some(tokens) = &mut self.tokens {
            tokens.refill(ms);
        }
    }

    fn is_full(&self) -> bool {
        self.requests.is_full() && self.tokens.is_none_or(|tokens| tokens.is_full())
    }
}

/// How often an account may ask in a minute, and at once, for what it pays nothing for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Unpaid {
    /// In a browser.
    pub(crate) pages: u32,
    /// By key.
    pub(crate) reads: u32,
}

/// The counters of one server.
#[derive(Debug)]
pub(crate) struct Rates {
    account: RateLimit,
    unpaid: Unpaid,
    pairs: Mutex<HashMap<Whose, Pair>>,
}

impl Rates {
    pub(crate) fn new(account: RateLimit, unpaid: Unpaid) -> Self {
        Self {
            account,
            unpaid,
            pairs: Mutex::default(),
        }
    }

    /// What an account without a limit of its own may do.
    pub(crate) fn of_accounts(&self) -> RateLimit {
        self.account
    }

    /// What an account may ask for by key in a minute without paying.
    pub(crate) fn reads_per_minute(&self) -> u32 {
        self.unpaid.reads
    }

    fn pairs(&self) -> MutexGuard<'_, HashMap<Whose, Pair>> {
        self.pairs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The buckets of a caller by key.
    pub(crate) fn caller(&self, caller: &Account) -> Party {
        let account = (Whose::Account(caller.address), self.account.into());
        let key = caller
            .grant
            .rate_limit
            .map(|limit| (Whose::Key(caller.key), limit.into()));
        Party(std::iter::once(account).chain(key).collect())
    }

    /// The bucket of an account that signed in to the dashboard.
    pub(crate) fn viewer(&self, account: Address) -> Party {
        Self::of_requests(Whose::Viewer(account), self.unpaid.pages)
    }

    /// The bucket of an account that asks by key for what is not paid.
    pub(crate) fn reader(&self, account: Address) -> Party {
        Self::of_requests(Whose::Reader(account), self.unpaid.reads)
    }

    /// The bucket of a key by which keys are managed, as large as a reader's: only keys without any limit get to one.
    pub(crate) fn manager(&self, key: KeyId) -> Party {
        Self::of_requests(Whose::Manager(key), self.unpaid.reads)
    }

    fn of_requests(whose: Whose, requests: u32) -> Party {
        let limit = Limit {
            requests,
            tokens: None,
        };
        Party(vec![(whose, limit)])
    }

    /// The party's pairs as they are now; those that were not known are full.
    fn look(
        &self,
        pairs: &HashMap<Whose, Pair>,
        party: &Party,
        now: Instant,
    ) -> Vec<(Whose, Pair)> {
        let refilled = party.0.iter().map(|(whose, limit)| {
            let (whose, limit) = (*whose, *limit);
            let known = pairs.get(&whose).copied();
            let mut pair = known.unwrap_or_else(|| Pair::full(limit, now));
            pair.refill(now);
            (whose, pair)
        });
        refilled.collect()
    }

    /// Takes so many requests and, for now, `each` token of them out of every bucket of the party, or out of none.
    pub(crate) fn take(
        self: &Arc<Self>,
        party: Party,
        requests: u32,
        each: u64,
    ) -> Result<Taken, ApiError> {
        let tokens = each.saturating_mul(requests.into());
        self.take_at(&party, (requests, tokens), Instant::now())?;
        Ok(Taken {
            rates: self.clone(),
            party,
            tokens,
        })
    }

    fn take_at(
        &self,
        party: &Party,
        (requests, tokens): (u32, u64),
        now: Instant,
    ) -> Result<(), ApiError> {
        let asked = u64::from(requests);
        let mut known = self.pairs();
        let mut own = self.look(&known, party, now);
        for (_, pair) in &own {
            let requests = ("requests", pair.requests, asked);
            let tokens = pair.tokens.map(|bucket| ("tokens", bucket, tokens));
            for (what, bucket, count) in std::iter::once(requests).chain(tokens) {
                if what == "requests" && count > bucket.per_minute.max(1) {
                    return Err(too_many_choices(count, bucket.per_minute));
                }
                let cost = bucket.cost(count);
                if bucket.level < cost || bucket.per_minute == 0 {
                    return Err(ApiError::RateLimited {
                        what,
                        limit: bucket.per_minute,
                        retry_ms: bucket.until(cost).max(1),
                    });
                }
            }
        }
        for (whose, pair) in &mut own {
            pair.requests.level -= pair.requests.cost(asked);
            if let Some(bucket) = &mut pair.tokens {
                bucket.level -= bucket.cost(tokens);
            }
            known.insert(*whose, *pair);
        }
        if known.len() > BUCKETS_KEPT {
            known.retain(|_, pair| {
                pair.refill(now);
                !pair.is_full()
            });
        }
        Ok(())
    }

    /// Corrects what was taken for a call to what it used.
    fn settle_at(&self, party: &Party, taken: u64, used: u64, now: Instant) {
        let mut known = self.pairs();
        for (whose, mut pair) in self.look(&known, party, now) {
            let Some(tokens) = &mut pair.tokens else {
                continue;
            };
            let back = tokens.cost(taken) - i128::from(used) * SCALE;
            let level = tokens.level.saturating_add(back);
            tokens.level = level.min(tokens.capacity());
            known.insert(whose, pair);
        }
    }

    /// The headers that tell a party where it stands, by its tighter buckets.
    pub(crate) fn headers(&self, party: &Party) -> HeaderMap {
        self.headers_at(party, Instant::now())
    }

    fn headers_at(&self, party: &Party, now: Instant) -> HeaderMap {
        let own = self.look(&self.pairs(), party, now);
        let mut headers = HeaderMap::new();
        let tightest = |bucket: fn(&Pair) -> Option<Bucket>| {
            let buckets = own.iter().filter_map(|(_, pair)| bucket(pair));
            buckets.min_by_key(Bucket::remaining)
        };
        for (what, bucket) in [
            ("requests", tightest(|pair| Some(pair.requests))),
            ("tokens", tightest(|pair| pair.tokens)),
        ] {
            let Some(bucket) = bucket else { continue };
            for (of, value) in [
                ("limit", bucket.per_minute.to_string()),
                ("remaining", bucket.remaining().to_string()),
                ("reset", duration(bucket.until(bucket.capacity()))),
            ] {
                let name = HeaderName::from_bytes(format!("x-ratelimit-{of}-{what}").as_bytes());
                if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(&value)) {
                    headers.insert(name, value);
                }
            }
        }
        headers
    }
}

/// They are as many requests, and no minute has room for them.
fn too_many_choices(choices: u64, per_minute: u64) -> ApiError {
    ApiError::Invalid {
        param: "n".to_owned(),
        reason: format!(
            "{choices} choices count as {choices} requests, and {per_minute} a minute are allowed; ask for fewer"
        ),
    }
}

/// As `1m26.4s`, `8.64s`, `17ms`.
fn duration(ms: u64) -> String {
    let (minutes, rest) = (ms / 60_000, ms % 60_000);
    if minutes == 0 && rest < 1_000 {
        return format!("{rest}ms");
    }
    let fraction = format!("{:03}", rest % 1_000);
    let seconds = format!("{}.{fraction}", rest / 1_000);
    let seconds = seconds.trim_end_matches('0').trim_end_matches('.');
    if minutes == 0 {
        format!("{seconds}s")
    } else {
        format!("{minutes}m{seconds}s")
    }
}

/// What one call took. Unless it is settled, what was taken stays taken.
#[derive(Debug)]
pub(crate) struct Taken {
    rates: Arc<Rates>,
    party: Party,
    tokens: u64,
}

impl Taken {
    /// The call used so many tokens.
    pub(crate) fn settle(self, used: u64) {
        let now = Instant::now();
        self.rates.settle_at(&self.party, self.tokens, used, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::Grant;
    use std::time::Duration;

    const LIMIT: RateLimit = RateLimit {
        requests_per_minute: 6,
        tokens_per_minute: 600,
    };

    const PAGES: u32 = 3;
    const READS: u32 = 2;

    /// Counters and a clock that moves when it is told to.
    struct Turnstile {
        rates: Rates,
        now: Instant,
    }

    impl Turnstile {
        fn new() -> Self {
            Self {
                rates: Rates::new(
                    LIMIT,
                    Unpaid {
                        pages: PAGES,
                        reads: READS,
                    },
                ),
                now: Instant::now(),
            }
        }

        fn take(&self, caller: &Account, tokens: u64) {
            let party = self.rates.caller(caller);
            self.rates
                .take_at(&party, (1, tokens), self.now)
                .expect("room");
        }

        fn refused(&self, caller: &Account, tokens: u64) -> (&'static str, u64) {
            let party = self.rates.caller(caller);
            match self.rates.take_at(&party, (1, tokens), self.now) {
                Err(ApiError::RateLimited { what, retry_ms, .. }) => (what, retry_ms),
                other => panic!("{other:?}"),
            }
        }

        fn asks_for(&self, caller: &Account, choices: u32) -> Result<(), ApiError> {
            let party = self.rates.caller(caller);
            self.rates.take_at(&party, (choices, 0), self.now)
        }

        fn pass(&mut self, ms: u64) {
            self.now += Duration::from_millis(ms);
        }
    }

    fn caller(key: u64, rate_limit: Option<RateLimit>) -> Account {
        Account {
            address: Address([1; 20]),
            key: KeyId(key),
            grant: Arc::new(Grant {
                rate_limit,
                ..Grant::default()
            }),
        }
    }

    #[test]
    fn a_refused_caller_is_served_after_exactly_the_time_that_it_was_told() {
        let (mut gate, caller) = (Turnstile::new(), caller(1, None));
        for _ in 0..6 {
            gate.take(&caller, 10);
        }
        let (what, wait) = gate.refused(&caller, 10);
        assert_eq!((what, wait), ("requests", 10_000));
        gate.pass(wait - 1);
        assert_eq!(gate.refused(&caller, 10), ("requests", 1));
        gate.pass(1);
        gate.take(&caller, 10);
    }

    #[test]
    fn tokens_are_taken_in_advance_and_corrected_to_what_was_used() {
        let (gate, caller) = (Turnstile::new(), caller(1, None));
        gate.take(&caller, 500);
        assert_eq!(gate.refused(&caller, 200), ("tokens", 10_000));
        let party = gate.rates.caller(&caller);
        gate.rates.settle_at(&party, 500, 30, gate.now);
        let headers = gate.rates.headers_at(&party, gate.now);
        assert_eq!(headers["x-ratelimit-remaining-tokens"], "570");
        assert_eq!(headers["x-ratelimit-limit-requests"], "6");
        assert_eq!(headers["x-ratelimit-remaining-requests"], "5");
        assert_eq!(headers["x-ratelimit-reset-requests"], "10s");
        assert_eq!(headers["x-ratelimit-reset-tokens"], "3s");
        // More than was guessed leaves a debt.
        gate.take(&caller, 570);
        gate.rates.settle_at(&party, 570, 900, gate.now);
        let headers = gate.rates.headers_at(&party, gate.now);
        assert_eq!(headers["x-ratelimit-remaining-tokens"], "0");
        assert_eq!(gate.refused(&caller, 0), ("tokens", 33_000));
    }

    #[test]
    fn a_key_has_its_own_limit_within_its_account_s() {
        let gate = Turnstile::new();
        let tight = RateLimit {
            requests_per_minute: 1,
            ..LIMIT
        };
        let (slow, free) = (caller(1, Some(tight)), caller(2, None));
        gate.take(&slow, 1);
        assert_eq!(gate.refused(&slow, 1).0, "requests");
        for _ in 0..5 {
            gate.take(&free, 1); // The refused call took nothing.
        }
        assert_eq!(gate.refused(&free, 1).0, "requests");
    }

    #[test]
    fn an_account_s_pages_its_reads_its_key_changes_and_its_calls_take_nothing_from_each_other() {
        let (gate, caller) = (Turnstile::new(), caller(1, None));
        let reader = gate.rates.reader(caller.address);
        for _ in 0..READS {
            gate.rates.take_at(&reader, (1, 0), gate.now).expect("room");
        }
        gate.rates
            .take_at(&reader, (1, 0), gate.now)
            .expect_err("no more of them");
        let manager = gate.rates.manager(caller.key);
        for _ in 0..READS {
            gate.rates
                .take_at(&manager, (1, 0), gate.now)
                .expect("room");
        }
        let viewer = gate.rates.viewer(caller.address);
        for _ in 0..PAGES {
            gate.rates.take_at(&viewer, (1, 0), gate.now).expect("room");
        }
        let refused = gate.rates.take_at(&viewer, (1, 0), gate.now);
        assert_eq!(
            refused,
            Err(ApiError::RateLimited {
                what: "requests",
                limit: PAGES.into(),
                retry_ms: 20_000
            })
        );
        for _ in 0..LIMIT.requests_per_minute {
            gate.take(&caller, 1);
        }
        let headers = gate.rates.headers_at(&viewer, gate.now);
        assert_eq!(headers["x-ratelimit-remaining-requests"], "0");
        assert!(!headers.contains_key("x-ratelimit-limit-tokens"));
        let other = gate.rates.viewer(Address([2; 20]));
        gate.rates
            .take_at(&other, (1, 0), gate.now)
            .expect("its own");
    }

    #[test]
    fn a_call_larger_than_the_bucket_is_served_when_it_is_full() {
        let (gate, caller) = (Turnstile::new(), caller(1, None));
        gate.take(&caller, 5_000);
        assert_eq!(gate.refused(&caller, 5_000), ("tokens", 60_000));
    }

    #[test]
    fn buckets_that_are_full_again_are_forgotten() {
        let mut gate = Turnstile::new();
        for n in 0..2 * BUCKETS_KEPT as u64 {
            let mut other = caller(n, Some(LIMIT));
            other.address.0[..8].copy_from_slice(&n.to_be_bytes());
            gate.take(&other, 1);
            gate.pass(20);
        }
        assert!(gate.rates.pairs().len() <= BUCKETS_KEPT + 2);
    }

    #[test]
    fn durations_read_as_openai_writes_them() {
        for (ms, text) in [
            (0, "0ms"),
            (17, "17ms"),
            (8_640, "8.64s"),
            (86_400, "1m26.4s"),
            (360_000, "6m0s"),
        ] {
            assert_eq!(duration(ms), text);
        }
    }

    #[test]
    fn choices_count_as_requests_and_more_than_a_minute_has_are_refused_by_name() {
        let mut stile = Turnstile::new();
        let (wide, narrow) = (
            caller(1, None),
            Some(RateLimit {
                requests_per_minute: 2,
                ..LIMIT
            }),
        );
        let narrow = caller(2, narrow);
        for (who, most) in [(&narrow, 2), (&wide, 6)] {
            let refused = stile.asks_for(who, most + 1).expect_err("too many");
            let ApiError::Invalid { param, reason } = refused else {
                panic!("{refused:?}");
            };
            assert_eq!(param, "n");
            assert!(reason.contains(&format!("{most} a minute")), "{reason}");
        }
        stile
            .asks_for(&narrow, 2)
            .expect("nothing was taken for what was refused");
        assert_eq!(stile.refused(&narrow, 0).0, "requests");
        stile.pass(60_000);
        stile.asks_for(&wide, 6).expect("all of a minute");
        assert_eq!(stile.refused(&wide, 0).0, "requests");
    }
}
