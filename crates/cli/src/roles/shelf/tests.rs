use super::*;
use stoa_types::{Address, Digest, Price, Signature, Ticket, Tier, Timestamp, TokenAmount};

fn job(n: u8) -> JobId {
    JobId([n; 32])
}

fn kept(n: u8, bytes: usize) -> KeptWork {
    let (zero, nobody) = (Digest::ZERO, Address::ZERO);
    let price = Price::per_million(TokenAmount::from_units(1));
    let ticket = Ticket {
        job_id: job(n),
        account: nobody,
        router: nobody,
        provider: nobody,
        model_root: zero,
        parameters_digest: zero,
        request_digest: zero,
        work_digest: zero,
        input_price: price,
        output_price: price,
        input_units_max: 1,
        output_units_max: 1,
        reserve: TokenAmount::ZERO,
        fee_version: 1,
        tier: Tier::Exact,
        attempt: 0,
        issued_at: Timestamp(0),
        deadline: Timestamp(1),
    };
    KeptWork {
        ticket: SignedTicket {
            ticket,
            signature: Signature([n; 65]),
        },
        sealed: vec![n; bytes],
    }
}

fn files(folder: &Path) -> usize {
    fs::read_dir(folder).expect("a folder").count()
}

#[test]
fn what_was_put_is_found_after_a_restart_and_a_torn_end_is_no_record() {
    let folder = tempfile::tempdir().expect("a folder");
    let open = || Shelf::open(folder.path().to_owned(), |_| true).expect("opens");
    let mut shelf = open();
    for n in 1..=3 {
        shelf.put(job(n), &kept(n, 1000)).expect("written");
    }
    shelf.sync().expect("synced");
    assert_eq!(shelf.get(job(2)), Some(kept(2, 1000)));
    drop(shelf);
    let path = folder.path().join("1.kept");
    let whole = fs::read(&path).expect("written");
    fs::write(&path, &whole[..whole.len() - 1]).expect("cut");
    let mut shelf = open();
    assert_eq!(shelf.len(), 2);
    assert_eq!(shelf.get(job(2)), Some(kept(2, 1000)));
    assert_eq!(shelf.get(job(3)), None);
    // What comes after goes into a file of its own.
    shelf.put(job(4), &kept(4, 10)).expect("written");
    drop(shelf);
    assert_eq!(open().get(job(4)), Some(kept(4, 10)));
}

#[test]
fn a_flipped_bit_is_never_given_out() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut shelf = Shelf::open(folder.path().to_owned(), |_| true).expect("opens");
    shelf.put(job(1), &kept(1, 100)).expect("written");
    let path = folder.path().join("1.kept");
    let whole = fs::read(&path).expect("written");
    for at in HEADER..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        fs::write(&path, changed).expect("changed");
        assert_eq!(shelf.get(job(1)), None, "byte {at}");
    }
}

#[test]
fn a_file_goes_when_nothing_in_it_is_wanted_at_once_or_at_the_next_start() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut shelf = Shelf::open(folder.path().to_owned(), |_| true).expect("opens");
    let half = usize::try_from(FILE_BYTES).expect("small") / 2;
    for n in 1..=5 {
        shelf.put(job(n), &kept(n, half)).expect("written");
    }
    assert_eq!(files(folder.path()), 3);
    shelf.erase(&[job(1), job(2), job(9)]);
    assert_eq!((files(folder.path()), shelf.len()), (2, 3));
    // The one that is written to, too.
    shelf.erase(&[job(5)]);
    shelf.put(job(6), &kept(6, 10)).expect("written");
    assert_eq!(shelf.get(job(6)), Some(kept(6, 10)));
    drop(shelf);
    let shelf = Shelf::open(folder.path().to_owned(), |of| of == job(6)).expect("opens");
    assert_eq!((files(folder.path()), shelf.len()), (1, 1));
}

#[test]
fn a_job_that_is_put_twice_takes_no_other_job_with_it_when_it_goes() {
    let folder = tempfile::tempdir().expect("a folder");
    let open = || Shelf::open(folder.path().to_owned(), |_| true).expect("opens");
    let big = usize::try_from(FILE_BYTES).expect("small");
    let mut shelf = open();
    shelf.put(job(1), &kept(1, big)).expect("written");
    // In the second file.
    shelf.put(job(2), &kept(2, 10)).expect("written");
    shelf.put(job(1), &kept(1, 20)).expect("written");
    assert_eq!(
        files(folder.path()),
        1,
        "of the first one nothing is wanted"
    );
    shelf.erase(&[job(1)]);
    assert_eq!(shelf.get(job(2)), Some(kept(2, 10)));
    drop(shelf);
    // As two files of an older version may hold it.
    let mut shelf = open();
    shelf.put(job(1), &kept(1, big)).expect("written");
    drop(shelf);
    fs::copy(folder.path().join("3.kept"), folder.path().join("4.kept")).expect("copied");
    let mut shelf = open();
    assert_eq!(files(folder.path()), 2);
    shelf.erase(&[job(1)]);
    assert_eq!(files(folder.path()), 1);
    assert_eq!(shelf.get(job(2)), Some(kept(2, 10)));
}
