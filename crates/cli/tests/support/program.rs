//! The program on a data folder.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// How long something may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The program on a data folder.
pub fn stoa(data: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stoa"));
    command.env_remove("STOA_DATA").env_remove("RUST_LOG");
    command.env_remove("OTEL_EXPORTER_OTLP_ENDPOINT");
    command.arg("--data").arg(data).stdin(Stdio::null());
    command
}

/// What a command that must go well printed.
pub fn told(command: &mut Command) -> String {
    let output = command.output().expect("starts");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// What a command that must fail said.
pub fn refused(command: &mut Command) -> String {
    let output = command.output().expect("starts");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "it went well");
    error
}
