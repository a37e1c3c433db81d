//! The model root: a keccak Merkle tree that a contract can open row by row. `docs/iq8.md` states every byte of it.

use crate::config::Config;
use crate::model::{Layer, Weights};
use crate::ops::Norm;
use crate::packed::PackedMatrix;
use crate::tables::Tables;
use crate::tokenizer::TokenizerSource;
use stoa_crypto::{MerkleTree, double_keccak, keccak256};
use stoa_types::Digest;

/// Name of the semantics. A change of any rule in `docs/iq8.md` changes it.
pub const SEMANTICS: &str = "stoa.iq8.v0";

/// Digest of the semantics' name, for receipts.
pub fn semantics_digest() -> Digest {
    keccak256(SEMANTICS)
}

/// First index of a layer's tensors, and their number per layer.
const FIRST_LAYER: u32 = 3;
const PER_LAYER: u32 = 9;

pub(crate) fn model_root(
    config: &Config,
    tokenizer: &TokenizerSource,
    template: Option<&str>,
    weights: &Weights,
) -> Digest {
    let template = match template {
        Some(text) => [b"\x01", text.as_bytes()].concat(),
        None => vec![0],
    };
    let mut leaves = vec![
        leaf("config", &config.canonical_bytes()),
        leaf("tables", &Tables::get().canonical_bytes()),
        leaf("tokenizer", &tokenizer.canonical_bytes()),
        leaf("template", &template),
    ];
    matrix_leaves(&mut leaves, 0, &weights.embedding);
    leaves.push(norm_leaf(1, &weights.output_norm));
    if let Some(output) = &weights.output {
        matrix_leaves(&mut leaves, 2, output);
    }
    for (first, layer) in (FIRST_LAYER..)
        .step_by(PER_LAYER as usize)
        .zip(&weights.layers)
    {
        layer_leaves(&mut leaves, first, layer);
    }
    MerkleTree::new(leaves).root()
}

fn layer_leaves(leaves: &mut Vec<Digest>, first: u32, layer: &Layer) {
    leaves.push(norm_leaf(first, &layer.attention_norm));
    matrix_leaves(leaves, first + 1, &layer.query);
    matrix_leaves(leaves, first + 2, &layer.key);
    matrix_leaves(leaves, first + 3, &layer.value);
    matrix_leaves(leaves, first + 4, &layer.attention_output);
    leaves.push(norm_leaf(first + 5, &layer.ffn_norm));
    matrix_leaves(leaves, first + 6, &layer.gate);
    matrix_leaves(leaves, first + 7, &layer.up);
    matrix_leaves(leaves, first + 8, &layer.down);
}

/// keccak twice of the semantics' name, a zero byte, the kind, a zero byte and the body.
fn leaf(kind: &str, body: &[u8]) -> Digest {
    double_keccak([SEMANTICS.as_bytes(), &[0], kind.as_bytes(), &[0], body].concat())
}

fn matrix_leaves(leaves: &mut Vec<Digest>, tensor: u32, matrix: &PackedMatrix) {
    for row in 0..matrix.rows() {
        let (q, scales) = matrix.row(row);
        let mut body = Vec::with_capacity(12 + q.len() + 2 * scales.len());
        body.extend(tensor.to_be_bytes());
        body.extend((row as u32).to_be_bytes());
        body.extend(matrix.exponent.to_be_bytes());
        body.extend(scales.iter().flat_map(|s| s.to_be_bytes()));
        body.extend(q.iter().map(|q| *q as u8));
        leaves.push(leaf("row", &body));
    }
}

fn norm_leaf(tensor: u32, norm: &Norm) -> Digest {
    let mut body = tensor.to_be_bytes().to_vec();
    body.extend(norm.exponent.to_be_bytes());
    body.extend(norm.g.iter().flat_map(|g| g.to_be_bytes()));
    leaf("norm", &body)
}
