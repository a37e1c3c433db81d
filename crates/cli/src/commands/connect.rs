//! `stoa connect`: makes this folder the developer of a router somewhere else: deposit, allotment, API key.

use super::Outcome;
use crate::config::Config;
use crate::data::DataDir;
use crate::launch::customer::{SEAT_PATIENCE, allot, check_router, check_seat, checked_api};
use crate::launch::{JoinArgs, Joined};
use crate::network::{Network, RouterAccess};
use crate::process::say;
use serde_json::json;
use std::path::{Path, PathBuf};
use stoa_api::KeyHash;
use stoa_chain::Rpc;
use stoa_types::{Address, Digest, TokenAmount};

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
    /// Allots also to a router without a seat: no validator judges what it posts.
    #[arg(long)]
    unjudged: bool,
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
    if !args.unjudged {
        check_seat(&joined, args.router, SEAT_PATIENCE).await?;
    }
    let developer = joined.account(data.account_key("developer")?).await?;
    allot(&joined, &developer, args.router, &config.developer).await?;
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
