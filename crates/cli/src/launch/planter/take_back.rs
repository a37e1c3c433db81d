//! Takes back what identities of a planter that are over still hold: what their customers allotted and have left in the vault, and the stake
//! of their providers. Every step looks at the chain before it sends, with nothing of the account pending: begun again after a crash, or a
//! day later, it does what is missing and nothing twice.

use super::{customer_key_name, provider_of};
use crate::data::read_secret;
use crate::launch::{Joined, chain_time};
use crate::logs;
use crate::process::Failure;
use serde::Serialize;
use std::collections::BTreeSet;
use std::fmt::{self, Display, Formatter};
use std::path::Path;
use stoa_api::rfc3339;
use stoa_chain::{Account, ChainAccess, StakeRole};
use stoa_crypto::SecretKey;
use stoa_types::{Address, Millis, StakeAmount, Timestamp, TokenAmount};

/// The keys of an identity.
pub struct IdentityKeys {
    /// Its number in the data folder.
    pub number: u32,
    /// Of the account that paid.
    pub customer: SecretKey,
    /// Of the account that served.
    pub provider: SecretKey,
}

impl IdentityKeys {
    /// Identity `n` of a folder that may be in use; nothing is made.
    pub fn read(root: &Path, n: u32) -> Result<Self, Failure> {
        let read = |name: String| -> Result<SecretKey, Failure> {
            let key = SecretKey::from_bytes(read_secret(root, &name)?);
            Ok(key.map_err(|error| format!("key of {name}: {error}"))?)
        };
        Ok(Self {
            number: n,
            customer: read(customer_key_name(n))?,
            provider: read(format!("provider-{}", provider_of(n)))?,
        })
    }
}

/// What was done now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum Moved {
    /// An allotment ends before its time.
    Revoked {
        /// Whose.
        router: Address,
    },
    /// The rest of an allotment is free again.
    Released {
        /// Whose.
        router: Address,
        /// How much.
        amount: TokenAmount,
    },
    /// From the vault to the customer's own hands.
    Withdrawn {
        /// How much.
        amount: TokenAmount,
    },
    /// Its provider takes no new jobs, and may claim any amount.
    Leaving,
    /// Stake on its way out.
    Unbonding {
        /// How much.
        amount: StakeAmount,
    },
    /// From the stake registry to the provider's own hands.
    Unbonded {
        /// How much.
        amount: StakeAmount,
    },
    /// What slashes awarded to an account, to its own hands.
    Awarded {
        /// To the customer, or the provider.
        to: Address,
        /// How much.
        amount: StakeAmount,
    },
    /// Payment tokens, to whom they were to be sent.
    Sent {
        /// From the customer, or the provider.
        from: Address,
        /// How much.
        amount: TokenAmount,
    },
    /// Stake tokens, likewise.
    SentStake {
        /// From the customer, or the provider.
        from: Address,
        /// How much.
        amount: StakeAmount,
    },
}

impl Display for Moved {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Revoked { router } => write!(out, "the allotment to router {router} is revoked"),
            Self::Released { router, amount } => {
                write!(out, "{amount} of the allotment to router {router} released")
            }
            Self::Withdrawn { amount } => {
                write!(out, "{amount} withdrawn from the vault to the customer")
            }
            Self::Leaving => write!(
                out,
                "the provider is leaving: `stoa claim` collects what it earned, however little"
            ),
            Self::Unbonding { amount } => write!(out, "{amount} of stake begin to unbond"),
            Self::Unbonded { amount } => {
                write!(out, "{amount} of stake withdrawn to the provider")
            }
            Self::Awarded { to, amount } => {
                write!(
                    out,
                    "{amount} stake tokens that slashes awarded collected to {to}"
                )
            }
            Self::Sent { from, amount } => write!(out, "{amount} payment tokens sent from {from}"),
            Self::SentStake { from, amount } => {
                write!(out, "{amount} stake tokens sent from {from}")
            }
        }
    }
}

/// What cannot be had yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum Waits {
    /// The rest of an allotment.
    Allotment {
        /// Whose.
        router: Address,
        /// What is left of it by now; less, where the router still debits for calls.
        amount: TokenAmount,
        /// When the vault releases it.
        until: Timestamp,
    },
    /// Stake that unbonds, and can be slashed meanwhile.
    Stake {
        /// How much.
        amount: StakeAmount,
        /// When the registry gives it back.
        until: Timestamp,
    },
}

impl Display for Waits {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Allotment {
                router,
                amount,
                until,
            } => {
                let until = rfc3339(*until);
                write!(
                    out,
                    "{amount} allotted to router {router} wait until {until}"
                )
            }
            Self::Stake { amount, until } => {
                write!(out, "{amount} of stake wait until {}", rfc3339(*until))
            }
        }
    }
}

/// What came of one identity.
#[derive(Debug, Serialize)]
pub struct TakenBack {
    /// Which.
    pub identity: u32,
    /// Who paid. Absent where its keys cannot be read.
    pub customer: Option<Address>,
    /// Who served, likewise.
    pub provider: Option<Address>,
    /// Done now, in this order.
    pub moved: Vec<Moved>,
    /// Cannot be had yet.
    pub waits: Vec<Waits>,
    /// What failed; the rest went on, and the next start tries it again.
    pub errors: Vec<String>,
}

impl TakenBack {
    /// Of an identity whose keys cannot be read: nothing.
    pub fn left_out(identity: u32, error: &Failure) -> Self {
        Self {
            identity,
            customer: None,
            provider: None,
            moved: Vec::new(),
            waits: Vec::new(),
            errors: vec![format!("it is left out, its keys cannot be read: {error}")],
        }
    }
}

/// Takes back what there is to be had by now; with `to`, sends it there. What fails for one identity keeps no other waiting.
pub async fn take_back<C: ChainAccess + Clone>(
    joined: &Joined<C>,
    identities: &[IdentityKeys],
    to: Option<Address>,
) -> Result<Vec<TakenBack>, Failure> {
    let customers = identities.iter().map(|keys| keys.customer.address());
    let customers = customers.collect();
    let allotted = logs::allotted(&joined.chain, &joined.contracts, &customers).await?;
    let mut told = Vec::new();
    for keys in identities {
        let customer = keys.customer.address();
        let routers = allotted.iter().filter(|(who, _)| *who == customer);
        let routers = routers.map(|(_, router)| *router).collect();
        told.push(take_one(joined, keys, &routers, to).await);
    }
    Ok(told)
}

async fn take_one<C: ChainAccess + Clone>(
    joined: &Joined<C>,
    keys: &IdentityKeys,
    routers: &BTreeSet<Address>,
    to: Option<Address>,
) -> TakenBack {
    let mut told = TakenBack {
        identity: keys.number,
        customer: Some(keys.customer.address()),
        provider: Some(keys.provider.address()),
        moved: Vec::new(),
        waits: Vec::new(),
        errors: Vec::new(),
    };
    let customer = of_customer(joined, &keys.customer, (routers, to), &mut told).await;
    told.errors.extend(customer.err().map(|e| e.to_string()));
    let provider = of_provider(joined, &keys.provider, to, &mut told).await;
    told.errors.extend(provider.err().map(|e| e.to_string()));
    told
}

async fn of_customer<C: ChainAccess + Clone>(
    joined: &Joined<C>,
    key: &SecretKey,
    (routers, to): (&BTreeSet<Address>, Option<Address>),
    told: &mut TakenBack,
) -> Result<(), Failure> {
    let customer = joined.account(key.clone()).await?;
    for router in routers {
        // One that cannot be ended keeps nobody from what is free.
        if let Err(error) = end_allotment(joined, &customer, *router, told).await {
            let error = format!("the allotment to router {router} cannot be ended: {error}");
            told.errors.push(error);
        }
    }
    let amount = joined.view().free(customer.address()).await?;
    if !amount.is_zero() {
        customer.withdraw(amount).await?;
        told.moved.push(Moved::Withdrawn { amount });
    }
    send_on(joined, &customer, to, told).await
}

async fn end_allotment<C: ChainAccess + Clone>(
    joined: &Joined<C>,
    customer: &Account<C>,
    router: Address,
    told: &mut TakenBack,
) -> Result<(), Failure> {
    let (view, me) = (joined.view(), customer.address());
    let settlement = &joined.profile.rules.settlement;
    let delay = Millis::from_secs(settlement.settle_delay_seconds);
    let mut allotment = view.allotment(me, router).await?;
    if !allotment.live {
        return Ok(());
    }
    let time = chain_time(&joined.chain).await?;
    if time >= allotment.expiry.plus(delay) {
        customer.release(me, router).await?;
        let amount = view.allotment(me, router).await?.released;
        told.moved.push(Moved::Released { router, amount });
        return Ok(());
    }
    // Revoked before, it ends within the notice, and to revoke it again would change nothing.
    let notice = Millis::from_secs(settlement.notice_seconds);
    if allotment.expiry > time.plus(notice) {
        customer.revoke(router).await?;
        told.moved.push(Moved::Revoked { router });
        allotment = view.allotment(me, router).await?;
    }
    let amount = allotment.cap.checked_sub(allotment.debited);
    told.waits.push(Waits::Allotment {
        router,
        amount: amount.unwrap_or_default(),
        until: allotment.expiry.plus(delay),
    });
    Ok(())
}

async fn of_provider<C: ChainAccess + Clone>(
    joined: &Joined<C>,
    key: &SecretKey,
    to: Option<Address>,
    told: &mut TakenBack,
) -> Result<(), Failure> {
    let provider = joined.account(key.clone()).await?;
    let (view, me, role) = (joined.view(), provider.address(), StakeRole::Provider);
    if view.payee(me).await?.is_some() && !view.is_leaving(me).await? {
        provider.announce_leave().await?;
        told.moved.push(Moved::Leaving);
    }
    let stake = view.stake(role, me).await?;
    let due = stake.withdrawable_at <= chain_time(&joined.chain).await?;
    // Before more unbonds, which would keep all of it for as long again.
    if due && !stake.unbonding.is_zero() {
        provider.withdraw_stake(role).await?;
        let amount = stake.unbonding;
        told.moved.push(Moved::Unbonded { amount });
    }
    if !stake.active.is_zero() {
        provider.request_unbond(role, stake.active).await?;
        let amount = stake.active;
        told.moved.push(Moved::Unbonding { amount });
    }
    let left = view.stake(role, me).await?;
    if !left.unbonding.is_zero() {
        told.waits.push(Waits::Stake {
            amount: left.unbonding,
            until: left.withdrawable_at,
        });
    }
    send_on(joined, &provider, to, told).await
}

/// Collects what slashes awarded to an account, and sends what it then holds in its own hands.
async fn send_on<C: ChainAccess + Clone>(
    joined: &Joined<C>,
    account: &Account<C>,
    to: Option<Address>,
    told: &mut TakenBack,
) -> Result<(), Failure> {
    let (view, from) = (joined.view(), account.address());
    let amount = view.awards(from).await?;
    if !amount.is_zero() {
        account.collect_awards(from).await?;
        told.moved.push(Moved::Awarded { to: from, amount });
    }
    let Some(to) = to.filter(|to| *to != from) else {
        return Ok(());
    };
    let amount = view.token_balance(from).await?;
    if !amount.is_zero() {
        account.send_payment_tokens(to, amount).await?;
        told.moved.push(Moved::Sent { from, amount });
    }
    let amount = view.stake_token_balance(from).await?;
    if !amount.is_zero() {
        account.send_stake_tokens(to, amount).await?;
        told.moved.push(Moved::SentStake { from, amount });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
