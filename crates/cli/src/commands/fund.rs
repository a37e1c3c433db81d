//! `stoa fund`: hands out the stake tokens and test dollars of a devnet, in the folder of its chain.

use super::Outcome;
use crate::data::read_secret;
use crate::join::JoinFile;
use crate::launch::Joined;
use crate::process::say;
use serde_json::json;
use std::path::Path;
use stoa_chain::{AuditContracts, Rpc};
use stoa_crypto::SecretKey;
use stoa_types::{Address, StakeAmount, TokenAmount};

/// Arguments of `stoa fund`. Each start sends what is named; without any amount it only says what the account holds.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Who gets it.
    account: Address,
    /// Whole stake tokens.
    #[arg(long, value_name = "AMOUNT")]
    stake: Option<String>,
    /// Whole test dollars.
    #[arg(long, value_name = "AMOUNT")]
    dollars: Option<String>,
    /// Lets it plant: buy false answers to see which validators look.
    #[arg(long)]
    planter: bool,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// Sends what was asked for from the account that deployed the network.
pub async fn fund(data: &Path, args: &Args) -> Outcome {
    let stake = args.stake.as_deref().map(StakeAmount::parse).transpose()?;
    let dollars = args
        .dollars
        .as_deref()
        .map(TokenAmount::parse)
        .transpose()?;
    let file = JoinFile::load(data)?;
    let profile = file.profile()?;
    if !profile.rules.devnet {
        let name = profile.rules.name;
        return Err(format!(
            "profile `{name}` is no devnet: its tokens are bought, not handed out"
        )
        .into());
    }
    let key = SecretKey::from_bytes(read_secret(data, "deployer")?)?;
    let joined = Joined {
        chain: Rpc::new(&file.rpc)?,
        chain_id: file.chain_id,
        contracts: file.contracts,
        profile,
    };
    let deployer = joined.account(key).await?;
    if let Some(stake) = stake {
        deployer.send_stake_tokens(args.account, stake).await?;
    }
    if let Some(dollars) = dollars {
        deployer.mint_test_dollars(args.account, dollars).await?;
    }
    if args.planter {
        let audits = AuditContracts::find(&joined.chain, &joined.contracts).await?;
        let audits = audits.ok_or("nobody judges on this network, so that nobody can plant")?;
        audits
            .set_planter(deployer.sender(), args.account, true)
            .await?;
    }
    let view = joined.view();
    let (held, dollars) = (
        view.stake_token_balance(args.account).await?,
        view.token_balance(args.account).await?,
    );
    if args.json {
        return Ok(say(
            json!({"account": args.account, "stake_tokens": held, "test_dollars": dollars}),
        )?);
    }
    Ok(say(format_args!(
        "{} holds {held} stake tokens and {dollars} test dollars",
        args.account
    ))?)
}
