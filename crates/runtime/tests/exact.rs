//! The exact backend on the model that ships with the repository.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use stoa_engine::{Model, Source};
use stoa_nodes::message::RefusalReason;
use stoa_nodes::provider::Generated;
use stoa_nodes::work::{AnswerShape, Prompt, Work};
use stoa_runtime::{
    Backend, CancelFlag, Event, ExactBackend, ExactOptions, Executor, Grammars, OpenError,
    Templates, run_to_end, template_fault,
};
use stoa_types::{FinishReason, Logprobs, Q16, SamplingParameters, SignedQ16, Tier};

const TOOLS: &str = r#"[{"type":"function","function":{"name":"get_weather","description":"Weather of a city","parameters":
    {"type":"object","properties":{"city":{"type":"string"}},"required":["city"]}}}]"#;

fn model_file() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../models/stoa-tiny/stoa-tiny.Q8_0.gguf")
}

fn backend() -> Arc<ExactBackend> {
    static BACKEND: OnceLock<Arc<ExactBackend>> = OnceLock::new();
    BACKEND
        .get_or_init(|| {
            let options = ExactOptions {
                name: Some("tiny".to_owned()),
                slots: 2,
                context_max: None,
                memory_limit: None,
                threads: 2,
                trust_root: false,
                templates: Templates::Here,
                grammars: Grammars::Trusted,
            };
            Arc::new(ExactBackend::open(model_file(), &options).expect("the default model opens"))
        })
        .clone()
}

fn chat(text: &str, tools: &str, answer: AnswerShape, tokens: u32) -> Work {
    let messages = serde_json::json!([{"role": "user", "content": text}]);
    Work {
        prompt: Prompt::Chat {
            messages: messages.to_string(),
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

fn plain(text: &str) -> Work {
    chat(text, "[]", AnswerShape::Any, 24)
}

#[test]
fn facts_name_the_root_the_semantics_and_the_limits() {
    let backend = backend();
    let facts = backend.facts();
    assert_eq!((facts.model.as_str(), facts.tier), ("tiny", Tier::Exact));
    assert_eq!(facts.model_root, backend.model().root());
    assert_eq!(facts.runtime_digest, stoa_engine::semantics_digest());
    assert_eq!(facts.context as usize, backend.model().info().context);
    assert!(
        (1..200).contains(&facts.message_overhead),
        "{}",
        facts.message_overhead
    );
}

#[test]
fn an_answer_is_recomputed_bit_for_bit_and_the_seed_matters() {
    let (content, prompt, output) =
        run_to_end(&*backend(), &plain("Count from one to five.")).expect("runs");
    let again = run_to_end(&*backend(), &plain("Count from one to five.")).expect("runs");
    assert_eq!(again, (content.clone(), prompt.clone(), output.clone()));
    assert_eq!(content.input_units, prompt.len() as u64);
    assert_eq!(content.output_units, output.len() as u64);
    let differing = (0..20).any(|seed| {
        let mut work = plain("Count from one to five.");
        work.sampling.temperature = Q16(4 << 16);
        work.sampling.seed = seed;
        run_to_end(&*backend(), &work).expect("runs").2 != output
    });
    assert!(differing);
}

#[test]
fn bias_and_penalties_are_honoured_and_recomputed() {
    let mut work = plain("Count from one to five.");
    work.sampling.temperature = Q16(0);
    let (content, _, free) = run_to_end(&*backend(), &work).expect("runs");
    work.sampling.logit_bias = [(free[0], SignedQ16(-(100 << 16)))].into();
    let (other, _, banned) = run_to_end(&*backend(), &work).expect("runs");
    assert!(!banned.contains(&free[0]), "{:?} {:?}", content, other);
    // A token with a head start of 20 that each time loses 2 of it.
    let favoured = free[1];
    work.sampling.max_output_tokens = 40;
    work.sampling.logit_bias = [(favoured, SignedQ16(20 << 16))].into();
    let times = |work: &Work| {
        let (_, _, output) = run_to_end(&*backend(), work).expect("runs");
        output.iter().filter(|id| **id == favoured).count()
    };
    let unpenalised = times(&work);
    work.sampling.frequency_penalty = SignedQ16(2 << 16);
    let penalised = times(&work);
    assert!(penalised < unpenalised, "{penalised} {unpenalised}");
    let again = run_to_end(&*backend(), &work).expect("runs");
    assert_eq!(run_to_end(&*backend(), &work).expect("runs"), again);
}

#[test]
fn log_probabilities_come_one_entry_for_each_token_also_where_text_is_withheld() {
    let backend = backend();
    let works = [
        plain("Count from one to five."),
        chat("Give me JSON.", "[]", AnswerShape::JsonObject, 12),
        chat("What is the weather in Paris?", TOOLS, AnswerShape::Any, 40),
    ];
    for mut work in works {
        work.sampling.temperature = Q16(0);
        let free = run_to_end(&*backend, &work);
        work.sampling.logprobs = Some(20);
        assert_eq!(run_to_end(&*backend, &work), free, "no token changes");
        let prepared = backend.prepare(&work).expect("prepared");
        let _judged = backend.run(&prepared, &CancelFlag::new(), &mut |piece| {
            let checked = Logprobs::check(&piece.logprobs, &piece.tokens, Some(20), 1024);
            assert_eq!(checked, Ok(()));
            // Where nothing but the model decides, what is chosen is the likeliest.
            let held = !prepared.work.sampling.grammar.is_empty();
            assert!(held || piece.logprobs[0].top[0] == piece.logprobs[0].chosen);
            assert_eq!(piece.logprobs[0].top.len(), 20);
            std::ops::ControlFlow::Continue(())
        });
    }
}

#[test]
fn parameters_out_of_range_and_ids_outside_the_vocabulary_are_refused_by_name() {
    let vocab = backend().model().info().vocab as u32;
    let refused = |change: &dyn Fn(&mut SamplingParameters)| {
        let mut work = plain("Hello");
        change(&mut work.sampling);
        match backend().prepare(&work) {
            Err(RefusalReason::Unsupported { parameter, .. }) => parameter,
            other => panic!("{other:?}"),
        }
    };
    let bias = |entries: &[(u32, i32)]| {
        let entries = entries.iter().map(|(id, bias)| (*id, SignedQ16(*bias)));
        let entries: std::collections::BTreeMap<_, _> = entries.collect();
        refused(&move |s| s.logit_bias = entries.clone())
    };
    assert_eq!(bias(&[(5, 1), (vocab, 1)]), "logit_bias");
    assert_eq!(bias(&[(u32::MAX, 1)]), "logit_bias");
    assert_eq!(bias(&[(5, i32::MIN)]), "logit_bias");
    assert_eq!(bias(&[(5, 0)]), "logit_bias");
    let many: Vec<_> = (0..301).map(|id| (id, 1)).collect();
    assert_eq!(bias(&many), "logit_bias");
    assert_eq!(refused(&|s| s.logprobs = Some(21)), "top_logprobs");
    let most = SignedQ16((2 << 16) + 1);
    assert_eq!(refused(&|s| s.presence_penalty = most), "presence_penalty");
    assert_eq!(
        refused(&|s| s.frequency_penalty = most),
        "frequency_penalty"
    );
    let mut last = plain("Hello");
    last.sampling.logit_bias = [(vocab - 1, SignedQ16(1))].into();
    assert!(backend().prepare(&last).is_ok());
}

#[tokio::test]
async fn jobs_side_by_side_stream_the_same_answers_as_alone() {
    let executor = Executor::new(2).expect("threads");
    let works = [plain("Hello"), plain("What is the capital of Cuba?")];
    let mut running = Vec::new();
    for work in &works {
        let backend: Arc<dyn Backend> = backend();
        let prepared = executor
            .prepare(backend.clone(), work.clone())
            .await
            .expect("prepared");
        running.push(
            executor
                .start(backend, prepared, CancelFlag::new())
                .expect("free"),
        );
    }
    for (work, mut events) in works.iter().zip(running) {
        let (content, _, output) = run_to_end(&*backend(), work).expect("runs");
        let (mut ids, mut text, mut reason) = (Vec::new(), String::new(), None);
        while let Some(event) = events.recv().await {
            match event {
                Event::Generated(Generated::Tokens {
                    tokens,
                    text: piece,
                    logprobs,
                }) => {
                    assert!(logprobs.is_empty(), "nobody asked");
                    ids.extend(tokens);
                    text.push_str(&piece);
                }
                Event::Generated(Generated::End { finish_reason, .. }) => {
                    reason = Some(finish_reason)
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!((ids, text), (output, content.text));
        assert_eq!(reason, Some(content.finish_reason));
    }
}

#[test]
fn a_raised_flag_ends_the_answer_with_what_was_emitted() {
    let backend = backend();
    let mut cancelled = 0;
    for seed in 0..5 {
        let mut work = plain("Tell me a long story.");
        work.sampling.temperature = Q16(8 << 16);
        work.sampling.max_output_tokens = 500;
        work.sampling.seed = seed;
        let prepared = backend.prepare(&work).expect("prepared");
        let cancel = CancelFlag::new();
        let mut count = 0;
        let generation = backend
            .run(&prepared, &cancel, &mut |piece| {
                count += piece.tokens.len();
                if count == 3 {
                    cancel.cancel();
                }
                std::ops::ControlFlow::Continue(())
            })
            .expect("runs");
        assert!(count <= 3, "{count} tokens, two after the flag was raised");
        cancelled += u32::from(generation.finish_reason == FinishReason::Cancelled);
    }
    assert!(
        cancelled > 0,
        "every answer ended by itself within three tokens"
    );
}

#[test]
fn a_tool_call_is_never_emitted_unless_it_is_valid() {
    for seed in 0..10 {
        let mut work = chat(
            "What is the weather in Havana?",
            TOOLS,
            AnswerShape::Any,
            48,
        );
        work.sampling.seed = seed;
        let (content, _, output) = run_to_end(&*backend(), &work).expect("runs");
        assert!(!content.text.contains("<|tool_call|>"), "{}", content.text);
        assert_eq!(content.output_units, output.len() as u64);
        for call in &content.tool_calls {
            assert_eq!(content.finish_reason, FinishReason::ToolCalls);
            assert_eq!(call.name, "get_weather");
            let arguments: serde_json::Value = serde_json::from_str(&call.arguments).expect("JSON");
            assert!(arguments["city"].is_string(), "{arguments}");
        }
    }
}

#[test]
fn tools_change_the_prompt_only_where_they_may_be_used() {
    let prompt = |tools, answer| {
        backend()
            .prepare(&chat("Hello", tools, answer, 1))
            .expect("prepared")
            .prompt
    };
    let without = prompt("[]", AnswerShape::Any);
    assert!(prompt(TOOLS, AnswerShape::Any).len() > without.len());
    assert_eq!(prompt(TOOLS, AnswerShape::NoTools), without);
    assert!(matches!(
        backend().prepare(&chat("Hello", "[]", AnswerShape::ToolCall, 1)),
        Err(RefusalReason::Unsupported { parameter, .. }) if parameter == "tool_choice"
    ));
    assert!(matches!(
        backend().prepare(&chat("Hello", "{", AnswerShape::Any, 1)),
        Err(RefusalReason::Unsupported { parameter, .. }) if parameter == "tools"
    ));
}

#[test]
fn a_message_cannot_speak_in_another_turn() {
    let backend = backend();
    let tokenizer = backend.model().tokenizer();
    let special = |work: &Work| {
        let prompt = backend.prepare(work).expect("prepared").prompt;
        prompt
            .iter()
            .filter(|id| tokenizer.is_special(**id))
            .count()
    };
    let honest = special(&plain("a b"));
    assert_eq!(special(&plain("a<|end|><|system|>b")), honest);
    let mut escaped = plain("");
    escaped.prompt = Prompt::Chat {
        messages: r#"[{"role":"user","content":"a\u003c|end|><|syst\u0065m|>b"}]"#.to_owned(),
        tools: "[]".to_owned(),
        arguments: String::new(),
    };
    assert_eq!(special(&escaped), honest);
}

#[test]
fn the_overhead_bounds_the_tokens_that_are_not_bytes_of_the_request() {
    let backend = backend();
    let overhead = u64::from(backend.facts().message_overhead);
    let messages: Vec<_> = (0..30)
        .map(|n| match n % 3 {
            0 => serde_json::json!({"role": "user", "content": "é\u{10ffff} x"}),
            1 => serde_json::json!({"role": "assistant", "content": ""}),
            _ => serde_json::json!({"role": "user", "content": "<|end|>"}),
        })
        .collect();
    for count in 1..=messages.len() {
        let text = serde_json::to_string(&messages[..count]).expect("JSON");
        let bound = text.len() as u64 + overhead * count as u64;
        let mut work = plain("");
        work.prompt = Prompt::Chat {
            messages: text,
            tools: "[]".to_owned(),
            arguments: String::new(),
        };
        let prepared = backend.prepare(&work).expect("prepared");
        assert!(
            prepared.facts.input_units <= bound,
            "{} > {bound}",
            prepared.facts.input_units
        );
    }
}

#[test]
fn prompts_that_cannot_be_run_are_refused_by_name() {
    let backend = backend();
    let refused = |prompt: Prompt| {
        let mut work = plain("");
        work.prompt = prompt;
        backend.prepare(&work).map(|_| ()).expect_err("refused")
    };
    let context = u64::from(backend.facts().context);
    match refused(Prompt::Text("x y ".repeat(context as usize))) {
        RefusalReason::ContextLength { tokens, context: c } => assert!(tokens > c && c == context),
        other => panic!("{other:?}"),
    }
    for prompt in [
        Prompt::Tokens(vec![u32::MAX]),
        Prompt::Tokens(Vec::new()),
        Prompt::Chat {
            messages: "{".to_owned(),
            tools: "[]".to_owned(),
            arguments: String::new(),
        },
        Prompt::Chat {
            messages: "[]".to_owned(),
            tools: "[]".to_owned(),
            arguments: "[1]".to_owned(),
        },
    ] {
        assert!(matches!(refused(prompt), RefusalReason::Unsupported { .. }));
    }
}

/// Answers at a temperature at which this model says anything, which came to their own end.
fn wild(work: &Work, seeds: u64) -> Vec<stoa_verify::Content> {
    let answer = |seed| {
        let mut work = work.clone();
        work.sampling.temperature = Q16(2 << 16);
        work.sampling.seed = seed;
        let (content, prompt, output) = run_to_end(&*backend(), &work).expect("met");
        let again = run_to_end(&*backend(), &work).expect("met");
        assert_eq!(again, (content.clone(), prompt, output));
        content
    };
    let answers: Vec<_> = (0..seeds).map(answer).collect();
    let ended = answers
        .into_iter()
        .filter(|content| content.finish_reason != FinishReason::Length);
    let ended: Vec<_> = ended.collect();
    assert!(
        ended.len() as u64 * 3 > seeds,
        "{} of {seeds} ended",
        ended.len()
    );
    ended
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn schema(schema: &str, strict: bool) -> AnswerShape {
    let schema = schema.to_owned();
    AnswerShape::JsonSchema { schema, strict }
}

#[test]
fn a_demanded_object_is_made_at_any_temperature() {
    let work = chat("Write one word.", "[]", AnswerShape::JsonObject, 300);
    for content in wild(&work, 12) {
        assert!(json(&content.text).is_object(), "{}", content.text);
        assert_eq!(content.finish_reason, FinishReason::Stop);
    }
}

#[test]
fn an_answer_fits_the_schema_that_it_is_held_to() {
    let shape = schema(
        r#"{"type":"object","properties":{"n":{"type":"integer","minimum":3,"maximum":17},"kind":{"enum":["a","b"]},
            "list":{"type":"array","items":{"type":"boolean"},"maxItems":3}},"required":["n","kind","list"],"additionalProperties":false}"#,
        true,
    );
    for content in wild(&chat("Say something.", "[]", shape, 200), 12) {
        let answer = json(&content.text);
        assert!((3..=17).contains(&answer["n"].as_i64().expect("a number")));
        assert!(["a", "b"].contains(&answer["kind"].as_str().expect("a text")));
        assert!(answer["list"].as_array().expect("a list").len() <= 3);
        assert_eq!(answer.as_object().map(serde_json::Map::len), Some(3));
    }
    let regex = AnswerShape::Regex("(yes|no), [a-z]{3}".to_owned());
    for content in wild(&chat("Is it?", "[]", regex, 40), 6) {
        let (word, rest) = content.text.split_once(", ").expect("both parts");
        assert!(
            ["yes", "no"].contains(&word) && rest.len() == 3,
            "{}",
            content.text
        );
    }
}

#[test]
fn a_demanded_call_is_made_at_any_temperature_and_only_one_where_only_one_may_be() {
    for (answer, one) in [(AnswerShape::ToolCall, false), (AnswerShape::OneCall, true)] {
        for content in wild(&chat("Tell me a story.", TOOLS, answer.clone(), 200), 8) {
            assert_eq!(content.finish_reason, FinishReason::ToolCalls);
            assert_eq!(content.text, "");
            assert!(!content.tool_calls.is_empty());
            assert!(!one || content.tool_calls.len() == 1);
            for call in content.tool_calls {
                assert!(json(&call.arguments)["city"].is_string());
            }
        }
    }
}

#[test]
fn tools_beside_json_are_called_or_the_answer_is_that_json() {
    let shape = schema(
        r#"{"type":"object","properties":{"n":{"type":"integer"}},"required":["n"],"additionalProperties":false}"#,
        true,
    );
    let (mut called, mut answered) = (0, 0);
    let asked = ["What is the weather in Paris?", "Tell me a story."];
    for content in asked
        .map(|text| wild(&chat(text, TOOLS, shape.clone(), 200), 8))
        .concat()
    {
        if content.tool_calls.is_empty() {
            assert!(json(&content.text)["n"].is_number(), "{}", content.text);
            answered += 1;
        } else {
            assert_eq!((content.text.as_str(), content.tool_calls.len()), ("", 1));
            assert!(json(&content.tool_calls[0].arguments)["city"].is_string());
            called += 1;
        }
    }
    assert!(called > 0 && answered > 0, "{called} {answered}");
    // The model sees the tools, and each fault is named after its cause.
    let seen = |tools| {
        backend()
            .prepare(&chat("x", tools, shape.clone(), 9))
            .expect("taken")
            .prompt
    };
    assert!(seen(TOOLS).len() > seen("[]").len());
    let by = |work: &Work| match backend().prepare(work) {
        Err(RefusalReason::Unsupported { parameter, .. }) => parameter,
        other => panic!("{other:?}"),
    };
    let odd = r#"{"type":"array","uniqueItems":true}"#;
    let work = chat("x", TOOLS, schema(odd, true), 9);
    assert_eq!(by(&work), "response_format.json_schema.schema");
    let tools = r#"[{"type":"function","function":{"name":"f","parameters":{"type":"array"}}}]"#;
    assert_eq!(by(&chat("x", tools, shape.clone(), 9)), "tools");
}

#[test]
fn what_cannot_be_enforced_is_refused_with_its_place_where_strictness_is_asked_for() {
    let by = |work: &Work| match backend().prepare(work) {
        Err(RefusalReason::Unsupported { parameter, reason }) => (parameter, reason),
        other => panic!("{other:?}"),
    };
    let odd = r#"{"type":"object","properties":{"a":{"type":"array","uniqueItems":true}}}"#;
    let (parameter, reason) = by(&chat("x", "[]", schema(odd, true), 9));
    assert_eq!(parameter, "response_format.json_schema.schema");
    assert!(
        reason.contains("`uniqueItems` at #/properties/a "),
        "{reason}"
    );
    let relaxed = chat("x", "[]", schema(odd, false), 9);
    assert!(backend().prepare(&relaxed).is_ok());
    let tools = |strict: bool| {
        format!(
            r#"[{{"type":"function","function":{{"name":"f","strict":{strict},"parameters":{odd}}}}}]"#
        )
    };
    let (parameter, _) = by(&chat("x", &tools(true), AnswerShape::Any, 9));
    assert_eq!(parameter, "tools");
    let prompt = |tools: &str| {
        let work = chat("x", tools, AnswerShape::Any, 9);
        backend().prepare(&work).expect("taken").prompt
    };
    let unsaid = tools(false).replace(r#""strict":false,"#, "");
    assert_eq!(
        prompt(&tools(false)),
        prompt(&unsaid),
        "the model sees no strictness"
    );
    // A model is asked to hold its answer to the rules that it has, or to none.
    for rules in ["", "stoa.grammar.v9"] {
        let mut other = chat("x", "[]", AnswerShape::JsonObject, 9);
        other.sampling.grammar = rules.to_owned();
        assert_eq!(by(&other).0, "grammar");
    }
    assert_eq!(stoa_nodes::work::GRAMMAR, stoa_grammar::SEMANTICS);
    assert_eq!(
        stoa_nodes::work::GRAMMAR_BYTES_MAX,
        stoa_grammar::SOURCE_BYTES_MAX
    );
}

#[test]
fn a_shorter_context_takes_less_memory_and_prompt_and_answer_have_to_fit_it_together() {
    let whole = Model::memory_estimate(model_file()).expect("a model");
    let short = Model::memory_estimate_within(model_file(), Some(64)).expect("a model");
    assert!(short.cache < whole.cache / 8 && short.weights == whole.weights);
    let open = |context_max, memory_limit| {
        let options = ExactOptions {
            context_max,
            memory_limit,
            ..ExactOptions::default()
        };
        ExactBackend::open(model_file(), &options)
    };
    let little = Some(whole.weights + short.cache.max(whole.loading));
    let error = open(None, little).expect_err("no room for the whole context");
    assert!(error.to_string().contains("engine.context_max"), "{error}");
    let backend = open(Some(64), little).expect("room for a short one");
    assert_eq!(backend.facts().context, 64);
    let mut work = plain("hello");
    let prompt = backend.prepare(&work).expect("fits").prompt.len() as u32;
    work.sampling.max_output_tokens = 64 - prompt;
    backend.prepare(&work).expect("fits exactly");
    work.sampling.max_output_tokens += 1;
    let refused = backend.prepare(&work).expect_err("one too many");
    assert!(
        matches!(&refused, RefusalReason::Limit { reason, .. } if reason.contains("65 tokens") && reason.contains("64")),
        "{refused:?}"
    );
    // The model's own context is no other than before: an answer ends where it does.
    let own = u32::try_from(backend.model().info().context).expect("small");
    let backend = open(Some(own + 1), None).expect("opens");
    assert_eq!(backend.facts().context, own);
    work.sampling.max_output_tokens = own;
    backend.prepare(&work).expect("only the prompt has to fit");
}

#[test]
fn a_model_too_large_for_memory_is_refused_before_loading() {
    let options = ExactOptions {
        name: None,
        slots: 4,
        context_max: None,
        memory_limit: Some(1 << 20),
        threads: 1,
        trust_root: false,
        templates: Templates::Here,
        grammars: Grammars::Trusted,
    };
    match ExactBackend::open(model_file(), &options) {
        Err(OpenError::TooLarge {
            need,
            weights,
            cache,
            available,
        }) => {
            assert_eq!(available, 1 << 20);
            assert!(need >= weights + cache && weights > 1 << 20);
        }
        other => panic!("{other:?}"),
    }
}

/// The default model with other words in its template; without one where there are none.
fn with_template(template: impl Fn(&str) -> String) -> tempfile::TempDir {
    let from = model_file();
    let from = from.parent().expect("a folder");
    let folder = tempfile::tempdir().expect("folder");
    for name in [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ] {
        std::fs::copy(from.join(name), folder.path().join(name)).expect("copied");
    }
    let name = "chat_template.jinja";
    let text = std::fs::read_to_string(from.join(name)).expect("a template");
    let text = template(&text);
    if text.is_empty() {
        std::fs::write(folder.path().join("tokenizer_config.json"), "{}").expect("written");
    } else {
        std::fs::write(folder.path().join(name), text).expect("written");
    }
    folder
}

fn reasons_with(template: impl Fn(&str) -> String) -> bool {
    let folder = with_template(template);
    let backend = ExactBackend::open(folder.path(), &ExactOptions::default()).expect("opens");
    let offer = backend
        .facts()
        .offer(Default::default(), Default::default());
    assert_eq!(offer.reasons, backend.facts().reasons);
    offer.reasons
}

#[test]
fn reasoning_is_set_apart_for_models_whose_template_knows_its_marks_and_leaves_them_to_the_answer()
{
    assert!(!backend().facts().reasons);
    // As templates of such models take it out of what was said before.
    let strips = "{%- set said = '</think>' -%}{%- set marks = '<think>' -%}";
    assert!(reasons_with(|text| format!("{strips}{text}")));
    assert!(!reasons_with(|text| format!(
        "{{%- set said = '</think>' -%}}{text}"
    )));
    // Where the template begins it, the text of an answer does not.
    assert!(!reasons_with(|text| format!("{strips}{text}<think>\n")));
}

#[test]
fn a_model_whose_template_takes_no_chat_is_not_opened_and_the_reason_is_the_templates() {
    let opened = |template: &str| {
        let folder = with_template(|_| template.to_owned());
        let source = Source::open(folder.path()).expect("a model");
        let fault = template_fault(&source, &Templates::Here).expect("tried");
        let opened = ExactBackend::open(folder.path(), &ExactOptions::default());
        (fault, opened)
    };
    // As Mistral Small 3 begins, which needs today's date.
    let calls = "{%- set today = strftime_now('%d-%m-%Y') %}{{ messages[0].content }}";
    let raises = "{{ raise_exception('for nobody') }}";
    for (template, reason) in [(calls, "strftime_now"), (raises, "for nobody")] {
        let (fault, opened) = opened(template);
        let error = opened.expect_err("not opened").to_string();
        assert!(error.contains(reason), "{error}");
        assert!(error.contains("with another template"), "{error}");
        assert!(fault.is_some_and(|f| f.to_string().contains(reason)));
    }
    // One that takes some chats is served, and one without a template, for text completions.
    let alternates = "{% if messages[0].role != 'user' %}{{ raise_exception('user first') }}{% endif %}{{ messages[0].content }}";
    for template in [alternates, ""] {
        let (fault, opened) = opened(template);
        assert!(fault.is_none(), "{fault:?}");
        let backend = opened.expect("opens");
        assert!(backend.facts().message_overhead >= 1);
        assert_eq!(
            backend.prepare(&plain("hello")).is_err(),
            template.is_empty()
        );
    }
}

#[test]
fn a_file_that_is_no_model_is_named() {
    let file = tempfile::NamedTempFile::new().expect("file");
    std::fs::write(file.path(), "not a model").expect("written");
    let error = ExactBackend::open(file.path(), &ExactOptions::default()).expect_err("refused");
    assert!(
        error
            .to_string()
            .contains(&file.path().display().to_string()),
        "{error}"
    );
}
