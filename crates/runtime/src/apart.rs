//! Work on what strangers wrote, in processes whose memory and processor time are limited: the program runs once more and does it there
//! ([`serve`]). What the work does to that process is an error of one request.

use rustix::process::Signal;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::io::{self, BufReader, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Most bytes of a message to or from the other process: a prompt at its longest, escaped.
const MESSAGE_BYTES_MAX: u32 = 512 << 20;
/// Most processes: each may take its memory at the same time. Further work waits.
const MOST: usize = 2;

/// Longest times of a piece of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// Until a process is free. Honest work takes milliseconds.
    pub patience: Duration,
    /// From then on, whatever it has computed: the machine may be busy.
    pub wall: Duration,
    /// Processor time that it may take: who is late and had it is at its limits, and not the machine. The process ends itself at no less.
    pub processor: Duration,
}

/// Processes that do one kind of work.
#[derive(Debug)]
pub struct Apart {
    program: PathBuf,
    arguments: Vec<OsString>,
    times: Times,
    pool: Mutex<Pool>,
    /// One came back, or ended.
    free: Condvar,
}

#[derive(Debug, Default)]
struct Pool {
    idle: Vec<Worker>,
    at_work: usize,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ApartError {
    /// Of this machine.
    #[error("the process could not be started: {0}")]
    NotStarted(io::Error),
    /// Of this machine: the process does not work here.
    #[error("the process failed: {0}")]
    Failed(io::Error),
    /// Of the work, as the limits of memory, stack and processor time are.
    #[error("the process ended at its limits: {0}")]
    Limits(io::Error),
    /// Of the moment: it gave no answer in time, or somebody stopped the process.
    #[error("the process did not come to its end: {0}")]
    Interrupted(io::Error),
    /// Of the moment: others work, each of them for seconds.
    #[error("all its processes are at work")]
    Busy,
}

impl Apart {
    /// Processes of `program`, which calls [`serve`] where it is given these arguments.
    pub fn new(
        program: PathBuf,
        arguments: impl IntoIterator<Item = OsString>,
        times: Times,
    ) -> Self {
        Self {
            program,
            arguments: arguments.into_iter().collect(),
            times,
            pool: Mutex::default(),
            free: Condvar::new(),
        }
    }

    /// What a process answers. Waits for it.
    pub fn ask<A: DeserializeOwned>(&self, question: &impl Serialize) -> Result<A, ApartError> {
        let message = serde_json::to_vec(question).map_err(|e| ApartError::Failed(e.into()))?;
        let place = self.place()?;
        let mut worker = match self.kept() {
            Some(kept) => kept,
            None => self.start().map_err(ApartError::NotStarted)?,
        };
        let answer = match worker.ask(message, self.times.wall) {
            Ok(answer) => answer,
            Err(error) => return Err(worker.ended(&error, self.times.processor)),
        };
        self.pool().idle.push(worker);
        drop(place);
        serde_json::from_slice(&answer).map_err(|e| ApartError::Failed(e.into()))
    }

    /// One that waits, and did not end meanwhile.
    fn kept(&self) -> Option<Worker> {
        let mut pool = self.pool();
        std::iter::from_fn(|| pool.idle.pop()).find_map(|mut kept| {
            let ended = kept.child.try_wait();
            matches!(ended, Ok(None)).then_some(kept)
        })
    }

    /// Waits a little until one more process may be at work.
    fn place(&self) -> Result<Place<'_>, ApartError> {
        let full = |pool: &mut Pool| pool.at_work >= MOST;
        let waited = self
            .free
            .wait_timeout_while(self.pool(), self.times.patience, full);
        let (mut pool, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if full(&mut pool) {
            return Err(ApartError::Busy);
        }
        pool.at_work += 1;
        Ok(Place(self))
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(&self) -> io::Result<Worker> {
        let mut command = Command::new(&self.program);
        // Nothing of this process's surroundings is the work's business.
        command.arg0("stoa").args(&self.arguments).env_clear();
        // A Ctrl-C in a terminal is this process's to answer: it lets running calls end.
        command.process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::null()).spawn()?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let ((asked, questions), (answers, answered)) = (channel(), channel());
        let worker = Worker {
            child,
            asked,
            answered,
            begun: Duration::ZERO,
        };
        let (input, output) = pipes.ok_or(io::ErrorKind::BrokenPipe)?;
        std::thread::Builder::new()
            .name("stoa-apart".into())
            .spawn(move || exchange(&questions, input, BufReader::new(output), &answers))?;
        Ok(worker)
    }
}

/// Hands every message over and its answer back, until one side has ended. A pipe has no limit of time, so this has a thread of its own.
fn exchange(
    questions: &Receiver<Vec<u8>>,
    mut input: impl Write,
    mut output: impl Read,
    answers: &Sender<io::Result<Vec<u8>>>,
) {
    for message in questions {
        let answer = send(&mut input, &message).and_then(|()| {
            receive(&mut output)?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
        });
        let failed = answer.is_err();
        if answers.send(answer).is_err() || failed {
            return;
        }
    }
}

/// A piece of work under way.
struct Place<'a>(&'a Apart);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.pool().at_work -= 1;
        self.0.free.notify_one();
    }
}

/// A process. It ends when this is dropped.
#[derive(Debug)]
struct Worker {
    child: Child,
    asked: Sender<Vec<u8>>,
    answered: Receiver<io::Result<Vec<u8>>>,
    /// Its processor time when the last piece of work began.
    begun: Duration,
}

impl Worker {
    fn ask(&mut self, message: Vec<u8>, wall: Duration) -> io::Result<Vec<u8>> {
        self.begun = processor_time(self.child.id());
        // Nobody there to take it: nobody to answer either.
        let _ = self.asked.send(message);
        match self.answered.recv_timeout(wall) {
            Ok(answer) => answer,
            Err(RecvTimeoutError::Disconnected) => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(RecvTimeoutError::Timeout) => {
                let late = format!("no answer within {} s", wall.as_secs_f32());
                Err(io::Error::new(io::ErrorKind::TimedOut, late))
            }
        }
    }

    /// Ends it, and tells how it ended if it did so by itself. One that was late and had its processor time is at its limits as one that
    /// the system ended for that.
    fn ended(&mut self, error: &io::Error, processor: Duration) -> ApartError {
        let used = processor_time(self.child.id()).saturating_sub(self.begun);
        if error.kind() == io::ErrorKind::TimedOut && used >= processor {
            return ApartError::Limits(io::Error::other(format!("{error}, at work for {used:?}")));
        }
        let _ = self.child.kill();
        let status = match self.child.wait() {
            Ok(status) => status,
            Err(other) => return ApartError::Failed(io::Error::other(format!("{error}; {other}"))),
        };
        let told = io::Error::other(format!("{status}; {error}"));
        match Signal::from_named_raw(status.signal().unwrap_or_default()) {
            // It left by itself.
            None if status.signal().is_none() => ApartError::Failed(told),
            // By this process when it was late, by the system when memory ended, or by a person.
            Some(Signal::KILL | Signal::TERM | Signal::INT | Signal::HUP | Signal::QUIT) => {
                ApartError::Interrupted(told)
            }
            _ => ApartError::Limits(told),
        }
    }
}

/// Processor time of another process and all its threads; zero where the system does not tell it like Linux.
fn processor_time(process: u32) -> Duration {
    /// Of the fields that follow the program's name, which may hold anything: proc_pid_stat(5).
    const USER_AND_SYSTEM: std::ops::Range<usize> = 11..13;
    /// `USER_HZ`, in milliseconds.
    const TICK_MS: u64 = 10;
    let told = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let fields = told.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks: u64 = fields
        .split_whitespace()
        .skip(USER_AND_SYSTEM.start)
        .take(USER_AND_SYSTEM.len())
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    Duration::from_millis(ticks * TICK_MS)
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It keeps nothing; without the wait it would stay in the list of processes.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Answers what comes from `input`, one after the other, until it ends: the main loop of the other process, which has limited its own
/// memory before. `limit` is called before each piece of work: processor time is limited for each.
pub(crate) fn serve<Q: for<'a> Deserialize<'a>>(
    mut input: impl Read,
    mut output: impl Write,
    mut limit: impl FnMut() -> io::Result<()>,
    mut answer: impl FnMut(&Q) -> io::Result<Vec<u8>>,
) -> io::Result<()> {
    while let Some(message) = receive(&mut input)? {
        limit()?;
        let question = serde_json::from_slice(&message)?;
        drop(message);
        send(&mut output, &answer(&question)?)?;
    }
    Ok(())
}

fn send(output: &mut impl Write, message: &[u8]) -> io::Result<()> {
    let length = u32::try_from(message.len()).map_err(io::Error::other)?;
    output.write_all(&length.to_le_bytes())?;
    output.write_all(message)?;
    output.flush()
}

/// The next message; `None` where the other side has ended.
fn receive(input: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
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

    #[test]
    fn questions_are_answered_one_after_the_other() {
        let mut asked = Vec::new();
        for question in ["a", "b"] {
            send(&mut asked, &serde_json::to_vec(question).expect("JSON")).expect("written");
        }
        let (mut answered, mut limits) = (Vec::new(), 0);
        let limit = || {
            limits += 1;
            Ok(())
        };
        let answer = |question: &String| Ok(question.repeat(2).into_bytes());
        serve(&asked[..], &mut answered, limit, answer).expect("served");
        assert_eq!(limits, 2);
        let mut rest = &answered[..];
        let mut next = || receive(&mut rest).expect("whole");
        assert_eq!(next().as_deref(), Some(&b"aa"[..]));
        assert_eq!(next().as_deref(), Some(&b"bb"[..]));
        assert_eq!(next(), None);
    }

    #[test]
    fn messages_that_break_off_or_are_too_long_are_errors_and_take_no_memory() {
        let mut whole = Vec::new();
        send(&mut whole, b"some letters").expect("written");
        for cut in 1..whole.len() {
            assert!(receive(&mut &whole[..cut]).is_err(), "{cut}");
        }
        assert!(receive(&mut &u32::MAX.to_le_bytes()[..]).is_err());
        let forged = MESSAGE_BYTES_MAX.to_le_bytes();
        assert!(receive(&mut &forged[..]).is_err());
    }

    #[test]
    fn a_process_that_ends_or_is_not_there_or_hangs_is_told_apart_and_keeps_no_place() {
        let ask = |apart: &Apart| apart.ask::<String>(&"a").expect_err("nobody answers");
        let within = |wall| Times {
            patience: Duration::from_secs(60),
            wall,
            processor: Duration::from_millis(20),
        };
        let long = within(Duration::from_secs(600));
        let shell = |script: &str| Apart::new("/bin/sh".into(), ["-c".into(), script.into()], long);
        let leaves = shell("exit 3");
        assert!(matches!(ask(&leaves), ApartError::Failed(_)));
        for (signal, limits) in [
            ("XCPU", true),
            ("ABRT", true),
            ("SEGV", true),
            ("KILL", false),
            ("TERM", false),
        ] {
            let found = ask(&shell(&format!("kill -{signal} $$")));
            assert_eq!(matches!(found, ApartError::Limits(_)), limits, "{found}");
            let interrupted = matches!(found, ApartError::Interrupted(_));
            assert_ne!(interrupted, limits, "{found}");
        }
        let absent = Apart::new("/nowhere/at/all".into(), [], long);
        assert!(matches!(ask(&absent), ApartError::NotStarted(_)));
        let short = within(Duration::from_millis(50));
        let hangs = Apart::new("/bin/sleep".into(), ["1000".into()], short);
        for _ in 0..3 {
            let found = ask(&hangs);
            assert!(matches!(found, ApartError::Interrupted(_)), "{found}");
            let said = found.to_string();
            assert!(said.contains("no answer within 0.05 s"), "{said}");
        }
        assert_eq!(hangs.pool().at_work, 0);
        // One that is late since it computes.
        let second = within(Duration::from_secs(1));
        let endless = ["-c".into(), "while :; do :; done".into()];
        let computes = Apart::new("/bin/sh".into(), endless, second);
        let found = ask(&computes);
        assert!(matches!(found, ApartError::Limits(_)), "{found}");
    }
}
