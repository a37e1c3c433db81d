//! What the EVM opens besides receipts: leaves of token ids, payouts and debits, and the chain of batches.

use crate::{MerkleTree, Words, double_keccak, keccak256};
use stoa_types::{Address, Digest, TokenAmount};

/// Root over token ids (prompt root, output root; DECISIONS 8). Leaf = `(index, count, id)`, hashed twice: sorted pairs forget
/// positions, so the leaf carries them, and with the count no prefix passes for the whole.
pub fn token_root(ids: &[u32]) -> Digest {
    let count = ids.len() as u64;
    let leaf = |(index, id): (usize, &u32)| {
        double_keccak(
            Words::new()
                .uint(index as u64)
                .uint(count)
                .uint(*id)
                .as_bytes(),
        )
    };
    MerkleTree::new(ids.iter().enumerate().map(leaf).collect()).root()
}

/// Leaf of a provider's lifetime gross at a router: `(router, class, provider, feeVersion, lifetimeGross)`.
pub fn payout_leaf(
    router: Address,
    class: u8,
    provider: Address,
    fee_version: u16,
    lifetime_gross: TokenAmount,
) -> Digest {
    let words = Words::new()
        .address(router)
        .uint(class)
        .address(provider)
        .uint(fee_version)
        .uint(lifetime_gross.units());
    double_keccak(words.as_bytes())
}

/// Leaf of a developer's lifetime debit of one allotment: `(router, class, developer, generation, lifetimeDebit)`.
pub fn debit_leaf(
    router: Address,
    class: u8,
    developer: Address,
    generation: u32,
    lifetime_debit: TokenAmount,
) -> Digest {
    let words = Words::new()
        .address(router)
        .uint(class)
        .address(developer)
        .uint(generation)
        .uint(lifetime_debit.units());
    double_keccak(words.as_bytes())
}

/// Head of a router's chain of batches after one more: `keccak256(abi.encode(head, jobRoot, jobCount, contentId))`, as the vault
/// computes it.
pub fn chain_head(head: Digest, job_root: Digest, job_count: u32, content_id: Digest) -> Digest {
    let words = Words::new()
        .digest(head)
        .digest(job_root)
        .uint(job_count)
        .digest(content_id);
    keccak256(words.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_root_binds_order_and_count() {
        assert_ne!(token_root(&[1, 2]), token_root(&[2, 1]));
        assert_ne!(token_root(&[1, 2, 3]), token_root(&[1, 2]));
        assert_eq!(token_root(&[]), Digest::ZERO);
    }
}
