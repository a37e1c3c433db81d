//! The judge that recomputes, on the model that ships with the repository: what is honest passes, each cheat is named.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use stoa_crypto::token_root;
use stoa_nodes::message::RefusalReason;
use stoa_nodes::work::{AnswerShape, Input, Prompt, Work};
use stoa_runtime::{
    Apart, Backend, CancelFlag, Cheat, CheatingBackend, Emit, ExactBackend, ExactJudge,
    ExactOptions, Generation, Grammars, ModelFacts, Prepared, RunError, Script, ScriptedBackend,
    Times, run_to_end,
};
use stoa_types::*;
use stoa_verify::judge::{Answered, Case, Judge, NotJudged};
use stoa_verify::{Content, read_vectors, vector_line};

const TOOLS: &str = r#"[{"type":"function","function":{"name":"get_weather","description":"Weather of a city","parameters":
    {"type":"object","properties":{"city":{"type":"string"}},"required":["city"]}}}]"#;

fn backend() -> Arc<ExactBackend> {
    static BACKEND: OnceLock<Arc<ExactBackend>> = OnceLock::new();
    let open = || {
        let file = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("../../models/stoa-tiny/stoa-tiny.Q8_0.gguf");
        let options = ExactOptions {
            slots: 1,
            ..ExactOptions::default()
        };
        Arc::new(ExactBackend::open(file, &options).expect("the default model opens"))
    };
    BACKEND.get_or_init(open).clone()
}

fn judge() -> ExactJudge {
    ExactJudge::new([backend() as Arc<dyn Backend>])
}

fn chat(text: &str, tools: &str, answer: AnswerShape, tokens: u32) -> Work {
    let messages = serde_json::json!([{"role": "user", "content": text}]).to_string();
    Work {
        prompt: Prompt::Chat {
            messages,
            tools: tools.to_owned(),
            arguments: String::new(),
        },
        sampling: SamplingParameters {
            temperature: Q16::ONE,
            min_p: Q16(0),
            seed: 7,
            max_output_tokens: tokens,
            stop: Vec::new(),
            ..SamplingParameters::default()
        },
        answer,
    }
    .with_rules()
}

fn plain() -> Work {
    chat("Count from one to five.", "[]", AnswerShape::Any, 12)
}

/// What a provider would sign for this answer.
fn case(work: &Work, content: &Content, prompt: &[u32], output: &[u32]) -> Case {
    let receipt = Receipt {
        version: RECEIPT_VERSION,
        chain_id: 1,
        vault: Address::ZERO,
        profile_hash: Digest::ZERO,
        job_id: JobId([1; 32]),
        account: Address::ZERO,
        router: Address::ZERO,
        provider: Address::ZERO,
        model_root: backend().facts().model_root,
        runtime_digest: backend().facts().runtime_digest,
        parameters_digest: Digest::ZERO,
        prompt_root: token_root(prompt),
        request_digest: Digest::ZERO,
        output_root: token_root(output),
        response_digest: content.digest(),
        input_units: content.input_units,
        output_units: content.output_units,
        input_price: Price::per_million(TokenAmount::ZERO),
        output_price: Price::per_million(TokenAmount::ZERO),
        charge: TokenAmount::ZERO,
        fee_version: 0,
        paid_by: PaidBy::Allotment,
        tier: Tier::Exact,
        evidence_digest: Digest::ZERO,
        ticket_hash: Digest::ZERO,
        attempt: 0,
        segments_root: Digest::ZERO,
        accepted_at: Timestamp(0),
        delivered_at: Timestamp(0),
    };
    Case {
        receipt,
        work: work.canonical_bytes(),
    }
}

fn answered(work: &Work, content: &Content, prompt: &[u32], output: &[u32]) -> Answered {
    let case = case(work, content, prompt, output);
    let finding = judge().judge(&case).expect("judged");
    assert_eq!(judge().judge(&case), Ok(finding), "two judges differ");
    finding.answered
}

/// What a client has that left after `tokens`: the provider's own cut.
fn cut(work: &Work, tokens: usize) -> (Content, Vec<u32>) {
    let prepared = backend().prepare(work).expect("taken");
    let (mut ids, mut text) = (Vec::new(), String::new());
    backend()
        .run(&prepared, &CancelFlag::new(), &mut |piece| {
            if ids.len() < tokens {
                ids.extend(piece.tokens);
                text.push_str(&piece.text);
            }
            std::ops::ControlFlow::Continue(())
        })
        .ok();
    let content = Content {
        text,
        tool_calls: Vec::new(),
        finish_reason: FinishReason::Cancelled,
        input_units: prepared.facts.input_units,
        output_units: tokens as u64,
    };
    (content, ids)
}

#[test]
fn honest_answers_pass_whole_or_left_with_tools_and_without() {
    let works = [
        plain(),
        chat("What is the weather in Paris?", TOOLS, AnswerShape::Any, 60),
        chat(
            "What is the weather in Paris?",
            TOOLS,
            AnswerShape::NoTools,
            12,
        ),
        chat("Say nothing.", "[]", AnswerShape::Any, 0),
    ];
    for work in &works {
        let (content, prompt, output) = run_to_end(&*backend(), work).expect("runs");
        let found = answered(work, &content, &prompt, &output);
        assert_eq!(found, Answered::Good, "{content:?}");
        for tokens in [1, output.len() / 2, output.len()] {
            if tokens > 0 && tokens <= output.len() {
                let (content, ids) = cut(work, tokens);
                assert_eq!(answered(work, &content, &prompt, &ids), Answered::Good);
            }
        }
    }
}

/// The model, and whether anybody made it compute log-probabilities.
struct Watched(AtomicBool);

impl Backend for Watched {
    fn facts(&self) -> &ModelFacts {
        static FACTS: OnceLock<ModelFacts> = OnceLock::new();
        FACTS.get_or_init(|| backend().facts().clone())
    }

    fn prepare(&self, work: &Work) -> Result<Prepared, RefusalReason> {
        backend().prepare(work)
    }

    fn run(
        &self,
        prepared: &Prepared,
        cancel: &CancelFlag,
        emit: &mut Emit<'_>,
    ) -> Result<Generation, RunError> {
        backend().run(prepared, cancel, &mut |piece| {
            self.0
                .fetch_or(!piece.logprobs.is_empty(), Ordering::Relaxed);
            emit(piece)
        })
    }
}

#[test]
fn log_probabilities_are_judged_without_being_computed_and_out_of_range_they_are_no_work() {
    let mut work = plain();
    work.sampling.logprobs = Some(20);
    let (content, prompt, output) = run_to_end(&*backend(), &work).expect("runs");
    let watched = Arc::new(Watched(AtomicBool::new(false)));
    let judge = ExactJudge::new([watched.clone() as Arc<dyn Backend>]);
    let answered = |work: &Work| {
        let found = judge.judge(&case(work, &content, &prompt, &output));
        found.expect("judged").answered
    };
    assert_eq!(answered(&work), Answered::Good);
    assert!(!watched.0.load(Ordering::Relaxed));
    // What no provider may take is not made right by leaving it out.
    work.sampling.logprobs = Some(21);
    assert_eq!(answered(&work), Answered::WrongOutput);
}

#[test]
fn a_client_that_left_a_demanded_object_before_its_end_owes_what_it_got() {
    let work = chat("Tell me a story.", "[]", AnswerShape::JsonObject, 200);
    let prompt = backend().prepare(&work).expect("taken").prompt;
    let (content, ids) = cut(&work, 3);
    assert_eq!(answered(&work, &content, &prompt, &ids), Answered::Good);
    // And whoever claims that another object came gets nothing.
    let invented = Content {
        text: "{}".to_owned(),
        finish_reason: FinishReason::Stop,
        ..content
    };
    let found = answered(&work, &invented, &prompt, &ids);
    assert_eq!(found, Answered::WrongOutput);
}

/// Cheap at first; its states come to more than any answer may have.
const LATE: &str = "((.*[a-m].{100}){3}|(.*[n-z].{99}){3}|(.*[e-r].{98}){3}){9}!";

#[test]
fn an_answer_that_a_bound_of_its_grammar_ends_is_charged_as_one_that_was_cut_and_judged_so() {
    let object = format!(
        r#"{{"type":"object","properties":{{"city":{{"type":"string","pattern":"^{LATE}$"}}}},"required":["city"]}}"#
    );
    let tools = format!(
        r#"[{{"type":"function","function":{{"name":"get_weather","parameters":{object}}}}}]"#
    );
    let shapes = [
        ("[]", AnswerShape::Regex(LATE.to_owned())),
        (
            "[]",
            AnswerShape::JsonSchema {
                schema: object.clone(),
                strict: true,
            },
        ),
        (tools.as_str(), AnswerShape::OneCall),
    ];
    for (tools, shape) in shapes {
        let mut work = chat("Tell me of Paris.", tools, shape, 500);
        work.sampling.temperature = Q16(3 << 16);
        let (content, prompt, output) = run_to_end(&*backend(), &work).expect("ends");
        assert_eq!(content.finish_reason, FinishReason::Length);
        assert!((2..500).contains(&output.len()), "{}", output.len());
        assert!(content.tool_calls.is_empty() && !content.text.is_empty());
        assert_eq!(answered(&work, &content, &prompt, &output), Answered::Good);
        let (left, ids) = cut(&work, 2);
        assert_eq!(answered(&work, &left, &prompt, &ids), Answered::Good);
        if !matches!(work.answer, AnswerShape::Regex(_)) {
            continue;
        }
        // Whoever says that it ended by itself, or went on, is found out.
        let mut whole = content.clone();
        whole.finish_reason = FinishReason::Stop;
        assert_eq!(
            answered(&work, &whole, &prompt, &output),
            Answered::WrongOutput
        );
        let (mut more, mut longer) = (content.clone(), output.clone());
        more.output_units += 1;
        longer.push(5);
        assert_eq!(
            answered(&work, &more, &prompt, &longer),
            Answered::WrongCount
        );
    }
}

#[test]
fn an_altered_token_an_altered_text_and_an_overcount_are_told_apart() {
    let work = plain();
    let (content, prompt, output) = run_to_end(&*backend(), &work).expect("runs");
    let mut ids = output.clone();
    ids[1] ^= 1;
    assert_eq!(
        answered(&work, &content, &prompt, &ids),
        Answered::WrongOutput
    );
    let mut altered = content.clone();
    altered.text.push('.');
    assert_eq!(
        answered(&work, &altered, &prompt, &output),
        Answered::WrongOutput
    );
    let mut more = content.clone();
    more.input_units += 1;
    assert_eq!(
        answered(&work, &more, &prompt, &output),
        Answered::WrongCount
    );
    let mut longer = prompt.clone();
    longer.push(1);
    assert_eq!(
        answered(&work, &more, &longer, &output),
        Answered::WrongCount
    );
    let mut padded = output.clone();
    padded.push(1);
    let mut counted = content.clone();
    counted.output_units += 1;
    assert_eq!(
        answered(&work, &counted, &prompt, &padded),
        Answered::WrongCount
    );
}

#[test]
fn an_answer_of_another_model_or_another_seed_is_found() {
    let work = plain();
    let (content, prompt, output) = run_to_end(&*backend(), &work).expect("runs");
    let cheap = ScriptedBackend::named("script-fixed-12", Script::default()).expect("known");
    let (mut said, _, tokens) = run_to_end(&cheap, &work).expect("runs");
    said.input_units = content.input_units;
    assert_ne!(answered(&work, &said, &prompt, &tokens), Answered::Good);
    let mut other = work.clone();
    other.sampling.temperature = Q16(4 << 16);
    let (said, _, tokens) = run_to_end(&*backend(), &other).expect("runs");
    assert_ne!(tokens, output);
    assert_ne!(answered(&work, &said, &prompt, &tokens), Answered::Good);
}

#[test]
fn work_that_the_model_refuses_has_no_answer() {
    let (content, prompt, output) = run_to_end(&*backend(), &plain()).expect("runs");
    let mut long = plain();
    long.prompt = Prompt::Tokens(vec![1; 100_000]);
    assert_eq!(
        answered(&long, &content, &prompt, &output),
        Answered::WrongOutput
    );
}

#[test]
fn a_limit_of_the_judges_own_machine_convicts_nobody() {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../models/stoa-tiny/stoa-tiny.Q8_0.gguf");
    let judge = |change: fn(&mut ExactOptions)| {
        let mut options = ExactOptions::default();
        change(&mut options);
        let model = ExactBackend::open(&file, &options).expect("opens");
        ExactJudge::new([Arc::new(model) as Arc<dyn Backend>])
    };
    // Its processes that try grammars always end at their limits.
    let dying = judge(|options| {
        let dies = ["-c".into(), "kill -XCPU $$".into()];
        let minute = Duration::from_secs(60);
        let times = Times {
            patience: minute,
            wall: minute,
            processor: minute,
        };
        let apart = Apart::new("/bin/sh".into(), dies, times);
        options.grammars = Grammars::Apart(Arc::new(apart));
    });
    let short = judge(|options| options.context_max = Some(32));
    let schema = r#"{"allOf":[{"type":"object","properties":{"a":{"type":"integer"}}}]}"#;
    let json = AnswerShape::JsonSchema {
        schema: schema.to_owned(),
        strict: false,
    };
    let json = chat("An object, please.", "[]", json, 40);
    let (content, prompt, output) = run_to_end(&*backend(), &json).expect("runs");
    let case = case(&json, &content, &prompt, &output);
    assert_eq!(answered(&json, &content, &prompt, &output), Answered::Good);
    for judge in [dying, short] {
        let found = judge.judge(&case);
        assert!(matches!(found, Err(NotJudged::Limits(_))), "{found:?}");
    }
}

#[test]
fn nothing_but_exact_answers_of_known_models_is_judged() {
    let work = plain();
    let content = cut(&work, 1).0;
    let sound = case(&work, &content, &[1], &[1]);
    let with = |change: fn(&mut Case)| {
        let mut case = sound.clone();
        change(&mut case);
        judge().judge(&case).expect_err("not judged")
    };
    assert_eq!(
        with(|c| c.receipt.tier = Tier::None),
        NotJudged::Tier(Tier::None)
    );
    let unknown = with(|c| c.receipt.model_root = Digest::ZERO);
    assert_eq!(unknown, NotJudged::NoModel(Digest::ZERO));
    assert_eq!(with(|c| c.work.truncate(9)), NotJudged::NotWork);
    // What was ordered before the rules of grammars had a name, or under a name that this version has not got any more, accuses nobody.
    let older = with(|c| {
        let mut work = chat("Hello", TOOLS, AnswerShape::Any, 9);
        work.sampling.grammar.clear();
        c.work = work.canonical_bytes();
    });
    assert_eq!(older, NotJudged::Rules(String::new()));
    let upstream = ScriptedBackend::named("script-echo", Script::default()).expect("known");
    assert_ne!(upstream.facts().tier, Tier::Exact);
    assert_eq!(
        ExactJudge::new([Arc::new(upstream) as Arc<dyn Backend>])
            .models()
            .count(),
        0
    );
}

fn vectors(inputs: &[&str], dimensions: u32) -> Work {
    let text = |text: &&str| Input::Text((*text).to_owned());
    let inputs: Vec<Input> = inputs.iter().map(text).collect();
    let mut work = plain();
    work.sampling.max_output_tokens = inputs.len() as u32;
    work.prompt = Prompt::Embed { inputs, dimensions };
    work
}

#[test]
fn honest_vectors_pass_whole_or_left_and_one_altered_bit_is_found() {
    for dimensions in [0, 7] {
        let work = vectors(
            &["a cat", "the dog and the cat", "x", "Count to five."],
            dimensions,
        );
        let (content, prompt, output) = run_to_end(&*backend(), &work).expect("runs");
        let found = answered(&work, &content, &prompt, &output);
        assert_eq!(found, Answered::Good);
        for units in 1..=4 {
            let (content, ids) = cut(&work, units);
            assert_eq!(answered(&work, &content, &prompt, &ids), Answered::Good);
        }
        let mut lines = read_vectors(&content.text).expect("vectors");
        lines[2][3] ^= 1;
        let floats = lines
            .iter()
            .map(|v| vector_line(&v.iter().flat_map(|b| b.to_le_bytes()).collect::<Vec<_>>()));
        let altered = Content {
            text: floats.collect(),
            ..content.clone()
        };
        assert_ne!(altered.text, content.text);
        let found = answered(&work, &altered, &prompt, &output);
        assert_eq!(found, Answered::WrongOutput);
        // The same tokens with an end elsewhere are other inputs.
        let mut moved = work.clone();
        let (first, second) = prompt.split_at(3);
        moved.prompt = Prompt::Embed {
            inputs: vec![
                Input::Tokens(first.to_vec()),
                Input::Tokens(second.to_vec()),
            ],
            dimensions,
        };
        moved.sampling.max_output_tokens = 2;
        let (said, same, ids) = run_to_end(&*backend(), &moved).expect("runs");
        assert_eq!(same, prompt);
        let found = answered(&work, &said, &prompt, &ids);
        assert_eq!(found, Answered::WrongOutput);
        let found = answered(&moved, &said, &prompt, &ids);
        assert_eq!(found, Answered::Good);
    }
}

#[test]
fn every_cheat_with_vectors_is_found_and_looks_honest_until_then() {
    let work = vectors(&["a cat sits here", "the dog and the cat"], 0);
    let honest = run_to_end(&*backend(), &work).expect("runs").0;
    for (cheat, found) in [
        (Cheat::SwapModel, Answered::WrongOutput),
        (Cheat::AlterOutput, Answered::WrongOutput),
        (Cheat::Overcount, Answered::WrongCount),
    ] {
        let cheating = CheatingBackend::new(backend(), cheat);
        let (content, prompt, output) = run_to_end(&cheating, &work).expect("runs");
        assert_eq!(answered(&work, &content, &prompt, &output), found);
        assert_ne!(content, honest, "{cheat:?}");
        let lines = read_vectors(&content.text).expect("vectors");
        let sizes: Vec<usize> = output.iter().map(|unit| *unit as usize).collect();
        assert_eq!(lines.iter().map(Vec::len).collect::<Vec<_>>(), sizes);
        assert_eq!(content.finish_reason, FinishReason::Stop);
    }
}

#[test]
fn who_delivers_nothing_takes_the_work_and_is_silent_until_it_is_told_to_stop() {
    let work = vectors(&["a cat sits here"], 0);
    let cheating = CheatingBackend::new(backend(), Cheat::NoDelivery);
    let prepared = cheating.prepare(&work).expect("taken");
    assert_eq!(
        prepared.facts,
        backend().prepare(&work).expect("taken").facts
    );
    let cancel = CancelFlag::new();
    cancel.cancel();
    let mut said = 0;
    let ended = cheating.run(&prepared, &cancel, &mut |_| {
        said += 1;
        std::ops::ControlFlow::Continue(())
    });
    assert_eq!(ended.expect("ends").finish_reason, FinishReason::Cancelled);
    assert_eq!(said, 0);
}
