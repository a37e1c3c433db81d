//! Answers providers that ask their router for what they can claim.

use super::router::{RouterHandle, now};
use std::sync::{Arc, Mutex, PoisonError};
use stoa_ledger::book::PayoutTree;
use stoa_net::{Answer, Answerer};
use stoa_nodes::audit::Question;
use stoa_nodes::payout::{PayoutRequest, payouts_of};

/// The tree under the router's claimable payout root. It is hashed once for each root, by whoever asks first, while calls go on.
#[derive(Clone)]
pub struct PayoutTrees {
    router: RouterHandle,
    kept: Arc<Mutex<Option<Arc<PayoutTree>>>>,
}

impl PayoutTrees {
    /// None is hashed yet.
    pub fn new(router: RouterHandle) -> Self {
        Self {
            router,
            kept: Arc::default(),
        }
    }

    /// The tree under the root that is claimable now. May take long: where blocking is allowed.
    pub fn newest(&self) -> Option<Arc<PayoutTree>> {
        // Who asks at the same time waits here, and nobody waits for the router's lock while a tree is hashed.
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let claimable = self.router.core().book().claimable_index();
        let known = kept.as_ref().filter(|tree| Some(tree.batch()) == claimable);
        if let Some(tree) = known {
            return Some(tree.clone());
        }
        let leaves = self.router.core().book().claimable_leaves();
        *kept = leaves.map(|leaves| Arc::new(leaves.hash()));
        kept.clone()
    }
}

/// Answers what is about payouts from `trees`, and hands all else to `audits`, where the network has them.
pub fn answerer(trees: PayoutTrees, audits: Option<Answerer>) -> Answerer {
    Arc::new(move |question| match (question, &audits) {
        (Question::Payouts(request), _) => {
            let trees = trees.clone();
            Box::pin(async move {
                let answered = tokio::task::spawn_blocking(move || answer(&trees, &request));
                let failed = |_| Answer::Nothing("the question could not be answered".to_owned());
                answered.await.unwrap_or_else(failed)
            })
        }
        (question, Some(audits)) => audits(question),
        (_, None) => Box::pin(async {
            Answer::Nothing("this network has no contracts that judge".to_owned())
        }),
    })
}

/// What a provider earned is told to nobody but the provider.
fn answer(trees: &PayoutTrees, request: &PayoutRequest) -> Answer {
    let router = &trees.router;
    let (domain, account) = {
        let core = router.core();
        (core.config().domain, core.book().router())
    };
    let sound = request.is_for(&domain, account, now());
    let given = if sound { "yes" } else { "no" };
    metrics::counter!("stoa_router_audit_questions_total", "kind" => "payouts", "given" => given)
        .increment(1);
    if !sound {
        let reason = "the request is not signed by its provider for this router, or its clock is more than five minutes off";
        return Answer::Nothing(reason.to_owned());
    }
    let provider = request.provider;
    let earned = || -> Vec<_> {
        let core = router.core();
        core.book().lifetime_grosses_of(provider).collect()
    };
    // For who earned nothing here no tree is hashed. What is earned is read after it, and so never less than what is claimable.
    let tree = (!earned().is_empty()).then(|| trees.newest()).flatten();
    Answer::Payouts(payouts_of(provider, earned(), tree.as_deref()))
}
