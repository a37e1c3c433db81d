use super::*;
use serde_json::Value;
use stoa_crypto::{SecretKey, personal_digest, recover};
use stoa_types::Signature;

/// What other implementations made and how one of them reads changed texts; recorded.
fn vectors() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../vectors/sign_in.json");
    let text = std::fs::read_to_string(path).expect("readable");
    serde_json::from_str(&text).expect("JSON")
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name].as_array().expect("a list")
}

#[test]
fn what_viem_and_siwe_write_is_read_and_what_viem_and_ethers_sign_is_theirs() {
    let vectors = vectors();
    let key = SecretKey::from_hex(vectors["key"].as_str().expect("a key")).expect("a key");
    for signed in list(&vectors, "signed") {
        let text = signed["message"].as_str().expect("text");
        let (by, fields) = (&signed["by"], &signed["fields"]);
        let message = Message::parse(text).unwrap_or_else(|error| panic!("{by}: {error}: {text}"));
        let named = |name: &str| fields[name].as_str();
        let instant = |name| named(name).and_then(calendar::parse_rfc3339);
        assert_eq!(
            Some(checksummed(message.address).as_str()),
            named("address")
        );
        assert_eq!(Some(message.domain), named("domain"));
        assert_eq!(message.scheme, named("scheme"));
        assert_eq!(message.statement, named("statement"));
        assert_eq!(Some(message.uri.text), named("uri"));
        assert_eq!(message.uri.authority, named("domain"));
        assert_eq!(Some(message.chain_id), fields["chainId"].as_u64());
        assert_eq!(Some(message.nonce), named("nonce"));
        assert_eq!(Some(message.issued_at), instant("issuedAt"));
        assert_eq!(message.expiration_time, instant("expirationTime"));
        assert_eq!(message.not_before, instant("notBefore"));
        assert_eq!(message.request_id, named("requestId"));
        let resources = fields["resources"].as_array().cloned().unwrap_or_default();
        assert_eq!(message.resources, resources);

        let signature = signed["signature"].as_str().expect("text");
        let mut bytes = [0; 65];
        hex::decode_to_slice(&signature[2..], &mut bytes).expect("hex");
        let signer = recover(personal_digest(text.as_bytes()), &Signature(bytes));
        assert_eq!(signer, Ok(key.address()), "{by}");
        assert_eq!(message.address, key.address());
    }
}

#[test]
fn changed_texts_are_judged_as_the_grammar_judges_them() {
    let vectors = vectors();
    let (mut accepted, mut refused) = (0, 0);
    for verdict in list(&vectors, "verdicts") {
        let text = verdict["message"].as_str().expect("text");
        let ours = Message::parse(text);
        let theirs = verdict["accepted"].as_bool().expect("a verdict");
        assert_eq!(ours.is_ok(), theirs, "{ours:?}: {text:?}");
        *(if theirs { &mut accepted } else { &mut refused }) += 1;
    }
    assert!(accepted > 20 && refused > 100);
}

const PLAIN: &str = "a.example wants you to sign in with your Ethereum account:\n\
    0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed\n\nwords\n\nURI: https://a.example/x\nVersion: 1\n\
    Chain ID: 5\nNonce: abcdefgh\nIssued At: 2026-11-22T07:37:17Z";

#[test]
fn each_part_that_is_wrong_is_named() {
    use MessageError::*;
    assert!(Message::parse(PLAIN).is_ok());
    let long = format!("{PLAIN}\nRequest ID: {}", "a".repeat(MESSAGE_BYTES_MAX));
    assert_eq!(Message::parse(&long), Err(TooLong));
    for (from, to, expected) in [
        ("a.example wants", "wants", Domain),
        ("a.example wants", " wants", Domain),
        ("a.example wants", "a.ex ample wants", Domain),
        ("a.example wants", "а.example wants", Domain),
        ("a.example wants", "1http://a.example wants", Domain),
        ("account:\n", "account:\r\n", Domain),
        ("0x5aAeb", "0x5aaeb", Address),
        ("0x5aAeb", "0X5aAeb", Address),
        ("0x5aAeb", "0xaAeb", Address),
        ("\n\nwords", "\nwords", Statement),
        ("words\n\n", "words\n", Statement),
        ("words", "wo\nrds", Statement),
        ("words", "w\u{2028}ords", Statement),
        ("words", "50% of", Statement),
        ("URI: ", "URL: ", Field("URI")),
        ("URI: https://a.example/x", "URI: https", Field("URI")),
        (
            "URI: https://a.example/x",
            "URI: https://a.example/#a#b",
            Field("URI"),
        ),
        ("Version: 1", "Version: 2", Field("Version")),
        ("Version: 1", "Version: 1 ", Field("Version")),
        ("Chain ID: 5", "Chain ID: +5", Field("Chain ID")),
        (
            "Chain ID: 5",
            "Chain ID: 18446744073709551616",
            Field("Chain ID"),
        ),
        ("Chain ID: 5\n", "", Field("Chain ID")),
        ("abcdefgh", "abcdefg", Field("Nonce")),
        ("abcdefgh", "abcd-efgh", Field("Nonce")),
        ("2026-11-22T", "2026-11-22 ", Field("Issued At")),
        ("07:37:17Z", "07:37:17Z\n", Rest),
        (
            "07:37:17Z",
            "07:37:17Z\nNot Before: now",
            Field("Not Before"),
        ),
        (
            "07:37:17Z",
            "07:37:17Z\nRequest ID: a b",
            Field("Request ID"),
        ),
        (
            "07:37:17Z",
            "07:37:17Z\nRequest ID: %4",
            Field("Request ID"),
        ),
        (
            "07:37:17Z",
            "07:37:17Z\nRequest ID: a\nNot Before: 2026-11-22T07:37:17Z",
            Rest,
        ),
        (
            "07:37:17Z",
            "07:37:17Z\nResources:\nhttps://a",
            Field("Resources"),
        ),
        (
            "07:37:17Z",
            "07:37:17Z\nResources:\n- a b",
            Field("Resources"),
        ),
        ("07:37:17Z", "07:37:17Z\nSomething: else", Rest),
    ] {
        let text = PLAIN.replacen(from, to, 1);
        assert_ne!(text, PLAIN, "{from}");
        assert_eq!(Message::parse(&text), Err(expected), "{text:?}");
    }
    assert_eq!(Message::parse(""), Err(Domain));
}

#[test]
fn the_authority_of_an_address_is_all_between_the_slashes() {
    for (text, expected) in [
        ("https://a.example/b", Some("a.example")),
        ("https://a.example:8080?b", Some("a.example:8080")),
        (
            "https://a.example@evil.example/",
            Some("a.example@evil.example"),
        ),
        ("https://[::1]:8080#b", Some("[::1]:8080")),
        ("urn:a:b", None),
        ("https:a.example", None),
    ] {
        assert_eq!(uri(text).expect(text).authority, expected, "{text}");
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(512))]
    #[test]
    fn any_text_is_judged_without_a_panic_and_a_message_has_only_one_reading(
        at in 0..PLAIN.len(), cut in 0_usize..4, put in "\\PC{0,3}|[\n\r\t%:/#-]{0,3}"
    ) {
        let end = (at + cut).min(PLAIN.len());
        let text = format!("{}{put}{}", &PLAIN[..at], &PLAIN[end..]);
        if let Ok(message) = Message::parse(&text) {
            // What was read, written as the proposal writes it, is the text again.
            let scheme = message.scheme.map(|s| format!("{s}://")).unwrap_or_default();
            let statement = message.statement.map(|s| format!("{s}\n")).unwrap_or_default();
            let again = format!(
                "{scheme}{} wants you to sign in with your Ethereum account:\n{}\n\n{statement}\nURI: {}\nVersion: 1\n",
                message.domain, checksummed(message.address), message.uri.text
            );
            proptest::prop_assert!(text.starts_with(&again), "{text:?} was read as {again:?}");
            let nonce = format!("\nNonce: {}\n", message.nonce);
            proptest::prop_assert!(text.contains(&nonce));
        }
    }
}
