//! The methods.

use alloy_primitives::{B256, TxKind, U256};
use serde_json::{Value, json};

use super::params::{self, Block, Params};
use super::{Outcome, RpcError, Shared, format};
use crate::config::TX_GAS_LIMIT_CAP;
use crate::error::SubmitError;
use crate::exec::CallRequest;
use crate::tx::{Transaction, TransactionType};

/// Blocks one `eth_feeHistory` may cover.
const FEE_HISTORY_MAX: u64 = 1_024;

/// Runs one method up to its result, or up to where it waits for a block.
pub(crate) fn dispatch(shared: &Shared, method: &str, params: Value) -> Result<Outcome, RpcError> {
    let params = Params::new(params)?;
    if method == "eth_sendRawTransaction" {
        return send_raw(shared, &params);
    }
    let group = [constants, accounts, blocks, transactions, filters];
    for methods in group {
        if let Some(result) = methods(shared, method, &params) {
            return result.map(Outcome::Done);
        }
    }
    Err(match method {
        "eth_subscribe" | "eth_unsubscribe" => RpcError::server(
            "subscriptions need a connection: use the WebSocket at the same address",
        ),
        _ => RpcError::new(-32601, format!("the method {method} does not exist")),
    })
}

type Answer = Option<Result<Value, RpcError>>;

fn send_raw(shared: &Shared, params: &Params) -> Result<Outcome, RpcError> {
    let raw = params::bytes(params.need(0, "signed transaction")?)?;
    let pending = match shared.chain.submit(&raw) {
        Err(SubmitError::AlreadyKnown(hash)) => return Err(sent_again(shared, hash)?),
        submitted => submitted?,
    };
    // Behind a gap it may wait long: the sender learns the hash now.
    Ok(if pending.ready {
        Outcome::Sealing(pending)
    } else {
        Outcome::Done(format::hash(pending.hash))
    })
}

/// One that waits is "already known"; of one that is in a block the libraries expect to hear of its nonce.
fn sent_again(shared: &Shared, hash: B256) -> Result<RpcError, RpcError> {
    let known = SubmitError::AlreadyKnown(hash);
    Ok(match shared.chain.receipt(hash)? {
        Some(receipt) => RpcError::rejected(format!(
            "nonce too low: {known} is in block {}",
            receipt.block_number
        )),
        None => known.into(),
    })
}

fn constants(shared: &Shared, method: &str, params: &Params) -> Answer {
    let chain = &shared.chain;
    Some(Ok(match method {
        "web3_clientVersion" => Value::String(format!("stoa/{}", env!("CARGO_PKG_VERSION"))),
        "net_version" => Value::String(chain.chain_id().to_string()),
        "net_listening" => Value::Bool(true),
        "eth_chainId" => format::quantity(chain.chain_id()),
        "eth_syncing" => Value::Bool(false),
        "eth_blockNumber" => format::quantity(chain.head().number),
        // The base fee is 0 and nobody needs to be outbid.
        "eth_gasPrice" | "eth_maxPriorityFeePerGas" => format::quantity(0u8),
        "eth_blobBaseFee" => format::quantity(1u8),
        "eth_accounts" => json!([]),
        "eth_feeHistory" => return Some(fee_history(shared, params)),
        _ => return None,
    }))
}

fn fee_history(shared: &Shared, params: &Params) -> Result<Value, RpcError> {
    let count = params.number(0, "block count")?.min(FEE_HISTORY_MAX);
    let head = shared.chain.head().number;
    let newest = params
        .block(1, shared)?
        .number(&shared.chain)
        .unwrap_or(head)
        .min(head);
    let percentiles = params.get(2).and_then(Value::as_array).map_or(0, Vec::len);
    let oldest = (newest + 1).saturating_sub(count);
    let blocks = (newest + 1 - oldest) as usize;
    let mut ratios = Vec::with_capacity(blocks);
    for number in oldest..=newest {
        if let (true, Some((header, _))) = (blocks > 0, shared.chain.block(number)?) {
            ratios.push(header.gas_used as f64 / header.gas_limit as f64);
        }
    }
    // Nobody pays a tip; without percentiles there is no row for any block.
    let rows = if percentiles > 0 { blocks } else { 0 };
    Ok(json!({
        "oldestBlock": format::quantity(oldest),
        "baseFeePerGas": vec!["0x0"; blocks + 1],
        "gasUsedRatio": ratios,
        "baseFeePerBlobGas": vec!["0x1"; blocks + 1],
        "blobGasUsedRatio": vec![0; blocks],
        "reward": vec![vec!["0x0"; percentiles.min(100)]; rows],
    }))
}

fn accounts(shared: &Shared, method: &str, params: &Params) -> Answer {
    Some(match method {
        "eth_getBalance" => balance(shared, params),
        "eth_getTransactionCount" => transaction_count(shared, params),
        "eth_getCode" => code(shared, params),
        "eth_getStorageAt" => storage_at(shared, params),
        "eth_call" => call(shared, params),
        "eth_estimateGas" => estimate_gas(shared, params),
        "eth_createAccessList" => create_access_list(shared, params),
        "eth_fillTransaction" => fill_transaction(shared, params),
        _ => return None,
    })
}

fn balance(shared: &Shared, params: &Params) -> Result<Value, RpcError> {
    let block = params.block(1, shared)?.for_state()?;
    Ok(format::quantity(
        shared.chain.balance(params.address(0)?, block)?,
    ))
}

fn transaction_count(shared: &Shared, params: &Params) -> Result<Value, RpcError> {
    let account = params.address(0)?;
    let count = match params.block(1, shared)? {
        Block::Pending => shared.chain.pending_nonce(account)?,
        block => shared.chain.nonce(account, block.for_state()?)?,
    };
    Ok(format::quantity(count))
}

fn code(shared: &Shared, params: &Params) -> Result<Value, RpcError> {
    let block = params.block(1, shared)?.for_state()?;
    Ok(format::data(&shared.chain.code(params.address(0)?, block)?))
}

fn storage_at(shared: &Shared, params: &Params) -> Result<Value, RpcError> {
    let block = params.block(2, shared)?.for_state()?;
    let slot = params.quantity(1, "slot")?;
    let value = shared.chain.storage_at(params.address(0)?, slot, block)?;
    Ok(format::hash(B256::from(value)))
}

fn refuse_overrides(params: &Params) -> Result<(), RpcError> {
    for position in [2, 3] {
        if params
            .get(position)
            .is_some_and(|value| value.as_object().is_none_or(|map| !map.is_empty()))
        {
            return Err(RpcError::invalid_params(
                "state and block overrides are not supported",
            ));
        }
    }
    Ok(())
}

fn call(shared: &Shared, params: &Params) -> Result<Value, RpcError> {
    refuse_overrides(params)?;
    let block = params.block(1, shared)?.for_state()?;
    Ok(format::data(
        &shared.chain.run_call(&params.call(0)?, block)?.output,
    ))
}

fn estimate_gas(shared: &Shared, params: &Params) -> Result<Value, RpcError> {
    refuse_overrides(params)?;
    let block = params.block(1, shared)?.for_state()?;
    Ok(format::quantity(
        shared.chain.estimate_gas(&params.call(0)?, block)?,
    ))
}

fn create_access_list(shared: &Shared, params: &Params) -> Result<Value, RpcError> {
    let block = params.block(1, shared)?.for_state()?;
    let request = params.call(0)?;
    let access_list = shared.chain.run_call(&request, block)?.touched;
    let with_list = CallRequest {
        access_list,
        ..request
    };
    let gas_used = shared.chain.run_call(&with_list, block)?.gas_used;
    Ok(json!({
        "accessList": format::access_list(&with_list.access_list),
        "gasUsed": format::quantity(gas_used),
    }))
}

/// Completes nonce, gas and fees of a transaction that is still to be signed.
fn fill_transaction(shared: &Shared, params: &Params) -> Result<Value, RpcError> {
    let request = params.call(0)?;
    let given = params::object(params.need(0, "transaction")?)?;
    let number = |key: &str| {
        given
            .get(key)
            .filter(|v| !v.is_null())
            .map(params::number)
            .transpose()
    };
    let price = |key: &str| {
        let value = given
            .get(key)
            .filter(|v| !v.is_null())
            .map(params::quantity)
            .transpose()?;
        value.map_or(Ok(None), |value| {
            u128::try_from(value)
                .map(Some)
                .map_err(|_| RpcError::invalid_params(format!("{key} is too large")))
        })
    };
    let legacy = price("gasPrice")?;
    let gas_limit = match request.gas {
        Some(gas) => gas,
        None => shared.chain.estimate_gas(&request, None)?,
    };
    let nonce = match number("nonce")? {
        Some(nonce) => nonce,
        None => shared.chain.pending_nonce(request.from)?,
    };
    let kind = match (legacy, request.access_list.is_empty()) {
        (Some(_), true) => TransactionType::Legacy,
        (Some(_), false) => TransactionType::AccessList,
        (None, _) => TransactionType::DynamicFee,
    };
    let body = Transaction {
        kind,
        chain_id: shared.chain.chain_id(),
        nonce,
        gas_limit: gas_limit.min(TX_GAS_LIMIT_CAP),
        max_fee_per_gas: legacy
            .map_or_else(|| price("maxFeePerGas").map(Option::unwrap_or_default), Ok)?,
        max_priority_fee_per_gas: price("maxPriorityFeePerGas")?.unwrap_or_default(),
        to: request.to.map_or(TxKind::Create, TxKind::Call),
        value: request.value,
        input: request.input,
        access_list: request.access_list,
        authorization_list: Vec::new(),
    };
    let unsigned = body.into_signed(false, U256::ZERO, U256::ZERO);
    Ok(
        json!({ "raw": format::data(&unsigned.raw), "tx": format::signed_transaction(&unsigned, request.from) }),
    )
}

fn blocks(shared: &Shared, method: &str, params: &Params) -> Answer {
    let chain = &shared.chain;
    let by_hash = || -> Result<Option<u64>, RpcError> { Ok(chain.block_number(params.hash(0)?)?) };
    let by_number = || -> Result<Option<u64>, RpcError> {
        params.need(0, "block")?;
        Ok(params.block(0, shared)?.number(chain))
    };
    Some(match method {
        "eth_getBlockByNumber" => {
            by_number().and_then(|number| block(shared, number, params.flag(1)))
        }
        "eth_getBlockByHash" => by_hash().and_then(|number| block(shared, number, params.flag(1))),
        "eth_getBlockTransactionCountByNumber" => {
            by_number().and_then(|number| count(shared, number))
        }
        "eth_getBlockTransactionCountByHash" => by_hash().and_then(|number| count(shared, number)),
        "eth_getBlockReceipts" => by_number().and_then(|number| block_receipts(shared, number)),
        _ => return None,
    })
}

fn block(shared: &Shared, number: Option<u64>, full: bool) -> Result<Value, RpcError> {
    let Some(number) = number else {
        return Ok(Value::Null);
    };
    let Some((header, hash)) = shared.chain.block(number)? else {
        return Ok(Value::Null);
    };
    let mut value = format::header(&header, hash);
    let mut size = alloy_rlp::Encodable::length(&header);
    let mut transactions = Vec::with_capacity(header.transaction_count as usize);
    for index in 0..header.transaction_count {
        if let Some(found) = shared.chain.transaction_at(number, index)? {
            size += found.signed.raw.len();
            transactions.push(if full {
                format::transaction(&found)
            } else {
                format::hash(found.signed.hash)
            });
        }
    }
    value["size"] = format::quantity(size);
    value["transactions"] = Value::Array(transactions);
    value["uncles"] = json!([]);
    value["withdrawals"] = json!([]);
    Ok(value)
}

fn count(shared: &Shared, number: Option<u64>) -> Result<Value, RpcError> {
    let header = number
        .map(|number| shared.chain.block(number))
        .transpose()?
        .flatten();
    Ok(header.map_or(Value::Null, |(header, _)| {
        format::quantity(header.transaction_count)
    }))
}

fn block_receipts(shared: &Shared, number: Option<u64>) -> Result<Value, RpcError> {
    let receipts = number
        .map(|number| shared.chain.block_receipts(number))
        .transpose()?
        .flatten();
    Ok(receipts.map_or(Value::Null, |receipts| {
        receipts.iter().map(format::receipt).collect()
    }))
}

fn transactions(shared: &Shared, method: &str, params: &Params) -> Answer {
    let chain = &shared.chain;
    Some(match method {
        "eth_getTransactionByHash" => params.hash(0).and_then(|hash| {
            Ok(chain
                .transaction(hash)?
                .map_or(Value::Null, |found| format::transaction(&found)))
        }),
        "eth_getTransactionReceipt" => params.hash(0).and_then(|hash| {
            Ok(chain
                .receipt(hash)?
                .map_or(Value::Null, |receipt| format::receipt(&receipt)))
        }),
        _ => return None,
    })
}

fn filters(shared: &Shared, method: &str, params: &Params) -> Answer {
    let chain = &shared.chain;
    let id = || params.number(0, "filter id");
    Some(match method {
        "eth_getLogs" => get_logs(shared, params),
        "eth_newFilter" => new_filter(shared, params),
        "eth_newBlockFilter" => shared.filters.add_blocks(chain),
        "eth_getFilterChanges" => id().and_then(|id| shared.filters.changes(id, chain)),
        "eth_getFilterLogs" => id().and_then(|id| shared.filters.all(id, chain)),
        "eth_uninstallFilter" => id().map(|id| Value::Bool(shared.filters.remove(id))),
        _ => return None,
    })
}

fn get_logs(shared: &Shared, params: &Params) -> Result<Value, RpcError> {
    let filter = params::log_filter(params.need(0, "filter")?, &shared.chain)?;
    let filter = filter.ok_or_else(|| RpcError::server("no block has this hash"))?;
    Ok(shared
        .chain
        .logs(&filter)?
        .iter()
        .map(format::log)
        .collect())
}

fn new_filter(shared: &Shared, params: &Params) -> Result<Value, RpcError> {
    let asked = params.need(0, "filter")?;
    let filter = params::log_filter(asked, &shared.chain)?;
    let mut filter = filter.ok_or_else(|| RpcError::server("no block has this hash"))?;
    // "latest" as an end means "go on for ever".
    let open = asked
        .get("toBlock")
        .and_then(Value::as_str)
        .is_none_or(|to| !to.starts_with("0x"));
    if open && asked.get("blockHash").is_none() {
        filter.to_block = None;
    }
    shared.filters.add_logs(filter, &shared.chain)
}
