//! Who may stand between first packet and admission: so many in all, so many from one address, and under load only who has proved its
//! address. A forged source address then costs a packet and keeps no place, neither its own nor that of whom it pretends to be.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Places in all at the door of handshakes.
const PLACES: usize = 256;
/// Places of one address there.
const PLACES_PER_SOURCE: usize = 32;
/// Of each of these bounds, the part that may be taken without proof of the address.
const UNPROVED_PART: usize = 8;

/// Places at the door. Clones are the same door.
#[derive(Debug, Clone)]
pub(crate) struct Door {
    places: usize,
    per_source: usize,
    inside: Arc<Mutex<Inside>>,
}

impl Default for Door {
    /// The door of handshakes.
    fn default() -> Self {
        Self::of(PLACES, PLACES_PER_SOURCE)
    }
}

#[derive(Debug, Default)]
struct Inside {
    all: usize,
    from: BTreeMap<IpAddr, usize>,
}

/// What to do with a connection that knocks.
#[derive(Debug)]
pub(crate) enum Answer {
    /// Go on; the place is free again when this is dropped.
    Enter(Place),
    /// Ask for proof that packets to its address reach it.
    Prove,
    /// Turn it away.
    Full,
}

/// A place at the door.
#[derive(Debug)]
pub(crate) struct Place {
    door: Door,
    source: Option<IpAddr>,
}

impl Door {
    /// So many places in all, and for one address.
    pub(crate) fn of(places: usize, per_source: usize) -> Self {
        Self {
            places,
            per_source,
            inside: Arc::default(),
        }
    }

    /// Answers a connection from `source`, which is `None` where it comes from no address of the internet.
    pub(crate) fn knock(&self, source: Option<IpAddr>, proved: bool) -> Answer {
        let source = source.map(network_of);
        let mut inside = self.inside();
        let same = source.and_then(|source| inside.from.get(&source));
        let same = same.copied().unwrap_or(0);
        if proved && (inside.all >= self.places || same >= self.per_source) {
            return Answer::Full;
        }
        if !proved
            && (inside.all >= self.places / UNPROVED_PART
                || same >= self.per_source / UNPROVED_PART)
        {
            return Answer::Prove;
        }
        inside.all += 1;
        if let Some(source) = source {
            inside.from.insert(source, same + 1);
        }
        Answer::Enter(Place {
            door: self.clone(),
            source,
        })
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        // Two counts, changed together without a call in between that could panic.
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inside = self.door.inside();
        inside.all = inside.all.saturating_sub(1);
        let Some(source) = self.source else { return };
        let left = inside
            .from
            .get(&source)
            .map_or(0, |count| count.saturating_sub(1));
        if left == 0 {
            inside.from.remove(&source);
        } else {
            inside.from.insert(source, left);
        }
    }
}

/// One customer of a network: an IPv4 address, or the 64-bit prefix that is given to one IPv6 site.
fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().expect("address"))
    }

    fn enter(door: &Door, source: Option<IpAddr>, proved: bool) -> Option<Place> {
        match door.knock(source, proved) {
            Answer::Enter(place) => Some(place),
            _ => None,
        }
    }

    #[test]
    fn one_address_gets_its_share_and_others_still_get_theirs() {
        let door = Door::default();
        let mut places: Vec<_> = (0..PLACES_PER_SOURCE)
            .map(|_| enter(&door, ip("192.0.2.1"), true).expect("room"))
            .collect();
        assert!(matches!(door.knock(ip("192.0.2.1"), true), Answer::Full));
        assert!(matches!(
            door.knock(ip("::ffff:192.0.2.1"), true),
            Answer::Full
        ));
        assert!(enter(&door, ip("192.0.2.2"), true).is_some());
        places.pop();
        assert!(enter(&door, ip("192.0.2.1"), true).is_some());
        drop(places);
        assert!(door.inside().from.is_empty());
        assert_eq!(door.inside().all, 0);
    }

    #[test]
    fn an_ipv6_site_counts_as_one_address() {
        let door = Door::default();
        let _places: Vec<_> = (0..PLACES_PER_SOURCE)
            .map(|i| enter(&door, ip(&format!("2001:db8::{i:x}")), true).expect("room"))
            .collect();
        assert!(matches!(
            door.knock(ip("2001:db8::ffff:1"), true),
            Answer::Full
        ));
        assert!(enter(&door, ip("2001:db8:0:1::1"), true).is_some());
    }

    #[test]
    fn forged_addresses_never_take_the_places_of_proved_ones() {
        let door = Door::default();
        // As many as may be without proof, in the name of an honest provider and of others.
        let mut forged = Vec::new();
        for i in 0..PLACES {
            forged.extend(enter(&door, ip("192.0.2.1"), false));
            forged.extend(enter(&door, ip(&format!("198.51.100.{}", i % 200)), false));
        }
        assert_eq!(forged.len(), PLACES / UNPROVED_PART);
        assert!(matches!(door.knock(ip("192.0.2.1"), false), Answer::Prove));
        assert!(matches!(door.knock(None, false), Answer::Prove));
        let honest: Vec<_> = (0..8)
            .filter_map(|_| enter(&door, ip("192.0.2.1"), true))
            .collect();
        assert_eq!(honest.len(), 8);
    }

    #[test]
    fn the_whole_door_has_an_end_too() {
        let door = Door::default();
        let places: Vec<_> = (0..2 * PLACES)
            .filter_map(|i| enter(&door, ip(&format!("10.0.{}.{}", i / 256, i % 256)), true))
            .collect();
        assert_eq!(places.len(), PLACES);
        assert!(matches!(door.knock(None, true), Answer::Full));
    }
}
