//! Measures how fast models are imported, and how soon a pack gives its first token.
//!
//! `cargo run --release -p stoa-engine --example packs -- make FILE` writes about a gigabyte of random weights as Q8_0;
//! `cargo run --release -p stoa-engine --example packs -- FILE...` measures files, each with a pack in a folder for the time being.

use std::fs::File;
use std::io::BufWriter;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use stoa_engine::import::Checkpoint;
use stoa_engine::pack::{Pack, write};
use stoa_engine::{LoadOptions, Model, RandomModel, Session};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [make, file] if make == "make" => Ok(gigabyte().write_gguf(Path::new(file))?),
        [] => Err("name model files, or `make FILE`".into()),
        files => files.iter().try_for_each(|file| measure(Path::new(file))),
    }
}

/// 964 million weights in twenty layers with grouped heads.
fn gigabyte() -> RandomModel {
    RandomModel {
        width: 2_048,
        layers: 20,
        heads: 32,
        kv_heads: 8,
        ffn: 5_632,
        ..RandomModel::hundred_million()
    }
}

/// Wall time and the CPU time of all threads of this process, as Linux tells it in hundredths of a second.
struct Clock(Instant, f64);

impl Clock {
    fn start() -> Self {
        Self(Instant::now(), Self::cpu())
    }

    fn elapsed(&self) -> (f64, f64) {
        (self.0.elapsed().as_secs_f64(), Self::cpu() - self.1)
    }

    fn cpu() -> f64 {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        // The name in parentheses may hold spaces; user and system time are the 12th and 13th fields after it.
        let fields = stat.rsplit(')').next().unwrap_or_default();
        let ticks = fields.split_whitespace().skip(11).take(2);
        ticks.filter_map(|t| t.parse::<f64>().ok()).sum::<f64>() / 100.0
    }
}

fn measure(file: &Path) -> Result<(), Failure> {
    let megabytes = std::fs::metadata(file)?.len() as f64 / 1e6;
    println!("{}: {megabytes:.0} MB", file.display());
    let tell = |what: &str, started: Clock| {
        let (wall, cpu) = started.elapsed();
        println!(
            "  {what}: {wall:.3} s, {cpu:.2} CPU s, {:.0} MB per CPU s",
            megabytes / cpu.max(0.01)
        );
    };
    let started = Clock::start();
    let model = Model::open(file)?;
    tell("read and quantised", started);
    println!("  lost: {:?}", model.info().losses);
    let started = Clock::start();
    let root = model.root();
    tell("root, one thread", started);
    drop(model);
    let path = file.with_extension("pack");
    let started = Clock::start();
    let mut pack = BufWriter::with_capacity(1 << 20, File::create(&path)?);
    let packed = write(&Checkpoint::open(file)?, &mut pack, &mut |_, _| {
        ControlFlow::Continue(())
    })?;
    drop(pack);
    tell("imported as a pack, root and hashes included", started);
    assert_eq!(packed.root, root);
    for _ in 0..3 {
        let started = Clock::start();
        let options = LoadOptions {
            trust_root: true,
            // As one of a store: nobody changes it meanwhile.
            map: true,
            ..LoadOptions::default()
        };
        let model = Arc::new(Model::open_with(&path, options)?);
        let opened = started.elapsed();
        let ids = model.tokenizer().encode_prompt("hello")?;
        Session::new(&model).prefill(&ids)?;
        let first = started.elapsed();
        println!(
            "  pack opened and checked: {:.3} s, {:.2} CPU s; first token: {:.3} s, {:.2} CPU s",
            opened.0, opened.1, first.0, first.1
        );
    }
    let started = Clock::start();
    assert_eq!(Pack::open(&path)?.recomputed_root()?, root);
    tell("pack verified with its root", started);
    std::fs::remove_file(&path)?;
    Ok(())
}
