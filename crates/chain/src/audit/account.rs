//! What an account does with the contracts that judge, and the one place where its evidence is put into their words.

use alloy_primitives::{Bytes, U256};
use alloy_sol_types::SolCall;
use stoa_crypto::{PublicKey, receipt_bytes};
use stoa_ledger::audit::hash::kind;
use stoa_ledger::audit::verdict::{Evidence, Vote};
use stoa_nodes::validator::Claim;
use stoa_types::{Address, Digest, JobId, Signature};

use super::AuditContracts;
use crate::access::{ChainAccess, TransactionReceipt};
use crate::account::Account;
use crate::bindings::{AuditRounds, PanelVerdict};
use crate::convert::{evm_address, evm_digest};
use crate::sender::SendError;

type Sent = Result<TransactionReceipt, SendError>;

/// An account with the contracts that judge.
pub struct AuditAccount<C> {
    account: Account<C>,
    contracts: AuditContracts,
}

impl<C: ChainAccess> AuditAccount<C> {
    /// The account with those contracts.
    pub fn new(account: Account<C>, contracts: AuditContracts) -> Self {
        Self { account, contracts }
    }

    /// The account, for everything else.
    pub fn account(&self) -> &Account<C> {
        &self.account
    }

    /// The contracts that judge.
    pub fn contracts(&self) -> &AuditContracts {
        &self.contracts
    }

    async fn rounds(&self, call: &impl SolCall) -> Sent {
        self.account
            .sender()
            .send(self.contracts.rounds, call)
            .await
    }

    /// Takes a seat among the validators; `tip` is the top of the hash chain, and routers seal work to `key`, which must be the account's.
    pub async fn join(&self, tip: Digest, key: &PublicKey) -> Sent {
        let (x, y) = key.point();
        let call = AuditRounds::joinCall {
            tip: evm_digest(tip),
            x: evm_digest(x),
            y: evm_digest(y),
        };
        self.rounds(&call).await
    }

    /// Publishes the top of another hash chain.
    pub async fn renew(&self, tip: Digest) -> Sent {
        let tip = evm_digest(tip);
        self.rounds(&AuditRounds::renewCall { tip }).await
    }

    /// Gives the seat back.
    pub async fn quit(&self) -> Sent {
        self.rounds(&AuditRounds::quitCall {}).await
    }

    /// Gives a staked router its seat: from then on its posts are audited.
    pub async fn enrol(&self, router: Address) -> Sent {
        let router = evm_address(router);
        self.rounds(&AuditRounds::enrolCall { router }).await
    }

    /// Opens the next round.
    pub async fn open(&self) -> Sent {
        self.rounds(&AuditRounds::openCall {}).await
    }

    /// Reveals a preimage in the newest round.
    pub async fn reveal(&self, preimage: Digest) -> Sent {
        let preimage = evm_digest(preimage);
        self.rounds(&AuditRounds::revealCall { preimage }).await
    }

    /// Draws the beacon of a round whose time to reveal is over.
    pub async fn draw(&self) -> Sent {
        self.rounds(&AuditRounds::drawCall {}).await
    }

    /// Commits the ballot of a round.
    pub async fn commit(&self, round: u64, commitment: Digest) -> Sent {
        let commitment = evm_digest(commitment);
        self.rounds(&AuditRounds::commitBallotCall { round, commitment })
            .await
    }

    /// Shows the ballot of a round.
    pub async fn unseal(&self, round: u64, root: Digest, salt: Digest) -> Sent {
        let (root, salt) = (evm_digest(root), evm_digest(salt));
        self.rounds(&AuditRounds::unsealCall { round, root, salt })
            .await
    }

    /// Stores what hides a planted job.
    pub async fn plant(&self, commitment: Digest) -> Sent {
        let commitment = evm_digest(commitment);
        self.rounds(&AuditRounds::plantCall { commitment }).await
    }

    /// Names a plant that `account` paid and signed.
    pub async fn name_plant(
        &self,
        round: u64,
        job: JobId,
        (account, salt): (Address, Digest),
        signature: &Signature,
    ) -> Sent {
        let call = AuditRounds::namePlantCall {
            round,
            job: evm_digest(Digest(job.0)),
            account: evm_address(account),
            salt: evm_digest(salt),
            signature: Bytes::from(signature.0.to_vec()),
        };
        self.rounds(&call).await
    }

    /// Brings a ruling, or a proof of a fault.
    pub async fn bring(&self, claim: &Claim) -> Sent {
        let turn = self.account.sender().turn().await?;
        turn.send(Some(self.contracts.verdict), claim_input(claim))
            .await
    }
}

/// The call that brings a claim.
fn claim_input(claim: &Claim) -> Vec<u8> {
    match claim {
        Claim::Rule { evidence, votes } => PanelVerdict::ruleCall {
            evidence: evidence_words(evidence),
            votes: votes.iter().map(vote_words).collect(),
        }
        .abi_encode(),
        Claim::RuleBatch {
            round,
            router,
            post,
            votes,
        } => PanelVerdict::ruleBatchCall {
            round: *round,
            router: evm_address(*router),
            post: *post,
            votes: votes.iter().map(vote_words).collect(),
        }
        .abi_encode(),
        Claim::Show {
            round,
            subject,
            vote,
            excuse,
        } => PanelVerdict::showCall {
            round: *round,
            subject: evm_digest(*subject),
            vote: vote_words(vote),
            excuse: *excuse,
        }
        .abi_encode(),
        Claim::Silence {
            round,
            subject,
            validator,
        } => PanelVerdict::punishSilenceCall {
            round: *round,
            subject: evm_digest(*subject),
            validator: evm_address(*validator),
        }
        .abi_encode(),
        Claim::Missed {
            round,
            kind,
            validator,
        } => missed_input(*round, *kind, *validator),
        Claim::Overcharge(evidence) => PanelVerdict::proveOverchargeCall {
            evidence: evidence_words(evidence),
        }
        .abi_encode(),
        Claim::DoublePost(first, second) => PanelVerdict::proveDoublePostCall {
            first: evidence_words(first),
            second: evidence_words(second),
        }
        .abi_encode(),
    }
}

fn missed_input(round: u64, fault: u8, validator: Address) -> Vec<u8> {
    let validator = evm_address(validator);
    if fault == kind::MISSED_REVEAL {
        PanelVerdict::punishRevealCall { round, validator }.abi_encode()
    } else {
        PanelVerdict::punishBallotCall { round, validator }.abi_encode()
    }
}

/// A vote in the contract's words.
pub fn vote_words(vote: &Vote) -> PanelVerdict::Vote {
    let steps = vote.proof.iter().map(|step| PanelVerdict::Step {
        bit: step.bit,
        sibling: evm_digest(step.sibling),
    });
    PanelVerdict::Vote {
        validator: evm_address(vote.validator),
        outcome: vote.verdict.outcome.code(),
        found: evm_digest(vote.verdict.digest),
        proof: steps.collect(),
    }
}

/// Evidence in the contract's words.
pub fn evidence_words(evidence: &Evidence) -> PanelVerdict::Evidence {
    let place = &evidence.place;
    let posts = place.posts.iter().map(|post| PanelVerdict::Post {
        jobRoot: evm_digest(post.job_root),
        jobCount: post.job_count,
        contentId: evm_digest(post.content_id),
    });
    PanelVerdict::Evidence {
        round: evidence.round,
        receipt: Bytes::from(receipt_bytes(&evidence.receipt)),
        providerSignature: Bytes::from(evidence.provider_signature.0.to_vec()),
        place: PanelVerdict::Place {
            router: evm_address(place.router),
            from: place.from,
            posts: posts.collect(),
            index: U256::from(place.at),
            proof: place.proof.iter().map(|node| evm_digest(*node)).collect(),
        },
    }
}
