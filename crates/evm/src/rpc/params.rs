//! Reading parameters.

use alloy_primitives::{Address, B256, Bytes, U256};
use serde_json::{Map, Value};

use super::{RpcError, Shared};
use crate::chain::Chain;
use crate::exec::CallRequest;
use crate::logs::LogFilter;
use crate::tx::AccessListItem;

/// Positional parameters.
pub(crate) struct Params(Vec<Value>);

impl Params {
    pub(crate) fn new(params: Value) -> Result<Self, RpcError> {
        match params {
            Value::Array(list) => Ok(Self(list)),
            Value::Null => Ok(Self(Vec::new())),
            _ => Err(RpcError::invalid_params("parameters are given as an array")),
        }
    }

    /// The parameter, `None` when it is absent or null.
    pub(crate) fn get(&self, position: usize) -> Option<&Value> {
        self.0.get(position).filter(|value| !value.is_null())
    }

    pub(crate) fn need(&self, position: usize, name: &str) -> Result<&Value, RpcError> {
        self.get(position).ok_or_else(|| {
            RpcError::invalid_params(format!("parameter {} ({name}) is missing", position + 1))
        })
    }

    pub(crate) fn address(&self, position: usize) -> Result<Address, RpcError> {
        address(self.need(position, "address")?)
    }

    pub(crate) fn hash(&self, position: usize) -> Result<B256, RpcError> {
        hash(self.need(position, "hash")?)
    }

    pub(crate) fn quantity(&self, position: usize, name: &str) -> Result<U256, RpcError> {
        quantity(self.need(position, name)?)
    }

    pub(crate) fn number(&self, position: usize, name: &str) -> Result<u64, RpcError> {
        number(self.need(position, name)?)
    }

    pub(crate) fn flag(&self, position: usize) -> bool {
        self.get(position).and_then(Value::as_bool).unwrap_or(false)
    }

    /// Which block: `Now` for `latest`, `pending` and nothing.
    pub(crate) fn block(&self, position: usize, shared: &Shared) -> Result<Block, RpcError> {
        block(self.get(position), &shared.chain)
    }

    pub(crate) fn call(&self, position: usize) -> Result<CallRequest, RpcError> {
        call_request(object(self.need(position, "transaction")?)?)
    }
}

/// A block as the parameters name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Block {
    /// The newest block, and for calls the one being built.
    Now,
    /// As `Now`, and with what waits.
    Pending,
    /// A certain block; it may not exist.
    Number(u64),
    /// A hash that no block has.
    Unknown,
}

impl Block {
    /// For questions about state: no number means now.
    pub(crate) fn for_state(self) -> Result<Option<u64>, RpcError> {
        match self {
            Self::Now | Self::Pending => Ok(None),
            Self::Number(number) => Ok(Some(number)),
            Self::Unknown => Err(RpcError::server("no block has this hash")),
        }
    }

    /// For questions about blocks.
    pub(crate) fn number(self, chain: &Chain) -> Option<u64> {
        match self {
            Self::Now | Self::Pending => Some(chain.head().number),
            Self::Number(number) => Some(number),
            Self::Unknown => None,
        }
    }
}

fn block(value: Option<&Value>, chain: &Chain) -> Result<Block, RpcError> {
    let Some(value) = value else {
        return Ok(Block::Now);
    };
    if let Value::Object(named) = value {
        // EIP-1898.
        if let Some(block_hash) = named.get("blockHash") {
            let known = chain.block_number(hash(block_hash)?)?;
            return Ok(known.map_or(Block::Unknown, Block::Number));
        }
        return block(named.get("blockNumber"), chain);
    }
    match value.as_str() {
        Some("latest") => Ok(Block::Now),
        Some("pending") => Ok(Block::Pending),
        // What is durable is final.
        Some("safe" | "finalized") => Ok(Block::Number(chain.head().number)),
        Some("earliest") => Ok(Block::Number(0)),
        _ => Ok(Block::Number(number(value)?)),
    }
}

pub(crate) fn object(value: &Value) -> Result<&Map<String, Value>, RpcError> {
    value
        .as_object()
        .ok_or_else(|| RpcError::invalid_params("an object is expected"))
}

fn text<'a>(value: &'a Value, what: &str) -> Result<&'a str, RpcError> {
    let wrong = || {
        RpcError::invalid_params(format!(
            "{value} is not {what} (a string that starts with 0x)"
        ))
    };
    value
        .as_str()
        .and_then(|text| text.strip_prefix("0x"))
        .ok_or_else(wrong)
}

pub(crate) fn quantity(value: &Value) -> Result<U256, RpcError> {
    let digits = text(value, "a number")?;
    // Leading zeros are let through: several clients pad storage positions.
    let wrong = || RpcError::invalid_params(format!("{value} is not a number of at most 256 bits"));
    if digits.is_empty() {
        return Err(wrong());
    }
    U256::from_str_radix(digits, 16).map_err(|_| wrong())
}

pub(crate) fn number(value: &Value) -> Result<u64, RpcError> {
    if let Some(number) = value.as_u64() {
        return Ok(number);
    }
    u64::try_from(quantity(value)?)
        .map_err(|_| RpcError::invalid_params(format!("{value} is too large")))
}

pub(crate) fn bytes(value: &Value) -> Result<Bytes, RpcError> {
    let digits = text(value, "data")?;
    let wrong =
        |_| RpcError::invalid_params("data is written with two hexadecimal digits per byte");
    hex::decode(digits).map(Bytes::from).map_err(wrong)
}

fn fixed<const N: usize>(value: &Value, what: &str) -> Result<[u8; N], RpcError> {
    let bytes = bytes(value)?;
    let wrong = |_| RpcError::invalid_params(format!("{what} has {N} bytes, not {}", bytes.len()));
    <[u8; N]>::try_from(bytes.as_ref()).map_err(wrong)
}

pub(crate) fn address(value: &Value) -> Result<Address, RpcError> {
    fixed::<20>(value, "an address").map(Address::from)
}

pub(crate) fn hash(value: &Value) -> Result<B256, RpcError> {
    fixed::<32>(value, "a hash").map(B256::from)
}

fn optional<T>(
    object: &Map<String, Value>,
    key: &str,
    read: impl FnOnce(&Value) -> Result<T, RpcError>,
) -> Result<Option<T>, RpcError> {
    object
        .get(key)
        .filter(|value| !value.is_null())
        .map(read)
        .transpose()
}

fn call_request(object: &Map<String, Value>) -> Result<CallRequest, RpcError> {
    let input = optional(object, "input", bytes)?;
    let data = optional(object, "data", bytes)?;
    if let (Some(input), Some(data)) = (&input, &data)
        && input != data
    {
        return Err(RpcError::invalid_params("`input` and `data` differ"));
    }
    Ok(CallRequest {
        from: optional(object, "from", address)?.unwrap_or_default(),
        to: optional(object, "to", address)?,
        input: input.or(data).unwrap_or_default(),
        value: optional(object, "value", quantity)?.unwrap_or_default(),
        gas: optional(object, "gas", number)?,
        access_list: optional(object, "accessList", access_list)?.unwrap_or_default(),
    })
}

fn list(value: &Value) -> Result<&Vec<Value>, RpcError> {
    value
        .as_array()
        .ok_or_else(|| RpcError::invalid_params("a list is expected"))
}

fn access_list(value: &Value) -> Result<Vec<AccessListItem>, RpcError> {
    let item = |item: &Value| {
        let item = object(item)?;
        let missing =
            || RpcError::invalid_params("an access list item has an address and storageKeys");
        Ok(AccessListItem {
            address: address(item.get("address").ok_or_else(missing)?)?,
            storage_keys: list(item.get("storageKeys").ok_or_else(missing)?)?
                .iter()
                .map(hash)
                .collect::<Result<_, _>>()?,
        })
    };
    list(value)?.iter().map(item).collect()
}

/// One value or a list of them.
fn one_or_more<T>(
    value: &Value,
    read: impl Fn(&Value) -> Result<T, RpcError>,
) -> Result<Vec<T>, RpcError> {
    match value {
        Value::Array(list) => list.iter().map(read).collect(),
        one => Ok(vec![read(one)?]),
    }
}

/// Addresses and topics a filter may name in all.
const FILTER_VALUES_MAX: usize = 1_000;

/// A filter without its block range.
pub(crate) fn log_criteria(object: &Map<String, Value>) -> Result<LogFilter, RpcError> {
    let addresses =
        optional(object, "address", |value| one_or_more(value, address))?.unwrap_or_default();
    let topics = optional(object, "topics", |value| {
        list(value)?
            .iter()
            .map(|topic| {
                if topic.is_null() {
                    Ok(Vec::new())
                } else {
                    one_or_more(topic, hash)
                }
            })
            .collect::<Result<Vec<_>, _>>()
    })?
    .unwrap_or_default();
    if topics.len() > 4 {
        return Err(RpcError::invalid_params("a log has at most 4 topics"));
    }
    if addresses.len() + topics.iter().map(Vec::len).sum::<usize>() > FILTER_VALUES_MAX {
        return Err(RpcError::invalid_params(
            "the filter names more than 1000 values",
        ));
    }
    Ok(LogFilter {
        from_block: 0,
        to_block: None,
        addresses,
        topics,
    })
}

/// A filter with its range; `None` when it names a block that does not exist.
pub(crate) fn log_filter(value: &Value, chain: &Chain) -> Result<Option<LogFilter>, RpcError> {
    let object = object(value)?;
    let mut filter = log_criteria(object)?;
    if let Some(block_hash) = optional(object, "blockHash", hash)? {
        let number = chain.block_number(block_hash)?;
        (filter.from_block, filter.to_block) = (number.unwrap_or_default(), number);
        return Ok(number.map(|_| filter));
    }
    let edge = |key: &str| {
        Ok::<_, RpcError>(block(object.get(key).filter(|v| !v.is_null()), chain)?.number(chain))
    };
    filter.from_block = edge("fromBlock")?.unwrap_or_default();
    filter.to_block = edge("toBlock")?;
    Ok(Some(filter))
}
