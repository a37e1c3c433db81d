//! Questions to routers that are under way, each asked once at a time.
//!
//! Those to one router for leaf files wait for each other, and so do all others to it (`AuditClient`); none waits for another router's: what a slow
//! one keeps waiting is its own. Nothing is held meanwhile that the others need, so that a question counts as asked from when it was made: all it
//! can wait for is its own router, and room for a large answer.

use crate::launch::routers;
use crate::roles::audit_watch::AuditWatch;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use stoa_net::{AuditClient, NetError, Received, RouterAddress, Urgency};
use stoa_nodes::audit::Question;
use stoa_types::Address;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// How long a question may take, its wait for others to the same router included: what a slow router keeps waiting must not pile up. Whoever
/// still wants an answer asks again.
const LIFE: Duration = Duration::from_secs(60);

/// Asks routers; `K` names what is asked for.
pub struct Questions<K> {
    client: Arc<AuditClient>,
    under_way: BTreeSet<K>,
    tasks: JoinSet<()>,
}

/// Where the registry says that a router is, each time it is called.
pub fn reached(
    watch: &AuditWatch,
    router: Address,
) -> impl Fn() -> Option<RouterAddress> + Send + Sync + 'static {
    let watch = watch.clone();
    move || {
        let state = watch.state();
        let reached = state.reached(router);
        reached.and_then(|at| routers::address(at.endpoint, &at.addresses))
    }
}

impl<K: Ord> Questions<K> {
    /// Asks by this client.
    pub fn new(client: Arc<AuditClient>) -> Self {
        Self {
            client,
            under_way: BTreeSet::new(),
            tasks: JoinSet::new(),
        }
    }

    /// Asks a router where the registry says that it is when its turn comes, and tells `then` what came; nothing is done while the same is
    /// under way. Until [`Questions::ended`] it is.
    pub fn ask(
        &mut self,
        what: K,
        router: Address,
        reached: impl Fn() -> Option<RouterAddress> + Send + Sync + 'static,
        (question, urgency): (Question, Urgency),
        then: impl FnOnce(Result<Received, NetError>) + Send + 'static,
    ) {
        let Some(address) = reached() else {
            return tracing::warn!(%router, "the registry names no address of this router that can be dialled");
        };
        if !self.under_way.insert(what) {
            return;
        }
        let client = self.client.clone();
        self.tasks.spawn(async move {
            let now_at = || reached().unwrap_or_else(|| address.clone());
            let asked = client.ask_where(address.endpoint, now_at, &question, urgency);
            let late = |_| NetError::Connect(format!("no answer within {LIFE:?}"));
            then(timeout(LIFE, asked).await.map_err(late).flatten());
        });
    }

    /// It was answered or given up, and can be asked again.
    pub fn ended(&mut self, what: &K) {
        self.under_way.remove(what);
        while self.tasks.try_join_next().is_some() {}
    }

    /// Gives up what is under way. Whoever is the last to ask by the client says goodbye to the routers: a process that ends before that was
    /// done leaves them to notice the silence.
    pub async fn close(mut self) {
        self.tasks.shutdown().await;
        goodbye(self.client).await;
    }
}

/// Closes a client that several ask by, if nobody else does any more.
pub async fn goodbye(client: Arc<AuditClient>) {
    if let Some(last) = Arc::into_inner(client) {
        last.close().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;
    use stoa_net::{Answer, EndpointSecret, RouterConfig, RouterEndpoint, Timeouts, Welcome};
    use stoa_types::Digest;
    use tokio::sync::mpsc;

    fn loopback() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }

    async fn router(n: u8) -> RouterEndpoint {
        let config = RouterConfig {
            secret: EndpointSecret::from_bytes([n; 32]),
            bind: loopback(),
            welcome: Welcome {
                router: Address([n; 20]),
                chain_id: 31_337,
                vault: Address([8; 20]),
                profile_hash: Digest([7; 32]),
            },
            timeouts: Timeouts::default(),
        };
        let bound = RouterEndpoint::bind(config, Arc::new(|_, _| Ok(()))).await;
        bound.expect("a socket")
    }

    #[tokio::test]
    async fn a_router_that_answers_none_of_many_questions_keeps_no_other_router_waiting() {
        let (slow, honest) = (router(1).await, router(2).await);
        slow.answer_audits(Arc::new(|_| Box::pin(std::future::pending())));
        honest.answer_audits(Arc::new(|question| {
            Box::pin(async move {
                match question {
                    Question::Leaves { post } => Answer::Leaves(vec![1; post as usize].into()),
                    _ => Answer::Taken,
                }
            })
        }));
        let client = AuditClient::bind(loopback(), Timeouts::default()).await;
        let mut questions = Questions::new(Arc::new(client.expect("a socket")));
        let (events, mut answers) = mpsc::unbounded_channel();
        let mut ask = |n: u8, router: &RouterEndpoint, post| {
            let (at, events) = (router.address(), events.clone());
            let then = move |answer: Result<Received, NetError>| {
                let _ = events.send((n, answer.ok().map(|received| received.answer)));
            };
            let question = (Question::Leaves { post }, Urgency::Now);
            questions.ask(
                (n, post),
                Address([n; 20]),
                move || Some(at.clone()),
                question,
                then,
            );
        };
        for post in 1..=64 {
            ask(1, &slow, post);
        }
        ask(2, &honest, 7);
        ask(2, &honest, 7);
        let first = tokio::time::timeout(Duration::from_secs(8), answers.recv()).await;
        let first = first.expect("before the slow router's first question is given up");
        assert_eq!(first, Some((2, Some(Answer::Leaves(vec![1; 7].into())))));
        questions.ended(&(2, 7));
        assert!(!questions.under_way.contains(&(2, 7)));
        assert_eq!(questions.under_way.len(), 64);
    }
}
