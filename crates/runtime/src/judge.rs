//! The first judge: computes an answer again and compares (docs/audits.md).

use crate::backend::{Backend, CancelFlag, RunError, prepare_when_free};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use stoa_nodes::message::RefusalReason;
use stoa_nodes::work::Work;
use stoa_types::{Digest, Tier};
use stoa_verify::judge::{Case, Finding, Judge, NotJudged, Replay, compare};

/// Recomputes answers of tier `exact` with the models it holds. Nothing of a float engine is ever judged by it.
#[derive(Clone, Default)]
pub struct ExactJudge {
    models: BTreeMap<Digest, Arc<dyn Backend>>,
}

impl ExactJudge {
    /// A judge of these models; those whose answers cannot be recomputed are left out.
    pub fn new(models: impl IntoIterator<Item = Arc<dyn Backend>>) -> Self {
        let exact = models
            .into_iter()
            .filter(|model| model.facts().tier == Tier::Exact)
            .map(|model| (model.facts().model_root, model));
        Self {
            models: exact.collect(),
        }
    }

    /// Roots of the models it holds.
    pub fn models(&self) -> impl Iterator<Item = Digest> {
        self.models.keys().copied()
    }
}

impl Judge for ExactJudge {
    fn judge(&self, case: &Case) -> Result<Finding, NotJudged> {
        let receipt = &case.receipt;
        if receipt.tier != Tier::Exact {
            return Err(NotJudged::Tier(receipt.tier));
        }
        let root = receipt.model_root;
        let model = self.models.get(&root).ok_or(NotJudged::NoModel(root))?;
        let work = Work::from_canonical_bytes(&case.work).ok_or(NotJudged::NotWork)?;
        if !work.has_rules() {
            return Err(NotJudged::Rules(work.sampling.grammar));
        }
        let replay = replay(&**model, &work, receipt.output_units)?;
        Ok(compare(receipt, replay.as_ref()))
    }
}

/// Does the work again, one token further than `counted`; `None` when the model does not take it.
///
/// Other refusals and failures of the integer engine follow from model and work alone, so that every judge has the same.
fn replay(model: &dyn Backend, work: &Work, counted: u64) -> Result<Option<Replay>, NotJudged> {
    let mut prepared = match prepare_when_free(model, work, &CancelFlag::new()) {
        Ok(prepared) => prepared,
        // No refusal of a model, but of what runs it.
        Err(RefusalReason::UnknownModel | RefusalReason::Busy) => {
            let reason = "the model is not in memory and cannot be loaded now, or its prompt was not made; the log says which".to_owned();
            return Err(NotJudged::Failed(reason));
        }
        Err(RefusalReason::Limit { reason, .. }) => return Err(NotJudged::Limits(reason)),
        Err(_) => return Ok(None),
    };
    // They change no token, and no receipt names them.
    prepared.work.sampling.logprobs = None;
    let mut replay = Replay::of(prepared.prompt.clone());
    let mut further = false;
    let made = model.run(&prepared, &CancelFlag::new(), &mut |piece| {
        let (last, first) = match piece.tokens.split_last() {
            Some(split) => split,
            None => return ControlFlow::Continue(()),
        };
        first.iter().for_each(|token| replay.push(*token, ""));
        replay.push(*last, &piece.text);
        further = replay.output.len() as u64 > counted;
        if further {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    match made {
        // Its last token may be the one further: then the answer ended in spite of us.
        Ok(end) if !further || end.finish_reason != stoa_types::FinishReason::Cancelled => {
            replay.end = Some((end.tool_calls, end.finish_reason));
        }
        Ok(_) | Err(RunError::Failed(_)) => {}
        // No failure of a model, but of what runs it.
        Err(other) => return Err(NotJudged::Failed(other.to_string())),
    }
    Ok(Some(replay))
}
