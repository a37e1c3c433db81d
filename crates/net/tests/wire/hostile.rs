//! Peers that break the protocol, spoken to with bare iroh streams.

use crate::hall::{self, Hall, dispatch, patient};
use iroh::endpoint::{
    Connection, ConnectionError, QuicTransportConfig, ReadError, RecvStream, SendStream, presets,
};
use iroh::{Endpoint, EndpointAddr, RelayMode};
use std::time::Duration;
use stoa_net::{ALPN, CONTROL_BYTES_MAX, LinkState, ProviderLink, RouterControl, StreamError};
use stoa_nodes::message::ToRouter;

async fn bare_endpoint(alpn: Option<&[u8]>) -> Endpoint {
    bare_endpoint_that_lets(100, alpn).await
}

/// An endpoint whose peer may open so many streams.
async fn bare_endpoint_that_lets(streams: u32, alpn: Option<&[u8]>) -> Endpoint {
    let transport = QuicTransportConfig::builder()
        .max_concurrent_bidi_streams(streams.into())
        .build();
    Endpoint::builder(presets::Minimal)
        .relay_mode(RelayMode::Disabled)
        .transport_config(transport)
        .alpns(alpn.iter().map(|a| a.to_vec()).collect())
        .clear_ip_transports()
        .bind_addr("127.0.0.1:0")
        .expect("address")
        .bind()
        .await
        .expect("bound")
}

fn address_of(hall: &Hall) -> EndpointAddr {
    let at = hall.router.address();
    let id = iroh::EndpointId::from_bytes(&at.endpoint.0).expect("key");
    EndpointAddr::new(id).with_ip_addr(at.addresses[0])
}

fn frame(body: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(body.len())
        .expect("short")
        .to_be_bytes()
        .to_vec();
    bytes.extend(body);
    bytes
}

fn hello_frame() -> Vec<u8> {
    let hello = ToRouter::Hello(Box::new(hall::hello(1)));
    frame(&serde_json::to_vec(&hello).expect("json"))
}

/// A peer that speaks the frames itself: may say anything.
struct Bare {
    _endpoint: Endpoint,
    connection: Connection,
    send: SendStream,
    recv: RecvStream,
}

impl Bare {
    async fn dial(hall: &Hall) -> Self {
        let endpoint = bare_endpoint(None).await;
        let connection = patient(endpoint.connect(address_of(hall), ALPN))
            .await
            .expect("connected");
        let (send, recv) = connection.open_bi().await.expect("stream");
        Self {
            _endpoint: endpoint,
            connection,
            send,
            recv,
        }
    }

    async fn admitted(hall: &Hall) -> (Self, ProviderLink) {
        let mut bare = Self::dial(hall).await;
        bare.send.write_all(&hello_frame()).await.expect("sent");
        let link = patient(hall.router.accept()).await.expect("admitted");
        let mut header = [0; 4];
        bare.recv.read_exact(&mut header).await.expect("header");
        let mut body = vec![0; u32::from_be_bytes(header) as usize];
        bare.recv.read_exact(&mut body).await.expect("body");
        let answer: RouterControl = serde_json::from_slice(&body).expect("answer");
        assert_eq!(answer, RouterControl::Welcome(hall::welcome()));
        (bare, link)
    }

    /// Code and words with which the router closed the connection.
    async fn verdict(&self) -> (u64, String) {
        match patient(self.connection.closed()).await {
            ConnectionError::ApplicationClosed(close) => (
                close.error_code.into_inner(),
                String::from_utf8_lossy(&close.reason).into_owned(),
            ),
            other => panic!("not closed by the router: {other}"),
        }
    }
}

#[tokio::test]
async fn another_protocol_is_turned_away_in_the_handshake() {
    let hall = Hall::open().await;
    let endpoint = bare_endpoint(None).await;
    let refused = patient(endpoint.connect(address_of(&hall), b"stoa/provider/0")).await;
    let error = format!("{:#}", refused.expect_err("must not connect"));
    assert!(error.contains("any known protocol"), "{error}");
}

#[tokio::test]
async fn an_oversized_hello_closes_the_connection_by_name() {
    let hall = Hall::open().await;
    let mut bare = Bare::dial(&hall).await;
    let length = u32::try_from(CONTROL_BYTES_MAX + 1).expect("fits");
    bare.send
        .write_all(&length.to_be_bytes())
        .await
        .expect("sent");
    let (code, reason) = bare.verdict().await;
    assert_eq!(code, 1);
    assert!(reason.contains("the limit is 1048576"), "{reason}");
}

#[tokio::test]
async fn garbage_instead_of_a_hello_closes_the_connection_and_is_not_repeated_back() {
    let hall = Hall::open().await;
    for garbage in [
        &b"not json"[..],
        b"{\"secret\":1}",
        b"\xff\xfe",
        b"",
        b"[[[[",
    ] {
        let mut bare = Bare::dial(&hall).await;
        bare.send.write_all(&frame(garbage)).await.expect("sent");
        let (code, reason) = bare.verdict().await;
        assert_eq!(code, 2, "{reason}");
        assert!(reason.contains("is no message"), "{reason}");
        assert!(!reason.contains("secret"), "{reason}");
    }
}

#[tokio::test]
async fn another_message_than_hello_and_a_silent_peer_are_not_admitted() {
    let hall = Hall::open().await;
    let mut bare = Bare::dial(&hall).await;
    bare.send
        .write_all(&frame(br#"{"status":{"free_slots":1,"draining":false}}"#))
        .await
        .expect("sent");
    assert_eq!(bare.verdict().await.0, 4);

    let silent = Bare::dial(&hall).await;
    assert_eq!(silent.verdict().await.0, 3);
}

#[tokio::test]
async fn only_status_belongs_on_the_control_stream_after_the_hello() {
    let hall = Hall::open().await;
    let (mut bare, link) = Bare::admitted(&hall).await;
    bare.send.write_all(&hello_frame()).await.expect("sent");
    assert_eq!(bare.verdict().await.0, 4);
    patient(link.closed()).await;
}

#[tokio::test]
async fn a_garbage_frame_ends_its_job_by_name_and_leaves_the_other_jobs_alone() {
    let hall = Hall::open().await;
    let (bare, link) = Bare::admitted(&hall).await;
    let mut broken = link.open_job(dispatch(1)).await.expect("opened");
    let (mut broken_send, _broken_recv) = patient(bare.connection.accept_bi()).await.expect("job");
    let mut sound = link.open_job(dispatch(2)).await.expect("opened");
    let (mut sound_send, _sound_recv) = patient(bare.connection.accept_bi()).await.expect("job");

    broken_send.write_all(&frame(b"{}")).await.expect("sent");
    assert!(matches!(
        patient(broken.recv()).await,
        Err(StreamError::Malformed { bytes: 2, .. })
    ));
    assert_eq!(
        patient(broken_send.stopped())
            .await
            .map(|c| c.map(u64::from)),
        Ok(Some(2))
    );

    let message = hall::delta(2, 0);
    let body = serde_json::to_vec(&message).expect("json");
    sound_send.write_all(&frame(&body)).await.expect("sent");
    assert_eq!(patient(sound.recv()).await, Ok(Some(message)));
}

#[tokio::test]
async fn an_oversized_or_dribbling_answer_ends_its_job() {
    let hall = Hall::open().await;
    let (bare, link) = Bare::admitted(&hall).await;
    let mut job = link.open_job(dispatch(1)).await.expect("opened");
    let (mut send, _recv) = patient(bare.connection.accept_bi()).await.expect("job");
    send.write_all(&u32::MAX.to_be_bytes()).await.expect("sent");
    assert!(matches!(
        patient(job.recv()).await,
        Err(StreamError::Oversized { .. })
    ));

    let mut job = link.open_job(dispatch(2)).await.expect("opened");
    let (mut send, _recv) = patient(bare.connection.accept_bi()).await.expect("job");
    send.write_all(b"\0\0\0\x09{").await.expect("sent");
    assert_eq!(
        patient(job.recv()).await,
        Err(StreamError::SlowPeer {
            after: hall::timeouts().frame,
            received: 5
        })
    );
}

/// A router that breaks the protocol, for the provider's side.
async fn false_router() -> (Endpoint, stoa_net::RouterAddress) {
    let endpoint = bare_endpoint(Some(ALPN)).await;
    let address = stoa_net::RouterAddress {
        endpoint: stoa_types::EndpointId(*endpoint.id().as_bytes()),
        addresses: endpoint.bound_sockets(),
    };
    (endpoint, address)
}

#[tokio::test]
async fn a_provider_is_told_that_its_router_speaks_another_version_of_the_link() {
    let endpoint = bare_endpoint(Some(b"stoa/provider/3")).await;
    let hall = Hall::open().await;
    let mut config = hall.provider_config(1);
    config.router = stoa_net::RouterAddress {
        endpoint: stoa_types::EndpointId(*endpoint.id().as_bytes()),
        addresses: endpoint.bound_sockets(),
    };
    let answering = tokio::spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            let _ = incoming.await;
        }
    });
    let provider = hall::connect(config).await;
    let mut state = provider.state();
    let waits = state.wait_for(|state| matches!(state, LinkState::Waiting { .. }));
    let waits = patient(waits).await.expect("tells").clone();
    let LinkState::Waiting { reason, .. } = waits else {
        panic!("it waits");
    };
    assert!(reason.contains("another version of the link"), "{reason}");
    answering.abort();
}

#[tokio::test]
async fn a_job_stream_that_does_not_begin_with_a_dispatch_is_reset_and_the_link_lives() {
    let (endpoint, address) = false_router().await;
    let hall = Hall::open().await;
    let mut config = hall.provider_config(1);
    config.router = address;
    let provider = hall::connect(config).await;
    let connection = patient(async { endpoint.accept().await.expect("open").await })
        .await
        .expect("connected");
    let (mut answer, _control) = patient(connection.accept_bi()).await.expect("control");
    let welcome = serde_json::to_vec(&RouterControl::Welcome(hall::welcome())).expect("json");
    answer.write_all(&frame(&welcome)).await.expect("sent");
    assert_eq!(patient(provider.connected()).await, Some(hall::welcome()));

    let cancel = br#"{"cancel":{"job":"0x0000000000000000000000000000000000000000000000000000000000000000","attempt":0,"delivered":0}}"#;
    for (bytes, code) in [(frame(cancel), 4), (frame(b"garbage"), 2)] {
        let (mut send, mut recv) = connection.open_bi().await.expect("stream");
        send.write_all(&bytes).await.expect("sent");
        match patient(recv.read_to_end(100)).await {
            Err(iroh::endpoint::ReadToEndError::Read(ReadError::Reset(reset))) => {
                assert_eq!(reset.into_inner(), code);
            }
            other => panic!("not reset: {other:?}"),
        }
    }
    let order = stoa_nodes::message::ToProvider::Dispatch(Box::new(dispatch(3)));
    let (mut send, _recv) = connection.open_bi().await.expect("stream");
    send.write_all(&frame(&serde_json::to_vec(&order).expect("json")))
        .await
        .expect("sent");
    let job = patient(provider.next_job()).await.expect("job");
    assert_eq!(*job.dispatch, dispatch(3));
}

#[tokio::test]
async fn a_provider_waits_and_says_so_when_nobody_answers() {
    let hall = Hall::open().await;
    let unused = std::net::UdpSocket::bind("127.0.0.1:0").expect("port");
    let mut config = hall.provider_config(1);
    config.router.addresses = vec![unused.local_addr().expect("bound")];
    config.timeouts.handshake = Duration::from_millis(300);
    let provider = hall::connect(config).await;
    let mut state = provider.state();
    let waiting = patient(state.wait_for(|s| matches!(s, LinkState::Waiting { .. })))
        .await
        .expect("still trying")
        .clone();
    assert!(
        format!("{waiting:?}").contains("cannot connect to the router"),
        "{waiting:?}"
    );
}

#[tokio::test]
async fn a_stranger_may_open_one_stream_and_no_more() {
    let hall = Hall::open().await;
    let bare = Bare::dial(&hall).await;
    let second = tokio::time::timeout(Duration::from_millis(300), bare.connection.open_bi()).await;
    assert!(second.is_err(), "each stream is a window of memory");
    let uni = tokio::time::timeout(Duration::from_millis(100), bare.connection.open_uni()).await;
    assert!(uni.is_err());

    let (admitted, _link) = Bare::admitted(&hall).await;
    let second =
        tokio::time::timeout(Duration::from_millis(300), admitted.connection.open_bi()).await;
    assert!(second.is_err(), "nor may one that was admitted");
}

#[tokio::test]
async fn silent_strangers_of_one_address_take_a_bounded_number_of_places_and_give_them_back() {
    let hall = Hall::open().await;
    let endpoint = bare_endpoint(None).await;
    let mut held = Vec::new();
    // The later ones of these must prove their address before they are let in.
    for _ in 0..32 {
        let dialled = endpoint.connect(address_of(&hall), ALPN);
        held.push(patient(dialled).await.expect("a place"));
    }
    let refused = patient(endpoint.connect(address_of(&hall), ALPN)).await;
    assert!(refused.is_err(), "all places of this address are taken");
    // Silence ends at the handshake's limit, and the address is welcome again.
    let provider = hall::connect(hall.provider_config(1)).await;
    patient(hall.router.accept()).await.expect("admitted");
    patient(provider.connected()).await.expect("welcomed");
    for connection in held {
        patient(connection.closed()).await;
    }
}

#[tokio::test]
async fn a_router_that_does_not_read_its_control_stream_still_gets_its_jobs_done() {
    let (endpoint, address) = false_router().await;
    let hall = Hall::open().await;
    let mut config = hall.provider_config(1);
    config.router = address;
    config.timeouts.stall = Duration::from_secs(30);
    let provider = std::sync::Arc::new(hall::connect(config).await);
    let connection = patient(async { endpoint.accept().await.expect("open").await })
        .await
        .expect("connected");
    let (mut answer, _unread) = patient(connection.accept_bi()).await.expect("control");
    let welcome = serde_json::to_vec(&RouterControl::Welcome(hall::welcome())).expect("json");
    answer.write_all(&frame(&welcome)).await.expect("sent");
    patient(provider.connected()).await.expect("welcomed");
    let repeating = provider.clone();
    let stuck = tokio::spawn(async move {
        loop {
            repeating
                .repeat(hall::large_last_message(1, 100 << 10))
                .await;
        }
    });
    // More than one stream window: the provider's writer stands still by then.
    tokio::time::sleep(Duration::from_millis(300)).await;

    let order = stoa_nodes::message::ToProvider::Dispatch(Box::new(dispatch(3)));
    let (mut send, _recv) = connection.open_bi().await.expect("stream");
    send.write_all(&frame(&serde_json::to_vec(&order).expect("json")))
        .await
        .expect("sent");
    let job = patient(provider.next_job()).await.expect("job");
    assert_eq!(*job.dispatch, dispatch(3));
    let refusal = stoa_nodes::message::ToProvider::ReceiptRefused {
        job: hall::job_of(1),
        attempt: 1,
        reason: "known".to_owned(),
    };
    let late = serde_json::to_vec(&RouterControl::Late(Box::new(refusal.clone()))).expect("json");
    answer.write_all(&frame(&late)).await.expect("sent");
    assert_eq!(patient(provider.next_late()).await, Some(refusal));
    stuck.abort();
}

#[tokio::test]
async fn a_router_that_lets_no_stream_open_or_never_answers_is_left_again() {
    for streams in [0, 1] {
        let endpoint = bare_endpoint_that_lets(streams, Some(ALPN)).await;
        let hall = Hall::open().await;
        let mut config = hall.provider_config(1);
        config.router = stoa_net::RouterAddress {
            endpoint: stoa_types::EndpointId(*endpoint.id().as_bytes()),
            addresses: endpoint.bound_sockets(),
        };
        config.timeouts.handshake = Duration::from_millis(500);
        let provider = hall::connect(config).await;
        let connection = patient(async { endpoint.accept().await.expect("open").await })
            .await
            .expect("connected");
        let mut state = provider.state();
        let waiting = patient(state.wait_for(|s| matches!(s, LinkState::Waiting { .. })))
            .await
            .expect("still trying")
            .clone();
        assert!(
            format!("{waiting:?}").contains("said nothing"),
            "{waiting:?}"
        );
        patient(connection.closed()).await;
    }
}
