//! Tool calls under a grammar, demanded and free.

mod support;

use serde::de::IgnoredAny;
use serde_json::Value;
use stoa_engine::Constraint;
use stoa_grammar::{CallSyntax, Calls, Compiled, Grammar, GrammarError, Tool, Vocabulary};
use support::{bytes, end, ramble, shown, vocabulary};

/// Schemas with definitions of the same name, which must not be mixed up.
const WEATHER: &str = r##"{"type":"object","properties":{"city":{"$ref":"#/$defs/a"},"days":{"type":"integer"}},"required":["city"],
    "additionalProperties":false,"$defs":{"a":{"type":"string","maxLength":12}}}"##;
const SUM: &str = r##"{"properties":{"x":{"$ref":"#/$defs/a"},"y":{"$ref":"#/$defs/a"}},"required":["x","y"],
    "additionalProperties":false,"$defs":{"a":{"type":"integer","minimum":0,"maximum":99}}}"##;

fn tool(name: &str, parameters: Option<&str>) -> Tool {
    Tool {
        name: name.to_owned(),
        parameters: parameters.map(str::to_owned),
        strict: true,
    }
}

fn calls(vocabulary: &Vocabulary, markers: (&str, &str), required: bool, several: bool) -> Calls {
    Calls {
        instead: None,
        syntax: CallSyntax::new(vocabulary, markers.0, markers.1),
        tools: vec![
            tool("weather", Some(WEATHER)),
            tool("sum", Some(SUM)),
            tool("now", None),
        ],
        required,
        several,
    }
}

fn compiled(markers: (&str, &str), required: bool, several: bool) -> Compiled {
    let vocabulary = vocabulary();
    let calls = calls(&vocabulary, markers, required, several);
    vocabulary
        .compile(&Grammar::Calls(calls))
        .expect("compiles")
}

const SYNTAXES: [(&str, &str); 2] = [("<|tool_call|>", ""), ("<tool_call>", "</tool_call>")];

fn check(body: &str) {
    let call: Value = serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {body}"));
    let arguments = &call["arguments"];
    match call["name"].as_str() {
        Some("weather") => assert!(arguments["city"].is_string(), "{body}"),
        Some("sum") => assert!(arguments["x"].as_u64() < Some(100), "{body}"),
        Some("now") => assert_eq!(*arguments, serde_json::json!({}), "{body}"),
        _ => panic!("{body}"),
    }
}

#[test]
fn demanded_calls_are_valid_however_little_sense_a_model_has() {
    for (open, close) in SYNTAXES {
        for several in [false, true] {
            let grammar = compiled((open, close), true, several);
            let mut most = 0;
            for seed in 0..60 {
                let (tokens, whole) = ramble(&grammar, seed, 500);
                let text = String::from_utf8(bytes(&tokens)).expect("UTF-8");
                if !whole {
                    continue;
                }
                let (mut rest, mut count) = (text.as_str(), 0);
                // A marker may stand in a string, so that only a reader of JSON finds a call's end.
                while let Some(call) = rest.trim_start().strip_prefix(open) {
                    let mut values =
                        serde_json::Deserializer::from_str(call).into_iter::<IgnoredAny>();
                    assert!(values.next().is_some_and(|value| value.is_ok()), "{text}");
                    let (body, after) = call.split_at(values.byte_offset());
                    check(body);
                    rest = after.trim_start().strip_prefix(close).expect("closed");
                    count += 1;
                }
                assert!(rest.trim().is_empty() && count > 0, "{text}");
                most = most.max(count);
            }
            assert_eq!(most > 1, several, "{open}: at most {most} calls");
        }
    }
}

/// Takes a text token by token of one byte each.
fn feed(constraint: &mut dyn Constraint, text: &str) -> Option<usize> {
    text.bytes().position(|byte| {
        let id = u32::from(byte);
        let set = constraint.allowed().expect("goes on");
        let allowed = set.is_none_or(|set| set.contains(id));
        if allowed {
            constraint.accept(id).expect("it was allowed");
        }
        !allowed
    })
}

#[test]
fn a_free_answer_is_held_to_the_tools_from_a_call_s_marker_on() {
    let grammar = compiled(("<tool_call>", "</tool_call>"), false, true);
    let mut constraint = grammar.begin();
    assert_eq!(feed(&mut *constraint, "Let me see <tool <tool_cal"), None);
    let set = constraint.allowed().expect("goes on");
    assert!(
        set.is_none_or(|set| set.contains(end())),
        "it may end in plain text"
    );
    assert_eq!(feed(&mut *constraint, "l>"), None);
    let set = shown(constraint.allowed().expect("goes on"));
    assert_eq!(set, "\n   { {\"    \n");
    assert_eq!(
        feed(
            &mut *constraint,
            r#"{"name": "weather", "arguments": {"city": "Rome"}}"#
        ),
        None
    );
    let set = constraint.allowed().expect("goes on").expect("held");
    assert!(!set.contains(end()), "the call is not closed");
    assert_eq!(feed(&mut *constraint, "\n</tool_call>"), None);
    let set = constraint.allowed().expect("goes on").expect("held");
    assert!(set.contains(end()) && !set.contains(u32::from(b'a')));
    assert_eq!(
        feed(&mut *constraint, "\n<tool_call>\n{\"name\":\"nothing"),
        Some("\n<tool_call>\n{\"name\":\"no".len())
    );
}

#[test]
fn only_one_call_is_made_where_only_one_may_be() {
    for required in [false, true] {
        let grammar = compiled(("<tool_call>", "</tool_call>"), required, false);
        let mut constraint = grammar.begin();
        let call = "<tool_call>{\"name\":\"now\",\"arguments\":{}}</tool_call>";
        assert_eq!(feed(&mut *constraint, call), None);
        assert_eq!(shown(constraint.allowed().expect("ends")), "<|end|>");
    }
}

#[test]
fn tools_that_answers_cannot_be_held_to_are_refused() {
    let vocabulary = vocabulary();
    let mut calls = calls(&vocabulary, SYNTAXES[0], false, true);
    calls
        .tools
        .push(tool("odd", Some(r#"{"properties":{"a":{"not":{}}}}"#)));
    let refused = vocabulary.compile(&Grammar::Calls(calls.clone()));
    assert!(
        matches!(refused, Err(GrammarError::Keyword { .. })),
        "{refused:?}"
    );
    if let Some(tool) = calls.tools.last_mut() {
        tool.strict = false;
    }
    vocabulary
        .compile(&Grammar::Calls(calls.clone()))
        .expect("left out");
    calls.tools.clear();
    assert!(vocabulary.compile(&Grammar::Calls(calls)).is_err());
}

#[test]
fn json_may_come_in_place_of_a_call_and_nothing_else_may() {
    let vocabulary = vocabulary();
    for (open, close) in SYNTAXES {
        let mut calls = calls(&vocabulary, (open, close), false, false);
        calls.instead = Some(Box::new(Grammar::JsonSchema {
            schema: r#"{"type":"object","properties":{"k":{"enum":["a","b"]}},"required":["k"],"additionalProperties":false}"#.to_owned(),
            strict: true,
        }));
        let grammar = vocabulary
            .compile(&Grammar::Calls(calls))
            .expect("compiles");
        let (mut called, mut answered) = (0, 0);
        for seed in 0..120 {
            let (tokens, whole) = ramble(&grammar, seed, 200);
            if !whole {
                continue;
            }
            let text = String::from_utf8(bytes(&tokens)).expect("UTF-8");
            match text.strip_prefix(open) {
                Some(call) => {
                    check(call.strip_suffix(close).expect("closed"));
                    called += 1;
                }
                None => {
                    let answer: Value = serde_json::from_str(&text).expect("JSON");
                    assert!(["a", "b"].contains(&answer["k"].as_str().expect("a text")));
                    answered += 1;
                }
            }
        }
        assert!(called > 3 && answered > 3, "{called} {answered}");
    }
}

#[test]
fn of_the_expressions_of_all_tools_together_few_are_tried_and_further_ones_are_left_out() {
    let vocabulary = vocabulary();
    let mut calls = calls(&vocabulary, SYNTAXES[1], true, false);
    // One that the library does not take, then twenty that it takes.
    let schema = |pattern: &str| {
        format!(
            r#"{{"type":"object","properties":{{"a":{{"type":"string","pattern":"{pattern}"}}}},"required":["a"],"additionalProperties":false}}"#
        )
    };
    let relaxed = |name: String, pattern| Tool {
        name,
        parameters: Some(schema(pattern)),
        strict: false,
    };
    calls.tools = vec![relaxed("odd".to_owned(), "^(?!x)y$")];
    calls
        .tools
        .extend((0..20).map(|n| relaxed(format!("t{n}."), "^b$")));
    let grammar = vocabulary
        .compile(&Grammar::Calls(calls))
        .expect("compiles");
    let allows = |text: &str| {
        let mut constraint = grammar.begin();
        text.bytes().all(|byte| {
            let set = constraint.allowed().expect("goes on").expect("held");
            set.contains(u32::from(byte)) && constraint.accept(u32::from(byte)).is_ok()
        })
    };
    let call = |name: &str, a: &str| {
        allows(&format!(
            r#"<tool_call>{{"name":"{name}","arguments":{{"a":"{a}"}}}}</tool_call>"#
        ))
    };
    assert!(call("odd", "free") && call("t0.", "b") && call("t14.", "b"));
    assert!(!call("t0.", "free") && !call("t14.", "free"));
    // The sixteenth was the last that was looked at.
    assert!(call("t15.", "free") && call("t19.", "free"));
}
