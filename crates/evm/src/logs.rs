//! Finding events.

use alloy_primitives::{Address, B256, Log};

use crate::db::Snapshot;
use crate::error::LogsError;
use crate::records::LogEntry;

/// Blocks one query without an address may read.
pub const UNINDEXED_BLOCKS_MAX: u64 = 10_000;
/// Logs one query may return.
pub const LOGS_MAX: usize = 20_000;
/// Bytes of data and topics of the logs that one query may return.
pub const LOGS_BYTES_MAX: usize = 16 << 20;
/// Index entries one query may visit.
const VISITS_MAX: usize = 200_000;

/// Which events are asked for. An empty list matches everything at its place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogFilter {
    /// First block.
    pub from_block: u64,
    /// Last block; the head when absent.
    pub to_block: Option<u64>,
    /// Contracts.
    pub addresses: Vec<Address>,
    /// For each topic position the accepted values. An event with fewer topics than positions does not match.
    pub topics: Vec<Vec<B256>>,
}

impl LogFilter {
    /// Whether the event passes, wherever it stands.
    pub fn matches(&self, log: &Log) -> bool {
        let address = self.addresses.is_empty() || self.addresses.contains(&log.address);
        let topics = self.topics.iter().enumerate().all(|(position, accepted)| {
            accepted.is_empty()
                || log
                    .topics()
                    .get(position)
                    .is_some_and(|topic| accepted.contains(topic))
        });
        address && topics && self.topics.len() <= log.topics().len()
    }
}

/// All matching events in a snapshot, in order of block and position.
pub(crate) fn query(snapshot: &Snapshot, filter: &LogFilter) -> Result<Vec<LogEntry>, LogsError> {
    let head = snapshot.head()?.0.number;
    let to = filter.to_block.unwrap_or(head).min(head);
    let from = filter.from_block;
    if from > to {
        // A range that only begins in the future is empty, one that runs backwards is a mistake.
        let backwards = filter.to_block.is_some_and(|to| from > to);
        return if backwards {
            Err(LogsError::Range { from, to })
        } else {
            Ok(Vec::new())
        };
    }
    if filter.addresses.is_empty() {
        scan(snapshot, filter, from, to)
    } else {
        look_up(snapshot, filter, from, to)
    }
}

fn look_up(
    snapshot: &Snapshot,
    filter: &LogFilter,
    from: u64,
    to: u64,
) -> Result<Vec<LogEntry>, LogsError> {
    let first_topics = filter.topics.first().map_or(&[][..], Vec::as_slice);
    let mut places = Vec::new();
    let mut visits_left = VISITS_MAX;
    for address in &filter.addresses {
        places.extend(snapshot.log_places(*address, first_topics, (from, to), &mut visits_left)?);
        if visits_left == 0 {
            return Err(LogsError::TooMuchToRead { max: VISITS_MAX });
        }
    }
    places.sort_unstable();
    places.dedup();
    let mut found = Found::default();
    for place in places {
        if let Some(receipt) = snapshot.receipt(place)? {
            found.keep(receipt.log_entries(), filter)?;
        }
    }
    Ok(found.entries)
}

fn scan(
    snapshot: &Snapshot,
    filter: &LogFilter,
    from: u64,
    to: u64,
) -> Result<Vec<LogEntry>, LogsError> {
    let blocks = to - from + 1;
    if blocks > UNINDEXED_BLOCKS_MAX {
        return Err(LogsError::TooWide {
            blocks,
            max: UNINDEXED_BLOCKS_MAX,
        });
    }
    let mut found = Found::default();
    for number in from..=to {
        let Some((header, hash)) = snapshot.header(number)? else {
            continue;
        };
        if header.logs_bloom.is_zero() {
            continue;
        }
        for index in 0..header.transaction_count {
            if let Some(receipt) = snapshot.receipt_in(&header, hash, index)? {
                found.keep(receipt.log_entries(), filter)?;
            }
        }
    }
    Ok(found.entries)
}

#[derive(Default)]
struct Found {
    entries: Vec<LogEntry>,
    bytes: usize,
}

impl Found {
    fn keep(
        &mut self,
        entries: impl Iterator<Item = LogEntry>,
        filter: &LogFilter,
    ) -> Result<(), LogsError> {
        for entry in entries.filter(|entry| filter.matches(&entry.log)) {
            self.bytes += 32 * entry.log.topics().len() + entry.log.data.data.len();
            if self.entries.len() == LOGS_MAX {
                return Err(LogsError::TooMany { max: LOGS_MAX });
            }
            if self.bytes > LOGS_BYTES_MAX {
                return Err(LogsError::TooLarge {
                    max: LOGS_BYTES_MAX,
                });
            }
            self.entries.push(entry);
        }
        Ok(())
    }
}
