//! Management of API keys. Only a key without any limit gets here.

use crate::codec::parse_new_key;
use crate::error::ApiError;
use crate::inference::{draw_job, read_body};
use crate::info::documents;
use crate::keys::KeyName;
use crate::port::{Account, IssuedKey, KeyRow};
use crate::replay::{self, Once, Secret};
use crate::server::App;
use axum::Json;
use axum::extract::{Extension, Path, Request, State};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use std::sync::Arc;

/// A key as clients read it; amounts in whole payment tokens, times in seconds.
fn shown(row: &KeyRow) -> Value {
    let KeyRow {
        record,
        spent,
        held,
        resets_at,
    } = row;
    let grant = &record.grant;
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
    let name = name(&key)?;
    let rows = app.gateway.keys(account.address);
    let row = rows.iter().find(|row| row.record.id == name);
    let row = row.ok_or(ApiError::NotFound { what: "key" })?;
    Ok(Json(shown(row)))
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
    let run = async move {
        let made = documents(&served, move |gateway| gateway.create_key(&by, new)).await;
        match made.and_then(|made| made.map_err(ApiError::from)) {
            Ok(key) => issued(key),
            Err(error) => error.into_response(),
        }
    };
    let Some(header) = header else {
        return Ok(run.await);
    };
    let once = Once {
        job: draw_job(&app, &account)?,
        caller: account,
        secret,
        route: "/v1/stoa/keys",
        header,
        body: *blake3::hash(&body).as_bytes(),
    };
    replay::once(&app, once, run).await
}

pub(crate) async fn rotate(
    State(app): State<Arc<App>>,
    Extension(account): Extension<Account>,
    Path(key): Path<String>,
    request: Request,
) -> Result<Response, ApiError> {
    let body = read_body(&app, request).await?;
    let grace = crate::codec::parse_rotation(&body)?;
    let name = name(&key)?;
    let made = documents(&app, move |gateway| {
        gateway.rotate_key(&account, name, grace)
    })
    .await??;
    Ok(issued(made))
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
