//! The developer's money: deposited and allotted once, then kept alive.

use super::Joined;
use crate::config::Developer as Settings;
use crate::process::Failure;
use crate::roles::router::now;
use std::time::Duration;
use stoa_chain::{Account, AllotmentView, ChainAccess, View};
use stoa_crypto::SecretKey;
use stoa_types::{Address, Millis, Timestamp, TokenAmount};

/// How often the allotment is looked after.
const LOOK: Duration = Duration::from_secs(10);

/// Deposits and allots to `router` where that was never done; later it is left to [`Allowance`]. `minter` makes the test dollars of a
/// devnet.
pub async fn fund<C: ChainAccess + Clone>(
    joined: &Joined<C>,
    key: SecretKey,
    router: Address,
    settings: &Settings,
    minter: &Account<C>,
) -> Result<Account<C>, Failure> {
    let developer = joined.account(key).await?;
    let view = joined.view();
    let allotment = view.allotment(developer.address(), router).await?;
    if allotment.generation > 0 {
        return Ok(developer);
    }
    if view.free(developer.address()).await? < settings.cap {
        // What was made before a crash is there, once nothing of the minter is pending any more.
        drop(minter.sender().turn().await?);
        let held = view.token_balance(developer.address()).await?;
        let lacking = settings.deposit.checked_sub(held).unwrap_or_default();
        if !lacking.is_zero() {
            minter
                .mint_test_dollars(developer.address(), lacking)
                .await?;
        }
        developer.deposit(settings.deposit).await?;
    }
    let life = Millis::from_secs(settings.allotment_seconds);
    developer
        .allot(router, settings.cap, now().plus(life))
        .await?;
    Ok(developer)
}

/// Keeps the developer's allotment alive: tops up below half the cap, prolongs before the end, allots anew after a release
/// (DECISIONS 22).
pub struct Allowance<C> {
    view: View<C>,
    developer: Account<C>,
    router: Address,
    settle_delay: Millis,
    settings: Settings,
    /// Whether the log has said that the deposit comes to its end.
    short: bool,
}

impl<C: ChainAccess + Clone> Allowance<C> {
    /// The allotment of `developer` to `router`.
    pub fn new(
        joined: &Joined<C>,
        developer: Account<C>,
        router: Address,
        settings: Settings,
    ) -> Self {
        let settlement = &joined.profile.rules.settlement;
        Self {
            view: joined.view(),
            developer,
            router,
            settle_delay: Millis::from_secs(settlement.settle_delay_seconds),
            settings,
            short: false,
        }
    }

    /// Looks after it for ever.
    pub async fn keep_alive(mut self) {
        let mut ticks = tokio::time::interval(LOOK);
        loop {
            ticks.tick().await;
            if let Err(error) = self.renew().await {
                tracing::warn!(%error, "the developer's allotment could not be renewed; it is tried again");
            }
        }
    }

    /// Does what is due. Gives the time until which the vault holds an allotment that is over: till then nothing can be done.
    pub async fn renew(&mut self) -> Result<Option<Timestamp>, Failure> {
        let (developer, router) = (&self.developer, self.router);
        let allotment = self.view.allotment(developer.address(), router).await?;
        let end = now().plus(Millis::from_secs(self.settings.allotment_seconds));
        if allotment.live && now() < allotment.expiry {
            self.top_up(&allotment, end).await?;
            return Ok(None);
        }
        if allotment.live {
            let releasable = allotment.expiry.plus(self.settle_delay);
            if now() < releasable {
                return Ok(Some(releasable));
            }
            developer.release(developer.address(), router).await?;
        }
        let free = self.view.free(developer.address()).await?;
        let cap = self.settings.cap.min(free);
        if cap.is_zero() {
            self.say_short(free);
        } else {
            developer.allot(router, cap, end).await?;
        }
        Ok(None)
    }

    async fn top_up(&mut self, allotment: &AllotmentView, end: Timestamp) -> Result<(), Failure> {
        let (cap, debited) = (allotment.cap, allotment.debited);
        let left = cap.checked_sub(debited).unwrap_or_default();
        let wanted = self.settings.cap.checked_sub(left).unwrap_or_default();
        let ahead = Millis::from_secs(self.settings.renew_before_seconds);
        let late = now().plus(ahead) >= allotment.expiry;
        let mut add = TokenAmount::ZERO;
        if wanted > left {
            let free = self.view.free(self.developer.address()).await?;
            add = wanted.min(free);
            if free < wanted {
                self.say_short(free);
            }
        }
        if late || !add.is_zero() {
            let prolonged = late.then_some(end);
            self.developer.top_up(self.router, add, prolonged).await?;
        }
        Ok(())
    }

    fn say_short(&mut self, free: TokenAmount) {
        if !std::mem::replace(&mut self.short, true) {
            tracing::warn!(%free, account = %self.developer.address(),
                "the developer's deposit comes to its end; calls are refused when the rest of the allotment is used");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::launch::devnet::Devnet;
    use crate::launch::killed::cut;

    #[tokio::test]
    async fn wherever_a_start_is_cut_the_next_one_makes_and_deposits_nothing_twice() {
        let net = Devnet::open().await;
        let (joined, minter) = (net.joined.clone(), &net.deployer);
        let settings = Config::load(None).expect("valid").developer;
        let router = Address([9; 20]);
        let mut ended = 0_u8;
        for polls in 1..=80_u8 {
            let key = SecretKey::from_bytes([polls; 32]).expect("a key");
            let first = fund(&joined, key.clone(), router, &settings, minter);
            ended += u8::from(cut(first, polls.into()).await);
            let again = fund(&joined, key, router, &settings, minter).await;
            let developer = again.expect("funded").address();
            let view = joined.view();
            let cap = view.allotment(developer, router).await.expect("read").cap;
            assert_eq!(cap, settings.cap, "cut at wait {polls}");
            let free = view.free(developer).await.expect("read");
            assert_eq!(
                free.checked_add(cap),
                Some(settings.deposit),
                "cut at wait {polls}"
            );
            let left = view.token_balance(developer).await.expect("read");
            assert!(left.is_zero(), "cut at wait {polls}: {left} besides");
            if ended == 2 {
                return;
            }
        }
        panic!("no start came to its end: the cuts do not reach far enough");
    }
}
