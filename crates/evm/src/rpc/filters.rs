//! Filters that clients poll.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{RpcError, format};
use crate::chain::Chain;
use crate::logs::LogFilter;

/// A filter nobody has asked for so long is forgotten.
const IDLE_MAX: Duration = Duration::from_secs(300);
/// Block hashes one poll returns.
const BLOCKS_MAX: u64 = 10_000;

enum Kind {
    Blocks,
    Logs(LogFilter),
}

struct Filter {
    kind: Kind,
    /// First block not yet reported.
    next_block: u64,
    used: Instant,
}

pub(crate) struct Filters {
    max: usize,
    inner: Mutex<(u64, HashMap<u64, Filter>)>,
}

impl Filters {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            max,
            inner: Mutex::new((1, HashMap::new())),
        }
    }

    pub(crate) fn add_blocks(&self, chain: &Chain) -> Result<Value, RpcError> {
        self.add(Kind::Blocks, chain)
    }

    pub(crate) fn add_logs(&self, filter: LogFilter, chain: &Chain) -> Result<Value, RpcError> {
        self.add(Kind::Logs(filter), chain)
    }

    fn add(&self, kind: Kind, chain: &Chain) -> Result<Value, RpcError> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.1.retain(|_, filter| filter.used.elapsed() < IDLE_MAX);
        if inner.1.len() >= self.max {
            return Err(RpcError::server(format!(
                "{} filters exist, the limit; uninstall some",
                self.max
            )));
        }
        let id = inner.0;
        inner.0 += 1;
        inner.1.insert(
            id,
            Filter {
                kind,
                next_block: chain.head().number + 1,
                used: Instant::now(),
            },
        );
        Ok(format::quantity(id))
    }

    pub(crate) fn remove(&self, id: u64) -> bool {
        self.inner
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .1
            .remove(&id)
            .is_some()
    }

    /// What came since the last poll.
    pub(crate) fn changes(&self, id: u64, chain: &Chain) -> Result<Value, RpcError> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let filter = inner.1.get_mut(&id).ok_or_else(unknown)?;
        filter.used = Instant::now();
        let head = chain.head().number;
        let from = filter.next_block;
        if from > head {
            return Ok(Value::Array(Vec::new()));
        }
        let changes = match &filter.kind {
            Kind::Blocks => {
                block_hashes(chain, from.max((head + 1).saturating_sub(BLOCKS_MAX)), head)?
            }
            Kind::Logs(asked) => {
                let to = asked.to_block.unwrap_or(head).min(head);
                let from = from.max(asked.from_block);
                if from > to {
                    Value::Array(Vec::new())
                } else {
                    logs(chain, asked, from, to)?
                }
            }
        };
        filter.next_block = head + 1;
        Ok(changes)
    }

    /// Everything a log filter matches.
    pub(crate) fn all(&self, id: u64, chain: &Chain) -> Result<Value, RpcError> {
        let asked = {
            let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            let filter = inner.1.get_mut(&id).ok_or_else(unknown)?;
            filter.used = Instant::now();
            match &filter.kind {
                Kind::Logs(asked) => asked.clone(),
                Kind::Blocks => {
                    return Err(RpcError::server("this filter is about blocks, not logs"));
                }
            }
        };
        Ok(chain.logs(&asked)?.iter().map(format::log).collect())
    }
}

fn unknown() -> RpcError {
    RpcError::server("filter not found; filters unused for 5 minutes are removed")
}

fn block_hashes(chain: &Chain, from: u64, to: u64) -> Result<Value, RpcError> {
    let mut hashes = Vec::new();
    for number in from..=to {
        if let Some((_, hash)) = chain.block(number)? {
            hashes.push(format::hash(hash));
        }
    }
    Ok(Value::Array(hashes))
}

fn logs(chain: &Chain, asked: &LogFilter, from: u64, to: u64) -> Result<Value, RpcError> {
    let range = LogFilter {
        from_block: from,
        to_block: Some(to),
        ..asked.clone()
    };
    Ok(chain.logs(&range)?.iter().map(format::log).collect())
}
