//! A receipt's place in a posted batch.

use serde::{Deserialize, Serialize};
use stoa_crypto::{SecretKey, Words, chain_head, keccak256, recover, verify_proof};
use stoa_types::{Address, Digest, Signature};

/// What a router says it posted. Whether it did is for the chain to tell: compare `head` with the vault's event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchStatement {
    /// Number of the batch, from 1.
    pub index: u64,
    /// Root over the receipts' leaves.
    pub job_root: Digest,
    /// Number of receipts.
    pub job_count: u32,
    /// BLAKE3 of the leaf file.
    pub content_id: Digest,
    /// Head of the chain of batches before this one.
    pub previous_head: Digest,
    /// Router's signature over [`BatchStatement::digest`].
    pub router_signature: Signature,
}

impl BatchStatement {
    /// Makes and signs a statement.
    pub fn sign(
        key: &SecretKey,
        chain: (u64, Address),
        index: u64,
        root: (Digest, u32),
        content_id: Digest,
        previous: Digest,
    ) -> Self {
        let (job_root, job_count) = root;
        let mut statement = Self {
            index,
            job_root,
            job_count,
            content_id,
            previous_head: previous,
            router_signature: Signature::ZERO,
        };
        statement.router_signature = key.sign(statement.digest(chain.0, chain.1, key.address()));
        statement
    }

    /// Head of the chain of batches after this one.
    pub fn head(&self) -> Digest {
        chain_head(
            self.previous_head,
            self.job_root,
            self.job_count,
            self.content_id,
        )
    }

    /// What the router signs.
    pub fn digest(&self, chain_id: u64, vault: Address, router: Address) -> Digest {
        let words = Words::new()
            .digest(keccak256("stoa.batch.v1"))
            .uint(chain_id)
            .address(vault)
            .address(router)
            .uint(self.index)
            .digest(self.head());
        keccak256(words.as_bytes())
    }
}

/// Proof that a receipt is in a batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SettlementProof {
    /// The batch.
    pub batch: BatchStatement,
    /// Merkle path from the leaf to the batch's job root.
    pub siblings: Vec<Digest>,
}

impl SettlementProof {
    /// Whether `leaf` is in the batch that `router` signed for, no deeper than its number of receipts allows: a longer path leads to a leaf
    /// that the router did not count.
    pub fn check(
        &self,
        leaf: Digest,
        chain_id: u64,
        vault: Address,
        router: Address,
    ) -> Result<(), String> {
        let (steps, most) = (self.siblings.len(), depth(self.batch.job_count));
        if most.is_none_or(|most| steps > most) {
            return Err(format!(
                "a path of {steps} steps in a batch of {} receipts",
                self.batch.job_count
            ));
        }
        if !verify_proof(self.batch.job_root, leaf, &self.siblings) {
            return Err(format!(
                "the path from leaf {leaf} does not lead to job root {}",
                self.batch.job_root
            ));
        }
        match recover(
            self.batch.digest(chain_id, vault, router),
            &self.batch.router_signature,
        ) {
            Ok(signer) if signer == router => Ok(()),
            Ok(signer) => Err(format!(
                "the batch is signed by {signer}, not by router {router}"
            )),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// Longest path in a tree of so many leaves, `None` where there is no leaf.
fn depth(leaves: u32) -> Option<usize> {
    let last = leaves.checked_sub(1)?;
    usize::try_from(u32::BITS - last.leading_zeros()).ok()
}
