//! The dashboard shows what it should and runs nothing that strangers wrote.

use crate::access::login;
use crate::support::*;

#[tokio::test]
async fn the_page_shows_jobs_balances_batches_and_providers() {
    let server = Server::start(Vec::new()).await;
    let cookie = login(&server).await;
    for path in ["/", "/dashboard/live"] {
        let reply = server.send("GET", path, &[("cookie", &cookie)], b"").await;
        assert_eq!(reply.status, 200);
        let page = reply.text();
        for part in [
            "Jobs",
            "Balances",
            "Batches",
            "Providers",
            "delivered",
            "41 ms",
            "48.25",
            "posted",
            "60 s",
            "50 %",
        ] {
            assert!(page.contains(part), "{part} is missing from {path}");
        }
        assert!(page.contains(&format!("href=\"/dashboard/jobs/{JOB}\"")));
        assert!(!page.contains("<script>alert"), "a model name is no markup");
        let policy = &reply.headers["content-security-policy"];
        assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"));
    }
}

#[tokio::test]
async fn a_job_page_shows_receipt_and_rationale() {
    let server = Server::start(Vec::new()).await;
    let cookie = login(&server).await;
    let reply = server
        .send(
            "GET",
            &format!("/dashboard/jobs/{JOB}"),
            &[("cookie", &cookie)],
            b"",
        )
        .await;
    assert_eq!(reply.status, 200);
    for part in [
        "candidates",
        "score",
        "provider_signature",
        "model_root",
        "delivered",
        "0.100003",
    ] {
        assert!(reply.text().contains(part), "{part}");
    }
    assert!(!reply.text().contains("<script>alert"));
    let absent = format!("/dashboard/jobs/{}", stoa_types::JobId([1; 32]));
    assert_eq!(
        server
            .send("GET", &absent, &[("cookie", &cookie)], b"")
            .await
            .status,
        404
    );
}

#[tokio::test]
async fn the_data_behind_the_page_is_json() {
    let server = Server::start(Vec::new()).await;
    let cookie = login(&server).await;
    let data = server
        .send("GET", "/dashboard/data", &[("cookie", &cookie)], b"")
        .await
        .json();
    assert_eq!(data["jobs"][0]["ttft_ms"], 41);
    assert_eq!(data["batches"][0]["jobs"][0], JOB.to_string());
    assert_eq!(data["jobs"][0]["state"], "delivered");
}

#[tokio::test]
async fn the_page_loads_nothing_from_elsewhere() {
    let server = Server::start(Vec::new()).await;
    let cookie = login(&server).await;
    for path in ["/", "/dashboard/page.js", "/dashboard/page.css"] {
        let reply = server.send("GET", path, &[("cookie", &cookie)], b"").await;
        assert_eq!(reply.status, 200);
        for foreign in ["http://", "https://", "//cdn", "@import"] {
            assert!(!reply.text().contains(foreign), "{path} names {foreign}");
        }
        assert_eq!(reply.headers["x-content-type-options"], "nosniff");
    }
}
