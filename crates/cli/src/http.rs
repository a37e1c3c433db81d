//! The HTTP client of the commands.

use crate::network::Network;
use serde::de::DeserializeOwned;
use std::time::Duration;

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
            Self::Malformed { .. } => false,
        }
    }
}

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
        }
    }

    /// `GET` of a path below `/v1`.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, HttpError> {
        let url = format!("{}{path}", self.base);
        let sent = self.client.get(&url).bearer_auth(&self.key).send().await;
        decode(&url, &read(&url, sent).await?)
    }

    /// `DELETE` of a path below `/v1`.
    pub async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, HttpError> {
        let url = format!("{}{path}", self.base);
        let sent = self.client.delete(&url).bearer_auth(&self.key).send().await;
        decode(&url, &read(&url, sent).await?)
    }

    /// `POST` of exact bytes to a path below `/v1`.
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: String,
    ) -> Result<T, HttpError> {
        let url = format!("{}{path}", self.base);
        let request = self
            .client
            .post(&url)
            .bearer_auth(&self.key)
            .header("content-type", "application/json");
        decode(&url, &read(&url, request.body(body).send().await).await?)
    }
}

async fn read(
    url: &str,
    sent: Result<reqwest::Response, reqwest::Error>,
) -> Result<Vec<u8>, HttpError> {
    let unreachable = |error: reqwest::Error| HttpError::Unreachable {
        url: url.to_owned(),
        unsent: error.is_connect(),
        reason: error.to_string(),
    };
    let response = sent.map_err(unreachable)?;
    let status = response.status();
    let bytes = response.bytes().await.map_err(unreachable)?;
    if status.is_success() {
        return Ok(bytes.to_vec());
    }
    let error = serde_json::from_slice::<serde_json::Value>(&bytes).unwrap_or_default();
    let text = |key: &str| error["error"][key].as_str().unwrap_or_default().to_owned();
    Err(HttpError::Refused {
        status: status.as_u16(),
        code: text("code"),
        message: text("message"),
    })
}

fn decode<T: DeserializeOwned>(url: &str, bytes: &[u8]) -> Result<T, HttpError> {
    serde_json::from_slice(bytes).map_err(|error| HttpError::Malformed {
        url: url.to_owned(),
        reason: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::HttpError;

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
