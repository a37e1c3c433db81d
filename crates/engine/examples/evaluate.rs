//! Measures a model in the exact engine: speed, equality of the kernels, distance from float32, held-out tasks.
//!
//! `cargo run --release -p stoa-engine --example evaluate -- models/stoa-tiny [speed] [equal] [float] [heldout] [wrong]`
//!
//! With the one part `answers` it prints prompt and greedy answer of every seventh task as JSON lines, for
//! `against_llama_cpp.py`.

#[path = "../tests/support/float_reference.rs"]
#[allow(dead_code, reason = "the example `accuracy` rounds, this one does not")]
mod float_reference;

use float_reference::{FloatReference, compare};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;
use stoa_engine::import::Checkpoint;
use stoa_engine::{Answer, Kernel, LoadOptions, Model, Session, TextOptions, generate};
use stoa_types::{Q16, SamplingParameters};

type Failure = Box<dyn std::error::Error>;

/// Tokens over which kernels are compared.
const EQUAL_TOKENS: usize = 10_000;
/// Teacher-forced tokens for the distance from float32.
const FLOAT_TOKENS: usize = 2_000;

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let path = PathBuf::from(arguments.next().ok_or("name a model file or folder")?);
    let parts: Vec<String> = arguments.collect();
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|p| p == part);
    let file = gguf_in(&path).unwrap_or_else(|| path.clone());
    let started = Instant::now();
    let model = Arc::new(Model::open(&file)?);
    if parts == ["answers"] {
        return print_answers(&model, &tasks(&path)?);
    }
    println!("{}: {:?}", file.display(), model.info());
    println!(
        "loaded in {} ms, root {:?}",
        started.elapsed().as_millis(),
        model.root()
    );
    let tasks = tasks(&path)?;
    let text = sample_tokens(&model, &tasks)?;
    if wanted("speed") {
        for kernel in Kernel::available() {
            speed(&open(&file, kernel)?, &text)?;
        }
    }
    if wanted("equal") {
        equal(&file, &text)?;
    }
    if wanted("float") {
        distance(&file, &model, &text)?;
    }
    if wanted("heldout") && !tasks.is_empty() {
        held_out(&model, &tasks, parts.iter().any(|p| p == "wrong"))?;
    }
    Ok(())
}

fn gguf_in(folder: &Path) -> Option<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .ok()?
        .flatten()
        .map(|e| e.path())
        .collect();
    files.sort();
    files
        .into_iter()
        .find(|f| f.extension().is_some_and(|e| e == "gguf"))
}

fn open(file: &Path, kernel: Kernel) -> Result<Arc<Model>, Failure> {
    let options = LoadOptions {
        kernel: Some(kernel),
        ..LoadOptions::default()
    };
    Ok(Arc::new(Model::open_with(file, options)?))
}

fn tasks(folder: &Path) -> Result<Vec<Value>, Failure> {
    let Ok(text) = std::fs::read_to_string(folder.join("heldout.jsonl")) else {
        return Ok(vec![]);
    };
    Ok(text
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?)
}

fn prompt(model: &Model, task: &Value) -> Result<Vec<u32>, Failure> {
    let tools = task.get("tools").map(Value::to_string);
    let text = model.render_chat(&task["messages"].to_string(), tools.as_deref(), true)?;
    Ok(model.tokenizer().encode(&text, true)?)
}

/// Prompts with their right answers, one after the other; pseudo-random tokens for a model without tasks.
fn sample_tokens(model: &Model, tasks: &[Value]) -> Result<Vec<u32>, Failure> {
    let mut ids = vec![];
    for task in tasks.iter().step_by(7) {
        ids.extend(prompt(model, task)?);
        if let Some(answer) = task["answer"].as_str() {
            ids.extend(model.tokenizer().encode(answer, true)?);
        }
        ids.extend(model.tokenizer().eos());
    }
    let mut state = 1u64;
    while ids.len() < EQUAL_TOKENS {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        ids.push((state >> 33) as u32 % model.info().vocab as u32);
    }
    Ok(ids)
}

/// Seconds that this thread was on a processor; wall time where the system does not say.
fn cpu_seconds(started: Instant) -> f64 {
    std::fs::read_to_string("/proc/thread-self/schedstat")
        .ok()
        .and_then(|s| s.split_whitespace().next()?.parse::<f64>().ok())
        .map_or_else(|| started.elapsed().as_secs_f64(), |ns| ns / 1e9)
}

fn speed(model: &Arc<Model>, text: &[u32]) -> Result<(), Failure> {
    let clock = Instant::now();
    let half = (model.info().context / 2).min(256);
    let (mut prefill, mut decode, mut vectors) = (vec![], vec![], vec![]);
    let down = AtomicBool::new(false);
    for round in 0..5 {
        let mut session = Session::new(model);
        let start = cpu_seconds(clock);
        session.prefill(&text[round * 100..][..128.min(half)])?;
        let middle = cpu_seconds(clock);
        for id in &text[round * 100..][..half] {
            session.step(*id)?;
        }
        prefill.push(128.min(half) as f64 / (middle - start));
        decode.push(half as f64 / (cpu_seconds(clock) - middle));
        let mut session = Session::new(model);
        let start = cpu_seconds(clock);
        session.text_vector(&text[round * 100..][..128.min(half)], 0, &down)?;
        vectors.push(128.min(half) as f64 / (cpu_seconds(clock) - start));
    }
    prefill.sort_by(f64::total_cmp);
    decode.sort_by(f64::total_cmp);
    vectors.sort_by(f64::total_cmp);
    println!(
        "{:12} prefill {:.0} tokens/cpu-s, text to vector {:.0}, decode {:.0} (medians of 5; best {:.0})",
        model.info().kernel,
        prefill[2],
        vectors[2],
        decode[2],
        decode[4]
    );
    Ok(())
}

fn equal(file: &Path, text: &[u32]) -> Result<(), Failure> {
    let models: Vec<Arc<Model>> = Kernel::available()
        .into_iter()
        .map(|k| open(file, k))
        .collect::<Result<_, _>>()?;
    let chunk = models[0].info().context.min(500);
    let (mut compared, mut different) = (0, 0);
    for part in text[..EQUAL_TOKENS].chunks(chunk) {
        let mut sessions: Vec<Session> = models.iter().map(Session::new).collect();
        for id in part {
            let (first, rest) = sessions
                .split_first_mut()
                .ok_or("there is always a scalar kernel")?;
            let logits = first.step(*id)?;
            for session in rest {
                different += usize::from(session.step(*id)? != logits);
            }
            compared += 1;
        }
    }
    let names: Vec<&str> = Kernel::available().iter().map(|k| k.name()).collect();
    println!("{compared} tokens, all logits of {names:?} compared: {different} differences");
    if different > 0 {
        return Err("the kernels differ".into());
    }
    Ok(())
}

fn distance(file: &Path, model: &Arc<Model>, text: &[u32]) -> Result<(), Failure> {
    let mut reference = FloatReference::new(&Checkpoint::open(file)?)?;
    let (mut sum, mut same, mut worst) = (0.0, 0, 0f64);
    let count = FLOAT_TOKENS.min(text.len());
    for part in text[..count].chunks(model.info().context.min(400)) {
        reference.clear();
        let mut session = Session::new(model);
        for id in part {
            let (kl, first) = compare(&reference.step(*id), session.step(*id)?);
            sum += kl;
            worst = worst.max(kl);
            same += usize::from(first);
        }
    }
    let mean = sum / count as f64;
    let share = 100.0 * same as f64 / count as f64;
    println!(
        "against float32 over {count} teacher-forced tokens: mean KL {mean:.6}, worst {worst:.4}, same first choice {share:.2} %"
    );
    Ok(())
}

#[derive(Default)]
struct Score {
    right: usize,
    count: usize,
}

fn held_out(model: &Arc<Model>, tasks: &[Value], show_wrong: bool) -> Result<(), Failure> {
    let names = story_names(tasks);
    let mut scores: BTreeMap<&str, Score> = BTreeMap::new();
    let (mut calls, mut valid, mut decoded) = (0, 0, 0);
    let clock = Instant::now();
    let start = cpu_seconds(clock);
    for task in tasks {
        let answer = greedy_answer(model, &prompt(model, task)?)?;
        decoded += answer.tokens.len() as u32;
        let text = answer.text;
        let right = is_right(task, &text, &names);
        let score = scores
            .entry(task["family"].as_str().unwrap_or(""))
            .or_default();
        score.count += 1;
        score.right += usize::from(right);
        if task["check"] == "call" {
            calls += 1;
            valid += usize::from(tool_call(&text).is_some());
        }
        if show_wrong && !right {
            println!(
                "{}: {} | {text} | {}",
                task["family"], task["messages"], task["answer"]
            );
        }
    }
    let seconds = cpu_seconds(clock) - start;
    let share = |s: &Score| 100.0 * s.right as f64 / s.count as f64;
    let mut all = Score::default();
    for (family, score) in &scores {
        println!(
            "{family:12} {:4}/{:<4} {:6.1} %",
            score.right,
            score.count,
            share(score)
        );
        all.right += score.right;
        all.count += score.count;
    }
    println!(
        "{:12} {:4}/{:<4} {:6.1} %",
        "overall",
        all.right,
        all.count,
        share(&all)
    );
    println!("valid tool-call JSON {valid}/{calls}");
    println!(
        "{:.0} tokens decoded per CPU second, prompts included in the time",
        f64::from(decoded) / seconds
    );
    Ok(())
}

fn print_answers(model: &Arc<Model>, tasks: &[Value]) -> Result<(), Failure> {
    for task in tasks.iter().step_by(7) {
        let prompt = prompt(model, task)?;
        let answer = greedy_answer(model, &prompt)?;
        let text = model.tokenizer().decode(&answer.tokens, false);
        println!("{}", serde_json::json!({"prompt": prompt, "text": text}));
    }
    Ok(())
}

fn greedy_answer(model: &Arc<Model>, prompt: &[u32]) -> Result<Answer, Failure> {
    let greedy = SamplingParameters {
        temperature: Q16(0),
        min_p: Q16(0),
        seed: 0,
        max_output_tokens: 200,
        stop: vec![],
        ..SamplingParameters::default()
    };
    let options = TextOptions {
        render_special: true,
    };
    let never = AtomicBool::new(false);
    let go_on = |_: &_| ControlFlow::Continue(());
    Ok(generate(model, prompt, &greedy, options, &never, go_on)?)
}

fn tool_call(text: &str) -> Option<Value> {
    let call: Value = serde_json::from_str(text.strip_prefix("<|tool_call|>")?).ok()?;
    let good =
        call.as_object()?.len() == 2 && call["name"].is_string() && call["arguments"].is_object();
    good.then_some(call)
}

fn is_right(task: &Value, text: &str, names: &BTreeSet<String>) -> bool {
    match task["check"].as_str() {
        Some("call") => tool_call(text).is_some_and(|call| {
            let expected = task["answer"]["arguments"]
                .as_str()
                .and_then(|a| serde_json::from_str::<Value>(a).ok());
            call["name"] == task["answer"]["name"] && Some(&call["arguments"]) == expected.as_ref()
        }),
        Some("story") => {
            let words: Vec<&str> = words(text).collect();
            let seen: BTreeSet<&str> = words
                .iter()
                .copied()
                .filter(|w| names.contains(*w))
                .collect();
            let complete = text.trim_end_matches('"').ends_with('.')
                && text.matches('"').count().is_multiple_of(2);
            let asked = task["words"]
                .as_array()
                .is_some_and(|a| a.iter().all(|w| words.contains(&w.as_str().unwrap_or(""))));
            complete && words.len() >= 25 && seen.len() == 2 && asked
        }
        _ => task["answer"] == text,
    }
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_')
        .filter(|w| !w.is_empty())
}

/// Names in the stories: capitalised words inside a sentence, as in the recipe's `evaluate.py`.
fn story_names(tasks: &[Value]) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for story in tasks
        .iter()
        .filter(|t| t["check"] == "story")
        .filter_map(|t| t["answer"].as_str())
    {
        for word in words(story).filter(|w| w.starts_with(char::is_uppercase) && w.len() > 1) {
            let at = word.as_ptr() as usize - story.as_ptr() as usize;
            let mut before = story[..at].chars().rev();
            if before.next() == Some(' ') && before.next().is_some_and(char::is_lowercase) {
                names.insert(word.to_owned());
            }
        }
    }
    names
}
