//! Models as a person handles them: imported, shown, checked, served, removed.

mod support;

use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use stoa_engine::{RandomModel, Rendering};
use stoa_grammar::Grammar;
use stoa_runtime::{Apart, ApartError, Grammars, RenderError, Templates, Times};
use support::{PATIENCE, Up, refused, stoa, told};

const MODEL: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../models/stoa-tiny/stoa-tiny.Q8_0.gguf"
);

/// `stoa model` with these arguments and `--json`.
fn model(data: &Path, arguments: &[&str]) -> Value {
    let text = told(stoa(data).arg("model").args(arguments).arg("--json"));
    serde_json::from_str(&text).expect("JSON")
}

/// Files of the packs' folder whose names end so.
fn files(data: &Path, end: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(data.join("packs")).into_iter().flatten();
    let paths = entries.map(|entry| entry.expect("readable").path());
    paths
        .filter(|path| path.to_string_lossy().ends_with(end))
        .collect()
}

#[test]
fn an_imported_model_is_served_by_its_name_and_checks_receipts() {
    let folder = tempfile::tempdir().expect("a folder");
    let (data, receipt) = (
        folder.path().join("data"),
        folder.path().join("receipt.json"),
    );
    assert_eq!(model(&data, &["list"]), serde_json::json!([]));
    // Beside a network that runs in the same folder.
    let up = Up::start(&data, 1, &folder.path().join("log"));
    let imported = model(&data, &["import", MODEL, "--name", "tiny"]);
    up.stop();
    let shown = model(&data, &["inspect", MODEL]);
    for key in [
        "digest",
        "root",
        "bytes",
        "losses",
        "parameters",
        "layers",
        "context",
    ] {
        assert_eq!(imported[key], shown[key], "{key}");
    }
    assert_eq!(shown["losses"][0]["format"], "Q8_0");
    assert_eq!(model(&data, &["inspect", "tiny"])["kind"], "pack");
    assert_eq!(model(&data, &["verify", "tiny"])["root"], imported["root"]);
    let again = refused(stoa(&data).args(["model", "import", MODEL, "--name", "tiny"]));
    assert!(again.contains("called tiny already"), "{again}");

    let up = Up::start_with(
        &data,
        1,
        &folder.path().join("log"),
        &["--fresh", "--model", "tiny"],
        &[],
    );
    let save = receipt.display().to_string();
    told(stoa(&data).args(["ask", "Hello", "--save", &save]));
    let saved: Value = serde_json::from_slice(&fs::read(&receipt).expect("saved")).expect("JSON");
    assert_eq!(saved["receipt"]["receipt"]["model_root"], imported["root"]);
    up.wait_for_posts(1.0);
    told(stoa(&data).args(["receipt", &save, "--wait"]));
    let report = told(stoa(&data).args(["verify", &save, "--rerun", "tiny"]));
    assert!(
        report.contains("the model computed this answer"),
        "{report}"
    );
    let digest = imported["digest"].as_str().expect("a digest");
    assert_eq!(model(&data, &["list"])[0]["digest"], digest);
    up.stop();

    let removed = model(&data, &["remove", &digest[2..10]]);
    assert_eq!(
        (removed["removed"].clone(), removed["names"][0].clone()),
        (true.into(), "tiny".into())
    );
    assert!(files(&data, ".pack").is_empty());
    let unknown = refused(stoa(&data).args(["model", "remove", "tiny"]));
    assert!(
        unknown.contains("tiny is no file, and no imported model"),
        "{unknown}"
    );
    let unknown = refused(stoa(&data).args(["up", "--model", "tiny"]));
    assert!(unknown.contains("stoa model list"), "{unknown}");
}

#[test]
fn a_pack_that_rotted_or_was_forged_serves_nobody() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    let imported = model(&data, &["import", MODEL]);
    let name = imported["name"].as_str().expect("a name").to_owned();
    let elsewhere = folder.path().join("elsewhere.pack");
    fs::copy(imported["file"].as_str().expect("a path"), &elsewhere).expect("copied");
    let other = folder.path().join("other");
    let carried = model(&other, &["import", &elsewhere.display().to_string()]);
    assert_eq!(carried["digest"], imported["digest"]);

    // A bit of a weight, in the middle of the file.
    let pack = files(&data, ".pack").pop().expect("one");
    let mut bytes = fs::read(&pack).expect("readable");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    fs::remove_file(&pack).expect("removed");
    fs::write(&pack, &bytes).expect("written");
    for arguments in [vec!["model", "verify", &name], vec!["up", "--model", &name]] {
        let error = refused(stoa(&data).args(&arguments));
        assert!(
            error.contains("is damaged") && error.contains("not what was written"),
            "{error}"
        );
    }
    // A header that does not begin where it should: the list says so and goes on.
    fs::write(&pack, &bytes[..100]).expect("written");
    let listed = model(&data, &["list"]);
    assert!(
        listed[0]["damage"]
            .as_str()
            .is_some_and(|d| d.contains("cut short")),
        "{listed}"
    );
    assert!(told(stoa(&data).args(["model", "list"])).contains("cut short"));
    let error = refused(
        stoa(&data)
            .args(["model", "import"])
            .arg(&pack)
            .args(["--name", "copy"]),
    );
    assert!(error.contains("cut short"), "{error}");
    assert!(files(&data, ".partial").is_empty());
    assert_eq!(model(&data, &["remove", &name])["removed"], true);
}

/// The same pack with another root in its header, whose hash fits.
fn with_another_root(pack: &[u8], root: &str) -> Vec<u8> {
    let offset = u64::from_le_bytes(pack[16..24].try_into().expect("8 bytes")) as usize;
    let header = String::from_utf8(pack[offset..].to_vec()).expect("JSON");
    let last = if root.ends_with('0') { "1" } else { "0" };
    let other = format!("{}{last}", &root[..root.len() - 1]);
    let header = header.replacen(root, &other, 1);
    let mut bytes = pack.to_vec();
    bytes[offset..].copy_from_slice(header.as_bytes());
    bytes[32..64].copy_from_slice(blake3::hash(header.as_bytes()).as_bytes());
    bytes
}

#[test]
fn the_root_of_a_pack_from_elsewhere_is_computed_before_it_is_shown() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    let imported = model(&data, &["import", MODEL]);
    let root = imported["root"].as_str().expect("a root");
    let pack = fs::read(imported["file"].as_str().expect("a path")).expect("readable");
    let elsewhere = folder.path().join("elsewhere.pack");
    let path = elsewhere.display().to_string();
    fs::write(&elsewhere, &pack).expect("written");
    assert_eq!(model(&data, &["inspect", &path])["root"], root);
    fs::write(&elsewhere, with_another_root(&pack, root)).expect("written");
    for action in [
        vec!["inspect", &path],
        vec!["import", &path, "--name", "other"],
    ] {
        let error = refused(stoa(&data).arg("model").args(action));
        assert!(
            error.contains("is stated as") && error.contains(root),
            "{error}"
        );
    }
}

/// A model that takes long enough to be interrupted.
fn large(folder: &Path) -> PathBuf {
    let path = folder.join("large.gguf");
    let shape = RandomModel {
        layers: 3,
        ..RandomModel::hundred_million()
    };
    shape.write_gguf(&path).expect("written");
    path
}

/// An import that has begun to write.
fn begun(data: &Path, source: &Path) -> Child {
    let child = stoa(data)
        .args(["model", "import"])
        .arg(source)
        .args(["--name", "large"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("starts");
    let end = Instant::now() + PATIENCE;
    while files(data, ".partial").is_empty() {
        assert!(Instant::now() < end, "it does not begin");
        std::thread::sleep(Duration::from_millis(1));
    }
    child
}

#[test]
fn an_import_that_is_stopped_or_killed_leaves_nothing_half() {
    let folder = tempfile::tempdir().expect("a folder");
    let (data, source) = (folder.path().join("data"), large(folder.path()));
    let mut child = begun(&data, &source);
    let busy = refused(stoa(&data).args(["model", "import", MODEL]));
    assert!(busy.contains("another import"), "{busy}");
    let sent = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(sent.expect("kill runs").success());
    assert_eq!(child.wait().expect("ends").code(), Some(130));
    assert!(files(&data, ".partial").is_empty() && files(&data, ".pack").is_empty());

    let mut child = begun(&data, &source);
    child.kill().expect("killed");
    child.wait().expect("ended");
    assert_eq!(model(&data, &["list"]), serde_json::json!([]));
    // What it left is gone with the next import, which is whole.
    let imported = model(
        &data,
        &["import", &source.display().to_string(), "--name", "large"],
    );
    assert!(files(&data, ".partial").is_empty());
    assert_eq!(
        model(&data, &["verify", "large"])["digest"],
        imported["digest"]
    );
}

#[test]
fn what_is_no_model_is_refused_and_leaves_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    let file = folder.path().join("notes.gguf");
    fs::write(&file, "not a model, but a text of some length").expect("written");
    let error = refused(stoa(&data).args(["model", "import"]).arg(&file));
    assert!(error.contains("GGUF"), "{error}");
    let whole = fs::read(MODEL).expect("the default model");
    fs::write(&file, &whole[..whole.len() - 40]).expect("written");
    let error = refused(stoa(&data).args(["model", "import"]).arg(&file));
    assert!(error.contains("beyond the end of the file"), "{error}");
    let error = refused(stoa(&data).args(["model", "import", MODEL, "--name", "../up"]));
    assert!(error.contains("no name for a model"), "{error}");
    assert!(files(&data, ".partial").is_empty() && files(&data, ".pack").is_empty());
}

#[test]
fn a_template_that_takes_no_chat_is_told_at_the_import_and_is_not_served() {
    let folder = tempfile::tempdir().expect("a folder");
    let (data, source) = (folder.path().join("data"), folder.path().join("source"));
    fs::create_dir(&source).expect("writable");
    let tiny = Path::new(MODEL).parent().expect("a folder");
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        fs::copy(tiny.join(name), source.join(name)).expect("copied");
    }
    // As Mistral Small 3 begins.
    let template = "{%- set today = strftime_now('%d-%m-%Y') %}{{ messages[0].content }}";
    fs::write(source.join("chat_template.jinja"), template).expect("written");
    let path = source.display().to_string();
    for told in [
        model(&data, &["inspect", &path]),
        model(&data, &["import", &path, "--name", "dated"]),
    ] {
        let fault = told["chat_template_fault"].as_str().expect("a fault");
        assert!(fault.contains("strftime_now"), "{fault}");
    }
    let error = refused(stoa(&data).args(["up", "--model", "dated"]));
    assert!(
        error.contains("strftime_now") && error.contains("another template"),
        "{error}"
    );
    assert!(model(&data, &["inspect", MODEL])["chat_template_fault"].is_null());
}

#[test]
fn a_trace_is_opened_and_judged_without_the_model() {
    let folder = tempfile::tempdir().expect("a folder");
    let (data, file) = (
        folder.path().join("data"),
        folder.path().join("opening.json"),
    );
    let asked = [
        "trace",
        MODEL,
        "--prompt",
        "Once",
        "--tokens",
        "3",
        "--temperature",
        "0.8",
        "--seed",
        "7",
    ];
    let whole = model(&data, &asked);
    let states = whole["states"].as_array().expect("states");
    let (prompt, answer) = (
        &whole["prompt"],
        whole["answer"].as_array().expect("an answer"),
    );
    let prompt = prompt.as_array().expect("a prompt").len();
    assert_eq!(states.len(), prompt + answer.len());
    assert_eq!(
        whole["checkpoints"].as_array().map(Vec::len),
        Some(answer.len())
    );
    let position = prompt.to_string();
    let step = model(&data, &[&asked[..], &["--token", &position]].concat());
    assert_eq!(step["trace_root"], whole["trace_root"]);
    assert_eq!(step["state_before"], states[prompt]);
    assert_eq!(step["state_after"], states[prompt + 1]);
    assert_eq!(step["token"], answer[0]);
    let operators = step["operators"].as_array().expect("operators");
    let find = |name: &str| {
        let mut all = operators.iter();
        let found = all.find(|of| of["name"] == name).expect("an operator");
        found["number"].to_string()
    };
    let path = file.display().to_string();
    for (operator, element) in [(find("query"), "5"), (find("token"), "9")] {
        let opening = [
            "--token",
            &position,
            "--operator",
            &operator,
            "--element",
            element,
            "--out",
            &path,
        ];
        let arguments = [&asked[..], &opening].concat();
        fs::write(&file, "somebody's").expect("written");
        let error = refused(stoa(&data).arg("model").args(&arguments));
        assert!(error.contains("exists"), "{error}");
        assert_eq!(fs::read(&file).expect("there"), b"somebody's");
        fs::remove_file(&file).expect("removed");
        let opened = model(&data, &arguments);
        assert_eq!(opened["verdict"], "holds");
        let token_root = opened["token_root"].as_str().expect("a root");
        let judged = model(&data, &["judge", &path, "--token-root", token_root]);
        assert_eq!(judged["verdict"], "holds");
        assert_eq!(judged["model_root"], whole["model_root"]);
        let other = whole["trace_root"].as_str().expect("a root");
        let error = refused(stoa(&data).args(["model", "judge", &path, "--token-root", other]));
        assert!(error.contains("proves nothing of that one"), "{error}");
    }
    // Another token in the answer than the one that the step chose.
    let mut forged: Value =
        serde_json::from_slice(&fs::read(&file).expect("written")).expect("JSON");
    let chosen = &mut forged["job"]["answer"][1];
    *chosen = (chosen.as_u64().expect("an id") ^ 1).into();
    fs::write(&file, forged.to_string()).expect("written");
    let judged = model(&data, &["judge", &path]);
    assert_eq!(
        judged["verdict"]["false"]["claimed"]["number"],
        forged["job"]["answer"][1]
    );
    // A leaf that does not lie under its root.
    forged["opening"]["claim"]["step"] = whole["trace_root"].clone();
    fs::write(&file, forged.to_string()).expect("written");
    let error = refused(stoa(&data).args(["model", "judge", &path]));
    assert!(error.contains("another claim"), "{error}");
    let error = refused(
        stoa(&data)
            .arg("model")
            .args(asked)
            .args(["--token", "900"]),
    );
    assert!(error.contains("no step at position 900"), "{error}");
}

/// A short chat for a template.
fn rendering(template: &str) -> Rendering<'_> {
    Rendering {
        template: template.into(),
        messages: r#"[{"role":"user","content":"hello"}]"#.into(),
        tools: None,
        arguments: "".into(),
        add_generation_prompt: true,
        begin: "".into(),
        end: "".into(),
        context: 4096,
    }
}

/// Schemas within all bounds of size that the grammar's library would copy or compare for minutes, or for all memory.
fn hostile_schemas() -> [(&'static str, Value); 3] {
    let named = |count: usize, letter: char, schema: Value| -> Value {
        let one = |n| (format!("{letter}{n}"), schema.clone());
        (0..count)
            .map(one)
            .collect::<serde_json::Map<_, _>>()
            .into()
    };
    let pattern = |n| (format!("^{n:04}$"), json!(true));
    let patterns: serde_json::Map<_, _> = (0..2_000).map(pattern).collect();
    // Every property of the first becomes a copy of all of the second's, which each become a copy of the third's.
    let copies = json!({"allOf": [
        {"properties": named(1_000, 'a', json!(true))},
        {"additionalProperties": {"properties": named(1_000, 'b', json!(true))}},
        {"additionalProperties": {"additionalProperties": {"properties": named(1_000, 'c', json!(true))}}},
    ]});
    // Pairs are told apart again with every step, up to the last one, which is the same twice.
    let choices: Vec<Value> = (0..2_500)
        .chain([2_499])
        .map(|n| json!({"const": n.to_string()}))
        .collect();
    let mut pairs = vec![json!(true); 3_000];
    pairs[0] = json!({"oneOf": choices});
    let pairs = json!({"allOf": pairs});
    [
        (
            "patterns",
            json!({"type": "object", "patternProperties": patterns}),
        ),
        ("copies", copies),
        ("pairs", pairs),
    ]
}

/// Longer than a busy machine needs: the limits of processor time are what is tried.
const APART: Times = Times {
    patience: Duration::from_secs(120),
    wall: Duration::from_secs(120),
    processor: Duration::from_secs(120),
};

#[test]
fn a_schema_that_takes_all_time_or_memory_is_refused_and_costs_nothing_else() {
    let program = env!("CARGO_BIN_EXE_stoa").into();
    let apart = Apart::new(program, ["try-grammars".into()], APART);
    let grammars = Grammars::Apart(Arc::new(apart));
    grammars.check().expect("it can be tried");
    let of = |schema: Value, strict| Grammar::JsonSchema {
        schema: schema.to_string(),
        strict,
    };
    let honest = of(
        json!({"$defs": {"a": {"type": "string"}}, "properties": {"a": {"$ref": "#/$defs/a"}}}),
        true,
    );
    assert!(!honest.is_plain());
    grammars.try_out(&honest).expect("it is small");
    for (name, schema) in hostile_schemas() {
        let tried = grammars.try_out(&of(schema, name == "pairs"));
        assert!(
            matches!(tried, Err(ApartError::Limits(_))),
            "{name}: {tried:?}"
        );
        grammars.try_out(&honest).expect("in a new process");
    }
    // What is wrong with it is said where it is made.
    let wrong = of(json!({"allOf": false}), true);
    grammars.try_out(&wrong).expect("it takes nothing");
}

#[test]
fn a_template_that_takes_all_memory_costs_one_request_and_nothing_else() {
    let program = env!("CARGO_BIN_EXE_stoa").into();
    let apart = Apart::new(program, ["render-templates".into()], APART);
    let templates = Templates::Apart(Arc::new(apart));
    let honest = rendering("{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}");
    assert_eq!(templates.render(&honest).expect("a prompt"), "<user>hello");
    // More at once than there are processes for: they wait for each other.
    std::thread::scope(|scope| {
        let at_once = || templates.render(&honest).expect("a prompt");
        let all: Vec<_> = (0..20).map(|_| scope.spawn(at_once)).collect();
        for one in all {
            assert_eq!(one.join().expect("no panic"), "<user>hello");
        }
    });
    // 5 * 2^50 bytes.
    let doubled = format!(
        "{{% set x = 'hello' %}}{}",
        "{% set x = x ~ x %}".repeat(50)
    );
    let captured = format!(
        "{{% set x = 'hello' %}}{}",
        "{% set x %}{{ x }}{{ x }}{% endset %}".repeat(50)
    );
    for template in [&doubled, &captured] {
        let lost = templates.render(&rendering(template));
        assert!(
            matches!(lost, Err(RenderError::Lost(ApartError::Limits(_)))),
            "{lost:?}"
        );
        assert_eq!(templates.render(&honest).expect("a prompt"), "<user>hello");
    }
    let refused = templates.render(&rendering("{{ raise_exception('roles must alternate') }}"));
    assert!(
        matches!(&refused, Err(RenderError::Refused(error)) if error.to_string().contains("alternate")),
        "{refused:?}"
    );
}
