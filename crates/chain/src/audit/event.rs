//! Events of the contracts that judge.

use alloy_primitives::B256;
use alloy_sol_types::SolEventInterface;
use stoa_crypto::PublicKey;
use stoa_types::{JobId, Timestamp};

use super::AuditContracts;
use crate::access::RawLog;
use crate::bindings::AuditRounds::AuditRoundsEvents as Rounds;
use crate::bindings::DeliveryClaims::DeliveryClaimsEvents as Claims;
use crate::bindings::PanelVerdict::PanelVerdictEvents as Verdict;
use crate::bindings::Reputation::ReputationEvents as Reputation;
use crate::convert::{address, digest, evm_digest, tokens};
use crate::event::ContractEvent;

impl AuditContracts {
    /// Reads an event of one of these contracts; `None` for other contracts and for what does not decode.
    pub fn decode(&self, log: &RawLog) -> Option<ContractEvent> {
        let topics: Vec<B256> = log.topics.iter().map(|topic| evm_digest(*topic)).collect();
        if log.address == self.rounds {
            rounds(Rounds::decode_raw_log(&topics, &log.data).ok()?)
        } else if log.address == self.verdict {
            verdict(Verdict::decode_raw_log(&topics, &log.data).ok()?)
        } else if log.address == self.reputation {
            Some(reputation(
                Reputation::decode_raw_log(&topics, &log.data).ok()?,
            ))
        } else if Some(log.address) == self.claims {
            Some(claims(Claims::decode_raw_log(&topics, &log.data).ok()?))
        } else {
            None
        }
    }
}

fn rounds(event: Rounds) -> Option<ContractEvent> {
    use ContractEvent as E;
    Some(match event {
        Rounds::Joined(e) => E::Joined {
            validator: address(e.validator),
            tip: digest(e.tip),
            key: PublicKey::from_point(digest(e.x), digest(e.y)).ok()?,
        },
        Rounds::Renewed(e) => E::Renewed {
            validator: address(e.validator),
            tip: digest(e.tip),
        },
        Rounds::Left(e) => E::Left {
            validator: address(e.validator),
        },
        Rounds::Enrolled(e) => E::Enrolled {
            router: address(e.router),
        },
        Rounds::Struck(e) => E::Struck {
            router: address(e.router),
        },
        Rounds::Opened(e) => E::RoundOpened {
            round: e.round,
            committee: e.committee,
            plants_due: e.plantsDue,
        },
        Rounds::Covered(e) => E::Covered {
            round: e.round,
            router: address(e.router),
            posts: e.posts,
            previous: e.previous,
        },
        Rounds::Revealed(e) => E::Revealed {
            round: e.round,
            validator: address(e.validator),
            preimage: digest(e.preimage),
        },
        Rounds::Drawn(e) => E::Drawn {
            round: e.round,
            beacon: digest(e.beacon),
        },
        Rounds::BallotCommitted(e) => E::BallotCommitted {
            round: e.round,
            validator: address(e.validator),
            commitment: digest(e.commitment),
        },
        Rounds::BallotUnsealed(e) => E::BallotUnsealed {
            round: e.round,
            validator: address(e.validator),
            root: digest(e.root),
        },
        other => return planting(other),
    })
}

fn planting(event: Rounds) -> Option<ContractEvent> {
    use ContractEvent as E;
    Some(match event {
        Rounds::Planted(e) => E::Planted {
            planter: address(e.planter),
            commitment: digest(e.commitment),
        },
        Rounds::PlantNamed(e) => E::PlantNamed {
            round: e.round,
            job: JobId(e.job.0),
            account: address(e.account),
            first: e.first,
            waited: e.waited,
        },
        Rounds::VerdictSet(e) => E::Administration {
            what: format!("the verdict of the rounds is {}", e.verdict),
        },
        Rounds::PlanterSet(e) => E::Administration {
            what: format!("{} may plant: {}", e.planter, e.allowed),
        },
        Rounds::AdminSet(e) => E::Administration {
            what: format!("the admin of the rounds is {}", e.admin),
        },
        _ => return None,
    })
}

fn verdict(event: Verdict) -> Option<ContractEvent> {
    use ContractEvent as E;
    let outcome = super::outcome;
    Some(match event {
        Verdict::Ruled(e) => E::Ruled {
            round: e.round,
            subject: digest(e.subject),
            outcome: outcome(e.outcome)?,
            plant: e.plant,
        },
        Verdict::JobReversed(e) => E::JobReversed {
            job: JobId(e.job.0),
            router: address(e.router),
            account: address(e.account),
            charge: tokens(e.charge),
        },
        Verdict::Convicted(e) => E::Convicted {
            fault: digest(e.faultId),
            offender: address(e.offender),
            kind: e.kind,
            severity_bps: e.severityBps,
        },
        Verdict::Differed(e) => E::Differed {
            subject: digest(e.subject),
            validator: address(e.validator),
            outcome: outcome(e.outcome)?,
        },
    })
}

fn claims(event: Claims) -> ContractEvent {
    use ContractEvent as E;
    match event {
        Claims::Claimed(e) => E::DeliveryClaimed {
            ticket: digest(e.ticket),
            provider: address(e.provider),
            router: address(e.router),
            claimant: address(e.claimant),
            job: JobId(e.job.0),
            answer_by: Timestamp::from_secs(e.answerBy),
        },
        Claims::Answered(e) => E::ClaimAnswered {
            ticket: digest(e.ticket),
            provider: address(e.provider),
        },
        Claims::Refuted(e) => E::ClaimRefuted {
            ticket: digest(e.ticket),
            provider: address(e.provider),
            router: address(e.router),
            accused: e.accused,
        },
        Claims::Punished(e) => E::NonDeliveryPunished {
            ticket: digest(e.ticket),
            provider: address(e.provider),
            slashed: e.slashed,
        },
        Claims::TakenBack(e) => E::ClaimTakenBack {
            ticket: digest(e.ticket),
            claimant: address(e.claimant),
        },
    }
}

fn reputation(event: Reputation) -> ContractEvent {
    use ContractEvent as E;
    match event {
        Reputation::Marked(e) => E::ProviderRated {
            provider: address(e.provider),
            reputation_ppm: e.reputation,
            verified: e.verified,
        },
        Reputation::WriterSet(e) => E::Administration {
            what: format!("reputation is written by {}", e.writer),
        },
        Reputation::AdminSet(e) => E::Administration {
            what: format!("the admin of reputation is {}", e.admin),
        },
    }
}

/// Seconds of a block's time.
pub(super) fn seconds(at: Timestamp) -> u64 {
    at.0 / 1_000
}
