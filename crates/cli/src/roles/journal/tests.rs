//! The router's book over a disk that fails, loses power, fills up and forgets.

mod crash;
mod threads;
mod workload;

use super::{JournalOptions, Owner};
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
