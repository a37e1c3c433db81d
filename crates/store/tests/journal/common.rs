//! A workload whose every record can be checked from its number alone.

use std::sync::{Arc, Mutex, OnceLock};

use stoa_store::faulty::FaultyDisk;
use stoa_store::{AppendError, Disk, Journal, JournalOptions, NewRecord, Recovery, Sequence};

pub const SMALL: JournalOptions = JournalOptions {
    segment_bytes: 64 << 10,
};

/// The payload of the record with this number.
pub fn payload(sequence: u64) -> Vec<u8> {
    let length = 8 + (sequence * 7 % 23) as usize;
    let mut bytes = sequence
        .wrapping_mul(0x9E37_79B9_7F4A_7C15)
        .to_le_bytes()
        .repeat(4);
    bytes.truncate(length);
    bytes
}

pub fn kind(sequence: u64) -> u16 {
    (sequence % 5) as u16
}

/// The state after this record: a sum over the whole history.
pub fn state(sequence: u64) -> Vec<u8> {
    static SUMS: OnceLock<Vec<u64>> = OnceLock::new();
    let sums = SUMS.get_or_init(|| {
        let add = |sum: &mut u64, number: u64| {
            *sum = sum
                .wrapping_mul(31)
                .wrapping_add(u64::from(payload(number)[0]));
            Some(*sum)
        };
        (0..=10_000).scan(0, add).collect()
    });
    [
        sequence.to_le_bytes(),
        sums[sequence as usize].to_le_bytes(),
    ]
    .concat()
}

/// Appends the next `count` records as one batch.
pub fn append<D: Disk>(journal: &mut Journal<D>, count: u64) -> Result<u64, AppendError> {
    let next = journal.position().sequence.0 + 1;
    let payloads: Vec<_> = (next..next + count)
        .map(|sequence| (kind(sequence), payload(sequence)))
        .collect();
    let records: Vec<_> = payloads
        .iter()
        .map(|(kind, payload)| NewRecord {
            kind: *kind,
            version: 1,
            payload,
        })
        .collect();
    let appended = journal.append_batch(&records)?;
    assert_eq!(appended.first, Sequence(next));
    assert_eq!(appended.last.sequence, Sequence(next + count - 1));
    Ok(appended.last.sequence.0)
}

/// Checks that what was read is the history up to some record, whole and once; returns that record.
pub fn check_history(recovery: &Recovery) -> u64 {
    let mut last = 0;
    if let Some(snapshot) = &recovery.snapshot {
        last = snapshot.covers.sequence.0;
        assert_eq!(snapshot.state, state(last), "snapshot of record {last}");
    }
    for record in recovery.records.iter() {
        last += 1;
        assert_eq!(record.sequence.0, last, "records follow each other");
        assert_eq!(
            (record.kind, record.version, record.payload),
            (kind(last), 1, payload(last).as_slice()),
            "record {last}"
        );
    }
    last
}

/// What the callers of a workload were told.
#[derive(Debug, Default, Clone, Copy)]
pub struct Told {
    /// The last record that was reported durable.
    pub acknowledged: u64,
    /// The last record that was handed in.
    pub handed_in: u64,
}

pub type Ledger = Arc<Mutex<Told>>;

/// Opens the disk, checks that everything acknowledged is there and nothing unknown, and returns the last record.
pub fn check_disk(disk: &FaultyDisk, options: JournalOptions, told: Told, when: &str) -> u64 {
    let (journal, recovery) =
        Journal::open(disk.clone(), options).unwrap_or_else(|error| panic!("{when}: {error}"));
    let last = check_history(&recovery);
    assert_eq!(journal.position().sequence.0, last, "{when}");
    assert!(
        last >= told.acknowledged,
        "{when}: record {} was acknowledged, the journal ends with {last}",
        told.acknowledged
    );
    assert!(
        last <= told.handed_in,
        "{when}: {} records were handed in, the journal ends with {last}",
        told.handed_in
    );
    last
}

/// Runs `operations` appends with a snapshot now and then. Stops at the first error that ends the journal; a full disk is tried again.
pub fn workload(
    disk: &FaultyDisk,
    options: JournalOptions,
    operations: u64,
    snapshot_every: u64,
    ledger: &Ledger,
) {
    let Ok((mut journal, recovery)) = Journal::open(disk.clone(), options) else {
        return;
    };
    check_history(&recovery);
    for operation in 0..operations {
        let count = 1 + operation % 4;
        ledger.lock().unwrap().handed_in = journal.position().sequence.0 + count;
        let mut result = append(&mut journal, count);
        if let Err(AppendError::DiskFull { .. }) = result {
            result = append(&mut journal, count);
        }
        match result {
            Ok(last) => ledger.lock().unwrap().acknowledged = last,
            Err(error) => {
                assert!(
                    matches!(
                        error,
                        AppendError::Failed(_)
                            | AppendError::Poisoned(_)
                            | AppendError::DiskFull { .. }
                    ),
                    "{error}"
                );
                let again = append(&mut journal, 1);
                let full = matches!(error, AppendError::DiskFull { .. });
                assert!(
                    full || matches!(again, Err(AppendError::Poisoned(_))),
                    "a failed journal takes nothing more"
                );
                return;
            }
        }
        if operation % snapshot_every == snapshot_every - 1 {
            let position = journal.position();
            // A snapshot that fails costs nothing but time.
            let _ = journal
                .snapshots()
                .take(position, &state(position.sequence.0));
        }
    }
    let _ = journal.close();
}
