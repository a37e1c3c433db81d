//! Merkle trees as OpenZeppelin's `MerkleProof` checks them: inner node = keccak of the sorted pair. Leaves are hashed twice by
//! their makers (see [`crate::double_keccak`]). An odd node moves up unchanged.

use crate::keccak256;
use stoa_types::Digest;

/// keccak of the two digests, the smaller first.
pub fn hash_pair(a: Digest, b: Digest) -> Digest {
    let (low, high) = if a <= b { (a, b) } else { (b, a) };
    let mut bytes = [0; 64];
    bytes[..32].copy_from_slice(&low.0);
    bytes[32..].copy_from_slice(&high.0);
    keccak256(bytes)
}

/// A tree with all its levels, for making proofs.
#[derive(Debug, Clone)]
pub struct MerkleTree {
    levels: Vec<Vec<Digest>>,
}

impl MerkleTree {
    /// Tree over `leaves` in their order. The root of no leaves is zero.
    pub fn new(leaves: Vec<Digest>) -> Self {
        let mut levels = vec![leaves];
        while let Some(last) = levels.last()
            && last.len() > 1
        {
            let next = last
                .chunks(2)
                .map(|pair| {
                    if let [a, b] = pair {
                        hash_pair(*a, *b)
                    } else {
                        pair[0]
                    }
                })
                .collect();
            levels.push(next);
        }
        Self { levels }
    }

    /// The root.
    pub fn root(&self) -> Digest {
        self.levels
            .last()
            .and_then(|top| top.first())
            .copied()
            .unwrap_or(Digest::ZERO)
    }

    /// Siblings from leaf `index` to the root; `None` when there is no such leaf.
    pub fn proof(&self, index: usize) -> Option<Vec<Digest>> {
        self.levels[0].get(index)?;
        let mut position = index;
        let mut siblings = Vec::with_capacity(self.levels.len());
        for level in &self.levels[..self.levels.len() - 1] {
            siblings.extend(level.get(position ^ 1));
            position /= 2;
        }
        Some(siblings)
    }
}

/// Whether `leaf` is under `root` by `proof`.
pub fn verify_proof(root: Digest, leaf: Digest, proof: &[Digest]) -> bool {
    proof
        .iter()
        .fold(leaf, |node, sibling| hash_pair(node, *sibling))
        == root
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn every_leaf_is_proved_and_no_other(count in 1usize..70, stranger in any::<[u8; 32]>()) {
            let leaves: Vec<_> = (0..count).map(|i| keccak256(i.to_be_bytes())).collect();
            let tree = MerkleTree::new(leaves.clone());
            for (index, leaf) in leaves.iter().enumerate() {
                let proof = tree.proof(index).expect("in range");
                prop_assert!(verify_proof(tree.root(), *leaf, &proof));
                prop_assert!(!verify_proof(tree.root(), Digest(stranger), &proof));
            }
            prop_assert!(tree.proof(count).is_none());
        }
    }

    #[test]
    fn no_leaves_give_the_zero_root() {
        assert_eq!(MerkleTree::new(Vec::new()).root(), Digest::ZERO);
    }
}
