//! Management of API keys. Only a key without any limit gets here, but for the look of a key at itself.

use crate::codec::parse_new_key;
use crate::error::ApiError;
use crate::inference::{draw_job, read_body};
use crate::info::documents;
use crate::keys::{KeyFault, KeyName};
use crate::port::{Account, IssuedKey, KeyRow};
use crate::replay::{self, Once, Secret};
use crate::server::App;
use axum::Json;
use axum::extract::{Extension, Path, Request, State};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use std::sync::Arc;
use stoa_nodes::router::spend_alerts;

/// A key as clients read it; amounts in whole payment tokens, times in seconds.
fn shown(row: &KeyRow) -> Value {
    let KeyRow {
        record,
        spent,
        held,
        resets_at,
    } = row;
    let grant = &record.grant;
    let limit = grant.spend_limit.map(|limit| limit.amount);
    let alerts: Vec<_> = limit
        .map(|limit| spend_alerts(*spent, limit).collect())
        .unwrap_or_default();
    json!({
        "object": "stoa.key",
        "id": record.id,
        "name": record.name,
        "routes": grant.routes,
        "models": grant.models,
        "spend_limit": grant.spend_limit.map(|limit| json!({
            "amount": limit.amount.to_string(),
            "period": limit.period,
        })),
        "rate_limit": grant.rate_limit,
        "spent": spent.to_string(),
        "reserved": held.to_string(),
        "alerts_percent": alerts,
        "resets_at": resets_at.map(|at| at.secs()),
        "created_at": record.created_at.secs(),
        "created_by": record.created_by,
        "expires_at": grant.expires_at.map(|at| at.secs()),
        "revoked_at": record.revoked_at.map(|at| at.secs()),
        "configured": record.configured,
    })
}

fn issued(key: IssuedKey) -> Response {
    let mut shown = shown(&key.row);
    shown["secret"] = key.secret.into();
    Json(shown).into_response()
}

fn made(key: Result<Result<IssuedKey, KeyFault>, ApiError>) -> Response {
    match key.and_then(|key| key.map_err(ApiError::from)) {
        Ok(key) => issued(key),
        Err(error) => error.into_response(),
    }
}

fn name(text: &str) -> Result<KeyName, ApiError> {
    text.parse().map_err(|_| ApiError::NotFound { what: "key" })
}

pub(crate) async fn list(
    State(app): State<Arc<App>>,
    Extension(account): Extension<Account>,
) -> Json<Value> {
    let rows = app.gateway.keys(account.address);
    let data: Vec<_> = rows.iter().map(shown).collect();
    Json(json!({"object": "list", "data": data}))
}

pub(crate) async fn one(
    State(app): State<Arc<App>>,
    Extension(account): Extension<Account>,
    Path(key): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let row = app.gateway.key(account.address, name(&key)?);
    let row = row.ok_or(ApiError::NotFound { what: "key" })?;
    Ok(Json(shown(&row)))
}

/// The caller's own key, whatever its limits.
pub(crate) async fn own(
    State(app): State<Arc<App>>,
    Extension(account): Extension<Account>,
) -> Result<Json<Value>, ApiError> {
    let row = app.gateway.key(account.address, KeyName(account.key));
    let row = row.ok_or(ApiError::NotFound { what: "key" })?;
    Ok(Json(shown(&row)))
}

pub(crate) async fn create(
    State(app): State<Arc<App>>,
    Extension(account): Extension<Account>,
    Extension(secret): Extension<Secret>,
    request: Request,
) -> Result<Response, ApiError> {
    let header = replay::header_of(request.headers())?;
    let body = read_body(&app, request).await?;
    let new = parse_new_key(&body)?;
    let (by, served) = (account.clone(), app.clone());
    let run =
        async move { made(documents(&served, move |gateway| gateway.create_key(&by, new)).await) };
    let digest = *blake3::hash(&body).as_bytes();
    at_most_once(
        &app,
        (account, secret),
        "/v1/stoa/keys",
        header,
        digest,
        run,
    )
    .await
}

/// Runs a change at most once for each Idempotency-Key, where there is one.
async fn at_most_once(
    app: &Arc<App>,
    (caller, secret): (Account, Secret),
    route: &'static str,
    header: Option<String>,
    body: [u8; 32],
    run: impl Future<Output = Response> + Send + 'static,
) -> Result<Response, ApiError> {
    let Some(header) = header else {
        return Ok(run.await);
    };
    let once = Once {
        job: draw_job(app, &caller)?,
        caller,
        secret,
        route,
        header,
        body,
        choices: 1,
    };
    replay::once(app, once, |_| run).await
}

pub(crate) async fn rotate(
    State(app): State<Arc<App>>,
    Extension(account): Extension<Account>,
    Extension(secret): Extension<Secret>,
    Path(key): Path<String>,
    request: Request,
) -> Result<Response, ApiError> {
    let header = replay::header_of(request.headers())?;
    let body = read_body(&app, request).await?;
    let grace = crate::codec::parse_rotation(&body)?;
    let name = name(&key)?;
    // Which key it is stands in the path: it belongs to the request like the body.
    let digest = blake3::Hasher::new()
        .update(&name.0.0.to_be_bytes())
        .update(&body)
        .finalize();
    let (by, served) = (account.clone(), app.clone());
    let run = async move {
        let rotated = documents(&served, move |gateway| gateway.rotate_key(&by, name, grace)).await;
        made(rotated)
    };
    let route = "/v1/stoa/keys/{key}/rotate";
    at_most_once(
        &app,
        (account, secret),
        route,
        header,
        *digest.as_bytes(),
        run,
    )
    .await
}

pub(crate) async fn revoke(
    State(app): State<Arc<App>>,
    Extension(account): Extension<Account>,
    Path(key): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let name = name(&key)?;
    let row = documents(&app, move |gateway| gateway.revoke_key(&account, name)).await??;
    Ok(Json(shown(&row)))
}
