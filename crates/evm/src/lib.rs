//! A durable EVM chain inside the process, and the Ethereum JSON-RPC on top of it.
//!
//! [`Chain`] runs `revm` over one `redb` file. It has one writer, a sealer thread: transactions that arrive within a
//! few milliseconds share a block, a block is one write transaction of the file, and a receipt is given out only after
//! that transaction is on disk. So a receipt survives `kill -9`, and a crash never leaves half a block.
//!
//! Deliberately absent: consensus and peers (one writer owns the chain), a state root (the header chains digests of
//! the changes instead, see [`BlockHeader`]), blobs, replacement of pending transactions, and any fee by default (the
//! base fee is 0).
//!
//! [`rpc`] serves the methods that wallets and the usual libraries ask for.

mod chain;
mod config;
mod db;
mod error;
mod exec;
mod logs;
mod pool;
mod records;
pub mod rpc;
mod state;
pub mod tx;

pub use alloy_primitives;
pub use chain::{Chain, FoundTransaction, PendingTransaction};
pub use config::{
    Allocation, ChainConfig, Clock, FORK, Genesis, ManualClock, SystemClock, TX_BYTES_MAX,
    TX_GAS_LIMIT_CAP,
};
pub use error::{
    CallError, ChainError, DecodeError, LogsError, StoreError, SubmitError, revert_reason,
};
pub use exec::{CallOutcome, CallRequest};
pub use logs::{LOGS_BYTES_MAX, LOGS_MAX, LogFilter, UNINDEXED_BLOCKS_MAX};
pub use records::{BlockHeader, Head, LogEntry, Receipt};
