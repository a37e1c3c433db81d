use super::*;
use std::collections::BTreeSet;
use stoa_types::TokenAmount;

const NOW: Timestamp = Timestamp(1_790_000_000_000);
const OWNER: Address = Address([7; 20]);

fn ring() -> (KeyRing, Account) {
    let mut ring = KeyRing::default();
    ring.add(KeyHash::of("a key with spaces"), OWNER);
    let owner = ring.authenticate("a key with spaces", NOW).expect("known");
    (ring, owner)
}

fn made(ring: &mut KeyRing, by: &Account, n: u64, new: NewKey) -> KeyName {
    let hash = KeyHash::of(&format!("secret {n}"));
    ring.create(by, new, KeyId(n), hash, NOW).expect("made").id
}

#[test]
fn a_key_opens_its_account_until_it_is_revoked() {
    let (mut ring, owner) = ring();
    assert_eq!(owner.address, OWNER);
    assert_eq!(
        ring.authenticate("a key with space", NOW),
        Err(KeyError::Unknown)
    );
    let id = made(&mut ring, &owner, 1, NewKey::default());
    let account = ring.authenticate("secret 1", NOW).expect("live");
    assert_eq!((account.address, account.key), (OWNER, KeyId(1)));
    ring.revoke_own(OWNER, id, NOW).expect("revoked");
    assert_eq!(ring.authenticate("secret 1", NOW), Err(KeyError::Revoked));
    let again = ring
        .revoke_own(OWNER, id, NOW.plus(Millis(5)))
        .expect("still");
    assert_eq!(again.revoked_at, Some(NOW), "the first time counts");
}

#[test]
fn a_key_with_an_end_is_refused_from_then_on() {
    let (mut ring, owner) = ring();
    let lifetime = Some(Millis(1_000));
    made(
        &mut ring,
        &owner,
        1,
        NewKey {
            lifetime,
            ..NewKey::default()
        },
    );
    let end = NOW.plus(Millis(1_000));
    assert!(ring.authenticate("secret 1", NOW.plus(Millis(999))).is_ok());
    assert_eq!(ring.authenticate("secret 1", end), Err(KeyError::Expired));
}

#[test]
fn a_rotated_key_keeps_its_id_and_its_old_secret_for_the_grace_alone() {
    let (mut ring, owner) = ring();
    let id = made(&mut ring, &owner, 1, NewKey::default());
    let grace = Millis(500);
    ring.rotate(OWNER, id, KeyHash::of("next"), grace, NOW)
        .expect("rotated");
    assert_eq!(ring.authenticate("next", NOW).expect("new").key, KeyId(1));
    assert_eq!(
        ring.authenticate("secret 1", NOW).expect("grace").key,
        KeyId(1)
    );
    let later = NOW.plus(grace);
    assert_eq!(ring.authenticate("secret 1", later), Err(KeyError::Revoked));
    ring.rotate(OWNER, id, KeyHash::of("third"), Millis(0), later)
        .expect("rotated");
    assert_eq!(ring.authenticate("next", later), Err(KeyError::Revoked));
    assert_eq!(ring.authenticate("secret 1", later), Err(KeyError::Unknown));
    ring.revoke_own(OWNER, id, later).expect("revoked");
    let refused = ring.rotate(OWNER, id, KeyHash::of("fourth"), grace, later);
    assert!(matches!(refused, Err(KeyFault::State(_))));
}

#[test]
fn another_account_s_key_is_no_key_and_a_configured_one_stays() {
    let (mut ring, owner) = ring();
    let id = made(&mut ring, &owner, 1, NewKey::default());
    let stranger = Address([8; 20]);
    assert_eq!(ring.revoke_own(stranger, id, NOW), Err(KeyFault::NotFound));
    assert!(ring.of(stranger).is_empty());
    let configured = KeyName(owner.key);
    assert!(matches!(
        ring.revoke_own(OWNER, configured, NOW),
        Err(KeyFault::State(_))
    ));
}

#[test]
fn what_is_written_down_holds_hashes_only_and_reads_back() {
    let (mut ring, owner) = ring();
    let grant = Grant {
        routes: Some(BTreeSet::from([Scope::Inference])),
        models: Some(BTreeSet::from(["m".to_owned()])),
        spend_limit: Some(SpendLimit {
            amount: TokenAmount::from_units(5),
            period: Period::Day,
        }),
        rate_limit: Some(RateLimit {
            requests_per_minute: 3,
            tokens_per_minute: 9,
        }),
        expires_at: None,
    };
    let id = made(
        &mut ring,
        &owner,
        1,
        NewKey {
            grant,
            ..NewKey::default()
        },
    );
    ring.rotate(OWNER, id, KeyHash::of("next"), Millis(500), NOW)
        .expect("rotated");
    let bytes = ring.to_bytes();
    let text = String::from_utf8(bytes.clone()).expect("UTF-8");
    assert!(!text.contains("secret 1") && !text.contains("next") && !text.contains("spaces"));
    let mut read = KeyRing::from_bytes(&bytes).expect("reads");
    assert_eq!(
        read.authenticate("a key with spaces", NOW),
        Err(KeyError::Unknown)
    );
    read.add(KeyHash::of("a key with spaces"), OWNER);
    for key in ["secret 1", "next", "a key with spaces"] {
        assert_eq!(read.authenticate(key, NOW), ring.authenticate(key, NOW));
    }
    for cut in [0, 1, bytes.len() / 2, bytes.len() - 1] {
        assert!(KeyRing::from_bytes(&bytes[..cut]).is_err());
    }
    let newer = text.replacen("\"version\":1", "\"version\":2", 1);
    assert!(matches!(
        KeyRing::from_bytes(newer.as_bytes()),
        Err(RingError::Version(2))
    ));
}

#[test]
fn an_account_has_a_bounded_number_of_keys() {
    let (mut ring, owner) = ring();
    for n in 1..LIVE_MAX as u64 {
        made(&mut ring, &owner, n, NewKey::default());
    }
    let refused = ring.create(
        &owner,
        NewKey::default(),
        KeyId(5_000),
        KeyHash::of("x"),
        NOW,
    );
    assert!(matches!(refused, Err(KeyFault::State(_))));
    let id = KeyName(KeyId(1));
    ring.revoke_own(OWNER, id, NOW).expect("known");
    for n in 20_000..21_200 {
        let id = made(&mut ring, &owner, n, NewKey::default());
        ring.revoke_own(OWNER, id, NOW.plus(Millis(n)))
            .expect("known");
    }
    assert_eq!(ring.of(OWNER).len(), KNOWN_MAX);
}
