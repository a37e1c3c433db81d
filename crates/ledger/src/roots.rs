//! Roots that the vault computes and the book foretells.

use stoa_crypto::{Words, keccak256};
use stoa_types::Digest;

/// Payout root over the tree of providers and the tree of debits: `keccak256(abi.encode(providerRoot, debitRoot))`.
pub fn pay_root(provider_root: Digest, debit_root: Digest) -> Digest {
    keccak256(
        Words::new()
            .digest(provider_root)
            .digest(debit_root)
            .as_bytes(),
    )
}

/// Head of a router's job chain after one more batch: `keccak256(abi.encode(head, jobRoot, jobCount, contentId))`.
pub fn chain_head(head: Digest, job_root: Digest, job_count: u32, content_id: Digest) -> Digest {
    let words = Words::new()
        .digest(head)
        .digest(job_root)
        .uint(job_count)
        .digest(content_id);
    keccak256(words.as_bytes())
}
