//! Signing in to the dashboard with a wallet: EIP-4361.
//!
//! A wallet signs a text that names this server, this network, a nonce of this start and a time. Whoever signed as an account that has
//! something here gets a session that shows this account's things and no more. The signature moves no money: it is over an EIP-191
//! text, which is no transaction and no typed data.

mod message;
mod nonces;
mod page;

pub(crate) use nonces::Nonces;
pub(crate) use page::{page, script};

use crate::calendar;
use crate::codec::parse_sign_in;
use crate::connection::Peer;
use crate::error::ApiError;
use crate::guard::text_value;
use crate::inference::read_body_of;
use crate::info::documents;
use crate::port::Viewer;
use crate::server::App;
use axum::Json;
use axum::extract::{Extension, RawQuery, Request, State};
use axum::http::{HeaderMap, Uri, header};
use axum::response::{IntoResponse, Response};
use message::Message;
use nonces::{Drawn, NonceFault};
use serde_json::{Value, json};
use std::sync::Arc;
use stoa_crypto::{checksummed, personal_digest, recover};
use stoa_types::{Address, Millis, Signature, Timestamp};

/// Largest body of a sign-in.
const BODY_BYTES_MAX: u64 = 16 << 10;
/// How long a session lasts.
const SESSION: Millis = Millis::from_secs(12 * 3_600);
/// How much a wallet's clock may be ahead of ours.
const AHEAD: Millis = Millis::from_secs(60);
/// Where the page is; the address in the messages made here.
const PATH: &str = "/sign-in";

/// Why a sign-in was refused: its word for machines, and the reason.
fn refused(cause: &'static str, reason: impl Into<String>) -> ApiError {
    ApiError::SignIn {
        cause,
        reason: reason.into(),
    }
}

impl From<NonceFault> for ApiError {
    fn from(fault: NonceFault) -> Self {
        let (cause, how) = match fault {
            NonceFault::Unknown => (
                "unknown_nonce",
                "was not drawn here since this router started",
            ),
            NonceFault::Old => ("old_nonce", "was drawn more than ten minutes ago"),
            NonceFault::Used => ("used_nonce", "was used before"),
        };
        refused(
            cause,
            format!("the message's nonce {how}; sign a new message"),
        )
    }
}

/// A nonce for a message that the client writes itself.
pub(crate) async fn nonce(State(app): State<Arc<App>>) -> Json<Value> {
    let board = app.gateway.board();
    let (now, chain_id) = (board.now(), board.chain_id());
    Json(json!({
        "object": "stoa.sign_in_nonce",
        "nonce": app.nonces.draw(now),
        "chain_id": chain_id,
        "expires_at": now.plus(nonces::LIFE).secs(),
    }))
}

/// A message for an account, ready to be signed.
pub(crate) async fn compose(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Json<Value>, ApiError> {
    let query = query.unwrap_or_default();
    let named = |name: &str| {
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
    };
    let invalid = |param: &str, reason: &str| ApiError::Invalid {
        param: param.to_owned(),
        reason: reason.to_owned(),
    };
    let address = named("address").ok_or_else(|| ApiError::Missing {
        param: "address".to_owned(),
    })?;
    let address: Address = address
        .to_ascii_lowercase()
        .parse()
        .map_err(|_| invalid("address", "must be 0x and 40 hexadecimal digits"))?;
    let (scheme, domain) = match named("origin") {
        Some(origin) => origin
            .split_once("://")
            .filter(|(scheme, _)| matches!(*scheme, "http" | "https"))
            .ok_or_else(|| invalid("origin", "must be http://HOST or https://HOST"))?,
        None => ("http", authority(&uri, &headers).unwrap_or_default()),
    };
    known_as(&app, domain)?;
    let board = app.gateway.board();
    let (now, chain_id) = (board.now(), board.chain_id());
    let message = format!(
        "{domain} wants you to sign in with your Ethereum account:\n{}\n\n\
         Sign in to the Stoa dashboard. It shows the calls, keys and money of this account. Signing moves no money.\n\n\
         URI: {scheme}://{domain}{PATH}\nVersion: 1\nChain ID: {chain_id}\nNonce: {}\nIssued At: {}\nExpiration Time: {}",
        checksummed(address),
        app.nonces.draw(now),
        calendar::rfc3339(now),
        calendar::rfc3339(now.plus(SESSION)),
    );
    Ok(Json(json!({
        "object": "stoa.sign_in_message",
        "message": message,
        "expires_at": now.plus(nonces::LIFE).secs(),
    })))
}

/// What the request calls this server.
pub(crate) fn authority<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Option<&'a str> {
    let host = headers.get(header::HOST).and_then(|v| v.to_str().ok());
    // HTTP/2 has it in the address.
    host.or_else(|| uri.authority().map(|authority| authority.as_str()))
}

/// Whether browsers reach this server by that name, going by its settings.
fn known_as(app: &App, domain: &str) -> Result<(), ApiError> {
    if app.hosts.iter().any(|host| host == domain) {
        return Ok(());
    }
    let domain = crate::json::clip(domain, 100);
    Err(refused(
        "wrong_domain",
        format!(
            "this router is not reached as `{domain}`, going by its settings; its operator can add the name to router.hosts. Do not sign \
             this message if you are not sure where you are"
        ),
    ))
}

/// Everything that the text says, against this server and this moment.
fn check(app: &App, message: &Message<'_>, now: Timestamp) -> Result<Drawn, ApiError> {
    known_as(app, message.domain)?;
    let uri = message.uri;
    let scheme = message.scheme.unwrap_or(uri.scheme);
    if uri.authority != Some(message.domain)
        || scheme != uri.scheme
        || !matches!(scheme, "http" | "https")
    {
        let reason = "the message's URI is not one of its domain";
        return Err(refused("wrong_domain", reason));
    }
    let chain_id = app.gateway.board().chain_id();
    if message.chain_id != chain_id {
        let reason = format!(
            "the message is for chain {}, this network's is {chain_id}",
            message.chain_id
        );
        return Err(refused("wrong_chain", reason));
    }
    let nonce = app.nonces.check(message.nonce, now)?;
    let starts = message.not_before.unwrap_or_default();
    if message.issued_at > now.plus(AHEAD) || starts > now {
        let reason = "the message is not valid yet; look at both clocks";
        return Err(refused("not_yet_valid", reason));
    }
    match message.expiration_time {
        Some(end) if end <= now => Err(refused("expired", "the message's time is over")),
        _ => Ok(nonce),
    }
}

/// 65 bytes; wallets write the last one from 0 or from 27.
fn signature(text: &str) -> Result<Signature, ApiError> {
    let digits = text.trim().strip_prefix("0x").unwrap_or_default();
    let mut bytes = [0; 65];
    hex::decode_to_slice(digits, &mut bytes).map_err(|_| ApiError::Invalid {
        param: "signature".to_owned(),
        reason: "must be 0x and 130 hexadecimal digits, as personal_sign gives them".to_owned(),
    })?;
    if bytes[64] < 2 {
        bytes[64] += 27;
    }
    Ok(Signature(bytes))
}

/// Opens a session for whoever signed.
pub(crate) async fn sign_in(
    State(app): State<Arc<App>>,
    peer: Option<Extension<Peer>>,
    request: Request,
) -> Result<Response, ApiError> {
    app.strangers
        .take(peer.map(|Extension(Peer(address))| address))?;
    let body = read_body_of(&app, request, BODY_BYTES_MAX).await?;
    let (text, signed) = parse_sign_in(&body)?;
    let message = Message::parse(&text).map_err(|error| ApiError::Invalid {
        param: "message".to_owned(),
        reason: format!("is not as EIP-4361 has it: {error}"),
    })?;
    let now = app.gateway.board().now();
    let nonce = check(&app, &message, now)?;
    let signer = recover(personal_digest(text.as_bytes()), &signature(&signed)?);
    let account = message.address;
    if signer != Ok(account) {
        let why = signer.map_or_else(
            |error| error.to_string(),
            |signer| format!("it is of {signer}"),
        );
        let reason = format!(
            "the signature is not one of {account} over this message: {why}. Accounts that are contracts (EIP-1271) cannot sign in here"
        );
        return Err(refused("wrong_signature", reason));
    }
    if !documents(&app, move |gateway| gateway.board().knows(account)).await? {
        return Err(ApiError::NothingHere { account });
    }
    app.nonces.use_up(nonce, now)?;
    let end = message.expiration_time.unwrap_or(Timestamp(u64::MAX));
    let until = end.min(now.plus(SESSION));
    let secure = message.uri.scheme == "https";
    let cookie = app
        .sessions
        .begin(Viewer::Account(account), (now, until), secure);
    tracing::info!(%account, "signed in to the dashboard");
    let told = json!({"object": "stoa.session", "account": account, "expires_at": until.secs()});
    Ok(([(header::SET_COOKIE, cookie)], Json(told)).into_response())
}

/// Ends the session of whoever asks, the operator's too.
pub(crate) async fn sign_out(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    let cookie = app.sessions.end(&headers);
    let told = Json(json!({"object": "stoa.session", "account": null}));
    (
        [
            (header::SET_COOKIE, cookie),
            (header::LOCATION, text_value(PATH)),
        ],
        told,
    )
        .into_response()
}
