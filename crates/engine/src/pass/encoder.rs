//! What an encoder has and a decoder has not: vectors of positions and token types, and norms that make residuals.

use super::room::Worker;
use super::{ELEMENT, Pass, gather, own, spread};
use crate::kernel::Work;
use crate::model::{EncoderWeights, LayerNorm};
use crate::norms::{add_bias, layer_norm};
use crate::ops;

/// Adds the vectors of a position and of the first token type to a token's.
pub(super) fn embed(weights: &EncoderWeights, position: usize, row: &mut [i32], room: &mut [i32]) {
    for (table, at) in [(&weights.positions, position), (&weights.token_types, 0)] {
        ops::embed(table, at, room);
        add_bias(row, room);
    }
}

impl Pass<'_> {
    /// LayerNorm of every row's residual, in its place.
    pub(super) fn layer_norm(&mut self, norm: &LayerNorm) {
        let (model, threads, count) = (self.model, self.threads, self.count);
        let (width, epsilon_q32) = (model.config().width, model.config().epsilon_q32);
        let room = &mut *self.room;
        let (residual, workers) = (&mut room.residual, &room.workers);
        let made = &mut room.normalised[..count * width];
        threads.share(made, width, width * ELEMENT, |first, out| {
            model.kernel().run(Normalise {
                residual,
                count,
                first,
                norm,
                epsilon_q32,
                worker: &mut own(threads, workers),
                out,
            });
        });
        for (row, made) in made.chunks_exact(width).enumerate() {
            spread(made, residual, count, row);
        }
    }
}

/// LayerNorm of neighbouring rows.
struct Normalise<'a> {
    residual: &'a [i32],
    count: usize,
    first: usize,
    norm: &'a LayerNorm,
    epsilon_q32: u64,
    worker: &'a mut Worker,
    /// Row after row.
    out: &'a mut [i32],
}

impl Work for Normalise<'_> {
    #[inline(always)]
    fn run(self) {
        let LayerNorm { norm, bias } = self.norm;
        let wide = &mut self.worker.wide[..norm.g.len()];
        for (i, out) in self.out.chunks_exact_mut(norm.g.len()).enumerate() {
            gather(self.residual, self.count, self.first + i, out);
            layer_norm(out, norm, bias, self.epsilon_q32, wide);
        }
    }
}
