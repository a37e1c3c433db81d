//! The shells of the roles: they turn sockets, disks and chains into inputs of `nodes`, and its outputs into effects.

pub mod audit_watch;
pub mod audits;
pub mod board;
pub mod claims;
pub mod earnings;
pub mod engine;
pub mod forger;
pub mod gas;
pub mod gateway;
pub mod journal;
pub mod kept_sums;
pub mod keys;
pub mod owed;
pub mod payouts;
pub mod planter;
pub mod provider;
pub mod questions;
pub mod records;
pub mod replays;
pub mod round_traces;
pub mod router;
pub mod settler;
pub mod shelf;
pub mod statistics;
pub mod traces;
pub mod trail;
pub mod undelivered;
pub mod validator;
pub mod watch;

/// A ticket of tests: of this job, for this attempt, until then.
#[cfg(test)]
fn test_ticket(job: u8, attempt: u32, deadline: u64) -> stoa_types::Ticket {
    use stoa_types::{Address, Digest, JobId, Price, Ticket, Tier, Timestamp, TokenAmount};
    Ticket {
        job_id: JobId([job; 32]),
        account: Address([1; 20]),
        router: Address([2; 20]),
        provider: Address([3; 20]),
        model_root: Digest([4; 32]),
        parameters_digest: Digest([5; 32]),
        request_digest: Digest([6; 32]),
        work_digest: Digest([7; 32]),
        input_price: Price::default(),
        output_price: Price::default(),
        input_units_max: 1,
        output_units_max: 1,
        reserve: TokenAmount::ZERO,
        fee_version: 1,
        tier: Tier::Exact,
        attempt,
        issued_at: Timestamp(1),
        deadline: Timestamp(deadline),
    }
}
