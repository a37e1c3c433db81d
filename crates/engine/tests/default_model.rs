//! The default model of the repository in the exact engine.

mod support;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use stoa_engine::import::Checkpoint;
use stoa_engine::{Kernel, LoadOptions, Model, Session};
use support::float_reference::{FloatReference, compare};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/stoa-tiny")
}

fn open(path: &Path, kernel: Kernel) -> Arc<Model> {
    let options = LoadOptions {
        kernel: Some(kernel),
        ..LoadOptions::default()
    };
    Arc::new(
        Model::open_with(path, options).expect("the default model is in the repository and valid"),
    )
}

fn gguf(kernel: Kernel) -> Arc<Model> {
    open(&folder().join("stoa-tiny.Q8_0.gguf"), kernel)
}

const CHAT: &str = r#"[{"role":"user","content":"Echo: open tree"}]"#;
const TOOLS: &str = r#"[{"type":"function","function":{"name":"find_object","description":"Finds a lost thing.",
  "parameters":{"type":"object","properties":{"thing":{"type":"string"}},"required":["thing"]}}}]"#;

fn prompt(model: &Model) -> Vec<u32> {
    let text = model.render_chat(CHAT, Some(TOOLS), true).expect("renders");
    let mut ids = model.tokenizer().encode(&text, true).expect("valid");
    ids.extend(
        model
            .tokenizer()
            .encode("Once upon a time, wörld 123", true)
            .expect("valid"),
    );
    ids
}

#[test]
fn every_kernel_gives_the_same_logits_at_every_position() {
    let reference = gguf(Kernel::SCALAR);
    let ids = prompt(&reference);
    for kernel in Kernel::available() {
        let (mut a, mut b) = (Session::new(&reference), Session::new(&gguf(kernel)));
        for id in &ids {
            assert_eq!(a.step(*id), b.step(*id), "{}", kernel.name());
        }
    }
}

#[test]
fn gguf_and_safetensors_agree_in_text_and_nearly_in_logits() {
    let (a, b) = (gguf(Kernel::best()), open(&folder(), Kernel::best()));
    let ids = prompt(&a);
    assert_eq!(
        ids,
        prompt(&b),
        "tokenizer and template are the same in both forms"
    );
    assert_eq!(
        a.tokenizer().decode(&ids, true),
        b.tokenizer().decode(&ids, true)
    );
    for id in 0..a.info().vocab as u32 {
        assert_eq!(a.tokenizer().bytes(id, true), b.tokenizer().bytes(id, true));
        assert_eq!(
            a.tokenizer().is_end(id),
            b.tokenizer().is_end(id),
            "token {id}"
        );
    }
    assert_eq!(a.config(), b.config());
    let (mut s, mut t) = (Session::new(&a), Session::new(&b));
    let as_float =
        |logits: &[i32]| -> Vec<f32> { logits.iter().map(|l| *l as f32 / 65_536.0).collect() };
    let kl = compare(
        &as_float(s.prefill(&ids).expect("fits")),
        t.prefill(&ids).expect("fits"),
    )
    .0;
    assert!(kl < 0.01, "KL {kl}");
}

#[test]
fn integer_logits_stay_close_to_float32() {
    let model = gguf(Kernel::best());
    let checkpoint = Checkpoint::open(&folder().join("stoa-tiny.Q8_0.gguf")).expect("valid");
    let mut reference = FloatReference::new(&checkpoint).expect("valid");
    let mut session = Session::new(&model);
    let ids = prompt(&model);
    let (mut sum, mut same) = (0.0, 0);
    for id in &ids {
        let (kl, first) = compare(&reference.step(*id), session.step(*id).expect("fits"));
        sum += kl;
        same += usize::from(first);
    }
    let mean = sum / ids.len() as f64;
    assert!(mean < 2e-3, "mean KL {mean}");
    assert!(
        same * 100 >= ids.len() * 95,
        "same first choice {same} of {}",
        ids.len()
    );
}
