//! The server: state, the router built from the table, and the loop that accepts connections.

use crate::connection;
use crate::error::ApiError;
use crate::keys::RateLimit;
use crate::places::Places;
use crate::port::Gateway;
use crate::rates::{Rates, Unpaid};
use crate::replay::Recordings;
use crate::routes::{Endpoint, ROUTES, allow};
use crate::sessions::Sessions;
use crate::sign_in::{self, Nonces};
use crate::strangers::Strangers;
use crate::visits::Visits;
use crate::{dashboard, guard, inference, info, manage, openapi};
use axum::Router;
use axum::extract::MatchedPath;
use axum::http::{Method, Uri};
use axum::routing::{MethodRouter, delete, get, post};
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use stoa_types::JobId;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tower_http::catch_panic::CatchPanicLayer;

/// How long the server waits for what, and how many connections it has at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timings {
    /// A stream gets its status at the first token, or after this long.
    pub header_hold: Duration,
    /// A silent stream sends a comment this often.
    pub keep_alive: Duration,
    /// A client that takes nothing for this long is cut off and its call is cancelled.
    pub slow_reader: Duration,
    /// A request body must be complete within this.
    pub upload: Duration,
    /// The head of a connection's first request must be complete within this.
    pub first_request: Duration,
    /// A connection without a request under way is closed after this, even while the head of the next one trickles in.
    pub idle: Duration,
    /// Further connections are answered 503 and closed.
    pub connections_max: usize,
}

impl Timings {
    /// What a router uses. Clients wait 600 s for an answer, many proxies 60 s for a header.
    pub const STANDARD: Self = Self {
        header_hold: Duration::from_secs(30),
        keep_alive: Duration::from_secs(15),
        slow_reader: Duration::from_secs(30),
        upload: Duration::from_secs(30),
        first_request: Duration::from_secs(10),
        idle: Duration::from_secs(75),
        // Below the 1,024 files that most systems allow a process.
        connections_max: 800,
    };
}

/// What the server needs besides the router.
#[derive(Clone)]
pub struct ServerConfig {
    /// 32 random bytes, new at every start: request ids and the session cookie follow from them.
    pub seed: [u8; 32],
    /// Secret of the login link `/login?token=…`, new at every start.
    pub login_token: String,
    /// What stands in the address bar of browsers that reach this server, `HOST` or `HOST:PORT` in lower case. A wallet's sign-in is for
    /// one of these and for no other.
    pub hosts: Vec<String>,
    /// Waiting times and the bound on connections.
    pub timings: Timings,
    /// How fast each account may call.
    pub rates: RateLimit,
    /// How many pages, live pages and checks of receipt files an account may ask for in a minute, and at once.
    pub pages_per_minute: u32,
    /// How many requests by key that pay nothing an account may send in a minute, and at once.
    pub reads_per_minute: u32,
}

/// State shared by all handlers.
pub(crate) struct App {
    pub(crate) gateway: Arc<dyn Gateway>,
    pub(crate) timings: Timings,
    pub(crate) sessions: Sessions,
    pub(crate) nonces: Nonces,
    pub(crate) strangers: Strangers,
    pub(crate) hosts: Vec<String>,
    pub(crate) rates: Arc<Rates>,
    pub(crate) recordings: Recordings,
    /// Places for pages that are looked at.
    pub(crate) watchers: Arc<Places>,
    /// What accounts that are signed in may cost.
    pub(crate) visits: Visits,
    /// Told when the server stops: what would go on for ever ends.
    pub(crate) closing: watch::Receiver<bool>,
    seed: [u8; 32],
    requests: AtomicU64,
}

impl App {
    /// Id of a request that has no job.
    pub(crate) fn fresh_id(&self) -> JobId {
        let count = self.requests.fetch_add(1, Ordering::Relaxed);
        JobId(*blake3::keyed_hash(&self.seed, &count.to_be_bytes()).as_bytes())
    }
}

/// The whole HTTP surface over `gateway`.
pub fn app(gateway: Arc<dyn Gateway>, config: ServerConfig) -> Router {
    build(gateway, config, watch::channel(false).1)
}

fn build(
    gateway: Arc<dyn Gateway>,
    config: ServerConfig,
    closing: watch::Receiver<bool>,
) -> Router {
    let unpaid = Unpaid {
        pages: config.pages_per_minute,
        reads: config.reads_per_minute,
    };
    let app = Arc::new(App {
        gateway,
        timings: config.timings,
        sessions: Sessions::new(&config.login_token, &config.seed),
        nonces: Nonces::new(&config.seed),
        strangers: Strangers::default(),
        hosts: config.hosts,
        rates: Arc::new(Rates::new(config.rates, unpaid)),
        recordings: Recordings::default(),
        watchers: Places::new(dashboard::WATCHES),
        visits: Visits::new(),
        closing,
        seed: config.seed,
        requests: AtomicU64::new(0),
    });
    let mut router = Router::new();
    for route in ROUTES {
        router = router.route(route.path, endpoint(route.endpoint));
    }
    router
        .fallback(unknown_url)
        .method_not_allowed_fallback(wrong_method)
        .layer(CatchPanicLayer::custom(guard::panicked))
        .layer(axum::middleware::from_fn_with_state(
            app.clone(),
            guard::guard,
        ))
        .with_state(app)
}

/// Serves until `shutdown` resolves, then finishes what is under way.
pub async fn serve(
    listener: TcpListener,
    gateway: Arc<dyn Gateway>,
    config: ServerConfig,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let (timings, seed) = (config.timings, config.seed);
    let (closing, closed) = watch::channel(false);
    let app = build(gateway, config, closed);
    let shutdown = async move {
        shutdown.await;
        closing.send_replace(true);
        // Kept, so that streams can tell an end from a sender that is gone.
        closing
    };
    connection::serve(listener, app, timings, seed, shutdown).await;
    Ok(())
}

fn endpoint(endpoint: Endpoint) -> MethodRouter<Arc<App>> {
    match endpoint {
        Endpoint::Chat => post(inference::chat),
        Endpoint::Completions => post(inference::completions),
        Endpoint::Embeddings => post(inference::embeddings),
        Endpoint::Keys => get(manage::list),
        Endpoint::OwnKey => get(manage::own),
        Endpoint::Key => get(manage::one),
        Endpoint::CreateKey => post(manage::create),
        Endpoint::RotateKey => post(manage::rotate),
        Endpoint::RevokeKey => delete(manage::revoke),
        Endpoint::OpenApi => get(openapi::serve),
        Endpoint::Models => get(info::models),
        Endpoint::Model => get(info::model),
        Endpoint::Receipt => get(info::receipt),
        Endpoint::Explain => get(info::explain),
        Endpoint::Limits => get(info::limits),
        Endpoint::Providers => get(info::providers),
        Endpoint::Account => get(info::account),
        Endpoint::Jobs => get(info::jobs),
        Endpoint::Claims => get(info::claims),
        Endpoint::Health => get(info::health),
        Endpoint::Ready => get(info::ready),
        Endpoint::Login => get(dashboard::login),
        Endpoint::SignInPage => get(sign_in::page),
        Endpoint::SignIn => post(sign_in::sign_in),
        Endpoint::SignInNonce => get(sign_in::nonce),
        Endpoint::SignInMessage => get(sign_in::compose),
        Endpoint::SignInScript => get(sign_in::script),
        Endpoint::SignOut => post(sign_in::sign_out),
        Endpoint::PageData => get(dashboard::data),
        Endpoint::Page
        | Endpoint::PageJobs
        | Endpoint::PageJob
        | Endpoint::PageProviders
        | Endpoint::PageProvider
        | Endpoint::PageAudits
        | Endpoint::PageMoney
        | Endpoint::PageKeys
        | Endpoint::PagePerformance => get(dashboard::page),
        Endpoint::PageLive => get(dashboard::live),
        Endpoint::PageVerify => post(dashboard::verify),
        Endpoint::PageScript => get(dashboard::script),
        Endpoint::PageStyle => get(dashboard::style),
    }
}

async fn unknown_url(uri: Uri) -> ApiError {
    ApiError::UnknownUrl {
        path: crate::json::clip(uri.path(), 200),
    }
}

async fn wrong_method(method: Method, path: MatchedPath) -> ApiError {
    ApiError::Method {
        method: crate::json::clip(method.as_str(), 32),
        allow: allow(path.as_str()),
    }
}
