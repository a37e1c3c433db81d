//! HTTP to one upstream server: one pool of connections, its key, its limits.

use super::UpstreamFault;
use super::fault::word;
use super::kind::context_refusal;
use super::stream::kind;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// Largest answer that is read beside the work.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// How long a question beside the answers may take.
const ASIDE: Duration = Duration::from_secs(10);
/// Servers close idle connections, llama.cpp's after 5 s; a request on one that just closed would fail.
const IDLE: Duration = Duration::from_secs(4);

/// Why an upstream cannot be used. Nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// Not an address of an HTTP server.
    #[error(
        "`{url}` is not an http:// or https:// URL of a server, without user, query or fragment"
    )]
    Url {
        /// What was given, without anything secret.
        url: String,
    },
    /// The key cannot stand in a header.
    #[error("the upstream server's key holds characters that no header can carry")]
    Key,
    /// The thread for its connections could not be started.
    #[error("no thread could be started for the upstream server's connections: {0}")]
    Thread(#[source] std::io::Error),
    /// The client could not be made.
    #[error("the HTTP client could not be set up: {0}")]
    Client(String),
    /// It does not answer as it must.
    #[error(transparent)]
    Fault(#[from] UpstreamFault),
    /// It lists no model.
    #[error("the upstream server lists no model at /v1/models; load one there first")]
    NoModel,
    /// The choice is open.
    #[error("the upstream server lists several models; choose one with --upstream-model: {}", .ids.join(", "))]
    Several {
        /// All of them.
        ids: Vec<String>,
    },
    /// The chosen one is not there.
    #[error("the upstream server does not list the model `{wanted}`; it lists: {}", .ids.join(", "))]
    NotListed {
        /// What was chosen.
        wanted: String,
        /// What there is.
        ids: Vec<String>,
    },
}

/// A client of one server. Clones share the connections.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    base: Arc<str>,
}

impl Client {
    /// `url` with or without `/v1`. Uses no proxy, follows no redirect, trusts only the embedded certificate roots.
    pub fn new(url: &str, key: Option<&str>, connect: Duration) -> Result<Self, UpstreamError> {
        let refused = || UpstreamError::Url {
            url: url
                .split(['@', '?', '#'])
                .next_back()
                .map(word)
                .unwrap_or_default(),
        };
        let parsed = reqwest::Url::parse(url).map_err(|_| refused())?;
        let plain = matches!(parsed.scheme(), "http" | "https")
            && parsed.username().is_empty()
            && parsed.password().is_none()
            && parsed.query().is_none()
            && parsed.fragment().is_none();
        if !plain {
            return Err(refused());
        }
        let base = parsed.as_str().trim_end_matches('/');
        let base = base
            .strip_suffix("/v1")
            .unwrap_or(base)
            .trim_end_matches('/');
        let mut headers = HeaderMap::new();
        if let Some(key) = key {
            let mut value = HeaderValue::from_str(&format!("Bearer {}", key.trim()))
                .map_err(|_| UpstreamError::Key)?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls()?)
            // A proxy from the environment would get the calls to 127.0.0.1 as well.
            .no_proxy()
            // A server that answers "elsewhere" is not the one that the operator named.
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(connect)
            .pool_idle_timeout(IDLE)
            .tcp_nodelay(true)
            .default_headers(headers)
            .build()
            .map_err(|error| UpstreamError::Client(error.to_string()))?;
        Ok(Self {
            http,
            base: base.into(),
        })
    }

    /// Where the server is.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// `GET` of a small JSON answer.
    pub async fn get_json(&self, path: &str) -> Result<Value, UpstreamFault> {
        let body = self.get(path).await?;
        serde_json::from_slice(&body).map_err(|_| UpstreamFault::Malformed {
            what: "an answer that is not JSON",
        })
    }

    /// `GET` of a small answer.
    pub async fn get(&self, path: &str) -> Result<Vec<u8>, UpstreamFault> {
        let url = format!("{}{path}", self.base);
        let asked = async {
            let response = self.http.get(url).send().await.map_err(unreachable)?;
            if !response.status().is_success() {
                return Err(refused(response).await);
            }
            read_limited(response, ANSWER_BYTES_MAX).await
        };
        tokio::time::timeout(ASIDE, asked)
            .await
            .unwrap_or(Err(UpstreamFault::Silent {
                waited: ASIDE,
                during: "an answer beside the work",
            }))
    }

    async fn post(&self, path: &str, body: String) -> Result<reqwest::Response, UpstreamFault> {
        let request = self
            .http
            .post(format!("{}{path}", self.base))
            .header(CONTENT_TYPE, "application/json")
            .body(body);
        let response = request.send().await.map_err(unreachable)?;
        if !response.status().is_success() {
            return Err(refused(response).await);
        }
        Ok(response)
    }

    /// `POST` whose answer is read whole, up to `limit` bytes.
    pub async fn post_json(
        &self,
        path: &str,
        body: String,
        limit: usize,
    ) -> Result<Vec<u8>, UpstreamFault> {
        read_limited(self.post(path, body).await?, limit).await
    }

    /// `POST` whose answer is a stream of events; gives it when its head is there.
    pub async fn post_stream(
        &self,
        path: &str,
        body: String,
    ) -> Result<reqwest::Response, UpstreamFault> {
        let response = self.post(path, body).await?;
        let declared = response.headers().get(CONTENT_TYPE);
        let declared = declared.and_then(|v| v.to_str().ok()).unwrap_or_default();
        if !declared.starts_with("text/event-stream") {
            return Err(UpstreamFault::NotAStream {
                content_type: word(declared),
            });
        }
        Ok(response)
    }
}

fn tls() -> Result<rustls::ClientConfig, UpstreamError> {
    // The provider is named here, so that no process-wide one needs to be installed.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let roots = rustls::RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
    };
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| UpstreamError::Client(error.to_string()))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

fn unreachable(error: reqwest::Error) -> UpstreamFault {
    let connecting = error.is_connect();
    let reason = reason(error);
    if connecting {
        UpstreamFault::Unreachable { reason }
    } else {
        UpstreamFault::Broken { reason }
    }
}

/// The innermost reason: the outer ones only say that a request failed. The address is left out, it is the operator's.
pub(crate) fn reason(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut inner: &dyn std::error::Error = &error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}

/// What an answer with an error status means.
async fn refused(response: reqwest::Response) -> UpstreamFault {
    let status = response.status().as_u16();
    let body = tokio::time::timeout(ASIDE, read_limited(response, ANSWER_BYTES_MAX)).await;
    let body = body.ok().and_then(Result::ok).unwrap_or_default();
    let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
    // OpenAI's form; vLLM's older one and TGI's put it at the top.
    let error = match &answer["error"] {
        Value::Null => &answer,
        error => error,
    };
    if (400..500).contains(&status) && is_policy(error) {
        return UpstreamFault::Policy {
            status,
            kind: kind(error),
        };
    }
    match status {
        401 | 403 => UpstreamFault::Unauthorized { status },
        404 => UpstreamFault::NotFound,
        408 | 429 => UpstreamFault::Busy { by: "status 429" },
        503 => UpstreamFault::Busy { by: "status 503" },
        400..500 => match context_refusal(error) {
            // The context is filled in by the caller, who knows what was offered.
            Some(Some(tokens)) => UpstreamFault::ContextLength { tokens, context: 0 },
            Some(None) => UpstreamFault::Rejected {
                status,
                kind: "context_length_exceeded".to_owned(),
                parameter: Some("messages".to_owned()),
            },
            None => UpstreamFault::Rejected {
                status,
                kind: kind(error),
                parameter: error["param"].as_str().map(word),
            },
        },
        500 if is_too_large(error) => UpstreamFault::Rejected {
            status,
            kind: "input_too_large".to_owned(),
            parameter: Some("input".to_owned()),
        },
        _ => UpstreamFault::Server { status },
    }
}

/// llama.cpp's server takes no text above its batch for a vector, and calls that its own failure; the request can do without it.
fn is_too_large(error: &Value) -> bool {
    let message = error["message"].as_str();
    message.is_some_and(|message| message.contains("is too large to process"))
}

/// Whether an error speaks of the content: OpenAI's words and Azure's, as code or type.
fn is_policy(error: &Value) -> bool {
    const WORDS: [&str; 3] = [
        "content_policy_violation",
        "content_filter",
        "ResponsibleAIPolicyViolation",
    ];
    ["code", "type"].iter().any(|field| {
        error[*field]
            .as_str()
            .is_some_and(|word| WORDS.contains(&word))
    })
}

async fn read_limited(
    mut response: reqwest::Response,
    limit: usize,
) -> Result<Vec<u8>, UpstreamFault> {
    let mut body = Vec::new();
    loop {
        let chunk = response
            .chunk()
            .await
            .map_err(|error| UpstreamFault::Broken {
                reason: reason(error),
            })?;
        let Some(chunk) = chunk else { return Ok(body) };
        if body.len() + chunk.len() > limit {
            return Err(UpstreamFault::TooLong { limit });
        }
        body.extend_from_slice(&chunk);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_url_is_taken_with_or_without_its_version_and_holds_no_secret() {
        for url in [
            "http://localhost:8000",
            "http://localhost:8000/",
            "http://localhost:8000/v1",
            "http://localhost:8000/v1/",
        ] {
            let client = Client::new(url, None, ASIDE).expect("a server");
            assert_eq!(client.base(), "http://localhost:8000", "{url}");
        }
        let below = Client::new("https://host/llm/v1", None, ASIDE).expect("a server");
        assert_eq!(below.base(), "https://host/llm");
        for url in [
            "localhost:8000",
            "ftp://host",
            "http://me:secret@host",
            "http://host?key=secret",
            "",
        ] {
            let error = Client::new(url, None, ASIDE).expect_err(url).to_string();
            assert!(!error.contains("me:"), "{error}");
        }
        let key = Client::new("http://host", Some("a\nb"), ASIDE);
        assert!(matches!(key, Err(UpstreamError::Key)));
    }
}
