//! How often somebody who has shown no credential may try to get one: a bucket for each address of a network, in bounded memory.

use crate::error::ApiError;
use crate::rates::Bucket;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Tries of one address in a minute.
const PER_MINUTE: u64 = 30;
/// Addresses with a bucket of their own; all others share one.
const ADDRESSES_MAX: usize = 1_024;

/// The counters of one server.
#[derive(Debug, Default)]
pub(crate) struct Strangers(Mutex<HashMap<IpAddr, (Bucket, Instant)>>);

/// The network that an address stands for: whoever has one address of version 6 has 2^64 of them.
fn network(address: Option<IpAddr>) -> IpAddr {
    match address.map(|address| address.to_canonical()) {
        Some(IpAddr::V6(address)) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        Some(address) => address,
        None => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    }
}

impl Strangers {
    /// Takes one try, or says when there is one again.
    pub(crate) fn take(&self, address: Option<IpAddr>) -> Result<(), ApiError> {
        self.take_at(address, Instant::now())
    }

    fn take_at(&self, address: Option<IpAddr>, now: Instant) -> Result<(), ApiError> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut whose = network(address);
        if !known.contains_key(&whose) && known.len() >= ADDRESSES_MAX {
            known.retain(|_, (bucket, at)| {
                refill(bucket, at, now);
                !bucket.is_full()
            });
            if known.len() >= ADDRESSES_MAX {
                whose = network(None);
            }
        }
        let (bucket, at) = known
            .entry(whose)
            .or_insert_with(|| (Bucket::full(PER_MINUTE), now));
        refill(bucket, at, now);
        bucket.take(1).map_err(|retry_ms| ApiError::RateLimited {
            what: "sign-ins",
            limit: PER_MINUTE,
            retry_ms,
        })
    }
}

fn refill(bucket: &mut Bucket, at: &mut Instant, now: Instant) {
    let passed = now.saturating_duration_since(*at).as_millis();
    let ms = u64::try_from(passed).unwrap_or(u64::MAX);
    *at += std::time::Duration::from_millis(ms);
    bucket.refill(ms);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn address(n: u16) -> Option<IpAddr> {
        Some(IpAddr::V6(Ipv6Addr::new(0x2001, n, 0, 0, 9, 9, 9, 9)))
    }

    #[test]
    fn each_network_has_its_tries_and_gets_them_back() {
        let (strangers, now) = (Strangers::default(), Instant::now());
        for n in 0..PER_MINUTE {
            let other = Ipv6Addr::new(0x2001, 1, 0, 0, 0, 0, 0, n as u16);
            assert!(strangers.take_at(Some(IpAddr::V6(other)), now).is_ok());
        }
        let refused = strangers.take_at(address(1), now);
        let Err(ApiError::RateLimited { retry_ms, .. }) = refused else {
            panic!("{refused:?}");
        };
        assert!(strangers.take_at(address(2), now).is_ok());
        let later = now + Duration::from_millis(retry_ms);
        assert!(strangers.take_at(address(1), later).is_ok());
        assert!(strangers.take_at(address(1), later).is_err());
    }

    #[test]
    fn a_flood_from_everywhere_is_bounded_in_memory_and_in_tries() {
        let (strangers, now) = (Strangers::default(), Instant::now());
        let tried = (0..5_000).map(|n| strangers.take_at(address(n), now));
        let let_in = tried.filter(Result::is_ok).count();
        assert_eq!(let_in, ADDRESSES_MAX + PER_MINUTE as usize);
        assert!(strangers.0.lock().expect("sound").len() <= ADDRESSES_MAX + 1);
        let later = now + Duration::from_secs(60);
        assert!(strangers.take_at(address(4_999), later).is_ok());
        assert!(strangers.0.lock().expect("sound").len() <= 2);
    }
}
