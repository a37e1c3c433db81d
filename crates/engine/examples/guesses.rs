//! What guessing tokens saves: the tasks of a model one after the other, with guesses and without.
//!
//! `cargo run --release -p stoa-engine --example guesses -- models/stoa-tiny/stoa-tiny.Q8_0.gguf models/stoa-tiny/heldout.jsonl [TEMPERATURE]`
//!
//! Greedy without a temperature. Tokens must be the same; passes and seconds of processor are told by family of tasks, of every fifth task.
//! Without a file of tasks: one long text that repeats itself, then one that does not.

use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::Instant;
use stoa_engine::{
    Ended, Generation, Model, Request, Scheduler, SchedulerOptions, Sink, Tenant, TextOptions,
    TokenEvent,
};
use stoa_types::{Q16, SamplingParameters};

type Failure = Box<dyn std::error::Error>;

/// Most tokens of an answer.
const ANSWER: u32 = 200;

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let model = arguments.next().ok_or("name a model")?;
    let tasks = arguments.next();
    let temperature = arguments.next().map_or(Ok(0.0), |t| t.parse())?;
    let temperature = Q16::from_f64(temperature).ok_or("no such temperature")?;
    let model = Arc::new(Model::open(model)?);
    let tasks = match tasks {
        Some(file) => tasks_of(&model, &std::fs::read_to_string(file)?)?,
        None => random(&model),
    };
    println!(
        "family | tokens | passes without | passes with | guessed | right | seconds without | with | ratio"
    );
    let (mut all, mut differ) = (Sums::default(), 0);
    for (family, prompts) in tasks {
        let [plain, guessing] =
            [false, true].map(|guesses| run(&model, guesses, &prompts, temperature));
        let ((plain_tokens, plain), (tokens, guessing)) = (plain?, guessing?);
        differ += usize::from(tokens != plain_tokens);
        let sums = Sums { plain, guessing };
        sums.tell(&family);
        all.add(&sums);
    }
    all.tell("all");
    if differ > 0 {
        return Err(format!("answers of {differ} families differ").into());
    }
    println!("no token differs");
    Ok(())
}

#[derive(Default, Clone, Copy)]
struct Sum {
    tokens: u64,
    passes: u64,
    guessed: u64,
    right: u64,
    seconds: f64,
}

#[derive(Default)]
struct Sums {
    plain: Sum,
    guessing: Sum,
}

impl Sums {
    fn add(&mut self, more: &Self) {
        for (sum, more) in [
            (&mut self.plain, more.plain),
            (&mut self.guessing, more.guessing),
        ] {
            sum.tokens += more.tokens;
            sum.passes += more.passes;
            sum.guessed += more.guessed;
            sum.right += more.right;
            sum.seconds += more.seconds;
        }
    }

    fn tell(&self, family: &str) {
        let (plain, guessing) = (self.plain, self.guessing);
        println!(
            "{family} | {} | {} | {} | {} | {} | {:.3} | {:.3} | {:.3}",
            plain.tokens,
            plain.passes,
            guessing.passes,
            guessing.guessed,
            guessing.right,
            plain.seconds,
            guessing.seconds,
            plain.seconds / guessing.seconds,
        );
    }
}

/// Answers to prompts one after the other, each of a tenant of its own.
fn run(
    model: &Arc<Model>,
    guesses: bool,
    prompts: &[Vec<u32>],
    temperature: Q16,
) -> Result<(Vec<u32>, Sum), Failure> {
    let options = SchedulerOptions {
        threads: 1,
        cache_bytes: 1 << 30,
        answers: 1,
        guesses,
    };
    let scheduler = Scheduler::start(model, options)?;
    let (told, heard) = channel();
    let (mut tokens, mut seconds) = (Vec::new(), 0.0);
    for (number, prompt) in prompts.iter().enumerate() {
        let parameters = SamplingParameters {
            temperature,
            seed: number as u64,
            max_output_tokens: ANSWER,
            ..SamplingParameters::default()
        };
        let (begin, before) = (Instant::now(), tokens.len());
        let mut tenant = [0; 32];
        tenant[..8].copy_from_slice(&(number as u64).to_be_bytes());
        scheduler.submit(Request {
            tenant: Tenant(tenant),
            prompt: prompt.clone(),
            generation: Generation::new(model, prompt.len(), &parameters, TextOptions::default()),
            sink: Box::new(Listener(told.clone())),
        });
        let mut first = begin;
        while let Ok(Some(id)) = heard.recv() {
            // The time of the prompt is another matter.
            first = if tokens.len() == before {
                Instant::now()
            } else {
                first
            };
            tokens.push(id);
        }
        seconds += first.elapsed().as_secs_f64();
    }
    let stats = scheduler.stats();
    let sum = Sum {
        tokens: tokens.len() as u64,
        passes: stats.passes,
        guessed: stats.guessed_tokens,
        right: stats.guessed_right,
        seconds,
    };
    Ok((tokens, sum))
}

struct Listener(Sender<Option<u32>>);

impl Sink for Listener {
    fn token(&mut self, event: TokenEvent) -> bool {
        self.0.send(Some(event.id)).is_ok()
    }

    fn end(self: Box<Self>, _: Ended) {
        let _ = self.0.send(None);
    }

    fn has_room(&self) -> bool {
        true
    }

    fn is_cancelled(&self) -> bool {
        false
    }
}

fn tasks_of(model: &Model, file: &str) -> Result<BTreeMap<String, Vec<Vec<u32>>>, Failure> {
    let mut tasks: BTreeMap<String, Vec<Vec<u32>>> = BTreeMap::new();
    for line in file.lines().step_by(5) {
        let task: Value = serde_json::from_str(line)?;
        let tools = task.get("tools").map(Value::to_string);
        let text = model.render_chat(&task["messages"].to_string(), tools.as_deref(), true)?;
        let family = task["family"].as_str().unwrap_or("tasks").to_owned();
        let prompt = model.tokenizer().encode(&text, true)?;
        tasks.entry(family).or_default().push(prompt);
    }
    Ok(tasks)
}

/// For a model of random weights.
fn random(model: &Model) -> BTreeMap<String, Vec<Vec<u32>>> {
    let vocab = model.config().vocab as u64;
    let text = |period: u64| -> Vec<u32> {
        let tokens = (0..256).map(|i| ((i % period) * 7_919 + 11) % vocab);
        tokens.map(|token| token as u32).collect()
    };
    let texts = [
        ("repeats", vec![text(9)]),
        ("does not repeat", vec![text(997)]),
    ];
    texts.map(|(name, texts)| (name.to_owned(), texts)).into()
}
