use super::*;
use std::io::ErrorKind;
use stoa_store::faulty::{Call, FaultyDisk};

/// The receipt of the golden vectors as that of another job.
fn earned(job: u8) -> SignedReceipt {
    let vectors: serde_json::Value =
        serde_json::from_str(include_str!("../../../../../vectors/receipt.json")).expect("JSON");
    let row = &vectors["receipts"][0];
    let mut receipt: SignedReceipt = serde_json::from_value(serde_json::json!({
        "receipt": row["receipt"],
        "provider_signature": row["provider_signature"],
        "router_signature": row["router_signature"],
    }))
    .expect("a signed receipt");
    receipt.receipt.job_id = JobId([job; 32]);
    receipt
}

fn open(disk: &FaultyDisk) -> Earnings<FaultyDisk> {
    let disk = disk.clone();
    Earnings::open_on(move || Ok(disk.clone())).expect("opens")
}

/// Jobs in the journal after its owner is gone, in order.
fn kept(disk: &FaultyDisk) -> Vec<u8> {
    let (_, recovery) = Journal::open(disk.clone(), OPTIONS).expect("opens");
    let receipts = receipts(&recovery).expect("receipts");
    receipts.iter().map(|r| r.receipt.job_id.0[0]).collect()
}

/// Waits until nothing is under way to the disk, whether it arrived or failed.
fn quiet(earnings: &Earnings<FaultyDisk>) {
    let end = Instant::now() + Duration::from_secs(10);
    while Instant::now() < end {
        let shared = earnings.shared();
        if shared.submitted.is_empty() || shared.failed.is_some() {
            return;
        }
        drop(shared);
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("the journal never answered");
}

#[test]
fn receipts_that_meet_a_full_disk_wait_and_are_kept_once_in_order_when_there_is_room() {
    let disk = FaultyDisk::new(1);
    let earnings = open(&disk);
    earnings.keep(&earned(1));
    quiet(&earnings);
    // No further segment: the open one fills up, and what comes then must wait.
    disk.set_capacity(Some(disk.used()));
    let large = 2 * OPTIONS.segment_bytes as usize / serde_json::to_vec(&earned(0)).unwrap().len();
    let mut sent = vec![1];
    for n in 0..large {
        let job = u8::try_from(2 + n % 250).unwrap();
        earnings.keep(&earned(job));
        sent.push(job);
        if earnings.writing().waiting.is_empty() {
            quiet(&earnings);
        }
    }
    assert!(!earnings.writing().waiting.is_empty(), "the disk was full");
    assert_eq!(earnings.total().0, sent.len() as u64, "earned is earned");
    let soon = Instant::now();
    earnings.retry(soon + Duration::from_secs(5));
    assert!(!earnings.writing().waiting.is_empty(), "still full");
    disk.set_capacity(None);
    // The journal asks the disk for room again by the real clock.
    let (mut at, end) = (soon, Instant::now() + Duration::from_secs(20));
    while earnings.unkept() > 0 && Instant::now() < end {
        at += RETRY_MAX;
        earnings.retry(at);
        quiet(&earnings);
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(earnings.unkept(), 0);
    drop(earnings);
    assert_eq!(kept(&disk), sent);
}

#[test]
fn a_failed_write_is_made_good_by_a_journal_opened_anew_and_no_receipt_stands_twice() {
    for call in [Call::Write, Call::Sync] {
        let disk = FaultyDisk::new(2);
        let earnings = open(&disk);
        earnings.keep(&earned(1));
        quiet(&earnings);
        disk.fail_all(call, Some(ErrorKind::Other));
        earnings.keep(&earned(2));
        quiet(&earnings);
        let now = Instant::now();
        earnings.retry(now);
        earnings.keep(&earned(3));
        assert!(earnings.unkept() >= 2, "{call:?}: nothing is given up");
        disk.fail_all(call, None);
        earnings.retry(now + RETRY_MAX);
        quiet(&earnings);
        assert_eq!(earnings.unkept(), 0, "{call:?}");
        assert_eq!(earnings.total().0, 3);
        drop(earnings);
        assert_eq!(kept(&disk), [1, 2, 3], "{call:?}");
    }
}

#[test]
fn a_start_counts_what_was_earned_before() {
    let disk = FaultyDisk::new(3);
    let earnings = open(&disk);
    for job in 1..=5 {
        earnings.keep(&earned(job));
    }
    let before = earnings.total();
    drop(earnings);
    assert_eq!(open(&disk).total(), before);
    assert_eq!(before.0, 5);
}

#[test]
fn a_receipt_is_found_by_its_order_whether_it_is_on_disk_or_waits_and_nothing_is_lost_by_looking() {
    let order = |n: u8| Digest([n; 32]);
    let of_order = |job: u8| {
        let mut signed = earned(job);
        signed.receipt.ticket_hash = order(job);
        signed
    };
    let disk = FaultyDisk::new(4);
    let earnings = open(&disk);
    for job in 1..=3 {
        earnings.keep(&of_order(job));
    }
    let found = earnings.find(order(2)).expect("read");
    assert_eq!(found, Some(of_order(2)));
    assert_eq!(earnings.find(order(9)), Ok(None));
    earnings.keep(&of_order(4));
    assert_eq!(earnings.find(order(4)), Ok(Some(of_order(4))));
    // A disk that fails refuses the question and forgets no receipt.
    disk.fail_all(Call::Sync, Some(ErrorKind::Other));
    earnings.keep(&of_order(5));
    quiet(&earnings);
    let _ = earnings.find(order(5));
    disk.fail_all(Call::Sync, None);
    earnings.retry(Instant::now() + RETRY_MAX);
    assert_eq!(earnings.find(order(5)), Ok(Some(of_order(5))));
    drop(earnings);
    assert_eq!(kept(&disk), [1, 2, 3, 4, 5]);
}

#[test]
fn an_order_is_told_as_paid_when_its_receipt_is_on_disk_and_not_before() {
    let disk = FaultyDisk::new(1);
    let told = Arc::new(Mutex::new(Vec::new()));
    let tell = told.clone();
    let earnings = open(&disk).telling(move |order| tell.lock().expect("unpoisoned").push(order));
    let order = |n: u32| {
        let mut order = [0; 32];
        order[..4].copy_from_slice(&n.to_be_bytes());
        Digest(order)
    };
    let keep = |n: u32| {
        let mut receipt = earned(1);
        receipt.receipt.ticket_hash = order(n);
        earnings.keep(&receipt);
        quiet(&earnings);
    };
    keep(0);
    // No further segment: the open one fills up, and what comes then must wait.
    disk.set_capacity(Some(disk.used()));
    let mut kept = 1;
    while earnings.writing().waiting.is_empty() {
        assert!(kept < 10_000, "a segment ends");
        keep(kept);
        kept += 1;
    }
    let durable = told.lock().expect("unpoisoned").clone();
    assert!(durable.contains(&order(0)));
    assert!(!durable.contains(&order(kept - 1)), "it waits");
}
