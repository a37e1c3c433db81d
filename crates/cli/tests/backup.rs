//! Backup and restore of data folders as an operator does them.

mod support;

use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Instant;
use support::{PATIENCE, Up, refused, stoa, told, value_of};

fn charged(data: &Path) -> Value {
    let text = told(stoa(data).args(["audit", "--json"]));
    let audit: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(audit["conserved"], true);
    audit["charged"].clone()
}

#[test]
fn a_network_goes_on_from_its_copy_and_a_router_from_an_older_one_takes_no_calls() {
    let temporary = tempfile::tempdir().expect("temporary folder");
    let path = |name: &str| temporary.path().join(name);
    let (data, log) = (path("data"), path("log"));
    let up = Up::start(&data, 1, &log);
    told(stoa(&data).args(["ask", "Hello"]));
    up.wait_for_posts(1.0);
    let error = refused(stoa(&data).arg("backup").arg(path("early")));
    assert!(error.contains("in use by another process"), "{error}");
    assert!(!path("early").exists());
    up.stop();
    told(stoa(&data).arg("backup").arg(path("older")));

    let up = Up::start(&data, 1, &log);
    told(stoa(&data).args(["ask", "Hello again"]));
    up.wait_for_posts(1.0);
    up.stop();
    let said = told(stoa(&data).arg("backup").arg(path("newest")));
    assert!(said.contains("secret keys"), "{said}");
    let books = charged(&data);
    assert_eq!(books.as_object().expect("jobs").len(), 2);

    let said = told(stoa(&path("back")).arg("restore").arg(path("newest")));
    assert!(
        said.contains("Router: ") && said.contains("Chain: "),
        "{said}"
    );
    assert_eq!(charged(&path("back")), books);
    let up = Up::start(&path("back"), 1, &log);
    told(stoa(&path("back")).args(["ask", "Hello"]));
    let page = up.scrape_until("matched", |page| page.contains("stoa_router_books_match"));
    assert_eq!(value_of(&page, "stoa_router_books_match"), Some(1.0));
    up.stop();

    // The router alone from the older copy: the chain holds a batch that its books never sealed.
    told(stoa(&path("past")).arg("restore").arg(path("older")));
    fs::remove_dir_all(path("back/router")).expect("removed");
    fs::rename(path("past/router"), path("back/router")).expect("moved");
    let up = Up::start(&path("back"), 1, &log);
    up.scrape_until("noticed", |page| {
        value_of(page, "stoa_router_books_match") == Some(0.0)
    });
    let error = refused(stoa(&path("back")).args(["ask", "Hello"]));
    assert!(error.contains("drains"), "{error}");
    let log = fs::read_to_string(&log).expect("UTF-8");
    assert!(log.contains("restored from an older copy"), "{log}");
}

#[test]
fn a_restore_that_is_killed_leaves_no_half_folder_and_can_be_done_again() {
    let temporary = tempfile::tempdir().expect("temporary folder");
    let path = |name: &str| temporary.path().join(name);
    fs::create_dir(path("data")).expect("made");
    for n in 0..400 {
        fs::write(path("data").join(format!("{n}")), [7; 10_000]).expect("written");
    }
    told(stoa(&path("data")).arg("backup").arg(path("copy")));
    let mut killed = 0;
    while killed < 3 {
        let mut restore = stoa(&path("back"))
            .arg("restore")
            .arg(path("copy"))
            .stdout(Stdio::null())
            .spawn()
            .expect("starts");
        let end = Instant::now() + PATIENCE;
        while !path(".back.restoring/1").exists() && !path("back").exists() {
            assert!(Instant::now() < end, "it never began");
        }
        restore.kill().expect("killed");
        restore.wait().expect("waits");
        if path("back").exists() {
            // It was faster: then it is whole.
            assert_eq!(fs::read_dir(path("back")).expect("reads").count(), 400);
            fs::remove_dir_all(path("back")).expect("removed");
        }
        killed += 1;
    }
    told(stoa(&path("back")).arg("restore").arg(path("copy")));
    assert_eq!(fs::read_dir(path("back")).expect("reads").count(), 400);
    assert!(!path(".back.restoring").exists());
    let error = refused(stoa(&path("nothing")).arg("backup").arg(path("other")));
    assert!(error.contains("no data folder"), "{error}");
    assert!(!path("nothing").exists(), "a copy makes no folder");
}
