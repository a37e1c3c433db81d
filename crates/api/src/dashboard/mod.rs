//! The dashboard: server-rendered pages behind a login. Everything is escaped by the template, the content policy allows no script and no
//! style but our own files, and one small script replaces sections by what the server renders when something changes.

mod audits;
mod calls;
mod live;
mod money;
mod overview;
mod pages;
mod parts;
mod performance;
mod providers;

pub(crate) use live::{WATCHES, live};
pub(crate) use pages::page;

use crate::board::Overview;
use crate::error::ApiError;
use crate::inference::read_body;
use crate::port::Viewer;
use crate::server::App;
use crate::visits::look_up;
use axum::Json;
use axum::extract::{Extension, RawQuery, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use maud::{DOCTYPE, Markup, html};
use std::sync::Arc;
use stoa_types::Timestamp;

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

pub(crate) fn page_response(status: StatusCode, body: Markup) -> Response {
    let headers = [
        (
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/html; charset=utf-8"),
        ),
        (
            header::CONTENT_SECURITY_POLICY,
            HeaderValue::from_static(POLICY),
        ),
        (
            header::REFERRER_POLICY,
            HeaderValue::from_static("no-referrer"),
        ),
        (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            HeaderValue::from_static("same-origin"),
        ),
    ];
    (status, headers, body.into_string()).into_response()
}

/// The head and body around every page. `script` is one of ours.
pub(crate) fn document(title: &str, script: Option<&str>, body: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " · Stoa" }
                link rel="icon" href="data:,";
                link rel="stylesheet" href="/dashboard/page.css";
                @if let Some(script) = script { script type="module" src=(script) {} }
            }
            body { (body) }
        }
    }
}

/// The login link: sets the cookie. The page moves on by itself, because a redirect that began on another site would leave a
/// strict cookie behind.
pub(crate) async fn login(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let query = query.unwrap_or_default();
    let token = query
        .split('&')
        .find_map(|pair| pair.strip_prefix("token="))
        .unwrap_or_default();
    if !app.sessions.accepts(token) {
        return Err(ApiError::BadLogin);
    }
    let now = app.gateway.board().now();
    let span = (now, Timestamp(u64::MAX));
    // A proxy says so. Whoever says it without one shuts out himself alone.
    let proxied = headers.get("x-forwarded-proto");
    let secure = proxied.is_some_and(|scheme| scheme == "https");
    let cookie = app.sessions.begin(Viewer::Operator, span, secure);
    let body = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                link rel="icon" href="data:,";
                meta http-equiv="refresh" content="0;url=/";
                title { "Logged in · Stoa" }
            }
            body { p { "Logged in. " a href="/" { "To the dashboard" } } }
        }
    };
    let mut response = page_response(StatusCode::OK, body);
    response.headers_mut().insert(header::SET_COOKIE, cookie);
    Ok(response)
}

/// The first page's data as JSON.
pub(crate) async fn data(
    State(app): State<Arc<App>>,
    Extension(viewer): Extension<Viewer>,
) -> Result<Json<Overview>, ApiError> {
    let overview = move |gateway: &dyn crate::port::Gateway| gateway.board().overview(viewer);
    Ok(Json(look_up(&app, viewer, overview).await?))
}

/// Checks a receipt file and says what was found, as a fragment.
pub(crate) async fn verify(
    State(app): State<Arc<App>>,
    Extension(viewer): Extension<Viewer>,
    request: Request,
) -> Result<Response, ApiError> {
    let place = app.visits.check(viewer)?;
    let bytes = read_body(&app, request).await?;
    let check = move |gateway: &dyn crate::port::Gateway| {
        let report = gateway.board().check_file(&bytes);
        drop((bytes, place));
        report
    };
    let report = look_up(&app, viewer, check).await?;
    let report = report.map_err(|error| ApiError::Invalid {
        param: "file".to_owned(),
        reason: error.to_string(),
    })?;
    Ok(page_response(StatusCode::OK, calls::checks(&report)))
}

/// What a person reads who asked for a page and cannot have it.
pub(crate) fn error_page(error: &ApiError) -> Response {
    let status = error.row().status;
    let body = html! {
        header.top { a.brand href="/" { "Stoa" } }
        main #main {
            h1 { (status.as_u16()) " " (status.canonical_reason().unwrap_or_default()) }
            p { (error) "." }
            @if status == StatusCode::UNAUTHORIZED {
                p { "The link is printed by " code { "stoa up" } " and " code { "stoa router" } " each time they start." }
                p { a href="/sign-in" { "Sign in with a wallet" } }
            } @else {
                p { a href="/" { "To the first page" } }
            }
        }
    };
    page_response(status, document("Not shown", None, &body))
}

pub(crate) async fn script() -> impl IntoResponse {
    (
        [(header::CONTENT_TYPE, "text/javascript; charset=utf-8")],
        include_str!("../../assets/page.js"),
    )
}

pub(crate) async fn style() -> impl IntoResponse {
    (
        [(header::CONTENT_TYPE, "text/css; charset=utf-8")],
        include_str!("../../assets/page.css"),
    )
}
