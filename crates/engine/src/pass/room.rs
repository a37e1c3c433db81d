//! Memory that passes work in: grown to the largest pass so far, then reused.

use super::Row;
use super::attention::AttentionRoom;
use crate::config::Config;
use crate::experts::Chosen;
use crate::model::Model;
use crate::packed::TILE_ROWS;
use crate::quant::Quantised;
use std::sync::{Mutex, PoisonError};

/// What is *tiled* is said in the module above.
#[derive(Debug)]
pub(super) struct Room {
    pub rows: Vec<Row>,
    /// Tiled, 16 fraction bits.
    pub residual: Vec<i32>,
    /// Cosines and sines of each row.
    pub rotations: Vec<Vec<(i32, i32)>>,
    pub narrow: Vec<Quantised>,
    /// Queries, then keys, then values; tiled.
    pub query_key_value: Vec<i32>,
    /// Key head after key head; of each, row after row the query heads that share it.
    pub attended: Vec<i32>,
    pub heads: Vec<Quantised>,
    /// Tiled, fraction bits as the network's joint has them.
    pub products: Vec<i64>,
    pub hidden: Vec<Quantised>,
    /// Row after row: residuals that a LayerNorm makes.
    pub normalised: Vec<i32>,
    pub mixture: MixtureRoom,
    /// Rows that logits are wanted of.
    pub wanted: Vec<usize>,
    /// Tiled logits.
    pub output: Vec<i32>,
    /// One for each thread.
    pub workers: Vec<Mutex<Worker>>,
}

/// What a mixture of experts works in.
#[derive(Debug, Default)]
pub(super) struct MixtureRoom {
    /// Of each row.
    pub chosen: Vec<Chosen>,
    /// Rows that an expert was chosen for, and its weights.
    pub rows: Vec<(usize, u32)>,
    /// Their vectors.
    pub vectors: Vec<Quantised>,
    /// Tiled: outputs of one expert.
    pub outputs: Vec<i32>,
    /// Row after row: weighted outputs, added up.
    pub sums: Vec<i64>,
    /// One row of numbers.
    pub row: Vec<i32>,
    pub wide: Vec<i32>,
}

impl MixtureRoom {
    fn take(&mut self, c: &Config, count: usize) {
        if c.architecture.experts.is_none() {
            return;
        }
        let padded = |width: usize| count * width.next_multiple_of(TILE_ROWS);
        grow(&mut self.outputs, padded(c.width));
        grow(&mut self.sums, count * c.width);
        grow(&mut self.row, c.width);
        grow(&mut self.wide, c.width);
        self.rows.clear();
        self.rows.reserve(count);
        if self.chosen.len() < count {
            self.chosen.resize_with(count, Chosen::default);
        }
        if self.vectors.len() < count {
            self.vectors
                .resize_with(count, || Quantised::with_len(c.width));
        }
    }
}

/// Memory of one thread.
#[derive(Debug)]
pub(super) struct Worker {
    pub row: Vec<i32>,
    pub wide: Vec<i64>,
    /// A number for each expert.
    pub scores: Vec<i32>,
    pub attention: AttentionRoom,
}

impl Worker {
    fn new(c: &Config) -> Self {
        Self {
            row: vec![0; c.width],
            wide: vec![0; c.width.max(c.widest_ffn()).max(c.query_width())],
            scores: vec![0; c.architecture.experts.map_or(0, |e| e.count)],
            attention: AttentionRoom::new(c.head_width),
        }
    }
}

impl Room {
    pub fn new(model: &Model, threads: usize) -> Self {
        let worker = || Mutex::new(Worker::new(model.config()));
        Self {
            rows: Vec::new(),
            residual: Vec::new(),
            rotations: Vec::new(),
            narrow: Vec::new(),
            query_key_value: Vec::new(),
            attended: Vec::new(),
            heads: Vec::new(),
            products: Vec::new(),
            hidden: Vec::new(),
            normalised: Vec::new(),
            mixture: MixtureRoom::default(),
            wanted: Vec::new(),
            output: Vec::new(),
            workers: (0..threads).map(|_| worker()).collect(),
        }
    }

    /// Room for a pass of `count` rows, which stand in `rows`.
    pub fn take(&mut self, model: &Model, count: usize) {
        let c = model.config();
        let padded = |width: usize| count * width.next_multiple_of(TILE_ROWS);
        grow(&mut self.residual, padded(c.width));
        grow(
            &mut self.query_key_value,
            padded(c.query_width()) + 2 * padded(c.kv_width()),
        );
        grow(&mut self.attended, count * c.query_width());
        grow(&mut self.products, padded(c.widest_ffn()));
        if c.architecture.encoder.is_some() {
            grow(&mut self.normalised, count * c.width);
        }
        self.mixture.take(c, count);
        // All of them, whoever gets which rows: no pass asks for memory later than one as large.
        let longest = self.rows.iter().map(|row| row.position + 1).max();
        for worker in &mut self.workers {
            let worker = worker.get_mut().unwrap_or_else(PoisonError::into_inner);
            worker.attention.take(c, count, longest.unwrap_or(0));
        }
        if self.rotations.len() < count {
            self.rotations.resize(count, Vec::new());
        }
        for (vectors, width) in [
            (&mut self.narrow, c.width),
            (&mut self.heads, c.query_width()),
            (&mut self.hidden, c.widest_ffn()),
        ] {
            if vectors.len() < count {
                vectors.resize_with(count, || Quantised::with_len(width));
            }
        }
    }
}

/// Never shortened: growing again would write zeros over and over.
pub(super) fn grow<T: Clone + Default>(numbers: &mut Vec<T>, length: usize) {
    if numbers.len() < length {
        numbers.resize(length, T::default());
    }
}
