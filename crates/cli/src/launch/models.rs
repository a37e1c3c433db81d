//! The models of a process: those that a person named or the one that is built in, on the exact engine, and an upstream server's.

use crate::apart;
use crate::config::Config;
use crate::data::{DataDir, write_private};
use crate::packs::ModelFile;
use crate::process::Failure;
use crate::roles::engine;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use stoa_runtime::{
    Backend, ExactOptions, Grammars, ModelEntry, Models, PooledBackend, Templates, UpstreamBackend,
};

/// The default model, so that the binary alone is a network.
pub const DEFAULT_MODEL: &[u8] = include_bytes!("../../../../models/stoa-tiny/stoa-tiny.Q8_0.gguf");
/// Its name.
pub const DEFAULT_MODEL_NAME: &str = "stoa-tiny";

/// The model that is built in, as a file.
pub fn default_model(data: &DataDir) -> Result<ModelFile, Failure> {
    let file = format!("{DEFAULT_MODEL_NAME}.gguf");
    let path = data.folder("models")?.join(file);
    if std::fs::read(&path).ok().as_deref() != Some(DEFAULT_MODEL) {
        write_private(&path, DEFAULT_MODEL)?;
    }
    Ok(ModelFile::unknown(path))
}

/// The models that a person named, or the default one, on the exact engine.
pub fn exact(
    data: &DataDir,
    config: &Config,
    providers: u32,
    named: &[PathBuf],
) -> Result<Vec<PooledBackend>, Failure> {
    let wanted = match named {
        [] => vec![built_in(data)?],
        named => all_named(data, named)?,
    };
    let entries = entries(config, providers, &wanted)?;
    Ok(watched(Models::open(entries)?))
}

/// The default model and those that a person named, to judge answers with.
pub fn for_judging(
    data: &DataDir,
    config: &Config,
    named: &[PathBuf],
) -> Result<Vec<PooledBackend>, Failure> {
    let mut wanted = vec![built_in(data)?];
    wanted.extend(all_named(data, named)?);
    let entries = entries(config, 1, &wanted)?;
    Ok(watched(Models::open_for_judging(entries)?))
}

fn built_in(data: &DataDir) -> Result<Wanted<'static>, Failure> {
    Ok(Wanted {
        file: default_model(data)?,
        name: Some(DEFAULT_MODEL_NAME),
        given: Path::new(DEFAULT_MODEL_NAME),
    })
}

/// A model that is to be served.
struct Wanted<'a> {
    file: ModelFile,
    /// Another name than its file's own.
    name: Option<&'static str>,
    /// How it was named.
    given: &'a Path,
}

fn all_named<'a>(data: &DataDir, named: &'a [PathBuf]) -> Result<Vec<Wanted<'a>>, Failure> {
    let wanted = named.iter().map(|given| {
        Ok(Wanted {
            file: ModelFile::named(data.root(), given)?,
            name: None,
            given,
        })
    });
    wanted.collect()
}

/// Models that share the machine; `providers` of this process serve them together.
fn entries(
    config: &Config,
    providers: u32,
    wanted: &[Wanted<'_>],
) -> Result<Vec<ModelEntry>, Failure> {
    let served = |pin: &&String| {
        !wanted
            .iter()
            .any(|one| one.given == Path::new(pin.as_str()))
    };
    if let Some(pin) = config.engine.pinned.iter().find(served) {
        let given: Vec<_> = wanted
            .iter()
            .map(|one| one.given.display().to_string())
            .collect();
        return Err(format!(
            "engine.pinned names {pin:?}, which is not served; write it as it is given to --model: {}",
            given.join(", ")
        )
        .into());
    }
    let entry = |one: &Wanted<'_>| {
        Ok(ModelEntry {
            path: one.file.path.clone(),
            options: ExactOptions {
                name: one.name.map(str::to_owned),
                trust_root: one.file.trusted,
                // The built-in model's template is this program's own. The processes of another one's are its alone: no model waits for
                // what another's template takes.
                templates: match one.name {
                    Some(_) => Templates::Here,
                    None => apart::templates()?,
                },
                grammars: apart::grammars()?,
                ..options(config, providers)
            },
            pinned: (config.engine.pinned.iter()).any(|pin| Path::new(pin) == one.given),
        })
    };
    wanted.iter().map(entry).collect()
}

fn watched(served: Vec<PooledBackend>) -> Vec<PooledBackend> {
    if let Some(first) = served.first() {
        engine::watch(first.models());
    }
    served
}

/// Slots, threads and memory of all providers of this process.
fn options(config: &Config, providers: u32) -> ExactOptions {
    let policies = (0..providers).map(|n| config.policy(config.offer(n)));
    let slots = policies.clone().map(|policy| policy.slots).sum();
    // What every provider of this process leaves to the operator.
    let cores = std::thread::available_parallelism()
        .map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX));
    let threads = policies.map(|policy| policy.usable(cores).max(1)).max();
    ExactOptions {
        name: None,
        slots,
        context_max: config.engine.context_max(),
        memory_limit: config.engine.memory_limit(),
        threads: threads.unwrap_or(0),
        trust_root: false,
        templates: Templates::Here,
        grammars: Grammars::Trusted,
    }
}

/// The upstream server first, which was asked for by name; then the exact engine's models, but those that it has a model of the same name of.
pub fn backends(
    upstream: Option<UpstreamBackend>,
    exact: Vec<PooledBackend>,
) -> Vec<Arc<dyn Backend>> {
    let mut backends: Vec<Arc<dyn Backend>> = Vec::new();
    backends.extend(upstream.map(|upstream| Arc::new(upstream) as Arc<dyn Backend>));
    for model in exact {
        let name = &model.facts().model;
        if backends.iter().any(|other| other.facts().model == *name) {
            tracing::warn!(model = %name, "the upstream server serves a model of this name; the engine's own is left out");
        } else {
            backends.push(Arc::new(model));
        }
    }
    backends
}
