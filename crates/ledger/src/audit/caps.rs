//! What developers allotted to a router, as far as payout roots are measured by it.

use std::collections::BTreeMap;
use std::sync::Arc;
use stoa_types::{Address, TokenAmount};

/// Rising caps, each with the posts that the router had when it came.
type Steps = Vec<(u64, TokenAmount)>;
/// By developer and generation.
type Part = BTreeMap<(Address, u32), Steps>;

/// The caps that each allotment to one router ever had, and how many posts the router had when it got them. They are kept for good: lifetime
/// totals hold the debits of every generation. Anybody may allot to anybody: a cap of nothing is not kept, and copies share all but the part
/// that a new allotment falls in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Caps {
    /// By the last byte of the developer.
    rising: BTreeMap<u8, Arc<Part>>,
}

const fn part_of(allotment: &(Address, u32)) -> u8 {
    allotment.0.0[19]
}

impl Caps {
    /// An allotment got a cap when the router had so many posts. What it had before its first `settled` posts becomes one: no root
    /// of those is measured any more.
    pub fn raise(&mut self, allotment: (Address, u32), posts: u64, cap: TokenAmount, settled: u64) {
        if cap.is_zero() {
            return; // No allotment says the same.
        }
        let part = self.rising.entry(part_of(&allotment)).or_default();
        let steps = Arc::make_mut(part).entry(allotment).or_default();
        if steps.last().is_some_and(|(_, highest)| *highest >= cap) {
            return;
        }
        let old = steps.partition_point(|(posts, _)| *posts <= settled);
        steps.drain(..old.saturating_sub(1));
        steps.push((posts, cap));
    }

    /// The highest cap that an allotment had before a post.
    pub fn before(&self, allotment: (Address, u32), post: u64) -> TokenAmount {
        let part = self.rising.get(&part_of(&allotment));
        let steps = part.and_then(|part| part.get(&allotment));
        let steps = steps.map_or(&[][..], Vec::as_slice);
        let known = steps.partition_point(|(posts, _)| *posts < post);
        let highest = known.checked_sub(1).and_then(|at| steps.get(at));
        highest.map_or(TokenAmount::ZERO, |(_, cap)| *cap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALLOTMENT: (Address, u32) = (Address([1; 20]), 1);

    fn units(units: u128) -> TokenAmount {
        TokenAmount::from_units(units)
    }

    #[test]
    fn a_cap_counts_for_the_posts_after_it_and_the_highest_one_for_good() {
        let mut caps = Caps::default();
        caps.raise(ALLOTMENT, 2, units(10), 0);
        caps.raise(ALLOTMENT, 4, units(30), 0);
        caps.raise(ALLOTMENT, 4, units(40), 0);
        // A generation's cap never falls; what says so is not believed.
        caps.raise(ALLOTMENT, 5, units(20), 0);
        let before = |post| caps.before(ALLOTMENT, post).units();
        assert_eq!(
            [1, 2, 3, 4, 5, 6, 100].map(before),
            [0, 0, 10, 10, 40, 40, 40]
        );
        assert_eq!(caps.before((ALLOTMENT.0, 2), 100), units(0));
        assert_eq!(caps.before((Address([2; 20]), 1), 100), units(0));
    }

    #[test]
    fn what_no_root_is_measured_by_any_more_takes_no_room() {
        let mut caps = Caps::default();
        for posts in 0..100 {
            let cap = units(u128::from(posts) + 1);
            caps.raise(ALLOTMENT, posts, cap, posts.saturating_sub(3));
        }
        assert!(caps.rising[&1][&ALLOTMENT].len() <= 6);
        let before = |post| caps.before(ALLOTMENT, post).units();
        assert_eq!([97, 98, 99, 100].map(before), [97, 98, 99, 100]);
    }

    #[test]
    fn allotments_of_nothing_take_no_room_and_a_copy_shares_what_others_do_not_touch() {
        let mut caps = Caps::default();
        for n in 0..=255 {
            caps.raise((Address([n; 20]), 1), 1, units(0), 0);
        }
        assert_eq!(caps, Caps::default());
        caps.raise(ALLOTMENT, 1, units(10), 0);
        let copy = caps.clone();
        caps.raise((Address([2; 20]), 1), 1, units(10), 0);
        assert!(Arc::ptr_eq(&copy.rising[&1], &caps.rising[&1]));
        assert_eq!(copy.before((Address([2; 20]), 1), 9), units(0));
        assert_eq!(caps.before((Address([2; 20]), 1), 9), units(10));
    }
}
