//! The model's errors as the contract's revert data.

use alloy_sol_types::SolError;
use stoa_chain::bindings::PaymentVault as V;
use stoa_chain::{evm_address, evm_digest};
use stoa_ledger::vault::VaultError as E;

/// Exactly the bytes that the contract reverts with; `None` where an amount leaves its type and Solidity panics.
pub fn in_contract_words(error: &E) -> Option<Vec<u8>> {
    allotments(error)
        .or_else(|| posts(error))
        .or_else(|| settlement(error))
}

fn allotments(error: &E) -> Option<Vec<u8>> {
    Some(match *error {
        E::ZeroAmount => V::ZeroAmount {}.abi_encode(),
        E::ZeroAddress => V::ZeroAddress {}.abi_encode(),
        E::NotAllowed { caller } => V::NotAllowed {
            caller: evm_address(caller),
        }
        .abi_encode(),
        E::VaultFull { balance, max } => {
            use alloy_primitives::U256;
            V::VaultFull {
                balance: U256::from(balance.units()),
                max: U256::from(max.units()),
            }
            .abi_encode()
        }
        E::InsufficientFree {
            developer,
            free,
            wanted,
        } => V::InsufficientFree {
            developer: evm_address(developer),
            free: free.units(),
            wanted: wanted.units(),
        }
        .abi_encode(),
        E::AllotmentLive {
            developer,
            router,
            generation,
        } => V::AllotmentLive {
            developer: evm_address(developer),
            router: evm_address(router),
            generation,
        }
        .abi_encode(),
        E::NoAllotment { developer, router } => V::NoAllotment {
            developer: evm_address(developer),
            router: evm_address(router),
        }
        .abi_encode(),
        E::AllotmentExpired { expiry } => V::AllotmentExpired { expiry }.abi_encode(),
        E::BadExpiry {
            expiry,
            earliest,
            latest,
        } => V::BadExpiry {
            expiry,
            earliest,
            latest,
        }
        .abi_encode(),
        E::NotReleasable { releasable_at } => V::NotReleasable {
            releasableAt: releasable_at,
        }
        .abi_encode(),
        _ => return None,
    })
}

fn posts(error: &E) -> Option<Vec<u8>> {
    Some(match *error {
        E::BadJobCount { count, max } => V::BadJobCount { count, max }.abi_encode(),
        E::PayRootPending {
            router,
            promotable_at,
        } => V::PayRootPending {
            router: evm_address(router),
            promotableAt: promotable_at,
        }
        .abi_encode(),
        E::NothingPending { router } => V::NothingPending {
            router: evm_address(router),
        }
        .abi_encode(),
        E::GrossFell { gross, claimable } => V::GrossFell {
            gross: gross.units(),
            claimable: claimable.units(),
        }
        .abi_encode(),
        E::Insolvent { gross, covered } => V::Insolvent {
            gross: gross.units(),
            covered: covered.units(),
        }
        .abi_encode(),
        _ => return None,
    })
}

fn settlement(error: &E) -> Option<Vec<u8>> {
    Some(match *error {
        E::NotClaimable { router, pay_root } => V::NotClaimable {
            router: evm_address(router),
            payRoot: evm_digest(pay_root),
        }
        .abi_encode(),
        E::BadProof { leaf } => V::BadProof {
            leaf: evm_digest(leaf),
        }
        .abi_encode(),
        E::WrongGeneration {
            developer,
            generation,
            live,
        } => V::WrongGeneration {
            developer: evm_address(developer),
            generation,
            live,
        }
        .abi_encode(),
        E::DebitFell {
            developer,
            lifetime_debit,
            booked,
        } => V::DebitFell {
            developer: evm_address(developer),
            lifetimeDebit: lifetime_debit.units(),
            booked: booked.units(),
        }
        .abi_encode(),
        E::CapExceeded {
            developer,
            lifetime_debit,
            cap,
        } => V::CapExceeded {
            developer: evm_address(developer),
            lifetimeDebit: lifetime_debit.units(),
            cap: cap.units(),
        }
        .abi_encode(),
        E::UnknownProvider { provider } => V::UnknownProvider {
            provider: evm_address(provider),
        }
        .abi_encode(),
        E::BelowMinimum { amount, min } => V::BelowMinimum {
            amount: amount.units(),
            min: min.units(),
        }
        .abi_encode(),
        E::UnknownFeeVersion { version } => V::UnknownFeeVersion { version }.abi_encode(),
        E::FeeTooHigh {
            router_bps,
            protocol_bps,
        } => {
            use alloy_primitives::U256;
            V::FeeTooHigh {
                routerBps: U256::from(router_bps),
                protocolBps: U256::from(protocol_bps),
            }
            .abi_encode()
        }
        E::NothingOwed { who } => V::NothingOwed {
            who: evm_address(who),
        }
        .abi_encode(),
        _ => return None,
    })
}
