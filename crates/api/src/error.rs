//! Every error that leaves this crate, and the one place where each becomes status, type, code and retry advice
//! (design: API section 4).

use crate::calendar::rfc3339;
use crate::keys::KeyFault;
use crate::port::KeyError;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};
use stoa_nodes::client::{Cause, Failure};
use stoa_openai::{ErrorBody, ErrorObject};
use stoa_types::{Address, JobId, Timestamp, TokenAmount};

/// Above this SDKs give up instead of waiting.
const RETRY_MS_MAX: u64 = 120_000;

/// Why a request got no answer, or an answer no end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// The body does not parse.
    #[error("the body is not valid JSON: {reason}")]
    NotJson {
        /// What the parser says.
        reason: String,
    },
    /// It parses, but to something else.
    #[error("the body must be a JSON object, not {found}")]
    NotAnObject {
        /// What it is.
        found: &'static str,
    },
    /// A field that must be there is not.
    #[error("`{param}` is missing")]
    Missing {
        /// JSON path.
        param: String,
    },
    /// A field has the wrong type or lies outside its range.
    #[error("`{param}`: {reason}")]
    Invalid {
        /// JSON path.
        param: String,
        /// What is wrong.
        reason: String,
    },
    /// A field asks for something that is not offered.
    #[error("`{param}` is not supported: {reason}")]
    Unsupported {
        /// JSON path.
        param: String,
        /// Why not.
        reason: String,
    },
    /// The body has too many bytes.
    #[error("the body is larger than {limit} bytes")]
    TooLarge {
        /// Most bytes.
        limit: u64,
    },
    /// The body is something else than JSON, or encoded.
    #[error("send the body as application/json without a content encoding, not as `{found}`")]
    MediaType {
        /// As declared.
        found: String,
    },
    /// The body did not arrive in time.
    #[error("the body did not arrive within {seconds} s")]
    UploadTimeout {
        /// The limit.
        seconds: u64,
    },
    /// No credential at all, or one that is malformed.
    #[error("no API key: send `Authorization: Bearer KEY`")]
    NoKey,
    /// The credential is refused.
    #[error("{0}")]
    Key(#[from] KeyError),
    /// A page was asked for without the login cookie.
    #[error(
        "log in first: open the login link that was printed at start, or sign in with a wallet at /sign-in"
    )]
    NoLogin,
    /// A wallet's sign-in is not for this server, this network or this moment, or not of who it says.
    #[error("not signed in: {reason}")]
    SignIn {
        /// Which, in one word.
        cause: &'static str,
        /// Why.
        reason: String,
    },
    /// A wallet proved an account that has nothing here.
    #[error(
        "{account} has no allotment, key or registration at this router: there is nothing to look at"
    )]
    NothingHere {
        /// Which account.
        account: Address,
    },
    /// A page of another site made the browser ask.
    #[error("a page of another site asked for this; open the dashboard itself")]
    OtherSite,
    /// The login link is not the one of this start.
    #[error("this login link is not valid; use the one that was printed at the last start")]
    BadLogin,
    /// Nothing is served here.
    #[error("there is no route `{path}`")]
    UnknownUrl {
        /// The path.
        path: String,
    },
    /// The route exists, the object does not, or belongs to someone else.
    #[error("there is no such {what}")]
    NotFound {
        /// What was looked for.
        what: &'static str,
    },
    /// The route exists with other methods.
    #[error("this route takes {allow}, not {method}")]
    Method {
        /// As used.
        method: String,
        /// What the route takes.
        allow: String,
    },
    /// The key is not meant for this.
    #[error("this API key may not {what}; use another key, or make one that may")]
    KeyScope {
        /// What it may not do.
        what: String,
    },
    /// The object is in a state that does not allow it.
    #[error("{reason}")]
    Conflict {
        /// Which state.
        reason: &'static str,
    },
    /// The caller is faster than it may be.
    #[error("more than {limit} {what} a minute; try again in {retry_ms} ms")]
    RateLimited {
        /// `requests` or `tokens`.
        what: &'static str,
        /// How many a minute.
        limit: u64,
        /// When there is room again.
        retry_ms: u64,
    },
    /// The account has as many under way as it may.
    #[error(
        "{limit} {what} of this account are under way, and it may have no more at once; try again when one has ended"
    )]
    TooManyAtOnce {
        /// `pages`, `reads by key` or `receipt files`.
        what: &'static str,
        /// How many at once.
        limit: usize,
    },
    /// The Idempotency-Key stands for another request.
    #[error("this Idempotency-Key was used {how}; take a new one for a new request")]
    IdempotencyMismatch {
        /// What differs.
        how: &'static str,
        /// The same in one word.
        cause: &'static str,
    },
    /// The call under the Idempotency-Key still runs and cannot be read along with.
    #[error("the request under this Idempotency-Key is still under way as {job}; ask again")]
    IdempotencyInProgress {
        /// The job.
        job: JobId,
    },
    /// The first request under the Idempotency-Key was charged, or some of its choices were, but there is no whole answer of it.
    #[error(
        "the request under this Idempotency-Key was charged once as {job}, and its answer was lost before it was whole; its receipt \
         is at /v1/receipts/{job}. To run it again, send it with a new Idempotency-Key"
    )]
    IdempotencyLost {
        /// The job.
        job: JobId,
    },
    /// The call itself failed.
    #[error("{}", .0.cause)]
    Failed(Failure),
    /// A call failed whose prompt is not called `messages`.
    #[error("{}", .failure.cause)]
    FailedPrompt {
        /// Why.
        failure: Box<Failure>,
        /// The field that holds the prompt.
        prompt: &'static str,
    },
    /// One of several choices failed after others had been delivered, or had begun to be.
    #[error("choice {choice} failed: {}", .failure.cause)]
    FailedChoice {
        /// Why, and what the others cost.
        failure: Box<Failure>,
        /// The field that holds the prompt.
        prompt: &'static str,
        /// Its index.
        choice: usize,
        /// Those that were charged.
        charged: Vec<JobId>,
        /// What was charged had reached the client.
        delivered: bool,
    },
    /// The answer under an Idempotency-Key is longer than what is kept.
    #[error(
        "the answer is longer than the {most} bytes that are kept for an Idempotency-Key; ask for less, or send the request without one"
    )]
    AnswerTooLong {
        /// Most bytes.
        most: usize,
        /// Choices of which a part may have been written to the client, and is billed. Empty where nothing was.
        begun: Vec<JobId>,
    },
    /// A fault of this program.
    #[error("internal error")]
    Internal,
}

/// What the truth table says of one error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// HTTP status.
    pub status: StatusCode,
    /// `error.type`.
    pub kind: &'static str,
    /// `error.code`.
    pub code: &'static str,
    /// Milliseconds after which a retry makes sense; `None` when it makes none.
    pub retry_ms: Option<u64>,
    /// `error.stoa.cause`: finer than the code where several causes share one.
    pub cause: &'static str,
}

const REQUEST: &str = "invalid_request_error";
const PROVIDER: &str = "provider_error";
const CAPACITY: &str = "capacity_error";

/// A row; its cause is its code.
const fn row(status: u16, kind: &'static str, code: &'static str, retry_ms: Option<u64>) -> Row {
    let status = match StatusCode::from_u16(status) {
        Ok(status) => status,
        Err(_) => panic!("the table holds valid statuses only"),
    };
    Row {
        status,
        kind,
        code,
        retry_ms,
        cause: code,
    }
}

/// A row whose cause is finer than its code.
const fn row_of(cause: &'static str, row: Row) -> Row {
    Row { cause, ..row }
}

/// The truth table for causes that a router reports.
fn cause_row(cause: &Cause) -> Row {
    let quota = |cause| {
        row_of(
            cause,
            row(429, "insufficient_quota", "insufficient_quota", None),
        )
    };
    match cause {
        Cause::UnknownModel { .. } => row(404, "not_found_error", "model_not_found", None),
        Cause::ModelOffline { .. } => row(503, PROVIDER, "model_offline", Some(5_000)),
        Cause::ContextLength { .. } => row(400, REQUEST, "context_length_exceeded", None),
        Cause::ContentPolicy => row(400, REQUEST, "content_policy_violation", None),
        Cause::Unsupported { .. } => row(400, REQUEST, "unsupported_parameter", None),
        Cause::NoAllotment => quota("no_allotment"),
        Cause::AllotmentExpired => quota("allotment_expired"),
        Cause::CapReached { .. } => quota("cap_reached"),
        Cause::BudgetExceeded { .. } => row(429, "insufficient_quota", "budget_exceeded", None),
        Cause::PriceCeiling { .. } => row(422, "constraint_error", "price_ceiling_exceeded", None),
        Cause::NoProviderMatches { .. } => {
            row(422, "constraint_error", "no_provider_matches_policy", None)
        }
        Cause::OverCapacity { retry_ms } => row(503, CAPACITY, "over_capacity", Some(*retry_ms)),
        Cause::RouterUnavailable { .. } => row(503, CAPACITY, "router_overloaded", Some(1_000)),
        Cause::ProviderDown => row(502, PROVIDER, "provider_down", Some(1_000)),
        // No byte had reached the caller: for it, the provider was down.
        Cause::ProviderLost => row_of(
            "provider_lost",
            row(502, PROVIDER, "provider_down", Some(1_000)),
        ),
        Cause::DeadlineExceeded => row(504, PROVIDER, "deadline_exceeded", Some(1_000)),
        Cause::ProviderInvalid { .. } => {
            row(502, PROVIDER, "provider_invalid_response", Some(1_000))
        }
        Cause::VerificationFailed { .. } => row(502, PROVIDER, "verification_failed", Some(1_000)),
        Cause::ClientTooSlow => row_of(
            "client_too_slow",
            row(408, REQUEST, "request_timeout", Some(1_000)),
        ),
        Cause::SettlementUnavailable => row(
            503,
            "settlement_error",
            "settlement_unavailable",
            Some(5_000),
        ),
        Cause::Internal => row(500, "server_error", "internal_error", Some(1_000)),
    }
}

impl ApiError {
    /// The truth table.
    pub fn row(&self) -> Row {
        let login = row(401, "authentication_error", "invalid_api_key", None);
        match self {
            Self::NotJson { .. } | Self::NotAnObject { .. } => {
                row(400, REQUEST, "invalid_json", None)
            }
            Self::Missing { .. } => row(400, REQUEST, "missing_required_parameter", None),
            Self::Invalid { .. } => row(400, REQUEST, "invalid_value", None),
            Self::Unsupported { .. } => row(400, REQUEST, "unsupported_parameter", None),
            Self::TooLarge { .. } => row(413, REQUEST, "request_too_large", None),
            Self::MediaType { .. } => row(415, REQUEST, "unsupported_media_type", None),
            Self::UploadTimeout { .. } => row(408, REQUEST, "request_timeout", Some(1_000)),
            Self::NoKey => row_of("no_api_key", login),
            Self::Key(KeyError::Unknown) => login,
            Self::Key(KeyError::Expired) => row_of("key_expired", login),
            Self::Key(KeyError::Revoked) => row(401, "authentication_error", "key_revoked", None),
            Self::NoLogin => row_of("no_login", login),
            Self::BadLogin => row_of("bad_login_link", login),
            Self::SignIn { cause, .. } => row_of(
                cause,
                row(401, "authentication_error", "sign_in_refused", None),
            ),
            Self::NothingHere { .. } => row_of(
                "unknown_account",
                row(403, "permission_error", "sign_in_refused", None),
            ),
            Self::OtherSite => row(403, "permission_error", "cross_site_request", None),
            Self::UnknownUrl { .. } => row(404, "not_found_error", "unknown_url", None),
            Self::NotFound { .. } => row(404, "not_found_error", "not_found", None),
            Self::Method { .. } => row(405, REQUEST, "method_not_allowed", None),
            Self::KeyScope { .. } => row(403, "permission_error", "key_scope", None),
            Self::Conflict { .. } => row(409, "conflict_error", "invalid_state", None),
            Self::RateLimited { what, retry_ms, .. } => {
                let row = row(
                    429,
                    "rate_limit_error",
                    "rate_limit_exceeded",
                    Some(*retry_ms),
                );
                row_of(what, row)
            }
            Self::TooManyAtOnce { .. } => row_of(
                "too_many_at_once",
                row(429, "rate_limit_error", "rate_limit_exceeded", Some(1_000)),
            ),
            Self::IdempotencyMismatch { cause, .. } => row_of(
                cause,
                row(422, "idempotency_error", "idempotency_mismatch", None),
            ),
            Self::IdempotencyInProgress { .. } => row(
                409,
                "idempotency_error",
                "idempotency_in_progress",
                Some(1_000),
            ),
            Self::IdempotencyLost { .. } => {
                row(409, "idempotency_error", "idempotency_answer_lost", None)
            }
            Self::AnswerTooLong { .. } => {
                row(422, "idempotency_error", "answer_too_long_to_keep", None)
            }
            Self::Failed(failure) => cause_row(&failure.cause),
            Self::FailedPrompt { failure, .. } | Self::FailedChoice { failure, .. } => {
                cause_row(&failure.cause)
            }
            Self::Internal => cause_row(&Cause::Internal),
        }
    }

    /// The code inside a stream that had begun: the design names fewer there.
    fn stream_code(&self) -> &'static str {
        let row = self.row();
        match row.code {
            "provider_down" => "provider_lost",
            "provider_invalid_response" => "verification_failed",
            "request_timeout" => "deadline_exceeded",
            code => code,
        }
    }

    fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Failed(failure) => Some(failure),
            Self::FailedPrompt { failure, .. } | Self::FailedChoice { failure, .. } => {
                Some(failure)
            }
            _ => None,
        }
    }

    fn param(&self) -> Option<String> {
        match self {
            Self::Missing { param }
            | Self::Invalid { param, .. }
            | Self::Unsupported { param, .. } => Some(param.clone()),
            Self::Failed(failure) => param_of(&failure.cause, "messages"),
            Self::FailedPrompt { failure, prompt }
            | Self::FailedChoice {
                failure, prompt, ..
            } => param_of(&failure.cause, prompt),
            _ => None,
        }
    }

    /// What happened, and what was left unchanged.
    fn message(&self) -> String {
        match (self, self.failure()) {
            (
                Self::FailedChoice {
                    delivered: false, ..
                },
                Some(failure),
            ) if !failure.billed.is_zero() => {
                format!(
                    "{self}. {} was billed for other choices, and nothing was delivered.",
                    failure.billed
                )
            }
            (Self::AnswerTooLong { begun, .. }, _) if !begun.is_empty() => {
                format!("{self}. What was written of it is billed; the receipts say how much.")
            }
            (_, Some(failure)) if !failure.billed.is_zero() => {
                format!(
                    "{self}. {} was billed for what was delivered.",
                    failure.billed
                )
            }
            (Self::IdempotencyLost { .. } | Self::IdempotencyInProgress { .. }, _) => {
                format!("{self}. Nothing more was billed.")
            }
            (_, Some(failure)) if !failure.undelivered.is_empty() => {
                format!("{self}. {} No token was billed.", taken_by(failure))
            }
            _ => format!("{self}. No token was billed."),
        }
    }

    /// Cause and figures for machines.
    fn facts(&self, request: JobId) -> Value {
        let mut facts = json!({"cause": self.row().cause, "request_id": request, "billed": "0"});
        if let Self::IdempotencyLost { job } | Self::IdempotencyInProgress { job } = self {
            facts["receipt_id"] = json!(job);
        }
        if let Self::AnswerTooLong { begun, .. } = self
            && !begun.is_empty()
        {
            // It is known once the providers have signed for what was written.
            facts["billed"] = Value::Null;
            facts["receipt_ids"] = json!(begun);
        }
        let Some(failure) = self.failure() else {
            return facts;
        };
        facts["billed"] = failure.billed.to_string().into();
        if let Self::FailedChoice {
            choice, charged, ..
        } = self
        {
            facts["choice"] = json!(choice);
            facts["charged"] = json!(charged);
        }
        if !failure.undelivered.is_empty() {
            facts["undelivered"] = json!(failure.undelivered);
        }
        match &failure.cause {
            Cause::PriceCeiling { lowest } => facts["lowest_price"] = lowest.to_string().into(),
            Cause::NoProviderMatches { excluded } => facts["excluded"] = json!(excluded),
            Cause::OverCapacity { retry_ms } => facts["queue_ms_estimate"] = (*retry_ms).into(),
            Cause::ContextLength { tokens, context } => {
                facts["prompt_tokens"] = (*tokens).into();
                facts["context_length"] = (*context).into();
            }
            Cause::BudgetExceeded {
                needed,
                choices,
                available,
                resets_at,
            } => {
                facts["needed"] = needed.to_string().into();
                facts["choices"] = json!(choices);
                facts["available"] = available.to_string().into();
                facts["resets_at"] = json!(resets_at.map(|at| at.secs()));
            }
            Cause::CapReached {
                needed,
                choices,
                available,
            } => {
                facts["needed"] = needed.to_string().into();
                facts["choices"] = json!(choices);
                facts["available"] = available.to_string().into();
            }
            _ => {}
        }
        facts
    }

    /// When what is used up is filled again, where that instant is known.
    fn resets_at(&self) -> Option<Timestamp> {
        match &self.failure()?.cause {
            Cause::BudgetExceeded { resets_at, .. } => *resets_at,
            _ => None,
        }
    }

    fn body(&self, request: JobId, code: &str) -> ErrorBody {
        ErrorBody {
            error: ErrorObject {
                message: self.message(),
                kind: Some(self.row().kind.to_owned()),
                param: self.param(),
                code: Some(code.to_owned()),
                stoa: Some(self.facts(request)),
            },
        }
    }

    /// Head and body of the HTTP answer, for keeping.
    pub(crate) fn plain(&self, request: JobId) -> (axum::http::response::Parts, Vec<u8>) {
        let (parts, _) = self.render(request).into_parts();
        (parts, self.body_bytes(request))
    }

    fn body_bytes(&self, request: JobId) -> Vec<u8> {
        serde_json::to_vec(&self.body(request, self.row().code))
            .expect("an error body holds only text and numbers")
    }

    /// The HTTP answer. `request` also spreads the retries, so that clients shed together do not return together.
    pub(crate) fn render(&self, request: JobId) -> Response {
        let row = self.row();
        let body = self.body_bytes(request);
        let mut headers = HeaderMap::new();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        let retry = HeaderName::from_static("x-should-retry");
        headers.insert(
            retry,
            HeaderValue::from_static(if row.retry_ms.is_some() {
                "true"
            } else {
                "false"
            }),
        );
        if let Some(ms) = row.retry_ms.map(|ms| spread(ms, request)) {
            headers.insert(HeaderName::from_static("retry-after-ms"), ms.into());
            headers.insert(header::RETRY_AFTER, ms.div_ceil(1000).into());
        }
        if let Some(at) = self.resets_at() {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            let seconds = at.secs().saturating_sub(now.map_or(0, |now| now.as_secs()));
            headers.insert(header::RETRY_AFTER, seconds.max(1).into());
        }
        if row.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Self::Method { allow, .. } = self
            && let Ok(allow) = HeaderValue::from_str(allow)
        {
            headers.insert(header::ALLOW, allow);
        }
        (row.status, headers, body).into_response()
    }

    /// The last `data:` of a stream that had begun.
    pub(crate) fn stream_data(&self, request: JobId) -> String {
        serde_json::to_string(&self.body(request, self.stream_code()))
            .expect("an error body holds only text and numbers")
    }
}

/// The field that a failed call is about, where there is one.
fn param_of(cause: &Cause, prompt: &str) -> Option<String> {
    match cause {
        Cause::UnknownModel { .. } | Cause::ModelOffline { .. } => Some("model".to_owned()),
        Cause::ContextLength { .. } => Some(prompt.to_owned()),
        Cause::Unsupported { parameter, .. } => Some(parameter.clone()),
        _ => None,
    }
}

/// Who took the call and did not deliver.
fn taken_by(failure: &Failure) -> String {
    let taken = failure.undelivered.iter();
    let taken = taken.map(|undelivered| {
        let provider = undelivered.ticket.ticket.provider;
        let at = rfc3339(undelivered.acceptance.acceptance.accepted_at);
        let deadline = rfc3339(undelivered.ticket.ticket.deadline);
        format!("{provider} accepted it at {at} and did not deliver; its deadline is {deadline}.")
    });
    taken.collect::<Vec<_>>().join(" ")
}

/// `ms`, up to a quarter longer, within what SDKs wait for.
fn spread(ms: u64, request: JobId) -> u64 {
    let base = ms.clamp(1, RETRY_MS_MAX);
    let byte = u64::from(request.0[31]);
    (base + base * byte / (4 * 255)).min(RETRY_MS_MAX)
}

impl From<KeyFault> for ApiError {
    fn from(fault: KeyFault) -> Self {
        match fault {
            KeyFault::NotFound => Self::NotFound { what: "key" },
            KeyFault::State(reason) => Self::Conflict { reason },
            KeyFault::NotWritten(reason) => unavailable(format!("keys cannot be kept ({reason})")),
        }
    }
}

/// The router cannot take this now.
pub(crate) fn unavailable(reason: String) -> ApiError {
    let cause = Cause::RouterUnavailable { reason };
    ApiError::Failed(Failure::new(cause, TokenAmount::ZERO))
}

/// The error travels in the response's extensions until the outermost layer, which knows the request's id, renders it.
impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.row().status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_are_spread_upwards_and_stay_within_what_sdks_wait_for() {
        for (ms, byte) in [
            (0, 0),
            (0, 255),
            (1_000, 0),
            (1_000, 255),
            (119_999, 255),
            (u64::MAX, 7),
        ] {
            let mut id = JobId::ZERO;
            id.0[31] = byte;
            let spread = spread(ms, id);
            assert!((1..=RETRY_MS_MAX).contains(&spread), "{ms} became {spread}");
            assert!(spread >= ms.min(RETRY_MS_MAX));
        }
    }
}
