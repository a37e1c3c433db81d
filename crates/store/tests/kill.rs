//! Real processes on a real folder: this program starts itself, kills the child and reads what it left.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use stoa_store::{
    AppendError, GroupCommit, Journal, JournalOptions, NewRecord, OpenError, RealDisk, Recovery,
};

const OPTIONS: JournalOptions = JournalOptions {
    segment_bytes: 128 << 10,
};
const CHILD: &str = "append-for-ever";

fn payload(sequence: u64) -> Vec<u8> {
    format!("record {sequence}")
        .repeat(1 + sequence as usize % 5)
        .into_bytes()
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, command, folder] = &arguments[..]
        && command == CHILD
    {
        append_for_ever(Path::new(folder));
    }
    killed_children_lose_nothing_they_had_acknowledged();
    println!("ok: killed children lose nothing they had acknowledged");
    a_folder_in_use_names_the_process_that_holds_it();
    println!("ok: a folder in use names the process that holds it");
}

/// Appends with eight callers at a time and prints each acknowledged number.
fn append_for_ever(folder: &Path) -> ! {
    let (journal, recovery) = Journal::open(RealDisk::open(folder).unwrap(), OPTIONS).unwrap();
    check(&recovery, 0);
    let mut next = journal.position().sequence.0 + 1;
    let group = GroupCommit::start(journal).unwrap();
    let (tell, told) = channel();
    let mut waiting = 0;
    loop {
        while waiting < 8 {
            let (payload, tell) = (payload(next), tell.clone());
            let record = NewRecord {
                kind: 7,
                version: 1,
                payload: &payload,
            };
            match group.submit(
                &[record],
                Box::new(move |result| tell.send(result).unwrap()),
            ) {
                Ok(position) => {
                    assert_eq!(position.sequence.0, next);
                    next += 1;
                    waiting += 1;
                }
                Err(AppendError::Busy { .. }) if waiting > 0 => break,
                Err(AppendError::Busy { .. }) => std::thread::sleep(Duration::from_millis(1)),
                Err(error) => panic!("{error}"),
            }
        }
        let position = told.recv().unwrap().unwrap();
        waiting -= 1;
        // A whole line in one write, so that a kill leaves whole lines only.
        std::io::stdout()
            .write_all(format!("{}\n", position.sequence).as_bytes())
            .unwrap();
        std::io::stdout().flush().unwrap();
    }
}

fn start(folder: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([CHILD, folder.to_str().unwrap()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Checks that the records are the history from 1, whole and once, to at least `acknowledged`.
fn check(recovery: &Recovery, acknowledged: u64) -> u64 {
    let mut last = 0;
    for record in recovery.records.iter() {
        last += 1;
        assert_eq!(
            (record.sequence.0, record.payload),
            (last, payload(last).as_slice())
        );
    }
    assert!(
        last >= acknowledged,
        "{acknowledged} was acknowledged, the journal ends with {last}"
    );
    last
}

fn killed_children_lose_nothing_they_had_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let mut acknowledged = 0;
    for round in 0..8u64 {
        let mut child = start(folder.path());
        let lines = BufReader::new(child.stdout.take().unwrap());
        let wanted = 20 + round * 37 % 90;
        let mut seen = 0;
        for line in lines.lines().map_while(Result::ok) {
            acknowledged = acknowledged.max(line.parse().unwrap());
            seen += 1;
            if seen == wanted {
                // SIGKILL; the lines that the child wrote before are still read.
                child.kill().unwrap();
            }
        }
        assert!(
            seen >= wanted,
            "round {round}: the child ended by itself after {seen} records"
        );
        child.wait().unwrap();
        let (journal, recovery) =
            Journal::open(RealDisk::open(folder.path()).unwrap(), OPTIONS).unwrap();
        let last = check(&recovery, acknowledged);
        assert!(last <= acknowledged + 8, "no more than was handed in");
        journal.close().unwrap();
    }
    assert!(acknowledged > 300);
}

fn a_folder_in_use_names_the_process_that_holds_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = start(folder.path());
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    lines.next().unwrap().unwrap();
    let error = Journal::open(RealDisk::open(folder.path()).unwrap(), OPTIONS).unwrap_err();
    assert!(matches!(error, OpenError::Locked(_)));
    let wanted = format!(
        "data folder {} is locked by process {};",
        folder.path().display(),
        child.id()
    );
    assert!(error.to_string().starts_with(&wanted), "{error}");
    child.kill().unwrap();
    child.wait().unwrap();
    let (journal, _) = Journal::open(RealDisk::open(folder.path()).unwrap(), OPTIONS).unwrap();
    let error = Journal::open(RealDisk::open(folder.path()).unwrap(), OPTIONS).unwrap_err();
    assert!(
        error
            .to_string()
            .contains(&format!("process {}", std::process::id())),
        "{error}"
    );
    drop(journal);
    Journal::open(RealDisk::open(folder.path()).unwrap(), OPTIONS).unwrap();
}
