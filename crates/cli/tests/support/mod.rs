//! A network of `stoa up` as a process, as the tests of operations use it.

mod program;

pub use program::*;

use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A running `up` whose log goes to a file as JSON.
pub struct Up {
    child: Child,
    /// What it printed when it was ready.
    pub ready: Value,
}

impl Up {
    /// Starts it with a batch each second, and waits until it is ready.
    pub fn start(data: &Path, providers: u32, log: &Path) -> Self {
        Self::start_with(data, providers, log, &[], &[])
    }

    /// With these options and variables besides.
    pub fn start_with(
        data: &Path,
        providers: u32,
        log: &Path,
        options: &[&str],
        environment: &[(&str, &str)],
    ) -> Self {
        let child = stoa(data)
            .args(["up", "--json", "--port", "0", "--batch-seconds", "1"])
            .args(["--providers", &providers.to_string()])
            .args(options)
            .envs(environment.iter().copied())
            .env("STOA_LOG_FORMAT", "json")
            .stdout(Stdio::piped())
            .stderr(fs::File::create(log).expect("a log"))
            .spawn();
        let mut up = Self {
            child: child.expect("starts"),
            ready: Value::Null,
        };
        let mut line = String::new();
        let out = up.child.stdout.take().expect("piped");
        BufReader::new(out).read_line(&mut line).expect("reads");
        up.ready = serde_json::from_str(&line)
            .unwrap_or_else(|_| panic!("not ready: {}", fs::read_to_string(log).expect("a log")));
        up
    }

    /// Its metrics.
    pub fn scrape(&self) -> String {
        let url = self.ready["metrics"].as_str().expect("a URL");
        let address = url.strip_prefix("http://").expect("plain HTTP");
        let address = address.strip_suffix("/metrics").expect("a page");
        let mut stream = TcpStream::connect(address).expect("listens");
        stream
            .write_all(b"GET /metrics HTTP/1.0\r\n\r\n")
            .expect("sent");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("answered");
        text
    }

    /// Its metrics once they are as `wanted`.
    pub fn scrape_until(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            let page = self.scrape();
            if wanted(&page) {
                return page;
            }
            assert!(Instant::now() < end, "never {what}:\n{page}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits until `posts` batches were posted since the start.
    pub fn wait_for_posts(&self, posts: f64) -> String {
        const POSTED: &str = "stoa_router_chain_calls_total{call=\"post\",outcome=\"sent\"}";
        self.scrape_until("posted", |page| {
            value_of(page, POSTED).is_some_and(|posted| posted >= posts)
                && value_of(page, "stoa_router_batches_unposted") == Some(0.0)
        })
    }

    /// Stops it in order.
    pub fn stop(mut self) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &pid]).status();
        assert!(sent.expect("kill runs").success());
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if self.child.try_wait().expect("waits").is_some() {
                return;
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

/// The first value on the page whose line begins so.
pub fn value_of(page: &str, metric: &str) -> Option<f64> {
    let line = page.lines().find(|line| line.starts_with(metric))?;
    line.rsplit(' ').next()?.parse().ok()
}
