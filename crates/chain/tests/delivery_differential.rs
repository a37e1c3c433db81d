//! The executable model of claims of non-delivery against the real bytecode: the same random calls, the same outcome.
//!
//! After each call both must agree on success or on the exact bytes of the revert, on the events of claims and verdict, and on claims,
//! deposits, stakes, awards and reputation.
#![allow(missing_docs)]

mod machine;

use std::cell::RefCell;
use std::collections::BTreeMap;

use alloy_primitives::{Bytes, FixedBytes, LogData, U256};
use alloy_sol_types::{SolCall, SolConstructor, SolError, SolEvent};
use machine::{
    Machine, Reverted, bps, contract_stake_params, contract_times, contract_vault_params,
};
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use stoa_chain::bindings::{
    AuditRounds as R, DeliveryClaims as C, PanelVerdict as V, PaymentVault as P, ProviderRegistry,
    Reputation, StakeRegistry as S, StoaToken, TestDollar,
};
use stoa_chain::{address, evm_address, evm_digest, explain_revert};
use stoa_crypto::{
    Domain, SecretKey, acceptance_digest, receipt_bytes, receipt_digest, ticket_bytes,
    ticket_digest,
};
use stoa_ledger::audit::delivery::{
    ClaimError, ClaimEvent, ClaimParams, ClaimState, Decided, DeliveryClaims,
};
use stoa_ledger::audit::rounds::{AuditRounds, RoundsParams};
use stoa_ledger::audit::standing::Sampling;
use stoa_ledger::audit::verdict::{
    Market, PanelVerdict, VerdictError, VerdictEvent, VerdictParams,
};
use stoa_ledger::fees::{FeeSchedule, SlashShares};
use stoa_ledger::stake::{Role, StakeError, StakeParams, StakeRegistry};
use stoa_ledger::vault::{Vault, VaultParams};
use stoa_types::*;

const START: u64 = 1_800_000_000;
const CHAIN: u64 = 1;
const DAY: u64 = 86_400;
const UNBONDING: u64 = 7 * DAY;
const STAKE: u128 = 20_000 * 10u128.pow(18);
const DEPOSIT: u128 = 10 * 10u128.pow(18);
const PROVIDERS: [&str; 2] = ["provider", "second provider"];
const ROUTERS: [&str; 2] = ["router", "second router"];
const CLAIMANTS: [&str; 4] = ["router", "second router", "developer", "anyone"];
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

fn word(value: Digest) -> FixedBytes<32> {
    evm_digest(value)
}

fn vault_params() -> VaultParams {
    VaultParams {
        window: 90,
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
    stakes: Address,
    vault: Address,
    reputation: Address,
    verdict: Address,
    claims: Address,
}

impl Evm {
    fn deploy() -> Self {
        let mut evm = Self {
            machine: Machine::new(),
            stoa: Address::ZERO,
            stakes: Address::ZERO,
            vault: Address::ZERO,
            reputation: Address::ZERO,
            verdict: Address::ZERO,
            claims: Address::ZERO,
        };
        evm.set_block(START, 1);
        let admin = evm_address(who("admin"));
        let dollar = evm.create(&TestDollar::BYTECODE, Vec::new());
        let arguments = StoaToken::constructorCall::new((admin,)).abi_encode();
        evm.stoa = evm.create(&StoaToken::BYTECODE, arguments);
        let registry = evm_address(evm.create(&ProviderRegistry::BYTECODE, Vec::new()));
        let stoa = evm_address(evm.stoa);
        let stakes = S::constructorCall::new((
            stoa,
            registry,
            contract_stake_params(&stake_params()),
            admin,
        ));
        evm.stakes = evm.create(&S::BYTECODE, stakes.abi_encode());
        let dollar = evm_address(dollar);
        let vault = P::constructorCall::new((
            dollar,
            registry,
            contract_vault_params(&vault_params()),
            admin,
        ));
        evm.vault = evm.create(&P::BYTECODE, vault.abi_encode());
        evm.judges();
        evm.appoint();
        evm
    }

    /// Rounds, reputation, verdict and claims; verdict and claims name each other.
    fn judges(&mut self) {
        let admin = evm_address(who("admin"));
        let (stakes, vault) = (evm_address(self.stakes), evm_address(self.vault));
        let times = contract_times(&TIMES);
        let rounds = R::constructorCall::new((stakes, vault, times, 600, admin));
        let rounds = evm_address(self.create(&R::BYTECODE, rounds.abi_encode()));
        let reputation = Reputation::constructorCall::new((7_000, 50, 2, admin));
        self.reputation = self.create(&Reputation::BYTECODE, reputation.abi_encode());
        // The admin's creations so far: token, token, registry, stakes, vault, rounds, reputation; the verdict is the eighth.
        let claims = admin.create(8);
        let reputation = evm_address(self.reputation);
        let verdict = V::constructorCall::new((rounds, stakes, vault, reputation, 600, claims));
        self.verdict = self.create(&V::BYTECODE, verdict.abi_encode());
        let (stoa, verdict) = (evm_address(self.stoa), evm_address(self.verdict));
        let arguments = C::constructorCall::new((stoa, stakes, verdict, vault, DAY, DAY, DEPOSIT));
        self.claims = self.create(&C::BYTECODE, arguments.abi_encode());
        assert_eq!(self.claims, address(claims));
    }

    fn appoint(&mut self) {
        let (admin, verdict) = (who("admin"), evm_address(self.verdict));
        let (stakes, reputation) = (self.stakes, self.reputation);
        let slasher = S::setSlasherCall {
            newSlasher: verdict,
        };
        self.send(admin, stakes, &slasher).expect("admin");
        let writer = Reputation::setWriterCall { newWriter: verdict };
        self.send(admin, reputation, &writer).expect("admin");
        for label in PROVIDERS.into_iter().chain(CLAIMANTS) {
            let give = StoaToken::transferCall {
                to: evm_address(who(label)),
                value: U256::from(10u128.pow(25)),
            };
            self.send(admin, self.stoa, &give).expect("transfers");
            for spender in [self.stakes, self.claims] {
                let approve = StoaToken::approveCall {
                    spender: evm_address(spender),
                    value: U256::MAX,
                };
                self.send(who(label), self.stoa, &approve)
                    .expect("approves");
            }
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

    /// Sends a transaction; gives the events of claims and verdict, or the revert data.
    fn send(
        &mut self,
        from: Address,
        to: Address,
        call: &impl SolCall,
    ) -> Result<Vec<LogData>, Reverted> {
        let own = [self.verdict, self.claims].map(evm_address);
        let logs = self.machine.send(from, to, call)?.into_iter();
        let own = logs.filter(|log| own.contains(&log.address));
        Ok(own.map(|log| log.data).collect())
    }

    fn view<Q: SolCall>(&mut self, to: Address, call: &Q) -> Q::Return {
        self.machine.view(to, call)
    }

    fn balance(&mut self, of: Address) -> u128 {
        let stoa = self.stoa;
        let call = StoaToken::balanceOfCall {
            account: evm_address(of),
        };
        u128::try_from(self.view(stoa, &call)).expect("within the supply")
    }
}

// ---- the model in the contract's words

fn revert(error: &ClaimError) -> Vec<u8> {
    match error {
        ClaimError::AlreadyClaimed { ticket } => C::AlreadyClaimed {
            ticket: word(*ticket),
        }
        .abi_encode(),
        ClaimError::AcceptedLate {
            accepted_at,
            deadline,
        } => C::AcceptedLate {
            acceptedAt: accepted_at.0,
            deadline: deadline.0,
        }
        .abi_encode(),
        ClaimError::TooEarly { due } => C::TooEarly {
            due: U256::from(*due),
        }
        .abi_encode(),
        ClaimError::TooLate { deadline } => C::TooLate {
            deadline: deadline.0,
        }
        .abi_encode(),
        ClaimError::WrongSigner { signer } => C::WrongSigner {
            signer: evm_address(*signer),
        }
        .abi_encode(),
        ClaimError::WrongState { ticket, state } => C::WrongState {
            ticket: word(*ticket),
            state: state.map_or(0, ClaimState::code),
        }
        .abi_encode(),
        ClaimError::ForeignReceipt => C::ForeignReceipt {}.abi_encode(),
        ClaimError::NotAllowed { caller } => C::NotAllowed {
            caller: evm_address(*caller),
        }
        .abi_encode(),
        ClaimError::Verdict(VerdictError::Stake(StakeError::NotAllowed { caller })) => {
            S::NotAllowed {
                caller: evm_address(*caller),
            }
            .abi_encode()
        }
        other @ ClaimError::Verdict(_) => panic!("{other}"),
    }
}

fn claim_log(event: ClaimEvent) -> LogData {
    let a = evm_address;
    match event {
        ClaimEvent::Claimed {
            ticket,
            provider,
            router,
            claimant,
            job,
            answer_by,
        } => C::Claimed {
            ticket: word(ticket),
            provider: a(provider),
            router: a(router),
            claimant: a(claimant),
            job: FixedBytes(job.0),
            answerBy: answer_by,
        }
        .encode_log_data(),
        ClaimEvent::Answered { ticket, provider } => C::Answered {
            ticket: word(ticket),
            provider: a(provider),
        }
        .encode_log_data(),
        ClaimEvent::Refuted {
            ticket,
            provider,
            router,
            accused,
        } => C::Refuted {
            ticket: word(ticket),
            provider: a(provider),
            router: a(router),
            accused,
        }
        .encode_log_data(),
        ClaimEvent::Punished {
            ticket,
            provider,
            slashed,
        } => C::Punished {
            ticket: word(ticket),
            provider: a(provider),
            slashed,
        }
        .encode_log_data(),
        ClaimEvent::TakenBack { ticket, claimant } => C::TakenBack {
            ticket: word(ticket),
            claimant: a(claimant),
        }
        .encode_log_data(),
    }
}

fn conviction_log(event: &VerdictEvent) -> LogData {
    let VerdictEvent::Convicted {
        fault_id,
        offender,
        kind,
        severity,
    } = event
    else {
        panic!("claims come to convictions alone: {event:?}")
    };
    V::Convicted {
        faultId: word(*fault_id),
        offender: evm_address(*offender),
        kind: *kind,
        severityBps: severity.get(),
    }
    .encode_log_data()
}

// ---- random calls

#[derive(Debug, Clone, Copy)]
struct Draw {
    kind: u8,
    a: usize,
    b: usize,
    wait: u64,
    twist: u8,
}

fn draws() -> impl Strategy<Value = Vec<Draw>> {
    // Mostly minutes, so that claims meet their times; seldom days.
    let wait = prop_oneof![14 => 0..1_800u64, 5 => 80_000..90_000u64, 1 => 0..9 * DAY];
    let draw = (any::<u8>(), 0..64usize, 0..64usize, wait, any::<u8>());
    let draw = draw.prop_map(|(kind, a, b, wait, twist)| Draw {
        kind,
        a,
        b,
        wait,
        twist,
    });
    proptest::collection::vec(draw, 10..60)
}

struct Model {
    rounds: AuditRounds,
    stakes: StakeRegistry,
    vault: Vault,
    verdict: PanelVerdict,
    claims: DeliveryClaims,
}

impl Model {
    fn parts(&mut self) -> (&mut DeliveryClaims, &mut PanelVerdict, Market<'_>) {
        let market = Market {
            rounds: &mut self.rounds,
            stakes: &mut self.stakes,
            vault: &mut self.vault,
        };
        (&mut self.claims, &mut self.verdict, market)
    }
}

fn model(evm: &Evm) -> Model {
    let admin = who("admin");
    let mut stakes = StakeRegistry::new(stake_params(), admin).expect("valid");
    stakes.set_slasher(admin, evm.verdict).expect("admin");
    let verdict = PanelVerdict::new(VerdictParams {
        chain_id: CHAIN,
        vault: evm.vault,
        own: evm.verdict,
        answer: 600,
        sampling: Sampling {
            most: bps(7_000),
            least: bps(50),
            first_jobs: 2,
        },
    });
    let claims = DeliveryClaims::new(ClaimParams {
        domain: Domain {
            chain_id: CHAIN,
            vault: evm.vault,
        },
        claim: DAY,
        answer: DAY,
        deposit: StakeAmount::from_units(DEPOSIT),
    });
    Model {
        rounds: AuditRounds::new(TIMES, admin),
        stakes,
        vault: Vault::new(vault_params(), admin).expect("valid"),
        verdict,
        claims,
    }
}

struct Job {
    ticket: Ticket,
    hash: Digest,
    provider: &'static str,
    router: &'static str,
}

struct World {
    model: Model,
    evm: Evm,
    now: u64,
    number: u64,
    jobs: Vec<Job>,
    /// What each account paid and got in deposits.
    deposits: BTreeMap<Address, i128>,
    before: BTreeMap<Address, u128>,
    succeeded: BTreeMap<&'static str, usize>,
}

impl World {
    fn new(base: &Evm) -> Self {
        let evm = base.fork();
        let mut world = Self {
            model: model(&evm),
            evm,
            now: START,
            number: 10,
            jobs: Vec::new(),
            deposits: BTreeMap::new(),
            before: BTreeMap::new(),
            succeeded: BTreeMap::new(),
        };
        for label in PROVIDERS {
            world.stake(Role::Provider, who(label), STAKE);
        }
        for label in ROUTERS {
            world.stake(Role::Router, who(label), STAKE);
        }
        for label in PROVIDERS.into_iter().chain(CLAIMANTS) {
            let balance = world.evm.balance(who(label));
            world.before.insert(who(label), balance);
        }
        world
    }

    fn step(&mut self, draw: &Draw) {
        self.now += draw.wait;
        self.number += 1;
        self.evm.set_block(self.now, self.number);
        match draw.kind % 16 {
            0..=4 => self.order(draw),
            5..=8 => self.claim(draw),
            9..=10 => self.answer(draw),
            11 => self.punish(draw),
            12 => self.punish_all(),
            13 => self.take_back(draw),
            14 if draw.twist.is_multiple_of(4) => self.unbond(draw),
            14 => self.punish(draw),
            _ if draw.twist.is_multiple_of(8) => self.set_slasher(draw.a.is_multiple_of(2)),
            _ => self.answer(draw),
        }
        self.compare();
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

    fn unbond(&mut self, draw: &Draw) {
        let (role, who) = if draw.b.is_multiple_of(2) {
            (Role::Provider, who(PROVIDERS[draw.a % 2]))
        } else {
            (Role::Router, who(ROUTERS[draw.a % 2]))
        };
        let active = self.model.stakes.stake_of(role, who).active;
        if active.is_zero() {
            return;
        }
        let stakes = &mut self.model.stakes;
        stakes
            .request_unbond(role, who, active, self.now)
            .expect("unbonds");
        let call = S::requestUnbondCall {
            role: role.code(),
            amount: active.units(),
        };
        let to = self.evm.stakes;
        self.evm.send(who, to, &call).expect("unbonds");
    }

    /// The admin names another verdict, or this one again.
    fn set_slasher(&mut self, other: bool) {
        let slasher = if other {
            who("another verdict")
        } else {
            self.evm.verdict
        };
        let admin = who("admin");
        self.model
            .stakes
            .set_slasher(admin, slasher)
            .expect("admin");
        let call = S::setSlasherCall {
            newSlasher: evm_address(slasher),
        };
        let to = self.evm.stakes;
        self.evm.send(admin, to, &call).expect("admin");
    }

    fn order(&mut self, draw: &Draw) {
        let (provider, router) = (PROVIDERS[draw.a % 2], ROUTERS[draw.b % 2]);
        let price = Price::per_million(TokenAmount::from_units(1_000_000));
        let ticket = Ticket {
            job_id: JobId([self.jobs.len() as u8; 32]),
            account: who("developer"),
            router: who(router),
            provider: who(provider),
            model_root: Digest([1; 32]),
            parameters_digest: Digest([2; 32]),
            request_digest: Digest([3; 32]),
            work_digest: Digest([4; 32]),
            input_price: price,
            output_price: price,
            input_units_max: 30,
            output_units_max: 20,
            reserve: TokenAmount::from_units(50),
            fee_version: 1,
            tier: Tier::Exact,
            attempt: u32::from(draw.twist),
            issued_at: Timestamp::from_secs(self.now),
            deadline: Timestamp(self.now * 1_000 + u64::from(draw.twist) * 1_001),
        };
        let domain = Domain {
            chain_id: CHAIN,
            vault: self.evm.vault,
        };
        self.jobs.push(Job {
            hash: ticket_digest(&domain, &ticket),
            ticket,
            provider,
            router,
        });
    }

    /// One of the newest jobs: older ones are past all their times.
    fn job(&self, draw: &Draw) -> Option<usize> {
        let newest = self.jobs.len().min(6);
        (newest != 0).then(|| self.jobs.len() - 1 - draw.a % newest)
    }

    fn claim(&mut self, draw: &Draw) {
        let Some(at) = self.job(draw) else { return };
        let job = &self.jobs[at];
        let claimant = if draw.b.is_multiple_of(3) {
            job.ticket.router
        } else {
            who(CLAIMANTS[draw.b % 4])
        };
        let odd = draw.twist % 16;
        let chain_id = if odd == 1 { CHAIN + 1 } else { CHAIN };
        let vault = self.evm.vault;
        let domain = Domain { chain_id, vault };
        let late = u64::from(odd == 2);
        let accepted_at = Timestamp(job.ticket.deadline.0 * late + late);
        let acceptance = Acceptance {
            ticket: job.hash,
            accepted_at,
        };
        let router = key(if odd == 3 { "anyone" } else { job.router });
        let provider = key(if odd == 4 { "anyone" } else { job.provider });
        let by_router = router.sign(ticket_digest(&domain, &job.ticket));
        let by_provider = provider.sign(acceptance_digest(&domain, &acceptance));
        let expected = self.model.claims.claim(
            claimant,
            (&job.ticket, &by_router),
            (accepted_at, &by_provider),
            self.now,
        );
        let call = C::claimCall {
            ticket: Bytes::from(ticket_bytes(&job.ticket)),
            routerSignature: Bytes::from(by_router.0.to_vec()),
            acceptedAt: accepted_at.0,
            providerSignature: Bytes::from(by_provider.0.to_vec()),
        };
        let to = self.evm.claims;
        let found = self.evm.send(claimant, to, &call);
        if let (Ok(event), Ok(logs)) = (&expected, &found) {
            assert_eq!(&[claim_log(*event)][..], &logs[..], "claim");
            *self.deposits.entry(claimant).or_default() -= DEPOSIT as i128;
        }
        self.note("claim", expected.err().map(|e| revert(&e)), found.err());
    }

    fn decided(
        &mut self,
        name: &'static str,
        from: Address,
        call: &impl SolCall,
        expected: Result<Decided, ClaimError>,
    ) {
        let to = self.evm.claims;
        let found = self.evm.send(from, to, call);
        if let (Ok(decided), Ok(logs)) = (&expected, &found) {
            let mut events = vec![claim_log(decided.event)];
            events.extend(decided.conviction.iter().map(conviction_log));
            assert_eq!(&events, logs, "{name}");
            if let Some(to) = decided.deposit_to {
                *self.deposits.entry(to).or_default() += DEPOSIT as i128;
            }
        }
        let name = match &expected {
            Ok(decided) if decided.conviction.is_some() => match name {
                "answer" => "answer that convicts",
                _ => "punish that slashes",
            },
            _ => name,
        };
        self.note(name, expected.err().map(|e| revert(&e)), found.err());
    }

    fn receipt(&self, at: usize, odd: u8) -> Receipt {
        let t = &self.jobs[at].ticket;
        let zero = Digest::ZERO;
        Receipt {
            version: RECEIPT_VERSION,
            chain_id: if odd == 1 { CHAIN + 1 } else { CHAIN },
            vault: self.evm.vault,
            profile_hash: zero,
            job_id: if odd == 2 { JobId([99; 32]) } else { t.job_id },
            account: t.account,
            router: if odd == 3 { who("anyone") } else { t.router },
            provider: t.provider,
            model_root: t.model_root,
            runtime_digest: zero,
            parameters_digest: t.parameters_digest,
            prompt_root: zero,
            request_digest: t.request_digest,
            output_root: zero,
            response_digest: zero,
            input_units: 3,
            output_units: 2,
            input_price: t.input_price,
            output_price: t.output_price,
            charge: TokenAmount::from_units(5),
            fee_version: 1,
            paid_by: PaidBy::Allotment,
            tier: t.tier,
            evidence_digest: zero,
            ticket_hash: if odd == 4 { zero } else { self.jobs[at].hash },
            attempt: t.attempt,
            segments_root: zero,
            accepted_at: t.issued_at,
            delivered_at: t.deadline,
        }
    }

    fn answer(&mut self, draw: &Draw) {
        let Some(at) = self.job(draw) else { return };
        let receipt = self.receipt(at, draw.twist % 24);
        let job = &self.jobs[at];
        let digest = receipt_digest(&receipt);
        let odd = draw.twist % 24;
        let own = key(if odd == 5 { "anyone" } else { job.provider }).sign(digest);
        let router = key(if odd == 6 { "anyone" } else { job.router }).sign(digest);
        let router = draw.b.is_multiple_of(2).then_some(router);
        let (ticket, now) = (job.hash, self.now);
        let (claims, verdict, mut market) = self.model.parts();
        let expected = claims.answer(
            (verdict, &mut market),
            ticket,
            &receipt,
            (&own, router.as_ref()),
            now,
        );
        let call = C::answerCall {
            ticket: word(ticket),
            receipt: Bytes::from(receipt_bytes(&receipt)),
            providerSignature: Bytes::from(own.0.to_vec()),
            routerSignature: router.map_or_else(Bytes::new, |s| Bytes::from(s.0.to_vec())),
        };
        self.decided("answer", who("anyone"), &call, expected);
    }

    fn punish(&mut self, draw: &Draw) {
        if let Some(at) = self.job(draw) {
            self.punish_at(at);
        }
    }

    fn punish_at(&mut self, at: usize) {
        let (ticket, now) = (self.jobs[at].hash, self.now);
        let (claims, verdict, mut market) = self.model.parts();
        let expected = claims.punish((verdict, &mut market), ticket, now);
        let call = C::punishCall {
            ticket: word(ticket),
        };
        self.decided("punish", who("anyone"), &call, expected);
    }

    /// All of the newest, whose deadlines lie close together.
    fn punish_all(&mut self) {
        for at in self.jobs.len().saturating_sub(6)..self.jobs.len() {
            self.punish_at(at);
        }
    }

    fn take_back(&mut self, draw: &Draw) {
        let Some(at) = self.job(draw) else { return };
        let ticket = self.jobs[at].hash;
        let claimant = self.model.claims.claim_on(ticket).map(|c| c.claimant);
        let caller = match claimant {
            Some(claimant) if !draw.twist.is_multiple_of(8) => claimant,
            _ => who("anyone"),
        };
        let expected = self.model.claims.take_back(caller, ticket, self.now);
        let call = C::takeBackCall {
            ticket: word(ticket),
        };
        self.decided("takeBack", caller, &call, expected);
    }

    fn compare(&mut self) {
        let claims = self.evm.claims;
        for at in 0..self.jobs.len() {
            let ticket = self.jobs[at].hash;
            let call = C::claimOfCall {
                ticket: word(ticket),
            };
            let found = self.evm.view(claims, &call);
            let expected = self.model.claims.claim_on(ticket);
            let state = expected.map_or(0, |claim| claim.state.code());
            assert_eq!(found.state, state, "state of a claim");
            let at = expected.map_or(0, |claim| claim.claimed_at);
            assert_eq!(found.claimedAt, at, "time of a claim");
        }
        let held = self.evm.balance(claims);
        assert_eq!(held, self.model.claims.held().units(), "deposits");
        for (account, before) in self.before.clone() {
            let moved = self.deposits.get(&account).copied().unwrap_or_default();
            let now = i128::try_from(self.evm.balance(account)).expect("within the supply");
            let before = i128::try_from(before).expect("within the supply");
            assert_eq!(now, before + moved, "what deposits moved");
        }
        self.compare_stakes();
    }

    fn compare_stakes(&mut self) {
        let to = self.evm.stakes;
        let providers = PROVIDERS.map(|label| (Role::Provider, who(label)));
        let routers = ROUTERS.map(|label| (Role::Router, who(label)));
        for (role, staker) in providers.into_iter().chain(routers) {
            let call = S::slashableCall {
                role: role.code(),
                who: evm_address(staker),
            };
            let found = self.evm.view(to, &call);
            assert_eq!(found, self.model.stakes.slashable(role, staker).units());
        }
        for label in ["developer", "provider", "second provider"] {
            let call = S::owedCall {
                who: evm_address(who(label)),
            };
            let owed = self.evm.view(to, &call);
            assert_eq!(owed, self.model.stakes.owed(who(label)).units(), "owed");
        }
        for label in PROVIDERS {
            let call = Reputation::standingOfCall {
                provider: evm_address(who(label)),
            };
            let reputation = self.evm.reputation;
            let found = self.evm.view(reputation, &call);
            let expected = self.model.verdict.record(who(label)).now();
            let expected = (expected.reputation, expected.verified);
            assert_eq!((found.reputation, found.verified), expected, "standing");
        }
        self.model.stakes.check_conservation().expect("conserved");
    }
}

fn run(mut runner: TestRunner) -> BTreeMap<&'static str, usize> {
    let base = Evm::deploy();
    let succeeded: RefCell<BTreeMap<&'static str, usize>> = RefCell::default();
    let outcome = runner.run(&draws(), |draws| {
        let mut world = World::new(&base);
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
fn model_and_bytecode_of_claims_agree_on_fresh_random_calls() {
    run(TestRunner::new(config(16)));
}

#[test]
fn model_and_bytecode_of_claims_agree_and_every_call_has_succeeded() {
    // Always the same calls, so that the count below is no matter of luck.
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let succeeded = run(TestRunner::new_with_rng(config(64), rng));
    let all = [
        "claim",
        "answer",
        "answer that convicts",
        "punish",
        "punish that slashes",
        "takeBack",
    ];
    for name in all {
        let count = succeeded.get(name).copied().unwrap_or_default();
        assert!(count >= 1, "{name} succeeded {count} times: {succeeded:?}");
    }
}
