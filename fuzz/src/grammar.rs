//! What is done with hostile schemas and expressions: they are compiled, and an answer is begun.

use super::gauge::measured;
use super::target::Target;
use std::sync::OnceLock;
use stoa_grammar::{Grammar, Vocabulary};

/// Schemas, and expressions after an `R`. The room is what the bounds of a grammar's size and steps come to.
pub const TARGET: Target = Target {
    name: "grammar",
    room: 256 << 20,
    read: grammar,
    seeds,
};

/// Steps of an answer.
const STEPS: usize = 8;

fn vocabulary() -> &'static Vocabulary {
    static VOCABULARY: OnceLock<Vocabulary> = OnceLock::new();
    VOCABULARY.get_or_init(|| {
        let bytes = (0..=255u8).map(|byte| Box::from([byte]));
        let words = ["{\"", "\":", "\",", "true", "  ", "12"].map(|w| w.as_bytes().into());
        let mut texts: Vec<Box<[u8]>> = bytes.chain(words).collect();
        let mut control = vec![false; texts.len()];
        texts.push(b"<|end|>".as_slice().into());
        control.push(true);
        let end = control.len() as u32 - 1;
        Vocabulary::of_parts(texts, control, &[end]).expect("usable")
    })
}

fn grammar(bytes: &[u8], bound: usize) -> usize {
    let text = String::from_utf8_lossy(bytes).into_owned();
    let grammar = match text.strip_prefix('R') {
        Some(expression) => Grammar::Regex(expression.to_owned()),
        None => Grammar::JsonSchema {
            schema: text.clone(),
            strict: text.len().is_multiple_of(2),
        },
    };
    let vocabulary = vocabulary();
    let work = || {
        let Ok(compiled) = vocabulary.compile(&grammar) else {
            return;
        };
        let mut constraint = compiled.begin();
        for step in 0..STEPS {
            let Ok(Some(set)) = constraint.allowed() else {
                return;
            };
            let allowed: Vec<u32> = set.ids(vocabulary.len()).collect();
            let which = bytes.get(step).map_or(0, |b| usize::from(*b)) % allowed.len().max(1);
            if allowed
                .get(which)
                .is_none_or(|id| constraint.accept(*id).is_err())
            {
                return;
            }
        }
    };
    measured(bound, work).1
}

fn seeds() -> Vec<Vec<u8>> {
    let texts = [
        r#"{"type":"object","properties":{"a":{"type":"string","maxLength":5},"b":{"enum":[1,"x",null]}},"required":["a"]}"#,
        r##"{"$defs":{"n":{"anyOf":[{"type":"null"},{"$ref":"#/$defs/n"}]}},"type":"array","items":{"$ref":"#/$defs/n"},"minItems":1}"##,
        r#"{"type":"string","pattern":"^a[0-9]{1,3}(b|c)*$","format":"date"}"#,
        r#"{"allOf":[{"type":"integer","minimum":3},{"maximum":12,"multipleOf":3}],"additionalProperties":false}"#,
        r"R[a-z]+(\d{2,4}|x?)*é",
    ];
    texts.map(|text| text.as_bytes().to_vec()).into()
}
