//! The executable model of the stake registry against the real bytecode: the same random calls, the same outcome.
//!
//! After each call both must agree on success or on the named error, on every event, and on everything that the views say;
//! and stake must be conserved, in the model and in the token. The same for the vault is in `differential`.
#![allow(missing_docs)]

mod machine;

use std::cell::RefCell;
use std::collections::BTreeMap;

use alloy_primitives::{Address as EvmAddress, Bytes, FixedBytes, Log, LogData, U256};
use alloy_sol_types::{SolCall, SolConstructor, SolError, SolEvent};
use machine::{Machine, Reverted, bps, contract_stake_params};
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use stoa_chain::bindings::{ProviderRegistry, StakeRegistry as S, StoaToken};
use stoa_chain::{evm_address, evm_digest, explain_revert};
use stoa_crypto::keccak256;
use stoa_ledger::fees::SlashShares;
use stoa_ledger::stake::{
    MAX_DEVELOPERS, Role, SlashOrder, StakeError, StakeEvent, StakeParams, StakeRegistry,
};
use stoa_types::{Address, Digest, StakeAmount, TokenAmount};

const START: u64 = 1_800_000_000;
const UNBONDING: u64 = 604_800;
const ACCOUNTS: usize = 4;
const FAULTS: u8 = 24;
const ROLES: [Role; 3] = [Role::Provider, Role::Router, Role::Validator];

fn who(kind: &str, number: usize) -> Address {
    let hash = keccak256(format!("{kind} {number}"));
    Address(hash.0[..20].try_into().expect("20 of 32"))
}

fn account(number: u8) -> Address {
    who("account", usize::from(number) % ACCOUNTS)
}

fn admin() -> Address {
    who("admin", 0)
}

fn slasher() -> Address {
    who("slasher", 0)
}

fn stranger() -> Address {
    who("stranger", 0)
}

fn role(number: u8) -> Role {
    ROLES[usize::from(number) % ROLES.len()]
}

fn fault(number: u8) -> Digest {
    keccak256([number % FAULTS])
}

/// Numbers that leave a remainder wherever something is divided.
fn params() -> StakeParams {
    StakeParams {
        unbonding: UNBONDING,
        exposure: 150,
        floors: [50_000_001, 100_000_003, 75_000_007].map(TokenAmount::from_units),
        job_max: TokenAmount::from_units(409_601),
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
    token: Address,
    providers: Address,
    stakes: Address,
}

impl Evm {
    /// Token, both registries, and accounts with tokens, approvals and a registration.
    fn deploy() -> Self {
        let mut evm = Self {
            machine: Machine::new(),
            token: Address::ZERO,
            providers: Address::ZERO,
            stakes: Address::ZERO,
        };
        let arguments = StoaToken::constructorCall::new((evm_address(admin()),)).abi_encode();
        evm.token = evm.create(&StoaToken::BYTECODE, arguments);
        evm.providers = evm.create(&ProviderRegistry::BYTECODE, Vec::new());
        let arguments = S::constructorCall::new((
            evm_address(evm.token),
            evm_address(evm.providers),
            contract_stake_params(&params()),
            evm_address(admin()),
        ));
        evm.stakes = evm.create(&S::BYTECODE, arguments.abi_encode());
        let (token, providers, stakes) = (evm.token, evm.providers, evm.stakes);
        for number in 0..ACCOUNTS {
            let who = who("account", number);
            let give = StoaToken::transferCall {
                to: evm_address(who),
                value: U256::from(10u128.pow(26)),
            };
            evm.send(admin(), token, &give).expect("transfers");
            let approve = StoaToken::approveCall {
                spender: evm_address(stakes),
                value: U256::MAX,
            };
            evm.send(who, token, &approve).expect("approves");
            let register = ProviderRegistry::registerCall {
                endpointId: FixedBytes([1; 32]),
                endpointProof: Bytes::from(vec![0; 64]),
                region: FixedBytes(*b"XA"),
                payee: evm_address(who),
            };
            evm.send(who, providers, &register).expect("registers");
        }
        evm
    }

    /// The same state in another EVM.
    fn fork(&self) -> Self {
        Self {
            machine: self.machine.fork(),
            ..*self
        }
    }

    fn set_time(&mut self, seconds: u64) {
        self.machine.set_time(seconds);
    }

    fn create(&mut self, code: &[u8], arguments: Vec<u8>) -> Address {
        self.machine.create(admin(), code, arguments)
    }

    /// Sends a transaction; gives the registry's events, or the revert data.
    fn send(
        &mut self,
        from: Address,
        to: Address,
        call: &impl SolCall,
    ) -> Result<Vec<LogData>, Reverted> {
        let own = |log: &Log| log.address == evm_address(self.stakes);
        let logs = self.machine.send(from, to, call)?.into_iter();
        Ok(logs.filter(own).map(|log| log.data).collect())
    }

    fn view<C: SolCall>(&mut self, to: Address, call: &C) -> C::Return {
        self.machine.view(to, call)
    }
}

// ---- the model in the contract's words

fn event(event: &StakeEvent) -> LogData {
    match *event {
        StakeEvent::Staked {
            role,
            who,
            amount,
            active,
        } => S::Staked {
            role: role.code(),
            who: evm_address(who),
            amount: amount.units(),
            active: active.units(),
        }
        .encode_log_data(),
        StakeEvent::UnbondRequested {
            role,
            who,
            amount,
            withdrawable_at,
        } => S::UnbondRequested {
            role: role.code(),
            who: evm_address(who),
            amount: amount.units(),
            withdrawableAt: withdrawable_at,
        }
        .encode_log_data(),
        StakeEvent::StakeWithdrawn { role, who, amount } => S::StakeWithdrawn {
            role: role.code(),
            who: evm_address(who),
            amount: amount.units(),
        }
        .encode_log_data(),
        StakeEvent::AwardsCollected { who, amount } => S::AwardsCollected {
            who: evm_address(who),
            amount: amount.units(),
        }
        .encode_log_data(),
        StakeEvent::Awarded {
            fault_id,
            who,
            amount,
        } => S::Awarded {
            faultId: evm_digest(fault_id),
            who: evm_address(who),
            amount: amount.units(),
        }
        .encode_log_data(),
        StakeEvent::Slashed {
            fault_id,
            offender,
            role,
            severity,
            sigma,
            developer,
            challenger,
            burned,
        } => S::Slashed {
            faultId: evm_digest(fault_id),
            offender: evm_address(offender),
            role: role.code(),
            severityBps: severity.get(),
            sigma: sigma.units(),
            developer: developer.units(),
            challenger: challenger.units(),
            burned: burned.units(),
        }
        .encode_log_data(),
    }
}

/// Exactly the bytes that the contract reverts with; `None` for what no call here can reach.
fn revert(error: &StakeError) -> Option<Vec<u8>> {
    Some(match *error {
        StakeError::ZeroAmount => S::ZeroAmount {}.abi_encode(),
        StakeError::ZeroParameter => S::ZeroParameter {}.abi_encode(),
        StakeError::NotAllowed { caller } => S::NotAllowed {
            caller: evm_address(caller),
        }
        .abi_encode(),
        StakeError::StakeTooSmall { wanted, active } => S::StakeTooSmall {
            wanted: wanted.units(),
            active: active.units(),
        }
        .abi_encode(),
        StakeError::NothingUnbonding => S::NothingUnbonding {}.abi_encode(),
        StakeError::StillUnbonding { withdrawable_at } => S::StillUnbonding {
            withdrawableAt: withdrawable_at,
        }
        .abi_encode(),
        StakeError::AlreadySlashed { fault_id } => S::AlreadySlashed {
            faultId: evm_digest(fault_id),
        }
        .abi_encode(),
        StakeError::BadSeverity => S::BadSeverity { severityBps: 0 }.abi_encode(),
        StakeError::TooManyDevelopers { count, max } => S::TooManyDevelopers {
            count: U256::from(count),
            max: U256::from(max),
        }
        .abi_encode(),
        StakeError::NothingOwed { who } => S::NothingOwed {
            who: evm_address(who),
        }
        .abi_encode(),
        StakeError::TooLarge | StakeError::Fee(_) => return None,
    })
}

// ---- random calls

/// One random call before it is made concrete by what the model holds.
#[derive(Debug, Clone, Copy)]
struct Draw {
    kind: u8,
    a: u8,
    b: u8,
    n: u64,
    twist: u8,
}

fn draws() -> impl Strategy<Value = Vec<Draw>> {
    let draw = (
        any::<u8>(),
        any::<u8>(),
        any::<u8>(),
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
    proptest::collection::vec(draw, 1..80)
}

/// An amount near the edges of `have`, or any.
fn near(have: StakeAmount, draw: &Draw) -> StakeAmount {
    let have = have.units();
    StakeAmount::from_units(match draw.twist % 16 {
        0 => 0,
        1 => have + 1,
        2..=5 => have,
        6..=11 => have / 3,
        _ => u128::from(draw.n % 1_000),
    })
}

type Expected = Result<Vec<StakeEvent>, StakeError>;
type Found = Result<Vec<LogData>, Reverted>;

struct World {
    model: StakeRegistry,
    evm: Evm,
    now: u64,
    /// Calls that succeeded, by name: a test that only ever fails proves little.
    succeeded: BTreeMap<&'static str, usize>,
}

impl World {
    fn new(base: &Evm) -> Self {
        let mut world = Self {
            model: StakeRegistry::new(params(), admin()).expect("the parameters are valid"),
            evm: base.fork(),
            now: START,
            succeeded: BTreeMap::new(),
        };
        world.evm.set_time(START);
        world.set_slasher(admin(), slasher());
        for (number, role) in (0u8..).zip([Role::Provider, Role::Router, Role::Provider]) {
            let amount = StakeAmount::from_units(20_000 * 10u128.pow(18) + u128::from(number));
            world.stake(role, account(number), amount);
        }
        world
    }

    fn step(&mut self, draw: &Draw) {
        self.evm.set_time(self.now);
        let (role, who) = (role(draw.b), account(draw.a));
        match draw.kind % 16 {
            0..=2 => {
                let amount = match draw.twist % 8 {
                    0 => 0,
                    1..=3 => u128::from(draw.n % 10_000),
                    _ => u128::from(draw.n) * 997,
                };
                self.stake(role, who, StakeAmount::from_units(amount));
            }
            3..=4 => self.unbond(role, who, draw),
            5 if draw.n.is_multiple_of(4) => self.withdraw(role, who),
            5 => self.withdraw_what_unbonds(draw),
            6..=9 => self.slash(draw),
            10 => self.collect(who),
            11 => self.set_price(draw),
            12 => self.set_loadout(who, draw),
            13 => self.refused_by_the_contract_alone(draw),
            14 if draw.a.is_multiple_of(4) => self.set_slasher(stranger(), who),
            _ => {
                let steps = [1, 3_600, UNBONDING - 1, UNBONDING, UNBONDING + 1];
                self.now += steps[usize::from(draw.a) % steps.len()];
                return;
            }
        }
        self.compare_views();
        self.model.check_conservation().expect("the equation holds");
    }

    fn call(&mut self, from: Address, call: &impl SolCall) -> Found {
        let stakes = self.evm.stakes;
        self.evm.send(from, stakes, call)
    }

    fn compare(&mut self, name: &'static str, expected: &Expected, found: &Found) {
        match (expected, found) {
            (Ok(events), Ok(logs)) => {
                let events: Vec<LogData> = events.iter().map(event).collect();
                assert_eq!(&events, logs, "{name}");
                *self.succeeded.entry(name).or_default() += 1;
            }
            (Err(error), Err(data)) => assert_eq!(
                revert(error).as_ref(),
                Some(data),
                "{name}: the model says {error}, the contract {}",
                explain_revert(data)
            ),
            _ => panic!("{name}: the model says {expected:?}, the contract {found:?}"),
        }
    }

    fn stake(&mut self, role: Role, who: Address, amount: StakeAmount) {
        let expected = self.model.stake(role, who, amount);
        let call = S::stakeCall {
            role: role.code(),
            amount: amount.units(),
        };
        let found = self.call(who, &call);
        self.compare("stake", &expected, &found);
    }

    fn unbond(&mut self, role: Role, who: Address, draw: &Draw) {
        let amount = near(self.model.stake_of(role, who).active, draw);
        let expected = self.model.request_unbond(role, who, amount, self.now);
        let call = S::requestUnbondCall {
            role: role.code(),
            amount: amount.units(),
        };
        let found = self.call(who, &call);
        self.compare("requestUnbond", &expected, &found);
    }

    fn withdraw(&mut self, role: Role, who: Address) {
        let expected = self.model.withdraw(role, who, self.now);
        let found = self.call(who, &S::withdrawCall { role: role.code() });
        self.compare("withdraw", &expected, &found);
    }

    /// The next stake that unbonds, at its time or a second before.
    fn withdraw_what_unbonds(&mut self, draw: &Draw) {
        let all = (0..ACCOUNTS as u8).flat_map(|n| ROLES.map(|role| (role, account(n))));
        let unbonds = |(role, who)| !self.model.stake_of(role, who).unbonding.is_zero();
        let Some((role, who)) = all.into_iter().find(|one| unbonds(*one)) else {
            return;
        };
        let due = self.model.stake_of(role, who).withdrawable_at;
        self.now = self.now.max(due - u64::from(draw.twist.is_multiple_of(4)));
        self.evm.set_time(self.now);
        self.withdraw(role, who);
    }

    fn slash(&mut self, draw: &Draw) {
        let caller = match draw.twist % 16 {
            0 => stranger(),
            1 => admin(),
            _ => slasher(),
        };
        let severity = match draw.n % 8 {
            0 => 0,
            1 => 10_000,
            2 => 1,
            n => u16::try_from((draw.n >> 8) % 10_000).expect("below 10,000") / n as u16,
        };
        let order = SlashOrder {
            fault_id: fault((draw.n >> 24) as u8),
            offender: account(draw.a),
            role: role(draw.b),
            severity: bps(severity),
            harmed: harmed(draw),
            challenger: if draw.twist.is_multiple_of(5) {
                Address::ZERO
            } else {
                account(draw.twist)
            },
        };
        let expected = self.model.slash(caller, &order);
        let found = self.call(caller, &slash_call(&order));
        self.compare("slash", &expected, &found);
    }

    fn collect(&mut self, who: Address) {
        let expected = self.model.collect(who);
        let call = S::collectCall {
            who: evm_address(who),
        };
        let found = self.call(stranger(), &call);
        self.compare("collect", &expected, &found);
    }

    /// Calls of the admin have events that the model does not tell.
    fn administer(
        &mut self,
        name: &'static str,
        expected: Result<(), StakeError>,
        found: Found,
        event: LogData,
    ) {
        if expected.is_ok() {
            assert_eq!(found, Ok(vec![event]), "{name}");
            *self.succeeded.entry(name).or_default() += 1;
        } else {
            self.compare(name, &expected.map(|()| Vec::new()), &found);
        }
    }

    fn set_slasher(&mut self, caller: Address, slasher: Address) {
        let expected = self.model.set_slasher(caller, slasher);
        let slasher = evm_address(slasher);
        let found = self.call(
            caller,
            &S::setSlasherCall {
                newSlasher: slasher,
            },
        );
        self.administer(
            "setSlasher",
            expected,
            found,
            S::SlasherSet { slasher }.encode_log_data(),
        );
    }

    fn set_price(&mut self, draw: &Draw) {
        let caller = if draw.a.is_multiple_of(4) {
            stranger()
        } else {
            admin()
        };
        let price = match draw.twist % 4 {
            0 => u128::from(draw.n % 3),
            _ => u128::from(draw.n % 1_000_003),
        };
        let expected = self
            .model
            .set_stake_price(caller, TokenAmount::from_units(price));
        let found = self.call(caller, &S::setStakePriceCall { stakePrice: price });
        self.administer(
            "setStakePrice",
            expected,
            found,
            S::StakePriceSet { stakePrice: price }.encode_log_data(),
        );
    }

    /// The loadout stands in the provider registry; the model is told what follows from it.
    fn set_loadout(&mut self, who: Address, draw: &Draw) {
        let offers: Vec<ProviderRegistry::Offer> = (0..draw.twist % 4)
            .map(|at| ProviderRegistry::Offer {
                modelRoot: FixedBytes([at; 32]),
                inputPrice: 1,
                outputPrice: u128::from((draw.n % 9_999_991) >> at),
                tps: (draw.n >> 32) as u32 >> at,
                tier: 2,
                name: "stoa-tiny".to_owned(),
            })
            .collect();
        let value = offers
            .iter()
            .map(|offer| u128::from(offer.tps) * offer.outputPrice);
        self.model.set_throughput(who, value.sum());
        let providers = self.evm.providers;
        self.evm
            .send(who, providers, &ProviderRegistry::setLoadoutCall { offers })
            .expect("registered");
        *self.succeeded.entry("setLoadout").or_default() += 1;
    }

    /// What the model's types cannot say: roles that do not exist, severities above one, lists of different length.
    fn refused_by_the_contract_alone(&mut self, draw: &Draw) {
        let order = SlashOrder {
            fault_id: fault(draw.b),
            offender: account(draw.a),
            role: role(draw.b),
            severity: bps(1),
            harmed: vec![(account(draw.b), TokenAmount::from_units(1))],
            challenger: Address::ZERO,
        };
        let slashed = self.model.is_slashed(order.fault_id);
        let number = if draw.twist.is_multiple_of(2) { 0 } else { 4 };
        let unknown = S::UnknownRole { role: number }.abi_encode();
        let from = account(draw.a);
        let stake = S::stakeCall {
            role: number,
            amount: 1,
        };
        assert_eq!(self.call(from, &stake), Err(unknown.clone()));
        let unbond = S::requestUnbondCall {
            role: number,
            amount: 1,
        };
        assert_eq!(self.call(from, &unbond), Err(unknown.clone()));
        let withdraw = S::withdrawCall { role: number };
        assert_eq!(self.call(from, &withdraw), Err(unknown.clone()));
        let mut wrong = slash_call(&order);
        wrong.role = number;
        assert_eq!(self.call(slasher(), &wrong), Err(unknown));
        if slashed {
            return;
        }
        let mut wrong = slash_call(&order);
        wrong.severityBps = 10_001;
        let severe = S::BadSeverity {
            severityBps: 10_001,
        };
        assert_eq!(self.call(slasher(), &wrong), Err(severe.abi_encode()));
        let mut wrong = slash_call(&order);
        wrong.charges.push(1);
        let mismatch = S::LengthMismatch {
            developers: U256::from(1),
            charges: U256::from(2),
        };
        assert_eq!(self.call(slasher(), &wrong), Err(mismatch.abi_encode()));
    }

    fn compare_views(&mut self) {
        let stakes = self.evm.stakes;
        let mut held = StakeAmount::ZERO;
        let add = |sum: StakeAmount, more| sum.checked_add(more).expect("part of the supply");
        for number in 0..ACCOUNTS {
            let who = who("account", number);
            for role in ROLES {
                held = add(held, self.model.slashable(role, who));
                self.compare_stake(role, who);
            }
            let call = S::owedCall {
                who: evm_address(who),
            };
            let owed = self.model.owed(who);
            assert_eq!(self.evm.view(stakes, &call), owed.units(), "owed");
            held = add(held, owed);
        }
        for number in 0..FAULTS {
            let call = S::isSlashedCall {
                faultId: evm_digest(fault(number)),
            };
            let slashed = self.model.is_slashed(fault(number));
            assert_eq!(self.evm.view(stakes, &call), slashed, "isSlashed");
        }
        let zero = S::owedCall {
            who: EvmAddress::ZERO,
        };
        assert_eq!(self.evm.view(stakes, &zero), 0, "nothing is owed to nobody");
        let token = self.evm.token;
        let balance = StoaToken::balanceOfCall {
            account: evm_address(stakes),
        };
        assert_eq!(
            self.evm.view(token, &balance),
            U256::from(held.units()),
            "the registry holds what it owes"
        );
        let supply = 10u128.pow(27) - self.model.accounts().burned.units();
        assert_eq!(
            self.evm.view(token, &StoaToken::totalSupplyCall {}),
            U256::from(supply),
            "what is burned is gone"
        );
    }

    fn compare_stake(&mut self, role: Role, who: Address) {
        let stakes = self.evm.stakes;
        let (code, account) = (role.code(), evm_address(who));
        let found = self.evm.view(
            stakes,
            &S::stakeOfCall {
                role: code,
                who: account,
            },
        );
        let held = self.model.stake_of(role, who);
        assert_eq!(
            (found.active, found.unbonding, found.withdrawableAt),
            (
                held.active.units(),
                held.unbonding.units(),
                held.withdrawable_at
            )
        );
        let slashable = S::slashableCall {
            role: code,
            who: account,
        };
        assert_eq!(
            self.evm.view(stakes, &slashable),
            self.model.slashable(role, who).units()
        );
        let minimum = S::minimumCall {
            role: code,
            who: account,
        };
        let expected = self.model.minimum(role, who).expect("fits");
        assert_eq!(
            self.evm.view(stakes, &minimum),
            U256::from(expected.units())
        );
        let active = S::isActiveCall {
            role: code,
            who: account,
        };
        let expected = self.model.is_active(role, who).expect("fits");
        assert_eq!(self.evm.view(stakes, &active), expected, "isActive");
    }
}

/// Nobody, somebody, several, the same one twice, the zero address, charges of nothing and of very much, or too many.
fn harmed(draw: &Draw) -> Vec<(Address, TokenAmount)> {
    let count = match draw.twist % 8 {
        0 => 0,
        1 if draw.n.is_multiple_of(2) => MAX_DEVELOPERS + 1,
        1 => MAX_DEVELOPERS,
        n => usize::from(n) - 1,
    };
    let one = |at: usize| {
        let bits = draw.n.rotate_left(7 * at as u32);
        let who = if bits % 5 == 4 {
            Address::ZERO
        } else {
            account(bits as u8)
        };
        let charge = match bits % 7 {
            0 => 0,
            1 => u128::from(bits) << 50,
            _ => u128::from(bits % 100_000),
        };
        (who, TokenAmount::from_units(charge))
    };
    (0..count).map(one).collect()
}

fn slash_call(order: &SlashOrder) -> S::slashCall {
    let (developers, charges) = order
        .harmed
        .iter()
        .map(|(who, charge)| (evm_address(*who), charge.units()))
        .unzip();
    S::slashCall {
        faultId: evm_digest(order.fault_id),
        offender: evm_address(order.offender),
        role: order.role.code(),
        severityBps: order.severity.get(),
        developers,
        charges,
        challenger: evm_address(order.challenger),
    }
}

/// Calls that succeeded, by name, over all runs.
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
fn model_and_bytecode_of_the_stake_agree_on_fresh_random_calls() {
    run(TestRunner::new(config(24)));
}

#[test]
fn model_and_bytecode_of_the_stake_agree_and_every_call_has_succeeded() {
    // Always the same calls, so that the count below is no matter of luck.
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let succeeded = run(TestRunner::new_with_rng(config(24), rng));
    let all = [
        "stake",
        "requestUnbond",
        "withdraw",
        "slash",
        "collect",
        "setSlasher",
        "setStakePrice",
        "setLoadout",
    ];
    for name in all {
        let count = succeeded.get(name).copied().unwrap_or_default();
        assert!(count >= 5, "{name} succeeded {count} times: {succeeded:?}");
    }
}
