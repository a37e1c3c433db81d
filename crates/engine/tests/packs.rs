//! Packs: the same model as its source, and nothing but what was written.

mod support;

use serde_json::Value;
use std::io::{Cursor, Seek, SeekFrom, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use stoa_engine::import::Checkpoint;
use stoa_engine::pack::{Pack, write};
use stoa_engine::{ImportError, LoadOptions, Model, Session};
use support::{Family, GgufWriter, Shape, Storage, Toy, write_folder};

fn small() -> Toy {
    let shape = Shape {
        width: 32,
        layers: 1,
        heads: 1,
        kv_heads: 1,
        head: 32,
        ffn: 32,
        tied: false,
        ..Shape::small()
    };
    Toy::new(shape, 4)
}

fn pack_of(source: &Path) -> Vec<u8> {
    let checkpoint = Checkpoint::open(source).expect("a toy model is valid");
    let mut file = Cursor::new(vec![]);
    let mut heard = vec![];
    let packed = write(&checkpoint, &mut file, &mut |done, all| {
        heard.push((done, all));
        ControlFlow::Continue(())
    });
    let packed = packed.expect("a toy model is packed");
    assert!(heard.is_sorted() && heard.last().is_some_and(|(done, all)| done == all));
    assert_eq!(packed.bytes, file.get_ref().len() as u64);
    file.into_inner()
}

fn in_folder(folder: &Path, bytes: &[u8]) -> PathBuf {
    let path = folder.join("toy.pack");
    std::fs::write(&path, bytes).expect("writable");
    path
}

#[test]
fn a_pack_is_the_same_model_as_its_source() {
    let folder = tempfile::tempdir().expect("a folder");
    for (tied, storage) in [
        (true, Storage::Q8_0),
        (false, Storage::F16),
        (true, Storage::F32),
    ] {
        let shape = Shape {
            tied,
            ..Shape::small()
        };
        let toy = Toy::new(shape, 9);
        for source in [
            GgufWriter::new(&toy, storage).write(folder.path(), "toy.gguf"),
            write_folder(
                &toy,
                folder.path(),
                if tied { Storage::F32 } else { Storage::F16 },
            ),
        ] {
            let bytes = pack_of(&source);
            assert_eq!(bytes, pack_of(&source), "the source decides every byte");
            let path = in_folder(folder.path(), &bytes);
            let (pack, plain) = (
                Pack::open(&path).expect("sound"),
                Model::open(&source).expect("valid"),
            );
            assert_eq!(pack.recomputed_root().expect("sound"), plain.root());
            assert_eq!(pack.claimed_root(), plain.root());
            let trusting = LoadOptions {
                trust_root: true,
                ..LoadOptions::default()
            };
            for options in [trusting, LoadOptions::default()] {
                let packed = Arc::new(Model::open_with(&path, options).expect("sound"));
                assert_eq!(packed.root(), plain.root());
                assert_eq!(packed.info().losses, plain.info().losses);
                assert_eq!(packed.info().parameters, plain.info().parameters);
                assert_eq!(
                    (packed.config(), packed.template()),
                    (plain.config(), plain.template())
                );
                let text = "hello <|tool_call|> wörld";
                let ids = packed.tokenizer().encode(text, true).expect("encodes");
                assert_eq!(ids, plain.tokenizer().encode(text, true).expect("encodes"));
                let logits = Session::new(&packed).prefill(&ids).expect("fits").to_vec();
                let plain = Arc::new(Model::open(&source).expect("valid"));
                assert_eq!(logits, Session::new(&plain).prefill(&ids).expect("fits"));
            }
        }
    }
}

#[test]
fn packs_of_every_architecture_are_their_sources() {
    let folder = tempfile::tempdir().expect("a folder");
    for family in Family::DECODERS.into_iter().chain([Family::Bert]) {
        let shape = Shape::of(family);
        let toy = if family == Family::Bert {
            Toy::encoder(shape, 6)
        } else {
            Toy::new(shape, 6)
        };
        let gguf = GgufWriter::new(&toy, Storage::F16);
        for source in [
            write_folder(&toy, folder.path(), Storage::F16),
            gguf.write(folder.path(), "toy.gguf"),
        ] {
            let path = in_folder(folder.path(), &pack_of(&source));
            let pack = Pack::open(&path).expect("sound");
            let plain = Model::open(&source).expect("valid");
            assert_eq!(pack.claimed_root(), plain.root(), "{family:?}");
            assert_eq!(pack.recomputed_root().expect("sound"), plain.root());
            let vector = |model| {
                let mut session = Session::new(&Arc::new(model));
                let vector = session.text_vector(&[5, 6, 7, 8], 0, &AtomicBool::new(false));
                vector.expect("fits").expect("not stopped")
            };
            let packed = Model::open(&path).expect("sound");
            assert_eq!(
                vector(packed).elements(),
                vector(plain).elements(),
                "{family:?}"
            );
        }
    }
}

#[test]
fn no_byte_of_a_pack_can_change_or_be_missing() {
    let folder = tempfile::tempdir().expect("a folder");
    let source = GgufWriter::new(&small(), Storage::Q8_0).write(folder.path(), "toy.gguf");
    let whole = pack_of(&source);
    let open = |bytes: &[u8]| Model::open(in_folder(folder.path(), bytes));
    assert!(open(&whole).is_ok());
    let step = (whole.len() / 700).max(1);
    for at in (0..64).chain((64..whole.len()).step_by(step)) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        let error = open(&bytes)
            .map(|_| ())
            .expect_err("a changed byte is refused")
            .to_string();
        let known = ["is damaged", "does not begin", "no model", "not a model"];
        assert!(
            known.iter().any(|k| error.contains(k)),
            "byte {at}: {error}"
        );
    }
    for length in (0..whole.len())
        .step_by(whole.len() / 97)
        .chain([whole.len() - 1])
    {
        let error = open(&whole[..length])
            .map(|_| ())
            .expect_err("a part is refused")
            .to_string();
        assert!(error.contains("toy.pack"), "{length}: {error}");
    }
    let error = open(&[&whole[..], &[0]].concat()).expect_err("more is refused");
    assert!(matches!(error, ImportError::Damaged { .. }), "{error}");
}

/// A pack whose header says something else, with hashes that fit.
fn forged(whole: &[u8], change: impl FnOnce(&mut Value, &mut Vec<u8>)) -> Vec<u8> {
    let long =
        |at: usize| u64::from_le_bytes(whole[at..at + 8].try_into().expect("8 bytes")) as usize;
    let (offset, length) = (long(16), long(24));
    let mut header: Value = serde_json::from_slice(&whole[offset..offset + length]).expect("JSON");
    let mut bytes = whole[..offset].to_vec();
    change(&mut header, &mut bytes);
    let json = serde_json::to_vec(&header).expect("JSON");
    let end = bytes.len() as u64;
    bytes[16..24].copy_from_slice(&end.to_le_bytes());
    bytes[24..32].copy_from_slice(&(json.len() as u64).to_le_bytes());
    let hash = *blake3::hash(&json).as_bytes();
    bytes[32..64].copy_from_slice(&hash);
    bytes.extend(json);
    bytes
}

/// Changes a byte of a tensor and its hash.
fn content(header: &mut Value, bytes: &mut [u8], tensor: usize, change: impl FnOnce(&mut [u8])) {
    let segment = &mut header["tensors"][tensor]["segment"];
    let at = segment["offset"].as_u64().expect("a number") as usize;
    let length = segment["bytes"].as_u64().expect("a number") as usize;
    change(&mut bytes[at..at + length]);
    let hash = blake3::hash(&bytes[at..at + length]);
    segment["blake3"] = format!("0x{}", hash.to_hex()).into();
}

/// Forges a header and the bytes before it.
type Forgery = fn(&mut Value, &mut Vec<u8>);

#[test]
fn packs_that_lie_in_a_consistent_way_are_refused_or_have_another_root() {
    let folder = tempfile::tempdir().expect("a folder");
    let source = GgufWriter::new(&small(), Storage::Q8_0).write(folder.path(), "toy.gguf");
    let whole = pack_of(&source);
    let cases: [(&str, Forgery); 17] = [
        ("stoa.iq7", |h, _| h["semantics"] = "stoa.iq7".into()),
        ("unknown field", |h, _| h["more"] = 1.into()),
        ("segment", |h, _| {
            h["tensors"][0]["segment"]["offset"] = 64.into()
        }),
        ("segment", |h, _| {
            h["tensors"][0]["segment"]["offset"] = (u64::MAX - 63).into()
        }),
        ("segment", |h, _| {
            h["tensors"][1]["segment"]["bytes"] = (u64::MAX - 63).into()
        }),
        ("18446744073709551615", |h, _| {
            h["tensors"][0]["rows"] = u64::MAX.into()
        }),
        ("x 64", |h, _| h["tensors"][0]["columns"] = 64.into()),
        ("exponent", |h, _| {
            h["tensors"][0]["exponent"] = i32::MIN.into()
        }),
        ("out of order", |h, _| {
            h["tensors"][1]["role"] = h["tensors"][0]["role"].clone()
        }),
        ("segments end", |h, _| {
            h["tensors"].as_array_mut().expect("a list").pop();
        }),
        ("absent", |h, b| {
            let last = h["tensors"]
                .as_array_mut()
                .expect("a list")
                .pop()
                .expect("some");
            b.truncate(last["segment"]["offset"].as_u64().expect("a number") as usize);
        }),
        ("layers", |h, _| h["config"]["layers"] = (1u64 << 40).into()),
        ("rotary", |h, _| {
            h["config"]["rotary"] = serde_json::json!([1])
        }),
        ("epsilon", |h, _| {
            h["config"]["epsilon_q32"] = u64::MAX.into()
        }),
        ("no import writes", |h, b| content(h, b, 0, |c| c[3] = 0x80)),
        ("no import writes", |h, b| {
            content(h, b, 0, |c| *c.last_mut().expect("some") = 0x80)
        }),
        ("begin or end token", |h, _| {
            h["tokenizer"]["bos"] = 70_000.into()
        }),
    ];
    for (word, forgery) in cases {
        let path = in_folder(folder.path(), &forged(&whole, forgery));
        let error = Model::open(path).map(|_| ()).expect_err(word).to_string();
        assert!(error.contains(word), "{word}: {error}");
    }
    // Other weights with hashes that fit are another model, whatever root the header states.
    let other = forged(&whole, |h, b| content(h, b, 0, |c| c[3] ^= 1));
    let path = in_folder(folder.path(), &other);
    let (pack, model) = (
        Pack::open(&path).expect("sound"),
        Model::open(&path).expect("sound"),
    );
    assert_ne!(pack.claimed_root(), pack.recomputed_root().expect("sound"));
    assert_eq!(model.root(), pack.recomputed_root().expect("sound"));
}

#[test]
fn a_pack_of_no_store_is_in_memory_before_it_is_checked_and_its_file_changes_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let source = GgufWriter::new(&small(), Storage::Q8_0).write(folder.path(), "toy.gguf");
    let (bytes, root) = (
        pack_of(&source),
        Model::open(&source).expect("valid").root(),
    );
    let path = in_folder(folder.path(), &bytes);
    let model = Arc::new(Model::open(&path).expect("sound"));
    let logits = || {
        let mut session = Session::new(&model);
        session.prefill(&[5, 6, 7]).expect("fits").to_vec()
    };
    let before = logits();
    // In place, as `cp` does it. Weights that were mapped would be others now, and then the process would end.
    for change in [vec![0x55; bytes.len()], vec![]] {
        std::fs::write(&path, change).expect("writable");
        assert_eq!(logits(), before);
    }
    assert_eq!(model.root(), root);
}

#[cfg(target_os = "linux")]
#[test]
fn a_pack_of_a_store_is_mapped_and_no_other_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let source = GgufWriter::new(&small(), Storage::Q8_0).write(folder.path(), "toy.gguf");
    let path = in_folder(folder.path(), &pack_of(&source));
    for map in [true, false] {
        let options = LoadOptions {
            map,
            ..LoadOptions::default()
        };
        let model = Model::open_with(&path, options).expect("sound");
        let mapped = std::fs::read_to_string("/proc/self/maps").expect("readable");
        assert_eq!(mapped.contains(&path.display().to_string()), map);
        drop(model);
    }
}

#[test]
fn the_memory_of_a_pack_is_told_from_its_header_and_limited_before_it_is_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let source = GgufWriter::new(&small(), Storage::Q8_0).write(folder.path(), "toy.gguf");
    let whole = pack_of(&source);
    let estimate = |bytes: &[u8]| Model::memory_estimate(in_folder(folder.path(), bytes));
    let told = estimate(&whole).expect("sound");
    assert_eq!(told.weights, whole.len() as u64);
    for limit in [told.peak(), told.peak() - 1] {
        let options = LoadOptions {
            memory_limit: Some(limit),
            ..LoadOptions::default()
        };
        let opened = Model::open_with(folder.path().join("toy.pack"), options);
        assert_eq!(opened.is_ok(), limit == told.peak());
    }
    let short = estimate(&whole[..whole.len() - 1]).expect_err("cut short");
    let mut last = whole.clone();
    *last.last_mut().expect("some") ^= 1;
    let other = estimate(&last).expect_err("another header");
    let layers = forged(&whole, |h, _| h["config"]["layers"] = 2.into());
    let layers = estimate(&layers).expect_err("a layer is absent");
    for (error, word) in [
        (short, "cut short"),
        (other, "its header is not"),
        (layers, "absent"),
    ] {
        assert!(error.to_string().contains(word), "{error}");
    }
}

#[test]
fn a_pack_of_more_tokens_than_its_tokenizer_has_is_refused_also_with_the_root_of_its_header() {
    let folder = tempfile::tempdir().expect("a folder");
    // Rows beyond the tokenizer's tokens, as many models have them.
    let mut file = GgufWriter::new(&small(), Storage::Q8_0);
    for name in ["token_embd.weight", "output.weight"] {
        let tensor = file.tensors.iter_mut().find(|t| t.0 == name);
        let tensor = tensor.expect("not tied");
        let row = tensor.3.len() / tensor.1[1] as usize;
        tensor.1[1] += 8;
        tensor.3.extend(vec![0; 8 * row]);
    }
    let source = file.write(folder.path(), "toy.gguf");
    let whole = pack_of(&source);
    let open = |bytes: &[u8]| {
        let path = in_folder(folder.path(), bytes);
        let pack = Pack::open(&path).expect("its header is sound");
        let root = pack.recomputed_root().map_err(|e| e.to_string());
        let model = Model::open(&path).map(|m| m.root());
        (root, model.map_err(|e| e.to_string()))
    };
    let (root, model) = open(&whole);
    assert!(root.is_ok(), "{root:?}");
    assert_eq!(root, model);
    let vocabulary = |header: &mut Value| {
        let vocab = &mut header["config"]["vocab"];
        *vocab = (vocab.as_u64().expect("a number") + 1).into();
    };
    let more = forged(&whole, |header, _| vocabulary(header));
    let (root, model) = open(&more);
    for refused in [root, model] {
        let error = refused.expect_err("refused");
        assert!(error.contains("its tokenizer"), "{error}");
    }
}

/// A disk that is full after some bytes.
struct Full(Cursor<Vec<u8>>, u64);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.position() + bytes.len() as u64 > self.1 {
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        self.0.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Seek for Full {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        self.0.seek(to)
    }
}

#[test]
fn a_full_disk_and_a_stop_end_the_writing_with_the_reason() {
    let folder = tempfile::tempdir().expect("a folder");
    let source = GgufWriter::new(&small(), Storage::F16).write(folder.path(), "toy.gguf");
    let checkpoint = Checkpoint::open(&source).expect("valid");
    let whole = pack_of(&source).len() as u64;
    for room in [0, 100, whole / 2, whole - 1] {
        let mut file = Full(Cursor::new(vec![]), room);
        let error = write(
            &checkpoint,
            &mut file,
            &mut |_, _| ControlFlow::Continue(()),
        );
        assert!(
            matches!(error, Err(ImportError::Write { .. })),
            "{room}: {error:?}"
        );
        // What was written before is no pack.
        assert!(Pack::open(&in_folder(folder.path(), file.0.get_ref())).is_err());
    }
    let mut calls = 0;
    let error = write(&checkpoint, &mut Cursor::new(vec![]), &mut |_, _| {
        calls += 1;
        ControlFlow::Break(())
    });
    assert!(matches!(error, Err(ImportError::Stopped)) && calls == 1);
}
