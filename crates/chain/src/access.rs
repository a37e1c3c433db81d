//! What the rest of Stoa needs of a chain, embedded or remote.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use alloy_sol_types::SolCall;
use stoa_types::{Address, Digest, Timestamp};

use crate::explain::explain_revert;

/// Why the chain gave no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AccessError {
    /// Nobody answered. Whether a transaction that was being sent arrived is not known.
    #[error("the chain cannot be reached: {0}")]
    Unreachable(String),
    /// The contract refused; nothing was changed.
    #[error("the contract refused: {}", explain_revert(.data))]
    Reverted {
        /// ABI-encoded error.
        data: Vec<u8>,
    },
    /// The nonce of a transaction is used already.
    #[error("the nonce is used already: {0}")]
    NonceUsed(String),
    /// The chain refused the question or the transaction.
    #[error("the chain refused: {0}")]
    Refused(String),
    /// The answer is not what the interface says.
    #[error("the chain's answer to {what} cannot be read")]
    Malformed {
        /// What was asked.
        what: String,
    },
}

/// A block, as far as readers of events need it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockId {
    /// Height.
    pub number: u64,
    /// Hash.
    pub hash: Digest,
    /// Hash of the block before.
    pub parent: Digest,
    /// When it was made.
    pub at: Timestamp,
}

/// What became of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransactionReceipt {
    /// Hash of the transaction.
    pub hash: Digest,
    /// Block that holds it.
    pub block: u64,
    /// Whether it did what it should; if not, it changed nothing.
    pub success: bool,
    /// Gas it used.
    pub gas_used: u64,
    /// Contract it created.
    pub contract: Option<Address>,
    /// Revert data, where the chain tells it.
    pub revert_data: Vec<u8>,
}

/// An event as contracts emit it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawLog {
    /// Contract.
    pub address: Address,
    /// Topics.
    pub topics: Vec<Digest>,
    /// Data.
    pub data: Vec<u8>,
    /// Block that holds it.
    pub block: u64,
    /// Hash of that block.
    pub block_hash: Digest,
    /// Transaction that caused it.
    pub transaction: Digest,
    /// Position in the block.
    pub log_index: u64,
}

/// Prices of gas in wei.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Fees {
    /// Most that is paid per gas.
    pub max_fee: u128,
    /// Part of it above the base fee.
    pub tip: u128,
}

/// A chain that can be asked and written to.
pub trait ChainAccess: Send + Sync + 'static {
    /// Id that transactions name.
    fn chain_id(&self) -> impl Future<Output = Result<u64, AccessError>> + Send;
    /// Runs a call without changing anything, at the newest state.
    fn call(
        &self,
        from: Address,
        to: Address,
        input: Vec<u8>,
    ) -> impl Future<Output = Result<Vec<u8>, AccessError>> + Send;
    /// Gas that a transaction needs; the revert if it would revert.
    fn estimate(
        &self,
        from: Address,
        to: Option<Address>,
        input: Vec<u8>,
    ) -> impl Future<Output = Result<u64, AccessError>> + Send;
    /// What gas costs now.
    fn fees(&self) -> impl Future<Output = Result<Fees, AccessError>> + Send;
    /// Native coin of an account, in wei, at the newest state.
    fn balance(&self, account: Address) -> impl Future<Output = Result<u128, AccessError>> + Send;
    /// Transactions an account has in blocks, and with `pending` also those that wait.
    fn nonce(
        &self,
        account: Address,
        pending: bool,
    ) -> impl Future<Output = Result<u64, AccessError>> + Send;
    /// Hands over a signed transaction. Handing over the same bytes again is no error.
    fn submit(&self, raw: Vec<u8>) -> impl Future<Output = Result<(), AccessError>> + Send;
    /// Receipt of a transaction that is in a block.
    fn receipt(
        &self,
        transaction: Digest,
    ) -> impl Future<Output = Result<Option<TransactionReceipt>, AccessError>> + Send;
    /// Events of some contracts in a range of blocks, in order.
    fn logs(
        &self,
        addresses: Vec<Address>,
        from: u64,
        to: u64,
    ) -> impl Future<Output = Result<Vec<RawLog>, AccessError>> + Send;
    /// A block by number, the newest without one.
    fn block(
        &self,
        number: Option<u64>,
    ) -> impl Future<Output = Result<Option<BlockId>, AccessError>> + Send;
    /// Code of a contract.
    fn code(&self, account: Address) -> impl Future<Output = Result<Vec<u8>, AccessError>> + Send;

    /// The same chain for starting up, where there is nothing better to do than to wait: a question that nobody answers is asked again for
    /// that long. Who follows a chain wants to know at once that it is away. A chain in this process is never away.
    fn patiently(&self, _patience: Duration) -> Self
    where
        Self: Clone,
    {
        self.clone()
    }
}

/// Asks a contract through its binding.
pub async fn view<C: ChainAccess, S: SolCall>(
    chain: &C,
    contract: Address,
    call: &S,
) -> Result<S::Return, AccessError> {
    let output = chain
        .call(Address::ZERO, contract, call.abi_encode())
        .await?;
    S::abi_decode_returns(&output).map_err(|_| AccessError::Malformed {
        what: S::SIGNATURE.to_owned(),
    })
}

macro_rules! forward {
    ($($name:ident($($arg:ident: $kind:ty),*) -> $out:ty;)*) => {$(
        async fn $name(&self, $($arg: $kind),*) -> Result<$out, AccessError> {
            self.as_ref().$name($($arg),*).await
        }
    )*};
}

impl<C: ChainAccess> ChainAccess for Arc<C> {
    forward! {
        chain_id() -> u64;
        call(from: Address, to: Address, input: Vec<u8>) -> Vec<u8>;
        estimate(from: Address, to: Option<Address>, input: Vec<u8>) -> u64;
        fees() -> Fees;
        balance(account: Address) -> u128;
        nonce(account: Address, pending: bool) -> u64;
        submit(raw: Vec<u8>) -> ();
        receipt(transaction: Digest) -> Option<TransactionReceipt>;
        logs(addresses: Vec<Address>, from: u64, to: u64) -> Vec<RawLog>;
        block(number: Option<u64>) -> Option<BlockId>;
        code(account: Address) -> Vec<u8>;
    }
}
