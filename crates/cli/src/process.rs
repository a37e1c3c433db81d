//! What the commands share with the terminal: where they write, and how they are told to stop.

use crate::log;
use std::fmt::Display;
use std::io::{self, ErrorKind, Write};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Why a command or a role could not go on: one sentence for whoever started it.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Writes a line to standard output. A reader that has gone (`| head -1`) has seen enough: that is no error.
pub fn say(text: impl Display) -> io::Result<()> {
    written(writeln!(io::stdout(), "{text}").and_then(|()| io::stdout().flush()))
}

/// Writes a line to standard error in the form of the log, likewise.
pub fn complain(text: impl Display) -> io::Result<()> {
    written(writeln!(io::stderr(), "{}", log::line(text)))
}

/// The first and the last line of what an error says: a parser draws the place between them.
pub fn one_line(error: impl Display) -> String {
    let text = error.to_string();
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    match (lines.next(), lines.next_back()) {
        (Some(first), Some(last)) => format!("{first}: {last}"),
        (first, _) => first.unwrap_or_default().to_owned(),
    }
}

fn written(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        Err(error) => {
            let reason = format!("the output cannot be written: {error}");
            Err(io::Error::new(error.kind(), reason))
        }
        Ok(()) => Ok(()),
    }
}

/// Stopped by Ctrl-C or SIGTERM before there was anything to drain. The process ends with the status that a shell gives whoever a signal
/// ended, so that a script does not take it for a role that did its work.
#[derive(Debug, thiserror::Error)]
#[error("stopped before it was ready")]
pub struct StoppedEarly {
    /// Status of the process: 128 and the signal's number.
    pub status: u8,
}

/// Ctrl-C or SIGTERM. From its making on, neither ends the process by itself.
pub struct StopSignal {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignal {
    /// Begins to listen.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for the next one.
    pub async fn wait(&mut self) {
        let _ = self.wait_early().await;
    }

    /// As [`StopSignal::wait`], for whoever is not ready yet.
    pub async fn wait_early(&mut self) -> StoppedEarly {
        let status = tokio::select! {
            _ = self.interrupt.recv() => 128 + 2,
            _ = self.terminate.recv() => 128 + 15,
        };
        StoppedEarly { status }
    }
}
