//! `stoa claim`: takes to the chain what providers earned. The routers are asked only for the leaves and proofs; what they prove, the
//! vault decides.

use super::Outcome;
use super::money::MINING_PATIENCE;
use super::show::{ShowArgs, print_json};
use crate::data::{providers, read_secret};
use crate::join::JoinFile;
use crate::launch::Joined;
use crate::launch::routers::Routers;
use crate::process::{Failure, say};
use crate::roles::router::now;
use serde::Serialize;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use stoa_chain::{Account, ChainAccess, Claim, PayRoots, Rpc, Sender, StakeRole, View};
use stoa_crypto::SecretKey;
use stoa_net::{Answer, AuditClient, NetError, RouterAddress, StreamError, Timeouts};
use stoa_nodes::audit::Question;
use stoa_nodes::payout::{Payout, PayoutRequest};
use stoa_types::{Address, TokenAmount};
use tokio::task::JoinSet;

/// Routers that are looked up, and that are asked, at once.
const AT_ONCE: usize = 16;

/// What came of one router's word about one provider.
#[derive(Serialize)]
struct Paid {
    /// `None`: the vault owed it already.
    #[serde(skip_serializing_if = "Option::is_none")]
    router: Option<Address>,
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
    fn nothing(router: Option<Address>, provider: Address) -> Self {
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

/// Arguments of `stoa claim`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Asks this router alone, whatever the vault says of it.
    #[arg(long, value_name = "ADDRESS")]
    router: Option<Address>,
    #[command(flatten)]
    show: ShowArgs,
}

/// Claims and collects for every provider whose key is in the data folder, whether it runs now or not.
pub async fn claim(data: &Path, args: &Args) -> Outcome {
    let purse = Purse::open(data).await?;
    let mut told = Vec::new();
    let ended = purse.fill(args.router, &mut told).await;
    told.sort_by_key(|paid| (paid.provider, paid.router));
    if args.show.json {
        print_json(&told)?;
    } else {
        print(&told, purse.least)?;
    }
    // What was paid is told before what went wrong.
    ended?;
    let failed = told
        .iter()
        .find_map(|paid| Some((paid, paid.error.as_ref()?)));
    let Some((paid, error)) = failed else {
        return Ok(());
    };
    let by = paid.router.map_or_else(
        || "the vault".to_owned(),
        |router| format!("router {router}"),
    );
    Err(format!("{} was not paid by {by}: {error}", paid.provider).into())
}

fn print(told: &[Paid], least: TokenAmount) -> std::io::Result<()> {
    if told.is_empty() {
        say(
            "nothing to claim: the vault owes these providers nothing, and no router's books name them",
        )?;
    }
    for paid in told.iter().filter(|paid| paid.error.is_none()) {
        let mut rest = String::new();
        if paid.router.is_none() {
            rest = ", which earlier claims had left in the vault".to_owned();
        }
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

/// A router to be asked.
#[derive(Clone)]
struct Chosen {
    router: Address,
    address: RouterAddress,
    /// It was paid for, or was named: whoever does not hear from it is told so.
    counts: bool,
}

/// The providers of a folder, and the network that they earned in.
struct Purse {
    joined: Joined<Rpc>,
    providers: Vec<(SecretKey, Account<Rpc>)>,
    least: TokenAmount,
}

impl Purse {
    /// A folder's join.json says which network it is; whether it is also a developer's says nothing about its providers.
    async fn open(data: &Path) -> Outcome<Self> {
        let file = JoinFile::load(data)?;
        let (chain, profile) = (Rpc::new(&file.rpc)?, file.profile()?);
        let names = providers(data)?;
        if names.is_empty() {
            return Err(format!(
                "{} holds no provider's key: `stoa claim` runs in the folder of a provider",
                data.display()
            )
            .into());
        }
        let chain_id = chain.chain_id().await?;
        if chain_id != file.chain_id {
            return Err(format!(
                "the chain at {} is chain {chain_id}, the network's is chain {}; nothing was claimed",
                chain.server(),
                file.chain_id
            )
            .into());
        }
        let mut providers = Vec::new();
        for name in names {
            let key = SecretKey::from_bytes(read_secret(data, &name)?)
                .map_err(|error| format!("key of {name}: {error}"))?;
            let sender = Sender::new(chain.clone(), key.clone(), MINING_PATIENCE).await?;
            providers.push((key, Account::new(sender, file.contracts)));
        }
        let least = profile.rules.settlement.claim_min;
        let joined = Joined {
            chain,
            chain_id,
            contracts: file.contracts,
            profile,
        };
        Ok(Self {
            joined,
            providers,
            least,
        })
    }

    /// Has everybody paid. What came of it is in `told`, also where this ends with an error.
    async fn fill(&self, only: Option<Address>, told: &mut Vec<Paid>) -> Outcome {
        // What the vault owes needs no router's word.
        for (_, account) in &self.providers {
            told.extend(self.collect_first(account).await);
        }
        let chosen = match only {
            Some(router) => vec![self.named(router).await?],
            None => payers(&self.joined).await?,
        };
        for (key, account) in &self.providers {
            self.fill_one((key, account), &chosen, told).await;
        }
        Ok(())
    }

    async fn collect_first(&self, account: &Account<Rpc>) -> Option<Paid> {
        let provider = account.address();
        let row = Paid::nothing(None, provider);
        match collect(account, &self.joined.view()).await {
            Ok(none) if none.is_zero() => None,
            Ok(paid) => Some(Paid { paid, ..row }),
            Err(error) => Some(Paid {
                error: Some(error.to_string()),
                ..row
            }),
        }
    }

    async fn named(&self, router: Address) -> Outcome<Chosen> {
        let mut directory = Routers::new(&self.joined);
        directory.read().await?;
        let said = directory.get(router).ok_or_else(|| {
            format!("{router} never registered as a router with an address that can be dialled")
        })?;
        Ok(Chosen {
            router,
            address: said.address.clone(),
            counts: true,
        })
    }

    /// Asks the routers about one provider, and claims as they answer: who is slow holds up nobody's pay but its own.
    async fn fill_one(
        &self,
        (key, account): (&SecretKey, &Account<Rpc>),
        routers: &[Chosen],
        told: &mut Vec<Paid>,
    ) {
        let (view, provider) = (self.joined.view(), account.address());
        let leaving = view.is_leaving(provider).await.unwrap_or(false);
        let least = least_of(self.least, leaving);
        let (mut asking, mut left) = (JoinSet::new(), routers.iter().cloned());
        loop {
            for chosen in left.by_ref().take(AT_ONCE - asking.len()) {
                let request = PayoutRequest::sign(key, &self.joined.domain(), chosen.router, now());
                asking.spawn(async move {
                    let answered = ask(&chosen.address, request).await;
                    (chosen, answered.map_err(|error| error.to_string()))
                });
            }
            let Some(answered) = asking.join_next().await else {
                return;
            };
            let Ok((chosen, payouts)) = answered else {
                continue;
            };
            let router = chosen.router;
            let books = Books {
                account,
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
                Err(error) if chosen.counts => told.push(Paid {
                    error: Some(error),
                    ..Paid::nothing(Some(router), provider)
                }),
                // Nothing was ever debited for it: there is nothing to be paid from.
                Err(_) => {}
            }
        }
    }
}

/// The vault waives the least claim for who is leaving.
const fn least_of(claim_min: TokenAmount, leaving: bool) -> TokenAmount {
    if leaving {
        TokenAmount::ZERO
    } else {
        claim_min
    }
}

/// Those who can have something to pay: developers were debited for them, or they hold the stake of a router. To register costs next to
/// nothing, and whoever did no more is not asked.
async fn payers<C: ChainAccess + Clone + 'static>(joined: &Joined<C>) -> Outcome<Vec<Chosen>> {
    let mut directory = Routers::new(joined);
    directory.read().await?;
    let (mut looking, mut chosen) = (JoinSet::new(), Vec::new());
    for (router, address) in directory.all() {
        if looking.len() >= AT_ONCE
            && let Some(Ok(found)) = looking.join_next().await
        {
            chosen.extend::<Option<Chosen>>(found);
        }
        looking.spawn(choose(joined.view(), router, address));
    }
    chosen.extend(looking.join_all().await.into_iter().flatten());
    chosen.sort_by_key(|chosen| (!chosen.counts, chosen.router));
    Ok(chosen)
}

async fn choose<C: ChainAccess>(
    view: View<C>,
    router: Address,
    address: RouterAddress,
) -> Option<Chosen> {
    // What cannot be looked up is asked.
    let totals = view.totals(router).await;
    let counts = totals.map_or(true, |totals| !totals.debited.is_zero());
    let chosen = Chosen {
        router,
        address,
        counts,
    };
    if counts {
        return Some(chosen);
    }
    let stake = view.stake(StakeRole::Router, router).await;
    stake
        .map_or(true, |stake| stake.is_active)
        .then_some(chosen)
}

/// Takes out of the vault what it owes to a provider.
async fn collect(account: &Account<Rpc>, view: &View<Rpc>) -> Outcome<TokenAmount> {
    let owed = view.owed(account.address()).await?;
    if !owed.is_zero() {
        account.collect(account.address()).await?;
    }
    Ok(owed)
}

async fn ask(router: &RouterAddress, request: PayoutRequest) -> Result<Vec<Payout>, Failure> {
    // One socket for each: what one router does to it is not the others'.
    let any = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
    let client = AuditClient::bind(any, Timeouts::default()).await?;
    let answered = client.ask(router, &Question::Payouts(request)).await;
    client.close().await;
    let answered = answered.map_err(|error| match error {
        NetError::Stream(error @ StreamError::Oversized { .. }) => {
            format!("what the router says is not taken: {error}; nothing was claimed from it")
        }
        error => format!("the router cannot be asked: {error}; try again later"),
    });
    match answered? {
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
    /// Claims what can be claimed and says what cannot yet. One router's trouble is not the others': what was paid is told in any case.
    async fn pay(&self, payout: Payout) -> Paid {
        let taken = self.try_pay(payout).await;
        taken.unwrap_or_else(|error| Paid {
            error: Some(error.to_string()),
            ..Paid::nothing(Some(self.router), self.account.address())
        })
    }

    async fn try_pay(&self, payout: Payout) -> Outcome<Paid> {
        let (router, provider) = (self.router, self.account.address());
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
            ..Paid::nothing(Some(router), provider)
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
        match collect(self.account, self.view).await {
            Ok(collected) => paid.paid = collected,
            Err(error) => paid.error = Some(error.to_string()),
        }
        Ok(paid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::launch::devnet::Devnet;
    use crate::launch::stake::{StakeSource, ensure};
    use stoa_net::EndpointSecret;
    use stoa_types::{Region, StakeAmount};

    #[tokio::test]
    async fn who_only_registered_as_a_router_is_not_asked_and_who_leaves_may_claim_any_amount() {
        let net = Devnet::open().await;
        let (joined, deployer) = (net.joined.clone(), &net.deployer);
        let registry = joined.contracts.provider_registry;
        let mut accounts = Vec::new();
        for n in 1..=3 {
            let key = SecretKey::from_bytes([n; 32]).expect("a key");
            let account = joined.account(key).await.expect("an account");
            let secret = EndpointSecret::from_bytes([n; 32]);
            let proof = secret.prove(joined.chain_id, registry, account.address());
            let (id, at) = (secret.endpoint_id(), "10.0.0.1:9700");
            let registered = account.register_router(id, proof, at).await;
            registered.expect("registered");
            accounts.push((account, id, proof));
        }
        let (staked, id, proof) = &accounts[1];
        let wanted = StakeAmount::parse("50000").expect("a number");
        let source = StakeSource::Granted(deployer);
        ensure(&joined, staked, StakeRole::Router, wanted, &source)
            .await
            .expect("staked");
        let asked = payers(&joined).await.expect("read");
        let asked: Vec<_> = asked.iter().map(|c| (c.router, c.counts)).collect();
        assert_eq!(asked, [(staked.address(), false)]);

        let (view, provider) = (joined.view(), staked.address());
        let region = Region(*b"XA");
        let registered = staked
            .register_provider(*id, *proof, region, provider)
            .await;
        registered.expect("registered");
        let least = joined.profile.rules.settlement.claim_min;
        for leaving in [false, true] {
            assert_eq!(view.is_leaving(provider).await.expect("read"), leaving);
            assert_eq!(least_of(least, leaving).is_zero(), leaving);
            staked.announce_leave().await.expect("announced");
        }
    }
}
