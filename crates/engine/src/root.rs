//! The model root: a keccak Merkle tree that a contract can open row by row. `docs/iq8.md` states every byte of it.

use crate::config::Config;
use crate::model::{Tensor, Weights};
use crate::ops::Norm;
use crate::packed::PackedMatrix;
use crate::tables::Tables;
use crate::tokenizer::TokenizerSource;
use std::collections::BTreeMap;
use stoa_crypto::{MerkleTree, double_keccak, keccak256};
use stoa_types::Digest;

/// Name of the semantics. A change of any rule in `docs/iq8.md` changes it.
pub const SEMANTICS: &str = "stoa.iq8.v1";

/// Digest of the semantics' name, for receipts.
pub fn semantics_digest() -> Digest {
    keccak256(SEMANTICS)
}

pub(crate) fn model_root(
    config: &Config,
    tokenizer: &TokenizerSource,
    template: Option<&str>,
    weights: &Weights,
) -> Digest {
    model_tree(config, tokenizer, template, weights).0.root()
}

/// The tree of the root, and the first leaf of each tensor.
pub(crate) fn model_tree(
    config: &Config,
    tokenizer: &TokenizerSource,
    template: Option<&str>,
    weights: &Weights,
) -> (MerkleTree, BTreeMap<u32, usize>) {
    let (mut leaves, mut places) = (Vec::new(), BTreeMap::new());
    for (number, tensor) in weights.tensors() {
        places.insert(number, HEAD + leaves.len());
        leaves.extend(tensor_leaves(number, tensor));
    }
    (tree_of_leaves(config, tokenizer, template, leaves), places)
}

/// Leaves before those of the tensors.
const HEAD: usize = 4;

/// The root, given the leaves of the tensors in the order of their numbers.
pub(crate) fn of_leaves(
    config: &Config,
    tokenizer: &TokenizerSource,
    template: Option<&str>,
    of_tensors: Vec<Digest>,
) -> Digest {
    tree_of_leaves(config, tokenizer, template, of_tensors).root()
}

fn tree_of_leaves(
    config: &Config,
    tokenizer: &TokenizerSource,
    template: Option<&str>,
    of_tensors: Vec<Digest>,
) -> MerkleTree {
    let template = match template {
        Some(text) => [b"\x01", text.as_bytes()].concat(),
        None => vec![0],
    };
    let mut leaves = vec![
        config_leaf(config),
        leaf("tables", &Tables::get().canonical_bytes()),
        leaf("tokenizer", &tokenizer.canonical_bytes()),
        leaf("template", &template),
    ];
    debug_assert_eq!(leaves.len(), HEAD);
    leaves.extend(of_tensors);
    MerkleTree::new(leaves)
}

/// The leaf of a shape.
pub(crate) fn config_leaf(config: &Config) -> Digest {
    leaf("config", &config.canonical_bytes())
}

/// The leaf of a row of a tensor (0 where it is no matrix), given its bytes after the numbers.
pub(crate) fn opened_leaf(tensor: u32, row: Option<usize>, bias: bool, bytes: &[u8]) -> Digest {
    let tensor = tensor.to_be_bytes();
    match row {
        Some(row) => leaf(
            "row",
            &[&tensor, &(row as u32).to_be_bytes(), bytes].concat(),
        ),
        None if bias => leaf("bias", &[&tensor, bytes].concat()),
        None => leaf("norm", &[&tensor, bytes].concat()),
    }
}

/// Those bytes.
pub(crate) fn opened_bytes(tensor: Tensor<'_>, row: usize) -> Vec<u8> {
    match tensor {
        Tensor::Matrix(matrix) => row_bytes(matrix, row),
        Tensor::Norm(norm) => norm_bytes(norm),
        Tensor::Bias(bias) => bias_bytes(bias),
    }
}

/// The leaves of a tensor.
pub(crate) fn tensor_leaves(number: u32, tensor: Tensor<'_>) -> Vec<Digest> {
    match tensor {
        Tensor::Matrix(matrix) => matrix_leaves(number, matrix),
        Tensor::Norm(norm) => vec![opened_leaf(number, None, false, &norm_bytes(norm))],
        Tensor::Bias(bias) => vec![opened_leaf(number, None, true, &bias_bytes(bias))],
    }
}

/// keccak twice of the semantics' name, a zero byte, the kind, a zero byte and the body.
fn leaf(kind: &str, body: &[u8]) -> Digest {
    double_keccak([SEMANTICS.as_bytes(), &[0], kind.as_bytes(), &[0], body].concat())
}

fn matrix_leaves(tensor: u32, matrix: &PackedMatrix) -> Vec<Digest> {
    let row_leaf = |row| opened_leaf(tensor, Some(row), false, &row_bytes(matrix, row));
    (0..matrix.rows()).map(row_leaf).collect()
}

fn row_bytes(matrix: &PackedMatrix, row: usize) -> Vec<u8> {
    let (q, scales) = matrix.row(row);
    let mut bytes = Vec::with_capacity(4 + q.len() + 2 * scales.len());
    bytes.extend(matrix.exponent.to_be_bytes());
    bytes.extend(scales.iter().flat_map(|s| s.to_be_bytes()));
    bytes.extend(q.iter().map(|q| *q as u8));
    bytes
}

fn bias_bytes(bias: &[i32]) -> Vec<u8> {
    bias.iter().flat_map(|b| b.to_be_bytes()).collect()
}

fn norm_bytes(norm: &Norm) -> Vec<u8> {
    let mut bytes = norm.exponent.to_be_bytes().to_vec();
    bytes.extend(norm.g.iter().flat_map(|g| g.to_be_bytes()));
    bytes
}
