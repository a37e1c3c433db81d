//! Every single bit of a 1,000-record journal, and arbitrary bytes, against the code that reads segments.

use proptest::prelude::*;

use crate::disk::Disk;
use crate::faulty::FaultyDisk;
use crate::format::{BLOCK, NewRecord, Sealer, SegmentHeader, Slot, Tip, blocks};
use crate::journal::{Journal, JournalOptions};
use crate::scan::{Records, Scanner, Stop};
use crate::watermark::{Found, Watermark};

const TINY: JournalOptions = JournalOptions {
    segment_bytes: 16 << 10,
};

/// Records of some 10 bytes in batches that fill their blocks.
fn thousand() -> FaultyDisk {
    let disk = FaultyDisk::new(1);
    let (mut journal, _) = Journal::open(disk.clone(), TINY).unwrap();
    let mut next = 1u64;
    while next <= 1_000 {
        let count = [94, 1, 60, 93][next as usize % 4].min(1_001 - next);
        let payloads: Vec<_> = (next..next + count)
            .map(|number| number.to_le_bytes().repeat(2)[..5 + number as usize % 11].to_vec())
            .collect();
        let records: Vec<_> = payloads
            .iter()
            .map(|payload| NewRecord {
                kind: 1,
                version: 1,
                payload,
            })
            .collect();
        journal.append_batch(&records).unwrap();
        next += count;
    }
    journal.close().unwrap();
    disk
}

/// A batch, and what was read before and with it.
struct Place {
    at: usize,
    before: Tip,
    length: usize,
    records: Records,
}

/// The batches of an undamaged segment and the tip behind them.
fn places(scanner: &mut Scanner, segment: u64, bytes: &[u8]) -> Vec<Place> {
    let mut places = Vec::new();
    let mut at = BLOCK;
    while let Ok(length) = {
        let before = scanner.tip;
        scanner.records = Records::default();
        let read = scanner.batch(segment, &bytes[at.min(bytes.len())..]);
        read.inspect(|length| {
            places.push(Place {
                at,
                before,
                length: *length,
                records: scanner.records.clone(),
            });
        })
    } {
        at += blocks(length as u64) as usize;
    }
    places
}

/// Reads a segment from one batch on. All before it is the same bytes as in the undamaged segment and reads the same.
fn read_from(undamaged: &Scanner, place: &Place, segment: u64, bytes: &[u8]) -> (Scanner, Stop) {
    let mut scanner = Scanner::new(undamaged.sealer.clone(), place.before, 0, u64::MAX);
    let stop = scanner.segment(segment, bytes, place.at);
    (scanner, stop)
}

/// Flips each bit of the block-aligned room of one batch.
fn flip_each_bit(
    undamaged: &Scanner,
    places: &[Place],
    index: usize,
    segment: u64,
    bytes: &mut [u8],
) -> usize {
    let place = &places[index];
    let room = place.at..(place.at + blocks(place.length as u64) as usize);
    let mut flips = 0;
    for bit in room
        .clone()
        .flat_map(|at| (0..8).map(move |bit| (at, 1u8 << bit)))
    {
        bytes[bit.0] ^= bit.1;
        let (scanner, stop) = read_from(undamaged, place, segment, bytes);
        bytes[bit.0] ^= bit.1;
        flips += 1;
        if bit.0 < place.at + place.length {
            let Stop::Bad {
                offset, follows, ..
            } = stop
            else {
                panic!("segment {segment}: {bit:?} was read over")
            };
            assert_eq!((offset, scanner.tip), (place.at, place.before), "{bit:?}");
            assert!(scanner.records.is_empty(), "{bit:?} gave records");
            let next = places
                .get(index + 1)
                .map(|next| (next.at, next.before.batch + 1));
            assert_eq!(
                follows, next,
                "{bit:?}: a whole batch behind a damaged one is found"
            );
        } else {
            assert_eq!(scanner.tip, undamaged.tip, "{bit:?}");
            assert_eq!(scanner.strays, [bit.0], "{bit:?} is reported");
            let start: Records = scanner.records;
            assert!(
                start
                    .iter()
                    .zip(place.records.iter())
                    .all(|(read, written)| read == written)
            );
        }
    }
    flips
}

#[test]
fn each_flipped_bit_of_a_thousand_records_is_noticed_and_stops_the_reading_at_its_batch() {
    let disk = thousand();
    let (mut flips, mut records) = (0, 0);
    let mut scanner: Option<Scanner> = None;
    for segment in 1.. {
        let Ok(mut bytes) = disk.read(&crate::segment::segment_name(segment)) else {
            break;
        };
        let (sealer, header) = SegmentHeader::decode(&bytes).unwrap();
        let scanner =
            scanner.get_or_insert_with(|| Scanner::new(sealer.clone(), header.before, 0, u64::MAX));
        let sealed = BLOCK - SegmentHeader::padding(&bytes).len();
        for (at, bit) in (0..sealed).flat_map(|at| (0..8).map(move |bit| (at, 1u8 << bit))) {
            bytes[at] ^= bit;
            assert!(
                SegmentHeader::decode(&bytes).is_none(),
                "header byte {at}, {bit}"
            );
            bytes[at] ^= bit;
            flips += 1;
        }
        let places = places(scanner, segment, &bytes);
        records += places
            .iter()
            .map(|place| place.records.len())
            .sum::<usize>();
        for index in 0..places.len() {
            flips += flip_each_bit(scanner, &places, index, segment, &mut bytes);
        }
    }
    assert_eq!(records, 1_000);
    assert!(flips > 300_000, "{flips} flips");
}

#[test]
fn each_flipped_bit_of_a_watermark_slot_makes_the_slot_invalid() {
    let disk = thousand();
    let (sealer, _) =
        SegmentHeader::decode(&disk.read(&crate::segment::segment_name(1)).unwrap()).unwrap();
    let mut block = disk.read("watermark").unwrap()[..BLOCK].to_vec();
    assert!(
        Slot::decode(&sealer, "watermark", &block)
            .unwrap()
            .is_some()
    );
    for (at, bit) in (0..BLOCK).flat_map(|at| (0..8).map(move |bit| (at, 1u8 << bit))) {
        block[at] ^= bit;
        assert_eq!(
            Slot::decode(&sealer, "watermark", &block).unwrap(),
            None,
            "byte {at}"
        );
        block[at] ^= bit;
    }
}

#[test]
fn a_power_cut_that_tears_either_slot_of_the_watermark_leaves_a_witness_that_is_not_old() {
    let disk = FaultyDisk::new(1);
    let sealer = Sealer::new([3; 16]);
    let value = |batch| Slot {
        batch,
        batch_hash: sealer.hash(b"any"),
        record: batch,
    };
    let mut watermark = Watermark::create(&disk, &sealer, value(0)).unwrap();
    for batch in 1..=1_000u64 {
        watermark.write(&sealer, value(batch)).unwrap();
        let found = Found::read(&disk, &sealer, true).unwrap();
        assert_eq!(found.newest().unwrap().1.batch, batch);
        for slot in found.slots {
            // One slot is written between two syncs of the file, 256 batches apart, and the other one in the 256 before.
            let behind = batch - slot.expect("whole").batch;
            assert!(behind <= 256, "at batch {batch} a slot is {behind} behind");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_over_a_segment_never_give_a_record_that_was_not_written(
        at in 0..(3 * BLOCK), garbage in proptest::collection::vec(any::<u8>(), 1..300),
    ) {
        let disk = thousand();
        let name = crate::segment::segment_name(2);
        let undamaged = disk.read(&name).unwrap();
        disk.tamper(&name, |bytes| bytes[at..at + garbage.len()].copy_from_slice(&garbage));
        let changed = disk.read(&name).unwrap() != undamaged;
        match Journal::open(disk, TINY) {
            Ok((_, recovery)) => {
                prop_assert_eq!(recovery.records.len(), 1_000);
                for record in recovery.records.iter() {
                    let number = record.sequence.0;
                    prop_assert_eq!(record.payload, &number.to_le_bytes().repeat(2)[..5 + number as usize % 11]);
                }
                prop_assert!(!changed || !recovery.findings.is_empty());
            }
            Err(error) => prop_assert!(changed, "{}", error),
        }
    }

    #[test]
    fn records_of_any_size_and_kind_come_back_as_they_were(
        batches in proptest::collection::vec(
            proptest::collection::vec((any::<u16>(), any::<u16>(), proptest::collection::vec(any::<u8>(), 0..600)), 1..12), 1..12),
    ) {
        let disk = FaultyDisk::new(9);
        let (mut journal, _) = Journal::open(disk.clone(), TINY).unwrap();
        for batch in &batches {
            let records: Vec<_> = batch.iter().map(|(kind, version, payload)| NewRecord { kind: *kind, version: *version, payload }).collect();
            journal.append_batch(&records).unwrap();
        }
        drop(journal);
        disk.power_cycle(0, crate::faulty::PowerCut::LoseAll);
        let (_, recovery) = Journal::open(disk, TINY).unwrap();
        let read: Vec<_> = recovery.records.iter().map(|record| (record.kind, record.version, record.payload.to_vec())).collect();
        prop_assert_eq!(read, batches.concat());
    }
}
