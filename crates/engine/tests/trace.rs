//! Traces of every architecture: the same bits as serving, roots, openings, disputes.

mod support;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use stoa_crypto::{MerkleTree, keccak256};
use stoa_engine::trace::{
    Descent, Job, Judge, Kind, ModelTree, Opening, Replay, StepTrace, Subject, Values, Verdict,
    checkpoint, checkpoint_of_all, entries_leaf, operator_leaf, output_leaf, state_leaf,
};
use stoa_engine::{
    Answer, Config, Ended, Generation, Kernel, LoadOptions, Model, Request, Scheduler,
    SchedulerOptions, Session, Sink, Tenant, TextOptions, Threads, TokenEvent, drive, generate,
};
use stoa_types::{Digest, Q16, SamplingParameters, SignedQ16};
use support::{Family, GgufWriter, Random, Scaling, Shape, Storage, Toy, write_folder};
use tempfile::TempDir;

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// A model of random weights, and the folder that it lies in.
fn model(shape: &Shape) -> Arc<Model> {
    let (toy, folder) = (Toy::new(shape.clone(), 5), folder());
    let path = write_folder(&toy, folder.path(), Storage::F32);
    Arc::new(Model::open(path).expect("valid"))
}

fn prompt(count: usize, seed: u64) -> Vec<u32> {
    let mut random = Random(seed);
    (0..count).map(|_| random.below(256)).collect()
}

fn parameters(seed: u64) -> SamplingParameters {
    SamplingParameters {
        temperature: Q16(80_000),
        min_p: Q16(1_000),
        seed,
        max_output_tokens: 6,
        ..SamplingParameters::default()
    }
}

fn answer(model: &Arc<Model>, prompt: &[u32], parameters: &SamplingParameters) -> Answer {
    let never = AtomicBool::new(false);
    let go_on = |_: &_| std::ops::ControlFlow::Continue(());
    generate(
        model,
        prompt,
        parameters,
        TextOptions::default(),
        &never,
        go_on,
    )
    .expect("an answer")
}

fn job(model: &Arc<Model>, length: usize, parameters: SamplingParameters) -> Job {
    let prompt = prompt(length, 7);
    let answer = answer(model, &prompt, &parameters).tokens;
    Job {
        prompt,
        answer,
        parameters,
    }
}

fn replay(model: &Arc<Model>, job: &Job) -> Replay {
    Replay::new(model, job.clone(), Threads::one()).expect("a job of this model")
}

/// Every decoder, and what only some files of it say.
fn shapes() -> Vec<Shape> {
    let mut shapes: Vec<Shape> = Family::DECODERS.into_iter().map(Shape::of).collect();
    shapes.push(Shape {
        window: 5,
        ..Shape::of(Family::Mistral)
    });
    shapes.push(Shape {
        scaling: Some(Scaling {
            kind: "yarn",
            factor: 4.0,
            original: 64,
        }),
        ..Shape::of(Family::Qwen3)
    });
    shapes
}

#[test]
fn traced_steps_of_every_architecture_have_the_bits_of_serving() {
    for shape in shapes() {
        let model = model(&shape);
        let job = job(&model, 9, parameters(3));
        let replay = replay(&model, &job);
        let mut session = Session::new(&model);
        for position in 0..job.steps() {
            let step = replay.step(position).expect("a step of the job");
            let token = job.token(position).expect("in range");
            let logits = session.step(token).expect("a token of the model");
            // Residual, keys and values: the states hash what the serving pass left in its cache.
            assert_eq!(step.claim.before, replay.states()[position]);
            assert_eq!(step.claim.after, replay.states()[position + 1], "{shape:?}");
            if position + 1 < job.prompt.len() {
                assert_eq!(step.program.token, None);
                continue;
            }
            let at = step.program.logits.expect("a step of the answer");
            assert_eq!(
                step.values[at],
                Values::Narrow(logits.to_vec()),
                "{shape:?}"
            );
            let chosen = step.values[step.program.token.expect("no grammar")].clone();
            let next = job.answer[position + 1 - job.prompt.len()];
            assert_eq!(chosen, Values::Wide(vec![i64::from(next)]), "{shape:?}");
        }
        assert_eq!(session.len(), job.steps());
    }
}

#[test]
fn roots_are_the_same_with_every_kernel_and_number_of_threads() {
    let (toy, folder) = (Toy::new(Shape::of(Family::Qwen3), 5), folder());
    let file = GgufWriter::new(&toy, Storage::Q8_0).write(folder.path(), "toy.gguf");
    let open = |kernel| {
        let options = LoadOptions {
            kernel: Some(kernel),
            ..LoadOptions::default()
        };
        Arc::new(Model::open_with(&file, options).expect("valid"))
    };
    let scalar = open(Kernel::SCALAR);
    let job = job(&scalar, 70, parameters(1));
    let expected = replay(&scalar, &job);
    let step = expected.step(71).expect("in range").claim.root();
    for kernel in Kernel::available() {
        for threads in [1, 2] {
            let model = open(kernel);
            let threads = Threads::new(threads).expect("threads");
            let replay = Replay::new(&model, job.clone(), threads).expect("valid");
            assert_eq!(replay.root(), expected.root());
            assert_eq!(replay.step(71).expect("in range").claim.root(), step);
        }
    }
}

#[test]
fn bias_and_penalties_stand_in_the_trace() {
    let model = model(&Shape::small());
    let mut parameters = parameters(4);
    parameters.logit_bias.insert(7, SignedQ16(200_000));
    parameters.presence_penalty = SignedQ16(70_000);
    parameters.frequency_penalty = SignedQ16(-3_000);
    let job = job(&model, 4, parameters);
    let replay = replay(&model, &job);
    for position in 3..job.steps() {
        let step = replay.step(position).expect("in range");
        let chosen = step.values[step.program.token.expect("no grammar")].clone();
        assert_eq!(
            chosen,
            Values::Wide(vec![i64::from(job.answer[position - 3])])
        );
    }
}

#[test]
fn another_seed_model_or_token_gives_another_trace() {
    let model = model(&Shape::small());
    let job = job(&model, 4, parameters(4));
    let root = replay(&model, &job).root();
    let mut other = job.clone();
    other.prompt[1] ^= 1;
    assert_ne!(replay(&model, &other).root(), root);
    let mut other = job.clone();
    other.parameters.seed = 5;
    assert_eq!(replay(&model, &other).root(), root, "states know no seed");
    let (a, b) = (replay(&model, &job), replay(&model, &other));
    let last = job.steps() - 1;
    let (a, b) = (a.step(last).expect("a step"), b.step(last).expect("a step"));
    assert_eq!(
        a.values[..a.program.token.expect("one")],
        b.values[..b.program.token.expect("one")]
    );
}

/// What is judged of a job of a model.
fn judge(replay: &Replay, weights: &ModelTree) -> Judge {
    let (config, siblings, tied) = weights.shape();
    Judge::new(
        config,
        &siblings,
        tied,
        weights.root(),
        replay.job().clone(),
    )
    .expect("the model's")
}

#[test]
fn every_element_of_an_honest_step_follows_from_the_others() {
    for shape in shapes() {
        let model = model(&shape);
        let mut parameters = parameters(3);
        parameters.presence_penalty = SignedQ16(9_000);
        let job = job(&model, 11, parameters);
        let replay = replay(&model, &job);
        let step = replay.step(12).expect("a step");
        for (number, operator) in step.program.operators.iter().enumerate() {
            if Some(number) == step.program.token {
                continue;
            }
            for element in 0..operator.length {
                let follows = replay.follows(&step, number, element).expect("a rule");
                let claimed = step.values[number].element(element);
                let name = &operator.name;
                assert_eq!(claimed, Some(follows), "{shape:?}: {name} {element}");
            }
        }
    }
}

/// Every subject of a step in turn, elements by a stride.
fn subjects(step: &StepTrace, config: &Config, stride: usize) -> Vec<Subject> {
    let mut subjects = vec![Subject::Residual];
    let trees = 2 * config.layers * config.kv_heads;
    subjects.extend((0..trees).map(|tree| Subject::Appended { tree }));
    for (operator, of) in step.program.operators.iter().enumerate() {
        if Some(operator) == step.program.token {
            subjects.extend([0, 7, 200].map(|other| Subject::Choice { other }));
            continue;
        }
        let elements = (operator % stride..of.length).step_by(stride.max(of.length / 3));
        subjects.extend(elements.map(|element| Subject::Element { operator, element }));
    }
    subjects
}

#[test]
fn an_honest_step_is_never_convicted_whatever_is_opened() {
    for shape in shapes() {
        let model = model(&shape);
        let job = job(&model, 7, parameters(2));
        let replay = replay(&model, &job);
        let weights = ModelTree::new(&model);
        assert_eq!(weights.root(), model.root());
        let judge = judge(&replay, &weights);
        for position in [0, 7, 8] {
            let step = replay.step(position).expect("a step");
            for subject in subjects(&step, model.config(), 17) {
                let opening = replay.open(&weights, &step, subject).expect("of this step");
                let text = serde_json::to_string(&opening).expect("plain data");
                let read: Opening = serde_json::from_str(&text).expect("the same");
                assert_eq!(read, opening);
                let verdict = judge.judge(step.claim.root(), &read).expect("complete");
                assert_eq!(verdict, Verdict::Holds, "{shape:?} {subject:?}");
            }
        }
        for (position, after) in [(0, false), (8, true)] {
            let claim = replay.step(position).expect("a step").claim;
            let at = position + usize::from(after);
            let proof = replay.state_proof(at).expect("in range");
            assert!(judge.state_in_trace(replay.root(), &claim, after, &proof));
            assert!(!judge.state_in_trace(replay.root(), &claim, !after, &proof));
        }
    }
}

/// The way of a challenger down a tree that it sees otherwise.
fn descend(asserter: &[Digest], challenger: &[Digest]) -> usize {
    let mut descent = Descent::new(MerkleTree::new(asserter.to_vec()).root(), asserter.len());
    while descent.leaf().is_none() {
        let (answer, own) = (descent.nodes(asserter), descent.nodes(challenger));
        let picked = answer.iter().zip(&own).position(|(a, b)| a != b);
        descent
            .pick(&answer, picked.expect("they differ"))
            .expect("an honest answer");
    }
    descent.leaf().expect("the end").0
}

fn operator_leaves(step: &StepTrace) -> Vec<Digest> {
    let count = step.outputs.len();
    let leaf = |(i, tree): (usize, &MerkleTree)| operator_leaf(i, count, tree.root());
    step.outputs.iter().enumerate().map(leaf).collect()
}

fn output_leaves(values: &Values) -> Vec<Digest> {
    let leaves = values.leaves();
    let leaf = |(i, bytes): (usize, &Vec<u8>)| output_leaf(i, leaves.len(), bytes);
    leaves.iter().enumerate().map(leaf).collect()
}

/// Another number in the place of one.
fn alter(values: &mut Values, element: usize, by: i64) {
    match values {
        Values::Narrow(values) => values[element] = values[element].wrapping_add(by as i32),
        Values::Wide(values) => values[element] = values[element].wrapping_add(by),
        Values::Cells(cells) => {
            let cell = &mut cells[element];
            match by % 3 {
                0 => cell.exponent = cell.exponent.wrapping_add(1),
                1 => cell.scales[0] = cell.scales[0].wrapping_add(1),
                _ => cell.q[0] = cell.q[0].wrapping_add(1),
            }
        }
    }
}

#[test]
fn a_dispute_finds_the_token_operator_and_element_that_a_cheat_altered_and_says_who_lies() {
    let mut random = Random(11);
    for shape in shapes() {
        let model = model(&shape);
        let job = job(&model, 7, parameters(2));
        let replay = replay(&model, &job);
        let weights = ModelTree::new(&model);
        let judge = judge(&replay, &weights);
        let honest_states = replay.state_roots();
        for _ in 0..24 {
            let position = random.below(job.steps() as u32) as usize;
            let honest = replay.step(position).expect("a step");
            let operators = &honest.program.operators;
            let operator = random.below(operators.len() as u32) as usize;
            if Some(operator) == honest.program.token {
                continue;
            }
            let element = random.below(operators[operator].length as u32) as usize;
            let by = i64::from(random.below(1_000)) + 1;
            // All that comes after is computed from the altered element, as a cheat would.
            let alter = |number: usize, values: &mut Values| {
                if number == operator {
                    alter(values, element, by);
                }
            };
            let cheat = replay.step_altered(position, alter).expect("a step");
            // 1. The token: only where the alteration reaches the state is there a difference between states.
            let mut states = honest_states.clone();
            if cheat.claim.after != honest.claim.after {
                for (i, state) in states.iter_mut().enumerate().skip(position + 1) {
                    *state = keccak256(i.to_be_bytes());
                }
                states[position + 1] = cheat.claim.after.root();
                let leaves = |states: &[Digest]| -> Vec<Digest> {
                    let leaf = |(i, s): (usize, &Digest)| state_leaf(i, states.len(), *s);
                    states.iter().enumerate().map(leaf).collect()
                };
                let found = descend(&leaves(&states), &leaves(&honest_states));
                assert_eq!(found, position + 1);
            }
            // 2. The operator. 3. The leaf, and the element in it.
            let found = descend(&operator_leaves(&cheat), &operator_leaves(&honest));
            assert_eq!(found, operator, "{}", operators[operator].name);
            let (lie, truth) = (&cheat.values[found], &honest.values[found]);
            let leaf = descend(&output_leaves(lie), &output_leaves(truth));
            let each = operators[found].form.per_leaf();
            assert_eq!(leaf, element / each);
            let differs = |i: &usize| lie.element(*i) != truth.element(*i);
            let index = (leaf * each..).find(differs).expect("one differs");
            assert_eq!(index, element);
            // 4. The end: both open the same element.
            let subject = Subject::Element { operator, element };
            let opening = replay.open(&weights, &cheat, subject).expect("opened");
            let verdict = judge.judge(cheat.claim.root(), &opening).expect("complete");
            assert_eq!(
                verdict,
                Verdict::False {
                    claimed: lie.element(element).expect("in range"),
                    follows: truth.element(element).expect("in range"),
                },
                "{shape:?} {}",
                operators[operator].name
            );
            let opening = replay.open(&weights, &honest, subject).expect("opened");
            let verdict = judge
                .judge(honest.claim.root(), &opening)
                .expect("complete");
            assert_eq!(verdict, Verdict::Holds);
        }
    }
}

#[test]
fn a_false_state_after_an_honest_step_is_refuted() {
    let model = model(&Shape::small());
    let job = job(&model, 5, parameters(2));
    let (replay, weights) = (replay(&model, &job), ModelTree::new(&model));
    let judge = judge(&replay, &weights);
    let mut step = replay.step(3).expect("a step");
    // The residual of another token.
    step.claim.after.residual = replay.states()[3].residual;
    let opening = replay
        .open(&weights, &step, Subject::Residual)
        .expect("opened");
    let verdict = judge.judge(step.claim.root(), &opening).expect("complete");
    assert!(matches!(verdict, Verdict::False { .. }), "{verdict:?}");
    // A log that a tree of is not the old one with the step's key appended.
    let mut step = replay.step(3).expect("a step");
    let forged = replay.log().trees_at(3);
    let mut roots: Vec<Digest> = (0..)
        .map_while(|tree| forged.tree(tree).map(|t| t.root()))
        .collect();
    let leaves = |roots: &[Digest]| -> Vec<Digest> {
        let leaf = |(i, root): (usize, &Digest)| entries_leaf(i, roots.len(), 4, *root);
        roots.iter().enumerate().map(leaf).collect()
    };
    roots[1] = keccak256("another");
    let tree = MerkleTree::new(leaves(&roots));
    let mut opening = replay
        .open(&weights, &step, Subject::Appended { tree: 1 })
        .expect("opened");
    step.claim.after.log = tree.root();
    opening.claim = step.claim;
    let growth = opening.growth.as_mut().expect("of a tree");
    growth.root = roots[1];
    growth.after = tree.proof(1).expect("in range");
    let verdict = judge.judge(step.claim.root(), &opening).expect("complete");
    assert!(matches!(verdict, Verdict::False { .. }), "{verdict:?}");
}

#[test]
fn a_false_choice_is_refuted_by_one_token() {
    let model = model(&Shape::small());
    let weights = ModelTree::new(&model);
    for temperature in [0, 80_000] {
        let mut parameters = parameters(9);
        parameters.temperature = Q16(temperature);
        let honest = job(&model, 5, parameters);
        let truth = honest.answer[2];
        for (lie, min_p) in [(truth ^ 1, 1_000), (truth ^ 2, 60_000), (7, 0)] {
            let mut job = honest.clone();
            job.parameters.min_p = Q16(min_p);
            job.answer[2] = lie;
            let replay = replay(&model, &job);
            let judge = judge(&replay, &weights);
            let step = replay.step(6).expect("a step");
            let token = step.program.token.expect("no grammar");
            let Values::Wide(chosen) = step.values[token].clone() else {
                panic!("the choice is a number");
            };
            let other = chosen[0] as u32;
            if other == lie {
                continue;
            }
            let subject = Subject::Choice { other };
            // Who computes the choice as it is has another token than the answer.
            let opening = replay.open(&weights, &step, subject).expect("opened");
            let verdict = judge.judge(step.claim.root(), &opening).expect("complete");
            assert!(matches!(verdict, Verdict::False { .. }), "{verdict:?}");
            // Who claims that the choice was the answer's is refuted by the other.
            let lying = |number: usize, values: &mut Values| {
                if number == token {
                    *values = Values::Wide(vec![i64::from(lie)]);
                }
            };
            let step = replay.step_altered(6, lying).expect("a step");
            let opening = replay.open(&weights, &step, subject).expect("opened");
            let verdict = judge.judge(step.claim.root(), &opening).expect("complete");
            assert!(matches!(verdict, Verdict::False { .. }), "{verdict:?}");
        }
    }
}

#[test]
fn forged_openings_prove_nothing() {
    let model = model(&Shape::of(Family::Mixtral));
    let job = job(&model, 5, parameters(2));
    let (replay, weights) = (replay(&model, &job), ModelTree::new(&model));
    let judge = judge(&replay, &weights);
    let step = replay.step(4).expect("a step");
    let root = step.claim.root();
    for subject in subjects(&step, model.config(), 40) {
        let opening = replay.open(&weights, &step, subject).expect("opened");
        let refused = |what: &str, change: &dyn Fn(&mut Opening)| {
            let mut forged = opening.clone();
            change(&mut forged);
            if forged != opening {
                let judged = judge.judge(root, &forged);
                assert!(judged.is_err(), "{what} {subject:?}: {judged:?}");
            }
        };
        refused("claim", &|o| o.claim.token ^= 1);
        refused("state", &|o| o.claim.before.log.0[0] ^= 1);
        refused("leaf", &|o| o.outputs[0].runs[0].leaves[0][0] ^= 1);
        refused("place", &|o| o.outputs[0].runs[0].first += 1);
        refused("length", &|o| o.outputs[0].runs[0].leaves[0].push(0));
        refused("none", &|o| o.outputs[0].runs[0].leaves.clear());
        refused("operator", &|o| o.outputs[0].operator += 1);
        refused("output", &|o| o.outputs[0].root.0[0] ^= 1);
        refused("missing", &|o| o.outputs.clear());
        refused("tensor", &|o| {
            o.tensors.iter_mut().for_each(|t| t.bytes[0] ^= 1)
        });
        refused("tensors", &|o| o.tensors.clear());
        refused("row", &|o| {
            o.tensors
                .iter_mut()
                .for_each(|t| t.row = t.row.map(|r| r ^ 1))
        });
        refused("entry", &|o| {
            let runs = o.entries.iter_mut().flat_map(|e| &mut e.runs);
            runs.for_each(|run| run.leaves[0][0] ^= 1);
        });
        refused("entries", &|o| o.entries.clear());
        refused("growth", &|o| o.growth = None);
        refused("far leaves", &|o| {
            for run in o.outputs.iter_mut().flat_map(|output| &mut output.runs) {
                run.leaves.push(run.leaves[0].clone());
                run.first = usize::MAX;
            }
        });
        refused("far entries", &|o| {
            for run in o.entries.iter_mut().flat_map(|entries| &mut entries.runs) {
                run.leaves.push(run.leaves[0].clone());
                run.first = usize::MAX;
            }
        });
        refused("far tree", &|o| {
            o.entries
                .iter_mut()
                .for_each(|entries| entries.tree = usize::MAX);
        });
        refused("far operator", &|o| o.outputs[0].operator = usize::MAX);
        refused("end of positions", &|o| o.claim.before.position = u32::MAX);
        refused("subject", &|o| {
            if let Subject::Element { element, .. } = &mut o.subject {
                *element = usize::MAX;
            }
        });
    }
    let (config, siblings, tied) = weights.shape();
    let mut other = config.clone();
    other.epsilon_q32 += 1;
    assert!(Judge::new(other, &siblings, tied, weights.root(), job.clone()).is_err());
    let mut broken = config;
    broken.kv_heads = 0;
    assert!(Judge::new(broken, &siblings, tied, weights.root(), job).is_err());
}

/// The events of an answer that a scheduler gives.
struct Events(std::sync::mpsc::Sender<TokenEvent>);

impl Sink for Events {
    fn token(&mut self, event: TokenEvent) -> bool {
        self.0.send(event).is_ok()
    }

    fn end(self: Box<Self>, ended: Ended) {
        assert!(matches!(ended, Ended::Finished(_)), "{ended:?}");
    }

    fn has_room(&self) -> bool {
        true
    }

    fn is_cancelled(&self) -> bool {
        false
    }
}

#[test]
fn checkpoints_are_the_same_alone_in_a_batch_in_every_kernel_and_in_a_replay() {
    let (toy, folder) = (Toy::new(Shape::of(Family::Qwen2), 5), folder());
    let file = GgufWriter::new(&toy, Storage::Q8_0).write(folder.path(), "toy.gguf");
    let mut expected: Option<Vec<[u8; 32]>> = None;
    for kernel in Kernel::available() {
        let options = LoadOptions {
            kernel: Some(kernel),
            ..LoadOptions::default()
        };
        let model = Arc::new(Model::open_with(&file, options).expect("valid"));
        // Longer than a page of the cache, so that the second time a beginning is found there.
        let job = job(&model, 70, parameters(1));
        let generation = || {
            let options = TextOptions::default();
            Generation::new(&model, job.prompt.len(), &job.parameters, options)
        };
        let mut alone = Vec::new();
        let (never, mut session) = (AtomicBool::new(false), Session::new(&model));
        let keep = |event: &TokenEvent| {
            alone.push(event.checkpoint.expect("asked for"));
            std::ops::ControlFlow::Continue(())
        };
        drive(
            generation().with_checkpoints(),
            &mut session,
            &job.prompt,
            &never,
            keep,
        )
        .expect("an answer");
        assert_eq!(alone.len(), job.answer.len());
        let replay = replay(&model, &job);
        assert_eq!(replay.checkpoints(), alone);
        assert_eq!(*expected.get_or_insert_with(|| alone.clone()), alone);
        let options = SchedulerOptions {
            threads: 2,
            cache_bytes: 1 << 24,
            answers: 4,
            guesses: true,
        };
        let scheduler = Scheduler::start(&model, options).expect("threads");
        let submit = |generation| {
            let (told, events) = std::sync::mpsc::channel();
            scheduler.submit(Request {
                tenant: Tenant([0; 32]),
                prompt: job.prompt.clone(),
                generation,
                sink: Box::new(Events(told)),
            });
            events
        };
        for _ in 0..2 {
            let with = [
                submit(generation().with_checkpoints()),
                submit(generation().with_checkpoints()),
            ];
            let without = submit(generation());
            for events in with {
                let made: Vec<_> = events.iter().filter_map(|e| e.checkpoint).collect();
                assert_eq!(made, alone);
            }
            assert!(without.iter().all(|event| event.checkpoint.is_none()));
        }
        assert!(scheduler.stats().reused_tokens > 0);
    }
    let expected = expected.expect("a kernel");
    let of_all = checkpoint_of_all(&expected);
    assert_eq!(of_all, blake3_of(&expected.concat()));
    assert_ne!(of_all, checkpoint_of_all(&expected[1..]));
}

fn blake3_of(bytes: &[u8]) -> [u8; 32] {
    *blake3::hash(bytes).as_bytes()
}

#[test]
fn a_checkpoint_is_blake3_of_the_numbers_in_big_endian() {
    let state: Vec<i32> = (0..2_500).map(|i| i * 800_003 - 7).collect();
    let bytes: Vec<u8> = state.iter().flat_map(|v| v.to_be_bytes()).collect();
    assert_eq!(checkpoint(&state), blake3_of(&bytes));
}

#[test]
fn long_contexts_and_wide_models_are_folded_in_parts_that_follow_from_each_other() {
    let long = Shape {
        context: 1_200,
        layers: 1,
        ..Shape::small()
    };
    let wide = Shape {
        width: 1_056,
        ffn: 1_088,
        layers: 1,
        ..Shape::small()
    };
    for (shape, length) in [(long, 1_100), (wide, 3)] {
        let model = model(&shape);
        let job = job(&model, length, parameters(3));
        let (replay, weights) = (replay(&model, &job), ModelTree::new(&model));
        let judge = judge(&replay, &weights);
        let step = replay.step(length).expect("a step");
        assert_eq!(step.claim.after, replay.states()[length + 1]);
        let operators = step.program.operators.iter().enumerate();
        let parts = operators.clone().filter(|(_, of)| {
            matches!(
                of.kind,
                Kind::Magnitudes { .. }
                    | Kind::Squares { .. }
                    | Kind::Largest { .. }
                    | Kind::Sums { .. }
                    | Kind::Products { .. }
            )
        });
        assert!(parts.clone().any(|(_, of)| of.length > 1));
        for (number, of) in operators {
            if Some(number) == step.program.token {
                continue;
            }
            // Some of each, the last among them.
            let some = (0..of.length).step_by(1 + of.length / 40);
            for element in some.chain([of.length - 1]) {
                let follows = replay.follows(&step, number, element).expect("a rule");
                let claimed = step.values[number].element(element);
                assert_eq!(claimed, Some(follows), "{} {element}", of.name);
            }
            let subject = Subject::Element {
                operator: number,
                element: of.length - 1,
            };
            let opening = replay.open(&weights, &step, subject).expect("opened");
            let verdict = judge.judge(step.claim.root(), &opening).expect("complete");
            assert_eq!(verdict, Verdict::Holds);
        }
    }
}

#[test]
fn an_honest_choice_stands_against_every_token_of_the_vocabulary() {
    let model = model(&Shape::small());
    let weights = ModelTree::new(&model);
    for (temperature, min_p) in [(0, 0), (40_000, 0), (90_000, 9_000)] {
        let mut parameters = parameters(21);
        (parameters.temperature, parameters.min_p) = (Q16(temperature), Q16(min_p));
        parameters.frequency_penalty = SignedQ16(5_000);
        let job = job(&model, 4, parameters);
        let replay = replay(&model, &job);
        let judge = judge(&replay, &weights);
        let step = replay.step(5).expect("a step");
        for other in 0..model.config().vocab as u32 {
            let subject = Subject::Choice { other };
            let opening = replay.open(&weights, &step, subject).expect("opened");
            let verdict = judge.judge(step.claim.root(), &opening).expect("complete");
            assert_eq!(verdict, Verdict::Holds, "{temperature} {min_p} {other}");
        }
    }
}
