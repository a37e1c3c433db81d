//! What decoders make of arbitrary bytes and of changed messages.

use crate::hall::{delta, dispatch, job_of, large_last_message, welcome};
use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;
use stoa_net::RouterControl;
use stoa_nodes::message::{RefusalReason, ToProvider, ToRouter};

fn to_router() -> Vec<ToRouter> {
    let refused = ToRouter::Refused {
        job: job_of(1),
        attempt: 0,
        reason: RefusalReason::ContextLength {
            tokens: 9,
            context: 8,
        },
    };
    let status = ToRouter::Status {
        free_slots: 1,
        draining: false,
    };
    vec![
        delta(1, 2),
        large_last_message(3, 9),
        refused,
        status,
        ToRouter::Hello(Box::new(crate::hall::hello(1))),
    ]
}

fn to_provider() -> Vec<ToProvider> {
    let cancel = ToProvider::Cancel {
        job: job_of(1),
        attempt: 0,
        delivered: 7,
    };
    vec![ToProvider::Dispatch(Box::new(dispatch(1))), cancel]
}

fn bytes_of<T: Serialize>(message: &T) -> Vec<u8> {
    serde_json::to_vec(message).expect("json")
}

/// Reading never panics, and what is read is written and read again as itself.
fn read_twice<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    if let Ok(message) = serde_json::from_slice::<T>(bytes) {
        let again: T = serde_json::from_slice(&bytes_of(&message)).expect("our own bytes");
        assert_eq!(again, message);
    }
}

#[test]
fn every_message_comes_back_as_it_was_and_is_none_of_the_other_role() {
    for message in to_router() {
        let bytes = bytes_of(&message);
        assert_eq!(
            serde_json::from_slice::<ToRouter>(&bytes).expect("its own"),
            message
        );
        assert!(serde_json::from_slice::<ToProvider>(&bytes).is_err());
        assert!(serde_json::from_slice::<RouterControl>(&bytes).is_err());
    }
    for message in to_provider() {
        let bytes = bytes_of(&message);
        assert_eq!(
            serde_json::from_slice::<ToProvider>(&bytes).expect("its own"),
            message
        );
        assert!(serde_json::from_slice::<ToRouter>(&bytes).is_err());
        let late = RouterControl::Late(Box::new(message));
        let bytes = bytes_of(&late);
        assert_eq!(
            serde_json::from_slice::<RouterControl>(&bytes).expect("its own"),
            late
        );
        assert!(serde_json::from_slice::<ToProvider>(&bytes).is_err());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn arbitrary_bytes_are_no_panic(bytes in any::<Vec<u8>>()) {
        read_twice::<ToRouter>(&bytes);
        read_twice::<ToProvider>(&bytes);
        read_twice::<RouterControl>(&bytes);
    }

    #[test]
    fn a_changed_message_is_refused_or_another_message(
        which in 0usize..16, at in any::<prop::sample::Index>(), length in 0usize..6, new in prop::collection::vec(any::<u8>(), 0..6),
    ) {
        let mut all: Vec<Vec<u8>> = to_router().iter().map(bytes_of).collect();
        all.extend(to_provider().iter().map(bytes_of));
        all.push(bytes_of(&RouterControl::Welcome(welcome())));
        let mut bytes = all.swap_remove(which % all.len());
        let at = at.index(bytes.len());
        let end = (at + length).min(bytes.len());
        bytes.splice(at..end, new);
        read_twice::<ToRouter>(&bytes);
        read_twice::<ToProvider>(&bytes);
        read_twice::<RouterControl>(&bytes);
    }
}
