//! What a person reads when a start cannot use the folder: one sentence that names the file and says what to do. Nothing is changed.

use super::super::*;
use super::workload::{DOMAIN, Life, Workload, fingerprint};
use super::{fold, unsaved};
use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::mpsc::channel;
use tempfile::TempDir;

const OPERATIONS: usize = 40;

fn workload() -> &'static Workload {
    static WORKLOAD: OnceLock<Workload> = OnceLock::new();
    WORKLOAD.get_or_init(|| Workload::new(OPERATIONS))
}

/// A router's journal in a folder of its own, stopped in good order.
struct Stopped {
    _temporary: TempDir,
    folder: PathBuf,
}

impl Stopped {
    fn new() -> Self {
        let temporary = tempfile::tempdir().expect("temporary folder");
        let stopped = Self {
            folder: temporary.path().join("router/journal"),
            _temporary: temporary,
        };
        let running = stopped.start();
        drop(running);
        stopped
    }

    /// Starts and waits until the whole workload is durable.
    fn start(&self) -> RouterJournal {
        let (opened, recovered) = self.open(workload().router).expect("opens");
        let (tell, told) = channel();
        let tell = move |written| tell.send(written).unwrap_or_default();
        let journal = RouterJournal::start(opened, Arc::new(tell)).expect("starts");
        for (index, entry) in workload()
            .entries
            .iter()
            .enumerate()
            .skip(recovered.entries)
        {
            journal.write(index as u64 + 1, entry);
            let written = told.recv().expect("told");
            assert!(matches!(written, Written::Durable(_)), "{written:?}");
        }
        journal
    }

    fn open(&self, router: Address) -> Result<(OpenJournal, Recovered), JournalError> {
        open(&self.folder, DOMAIN, router)
    }

    fn segment(&self) -> PathBuf {
        self.folder.join("journal-0000000000000001.log")
    }

    /// Appends one record of any kind.
    fn append(&self, kind: u16, version: u16, payload: &[u8]) {
        let disk = RealDisk::open(&self.folder).expect("opens");
        let (mut journal, _) = Journal::open(disk, JournalOptions::default()).expect("opens");
        let record = NewRecord {
            kind,
            version,
            payload,
        };
        journal.append_batch(&[record]).expect("appends");
        journal.close().expect("closes");
    }

    /// Hash of every file but the empty one that is kept ready for later.
    fn files(&self) -> BTreeMap<PathBuf, blake3::Hash> {
        let entries = fs::read_dir(&self.folder).expect("lists");
        let paths = entries.map(|entry| entry.expect("lists").path());
        paths
            .filter(|path| !path.ends_with("spare.tmp"))
            .map(|path| (path.clone(), blake3::hash(&fs::read(path).expect("reads"))))
            .collect()
    }

    /// The sentence with which a start of `router` is refused; it names `file` and leaves everything as it was.
    fn refusal(&self, router: Address, file: &Path) -> String {
        let before = self.files();
        let error = self.open(router).err().expect("is refused").to_string();
        assert_eq!(self.files(), before, "{error}");
        assert!(error.contains(&file.display().to_string()), "{error}");
        assert!(!error.contains('\n'), "{error}");
        error
    }
}

fn contains(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{text:?} lacks {part:?}");
    }
}

#[test]
fn a_whole_journal_starts_again_with_the_same_book() {
    let stopped = Stopped::new();
    let (_, recovered) = stopped.open(workload().router).expect("opens");
    assert_eq!((recovered.entries, recovered.repaired), (OPERATIONS, None));
    assert!(fingerprint(&recovered.book) == workload().books[OPERATIONS]);
}

#[test]
fn a_journal_without_its_last_acknowledged_entries_is_refused() {
    let stopped = Stopped::new();
    let file = OpenOptions::new()
        .write(true)
        .open(stopped.segment())
        .expect("opens");
    // Each entry was a batch in a block of its own, behind the block of the header and that of the owner.
    let size = file.metadata().expect("there").len();
    let last = 4096 * (OPERATIONS as u64 + 1);
    file.set_len(last).expect("cuts");
    file.set_len(size).expect("fills up with zeros");
    let text = stopped.refusal(workload().router, &stopped.segment());
    contains(
        &text,
        &[
            "batch 40",
            "batch 41 was acknowledged",
            "Nothing was changed",
            "Put back a copy",
        ],
    );
    file.set_len(last).expect("cuts");
    let text = stopped.refusal(workload().router, &stopped.segment());
    contains(
        &text,
        &[
            "is damaged at byte",
            "nothing was changed",
            "Put back a copy",
        ],
    );
}

#[test]
fn a_flipped_bit_in_an_acknowledged_entry_is_refused() {
    let stopped = Stopped::new();
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(stopped.segment())
        .expect("opens");
    for block in [3, OPERATIONS as u64 + 1] {
        let at = 4096 * block + 150;
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).expect("reads");
        file.write_all_at(&[byte[0] ^ 0x10], at).expect("writes");
        let text = stopped.refusal(workload().router, &stopped.segment());
        let place = format!("is damaged at byte {}", 4096 * block);
        contains(&text, &[&place, "nothing was changed", "Put back a copy"]);
        file.write_all_at(&byte, at).expect("writes");
    }
    assert!(
        stopped.open(workload().router).is_ok(),
        "with the bit back in its place"
    );
}

#[test]
fn the_journal_of_another_router_or_chain_is_refused() {
    let stopped = Stopped::new();
    let text = stopped.refusal(Address([0x77; 20]), &stopped.folder);
    let found = format!("the journal of router {} on chain 31337", workload().router);
    contains(
        &text,
        &[
            "record 1 in",
            &found,
            "0x7777",
            "No record was changed",
            "--data",
            "--fresh",
        ],
    );
    let elsewhere = Domain {
        chain_id: 1,
        ..DOMAIN
    };
    let error = open(&stopped.folder, elsewhere, workload().router).err();
    contains(
        &error.expect("refused").to_string(),
        &[&found, "on chain 1, vault"],
    );
}

#[test]
fn a_snapshot_of_another_router_is_refused_where_the_first_record_is_gone() {
    let stopped = Stopped::new();
    let opened = stopped.open(workload().router).expect("opens").0;
    let state = fold(&opened).state().expect("balances");
    let covers = opened.journal.position();
    opened
        .journal
        .snapshots()
        .take(covers, &state)
        .expect("takes");
    drop(opened);
    let text = stopped.refusal(Address([0x77; 20]), &stopped.folder);
    contains(
        &text,
        &["the snapshot of record 41", "runs as router 0x7777"],
    );
}

#[test]
fn versions_from_the_future_are_refused_by_their_numbers() {
    let stopped = Stopped::new();
    stopped.append(
        ENTRY_KIND,
        RECORD_VERSION + 1,
        b"what a later program writes",
    );
    let text = stopped.refusal(workload().router, &stopped.folder);
    contains(
        &text,
        &[
            "record 42",
            "has version 2",
            "reads versions up to 1",
            "start the newer program",
        ],
    );

    let stopped = Stopped::new();
    let mut later = workload().payloads[0].clone();
    later[0] = 9;
    stopped.append(ENTRY_KIND, RECORD_VERSION, &later);
    let text = stopped.refusal(workload().router, &stopped.folder);
    contains(
        &text,
        &["record 42", "has version 9", "start the newer program"],
    );

    let stopped = Stopped::new();
    let opened = stopped.open(workload().router).expect("opens").0;
    let mut state = fold(&opened).state().expect("balances");
    state[0] = 200;
    let covers = opened.journal.position();
    opened
        .journal
        .snapshots()
        .take(covers, &state)
        .expect("takes");
    drop(opened);
    let text = stopped.refusal(workload().router, &stopped.folder);
    contains(&text, &["the snapshot of record 41", "has version 200"]);
}

#[test]
fn a_segment_of_a_later_format_is_refused_by_its_number() {
    let stopped = Stopped::new();
    let mut bytes = fs::read(stopped.segment()).expect("reads");
    // Magic, checksum, version, id: the layout up to here stays the same in all versions.
    bytes[24] = 7;
    let id: [u8; 16] = bytes[26..42].try_into().expect("16 bytes");
    let key = blake3::derive_key("stoa store journal hashes v1", &id);
    let seal = blake3::keyed_hash(&key, &[&bytes[..8], &bytes[24..114]].concat());
    bytes[8..24].copy_from_slice(&seal.as_bytes()[..16]);
    fs::write(stopped.segment(), bytes).expect("writes");
    let text = stopped.refusal(workload().router, &stopped.segment());
    contains(
        &text,
        &[
            "has format version 7",
            "Nothing was changed",
            "Use a newer program",
        ],
    );
}

#[test]
fn entries_that_are_none_or_contradict_each_other_are_refused() {
    let stopped = Stopped::new();
    stopped.append(
        ENTRY_KIND,
        RECORD_VERSION,
        &workload().payloads[OPERATIONS - 1][..3],
    );
    let text = stopped.refusal(workload().router, &stopped.folder);
    contains(&text, &["record 42", "is not of a router's book", "--data"]);

    let stopped = Stopped::new();
    let again = workload()
        .entries
        .iter()
        .position(|entry| matches!(entry, Entry::Charged { .. }));
    let again = again.expect("something was charged");
    stopped.append(ENTRY_KIND, RECORD_VERSION, &workload().payloads[again]);
    let text = stopped.refusal(workload().router, &stopped.folder);
    contains(
        &text,
        &[
            "record 42",
            "is charged already",
            "keep the folder and report this",
        ],
    );

    let stopped = Stopped::new();
    stopped.append(77, RECORD_VERSION, b"?");
    let text = stopped.refusal(workload().router, &stopped.folder);
    contains(&text, &["record 42", "it is of kind 77"]);
}

#[test]
fn a_folder_in_use_is_refused_with_the_process_that_holds_it() {
    let stopped = Stopped::new();
    let running = stopped.start();
    let text = stopped.refusal(workload().router, &stopped.folder);
    let process = format!("is locked by process {}", std::process::id());
    contains(
        &text,
        &[&process, "stop that process or choose another folder"],
    );
    drop(running);
    assert!(stopped.open(workload().router).is_ok());
}

#[test]
fn a_file_in_place_of_the_folder_is_refused_and_stays() {
    let temporary = tempfile::tempdir().expect("temporary folder");
    let file = temporary.path().join("journal");
    fs::write(&file, "a letter").expect("writes");
    for folder in [file.clone(), file.join("below")] {
        let error = open(&folder, DOMAIN, workload().router)
            .err()
            .expect("refused");
        let text = error.to_string();
        contains(
            &text,
            &[&folder.display().to_string(), "move that away", "--data"],
        );
    }
    assert_eq!(fs::read_to_string(&file).expect("reads"), "a letter");
    // A user that may do everything cannot be refused here: the texts stand for themselves.
    contains(
        advice(ErrorKind::PermissionDenied),
        &["read and write", "--data"],
    );
    contains(advice(ErrorKind::StorageFull), &["free some disk space"]);
    contains(advice(ErrorKind::ReadOnlyFilesystem), &["writable"]);
}

/// Appends so many entries.
fn grow(opened: &mut OpenJournal, life: &mut Life, entries: u64) {
    for done in (0..entries).step_by(1_000) {
        let count = (entries - done).min(1_000);
        let payloads: Vec<_> = (0..count).map(|_| life.next().encode()).collect();
        let record = |payload| NewRecord {
            kind: ENTRY_KIND,
            version: RECORD_VERSION,
            payload,
        };
        let records: Vec<_> = payloads.iter().map(|payload| record(payload)).collect();
        opened.journal.append_batch(&records).expect("appends");
    }
}

/// Prints how long a start takes with and without a snapshot; set `STOA_JOURNAL_ENTRIES` for another size, and optimise the build
/// to compare.
#[test]
fn a_start_folds_what_is_behind_the_snapshot_and_nothing_else() {
    let entries =
        std::env::var("STOA_JOURNAL_ENTRIES").map_or(5_000, |text| text.parse().expect("a number"));
    let temporary = tempfile::tempdir().expect("temporary folder");
    let mut life = Life::unsigned();
    let router = life.book.router();
    let start = |what: &str| {
        let began = std::time::Instant::now();
        let (opened, recovered) = open(temporary.path(), DOMAIN, router).expect("opens");
        let (took, behind) = (began.elapsed(), unsaved(&opened));
        println!(
            "{what}: {} entries, {behind} of them folded: {took:?}",
            recovered.entries
        );
        (opened, recovered)
    };
    let mut opened = start("empty").0.signed().expect("signs");
    grow(&mut opened, &mut life, entries);
    drop(opened);
    let (opened, whole) = start("without a snapshot");
    assert_eq!(unsaved(&opened), entries);
    let folded = fold(&opened);
    let began = std::time::Instant::now();
    let state = folded.state().expect("balances");
    let encoded = began.elapsed();
    let covers = opened.journal.position();
    opened
        .journal
        .snapshots()
        .take(covers, &state)
        .expect("takes");
    println!(
        "snapshot of {} bytes: {encoded:?}, with the disk {:?}",
        state.len(),
        began.elapsed()
    );
    drop(opened);
    let (mut opened, restored) = start("from the snapshot");
    assert_eq!(unsaved(&opened), 0);
    assert!(restored.book == whole.book && restored.book == life.book);
    let tail = entries / 20;
    grow(&mut opened, &mut life, tail);
    drop(opened);
    let (opened, recovered) = start("from the snapshot and what follows");
    assert_eq!(unsaved(&opened), tail);
    assert!(recovered.book == life.book);
}
