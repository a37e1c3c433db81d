//! The contracts that judge: their place in the deployment, their parameters, and who may call whom. [`AuditFollower`] reads what happens
//! in them, [`AuditAccount`] calls them.

mod account;
mod delivery;
mod event;
mod follow;
mod state;

pub use account::{AuditAccount, evidence_words, vote_words};
pub use delivery::{ClaimRules, ClaimState, ClaimView, OpenClaim, OpenClaims};
pub use follow::AuditFollower;
pub use state::{AuditParams, AuditState, Reached};

use alloy_sol_types::{SolCall, SolConstructor};
use serde::{Deserialize, Serialize};
use stoa_ledger::audit::Outcome;
use stoa_ledger::audit::standing::Standing;
use stoa_types::{Address, NetworkProfile};

use crate::access::{AccessError, ChainAccess, TransactionReceipt, view};
use crate::bindings::{
    AuditRounds, DeliveryClaims, PanelVerdict, PaymentVault, Reputation, StakeRegistry,
};
use crate::convert::{address, evm_address};
use crate::deploy::{Contracts, Creation, DeployError};
use crate::sender::{SendError, Sender};

/// Where the contracts that judge are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditContracts {
    /// Validators, beacon, ballots and plants.
    pub rounds: Address,
    /// Outcomes of providers.
    pub reputation: Address,
    /// Rulings; the one that slashes and voids.
    pub verdict: Address,
    /// Claims of non-delivery; `None` on a network that was founded before there were any.
    pub claims: Option<Address>,
}

/// Whether a router has a seat under those who judge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judged {
    /// It has one.
    Yes,
    /// It has none. There are free ones, which validators give to routers with stake.
    NotYet,
    /// It has none, and all are taken.
    SeatsTaken,
    /// No validator has a seat: nobody is judged on this network.
    NobodyIs,
}

impl AuditContracts {
    /// Where they are when `deployer` sends their creations as its transactions after the first five.
    pub fn of_deployer(deployer: Address) -> Self {
        let at = |nonce| address(evm_address(deployer).create(nonce));
        Self {
            rounds: at(5),
            reputation: at(6),
            verdict: at(7),
            claims: Some(at(8)),
        }
    }

    /// Asks the chain which verdict the stake registry obeys, and that one for the rest. `None` while nobody may slash.
    pub async fn find<C: ChainAccess>(
        chain: &C,
        contracts: &Contracts,
    ) -> Result<Option<Self>, AccessError> {
        let slasher = view(
            chain,
            contracts.stake_registry,
            &StakeRegistry::slasherCall {},
        );
        let verdict = address(slasher.await?);
        if verdict == Address::ZERO {
            return Ok(None);
        }
        let rounds = view(chain, verdict, &PanelVerdict::ROUNDSCall {}).await?;
        let reputation = view(chain, verdict, &PanelVerdict::REPUTATIONCall {}).await?;
        Ok(Some(Self {
            rounds: address(rounds),
            reputation: address(reputation),
            verdict,
            claims: claims_of(chain, verdict).await?,
        }))
    }
}

/// The contract of claims that a verdict believes. A verdict from before there were claims refuses the question.
async fn claims_of<C: ChainAccess>(
    chain: &C,
    verdict: Address,
) -> Result<Option<Address>, AccessError> {
    match view(chain, verdict, &PanelVerdict::CLAIMSCall {}).await {
        Ok(claims) => Ok(Some(address(claims)).filter(|claims| *claims != Address::ZERO)),
        Err(AccessError::Reverted { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether a creation is left out here: claims of non-delivery, where the verdict that was deployed does not know them.
pub(crate) async fn is_left_out<C: ChainAccess>(
    chain: &C,
    audit: &AuditContracts,
    contract: Address,
) -> Result<bool, AccessError> {
    Ok(audit.claims == Some(contract) && claims_of(chain, audit.verdict).await?.is_none())
}

impl AuditContracts {
    /// Whether anybody judges what a router posts.
    pub async fn judged<C: ChainAccess>(
        &self,
        chain: &C,
        router: Address,
    ) -> Result<Judged, AccessError> {
        let routers = view(chain, self.rounds, &AuditRounds::routersCall {}).await?;
        if routers.iter().any(|seated| address(*seated) == router) {
            return Ok(Judged::Yes);
        }
        let validators = view(chain, self.rounds, &AuditRounds::validatorsCall {}).await?;
        let most = view(chain, self.rounds, &AuditRounds::MAX_SEATSCall {}).await?;
        Ok(if validators.is_empty() {
            Judged::NobodyIs
        } else if alloy_primitives::U256::from(routers.len()) < most {
            Judged::NotYet
        } else {
            Judged::SeatsTaken
        })
    }

    /// Whether an account may plant.
    pub async fn is_planter<C: ChainAccess>(
        &self,
        chain: &C,
        planter: Address,
    ) -> Result<bool, AccessError> {
        let planter = evm_address(planter);
        view(chain, self.rounds, &AuditRounds::isPlanterCall { planter }).await
    }

    /// Lets an account plant, or no more; `admin` is the admin of the rounds.
    pub async fn set_planter<C: ChainAccess>(
        &self,
        admin: &Sender<C>,
        planter: Address,
        allowed: bool,
    ) -> Result<TransactionReceipt, SendError> {
        let planter = evm_address(planter);
        let call = AuditRounds::setPlanterCall { planter, allowed };
        admin.send(self.rounds, &call).await
    }

    /// What verdicts wrote of a provider.
    pub async fn standing<C: ChainAccess>(
        &self,
        chain: &C,
        provider: Address,
    ) -> Result<Standing, AccessError> {
        let provider = evm_address(provider);
        let ask = Reputation::standingOfCall { provider };
        let found = view(chain, self.reputation, &ask).await?;
        Ok(Standing {
            reputation: found.reputation,
            verified: found.verified,
        })
    }
}

/// The creations, in order.
pub(crate) fn creations(
    contracts: &Contracts,
    audit: &AuditContracts,
    profile: &NetworkProfile,
    admin: Address,
) -> Vec<Creation> {
    let code = |bytecode: &[u8], arguments: Vec<u8>| [bytecode, &arguments].concat();
    let parameters = &profile.audit;
    let (stakes, vault) = (
        evm_address(contracts.stake_registry),
        evm_address(contracts.vault),
    );
    let rounds = AuditRounds::constructorCall::new((
        stakes,
        vault,
        AuditRounds::RoundsParams {
            interval: parameters.interval_seconds,
            reveal: parameters.reveal_seconds,
            ballot: parameters.ballot_seconds,
            unseal: parameters.unseal_seconds,
            plants: parameters.plants_seconds,
            rulings: parameters.rulings_seconds,
            devnet: profile.devnet,
        },
        parameters.answer_seconds,
        evm_address(admin),
    ));
    let reputation = Reputation::constructorCall::new((
        parameters.most_bps.get(),
        parameters.least_bps.get(),
        parameters.first_jobs,
        evm_address(admin),
    ));
    let verdict = PanelVerdict::constructorCall::new((
        evm_address(audit.rounds),
        stakes,
        vault,
        evm_address(audit.reputation),
        parameters.answer_seconds,
        evm_address(audit.claims.unwrap_or(Address::ZERO)),
    ));
    let mut all = vec![
        (
            "AuditRounds",
            audit.rounds,
            code(&AuditRounds::BYTECODE, rounds.abi_encode()),
        ),
        (
            "Reputation",
            audit.reputation,
            code(&Reputation::BYTECODE, reputation.abi_encode()),
        ),
        (
            "PanelVerdict",
            audit.verdict,
            code(&PanelVerdict::BYTECODE, verdict.abi_encode()),
        ),
    ];
    if let Some(claims) = audit.claims {
        let arguments = DeliveryClaims::constructorCall::new((
            evm_address(contracts.stake_token),
            stakes,
            evm_address(audit.verdict),
            vault,
            profile.delivery.claim_seconds,
            profile.delivery.answer_seconds,
            profile.delivery.deposit.units(),
        ));
        all.push((
            "DeliveryClaims",
            claims,
            code(&DeliveryClaims::BYTECODE, arguments.abi_encode()),
        ));
    }
    all
}

/// Names the verdict to the contracts that obey one, and the profile's planters. Does only what is missing: who was named by hand stays.
/// Where the deployer is not the admin nothing is done; that is the admin's to do.
pub(crate) async fn appoint<C: ChainAccess>(
    deployer: &Sender<C>,
    contracts: &Contracts,
    audit: &AuditContracts,
    profile: &NetworkProfile,
    admin: Address,
) -> Result<(), DeployError> {
    if deployer.address() != admin {
        return Ok(());
    }
    let chain = deployer.chain();
    let verdict = evm_address(audit.verdict);
    let (stakes, vault) = (contracts.stake_registry, contracts.vault);
    if view(chain, stakes, &StakeRegistry::slasherCall {})
        .await?
        .is_zero()
    {
        let call = StakeRegistry::setSlasherCall {
            newSlasher: verdict,
        };
        send(deployer, "StakeRegistry", stakes, &call).await?;
    }
    if view(chain, vault, &PaymentVault::verdictCall {})
        .await?
        .is_zero()
    {
        let call = PaymentVault::setVerdictCall {
            newVerdict: verdict,
        };
        send(deployer, "PaymentVault", vault, &call).await?;
    }
    if view(chain, audit.rounds, &AuditRounds::verdictCall {})
        .await?
        .is_zero()
    {
        let call = AuditRounds::setVerdictCall {
            newVerdict: verdict,
        };
        send(deployer, "AuditRounds", audit.rounds, &call).await?;
    }
    if view(chain, audit.reputation, &Reputation::writerCall {})
        .await?
        .is_zero()
    {
        let call = Reputation::setWriterCall { newWriter: verdict };
        send(deployer, "Reputation", audit.reputation, &call).await?;
    }
    for planter in &profile.audit.planters {
        let planter = evm_address(*planter);
        if !view(chain, audit.rounds, &AuditRounds::isPlanterCall { planter }).await? {
            let call = AuditRounds::setPlanterCall {
                planter,
                allowed: true,
            };
            send(deployer, "AuditRounds", audit.rounds, &call).await?;
        }
    }
    Ok(())
}

async fn send<C: ChainAccess>(
    deployer: &Sender<C>,
    contract: &'static str,
    to: Address,
    call: &impl SolCall,
) -> Result<(), DeployError> {
    let sent = deployer.send(to, call).await;
    sent.map(drop)
        .map_err(|source| DeployError::Send { contract, source })
}

/// The outcome of a code in events.
fn outcome(code: u8) -> Option<Outcome> {
    Outcome::ALL
        .into_iter()
        .find(|outcome| outcome.code() == code)
}
