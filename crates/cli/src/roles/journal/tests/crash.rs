//! Power cuts at every call to the disk, and failing calls under the router's own threads.

use super::super::*;
use super::workload::{DOMAIN, Life, Workload, fingerprint};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, channel};
use stoa_store::faulty::{Call, Fault, FaultyDisk, PowerCut};

const OPERATIONS: usize = 2_000;
/// So small that the workload goes through dozens of segments.
const SMALL: JournalOptions = JournalOptions {
    segment_bytes: 64 << 10,
};

fn workload() -> &'static Workload {
    static WORKLOAD: OnceLock<Workload> = OnceLock::new();
    WORKLOAD.get_or_init(|| Workload::new(OPERATIONS))
}

/// How far a run had come: entries that were reported durable, and entries that were handed in.
#[derive(Debug, Clone, Copy, Default)]
struct Told {
    acknowledged: usize,
    handed_in: usize,
}

/// Appends entries `from..to` of the workload as one batch.
fn append(journal: &mut Journal<FaultyDisk>, from: usize, to: usize) -> Result<(), AppendError> {
    let payloads: Vec<_> = workload().entries[from..to]
        .iter()
        .map(Entry::encode)
        .collect();
    let records: Vec<_> = payloads
        .iter()
        .map(|payload| NewRecord {
            kind: ENTRY_KIND,
            version: ENTRY_RECORD_VERSION,
            payload,
        })
        .collect();
    journal.append_batch(&records).map(drop)
}

/// Opens what a crash left: everything acknowledged is there, nothing that was never handed in, and the book is the fold of what was kept.
fn check_recovery(
    disk: &FaultyDisk,
    options: JournalOptions,
    told: Told,
    when: &str,
) -> (OpenJournal<FaultyDisk>, usize) {
    let workload = workload();
    let (journal, recovered) = open_on(disk.clone(), options, DOMAIN, workload.router)
        .unwrap_or_else(|error| panic!("{when}: {error}"));
    let (book, kept) = (recovered.book, recovered.entries);
    assert!(
        told.acknowledged <= kept && kept <= told.handed_in,
        "{when}: {told:?}, but {kept} entries were kept"
    );
    assert!(
        fingerprint(&book) == workload.books[kept],
        "{when}: the book is not the fold of the {kept} entries that were kept"
    );
    book.check_conservation()
        .unwrap_or_else(|error| panic!("{when}: {error}"));
    let last = kept.checked_sub(1).map(|last| &workload.entries[last]);
    if let Some(last @ (Entry::Reserved { .. } | Entry::Released { .. } | Entry::Charged { .. })) =
        last
    {
        assert!(book.check(last).is_err(), "{when}: {last:?} counted twice");
    }
    (journal, kept)
}

/// Goes on with the rest of the workload after a crash.
fn go_on(mut journal: OpenJournal<FaultyDisk>, disk: &FaultyDisk, kept: usize, when: &str) {
    for from in (kept..OPERATIONS).step_by(60) {
        append(&mut journal.0, from, (from + 60).min(OPERATIONS))
            .unwrap_or_else(|error| panic!("{when}: {error}"));
    }
    drop(journal);
    disk.power_cycle(1, PowerCut::LoseAll);
    let whole = Told {
        acknowledged: OPERATIONS,
        handed_in: OPERATIONS,
    };
    check_recovery(disk, SMALL, whole, when);
}

/// Checks every way in which a crash in front of this call can leave the disk.
fn check_crash(number: u64, call: Call, disk: &FaultyDisk, told: Told) {
    let others = [
        PowerCut::KeepAll,
        PowerCut::Prefix,
        PowerCut::Scatter,
        PowerCut::Torn,
    ];
    for cut in [PowerCut::LoseAll, others[(number % 4) as usize]] {
        let when = format!("power cut ({cut:?}) in front of call {number} ({call:?})");
        let disk = disk.fork();
        disk.power_cycle(number, cut);
        let (journal, kept) = check_recovery(&disk, SMALL, told, &when);
        if number.is_multiple_of(50) {
            go_on(journal, &disk, kept, &when);
        }
    }
}

#[test]
fn a_power_cut_at_any_write_or_sync_of_2000_operations_loses_nothing_acknowledged_and_doubles_nothing()
 {
    let disk = FaultyDisk::new(7);
    let told: Arc<Mutex<Told>> = Arc::default();
    let crashes = Arc::new(Mutex::new(0));
    let (seen, counted) = (told.clone(), crashes.clone());
    disk.observe(Some(Box::new(move |call, fork| {
        // The others change nothing: a crash in front of them is one in front of the call behind them.
        if !matches!(call, Call::Lock | Call::List | Call::Open | Call::Read) {
            *counted.lock().unwrap() += 1;
            let number = *counted.lock().unwrap();
            check_crash(number, call, &fork, *seen.lock().unwrap());
        }
    })));
    let (journal, _) = open_on(disk.clone(), SMALL, DOMAIN, workload().router).unwrap();
    let mut journal = journal.0;
    let mut from = 0;
    while from < OPERATIONS {
        let to = (from + 1 + from % 5).min(OPERATIONS);
        told.lock().unwrap().handed_in = to;
        append(&mut journal, from, to).unwrap();
        told.lock().unwrap().acknowledged = to;
        from = to;
    }
    journal.close().unwrap();
    let crashes = *crashes.lock().unwrap();
    assert!(crashes > 2_000, "only {crashes} crashes were tried");
}
