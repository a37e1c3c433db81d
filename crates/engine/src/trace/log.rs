//! The log of keys and values as a plain list, and its trees at any position.

use super::commit::{LogTrees, entry_leaf};
use super::values::Cell;
use crate::cache::{CacheEntry, Sequence};
use crate::config::Config;
use stoa_crypto::MerkleTree;

impl From<CacheEntry> for Cell {
    fn from(entry: CacheEntry) -> Self {
        Self {
            exponent: i32::from(entry.exponent),
            scales: entry.scales,
            q: entry.q,
        }
    }
}

/// Keys and values of positions: layer after layer, key head after key head, the keys, then the values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    trees: Vec<Vec<Cell>>,
}

impl Log {
    /// An empty log of a model.
    pub fn new(config: &Config) -> Self {
        Self {
            trees: vec![Vec::new(); 2 * config.layers * config.kv_heads],
        }
    }

    /// Appends what a sequence holds from the log's end on.
    pub(super) fn extend(&mut self, sequence: &Sequence, config: &Config) {
        let positions = self.len()..sequence.len();
        for layer in 0..config.layers {
            for head in 0..config.kv_heads {
                let tree = 2 * (layer * config.kv_heads + head);
                for position in positions.clone() {
                    let [key, value] = sequence.entry(layer, head, position);
                    self.trees[tree].push(key.into());
                    self.trees[tree + 1].push(value.into());
                }
            }
        }
    }

    /// Positions in it.
    pub fn len(&self) -> usize {
        self.trees.first().map_or(0, Vec::len)
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Entries of one tree.
    pub fn tree(&self, index: usize) -> &[Cell] {
        &self.trees[index]
    }

    /// What one position appended, a cell for each tree.
    pub fn position(&self, position: usize) -> impl Iterator<Item = &Cell> {
        self.trees.iter().map(move |tree| &tree[position])
    }

    /// Trees over the first positions.
    pub fn trees_at(&self, positions: usize) -> LogTrees {
        let mut trees = LogTrees::new(self.trees.len());
        for position in 0..positions.min(self.len()) {
            trees.append(self.position(position));
        }
        trees
    }

    /// One tree over the first positions, with all its levels.
    pub fn merkle(&self, index: usize, positions: usize) -> MerkleTree {
        let entries = self.trees[index][..positions].iter().enumerate();
        MerkleTree::new(entries.map(|(p, cell)| entry_leaf(p, cell)).collect())
    }
}
