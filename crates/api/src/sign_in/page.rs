//! The page on which a person signs in.

use crate::dashboard::{document, page_response};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use maud::html;

pub(crate) async fn page() -> Response {
    let body = html! {
        header.top { a.brand href="/" { "Stoa" } }
        main #main {
            h1 { "Sign in" }
            p {
                "An account that has an allotment, an API key or a registered provider at this router signs in with its wallet and sees what \
                 is its own. The operator opens the link that the router printed when it started."
            }
            p #told role="status" {}
            section aria-labelledby="browser-title" {
                h2 #browser-title { "With the wallet in this browser" }
                p { "It shows a text that names this address and signs it. That costs nothing and moves no money." }
                button #wallet type="button" { "Sign in with a wallet" }
            }
            section aria-labelledby="paste-title" {
                h2 #paste-title { "With a wallet elsewhere" }
                form #ask {
                    label for="account" { "Account" }
                    input #account name="account" required pattern="0x[0-9a-fA-F]{40}" placeholder="0x…" autocomplete="off"
                        spellcheck="false" size="46";
                    button { "Show the text to sign" }
                }
                form #answer hidden {
                    label for="message" { "Sign exactly this text" }
                    textarea #message readonly rows="12" spellcheck="false" {}
                    div.command {
                        code { "cast wallet sign --interactive …" }
                        button #copy type="button" data-copy="" { "Copy" }
                    }
                    label for="signature" { "Signature" }
                    textarea #signature required rows="3" spellcheck="false" autocomplete="off" placeholder="0x…" {}
                    button { "Sign in" }
                }
            }
        }
    };
    page_response(
        StatusCode::OK,
        document("Sign in", Some("/sign-in/page.js"), &body),
    )
}

pub(crate) async fn script() -> impl IntoResponse {
    (
        [(header::CONTENT_TYPE, "text/javascript; charset=utf-8")],
        include_str!("../../assets/sign-in.js"),
    )
}
