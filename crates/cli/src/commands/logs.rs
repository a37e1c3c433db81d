//! The vault's log as `verify` reads it.

use stoa_chain::{ChainAccess, ContractEvent, Contracts};
use stoa_types::{Address, Digest};

/// Blocks asked for at once.
const STEP: u64 = 5_000;

/// Head of the chain of batches after batch `index` of `router`, from the event in `vault`; `None` when there is none.
pub async fn batch_head(
    chain: &impl ChainAccess,
    vault: Address,
    router: Address,
    index: u64,
    last: u64,
) -> Result<Option<Digest>, String> {
    // Only the vault is known from a receipt; logs of other contracts are not asked for.
    let contracts = Contracts {
        payment_token: Address::ZERO,
        stake_token: Address::ZERO,
        provider_registry: Address::ZERO,
        stake_registry: Address::ZERO,
        vault,
    };
    let mut from = 0;
    while from <= last {
        let to = last.min(from + STEP - 1);
        let logs = chain
            .logs(vec![vault], from, to)
            .await
            .map_err(|error| error.to_string())?;
        for log in logs {
            match ContractEvent::decode(&contracts, &log) {
                Some(ContractEvent::BatchPosted {
                    router: by,
                    index: number,
                    chain_head,
                    ..
                }) if by == router && number == index => {
                    return Ok(Some(chain_head));
                }
                _ => {}
            }
        }
        from = to + 1;
    }
    Ok(None)
}
