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
        minter
            .mint_test_dollars(developer.address(), settings.deposit)
            .await?;
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
