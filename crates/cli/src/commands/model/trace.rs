//! `stoa model trace` and `stoa model judge`: what a model computed for a token, as roots and openings.

use super::{Outcome, short, stoppable};
use crate::commands::show::{print_json, table};
use crate::packs::ModelFile;
use crate::process::say;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use stoa_crypto::token_root;
use stoa_engine::trace::{
    Job, Kind, ModelTree, OpeningFile, Replay, StepTrace, Subject, checkpoint_of_all,
};
use stoa_engine::{LoadOptions, Model, TextOptions, Threads, generate};
use stoa_types::{Digest, Q16, SamplingParameters};

/// Largest file that is judged.
const FILE_MAX: u64 = 64 << 20;

#[derive(Debug, Clone, clap::Args)]
pub struct TraceArgs {
    /// Imported model (name or first digits of its digest), or a file or folder.
    model: PathBuf,
    /// Text to continue, taken as it is.
    #[arg(long, required_unless_present = "job", conflicts_with = "job")]
    prompt: Option<String>,
    /// Most tokens of the answer.
    #[arg(long, default_value_t = 16)]
    tokens: u32,
    /// Temperature of the answer, 0 for the likeliest tokens.
    #[arg(long, default_value_t = 0.0)]
    temperature: f64,
    /// Seed of the answer.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// A job in place of a prompt: JSON with the tokens of `prompt` and `answer`, and the `parameters` of a receipt's bundle.
    #[arg(long)]
    job: Option<PathBuf>,
    /// Shows all operators of the step at this position, counted from 0 at the prompt's begin.
    #[arg(long)]
    token: Option<usize>,
    /// Opens an element of the operator of this number.
    #[arg(long, requires = "token")]
    operator: Option<usize>,
    /// Number of the element.
    #[arg(long, default_value_t = 0, requires = "operator")]
    element: usize,
    /// Writes the opening to this file, which must not be there yet, for `stoa model judge`.
    #[arg(long, requires = "operator")]
    out: Option<PathBuf>,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub struct JudgeArgs {
    /// File that `stoa model trace --out` wrote.
    opening: PathBuf,
    /// The model root that the job was paid for; anything else is refused.
    #[arg(long)]
    model_root: Option<Digest>,
    /// The token root that was claimed; anything else is refused.
    #[arg(long)]
    token_root: Option<Digest>,
    /// The prompt root of the job's receipt; an opening of another job is refused.
    #[arg(long)]
    prompt_root: Option<Digest>,
    /// The output root of the job's receipt; an opening of another answer is refused.
    #[arg(long)]
    output_root: Option<Digest>,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// `stoa model trace`.
pub async fn trace(data: &Path, args: TraceArgs) -> Outcome {
    let file = ModelFile::named(data, &args.model)?;
    let as_json = args.json;
    let told = stoppable(move |_| traced(&file, &args)).await?;
    if as_json {
        return print_json(&told);
    }
    show(&told)
}

fn traced(file: &ModelFile, args: &TraceArgs) -> Outcome<Value> {
    if let Some(out) = args.out.as_ref().filter(|out| out.exists()) {
        // Before minutes are spent on it.
        return Err(there_already(out).into());
    }
    let options = LoadOptions {
        map: file.trusted,
        ..LoadOptions::default()
    };
    let model = Arc::new(Model::open_with(&file.path, options)?);
    let job = match &args.job {
        Some(path) => serde_json::from_slice(&read(path)?)
            .map_err(|error| format!("{} is no job: {error}", path.display()))?,
        None => answered(&model, args)?,
    };
    let replay = Replay::new(&model, job, Threads::one())?;
    let mut told = json!({
        "model_root": model.root().to_string(), "trace_root": replay.root().to_string(),
        "prompt": replay.job().prompt, "answer": replay.job().answer,
        "checkpoint_of_all": hex::encode(checkpoint_of_all(replay.checkpoints())),
    });
    let Some(position) = args.token else {
        let states = replay.state_roots();
        told["states"] = states.iter().map(Digest::to_string).collect();
        let checkpoints = replay.checkpoints().iter();
        told["checkpoints"] = checkpoints.map(hex::encode).collect();
        return Ok(told);
    };
    let step = replay.step(position)?;
    told["position"] = position.into();
    told["token"] = step.claim.token.into();
    told["token_root"] = step.claim.root().to_string().into();
    told["state_before"] = step.claim.before.root().to_string().into();
    told["step_root"] = step.claim.step.to_string().into();
    told["state_after"] = step.claim.after.root().to_string().into();
    let Some(operator) = args.operator else {
        let operators = step.program.operators.iter().zip(&step.outputs).enumerate();
        let line = operators.map(|(number, (of, tree))| {
            json!({"number": number, "name": of.name, "layer": of.layer, "elements": of.length,
                   "form": of.form.name(), "root": tree.root().to_string()})
        });
        told["operators"] = line.collect();
        return Ok(told);
    };
    open(
        &replay,
        &step,
        (operator, args.element),
        args.out.as_deref(),
        &mut told,
    )?;
    Ok(told)
}

/// The model's own answer to a prompt.
fn answered(model: &Arc<Model>, args: &TraceArgs) -> Outcome<Job> {
    let text = args.prompt.as_deref().unwrap_or_default();
    let prompt = model.tokenizer().encode(text, true)?;
    let temperature = Q16::from_f64(args.temperature);
    let parameters = SamplingParameters {
        temperature: temperature.ok_or("the temperature is negative or too high")?,
        seed: args.seed,
        max_output_tokens: args.tokens,
        ..SamplingParameters::default()
    };
    let (options, never) = (TextOptions::default(), AtomicBool::new(false));
    let go_on = |_: &_| ControlFlow::Continue(());
    let answer = generate(model, &prompt, &parameters, options, &never, go_on)?;
    Ok(Job {
        prompt,
        answer: answer.tokens,
        parameters,
    })
}

fn open(
    replay: &Replay,
    step: &StepTrace,
    (operator, element): (usize, usize),
    out: Option<&Path>,
    told: &mut Value,
) -> Outcome {
    let weights = ModelTree::new(replay.model());
    let of = step.program.operators.get(operator);
    let subject = match of.map(|of| &of.kind) {
        // Of a choice, what the element names is the token that it is compared with.
        Some(Kind::Token { .. }) => Subject::Choice {
            other: u32::try_from(element)?,
        },
        _ => Subject::Element { operator, element },
    };
    let opening = replay.open(&weights, step, subject)?;
    let (config, config_proof, tied) = weights.shape();
    let file = OpeningFile {
        model_root: weights.root(),
        config,
        config_proof,
        tied,
        job: replay.job().clone(),
        token_root: step.claim.root(),
        opening,
    };
    told["operator"] = of.map(|of| of.name.clone()).into();
    told["element"] = element.into();
    if let Some(value) = step.values.get(operator).and_then(|v| v.element(element)) {
        told["value"] = serde_json::to_value(value)?;
    }
    told["opening_bytes"] = file.opening.bytes().into();
    told["verdict"] = serde_json::to_value(file.judge()?)?;
    match out {
        Some(path) => {
            let text = serde_json::to_vec(&file)?;
            write_new(path, &text)?;
            told["file"] = path.display().to_string().into();
        }
        None => told["opening"] = serde_json::to_value(&file.opening)?,
    }
    Ok(())
}

/// Writes a file that is not there yet: a slip in its name must not cost somebody another file.
fn write_new(path: &Path, text: &[u8]) -> Outcome {
    let written = File::create_new(path).and_then(|mut file| file.write_all(text));
    written.map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => there_already(path).into(),
        _ => format!("cannot write {}: {error}", path.display()).into(),
    })
}

fn there_already(path: &Path) -> String {
    format!(
        "{} exists, and is left as it is: give --out another name, or remove it",
        path.display()
    )
}

/// `stoa model judge`.
pub fn judge(args: &JudgeArgs) -> Outcome {
    let path = args.opening.display();
    let file: OpeningFile = serde_json::from_slice(&read(&args.opening)?)
        .map_err(|error| format!("{path} is no opening: {error}"))?;
    let (prompt_root, output_root) = (token_root(&file.job.prompt), token_root(&file.job.answer));
    for (name, wanted, there) in [
        ("model root", args.model_root, file.model_root),
        ("token root", args.token_root, file.token_root),
        ("prompt root", args.prompt_root, prompt_root),
        ("output root", args.output_root, output_root),
    ] {
        if let Some(wanted) = wanted.filter(|wanted| *wanted != there) {
            let told = format!(
                "{path} speaks of the {name} {there}, not of {wanted}: it proves nothing of that one"
            );
            return Err(told.into());
        }
    }
    let told = json!({
        "model_root": file.model_root.to_string(), "token_root": file.token_root.to_string(),
        "prompt_root": prompt_root.to_string(), "output_root": output_root.to_string(),
        "parameters": file.job.parameters, "tied": file.tied,
        "position": file.opening.claim.before.position, "subject": file.opening.subject,
        "verdict": file.judge()?,
    });
    if args.json {
        return print_json(&told);
    }
    show(&told)
}

fn read(path: &Path) -> Outcome<Vec<u8>> {
    let failed = |error: std::io::Error| format!("cannot read {}: {error}", path.display());
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(FILE_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(format!("{} is larger than {FILE_MAX} bytes", path.display()).into());
    }
    Ok(bytes)
}

fn show(told: &Value) -> Outcome {
    for (key, value) in told.as_object().into_iter().flatten() {
        let key = key.replace('_', " ");
        match (key.as_str(), value) {
            ("states", Value::Array(states)) => {
                for (position, state) in states.iter().enumerate() {
                    say(format_args!(
                        "state before token {position}: {}",
                        super::text(state)
                    ))?;
                }
            }
            ("operators", Value::Array(operators)) => {
                let mut table = table(&["number", "layer", "operator", "elements", "root"]);
                for of in operators {
                    let layer = &of["layer"];
                    table.add_row([
                        of["number"].to_string(),
                        if layer.is_null() {
                            String::new()
                        } else {
                            layer.to_string()
                        },
                        super::text(&of["name"]),
                        of["elements"].to_string(),
                        short(&of["root"]),
                    ]);
                }
                say(table)?;
            }
            (_, value) => say(format_args!("{key}: {}", super::text(value)))?,
        }
    }
    Ok(())
}
