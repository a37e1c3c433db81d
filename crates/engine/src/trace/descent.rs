//! The way down a disputed tree, many nodes at a time: what the referee of a dispute keeps and checks in each round.

use stoa_crypto::MerkleTree;
use stoa_types::Digest;

/// Nodes that are answered in a round.
pub const ARITY: usize = 32;

/// Why a move does not count. The descent stays where it was.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DescentError {
    /// The descent is over.
    #[error("the descent has come to a leaf: open it")]
    AtLeaf,
    /// The answer is not what stands below the node.
    #[error(
        "these are not the {expected} nodes below the disputed one: answer with those that hash to it"
    )]
    NotBelow {
        /// How many nodes stand below.
        expected: usize,
    },
    /// There is no such node.
    #[error("there is no node {0} among those of the answer")]
    NoNode(usize),
}

/// A node whose leaves two parties see differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descent {
    node: Digest,
    first: usize,
    leaves: usize,
}

impl Descent {
    /// At the root of a tree of so many leaves.
    pub fn new(root: Digest, leaves: usize) -> Self {
        Self {
            node: root,
            first: 0,
            leaves,
        }
    }

    /// The leaf that it came to, by its number and digest.
    pub fn leaf(&self) -> Option<(usize, Digest)> {
        (self.leaves == 1).then_some((self.first, self.node))
    }

    /// Leaves below each of the next nodes; the last may have fewer.
    fn below(&self) -> usize {
        let mut below = 1;
        while below * ARITY < self.leaves {
            below *= ARITY;
        }
        below
    }

    /// The next nodes, as a party has them that knows all leaves of the tree.
    pub fn nodes(&self, leaves: &[Digest]) -> Vec<Digest> {
        let own = leaves.iter().skip(self.first).take(self.leaves);
        let own: Vec<Digest> = own.copied().collect();
        let parts = own.chunks(self.below());
        parts
            .map(|part| MerkleTree::new(part.to_vec()).root())
            .collect()
    }

    /// Goes down to one of the nodes that were answered.
    pub fn pick(&mut self, answer: &[Digest], picked: usize) -> Result<(), DescentError> {
        if self.leaves <= 1 {
            return Err(DescentError::AtLeaf);
        }
        let (below, expected) = (self.below(), self.leaves.div_ceil(self.below()));
        if answer.len() != expected || MerkleTree::new(answer.to_vec()).root() != self.node {
            return Err(DescentError::NotBelow { expected });
        }
        let node = answer.get(picked).ok_or(DescentError::NoNode(picked))?;
        *self = Self {
            node: *node,
            first: self.first + picked * below,
            leaves: below.min(self.leaves - picked * below),
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use stoa_crypto::keccak256;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_descent_finds_the_first_leaf_that_differs(count in 1usize..1_500, at in any::<u16>(), more in any::<u16>()) {
            let own: Vec<_> = (0..count).map(|i| keccak256(i.to_be_bytes())).collect();
            let mut other = own.clone();
            let first = usize::from(at) % count;
            for changed in [first, first + usize::from(more) % (count - first)] {
                other[changed] = keccak256([1]);
            }
            let mut descent = Descent::new(MerkleTree::new(other.clone()).root(), count);
            let mut rounds = 0;
            while descent.leaf().is_none() {
                let (answer, mine) = (descent.nodes(&other), descent.nodes(&own));
                prop_assert!(answer.len() <= ARITY);
                let other_nodes = descent.pick(&mine, 0);
                prop_assert_eq!(other_nodes, Err(DescentError::NotBelow { expected: answer.len() }));
                let picked = answer.iter().zip(&mine).position(|(a, b)| a != b);
                descent.pick(&answer, picked.expect("they differ")).expect("an honest answer");
                rounds += 1;
            }
            prop_assert_eq!(descent.leaf(), Some((first, other[first])));
            prop_assert_eq!(rounds, [1, 32, 1_024].iter().filter(|n| count > **n).count());
            prop_assert_eq!(descent.pick(&[], 0), Err(DescentError::AtLeaf));
        }
    }
}
