//! Executable model of StakeRegistry: stake by role, unbonding during which it stays within reach, slashing with an exact split.
//!
//! As with [`crate::vault`], a method makes the contract's checks in the contract's order and happens whole or not at all; transfers of
//! the stake token are the caller's to model.

use crate::fees::{self, FeeError, SlashShares, StakeNeed};
use std::collections::{BTreeMap, BTreeSet};
use stoa_types::{Address, Bps, Digest, NetworkProfile, StakeAmount, TokenAmount};

/// The most developers that one slash may compensate.
pub const MAX_DEVELOPERS: usize = 64;

/// What stake is for. Each role of an account is its own stake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Computes.
    Provider,
    /// Routes and meters.
    Router,
    /// Checks.
    Validator,
}

impl Role {
    /// The role's number in the contract.
    pub const fn code(self) -> u8 {
        match self {
            Self::Provider => 1,
            Self::Router => 2,
            Self::Validator => 3,
        }
    }
}

/// What a registry is built with; only the stake price ever changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StakeParams {
    /// Seconds that leaving stake stays slashable: longer than every window plus the dispute bound.
    pub unbonding: u64,
    /// Seconds of claimed throughput that a provider's stake must cover.
    pub exposure: u64,
    /// Floors of provider, router and validator, in payment token.
    pub floors: [TokenAmount; 3],
    /// Highest price of one job.
    pub job_max: TokenAmount,
    /// Lowest share of jobs that is sampled.
    pub sampling_floor: Bps,
    /// Payment token units per whole stake token.
    pub stake_price: TokenAmount,
    /// Split of a slash; the rest is burned.
    pub shares: SlashShares,
}

impl StakeParams {
    /// The profile's numbers; `job_max` is the highest price of one job.
    pub fn from_profile(profile: &NetworkProfile, job_max: TokenAmount) -> Self {
        let (stake, settlement) = (&profile.stake, &profile.settlement);
        Self {
            unbonding: stake.unbonding_seconds,
            exposure: settlement
                .window_seconds
                .saturating_add(settlement.batch_seconds),
            floors: [
                stake.provider_floor,
                stake.router_floor,
                stake.validator_floor,
            ],
            job_max,
            sampling_floor: stake.sampling_floor_bps,
            stake_price: stake.stake_price,
            shares: SlashShares {
                developer: stake.slash_developer_bps,
                challenger: stake.slash_challenger_bps,
            },
        }
    }
}

/// Stake of one account in one role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stake {
    /// Counts for the minimum.
    pub active: StakeAmount,
    /// On its way out; can still be slashed.
    pub unbonding: StakeAmount,
    /// When it may leave, in seconds.
    pub withdrawable_at: u64,
}

/// Why a call failed. It changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // each field is named in its sentence
pub enum StakeError {
    /// The amount is zero.
    #[error("the amount is zero")]
    ZeroAmount,
    /// A parameter is zero.
    #[error("a parameter that must not be zero is zero")]
    ZeroParameter,
    /// Not the caller for this.
    #[error("{caller} does not hold the role that this call needs")]
    NotAllowed { caller: Address },
    /// More than is active.
    #[error("asked for {wanted} of an active stake of {active}")]
    StakeTooSmall {
        wanted: StakeAmount,
        active: StakeAmount,
    },
    /// Nothing to withdraw.
    #[error("nothing unbonds")]
    NothingUnbonding,
    /// Too early.
    #[error("the stake may leave at {withdrawable_at}")]
    StillUnbonding { withdrawable_at: u64 },
    /// One slash per fault.
    #[error("fault {fault_id} has been punished before")]
    AlreadySlashed { fault_id: Digest },
    /// Zero.
    #[error("the severity is zero")]
    BadSeverity,
    /// Too many to pay in one call.
    #[error("{count} developers, more than {max}")]
    TooManyDevelopers { count: usize, max: usize },
    /// Nothing to pay.
    #[error("nothing is owed to {who}")]
    NothingOwed { who: Address },
    /// A sum left its type: the contract panics.
    #[error("an amount does not fit its type")]
    TooLarge,
    /// A rounding rule failed.
    #[error(transparent)]
    Fee(#[from] FeeError),
}

/// What a call did.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)] // the fields are those of the contract's events
pub enum StakeEvent {
    /// `who` added; its active stake now.
    Staked {
        role: Role,
        who: Address,
        amount: StakeAmount,
        active: StakeAmount,
    },
    /// `who` moved stake out of its active stake.
    UnbondRequested {
        role: Role,
        who: Address,
        amount: StakeAmount,
        withdrawable_at: u64,
    },
    /// It went home.
    StakeWithdrawn {
        role: Role,
        who: Address,
        amount: StakeAmount,
    },
    /// `sigma = developer + challenger + burned`.
    Slashed {
        fault_id: Digest,
        offender: Address,
        role: Role,
        severity: Bps,
        sigma: StakeAmount,
        developer: StakeAmount,
        challenger: StakeAmount,
        burned: StakeAmount,
    },
    /// A part of a slash is owed.
    Awarded {
        fault_id: Digest,
        who: Address,
        amount: StakeAmount,
    },
    /// Awards went out.
    AwardsCollected { who: Address, amount: StakeAmount },
}

/// One slash, as the slasher orders it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlashOrder {
    /// Hash of kind, offender and job, batch or epoch: one slash each.
    pub fault_id: Digest,
    /// Whose stake.
    pub offender: Address,
    /// In which role.
    pub role: Role,
    /// Share of the stake.
    pub severity: Bps,
    /// Harmed developers with what each was charged; the zero address stands for nobody.
    pub harmed: Vec<(Address, TokenAmount)>,
    /// Who proved it; the zero address stands for nobody.
    pub challenger: Address,
}

/// Sums over the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StakeAccounts {
    /// Ever staked.
    pub staked: StakeAmount,
    /// Ever withdrawn.
    pub withdrawn: StakeAmount,
    /// Awards ever paid.
    pub awards_paid: StakeAmount,
    /// Ever burned.
    pub burned: StakeAmount,
}

/// A sum that does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the registry should hold {expected} but stakes and awards sum to {found}")]
pub struct StakeImbalance {
    /// Staked, less withdrawn, paid and burned.
    pub expected: StakeAmount,
    /// Active, unbonding and awarded.
    pub found: StakeAmount,
}

/// The registry. See the module's page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StakeRegistry {
    params: StakeParams,
    admin: Address,
    slasher: Address,
    stakes: BTreeMap<(Role, Address), Stake>,
    throughput: BTreeMap<Address, u128>,
    owed: BTreeMap<Address, StakeAmount>,
    slashed: BTreeSet<Digest>,
    accounts: StakeAccounts,
}

impl StakeRegistry {
    /// An empty registry without a slasher.
    pub fn new(params: StakeParams, admin: Address) -> Result<Self, StakeError> {
        if params.sampling_floor.get() == 0 || params.stake_price.is_zero() {
            return Err(StakeError::ZeroParameter);
        }
        Ok(Self {
            params,
            admin,
            slasher: Address::ZERO,
            stakes: BTreeMap::new(),
            throughput: BTreeMap::new(),
            owed: BTreeMap::new(),
            slashed: BTreeSet::new(),
            accounts: StakeAccounts::default(),
        })
    }

    // ---- views

    /// Stake of an account in a role.
    pub fn stake_of(&self, role: Role, who: Address) -> Stake {
        self.stakes.get(&(role, who)).copied().unwrap_or_default()
    }

    /// What a slash can reach: active and unbonding.
    pub fn slashable(&self, role: Role, who: Address) -> StakeAmount {
        let held = self.stake_of(role, who);
        held.active
            .checked_add(held.unbonding)
            .expect("stake is part of a supply below 2^128")
    }

    /// Awards not collected yet.
    pub fn owed(&self, who: Address) -> StakeAmount {
        self.owed.get(&who).copied().unwrap_or_default()
    }

    /// Whether the fault has been punished.
    pub fn is_slashed(&self, fault_id: Digest) -> bool {
        self.slashed.contains(&fault_id)
    }

    /// Least active stake of an account in a role (SPEC C.6.4).
    pub fn minimum(&self, role: Role, who: Address) -> Result<StakeAmount, StakeError> {
        let [provider, router, validator] = self.params.floors;
        let claimed = self.throughput.get(&who).copied().unwrap_or_default();
        let (floor, throughput_value) = match role {
            Role::Provider => (provider, claimed),
            Role::Router => (router, 0),
            Role::Validator => (validator, 0),
        };
        Ok(fees::minimum_stake(&StakeNeed {
            floor,
            throughput_value,
            exposure: self.params.exposure,
            job_max: self.params.job_max,
            sampling_floor: self.params.sampling_floor,
            stake_price: self.params.stake_price,
        })?)
    }

    /// Whether the active stake reaches the minimum.
    pub fn is_active(&self, role: Role, who: Address) -> Result<bool, StakeError> {
        Ok(self.stake_of(role, who).active >= self.minimum(role, who)?)
    }

    /// Sums since the start.
    pub fn accounts(&self) -> StakeAccounts {
        self.accounts
    }

    // ---- calls

    /// Claimed throughput of a provider, as its loadout in the provider registry gives it: sum of tokens per second times output price.
    pub fn set_throughput(&mut self, provider: Address, value: u128) {
        self.throughput.insert(provider, value);
    }

    /// `who` adds stake.
    pub fn stake(
        &mut self,
        role: Role,
        who: Address,
        amount: StakeAmount,
    ) -> Result<Vec<StakeEvent>, StakeError> {
        if amount.is_zero() {
            return Err(StakeError::ZeroAmount);
        }
        let held = self.stake_of(role, who);
        let active = plus(held.active, amount)?;
        let staked = plus(self.accounts.staked, amount)?;
        self.stakes.insert((role, who), Stake { active, ..held });
        self.accounts.staked = staked;
        Ok(vec![StakeEvent::Staked {
            role,
            who,
            amount,
            active,
        }])
    }

    /// `who` starts to take stake out. A second request starts the time of both again.
    pub fn request_unbond(
        &mut self,
        role: Role,
        who: Address,
        amount: StakeAmount,
        now: u64,
    ) -> Result<Vec<StakeEvent>, StakeError> {
        if amount.is_zero() {
            return Err(StakeError::ZeroAmount);
        }
        let held = self.stake_of(role, who);
        let active = held.active.checked_sub(amount);
        let active = active.ok_or(StakeError::StakeTooSmall {
            wanted: amount,
            active: held.active,
        })?;
        let withdrawable_at = now.saturating_add(self.params.unbonding);
        let next = Stake {
            active,
            unbonding: plus(held.unbonding, amount)?,
            withdrawable_at,
        };
        self.stakes.insert((role, who), next);
        Ok(vec![StakeEvent::UnbondRequested {
            role,
            who,
            amount,
            withdrawable_at,
        }])
    }

    /// `who` takes all unbonded stake of a role home.
    pub fn withdraw(
        &mut self,
        role: Role,
        who: Address,
        now: u64,
    ) -> Result<Vec<StakeEvent>, StakeError> {
        let held = self.stake_of(role, who);
        let amount = held.unbonding;
        if amount.is_zero() {
            return Err(StakeError::NothingUnbonding);
        }
        let withdrawable_at = held.withdrawable_at;
        if now < withdrawable_at {
            return Err(StakeError::StillUnbonding { withdrawable_at });
        }
        let withdrawn = plus(self.accounts.withdrawn, amount)?;
        let rest = Stake {
            active: held.active,
            ..Stake::default()
        };
        self.stakes.insert((role, who), rest);
        self.accounts.withdrawn = withdrawn;
        Ok(vec![StakeEvent::StakeWithdrawn { role, who, amount }])
    }

    /// The slasher punishes a fault, once. Active stake goes first, so that an offender loses the right to work at once.
    pub fn slash(
        &mut self,
        caller: Address,
        order: &SlashOrder,
    ) -> Result<Vec<StakeEvent>, StakeError> {
        self.check_slash(caller, order)?;
        let held = self.stake_of(order.role, order.offender);
        let sigma = fees::sigma(self.slashable(order.role, order.offender), order.severity)?;
        let awards = self.awards(order, sigma)?;
        let from_active = sigma.min(held.active);
        let rest = Stake {
            active: minus(held.active, from_active)?,
            unbonding: minus(held.unbonding, minus(sigma, from_active)?)?,
            withdrawable_at: held.withdrawable_at,
        };
        let burned_total = plus(self.accounts.burned, awards.burned)?;
        let mut owed = self.owed.clone();
        for (who, amount) in &awards.each {
            let total = owed.entry(*who).or_default();
            *total = plus(*total, *amount)?;
        }

        self.stakes.insert((order.role, order.offender), rest);
        self.owed = owed;
        self.accounts.burned = burned_total;
        self.slashed.insert(order.fault_id);
        Ok(slash_events(order, sigma, &awards))
    }

    /// Anyone sends an account its awards.
    pub fn collect(&mut self, who: Address) -> Result<Vec<StakeEvent>, StakeError> {
        let amount = self.owed(who);
        if amount.is_zero() {
            return Err(StakeError::NothingOwed { who });
        }
        let awards_paid = plus(self.accounts.awards_paid, amount)?;
        self.owed.remove(&who);
        self.accounts.awards_paid = awards_paid;
        Ok(vec![StakeEvent::AwardsCollected { who, amount }])
    }

    /// The admin names the only caller of `slash`.
    pub fn set_slasher(&mut self, caller: Address, slasher: Address) -> Result<(), StakeError> {
        self.only(caller, self.admin)?;
        self.slasher = slasher;
        Ok(())
    }

    /// The admin sets the price by which minimum stakes are converted.
    pub fn set_stake_price(
        &mut self,
        caller: Address,
        stake_price: TokenAmount,
    ) -> Result<(), StakeError> {
        self.only(caller, self.admin)?;
        if stake_price.is_zero() {
            return Err(StakeError::ZeroParameter);
        }
        self.params.stake_price = stake_price;
        Ok(())
    }

    /// `staked - withdrawn - awards paid - burned = active + unbonding + awards owed`.
    pub fn check_conservation(&self) -> Result<(), StakeImbalance> {
        let held = self
            .stakes
            .values()
            .flat_map(|held| [held.active, held.unbonding]);
        let found = StakeAmount::checked_sum(held.chain(self.owed.values().copied()));
        let accounts = &self.accounts;
        let gone = [accounts.withdrawn, accounts.awards_paid, accounts.burned];
        let expected =
            StakeAmount::checked_sum(gone).and_then(|gone| accounts.staked.checked_sub(gone));
        if found.is_some() && found == expected {
            Ok(())
        } else {
            Err(StakeImbalance {
                expected: expected.unwrap_or_default(),
                found: found.unwrap_or_default(),
            })
        }
    }

    fn only(&self, caller: Address, holder: Address) -> Result<(), StakeError> {
        if caller == holder && caller != Address::ZERO {
            Ok(())
        } else {
            Err(StakeError::NotAllowed { caller })
        }
    }

    fn check_slash(&self, caller: Address, order: &SlashOrder) -> Result<(), StakeError> {
        self.only(caller, self.slasher)?;
        if self.is_slashed(order.fault_id) {
            return Err(StakeError::AlreadySlashed {
                fault_id: order.fault_id,
            });
        }
        if order.severity.get() == 0 {
            return Err(StakeError::BadSeverity);
        }
        let count = order.harmed.len();
        if count > MAX_DEVELOPERS {
            return Err(StakeError::TooManyDevelopers {
                count,
                max: MAX_DEVELOPERS,
            });
        }
        Ok(())
    }

    fn awards(&self, order: &SlashOrder, sigma: StakeAmount) -> Result<Awards, StakeError> {
        let charges: Vec<_> = order.harmed.iter().map(|(_, charge)| *charge).collect();
        let has_challenger = order.challenger != Address::ZERO;
        let parts = fees::slash(sigma, self.params.shares, &charges, has_challenger)?;
        let developers: Vec<_> = order
            .harmed
            .iter()
            .map(|(who, _)| *who)
            .zip(parts.developers)
            .filter(|(who, _)| *who != Address::ZERO)
            .collect();
        let developer = StakeAmount::checked_sum(developers.iter().map(|(_, amount)| *amount));
        let developer = developer.ok_or(StakeError::TooLarge)?;
        let challenger = parts.challenger;
        Ok(Awards {
            burned: minus(minus(sigma, developer)?, challenger)?,
            each: developers
                .into_iter()
                .chain([(order.challenger, challenger)])
                .filter(|(_, amount)| !amount.is_zero())
                .collect(),
            developer,
            challenger,
        })
    }
}

/// Who is awarded how much of a slash.
struct Awards {
    /// Harmed developers in the order given, then the challenger; nobody with nothing, and never the zero address.
    each: Vec<(Address, StakeAmount)>,
    developer: StakeAmount,
    challenger: StakeAmount,
    burned: StakeAmount,
}

fn slash_events(order: &SlashOrder, sigma: StakeAmount, awards: &Awards) -> Vec<StakeEvent> {
    let fault_id = order.fault_id;
    let mut events: Vec<_> = awards
        .each
        .iter()
        .map(|(who, amount)| StakeEvent::Awarded {
            fault_id,
            who: *who,
            amount: *amount,
        })
        .collect();
    events.push(StakeEvent::Slashed {
        fault_id,
        offender: order.offender,
        role: order.role,
        severity: order.severity,
        sigma,
        developer: awards.developer,
        challenger: awards.challenger,
        burned: awards.burned,
    });
    events
}

fn plus(a: StakeAmount, b: StakeAmount) -> Result<StakeAmount, StakeError> {
    a.checked_add(b).ok_or(StakeError::TooLarge)
}

fn minus(a: StakeAmount, b: StakeAmount) -> Result<StakeAmount, StakeError> {
    a.checked_sub(b).ok_or(StakeError::TooLarge)
}
