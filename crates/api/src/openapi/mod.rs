//! The OpenAPI description of every route, made from the table of routes: a route without a description does not compile.

mod schemas;

use crate::routes::{Access, Endpoint, Need, ROUTES, Route};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

/// What one route takes and gives.
struct Doc {
    /// Name of the operation.
    id: &'static str,
    summary: &'static str,
    /// Schema of the body, and whether there must be one.
    body: Option<(&'static str, bool)>,
    /// Media types and schemas of a good answer.
    gives: &'static [(&'static str, &'static str)],
}

const JSON: &str = "application/json";
const EVENTS: &str = "text/event-stream";

const fn doc(
    id: &'static str,
    summary: &'static str,
    gives: &'static [(&'static str, &'static str)],
) -> Doc {
    Doc {
        id,
        summary,
        body: None,
        gives,
    }
}

const fn page(id: &'static str, summary: &'static str) -> Doc {
    doc(id, summary, &[("text/html", "Text")])
}

const fn takes(schema: &'static str, required: bool, doc: Doc) -> Doc {
    Doc {
        body: Some((schema, required)),
        ..doc
    }
}

/// Every endpoint's description.
fn describe(endpoint: Endpoint) -> Doc {
    match endpoint {
        Endpoint::Chat => takes(
            "ChatRequest",
            true,
            doc(
                "createChatCompletion",
                "Answers a conversation; one paid call.",
                &[(JSON, "ChatCompletion"), (EVENTS, "Events")],
            ),
        ),
        Endpoint::Completions => takes(
            "CompletionRequest",
            true,
            doc(
                "createCompletion",
                "Continues a text; one paid call.",
                &[(JSON, "Completion"), (EVENTS, "Events")],
            ),
        ),
        Endpoint::Embeddings => takes(
            "EmbeddingRequest",
            true,
            doc(
                "createEmbedding",
                "Makes vectors of texts; one paid call.",
                &[(JSON, "EmbeddingList")],
            ),
        ),
        Endpoint::CreateKey => takes(
            "NewKey",
            true,
            doc(
                "createKey",
                "Makes an API key; its secret is shown once.",
                &[(JSON, "IssuedKey")],
            ),
        ),
        Endpoint::RotateKey => takes(
            "Rotation",
            false,
            doc(
                "rotateKey",
                "Gives a key another secret.",
                &[(JSON, "IssuedKey")],
            ),
        ),
        Endpoint::SignIn => takes(
            "SignIn",
            true,
            doc(
                "signIn",
                "Opens a session for the account that signed a message of EIP-4361.",
                &[(JSON, "Session")],
            ),
        ),
        other => describe_read(other),
    }
}

/// Endpoints that take no body.
fn describe_read(endpoint: Endpoint) -> Doc {
    match endpoint {
        Endpoint::Chat
        | Endpoint::Completions
        | Endpoint::Embeddings
        | Endpoint::CreateKey
        | Endpoint::RotateKey
        | Endpoint::SignIn => describe(endpoint),
        Endpoint::Keys => doc("listKeys", "The account's API keys.", &[(JSON, "KeyList")]),
        Endpoint::OwnKey => doc(
            "getOwnKey",
            "The key that asks, with what it spent.",
            &[(JSON, "Key")],
        ),
        Endpoint::Key => doc("getKey", "One API key of the account.", &[(JSON, "Key")]),
        Endpoint::RevokeKey => doc(
            "revokeKey",
            "Refuses an API key from now on.",
            &[(JSON, "Key")],
        ),
        Endpoint::OpenApi => doc("getDescription", "This description.", &[(JSON, "Object")]),
        Endpoint::Models => doc(
            "listModels",
            "Models that are routed now.",
            &[(JSON, "ModelList")],
        ),
        Endpoint::Model => doc("retrieveModel", "One model.", &[(JSON, "Model")]),
        Endpoint::Receipt => doc(
            "getReceipt",
            "A job's signed receipt.",
            &[(JSON, "Receipt")],
        ),
        Endpoint::Explain => doc(
            "explainJob",
            "Why a job's provider was chosen, failed jobs included, and who took it and did not deliver.",
            &[(JSON, "Object")],
        ),
        Endpoint::Limits => doc(
            "getLimits",
            "Bounds on what a request may ask.",
            &[(JSON, "Limits")],
        ),
        Endpoint::Providers => doc("listProviders", "Providers known now.", &[(JSON, "List")]),
        Endpoint::Account => doc("getAccount", "The account's money.", &[(JSON, "Account")]),
        Endpoint::Jobs => doc("listJobs", "The account's jobs.", &[(JSON, "List")]),
        Endpoint::Claims => doc(
            "listClaims",
            "What providers can claim in the vault.",
            &[(JSON, "List")],
        ),
        Endpoint::Health => doc("health", "The process serves.", &[(JSON, "Health")]),
        Endpoint::Ready => doc(
            "ready",
            "Every part that a call needs works.",
            &[(JSON, "Health")],
        ),
        // Pages and the ways to them.
        Endpoint::Login
        | Endpoint::SignInPage
        | Endpoint::SignInNonce
        | Endpoint::SignInMessage
        | Endpoint::SignInScript
        | Endpoint::SignOut
        | Endpoint::Page
        | Endpoint::PageJob
        | Endpoint::PageLive
        | Endpoint::PageVerify
        | Endpoint::PageJobs
        | Endpoint::PageProviders
        | Endpoint::PageProvider
        | Endpoint::PageAudits
        | Endpoint::PageMoney
        | Endpoint::PageKeys
        | Endpoint::PagePerformance
        | Endpoint::PageData
        | Endpoint::PageScript
        | Endpoint::PageStyle => describe_page(endpoint),
    }
}

/// Pages and the ways to them; signing in takes a body.
fn describe_page(endpoint: Endpoint) -> Doc {
    match endpoint {
        Endpoint::Login => doc("login", "Opens the dashboard.", &[("text/html", "Text")]),
        Endpoint::SignInPage => page("signInPage", "The page for signing in with a wallet."),
        Endpoint::SignInNonce => doc(
            "drawSignInNonce",
            "A nonce for a sign-in message (EIP-4361) that the client writes itself.",
            &[(JSON, "SignInNonce")],
        ),
        Endpoint::SignInMessage => doc(
            "composeSignInMessage",
            "A sign-in message (EIP-4361) for an account, ready to be signed.",
            &[(JSON, "SignInMessage")],
        ),
        Endpoint::SignInScript => doc(
            "signInScript",
            "The script of the page for signing in.",
            &[("text/javascript", "Text")],
        ),
        Endpoint::SignOut => doc(
            "signOut",
            "Ends the session of the cookie.",
            &[(JSON, "Session")],
        ),
        Endpoint::Page => doc("dashboard", "The dashboard.", &[("text/html", "Text")]),
        Endpoint::PageJob => doc("dashboardJob", "One job.", &[("text/html", "Text")]),
        Endpoint::PageLive => doc("dashboardLive", "A page, live.", &[(EVENTS, "Text")]),
        Endpoint::PageVerify => page("dashboardVerify", "Checks a receipt file."),
        Endpoint::PageJobs => page("dashboardJobs", "Calls."),
        Endpoint::PageProviders => page("dashboardProviders", "Providers."),
        Endpoint::PageProvider => page("dashboardProvider", "One provider."),
        Endpoint::PageAudits => page("dashboardAudits", "Validators, rulings and slashes."),
        Endpoint::PageMoney => page("dashboardMoney", "Balances, batches and payouts."),
        Endpoint::PageKeys => page("dashboardKeys", "Keys and what they spent."),
        Endpoint::PagePerformance => page("dashboardPerformance", "How calls went."),
        Endpoint::PageData => doc(
            "dashboardData",
            "The dashboard's data.",
            &[(JSON, "Object")],
        ),
        Endpoint::PageScript => doc(
            "dashboardScript",
            "The dashboard's script.",
            &[("text/javascript", "Text")],
        ),
        Endpoint::PageStyle => doc(
            "dashboardStyle",
            "The dashboard's style.",
            &[("text/css", "Text")],
        ),
        Endpoint::Chat
        | Endpoint::Completions
        | Endpoint::Embeddings
        | Endpoint::CreateKey
        | Endpoint::RotateKey
        | Endpoint::SignIn
        | Endpoint::Keys
        | Endpoint::OwnKey
        | Endpoint::Key
        | Endpoint::RevokeKey
        | Endpoint::OpenApi
        | Endpoint::Models
        | Endpoint::Model
        | Endpoint::Receipt
        | Endpoint::Explain
        | Endpoint::Limits
        | Endpoint::Providers
        | Endpoint::Account
        | Endpoint::Jobs
        | Endpoint::Claims
        | Endpoint::Health
        | Endpoint::Ready => describe(endpoint),
    }
}

fn schema(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

/// The table's pattern as OpenAPI writes it.
fn path(pattern: &str) -> String {
    pattern.replace("{*", "{")
}

fn parameters(route: &Route) -> Vec<Value> {
    let pattern = path(route.path);
    let names = pattern
        .split('{')
        .skip(1)
        .filter_map(|rest| rest.split('}').next());
    let mut parameters: Vec<Value> = names
        .map(|name| {
            json!({"name": name, "in": "path", "required": true, "schema": {"type": "string", "minLength": 1}})
        })
        .collect();
    if matches!(
        route.endpoint,
        Endpoint::Chat
            | Endpoint::Completions
            | Endpoint::Embeddings
            | Endpoint::CreateKey
            | Endpoint::RotateKey
    ) {
        parameters.push(json!({
            "name": "Idempotency-Key",
            "in": "header",
            "description": "A request that is sent again with the same key within 24 hours gets the first answer's bytes and is billed once.",
            "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
        }));
    }
    if route.endpoint == Endpoint::Login {
        parameters.push(json!({"name": "token", "in": "query", "schema": {"type": "string"}}));
    }
    if route.endpoint == Endpoint::SignInMessage {
        let address = json!({"type": "string", "pattern": "^0x[0-9a-fA-F]{40}$"});
        parameters
            .push(json!({"name": "address", "in": "query", "required": true, "schema": address}));
        parameters.push(json!({
            "name": "origin",
            "in": "query",
            "description": "What stands in the browser's address bar, without a path; without it `http://` and the request's host.",
            "schema": {"type": "string"},
        }));
    }
    parameters
}

fn operation(route: &Route) -> Value {
    let described = describe(route.endpoint);
    let media = described.gives.iter();
    let content: Map<String, Value> = media
        .map(|(media, name)| ((*media).to_owned(), json!({"schema": schema(name)})))
        .collect();
    let error = json!({"description": "What happened, and what was left unchanged.", "content": {JSON: {"schema": schema("Error")}}});
    let mut responses =
        json!({"200": {"description": "Done.", "content": content}, "default": error});
    if route.endpoint == Endpoint::Ready {
        responses["503"] = json!({"description": "Something is missing.", "content": {JSON: {"schema": schema("Health")}}});
    }
    let security = match route.access {
        Access::Public => json!([]),
        Access::Key => json!([{"bearer": []}, {"header": []}]),
        Access::Page | Access::Operator => json!([{"login": []}]),
    };
    // One endpoint may stand at two paths, an id only once.
    let twin = ROUTES.iter().find(|other| other.endpoint == route.endpoint);
    let second = twin.is_some_and(|first| first.path != route.path);
    let suffix = if second { "Alias" } else { "" };
    let mut operation = json!({
        "operationId": format!("{}{suffix}", described.id),
        "summary": described.summary,
        "security": security,
        "parameters": parameters(route),
        "responses": responses,
    });
    match route.need {
        Need::Scope(scope) if route.access == Access::Key => {
            operation["x-stoa-scope"] = scope.as_str().into();
        }
        Need::Unlimited => operation["x-stoa-scope"] = "none: a key without any limit".into(),
        Need::AnyKey | Need::Scope(_) => {}
    }
    if let Some((name, required)) = described.body {
        operation["requestBody"] =
            json!({"required": required, "content": {JSON: {"schema": schema(name)}}});
    }
    operation
}

/// The description.
pub fn description() -> Value {
    let mut paths = Map::new();
    for route in ROUTES {
        let item = paths.entry(path(route.path)).or_insert_with(|| json!({}));
        item[route.method.as_str().to_ascii_lowercase()] = operation(route);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Stoa",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "An open market hall for AI compute: the OpenAI routes that Stoa serves, and its own.",
            "license": {"name": env!("CARGO_PKG_LICENSE")},
        },
        "paths": paths,
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "header": {"type": "apiKey", "in": "header", "name": "x-api-key"},
                "login": {"type": "apiKey", "in": "cookie", "name": "stoa_session"},
            },
            "schemas": schemas::all(),
        },
    })
}

/// The description as the file in the documentation has it: names in order, whatever order the build gives to the members of values.
pub fn text() -> String {
    let mut description = description();
    description.sort_all_objects();
    let text = serde_json::to_string_pretty(&description);
    text.expect("the description holds only text and numbers") + "\n"
}

pub(crate) async fn serve() -> Response {
    ([(header::CONTENT_TYPE, JSON)], text()).into_response()
}
