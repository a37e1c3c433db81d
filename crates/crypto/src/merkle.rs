//! Merkle trees as OpenZeppelin's `MerkleProof` checks them: inner node = keccak of the sorted pair. Leaves are hashed twice by
//! their makers (see [`crate::double_keccak`]). An odd node moves up unchanged.

use crate::keccak256;
use std::ops::Range;
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
            let next = pair_up(last);
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

impl MerkleTree {
    /// Number of leaves.
    pub fn leaves(&self) -> usize {
        self.levels[0].len()
    }

    /// Siblings that prove the `count` leaves from `first` on together, level by level, the left one before the right one; `None` when
    /// there are no such leaves. Of one leaf they are those of [`MerkleTree::proof`].
    pub fn range_proof(&self, first: usize, count: usize) -> Option<Vec<Digest>> {
        let mut range = first..first.checked_add(count)?;
        if range.is_empty() || range.end > self.leaves() {
            return None;
        }
        let mut siblings = Vec::new();
        for level in &self.levels[..self.levels.len() - 1] {
            let (left, right, above) = around(&range, level.len());
            siblings.extend(left.map(|at| level[at]));
            siblings.extend(right.map(|at| level[at]));
            range = above;
        }
        Some(siblings)
    }
}

/// Of a level of `width` nodes: what a range lacks on its left and right, and the range of its parents.
fn around(range: &Range<usize>, width: usize) -> (Option<usize>, Option<usize>, Range<usize>) {
    let left = (range.start % 2 == 1).then(|| range.start - 1);
    let right = (range.end % 2 == 1 && range.end < width).then_some(range.end);
    (left, right, range.start / 2..range.end.div_ceil(2))
}

/// Whether `leaves` are those from `first` on of a tree of `total` leaves with this root. Exactly the siblings that
/// [`MerkleTree::range_proof`] gives are taken, none more.
pub fn verify_range(
    root: Digest,
    total: usize,
    first: usize,
    leaves: &[Digest],
    siblings: &[Digest],
) -> bool {
    let Some(end) = first.checked_add(leaves.len()) else {
        return false;
    };
    let (mut range, mut width) = (first..end, total);
    if range.is_empty() || end > total {
        return false;
    }
    let (mut level, mut siblings) = (leaves.to_vec(), siblings.iter());
    while width > 1 {
        let (left, right, above) = around(&range, width);
        let mut nodes = Vec::with_capacity(level.len() + 2);
        if left.is_some() {
            nodes.extend(siblings.next());
        }
        nodes.extend(level);
        if right.is_some() {
            nodes.extend(siblings.next());
        }
        if nodes.len() != range.len() + usize::from(left.is_some()) + usize::from(right.is_some()) {
            return false;
        }
        level = pair_up(&nodes);
        (range, width) = (above, width.div_ceil(2));
    }
    siblings.next().is_none() && level.first() == Some(&root)
}

/// The level above; an odd node moves up unchanged.
fn pair_up(level: &[Digest]) -> Vec<Digest> {
    let pairs = level.chunks(2);
    pairs
        .map(|pair| match pair {
            [a, b] => hash_pair(*a, *b),
            _ => pair[0],
        })
        .collect()
}

/// A tree that leaves are appended to, with the root of [`MerkleTree`]: of each of its full subtrees only the root is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MerkleFrontier {
    count: u64,
    /// Roots of the full subtrees, the largest first: one for each binary digit 1 of the count.
    peaks: Vec<Digest>,
}

impl MerkleFrontier {
    /// The frontier of a tree of `count` leaves by its last leaf and the siblings that prove it; `None` when that many leaves do not give
    /// so many siblings. Nodes hash their children in order of value, so that peaks alone could be exchanged unseen: the last leaf must say
    /// in its own bytes which one it is.
    pub fn of_last_leaf(count: u64, leaf: Digest, siblings: &[Digest]) -> Option<Self> {
        let within = count
            .checked_sub(1)
            .map(|_| count.trailing_zeros() as usize)?;
        if siblings.len() + 1 != within + count.count_ones() as usize {
            return None;
        }
        let (own, others) = siblings.split_at(within);
        let last = own.iter().fold(leaf, |node, left| hash_pair(*left, node));
        let peaks = others.iter().rev().copied().chain([last]).collect();
        Some(Self { count, peaks })
    }

    /// Number of leaves.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Appends a leaf.
    pub fn push(&mut self, leaf: Digest) {
        let mut node = leaf;
        for _ in 0..self.count.trailing_ones() {
            if let Some(left) = self.peaks.pop() {
                node = hash_pair(left, node);
            }
        }
        self.peaks.push(node);
        self.count += 1;
    }

    /// The root; zero without leaves.
    pub fn root(&self) -> Digest {
        let mut peaks = self.peaks.iter().rev();
        let Some(last) = peaks.next() else {
            return Digest::ZERO;
        };
        peaks.fold(*last, |right, left| hash_pair(*left, right))
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

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn neighbouring_leaves_are_proved_together_and_at_no_other_place(
            count in 1usize..70, at in any::<(u8, u8)>(), extra in any::<bool>(),
        ) {
            let leaves: Vec<_> = (0..count).map(|i| keccak256(i.to_be_bytes())).collect();
            let tree = MerkleTree::new(leaves.clone());
            let first = usize::from(at.0) % count;
            let taken = 1 + usize::from(at.1) % (count - first);
            let own = &leaves[first..first + taken];
            let mut proof = tree.range_proof(first, taken).expect("in range");
            prop_assert!(verify_range(tree.root(), count, first, own, &proof));
            if taken == 1 {
                prop_assert_eq!(Some(proof.clone()), tree.proof(first));
            }
            let mut forged = own.to_vec();
            forged[taken - 1].0[0] ^= 1;
            prop_assert!(!verify_range(tree.root(), count, first, &forged, &proof));
            prop_assert!(!verify_range(tree.root(), count, count, own, &proof));
            prop_assert!(!verify_range(tree.root(), first, first, own, &proof));
            if extra {
                proof.push(Digest::ZERO);
            } else if proof.pop().is_none() {
                return Ok(());
            }
            prop_assert!(!verify_range(tree.root(), count, first, own, &proof));
            prop_assert!(tree.range_proof(first, count - first + 1).is_none());
        }

        #[test]
        fn a_tree_that_grows_has_the_root_of_the_whole(count in 0usize..70) {
            let leaves: Vec<_> = (0..count).map(|i| keccak256(i.to_be_bytes())).collect();
            let mut grown = MerkleFrontier::default();
            leaves.iter().for_each(|leaf| grown.push(*leaf));
            prop_assert_eq!(grown.root(), MerkleTree::new(leaves.clone()).root());
            let Some(last) = leaves.last() else {
                prop_assert!(MerkleFrontier::of_last_leaf(0, Digest::ZERO, &[]).is_none());
                return Ok(());
            };
            let mut siblings = MerkleTree::new(leaves.clone()).proof(count - 1).expect("in range");
            let again = |siblings: &[Digest]| MerkleFrontier::of_last_leaf(count as u64, *last, siblings);
            prop_assert_eq!(again(&siblings), Some(grown));
            siblings.push(Digest::ZERO);
            prop_assert!(again(&siblings).is_none());
        }
    }

    #[test]
    fn no_leaves_give_the_zero_root() {
        assert_eq!(MerkleTree::new(Vec::new()).root(), Digest::ZERO);
    }
}
