//! Receipts and the checks that anyone can make of them, without trust and without a network.
//!
//! [`check_signatures`] is what a router asks of a provider's receipt and a provider of a router's; [`Bundle`] is the file that
//! `stoa verify` takes, and [`check_bundle`] says of each of its parts whether it is true, false, or cannot be known offline.
//! [`judge`] is what an auditor does with one posted receipt, [`reasoning`] tells what an answer's text begins with from the rest.

mod batch;
mod bundle;
mod content;
pub mod judge;
pub mod reasoning;
mod report;
mod vectors;

pub use batch::{BatchStatement, SettlementProof};
pub use bundle::{Bundle, BundleError, check_bundle, check_receipt, check_signatures};
pub use content::{Content, ToolCall};
pub use report::{Check, Outcome, Report};
pub use vectors::{
    VECTOR_BYTES_MAX, VECTORS_BYTES_MAX, read_vectors, vector_line, vector_line_bytes,
};
