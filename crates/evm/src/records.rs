//! What the chain writes: headers, receipts, account rows, undo records. All RLP, all read back strictly.

use alloy_primitives::{Address, B256, Bloom, Bytes, Log, TxKind, U256, keccak256};
use alloy_rlp::{Decodable, Encodable, RlpDecodable, RlpEncodable};

use crate::error::StoreError;

/// keccak-256 of no bytes: the code hash of an account without code.
pub(crate) const EMPTY_CODE: B256 = revm::primitives::KECCAK_EMPTY;

/// A block without its transactions.
///
/// There is no state root. Instead `state_digest` chains the changes of every block: it is
/// `keccak(parent's state_digest ‖ keccak(sorted account and slot changes))`, so two nodes with equal heads hold equal
/// states, but no single account can be proved against it (no `eth_getProof`).
#[derive(Debug, Clone, PartialEq, Eq, RlpEncodable, RlpDecodable)]
pub struct BlockHeader {
    /// Hash of the block before.
    pub parent_hash: B256,
    /// Height.
    pub number: u64,
    /// Seconds since the Unix epoch; never below the parent's.
    pub timestamp: u64,
    /// Gas the block could use.
    pub gas_limit: u64,
    /// Gas the block used.
    pub gas_used: u64,
    /// Number of transactions.
    pub transaction_count: u32,
    /// Receives fees.
    pub beneficiary: Address,
    /// keccak-256 of the concatenated transaction hashes.
    pub transactions_digest: B256,
    /// keccak-256 of the encoded receipts.
    pub receipts_digest: B256,
    /// Chain of state changes; see above.
    pub state_digest: B256,
    /// Bloom filter of the logs.
    pub logs_bloom: Bloom,
}

impl BlockHeader {
    /// keccak-256 of the encoding.
    pub fn hash(&self) -> B256 {
        keccak256(encode(self))
    }

    /// `block.prevrandao`. It follows from the parent and is therefore known beforehand: no source of randomness.
    pub fn mix_hash(&self) -> B256 {
        keccak256([self.parent_hash.as_slice(), &self.number.to_be_bytes()].concat())
    }
}

/// Hash and number of the newest block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Height.
    pub number: u64,
    /// Hash of its header.
    pub hash: B256,
    /// Its time, in seconds since the Unix epoch.
    pub timestamp: u64,
}

/// What a receipt row holds.
#[derive(Debug, Clone, PartialEq, Eq, RlpEncodable, RlpDecodable)]
pub(crate) struct ReceiptRow {
    pub transaction_hash: B256,
    pub kind: u8,
    pub from: Address,
    pub to: TxKind,
    pub success: bool,
    pub gas_used: u64,
    pub cumulative_gas_used: u64,
    pub effective_gas_price: u128,
    /// Zero unless the transaction creates a contract.
    pub contract_address: Address,
    pub first_log_index: u32,
    pub logs: Vec<Log>,
    /// Revert data of a failed transaction, cut at 1 KiB.
    pub revert_data: Bytes,
}

/// What became of a transaction. It is returned only after its block is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// Hash of the transaction.
    pub transaction_hash: B256,
    /// Type byte of the transaction.
    pub kind: u8,
    /// Block that holds it.
    pub block_number: u64,
    /// Hash of that block.
    pub block_hash: B256,
    /// Time of that block.
    pub timestamp: u64,
    /// Position in the block.
    pub transaction_index: u32,
    /// Who sent it.
    pub from: Address,
    /// Receiver; `None` for a creation.
    pub to: Option<Address>,
    /// False when it reverted or ran out of gas: then it changed nothing but nonce and fee.
    pub success: bool,
    /// Gas it used.
    pub gas_used: u64,
    /// Gas used in the block up to and with it.
    pub cumulative_gas_used: u64,
    /// Price paid per gas, in wei.
    pub effective_gas_price: u128,
    /// Address of the contract it created.
    pub contract_address: Option<Address>,
    /// Index of its first log in the block.
    pub first_log_index: u32,
    /// Events it emitted.
    pub logs: Vec<Log>,
    /// Revert data of a failed transaction, cut at 1 KiB.
    pub revert_data: Bytes,
}

impl ReceiptRow {
    pub(crate) fn into_receipt(
        self,
        header: &BlockHeader,
        block_hash: B256,
        index: u32,
    ) -> Receipt {
        Receipt {
            transaction_hash: self.transaction_hash,
            kind: self.kind,
            block_number: header.number,
            block_hash,
            timestamp: header.timestamp,
            transaction_index: index,
            from: self.from,
            to: self.to.to().copied(),
            success: self.success,
            gas_used: self.gas_used,
            cumulative_gas_used: self.cumulative_gas_used,
            effective_gas_price: self.effective_gas_price,
            contract_address: self.to.is_create().then_some(self.contract_address),
            first_log_index: self.first_log_index,
            logs: self.logs,
            revert_data: self.revert_data,
        }
    }
}

/// An event with the place where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// Block that holds it.
    pub block_number: u64,
    /// Hash of that block.
    pub block_hash: B256,
    /// Time of that block.
    pub timestamp: u64,
    /// Transaction that emitted it.
    pub transaction_hash: B256,
    /// Position of the transaction in the block.
    pub transaction_index: u32,
    /// Position of the event in the block.
    pub log_index: u32,
    /// The event.
    pub log: Log,
}

impl Receipt {
    /// Its events with their places.
    pub fn log_entries(&self) -> impl Iterator<Item = LogEntry> + '_ {
        (self.first_log_index..)
            .zip(&self.logs)
            .map(|(log_index, log)| LogEntry {
                block_number: self.block_number,
                block_hash: self.block_hash,
                timestamp: self.timestamp,
                transaction_hash: self.transaction_hash,
                transaction_index: self.transaction_index,
                log_index,
                log: log.clone(),
            })
    }
}

/// A block with its receipts, as it is written.
#[derive(Debug, Clone)]
pub(crate) struct SealedBlock {
    pub header: BlockHeader,
    pub hash: B256,
    pub receipts: Vec<Receipt>,
}

impl SealedBlock {
    pub(crate) fn head(&self) -> Head {
        Head {
            number: self.header.number,
            hash: self.hash,
            timestamp: self.header.timestamp,
        }
    }
}

/// A row of the accounts table: nonce (8) ‖ balance (32) ‖ code hash (32).
#[derive(Debug, Clone, Copy, PartialEq, Eq, RlpEncodable, RlpDecodable)]
pub(crate) struct AccountRow {
    pub nonce: u64,
    pub balance: U256,
    pub code_hash: B256,
}

impl AccountRow {
    pub(crate) fn to_bytes(self) -> [u8; 72] {
        let mut out = [0; 72];
        out[..8].copy_from_slice(&self.nonce.to_be_bytes());
        out[8..40].copy_from_slice(&self.balance.to_be_bytes::<32>());
        out[40..].copy_from_slice(self.code_hash.as_slice());
        out
    }

    pub(crate) fn from_bytes(bytes: &[u8; 72]) -> Self {
        let mut nonce = [0; 8];
        nonce.copy_from_slice(&bytes[..8]);
        Self {
            nonce: u64::from_be_bytes(nonce),
            balance: U256::from_be_slice(&bytes[8..40]),
            code_hash: B256::from_slice(&bytes[40..]),
        }
    }
}

/// One account in a diff. No row: the account does not exist.
#[derive(Debug, Clone, PartialEq, Eq, RlpEncodable, RlpDecodable)]
pub(crate) struct AccountChange {
    pub address: Address,
    /// Zero or one row.
    pub row: Vec<AccountRow>,
}

/// One storage slot in a diff.
#[derive(Debug, Clone, Copy, PartialEq, Eq, RlpEncodable, RlpDecodable)]
pub(crate) struct SlotChange {
    pub address: Address,
    pub slot: U256,
    pub value: U256,
}

/// Values of all accounts and slots that a block touched, sorted: before it (undo) or after it (for the digest).
#[derive(Debug, Clone, Default, PartialEq, Eq, RlpEncodable, RlpDecodable)]
pub(crate) struct Diff {
    pub accounts: Vec<AccountChange>,
    pub slots: Vec<SlotChange>,
}

pub(crate) fn encode(record: &impl Encodable) -> Vec<u8> {
    let mut out = Vec::with_capacity(record.length());
    record.encode(&mut out);
    out
}

pub(crate) fn decode<T: Decodable>(table: &'static str, mut bytes: &[u8]) -> Result<T, StoreError> {
    let record = T::decode(&mut bytes).map_err(|_| StoreError::Record { table })?;
    if bytes.is_empty() {
        Ok(record)
    } else {
        Err(StoreError::Record { table })
    }
}
