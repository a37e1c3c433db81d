//! The reference loops, written as the semantics page states them.

use crate::packed::{PackedMatrix, PackedValues, TILE_ROWS};
use crate::quant::{BLOCK, Quantised};

pub(super) fn multiply(matrix: &PackedMatrix, vectors: &[Quantised], out: &mut [i64]) {
    let stride = matrix.tiles() * TILE_ROWS;
    for (vector, out) in vectors.iter().zip(out.chunks_exact_mut(stride)) {
        out.fill(0);
        for (row, sum) in out.iter_mut().enumerate().take(matrix.rows()) {
            for block in 0..matrix.blocks() {
                let (weights, scale) = matrix.block(row, block);
                let dot = dot(&weights, &vector.q[block * BLOCK..][..BLOCK]);
                *sum += i64::from(dot) * (i64::from(vector.scale[block]) * i64::from(scale));
            }
        }
    }
}

/// Product sum of one block, at most `32 * 127 * 127` in magnitude.
fn dot(a: &[i8], b: &[i8]) -> i32 {
    a.iter()
        .zip(b)
        .map(|(a, b)| i32::from(*a) * i32::from(*b))
        .sum()
}

pub(super) fn blend(values: &PackedValues, weights: &[i16], out: &mut [i64]) {
    for (column, sum) in out.iter_mut().enumerate() {
        *sum = weights
            .iter()
            .enumerate()
            .map(|(position, w)| i64::from(*w) * i64::from(values.get(position, column)))
            .sum();
    }
}
