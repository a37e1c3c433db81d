//! Calls of developers: deposit, withdraw, allot, top up, revoke, release.

use super::{
    Allotment, AllotmentKey, Event, MAX_ALLOTMENT, MAX_HELD, Vault, VaultError, minus, plus,
};
use stoa_types::{Address, TokenAmount};

impl Vault {
    /// `payer` adds to the free balance of `developer` (itself, or for another).
    pub fn deposit(
        &mut self,
        payer: Address,
        developer: Address,
        amount: TokenAmount,
    ) -> Result<Vec<Event>, VaultError> {
        if amount.is_zero() {
            return Err(VaultError::ZeroAmount);
        }
        if developer == Address::ZERO {
            return Err(VaultError::ZeroAddress);
        }
        let balance = plus(self.balance, amount)?;
        if balance > MAX_HELD {
            return Err(VaultError::VaultFull {
                balance,
                max: MAX_HELD,
            });
        }
        let free = plus(self.free(developer), amount)?;
        let deposited = plus(self.deposited, amount)?;
        self.free.insert(developer, free);
        self.balance = balance;
        self.deposited = deposited;
        Ok(vec![Event::Deposited {
            developer,
            payer,
            amount,
        }])
    }

    /// Tokens that reach the vault by a plain transfer: nobody's, a surplus.
    pub fn transfer_in(&mut self, amount: TokenAmount) -> Result<(), VaultError> {
        self.balance = plus(self.balance, amount)?;
        Ok(())
    }

    /// `developer` takes free tokens home, at once.
    pub fn withdraw(
        &mut self,
        developer: Address,
        amount: TokenAmount,
    ) -> Result<Vec<Event>, VaultError> {
        let free = self.take_free(developer, amount)?;
        self.pay_out(amount)?;
        self.free.insert(developer, free);
        Ok(vec![Event::Withdrawn { developer, amount }])
    }

    /// `developer` lets `router` debit up to `cap` until `expiry`.
    pub fn allot(
        &mut self,
        developer: Address,
        router: Address,
        cap: TokenAmount,
        expiry: u64,
        now: u64,
    ) -> Result<Vec<Event>, VaultError> {
        if router == Address::ZERO {
            return Err(VaultError::ZeroAddress);
        }
        let last = self.allotment(developer, router);
        if let Some((generation, _)) = last.filter(|(_, allotment)| allotment.live) {
            return Err(VaultError::AllotmentLive {
                developer,
                router,
                generation,
            });
        }
        let generation = last.map_or(0, |(generation, _)| generation);
        let generation = generation.checked_add(1).ok_or(VaultError::TooLarge)?;
        check_expiry(expiry, now.saturating_add(1), now)?;
        let free = self.take_free(developer, cap)?;
        let cap_total = plus(self.totals(router).cap_total, cap)?;
        self.free.insert(developer, free);
        self.router_mut(router).cap_total = cap_total;
        let allotment = Allotment {
            cap,
            debited: TokenAmount::ZERO,
            released: TokenAmount::ZERO,
            expiry,
            live: true,
        };
        self.allotments
            .insert((developer, router, generation), allotment);
        Ok(vec![Event::Allotted {
            developer,
            router,
            generation,
            cap,
            expiry,
        }])
    }

    /// `developer` raises the cap by `add_cap` (0: not) and the expiry to `new_expiry` (0: not).
    pub fn top_up(
        &mut self,
        developer: Address,
        router: Address,
        add_cap: TokenAmount,
        new_expiry: u64,
        now: u64,
    ) -> Result<Vec<Event>, VaultError> {
        let (key, mut allotment) = self.live(developer, router)?;
        if now >= allotment.expiry {
            return Err(VaultError::AllotmentExpired {
                expiry: allotment.expiry,
            });
        }
        if new_expiry != 0 {
            check_expiry(new_expiry, allotment.expiry, now)?;
            allotment.expiry = new_expiry;
        }
        if !add_cap.is_zero() {
            let free = self.take_free(developer, add_cap)?;
            let cap_total = plus(self.totals(router).cap_total, add_cap)?;
            allotment.cap = plus(allotment.cap, add_cap)?;
            self.free.insert(developer, free);
            self.router_mut(router).cap_total = cap_total;
        }
        let event = Event::ToppedUp {
            developer,
            router,
            generation: key.2,
            cap: allotment.cap,
            expiry: allotment.expiry,
        };
        self.allotments.insert(key, allotment);
        Ok(vec![event])
    }

    /// `developer` ends the allotment after the notice, or at its expiry if that is sooner.
    pub fn revoke(
        &mut self,
        developer: Address,
        router: Address,
        now: u64,
    ) -> Result<Vec<Event>, VaultError> {
        let (key, mut allotment) = self.live(developer, router)?;
        allotment.expiry = allotment.expiry.min(now.saturating_add(self.params.notice));
        let event = Event::Revoked {
            developer,
            router,
            generation: key.2,
            expiry: allotment.expiry,
        };
        self.allotments.insert(key, allotment);
        Ok(vec![event])
    }

    /// Anyone returns what is left of an allotment to its developer, once it can no longer be debited.
    pub fn release(
        &mut self,
        developer: Address,
        router: Address,
        now: u64,
    ) -> Result<Vec<Event>, VaultError> {
        let (key, mut allotment) = self.live(developer, router)?;
        let releasable_at = allotment.expiry.saturating_add(self.params.settle_delay);
        if now < releasable_at {
            return Err(VaultError::NotReleasable { releasable_at });
        }
        let released = minus(allotment.cap, allotment.debited)?;
        let released_total = plus(self.totals(router).released_total, released)?;
        let free = plus(self.free(developer), released)?;
        allotment.live = false;
        allotment.released = released;
        self.allotments.insert(key, allotment);
        self.router_mut(router).released_total = released_total;
        self.free.insert(developer, free);
        Ok(vec![Event::Released {
            developer,
            router,
            generation: key.2,
            released,
        }])
    }

    /// The free balance after taking `amount`.
    fn take_free(
        &self,
        developer: Address,
        amount: TokenAmount,
    ) -> Result<TokenAmount, VaultError> {
        if amount.is_zero() {
            return Err(VaultError::ZeroAmount);
        }
        let free = self.free(developer);
        free.checked_sub(amount)
            .ok_or(VaultError::InsufficientFree {
                developer,
                free,
                wanted: amount,
            })
    }

    fn live(
        &self,
        developer: Address,
        router: Address,
    ) -> Result<(AllotmentKey, Allotment), VaultError> {
        self.allotment(developer, router)
            .filter(|(_, allotment)| allotment.live)
            .map(|(generation, allotment)| ((developer, router, generation), allotment.clone()))
            .ok_or(VaultError::NoAllotment { developer, router })
    }

    /// Tokens leave the vault.
    pub(super) fn pay_out(&mut self, amount: TokenAmount) -> Result<(), VaultError> {
        let paid_out = plus(self.paid_out, amount)?;
        self.balance = minus(self.balance, amount)?;
        self.paid_out = paid_out;
        Ok(())
    }
}

fn check_expiry(expiry: u64, earliest: u64, now: u64) -> Result<(), VaultError> {
    let latest = now.saturating_add(MAX_ALLOTMENT);
    if (earliest..=latest).contains(&expiry) {
        Ok(())
    } else {
        Err(VaultError::BadExpiry {
            expiry,
            earliest,
            latest,
        })
    }
}
