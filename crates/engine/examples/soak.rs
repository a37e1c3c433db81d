//! Many streams for a long time, some of them broken off: whether memory stays flat and nobody starves.
//!
//! `cargo run --release -p stoa-engine --example soak -- MODEL MINUTES STREAMS THREADS`. Prompts, answers, tenants and cancellations are
//! drawn from a seed; half of the prompts begin like an earlier one of their tenant. Every tenth whole answer is computed again alone and
//! compared. Memory is the resident set, read every second after the first tenth of the time; a gap is the time from one token of a stream
//! to its next, the first one counted from the request.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};
use stoa_engine::{
    Ended, Finish, Generation, Model, Request, Scheduler, SchedulerOptions, Sink, Tenant,
    TextOptions, TokenEvent, generate,
};
use stoa_types::{Q16, SamplingParameters};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, numbers @ ..] = &arguments[..] else {
        return Err("give a model, minutes, streams and threads".into());
    };
    let number = |i: usize, default: u64| numbers.get(i).map_or(Ok(default), |n| n.parse());
    let (minutes, streams, threads) = (number(0, 60)?, number(1, 16)?, number(2, 2)?);
    let model = Arc::new(Model::open(path)?);
    let options = SchedulerOptions {
        threads: threads as usize,
        cache_bytes: 64 << 20,
        answers: streams as usize,
        guesses: true,
    };
    let mut soak = Soak::new(model, options)?;
    soak.run(streams as usize, Duration::from_secs(60 * minutes))?;
    soak.tell(minutes, streams);
    if soak.wrong > 0 || soak.failed > 0 {
        return Err("some answers were wrong or failed".into());
    }
    Ok(())
}

/// A stream that runs.
struct Stream {
    prompt: Vec<u32>,
    parameters: SamplingParameters,
    tokens: Vec<u32>,
    last: Instant,
    /// Cancelled after so many tokens.
    leaves_at: Option<usize>,
    cancelled: Arc<AtomicBool>,
}

struct Soak {
    model: Arc<Model>,
    scheduler: Scheduler,
    random: u64,
    told: Sender<(u64, Told)>,
    heard: Receiver<(u64, Told)>,
    running: BTreeMap<u64, Stream>,
    next: u64,
    gaps: Times,
    first: Times,
    memory: Vec<u64>,
    whole: u64,
    left: u64,
    compared: u64,
    wrong: u64,
    failed: u64,
}

enum Told {
    /// When it was made, too: who compares answers reads late.
    Token(u32, Instant),
    End(Ended),
}

impl Soak {
    fn new(model: Arc<Model>, options: SchedulerOptions) -> Result<Self, Failure> {
        let (told, heard) = channel();
        Ok(Self {
            scheduler: Scheduler::start(&model, options)?,
            model,
            random: 1,
            told,
            heard,
            running: BTreeMap::new(),
            next: 0,
            gaps: Times::new(),
            first: Times::new(),
            // Everything that is noted has its room from the start: only the engine's memory may change.
            memory: Vec::with_capacity(1 << 16),
            whole: 0,
            left: 0,
            compared: 0,
            wrong: 0,
            failed: 0,
        })
    }

    fn below(&mut self, n: usize) -> usize {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) as usize % n.max(1)
    }

    fn run(&mut self, streams: usize, time: Duration) -> Result<(), Failure> {
        let begun = Instant::now();
        let mut look = begun + time / 10;
        while begun.elapsed() < time || !self.running.is_empty() {
            while self.running.len() < streams && begun.elapsed() < time {
                self.ask();
            }
            match self.heard.recv_timeout(Duration::from_secs(60)) {
                Ok((name, told)) => self.hear(name, told)?,
                Err(RecvTimeoutError::Timeout) => return Err("no token within a minute".into()),
                Err(error) => return Err(error.into()),
            }
            if Instant::now() > look && begun.elapsed() < time {
                self.memory.push(resident_bytes());
                look += Duration::from_secs(1);
            }
        }
        Ok(())
    }

    fn ask(&mut self) {
        let (context, vocab) = (self.model.config().context, self.model.config().vocab);
        let tenant = self.below(5) as u8;
        let shared = self.below(2) * self.below(context / 3);
        let beginning = (0..shared).map(|i| (i * i + usize::from(tenant)) % vocab);
        let mut prompt: Vec<u32> = beginning.map(|id| id as u32).collect();
        for _ in 0..1 + self.below(context / 4) {
            prompt.push(self.below(vocab) as u32);
        }
        let parameters = SamplingParameters {
            temperature: Q16::ONE,
            seed: self.next,
            max_output_tokens: 1 + self.below(context / 4) as u32,
            ..SamplingParameters::default()
        };
        let leaves = self.below(4) == 0;
        let stream = Stream {
            leaves_at: leaves.then(|| self.below(parameters.max_output_tokens as usize)),
            tokens: Vec::new(),
            last: Instant::now(),
            cancelled: Arc::default(),
            prompt: prompt.clone(),
            parameters: parameters.clone(),
        };
        self.next += 1;
        self.scheduler.submit(Request {
            tenant: Tenant([tenant; 32]),
            generation: Generation::new(
                &self.model,
                prompt.len(),
                &parameters,
                TextOptions::default(),
            ),
            prompt,
            sink: Box::new(Reader {
                name: self.next,
                told: self.told.clone(),
                cancelled: Arc::clone(&stream.cancelled),
            }),
        });
        self.running.insert(self.next, stream);
    }

    fn hear(&mut self, name: u64, told: Told) -> Result<(), Failure> {
        let Some(stream) = self.running.get_mut(&name) else {
            return Ok(());
        };
        match told {
            Told::Token(id, at) => {
                let gap = at.duration_since(stream.last);
                if stream.tokens.is_empty() {
                    self.first.add(gap);
                } else {
                    self.gaps.add(gap);
                }
                stream.last = at;
                stream.tokens.push(id);
                if stream.leaves_at.is_some_and(|at| stream.tokens.len() > at) {
                    stream.cancelled.store(true, Ordering::Relaxed);
                }
            }
            Told::End(ended) => {
                let Some(stream) = self.running.remove(&name) else {
                    return Ok(());
                };
                match ended {
                    Ended::Finished(Finish::Cancelled) => self.left += 1,
                    Ended::Finished(_) => self.finished(&stream)?,
                    Ended::Failed(_) => self.failed += 1,
                }
            }
        }
        Ok(())
    }

    fn finished(&mut self, stream: &Stream) -> Result<(), Failure> {
        self.whole += 1;
        if self.whole.is_multiple_of(10) {
            let (options, down) = (TextOptions::default(), AtomicBool::new(false));
            let (prompt, parameters) = (&stream.prompt, &stream.parameters);
            let alone = generate(&self.model, prompt, parameters, options, &down, |_| {
                ControlFlow::Continue(())
            })?;
            self.compared += 1;
            self.wrong += u64::from(alone.tokens != stream.tokens);
        }
        Ok(())
    }

    fn tell(&self, minutes: u64, streams: u64) {
        let (least, most) = (
            self.memory.iter().min().copied().unwrap_or(0),
            self.memory.iter().max().copied().unwrap_or(0),
        );
        println!(
            "{minutes} min, {streams} streams: {} whole answers, {} broken off, {} failed; {} compared with the same alone, {} differ",
            self.whole, self.left, self.failed, self.compared, self.wrong
        );
        println!("{:?}", self.scheduler.stats());
        println!(
            "memory from {} to {} kB: {:.2} % above the least",
            least >> 10,
            most >> 10,
            (most as f64 / least.max(1) as f64 - 1.0) * 100.0
        );
        for (name, times) in [("first token", &self.first), ("gap", &self.gaps)] {
            let (median, high, most) = (times.at(0.5), times.at(0.99), times.at(1.0));
            println!(
                "{name}: median {median:.2} ms, 99 % within {high:.2} ms, longest {most:.2} ms, {:.1} medians",
                most / median
            );
        }
    }
}

/// Times, counted in steps of a twentieth from a microsecond on.
struct Times(Vec<u64>);

impl Times {
    fn new() -> Self {
        Self(vec![0; 600])
    }

    fn add(&mut self, time: Duration) {
        let micros = (time.as_secs_f64() * 1e6).max(1.0);
        let step = (micros.ln() / 1.05_f64.ln()) as usize;
        let last = self.0.len() - 1;
        self.0[step.min(last)] += 1;
    }

    /// Milliseconds within which so large a share is.
    fn at(&self, share: f64) -> f64 {
        let wanted = (self.0.iter().sum::<u64>() as f64 * share).ceil() as u64;
        let mut seen = 0;
        let step = self.0.iter().position(|count| {
            seen += count;
            seen >= wanted
        });
        1.05_f64.powi(step.unwrap_or(0) as i32 + 1) / 1_000.0
    }
}

/// Resident memory of this process; 0 where the system does not say.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1_024
}

struct Reader {
    name: u64,
    told: Sender<(u64, Told)>,
    cancelled: Arc<AtomicBool>,
}

impl Sink for Reader {
    fn token(&mut self, event: TokenEvent) -> bool {
        let told = Told::Token(event.id, Instant::now());
        self.told.send((self.name, told)).is_ok()
    }

    fn end(self: Box<Self>, ended: Ended) {
        let _ = self.told.send((self.name, Told::End(ended)));
    }

    fn has_room(&self) -> bool {
        true
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}
