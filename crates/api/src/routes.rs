//! The one table of routes. The server is built from it, the guard reads its access column, and the test of all credentials walks
//! it: a route that is not here does not exist.

use crate::keys::{Grant, Scope};
use axum::http::Method;

/// Who may use a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Anyone: reveals no data.
    Public,
    /// The holder of an API key.
    Key,
    /// A browser with the cookie of a session, the operator's or an account's.
    Page,
    /// A browser with the cookie of the operator's session.
    Operator,
}

/// What a key must be good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Any key will do.
    AnyKey,
    /// A group of routes.
    Scope(Scope),
    /// It must be a key without any limit.
    Unlimited,
}

impl Need {
    /// Whether a key of this grant will do.
    pub fn met_by(self, grant: &Grant) -> bool {
        match self {
            Self::AnyKey => true,
            Self::Scope(scope) => grant.allows(scope),
            Self::Unlimited => grant.is_unlimited(),
        }
    }
}

/// What a route does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Chat,
    Completions,
    Embeddings,
    Keys,
    OwnKey,
    Key,
    CreateKey,
    RotateKey,
    RevokeKey,
    OpenApi,
    Models,
    Model,
    Receipt,
    Explain,
    Limits,
    Providers,
    Account,
    Jobs,
    Claims,
    Health,
    Ready,
    Login,
    SignInPage,
    SignIn,
    SignInNonce,
    SignInMessage,
    SignInScript,
    SignOut,
    Page,
    PageJobs,
    PageJob,
    PageProviders,
    PageProvider,
    PageAudits,
    PageMoney,
    PageKeys,
    PagePerformance,
    PageData,
    PageLive,
    PageVerify,
    PageScript,
    PageStyle,
}

/// One row of the table.
#[derive(Debug)]
pub struct Route {
    /// Method; `GET` includes `HEAD`.
    pub method: Method,
    /// Path pattern.
    pub path: &'static str,
    /// Who may use it. All rows of one path agree.
    pub access: Access,
    /// What the key must be good for; without a meaning on routes that take no key.
    pub need: Need,
    /// A path that the pattern matches.
    pub example: &'static str,
    pub(crate) endpoint: Endpoint,
}

impl Route {
    /// Whether an answer of the dashboard is worked out: its script and the way out are not.
    pub(crate) fn costs_work(&self) -> bool {
        !matches!(self.endpoint, Endpoint::PageScript | Endpoint::SignOut)
    }
}

const fn row(
    method: Method,
    path: &'static str,
    (access, need): (Access, Need),
    example: &'static str,
    endpoint: Endpoint,
) -> Route {
    Route {
        method,
        path,
        access,
        need,
        example,
        endpoint,
    }
}

const fn get(
    path: &'static str,
    access: Access,
    example: &'static str,
    endpoint: Endpoint,
) -> Route {
    row(Method::GET, path, (access, Need::AnyKey), example, endpoint)
}

/// `GET` with a key that must be good for `need`.
const fn read(path: &'static str, need: Need, example: &'static str, endpoint: Endpoint) -> Route {
    row(Method::GET, path, (Access::Key, need), example, endpoint)
}

const fn paid(path: &'static str, endpoint: Endpoint) -> Route {
    let access = (Access::Key, Need::Scope(Scope::Inference));
    row(Method::POST, path, access, path, endpoint)
}

const fn page(path: &'static str, endpoint: Endpoint) -> Route {
    get(path, Access::Page, path, endpoint)
}

/// A route that changes keys.
const fn keys(
    method: Method,
    path: &'static str,
    example: &'static str,
    endpoint: Endpoint,
) -> Route {
    row(
        method,
        path,
        (Access::Key, Need::Unlimited),
        example,
        endpoint,
    )
}

const MODELS: Need = Need::Scope(Scope::Models);
const JOBS: Need = Need::Scope(Scope::Jobs);
const ACCOUNT: Need = Need::Scope(Scope::Account);
/// A key id that no key has.
const NO_KEY: &str = "/v1/stoa/keys/key_00000000000000ff";

/// A job id that no job has.
macro_rules! nobody {
    ($prefix:literal) => {
        concat!(
            $prefix,
            "0x00000000000000000000000000000000000000000000000000000000000000ff"
        )
    };
}

/// Every route.
pub const ROUTES: &[Route] = &[
    paid("/v1/chat/completions", Endpoint::Chat),
    paid("/v1/completions", Endpoint::Completions),
    paid("/v1/embeddings", Endpoint::Embeddings),
    read("/v1/models", MODELS, "/v1/models", Endpoint::Models),
    read(
        "/v1/models/{*id}",
        MODELS,
        "/v1/models/owner/name",
        Endpoint::Model,
    ),
    read(
        "/v1/receipts/{job}",
        JOBS,
        nobody!("/v1/receipts/"),
        Endpoint::Receipt,
    ),
    read(
        "/v1/stoa/receipts/{job}",
        JOBS,
        nobody!("/v1/stoa/receipts/"),
        Endpoint::Receipt,
    ),
    read(
        "/v1/stoa/explain/{job}",
        JOBS,
        nobody!("/v1/stoa/explain/"),
        Endpoint::Explain,
    ),
    read(
        "/v1/stoa/limits",
        ACCOUNT,
        "/v1/stoa/limits",
        Endpoint::Limits,
    ),
    read(
        "/v1/stoa/providers",
        ACCOUNT,
        "/v1/stoa/providers",
        Endpoint::Providers,
    ),
    read(
        "/v1/stoa/account",
        ACCOUNT,
        "/v1/stoa/account",
        Endpoint::Account,
    ),
    read("/v1/stoa/jobs", JOBS, "/v1/stoa/jobs", Endpoint::Jobs),
    read(
        "/v1/stoa/claims",
        ACCOUNT,
        "/v1/stoa/claims",
        Endpoint::Claims,
    ),
    keys(
        Method::GET,
        "/v1/stoa/keys",
        "/v1/stoa/keys",
        Endpoint::Keys,
    ),
    keys(
        Method::POST,
        "/v1/stoa/keys",
        "/v1/stoa/keys",
        Endpoint::CreateKey,
    ),
    read(
        "/v1/stoa/keys/self",
        Need::AnyKey,
        "/v1/stoa/keys/self",
        Endpoint::OwnKey,
    ),
    keys(Method::GET, "/v1/stoa/keys/{key}", NO_KEY, Endpoint::Key),
    keys(
        Method::DELETE,
        "/v1/stoa/keys/{key}",
        NO_KEY,
        Endpoint::RevokeKey,
    ),
    keys(
        Method::POST,
        "/v1/stoa/keys/{key}/rotate",
        "/v1/stoa/keys/key_00000000000000ff/rotate",
        Endpoint::RotateKey,
    ),
    read(
        "/openapi.json",
        Need::AnyKey,
        "/openapi.json",
        Endpoint::OpenApi,
    ),
    get("/health", Access::Public, "/health", Endpoint::Health),
    get("/healthz", Access::Public, "/healthz", Endpoint::Health),
    get(
        "/health/ready",
        Access::Public,
        "/health/ready",
        Endpoint::Ready,
    ),
    get("/login", Access::Public, "/login", Endpoint::Login),
    get("/sign-in", Access::Public, "/sign-in", Endpoint::SignInPage),
    row(
        Method::POST,
        "/sign-in",
        (Access::Public, Need::AnyKey),
        "/sign-in",
        Endpoint::SignIn,
    ),
    get(
        "/sign-in/nonce",
        Access::Public,
        "/sign-in/nonce",
        Endpoint::SignInNonce,
    ),
    get(
        "/sign-in/message",
        Access::Public,
        "/sign-in/message",
        Endpoint::SignInMessage,
    ),
    get(
        "/sign-in/page.js",
        Access::Public,
        "/sign-in/page.js",
        Endpoint::SignInScript,
    ),
    row(
        Method::POST,
        "/sign-out",
        (Access::Page, Need::AnyKey),
        "/sign-out",
        Endpoint::SignOut,
    ),
    get("/", Access::Page, "/", Endpoint::Page),
    get(
        "/dashboard/data",
        Access::Page,
        "/dashboard/data",
        Endpoint::PageData,
    ),
    page("/dashboard/live", Endpoint::PageLive),
    row(
        Method::POST,
        "/dashboard/verify",
        (Access::Page, Need::AnyKey),
        "/dashboard/verify",
        Endpoint::PageVerify,
    ),
    page("/dashboard/jobs", Endpoint::PageJobs),
    get(
        "/dashboard/jobs/{job}",
        Access::Page,
        nobody!("/dashboard/jobs/"),
        Endpoint::PageJob,
    ),
    page("/dashboard/providers", Endpoint::PageProviders),
    get(
        "/dashboard/providers/{provider}",
        Access::Page,
        "/dashboard/providers/0x00000000000000000000000000000000000000ff",
        Endpoint::PageProvider,
    ),
    page("/dashboard/audits", Endpoint::PageAudits),
    page("/dashboard/money", Endpoint::PageMoney),
    page("/dashboard/keys", Endpoint::PageKeys),
    get(
        "/dashboard/performance",
        Access::Operator,
        "/dashboard/performance",
        Endpoint::PagePerformance,
    ),
    get(
        "/dashboard/page.js",
        Access::Page,
        "/dashboard/page.js",
        Endpoint::PageScript,
    ),
    get(
        "/dashboard/page.css",
        Access::Public,
        "/dashboard/page.css",
        Endpoint::PageStyle,
    ),
];

/// Access of the path pattern that the server matched; `None` where nothing matched.
pub(crate) fn access(pattern: &str) -> Option<Access> {
    ROUTES
        .iter()
        .find(|route| route.path == pattern)
        .map(|route| route.access)
}

/// The row of a method and a path pattern.
pub(crate) fn route(method: &Method, pattern: &str) -> Option<&'static Route> {
    let method = if method == Method::HEAD {
        &Method::GET
    } else {
        method
    };
    let mut rows = ROUTES.iter().filter(|route| route.path == pattern);
    rows.find(|route| route.method == *method)
}

/// Methods of a path pattern, as an `Allow` header lists them.
pub(crate) fn allow(pattern: &str) -> String {
    let rows = ROUTES.iter().filter(|route| route.path == pattern);
    let names: Vec<_> = rows
        .map(|route| {
            if route.method == Method::GET {
                "GET, HEAD"
            } else {
                route.method.as_str()
            }
        })
        .collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_rows_of_one_path_agree_on_who_may_use_it() {
        for route in ROUTES {
            assert_eq!(access(route.path), Some(route.access), "{}", route.path);
        }
    }

    #[test]
    fn only_health_and_the_ways_in_are_public() {
        let public = ROUTES.iter().filter(|route| route.access == Access::Public);
        let rows: Vec<_> = public.map(|row| (row.method.as_str(), row.path)).collect();
        let expected = [
            ("GET", "/health"),
            ("GET", "/healthz"),
            ("GET", "/health/ready"),
            ("GET", "/login"),
            ("GET", "/sign-in"),
            ("POST", "/sign-in"),
            ("GET", "/sign-in/nonce"),
            ("GET", "/sign-in/message"),
            ("GET", "/sign-in/page.js"),
            ("GET", "/dashboard/page.css"),
        ];
        assert_eq!(rows, expected);
    }
}
