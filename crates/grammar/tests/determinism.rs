//! The same sets of tokens in every process, and under the libraries that the name of the rules stands for.

mod support;

use stoa_engine::sampler::philox4x32;
use stoa_grammar::Grammar;
use support::{end, ramble, texts, vocabulary};

/// Set in a process that only tells its digest.
const TELL: &str = "STOA_GRAMMAR_TELL_DIGEST";
/// Every bit of every set along the answers below. Another value is another meaning of grammars, which needs another name.
const GOLDEN: &str = "4c8573b8";

fn grammars() -> Vec<Grammar> {
    let strict = |schema: &str| Grammar::JsonSchema {
        schema: schema.to_owned(),
        strict: true,
    };
    vec![
        Grammar::JsonObject,
        strict(
            r##"{"$defs":{"n":{"type":"object","properties":{"z":{"type":"number"},"a":{"items":{"$ref":"#/$defs/n"}},
                "k":{"enum":["one","two",3,null]}},"required":["k"]}},"anyOf":[{"$ref":"#/$defs/n"},{"type":"string","format":"date-time"},
                {"type":"object","patternProperties":{"^x[0-9]+$":{"type":"boolean"}},"additionalProperties":false,"minProperties":1}]}"##,
        ),
        strict(
            r#"{"type":"object","properties":{"b":{"type":"integer","multipleOf":7},"a":{"type":"string","pattern":"^(\\w+ ){1,3}\\p{Lu}$"}}}"#,
        ),
        Grammar::Regex(r"[\w-]+@(\w|é){2,5}(\.[a-z]{2,}){1,2}".to_owned()),
    ]
}

/// A digest of all sets along some answers, those that no token was chosen of included.
fn digest() -> String {
    let mut state = [0u32; 4];
    let mut absorb = |word: u32| state = philox4x32(state, [word, 1]);
    for grammar in grammars() {
        let compiled = vocabulary().compile(&grammar).expect("compiles");
        for seed in 0..4 {
            let (tokens, whole) = ramble(&compiled, seed, 120);
            let mut constraint = compiled.begin();
            for id in tokens.iter().copied().chain(whole.then_some(end())) {
                if let Some(set) = constraint.allowed().expect("goes on") {
                    set.ids(texts().len()).for_each(&mut absorb);
                }
                if id != end() {
                    constraint.accept(id).expect("it was allowed");
                }
            }
        }
    }
    format!("{:08x}", state[0])
}

#[test]
fn the_sets_are_the_same_bits_in_every_process() {
    let digest = digest();
    if std::env::var_os(TELL).is_some() {
        println!("digest={digest}");
        return;
    }
    assert_eq!(
        digest, GOLDEN,
        "another meaning of grammars needs another name of their rules"
    );
    let program = std::env::current_exe().expect("this program");
    let test = "the_sets_are_the_same_bits_in_every_process";
    for _ in 0..2 {
        let output = std::process::Command::new(&program)
            .args(["--exact", test, "--nocapture"])
            .env(TELL, "1")
            .output()
            .expect("runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains(&format!("digest={digest}")), "{text}");
    }
}

/// Numbers and texts of schemas and tools pass through this reader and writer before they are a grammar, or letters of a prompt.
#[test]
fn json_is_read_and_written_as_the_name_of_the_rules_stands_for() {
    for (text, written) in [
        ("0", "0"),
        ("-0", "-0.0"),
        ("1.0", "1.0"),
        ("10000000000000000000000", "1e+22"),
        ("18446744073709551615", "18446744073709551615"),
        ("18446744073709551616", "1.8446744073709552e+19"),
        ("1e15", "1000000000000000.0"),
        ("1e16", "1e+16"),
        ("0.00001", "0.00001"),
        ("0.000001", "1e-6"),
        ("1.5E+3", "1500.0"),
        ("0.1", "0.1"),
        ("123456789012345e-23", "1.23456789012345e-9"),
        ("2.2250738585072014e-308", "2.2250738585072014e-308"),
        (
            r#"{"b":"\u00e9\u001f\/\ud83d\ude00\u007f","a":{"z":[],"b":1,"z":2}}"#,
            "{\"b\":\"é\\u001f/😀\u{7f}\",\"a\":{\"z\":2,\"b\":1}}",
        ),
    ] {
        let read: serde_json::Value = serde_json::from_str(text).expect("JSON");
        assert_eq!(read.to_string(), written, "{text}");
    }
}

#[test]
fn what_a_set_took_is_told_and_a_costly_one_took_more() {
    let steps = |expression: &str| {
        let grammar = Grammar::Regex(expression.to_owned());
        let mut constraint = vocabulary().compile(&grammar).expect("compiles").begin();
        let mut most = 0;
        for id in b"abnabnaben".map(u32::from) {
            constraint.allowed().expect("goes on");
            most = most.max(constraint.take_steps());
            constraint.accept(id).expect("a letter");
        }
        most
    };
    let cheap = steps("[a-z]{12}");
    let costly = steps("((.*[a-m].{100}){3}|(.*[n-z].{99}){3}|(.*[e-r].{98}){3}){9}!");
    assert!(cheap > 0 && costly > 4 * cheap, "{cheap} {costly}");
}

#[test]
fn the_libraries_that_decide_are_those_that_the_name_stands_for() {
    assert_eq!(stoa_grammar::SEMANTICS, "stoa.grammar.v1");
    let lock = include_str!("../../../Cargo.lock");
    for (name, version) in [
        ("llguidance", "1.9.1"),
        ("toktrie", "1.9.1"),
        ("derivre", "0.3.13"),
        // Its tables say which characters a class holds.
        ("regex-syntax", "0.8.11"),
        // Schemas and tools are read and written by it, numbers by the other.
        ("serde_json", "1.0.154"),
        ("zmij", "1.0.23"),
    ] {
        let found: Vec<&str> = lock
            .split("[[package]]")
            .filter_map(|entry| {
                entry
                    .trim_start()
                    .strip_prefix(&format!("name = \"{name}\"\nversion = \""))
            })
            .filter_map(|rest| rest.split('"').next())
            .collect();
        assert_eq!(
            found,
            [version],
            "{name}: another version may allow other tokens; give the rules another name with it"
        );
    }
}
