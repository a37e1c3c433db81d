//! Whether every way through the engine gives the same bits: all kernels, one and two threads, one, four and sixteen sequences in a
//! pass, prompts in parts of any length beside tokens one by one, beginnings found in the cache.
//!
//! `cargo run --release -p stoa-engine --example same_bits -- 10000 llama qwen3 mixtral`: tokens for each architecture, and which (all
//! when none is named). Models are random; a state is the logits after a token, which hang on everything before it. The reference is the
//! scalar kernel, token by token, alone.

#[path = "../tests/support/mod.rs"]
mod support;

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Sender, channel};
use stoa_crypto::keccak256;
use stoa_engine::{
    Ended, Entry, Generation, Kernel, LoadOptions, Model, Request, Runner, Scheduler,
    SchedulerOptions, Sequence, Sink, Tenant, TextOptions, Threads, TokenEvent, Wanted, generate,
};
use stoa_types::{Q16, SamplingParameters, SignedQ16};
use support::{Family, GgufWriter, Random, Shape, Storage, Toy};

/// Tokens of a text.
const TEXT: usize = 400;

/// The hash of the logits after each token of each text.
type States = Vec<Vec<[u8; 32]>>;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let count: usize = arguments.first().map_or(Ok(2_000), |n| n.parse())?;
    let mut differing = 0;
    for family in Family::DECODERS {
        let name = format!("{family:?}").to_lowercase();
        if arguments.len() < 2 || arguments[1..].contains(&name) {
            differing += one(family, count)?;
        }
    }
    println!("{differing} differing states in all");
    std::process::exit(i32::from(differing > 0));
}

/// Compares all ways for one architecture; gives the number of states that differ.
fn one(family: Family, count: usize) -> Result<usize, Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let shape = Shape {
        width: 256,
        layers: 3,
        heads: 8,
        kv_heads: 2,
        context: 1_024,
        ..Shape::of(family)
    };
    let writer = GgufWriter::new(&Toy::new(shape, 7), Storage::Q8_0);
    let path = writer.write(folder.path(), "random.gguf");
    let texts: Vec<Vec<u32>> = (0..count.div_ceil(TEXT))
        .map(|n| tokens(TEXT.min(count - n * TEXT), n as u64))
        .collect();
    let mut reference = Runner::new(&open(&path, Kernel::SCALAR)?, Threads::one());
    let expected = states(&mut reference, &texts, 1, 1)?;
    let mut differing = 0;
    for kernel in Kernel::available() {
        let model = open(&path, kernel)?;
        for threads in [1, 2] {
            let mut runner = Runner::new(&model, Threads::new(threads)?);
            for batch in [1, 4, 16] {
                let found = states(&mut runner, &texts, batch, 70)?;
                let wrong = differences(&expected, &found);
                println!(
                    "{family:?}, {} kernel, {threads} thread(s), {batch} at once: {wrong} of {count} states differ",
                    kernel.name()
                );
                differing += wrong;
            }
        }
        let wrong = answers(&model, count, false)? + answers(&model, count, true)?;
        println!(
            "{family:?}, {} kernel, answers with cached beginnings, with and without guesses: {wrong} of {} tokens differ",
            kernel.name(),
            2 * count
        );
        differing += wrong;
    }
    Ok(differing)
}

fn open(path: &Path, kernel: Kernel) -> Result<Arc<Model>, Box<dyn std::error::Error>> {
    let options = LoadOptions {
        kernel: Some(kernel),
        ..LoadOptions::default()
    };
    Ok(Arc::new(Model::open_with(path, options)?))
}

fn tokens(count: usize, seed: u64) -> Vec<u32> {
    let mut random = Random(seed);
    (0..count).map(|_| random.below(259)).collect()
}

/// States of all texts, `batch` of them in a pass, each with a random number of tokens below `longest` (1: token by token).
fn states(
    runner: &mut Runner,
    texts: &[Vec<u32>],
    batch: usize,
    longest: u32,
) -> Result<States, Box<dyn std::error::Error>> {
    let model = Arc::clone(runner.model());
    let (mut random, vocab) = (Random(batch as u64), model.config().vocab);
    let mut found = vec![Vec::new(); texts.len()];
    for (texts, found) in texts.chunks(batch).zip(found.chunks_mut(batch)) {
        let mut sequences = vec![Sequence::new(model.config()); texts.len()];
        while sequences.iter().zip(texts).any(|(s, t)| s.len() < t.len()) {
            let mut logits = vec![Vec::new(); texts.len()];
            let mut entries = Vec::new();
            for ((sequence, text), logits) in sequences.iter_mut().zip(texts).zip(&mut logits) {
                let left = &text[sequence.len()..];
                let part = left.len().min(1 + random.below(longest) as usize);
                if part > 0 {
                    entries.push(Entry {
                        sequence,
                        tokens: &left[..part],
                        wanted: Wanted::Each(logits),
                    });
                }
            }
            runner.run(&mut entries)?;
            for (found, logits) in found.iter_mut().zip(&logits) {
                found.extend(logits.chunks(vocab).map(hash));
            }
        }
    }
    Ok(found)
}

fn hash(logits: &[i32]) -> [u8; 32] {
    let bytes: Vec<u8> = logits.iter().flat_map(|l| l.to_be_bytes()).collect();
    keccak256(&bytes).0
}

fn differences(expected: &States, found: &States) -> usize {
    let pairs = expected.iter().zip(found);
    pairs
        .map(|(e, f)| {
            let alike = e.iter().zip(f).filter(|(e, f)| e == f).count();
            e.len().max(f.len()) - alike
        })
        .sum()
}

/// Answers of many requests at once, every second one greedy, with beginnings that were asked before and with or without guesses, beside
/// each of them alone; gives the tokens that differ. Where guesses are wanted only four tokens are chosen from, so that much of an answer
/// stood there before: what follows is guessed often, and rightly by half.
fn answers(
    model: &Arc<Model>,
    count: usize,
    guesses: bool,
) -> Result<usize, Box<dyn std::error::Error>> {
    const ANSWER: u32 = 50;
    let few = (64..68).map(|token| (token, SignedQ16(100 << 16)));
    let options = SchedulerOptions {
        threads: 2,
        cache_bytes: 1 << 30,
        // Small models are worth guesses only alone.
        answers: if guesses { 1 } else { 16 },
        guesses,
    };
    let scheduler = Scheduler::start(model, options)?;
    let (told, heard) = channel();
    let mut asked = Vec::new();
    for number in 0..count.div_ceil(ANSWER as usize) {
        let mut prompt = tokens(200, number as u64 % 4);
        prompt.extend(tokens(number % 30 + 1, number as u64));
        let parameters = SamplingParameters {
            temperature: [Q16(0), Q16::ONE][number % 2],
            seed: number as u64,
            max_output_tokens: ANSWER,
            logit_bias: few.clone().filter(|_| guesses).collect(),
            ..SamplingParameters::default()
        };
        let generation = Generation::new(model, prompt.len(), &parameters, TextOptions::default());
        scheduler.submit(Request {
            tenant: Tenant([0; 32]),
            prompt: prompt.clone(),
            generation,
            sink: Box::new(Collector {
                tokens: Vec::new(),
                number,
                told: told.clone(),
            }),
        });
        asked.push((prompt, parameters));
    }
    drop(told);
    let mut wrong = 0;
    for (number, tokens) in heard {
        let (prompt, parameters) = &asked[number];
        let (options, down) = (TextOptions::default(), AtomicBool::new(false));
        let alone = generate(model, prompt, parameters, options, &down, |_| {
            ControlFlow::Continue(())
        })?;
        let alike = alone.tokens.iter().zip(&tokens).take_while(|(a, t)| a == t);
        wrong += alone.tokens.len().max(tokens.len()) - alike.count();
    }
    let stats = scheduler.stats();
    println!(
        "{} tokens of prompts were found in the cache, {} guessed and {} of them right",
        stats.reused_tokens, stats.guessed_tokens, stats.guessed_right
    );
    match guesses && stats.guessed_right == 0 {
        true => Err("no guess was right, so nothing was compared".into()),
        false => Ok(wrong),
    }
}

struct Collector {
    tokens: Vec<u32>,
    number: usize,
    told: Sender<(usize, Vec<u32>)>,
}

impl Sink for Collector {
    fn token(&mut self, event: TokenEvent) -> bool {
        self.tokens.push(event.id);
        true
    }

    fn end(self: Box<Self>, _: Ended) {
        let _ = self.told.send((self.number, self.tokens));
    }

    fn has_room(&self) -> bool {
        true
    }

    fn is_cancelled(&self) -> bool {
        false
    }
}
