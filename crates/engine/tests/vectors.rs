//! Golden vectors of `docs/iq8.md`, made by a second implementation (`vectors/iq8/reference.py`).

mod support;

use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use stoa_engine::ops::{self, Norm};
use stoa_engine::packed::PackedMatrix;
use stoa_engine::quant::{ACTIVATION_BITS, BLOCK, Quantised};
use stoa_engine::sampler::{noise, philox4x32, sample};
use stoa_engine::tables::Tables;
use stoa_engine::{Kernel, LoadOptions, Model, Rotary, RotaryScaling, Session, text_vector};
use stoa_types::{Q16, SamplingParameters};
use support::{GgufWriter, Shape, Storage, Toy, write_folder};

fn vectors(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../vectors/iq8")
        .join(name);
    let text = std::fs::read_to_string(&path).expect("the vectors are in the repository");
    serde_json::from_str(&text).expect("the vectors are JSON")
}

fn list<T: TryFrom<i64>>(value: &Value) -> Vec<T> {
    let number = |v: &Value| {
        T::try_from(v.as_i64().expect("an integer"))
            .ok()
            .expect("in range")
    };
    value
        .as_array()
        .expect("a list")
        .iter()
        .map(number)
        .collect()
}

fn number(value: &Value) -> i64 {
    value.as_i64().expect("an integer")
}

fn unsigned(value: &Value) -> u64 {
    value.as_str().expect("a text").parse().expect("an integer")
}

fn cases(v: &Value) -> &Vec<Value> {
    v["cases"].as_array().expect("cases")
}

#[test]
fn tables_are_correctly_rounded() {
    let v = vectors("tables.json");
    let hash = Sha256::digest(Tables::get().canonical_bytes());
    assert_eq!(hex::encode(hash), v["sha256"].as_str().expect("a hash"));
}

#[test]
fn dot_products_agree_in_every_kernel() {
    let v = vectors("dot.json");
    for case in cases(&v) {
        let values: Vec<i64> = list(&case["values"]);
        let mut x = Quantised::with_len(values.len());
        x.assign(&values, number(&case["fraction"]) as i32, ACTIVATION_BITS);
        assert_eq!(x.q, list::<i8>(&case["q"]));
        assert_eq!(x.scale, list::<i32>(&case["scales"]));
        assert_eq!(i64::from(x.exponent), number(&case["exponent"]));
        let mut matrix = PackedMatrix::zeros(1, values.len());
        let (row, scales): (Vec<i8>, Vec<u16>) = (list(&case["row"]), list(&case["row_scales"]));
        for (block, scale) in scales.iter().enumerate() {
            matrix.set_block(0, block, &row[block * BLOCK..][..BLOCK], *scale);
        }
        matrix.exponent = number(&v["row_exponent"]) as i32;
        for kernel in Kernel::available() {
            let mut sums = vec![0; 16];
            kernel.multiply(&matrix, std::slice::from_ref(&x), &mut sums);
            assert_eq!(sums[0], number(&case["sum"]), "{}", kernel.name());
            let mut out = [0];
            ops::finish(&sums[..1], matrix.exponent + x.exponent, &mut out);
            assert_eq!(i64::from(out[0]), number(&case["output"]));
        }
    }
}

#[test]
fn rms_norm_agrees() {
    let v = vectors("rmsnorm.json");
    for case in cases(&v) {
        let residual: Vec<i32> = list(&case["residual"]);
        let norm = Norm {
            g: list(&case["weights"]),
            exponent: number(&v["weights_exponent"]) as i32,
        };
        let mut out = vec![0; residual.len()];
        let fraction = ops::rms_norm(&residual, &norm, number(&v["epsilon_q32"]) as u64, &mut out);
        assert_eq!(out, list::<i64>(&case["output"]));
        assert_eq!(i64::from(fraction), number(&case["fraction"]));
    }
}

#[test]
fn softmax_and_swiglu_agree() {
    let v = vectors("softmax.json");
    for case in cases(&v) {
        let sums: Vec<i64> = list(&case["scores"]);
        let n = sums.len();
        let (mut scores, mut weights) = (vec![0; n], vec![0; n]);
        // Scores that are already Q16 pass the rounding unchanged.
        ops::softmax_weights(&sums, -16, &vec![0; n], &mut scores, &mut weights);
        assert_eq!(weights, list::<u32>(&case["weights"]));
    }
    for case in v["sigmoid"].as_array().expect("cases") {
        let x = number(&case["x"]) as i32;
        assert_eq!(i64::from(Tables::get().sigmoid(x)), number(&case["q31"]));
    }
    let (gate, up): (Vec<i32>, Vec<i32>) = (list(&v["swiglu"]["gate"]), list(&v["swiglu"]["up"]));
    let mut out = vec![0; gate.len()];
    ops::swiglu(&gate, &up, &mut out);
    assert_eq!(out, list::<i64>(&v["swiglu"]["output"]));
}

#[test]
fn rotation_and_frequencies_agree() {
    let v = vectors("rope.json");
    for case in cases(&v) {
        let expected: Vec<u64> = case["frequencies_q64"]
            .as_array()
            .expect("a list")
            .iter()
            .map(unsigned)
            .collect();
        let rotary = Rotary {
            base_q16: (number(&case["base"]) as u64) << 16,
            scaling: RotaryScaling::None,
        };
        let made = rotary.frequencies(2 * expected.len()).expect("valid");
        assert_eq!(made, expected);
        let mut rotation = vec![];
        ops::rotation(&made, number(&case["position"]) as usize, &mut rotation);
        let mut head: Vec<i32> = list(&case["head"]);
        ops::rotate(&mut head, &rotation);
        assert_eq!(head, list::<i32>(&case["output"]));
    }
    for (width, factor) in v["query_factors"].as_object().expect("factors") {
        let width = width.parse().expect("a width");
        assert_eq!(ops::query_factor(width), number(factor));
    }
}

#[test]
fn the_sampler_agrees() {
    let v = vectors("sampler.json");
    let logits: Vec<i32> = list(&v["logits"]);
    for case in cases(&v) {
        let parameters = SamplingParameters {
            temperature: Q16(number(&case["temperature"]) as u32),
            min_p: Q16(number(&case["min_p"]) as u32),
            seed: unsigned(&case["seed"]),
            max_output_tokens: 1,
            stop: vec![],
        };
        let token = sample(&logits, &parameters, number(&case["position"]) as u32);
        assert_eq!(i64::from(token), number(&case["token"]), "{case}");
    }
    for case in v["noise"].as_array().expect("cases") {
        let (position, token) = (
            number(&case["position"]) as u32,
            number(&case["token"]) as u32,
        );
        assert_eq!(
            i64::from(noise(unsigned(&case["seed"]), position, token)),
            number(&case["q16"])
        );
    }
    for case in v["gumbel"].as_array().expect("cases") {
        let bits = number(&case["bits"]) as u32;
        assert_eq!(
            i64::from(Tables::get().gumbel_noise(bits)),
            number(&case["q16"])
        );
    }
}

/// The reproducible integers of the second implementation.
fn numbers(count: usize, low: i64, high: i64, stream: u32) -> Vec<i64> {
    (0..count.div_ceil(4) as u32)
        .flat_map(|i| philox4x32([i, stream, 0, 0], [1, 2]))
        .take(count)
        .map(|w| low + ((i64::from(w) * (high - low + 1)) >> 32))
        .collect()
}

/// The model of the second implementation.
fn whole_model(v: &Value) -> Toy {
    let size = |key: &str| number(&v["shape"][key]) as usize;
    let shape = Shape {
        width: size("width"),
        layers: size("layers"),
        heads: size("heads"),
        kv_heads: size("kv_heads"),
        head: size("head"),
        ffn: size("ffn"),
        context: size("context"),
        tied: false,
    };
    let mut tensors = BTreeMap::new();
    for (stream, entry) in
        (number(&v["first_stream"]) as u32..).zip(v["tensors"].as_array().expect("tensors"))
    {
        let (rows, columns) = (number(&entry[1]) as usize, number(&entry[2]) as usize);
        let offset = if rows == 1 { 1.0 } else { 0.0 };
        let values = numbers(rows * columns, -512, 511, stream);
        let values = values.iter().map(|x| *x as f32 / 1024.0 + offset).collect();
        tensors.insert(
            entry[0].as_str().expect("a name").to_owned(),
            (rows, columns, values),
        );
    }
    Toy {
        tensors,
        ..Toy::new(shape, 1)
    }
}

#[test]
fn a_whole_model_gives_the_logits_of_the_second_implementation() {
    let v = vectors("model.json");
    let toy = whole_model(&v);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = GgufWriter::new(&toy, Storage::F32).write(folder.path(), "toy.gguf");
    let root = Model::open(file).expect("valid").root();
    assert_eq!(
        hex::encode(root.0),
        v["gguf_root"].as_str().expect("a root")
    );
    for storage in [Storage::F32, Storage::F16] {
        let model =
            Arc::new(Model::open(write_folder(&toy, folder.path(), storage)).expect("valid"));
        let mut session = Session::new(&model);
        let greedy: Vec<i64> = list(&v["greedy"]);
        for (i, (token, first)) in list::<u32>(&v["tokens"])
            .into_iter()
            .zip(greedy)
            .enumerate()
        {
            let logits = session.step(token).expect("fits");
            if let Some(expected) = v["logits"].get(i.to_string()) {
                assert_eq!(logits, list::<i32>(expected), "position {i}");
            }
            assert_eq!(i64::from(stoa_engine::sampler::greedy(logits)), first);
        }
    }
}

#[test]
fn vectors_of_texts_are_those_of_the_second_implementation_in_every_kernel() {
    let v = vectors("pooling.json");
    for case in v["sums"].as_array().expect("sums") {
        let sums = case["sums"].as_array().expect("a list").iter();
        let sums: Vec<i128> = sums
            .map(|s| s.as_str().expect("a text").parse().expect("an integer"))
            .collect();
        assert_eq!(
            text_vector(&sums).elements(),
            list::<i32>(&case["q24"]),
            "{case}"
        );
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let toy = whole_model(&vectors("model.json"));
    let file = GgufWriter::new(&toy, Storage::F32).write(folder.path(), "toy.gguf");
    let tokens: Vec<u32> = list(&v["tokens"]);
    for kernel in Kernel::available() {
        let options = LoadOptions {
            kernel: Some(kernel),
            ..LoadOptions::default()
        };
        let model = Arc::new(Model::open_with(&file, options).expect("valid"));
        let mut session = Session::new(&model);
        for case in cases(&v) {
            let taken = &tokens[..number(&case["length"]) as usize];
            let dimensions = number(&case["dimensions"]) as usize;
            let vector = session.text_vector(taken, dimensions, &AtomicBool::new(false));
            let vector = vector.expect("fits").expect("not cancelled");
            assert_eq!(vector.elements(), list::<i32>(&case["q24"]), "{case}");
            let floats = case["floats_le"].as_str().expect("bytes");
            assert_eq!(hex::encode(vector.to_le_bytes()), floats);
        }
    }
}
