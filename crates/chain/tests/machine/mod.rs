//! The contracts' real bytecode in an EVM in memory, for tests that compare a model with it; and what a model is built with in the contracts'
//! words.
#![allow(dead_code, missing_docs)]

use alloy_primitives::{Bytes, Log, U256};
use alloy_sol_types::SolCall;
use revm::context::result::{ExecutionResult, Output};
use revm::context::{Context, TxEnv};
use revm::database::{CacheDB, EmptyDB, InMemoryDB};
use revm::handler::{MainnetContext, MainnetEvm};
use revm::primitives::TxKind;
use revm::{ExecuteCommitEvm, ExecuteEvm, MainBuilder, MainContext};
use stoa_chain::bindings::{AuditRounds, PaymentVault, StakeRegistry};
use stoa_chain::{address, evm_address};
use stoa_ledger::audit::rounds::RoundsParams;
use stoa_ledger::stake::StakeParams;
use stoa_ledger::vault::VaultParams;
use stoa_types::{Address, Bps, TokenAmount};

/// Revert data of a call that failed.
pub type Reverted = Vec<u8>;

/// An EVM without a chain behind it.
pub struct Machine {
    inner: MainnetEvm<MainnetContext<InMemoryDB>>,
}

fn start(database: InMemoryDB) -> MainnetEvm<MainnetContext<InMemoryDB>> {
    Context::mainnet()
        .with_db(database)
        .modify_cfg_chained(|cfg| {
            cfg.set_spec_and_mainnet_gas_params(stoa_evm::FORK);
            cfg.disable_nonce_check = true;
        })
        .build_mainnet()
}

fn transaction(from: Address, kind: TxKind, input: Vec<u8>) -> TxEnv {
    TxEnv {
        caller: evm_address(from),
        kind,
        data: Bytes::from(input),
        gas_limit: 1 << 24,
        ..TxEnv::default()
    }
}

impl Machine {
    /// Nothing on it yet.
    pub fn new() -> Self {
        let inner = start(CacheDB::new(EmptyDB::new()));
        Self { inner }
    }

    /// The same state in another one.
    pub fn fork(&self) -> Self {
        let inner = start(self.inner.ctx.journaled_state.database.clone());
        Self { inner }
    }

    pub fn set_time(&mut self, seconds: u64) {
        self.inner
            .ctx
            .modify_block(|block| block.timestamp = U256::from(seconds));
    }

    pub fn set_block(&mut self, seconds: u64, number: u64) {
        self.inner.ctx.modify_block(|block| {
            block.timestamp = U256::from(seconds);
            block.number = U256::from(number);
        });
    }

    /// Puts code with these arguments on it.
    pub fn create(&mut self, from: Address, code: &[u8], arguments: Vec<u8>) -> Address {
        let code = [code, &arguments].concat();
        let creation = transaction(from, TxKind::Create, code);
        match self.inner.transact_commit(creation).expect("valid") {
            ExecutionResult::Success {
                output: Output::Create(_, Some(created)),
                ..
            } => address(created),
            other => panic!("{other:?}"),
        }
    }

    /// Sends a transaction; gives all events, or the revert data.
    pub fn send(
        &mut self,
        from: Address,
        to: Address,
        call: &impl SolCall,
    ) -> Result<Vec<Log>, Reverted> {
        let call = transaction(from, TxKind::Call(evm_address(to)), call.abi_encode());
        match self.inner.transact_commit(call).expect("valid") {
            ExecutionResult::Success { logs, .. } => Ok(logs),
            ExecutionResult::Revert { output, .. } => Err(output.to_vec()),
            halted @ ExecutionResult::Halt { .. } => panic!("{halted:?}"),
        }
    }

    /// Asks a contract.
    pub fn view<C: SolCall>(&mut self, to: Address, call: &C) -> C::Return {
        let to = TxKind::Call(evm_address(to));
        let ask = transaction(Address::ZERO, to, call.abi_encode());
        let answer = self.inner.transact(ask).expect("valid").result;
        let output = answer.into_output().expect("an answer");
        C::abi_decode_returns(&output).expect("decodes")
    }
}

pub fn bps(value: u16) -> Bps {
    Bps::new(value).expect("at most 10,000")
}

pub fn contract_stake_params(p: &StakeParams) -> StakeRegistry::StakeParams {
    let [provider, router, validator] = p.floors.map(TokenAmount::units);
    StakeRegistry::StakeParams {
        unbonding: p.unbonding,
        exposure: p.exposure,
        providerFloor: provider,
        routerFloor: router,
        validatorFloor: validator,
        jobMax: p.job_max.units(),
        samplingFloorBps: p.sampling_floor.get(),
        stakePrice: p.stake_price.units(),
    }
}

pub fn contract_vault_params(p: &VaultParams) -> PaymentVault::VaultParams {
    PaymentVault::VaultParams {
        window: p.window,
        notice: p.notice,
        settleDelay: p.settle_delay,
        claimMin: p.claim_min.units(),
        routerBps: p.fees.router.get(),
        treasuryBps: p.fees.treasury.get(),
        validatorsBps: p.fees.validators.get(),
        buybackBps: p.fees.buyback.get(),
        treasury: evm_address(p.treasury),
        validatorsPool: evm_address(p.validators_pool),
        buyback: evm_address(p.buyback),
    }
}

pub fn contract_times(p: &RoundsParams) -> AuditRounds::RoundsParams {
    AuditRounds::RoundsParams {
        interval: p.interval,
        reveal: p.reveal,
        ballot: p.ballot,
        unseal: p.unseal,
        plants: p.plants,
        rulings: p.rulings,
        devnet: p.devnet,
    }
}
