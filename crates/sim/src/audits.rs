//! Audits in one process: the validators of production over the models of the contracts, with one party that cheats.
//!
//! Real: validators, ballots, sealed work, receipts, signatures, the router's book. Simulated: contracts (their executable models), fetches that
//! get lost, crashes of validators, and the judge, which knows what each provider did.
//!
//! One line per schedule: honest parties keep all their stake, the cheat loses some within two batches after its first audited job, and
//! developers pay exactly what was right.

use crate::rng::Rng;
use std::collections::{BTreeMap, BTreeSet};
use stoa_crypto::{
    Domain, MerkleTree, SecretKey, keccak256, receipt_digest, receipt_leaf, ticket_digest,
    token_root,
};
use stoa_ledger::audit::hash::{self, kind};
use stoa_ledger::audit::place::Post;
use stoa_ledger::audit::rounds::{AuditRounds, Block, Phase, RoundsParams};
use stoa_ledger::audit::standing::Sampling;
use stoa_ledger::audit::verdict::{Market, PanelVerdict, VerdictEvent, VerdictParams};
use stoa_ledger::book::{Entry, LeafFile, RouterBook, SealedBatch};
use stoa_ledger::stake::{Role, StakeParams, StakeRegistry};
use stoa_ledger::vault::{DebitProof, Event, Vault, VaultParams};
use stoa_nodes::audit::KeptWork;
use stoa_nodes::receipts::{Facts, expected_receipt};
use stoa_nodes::validator::{
    ChainView, Claim, Covered, Input, Output, RoundView, RulingView, Validator, ValidatorConfig,
    Voted,
};
use stoa_nodes::work::{AnswerShape, Prompt, Work};
use stoa_types::{
    Address, Bps, Digest, FinishReason, JobId, Millis, NetworkProfile, Price, Q16, Receipt,
    SamplingParameters, SignedReceipt, SignedTicket, StakeAmount, Ticket, Tier, Timestamp,
    TokenAmount,
};
use stoa_verify::Content;
use stoa_verify::judge::{Answered, Finding};

const START: u64 = 1_790_000_000;
/// Seconds from one batch to the next.
const BATCH: u64 = 60;
/// Batches before the last customer.
const BATCHES: u64 = 4;
const WINDOW: u64 = 90;
const VALIDATORS: usize = 3;
const STAKE: u128 = 10_000 * 10u128.pow(18);
const CAP: u128 = 1_000_000;
const TIMES: RoundsParams = RoundsParams {
    interval: 5,
    reveal: 10,
    ballot: 40,
    unseal: 10,
    plants: 10,
    rulings: 500_000,
    devnet: false,
};

/// Who cheats, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)] // each is its own name
pub enum Cheat {
    Nobody,
    SwapModel,
    AlterOutput,
    Overcount,
    Overcharge,
    DoublePost,
    WithholdLeaves,
    WithholdWork,
    Copy,
    Sleep,
    Accuse,
    Lazy,
}

impl Cheat {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Nobody,
        Self::SwapModel,
        Self::AlterOutput,
        Self::Overcount,
        Self::Overcharge,
        Self::DoublePost,
        Self::WithholdLeaves,
        Self::WithholdWork,
        Self::Copy,
        Self::Sleep,
        Self::Accuse,
        Self::Lazy,
    ];

    const fn is_router(self) -> bool {
        matches!(
            self,
            Self::Overcharge | Self::DoublePost | Self::WithholdLeaves | Self::WithholdWork
        )
    }

    /// Whether a provider cheats, and so that somebody could look away.
    const fn is_provider(self) -> bool {
        matches!(
            self,
            Self::SwapModel | Self::AlterOutput | Self::Overcount | Self::Lazy
        )
    }

    const fn is_validator(self) -> bool {
        matches!(self, Self::Copy | Self::Sleep | Self::Accuse | Self::Lazy)
    }
}

/// What a schedule came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditOutcome {
    /// Receipts posted.
    pub jobs: u64,
    /// Rulings.
    pub rulings: u64,
    /// Convictions.
    pub convictions: u64,
    /// Crashes of validators.
    pub crashes: u64,
}

struct Node {
    core: Validator,
    config: ValidatorConfig,
    disk: Vec<Voted>,
    down_until: u64,
    calm_until: u64,
    inbox: Vec<(u64, Input)>,
    cheat: Option<Cheat>,
}

struct World {
    cheat: Cheat,
    rng: Rng,
    now: u64,
    rounds: AuditRounds,
    stakes: StakeRegistry,
    vault: Vault,
    verdict: PanelVerdict,
    book: RouterBook,
    files: BTreeMap<u64, Vec<u8>>,
    posts: Vec<Post>,
    /// Subjects of the jobs of each post.
    subjects: Vec<Vec<Digest>>,
    kept: BTreeMap<Digest, KeptWork>,
    truth: BTreeMap<JobId, Answered>,
    charges: BTreeMap<JobId, TokenAmount>,
    nodes: Vec<Node>,
    /// Ids of all faults that were punished.
    convicted: BTreeSet<Digest>,
    /// Jobs that the verdict reversed.
    reversed: BTreeSet<JobId>,
    /// Number of the post with the first cheated job.
    first_cheat: Option<u64>,
    /// Posts when each party was slashed first.
    slashed_at: BTreeMap<Address, (u64, u8)>,
    next_job: u64,
    outcome: AuditOutcome,
}

fn key(label: &str) -> SecretKey {
    SecretKey::for_tests(label)
}

fn router() -> Address {
    key("router").address()
}

fn provider(n: u64) -> SecretKey {
    key(&format!("provider {n}"))
}

fn validator(n: usize) -> SecretKey {
    key(&format!("validator {n}"))
}

fn validator_address(node: &Node) -> Address {
    node.core.account()
}

fn developer() -> Address {
    key("developer").address()
}

fn units(units: u128) -> TokenAmount {
    TokenAmount::from_units(units)
}

fn bps(value: u16) -> Bps {
    Bps::new(value).expect("at most 10,000")
}

fn domain() -> Domain {
    Domain {
        chain_id: 31_337,
        vault: key("vault").address(),
    }
}

/// Runs one schedule.
pub fn run_audits(seed: u64, cheat: Cheat) -> Result<AuditOutcome, String> {
    let mut world = World::new(seed, cheat);
    let last = START + (BATCHES + 1) * BATCH;
    while world.now < last + WINDOW + BATCH {
        world.now += 1;
        let since = world.now - START;
        if since.is_multiple_of(BATCH) && world.now <= last {
            world.batch(world.now == last)?;
        }
        world.second()?;
    }
    world.settle()?;
    world.check()?;
    Ok(world.outcome)
}

impl World {
    fn new(seed: u64, cheat: Cheat) -> Self {
        let text = NetworkProfile::builtin_text("stoa").expect("built in");
        let profile = NetworkProfile::parse(text).expect("checked by its own tests");
        let (admin, own) = (key("admin").address(), key("verdict").address());
        let mut vault = VaultParams::from_profile(&profile, [1, 2, 3].map(|n| Address([n; 20])));
        vault.window = WINDOW;
        let mut vault = Vault::new(vault, admin).expect("valid");
        vault.set_verdict(admin, own).expect("admin");
        let stakes = StakeParams::from_profile(&profile, units(1));
        let mut stakes = StakeRegistry::new(stakes, admin).expect("valid");
        stakes.set_slasher(admin, own).expect("admin");
        let mut rounds = AuditRounds::new(TIMES, admin);
        rounds.set_verdict(admin, own).expect("admin");
        let verdict = PanelVerdict::new(VerdictParams {
            chain_id: domain().chain_id,
            vault: domain().vault,
            own,
            answer: 20,
        });
        let mut world = Self {
            cheat,
            rng: Rng::stream(seed, "audits"),
            now: START,
            rounds,
            stakes,
            vault,
            verdict,
            book: RouterBook::new(domain(), router()),
            files: BTreeMap::new(),
            posts: Vec::new(),
            subjects: Vec::new(),
            kept: BTreeMap::new(),
            truth: BTreeMap::new(),
            charges: BTreeMap::new(),
            nodes: Vec::new(),
            convicted: BTreeSet::new(),
            reversed: BTreeSet::new(),
            first_cheat: None,
            slashed_at: BTreeMap::new(),
            next_job: 0,
            outcome: AuditOutcome::default(),
        };
        world.seat();
        world.fund();
        world
    }

    fn seat(&mut self) {
        let amount = StakeAmount::from_units(STAKE);
        let mut stake = |role, who| self.stakes.stake(role, who, amount).expect("stakes");
        stake(Role::Router, router());
        (0..2).for_each(|n| drop(stake(Role::Provider, provider(n).address())));
        (0..VALIDATORS).for_each(|n| drop(stake(Role::Validator, validator(n).address())));
        self.rounds.enrol(&self.stakes, router()).expect("staked");
        for n in 0..VALIDATORS {
            let config = ValidatorConfig {
                key: validator(n),
                domain: domain(),
                sampling: Sampling {
                    most: bps(1_000),
                    least: bps(500),
                    first_jobs: 1_000,
                },
                chain_length: 80,
                margin: Millis::from_secs(12),
            };
            let core = Validator::recover(config.clone(), []);
            let (who, tip) = (core.account(), core.first_tip());
            let key = config.key.public_key().point();
            self.rounds
                .join(&self.stakes, who, tip, key)
                .expect("joins");
            let cheats = n == 0 && self.cheat.is_validator();
            self.nodes.push(Node {
                core,
                config,
                disk: Vec::new(),
                down_until: 0,
                calm_until: 0,
                inbox: Vec::new(),
                cheat: cheats.then_some(self.cheat),
            });
        }
    }

    fn fund(&mut self) {
        let (who, cap, expiry) = (developer(), units(CAP), START + 1_000_000);
        self.vault.deposit(who, who, cap).expect("deposits");
        let allotted = self.vault.allot(who, router(), cap, expiry, START);
        allotted.expect("allots");
        self.entry(Entry::AllotmentSeen {
            account: who,
            generation: 1,
            cap,
            debited: TokenAmount::ZERO,
            expiry: Timestamp(expiry * 1_000),
            fee_version: self.vault.latest_fee_version(),
        });
    }

    fn entry(&mut self, entry: Entry) {
        self.book
            .apply(&entry)
            .expect("an honest book takes what happened");
    }

    fn block(&self) -> Block {
        Block {
            now: self.now,
            number: self.now - START,
        }
    }

    fn time(&self) -> Timestamp {
        Timestamp(self.now * 1_000)
    }

    // ---- jobs and posts

    /// What provider `who` does with its next job.
    fn deed(&mut self, who: u64) -> Answered {
        if who != 0 || !self.cheat.is_provider() {
            return Answered::Good;
        }
        match self.cheat {
            Cheat::Overcount => Answered::WrongCount,
            Cheat::AlterOutput if self.rng.chance(500) => Answered::Good,
            _ => Answered::WrongOutput,
        }
    }

    fn job(&mut self, honest: bool) -> SignedReceipt {
        self.next_job += 1;
        let id = JobId(keccak256(self.next_job.to_be_bytes()).0);
        // Routing leaves whom a verdict found out.
        let first = self.verdict.record(provider(0).address());
        let left = honest || first.now.reputation == 0;
        let who = if left { 1 } else { self.rng.below(2) };
        let deed = self.deed(who);
        let (work, ticket) = order(id, &provider(who));
        let kept = KeptWork::seal(
            &domain(),
            ticket.clone(),
            &work.canonical_bytes(),
            &[0, 1, 2].map(|n| validator(n).public_key()),
            keccak256(id.0).0,
        );
        let mut receipt = receipt(&ticket.ticket, 1 + self.rng.below(9));
        let cheats = self.cheat == Cheat::Overcharge && !honest;
        if cheats {
            receipt.charge = receipt.charge.checked_add(units(1)).expect("small");
        }
        let subject = hash::job_subject(router(), receipt_leaf(&receipt));
        let withheld = self.cheat == Cheat::WithholdWork && !honest;
        if !withheld {
            self.kept.insert(subject, kept.expect("three recipients"));
        }
        if deed != Answered::Good || (self.cheat.is_router() && !honest) {
            let next = self.posts.len() as u64 + 1;
            self.first_cheat.get_or_insert(next);
        }
        self.truth.insert(id, deed);
        self.charges.insert(id, receipt.charge);
        self.outcome.jobs += 1;
        let digest = receipt_digest(&receipt);
        SignedReceipt {
            provider_signature: provider(who).sign(digest),
            router_signature: key("router").sign(digest),
            receipt,
        }
    }

    fn batch(&mut self, last: bool) -> Result<(), String> {
        let count = self.rng.between(1, 3);
        let mut receipts: Vec<_> = (0..count).map(|_| self.job(last)).collect();
        if self.cheat.is_router() {
            if self.cheat == Cheat::DoublePost && !last {
                let mut again = receipts[0].receipt.clone();
                again.delivered_at = again.delivered_at.plus(Millis(1));
                let digest = receipt_digest(&again);
                receipts.push(SignedReceipt {
                    provider_signature: provider(u64::from(
                        again.provider != provider(0).address(),
                    ))
                    .sign(digest),
                    router_signature: key("router").sign(digest),
                    receipt: again,
                });
            }
            return self.post_by_hand(receipts, last);
        }
        for signed in receipts {
            let receipt = &signed.receipt;
            self.entry(Entry::Reserved {
                job: receipt.job_id,
                account: receipt.account,
                generation: 1,
                amount: units(40),
                until: self.time().plus(Millis::from_secs(60)),
            });
            self.entry(Entry::Charged {
                receipt: Box::new(signed),
            });
        }
        let free = self
            .book
            .payout_slot_free(self.time(), Millis::from_secs(WINDOW));
        let Some(Entry::BatchSealed(sealed)) = self.book.seal(self.time(), 100, free) else {
            return Ok(()); // The only leaf waits to carry the next root.
        };
        self.entry(Entry::BatchSealed(sealed.clone()));
        let file = self
            .book
            .leaf_file(sealed.index)
            .ok_or("a sealed batch has a file")?;
        self.post(&sealed, file.encode())
    }

    fn post_by_hand(&mut self, receipts: Vec<SignedReceipt>, last: bool) -> Result<(), String> {
        let file = LeafFile {
            router: router(),
            index: self.posts.len() as u64 + 1,
            first: 0,
            leaves: receipts.into_iter().map(|signed| (signed, 1)).collect(),
            payout: None,
        };
        let leaves = file.leaves.iter();
        let leaves: Vec<_> = leaves.map(|(s, _)| receipt_leaf(&s.receipt)).collect();
        let zero = Digest::ZERO;
        let sealed = SealedBatch {
            index: file.index,
            first: 0,
            job_count: u32::try_from(leaves.len()).expect("few"),
            job_root: MerkleTree::new(leaves).root(),
            provider_root: zero,
            debit_root: zero,
            pay_root: zero,
            gross: TokenAmount::ZERO,
            content_id: file.content_id(),
            sealed_at: self.time(),
        };
        self.post(&sealed, file.encode())?;
        if self.cheat == Cheat::WithholdLeaves && !last {
            self.files.remove(&sealed.index);
        }
        Ok(())
    }

    fn post(&mut self, sealed: &SealedBatch, file: Vec<u8>) -> Result<(), String> {
        let (root, count, content) = (sealed.job_root, sealed.job_count, sealed.content_id);
        let (pay, gross) = (sealed.pay_root, sealed.gross);
        let events = self
            .vault
            .post_batch(router(), root, count, pay, gross, content, self.now);
        let events = events.map_err(|error| format!("the vault refuses a post: {error}"))?;
        self.posts.push(Post {
            job_root: root,
            job_count: count,
            content_id: content,
        });
        let leaves = LeafFile::decode(&file)
            .map_err(|error| error.to_string())?
            .leaves;
        let leaves = leaves
            .iter()
            .map(|(signed, _)| receipt_leaf(&signed.receipt));
        let subjects = leaves.map(|leaf| hash::job_subject(router(), leaf));
        self.subjects.push(subjects.collect());
        self.files.insert(sealed.index, file);
        self.told(&events);
        Ok(())
    }

    /// What an honest router's book learns of the vault's events.
    fn told(&mut self, events: &[Event]) {
        for event in events {
            let entry = match event {
                Event::BatchPosted {
                    index, chain_head, ..
                } => Entry::BatchPosted {
                    index: *index,
                    chain_head: *chain_head,
                    block: self.block().number,
                    at: self.time(),
                },
                Event::Promoted {
                    pay_root, gross, ..
                } => Entry::PayoutPromoted {
                    pay_root: *pay_root,
                    gross: *gross,
                },
                _ => continue,
            };
            if !self.cheat.is_router() {
                self.entry(entry);
            }
        }
    }

    // ---- one second

    fn second(&mut self) -> Result<(), String> {
        let rounds: Vec<_> = (1..=self.rounds.latest())
            .filter_map(|round| self.round_view(round))
            .collect();
        let openable = self.openable();
        // Where nothing moves, it is looked at now and then.
        let still = rounds.iter().all(|round| round.phase == Phase::Rulings)
            && self.nodes.iter().all(|node| node.inbox.is_empty());
        if still && !openable && !self.now.is_multiple_of(5) {
            return Ok(());
        }
        for n in 0..self.nodes.len() {
            let me = validator_address(&self.nodes[n]);
            let view = ChainView {
                seated: self.rounds.validators().contains(&me),
                tip: self.rounds.tip(me),
                openable,
                rounds: rounds.clone(),
                convicted: self.convicted.clone(),
            };
            self.turn(n, view)?;
        }
        Ok(())
    }

    fn openable(&self) -> bool {
        let latest = self.rounds.round(self.rounds.latest());
        let rested =
            latest.is_none_or(|r| r.drawn_at != 0 && self.now >= r.opened_at + TIMES.interval);
        rested && self.posts.len() as u64 > self.rounds.last_of(router()).posts
    }

    fn turn(&mut self, n: usize, view: ChainView) -> Result<(), String> {
        let (now, node) = (self.time(), &mut self.nodes[n]);
        if self.now < node.down_until || node.cheat == Some(Cheat::Sleep) {
            return Ok(());
        }
        if self.now >= node.calm_until && self.rng.chance(8) {
            node.core = Validator::recover(node.config.clone(), node.disk.clone());
            node.inbox.clear();
            node.down_until = self.now + self.rng.below(3);
            // One outage in each phase is what it must bear.
            node.calm_until = self.now + 12;
            self.outcome.crashes += 1;
            return Ok(());
        }
        let due = self.now;
        let (ripe, later): (Vec<_>, Vec<_>) = std::mem::take(&mut node.inbox)
            .into_iter()
            .partition(|(at, _)| *at <= due);
        node.inbox = later;
        let inputs = std::iter::once(Input::Chain(Box::new(view)));
        let mut outputs = Vec::new();
        for input in inputs.chain(ripe.into_iter().map(|(_, input)| input)) {
            outputs.extend(node.core.handle(input, now));
        }
        for output in outputs {
            self.carry_out(n, output)?;
        }
        Ok(())
    }

    /// An answer that comes later, or is lost.
    fn answer(&mut self, n: usize, input: Input) {
        let at = self.now + 1 + self.rng.below(2);
        self.nodes[n].inbox.push((at, input));
    }

    fn carry_out(&mut self, n: usize, output: Output) -> Result<(), String> {
        let (block, me) = (self.block(), validator(n).address());
        let block_hash = keccak256(self.now.to_be_bytes());
        // Calls that come too late or twice fail on chain and change nothing.
        match output {
            Output::Open => drop(self.rounds.open(&self.stakes, &self.vault, block)),
            Output::Reveal { preimage } => {
                drop(self.rounds.reveal(me, preimage, block_hash, block));
            }
            Output::Draw => drop(self.rounds.draw(block_hash, block)),
            Output::Renew { tip } => drop(self.rounds.renew(me, tip)),
            Output::FetchLeaves { router, post, .. } => {
                let file = self.files.get(&post).cloned();
                if let Some(bytes) = file.filter(|_| !self.rng.chance(100)) {
                    self.answer(
                        n,
                        Input::Leaves {
                            router,
                            post,
                            bytes,
                        },
                    );
                }
            }
            Output::FetchWork {
                round,
                subject,
                request,
                ..
            } => {
                if !request.is_signed_for(router()) {
                    return Err("a request for work is not signed".to_owned());
                }
                let kept = self.kept.get(&subject).cloned().map(Box::new);
                if let Some(kept) = kept.filter(|_| !self.rng.chance(100)) {
                    self.answer(
                        n,
                        Input::Work {
                            round,
                            subject,
                            kept,
                        },
                    );
                }
            }
            Output::Judge {
                round,
                subject,
                case,
            } => {
                let truth = self.truth.get(&case.receipt.job_id).copied();
                let answered = match self.nodes[n].cheat {
                    Some(Cheat::Accuse) => Answered::WrongOutput,
                    Some(Cheat::Lazy) => Answered::Good,
                    _ => truth.ok_or("a job that nobody did was judged")?,
                };
                let digest = keccak256(subject.0);
                let result = Ok(Finding { answered, digest });
                self.answer(
                    n,
                    Input::Found {
                        round,
                        subject,
                        result,
                    },
                );
            }
            Output::Keep(voted) => {
                let round = voted.round;
                let before = self.nodes[n].disk.iter().find(|v| v.round == round);
                if before.is_some_and(|before| *before != voted) {
                    return Err(format!("validator {n} made two ballots for round {round}"));
                }
                self.nodes[n].disk.push(voted);
                self.answer(n, Input::Durable { round });
            }
            Output::Commit { round, commitment } => self.commit(n, round, commitment)?,
            Output::Unseal { round, root, salt } => {
                drop(self.rounds.unseal(me, round, root, salt, block));
            }
            Output::FetchBallot { round, validator } => {
                let peer = self.nodes.iter().find(|p| p.core.account() == validator);
                let voted = peer.and_then(|peer| peer.core.shown_ballot(round)).cloned();
                if let Some(voted) = voted {
                    self.answer(n, Input::Ballot { validator, voted });
                }
            }
            Output::Bring(claim) => self.bring(*claim),
            Output::Forget { .. } | Output::Warn(_) => {}
        }
        Ok(())
    }

    fn commit(&mut self, n: usize, round: u64, own: Digest) -> Result<(), String> {
        let (me, block) = (validator(n).address(), self.block());
        let durable = self.nodes[n].disk.iter().any(|voted| voted.round == round);
        if !durable {
            return Err(format!("validator {n} committed before it wrote"));
        }
        let commitment = match self.nodes[n].cheat {
            // All that there is to copy before ballots are shown.
            Some(Cheat::Copy) => {
                let ballots = self.rounds.round(round).map(|r| &r.ballots);
                let other = ballots.and_then(|ballots| ballots.values().next().copied());
                match other {
                    Some(other) => other,
                    None => return Ok(()),
                }
            }
            _ => own,
        };
        drop(self.rounds.commit(me, round, commitment, block));
        Ok(())
    }

    // ---- verdicts

    fn bring(&mut self, claim: Claim) {
        let mut market = Market {
            rounds: &mut self.rounds,
            stakes: &mut self.stakes,
            vault: &mut self.vault,
        };
        let (verdict, now) = (&mut self.verdict, self.now);
        let pending = market.vault.totals(router()).pending;
        let market = &mut market;
        let done = match claim {
            Claim::Rule { evidence, votes } => verdict.rule(market, &evidence, &votes, now),
            Claim::RuleBatch {
                round,
                router,
                post,
                votes,
            } => verdict.rule_batch(market, round, router, post, &votes, now),
            Claim::Show {
                round,
                subject,
                vote,
                excuse,
            } => verdict.show(market, round, subject, &vote, excuse, now),
            Claim::Silence {
                round,
                subject,
                validator,
            } => verdict.punish_silence(market, round, subject, validator, now),
            Claim::Missed {
                round,
                kind: kind::MISSED_REVEAL,
                validator,
            } => verdict.punish_reveal(market, round, validator, now),
            Claim::Missed {
                round, validator, ..
            } => verdict.punish_ballot(market, round, validator, now),
            Claim::Overcharge(evidence) => verdict.prove_overcharge(market, &evidence, now),
            Claim::DoublePost(first, second) => {
                verdict.prove_double_post(market, &first, &second, now)
            }
        };
        // What another one brought before changes nothing.
        let Ok(events) = done else { return };
        let voided = pending.filter(|_| self.vault.totals(router()).pending.is_none());
        self.ruled(&events, voided.map(|pending| pending.pay_root));
    }

    fn ruled(&mut self, events: &[VerdictEvent], voided: Option<Digest>) {
        let honest = !self.cheat.is_router();
        if let Some(pay_root) = voided.filter(|_| honest) {
            self.entry(Entry::PayoutVoided { pay_root });
        }
        for event in events {
            match event {
                VerdictEvent::Ruled { .. } => self.outcome.rulings += 1,
                VerdictEvent::Convicted {
                    offender,
                    kind,
                    fault_id,
                    ..
                } => {
                    self.convicted.insert(*fault_id);
                    self.outcome.convictions += 1;
                    let posts = self.posts.len() as u64;
                    self.slashed_at.entry(*offender).or_insert((posts, *kind));
                }
                VerdictEvent::JobReversed { job, .. } => {
                    self.reversed.insert(*job);
                    if honest {
                        self.entry(Entry::JobReversed { job: *job });
                    }
                }
                VerdictEvent::Differed { .. } => {}
            }
        }
        while let Some(entry) = self.book.take_back_due() {
            self.entry(entry);
        }
    }

    // ---- what a validator sees

    fn round_view(&self, number: u64) -> Option<RoundView> {
        let round = self.rounds.round(number)?;
        let phase = self.rounds.phase(number, self.now);
        let who = |place: &usize| round.committee.get(*place).map(|m| m.validator);
        let ends = match phase {
            Phase::Reveal => round.opened_at + TIMES.reveal,
            _ => round.drawn_at + TIMES.ballot,
        };
        let snapshot = self.rounds.snapshot(number, router());
        let before = self.rounds.snapshot(snapshot.previous, router()).posts;
        let range = before.min(snapshot.posts) as usize..snapshot.posts as usize;
        let standings = [0, 1].map(|n| provider(n).address()).map(|who| {
            let known = self.verdict.record(who).at(number);
            (who, known.unwrap_or_default())
        });
        Some(RoundView {
            number,
            phase,
            ends: Timestamp(ends * 1_000),
            committee: round.committee.clone(),
            beacon: round.beacon,
            revealed: round.revealed.iter().filter_map(who).collect(),
            committed: round
                .ballots
                .iter()
                .filter_map(|(place, digest)| Some((who(place)?, *digest)))
                .collect(),
            shown: round.unsealed.iter().filter_map(who).collect(),
            votes_needed: self.rounds.votes_needed(number),
            covers: vec![Covered {
                router: router(),
                before,
                posts: self.posts.get(range)?.to_vec(),
            }],
            standings: standings.into_iter().collect(),
            rulings: self.rulings(number, before..snapshot.posts),
        })
    }

    fn rulings(&self, round: u64, posts: std::ops::Range<u64>) -> BTreeMap<Digest, RulingView> {
        let batches = posts
            .clone()
            .map(|before| hash::batch_subject(router(), before + 1));
        let of_post = |at: u64| {
            usize::try_from(at)
                .ok()
                .and_then(|at| self.subjects.get(at))
        };
        let jobs = posts.filter_map(of_post).flatten().copied();
        let seen = |subject: Digest| {
            let ruling = self.verdict.ruling(round, subject)?;
            let seats = self.rounds.panel(round, subject);
            let committee = &self.rounds.round(round)?.committee;
            let seats = seats.iter().enumerate();
            let seen = seats.filter(|(seat, _)| ruling.seen >> seat & 1 == 1);
            let view = RulingView {
                outcome: ruling.outcome,
                seen: seen
                    .filter_map(|(_, at)| Some(committee.get(*at)?.validator))
                    .collect(),
                answer_until: Timestamp((ruling.at + 20) * 1_000),
            };
            Some((subject, view))
        };
        batches.chain(jobs).filter_map(seen).collect()
    }

    // ---- the end

    fn settle(&mut self) -> Result<(), String> {
        if self.cheat.is_router() {
            return Ok(());
        }
        // One more customer carries the root over everything, whose window passes.
        self.batch(true)?;
        self.now += WINDOW + 1;
        if let Ok(events) = self.vault.promote(router(), self.now) {
            self.told(&events);
        }
        let batch = self
            .book
            .claimable_batch()
            .ok_or("nothing became claimable")?;
        let (providers, debits) = (batch.sealed.provider_root, batch.sealed.debit_root);
        let entries: Vec<_> = self.book.debit_entries().into_iter().collect();
        let proofs: Vec<_> = entries
            .iter()
            .map(|entry| DebitProof {
                developer: entry.account,
                generation: entry.generation,
                lifetime_debit: entry.lifetime_debit,
                proof: entry.proof.clone(),
            })
            .collect();
        let synced = self.vault.sync_debits(router(), providers, debits, &proofs);
        synced.map_err(|error| format!("debits are refused: {error}"))?;
        Ok(())
    }

    fn check(&self) -> Result<(), String> {
        self.stakes
            .check_conservation()
            .map_err(|e| e.to_string())?;
        self.book.check_conservation().map_err(|e| e.to_string())?;
        let mut guilty = BTreeSet::new();
        if self.cheat.is_router() {
            guilty.insert(router());
        }
        if self.cheat.is_provider() {
            guilty.insert(provider(0).address());
        }
        if self.cheat.is_validator() {
            guilty.insert(validator(0).address());
        }
        for (who, (posts, kind)) in &self.slashed_at {
            if !guilty.contains(who) {
                return Err(format!(
                    "{who} is honest and was slashed for fault {kind} after post {posts}"
                ));
            }
        }
        self.check_caught(&guilty)?;
        if self.cheat.is_router() {
            return Ok(());
        }
        let right = |job: &JobId| self.truth.get(job) == Some(&Answered::Good);
        let owed = self.charges.iter().filter(|(job, _)| right(job));
        let owed = TokenAmount::checked_sum(owed.map(|(_, charge)| *charge)).ok_or("too large")?;
        let allotment = self.vault.allotment(developer(), router());
        let debited = allotment.map_or(TokenAmount::ZERO, |(_, a)| a.debited);
        if debited != owed {
            return Err(format!("the developer paid {debited} and owes {owed}"));
        }
        Ok(())
    }

    fn check_caught(&self, guilty: &BTreeSet<Address>) -> Result<(), String> {
        for who in guilty {
            let is_validator = *who == validator(0).address();
            let first = if is_validator && self.cheat != Cheat::Lazy {
                Some(1)
            } else {
                self.first_cheat
            };
            // It may never have had the occasion.
            let Some(first) = first else { continue };
            match self.slashed_at.get(who) {
                Some((posts, _)) if *posts <= first + 2 => {}
                Some((posts, _)) => {
                    return Err(format!(
                        "{who} cheated in post {first}, slashed after {posts}"
                    ));
                }
                None => return Err(format!("{who} cheated in post {first} and was not slashed")),
            }
        }
        Ok(())
    }
}

fn order(job: JobId, provider: &SecretKey) -> (Work, SignedTicket) {
    let work = Work {
        prompt: Prompt::Text(format!("question of {job}")),
        sampling: SamplingParameters {
            temperature: Q16(0),
            min_p: Q16(0),
            seed: 1,
            max_output_tokens: 10,
            stop: Vec::new(),
        },
        answer: AnswerShape::Any,
    };
    let price = Price::per_million(units(1_000_000));
    let ticket = Ticket {
        job_id: job,
        account: developer(),
        router: router(),
        provider: provider.address(),
        model_root: keccak256("model"),
        parameters_digest: keccak256(work.sampling.canonical_bytes()),
        request_digest: keccak256(job.0),
        work_digest: work.digest(),
        input_price: price,
        output_price: price,
        input_units_max: 30,
        output_units_max: 10,
        reserve: units(40),
        fee_version: 1,
        tier: Tier::Exact,
        attempt: 0,
        issued_at: Timestamp(START * 1_000),
        deadline: Timestamp((START + 10_000) * 1_000),
    };
    let signature = key("router").sign(ticket_digest(&domain(), &ticket));
    (work, SignedTicket { ticket, signature })
}

fn receipt(ticket: &Ticket, tokens: u64) -> Receipt {
    let content = Content {
        text: String::new(),
        tool_calls: Vec::new(),
        finish_reason: FinishReason::Stop,
        input_units: 3,
        output_units: tokens,
    };
    let facts = Facts {
        prompt_root: token_root(&[1, 2, 3]),
        runtime_digest: keccak256("iq8"),
        accepted_at: Timestamp(START * 1_000),
        delivered_at: Timestamp(START * 1_000),
    };
    let receipt = expected_receipt(&domain(), Digest::ZERO, ticket, &content, &[4, 5], facts);
    receipt.expect("a small charge fits")
}
