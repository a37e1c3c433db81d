//! The layer around everything: who asks, the request's id, errors in their final form, counters.

use crate::dashboard;
use crate::error::ApiError;
use crate::keys::Scope;
use crate::places::Place;
use crate::port::{Account, Viewer};
use crate::rates::Party;
use crate::replay::Secret;
use crate::routes::{Access, Need, Route, access, route};
use crate::server::App;
use crate::sign_in::authority;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::any::Any;
use std::sync::Arc;
use std::time::Instant;
use stoa_types::JobId;

/// Id of the request, where a handler knows a better one than a fresh one: the job's.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RequestId(pub(crate) JobId);

/// Runs around every request, matched or not.
pub(crate) async fn guard(
    State(app): State<Arc<App>>,
    mut request: Request,
    next: Next,
) -> Response {
    let began = Instant::now();
    let pattern = request
        .extensions()
        .get::<MatchedPath>()
        .map(|path| path.as_str().to_owned());
    let row = pattern
        .as_deref()
        .and_then(|pattern| route(request.method(), pattern));
    let mut told = Told::default();
    let reads_pages = wants_page(pattern.as_deref(), request.headers());
    let response = match authorise(&app, pattern.as_deref(), row, &request) {
        Ok(caller) => match admit(&app, caller, row, &mut request, &mut told) {
            // The place is held until the answer's head is there: what a page costs is over by then.
            Ok(_place) => next.run(request).await,
            Err(error) => error.into_response(),
        },
        Err(error) => error.into_response(),
    };
    let mut response = finish(&app, response, reads_pages);
    if let Some(party) = told.rated {
        response.headers_mut().extend(app.rates.headers(&party));
    }
    if let Some(account) = told.paid {
        // On a stream: what is left beside what the call holds.
        if let Some(left) = app.gateway.spend_left(&account) {
            let name = HeaderName::from_static("x-stoa-budget-remaining");
            response.headers_mut().insert(name, text_value(left));
        }
    }
    let route = pattern.unwrap_or_else(|| "unmatched".to_owned());
    let code = response.status().as_u16().to_string();
    metrics::counter!("stoa_api_requests_total", "route" => route.clone(), "code" => code)
        .increment(1);
    metrics::histogram!("stoa_api_head_seconds", "route" => route)
        .record(began.elapsed().as_secs_f64());
    response
}

/// What the headers of an answer tell: where its caller stands.
#[derive(Default)]
struct Told {
    /// Whose buckets.
    rated: Option<Party>,
    /// Whose spending.
    paid: Option<Account>,
}

/// Lets a request in, with what its handler needs to know of its caller. A page of an account takes from its rate and has a place; what is
/// asked by key and not paid takes from the rate of its account, what manages keys from one of its own; a paid call takes from its caller's when it was read.
fn admit(
    app: &App,
    caller: Caller,
    row: Option<&Route>,
    request: &mut Request,
    told: &mut Told,
) -> Result<Option<Place>, ApiError> {
    match caller {
        Caller::Anyone => {}
        Caller::Key(account, secret) => {
            if is_paid(row) {
                told.rated = Some(app.rates.caller(&account));
                told.paid = Some(account.clone());
            } else {
                let party = match row.map(|row| row.need) {
                    Some(Need::Unlimited) => app.rates.manager(account.key),
                    _ => app.rates.reader(account.address),
                };
                told.rated = Some(party.clone());
                app.rates.take(party, 1, 0)?;
            }
            request.extensions_mut().insert(account);
            request.extensions_mut().insert(secret);
        }
        Caller::Page(viewer) => {
            request.extensions_mut().insert(viewer);
            if let (Viewer::Account(account), Some(true)) = (viewer, row.map(Route::costs_work)) {
                let party = app.rates.viewer(account);
                told.rated = Some(party.clone());
                let place = app.visits.request(viewer)?;
                app.rates.take(party, 1, 0)?;
                return Ok(Some(place));
            }
        }
    }
    Ok(None)
}

/// Whether the route makes paid calls.
fn is_paid(row: Option<&Route>) -> bool {
    row.is_some_and(|row| row.need == Need::Scope(Scope::Inference))
}

/// Who a request comes from.
enum Caller {
    /// The route needs no credential, or does not exist.
    Anyone,
    /// The holder of an API key.
    Key(Account, Secret),
    /// A browser that is logged in.
    Page(Viewer),
}

/// The caller where the route has one. A path that matches nothing needs a credential too.
fn authorise(
    app: &App,
    pattern: Option<&str>,
    row: Option<&Route>,
    request: &Request,
) -> Result<Caller, ApiError> {
    let headers = request.headers();
    let viewer = || app.sessions.viewer(headers, app.gateway.board().now());
    let changes = request.method() != Method::GET && request.method() != Method::HEAD;
    let caller = match pattern.map(access) {
        // What a browser does by itself, it must do for a page of ours.
        Some(Some(Access::Public | Access::Page | Access::Operator))
            if changes && of_another_site(request) =>
        {
            return Err(ApiError::OtherSite);
        }
        Some(Some(Access::Public)) => return Ok(Caller::Anyone),
        Some(Some(Access::Key)) => by_key(app, headers)?,
        Some(Some(whose @ (Access::Page | Access::Operator))) => {
            let viewer = viewer().ok_or(ApiError::NoLogin)?;
            if whose == Access::Operator && viewer != Viewer::Operator {
                return Err(ApiError::NotFound { what: "page" });
            }
            return Ok(Caller::Page(viewer));
        }
        // Not in the table: whoever shows a credential learns that there is nothing.
        Some(None) | None if viewer().is_some() => return Ok(Caller::Anyone),
        Some(None) | None => by_key(app, headers)?,
    };
    // A paid call is read first: what is wrong with it comes before what the key may not do (design: API 4.3).
    match row {
        Some(row) if !is_paid(Some(row)) => may(&caller.0, row.need)?,
        _ => {}
    }
    Ok(Caller::Key(caller.0, caller.1))
}

/// Whether a page of another site made the browser send this, going by what browsers say of it. Other clients say nothing.
fn of_another_site(request: &Request) -> bool {
    let said = |name: HeaderName| request.headers().get(name);
    if let Some(site) = said(HeaderName::from_static("sec-fetch-site")) {
        return site != "same-origin" && site != "none";
    }
    let Some(origin) = said(header::ORIGIN) else {
        return false;
    };
    let origin = origin.to_str().ok().and_then(|text| text.split_once("://"));
    let own = authority(request.uri(), request.headers());
    !matches!((origin, own), (Some((_, theirs)), Some(ours)) if theirs.eq_ignore_ascii_case(ours))
}

/// Whether the answer is read by a person in a browser, errors included.
fn wants_page(pattern: Option<&str>, headers: &HeaderMap) -> bool {
    let accepts = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok());
    let html = accepts.is_some_and(|media| media.starts_with("text/html"));
    let public_page = pattern == Some("/login");
    let page = |access| matches!(access, Access::Page | Access::Operator);
    html && (public_page || pattern.and_then(access).is_some_and(page))
}

/// Whether the key is good for that.
pub(crate) fn may(caller: &Account, need: Need) -> Result<(), ApiError> {
    if need.met_by(&caller.grant) {
        return Ok(());
    }
    let what = match need {
        Need::Scope(scope) => format!("use routes of the group `{}`", scope.as_str()),
        Need::AnyKey | Need::Unlimited => "manage keys, since it is limited itself".to_owned(),
    };
    Err(ApiError::KeyScope { what })
}

fn by_key(app: &App, headers: &HeaderMap) -> Result<(Account, Secret), ApiError> {
    let key = key(headers).ok_or(ApiError::NoKey)?;
    Ok((app.gateway.authenticate(key)?, Secret::of(key)))
}

/// The API key: one `Authorization: Bearer` or, without that header, one `x-api-key`. A repeated header is no credential.
fn key(headers: &HeaderMap) -> Option<&str> {
    let single = |name: HeaderName| {
        let mut values = headers.get_all(name).iter();
        match (values.next(), values.next()) {
            (Some(value), None) => Some(std::str::from_utf8(value.as_bytes()).ok()),
            (None, _) => None,
            (Some(_), Some(_)) => Some(None),
        }
    };
    let key = match single(header::AUTHORIZATION) {
        Some(value) => {
            let (scheme, key) = value?.split_once(' ')?;
            scheme
                .eq_ignore_ascii_case("bearer")
                .then_some(key.trim())?
        }
        None => single(HeaderName::from_static("x-api-key"))??.trim(),
    };
    (!key.is_empty()).then_some(key)
}

/// Renders an error that a handler returned, and sets the headers that every response has.
fn finish(app: &App, mut response: Response, reads_pages: bool) -> Response {
    let id = response
        .extensions()
        .get::<RequestId>()
        .map_or_else(|| app.fresh_id(), |id| id.0);
    if let Some(error) = response.extensions_mut().remove::<ApiError>() {
        let row = error.row();
        metrics::counter!("stoa_api_errors_total", "code" => row.code, "cause" => row.cause)
            .increment(1);
        let carried = std::mem::take(response.headers_mut());
        response = error.render(id);
        if reads_pages {
            let (head, _) =
                std::mem::replace(&mut response, dashboard::error_page(&error)).into_parts();
            response.headers_mut().extend(advice_of(&head.headers));
        }
        response.headers_mut().extend(job_headers_of(&carried));
    }
    let headers = response.headers_mut();
    headers.insert(HeaderName::from_static("x-request-id"), text_value(id));
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    response
}

/// When to come back, and which methods there are: a page that is an error says so as any other error does.
fn advice_of(rendered: &HeaderMap) -> HeaderMap {
    const ADVICE: [HeaderName; 4] = [
        header::RETRY_AFTER,
        HeaderName::from_static("retry-after-ms"),
        HeaderName::from_static("x-should-retry"),
        header::ALLOW,
    ];
    let pair = |name: HeaderName| rendered.get(&name).cloned().map(|value| (name, value));
    ADVICE.into_iter().filter_map(pair).collect()
}

/// Headers of a call that an error keeps.
const JOB_HEADERS: [&str; 2] = ["x-stoa-job", "x-stoa-receipt-id"];

/// Those of them that an error carries.
pub(crate) fn job_headers_of(carried: &HeaderMap) -> HeaderMap {
    let pair = |name| Some((HeaderName::from_static(name), carried.get(name)?.clone()));
    JOB_HEADERS.into_iter().filter_map(pair).collect()
}

/// A header value of an id, a digest, a number.
pub(crate) fn text_value(value: impl ToString) -> HeaderValue {
    HeaderValue::from_str(&value.to_string()).expect("ids, words and numbers print as ASCII")
}

/// A handler panicked: the caller is told that it was our fault.
pub(crate) fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let message = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message");
    tracing::error!(message, "a handler panicked");
    ApiError::Internal.into_response()
}
