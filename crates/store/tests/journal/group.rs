//! Many callers, one writer.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

use stoa_store::faulty::{Call, FaultyDisk, PowerCut};
use stoa_store::{
    AppendError, GroupCommit, Journal, JournalOptions, NewRecord, Position, RealDisk, Recovery,
};

use crate::common::{SMALL, state};

fn record(payload: &[u8]) -> NewRecord<'_> {
    NewRecord {
        kind: 3,
        version: 2,
        payload,
    }
}

fn payloads(recovery: &Recovery) -> BTreeMap<u64, Vec<u8>> {
    recovery
        .records
        .iter()
        .map(|record| (record.sequence.0, record.payload.to_vec()))
        .collect()
}

/// Appends from several threads until each has appended its share; a busy journal is asked again.
fn hammer(group: &GroupCommit<RealDisk>, threads: u64, each: u64) -> BTreeMap<u64, Vec<u8>> {
    let told = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let told = &told;
            scope.spawn(move || {
                for number in 0..each {
                    let payload = format!("record {number} of thread {thread}").into_bytes();
                    let position = loop {
                        match group.append(&[record(&payload)]) {
                            Ok(position) => break position,
                            Err(AppendError::Busy { .. }) => std::thread::yield_now(),
                            Err(error) => panic!("{error}"),
                        }
                    };
                    let before = told.lock().unwrap().insert(position.sequence.0, payload);
                    assert_eq!(before, None, "two records were told the same number");
                }
            });
        }
    });
    told.into_inner().unwrap()
}

#[test]
fn every_caller_is_told_a_number_of_its_own_and_finds_its_record_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let disk = RealDisk::open(folder.path().join("new/journal")).unwrap();
    let (journal, _) = Journal::open(disk.clone(), SMALL).unwrap();
    let group = GroupCommit::start(journal).unwrap();
    let told = hammer(&group, 16, 60);
    let stats = group.stats();
    assert_eq!(stats.records, 960);
    assert!(
        stats.batches < 960,
        "{stats:?}: callers that wait share a sync"
    );
    group.close().unwrap();
    let (_, recovery) = Journal::open(disk, SMALL).unwrap();
    assert_eq!(payloads(&recovery), told);
    assert_eq!((recovery.repaired, recovery.findings), (None, vec![]));
}

#[test]
fn snapshots_beside_the_appends_bound_what_a_restart_reads() {
    let folder = tempfile::tempdir().unwrap();
    let disk = RealDisk::open(folder.path()).unwrap();
    let (journal, _) = Journal::open(disk.clone(), SMALL).unwrap();
    let group = GroupCommit::start(journal).unwrap();
    let mut deleted = 0;
    for _ in 0..4 {
        hammer(&group, 2, 40);
        let position = group.position();
        deleted += group
            .snapshots()
            .take(position, &state(position.sequence.0))
            .unwrap()
            .segments_deleted;
    }
    hammer(&group, 2, 5);
    group.close().unwrap();
    assert!(deleted >= 5, "{deleted} segments were deleted");
    let (_, recovery) = Journal::open(disk, SMALL).unwrap();
    assert_eq!(recovery.snapshot.unwrap().state, state(320));
    let read: Vec<_> = recovery
        .records
        .iter()
        .map(|record| record.sequence.0)
        .collect();
    assert_eq!(read, (321..=330).collect::<Vec<_>>());
}

#[test]
fn records_handed_in_together_are_found_together_or_not_at_all() {
    let disk = FaultyDisk::new(1);
    let (journal, _) = Journal::open(disk.clone(), SMALL).unwrap();
    let crashes: Arc<Mutex<Vec<FaultyDisk>>> = Arc::default();
    let seen = crashes.clone();
    disk.observe(Some(Box::new(move |call, fork| {
        if call == Call::Sync {
            seen.lock().unwrap().push(fork);
        }
    })));
    let group = GroupCommit::start(journal).unwrap();
    let (tell, told) = channel();
    for _ in 0..200 {
        let tell = tell.clone();
        let done = move |result: Result<Position, AppendError>| tell.send(result).unwrap();
        group
            .submit(
                &[record(b"debit"), record(b"credit"), record(b"fee")],
                Box::new(done),
            )
            .unwrap();
    }
    drop(tell);
    let numbers: Vec<_> = told
        .iter()
        .map(|result| result.unwrap().sequence.0)
        .collect();
    assert_eq!(
        numbers,
        (1..=200).map(|group| 3 * group).collect::<Vec<_>>(),
        "told in order"
    );
    group.close().unwrap();
    for (seed, crashed) in crashes.lock().unwrap().iter().enumerate() {
        crashed.power_cycle(seed as u64, PowerCut::Torn);
        let (_, recovery) = Journal::open(crashed.clone(), SMALL).unwrap();
        assert_eq!(recovery.records.len() % 3, 0);
    }
}

#[test]
fn a_failed_sync_is_told_to_its_callers_and_to_all_after_them() {
    let disk = FaultyDisk::new(2);
    let (journal, _) = Journal::open(disk.clone(), SMALL).unwrap();
    let group = GroupCommit::start(journal).unwrap();
    group.append(&[record(b"good")]).unwrap();
    disk.fail_all(Call::Sync, Some(ErrorKind::Other));
    let error = group.append(&[record(b"unknown")]).unwrap_err();
    assert!(matches!(error, AppendError::Failed(_)), "{error}");
    disk.fail_all(Call::Sync, None);
    for _ in 0..3 {
        let error = group.append(&[record(b"late")]).unwrap_err();
        assert!(matches!(error, AppendError::Poisoned(_)), "{error}");
    }
    assert!(
        group.close().is_err(),
        "closing says that the journal failed"
    );
    disk.power_cycle(0, PowerCut::LoseAll);
    let (_, recovery) = Journal::open(disk, SMALL).unwrap();
    assert_eq!(payloads(&recovery)[&1], b"good");
}

#[test]
fn closing_makes_durable_what_was_accepted_and_tells_everybody() {
    let disk = FaultyDisk::new(3);
    let (journal, _) = Journal::open(disk.clone(), SMALL).unwrap();
    let group = GroupCommit::start(journal).unwrap();
    let (tell, told) = channel();
    for number in 0..500u32 {
        let tell = tell.clone();
        let done = move |result: Result<Position, AppendError>| tell.send(result).unwrap();
        group
            .submit(&[record(&number.to_le_bytes())], Box::new(done))
            .unwrap();
    }
    group.close().unwrap();
    drop(tell);
    assert_eq!(told.iter().filter(Result::is_ok).count(), 500);
    disk.power_cycle(0, PowerCut::LoseAll);
    let (_, recovery) = Journal::open(disk, SMALL).unwrap();
    assert_eq!(recovery.records.len(), 500);
}

#[test]
fn a_caller_that_panics_when_told_takes_nobody_with_it() {
    let disk = FaultyDisk::new(4);
    let (journal, _) = Journal::open(disk, SMALL).unwrap();
    let group = GroupCommit::start(journal).unwrap();
    group
        .submit(
            &[record(b"bad")],
            Box::new(|_| panic!("a caller's own mistake, part of the test")),
        )
        .unwrap();
    assert_eq!(group.append(&[record(b"good")]).unwrap().sequence.0, 2);
    group.close().unwrap();
}

#[test]
fn the_last_owner_may_let_go_inside_a_callback() {
    let disk = FaultyDisk::new(5);
    let (journal, _) = Journal::open(disk.clone(), SMALL).unwrap();
    let group = Arc::new(GroupCommit::start(journal).unwrap());
    let (tell, told) = channel();
    let owner = group.clone();
    let (go, gate) = channel::<()>();
    group
        .submit(
            &[record(b"last")],
            Box::new(move |result| {
                gate.recv().unwrap();
                drop(owner);
                tell.send(result).unwrap();
            }),
        )
        .unwrap();
    drop(group);
    go.send(()).unwrap();
    told.recv().unwrap().unwrap();
    // The folder is free again.
    let (_, recovery) = Journal::open(disk, JournalOptions::default()).unwrap();
    assert_eq!(recovery.records.len(), 1);
}

#[test]
fn a_writer_that_panics_tells_all_its_callers_and_takes_nothing_more() {
    let disk = FaultyDisk::new(5);
    let (journal, _) = Journal::open(disk.clone(), SMALL).unwrap();
    let group = GroupCommit::start(journal).unwrap();
    group.append(&[record(b"good")]).unwrap();
    disk.observe(Some(Box::new(|call, _| {
        assert!(call != Call::Sync, "simulated panic under the writer");
    })));
    let (told, results) = channel();
    let mut refused = 0;
    for _ in 0..3 {
        let told = told.clone();
        let done = Box::new(move |result| told.send(result).unwrap());
        // After the panic a submission is refused at once.
        if let Err(error) = group.submit(&[record(b"unknown")], done) {
            assert!(matches!(error, AppendError::Poisoned(_)), "{error}");
            refused += 1;
        }
    }
    drop(told);
    let results: Vec<_> = results.iter().collect();
    assert_eq!(results.len() + refused, 3, "each is told once");
    assert!(results.iter().all(Result::is_err), "{results:?}");
    assert!(group.append(&[record(b"late")]).is_err());
    assert!(group.close().is_err());
    disk.restart_process();
    let (_, recovery) = Journal::open(disk, SMALL).unwrap();
    assert_eq!(payloads(&recovery)[&1], b"good");
}
