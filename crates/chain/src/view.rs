//! What the contracts say, in Stoa's words.

use stoa_types::{Address, Digest, StakeAmount, Timestamp, TokenAmount};

use crate::access::{AccessError, ChainAccess, view};
use crate::bindings::{PaymentVault, ProviderRegistry, StakeRegistry, StoaToken, TestDollar};
use crate::convert::{address, digest, evm_address, narrow, tokens};
use crate::deploy::Contracts;
use crate::event::StakeRole;

/// The latest allotment of a developer to a router.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AllotmentView {
    /// Its generation, from 1; 0 when there never was one.
    pub generation: u32,
    /// Most that can be debited.
    pub cap: TokenAmount,
    /// Debited so far.
    pub debited: TokenAmount,
    /// Returned to the developer.
    pub released: TokenAmount,
    /// When it ends.
    pub expiry: Timestamp,
    /// Whether it can still be debited.
    pub live: bool,
}

pub(crate) fn allotment_words(found: PaymentVault::allotmentReturn) -> AllotmentView {
    AllotmentView {
        generation: found.generation,
        cap: tokens(found.cap),
        debited: tokens(found.debited),
        released: tokens(found.released),
        expiry: Timestamp::from_secs(found.expiry),
        live: found.live,
    }
}

/// Lifetime sums of a router.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Allotted to it.
    pub allotted: TokenAmount,
    /// Returned to developers.
    pub released: TokenAmount,
    /// Debited.
    pub debited: TokenAmount,
    /// Claimed from it, before fees.
    pub claimed: TokenAmount,
}

/// Stake of somebody in a role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StakeView {
    /// Counts towards the minimum.
    pub active: StakeAmount,
    /// On its way out, still slashable.
    pub unbonding: StakeAmount,
    /// From when on that can be withdrawn; means nothing while there is none.
    pub withdrawable_at: Timestamp,
    /// Least active stake.
    pub minimum: StakeAmount,
    /// Whether the active stake reaches the minimum.
    pub is_active: bool,
}

/// Reads the contracts of one deployment.
pub struct View<C> {
    chain: C,
    contracts: Contracts,
}

impl<C: ChainAccess> View<C> {
    /// Reads `contracts` on `chain`.
    pub fn new(chain: C, contracts: Contracts) -> Self {
        Self { chain, contracts }
    }

    async fn vault<S: alloy_sol_types::SolCall>(&self, call: S) -> Result<S::Return, AccessError> {
        view(&self.chain, self.contracts.vault, &call).await
    }

    /// Payment tokens in an account's own hands.
    pub async fn token_balance(&self, account: Address) -> Result<TokenAmount, AccessError> {
        let call = TestDollar::balanceOfCall {
            account: evm_address(account),
        };
        let units = narrow(view(&self.chain, self.contracts.payment_token, &call).await?);
        units.map(tokens).ok_or_else(|| AccessError::Malformed {
            what: "balanceOf".to_owned(),
        })
    }

    /// Stake tokens in an account's own hands.
    pub async fn stake_token_balance(&self, account: Address) -> Result<StakeAmount, AccessError> {
        let call = StoaToken::balanceOfCall {
            account: evm_address(account),
        };
        let units = narrow(view(&self.chain, self.contracts.stake_token, &call).await?);
        units
            .map(StakeAmount::from_units)
            .ok_or_else(|| AccessError::Malformed {
                what: "balanceOf".to_owned(),
            })
    }

    /// Free balance of a developer in the vault.
    pub async fn free(&self, developer: Address) -> Result<TokenAmount, AccessError> {
        self.vault(PaymentVault::freeCall {
            developer: evm_address(developer),
        })
        .await
        .map(tokens)
    }

    /// The latest allotment of a developer to a router.
    pub async fn allotment(
        &self,
        developer: Address,
        router: Address,
    ) -> Result<AllotmentView, AccessError> {
        let call = PaymentVault::allotmentCall {
            developer: evm_address(developer),
            router: evm_address(router),
        };
        self.vault(call).await.map(allotment_words)
    }

    /// Number of a router's posts and the head of its job chain.
    pub async fn head(&self, router: Address) -> Result<(u64, Digest), AccessError> {
        let found = self
            .vault(PaymentVault::headCall {
                router: evm_address(router),
            })
            .await?;
        Ok((found.posts, digest(found.chainHead)))
    }

    /// Head of the job chain after post number `64 x index`; zero before it.
    pub async fn checkpoint(&self, router: Address, index: u64) -> Result<Digest, AccessError> {
        self.vault(PaymentVault::checkpointCall {
            router: evm_address(router),
            index,
        })
        .await
        .map(digest)
    }

    /// The claimable payout root and its lifetime gross.
    pub async fn claimable(&self, router: Address) -> Result<(Digest, TokenAmount), AccessError> {
        let found = self
            .vault(PaymentVault::claimableCall {
                router: evm_address(router),
            })
            .await?;
        Ok((digest(found.payRoot), tokens(found.gross)))
    }

    /// The payout root that waits, its gross, and since when; `None` when none waits.
    pub async fn pending(
        &self,
        router: Address,
    ) -> Result<Option<(Digest, TokenAmount, Timestamp)>, AccessError> {
        let found = self
            .vault(PaymentVault::pendingOfCall {
                router: evm_address(router),
            })
            .await?;
        let since = Timestamp::from_secs(found.postedAt);
        Ok((found.postedAt != 0).then(|| (digest(found.payRoot), tokens(found.gross), since)))
    }

    /// Lifetime sums of a router.
    pub async fn totals(&self, router: Address) -> Result<Totals, AccessError> {
        let found = self
            .vault(PaymentVault::totalsCall {
                router: evm_address(router),
            })
            .await?;
        Ok(Totals {
            allotted: tokens(found.capTotal),
            released: tokens(found.releasedTotal),
            debited: tokens(found.debitedTotal),
            claimed: tokens(found.claimedGross),
        })
    }

    /// What somebody is owed as provider and router.
    pub async fn owed(&self, who: Address) -> Result<TokenAmount, AccessError> {
        self.vault(PaymentVault::owedCall {
            who: evm_address(who),
        })
        .await
        .map(tokens)
    }

    /// What treasury, validators and buyback pot are owed.
    pub async fn owed_protocol(&self) -> Result<[TokenAmount; 3], AccessError> {
        let found = self.vault(PaymentVault::owedProtocolCall {}).await?;
        Ok([
            tokens(found.treasury),
            tokens(found.validators),
            tokens(found.buyback),
        ])
    }

    /// Lifetime gross already claimed under a leaf.
    pub async fn claimed(
        &self,
        router: Address,
        provider: Address,
        fee_version: u16,
    ) -> Result<TokenAmount, AccessError> {
        let call = PaymentVault::claimedCall {
            router: evm_address(router),
            provider: evm_address(provider),
            feeVersion: fee_version,
        };
        self.vault(call).await.map(tokens)
    }

    /// Where a provider is paid; `None` when it never registered.
    pub async fn payee(&self, provider: Address) -> Result<Option<Address>, AccessError> {
        let call = ProviderRegistry::payeeOfCall {
            account: evm_address(provider),
        };
        let payee = address(view(&self.chain, self.contracts.provider_registry, &call).await?);
        Ok((!payee.is_zero()).then_some(payee))
    }

    /// Whether a provider announced that it leaves: the vault then waives its least claim.
    pub async fn is_leaving(&self, provider: Address) -> Result<bool, AccessError> {
        let call = ProviderRegistry::isLeavingCall {
            account: evm_address(provider),
        };
        view(&self.chain, self.contracts.provider_registry, &call).await
    }

    /// Stake tokens that slashes awarded to an account and that it has not collected.
    pub async fn awards(&self, who: Address) -> Result<StakeAmount, AccessError> {
        let call = StakeRegistry::owedCall {
            who: evm_address(who),
        };
        let units = view(&self.chain, self.contracts.stake_registry, &call).await?;
        Ok(StakeAmount::from_units(units))
    }

    /// Stake of somebody in a role.
    pub async fn stake(&self, role: StakeRole, who: Address) -> Result<StakeView, AccessError> {
        let (role, who) = (role as u8, evm_address(who));
        let registry = self.contracts.stake_registry;
        let held = view(
            &self.chain,
            registry,
            &StakeRegistry::stakeOfCall { role, who },
        )
        .await?;
        let minimum = view(
            &self.chain,
            registry,
            &StakeRegistry::minimumCall { role, who },
        )
        .await?;
        let is_active = view(
            &self.chain,
            registry,
            &StakeRegistry::isActiveCall { role, who },
        )
        .await?;
        Ok(StakeView {
            active: StakeAmount::from_units(held.active),
            unbonding: StakeAmount::from_units(held.unbonding),
            withdrawable_at: Timestamp::from_secs(held.withdrawableAt),
            // A minimum beyond 128 bits cannot be reached by any stake.
            minimum: StakeAmount::from_units(narrow(minimum).unwrap_or(u128::MAX)),
            is_active,
        })
    }
}
