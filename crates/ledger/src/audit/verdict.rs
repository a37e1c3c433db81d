//! Model of PanelVerdict: what a panel rules, what needs no panel, and what both cost.

use super::ballot::{self, Step, Verdict};
use super::place::{Place, PlaceError};
use super::rounds::{AuditRounds, Phase, RoundsError};
use super::standing::{Mark, Record, Sampling};
use super::{Outcome, PANEL, hash, hash::kind};
use crate::stake::{Role, SlashOrder, StakeError, StakeRegistry};
use crate::vault::{Vault, VaultError};
use std::collections::{BTreeMap, BTreeSet};
use stoa_crypto::{Words, keccak256, receipt_digest, receipt_leaf, recover};
use stoa_types::{Address, Bps, Digest, JobId, Receipt, Signature, Tier, TokenAmount};

/// A conviction within this many seconds of the last one of its class is a repeat (SPEC C.6.8).
pub const REPEAT_SECONDS: u64 = 30 * 86_400;

/// What a verdict contract is built with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerdictParams {
    /// Chain id that receipts must name.
    pub chain_id: u64,
    /// Vault that receipts must name.
    pub vault: Address,
    /// This contract: the caller of stake registry, vault and rounds.
    pub own: Address,
    /// Seconds that a panel member has to show its verdict after a ruling without it.
    pub answer: u64,
    /// Which jobs are audited.
    pub sampling: Sampling,
}

/// The contracts that a verdict moves.
#[derive(Debug)]
pub struct Market<'a> {
    /// Phases, panels, ballots.
    pub rounds: &'a mut AuditRounds,
    /// What is slashed.
    pub stakes: &'a mut StakeRegistry,
    /// What is voided.
    pub vault: &'a mut Vault,
}

/// A posted receipt with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// The round that covers it.
    pub round: u64,
    /// What was posted.
    pub receipt: Receipt,
    /// The provider's signature over it; only read where the provider answers.
    pub provider_signature: Signature,
    /// Where it stands.
    pub place: Place,
}

impl Evidence {
    /// What ballots call it.
    pub fn subject(&self) -> Digest {
        hash::job_subject(self.place.router, receipt_leaf(&self.receipt))
    }
}

/// One verdict with its way to the validator's ballot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vote {
    /// Whose.
    pub validator: Address,
    /// What it found.
    pub verdict: Verdict,
    /// From the leaf up.
    pub proof: Vec<Step>,
}

/// What was ruled on one subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ruling {
    /// When.
    pub at: u64,
    /// What.
    pub outcome: Outcome,
    /// Whether every member of the panel had to have a verdict: the beacon drew it. On a batch nobody has to say anything.
    pub duty: bool,
    /// Whether the job was planted.
    pub plant: bool,
    /// Subject of the batch that holds the job.
    pub batch: Digest,
    /// Seats of the panel whose verdict was shown or that showed none in time, one bit each.
    pub seen: u8,
    /// No two votes were alike: they were added up. A heavier ruling overrules it, and nobody who differs from it pays.
    pub combined: bool,
}

impl Ruling {
    /// A plant that was called good.
    fn wrongly_good(&self) -> bool {
        self.plant && self.outcome == Outcome::Good
    }
}

/// What a call did, beyond the events of stake registry and vault.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)] // the fields are those of the contract's events
pub enum VerdictEvent {
    /// A panel ruled.
    Ruled {
        round: u64,
        subject: Digest,
        outcome: Outcome,
        plant: bool,
    },
    /// An account does not owe this charge any more; the router takes it out of its totals.
    JobReversed {
        job: JobId,
        router: Address,
        account: Address,
        charge: TokenAmount,
    },
    /// A fault was punished.
    Convicted {
        fault_id: Digest,
        offender: Address,
        kind: u8,
        severity: Bps,
    },
    /// A verdict other than the ruling that cannot be punished, because a router can make honest validators differ.
    Differed {
        subject: Digest,
        validator: Address,
        outcome: Outcome,
    },
}

/// Why a call failed. It changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // each field is named in its sentence
pub enum VerdictError {
    /// Another phase.
    #[error("round {round} is in phase {phase:?}")]
    WrongPhase { round: u64, phase: Phase },
    /// The place does not hold.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// One ruling for a subject.
    #[error("there is a ruling on {subject}")]
    AlreadyRuled { subject: Digest },
    /// Not drawn by the beacon.
    #[error("the beacon did not draw {subject}: nobody is asked about it")]
    NotAudited { subject: Digest },
    /// Nothing ruled yet.
    #[error("there is no ruling on {subject}")]
    NotRuled { subject: Digest },
    /// More votes than seats.
    #[error("{votes} votes for a panel of 3")]
    TooManyVotes { votes: usize },
    /// Not drawn.
    #[error("{who} does not sit on this panel")]
    NotOnPanel { who: Address },
    /// Counted before, or punished.
    #[error("the verdict of {who} has been counted or punished before")]
    AlreadySeen { who: Address },
    /// Not shown in time.
    #[error("{who} has shown no ballot")]
    NoBallot { who: Address },
    /// Not in the ballot.
    #[error("this verdict is not in the ballot of {who}")]
    NotInBallot { who: Address },
    /// Too few alike.
    #[error("no outcome has {needed} votes")]
    NoMajority { needed: usize },
    /// A job's outcome for a batch, or the other way round.
    #[error("outcome {outcome:?} does not fit this subject")]
    WrongSubject { outcome: Outcome },
    /// Nobody can judge the content of such a job by computing it again.
    #[error("a job of tier {tier:?} is not judged by its content")]
    WrongTier { tier: Tier },
    /// Of another chain, vault or router.
    #[error("the receipt is of another network or router")]
    ForeignReceipt,
    /// Not the provider's.
    #[error("the signature over the receipt is not {provider}'s")]
    WrongSigner { provider: Address },
    /// Still time.
    #[error("the panel may answer until {at}")]
    TooEarly { at: u64 },
    /// A missed ballot, which is its own fault.
    #[error("silence of {who} is not punished here")]
    NotSilent { who: Address },
    /// The duty was done.
    #[error("{who} did its duty in round {round}")]
    DutyDone { round: u64, who: Address },
    /// Then chain or network were away.
    #[error("no validator did its duty in round {round}, and nobody is punished")]
    NobodyDid { round: u64 },
    /// The charge is right.
    #[error("a charge of {charge} is not above {most}")]
    NotOvercharged { charge: TokenAmount, most: u128 },
    /// The same leaf at the same position, or two jobs.
    #[error("these are not two leaves for one job of one router")]
    NotDouble,
    /// The rounds refused.
    #[error(transparent)]
    Rounds(#[from] RoundsError),
    /// The registry refused.
    #[error(transparent)]
    Stake(#[from] StakeError),
    /// The vault refused.
    #[error(transparent)]
    Vault(#[from] VaultError),
}

type Done = Result<Vec<VerdictEvent>, VerdictError>;

/// The contract. See the module's page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PanelVerdict {
    params: VerdictParams,
    rulings: BTreeMap<Digest, Ruling>,
    repeats: BTreeMap<(Address, u8), Repeat>,
    standings: BTreeMap<Address, Record>,
    reversed: BTreeSet<Digest>,
}

/// Convictions of one class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Repeat {
    count: u32,
    last: u64,
    /// When one of them last raised the count.
    rose: u64,
}

/// Whom a subject concerns.
struct Case {
    round: u64,
    subject: Digest,
    router: Address,
    /// What a conviction of the router or provider harmed; nobody for a batch.
    harmed: Option<(JobId, Address, TokenAmount)>,
    provider: Address,
    covered: bool,
    voids: bool,
}

impl PanelVerdict {
    /// Nothing ruled yet.
    pub fn new(params: VerdictParams) -> Self {
        Self {
            params,
            rulings: BTreeMap::new(),
            repeats: BTreeMap::new(),
            standings: BTreeMap::new(),
            reversed: BTreeSet::new(),
        }
    }

    /// The ruling on a subject of a round.
    pub fn ruling(&self, round: u64, subject: Digest) -> Option<&Ruling> {
        self.rulings.get(&ruling_key(round, subject))
    }

    /// Reputation of a provider.
    pub fn record(&self, provider: Address) -> Record {
        self.standings.get(&provider).cloned().unwrap_or_default()
    }

    /// Whether the charge of a posted receipt was reversed, by its subject.
    pub fn is_reversed(&self, subject: Digest) -> bool {
        self.reversed.contains(&subject)
    }

    // ---- rulings

    /// Anyone brings a posted receipt and the verdicts of at least two panel members, in any order of seats.
    pub fn rule(
        &mut self,
        market: &mut Market<'_>,
        evidence: &Evidence,
        votes: &[Vote],
        now: u64,
    ) -> Done {
        let (round, receipt) = (evidence.round, &evidence.receipt);
        in_rulings(market.rounds, round, now)?;
        let case = open_case(market, evidence)?;
        self.unruled(round, case.subject)?;
        let duty = self.audited(market.rounds, &case)?;
        let (outcome, seen, combined) = count(market.rounds, round, case.subject, votes, false)?;
        self.check_job(outcome, evidence)?;
        let (job, account) = (receipt.job_id, receipt.account);
        let ruling = Ruling {
            at: now,
            outcome,
            duty,
            plant: market.rounds.is_plant(round, job, account),
            batch: hash::batch_subject(case.router, evidence.place.post()),
            seen,
            combined,
        };
        self.settle(market, round, &case, ruling, votes)
    }

    /// The same for a whole batch, post `post` of `router`. A ruling that was reached only by adding up different votes gives way to a heavier
    /// one, so that whoever brings it gains nothing by leaving votes out.
    pub fn rule_batch(
        &mut self,
        market: &mut Market<'_>,
        round: u64,
        router: Address,
        post: u64,
        votes: &[Vote],
        now: u64,
    ) -> Done {
        in_rulings(market.rounds, round, now)?;
        let here = market.rounds.snapshot(round, router);
        let before = market.rounds.snapshot(here.previous, router);
        if post <= before.posts || post > here.posts {
            return Err(PlaceError::NotCovered { round, router }.into());
        }
        let subject = hash::batch_subject(router, post);
        let old = self.ruling(round, subject).copied();
        if old.is_some_and(|old| !old.combined) {
            return Err(VerdictError::AlreadyRuled { subject });
        }
        let (outcome, seen, combined) = count(market.rounds, round, subject, votes, true)?;
        if outcome != Outcome::Withheld && !outcome.is_of_sums() {
            return Err(VerdictError::WrongSubject { outcome });
        }
        if old.is_some_and(|old| !outcome.overrules(old.outcome)) {
            return Err(VerdictError::AlreadyRuled { subject });
        }
        let ruling = Ruling {
            at: now,
            outcome,
            duty: false,
            plant: false,
            batch: subject,
            seen,
            combined,
        };
        let case = Case {
            round,
            subject,
            router,
            harmed: None,
            provider: Address::ZERO,
            covered: false,
            voids: voids(market, round, router),
        };
        self.settle(market, round, &case, ruling, votes)
    }

    /// Anyone shows the verdict of a panel member that a ruling did not count. With `excuse` the verdict is `Withheld` on the batch that
    /// holds the job: who got no leaf file cannot judge its leaves.
    pub fn show(
        &mut self,
        market: &mut Market<'_>,
        round: u64,
        subject: Digest,
        vote: &Vote,
        excuse: bool,
        now: u64,
    ) -> Done {
        let ruling = self.ruled(round, subject)?;
        let seat = seat_of(market.rounds, round, subject, vote.validator)?;
        unseen(ruling.seen, seat, vote.validator)?;
        let about = if excuse { ruling.batch } else { subject };
        in_ballot(market.rounds, round, about, vote)?;
        if excuse && vote.verdict.outcome != Outcome::Withheld {
            let outcome = vote.verdict.outcome;
            return Err(VerdictError::WrongSubject { outcome });
        }
        self.mark_seen(round, subject, seat);
        if excuse || vote.verdict.outcome == ruling.outcome {
            return Ok(Vec::new());
        }
        let event = self.dissent(market, subject, &ruling, vote, None, now)?;
        Ok(vec![event])
    }

    /// Anyone has a panel member punished that let the time to show its verdict pass, once in a round. Where nobody had to say anything its
    /// seat is marked and it pays nothing.
    pub fn punish_silence(
        &mut self,
        market: &mut Market<'_>,
        round: u64,
        subject: Digest,
        validator: Address,
        now: u64,
    ) -> Done {
        let ruling = self.ruled(round, subject)?;
        let at = ruling.at + self.params.answer;
        if now < at {
            return Err(VerdictError::TooEarly { at });
        }
        let seat = seat_of(market.rounds, round, subject, validator)?;
        unseen(ruling.seen, seat, validator)?;
        let place = market.rounds.place(round, validator)?;
        if market.rounds.ballot_root(round, place).is_none() {
            return Err(VerdictError::NotSilent { who: validator });
        }
        self.mark_seen(round, subject, seat);
        if !ruling.duty || ruling.wrongly_good() {
            return Ok(Vec::new());
        }
        let fault = Fault::omission(
            market.rounds,
            kind::DISSENT,
            round,
            (validator, Role::Validator),
        );
        Ok(self.punish_once(market, fault, now)?.into_iter().collect())
    }

    /// Anyone has a validator punished that did not reveal.
    pub fn punish_reveal(
        &mut self,
        market: &mut Market<'_>,
        round: u64,
        validator: Address,
        now: u64,
    ) -> Done {
        let phase = market.rounds.phase(round, now);
        if phase <= Phase::Reveal || phase == Phase::Closed {
            return Err(VerdictError::WrongPhase { round, phase });
        }
        self.punish_duty(market, kind::MISSED_REVEAL, round, validator, now)
    }

    /// Anyone has a validator punished that committed no ballot or did not show it.
    pub fn punish_ballot(
        &mut self,
        market: &mut Market<'_>,
        round: u64,
        validator: Address,
        now: u64,
    ) -> Done {
        let phase = market.rounds.phase(round, now);
        if phase <= Phase::Unseal || phase == Phase::Closed {
            return Err(VerdictError::WrongPhase { round, phase });
        }
        self.punish_duty(market, kind::MISSED_BALLOT, round, validator, now)
    }

    // ---- faults that need no panel

    /// Anyone proves a posted charge above what counts and prices give.
    pub fn prove_overcharge(
        &mut self,
        market: &mut Market<'_>,
        evidence: &Evidence,
        now: u64,
    ) -> Done {
        not_closed(market.rounds, evidence.round, now)?;
        let case = open_case(market, evidence)?;
        let (charge, most) = (evidence.receipt.charge, most_charge(&evidence.receipt));
        if charge.units() <= most {
            return Err(VerdictError::NotOvercharged { charge, most });
        }
        self.convict_router(market, kind::OVERCHARGE, &case, case.subject, now)
    }

    /// Anyone proves two leaves for one job, also the same leaf at two positions of one post.
    pub fn prove_double_post(
        &mut self,
        market: &mut Market<'_>,
        first: &Evidence,
        second: &Evidence,
        now: u64,
    ) -> Done {
        not_closed(market.rounds, first.round, now)?;
        not_closed(market.rounds, second.round, now)?;
        open_case(market, first)?;
        let case = open_case(market, second)?;
        let same_job = first.receipt.job_id == second.receipt.job_id;
        let same_router = first.place.router == second.place.router;
        let same_leaf = first.subject() == second.subject();
        let same_post = first.place.post() == second.place.post();
        let leaf = receipt_leaf(&first.receipt);
        let beside = first.place.is_beside(&second.place, leaf);
        if !same_job || !same_router || (same_leaf && same_post && !beside) {
            return Err(VerdictError::NotDouble);
        }
        let about = Digest(second.receipt.job_id.0);
        self.convict_router(market, kind::DOUBLE_POST, &case, about, now)
    }

    // ---- private

    fn unruled(&self, round: u64, subject: Digest) -> Result<(), VerdictError> {
        match self.ruling(round, subject) {
            Some(_) => Err(VerdictError::AlreadyRuled { subject }),
            None => Ok(()),
        }
    }

    /// Whether the beacon drew the job. A provider's first jobs are audited as well where there is no standing yet, but which they are is
    /// not known here: those who looked may rule, and nobody has to.
    fn audited(&self, rounds: &AuditRounds, case: &Case) -> Result<bool, VerdictError> {
        let standing = self.record(case.provider).at(case.round);
        let beacon = rounds.round(case.round).map_or(Digest::ZERO, |r| r.beacon);
        let sampling = &self.params.sampling;
        let drawn = sampling.draws(beacon, case.subject, standing);
        if !drawn && standing.verified >= sampling.first_jobs {
            let subject = case.subject;
            return Err(VerdictError::NotAudited { subject });
        }
        Ok(drawn)
    }

    fn ruled(&self, round: u64, subject: Digest) -> Result<Ruling, VerdictError> {
        let ruling = self.ruling(round, subject).copied();
        ruling.ok_or(VerdictError::NotRuled { subject })
    }

    fn mark_seen(&mut self, round: u64, subject: Digest, seat: usize) {
        if let Some(ruling) = self.rulings.get_mut(&ruling_key(round, subject)) {
            ruling.seen |= 1 << seat;
        }
    }

    /// What an outcome about a job demands of the receipt.
    fn check_job(&self, outcome: Outcome, evidence: &Evidence) -> Result<(), VerdictError> {
        let receipt = &evidence.receipt;
        if outcome.is_of_sums() {
            return Err(VerdictError::WrongSubject { outcome });
        }
        if !outcome.is_content() {
            return Ok(());
        }
        if receipt.tier != Tier::Exact {
            return Err(VerdictError::WrongTier { tier: receipt.tier });
        }
        let here = receipt.chain_id == self.params.chain_id
            && receipt.vault == self.params.vault
            && receipt.router == evidence.place.router;
        if !here {
            return Err(VerdictError::ForeignReceipt);
        }
        let provider = receipt.provider;
        let signer = recover(receipt_digest(receipt), &evidence.provider_signature);
        if signer != Ok(provider) {
            return Err(VerdictError::WrongSigner { provider });
        }
        Ok(())
    }

    fn settle(
        &mut self,
        market: &mut Market<'_>,
        round: u64,
        case: &Case,
        ruling: Ruling,
        votes: &[Vote],
    ) -> Done {
        let outcome = ruling.outcome;
        self.rulings.insert(ruling_key(round, case.subject), ruling);
        let mut events = vec![VerdictEvent::Ruled {
            round,
            subject: case.subject,
            outcome,
            plant: ruling.plant,
        }];
        if !ruling.plant {
            events.extend(self.carry_out(market, case, &ruling, votes)?);
        }
        for vote in votes {
            if vote.verdict.outcome != outcome {
                let accused = (outcome == Outcome::Good).then_some(case.provider);
                let event =
                    self.dissent(market, case.subject, &ruling, vote, accused, ruling.at)?;
                events.push(event);
            }
        }
        Ok(events)
    }

    /// What a ruling means for provider and router. Only who finds by computing is rewarded: to find that something was not given costs
    /// nothing, and nobody can check it.
    fn carry_out(
        &mut self,
        market: &mut Market<'_>,
        case: &Case,
        ruling: &Ruling,
        votes: &[Vote],
    ) -> Done {
        let (outcome, subject) = (ruling.outcome, case.subject);
        let fault = match outcome {
            Outcome::Good => {
                self.mark(market.rounds, case.provider, Mark::Good);
                return Ok(Vec::new());
            }
            Outcome::Withheld => Fault::omission(
                market.rounds,
                outcome.code(),
                case.round,
                (case.router, Role::Router),
            ),
            Outcome::Void => {
                if case.voids {
                    market.vault.void_pending(self.params.own, case.router)?;
                }
                return Ok(Vec::new());
            }
            _ => {
                let by_provider = matches!(outcome, Outcome::WrongOutput | Outcome::WrongCount);
                let (offender, role) = if by_provider {
                    self.mark(market.rounds, case.provider, Mark::Fraud);
                    (case.provider, Role::Provider)
                } else {
                    (case.router, Role::Router)
                };
                let mut fault = Fault::of(outcome.code(), offender, role, subject);
                if outcome != Outcome::Forged {
                    fault.challenger = rewarded(market.rounds, case.round, subject, outcome, votes);
                }
                fault
            }
        };
        self.convict(market, fault, case, ruling.at)
    }

    fn convict_router(
        &mut self,
        market: &mut Market<'_>,
        kind: u8,
        case: &Case,
        about: Digest,
        now: u64,
    ) -> Done {
        let fault = Fault::of(kind, case.router, Role::Router, about);
        self.convict(market, fault, case, now)
    }

    /// Slashes, and takes back or compensates what the harmed account was charged.
    fn convict(
        &mut self,
        market: &mut Market<'_>,
        mut fault: Fault,
        case: &Case,
        now: u64,
    ) -> Done {
        if let (Some((_, account, charge)), true) = (case.harmed, case.covered) {
            fault.harmed = vec![(account, charge)];
        }
        let mut events: Vec<_> = self.punish_once(market, fault, now)?.into_iter().collect();
        if case.covered {
            return Ok(events);
        }
        if case.voids {
            market.vault.void_pending(self.params.own, case.router)?;
        }
        if let Some((job, account, charge)) = case.harmed
            && self.reversed.insert(case.subject)
        {
            events.push(VerdictEvent::JobReversed {
                job,
                router: case.router,
                account,
                charge,
            });
        }
        Ok(events)
    }

    /// A plant that was called good is known to be false: who said so is not to pay for it. And no two agreed on what is combined.
    fn dissent(
        &mut self,
        market: &mut Market<'_>,
        subject: Digest,
        ruling: &Ruling,
        vote: &Vote,
        accused: Option<Address>,
        now: u64,
    ) -> Result<VerdictEvent, VerdictError> {
        let (validator, outcome) = (vote.validator, vote.verdict.outcome);
        let content = outcome.is_content() && ruling.outcome.is_content();
        if ruling.wrongly_good() || ruling.combined || !content {
            return Ok(VerdictEvent::Differed {
                subject,
                validator,
                outcome,
            });
        }
        let mut fault = Fault::of(kind::DISSENT, validator, Role::Validator, subject);
        let one = TokenAmount::from_units(1);
        fault.harmed = accused.map(|who| (who, one)).into_iter().collect();
        self.punish(market, fault, now)
    }

    fn punish_duty(
        &mut self,
        market: &mut Market<'_>,
        kind: u8,
        round: u64,
        who: Address,
        now: u64,
    ) -> Done {
        let place = market.rounds.place(round, who)?;
        let done = market.rounds.round(round).map(|r| match kind {
            kind::MISSED_REVEAL => &r.revealed,
            _ => &r.unsealed,
        });
        if done.is_some_and(|done| done.contains(&place)) {
            return Err(VerdictError::DutyDone { round, who });
        }
        if done.is_none_or(BTreeSet::is_empty) {
            return Err(VerdictError::NobodyDid { round });
        }
        let fault = Fault::omission(market.rounds, kind, round, (who, Role::Validator));
        let event = self.punish(market, fault, now)?;
        market.rounds.suspend(self.params.own, who, round)?;
        Ok(vec![event])
    }

    /// What was not done costs once in a round, however many subjects it concerns.
    fn punish_once(
        &mut self,
        market: &mut Market<'_>,
        fault: Fault,
        now: u64,
    ) -> Result<Option<VerdictEvent>, VerdictError> {
        if fault.since.is_some() && market.stakes.is_slashed(fault.id()) {
            return Ok(None);
        }
        self.punish(market, fault, now).map(Some)
    }

    /// One slash, with the severity of its class and of its repeats.
    fn punish(
        &mut self,
        market: &mut Market<'_>,
        fault: Fault,
        now: u64,
    ) -> Result<VerdictEvent, VerdictError> {
        let (kind, offender, fault_id) = (fault.kind, fault.offender, fault.id());
        let repeat = self.repeat(&fault, now);
        let severity = severity(kind, repeat.count - 1);
        let order = SlashOrder {
            fault_id,
            offender,
            role: fault.role,
            severity,
            harmed: fault.harmed,
            challenger: fault.challenger,
        };
        market.stakes.slash(self.params.own, &order)?;
        self.repeats.insert((offender, class(kind)), repeat);
        Ok(VerdictEvent::Convicted {
            fault_id,
            offender,
            kind,
            severity,
        })
    }

    /// The convictions of the class with this one. What was not done since before the last of them is no repeat of it: an outage covers
    /// many jobs and some rounds.
    fn repeat(&self, fault: &Fault, now: u64) -> Repeat {
        let key = (fault.offender, class(fault.kind));
        let known = self.repeats.get(&key).copied().unwrap_or_default();
        let earlier = if now > known.last + REPEAT_SECONDS {
            0
        } else {
            known.count
        };
        let same = earlier != 0 && fault.since.is_some_and(|since| since <= known.rose);
        Repeat {
            count: if same {
                earlier
            } else {
                earlier.saturating_add(1)
            },
            last: now,
            rose: if same { known.rose } else { now },
        }
    }

    /// What a claim of non-delivery that nobody answered comes to. Half of the developers' share is nobody's: there must be nothing to earn
    /// from collecting acceptances. What fell due before the last conviction is no repeat of it.
    pub(super) fn convict_non_delivery(
        &mut self,
        market: &mut Market<'_>,
        provider: Address,
        (ticket, deadline): (Digest, u64),
        account: Address,
        now: u64,
    ) -> Result<VerdictEvent, VerdictError> {
        let mut fault = Fault::of(kind::NON_DELIVERY, provider, Role::Provider, ticket);
        let one = TokenAmount::from_units(1);
        fault.since = Some(deadline);
        fault.harmed = vec![(account, one), (Address::ZERO, one)];
        let event = self.punish(market, fault, now)?;
        self.mark(market.rounds, provider, Mark::Bad);
        Ok(event)
    }

    /// What a router's claim comes to that had the delivery: it pays the provider.
    pub(super) fn convict_false_claim(
        &mut self,
        market: &mut Market<'_>,
        router: Address,
        (ticket, claimed_at): (Digest, u64),
        provider: Address,
        now: u64,
    ) -> Result<VerdictEvent, VerdictError> {
        let mut fault = Fault::of(kind::FALSE_CLAIM, router, Role::Router, ticket);
        fault.since = Some(claimed_at);
        fault.harmed = vec![(provider, TokenAmount::from_units(1))];
        self.punish(market, fault, now)
    }

    fn mark(&mut self, rounds: &AuditRounds, provider: Address, mark: Mark) {
        let record = self.record(provider).after(mark, rounds.latest());
        self.standings.insert(provider, record);
    }
}

struct Fault {
    kind: u8,
    offender: Address,
    role: Role,
    about: Digest,
    /// When what was not done began, which an outage may have caused; of a false claim when it was made. `None` for what was done.
    since: Option<u64>,
    harmed: Vec<(Address, TokenAmount)>,
    challenger: Address,
}

impl Fault {
    fn of(kind: u8, offender: Address, role: Role, about: Digest) -> Self {
        Self {
            kind,
            offender,
            role,
            about,
            since: None,
            harmed: Vec::new(),
            challenger: Address::ZERO,
        }
    }

    fn omission(
        rounds: &AuditRounds,
        kind: u8,
        round: u64,
        (offender, role): (Address, Role),
    ) -> Self {
        Self {
            since: rounds.round(round).map(|round| round.opened_at),
            ..Self::of(kind, offender, role, hash::round_digest(round))
        }
    }

    fn id(&self) -> Digest {
        hash::fault_id(self.kind, self.offender, self.about)
    }
}

/// Repeats are counted together for faults of one class.
pub const fn class(fault: u8) -> u8 {
    match fault {
        2 => 1,
        kind::MISSED_BALLOT => kind::MISSED_REVEAL,
        other => other,
    }
}

/// Share of the offender's stake, by earlier convictions of the class (SPEC C.6.8).
pub fn severity(fault: u8, earlier: u32) -> Bps {
    let table: [u16; 3] = match fault {
        1 | 2 => [2_500, 10_000, 10_000],
        3 | kind::DISSENT | kind::FALSE_CLAIM => [500, 1_500, 5_000],
        kind::NON_DELIVERY => [100, 500, 1_000],
        kind::MISSED_REVEAL | kind::MISSED_BALLOT => [100, 300, 1_000],
        _ => [10_000; 3],
    };
    let step = usize::try_from(earlier).unwrap_or(usize::MAX).min(2);
    Bps::new(table[step]).expect("the table holds shares of at most 10,000")
}

/// The most that counts and prices give: nothing without output, else the floor of the cost, at least one unit.
pub fn most_charge(receipt: &Receipt) -> u128 {
    if receipt.output_units == 0 {
        return 0;
    }
    let input = receipt.input_price.raw_cost(receipt.input_units);
    let output = receipt.output_price.raw_cost(receipt.output_units);
    let cost = input.zip(output).and_then(|(a, b)| a.checked_add(b));
    // A cost above 128 bits is above every charge.
    cost.map_or(u128::MAX, |cost| (cost / 1_000_000).max(1))
}

fn ruling_key(round: u64, subject: Digest) -> Digest {
    keccak256(Words::new().uint(round).digest(subject).as_bytes())
}

fn in_rulings(rounds: &AuditRounds, round: u64, now: u64) -> Result<(), VerdictError> {
    match rounds.phase(round, now) {
        Phase::Rulings => Ok(()),
        phase => Err(VerdictError::WrongPhase { round, phase }),
    }
}

fn not_closed(rounds: &AuditRounds, round: u64, now: u64) -> Result<(), VerdictError> {
    match rounds.phase(round, now) {
        phase @ (Phase::None | Phase::Closed) => Err(VerdictError::WrongPhase { round, phase }),
        _ => Ok(()),
    }
}

/// Checks the place and says what is at stake.
fn open_case(market: &Market<'_>, evidence: &Evidence) -> Result<Case, VerdictError> {
    let (round, receipt, place) = (evidence.round, &evidence.receipt, &evidence.place);
    place.check(market.rounds, market.vault, round, receipt_leaf(receipt))?;
    Ok(Case {
        round,
        subject: evidence.subject(),
        router: place.router,
        harmed: Some((receipt.job_id, receipt.account, receipt.charge)),
        provider: receipt.provider,
        covered: covered(market, round, place.router),
        voids: voids(market, round, place.router),
    })
}

/// Whether the claimable payout root may contain what the round covers. A root that stood, claimable or pending, when the round before
/// opened is older than everything that this round covers.
fn covered(market: &Market<'_>, round: u64, router: Address) -> bool {
    let here = market.rounds.snapshot(round, router);
    let before = market.rounds.snapshot(here.previous, router);
    let claimable = market.vault.totals(router).claimable.0;
    claimable != before.claimable && claimable != before.pending
}

/// Whether a payout root is pending that may contain what the round covers: not the one that was pending when the round before opened. Where
/// a router posts that one again after it was cancelled, its time tells them apart.
fn voids(market: &Market<'_>, round: u64, router: Address) -> bool {
    let here = market.rounds.snapshot(round, router);
    let before = market.rounds.snapshot(here.previous, router);
    let pending = market.vault.totals(router).pending;
    let opened = market
        .rounds
        .round(here.previous)
        .map_or(0, |r| r.opened_at);
    pending.is_some_and(|pending| pending.pay_root != before.pending || pending.at >= opened)
}

fn seat_of(
    rounds: &AuditRounds,
    round: u64,
    subject: Digest,
    who: Address,
) -> Result<usize, VerdictError> {
    let place = rounds.place(round, who);
    let seats = rounds.panel(round, subject);
    let seat = seats.iter().position(|seated| Ok(*seated) == place);
    seat.ok_or(VerdictError::NotOnPanel { who })
}

fn unseen(seen: u8, seat: usize, who: Address) -> Result<(), VerdictError> {
    if seen >> seat & 1 == 1 {
        Err(VerdictError::AlreadySeen { who })
    } else {
        Ok(())
    }
}

fn in_ballot(
    rounds: &AuditRounds,
    round: u64,
    subject: Digest,
    vote: &Vote,
) -> Result<(), VerdictError> {
    let who = vote.validator;
    let place = rounds.place(round, who)?;
    let root = rounds.ballot_root(round, place);
    let root = root.ok_or(VerdictError::NoBallot { who })?;
    if ballot::root_from(subject, vote.verdict, &vote.proof) != root {
        return Err(VerdictError::NotInBallot { who });
    }
    Ok(())
}

/// The outcome that enough votes share, and the seats that voted.
/// The outcome, the seats that voted, and whether it took different votes on a batch to reach it.
fn count(
    rounds: &AuditRounds,
    round: u64,
    subject: Digest,
    votes: &[Vote],
    is_batch: bool,
) -> Result<(Outcome, u8, bool), VerdictError> {
    if votes.len() > PANEL {
        return Err(VerdictError::TooManyVotes { votes: votes.len() });
    }
    let mut seen = 0;
    for vote in votes {
        let seat = seat_of(rounds, round, subject, vote.validator)?;
        unseen(seen, seat, vote.validator)?;
        in_ballot(rounds, round, subject, vote)?;
        seen |= 1 << seat;
    }
    let needed = rounds.votes_needed(round);
    let outcomes = votes.iter().map(|vote| vote.verdict.outcome);
    let ruled = Outcome::decided(outcomes, needed, is_batch);
    let outcome = ruled.ok_or(VerdictError::NoMajority { needed })?;
    let alike = votes.iter().filter(|vote| vote.verdict.outcome == outcome);
    let combined = alike.count() < needed;
    Ok((outcome, seen, combined))
}

/// Who gets the challenger's share: the first seat that voted for the ruling. A seat before it that has a ballot and whose vote was left
/// out makes the share burn, so that nobody gains by leaving votes out.
fn rewarded(
    rounds: &AuditRounds,
    round: u64,
    subject: Digest,
    outcome: Outcome,
    votes: &[Vote],
) -> Address {
    let Some(r) = rounds.round(round) else {
        return Address::ZERO;
    };
    for place in rounds.panel(round, subject) {
        let validator = r.committee[place].validator;
        match votes.iter().find(|vote| vote.validator == validator) {
            Some(vote) if vote.verdict.outcome == outcome => return validator,
            None if r.unsealed.contains(&place) => return Address::ZERO,
            _ => {}
        }
    }
    Address::ZERO
}
