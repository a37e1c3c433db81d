//! The shells of the roles: they turn sockets, disks and chains into inputs of `nodes`, and its outputs into effects.

pub mod audit_watch;
pub mod audits;
pub mod board;
pub mod claims;
pub mod earnings;
pub mod forger;
pub mod gateway;
pub mod journal;
pub mod kept_sums;
pub mod keys;
pub mod owed;
pub mod payouts;
pub mod planter;
pub mod provider;
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
