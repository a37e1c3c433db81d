//! Claims of non-delivery (docs/decisions/0030-non-delivery.md): the calls, what the chain says about a claim, and the claims that are open.

use std::collections::BTreeMap;

use alloy_primitives::Bytes;
use alloy_sol_types::SolCall;
use stoa_crypto::{receipt_bytes, ticket_bytes};
use stoa_types::{
    Address, Digest, JobId, Receipt, Signature, SignedAcceptance, SignedTicket, StakeAmount,
    Timestamp,
};

use super::{AuditAccount, AuditContracts};
use crate::access::{AccessError, ChainAccess, TransactionReceipt, view};
use crate::bindings::DeliveryClaims as Contract;
use crate::convert::{address, evm_digest};
use crate::event::ContractEvent;
use crate::sender::SendError;

/// Where a claim stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimState {
    /// The provider may answer, and is punished when it is late.
    Open,
    /// The provider showed its receipt.
    Answered,
    /// A receipt with both signatures was shown.
    Refuted,
    /// Nobody answered in time.
    Punished,
    /// Nobody decided it, and the claimant closed it.
    TakenBack,
}

/// A claim, as the contract has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClaimView {
    /// Who made it.
    pub claimant: Address,
    /// When.
    pub claimed_at: Timestamp,
    /// Where it stands.
    pub state: ClaimState,
    /// Who is to have delivered.
    pub provider: Address,
    /// Deadline of the ticket.
    pub deadline: Timestamp,
    /// Who ordered.
    pub router: Address,
    /// Who pays for the job.
    pub account: Address,
    /// The job.
    pub job: JobId,
}

/// What the contract of claims was built with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClaimRules {
    /// Seconds after its deadline in which a ticket may be claimed.
    pub claim_seconds: u64,
    /// Seconds that a provider has to answer.
    pub answer_seconds: u64,
    /// What a claim costs until it is decided.
    pub deposit: StakeAmount,
}

impl AuditContracts {
    /// The claim on a ticket, by the ticket's digest; `None` where nobody made one, or the network has no claims.
    pub async fn claim<C: ChainAccess>(
        &self,
        chain: &C,
        ticket: Digest,
    ) -> Result<Option<ClaimView>, AccessError> {
        let Some(contract) = self.claims else {
            return Ok(None);
        };
        let ticket = evm_digest(ticket);
        let found = view(chain, contract, &Contract::claimOfCall { ticket }).await?;
        let Some(state) = state(found.state) else {
            return Ok(None);
        };
        Ok(Some(ClaimView {
            claimant: address(found.claimant),
            claimed_at: Timestamp::from_secs(found.claimedAt),
            state,
            provider: address(found.provider),
            deadline: Timestamp(found.deadline),
            router: address(found.router),
            account: address(found.account),
            job: JobId(found.job.0),
        }))
    }

    /// What claims cost and how long they take here; `None` where the network has none.
    pub async fn claim_rules<C: ChainAccess>(
        &self,
        chain: &C,
    ) -> Result<Option<ClaimRules>, AccessError> {
        let Some(contract) = self.claims else {
            return Ok(None);
        };
        let deposit = view(chain, contract, &Contract::DEPOSITCall {}).await?;
        Ok(Some(ClaimRules {
            claim_seconds: view(chain, contract, &Contract::CLAIMCall {}).await?,
            answer_seconds: view(chain, contract, &Contract::ANSWERCall {}).await?,
            deposit: StakeAmount::from_units(deposit),
        }))
    }
}

/// By the contract's order of states, which begins with "none".
fn state(code: u8) -> Option<ClaimState> {
    let states = [
        ClaimState::Open,
        ClaimState::Answered,
        ClaimState::Refuted,
        ClaimState::Punished,
        ClaimState::TakenBack,
    ];
    states.get(usize::from(code.checked_sub(1)?)).copied()
}

impl<C: ChainAccess> AuditAccount<C> {
    /// Claims that nothing was delivered on an accepted ticket, and pays the deposit, which this account lets the contract take. One after the
    /// other: two at once may each see an allowance that is enough for one.
    pub async fn claim_non_delivery(
        &self,
        ticket: &SignedTicket,
        acceptance: &SignedAcceptance,
        deposit: StakeAmount,
    ) -> Result<TransactionReceipt, SendError> {
        let contract = self.claims()?;
        let token = self.account().contracts().stake_token;
        let amount = deposit.units();
        self.account().approve(token, contract, amount).await?;
        let call = Contract::claimCall {
            ticket: Bytes::from(ticket_bytes(&ticket.ticket)),
            routerSignature: bytes(&ticket.signature),
            acceptedAt: acceptance.acceptance.accepted_at.0,
            providerSignature: bytes(&acceptance.signature),
        };
        self.deliver(&call).await
    }

    /// Shows the receipt for a claimed ticket; with the router's signature where there is one, for without it a router that lied pays nothing.
    pub async fn answer_claim(
        &self,
        receipt: &Receipt,
        provider: &Signature,
        router: Option<&Signature>,
    ) -> Result<TransactionReceipt, SendError> {
        let call = Contract::answerCall {
            ticket: evm_digest(receipt.ticket_hash),
            receipt: Bytes::from(receipt_bytes(receipt)),
            providerSignature: bytes(provider),
            routerSignature: router.map(bytes).unwrap_or_default(),
        };
        self.deliver(&call).await
    }

    /// Slashes a provider that let its time to answer pass; the deposit goes back to whoever claimed.
    pub async fn punish_non_delivery(
        &self,
        ticket: Digest,
    ) -> Result<TransactionReceipt, SendError> {
        let ticket = evm_digest(ticket);
        self.deliver(&Contract::punishCall { ticket }).await
    }

    /// Closes this account's own claim that could not be punished, and takes the deposit.
    pub async fn take_back_claim(&self, ticket: Digest) -> Result<TransactionReceipt, SendError> {
        let ticket = evm_digest(ticket);
        self.deliver(&Contract::takeBackCall { ticket }).await
    }

    fn claims(&self) -> Result<Address, SendError> {
        self.contracts().claims.ok_or_else(|| {
            let why = "this network was founded before there were claims of non-delivery";
            SendError::NotSent(AccessError::Refused(why.to_owned()))
        })
    }

    async fn deliver(&self, call: &impl SolCall) -> Result<TransactionReceipt, SendError> {
        self.account().sender().send(self.claims()?, call).await
    }
}

fn bytes(signature: &Signature) -> Bytes {
    Bytes::from(signature.0.to_vec())
}

/// A claim that nobody has decided yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenClaim {
    /// Digest of the ticket.
    pub ticket: Digest,
    /// The job.
    pub job: JobId,
    /// Who is to answer.
    pub provider: Address,
    /// Who ordered.
    pub router: Address,
    /// Who made the claim.
    pub claimant: Address,
    /// From here on it may be punished.
    pub answer_by: Timestamp,
}

/// The open claims of a network, by what an [`crate::Indexer`] with the contracts that judge tells. After a rollback it is to be read anew.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OpenClaims(BTreeMap<Digest, OpenClaim>);

impl OpenClaims {
    /// Takes up one event; those of other contracts change nothing.
    pub fn take(&mut self, event: &ContractEvent) {
        match *event {
            ContractEvent::DeliveryClaimed {
                ticket,
                provider,
                router,
                claimant,
                job,
                answer_by,
            } => {
                let open = OpenClaim {
                    ticket,
                    job,
                    provider,
                    router,
                    claimant,
                    answer_by,
                };
                self.0.insert(ticket, open);
            }
            ContractEvent::ClaimAnswered { ticket, .. }
            | ContractEvent::ClaimRefuted { ticket, .. }
            | ContractEvent::NonDeliveryPunished { ticket, .. }
            | ContractEvent::ClaimTakenBack { ticket, .. } => drop(self.0.remove(&ticket)),
            _ => {}
        }
    }

    /// All of them, by ticket.
    pub fn all(&self) -> impl Iterator<Item = &OpenClaim> {
        self.0.values()
    }

    /// Those that `provider` has to answer.
    pub fn against(&self, provider: Address) -> impl Iterator<Item = &OpenClaim> {
        self.all().filter(move |claim| claim.provider == provider)
    }

    /// Those that may be punished at `now`, a block's time.
    pub fn overdue(&self, now: Timestamp) -> impl Iterator<Item = &OpenClaim> {
        self.all().filter(move |claim| claim.answer_by <= now)
    }
}
