//! Answers providers that ask their router for what they can claim.

use super::router::{RouterHandle, now};
use std::sync::Arc;
use stoa_net::{Answer, Answerer};
use stoa_nodes::audit::Question;
use stoa_nodes::payout::{PayoutRequest, payouts_of};

/// Answers for `router` what is about payouts, and hands all else to `audits`, where the network has them.
pub fn answerer(router: RouterHandle, audits: Option<Answerer>) -> Answerer {
    Arc::new(move |question| match (question, &audits) {
        (Question::Payouts(request), _) => {
            let router = router.clone();
            Box::pin(async move {
                // A tree over all providers is hashed: where blocking is allowed.
                let answered = tokio::task::spawn_blocking(move || answer(&router, &request));
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
fn answer(router: &RouterHandle, request: &PayoutRequest) -> Answer {
    let (domain, account) = {
        let core = router.core();
        (core.config().domain, core.book().router())
    };
    let sound = request.is_for(&domain, account, now());
    let given = if sound { "yes" } else { "no" };
    metrics::counter!("stoa_router_audit_questions_total", "kind" => "payouts", "given" => given)
        .increment(1);
    if sound {
        Answer::Payouts(payouts_of(router.core().book(), request.provider))
    } else {
        let reason = "the request is not signed by its provider for this router, or its clock is more than five minutes off";
        Answer::Nothing(reason.to_owned())
    }
}
