//! HTTP: the OpenAI surface, Stoa's own routes, the dashboard.
//!
//! A request passes the guard (credential, id, final form of errors), its handler, and, when it is a paid call, the [`Gateway`]:
//! the port that the router stands behind. [`codec`] turns the exact bytes of a body into what the router works with; it is pure,
//! so that whoever re-runs an answer starts from the same bytes. [`ROUTES`] is the only list of routes. [`ApiError::row`] is the
//! only place where a cause becomes a status.

mod answer;
mod board;
mod calendar;
mod choices;
pub mod codec;
mod connection;
mod dashboard;
mod error;
mod guard;
mod inference;
mod info;
mod json;
mod keys;
mod logprobs;
mod manage;
pub mod openapi;
mod places;
mod port;
mod rates;
mod replay;
mod routes;
mod server;
mod sessions;
mod sign_in;
mod strangers;
mod visits;

pub use board::{
    Audits, Board, CallView, Calls, FailedCall, Histogram, KeyUse, LossRow, LostChoice,
    MarketRecord, Money, OfferRow, Overview, PayoutRow, Performance, ProviderLine, ProviderOwn,
    ProviderView, RoundRow, RulingRow, Scored, SlashRow, StakeRow, ValidatorRow,
};
pub use calendar::rfc3339;
pub use error::{ApiError, Row};
pub use keys::{
    Grant, KeyFault, KeyHash, KeyName, KeyRecord, KeyRing, NewKey, NotAKeyName, Period, RateLimit,
    RingError, Scope, SpendLimit,
};
pub use port::{
    Account, AccountRow, BatchRow, Call, ClaimRow, ClientEnd, Fate, Gateway, IssuedKey, JobRow,
    KeyError, KeyRow, ModelEntry, PartState, ProviderRow, ReceiptView, RequestLimits, Viewer,
    WrittenTokens,
};
pub use replay::{Claim, Kept, ReplayFault, ReplayId, ReplayStore};
pub use routes::{Access, Need, ROUTES, Route};
pub use server::{ServerConfig, Timings, app, serve};
