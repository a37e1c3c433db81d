//! Model of DeliveryClaims: who says that nothing was delivered pays a deposit, who delivered answers with a receipt
//! (docs/decisions/0030-non-delivery.md).

use super::verdict::{Market, PanelVerdict, VerdictError, VerdictEvent};
use std::collections::BTreeMap;
use stoa_crypto::{Domain, acceptance_digest, receipt_digest, recover, ticket_digest};
use stoa_types::{
    Acceptance, Address, Digest, JobId, Receipt, Signature, StakeAmount, Ticket, Timestamp,
};

/// Deadlines closer than this are one fault, in milliseconds.
pub const FAULT_MS: u64 = 86_400_000;
/// Seconds after the time to answer in which anybody may punish before the claimant may take its claim back.
pub const TAKE_BACK_SECONDS: u64 = 7 * 86_400;

/// What the contract is built with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClaimParams {
    /// What is signed for another network is worth nothing here.
    pub domain: Domain,
    /// Seconds after a deadline in which it may be claimed.
    pub claim: u64,
    /// Seconds that a provider has to answer.
    pub answer: u64,
    /// What a claim costs until it is decided.
    pub deposit: StakeAmount,
}

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

impl ClaimState {
    /// Its number in the contract, where 0 is no claim.
    pub const fn code(self) -> u8 {
        match self {
            Self::Open => 1,
            Self::Answered => 2,
            Self::Refuted => 3,
            Self::Punished => 4,
            Self::TakenBack => 5,
        }
    }
}

/// A claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// Who made it.
    pub claimant: Address,
    /// When, in seconds.
    pub claimed_at: u64,
    /// Where it stands.
    pub state: ClaimState,
    /// Who is to have delivered.
    pub provider: Address,
    /// Until when.
    pub deadline: Timestamp,
    /// Who ordered.
    pub router: Address,
    /// Who pays for the job.
    pub account: Address,
    /// The job.
    pub job: JobId,
}

/// What a call did, beyond the verdict's events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // the fields are those of the contract's events
pub enum ClaimEvent {
    /// Nothing was delivered, says the claimant.
    Claimed {
        ticket: Digest,
        provider: Address,
        router: Address,
        claimant: Address,
        job: JobId,
        answer_by: u64,
    },
    /// The provider's receipt was shown.
    Answered { ticket: Digest, provider: Address },
    /// The router had signed it too.
    Refuted {
        ticket: Digest,
        provider: Address,
        router: Address,
        accused: bool,
    },
    /// Nobody answered.
    Punished {
        ticket: Digest,
        provider: Address,
        slashed: bool,
    },
    /// The claimant closed it.
    TakenBack { ticket: Digest, claimant: Address },
}

/// What a decision did: its event, what the verdict made of it, and who got the deposit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    /// What happened to the claim.
    pub event: ClaimEvent,
    /// The conviction, if there is one.
    pub conviction: Option<VerdictEvent>,
    /// Who got the deposit; nobody where it had been given before.
    pub deposit_to: Option<Address>,
}

/// Why a call failed. It changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // each field is named in its sentence
pub enum ClaimError {
    /// One claim for a ticket.
    #[error("there was a claim on {ticket}")]
    AlreadyClaimed { ticket: Digest },
    /// Accepted when it was over.
    #[error("accepted at {accepted_at:?}, after the deadline {deadline:?}: nothing is owed")]
    AcceptedLate {
        accepted_at: Timestamp,
        deadline: Timestamp,
    },
    /// Not yet.
    #[error("possible from {due} on")]
    TooEarly { due: u64 },
    /// The time to claim is over.
    #[error("the deadline was at {deadline:?}: too long ago to claim")]
    TooLate { deadline: Timestamp },
    /// Somebody else's signature, or none.
    #[error("the signature is not that of {signer}")]
    WrongSigner { signer: Address },
    /// Not for a claim that stands there.
    #[error("the claim on {ticket} stands at {state:?}")]
    WrongState {
        ticket: Digest,
        state: Option<ClaimState>,
    },
    /// Another network, ticket or job.
    #[error("the receipt is not for this ticket")]
    ForeignReceipt,
    /// Somebody else's claim.
    #[error("{caller} did not make this claim")]
    NotAllowed { caller: Address },
    /// The verdict refused.
    #[error(transparent)]
    Verdict(#[from] VerdictError),
}

/// The contract. See the module's page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryClaims {
    params: ClaimParams,
    claims: BTreeMap<Digest, Claim>,
    /// Deadlines for which a provider was slashed.
    faults: BTreeMap<Address, Vec<Timestamp>>,
}

impl DeliveryClaims {
    /// Nothing claimed yet.
    pub fn new(params: ClaimParams) -> Self {
        Self {
            params,
            claims: BTreeMap::new(),
            faults: BTreeMap::new(),
        }
    }

    /// The claim on a ticket.
    pub fn claim_on(&self, ticket: Digest) -> Option<&Claim> {
        self.claims.get(&ticket)
    }

    /// All claims, by ticket.
    pub fn claims(&self) -> impl Iterator<Item = (Digest, &Claim)> {
        self.claims.iter().map(|(ticket, claim)| (*ticket, claim))
    }

    /// What the contract holds: the deposits of open claims.
    pub fn held(&self) -> StakeAmount {
        let open = |claim: &&Claim| claim.state == ClaimState::Open;
        let deposits = self
            .claims
            .values()
            .filter(open)
            .map(|_| self.params.deposit);
        StakeAmount::checked_sum(deposits)
            .expect("each deposit was paid, and the supply fits 128 bits")
    }

    /// Claims that nothing was delivered; takes the deposit from `claimant`.
    pub fn claim(
        &mut self,
        claimant: Address,
        (ticket, router_signature): (&Ticket, &Signature),
        (accepted_at, provider_signature): (Timestamp, &Signature),
        now: u64,
    ) -> Result<ClaimEvent, ClaimError> {
        let id = ticket_digest(&self.params.domain, ticket);
        if self.claims.contains_key(&id) {
            return Err(ClaimError::AlreadyClaimed { ticket: id });
        }
        let deadline = ticket.deadline;
        if accepted_at > deadline {
            return Err(ClaimError::AcceptedLate {
                accepted_at,
                deadline,
            });
        }
        let now_ms = u128::from(now) * 1_000;
        if now_ms <= u128::from(deadline.0) {
            let due = deadline.secs();
            return Err(ClaimError::TooEarly { due });
        }
        if now_ms > u128::from(deadline.0) + u128::from(self.params.claim) * 1_000 {
            return Err(ClaimError::TooLate { deadline });
        }
        let acceptance = Acceptance {
            ticket: id,
            accepted_at,
        };
        signed_by(ticket.router, id, router_signature)?;
        let accepted = acceptance_digest(&self.params.domain, &acceptance);
        signed_by(ticket.provider, accepted, provider_signature)?;
        let claim = Claim {
            claimant,
            claimed_at: now,
            state: ClaimState::Open,
            provider: ticket.provider,
            deadline,
            router: ticket.router,
            account: ticket.account,
            job: ticket.job_id,
        };
        self.claims.insert(id, claim);
        Ok(ClaimEvent::Claimed {
            ticket: id,
            provider: claim.provider,
            router: claim.router,
            claimant,
            job: claim.job,
            answer_by: now + self.params.answer,
        })
    }

    /// Shows the receipt for a claimed ticket, with the router's signature or without.
    pub fn answer(
        &mut self,
        (verdict, market): (&mut PanelVerdict, &mut Market<'_>),
        ticket: Digest,
        receipt: &Receipt,
        (provider, router): (&Signature, Option<&Signature>),
        now: u64,
    ) -> Result<Decided, ClaimError> {
        let claim = *self.known(ticket)?;
        let late = matches!(claim.state, ClaimState::Answered | ClaimState::Punished);
        if claim.state != ClaimState::Open && (router.is_none() || !late) {
            let state = Some(claim.state);
            return Err(ClaimError::WrongState { ticket, state });
        }
        if !self.is_of(ticket, &claim, receipt) {
            return Err(ClaimError::ForeignReceipt);
        }
        let digest = receipt_digest(receipt);
        signed_by(claim.provider, digest, provider)?;
        if let Some(router) = router {
            signed_by(claim.router, digest, router)?;
        }
        let accused = router.is_some() && claim.claimant == claim.router;
        let conviction = if accused {
            let about = (ticket, claim.claimed_at);
            let paid = claim.provider;
            Some(verdict.convict_false_claim(market, claim.router, about, paid, now)?)
        } else {
            None
        };
        let (state, event) = match router {
            None => {
                let provider = claim.provider;
                (
                    ClaimState::Answered,
                    ClaimEvent::Answered { ticket, provider },
                )
            }
            Some(_) => {
                let event = ClaimEvent::Refuted {
                    ticket,
                    provider: claim.provider,
                    router: claim.router,
                    accused,
                };
                (ClaimState::Refuted, event)
            }
        };
        self.claims.insert(ticket, Claim { state, ..claim });
        let was_open = claim.state == ClaimState::Open;
        Ok(Decided {
            event,
            conviction,
            deposit_to: was_open.then_some(claim.provider),
        })
    }

    /// Slashes a provider that let its time to answer pass.
    pub fn punish(
        &mut self,
        (verdict, market): (&mut PanelVerdict, &mut Market<'_>),
        ticket: Digest,
        now: u64,
    ) -> Result<Decided, ClaimError> {
        let claim = self.open_since(ticket, self.params.answer, now)?;
        let known = self.faults.get(&claim.provider).into_iter().flatten();
        let slashed = known
            .map(|fault| fault.0.abs_diff(claim.deadline.0))
            .all(|apart| apart >= FAULT_MS);
        let conviction = if slashed {
            let about = (ticket, claim.deadline.secs());
            let harmed = claim.account;
            Some(verdict.convict_non_delivery(market, claim.provider, about, harmed, now)?)
        } else {
            None
        };
        if slashed {
            let faults = self.faults.entry(claim.provider).or_default();
            faults.push(claim.deadline);
        }
        let state = ClaimState::Punished;
        self.claims.insert(ticket, Claim { state, ..claim });
        Ok(Decided {
            event: ClaimEvent::Punished {
                ticket,
                provider: claim.provider,
                slashed,
            },
            conviction,
            deposit_to: Some(claim.claimant),
        })
    }

    /// Closes a claim that nobody decided.
    pub fn take_back(
        &mut self,
        caller: Address,
        ticket: Digest,
        now: u64,
    ) -> Result<Decided, ClaimError> {
        let age = self.params.answer.saturating_add(TAKE_BACK_SECONDS);
        let claim = self.open_since(ticket, age, now)?;
        if caller != claim.claimant {
            return Err(ClaimError::NotAllowed { caller });
        }
        let state = ClaimState::TakenBack;
        self.claims.insert(ticket, Claim { state, ..claim });
        Ok(Decided {
            event: ClaimEvent::TakenBack {
                ticket,
                claimant: caller,
            },
            conviction: None,
            deposit_to: Some(caller),
        })
    }

    fn known(&self, ticket: Digest) -> Result<&Claim, ClaimError> {
        let state = None;
        let known = self.claims.get(&ticket);
        known.ok_or(ClaimError::WrongState { ticket, state })
    }

    /// The open claim on a ticket, which is at least `age` seconds old.
    fn open_since(&self, ticket: Digest, age: u64, now: u64) -> Result<Claim, ClaimError> {
        let claim = *self.known(ticket)?;
        if claim.state != ClaimState::Open {
            let state = Some(claim.state);
            return Err(ClaimError::WrongState { ticket, state });
        }
        let due = claim.claimed_at.saturating_add(age);
        if now < due {
            return Err(ClaimError::TooEarly { due });
        }
        Ok(claim)
    }

    fn is_of(&self, ticket: Digest, claim: &Claim, r: &Receipt) -> bool {
        let domain = &self.params.domain;
        let here = r.chain_id == domain.chain_id && r.vault == domain.vault;
        let parties = (r.account, r.provider, r.router);
        here && r.ticket_hash == ticket
            && r.job_id == claim.job
            && parties == (claim.account, claim.provider, claim.router)
    }
}

fn signed_by(signer: Address, digest: Digest, signature: &Signature) -> Result<(), ClaimError> {
    let found = recover(digest, signature).unwrap_or(Address::ZERO);
    if found != signer || found == Address::ZERO {
        return Err(ClaimError::WrongSigner { signer });
    }
    Ok(())
}
