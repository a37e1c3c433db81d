//! Power cuts at every call to the disk, in front of it and in the middle of it.

use super::super::*;
use super::workload::{DOMAIN, Workload, fingerprint};
use super::{SMALL, fold, owner};
use std::collections::BTreeSet;
use std::sync::OnceLock;
use stoa_store::faulty::{Call, FaultyDisk, PowerCut};

const OPERATIONS: usize = 2_000;
const SNAPSHOT_EVERY: usize = 400;

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
fn append(journal: &mut Journal<FaultyDisk>, from: usize, to: usize) {
    let records: Vec<_> = workload().payloads[from..to]
        .iter()
        .map(|payload| NewRecord {
            kind: ENTRY_KIND,
            version: RECORD_VERSION,
            payload,
        })
        .collect();
    journal.append_batch(&records).expect("appends");
}

/// What recoveries from the same records come to is worked out once: it depends on nothing else.
type Folded = BTreeSet<(u64, usize)>;

/// Opens what a crash left. Everything acknowledged is there, once and as it was handed in, nothing else is, and the book is the
/// fold of it.
fn check_recovery(
    disk: &FaultyDisk,
    told: Told,
    folded: &mut Folded,
    when: &str,
) -> (Journal<FaultyDisk>, Recovery) {
    let (journal, recovery) =
        Journal::open(disk.clone(), SMALL).unwrap_or_else(|error| panic!("{when}: {error}"));
    let covers = recovery
        .snapshot
        .as_ref()
        .map_or(0, |s| s.covers.sequence.0);
    // The first record says whose the journal is.
    let saved = covers.saturating_sub(1) as usize;
    let entries: Vec<&[u8]> = recovery
        .records
        .iter()
        .filter(|record| record.kind == ENTRY_KIND)
        .map(|record| record.payload)
        .collect();
    let kept = saved + entries.len();
    assert!(
        told.acknowledged <= kept && kept <= told.handed_in,
        "{when}: {told:?}, but {kept} entries were kept"
    );
    let same = |(kept, handed_in): (&&[u8], &Vec<u8>)| *kept == handed_in.as_slice();
    assert!(
        entries.iter().zip(&workload().payloads[saved..]).all(same),
        "{when}: an entry is not what was handed in"
    );
    if folded.insert((covers, kept)) {
        check_fold(&recovery, saved, kept, when);
    }
    (journal, recovery)
}

fn check_fold(recovery: &Recovery, saved: usize, kept: usize, when: &str) {
    let (fold, unsaved) = fold::rebuild(recovery, owner(workload().router))
        .unwrap_or_else(|error| panic!("{when}: {error:?}"));
    assert_eq!(
        (fold.entries, unsaved),
        (kept as u64, (kept - saved) as u64)
    );
    assert!(
        fingerprint(&fold.book) == workload().books[kept],
        "{when}: the book is not the fold of the {kept} entries that were kept"
    );
    fold.book
        .check_conservation()
        .unwrap_or_else(|error| panic!("{when}: {error}"));
    let last = kept.checked_sub(1).map(|last| &workload().entries[last]);
    let counts = |entry: &Entry| {
        entry.is_reservation() || matches!(entry, Entry::Released { .. } | Entry::Charged { .. })
    };
    if last.is_some_and(counts) {
        let again = last.map(|last| fold.book.check(last));
        assert!(matches!(again, Some(Err(_))), "{when}: counted twice");
    }
}

/// Goes on with the rest of the workload after a crash, by the way of a start.
fn go_on(disk: &FaultyDisk, folded: &mut Folded, when: &str) {
    let opened = open_on(disk.clone(), SMALL, DOMAIN, workload().router);
    let (opened, recovered) = opened.unwrap_or_else(|error| panic!("{when}: {error}"));
    let mut opened = opened.signed().expect("signs");
    for from in (recovered.entries..OPERATIONS).step_by(60) {
        append(&mut opened.journal, from, (from + 60).min(OPERATIONS));
    }
    drop(opened);
    disk.power_cycle(1, PowerCut::LoseAll);
    let whole = Told {
        acknowledged: OPERATIONS,
        handed_in: OPERATIONS,
    };
    check_recovery(disk, whole, folded, when);
}

/// Checks ways in which a crash in front of this call can leave the disk: all that was not synced is lost, and one other.
fn check_crash(number: u64, call: Call, disk: &FaultyDisk, told: Told, folded: &mut Folded) {
    // Torn and scattered blocks are also what a crash in the middle of the call before leaves.
    let others = [
        PowerCut::Torn,
        PowerCut::KeepAll,
        PowerCut::Scatter,
        PowerCut::Prefix,
    ];
    for cut in [PowerCut::LoseAll, others[(number % 4) as usize]] {
        let when = format!("power cut ({cut:?}) in front of call {number} ({call:?})");
        let disk = disk.fork();
        disk.power_cycle(number, cut);
        drop(check_recovery(&disk, told, folded, &when));
        if number.is_multiple_of(100) {
            go_on(&disk, folded, &when);
        }
    }
}

#[test]
fn a_power_cut_at_any_write_or_sync_of_2000_operations_loses_nothing_acknowledged_and_doubles_nothing()
 {
    let disk = FaultyDisk::new(7);
    let told: Arc<Mutex<Told>> = Arc::default();
    let crashes = Arc::new(Mutex::new((0, Folded::new())));
    let (seen, counted) = (told.clone(), crashes.clone());
    disk.observe(Some(Box::new(move |call, fork| {
        // The others change nothing: a crash in front of them is one in front of the call behind them.
        if !matches!(call, Call::Lock | Call::List | Call::Open | Call::Read) {
            let (number, folded) = &mut *counted.lock().unwrap();
            *number += 1;
            check_crash(*number, call, &fork, *seen.lock().unwrap(), folded);
        }
    })));
    let (opened, _) = open_on(disk.clone(), SMALL, DOMAIN, workload().router).unwrap();
    let mut opened = opened.signed().unwrap();
    let mut book = fold(&opened);
    let mut from = 0;
    while from < OPERATIONS {
        let to = (from + 1 + from % 3).min(OPERATIONS);
        told.lock().unwrap().handed_in = to;
        append(&mut opened.journal, from, to);
        told.lock().unwrap().acknowledged = to;
        for payload in &workload().payloads[from..to] {
            book.entry(payload).unwrap();
        }
        if from / SNAPSHOT_EVERY < to / SNAPSHOT_EVERY {
            let state = book.state().unwrap();
            let covers = opened.journal.position();
            opened.journal.snapshots().take(covers, &state).unwrap();
        }
        from = to;
    }
    opened.journal.close().unwrap();
    let (crashes, _) = *crashes.lock().unwrap();
    println!("{crashes} crash points, each with two fates of what was not synced");
    assert!(crashes > 3_000, "only {crashes} crashes were tried");
}
