//! The equation of settlement 7.11 and its side conditions.

use super::{Vault, VaultError};
use stoa_types::{Address, TokenAmount};

/// A sum that does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VaultImbalance {
    /// The vault holds less than it owes.
    #[error("the vault holds {balance} but owes {claims}")]
    Short {
        /// Held.
        balance: TokenAmount,
        /// Owed.
        claims: TokenAmount,
    },
    /// Deposits less payments are not what is owed.
    #[error("deposits less payments are {flow}, but {claims} is owed")]
    Flow {
        /// Deposited and not paid out.
        flow: TokenAmount,
        /// Owed.
        claims: TokenAmount,
    },
    /// A total is not the sum of its parts, or out of order.
    #[error("router {router}: {what}")]
    Router {
        /// Whose.
        router: Address,
        /// Which rule.
        what: &'static str,
    },
    /// A sum left its type.
    #[error("a sum does not fit: {0}")]
    Overflow(#[from] VaultError),
}

/// The terms of the equation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Accounts {
    /// Free balances of developers.
    pub free: TokenAmount,
    /// Allotted and neither debited nor released.
    pub allotted: TokenAmount,
    /// Debited and not claimed.
    pub unclaimed: TokenAmount,
    /// Credited and not collected.
    pub owed: TokenAmount,
    /// Held beyond all that: from direct transfers.
    pub surplus: TokenAmount,
}

impl Vault {
    /// Checks the equation and all side conditions; returns its terms.
    pub fn check_conservation(&self) -> Result<Accounts, VaultImbalance> {
        let mut accounts = Accounts {
            free: sum(self.free.values().copied())?,
            allotted: sum(self.unspent()?)?,
            ..Accounts::default()
        };
        let mut unclaimed = Vec::new();
        let mut owed: Vec<_> = self.owed.values().copied().collect();
        for (router, totals) in &self.routers {
            self.check_router(*router)?;
            unclaimed.push(super::minus(totals.debited_total, totals.claimed_gross)?);
            owed.push(totals.fee_owed);
        }
        let protocol = self.protocol;
        owed.extend([protocol.treasury, protocol.validators, protocol.buyback]);
        accounts.unclaimed = sum(unclaimed)?;
        accounts.owed = sum(owed)?;
        let claims = sum([
            accounts.free,
            accounts.allotted,
            accounts.unclaimed,
            accounts.owed,
        ])?;
        let flow = super::minus(self.deposited, self.paid_out)?;
        if flow != claims {
            return Err(VaultImbalance::Flow { flow, claims });
        }
        accounts.surplus = self
            .balance
            .checked_sub(claims)
            .ok_or(VaultImbalance::Short {
                balance: self.balance,
                claims,
            })?;
        Ok(accounts)
    }

    fn unspent(&self) -> Result<Vec<TokenAmount>, VaultError> {
        let rest = |allotment: &super::Allotment| {
            super::minus(
                super::minus(allotment.cap, allotment.debited)?,
                allotment.released,
            )
        };
        self.allotments.values().map(rest).collect()
    }

    fn check_router(&self, router: Address) -> Result<(), VaultImbalance> {
        let totals = self.totals(router);
        let of_router = || {
            self.allotments
                .iter()
                .filter(|((_, r, _), _)| *r == router)
                .map(|(_, allotment)| allotment)
        };
        let claimed = self
            .claimed
            .iter()
            .filter(|((r, _, _), _)| *r == router)
            .map(|(_, claimed)| *claimed);
        let covered = super::minus(totals.cap_total, totals.released_total)?;
        let rules = [
            (
                "capTotal is not the sum of caps",
                totals.cap_total == sum(of_router().map(|a| a.cap))?,
            ),
            (
                "releasedTotal is not the sum of releases",
                totals.released_total == sum(of_router().map(|a| a.released))?,
            ),
            (
                "debitedTotal is not the sum of debits",
                totals.debited_total == sum(of_router().map(|a| a.debited))?,
            ),
            (
                "claimedGross is not the sum of claims",
                totals.claimed_gross == sum(claimed)?,
            ),
            (
                "more is claimed than debited",
                totals.claimed_gross <= totals.debited_total,
            ),
            (
                "more is debited than allotted and not released",
                totals.debited_total <= covered,
            ),
        ];
        match rules.into_iter().find(|(_, holds)| !holds) {
            Some((what, _)) => Err(VaultImbalance::Router { router, what }),
            None => Ok(()),
        }
    }
}

fn sum(amounts: impl IntoIterator<Item = TokenAmount>) -> Result<TokenAmount, VaultError> {
    TokenAmount::checked_sum(amounts).ok_or(VaultError::TooLarge)
}
