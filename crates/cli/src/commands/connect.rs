//! `stoa connect`: makes this folder the developer of a router somewhere else: deposit, allotment, API key.

use super::Outcome;
use crate::config::Config;
use crate::data::DataDir;
use crate::launch::{JoinArgs, Joined};
use crate::network::{Network, RouterAccess};
use crate::process::{complain, say};
use crate::roles::router::now;
use serde_json::json;
use std::path::{Path, PathBuf};
use stoa_api::KeyHash;
use stoa_chain::{Account, Rpc, StakeRole};
use stoa_types::{Address, Digest, Millis, Timestamp, TokenAmount};

/// Arguments of `stoa connect`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    join: JoinArgs,
    /// The router's account.
    #[arg(long, value_name = "ADDRESS")]
    router: Address,
    /// Base URL of its API, ending in /v1.
    #[arg(long, value_name = "URL")]
    api: String,
    /// Whole payment tokens that it may debit.
    #[arg(long, value_name = "AMOUNT")]
    allot: Option<String>,
    /// Lays the settings of this file over the defaults: [developer] counts.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// Deposits what is missing, allots, and writes how to reach the router. Can be repeated, for the same router or another.
pub async fn connect(data: &Path, args: &Args) -> Outcome {
    let mut config = Config::load(args.config.as_deref())?;
    if let Some(cap) = &args.allot {
        config.developer.cap = TokenAmount::parse(cap)?;
    }
    config.developer.check()?;
    let api = checked_api(&args.api)?;
    let data = DataDir::open(data)?;
    let joined = args.join.join(&data).await?;
    check_router(&joined, args.router).await?;
    let developer = joined.account(data.account_key("developer")?).await?;
    allot(&joined, &developer, args.router, &config).await?;
    // Its own for each router: who has the key can spend what is allotted there.
    let secret = data.secret(&format!("api-{}", args.router))?;
    let key = format!("sk-stoa-{}", hex::encode(secret));
    let access = RouterAccess {
        api: api.clone(),
        key: key.clone(),
        router: args.router,
    };
    remember(&data, args, &joined, developer.address(), access)?;
    let hash = Digest(KeyHash::of(&key).to_bytes());
    let account = developer.address();
    if args.json {
        return Ok(say(
            json!({"account": account, "router": args.router, "api": api, "key": key, "key_hash": hash}),
        )?);
    }
    Ok(say(format_args!(
        "account {account} has allotted to router {}.

  API key    {key}

The router's operator lets the key in by this line in the [router] settings:

  keys = [{{ account = \"{account}\", hash = \"{hash}\" }}]",
        args.router
    ))?)
}

/// The base URL of an API, before anything is paid. Says when what is sent there can be read on the way.
fn checked_api(text: &str) -> Outcome<String> {
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
async fn check_router(joined: &Joined<Rpc>, router: Address) -> Outcome {
    if joined
        .view()
        .stake(StakeRole::Router, router)
        .await?
        .is_active
    {
        return Ok(());
    }
    Err(format!(
        "{router} has no stake as a router of this network; compare the address with what its operator names; nothing was deposited"
    )
    .into())
}

async fn allot(
    joined: &Joined<Rpc>,
    developer: &Account<Rpc>,
    router: Address,
    config: &Config,
) -> Outcome {
    let (view, settings) = (joined.view(), &config.developer);
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
async fn take_back(
    joined: &Joined<Rpc>,
    developer: &Account<Rpc>,
    router: Address,
    expiry: Timestamp,
) -> Outcome {
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
async fn deposit(joined: &Joined<Rpc>, developer: &Account<Rpc>, amount: TokenAmount) -> Outcome {
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

/// Adds the router to the folder's network.json, in front.
fn remember(
    data: &DataDir,
    args: &Args,
    joined: &Joined<Rpc>,
    developer: Address,
    access: RouterAccess,
) -> Outcome {
    let root = data.path("");
    let mut more = match Network::load(&root) {
        Ok(before) => before.routers(),
        Err(crate::network::NetworkError::NotStarted(_)) => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    more.retain(|known| known.router != args.router);
    let file = crate::join::JoinFile::load(&root)?;
    Network {
        api: access.api,
        key: access.key,
        rpc: file.rpc,
        metrics: String::new(),
        chain_id: joined.chain_id,
        contracts: crate::network::contract_names(&joined.contracts),
        router: access.router,
        developer,
        providers: Vec::new(),
        validators: Vec::new(),
        more,
    }
    .save(&root)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::checked_api;

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
