//! Provider and router over real sockets on 127.0.0.1.

use crate::hall::{self, Hall, delta, dispatch, job_of, patient};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use stoa_net::{
    Backoff, CONTROL_BYTES_MAX, CloseCode, LinkState, Lost, ProviderStatus, StreamError,
};
use stoa_nodes::message::{MESSAGE_BYTES_MAX, RefusalReason, ToProvider, ToRouter};

#[tokio::test]
async fn a_job_travels_out_and_its_answer_back_and_a_cancel_arrives_in_between() {
    let hall = Hall::open().await;
    let (provider, link) = hall.join(1).await;
    assert_eq!(link.endpoint_id(), provider.endpoint_id());
    assert_eq!(link.hello(), &hall::hello(1));

    let mut job = link.open_job(dispatch(7)).await.expect("opened");
    let mut work = patient(provider.next_job()).await.expect("job");
    assert_eq!(*work.dispatch, dispatch(7));
    assert_eq!(*work.welcome, hall::welcome());

    work.stream.send(&delta(7, 1)).await.expect("sent");
    assert_eq!(patient(job.recv()).await, Ok(Some(delta(7, 1))));
    let cancel = ToProvider::Cancel {
        job: job_of(7),
        attempt: 0,
        delivered: 1,
    };
    job.send(&cancel).await.expect("sent");
    assert_eq!(patient(work.stream.recv()).await, Ok(Some(cancel)));
    let refused = ToRouter::Refused {
        job: job_of(7),
        attempt: 0,
        reason: RefusalReason::Draining,
    };
    work.stream.send(&refused).await.expect("sent");
    drop(work);
    assert_eq!(patient(job.recv()).await, Ok(Some(refused)));
    assert_eq!(patient(job.recv()).await, Ok(None));
}

#[tokio::test]
async fn a_trace_travels_with_the_order_and_an_order_without_one_has_no_word_of_it() {
    let hall = Hall::open().await;
    let (provider, link) = hall.join(1).await;
    let mut traced = dispatch(7);
    let above = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse();
    traced.trace = Some(above.expect("valid"));
    let _job = link.open_job(traced.clone()).await.expect("opened");
    let work = patient(provider.next_job()).await.expect("job");
    assert_eq!(*work.dispatch, traced);
    // Who is of a version before traces refuses words that it does not know.
    let plain = serde_json::to_string(&dispatch(7)).expect("JSON");
    assert!(!plain.contains("trace"), "{plain}");
}

#[tokio::test]
async fn who_comes_before_the_door_opens_waits_there_and_is_asked_for_only_then() {
    let hall = Hall::closed().await;
    let provider = hall::connect(hall.provider_config(1)).await;
    let mut state = provider.state();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(hall.asked.load(Ordering::SeqCst), 0);
    hall.router.open();
    let link = patient(hall.router.accept()).await.expect("admitted");
    assert_eq!(link.endpoint_id(), provider.endpoint_id());
    let connected = |state: &LinkState| matches!(state, LinkState::Connected { .. });
    patient(state.wait_for(connected)).await.expect("welcomed");
    assert_eq!(hall.asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn who_waits_too_long_at_a_closed_door_is_told_to_come_again_and_is_let_in_then() {
    let hall = Hall::closed().await;
    let mut config = hall.provider_config(1);
    config.timeouts.handshake = Duration::from_secs(10);
    let provider = hall::connect(config).await;
    let mut state = provider.state();
    let told = |state: &LinkState| matches!(state, LinkState::Waiting { reason, .. } if reason.contains("come again"));
    patient(state.wait_for(told)).await.expect("told");
    assert_eq!(hall.asked.load(Ordering::SeqCst), 0, "nobody was asked");
    hall.router.open();
    patient(hall.router.accept()).await.expect("admitted");
}

#[tokio::test]
async fn sixty_four_jobs_in_flight_do_not_mix() {
    let hall = Hall::open().await;
    let (provider, link) = hall.join(1).await;
    let serving = tokio::spawn(async move {
        while let Some(mut work) = provider.next_job().await {
            tokio::spawn(async move {
                let number = work.dispatch.ticket.ticket.attempt;
                for step in 0..20 {
                    work.stream.send(&delta(number, step)).await.expect("sent");
                    tokio::task::yield_now().await;
                }
            });
        }
    });
    let jobs: Vec<_> = (0..64)
        .map(|number| {
            let link = link.clone();
            tokio::spawn(async move {
                let mut job = link.open_job(dispatch(number)).await.expect("opened");
                for step in 0..20 {
                    assert_eq!(job.recv().await, Ok(Some(delta(number, step))));
                }
                assert_eq!(job.recv().await, Ok(None));
            })
        })
        .collect();
    for job in jobs {
        patient(job).await.expect("no panic");
    }
    serving.abort();
}

#[tokio::test]
async fn free_slots_and_draining_reach_the_router_and_survive_a_reconnect() {
    let hall = Hall::open().await;
    let (provider, link) = hall.join(4).await;
    let status = ProviderStatus {
        free_slots: 1,
        draining: true,
    };
    provider.set_status(status);
    patient(link.status().wait_for(|s| *s == status))
        .await
        .expect("link lives");

    drop(link);
    let hall = Hall::reopen(hall.stop().await).await;
    let link = patient(hall.router.accept()).await.expect("back");
    patient(link.status().wait_for(|s| *s == status))
        .await
        .expect("link lives");
}

#[tokio::test]
async fn a_receipt_whose_stream_was_lost_is_repeated_and_answered_on_the_control_stream() {
    let hall = Hall::open().await;
    let (provider, link) = hall.join(1).await;
    drop(link);
    let hall = Hall::reopen(hall.stop().await).await;
    let link = patient(hall.router.accept()).await.expect("back");
    let end = hall::last_message(3);
    let mut state = provider.state();
    patient(state.wait_for(|s| matches!(s, LinkState::Connected { connection: 2, .. })))
        .await
        .expect("back");
    provider.repeat(end.clone()).await;
    assert_eq!(patient(link.next_late()).await, Some(end));
    let refusal = ToProvider::ReceiptRefused {
        job: job_of(3),
        attempt: 0,
        reason: "charged elsewhere".to_owned(),
    };
    link.answer_late(refusal.clone()).await.expect("sent");
    assert_eq!(patient(provider.next_late()).await, Some(refusal));
}

#[tokio::test]
async fn a_restarted_router_finds_its_provider_again_and_jobs_flow() {
    let hall = Hall::open().await;
    let (provider, link) = hall.join(1).await;
    let mut job = link.open_job(dispatch(1)).await.expect("opened");
    let mut work = patient(provider.next_job()).await.expect("job");

    let closed = hall.stop().await;
    let shutdown = Lost::ClosedByPeer {
        code: CloseCode::Shutdown,
        reason: String::new(),
    };
    assert_eq!(
        patient(work.stream.recv()).await,
        Err(StreamError::Lost(shutdown))
    );
    assert!(patient(job.recv()).await.is_err());
    drop((job, link));
    let hall = Hall::reopen(closed).await;

    let link = patient(hall.router.accept()).await.expect("back");
    assert_eq!(patient(provider.connected()).await, Some(hall::welcome()));
    let _job = link.open_job(dispatch(2)).await.expect("opened");
    let work = patient(provider.next_job()).await.expect("job");
    assert_eq!(*work.dispatch, dispatch(2));
}

#[tokio::test]
async fn a_provider_that_is_told_that_its_router_started_anew_leaves_the_link_and_dials_again() {
    let hall = Hall::open().await;
    let (provider, link) = hall.join(1).await;
    provider.redial(&hall.router.address()).expect("an address");
    patient(link.closed()).await;
    let link = patient(hall.router.accept()).await.expect("there again");
    let _job = link.open_job(dispatch(1)).await.expect("opened");
    let work = patient(provider.next_job()).await.expect("job");
    assert_eq!(*work.dispatch, dispatch(1));
}

#[tokio::test]
async fn a_provider_that_leaves_mid_stream_is_seen_at_once() {
    let hall = Hall::open().await;
    let (provider, link) = hall.join(1).await;
    let mut job = link.open_job(dispatch(1)).await.expect("opened");
    let mut work = patient(provider.next_job()).await.expect("job");
    work.stream.send(&delta(1, 0)).await.expect("sent");
    assert_eq!(patient(job.recv()).await, Ok(Some(delta(1, 0))));

    let left = Instant::now();
    drop(provider);
    assert!(matches!(
        patient(job.recv()).await,
        Err(StreamError::Lost(_))
    ));
    patient(link.closed()).await;
    assert!(
        left.elapsed() < Duration::from_secs(2),
        "{:?}",
        left.elapsed()
    );
}

#[test]
fn a_provider_that_dies_without_a_word_is_noticed_by_its_silence() {
    let router_side = tokio::runtime::Runtime::new().expect("runtime");
    let provider_side = tokio::runtime::Runtime::new().expect("runtime");
    router_side.block_on(async {
        let hall = Hall::open().await;
        let config = hall.provider_config(1);
        let provider = provider_side
            .spawn(async move { hall::connect(config).await })
            .await
            .expect("no panic");
        let link = patient(hall.router.accept()).await.expect("admitted");
        let mut job = link.open_job(dispatch(1)).await.expect("opened");
        // As kill -9: its tasks and sockets vanish, nothing is said.
        let died = Instant::now();
        provider_side.shutdown_background();
        assert_eq!(
            patient(job.recv()).await,
            Err(StreamError::Lost(Lost::Silent))
        );
        let silence = hall::timeouts().silence;
        assert!(
            died.elapsed() < silence * 3,
            "noticed after {:?}",
            died.elapsed()
        );
        drop(provider);
    });
}

#[tokio::test]
async fn a_newer_connection_of_the_same_endpoint_replaces_the_old_one() {
    let hall = Hall::open().await;
    let (_first, old) = hall.join(1).await;
    let (_second, new) = hall.join(1).await;
    assert!(matches!(
        patient(old.closed()).await,
        Lost::ClosedByPeer { .. } | Lost::ClosedHere
    ));
    assert_eq!(old.endpoint_id(), new.endpoint_id());
}

#[tokio::test]
async fn an_unregistered_provider_hears_why_and_tries_again_later() {
    let hall = Hall::open().await;
    let provider = hall::connect(hall.provider_config(hall::UNREGISTERED)).await;
    let mut state = provider.state();
    let waiting = patient(state.wait_for(|s| matches!(s, LinkState::Waiting { .. })))
        .await
        .expect("still trying")
        .clone();
    let LinkState::Waiting { reason, wait } = waiting else {
        unreachable!("waited for it")
    };
    assert!(reason.contains("not registered on chain"), "{reason}");
    assert!(wait > Duration::ZERO);
    let tried = hall.asked.load(Ordering::SeqCst);
    patient(async {
        while hall.asked.load(Ordering::SeqCst) == tried {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_stalled_reader_holds_its_writer_back_and_nobody_else() {
    let hall = Hall::open().await;
    let (provider, link) = hall.join(2).await;
    let _unread = link.open_job(dispatch(1)).await.expect("opened");
    let mut stalled = patient(provider.next_job()).await.expect("job");
    let sent = std::sync::Arc::new(AtomicU32::new(0));
    let counter = sent.clone();
    let writer = tokio::spawn(async move {
        let big = ToRouter::Delta {
            job: job_of(1),
            attempt: 0,
            tokens: Vec::new(),
            text: "x".repeat(16 << 10),
            logprobs: Vec::new(),
        };
        let begun = Instant::now();
        loop {
            if let Err(error) = stalled.stream.send(&big).await {
                return (error, begun.elapsed());
            }
            counter.fetch_add(1, Ordering::SeqCst);
        }
    });

    let mut read = link.open_job(dispatch(2)).await.expect("opened");
    let mut work = patient(provider.next_job()).await.expect("job");
    for step in 0..50 {
        work.stream.send(&delta(2, step)).await.expect("sent");
        assert_eq!(patient(read.recv()).await, Ok(Some(delta(2, step))));
    }

    let (error, after) = patient(writer).await.expect("no panic");
    assert_eq!(error, StreamError::StalledReader(hall::timeouts().stall));
    assert!(after >= hall::timeouts().stall);
    // One stream window on the way and nothing more: 16 frames of 16 KiB, a few more in the sender.
    let frames = sent.load(Ordering::SeqCst);
    assert!(
        (10..=40).contains(&frames),
        "{frames} frames of 16 KiB left"
    );
    assert!(!link.is_closed());
}

#[tokio::test]
async fn the_largest_message_passes_and_a_larger_one_is_refused_before_sending() {
    let hall = Hall::open().await;
    let (provider, link) = hall.join(1).await;
    let mut job = link.open_job(dispatch(1)).await.expect("opened");
    let mut work = patient(provider.next_job()).await.expect("job");
    let text = |bytes| ToRouter::Failed {
        job: job_of(1),
        attempt: 0,
        reason: "x".repeat(bytes),
    };
    assert!(matches!(
        work.stream.send(&text(8 << 20)).await,
        Err(StreamError::TooLarge { .. })
    ));
    let large = text((8 << 20) - 200);
    let expected = large.clone();
    let writer = tokio::spawn(async move { work.stream.send(&large).await });
    assert!(patient(job.recv()).await == Ok(Some(expected)), "arrived");
    assert_eq!(patient(writer).await.expect("no panic"), Ok(()));
}

#[tokio::test]
async fn round_trip_and_directness_of_a_link_can_be_seen() {
    let hall = Hall::open().await;
    let (provider, link) = hall.join(1).await;
    for path in [link.path(), provider.path()] {
        let path = path.expect("connected");
        assert!(!path.relayed);
        assert!(path.rtt < Duration::from_secs(1), "{:?}", path.rtt);
    }
}

#[tokio::test]
async fn a_port_in_use_is_one_clear_sentence() {
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").expect("free port");
    let address = taken.local_addr().expect("bound");
    let mut config = hall::router_config();
    config.bind = address;
    let error = match stoa_net::RouterEndpoint::bind(config, hall::everyone()).await {
        Ok(_) => panic!("bound a taken port"),
        Err(error) => error.to_string(),
    };
    assert!(error.contains(&address.to_string()), "{error}");
    assert!(error.contains("choose another port"), "{error}");
}

#[tokio::test]
async fn a_receipt_as_large_as_a_job_stream_takes_it_can_be_repeated_and_a_larger_one_ends_no_link()
{
    let hall = Hall::open().await;
    let (provider, link) = hall.join(1).await;
    provider
        .repeat(hall::large_last_message(1, MESSAGE_BYTES_MAX))
        .await;
    let large = hall::large_last_message(2, 3 * CONTROL_BYTES_MAX);
    provider.repeat(large.clone()).await;
    assert!(
        patient(link.next_late()).await == Some(large),
        "the second one arrived, the first was never sent"
    );
    let refusal = ToProvider::ReceiptRefused {
        job: job_of(2),
        attempt: 2,
        reason: "x".repeat(2 * CONTROL_BYTES_MAX),
    };
    link.answer_late(refusal.clone()).await.expect("sent");
    assert!(patient(provider.next_late()).await == Some(refusal));
    assert!(!link.is_closed());
}

#[tokio::test]
async fn of_many_connections_of_one_endpoint_the_last_link_handed_over_is_the_one_that_lives() {
    const RIVALS: usize = 8;
    let hall = Hall::open().await;
    let mut config = hall.provider_config(1);
    config.backoff = Backoff::new(Duration::from_secs(60), Duration::from_secs(60));
    let mut rivals = Vec::new();
    for _ in 0..RIVALS {
        rivals.push(hall::connect(config.clone()).await);
    }
    let mut links = Vec::new();
    for _ in 0..RIVALS {
        links.push(patient(hall.router.accept()).await.expect("admitted"));
    }
    let last = links.pop().expect("there are rivals");
    for earlier in links {
        patient(earlier.closed()).await;
    }
    assert!(!last.is_closed());
    let _job = last.open_job(dispatch(1)).await.expect("it takes orders");
}
