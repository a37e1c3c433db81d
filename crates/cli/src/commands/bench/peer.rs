//! llama.cpp in a process of its own, measured a round at a time.

use super::{EngineArgs, Round, SHORT};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Stdio};
use std::thread::{self, JoinHandle};

const SCRIPT: &str = include_str!("llama_cpp.py");
/// Longest line that is read.
const LINE_BYTES_MAX: u64 = 1 << 16;
/// So much is shown of what it said last.
const SAID_CHARS_MAX: usize = 500;

/// Why it cannot be measured.
#[derive(Debug, thiserror::Error)]
pub(super) enum PeerError {
    /// No Python there.
    #[error("{python} cannot be started: {error}; name a Python with --python")]
    Start {
        /// What was tried.
        python: String,
        /// Why not.
        error: std::io::Error,
    },
    /// It ended before it was ready.
    #[error(
        "its Python ended: {said}; `pip install xllamacpp` installs the package, --python names the Python that has it"
    )]
    NotReady {
        /// The last line that it wrote.
        said: String,
    },
    /// It ended later.
    #[error("its Python ended: {said}")]
    Ended {
        /// The last line that it wrote.
        said: String,
    },
    /// It wrote something else.
    #[error("its Python wrote what is no measure: {line}")]
    Malformed {
        /// What.
        line: String,
    },
}

/// The process. Dropping it ends it.
pub(super) struct Peer {
    child: Child,
    ask: ChildStdin,
    told: BufReader<ChildStdout>,
    /// Gives the last line of its standard error, which is read all the time: it would wait for room in the pipe.
    errors: Option<JoinHandle<String>>,
    /// Of the package.
    pub version: String,
}

#[derive(Deserialize)]
struct Hello {
    version: String,
}

impl Peer {
    /// Starts it with the file loaded.
    pub fn start(python: &Path, file: &Path, args: &EngineArgs) -> Result<Self, PeerError> {
        let mut command = Command::new(python);
        command.arg("-c").arg(SCRIPT).arg(file);
        for number in [args.prompt, SHORT, args.tokens, args.threads, args.batch] {
            command.arg(number.to_string());
        }
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let start = |error| PeerError::Start {
            python: python.display().to_string(),
            error,
        };
        let mut child = command.spawn().map_err(start)?;
        let errors = child
            .stderr
            .take()
            .map(|errors| thread::spawn(move || last_line(errors)));
        let pipes = (child.stdin.take(), child.stdout.take());
        let (Some(ask), Some(told)) = pipes else {
            return Err(start(std::io::Error::other("no pipes to it")));
        };
        let mut peer = Self {
            child,
            ask,
            told: BufReader::new(told),
            errors,
            version: String::new(),
        };
        let hello = peer.read::<Hello>().map_err(|error| match error {
            PeerError::Ended { said } => PeerError::NotReady { said },
            other => other,
        });
        peer.version = hello?.version;
        Ok(peer)
    }

    /// Measures one round.
    pub fn round(&mut self, number: u32) -> Result<Round, PeerError> {
        if writeln!(self.ask, "{number}").is_err() {
            return Err(self.ended());
        }
        self.read()
    }

    fn read<T: DeserializeOwned>(&mut self) -> Result<T, PeerError> {
        let mut line = String::new();
        let read = (&mut self.told).take(LINE_BYTES_MAX).read_line(&mut line);
        if !read.is_ok_and(|count| count > 0) {
            return Err(self.ended());
        }
        let line = line.trim().to_owned();
        serde_json::from_str(&line).map_err(|_| PeerError::Malformed { line })
    }

    fn ended(&mut self) -> PeerError {
        let _ = self.child.kill();
        let said = self.errors.take().and_then(|errors| errors.join().ok());
        let said = said.filter(|said| !said.is_empty());
        PeerError::Ended {
            said: said.unwrap_or_else(|| "without a word".to_owned()),
        }
    }
}

fn last_line(errors: ChildStderr) -> String {
    let mut last = String::new();
    for line in BufReader::new(errors).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line);
        let line = line.trim();
        if !line.is_empty() {
            last = line.chars().take(SAID_CHARS_MAX).collect();
        }
    }
    last
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
