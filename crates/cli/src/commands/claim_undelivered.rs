//! `stoa claim-undelivered`: a developer claims on chain that a provider took its call and delivered nothing, and carries the claim to its end
//! (docs/decisions/0030-non-delivery.md). Every start looks at the chain and does what is due; so a claim that was cut off anywhere goes on.

use super::Outcome;
use super::money::{account_of, contracts};
use super::show::{ShowArgs, print_json};
use crate::http::Api;
use crate::launch::chain_time;
use crate::network::Network;
use crate::process::say;
use crate::roles::claims::TAKE_BACK;
use serde::Serialize;
use serde_json::Value;
use std::fmt::{self, Display, Formatter};
use std::path::{Path, PathBuf};
use stoa_api::rfc3339;
use stoa_chain::{
    AuditAccount, AuditContracts, ChainAccess, ClaimRules, ClaimState, ClaimView, Rpc, View,
};
use stoa_crypto::{Domain, ticket_digest};
use stoa_nodes::client::Undelivered;
use stoa_types::{Address, Digest, JobId, Millis, StakeAmount, Timestamp};

/// Arguments of `stoa claim-undelivered`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The job's id, from the error of the call or the header `x-stoa-job`.
    job: JobId,
    /// Takes ticket and acceptance from this file, which holds the error of the call as it came, and asks no router.
    #[arg(long, value_name = "FILE")]
    error: Option<PathBuf>,
    /// Pays the deposit of stake tokens for each claim that is made. It is lost if the provider still answers; it comes back if nobody does.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    show: ShowArgs,
}

/// Where a claim stands after what could be done was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
enum Stand {
    /// The deadline is not over.
    TooEarly {
        /// When it can be claimed.
        from: Timestamp,
        /// And how long.
        until: Timestamp,
    },
    /// Nobody claimed in time.
    TooLate {
        /// Since when.
        since: Timestamp,
    },
    /// The account cannot pay the deposit.
    NoDeposit {
        /// Stake tokens that it holds.
        held: StakeAmount,
        /// What a claim costs until it is decided.
        deposit: StakeAmount,
        /// How long it can be claimed.
        until: Timestamp,
    },
    /// It can be claimed, and nobody said that the deposit is to be paid.
    Unconfirmed {
        /// What a claim costs until it is decided, and for good if the provider answers.
        deposit: StakeAmount,
        /// How long it can be claimed.
        until: Timestamp,
    },
    /// It is claimed, and the provider may answer.
    Open {
        /// Whether this start made the claim.
        now: bool,
        /// By whom.
        claimant: Address,
        /// When it can be punished.
        answer_by: Timestamp,
    },
    /// The provider showed its receipt, and the deposit is the provider's.
    Answered,
    /// A receipt with both signatures was shown: it was delivered to the router. The deposit is the provider's.
    Refuted,
    /// Nobody answered; the deposit is back.
    Punished {
        /// Whether this start had it punished.
        now: bool,
    },
    /// Nobody decided it, and the deposit is back.
    TakenBack {
        /// Whether this start took it back.
        now: bool,
    },
}

impl Display for Stand {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let at = |at: &Timestamp| rfc3339(*at);
        match self {
            Self::TooEarly { from, until } => {
                let (from, until) = (at(from), at(until));
                write!(out, "can be claimed from {from} until {until}")
            }
            Self::TooLate { since } => write!(out, "could be claimed until {}", at(since)),
            Self::NoDeposit {
                held,
                deposit,
                until,
            } => write!(
                out,
                "not claimed: the deposit is {deposit} stake tokens, the account holds {held}; it can be claimed until {}",
                at(until)
            ),
            Self::Unconfirmed { deposit, until } => write!(
                out,
                "not claimed, and nothing was paid: it costs a deposit of {deposit} stake tokens, which is lost if the provider still answers, so \
                 claim from one that is gone only; with --yes it is paid; it can be claimed until {}",
                at(until)
            ),
            Self::Open {
                now,
                claimant,
                answer_by,
            } => {
                let what = if *now { "claimed now" } else { "claimed" };
                let until = at(answer_by);
                write!(
                    out,
                    "{what} by {claimant}: the provider may answer until {until}; run this again then"
                )
            }
            Self::Answered => write!(
                out,
                "the provider answered with its receipt: it is not slashed, and the deposit is its own"
            ),
            Self::Refuted => write!(
                out,
                "a receipt with both signatures was shown: it was delivered to the router, which kept it to itself; the deposit is the provider's"
            ),
            Self::Punished { now: true } => {
                write!(
                    out,
                    "the provider did not answer and is punished now; the deposit is back"
                )
            }
            Self::Punished { now: false } => {
                write!(
                    out,
                    "the provider did not answer and was punished; the deposit is back"
                )
            }
            Self::TakenBack { now: true } => {
                write!(out, "nobody decided it: the deposit is taken back now")
            }
            Self::TakenBack { now: false } => {
                write!(out, "nobody decided it: the deposit was taken back")
            }
        }
    }
}

/// One attempt at the job that was taken and not delivered.
#[derive(Debug, Serialize)]
struct Row {
    attempt: u32,
    provider: Address,
    ticket: Digest,
    #[serde(flatten)]
    stand: Stand,
}

/// What a claim is made with.
struct Bench<C> {
    account: AuditAccount<C>,
    view: View<C>,
    rules: ClaimRules,
    domain: Domain,
    /// Whether a deposit may be paid.
    pays: bool,
}

/// Does what is due for every attempt at the job that was taken and not delivered, and says where each claim stands.
pub async fn run(data: &Path, args: &Args) -> Outcome {
    let network = Network::load(data)?;
    let attempts = match &args.error {
        Some(file) => of_file(file)?,
        None => of_routers(&network, args.job).await?,
    };
    if attempts.is_empty() {
        return Err(format!(
            "nobody is known to have taken {} without delivering; nothing was claimed",
            args.job
        )
        .into());
    }
    let bench = open(data, &network, args.yes).await?;
    let mut rows = Vec::new();
    let mut failed = None;
    for attempt in &attempts {
        match bench.carry_on(args.job, attempt).await {
            Ok(row) => rows.push(row),
            Err(error) => {
                failed.get_or_insert(error);
            }
        }
    }
    let awarded = bench.collect().await;
    if args.show.json {
        let awarded = awarded.as_ref().copied().unwrap_or_default();
        print_json(&serde_json::json!({"claims": rows, "awarded": awarded}))?;
    } else {
        print(&rows, awarded.as_ref().copied().unwrap_or_default())?;
    }
    // What was done is told before what went wrong.
    if let Some(error) = failed {
        return Err(error);
    }
    awarded?;
    match rows.iter().find(|row| row.is_failure()) {
        Some(row) => Err(format!("{}: {}", row.provider, row.stand).into()),
        None => Ok(()),
    }
}

impl Row {
    fn is_failure(&self) -> bool {
        matches!(
            self.stand,
            Stand::TooLate { .. } | Stand::NoDeposit { .. } | Stand::Unconfirmed { .. }
        )
    }
}

fn print(rows: &[Row], awarded: StakeAmount) -> std::io::Result<()> {
    for row in rows {
        let (attempt, provider, stand) = (row.attempt, row.provider, &row.stand);
        say(format_args!("attempt {attempt}, {provider}: {stand}"))?;
    }
    if !awarded.is_zero() {
        say(format_args!(
            "{awarded} stake tokens collected that slashes awarded to this account"
        ))?;
    }
    Ok(())
}

async fn open(data: &Path, network: &Network, pays: bool) -> Outcome<Bench<Rpc>> {
    let account = account_of(data, network, "developer").await?;
    let chain = account.sender().chain().clone();
    let chain_id = account.sender().chain_id();
    if chain_id != network.chain_id {
        return Err(format!(
            "the chain at {} is chain {chain_id}, the network's is chain {}; nothing was claimed",
            chain.server(),
            network.chain_id
        )
        .into());
    }
    let contracts = contracts(network)?;
    let audits = AuditContracts::find(&chain, &contracts).await?;
    let audits = audits.ok_or("nobody judges on this network, so that nothing can be claimed")?;
    let rules = audits.claim_rules(&chain).await?;
    let rules = rules.ok_or("this network was founded before there were claims of non-delivery")?;
    Ok(Bench {
        account: AuditAccount::new(account, audits),
        view: View::new(chain, contracts),
        rules,
        domain: Domain {
            chain_id,
            vault: contracts.vault,
        },
        pays,
    })
}

/// What the routers tell of the job; the first that knows it.
async fn of_routers(network: &Network, job: JobId) -> Outcome<Vec<Undelivered>> {
    let mut last = None;
    for router in network.routers() {
        let api = Api::at(&router.api, &router.key);
        match api.get::<Value>(&format!("/stoa/explain/{job}")).await {
            Ok(told) => {
                return taken_in(&told).ok_or_else(|| "the router's word cannot be read".into());
            }
            Err(error) => last = Some(error),
        }
    }
    let error = last.map_or_else(
        || "no router is known".to_owned(),
        |error| error.to_string(),
    );
    Err(format!(
        "no router tells who took {job}: {error}; with the error of the call in a file, --error FILE needs none"
    )
    .into())
}

fn of_file(file: &Path) -> Outcome<Vec<Undelivered>> {
    let text =
        std::fs::read(file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    let told = serde_json::from_slice(&text).ok();
    let told = told.and_then(|told| taken_in(&told));
    told.ok_or_else(|| {
        format!(
            "{} holds no error of a call that was taken and not delivered",
            file.display()
        )
        .into()
    })
}

/// In an explanation, or in the error of a call.
fn taken_in(told: &Value) -> Option<Vec<Undelivered>> {
    let places = ["/undelivered", "/error/stoa/undelivered"];
    let found = places.iter().find_map(|place| told.pointer(place))?;
    serde_json::from_value(found.clone()).ok()
}

impl<C: ChainAccess + Clone> Bench<C> {
    fn me(&self) -> Address {
        self.account.account().address()
    }

    fn chain(&self) -> &C {
        self.account.account().sender().chain()
    }

    async fn carry_on(&self, job: JobId, attempt: &Undelivered) -> Outcome<Row> {
        let ordered = &attempt.ticket.ticket;
        // A deposit is paid for this call and no other.
        if ordered.job_id != job || ordered.account != self.me() {
            return Err(format!(
                "the ticket is for {} of {}, not for {job} of {}; nothing was claimed",
                ordered.job_id,
                ordered.account,
                self.me()
            )
            .into());
        }
        let ticket = ticket_digest(&self.domain, ordered);
        let contracts = self.account.contracts();
        let stand = match contracts.claim(self.chain(), ticket).await? {
            None => self.claim(attempt).await?,
            Some(claim) => self.follow(ticket, &claim).await?,
        };
        Ok(Row {
            attempt: ordered.attempt,
            provider: ordered.provider,
            ticket,
            stand,
        })
    }

    /// Claims, where it is time to, and the account holds the deposit and may pay it.
    async fn claim(&self, attempt: &Undelivered) -> Outcome<Stand> {
        let (time, from) = (
            chain_time(self.chain()).await?,
            attempt.ticket.ticket.deadline,
        );
        let until = from.plus(Millis::from_secs(self.rules.claim_seconds));
        if time <= from {
            return Ok(Stand::TooEarly { from, until });
        }
        if time > until {
            return Ok(Stand::TooLate { since: until });
        }
        let (held, deposit) = (
            self.view.stake_token_balance(self.me()).await?,
            self.rules.deposit,
        );
        if held < deposit {
            return Ok(Stand::NoDeposit {
                held,
                deposit,
                until,
            });
        }
        if !self.pays {
            return Ok(Stand::Unconfirmed { deposit, until });
        }
        let (ticket, word) = (&attempt.ticket, &attempt.acceptance);
        self.account
            .claim_non_delivery(ticket, word, deposit)
            .await?;
        let answer = Millis::from_secs(self.rules.answer_seconds);
        Ok(Stand::Open {
            now: true,
            claimant: self.me(),
            answer_by: chain_time(self.chain()).await?.plus(answer),
        })
    }

    /// Has punished what nobody answered, whoever claimed it.
    async fn follow(&self, ticket: Digest, claim: &ClaimView) -> Outcome<Stand> {
        match claim.state {
            ClaimState::Answered => return Ok(Stand::Answered),
            ClaimState::Refuted => return Ok(Stand::Refuted),
            ClaimState::Punished => return Ok(Stand::Punished { now: false }),
            ClaimState::TakenBack => return Ok(Stand::TakenBack { now: false }),
            ClaimState::Open => {}
        }
        let answer = Millis::from_secs(self.rules.answer_seconds);
        let answer_by = claim.claimed_at.plus(answer);
        let time = chain_time(self.chain()).await?;
        if time < answer_by {
            return Ok(Stand::Open {
                now: false,
                claimant: claim.claimant,
                answer_by,
            });
        }
        let punished = self.account.punish_non_delivery(ticket).await;
        if let Err(error) = punished {
            // Where nobody can punish, the deposit does not stay for ever.
            if claim.claimant != self.me() || time < answer_by.plus(TAKE_BACK) {
                return Err(error.into());
            }
            self.account.take_back_claim(ticket).await?;
            return Ok(Stand::TakenBack { now: true });
        }
        Ok(Stand::Punished { now: true })
    }

    /// What slashes awarded to the account.
    async fn collect(&self) -> Outcome<StakeAmount> {
        let awarded = self.view.awards(self.me()).await?;
        if !awarded.is_zero() {
            self.account.account().collect_awards(self.me()).await?;
        }
        Ok(awarded)
    }
}

#[cfg(test)]
mod tests;
