//! A network of roles as processes of their own.

use crate::program::{PATIENCE, stoa, told};
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use stoa_types::Address;

/// A role's process.
pub struct Role {
    pub child: Child,
    log: PathBuf,
    out: Option<BufReader<std::process::ChildStdout>>,
}

impl Role {
    pub fn spawn(data: &Path, args: &[&str]) -> Self {
        let log = data.with_extension("log");
        let mut child = stoa(data)
            .args(args)
            .arg("--json")
            .stdout(Stdio::piped())
            .stderr(fs::File::create(&log).expect("a log"))
            .spawn()
            .expect("starts");
        let out = child.stdout.take().map(BufReader::new);
        Self { child, log, out }
    }

    pub fn ready(&mut self) -> Value {
        let mut line = String::new();
        let out = self.out.as_mut().expect("piped");
        out.read_line(&mut line).expect("reads");
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("not ready: {log}"))
    }

    /// The account that waits for its stake.
    pub fn account(&self) -> Address {
        let end = Instant::now() + PATIENCE;
        loop {
            let log = fs::read_to_string(&self.log).expect("a log");
            let line = log
                .lines()
                .find(|line| line.starts_with("waiting for stake"));
            let word = line.and_then(|line| line.split(' ').find(|word| word.starts_with("0x")));
            if let Some(word) = word {
                return word.trim_end_matches(',').parse().expect("an account");
            }
            assert!(Instant::now() < end, "no word about stake: {log}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub fn stop(&mut self) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &pid]).status();
        assert!(sent.expect("kill runs").success());
        assert!(self.child.wait().expect("waits").success());
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a command printed, as JSON.
pub fn json(command: &mut Command) -> Value {
    serde_json::from_str(&told(command)).expect("JSON")
}

/// Chain, router, provider and developer, each with a folder of its own.
pub struct Hall {
    pub folder: tempfile::TempDir,
    pub chain: Value,
    pub paid: Address,
    _chain: Role,
    pub router: Role,
    pub provider: Role,
}

/// Starts the provider of the folder, with these options besides.
pub fn start_provider(folder: &tempfile::TempDir, options: &[&str]) -> Role {
    let text = |path: PathBuf| path.to_str().expect("UTF-8").to_owned();
    let at = |name: &str| folder.path().join(name);
    // Dear enough for fees of whole units.
    let (join, prices) = (text(at("chain").join("join.json")), text(at("prices.toml")));
    let dear = "[[providers]]\nregion = \"XA\"\ninput_price = \"100\"\noutput_price = \"400\"\n";
    fs::write(&prices, dear).expect("written");
    let any = "127.0.0.1:0";
    let args = ["provider", "--listen", any, "--metrics", any, "--config"];
    Role::spawn(
        &at("provider"),
        &[&args[..], &[&prices, "--join", &join], options].concat(),
    )
}

impl Hall {
    pub fn data(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Chain of this rhythm, router that knows the developer's key, provider with these options.
    pub fn open(rhythm: &[&str], of_provider: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        let text = |path: PathBuf| path.to_str().expect("UTF-8").to_owned();
        let mut chain = Role::spawn(&at("chain"), &[&["chain", "--port", "0"], rhythm].concat());
        let ready = chain.ready();
        let fund = |account: Address| {
            let account = account.to_string();
            told(stoa(&at("chain")).args(["fund", &account, "--stake", "100000"]));
        };
        let (join, settings) = (text(at("chain").join("join.json")), text(at("router.toml")));
        fs::write(&settings, "").expect("written");
        let start = |name: &str, args: &[&str]| {
            Role::spawn(&at(name), &[args, &["--join", &join]].concat())
        };
        let any = "127.0.0.1:0";
        let router_args = [
            "router",
            "--listen",
            any,
            "--api",
            any,
            "--metrics",
            any,
            "--config",
            &settings,
        ];
        let mut router = start("router", &router_args);
        let account = router.account();
        fund(account);
        let api = router.ready()["api"].as_str().expect("a URL").to_owned();
        router.stop();
        // The developer's key counts from the router's next start, which takes its port again.
        let at_api = api.trim_start_matches("http://").trim_end_matches("/v1");
        let router_args = [
            "router",
            "--listen",
            any,
            "--api",
            at_api,
            "--metrics",
            any,
            "--config",
            &settings,
        ];
        let account = account.to_string();
        let connected = json(stoa(&at("developer")).args([
            "connect", "--join", &join, "--router", &account, "--api", &api, "--json",
        ]));
        let (payer, hash) = (&connected["account"], &connected["key_hash"]);
        let known = format!("[router]\nkeys = [{{ account = {payer}, hash = {hash} }}]\n");
        fs::write(&settings, known).expect("written");
        let mut router = start("router", &router_args);
        router.ready();
        let mut provider = start_provider(&folder, of_provider);
        let paid = provider.account();
        fund(paid);
        provider.ready();
        Self {
            chain: ready,
            paid,
            _chain: chain,
            router,
            provider,
            folder,
        }
    }
}
