//! HTTP: the OpenAI surface, Stoa's own routes, the dashboard.

mod keys;
mod port;

pub use keys::{KeyHash, KeyRing};
pub use port::{
    Account, AccountRow, BatchRow, Call, CancelHandle, Gateway, JobRow, KeyError, ModelEntry,
    Overview, PartState, ProviderRow, ReceiptView, RequestLimits, Viewer,
};
