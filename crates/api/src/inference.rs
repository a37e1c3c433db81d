//! `POST /v1/chat/completions`, `POST /v1/completions` and `POST /v1/embeddings`: body in, call, answer out whole or as a stream.

use crate::answer::{Contradiction, Form, Framing, Pieces};
use crate::codec::{ParsedRequest, parse_chat, parse_completion, parse_embeddings};
use crate::error::ApiError;
use crate::guard::{RequestId, may, text_value};
use crate::json::clip;
use crate::keys::Scope;
use crate::port::{Account, Call};
use crate::rates::Taken;
use crate::replay::{self, Keeper, Once, Secret};
use crate::routes::Need;
use crate::server::{App, Timings};
use axum::body::{Body, Bytes};
use axum::extract::{Extension, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use stoa_nodes::client::{Cause, ClientEvent, ClientRequest, Failure, Started};
use stoa_types::{FinishReason, JobId, TokenAmount, TraceParent};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};

/// Events that wait for a slow client before the router is slowed down.
const PIECES_WAITING_MAX: usize = 16;
/// Of a body that is too large, this much is read and thrown away, so that the client sees the answer and not a broken pipe.
const DRAIN_BYTES_MAX: usize = 64 << 20;

/// Chat.
pub(crate) async fn chat(
    State(app): State<Arc<App>>,
    Extension(account): Extension<Account>,
    Extension(secret): Extension<Secret>,
    request: Request,
) -> Result<Response, ApiError> {
    paid(app, account, secret, request, Form::Chat).await
}

/// Text completions.
pub(crate) async fn completions(
    State(app): State<Arc<App>>,
    Extension(account): Extension<Account>,
    Extension(secret): Extension<Secret>,
    request: Request,
) -> Result<Response, ApiError> {
    paid(app, account, secret, request, Form::Completion).await
}

/// Vectors of texts.
pub(crate) async fn embeddings(
    State(app): State<Arc<App>>,
    Extension(account): Extension<Account>,
    Extension(secret): Extension<Secret>,
    request: Request,
) -> Result<Response, ApiError> {
    paid(app, account, secret, request, Form::Embeddings).await
}

async fn paid(
    app: Arc<App>,
    account: Account,
    secret: Secret,
    request: Request,
    form: Form,
) -> Result<Response, ApiError> {
    let header = replay::header_of(request.headers())?;
    let above = trace_parent(request.headers());
    let body = read_body(&app, request).await?;
    let parsed = match form {
        Form::Chat => parse_chat(&body)?,
        Form::Completion => parse_completion(&body)?,
        Form::Embeddings => parse_embeddings(&body)?,
    };
    may(&account, Need::Scope(Scope::Inference))?;
    if !account.grant.allows_model(&parsed.request.model) {
        let what = format!("use the model `{}`", clip(&parsed.request.model, 200));
        return Err(ApiError::KeyScope { what });
    }
    let job = draw_job(&app, &account)?;
    let Some(header) = header else {
        return Ok(answer(app, account, job, form, (parsed, above), None).await);
    };
    let once = Once {
        caller: account.clone(),
        secret,
        route: form.path(),
        header,
        body: *blake3::hash(&body).as_bytes(),
        job,
    };
    let served = app.clone();
    replay::once(&app, once, |keeper| {
        answer(served, account, job, form, (parsed, above), Some(keeper))
    })
    .await
}

/// The client's span, by W3C Trace Context: a header that is none, or stands twice, counts as absent. Its `tracestate` is dropped, which the
/// specification allows: it holds what vendors like, and we would only carry it to strangers.
fn trace_parent(headers: &HeaderMap) -> Option<TraceParent> {
    let mut values = headers.get_all("traceparent").iter();
    let (first, second) = (values.next()?, values.next());
    if second.is_some() {
        return None;
    }
    first.to_str().ok()?.parse().ok()
}

/// A new id for a call.
pub(crate) fn draw_job(app: &App, account: &Account) -> Result<JobId, ApiError> {
    app.gateway.new_job(account).ok_or(ApiError::Internal)
}

/// Takes the call out of what the caller may do in a minute. What the call would be refused for anyway comes first.
fn in_time(app: &App, account: &Account, request: &ClientRequest) -> Result<Taken, ApiError> {
    let limits = app.gateway.limits();
    let asked = request.prompt.vectors().or(request.output_tokens_max);
    let most = asked.unwrap_or(limits.output_tokens_default);
    // A guess at the prompt; what the call used is settled when it is known.
    let guess = request.body_bytes / 4 + u64::from(most.min(limits.output_tokens_max));
    app.rates
        .take(app.rates.caller(account), guess)
        .map_err(|refusal| match app.gateway.would_refuse(account, request) {
            Some(
                cause @ (Cause::UnknownModel { .. }
                | Cause::NoAllotment
                | Cause::AllotmentExpired
                | Cause::CapReached { .. }
                | Cause::BudgetExceeded { .. }),
            ) => ApiError::Failed(Failure::new(cause, TokenAmount::ZERO)),
            _ => refusal,
        })
}

/// The exact bytes of the body.
pub(crate) async fn read_body(app: &App, request: Request) -> Result<Vec<u8>, ApiError> {
    read_body_of(app, request, app.gateway.limits().body_bytes_max).await
}

/// The exact bytes of a body of at most `limit` bytes.
pub(crate) async fn read_body_of(
    app: &App,
    request: Request,
    limit: u64,
) -> Result<Vec<u8>, ApiError> {
    check_media_type(request.headers())?;
    let declared = body_length(request.headers());
    if declared.is_some_and(|length| length > limit)
        && request.headers().contains_key(header::EXPECT)
    {
        // The client waits for a word before it uploads.
        return Err(ApiError::TooLarge { limit });
    }
    let mut body = request.into_body().into_data_stream();
    let mut bytes = Vec::new();
    let until = Instant::now() + app.timings.upload;
    let slow = ApiError::UploadTimeout {
        seconds: app.timings.upload.as_secs(),
    };
    while let Some(piece) = timeout_at(until, body.next())
        .await
        .map_err(|_| slow.clone())?
    {
        let Ok(piece) = piece else {
            return Err(ApiError::NotJson {
                reason: "the connection broke off inside it".to_owned(),
            });
        };
        if (bytes.len() + piece.len()) as u64 > limit {
            let mut thrown_away = 0;
            while let Ok(Some(Ok(piece))) = timeout_at(until, body.next()).await {
                thrown_away += piece.len();
                if thrown_away > DRAIN_BYTES_MAX {
                    break;
                }
            }
            return Err(ApiError::TooLarge { limit });
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

fn body_length(headers: &HeaderMap) -> Option<u64> {
    headers
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

/// JSON, or what tools send when nobody told them that it is JSON (`curl -d`). Forms with parts and encoded bodies are refused.
fn check_media_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let text = |name| {
        let value: Option<&HeaderValue> = headers.get(name);
        value.map(|value| {
            String::from_utf8_lossy(value.as_bytes())
                .trim()
                .to_ascii_lowercase()
        })
    };
    if let Some(found) = text(header::CONTENT_ENCODING).filter(|found| found != "identity") {
        return Err(ApiError::MediaType {
            found: clip(&found, 64),
        });
    }
    let Some(found) = text(header::CONTENT_TYPE) else {
        return Ok(());
    };
    let kind = found.split(';').next().unwrap_or_default().trim();
    let plain = [
        "",
        "application/json",
        "text/json",
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/octet-stream",
    ];
    if plain.contains(&kind) || kind.ends_with("+json") {
        return Ok(());
    }
    Err(ApiError::MediaType {
        found: clip(&found, 64),
    })
}

async fn answer(
    app: Arc<App>,
    account: Account,
    job: JobId,
    form: Form,
    (parsed, above): (ParsedRequest, Option<TraceParent>),
    keeper: Option<Arc<Keeper>>,
) -> Response {
    let ParsedRequest {
        request,
        delivery,
        ignored,
    } = parsed;
    let taken = match in_time(&app, &account, &request) {
        Ok(taken) => taken,
        Err(error) => return error.into_response(),
    };
    let (model, stream) = (request.model.clone(), delivery.stream);
    let call = app.gateway.submit(&account, job, request, above);
    let framing = Framing {
        form,
        job: call.job,
        created: now_secs(),
        model,
        delivery,
        ignored,
    };
    if stream {
        streamed(app.timings, call, framing, (taken, keeper)).await
    } else {
        whole(call, &framing, taken, keeper).await
    }
}

/// What a finished call used; nothing of a failed one that cost nothing.
fn settle(taken: &mut Option<Taken>, event: &ClientEvent) {
    let used = match event {
        ClientEvent::Done(done) => done
            .content
            .input_units
            .saturating_add(done.content.output_units),
        ClientEvent::Failed(failure) if failure.billed.is_zero() => 0,
        _ => return,
    };
    if let Some(taken) = taken.take() {
        taken.settle(used);
    }
}

fn now_secs() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

fn ended_without_a_result() -> Failure {
    Failure::new(Cause::Internal, TokenAmount::ZERO)
}

/// An error of a call: it carries the call's id.
fn failed(form: Form, job: JobId, failure: Failure) -> Response {
    let mut response = form.error(failure).into_response();
    response.extensions_mut().insert(RequestId(job));
    response.headers_mut().extend(job_headers(job, None));
    response
}

async fn whole(
    mut call: Call,
    framing: &Framing,
    taken: Taken,
    keeper: Option<Arc<Keeper>>,
) -> Response {
    let (mut tokens, mut taken) = (0, Some(taken));
    let mut likely = Vec::new();
    // What was kept before the charge is what is sent after it.
    let mut kept = None;
    while let Some(event) = call.events.recv().await {
        settle(&mut taken, &event);
        match event {
            ClientEvent::Started(_) => {}
            ClientEvent::Delta {
                tokens: more,
                logprobs,
                ..
            } => {
                tokens += u64::from(more);
                likely.extend(logprobs);
            }
            // The client still waits: it gets all of it at once, with the receipt.
            ClientEvent::Complete(done) => {
                if let Some(keeper) = &keeper {
                    let body = framing.whole(&done, &likely).map(Bytes::from);
                    if let Ok(body) = &body {
                        let headers = whole_headers(call.job, &done.started);
                        keeper.prepare(&headers, body).await;
                    }
                    kept = Some(body);
                }
                call.client.deliver(tokens);
            }
            ClientEvent::Done(done) => {
                call.client.disarm();
                let headers = whole_headers(call.job, &done.started);
                let body = kept.unwrap_or_else(|| framing.whole(&done, &likely).map(Bytes::from));
                let Ok(body) = body else {
                    tracing::error!(job = %call.job, "the text of an answer is no vectors");
                    let billed = done.receipt.receipt.charge;
                    let cause = Cause::Internal;
                    return failed(framing.form, call.job, Failure::new(cause, billed));
                };
                return respond(call.job, headers, Body::from(body));
            }
            ClientEvent::Failed(failure) => {
                call.client.disarm();
                return failed(framing.form, call.job, failure);
            }
        }
    }
    failed(framing.form, call.job, ended_without_a_result())
}

fn whole_headers(job: JobId, started: &Started) -> HeaderMap {
    let mut headers = job_headers(job, Some(started));
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    headers
}

/// No status before the first event: until then every failure is an HTTP error with its true status.
async fn streamed(
    timings: Timings,
    mut call: Call,
    framing: Framing,
    (taken, keeper): (Taken, Option<Arc<Keeper>>),
) -> Response {
    let mut taken = Some(taken);
    let first = timeout(timings.header_hold, call.events.recv()).await.ok();
    let started = match &first {
        Some(None) => return failed(framing.form, call.job, ended_without_a_result()),
        Some(Some(ClientEvent::Failed(failure))) => {
            call.client.disarm();
            settle(&mut taken, &ClientEvent::Failed(failure.clone()));
            return failed(framing.form, call.job, failure.clone());
        }
        Some(Some(ClientEvent::Started(started))) => Some(started.clone()),
        Some(Some(ClientEvent::Done(done))) => Some(done.started.clone()),
        Some(Some(ClientEvent::Complete(done))) => Some(done.started.clone()),
        Some(Some(ClientEvent::Delta { .. })) | None => None,
    };
    let mut headers = job_headers(call.job, started.as_ref());
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/event-stream"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(
        HeaderName::from_static("x-accel-buffering"),
        HeaderValue::from_static("no"),
    );
    let (out, pieces) = mpsc::channel(PIECES_WAITING_MAX);
    let (job, written) = (call.job, call.client.written().clone());
    let pump = Pump {
        call,
        out,
        timings,
        form: framing.form,
        pieces: Pieces::new(framing),
        transcript: keeper.map(|keeper| Transcript {
            keeper,
            headers: headers.clone(),
            said: Vec::new(),
        }),
        ending: None,
        unwritten: 0,
        told: 0,
        taken,
    };
    tokio::spawn(pump.run(first.flatten()));
    // A piece counts as written when the connection takes it, which it does only while its own small buffer has room.
    let body = stream::unfold((pieces, written), |(mut pieces, written)| async move {
        let piece: Piece = pieces.recv().await?;
        written.add(piece.tokens);
        Some((Ok::<_, Infallible>(piece.bytes), (pieces, written)))
    });
    respond(job, headers, Body::from_stream(body))
}

/// Bytes of a stream and the tokens that the client has got with them.
struct Piece {
    bytes: Bytes,
    tokens: u64,
}

/// Carries one call's events to one client. Ends when the call ends, the client goes, or the client takes nothing for too long;
/// in the last two cases dropping the call cancels it.
struct Pump {
    call: Call,
    out: mpsc::Sender<Piece>,
    timings: Timings,
    pieces: Pieces,
    /// All that was said, where the answer is to be kept.
    transcript: Option<Transcript>,
    /// What ends the answer, once all text was told.
    ending: Option<Result<Vec<String>, Contradiction>>,
    /// Tokens without text so far, for example half a character: they count with the next text.
    unwritten: u64,
    /// All tokens so far.
    told: u64,
    form: Form,
    /// What the call took of what the caller may do in a minute.
    taken: Option<Taken>,
}

/// A stream as it is kept for whoever sends the request again.
struct Transcript {
    keeper: Arc<Keeper>,
    headers: HeaderMap,
    said: Vec<u8>,
}

impl Transcript {
    /// With what will end it.
    async fn prepare(self, ending: &[String]) {
        let mut body = self.said;
        for piece in ending {
            body.extend_from_slice(data(piece).as_bytes());
        }
        body.extend_from_slice(replay::DONE);
        self.keeper.prepare(&self.headers, &body).await;
    }
}

/// One event of a stream.
fn data(piece: &str) -> String {
    format!("data: {piece}\n\n")
}

/// The client is gone or takes nothing.
struct ClientLost;

impl Pump {
    async fn run(mut self, first: Option<ClientEvent>) {
        if self.carry(first).await.is_err() {
            metrics::counter!("stoa_api_clients_lost_total").increment(1);
        }
    }

    async fn carry(&mut self, first: Option<ClientEvent>) -> Result<(), ClientLost> {
        if let Some(event) = first
            && self.handle(event).await?
        {
            return Ok(());
        }
        loop {
            let event = tokio::select! {
                () = self.out.closed() => return Err(ClientLost),
                event = timeout(self.timings.keep_alive, self.call.events.recv()) => event,
            };
            match event {
                Err(_silence) => self.send(": keep-alive\n\n".to_owned(), 0).await?,
                Ok(Some(event)) => {
                    if self.handle(event).await? {
                        return Ok(());
                    }
                }
                Ok(None) => return self.fail(ended_without_a_result()).await,
            }
        }
    }

    /// `true` when the call is over.
    async fn handle(&mut self, event: ClientEvent) -> Result<bool, ClientLost> {
        settle(&mut self.taken, &event);
        match event {
            ClientEvent::Started(started) => {
                self.pieces.start(&started);
                Ok(false)
            }
            ClientEvent::Delta {
                text,
                tokens,
                logprobs,
            } => {
                self.told += u64::from(tokens);
                self.unwritten += u64::from(tokens);
                let mut pieces = self.pieces.text(&text, logprobs);
                let last = pieces.pop();
                self.send_data(pieces).await?;
                if let Some(piece) = last {
                    let tokens = std::mem::take(&mut self.unwritten);
                    self.send(data(&piece), tokens).await?;
                }
                Ok(false)
            }
            ClientEvent::Complete(done) => {
                self.all_taken().await?;
                let ending = self.pieces.finish(&done);
                if let (Some(transcript), Ok(pieces)) = (self.transcript.take(), &ending) {
                    transcript.prepare(pieces).await;
                }
                self.ending = Some(ending);
                self.call.client.deliver(self.told);
                Ok(false)
            }
            ClientEvent::Done(done) if done.content.finish_reason == FinishReason::Cancelled => {
                // The router cut it off: its queue was full.
                self.call.client.disarm();
                let billed = done.receipt.receipt.charge;
                let cause = Cause::ClientTooSlow;
                self.fail(Failure::new(cause, billed)).await?;
                Ok(true)
            }
            ClientEvent::Done(done) => {
                self.call.client.disarm();
                let ending = self.ending.take();
                let Ok(pieces) = ending.unwrap_or_else(|| self.pieces.finish(&done)) else {
                    tracing::error!(job = %self.call.job, "the streamed text is no beginning of the final text");
                    let billed = done.receipt.receipt.charge;
                    self.fail(Failure::new(Cause::Internal, billed)).await?;
                    return Ok(true);
                };
                self.send_data(pieces).await?;
                self.send(String::from_utf8_lossy(replay::DONE).into_owned(), 0)
                    .await?;
                Ok(true)
            }
            ClientEvent::Failed(failure) => {
                self.call.client.disarm();
                self.fail(failure).await?;
                Ok(true)
            }
        }
    }

    /// One error event and no `[DONE]`: nobody may take the stream for complete.
    async fn fail(&mut self, failure: Failure) -> Result<(), ClientLost> {
        let error = self.form.error(failure);
        let row = error.row();
        metrics::counter!("stoa_api_stream_errors_total", "code" => row.code, "cause" => row.cause)
            .increment(1);
        self.send(data(&error.stream_data(self.call.job)), 0).await
    }

    async fn send_data(&mut self, pieces: Vec<String>) -> Result<(), ClientLost> {
        for piece in pieces {
            self.send(data(&piece), 0).await?;
        }
        Ok(())
    }

    async fn send(&mut self, text: String, tokens: u64) -> Result<(), ClientLost> {
        // Comments keep a silent connection alive; they are no part of the answer.
        if let Some(transcript) = self.transcript.as_mut().filter(|_| !text.starts_with(':')) {
            transcript.said.extend_from_slice(text.as_bytes());
        }
        let bytes = Bytes::from(text);
        let piece = Piece { bytes, tokens };
        let sent = self.out.send_timeout(piece, self.timings.slow_reader);
        sent.await.map_err(|_| ClientLost)
    }

    /// Waits until the connection has taken every piece.
    async fn all_taken(&mut self) -> Result<(), ClientLost> {
        let room = self.out.reserve_many(PIECES_WAITING_MAX);
        match timeout(self.timings.slow_reader, room).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(ClientLost),
        }
    }
}

fn respond(job: JobId, headers: HeaderMap, body: Body) -> Response {
    let mut response = (headers, body).into_response();
    response.extensions_mut().insert(RequestId(job));
    response
}

/// Headers of a call, as far as they are known when they leave.
fn job_headers(job: JobId, started: Option<&Started>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(HeaderName::from_static("x-stoa-job"), text_value(job));
    headers.insert(
        HeaderName::from_static("x-stoa-receipt-id"),
        text_value(job),
    );
    if let Some(started) = started {
        headers.insert(
            HeaderName::from_static("x-stoa-provider"),
            text_value(started.provider),
        );
        headers.insert(
            HeaderName::from_static("x-stoa-tier"),
            text_value(started.tier),
        );
        headers.insert(
            HeaderName::from_static("x-stoa-failovers"),
            text_value(started.failovers),
        );
    }
    headers
}
