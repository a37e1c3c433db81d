//! Writes small models of random weights, one of each decoder's architecture, and what the exact engine makes of them, for
//! `architectures_against_llama_cpp.py`.
//!
//! `cargo run --release -p stoa-engine --example architectures -- FOLDER` writes `NAME.gguf` and `NAME.json` (tokens, and the natural
//! logarithms of the probabilities of the next token after each).

#[path = "../tests/support/mod.rs"]
mod support;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use stoa_engine::import::Checkpoint;
use stoa_engine::{Model, Session};
use support::float_reference::{FloatReference, compare, log_softmax};
use support::{Family, GgufWriter, Random, Scaling, Shape, Storage, Toy};

type Failure = Box<dyn std::error::Error>;

/// Tokens that are given one after the other.
const TOKENS: usize = 200;

fn main() -> Result<(), Failure> {
    let folder = PathBuf::from(std::env::args().nth(1).ok_or("name a folder")?);
    std::fs::create_dir_all(&folder)?;
    for family in Family::DECODERS {
        let name = format!("{family:?}").to_lowercase();
        // llama.cpp takes the heads of some architectures to be as wide as the model together.
        let (width, head) = (128, 32);
        let shape = Shape::of(family);
        write(
            &folder,
            &name,
            Shape {
                width,
                head,
                ..shape
            },
        )?;
    }
    let yarn = Scaling {
        kind: "yarn",
        factor: 4.0,
        original: 128,
    };
    let scaling = Some(yarn);
    let shape = Shape::of(Family::Qwen3);
    write(&folder, "qwen3-yarn", Shape { scaling, ..shape })
}

fn write(folder: &Path, name: &str, shape: Shape) -> Result<(), Failure> {
    let toy = Toy::new(shape, 11);
    let mut file = GgufWriter::new(&toy, Storage::Q8_0);
    file.values
        .retain(|(key, _)| key != "tokenizer.chat_template");
    let path = file.write(folder, &format!("{name}.gguf"));
    let mut session = Session::new(&Arc::new(Model::open(&path)?));
    let mut reference = FloatReference::new(&Checkpoint::open(&path)?)?;
    let (mut random, mut rows, mut kl) = (Random(5), vec![], 0.0);
    let tokens: Vec<u32> = (0..TOKENS).map(|_| random.below(256)).collect();
    for token in &tokens {
        let logits = session.step(*token)?;
        kl += compare(&reference.step(*token), logits).0;
        let logits = logits.iter().map(|l| f64::from(*l) / 65_536.0);
        rows.push(log_softmax(logits.collect()));
    }
    println!("{name}: mean KL to float32 {:.6}", kl / TOKENS as f64);
    let made = serde_json::json!({"tokens": tokens, "log_probabilities": rows});
    std::fs::write(folder.join(format!("{name}.json")), made.to_string())?;
    Ok(())
}
