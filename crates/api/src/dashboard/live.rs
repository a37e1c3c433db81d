//! Pages that change while they are looked at: one stream of server-sent events for each, which carries the sections that look different.
//!
//! A stream renders when the router says that something changed, and then only as often as costs little; it renders nothing while its
//! client has not taken what came before. A beat tells the client that the line is alive.

use super::pages::{Page, Section};
use crate::error::{ApiError, unavailable};
use crate::places::{Place, Room};
use crate::port::{Gateway, Viewer};
use crate::server::App;
use crate::visits::look_up;
use axum::body::Body;
use axum::extract::{Extension, RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use serde_json::json;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// Pages that are looked at, at once.
pub(crate) const WATCHES: Room = Room {
    operator: 32,
    account: 4,
    accounts: 64,
};
/// Least time between two renderings of a page.
const PAUSE: Duration = Duration::from_millis(200);
/// A page whose rendering took long is rendered again only after that many times as long, or after so many times for each page that is
/// looked at: all of them together never take more than half a core.
const REST: u32 = 20;
const REST_OF_EACH: u32 = 2;
/// A line without news carries a beat this often.
const BEAT: Duration = Duration::from_secs(5);
/// How long a browser waits before it asks again.
const RETRY_MS: u32 = 1_000;

/// One page that is looked at.
struct Watch {
    app: Arc<App>,
    page: Page,
    viewer: Viewer,
    /// With the cookie: whoever is logged out sees nothing more.
    headers: HeaderMap,
    changes: watch::Receiver<u64>,
    closing: watch::Receiver<bool>,
    shown: BTreeMap<&'static str, String>,
    begun: bool,
    rendered: Instant,
    pause: Duration,
    beat: Instant,
    place: Place,
}

/// How long a page rests after a rendering that took so long.
fn pause(took: Duration, watched: usize) -> Duration {
    let watched = u32::try_from(watched).unwrap_or(u32::MAX);
    PAUSE.max(took.saturating_mul(REST.max(watched.saturating_mul(REST_OF_EACH))))
}

/// The stream of a page.
pub(crate) async fn live(
    State(app): State<Arc<App>>,
    Extension(viewer): Extension<Viewer>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let query = query.unwrap_or_default();
    let path = query.split('&').find_map(|pair| pair.strip_prefix("page="));
    let page = path.and_then(Page::at);
    let page = page.ok_or(ApiError::NotFound { what: "page" })?;
    let full = |_| unavailable("as many pages are looked at as it can take".to_owned());
    let place = app.watchers.take(viewer).map_err(full)?;
    let now = Instant::now();
    let watch = Watch {
        changes: app.gateway.board().changes(),
        closing: app.closing.clone(),
        app,
        page,
        viewer,
        headers,
        shown: BTreeMap::new(),
        begun: false,
        rendered: now,
        pause: PAUSE,
        beat: now + BEAT,
        place,
    };
    let pieces = stream::unfold(watch, |mut watch| async move {
        let piece = watch.next().await?;
        Some((Ok::<_, Infallible>(Bytes::from(piece)), watch))
    });
    let media = HeaderValue::from_static("text/event-stream");
    Ok(([(header::CONTENT_TYPE, media)], Body::from_stream(pieces)).into_response())
}

impl Watch {
    /// The next events; `None` ends the stream.
    async fn next(&mut self) -> Option<String> {
        if !self.begun {
            self.begun = true;
            self.changes.borrow_and_update();
            let all = self.differences().await?;
            return Some(format!("retry: {RETRY_MS}\n\n{all}"));
        }
        loop {
            let mut closing = self.closing.clone();
            let closed = async {
                if closing.wait_for(|closing| *closing).await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            let due = self.rendered + self.pause;
            let changes = &mut self.changes;
            let changed = async {
                let changed = changes.changed().await;
                sleep_until(due).await;
                changed.is_ok()
            };
            let alive = tokio::select! {
                () = closed => false,
                alive = changed => alive,
                () = sleep_until(self.beat) => {
                    self.beat = Instant::now() + BEAT;
                    let open = self.app.sessions.viewer(&self.headers, self.app.gateway.board().now());
                    return (open == Some(self.viewer)).then(|| "event: beat\ndata: 1\n\n".to_owned());
                }
            };
            if !alive {
                return None;
            }
            self.changes.borrow_and_update();
            let news = self.differences().await?;
            if !news.is_empty() {
                self.beat = Instant::now() + BEAT;
                return Some(news);
            }
        }
    }

    /// Events for the sections that look different now.
    async fn differences(&mut self) -> Option<String> {
        let now = self.app.gateway.board().now();
        if self.app.sessions.viewer(&self.headers, now) != Some(self.viewer) {
            return None;
        }
        let (page, viewer) = (self.page, self.viewer);
        // What it took, and not how long it waited for its turn: who is many must not make others' pages rest.
        let render = move |gateway: &dyn Gateway| {
            let began = Instant::now();
            (page.sections(gateway.board(), viewer), began.elapsed())
        };
        let (sections, took) = look_up(&self.app, viewer, render).await.ok()?;
        let sections = sections.ok()?;
        self.rendered = Instant::now();
        self.pause = pause(took, self.place.taken());
        let mut events = String::new();
        for Section { id, title, body } in sections {
            let html = body.into_string();
            if self.shown.get(id) == Some(&html) {
                continue;
            }
            let data = json!({"id": id, "title": title, "html": html});
            events.push_str(&format!("event: section\ndata: {data}\n\n"));
            self.shown.insert(id, html);
        }
        Some(events)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_pages_together_take_at_most_half_a_core_to_render() {
        for took in [1, 10, 300] {
            let took = Duration::from_millis(took);
            for watched in [1_u32, 10, 32, 96] {
                let share = took.as_secs_f64() / pause(took, watched as usize).as_secs_f64();
                assert!(share * f64::from(watched) <= 0.51, "{watched} at {took:?}");
                assert!(pause(took, watched as usize) >= PAUSE);
            }
        }
    }
}
