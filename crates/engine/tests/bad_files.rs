//! Damaged and hostile model files: each gives an error that names what is wrong.

mod support;

use std::path::Path;
use stoa_engine::{ImportError, Model};
use support::{GgufWriter, Shape, Storage, Toy, write_folder};

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
    file.tensors[3].2 = 12;
    assert_names(
        &refused(&file.bytes()),
        &[&file.tensors[3].0, "Q4_K", "Q8_0"],
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
    let cases: [(&str, Change); 8] = [
        ("general.architecture", |w| {
            w.text("general.architecture", "qwen2")
        }),
        ("tokenizer.ggml.model", |w| {
            w.text("tokenizer.ggml.model", "llama")
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
