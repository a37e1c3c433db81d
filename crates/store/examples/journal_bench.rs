//! Durable records per second, beside a raw loop and redb in the same seconds.
//!
//! ```console
//! $ cargo run --release -p stoa-store --example journal_bench [FOLDER]
//! ```
//!
//! All contenders write to the folder (default: the system's temporary one), in turns of a quarter of a second, so that a slow
//! moment of the disk hits all of them; the median turn counts. A disk figure by itself says nothing: read the ratios.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use stoa_store::{
    AppendError, GroupCommit, Journal, JournalOptions, NewRecord, Position, RealDisk,
};

const PAYLOAD: [u8; 96] = [0x5a; 96];
const RECORD_BYTES: usize = 128;
const BLOCK: usize = 4096;
const TURN: Duration = Duration::from_millis(250);
const TURNS: usize = 5;
const CLIENTS: usize = 1_000;
const RAW_FILE_BYTES: usize = 64 << 20;
const TABLE: redb::TableDefinition<u64, &[u8]> = redb::TableDefinition::new("records");

/// Writes one batch durably.
type Commit<'a> = Box<dyn FnMut(usize) + 'a>;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let parent = std::env::args_os()
        .nth(1)
        .map_or_else(std::env::temp_dir, Into::into);
    let folder = tempfile::tempdir_in(parent)?;
    println!(
        "{} bytes a record; folder {}; median of {TURNS} turns of {TURN:?}",
        PAYLOAD.len(),
        folder.path().display()
    );
    println!(
        "{:>6} {:>12} {:>12} {:>12} {:>12} {:>9} {:>9} {:>9}",
        "batch", "journal/s", "raw/s", "raw append/s", "redb/s", "/raw", "/append", "/redb"
    );
    let (mut journal, _) = Journal::open(
        RealDisk::open(folder.path().join("journal"))?,
        JournalOptions::default(),
    )?;
    let mut contenders = Contenders::new(folder.path())?;
    for batch in [1, 16, 128, 1_024] {
        let records = vec![
            NewRecord {
                kind: 1,
                version: 1,
                payload: &PAYLOAD
            };
            batch
        ];
        let own: Commit<'_> = Box::new(|_| {
            journal.append_batch(&records).expect("the disk works");
        });
        let rates = contenders.race(own, batch);
        print_row(batch, rates);
    }
    journal.close()?;
    concurrent(folder.path(), &mut contenders)
}

fn print_row(batch: usize, [own, raw, append, redb]: [f64; 4]) {
    println!(
        "{batch:>6} {own:>12.0} {raw:>12.0} {append:>12.0} {redb:>12.0} {:>9.2} {:>9.2} {:>9.2}",
        own / raw,
        own / append,
        own / redb
    );
}

/// What the journal is compared with.
struct Contenders {
    /// Overwrites a file of full size, block by block: the least that a durable batch can cost.
    raw: File,
    offset: usize,
    /// Appends to a growing file.
    append: File,
    redb: redb::Database,
    next: u64,
}

impl Contenders {
    fn new(folder: &Path) -> Result<Self, Box<dyn std::error::Error>> {
        let mut raw = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(folder.join("raw"))?;
        raw.write_all(&vec![0; RAW_FILE_BYTES])?;
        raw.sync_all()?;
        let append = OpenOptions::new()
            .append(true)
            .create_new(true)
            .open(folder.join("append"))?;
        Ok(Self {
            raw,
            offset: 0,
            append,
            redb: redb::Database::create(folder.join("redb"))?,
            next: 0,
        })
    }

    fn raw(&mut self, batch: usize) {
        let bytes = vec![0x5a; (batch * RECORD_BYTES).div_ceil(BLOCK) * BLOCK];
        if self.offset + bytes.len() > RAW_FILE_BYTES {
            self.offset = 0;
        }
        self.raw
            .write_all_at(&bytes, self.offset as u64)
            .and_then(|()| self.raw.sync_data())
            .expect("the disk works");
        self.offset += bytes.len();
    }

    fn append(&mut self, batch: usize) {
        let bytes = vec![0x5a; batch * RECORD_BYTES];
        self.append
            .write_all(&bytes)
            .and_then(|()| self.append.sync_data())
            .expect("the disk works");
    }

    fn redb(&mut self, batch: usize) -> Result<(), redb::Error> {
        let mut transaction = self.redb.begin_write()?;
        transaction.set_durability(redb::Durability::Immediate)?;
        {
            let mut table = transaction.open_table(TABLE)?;
            for _ in 0..batch {
                self.next += 1;
                table.insert(self.next, &PAYLOAD[..])?;
            }
        }
        Ok(transaction.commit()?)
    }

    /// Records per second of the journal, the raw loop, the appending loop and redb, in turns.
    fn race(&mut self, mut own: Commit<'_>, batch: usize) -> [f64; 4] {
        let mut rates: [Vec<f64>; 4] = Default::default();
        for _ in 0..TURNS {
            rates[0].push(turn(batch, &mut own));
            rates[1].push(turn(batch, &mut |batch| self.raw(batch)));
            rates[2].push(turn(batch, &mut |batch| self.append(batch)));
            rates[3].push(turn(batch, &mut |batch| {
                self.redb(batch).expect("the disk works")
            }));
        }
        rates.map(|mut turns| median(&mut turns))
    }
}

fn turn(batch: usize, commit: &mut dyn FnMut(usize)) -> f64 {
    let start = Instant::now();
    let mut records = 0;
    while start.elapsed() < TURN {
        commit(batch);
        records += batch;
    }
    records as f64 / start.elapsed().as_secs_f64()
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Clients of which each has one record on its way at any time.
struct Clients {
    group: GroupCommit<RealDisk>,
    stop: AtomicBool,
    busy: AtomicU64,
    latencies_us: Mutex<Vec<u32>>,
}

impl Clients {
    fn append(self: Arc<Self>) {
        let record = NewRecord {
            kind: 1,
            version: 1,
            payload: &PAYLOAD,
        };
        loop {
            let (clients, start) = (self.clone(), Instant::now());
            let done = move |result: Result<Position, AppendError>| {
                result.expect("the disk works");
                let latency = u32::try_from(start.elapsed().as_micros()).unwrap_or(u32::MAX);
                clients
                    .latencies_us
                    .lock()
                    .expect("nobody panics with it")
                    .push(latency);
                if !clients.stop.load(Ordering::Relaxed) {
                    clients.append();
                }
            };
            match self.group.submit(&[record], Box::new(done)) {
                Ok(_) => return,
                Err(AppendError::Busy { .. }) => {
                    self.busy.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_micros(200));
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// What the clients of one turn saw.
struct Seen {
    rate: f64,
    batch: f64,
    latencies_us: Vec<u32>,
    busy: u64,
}

/// One turn of all clients.
fn concurrent_turn(folder: &Path, number: usize) -> Result<Seen, Box<dyn std::error::Error>> {
    let disk = RealDisk::open(folder.join(format!("group-{number}")))?;
    let (journal, _) = Journal::open(disk, JournalOptions::default())?;
    let clients = Arc::new(Clients {
        group: GroupCommit::start(journal)?,
        stop: AtomicBool::new(false),
        busy: AtomicU64::new(0),
        latencies_us: Mutex::default(),
    });
    let start = Instant::now();
    for _ in 0..CLIENTS {
        clients.clone().append();
    }
    std::thread::sleep(4 * TURN);
    clients.stop.store(true, Ordering::Relaxed);
    while Arc::strong_count(&clients) > 1 {
        std::thread::sleep(Duration::from_millis(1));
    }
    let seconds = start.elapsed().as_secs_f64();
    let stats = clients.group.stats();
    let mut latencies = clients.latencies_us.lock().expect("nobody panics with it");
    Ok(Seen {
        rate: stats.records as f64 / seconds,
        batch: stats.records as f64 / stats.batches as f64,
        latencies_us: std::mem::take(&mut latencies),
        busy: clients.busy.load(Ordering::Relaxed),
    })
}

/// How fast the records of one turn are read back without a snapshot.
fn reopen(folder: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let disk = RealDisk::open(folder.join("group-0"))?;
    let start = Instant::now();
    let (_, recovery) = Journal::open(disk, JournalOptions::default())?;
    let (records, seconds) = (recovery.records.len(), start.elapsed().as_secs_f64());
    let rate = records as f64 / seconds;
    println!("opened again without a snapshot: {records} records in {seconds:.3} s, {rate:.0}/s");
    Ok(())
}

fn concurrent(
    folder: &Path,
    contenders: &mut Contenders,
) -> Result<(), Box<dyn std::error::Error>> {
    println!(
        "{CLIENTS} concurrent appenders, then the others at the batch size that the load formed:"
    );
    let (mut own, mut others, mut busy_all) = (Vec::new(), [Vec::new(), Vec::new(), Vec::new()], 0);
    let (mut latencies, mut formed) = (Vec::new(), Vec::new());
    for number in 0..TURNS {
        let mut seen = concurrent_turn(folder, number)?;
        own.push(seen.rate);
        formed.push(seen.batch);
        latencies.append(&mut seen.latencies_us);
        busy_all += seen.busy;
        let batch = (seen.batch.round() as usize).max(1);
        others[0].push(turn(batch, &mut |batch| contenders.raw(batch)));
        others[1].push(turn(batch, &mut |batch| contenders.append(batch)));
        others[2].push(turn(batch, &mut |batch| {
            contenders.redb(batch).expect("the disk works")
        }));
    }
    let [raw, append, redb] = others.map(|mut turns| median(&mut turns));
    print_row(
        median(&mut formed).round() as usize,
        [median(&mut own), raw, append, redb],
    );
    latencies.sort_unstable();
    let at = |share: usize| f64::from(latencies[(latencies.len() - 1) * share / 1_000]) / 1_000.0;
    println!(
        "append to acknowledgement: p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms; told to try again {busy_all} times",
        at(500),
        at(990),
        at(999)
    );
    reopen(folder)
}
