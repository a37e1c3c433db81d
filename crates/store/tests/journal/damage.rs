//! Flipped bits, truncated and missing files, foreign files, versions from the future.

use std::collections::BTreeMap;
use std::io::ErrorKind;

use crate::common::{SMALL, append, check_history, state};
use stoa_store::faulty::{Call, FaultyDisk, PowerCut};
use stoa_store::{Disk, Finding, Journal, JournalOptions, OpenError, Recovery};

const TINY: JournalOptions = JournalOptions {
    segment_bytes: 16 << 10,
};

/// A journal of exactly 1,000 acknowledged records in several segments, closed.
fn thousand(disk: &FaultyDisk) -> BTreeMap<String, usize> {
    let (mut journal, _) = Journal::open(disk.clone(), TINY).unwrap();
    let mut last = 0;
    for size in [1, 90, 70, 94].into_iter().cycle() {
        last = append(&mut journal, size.min(1_000 - last)).unwrap();
        if last == 1_000 {
            break;
        }
    }
    journal.close().unwrap();
    disk.files().into_iter().collect()
}

fn open(disk: &FaultyDisk) -> Result<Recovery, OpenError> {
    Journal::open(disk.clone(), TINY).map(|(_, recovery)| recovery)
}

/// Opens a damaged copy: it is refused, or all 1,000 records are right.
fn refused_or_whole(disk: &FaultyDisk, what: &str) -> Option<Recovery> {
    match open(disk) {
        Err(error) => {
            let text = error.to_string();
            assert!(text.contains("othing was changed"), "{what}: {text}");
            None
        }
        Ok(recovery) => {
            assert_eq!(check_history(&recovery), 1_000, "{what}");
            Some(recovery)
        }
    }
}

#[test]
fn a_flipped_bit_anywhere_in_the_files_is_refused_or_reported_and_never_gives_a_wrong_record() {
    let disk = FaultyDisk::new(1);
    let (mut refused, mut reported) = (0, 0);
    for (name, size) in thousand(&disk) {
        // One bit of every byte that stands in a header, and of every fifth other byte; `scan` tests all bits of all bytes.
        let places = (0..size).filter(|at| at % 4096 < 130 || at % 5 == 0);
        for at in places {
            let bit = (at % 8) as u8;
            let damaged = disk.fork();
            assert!(damaged.flip_bit(&name, at, bit));
            let what = format!("{name} byte {at} bit {bit}");
            match refused_or_whole(&damaged, &what) {
                None => refused += 1,
                Some(recovery) => {
                    assert!(
                        recovery.repaired.is_some() || !recovery.findings.is_empty(),
                        "{what} went unnoticed"
                    );
                    reported += 1;
                }
            }
        }
    }
    assert!(
        refused > 5_000 && reported > 1_000,
        "{refused} refused, {reported} reported"
    );
}

#[test]
fn a_file_cut_to_any_length_is_refused_or_gives_all_records() {
    let disk = FaultyDisk::new(2);
    let files = thousand(&disk);
    let segments = files
        .keys()
        .filter(|name| name.starts_with("journal-"))
        .count();
    assert!(segments >= 4, "{segments} segments");
    for (name, size) in files {
        for length in 0..size {
            let damaged = disk.fork();
            damaged.tamper(&name, |bytes| bytes.truncate(length));
            let recovery = refused_or_whole(&damaged, &format!("{name} cut to {length} bytes"));
            assert_eq!(
                recovery.is_some(),
                name == "watermark",
                "{name} cut to {length} bytes"
            );
        }
    }
}

#[test]
fn in_a_batch_that_was_never_acknowledged_a_flipped_bit_costs_that_batch_alone() {
    let disk = FaultyDisk::new(3);
    let (mut journal, _) = Journal::open(disk.clone(), TINY).unwrap();
    for _ in 0..4 {
        append(&mut journal, 50).unwrap();
    }
    disk.fail_all(Call::Sync, Some(ErrorKind::Other));
    append(&mut journal, 50).unwrap_err();
    drop(journal);
    disk.restart_process();
    assert_eq!(
        check_history(&open(&disk.fork()).unwrap()),
        250,
        "the batch is there, though nobody was told"
    );
    let (last, _) = disk
        .files()
        .into_iter()
        .rfind(|(name, _)| name.starts_with("journal-"))
        .unwrap();
    let start = 2 * 4096;
    let mut cut = 0;
    for at in start..start + 2_200 {
        let damaged = disk.fork();
        damaged.flip_bit(&last, at, (at % 8) as u8);
        let recovery = open(&damaged).unwrap_or_else(|error| panic!("byte {at}: {error}"));
        let tail = recovery
            .repaired
            .as_ref()
            .unwrap_or_else(|| panic!("byte {at} went unnoticed"));
        assert_eq!(
            (tail.file.as_str(), tail.offset, tail.batch),
            (format!("simulated/{last}").as_str(), start as u64, 5)
        );
        assert_eq!(check_history(&recovery), 200);
        assert_eq!(
            check_history(&open(&damaged).unwrap()),
            200,
            "the cut is durable"
        );
        cut += 1;
    }
    assert_eq!(cut, 2_200);
}

#[test]
fn a_damaged_batch_with_a_whole_one_behind_it_is_never_cut_even_without_a_watermark() {
    let disk = FaultyDisk::new(4);
    let (mut journal, _) = Journal::open(disk.clone(), SMALL).unwrap();
    for _ in 0..6 {
        append(&mut journal, 2).unwrap();
    }
    drop(journal);
    let name = "journal-0000000000000001.log";
    for batch in 0..5 {
        for watermark in [true, false] {
            let damaged = disk.fork();
            // The length field is part of the damage: the search must not trust it.
            damaged.tamper(name, |bytes| {
                bytes[4096 * (batch + 1) + 48..][..4].fill(0xff)
            });
            if !watermark {
                damaged.lose("watermark");
            }
            let error = Journal::open(damaged, SMALL).unwrap_err();
            let OpenError::Damaged { file, offset, what } = &error else {
                panic!("{error}")
            };
            assert_eq!(
                (file.as_str(), *offset),
                (
                    format!("simulated/{name}").as_str(),
                    4096 * (batch as u64 + 1)
                )
            );
            assert!(
                what.contains(&format!(
                    "the header of batch {} stands at byte {}",
                    batch + 2,
                    4096 * (batch + 2)
                )),
                "{what}"
            );
        }
    }
}

#[test]
fn a_damaged_last_batch_is_refused_because_the_watermark_knows_that_it_was_acknowledged() {
    let disk = FaultyDisk::new(5);
    thousand(&disk);
    let (last, bytes) = disk
        .files()
        .into_iter()
        .rfind(|(name, _)| name.starts_with("journal-"))
        .unwrap();
    let image = disk.read(&last).unwrap();
    let tail = image.iter().rposition(|byte| *byte != 0).unwrap();
    assert!(tail < bytes);
    let damaged = disk.fork();
    damaged.flip_bit(&last, tail, 0);
    let text = open(&damaged).unwrap_err().to_string();
    assert!(
        text.contains("watermark says that batch") && text.contains("is damaged at byte"),
        "{text}"
    );
    let gone = disk.fork();
    gone.tamper(&last, |bytes| bytes[4096..].fill(0));
    let text = open(&gone).unwrap_err().to_string();
    assert!(text.contains("durable records are missing"), "{text}");
}

#[test]
fn a_watermark_behind_the_journal_is_raised_and_one_ahead_refuses() {
    let disk = FaultyDisk::new(6);
    let (mut journal, _) = Journal::open(disk.clone(), TINY).unwrap();
    append(&mut journal, 5).unwrap();
    let old = disk.read("watermark").unwrap();
    let short = disk.read("journal-0000000000000001.log").unwrap();
    append(&mut journal, 5).unwrap();
    journal.close().unwrap();

    let behind = disk.fork();
    behind.tamper("watermark", |bytes| *bytes = old.clone());
    assert_eq!(check_history(&open(&behind).unwrap()), 10);
    assert_eq!(check_history(&open(&behind).unwrap()), 10);

    let ahead = disk.fork();
    ahead.tamper("journal-0000000000000001.log", |bytes| {
        *bytes = short.clone()
    });
    let error = open(&ahead).unwrap_err();
    let OpenError::TooShort {
        found,
        acknowledged,
        ..
    } = &error
    else {
        panic!("{error}")
    };
    assert_eq!(
        (found.as_str(), acknowledged.as_str()),
        ("batch 1", "batch 2")
    );
    assert_eq!(
        ahead.read("journal-0000000000000001.log").unwrap(),
        short,
        "nothing was changed"
    );
}

#[test]
fn a_lost_watermark_is_rebuilt_when_the_journal_ends_cleanly_and_refused_when_it_does_not() {
    let disk = FaultyDisk::new(7);
    thousand(&disk);
    let clean = disk.fork();
    clean.lose("watermark");
    let recovery = open(&clean).unwrap();
    assert_eq!(
        (check_history(&recovery), recovery.findings),
        (1_000, vec![Finding::WatermarkRebuilt])
    );
    assert!(
        open(&clean).unwrap().findings.is_empty(),
        "it is there again"
    );

    let (last, _) = disk
        .files()
        .into_iter()
        .rfind(|(name, _)| name.starts_with("journal-"))
        .unwrap();
    for lose in [true, false] {
        let torn = disk.fork();
        torn.tamper(&last, |bytes| {
            let tail = bytes.iter().rposition(|byte| *byte != 0).unwrap();
            bytes[tail] ^= 1;
        });
        if lose {
            torn.lose("watermark");
        } else {
            torn.tamper("watermark", |bytes| bytes.fill(7));
        }
        let text = open(&torn).unwrap_err().to_string();
        assert!(text.contains("that may have been acknowledged"), "{text}");
    }
}

#[test]
fn missing_files_are_named() {
    let disk = FaultyDisk::new(8);
    let files = thousand(&disk);
    let segments: Vec<_> = files
        .keys()
        .filter(|name| name.starts_with("journal-"))
        .cloned()
        .collect();
    for name in &segments {
        let damaged = disk.fork();
        damaged.lose(name);
        let text = open(&damaged).unwrap_err().to_string();
        let last = name == segments.last().unwrap();
        assert!(
            last && text.contains("durable records are missing")
                || text.contains(&format!("{name} is missing")),
            "{name}: {text}"
        );
    }
    let damaged = disk.fork();
    for name in &segments {
        damaged.lose(name);
    }
    let text = open(&damaged).unwrap_err().to_string();
    assert!(
        text.contains("watermark is there and no segment is"),
        "{text}"
    );
}

#[test]
fn segments_of_another_journal_or_under_another_name_are_refused() {
    let (disk, other) = (FaultyDisk::new(9), FaultyDisk::new(10));
    thousand(&disk);
    thousand(&other);
    let second = "journal-0000000000000002.log";
    let foreign = other.read(second).unwrap();
    let mixed = disk.fork();
    mixed.tamper(second, |bytes| *bytes = foreign);
    let text = open(&mixed).unwrap_err().to_string();
    assert!(text.contains("belongs to another journal"), "{text}");

    let renamed = disk.fork();
    let third = disk.read("journal-0000000000000003.log").unwrap();
    renamed.tamper(second, |bytes| *bytes = third);
    let text = open(&renamed).unwrap_err().to_string();
    assert!(
        text.contains("it is segment 3 under the name of segment 2"),
        "{text}"
    );
}

#[test]
fn a_damaged_newest_snapshot_falls_back_to_the_one_before_and_two_damaged_ones_refuse() {
    let disk = FaultyDisk::new(11);
    let (mut journal, _) = Journal::open(disk.clone(), TINY).unwrap();
    let mut covered = Vec::new();
    for _ in 0..3 {
        for _ in 0..10 {
            append(&mut journal, 30).unwrap();
        }
        let position = journal.position();
        journal
            .snapshots()
            .take(position, &state(position.sequence.0))
            .unwrap();
        covered.push(position.sequence.0);
    }
    append(&mut journal, 1).unwrap();
    journal.close().unwrap();
    let names: Vec<_> = disk
        .files()
        .into_iter()
        .filter(|(name, _)| name.starts_with("snapshot-"))
        .collect();
    assert_eq!(names.len(), 2, "two are kept: {names:?}");
    let (newest, size) = names[1].clone();
    for at in 0..size {
        for length in [None, Some(at)] {
            let damaged = disk.fork();
            match length {
                None => assert!(damaged.flip_bit(&newest, at, (at % 8) as u8)),
                Some(length) => assert!(damaged.tamper(&newest, |bytes| bytes.truncate(length))),
            }
            let recovery = open(&damaged).unwrap_or_else(|error| panic!("byte {at}: {error}"));
            assert_eq!(check_history(&recovery), 901);
            assert_eq!(recovery.snapshot.unwrap().covers.sequence.0, covered[1]);
            assert!(matches!(
                &recovery.findings[..],
                [Finding::SnapshotDamaged { .. }]
            ));
        }
    }
    let damaged = disk.fork();
    for (name, _) in &names {
        damaged.flip_bit(name, 100, 3);
    }
    let text = open(&damaged).unwrap_err().to_string();
    assert!(
        text.contains("no whole snapshot reaches that far") && text.contains("is damaged"),
        "{text}"
    );
}

#[test]
fn the_next_snapshot_removes_a_damaged_one_and_needs_no_segment_before_the_older_kept() {
    let disk = FaultyDisk::new(12);
    let (mut journal, _) = Journal::open(disk.clone(), TINY).unwrap();
    for _ in 0..2 {
        for _ in 0..10 {
            append(&mut journal, 30).unwrap();
        }
        journal
            .snapshots()
            .take(journal.position(), &state(journal.position().sequence.0))
            .unwrap();
    }
    drop(journal);
    let damaged = "snapshot-00000000000000000600.bin";
    assert!(disk.flip_bit(damaged, 40, 1));
    let (mut journal, recovery) = Journal::open(disk.clone(), TINY).unwrap();
    assert_eq!(recovery.snapshot.as_ref().unwrap().covers.sequence.0, 300);
    for _ in 0..10 {
        append(&mut journal, 30).unwrap();
    }
    journal
        .snapshots()
        .take(journal.position(), &state(900))
        .unwrap();
    assert!(!disk.files().iter().any(|(name, _)| name == damaged));
    drop(journal);
    let newest = disk.fork();
    newest.lose("snapshot-00000000000000000900.bin");
    assert_eq!(
        check_history(&open(&newest).unwrap()),
        900,
        "the older one still has all segments it needs"
    );
    assert_eq!(check_history(&open(&disk).unwrap()), 900);
}

#[test]
fn a_format_version_from_the_future_is_refused_by_its_number_and_nothing_is_changed() {
    let disk = FaultyDisk::new(13);
    thousand(&disk);
    let name = "journal-0000000000000001.log";
    disk.tamper(name, |bytes| {
        // The header as a later version would write it: same place and same kind of checksum.
        bytes[24..26].copy_from_slice(&2u16.to_le_bytes());
        let id: [u8; 16] = bytes[26..42].try_into().unwrap();
        let key = blake3::derive_key("stoa store journal hashes v1", &id);
        let sealed = [&bytes[..8], &bytes[24..114]].concat();
        let checksum = blake3::keyed_hash(&key, &sealed);
        bytes[8..24].copy_from_slice(&checksum.as_bytes()[..16]);
    });
    let before = disk.files();
    let error = open(&disk).unwrap_err();
    assert!(
        matches!(error, OpenError::Version { found: 2, .. }),
        "{error}"
    );
    assert!(
        error
            .to_string()
            .contains("this program reads versions 1 to 1"),
        "{error}"
    );
    assert_eq!(disk.files(), before);
}

#[test]
fn the_files_of_format_version_1_are_byte_for_byte_what_they_were() {
    let disk = FaultyDisk::new(14);
    let (mut journal, _) = Journal::open(disk.clone(), TINY).unwrap();
    for size in [3, 1, 60, 7] {
        append(&mut journal, size).unwrap();
    }
    journal
        .snapshots()
        .take(journal.position(), &state(71))
        .unwrap();
    append(&mut journal, 2).unwrap();
    journal.close().unwrap();
    let mut hasher = blake3::Hasher::new();
    for (name, _) in disk.files() {
        hasher.update(name.as_bytes());
        hasher.update(&disk.read(&name).unwrap());
    }
    // A change here means that journals in the field can no longer be read: raise FORMAT_VERSION and keep reading this one.
    assert_eq!(
        hasher.finalize().to_hex().as_str(),
        "9b7c5ace27a37a53501623ce173104753d39cf03d0d64a3e9f823a6b2c57c371"
    );
}

#[test]
fn a_record_cannot_forge_a_batch_header() {
    // A payload that is the copy of a later batch, block-aligned in a torn tail, must not pass for acknowledged data.
    let disk = FaultyDisk::new(15);
    let other = FaultyDisk::new(16);
    thousand(&other);
    let foreign = other.read("journal-0000000000000001.log").unwrap()[4096..8192].to_vec();
    let (mut journal, _) = Journal::open(disk.clone(), SMALL).unwrap();
    append(&mut journal, 2).unwrap();
    disk.fail_all(Call::Sync, Some(ErrorKind::Other));
    let payload = foreign.repeat(3);
    let shift = 4096 - 104 - 16;
    let padded = [vec![1; shift], payload].concat();
    journal
        .append_batch(&[stoa_store::NewRecord {
            kind: 9,
            version: 1,
            payload: &padded,
        }])
        .unwrap_err();
    drop(journal);
    disk.restart_process();
    disk.tamper("journal-0000000000000001.log", |bytes| {
        bytes[2 * 4096 + 200] ^= 4
    });
    disk.power_cycle(0, PowerCut::KeepAll);
    let (_, recovery) = Journal::open(disk, SMALL).unwrap();
    assert_eq!(check_history(&recovery), 2);
    assert!(recovery.repaired.is_some());
}

#[test]
fn a_last_batch_that_landed_elsewhere_is_never_cut_even_with_an_old_watermark() {
    let disk = FaultyDisk::new(8);
    let (mut journal, _) = Journal::open(disk.clone(), SMALL).unwrap();
    append(&mut journal, 2).unwrap();
    let old = disk.read("watermark").unwrap();
    append(&mut journal, 2).unwrap();
    drop(journal);
    disk.restart_process();
    let name = "journal-0000000000000001.log";
    assert!(disk.tamper("watermark", |bytes| bytes.copy_from_slice(&old)));
    assert_eq!(check_history(&open(&disk.fork()).unwrap()), 4);
    assert!(disk.tamper(name, |bytes| {
        bytes.copy_within(2 * 4096..3 * 4096, 3 * 4096);
        bytes[2 * 4096..3 * 4096].fill(0);
    }));
    let error = Journal::open(disk, SMALL).unwrap_err().to_string();
    assert!(
        error.contains("the header of batch 2 stands at byte 12288"),
        "{error}"
    );
}
