//! Which provider gets a call: hard constraints, then integer scores, then a drawn tie (SPEC C.6.1).
//!
//! [`decide`] is a pure function of a [`Snapshot`] of the candidates, the request's [`Constraints`] and a seed that neither router nor
//! provider controls. Its [`Decision`] holds all inputs, so anyone with the log can compute the choice again
//! ([`Decision::replay`]). [`track`] holds what a router remembers of each provider between calls.

mod decide;
mod score;
pub mod track;

pub use decide::{
    Candidate, Constraints, Decision, NoMatch, ReplayMismatch, Rule, Snapshot, Weights, decide,
    draw_seed,
};
pub use score::{PPM, Score, latency_score, price_score, reliability_score};
