//! What can go wrong, in one place per operation.

use std::path::PathBuf;

use alloy_primitives::{Address, B256, Bytes, U256};

/// Why a chain could not be opened. The file is as it was.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// Another process holds the file.
    #[error(
        "chain file {path} is in use by another process; stop that one or use another data folder"
    )]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// The file is a chain file, but its content is broken.
    #[error(
        "chain file {path} is damaged ({reason}); restore a copy, or move it away to start a new chain"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// The file is something else.
    #[error("{path} is not a chain file of this program ({reason}); it was left untouched")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// The file was written by another version of this program.
    #[error(
        "chain file {path} has schema version {found}, this program reads {known}; it was left untouched"
    )]
    Schema {
        /// The file.
        path: PathBuf,
        /// Version in the file.
        found: u64,
        /// Version this program reads.
        known: u64,
    },
    /// The file holds a chain with another genesis.
    #[error(
        "chain file {path} holds chain {found}, the configuration asks for chain {asked}; nothing was changed"
    )]
    OtherChain {
        /// The file.
        path: PathBuf,
        /// Chain id in the file.
        found: u64,
        /// Chain id of the configuration.
        asked: u64,
    },
    /// There is no file and no genesis to create one from.
    #[error("there is no chain at {path} and no genesis was given to create one")]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The disk refused.
    #[error("chain file {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The store refused.
    #[error("chain store: {0}")]
    Store(#[from] StoreError),
}

/// The store below the chain failed. What was committed before stays.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// Reading or writing failed.
    #[error("the store failed: {0}")]
    Database(String),
    /// A record does not read as what it should be.
    #[error("the {table} table holds a record that does not read back; the file is damaged")]
    Record {
        /// Which table.
        table: &'static str,
    },
}

impl revm::database_interface::DBErrorMarker for StoreError {}

macro_rules! store_error_from {
    ($($source:ty),*) => {$(
        impl From<$source> for StoreError {
            fn from(error: $source) -> Self {
                Self::Database(error.to_string())
            }
        }
    )*};
}
store_error_from!(
    redb::StorageError,
    redb::TableError,
    redb::TransactionError,
    redb::CommitError,
    redb::DatabaseError
);

/// Why the bytes are not a transaction that this chain can take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// No bytes.
    #[error("the transaction is empty")]
    Empty,
    /// Too many bytes.
    #[error("the transaction has {size} bytes, the limit is {max}")]
    TooLarge {
        /// Bytes received.
        size: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// A type this chain does not have.
    #[error(
        "transaction type {0:#04x} is not supported; send legacy, 1 (access list), 2 (dynamic fee) or 4 (set code)"
    )]
    UnsupportedType(u8),
    /// The RLP is malformed.
    #[error("the transaction is not valid RLP: {0}")]
    Rlp(alloy_rlp::Error),
    /// It reads, but there is another, shorter way to write it, or bytes follow it.
    #[error("the transaction is not written in its only canonical form")]
    NotCanonical,
    /// A legacy transaction without chain id.
    #[error("the transaction names no chain id (EIP-155) and could be replayed on other chains")]
    Unprotected,
    /// The signature is no signature.
    #[error("the signature is invalid: {0}")]
    Signature(&'static str),
}

/// Why a transaction was refused. No state was changed by it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SubmitError {
    /// The bytes are no transaction.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// It is meant for another chain.
    #[error("the transaction is for chain {got}, this is chain {expected}")]
    WrongChain {
        /// Id of this chain.
        expected: u64,
        /// Id in the transaction.
        got: u64,
    },
    /// The account has used this nonce.
    #[error("nonce too low: next nonce {expected}, tx nonce {got}")]
    NonceTooLow {
        /// Next free nonce.
        expected: u64,
        /// Nonce of the transaction.
        got: u64,
    },
    /// The nonce is far ahead, or the transactions before it did not arrive in time.
    #[error(
        "nonce too high: next nonce {expected}, tx nonce {got}; send the missing transactions first"
    )]
    NonceGap {
        /// Next free nonce.
        expected: u64,
        /// Nonce of the transaction.
        got: u64,
    },
    /// The same transaction is pending or in a block.
    #[error("already known: {0}")]
    AlreadyKnown(B256),
    /// Another transaction with this nonce waits; it is not replaced.
    #[error(
        "replacement transaction underpriced: nonce {nonce} is taken by pending transaction {pending}, and none is replaced here"
    )]
    Replacement {
        /// The nonce.
        nonce: u64,
        /// Hash of the transaction that keeps it.
        pending: B256,
    },
    /// The gas limit is above what one transaction may use.
    #[error("gas limit {asked} is above the limit of one transaction, {max}")]
    GasLimit {
        /// Asked for.
        asked: u64,
        /// Allowed.
        max: u64,
    },
    /// The account cannot pay value and gas.
    #[error("insufficient funds for gas * price + value: {account} has {balance}, {needed} needed")]
    Funds {
        /// The sender.
        account: Address,
        /// What it has, in wei.
        balance: U256,
        /// What it would need, in wei.
        needed: U256,
    },
    /// The pool is full.
    #[error(
        "txpool is full: {pending} transactions of {bytes} bytes wait, {queued} of them behind a missing nonce; try again when \
         some are sealed"
    )]
    PoolFull {
        /// How many wait.
        pending: usize,
        /// How many of them wait for one with a lower nonce.
        queued: usize,
        /// Bytes of all of them.
        bytes: usize,
    },
    /// The EVM refused it before running it.
    #[error("the transaction is invalid: {0}")]
    Invalid(String),
    /// The block could not be made durable.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The chain is closed.
    #[error("the chain is closed")]
    Closed,
}

/// Why a call gave no result. Calls never change state.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CallError {
    /// The contract reverted.
    #[error("execution reverted{}", revert_text(.data))]
    Revert {
        /// ABI-encoded reason or custom error.
        data: Bytes,
    },
    /// The EVM stopped: out of gas, invalid opcode and the like.
    #[error("execution stopped: {reason}")]
    Halt {
        /// Why.
        reason: String,
    },
    /// The call is invalid before it runs.
    #[error("the call is invalid: {0}")]
    Invalid(String),
    /// The block does not exist.
    #[error("block {asked} does not exist; the head is {head}")]
    UnknownBlock {
        /// Block asked for.
        asked: u64,
        /// Newest block.
        head: u64,
    },
    /// The state of the block is no longer kept.
    #[error("state of block {asked} is no longer kept; the oldest is that of block {oldest}")]
    Pruned {
        /// Block asked for.
        asked: u64,
        /// Oldest block whose state is kept.
        oldest: u64,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// `: reason` when the revert data carries `Error(string)`, as Solidity's `require` writes it.
fn revert_text(data: &Bytes) -> String {
    revert_reason(data).map_or_else(String::new, |reason| format!(": {reason}"))
}

/// The text of `Error(string)`, if the revert data is that.
pub fn revert_reason(data: &[u8]) -> Option<String> {
    let body = data.strip_prefix(&[0x08, 0xc3, 0x79, 0xa0])?;
    let length = U256::from_be_slice(body.get(32..64)?);
    let length = usize::try_from(length).ok()?;
    let text = body.get(64..)?.get(..length)?;
    String::from_utf8(text.to_vec()).ok()
}

/// Why a log query gave no result.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LogsError {
    /// The range is empty the wrong way round.
    #[error("the range ends at block {to}, before it begins at {from}")]
    Range {
        /// First block.
        from: u64,
        /// Last block.
        to: u64,
    },
    /// The range is too wide.
    #[error("the range covers {blocks} blocks, the limit is {max}; ask in parts")]
    TooWide {
        /// Blocks asked for.
        blocks: u64,
        /// Blocks allowed.
        max: u64,
    },
    /// Too many logs match.
    #[error("more than {max} logs match; ask for a smaller range")]
    TooMany {
        /// Logs allowed.
        max: usize,
    },
    /// Too many index entries stand between the question and its answer.
    #[error("more than {max} log entries would have to be read; ask for a smaller range")]
    TooMuchToRead {
        /// Entries allowed.
        max: usize,
    },
    /// The logs that match are too large together.
    #[error("the logs that match have more than {max} bytes; ask for a smaller range")]
    TooLarge {
        /// Bytes allowed.
        max: usize,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}
