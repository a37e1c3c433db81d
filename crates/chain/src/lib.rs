//! The chain as the roles of Stoa see it.
//!
//! [`ChainAccess`] is what they need of a chain; [`Embedded`] gives it from the chain in this process and [`Rpc`] over
//! Ethereum JSON-RPC. On top of it: [`deploy`] puts the contracts on the chain, [`Account`] is what an account does
//! with them, [`View`] is what they say, and [`Indexer`] follows what happens in them.
//!
//! All contracts come from the committed artefacts, so building needs no Solidity compiler ([`bindings`]).

mod access;
mod account;
mod audit;
pub mod bindings;
mod convert;
mod deploy;
mod embedded;
mod event;
mod explain;
mod indexer;
mod rpc;
mod sender;
mod view;

pub use access::{AccessError, BlockId, ChainAccess, Fees, RawLog, TransactionReceipt, view};
pub use account::{Account, Claim, CoverError, Debit, Done, PayRoots, Post, PostError};
pub use audit::{
    AuditAccount, AuditContracts, AuditFollower, AuditParams, AuditState, ClaimRules, ClaimState,
    ClaimView, Judged, OpenClaim, OpenClaims, Reached, evidence_words, vote_words,
};
pub use convert::{address, digest, evm_address, evm_digest};
pub use deploy::{Beneficiaries, Contracts, DeployError, deploy, job_price_max};
pub use embedded::Embedded;
pub use event::{ContractEvent, Offer, StakeRole};
pub use explain::explain_revert;
pub use indexer::{Cursor, Indexed, Indexer, Progress};
pub use rpc::{Rpc, RpcClientError};
pub use sender::{SendError, Sender, Turn};
pub use view::{AllotmentView, StakeView, Totals, View};
