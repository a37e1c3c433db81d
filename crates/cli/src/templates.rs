//! The process that renders the chat templates of others' model files, and how it is started ([`stoa_runtime::Templates`]).

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use stoa_runtime::{Templates, serve_renderings};

/// The argument that makes this program such a process.
pub const COMMAND: &str = "render-templates";
/// Memory that it may have: the longest prompt a template may write, some times over.
const MEMORY_BYTES: u64 = 1 << 30;
/// Processor time of one rendering. The steps that a template may take need some seconds at most.
const SECONDS: u64 = 10;

/// Renders in processes of their own, for models whose files are not this program's.
pub fn apart() -> io::Result<Templates> {
    if cfg!(test) {
        // The program that runs these tests knows no such argument.
        return Ok(Templates::Here);
    }
    Ok(Templates::apart(this_program()?, [COMMAND.into()]))
}

/// This program as it runs, even where its file was replaced meanwhile.
fn this_program() -> io::Result<PathBuf> {
    let running = Path::new("/proc/self/exe");
    match running.exists() {
        true => Ok(running.to_owned()),
        false => std::env::current_exe(),
    }
}

/// Renders until nobody asks any more.
pub fn run() -> ExitCode {
    let served = limit_memory().and_then(|()| {
        let (input, output) = (io::stdin().lock(), io::stdout().lock());
        serve_renderings(input, output, limit_time)
    });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("stoa: {error}");
            ExitCode::FAILURE
        }
    }
}

fn limit_memory() -> io::Result<()> {
    // Where memory ends, this process goes before the one that holds the model. Elsewhere than on Linux there is no such file.
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    limit(Resource::Data, MEMORY_BYTES)?;
    limit(Resource::Core, 0)
}

fn limit_time() -> io::Result<()> {
    let used = clock_gettime(ClockId::ProcessCPUTime).tv_sec;
    limit(Resource::Cpu, used.unsigned_abs() + 1 + SECONDS)
}

/// Lowers the soft limit: the hard one may be lower already.
fn limit(resource: Resource, to: u64) -> io::Result<()> {
    let maximum = getrlimit(resource).maximum;
    let current = Some(maximum.map_or(to, |maximum| maximum.min(to)));
    Ok(setrlimit(resource, Rlimit { current, maximum })?)
}
