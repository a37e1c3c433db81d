//! Who may use what: every route of the table with every credential.

use crate::support::*;
use stoa_api::{Access, ROUTES};

const NO_KEYS: &[&[(&str, &str)]] = &[
    &[],
    &[("authorization", "Bearer wrong")],
    &[("authorization", "Bearer ")],
    &[("authorization", "Bearer")],
    &[("authorization", "a key of alice")],
    &[("authorization", "Basic a key of alice")],
    &[("authorization", "Bearer a key of alic")],
    &[("authorization", "Bearer a key of yesterday")],
    &[("x-api-key", "wrong")],
    &[("cookie", "stoa_00000000=1")],
    &[
        ("authorization", "Bearer a key of alice"),
        ("authorization", "Bearer a key of alice"),
    ],
    &[
        ("authorization", "Bearer wrong"),
        ("x-api-key", "a key of alice"),
    ],
];

#[tokio::test]
async fn no_route_answers_without_its_credential_and_nothing_is_submitted() {
    let server = Server::start(Vec::new()).await;
    for route in ROUTES {
        for headers in NO_KEYS {
            let reply = server
                .send(route.method.as_str(), route.example, headers, b"")
                .await;
            if route.access == Access::Public {
                let expected = match (route.method.as_str(), route.path) {
                    (_, "/login") => 401,
                    ("POST", "/sign-in") | (_, "/sign-in/message") => 400,
                    _ => 200,
                };
                assert_eq!(reply.status, expected, "{} with {headers:?}", route.path);
                continue;
            }
            assert_eq!(
                reply.status, 401,
                "{} {} with {headers:?}",
                route.method, route.path
            );
            let (_, code, retry) = reply.error();
            let revoked = headers.contains(&("authorization", "Bearer a key of yesterday"));
            let revoked = revoked && route.access == Access::Key;
            assert_eq!(
                code,
                if revoked {
                    "key_revoked"
                } else {
                    "invalid_api_key"
                }
            );
            assert!(!retry);
        }
    }
    assert_eq!(server.hall.submissions(), 0);
}

#[tokio::test]
async fn a_key_opens_its_routes_and_no_page() {
    let server = Server::start(Vec::new()).await;
    for route in ROUTES {
        let reply = server
            .send(route.method.as_str(), route.example, &[AUTHORIZED], b"")
            .await;
        match route.access {
            Access::Public => {}
            Access::Key => assert_ne!(reply.status, 401, "{}", route.path),
            Access::Page | Access::Operator => assert_eq!(reply.status, 401, "{}", route.path),
        }
    }
}

#[tokio::test]
async fn a_login_opens_the_pages_and_no_api() {
    let server = Server::start(Vec::new()).await;
    let cookie = login(&server).await;
    for route in rows_and_then_out() {
        let reply = server
            .send(
                route.method.as_str(),
                route.example,
                &[("cookie", &cookie)],
                b"",
            )
            .await;
        match route.access {
            Access::Public => {}
            Access::Key => assert_eq!(reply.status, 401, "{}", route.path),
            Access::Page | Access::Operator => {
                assert!(![401, 403].contains(&reply.status), "{}", route.path);
            }
        }
    }
}

/// All rows, the one that ends the session last.
fn rows_and_then_out() -> Vec<&'static stoa_api::Route> {
    let mut rows: Vec<_> = ROUTES.iter().collect();
    rows.sort_by_key(|route| route.path == "/sign-out");
    rows
}

#[tokio::test]
async fn an_account_s_session_opens_its_pages_and_nothing_of_the_operator_or_the_api() {
    let server = Server::start(Vec::new()).await;
    let cookie = crate::sign_in::cookie_of(&server, "alice").await;
    for route in rows_and_then_out() {
        let headers = [("cookie", cookie.as_str())];
        let reply = server
            .send(route.method.as_str(), route.example, &headers, b"")
            .await;
        let told = format!("{} {}: {}", route.method, route.path, reply.text());
        match route.access {
            Access::Public => {}
            Access::Key => assert_eq!(reply.status, 401, "{told}"),
            // Like a page that is not there.
            Access::Operator => assert_eq!(reply.status, 404, "{told}"),
            Access::Page => {
                // The examples name a job and a provider that nobody has, and an empty receipt file.
                let expected = match route.path {
                    "/dashboard/jobs/{job}" | "/dashboard/providers/{provider}" => 404,
                    // A stream of no page.
                    "/dashboard/live" => 404,
                    "/dashboard/verify" => 400,
                    _ => 200,
                };
                assert_eq!(reply.status, expected, "{told}");
            }
        }
    }
    assert_eq!(server.hall.submissions(), 0);
}

pub async fn login(server: &Server) -> String {
    let reply = server
        .send("GET", &format!("/login?token={LOGIN}"), &[], b"")
        .await;
    assert_eq!(reply.status, 200);
    let cookie = &reply.headers["set-cookie"];
    assert!(
        cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"),
        "{cookie}"
    );
    cookie.split(';').next().expect("a pair").to_owned()
}

#[tokio::test]
async fn only_the_exact_login_token_logs_in() {
    let server = Server::start(Vec::new()).await;
    for query in [
        "",
        "?token=",
        "?token=the-login-toke",
        "?token=the-login-tokenx",
        "?other=the-login-token",
    ] {
        let reply = server
            .send("GET", &format!("/login{query}"), &[], b"")
            .await;
        assert_eq!(reply.status, 401, "{query}");
        assert!(!reply.headers.contains_key("set-cookie"));
    }
}

#[tokio::test]
async fn an_operator_who_came_by_tls_shows_the_cookie_nowhere_else() {
    let server = Server::start(Vec::new()).await;
    let path = format!("/login?token={LOGIN}");
    for (scheme, secure) in [("https", true), ("http", false)] {
        let headers = [("x-forwarded-proto", scheme)];
        let reply = server.send("GET", &path, &headers, b"").await;
        assert_eq!(reply.headers["set-cookie"].contains("; Secure"), secure);
    }
}

#[tokio::test]
async fn x_api_key_is_as_good_as_bearer_and_the_scheme_has_no_case() {
    let server = Server::start(Vec::new()).await;
    for header in [
        ("x-api-key", KEY),
        ("authorization", "bearer a key of alice"),
        AUTHORIZED,
    ] {
        assert_eq!(
            server
                .send("GET", "/v1/models", &[header], b"")
                .await
                .status,
            200
        );
    }
}

#[tokio::test]
async fn an_unknown_path_is_unauthorized_without_a_key_and_unknown_with_one() {
    let server = Server::start(Vec::new()).await;
    for path in [
        "/v2/x",
        "/metrics",
        "/v1/",
        "/v1",
        "/invocations",
        "/v1/chat/completions/",
        "//v1/models",
    ] {
        assert_eq!(
            server.send("GET", path, &[], b"").await.error().0,
            401,
            "{path}"
        );
        assert_eq!(
            server.get(path).await.error(),
            (404, "unknown_url".to_owned(), false),
            "{path}"
        );
    }
}

#[tokio::test]
async fn a_wrong_method_is_told_which_are_right_after_the_credential() {
    let server = Server::start(Vec::new()).await;
    for (method, path, allow) in [
        ("GET", "/v1/chat/completions", "POST"),
        ("DELETE", "/v1/models/stoa/tiny", "GET, HEAD"),
        ("PUT", "/v1/stoa/limits", "GET, HEAD"),
        ("OPTIONS", "/v1/models", "GET, HEAD"),
    ] {
        assert_eq!(server.send(method, path, &[], b"").await.status, 401);
        let reply = server.send(method, path, &[AUTHORIZED], b"").await;
        assert_eq!(
            reply.error(),
            (405, "method_not_allowed".to_owned(), false),
            "{method} {path}"
        );
        assert_eq!(reply.headers["allow"], allow);
    }
}

#[tokio::test]
async fn anothers_job_looks_exactly_like_no_job() {
    let server = Server::start(Vec::new()).await;
    let bob = [("authorization", "Bearer a key of bob")];
    for route in ["/v1/receipts/", "/v1/stoa/receipts/", "/v1/stoa/explain/"] {
        let mine = server.get(&format!("{route}{JOB}")).await;
        assert_eq!(mine.status, 200);
        let foreign = server
            .send("GET", &format!("{route}{JOB}"), &bob, b"")
            .await;
        let absent = server
            .send("GET", &format!("{route}{}", JobId([1; 32])), &bob, b"")
            .await;
        let malformed = server
            .send("GET", &format!("{route}nonsense"), &bob, b"")
            .await;
        let shown = |reply: &Reply| {
            let mut json = reply.json();
            json["error"]["stoa"]["request_id"] = "".into();
            (reply.error(), json)
        };
        assert_eq!(foreign.error(), (404, "not_found".to_owned(), false));
        assert_eq!(shown(&foreign), shown(&absent));
        assert_eq!(shown(&foreign), shown(&malformed));
    }
}

#[tokio::test]
async fn no_error_repeats_a_key_or_a_prompt() {
    let server = Server::start(Vec::new()).await;
    let canary = "canary-5f0c";
    let key = format!("Bearer {canary}");
    let reply = server
        .send(
            "POST",
            "/v1/chat/completions",
            &[("authorization", &key)],
            b"{}",
        )
        .await;
    assert!(!reply.text().contains(canary));
    for content in [
        format!("\"{canary}"),
        format!("{{\"{canary}\""),
        "7".to_owned(),
    ] {
        let body = format!(
            r#"{{"model":"m","messages":[{{"role":"user","content":{content}}}],"x":"{canary}"}}"#
        );
        let reply = server.post("/v1/chat/completions", body.as_bytes()).await;
        assert_eq!(reply.status, 400);
        assert!(!reply.text().contains(canary), "{}", reply.text());
    }
}

use stoa_types::JobId;

#[tokio::test]
async fn routes_are_built_from_the_table_alone() {
    let sources = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src")).expect("readable");
    let mut calls = 0;
    for entry in sources {
        let path = entry.expect("readable").path();
        if path.is_file() {
            calls += std::fs::read_to_string(path)
                .expect("UTF-8")
                .matches(".route(")
                .count();
        }
    }
    assert_eq!(
        calls, 1,
        "the loop over ROUTES is the only place that adds a route"
    );
}
