//! How long grammars take: compiling, and one set of tokens along an answer, over the default model's vocabulary and a made-up one of
//! 128,000 tokens.
//!
//! `cargo run --release -p stoa-grammar --example mask_time [MODEL]`

use std::time::{Duration, Instant};
use stoa_engine::Model;
use stoa_engine::sampler::philox4x32;
use stoa_grammar::{Grammar, Vocabulary};

const SCHEMA: &str = r#"{"type":"object","properties":{"name":{"type":"string","maxLength":40},"age":{"type":"integer","minimum":0,
    "maximum":130},"tags":{"type":"array","items":{"type":"string"},"maxItems":8},"mail":{"type":"string","format":"email"}},
    "required":["name","age","tags","mail"],"additionalProperties":false}"#;

/// Every byte, then random words of two to ten letters, as many as a large model has tokens; the last ends an answer.
fn made_up(size: usize) -> Vocabulary {
    let letters = b"abcdefghijklmnopqrstuvwxyz    etaoin\",:{}[]0123456789ABCDEF.-_";
    let word = |id: u32| -> Box<[u8]> {
        let length = 2 + philox4x32([id, 0, 0, 0], [0, 0])[0] % 9;
        let letter =
            |place| letters[philox4x32([id, place, 1, 0], [0, 0])[0] as usize % letters.len()];
        (0..length).map(letter).collect()
    };
    let mut texts: Vec<Box<[u8]>> = (0..=255u8).map(|byte| vec![byte].into()).collect();
    texts.extend((256..size as u32).map(word));
    let mut control = vec![false; size];
    control[size - 1] = true;
    Vocabulary::of_parts(texts, control, &[size as u32 - 1]).expect("usable")
}

/// Times of the sets along some answers of a model that says anything.
fn sets(vocabulary: &Vocabulary, grammar: &Grammar) -> (Duration, Vec<Duration>) {
    let begun = Instant::now();
    let compiled = vocabulary.compile(grammar).expect("compiles");
    let compiling = begun.elapsed();
    let mut times = Vec::new();
    for seed in 0..20 {
        let mut constraint = compiled.begin();
        for position in 0..60 {
            let begun = Instant::now();
            let Ok(Some(set)) = constraint.allowed() else {
                break;
            };
            times.push(begun.elapsed());
            let ids: Vec<u32> = set.ids(vocabulary.len()).collect();
            let drawn = philox4x32([position, seed, 2, 0], [0, 0])[0] as usize % ids.len();
            // A token that ends the answer is not taken.
            if constraint.accept(ids[drawn]).is_err() {
                break;
            }
        }
    }
    times.sort();
    (compiling, times)
}

fn main() {
    let default = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../models/stoa-tiny/stoa-tiny.Q8_0.gguf"
    );
    let file = std::env::args()
        .nth(1)
        .unwrap_or_else(|| default.to_owned());
    let model = Model::open(&file).expect("a model");
    let schema = SCHEMA.to_owned();
    let grammars = [
        ("a JSON object", Grammar::JsonObject),
        (
            "a schema",
            Grammar::JsonSchema {
                schema,
                strict: true,
            },
        ),
        (
            "an expression",
            Grammar::Regex(r"(\w+ ){3,20}[0-9]{4}-[0-9]{2}".to_owned()),
        ),
    ];
    for of_model in [true, false] {
        let begun = Instant::now();
        let (name, vocabulary) = match of_model {
            true => (
                "the model's",
                Vocabulary::new(model.tokenizer()).expect("usable"),
            ),
            false => ("made up", made_up(128_000)),
        };
        println!(
            "{name}: {} tokens, made in {} ms",
            vocabulary.len(),
            begun.elapsed().as_millis()
        );
        for (what, grammar) in &grammars {
            let (compiling, times) = sets(&vocabulary, grammar);
            let micros = |time: &Duration| time.as_nanos() as f64 / 1e3;
            let mean = times.iter().map(micros).sum::<f64>() / times.len() as f64;
            println!(
                "  {what}: compiled in {:.0} us; a set in {mean:.1} us (median {:.1}, 99 of 100 within {:.1}, most {:.1}; {} sets)",
                micros(&compiling),
                micros(&times[times.len() / 2]),
                micros(&times[times.len() * 99 / 100]),
                micros(&times[times.len() - 1]),
                times.len()
            );
        }
    }
}
