//! A token step in plain operators, one after the other, with every output kept.
//!
//! Products, log and tiling are not the serving engine's: products are plain loops over the rows, and the log is a list. So serving pays nothing for it, and
//! a fault of the tiled pass would show as a difference.

use super::log::Log;
use super::program::{FOLD, Fraction, Groups, Kind, Matrix, Operator, Program, VALUES_FOLD};
use super::values::{Cell, Values};
use crate::experts::{Chosen, add_shared, add_weighted, finish_mixture, route};
use crate::fixed::{bit_length, round_shift, saturate};
use crate::model::{Model, Tensor};
use crate::norms::{add_bias, norm_in_place};
use crate::ops::{self, FRACTION, Norm};
use crate::packed::PackedMatrix;
use crate::quant::{ACTIVATION_BITS, CACHE_BITS, Quantised, quantise_whole};
use crate::sampler::{adjust, sample};
use std::collections::BTreeMap;
use stoa_types::SamplingParameters;

/// What a step takes besides the model.
pub(super) struct Taken<'a> {
    pub token: u32,
    pub position: usize,
    pub log: &'a Log,
    pub parameters: &'a SamplingParameters,
    /// How often each token stands in the answer before the choice.
    pub counts: &'a BTreeMap<u32, u32>,
}

/// Outputs of all operators of a program. `alter` sees each before the next is made of it.
pub(super) fn record(
    model: &Model,
    program: &Program,
    taken: &Taken<'_>,
    mut alter: impl FnMut(usize, &mut Values),
) -> Vec<Values> {
    let tensors = model.weights().tensors().into_iter().collect();
    let mut recorder = Recorder {
        model,
        tensors,
        taken,
        values: Vec::with_capacity(program.operators.len()),
    };
    for operator in program.operators.iter() {
        let mut values = recorder.run(operator);
        alter(recorder.values.len(), &mut values);
        debug_assert_eq!(values.len(), operator.length, "{}", operator.name);
        recorder.values.push(values);
    }
    recorder.values
}

struct Recorder<'a> {
    model: &'a Model,
    tensors: BTreeMap<u32, Tensor<'a>>,
    taken: &'a Taken<'a>,
    values: Vec<Values>,
}

/// Why an output of another form cannot come: programs are made here, each operand of the form that its operator gives.
const FORM: &str = "a program gives its operators operands of their form";

impl<'a> Recorder<'a> {
    fn narrow(&self, operator: usize) -> &[i32] {
        match &self.values[operator] {
            Values::Narrow(values) => values,
            _ => unreachable!("{FORM}"),
        }
    }

    fn wide(&self, operator: usize) -> &[i64] {
        match &self.values[operator] {
            Values::Wide(values) => values,
            _ => unreachable!("{FORM}"),
        }
    }

    fn cells(&self, operator: usize) -> &[Cell] {
        match &self.values[operator] {
            Values::Cells(cells) => cells,
            _ => unreachable!("{FORM}"),
        }
    }

    /// Numbers of either width.
    fn numbers(&self, operator: usize) -> Vec<i64> {
        match &self.values[operator] {
            Values::Narrow(values) => values.iter().map(|v| i64::from(*v)).collect(),
            Values::Wide(values) => values.clone(),
            Values::Cells(_) => unreachable!("{FORM}"),
        }
    }

    fn matrix(&self, tensor: u32) -> &'a PackedMatrix {
        match self.tensors[&tensor] {
            Tensor::Matrix(matrix) => matrix,
            _ => unreachable!("a program names tensors of their kind"),
        }
    }

    fn norm(&self, tensor: u32) -> &'a Norm {
        match self.tensors[&tensor] {
            Tensor::Norm(norm) => norm,
            _ => unreachable!("a program names tensors of their kind"),
        }
    }

    fn bias(&self, tensor: u32) -> &'a [i32] {
        match self.tensors.get(&tensor) {
            Some(Tensor::Bias(bias)) => bias,
            _ => &[],
        }
    }

    fn run(&self, operator: &Operator) -> Values {
        match &operator.kind {
            Kind::Embedding => self.embedding(operator.length),
            Kind::Magnitudes { of } => Values::Wide(
                self.numbers(*of)
                    .chunks(FOLD)
                    .map(|part| {
                        part.iter()
                            .map(|v| v.unsigned_abs() as i64)
                            .max()
                            .unwrap_or(0)
                    })
                    .collect(),
            ),
            Kind::Squares { of, magnitudes } => self.squares(*of, *magnitudes),
            Kind::Normalised { of, norm, .. } => {
                let mut out = vec![0; operator.length];
                let epsilon = self.model.config().epsilon_q32;
                ops::rms_norm(self.narrow(*of), self.norm(*norm), epsilon, &mut out);
                Values::Wide(out)
            }
            Kind::Quantised { of, fraction, .. } => self.quantised(*of, *fraction),
            Kind::Product {
                of,
                matrix,
                bias,
                onto,
            } => self.product(operator, *of, *matrix, *bias, *onto),
            Kind::Swiglu { gate, up } => {
                let mut out = vec![0; operator.length];
                ops::swiglu(self.narrow(*gate), self.narrow(*up), &mut out);
                Values::Wide(out)
            }
            Kind::HeadNorm { .. }
            | Kind::Turned { .. }
            | Kind::Query { .. }
            | Kind::Key { .. }
            | Kind::Value { .. } => self.heads(&operator.kind),
            Kind::RouterInput { .. }
            | Kind::Router { .. }
            | Kind::Chosen { .. }
            | Kind::Mixture { .. } => self.experts(operator),
            Kind::Adjusted { .. } | Kind::Token { .. } => self.choice(&operator.kind),
            _ => self.attention(operator),
        }
    }

    fn embedding(&self, width: usize) -> Values {
        let mut residual = vec![0; width];
        let embedding = &self.model.weights().embedding;
        ops::embed(embedding, self.taken.token as usize, &mut residual);
        Values::Narrow(residual)
    }

    fn squares(&self, of: usize, magnitudes: usize) -> Values {
        let largest = self.wide(magnitudes).iter().max().copied().unwrap_or(0);
        let cut = bit_length(largest as u64).saturating_sub(23);
        let square = |r: &i32| i64::from(r.unsigned_abs() >> cut).pow(2);
        let parts = self.narrow(of).chunks(FOLD);
        Values::Wide(parts.map(|part| part.iter().map(square).sum()).collect())
    }

    fn quantised(&self, of: usize, fraction: Fraction) -> Values {
        let fraction = match fraction {
            Fraction::Fixed(fraction) => fraction,
            Fraction::OfNorm(norm) => ops::NORM_FRACTION - self.norm(norm).exponent,
        };
        let numbers = self.numbers(of);
        let mut vector = Quantised::with_len(numbers.len());
        vector.assign(&numbers, fraction, ACTIVATION_BITS);
        Values::Cells(Cell::blocks(&vector).collect())
    }

    fn product(
        &self,
        operator: &Operator,
        of: usize,
        matrix: Matrix,
        bias: Option<u32>,
        onto: Option<usize>,
    ) -> Values {
        let tensor = match matrix {
            Matrix::Tensor(tensor) => tensor,
            Matrix::Expert {
                choice,
                place,
                layer,
                part,
            } => part.tensor(layer, self.wide(choice)[2 * place] as u32),
        };
        let matrix = self.matrix(tensor);
        let x = self.cells(of);
        let exponent = matrix.exponent + x.first().map_or(0, |cell| cell.exponent);
        let sum = |row: usize| -> i64 {
            let blocks = x.iter().enumerate();
            let terms = blocks.map(|(block, x)| {
                let (w, scale) = matrix.block(row, block);
                let scales = i64::from(scale) * i64::from(x.scales[0]);
                i64::from(dot(&w, &x.q)) * scales
            });
            terms.sum()
        };
        let rows = (0..operator.length).map(sum).collect::<Vec<_>>();
        let mut out = vec![0; operator.length];
        ops::finish(&rows, exponent, &mut out);
        add_bias(&mut out, bias.map_or(&[], |bias| self.bias(bias)));
        if let Some(onto) = onto {
            add_bias(&mut out, self.narrow(onto));
        }
        Values::Narrow(out)
    }

    fn heads(&self, kind: &Kind) -> Values {
        let c = self.model.config();
        let width = c.head_width;
        let mut wide = vec![0; width];
        match kind {
            Kind::HeadNorm { of, norm } => {
                let mut heads = self.narrow(*of).to_vec();
                for head in heads.chunks_exact_mut(width) {
                    norm_in_place(head, self.norm(*norm), c.epsilon_q32, &mut wide);
                }
                Values::Narrow(heads)
            }
            Kind::Turned { of } => {
                let (mut heads, mut rotation) = (self.narrow(*of).to_vec(), Vec::new());
                ops::rotation(&c.rotary, self.taken.position, &mut rotation);
                ops::rotate(&mut heads, &rotation);
                Values::Narrow(heads)
            }
            Kind::Query { of } => {
                let mut cells = Vec::new();
                for head in self.narrow(*of).chunks_exact(width) {
                    let fraction = ops::scale_query(head, self.model.query_factor(), &mut wide);
                    let mut vector = Quantised::with_len(width);
                    vector.assign(&wide, fraction, ACTIVATION_BITS);
                    cells.extend(Cell::blocks(&vector));
                }
                Values::Cells(cells)
            }
            Kind::Key { of } => {
                let key = |head: &[i32]| {
                    let head: Vec<i64> = head.iter().map(|v| i64::from(*v)).collect();
                    let mut vector = Quantised::with_len(width);
                    vector.assign(&head, FRACTION, CACHE_BITS);
                    Cell {
                        exponent: vector.exponent,
                        scales: vector.scale.iter().map(|s| *s as u16).collect(),
                        q: vector.q,
                    }
                };
                Values::Cells(self.narrow(*of).chunks_exact(width).map(key).collect())
            }
            Kind::Value { of } => {
                let value = |head: &[i32]| {
                    let head: Vec<i64> = head.iter().map(|v| i64::from(*v)).collect();
                    let mut q = vec![0; width];
                    let (scale, exponent) = quantise_whole(&head, FRACTION, CACHE_BITS, &mut q);
                    Cell {
                        exponent,
                        scales: vec![scale as u16],
                        q,
                    }
                };
                Values::Cells(self.narrow(*of).chunks_exact(width).map(value).collect())
            }
            _ => unreachable!("asked for operators of heads alone"),
        }
    }
}

/// Attention over the log.
impl Recorder<'_> {
    /// Entries that are seen of a tree of the log, the step's own last.
    fn seen(&self, layer: Option<u32>, head: usize, kind: usize, own: usize) -> Vec<&Cell> {
        let c = self.model.config();
        let layer = layer.unwrap_or(0) as usize;
        let entries = self.taken.log.tree((layer * c.kv_heads + head) * 2 + kind);
        let position = self.taken.position;
        let first = (position + 1).saturating_sub(c.window(layer));
        let mut seen: Vec<&Cell> = entries[first..position].iter().collect();
        seen.push(&self.cells(own)[head]);
        seen
    }

    fn attention(&self, operator: &Operator) -> Values {
        let c = self.model.config();
        let shared = c.heads / c.kv_heads;
        let layer = operator.layer;
        match &operator.kind {
            Kind::Scores { query, key } => self.scores(layer, *query, *key),
            Kind::Largest { of, groups } => {
                let numbers = self.numbers(*of);
                let parts = fold(&numbers, *groups, FOLD);
                Values::Wide(
                    parts
                        .map(|part| part.iter().max().copied().unwrap_or(0))
                        .collect(),
                )
            }
            Kind::Weights { scores, groups, .. } => {
                let mut out = Vec::with_capacity(operator.length);
                for scores in self.narrow(*scores).chunks_exact(groups.each) {
                    let mut weights = vec![0; scores.len()];
                    ops::softmax_weights(scores, &mut weights);
                    // At most 2^16.
                    out.extend(weights.iter().map(|w| *w as i32));
                }
                Values::Narrow(out)
            }
            Kind::Sums { of, groups } => {
                let numbers = self.numbers(*of);
                let parts = fold(&numbers, *groups, FOLD);
                Values::Wide(parts.map(|part| part.iter().sum()).collect())
            }
            Kind::ValueScales { value } => {
                Values::Narrow(self.of_values(layer, *value, |cell| i32::from(cell.scales[0])))
            }
            Kind::ValueExponents { value } => {
                Values::Narrow(self.of_values(layer, *value, |cell| cell.exponent))
            }
            Kind::Products {
                weights,
                scales,
                exponents,
                ..
            } => {
                let mut out = Vec::with_capacity(operator.length);
                for head in 0..c.heads {
                    let group = head / shared;
                    let (products, exponents) =
                        self.products(*weights, *scales, *exponents, head, group);
                    let most = exponents.iter().max().copied().unwrap_or(0);
                    let brought: Vec<i64> = products
                        .iter()
                        .zip(&exponents)
                        .map(|(a, e)| a.checked_shr((most - e) as u32).unwrap_or(0))
                        .collect();
                    let parts = brought.chunks(FOLD);
                    out.extend(parts.map(|part| part.iter().max().copied().unwrap_or(0)));
                }
                Values::Wide(out)
            }
            Kind::BlendWeights {
                weights,
                scales,
                exponents,
                ..
            } => self.blend_weights(*weights, *scales, *exponents),
            Kind::BlendSums { weights, value } => self.blend_sums(layer, *weights, *value),
            Kind::Attended {
                sums,
                total,
                largest_exponents,
                largest,
            } => self.attended(*sums, *total, *largest_exponents, *largest),
            _ => unreachable!("all other kinds are met above"),
        }
    }

    fn scores(&self, layer: Option<u32>, query: usize, key: usize) -> Values {
        let c = self.model.config();
        let queries = self
            .cells(query)
            .chunks_exact(c.head_width / crate::quant::BLOCK);
        let mut out = Vec::new();
        for (head, query) in queries.enumerate() {
            let group = head / (c.heads / c.kv_heads);
            for key in self.seen(layer, group, 0, key) {
                let blocks = query.iter().zip(&key.scales).zip(key.q.chunks_exact(32));
                let sum: i64 = blocks
                    .map(|((query, scale), key)| {
                        let scales = i64::from(query.scales[0]) * i64::from(*scale);
                        i64::from(dot(&query.q, key)) * scales
                    })
                    .sum();
                let shift = -(query[0].exponent + key.exponent + FRACTION);
                out.push(saturate(round_shift(sum, shift)));
            }
        }
        Values::Narrow(out)
    }

    fn of_values(&self, layer: Option<u32>, own: usize, number: impl Fn(&Cell) -> i32) -> Vec<i32> {
        let heads = 0..self.model.config().kv_heads;
        heads
            .flat_map(|head| self.seen(layer, head, 1, own))
            .map(number)
            .collect()
    }

    /// Weights of a query head times the scales of its key head's values, and the values' exponents.
    fn products(
        &self,
        weights: usize,
        scales: usize,
        exponents: usize,
        head: usize,
        group: usize,
    ) -> (Vec<i64>, Vec<i32>) {
        let seen = self.values[weights].len() / self.model.config().heads;
        let weights = &self.narrow(weights)[head * seen..][..seen];
        let scales = &self.narrow(scales)[group * seen..][..seen];
        let products = weights.iter().zip(scales);
        (
            products
                .map(|(w, s)| i64::from(*w) * i64::from(*s))
                .collect(),
            self.narrow(exponents)[group * seen..][..seen].to_vec(),
        )
    }

    fn blend_weights(&self, weights: usize, scales: usize, exponents: usize) -> Values {
        let c = self.model.config();
        let seen = self.values[weights].len() / c.heads;
        let mut out = Vec::with_capacity(c.heads * seen);
        for head in 0..c.heads {
            let at = head / (c.heads / c.kv_heads) * seen;
            let of_head = self.narrow(weights)[head * seen..][..seen].iter();
            let mut of_head: Vec<u32> = of_head.map(|w| *w as u32).collect();
            let scales = self.narrow(scales)[at..][..seen].iter();
            let scales: Vec<u16> = scales.map(|s| *s as u16).collect();
            let exponents = self.narrow(exponents)[at..][..seen].iter();
            let exponents: Vec<i16> = exponents.map(|e| *e as i16).collect();
            let mut blend = vec![0; seen];
            ops::blend_weights(&mut of_head, &scales, &exponents, &mut blend);
            out.extend(blend.into_iter().map(i32::from));
        }
        Values::Narrow(out)
    }

    fn blend_sums(&self, layer: Option<u32>, weights: usize, value: usize) -> Values {
        let c = self.model.config();
        let seen = self.values[weights].len() / c.heads;
        let mut out = Vec::new();
        for (head, weights) in self.narrow(weights).chunks_exact(seen).enumerate() {
            let values = self.seen(layer, head / (c.heads / c.kv_heads), 1, value);
            for column in 0..c.head_width {
                let parts = weights.chunks(VALUES_FOLD).zip(values.chunks(VALUES_FOLD));
                out.extend(parts.map(|(weights, values)| {
                    let terms = weights.iter().zip(values);
                    let term = |(b, v): (&i32, &&Cell)| i64::from(*b) * i64::from(v.q[column]);
                    terms.map(term).sum::<i64>()
                }));
            }
        }
        Values::Wide(out)
    }

    fn attended(&self, sums: usize, total: usize, exponents: usize, largest: usize) -> Values {
        let c = self.model.config();
        let of = |operator: usize, count: usize, index: usize| {
            let values = self.wide(operator);
            let each = values.len() / count;
            values[index * each..][..each].to_vec()
        };
        let mut out = vec![0; c.query_width()];
        for (head, out) in out.chunks_exact_mut(c.head_width).enumerate() {
            let group = head / (c.heads / c.kv_heads);
            let most = |operator, count, index| {
                let parts = of(operator, count, index);
                parts.into_iter().max().unwrap_or(0)
            };
            let further = bit_length(most(largest, c.heads, head) as u64).saturating_sub(15);
            let exponent = most(exponents, c.kv_heads, group) as i32 + further as i32;
            let columns = (0..c.head_width).map(|column| {
                let index = head * c.head_width + column;
                of(sums, c.query_width(), index).iter().sum::<i64>()
            });
            let columns: Vec<i64> = columns.collect();
            let total: i64 = of(total, c.heads, head).iter().sum();
            ops::normalise_blend(&columns, exponent, total as u64, out);
        }
        Values::Narrow(out)
    }
}

/// Experts and the choice of a token.
impl Recorder<'_> {
    fn experts(&self, operator: &Operator) -> Values {
        match &operator.kind {
            Kind::RouterInput { of, norm } => {
                let fraction = ops::NORM_FRACTION - self.norm(*norm).exponent;
                let input = self.wide(*of).iter();
                let input = input.map(|z| saturate(round_shift(*z, fraction - FRACTION)));
                Values::Narrow(input.collect())
            }
            Kind::Router { of, rows } => {
                let says = |row| route(self.norm(rows.tensor(row)), self.narrow(*of));
                Values::Narrow((0..operator.length).map(says).collect())
            }
            Kind::Chosen { router } => {
                let mut chosen = Chosen::default();
                if let Some(experts) = &self.model.config().architecture.experts {
                    chosen.choose(self.narrow(*router), experts);
                }
                let pairs = chosen.experts.iter();
                let numbers = pairs.flat_map(|(e, w)| [*e as i64, i64::from(*w)]);
                Values::Wide(numbers.chain([chosen.total as i64]).collect())
            }
            Kind::Mixture {
                outputs,
                choice,
                shared,
                onto,
            } => {
                let (mut sums, mut out) = (vec![0; operator.length], vec![0; operator.length]);
                let chosen = self.wide(*choice);
                for (output, pair) in outputs.iter().zip(chosen.chunks_exact(2)) {
                    add_weighted(self.narrow(*output), pair[1] as u32, &mut sums);
                }
                let total = chosen.last().copied().unwrap_or(0);
                finish_mixture(&sums, total as u64, &mut out);
                if let Some((output, says)) = shared {
                    add_shared(self.narrow(*output), self.narrow(*says)[0], &mut out);
                }
                let mut residual = self.narrow(*onto).to_vec();
                add_bias(&mut residual, &out);
                Values::Narrow(residual)
            }
            _ => unreachable!("asked for operators of experts alone"),
        }
    }

    fn choice(&self, kind: &Kind) -> Values {
        match kind {
            Kind::Adjusted { of } => {
                let mut logits = self.narrow(*of).to_vec();
                adjust(&mut logits, self.taken.parameters, self.taken.counts);
                Values::Narrow(logits)
            }
            Kind::Token { logits, .. } => {
                let position = self.taken.position as u32 + 1;
                // The adjusted logits stand there already where any are adjusted.
                let id = sample(self.narrow(*logits), self.taken.parameters, position);
                Values::Wide(vec![i64::from(id)])
            }
            _ => unreachable!("asked for the choice alone"),
        }
    }
}

/// Parts of every group.
fn fold(values: &[i64], groups: Groups, fold: usize) -> impl Iterator<Item = &[i64]> {
    let groups = values.chunks_exact(groups.each);
    groups.flat_map(move |group| group.chunks(fold))
}

fn dot(a: &[i8], b: &[i8]) -> i32 {
    let terms = a.iter().zip(b);
    terms.map(|(a, b)| i32::from(*a) * i32::from(*b)).sum()
}
