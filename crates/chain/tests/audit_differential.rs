//! The executable model of audits against the real bytecode: the same random calls, the same outcome.
//!
//! After each call both must agree on success or on the exact bytes of the revert, on the verdict's events, and on what the views say
//! about rounds, seats, stakes, rulings, reputation and payout roots.
#![allow(missing_docs)]

mod machine;

use std::cell::RefCell;
use std::collections::BTreeMap;

use alloy_primitives::{Bytes, FixedBytes, Log, LogData, U256};
use alloy_sol_types::{SolCall, SolConstructor, SolError, SolEvent};
use machine::{
    Machine, Reverted, bps, contract_stake_params, contract_times, contract_vault_params,
};
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use stoa_chain::bindings::{
    AuditRounds as R, PanelVerdict as V, PaymentVault as P, ProviderRegistry, Reputation,
    StakeRegistry as S, StoaToken, TestDollar,
};
use stoa_chain::{
    address, digest, evidence_words, evm_address, evm_digest, explain_revert, vote_words,
};
use stoa_crypto::{MerkleTree, SecretKey, keccak256, receipt_digest, receipt_leaf};
use stoa_ledger::audit::ballot::{Ballot, Verdict};
use stoa_ledger::audit::place::{Place, PlaceError, Post};
use stoa_ledger::audit::rounds::{
    AuditRounds, Block, KEEPS_SEAT, Phase, RoundsError, RoundsParams,
};
use stoa_ledger::audit::standing::Sampling;
use stoa_ledger::audit::verdict::{
    Evidence, Market, PanelVerdict, VerdictError, VerdictEvent, VerdictParams, Vote,
};
use stoa_ledger::audit::{Outcome, hash};
use stoa_ledger::fees::{FeeSchedule, SlashShares};
use stoa_ledger::stake::{Role, StakeError, StakeParams, StakeRegistry};
use stoa_ledger::vault::{Vault, VaultParams};
use stoa_types::*;

const START: u64 = 1_800_000_000;
const CHAIN: u64 = 1;
const WINDOW: u64 = 90;
const ANSWER: u64 = 600;
const UNBONDING: u64 = 604_800;
const STAKE: u128 = 20_000 * 10u128.pow(18);
const VALIDATORS: usize = 5;
/// Most and least share of jobs, and first jobs: few, so that some are not audited.
const SAMPLING: (u16, u16, u32) = (7_000, 50, 2);
const LINKS: usize = 64;
const TIMES: RoundsParams = RoundsParams {
    interval: 2,
    reveal: 10,
    ballot: 40,
    unseal: 10,
    plants: 10,
    rulings: 100_000,
    devnet: true,
};

fn key(label: &str) -> SecretKey {
    SecretKey::for_tests(label)
}

fn who(label: &str) -> Address {
    key(label).address()
}

fn validator_key(n: usize) -> SecretKey {
    key(&format!("validator {}", n % VALIDATORS))
}

fn validator(n: usize) -> Address {
    validator_key(n).address()
}

fn provider(n: usize) -> SecretKey {
    key(["provider", "second provider"][n % 2])
}

fn word(value: Digest) -> FixedBytes<32> {
    evm_digest(value)
}

/// Preimages of a validator: the last is the top, which it publishes.
fn chain_of(n: usize) -> Vec<Digest> {
    let mut chain = vec![keccak256(format!("secret {}", n % VALIDATORS))];
    for at in 0..LINKS {
        chain.push(hash::link(chain[at]));
    }
    chain
}

fn block_hash(number: u64) -> Digest {
    // What the EVM without a chain behind it answers.
    keccak256(number.to_string())
}

fn vault_params() -> VaultParams {
    VaultParams {
        window: WINDOW,
        notice: 600,
        settle_delay: 3_600,
        claim_min: TokenAmount::from_units(1),
        fees: FeeSchedule {
            router: bps(150),
            treasury: bps(50),
            validators: bps(50),
            buyback: bps(50),
        },
        treasury: who("treasury"),
        validators_pool: who("pool"),
        buyback: who("buyback"),
    }
}

fn stake_params() -> StakeParams {
    StakeParams {
        unbonding: UNBONDING,
        exposure: 150,
        floors: [50_000_001, 100_000_003, 75_000_007].map(TokenAmount::from_units),
        job_max: TokenAmount::from_units(1),
        sampling_floor: bps(50),
        stake_price: TokenAmount::from_units(100_003),
        shares: SlashShares {
            developer: bps(4_000),
            challenger: bps(4_000),
        },
    }
}

// ---- the bytecode

struct Evm {
    machine: Machine,
    stoa: Address,
    dollar: Address,
    stakes: Address,
    vault: Address,
    rounds: Address,
    reputation: Address,
    verdict: Address,
}

impl Evm {
    fn deploy() -> Self {
        let mut evm = Self {
            machine: Machine::new(),
            stoa: Address::ZERO,
            dollar: Address::ZERO,
            stakes: Address::ZERO,
            vault: Address::ZERO,
            rounds: Address::ZERO,
            reputation: Address::ZERO,
            verdict: Address::ZERO,
        };
        evm.set_block(START, 1);
        let admin = evm_address(who("admin"));
        evm.dollar = evm.create(&TestDollar::BYTECODE, Vec::new());
        let arguments = StoaToken::constructorCall::new((admin,)).abi_encode();
        evm.stoa = evm.create(&StoaToken::BYTECODE, arguments);
        let registry = evm.create(&ProviderRegistry::BYTECODE, Vec::new());
        let stakes = S::constructorCall::new((
            evm_address(evm.stoa),
            evm_address(registry),
            contract_stake_params(&stake_params()),
            admin,
        ));
        evm.stakes = evm.create(&S::BYTECODE, stakes.abi_encode());
        let vault = P::constructorCall::new((
            evm_address(evm.dollar),
            evm_address(registry),
            contract_vault_params(&vault_params()),
            admin,
        ));
        evm.vault = evm.create(&P::BYTECODE, vault.abi_encode());
        let rounds = R::constructorCall::new((
            evm_address(evm.stakes),
            evm_address(evm.vault),
            contract_times(&TIMES),
            ANSWER,
            admin,
        ));
        evm.rounds = evm.create(&R::BYTECODE, rounds.abi_encode());
        let reputation =
            Reputation::constructorCall::new((SAMPLING.0, SAMPLING.1, SAMPLING.2, admin));
        evm.reputation = evm.create(&Reputation::BYTECODE, reputation.abi_encode());
        let verdict = V::constructorCall::new((
            evm_address(evm.rounds),
            evm_address(evm.stakes),
            evm_address(evm.vault),
            evm_address(evm.reputation),
            ANSWER,
            evm_address(Address::ZERO),
        ));
        evm.verdict = evm.create(&V::BYTECODE, verdict.abi_encode());
        evm.appoint();
        evm
    }

    fn appoint(&mut self) {
        let (admin, verdict) = (who("admin"), evm_address(self.verdict));
        let (stakes, vault, rounds, reputation) =
            (self.stakes, self.vault, self.rounds, self.reputation);
        self.send(
            admin,
            stakes,
            &S::setSlasherCall {
                newSlasher: verdict,
            },
        )
        .expect("admin");
        self.send(
            admin,
            vault,
            &P::setVerdictCall {
                newVerdict: verdict,
            },
        )
        .expect("admin");
        self.send(
            admin,
            rounds,
            &R::setVerdictCall {
                newVerdict: verdict,
            },
        )
        .expect("admin");
        self.send(
            admin,
            reputation,
            &Reputation::setWriterCall { newWriter: verdict },
        )
        .expect("admin");
        let planter = R::setPlanterCall {
            planter: evm_address(who("planter")),
            allowed: true,
        };
        self.send(admin, rounds, &planter).expect("admin");
        let mut stakers: Vec<_> = (0..VALIDATORS).map(validator).collect();
        stakers.extend([who("router"), who("second router")]);
        stakers.extend([provider(0).address(), provider(1).address()]);
        for staker in stakers {
            let give = StoaToken::transferCall {
                to: evm_address(staker),
                value: U256::from(10u128.pow(25)),
            };
            self.send(admin, self.stoa, &give).expect("transfers");
            let approve = StoaToken::approveCall {
                spender: evm_address(stakes),
                value: U256::MAX,
            };
            self.send(staker, self.stoa, &approve).expect("approves");
        }
    }

    fn fork(&self) -> Self {
        Self {
            machine: self.machine.fork(),
            ..*self
        }
    }

    fn set_block(&mut self, seconds: u64, number: u64) {
        self.machine.set_block(seconds, number);
    }

    fn create(&mut self, code: &[u8], arguments: Vec<u8>) -> Address {
        self.machine.create(who("admin"), code, arguments)
    }

    /// Sends a transaction; gives the verdict's own events, or the revert data.
    fn send(
        &mut self,
        from: Address,
        to: Address,
        call: &impl SolCall,
    ) -> Result<Vec<LogData>, Reverted> {
        let own = |log: &Log| log.address == evm_address(to);
        let logs = self.machine.send(from, to, call)?.into_iter();
        Ok(logs.filter(own).map(|log| log.data).collect())
    }

    fn view<C: SolCall>(&mut self, to: Address, call: &C) -> C::Return {
        self.machine.view(to, call)
    }
}

// ---- the model in the contract's words

fn rounds_revert(error: &RoundsError) -> Vec<u8> {
    let a = |who: &Address| evm_address(*who);
    match error {
        RoundsError::NotAllowed { caller } => R::NotAllowed { caller: a(caller) }.abi_encode(),
        RoundsError::ZeroValue => R::ZeroValue {}.abi_encode(),
        RoundsError::WrongKey { who } => R::WrongKey { who: a(who) }.abi_encode(),
        RoundsError::NotStaked { who } => R::NotStaked { who: a(who) }.abi_encode(),
        RoundsError::StillSeated { who } => R::StillSeated { who: a(who) }.abi_encode(),
        RoundsError::AlreadySeated { who } => R::AlreadySeated { who: a(who) }.abi_encode(),
        RoundsError::NotSeated { who } => R::NotSeated { who: a(who) }.abi_encode(),
        RoundsError::SeatsTaken { max } => R::SeatsTaken {
            max: U256::from(*max),
        }
        .abi_encode(),
        RoundsError::RevealRunning { round } => R::RevealRunning { round: *round }.abi_encode(),
        RoundsError::TooSoon { at } => R::TooSoon { due: *at }.abi_encode(),
        RoundsError::NoValidators => R::NoValidators {}.abi_encode(),
        RoundsError::NothingPosted => R::NothingPosted {}.abi_encode(),
        RoundsError::WrongPhase { round, phase } => R::WrongPhase {
            round: *round,
            phase: phase.code(),
        }
        .abi_encode(),
        RoundsError::SameBlock { block } => R::SameBlock { number: *block }.abi_encode(),
        RoundsError::WrongTime { at } => R::WrongTime { due: *at }.abi_encode(),
        RoundsError::NotOfCommittee { round, who } => R::NotOfCommittee {
            round: *round,
            who: a(who),
        }
        .abi_encode(),
        RoundsError::AlreadyDone { round, who } => R::AlreadyDone {
            round: *round,
            who: a(who),
        }
        .abi_encode(),
        RoundsError::WrongPreimage { tip } => R::WrongPreimage { tip: word(*tip) }.abi_encode(),
        RoundsError::WrongOpening { who } => R::WrongOpening { who: a(who) }.abi_encode(),
        RoundsError::AlreadyPlanted { commitment } => R::AlreadyPlanted {
            commitment: word(*commitment),
        }
        .abi_encode(),
        RoundsError::NotPlanted { commitment, round } => R::NotPlanted {
            commitment: word(*commitment),
            round: *round,
        }
        .abi_encode(),
        RoundsError::WrongSigner { account } => R::WrongSigner {
            account: a(account),
        }
        .abi_encode(),
        RoundsError::Stake(error) => panic!("the registry is only asked: {error}"),
    }
}

fn place_revert(error: &PlaceError) -> Vec<u8> {
    match error {
        PlaceError::NotCovered { round, router } => V::NotCovered {
            round: *round,
            router: evm_address(*router),
        }
        .abi_encode(),
        PlaceError::BadWalk { posts } => V::BadWalk {
            posts: U256::from(*posts),
        }
        .abi_encode(),
        PlaceError::NoHead { posts } => V::NoHead {
            posts: U256::from(*posts),
        }
        .abi_encode(),
        PlaceError::WrongHead { found } => V::WrongHead {
            found: word(*found),
        }
        .abi_encode(),
        PlaceError::NotInRoot { leaf } => V::NotInRoot { leaf: word(*leaf) }.abi_encode(),
    }
}

fn verdict_revert(error: &VerdictError) -> Vec<u8> {
    let a = |who: &Address| evm_address(*who);
    match error {
        VerdictError::WrongPhase { round, phase } => V::WrongPhase {
            round: *round,
            phase: phase.code(),
        }
        .abi_encode(),
        VerdictError::Place(error) => place_revert(error),
        VerdictError::AlreadyRuled { subject } => V::AlreadyRuled {
            subject: word(*subject),
        }
        .abi_encode(),
        VerdictError::NotAudited { subject } => V::NotAudited {
            subject: word(*subject),
        }
        .abi_encode(),
        VerdictError::NobodyDid { round } => V::NobodyDid { round: *round }.abi_encode(),
        VerdictError::NotRuled { subject } => V::NotRuled {
            subject: word(*subject),
        }
        .abi_encode(),
        VerdictError::TooManyVotes { votes } => V::TooManyVotes {
            votes: U256::from(*votes),
        }
        .abi_encode(),
        VerdictError::NotOnPanel { who } => V::NotOnPanel { who: a(who) }.abi_encode(),
        VerdictError::AlreadySeen { who } => V::AlreadySeen { who: a(who) }.abi_encode(),
        VerdictError::NoBallot { who } => V::NoBallot { who: a(who) }.abi_encode(),
        VerdictError::NotInBallot { who } => V::NotInBallot { who: a(who) }.abi_encode(),
        VerdictError::NoMajority { needed } => V::NoMajority {
            needed: U256::from(*needed),
        }
        .abi_encode(),
        VerdictError::WrongSubject { outcome } => V::WrongSubject {
            outcome: outcome.code(),
        }
        .abi_encode(),
        VerdictError::WrongTier { tier } => V::WrongTier { tier: tier.code() }.abi_encode(),
        VerdictError::ForeignReceipt => V::ForeignReceipt {}.abi_encode(),
        VerdictError::WrongSigner { provider } => V::WrongSigner {
            provider: a(provider),
        }
        .abi_encode(),
        VerdictError::TooEarly { at } => V::TooEarly {
            due: U256::from(*at),
        }
        .abi_encode(),
        VerdictError::NotSilent { who } => V::NotSilent { who: a(who) }.abi_encode(),
        VerdictError::DutyDone { round, who } => V::DutyDone {
            round: *round,
            who: a(who),
        }
        .abi_encode(),
        VerdictError::NotOvercharged { charge, most } => V::NotOvercharged {
            charge: charge.units(),
            most: U256::from(*most),
        }
        .abi_encode(),
        VerdictError::NotDouble => V::NotDouble {}.abi_encode(),
        VerdictError::Rounds(error) => rounds_revert(error),
        VerdictError::Stake(StakeError::AlreadySlashed { fault_id }) => S::AlreadySlashed {
            faultId: word(*fault_id),
        }
        .abi_encode(),
        VerdictError::Stake(error) => panic!("{error}"),
        VerdictError::Vault(error) => panic!("{error}"),
    }
}

fn event(event: &VerdictEvent) -> LogData {
    match *event {
        VerdictEvent::Ruled {
            round,
            subject,
            outcome,
            plant,
        } => V::Ruled {
            round,
            subject: word(subject),
            outcome: outcome.code(),
            plant,
        }
        .encode_log_data(),
        VerdictEvent::JobReversed {
            job,
            router,
            account,
            charge,
        } => V::JobReversed {
            job: FixedBytes(job.0),
            router: evm_address(router),
            account: evm_address(account),
            charge: charge.units(),
        }
        .encode_log_data(),
        VerdictEvent::Convicted {
            fault_id,
            offender,
            kind,
            severity,
        } => V::Convicted {
            faultId: word(fault_id),
            offender: evm_address(offender),
            kind,
            severityBps: severity.get(),
        }
        .encode_log_data(),
        VerdictEvent::Differed {
            subject,
            validator,
            outcome,
        } => V::Differed {
            subject: word(subject),
            validator: evm_address(validator),
            outcome: outcome.code(),
        }
        .encode_log_data(),
    }
}

// ---- random calls

#[derive(Debug, Clone, Copy)]
struct Draw {
    kind: u8,
    a: usize,
    b: usize,
    n: u64,
    twist: u8,
}

fn draws() -> impl Strategy<Value = Vec<Draw>> {
    let draw = (
        any::<u8>(),
        0..64usize,
        0..64usize,
        any::<u64>(),
        any::<u8>(),
    );
    let draw = draw.prop_map(|(kind, a, b, n, twist)| Draw {
        kind,
        a,
        b,
        n,
        twist,
    });
    proptest::collection::vec(draw, 10..60)
}

/// A posted receipt, before the round that covers it is known.
#[derive(Clone)]
struct Job {
    receipt: Receipt,
    signature: Signature,
    router: Address,
    post: u64,
    proof: Vec<Digest>,
}

struct World {
    model: Model,
    evm: Evm,
    now: u64,
    number: u64,
    jobs: Vec<Job>,
    posts: BTreeMap<Address, Vec<Post>>,
    ballots: BTreeMap<(u64, usize), Ballot>,
    succeeded: BTreeMap<&'static str, usize>,
}

struct Model {
    rounds: AuditRounds,
    stakes: StakeRegistry,
    vault: Vault,
    verdict: PanelVerdict,
}

impl Model {
    fn market(&mut self) -> (&mut PanelVerdict, Market<'_>) {
        let market = Market {
            rounds: &mut self.rounds,
            stakes: &mut self.stakes,
            vault: &mut self.vault,
        };
        (&mut self.verdict, market)
    }
}

fn model(evm: &Evm) -> Model {
    let admin = who("admin");
    let mut vault = Vault::new(vault_params(), admin).expect("valid");
    vault.set_verdict(admin, evm.verdict).expect("admin");
    let mut stakes = StakeRegistry::new(stake_params(), admin).expect("valid");
    stakes.set_slasher(admin, evm.verdict).expect("admin");
    let mut rounds = AuditRounds::new(TIMES, admin);
    rounds.set_verdict(admin, evm.verdict).expect("admin");
    rounds
        .set_planter(admin, who("planter"), true)
        .expect("admin");
    let verdict = PanelVerdict::new(VerdictParams {
        chain_id: CHAIN,
        vault: evm.vault,
        own: evm.verdict,
        answer: ANSWER,
        sampling: Sampling {
            most: bps(SAMPLING.0),
            least: bps(SAMPLING.1),
            first_jobs: SAMPLING.2,
        },
    });
    Model {
        rounds,
        stakes,
        vault,
        verdict,
    }
}

impl World {
    fn new(base: &Evm, validators: usize) -> Self {
        let evm = base.fork();
        let mut world = Self {
            model: model(&evm),
            evm,
            now: START,
            number: 10,
            jobs: Vec::new(),
            posts: BTreeMap::new(),
            ballots: BTreeMap::new(),
            succeeded: BTreeMap::new(),
        };
        world.pass(1);
        let kept = KEEPS_SEAT.units();
        for (router, cap) in [("router", kept), ("second router", kept - 1)] {
            world.stake(Role::Router, who(router), STAKE);
            world.enrol(who(router));
            world.allot(who(router), cap);
        }
        for n in 0..2 {
            world.stake(Role::Provider, provider(n).address(), STAKE);
        }
        for n in 0..validators {
            world.stake(Role::Validator, validator(n), STAKE + n as u128);
            world.join(n, 0);
        }
        world
    }

    fn pass(&mut self, seconds: u64) {
        self.now += seconds;
        self.number += 1;
        self.evm.set_block(self.now, self.number);
    }

    fn block(&self) -> Block {
        Block {
            now: self.now,
            number: self.number,
        }
    }

    fn note(&mut self, name: &'static str, expected: Option<Vec<u8>>, found: Option<Vec<u8>>) {
        match (&expected, &found) {
            (None, None) => *self.succeeded.entry(name).or_default() += 1,
            (Some(a), Some(b)) if a == b => {}
            _ => panic!(
                "{name}: the model says {:?}, the contract {:?}",
                expected.as_deref().map(explain_revert),
                found.as_deref().map(explain_revert)
            ),
        }
    }

    /// Compares a call of the rounds.
    fn rounds<T>(
        &mut self,
        name: &'static str,
        from: Address,
        call: &impl SolCall,
        expected: Result<T, RoundsError>,
    ) {
        let to = self.evm.rounds;
        let found = self.evm.send(from, to, call).err();
        self.note(name, expected.err().map(|e| rounds_revert(&e)), found);
    }

    /// Compares a call of the verdict, with its events.
    fn verdict(
        &mut self,
        name: &'static str,
        call: &impl SolCall,
        expected: Result<Vec<VerdictEvent>, VerdictError>,
    ) {
        let to = self.evm.verdict;
        let found = self.evm.send(who("anyone"), to, call);
        if let (Ok(events), Ok(logs)) = (&expected, &found) {
            let events: Vec<_> = events.iter().map(event).collect();
            assert_eq!(&events, logs, "{name}");
        }
        let expected = expected.err().map(|e| verdict_revert(&e));
        self.note(name, expected, found.err());
    }

    fn stake(&mut self, role: Role, who: Address, amount: u128) {
        let units = StakeAmount::from_units(amount);
        self.model.stakes.stake(role, who, units).expect("stakes");
        let call = S::stakeCall {
            role: role.code(),
            amount,
        };
        let to = self.evm.stakes;
        self.evm.send(who, to, &call).expect("stakes");
    }

    /// A developer with `cap` in the vault allots it.
    fn allot(&mut self, router: Address, cap: u128) {
        let (developer, expiry) = (who("developer"), self.now + 1_000);
        let (dollar, to) = (self.evm.dollar, self.evm.vault);
        let (vault, amount) = (&mut self.model.vault, TokenAmount::from_units(cap));
        vault
            .deposit(developer, developer, amount)
            .expect("deposits");
        let done = vault.allot(developer, router, amount, expiry, self.now);
        done.expect("allots");
        let mint = TestDollar::mintCall {
            to: evm_address(developer),
            amount: U256::from(cap),
        };
        self.evm.send(developer, dollar, &mint).expect("mints");
        let approve = TestDollar::approveCall {
            spender: evm_address(to),
            value: U256::from(cap),
        };
        self.evm
            .send(developer, dollar, &approve)
            .expect("approves");
        let deposit = P::depositCall { amount: cap };
        self.evm.send(developer, to, &deposit).expect("deposits");
        let allot = P::allotCall {
            router: evm_address(router),
            cap,
            expiry,
        };
        self.evm.send(developer, to, &allot).expect("allots");
    }

    fn unbond(&mut self, role: Role, who: Address) {
        let active = self.model.stakes.stake_of(role, who).active;
        if active.is_zero() {
            return;
        }
        let now = self.now;
        let stakes = &mut self.model.stakes;
        stakes
            .request_unbond(role, who, active, now)
            .expect("unbonds");
        let call = S::requestUnbondCall {
            role: role.code(),
            amount: active.units(),
        };
        let to = self.evm.stakes;
        self.evm.send(who, to, &call).expect("unbonds");
    }

    fn join(&mut self, n: usize, twist: u8) {
        let tip = self.model.rounds.tip(validator(n));
        let tip = match twist % 8 {
            7 => Digest::ZERO,
            _ if tip == Digest::ZERO => chain_of(n)[LINKS],
            _ => tip,
        };
        let owner = if twist % 8 == 6 { n + 1 } else { n };
        let point = validator_key(owner).public_key().point();
        let Model { rounds, stakes, .. } = &mut self.model;
        let expected = rounds.join(stakes, validator(n), tip, point);
        let call = R::joinCall {
            tip: word(tip),
            x: word(point.0),
            y: word(point.1),
        };
        self.rounds("join", validator(n), &call, expected);
    }

    fn enrol(&mut self, router: Address) {
        let Model { rounds, stakes, .. } = &mut self.model;
        let expected = rounds.enrol(stakes, router);
        let call = R::enrolCall {
            router: evm_address(router),
        };
        self.rounds("enrol", who("anyone"), &call, expected);
    }

    fn seats(&mut self, draw: &Draw) {
        let n = draw.a;
        let who_ = validator(n);
        let rounds = &mut self.model.rounds;
        let router = who(["router", "second router", "third router"][n % 3]);
        match draw.b % 8 {
            0 => {
                let expected = rounds.quit(who_);
                self.rounds("quit", who_, &R::quitCall {}, expected);
            }
            1 => {
                let tip = rounds.tip(who_);
                let expected = rounds.renew(who_, tip);
                self.rounds("renew", who_, &R::renewCall { tip: word(tip) }, expected);
            }
            2 => self.unseat(n),
            3 => self.strike(router),
            4 => {
                self.unbond(Role::Validator, who_);
                self.unseat(n);
            }
            5 if draw.n.is_multiple_of(2) => {
                // One whose posts are covered keeps no seat without stake.
                let Model { rounds, vault, .. } = &self.model;
                let covered =
                    |router: &Address| rounds.last_of(*router).posts == vault.totals(*router).posts;
                let routers = [who("second router"), who("router")];
                let router = routers.into_iter().find(covered).unwrap_or(router);
                self.unbond(Role::Router, router);
                self.strike(router);
            }
            5 => self.enrol(router),
            6 => self.stake(Role::Validator, who_, STAKE),
            _ => self.join(n, draw.twist),
        }
    }

    fn strike(&mut self, router: Address) {
        let Model {
            rounds,
            stakes,
            vault,
            ..
        } = &mut self.model;
        let expected = rounds.strike(stakes, vault, router);
        let call = R::strikeCall {
            router: evm_address(router),
        };
        self.rounds("strike", who("anyone"), &call, expected);
    }

    fn unseat(&mut self, n: usize) {
        let Model { rounds, stakes, .. } = &mut self.model;
        let expected = rounds.unseat(stakes, validator(n));
        let call = R::unseatCall {
            validator: evm_address(validator(n)),
        };
        self.rounds("unseat", who("anyone"), &call, expected);
    }

    fn post(&mut self, draw: &Draw) {
        let router = who(["router", "router", "router", "second router"][draw.b % 4]);
        let mut receipts: Vec<_> = (0..draw.a % 3 + 1)
            .map(|n| self.receipt(router, draw, n))
            .collect();
        if draw.twist % 8 == 5 {
            receipts.push(receipts[0].clone());
        }
        let tree = MerkleTree::new(receipts.iter().map(receipt_leaf).collect());
        let made = Post {
            job_root: tree.root(),
            job_count: receipts.len() as u32,
            content_id: keccak256(draw.n.to_be_bytes()),
        };
        let pending = self.model.vault.totals(router).pending;
        let pay_root = match pending {
            None if !draw.twist.is_multiple_of(4) => keccak256([draw.twist]),
            _ => Digest::ZERO,
        };
        let now = self.now;
        self.model
            .vault
            .post_batch(
                router,
                made.job_root,
                made.job_count,
                pay_root,
                TokenAmount::ZERO,
                made.content_id,
                now,
            )
            .expect("posts");
        let call = P::postBatchCall {
            jobRoot: word(made.job_root),
            jobCount: made.job_count,
            payRoot: word(pay_root),
            gross: 0,
            contentId: word(made.content_id),
        };
        let to = self.evm.vault;
        self.evm.send(router, to, &call).expect("posts");
        let posts = self.posts.entry(router).or_default();
        posts.push(made);
        let post = posts.len() as u64;
        for (n, receipt) in receipts.into_iter().enumerate() {
            let signer = if draw.twist % 16 == 3 {
                key("forger")
            } else {
                provider((draw.n >> n) as usize)
            };
            self.jobs.push(Job {
                signature: signer.sign(receipt_digest(&receipt)),
                receipt,
                router,
                post,
                proof: tree.proof(n).expect("in range"),
            });
        }
    }

    fn receipt(&self, router: Address, draw: &Draw, n: usize) -> Receipt {
        let zero = Digest::ZERO;
        // Few job ids, so that some are posted twice.
        let job = (draw.n >> 8).wrapping_add(n as u64) % 12;
        let odd = (draw.n >> 24) % 24;
        Receipt {
            version: RECEIPT_VERSION,
            chain_id: if odd == 1 { CHAIN + 1 } else { CHAIN },
            vault: self.evm.vault,
            profile_hash: zero,
            job_id: JobId(keccak256(job.to_be_bytes()).0),
            account: who("developer"),
            router: if odd == 2 { who("anyone") } else { router },
            provider: provider((draw.n >> n) as usize).address(),
            model_root: zero,
            runtime_digest: zero,
            parameters_digest: zero,
            prompt_root: zero,
            request_digest: zero,
            output_root: zero,
            response_digest: zero,
            input_units: 3,
            output_units: if odd == 3 { 0 } else { 2 },
            input_price: Price::per_million(TokenAmount::from_units(1_000_000)),
            output_price: Price::per_million(TokenAmount::from_units(2_000_000)),
            charge: TokenAmount::from_units(6 + u128::from(odd % 3)),
            fee_version: 1,
            paid_by: PaidBy::Allotment,
            tier: if odd == 4 { Tier::None } else { Tier::Exact },
            evidence_digest: zero,
            ticket_hash: zero,
            attempt: n as u32,
            segments_root: zero,
            accepted_at: Timestamp(draw.n),
            delivered_at: Timestamp(draw.n),
        }
    }

    fn open(&mut self) {
        let block = self.block();
        let Model {
            rounds,
            stakes,
            vault,
            ..
        } = &mut self.model;
        let expected = rounds.open(stakes, vault, block);
        self.rounds("open", who("anyone"), &R::openCall {}, expected);
    }

    fn reveal(&mut self, n: usize, wrong: bool) {
        let rounds = &mut self.model.rounds;
        let chain = chain_of(n);
        let tip = rounds.tip(validator(n));
        let at = chain.iter().position(|link| *link == tip).unwrap_or(LINKS);
        let preimage = chain[at.saturating_sub(if wrong { 2 } else { 1 })];
        let opened = rounds.round(rounds.latest()).map_or(0, |r| r.open_block);
        let block = Block {
            now: self.now,
            number: self.number,
        };
        let expected = rounds.reveal(validator(n), preimage, block_hash(opened), block);
        let call = R::revealCall {
            preimage: word(preimage),
        };
        self.rounds("reveal", validator(n), &call, expected);
    }

    fn draw(&mut self) {
        let block = self.block();
        let rounds = &mut self.model.rounds;
        let opened = rounds.round(rounds.latest()).map_or(0, |r| r.open_block);
        let expected = rounds.draw(block_hash(opened), block);
        self.rounds("draw", who("anyone"), &R::drawCall {}, expected);
    }

    /// The jobs that a round covers.
    fn jobs_of(&self, round: u64) -> Vec<usize> {
        let covered = |job: &Job| {
            let here = self.model.rounds.snapshot(round, job.router);
            let before = self.model.rounds.snapshot(here.previous, job.router);
            job.post > before.posts && job.post <= here.posts
        };
        (0..self.jobs.len())
            .filter(|at| covered(&self.jobs[*at]))
            .collect()
    }

    fn commit(&mut self, n: usize, round: u64, draw: &Draw) {
        let mut ballot = Ballot::new();
        for at in self.jobs_of(round) {
            let job = &self.jobs[at];
            let bits = keccak256((at as u64 ^ draw.n >> 3).to_be_bytes()).0;
            let truth = [Outcome::WrongOutput, Outcome::Good, Outcome::Good][at % 3];
            // Most say the same, some something else, some nothing.
            let own = keccak256([bits[0], (n % VALIDATORS) as u8]).0[0];
            let outcome = match own % 16 {
                0 => continue,
                1 => Outcome::ALL[usize::from(own / 16) % Outcome::ALL.len()],
                2 => Outcome::Withheld,
                _ => truth,
            };
            let subject = hash::job_subject(job.router, receipt_leaf(&job.receipt));
            let digest = keccak256([own]);
            ballot.insert(subject, Verdict { outcome, digest });
            // Some got no files, or other ones.
            let outcome = match own % 16 {
                3 | 4 => Outcome::Void,
                _ => [Outcome::Withheld, Outcome::BadSums, Outcome::Good][at % 3],
            };
            let digest = Digest::ZERO;
            let batch = hash::batch_subject(job.router, job.post);
            ballot.insert(batch, Verdict { outcome, digest });
        }
        let salt = keccak256([(n % VALIDATORS) as u8]);
        let commitment = match draw.twist % 32 {
            31 => Digest::ZERO,
            _ => hash::commitment(round, validator(n), ballot.root(), salt),
        };
        let block = self.block();
        let expected = self
            .model
            .rounds
            .commit(validator(n), round, commitment, block);
        if expected.is_ok() {
            self.ballots.insert((round, n % VALIDATORS), ballot);
        }
        let call = R::commitBallotCall {
            round,
            commitment: word(commitment),
        };
        self.rounds("commitBallot", validator(n), &call, expected);
    }

    fn unseal(&mut self, n: usize, round: u64, wrong: bool) {
        let key = (round, n % VALIDATORS);
        let mut root = self.ballots.get(&key).map_or(Digest::ZERO, Ballot::root);
        if wrong {
            root = keccak256("another root");
        }
        let salt = keccak256([(n % VALIDATORS) as u8]);
        let block = self.block();
        let expected = self
            .model
            .rounds
            .unseal(validator(n), round, root, salt, block);
        let call = R::unsealCall {
            round,
            root: word(root),
            salt: word(salt),
        };
        self.rounds("unseal", validator(n), &call, expected);
    }

    /// A whole round, with a few that do not act.
    fn whole_round(&mut self, draw: &Draw) {
        self.pass(TIMES.interval);
        self.open();
        self.pass(1);
        let lazy = usize::from(draw.twist) % (4 * VALIDATORS);
        for n in 0..VALIDATORS {
            if n != lazy {
                self.reveal(n, false);
            }
        }
        let round = self.model.rounds.latest();
        if self.model.rounds.phase(round, self.now) == Phase::Reveal {
            self.pass(TIMES.reveal);
            self.draw();
        }
        for n in 0..VALIDATORS {
            if n + VALIDATORS != lazy {
                self.commit(n, round, &Draw { twist: 0, ..*draw });
            }
        }
        if self.model.rounds.phase(round, self.now) == Phase::Ballot {
            self.pass(TIMES.ballot);
        }
        for n in 0..VALIDATORS {
            if n + 2 * VALIDATORS != lazy {
                self.unseal(n, round, false);
            }
        }
        if self.model.rounds.phase(round, self.now) == Phase::Unseal {
            self.pass(TIMES.unseal);
        }
        if draw.b.is_multiple_of(2) {
            self.name_plants(round);
        }
        if draw.a.is_multiple_of(2) {
            self.punish_reveal(round, lazy);
            self.punish_ballot(round, lazy);
        }
    }

    fn plant_of(&self, at: usize) -> (JobId, Digest, Digest) {
        let salt = keccak256("plant");
        let job = self.jobs[at].receipt.job_id;
        let commitment = hash::plant_commitment(job, who("developer"), salt);
        (job, salt, commitment)
    }

    fn plant(&mut self, draw: &Draw) {
        if self.jobs.is_empty() {
            return;
        }
        let (_, _, commitment) = self.plant_of(self.jobs.len() - 1);
        let from = who(["planter", "planter", "planter", "anyone"][draw.b % 4]);
        let expected = self.model.rounds.plant(from, commitment);
        let call = R::plantCall {
            commitment: word(commitment),
        };
        self.rounds("plant", from, &call, expected);
    }

    fn name_plants(&mut self, round: u64) {
        for at in self.jobs_of(round) {
            self.name_plant(round, at, false);
        }
    }

    fn name_plant(&mut self, round: u64, at: usize, forged: bool) {
        let (job, salt, _) = self.plant_of(at);
        let signer = key(if forged { "forger" } else { "developer" });
        let signature = signer.sign(hash::plant_digest(CHAIN, self.evm.rounds, job));
        let block = self.block();
        let account = who("developer");
        let expected =
            self.model
                .rounds
                .name_plant(round, job, account, salt, signer.address(), block);
        let call = R::namePlantCall {
            round,
            job: FixedBytes(job.0),
            account: evm_address(account),
            salt: word(salt),
            signature: Bytes::from(signature.0.to_vec()),
        };
        let to = self.evm.rounds;
        let found = self.evm.send(who("anyone"), to, &call);
        if let (Ok((first, waited)), Ok(logs)) = (&expected, &found) {
            let named = R::PlantNamed {
                round,
                job: FixedBytes(job.0),
                account: evm_address(account),
                first: *first,
                waited: *waited,
            };
            assert_eq!(logs, &[named.encode_log_data()], "namePlant");
        }
        let expected = expected.err().map(|e| rounds_revert(&e));
        self.note("namePlant", expected, found.err());
    }

    /// The round that covers a job; the newest where none does.
    fn round_of(&self, at: usize) -> u64 {
        (1..=self.model.rounds.latest())
            .find(|round| self.jobs_of(*round).contains(&at))
            .unwrap_or(self.model.rounds.latest())
    }

    fn evidence(&self, at: usize, twist: u8) -> Evidence {
        let job = &self.jobs[at];
        let round = self.round_of(at);
        let here = self.model.rounds.snapshot(round, job.router);
        let before = self.model.rounds.snapshot(here.previous, job.router);
        let all = &self.posts[&job.router];
        let (from, to) = (before.posts as usize, here.posts as usize);
        let mut place = Place {
            router: job.router,
            from: before.posts,
            posts: all.get(from..to).unwrap_or_default().to_vec(),
            at: (job.post as usize).saturating_sub(from + 1),
            proof: job.proof.clone(),
        };
        match twist % 32 {
            0 => place.from += 1,
            1 => place.at += 1,
            2 => place.router = who("anyone"),
            3 => place.proof.push(keccak256("sibling")),
            4 => drop(place.posts.pop()),
            _ => {}
        }
        Evidence {
            round,
            receipt: job.receipt.clone(),
            provider_signature: job.signature,
            place,
        }
    }

    fn vote(&self, round: u64, subject: Digest, n: usize) -> Option<Vote> {
        let ballot = self.ballots.get(&(round, n))?;
        Some(Vote {
            validator: validator(n),
            verdict: ballot.get(&subject)?,
            proof: ballot.proof(&subject)?,
        })
    }

    fn votes(&self, round: u64, subject: Digest, draw: &Draw) -> Vec<Vote> {
        let seated = self.model.rounds.panel(round, subject);
        let on_panel = |n: &usize| {
            let place = self.model.rounds.place(round, validator(*n));
            place.is_ok_and(|place| seated.contains(&place))
        };
        let shown = |n: &usize| {
            let place = self.model.rounds.place(round, validator(*n));
            place.is_ok_and(|place| self.model.rounds.ballot_root(round, place).is_some())
        };
        let careless = draw.twist.is_multiple_of(16);
        let mut votes: Vec<_> = (0..VALIDATORS)
            .filter(|n| careless || (on_panel(n) && shown(n)))
            .filter_map(|n| self.vote(round, subject, n))
            .collect();
        match draw.n % 16 {
            0..=7 => drop(votes.pop()),
            8 => votes.extend(votes.first().cloned()),
            9 => {
                if let Some(vote) = votes.last_mut() {
                    vote.verdict.digest = Digest::ZERO;
                }
            }
            10 => votes.reverse(),
            _ => {}
        }
        votes
    }

    fn rule(&mut self, draw: &Draw) {
        let Some(at) = draw.a.checked_rem(self.jobs.len()) else {
            return;
        };
        let evidence = self.evidence(at, draw.twist);
        let votes = self.votes(evidence.round, evidence.subject(), draw);
        let now = self.now;
        let (verdict, mut market) = self.model.market();
        let expected = verdict.rule(&mut market, &evidence, &votes, now);
        let call = V::ruleCall {
            evidence: evidence_words(&evidence),
            votes: votes.iter().map(vote_words).collect(),
        };
        self.verdict("rule", &call, expected);
        self.follow(at, draw);
    }

    fn rule_batch(&mut self, draw: &Draw) {
        let Some(at) = draw.a.checked_rem(self.jobs.len()) else {
            return;
        };
        let (round, router) = (self.round_of(at), self.jobs[at].router);
        let post = self.jobs[at].post + u64::from(draw.twist.is_multiple_of(16));
        let votes = self.votes(round, hash::batch_subject(router, post), draw);
        let now = self.now;
        let (verdict, mut market) = self.model.market();
        let expected = verdict.rule_batch(&mut market, round, router, post, &votes, now);
        let call = V::ruleBatchCall {
            round,
            router: evm_address(router),
            post,
            votes: votes.iter().map(vote_words).collect(),
        };
        self.verdict("ruleBatch", &call, expected);
    }

    fn show(&mut self, at: usize, n: usize, excuse: bool) {
        let job = &self.jobs[at];
        let (router, post, leaf) = (job.router, job.post, receipt_leaf(&job.receipt));
        let round = self.round_of(at);
        let subject = hash::job_subject(router, leaf);
        let batch = hash::batch_subject(router, post);
        let about = if excuse { batch } else { subject };
        let Some(vote) = self.vote(round, about, n % VALIDATORS) else {
            return;
        };
        let now = self.now;
        let (verdict, mut market) = self.model.market();
        let expected = verdict.show(&mut market, round, subject, &vote, excuse, now);
        let call = V::showCall {
            round,
            subject: word(subject),
            vote: vote_words(&vote),
            excuse,
        };
        self.verdict("show", &call, expected);
    }

    /// What may follow a ruling: verdicts shown late, silence punished.
    fn follow(&mut self, at: usize, draw: &Draw) {
        for n in 0..VALIDATORS {
            match draw.b % 3 {
                0 => self.show(at, n, draw.twist.is_multiple_of(4)),
                1 => {
                    self.pass(ANSWER);
                    self.punish_silence(at, n);
                }
                _ => {}
            }
        }
    }

    fn punish(&mut self, draw: &Draw) {
        let round = self.model.rounds.latest().saturating_sub(draw.n % 3);
        match draw.twist % 3 {
            0 => self.punish_reveal(round, draw.b),
            1 => self.punish_ballot(round, draw.b),
            _ => {
                if let Some(at) = draw.a.checked_rem(self.jobs.len()) {
                    self.punish_silence(at, draw.b);
                }
            }
        }
    }

    fn punish_reveal(&mut self, round: u64, n: usize) {
        let (who_, now) = (validator(n), self.now);
        let (verdict, mut market) = self.model.market();
        let expected = verdict.punish_reveal(&mut market, round, who_, now);
        let call = V::punishRevealCall {
            round,
            validator: evm_address(who_),
        };
        self.verdict("punishReveal", &call, expected);
    }

    fn punish_ballot(&mut self, round: u64, n: usize) {
        let (who_, now) = (validator(n), self.now);
        let (verdict, mut market) = self.model.market();
        let expected = verdict.punish_ballot(&mut market, round, who_, now);
        let call = V::punishBallotCall {
            round,
            validator: evm_address(who_),
        };
        self.verdict("punishBallot", &call, expected);
    }

    fn punish_silence(&mut self, at: usize, n: usize) {
        let (who_, now, round) = (validator(n), self.now, self.round_of(at));
        let job = &self.jobs[at];
        let subject = hash::job_subject(job.router, receipt_leaf(&job.receipt));
        let (verdict, mut market) = self.model.market();
        let expected = verdict.punish_silence(&mut market, round, subject, who_, now);
        let call = V::punishSilenceCall {
            round,
            subject: word(subject),
            validator: evm_address(who_),
        };
        self.verdict("punishSilence", &call, expected);
    }

    fn prove(&mut self, draw: &Draw) {
        let Some(at) = draw.a.checked_rem(self.jobs.len()) else {
            return;
        };
        let now = self.now;
        let first = self.evidence(at, draw.twist);
        if draw.b.is_multiple_of(2) {
            let (verdict, mut market) = self.model.market();
            let expected = verdict.prove_overcharge(&mut market, &first, now);
            let call = V::proveOverchargeCall {
                evidence: evidence_words(&first),
            };
            self.verdict("proveOvercharge", &call, expected);
            return;
        }
        let job = first.receipt.job_id;
        let twin = (0..self.jobs.len())
            .find(|other| *other != at && self.jobs[*other].receipt.job_id == job)
            .unwrap_or(draw.b % self.jobs.len());
        let second = self.evidence(twin, u8::MAX);
        let (verdict, mut market) = self.model.market();
        let expected = verdict.prove_double_post(&mut market, &first, &second, now);
        let call = V::proveDoublePostCall {
            first: evidence_words(&first),
            second: evidence_words(&second),
        };
        self.verdict("proveDoublePost", &call, expected);
    }

    fn promote(&mut self) {
        let router = who("router");
        let now = self.now;
        let expected = self.model.vault.promote(router, now).is_ok();
        let call = P::promoteCall {
            router: evm_address(router),
        };
        let to = self.evm.vault;
        assert_eq!(self.evm.send(router, to, &call).is_ok(), expected);
    }

    fn step(&mut self, draw: &Draw) {
        let round = self.model.rounds.latest();
        let wrong = draw.twist.is_multiple_of(8);
        match draw.kind % 32 {
            0..=4 => self.post(draw),
            5..=8 => self.whole_round(draw),
            9 => self.open(),
            10 => self.reveal(draw.a, wrong),
            11 => self.draw(),
            12 => self.commit(draw.a, round, draw),
            13 => self.unseal(draw.a, round, wrong),
            14 => self.seats(draw),
            15 => self.plant(draw),
            16 if !self.jobs.is_empty() => {
                let at = draw.a % self.jobs.len();
                self.name_plant(self.round_of(at), at, wrong);
            }
            17..=22 => self.rule(draw),
            23 => self.rule_batch(draw),
            24..=25 if !self.jobs.is_empty() => {
                self.show(draw.a % self.jobs.len(), draw.b, wrong);
            }
            26..=27 => self.punish(draw),
            28 => self.prove(draw),
            29 => self.promote(),
            30 => self.pass([1, 5, 40, ANSWER, WINDOW][draw.a % 5]),
            _ => self.pass(1),
        }
        self.compare();
    }

    fn compare(&mut self) {
        self.model.stakes.check_conservation().expect("holds");
        self.compare_rounds();
        self.compare_money();
        let latest = self.model.rounds.latest();
        for at in 0..self.jobs.len().min(6) {
            let at = self.jobs.len() - 1 - at;
            let subject = {
                let job = &self.jobs[at];
                hash::job_subject(job.router, receipt_leaf(&job.receipt))
            };
            let call = V::isReversedCall {
                subject: word(subject),
            };
            let verdict = self.evm.verdict;
            let reversed = self.evm.view(verdict, &call);
            assert_eq!(reversed, self.model.verdict.is_reversed(subject));
            let round = self.round_of(at);
            let ruling = self.model.verdict.ruling(round, subject).copied();
            let batch = hash::batch_subject(self.jobs[at].router, self.jobs[at].post);
            let ruled = [
                (subject, ruling),
                (batch, self.model.verdict.ruling(round, batch).copied()),
            ];
            for (subject, ruling) in ruled {
                let call = V::seenOfCall {
                    round,
                    subject: word(subject),
                };
                let told = self.evm.view(verdict, &call);
                let held = ruling.map(|ruling| (ruling.seen, ruling.combined));
                let told = (told.seen, told.combined);
                assert_eq!(told, held.unwrap_or_default(), "seen");
            }
            let call = R::panelCall {
                round: latest,
                subject: word(subject),
            };
            let rounds = self.evm.rounds;
            let panel = self.evm.view(rounds, &call);
            let places: Vec<_> = panel.places.iter().map(|at| at.to::<usize>()).collect();
            assert_eq!(places, self.model.rounds.panel(latest, subject), "panel");
        }
    }

    fn compare_rounds(&mut self) {
        let to = self.evm.rounds;
        let latest = self.model.rounds.latest();
        assert_eq!(self.evm.view(to, &R::latestCall {}), latest);
        let validators = self.evm.view(to, &R::validatorsCall {});
        let validators: Vec<_> = validators.into_iter().map(address).collect();
        assert_eq!(validators, self.model.rounds.validators());
        let keys = self.evm.view(to, &R::validatorKeysCall {}).into_iter();
        let keys: Vec<_> = keys
            .map(|key| (address(key.validator), (digest(key.x), digest(key.y))))
            .collect();
        assert_eq!(keys, self.model.rounds.validator_keys());
        let outstanding = self.evm.view(to, &R::outstandingCall {});
        assert_eq!(u64::from(outstanding), self.model.rounds.outstanding());
        for round in latest.saturating_sub(2)..=latest + 1 {
            let phase = self.evm.view(to, &R::phaseCall { round });
            assert_eq!(phase, self.model.rounds.phase(round, self.now).code());
            let Some(expected) = self.model.rounds.round(round) else {
                continue;
            };
            let found = self.evm.view(to, &R::roundOfCall { round });
            assert_eq!(digest(found.beacon), expected.beacon, "beacon");
            let mask = |set: &std::collections::BTreeSet<usize>| -> u64 {
                set.iter().map(|place| 1u64 << place).sum()
            };
            assert_eq!(found.revealed, mask(&expected.revealed), "revealed");
            assert_eq!(found.committed, mask(&expected.committed), "committed");
            assert_eq!(found.unsealed, mask(&expected.unsealed), "unsealed");
        }
    }

    fn compare_money(&mut self) {
        let mut held: Vec<_> = (0..VALIDATORS)
            .map(|n| (Role::Validator, validator(n)))
            .collect();
        held.extend((0..2).map(|n| (Role::Provider, provider(n).address())));
        held.extend(["router", "second router"].map(|label| (Role::Router, who(label))));
        let to = self.evm.stakes;
        for (role, who_) in held {
            let call = S::slashableCall {
                role: role.code(),
                who: evm_address(who_),
            };
            let found = self.evm.view(to, &call);
            assert_eq!(found, self.model.stakes.slashable(role, who_).units());
            let call = S::owedCall {
                who: evm_address(who_),
            };
            let owed = self.evm.view(to, &call);
            assert_eq!(owed, self.model.stakes.owed(who_).units(), "owed");
        }
        for n in 0..2 {
            let provider = provider(n).address();
            let call = Reputation::standingOfCall {
                provider: evm_address(provider),
            };
            let reputation = self.evm.reputation;
            let found = self.evm.view(reputation, &call);
            let expected = self.model.verdict.record(provider).now();
            let expected = (expected.reputation, expected.verified);
            assert_eq!((found.reputation, found.verified), expected, "standing");
        }
        for router in ["router", "second router"] {
            let call = P::pendingOfCall {
                router: evm_address(who(router)),
            };
            let vault = self.evm.vault;
            let found = digest(self.evm.view(vault, &call).payRoot);
            let pending = self.model.vault.totals(who(router)).pending;
            assert_eq!(found, pending.map_or(Digest::ZERO, |p| p.pay_root));
        }
    }
}

fn run(mut runner: TestRunner) -> BTreeMap<&'static str, usize> {
    let base = Evm::deploy();
    let succeeded: RefCell<BTreeMap<&'static str, usize>> = RefCell::default();
    let outcome = runner.run(&(1..=VALIDATORS, draws()), |(validators, draws)| {
        let mut world = World::new(&base, validators);
        for draw in &draws {
            world.step(draw);
        }
        for (name, count) in world.succeeded {
            *succeeded.borrow_mut().entry(name).or_default() += count;
        }
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
    succeeded.into_inner()
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

#[test]
fn model_and_bytecode_of_audits_agree_on_fresh_random_calls() {
    run(TestRunner::new(config(8)));
}

#[test]
fn model_and_bytecode_of_audits_agree_and_every_call_has_succeeded() {
    // Always the same calls, so that the count below is no matter of luck.
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let succeeded = run(TestRunner::new_with_rng(config(40), rng));
    let all = [
        "join",
        "quit",
        "renew",
        "unseat",
        "enrol",
        "strike",
        "open",
        "reveal",
        "draw",
        "commitBallot",
        "unseal",
        "plant",
        "namePlant",
        "rule",
        "ruleBatch",
        "show",
        "punishReveal",
        "punishBallot",
        "punishSilence",
        "proveOvercharge",
        "proveDoublePost",
    ];
    for name in all {
        let count = succeeded.get(name).copied().unwrap_or_default();
        assert!(count >= 1, "{name} succeeded {count} times: {succeeded:?}");
    }
}
