//! The reference loops, written as the semantics page states them.

use super::Sums;
use crate::packed::{PackedValues, TILE_ROWS, Tile};
use crate::quant::{BLOCK, Quantised};

pub(super) fn tile(tile: Tile<'_>, vectors: &[&Quantised], sums: &mut Sums) {
    for (vector, sums) in vectors.iter().zip(sums) {
        *sums = [0; TILE_ROWS];
        for (row, sum) in sums.iter_mut().enumerate() {
            for block in 0..tile.blocks() {
                let (weights, scale) = tile.block(row, block);
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
        *sum += weights
            .iter()
            .enumerate()
            .map(|(position, w)| i64::from(*w) * i64::from(values.get(position, column)))
            .sum::<i64>();
    }
}
