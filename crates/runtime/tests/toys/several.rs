//! Several models in the memory of one machine.

use crate::support::{Family, GgufWriter, Shape, Storage, Toy};
use std::path::{Path, PathBuf};
use stoa_engine::Model;
use stoa_nodes::message::RefusalReason;
use stoa_nodes::work::{AnswerShape, Prompt, Work};
use stoa_runtime::{
    Backend, ExactBackend, ExactOptions, Grammars, ModelEntry, Models, ModelsError, PooledBackend,
    Templates, run_to_end,
};
use stoa_types::{Q16, SamplingParameters};

/// Letters that are in the vocabulary of every one.
fn work() -> Work {
    Work {
        prompt: Prompt::Text("hello world".to_owned()),
        sampling: SamplingParameters {
            temperature: Q16::ONE,
            max_output_tokens: 12,
            ..SamplingParameters::default()
        },
        answer: AnswerShape::Any,
    }
    .with_rules()
}

fn write(folder: &Path, name: &str, seed: u64) -> PathBuf {
    let toy = Toy::new(Shape::of(Family::Llama), seed);
    GgufWriter::new(&toy, Storage::F32).write(folder, name)
}

fn entry(path: PathBuf, name: &str, memory: u64) -> ModelEntry {
    ModelEntry {
        path,
        options: ExactOptions {
            name: Some(name.to_owned()),
            slots: 1,
            context_max: None,
            memory_limit: Some(memory),
            threads: 1,
            trust_root: false,
            templates: Templates::Here,
            grammars: Grammars::Trusted,
        },
        pinned: false,
    }
}

/// `count` models in memory for `places` of them.
fn entries(folder: &Path, count: u64, places: u64) -> Vec<ModelEntry> {
    let named = (0..count).map(|n| (n, format!("model-{n}")));
    let paths: Vec<_> = named
        .map(|(n, name)| (write(folder, &format!("{name}.gguf"), n + 1), name))
        .collect();
    let each = Model::memory_estimate(&paths[0].0).expect("a model");
    // Two contexts for one slot of those that are there, and what one more needs at least.
    let held = each.weights + 2 * each.cache;
    let memory = (places - 1) * held + each.weights + each.loading.max(each.cache);
    let entry = |(path, name): (PathBuf, String)| entry(path, &name, memory);
    paths.into_iter().map(entry).collect()
}

fn loaded(models: &[PooledBackend]) -> Vec<bool> {
    let views = models[0].models().view();
    views.iter().map(|view| view.memory > 0).collect()
}

fn answer(model: &dyn Backend) -> Vec<u32> {
    run_to_end(model, &work()).expect("answers").2
}

#[test]
fn the_one_that_was_used_longest_ago_makes_place_and_answers_are_those_of_a_model_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let entries = entries(folder.path(), 3, 2);
    let alone: Vec<_> = entries
        .iter()
        .map(|entry| answer(&ExactBackend::open(&entry.path, &entry.options).expect("opens")))
        .collect();
    assert_ne!(alone[0], alone[1], "models that differ");
    let models = Models::open(entries).expect("opens");
    assert_eq!(loaded(&models), [false, true, true]);
    for (asked, there) in [
        (0, [true, false, true]),
        (2, [true, false, true]),
        (1, [false, true, true]),
        (1, [false, true, true]),
        (0, [true, true, false]),
    ] {
        assert_eq!(answer(&models[asked]), alone[asked]);
        assert_eq!(loaded(&models), there, "after {asked}");
    }
    let views = models[0].models().view();
    let loads: Vec<_> = views.iter().map(|view| view.loads).collect();
    assert_eq!(loads, [3, 2, 1]);
    let chosen: Vec<_> = views.iter().map(|view| view.stats.chosen_tokens).collect();
    let lengths = [2, 2, 1].into_iter().zip(&alone);
    let lengths: Vec<_> = lengths.map(|(n, a)| n * a.len() as u64).collect();
    for (chosen, length) in chosen.into_iter().zip(lengths) {
        // What was counted before it was let go counts too, as far as its engine had told it.
        assert!((length - 2..=length).contains(&chosen), "{chosen} {length}");
    }
}

#[test]
fn a_model_in_use_stays_and_who_finds_no_place_is_told_that_it_is_busy() {
    let folder = tempfile::tempdir().expect("a folder");
    let models = Models::open(entries(folder.path(), 2, 1)).expect("opens");
    let held = models[0].prepare(&work()).expect("prepared");
    assert_eq!(models[1].prepare(&work()).err(), Some(RefusalReason::Busy));
    assert_eq!(loaded(&models), [true, false]);
    // Who must have it waits until it is free.
    let (first, second) = (models[0].clone(), models[1].clone());
    std::thread::scope(|scope| {
        scope.spawn(move || answer(&second));
        let mut tokens = 0;
        let ran = first.run(&held, &stoa_runtime::CancelFlag::new(), &mut |piece| {
            tokens += piece.tokens.len();
            std::ops::ControlFlow::Continue(())
        });
        assert!(ran.is_ok() && tokens > 0);
        drop(held);
    });
    assert_eq!(loaded(&models), [false, true]);
}

#[test]
fn one_that_is_pinned_is_never_let_go_and_what_could_never_be_served_beside_it_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut three = entries(folder.path(), 3, 2);
    three[2].pinned = true;
    let models = Models::open(three.clone()).expect("opens");
    for asked in [0, 1, 0, 1] {
        answer(&models[asked]);
        assert!(loaded(&models)[2], "after {asked}");
    }
    drop(models);
    let estimate = Model::memory_estimate(&three[0].path).expect("a model");
    let least = estimate.weights + estimate.cache.max(estimate.loading);
    three[0].options.memory_limit = Some(2 * least - 1);
    match Models::open(three) {
        Err(ModelsError::NoPlace {
            need,
            pinned,
            limit,
            ..
        }) => {
            assert_eq!((need, pinned, limit), (least, least, 2 * least - 1));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn two_of_one_name_or_one_root_are_refused_by_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let two = entries(folder.path(), 2, 2);
    let mut one_name = two.clone();
    one_name[1].options.name.clone_from(&two[0].options.name);
    let mut one_file = two.clone();
    one_file[1].path.clone_from(&two[0].path);
    for wrong in [one_name, one_file] {
        let path = wrong[1].path.clone();
        match Models::open(wrong) {
            Err(ModelsError::Twice { path: told, .. }) => assert_eq!(told, path),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_judge_may_have_models_of_one_name_and_needs_one_root_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut three = entries(folder.path(), 2, 2);
    three.push(three[0].clone());
    let name = three[0].options.name.clone();
    three[1].options.name = name;
    let models = Models::open_for_judging(three).expect("opens");
    assert_eq!(models.len(), 2);
    assert_ne!(answer(&models[0]), answer(&models[1]));
}

#[test]
fn a_file_that_became_another_model_is_not_served_under_the_first_ones_root() {
    let folder = tempfile::tempdir().expect("a folder");
    let two = entries(folder.path(), 2, 1);
    let (path, right) = (two[0].path.clone(), folder.path().join("kept"));
    let models = Models::open(two).expect("opens");
    assert_eq!(loaded(&models), [false, true]);
    std::fs::rename(&path, &right).expect("moved");
    for how in ["gone", "other", "broken"] {
        match how {
            "other" => drop(write(folder.path(), "model-0.gguf", 9)),
            "broken" => std::fs::write(&path, "no model").expect("written"),
            _ => {}
        }
        let refused = models[0].prepare(&work()).err();
        assert_eq!(refused, Some(RefusalReason::UnknownModel), "{how}");
        assert!(models[0].ready().is_err() && models[1].ready().is_ok());
        answer(&models[1]);
    }
    std::fs::rename(&right, &path).expect("moved back");
    // It is tried again after a while, and others are not let go for it before.
    let asked = std::time::Instant::now();
    while models[0].prepare(&work()).is_err() {
        assert!(asked.elapsed() < std::time::Duration::from_secs(60));
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    assert_eq!(models[0].ready(), Ok(()));
}
