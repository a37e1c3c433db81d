//! Vectors of texts from the model that ships with the repository: one unit for each input, and what is refused by name.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use stoa_crypto::token_root;
use stoa_engine::Session;
use stoa_nodes::message::RefusalReason;
use stoa_nodes::work::{AnswerShape, INPUTS_MAX, Input, Prompt, Work};
use stoa_runtime::{Backend, CancelFlag, ExactBackend, ExactOptions, run_to_end};
use stoa_types::{FinishReason, Q16, SamplingParameters};
use stoa_verify::{read_vectors, vector_line};

fn backend() -> Arc<ExactBackend> {
    static BACKEND: OnceLock<Arc<ExactBackend>> = OnceLock::new();
    let open = || {
        let file = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("../../models/stoa-tiny/stoa-tiny.Q8_0.gguf");
        let opened = ExactBackend::open(file, &ExactOptions::default());
        Arc::new(opened.expect("the default model opens"))
    };
    BACKEND.get_or_init(open).clone()
}

fn work(inputs: Vec<Input>, dimensions: u32) -> Work {
    Work {
        sampling: SamplingParameters {
            temperature: Q16(0),
            min_p: Q16(0),
            seed: 0,
            max_output_tokens: inputs.len() as u32,
            stop: Vec::new(),
            ..SamplingParameters::default()
        },
        prompt: Prompt::Embed { inputs, dimensions },
        answer: AnswerShape::Any,
    }
}

fn text(text: &str) -> Input {
    Input::Text(text.to_owned())
}

fn floats(bits: &[u32]) -> Vec<f64> {
    bits.iter().map(|b| f64::from(f32::from_bits(*b))).collect()
}

#[test]
fn each_unit_is_the_line_of_its_input_alone_and_all_inputs_are_counted() {
    let model = backend().model().clone();
    let ids = |text: &str| model.tokenizer().encode_prompt(text).expect("encodes");
    let tokens = [ids("a cat"), vec![5, 6, 7], ids("a cat"), ids("the dog")];
    let inputs = vec![
        text("a cat"),
        Input::Tokens(vec![5, 6, 7]),
        text("a cat"),
        text("the dog"),
    ];
    for dimensions in [0, 10] {
        let ordered = work(inputs.clone(), dimensions);
        let (content, prompt, output) = run_to_end(&*backend(), &ordered).expect("runs");
        assert_eq!(prompt, tokens.concat());
        assert_eq!(content.input_units, prompt.len() as u64);
        let prepared = backend().prepare(&ordered).expect("taken");
        assert_eq!(prepared.facts.prompt_root, token_root(&prompt));
        let width = model.config().width as u32;
        let elements = if dimensions == 0 { width } else { dimensions };
        assert_eq!(output, [elements; 4]);
        assert_eq!(content.finish_reason, FinishReason::Stop);
        let alone = tokens.iter().map(|ids| {
            let mut session = Session::new(&model);
            let down = AtomicBool::new(false);
            let vector = session.text_vector(ids, dimensions as usize, &down);
            vector_line(&vector.expect("fits").expect("whole").to_le_bytes())
        });
        assert_eq!(content.text, alone.collect::<String>());
        for vector in read_vectors(&content.text).expect("vectors") {
            let length: f64 = floats(&vector).iter().map(|x| x * x).sum();
            assert!((length - 1.0).abs() < 1e-6, "{length}");
        }
    }
}

#[test]
fn a_run_stops_between_vectors_and_keeps_those_that_were_taken() {
    let prepared = backend()
        .prepare(&work(vec![text("a"), text("b"), text("c")], 0))
        .expect("taken");
    let mut taken = 0;
    let end = backend().run(&prepared, &CancelFlag::new(), &mut |_| {
        taken += 1;
        if taken == 2 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    assert_eq!(taken, 2);
    assert_eq!(end.expect("ends").finish_reason, FinishReason::Cancelled);
    let cancelled = CancelFlag::new();
    cancelled.cancel();
    let end = backend().run(&prepared, &cancelled, &mut |_| panic!("nothing is made"));
    assert_eq!(end.expect("ends").finish_reason, FinishReason::Cancelled);
}

#[test]
fn what_cannot_be_made_is_refused_by_name_before_anything_runs() {
    let refused = |work: &Work| backend().prepare(work).expect_err("refused");
    let by_name = |work: &Work| match refused(work) {
        RefusalReason::Unsupported { parameter, .. } => parameter,
        other => panic!("{other:?}"),
    };
    let width = backend().model().config().width as u32;
    assert!(backend().prepare(&work(vec![text("a")], width)).is_ok());
    let wide = work(vec![text("a")], width + 1);
    assert_eq!(by_name(&wide), "dimensions");
    assert_eq!(by_name(&work(Vec::new(), 0)), "input");
    let many = |count| work(vec![Input::Tokens(vec![1]); count], 0);
    assert!(backend().prepare(&many(INPUTS_MAX)).is_ok());
    assert_eq!(by_name(&many(INPUTS_MAX + 1)), "input");
    let unknown = work(vec![text("a"), Input::Tokens(vec![u32::MAX])], 0);
    assert_eq!(by_name(&unknown), "input");
    assert_eq!(by_name(&work(vec![Input::Tokens(Vec::new())], 0)), "input");
    let mut part = many(3);
    part.sampling.max_output_tokens = 2;
    assert_eq!(by_name(&part), "input");
    let mut shaped = many(1);
    shaped.answer = AnswerShape::JsonObject;
    assert_eq!(by_name(&shaped), "input");
    // Inputs have the context each for itself.
    let context = backend().model().config().context;
    let full = || Input::Tokens(vec![1; context]);
    assert!(backend().prepare(&work(vec![full(), full()], 0)).is_ok());
    let long = work(vec![text("a"), Input::Tokens(vec![1; context + 1])], 0);
    let expected = RefusalReason::ContextLength {
        tokens: context as u64 + 1,
        context: context as u64,
    };
    assert_eq!(refused(&long), expected);
}
