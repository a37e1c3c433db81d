//! A disk without space, and limits of what is taken.

use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use crate::common::{Told, append, check_disk, kind, payload, state};
use stoa_store::faulty::{FaultyDisk, PowerCut};
use stoa_store::{
    AppendError, GroupCommit, Journal, JournalOptions, NewRecord, OpenError, SnapshotError,
};

const TINY: JournalOptions = JournalOptions {
    segment_bytes: 64 << 10,
};

#[test]
fn a_full_disk_refuses_before_acceptance_and_takes_records_again_when_there_is_space() {
    let disk = FaultyDisk::new(1);
    let (mut journal, _) = Journal::open(disk.clone(), TINY).unwrap();
    disk.set_capacity(Some(disk.used() + 20_000));
    let mut taken = 0;
    let error = loop {
        match append(&mut journal, 2) {
            Ok(last) => taken = last,
            Err(error) => break error,
        }
    };
    assert_eq!(taken, 30, "the whole segment was used");
    assert!(
        matches!(
            error,
            AppendError::DiskFull {
                needed_bytes: 65_536,
                ..
            }
        ),
        "{error}"
    );
    assert!(
        error.to_string().contains("free at least 65536 bytes"),
        "{error}"
    );
    let files = disk.files();
    let names: Vec<_> = files.iter().map(|(name, _)| name.as_str()).collect();
    let left = ["journal-0000000000000001.log", "watermark"];
    assert_eq!(names, left, "the space of the attempt was given back");
    for _ in 0..3 {
        assert!(matches!(
            append(&mut journal, 1),
            Err(AppendError::DiskFull { .. })
        ));
        let copy = disk.fork();
        copy.set_capacity(None);
        check_disk(
            &copy,
            TINY,
            Told {
                acknowledged: taken,
                handed_in: taken,
            },
            "while the disk is full",
        );
    }
    disk.set_capacity(None);
    assert_eq!(
        append(&mut journal, 5).unwrap(),
        35,
        "no number was lost to a refused record"
    );
    drop(journal);
    disk.power_cycle(0, PowerCut::LoseAll);
    check_disk(
        &disk,
        TINY,
        Told {
            acknowledged: 35,
            handed_in: 35,
        },
        "after the power cut",
    );
}

#[test]
fn a_full_disk_at_the_first_start_and_in_a_snapshot_is_said_in_words() {
    let disk = FaultyDisk::new(2);
    disk.set_capacity(Some(10_000));
    let error = Journal::open(disk.clone(), TINY).unwrap_err();
    assert!(
        matches!(&error, OpenError::Disk(failure) if failure.is_full()),
        "{error}"
    );
    disk.set_capacity(Some(80_000));
    let (mut journal, _) = Journal::open(disk.clone(), TINY).unwrap();
    append(&mut journal, 3).unwrap();
    let error = journal
        .snapshots()
        .take(journal.position(), &vec![0; 20_000])
        .unwrap_err();
    assert!(
        matches!(&error, SnapshotError::Disk(failure) if failure.is_full()),
        "{error}"
    );
    append(&mut journal, 3).unwrap();
    disk.set_capacity(None);
    journal
        .snapshots()
        .take(journal.position(), &state(6))
        .unwrap();
}

#[test]
fn under_group_commit_a_full_disk_refuses_the_caller_and_recovers_within_five_seconds() {
    let disk = FaultyDisk::new(3);
    let (journal, _) = Journal::open(disk.clone(), TINY).unwrap();
    // Room for one more segment, which is prepared in the background.
    disk.set_capacity(Some(disk.used() + 65_536 + 1_000));
    let group = GroupCommit::start(journal).unwrap();
    let mut last = 0;
    let mut append_next = || -> Result<u64, AppendError> {
        let next = last + 1;
        let record = NewRecord {
            kind: kind(next),
            version: 1,
            payload: &payload(next),
        };
        let position = group.append(&[record])?;
        last = position.sequence.0;
        Ok(last)
    };
    let refusal = loop {
        match append_next() {
            Ok(_) | Err(AppendError::Busy { .. }) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(refusal, AppendError::DiskFull { .. }), "{refusal}");
    let taken = group.position().sequence.0;
    assert_eq!(taken, 30, "both segments were used");
    disk.set_capacity(None);
    let since = Instant::now();
    while append_next().is_err() {
        assert!(since.elapsed() < Duration::from_secs(5));
        std::thread::sleep(Duration::from_millis(5));
    }
    group.close().unwrap();
    disk.power_cycle(0, PowerCut::LoseAll);
    check_disk(
        &disk,
        TINY,
        Told {
            acknowledged: 31,
            handed_in: 31,
        },
        "after all",
    );
}

#[test]
fn what_does_not_fit_into_a_batch_is_refused_with_the_limits() {
    let disk = FaultyDisk::new(4);
    let (mut journal, _) = Journal::open(disk.clone(), TINY).unwrap();
    let record = |payload| NewRecord {
        kind: 1,
        version: 1,
        payload,
    };
    assert_eq!(journal.append_batch(&[]), Err(AppendError::Empty));
    let large = vec![0; 61_440];
    let error = journal.append_batch(&[record(&large)]).unwrap_err();
    assert!(
        matches!(
            error,
            AppendError::TooLarge {
                max_bytes: 61_440,
                ..
            }
        ),
        "{error}"
    );
    assert!(matches!(
        journal.append_batch(&vec![record(&[]); 4_097]),
        Err(AppendError::TooLarge { records: 4_097, .. })
    ));
    let fits = &large[..61_440 - 104 - 32];
    journal.append_batch(&[record(fits)]).unwrap();
    drop(journal);
    let (journal, recovery) = Journal::open(disk, TINY).unwrap();
    assert_eq!(recovery.records.iter().next().unwrap().payload, fits);
    let group = GroupCommit::start(journal).unwrap();
    let (tell, told) = channel::<()>();
    let error = group
        .submit(&[record(&large)], Box::new(move |_| drop(tell)))
        .unwrap_err();
    assert!(matches!(error, AppendError::TooLarge { .. }), "{error}");
    assert!(
        told.recv().is_err(),
        "the callback of a refused record is dropped and never called"
    );
}

#[test]
fn options_that_make_no_sense_are_refused() {
    for segment_bytes in [0, 4_096, 16_385, 2 << 30] {
        let error =
            Journal::open(FaultyDisk::new(5), JournalOptions { segment_bytes }).unwrap_err();
        assert!(
            error
                .to_string()
                .contains(&format!("segment_bytes is {segment_bytes}")),
            "{error}"
        );
    }
}

#[test]
fn a_snapshot_must_stand_behind_a_durable_record_and_be_newer_than_the_last() {
    let disk = FaultyDisk::new(6);
    let (mut journal, _) = Journal::open(disk.clone(), TINY).unwrap();
    append(&mut journal, 3).unwrap();
    let mut ahead = journal.position();
    ahead.sequence.0 += 1;
    assert!(matches!(
        journal.snapshots().take(ahead, b""),
        Err(SnapshotError::NotDurable {
            covers: 4,
            durable: 3
        })
    ));
    journal.snapshots().take(journal.position(), b"").unwrap();
    assert!(matches!(
        journal.snapshots().take(journal.position(), b""),
        Err(SnapshotError::NotNewer {
            covers: 3,
            newest: 3
        })
    ));
}
