//! The whole network in one process: the `nodes` of production over a simulated network, disk, clock and chain model, with faults.
//!
//! ```text
//! seed -> one random stream per purpose
//! heap of (virtual time, number, event) -> host.handle(input, host clock) -> outputs
//! outputs -> network model | disk model | chain model -> new events
//! after every event: invariants; trace hash <- H(trace hash, event)
//! ```
//!
//! Simulated: network, disk, clocks, the vault (the executable model that is tested against the contracts' bytecode), generation.
//! Real: routers, providers, ledger, market, receipts, signatures.
//!
//! Each schedule has two parts (design: reliability 4.1): while faults last, only safety is asked for; then everything is healed
//! and must drain: no reservation open, every charge settled, claimed and accounted for to the unit.

mod audits;
mod chain;
mod deliveries;
mod disk;
mod faults;
mod invariants;
mod rng;
mod world;

pub use audits::{
    AuditCampaign, AuditOutcome, AuditPlan, AuditReport, Cheat, Outages, Planted, run_audits,
    run_plan, run_planted,
};
pub use deliveries::{DeliveryOutcome, Trick, run_deliveries};
pub use faults::{Coverage, Fault, Ranges, Role};
pub use rng::Rng;
pub use world::{Outcome, Violation, run, run_with};
