//! Routes that only read: models, receipts, explanations, limits, providers, balances, health.

use crate::error::ApiError;
use crate::keys::RateLimit;
use crate::port::{Account, Gateway, ModelEntry, RequestLimits};
use crate::server::App;
use crate::visits::look_up_by_key;
use axum::Json;
use axum::extract::{Extension, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Value, json};
use std::sync::Arc;
use stoa_nodes::client::{Cause, Failure};
use stoa_openai::{Model, ModelList, Pricing};
use stoa_types::{JobId, Price, TokenAmount};

/// Request fields that have an effect.
const SUPPORTED_PARAMETERS: &[&str] = &[
    "max_completion_tokens",
    "max_tokens",
    "min_p",
    "parallel_tool_calls",
    "response_format",
    "seed",
    "stop",
    "stream",
    "stream_options",
    "structured_outputs",
    "temperature",
    "tool_choice",
    "tools",
];

pub(crate) async fn models(State(app): State<Arc<App>>) -> Json<ModelList> {
    let data = app.gateway.models().iter().map(model_of).collect();
    Json(ModelList {
        object: "list".to_owned(),
        data,
    })
}

pub(crate) async fn model(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
) -> Result<Json<Model>, ApiError> {
    match app.gateway.models().iter().find(|entry| entry.id == id) {
        Some(entry) => Ok(Json(model_of(entry))),
        None => {
            let cause = Cause::UnknownModel {
                model: crate::json::clip(&id, 200),
            };
            Err(ApiError::Failed(Failure::new(cause, TokenAmount::ZERO)))
        }
    }
}

fn model_of(entry: &ModelEntry) -> Model {
    let nothing = || "0".to_owned();
    let words = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect();
    Model {
        id: entry.id.clone(),
        object: "model".to_owned(),
        created: entry.created.secs(),
        owned_by: "stoa".to_owned(),
        context_length: Some(entry.context.into()),
        max_output_tokens: Some(entry.output_tokens_max.into()),
        pricing: Some(Pricing {
            prompt: per_token(entry.input_price),
            completion: per_token(entry.output_price),
            request: nothing(),
            image: nothing(),
            input_cache_read: per_token(entry.input_price),
            input_cache_write: nothing(),
        }),
        quantization: Some(entry.quantization.clone()),
        supported_parameters: words(SUPPORTED_PARAMETERS),
        supported_features: words(&["tools", "json_mode"]),
        input_modalities: words(&["text"]),
        output_modalities: words(&["text"]),
        readiness: Some("warm".to_owned()),
        deprecation_date: None,
        stoa: Some(json!({
            "weights_digest": entry.model_root,
            "tiers": entry.tiers,
            "regions": entry.regions,
            "providers_online": entry.providers,
            "free_slots": entry.free_slots,
        })),
    }
}

/// Price of one token in whole payment tokens: 6 decimals of the token and 6 of the million, exact.
fn per_token(price: Price) -> String {
    const SCALE: u128 = 1_000_000_000_000;
    let units = price.amount_per_million().units();
    let fraction = format!("{:012}", units % SCALE);
    let text = format!("{}.{fraction}", units / SCALE);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A job id as answers show it: with `0x`, bare, or as the id of a completion.
pub(crate) fn job_id(text: &str) -> Option<JobId> {
    let text = text
        .strip_prefix("chatcmpl-")
        .or_else(|| text.strip_prefix("cmpl-"))
        .unwrap_or(text);
    let digits = text.strip_prefix("0x").unwrap_or(text);
    format!("0x{digits}").parse().ok()
}

pub(crate) async fn receipt(
    State(app): State<Arc<App>>,
    Extension(account): Extension<Account>,
    Path(job): Path<String>,
) -> Result<Response, ApiError> {
    #[derive(Serialize)]
    struct Body<'a, T> {
        object: &'static str,
        id: JobId,
        #[serde(flatten)]
        view: &'a T,
    }
    let none = ApiError::NotFound { what: "receipt" };
    let id = job_id(&job).ok_or(none.clone())?;
    let found = look_up_by_key(&app, &account, move |gateway, viewer| {
        gateway.receipt(viewer, id)
    })
    .await?;
    let view = found.ok_or(none)?;
    Ok(Json(Body {
        object: "stoa.receipt",
        id,
        view: &view,
    })
    .into_response())
}

pub(crate) async fn explain(
    State(app): State<Arc<App>>,
    Extension(account): Extension<Account>,
    Path(job): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let found = match job_id(&job) {
        Some(id) => {
            look_up_by_key(&app, &account, move |gateway, viewer| {
                gateway.explain(viewer, id)
            })
            .await?
        }
        None => None,
    };
    Ok(Json(found.ok_or(ApiError::NotFound {
        what: "explanation",
    })?))
}

/// Looks something up that may take time (a log file is read, a tree is built) beside the threads that carry streams.
pub(crate) async fn documents<T: Send + 'static>(
    app: &Arc<App>,
    look_up: impl FnOnce(&dyn Gateway) -> T + Send + 'static,
) -> Result<T, ApiError> {
    let app = app.clone();
    let found = tokio::task::spawn_blocking(move || look_up(&*app.gateway)).await;
    found.map_err(|_| ApiError::Internal)
}

pub(crate) async fn limits(
    State(app): State<Arc<App>>,
    Extension(account): Extension<Account>,
) -> Response {
    #[derive(Serialize)]
    struct Body {
        #[serde(flatten)]
        limits: RequestLimits,
        rate_limit: RateLimit,
        key_rate_limit: Option<RateLimit>,
        reads_per_minute: u32,
    }
    Json(Body {
        limits: app.gateway.limits(),
        rate_limit: app.rates.of_accounts(),
        key_rate_limit: account.grant.rate_limit,
        reads_per_minute: app.rates.reads_per_minute(),
    })
    .into_response()
}

pub(crate) async fn providers(State(app): State<Arc<App>>) -> Json<Value> {
    Json(json!({"object": "list", "data": app.gateway.providers()}))
}

pub(crate) async fn account(
    State(app): State<Arc<App>>,
    Extension(account): Extension<Account>,
) -> Result<Response, ApiError> {
    let row = app
        .gateway
        .account(account.address)
        .ok_or(ApiError::NotFound { what: "account" })?;
    Ok(Json(row).into_response())
}

pub(crate) async fn jobs(
    State(app): State<Arc<App>>,
    Extension(account): Extension<Account>,
) -> Result<Json<Value>, ApiError> {
    let jobs = look_up_by_key(&app, &account, |gateway, viewer| gateway.jobs(viewer)).await?;
    Ok(Json(json!({"object": "list", "data": jobs})))
}

pub(crate) async fn claims(
    State(app): State<Arc<App>>,
    Extension(account): Extension<Account>,
) -> Result<Json<Value>, ApiError> {
    let claims = look_up_by_key(&app, &account, |gateway, _| gateway.claims()).await?;
    Ok(Json(json!({"object": "list", "data": claims})))
}

/// The process serves.
pub(crate) async fn health() -> Json<Value> {
    Json(json!({"status": "ok"}))
}

/// Every part that a call needs works; else 503 with the failing part named. What is wrong with it stays in the log: this route
/// is public.
pub(crate) async fn ready(State(app): State<Arc<App>>) -> Response {
    let parts = app.gateway.ready();
    let failing: Vec<_> = parts.iter().filter(|part| part.problem.is_some()).collect();
    for part in &failing {
        tracing::warn!(part = part.part, problem = part.problem, "not ready");
    }
    let names: Vec<_> = failing.iter().map(|part| part.part).collect();
    let (status, word) = if names.is_empty() {
        (StatusCode::OK, "ready")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready")
    };
    (status, Json(json!({"status": word, "failing": names}))).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_price_per_token_is_exact() {
        for (per_million, text) in [
            ("0", "0"),
            ("1", "0.000001"),
            ("0.15", "0.00000015"),
            ("0.000001", "0.000000000001"),
            ("2000000", "2"),
        ] {
            let amount = TokenAmount::parse(per_million).expect("valid");
            assert_eq!(per_token(Price::per_million(amount)), text);
        }
    }

    #[test]
    fn a_job_is_found_by_every_id_that_answers_show() {
        let id = JobId([0xab; 32]);
        let bare = hex::encode(id.0);
        for text in [
            format!("0x{bare}"),
            bare.clone(),
            format!("chatcmpl-{bare}"),
            format!("cmpl-{bare}"),
        ] {
            assert_eq!(job_id(&text), Some(id));
        }
        for text in ["", "0x", "chatcmpl-", "0xzz", &bare[1..], "../../etc"] {
            assert_eq!(job_id(text), None);
        }
    }
}
