//! The router's ledger: allotments seen, reservations held, receipts charged, batches sealed, payout roots.
//!
//! A [`RouterBook`] is the fold of its journal: [`RouterBook::apply`] takes one [`Entry`], either whole or not at all, and an entry
//! that would do something a second time is refused by name. So a restart replays the journal and goes on, exactly where it was.
//! The rules it keeps after every entry ([`RouterBook::check_conservation`]):
//!
//! - per account and generation, `debited + unsettled charges + open reserves <= cap`;
//! - the providers' lifetime gross and the developers' lifetime debits have the same sum;
//! - a job is reserved, charged or released, one of them, and charged at most once;
//! - what is in a payout root is in sealed batches, and a total never falls.
//!
//! The book checks what a receipt says, not who signed it: verify signatures before journaling it.

mod batch;
mod conservation;
mod entry;
mod error;
mod leaf_file;
mod payout_tree;
mod plan;
mod query;
mod state;

pub use batch::{BatchRecord, PayoutSet, Posted, RENEW_AFTER};
pub use entry::{ENTRY_VERSION, Entry, ReleaseCause, SealedBatch};
pub use error::{BookError, CoverError, Imbalance, RestoreError};
pub use leaf_file::LeafFile;
pub use payout_tree::{PayoutLeaves, PayoutTree};
pub use query::{Available, ChainLink, DebitEntry, JobProof, PayoutClaim, SealRule};
pub use state::{AllotmentState, Reservation, RouterBook};
