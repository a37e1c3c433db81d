//! Golden vectors of `docs/iq8.md`, made by a second implementation (`vectors/iq8/reference.py`).

mod support;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use stoa_engine::TokenSet;
use stoa_engine::experts::{Chosen, add_weighted, finish_mixture, route};
use stoa_engine::logprob::{Normaliser, likeliest};
use stoa_engine::norms::{layer_norm, norm_in_place};
use stoa_engine::ops::{self, Norm};
use stoa_engine::packed::PackedMatrix;
use stoa_engine::quant::{ACTIVATION_BITS, BLOCK, Quantised};
use stoa_engine::sampler::{adjust, noise, philox4x32, sample, sample_within};
use stoa_engine::tables::Tables;
use stoa_engine::trace::{Job, ModelTree, Opening, OpeningError, OpeningFile, Replay, Verdict};
use stoa_engine::{
    Entry, Experts, Kernel, LoadOptions, Model, Rotary, RotaryScaling, Runner, Sequence, Session,
    Threads, Wanted, text_vector,
};
use stoa_types::{Q16, SamplingParameters, SignedQ16};
use support::{Family, GgufWriter, Mixture, Scaling, Shape, Storage, Toy, write_folder};

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
        ops::scores(&sums, -16, &vec![0; n], &mut scores);
        ops::softmax_weights(&scores, &mut weights);
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
            ..SamplingParameters::default()
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

#[test]
fn the_choice_among_the_tokens_of_a_grammar_agrees() {
    let v = vectors("sampler.json");
    let logits: Vec<i32> = list(&v["logits"]);
    let cases = v["held"].as_array().expect("cases");
    assert_eq!(cases.len(), 45);
    for case in cases {
        let parameters = SamplingParameters {
            temperature: Q16(number(&case["temperature"]) as u32),
            min_p: Q16(number(&case["min_p"]) as u32),
            seed: unsigned(&case["seed"]),
            ..SamplingParameters::default()
        };
        // One token of a grammar may be unknown to the model.
        let mut allowed = TokenSet::none(64);
        let ids: Vec<u32> = list(&case["allowed"]);
        ids.into_iter().for_each(|id| allowed.insert(id));
        let position = number(&case["position"]) as u32;
        let token = sample_within(&logits, &allowed, &parameters, position).expect("one is known");
        assert_eq!(i64::from(token), number(&case["token"]), "{case}");
    }
}

#[test]
fn log_probabilities_agree() {
    let v = vectors("sampler.json");
    let cases = v["likely"].as_array().expect("cases");
    assert_eq!(cases.len(), 7);
    for case in cases {
        let logits: Vec<i32> = list(&case["logits"]);
        let normaliser = Normaliser::of(&logits);
        let found = logits.iter().map(|logit| normaliser.logprob(*logit));
        let expected: Vec<i32> = list(&case["logprobs"]);
        assert_eq!(found.take(expected.len()).collect::<Vec<_>>(), expected);
        assert_eq!(likeliest(&logits, 20), list::<u32>(&case["top"]));
    }
}

#[test]
fn bias_and_penalties_agree() {
    let v = vectors("sampler.json");
    let logits: Vec<i32> = list(&v["logits"]);
    let cases = v["adjusted"].as_array().expect("cases");
    assert!(cases.len() > 20);
    for case in cases {
        let signed = |value: &Value| SignedQ16(number(value) as i32);
        let bias = case["bias"].as_object().expect("a map").iter();
        let logit_bias = bias.map(|(id, bias)| (id.parse().expect("an id"), signed(bias)));
        let mut parameters = SamplingParameters {
            seed: unsigned(&case["seed"]),
            logit_bias: logit_bias.collect(),
            presence_penalty: signed(&case["presence"]),
            frequency_penalty: signed(&case["frequency"]),
            ..SamplingParameters::default()
        };
        let mut counts = BTreeMap::new();
        for token in list::<u32>(&case["answer"]) {
            *counts.entry(token).or_default() += 1;
        }
        let mut adjusted = logits.clone();
        adjust(&mut adjusted, &parameters, &counts);
        assert_eq!(adjusted, list::<i32>(&case["logits"]), "{case}");
        let position = number(&case["position"]) as u32;
        let greedy = sample(&adjusted, &parameters, position);
        assert_eq!(i64::from(greedy), number(&case["greedy"]));
        (parameters.temperature, parameters.min_p) = (Q16::ONE, Q16(655));
        let drawn = sample(&adjusted, &parameters, position);
        assert_eq!(i64::from(drawn), number(&case["drawn"]));
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

/// The architecture that a shape of the second implementation names.
fn family(shape: &Value) -> Family {
    match shape["family"].as_str() {
        None | Some("llama") => Family::Llama,
        Some("mistral") => Family::Mistral,
        Some("qwen2") => Family::Qwen2,
        Some("qwen3") => Family::Qwen3,
        Some("mixtral") => Family::Mixtral,
        Some("qwen2moe") => Family::Qwen2Moe,
        Some("qwen3moe") => Family::Qwen3Moe,
        Some("bert") => Family::Bert,
        Some(other) => panic!("{other} has no writer"),
    }
}

/// A model of the second implementation.
fn whole_model(v: &Value) -> Toy {
    let size = |key: &str| number(&v["shape"][key]) as usize;
    let experts = &v["shape"]["experts"];
    let of_experts = |key: &str| number(&experts[key]) as usize;
    let scaling = &v["shape"]["rope_scaling"];
    let shape = Shape {
        width: size("width"),
        layers: size("layers"),
        heads: size("heads"),
        kv_heads: size("kv_heads"),
        head: size("head"),
        ffn: size("ffn"),
        context: size("context"),
        tied: v["shape"]["tied"] == true,
        family: family(&v["shape"]),
        window: v["shape"]["windows"].get(0).map_or(0, number) as usize,
        experts: experts.is_object().then(|| Mixture {
            count: of_experts("count"),
            chosen: of_experts("chosen"),
            ffn: of_experts("width"),
            shared: of_experts("shared"),
            renormalise: experts["renormalise"] == true,
        }),
        scaling: scaling.is_object().then(|| Scaling {
            kind: if scaling["type"] == "yarn" {
                "yarn"
            } else {
                "linear"
            },
            factor: number(&scaling["factor"]) as f32,
            original: number(&scaling["original"]) as usize,
        }),
    };
    let mut tensors = BTreeMap::new();
    for (stream, entry) in
        (number(&v["first_stream"]) as u32..).zip(v["tensors"].as_array().expect("tensors"))
    {
        let (rows, columns) = (number(&entry[1]) as usize, number(&entry[2]) as usize);
        let name = entry[0].as_str().expect("a name");
        let norm = name.to_lowercase().ends_with("norm.weight");
        let offset = if norm { 1.0 } else { 0.0 };
        let values = numbers(rows * columns, -512, 511, stream);
        let values = values.iter().map(|x| *x as f32 / 1024.0 + offset).collect();
        tensors.insert(name.to_owned(), (rows, columns, values));
    }
    let made = match shape.family {
        Family::Bert => Toy::encoder(shape, 1),
        _ => Toy::new(shape, 1),
    };
    Toy { tensors, ..made }
}

#[test]
fn vectors_of_texts_of_an_encoder_are_those_of_the_second_implementation() {
    for case in cases(&vectors("encoder.json")) {
        let (toy, folder) = (whole_model(case), tempfile::tempdir().expect("a folder"));
        let path = write_folder(&toy, folder.path(), Storage::F32);
        if case["shape"]["encoder"]["pooling"] == 2 {
            support::pool_first_token(&path);
        }
        for kernel in Kernel::available() {
            let options = LoadOptions {
                kernel: Some(kernel),
                ..LoadOptions::default()
            };
            let model = Model::open_with(&path, options).expect("valid");
            let mut session = Session::new(&Arc::new(model));
            let tokens: Vec<u32> = list(&case["tokens"]);
            for text in case["texts"].as_array().expect("texts") {
                let taken = &tokens[..number(&text["length"]) as usize];
                let dimensions = number(&text["dimensions"]) as usize;
                let vector = session.text_vector(taken, dimensions, &AtomicBool::new(false));
                let vector = vector.expect("fits").expect("not cancelled");
                assert_eq!(vector.elements(), list::<i32>(&text["q24"]));
            }
        }
    }
}

#[test]
fn whole_models_of_every_architecture_give_the_logits_of_the_second_implementation() {
    for case in cases(&vectors("architectures.json")) {
        let (toy, folder) = (whole_model(case), tempfile::tempdir().expect("a folder"));
        let file = GgufWriter::new(&toy, Storage::F32).write(folder.path(), "toy.gguf");
        let root = Model::open(&file).expect("valid").root();
        let expected = case["gguf_root"].as_str().expect("a root");
        assert_eq!(hex::encode(root.0), expected, "{}", case["shape"]);
        let path = write_folder(&toy, folder.path(), Storage::F32);
        for (path, kernel) in Kernel::available()
            .into_iter()
            .flat_map(|kernel| [(&file, kernel), (&path, kernel)])
        {
            let options = LoadOptions {
                kernel: Some(kernel),
                ..LoadOptions::default()
            };
            let mut session =
                Session::new(&Arc::new(Model::open_with(path, options).expect("valid")));
            let greedy: Vec<i64> = list(&case["greedy"]);
            for (token, first) in list::<u32>(&case["tokens"]).into_iter().zip(greedy) {
                let logits = session.step(token).expect("fits");
                let choice = stoa_engine::sampler::greedy(logits);
                assert_eq!(i64::from(choice), first, "{}", case["shape"]);
            }
            let expected: Vec<i32> = list(&case["logits"]);
            assert_eq!(session.logits(), expected, "{}", case["shape"]);
        }
    }
}

#[test]
fn ten_thousand_states_are_those_of_the_second_implementation_alone_and_together() {
    let (llama, others) = (vectors("model.json"), vectors("architectures.json"));
    let (mut states, mut models) = (0, 0);
    for case in cases(&vectors("states.json")) {
        let made = match usize::try_from(number(&case["model"])) {
            Ok(other) => &cases(&others)[other],
            Err(_) => &llama,
        };
        let (toy, folder) = (whole_model(made), tempfile::tempdir().expect("a folder"));
        let file = GgufWriter::new(&toy, Storage::F32).write(folder.path(), "toy.gguf");
        let texts = texts_of(case);
        let expected: Vec<&str> = texts_hashes(case);
        assert_eq!(texts.len(), expected.len());
        for kernel in Kernel::available() {
            let options = LoadOptions {
                kernel: Some(kernel),
                ..LoadOptions::default()
            };
            let model = Arc::new(Model::open_with(&file, options).expect("valid"));
            let mut runner = Runner::new(&model, Threads::one());
            // Token by token alone, four at once in parts, and all at once as prompts come.
            for (batch, part) in [(1, 1), (4, 7), (18, 64)] {
                let found = hashes_of_states(&mut runner, &texts, batch, part);
                let name = kernel.name();
                assert_eq!(found, expected, "{name} {batch} {part} {}", made["shape"]);
            }
        }
        models += 1;
        states += texts.iter().map(Vec::len).sum::<usize>();
    }
    assert!(states >= 10_000 && models >= 9, "{states} of {models}");
}

/// The texts of a case of states.json.
fn texts_of(case: &Value) -> Vec<Vec<u32>> {
    let (length, first) = (
        number(&case["length"]) as usize,
        number(&case["first_stream"]) as u32,
    );
    let streams = first..first + texts_hashes(case).len() as u32;
    let tokens = |stream| {
        numbers(length, 0, 261, stream)
            .into_iter()
            .map(|t| t as u32)
    };
    streams.map(|stream| tokens(stream).collect()).collect()
}

fn texts_hashes(case: &Value) -> Vec<&str> {
    let hashes = case["sha256"].as_array().expect("hashes");
    hashes.iter().map(|h| h.as_str().expect("text")).collect()
}

/// For each text the hash of the logits after all its tokens, `batch` texts in a pass and `part` tokens of each.
fn hashes_of_states(
    runner: &mut Runner,
    texts: &[Vec<u32>],
    batch: usize,
    part: usize,
) -> Vec<String> {
    let model = Arc::clone(runner.model());
    let mut hashes = Vec::new();
    for texts in texts.chunks(batch) {
        let mut sequences = vec![Sequence::new(model.config()); texts.len()];
        let mut hashers = vec![Sha256::new(); texts.len()];
        for from in (0..texts[0].len()).step_by(part) {
            let mut logits = vec![Vec::new(); texts.len()];
            let mut entries = Vec::new();
            for ((sequence, text), logits) in sequences.iter_mut().zip(texts).zip(&mut logits) {
                entries.push(Entry {
                    sequence,
                    tokens: &text[from..(from + part).min(text.len())],
                    wanted: Wanted::Each(logits),
                });
            }
            runner.run(&mut entries).expect("fits");
            for (hasher, logits) in hashers.iter_mut().zip(&logits) {
                let bytes = logits.iter().flat_map(|l| l.to_be_bytes());
                hasher.update(bytes.collect::<Vec<u8>>());
            }
        }
        hashes.extend(hashers.into_iter().map(|h| hex::encode(h.finalize())));
    }
    hashes
}

#[test]
fn norms_gelu_and_experts_agree() {
    let v = vectors("operators.json");
    let epsilon = number(&v["epsilon_q32"]) as u64;
    for case in v["norms"].as_array().expect("cases") {
        let norm = Norm {
            g: list(&case["weights"]),
            exponent: number(&v["weights_exponent"]) as i32,
        };
        let (mut head, mut wide) = (list::<i32>(&case["values"]), vec![0; norm.g.len()]);
        let mut layer = head.clone();
        norm_in_place(&mut head, &norm, epsilon, &mut wide);
        assert_eq!(head, list::<i32>(&case["head_norm"]));
        let bias: Vec<i32> = list(&case["bias"]);
        layer_norm(&mut layer, &norm, &bias, epsilon, &mut wide);
        assert_eq!(layer, list::<i32>(&case["layer_norm"]));
    }
    let x: Vec<i32> = list(&v["gelu"]["x"]);
    let mut h = vec![0; x.len()];
    ops::gelu(&x, &mut h);
    assert_eq!(h, list::<i64>(&v["gelu"]["h"]));
    for case in v["experts"].as_array().expect("cases") {
        let logits: Vec<i32> = list(&case["logits"]);
        let experts = Experts {
            count: logits.len(),
            chosen: number(&case["chosen"]) as usize,
            width: 32,
            shared: 0,
            renormalise: case["renormalise"] == true,
        };
        let mut chosen = Chosen::default();
        chosen.choose(&logits, &experts);
        let weights = chosen
            .experts
            .iter()
            .map(|(e, w)| serde_json::json!([e, w]));
        assert_eq!(weights.collect::<Value>(), case["weights"]);
        assert_eq!(chosen.total as i64, number(&case["total"]));
        let (mut sums, mut mixed) = (vec![0; 32], vec![0; 32]);
        for (stream, (_, weight)) in (number(&case["first_output"]) as u32..).zip(&chosen.experts) {
            let (low, high) = (-(1 << 30), (1 << 30) - 1);
            let output = numbers(32, low, high, stream);
            let output: Vec<i32> = output.into_iter().map(|y| y as i32).collect();
            add_weighted(&output, *weight, &mut sums);
        }
        finish_mixture(&sums, chosen.total, &mut mixed);
        assert_eq!(mixed, list::<i32>(&case["mixed"]));
    }
    let n: Vec<i32> = list(&v["router"]["n"]);
    let rows = v["router"]["rows"].as_array().expect("rows");
    for (row, logit) in rows.iter().zip(list::<i32>(&v["router"]["logits"])) {
        let row = Norm {
            g: list(row),
            exponent: number(&v["router"]["exponent"]) as i32,
        };
        assert_eq!(route(&row, &n), logit);
    }
}

#[test]
fn frequencies_and_gain_of_yarn_agree() {
    for case in vectors("operators.json")["yarn"].as_array().expect("cases") {
        let maybe = |key: &str| case.get(key).map(|n| number(n) as u64);
        let rotary = Rotary {
            base_q16: (number(&case["base"]) as u64) << 16,
            scaling: RotaryScaling::Yarn {
                factor: (number(&case["factor"]) as u64) << 16,
                fast: maybe("fast").unwrap_or(32) << 16,
                slow: maybe("slow").unwrap_or(1) << 16,
                original_context: number(&case["original"]) as u64,
                gain: maybe("gain"),
            },
        };
        let made = rotary.frequencies(number(&case["head"]) as usize);
        let expected = case["frequencies_q64"].as_array().expect("a list");
        let expected: Vec<u64> = expected.iter().map(unsigned).collect();
        assert_eq!(made.expect("valid"), expected);
        assert_eq!(rotary.gain_q16() as i64, number(&case["gain_q16"]));
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

#[test]
fn traces_of_every_architecture_are_those_of_the_second_implementation() {
    for case in cases(&vectors("trace.json")) {
        let (toy, folder) = (whole_model(case), tempfile::tempdir().expect("a folder"));
        let path = write_folder(&toy, folder.path(), Storage::F32);
        let model = Arc::new(Model::open(path).expect("valid"));
        let p = &case["parameters"];
        let bias = p["logit_bias"].as_object().expect("an object").iter();
        let bias = bias.map(|(id, b)| (id.parse().expect("an id"), SignedQ16(number(b) as i32)));
        let job = Job {
            prompt: list(&case["prompt"]),
            answer: list(&case["answer"]),
            parameters: SamplingParameters {
                temperature: Q16(number(&p["temperature"]) as u32),
                min_p: Q16(number(&p["min_p"]) as u32),
                seed: unsigned(&p["seed"]),
                logit_bias: bias.collect(),
                presence_penalty: SignedQ16(number(&p["presence_penalty"]) as i32),
                frequency_penalty: SignedQ16(number(&p["frequency_penalty"]) as i32),
                ..SamplingParameters::default()
            },
        };
        let steps = job.steps();
        let replay = Replay::new(&model, job, Threads::one()).expect("a job");
        let hex_of = |roots: Vec<stoa_types::Digest>| -> Vec<String> {
            roots.iter().map(|root| hex::encode(root.0)).collect()
        };
        let listed = |name: &str| -> Vec<String> {
            let all = case[name].as_array().expect("a list").iter();
            all.map(|v| v.as_str().expect("digits").to_owned())
                .collect()
        };
        assert_eq!(
            hex_of(replay.state_roots()),
            listed("state_roots"),
            "{}",
            case["shape"]
        );
        assert_eq!(
            hex_of(vec![replay.root()]),
            [case["trace_root"].as_str().expect("a root")]
        );
        let made: Vec<_> = (0..steps)
            .map(|p| replay.step(p).expect("a step"))
            .collect();
        let roots = made.iter().map(|step| step.claim.root()).collect();
        let last = made.last().expect("steps");
        let expected = case["operators"].as_array().expect("a list");
        for (i, (operator, expected)) in last.program.operators.iter().zip(expected).enumerate() {
            let own = [operator.name.clone(), hex::encode(last.outputs[i].root().0)];
            assert_eq!(json!(own), *expected, "{} {i}", case["shape"]);
        }
        assert_eq!(last.program.operators.len(), expected.len());
        assert_eq!(hex_of(roots), listed("token_roots"));
    }
}

#[test]
fn an_opening_of_a_product_is_that_of_the_second_implementation_and_is_judged_alike() {
    let (golden, traces) = (vectors("opening.json"), vectors("trace.json"));
    let toy = whole_model(&cases(&traces)[0]);
    let folder = tempfile::tempdir().expect("a folder");
    let file = GgufWriter::new(&toy, Storage::F32).write(folder.path(), "toy.gguf");
    let model = Arc::new(Model::open(file).expect("valid"));
    let job = Job {
        prompt: list(&golden["prompt"]),
        answer: list(&golden["answer"]),
        parameters: SamplingParameters::default(),
    };
    let last = job.steps() - 1;
    let replay = Replay::new(&model, job.clone(), Threads::one()).expect("a job");
    let (weights, step) = (ModelTree::new(&model), replay.step(last).expect("a step"));
    let opening: Opening = serde_json::from_value(golden["opening"].clone()).expect("an opening");
    let made = replay.open(&weights, &step, opening.subject);
    let made = serde_json::to_value(made.expect("it is opened")).expect("JSON");
    assert_eq!(made, golden["opening"]);
    let digest = |value: &Value| serde_json::from_value(value.clone()).expect("a digest");
    let (config, config_proof, tied) = weights.shape();
    assert_eq!(
        json!([config_proof, tied]),
        json!([golden["config_proof"], golden["tied"]])
    );
    let mut file = OpeningFile {
        model_root: digest(&golden["model_root"]),
        config,
        config_proof,
        tied,
        job,
        token_root: digest(&golden["token_root"]),
        opening,
    };
    assert_eq!(file.judge().expect("judged"), Verdict::Holds);
    for output in 0..file.opening.outputs.len() {
        let leaf = |file: &mut OpeningFile| file.opening.outputs[output].runs[0].leaves[0][7] ^= 1;
        leaf(&mut file);
        let forged = matches!(file.judge(), Err(OpeningError::NotUnderRoot("an output")));
        assert!(forged, "output {output}");
        leaf(&mut file);
    }
    file.opening.tensors[0].bytes[9] ^= 1;
    assert!(matches!(
        file.judge(),
        Err(OpeningError::NotUnderRoot("the model"))
    ));
}
