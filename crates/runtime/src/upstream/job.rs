//! One answer of an upstream server, from the request to the judged end.

use super::count::{Teller, reconcile};
use super::lane::end_of;
use super::outlet::{Outlet, Told, Unheard};
use super::reasoning::Weaver;
use super::request::{self, Body, Request};
use super::sse::EventReader;
use super::stream::{Ending, StreamReader, Usage};
use super::{Shared, UpstreamFault};
use crate::backend::{CancelFlag, Emit, Generation, Piece};
use crate::upstream::client::reason;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use stoa_nodes::provider::Counted;
use stoa_nodes::work::Work;
use stoa_types::FinishReason;
use tokio::time::{Instant, sleep_until, timeout_at};

/// An answer with its counts.
pub(super) struct Answer {
    pub generation: Generation,
    pub told: Usage,
    pub billed: Usage,
}

impl Answer {
    pub fn empty(finish_reason: FinishReason) -> Self {
        let nothing = Usage {
            prompt_tokens: 0,
            completion_tokens: 0,
        };
        Self {
            generation: Generation {
                tool_calls: Vec::new(),
                finish_reason,
            },
            told: nothing,
            billed: nothing,
        }
    }
}

/// What the lane makes an answer of.
pub(super) struct Job {
    pub work: Work,
    pub request: Request,
    pub body: Body,
    pub cancel: CancelFlag,
}

/// Why there is no answer.
pub(super) enum Stopped {
    /// Nobody wants it any more.
    Unwanted,
    /// The server is at fault.
    Fault(UpstreamFault),
}

impl From<Unheard> for Stopped {
    fn from(_: Unheard) -> Self {
        Self::Unwanted
    }
}

impl From<UpstreamFault> for Stopped {
    fn from(fault: UpstreamFault) -> Self {
        Self::Fault(fault)
    }
}

impl Shared {
    /// One answer, made on the lane: its pieces and the counts known so far are told here, as they come. Dropping this ends it.
    pub(super) async fn answer(
        self: &Arc<Self>,
        work: &Work,
        request: Request,
        cancel: &CancelFlag,
        emit: &mut Emit<'_>,
        counted: &mut dyn FnMut(Counted),
    ) -> Result<Answer, UpstreamFault> {
        let (outlet, mut told) = Outlet::new();
        let (kind, model) = (self.info.kind, self.info.model.as_str());
        let job = Job {
            body: request::body(work, &request.wanted, kind, model),
            work: work.clone(),
            request,
            cancel: cancel.clone(),
        };
        let shared = Arc::clone(self);
        let job = self
            .lane
            .begin(async move { shared.make(&job, outlet).await });
        while let Some(told) = told.recv().await {
            match told {
                Told::Counted(counts) => counted(counts),
                Told::Text(ids, text) => {
                    if emit(Piece::new(ids, text)).is_break() {
                        return Ok(Answer::empty(FinishReason::Cancelled));
                    }
                }
            }
        }
        match end_of(job).await {
            Ok(answer) => Ok(answer),
            Err(Stopped::Unwanted) => Ok(Answer::empty(FinishReason::Cancelled)),
            Err(Stopped::Fault(fault)) => Err(fault),
        }
    }

    /// The same, on the lane.
    async fn make(&self, job: &Job, mut outlet: Outlet) -> Result<Answer, Stopped> {
        let Job {
            work,
            request,
            cancel,
            ..
        } = job;
        if work.sampling.max_output_tokens == 0 {
            return Ok(Answer::empty(FinishReason::Length));
        }
        // Several providers may serve through one server: their slots together can be more than its places.
        let place = tokio::time::timeout(self.timeouts.place, self.permits.acquire());
        let _place = unless(cancel, place)
            .await?
            .map_err(|_| UpstreamFault::Busy {
                by: "the limit of requests at once",
            })?;
        // Until the server says how long the prompt is, nobody has counted it, and a client that leaves owes nothing for it.
        outlet.counted(counts(0, None)).await?;
        if work.prompt.vectors().is_some() {
            return self.vectors(job, &mut outlet).await;
        }
        let begun = Instant::now();
        let head = timeout_at(begun + self.timeouts.first_event, self.ask(job));
        let response = unless(cancel, head)
            .await?
            .map_err(|_| self.silent(true))??;
        let mut teller = Teller::new(work.sampling.max_output_tokens, request.wanted.withholds());
        let read = self.read(response, begun, request, &mut teller, &mut outlet);
        let ending = unless(cancel, read).await??;
        let judged = request.judge(&ending, teller.held())?;
        let (ids, text) = teller.end(judged.tail);
        outlet.text(ids, &text).await?;
        let billed = reconcile(ending.usage, request.input_bound, teller.units());
        let counts = counts(billed.prompt_tokens, Some(billed.completion_tokens));
        outlet.counted(counts).await?;
        Ok(Answer {
            generation: Generation {
                tool_calls: judged.tool_calls,
                finish_reason: judged.finish,
            },
            told: ending.usage,
            billed,
        })
    }

    /// Reads a stream to its end and tells its pieces. Dropping this closes the connection.
    async fn read(
        &self,
        mut response: reqwest::Response,
        begun: Instant,
        request: &Request,
        teller: &mut Teller,
        outlet: &mut Outlet,
    ) -> Result<Ending, Stopped> {
        let (mut events, mut reader) = (EventReader::default(), StreamReader::default());
        let mut weaver = Weaver::default();
        let (mut input, mut first) = (0, true);
        let mut silence = begun + self.timeouts.first_event;
        let mut alarm = pin!(sleep_until(silence));
        while !reader.is_done() {
            let until = outlet.due().map_or(silence, |due| due.min(silence));
            if alarm.deadline() != until {
                alarm.as_mut().reset(until);
            }
            let chunk = tokio::select! {
                biased;
                chunk = response.chunk() => chunk,
                () = &mut alarm => {
                    if outlet.due().is_none() {
                        return Err(self.silent(first).into());
                    }
                    let from = Instant::now();
                    outlet.flush().await?;
                    // A reader that lets us wait is not the server's silence.
                    silence += from.elapsed();
                    continue;
                }
            };
            let chunk = chunk.map_err(|error| UpstreamFault::Broken {
                reason: reason(error),
            })?;
            let Some(bytes) = chunk else { break };
            for data in events.push(&bytes)? {
                let step = reader.event(&data)?;
                let so_far = step.so_far.filter(|so_far| so_far.prompt_tokens != 0);
                if let Some(so_far) = so_far.filter(|so_far| so_far.prompt_tokens != input) {
                    input = so_far.prompt_tokens;
                    let most = request.input_bound;
                    outlet.counted(counts(input.min(most), None)).await?;
                }
                let told = step.so_far.map(|so_far| so_far.completion_tokens);
                let woven = weaver.step(&step);
                let (ids, text) = teller.piece(&woven, step.hidden, told)?;
                if woven.closes {
                    // What is told before it is what the reasoning took.
                    outlet.flush().await?;
                }
                outlet.text(ids, &text).await?;
                if std::mem::take(&mut first) {
                    metrics::histogram!("stoa_upstream_first_event_seconds")
                        .record(begun.elapsed().as_secs_f64());
                }
                // After the piece was handed on, for the same reason.
                silence = Instant::now() + self.timeouts.silence;
            }
        }
        if reader.is_done() {
            self.drain(response);
        }
        Ok(reader.end()?)
    }

    pub(super) fn silent(&self, first: bool) -> UpstreamFault {
        if first {
            UpstreamFault::Silent {
                waited: self.timeouts.first_event,
                during: "the first event",
            }
        } else {
            UpstreamFault::Silent {
                waited: self.timeouts.silence,
                during: "the next event",
            }
        }
    }

    /// Sends the request. Servers that refuse a limit which only the context's end would cut are asked again with what fits.
    async fn ask(&self, job: &Job) -> Result<reqwest::Response, UpstreamFault> {
        let context = u64::from(self.facts.context);
        let send = |most| {
            let text = job.body.with_limit(most);
            self.client.post_stream(job.body.route, text)
        };
        let most = job.work.sampling.max_output_tokens;
        let fault = match send(most).await {
            Err(fault) => fault,
            response => return response,
        };
        let UpstreamFault::ContextLength { tokens, .. } = fault else {
            return Err(fault);
        };
        let room = context.saturating_sub(tokens);
        let room = u32::try_from(room).unwrap_or(u32::MAX);
        if room > 0 && room < most {
            return send(room).await;
        }
        Err(if tokens > context {
            UpstreamFault::ContextLength { tokens, context }
        } else {
            UpstreamFault::Rejected {
                status: 400,
                kind: "context_length_exceeded".to_owned(),
                parameter: Some("messages".to_owned()),
            }
        })
    }

    /// Reads the few bytes after `[DONE]`, so that the connection can be used again.
    fn drain(&self, mut response: reqwest::Response) {
        self.lane.spawn(async move {
            let rest = async { while let Ok(Some(_)) = response.chunk().await {} };
            let _ = tokio::time::timeout(Duration::from_secs(1), rest).await;
        });
    }
}

/// What comes of a future, unless nobody wants it before.
pub(super) async fn unless<T>(
    cancel: &CancelFlag,
    future: impl Future<Output = T>,
) -> Result<T, Stopped> {
    tokio::select! {
        biased;
        () = cancel.cancelled() => Err(Stopped::Unwanted),
        end = future => Ok(end),
    }
}

/// Counts as the provider core takes them.
pub(super) const fn counts(input_units: u64, output_units: Option<u64>) -> Counted {
    Counted {
        input_units,
        output_units,
    }
}
