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
use stoa_chain::{Account, Rpc};
use stoa_types::{Address, Digest, Millis, TokenAmount};

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
    let data = DataDir::open(data)?;
    let joined = args.join.join(&data).await?;
    let developer = joined.account(data.account_key("developer")?).await?;
    allot(&joined, &developer, args.router, &config).await?;
    let key = format!("sk-stoa-{}", hex::encode(data.secret("api")?));
    let access = RouterAccess {
        api: args.api.trim_end_matches('/').to_owned(),
        key: key.clone(),
        router: args.router,
    };
    remember(&data, args, &joined, developer.address(), access)?;
    let hash = Digest(KeyHash::of(&key).to_bytes());
    let account = developer.address();
    if args.json {
        return Ok(say(
            json!({"account": account, "router": args.router, "api": args.api, "key": key, "key_hash": hash}),
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

async fn allot(
    joined: &Joined<Rpc>,
    developer: &Account<Rpc>,
    router: Address,
    config: &Config,
) -> Outcome {
    let (view, settings) = (joined.view(), &config.developer);
    let me = developer.address();
    let allotment = view.allotment(me, router).await?;
    let life = Millis::from_secs(settings.allotment_seconds);
    let left = allotment.cap.checked_sub(allotment.debited);
    let left = left.filter(|_| allotment.live).unwrap_or_default();
    let missing = settings.cap.checked_sub(left).unwrap_or_default();
    let free = view.free(me).await?;
    if let Some(lacking) = missing.checked_sub(free).filter(|lack| !lack.is_zero()) {
        deposit(joined, developer, lacking).await?;
    }
    let end = now().plus(life);
    if allotment.live {
        developer.top_up(router, missing, Some(end)).await?;
    } else {
        developer.allot(router, missing, end).await?;
    }
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
