//! The chain in this process.

use std::sync::Arc;

use alloy_primitives::Bytes;
use stoa_evm::{
    CallError, CallRequest, Chain, LogFilter, LogsError, Receipt, StoreError, SubmitError,
};
use stoa_types::{Address, Digest, Timestamp};

use crate::access::{AccessError, BlockId, ChainAccess, Fees, RawLog, TransactionReceipt};
use crate::convert::{address, digest, evm_address, evm_digest, narrow};

/// [`ChainAccess`] to the embedded chain. Clones share it.
#[derive(Clone)]
pub struct Embedded(pub Arc<Chain>);

impl Embedded {
    /// Runs a question where blocking is allowed: it may read the disk and run the EVM.
    async fn ask<T, E>(
        &self,
        question: impl FnOnce(&Chain) -> Result<T, E> + Send + 'static,
    ) -> Result<T, AccessError>
    where
        T: Send + 'static,
        E: Into<AccessError> + Send + 'static,
    {
        let chain = Arc::clone(&self.0);
        match tokio::task::spawn_blocking(move || question(&chain)).await {
            Ok(answer) => answer.map_err(Into::into),
            Err(error) => Err(AccessError::Unreachable(error.to_string())),
        }
    }
}

impl From<StoreError> for AccessError {
    fn from(error: StoreError) -> Self {
        Self::Unreachable(error.to_string())
    }
}

impl From<CallError> for AccessError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Revert { data } => Self::Reverted {
                data: data.to_vec(),
            },
            CallError::Store(error) => error.into(),
            other => Self::Refused(other.to_string()),
        }
    }
}

impl From<SubmitError> for AccessError {
    fn from(error: SubmitError) -> Self {
        match error {
            SubmitError::NonceTooLow { .. } | SubmitError::Replacement { .. } => {
                Self::NonceUsed(error.to_string())
            }
            SubmitError::Store(error) => error.into(),
            SubmitError::Closed => Self::Unreachable(error.to_string()),
            other => Self::Refused(other.to_string()),
        }
    }
}

impl From<LogsError> for AccessError {
    fn from(error: LogsError) -> Self {
        match error {
            LogsError::Store(error) => error.into(),
            other => Self::Refused(other.to_string()),
        }
    }
}

fn receipt_words(receipt: Receipt) -> TransactionReceipt {
    TransactionReceipt {
        hash: digest(receipt.transaction_hash),
        block: receipt.block_number,
        success: receipt.success,
        gas_used: receipt.gas_used,
        contract: receipt.contract_address.map(address),
        revert_data: receipt.revert_data.to_vec(),
    }
}

impl ChainAccess for Embedded {
    async fn chain_id(&self) -> Result<u64, AccessError> {
        Ok(self.0.chain_id())
    }

    async fn call(
        &self,
        from: Address,
        to: Address,
        input: Vec<u8>,
    ) -> Result<Vec<u8>, AccessError> {
        let call = move |chain: &Chain| {
            chain.call(evm_address(from), evm_address(to), Bytes::from(input), None)
        };
        Ok(self.ask(call).await?.to_vec())
    }

    async fn estimate(
        &self,
        from: Address,
        to: Option<Address>,
        input: Vec<u8>,
    ) -> Result<u64, AccessError> {
        let request = CallRequest {
            from: evm_address(from),
            to: to.map(evm_address),
            input: Bytes::from(input),
            ..CallRequest::default()
        };
        self.ask(move |chain| chain.estimate_gas(&request, None))
            .await
    }

    async fn fees(&self) -> Result<Fees, AccessError> {
        Ok(Fees::default())
    }

    async fn balance(&self, account: Address) -> Result<u128, AccessError> {
        let account = evm_address(account);
        let wei = self.ask(move |chain| chain.balance(account, None)).await?;
        // More than 128 bits of wei were never made.
        Ok(narrow(wei).unwrap_or(u128::MAX))
    }

    async fn nonce(&self, account: Address, pending: bool) -> Result<u64, AccessError> {
        let account = evm_address(account);
        self.ask(move |chain| {
            if pending {
                chain.pending_nonce(account).map_err(CallError::from)
            } else {
                chain.nonce(account, None)
            }
        })
        .await
    }

    async fn submit(&self, raw: Vec<u8>) -> Result<(), AccessError> {
        let submitted = self.ask(move |chain| match chain.submit(&raw) {
            Ok(pending) => Ok(Some(pending)),
            Err(SubmitError::AlreadyKnown(_)) => Ok(None),
            Err(error) => Err(error),
        });
        // Ready transactions are waited for, so that the receipt is there for the first question.
        match submitted.await? {
            Some(pending) if pending.ready => {
                pending.receipt().await.map(drop).map_err(AccessError::from)
            }
            _ => Ok(()),
        }
    }

    async fn receipt(
        &self,
        transaction: Digest,
    ) -> Result<Option<TransactionReceipt>, AccessError> {
        let found = self
            .ask(move |chain| chain.receipt(evm_digest(transaction)))
            .await?;
        Ok(found.map(receipt_words))
    }

    async fn logs(
        &self,
        addresses: Vec<Address>,
        from: u64,
        to: u64,
    ) -> Result<Vec<RawLog>, AccessError> {
        let filter = LogFilter {
            from_block: from,
            to_block: Some(to),
            addresses: addresses.into_iter().map(evm_address).collect(),
            topics: Vec::new(),
        };
        let entries = self.ask(move |chain| chain.logs(&filter)).await?;
        let words = |entry: stoa_evm::LogEntry| RawLog {
            address: address(entry.log.address),
            topics: entry
                .log
                .topics()
                .iter()
                .map(|topic| digest(*topic))
                .collect(),
            data: entry.log.data.data.to_vec(),
            block: entry.block_number,
            block_hash: digest(entry.block_hash),
            transaction: digest(entry.transaction_hash),
            log_index: u64::from(entry.log_index),
        };
        Ok(entries.into_iter().map(words).collect())
    }

    async fn block(&self, number: Option<u64>) -> Result<Option<BlockId>, AccessError> {
        let found = self
            .ask(move |chain| chain.block(number.unwrap_or_else(|| chain.head().number)))
            .await?;
        Ok(found.map(|(header, hash)| BlockId {
            number: header.number,
            hash: digest(hash),
            parent: digest(header.parent_hash),
            at: Timestamp::from_secs(header.timestamp),
        }))
    }

    async fn code(&self, account: Address) -> Result<Vec<u8>, AccessError> {
        Ok(self
            .ask(move |chain| chain.code(evm_address(account), None))
            .await?
            .to_vec())
    }
}
