//! Answers under JSON grammars: what is allowed, what comes out, and what a hostile schema can do.

mod support;

use serde_json::{Value, json};
use stoa_grammar::{Compiled, Grammar, GrammarError};
use support::{bytes, end, ramble, shown, texts, vocabulary};

fn schema(schema: &Value) -> Grammar {
    Grammar::JsonSchema {
        schema: schema.to_string(),
        strict: true,
    }
}

fn compile(value: &Value) -> Compiled {
    vocabulary()
        .compile(&schema(value))
        .unwrap_or_else(|error| panic!("{value}: {error}"))
}

/// Schemas as clients send them, each with valid texts.
fn samples() -> Vec<(Value, Vec<&'static str>)> {
    let person = json!({"type": "object", "title": "Person", "properties": {
        "name": {"type": "string"}, "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "host": {"anyOf": [{"type": "string", "format": "ipv4"}, {"type": "null"}]}},
        "required": ["name", "age", "host"], "additionalProperties": false});
    let tree = json!({"$defs": {"node": {"type": "object", "properties": {
        "value": {"type": "number", "minimum": -10, "maximum": 10}, "children": {"type": "array", "maxItems": 3, "items": {"$ref": "#/$defs/node"}}},
        "required": ["value"], "additionalProperties": false}}, "$ref": "#/$defs/node"});
    let mixed = json!({"type": "array", "minItems": 1, "maxItems": 4, "items": {"anyOf": [
        {"type": "string", "enum": ["a", "b\"c", "é"]}, {"const": 12}, {"type": "boolean"},
        {"type": "object", "properties": {"kind": {"const": "x"}}, "required": ["kind"]}]}});
    let text = json!({"type": "object", "properties": {"code": {"type": "string", "pattern": "^[A-Z]{2}[0-9]{1,3}$"},
        "note": {"type": "string", "minLength": 2, "maxLength": 5}, "on": {"type": "string", "format": "date"}},
        "required": ["code"], "additionalProperties": false});
    let both = json!({"allOf": [{"type": "object", "properties": {"a": {"type": "integer", "multipleOf": 3, "maximum": 1000, "minimum": -1000}}, "required": ["a"]},
        {"type": "object", "properties": {"b": {"type": "boolean"}}, "required": ["b"]}]});
    vec![
        (
            person,
            vec![
                r#"{"name":"Zoë \"Z\" \\ \n","age":7,"host":null}"#,
                "{\n    \"name\": \"\",\n    \"age\": 130,\n    \"host\": \"127.0.0.1\"\n}",
            ],
        ),
        (
            tree,
            vec![r#"{"value":-1.5,"children":[{"value":0},{"value":10,"children":[]}]}"#],
        ),
        (mixed, vec![r#"["b\"c",12,false,{"kind":"x"}]"#, r#"["é"]"#]),
        (
            text,
            vec![r#"{"code":"AB12","note":"éé€","on":"2026-02-28"}"#],
        ),
        (both, vec![r#"{"a":-12,"b":true}"#]),
        (
            json!({"type": "object"}),
            vec!["{}", r#"{"a":[1e3,{"b":null}],"é":"\u00e9"}"#],
        ),
    ]
}

#[test]
fn the_masks_of_a_small_vocabulary_are_these() {
    let grammar = compile(
        &json!({"type": "object", "properties": {"name": {"type": "boolean"}, "n": {"type": "integer"}},
        "required": ["name"], "additionalProperties": false}),
    );
    let golden = [
        ("", "{ {\""),
        ("{", "\n   \" \"name\" \n"),
        ("{\"", "n name"),
        ("{\"name\"", "\n   : \n : "),
        ("{\"name\":t", "r"),
        ("{\"name\":true", "\n   , } \n , "),
        (
            "{\"name\":true,\"n\":",
            "\n   - 0 1 2 3 4 5 6 7 8 9 \n 12 -1",
        ),
        ("{\"name\":true,\"n\":-", "0 1 2 3 4 5 6 7 8 9 12"),
    ];
    for (text, expected) in golden {
        let mut constraint = grammar.begin();
        for byte in text.bytes() {
            constraint.accept(u32::from(byte)).expect(text);
        }
        assert_eq!(
            shown(constraint.allowed().expect("goes on")),
            expected,
            "{text:?}"
        );
    }
}

#[test]
fn every_prefix_of_a_valid_text_is_accepted_and_it_may_end_where_it_is_whole() {
    for (value, documents) in samples() {
        let grammar = compile(&value);
        for document in documents {
            // Byte by byte, then with the longest tokens that fit.
            for longest in [1, 16] {
                let mut constraint = grammar.begin();
                let mut rest = document.as_bytes();
                while !rest.is_empty() {
                    let set = constraint.allowed().expect("goes on").expect("held");
                    assert!(!set.contains(end()), "{document} may end before {rest:?}");
                    let fits = |id: &u32| {
                        let text = &texts()[*id as usize];
                        text.len() <= longest && rest.starts_with(text)
                    };
                    let id = (0..end())
                        .filter(fits)
                        .max_by_key(|id| texts()[*id as usize].len());
                    let id = id.expect("every byte is a token");
                    assert!(set.contains(id), "{document}: {rest:?} is refused");
                    constraint.accept(id).expect("it was allowed");
                    rest = &rest[texts()[id as usize].len()..];
                }
                let set = constraint.allowed().expect("ends").expect("held");
                assert!(set.contains(end()), "{document} may not end");
            }
        }
    }
}

#[test]
fn a_thousand_answers_of_a_model_without_sense_are_valid() {
    let samples = samples();
    let (mut ended, mut cut) = (0, 0);
    for (index, (value, _)) in samples.iter().enumerate() {
        let grammar = compile(value);
        let validator = jsonschema::options()
            .should_validate_formats(true)
            .build(value)
            .expect("a schema");
        let enough = ended + 1_000_usize.div_ceil(samples.len());
        for seed in 0.. {
            let (tokens, whole) = ramble(&grammar, seed * 31 + index as u64, 400);
            if !whole {
                cut += 1;
                assert!(cut < 1_000, "most answers do not end");
                continue;
            }
            let text = String::from_utf8(bytes(&tokens)).expect("UTF-8");
            let answer: Value = match serde_json::from_str(&text) {
                Ok(answer) => answer,
                // Valid JSON that this reader has no number for.
                Err(error) if error.to_string().contains("out of range") => continue,
                Err(error) => panic!("{error}: {text}"),
            };
            assert!(validator.is_valid(&answer), "{value}: {text}");
            ended += 1;
            if ended == enough {
                break;
            }
        }
    }
    assert!(ended >= 1_000);
}

#[test]
fn a_schema_that_is_not_strict_is_held_to_what_can_be_enforced_of_it() {
    let relaxed = |value: &Value| {
        vocabulary().compile(&Grammar::JsonSchema {
            schema: value.to_string(),
            strict: false,
        })
    };
    // A look-ahead is nothing that the library takes; neither are references to nowhere, and numbers that it does not tell apart.
    let odd = json!({"type": "object", "properties": {
        "a": {"type": "string", "pattern": "^(?!x)[a-z]{2}$"}, "b": {"type": "string", "pattern": "^[a-c]{2}$"},
        "c": {"enum": [9_007_199_254_740_993_u64, 1]}, "d": {"$ref": "#/$defs/gone", "type": "boolean"}},
        "required": ["a", "b", "c", "d"], "additionalProperties": false});
    assert!(vocabulary().compile(&schema(&odd)).is_err());
    let grammar = relaxed(&odd).expect("what is left can be enforced");
    let mut ended = 0;
    for seed in 0..40 {
        let (tokens, whole) = ramble(&grammar, seed, 300);
        if !whole {
            continue;
        }
        let text = String::from_utf8(bytes(&tokens)).expect("UTF-8");
        // Some hold numbers that this reader has no room for.
        let Ok(answer) = serde_json::from_str::<Value>(&text) else {
            continue;
        };
        ended += 1;
        let b = answer["b"].as_str().expect("a text");
        assert!(
            b.len() == 2 && b.bytes().all(|b| b"abc".contains(&b)),
            "{text}"
        );
        assert!(
            answer["a"].is_string() && answer["d"].is_boolean(),
            "{text}"
        );
    }
    assert!(ended > 5, "{ended}");
    // What nothing fits, or what is too large, is refused all the same.
    for (value, reason) in [
        (
            json!({"type": "integer", "minimum": 5, "maximum": 4}),
            "no grammar",
        ),
        (json!({"enum": vec![0; 10_001]}), "values"),
    ] {
        let error = relaxed(&value).expect_err(reason).to_string();
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn regular_expressions_are_met_from_begin_to_end() {
    let grammar = vocabulary()
        .compile(&Grammar::Regex(r"(yes|no): [a-c]{2,4}/é?".to_owned()))
        .expect("compiles");
    for seed in 0..50 {
        let (tokens, whole) = ramble(&grammar, seed, 100);
        let text = String::from_utf8(bytes(&tokens)).expect("UTF-8");
        assert!(whole, "{text}");
        let (word, rest) = text.split_once(": ").expect(": ");
        assert!(["yes", "no"].contains(&word), "{text}");
        let (letters, accent) = rest.split_once('/').expect("/");
        assert!((2..=4).contains(&letters.len()), "{text}");
        assert!(letters.bytes().all(|b| b"abc".contains(&b)), "{text}");
        assert!(["", "é"].contains(&accent), "{text}");
    }
}

#[test]
fn a_hostile_schema_is_refused_or_bounded() {
    let nest = |levels: usize, leaf: Value, wrap: fn(Value) -> Value| {
        (0..levels).fold(leaf, |inner, _| wrap(inner))
    };
    let options = |count: usize| -> Vec<Value> {
        let one = |n| json!({"type": "object", "properties": {format!("p{n}"): {"type": "string", "maxLength": n + 1}}});
        (0..count).map(one).collect()
    };
    let product = json!({"allOf": [{"anyOf": options(60)}, {"anyOf": options(60)}, {"anyOf": options(60)}, {"anyOf": options(60)}]});
    let everything: Vec<Value> = (0..2_000)
        .map(|n| json!(format!("{n:x}{}", n * 7919)))
        .collect();
    // Each part is no deeper than may be; the references chain them.
    let part = |n: usize| {
        let next = json!({"$ref": format!("#/$defs/{}", n + 1)});
        nest(58, next, |inner| json!({"items": inner}))
    };
    let parts = (0..50).map(|n| (n.to_string(), part(n)));
    let mut parts: serde_json::Map<String, Value> = parts.collect();
    parts.insert("50".to_owned(), json!({"type": "null"}));
    let hostile = [
        json!({"$defs": parts, "$ref": "#/$defs/0"}),
        json!({"$ref": "#"}),
        json!({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}),
        json!({"$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}, {"type": "object"}]}}, "$ref": "#/$defs/a"}),
        json!({"$ref": "#/$defs/gone"}),
        json!({"type": "object", "required": ["a"], "properties": {"a": {"$ref": "#"}}, "additionalProperties": false}),
        json!({"type": "string", "pattern": "^(a+)+$"}),
        json!({"type": "string", "pattern": "(((((a{100}){100}){100}){100}){100})"}),
        json!({"type": "string", "pattern": "(a|b)*c(a|b){5000}$"}),
        json!({"type": "string", "pattern": "(.*a.{20}){3}|(.*b.{20}){3}|[^c]{3000}"}),
        json!({"type": "string", "pattern": format!("{}a{}", "(".repeat(3000), ")".repeat(3000))}),
        json!({"type": "string", "pattern": "a".repeat(60_000)}),
        json!({"type": "string", "pattern": "\\p{L}{1000}\\w{1000}"}),
        json!({"type": "string", "minLength": 100_000, "maxLength": 100_000}),
        json!({"type": "array", "minItems": 100_000, "items": {"type": "array", "minItems": 100_000, "items": {"const": 1}}}),
        json!({"type": "object", "minProperties": 100_000}),
        json!({"enum": everything}),
        product,
        nest(60, json!({"type": "null"}), |inner| json!({"items": inner})),
        nest(
            9,
            json!({"type": "null"}),
            |inner| json!({"anyOf": [inner.clone(), {"type": "array", "items": inner}]}),
        ),
        nest(
            30,
            json!(true),
            |inner| json!({"oneOf": [inner, {"type": "string"}]}),
        ),
        json!(false),
        json!({"type": "integer", "minimum": 5, "maximum": 4}),
        json!({"type": "integer", "multipleOf": 999_999_999_989_i64}),
        json!({"type": "number", "multipleOf": 0.000_001, "minimum": 0.1, "maximum": 0.100_000_1}),
        json!({"patternProperties": {"^a{1000}": {}, "^(a|b){1000}": {}, "b$": {}}}),
        json!({"properties": (0..3_000).map(|n| (format!("p{n}"), json!({"type": "integer"}))).collect::<serde_json::Map<_, _>>()}),
    ];
    for value in hostile {
        let begun = format!("{value:.80}");
        // The threads that compile have no more than this.
        let work = std::thread::Builder::new()
            .stack_size(2 << 20)
            .spawn(move || {
                let Ok(grammar) = vocabulary().compile(&schema(&value)) else {
                    return;
                };
                let mut constraint = grammar.begin();
                for position in 0..40u32 {
                    let Ok(Some(set)) = constraint.allowed() else {
                        return;
                    };
                    let ids: Vec<u32> = set.ids(texts().len()).collect();
                    let id = ids[(position as usize * 7919) % ids.len()];
                    if id == end() || constraint.accept(id).is_err() {
                        return;
                    }
                }
            });
        let ended = work.expect("a thread").join();
        assert!(ended.is_ok(), "{begun}");
    }
}

#[test]
fn a_grammar_that_nothing_meets_is_refused_before_an_answer_is_begun() {
    for value in [
        json!(false),
        json!({"type": "integer", "minimum": 5, "maximum": 4}),
        json!({"type": "object", "properties": {"a": false}, "required": ["a"]}),
    ] {
        let refused = vocabulary().compile(&schema(&value));
        assert!(
            matches!(refused, Err(GrammarError::Compile(_))),
            "{value}: {refused:?}"
        );
    }
    let long = Grammar::Regex("a".repeat(stoa_grammar::SOURCE_BYTES_MAX + 1));
    let refused = vocabulary().compile(&long);
    assert!(matches!(refused, Err(GrammarError::TooLarge { .. })));
}
