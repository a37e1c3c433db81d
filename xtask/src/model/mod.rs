//! The default model: its corpus, generated from a seed, and its held-out tasks.

pub mod chat;
pub mod corpus;
pub mod rng;
pub mod tasks;
#[cfg(test)]
mod tests;
pub mod words;

use std::fs::{File, create_dir_all};
use std::io::{BufWriter, Write};
use std::path::PathBuf;

use clap::Subcommand;
use sha2::{Digest, Sha256};

/// Tasks about the default model.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Writes the training text and the held-out tasks, and prints their SHA-256.
    Corpus(CorpusArgs),
}

#[derive(Debug, clap::Args)]
struct CorpusArgs {
    /// The seed of the training text.
    #[arg(long, default_value_t = 37)]
    seed: u64,
    /// The seed of the held-out tasks.
    #[arg(long, default_value_t = 37)]
    held_out_seed: u64,
    /// How many training documents to write.
    #[arg(long, default_value_t = 200_000)]
    documents: usize,
    /// The folder to write `train.jsonl` and `heldout.jsonl` into.
    #[arg(long)]
    out: PathBuf,
}

/// What can go wrong while the corpus is written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be written.
    #[error(
        "cannot write {path}: {source}; free some space or choose another --out, files written so far are incomplete"
    )]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The split does not hold.
    #[error(
        "the training text contains what is held out: {0}; mend the keys of its family, do not train on this text, no held-out file was written"
    )]
    Leaked(String),
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<(), Error> {
    let Command::Corpus(corpus) = &args.command;
    let at = |path: &PathBuf| {
        let path = path.clone();
        move |source| Error::Write { path, source }
    };
    create_dir_all(&corpus.out).map_err(at(&corpus.out))?;
    let held = corpus::held_out(corpus.held_out_seed);
    let secrets = corpus::Secrets::of(&held);
    let mut trainer = corpus::Trainer::new(corpus.seed);
    let mut leaked = None;
    let lines = (0..corpus.documents).map(|_| {
        let document = trainer.document();
        if leaked.is_none() {
            leaked = secrets.leaked(&document.text);
        }
        document.line()
    });
    write_lines(corpus.out.join("train.jsonl"), lines)?;
    if let Some(what) = leaked {
        return Err(Error::Leaked(what));
    }
    write_lines(
        corpus.out.join("heldout.jsonl"),
        held.iter().map(corpus::held_out_line),
    )?;
    println!(
        "no held-out prompt and no held-out tool name is in the {} training documents",
        corpus.documents
    );
    Ok(())
}

/// Writes one line after the other and prints the file's hash in the form of `sha256sum`.
fn write_lines(path: PathBuf, lines: impl Iterator<Item = String>) -> Result<(), Error> {
    let failed = |source| Error::Write {
        path: path.clone(),
        source,
    };
    let mut file = BufWriter::new(File::create(&path).map_err(failed)?);
    let mut hash = Sha256::new();
    for mut line in lines {
        line.push('\n');
        hash.update(line.as_bytes());
        file.write_all(line.as_bytes()).map_err(failed)?;
    }
    file.flush().map_err(failed)?;
    println!("{}  {}", hex::encode(hash.finalize()), path.display());
    Ok(())
}
