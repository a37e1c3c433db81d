//! The whole network as a user meets it: the release binary, the openai package, the README's commands, and kill -9 under load.
//! Needs Python for the clients; everything runs on loopback.

use crate::ci::{plain, root, target};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Kills in the kill -9 loop, unless `STOA_E2E_KILLS` says otherwise.
const KILLS: u32 = 8;
const READY_WITHIN: Duration = Duration::from_secs(60);

type Outcome<T = ()> = Result<T, String>;

/// Runs all of it.
pub fn run() -> Outcome {
    let work = std::env::temp_dir().join(format!("stoa-e2e-{}", std::process::id()));
    std::fs::create_dir_all(&work).map_err(|e| format!("cannot create {}: {e}", work.display()))?;
    let python = python(&work)?;
    let result = paid_call(&work, &python)
        .and_then(|()| upstream(&work, &python))
        .and_then(|()| engine_bench(&work, &python))
        .and_then(|()| conformance(&work, &python))
        .and_then(|()| kills(&work, &python))
        .and_then(|()| readme(&work));
    let _ = std::fs::remove_dir_all(&work);
    result
}

fn stoa() -> PathBuf {
    target("release").join("stoa")
}

/// A virtual environment with the pinned clients.
fn python(work: &Path) -> Outcome<PathBuf> {
    let venv = work.join("venv");
    run_command(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
    let pip = venv.join("bin/pip");
    run_command(
        Command::new(pip)
            .args(["install", "-q", "-r"])
            .arg(root().join("tests/e2e/requirements.txt")),
    )?;
    Ok(venv.join("bin/python"))
}

fn run_command(command: &mut Command) -> Outcome<String> {
    let shown = format!("{command:?}");
    let output = plain(command)
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("{shown} did not start: {e}"))?;
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    if output.status.success() {
        Ok(out.into_owned())
    } else {
        Err(format!("{shown} failed:\n{out}{err}"))
    }
}

/// A running network that is stopped when dropped.
struct Network {
    child: Child,
    ready: Value,
}

impl Network {
    fn start(data: &Path, options: &[&str]) -> Outcome<Self> {
        let mut command = Command::new(stoa());
        command
            .args(["up", "--json", "--port", "0", "--data"])
            .arg(data)
            .args(options);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::from(log(data)?));
        let mut child = command
            .spawn()
            .map_err(|e| format!("`stoa up` did not start: {e}"))?;
        let stdout = child.stdout.take().ok_or("no standard output")?;
        let (send, receive) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = send.send(line);
            }
        });
        let line = receive.recv_timeout(READY_WITHIN);
        let mut network = Self {
            child,
            ready: Value::Null,
        };
        let line = line.map_err(|_| {
            format!(
                "`stoa up` was not ready within {READY_WITHIN:?}:\n{}",
                tail(data)
            )
        })?;
        network.ready =
            serde_json::from_str(&line).map_err(|e| format!("`{line}` is not JSON: {e}"))?;
        Ok(network)
    }

    fn text(&self, key: &str) -> &str {
        self.ready[key].as_str().unwrap_or_default()
    }

    fn model(&self) -> &str {
        self.ready["models"][0].as_str().unwrap_or_default()
    }

    fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Ctrl-C, and the exit that must follow.
    fn interrupt(mut self) -> Outcome {
        run_command(Command::new("kill").args(["-INT", &self.child.id().to_string()]))?;
        let end = Instant::now() + Duration::from_secs(30);
        while Instant::now() < end {
            if let Ok(Some(status)) = self.child.try_wait() {
                return if status.success() {
                    Ok(())
                } else {
                    Err(format!("`stoa up` ended with {status} after Ctrl-C"))
                };
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Err("`stoa up` did not stop within 30 s of Ctrl-C".to_owned())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn log(data: &Path) -> Outcome<std::fs::File> {
    let path = data.with_extension("log");
    let file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path);
    file.map_err(|e| format!("cannot open {}: {e}", path.display()))
}

fn tail(data: &Path) -> String {
    let text = std::fs::read_to_string(data.with_extension("log")).unwrap_or_default();
    text.lines()
        .rev()
        .take(15)
        .collect::<Vec<_>>()
        .into_iter()
        .rev()
        .collect::<Vec<_>>()
        .join("\n")
}

fn command(data: &Path, args: &[&str]) -> Outcome<String> {
    run_command(Command::new(stoa()).args(args).arg("--data").arg(data))
}

/// What a command with `--json` prints.
fn json(data: &Path, args: &[&str]) -> Outcome<Value> {
    let told = command(data, &[args, &["--json"]].concat())?;
    serde_json::from_str(&told)
        .map_err(|e| format!("`stoa {} --json` printed `{told}`: {e}", args.join(" ")))
}

/// The openai package; then one call from its answer to a settled receipt, recomputed; every command with `--json`.
fn paid_call(work: &Path, python: &Path) -> Outcome {
    let data = work.join("paid");
    let network = Network::start(&data, &["--batch-seconds", "2"])?;
    println!("ready in {} ms", network.ready["ready_ms"]);
    let script = root().join("tests/e2e/openai_client.py");
    let client = Command::new(python)
        .arg(script)
        .args([network.text("api"), network.text("key")])
        .output();
    let client = client.map_err(|e| format!("the client did not start: {e}"))?;
    print!("{}", String::from_utf8_lossy(&client.stdout));
    if !client.status.success() {
        return Err(format!(
            "the openai client failed:\n{}\n{}",
            String::from_utf8_lossy(&client.stderr),
            tail(&data)
        ));
    }
    let file = work.join("receipt.json");
    let path = file.to_string_lossy().into_owned();
    command(&data, &["ask", "Hello", "--save", &path])?;
    command(&data, &["receipt", &path, "--wait"])?;
    let model = root()
        .join("models/stoa-tiny/stoa-tiny.Q8_0.gguf")
        .to_string_lossy()
        .into_owned();
    let report = run_command(Command::new(stoa()).args([
        "verify",
        &path,
        "--rpc",
        network.text("rpc"),
        "--rerun",
        &model,
    ]))?;
    if report.contains("not checked") {
        return Err(format!(
            "a settled receipt with its model at hand leaves something unchecked:\n{report}"
        ));
    }
    changed_bytes(&file)?;
    settle(&data)?;
    network.interrupt()
}

/// llama.cpp's own server on the default model's file, and providers that serve through it: calls, receipts, the doctor's word, what
/// Stoa adds to it, and the error when it is gone. Then what it adds where a token costs eight times as much.
fn upstream(work: &Path, python: &Path) -> Outcome {
    let model = root().join("models/stoa-tiny/stoa-tiny.Q8_0.gguf");
    served(&model, python, |server, url| {
        through(server, url, work, python)
    })?;
    let deeper = work.join("deeper.gguf");
    let mut make = Command::new(python);
    make.arg(root().join("tests/e2e/deeper_model.py"));
    run_command(make.arg(&model).arg(&deeper).arg("8"))?;
    served(&deeper, python, |_, url| {
        let data = work.join("upstream-deeper");
        let network = Network::start(&data, &upstream_options(url))?;
        added(
            python,
            url,
            &network,
            "deeper",
            ["20", "8", "2", "200", "1"],
        )?;
        network.interrupt()
    })
}

/// The engine's bench, short, on the default model's file: what it prints is there, and it says what it lacks.
fn engine_bench(work: &Path, python: &Path) -> Outcome {
    let model = root().join("models/stoa-tiny/stoa-tiny.Q8_0.gguf");
    let (model, python) = (model.to_string_lossy(), python.to_string_lossy());
    let bench = |python: &str, tokens: &str| {
        let amount = ["--rounds", "2", "--prompt", "128", "--tokens", tokens];
        let mut words = vec!["bench", "engine", "--model", &*model, "--python", python];
        words.extend(amount);
        json(&work.join("bench"), &words)
    };
    let both = bench(&python, "64")?;
    let ratio = |key: &str| {
        let ratio = both[key].as_f64().filter(|ratio| *ratio > 0.0);
        ratio.ok_or_else(|| format!("the engine's bench gives no {key}: {both}"))
    };
    println!(
        "engine, default model, per CPU second, times llama.cpp: decode {:.2}, prefill {:.2}",
        ratio("decode_ratio_to_llama_cpp")?,
        ratio("prefill_ratio_to_llama_cpp")?
    );
    let alone = bench("python-that-is-not-there", "8")?;
    let ours = alone["stoa"]["decode_per_cpu_second"].as_f64();
    if ours.is_none_or(|rate| rate <= 0.0) || !alone["llama_cpp"].is_null() {
        return Err(format!("without llama.cpp the bench says {alone}"));
    }
    Ok(())
}

/// Runs llama.cpp's server beside a test.
fn served(model: &Path, python: &Path, test: impl FnOnce(&mut Child, &str) -> Outcome) -> Outcome {
    let mut server = Command::new(python)
        .arg(root().join("tests/e2e/llama_server.py"))
        .arg(model)
        .arg("8")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| format!("llama.cpp's server did not start: {e}"))?;
    let mut url = String::new();
    let out = server.stdout.take().ok_or("no standard output")?;
    let read = BufReader::new(out).read_line(&mut url);
    let result = read
        .map_err(|e| e.to_string())
        .and_then(|_| test(&mut server, url.trim()));
    let _ = server.kill();
    let _ = server.wait();
    result
}

fn upstream_options(url: &str) -> [&str; 6] {
    [
        "--batch-seconds",
        "2",
        "--providers",
        "2",
        "--upstream",
        url,
    ]
}

/// Prints what Stoa adds to the server.
fn added(python: &Path, url: &str, network: &Network, model: &str, amount: [&str; 5]) -> Outcome {
    let mut bench = Command::new(python);
    bench.arg(root().join("tests/e2e/upstream_bench.py"));
    bench.args([url, model, network.text("api"), network.text("key"), model]);
    print!("upstream, {model}: {}", run_command(bench.args(amount))?);
    Ok(())
}

/// Its file's name without the ending: how a path on the provider's machine is offered.
const UPSTREAM_MODEL: &str = "stoa-tiny.Q8_0";

fn through(server: &mut Child, url: &str, work: &Path, python: &Path) -> Outcome {
    let data = work.join("upstream");
    let doctor = json(&data, &["doctor", "--upstream", url])?;
    if doctor["upstream"]["server"] != "llama.cpp" || doctor["upstream"]["conforms"] != true {
        return Err(format!("the doctor does not know llama.cpp: {doctor}"));
    }
    let network = Network::start(&data, &upstream_options(url))?;
    let script = |name: &str| root().join("tests/e2e").join(name);
    let called = run_command(
        Command::new(python)
            .arg(script("upstream_client.py"))
            .args([network.text("api"), network.text("key"), UPSTREAM_MODEL]),
    );
    print!("{}", called.map_err(|e| format!("{e}\n{}", tail(&data)))?);
    let file = work.join("upstream.json");
    let path = file.to_string_lossy().into_owned();
    let ask = ["ask", "Hello", "--model", UPSTREAM_MODEL, "--save", &path];
    command(&data, &ask)?;
    command(&data, &["receipt", &path, "--wait"])?;
    let mut verify = Command::new(stoa());
    let report = run_command(verify.args(["verify", &path, "--rpc", network.text("rpc")]))?;
    if report.contains("FALSE") || !report.contains("nothing to recompute") {
        return Err(format!(
            "a receipt of tier none is not told as one:\n{report}"
        ));
    }
    let amount = ["40", "8", "2", "200", "5"];
    added(python, url, &network, UPSTREAM_MODEL, amount)?;
    server.kill().map_err(|e| e.to_string())?;
    server.wait().map_err(|e| e.to_string())?;
    match command(&data, &ask) {
        Err(told) if told.contains("status 50") => {}
        other => return Err(format!("the server is gone, and a call says {other:?}")),
    }
    network.interrupt()
}

/// Public suites: openai-python's own tests, schemathesis over our description; keys and retries over the real router.
fn conformance(work: &Path, python: &Path) -> Outcome {
    let data = work.join("conformance");
    let folder = work.join("suites");
    std::fs::create_dir_all(&folder).map_err(|e| e.to_string())?;
    let network = Network::start(&data, &["--batch-seconds", "2"])?;
    let script = root().join("tests/e2e/conformance.py");
    let mut suites = Command::new(python);
    suites
        .arg(script)
        .args([network.text("api"), network.text("key"), network.model()])
        .arg(&folder);
    let told = run_command(&mut suites).map_err(|error| format!("{error}\n{}", tail(&data)))?;
    print!("{told}");
    network.interrupt()?;
    let mut killed = Command::new(python);
    killed
        .arg(root().join("tests/e2e/kill_keys.py"))
        .arg(stoa());
    print!("{}", run_command(killed.arg(work.join("kill-keys")))?);
    Ok(())
}

/// Some changed bytes through the binary itself; `verify`'s own tests change every one.
fn changed_bytes(file: &Path) -> Outcome {
    let bytes = std::fs::read(file).map_err(|e| e.to_string())?;
    let changed_file = file.with_extension("changed");
    for position in (0..bytes.len()).step_by(bytes.len() / 40) {
        let mut changed = bytes.clone();
        changed[position] ^= 1;
        std::fs::write(&changed_file, &changed).map_err(|e| e.to_string())?;
        if run_command(Command::new(stoa()).arg("verify").arg(&changed_file)).is_ok() {
            return Err(format!(
                "byte {position} of the receipt file can change unnoticed"
            ));
        }
    }
    Ok(())
}

/// Waits until the payout is claimable, claims, withdraws, and looks at everything.
fn settle(data: &Path) -> Outcome {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let claims = json(data, &["claim"])?;
        let paid = claims
            .as_array()
            .into_iter()
            .flatten()
            .any(|c| c["paid"].as_str().is_some_and(|p| p != "0"));
        if paid {
            break;
        }
        if Instant::now() > end {
            return Err(format!(
                "nothing was claimable within 60 s: {claims}\n{}",
                tail(data)
            ));
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    json(data, &["account"])?;
    json(data, &["providers"])?;
    json(data, &["withdraw", "1"])?;
    let jobs = json(data, &["jobs"])?;
    let job = jobs[0]["job"].as_str().ok_or("no job is listed")?;
    json(data, &["explain", job])?;
    command(data, &["explain", job]).map(drop)
}

/// Kills the process at moments spread over its life while requests arrive; nothing acknowledged may be lost or doubled.
fn kills(work: &Path, python: &Path) -> Outcome {
    let count = std::env::var("STOA_E2E_KILLS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(KILLS);
    let data = work.join("kills");
    let mut acknowledged: BTreeMap<String, String> = BTreeMap::new();
    let mut slowest = Duration::ZERO;
    for round in 0..count {
        let began = Instant::now();
        let network = Network::start(&data, &["--batch-seconds", "1"])?;
        slowest = slowest.max(began.elapsed());
        let out = work.join("load.json");
        let mut load = Command::new(python);
        load.arg(root().join("tests/e2e/load.py")).args([
            network.text("api"),
            network.text("key"),
            network.model(),
            "20",
            "2",
        ]);
        let mut load = load
            .arg(&out)
            .stdout(Stdio::null())
            .spawn()
            .map_err(|e| e.to_string())?;
        // A fixed spread over the two seconds of load: the schedule is the same in every run, the interleaving is not.
        std::thread::sleep(Duration::from_millis(150 + u64::from(round * 373 % 2000)));
        network.kill();
        load.wait().map_err(|e| e.to_string())?;
        let text = std::fs::read_to_string(&out).map_err(|e| e.to_string())?;
        let calls: Vec<Value> = serde_json::from_str(&text).map_err(|e| e.to_string())?;
        for call in calls {
            if let (Some(job), Some(charge)) = (call["job"].as_str(), call["charge"].as_str()) {
                acknowledged.insert(job.to_owned(), charge.to_owned());
            }
        }
    }
    // One more start recovers what the last kill left open; a stopped network can be audited from its journal.
    Network::start(&data, &["--batch-seconds", "1"])?.interrupt()?;
    let audit = json(&data, &["audit"])?;
    let charged = audit["charged"]
        .as_object()
        .ok_or("no charges in the audit")?;
    for (job, charge) in &acknowledged {
        if charged.get(job).and_then(Value::as_str) != Some(charge) {
            return Err(format!(
                "{job} was acknowledged with charge {charge}, the books say {:?}",
                charged.get(job)
            ));
        }
    }
    if audit["conserved"] != true || audit["open"] != 0 {
        return Err(format!(
            "the books do not balance after {count} kills: {audit}"
        ));
    }
    println!(
        "{count} kills, {} acknowledged calls, slowest restart {slowest:?}",
        acknowledged.len()
    );
    Ok(())
}

/// The README's commands as they stand, in order, in one shell.
fn readme(work: &Path) -> Outcome {
    let text = std::fs::read_to_string(root().join("README.md")).map_err(|e| e.to_string())?;
    let blocks = text
        .split("```console\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next());
    let commands: Vec<&str> = blocks
        .flat_map(str::lines)
        .filter_map(|line| line.strip_prefix("$ "))
        .collect();
    let (first, rest) = commands
        .split_first()
        .ok_or("the README shows no commands")?;
    if !first.starts_with("cargo run --release -- up") {
        return Err(format!(
            "the README must start with the network, not with `{first}`"
        ));
    }
    // The first command builds; that time is not the network's.
    run_command(
        Command::new("cargo")
            .args(["build", "--release"])
            .current_dir(root()),
    )?;
    let data = work.join("readme");
    let mut up = Command::new("bash");
    up.args(["-c", &format!("exec {first}")])
        .env("STOA_DATA", &data)
        .current_dir(root());
    up.stdout(Stdio::null()).stderr(Stdio::from(log(&data)?));
    let child = plain(&mut up).spawn().map_err(|e| e.to_string())?;
    let network = Network {
        child,
        ready: Value::Null,
    };
    let end = Instant::now() + READY_WITHIN;
    while !data.join("network.json").exists() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(100));
    }
    std::thread::sleep(Duration::from_secs(1));
    for line in rest {
        let mut shell = Command::new("bash");
        shell
            .args(["-ec", line])
            .env("STOA_DATA", &data)
            .current_dir(root());
        run_command(&mut shell).map_err(|e| format!("README: {e}\n{}", tail(&data)))?;
        println!("README: {line}");
    }
    drop(network);
    Ok(())
}
