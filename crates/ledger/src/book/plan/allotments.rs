//! Facts about allotments: seen, closed, debits booked, late debits taken over.

use super::Change;
use crate::book::state::{AllotmentKey, AllotmentState};
use crate::book::{BookError, RouterBook};
use stoa_types::{Address, Timestamp, TokenAmount};

/// The fields of `AllotmentSeen`.
pub(super) struct Seen {
    pub account: Address,
    pub generation: u32,
    pub cap: TokenAmount,
    pub debited: TokenAmount,
    pub expiry: Timestamp,
    pub fee_version: u16,
}

impl RouterBook {
    /// The allotment, which must be the account's live one.
    pub(super) fn live_allotment(&self, key: AllotmentKey) -> Result<&AllotmentState, BookError> {
        let (account, generation) = key;
        if self
            .allotments
            .get(&key)
            .is_some_and(|state| state.released)
        {
            return Err(BookError::AllotmentReleased {
                account,
                generation,
            });
        }
        match self.live.get(&account) {
            None => Err(BookError::NoAllotment { account }),
            Some(live) if *live != generation => Err(BookError::WrongGeneration {
                account,
                found: generation,
                live: *live,
            }),
            Some(_) => self
                .allotments
                .get(&key)
                .ok_or(BookError::NoAllotment { account }),
        }
    }

    pub(super) fn plan_seen(&self, seen: Seen) -> Result<Change, BookError> {
        let key = (seen.account, seen.generation);
        let newest = self
            .allotments
            .range((seen.account, 0)..=(seen.account, u32::MAX))
            .next_back();
        match newest {
            Some(((_, known), _)) if *known == seen.generation => {
                self.plan_seen_again(key, self.live_allotment(key)?, &seen)
            }
            Some(((_, known), _)) if *known > seen.generation => Err(BookError::WrongGeneration {
                account: seen.account,
                found: seen.generation,
                live: *known,
            }),
            before => self.plan_seen_first(key, before, &seen),
        }
    }

    fn plan_seen_first(
        &self,
        key: AllotmentKey,
        before: Option<(&AllotmentKey, &AllotmentState)>,
        seen: &Seen,
    ) -> Result<Change, BookError> {
        if !seen.debited.is_zero() {
            return Err(BookError::DebitedBeyondBook {
                account: seen.account,
                debited: seen.debited,
                charged: TokenAmount::ZERO,
            });
        }
        let mut allotments = Vec::new();
        if let Some((key, state)) = before.filter(|(_, state)| !state.released) {
            let released = AllotmentState {
                released: true,
                ..state.clone()
            };
            allotments.push((*key, released));
        }
        let state = AllotmentState {
            cap: seen.cap,
            debited: TokenAmount::ZERO,
            expiry: seen.expiry,
            fee_version: seen.fee_version,
            held: TokenAmount::ZERO,
            charged: TokenAmount::ZERO,
            sealed: TokenAmount::ZERO,
            released: false,
        };
        allotments.push((key, state));
        Ok(Change {
            allotments,
            live: Some((seen.account, Some(seen.generation))),
            ..Change::default()
        })
    }

    fn plan_seen_again(
        &self,
        key: AllotmentKey,
        known: &AllotmentState,
        seen: &Seen,
    ) -> Result<Change, BookError> {
        let back = |what| BookError::ChainWentBack {
            account: seen.account,
            what,
        };
        if seen.cap < known.cap {
            return Err(back("cap"));
        }
        if seen.fee_version < known.fee_version {
            return Err(back("fee version"));
        }
        let state = AllotmentState {
            cap: seen.cap,
            expiry: seen.expiry,
            fee_version: seen.fee_version,
            ..self.with_debited(seen.account, known, seen.debited)?
        };
        Ok(Change {
            allotments: vec![(key, state)],
            ..Change::default()
        })
    }

    fn with_debited(
        &self,
        account: Address,
        known: &AllotmentState,
        debited: TokenAmount,
    ) -> Result<AllotmentState, BookError> {
        if debited < known.debited {
            return Err(BookError::ChainWentBack {
                account,
                what: "booked debit",
            });
        }
        // Debits come from claimable roots, so from sealed batches.
        if debited > known.sealed {
            return Err(BookError::DebitedBeyondBook {
                account,
                debited,
                charged: known.sealed,
            });
        }
        Ok(AllotmentState {
            debited,
            ..known.clone()
        })
    }

    pub(super) fn plan_closed(
        &self,
        account: Address,
        generation: u32,
    ) -> Result<Change, BookError> {
        let key = (account, generation);
        let released = AllotmentState {
            released: true,
            ..self.live_allotment(key)?.clone()
        };
        Ok(Change {
            allotments: vec![(key, released)],
            live: Some((account, None)),
            ..Change::default()
        })
    }

    pub(super) fn plan_synced(
        &self,
        account: Address,
        generation: u32,
        debited: TokenAmount,
    ) -> Result<Change, BookError> {
        let key = (account, generation);
        // A debit that was booked just before the release may be reported after it.
        let known = self
            .allotments
            .get(&key)
            .ok_or(BookError::NoAllotment { account })?;
        Ok(Change {
            allotments: vec![(key, self.with_debited(account, known, debited)?)],
            ..Change::default()
        })
    }

    pub(super) fn plan_absorbed(
        &self,
        from: AllotmentKey,
        amount: TokenAmount,
        router_generation: u32,
    ) -> Result<Change, BookError> {
        let (account, _) = from;
        let source = self
            .allotments
            .get(&from)
            .ok_or(BookError::NoAllotment { account })?;
        let late = source.late();
        let left = |total: TokenAmount| total.checked_sub(amount);
        let enough = !amount.is_zero() && amount <= late;
        let (Some(charged), Some(sealed)) = (left(source.charged), left(source.sealed)) else {
            return Err(BookError::NothingLate { amount, late });
        };
        if !enough {
            return Err(BookError::NothingLate { amount, late });
        }
        let to = (self.router, router_generation);
        let target = self.live_allotment(to)?;
        cover(target, amount)?;
        let raise = |total: TokenAmount| total.checked_add(amount).ok_or(BookError::TooLarge);
        let source = AllotmentState {
            charged,
            sealed,
            ..source.clone()
        };
        let target = AllotmentState {
            charged: raise(target.charged)?,
            sealed: raise(target.sealed)?,
            ..target.clone()
        };
        Ok(Change {
            allotments: vec![(from, source), (to, target)],
            ..Change::default()
        })
    }
}

impl AllotmentState {
    /// Sealed charges that can no longer be debited.
    pub fn late(&self) -> TokenAmount {
        let unsettled = self.sealed.checked_sub(self.debited);
        unsettled
            .filter(|_| self.released)
            .unwrap_or(TokenAmount::ZERO)
    }
}

/// Whether the allotment has `needed` to spare.
pub(super) fn cover(allotment: &AllotmentState, needed: TokenAmount) -> Result<(), BookError> {
    let available = allotment.available();
    if needed <= available {
        Ok(())
    } else {
        Err(BookError::OverCap { needed, available })
    }
}
