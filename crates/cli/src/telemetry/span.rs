//! Spans, and who decides which calls have any.

use super::otlp::Exporter;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use stoa_types::{SpanId, TraceId, TraceParent};

/// What a span is to those beside it; the numbers are OTLP's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A step within.
    Internal = 1,
    /// Something that was asked for from outside.
    Server = 2,
    /// Something that is asked of another process.
    Client = 3,
}

/// Wall time that does not jump within one trace.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    wall: Duration,
    steady: Instant,
}

impl Clock {
    /// Begins now.
    pub fn start() -> Self {
        Self {
            wall: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default(),
            steady: Instant::now(),
        }
    }

    /// Nanoseconds since 1970.
    pub fn nanos(&self) -> u128 {
        (self.wall + self.steady.elapsed()).as_nanos()
    }
}

/// Who a span belongs to: what OTLP calls a resource.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    pub(super) service: &'static str,
    pub(super) instance: String,
}

/// One step of a call.
#[derive(Debug)]
pub struct Span {
    pub(super) origin: Arc<Origin>,
    pub(super) trace: TraceId,
    pub(super) id: SpanId,
    pub(super) parent: Option<SpanId>,
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) began: u128,
    pub(super) ended: u128,
    pub(super) attributes: Vec<(&'static str, Value)>,
    /// What went wrong, in a word of ours: texts of strangers may hold anything.
    pub(super) fault: Option<&'static str>,
}

impl Span {
    /// What processes below this span are told.
    pub fn context(&self) -> TraceParent {
        TraceParent {
            trace: self.trace,
            span: self.id,
            sampled: true,
        }
    }

    /// A text.
    pub fn text(&mut self, key: &'static str, value: impl ToString) {
        self.attributes
            .push((key, json!({"stringValue": value.to_string()})));
    }

    /// A number; in OTLP's JSON a 64-bit integer is a string.
    pub fn number(&mut self, key: &'static str, value: u64) {
        self.attributes
            .push((key, json!({"intValue": value.to_string()})));
    }

    /// It went wrong.
    pub fn fail(&mut self, fault: &'static str) {
        self.fault = Some(fault);
    }
}

/// Lets so many through in a second, and as many at once.
#[derive(Debug)]
struct Bucket {
    per_second: f64,
    left: f64,
    seen: Instant,
}

impl Bucket {
    fn take(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.seen).as_secs_f64();
        self.seen = now;
        self.left = (self.left + passed * self.per_second).min(self.per_second);
        let taken = self.left >= 1.0;
        if taken {
            self.left -= 1.0;
        }
        taken
    }
}

/// Makes the spans of one role. Without an exporter it makes none.
#[derive(Debug)]
pub struct Tracer(Option<On>);

#[derive(Debug)]
struct On {
    exporter: Exporter,
    origin: Arc<Origin>,
    bucket: Mutex<Bucket>,
}

impl Tracer {
    /// Makes no spans.
    pub fn off() -> Self {
        Self(None)
    }

    /// Records up to `per_second` calls a second.
    pub fn new(
        exporter: Exporter,
        service: &'static str,
        instance: String,
        per_second: u32,
    ) -> Self {
        let per_second = f64::from(per_second);
        Self(Some(On {
            exporter,
            origin: Arc::new(Origin { service, instance }),
            bucket: Mutex::new(Bucket {
                per_second,
                left: per_second,
                seen: Instant::now(),
            }),
        }))
    }

    /// The topmost span of a call here, below `above` where that is known; `None` where the call is not recorded. Whoever sent it may ask not
    /// to be recorded; that it asks to be recorded lifts no bound.
    pub fn begin(
        &self,
        name: &'static str,
        above: Option<TraceParent>,
        clock: &Clock,
    ) -> Option<Span> {
        let on = self.0.as_ref()?;
        if above.is_some_and(|above| !above.sampled) {
            return None;
        }
        let mut bucket = on.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        if !bucket.take(Instant::now()) {
            return None;
        }
        drop(bucket);
        let trace = match above {
            Some(above) => above.trace,
            None => TraceId::new(random()?)?,
        };
        let above = above.map(|above| above.span);
        on.span(name, Kind::Server, (trace, above), clock.nanos())
    }

    /// A step below `above`, begun now.
    pub fn below(
        &self,
        above: &Span,
        name: &'static str,
        kind: Kind,
        clock: &Clock,
    ) -> Option<Span> {
        let place = (above.trace, Some(above.id));
        self.0.as_ref()?.span(name, kind, place, clock.nanos())
    }

    /// The span ended, at this time or when it began if that was later. It leaves when the exporter comes to it.
    pub fn end(&self, span: Option<Span>, at: u128) {
        if let (Some(on), Some(mut span)) = (&self.0, span) {
            span.ended = at.max(span.began);
            on.exporter.take(span);
        }
    }
}

impl On {
    fn span(
        &self,
        name: &'static str,
        kind: Kind,
        (trace, parent): (TraceId, Option<SpanId>),
        began: u128,
    ) -> Option<Span> {
        Some(Span {
            origin: self.origin.clone(),
            trace,
            id: SpanId::new(random()?)?,
            parent,
            name,
            kind,
            began,
            ended: began,
            attributes: Vec::new(),
            fault: None,
        })
    }
}

/// Without random bytes there is no trace; the call goes on.
fn random<const N: usize>() -> Option<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_recorded_up_to_the_bound_and_no_further() {
        let start = Instant::now();
        let mut bucket = Bucket {
            per_second: 5.0,
            left: 5.0,
            seen: start,
        };
        let at = |ms| start + Duration::from_millis(ms);
        let taken = |bucket: &mut Bucket, ms| (0..100).filter(|_| bucket.take(at(ms))).count();
        assert_eq!(taken(&mut bucket, 0), 5);
        assert_eq!(taken(&mut bucket, 400), 2);
        assert_eq!(taken(&mut bucket, 60_000), 5, "rest is not saved up");
    }

    #[tokio::test]
    async fn who_asks_not_to_be_recorded_is_not_and_who_asks_for_it_is_within_the_bound() {
        let exporter = Exporter::start("http://127.0.0.1:9", "").expect("a URL");
        let tracer = Tracer::new(exporter, "test", String::new(), 2);
        let mut above: TraceParent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"
            .parse()
            .expect("valid");
        let clock = Clock::start();
        assert!(tracer.begin("call", Some(above), &clock).is_none());
        above.sampled = true;
        let first = tracer
            .begin("call", Some(above), &clock)
            .expect("within the bound");
        assert_eq!((first.trace, first.parent), (above.trace, Some(above.span)));
        assert!(tracer.begin("call", None, &clock).is_some());
        assert!(tracer.begin("call", Some(above), &clock).is_none());
        assert!(Tracer::off().begin("call", None, &clock).is_none());
    }
}
