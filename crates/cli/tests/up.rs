//! `stoa up` as a process: what it refuses, how it ends, what it goes on from.

use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const PATIENCE: Duration = Duration::from_secs(60);

fn stoa(data: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stoa"));
    command
        .env_remove("STOA_DATA")
        .arg("--data")
        .arg(data)
        .stdin(Stdio::null());
    command
}

fn output(command: &mut Command) -> (bool, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().expect("starts");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (status.success(), text(stdout), text(stderr))
}

/// The last line on standard error of a start that must be refused.
fn refused(data: &Path, args: &[&str]) -> String {
    let mut command = stoa(data);
    let child = command
        .arg("up")
        .args(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut up = Up {
        child: child.expect("starts"),
        ready: Value::Null,
    };
    let (out, err) = (up.child.stdout.take(), up.child.stderr.take());
    // A start that is not refused would run for ever: its first line ends it.
    let mut line = String::new();
    let read = BufReader::new(out.expect("piped")).read_line(&mut line);
    assert_eq!(read.expect("reads"), 0, "`up {args:?}` started: {line}");
    let mut log = String::new();
    let read = err.expect("piped").read_to_string(&mut log);
    read.expect("UTF-8");
    assert!(!up.end().success(), "`up {args:?}` ended well");
    log.lines().last().unwrap_or_default().to_owned()
}

struct Up {
    child: Child,
    ready: Value,
}

impl Up {
    fn start(data: &Path, args: &[&str]) -> Self {
        Self::wait(stoa(data).args(["up", "--json", "--port", "0"]).args(args))
    }

    fn wait(command: &mut Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starts");
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        stdout.read_line(&mut line).expect("reads");
        // From here on nobody reads standard output, nor ever standard error: the pipe breaks.
        if line.is_empty() {
            let mut log = String::new();
            let stderr = child.stderr.take().expect("piped");
            let _ = BufReader::new(stderr).read_to_string(&mut log);
            panic!("not ready:\n{log}");
        }
        drop(child.stderr.take());
        let ready = serde_json::from_str(&line).expect("one line of JSON");
        Self { child, ready }
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args([name, &pid]).status();
        assert!(sent.expect("kill runs").success());
    }

    fn end(&mut self) -> ExitStatus {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait().expect("waits") {
                return status;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("it did not end");
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The second provider is by far the cheapest: it gets the calls.
const CHEAP_SECOND: &str = r#"
[[providers]]
region = "XA"
input_price = "100"
output_price = "100"

[[providers]]
region = "XB"
input_price = "1"
output_price = "1"
"#;

fn config(folder: &Path, text: &str) -> String {
    let path = folder.join("my.toml");
    fs::write(&path, text).expect("writes");
    path.to_str().expect("UTF-8").to_owned()
}

#[test]
fn a_network_goes_on_from_its_state_with_fewer_providers_and_ends_by_either_signal() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let data = folder.path().join("data");
    let config = config(folder.path(), CHEAP_SECOND);
    let options = [
        "--config",
        &config,
        "--providers",
        "2",
        "--batch-seconds",
        "1",
    ];
    let mut up = Up::start(&data, &options);
    assert_eq!(up.ready["ready"], true);
    let (ok, answer, err) = output(stoa(&data).args(["ask", "Hello", "--json"]));
    assert!(ok, "{err}");
    let answer: Value = serde_json::from_str(&answer).expect("JSON");
    let provider = answer["stoa"]["receipt"]["receipt"]["provider"].clone();
    let (ok, _, err) = output(stoa(&data).arg("audit"));
    assert!(!ok && err.contains("in use by another process"), "{err}");
    up.signal("-INT");
    assert!(
        up.end().success(),
        "Ctrl-C ends it in order, though nobody reads its log"
    );

    let (ok, told, err) = output(stoa(&data).args(["audit", "--json"]));
    assert!(ok, "{err}");
    let audit: Value = serde_json::from_str(&told).expect("JSON");
    assert_eq!(audit["charged"].as_object().expect("jobs").len(), 1);
    assert_eq!(audit["conserved"], true);
    let network = fs::read_to_string(data.join("network.json")).expect("reads");
    let network: Value = serde_json::from_str(&network).expect("JSON");
    assert_eq!(
        network["providers"][1], provider,
        "the second one computed it"
    );

    let chain = up.ready["chain_id"].clone();
    let mut up = Up::start(&data, &["--config", &config, "--providers", "1"]);
    assert_eq!(up.ready["chain_id"], chain);
    // The provider that earned does not run now; its key is there, and so is its money.
    let end = Instant::now() + PATIENCE;
    loop {
        let (ok, told, err) = output(stoa(&data).args(["claim", "--json"]));
        assert!(ok, "{err}");
        let rows: Value = serde_json::from_str(&told).expect("JSON");
        let rows = rows.as_array().expect("rows");
        let row = rows.iter().find(|row| row["provider"] == provider);
        if row.is_some_and(|row| row["paid"] != "0") {
            break;
        }
        assert!(Instant::now() < end, "never paid: {told}");
        std::thread::sleep(Duration::from_millis(200));
    }
    up.signal("-TERM");
    assert!(up.end().success());
}

#[test]
fn a_start_that_is_refused_changes_and_deletes_nothing() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let data = folder.path().join("data");
    fs::create_dir(&data).expect("made");
    fs::write(data.join("thesis.tex"), "dear").expect("writes");
    let told = refused(&data, &["--fresh", "--port", "0"]);
    assert!(told.contains("thesis.tex"), "{told}");
    assert!(data.join("thesis.tex").exists());

    let data = folder.path().join("other");
    fs::create_dir(&data).expect("made");
    fs::write(data.join("chain.redb"), "dear").expect("writes");
    let taken = TcpListener::bind("127.0.0.1:0").expect("binds");
    let port = taken.local_addr().expect("bound").port().to_string();
    let bad = config(folder.path(), "[up]\nprot = 1");
    let reserved = folder.path().join("reserved.toml");
    fs::write(&reserved, "[provider]\nreserved_percent = 100").expect("writes");
    let reserved = reserved.to_str().expect("UTF-8");
    for (args, named) in [
        (&["--fresh", "--port", &port][..], "cannot be used"),
        (&["--fresh", "--port", "0", "--providers", "0"], "1 to 100"),
        (
            &["--fresh", "--port", "0", "--batch-seconds", "0"],
            "1 to 3600",
        ),
        (
            &["--fresh", "--port", "0", "--ticket-seconds", "4"],
            "5 to 120",
        ),
        (&["--fresh", "--port", "0", "--profile", "none"], "none"),
        (
            &["--fresh", "--port", "0", "--model", "/no/such.gguf"],
            "/no/such.gguf",
        ),
        (&["--fresh", "--port", "0", "--config", &bad], "prot"),
        (
            &["--fresh", "--port", "0", "--config", reserved],
            "no room for a job",
        ),
        (&["--port", "0"], "profile.toml"),
    ] {
        let told = refused(&data, args);
        assert!(told.contains(named), "{args:?}: {told}");
        assert_eq!(
            fs::read(data.join("chain.redb")).expect("there"),
            b"dear",
            "{args:?}"
        );
    }
}

#[test]
fn what_a_network_cannot_go_on_without_is_named_and_not_made_anew() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let data = folder.path().join("data");
    let mut up = Up::start(&data, &["--providers", "1"]);
    up.signal("-INT");
    assert!(up.end().success());
    let options = ["--port", "0", "--providers", "1"];
    for file in ["profile.toml", "chain.redb"] {
        let (path, aside) = (data.join(file), folder.path().join(file));
        fs::rename(&path, &aside).expect("moved");
        let told = refused(&data, &options);
        assert!(told.contains(file) && told.contains("backup"), "{told}");
        assert!(!path.exists(), "{file} was made anew");
        fs::rename(&aside, &path).expect("moved back");
    }
    for bytes in [&b"name = "[..], b"\xff\xfe"] {
        let (path, aside) = (data.join("profile.toml"), folder.path().join("profile"));
        fs::rename(&path, &aside).expect("moved");
        fs::write(&path, bytes).expect("writes");
        let told = refused(&data, &options);
        assert!(told.contains("profile.toml"), "{told}");
        assert_eq!(fs::read(&path).expect("there"), bytes, "it was overwritten");
        fs::rename(&aside, &path).expect("moved back");
    }
    drop(Up::start(&data, &["--providers", "1"]));
}

#[test]
fn a_provider_takes_no_call_outside_its_window_and_the_client_is_told() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970");
    // 1970-01-01 was a Thursday. Three days from now is neither today nor tomorrow in any time zone.
    let days = ["thu", "fri", "sat", "sun", "mon", "tue", "wed"];
    let other = days[usize::try_from(since.as_secs() / 86_400 + 3).expect("fits") % 7];
    let text = format!("[provider]\nwindows = [\"{other} 00:00-24:00\"]");
    let config = config(folder.path(), &text);
    let data = folder.path().join("data");
    let _up = Up::start(&data, &["--config", &config, "--providers", "1"]);
    // The window is looked at once a second.
    std::thread::sleep(Duration::from_millis(1500));
    let (ok, out, err) = output(stoa(&data).args(["ask", "Hello"]));
    assert!(!ok && out.is_empty(), "{out}");
    assert!(err.contains("stoa: "), "{err}");
    let (ok, told, _) = output(stoa(&data).args(["account", "--json"]));
    let account: Value = serde_json::from_str(&told).expect("JSON");
    assert!(ok && account["charged"] == "0", "{told}");
}

#[test]
fn a_network_whose_folder_is_deleted_says_so_and_ends() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let data = folder.path().join("data");
    let mut up = Up::start(&data, &["--providers", "1"]);
    fs::rename(&data, folder.path().join("gone")).expect("moved");
    assert!(!up.end().success());
}

#[test]
fn a_full_output_is_an_error_and_a_closed_one_is_not() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let data = folder.path().join("data");
    let _up = Up::start(&data, &["--providers", "1"]);
    let full = fs::File::options().write(true).open("/dev/full");
    if let Ok(full) = full {
        let told = stoa(&data)
            .args(["jobs", "--json"])
            .stdout(full)
            .output()
            .expect("starts");
        let err = String::from_utf8_lossy(&told.stderr);
        assert!(
            !told.status.success() && err.contains("output cannot be written"),
            "{err}"
        );
    }
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let told = stoa(&data)
        .arg("providers")
        .stdout(writer)
        .output()
        .expect("starts");
    assert!(
        told.status.success(),
        "{}",
        String::from_utf8_lossy(&told.stderr)
    );
}
