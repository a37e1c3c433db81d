//! Rounds of the exact engine.

use super::{EngineArgs, Round, SHORT, Spent, peak_bytes, spent};
use crate::commands::Outcome;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread;
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
    /// Seconds of as many prompts at once as there are threads, each read by one thread that shares nothing with the others: what the
    /// machine gives so many threads. Where more than one was asked for.
    pub prefill_apart: Option<f64>,
    /// Seconds from a request to its first token, through the scheduler.
    pub first_token: f64,
    /// The same of a prompt of which nine tenths were asked before.
    pub first_token_cached: f64,
}

/// The exact engine, ready to be measured.
pub(super) struct Own<'a> {
    args: &'a EngineArgs,
    /// As many as threads were asked for, of one thread each.
    single: Vec<Runner>,
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
            single: (0..threads).map(|_| runner(1)).collect::<Result<_, _>>()?,
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

    fn model(&self) -> &Arc<Model> {
        self.single[0].model()
    }

    pub fn round(&mut self, number: u32) -> Outcome<OwnRound> {
        let args = self.args;
        let whole = prompt(self.model(), number, args.prompt);
        let prefill = self.prefill(&whole)?;
        let decode = answer(&mut self.single[0], number, args, 1)?;
        let one = Round {
            prefill: prefill.one,
            decode,
            peak_bytes: peak_bytes(),
        };
        let decode = match &mut self.many {
            Some(runner) => answer(runner, number, args, args.batch)?,
            None if args.batch > 1 => answer(&mut self.single[0], number, args, args.batch)?,
            None => decode,
        };
        let asked = Round {
            prefill: prefill.many.unwrap_or(prefill.one),
            decode,
            peak_bytes: peak_bytes(),
        };
        let (known, fresh) = (&whole[..whole.len() * 9 / 10], tenants(number));
        let first_token = self.first_token(fresh[0], &whole)?;
        // Another tenant finds nothing of what this one asked.
        self.first_token(fresh[1], known)?;
        Ok(OwnRound {
            asked,
            one,
            prefill_apart: prefill.apart,
            first_token,
            first_token_cached: self.first_token(fresh[1], &whole)?,
        })
    }

    /// The whole prompt with one thread, with all, and with each apart, part by part in turns: a machine whose speed changes within a
    /// second changes it for all of them.
    fn prefill(&mut self, whole: &[u32]) -> Outcome<Prefill> {
        let model = Arc::clone(self.model());
        let (one, others) = self.single.split_at_mut(1);
        let mut reading = Reading::of(&model);
        let mut many = self.many.as_mut().map(|many| (many, Reading::of(&model)));
        let mut apart: Vec<Reading> = others.iter().map(|_| Reading::of(&model)).collect();
        let (mut first, mut told) = (Reading::of(&model), Prefill::default());
        for part in whole.chunks(ROWS) {
            told.one += spent(|| reading.read(&mut one[0], part, whole.len()))?;
            let Some((many, with_all)) = &mut many else {
                continue;
            };
            let spent_by_all = spent(|| with_all.read(many, part, whole.len()))?;
            *told.many.get_or_insert_default() += spent_by_all;
            let at_once = spent(|| {
                thread::scope(|scope| {
                    let started: Vec<_> = others
                        .iter_mut()
                        .zip(&mut apart)
                        .map(|(runner, own)| scope.spawn(|| own.read(runner, part, whole.len())))
                        .collect();
                    first.read(&mut one[0], part, whole.len())?;
                    started.into_iter().try_for_each(|one| {
                        one.join()
                            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                    })
                })
            })?;
            *told.apart.get_or_insert_default() += at_once.wall;
        }
        Ok(told)
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
                self.model(),
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

/// What reading the prompt took.
#[derive(Default)]
struct Prefill {
    one: Spent,
    many: Option<Spent>,
    apart: Option<f64>,
}

/// `batch` answers at once, each after a short prompt.
fn answer(runner: &mut Runner, number: u32, args: &EngineArgs, batch: u32) -> Outcome<Spent> {
    let model = Arc::clone(runner.model());
    let mut answers = Vec::new();
    for i in 0..batch {
        let mut reading = Reading::of(&model);
        reading.read(
            runner,
            &prompt(&model, number + 1_000 * i, SHORT),
            SHORT as usize,
        )?;
        answers.push(reading);
    }
    Ok(spent(|| {
        (0..args.tokens).try_for_each(|_| step(runner, &mut answers))
    })?)
}

/// A sequence and, once its prompt is read, the logits after it.
struct Reading {
    sequence: Sequence,
    logits: Vec<i32>,
}

impl Reading {
    fn of(model: &Model) -> Self {
        Self {
            sequence: Sequence::new(model.config()),
            logits: Vec::new(),
        }
    }

    /// The next part of a prompt of `whole` tokens.
    fn read(&mut self, runner: &mut Runner, part: &[u32], whole: usize) -> Result<(), EngineError> {
        let last = self.sequence.len() + part.len() == whole;
        let wanted = if last {
            Wanted::Last(&mut self.logits)
        } else {
            Wanted::Nothing
        };
        runner.run(&mut [Entry {
            sequence: &mut self.sequence,
            tokens: part,
            wanted,
        }])
    }
}

/// The likeliest next token of every answer.
fn step(runner: &mut Runner, answers: &mut [Reading]) -> Result<(), EngineError> {
    let next: Vec<[u32; 1]> = answers.iter().map(|a| [highest(&a.logits)]).collect();
    let entries = answers.iter_mut().zip(&next);
    let mut entries: Vec<_> = entries
        .map(|(answer, token)| Entry {
            sequence: &mut answer.sequence,
            tokens: token,
            wanted: Wanted::Last(&mut answer.logits),
        })
        .collect();
    runner.run(&mut entries)
}

fn highest(logits: &[i32]) -> u32 {
    let best = (0u32..).zip(logits).max_by_key(|(_, logit)| **logit);
    best.map_or(0, |(id, _)| id)
}
