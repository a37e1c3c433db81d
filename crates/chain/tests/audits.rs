//! Validators of production over the real contracts: what they see by events is what the contracts say, and what they send is taken.
#![allow(missing_docs)]

mod common;

use common::*;
use std::collections::BTreeMap;
use stoa_chain::bindings::{AuditRounds, Reputation};
use stoa_chain::*;
use stoa_crypto::{
    Domain, MerkleTree, SecretKey, keccak256, receipt_digest, receipt_leaf, ticket_digest,
    token_root,
};
use stoa_ledger::audit::Outcome;
use stoa_ledger::book::LeafFile;
use stoa_nodes::audit::KeptWork;
use stoa_nodes::receipts::{Facts, expected_receipt};
use stoa_nodes::validator::{HashChain, Input, Output, Validator, ValidatorConfig};
use stoa_nodes::work::{AnswerShape, Prompt, Work};
use stoa_types::*;
use stoa_verify::Content;
use stoa_verify::judge::{Answered, Finding};

const VALIDATORS: usize = 3;

fn validator(n: usize) -> SecretKey {
    key(&format!("validator {n}"))
}

struct Seated {
    core: Validator,
    account: AuditAccount<Embedded>,
    inbox: Vec<Input>,
}

struct Audited {
    network: Network,
    judges: AuditContracts,
    domain: Domain,
    seated: Vec<Seated>,
    follower: AuditFollower<Embedded>,
    files: BTreeMap<u64, Vec<u8>>,
    kept: BTreeMap<JobId, KeptWork>,
    truth: BTreeMap<JobId, Answered>,
}

impl Audited {
    async fn new() -> Self {
        let network = network().await;
        let judges = AuditContracts::of_deployer(who("deployer"));
        let domain = Domain {
            chain_id: network.access().chain_id().await.expect("known"),
            vault: network.contracts.vault,
        };
        let stakers = [
            ("router", StakeRole::Router),
            ("provider", StakeRole::Provider),
        ];
        for (label, role) in stakers {
            stake(&network, label, role).await;
        }
        let follower = open(&network, judges).await;
        let mut audited = Self {
            network,
            judges,
            domain,
            seated: Vec::new(),
            follower,
            files: BTreeMap::new(),
            kept: BTreeMap::new(),
            truth: BTreeMap::new(),
        };
        for n in 0..VALIDATORS {
            audited.seat(n).await;
        }
        let first = &audited.seated[0].account;
        first.enrol(who("router")).await.expect("staked");
        audited
    }

    async fn seat(&mut self, n: usize) {
        let label = format!("validator {n}");
        stake(&self.network, &label, StakeRole::Validator).await;
        let account = AuditAccount::new(self.network.account(&label).await, self.judges);
        let core = Validator::recover(
            ValidatorConfig {
                key: validator(n),
                domain: self.domain,
                sampling: self.follower.state().params().sampling,
                chain_length: 200,
                margin: Millis::from_secs(12),
                settling: Millis(0),
            },
            [],
        );
        account
            .join(core.first_tip(), &validator(n).public_key())
            .await
            .expect("staked");
        self.seated.push(Seated {
            core,
            account,
            inbox: Vec::new(),
        });
    }

    /// Posts a batch of these deeds.
    async fn post(&mut self, index: u64, deeds: &[Answered]) {
        let leaves = deeds.iter().enumerate().map(|(n, deed)| {
            let job = JobId(keccak256(format!("job {index} {n}")).0);
            self.truth.insert(job, *deed);
            let (signed, kept) = receipt(&self.domain, job);
            self.kept.insert(job, kept);
            (signed, 1)
        });
        let file = LeafFile {
            router: who("router"),
            index,
            first: 0,
            leaves: leaves.collect(),
            payout: None,
        };
        let hashes = file.leaves.iter().map(|(s, _)| receipt_leaf(&s.receipt));
        let post = stoa_chain::Post {
            index,
            job_root: MerkleTree::new(hashes.collect()).root(),
            job_count: u32::try_from(deeds.len()).expect("few"),
            pay_root: Digest::ZERO,
            gross: TokenAmount::ZERO,
            content_id: file.content_id(),
        };
        self.files.insert(index, file.encode());
        let router = self.network.account("router").await;
        router.post(&post).await.expect("posts");
    }

    fn now(&self) -> Timestamp {
        use stoa_evm::Clock;
        Timestamp::from_secs(self.network.clock.unix_seconds())
    }

    /// One second of everybody.
    async fn second(&mut self) {
        self.network.clock.advance(1);
        let now = self.now();
        for n in 0..self.seated.len() {
            self.follower.catch_up(now).await.expect("readable");
            self.same_as_contracts().await;
            let seated = &mut self.seated[n];
            let view = self.follower.state().view_of(seated.core.account(), now);
            let mut outputs = seated.core.handle(Input::Chain(Box::new(view)), now);
            for input in std::mem::take(&mut seated.inbox) {
                outputs.extend(seated.core.handle(input, now));
            }
            for output in outputs {
                self.carry_out(n, output).await;
            }
        }
    }

    async fn carry_out(&mut self, n: usize, output: Output) {
        // What comes second is refused by the chain and changes nothing.
        let account = &self.seated[n].account;
        let answer = match output {
            Output::Open => return drop(account.open().await),
            Output::Reveal { preimage } => return drop(account.reveal(preimage).await),
            Output::Draw => return drop(account.draw().await),
            Output::Renew { tip } => return drop(account.renew(tip).await),
            Output::Commit { round, commitment } => {
                return drop(account.commit(round, commitment).await.expect("in time"));
            }
            Output::Unseal { round, root, salt } => {
                return drop(account.unseal(round, root, salt).await.expect("in time"));
            }
            Output::Bring(claim) => return drop(account.bring(&claim).await),
            Output::FetchLeaves { router, post, .. } => Input::Leaves {
                router,
                post,
                bytes: self.files[&post].clone(),
            },
            Output::FetchWork {
                router,
                round,
                subject,
                request,
            } => {
                assert!(request.is_signed_for(router));
                let kept = Box::new(self.kept[&request.job].clone());
                Input::Work {
                    round,
                    subject,
                    kept,
                }
            }
            Output::Judge {
                round,
                subject,
                case,
            } => Input::Found {
                round,
                subject,
                result: Ok(Finding {
                    answered: self.truth[&case.receipt.job_id],
                    digest: keccak256(subject.0),
                }),
            },
            Output::Keep(voted) => Input::Durable { round: voted.round },
            Output::FetchBallot { round, validator } => {
                let mut peers = self.seated.iter();
                let peer = peers.find(|peer| peer.core.account() == validator);
                let voted = peer.and_then(|peer| peer.core.shown_ballot(round)).cloned();
                let Some(voted) = voted else { return };
                Input::Ballot { validator, voted }
            }
            Output::Forget { .. } => return,
            Output::KeepSums(_) | Output::ForgetSums { .. } => return,
            Output::Warn(text) => panic!("{text}"),
        };
        self.seated[n].inbox.push(answer);
    }

    /// What was folded from events against the contracts' own views.
    async fn same_as_contracts(&self) {
        let access = self.network.access();
        let latest = self.follower.state().latest();
        for round in 1..=latest {
            let asked = view(
                &access,
                self.judges.rounds,
                &AuditRounds::phaseCall { round },
            )
            .await;
            let folded = self
                .follower
                .state()
                .round_of(round, self.now())
                .expect("followed");
            assert_eq!(folded.phase.code(), asked.expect("readable"), "{round}");
            if folded.standings.is_empty() {
                continue;
            }
            let provider = evm_address(who("provider"));
            let call = Reputation::standingAtCall { provider, round };
            let asked = view(&access, self.judges.reputation, &call).await;
            let asked = asked.expect("readable");
            let standing = folded.standings[&who("provider")];
            assert_eq!(
                (standing.reputation, standing.verified),
                (asked.reputation, asked.verified)
            );
        }
    }

    async fn slashes(&self) -> Vec<(Address, StakeAmount)> {
        self.events()
            .await
            .into_iter()
            .filter_map(|event| match event {
                ContractEvent::Slashed {
                    offender, sigma, ..
                } => Some((offender, sigma)),
                _ => None,
            })
            .collect()
    }

    async fn events(&self) -> Vec<ContractEvent> {
        let cursor = Cursor::default();
        let mut indexer = Indexer::new(self.network.access(), self.network.contracts, cursor, 0)
            .with_audits(Some(self.judges));
        let progress = indexer.step().await.expect("readable");
        assert!(progress.at_head);
        progress.events.into_iter().map(|told| told.event).collect()
    }
}

async fn open(network: &Network, judges: AuditContracts) -> AuditFollower<Embedded> {
    AuditFollower::open(network.access(), network.contracts, judges, 0, 0)
        .await
        .expect("deployed")
}

async fn stake(network: &Network, label: &str, role: StakeRole) {
    let amount = StakeAmount::from_units(20_000 * 10u128.pow(18));
    let deployer = network.account("deployer").await;
    let sent = deployer.send_stake_tokens(who(label), amount).await;
    sent.expect("the deployer holds all");
    let account = network.account(label).await;
    account.stake(role, amount).await.expect("stakes");
}

fn receipt(domain: &Domain, job: JobId) -> (SignedReceipt, KeptWork) {
    let work = Work {
        prompt: Prompt::Text(format!("question of {job}")),
        sampling: SamplingParameters {
            temperature: Q16(0),
            min_p: Q16(0),
            seed: 1,
            max_output_tokens: 10,
            stop: Vec::new(),
            ..SamplingParameters::default()
        },
        answer: AnswerShape::Any,
    };
    let price = Price::per_million(units(1_000_000));
    let ticket = Ticket {
        job_id: job,
        account: who("developer"),
        router: who("router"),
        provider: who("provider"),
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
        issued_at: Timestamp::from_secs(START),
        deadline: Timestamp::from_secs(START + 10_000),
    };
    let content = Content {
        text: String::new(),
        tool_calls: Vec::new(),
        finish_reason: FinishReason::Stop,
        input_units: 3,
        output_units: 2,
    };
    let facts = Facts {
        prompt_root: token_root(&[1, 2, 3]),
        runtime_digest: keccak256("iq8"),
        accepted_at: Timestamp::from_secs(START),
        delivered_at: Timestamp::from_secs(START),
    };
    let receipt = expected_receipt(domain, Digest::ZERO, &ticket, &content, &[4, 5], facts);
    let receipt = receipt.expect("a small charge fits");
    let digest = receipt_digest(&receipt);
    let signed = SignedReceipt {
        provider_signature: key("provider").sign(digest),
        router_signature: key("router").sign(digest),
        receipt,
    };
    let signature = key("router").sign(ticket_digest(domain, &ticket));
    let ticket = SignedTicket { ticket, signature };
    let keys: Vec<_> = (0..VALIDATORS).map(|n| validator(n).public_key()).collect();
    let fresh = keccak256(job.0).0;
    let kept = KeptWork::seal(domain, ticket, &work.canonical_bytes(), &keys, fresh);
    (signed, kept.expect("three recipients"))
}

#[tokio::test]
async fn validators_see_by_events_what_the_contracts_say_and_rule_on_two_rounds() {
    let mut audited = Audited::new().await;
    audited.post(1, &[Answered::Good, Answered::Good]).await;
    for _ in 0..20 {
        audited.second().await;
    }
    assert_eq!(audited.slashes().await, []);
    audited
        .post(2, &[Answered::Good, Answered::WrongOutput])
        .await;
    for _ in 0..20 {
        audited.second().await;
    }
    let slashes = audited.slashes().await;
    assert_eq!(slashes.len(), 1, "{slashes:?}");
    assert_eq!(slashes[0].0, who("provider"));

    let events = audited.events().await;
    let ruled = events.iter().filter_map(|event| match event {
        ContractEvent::Ruled { outcome, .. } => Some(*outcome),
        _ => None,
    });
    let mut ruled: Vec<_> = ruled.collect();
    ruled.sort();
    let good = Outcome::Good;
    assert_eq!(ruled, [good, good, good, Outcome::WrongOutput]);
    let cheated = JobId(keccak256("job 2 1").0);
    assert!(
        events.iter().any(
            |event| matches!(event, ContractEvent::JobReversed { job, .. } if *job == cheated)
        )
    );
    let rated = events.iter().rev().find_map(|event| match event {
        ContractEvent::ProviderRated { reputation_ppm, .. } => Some(*reputation_ppm),
        _ => None,
    });
    assert!(rated.is_some_and(|ppm| ppm < 500_000), "{rated:?}");

    // Every seat of every ruling was seen, so that nothing is asked for any more; who starts anew sees the same.
    let now = audited.now();
    let me = validator(0).address();
    let seen = audited.follower.state().view_of(me, now);
    assert_eq!(seen.rounds.len(), 2);
    for round in &seen.rounds {
        assert_eq!(round.rulings.len(), 2);
        assert!(round.rulings.values().all(|ruling| ruling.seen.len() == 3));
    }
    let soon = now.plus(Millis::from_secs(10));
    for seated in &mut audited.seated {
        let view = audited.follower.state();
        let view = Box::new(view.view_of(seated.core.account(), soon));
        let wanted = seated.core.handle(Input::Chain(view), soon);
        assert_eq!(wanted, [], "both rounds are settled");
    }
    let mut fresh = open(&audited.network, audited.judges).await;
    fresh.catch_up(now).await.expect("readable");
    assert_eq!(fresh.state().view_of(me, now), seen);
    assert_eq!(fresh.state().over(who("router")), 0);

    // Long after: the rounds are closed, their posts forgotten, and what was kept for them may be erased.
    let later = now.plus(Millis::from_secs(
        audited.network.profile.audit.rulings_seconds + 100,
    ));
    fresh.catch_up(later).await.expect("readable");
    assert_eq!(fresh.state().view_of(me, later).rounds, []);
    assert_eq!(fresh.state().over(who("router")), 2);
}

/// A chain whose answer to what a transaction needs is an older one: others were faster than its block.
#[derive(Clone)]
struct Overtaken {
    inner: Embedded,
    estimate: u64,
}

macro_rules! as_inner {
    ($($name:ident($($arg:ident: $kind:ty),*) -> $out:ty;)*) => {$(
        async fn $name(&self, $($arg: $kind),*) -> Result<$out, AccessError> {
            self.inner.$name($($arg),*).await
        }
    )*};
}

impl ChainAccess for Overtaken {
    as_inner! {
        chain_id() -> u64;
        call(from: Address, to: Address, input: Vec<u8>) -> Vec<u8>;
        fees() -> Fees;
        balance(account: Address) -> u128;
        nonce(account: Address, pending: bool) -> u64;
        submit(raw: Vec<u8>) -> ();
        receipt(transaction: Digest) -> Option<TransactionReceipt>;
        logs(addresses: Vec<Address>, from: u64, to: u64) -> Vec<RawLog>;
        block(number: Option<u64>) -> Option<BlockId>;
        code(account: Address) -> Vec<u8>;
    }

    async fn estimate(
        &self,
        _from: Address,
        _to: Option<Address>,
        _input: Vec<u8>,
    ) -> Result<u64, AccessError> {
        Ok(self.estimate)
    }
}

#[tokio::test]
async fn who_turns_out_to_be_the_last_to_reveal_has_gas_for_the_draw() {
    let mut audited = Audited::new().await;
    audited.post(1, &[Answered::Good]).await;
    audited.seated[0].account.open().await.expect("opens");
    audited.network.clock.advance(1);
    // A block after the one that opened.
    let nudge = audited.network.account("developer").await;
    nudge
        .mint_test_dollars(who("developer"), units(1))
        .await
        .expect("mints");
    let preimage = |n: usize| {
        let chain = HashChain::new(&validator(n), 0, 200);
        chain.below(chain.top()).expect("a link")
    };
    let reveal = |n: usize| audited.seated[n].account.reveal(preimage(n));
    reveal(0).await.expect("in time");
    let access = audited.network.access();
    let call = AuditRounds::revealCall {
        preimage: evm_digest(preimage(2)),
    };
    let input = alloy_sol_types::SolCall::abi_encode(&call);
    let me = validator(2).address();
    let rounds = Some(audited.judges.rounds);
    let estimate = access
        .estimate(me, rounds, input)
        .await
        .expect("it would do");
    reveal(1).await.expect("in time");
    let overtaken = Overtaken {
        inner: access,
        estimate,
    };
    let sender = sender(overtaken, "validator 2").await;
    let account = Account::new(sender, audited.network.contracts);
    let last = AuditAccount::new(account, audited.judges);
    last.reveal(preimage(2)).await.expect("it draws, too");
    let call = AuditRounds::phaseCall { round: 1 };
    let phase = view(&audited.network.access(), audited.judges.rounds, &call).await;
    assert_eq!(phase.expect("readable"), 2, "drawn");
}
