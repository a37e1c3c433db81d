//! Connections that cost the server something and bring nothing, and what a client really got.

use crate::support::*;
use serde_json::json;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use stoa_api::Timings;
use stoa_nodes::client::ClientEvent;
use stoa_types::FinishReason;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn connect(server: &Server) -> TcpStream {
    TcpStream::connect(server.address).await.expect("listening")
}

/// Time until the server ends the connection, and what it said before.
async fn until_closed(stream: &mut TcpStream) -> (Duration, Vec<u8>) {
    let began = Instant::now();
    let mut bytes = Vec::new();
    let end = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut bytes)).await;
    let _ = end.expect("the connection is closed");
    (began.elapsed(), bytes)
}

fn impatient() -> Timings {
    Timings {
        first_request: Duration::from_millis(200),
        idle: Duration::from_millis(400),
        ..quick()
    }
}

#[tokio::test]
async fn a_client_that_sends_nothing_or_its_head_a_byte_at_a_time_is_closed() {
    let server = Server::with(Hall::new(Vec::new()), impatient()).await;
    let mut silent = connect(&server).await;
    let (took, _) = until_closed(&mut silent).await;
    assert!(took >= Duration::from_millis(150), "{took:?}");
    for preface in [
        "GET /v1/models HTTP/1.1\r\nhost: x\r\n",
        "PRI * HTTP/2.0\r\n",
    ] {
        let stream = connect(&server).await;
        let (mut read, mut write) = stream.into_split();
        let began = Instant::now();
        let trickle = tokio::spawn(async move {
            write.write_all(preface.as_bytes()).await.expect("sent");
            while write.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        let mut bytes = Vec::new();
        let end = tokio::time::timeout(Duration::from_secs(8), read.read_to_end(&mut bytes)).await;
        drop(end.expect("closed though bytes kept coming"));
        assert!(began.elapsed() < Duration::from_secs(5));
        trickle.abort();
    }
}

#[tokio::test]
async fn a_connection_is_kept_between_requests_and_closed_when_none_follows() {
    let server = Server::with(Hall::new(Vec::new()), impatient()).await;
    let mut stream = connect(&server).await;
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(120)).await;
        stream
            .write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .expect("open");
        let mut answer = [0; 15];
        stream.read_exact(&mut answer).await.expect("answered");
        assert_eq!(&answer, b"HTTP/1.1 200 OK");
        let mut rest = [0; 4096];
        assert!(stream.read(&mut rest).await.expect("open") > 0);
    }
    let (took, bytes) = until_closed(&mut stream).await;
    assert!(took >= Duration::from_millis(300), "{took:?}");
    assert!(bytes.is_empty());
}

#[tokio::test]
async fn a_call_that_takes_long_is_no_idle_connection() {
    let mut script = vec![Step::Wait(1_200)];
    script.extend(answer(&["four"], content("four", &[])));
    let server = Server::with(Hall::new(script), impatient()).await;
    for stream in [false, true] {
        let reply = server.chat(request(json!({"stream": stream}))).await;
        assert_eq!(reply.status, 200);
    }
}

#[tokio::test]
async fn connections_beyond_the_bound_are_told_so_and_places_become_free_again() {
    let timings = Timings {
        connections_max: 2,
        ..quick()
    };
    let server = Server::with(Hall::new(Vec::new()), timings).await;
    let (first, second) = (connect(&server).await, connect(&server).await);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let reply = server.get("/v1/models").await;
    assert_eq!(reply.error(), (503, "router_overloaded".to_owned(), true));
    assert!(["1", "2"].contains(&reply.headers["retry-after"].as_str()));
    drop((first, second));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(server.get("/v1/models").await.status, 200);
}

#[tokio::test]
async fn a_client_that_leaves_owes_what_was_written_to_it() {
    let script = vec![
        Step::Say(ClientEvent::Started(started())),
        delta("a"),
        // Half a character: nothing that the client could get.
        delta(""),
        delta("b"),
        delta(""),
        Step::Hang,
    ];
    let server = Server::start(script).await;
    let body = request(json!({"stream": true})).to_string();
    let mut stream = server
        .open(
            "POST",
            "/v1/chat/completions",
            &[AUTHORIZED, JSON],
            body.as_bytes(),
        )
        .await;
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains("\"b\"") {
        let mut piece = [0; 1024];
        let n = stream.read(&mut piece).await.expect("open");
        assert!(n > 0);
        seen.extend_from_slice(&piece[..n]);
    }
    drop(stream);
    server.cancelled().await;
    assert_eq!(server.hall.read.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_client_that_reads_nothing_owes_little_of_what_waits_for_it() {
    let piece = "x".repeat(64 << 10);
    let mut script = vec![Step::Say(ClientEvent::Started(started()))];
    script.extend((0..2_000).map(|_| delta(&piece)));
    let timings = Timings {
        slow_reader: Duration::from_millis(200),
        ..quick()
    };
    let server = Server::with(Hall::new(script), timings).await;
    let body = request(json!({"stream": true})).to_string();
    let stream = server
        .open(
            "POST",
            "/v1/chat/completions",
            &[AUTHORIZED, JSON],
            body.as_bytes(),
        )
        .await;
    server.cancelled().await;
    let read = server.hall.read.load(Ordering::SeqCst);
    // The system's socket buffers of both ends hold some MB; ours add a piece or two.
    assert!(read > 0 && read < 300, "{read} of 2,000");
    drop(stream);
}

#[tokio::test]
async fn a_client_that_leaves_an_answer_in_one_piece_has_got_nothing_yet() {
    let script = vec![
        Step::Say(ClientEvent::Started(started())),
        delta("a"),
        Step::Hang,
    ];
    let server = Server::start(script).await;
    let body = request(json!({})).to_string();
    let stream = server
        .open(
            "POST",
            "/v1/chat/completions",
            &[AUTHORIZED, JSON],
            body.as_bytes(),
        )
        .await;
    while server.hall.submissions() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    drop(stream);
    server.cancelled().await;
    assert_eq!(server.hall.read.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn the_end_of_the_text_is_confirmed_with_all_tokens_streamed_or_not() {
    for stream in [false, true] {
        let server = Server::start(answer(&["fo", "", "ur"], content("four", &[]))).await;
        assert_eq!(
            server.chat(request(json!({"stream": stream}))).await.status,
            200
        );
        assert_eq!(*server.hall.delivered.borrow(), Some(3));
        assert!(!server.hall.was_cancelled.load(Ordering::SeqCst));
    }
}

#[tokio::test]
async fn a_client_that_the_router_cut_off_is_told_what_it_was_billed() {
    let mut end = done(content("par", &[]));
    end.content.finish_reason = FinishReason::Cancelled;
    let script = vec![
        Step::Say(ClientEvent::Started(started())),
        delta("par"),
        delta("t of more"),
        Step::Say(ClientEvent::Done(std::sync::Arc::new(end))),
    ];
    let server = Server::start(script).await;
    let reply = server.chat(request(json!({"stream": true}))).await;
    let error = reply.chunks().pop().expect("events")["error"].clone();
    assert_eq!(error["stoa"]["cause"], "client_too_slow");
    assert_eq!(error["stoa"]["billed"], "0.100003");
    assert!(!reply.text().contains("[DONE]"));
}
