//! Questions of validators.

use crate::hall::{Hall, dispatch, everyone, loopback, patient, router_config, timeouts};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use stoa_net::{
    Answer, Answerer, AuditClient, EndpointSecret, NetError, RouterAddress, RouterConfig,
    RouterEndpoint, StreamError, Urgency,
};
use stoa_nodes::audit::{KeptWork, Question};
use stoa_nodes::payout::{Payout, PayoutProof, PayoutRequest};
use stoa_nodes::validator::Voted;
use stoa_types::{Address, Digest, Signature, Timestamp, TokenAmount};

fn kept() -> KeptWork {
    KeptWork {
        ticket: dispatch(1).ticket,
        sealed: (0..300_000u32).map(|n| n as u8).collect(),
    }
}

fn payout() -> Payout {
    Payout {
        fee_version: 1,
        earned: TokenAmount::from_units(8),
        claim: Some(PayoutProof {
            lifetime_gross: TokenAmount::from_units(7),
            provider_root: Digest([1; 32]),
            debit_root: Digest([2; 32]),
            proof: vec![Digest([3; 32])],
        }),
    }
}

fn voted(verdicts: usize) -> Voted {
    let zero = stoa_types::Digest::ZERO;
    let verdict = (zero, stoa_ledger::audit::Outcome::Good, zero);
    Voted {
        round: 3,
        verdicts: vec![verdict; verdicts],
    }
}

/// Answers by the number of the post that is asked for.
fn answerer() -> Answerer {
    Arc::new(|question| {
        Box::pin(async move {
            match question {
                Question::Leaves { post: 0 } => Answer::Nothing("no such\npost".to_owned()),
                Question::Leaves { post: 1 } => Answer::Work(Box::new(kept())),
                Question::Leaves { post: 2 } => std::future::pending().await,
                Question::Leaves { post } => Answer::Leaves(vec![1; post as usize].into()),
                Question::Work(_) => Answer::Nothing(String::new()),
                Question::Ballot { .. } => Answer::Ballot(voted(2)),
                Question::Show { .. } => Answer::Taken,
                Question::Payouts(_) => Answer::Payouts(vec![payout()]),
            }
        })
    })
}

async fn client() -> AuditClient {
    let bound = AuditClient::bind(loopback(), timeouts()).await;
    bound.expect("a socket")
}

#[tokio::test]
async fn every_question_gets_its_answer_whole_and_in_turn() {
    patient(async {
        let hall = Hall::open().await;
        let (client, router) = (client().await, hall.router.address());
        let leaves = |post| Question::Leaves { post };
        let refused = client.ask(&router, &leaves(0)).await;
        assert!(refused.is_err(), "nobody answers yet");
        hall.router.answer_audits(answerer());
        let nothing = client.ask(&router, &leaves(0)).await.expect("answered");
        assert_eq!(nothing, Answer::Nothing("no suchpost".to_owned()));
        let work = client.ask(&router, &leaves(1)).await.expect("answered");
        assert_eq!(work, Answer::Work(Box::new(kept())));
        for bytes in [3, 65_536, 200_001] {
            let file = client.ask(&router, &leaves(bytes)).await.expect("answered");
            assert_eq!(file, Answer::Leaves(vec![1; bytes as usize].into()));
        }
        let (round, validator) = (3, Address([1; 20]));
        let question = Question::Ballot { round, validator };
        let ballot = client.ask(&router, &question).await;
        assert_eq!(ballot.expect("answered"), Answer::Ballot(voted(2)));
        let voted = voted(1_000);
        let question = Question::Show { validator, voted };
        let shown = client.ask(&router, &question).await;
        assert_eq!(shown.expect("answered"), Answer::Taken);
        let question = Question::Payouts(PayoutRequest {
            provider: validator,
            at: Timestamp(1),
            signature: Signature::ZERO,
        });
        let payouts = client.ask(&router, &question).await;
        assert_eq!(payouts.expect("answered"), Answer::Payouts(vec![payout()]));
    })
    .await;
}

fn about_payouts() -> Question {
    Question::Payouts(PayoutRequest {
        provider: Address([1; 20]),
        at: Timestamp(1),
        signature: Signature::ZERO,
    })
}

#[tokio::test]
async fn of_what_a_router_says_of_payouts_no_more_than_64_kib_is_taken_and_others_are_still_asked()
{
    patient(async {
        let hostile = Hall::open().await;
        let config = RouterConfig {
            secret: EndpointSecret::from_bytes([2; 32]),
            ..router_config()
        };
        let honest = RouterEndpoint::bind(config, everyone())
            .await
            .expect("bound");
        honest.answer_audits(answerer());
        let many = 64 * 1024 / serde_json::to_vec(&payout()).expect("plain").len() + 1;
        hostile.router.answer_audits(Arc::new(move |question| {
            let count = if matches!(question, Question::Payouts(_)) {
                many
            } else {
                0
            };
            Box::pin(async move { Answer::Payouts(vec![payout(); count]) })
        }));
        let client = client().await;
        let refused = client
            .ask(&hostile.router.address(), &about_payouts())
            .await;
        let Err(NetError::Stream(StreamError::Oversized { announced, limit })) = refused else {
            panic!("{refused:?}");
        };
        assert!(announced > 64 << 10 && limit == 64 << 10);
        let told = client.ask(&honest.address(), &about_payouts()).await;
        assert_eq!(told.expect("answered"), Answer::Payouts(vec![payout()]));
        // One that fits is taken from the same router, over a new connection.
        let leaves = Question::Leaves { post: 0 };
        let fits = client.ask(&hostile.router.address(), &leaves).await;
        assert_eq!(fits.expect("answered"), Answer::Payouts(Vec::new()));
    })
    .await;
}

#[tokio::test]
async fn a_question_that_is_too_long_or_never_answered_ends_alone() {
    patient(async {
        let hall = Hall::open().await;
        hall.router.answer_audits(answerer());
        let (client, other) = (client().await, client().await);
        let router = hall.router.address();
        let (validator, voted) = (Address([1; 20]), voted(20_000));
        let long = Question::Show { validator, voted };
        let long = client.ask(&router, &long).await;
        assert!(matches!(long, Err(NetError::Stream(_))));
        let never = Question::Leaves { post: 2 };
        let (never, meanwhile) = tokio::join!(
            client.ask(&router, &never),
            other.ask(&router, &Question::Leaves { post: 5 })
        );
        assert!(never.is_err());
        assert_eq!(
            meanwhile.expect("answered"),
            Answer::Leaves(vec![1; 5].into())
        );
        // A connection that was given up is replaced.
        let again = client.ask(&router, &Question::Leaves { post: 4 }).await;
        assert_eq!(again.expect("answered"), Answer::Leaves(vec![1; 4].into()));
    })
    .await;
}

#[tokio::test]
async fn one_address_has_a_share_of_those_who_ask_and_providers_are_let_in_all_the_same() {
    patient(async {
        let hall = Hall::open().await;
        hall.router.answer_audits(answerer());
        let router = hall.router.address();
        let mut asking = Vec::new();
        let mut refused = 0;
        for _ in 0..36 {
            let client = client().await;
            match client.ask(&router, &Question::Leaves { post: 5 }).await {
                Ok(_) => asking.push(client),
                Err(_) => refused += 1,
            }
        }
        assert_eq!((asking.len(), refused), (32, 4));
        let (_provider, _link) = hall.join(1).await;
        drop(asking);
        tokio::time::sleep(Duration::from_millis(300)).await;
        let late = client().await;
        let asked = late.ask(&router, &Question::Leaves { post: 5 }).await;
        assert!(asked.is_ok(), "their places are free again");
    })
    .await;
}

#[tokio::test]
async fn a_question_that_waited_is_asked_where_the_router_is_by_then() {
    patient(async {
        let hall = Hall::open().await;
        hall.router.answer_audits(answerer());
        let (client, router) = (client().await, hall.router.address());
        let silent = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let old = RouterAddress {
            addresses: vec![silent.local_addr().expect("bound")],
            ..router.clone()
        };
        let moved = AtomicBool::new(false);
        let at = || {
            let moved = moved.load(Ordering::SeqCst);
            if moved { router.clone() } else { old.clone() }
        };
        let question = Question::Leaves { post: 5 };
        let (before, after, ()) = tokio::join!(
            client.ask_where(router.endpoint, at, &question, Urgency::Now),
            client.ask_where(router.endpoint, at, &question, Urgency::Now),
            async {
                tokio::time::sleep(Duration::from_millis(50)).await;
                moved.store(true, Ordering::SeqCst);
            }
        );
        assert!(before.is_err(), "nobody is there any more");
        let after = after.expect("answered").answer;
        assert_eq!(after, Answer::Leaves(vec![1; 5].into()));
    })
    .await;
}

#[tokio::test]
async fn who_talked_to_a_router_finds_it_where_it_was_started_anew_after_dials_that_failed() {
    patient(async {
        let hall = Hall::open().await;
        hall.router.answer_audits(answerer());
        let (client, old) = (client().await, hall.router.address());
        let question = Question::Leaves { post: 5 };
        client.ask(&old, &question).await.expect("answered");
        let (address, _) = hall.stop().await;
        // Nothing comes back from there, as from a host that is gone.
        let silent = loop {
            match std::net::UdpSocket::bind(address) {
                Ok(socket) => break socket,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        };
        for _ in 0..2 {
            let asked = client.ask(&old, &question).await;
            assert!(asked.is_err(), "nobody is there any more");
        }
        let hall = Hall::open().await;
        hall.router.answer_audits(answerer());
        let new = hall.router.address();
        assert_eq!(new.endpoint, old.endpoint);
        assert_ne!(new.addresses, old.addresses);
        let asked = client.ask(&new, &question).await;
        assert_eq!(asked.expect("answered"), Answer::Leaves(vec![1; 5].into()));
        drop(silent);
    })
    .await;
}

/// A router that listens on a port of its own.
async fn another(n: u8, answerer: Answerer) -> RouterEndpoint {
    let config = RouterConfig {
        secret: EndpointSecret::from_bytes([n; 32]),
        ..router_config()
    };
    let bound = RouterEndpoint::bind(config, everyone()).await;
    let router = bound.expect("a socket");
    router.answer_audits(answerer);
    router
}

/// Larger than what needs no room.
const LARGE: Question = Question::Leaves {
    post: (1 << 20) + 1,
};

#[tokio::test]
async fn no_more_large_answers_lie_in_memory_than_there_is_room_for_and_small_ones_pass() {
    patient(async {
        let (client, at) = (
            client().await,
            [
                another(41, answerer()).await,
                another(42, answerer()).await,
                another(43, answerer()).await,
            ],
        );
        let ask = async |router: &RouterEndpoint, question: Question| {
            let at = router.address();
            let asked = client.ask_where(at.endpoint, || at.clone(), &question, Urgency::Now);
            asked.await.expect("answered")
        };
        let first = ask(&at[0], LARGE).await;
        let second = ask(&at[1], LARGE).await;
        let mut third = Box::pin(ask(&at[2], LARGE));
        tokio::select! {
            _ = &mut third => panic!("there is no room for a third one"),
            small = ask(&at[0], Question::Leaves { post: 5 }) => {
                assert_eq!(small.answer, Answer::Leaves(vec![1; 5].into()));
            }
        }
        drop(first.answer);
        tokio::select! {
            _ = &mut third => panic!("it takes its room until that is dropped"),
            _ = ask(&at[1], Question::Leaves { post: 5 }) => {}
        }
        drop(first.room);
        let third = third.await.answer;
        assert_eq!(third, Answer::Leaves(vec![1; (1 << 20) + 1].into()));
        drop(second);
    })
    .await;
}

#[tokio::test]
async fn a_leaf_file_that_waits_for_room_keeps_nothing_else_of_its_router_waiting() {
    patient(async {
        let (client, at) = (
            client().await,
            [
                another(48, answerer()).await,
                another(49, answerer()).await,
                another(50, answerer()).await,
            ],
        );
        let ask = async |router: &RouterEndpoint, question: Question| {
            let at = router.address();
            let asked = client.ask_where(at.endpoint, || at.clone(), &question, Urgency::Now);
            asked.await.expect("answered")
        };
        let (_first, _second) = (ask(&at[0], LARGE).await, ask(&at[1], LARGE).await);
        let waits = ask(&at[2], LARGE);
        let ballot = Question::Ballot {
            round: 3,
            validator: Address([1; 20]),
        };
        // The leaf file was asked for first.
        tokio::select! {
            biased;
            _ = waits => panic!("there is no room for a third one"),
            asked = ask(&at[2], ballot) => assert_eq!(asked.answer, Answer::Ballot(voted(2))),
        }
    })
    .await;
}

#[tokio::test]
async fn a_router_whose_large_answer_did_not_come_takes_no_room_from_those_whose_did() {
    patient(async {
        let (client, at) = (
            client().await,
            [
                another(44, answerer()).await,
                another(45, answerer()).await,
                another(46, answerer()).await,
            ],
        );
        let ask = async |router: &RouterEndpoint| {
            let at = router.address();
            let asked = client.ask_where(at.endpoint, || at.clone(), &LARGE, Urgency::Now);
            asked.await.expect("answered")
        };
        let long = Question::Leaves { post: 60 << 20 };
        let moment = Duration::from_secs(1);
        for patience in [20, 50, 100, 200, 400] {
            // Given up by who asked: in the middle, unless it was too soon.
            let to = at[0].address();
            let asked = client.ask_where(to.endpoint, || to.clone(), &long, Urgency::Now);
            let given_up = tokio::time::timeout(Duration::from_millis(patience), asked).await;
            drop(given_up);
            let late = ask(&at[0]).await;
            // Both rooms of those that were in time are free.
            let first = tokio::time::timeout(moment, ask(&at[1])).await;
            let second = tokio::time::timeout(moment, ask(&at[2])).await;
            drop(late);
            if first.is_ok() && second.is_ok() {
                return;
            }
        }
        panic!("a late answer always took room from others");
    })
    .await;
}

#[tokio::test]
async fn a_leaf_file_that_came_late_says_nothing_of_the_routers_other_answers_nor_they_of_it() {
    patient(async {
        let large: Answerer = Arc::new(|question| match question {
            Question::Ballot { .. } => Box::pin(async { Answer::Ballot(voted(20_000)) }),
            other => answerer()(other),
        });
        let client = client().await;
        let (stalls, router) = (another(51, answerer()).await, another(52, large).await);
        let ask = async |router: &RouterEndpoint, question: Question| {
            let at = router.address();
            let asked = client.ask_where(at.endpoint, || at.clone(), &question, Urgency::Now);
            asked.await.expect("answered")
        };
        let long = || Question::Leaves { post: 60 << 20 };
        let ballot = || Question::Ballot {
            round: 3,
            validator: Address([1; 20]),
        };
        for patience in [20, 50, 100, 200, 400] {
            // Given up in the middle, unless it was too soon.
            let patience = Duration::from_millis(patience);
            for router in [&stalls, &router] {
                let given_up = tokio::time::timeout(patience, ask(router, long())).await;
                drop(given_up);
            }
            // The room of the late is taken.
            let held = ask(&stalls, LARGE).await;
            let other = tokio::time::timeout(Duration::from_secs(3), ask(&router, ballot())).await;
            let came = other.is_ok();
            drop(other);
            let leaves = tokio::time::timeout(Duration::from_secs(1), ask(&router, LARGE)).await;
            drop(held);
            if leaves.is_err() {
                assert!(
                    came,
                    "it waited among the late, where its leaf files belong"
                );
                return;
            }
        }
        panic!("no leaf file waited among the late");
    })
    .await;
}

#[tokio::test]
async fn what_can_wait_is_asked_after_all_that_cannot() {
    patient(async {
        let (started, order) = (Arc::new(tokio::sync::Semaphore::new(0)), Arc::default());
        let gate = started.clone();
        let asked: Arc<std::sync::Mutex<Vec<u64>>> = order;
        let seen = asked.clone();
        let answers: Answerer = Arc::new(move |question| {
            let (gate, seen) = (gate.clone(), seen.clone());
            Box::pin(async move {
                if let Question::Leaves { post } = question {
                    seen.lock().expect("unpoisoned").push(post);
                }
                gate.acquire().await.expect("open").forget();
                Answer::Taken
            })
        });
        let router = another(47, answers).await;
        let (client, at) = (client().await, router.address());
        let ask = |post, urgency| {
            let (client, at) = (&client, at.clone());
            async move {
                let question = Question::Leaves { post };
                let asked = client.ask_where(at.endpoint, || at.clone(), &question, urgency);
                asked.await.expect("answered");
            }
        };
        let (now, later) = (Urgency::Now, Urgency::Later);
        tokio::join!(
            biased;
            ask(1, later),
            ask(2, later),
            ask(3, later),
            ask(4, later),
            ask(5, now),
            ask(6, now),
            async { started.add_permits(6) },
        );
        // The first had its turn, and the second was next already.
        assert_eq!(*asked.lock().expect("unpoisoned"), [1, 2, 5, 6, 3, 4]);
    })
    .await;
}
