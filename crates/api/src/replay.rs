//! `Idempotency-Key`: a request that is sent again gets the bytes of the first answer and is billed once (design: API 6.3).
//!
//! A request with the header runs to its end beside its client, into a [`Recording`] that the client, and whoever sends the same
//! request meanwhile, reads from: a broken connection costs nothing but the wait. Before anything is ordered the claim on the header
//! is on disk; before the call is charged, so is the answer, sealed under a key that follows from the API key and the header
//! (DECISIONS 29). What is kept before the charge is an answer once the call is charged, and nothing where it never is.

use crate::error::{ApiError, unavailable};
use crate::guard::RequestId;
use crate::info::documents;
use crate::port::{Account, Fate, Gateway};
use crate::server::App;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use stoa_nodes::client::KeyId;
use stoa_types::{Address, JobId};
use tokio::sync::watch;

/// Longest header.
const HEADER_MAX: usize = 255;
/// Largest answer that is recorded. Vectors written as numbers are the longest answers: 6 MiB of base64 are less than 20 MiB of numbers.
const RECORDED_MAX: usize = 20 << 20;
/// Recordings at once.
const RECORDINGS_MAX: usize = 256;
pub(crate) const DONE: &[u8] = b"data: [DONE]\n\n";

/// Whether so long an answer can be kept, asked before any of it is said to be delivered.
pub(crate) fn check_length(bytes: usize) -> Result<(), ApiError> {
    if bytes <= RECORDED_MAX {
        return Ok(());
    }
    Err(too_long(Vec::new()))
}

/// An answer that cannot be kept. Of choices that had begun, what was written is billed.
pub(crate) fn too_long(begun: Vec<JobId>) -> ApiError {
    ApiError::AnswerTooLong {
        most: RECORDED_MAX,
        begun,
    }
}

/// Names one header of one account on one route. Nothing about it can be read off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReplayId(pub [u8; 32]);

/// Which request a header stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// Who asked.
    pub account: Address,
    /// With which key.
    pub key: KeyId,
    /// BLAKE3 of the body.
    pub body: [u8; 32],
    /// The call.
    pub job: JobId,
}

/// What is kept under a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// The request began; no answer is there.
    Claimed(Claim),
    /// The sealed answer that the call has when it is charged.
    Prepared(Claim, Vec<u8>),
    /// The sealed answer.
    Answered(Claim, Vec<u8>),
}

/// Why an answer cannot be kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplayFault {
    /// There is no room.
    #[error(
        "it keeps as many answers for Idempotency-Keys as it can; send the request without one, or later"
    )]
    Full,
    /// The disk failed.
    #[error("answers for Idempotency-Keys cannot be kept: {0}")]
    Disk(String),
}

/// Keeps claims and sealed answers for 24 hours, bounded. Every method may take as long as the disk does.
pub trait ReplayStore: Send + Sync {
    /// What is kept.
    fn find(&self, id: ReplayId) -> Result<Option<Kept>, ReplayFault>;
    /// Keeps a claim, on disk when this returns. What stood there before is gone.
    fn claim(&self, id: ReplayId, claim: &Claim) -> Result<(), ReplayFault>;
    /// Keeps the answer that a claim has once its job is charged, on disk when this returns.
    fn prepare(&self, id: ReplayId, claim: &Claim, sealed: &[u8]) -> Result<(), ReplayFault>;
    /// Keeps the answer of a claim, on disk when this returns.
    fn answer(&self, id: ReplayId, claim: &Claim, sealed: &[u8]) -> Result<(), ReplayFault>;
    /// Keeps nothing any more.
    fn forget(&self, id: ReplayId);
}

/// What a caller's replays are sealed with: follows from its API key.
#[derive(Clone, Copy)]
pub(crate) struct Secret([u8; 32]);

impl Secret {
    pub(crate) fn of(key: &str) -> Self {
        Self(blake3::derive_key(
            "stoa 2026 secret of an api key for replays v1",
            key.as_bytes(),
        ))
    }
}

/// The header of a request, if it has one.
pub(crate) fn header_of(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let mut values = headers.get_all("idempotency-key").iter();
    let (first, second) = (values.next(), values.next());
    let Some(value) = first else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or_default();
    if second.is_some() || text.is_empty() || text.len() > HEADER_MAX {
        return Err(ApiError::Invalid {
            param: "Idempotency-Key".to_owned(),
            reason: format!("must stand once, with 1 to {HEADER_MAX} ASCII characters"),
        });
    }
    Ok(Some(text.to_owned()))
}

/// A request with the header.
pub(crate) struct Once {
    pub(crate) caller: Account,
    pub(crate) secret: Secret,
    pub(crate) route: &'static str,
    pub(crate) header: String,
    pub(crate) body: [u8; 32],
    pub(crate) job: JobId,
    /// How many choices it asks for: what became of it is what became of all.
    pub(crate) choices: u32,
}

impl Once {
    fn id(&self) -> ReplayId {
        let mut hasher = blake3::Hasher::new_derive_key("stoa 2026 idempotency key v1");
        hasher.update(&self.caller.address.0);
        for part in [self.route, &self.header] {
            hasher.update(&(part.len() as u64).to_be_bytes());
            hasher.update(part.as_bytes());
        }
        ReplayId(*hasher.finalize().as_bytes())
    }

    fn claim(&self) -> Claim {
        Claim {
            account: self.caller.address,
            key: self.caller.key,
            body: self.body,
            job: self.job,
        }
    }

    fn seal(&self) -> Seal {
        let material = [&self.secret.0, self.header.as_bytes()].concat();
        let key = blake3::derive_key("stoa 2026 sealed replay v1", &material);
        Seal { key, id: self.id() }
    }

    fn keeper(&self, app: &Arc<App>) -> Arc<Keeper> {
        Arc::new(Keeper {
            app: app.clone(),
            id: self.id(),
            seal: self.seal(),
            claim: self.claim(),
            choices: self.choices,
            prepared: Mutex::default(),
        })
    }
}

/// Encrypts what is kept. The key is as good as the API key; the nonce is random.
struct Seal {
    key: [u8; 32],
    id: ReplayId,
}

impl Seal {
    fn cipher(&self) -> LessSafeKey {
        let key = UnboundKey::new(&AES_256_GCM, &self.key);
        LessSafeKey::new(key.expect("the key has the cipher's length"))
    }

    /// `None` when the system has no random bytes.
    fn close(&self, mut text: Vec<u8>) -> Option<Vec<u8>> {
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).ok()?;
        let aad = Aad::from(self.id.0);
        self.cipher()
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut text)
            .ok()?;
        Some([nonce.as_slice(), &text].concat())
    }

    /// `None` when it was sealed with another API key, or is damaged.
    fn open(&self, sealed: &[u8]) -> Option<Answer> {
        let (nonce, text) = sealed.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut text = text.to_vec();
        let aad = Aad::from(self.id.0);
        let text = self.cipher().open_in_place(nonce, aad, &mut text).ok()?;
        Answer::from_bytes(text)
    }
}

/// A whole answer.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Answer {
    head: Head,
    body: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Head {
    status: StatusCode,
    headers: HeaderMap,
    request: JobId,
}

impl Head {
    /// An answer as it is kept.
    fn with(&self, body: &[u8]) -> Vec<u8> {
        let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let headers = self.headers.iter();
        let headers: Vec<_> = headers
            .map(|(name, value)| (name.as_str(), text(value)))
            .collect();
        let head = (self.status.as_u16(), self.request, headers);
        let mut bytes = serde_json::to_vec(&head).expect("headers are text");
        bytes.push(b'\n');
        bytes.extend_from_slice(body);
        bytes
    }
}

impl Answer {
    fn to_bytes(&self) -> Vec<u8> {
        self.head.with(&self.body)
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let end = bytes.iter().position(|byte| *byte == b'\n')?;
        let (status, request, pairs): (u16, JobId, Vec<(String, String)>) =
            serde_json::from_slice(&bytes[..end]).ok()?;
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(
                HeaderName::from_bytes(name.as_bytes()).ok()?,
                HeaderValue::from_str(&value).ok()?,
            );
        }
        Some(Self {
            head: Head {
                status: StatusCode::from_u16(status).ok()?,
                headers,
                request,
            },
            body: bytes[end + 1..].to_vec(),
        })
    }
}

/// An answer as far as it is there; whoever asked reads along.
#[derive(Debug)]
struct Recording {
    claim: Claim,
    state: watch::Sender<State>,
}

#[derive(Debug, Default)]
struct State {
    head: Option<Head>,
    pieces: Vec<Bytes>,
    end: Option<End>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Whole,
    BrokenOff,
}

/// Requests with the header that are under way.
#[derive(Debug, Default)]
pub(crate) struct Recordings(Mutex<HashMap<ReplayId, Arc<Recording>>>);

impl Recordings {
    fn open(&self) -> MutexGuard<'_, HashMap<ReplayId, Arc<Recording>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The recording of a header, and whether it begins now.
    fn join(&self, id: ReplayId, claim: Claim) -> Result<(Arc<Recording>, bool), ApiError> {
        let mut open = self.open();
        if let Some(recording) = open.get(&id) {
            same_request(&recording.claim, &claim)?;
            return Ok((recording.clone(), false));
        }
        if open.len() >= RECORDINGS_MAX {
            let reason = "it has as many requests with an Idempotency-Key under way as it can take";
            return Err(unavailable(reason.to_owned()));
        }
        let recording = Arc::new(Recording {
            claim,
            state: watch::Sender::default(),
        });
        open.insert(id, recording.clone());
        Ok((recording, true))
    }
}

fn same_request(known: &Claim, asked: &Claim) -> Result<(), ApiError> {
    if known.body != asked.body {
        return Err(ApiError::IdempotencyMismatch {
            how: "with another body",
            cause: "another_body",
        });
    }
    if known.key != asked.key {
        return Err(another_key());
    }
    Ok(())
}

fn another_key() -> ApiError {
    ApiError::IdempotencyMismatch {
        how: "with another API key of the account, and its answer can be read with that one alone",
        cause: "another_api_key",
    }
}

/// Answers a request with the header: `run` is the request itself and is run at most once for each header.
pub(crate) async fn once<F>(
    app: &Arc<App>,
    once: Once,
    run: impl FnOnce(Arc<Keeper>) -> F,
) -> Result<Response, ApiError>
where
    F: Future<Output = Response> + Send + 'static,
{
    let (recording, first) = app.recordings.join(once.id(), once.claim())?;
    if first {
        let keeper = once.keeper(app);
        let lead = Lead {
            keeper: keeper.clone(),
            recording: recording.clone(),
        };
        tokio::spawn(lead.run(run(keeper)));
    }
    Ok(follow(&recording, !first).await)
}

/// Keeps what becomes of one request.
pub(crate) struct Keeper {
    app: Arc<App>,
    id: ReplayId,
    seal: Seal,
    claim: Claim,
    choices: u32,
    /// BLAKE3 of the answer that was kept before the charge.
    prepared: Mutex<Option<blake3::Hash>>,
}

impl Keeper {
    fn prepared(&self) -> MutexGuard<'_, Option<blake3::Hash>> {
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn on_disk<T: Send + 'static>(
        &self,
        look: impl FnOnce(&dyn ReplayStore) -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        documents(&self.app, move |gateway: &dyn Gateway| {
            look(gateway.replays())
        })
        .await
    }

    /// The answer that is kept; `None` after the claim is on disk.
    async fn earlier(&self) -> Result<Option<Answer>, ApiError> {
        let (id, claim) = (self.id, self.claim);
        let unkept = |fault: ReplayFault| unavailable(fault.to_string());
        let kept = self.on_disk(move |kept| kept.find(id)).await?;
        let (known, sealed, is_final) = match kept.map_err(unkept)? {
            None => return self.begin().await,
            Some(Kept::Claimed(known)) => (known, None, false),
            Some(Kept::Prepared(known, sealed)) => (known, Some(sealed), false),
            Some(Kept::Answered(known, sealed)) => (known, Some(sealed), true),
        };
        same_request(&known, &claim)?;
        // The same body asks for as many choices as the first.
        let fate = self.app.gateway.fate(known.job, self.choices);
        match (is_final, fate, sealed) {
            (true, _, Some(sealed)) | (false, Fate::Charged, Some(sealed)) => {
                self.seal.open(&sealed).map(Some).ok_or_else(another_key)
            }
            (_, Fate::Charged, None) => Err(ApiError::IdempotencyLost { job: known.job }),
            (_, Fate::Partly(job), _) => Err(ApiError::IdempotencyLost { job }),
            (_, Fate::UnderWay, _) => Err(ApiError::IdempotencyInProgress { job: known.job }),
            (_, Fate::Nothing, _) => self.begin().await,
        }
    }

    async fn begin(&self) -> Result<Option<Answer>, ApiError> {
        let (id, claim) = (self.id, self.claim);
        let claimed = self.on_disk(move |kept| kept.claim(id, &claim)).await?;
        let unkept = |fault: ReplayFault| unavailable(fault.to_string());
        claimed.map(|()| None).map_err(unkept)
    }

    /// Keeps the answer of a call that is about to be charged: whatever breaks off afterwards, who paid for it finds it.
    pub(crate) async fn prepare(&self, headers: &HeaderMap, body: &[u8]) {
        let head = Head {
            status: StatusCode::OK,
            headers: headers.clone(),
            request: self.claim.job,
        };
        let bytes = head.with(body);
        let hash = blake3::hash(&bytes);
        let (id, claim) = (self.id, self.claim);
        let kept = self.sealed(bytes, move |kept, sealed| kept.prepare(id, &claim, sealed));
        if kept.await {
            *self.prepared() = Some(hash);
        }
    }

    /// Keeps an answer, unless it is the one that was kept before the charge. Where that fails the claim stays: the request will not run
    /// again, and whoever asks hears the truth.
    async fn keep(&self, answer: &Answer) {
        let bytes = answer.to_bytes();
        if *self.prepared() == Some(blake3::hash(&bytes)) {
            return;
        }
        let (id, claim) = (self.id, self.claim);
        self.sealed(bytes, move |kept, sealed| kept.answer(id, &claim, sealed))
            .await;
    }

    /// Whether it was kept.
    async fn sealed(
        &self,
        answer: Vec<u8>,
        keep: impl FnOnce(&dyn ReplayStore, &[u8]) -> Result<(), ReplayFault> + Send + 'static,
    ) -> bool {
        let job = self.claim.job;
        let Some(sealed) = self.seal.close(answer) else {
            tracing::warn!(%job, "an answer was not kept for its Idempotency-Key: no random bytes");
            return false;
        };
        match self.on_disk(move |kept| keep(kept, &sealed)).await {
            Ok(Ok(())) => return true,
            Ok(Err(fault)) => tracing::warn!(%job, %fault, "an answer was not kept"),
            Err(_) => tracing::error!(%job, "keeping an answer broke off"),
        }
        false
    }

    /// A failure that may be tried again is not kept, unless it cost something.
    async fn forget(&self) {
        let id = self.id;
        if self.app.gateway.fate(self.claim.job, self.choices) == Fate::Nothing {
            // Where it cannot be forgotten the claim stays, whose job is not charged: the next request runs.
            let _ = self.on_disk(move |kept| kept.forget(id)).await;
        }
    }
}

/// Carries a request from its claim to its recorded answer. However it ends, nobody waits for it any more.
struct Lead {
    keeper: Arc<Keeper>,
    recording: Arc<Recording>,
}

impl Drop for Lead {
    fn drop(&mut self) {
        self.keeper.app.recordings.open().remove(&self.keeper.id);
        self.recording.state.send_modify(|state| {
            state.end.get_or_insert(End::BrokenOff);
        });
    }
}

impl Lead {
    async fn run(self, run: impl Future<Output = Response>) {
        match self.keeper.earlier().await {
            Err(error) => self.publish(self.rendered(&error)),
            Ok(Some(mut answer)) => {
                mark(&mut answer.head.headers);
                self.publish(answer);
            }
            Ok(None) => self.record(run.await).await,
        }
    }

    fn rendered(&self, error: &ApiError) -> Answer {
        let request = self.recording.claim.job;
        let (parts, body) = error.plain(request);
        let head = Head {
            status: parts.status,
            headers: parts.headers,
            request,
        };
        Answer { head, body }
    }

    async fn record(&self, mut response: Response) {
        let request = response
            .extensions()
            .get::<RequestId>()
            .map_or(self.recording.claim.job, |id| id.0);
        if let Some(error) = response.extensions_mut().remove::<ApiError>() {
            let mut answer = self.rendered(&error);
            answer
                .head
                .headers
                .extend(crate::guard::job_headers_of(response.headers()));
            if error.row().retry_ms.is_none() {
                self.keeper.keep(&answer).await;
            } else {
                self.keeper.forget().await;
            }
            return self.publish(answer);
        }
        let (parts, body) = response.into_parts();
        let head = Head {
            status: parts.status,
            headers: parts.headers,
            request,
        };
        let media = head.headers.get(header::CONTENT_TYPE);
        if media.is_some_and(|media| media == "text/event-stream") {
            return self.record_stream(head, body).await;
        }
        match axum::body::to_bytes(body, RECORDED_MAX).await {
            Ok(body) => {
                let answer = Answer {
                    head,
                    body: body.to_vec(),
                };
                self.keeper.keep(&answer).await;
                self.publish(answer);
            }
            Err(_) => self.publish(self.rendered(&ApiError::Internal)),
        }
    }

    /// Pieces are told as they come; the end is told when all is kept.
    async fn record_stream(&self, head: Head, body: Body) {
        self.recording
            .state
            .send_modify(|state| state.head = Some(head.clone()));
        let mut body = body.into_data_stream();
        let mut kept = Vec::new();
        let mut whole = false;
        while let Some(Ok(piece)) = body.next().await {
            // Comments keep a silent connection alive; they are no part of the answer.
            if !piece.starts_with(b":") {
                kept.extend_from_slice(&piece);
            }
            whole = piece.ends_with(DONE);
            // Whoever tells it ends it before it is longer than what is kept, but for the error that says so.
            if whole && kept.len() <= RECORDED_MAX {
                let answer = Answer {
                    head: head.clone(),
                    body: std::mem::take(&mut kept),
                };
                self.keeper.keep(&answer).await;
            }
            self.recording
                .state
                .send_modify(|state| state.pieces.push(piece));
        }
        // What is broken off here has its connection dropped first, so that its fate is on its way.
        drop(body);
        if !whole {
            self.keeper.forget().await;
        }
        self.recording
            .state
            .send_modify(|state| state.end = Some(End::Whole));
    }

    fn publish(&self, answer: Answer) {
        self.recording.state.send_modify(|state| {
            state.head = Some(answer.head);
            state.pieces = vec![answer.body.into()];
            state.end = Some(End::Whole);
        });
    }
}

fn mark(headers: &mut HeaderMap) {
    headers.insert(
        HeaderName::from_static("x-stoa-idempotent-replay"),
        HeaderValue::from_static("true"),
    );
}

/// The recording as an answer, from its start.
async fn follow(recording: &Recording, attached: bool) -> Response {
    let mut state = recording.state.subscribe();
    let begun = state
        .wait_for(|s| s.head.is_some() || s.end.is_some())
        .await;
    let head = begun.ok().and_then(|state| {
        let body =
            (state.end.is_some() && state.pieces.len() == 1).then(|| state.pieces[0].clone());
        Some((state.head.clone()?, body))
    });
    let Some((head, body)) = head else {
        return ApiError::Internal.into_response();
    };
    let body = match body {
        Some(whole) => Body::from(whole),
        None => Body::from_stream(stream::unfold((state, 0), |(mut state, told)| async move {
            loop {
                {
                    let now = state.borrow_and_update();
                    match (now.pieces.get(told).cloned(), now.end) {
                        (Some(piece), _) => {
                            drop(now);
                            return Some((Ok(piece), (state, told + 1)));
                        }
                        (None, Some(End::Whole)) => return None,
                        (None, Some(End::BrokenOff)) => {
                            drop(now);
                            let broken = io::Error::other("the answer broke off");
                            // One error ends a body.
                            return Some((Err(broken), (state, told)));
                        }
                        (None, None) => {}
                    }
                }
                if state.changed().await.is_err() {
                    return None;
                }
            }
        })),
    };
    let mut headers = head.headers;
    if attached {
        mark(&mut headers);
    }
    let mut response = (head.status, headers, body).into_response();
    response.extensions_mut().insert(RequestId(head.request));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn once_with(key: &str, header: &str) -> Once {
        Once {
            caller: Account {
                address: Address([1; 20]),
                key: KeyId(1),
                grant: Arc::default(),
            },
            secret: Secret::of(key),
            route: "/v1/x",
            header: header.to_owned(),
            body: [2; 32],
            job: JobId([3; 32]),
            choices: 1,
        }
    }

    #[test]
    fn a_kept_answer_opens_with_the_same_key_and_header_alone() {
        let mut headers = HeaderMap::new();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        let answer = Answer {
            head: Head {
                status: StatusCode::OK,
                headers,
                request: JobId([9; 32]),
            },
            body: b"{\"text\":\"secret\"}\n\n".to_vec(),
        };
        let seal = once_with("key", "header").seal();
        let sealed = seal.close(answer.to_bytes()).expect("random bytes");
        assert!(!sealed.windows(6).any(|window| window == b"secret"));
        assert_eq!(seal.open(&sealed), Some(answer.clone()));
        let again = seal.close(answer.to_bytes());
        assert_ne!(again, Some(sealed.clone()), "another nonce");
        for (key, header) in [("kez", "header"), ("key", "headez")] {
            assert_eq!(once_with(key, header).seal().open(&sealed), None);
        }
        for position in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[position] ^= 1;
            assert_eq!(seal.open(&changed), None, "byte {position}");
        }
    }

    #[test]
    fn a_header_is_another_one_on_another_route_or_account() {
        let id = once_with("key", "header").id();
        let mut route = once_with("key", "header");
        route.route = "/v1/y";
        let mut account = once_with("key", "header");
        account.caller.address = Address([2; 20]);
        assert!(route.id() != id && account.id() != id);
        assert_eq!(once_with("another key", "header").id(), id);
    }
}
