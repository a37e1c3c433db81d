//! Rounds of the exact engine.

use super::{EngineArgs, Round, SHORT, peak_bytes, spent};
use crate::commands::Outcome;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::Instant;
use stoa_engine::{
    Ended, EngineError, Entry, Generation, Kernel, Model, ROWS, Request, Runner, Scheduler,
    SchedulerOptions, Sequence, Sink, Tenant, TextOptions, Threads, TokenEvent, Wanted,
};
use stoa_types::SamplingParameters;

/// The inner loops of a name.
pub(super) fn kernel(name: &str) -> Outcome<Kernel> {
    let all = Kernel::available();
    all.iter()
        .copied()
        .find(|k| k.name() == name)
        .ok_or_else(|| {
            let names: Vec<_> = all.iter().map(|k| k.name()).collect();
            format!(
                "this processor has no kernel {name:?}; it has {}",
                names.join(", ")
            )
            .into()
        })
}

/// A round as it was asked for, beside the plainest.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct OwnRound {
    /// With the threads and answers that were asked for.
    pub asked: Round,
    /// With one thread and one answer.
    pub one: Round,
    /// Seconds from a request to its first token, through the scheduler.
    pub first_token: f64,
    /// The same of a prompt of which nine tenths were asked before.
    pub first_token_cached: f64,
}

/// The exact engine, ready to be measured.
pub(super) struct Own<'a> {
    args: &'a EngineArgs,
    one: Runner,
    /// Where more was asked for than one thread.
    many: Option<Runner>,
    scheduler: Scheduler,
}

impl<'a> Own<'a> {
    pub fn new(model: &Arc<Model>, args: &'a EngineArgs) -> Outcome<Self> {
        let threads = args.threads as usize;
        let runner = |threads| Ok::<_, EngineError>(Runner::new(model, Threads::new(threads)?));
        Ok(Self {
            args,
            one: runner(1)?,
            many: (threads > 1).then(|| runner(threads)).transpose()?,
            scheduler: Scheduler::start(
                model,
                SchedulerOptions {
                    threads,
                    cache_bytes: 1 << 40,
                    answers: 1,
                    // Of random weights nothing can be guessed.
                    guesses: false,
                },
            )?,
        })
    }

    pub fn round(&mut self, number: u32) -> Outcome<OwnRound> {
        let args = self.args;
        let one = round(&mut self.one, number, args, 1)?;
        let asked = match &mut self.many {
            Some(runner) => round(runner, number, args, args.batch)?,
            None if args.batch > 1 => round(&mut self.one, number, args, args.batch)?,
            None => one,
        };
        let whole = prompt(self.one.model(), number, args.prompt);
        let (known, fresh) = (&whole[..whole.len() * 9 / 10], tenants(number));
        let first_token = self.first_token(fresh[0], &whole)?;
        // Another tenant finds nothing of what this one asked.
        self.first_token(fresh[1], known)?;
        Ok(OwnRound {
            asked,
            one,
            first_token,
            first_token_cached: self.first_token(fresh[1], &whole)?,
        })
    }

    /// Seconds until the one token of an answer.
    fn first_token(&self, tenant: Tenant, prompt: &[u32]) -> Outcome<f64> {
        let parameters = SamplingParameters {
            max_output_tokens: 1,
            ..SamplingParameters::default()
        };
        let (told, heard) = channel();
        let begun = Instant::now();
        self.scheduler.submit(Request {
            tenant,
            prompt: prompt.to_vec(),
            generation: Generation::new(
                self.one.model(),
                prompt.len(),
                &parameters,
                TextOptions::default(),
            ),
            sink: Box::new(FirstToken(told)),
        });
        match heard.recv() {
            Ok(Ok(at)) => Ok(at.duration_since(begun).as_secs_f64()),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err("the engine ended without an answer".into()),
        }
    }
}

/// Two that asked nothing in earlier rounds.
fn tenants(number: u32) -> [Tenant; 2] {
    [0, 1].map(|n| {
        let mut name = [n; 32];
        name[..4].copy_from_slice(&number.to_be_bytes());
        Tenant(name)
    })
}

/// Tells when its token came.
struct FirstToken(Sender<Result<Instant, EngineError>>);

impl Sink for FirstToken {
    fn token(&mut self, _: TokenEvent) -> bool {
        self.0.send(Ok(Instant::now())).is_ok()
    }

    fn end(self: Box<Self>, ended: Ended) {
        if let Ended::Failed(error) = ended {
            let _ = self.0.send(Err(error));
        }
    }

    fn has_room(&self) -> bool {
        true
    }

    fn is_cancelled(&self) -> bool {
        false
    }
}

/// Tokens of a prompt, as the peer has them.
fn prompt(model: &Model, seed: u32, count: u32) -> Vec<u32> {
    let vocab = model.config().vocab as u64;
    let id = |n: u32| {
        let (seed, n) = (u64::from(seed), u64::from(n));
        ((seed * 31 + n * n * 7 + n) % 256 % vocab) as u32
    };
    (0..count).map(id).collect()
}

/// One prompt, then `batch` answers at once.
fn round(runner: &mut Runner, number: u32, args: &EngineArgs, batch: u32) -> Outcome<Round> {
    let model = Arc::clone(runner.model());
    let whole = prompt(&model, number, args.prompt);
    let prefill = spent(|| read(runner, &whole).map(drop))?;
    let mut answers = (0..batch)
        .map(|i| read(runner, &prompt(&model, number + 1_000 * i, SHORT)))
        .collect::<Result<Vec<_>, _>>()?;
    let decode = spent(|| (0..args.tokens).try_for_each(|_| step(runner, &mut answers)))?;
    Ok(Round {
        prefill,
        decode,
        peak_bytes: peak_bytes(),
    })
}

/// A sequence and the logits after it.
type Answering = (Sequence, Vec<i32>);

fn read(runner: &mut Runner, prompt: &[u32]) -> Result<Answering, EngineError> {
    let mut sequence = Sequence::new(runner.model().config());
    let mut logits = Vec::new();
    for part in prompt.chunks(ROWS) {
        let last = sequence.len() + part.len() == prompt.len();
        let wanted = if last {
            Wanted::Last(&mut logits)
        } else {
            Wanted::Nothing
        };
        runner.run(&mut [Entry {
            sequence: &mut sequence,
            tokens: part,
            wanted,
        }])?;
    }
    Ok((sequence, logits))
}

/// The likeliest next token of every answer.
fn step(runner: &mut Runner, answers: &mut [Answering]) -> Result<(), EngineError> {
    let next: Vec<[u32; 1]> = answers.iter().map(|(_, l)| [highest(l)]).collect();
    let entries = answers.iter_mut().zip(&next);
    let mut entries: Vec<_> = entries
        .map(|((sequence, logits), token)| Entry {
            sequence,
            tokens: token,
            wanted: Wanted::Last(logits),
        })
        .collect();
    runner.run(&mut entries)
}

fn highest(logits: &[i32]) -> u32 {
    let best = (0u32..).zip(logits).max_by_key(|(_, logit)| **logit);
    best.map_or(0, |(id, _)| id)
}
