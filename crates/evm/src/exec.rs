//! Running transactions and calls.

use std::collections::BTreeSet;

use alloy_primitives::{Address, B256, Bloom, BloomInput, Bytes, Log, TxKind, U256, keccak256};
use revm::context::result::{EVMError, ExecutionResult, InvalidTransaction, Output};
use revm::context::{BlockEnv, CfgEnv, Context, TxEnv};
use revm::context_interface::block::BlobExcessGasAndPrice;
use revm::context_interface::transaction::{AccessList, AccessListItem};
use revm::handler::{MainnetContext, MainnetEvm};
use revm::state::EvmState;
use revm::{ExecuteCommitEvm, ExecuteEvm, MainBuilder, MainContext};

use crate::config::{FORK, TX_GAS_LIMIT_CAP};
use crate::error::{CallError, StoreError};
use crate::records::{BlockHeader, ReceiptRow, encode};
use crate::state::{BlockState, Changes};
use crate::tx::SignedTransaction;

type Evm = MainnetEvm<MainnetContext<BlockState>>;

/// Bytes of revert data kept in a receipt.
const REVERT_DATA_MAX: usize = 1_024;

/// What a block knows before its transactions run.
#[derive(Debug, Clone)]
pub(crate) struct BlockFrame {
    pub chain_id: u64,
    pub parent: BlockHeader,
    pub parent_hash: B256,
    pub timestamp: u64,
    pub gas_limit: u64,
    pub beneficiary: Address,
}

impl BlockFrame {
    pub(crate) fn header(&self) -> BlockHeader {
        BlockHeader {
            parent_hash: self.parent_hash,
            number: self.parent.number + 1,
            timestamp: self.timestamp,
            gas_limit: self.gas_limit,
            gas_used: 0,
            transaction_count: 0,
            beneficiary: self.beneficiary,
            transactions_digest: B256::ZERO,
            receipts_digest: B256::ZERO,
            state_digest: B256::ZERO,
            logs_bloom: Bloom::ZERO,
        }
    }
}

fn evm(
    state: BlockState,
    chain_id: u64,
    header: &BlockHeader,
    configure: impl FnOnce(&mut CfgEnv),
) -> Evm {
    Context::mainnet()
        .with_db(state)
        .modify_cfg_chained(|cfg| {
            // Fork and gas table together: the setter of the fork alone would leave the table of another one.
            cfg.set_spec_and_mainnet_gas_params(FORK);
            cfg.chain_id = chain_id;
            configure(cfg);
        })
        .modify_block_chained(|block| *block = block_env(header))
        .build_mainnet()
}

fn block_env(header: &BlockHeader) -> BlockEnv {
    BlockEnv {
        number: U256::from(header.number),
        beneficiary: header.beneficiary,
        timestamp: U256::from(header.timestamp),
        gas_limit: header.gas_limit,
        basefee: 0,
        difficulty: U256::ZERO,
        prevrandao: Some(header.mix_hash()),
        blob_excess_gas_and_price: Some(BlobExcessGasAndPrice {
            excess_blob_gas: 0,
            blob_gasprice: 1,
        }),
        slot_num: header.number,
    }
}

/// Why a transaction is not in a block.
#[derive(Debug, Clone)]
pub(crate) enum Refusal {
    /// It can never be, as things stand.
    Invalid(InvalidTransaction),
    /// The block is full; it belongs into the next.
    BlockFull,
}

/// Why the EVM refuses a transaction, in the words by which the common libraries tell such errors apart.
pub(crate) fn refusal_text(reason: &InvalidTransaction) -> String {
    match reason {
        InvalidTransaction::CallGasCostMoreThanGasLimit {
            initial_gas,
            gas_limit,
        } => format!("intrinsic gas too low: gas {gas_limit}, minimum needed {initial_gas}"),
        InvalidTransaction::GasFloorMoreThanGasLimit {
            gas_floor,
            gas_limit,
        } => format!(
            "intrinsic gas too low: gas {gas_limit}, minimum needed {gas_floor} for its data (EIP-7623)"
        ),
        InvalidTransaction::LackOfFundForMaxFee { fee, balance } => format!(
            "insufficient funds for gas * price + value: the sender has {balance}, {fee} needed"
        ),
        InvalidTransaction::PriorityFeeGreaterThanMaxFee => {
            "max priority fee per gas higher than max fee per gas".to_owned()
        }
        other => other.to_string(),
    }
}

/// An executed block, not yet written.
pub(crate) struct ExecutedBlock {
    pub header: BlockHeader,
    pub receipts: Vec<ReceiptRow>,
    pub receipt_rows: Vec<Vec<u8>>,
    pub changes: Changes,
    /// For each given transaction: its position in the block, or why it is not there.
    pub outcomes: Vec<Result<u32, Refusal>>,
}

/// Runs transactions in order on `state`. Nothing is written; a store error means that no transaction was decided.
pub(crate) fn execute_block(
    frame: &BlockFrame,
    state: BlockState,
    transactions: &[(Address, &SignedTransaction)],
) -> Result<ExecutedBlock, StoreError> {
    let mut header = frame.header();
    let mut evm = evm(state, frame.chain_id, &header, |_| {});
    let mut receipts: Vec<ReceiptRow> = Vec::with_capacity(transactions.len());
    let mut outcomes = Vec::with_capacity(transactions.len());
    let mut log_count = 0u32;
    // A smaller one that would still fit must not overtake the one before it from the same sender: its nonce would be too
    // high, and a sound transaction would be refused.
    let mut held_back = BTreeSet::new();
    for (sender, transaction) in transactions {
        let too_large = transaction.body.gas_limit > header.gas_limit - header.gas_used;
        if too_large || held_back.contains(sender) {
            held_back.insert(*sender);
            outcomes.push(Err(Refusal::BlockFull));
            continue;
        }
        match evm.transact_commit(transaction.to_env(*sender)) {
            Ok(result) => {
                header.gas_used += result.tx_gas_used();
                let receipt = receipt_row(*sender, transaction, result, header.gas_used, log_count);
                log_count += receipt.logs.len() as u32;
                outcomes.push(Ok(receipts.len() as u32));
                receipts.push(receipt);
            }
            Err(EVMError::Transaction(reason)) => outcomes.push(Err(Refusal::Invalid(reason))),
            Err(EVMError::Database(error)) => return Err(error),
            Err(other) => return Err(StoreError::Database(other.to_string())),
        }
    }
    let changes = evm.ctx.journaled_state.database.into_changes()?;
    let receipt_rows: Vec<Vec<u8>> = receipts.iter().map(encode).collect();
    seal_header(
        &mut header,
        &frame.parent,
        &receipts,
        &receipt_rows,
        &changes,
    );
    Ok(ExecutedBlock {
        header,
        receipts,
        receipt_rows,
        changes,
        outcomes,
    })
}

fn seal_header(
    header: &mut BlockHeader,
    parent: &BlockHeader,
    receipts: &[ReceiptRow],
    rows: &[Vec<u8>],
    changes: &Changes,
) {
    header.transaction_count = receipts.len() as u32;
    let hashes: Vec<B256> = receipts
        .iter()
        .map(|receipt| receipt.transaction_hash)
        .collect();
    header.transactions_digest = keccak256(hashes.concat());
    header.receipts_digest = keccak256(rows.concat());
    let change = keccak256(encode(&changes.after));
    header.state_digest = keccak256([parent.state_digest.0, change.0].concat());
    header.logs_bloom = bloom(receipts.iter().flat_map(|receipt| &receipt.logs));
}

/// Bloom filter over addresses and topics.
pub(crate) fn bloom<'a>(logs: impl Iterator<Item = &'a Log>) -> Bloom {
    let mut bloom = Bloom::ZERO;
    for log in logs {
        bloom.accrue(BloomInput::Raw(log.address.as_slice()));
        for topic in log.topics() {
            bloom.accrue(BloomInput::Raw(topic.as_slice()));
        }
    }
    bloom
}

fn receipt_row(
    sender: Address,
    transaction: &SignedTransaction,
    result: ExecutionResult,
    cumulative_gas_used: u64,
    first_log_index: u32,
) -> ReceiptRow {
    let body = &transaction.body;
    let success = result.is_success();
    let revert_data = match &result {
        ExecutionResult::Revert { output, .. } => output.slice(..output.len().min(REVERT_DATA_MAX)),
        _ => Bytes::new(),
    };
    ReceiptRow {
        transaction_hash: transaction.hash,
        kind: body.kind as u8,
        from: sender,
        to: body.to,
        success,
        gas_used: result.tx_gas_used(),
        cumulative_gas_used,
        effective_gas_price: body.effective_gas_price(),
        contract_address: if body.to.is_create() {
            sender.create(body.nonce)
        } else {
            Address::ZERO
        },
        first_log_index,
        // A failed transaction leaves no events.
        logs: if success {
            result.into_logs()
        } else {
            Vec::new()
        },
        revert_data,
    }
}

/// A call that is run and forgotten.
#[derive(Debug, Clone, Default)]
pub struct CallRequest {
    /// Who calls; the zero address by default.
    pub from: Address,
    /// Contract called; `None` runs `input` as init code.
    pub to: Option<Address>,
    /// Call data.
    pub input: Bytes,
    /// Wei sent along.
    pub value: U256,
    /// Gas; the limit of the chain by default.
    pub gas: Option<u64>,
    /// Slots declared beforehand.
    pub access_list: Vec<AccessListItem>,
}

/// What a call gave.
#[derive(Debug, Clone)]
pub struct CallOutcome {
    /// Returned bytes; the code when `to` was `None`.
    pub output: Bytes,
    /// Gas a transaction would be charged.
    pub gas_used: u64,
    /// Addresses and slots it touched.
    pub touched: Vec<AccessListItem>,
}

impl CallRequest {
    fn env(&self, gas_limit: u64) -> TxEnv {
        TxEnv {
            tx_type: 1,
            caller: self.from,
            gas_limit,
            gas_price: 0,
            kind: self.to.map_or(TxKind::Create, TxKind::Call),
            value: self.value,
            data: self.input.clone(),
            nonce: 0,
            chain_id: None,
            access_list: AccessList(self.access_list.clone()),
            gas_priority_fee: None,
            blob_hashes: Vec::new(),
            max_fee_per_blob_gas: 0,
            authorization_list: Vec::new(),
        }
    }

    /// Runs it on `state` as if in the block of `header`.
    pub(crate) fn run(
        &self,
        state: BlockState,
        chain_id: u64,
        header: &BlockHeader,
        gas_limit: u64,
    ) -> Result<CallOutcome, CallError> {
        let gas = self.gas.unwrap_or(gas_limit).min(gas_limit);
        let mut header = header.clone();
        header.gas_limit = header.gas_limit.max(gas);
        let mut evm = evm(state, chain_id, &header, |cfg| {
            // A call has no signature: nonce, chain id and "sender is no contract" do not apply.
            cfg.disable_nonce_check = true;
            cfg.tx_chain_id_check = false;
            cfg.disable_eip3607 = true;
            cfg.tx_gas_limit_cap = Some(u64::MAX);
        });
        let done = evm.transact(self.env(gas)).map_err(|error| match error {
            EVMError::Database(error) => CallError::Store(error),
            EVMError::Transaction(reason) => CallError::Invalid(refusal_text(&reason)),
            other => CallError::Invalid(other.to_string()),
        })?;
        let gas_used = done.result.tx_gas_used();
        match done.result {
            ExecutionResult::Success { output, .. } => Ok(CallOutcome {
                output: match output {
                    Output::Call(bytes) | Output::Create(bytes, _) => bytes,
                },
                gas_used,
                touched: touched(&done.state, self),
            }),
            ExecutionResult::Revert { output, .. } => Err(CallError::Revert { data: output }),
            ExecutionResult::Halt { reason, .. } => Err(CallError::Halt {
                reason: format!("{reason:?}"),
            }),
        }
    }
}

/// What an access list for the call should name: every account with slots it read, and other contracts it called.
fn touched(state: &EvmState, call: &CallRequest) -> Vec<AccessListItem> {
    let mut items: Vec<AccessListItem> = state
        .iter()
        .filter(|(address, account)| {
            let known = **address == call.from || Some(**address) == call.to;
            !account.storage.is_empty() || (!known && !account.info.is_empty_code_hash())
        })
        .map(|(address, account)| {
            let mut storage_keys: Vec<B256> = account
                .storage
                .keys()
                .map(|slot| B256::from(*slot))
                .collect();
            storage_keys.sort_unstable();
            AccessListItem {
                address: *address,
                storage_keys,
            }
        })
        .collect();
    items.sort_unstable_by_key(|item| item.address);
    items
}

/// Up to here an estimate is exact. Above, each more run costs more than the gas that it finds.
const EXACT_ESTIMATE_MAX: u64 = 2_000_000;

/// Smallest gas limit with which the call succeeds, found as the common clients do: by halving between what it used
/// and the limit of one transaction; for a large call, up to one part in 128 more. `run` runs the call with a given gas
/// limit.
pub(crate) fn estimate(
    cap: u64,
    mut run: impl FnMut(u64) -> Result<CallOutcome, CallError>,
) -> Result<u64, CallError> {
    let mut high = cap.min(TX_GAS_LIMIT_CAP);
    let used = run(high)?.gas_used;
    let mut low = used.saturating_sub(1);
    if run(used).is_ok() {
        return Ok(used);
    }
    // Calls into other contracts keep back 1/64 of the gas: usually a little more than what was used is enough.
    let guess = used
        .saturating_add(used / 63)
        .saturating_add(2_300)
        .min(high);
    if run(guess).is_ok() {
        high = guess;
    }
    let close = |high: u64| {
        if high <= EXACT_ESTIMATE_MAX {
            1
        } else {
            high / 128
        }
    };
    while high - low > close(high) {
        let middle = low + (high - low) / 2;
        match run(middle) {
            Ok(_) => high = middle,
            Err(CallError::Store(error)) => return Err(error.into()),
            Err(_) => low = middle,
        }
    }
    Ok(high)
}
