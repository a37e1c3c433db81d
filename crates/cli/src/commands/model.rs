//! `stoa model`: imports models as packs, and shows, checks, lists, removes and traces them.

mod trace;

use super::Outcome;
use super::show::{print_json, table};
use crate::apart;
use crate::packs::{Imported, ModelFile, Packs, PacksError, name_like};
use crate::process::{Failure, StopSignal, complain, say};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use stoa_engine::pack::{self, Pack};
use stoa_engine::{ImportError, Loss, Source};
use stoa_types::Digest;

/// Arguments of `stoa model`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Makes a pack of a GGUF file or safetensors folder: it starts at once, and every byte of it is checked at each start.
    Import(ImportArgs),
    /// Shows what a model is and what its quantisation lost.
    Inspect(InspectArgs),
    /// Computes digest and root of an imported model again from its bytes.
    Verify(OneArgs),
    /// Lists the imported models.
    List(ListArgs),
    /// Removes an imported model, or one of its names.
    Remove(OneArgs),
    /// Computes an answer again and shows the roots of its states, of a token's operators, or the opening of one element.
    Trace(Box<trace::TraceArgs>),
    /// Says what an opening proves; needs no model.
    Judge(trace::JudgeArgs),
}

#[derive(Debug, clap::Args)]
struct ImportArgs {
    /// GGUF file, safetensors folder, or a pack from elsewhere.
    source: PathBuf,
    /// What to call it; the name in the file when absent.
    #[arg(long)]
    name: Option<String>,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct InspectArgs {
    /// Imported model (name or first digits of its digest), or a file or folder.
    model: PathBuf,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct OneArgs {
    /// Name of the model, or the first digits of its digest.
    model: String,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct ListArgs {
    /// Prints JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// `stoa model`.
pub async fn model(data: &Path, args: &Args) -> Outcome {
    match &args.action {
        Action::Import(args) => import(data, args).await,
        Action::Inspect(args) => {
            let file = ModelFile::named(data, &args.model)?;
            let told = stoppable(move |stop| inspect(&file, stop)).await?;
            tell(&told, args.json)
        }
        Action::Verify(args) => {
            let found = Packs::of(data).find(&args.model)?;
            let told = stoppable(move |_| verify(&found)).await?;
            tell(&told, args.json)
        }
        Action::List(args) => list(data, args),
        Action::Remove(args) => remove(data, args),
        Action::Trace(args) => trace::trace(data, args.as_ref().clone()).await,
        Action::Judge(args) => trace::judge(args),
    }
}

/// Set when a person wants the work to end.
type Stop = Arc<AtomicBool>;

/// Work that takes long, ended by Ctrl-C or SIGTERM after it cleaned up behind itself.
async fn stoppable<T: Send + 'static>(
    work: impl FnOnce(&Stop) -> Outcome<T> + Send + 'static,
) -> Outcome<T> {
    let mut signal = StopSignal::new()?;
    let stop = Stop::default();
    let seen = stop.clone();
    let mut job = tokio::task::spawn_blocking(move || work(&seen));
    tokio::select! {
        done = &mut job => done?,
        early = signal.wait_early() => {
            stop.store(true, Ordering::Relaxed);
            match job.await? {
                // It was done before it heard of it.
                Ok(done) => Ok(done),
                Err(_) => Err(early.into()),
            }
        }
    }
}

/// A bar on a terminal, nothing elsewhere.
fn bar(what: &'static str) -> ProgressBar {
    let bar = ProgressBar::new(0);
    let style = ProgressStyle::with_template(
        "{msg} [{bar:30}] {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left",
    );
    if let Ok(style) = style {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_message(what);
    bar
}

/// Passes progress on to a bar, and the wish to stop back.
fn watch<'a>(bar: &'a ProgressBar, stop: &'a Stop) -> impl FnMut(u64, u64) -> ControlFlow<()> + 'a {
    |done, all| {
        bar.set_length(all);
        bar.set_position(done);
        if stop.load(Ordering::Relaxed) {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }
}

async fn import(data: &Path, args: &ImportArgs) -> Outcome {
    let (packs, source, name) = (Packs::of(data), args.source.clone(), args.name.clone());
    let told = stoppable(move |stop| {
        let started = Instant::now();
        let bytes = size_of(&source)?;
        let opened = Source::open(&source)?;
        let name = name.unwrap_or_else(|| name_like(opened.name()));
        let fault = template_fault(&opened)?;
        if let Some(fault) = &fault {
            complain(format_args!("warning: {fault}"))?;
        }
        let bar = bar("importing");
        let imported = write_pack(&packs, &opened, &name, &mut watch(&bar, stop))?;
        bar.finish_and_clear();
        let seconds = started.elapsed().as_secs_f64();
        let mut told = facts(&Source::open(&imported.path)?)?;
        if let Some(fault) = fault {
            told["chat_template_fault"] = fault.into();
        }
        told["name"] = name.into();
        told["file"] = imported.path.display().to_string().into();
        told["source_bytes"] = bytes.into();
        told["seconds"] = seconds.into();
        told["megabytes_per_second"] = (bytes as f64 / 1e6 / seconds).into();
        Ok(told)
    });
    tell(&told.await?, args.json)
}

/// What keeps a model with this template from being served. To import it is allowed: its weights are good, and can be traced.
fn template_fault(source: &Source) -> Outcome<Option<String>> {
    let fault = match stoa_runtime::template_fault(source, &apart::templates()?) {
        Ok(None) => return Ok(None),
        Ok(Some(fault)) => fault.to_string(),
        Err(error) => error.to_string(),
    };
    Ok(Some(format!(
        "this model cannot be served with its chat template ({fault}); import a file of it with another template, or with none"
    )))
}

/// Bytes of the weights of a file or of a folder's files.
fn size_of(source: &Path) -> Outcome<u64> {
    let failed = |error: std::io::Error| format!("cannot read {}: {error}", source.display());
    let metadata = std::fs::metadata(source).map_err(failed)?;
    if !metadata.is_dir() {
        return Ok(metadata.len());
    }
    let mut bytes = 0;
    for entry in std::fs::read_dir(source).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.path().extension().is_some_and(|e| e == "safetensors") {
            bytes += entry.metadata().map_err(failed)?.len();
        }
    }
    Ok(bytes)
}

fn write_pack(
    packs: &Packs,
    source: &Source,
    name: &str,
    progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
) -> Result<Imported, PacksError> {
    let mut import = packs.begin(name)?;
    let digest = match source {
        Source::Checkpoint(checkpoint) => {
            let mut file = BufWriter::with_capacity(1 << 20, import.file());
            pack::write(checkpoint, &mut file, progress)?.digest
        }
        Source::Pack(pack) => {
            compare_root(pack)?;
            pack.copy(import.file(), progress)?;
            pack.digest()
        }
    };
    import.finish(digest)
}

/// Refuses a pack whose header states another root than its weights have.
fn compare_root(pack: &Pack) -> Result<Digest, ImportError> {
    let (stated, computed) = (pack.claimed_root(), pack.recomputed_root()?);
    if stated == computed {
        return Ok(computed);
    }
    Err(ImportError::metadata(
        "root of the pack",
        format!("is stated as {stated}, and the weights have {computed}: do not use it"),
    ))
}

/// Takes what a pack would hold, to learn its digest and root without a file.
struct Nowhere(u64);

impl Write for Nowhere {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Seek for Nowhere {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        if let SeekFrom::Start(at) = to {
            self.0 = at;
        }
        Ok(self.0)
    }
}

fn inspect(file: &ModelFile, stop: &Stop) -> Outcome<Value> {
    let source = Source::open(&file.path)?;
    if let Source::Pack(pack) = &source
        && !file.trusted
    {
        // The root in its header is the word of whoever made it.
        compare_root(pack)?;
    }
    let mut told = facts(&source)?;
    if let Some(fault) = template_fault(&source)? {
        told["chat_template_fault"] = fault.into();
    }
    if let Source::Checkpoint(checkpoint) = &source {
        let bar = bar("reading");
        let packed = pack::write(checkpoint, &mut Nowhere(0), &mut watch(&bar, stop))?;
        bar.finish_and_clear();
        told["digest"] = packed.digest.to_string().into();
        told["root"] = packed.root.to_string().into();
        told["bytes"] = packed.bytes.into();
        told["losses"] = losses(&packed.losses);
    }
    Ok(told)
}

/// What is known of a model without computing anything. The root of a pack is the one that it states.
fn facts(source: &Source) -> Outcome<Value> {
    let (config, memory) = (source.config(), source.memory_estimate());
    let mut told = json!({
        "name": source.name(), "parameters": source.parameters(), "layers": config.layers, "width": config.width,
        "vocabulary": config.vocab, "context": config.context, "chat_template": source.template().is_some(),
        "memory": {"weights": memory.weights, "full_context": memory.cache, "loading": memory.loading},
        "kind": "file of weights",
    });
    if let Some(encoder) = config.architecture.encoder {
        told["text_vector"] = encoder.pooling.name().into();
    }
    if let Source::Pack(pack) = source {
        told["kind"] = "pack".into();
        told["digest"] = pack.digest().to_string().into();
        told["root"] = pack.claimed_root().to_string().into();
        told["bytes"] = pack.bytes().into();
        told["losses"] = losses(pack.losses());
    }
    Ok(told)
}

/// Relative errors as numbers: 0.001 is a thousandth of a weight's size, root mean square.
fn losses(losses: &[Loss]) -> Value {
    let each = losses.iter().map(|loss| {
        json!({"format": loss.format.name(), "matrices": loss.matrices, "elements": loss.elements,
               "relative_error": loss.relative_error_ppb as f64 / 1e9})
    });
    each.collect()
}

fn verify(found: &Imported) -> Outcome<Value> {
    let pack = found.open()?;
    let root = compare_root(&pack)?;
    Ok(
        json!({"sound": true, "name": pack.name(), "digest": found.digest.to_string(), "root": root.to_string(),
              "bytes": pack.bytes()}),
    )
}

fn list(data: &Path, args: &ListArgs) -> Outcome {
    let listed: Vec<Value> = Packs::of(data).list()?.iter().map(line).collect();
    if args.json {
        return print_json(&listed);
    }
    if listed.is_empty() {
        return Ok(say(
            "no models are imported; `stoa model import FILE` adds one",
        )?);
    }
    let mut table = table(&["name", "digest", "parameters", "context", "MB", "root"]);
    for one in listed {
        let names: Vec<_> = one["names"]
            .as_array()
            .into_iter()
            .flatten()
            .map(text)
            .collect();
        if let Some(damage) = one["damage"].as_str() {
            table.add_row([names.join(", "), short(&one["digest"]), damage.to_owned()]);
            continue;
        }
        table.add_row([
            names.join(", "),
            short(&one["digest"]),
            one["parameters"].to_string(),
            one["context"].to_string(),
            (one["bytes"].as_u64().unwrap_or(0) / 1_000_000).to_string(),
            short(&one["root"]),
        ]);
    }
    Ok(say(table)?)
}

/// A model of the list. One that cannot be opened is listed with the reason.
fn line(imported: &Imported) -> Value {
    let opened = imported.open().map_err(Failure::from);
    let facts = opened.and_then(|pack| facts(&Source::Pack(Box::new(pack))));
    let mut told = facts.unwrap_or_else(|error| json!({"damage": error.to_string()}));
    told["names"] = imported.names.clone().into();
    told["digest"] = imported.digest.to_string().into();
    told["file"] = imported.path.display().to_string().into();
    told
}

fn remove(data: &Path, args: &OneArgs) -> Outcome {
    let removed = Packs::of(data).remove(&args.model)?;
    let digest = removed.digest.to_string();
    if args.json {
        return print_json(
            &json!({"removed": removed.file, "digest": digest, "names": removed.names}),
        );
    }
    let names = removed.names.join(", ");
    Ok(say(if removed.file {
        format!("{} {names} is removed", short(&digest.into()))
    } else {
        format!("the name {names} is removed; the model has others")
    })?)
}

/// Prints what is known: JSON, or a line each.
fn tell(told: &Value, as_json: bool) -> Outcome {
    if as_json {
        return print_json(told);
    }
    for (key, value) in told.as_object().into_iter().flatten() {
        let key = key.replace('_', " ");
        match (key.as_str(), value) {
            ("losses", Value::Array(list)) => {
                for loss in list {
                    let percent = loss["relative_error"].as_f64().unwrap_or(0.0) * 100.0;
                    let (format, elements) = (text(&loss["format"]), &loss["elements"]);
                    say(format_args!(
                        "lost: {percent:.4} % of {elements} weights stored as {format} (root mean square)"
                    ))?;
                }
            }
            (_, Value::Object(parts)) => {
                let parts: Vec<_> = parts.iter().map(|(k, v)| format!("{k} {v}")).collect();
                say(format_args!(
                    "{key}: {}",
                    parts.join(", ").replace('_', " ")
                ))?;
            }
            (_, Value::Number(number)) if number.is_f64() => {
                say(format_args!("{key}: {:.1}", number.as_f64().unwrap_or(0.0)))?;
            }
            (_, value) => say(format_args!("{key}: {}", text(value)))?,
        }
    }
    Ok(())
}

fn text(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

/// The first digits of a digest, enough to name it by.
fn short(digest: &Value) -> String {
    text(digest)
        .trim_start_matches("0x")
        .chars()
        .take(12)
        .collect()
}
