//! The first judge: computes an answer again and compares (docs/audits.md).

use crate::backend::{Backend, CancelFlag, RunError};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
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
        let replay = replay(&**model, &work, receipt.output_units)?;
        Ok(compare(receipt, replay.as_ref()))
    }
}

/// Does the work again, one token further than `counted`; `None` when the model does not take it.
///
/// Refusals and failures of the integer engine follow from model and work alone, so that every judge has the same.
fn replay(model: &dyn Backend, work: &Work, counted: u64) -> Result<Option<Replay>, NotJudged> {
    let Ok(prepared) = model.prepare(work) else {
        return Ok(None);
    };
    let mut replay = Replay::of(prepared.prompt.clone());
    let mut further = false;
    let made = model.run(&prepared, &CancelFlag::new(), &mut |tokens, text| {
        let (last, first) = match tokens.split_last() {
            Some(split) => split,
            None => return ControlFlow::Continue(()),
        };
        first.iter().for_each(|token| replay.push(*token, ""));
        replay.push(*last, &text);
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
