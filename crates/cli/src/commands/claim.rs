//! `stoa claim`: takes to the chain what providers earned. The routers are asked only for the leaves and proofs; what they prove, the
//! vault decides.

use super::Outcome;
use super::money::{MINING_PATIENCE, account_of, contracts};
use super::show::{ShowArgs, print_json};
use crate::data::{providers, read_secret};
use crate::http::Api;
use crate::join::JoinFile;
use crate::launch::Joined;
use crate::launch::routers::Routers;
use crate::network::Network;
use crate::process::{Failure, one_line, say};
use crate::roles::router::now;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use stoa_api::ClaimRow;
use stoa_chain::{Account, ChainAccess, Claim, PayRoots, Rpc, Sender, View};
use stoa_crypto::SecretKey;
use stoa_net::{Answer, AuditClient, RouterAddress, Timeouts};
use stoa_nodes::audit::Question;
use stoa_nodes::payout::{Payout, PayoutProof, PayoutRequest};
use stoa_types::{Address, NetworkProfile, TokenAmount};
use tokio::task::JoinSet;

/// Routers that are asked at once.
const ASKED_AT_ONCE: usize = 16;

/// What came of one router's word about one provider.
#[derive(Serialize)]
struct Paid {
    router: Address,
    provider: Address,
    /// Claimed now, before fees.
    gross: TokenAmount,
    /// Paid out now, after fees.
    paid: TokenAmount,
    /// Too little for a claim yet.
    waiting: TokenAmount,
    /// Earned by the router's books, under no claimable payout root yet.
    not_claimable_yet: TokenAmount,
    /// Why nothing came of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Paid {
    fn nothing(router: Address, provider: Address) -> Self {
        let none = TokenAmount::ZERO;
        Self {
            router,
            provider,
            gross: none,
            paid: none,
            waiting: none,
            not_claimable_yet: none,
            error: None,
        }
    }
}

/// Claims and collects for every provider whose key is in the data folder, whether it runs now or not.
pub async fn claim(data: &Path, args: &ShowArgs) -> Outcome {
    let (told, least) = if data.join("network.json").exists() {
        of_network(data).await?
    } else {
        alone(data).await?
    };
    if args.json {
        print_json(&told)?;
    } else {
        print(&told, least)?;
    }
    let failed = told
        .iter()
        .find_map(|paid| Some((paid, paid.error.as_ref()?)));
    match failed {
        Some((paid, error)) => Err(format!(
            "{} was not paid by router {}: {error}",
            paid.provider, paid.router
        )
        .into()),
        None => Ok(()),
    }
}

fn print(told: &[Paid], least: TokenAmount) -> std::io::Result<()> {
    if told.is_empty() {
        say("nothing is claimable yet: a payout root is claimable after the challenge window")?;
    }
    for paid in told.iter().filter(|paid| paid.error.is_none()) {
        let mut rest = String::new();
        if !paid.waiting.is_zero() {
            rest = format!(", {} wait for the least claim of {least}", paid.waiting);
        }
        if !paid.not_claimable_yet.is_zero() {
            rest += &format!(
                ", {} are earned and not claimable yet: a payout root is claimable after the challenge window",
                paid.not_claimable_yet
            );
        }
        say(format_args!(
            "{}: {} gross claimed, {} paid out{rest}",
            paid.provider, paid.gross, paid.paid
        ))?;
    }
    Ok(())
}

/// For the providers of an `up`: its router's API gives the proofs.
async fn of_network(data: &Path) -> Outcome<(Vec<Paid>, TokenAmount)> {
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
            let payout = Payout {
                fee_version: row.fee_version,
                earned: row.lifetime_gross,
                claim: Some(PayoutProof {
                    lifetime_gross: row.lifetime_gross,
                    provider_root: row.provider_root,
                    debit_root: row.debit_root,
                    proof: row.proof.clone(),
                }),
            };
            let books = Books {
                account: &account,
                view: &view,
                least,
                router: network.router,
            };
            told.push(books.pay(payout).await);
        }
    }
    Ok((told, least))
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

/// For a provider that runs alone: it asks every router that the registry names, by its own account.
async fn alone(data: &Path) -> Outcome<(Vec<Paid>, TokenAmount)> {
    let file = JoinFile::load(data)?;
    let (chain, profile) = (Rpc::new(&file.rpc)?, file.profile()?);
    let chain_id = chain.chain_id().await?;
    if chain_id != file.chain_id {
        return Err(format!(
            "the chain at {} is chain {chain_id}, the network's is chain {}; nothing was claimed",
            chain.server(),
            file.chain_id
        )
        .into());
    }
    let names = providers(data)?;
    if names.is_empty() {
        return Err(format!(
            "{} holds no provider's key: `stoa claim` runs in the folder of a provider",
            data.display()
        )
        .into());
    }
    let joined = Joined {
        chain,
        chain_id,
        contracts: file.contracts,
        profile,
    };
    let least = joined.profile.rules.settlement.claim_min;
    let mut told = Vec::new();
    for name in names {
        let key = SecretKey::from_bytes(read_secret(data, &name)?)
            .map_err(|error| format!("key of {name}: {error}"))?;
        told.extend(of_routers(&joined, key, least).await?);
    }
    Ok((told, least))
}

async fn of_routers(
    joined: &Joined<Rpc>,
    key: SecretKey,
    least: TokenAmount,
) -> Outcome<Vec<Paid>> {
    let provider = key.address();
    let mut directory = Routers::new(joined);
    directory.read().await?;
    let sender = Sender::new(joined.chain.clone(), key.clone(), MINING_PATIENCE).await?;
    let account = Account::new(sender, joined.contracts);
    let view = joined.view();
    let mut told = Vec::new();
    for (router, payouts) in ask_all(joined, &key, directory.all()).await {
        let books = Books {
            account: &account,
            view: &view,
            least,
            router,
        };
        match payouts {
            Ok(payouts) => {
                for payout in payouts {
                    told.push(books.pay(payout).await);
                }
            }
            Err(error) => told.push(Paid {
                error: Some(error),
                ..Paid::nothing(router, provider)
            }),
        }
    }
    // A router that is gone for good, and owes nothing that was ever booked, must not make every claim fail.
    let mut kept = Vec::new();
    for paid in told {
        // What cannot be looked up is told.
        let booked = match view.totals(paid.router).await {
            Ok(totals) => !totals.debited.is_zero(),
            Err(_) => true,
        };
        if paid.error.is_none() || booked {
            kept.push(paid);
        }
    }
    Ok(kept)
}

type Asked = Vec<(Address, Result<Vec<Payout>, String>)>;

/// What each router says that it owes.
async fn ask_all(
    joined: &Joined<Rpc>,
    key: &SecretKey,
    routers: Vec<(Address, RouterAddress)>,
) -> Asked {
    let (mut asking, mut asked) = (JoinSet::new(), Vec::new());
    for (router, address) in routers {
        if asking.len() >= ASKED_AT_ONCE
            && let Some(Ok(answered)) = asking.join_next().await
        {
            asked.push(answered);
        }
        let request = PayoutRequest::sign(key, &joined.domain(), router, now());
        asking.spawn(async move {
            let answered = ask(&address, request).await;
            (router, answered.map_err(|error| error.to_string()))
        });
    }
    asked.extend(asking.join_all().await);
    asked.sort_by_key(|(router, _)| *router);
    asked
}

async fn ask(router: &RouterAddress, request: PayoutRequest) -> Result<Vec<Payout>, Failure> {
    // One socket for each: what one router does to it is not the others'.
    let any = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
    let client = AuditClient::bind(any, Timeouts::default()).await?;
    let answered = client.ask(router, &Question::Payouts(request)).await;
    client.close().await;
    match answered
        .map_err(|error| format!("the router cannot be asked: {error}; try again later"))?
    {
        Answer::Payouts(payouts) => Ok(payouts),
        Answer::Nothing(reason) => Err(format!("the router says: {reason}").into()),
        _ => Err("the router answered another question".into()),
    }
}

/// A provider's side of what one router owes to it.
struct Books<'a> {
    account: &'a Account<Rpc>,
    view: &'a View<Rpc>,
    least: TokenAmount,
    router: Address,
}

impl Books<'_> {
    fn provider(&self) -> Address {
        self.account.address()
    }

    /// Claims what can be claimed and says what cannot yet. One router's trouble is not the others': what was paid is told in any case.
    async fn pay(&self, payout: Payout) -> Paid {
        let taken = self.try_pay(payout).await;
        taken.unwrap_or_else(|error| Paid {
            error: Some(error.to_string()),
            ..Paid::nothing(self.router, self.provider())
        })
    }

    async fn try_pay(&self, payout: Payout) -> Outcome<Paid> {
        let (router, provider) = (self.router, self.provider());
        let Payout {
            fee_version,
            earned,
            claim,
        } = payout;
        let less = |from: TokenAmount, what| from.checked_sub(what).unwrap_or_default();
        let before = self.view.claimed(router, provider, fee_version).await?;
        let totals = self.view.totals(router).await?;
        // The vault pays what developers were debited and no more.
        let open = less(totals.debited, totals.claimed);
        let covered = claim.as_ref().map(|proof| proof.lifetime_gross);
        let due = less(covered.unwrap_or_default(), before).min(open);
        let none = TokenAmount::ZERO;
        let mut paid = Paid {
            waiting: due,
            not_claimable_yet: less(less(earned, before), due),
            ..Paid::nothing(router, provider)
        };
        if let Some(proof) = claim.filter(|_| !due.is_zero() && due >= self.least) {
            let claim = Claim {
                router,
                provider,
                fee_version,
                lifetime_gross: proof.lifetime_gross,
                roots: PayRoots {
                    provider_root: proof.provider_root,
                    debit_root: proof.debit_root,
                },
                proof: proof.proof,
            };
            self.account.claim(&claim).await?;
            (paid.gross, paid.waiting) = (due, none);
        }
        // What was claimed is told whatever becomes of this; the next claim collects it then.
        match self.collect().await {
            Ok(collected) => paid.paid = collected,
            Err(error) => paid.error = Some(error.to_string()),
        }
        Ok(paid)
    }

    /// Takes out of the vault what it owes to the provider.
    async fn collect(&self) -> Outcome<TokenAmount> {
        let owed = self.view.owed(self.provider()).await?;
        if !owed.is_zero() {
            self.account.collect(self.provider()).await?;
        }
        Ok(owed)
    }
}
