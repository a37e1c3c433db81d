//! Putting the contracts on a chain.

use alloy_primitives::U256;
use alloy_sol_types::{SolConstructor, SolValue};
use serde::{Deserialize, Serialize};
use stoa_types::{Address, NetworkProfile, TokenAmount};

use crate::access::{AccessError, ChainAccess};
use crate::audit::{self, AuditContracts};
use crate::bindings::{PaymentVault, ProviderRegistry, StakeRegistry, StoaToken, TestDollar};
use crate::convert::{address, evm_address};
use crate::sender::{SendError, Sender};

/// Where the contracts are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contracts {
    /// The payment token; on devnets a test dollar.
    pub payment_token: Address,
    /// The stake token.
    pub stake_token: Address,
    /// Providers and routers.
    pub provider_registry: Address,
    /// Stake and slashing.
    pub stake_registry: Address,
    /// Custody and settlement.
    pub vault: Address,
}

/// Who receives fees and holds the admin roles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beneficiaries {
    /// Admin of vault and stake registry; holds the whole stake token supply at first.
    pub admin: Address,
    /// Treasury's shares.
    pub treasury: Address,
    /// Validators' shares.
    pub validators: Address,
    /// Buyback shares.
    pub buyback: Address,
}

/// Why the contracts could not be deployed. What is on the chain already stays; a second call goes on from there.
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    /// A transaction failed.
    #[error("deploying {contract} failed: {source}")]
    Send {
        /// Which contract.
        contract: &'static str,
        /// Why.
        source: SendError,
    },
    /// The chain did not answer.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The deployer's account did something else first.
    #[error(
        "account {deployer} has sent {nonce} transactions, but there is no contract at {expected} where its transaction {position} should have put {contract}; deploy from a fresh account"
    )]
    Foreign {
        /// The deployer.
        deployer: Address,
        /// Its transactions.
        nonce: u64,
        /// Which contract is missing.
        contract: &'static str,
        /// Where it should be.
        expected: Address,
        /// Which transaction should have made it.
        position: u64,
    },
    /// A parameter of the profile does not fit.
    #[error("the profile cannot be deployed: {0}")]
    Profile(&'static str),
}

impl Contracts {
    /// Where the contracts are when `deployer` sends their creations as its first five transactions.
    pub fn of_deployer(deployer: Address) -> Self {
        let at = |nonce| address(evm_address(deployer).create(nonce));
        Self {
            payment_token: at(0),
            stake_token: at(1),
            provider_registry: at(2),
            stake_registry: at(3),
            vault: at(4),
        }
    }
}

/// Deploys all contracts, those of [`AuditContracts`] last, in fixed order as the first transactions of `deployer`, or goes on where an
/// earlier attempt stopped. Their addresses follow from the deployer alone. Then the deployer, where it is the admin, names the verdict to
/// the contracts that obey one.
pub async fn deploy<C: ChainAccess>(
    deployer: &Sender<C>,
    profile: &NetworkProfile,
    beneficiaries: &Beneficiaries,
) -> Result<Contracts, DeployError> {
    let contracts = Contracts::of_deployer(deployer.address());
    let judges = AuditContracts::of_deployer(deployer.address());
    let admin = beneficiaries.admin;
    let order = creations(&contracts, profile, beneficiaries)?
        .into_iter()
        .chain(audit::creations(&contracts, &judges, profile, admin));
    for (position, (contract, expected, init_code)) in (0u64..).zip(order) {
        let send = |source| DeployError::Send { contract, source };
        let turn = deployer.turn().await.map_err(send)?;
        let nonce = deployer.chain().nonce(deployer.address(), false).await?;
        if audit::is_left_out(deployer.chain(), &judges, expected).await? {
            continue;
        }
        if nonce == position {
            turn.send(None, init_code).await.map_err(send)?;
        }
        if deployer.chain().code(expected).await?.is_empty() {
            let deployer = deployer.address();
            return Err(DeployError::Foreign {
                deployer,
                nonce,
                contract,
                expected,
                position,
            });
        }
    }
    audit::appoint(deployer, &contracts, &judges, profile, admin).await?;
    Ok(contracts)
}

/// Name of a contract, its address, and the code that creates it.
pub(crate) type Creation = (&'static str, Address, Vec<u8>);

fn creations(
    contracts: &Contracts,
    profile: &NetworkProfile,
    beneficiaries: &Beneficiaries,
) -> Result<[Creation; 5], DeployError> {
    let admin = evm_address(beneficiaries.admin);
    let registry = evm_address(contracts.provider_registry);
    let code = |bytecode: &[u8], arguments: Vec<u8>| [bytecode, &arguments].concat();
    let stake = StakeRegistry::constructorCall::new((
        evm_address(contracts.stake_token),
        registry,
        stake_params(profile)?,
        admin,
    ));
    let vault = PaymentVault::constructorCall::new((
        evm_address(contracts.payment_token),
        registry,
        vault_params(profile, beneficiaries),
        admin,
    ));
    Ok([
        (
            "TestDollar",
            contracts.payment_token,
            TestDollar::BYTECODE.to_vec(),
        ),
        (
            "StoaToken",
            contracts.stake_token,
            code(&StoaToken::BYTECODE, admin.abi_encode()),
        ),
        (
            "ProviderRegistry",
            contracts.provider_registry,
            ProviderRegistry::BYTECODE.to_vec(),
        ),
        (
            "StakeRegistry",
            contracts.stake_registry,
            code(&StakeRegistry::BYTECODE, stake.abi_encode()),
        ),
        (
            "PaymentVault",
            contracts.vault,
            code(&PaymentVault::BYTECODE, vault.abi_encode()),
        ),
    ])
}

fn vault_params(
    profile: &NetworkProfile,
    beneficiaries: &Beneficiaries,
) -> PaymentVault::VaultParams {
    let (settlement, fees) = (&profile.settlement, &profile.fees);
    PaymentVault::VaultParams {
        window: settlement.window_seconds,
        notice: settlement.notice_seconds,
        settleDelay: settlement.settle_delay_seconds,
        claimMin: settlement.claim_min.units(),
        routerBps: fees.router_bps.get(),
        treasuryBps: fees.treasury_bps.get(),
        validatorsBps: fees.validators_bps.get(),
        buybackBps: fees.buyback_bps.get(),
        treasury: evm_address(beneficiaries.treasury),
        validatorsPool: evm_address(beneficiaries.validators),
        buyback: evm_address(beneficiaries.buyback),
    }
}

/// Highest price of one job under the profile: the most output at the highest price.
pub fn job_price_max(profile: &NetworkProfile) -> Option<TokenAmount> {
    let raw = profile
        .limits
        .price_max
        .raw_cost(u64::from(profile.limits.output_tokens_max))?;
    Some(TokenAmount::from_units(raw.div_ceil(1_000_000)))
}

fn stake_params(profile: &NetworkProfile) -> Result<StakeRegistry::StakeParams, DeployError> {
    let (settlement, stake) = (&profile.settlement, &profile.stake);
    let job_max = job_price_max(profile).ok_or(DeployError::Profile(
        "the highest job price does not fit 128 bits",
    ))?;
    let params = StakeRegistry::StakeParams {
        unbonding: stake.unbonding_seconds,
        exposure: settlement.window_seconds + settlement.batch_seconds,
        providerFloor: stake.provider_floor.units(),
        routerFloor: stake.router_floor.units(),
        validatorFloor: stake.validator_floor.units(),
        jobMax: job_max.units(),
        samplingFloorBps: stake.sampling_floor_bps.get(),
        stakePrice: stake.stake_price.units(),
    };
    if U256::from(params.unbonding) <= U256::from(params.exposure) {
        return Err(DeployError::Profile(
            "stake must stay slashable longer than window and batch interval together",
        ));
    }
    Ok(params)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::time::Duration;

    use crate::Embedded;
    use stoa_crypto::SecretKey;
    use stoa_evm::{Chain, ChainConfig, Genesis};

    fn profile() -> NetworkProfile {
        NetworkProfile::parse(NetworkProfile::builtin_text("stoa").expect("listed")).expect("valid")
    }

    #[tokio::test]
    async fn a_network_from_before_claims_of_non_delivery_goes_on_without_them() {
        let folder = tempfile::tempdir().expect("a folder");
        let config = ChainConfig {
            genesis: Some(Genesis {
                timestamp: 1_800_000_000,
                salt: Default::default(),
                allocations: Vec::new(),
            }),
            seal_window: Duration::ZERO,
            ..ChainConfig::default()
        };
        let chain = Chain::open(folder.path().join("chain.redb"), config).expect("opens");
        let key = SecretKey::for_tests("deployer");
        let access = Embedded(Arc::new(chain));
        let deployer = Sender::new(access.clone(), key, Duration::from_secs(10));
        let deployer = deployer.await.expect("the chain answers");
        let admin = deployer.address();
        let beneficiaries = Beneficiaries {
            admin,
            treasury: admin,
            validators: admin,
            buyback: admin,
        };
        let contracts = Contracts::of_deployer(admin);
        let judges = AuditContracts {
            claims: None,
            ..AuditContracts::of_deployer(admin)
        };
        let old = creations(&contracts, &profile(), &beneficiaries).expect("fits");
        let old = old.into_iter();
        for (contract, _, code) in
            old.chain(audit::creations(&contracts, &judges, &profile(), admin))
        {
            let turn = deployer.turn().await.expect("idle");
            turn.send(None, code).await.expect(contract);
        }
        for _ in 0..2 {
            let found = deploy(&deployer, &profile(), &beneficiaries).await;
            assert_eq!(found.expect("goes on"), contracts);
            let found = AuditContracts::find(&access, &contracts).await;
            assert_eq!(found.expect("readable"), Some(judges));
        }
    }
}
