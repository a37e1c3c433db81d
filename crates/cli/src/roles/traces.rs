//! Which step of a call began and ended when: what a router's and a provider's loop tell the tracer. Where nothing is recorded it keeps the
//! caller's trace id for the log, and nothing where there is none.

use crate::telemetry::{Clock, Kind, Span, Tracer};
use std::collections::HashMap;
use stoa_api::ApiError;
use stoa_market::Decision;
use stoa_nodes::client::{ClientEvent, Done};
use stoa_nodes::message::{RefusalReason, ToRouter};
use stoa_nodes::provider::Attempt;
use stoa_types::{Address, JobId, TraceId, TraceParent};

/// The calls of a router that are traced.
pub struct CallTraces {
    tracer: Tracer,
    calls: HashMap<JobId, Call>,
}

struct Call {
    trace: TraceId,
    steps: Option<Steps>,
}

/// The spans of a call that have not ended.
struct Steps {
    clock: Clock,
    /// The call itself, above all others.
    call: Span,
    model: String,
    /// From its arrival until its reservation is on disk.
    admission: Option<Span>,
    /// Within it: until a provider has room for the call.
    queue: Option<Span>,
    /// The present attempt, from the order to the last token.
    dispatch: Option<Span>,
    /// Within it: until the first token.
    first_token: Option<Span>,
    /// From the charge's writing until it is on disk.
    settlement: Option<Span>,
}

impl Steps {
    fn new(tracer: &Tracer, model: &str, above: Option<TraceParent>) -> Option<Self> {
        let clock = Clock::start();
        let call = tracer.begin("call", above, &clock)?;
        let admission = tracer.below(&call, "admission", Kind::Internal, &clock);
        let queue = admission
            .as_ref()
            .and_then(|above| tracer.below(above, "queue", Kind::Internal, &clock));
        Some(Self {
            clock,
            call,
            model: model.to_owned(),
            admission,
            queue,
            dispatch: None,
            first_token: None,
            settlement: None,
        })
    }

    /// Ends the attempt, by `fault` where it did not come to its end.
    fn end_attempt(&mut self, tracer: &Tracer, fault: Option<&'static str>) {
        let now = self.clock.nanos();
        for mut span in [self.first_token.take(), self.dispatch.take()] {
            if let (Some(span), Some(fault)) = (&mut span, fault) {
                span.fail(fault);
            }
            tracer.end(span, now);
        }
    }

    fn end(mut self, tracer: &Tracer, fault: Option<&'static str>) {
        self.end_attempt(tracer, fault);
        let now = self.clock.nanos();
        for span in [self.queue, self.admission, self.settlement] {
            tracer.end(span, now);
        }
        if let Some(fault) = fault {
            self.call.fail(fault);
        }
        tracer.end(Some(self.call), now);
    }

    fn say_done(&mut self, done: &Done) {
        let receipt = &done.receipt.receipt;
        let call = &mut self.call;
        call.text("stoa.provider", receipt.provider);
        call.text("stoa.charge", receipt.charge);
        call.number("stoa.failovers", done.started.failovers.into());
        call.number("gen_ai.usage.input_tokens", receipt.input_units);
        call.number("gen_ai.usage.output_tokens", receipt.output_units);
    }
}

impl CallTraces {
    /// Traces of the calls that `tracer` takes.
    pub fn new(tracer: Tracer) -> Self {
        Self {
            tracer,
            calls: HashMap::new(),
        }
    }

    fn steps(&mut self, job: JobId) -> Option<(&Tracer, &mut Steps)> {
        let steps = self.calls.get_mut(&job)?.steps.as_mut()?;
        Some((&self.tracer, steps))
    }

    /// A call came in, below a span of its client where that says so.
    pub fn submitted(&mut self, job: JobId, model: &str, above: Option<TraceParent>) {
        let mut steps = Steps::new(&self.tracer, model, above);
        if let Some(steps) = &mut steps {
            steps.call.text("stoa.job", job);
        }
        let own = steps.as_ref().map(|steps| steps.call.context().trace);
        if let Some(trace) = own.or(above.map(|above| above.trace)) {
            self.calls.insert(job, Call { trace, steps });
        }
    }

    /// The trace of a call, for the log.
    pub fn id(&self, job: JobId) -> Option<TraceId> {
        self.calls.get(&job).map(|call| call.trace)
    }

    /// A provider was chosen.
    pub fn decided(&mut self, job: JobId, decision: &Decision) {
        let candidates = decision.scores.len() as u64;
        if let Some((tracer, steps)) = self.steps(job) {
            tracer.end(steps.queue.take(), steps.clock.nanos());
            // Before there is a choice the name is any text of the client.
            let model = std::mem::take(&mut steps.model);
            steps.call.text("gen_ai.request.model", model);
            steps.call.number("stoa.candidates", candidates);
        }
    }

    /// An attempt leaves for a provider, which is told of the span that it returns.
    pub fn ordered(&mut self, job: JobId, attempt: u32, provider: Address) -> Option<TraceParent> {
        let (tracer, steps) = self.steps(job)?;
        steps.end_attempt(tracer, Some("another provider took over"));
        let now = steps.clock.nanos();
        tracer.end(steps.admission.take(), now);
        let mut dispatch = tracer.below(&steps.call, "dispatch", Kind::Client, &steps.clock)?;
        dispatch.number("stoa.attempt", attempt.into());
        dispatch.text("stoa.provider", provider);
        steps.first_token = tracer.below(&dispatch, "first token", Kind::Internal, &steps.clock);
        let told = dispatch.context();
        steps.dispatch = Some(dispatch);
        Some(told)
    }

    /// The charge is being written.
    pub fn charging(&mut self, job: JobId) {
        if let Some((tracer, steps)) = self.steps(job) {
            steps.end_attempt(tracer, None);
            let clock = &steps.clock;
            steps.settlement = tracer.below(&steps.call, "settlement", Kind::Internal, clock);
        }
    }

    /// What the client heard.
    pub fn told(&mut self, job: JobId, event: &ClientEvent) {
        let fault = match event {
            ClientEvent::Started(_) => return,
            ClientEvent::Delta { .. } => {
                if let Some((tracer, steps)) = self.steps(job) {
                    tracer.end(steps.first_token.take(), steps.clock.nanos());
                }
                return;
            }
            ClientEvent::Complete(_) => {
                if let Some((tracer, steps)) = self.steps(job) {
                    steps.end_attempt(tracer, None);
                }
                return;
            }
            ClientEvent::Done(done) => {
                if let Some((_, steps)) = self.steps(job) {
                    steps.say_done(done);
                }
                None
            }
            ClientEvent::Failed(failure) => Some(ApiError::Failed(failure.clone()).row().code),
        };
        self.end(job, fault);
    }

    /// The client is gone and the router has nothing more to do for it.
    pub fn abandoned(&mut self, job: JobId) {
        self.end(job, Some("the client left"));
    }

    fn end(&mut self, job: JobId, fault: Option<&'static str>) {
        if let Some(steps) = self.calls.remove(&job).and_then(|call| call.steps) {
            steps.end(&self.tracer, fault);
        }
    }
}

/// The jobs of a provider that are traced, each for the order that it came with.
pub struct JobTraces {
    tracer: Tracer,
    jobs: HashMap<Attempt, JobSteps>,
}

struct JobSteps {
    clock: Clock,
    /// The job itself, below the router's attempt.
    job: Span,
    /// Until the prompt is ready to be run.
    prepare: Option<Span>,
    /// From there to the last token.
    generate: Option<Span>,
    /// Within it: until the first token.
    first_token: Option<Span>,
    /// When something was last heard of it.
    heard: u128,
}

const fn refusal(reason: &RefusalReason) -> &'static str {
    match reason {
        RefusalReason::Busy => "refused: busy",
        RefusalReason::Draining => "refused: draining",
        RefusalReason::UnknownModel => "refused: unknown model",
        RefusalReason::ContextLength { .. } => "refused: context length",
        RefusalReason::TicketTooSmall { .. } => "refused: ticket too small",
        RefusalReason::Policy => "refused: policy",
        RefusalReason::Unsupported { .. } => "refused: unsupported",
        RefusalReason::Limit { .. } => "refused: limit",
        RefusalReason::BadTicket { .. } => "refused: bad ticket",
    }
}

impl JobTraces {
    /// Traces of the jobs that `tracer` takes.
    pub fn new(tracer: Tracer) -> Self {
        Self {
            tracer,
            jobs: HashMap::new(),
        }
    }

    /// An order came, below the router's span where that says so.
    pub fn ordered(&mut self, attempt: Attempt, above: Option<TraceParent>) {
        let clock = Clock::start();
        let Some(mut job) = self.tracer.begin("job", above, &clock) else {
            return;
        };
        job.text("stoa.job", attempt.0);
        job.number("stoa.attempt", attempt.1.into());
        let prepare = self.tracer.below(&job, "prepare", Kind::Internal, &clock);
        let heard = clock.nanos();
        let steps = JobSteps {
            clock,
            job,
            prepare,
            generate: None,
            first_token: None,
            heard,
        };
        self.jobs.insert(attempt, steps);
    }

    /// It runs from now on.
    pub fn runs(&mut self, attempt: Attempt) {
        let Some(steps) = self.jobs.get_mut(&attempt) else {
            return;
        };
        let (tracer, clock) = (&self.tracer, &steps.clock);
        tracer.end(steps.prepare.take(), clock.nanos());
        steps.generate = tracer.below(&steps.job, "generate", Kind::Internal, clock);
        let generate = steps.generate.as_ref();
        steps.first_token =
            generate.and_then(|above| tracer.below(above, "first token", Kind::Internal, clock));
        steps.heard = clock.nanos();
    }

    /// What the router is told of it.
    pub fn says(&mut self, message: &ToRouter) {
        let Some(steps) = message.job().and_then(|at| self.jobs.get_mut(&at)) else {
            return;
        };
        steps.heard = steps.clock.nanos();
        let fault = match message {
            ToRouter::Delta { .. } => {
                self.tracer.end(steps.first_token.take(), steps.heard);
                return;
            }
            ToRouter::Final(end) => {
                let (read, made) = (end.receipt.input_units, end.receipt.output_units);
                steps.job.number("gen_ai.usage.input_tokens", read);
                steps.job.number("gen_ai.usage.output_tokens", made);
                None
            }
            ToRouter::Refused { reason, .. } => Some(refusal(reason)),
            ToRouter::Failed { .. } => Some("failed"),
            ToRouter::Hello(_) | ToRouter::Status { .. } | ToRouter::Accepted { .. } => return,
        };
        if let Some(steps) = message.job().and_then(|at| self.jobs.remove(&at)) {
            steps.end(&self.tracer, fault);
        }
    }

    /// Jobs whose stream is gone end here: nobody waits for them.
    pub fn keep(&mut self, wanted: impl Fn(&Attempt) -> bool) {
        let gone: Vec<_> = self.jobs.keys().filter(|at| !wanted(at)).copied().collect();
        for attempt in gone {
            if let Some(steps) = self.jobs.remove(&attempt) {
                steps.end(&self.tracer, Some("the router wants it no more"));
            }
        }
    }
}

impl JobSteps {
    fn end(mut self, tracer: &Tracer, fault: Option<&'static str>) {
        for span in [self.prepare, self.first_token, self.generate] {
            tracer.end(span, self.heard);
        }
        if let Some(fault) = fault {
            self.job.fail(fault);
        }
        tracer.end(Some(self.job), self.heard);
    }
}
