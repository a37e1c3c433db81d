//! The dashboard shows what it should and runs nothing that strangers wrote.

use crate::access::login;
use crate::support::*;
use std::time::Duration;
use stoa_api::{Access, ROUTES};
use stoa_crypto::SecretKey;
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

#[tokio::test]
async fn the_first_page_shows_parts_jobs_providers_and_batches() {
    let server = Server::start(Vec::new()).await;
    let cookie = login(&server).await;
    let reply = server.send("GET", "/", &[("cookie", &cookie)], b"").await;
    assert_eq!(reply.status, 200);
    for part in [
        "chain",
        "Newest jobs",
        "delivered",
        "41 ms",
        "posted",
        "50.0 %",
        "data-page=\"/\"",
    ] {
        assert!(reply.text().contains(part), "{part} is missing");
    }
    assert!(
        reply
            .text()
            .contains(&format!("href=\"/dashboard/jobs/{JOB}\""))
    );
    let policy = &reply.headers["content-security-policy"];
    assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"));
}

#[tokio::test]
async fn no_page_runs_what_strangers_wrote_or_loads_anything_from_elsewhere() {
    let server = Server::start(Vec::new()).await;
    let cookie = login(&server).await;
    let job = format!("/dashboard/jobs/{JOB}");
    let provider = SecretKey::for_tests("provider").address();
    let provider = format!("/dashboard/providers/{provider}");
    let pages = ROUTES.iter().filter(|route| route.access == Access::Page);
    let pages = pages
        .map(|route| route.path)
        .filter(|path| !["/dashboard/live", "/dashboard/data"].contains(path));
    let mut shown = 0;
    for path in pages.chain([job.as_str(), provider.as_str()]) {
        let reply = server.send("GET", path, &[("cookie", &cookie)], b"").await;
        assert_ne!(reply.status, 500, "{path}");
        let text = reply.text();
        for foreign in [
            "<script>alert",
            "http://",
            "https://",
            "//cdn",
            "@import",
            " style=",
            "onclick",
        ] {
            assert!(!text.contains(foreign), "{path} contains {foreign}");
        }
        assert_eq!(reply.headers["x-content-type-options"], "nosniff");
        shown += u32::from(text.contains("&lt;script&gt;alert"));
    }
    assert!(shown >= 3, "the hostile name is on {shown} pages only");
}

#[tokio::test]
async fn a_job_page_shows_why_what_was_lost_and_what_was_checked() {
    let server = Server::start(Vec::new()).await;
    let cookie = login(&server).await;
    let path = format!("/dashboard/jobs/{JOB}");
    let reply = server.send("GET", &path, &[("cookie", &cookie)], b"").await;
    assert_eq!(reply.status, 200);
    for part in [
        "the same choice",
        "Reliability",
        "the provider broke off",
        "provider_signature",
        "0.100003",
        "the router signed it",
        "stoa verify FILE",
    ] {
        assert!(reply.text().contains(part), "{part}");
    }
    let absent = format!("/dashboard/jobs/{}", stoa_types::JobId([1; 32]));
    let absent = server
        .send("GET", &absent, &[("cookie", &cookie)], b"")
        .await;
    assert_eq!(absent.status, 404);
}

#[tokio::test]
async fn whoever_reads_in_a_browser_reads_errors_as_a_page() {
    let server = Server::start(Vec::new()).await;
    let html = ("accept", "text/html,application/xhtml+xml");
    let reply = server.send("GET", "/", &[html], b"").await;
    assert_eq!(reply.status, 401);
    assert!(reply.headers["content-type"].starts_with("text/html"));
    assert!(reply.text().contains("log in first"));
    let reply = server.send("GET", "/v1/models", &[html], b"").await;
    assert_eq!(reply.error().0, 401);
}

#[tokio::test]
async fn the_data_behind_the_page_is_json() {
    let server = Server::start(Vec::new()).await;
    let cookie = login(&server).await;
    let data = server
        .send("GET", "/dashboard/data", &[("cookie", &cookie)], b"")
        .await
        .json();
    assert_eq!(data["jobs"][0]["ttft_ms"], 41);
    assert_eq!(data["batches"][0]["jobs"][0], JOB.to_string());
    assert_eq!(data["jobs"][0]["state"], "delivered");
}

#[tokio::test]
async fn a_receipt_file_is_checked_and_a_damaged_one_is_refused() {
    let server = Server::start(Vec::new()).await;
    let cookie = login(&server).await;
    let headers = [("cookie", cookie.as_str()), JSON];
    let body = b"{\"receipt\":{}}";
    let reply = server
        .send("POST", "/dashboard/verify", &headers, body)
        .await;
    assert_eq!(reply.error(), (400, "invalid_value".to_owned(), false));
    let done = done(content("four", &[]));
    let bundle = stoa_verify::Bundle {
        receipt: done.receipt,
        proof: None,
        parameters: done.parameters,
        request: "{}".to_owned(),
        response: done.content,
    };
    let reply = server
        .send("POST", "/dashboard/verify", &headers, &bundle.to_bytes())
        .await;
    assert_eq!(reply.status, 200);
    let text = reply.text();
    assert!(text.contains("the router signed it"));
    let other = text.find("data-state=\"false\"").expect("another request");
    assert!(text[other..].contains("it is for this request"), "{text}");
}

/// Reads a stream of events until it holds `wanted`.
async fn hear(stream: &mut tokio::net::TcpStream, heard: &mut String, wanted: &str) {
    let read = async {
        let mut bytes = [0; 4096];
        while !heard.contains(wanted) {
            let n = stream.read(&mut bytes).await.expect("readable");
            assert_ne!(n, 0, "ended without {wanted}: {heard}");
            heard.push_str(&String::from_utf8_lossy(&bytes[..n]));
        }
    };
    let within = timeout(Duration::from_secs(20), read).await;
    within.unwrap_or_else(|_| panic!("{wanted} did not come"));
}

/// Looks at the first page; what it shows has come.
pub async fn watch(server: &Server, headers: &[(&str, &str)]) -> tokio::net::TcpStream {
    let path = "/dashboard/live?page=/";
    let mut stream = server.open("GET", path, headers, b"").await;
    hear(&mut stream, &mut String::new(), "\"id\":\"batches\"").await;
    stream
}

#[tokio::test]
async fn a_page_hears_of_changes_and_only_of_the_sections_that_changed() {
    let server = Server::start(Vec::new()).await;
    let cookie = login(&server).await;
    let path = "/dashboard/live?page=/";
    let mut stream = server.open("GET", path, &[("cookie", &cookie)], b"").await;
    let mut heard = String::new();
    hear(&mut stream, &mut heard, "\"id\":\"batches\"").await;
    assert!(heard.contains("text/event-stream") && heard.contains("retry: "));
    heard.clear();
    server
        .hall
        .block
        .store(4_711, std::sync::atomic::Ordering::SeqCst);
    server.hall.changes.send_modify(|count| *count += 1);
    hear(&mut stream, &mut heard, "4711").await;
    assert!(heard.contains("\"id\":\"state\"") && !heard.contains("\"id\":\"jobs\""));
    heard.clear();
    hear(&mut stream, &mut heard, "event: beat").await;
}

#[tokio::test]
async fn only_so_many_pages_are_watched_and_a_place_that_is_left_is_free_again() {
    let server = Server::start(Vec::new()).await;
    let cookie = login(&server).await;
    let path = "/dashboard/live?page=/dashboard/jobs";
    let mut open = Vec::new();
    let refused = loop {
        let mut stream = server.open("GET", path, &[("cookie", &cookie)], b"").await;
        let mut heard = String::new();
        hear(&mut stream, &mut heard, "\r\n\r\n").await;
        if heard.starts_with("HTTP/1.1 503") {
            break heard;
        }
        open.push(stream);
        assert!(open.len() < 100, "there is no bound");
    };
    assert!(refused.contains("x-should-retry: true"), "{refused}");
    drop(open);
    for _ in 0..200 {
        let mut stream = server.open("GET", path, &[("cookie", &cookie)], b"").await;
        let mut heard = String::new();
        hear(&mut stream, &mut heard, "\r\n\r\n").await;
        if heard.starts_with("HTTP/1.1 200") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("no place became free");
}

#[tokio::test]
async fn a_server_that_stops_ends_the_streams_of_its_pages() {
    let server = Server::start(Vec::new()).await;
    let cookie = login(&server).await;
    let path = "/dashboard/live?page=/";
    let mut stream = server.open("GET", path, &[("cookie", &cookie)], b"").await;
    hear(&mut stream, &mut String::new(), "\"id\":\"batches\"").await;
    drop(server);
    let mut rest = Vec::new();
    let ended = timeout(Duration::from_secs(4), stream.read_to_end(&mut rest)).await;
    ended
        .expect("ended before its next beat")
        .expect("readable");
}
