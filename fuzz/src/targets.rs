//! What is done with hostile bytes: they are read as a file of a kind, and what is read is used once. It may fail, with an error; it may
//! not panic, and reading may not take more memory than the input's length and the target's room allow.
//!
//! The fuzzers and the engine's own tests share this file.

use super::gauge::measured;
use super::seeds;
use super::target::Target;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use stoa_engine::import::Checkpoint;
use stoa_engine::pack::Pack;
use stoa_engine::trace::{OpeningFile, root_over};
use stoa_engine::{ChatTemplate, Model, Rendering, Session, Tokenizer};

/// Room for the expressions of a tokenizer, which are compiled to more than they are written in.
const EXPRESSIONS: usize = 24 << 20;

/// Every kind that the engine reads.
pub const TARGETS: [Target; 6] = [
    Target {
        name: "gguf",
        room: 2 << 20,
        read: gguf,
        seeds: seeds::gguf,
    },
    Target {
        name: "safetensors",
        room: 2 << 20,
        read: safetensors,
        seeds: seeds::safetensors,
    },
    Target {
        name: "tokenizer",
        room: EXPRESSIONS,
        read: tokenizer,
        seeds: seeds::tokenizer,
    },
    Target {
        name: "template",
        room: 1 << 20,
        read: template,
        seeds: seeds::template,
    },
    Target {
        name: "pack",
        room: EXPRESSIONS,
        read: pack,
        seeds: seeds::pack,
    },
    Target {
        name: "opening",
        room: 1 << 20,
        read: opening,
        seeds: seeds::opening,
    },
];

/// A folder of this process, in memory where the system has such a place.
pub fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() {
            memory.to_owned()
        } else {
            std::env::temp_dir()
        };
        let made = parent.join(format!("stoa-fuzz-{}", std::process::id()));
        fs::create_dir_all(&made).expect("a temporary folder");
        made
    })
}

fn file(name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder().join(name);
    fs::write(&path, bytes).expect("a temporary folder takes files");
    path
}

/// The bytes before the first zero byte, and those after it.
fn halves(bytes: &[u8]) -> (&[u8], &[u8]) {
    match bytes.iter().position(|byte| *byte == 0) {
        Some(at) => (&bytes[..at], &bytes[at + 1..]),
        None => (bytes, &[]),
    }
}

/// Opens a model and, where that succeeds, computes with it.
fn open(path: &Path, bound: usize) -> usize {
    let (model, peak) = measured(bound, || Model::open(path));
    let Ok(model) = model.map(Arc::new) else {
        return peak;
    };
    model.root();
    // Whether a template can be rendered, and how much it writes, is the other target's.
    let encoded = model.tokenizer().encode_prompt("Hello, wörld");
    let ids = encoded.unwrap_or_default();
    let mut session = Session::new(&model);
    let _either = match model.config().architecture.encoder {
        None => session.prefill(&ids).map(drop),
        Some(_) => session
            .text_vector(&ids, model.config().width, &AtomicBool::new(false))
            .map(drop),
    };
    peak
}

/// A GGUF file.
fn gguf(bytes: &[u8], bound: usize) -> usize {
    open(&file("model.gguf", bytes), bound)
}

/// A `config.json`, a zero byte, and the bytes of a safetensors file. The tokenizer is one that fits.
fn safetensors(bytes: &[u8], bound: usize) -> usize {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| seeds::write(folder(), false));
    let (config, tensors) = halves(bytes);
    for (name, bytes) in [("config.json", config), ("model.safetensors", tensors)] {
        fs::write(folder.join(name), bytes).expect("a temporary folder takes files");
    }
    open(folder, bound)
}

/// A `tokenizer.json`, of an encoder where an `E` stands before it. The weights are of a small model.
fn tokenizer(bytes: &[u8], bound: usize) -> usize {
    static FOLDERS: OnceLock<[PathBuf; 2]> = OnceLock::new();
    let folders = FOLDERS.get_or_init(|| [false, true].map(|e| seeds::write(folder(), e)));
    let (folder, json) = match bytes.strip_prefix(b"E") {
        Some(json) => (&folders[1], json),
        None => (&folders[0], bytes),
    };
    fs::write(folder.join("tokenizer.json"), json).expect("a temporary folder takes files");
    let read = || {
        let source = Checkpoint::open(folder).ok()?;
        let tokenizer = Tokenizer::new(source.tokenizer()).ok()?;
        for special in [false, true] {
            let ids = tokenizer.encode("Hello, wörld <|end|>\n 12 the", special);
            tokenizer.decode(&ids.unwrap_or_default(), special);
        }
        tokenizer.encode_prompt("").ok()
    };
    measured(bound, read).1
}

/// A chat template, a zero byte, messages, a zero byte, tools. The template is parsed; messages and tools are given to the templates of the
/// seeds. To render just any template is for a process of limited memory and time (`stoa_runtime::Templates`), which this one is not.
fn template(bytes: &[u8], bound: usize) -> usize {
    let (source, rest) = halves(bytes);
    let (messages, tools) = halves(rest);
    let texts = [source, messages, tools].map(|part| String::from_utf8_lossy(part).into_owned());
    let [source, messages, tools] = &texts;
    let (_, peak) = measured(bound, || ChatTemplate::new(source).is_ok());
    for honest in seeds::TEMPLATES {
        let rendering = Rendering {
            template: honest.into(),
            messages: messages.into(),
            tools: Some(&tools[..]).filter(|t| !t.is_empty()).map(Into::into),
            arguments: "".into(),
            add_generation_prompt: true,
            begin: "<s>".into(),
            end: "</s>".into(),
            context: 4096,
        };
        let _either = rendering.render();
    }
    peak
}

/// The header of a pack, a zero byte, and its segments; or a whole pack. Of a header the hashes are set right first, as a forger would.
fn pack(bytes: &[u8], bound: usize) -> usize {
    let forged = match bytes.starts_with(b"STOAPACK") {
        true => bytes.to_vec(),
        false => seeds::forged_pack(halves(bytes)),
    };
    let path = file("model.pack", &forged);
    let (_, peak) = measured(bound, || {
        Pack::open(&path).is_ok_and(|pack| pack.recomputed_root().is_ok())
    });
    peak.max(open(&path, bound))
}

/// An opening with all that judging it needs, as `stoa model judge` reads it: under its own roots, then under those of its own shape and claim,
/// as a forger would have them.
fn opening(bytes: &[u8], bound: usize) -> usize {
    let judge = || {
        let Ok(mut file) = serde_json::from_slice::<OpeningFile>(bytes) else {
            return;
        };
        let _either = file.judge();
        file.model_root = root_over(&file.config, &file.config_proof);
        file.token_root = file.opening.claim.root();
        let _either = file.judge();
    };
    measured(bound, judge).1
}
