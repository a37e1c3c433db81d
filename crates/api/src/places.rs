//! Bounds on what goes on at once for whoever looks at the dashboard: so much for each account, so much for all accounts together, and
//! places of the operator that accounts cannot take.

use crate::port::Viewer;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How many places there are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    /// For the operator.
    pub(crate) operator: usize,
    /// For one account.
    pub(crate) account: usize,
    /// For all accounts together.
    pub(crate) accounts: usize,
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    /// Who asks has taken all of its own: so many.
    Own(usize),
    /// All accounts together have taken theirs.
    All,
}

/// Places, and who holds them.
#[derive(Debug)]
pub(crate) struct Places {
    room: Room,
    taken: Mutex<BTreeMap<Viewer, usize>>,
}

/// A place, free again when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    viewer: Viewer,
}

impl Place {
    /// Places of its kind that are held now, by anybody.
    pub(crate) fn taken(&self) -> usize {
        self.places.taken().values().sum()
    }
}

impl Places {
    pub(crate) fn new(room: Room) -> Arc<Self> {
        Arc::new(Self {
            room,
            taken: Mutex::default(),
        })
    }

    fn taken(&self) -> MutexGuard<'_, BTreeMap<Viewer, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for `viewer`.
    pub(crate) fn take(self: &Arc<Self>, viewer: Viewer) -> Result<Place, Full> {
        let mut taken = self.taken();
        let of_operator = taken.get(&Viewer::Operator).copied().unwrap_or(0);
        let of_accounts = taken.values().sum::<usize>() - of_operator;
        let own = taken.get(&viewer).copied().unwrap_or(0);
        let most = match viewer {
            Viewer::Operator => self.room.operator,
            Viewer::Account(_) | Viewer::Key(..) => self.room.account,
        };
        if own >= most {
            return Err(Full::Own(most));
        }
        if viewer != Viewer::Operator && of_accounts >= self.room.accounts {
            return Err(Full::All);
        }
        taken.insert(viewer, own + 1);
        Ok(Place {
            places: self.clone(),
            viewer,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        if let Some(count) = taken.get_mut(&self.viewer) {
            *count -= 1;
        }
        taken.retain(|_, count| *count > 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stoa_types::Address;

    #[test]
    fn each_account_has_places_and_all_of_them_together_leave_the_operator_s() {
        let places = Places::new(Room {
            operator: 1,
            account: 2,
            accounts: 3,
        });
        let account = |n| Viewer::Account(Address([n; 20]));
        let mut held = vec![places.take(account(1)).expect("one")];
        held.push(places.take(account(1)).expect("two"));
        assert_eq!(
            places.take(account(1)).expect_err("all its own"),
            Full::Own(2)
        );
        held.push(places.take(account(2)).expect("three"));
        assert_eq!(places.take(account(2)).expect_err("no more"), Full::All);
        held.push(places.take(Viewer::Operator).expect("its own"));
        assert_eq!(
            places.take(Viewer::Operator).expect_err("one"),
            Full::Own(1)
        );
        assert_eq!(held[0].taken(), 4);
        drop(held.remove(0));
        held.push(places.take(account(2)).expect("free again"));
        drop(held);
        assert!(places.taken().is_empty(), "who left is forgotten");
    }
}
