//! The processes that this program starts beside itself for what strangers wrote ([`stoa_runtime::Apart`]): one renders the chat templates
//! of others' model files, one tries the grammars that callers ask for.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use stoa_runtime::{
    Apart, ApartError, Grammars, Templates, Times, serve_grammars, serve_renderings,
};

/// What such a process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Renders chat templates.
    Templates,
    /// Tries grammars.
    Grammars,
}

/// The arguments that make this program such a process.
pub const RENDER_TEMPLATES: &str = "render-templates";
/// See [`RENDER_TEMPLATES`].
pub const TRY_GRAMMARS: &str = "try-grammars";

impl Work {
    fn command(self) -> &'static str {
        match self {
            Self::Templates => RENDER_TEMPLATES,
            Self::Grammars => TRY_GRAMMARS,
        }
    }

    /// Memory that it may have: the longest prompt a template may write, some times over; what is kept free beside a model for a grammar,
    /// 128 MiB of it a stack.
    fn memory_bytes(self) -> u64 {
        match self {
            Self::Templates => 1 << 30,
            Self::Grammars => 384 << 20,
        }
    }

    /// Processor time of one piece of work, up to a second more. The steps that a template may take need some seconds at most; a grammar is
    /// made again where the model is, in as much time.
    fn processor(self) -> Duration {
        Duration::from_secs(match self {
            Self::Templates => 2,
            Self::Grammars => 1,
        })
    }

    /// Time of one piece of work. One request's template and grammar, with the waiting for a process before each and the grammar made once
    /// more, take less than 10 seconds: then a router turns to the next provider (`first_token_ms_max`), which counts against the one before.
    fn times(self) -> Times {
        let wall = match self {
            Self::Templates => Duration::from_millis(3_500),
            Self::Grammars => Duration::from_millis(2_500),
        };
        Times {
            patience: Duration::from_millis(700),
            wall,
            processor: self.processor(),
        }
    }
}

/// How often a process is asked at the start that gives no answer: a machine that starts much at once is slow.
const STARTS: u32 = 3;

/// Renders in processes of their own, for models whose files are not this program's.
pub fn templates() -> io::Result<Templates> {
    Ok(apart(Work::Templates)?.map_or(Templates::Here, |apart| Templates::Apart(Arc::new(apart))))
}

/// Tries the grammars of calls, which anybody may write.
pub fn grammars() -> io::Result<Grammars> {
    let grammars = match apart(Work::Grammars)? {
        Some(apart) => Grammars::Apart(Arc::new(apart)),
        None => Grammars::Trusted,
    };
    // Or every schema of a caller would be refused, and nobody would know why.
    for left in (0..STARTS).rev() {
        match grammars.check() {
            Ok(()) => break,
            Err(error @ (ApartError::Interrupted(_) | ApartError::Busy)) if left == 0 => {
                tracing::warn!(%error, "no process that tries grammars of callers has answered yet");
            }
            Err(ApartError::Interrupted(_) | ApartError::Busy) => {}
            Err(error) => {
                let what = "grammars of callers cannot be tried beside this program";
                return Err(io::Error::other(format!("{what}: {error}")));
            }
        }
    }
    Ok(grammars)
}

/// Nothing in unit tests: the program that runs them knows no such argument.
fn apart(work: Work) -> io::Result<Option<Apart>> {
    if cfg!(test) {
        return Ok(None);
    }
    let arguments = [work.command().into()];
    Ok(Some(Apart::new(this_program()?, arguments, work.times())))
}

/// This program as it runs, even where its file was replaced meanwhile.
fn this_program() -> io::Result<PathBuf> {
    let running = Path::new("/proc/self/exe");
    match running.exists() {
        true => Ok(running.to_owned()),
        false => std::env::current_exe(),
    }
}

/// Works until nobody asks any more.
pub fn run(work: Work) -> ExitCode {
    let served = limit_memory(work).and_then(|()| {
        let (input, output) = (io::stdin(), io::stdout());
        let limit = || limit_time(work);
        match work {
            Work::Templates => serve_renderings(input, output, limit),
            Work::Grammars => serve_grammars(input, output, limit),
        }
    });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("stoa: {error}");
            ExitCode::FAILURE
        }
    }
}

fn limit_memory(work: Work) -> io::Result<()> {
    // Where memory ends, this process goes before the one that holds the model. Elsewhere than on Linux there is no such file.
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    limit(Resource::Data, work.memory_bytes())?;
    limit(Resource::Core, 0)
}

fn limit_time(work: Work) -> io::Result<()> {
    let used = clock_gettime(ClockId::ProcessCPUTime).tv_sec;
    limit(
        Resource::Cpu,
        used.unsigned_abs() + 1 + work.processor().as_secs(),
    )
}

/// Lowers the soft limit: the hard one may be lower already.
fn limit(resource: Resource, to: u64) -> io::Result<()> {
    let maximum = getrlimit(resource).maximum;
    let current = Some(maximum.map_or(to, |maximum| maximum.min(to)));
    Ok(setrlimit(resource, Rlimit { current, maximum })?)
}
