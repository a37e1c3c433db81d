//! How records look in JSON.

use alloy_primitives::{Address, B256, U256};
use serde_json::{Value, json};

use crate::chain::FoundTransaction;
use crate::exec::bloom;
use crate::records::{BlockHeader, LogEntry, Receipt};
use crate::tx::{AccessListItem, SignedTransaction, TransactionType};

/// Root of an empty trie: what clients expect where this chain has nothing, such as withdrawals.
const EMPTY_ROOT: &str = "0x56e81f171bcc55a6ff8345e692c0f86e5b48e01b996cadc001622fb5e363b421";
/// keccak of an empty list of uncles.
const NO_UNCLES: &str = "0x1dcc4de8dec75d7aab85b567b6ccd41ad312451b948a7413f0a142fd40d49347";
/// SHA-256 of no requests (EIP-7685).
const NO_REQUESTS: &str = "0xe3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

pub(crate) fn quantity(value: impl TryInto<U256>) -> Value {
    // Only unsigned integers are passed; they all fit.
    let value = value.try_into().unwrap_or_default();
    Value::String(format!("{value:#x}"))
}

pub(crate) fn data(bytes: &[u8]) -> Value {
    Value::String(format!("0x{}", hex::encode(bytes)))
}

pub(crate) fn hash(hash: B256) -> Value {
    data(hash.as_slice())
}

pub(crate) fn address(address: Address) -> Value {
    data(address.as_slice())
}

fn optional_address(value: Option<Address>) -> Value {
    value.map_or(Value::Null, address)
}

pub(crate) fn access_list(list: &[AccessListItem]) -> Value {
    let items = list.iter().map(|item| {
        let keys: Vec<Value> = item.storage_keys.iter().map(|key| hash(*key)).collect();
        json!({ "address": address(item.address), "storageKeys": keys })
    });
    items.collect()
}

pub(crate) fn log(entry: &LogEntry) -> Value {
    let topics: Vec<Value> = entry
        .log
        .topics()
        .iter()
        .map(|topic| hash(*topic))
        .collect();
    json!({
        "address": address(entry.log.address),
        "topics": topics,
        "data": data(&entry.log.data.data),
        "blockNumber": quantity(entry.block_number),
        "blockHash": hash(entry.block_hash),
        "blockTimestamp": quantity(entry.timestamp),
        "transactionHash": hash(entry.transaction_hash),
        "transactionIndex": quantity(entry.transaction_index),
        "logIndex": quantity(entry.log_index),
        "removed": false,
    })
}

pub(crate) fn receipt(receipt: &Receipt) -> Value {
    let logs: Vec<Value> = receipt.log_entries().map(|entry| log(&entry)).collect();
    let mut value = json!({
        "transactionHash": hash(receipt.transaction_hash),
        "transactionIndex": quantity(receipt.transaction_index),
        "blockHash": hash(receipt.block_hash),
        "blockNumber": quantity(receipt.block_number),
        "from": address(receipt.from),
        "to": optional_address(receipt.to),
        "cumulativeGasUsed": quantity(receipt.cumulative_gas_used),
        "gasUsed": quantity(receipt.gas_used),
        "effectiveGasPrice": quantity(receipt.effective_gas_price),
        "contractAddress": optional_address(receipt.contract_address),
        "logs": logs,
        "logsBloom": data(bloom(receipt.logs.iter()).as_slice()),
        "status": quantity(u8::from(receipt.success)),
        "type": quantity(receipt.kind),
    });
    if !receipt.revert_data.is_empty() {
        value["revertReason"] = data(&receipt.revert_data);
    }
    value
}

pub(crate) fn transaction(found: &FoundTransaction) -> Value {
    let mut value = signed_transaction(&found.signed, found.sender);
    let (number, block, index) = match found.place {
        Some((number, block, index)) => (quantity(number), hash(block), quantity(index)),
        None => (Value::Null, Value::Null, Value::Null),
    };
    value["blockNumber"] = number;
    value["blockHash"] = block;
    value["transactionIndex"] = index;
    if let Some(timestamp) = found.timestamp {
        value["blockTimestamp"] = quantity(timestamp);
    }
    value
}

pub(crate) fn signed_transaction(signed: &SignedTransaction, sender: Address) -> Value {
    let body = &signed.body;
    let mut value = json!({
        "type": quantity(body.kind as u8),
        "chainId": quantity(body.chain_id),
        "hash": hash(signed.hash),
        "nonce": quantity(body.nonce),
        "from": address(sender),
        "to": optional_address(body.to.to().copied()),
        "gas": quantity(body.gas_limit),
        "gasPrice": quantity(body.effective_gas_price()),
        "value": quantity(body.value),
        "input": data(&body.input),
        "r": quantity(signed.r),
        "s": quantity(signed.s),
    });
    let parity = quantity(u8::from(signed.y_parity));
    if body.kind == TransactionType::Legacy {
        let v = 35 + 2 * u128::from(body.chain_id) + u128::from(signed.y_parity);
        value["v"] = quantity(v);
        return value;
    }
    value["v"] = parity.clone();
    value["yParity"] = parity;
    value["accessList"] = access_list(&body.access_list);
    if body.kind != TransactionType::AccessList {
        value["maxFeePerGas"] = quantity(body.max_fee_per_gas);
        value["maxPriorityFeePerGas"] = quantity(body.max_priority_fee_per_gas);
    }
    if body.kind == TransactionType::SetCode {
        let list = body.authorization_list.iter().map(|signed| {
            json!({
                "chainId": quantity(*signed.inner().chain_id()),
                "address": address(*signed.inner().address()),
                "nonce": quantity(signed.inner().nonce()),
                "yParity": quantity(signed.y_parity()),
                "r": quantity(signed.r()),
                "s": quantity(signed.s()),
            })
        });
        value["authorizationList"] = list.collect();
    }
    value
}

/// A block without its `transactions`, as `newHeads` sends it.
pub(crate) fn header(header: &BlockHeader, block_hash: B256) -> Value {
    json!({
        "number": quantity(header.number),
        "hash": hash(block_hash),
        "parentHash": hash(header.parent_hash),
        "nonce": "0x0000000000000000",
        "sha3Uncles": NO_UNCLES,
        "logsBloom": data(header.logs_bloom.as_slice()),
        "transactionsRoot": hash(header.transactions_digest),
        "stateRoot": hash(header.state_digest),
        "receiptsRoot": hash(header.receipts_digest),
        "miner": address(header.beneficiary),
        "difficulty": "0x0",
        "totalDifficulty": "0x0",
        "extraData": "0x",
        "gasLimit": quantity(header.gas_limit),
        "gasUsed": quantity(header.gas_used),
        "timestamp": quantity(header.timestamp),
        "baseFeePerGas": "0x0",
        "mixHash": hash(header.mix_hash()),
        "withdrawalsRoot": EMPTY_ROOT,
        "blobGasUsed": "0x0",
        "excessBlobGas": "0x0",
        "parentBeaconBlockRoot": hash(B256::ZERO),
        "requestsHash": NO_REQUESTS,
    })
}
