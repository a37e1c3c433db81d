//! Where chat templates are rendered: in this process, or in one of its own whose memory and processor time are limited.
//!
//! A template is a program that came with a model's file. The library that runs it bounds its steps, not what it keeps: forty lines that
//! double a text need a terabyte. So whoever serves files of others lets the program itself run once more and render there
//! ([`serve_renderings`]); what a template does to that process is an error of one request.

use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use stoa_engine::{EngineError, Rendering};

/// Most bytes of a message to or from the other process: a prompt at its longest, escaped.
const MESSAGE_BYTES_MAX: u32 = 512 << 20;
/// Most processes: each may take its memory at the same time. Further renderings wait.
const MOST: usize = 2;
/// How long they wait. An honest rendering takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(2);
/// Letters of what the library said that are told.
const REASON_MAX: usize = 1_000;

/// Where templates are rendered.
#[derive(Debug, Clone, Default)]
pub enum Templates {
    /// In this process: for files that one trusts.
    #[default]
    Here,
    /// In processes of their own.
    Apart(Arc<Apart>),
}

/// Processes that render.
#[derive(Debug)]
pub struct Apart {
    program: PathBuf,
    arguments: Vec<OsString>,
    pool: Mutex<Pool>,
    /// One came back, or ended.
    free: Condvar,
}

#[derive(Debug, Default)]
struct Pool {
    idle: Vec<Renderer>,
    at_work: usize,
}

/// Why there is no prompt.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// The template or what it was given is at fault: the same everywhere.
    #[error(transparent)]
    Refused(EngineError),
    /// The process that renders could not be started, or ended: of this machine, as its limits are.
    #[error(
        "the process that renders templates ended ({0}): the template took more memory or processor time than it may, or the process was killed"
    )]
    Lost(#[from] io::Error),
    /// Others render with this model's template, each of them for seconds.
    #[error("other prompts of this model are being made")]
    Busy,
}

/// What comes back from the other process.
#[derive(Serialize, Deserialize)]
enum Rendered {
    Prompt(String),
    /// What the library said.
    Refused(String),
}

impl Templates {
    /// In processes of `program`, which calls [`serve_renderings`] where it is given these arguments.
    pub fn apart(program: PathBuf, arguments: impl IntoIterator<Item = OsString>) -> Self {
        Self::Apart(Arc::new(Apart {
            program,
            arguments: arguments.into_iter().collect(),
            pool: Mutex::default(),
            free: Condvar::new(),
        }))
    }

    /// The prompt. Waits for it.
    pub fn render(&self, rendering: &Rendering<'_>) -> Result<String, RenderError> {
        match self {
            Self::Here => rendering.render().map_err(RenderError::Refused),
            Self::Apart(apart) => apart.render(rendering),
        }
    }
}

impl Apart {
    fn render(&self, rendering: &Rendering<'_>) -> Result<String, RenderError> {
        let place = self.place()?;
        let mut renderer = match self.kept() {
            Some(kept) => kept,
            None => self.start()?,
        };
        let rendered = match renderer.render(rendering) {
            Ok(rendered) => rendered,
            Err(error) => return Err(renderer.ended(&error).into()),
        };
        self.pool().idle.push(renderer);
        drop(place);
        match rendered {
            Rendered::Prompt(prompt) => Ok(prompt),
            Rendered::Refused(reason) => Err(RenderError::Refused(EngineError::Template(reason))),
        }
    }

    /// One that waits, and did not end meanwhile.
    fn kept(&self) -> Option<Renderer> {
        let mut pool = self.pool();
        std::iter::from_fn(|| pool.idle.pop()).find_map(|mut kept| {
            let ended = kept.child.try_wait();
            matches!(ended, Ok(None)).then_some(kept)
        })
    }

    /// Waits a little until one more process may be at work.
    fn place(&self) -> Result<Place<'_>, RenderError> {
        let full = |pool: &mut Pool| pool.at_work >= MOST;
        let waited = self.free.wait_timeout_while(self.pool(), PATIENCE, full);
        let (mut pool, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if full(&mut pool) {
            return Err(RenderError::Busy);
        }
        pool.at_work += 1;
        Ok(Place(self))
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(&self) -> io::Result<Renderer> {
        let mut command = Command::new(&self.program);
        // Nothing of this process's surroundings is a template's business.
        command.arg0("stoa").args(&self.arguments).env_clear();
        // A Ctrl-C in a terminal is this process's to answer: it lets running calls end.
        command.process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::null()).spawn()?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (input, output) = pipes.ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(Renderer {
            child,
            input: BufWriter::new(input),
            output: BufReader::new(output),
        })
    }
}

/// A rendering under way.
struct Place<'a>(&'a Apart);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.pool().at_work -= 1;
        self.0.free.notify_one();
    }
}

/// A process that renders. It ends when this is dropped.
#[derive(Debug)]
struct Renderer {
    child: Child,
    input: BufWriter<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Renderer {
    fn render(&mut self, rendering: &Rendering<'_>) -> io::Result<Rendered> {
        send(&mut self.input, rendering)?;
        receive(&mut self.output)?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    /// Ends it, and says how it ended if it did so by itself.
    fn ended(&mut self, error: &io::Error) -> io::Error {
        let _ = self.child.kill();
        match self.child.wait() {
            Ok(status) => io::Error::other(format!("{status}; {error}")),
            Err(_) => io::Error::other(error.to_string()),
        }
    }
}

impl Drop for Renderer {
    fn drop(&mut self) {
        // It keeps nothing; without the wait it would stay in the list of processes.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Renders what comes from `input`, one after the other, until it ends: the main loop of the other process, which has limited its own memory
/// before. `limit` is called before each rendering: processor time is limited for each.
pub fn serve_renderings(
    mut input: impl Read,
    mut output: impl Write,
    mut limit: impl FnMut() -> io::Result<()>,
) -> io::Result<()> {
    while let Some(bytes) = receive_bytes(&mut input)? {
        limit()?;
        let rendering: Rendering<'_> = serde_json::from_slice(&bytes)?;
        let rendered = match rendering.render() {
            Ok(prompt) => Rendered::Prompt(prompt),
            Err(EngineError::Template(reason)) => Rendered::Refused(short(&reason)),
            Err(other) => Rendered::Refused(short(&other.to_string())),
        };
        send(&mut output, &rendered)?;
    }
    Ok(())
}

/// A template may raise an error of any length.
fn short(reason: &str) -> String {
    reason.chars().take(REASON_MAX).collect()
}

fn send(output: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    output.write_all(&length.to_le_bytes())?;
    output.write_all(&bytes)?;
    output.flush()
}

fn receive<T: for<'a> Deserialize<'a>>(input: &mut impl Read) -> io::Result<Option<T>> {
    let bytes = receive_bytes(input)?;
    Ok(bytes
        .map(|bytes| serde_json::from_slice(&bytes))
        .transpose()?)
}

/// The next message; `None` where the other side has ended.
fn receive_bytes(input: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    if input.read(&mut length[..1])? == 0 {
        return Ok(None);
    }
    input.read_exact(&mut length[1..])?;
    let length = u32::from_le_bytes(length);
    if length > MESSAGE_BYTES_MAX {
        return Err(io::Error::other(format!("a message of {length} bytes")));
    }
    let mut bytes = Vec::new();
    input.take(u64::from(length)).read_to_end(&mut bytes)?;
    if bytes.len() < length as usize {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendering(template: &str) -> Rendering<'_> {
        Rendering {
            template: template.into(),
            messages: r#"[{"role":"user","content":"é"}]"#.into(),
            tools: None,
            arguments: "".into(),
            add_generation_prompt: true,
            begin: "<s>".into(),
            end: "</s>".into(),
            context: 4096,
        }
    }

    #[test]
    fn renderings_are_served_one_after_the_other_and_a_refusal_ends_nothing() {
        let mut asked = Vec::new();
        for template in [
            "{{ bos_token }}{{ messages[0].content }}",
            "{{ raise_exception('no' * 1000000) }}",
            "a",
        ] {
            send(&mut asked, &rendering(template)).expect("written");
        }
        let (mut answered, mut limits) = (Vec::new(), 0);
        let limit = || {
            limits += 1;
            Ok(())
        };
        serve_renderings(&asked[..], &mut answered, limit).expect("served");
        assert_eq!(limits, 3);
        let mut rest = &answered[..];
        let mut next = || receive::<Rendered>(&mut rest).expect("whole");
        assert!(matches!(next(), Some(Rendered::Prompt(text)) if text == "<s>é"));
        assert!(
            matches!(next(), Some(Rendered::Refused(reason)) if reason.contains("no") && reason.len() <= REASON_MAX)
        );
        assert!(matches!(next(), Some(Rendered::Prompt(text)) if text == "a"));
        assert!(next().is_none());
    }

    #[test]
    fn messages_that_break_off_or_are_too_long_are_errors_and_take_no_memory() {
        let mut whole = Vec::new();
        send(&mut whole, &rendering("a")).expect("written");
        for cut in 1..whole.len() {
            assert!(receive_bytes(&mut &whole[..cut]).is_err(), "{cut}");
        }
        assert!(receive_bytes(&mut &u32::MAX.to_le_bytes()[..]).is_err());
        let forged = MESSAGE_BYTES_MAX.to_le_bytes();
        assert!(receive_bytes(&mut &forged[..]).is_err());
    }

    #[test]
    fn a_process_that_ends_or_is_not_there_is_of_this_machine() {
        for program in ["/bin/false", "/nowhere/at/all"] {
            let apart = Templates::apart(program.into(), []);
            let error = apart.render(&rendering("a")).expect_err("nobody renders");
            assert!(matches!(error, RenderError::Lost(_)), "{error}");
        }
        assert_eq!(
            Templates::Here
                .render(&rendering("{{ 1 + 1 }}"))
                .expect("here"),
            "2"
        );
    }
}
