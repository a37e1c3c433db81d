//! What a trace costs, in CPU time (on Linux) and bytes: the states of a job, all operators of one token's step, openings, for a Llama of
//! 100 million random weights.
//!
//! `cargo run --release -p stoa-engine --example trace_cost -- [positions]`

use std::error::Error;
use std::sync::Arc;
use stoa_engine::trace::{
    Job, Judge, Kind, ModelTree, Replay, StepTrace, Subject, Values, Verdict, checkpoint,
};
use stoa_engine::{Model, RandomModel, Session, Threads};
use stoa_types::SamplingParameters;

fn main() -> Result<(), Box<dyn Error>> {
    let positions = std::env::args()
        .nth(1)
        .map_or(Ok(512), |text| text.parse())?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("model.gguf");
    RandomModel::hundred_million().write_gguf(&path)?;
    let model = Arc::new(Model::open(&path)?);
    let prompt: Vec<u32> = (0..positions).map(|i| i * 7_919 % 250).collect();
    let mut session = Session::new(&model);
    let started = cpu();
    session.prefill(&prompt)?;
    let serving = cpu() - started;
    let answer = vec![stoa_engine::sampler::greedy(session.logits())];
    let job = Job {
        prompt,
        answer,
        parameters: SamplingParameters::default(),
    };
    println!("{positions} positions");
    println!("prefill alone              {:>9.1} ms", ms(serving));
    let started = cpu();
    let replay = Replay::new(&model, job.clone(), Threads::one())?;
    println!("replay with all states     {:>9.1} ms", ms(cpu() - started));
    let started = cpu();
    let step = replay.step(job.steps() - 1)?;
    println!("all operators of a token   {:>9.1} ms", ms(cpu() - started));
    println!(
        "operators                  {:>9}",
        step.program.operators.len()
    );
    println!("bytes of their outputs     {:>9}", bytes(&step));
    let started = cpu();
    let weights = ModelTree::new(&model);
    println!("tree of the model root     {:>9.1} ms", ms(cpu() - started));
    let state = vec![1; model.config().width];
    let started = cpu();
    for _ in 0..10_000 {
        std::hint::black_box(checkpoint(std::hint::black_box(&state)));
    }
    println!(
        "checkpoint of a state      {:>9.2} us",
        ms(cpu() - started) / 10.0
    );
    let (config, siblings, tied) = weights.shape();
    let judge = Judge::new(config, &siblings, tied, weights.root(), job)?;
    println!(
        "openings, bytes of leaves and digests, the largest of each kind of operator in the first layer and the head:"
    );
    for (name, subject) in subjects(&step) {
        let opening = replay.open(&weights, &step, subject)?;
        let started = cpu();
        let verdict = judge.judge(step.claim.root(), &opening)?;
        let took = ms(cpu() - started);
        if verdict != Verdict::Holds {
            return Err(format!("{name}: {verdict:?}").into());
        }
        println!("  {name:<36}{:>9}{took:>9.2} ms to judge", opening.bytes());
    }
    Ok(())
}

/// CPU seconds of this thread so far, where the system tells them, else 0. Everything here runs on one thread.
fn cpu() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let first = text.split_whitespace().next();
    first.and_then(|ns| ns.parse::<f64>().ok()).unwrap_or(0.0) / 1e9
}

fn ms(took: f64) -> f64 {
    took * 1e3
}

/// Bytes that the leaves of a step hash.
fn bytes(step: &StepTrace) -> usize {
    let leaves = step.values.iter().flat_map(Values::leaves);
    leaves.map(|leaf| leaf.len()).sum()
}

/// An element of each operator of the first layer and of the head, and the other claims of a step.
fn subjects(step: &StepTrace) -> Vec<(String, Subject)> {
    let operators = step.program.operators.iter().enumerate();
    let few = operators.filter(|(_, operator)| operator.layer.is_none_or(|layer| layer == 0));
    let mut subjects: Vec<(String, Subject)> = few
        .map(|(number, operator)| {
            let subject = match operator.kind {
                Kind::Token { .. } => Subject::Choice { other: 1 },
                _ => Subject::Element {
                    operator: number,
                    element: 0,
                },
            };
            (operator.name.clone(), subject)
        })
        .collect();
    subjects.push(("residual of the state".to_owned(), Subject::Residual));
    subjects.push((
        "growth of the log".to_owned(),
        Subject::Appended { tree: 0 },
    ));
    subjects
}
