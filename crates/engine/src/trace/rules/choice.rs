//! Rules of experts, of logits that bias and penalties change, and of the choice of a token.

use super::numbers::to_i64;
use super::{Inputs, Ruled, Rules};
use crate::experts::Chosen;
use crate::fixed::{round_shift, round_shift_wide, saturate};
use crate::ops::{FRACTION, NORM_FRACTION};
use crate::sampler::{lowest_logit, noise, score};
use crate::tables::Tables;
use crate::trace::opening::OpeningError;
use crate::trace::program::{Kind, Rows};
use stoa_types::SamplingParameters;

impl Rules<'_> {
    pub(super) fn expert_or_logit(
        &self,
        kind: &Kind,
        index: usize,
        inputs: &mut impl Inputs,
    ) -> Ruled<i64> {
        match kind {
            Kind::RouterInput { of, norm } => {
                let exponent = inputs.norm(*norm)?.exponent;
                let down = NORM_FRACTION
                    .saturating_sub(exponent)
                    .saturating_sub(FRACTION);
                Ok(saturate(round_shift(inputs.number(*of, index)?, down)).into())
            }
            Kind::Router { of, rows } => self.router(index, *of, *rows, inputs),
            Kind::Chosen { router } => self.chosen(index, *router, inputs),
            Kind::Mixture {
                outputs,
                choice,
                shared,
                onto,
            } => {
                let mut sum = 0i128;
                for (place, output) in outputs.iter().enumerate() {
                    let weight = inputs.number(*choice, 2 * place + 1)?;
                    sum += i128::from(weight) * i128::from(inputs.number(*output, index)?);
                }
                let total = inputs.number(*choice, 2 * outputs.len())?.max(1);
                let inverse = (1i128 << 62) / i128::from(total);
                let sum = i128::from(to_i64(sum)) * inverse;
                let mut joined = saturate(round_shift_wide(sum, 62));
                if let Some((output, says)) = shared {
                    let says = saturate(inputs.number(*says, 0)?);
                    let share = i64::from(Tables::get().sigmoid(says));
                    let y = i64::from(saturate(inputs.number(*output, index)?));
                    joined = saturate(i64::from(joined) + round_shift(y * share, 31));
                }
                let residual = saturate(inputs.number(*onto, index)?);
                Ok(residual.saturating_add(joined).into())
            }
            Kind::Adjusted { of } => {
                let logit = inputs.number(*of, index)?;
                Ok(self.adjusted(index as u32, logit))
            }
            _ => Err(OpeningError::NoRule),
        }
    }

    fn router(&self, index: usize, of: usize, rows: Rows, inputs: &mut impl Inputs) -> Ruled<i64> {
        let row = inputs.norm(rows.tensor(index))?;
        let mut sum = 0i128;
        for (i, w) in row.g.iter().enumerate() {
            sum += i128::from(*w) * i128::from(inputs.number(of, i)?);
        }
        Ok(saturate(round_shift(to_i64(sum), row.exponent.saturating_neg())).into())
    }

    fn chosen(&self, index: usize, router: usize, inputs: &mut impl Inputs) -> Ruled<i64> {
        let experts = self.config.architecture.experts;
        let experts = experts.ok_or(OpeningError::NoRule)?;
        let says = (0..experts.count).map(|e| inputs.number(router, e).map(saturate));
        let says: Vec<i32> = says.collect::<Ruled<_>>()?;
        let mut chosen = Chosen::default();
        chosen.choose(&says, &experts);
        Ok(match chosen.experts.get(index / 2) {
            Some((expert, _)) if index.is_multiple_of(2) => *expert as i64,
            Some((_, weight)) => i64::from(*weight),
            None => chosen.total as i64,
        })
    }

    fn adjusted(&self, id: u32, logit: i64) -> i64 {
        let p = &self.job.parameters;
        let counts = self.job.counts(self.position);
        let count = i128::from(counts.get(&id).copied().unwrap_or(0));
        let bias = p.logit_bias.get(&id).map_or(0, |bias| i128::from(bias.0));
        let presence = i128::from(p.presence_penalty.0) * count.min(1);
        let frequency = i128::from(p.frequency_penalty.0) * count;
        saturate(to_i64(i128::from(logit) + bias - presence - frequency)).into()
    }
}

/// What a chosen token is compared by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// The token.
    pub id: u32,
    /// Its logit, bias and penalties included.
    pub logit: i32,
}

/// Whether a choice is refuted by a token that should have been chosen before it, or by falling below what min-p leaves. `highest` is the
/// greatest logit. What is not refuted by one token may be refuted by another.
pub fn is_refuted(
    chosen: Choice,
    other: Choice,
    highest: i32,
    parameters: &SamplingParameters,
    position: u32,
) -> bool {
    let before = |a: i64, b: i64| a > b || (a == b && other.id < chosen.id);
    let temperature = parameters.temperature.0;
    if temperature == 0 {
        return before(other.logit.into(), chosen.logit.into());
    }
    let floor = lowest_logit(highest, temperature, parameters.min_p.0);
    if i64::from(chosen.logit) < floor {
        return true;
    }
    let value = |of: Choice| {
        let noise = noise(parameters.seed, position, of.id);
        score(of.logit, temperature, noise)
    };
    i64::from(other.logit) >= floor && before(value(other), value(chosen))
}
