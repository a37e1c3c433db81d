//! Filters that clients poll.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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

/// Locked while it is polled, so that two polls never report the same event; other filters go on.
type Shared = Arc<Mutex<Filter>>;

#[derive(Default)]
struct Open {
    made: u64,
    by_id: HashMap<u64, Shared>,
}

pub(crate) struct Filters {
    max: usize,
    /// Makes ids that nobody else can guess: who knows an id can take its events and uninstall it.
    ids: RandomState,
    open: Mutex<Open>,
}

impl Filters {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            max,
            ids: RandomState::new(),
            open: Mutex::default(),
        }
    }

    pub(crate) fn add_blocks(&self, chain: &Chain) -> Result<Value, RpcError> {
        self.add(Kind::Blocks, chain)
    }

    pub(crate) fn add_logs(&self, filter: LogFilter, chain: &Chain) -> Result<Value, RpcError> {
        self.add(Kind::Logs(filter), chain)
    }

    fn add(&self, kind: Kind, chain: &Chain) -> Result<Value, RpcError> {
        let mut open = self.lock();
        // One that is locked is being polled.
        open.by_id.retain(|_, filter| {
            filter
                .try_lock()
                .map_or(true, |filter| filter.used.elapsed() < IDLE_MAX)
        });
        if open.by_id.len() >= self.max {
            return Err(RpcError::server(format!(
                "{} filters exist, the limit; uninstall some",
                self.max
            )));
        }
        open.made += 1;
        let id = self.ids.hash_one(open.made);
        let filter = Filter {
            kind,
            next_block: chain.head().number + 1,
            used: Instant::now(),
        };
        open.by_id.insert(id, Arc::new(Mutex::new(filter)));
        Ok(format::quantity(id))
    }

    pub(crate) fn remove(&self, id: u64) -> bool {
        self.lock().by_id.remove(&id).is_some()
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, id: u64) -> Result<Shared, RpcError> {
        let found = self.lock().by_id.get(&id).cloned();
        found.ok_or_else(|| {
            RpcError::server("filter not found; filters unused for 5 minutes are removed")
        })
    }

    /// What came since the last poll.
    pub(crate) fn changes(&self, id: u64, chain: &Chain) -> Result<Value, RpcError> {
        let filter = self.find(id)?;
        let mut filter = filter.lock().unwrap_or_else(PoisonError::into_inner);
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
            let filter = self.find(id)?;
            let mut filter = filter.lock().unwrap_or_else(PoisonError::into_inner);
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
