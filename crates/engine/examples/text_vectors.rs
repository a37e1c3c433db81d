//! Vectors of texts: reads lines from standard input and prints for each a JSON object with its token ids and its vector (24 fraction bits).
//!
//! `cargo run --release -p stoa-engine --example text_vectors -- MODEL < texts > vectors.jsonl`, then `against_minilm.py`.

use std::io::{BufRead, Write};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;
use stoa_engine::{Model, Session};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("name a model")?;
    let model = Arc::new(Model::open(path)?);
    let mut session = Session::new(&model);
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let (mut tokens, started) = (0, Instant::now());
    for line in std::io::stdin().lock().lines() {
        let ids = model.tokenizer().encode_prompt(&line?)?;
        let vector = session.text_vector(&ids, 0, &AtomicBool::new(false))?;
        let vector = vector.ok_or("nobody cancels")?;
        let line = serde_json::json!({"ids": ids, "q24": vector.elements()});
        writeln!(out, "{line}")?;
        tokens += ids.len();
    }
    let seconds = started.elapsed().as_secs_f64();
    let rate = tokens as f64 / seconds;
    eprintln!("{tokens} tokens in {seconds:.2} s, {rate:.0} a second");
    eprintln!("root {:?}", model.root());
    Ok(())
}
