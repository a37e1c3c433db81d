//! Commands about money: `account`, `withdraw`. They talk to the chain themselves.

use super::Outcome;
use crate::data::read_secret;
use crate::http::Api;
use crate::launch::customer::unjudged;
use crate::network::Network;
use crate::process::{complain, say};
use serde::Deserialize;
use serde_json::json;
use std::path::Path;
use std::time::Duration;
use stoa_chain::{Account, AuditContracts, Contracts, Rpc, Sender, StakeRole, View};
use stoa_crypto::SecretKey;
use stoa_ledger::audit::standing::Standing;
use stoa_types::{Address, StakeAmount, TokenAmount};

/// How long a transaction may take to be mined before it is sent again.
pub(super) const MINING_PATIENCE: Duration = Duration::from_secs(10);

/// Arguments of `stoa withdraw`.
#[derive(Debug, clap::Args)]
pub struct WithdrawArgs {
    /// Whole payment tokens, for example 1.5.
    amount: String,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// Reads the network's contracts over RPC.
pub struct Reader {
    view: View<Rpc>,
    chain: Rpc,
    contracts: Contracts,
}

/// Stake and standing of a provider.
pub struct ProviderStake {
    /// Active stake.
    pub staked: StakeAmount,
    /// Taken by slashes, over the registry's whole log.
    pub slashed: StakeAmount,
    /// What verdicts wrote of it.
    pub standing: Standing,
}

/// A reader of `network`'s contracts.
pub fn reader(network: &Network) -> Outcome<Reader> {
    let (chain, contracts) = (Rpc::new(&network.rpc)?, contracts(network)?);
    Ok(Reader {
        view: View::new(Rpc::new(&network.rpc)?, contracts),
        chain,
        contracts,
    })
}

impl Reader {
    /// Stake of a provider.
    pub async fn provider_stake(&self, provider: Address) -> Outcome<ProviderStake> {
        let stake = self.view.stake(StakeRole::Provider, provider).await?;
        let slashes = crate::logs::slashes(
            &self.chain,
            &self.contracts,
            (StakeRole::Provider, provider),
        )
        .await?;
        let slashed =
            StakeAmount::checked_sum(slashes).ok_or("the slashes do not fit an amount")?;
        let judges = AuditContracts::find(&self.chain, &self.contracts).await?;
        let standing = match judges {
            Some(judges) => judges.standing(&self.chain, provider).await?,
            None => Standing::default(),
        };
        Ok(ProviderStake {
            staked: stake.active,
            slashed,
            standing,
        })
    }
}

/// Where the network's contracts are.
pub fn contracts(network: &Network) -> Outcome<Contracts> {
    let at = |name: &str| {
        network
            .contract(name)
            .ok_or_else(|| format!("network.json names no {name}; start the network again"))
    };
    Ok(Contracts {
        payment_token: at("TestDollar")?,
        stake_token: at("StoaToken")?,
        provider_registry: at("ProviderRegistry")?,
        stake_registry: at("StakeRegistry")?,
        vault: at("PaymentVault")?,
    })
}

/// The account of a key in the folder.
pub(super) async fn account_of(
    data: &Path,
    network: &Network,
    name: &str,
) -> Outcome<Account<Rpc>> {
    let key = SecretKey::from_bytes(read_secret(data, name)?)
        .map_err(|error| format!("key of {name}: {error}"))?;
    let sender = Sender::new(Rpc::new(&network.rpc)?, key, MINING_PATIENCE).await?;
    Ok(Account::new(sender, contracts(network)?))
}

/// Says so where the router lost its seat, or never had one, though others are judged.
async fn warn_of_no_seat(network: &Network) -> Outcome {
    let (chain, contracts) = (Rpc::new(&network.rpc)?, contracts(network)?);
    let Some(audits) = AuditContracts::find(&chain, &contracts).await? else {
        return Ok(());
    };
    let judged = audits.judged(&chain, network.router).await?;
    if let Some(why) = unjudged(judged) {
        complain(format_args!("router {} {why}", network.router))?;
    }
    Ok(())
}

/// `stoa account`: where the developer's money is, on chain and at the router.
pub async fn account(data: &Path, args: &super::show::ShowArgs) -> Outcome {
    #[derive(Deserialize)]
    struct AtRouter {
        reserved: TokenAmount,
        charged: TokenAmount,
        available: TokenAmount,
    }
    let network = Network::load(data)?;
    let view = View::new(Rpc::new(&network.rpc)?, contracts(&network)?);
    let developer = network.developer;
    let (free, wallet) = (
        view.free(developer).await?,
        view.token_balance(developer).await?,
    );
    let allotment = view.allotment(developer, network.router).await?;
    warn_of_no_seat(&network).await?;
    let router: AtRouter = Api::new(&network).get("/stoa/account").await?;
    if args.json {
        let told = json!({
            "account": developer, "wallet": wallet, "free": free, "router": network.router,
            "allotment": {"generation": allotment.generation, "cap": allotment.cap, "debited": allotment.debited,
                "expires_at": allotment.expiry, "live": allotment.live},
            "reserved": router.reserved, "charged": router.charged, "available": router.available,
        });
        return Ok(say(told)?);
    }
    Ok(say(format_args!(
        "account    {developer}
wallet     {wallet}
free       {free} in the vault, withdrawable at once
allotted   {} to router {}
debited    {} on chain
charged    {} by the router
reserved   {} for calls under way
available  {}",
        allotment.cap,
        network.router,
        allotment.debited,
        router.charged,
        router.reserved,
        router.available
    ))?)
}

/// `stoa withdraw`: the developer's free balance to its wallet, at once.
pub async fn withdraw(data: &Path, args: &WithdrawArgs) -> Outcome {
    let network = Network::load(data)?;
    let amount = TokenAmount::parse(&args.amount)
        .map_err(|error| format!("`{}` is no amount to withdraw: {error}", args.amount))?;
    if amount.is_zero() {
        return Err("0 is nothing to withdraw".into());
    }
    let account = account_of(data, &network, "developer").await?;
    let view = View::new(Rpc::new(&network.rpc)?, contracts(&network)?);
    let free = view.free(network.developer).await?;
    if amount > free {
        return Err(format!("{free} is free in the vault, {amount} was asked for; allotted money returns after the allotment ends").into());
    }
    let receipt = account.withdraw(amount).await?;
    if args.json {
        return Ok(say(
            json!({"withdrawn": amount, "transaction": receipt.hash, "block": receipt.block}),
        )?);
    }
    Ok(say(format_args!(
        "{amount} withdrawn to {} in transaction {}",
        network.developer, receipt.hash
    ))?)
}
