//! Digests of a trace: leaves, operators, steps, the log of keys and values, states, tokens, the whole. `docs/trace.md` states every byte.

use super::values::{Cell, Values};
use serde::{Deserialize, Serialize};
use stoa_crypto::{MerkleFrontier, MerkleTree, double_keccak};
use stoa_types::Digest;

/// Name of the rules in `docs/trace.md`. A change of any of them changes it.
pub const TRACE: &str = "stoa.trace.v1";

/// keccak twice of the rules' name, a zero byte, the kind, a zero byte and the body.
fn leaf(kind: &str, body: &[&[u8]]) -> Digest {
    let mut bytes = Vec::with_capacity(64 + body.iter().map(|part| part.len()).sum::<usize>());
    bytes.extend(TRACE.as_bytes());
    bytes.push(0);
    bytes.extend(kind.as_bytes());
    bytes.push(0);
    body.iter().for_each(|part| bytes.extend(*part));
    double_keccak(bytes)
}

/// 4 bytes of a number that is below `2^32` by the limits of shapes and positions.
fn be(number: usize) -> [u8; 4] {
    (number as u32).to_be_bytes()
}

/// Leaf of an output: its number, how many there are, its bytes.
pub fn output_leaf(index: usize, count: usize, bytes: &[u8]) -> Digest {
    leaf("output", &[&be(index), &be(count), bytes])
}

/// Tree of an output.
pub fn output_tree(values: &Values) -> MerkleTree {
    let leaves = values.leaves();
    let count = leaves.len();
    let digests = leaves.iter().enumerate();
    MerkleTree::new(
        digests
            .map(|(i, bytes)| output_leaf(i, count, bytes))
            .collect(),
    )
}

/// Leaf of a step: the operator's number, how many there are, its output's root.
pub fn operator_leaf(index: usize, count: usize, output: Digest) -> Digest {
    leaf("operator", &[&be(index), &be(count), output.as_bytes()])
}

/// Tree of a step over the roots of its operators' outputs.
pub fn step_tree(outputs: &[Digest]) -> MerkleTree {
    let leaf = |(i, root): (usize, &Digest)| operator_leaf(i, outputs.len(), *root);
    MerkleTree::new(outputs.iter().enumerate().map(leaf).collect())
}

/// Leaf of the log: a key or value head of a position.
pub fn entry_leaf(position: usize, entry: &Cell) -> Digest {
    leaf("entry", &[&be(position), &entry.bytes()])
}

/// Leaf over the trees of a log: the tree's number, how many there are, its entries, its root.
pub fn entries_leaf(index: usize, count: usize, entries: usize, root: Digest) -> Digest {
    let numbers = [be(index), be(count), be(entries)].concat();
    leaf("entries", &[&numbers, root.as_bytes()])
}

/// Roots of the trees of a log, all with as many entries, as leaves.
pub(super) fn log_tree(entries: usize, roots: impl ExactSizeIterator<Item = Digest>) -> MerkleTree {
    let count = roots.len();
    let leaf = |(i, root)| entries_leaf(i, count, entries, root);
    MerkleTree::new(roots.enumerate().map(leaf).collect())
}

/// What a token step begins with and leaves behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// Tokens so far.
    pub position: u32,
    /// Root of the last one's residual after the last layer; zero before the first token.
    pub residual: Digest,
    /// Root of the log of keys and values; of empty trees before the first token.
    pub log: Digest,
}

impl State {
    /// The state root.
    pub fn root(&self) -> Digest {
        let position = self.position.to_be_bytes();
        leaf(
            "state",
            &[&position, self.residual.as_bytes(), self.log.as_bytes()],
        )
    }
}

/// What is claimed of one token's step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenClaim {
    /// The token that the step takes.
    pub token: u32,
    /// State before it.
    pub before: State,
    /// Root over the operators' outputs.
    pub step: Digest,
    /// State after it.
    pub after: State,
}

impl TokenClaim {
    /// The token root.
    pub fn root(&self) -> Digest {
        let token = self.token.to_be_bytes();
        let (before, after) = (self.before.root(), self.after.root());
        let body = [
            &token[..],
            before.as_bytes(),
            self.step.as_bytes(),
            after.as_bytes(),
        ];
        leaf("token", &body)
    }
}

/// Leaf of a trace: the number of a state, how many there are, its root.
pub fn state_leaf(index: usize, count: usize, state: Digest) -> Digest {
    leaf("trace", &[&be(index), &be(count), state.as_bytes()])
}

/// Tree of a trace over its state roots, the one before the first token included.
pub fn trace_tree(states: &[Digest]) -> MerkleTree {
    let leaf = |(i, root): (usize, &Digest)| state_leaf(i, states.len(), *root);
    MerkleTree::new(states.iter().enumerate().map(leaf).collect())
}

/// The log of keys and values as trees that grow: layer after layer, key head after key head, its keys, then its values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogTrees {
    trees: Vec<MerkleFrontier>,
    entries: usize,
}

impl LogTrees {
    /// An empty log of so many trees.
    pub fn new(trees: usize) -> Self {
        Self {
            trees: vec![MerkleFrontier::default(); trees],
            entries: 0,
        }
    }

    /// Positions in it.
    pub fn entries(&self) -> usize {
        self.entries
    }

    /// One tree.
    pub fn tree(&self, index: usize) -> Option<&MerkleFrontier> {
        self.trees.get(index)
    }

    /// Appends a position: an entry for each tree in order.
    pub fn append<'a>(&mut self, entries: impl IntoIterator<Item = &'a Cell>) {
        for (tree, entry) in self.trees.iter_mut().zip(entries) {
            tree.push(entry_leaf(self.entries, entry));
        }
        self.entries += 1;
    }

    /// Tree over the roots of all.
    pub fn tree_of_roots(&self) -> MerkleTree {
        log_tree(self.entries, self.trees.iter().map(MerkleFrontier::root))
    }

    /// The log's root.
    pub fn root(&self) -> Digest {
        self.tree_of_roots().root()
    }
}
