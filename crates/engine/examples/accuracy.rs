//! How far the exact engine is from float32, beside a float engine that computes with Q8_0 as llama.cpp does, on the same weights.
//!
//! `cargo run --release -p stoa-engine --example accuracy -- models/stoa-tiny` takes a model as it was published, before any of its
//! weights was rounded, and the texts of its `heldout.jsonl`; `-- random [POSITIONS [FAMILY]]` models of random weights of every decoder's
//! architecture, each as it is and with outlier channels planted in two ways; `-- cross FOLDER` writes Q8_0
//! files and what float32 makes of them: `architectures_against_llama_cpp.py` says how far llama.cpp is from that.

#[path = "../tests/support/mod.rs"]
mod support;

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use stoa_engine::import::Checkpoint;
use stoa_engine::{Model, Session};
use support::float_reference::Rounding::{Blocks, Exact, Half, Heads};
use support::float_reference::{FloatReference, Rounding, Roundings, log_softmax};
use support::{Family, GgufWriter, Random, Shape, Storage, Toy, write_folder};

type Failure = Box<dyn std::error::Error>;

/// Positions of the default model's texts.
const POSITIONS: usize = 4_000;
/// Channels of a random model that are made outliers: each in a block of its own.
const OUTLIERS: [usize; 3] = [7, 100, 201];
/// How much larger they are than the others.
const TIMES: f32 = 100.0;

/// Float engines beside the exact one: first as llama.cpp computes; then with the exact engine's cache, all of it or in part; then with
/// one rounding alone.
const ENGINES: [(&str, Roundings); 11] = [
    ("Q8_0", Roundings::Q8_0),
    ("Q8_0, cache in Q8_0 too", Roundings::Q8_0_CACHE),
    (
        "Q8_0, cache as here",
        rounds([Blocks, Blocks, Blocks, Blocks, Heads]),
    ),
    (
        "Q8_0, cache as here, queries finer",
        rounds([Blocks, Blocks, Half, Blocks, Heads]),
    ),
    (
        "Q8_0, cache as here, queries and keys finer",
        rounds([Blocks, Blocks, Half, Half, Heads]),
    ),
    (
        "weights alone",
        rounds([Blocks, Exact, Exact, Exact, Exact]),
    ),
    (
        "vectors alone",
        rounds([Exact, Blocks, Exact, Exact, Exact]),
    ),
    (
        "queries alone",
        rounds([Exact, Exact, Blocks, Exact, Exact]),
    ),
    ("keys alone", rounds([Exact, Exact, Exact, Blocks, Exact])),
    ("values alone", rounds([Exact, Exact, Exact, Exact, Heads])),
    (
        "values alone, by blocks",
        rounds([Exact, Exact, Exact, Exact, Blocks]),
    ),
];

/// Roundings of weights, vectors, queries, keys and values.
const fn rounds([weights, vectors, queries, keys, values]: [Rounding; 5]) -> Roundings {
    Roundings {
        weights,
        vectors,
        queries,
        keys,
        values,
    }
}

/// Distances of one engine from float32.
#[derive(Debug, Clone, Copy, Default)]
struct Distance {
    divergence: f64,
    same: usize,
    positions: usize,
    /// Squares of how much farther this engine is than that of Q8_0, at each position.
    squares: f64,
    /// Positions where one of this engine and that of Q8_0 has the reference's first choice, and the other has not.
    parted: usize,
}

impl Distance {
    /// Counts a position; gives the distance there, and whether the first choice is the same.
    fn add(&mut self, reference: &[f64], other: &[f64]) -> (f64, bool) {
        let terms = reference.iter().zip(other).map(|(a, b)| a.exp() * (a - b));
        let divergence = terms.sum::<f64>();
        self.divergence += divergence;
        let first = |l: &[f64]| (0..l.len()).max_by(|i, j| l[*i].total_cmp(&l[*j]));
        let same = first(reference) == first(other);
        self.same += usize::from(same);
        self.positions += 1;
        (divergence, same)
    }

    fn with(self, other: Self) -> Self {
        Self {
            divergence: self.divergence + other.divergence,
            same: self.same + other.same,
            positions: self.positions + other.positions,
            squares: self.squares + other.squares,
            parted: self.parted + other.parted,
        }
    }

    fn mean(self) -> f64 {
        self.divergence / self.positions as f64
    }

    fn share(self) -> f64 {
        100.0 * self.same as f64 / self.positions as f64
    }
}

/// Distances of the exact engine, then those of as many of `ENGINES` as were asked for.
type Distances = Vec<Distance>;
/// Engines of a run that looks for no causes.
const FEW: usize = 2;

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let first = arguments.next().ok_or("name a model, or `random`")?;
    let second = arguments.next();
    match &first[..] {
        "random" => random_models(second.map_or(Ok(1_000), |n| n.parse())?, arguments.next()),
        "cross" => cross(&PathBuf::from(second.ok_or("name a folder")?)),
        path => {
            let texts = texts(Path::new(path))?;
            print(path, &measured(Path::new(path), &texts, ENGINES.len())?);
            Ok(())
        }
    }
}

/// Tokens of held-out tasks with their right answers, each a text of its own.
fn texts(folder: &Path) -> Result<Vec<Vec<u32>>, Failure> {
    let model = Model::open(folder)?;
    let (mut texts, mut count) = (vec![], 0);
    for line in std::fs::read_to_string(folder.join("heldout.jsonl"))?
        .lines()
        .step_by(7)
    {
        let task: Value = serde_json::from_str(line)?;
        let tools = task.get("tools").map(Value::to_string);
        let prompt = model.render_chat(&task["messages"].to_string(), tools.as_deref(), true)?;
        let mut ids = model.tokenizer().encode(&prompt, true)?;
        if let Some(answer) = task["answer"].as_str() {
            ids.extend(model.tokenizer().encode(answer, true)?);
        }
        count += ids.len();
        texts.push(ids);
        if count >= POSITIONS {
            break;
        }
    }
    Ok(texts)
}

/// Distances over texts, every position of them.
fn measured(path: &Path, texts: &[Vec<u32>], count: usize) -> Result<Distances, Failure> {
    let (checkpoint, model) = (Checkpoint::open(path)?, Arc::new(Model::open(path)?));
    let mut reference = FloatReference::new(&checkpoint)?;
    let mut engines = vec![];
    for (_, roundings) in ENGINES.into_iter().take(count) {
        engines.push(FloatReference::new(&checkpoint)?.rounded(roundings));
    }
    let vocabulary = model.config().vocab;
    let in_float = |logits: Vec<f32>| {
        let logits = logits.into_iter().take(vocabulary);
        log_softmax(logits.map(f64::from).collect())
    };
    let mut distances = vec![Distance::default(); count + 1];
    for text in texts {
        reference.clear();
        engines.iter_mut().for_each(FloatReference::clear);
        let mut session = Session::new(&model);
        for token in text {
            let right = in_float(reference.step(*token));
            let exact = session.step(*token)?.iter();
            let exact = log_softmax(exact.map(|l| f64::from(*l) / 65_536.0).collect());
            let (own, first) = distances[0].add(&right, &exact);
            for (index, engine) in (1..).zip(&mut engines) {
                let (its, same) = distances[index].add(&right, &in_float(engine.step(*token)));
                if index == 1 {
                    distances[0].parted += usize::from(same != first);
                    distances[0].squares += (own - its).powi(2);
                }
            }
        }
    }
    Ok(distances)
}

fn print(name: &str, distances: &Distances) {
    let (exact, float) = (distances[0], distances[1]);
    let positions = exact.positions as f64;
    println!(
        "{name}, {positions} positions: KL {:.6} (Q8_0 {:.6}, ratio {:.3} ± {:.3}), same first choice {:.2} % (Q8_0 {:.2} %, {:+.2} ± {:.2} points)",
        exact.mean(),
        float.mean(),
        exact.mean() / float.mean(),
        exact.squares.sqrt() / float.divergence,
        exact.share(),
        float.share(),
        exact.share() - float.share(),
        100.0 * (exact.parted as f64).sqrt() / positions,
    );
    for ((engine, _), distance) in ENGINES.iter().zip(&distances[1..]).skip(1) {
        println!(
            "    {engine}: KL {:.6}, {:.2} %",
            distance.mean(),
            distance.share()
        );
    }
}

/// Where outlier channels stand.
#[derive(Debug, Clone, Copy)]
enum Planted {
    /// Nowhere.
    Not,
    /// In the residual: their columns of the embedding and their rows of what is added to it, times a hundred.
    Residual,
    /// In the normalised vectors: their weights of the norms times a hundred, their columns of the matrices after these through a
    /// hundred. The function of the model is what it was.
    Norms,
}

fn plant(toy: &mut Toy, planted: Planted) {
    for (name, (_, columns, values)) in &mut toy.tensors {
        let is = |parts: &[&str]| parts.iter().any(|part| name.contains(part));
        let added = is(&["o_proj", "down_proj", "w2."]);
        let norm = is(&["input_layernorm", "post_attention_layernorm", "model.norm"]);
        let before = is(&["embed_tokens"]);
        let after = !norm && !added && !before && !is(&["q_norm", "k_norm", "bias"]);
        for channel in OUTLIERS {
            let factor = match planted {
                Planted::Residual if before || added => TIMES,
                Planted::Norms if norm => TIMES,
                Planted::Norms if after => 1.0 / TIMES,
                _ => continue,
            };
            match added {
                true => values[channel * *columns..][..*columns]
                    .iter_mut()
                    .for_each(|v| *v *= factor),
                false => values
                    .iter_mut()
                    .skip(channel)
                    .step_by(*columns)
                    .for_each(|v| *v *= factor),
            }
        }
    }
}

/// Small enough to take a thousand positions of each in seconds, with heads of one block and of two.
fn shape(family: Family, seed: u64) -> Shape {
    let shape = Shape::of(family);
    let head = if seed.is_multiple_of(2) { 64 } else { 32 };
    let experts = shape.experts.map(|experts| support::Mixture {
        ffn: 128,
        shared: experts.shared.min(128),
        ..experts
    });
    Shape {
        width: 256,
        layers: 3,
        head,
        ffn: if family == Family::Mixtral { 128 } else { 256 },
        tied: false,
        experts,
        ..shape
    }
}

fn random_models(positions: usize, only: Option<String>) -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    for planted in [Planted::Not, Planted::Residual, Planted::Norms] {
        let count = only.as_ref().map_or(FEW, |_| ENGINES.len());
        let mut all = vec![Distance::default(); count + 1];
        for (family, seed) in Family::DECODERS.into_iter().zip(1..) {
            if only
                .as_ref()
                .is_some_and(|only| *only != format!("{family:?}"))
            {
                continue;
            }
            let mut toy = Toy::new(shape(family, seed), seed);
            plant(&mut toy, planted);
            let path = write_folder(&toy, folder.path(), Storage::F32);
            let mut random = Random(seed + 100);
            let texts: Vec<Vec<u32>> = (0..positions.div_ceil(250))
                .map(|_| (0..250).map(|_| random.below(256)).collect())
                .collect();
            let distances = measured(&path, &texts, count)?;
            print(&format!("{family:?}, {planted:?}"), &distances);
            for (sum, distance) in all.iter_mut().zip(distances) {
                *sum = sum.with(distance);
            }
        }
        print(&format!("all, {planted:?}"), &all);
    }
    Ok(())
}

/// Q8_0 files, and what float32 makes of them: llama.cpp should be as far from that as the float engine that computes like it.
fn cross(folder: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(folder)?;
    for family in Family::DECODERS {
        let shape = Shape {
            width: 128,
            head: 32,
            ..Shape::of(family)
        };
        let name = format!("{family:?}").to_lowercase();
        let mut file = GgufWriter::new(&Toy::new(shape, 11), Storage::Q8_0);
        file.values
            .retain(|(key, _)| key != "tokenizer.chat_template");
        let path = file.write(folder, &format!("{name}.gguf"));
        let checkpoint = Checkpoint::open(&path)?;
        // The file's weights are rounded already.
        let roundings = Roundings {
            weights: Exact,
            ..Roundings::Q8_0
        };
        let mut reference = FloatReference::new(&checkpoint)?;
        let mut engine = FloatReference::new(&checkpoint)?.rounded(roundings);
        let (mut random, mut rows, mut distance) = (Random(5), vec![], Distance::default());
        let tokens: Vec<u32> = (0..200).map(|_| random.below(256)).collect();
        for token in &tokens {
            let in_float = |l: Vec<f32>| log_softmax(l.into_iter().map(f64::from).collect());
            let row = in_float(reference.step(*token));
            distance.add(&in_float(engine.step(*token)), &row);
            rows.push(row);
        }
        println!(
            "{name}.gguf: float32 from Q8_0-style: mean KL {:.6}",
            distance.mean()
        );
        let made = serde_json::json!({"tokens": tokens, "log_probabilities": rows});
        std::fs::write(folder.join(format!("{name}.json")), made.to_string())?;
    }
    Ok(())
}
