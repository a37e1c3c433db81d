//! The contracts' real bytecode in an EVM in memory.

use alloy_primitives::{Address as EvmAddress, Bytes, U256};
use alloy_sol_types::{SolCall, SolConstructor};
use revm::context::result::{ExecutionResult, Output};
use revm::context::{Context, TxEnv};
use revm::database::{CacheDB, EmptyDB, InMemoryDB};
use revm::handler::{MainnetContext, MainnetEvm};
use revm::primitives::TxKind;
use revm::{ExecuteCommitEvm, ExecuteEvm, MainBuilder, MainContext};
use stoa_chain::bindings::{PaymentVault, ProviderRegistry, TestDollar};
use stoa_chain::{ContractEvent, Contracts, RawLog, address, digest, evm_address};
use stoa_ledger::vault::VaultParams;
use stoa_types::{Address, Digest};

/// The vault with its token and its registry.
pub struct Evm {
    inner: MainnetEvm<MainnetContext<InMemoryDB>>,
    pub contracts: Contracts,
}

/// Revert data of a call that failed.
pub type Reverted = Vec<u8>;

fn start(database: InMemoryDB) -> MainnetEvm<MainnetContext<InMemoryDB>> {
    Context::mainnet()
        .with_db(database)
        .modify_cfg_chained(|cfg| {
            cfg.set_spec_and_mainnet_gas_params(stoa_evm::FORK);
            cfg.disable_nonce_check = true;
        })
        .build_mainnet()
}

impl Evm {
    /// Deploys token, registry and vault, and gives each payer tokens and an approval.
    pub fn deploy(deployer: Address, params: &VaultParams, payers: &[Address]) -> Self {
        let contracts = Contracts::of_deployer(deployer);
        let mut evm = Self {
            inner: start(CacheDB::new(EmptyDB::new())),
            contracts,
        };
        let created = evm.create(deployer, TestDollar::BYTECODE.to_vec());
        assert_eq!(created, contracts.payment_token);
        // The stake token's place in the order is taken by a second test dollar: the vault does not know it.
        evm.create(deployer, TestDollar::BYTECODE.to_vec());
        assert_eq!(
            evm.create(deployer, ProviderRegistry::BYTECODE.to_vec()),
            contracts.provider_registry
        );
        evm.create(deployer, TestDollar::BYTECODE.to_vec());
        let arguments = PaymentVault::constructorCall::new((
            evm_address(contracts.payment_token),
            evm_address(contracts.provider_registry),
            vault_params(params),
            evm_address(deployer),
        ));
        let code = [&PaymentVault::BYTECODE[..], &arguments.abi_encode()].concat();
        assert_eq!(evm.create(deployer, code), contracts.vault);
        for payer in payers {
            let mint = TestDollar::mintCall {
                to: evm_address(*payer),
                amount: U256::from(u128::MAX >> 8),
            };
            evm.send(*payer, contracts.payment_token, &mint)
                .expect("mints");
            let approve = TestDollar::approveCall {
                spender: evm_address(contracts.vault),
                value: U256::MAX,
            };
            evm.send(*payer, contracts.payment_token, &approve)
                .expect("approves");
        }
        evm
    }

    /// The same state in another EVM.
    pub fn fork(&self) -> Self {
        Self {
            inner: start(self.inner.ctx.journaled_state.database.clone()),
            contracts: self.contracts,
        }
    }

    pub fn set_time(&mut self, seconds: u64) {
        self.inner
            .ctx
            .modify_block(|block| block.timestamp = U256::from(seconds));
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

    fn create(&mut self, from: Address, code: Vec<u8>) -> Address {
        match self
            .inner
            .transact_commit(Self::transaction(from, TxKind::Create, code))
            .expect("valid")
        {
            ExecutionResult::Success {
                output: Output::Create(_, Some(created)),
                ..
            } => address(created),
            other => panic!("{other:?}"),
        }
    }

    /// Sends a transaction; gives the vault's events, or the revert data.
    pub fn send(
        &mut self,
        from: Address,
        to: Address,
        call: &impl SolCall,
    ) -> Result<Vec<ContractEvent>, Reverted> {
        let transaction = Self::transaction(from, TxKind::Call(evm_address(to)), call.abi_encode());
        match self.inner.transact_commit(transaction).expect("valid") {
            ExecutionResult::Success { logs, .. } => {
                Ok(logs.iter().filter_map(|log| self.event(log)).collect())
            }
            ExecutionResult::Revert { output, .. } => Err(output.to_vec()),
            halted @ ExecutionResult::Halt { .. } => panic!("{halted:?}"),
        }
    }

    fn event(&self, log: &alloy_primitives::Log) -> Option<ContractEvent> {
        let raw = RawLog {
            address: address(log.address),
            topics: log.topics().iter().map(|topic| digest(*topic)).collect(),
            data: log.data.data.to_vec(),
            block: 0,
            block_hash: Digest::ZERO,
            transaction: Digest::ZERO,
            log_index: 0,
        };
        (raw.address == self.contracts.vault).then(|| {
            ContractEvent::decode(&self.contracts, &raw).expect("every event of the vault decodes")
        })
    }

    /// Asks a contract.
    pub fn view<S: SolCall>(&mut self, to: Address, call: &S) -> S::Return {
        let ask = Self::transaction(
            Address::ZERO,
            TxKind::Call(evm_address(to)),
            call.abi_encode(),
        );
        let output = self
            .inner
            .transact(ask)
            .expect("valid")
            .result
            .into_output()
            .expect("an answer");
        S::abi_decode_returns(&output).expect("decodes")
    }

    /// Asks the vault.
    pub fn vault<S: SolCall>(&mut self, call: &S) -> S::Return {
        self.view(self.contracts.vault, call)
    }
}

fn vault_params(params: &VaultParams) -> PaymentVault::VaultParams {
    PaymentVault::VaultParams {
        window: params.window,
        notice: params.notice,
        settleDelay: params.settle_delay,
        claimMin: params.claim_min.units(),
        routerBps: params.fees.router.get(),
        treasuryBps: params.fees.treasury.get(),
        validatorsBps: params.fees.validators.get(),
        buybackBps: params.fees.buyback.get(),
        treasury: evm_address(params.treasury),
        validatorsPool: evm_address(params.validators_pool),
        buyback: evm_address(params.buyback),
    }
}

/// Nobody: a caller without any role.
pub const STRANGER: EvmAddress = EvmAddress::repeat_byte(0x99);
