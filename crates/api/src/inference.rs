//! `POST /v1/chat/completions`, `POST /v1/completions` and `POST /v1/embeddings`: body in, call, answer out whole or as a stream.

use crate::answer::{Answered, Contradiction, Form, Framing, Pieces, sum};
use crate::choices::{Choices, Tally};
use crate::codec::{ParsedRequest, parse_chat, parse_completion, parse_embeddings};
use crate::error::ApiError;
use crate::guard::{RequestId, may, text_value};
use crate::json::clip;
use crate::keys::Scope;
use crate::port::Account;
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
use stoa_nodes::client::{Cause, ClientEvent, ClientRequest, Done, Failure, Started};
use stoa_types::{
    FinishReason, JobId, Logprobs, Receipt, TOP_LOGPROBS_MAX, TokenAmount, TraceParent,
};
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
    check_keepable(&parsed.request)?;
    let once = Once {
        caller: account.clone(),
        secret,
        route: form.path(),
        header,
        body: *blake3::hash(&body).as_bytes(),
        job,
        choices: parsed.request.choices,
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

/// An answer that is kept must not be longer than what is kept: log-probabilities of several choices are no more than one choice may ask for.
fn check_keepable(request: &ClientRequest) -> Result<(), ApiError> {
    let entries = request
        .controls
        .logprobs
        .map_or(0, |top| u32::from(top) + 1);
    let most = (u32::from(TOP_LOGPROBS_MAX) + 1).checked_div(entries);
    match most.filter(|most| request.choices > (*most).max(1)) {
        None => Ok(()),
        Some(most) => Err(ApiError::Invalid {
            param: "n".to_owned(),
            reason: format!(
                "must be at most {most} with an Idempotency-Key and so many log-probabilities: no longer answer can be kept"
            ),
        }),
    }
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
        .take(app.rates.caller(account), request.choices, guess)
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
    let choices = Choices::new(app.gateway.submit(&account, job, request, above));
    let framing = Framing {
        form,
        jobs: choices.jobs(),
        created: now_secs(),
        model,
        delivery,
        ignored,
    };
    let tally = Tally::new(taken, choices.len());
    if stream {
        streamed(app.timings, choices, framing, (tally, keeper)).await
    } else {
        whole(choices, &framing, tally, keeper).await
    }
}

fn now_secs() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// An error of a call: it carries the call's id.
fn failed(request: JobId, error: ApiError) -> Response {
    let mut response = error.into_response();
    response.extensions_mut().insert(RequestId(request));
    response.headers_mut().extend(job_headers(&[request], None));
    response
}

/// One choice of an answer that is sent whole, as far as it is known.
#[derive(Default)]
struct Heard {
    tokens: u64,
    likely: Vec<Logprobs>,
    /// Complete; charged once its call is over.
    done: Option<Arc<Done>>,
}

/// A whole answer: nothing of it is charged before all of it is there.
async fn whole(
    mut choices: Choices,
    framing: &Framing,
    mut tally: Tally,
    keeper: Option<Arc<Keeper>>,
) -> Response {
    let (request, form) = (framing.request(), framing.form);
    let mut heard: Vec<Heard> = framing.jobs.iter().map(|_| Heard::default()).collect();
    // What was kept before the charge is what is sent after it.
    let mut kept = None;
    let (mut charged, mut failure) = (Vec::new(), None);
    while !choices.are_over() {
        let (at, event) = choices.next().await;
        tally.see(&event);
        match event {
            ClientEvent::Started(_) => {}
            ClientEvent::Delta {
                tokens, logprobs, ..
            } => {
                heard[at].tokens += u64::from(tokens);
                heard[at].likely.extend(logprobs);
            }
            // The client still waits: it gets all of it at once, with the receipts.
            ClientEvent::Complete(done) => {
                heard[at].done = Some(done);
                let Some(answers) = answered(&mut heard) else {
                    continue;
                };
                let body = match body_of(framing, &answers, keeper.is_some()) {
                    Ok(body) => body,
                    Err(error) => {
                        // Nothing was said to be delivered: the choices end with this and cost nothing.
                        tally.close();
                        return failed(request, error);
                    }
                };
                if let Some(keeper) = &keeper {
                    let headers = whole_headers(&framing.jobs, &answers);
                    keeper.prepare(&headers, &body).await;
                }
                kept = Some((body, answers));
                for (at, heard) in heard.iter().enumerate() {
                    choices.deliver(at, heard.tokens);
                }
            }
            ClientEvent::Done(done) => {
                choices.end(at);
                charged.push(done.receipt.receipt.clone());
                heard[at].done = Some(done);
            }
            ClientEvent::Failed(failure_of) => {
                choices.end(at);
                if kept.is_none() && charged.is_empty() {
                    // Nothing was told to be delivered: the other choices end with this and cost nothing.
                    tally.close();
                    return failed(request, form.error(failure_of));
                }
                also_failed(&mut failure, at, failure_of);
            }
        }
    }
    if let Some((at, failure)) = failure {
        return failed(request, partly(framing, at, failure, &charged, false));
    }
    let Some((body, answers)) = kept else {
        tracing::error!(job = %request, "an answer was charged before it was complete");
        let billed = sum(charged.iter().map(|receipt| receipt.charge));
        return failed(request, form.error(Failure::new(Cause::Internal, billed)));
    };
    let headers = whole_headers(&framing.jobs, &answers);
    respond(request, headers, Body::from(body))
}

/// The answer as it is sent, and kept where it must be.
fn body_of(framing: &Framing, answers: &[Answered], keeps: bool) -> Result<Bytes, ApiError> {
    let body = framing.whole(answers).map_err(|Contradiction| {
        tracing::error!(job = %framing.request(), "the text of an answer is no vectors");
        let failure = Failure::new(Cause::Internal, TokenAmount::ZERO);
        framing.form.error(failure)
    })?;
    if keeps {
        replay::check_length(body.len())?;
    }
    Ok(body.into())
}

/// The first failure is told, with what all of them cost and what was not delivered of them.
fn also_failed(known: &mut Option<(usize, Failure)>, at: usize, failure: Failure) {
    let Some((_, first)) = known else {
        *known = Some((at, failure));
        return;
    };
    first.billed = sum([first.billed, failure.billed]);
    let more = [&first.undelivered, &failure.undelivered].map(|all| all.to_vec());
    first.undelivered = more.concat().into();
}

/// All choices, once each of them is complete.
fn answered(heard: &mut [Heard]) -> Option<Vec<Answered>> {
    if heard.iter().any(|choice| choice.done.is_none()) {
        return None;
    }
    let answer = |choice: &mut Heard| {
        Some(Answered {
            done: choice.done.clone()?,
            likely: std::mem::take(&mut choice.likely),
        })
    };
    heard.iter_mut().map(answer).collect()
}

/// The error of a request that failed by a choice after others, or a part of it, had been delivered.
fn partly(
    framing: &Framing,
    choice: usize,
    mut failure: Failure,
    charged: &[Receipt],
    delivered: bool,
) -> ApiError {
    if framing.jobs.len() == 1 {
        return framing.form.error(failure);
    }
    let others = sum(charged.iter().map(|receipt| receipt.charge));
    failure.billed = sum([failure.billed, others]);
    let charged = charged.iter().map(|receipt| receipt.job_id).collect();
    framing
        .form
        .choice_error(choice, failure, charged, delivered)
}

fn whole_headers(jobs: &[JobId], answers: &[Answered]) -> HeaderMap {
    let started = answers.first().map(|answer| &answer.done.started);
    let mut headers = job_headers(jobs, started);
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    headers
}

/// No status before the first event: until then every failure is an HTTP error with its true status.
async fn streamed(
    timings: Timings,
    mut choices: Choices,
    framing: Framing,
    (mut tally, keeper): (Tally, Option<Arc<Keeper>>),
) -> Response {
    let request = framing.request();
    let first = timeout(timings.header_hold, choices.next()).await.ok();
    let started = match &first {
        Some((at, ClientEvent::Failed(failure))) => {
            choices.end(*at);
            tally.close();
            return failed(request, framing.form.error(failure.clone()));
        }
        Some((_, ClientEvent::Started(started))) => Some(started.clone()),
        Some((_, ClientEvent::Done(done) | ClientEvent::Complete(done))) => {
            Some(done.started.clone())
        }
        Some((_, ClientEvent::Delta { .. })) | None => None,
    };
    let mut headers = job_headers(&framing.jobs, started.as_ref());
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
    let written = choices.written();
    let framing = Arc::new(framing);
    let voices = (0..).zip(&framing.jobs);
    let pump = Pump {
        voices: voices
            .map(|(choice, _)| Voice::new(Pieces::new(framing.clone(), choice)))
            .collect(),
        choices,
        out,
        timings,
        keeps: keeper.is_some(),
        transcript: keeper.map(|keeper| Transcript {
            keeper,
            headers: headers.clone(),
            said: Vec::new(),
        }),
        framing,
        failure: None,
        is_heard: false,
        is_delivered: false,
        tally,
    };
    tokio::spawn(pump.run(first));
    // A piece counts as written when the connection takes it, which it does only while its own small buffer has room.
    let body = stream::unfold((pieces, written), |(mut pieces, written)| async move {
        let piece: Piece = pieces.recv().await?;
        if let Some((choice, tokens)) = piece.tokens {
            written[choice].add(tokens);
        }
        Some((Ok::<_, Infallible>(piece.bytes), (pieces, written)))
    });
    respond(request, headers, Body::from_stream(body))
}

/// Bytes of a stream and the tokens that the client has got with them.
struct Piece {
    bytes: Bytes,
    /// How many of which choice.
    tokens: Option<(usize, u64)>,
}

/// One choice of a stream.
struct Voice {
    pieces: Pieces,
    /// What ends it, once all its text was told.
    ending: Option<Result<Vec<String>, Contradiction>>,
    /// As it will be charged, once it is complete.
    complete: Option<Arc<Done>>,
    /// As it was charged.
    charged: Option<Arc<Done>>,
    /// Tokens without text so far, for example half a character: they count with the next text.
    unwritten: u64,
    /// Tokens of the newest text, where the answer is kept: they count with the next, so that the choice does not count as written, and is not
    /// charged, before it is said to be delivered.
    newest: u64,
    /// Tokens that were sent with text.
    sent: u64,
    /// All tokens so far.
    told: u64,
}

impl Voice {
    fn new(pieces: Pieces) -> Self {
        Self {
            pieces,
            ending: None,
            complete: None,
            charged: None,
            unwritten: 0,
            newest: 0,
            sent: 0,
            told: 0,
        }
    }
}

/// Carries the events of one request's choices to one client. Ends when all have ended, the client goes, or the client takes nothing for
/// too long; in the last two cases dropping the choices cancels them.
///
/// A choice that fails after something was told does not cut the others short: they are paid work that the client reads. The error ends the
/// stream once they have ended.
struct Pump {
    choices: Choices,
    voices: Vec<Voice>,
    out: mpsc::Sender<Piece>,
    timings: Timings,
    framing: Arc<Framing>,
    /// The answer is to be kept: nothing is charged before all of it is there and kept.
    keeps: bool,
    /// All that was said, until it is kept.
    transcript: Option<Transcript>,
    /// The first choice that failed, and why.
    failure: Option<(usize, Failure)>,
    /// Something of the answer was told.
    is_heard: bool,
    /// Something of it was said to be delivered, told or not: it may be charged already.
    is_delivered: bool,
    /// What the call took of what the caller may do in a minute.
    tally: Tally,
}

/// A stream as it is kept for whoever sends the request again.
struct Transcript {
    keeper: Arc<Keeper>,
    headers: HeaderMap,
    said: Vec<u8>,
}

impl Transcript {
    /// With what will end it. Nothing is kept of what is too long.
    async fn prepare(self, ending: impl Iterator<Item = &String>) -> Result<(), Stop> {
        let mut body = self.said;
        for piece in ending {
            body.extend_from_slice(data(piece).as_bytes());
        }
        body.extend_from_slice(replay::DONE);
        replay::check_length(body.len()).map_err(|_| Stop::TooLong)?;
        self.keeper.prepare(&self.headers, &body).await;
        Ok(())
    }
}

/// One event of a stream.
fn data(piece: &str) -> String {
    format!("data: {piece}\n\n")
}

/// Why an answer ends before its choices do: each owes what was written of it.
enum Stop {
    /// The client is gone or takes nothing.
    ClientLost,
    /// The answer is longer than what is kept, and is to be kept.
    TooLong,
}

impl Pump {
    async fn run(mut self, first: Option<(usize, ClientEvent)>) {
        let stop = self.carry(first).await.err();
        let told = match stop {
            Some(Stop::TooLong) => self.too_long().await.err(),
            other => other,
        };
        if told.is_some() {
            metrics::counter!("stoa_api_clients_lost_total").increment(1);
        }
    }

    /// Says so once what was told before is written, and owed.
    async fn too_long(&mut self) -> Result<(), Stop> {
        self.transcript = None;
        self.all_taken().await?;
        let jobs = &self.framing.jobs;
        let begun: Vec<_> = jobs
            .iter()
            .zip(&self.voices)
            .filter(|(_, voice)| voice.sent > 0)
            .map(|(job, _)| *job)
            .collect();
        self.fail(replay::too_long(begun)).await
    }

    async fn carry(&mut self, first: Option<(usize, ClientEvent)>) -> Result<(), Stop> {
        if let Some((at, event)) = first
            && self.handle(at, event).await?
        {
            return Ok(());
        }
        loop {
            let event = tokio::select! {
                () = self.out.closed() => return Err(Stop::ClientLost),
                event = timeout(self.timings.keep_alive, self.choices.next()) => event,
            };
            match event {
                Err(_silence) => self.send(": keep-alive\n\n".to_owned(), None).await?,
                Ok((at, event)) => {
                    if self.handle(at, event).await? {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// `true` when the answer is over.
    async fn handle(&mut self, at: usize, event: ClientEvent) -> Result<bool, Stop> {
        self.tally.see(&event);
        match event {
            ClientEvent::Started(started) => {
                self.voices[at].pieces.start(&started);
                Ok(false)
            }
            ClientEvent::Delta {
                text,
                tokens,
                logprobs,
            } => {
                self.tell(at, &text, tokens, logprobs).await?;
                Ok(false)
            }
            ClientEvent::Complete(done) => {
                self.all_taken().await?;
                let voice = &mut self.voices[at];
                voice.ending = Some(voice.pieces.finish(&done));
                self.complete(at, done).await?;
                Ok(false)
            }
            ClientEvent::Done(done) => {
                self.choices.end(at);
                self.charged(at, done).await?;
                // One that was cut off may be what the others waited for.
                self.deliver_kept().await?;
                self.conclude().await
            }
            ClientEvent::Failed(failure) => {
                self.choices.end(at);
                if self.is_free() {
                    // The other choices end with this and cost nothing.
                    self.tally.close();
                    let error = self.framing.form.error(failure);
                    return self.fail(error).await.map(|()| true);
                }
                self.failed(at, failure);
                self.deliver_kept().await?;
                self.conclude().await
            }
        }
    }

    /// Nothing of the answer was told or said to be delivered, so that nothing of it is charged or will be.
    fn is_free(&self) -> bool {
        let is_charged = self.failure.is_some() || self.voices.iter().any(|v| v.charged.is_some());
        !self.is_heard && !self.is_delivered && !is_charged
    }

    async fn tell(
        &mut self,
        at: usize,
        text: &str,
        tokens: u32,
        logprobs: Vec<Logprobs>,
    ) -> Result<(), Stop> {
        let voice = &mut self.voices[at];
        voice.told += u64::from(tokens);
        voice.unwritten += u64::from(tokens);
        let mut pieces = voice.pieces.text(text, logprobs);
        let Some(last) = pieces.pop() else {
            return Ok(());
        };
        let mut tokens = std::mem::take(&mut voice.unwritten);
        if self.keeps {
            std::mem::swap(&mut voice.newest, &mut tokens);
        }
        self.send_data(&pieces).await?;
        self.send(data(&last), Some((at, tokens))).await?;
        self.voices[at].sent += tokens;
        Ok(())
    }

    /// All text of a choice was told and taken. Where the answer is kept, nothing is charged before all of it is.
    async fn complete(&mut self, at: usize, done: Arc<Done>) -> Result<(), Stop> {
        if self.keeps {
            self.voices[at].complete = Some(done);
            self.deliver_kept().await?;
        } else {
            self.is_delivered = true;
            self.choices.deliver(at, self.voices[at].told);
        }
        Ok(())
    }

    /// Keeps the whole answer once every choice is complete, and says then that they were delivered; so too, without keeping it, where one
    /// of them failed.
    async fn deliver_kept(&mut self) -> Result<(), Stop> {
        let open =
            |(at, voice): (usize, &Voice)| voice.ending.is_none() && !self.choices.is_over(at);
        if !self.keeps || self.is_delivered || self.voices.iter().enumerate().any(open) {
            return Ok(());
        }
        let transcript = self.transcript.take().filter(|_| self.failure.is_none());
        let endings = self
            .voices
            .iter()
            .map(|voice| voice.ending.as_ref()?.as_ref().ok());
        if let (Some(transcript), Some(endings)) = (transcript, endings.collect::<Option<Vec<_>>>())
        {
            let all = self
                .voices
                .iter()
                .filter_map(|voice| voice.complete.as_deref());
            let usage = self.framing.usage_piece(all);
            transcript
                .prepare(endings.into_iter().flatten().chain(&usage))
                .await?;
        }
        for (at, voice) in self.voices.iter().enumerate() {
            if voice.ending.is_some() && !self.choices.is_over(at) {
                self.is_delivered = true;
                self.choices.deliver(at, voice.told);
            }
        }
        Ok(())
    }

    /// A choice is charged: it ends at once, or in its turn where the answer is kept as it is told.
    async fn charged(&mut self, at: usize, done: Arc<Done>) -> Result<(), Stop> {
        if done.content.finish_reason == FinishReason::Cancelled {
            // The router cut it off: its queue was full.
            let billed = done.receipt.receipt.charge;
            self.failed(at, Failure::new(Cause::ClientTooSlow, billed));
            return Ok(());
        }
        let voice = &mut self.voices[at];
        if voice.ending.is_none() {
            voice.ending = Some(voice.pieces.finish(&done));
        }
        if matches!(voice.ending, Some(Err(Contradiction))) {
            let job = self.framing.jobs[at];
            tracing::error!(%job, "the streamed text is no beginning of the final text");
            let billed = done.receipt.receipt.charge;
            self.failed(at, Failure::new(Cause::Internal, billed));
            return Ok(());
        }
        voice.charged = Some(done);
        if self.keeps {
            return Ok(());
        }
        self.end(at).await
    }

    /// Tells how a charged choice ended.
    async fn end(&mut self, at: usize) -> Result<(), Stop> {
        match self.voices[at].ending.take() {
            Some(Ok(pieces)) => self.send_data(&pieces).await,
            _ => Ok(()),
        }
    }

    fn failed(&mut self, at: usize, failure: Failure) {
        also_failed(&mut self.failure, at, failure);
    }

    /// Ends the answer once every choice has ended; `true` then.
    async fn conclude(&mut self) -> Result<bool, Stop> {
        if !self.choices.are_over() {
            return Ok(false);
        }
        if self.keeps {
            for at in 0..self.voices.len() {
                if self.voices[at].charged.is_some() {
                    self.end(at).await?;
                }
            }
        }
        let all = self
            .voices
            .iter()
            .filter_map(|voice| voice.charged.as_deref());
        if let Some((at, failure)) = self.failure.take() {
            let charged: Vec<_> = all.map(|done| done.receipt.receipt.clone()).collect();
            let error = partly(&self.framing, at, failure, &charged, true);
            self.fail(error).await?;
            return Ok(true);
        }
        let usage = self.framing.usage_piece(all);
        self.send_data(usage.as_slice()).await?;
        let end = String::from_utf8_lossy(replay::DONE).into_owned();
        self.send(end, None).await?;
        Ok(true)
    }

    /// One error event and no `[DONE]`: nobody may take the stream for complete.
    async fn fail(&mut self, error: ApiError) -> Result<(), Stop> {
        let row = error.row();
        metrics::counter!("stoa_api_stream_errors_total", "code" => row.code, "cause" => row.cause)
            .increment(1);
        let request = self.framing.request();
        self.send(data(&error.stream_data(request)), None).await
    }

    async fn send_data(&mut self, pieces: &[String]) -> Result<(), Stop> {
        for piece in pieces {
            self.send(data(piece), None).await?;
        }
        Ok(())
    }

    async fn send(&mut self, text: String, tokens: Option<(usize, u64)>) -> Result<(), Stop> {
        // Comments keep a silent connection alive; they are no part of the answer.
        if !text.starts_with(':') {
            self.is_heard = true;
            if let Some(transcript) = &mut self.transcript {
                replay::check_length(transcript.said.len() + text.len())
                    .map_err(|_| Stop::TooLong)?;
                transcript.said.extend_from_slice(text.as_bytes());
            }
        }
        let bytes = Bytes::from(text);
        let piece = Piece { bytes, tokens };
        let sent = self.out.send_timeout(piece, self.timings.slow_reader);
        sent.await.map_err(|_| Stop::ClientLost)
    }

    /// Waits until the connection has taken every piece.
    async fn all_taken(&mut self) -> Result<(), Stop> {
        let room = self.out.reserve_many(PIECES_WAITING_MAX);
        match timeout(self.timings.slow_reader, room).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Stop::ClientLost),
        }
    }
}

fn respond(job: JobId, headers: HeaderMap, body: Body) -> Response {
    let mut response = (headers, body).into_response();
    response.extensions_mut().insert(RequestId(job));
    response
}

/// Headers of a call, as far as they are known when they leave. Of several choices who answered stands with each, in its `stoa` object.
fn job_headers(jobs: &[JobId], started: Option<&Started>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let ids: Vec<_> = jobs.iter().map(JobId::to_string).collect();
    if let Some(request) = ids.first() {
        headers.insert(HeaderName::from_static("x-stoa-job"), text_value(request));
    }
    headers.insert(
        HeaderName::from_static("x-stoa-receipt-id"),
        text_value(ids.join(", ")),
    );
    if let Some(started) = started.filter(|_| jobs.len() == 1) {
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
