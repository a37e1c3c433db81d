//! Whole models: file formats, kernels, sessions, generation.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use stoa_engine::import::Checkpoint;
use stoa_engine::{
    Answer, Constraint, ConstraintError, EngineError, Entry, Finish, Generation, Kernel,
    LoadOptions, Model, Runner, Sequence, Session, TextOptions, Threads, TokenEvent, TokenSet,
    Wanted, drive, generate, text_vector,
};
use stoa_types::{Logprobs, Q16, SamplingParameters, SignedQ16};
use support::float_reference::{FloatReference, compare};
use support::{BEGIN, GgufWriter, Random, Shape, Storage, TOOL_CALL, Toy, write_folder};
use tempfile::TempDir;

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn toy_model(shape: Shape, seed: u64) -> Arc<Model> {
    let folder = folder();
    let path =
        GgufWriter::new(&Toy::new(shape, seed), Storage::Q8_0).write(folder.path(), "toy.gguf");
    Arc::new(Model::open(path).expect("a toy model is valid"))
}

fn tokens(count: usize, seed: u64) -> Vec<u32> {
    let mut random = Random(seed);
    (0..count).map(|_| random.below(259)).collect()
}

fn parameters(temperature: f64, seed: u64, max: u32) -> SamplingParameters {
    SamplingParameters {
        temperature: Q16::from_f64(temperature).expect("in range"),
        min_p: Q16(0),
        seed,
        max_output_tokens: max,
        stop: vec![],
        ..SamplingParameters::default()
    }
}

fn answer(model: &Arc<Model>, prompt: &[u32], p: &SamplingParameters) -> (Answer, Vec<TokenEvent>) {
    let mut events = vec![];
    let options = TextOptions {
        render_special: true,
    };
    let answer = generate(model, prompt, p, options, &AtomicBool::new(false), |e| {
        events.push(e.clone());
        ControlFlow::Continue(())
    });
    (answer.expect("a valid prompt"), events)
}

#[test]
fn gguf_and_safetensors_of_one_model_give_the_same_bits() {
    for tied in [true, false] {
        let toy = Toy::new(
            Shape {
                tied,
                ..Shape::small()
            },
            5,
        );
        let folder = folder();
        for storage in [Storage::F32, Storage::F16] {
            let gguf = Arc::new(
                Model::open(GgufWriter::new(&toy, storage).write(folder.path(), "toy.gguf"))
                    .expect("valid"),
            );
            let hf =
                Arc::new(Model::open(write_folder(&toy, folder.path(), storage)).expect("valid"));
            let ids = tokens(40, 3);
            let (mut a, mut b) = (Session::new(&gguf), Session::new(&hf));
            assert_eq!(a.prefill(&ids), b.prefill(&ids));
            assert_eq!(gguf.info().parameters, hf.info().parameters);
            let text = "hello <|tool_call|> wörld";
            assert_eq!(
                gguf.tokenizer().encode(text, true),
                hf.tokenizer().encode(text, true)
            );
            assert!(hf.tokenizer().is_end(support::END) && gguf.tokenizer().is_end(support::END));
        }
    }
}

#[test]
fn every_kernel_gives_the_same_logits_for_many_shapes() {
    let folder = folder();
    for (i, (width, heads, kv_heads, head, ffn)) in [
        (64, 2, 1, 32, 96),
        (96, 6, 2, 32, 160),
        (32, 3, 3, 96, 64),
        (160, 8, 1, 64, 224),
    ]
    .into_iter()
    .enumerate()
    {
        let shape = Shape {
            width,
            heads,
            kv_heads,
            head,
            ffn,
            ..Shape::small()
        };
        let path = GgufWriter::new(&Toy::new(shape, i as u64), Storage::Q8_0)
            .write(folder.path(), "toy.gguf");
        let ids = tokens(70, 11);
        let run = |kernel| {
            let options = LoadOptions {
                kernel: Some(kernel),
                ..LoadOptions::default()
            };
            let model = Arc::new(Model::open_with(&path, options).expect("valid"));
            let mut session = Session::new(&model);
            let mut all = session.prefill(&ids[..33]).expect("fits").to_vec();
            for id in &ids[33..] {
                all.extend(session.step(*id).expect("fits"));
            }
            all
        };
        let reference = run(Kernel::SCALAR);
        assert!(reference.iter().any(|l| *l != 0));
        for kernel in Kernel::available() {
            assert_eq!(run(kernel), reference, "{}", kernel.name());
        }
    }
}

#[test]
fn splitting_a_prompt_or_rewinding_changes_no_bit() {
    let model = toy_model(Shape::small(), 8);
    let ids = tokens(90, 4);
    let mut whole = Session::new(&model);
    whole.prefill(&ids).expect("fits");
    for cut in [1, 15, 16, 17, 40, 89] {
        let mut split = Session::new(&model);
        split.prefill(&ids[..cut]).expect("fits");
        split.prefill(&tokens(7, 99)).expect("fits");
        split.truncate(cut);
        split.prefill(&ids[cut..]).expect("fits");
        assert_eq!(split.logits(), whole.logits(), "cut at {cut}");
    }
    let mut single = Session::new(&model);
    for id in &ids {
        single.step(*id).expect("fits");
    }
    assert_eq!(single.logits(), whole.logits());
}

/// What each of some texts gives token by token when it goes through the model alone.
fn alone(model: &Arc<Model>, texts: &[Vec<u32>]) -> Vec<Vec<Vec<i32>>> {
    let logits = |text: &Vec<u32>| {
        let mut session = Session::new(model);
        let step = |id: &u32| session.step(*id).expect("fits").to_vec();
        text.iter().map(step).collect()
    };
    texts.iter().map(logits).collect()
}

/// All texts together, in passes that take a random number of tokens of each of some of them.
fn together(runner: &mut Runner, texts: &[Vec<u32>], seed: u64) -> Vec<Vec<Vec<i32>>> {
    let (mut random, vocab) = (Random(seed), runner.model().config().vocab);
    let model = Arc::clone(runner.model());
    let mut sequences: Vec<Sequence> = texts
        .iter()
        .map(|_| Sequence::new(model.config()))
        .collect();
    let mut found = vec![Vec::new(); texts.len()];
    while sequences.iter().zip(texts).any(|(s, t)| s.len() < t.len()) {
        let mut logits = vec![Vec::new(); texts.len()];
        let mut entries = Vec::new();
        for ((sequence, text), logits) in sequences.iter_mut().zip(texts).zip(&mut logits) {
            let left = &text[sequence.len()..];
            let count = left.len().min(random.below(90) as usize);
            if count > 0 {
                entries.push(Entry {
                    sequence,
                    tokens: &left[..count],
                    wanted: Wanted::Each(logits),
                });
            }
        }
        runner.run(&mut entries).expect("fits");
        for (found, logits) in found.iter_mut().zip(&logits) {
            found.extend(logits.chunks(vocab).map(<[i32]>::to_vec));
        }
    }
    found
}

#[test]
fn many_sequences_in_a_pass_on_any_kernel_and_threads_have_the_bits_that_each_has_alone() {
    let folder = folder();
    for (i, (heads, kv_heads)) in [(6, 2), (3, 3), (17, 1)].into_iter().enumerate() {
        let shape = Shape {
            heads,
            kv_heads,
            ..Shape::small()
        };
        let path = GgufWriter::new(&Toy::new(shape, i as u64), Storage::Q8_0)
            .write(folder.path(), "toy.gguf");
        let open = |kernel| {
            let options = LoadOptions {
                kernel: Some(kernel),
                ..LoadOptions::default()
            };
            Arc::new(Model::open_with(&path, options).expect("valid"))
        };
        let texts: Vec<_> = [1, 3, 64, 65, 120, 30, 90]
            .into_iter()
            .map(|n| tokens(n, n as u64))
            .collect();
        let expected = alone(&open(Kernel::SCALAR), &texts);
        for kernel in Kernel::available() {
            // The reference is slow, and its threads are everybody's.
            let counts = if kernel == Kernel::SCALAR { 2..3 } else { 1..4 };
            for threads in counts {
                let pool = Threads::new(threads).expect("threads");
                let mut runner = Runner::new(&open(kernel), pool);
                let found = together(&mut runner, &texts, threads as u64);
                assert!(found == expected, "{} on {threads} threads", kernel.name());
            }
        }
    }
}

#[test]
fn sequences_that_share_a_beginning_do_not_see_each_other_go_on() {
    let model = toy_model(Shape::small(), 8);
    let (start, mut runner) = (tokens(100, 4), Runner::new(&model, Threads::one()));
    let mut last = |sequence: &mut Sequence, tokens: &[u32]| {
        let mut logits = Vec::new();
        let entry = Entry {
            sequence,
            tokens,
            wanted: Wanted::Last(&mut logits),
        };
        runner.run(&mut [entry]).expect("fits");
        logits
    };
    let mut first = Sequence::new(model.config());
    last(&mut first, &start);
    let (mut second, mut third) = (first.clone(), first.clone());
    third.truncate(70);
    let ends = [tokens(40, 1), tokens(40, 2), tokens(40, 3)];
    let found = [
        last(&mut first, &ends[0]),
        last(&mut second, &ends[1]),
        last(&mut third, &ends[2]),
    ];
    for ((end, kept), found) in ends.iter().zip([100, 100, 70]).zip(found) {
        let mut whole = Session::new(&model);
        whole.prefill(&start[..kept]).expect("fits");
        assert_eq!(whole.prefill(end).expect("fits"), found);
    }
}

#[test]
fn a_pass_with_one_entry_that_cannot_be_changes_no_sequence() {
    let (model, other) = (
        toy_model(Shape::small(), 8),
        toy_model(
            Shape {
                layers: 1,
                ..Shape::small()
            },
            8,
        ),
    );
    let mut runner = Runner::new(&model, Threads::one());
    let (mut good, fine) = (Sequence::new(model.config()), vec![1, 2]);
    for (mut bad, tokens, reason) in [
        (Sequence::new(model.config()), vec![], "empty"),
        (Sequence::new(model.config()), vec![99_999], "vocabulary"),
        (Sequence::new(model.config()), vec![1; 5_000], "context"),
        (Sequence::new(other.config()), vec![1], "shape"),
    ] {
        let mut entries = [(&mut good, &fine), (&mut bad, &tokens)].map(|(s, t)| Entry {
            sequence: s,
            tokens: t,
            wanted: Wanted::Nothing,
        });
        let error = runner.run(&mut entries).expect_err("refused").to_string();
        assert!(error.contains(reason), "{error}");
        assert!(good.is_empty() && bad.is_empty());
    }
    assert!(Threads::new(100_000).is_err());
}

#[test]
fn a_vector_depends_on_the_text_alone_and_on_no_chunk_kernel_or_earlier_text() {
    let folder = folder();
    let path = GgufWriter::new(&Toy::new(Shape::small(), 8), Storage::Q8_0)
        .write(folder.path(), "toy.gguf");
    let open = |kernel| {
        let options = LoadOptions {
            kernel: Some(kernel),
            ..LoadOptions::default()
        };
        Arc::new(Model::open_with(&path, options).expect("valid"))
    };
    let down = AtomicBool::new(false);
    let vector = |session: &mut Session, ids: &[u32], d| {
        let vector = session.text_vector(ids, d, &down).expect("fits");
        vector.expect("not cancelled")
    };
    let scalar = open(Kernel::SCALAR);
    let ids = tokens(100, 4);
    for length in [1, 2, 15, 16, 17, 33, 100] {
        let reference = vector(&mut Session::new(&scalar), &ids[..length], 0);
        for cut in [1, 3, 16, 29] {
            let (mut sums, mut split) = (vec![0; 96], Session::new(&scalar));
            for part in ids[..length].chunks(cut) {
                let whole = split.add_states(part, &mut sums, &down);
                assert!(whole.expect("fits"));
            }
            assert_eq!(text_vector(&sums), reference, "cut at {cut}");
            assert_eq!(
                text_vector(&sums[..7]),
                vector(&mut split, &ids[..length], 7)
            );
        }
        for kernel in Kernel::available() {
            let mut session = Session::new(&open(kernel));
            session.prefill(&tokens(40, 9)).expect("fits");
            assert_eq!(vector(&mut session, &ids[..length], 0), reference);
            assert_eq!(session.len(), length);
        }
    }
    assert_ne!(
        vector(&mut Session::new(&scalar), &ids[..20], 0),
        vector(&mut Session::new(&scalar), &ids[1..21], 0)
    );
}

#[test]
fn a_vector_that_cannot_be_is_refused_and_a_cancelled_one_is_none() {
    let model = toy_model(Shape::small(), 8);
    let mut session = Session::new(&model);
    let down = AtomicBool::new(false);
    let refused = session.text_vector(&[1], 97, &down);
    assert!(matches!(
        refused,
        Err(EngineError::TooManyDimensions {
            dimensions: 97,
            width: 96
        })
    ));
    let refused = session.text_vector(&[], 0, &down);
    assert!(matches!(refused, Err(EngineError::EmptyPrompt)));
    let refused = session.text_vector(&vec![1; 513], 0, &down);
    assert!(matches!(refused, Err(EngineError::ContextExceeded { .. })));
    // A full context fits however much the session held.
    session.prefill(&tokens(300, 1)).expect("fits");
    let full = session.text_vector(&vec![1; 512], 0, &down);
    assert!(full.expect("fits").is_some());
    let cancelled = session.text_vector(&[1], 0, &AtomicBool::new(true));
    assert_eq!(cancelled.expect("no error"), None);
}

#[test]
fn integer_logits_stay_close_to_the_float_model() {
    let folder = folder();
    let path = GgufWriter::new(&Toy::new(Shape::small(), 21), Storage::F16)
        .write(folder.path(), "toy.gguf");
    let model = Arc::new(Model::open(&path).expect("valid"));
    let mut reference =
        FloatReference::new(&Checkpoint::open(&path).expect("valid")).expect("valid");
    let mut session = Session::new(&model);
    let (mut sum, mut same, n) = (0.0, 0, 150);
    for id in tokens(n, 2) {
        let expected = reference.step(id);
        let (kl, first) = compare(&expected, session.step(id).expect("fits"));
        sum += kl;
        same += usize::from(first);
    }
    let mean = sum / n as f64;
    assert!(mean < 2e-3, "mean KL {mean}");
    assert!(same * 100 >= n * 93, "same first choice {same} of {n}");
}

#[test]
fn an_answer_depends_on_the_seed_and_nothing_else() {
    let model = toy_model(Shape::small(), 1);
    let ids = tokens(20, 6);
    let run = |seed| answer(&model, &ids, &parameters(0.9, seed, 40)).0;
    assert_eq!(run(7), run(7));
    assert_ne!(run(7).tokens, run(8).tokens);
    let greedy = |seed| answer(&model, &ids, &parameters(0.0, seed, 40)).0;
    assert_eq!(greedy(7), greedy(8));
}

#[test]
fn every_token_is_the_sampler_s_choice_at_the_number_of_tokens_before_it() {
    let model = toy_model(Shape::small(), 1);
    let ids = tokens(20, 6);
    let p = parameters(1.0, 7, 30);
    let (answer, _) = answer(&model, &ids, &p);
    let mut session = Session::new(&model);
    session.prefill(&ids).expect("fits");
    for (position, token) in (20..).zip(&answer.tokens) {
        let choice = stoa_engine::sampler::sample(session.logits(), &p, position);
        assert_eq!(choice, *token, "position {position}");
        session.step(*token).expect("fits");
    }
}

#[test]
fn answers_driven_side_by_side_are_those_that_each_has_alone() {
    let model = toy_model(Shape::small(), 1);
    let options = TextOptions {
        render_special: true,
    };
    let prompts: Vec<Vec<u32>> = (0..4).map(|i| tokens(5 + 3 * i, 6)).collect();
    let alone: Vec<_> = (0u64..)
        .zip(&prompts)
        .map(|(i, prompt)| answer(&model, prompt, &parameters(1.1, i, 30)))
        .collect();
    let mut running: Vec<_> = (0u64..)
        .zip(&prompts)
        .map(|(i, prompt)| {
            let mut session = Session::new(&model);
            session.prefill(prompt).expect("fits");
            let p = parameters(1.1, i, 30);
            let generation = Generation::new(&model, prompt.len(), &p, options);
            (generation, session, vec![])
        })
        .collect();
    while running.iter().any(|(g, ..)| g.finish().is_none()) {
        for (generation, session, events) in &mut running {
            if generation.finish().is_some() {
                let after = generation.choose(session.logits());
                assert_eq!(after, Err(EngineError::AnswerOver));
                continue;
            }
            let event = generation.choose(session.logits()).expect("not over");
            assert_eq!(generation.tokens().last(), Some(&event.id));
            if event.finish.is_none() {
                session.step(event.id).expect("fits");
            }
            events.push(event);
        }
    }
    for ((generation, _, events), alone) in running.into_iter().zip(alone) {
        assert_eq!((generation.into_answer(), events), alone);
    }
}

#[test]
fn an_answer_that_is_broken_off_is_cancelled_and_one_that_is_over_stays_as_it_ended() {
    let model = toy_model(Shape::small(), 1);
    let new = |max| {
        let p = parameters(0.0, 0, max);
        Generation::new(&model, 1, &p, TextOptions::default())
    };
    let mut empty = new(0);
    assert_eq!((empty.finish(), empty.limit()), (Some(Finish::Length), 0));
    empty.cancel();
    assert_eq!(empty.into_answer().finish, Finish::Length);
    assert_eq!(new(3).into_answer().finish, Finish::Cancelled);
    let logits = vec![0; model.config().vocab];
    let mut broken = new(3);
    broken.choose(&logits).expect("not over");
    broken.cancel();
    assert_eq!(broken.choose(&logits), Err(EngineError::AnswerOver));
    let broken = broken.into_answer();
    assert_eq!((broken.tokens, broken.finish), (vec![0], Finish::Cancelled));
    // Longer than the context: nothing may be chosen.
    let long = Generation::new(
        &model,
        1 << 20,
        &parameters(0.0, 0, 9),
        TextOptions::default(),
    );
    assert_eq!(long.finish(), Some(Finish::Length));
}

/// Everything may come until so many tokens were taken; then it fails, in one way or the other.
#[derive(Debug)]
struct Bounded {
    left: u32,
    how: How,
    set: TokenSet,
}

#[derive(Debug, Clone, Copy)]
enum How {
    Accepting,
    Asked,
    NoToken,
    UnknownTokenOnly,
}

impl Constraint for Bounded {
    fn allowed(&mut self) -> Result<Option<&TokenSet>, ConstraintError> {
        match (self.left, self.how) {
            (0, How::Asked) => Err(ConstraintError::new("a bound")),
            (0, _) => Ok(Some(&self.set)),
            _ => Ok(None),
        }
    }

    fn accept(&mut self, _: u32) -> Result<(), ConstraintError> {
        self.left -= 1;
        match (self.left, self.how) {
            (0, How::Accepting) => Err(ConstraintError::new("a bound")),
            _ => Ok(()),
        }
    }
}

#[test]
fn an_answer_whose_constraint_cannot_go_on_ends_at_its_last_token_as_one_that_a_limit_cuts() {
    let model = toy_model(Shape::small(), 1);
    let vocab = model.config().vocab as u32;
    let prompt = tokens(6, 2);
    let held = |left, how, p: &SamplingParameters| {
        let mut set = TokenSet::none(vocab as usize + 1);
        if matches!(how, How::UnknownTokenOnly) {
            set.insert(vocab);
        }
        let constraint = Bounded { left, how, set };
        let mut session = Session::new(&model);
        let options = TextOptions {
            render_special: true,
        };
        let generation =
            Generation::new(&model, prompt.len(), p, options).held_to(Some(Box::new(constraint)));
        let mut events = vec![];
        let cancel = AtomicBool::new(false);
        let made = drive(generation, &mut session, &prompt, &cancel, |e| {
            events.push(e.clone());
            ControlFlow::Continue(())
        });
        (made, events)
    };
    for how in [
        How::Accepting,
        How::Asked,
        How::NoToken,
        How::UnknownTokenOnly,
    ] {
        for left in 1..6 {
            let free = answer(&model, &prompt, &parameters(0.9, 3, left)).0;
            let (cut, events) = held(left, how, &parameters(0.9, 3, 30));
            let cut = cut.expect("it ends and does not fail");
            // The same as if the client had asked for so many tokens, with all text that was held back.
            assert_eq!(
                (cut.finish, &cut),
                (Finish::Length, &free),
                "{how:?} {left}"
            );
            let last = events.last().expect("at least one");
            assert_eq!(
                (last.id, last.finish),
                (cut.tokens[left as usize - 1], Some(Finish::Length))
            );
        }
        // Without a first token there is no answer.
        let refused = held(0, how, &parameters(0.9, 3, 30)).0;
        assert!(
            matches!(refused, Err(EngineError::Constraint(_))),
            "{refused:?}"
        );
    }
    // The client's own stop string has the say where both end the answer at one token.
    let text = answer(&model, &prompt, &parameters(0.9, 3, 5)).0.text;
    let stop = text.chars().next_back().expect("some text").to_string();
    let p = SamplingParameters {
        stop: vec![stop],
        ..parameters(0.9, 3, 30)
    };
    let stopped = answer(&model, &prompt, &p).0;
    let (both, _) = held(stopped.tokens.len() as u32, How::Asked, &p);
    assert_eq!(both.expect("ends"), stopped);
    assert_eq!(stopped.finish, Finish::StopString);
}

#[test]
fn bias_and_penalties_of_an_answer_count_the_tokens_that_it_has() {
    let model = toy_model(Shape::small(), 1);
    let ids = tokens(20, 6);
    let mut p = parameters(0.0, 0, 60);
    let (free, _) = answer(&model, &ids, &p);
    let share = |a: &Answer| {
        let different: BTreeSet<_> = a.tokens.iter().collect();
        different.len() as f64 / a.tokens.len() as f64
    };
    p.frequency_penalty = SignedQ16(2 << 16);
    p.presence_penalty = SignedQ16(1 << 16);
    // The prompt does not count, only the answer does.
    let first = free.tokens[0];
    p.logit_bias = [(first, SignedQ16(-(100 << 16)))].into();
    let (varied, _) = answer(&model, &ids, &p);
    assert!(!varied.tokens.contains(&first), "it was banned");
    assert!(share(&varied) > share(&free), "less is said twice");
    let mut session = Session::new(&model);
    session.prefill(&ids).expect("fits");
    let mut counts = BTreeMap::new();
    for (position, token) in (20..).zip(&varied.tokens) {
        let mut logits = session.logits().to_vec();
        stoa_engine::sampler::adjust(&mut logits, &p, &counts);
        let choice = stoa_engine::sampler::sample(&logits, &p, position);
        assert_eq!(choice, *token, "position {position}");
        *counts.entry(choice).or_default() += 1;
        session.step(choice).expect("fits");
    }
    // A bias that outweighs everything is all that is said.
    p.logit_bias = [(65, SignedQ16(100 << 16))].into();
    p.frequency_penalty = SignedQ16(0);
    let (forced, _) = answer(&model, &ids, &p);
    assert_eq!(forced.tokens, [65; 60]);
}

#[test]
fn log_probabilities_are_of_the_model_s_own_logits_and_change_no_token() {
    let model = toy_model(Shape::small(), 1);
    let ids = tokens(20, 6);
    let mut p = parameters(1.2, 3, 40);
    p.logit_bias = [(5, SignedQ16(3 << 16))].into();
    p.frequency_penalty = SignedQ16(1 << 16);
    let (plain, events) = answer(&model, &ids, &p);
    assert!(events.iter().all(|event| event.logprobs.is_none()));
    p.logprobs = Some(3);
    let (told, events) = answer(&model, &ids, &p);
    assert_eq!(told, plain);
    let mut session = Session::new(&model);
    session.prefill(&ids).expect("fits");
    for event in &events {
        let told = event.logprobs.as_deref().expect("asked for");
        let logits = session.logits();
        let normaliser = stoa_engine::logprob::Normaliser::of(logits);
        let top = stoa_engine::logprob::likeliest(logits, 3);
        for (one, id) in told.top.iter().zip(&top).chain([(&told.chosen, &event.id)]) {
            assert_eq!(one.id, *id);
            assert_eq!(one.logprob.0, normaliser.logprob(logits[*id as usize]));
            assert_eq!(one.bytes.0, model.tokenizer().bytes(*id, true));
        }
        assert_eq!(told.top.len(), 3);
        let ids = [event.id];
        let checked = Logprobs::check(std::slice::from_ref(told), &ids, Some(3), 64);
        assert_eq!(checked, Ok(()));
        session.step(event.id).expect("fits");
    }
}

#[test]
fn streamed_text_is_the_decoded_text_and_every_token_has_an_event() {
    let model = toy_model(Shape::small(), 1);
    let (mut ended, mut limited) = (0, 0);
    for seed in 0..30 {
        let (answer, events) = answer(&model, &[BEGIN], &parameters(1.5, seed, 150));
        let ids: Vec<u32> = events.iter().map(|e| e.id).collect();
        assert_eq!(ids, answer.tokens);
        let text: String = events.iter().map(|e| e.text.as_str()).collect();
        assert_eq!(text, answer.text);
        let shown = answer
            .tokens
            .strip_suffix(&[support::END])
            .unwrap_or(&answer.tokens);
        assert_eq!(text, model.tokenizer().decode(shown, true));
        let finishes: Vec<_> = events.iter().filter_map(|e| e.finish).collect();
        assert_eq!(finishes, [answer.finish]);
        match answer.finish {
            Finish::EndToken => ended += 1,
            Finish::Length => {
                assert_eq!(answer.tokens.len(), 150);
                limited += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(
        ended > 0 && limited > 0,
        "both ends were seen: {ended} {limited}"
    );
}

#[test]
fn a_stop_string_ends_the_text_before_it() {
    let model = toy_model(Shape::small(), 1);
    let mut p = parameters(1.2, 3, 60);
    let (free, _) = answer(&model, &[BEGIN], &p);
    let letters: Vec<char> = free.text.chars().collect();
    let stop: String = letters[20..23].iter().collect();
    p.stop = vec!["never in the text".to_owned(), stop.clone()];
    let (stopped, events) = answer(&model, &[BEGIN], &p);
    let expected = &free.text[..free.text.find(&stop).expect("it is there")];
    assert_eq!(stopped.text, expected);
    assert_eq!(stopped.finish, Finish::StopString);
    assert_eq!(stopped.finish.reason(), Some("stop"));
    assert_eq!(free.tokens[..stopped.tokens.len()], stopped.tokens);
    assert_eq!(events.len(), stopped.tokens.len());
}

#[test]
fn limits_and_cancelling_are_kept() {
    let model = toy_model(
        Shape {
            context: 24,
            ..Shape::small()
        },
        1,
    );
    let p = parameters(0.5, 1, 0);
    let (none, events) = answer(&model, &[BEGIN], &p);
    assert_eq!(
        (none.tokens.len(), events.len(), none.finish),
        (0, 0, Finish::Length)
    );
    let mut full = answer(&model, &tokens(20, 5), &parameters(0.5, 1, 1000)).0;
    full.tokens.retain(|id| *id != support::END);
    assert!(
        full.tokens.len() <= 5,
        "20 + 5 tokens: the last needs no place in the cache"
    );
    let refused = Session::new(&model)
        .prefill(&tokens(25, 5))
        .map(<[i32]>::len);
    assert_eq!(
        refused,
        Err(EngineError::ContextExceeded {
            used: 0,
            more: 25,
            context: 24
        })
    );
    let cancel = AtomicBool::new(false);
    let mut seen = 0;
    let cancelled = generate(
        &model,
        &[BEGIN],
        &parameters(0.5, 1, 20),
        TextOptions::default(),
        &cancel,
        |_| {
            seen += 1;
            cancel.store(seen == 2, Ordering::Relaxed);
            ControlFlow::Continue(())
        },
    );
    let cancelled = cancelled.expect("valid");
    assert_eq!(
        (cancelled.tokens.len(), cancelled.finish),
        (2, Finish::Cancelled)
    );
    let broken = generate(
        &model,
        &[BEGIN],
        &parameters(0.5, 1, 20),
        TextOptions::default(),
        &AtomicBool::new(false),
        |_| ControlFlow::Break(()),
    );
    assert_eq!(broken.expect("valid").tokens.len(), 1);
}

#[test]
fn bad_prompts_are_refused_and_leave_the_session_as_it_was() {
    let model = toy_model(Shape::small(), 1);
    let mut session = Session::new(&model);
    let before = session.prefill(&[1, 2, 3]).expect("valid").to_vec();
    assert_eq!(
        session.prefill(&[]).map(<[i32]>::len),
        Err(EngineError::EmptyPrompt)
    );
    assert_eq!(
        session.prefill(&[5, 262]).map(<[i32]>::len),
        Err(EngineError::UnknownToken {
            id: 262,
            vocab: 262
        })
    );
    assert_eq!((session.len(), session.logits()), (3, &before[..]));
}

#[test]
fn control_tokens_are_text_only_on_request_and_users_cannot_write_them() {
    let model = toy_model(Shape::small(), 1);
    let t = model.tokenizer();
    let text = "hell<|tool_call|>!";
    let parsed = t.encode(text, true).expect("valid");
    assert_eq!(parsed, [258, TOOL_CALL, u32::from(b'!')]);
    assert_eq!(t.decode(&parsed, true), text);
    assert_eq!(t.decode(&parsed, false), "hell!");
    let plain = t.encode(text, false).expect("valid");
    assert!(!plain.contains(&TOOL_CALL));
    assert_eq!(t.decode(&plain, false), text);
    let prompt = model
        .render_chat(r#"[{"role":"user","content":"hell"}]"#, None, true)
        .expect("renders");
    assert_eq!(
        t.encode(&prompt, true).expect("valid"),
        [BEGIN, 258, support::END]
    );
}

#[test]
fn the_streaming_detokenizer_never_splits_a_character() {
    let model = toy_model(Shape::small(), 1);
    let text = "aé漢🦀\u{301} z";
    let ids = model.tokenizer().encode(text, false).expect("valid");
    let mut d = stoa_engine::Detokenizer::new(false);
    let parts: Vec<String> = ids
        .iter()
        .map(|id| d.push(model.tokenizer(), *id))
        .collect();
    assert_eq!(parts.concat(), text);
    assert!(
        parts.iter().any(String::is_empty),
        "bytes of a character wait for the last one"
    );
    assert_eq!(d.finish(), "");
    // A broken character: one mark for it, and the text goes on.
    let broken = [0xf0u32, 0x9f, u32::from(b'x'), 0xe6];
    assert_eq!(
        model.tokenizer().decode(&broken, false),
        "\u{fffd}x\u{fffd}"
    );
}

#[test]
fn the_root_changes_with_a_single_weight_the_template_or_the_tokenizer() {
    let folder = folder();
    let root = |toy: &Toy| {
        Model::open(GgufWriter::new(toy, Storage::F32).write(folder.path(), "toy.gguf"))
            .expect("valid")
            .root()
    };
    let toy = || Toy::new(Shape::small(), 1);
    let first = root(&toy());
    assert_eq!(first, root(&toy()));
    let mut weight = toy();
    weight
        .tensors
        .get_mut("model.layers.1.mlp.up_proj.weight")
        .expect("there")
        .2[700] += 0.05;
    let mut template = toy();
    template.template.push(' ');
    let mut merges = toy();
    merges.merges.pop();
    for other in [weight, template, merges] {
        assert_ne!(root(&other), first);
    }
}

#[test]
fn a_model_too_large_is_refused_with_figures_before_loading() {
    let folder = folder();
    let path = GgufWriter::new(&Toy::new(Shape::small(), 1), Storage::Q8_0)
        .write(folder.path(), "toy.gguf");
    let estimate = Model::memory_estimate(&path).expect("valid");
    let open = |limit| {
        Model::open_with(
            &path,
            LoadOptions {
                memory_limit: Some(limit),
                ..LoadOptions::default()
            },
        )
    };
    assert!(open(estimate.peak()).is_ok());
    let message = open(estimate.peak() - 1)
        .expect_err("too large")
        .to_string();
    assert!(
        message.contains(&estimate.peak().to_string()) && message.contains("allowed"),
        "{message}"
    );
}

#[test]
fn a_folder_that_is_named_by_dots_has_its_own_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = write_folder(&Toy::new(Shape::small(), 1), folder.path(), Storage::F16);
    std::fs::create_dir(path.join("below")).expect("writable");
    let name = path.file_name().expect("it has one").to_string_lossy();
    for dots in [".", "below/.."] {
        let model = Model::open(path.join(dots)).expect("valid");
        assert_eq!(model.info().name, name);
    }
}
