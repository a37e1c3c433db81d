//! The router's book over a disk that fails, loses power, fills up and forgets.

mod crash;
mod start;
mod threads;
mod workload;

use super::fold::{self, Fold};
use super::{Disk, JournalOptions, OpenJournal, Owner};
use stoa_types::Address;
use workload::DOMAIN;

/// So small that a workload goes through dozens of segments.
const SMALL: JournalOptions = JournalOptions {
    segment_bytes: 64 << 10,
};

fn owner(router: Address) -> Owner {
    Owner {
        domain: DOMAIN,
        router,
    }
}

/// The book that an open journal holds.
fn fold<D: Disk>(opened: &OpenJournal<D>) -> Fold {
    fold::rebuild(&opened.recovery, opened.owner)
        .expect("folds")
        .0
}

/// Entries in it that are in no snapshot.
fn unsaved<D: Disk>(opened: &OpenJournal<D>) -> u64 {
    fold::rebuild(&opened.recovery, opened.owner)
        .expect("folds")
        .1
}
