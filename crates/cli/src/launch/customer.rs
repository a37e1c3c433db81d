//! The customer of a router somewhere else: its deposit and its allotment, from its own account.

use super::Joined;
use crate::config::Developer;
use crate::process::{Failure, complain};
use crate::roles::router::now;
use std::time::{Duration, Instant};
use stoa_chain::{Account, AuditContracts, ChainAccess, Judged, StakeRole};
use stoa_types::{Address, Millis, Timestamp, TokenAmount};

/// The base URL of an API, before anything is paid. Says when what is sent there can be read on the way.
pub fn checked_api(text: &str) -> Result<String, Failure> {
    let base = text.trim_end_matches('/');
    let url = reqwest::Url::parse(base).ok();
    let url = url.filter(|url| matches!(url.scheme(), "http" | "https"));
    let Some(url) = url.filter(|url| url.path().ends_with("/v1")) else {
        return Err(format!(
            "`{text}` is no base URL of an API: it must begin with http:// or https:// and end in /v1; nothing was changed"
        )
        .into());
    };
    if url.scheme() == "http" && !is_loopback(&url) {
        complain(
            "the API is plain HTTP: the key and all that is asked can be read on the way, and whoever reads the key can spend the \
             allotment; use it only within a network that you trust",
        )?;
    }
    Ok(base.to_owned())
}

fn is_loopback(url: &reqwest::Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    let address = address.parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// Money that is allotted to who is no router would lie there until the allotment ends.
pub async fn check_router<C: ChainAccess + Clone>(
    joined: &Joined<C>,
    router: Address,
) -> Result<(), Failure> {
    let staked = joined.view().stake(StakeRole::Router, router).await?;
    if staked.is_active {
        return Ok(());
    }
    Err(format!(
        "{router} has no stake as a router of this network; compare the address with what its operator names; nothing was deposited"
    )
    .into())
}

/// How long a router that staked just now may be without its seat: validators look after seats every few seconds.
pub const SEAT_PATIENCE: Duration = Duration::from_secs(20);

/// What a router without a seat posts nobody judges: it could overcharge. Validators give free seats to routers with stake within seconds, for
/// which this waits so long.
pub async fn check_seat<C: ChainAccess + Clone>(
    joined: &Joined<C>,
    router: Address,
    patience: Duration,
) -> Result<(), Failure> {
    let Some(audits) = AuditContracts::find(&joined.chain, &joined.contracts).await? else {
        return Ok(());
    };
    let end = Instant::now() + patience;
    loop {
        let judged = audits.judged(&joined.chain, router).await?;
        let Some(why) = unjudged(judged) else {
            return Ok(());
        };
        if judged != Judged::NotYet || Instant::now() >= end {
            return Err(format!("router {router} {why}; nothing was deposited").into());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// What to know of a router that is not judged though others are, and what to do.
pub fn unjudged(judged: Judged) -> Option<&'static str> {
    match judged {
        Judged::Yes | Judged::NobodyIs => None,
        Judged::NotYet => Some(
            "has no seat yet, so that no validator judges what it posts; validators give routers with stake theirs within seconds: try again in \
             a minute, or choose another router",
        ),
        Judged::SeatsTaken => Some(
            "has no seat, and all of them are taken, so that no validator judges what it posts; choose another router, or trust this one and use \
             --unjudged",
        ),
    }
}

/// Allots what the settings name, deposited where it is missing. Again it brings the allotment up to that and prolongs it.
pub async fn allot<C: ChainAccess + Clone>(
    joined: &Joined<C>,
    developer: &Account<C>,
    router: Address,
    settings: &Developer,
) -> Result<(), Failure> {
    let view = joined.view();
    let me = developer.address();
    let allotment = view.allotment(me, router).await?;
    let is_open = allotment.live && now() < allotment.expiry;
    if allotment.live && !is_open {
        take_back(joined, developer, router, allotment.expiry).await?;
    }
    let left = allotment.cap.checked_sub(allotment.debited);
    let left = left.filter(|_| is_open).unwrap_or_default();
    let missing = settings.cap.checked_sub(left).unwrap_or_default();
    let free = view.free(me).await?;
    if let Some(lacking) = missing.checked_sub(free).filter(|lack| !lack.is_zero()) {
        deposit(joined, developer, lacking).await?;
    }
    let end = now().plus(Millis::from_secs(settings.allotment_seconds));
    if is_open {
        // The vault prolongs and never shortens.
        let end = end.max(allotment.expiry);
        developer.top_up(router, missing, Some(end)).await?;
    } else {
        developer.allot(router, missing, end).await?;
    }
    Ok(())
}

/// Has the vault give back what is left of an allotment that is over.
async fn take_back<C: ChainAccess + Clone>(
    joined: &Joined<C>,
    developer: &Account<C>,
    router: Address,
    expiry: Timestamp,
) -> Result<(), Failure> {
    let settlement = &joined.profile.rules.settlement;
    let releasable = expiry.plus(Millis::from_secs(settlement.settle_delay_seconds));
    if now() < releasable {
        return Err(format!(
            "the allotment to {router} is over, and the vault holds the rest of it for {} more minutes, for what is still to be settled; \
             run this again then; nothing was changed",
            releasable.since(now()).0 / 60_000 + 1
        )
        .into());
    }
    developer.release(developer.address(), router).await?;
    Ok(())
}

/// Puts payment tokens into the vault. On a devnet they are made where they are missing; elsewhere the developer must hold them.
async fn deposit<C: ChainAccess + Clone>(
    joined: &Joined<C>,
    developer: &Account<C>,
    amount: TokenAmount,
) -> Result<(), Failure> {
    let (view, me) = (joined.view(), developer.address());
    let held = view.token_balance(me).await?;
    if let Some(lacking) = amount.checked_sub(held).filter(|lack| !lack.is_zero()) {
        if !joined.profile.rules.devnet {
            return Err(format!(
                "account {me} holds {held} payment tokens and needs {amount}; send {lacking} to it and run this again"
            )
            .into());
        }
        complain(format_args!("making {lacking} test dollars for {me}"))?;
        developer.mint_test_dollars(me, lacking).await?;
    }
    developer.deposit(amount).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::launch::devnet::Devnet;
    use crate::launch::stake::{StakeSource, ensure};
    use crate::launch::{developer, planter};
    use stoa_chain::AuditAccount;
    use stoa_crypto::SecretKey;
    use stoa_types::{Digest, StakeAmount};

    #[tokio::test]
    async fn nothing_is_allotted_to_a_router_that_nobody_judges_though_validators_are_there() {
        let net = Devnet::open().await;
        let (joined, deployer, data) = (net.joined.clone(), &net.deployer, &net.data);
        let (wanted, source) = (
            StakeAmount::parse("50000").expect("a number"),
            StakeSource::Granted(deployer),
        );
        let mut accounts = Vec::new();
        for (n, role) in [(1, StakeRole::Router), (2, StakeRole::Validator)] {
            let key = SecretKey::from_bytes([n; 32]).expect("a key");
            let account = joined.account(key.clone()).await.expect("an account");
            let staked = ensure(&joined, &account, role, wanted, &source).await;
            staked.expect("staked");
            accounts.push((account, key));
        }
        let (validator, key) = accounts.pop().expect("two");
        let router = accounts.pop().expect("two").0.address();
        let check = async || check_seat(&joined, router, Duration::ZERO).await;
        check_router(&joined, router).await.expect("it has stake");
        check().await.expect("nobody is judged here");

        let audits = AuditContracts::find(&joined.chain, &joined.contracts).await;
        let audits = audits.expect("read").expect("deployed");
        let validator = AuditAccount::new(validator, audits);
        let key = key.public_key();
        let joined_in = validator.join(Digest([7; 32]), &key).await;
        joined_in.expect("a seat");
        let refused = check().await.expect_err("it has no seat").to_string();
        // A planter does not begin there; one that began there goes on.
        let plants =
            async |router| planter::check_seat(&joined, data, router, Duration::ZERO).await;
        plants(router).await.expect_err("nothing was planted yet");
        data.folder("planter").expect("made");
        std::fs::write(data.path("planter/identity"), "1").expect("written");
        let key = data.account_key("planter-customer").expect("a key");
        plants(router)
            .await
            .expect_err("it was stopped too soon to plant");
        let settings = Config::load(None).expect("valid").developer;
        let funded = developer::fund(&joined, key, router, &settings, deployer).await;
        funded.expect("allotted");
        plants(router).await.expect("what it planted is named");
        let elsewhere = plants(Address([9; 20])).await;
        elsewhere.expect_err("it began at another router");
        assert!(refused.contains("nothing was deposited"), "{refused}");
        assert!(refused.contains("in a minute"), "{refused}");
        // It comes while one waits.
        let patience = Duration::from_secs(600);
        let (checked, given) = tokio::join!(
            check_seat(&joined, router, patience),
            validator.enrol(router)
        );
        given.expect("a seat");
        checked.expect("it has its seat");
        check().await.expect("it has its seat");
    }

    #[test]
    fn who_gets_no_seat_is_told_what_else_can_be_done() {
        assert!(unjudged(Judged::Yes).is_none() && unjudged(Judged::NobodyIs).is_none());
        let taken = unjudged(Judged::SeatsTaken).expect("a reason");
        assert!(taken.contains("choose another router"), "{taken}");
    }

    #[test]
    fn what_is_no_base_of_an_api_is_refused_before_anything_is_paid() {
        for wrong in ["", "host:8080/v1", "ftp://host/v1", "http://host:8080"] {
            let error = checked_api(wrong).expect_err(wrong).to_string();
            assert!(error.contains("nothing was changed"), "{error}");
        }
        let taken = checked_api("https://host/stoa/v1/").expect("a base");
        assert_eq!(taken, "https://host/stoa/v1");
    }
}
