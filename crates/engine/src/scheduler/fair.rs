//! Whose turn it is: the tenant that had least so far (virtual token counters; Sheng et al., "Fairness in Serving Large Language
//! Models", 2024). Unlike there, prompt and answer tokens count the same: they are rows of the same passes.

use super::Tenant;
use std::collections::BTreeMap;

/// Rows of passes that each tenant had.
#[derive(Debug, Default)]
pub(super) struct Shares {
    /// Of those with something to do, and of those who left with more than the floor.
    tenants: BTreeMap<Tenant, Share>,
    /// The least that anybody with something to do had. It never falls.
    floor: u64,
}

#[derive(Debug)]
struct Share {
    had: u64,
    /// Jobs that wait or run.
    jobs: usize,
}

impl Shares {
    /// One more job. A tenant begins at the floor, or where it left when that is more: who was away saves up nothing, who comes new takes
    /// nothing from those who are here, and who leaves and comes back is not new.
    pub fn join(&mut self, tenant: Tenant) {
        let had = self.floor;
        let share = self.tenants.entry(tenant);
        share.or_insert(Share { had, jobs: 0 }).jobs += 1;
    }

    /// One job less.
    pub fn leave(&mut self, tenant: Tenant) {
        if let Some(share) = self.tenants.get_mut(&tenant) {
            share.jobs = share.jobs.saturating_sub(1);
            self.settle();
        }
    }

    /// Rows that one of its jobs took.
    pub fn add(&mut self, tenant: Tenant, rows: usize) {
        if let Some(share) = self.tenants.get_mut(&tenant) {
            share.had = share.had.saturating_add(rows as u64);
            self.settle();
        }
    }

    /// What a tenant had.
    pub fn had(&self, tenant: Tenant) -> u64 {
        self.tenants.get(&tenant).map_or(self.floor, |s| s.had)
    }

    /// Raises the floor, and forgets who left and is not above it. With nothing to do for anybody all begin anew.
    fn settle(&mut self) {
        let busy = self.tenants.values().filter(|share| share.jobs > 0);
        match busy.map(|share| share.had).min() {
            Some(least) => self.floor = self.floor.max(least),
            None => *self = Self::default(),
        }
        let floor = self.floor;
        self.tenants
            .retain(|_, share| share.jobs > 0 || share.had > floor);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Tenant = Tenant([1; 32]);
    const TWO: Tenant = Tenant([2; 32]);

    #[test]
    fn who_comes_back_has_saved_nothing_up_and_who_is_new_pays_for_nobody() {
        let mut shares = Shares::default();
        shares.join(ONE);
        shares.add(ONE, 1_000);
        shares.join(TWO);
        assert_eq!(shares.had(TWO), 1_000);
        shares.add(TWO, 5);
        shares.leave(ONE);
        shares.join(ONE);
        assert_eq!(shares.had(ONE), 1_005, "not below those who stayed");
        shares.leave(ONE);
        shares.leave(TWO);
        shares.join(TWO);
        assert_eq!(shares.had(TWO), 0, "nobody was there");
    }

    #[test]
    fn tenants_that_come_and_go_do_not_keep_out_one_that_stays() {
        let (mut shares, short) = (Shares::default(), [3, 4, 5].map(|n| Tenant([n; 32])));
        shares.join(ONE);
        shares.add(ONE, 64);
        short.iter().for_each(|tenant| shares.join(*tenant));
        // Whoever had least is served; the short ones leave after each turn and ask again before the next.
        let mut served = 0;
        for _ in 0..100 {
            let next = short.iter().copied().chain([ONE]);
            let next = next.min_by_key(|t| shares.had(*t)).expect("four");
            shares.add(next, 64);
            if next == ONE {
                served += 1;
            } else {
                shares.leave(next);
                shares.join(next);
            }
        }
        assert!((24..=26).contains(&served), "{served} of 100 turns");
    }
}
