//! Scripts and the threads they run on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use stoa_nodes::message::RefusalReason;
use stoa_nodes::provider::Generated;
use stoa_nodes::work::{AnswerShape, Prompt, Work};
use stoa_runtime::{
    Backend, Busy, CancelFlag, Event, Executor, Fault, Script, ScriptedBackend, run_to_end,
};
use stoa_types::{Digest, FinishReason, Q16, SamplingParameters, Tier};

fn work(text: &str, tokens: u32, stop: &[&str]) -> Work {
    let messages = serde_json::json!([
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": text}]},
    ]);
    Work {
        prompt: Prompt::Chat {
            messages: messages.to_string(),
            tools: "[]".to_owned(),
            arguments: String::new(),
        },
        sampling: SamplingParameters {
            temperature: Q16(0),
            min_p: Q16(0),
            seed: 0,
            max_output_tokens: tokens,
            stop: stop.iter().map(|s| (*s).to_owned()).collect(),
            ..SamplingParameters::default()
        },
        answer: AnswerShape::Any,
    }
}

fn named(name: &str) -> ScriptedBackend {
    ScriptedBackend::named(name, Script::default()).expect("known name")
}

fn faulty(fault: Fault) -> Arc<dyn Backend> {
    let script = Script {
        fault: Some(fault),
        ..Script::default()
    };
    Arc::new(ScriptedBackend::named("script-fixed-5", script).expect("known name"))
}

async fn patient<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(10), future)
        .await
        .expect("it must not hang")
}

/// Number of tokens that came, and the last event.
async fn listen(mut events: tokio::sync::mpsc::Receiver<Event>) -> (usize, Option<Event>) {
    let (mut count, mut last) = (0, None);
    while let Some(event) = patient(events.recv()).await {
        match event {
            Event::Generated(Generated::Tokens { tokens, .. }) => count += tokens.len(),
            other => last = Some(other),
        }
    }
    (count, last)
}

fn end(finish_reason: FinishReason) -> Option<Event> {
    Some(Event::Generated(Generated::End {
        tool_calls: Vec::new(),
        finish_reason,
    }))
}

#[test]
fn an_echo_says_the_last_user_text_and_counts_its_tokens() {
    let (content, prompt, output) =
        run_to_end(&named("script-echo"), &work("Hello, you!", 100, &[])).expect("runs");
    assert_eq!(content.text, "Hello, you!");
    assert_eq!(content.finish_reason, FinishReason::Stop);
    assert_eq!(output.len(), 4);
    // Two messages of four, two more, "Be brief ." and "Hello , you !".
    assert_eq!(prompt.len(), 2 * 4 + 2 + 3 + 4);
}

#[test]
fn limits_and_stop_strings_have_real_effects() {
    let fixed = named("script-fixed-10");
    let run = |tokens, stop: &[&str]| {
        run_to_end(&fixed, &work("x", tokens, stop))
            .expect("runs")
            .0
    };
    assert_eq!(run(3, &[]).text, "t0 t1 t2");
    assert_eq!(run(3, &[]).finish_reason, FinishReason::Length);
    assert_eq!(run(0, &[]).output_units, 0);
    assert_eq!(run(10, &[]).finish_reason, FinishReason::Stop);
    assert_eq!(run(10, &["1 t2"]).text, "t0 t");
    assert_eq!(run(10, &["1 t2"]).output_units, 3);
}

#[test]
fn an_over_long_prompt_and_a_scripted_refusal_are_refused() {
    let long = work(&"word ".repeat(5000), 1, &[]);
    assert!(matches!(
        named("script-echo").prepare(&long),
        Err(RefusalReason::ContextLength { context: 4096, .. })
    ));
    let busy = faulty(Fault::Refuse(RefusalReason::Busy));
    assert_eq!(busy.prepare(&work("x", 1, &[])), Err(RefusalReason::Busy));
}

#[test]
fn a_lying_script_lies_about_count_root_and_itself() {
    let honest = named("script-fixed-5")
        .prepare(&work("x", 5, &[]))
        .expect("prepared");
    let prepare = |fault| faulty(fault).prepare(&work("x", 5, &[])).expect("prepared");
    let overcount = prepare(Fault::OvercountPrompt(7));
    assert_eq!(overcount.facts.input_units, honest.facts.input_units + 7);
    let false_root = prepare(Fault::FalsePromptRoot);
    assert_ne!(false_root.facts.prompt_root, honest.facts.prompt_root);
    let exact = named("script-fixed-5").claiming(|facts| {
        facts.tier = Tier::Exact;
        facts.model_root = Digest([1; 32]);
    });
    assert_eq!(exact.facts().tier, Tier::Exact);
}

#[tokio::test]
async fn every_fault_ends_as_it_says() {
    let executor = Executor::new(1).expect("threads");
    let cases = [
        (Fault::FailAfter(2), 2, "Failed"),
        (Fault::DisconnectAfter(3), 3, "Disconnect"),
        (Fault::PanicAfter(1), 1, "the backend panicked"),
        (Fault::FailAfter(5), 5, "Failed"),
        (Fault::Garbage, 5, "End"),
    ];
    for (fault, tokens, last) in cases {
        let backend = faulty(fault.clone());
        let prepared = executor
            .prepare(backend.clone(), work("x", 9, &[]))
            .await
            .expect("prepared");
        let events = executor
            .start(backend, prepared, CancelFlag::new())
            .expect("free");
        let (count, end) = listen(events).await;
        assert_eq!(count, tokens, "{fault:?}");
        assert!(format!("{end:?}").contains(last), "{fault:?}: {end:?}");
        patient(executor.idle()).await;
    }
}

#[tokio::test]
async fn a_stalled_job_keeps_its_slot_until_it_is_cancelled() {
    let executor = Executor::new(1).expect("threads");
    let backend = faulty(Fault::StallAfter(2));
    let prepared = backend.prepare(&work("x", 9, &[])).expect("prepared");
    let cancel = CancelFlag::new();
    let mut events = executor
        .start(backend.clone(), prepared.clone(), cancel.clone())
        .expect("free");
    for _ in 0..2 {
        assert!(patient(events.recv()).await.is_some());
    }
    assert_eq!(*executor.free_slots().borrow(), 0);
    let second = executor.start(backend, prepared, CancelFlag::new());
    assert_eq!(second.map(|_| ()), Err(Busy { slots: 1 }));

    cancel.cancel();
    assert_eq!(listen(events).await, (0, end(FinishReason::Cancelled)));
    patient(executor.idle()).await;
    assert_eq!(*executor.free_slots().borrow(), 1);
}

/// Runs until it is let go, whatever its flag says: a backend in the middle of a token.
struct Stubborn {
    inner: ScriptedBackend,
    begun: Arc<AtomicBool>,
    go: Arc<AtomicBool>,
}

impl Backend for Stubborn {
    fn facts(&self) -> &stoa_runtime::ModelFacts {
        self.inner.facts()
    }

    fn prepare(&self, work: &Work) -> Result<stoa_runtime::Prepared, RefusalReason> {
        self.inner.prepare(work)
    }

    fn run(
        &self,
        _: &stoa_runtime::Prepared,
        cancel: &CancelFlag,
        _: &mut stoa_runtime::Emit<'_>,
    ) -> Result<stoa_runtime::Generation, stoa_runtime::RunError> {
        self.begun.store(true, Ordering::SeqCst);
        while !self.go.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        let finish_reason = if cancel.is_cancelled() {
            FinishReason::Cancelled
        } else {
            FinishReason::Stop
        };
        Ok(stoa_runtime::Generation {
            tool_calls: Vec::new(),
            finish_reason,
        })
    }
}

#[tokio::test]
async fn a_job_started_just_after_a_cancellation_waits_for_the_thread_and_is_not_refused() {
    let executor = Executor::new(1).expect("threads");
    let (begun, go) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicBool::new(false)),
    );
    let slow: Arc<dyn Backend> = Arc::new(Stubborn {
        inner: named("script-echo"),
        begun: begun.clone(),
        go: go.clone(),
    });
    let prepared = slow.prepare(&work("x", 9, &[])).expect("prepared");
    let start = |cancel: &CancelFlag| {
        executor
            .start(slow.clone(), prepared.clone(), cancel.clone())
            .map_err(|busy| busy.to_string())
    };
    let first = CancelFlag::new();
    let held = start(&first).expect("free");
    assert!(start(&CancelFlag::new()).is_err(), "it is wanted");
    patient(async {
        while !begun.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    first.cancel();
    // Thousands of orders that are taken back leave no pile behind: each waiting one ends as the next comes.
    let mut last_cancelled = None;
    for _ in 0..2_000 {
        let cancel = CancelFlag::new();
        let events = start(&cancel).expect("the cancelled job takes no slot");
        cancel.cancel();
        if let Some(before) = last_cancelled.replace(events) {
            assert_eq!(listen(before).await, (0, end(FinishReason::Cancelled)));
        }
    }
    let next = start(&CancelFlag::new()).expect("the slot is free");
    assert!(start(&CancelFlag::new()).is_err(), "it is taken again");
    go.store(true, Ordering::SeqCst);
    assert_eq!(listen(held).await, (0, end(FinishReason::Cancelled)));
    assert_eq!(listen(next).await, (0, end(FinishReason::Stop)));
    patient(executor.idle()).await;
    // Nobody listening is as good as cancelled.
    go.store(false, Ordering::SeqCst);
    drop(start(&CancelFlag::new()).expect("free"));
    let next = start(&CancelFlag::new()).expect("nobody listens to the first");
    go.store(true, Ordering::SeqCst);
    assert_eq!(listen(next).await, (0, end(FinishReason::Stop)));
}

#[tokio::test]
async fn a_cancelled_job_ends_though_its_reader_does_not_read() {
    let executor = Executor::new(1).expect("threads");
    let backend: Arc<dyn Backend> = Arc::new(named("script-fixed-1000"));
    let prepared = backend
        .prepare(&work("x", u32::MAX, &[]))
        .expect("prepared");
    let cancel = CancelFlag::new();
    let unread = executor
        .start(backend, prepared, cancel.clone())
        .expect("free");
    patient(async {
        while unread.len() < 32 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    cancel.cancel();
    patient(executor.idle()).await;
    assert_eq!(listen(unread).await, (32, end(FinishReason::Cancelled)));
}

#[tokio::test]
async fn a_dropped_receiver_stops_the_job() {
    let executor = Executor::new(1).expect("threads");
    let backend: Arc<dyn Backend> = Arc::new(named("script-fixed-100000"));
    let prepared = backend
        .prepare(&work("x", u32::MAX, &[]))
        .expect("prepared");
    let mut events = executor
        .start(backend, prepared, CancelFlag::new())
        .expect("free");
    assert!(patient(events.recv()).await.is_some());
    drop(events);
    patient(executor.idle()).await;
}

#[tokio::test]
async fn a_reader_that_does_not_read_holds_its_job_back_and_no_other() {
    let executor = Executor::new(2).expect("threads");
    let backend: Arc<dyn Backend> = Arc::new(named("script-fixed-1000"));
    let prepared = backend
        .prepare(&work("x", u32::MAX, &[]))
        .expect("prepared");
    let unread = executor
        .start(backend.clone(), prepared.clone(), CancelFlag::new())
        .expect("free");
    let read = executor
        .start(backend, prepared, CancelFlag::new())
        .expect("free");
    assert_eq!(listen(read).await, (1000, end(FinishReason::Stop)));
    assert!(unread.len() <= 32, "{} events wait", unread.len());
    assert_eq!(listen(unread).await, (1000, end(FinishReason::Stop)));
}

#[tokio::test]
async fn slots_run_side_by_side_and_timings_are_kept() {
    let executor = Executor::new(8).expect("threads");
    let script = Script {
        first_token: Duration::from_millis(100),
        between_tokens: Duration::from_millis(20),
        fault: None,
    };
    let backend: Arc<dyn Backend> =
        Arc::new(ScriptedBackend::named("script-fixed-5", script).expect("known name"));
    let prepared = backend.prepare(&work("x", 9, &[])).expect("prepared");
    let begun = Instant::now();
    let jobs: Vec<_> = (0..8)
        .map(|_| {
            executor
                .start(backend.clone(), prepared.clone(), CancelFlag::new())
                .expect("free")
        })
        .collect();
    for events in jobs {
        assert_eq!(listen(events).await, (5, end(FinishReason::Stop)));
    }
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(180), "{took:?}");
    assert!(
        took < Duration::from_millis(8 * 180),
        "{took:?}: one after the other"
    );
}

#[tokio::test]
async fn tokens_after_a_cancel_are_limited_to_what_the_script_says() {
    let executor = Executor::new(1).expect("threads");
    let backend = faulty(Fault::LateAfterCancel(3));
    let prepared = backend.prepare(&work("x", 9, &[])).expect("prepared");
    let cancel = CancelFlag::new();
    cancel.cancel();
    let events = executor.start(backend, prepared, cancel).expect("free");
    assert_eq!(listen(events).await, (3, end(FinishReason::Cancelled)));
}
