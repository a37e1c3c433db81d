//! Commands about money: `account`, `claim`, `withdraw`. They talk to the chain themselves; the router is asked only for the
//! leaves that a claim needs.

use super::Outcome;
use super::show::print_json;
use crate::data::{providers, read_secret};
use crate::http::Api;
use crate::network::Network;
use crate::process::{one_line, say};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::path::Path;
use std::time::Duration;
use stoa_api::ClaimRow;
use stoa_chain::{
    Account, AuditContracts, Claim, Contracts, PayRoots, Rpc, Sender, StakeRole, View,
};
use stoa_crypto::SecretKey;
use stoa_ledger::audit::standing::Standing;
use stoa_types::{Address, NetworkProfile, StakeAmount, TokenAmount};

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

#[derive(Serialize)]
struct Paid {
    provider: Address,
    gross: TokenAmount,
    paid: TokenAmount,
    /// Too little for a claim yet.
    waiting: TokenAmount,
    /// Why nothing came of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// `stoa claim`: claims and collects for every provider whose key is in the data folder, whether it runs now or not.
pub async fn claim(data: &Path, args: &super::show::ShowArgs) -> Outcome {
    #[derive(Deserialize)]
    struct Rows {
        data: Vec<ClaimRow>,
    }
    let network = Network::load(data)?;
    let least = claim_min(data)?;
    let rows: Rows = Api::new(&network).get("/stoa/claims").await?;
    let view = View::new(Rpc::new(&network.rpc)?, contracts(&network)?);
    let mut told = Vec::new();
    for name in providers(data)? {
        let account = account_of(data, &network, &name).await?;
        for row in rows.data.iter().filter(|r| r.provider == account.address()) {
            let paid = claim_one(&network, &account, &view, row, least).await;
            // One provider's trouble is not the others': what was paid is told in any case.
            told.push(paid.unwrap_or_else(|error| Paid {
                provider: row.provider,
                gross: TokenAmount::ZERO,
                paid: TokenAmount::ZERO,
                waiting: TokenAmount::ZERO,
                error: Some(error.to_string()),
            }));
        }
    }
    if args.json {
        print_json(&told)?;
    } else if told.is_empty() {
        say("nothing is claimable yet: a payout root is claimable after the challenge window")?;
    }
    for paid in told.iter().filter(|_| !args.json) {
        let Paid {
            provider,
            gross,
            waiting,
            ..
        } = paid;
        let rest = if waiting.is_zero() {
            String::new()
        } else {
            format!(", {waiting} wait for the least claim of {least}")
        };
        say(format_args!(
            "{provider}: {gross} gross claimed, {} paid out{rest}",
            paid.paid
        ))?;
    }
    let failed = told
        .iter()
        .find_map(|paid| Some((paid.provider, paid.error.as_ref()?)));
    match failed {
        Some((provider, error)) => Err(format!("{provider} was not paid: {error}").into()),
        None => Ok(()),
    }
}

/// The vault's least claim, from the profile that its contracts were made with.
fn claim_min(data: &Path) -> Outcome<TokenAmount> {
    let path = data.join("profile.toml");
    let text = std::fs::read_to_string(&path)
        .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let profile = NetworkProfile::parse(&text)
        .map_err(|error| format!("{} is damaged: {}", path.display(), one_line(error)))?;
    Ok(profile.settlement.claim_min)
}

async fn claim_one(
    network: &Network,
    account: &Account<Rpc>,
    view: &View<Rpc>,
    row: &ClaimRow,
    least: TokenAmount,
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
    let enough = !due.is_zero() && due >= least;
    if enough {
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
    let (gross, waiting) = if enough {
        (due, TokenAmount::ZERO)
    } else {
        (TokenAmount::ZERO, due)
    };
    Ok(Paid {
        provider: row.provider,
        gross,
        paid: owed,
        waiting,
        error: None,
    })
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
