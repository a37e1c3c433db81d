//! Matrices times rows, by tiles.

use crate::kernel::{Kernel, LANES, Sums, Work};
use crate::norms::add_bias;
use crate::ops;
use crate::packed::{PackedMatrix, TILE_ROWS};
use crate::quant::Quantised;

/// A matrix and its bias, empty where it has none.
pub(super) type Term<'a> = (&'a PackedMatrix, &'a [i32]);

/// Neighbouring tiles of some matrices that stand one below the other, times all rows of a pass.
pub(super) struct Product<'a> {
    pub kernel: Kernel,
    pub matrices: &'a [Term<'a>],
    /// First tile, counted through all matrices.
    pub first_tile: usize,
    pub vectors: &'a [Quantised],
    /// Whether the product is added to what stands there.
    pub add: bool,
    /// Tiled, 16 fraction bits.
    pub out: &'a mut [i32],
}

impl Work for Product<'_> {
    #[inline(always)]
    fn run(self) {
        let mut sums = Sums::default();
        let (mut matrix, mut first) = (0, 0);
        let tiles = self.out.chunks_exact_mut(self.vectors.len() * TILE_ROWS);
        for (tile, out) in (self.first_tile..).zip(tiles) {
            while tile - first >= self.matrices[matrix].0.tiles() {
                first += self.matrices[matrix].0.tiles();
                matrix += 1;
            }
            let (matrix, bias) = self.matrices[matrix];
            let rows = matrix.tile(tile - first);
            let bias = bias.get((tile - first) * TILE_ROWS..).unwrap_or(&[]);
            let lanes = self.vectors.chunks(LANES);
            for (lanes, out) in lanes.zip(out.chunks_mut(LANES * TILE_ROWS)) {
                let mut vectors = [&lanes[0]; LANES];
                vectors.iter_mut().zip(lanes).for_each(|(to, v)| *to = v);
                self.kernel.tile(rows, &vectors[..lanes.len()], &mut sums);
                let outs = out.chunks_exact_mut(TILE_ROWS);
                for ((sums, vector), out) in sums.iter().zip(lanes).zip(outs) {
                    let exponent = matrix.exponent + vector.exponent;
                    if !self.add {
                        ops::finish(sums, exponent, out);
                        add_bias(out, bias);
                    } else if bias.is_empty() {
                        ops::finish_onto(sums, exponent, out);
                    } else {
                        let mut product = [0; TILE_ROWS];
                        ops::finish(sums, exponent, &mut product);
                        add_bias(&mut product, bias);
                        add_bias(out, &product);
                    }
                }
            }
        }
    }
}

/// What joins the products of a feed-forward network's first matrices.
#[derive(Clone, Copy)]
pub(super) enum Joint<'a> {
    /// SwiGLU of this gate and the up matrix: 32 fraction bits.
    Gate(&'a PackedMatrix),
    /// GELU of the up matrix and this bias: 16 fraction bits.
    Bias(&'a [i32]),
}

/// Neighbouring tiles of the up matrix, and of the gate's where there is one, times all rows.
pub(super) struct Up<'a> {
    pub kernel: Kernel,
    pub up: &'a PackedMatrix,
    pub joint: Joint<'a>,
    pub first_tile: usize,
    pub vectors: &'a [Quantised],
    /// Tiled.
    pub out: &'a mut [i64],
}

impl Work for Up<'_> {
    #[inline(always)]
    fn run(self) {
        let (mut sums, mut gates, mut ups) = (
            Sums::default(),
            [[0; TILE_ROWS]; LANES],
            [[0; TILE_ROWS]; LANES],
        );
        let tiles = self.out.chunks_exact_mut(self.vectors.len() * TILE_ROWS);
        for (tile, out) in (self.first_tile..).zip(tiles) {
            let lanes = self.vectors.chunks(LANES);
            for (lanes, out) in lanes.zip(out.chunks_mut(LANES * TILE_ROWS)) {
                let mut vectors = [&lanes[0]; LANES];
                vectors.iter_mut().zip(lanes).for_each(|(to, v)| *to = v);
                let vectors = &vectors[..lanes.len()];
                let gate = match self.joint {
                    Joint::Gate(gate) => Some((gate, &mut gates)),
                    Joint::Bias(_) => None,
                };
                for (matrix, outs) in gate.into_iter().chain([(self.up, &mut ups)]) {
                    self.kernel.tile(matrix.tile(tile), vectors, &mut sums);
                    for ((sums, vector), out) in sums.iter().zip(lanes).zip(outs) {
                        ops::finish(sums, matrix.exponent + vector.exponent, out);
                    }
                }
                let outs = out.chunks_exact_mut(TILE_ROWS);
                for ((gate, up), out) in gates.iter().zip(&mut ups).zip(outs) {
                    match self.joint {
                        Joint::Gate(_) => ops::swiglu(gate, up, out),
                        Joint::Bias(bias) => {
                            add_bias(up, bias.get(tile * TILE_ROWS..).unwrap_or(&[]));
                            ops::gelu(up, out);
                        }
                    }
                }
            }
        }
    }
}
