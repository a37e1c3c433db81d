//! The running journal: its threads over a disk that fails, fills up, and is cut.

use super::super::*;
use super::workload::{DOMAIN, Life, Workload, fingerprint};
use super::{SMALL, unsaved};
use std::io::ErrorKind;
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};
use stoa_ledger::book::ReleaseCause;
use stoa_store::faulty::{Call, Fault, FaultyDisk, PowerCut};

const OPERATIONS: usize = 600;
/// Room for the whole workload in one segment: how often a second one is prepared depends on the threads' luck.
const ROOMY: JournalOptions = JournalOptions {
    segment_bytes: 4 << 20,
};
const PATIENCE: Duration = Duration::from_secs(60);

fn workload() -> &'static Workload {
    static WORKLOAD: OnceLock<Workload> = OnceLock::new();
    WORKLOAD.get_or_init(|| Workload::new(OPERATIONS))
}

/// A running journal and what it tells.
struct Running {
    journal: RouterJournal<FaultyDisk>,
    told: Receiver<Written>,
}

impl Running {
    fn start(opened: OpenJournal<FaultyDisk>, every: u64) -> std::io::Result<Self> {
        let (tell, told) = channel();
        let tell = move |written| tell.send(written).unwrap_or_default();
        Ok(Self {
            journal: RouterJournal::start_with(opened, Arc::new(tell), every)?,
            told,
        })
    }

    fn next(&self) -> Written {
        self.told
            .recv_timeout(PATIENCE)
            .expect("the journal tells what became of an entry")
    }
}

/// Hands in the workload up to `end`, a few entries at a time, from where the journal is. Returns how many were reported durable, and why the
/// rest was not.
fn run(disk: &FaultyDisk, every: u64, end: usize) -> (usize, Result<(), String>) {
    let (opened, recovered) = match open_on(disk.clone(), ROOMY, DOMAIN, workload().router) {
        Ok(opened) => opened,
        Err(error) => return (0, Err(error.to_string())),
    };
    let mut durable = recovered.entries;
    let running = match Running::start(opened, every) {
        Ok(running) => running,
        Err(error) => return (durable, Err(error.to_string())),
    };
    while durable < end {
        let to = (durable + 1 + durable % 7).min(end);
        for (index, entry) in workload().entries[..to].iter().enumerate().skip(durable) {
            running.journal.write(index as u64 + 1, entry);
        }
        while durable < to {
            match running.next() {
                Written::Durable(sequence) => {
                    durable += 1;
                    assert_eq!(sequence, durable as u64, "told in order");
                }
                Written::Fatal(reason) => return (durable, Err(reason)),
                Written::Refused { reason, .. } => panic!("there is room: {reason}"),
            }
        }
    }
    (durable, Ok(()))
}

/// The book as a start finds it; it must be the fold of the workload's first entries, at least so many.
fn recover(disk: &FaultyDisk, durable: usize, when: &str) -> (usize, u64) {
    let (opened, recovered) = open_on(disk.clone(), ROOMY, DOMAIN, workload().router)
        .unwrap_or_else(|error| panic!("{when}: {error}"));
    let kept = recovered.entries;
    assert!(kept >= durable, "{when}: {durable} durable, {kept} kept");
    assert!(
        fingerprint(&recovered.book) == workload().books[kept],
        "{when}: not the book of {kept} entries"
    );
    (kept, unsaved(&opened))
}

#[test]
fn whatever_call_fails_or_is_cut_the_next_start_has_all_that_was_reported_durable_and_goes_on() {
    let faults = [
        Fault::CutBefore,
        Fault::CutDuring,
        Fault::Fail(ErrorKind::Other),
    ];
    let mut stopped = 0;
    for call in (1..).step_by(5) {
        let disk = FaultyDisk::new(call);
        let fault = faults[(call / 5 % 3) as usize];
        disk.fault_at(call, fault);
        let (durable, result) = run(&disk, 100, OPERATIONS);
        let when = format!("{fault:?} at call {call}");
        stopped += usize::from(result.is_err());
        if disk.calls() < call {
            result.expect("no call failed");
            break;
        }
        let cut = PowerCut::ALL[(call % 5) as usize];
        disk.power_cycle(call, cut);
        let (kept, _) = recover(&disk, durable, &when);
        if call % 10 == 1 {
            let (all, result) = run(&disk, 100, OPERATIONS);
            assert_eq!(
                (all, result),
                (OPERATIONS, Ok(())),
                "{when}, then {kept} kept"
            );
            recover(&disk, OPERATIONS, &when);
        }
    }
    assert!(stopped > 50, "only {stopped} runs were stopped");
}

/// Starts and waits until the book is in a snapshot.
fn snapshot(disk: &FaultyDisk) {
    let (opened, _) = open_on(disk.clone(), ROOMY, DOMAIN, workload().router).unwrap();
    assert!(unsaved(&opened) > 0, "there is something to save");
    let name = format!("snapshot-{:020}.bin", opened.journal.position().sequence);
    let running = Running::start(opened, 1).unwrap();
    let since = Instant::now();
    while disk.files().iter().all(|(file, _)| *file != name) {
        assert!(since.elapsed() < PATIENCE, "{name} was not written");
        std::thread::sleep(Duration::from_millis(2));
    }
    drop(running);
}

#[test]
fn a_start_from_a_snapshot_and_what_follows_comes_to_the_same_book_as_the_whole_journal() {
    let disk = FaultyDisk::new(3);
    for end in [300, 500] {
        assert_eq!(run(&disk, u64::MAX, end), (end, Ok(())));
        snapshot(&disk);
    }
    run(&disk, u64::MAX, OPERATIONS).1.expect("runs");
    for (saved, newest) in [(500, "501"), (300, "301")] {
        let (kept, unsaved) = recover(&disk, OPERATIONS, "from a snapshot");
        assert_eq!((kept, unsaved), (OPERATIONS, (OPERATIONS - saved) as u64));
        assert!(disk.lose(&format!("snapshot-{newest:0>20}.bin")));
    }
    let (_, all) = recover(&disk, OPERATIONS, "from the whole journal");
    assert_eq!(all, OPERATIONS as u64);
}

#[test]
fn a_snapshot_that_fails_costs_nothing_and_a_later_one_succeeds() {
    let disk = FaultyDisk::new(4);
    run(&disk, u64::MAX, 10).1.expect("runs");
    // Nothing else renames files once a journal is there. Some of the renames happen although they report an error.
    disk.fail_all(Call::Rename, Some(ErrorKind::Other));
    assert_eq!(run(&disk, 50, 300), (300, Ok(())));
    disk.fail_all(Call::Rename, None);
    recover(&disk, 300, "after snapshots that failed");
    assert_eq!(run(&disk, u64::MAX, OPERATIONS), (OPERATIONS, Ok(())));
    snapshot(&disk);
    assert_eq!(recover(&disk, OPERATIONS, "with a snapshot").1, 0);
}

/// What the router's loop does with its book: it applies an entry before it is written, and forgets a refused reservation.
struct Live {
    life: Life,
    running: Running,
    written: Vec<Option<Entry>>,
    undecided: usize,
    refused: usize,
}

impl Live {
    fn step(&mut self) {
        let entry = self.life.next();
        self.written.push(Some(entry.clone()));
        self.undecided += 1;
        self.running
            .journal
            .write(self.written.len() as u64, &entry);
        self.listen();
    }

    fn listen(&mut self) {
        while let Ok(written) = self.running.told.try_recv() {
            self.undecided -= 1;
            match written {
                Written::Durable(_) => {}
                Written::Refused { sequence, .. } => self.forget(sequence),
                Written::Fatal(reason) => panic!("{reason}"),
            }
        }
    }

    fn forget(&mut self, sequence: u64) {
        let refused = self.written[sequence as usize - 1].take();
        let jobs = match refused {
            Some(Entry::Reserved { job, .. }) => vec![job],
            Some(Entry::ReservedTogether { jobs, .. }) => jobs,
            other => panic!("{other:?} was refused"),
        };
        let cause = ReleaseCause::NoProvider;
        for job in jobs {
            let forgotten = Entry::Released { job, cause };
            self.life.book.apply(&forgotten).expect("was reserved");
        }
        self.refused += 1;
    }

    /// Waits until all is decided.
    fn settle(&mut self) {
        let since = Instant::now();
        while self.undecided > 0 {
            assert!(since.elapsed() < PATIENCE, "{} undecided", self.undecided);
            std::thread::sleep(Duration::from_millis(5));
            self.running.journal.retry();
            self.listen();
        }
    }
}

#[test]
fn a_full_disk_refuses_reservations_and_everything_else_waits_in_its_order_for_room() {
    let disk = FaultyDisk::new(5);
    let life = Life::new();
    let (opened, _) = open_on(disk.clone(), SMALL, DOMAIN, life.book.router()).unwrap();
    let mut live = Live {
        life,
        running: Running::start(opened, 100).unwrap(),
        written: Vec::new(),
        undecided: 0,
        refused: 0,
    };
    for _ in 0..100 {
        live.step();
    }
    live.settle();
    disk.set_capacity(Some(0));
    let refused = live.refused;
    for _ in 0..400 {
        live.step();
    }
    assert!(live.refused > refused, "a full disk refuses reservations");
    std::thread::sleep(Duration::from_millis(20));
    live.listen();
    assert!(live.undecided > 0, "charges and releases wait");
    disk.set_capacity(None);
    live.settle();
    let router = live.life.book.router();
    let kept: Vec<Entry> = live.written.into_iter().flatten().collect();
    drop(live.running);
    let whole = RouterBook::new(DOMAIN, router)
        .replay(&kept)
        .expect("follows");
    let (_, recovered) = open_on(disk, SMALL, DOMAIN, router).unwrap();
    assert_eq!(recovered.entries, kept.len());
    assert!(
        recovered.book == whole,
        "the book is the fold of what was not refused"
    );
}
