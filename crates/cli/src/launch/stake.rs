//! Stake: what a role must have at stake before it is let in.

use super::Joined;
use crate::logs;
use crate::process::{Failure, complain};
use std::time::Duration;
use stoa_chain::{Account, ChainAccess, StakeRole};
use stoa_types::{Address, StakeAmount};

/// How often an account is looked at that waits for stake tokens.
const LOOK: Duration = Duration::from_secs(1);

/// Where the stake tokens of a role come from.
pub enum StakeSource<'a, C> {
    /// This account sends them: `up`, whose deployer holds the supply. Also after a slash.
    Granted(&'a Account<C>),
    /// Whoever wants the role to run sends them; it waits until they are there.
    Awaited,
}

/// Stakes `wanted` for who has no stake yet, and more where the role demands more. Who has some is brought up to what the role demands and no
/// further: what a slash took is not put back by a restart as long as the rest suffices.
pub async fn ensure<C: ChainAccess + Clone>(
    joined: &Joined<C>,
    staker: &Account<C>,
    role: StakeRole,
    wanted: StakeAmount,
    source: &StakeSource<'_, C>,
) -> Result<(), Failure> {
    let view = joined.view();
    let stake = view.stake(role, staker.address()).await?;
    // What was claimed in the loadout may demand more than the configuration names.
    let wanted = if stake.active.is_zero() {
        wanted.max(stake.minimum)
    } else {
        stake.minimum
    };
    let missing = wanted.checked_sub(stake.active);
    let Some(missing) = missing.filter(|missing| !missing.is_zero()) else {
        return Ok(());
    };
    match source {
        StakeSource::Granted(giver) => {
            // What was sent before a crash is there, once nothing of the giver is pending any more.
            drop(giver.sender().turn().await?);
            let held = view.stake_token_balance(staker.address()).await?;
            if let Some(lacking) = missing.checked_sub(held).filter(|lack| !lack.is_zero()) {
                tell_of_slashes(joined, role, staker.address()).await?;
                giver.send_stake_tokens(staker.address(), lacking).await?;
            }
        }
        StakeSource::Awaited => wait_for_tokens(joined, staker, role, missing).await?,
    }
    staker.stake(role, missing).await?;
    Ok(())
}

/// Brings an account up to so many stake tokens beside its stake, where they are given away.
pub async fn grant<C: ChainAccess + Clone>(
    joined: &Joined<C>,
    account: Address,
    wanted: StakeAmount,
    source: &StakeSource<'_, C>,
) -> Result<(), Failure> {
    let StakeSource::Granted(giver) = source else {
        return Ok(());
    };
    drop(giver.sender().turn().await?);
    let held = joined.view().stake_token_balance(account).await?;
    if let Some(lacking) = wanted.checked_sub(held).filter(|lack| !lack.is_zero()) {
        giver.send_stake_tokens(account, lacking).await?;
    }
    Ok(())
}

/// Whose stake was slashed gets another from `up`, or the network that it runs could not start again: its stake is worth nothing, and what
/// the account did stays in its reputation and on the pages. Where stake is bought, nobody does that.
async fn tell_of_slashes<C: ChainAccess + Clone>(
    joined: &Joined<C>,
    role: StakeRole,
    account: Address,
) -> Result<(), Failure> {
    let slashes = logs::slashes(&joined.chain, &joined.contracts, (role, account)).await?;
    if !slashes.is_empty() {
        tracing::warn!(%account, ?role, slashes = slashes.len(),
            "its stake was slashed; `up` grants it another, and what it did stays on the chain");
    }
    Ok(())
}

async fn wait_for_tokens<C: ChainAccess + Clone>(
    joined: &Joined<C>,
    staker: &Account<C>,
    role: StakeRole,
    missing: StakeAmount,
) -> Result<(), Failure> {
    let view = joined.view();
    let mut told = false;
    loop {
        let held = view.stake_token_balance(staker.address()).await?;
        let Some(lacking) = missing.checked_sub(held).filter(|lack| !lack.is_zero()) else {
            return Ok(());
        };
        if !std::mem::replace(&mut told, true) {
            let account = staker.address();
            complain(format_args!(
                "waiting for stake: send {lacking} stake tokens to {account}, the account of this {role:?}; in the folder of a devnet's chain, \
                 `stoa fund {account} --stake {lacking}` does it"
            ))?;
        }
        tokio::time::sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::launch::devnet::Devnet;
    use crate::launch::killed::cut;
    use stoa_crypto::SecretKey;

    #[tokio::test]
    async fn wherever_a_start_is_cut_the_next_one_sends_and_stakes_nothing_twice() {
        let net = Devnet::open().await;
        let (joined, deployer) = (net.joined.clone(), &net.deployer);
        let wanted = StakeAmount::parse("50000").expect("a number");
        let source = StakeSource::Granted(deployer);
        let role = StakeRole::Router;
        let mut ended = 0_u8;
        for polls in 1..=60_u8 {
            let key = SecretKey::from_bytes([polls; 32]).expect("a key");
            let first = joined.account(key.clone()).await.expect("an account");
            ended +=
                u8::from(cut(ensure(&joined, &first, role, wanted, &source), polls.into()).await);
            let again = joined.account(key).await.expect("an account");
            ensure(&joined, &again, role, wanted, &source)
                .await
                .expect("staked");
            let view = joined.view();
            let stake = view.stake(role, again.address()).await.expect("read");
            assert_eq!(stake.active, wanted, "cut at wait {polls}");
            let left = view.stake_token_balance(again.address()).await;
            assert!(left.expect("read").is_zero(), "cut at wait {polls}");
            if ended == 2 {
                return;
            }
        }
        panic!("no start came to its end: the cuts do not reach far enough");
    }
}
