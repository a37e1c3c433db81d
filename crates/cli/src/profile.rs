//! The network profile of a data folder: fixed at the first start, because the contracts carry its numbers.

use crate::data::{DataDir, write_private};
use crate::process::{Failure, one_line};
use stoa_crypto::keccak256;
use stoa_types::{Digest, NetworkProfile};

/// A profile and the hash by which receipts and greetings name it.
#[derive(Debug, Clone)]
pub struct Profile {
    /// Its numbers.
    pub rules: NetworkProfile,
    /// keccak of its text.
    pub hash: Digest,
    /// Its text.
    pub text: String,
}

impl Profile {
    /// The profile that a text describes.
    pub fn of(text: &str) -> Result<Self, Failure> {
        Ok(Self {
            rules: NetworkProfile::parse(text)?,
            hash: keccak256(text),
            text: text.to_owned(),
        })
    }

    /// The profile of the first start, which stays. Another one that was `named` in an option is refused.
    pub fn settle(data: &DataDir, asked: NetworkProfile, named: bool) -> Result<Self, Failure> {
        let path = data.path("profile.toml");
        let text = match std::fs::read_to_string(&path) {
            Ok(kept) if !named || kept == asked.to_text() => kept,
            Ok(_) => {
                return Err(format!(
                    "the network in {} was started with another profile, --batch-seconds or --ticket-seconds, and its contracts keep those numbers; leave the options out, or use --fresh or another --data",
                    data.path("").display()
                )
                .into());
            }
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(format!(
                    "cannot read {}: {error}; nothing was changed",
                    path.display()
                )
                .into());
            }
            Err(_) if data.path("chain.redb").exists() => {
                return Err(format!(
                    "{} is missing, but a chain stands in the folder, and its contracts keep those numbers: put the file back from your backup, or use --fresh or another --data",
                    path.display()
                )
                .into());
            }
            Err(_) => {
                let text = asked.to_text();
                write_private(&path, text.as_bytes())?;
                text
            }
        };
        Self::of(&text).map_err(|error| {
            format!(
                "{} is damaged: {}; put it back from your backup",
                path.display(),
                one_line(error)
            )
            .into()
        })
    }
}
