//! Stake: what a role must have at stake before it is let in.

use super::Joined;
use crate::process::{Failure, complain};
use std::time::Duration;
use stoa_chain::{Account, ChainAccess, StakeRole};
use stoa_types::StakeAmount;

/// How often an account is looked at that waits for stake tokens.
const LOOK: Duration = Duration::from_secs(1);

/// Where the stake tokens of a role come from.
pub enum StakeSource<'a, C> {
    /// This account sends them: `up`, whose deployer holds the supply.
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
                giver.send_stake_tokens(staker.address(), lacking).await?;
            }
        }
        StakeSource::Awaited => wait_for_tokens(joined, staker, role, missing).await?,
    }
    staker.stake(role, missing).await?;
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
