//! Rules of attention over the log.

use super::numbers::{dot, narrow_shift, to_i64};
use super::{Inputs, Ruled, Rules, largest, part_of};
use crate::fixed::{bit_length, round_shift, round_shift_wide, saturate};
use crate::ops::FRACTION;
use crate::tables::Tables;
use crate::trace::opening::OpeningError;
use crate::trace::program::{FOLD, Groups, Kind, Operator, VALUES_FOLD};
use crate::trace::values::Cell;

/// Operands of the weights that values are blended with.
#[derive(Clone, Copy)]
struct Blend {
    weights: usize,
    scales: usize,
    exponents: usize,
    largest_exponents: usize,
}

impl Rules<'_> {
    /// Positions that a layer's step sees.
    fn seen(&self, layer: Option<u32>) -> usize {
        let window = self.config.window(layer.unwrap_or(0) as usize);
        (self.position + 1).min(window)
    }

    fn all(&self, layer: Option<u32>) -> Groups {
        Groups {
            count: self.config.heads,
            each: self.seen(layer),
        }
    }

    /// Key head of a query head.
    fn group(&self, head: usize) -> usize {
        head / (self.config.heads / self.config.kv_heads)
    }

    /// The log's cell that a step sees in a place, or its own, which is the last.
    fn seen_cell(
        &self,
        layer: Option<u32>,
        (head, kind): (usize, usize),
        place: usize,
        own: usize,
        inputs: &mut impl Inputs,
    ) -> Ruled<Cell> {
        let seen = self.seen(layer);
        if place + 1 == seen {
            return inputs.cell(own, head);
        }
        let heads = layer.unwrap_or(0) as usize * self.config.kv_heads + head;
        inputs.entry(2 * heads + kind, self.position + 1 - seen + place)
    }

    /// Greatest of the parts of one group.
    fn largest_of_group(
        &self,
        operator: usize,
        groups: Groups,
        group: usize,
        inputs: &mut impl Inputs,
    ) -> Ruled<i64> {
        let parts = groups.parts(FOLD);
        largest(group * parts..(group + 1) * parts, |i| {
            inputs.number(operator, i)
        })
    }

    pub(super) fn attention(
        &self,
        operator: &Operator,
        index: usize,
        inputs: &mut impl Inputs,
    ) -> Ruled<i64> {
        let layer = operator.layer;
        match &operator.kind {
            Kind::Scores { query, key } => self.score(layer, index, *query, *key, inputs),
            Kind::Largest { of, groups } => {
                let (part, _) = part_of(*groups, FOLD, index);
                largest(part, |i| inputs.number(*of, i))
            }
            Kind::Weights {
                scores,
                largest,
                groups,
            } => {
                let group = index / groups.each;
                let most = self.largest_of_group(*largest, *groups, group, inputs)?;
                let distance = most.saturating_sub(inputs.number(*scores, index)?);
                let distance = distance.clamp(0, i64::from(u32::MAX)) as u32;
                Ok(Tables::get().exp2_weight(distance).into())
            }
            Kind::Sums { of, groups } => {
                let (part, _) = part_of(*groups, FOLD, index);
                let mut sum = 0i128;
                for i in part {
                    sum += i128::from(inputs.number(*of, i)?);
                }
                Ok(to_i64(sum))
            }
            Kind::ValueScales { value } => {
                let seen = self.seen(layer);
                let place = (index / seen, 1);
                let cell = self.seen_cell(layer, place, index % seen, *value, inputs)?;
                Ok(cell.scales[0].into())
            }
            Kind::ValueExponents { value } => {
                let seen = self.seen(layer);
                let place = (index / seen, 1);
                let cell = self.seen_cell(layer, place, index % seen, *value, inputs)?;
                Ok(cell.exponent.into())
            }
            Kind::Products { .. } | Kind::BlendWeights { .. } => {
                self.blending(layer, &operator.kind, index, inputs)
            }
            Kind::BlendSums { weights, value } => {
                self.blend_sum(layer, index, *weights, *value, inputs)
            }
            Kind::Attended {
                sums,
                total,
                largest_exponents,
                largest,
            } => {
                let blend = [*sums, *total, *largest_exponents, *largest];
                self.attended(layer, index, blend, inputs)
            }
            _ => Err(OpeningError::NoRule),
        }
    }

    fn score(
        &self,
        layer: Option<u32>,
        index: usize,
        query: usize,
        key: usize,
        inputs: &mut impl Inputs,
    ) -> Ruled<i64> {
        let seen = self.seen(layer);
        let (head, place) = (index / seen, index % seen);
        let key = self.seen_cell(layer, (self.group(head), 0), place, key, inputs)?;
        let blocks = self.config.head_width / 32;
        let (mut sum, mut exponent) = (0i128, i64::from(key.exponent) + i64::from(FRACTION));
        for (block, (q, scale)) in key.q.chunks_exact(32).zip(&key.scales).enumerate() {
            let query = inputs.cell(query, head * blocks + block)?;
            sum += dot(q, &query.q) * i128::from(*scale) * i128::from(query.scales[0]);
            if block == 0 {
                exponent += i64::from(query.exponent);
            }
        }
        let score = round_shift(to_i64(sum), narrow_shift(-exponent));
        Ok(saturate(score).into())
    }

    /// A weight times the scale of a value, and how far the value's exponent is below the greatest.
    fn product_of(
        &self,
        layer: Option<u32>,
        index: usize,
        of: Blend,
        inputs: &mut impl Inputs,
    ) -> Ruled<(i64, i64)> {
        let seen = self.seen(layer);
        let group = self.group(index / seen);
        let value = group * seen + index % seen;
        let weight = inputs.number(of.weights, index)?;
        let scale = inputs.number(of.scales, value)?;
        let shared = Groups {
            count: self.config.kv_heads,
            each: seen,
        };
        let most = self.largest_of_group(of.largest_exponents, shared, group, inputs)?;
        let down = most.saturating_sub(inputs.number(of.exponents, value)?);
        Ok((to_i64(i128::from(weight) * i128::from(scale)), down))
    }

    fn blending(
        &self,
        layer: Option<u32>,
        kind: &Kind,
        index: usize,
        inputs: &mut impl Inputs,
    ) -> Ruled<i64> {
        match kind {
            Kind::Products {
                weights,
                scales,
                exponents,
                largest_exponents,
            } => {
                let of = Blend {
                    weights: *weights,
                    scales: *scales,
                    exponents: *exponents,
                    largest_exponents: *largest_exponents,
                };
                let (part, _) = part_of(self.all(layer), FOLD, index);
                largest(part, |i| {
                    let (product, down) = self.product_of(layer, i, of, inputs)?;
                    Ok(product >> down.clamp(0, 63))
                })
            }
            Kind::BlendWeights {
                weights,
                scales,
                exponents,
                largest_exponents,
                largest,
            } => {
                let of = Blend {
                    weights: *weights,
                    scales: *scales,
                    exponents: *exponents,
                    largest_exponents: *largest_exponents,
                };
                let (product, down) = self.product_of(layer, index, of, inputs)?;
                let head = index / self.seen(layer);
                let most = self.largest_of_group(*largest, self.all(layer), head, inputs)?;
                let shift = narrow_shift(down.saturating_add(further(most)));
                Ok(round_shift(product, shift).min(i64::from(i16::MAX)))
            }
            _ => Err(OpeningError::NoRule),
        }
    }

    fn blend_sum(
        &self,
        layer: Option<u32>,
        index: usize,
        weights: usize,
        value: usize,
        inputs: &mut impl Inputs,
    ) -> Ruled<i64> {
        let seen = self.seen(layer);
        let parts = self.all(layer).parts(VALUES_FOLD);
        let (element, part) = (index / parts, index % parts);
        let (head, column) = (
            element / self.config.head_width,
            element % self.config.head_width,
        );
        let mut sum = 0i128;
        for place in part * VALUES_FOLD..((part + 1) * VALUES_FOLD).min(seen) {
            let weight = inputs.number(weights, head * seen + place)?;
            let of = (self.group(head), 1);
            let cell = self.seen_cell(layer, of, place, value, inputs)?;
            sum += i128::from(weight) * i128::from(cell.q[column]);
        }
        Ok(to_i64(sum))
    }

    fn attended(
        &self,
        layer: Option<u32>,
        index: usize,
        [sums, total, largest_exponents, largest]: [usize; 4],
        inputs: &mut impl Inputs,
    ) -> Ruled<i64> {
        let all = self.all(layer);
        let shared = Groups {
            count: self.config.kv_heads,
            ..all
        };
        let head = index / self.config.head_width;
        let of_values = all.parts(VALUES_FOLD);
        let mut sum = 0i128;
        for i in index * of_values..(index + 1) * of_values {
            sum += i128::from(inputs.number(sums, i)?);
        }
        let mut weights = 0i128;
        for i in head * all.parts(FOLD)..(head + 1) * all.parts(FOLD) {
            weights += i128::from(inputs.number(total, i)?);
        }
        let most = self.largest_of_group(largest, all, head, inputs)?;
        let group = self.group(head);
        let exponent = self.largest_of_group(largest_exponents, shared, group, inputs)?;
        let exponent = exponent.saturating_add(further(most));
        let inverse = (1i128 << 62) / weights.max(1);
        let shift = 62i64.saturating_sub(exponent.saturating_add(i64::from(FRACTION)));
        let value = round_shift_wide(i128::from(to_i64(sum)) * inverse, narrow_shift(shift));
        Ok(saturate(value).into())
    }
}

/// Bits by which products are divided further, so that the greatest has 15.
fn further(largest: i64) -> i64 {
    let bits = bit_length(largest.max(0) as u64);
    i64::from(bits.saturating_sub(15))
}
