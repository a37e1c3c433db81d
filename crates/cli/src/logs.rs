//! Contract logs, read at once from the first block: for commands and starts, not for who follows the chain.

use std::collections::BTreeSet;
use stoa_chain::{ChainAccess, ContractEvent, Contracts, StakeRole};
use stoa_types::{Address, Digest, StakeAmount};

/// Blocks asked for at once.
const STEP: u64 = 5_000;

/// Events of one contract, from the first block to the newest, as far as `pick` takes them.
async fn events<T>(
    chain: &impl ChainAccess,
    contracts: &Contracts,
    contract: Address,
    mut pick: impl FnMut(ContractEvent) -> Option<T>,
) -> Result<Vec<T>, String> {
    let head = chain
        .block(None)
        .await
        .map_err(|error| error.to_string())?
        .ok_or("the chain has no block")?;
    let (mut from, mut found) = (0, Vec::new());
    while from <= head.number {
        let to = head.number.min(from + STEP - 1);
        let logs = chain
            .logs(vec![contract], from, to)
            .await
            .map_err(|error| error.to_string())?;
        found.extend(
            logs.iter()
                .filter_map(|log| pick(ContractEvent::decode(contracts, log)?)),
        );
        from = to + 1;
    }
    Ok(found)
}

/// Head of the chain of batches after batch `index` of `router`, from the event in `vault`; `None` when there is none.
pub async fn batch_head(
    chain: &impl ChainAccess,
    vault: Address,
    router: Address,
    index: u64,
) -> Result<Option<Digest>, String> {
    // Only the vault is known from a receipt.
    let zero = Address::ZERO;
    let contracts = Contracts {
        payment_token: zero,
        stake_token: zero,
        provider_registry: zero,
        stake_registry: zero,
        vault,
    };
    let heads = events(chain, &contracts, vault, |event| match event {
        ContractEvent::BatchPosted {
            router: by,
            index: number,
            chain_head,
            ..
        } => (by == router && number == index).then_some(chain_head),
        _ => None,
    });
    Ok(heads.await?.into_iter().next())
}

/// To which routers these developers ever allotted.
pub async fn allotted(
    chain: &impl ChainAccess,
    contracts: &Contracts,
    developers: &BTreeSet<Address>,
) -> Result<BTreeSet<(Address, Address)>, String> {
    if developers.is_empty() {
        return Ok(BTreeSet::new());
    }
    let found = events(chain, contracts, contracts.vault, |event| match event {
        ContractEvent::Allotted {
            developer, router, ..
        } => developers
            .contains(&developer)
            .then_some((developer, router)),
        _ => None,
    });
    Ok(found.await?.into_iter().collect())
}

/// What each slash took from an account in a role.
pub async fn slashes(
    chain: &impl ChainAccess,
    contracts: &Contracts,
    (role, account): (StakeRole, Address),
) -> Result<Vec<StakeAmount>, String> {
    events(
        chain,
        contracts,
        contracts.stake_registry,
        |event| match event {
            ContractEvent::Slashed {
                offender,
                role: slashed,
                sigma,
                ..
            } => (offender == account && slashed == role).then_some(sigma),
            _ => None,
        },
    )
    .await
}
