//! All verdicts of one validator in one round, under one root.
//!
//! The tree is a binary trie over the bits of the subjects, without the nodes that have one child. A node is
//! `keccak256(abi.encode(bit, left, right))`, where `bit` (0 is the highest) is the first one in which the subjects below it differ. Under one
//! root, a subject therefore leads to one leaf at most: whoever checks a proof walks by the subject's own bits. A ballot with two verdicts
//! on one subject cannot be made, so nobody can commit to both answers and show the one that suits.

use super::{Outcome, hash};
use std::collections::BTreeMap;
use stoa_crypto::{Words, keccak256};
use stoa_types::Digest;

/// What one validator found about one subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// What it found.
    pub outcome: Outcome,
    /// Digest of what it recomputed; zero where there is nothing to recompute.
    pub digest: Digest,
}

/// One step of a proof, from the leaf up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Which bit of the subject decides the side.
    pub bit: u8,
    /// Root of the other side.
    pub sibling: Digest,
}

/// Verdicts by subject.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ballot(BTreeMap<Digest, Verdict>);

impl Ballot {
    /// A ballot without verdicts; its root is zero.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a verdict, or replaces the one on the same subject.
    pub fn insert(&mut self, subject: Digest, verdict: Verdict) {
        self.0.insert(subject, verdict);
    }

    /// The verdict on a subject.
    pub fn get(&self, subject: &Digest) -> Option<Verdict> {
        self.0.get(subject).copied()
    }

    /// All verdicts, by subject.
    pub fn iter(&self) -> impl Iterator<Item = (&Digest, &Verdict)> {
        self.0.iter()
    }

    /// What is committed.
    pub fn root(&self) -> Digest {
        root_of(&self.sorted())
    }

    /// The way from a verdict to the root; `None` when the ballot says nothing about the subject.
    pub fn proof(&self, subject: &Digest) -> Option<Vec<Step>> {
        self.0.get(subject)?;
        let sorted = self.sorted();
        let mut rest = sorted.as_slice();
        let mut steps = Vec::new();
        while let Some((bit, low, high)) = parted(rest) {
            let (own, other) = if is_set(subject, bit) {
                (high, low)
            } else {
                (low, high)
            };
            let sibling = root_of(other);
            steps.push(Step { bit, sibling });
            rest = own;
        }
        steps.reverse();
        Some(steps)
    }

    fn sorted(&self) -> Vec<(Digest, Verdict)> {
        self.0.iter().map(|(s, v)| (*s, *v)).collect()
    }
}

/// A ballot with all nodes of its tree: a proof is a walk down, where [`Ballot::proof`] hashes the whole ballot each time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BallotTree {
    ballot: Ballot,
    top: Branch,
    nodes: Vec<Node>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Branch {
    root: Digest,
    /// Its place among the nodes; `None` for a leaf.
    at: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Node {
    bit: u8,
    low: Branch,
    high: Branch,
}

impl BallotTree {
    /// Hashes the ballot once.
    pub fn new(ballot: Ballot) -> Self {
        let mut nodes = Vec::new();
        let top = branch_of(&ballot.sorted(), &mut nodes);
        Self { ballot, top, nodes }
    }

    /// The verdicts.
    pub fn ballot(&self) -> &Ballot {
        &self.ballot
    }

    /// As [`Ballot::root`].
    pub fn root(&self) -> Digest {
        self.top.root
    }

    /// As [`Ballot::proof`].
    pub fn proof(&self, subject: &Digest) -> Option<Vec<Step>> {
        self.ballot.get(subject)?;
        let mut steps = Vec::new();
        let mut branch = self.top;
        while let Some(node) = branch.at.and_then(|at| self.nodes.get(at)) {
            let (own, other) = if is_set(subject, node.bit) {
                (node.high, node.low)
            } else {
                (node.low, node.high)
            };
            steps.push(Step {
                bit: node.bit,
                sibling: other.root,
            });
            branch = own;
        }
        steps.reverse();
        Some(steps)
    }
}

fn branch_of(sorted: &[(Digest, Verdict)], nodes: &mut Vec<Node>) -> Branch {
    let Some((bit, low, high)) = parted(sorted) else {
        let root = root_of(sorted);
        return Branch { root, at: None };
    };
    let (low, high) = (branch_of(low, nodes), branch_of(high, nodes));
    nodes.push(Node { bit, low, high });
    Branch {
        root: node_of(bit, low.root, high.root),
        at: Some(nodes.len() - 1),
    }
}

/// The root that `verdict` on `subject` leads to by `proof`.
pub fn root_from(subject: Digest, verdict: Verdict, proof: &[Step]) -> Digest {
    let leaf = hash::verdict_leaf(subject, verdict.outcome, verdict.digest);
    proof.iter().fold(leaf, |node, step| {
        if is_set(&subject, step.bit) {
            node_of(step.bit, step.sibling, node)
        } else {
            node_of(step.bit, node, step.sibling)
        }
    })
}

fn node_of(bit: u8, left: Digest, right: Digest) -> Digest {
    let words = Words::new().uint(bit).digest(left).digest(right);
    keccak256(words.as_bytes())
}

fn is_set(subject: &Digest, bit: u8) -> bool {
    subject.0[usize::from(bit / 8)] >> (7 - bit % 8) & 1 == 1
}

/// A sorted run of two or more subjects, parted at the first bit in which they differ.
#[allow(clippy::type_complexity)] // two halves of one slice
fn parted(
    sorted: &[(Digest, Verdict)],
) -> Option<(u8, &[(Digest, Verdict)], &[(Digest, Verdict)])> {
    let (first, last) = (sorted.first()?.0, sorted.last()?.0);
    let bit = (0..=u8::MAX).find(|bit| is_set(&first, *bit) != is_set(&last, *bit))?;
    let at = sorted.partition_point(|(subject, _)| !is_set(subject, bit));
    let (low, high) = sorted.split_at(at);
    Some((bit, low, high))
}

/// Depth of the recursion: at most the 256 bits of a subject.
fn root_of(sorted: &[(Digest, Verdict)]) -> Digest {
    match (parted(sorted), sorted.first()) {
        (Some((bit, low, high)), _) => node_of(bit, root_of(low), root_of(high)),
        (None, Some((subject, verdict))) => {
            hash::verdict_leaf(*subject, verdict.outcome, verdict.digest)
        }
        (None, None) => Digest::ZERO,
    }
}
