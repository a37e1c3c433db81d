//! Calls of the admin: fee versions for later leaves, the verdict's address, its own successor. None moves a token.

use super::{Event, MAX_FEE_BPS, Vault, VaultError};
use crate::fees::FeeSchedule;
use stoa_types::Address;

impl Vault {
    /// Adds a fee version; leaves that name an older one keep their shares.
    pub fn add_fee_version(
        &mut self,
        caller: Address,
        schedule: FeeSchedule,
    ) -> Result<Vec<Event>, VaultError> {
        self.only_admin(caller)?;
        let version = self.insert_fees(schedule)?;
        Ok(vec![Event::FeeVersionAdded { version, schedule }])
    }

    /// Names the only caller of `voidPending`.
    pub fn set_verdict(
        &mut self,
        caller: Address,
        verdict: Address,
    ) -> Result<Vec<Event>, VaultError> {
        self.only_admin(caller)?;
        self.verdict = verdict;
        Ok(vec![Event::VerdictSet { verdict }])
    }

    /// Names the next admin.
    pub fn set_admin(&mut self, caller: Address, admin: Address) -> Result<Vec<Event>, VaultError> {
        self.only_admin(caller)?;
        self.admin = admin;
        Ok(vec![Event::AdminSet { admin }])
    }

    fn only_admin(&self, caller: Address) -> Result<(), VaultError> {
        if caller == self.admin {
            Ok(())
        } else {
            Err(VaultError::NotAllowed { caller })
        }
    }

    pub(super) fn insert_fees(&mut self, schedule: FeeSchedule) -> Result<u16, VaultError> {
        let router_bps = u32::from(schedule.router.get());
        let protocol_bps = schedule.protocol_bps();
        if router_bps > MAX_FEE_BPS || protocol_bps > MAX_FEE_BPS {
            return Err(VaultError::FeeTooHigh {
                router_bps,
                protocol_bps,
            });
        }
        let version = self
            .latest_fee_version()
            .checked_add(1)
            .ok_or(VaultError::TooLarge)?;
        self.fees.insert(version, schedule);
        Ok(version)
    }
}
