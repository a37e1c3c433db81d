//! Revert data in words.

use alloy_sol_types::SolInterface;

use crate::bindings::{
    AuditRounds::AuditRoundsErrors, DeliveryClaims::DeliveryClaimsErrors,
    PanelVerdict::PanelVerdictErrors, PaymentVault::PaymentVaultErrors,
    ProviderRegistry::ProviderRegistryErrors, Reputation::ReputationErrors,
    StakeRegistry::StakeRegistryErrors, StoaToken::StoaTokenErrors, TestDollar::TestDollarErrors,
};

/// Names the contracts' own errors with their values, and Solidity's texts; anything else as hexadecimal.
pub fn explain_revert(data: &[u8]) -> String {
    if data.is_empty() {
        return "without a reason".to_owned();
    }
    if let Some(text) = stoa_evm::revert_reason(data) {
        return text;
    }
    named::<PaymentVaultErrors>(data)
        .or_else(|| named::<StakeRegistryErrors>(data))
        .or_else(|| named::<ProviderRegistryErrors>(data))
        .or_else(|| named::<StoaTokenErrors>(data))
        .or_else(|| named::<TestDollarErrors>(data))
        .or_else(|| named::<PanelVerdictErrors>(data))
        .or_else(|| named::<AuditRoundsErrors>(data))
        .or_else(|| named::<ReputationErrors>(data))
        .or_else(|| named::<DeliveryClaimsErrors>(data))
        .unwrap_or_else(|| format!("0x{}", hex::encode(data)))
}

fn named<E: SolInterface + std::fmt::Debug>(data: &[u8]) -> Option<String> {
    let error = E::abi_decode(data).ok()?;
    // The derived text repeats the name: `ZeroAmount(ZeroAmount)`; the inner one says it all.
    let text = format!("{error:?}");
    let inner = text.split_once('(').map_or(text.as_str(), |(_, inner)| {
        inner.strip_suffix(')').unwrap_or(inner)
    });
    Some(inner.to_owned())
}
