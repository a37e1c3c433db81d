//! Commands about money: `account`, `claim`, `withdraw`. They talk to the chain themselves; the router is asked only for the
//! leaves that a claim needs.

use super::Outcome;
use crate::data::read_secret;
use crate::http::Api;
use crate::network::Network;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::path::Path;
use std::time::Duration;
use stoa_api::ClaimRow;
use stoa_chain::{Account, Claim, Contracts, PayRoots, Rpc, Sender, StakeRole, View};
use stoa_crypto::SecretKey;
use stoa_types::{Address, StakeAmount, TokenAmount};

const MINING_PATIENCE: Duration = Duration::from_secs(10);

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

/// Stake of a provider.
pub struct ProviderStake {
    /// Active stake.
    pub staked: StakeAmount,
    /// Taken by slashes, over the registry's whole log.
    pub slashed: StakeAmount,
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
        let slashes = super::logs::slashes(&self.chain, &self.contracts, provider).await?;
        let slashed =
            StakeAmount::checked_sum(slashes).ok_or("the slashes do not fit an amount")?;
        Ok(ProviderStake {
            staked: stake.active,
            slashed,
        })
    }
}

fn contracts(network: &Network) -> Outcome<Contracts> {
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

async fn account_of(data: &Path, network: &Network, name: &str) -> Outcome<Account<Rpc>> {
    let key = SecretKey::from_bytes(read_secret(data, name)?)
        .map_err(|error| format!("key of {name}: {error}"))?;
    let sender = Sender::new(Rpc::new(&network.rpc)?, key, MINING_PATIENCE).await?;
    Ok(Account::new(sender, contracts(network)?))
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
    let router: AtRouter = Api::new(&network).get("/stoa/account").await?;
    if args.json {
        let told = json!({
            "account": developer, "wallet": wallet, "free": free, "router": network.router,
            "allotment": {"generation": allotment.generation, "cap": allotment.cap, "debited": allotment.debited,
                "expires_at": allotment.expiry, "live": allotment.live},
            "reserved": router.reserved, "charged": router.charged, "available": router.available,
        });
        println!("{told}");
        return Ok(());
    }
    println!("account    {developer}");
    println!("wallet     {wallet}");
    println!("free       {free} in the vault, withdrawable at once");
    println!("allotted   {} to router {}", allotment.cap, network.router);
    println!("debited    {} on chain", allotment.debited);
    println!("charged    {} by the router", router.charged);
    println!("reserved   {} for calls under way", router.reserved);
    println!("available  {}", router.available);
    Ok(())
}

#[derive(Serialize)]
struct Paid {
    provider: Address,
    gross: TokenAmount,
    paid: TokenAmount,
}

/// `stoa claim`: claims and collects for every provider whose key is in the data folder.
pub async fn claim(data: &Path, args: &super::show::ShowArgs) -> Outcome {
    #[derive(Deserialize)]
    struct Rows {
        data: Vec<ClaimRow>,
    }
    let network = Network::load(data)?;
    let rows: Rows = Api::new(&network).get("/stoa/claims").await?;
    let view = View::new(Rpc::new(&network.rpc)?, contracts(&network)?);
    let mut told = Vec::new();
    for (n, provider) in network.providers.iter().enumerate() {
        let account = account_of(data, &network, &format!("provider-{n}")).await?;
        for row in rows.data.iter().filter(|row| row.provider == *provider) {
            told.push(claim_one(&network, &account, &view, row).await?);
        }
    }
    if args.json {
        println!("{}", serde_json::to_string(&told)?);
    } else if told.is_empty() {
        println!("nothing is claimable yet: a payout root is claimable after the challenge window");
    }
    for paid in told.iter().filter(|_| !args.json) {
        println!(
            "{}: {} gross claimed, {} paid out",
            paid.provider, paid.gross, paid.paid
        );
    }
    Ok(())
}

async fn claim_one(
    network: &Network,
    account: &Account<Rpc>,
    view: &View<Rpc>,
    row: &ClaimRow,
) -> Outcome<Paid> {
    let before = view
        .claimed(network.router, row.provider, row.fee_version)
        .await?;
    let totals = view.totals(network.router).await?;
    let open = totals
        .debited
        .checked_sub(totals.claimed)
        .unwrap_or_default();
    let due = row
        .lifetime_gross
        .checked_sub(before)
        .unwrap_or_default()
        .min(open);
    if !due.is_zero() {
        let claim = Claim {
            router: network.router,
            provider: row.provider,
            fee_version: row.fee_version,
            lifetime_gross: row.lifetime_gross,
            roots: PayRoots {
                provider_root: row.provider_root,
                debit_root: row.debit_root,
            },
            proof: row.proof.clone(),
        };
        account.claim(&claim).await?;
    }
    let owed = view.owed(row.provider).await?;
    if !owed.is_zero() {
        account.collect(row.provider).await?;
    }
    Ok(Paid {
        provider: row.provider,
        gross: due,
        paid: owed,
    })
}

/// `stoa withdraw`: the developer's free balance to its wallet, at once.
pub async fn withdraw(data: &Path, args: &WithdrawArgs) -> Outcome {
    let network = Network::load(data)?;
    let amount = TokenAmount::parse(&args.amount)?;
    let account = account_of(data, &network, "developer").await?;
    let view = View::new(Rpc::new(&network.rpc)?, contracts(&network)?);
    let free = view.free(network.developer).await?;
    if amount > free {
        return Err(format!("{free} is free in the vault, {amount} was asked for; allotted money returns after the allotment ends").into());
    }
    let receipt = account.withdraw(amount).await?;
    if args.json {
        println!(
            "{}",
            json!({"withdrawn": amount, "transaction": receipt.hash, "block": receipt.block})
        );
    } else {
        println!(
            "{amount} withdrawn to {} in transaction {}",
            network.developer, receipt.hash
        );
    }
    Ok(())
}
