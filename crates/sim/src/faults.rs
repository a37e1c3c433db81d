//! Fault ranges (design: reliability 4.3) and what of them was met.

use crate::rng::Rng;
use std::collections::BTreeMap;

/// Who a fault hits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Router.
    Router,
    /// Provider.
    Provider,
    /// Client.
    Client,
    /// Chain.
    Chain,
}

/// Kinds of faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// A message never arrived.
    Lost,
    /// A message arrived twice.
    Duplicated,
    /// A message overtook an earlier one.
    Reordered,
    /// A link was down.
    Partition,
    /// A process ended and lost what was not synced.
    Crash,
    /// It came back.
    Restart,
    /// Written entries vanished with a crash.
    UnsyncedLost,
    /// The disk was full.
    DiskFull,
    /// A clock was off.
    Skew,
    /// A generation stopped without an end.
    Stall,
    /// The receipt was forged.
    Garbage,
    /// A client left before the end.
    Left,
    /// A transaction was dropped.
    TransactionLost,
    /// A transaction was sent twice.
    TransactionTwice,
    /// No block for a while.
    Outage,
    /// An event was told twice.
    EventTwice,
    /// A developer raised a cap or moved an expiry while calls ran.
    ToppedUp,
    /// A developer revoked an allotment while calls ran.
    Revoked,
    /// An allotment was released while calls ran or debits were outstanding.
    Released,
    /// A released allotment was followed by its next generation.
    Renewed,
    /// The chain was out of the router's reach, often for longer than the delay between an allotment's end and its release, while
    /// others used it.
    ChainCut,
    /// The verdict cancelled a payout root in its window.
    Voided,
    /// The router took over debits that came too late.
    Absorbed,
    /// A batch was posted without the payout root that it was sealed with.
    LeftOut,
    /// The journal became a snapshot and a shorter tail.
    Compacted,
    /// A refusal by the journal arrived after other inputs.
    RefusedLate,
    /// No new calls were taken for a while.
    Drained,
}

/// Each fault with the roles it can hit: a campaign in which one never fired has tested less than it says.
pub const EXPECTED: &[(Fault, Role)] = &[
    (Fault::Lost, Role::Router),
    (Fault::Lost, Role::Provider),
    (Fault::Duplicated, Role::Router),
    (Fault::Duplicated, Role::Provider),
    (Fault::Reordered, Role::Router),
    (Fault::Reordered, Role::Provider),
    (Fault::Partition, Role::Provider),
    (Fault::Crash, Role::Router),
    (Fault::Crash, Role::Provider),
    (Fault::Restart, Role::Router),
    (Fault::Restart, Role::Provider),
    (Fault::UnsyncedLost, Role::Router),
    (Fault::DiskFull, Role::Router),
    (Fault::Skew, Role::Router),
    (Fault::Skew, Role::Provider),
    (Fault::Stall, Role::Provider),
    (Fault::Garbage, Role::Provider),
    (Fault::Left, Role::Client),
    (Fault::TransactionLost, Role::Chain),
    (Fault::TransactionTwice, Role::Chain),
    (Fault::Outage, Role::Chain),
    (Fault::EventTwice, Role::Chain),
    (Fault::ToppedUp, Role::Client),
    (Fault::Revoked, Role::Client),
    (Fault::Released, Role::Client),
    (Fault::Renewed, Role::Client),
    (Fault::ChainCut, Role::Router),
    (Fault::Voided, Role::Chain),
    (Fault::Absorbed, Role::Router),
    (Fault::LeftOut, Role::Router),
    (Fault::Compacted, Role::Router),
    (Fault::RefusedLate, Role::Router),
    (Fault::Drained, Role::Router),
    (Fault::Drained, Role::Provider),
];

/// How often each fault hit each role.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Coverage(pub BTreeMap<(Fault, Role), u64>);

impl Coverage {
    /// Counts one.
    pub fn saw(&mut self, fault: Fault, role: Role) {
        *self.0.entry((fault, role)).or_default() += 1;
    }

    /// Adds another run's counts.
    pub fn add(&mut self, other: &Self) {
        for (key, count) in &other.0 {
            *self.0.entry(*key).or_default() += count;
        }
    }

    /// Faults that should have been met and were not.
    pub fn missing(&self) -> Vec<(Fault, Role)> {
        EXPECTED
            .iter()
            .copied()
            .filter(|key| !self.0.contains_key(key))
            .collect()
    }
}

/// What one seed draws. Rates are per mille.
#[derive(Debug, Clone)]
pub struct Ranges {
    /// Providers.
    pub providers: u64,
    /// Calls.
    pub calls: u64,
    /// Calls arrive within this many ms.
    pub span_ms: u64,
    /// Least one-way delay.
    pub delay_least_ms: u64,
    /// Mean one-way delay beyond it.
    pub delay_mean_ms: u64,
    /// Loss of messages.
    pub loss: u64,
    /// Duplication of messages.
    pub duplication: u64,
    /// Whether streams keep their order, as the real transport does.
    pub ordered: bool,
    /// Mean time between partitions; 0 = none.
    pub partition_every_ms: u64,
    /// Mean time between crashes; 0 = none.
    pub crash_every_ms: u64,
    /// Time of one sync.
    pub sync_ms: u64,
    /// Reservations that find the disk full.
    pub disk_full: u64,
    /// Largest clock error.
    pub skew_ms: u64,
    /// Generations that stall.
    pub stall: u64,
    /// Receipts that are forged.
    pub garbage: u64,
    /// Clients that leave.
    pub leave: u64,
    /// Transactions lost, doubled; blocks missed; events repeated.
    pub chain_faults: u64,
    /// Cap of the allotment, in payment token units: small ones run out.
    pub cap: u128,
    /// Seconds per batch.
    pub batch_seconds: u64,
    /// Mean time between what developers do to their allotments; 0 = nothing.
    pub developer_every_ms: u64,
    /// Lives of tickets, notices and allotments are so short that allotments end and are released within the run.
    pub short_lives: bool,
    /// Mean time between losses of the chain by the router; 0 = none.
    pub chain_cut_every_ms: u64,
    /// Payout roots that are cancelled, per block in which one waits.
    pub void: u64,
    /// Syncs after which the journal is compacted.
    pub compaction: u64,
    /// Mean time between drainings; 0 = none.
    pub drain_every_ms: u64,
}

impl Ranges {
    /// Draws the ranges of `seed`.
    pub fn draw(seed: u64) -> Self {
        let rng = &mut Rng::stream(seed, "ranges");
        let calm = rng.chance(100);
        let rate = |rng: &mut Rng, most: u64| {
            if calm || rng.chance(300) {
                0
            } else {
                rng.below(most + 1)
            }
        };
        Self {
            providers: rng.between(1, 4),
            calls: rng.between(4, 16),
            span_ms: rng.between(2_000, 30_000),
            delay_least_ms: rng.below(31),
            delay_mean_ms: rng.between(1, 100),
            loss: rate(rng, 150),
            duplication: rate(rng, 300),
            ordered: rng.chance(600),
            partition_every_ms: rate(rng, 20_000),
            crash_every_ms: rate(rng, 15_000),
            sync_ms: rng.between(0, 300),
            disk_full: rate(rng, 200),
            skew_ms: if calm || rng.chance(600) {
                0
            } else {
                rng.below(300_000)
            },
            stall: rate(rng, 200),
            garbage: rate(rng, 200),
            leave: rate(rng, 400),
            chain_faults: rate(rng, 300),
            cap: if rng.chance(200) { 400 } else { 1_000_000 },
            batch_seconds: rng.between(1, 20),
            developer_every_ms: rate(rng, 6_000),
            short_lives: !calm && rng.chance(350),
            chain_cut_every_ms: match rate(rng, 3) {
                0 => 0,
                _ => rng.between(5_000, 40_000),
            },
            void: rate(rng, 30),
            compaction: rate(rng, 200),
            drain_every_ms: rate(rng, 30_000),
        }
    }
}
