//! Damaged and hostile model files: each gives an error that names what is wrong.

mod support;

use std::path::Path;
use stoa_engine::{ImportError, Model};
use support::{Family, GgufWriter, Shape, Storage, Toy, write_folder};

fn writer() -> GgufWriter {
    GgufWriter::new(&Toy::new(Shape::small(), 1), Storage::Q8_0)
}

/// Spoils a file.
type Change = fn(&mut GgufWriter);

fn refused(bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("bad.gguf");
    std::fs::write(&path, bytes).expect("writable");
    Model::open(path)
        .expect_err("a bad file is refused")
        .to_string()
}

fn assert_names(message: &str, words: &[&str]) {
    for word in words {
        assert!(message.contains(word), "{message:?} does not name {word:?}");
    }
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let whole = writer().bytes();
    for cut in (0..whole.len())
        .step_by(whole.len() / 300)
        .chain([whole.len() - 33])
    {
        let message = refused(&whole[..cut]);
        assert!(
            message.contains("cut short") || message.contains("beyond the end of the file"),
            "cut at {cut}: {message}"
        );
    }
}

#[test]
fn other_files_and_versions_are_named() {
    assert_names(
        &refused(b"PK\x03\x04 and so on, a long file of another kind"),
        &["GGUF"],
    );
    let mut old = writer().bytes();
    old[4] = 2;
    assert_names(&refused(&old), &["version 2"]);
    let missing = Model::open(Path::new("/no/such/model.gguf")).expect_err("absent");
    assert!(
        matches!(missing, ImportError::Read { .. })
            && missing.to_string().contains("/no/such/model.gguf")
    );
}

#[test]
fn hostile_counts_and_lengths_take_no_memory() {
    let whole = writer().bytes();
    for (at, word) in [(8, "the tensor table"), (16, "the metadata")] {
        let mut bytes = whole.clone();
        bytes[at..at + 8].copy_from_slice(&(u64::MAX / 2).to_le_bytes());
        assert_names(&refused(&bytes), &["cut short", word]);
    }
    let mut key = whole.clone();
    key[24..32].copy_from_slice(&(1u64 << 60).to_le_bytes());
    assert_names(&refused(&key), &["cut short", "a metadata key"]);
    let mut list = writer();
    let body = [
        8u32.to_le_bytes().to_vec(),
        (1u64 << 50).to_le_bytes().to_vec(),
    ]
    .concat();
    list.values.push((
        "hostile.list".into(),
        [9u32.to_le_bytes().to_vec(), body].concat(),
    ));
    assert_names(&refused(&list.bytes()), &["cut short", "hostile.list"]);
}

#[test]
fn a_tensor_beyond_the_file_or_of_impossible_size_is_named() {
    let mut large = writer();
    large.tensors[0].1[1] = 1 << 40;
    assert_names(
        &refused(&large.bytes()),
        &[&large.tensors[0].0, "beyond the end of the file"],
    );
    let mut overflow = writer();
    overflow.tensors[0].1 = vec![u64::MAX, u64::MAX];
    assert_names(
        &refused(&overflow.bytes()),
        &[&overflow.tensors[0].0, "impossible shape"],
    );
}

#[test]
fn unsupported_storage_is_named_with_what_to_do() {
    let mut file = writer();
    file.tensors[3].2 = 10;
    assert_names(
        &refused(&file.bytes()),
        &[&file.tensors[3].0, "Q2_K", "Q4_K", "convert", "Q8_0"],
    );
    // Rows of 96 do not fill blocks of 256.
    file.tensors[3].2 = 12;
    assert_names(
        &refused(&file.bytes()),
        &[&file.tensors[3].0, "impossible shape"],
    );
}

#[test]
fn missing_strange_and_misshapen_tensors_are_named() {
    let mut missing = writer();
    missing.tensors.retain(|t| t.0 != "blk.1.ffn_up.weight");
    assert_names(&refused(&missing.bytes()), &["Layer(1, Up)", "absent"]);
    let mut strange = writer();
    strange
        .tensors
        .push(("blk.0.attn_q.bias".into(), vec![32], 0, vec![0; 128]));
    assert_names(&refused(&strange.bytes()), &["blk.0.attn_q.bias"]);
    let mut beyond = writer();
    beyond
        .tensors
        .push(("blk.2.attn_norm.weight".into(), vec![96], 0, vec![0; 384]));
    assert_names(
        &refused(&beyond.bytes()),
        &["blk.2.attn_norm.weight", "layer 2"],
    );
    let mut shape = writer();
    let norm = shape
        .tensors
        .iter_mut()
        .find(|t| t.0 == "output_norm.weight")
        .expect("there");
    norm.1 = vec![64];
    assert_names(&refused(&shape.bytes()), &["output_norm.weight", "96"]);
}

#[test]
fn weights_that_are_not_numbers_are_named() {
    let mut file = writer();
    let norm = file
        .tensors
        .iter_mut()
        .find(|t| t.0 == "blk.0.ffn_norm.weight")
        .expect("there");
    norm.3[8..12].copy_from_slice(&f32::INFINITY.to_le_bytes());
    assert_names(
        &refused(&file.bytes()),
        &["blk.0.ffn_norm.weight", "element 2"],
    );
}

#[test]
fn descriptions_that_this_engine_does_not_cover_are_refused_by_key() {
    let cases: [(&str, Change); 12] = [
        ("general.architecture", |w| {
            w.text("general.architecture", "rwkv")
        }),
        ("llama.attn_logit_softcapping", |w| {
            w.float("llama.attn_logit_softcapping", 30.0)
        }),
        ("llama.rope.scaling.type", |w| {
            w.text("llama.rope.scaling.type", "longrope")
        }),
        ("llama.rope.dimension_count", |w| {
            w.number("llama.rope.dimension_count", 32)
        }),
        ("llama.expert_used_count", |w| {
            w.number("llama.expert_count", 4)
        }),
        ("tokenizer.ggml.model", |w| {
            w.text("tokenizer.ggml.model", "t5")
        }),
        ("tokenizer.ggml.pre", |w| {
            w.text("tokenizer.ggml.pre", "martian")
        }),
        ("llama.block_count", |w| w.text("llama.block_count", "two")),
        ("width", |w| w.number("llama.embedding_length", 90)),
        ("heads", |w| w.number("llama.attention.head_count_kv", 3)),
        ("layer_norm_rms_epsilon", |w| {
            w.float("llama.attention.layer_norm_rms_epsilon", f32::NAN)
        }),
        ("chat template", |w| {
            w.text("tokenizer.chat_template", "{% for %}")
        }),
    ];
    for (word, change) in cases {
        let mut file = writer();
        change(&mut file);
        assert_names(&refused(&file.bytes()), &[word]);
    }
}

#[test]
fn letters_for_bytes_without_a_rule_for_splitting_are_refused_and_told_what_to_do() {
    // As in conversions of Llama 3 from before the key: another rule than the model's would give other tokens and no error.
    let mut absent = writer();
    absent.values.retain(|(k, _)| k != "tokenizer.ggml.pre");
    let mut unknown = writer();
    unknown.text("tokenizer.ggml.pre", "default");
    for file in [absent, unknown] {
        let words = ["tokenizer.ggml.pre", "absent", "convert the model again"];
        assert_names(&refused(&file.bytes()), &words);
    }
}

#[test]
fn decoders_trained_to_make_other_vectors_are_refused_by_key_with_the_reason() {
    let cases: [(&[&str], Change); 4] = [
        (&["llama.pooling_type", "3 (the last token)"], |w| {
            w.number("llama.pooling_type", 3)
        }),
        (&["llama.pooling_type", "2 (the first token)"], |w| {
            w.number("llama.pooling_type", 2)
        }),
        (&["llama.pooling_type", "4 (a ranking)"], |w| {
            w.number("llama.pooling_type", 4)
        }),
        (&["llama.attention.causal", "not true"], |w| {
            w.flag("llama.attention.causal", false)
        }),
    ];
    for (words, change) in cases {
        let mut file = writer();
        change(&mut file);
        assert_names(&refused(&file.bytes()), words);
    }
    // What decoders do here may be said.
    let folder = tempfile::tempdir().expect("a temporary folder");
    for pooling in [0, 1] {
        let mut file = writer();
        file.number("llama.pooling_type", pooling);
        file.flag("llama.attention.causal", true);
        assert!(Model::open(file.write(folder.path(), "mean.gguf")).is_ok());
    }
    let toy = Toy::new(Shape::small(), 1);
    let path = write_folder(&toy, folder.path(), Storage::F16);
    std::fs::create_dir(path.join("1_Pooling")).expect("writable");
    let say = |mode: &str| {
        let said = format!(r#"{{"word_embedding_dimension":64,"{mode}":true}}"#);
        std::fs::write(path.join("1_Pooling/config.json"), said).expect("writable");
        Model::open(&path).map(|_| ()).map_err(|e| e.to_string())
    };
    assert_eq!(say("pooling_mode_mean_tokens"), Ok(()));
    for mode in ["pooling_mode_lasttoken", "pooling_mode_cls_token"] {
        let error = say(mode).expect_err("refused");
        assert_names(&error, &["1_Pooling/config.json", "the mean"]);
    }
}

#[test]
fn encoders_that_are_not_as_bert_are_refused_by_name_with_the_reason() {
    let whole = || GgufWriter::new(&Toy::encoder(Shape::of(Family::Bert), 1), Storage::F16);
    let cases: [(&[&str], Change); 16] = [
        (&["nomic-bert", "rotary positions"], |w| {
            w.text("general.architecture", "nomic-bert")
        }),
        (&["jina-bert-v2", "ALiBi"], |w| {
            w.text("general.architecture", "jina-bert-v2")
        }),
        (&["modern-bert", "windows"], |w| {
            w.text("general.architecture", "modern-bert")
        }),
        (&["tokenizer.ggml.model", "gpt2", "RoBERTa"], |w| {
            w.text("tokenizer.ggml.model", "gpt2")
        }),
        (&["tokenizer.ggml.model", "t5", "XLM-RoBERTa"], |w| {
            w.text("tokenizer.ggml.model", "t5")
        }),
        (&["bert.pooling_type", "0 (none)"], |w| {
            w.number("bert.pooling_type", 0)
        }),
        (&["bert.pooling_type", "4 (a ranking)"], |w| {
            w.number("bert.pooling_type", 4)
        }),
        (&["bert.attention.causal"], |w| {
            w.flag("bert.attention.causal", true)
        }),
        (&["encoder", "no windows"], |w| {
            w.number("bert.attention.sliding_window", 8)
        }),
        (&["bert.classifier.output_labels"], |w| {
            w.texts("bert.classifier.output_labels", &[])
        }),
        (&["token_types.weight", "DistilBERT"], |w| {
            w.tensors.retain(|t| t.0 != "token_types.weight")
        }),
        (&["cls.weight", "no place"], |w| {
            w.tensors
                .push(("cls.weight".into(), vec![96], 0, vec![0; 384]))
        }),
        (&["blk.0.attn_qkv.weight", "no place"], |w| {
            w.tensors[9].0 = "blk.0.attn_qkv.weight".into()
        }),
        (&["unknown token", "1000", "outside the vocabulary"], |w| {
            w.number("tokenizer.ggml.unknown_token_id", 1000)
        }),
        (&["\"a\"", "twice"], |w| {
            w.texts("tokenizer.ggml.tokens", &vec!["a".to_owned(); 59])
        }),
        (&["normalizer.lowercase", "\"CT\"", "capitals"], |w| {
            let tokens = (0..59).map(|id| format!("▁{}", ["CT", "aa"][id % 2].repeat(id / 2 + 1)));
            let tokens: Vec<String> = tokens.collect();
            w.texts("tokenizer.ggml.tokens", &tokens);
            w.integers("tokenizer.ggml.token_type", &[1; 59]);
            w.number("tokenizer.ggml.bos_token_id", 1);
        }),
    ];
    for (words, change) in cases {
        let mut file = whole();
        change(&mut file);
        assert_names(&refused(&file.bytes()), words);
    }
    let mut named = whole();
    let names: Vec<String> = (0..59).map(|id| format!("▁<S{id}>")).collect();
    named.texts("tokenizer.ggml.tokens", &names);
    named.integers("tokenizer.ggml.token_type", &[1; 59]);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let opened = Model::open(named.write(folder.path(), "named.gguf"));
    assert!(opened.is_ok(), "names of tokens are no capitals of a text");
    let mut other = writer();
    other.text("tokenizer.ggml.model", "bert");
    assert_names(&refused(&other.bytes()), &["tokenizer.ggml.model", "bert"]);
}

#[test]
fn a_config_that_says_what_this_engine_does_not_cover_is_refused_by_key() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = write_folder(&Toy::new(Shape::small(), 1), folder.path(), Storage::F16);
    let file = path.join("config.json");
    let text = std::fs::read_to_string(&file).expect("written");
    for (key, value) in [
        ("model_type", "\"rwkv\""),
        ("attention_bias", "true"),
        ("partial_rotary_factor", "0.5"),
        ("final_logit_softcapping", "30.0"),
        ("hidden_act", "\"gelu\""),
        ("sliding_window", "64"),
        ("is_causal", "false"),
        ("use_bidirectional_attention", "true"),
        ("num_experts", "\"four\""),
        ("mlp_only_layers", "[0]"),
        ("rope_scaling", r#"{"rope_type":"dynamic","factor":2.0}"#),
        (
            "rope_scaling",
            r#"{"rope_type":"yarn","factor":2.0,"mscale":1.0}"#,
        ),
        ("rope_parameters", r#"{"full_attention":{}}"#),
    ] {
        let mut config: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        config[key] = serde_json::from_str(value).expect("JSON");
        std::fs::write(&file, config.to_string()).expect("writable");
        let error = Model::open(&path).expect_err("refused").to_string();
        assert_names(&error, &[key]);
    }
}

#[test]
fn vocabularies_of_pieces_that_would_lose_letters_or_order_are_refused() {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(str::to_owned).to_vec();
    tokens.extend((0..=255).map(|b| format!("<0x{b:02X}>")));
    tokens.extend(["a", "b", "ab"].map(str::to_owned));
    let scores: Vec<f32> = (0..tokens.len()).map(|id| -(id as f32)).collect();
    let of = |tokens: &[String], scores: &[f32]| {
        let mut file = writer();
        file.text("tokenizer.ggml.model", "llama");
        file.vocabulary(tokens, &vec![1; tokens.len()]);
        file.floats("tokenizer.ggml.scores", scores);
        file.bytes()
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("good.gguf");
    std::fs::write(&path, of(&tokens, &scores)).expect("writable");
    assert!(Model::open(path).is_ok());
    let short = refused(&of(&tokens, &scores[1..]));
    assert_names(&short, &["tokenizer.ggml.scores", "262", "261"]);
    let mut infinite = scores.clone();
    infinite[260] = f32::NEG_INFINITY;
    assert_names(
        &refused(&of(&tokens, &infinite)),
        &["tokenizer.ggml.scores", "infinite"],
    );
    let mut without = tokens.clone();
    without[3 + 0x41] = "A".to_owned();
    assert_names(&refused(&of(&without, &scores)), &["<0x41>", "absent"]);
    // 200 lengths of one letter can each be made of all shorter ones, and 16,000 such letters would fill the memory.
    let many: Vec<String> = ('\u{4e00}'..'\u{5e00}')
        .flat_map(|c| (1..=60).step_by(1).map(move |n| c.to_string().repeat(n)))
        .collect();
    let many: Vec<String> = tokens.iter().cloned().chain(many).collect();
    let scores = vec![0.0; many.len()];
    assert_names(&refused(&of(&many, &scores)), &["tokenizer", "more ways"]);
}

#[test]
fn damaged_safetensors_folders_are_refused_by_name() {
    let toy = Toy::new(Shape::small(), 1);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = write_folder(&toy, folder.path(), Storage::F16);
    let weights = path.join("model.safetensors");
    let whole = std::fs::read(&weights).expect("written");
    let error = || Model::open(&path).expect_err("refused").to_string();
    std::fs::write(&weights, &whole[..whole.len() - 2]).expect("writable");
    assert_names(&error(), &["tensor ", "beyond the end of the file"]);
    let mut hostile = whole.clone();
    hostile[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    std::fs::write(&weights, &hostile).expect("writable");
    assert_names(&error(), &["its header claims"]);
    let mut header = whole.clone();
    header[9] = b'!';
    std::fs::write(&weights, &header).expect("writable");
    assert_names(&error(), &["header"]);
    std::fs::write(&weights, &whole).expect("writable");
    std::fs::write(path.join("config.json"), "{").expect("writable");
    assert_names(&error(), &["config.json"]);
    std::fs::remove_file(path.join("config.json")).expect("there");
    assert_names(&error(), &["config.json"]);
}

#[test]
fn a_gguf_header_that_fills_the_disk_is_refused_before_it_fills_the_memory() {
    let mut file = writer();
    // A list of 101 MiB of one-byte numbers: eight times as much in memory.
    let members = 101u64 << 20;
    let mut body = 0u32.to_le_bytes().to_vec();
    body.extend(members.to_le_bytes());
    body.resize(body.len() + members as usize, 0);
    file.values.push((
        "a.list".into(),
        [9u32.to_le_bytes().to_vec(), body].concat(),
    ));
    assert_names(&refused(&file.bytes()), &["a.list", "header"]);
}

#[test]
fn token_ids_that_do_not_exist_are_refused() {
    for key in ["bos_token_id", "eos_token_id"] {
        let mut file = writer();
        file.number(&format!("tokenizer.ggml.{key}"), 262);
        assert_names(&refused(&file.bytes()), &["262", "outside the vocabulary"]);
    }
    // 2^32 + 260 must not be taken for 260.
    let mut file = writer();
    let key = "tokenizer.ggml.eos_token_id";
    file.values.retain(|(k, _)| k != key);
    let id = ((1u64 << 32) + 260).to_le_bytes().to_vec();
    file.values
        .push((key.into(), [10u32.to_le_bytes().to_vec(), id].concat()));
    assert_names(&refused(&file.bytes()), &[key]);
}

#[test]
fn a_tokenizer_of_chance_or_of_four_thousand_million_tokens_is_refused() {
    let toy = Toy::new(Shape::small(), 1);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = write_folder(&toy, folder.path(), Storage::F16);
    let file = path.join("tokenizer.json");
    let text = std::fs::read_to_string(&file).expect("written");
    for (honest, hostile, word) in [
        ("\"dropout\":null", "\"dropout\":0.5", "dropout"),
        ("\"hell\":258", "\"hell\":4294967290", "4294967290"),
    ] {
        assert!(text.contains(honest));
        std::fs::write(&file, text.replace(honest, hostile)).expect("writable");
        let error = Model::open(&path).expect_err("refused").to_string();
        assert_names(&error, &["tokenizer", word]);
    }
}

#[test]
fn tensors_that_share_their_bytes_or_have_none_for_each_expert_are_refused() {
    let (mut shared, whole) = (writer().bytes(), writer());
    let name = whole.tensors[1].0.as_bytes();
    let at = shared.windows(name.len()).position(|w| w == name);
    let after = at.expect("it is named") + name.len();
    let offset = after + 4 + 8 * whole.tensors[1].1.len() + 4;
    assert_ne!(shared[offset..offset + 8], [0; 8]);
    shared[offset..offset + 8].fill(0);
    assert_names(&refused(&shared), &["where another one does"]);

    let mut empty = GgufWriter::new(&Toy::new(Shape::of(Family::Mixtral), 1), Storage::Q8_0);
    let experts = empty.tensors.iter_mut().find(|t| t.0.contains("_exps"));
    let experts = experts.expect("it has experts");
    (experts.1, experts.3) = (vec![0, 96, 1024], vec![]);
    let name = experts.0.clone();
    assert_names(
        &refused(&empty.bytes()),
        &[&name, "0 bytes for each of 1024"],
    );
}

#[test]
fn a_tokenizer_with_parts_that_the_library_cannot_bear_is_refused() {
    let toy = Toy::new(Shape::small(), 1);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = write_folder(&toy, folder.path(), Storage::F16);
    let file = path.join("tokenizer.json");
    let text = std::fs::read_to_string(&file).expect("written");
    let twice = r#"{"type":"Replace","pattern":{"String":"a"},"content":"aa"}"#;
    let growth = format!(
        r#"{{"type":"Sequence","normalizers":[{}]}}"#,
        [twice; 20].join(",")
    );
    let many = format!(
        r#"{{"type":"Sequence","normalizers":[{}]}}"#,
        ["null"; 99].join(",")
    );
    let normalizer = |part: &str| ("\"normalizer\":null", format!("\"normalizer\":{part}"));
    let splits = |expression: &str| {
        let split = format!(
            r#"{{"type":"Split","pattern":{{"Regex":"{expression}"}},"behavior":"Isolated","invert":false}}"#
        );
        (
            "\"pre_tokenizer\":",
            format!("\"pre_tokenizer\":{split},\"x\":"),
        )
    };
    let charsmap = r#"{"type":"Precompiled","precompiled_charsmap":"////fw=="}"#;
    for ((honest, hostile), word) in [
        // The library makes room for the longest token and writes what the merge makes into it.
        (
            ("\"he ll\"", "\"<|tool_call|> <|tool_call|>\"".to_owned()),
            "a merge makes",
        ),
        (
            ("[\"h e\"", "[[\"<|tool_call|>\",\"<|begin|>\"]".to_owned()),
            "a merge makes",
        ),
        // Cuts within letters.
        (
            (
                "\"continuing_subword_prefix\":null",
                "\"continuing_subword_prefix\":\"é\"".to_owned(),
            ),
            "prefix",
        ),
        (("\"hell\":258", "\"hell\":4000000".to_owned()), "4000000"),
        (normalizer(charsmap), "Precompiled"),
        (normalizer(&growth), "times as long"),
        (normalizer(&many), "more than 32"),
        (splits(r"(\\p{L}{30}){30}"), "sets of letters"),
        (splits(&"x".repeat(5000)), "4096 bytes"),
        (
            ("\"type\":\"BPE\"", "\"type\":\"Unigram\"".to_owned()),
            "something else",
        ),
        // Of which once was taken what it does not have.
        (
            (
                "\"decoder\":{",
                "\"decoder\":{\"type\":\"Sequence\"},\"x\":{".to_owned(),
            ),
            "something else",
        ),
    ] {
        assert!(text.contains(honest), "{honest}");
        std::fs::write(&file, text.replacen(honest, &hostile, 1)).expect("writable");
        let error = Model::open(&path).expect_err("refused").to_string();
        assert_names(&error, &["tokenizer", word]);
    }
}

#[test]
fn a_part_of_a_split_model_is_named_as_one() {
    let mut part = writer();
    part.number("split.count", 3);
    part.tensors.truncate(4);
    let words = ["one of 3 parts", "llama-gguf-split --merge"];
    assert_names(&refused(&part.bytes()), &words);
    // The others have no description.
    part.values.retain(|(key, _)| key.starts_with("split."));
    assert_names(&refused(&part.bytes()), &words);
    let mut whole = writer();
    whole.number("split.count", 1);
    let folder = tempfile::tempdir().expect("a temporary folder");
    assert!(Model::open(whole.write(folder.path(), "whole.gguf")).is_ok());
}

#[test]
fn two_tensors_of_one_place_are_refused_whatever_they_are_called() {
    let again = |from: &str, name: &str| {
        let mut file = writer();
        let found = file.tensors.iter().find(|t| t.0 == from).expect("there");
        let mut copy = found.clone();
        copy.0 = name.to_owned();
        file.tensors.push(copy);
        refused(&file.bytes())
    };
    let norm = "blk.0.attn_norm.weight";
    let other = "blk.0.attn_output_norm.weight";
    assert_names(&again(norm, other), &[norm, other, "has the place of"]);
    for number in ["00", "+0"] {
        let name = format!("blk.{number}.attn_norm.weight");
        assert_names(&again(norm, &name), &[&name, "no place"]);
    }
}

#[test]
fn a_tensor_that_stands_in_two_files_is_refused() {
    let toy = Toy::new(Shape::small(), 1);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = write_folder(&toy, folder.path(), Storage::F16);
    std::fs::copy(
        path.join("model.safetensors"),
        path.join("second.safetensors"),
    )
    .expect("copied");
    std::fs::write(
        path.join("model.safetensors.index.json"),
        r#"{"weight_map":{"a":"model.safetensors","b":"second.safetensors"}}"#,
    )
    .expect("writable");
    let error = Model::open(&path).expect_err("refused").to_string();
    assert_names(&error, &["tensor ", "in another file"]);
}
