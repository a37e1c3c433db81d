//! Booking debits, claiming, collecting.

use super::{
    Allotment, AllotmentKey, Event, ProtocolOwed, RouterTotals, Vault, VaultError, minus, plus,
};
use crate::CLASS;
use crate::fees;
use crate::roots::pay_root;
use std::collections::BTreeMap;
use stoa_crypto::{debit_leaf, payout_leaf, verify_proof};
use stoa_types::{Address, Digest, TokenAmount};

/// One entry of `syncDebits`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DebitProof {
    /// Developer.
    pub developer: Address,
    /// Generation.
    pub generation: u32,
    /// Lifetime debit of that generation.
    pub lifetime_debit: TokenAmount,
    /// From its leaf to the debit root.
    pub proof: Vec<Digest>,
}

/// Arguments of `claim`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Router.
    pub router: Address,
    /// Provider, the only one that the claim can pay.
    pub provider: Address,
    /// Fee version of the leaf.
    pub fee_version: u16,
    /// Lifetime gross of the leaf.
    pub lifetime_gross: TokenAmount,
    /// Root over providers.
    pub provider_root: Digest,
    /// Root over debits.
    pub debit_root: Digest,
    /// From the leaf to the provider root.
    pub proof: Vec<Digest>,
}

impl Vault {
    /// Anyone books debits of `router` from its claimable payout root, all or none. This is the hard cap.
    pub fn sync_debits(
        &mut self,
        router: Address,
        provider_root: Digest,
        debit_root: Digest,
        entries: &[DebitProof],
    ) -> Result<Vec<Event>, VaultError> {
        let totals = self.claimable_totals(router, provider_root, debit_root)?;
        let mut booked: BTreeMap<AllotmentKey, Allotment> = BTreeMap::new();
        let mut debited_total = totals.debited_total;
        let mut events = Vec::with_capacity(entries.len());
        for entry in entries {
            let (key, allotment) = self.live_generation(router, entry)?;
            let mut allotment = booked.get(&key).unwrap_or(allotment).clone();
            let added = book(router, debit_root, entry, &allotment)?;
            allotment.debited = entry.lifetime_debit;
            debited_total = plus(debited_total, added)?;
            booked.insert(key, allotment);
            events.push(Event::DebitSynced {
                router,
                developer: entry.developer,
                generation: entry.generation,
                lifetime_debit: entry.lifetime_debit,
            });
        }
        self.allotments.extend(booked);
        self.router_mut(router).debited_total = debited_total;
        Ok(events)
    }

    /// Anyone credits a provider with what its leaf holds beyond earlier claims, as far as debits are booked. The rest stays claimable.
    pub fn claim(&mut self, claim: &Claim) -> Result<Vec<Event>, VaultError> {
        let mut totals =
            self.claimable_totals(claim.router, claim.provider_root, claim.debit_root)?;
        let leaf = payout_leaf(
            claim.router,
            CLASS,
            claim.provider,
            claim.fee_version,
            claim.lifetime_gross,
        );
        if !verify_proof(claim.provider_root, leaf, &claim.proof) {
            return Err(VaultError::BadProof { leaf });
        }
        let key = (claim.router, claim.provider, claim.fee_version);
        let before = self.claimed.get(&key).copied().unwrap_or_default();
        let delta = self.claimable_now(&totals, claim, before)?;
        let schedule =
            self.fee_schedule(claim.fee_version)
                .ok_or(VaultError::UnknownFeeVersion {
                    version: claim.fee_version,
                })?;
        let parts = fees::split(delta, &schedule)?;
        let lifetime_claimed = plus(before, delta)?;
        totals.claimed_gross = plus(totals.claimed_gross, delta)?;
        totals.fee_owed = plus(totals.fee_owed, parts.router)?;
        let owed = self.owed.get(&claim.provider).copied().unwrap_or_default();
        let owed = plus(owed, parts.provider)?;
        let protocol = self.protocol.plus(&parts)?;

        self.claimed.insert(key, lifetime_claimed);
        self.routers.insert(claim.router, totals);
        self.owed.insert(claim.provider, owed);
        self.protocol = protocol;
        Ok(vec![Event::Claimed {
            router: claim.router,
            provider: claim.provider,
            fee_version: claim.fee_version,
            lifetime_claimed,
            gross: delta,
            net: parts.provider,
        }])
    }

    /// Anyone sends an account what it is owed, to its registered payee if it has one.
    pub fn collect(&mut self, who: Address) -> Result<Vec<Event>, VaultError> {
        let amount = self.owed(who);
        if amount.is_zero() {
            return Err(VaultError::NothingOwed { who });
        }
        self.pay_out(amount)?;
        self.owed.remove(&who);
        if let Some(totals) = self.routers.get_mut(&who) {
            totals.fee_owed = TokenAmount::ZERO;
        }
        let to = self.payee_of(who).unwrap_or(who);
        Ok(vec![Event::Collected { who, to, amount }])
    }

    /// Anyone sends the three pools what they are owed.
    pub fn collect_protocol(&mut self) -> Result<Vec<Event>, VaultError> {
        let ProtocolOwed {
            treasury,
            validators,
            buyback,
        } = self.protocol;
        let sum = TokenAmount::checked_sum([treasury, validators, buyback]);
        self.pay_out(sum.ok_or(VaultError::TooLarge)?)?;
        self.protocol = ProtocolOwed::default();
        Ok(vec![Event::ProtocolCollected {
            treasury,
            validators,
            buyback,
        }])
    }

    fn claimable_totals(
        &self,
        router: Address,
        provider_root: Digest,
        debit_root: Digest,
    ) -> Result<RouterTotals, VaultError> {
        let totals = self.totals(router);
        let pay_root = pay_root(provider_root, debit_root);
        if totals.claimable.0 == pay_root {
            Ok(totals)
        } else {
            Err(VaultError::NotClaimable { router, pay_root })
        }
    }

    fn live_generation(
        &self,
        router: Address,
        entry: &DebitProof,
    ) -> Result<(AllotmentKey, &Allotment), VaultError> {
        let newest = self.allotment(entry.developer, router);
        let live = newest.filter(|(_, allotment)| allotment.live);
        match live {
            Some((generation, allotment)) if generation == entry.generation => {
                Ok(((entry.developer, router, generation), allotment))
            }
            other => Err(VaultError::WrongGeneration {
                developer: entry.developer,
                generation: entry.generation,
                live: other.map_or(0, |(generation, _)| generation),
            }),
        }
    }

    fn claimable_now(
        &self,
        totals: &RouterTotals,
        claim: &Claim,
        before: TokenAmount,
    ) -> Result<TokenAmount, VaultError> {
        let covered = minus(totals.debited_total, totals.claimed_gross)?;
        let open = claim.lifetime_gross.checked_sub(before);
        let amount = open.unwrap_or_default().min(covered);
        let provider = claim.provider;
        if before.is_zero() && self.payee_of(provider).is_none() {
            return Err(VaultError::UnknownProvider { provider });
        }
        let min = self.params.claim_min;
        if amount.is_zero() || (amount < min && !self.is_leaving(provider)) {
            return Err(VaultError::BelowMinimum { amount, min });
        }
        Ok(amount)
    }
}

/// By how much the entry raises the booked debit.
fn book(
    router: Address,
    debit_root: Digest,
    entry: &DebitProof,
    allotment: &Allotment,
) -> Result<TokenAmount, VaultError> {
    let developer = entry.developer;
    let lifetime_debit = entry.lifetime_debit;
    let added = lifetime_debit
        .checked_sub(allotment.debited)
        .ok_or(VaultError::DebitFell {
            developer,
            lifetime_debit,
            booked: allotment.debited,
        })?;
    if lifetime_debit > allotment.cap {
        return Err(VaultError::CapExceeded {
            developer,
            lifetime_debit,
            cap: allotment.cap,
        });
    }
    let leaf = debit_leaf(router, CLASS, developer, entry.generation, lifetime_debit);
    if !verify_proof(debit_root, leaf, &entry.proof) {
        return Err(VaultError::BadProof { leaf });
    }
    Ok(added)
}
