//! What wallets sign for a person: EIP-191 texts, and addresses as EIP-55 writes them.

use crate::keccak256;
use stoa_types::{Address, Digest};

/// Digest that `personal_sign` signs: EIP-191, version 0x45. It is no digest of a transaction or of typed data, whatever `text` says.
pub fn personal_digest(text: &[u8]) -> Digest {
    let head = format!("\x19Ethereum Signed Message:\n{}", text.len());
    keccak256([head.as_bytes(), text].concat())
}

/// The address with the capitals of EIP-55: `0x` and 40 digits, in which a mistyped one is noticed.
pub fn checksummed(address: Address) -> String {
    alloy_primitives::Address::from(address.0).to_checksum(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{SecretKey, recover};
    use stoa_types::Signature;

    #[test]
    fn the_addresses_of_the_proposal_get_their_capitals() {
        for written in [
            "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
            "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359",
            "0xdbF03B407c01E7cD3CBea99509d93f8DDDC8C6FB",
            "0xD1220A0cf47c7B9Be7A2E6BA89F429762e7b9aDb",
            "0x52908400098527886E0F7030069857D2E4169EE7",
            "0xde709f2102306220921060314715629080e2fb77",
        ] {
            let address: Address = written.to_ascii_lowercase().parse().expect("an address");
            assert_eq!(checksummed(address), written);
        }
    }

    #[test]
    fn a_text_is_signed_as_wallets_sign_it() {
        // web3.js documents this pair of key and signature for `eth.accounts.sign`.
        let key = "0x4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318";
        let key = SecretKey::from_hex(key).expect("a key");
        let signature = "b91467e570a6466aa9e9876cbcd013baba02900b8979d43fe208a4a4f339f5fd\
                         6007e74cd82e037b800186422fc2da167c747ef045e5d18a5f5d4300f8e1a029\
                         1c";
        let mut bytes = [0; 65];
        hex::decode_to_slice(signature, &mut bytes).expect("hex");
        let digest = personal_digest(b"Some data");
        assert_eq!(
            digest.to_string(),
            "0x1da44b586eb0729ff70a73c326926f6ed5a25f5b056e7f47fbc6e58d86871655"
        );
        assert_eq!(key.sign(digest), Signature(bytes));
        assert_eq!(recover(digest, &Signature(bytes)), Ok(key.address()));
    }
}
