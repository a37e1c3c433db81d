//! Signing in with a wallet, as a wallet does it and as somebody hostile would.

use crate::support::*;
use serde_json::json;
use stoa_crypto::{SecretKey, checksummed, personal_digest};
use stoa_types::{Signature, Timestamp};

/// A message as a client writes it by itself.
#[derive(Clone)]
struct Written {
    first: String,
    address: String,
    uri: String,
    chain: u64,
    nonce: String,
    issued: String,
    rest: String,
}

impl Written {
    async fn of(server: &Server, name: &str) -> Self {
        let nonce = server.send("GET", "/sign-in/nonce", &[], b"").await.json();
        assert_eq!(nonce["chain_id"], CHAIN);
        Self {
            first: "localhost".to_owned(),
            address: checksummed(SecretKey::for_tests(name).address()),
            uri: "http://localhost/sign-in".to_owned(),
            chain: CHAIN,
            nonce: nonce["nonce"].as_str().expect("text").to_owned(),
            // The router's own time, 2026-09-21.
            issued: "2026-09-21T14:13:20Z".to_owned(),
            rest: String::new(),
        }
    }

    fn text(&self) -> String {
        format!(
            "{} wants you to sign in with your Ethereum account:\n{}\n\n\nURI: {}\nVersion: 1\nChain ID: {}\nNonce: {}\nIssued At: {}{}",
            self.first, self.address, self.uri, self.chain, self.nonce, self.issued, self.rest
        )
    }
}

fn sign(name: &str, text: &str) -> Signature {
    SecretKey::for_tests(name).sign(personal_digest(text.as_bytes()))
}

async fn post(server: &Server, text: &str, signature: &str) -> Reply {
    let body = json!({"message": text, "signature": signature}).to_string();
    let headers = [JSON, ("origin", "http://localhost")];
    server
        .send("POST", "/sign-in", &headers, body.as_bytes())
        .await
}

/// Signs `text` as `name` and sends it.
async fn enter(server: &Server, name: &str, text: &str) -> Reply {
    post(server, text, &sign(name, text).to_string()).await
}

async fn composed(server: &Server, name: &str) -> String {
    let address = SecretKey::for_tests(name).address();
    let path = format!("/sign-in/message?address={address}&origin=http://localhost");
    let reply = server.send("GET", &path, &[], b"").await;
    reply.json()["message"]
        .as_str()
        .expect("a message")
        .to_owned()
}

/// Signs in; gives what the browser shows from then on.
pub async fn cookie_of(server: &Server, name: &str) -> String {
    let reply = enter(server, name, &composed(server, name).await).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let cookie = &reply.headers["set-cookie"];
    assert!(cookie.contains("HttpOnly; SameSite=Strict"), "{cookie}");
    cookie.split(';').next().expect("a pair").to_owned()
}

fn refused(reply: &Reply, status: u16, cause: &str) {
    let told = reply.text();
    assert_eq!(reply.error().0, status, "{told}");
    assert_eq!(reply.json()["error"]["stoa"]["cause"], cause, "{told}");
    assert!(!reply.headers.contains_key("set-cookie"));
}

#[tokio::test]
async fn an_account_signs_in_sees_its_own_things_and_signs_out() {
    let server = Server::start(Vec::new()).await;
    let cookie = cookie_of(&server, "alice").await;
    let with = [("cookie", cookie.as_str())];
    let page = server.send("GET", "/", &with, b"").await;
    assert_eq!(page.status, 200);
    assert!(page.text().contains("Signed in as"));
    assert!(!page.text().contains("/dashboard/performance"));
    let job = format!("/dashboard/jobs/{JOB}");
    assert_eq!(server.send("GET", &job, &with, b"").await.status, 200);

    let bob = cookie_of(&server, "bob").await;
    let with_bob = [("cookie", bob.as_str())];
    assert_eq!(server.send("GET", &job, &with_bob, b"").await.status, 404);
    let keys = server.send("GET", "/dashboard/keys", &with_bob, b"").await;
    assert!(!keys.text().contains(&alice().to_string()));

    let out = server.send("POST", "/sign-out", &with, b"").await;
    assert_eq!(out.status, 200);
    assert!(out.headers["set-cookie"].contains("Max-Age=0"));
    assert_eq!(server.send("GET", "/", &with, b"").await.status, 401);
    assert_eq!(server.send("GET", "/", &with_bob, b"").await.status, 200);
}

#[tokio::test]
async fn the_operator_signs_out_too_and_the_link_opens_another_session() {
    let server = Server::start(Vec::new()).await;
    let (one, other) = (
        crate::access::login(&server).await,
        crate::access::login(&server).await,
    );
    let out = [("cookie", one.as_str())];
    assert_eq!(
        server.send("POST", "/sign-out", &out, b"").await.status,
        200
    );
    assert_eq!(server.send("GET", "/", &out, b"").await.status, 401);
    let other = [("cookie", other.as_str())];
    assert_eq!(server.send("GET", "/", &other, b"").await.status, 200);
}

#[tokio::test]
async fn a_message_that_a_client_wrote_itself_is_taken_with_all_its_fields() {
    let server = Server::start(Vec::new()).await;
    let mut written = Written::of(&server, "alice").await;
    written.first = "https://stoa.example".to_owned();
    written.uri = "https://stoa.example/x?y#z".to_owned();
    written.rest = "\nExpiration Time: 2026-09-21T14:23:20.5+00:00\nNot Before: 2026-09-21T14:13:20Z\nRequest ID: 7\nResources:\n- urn:a"
        .to_owned();
    // Some wallets count the recovery byte from 0.
    let mut signature = sign("alice", &written.text());
    signature.0[64] -= 27;
    let reply = post(&server, &written.text(), &signature.to_string()).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert!(reply.headers["set-cookie"].contains("; Secure"));
    // The session does not outlive the message.
    let end = NOW.secs() + 600;
    assert_eq!(reply.json()["expires_at"], end);
}

#[tokio::test]
async fn each_message_opens_one_session() {
    let server = Server::start(Vec::new()).await;
    let text = composed(&server, "alice").await;
    assert_eq!(enter(&server, "alice", &text).await.status, 200);
    refused(&enter(&server, "alice", &text).await, 401, "used_nonce");
    // Nor does the nonce open another's.
    let mut written = Written::of(&server, "bob").await;
    let nonce = text
        .split("Nonce: ")
        .nth(1)
        .and_then(|rest| rest.lines().next());
    written.nonce = nonce.expect("a nonce").to_owned();
    refused(
        &enter(&server, "bob", &written.text()).await,
        401,
        "used_nonce",
    );
}

#[tokio::test]
async fn a_message_for_another_place_network_or_time_is_refused() {
    let server = Server::start(Vec::new()).await;
    let sound = Written::of(&server, "alice").await;
    let changed = |change: &dyn Fn(&mut Written)| {
        let mut written = sound.clone();
        change(&mut written);
        written.text()
    };
    type Change<'a> = &'a dyn Fn(&mut Written);
    let cases: [(Change<'_>, &str); 16] = [
        (&|w| w.first = "evil.example".into(), "wrong_domain"),
        (&|w| w.first = "localhost:8080".into(), "wrong_domain"),
        (
            &|w| w.first = "localhost.evil.example".into(),
            "wrong_domain",
        ),
        (&|w| w.first = "x@localhost".into(), "wrong_domain"),
        (&|w| w.first = "https://localhost".into(), "wrong_domain"),
        (&|w| w.uri = "http://evil.example/".into(), "wrong_domain"),
        (
            &|w| w.uri = "http://localhost@evil.example/".into(),
            "wrong_domain",
        ),
        (&|w| w.uri = "urn:localhost".into(), "wrong_domain"),
        (&|w| w.uri = "ftp://localhost/".into(), "wrong_domain"),
        (&|w| w.chain = 1, "wrong_chain"),
        (&|w| w.nonce = "aB3dE5gH".into(), "unknown_nonce"),
        (
            &|w| w.issued = "2026-09-21T14:14:21Z".into(),
            "not_yet_valid",
        ),
        (
            &|w| w.rest = "\nNot Before: 2026-09-21T14:13:21Z".into(),
            "not_yet_valid",
        ),
        (
            &|w| w.rest = "\nExpiration Time: 2026-09-21T14:13:20Z".into(),
            "expired",
        ),
        (
            &|w| w.rest = "\nExpiration Time: 2025-09-21T14:13:20Z".into(),
            "expired",
        ),
        (
            &|w| w.address = checksummed(SecretKey::for_tests("bob").address()),
            "wrong_signature",
        ),
    ];
    for (change, cause) in cases {
        refused(&enter(&server, "alice", &changed(change)).await, 401, cause);
    }
    assert_eq!(enter(&server, "alice", &sound.text()).await.status, 200);
}

#[tokio::test]
async fn a_message_that_another_network_s_dashboard_wrote_opens_nothing_here() {
    let (here, there) = (Server::start(Vec::new()).await, {
        let hall = Hall::new(Vec::new());
        Server::seeded(hall, quick(), [2; 32]).await
    });
    // The same chain id, as two development networks on one machine have it.
    let text = composed(&there, "alice").await;
    refused(&enter(&here, "alice", &text).await, 401, "unknown_nonce");
    assert_eq!(enter(&there, "alice", &text).await.status, 200);
}

#[tokio::test]
async fn only_a_sound_signature_of_the_named_account_is_one() {
    let server = Server::start(Vec::new()).await;
    let text = composed(&server, "alice").await;
    let sound = sign("alice", &text);
    // s of the other half: who saw one signature can make this one.
    let order = k256_order();
    let mut high = sound;
    let s = subtract(&order, &sound.0[32..64]);
    high.0[32..64].copy_from_slice(&s);
    high.0[64] = 55 - sound.0[64];
    let mut odd = sound;
    odd.0[64] = 29;
    let plain = SecretKey::for_tests("alice").sign(stoa_crypto::keccak256(text.as_bytes()));
    for signature in [high, odd, plain, Signature::ZERO, sign("bob", &text)] {
        let reply = post(&server, &text, &signature.to_string()).await;
        refused(&reply, 401, "wrong_signature");
        assert!(reply.text().contains("EIP-1271"));
    }
    for text_of in [
        "",
        "0x",
        "0x00",
        &sound.to_string()[2..],
        &format!("{sound}00"),
    ] {
        refused(&post(&server, &text, text_of).await, 400, "invalid_value");
    }
    let changed = text.replace("Signing moves no money", "Signing moves all money");
    let reply = post(&server, &changed, &sound.to_string()).await;
    refused(&reply, 401, "wrong_signature");
    assert_eq!(post(&server, &text, &sound.to_string()).await.status, 200);
}

/// Order of secp256k1's group.
fn k256_order() -> [u8; 32] {
    let mut order = [0xff; 32];
    order[15] = 0xfe;
    let low = 0xbaae_dce6_af48_a03b_bfd2_5e8c_d036_4141_u128;
    order[16..].copy_from_slice(&low.to_be_bytes());
    order
}

fn subtract(from: &[u8; 32], what: &[u8]) -> [u8; 32] {
    let (mut left, mut borrow) = ([0; 32], 0);
    for at in (0..32).rev() {
        let difference = i32::from(from[at]) - i32::from(what[at]) - borrow;
        borrow = i32::from(difference < 0);
        left[at] = difference.rem_euclid(256) as u8;
    }
    left
}

#[tokio::test]
async fn what_is_no_message_is_refused_without_a_look_at_the_signature() {
    let server = Server::start(Vec::new()).await;
    let text = composed(&server, "alice").await;
    let statement = text.lines().nth(3).expect("a statement").to_owned();
    for malformed in [
        text.replace('\n', "\r\n"),
        format!("{text}\n"),
        format!("{text}\nNonce: abcdefgh"),
        text.replace("Version: 1", "Version: 2"),
        text.replace(&statement, &format!("{statement}\n{statement}")),
        text.replace(&statement, "Übrigens"),
        text.to_ascii_lowercase(),
        format!("{text}\nResources:\n- {}", "https://a.example/".repeat(300)),
    ] {
        refused(
            &enter(&server, "alice", &malformed).await,
            400,
            "invalid_value",
        );
    }
    let huge = "a".repeat(20_000);
    assert_eq!(enter(&server, "alice", &huge).await.error().0, 413);
    for body in [
        "",
        "[]",
        "{}",
        r#"{"message":"a"}"#,
        r#"{"message":1,"signature":"0x"}"#,
    ] {
        let reply = server
            .send("POST", "/sign-in", &[JSON], body.as_bytes())
            .await;
        assert_eq!(reply.error().0, 400, "{body}");
    }
}

#[tokio::test]
async fn who_has_nothing_here_is_told_so_and_uses_no_nonce_up() {
    let server = Server::start(Vec::new()).await;
    let text = composed(&server, "mallory").await;
    for _ in 0..2 {
        refused(
            &enter(&server, "mallory", &text).await,
            403,
            "unknown_account",
        );
    }
}

#[tokio::test]
async fn a_message_is_written_only_for_names_of_this_server() {
    let server = Server::start(Vec::new()).await;
    let path = format!("/sign-in/message?address={}", alice());
    let by_host = server.send("GET", &path, &[], b"").await;
    assert_eq!(by_host.status, 200, "{}", by_host.text());
    let at = |origin: &str| format!("{path}&origin={origin}");
    assert_eq!(
        server
            .send("GET", &at("https://stoa.example"), &[], b"")
            .await
            .status,
        200
    );
    let rebound = server
        .send("GET", &at("http://rebound.example"), &[], b"")
        .await;
    refused(&rebound, 401, "wrong_domain");
    assert!(rebound.text().contains("router.hosts"));
    for origin in ["localhost", "javascript://localhost", ""] {
        assert_eq!(
            server.send("GET", &at(origin), &[], b"").await.error().0,
            400
        );
    }
    let nobody = server
        .send("GET", "/sign-in/message?address=0x12", &[], b"")
        .await;
    assert_eq!(nobody.error().0, 400);
}

#[tokio::test]
async fn no_page_of_another_site_signs_anybody_in_or_out() {
    let server = Server::start(Vec::new()).await;
    let cookie = cookie_of(&server, "alice").await;
    let text = composed(&server, "alice").await;
    let body = json!({"message": text, "signature": sign("alice", &text).to_string()}).to_string();
    for header in [
        ("origin", "http://evil.example"),
        ("origin", "null"),
        ("origin", "http://localhost:81"),
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
    ] {
        let reply = server
            .send("POST", "/sign-in", &[JSON, header], body.as_bytes())
            .await;
        refused(&reply, 403, "cross_site_request");
        for path in ["/sign-out", "/dashboard/verify"] {
            let reply = server
                .send("POST", path, &[("cookie", &cookie), header], b"")
                .await;
            refused(&reply, 403, "cross_site_request");
        }
    }
    let with = [
        ("cookie", cookie.as_str()),
        ("sec-fetch-site", "same-origin"),
    ];
    assert_eq!(server.send("GET", "/", &with, b"").await.status, 200);
    // A proxy that changes the Host header does not change what the browser says of the site.
    let headers = [
        JSON,
        ("sec-fetch-site", "same-origin"),
        ("origin", "https://stoa.example"),
    ];
    let reply = server
        .send("POST", "/sign-in", &headers, body.as_bytes())
        .await;
    assert_eq!(reply.status, 200, "{}", reply.text());
}

#[tokio::test]
async fn who_tries_too_often_waits() {
    let server = Server::start(Vec::new()).await;
    let mut replies = Vec::new();
    for _ in 0..31 {
        replies.push(enter(&server, "alice", "nonsense").await.error());
    }
    assert!(replies[..30].iter().all(|error| error.0 == 400));
    assert_eq!(replies[30], (429, "rate_limit_exceeded".to_owned(), true));
    // The operator's link is not in the way.
    crate::access::login(&server).await;
}

#[tokio::test]
async fn one_account_cannot_take_the_places_of_those_who_look() {
    let server = Server::start(Vec::new()).await;
    let cookie = cookie_of(&server, "alice").await;
    let mut open = Vec::new();
    for _ in 0..4 {
        let headers = [("cookie", cookie.as_str())];
        open.push(crate::dashboard::watch(&server, &headers).await);
    }
    let headers = [("cookie", cookie.as_str())];
    let fifth = server
        .send("GET", "/dashboard/live?page=/", &headers, b"")
        .await;
    assert_eq!(fifth.status, 503);
    for other in [
        cookie_of(&server, "bob").await,
        crate::access::login(&server).await,
    ] {
        let headers = [("cookie", other.as_str())];
        open.push(crate::dashboard::watch(&server, &headers).await);
    }
}

#[tokio::test]
async fn a_page_that_is_looked_at_goes_silent_when_its_session_ends() {
    let server = Server::start(Vec::new()).await;
    let cookie = cookie_of(&server, "alice").await;
    let headers = [("cookie", cookie.as_str())];
    let mut stream = crate::dashboard::watch(&server, &headers).await;
    assert_eq!(
        server.send("POST", "/sign-out", &headers, b"").await.status,
        200
    );
    server
        .hall
        .block
        .store(99, std::sync::atomic::Ordering::SeqCst);
    server.hall.changes.send_modify(|n| *n += 1);
    let mut rest = Vec::new();
    let end = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut rest);
    let end = tokio::time::timeout(std::time::Duration::from_secs(20), end);
    end.await.expect("the stream ends").expect("readable");
    assert!(!String::from_utf8_lossy(&rest).contains("99"));
}

#[test]
fn the_scripted_router_s_time_is_the_one_that_these_messages_name() {
    assert_eq!(NOW, Timestamp::from_secs(1_790_000_000));
}
