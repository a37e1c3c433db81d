//! Power cuts, kills and failing calls at every step, over the simulated disk.

use std::io::ErrorKind;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::common::{Ledger, SMALL, Told, append, check_disk, check_history, workload};
use stoa_store::faulty::{Call, Fault, FaultyDisk, PowerCut};
use stoa_store::{Disk, Journal, JournalOptions};

/// Checks a disk as a crash left it, goes on with it, loses power again and checks once more.
fn check_crash(disk: &FaultyDisk, told: Told, when: &str) {
    let last = check_disk(disk, SMALL, told, when);
    // The first check has shown record `last` to somebody: it must stay.
    disk.power_cycle(last, PowerCut::LoseAll);
    let (mut journal, recovery) =
        Journal::open(disk.clone(), SMALL).unwrap_or_else(|error| panic!("{when}, again: {error}"));
    assert_eq!(
        check_history(&recovery),
        last,
        "{when}: what was shown once stays"
    );
    let acknowledged = append(&mut journal, 3).unwrap_or_else(|error| panic!("{when}: {error}"));
    drop(journal);
    disk.power_cycle(last + 1, PowerCut::LoseAll);
    check_disk(
        disk,
        SMALL,
        Told {
            acknowledged,
            handed_in: acknowledged,
        },
        when,
    );
}

#[test]
fn a_power_cut_before_or_in_any_disk_call_loses_nothing_acknowledged_and_doubles_nothing() {
    let ledger = Ledger::default();
    let checked = Arc::new(AtomicU64::new(0));
    let disk = FaultyDisk::new(1);
    disk.write_back_early(true);
    let (told, count) = (ledger.clone(), checked.clone());
    disk.observe(Some(Box::new(move |call, fork| {
        let number = count.fetch_add(1, Ordering::Relaxed);
        let told = *told.lock().unwrap();
        // Between a write and its sync every fate of the unsynced blocks is a place in the middle of one of the two.
        let fates = if matches!(call, Call::Sync | Call::SyncDir) {
            &PowerCut::ALL[..]
        } else {
            &[PowerCut::LoseAll, PowerCut::Torn][..]
        };
        for cut in fates {
            let crashed = fork.fork();
            crashed.power_cycle(number, *cut);
            check_crash(
                &crashed,
                told,
                &format!("{cut:?} before call {number}, {call:?}"),
            );
        }
    })));
    workload(&disk, SMALL, 2_000, 31, &ledger);
    let told = *ledger.lock().unwrap();
    assert_eq!(
        (told.acknowledged, told.handed_in),
        (5_000, 5_000),
        "the workload itself ran to its end"
    );
    assert!(
        checked.load(Ordering::Relaxed) > 6_000,
        "{} calls",
        checked.load(Ordering::Relaxed)
    );
}

#[test]
fn a_killed_process_loses_nothing_acknowledged_at_any_disk_call() {
    let ledger = Ledger::default();
    let disk = FaultyDisk::new(2);
    let told = ledger.clone();
    disk.observe(Some(Box::new(move |call, fork| {
        check_crash(
            &fork,
            *told.lock().unwrap(),
            &format!("killed before {call:?}"),
        )
    })));
    workload(&disk, SMALL, 500, 31, &ledger);
    assert_eq!(ledger.lock().unwrap().acknowledged, 1_250);
}

#[test]
fn a_second_power_cut_during_the_recovery_loses_nothing() {
    let ledger = Ledger::default();
    let disk = FaultyDisk::new(3);
    let (told, mut calls) = (ledger.clone(), 0u64);
    disk.observe(Some(Box::new(move |_, fork| {
        calls += 1;
        if !calls.is_multiple_of(23) {
            return;
        }
        let told = *told.lock().unwrap();
        fork.power_cycle(calls, PowerCut::Torn);
        let shown = check_disk(&fork.fork(), SMALL, told, "the first recovery");
        let crashes = Arc::new(Mutex::new(Vec::new()));
        let seen = crashes.clone();
        fork.observe(Some(Box::new(move |_, crashed| {
            seen.lock().unwrap().push(crashed)
        })));
        check_disk(&fork, SMALL, told, "the observed recovery");
        fork.observe(None);
        for (step, crashed) in crashes.lock().unwrap().iter().enumerate() {
            crashed.power_cycle(calls + step as u64, PowerCut::Torn);
            let last = check_disk(
                crashed,
                SMALL,
                told,
                &format!("call {calls}, then step {step} of the recovery"),
            );
            assert_eq!(
                last, shown,
                "a recovery that was cut short shows the same records"
            );
        }
    })));
    workload(&disk, SMALL, 600, 31, &ledger);
}

#[test]
fn a_fault_at_the_nth_call_for_every_n_ends_in_a_truthful_error_or_in_nothing_lost() {
    let options = JournalOptions {
        segment_bytes: 16 << 10,
    };
    let whole = FaultyDisk::new(4);
    workload(&whole, options, 60, 13, &Ledger::default());
    let calls = whole.calls();
    assert!(calls > 250, "{calls} calls");
    let faults = [
        Fault::Fail(ErrorKind::Other),
        Fault::Fail(ErrorKind::StorageFull),
        Fault::CutBefore,
        Fault::CutDuring,
    ];
    for (number, fault) in (1..=calls).flat_map(|number| faults.map(|fault| (number, fault))) {
        let disk = FaultyDisk::new(number);
        let ledger = Ledger::default();
        disk.fault_at(number, fault);
        workload(&disk, options, 60, 13, &ledger);
        let when = format!("{fault:?} at call {number}");
        assert_eq!(
            disk.is_off(),
            matches!(fault, Fault::CutBefore | Fault::CutDuring),
            "{when}"
        );
        if disk.is_off() {
            disk.power_cycle(number, PowerCut::ALL[number as usize % 5]);
        } else {
            disk.restart_process();
        }
        let told = *ledger.lock().unwrap();
        let shown = check_disk(&disk, options, told, &when);
        disk.power_cycle(number, PowerCut::LoseAll);
        assert_eq!(
            check_disk(&disk, options, told, &when),
            shown,
            "{when}: what the restart showed survives a power cut"
        );
    }
}

#[test]
fn a_failed_sync_ends_the_journal_and_the_batch_is_written_anew_at_the_next_start() {
    let disk = FaultyDisk::new(5);
    let (mut journal, _) = Journal::open(disk.clone(), SMALL).unwrap();
    append(&mut journal, 2).unwrap();
    disk.fail_all(Call::Sync, Some(ErrorKind::Other));
    let error = append(&mut journal, 1).unwrap_err().to_string();
    assert!(
        error.contains("sync simulated/journal-0000000000000001.log failed"),
        "{error}"
    );
    assert!(
        error.contains("unknown until the journal is opened again"),
        "{error}"
    );
    disk.fail_all(Call::Sync, None);
    let error = append(&mut journal, 1).unwrap_err().to_string();
    assert!(
        error.contains("these records were not written; end the process"),
        "a sync that works again changes nothing: {error}"
    );
    assert!(journal.close().is_err());

    // The system shows the pages of the failed sync as clean, although the medium may not have them.
    disk.restart_process();
    let (journal, recovery) = Journal::open(disk.clone(), SMALL).unwrap();
    let shown = check_history(&recovery);
    drop(journal);
    disk.power_cycle(0, PowerCut::LoseAll);
    let told = Told {
        acknowledged: shown,
        handed_in: 3,
    };
    assert_eq!(check_disk(&disk, SMALL, told, "after the power cut"), shown);
}

#[test]
fn a_misdirected_write_is_noticed_or_harmless() {
    let mut noticed = 0;
    let calls = {
        let disk = FaultyDisk::new(6);
        workload(&disk, SMALL, 60, 1_000, &Ledger::default());
        disk.calls()
    };
    for (number, by) in
        (1..=calls).flat_map(|number| [(number, 512), (number, 4096), (number, 12_288)])
    {
        let disk = FaultyDisk::new(number);
        let ledger = Ledger::default();
        disk.fault_at(number, Fault::Misdirect(by));
        workload(&disk, SMALL, 60, 1_000, &ledger);
        disk.power_cycle(number, PowerCut::LoseAll);
        let told = *ledger.lock().unwrap();
        match Journal::open(disk, SMALL) {
            Ok((_, recovery)) => assert!(
                check_history(&recovery) >= told.acknowledged,
                "write {number} moved by {by}"
            ),
            Err(error) => {
                noticed += 1;
                assert!(
                    error.to_string().contains("Nothing was changed")
                        || error.to_string().contains("nothing was changed"),
                    "{error}"
                );
            }
        }
    }
    assert!(
        noticed > 100,
        "only {noticed} misdirected writes were noticed"
    );
}

#[test]
fn a_snapshot_cut_short_at_any_step_leaves_the_journal_whole() {
    let disk = FaultyDisk::new(7);
    let (mut journal, _) = Journal::open(disk.clone(), SMALL).unwrap();
    let mut steps = 0;
    for round in 0..4 {
        for _ in 0..40 {
            append(&mut journal, 3).unwrap();
        }
        let position = journal.position();
        let told = Told {
            acknowledged: position.sequence.0,
            handed_in: position.sequence.0,
        };
        let points = Arc::new(Mutex::new(Vec::new()));
        let seen = points.clone();
        disk.observe(Some(Box::new(move |call, fork| {
            seen.lock().unwrap().push((call, fork))
        })));
        let taken = journal
            .snapshots()
            .take(position, &crate::common::state(position.sequence.0))
            .unwrap();
        disk.observe(None);
        assert_eq!(
            taken.segments_deleted > 0,
            round > 0,
            "segments go when two snapshots stand behind them"
        );
        for (step, (call, fork)) in points.lock().unwrap().iter().enumerate() {
            for cut in PowerCut::ALL {
                let crashed = fork.fork();
                crashed.power_cycle(step as u64, cut);
                check_crash(
                    &crashed,
                    told,
                    &format!("{cut:?} before step {step} of the snapshot, {call:?}"),
                );
                steps += 1;
            }
        }
    }
    assert!(steps > 150, "{steps} steps");
}

#[test]
fn a_failing_call_in_a_snapshot_leaves_the_journal_taking_records() {
    for call in [
        Call::Create,
        Call::Write,
        Call::Sync,
        Call::Rename,
        Call::SyncDir,
        Call::Read,
    ] {
        let disk = FaultyDisk::new(8);
        let (mut journal, _) = Journal::open(disk.clone(), SMALL).unwrap();
        append(&mut journal, 3).unwrap();
        disk.fail_all(call, Some(ErrorKind::Other));
        let error = journal
            .snapshots()
            .take(journal.position(), &crate::common::state(3))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("the journal and the older snapshots are as they were"),
            "{error}"
        );
        disk.fail_all(call, None);
        append(&mut journal, 2).unwrap();
        journal
            .snapshots()
            .take(journal.position(), &crate::common::state(5))
            .unwrap_or_else(|error| panic!("{call:?}: {error}"));
        drop(journal);
        disk.power_cycle(0, PowerCut::LoseAll);
        check_disk(
            &disk,
            SMALL,
            Told {
                acknowledged: 5,
                handed_in: 5,
            },
            &format!("{call:?}"),
        );
    }
}

#[test]
fn every_sync_comes_before_its_acknowledgement() {
    let disk = FaultyDisk::new(9);
    let (mut journal, _) = Journal::open(disk.clone(), SMALL).unwrap();
    for last in 1..200 {
        append(&mut journal, 1).unwrap();
        let lost = disk.fork();
        lost.power_cycle(last, PowerCut::LoseAll);
        check_disk(
            &lost,
            SMALL,
            Told {
                acknowledged: last,
                handed_in: last,
            },
            "right after the acknowledgement",
        );
    }
    assert!(
        disk.list().unwrap().len() > 5,
        "the run went over several segments"
    );
}
