//! What the chain told of stakes, audits and faults, folded for the pages.

use std::collections::{BTreeMap, VecDeque};
use stoa_api::{Audits, RoundRow, RulingRow, SlashRow, StakeRow, ValidatorRow};
use stoa_chain::{ContractEvent, Indexed, StakeRole};
use stoa_ledger::audit::rounds::Phase;
use stoa_ledger::audit::{Outcome, hash::kind};
use stoa_types::{Address, Digest, Timestamp};

/// Slashes, rulings and convictions that are remembered; the newest.
const KEPT: usize = 256;
/// Rounds that are remembered.
const ROUNDS_KEPT: usize = 32;

/// Stakes, rounds, rulings and slashes.
#[derive(Debug, Clone, Default)]
pub struct Trail {
    /// Whether the contracts that judge are followed.
    pub followed: bool,
    /// Stakes of all roles.
    pub stakes: BTreeMap<(StakeRole, Address), StakeRow>,
    /// How often each account was slashed.
    pub slash_counts: BTreeMap<Address, u64>,
    slashes: VecDeque<SlashRow>,
    rulings: VecDeque<RulingRow>,
    rounds: VecDeque<RoundRow>,
    /// Why each of the newest faults was punished.
    convictions: VecDeque<(Digest, u8)>,
    validators: BTreeMap<Address, Validator>,
}

#[derive(Debug, Clone, Default)]
struct Validator {
    seated: bool,
    revealed: u64,
    ballots: u64,
    unsealed: u64,
    differed: u64,
    last_at: Option<Timestamp>,
}

fn keep<T>(list: &mut VecDeque<T>, item: T, most: usize) {
    list.push_back(item);
    if list.len() > most {
        list.pop_front();
    }
}

/// What a panel found, in words.
const fn found(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Good => "right answer",
        Outcome::WrongOutput => "wrong output: recomputation gives another answer",
        Outcome::WrongCount => "wrong count: recomputation gives other token counts",
        Outcome::Withheld => "withheld: the router did not give what is needed to judge",
        Outcome::Forged => "forged: the leaf is not what provider and router signed",
        Outcome::Unable => "not judged: the panel could not tell",
        Outcome::BadSums => {
            "bad sums: the payout root does not follow from the leaves, or debits more than was allotted"
        }
        Outcome::Void => {
            "void: the payout root pays what was reversed while it was under way, and is cancelled"
        }
    }
}

/// Why somebody was convicted, in words.
fn fault_words(code: u8) -> String {
    if let Some(outcome) = Outcome::ALL.into_iter().find(|o| o.code() == code) {
        return found(outcome).to_owned();
    }
    let words = match code {
        kind::MISSED_REVEAL => "did not reveal its link of the beacon in time",
        kind::MISSED_BALLOT => "cast no ballot in time",
        kind::DISSENT => "found otherwise than the panel ruled, or said nothing",
        kind::OVERCHARGE => "charged more than counts and prices give",
        kind::DOUBLE_POST => "posted one job twice",
        kind::NON_DELIVERY => "took a job, delivered nothing and did not answer",
        kind::FALSE_CLAIM => "claimed that a job was not delivered that it had signed for",
        other => return format!("fault of kind {other}"),
    };
    words.to_owned()
}

impl Trail {
    /// Takes in what the chain told; others than stakes, audits and faults are left alone.
    pub fn told(&mut self, indexed: &Indexed) {
        let (at, transaction) = (indexed.at, indexed.transaction);
        match &indexed.event {
            ContractEvent::Slashed { .. } => self.slashed(indexed),
            ContractEvent::Convicted { fault, kind, .. } => {
                keep(&mut self.convictions, (*fault, *kind), KEPT);
                let slashes = self.slashes.iter_mut().filter(|s| s.fault == *fault);
                slashes.for_each(|slash| slash.why = Some(fault_words(*kind)));
            }
            ContractEvent::Ruled {
                subject,
                outcome,
                plant,
                ..
            } => {
                let planted = if *plant { " (a plant)" } else { "" };
                let ruling = RulingRow {
                    at,
                    transaction,
                    job: None,
                    subject: *subject,
                    about: None,
                    outcome: format!("{}{planted}", found(*outcome)),
                    fault: !matches!(outcome, Outcome::Good | Outcome::Unable | Outcome::Void)
                        && !plant,
                };
                keep(&mut self.rulings, ruling, KEPT);
            }
            // In the transaction of the ruling or conviction that caused it.
            ContractEvent::JobReversed { job, .. } => {
                let cause = self.rulings.iter_mut().rev();
                let mut cause = cause.filter(|ruling| ruling.transaction == transaction);
                if let Some(ruling) = cause.next() {
                    ruling.job = Some(*job);
                }
            }
            ContractEvent::ProviderRated { provider, .. } => {
                let cause = self.rulings.iter_mut().rev();
                let mut cause = cause.filter(|ruling| ruling.transaction == transaction);
                if let Some(ruling) = cause.next() {
                    ruling.about = Some(*provider);
                }
            }
            _ => self.validator_told(indexed),
        }
        self.round_told(indexed);
    }

    fn slashed(&mut self, indexed: &Indexed) {
        let ContractEvent::Slashed {
            fault,
            offender,
            role,
            severity_bps,
            sigma,
            developer,
            challenger,
            burned,
        } = &indexed.event
        else {
            return;
        };
        *self.slash_counts.entry(*offender).or_default() += 1;
        let known = self.convictions.iter().find(|(known, _)| known == fault);
        let slash = SlashRow {
            at: indexed.at,
            transaction: indexed.transaction,
            offender: *offender,
            role: role_word(*role),
            severity_bps: *severity_bps,
            taken: *sigma,
            developer: *developer,
            challenger: *challenger,
            burned: *burned,
            fault: *fault,
            why: known.map(|(_, kind)| fault_words(*kind)),
        };
        keep(&mut self.slashes, slash, KEPT);
    }

    fn validator_told(&mut self, indexed: &Indexed) {
        let (validator, note): (_, fn(&mut Validator)) = match &indexed.event {
            ContractEvent::Joined { validator, .. } => (validator, |v| v.seated = true),
            ContractEvent::Left { validator } => (validator, |v| v.seated = false),
            ContractEvent::Revealed { validator, .. } => (validator, |v| v.revealed += 1),
            ContractEvent::BallotCommitted { validator, .. } => (validator, |v| v.ballots += 1),
            ContractEvent::BallotUnsealed { validator, .. } => (validator, |v| v.unsealed += 1),
            ContractEvent::Differed { validator, .. } => (validator, |v| v.differed += 1),
            _ => return,
        };
        let entry = self.validators.entry(*validator).or_default();
        entry.last_at = Some(indexed.at);
        note(entry);
    }

    fn round_told(&mut self, indexed: &Indexed) {
        match &indexed.event {
            ContractEvent::RoundOpened {
                round, committee, ..
            } => {
                let opened = RoundRow {
                    round: *round,
                    phase: phase_word(Phase::Reveal).to_owned(),
                    opened_at: indexed.at,
                    committee: u64::from(*committee),
                    beacon: None,
                };
                keep(&mut self.rounds, opened, ROUNDS_KEPT);
            }
            ContractEvent::Drawn { round, beacon, .. } => {
                let mut known = self.rounds.iter_mut().rev();
                if let Some(row) = known.find(|row| row.round == *round) {
                    row.beacon = Some(*beacon);
                    phase_word(Phase::Ballot).clone_into(&mut row.phase);
                }
            }
            _ => {}
        }
    }

    /// Rounds, newest first. Phases end by time, of which no event tells: `phase` knows them, and `None` is a round that is over.
    fn rounds(&self, phase: impl Fn(u64) -> Option<Option<Phase>>) -> Vec<RoundRow> {
        let newest = self.rounds.iter().rev();
        let row = |row: &RoundRow| {
            let told = phase(row.round);
            let told = told.map(|phase| phase_word(phase.unwrap_or(Phase::Closed)).to_owned());
            RoundRow {
                phase: told.unwrap_or_else(|| row.phase.clone()),
                ..row.clone()
            }
        };
        newest.map(row).collect()
    }

    /// Slashes of an account, newest first.
    pub fn slashes_of(&self, account: Address) -> Vec<SlashRow> {
        let newest = self.slashes.iter().rev();
        newest
            .filter(|slash| slash.offender == account)
            .cloned()
            .collect()
    }

    /// Rulings about an account's work, newest first.
    pub fn rulings_of(&self, account: Address) -> Vec<RulingRow> {
        let newest = self.rulings.iter().rev();
        newest
            .filter(|ruling| ruling.about == Some(account))
            .cloned()
            .collect()
    }

    /// All of it. `phase` says where a round stands, as far as anything is known.
    pub fn audits(&self, phase: impl Fn(u64) -> Option<Option<Phase>>) -> Audits {
        let staked = self.stakes.iter();
        let staked = staked.filter(|((role, _), _)| *role == StakeRole::Validator);
        let mut validators: BTreeMap<Address, Option<StakeRow>> =
            self.validators.keys().map(|id| (*id, None)).collect();
        validators.extend(staked.map(|((_, id), stake)| (*id, Some(*stake))));
        let row = |(id, stake)| {
            let did = self.validators.get(&id).cloned().unwrap_or_default();
            let slashed = self.slash_counts.get(&id).copied().unwrap_or(0);
            ValidatorRow {
                id,
                stake,
                seated: did.seated,
                revealed: did.revealed,
                ballots: did.ballots,
                unsealed: did.unsealed,
                differed: did.differed,
                slashes: slashed,
                last_at: did.last_at,
            }
        };
        Audits {
            followed: self.followed,
            validators: validators.into_iter().map(row).collect(),
            rounds: self.rounds(phase),
            rulings: self.rulings.iter().rev().cloned().collect(),
            slashes: self.slashes.iter().rev().cloned().collect(),
        }
    }
}

const fn phase_word(phase: Phase) -> &'static str {
    match phase {
        Phase::None | Phase::Reveal => "revealing the beacon",
        Phase::Ballot => "recomputing and voting",
        Phase::Unseal => "showing ballots",
        Phase::Plants => "naming plants",
        Phase::Rulings => "ruling",
        Phase::Closed => "over",
    }
}

const fn role_word(role: StakeRole) -> &'static str {
    match role {
        StakeRole::Provider => "provider",
        StakeRole::Router => "router",
        StakeRole::Validator => "validator",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stoa_types::{JobId, StakeAmount, TokenAmount};

    fn told(trail: &mut Trail, transaction: u8, event: ContractEvent) {
        trail.told(&Indexed {
            event,
            block: 7,
            at: Timestamp::from_secs(9),
            transaction: Digest([transaction; 32]),
            log_index: 0,
        });
    }

    #[test]
    fn a_slash_is_explained_by_its_conviction_whichever_is_told_first() {
        let (offender, fault) = (Address([1; 20]), Digest([2; 32]));
        let slashed = ContractEvent::Slashed {
            fault,
            offender,
            role: StakeRole::Provider,
            severity_bps: 2_500,
            sigma: StakeAmount::from_units(10),
            developer: StakeAmount::from_units(4),
            challenger: StakeAmount::from_units(4),
            burned: StakeAmount::from_units(2),
        };
        let convicted = ContractEvent::Convicted {
            fault,
            offender,
            kind: Outcome::WrongOutput.code(),
            severity_bps: 2_500,
        };
        for events in [
            [slashed.clone(), convicted.clone()],
            [convicted.clone(), slashed.clone()],
        ] {
            let mut trail = Trail::default();
            for event in events {
                told(&mut trail, 1, event);
            }
            let why = trail.slashes_of(offender)[0].why.clone().expect("told");
            assert!(why.starts_with("wrong output"), "{why}");
            assert_eq!(trail.slash_counts[&offender], 1);
        }
    }

    #[test]
    fn a_ruling_is_about_the_job_and_the_provider_that_its_own_transaction_names() {
        let (job, provider) = (JobId([3; 32]), Address([4; 20]));
        let ruled = |subject| ContractEvent::Ruled {
            round: 1,
            subject: Digest([subject; 32]),
            outcome: Outcome::WrongOutput,
            plant: false,
        };
        let mut trail = Trail::default();
        told(&mut trail, 1, ruled(5));
        told(&mut trail, 2, ruled(6));
        let reversed = ContractEvent::JobReversed {
            job,
            router: Address([8; 20]),
            account: Address([9; 20]),
            charge: TokenAmount::from_units(1),
        };
        told(&mut trail, 2, reversed);
        let rated = ContractEvent::ProviderRated {
            provider,
            reputation_ppm: 0,
            verified: 1,
        };
        told(&mut trail, 2, rated);
        let rulings = trail.rulings_of(provider);
        assert_eq!(rulings.len(), 1);
        assert_eq!(
            (rulings[0].job, rulings[0].subject),
            (Some(job), Digest([6; 32]))
        );
        assert_eq!(trail.audits(|_| None).rulings[1].about, None);
    }

    #[test]
    fn a_round_whose_time_is_over_is_said_to_be_over_though_no_event_tells() {
        let mut trail = Trail::default();
        for round in [1, 2] {
            let opened = ContractEvent::RoundOpened {
                round,
                committee: 3,
                plants_due: 0,
            };
            told(&mut trail, 1, opened);
            let beacon = Digest([round as u8; 32]);
            told(&mut trail, 1, ContractEvent::Drawn { round, beacon });
        }
        let words = |phase: &dyn Fn(u64) -> Option<Option<Phase>>| -> Vec<String> {
            let rounds = trail.audits(phase).rounds;
            rounds.into_iter().map(|round| round.phase).collect()
        };
        let known = |round| Some((round == 2).then_some(Phase::Rulings));
        assert_eq!(words(&known), ["ruling", "over"]);
        let nothing_known = words(&|_| None);
        assert_eq!(nothing_known, ["recomputing and voting"; 2]);
    }
}
