//! What the vault pays providers under one payout root, apart from the book: whoever hashes the tree holds up nobody who waits for the
//! book, and one tree serves all who ask until the next root is claimable.

use super::batch::PayoutSet;
use super::query::PayoutClaim;
use stoa_crypto::MerkleTree;
use stoa_types::{Address, Digest, TokenAmount};

/// The providers' leaves of the claimable payout root, as the book gives them away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PayoutLeaves {
    pub(super) router: Address,
    pub(super) batch: u64,
    /// Without debits: their leaves are of another tree.
    pub(super) set: PayoutSet,
    pub(super) provider_root: Digest,
    pub(super) debit_root: Digest,
}

impl PayoutLeaves {
    /// Hashes the tree.
    pub fn hash(self) -> PayoutTree {
        let tree = self.set.provider_tree(self.router);
        PayoutTree { leaves: self, tree }
    }
}

/// The claimable payout root with its tree.
#[derive(Debug, Clone)]
pub struct PayoutTree {
    leaves: PayoutLeaves,
    tree: MerkleTree,
}

impl PayoutTree {
    /// The batch that carried the root. Another batch, another tree.
    pub fn batch(&self) -> u64 {
        self.leaves.batch
    }

    /// Arguments of `claim` for all that `wanted` says of provider and fee version.
    pub fn claims(&self, wanted: impl Fn((Address, u16)) -> bool) -> Vec<PayoutClaim> {
        let claim = |(position, (key, gross)): (usize, (&(Address, u16), &TokenAmount))| {
            Some(PayoutClaim {
                provider: key.0,
                fee_version: key.1,
                lifetime_gross: *gross,
                proof: self.tree.proof(position)?,
                provider_root: self.leaves.provider_root,
                debit_root: self.leaves.debit_root,
            })
        };
        let all = self.leaves.set.providers.iter().enumerate();
        let those = all.filter(|(_, (key, _))| wanted(**key));
        those.filter_map(claim).collect()
    }
}
