//! Inputs to begin with: small models of random weights, written by the engine's tests, and their parts.

use super::support::{Family, GgufWriter, Shape, Storage, Toy, write_folder};
use serde_json::{Value, json};
use std::fs;
use std::io::Cursor;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use stoa_engine::import::Checkpoint;
use stoa_engine::trace::{Job, ModelTree, OpeningFile, Replay, Subject};
use stoa_engine::{Model, Threads};

/// First byte after a pack's preamble.
const PREAMBLE: usize = 64;

/// The smallest model of an architecture.
fn toy(family: Family) -> Toy {
    let mut shape = Shape {
        width: 32,
        layers: 1,
        heads: 1,
        kv_heads: 1,
        head: 32,
        ffn: 32,
        context: 64,
        ..Shape::of(family)
    };
    if let Some(experts) = &mut shape.experts {
        (experts.count, experts.chosen, experts.ffn) = (2, 1, 32);
        experts.shared = experts.shared.min(32);
    }
    match family {
        Family::Bert => Toy::encoder(shape, 1),
        _ => Toy::new(shape, 1),
    }
}

fn gguf_of(family: Family, storage: Storage) -> GgufWriter {
    GgufWriter::new(&toy(family), storage)
}

/// A vocabulary of pieces with scores.
fn with_pieces() -> Vec<u8> {
    let mut file = gguf_of(Family::Llama, Storage::Q8_0);
    let bytes = (0..256).map(|byte| format!("<0x{byte:02X}>"));
    let words = ["▁", "a", "b", "ab", "▁ab", "▁h", "e"].map(str::to_owned);
    let control = ["<unk>", "<s>", "</s>"].map(str::to_owned);
    let tokens: Vec<String> = control.into_iter().chain(bytes).chain(words).collect();
    let kinds = (0..tokens.len()).map(|id| match id {
        0 => 2,
        1 | 2 => 3,
        3..259 => 6,
        _ => 1,
    });
    // Tied, so that one tensor alone has the vocabulary's size.
    file.tensors.retain(|tensor| tensor.0 != "output.weight");
    file.vocabulary(&tokens, &kinds.collect::<Vec<_>>());
    file.text("tokenizer.ggml.model", "llama");
    let scores: Vec<f32> = (0..tokens.len()).map(|id| -(id as f32)).collect();
    file.floats("tokenizer.ggml.scores", &scores);
    file.bytes()
}

/// GGUF files.
pub fn gguf() -> Vec<Vec<u8>> {
    let mut stretched = gguf_of(Family::Llama, Storage::F32);
    stretched.text("llama.rope.scaling.type", "yarn");
    stretched.float("llama.rope.scaling.factor", 4.0);
    stretched.number("llama.rope.scaling.original_context_length", 16);
    stretched.text("tokenizer.ggml.pre", "llama-bpe");
    vec![
        gguf_of(Family::Llama, Storage::Q8_0).bytes(),
        gguf_of(Family::Qwen2Moe, Storage::Q8_0).bytes(),
        gguf_of(Family::Qwen3, Storage::F16).bytes(),
        stretched.bytes(),
        with_pieces(),
        gguf_of(Family::Bert, Storage::F16).bytes(),
    ]
}

/// Writes the folder of a small model, which has another name for each kind.
pub fn write(parent: &Path, encoder: bool) -> PathBuf {
    let family = match encoder {
        true => Family::Bert,
        false => Family::Llama,
    };
    folder_of(parent, family)
}

fn folder_of(parent: &Path, family: Family) -> PathBuf {
    let parent = parent.join(format!("{family:?}"));
    write_folder(&toy(family), &parent, Storage::F16)
}

/// What `file` makes of a folder for models of all kinds.
fn of_folders(families: &[Family], file: impl Fn(Family, &Path) -> Vec<u8>) -> Vec<Vec<u8>> {
    let parent = super::targets::folder().join("seeds");
    let folders = families.iter().map(|f| (*f, folder_of(&parent, *f)));
    folders.map(|(f, folder)| file(f, &folder)).collect()
}

fn read(folder: &Path, name: &str) -> Vec<u8> {
    fs::read(folder.join(name)).expect("it was written before")
}

/// Descriptions with their tensors.
pub fn safetensors() -> Vec<Vec<u8>> {
    let families = [
        Family::Llama,
        Family::Mistral,
        Family::Qwen2Moe,
        Family::Bert,
    ];
    of_folders(&families, |_, folder| {
        let parts = ["config.json", "model.safetensors"].map(|name| read(folder, name));
        parts.join(&0)
    })
}

/// Tokenizers.
pub fn tokenizer() -> Vec<Vec<u8>> {
    let mut all = of_folders(&[Family::Llama, Family::Bert], |family, folder| {
        let mut bytes = read(folder, "tokenizer.json");
        if family == Family::Bert {
            bytes.insert(0, b'E');
        }
        bytes
    });
    // One of pieces, as the engine writes it of a GGUF file.
    let path = super::targets::folder().join("pieces.gguf");
    fs::write(&path, with_pieces()).expect("a temporary folder takes files");
    let pieces = Checkpoint::open(&path).expect("a seed is valid");
    all.push(pieces.tokenizer().json().as_bytes().to_vec());
    let llama = serde_json::from_slice(&all[0]).expect("a seed is JSON");
    all.extend(WIDEST.map(|splits| with_expressions(&llama, splits)));
    all
}

/// Expressions as wide as the engine lets them be.
const WIDEST: [&[&str]; 5] = [
    &[r"\p{L}{90}"],
    &[r"(\w{9}){10}"],
    &[r"(?i)[\p{L}\p{N}]{40}(?!x)|\w"],
    &[r"\p{L}{11}"; 8],
    &["((a{9}b|c){9}){30}"],
];

/// A tokenizer that splits by these expressions.
fn with_expressions(tokenizer: &Value, expressions: &[&str]) -> Vec<u8> {
    let split = |expression: &&str| json!({"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": false});
    let mut splits: Vec<Value> = expressions.iter().map(split).collect();
    splits.push(tokenizer["pre_tokenizer"].clone());
    let mut changed = tokenizer.clone();
    changed["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": splits});
    changed.to_string().into_bytes()
}

/// Templates as models have them.
pub const TEMPLATES: [&str; 3] = [
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content | trim }}{{ eos_token }}{% endfor %}\
         {% if add_generation_prompt %}<|assistant|>{% endif %}",
    "{% for t in tools %}{{ t | tojson(indent=2) }}{% endfor %}{% set ns = namespace(last=0) %}{% for m in messages[::-1] %}\
         {% if loop.first and m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{{ m.content.split('</think>')[-1].strip() ~ '\\n' }}\
         {% endfor %}{{ ns.last }}",
    "{% macro m(a, b=1) %}{{ a }}{{ b * 2 }}{% endmacro %}{{ m(messages[0]['content']) }}{% if tools is defined and tools %}\
         {{ raise_exception('no tools') }}{% endif %}{{ strftime_now }}{{ 'a,b'.split(',') | join('-') | upper }}",
];

/// Templates with messages and tools.
pub fn template() -> Vec<Vec<u8>> {
    let messages = r#"[{"role":"system","content":"Be brief."},{"role":"user","content":"Hi","reasoning_content":"2"}]"#;
    let tools = r#"[{"type":"function","function":{"name":"f","parameters":{"type":"object"}}}]"#;
    let whole = TEMPLATES.map(|source| [source, messages, tools].join("\0").into_bytes());
    // Found by fuzzing: what is constant is gigabytes once it is computed.
    let constants = b"{{ [0] * 99999999 }}{{ '-' * 99999999 }}".to_vec();
    whole.into_iter().chain([constants]).collect()
}

/// Packs, as header and segments.
pub fn pack() -> Vec<Vec<u8>> {
    let of_pack = |_, folder: &Path| {
        let checkpoint = Checkpoint::open(folder).expect("a seed is valid");
        let mut file = Cursor::new(vec![]);
        let go_on = &mut |_, _| ControlFlow::Continue(());
        stoa_engine::pack::write(&checkpoint, &mut file, go_on).expect("a seed is packed");
        file.into_inner()
    };
    let packs = of_folders(&[Family::Llama, Family::Qwen3Moe, Family::Bert], of_pack);
    let parts = packs.iter().map(|pack| {
        let at = u64::from_le_bytes(pack[16..24].try_into().expect("eight bytes")) as usize;
        [&pack[at..], &pack[PREAMBLE..at]].join(&0)
    });
    parts.chain(packs.first().cloned()).collect()
}

/// A pack of a header and segments in which every hash is that of what is there.
pub fn forged_pack((header, segments): (&[u8], &[u8])) -> Vec<u8> {
    let mut bytes = vec![0; PREAMBLE];
    bytes.extend(segments);
    let header = match serde_json::from_slice::<Value>(header) {
        Ok(mut value) => {
            set_hashes(&mut value, &bytes);
            value.to_string().into_bytes()
        }
        Err(_) => header.to_vec(),
    };
    let (offset, length) = (bytes.len() as u64, header.len() as u64);
    bytes[..8].copy_from_slice(b"STOAPACK");
    bytes[8] = 1;
    bytes[16..24].copy_from_slice(&offset.to_le_bytes());
    bytes[24..32].copy_from_slice(&length.to_le_bytes());
    bytes[32..64].copy_from_slice(blake3::hash(&header).as_bytes());
    bytes.extend(header);
    bytes
}

/// Sets the hash of each segment in a header that lies within `bytes`.
fn set_hashes(value: &mut Value, bytes: &[u8]) {
    let number = |value: &Value, key: &str| usize::try_from(value[key].as_u64()?).ok();
    let place = number(value, "offset").zip(number(value, "bytes"));
    let content = place.and_then(|(offset, length)| bytes.get(offset..offset.checked_add(length)?));
    if let Some(content) = content {
        value["blake3"] = format!("0x{}", blake3::hash(content).to_hex()).into();
    }
    match value {
        Value::Array(list) => list.iter_mut().for_each(|value| set_hashes(value, bytes)),
        Value::Object(map) => map.values_mut().for_each(|value| set_hashes(value, bytes)),
        _ => {}
    }
}

/// Openings of all kinds of claims, and one of a shape with half a million operators.
pub fn opening() -> Vec<Vec<u8>> {
    let families = [Family::Llama, Family::Qwen2Moe];
    let mut all: Vec<OpeningFile> = families.into_iter().flat_map(openings).collect();
    let mut forged = all[all.len() - 1].clone();
    let (config, claim) = (&mut forged.config, &mut forged.opening.claim);
    (config.layers, claim.before.position, claim.after.position) = (1 << 10, 0, 1);
    if let Some(experts) = &mut config.architecture.experts {
        (experts.count, experts.chosen) = (1 << 10, 1 << 6);
    }
    (claim.token, forged.config_proof) = (forged.job.prompt[0], vec![]);
    forged.opening.outputs.truncate(1);
    all.push(forged);
    let json = |file: &OpeningFile| serde_json::to_vec(file).expect("an opening is JSON");
    all.iter().map(json).collect()
}

/// Openings of a step of a small model.
fn openings(family: Family) -> Vec<OpeningFile> {
    let parent = super::targets::folder().join("seeds");
    let model = Arc::new(Model::open(folder_of(&parent, family)).expect("a seed is valid"));
    let job = Job {
        prompt: vec![72, 101, 108, 108],
        answer: vec![111, 33],
        parameters: Default::default(),
    };
    let replay = Replay::new(&model, job, Threads::one()).expect("a job");
    let (weights, step) = (ModelTree::new(&model), replay.step(4).expect("a step"));
    let number = |name: &str| {
        let mut operators = step.program.operators.iter();
        operators.position(|of| of.name == name)
    };
    let names = [
        "query",
        "attention norm",
        "scores",
        "blend sums",
        "chosen experts",
    ];
    let mut subjects = vec![
        Subject::Residual,
        Subject::Appended { tree: 1 },
        Subject::Choice { other: 7 },
    ];
    let operators = names.into_iter().filter_map(number);
    subjects.extend(operators.map(|operator| Subject::Element {
        operator,
        element: 2,
    }));
    let (config, config_proof, tied) = weights.shape();
    let file = |subject| OpeningFile {
        model_root: weights.root(),
        config: config.clone(),
        config_proof: config_proof.clone(),
        tied,
        job: replay.job().clone(),
        token_root: step.claim.root(),
        opening: replay.open(&weights, &step, subject).expect("it is opened"),
    };
    subjects.into_iter().map(file).collect()
}
