//! How a provider asks a router for what the vault will pay it by that router's books.

use serde::{Deserialize, Serialize};
use stoa_crypto::{Domain, SecretKey, Words, keccak256, recover};
use stoa_ledger::book::PayoutTree;
use stoa_types::{Address, Digest, Millis, Signature, Timestamp, TokenAmount};

/// How far the clocks of provider and router may be apart.
const APART: Millis = Millis::from_secs(300);

/// A provider asks for its payouts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PayoutRequest {
    /// Who asks.
    pub provider: Address,
    /// When, by its clock.
    pub at: Timestamp,
    /// Over all of it, the network, and the router that is asked.
    pub signature: Signature,
}

fn digest(domain: &Domain, router: Address, provider: Address, at: Timestamp) -> Digest {
    let words = Words::new()
        .digest(keccak256("stoa.payout.request.v1"))
        .uint(domain.chain_id)
        .address(domain.vault)
        .address(router)
        .address(provider)
        .uint(at.0);
    keccak256(words.as_bytes())
}

impl PayoutRequest {
    /// Signs a request to `router`.
    pub fn sign(key: &SecretKey, domain: &Domain, router: Address, at: Timestamp) -> Self {
        let provider = key.address();
        Self {
            provider,
            at,
            signature: key.sign(digest(domain, router, provider, at)),
        }
    }

    /// Whether its provider signed it, for this router, about now.
    pub fn is_for(&self, domain: &Domain, router: Address, now: Timestamp) -> bool {
        let signed = digest(domain, router, self.provider, self.at);
        let apart = now.since(self.at).max(self.at.since(now));
        apart <= APART && recover(signed, &self.signature) == Ok(self.provider)
    }
}

/// What a provider earned at a router under one fee version. The vault believes the proof and not the router.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Payout {
    /// Fee version.
    pub fee_version: u16,
    /// Charged for its work in all, before fees, by the router's books.
    pub earned: TokenAmount,
    /// What the vault takes a claim for by now; `None` while no payout root covers any of it.
    pub claim: Option<PayoutProof>,
}

/// Arguments of the vault's `claim`, beside router, provider and fee version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PayoutProof {
    /// Lifetime gross under the claimable root.
    pub lifetime_gross: TokenAmount,
    /// Root over providers.
    pub provider_root: Digest,
    /// Root over debits.
    pub debit_root: Digest,
    /// From the provider's leaf to the provider root.
    pub proof: Vec<Digest>,
}

/// What a router owes to a provider: what it `earned` under each fee version by the router's books, and what `tree`, the claimable one,
/// proves of it.
pub fn payouts_of(
    provider: Address,
    earned: impl IntoIterator<Item = (u16, TokenAmount)>,
    tree: Option<&PayoutTree>,
) -> Vec<Payout> {
    let claims = tree.map_or_else(Vec::new, |tree| tree.claims(|(id, _)| id == provider));
    let payout = |(fee_version, earned)| {
        let claim = claims.iter().find(|claim| claim.fee_version == fee_version);
        Payout {
            fee_version,
            earned,
            claim: claim.map(|claim| PayoutProof {
                lifetime_gross: claim.lifetime_gross,
                provider_root: claim.provider_root,
                debit_root: claim.debit_root,
                proof: claim.proof.clone(),
            }),
        }
    };
    earned.into_iter().map(payout).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_790_000_000);

    fn domain(chain_id: u64) -> Domain {
        Domain {
            chain_id,
            vault: Address([7; 20]),
        }
    }

    #[test]
    fn a_request_is_its_provider_s_for_one_router_of_one_network_and_for_a_while() {
        let (key, router) = (SecretKey::for_tests("provider"), Address([1; 20]));
        let request = PayoutRequest::sign(&key, &domain(5), router, NOW);
        assert!(request.is_for(&domain(5), router, NOW));
        let (late, early) = (NOW.plus(APART), Timestamp(NOW.0 - APART.0));
        assert!(
            request.is_for(&domain(5), router, late) && request.is_for(&domain(5), router, early)
        );
        assert!(!request.is_for(&domain(5), router, late.plus(Millis(1))));
        assert!(!request.is_for(&domain(5), router, Timestamp(early.0 - 1)));
        assert!(!request.is_for(&domain(5), Address([2; 20]), NOW));
        assert!(!request.is_for(&domain(6), router, NOW));
        let other = PayoutRequest {
            provider: Address([3; 20]),
            ..request
        };
        assert!(!other.is_for(&domain(5), router, NOW));
        let moved = PayoutRequest {
            at: NOW.plus(Millis(1)),
            ..request
        };
        assert!(!moved.is_for(&domain(5), router, NOW));
    }
}
