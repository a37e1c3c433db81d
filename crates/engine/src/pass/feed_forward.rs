//! What follows attention in a layer: a network with a gate, one without, or a mixture of experts.

use super::product::{Joint, Product, Term, Up};
use super::room::{MixtureRoom, Room, Worker};
use super::{ELEMENT, Out, Pass, Quantise, Rows, gather, own, spread, term, tile_work};
use crate::config::Experts;
use crate::experts::{Chosen, add_shared, add_weighted, finish_mixture, route};
use crate::kernel::{Kernel, Work};
use crate::model::{FeedForward, Gated, Layer, Mixture};
use crate::norms::{add_bias, norm_in_place};
use crate::ops::{FRACTION, Norm};
use crate::packed::{PackedMatrix, TILE_ROWS};
use crate::quant::Quantised;
use crate::threads::Threads;

/// Rows that a network takes.
#[derive(Clone, Copy)]
enum Taken {
    /// All of the pass.
    All,
    /// The first of those that an expert was chosen for.
    Chosen(usize),
}

impl Pass<'_> {
    pub(super) fn feed_forward(&mut self, layer: &Layer) {
        self.enter(&layer.ffn_norm);
        match &layer.feed_forward {
            FeedForward::Gated(gated) => {
                self.up(&gated.up, Joint::Gate(&gated.gate), Taken::All);
                self.product(&[(&gated.down, &[])], Rows::Hidden, Out::Residual);
            }
            FeedForward::Plain { up, down } => {
                self.up(&up.matrix, Joint::Bias(&up.bias), Taken::All);
                self.product(&[term(down)], Rows::Hidden, Out::Residual);
            }
            FeedForward::Experts(mixture) => self.experts(&layer.ffn_norm.norm, mixture),
        }
        self.leave(&layer.ffn_norm);
    }

    fn taken(&self, taken: Taken) -> usize {
        match taken {
            Taken::All => self.count,
            Taken::Chosen(count) => count,
        }
    }

    /// What the first matrices of a network make of some rows, quantised: in `hidden`.
    fn up(&mut self, up: &PackedMatrix, joint: Joint<'_>, taken: Taken) {
        let (kernel, threads, count) = (self.model.kernel(), self.threads, self.taken(taken));
        let work = 2 * tile_work(up, count);
        let room = &mut *self.room;
        let vectors = match taken {
            Taken::All => &room.narrow[..count],
            Taken::Chosen(_) => &room.mixture.vectors[..count],
        };
        let row = count * TILE_ROWS;
        let products = &mut room.products[..up.tiles() * row];
        threads.share(products, row, work, |first_tile, out| {
            kernel.run(Up {
                kernel,
                up,
                joint,
                first_tile,
                vectors,
                out,
            });
        });
        let fraction = match joint {
            Joint::Gate(_) => 2 * FRACTION,
            Joint::Bias(_) => FRACTION,
        };
        self.gather_hidden(up.rows(), fraction, count);
    }

    /// Products of every row, quantised.
    fn gather_hidden(&mut self, width: usize, fraction: i32, count: usize) {
        let (model, threads) = (self.model, self.threads);
        let Room {
            products,
            hidden,
            workers,
            ..
        } = &mut *self.room;
        let products = &products[..];
        threads.share(&mut hidden[..count], 1, width * ELEMENT, |first, out| {
            let mut worker = own(threads, workers);
            let wide = &mut worker.wide[..width];
            for (i, out) in out.iter_mut().enumerate() {
                out.set_len(width);
                gather(products, count, first + i, wide);
                model.kernel().run(Quantise {
                    wide,
                    fraction,
                    out,
                });
            }
        });
    }

    fn experts(&mut self, norm: &Norm, mixture: &Mixture) {
        let c = self.model.config();
        // Written into the table by the importer together with the tensors.
        let Some(experts) = &c.architecture.experts else {
            return;
        };
        let shared = mixture.shared.as_ref().map(|(_, row)| row);
        self.choose(norm, &mixture.routers, shared, experts);
        for (number, expert) in mixture.experts.iter().enumerate() {
            let rows = self
                .room
                .mixture
                .gather(number, &self.room.narrow, self.count);
            if rows > 0 {
                self.expert(expert, Taken::Chosen(rows));
                self.room.mixture.add(c.width);
            }
        }
        if let Some((shared, _)) = &mixture.shared {
            self.expert(shared, Taken::All);
        }
        self.join(mixture.shared.is_some());
    }

    /// The router's choice for every row, and what the shared expert's says.
    fn choose(&mut self, norm: &Norm, routers: &[Norm], shared: Option<&Norm>, experts: &Experts) {
        let (model, threads, count) = (self.model, self.threads, self.count);
        let c = model.config();
        let room = &mut *self.room;
        let (residual, workers) = (&room.residual, &room.workers);
        let chosen = &mut room.mixture.chosen[..count];
        let work = c.width * (ELEMENT + 8 * experts.count);
        threads.share(chosen, 1, work, |first, out| {
            model.kernel().run(Route {
                residual,
                count,
                first,
                norm,
                epsilon_q32: c.epsilon_q32,
                routers,
                shared,
                experts,
                worker: &mut own(threads, workers),
                out,
            });
        });
        room.mixture.sums[..count * c.width].fill(0);
    }

    /// What an expert makes of some rows: in `outputs`.
    fn expert(&mut self, expert: &Gated, taken: Taken) {
        self.up(&expert.up, Joint::Gate(&expert.gate), taken);
        let count = self.taken(taken);
        let room = &mut *self.room;
        let (vectors, outputs) = (&room.hidden[..count], &mut room.mixture.outputs);
        into(
            self.model.kernel(),
            self.threads,
            &expert.down,
            vectors,
            outputs,
        );
    }

    /// Adds what the experts made to the residuals; `outputs` are those of the shared one.
    fn join(&mut self, shared: bool) {
        let (count, width) = (self.count, self.model.config().width);
        let room = &mut *self.room;
        let mixture = &mut room.mixture;
        let sums = mixture.sums.chunks_exact(width);
        for (row, (sums, chosen)) in sums.zip(&mixture.chosen[..count]).enumerate() {
            let (out, place) = (&mut mixture.wide[..width], &mut mixture.row[..width]);
            finish_mixture(sums, chosen.total, out);
            if shared {
                gather(&mixture.outputs, count, row, place);
                add_shared(place, chosen.shared, out);
            }
            gather(&room.residual, count, row, place);
            add_bias(place, out);
            spread(place, &mut room.residual, count, row);
        }
    }
}

impl MixtureRoom {
    /// Rows that an expert was chosen for, with their vectors; their number.
    fn gather(&mut self, expert: usize, narrow: &[Quantised], count: usize) -> usize {
        self.rows.clear();
        for (row, chosen) in self.chosen[..count].iter().enumerate() {
            let weight = chosen.experts.iter().find(|(e, _)| *e == expert);
            if let Some((_, weight)) = weight {
                self.vectors[self.rows.len()].copy_from(&narrow[row]);
                self.rows.push((row, *weight));
            }
        }
        self.rows.len()
    }

    /// Adds the outputs of an expert to the sums of the rows that it was chosen for.
    fn add(&mut self, width: usize) {
        let place = &mut self.row[..width];
        for (i, (row, weight)) in self.rows.iter().enumerate() {
            gather(&self.outputs, self.rows.len(), i, place);
            add_weighted(place, *weight, &mut self.sums[row * width..][..width]);
        }
    }
}

/// Experts for neighbouring rows.
struct Route<'a> {
    residual: &'a [i32],
    count: usize,
    first: usize,
    norm: &'a Norm,
    epsilon_q32: u64,
    routers: &'a [Norm],
    shared: Option<&'a Norm>,
    experts: &'a Experts,
    worker: &'a mut Worker,
    out: &'a mut [Chosen],
}

impl Work for Route<'_> {
    #[inline(always)]
    fn run(self) {
        let Worker {
            row, wide, scores, ..
        } = self.worker;
        let width = self.norm.g.len();
        let (row, wide) = (&mut row[..width], &mut wide[..width]);
        for (i, chosen) in self.out.iter_mut().enumerate() {
            gather(self.residual, self.count, self.first + i, row);
            norm_in_place(row, self.norm, self.epsilon_q32, wide);
            for (score, router) in scores.iter_mut().zip(self.routers) {
                *score = route(router, row);
            }
            chosen.choose(scores, self.experts);
            if let Some(shared) = self.shared {
                chosen.shared = route(shared, row);
            }
        }
    }
}

/// A matrix times some rows, tiled, into a place of its own.
fn into(
    kernel: Kernel,
    threads: &Threads,
    matrix: &PackedMatrix,
    vectors: &[Quantised],
    out: &mut [i32],
) {
    let row = vectors.len() * TILE_ROWS;
    let work = tile_work(matrix, vectors.len());
    let matrices: [Term<'_>; 1] = [(matrix, &[])];
    let out = &mut out[..matrix.tiles() * row];
    threads.share(out, row, work, |first_tile, out| {
        kernel.run(Product {
            kernel,
            matrices: &matrices,
            first_tile,
            vectors,
            add: false,
            out,
        });
    });
}
