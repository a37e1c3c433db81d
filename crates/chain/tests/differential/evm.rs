//! The contracts' real bytecode in an EVM in memory.

use crate::machine::{Machine, Reverted, contract_vault_params};
use alloy_primitives::{Address as EvmAddress, U256};
use alloy_sol_types::{SolCall, SolConstructor};
use stoa_chain::bindings::{PaymentVault, ProviderRegistry, TestDollar};
use stoa_chain::{ContractEvent, Contracts, RawLog, address, digest, evm_address};
use stoa_ledger::vault::VaultParams;
use stoa_types::{Address, Digest};

/// The vault with its token and its registry.
pub struct Evm {
    machine: Machine,
    pub contracts: Contracts,
}

impl Evm {
    /// Deploys token, registry and vault, and gives each payer tokens and an approval.
    pub fn deploy(deployer: Address, params: &VaultParams, payers: &[Address]) -> Self {
        let contracts = Contracts::of_deployer(deployer);
        let mut evm = Self {
            machine: Machine::new(),
            contracts,
        };
        let create =
            |evm: &mut Self, code: &[u8], arguments| evm.machine.create(deployer, code, arguments);
        let created = create(&mut evm, &TestDollar::BYTECODE, Vec::new());
        assert_eq!(created, contracts.payment_token);
        // The stake token's place in the order is taken by a second test dollar: the vault does not know it.
        create(&mut evm, &TestDollar::BYTECODE, Vec::new());
        assert_eq!(
            create(&mut evm, &ProviderRegistry::BYTECODE, Vec::new()),
            contracts.provider_registry
        );
        create(&mut evm, &TestDollar::BYTECODE, Vec::new());
        let arguments = PaymentVault::constructorCall::new((
            evm_address(contracts.payment_token),
            evm_address(contracts.provider_registry),
            contract_vault_params(params),
            evm_address(deployer),
        ));
        let vault = create(&mut evm, &PaymentVault::BYTECODE, arguments.abi_encode());
        assert_eq!(vault, contracts.vault);
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
            machine: self.machine.fork(),
            contracts: self.contracts,
        }
    }

    pub fn set_time(&mut self, seconds: u64) {
        self.machine.set_time(seconds);
    }

    /// Sends a transaction; gives the vault's events, or the revert data.
    pub fn send(
        &mut self,
        from: Address,
        to: Address,
        call: &impl SolCall,
    ) -> Result<Vec<ContractEvent>, Reverted> {
        let logs = self.machine.send(from, to, call)?;
        Ok(logs.iter().filter_map(|log| self.event(log)).collect())
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
        self.machine.view(to, call)
    }

    /// Asks the vault.
    pub fn vault<S: SolCall>(&mut self, call: &S) -> S::Return {
        self.view(self.contracts.vault, call)
    }
}

/// Nobody: a caller without any role.
pub const STRANGER: EvmAddress = EvmAddress::repeat_byte(0x99);
