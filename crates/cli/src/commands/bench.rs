//! `stoa bench engine`: what tokens cost in the exact engine, and beside it in llama.cpp, on the same file in the same run.

mod own;
mod peer;

use super::Outcome;
use crate::data::make_dir;
use crate::process::{complain, say};
use own::{Own, OwnRound, kernel};
use peer::Peer;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use stoa_engine::{LoadOptions, Model, RandomModel};

/// Arguments of `stoa bench`.
#[derive(Debug, clap::Subcommand)]
pub enum Args {
    /// The exact engine beside llama.cpp, and beside itself with one thread, one answer and nothing cached.
    Engine(EngineArgs),
}

/// Arguments of `stoa bench engine`.
#[derive(Debug, clap::Args)]
pub struct EngineArgs {
    /// GGUF file; without it a Llama-shaped one of 100 million random weights, made once in the data folder.
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// Tokens of the prompt.
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    prompt: u32,
    /// Tokens of the answer.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    tokens: u32,
    /// How often each of the two is measured, in turns; medians are told.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rounds: u32,
    /// Threads that compute.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    threads: u32,
    /// Answers that are made at once, in the same passes.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    batch: u32,
    /// Inner loops: `avx512-vnni`, `avx2` or `scalar`; the fastest that the processor has when absent.
    #[arg(long, value_name = "NAME")]
    kernel: Option<String>,
    /// Python with the package `xllamacpp`, which carries llama.cpp.
    #[arg(long, default_value = "python3", value_name = "FILE")]
    python: PathBuf,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// Tokens of the prompt before the answer that is measured.
const SHORT: u32 = 16;

/// Seconds that some work took.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
struct Spent {
    wall: f64,
    /// Of all threads of the process.
    cpu: f64,
}

impl std::ops::AddAssign for Spent {
    fn add_assign(&mut self, other: Self) {
        self.wall += other.wall;
        self.cpu += other.cpu;
    }
}

/// One round of one engine.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Round {
    /// The whole prompt.
    prefill: Spent,
    /// All answers, each after a short prompt.
    decode: Spent,
    /// Most memory that the process held so far, in bytes.
    peak_bytes: u64,
}

/// Tokens a second of one engine, medians of its rounds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct Rates {
    prefill_per_cpu_second: f64,
    prefill_per_second: f64,
    decode_per_cpu_second: f64,
    decode_per_second: f64,
    peak_bytes: u64,
}

/// Runs a benchmark.
pub fn bench(data: &Path, args: &Args) -> Outcome {
    match args {
        Args::Engine(args) => engine(data, args),
    }
}

fn engine(data: &Path, args: &EngineArgs) -> Outcome {
    let file = match &args.model {
        Some(file) => file.clone(),
        None => random_model(data)?,
    };
    let opened = Instant::now();
    let options = LoadOptions {
        kernel: args.kernel.as_deref().map(kernel).transpose()?,
        ..LoadOptions::default()
    };
    let model = Arc::new(Model::open_with(&file, options)?);
    let open_ms = opened.elapsed().as_secs_f64() * 1_000.0;
    // One token more than the engine itself needs: llama.cpp makes one of every prompt.
    let (context, needed) = (
        model.config().context,
        args.prompt.max(SHORT + args.tokens) + 1,
    );
    if context < needed as usize {
        let error = format!(
            "the model's context is {context} tokens and {needed} are asked for: give fewer with --prompt or --tokens"
        );
        return Err(error.into());
    }
    let mut version = None;
    let mut peer = match Peer::start(&args.python, &file, args) {
        Ok(peer) => {
            version = Some(peer.version.clone());
            Some(peer)
        }
        Err(error) => {
            complain(format_args!("llama.cpp is not measured: {error}"))?;
            None
        }
    };
    let mut own = Own::new(&model, args)?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for number in 0..args.rounds {
        // In turns, and each of them first in every other round: a machine that slows down slows both.
        if number % 2 == 0 {
            ours.push(own.round(number)?);
        }
        // One that fails is left out from then on; what was measured is told.
        if let Some(measured) = peer.as_mut().map(|peer| peer.round(number)) {
            match measured {
                Ok(round) => theirs.push(round),
                Err(error) => {
                    complain(format_args!("llama.cpp is measured no further: {error}"))?;
                    peer = None;
                }
            }
        }
        if number % 2 == 1 {
            ours.push(own.round(number)?);
        }
    }
    let told = Told {
        args,
        file: &file,
        model: &model,
        open_ms,
        version,
    };
    told.tell(&ours, &theirs)
}

/// The random model's file, made when it is not there.
fn random_model(data: &Path) -> Outcome<PathBuf> {
    // Where `up` keeps its own: `--fresh` may delete it, and backups leave it out.
    let folder = data.join("models");
    let file = folder.join("random-100m-1.gguf");
    if file.is_file() {
        return Ok(file);
    }
    let model = RandomModel::hundred_million();
    complain(format_args!(
        "a model of {} random weights is written to {}, once",
        model.weights(),
        file.display()
    ))?;
    let failed = |error: std::io::Error| format!("{} cannot be written: {error}", file.display());
    make_dir(&folder)?;
    // Under another name until it is whole; what a killed run left is written over.
    let unfinished = folder.join(".random-100m-1.gguf.new");
    let written = model.write_gguf(&unfinished);
    let written = written.and_then(|()| std::fs::rename(&unfinished, &file));
    if written.is_err() {
        let _ = std::fs::remove_file(&unfinished);
    }
    written.map_err(failed)?;
    Ok(file)
}

fn spent<E>(work: impl FnOnce() -> Result<(), E>) -> Result<Spent, E> {
    let (wall, cpu) = (Instant::now(), cpu_seconds());
    work()?;
    Ok(Spent {
        wall: wall.elapsed().as_secs_f64(),
        cpu: cpu_seconds() - cpu,
    })
}

/// Processor time of this process, all threads, in seconds.
fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Most memory that this process has held, in bytes; 0 where the system does not say.
fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1_024
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        n if n % 2 == 1 => values[n / 2],
        n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
    }
}

impl Rates {
    fn of(rounds: &[Round], args: &EngineArgs, batch: u32) -> Self {
        let (prompt, tokens) = (f64::from(args.prompt), f64::from(args.tokens * batch));
        let rate = |count: f64, seconds: fn(&Round) -> f64| {
            median(rounds.iter().map(|round| count / seconds(round)).collect())
        };
        Self {
            prefill_per_cpu_second: rate(prompt, |r| r.prefill.cpu),
            prefill_per_second: rate(prompt, |r| r.prefill.wall),
            decode_per_cpu_second: rate(tokens, |r| r.decode.cpu),
            decode_per_second: rate(tokens, |r| r.decode.wall),
            peak_bytes: rounds.iter().map(|r| r.peak_bytes).max().unwrap_or(0),
        }
    }
}

/// What is told of a run.
struct Told<'a> {
    args: &'a EngineArgs,
    file: &'a Path,
    model: &'a Model,
    open_ms: f64,
    /// The peer's, where it was measured.
    version: Option<String>,
}

impl Told<'_> {
    fn tell(&self, ours: &[OwnRound], theirs: &[Round]) -> Outcome {
        let (args, ratios) = (self.args, Ratios::of(ours, theirs, self.args));
        let of = |round: fn(&OwnRound) -> Round, batch| {
            Rates::of(&ours.iter().map(round).collect::<Vec<_>>(), args, batch)
        };
        let stoa = of(|r| r.asked, args.batch);
        let one = of(|r| r.one, 1);
        let llama_cpp = (!theirs.is_empty()).then(|| Rates::of(theirs, args, args.batch));
        if args.json {
            let mut told = json!({
                "model": self.file,
                "weights_bytes": std::fs::metadata(self.file).map_or(0, |file| file.len()),
                "kernel": self.model.kernel().name(),
                "threads": args.threads, "batch": args.batch,
                "prompt": args.prompt, "tokens": args.tokens, "rounds": args.rounds,
                "open_ms": self.open_ms,
                "stoa": stoa, "stoa_one_thread_one_answer": one,
                "llama_cpp": llama_cpp, "llama_cpp_version": self.version,
            });
            let ratios = serde_json::to_value(ratios)?;
            if let (Some(told), Some(ratios)) = (told.as_object_mut(), ratios.as_object()) {
                told.extend(ratios.clone());
            }
            say(told)?;
            return Ok(());
        }
        self.table(stoa, one, llama_cpp)?;
        say(format_args!("\n{ratios}"))?;
        Ok(())
    }

    fn table(&self, stoa: Rates, one: Rates, llama_cpp: Option<Rates>) -> Outcome {
        let args = self.args;
        say(format_args!(
            "{}, {} kernel, {} thread(s), {} answer(s) at once; opened in {:.0} ms; medians of {}\n",
            self.file.display(),
            self.model.kernel().name(),
            args.threads,
            args.batch,
            self.open_ms,
            args.rounds
        ))?;
        say(format_args!(
            "{:26}{:>14}{:>14}{:>14}{:>14}{:>12}",
            "tokens a second", "prefill, cpu", "prefill", "decode, cpu", "decode", "peak MB"
        ))?;
        let peer = format!("llama.cpp {}", self.version.as_deref().unwrap_or_default());
        let alike = args.threads == 1 && args.batch == 1;
        let named = [
            ("stoa", Some(stoa)),
            ("stoa, 1 thread, 1 answer", (!alike).then_some(one)),
            (peer.as_str(), llama_cpp),
        ];
        for (name, rates) in named {
            let Some(rates) = rates else { continue };
            say(format_args!(
                "{name:26}{:>14.1}{:>14.1}{:>14.1}{:>14.1}{:>12}",
                rates.prefill_per_cpu_second,
                rates.prefill_per_second,
                rates.decode_per_cpu_second,
                rates.decode_per_second,
                rates.peak_bytes >> 20
            ))?;
        }
        Ok(())
    }
}

/// Medians of ratios within each round, since the machine's speed changes between rounds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct Ratios {
    /// Of tokens per CPU second.
    decode_ratio_to_llama_cpp: Option<f64>,
    /// The same of the prompt.
    prefill_ratio_to_llama_cpp: Option<f64>,
    /// Tokens a second of the prompt with all threads over those with one.
    prefill_ratio_to_one_thread: f64,
    /// Tokens a second of as many prompts at once as there are threads, one thread each, over those of one prompt with one: the most that
    /// so many threads of this machine give at the time.
    prefill_ratio_apart: Option<f64>,
    /// Of what the threads give apart, the part that they give one prompt.
    prefill_ratio_to_apart: Option<f64>,
    /// Tokens a second of the answers, all threads and answers over one of each.
    decode_ratio_to_one: f64,
    /// The same of tokens per CPU second: what answering many at once saves.
    decode_cpu_ratio_to_one: f64,
    /// Seconds to the first token of a prompt of which nine tenths are cached, over those of one of which nothing is.
    first_token_cached_ratio: f64,
}

impl Ratios {
    fn of(ours: &[OwnRound], theirs: &[Round], args: &EngineArgs) -> Self {
        let to_peer = |cpu: fn(&Round) -> f64| {
            let rounds = ours.iter().zip(theirs);
            let each = rounds.map(|(our, their)| cpu(their) / cpu(&our.asked));
            (!theirs.is_empty()).then(|| median(each.collect()))
        };
        let own = |ratio: fn(&OwnRound) -> f64| median(ours.iter().map(ratio).collect());
        let (batch, threads) = (f64::from(args.batch), f64::from(args.threads));
        // `threads` prompts are read in the time of one apart.
        let apart = |ratio: fn(&OwnRound, f64) -> f64| {
            let rounds = ours.iter().filter_map(|r| Some(ratio(r, r.prefill_apart?)));
            let each: Vec<_> = rounds.collect();
            (!each.is_empty()).then(|| median(each))
        };
        Self {
            decode_ratio_to_llama_cpp: to_peer(|r| r.decode.cpu),
            prefill_ratio_to_llama_cpp: to_peer(|r| r.prefill.cpu),
            prefill_ratio_to_one_thread: own(|r| r.one.prefill.wall / r.asked.prefill.wall),
            prefill_ratio_apart: apart(|r, apart| r.one.prefill.wall / apart)
                .map(|ratio| threads * ratio),
            prefill_ratio_to_apart: apart(|r, apart| apart / r.asked.prefill.wall)
                .map(|ratio| ratio / threads),
            decode_ratio_to_one: batch * own(|r| r.one.decode.wall / r.asked.decode.wall),
            decode_cpu_ratio_to_one: batch * own(|r| r.one.decode.cpu / r.asked.decode.cpu),
            first_token_cached_ratio: own(|r| r.first_token_cached / r.first_token),
        }
    }
}

impl std::fmt::Display for Ratios {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let (Some(decode), Some(prefill)) = (
            self.decode_ratio_to_llama_cpp,
            self.prefill_ratio_to_llama_cpp,
        ) {
            writeln!(
                f,
                "per CPU second, times llama.cpp: prefill {prefill:.3}, decode {decode:.3}"
            )?;
        }
        writeln!(
            f,
            "times one thread and one answer: prefill {:.3}, decode {:.3}, decode per CPU second {:.3}",
            self.prefill_ratio_to_one_thread,
            self.decode_ratio_to_one,
            self.decode_cpu_ratio_to_one
        )?;
        if let (Some(apart), Some(of_it)) = (self.prefill_ratio_apart, self.prefill_ratio_to_apart)
        {
            writeln!(
                f,
                "threads that share nothing, a prompt each: prefill {apart:.3} times one; with one prompt together {of_it:.3} of that"
            )?;
        }
        write!(
            f,
            "first token with nine tenths of the prompt cached: {:.3} of the time without",
            self.first_token_cached_ratio
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_of_the_middle_and_rates_of_each_round() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(vec![]), 0.0);
    }

    #[test]
    fn the_random_model_is_made_once_and_a_broken_write_leaves_no_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let data = folder.path().join("data");
        std::fs::write(folder.path().join("file"), "").expect("written");
        let error = random_model(&folder.path().join("file")).expect_err("no folder there");
        assert!(error.to_string().contains("cannot create"), "{error}");
        let models = data.join("models");
        std::fs::create_dir_all(&models).expect("made");
        std::fs::write(models.join("random-100m-1.gguf"), "whole").expect("written");
        let file = random_model(&data).expect("there");
        assert_eq!(std::fs::read(file).expect("read"), b"whole");
    }

    #[test]
    fn this_process_has_used_time_and_memory() {
        assert!(cpu_seconds() > 0.0 && peak_bytes() > 1 << 20);
    }
}
