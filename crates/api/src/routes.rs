//! The one table of routes. The server is built from it, the guard reads its access column, and the test of all credentials walks
//! it: a route that is not here does not exist.

use axum::http::Method;

/// Who may use a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Anyone: reveals no data.
    Public,
    /// The holder of an API key.
    Key,
    /// A browser with the login cookie.
    Page,
}

/// What a route does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Chat,
    Completions,
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
    Page,
    PageLive,
    PageData,
    PageJob,
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
    /// A path that the pattern matches.
    pub example: &'static str,
    pub(crate) endpoint: Endpoint,
}

const fn get(
    path: &'static str,
    access: Access,
    example: &'static str,
    endpoint: Endpoint,
) -> Route {
    Route {
        method: Method::GET,
        path,
        access,
        example,
        endpoint,
    }
}

const fn post(path: &'static str, endpoint: Endpoint) -> Route {
    Route {
        method: Method::POST,
        path,
        access: Access::Key,
        example: path,
        endpoint,
    }
}

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
    post("/v1/chat/completions", Endpoint::Chat),
    post("/v1/completions", Endpoint::Completions),
    get("/v1/models", Access::Key, "/v1/models", Endpoint::Models),
    get(
        "/v1/models/{*id}",
        Access::Key,
        "/v1/models/owner/name",
        Endpoint::Model,
    ),
    get(
        "/v1/receipts/{job}",
        Access::Key,
        nobody!("/v1/receipts/"),
        Endpoint::Receipt,
    ),
    get(
        "/v1/stoa/receipts/{job}",
        Access::Key,
        nobody!("/v1/stoa/receipts/"),
        Endpoint::Receipt,
    ),
    get(
        "/v1/stoa/explain/{job}",
        Access::Key,
        nobody!("/v1/stoa/explain/"),
        Endpoint::Explain,
    ),
    get(
        "/v1/stoa/limits",
        Access::Key,
        "/v1/stoa/limits",
        Endpoint::Limits,
    ),
    get(
        "/v1/stoa/providers",
        Access::Key,
        "/v1/stoa/providers",
        Endpoint::Providers,
    ),
    get(
        "/v1/stoa/account",
        Access::Key,
        "/v1/stoa/account",
        Endpoint::Account,
    ),
    get(
        "/v1/stoa/jobs",
        Access::Key,
        "/v1/stoa/jobs",
        Endpoint::Jobs,
    ),
    get(
        "/v1/stoa/claims",
        Access::Key,
        "/v1/stoa/claims",
        Endpoint::Claims,
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
    get("/", Access::Page, "/", Endpoint::Page),
    get(
        "/dashboard/live",
        Access::Page,
        "/dashboard/live",
        Endpoint::PageLive,
    ),
    get(
        "/dashboard/data",
        Access::Page,
        "/dashboard/data",
        Endpoint::PageData,
    ),
    get(
        "/dashboard/jobs/{job}",
        Access::Page,
        nobody!("/dashboard/jobs/"),
        Endpoint::PageJob,
    ),
    get(
        "/dashboard/page.js",
        Access::Page,
        "/dashboard/page.js",
        Endpoint::PageScript,
    ),
    get(
        "/dashboard/page.css",
        Access::Page,
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
    fn only_health_and_login_are_public() {
        let public = ROUTES.iter().filter(|route| route.access == Access::Public);
        let paths: Vec<_> = public.map(|route| route.path).collect();
        assert_eq!(paths, ["/health", "/healthz", "/health/ready", "/login"]);
    }
}
