//! The HTTP client of the commands.

use crate::network::Network;
use serde::de::DeserializeOwned;
use std::time::{Duration, Instant};
use stoa_types::JobId;

/// Why a call over HTTP failed.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// No answer.
    #[error("cannot reach {url}: {reason}; is the router running?")]
    Unreachable {
        /// Where.
        url: String,
        /// Why.
        reason: String,
        /// Whether nothing can have arrived there.
        unsent: bool,
    },
    /// It takes too long.
    #[error(
        "{url} gave no whole answer within {seconds} s and was given up; a call that was sent may have been served and charged, `stoa jobs` lists it"
    )]
    TimedOut {
        /// Where.
        url: String,
        /// How long was waited.
        seconds: u64,
    },
    /// It does not end.
    #[error(
        "{url} answered with more than {limit} bytes, which no router of Stoa does; it was given up, and may have been charged"
    )]
    TooLong {
        /// Where.
        url: String,
        /// What is taken.
        limit: usize,
    },
    /// An error answer.
    #[error("{message} (status {status}, {code})")]
    Refused {
        /// HTTP status.
        status: u16,
        /// Machine-readable code.
        code: String,
        /// What the server said.
        message: String,
    },
    /// An answer of another shape than expected.
    #[error("{url} answered what this version does not understand: {reason}")]
    Malformed {
        /// Where.
        url: String,
        /// Why.
        reason: String,
    },
}

impl HttpError {
    /// Whether another router may be asked: this one got nothing, or says that it could not serve, which it then does not bill. After a
    /// connection that broke later nobody knows, and a proxy before the router that says so does not know either: its answer bears no code.
    pub fn may_go_elsewhere(&self) -> bool {
        match self {
            Self::Unreachable { unsent, .. } => *unsent,
            Self::Refused { status, code, .. } => match status {
                503 => true,
                502 | 504 => !code.is_empty(),
                _ => false,
            },
            Self::Malformed { .. } | Self::TimedOut { .. } | Self::TooLong { .. } => false,
        }
    }
}

/// How long a question may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a paid call may take: a router gives each attempt minutes, and what is given up may be charged all the same.
const CALL_PATIENCE: Duration = Duration::from_secs(15 * 60);
/// How long a question is asked again and again of a router that says "too often".
const AGAIN_AT_MOST: Duration = Duration::from_secs(10);
/// Longest answer that is read; the largest answer of a router is a fraction of it.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// So much of an error's text is shown.
const MESSAGE_CHARS_MAX: usize = 2_000;

/// What every HTTP client of this program has in common.
pub fn client() -> reqwest::ClientBuilder {
    let tls = rustls::ClientConfig::builder()
        .with_root_certificates(rustls::RootCertStore {
            roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
        })
        .with_no_client_auth();
    // Loopback calls must not go through a proxy that the environment names.
    reqwest::Client::builder()
        .no_proxy()
        .connect_timeout(Duration::from_secs(5))
        .tls_backend_preconfigured(tls)
}

/// Talks to one router's API.
pub struct Api {
    client: reqwest::Client,
    base: String,
    key: String,
    bounds: Bounds,
}

/// What a router may make this program wait for and hold.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    question: Duration,
    call: Duration,
    answer_bytes: usize,
}

impl Api {
    /// A client for the first router of `network`.
    pub fn new(network: &Network) -> Self {
        Self::at(&network.api, &network.key)
    }

    /// A client for a router.
    pub fn at(base: &str, key: &str) -> Self {
        let client = client()
            .build()
            .expect("the client is built from fixed settings");
        Self {
            client,
            base: base.to_owned(),
            key: key.to_owned(),
            bounds: Bounds {
                question: PATIENCE,
                call: CALL_PATIENCE,
                answer_bytes: ANSWER_BYTES_MAX,
            },
        }
    }

    /// `GET` of a path below `/v1`. It costs nothing: a router that says "too often" is asked again when it says, for a while.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, HttpError> {
        let url = format!("{}{path}", self.base);
        let until = Instant::now() + AGAIN_AT_MOST;
        let mut patience = self.bounds.question;
        loop {
            let request = self.client.get(&url);
            let answer = self.answer(&url, request, patience).await?;
            let left = until.saturating_duration_since(Instant::now());
            match answer.again.filter(|wait| *wait < left) {
                Some(wait) => {
                    tokio::time::sleep(wait).await;
                    patience = patience.min(left - wait);
                }
                None => return answer.read(&url),
            }
        }
    }

    /// `DELETE` of a path below `/v1`.
    pub async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, HttpError> {
        let url = format!("{}{path}", self.base);
        let request = self.client.delete(&url);
        self.ask(&url, request, self.bounds.question).await
    }

    /// `POST` of exact bytes to a path below `/v1`.
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: String,
    ) -> Result<T, HttpError> {
        let url = format!("{}{path}", self.base);
        let request = self.client.post(&url).body(body);
        let request = request.header("content-type", "application/json");
        self.ask(&url, request, self.bounds.call).await
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        url: &str,
        request: reqwest::RequestBuilder,
        patience: Duration,
    ) -> Result<T, HttpError> {
        self.answer(url, request, patience).await?.read(url)
    }

    async fn answer(
        &self,
        url: &str,
        request: reqwest::RequestBuilder,
        patience: Duration,
    ) -> Result<Answer, HttpError> {
        let sent = request.bearer_auth(&self.key).timeout(patience).send();
        let failed = |error: reqwest::Error| match error.is_timeout() && !error.is_connect() {
            true => HttpError::TimedOut {
                url: url.to_owned(),
                seconds: patience.as_secs(),
            },
            false => HttpError::Unreachable {
                url: url.to_owned(),
                unsent: error.is_connect(),
                reason: error.to_string(),
            },
        };
        let mut response = sent.await.map_err(failed)?;
        let (status, mut bytes) = (response.status(), Vec::new());
        let again = again(status, response.headers());
        while let Some(piece) = response.chunk().await.map_err(failed)? {
            if bytes.len() + piece.len() > self.bounds.answer_bytes {
                return Err(HttpError::TooLong {
                    url: url.to_owned(),
                    limit: self.bounds.answer_bytes,
                });
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(Answer {
            status,
            again,
            bytes,
        })
    }
}

/// What a router said.
struct Answer {
    status: reqwest::StatusCode,
    /// When it may be asked again, if that is all that is wrong.
    again: Option<Duration>,
    bytes: Vec<u8>,
}

impl Answer {
    fn read<T: DeserializeOwned>(&self, url: &str) -> Result<T, HttpError> {
        if self.status.is_success() {
            return decode(url, &self.bytes);
        }
        Err(refused(self.status.as_u16(), &self.bytes))
    }
}

/// How long an answer says to wait, if it says "too often". At least a moment, so that nobody is asked without pause.
fn again(status: reqwest::StatusCode, headers: &reqwest::header::HeaderMap) -> Option<Duration> {
    let number = |name| headers.get(name)?.to_str().ok()?.parse().ok();
    let wait = match number("retry-after-ms") {
        Some(ms) => Duration::from_millis(ms),
        None => Duration::from_secs(number("retry-after")?),
    };
    let too_often = status == reqwest::StatusCode::TOO_MANY_REQUESTS;
    too_often.then_some(wait.max(Duration::from_millis(20)))
}

/// An error as the router tells it, of a form that a terminal can show.
fn refused(status: u16, bytes: &[u8]) -> HttpError {
    let error = serde_json::from_slice::<serde_json::Value>(bytes).unwrap_or_default();
    let text = |key: &str| {
        let text = error["error"][key].as_str().unwrap_or_default();
        let plain = text.chars().filter(|c| !c.is_control() || *c == '\n');
        plain.take(MESSAGE_CHARS_MAX).collect::<String>()
    };
    let facts = &error["error"]["stoa"];
    let taken = facts["undelivered"]
        .as_array()
        .is_some_and(|all| !all.is_empty());
    let job = facts["request_id"].as_str();
    let job = job.and_then(|job| job.parse::<JobId>().ok());
    let mut message = text("message");
    if let Some(job) = job.filter(|_| taken) {
        message += &format!(
            " If that provider is gone for good, this can be claimed on chain, for a deposit of stake tokens that is lost if it still answers: \
             stoa claim-undelivered {job}"
        );
    }
    HttpError::Refused {
        status,
        code: text("code"),
        message,
    }
}

fn decode<T: DeserializeOwned>(url: &str, bytes: &[u8]) -> Result<T, HttpError> {
    serde_json::from_slice(bytes).map_err(|error| HttpError::Malformed {
        url: url.to_owned(),
        reason: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// Stands in for a router that answers every request with `head` and then `body` again and again.
    async fn endless_stand_in(head: &'static str, body: &'static [u8]) -> Api {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("a port");
        let base = format!("http://{}", listener.local_addr().expect("bound"));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let _ = stream.read(&mut [0; 4096]).await;
                    let _ = stream.write_all(head.as_bytes()).await;
                    while !body.is_empty() && stream.write_all(body).await.is_ok() {}
                    std::future::pending::<()>().await;
                });
            }
        });
        let mut api = Api::at(&base, "key");
        api.bounds = Bounds {
            question: Duration::from_millis(200),
            call: Duration::from_millis(300),
            answer_bytes: 1 << 20,
        };
        api
    }

    #[tokio::test]
    async fn a_router_that_never_answers_is_given_up_and_none_other_is_asked() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        for head in ["", "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{"] {
            let api = endless_stand_in(head, b"").await;
            let answer = api.post::<serde_json::Value>("/x", "{}".to_owned()).await;
            let error = answer.expect_err("no answer");
            assert!(matches!(error, HttpError::TimedOut { .. }), "{error}");
            assert!(!error.may_go_elsewhere(), "it may have been charged");
            let answer = api.get::<serde_json::Value>("/x").await;
            assert!(matches!(answer, Err(HttpError::TimedOut { .. })));
        }
    }

    /// Stands in for a router that gives these answers, one to each request, and counts the requests.
    async fn stand_in_that_says(answers: Vec<&'static str>) -> (Api, Arc<AtomicUsize>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("a port");
        let base = format!("http://{}", listener.local_addr().expect("bound"));
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let number = counted.fetch_add(1, Ordering::Relaxed);
                let _ = stream.read(&mut [0; 4096]).await;
                let answer = answers[number.min(answers.len() - 1)];
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        (Api::at(&base, "key"), asked)
    }

    #[tokio::test]
    async fn a_question_that_comes_too_often_is_asked_again_and_a_paid_call_is_not() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        const LATER: &str = "HTTP/1.1 429 Too Many Requests\r\nretry-after-ms: 1\r\nretry-after: 1\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        const MUCH_LATER: &str = "HTTP/1.1 429 Too Many Requests\r\nretry-after: 3600\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        const SEVEN: &str = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 1\r\n\r\n7";
        let (api, asked) = stand_in_that_says(vec![LATER, LATER, SEVEN]).await;
        assert_eq!(api.get::<u32>("/x").await.expect("answered"), 7);
        assert_eq!(asked.load(Ordering::Relaxed), 3);
        for (answers, paid) in [(vec![LATER, SEVEN], true), (vec![MUCH_LATER, SEVEN], false)] {
            let (api, asked) = stand_in_that_says(answers).await;
            let answer = match paid {
                true => api.post::<u32>("/x", String::new()).await,
                false => api.get::<u32>("/x").await,
            };
            assert!(matches!(
                answer,
                Err(HttpError::Refused { status: 429, .. })
            ));
            assert_eq!(asked.load(Ordering::Relaxed), 1);
        }
    }

    #[tokio::test]
    async fn an_answer_without_end_is_given_up() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let head = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n";
        let mut api = endless_stand_in(head, &[b' '; 4096]).await;
        api.bounds.call = Duration::from_secs(60);
        let answer = api.post::<serde_json::Value>("/x", "{}".to_owned()).await;
        let error = answer.expect_err("too long");
        assert!(matches!(error, HttpError::TooLong { .. }), "{error}");
        assert!(!error.may_go_elsewhere());
    }

    #[test]
    fn an_error_s_text_cannot_write_to_the_terminal_what_it_likes() {
        let body = r#"{"error": {"code": "x\u001b[2J", "message": "a\u001b]0;b\u0007\nc"}}"#;
        let shown = refused(500, body.as_bytes()).to_string();
        assert_eq!(shown, "a]0;b\nc (status 500, x[2J)");
    }

    #[test]
    fn who_was_not_delivered_is_told_how_to_claim_it() {
        let job = JobId([7; 32]);
        let body = |taken: &str| {
            format!(
                r#"{{"error": {{"code": "c", "message": "m.", "stoa": {{"request_id": "{job}", "undelivered": {taken}}}}}}}"#
            )
        };
        let shown = |taken| refused(504, body(taken).as_bytes()).to_string();
        let hint = shown("[{}]");
        assert!(hint.contains("lost if it still answers"), "{hint}");
        let command = format!(": stoa claim-undelivered {job} (status 504, c)");
        assert!(
            hint.starts_with("m. ") && hint.ends_with(&command),
            "{hint}"
        );
        assert_eq!(shown("[]"), "m. (status 504, c)");
    }

    #[test]
    fn only_who_certainly_did_not_serve_is_left_for_another_router() {
        let refused = |status, code: &str| HttpError::Refused {
            status,
            code: code.to_owned(),
            message: String::new(),
        };
        for (error, elsewhere) in [
            (refused(503, "over_capacity"), true),
            (refused(503, ""), true),
            (refused(502, "provider_down"), true),
            (refused(504, "deadline_exceeded"), true),
            // What a proxy says when the router behind it broke off: it may have served.
            (refused(502, ""), false),
            (refused(504, ""), false),
            (refused(402, "insufficient_funds"), false),
        ] {
            assert_eq!(error.may_go_elsewhere(), elsewhere, "{error}");
        }
    }
}
