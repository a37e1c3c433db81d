//! Every architecture of the table: both kinds of files, kernels, threads, chunks, and the float model.

mod support;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use stoa_engine::import::Checkpoint;
use stoa_engine::{EngineError, Kernel, LoadOptions, Model, Session, Threads};
use support::encoder_reference::EncoderReference;
use support::float_reference::{FloatReference, compare};
use support::{
    Family, GgufWriter, Random, Scaling, Shape, Storage, Toy, pool_first_token, write_folder,
};
use tempfile::TempDir;

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn tokens(count: usize, seed: u64) -> Vec<u32> {
    let mut random = Random(seed);
    (0..count).map(|_| random.below(259)).collect()
}

/// Every decoder, and what only some files of it say.
fn shapes() -> Vec<Shape> {
    let mut shapes: Vec<Shape> = Family::DECODERS.into_iter().map(Shape::of).collect();
    shapes.push(Shape {
        window: 17,
        ..Shape::of(Family::Mistral)
    });
    shapes.push(Shape {
        window: 5,
        ..Shape::of(Family::Qwen2)
    });
    for (kind, factor) in [("linear", 2.0), ("yarn", 4.0)] {
        shapes.push(Shape {
            scaling: Some(Scaling {
                kind,
                factor,
                original: 64,
            }),
            ..Shape::of(Family::Qwen3)
        });
    }
    shapes
}

#[test]
fn gguf_and_safetensors_of_every_architecture_give_the_same_bits() {
    for shape in shapes() {
        let (toy, folder, ids) = (Toy::new(shape.clone(), 5), folder(), tokens(70, 3));
        let file = GgufWriter::new(&toy, Storage::F32).write(folder.path(), "toy.gguf");
        let gguf = Arc::new(Model::open(file).expect("valid"));
        let path = write_folder(&toy, folder.path(), Storage::F32);
        let hf = Arc::new(Model::open(path).expect("valid"));
        assert_eq!(gguf.config(), hf.config());
        let (mut a, mut b) = (Session::new(&gguf), Session::new(&hf));
        assert_eq!(a.prefill(&ids), b.prefill(&ids), "{shape:?}");
        assert!(a.logits().iter().any(|l| *l != a.logits()[0]));
    }
}

#[test]
fn every_kernel_thread_count_and_chunk_gives_the_same_bits_in_every_architecture() {
    for (seed, shape) in (0..).zip(shapes()) {
        let folder = folder();
        let file = GgufWriter::new(&Toy::new(shape.clone(), seed), Storage::Q8_0)
            .write(folder.path(), "toy.gguf");
        let open = |kernel| {
            let options = LoadOptions {
                kernel: Some(kernel),
                ..LoadOptions::default()
            };
            Arc::new(Model::open_with(&file, options).expect("valid"))
        };
        let ids = tokens(90, seed + 1);
        let mut single = Session::new(&open(Kernel::SCALAR));
        let each: Vec<Vec<i32>> = ids
            .iter()
            .map(|id| single.step(*id).expect("fits").to_vec())
            .collect();
        for kernel in Kernel::available() {
            let model = open(kernel);
            for (threads, cut) in [(1, 90), (1, 1), (2, 67), (3, 33)] {
                let threads = Threads::new(threads).expect("a few threads");
                let mut session = Session::with_threads(&model, threads);
                let mut length = 0;
                for part in ids.chunks(cut) {
                    length += part.len();
                    let logits = session.prefill(part).expect("fits");
                    assert_eq!(
                        logits,
                        each[length - 1],
                        "{} {cut} {shape:?}",
                        kernel.name()
                    );
                }
            }
        }
    }
}

#[test]
fn integer_logits_of_every_architecture_stay_close_to_the_float_model() {
    for shape in shapes() {
        let folder = folder();
        let path = GgufWriter::new(&Toy::new(shape.clone(), 21), Storage::F16)
            .write(folder.path(), "toy.gguf");
        let model = Arc::new(Model::open(&path).expect("valid"));
        let mut reference =
            FloatReference::new(&Checkpoint::open(&path).expect("valid")).expect("valid");
        let mut session = Session::new(&model);
        let (mut sum, mut same, n) = (0.0, 0, 120);
        for id in tokens(n, 2) {
            let expected = reference.step(id);
            let (kl, first) = compare(&expected, session.step(id).expect("fits"));
            sum += kl;
            same += usize::from(first);
        }
        let mean = sum / n as f64;
        println!(
            "{mean:.6} {same} {:?} {:?} {}",
            shape.family, shape.scaling, shape.window
        );
        assert!(mean < 3e-3, "mean KL {mean} {shape:?}");
        assert!(same * 100 >= n * 90, "same first choice {same} of {n}");
    }
}

#[test]
fn what_a_file_says_of_its_architecture_changes_the_answer() {
    let folder = folder();
    let logits = |shape: Shape, change: &dyn Fn(&mut GgufWriter)| {
        let mut file = GgufWriter::new(&Toy::new(shape, 4), Storage::F32);
        change(&mut file);
        let path = file.write(folder.path(), "toy.gguf");
        let model = Arc::new(Model::open(path).expect("valid"));
        let root = model.root();
        let mut session = Session::new(&model);
        (
            session.prefill(&tokens(40, 8)).expect("fits").to_vec(),
            root,
        )
    };
    let plain = logits(Shape::of(Family::Qwen3Moe), &|_| {});
    let changes: [&dyn Fn(&mut GgufWriter); 4] = [
        &|f| f.number("qwen3moe.attention.sliding_window", 9),
        &|f| f.number("qwen3moe.expert_used_count", 1),
        &|f| f.flag("qwen3moe.expert_weights_norm", false),
        &|f| {
            f.text("qwen3moe.rope.scaling.type", "yarn");
            f.float("qwen3moe.rope.scaling.factor", 8.0);
        },
    ];
    for (i, change) in changes.into_iter().enumerate() {
        let (other, root) = logits(Shape::of(Family::Qwen3Moe), change);
        assert!(other != plain.0 && root != plain.1, "change {i}");
    }
}

#[test]
fn a_window_at_least_as_long_as_the_text_changes_no_bit() {
    let folder = folder();
    let run = |window: usize, count: usize| {
        let shape = Shape {
            window,
            ..Shape::of(Family::Mistral)
        };
        let path =
            GgufWriter::new(&Toy::new(shape, 4), Storage::F32).write(folder.path(), "toy.gguf");
        let mut session = Session::new(&Arc::new(Model::open(path).expect("valid")));
        session.prefill(&tokens(count, 8)).expect("fits").to_vec()
    };
    assert_eq!(run(40, 40), run(0, 40));
    assert_ne!(run(39, 40), run(0, 40));
}

#[test]
fn vectors_of_texts_are_made_by_every_decoder() {
    for shape in shapes() {
        let folder = folder();
        let path =
            GgufWriter::new(&Toy::new(shape, 4), Storage::F32).write(folder.path(), "toy.gguf");
        let mut session = Session::new(&Arc::new(Model::open(path).expect("valid")));
        let vector = session.text_vector(&tokens(90, 8), 0, &AtomicBool::new(false));
        let vector = vector.expect("fits").expect("not cancelled");
        let length: i64 = vector.elements().iter().map(|v| i64::from(*v).pow(2)).sum();
        assert!((length - (1 << 48)).abs() < 1 << 32, "its length is one");
    }
}

fn encoder(storage: Storage, folder: &TempDir, kernel: Kernel) -> Arc<Model> {
    let toy = Toy::encoder(Shape::of(Family::Bert), 6);
    let path = write_folder(&toy, folder.path(), storage);
    let options = LoadOptions {
        kernel: Some(kernel),
        ..LoadOptions::default()
    };
    Arc::new(Model::open_with(path, options).expect("valid"))
}

#[test]
fn vectors_of_an_encoder_are_the_same_in_every_kernel_and_thread_count_and_close_to_the_float_model()
 {
    let folder = folder();
    let model = encoder(Storage::F16, &folder, Kernel::SCALAR);
    let mut reference =
        EncoderReference::new(&Checkpoint::open(&folder.path().join("toy")).expect("valid"))
            .expect("valid");
    let mut session = Session::new(&model);
    let vector = |session: &mut Session, ids: &[u32]| {
        let vector = session.text_vector(ids, 0, &AtomicBool::new(false));
        vector.expect("fits").expect("not cancelled")
    };
    for count in [1, 2, 17, 65, 200] {
        let ids: Vec<u32> = tokens(count, 7).iter().map(|id| id % 59).collect();
        let expected = vector(&mut session, &ids);
        for kernel in Kernel::available() {
            let threads = Threads::new(3).expect("a few threads");
            let model = encoder(Storage::F16, &folder, kernel);
            let mut other = Session::with_threads(&model, threads);
            assert_eq!(vector(&mut other, &ids), expected, "{}", kernel.name());
        }
        let float = reference.mean(&ids);
        let length = float.iter().map(|v| v * v).sum::<f32>().sqrt();
        let product: f32 = float
            .iter()
            .zip(expected.elements())
            .map(|(a, b)| a / length * *b as f32 / (1 << 24) as f32)
            .sum();
        assert!(product > 0.999, "{count} tokens: cosine {product}");
    }
}

#[test]
fn an_encoder_frames_texts_and_writes_none() {
    let folder = folder();
    let model = encoder(Storage::F32, &folder, Kernel::best());
    let (cls, sep) = (2, 3);
    let ids = model
        .tokenizer()
        .encode_prompt("Hello, wörlds!")
        .expect("encodes");
    let unknown = 1;
    assert_eq!(ids[..3], [cls, 56, unknown], "a comma has no token");
    assert_eq!(ids.last(), Some(&sep));
    let written = model.tokenizer().encode_prompt("[CLS]").expect("encodes");
    assert_eq!(
        written.iter().filter(|id| **id == cls).count(),
        1,
        "a user writes none"
    );
    let long = model
        .tokenizer()
        .encode_prompt(&"a ".repeat(40))
        .expect("encodes");
    assert_eq!(long.len(), 42, "neither cut nor filled up");
    let mut session = Session::new(&model);
    assert_eq!(
        session.prefill(&ids).map(<[i32]>::len),
        Err(EngineError::Encoder)
    );
    let down = AtomicBool::new(false);
    session.text_vector(&ids, 0, &down).expect("a text");
    let parts = session.add_states(&ids, &mut [0; 96], &down);
    assert_eq!(parts, Err(EngineError::TextInParts));
}

#[test]
fn an_encoder_in_gguf_is_the_one_in_a_folder() {
    let folder = folder();
    let toy = Toy::encoder(Shape::of(Family::Bert), 6);
    let text = "Hello, wörlds! [CLS] helloing 東 abc\u{301}";
    let (cancel, whole) = (AtomicBool::new(false), 0);
    let mut vectors = vec![];
    for storage in [Storage::F32, Storage::F16, Storage::Q8_0] {
        let mut file = GgufWriter::new(&toy, storage);
        file.number(
            "bert.pooling_type",
            if storage == Storage::F16 { 2 } else { 1 },
        );
        let file = file.write(folder.path(), "toy.gguf");
        let gguf = Arc::new(Model::open(&file).expect("valid"));
        let ids = gguf.tokenizer().encode_prompt(text).expect("encodes");
        let vector = |model: &Arc<Model>| {
            let vector = Session::new(model).text_vector(&ids, whole, &cancel);
            vector.expect("fits").expect("not cancelled")
        };
        vectors.push(vector(&gguf));
        let plain = match storage {
            Storage::Q8_0 => Storage::F32,
            other => other,
        };
        let path = write_folder(&toy, folder.path(), plain);
        if storage == Storage::F16 {
            pool_first_token(&path);
        }
        let theirs = Arc::new(Model::open(&path).expect("valid"));
        let of_folder = theirs.tokenizer().encode_prompt(text).expect("encodes");
        assert_eq!((of_folder, theirs.config()), (ids.clone(), gguf.config()));
        if storage == Storage::Q8_0 {
            continue;
        }
        assert_eq!(vector(&gguf), vector(&theirs), "{storage:?}");
        // Nothing but how the tokenizer is written down tells them apart.
        let source = Checkpoint::open(&file).expect("valid");
        std::fs::write(path.join("tokenizer.json"), source.tokenizer().json()).expect("written");
        let same = Model::open(&path).expect("valid");
        assert_eq!(same.root(), gguf.root(), "{storage:?}");
        std::fs::remove_dir_all(&path).expect("it was written");
    }
    let cosine: i64 = vectors[0]
        .elements()
        .iter()
        .zip(vectors[2].elements())
        .map(|(a, b)| i64::from(*a) * i64::from(*b))
        .sum();
    assert!(
        cosine > (1 << 48) / 1000 * 999,
        "eight bits a weight: {cosine}"
    );
}
