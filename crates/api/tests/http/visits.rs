//! What an account may cost that looks at the dashboard.

use crate::access::login;
use crate::sign_in::cookie_of;
use crate::support::*;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

async fn server(pages_per_minute: u32) -> Server {
    let mut hall = Hall::new(answer(&["four"], content("four", &[])));
    hall.pages_per_minute = pages_per_minute;
    Server::with(hall, quick()).await
}

async fn page(server: &Server, cookie: &str) -> Reply {
    server
        .send("GET", "/dashboard/data", &[("cookie", cookie)], b"")
        .await
}

#[tokio::test]
async fn an_account_has_a_rate_for_pages_however_many_sessions_it_has() {
    let server = server(3).await;
    let (one, other) = (
        cookie_of(&server, "alice").await,
        cookie_of(&server, "alice").await,
    );
    for (cookie, left) in [(&one, "2"), (&other, "1"), (&one, "0")] {
        let reply = page(&server, cookie).await;
        assert_eq!(reply.status, 200);
        assert_eq!(reply.headers["x-ratelimit-limit-requests"], "3");
        assert_eq!(reply.headers["x-ratelimit-remaining-requests"], left);
        assert!(!reply.headers.contains_key("x-ratelimit-limit-tokens"));
    }
    let with = [("cookie", other.as_str()), JSON, ("accept", "text/html")];
    for (method, path) in [
        ("GET", "/"),
        ("GET", "/dashboard/live?page=/"),
        ("POST", "/dashboard/verify"),
    ] {
        let reply = server.send(method, path, &with, b"").await;
        assert_eq!(reply.status, 429, "{path}");
        assert!(reply.text().contains("more than 3 requests a minute"));
        let wait: u64 = reply.headers["retry-after-ms"].parse().expect("a number");
        assert!((18_000..=25_000).contains(&wait), "{wait}");
        assert_eq!(reply.headers["x-should-retry"], "true");
        assert_eq!(reply.headers["x-ratelimit-remaining-requests"], "0");
    }
    // Its calls have their own rate; its script and the way out cost nothing.
    assert_eq!(server.chat(request(json!({}))).await.status, 200);
    for (method, path) in [("GET", "/dashboard/page.js"), ("POST", "/sign-out")] {
        assert_eq!(server.send(method, path, &with, b"").await.status, 200);
    }
}

#[tokio::test]
async fn one_account_s_rate_is_not_another_s_and_the_operator_has_none() {
    let server = server(1).await;
    let alice = cookie_of(&server, "alice").await;
    let bob = cookie_of(&server, "bob").await;
    let operator = login(&server).await;
    assert_eq!(page(&server, &alice).await.status, 200);
    assert_eq!(page(&server, &alice).await.status, 429);
    assert_eq!(page(&server, &bob).await.status, 200);
    for _ in 0..10 {
        let reply = page(&server, &operator).await;
        assert_eq!(reply.status, 200);
        assert!(!reply.headers.contains_key("x-ratelimit-limit-requests"));
    }
}

/// Waits until `done` says so.
async fn until(done: impl Fn() -> bool) {
    for _ in 0..2_000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it did not come to that");
}

fn desks() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).max(1))
}

#[tokio::test]
async fn an_account_has_eight_requests_under_way_and_the_operator_waits_for_none_of_them() {
    let server = Arc::new(server(1_000).await);
    let alice = cookie_of(&server, "alice").await;
    let operator = login(&server).await;
    server.hall.gate.shut(true);
    let (told, mut answers) = mpsc::unbounded_channel();
    for _ in 0..9 {
        let (server, cookie, told) = (server.clone(), alice.clone(), told.clone());
        tokio::spawn(async move {
            let _ = told.send(page(&server, &cookie).await);
        });
    }
    let refused = answers.recv().await.expect("one of them");
    assert_eq!(
        refused.error(),
        (429, "rate_limit_exceeded".to_owned(), true)
    );
    assert_eq!(refused.json()["error"]["stoa"]["cause"], "too_many_at_once");
    assert!(refused.headers.contains_key("retry-after"));
    assert!(server.hall.gate.waiting() <= desks());
    assert_eq!(page(&server, &operator).await.status, 200);
    server.hall.gate.shut(false);
    for _ in 0..8 {
        assert_eq!(answers.recv().await.expect("the others").status, 200);
    }
    assert_eq!(page(&server, &alice).await.status, 200);
}

#[tokio::test]
async fn what_an_account_looks_up_by_key_is_bounded_too_and_another_s_page_is_not_behind_all_of_it()
{
    let server = Arc::new(server(1_000).await);
    let bob = cookie_of(&server, "bob").await;
    server.hall.gate.shut(true);
    let (told, mut answers) = mpsc::unbounded_channel();
    for _ in 0..9 {
        let (server, told) = (server.clone(), told.clone());
        tokio::spawn(async move {
            let _ = told.send(server.get("/v1/stoa/jobs").await);
        });
    }
    let refused = answers.recv().await.expect("one of them");
    assert_eq!(
        refused.error(),
        (429, "rate_limit_exceeded".to_owned(), true)
    );
    assert_eq!(refused.json()["error"]["stoa"]["cause"], "too_many_at_once");
    assert!(refused.text().contains("8 reads by key"));
    assert!(refused.headers.contains_key("retry-after"));
    // What needs no looking up is answered meanwhile.
    assert_eq!(server.get("/v1/models").await.status, 200);
    let waiting = tokio::spawn({
        let server = server.clone();
        async move { page(&server, &bob).await.status }
    });
    server.hall.gate.shut(false);
    for _ in 0..8 {
        assert_eq!(answers.recv().await.expect("the others").status, 200);
    }
    assert_eq!(waiting.await.expect("answered"), 200);
    assert_eq!(server.get("/v1/stoa/jobs").await.status, 200);
}

#[tokio::test]
async fn work_that_a_client_left_behind_still_counts() {
    let server = server(1_000).await;
    let alice = cookie_of(&server, "alice").await;
    let with = [("cookie", alice.as_str())];
    server.hall.gate.shut(true);
    for _ in 0..20 {
        let left = server.open("GET", "/dashboard/data", &with, b"").await;
        until(|| server.hall.gate.waiting() >= 1).await;
        drop(left);
        assert!(server.hall.gate.waiting() <= desks());
    }
    server.hall.gate.shut(false);
    until(|| server.hall.gate.waiting() == 0).await;
    assert_eq!(page(&server, &alice).await.status, 200);
}

/// Begins to send a receipt file and stops in the middle.
async fn half_a_file(server: &Server, cookie: &str) -> TcpStream {
    let mut stream = TcpStream::connect(server.address).await.expect("listening");
    let head = format!(
        "POST /dashboard/verify HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncookie: {cookie}\r\ncontent-type: application/json\r\n\
         content-length: 100\r\n\r\n{{"
    );
    stream.write_all(head.as_bytes()).await.expect("sent");
    stream
}

#[tokio::test]
async fn an_account_has_one_receipt_file_checked_at_a_time() {
    let server = server(1_000).await;
    let alice = cookie_of(&server, "alice").await;
    let bob = cookie_of(&server, "bob").await;
    let verify = async |cookie: &str| {
        let with = [("cookie", cookie), JSON];
        server
            .send("POST", "/dashboard/verify", &with, b"{}")
            .await
            .error()
    };
    let first = half_a_file(&server, &alice).await;
    let mut refused = verify(&alice).await;
    for _ in 0..200 {
        if refused.0 == 429 {
            break;
        }
        refused = verify(&alice).await;
    }
    assert_eq!(refused, (429, "rate_limit_exceeded".to_owned(), true));
    assert_eq!(verify(&bob).await.0, 400, "another's is read");
    drop(first);
    for _ in 0..200 {
        if verify(&alice).await.0 == 400 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the place did not become free");
}
