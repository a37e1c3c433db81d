//! The file by which a role that runs on its own, or on another host, finds the network: `join.json`. It holds nothing secret.

use crate::data::{DataDir, DataError, io_error, write_private};
use crate::process::Failure;
use crate::profile::Profile;
use serde::{Deserialize, Serialize};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use stoa_chain::Contracts;

const FILE: &str = "join.json";

/// Where a network's chain is, which contracts count on it, and by which rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinFile {
    /// JSON-RPC of the chain.
    pub rpc: String,
    /// Id of the chain.
    pub chain_id: u64,
    /// The contracts.
    pub contracts: Contracts,
    /// Text of the network profile; every role of a network must have the same.
    pub profile: String,
}

impl JoinFile {
    /// Reads a file that somebody handed over.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let text = std::fs::read(path)
            .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        let file: Self = serde_json::from_slice(&text).map_err(|error| {
            format!(
                "{} is no description of a network: {error}; `stoa chain` and `stoa up` write one as join.json",
                path.display()
            )
        })?;
        file.profile()?;
        Ok(file)
    }

    /// Reads the file of a data folder that may be in use.
    pub fn load(data: &Path) -> Result<Self, Failure> {
        let path = data.join(FILE);
        if path.exists() {
            return Self::read(&path);
        }
        Err(format!(
            "{} belongs to no network yet; name a network's join.json with --join",
            data.display()
        )
        .into())
    }

    /// Writes it into the data folder.
    pub fn save(&self, data: &DataDir) -> Result<(), DataError> {
        let text = serde_json::to_vec_pretty(self).expect("plain values");
        write_private(&data.path(FILE), &text)
    }

    /// As [`JoinFile::save`], for the network's own file: it is made to be handed out, and whoever gets it (a container's user, the user of a
    /// unit) must be able to read it. That of a role stays private, because its URL may hold a key to the server.
    pub fn publish(&self, data: &DataDir) -> Result<(), DataError> {
        self.save(data)?;
        let path = data.path(FILE);
        let readable = std::fs::Permissions::from_mode(0o644);
        std::fs::set_permissions(&path, readable).map_err(io_error("hand out", &path))
    }

    /// The file of a role: handed over at the first start, kept from then on. Another network than the kept one is refused, because
    /// keys, books and receipts in the folder are that network's; another address of the same chain is taken over. Writes nothing: it is
    /// saved when the chain turned out to be there, so that a wrong file or URL does not stay.
    pub fn settle(
        data: &DataDir,
        handed: Option<&Path>,
        rpc: Option<&str>,
    ) -> Result<Self, Failure> {
        let kept = data.path(FILE);
        let kept = kept.exists().then(|| Self::read(&kept)).transpose()?;
        let handed = handed.map(Self::read).transpose()?;
        let mut file = match (kept, handed) {
            (Some(kept), Some(handed)) if !kept.is_same_network(&handed) => {
                return Err(format!(
                    "{} belongs to another network (chain {}); use another --data for this one",
                    data.path("").display(),
                    kept.chain_id
                )
                .into());
            }
            (_, Some(file)) | (Some(file), None) => file,
            (None, None) => return Self::load(&data.path("")),
        };
        if let Some(rpc) = rpc {
            rpc.clone_into(&mut file.rpc);
        }
        Ok(file)
    }

    fn is_same_network(&self, other: &Self) -> bool {
        (self.chain_id, self.contracts, &self.profile)
            == (other.chain_id, other.contracts, &other.profile)
    }

    /// The rules.
    pub fn profile(&self) -> Result<Profile, Failure> {
        Profile::of(&self.profile)
            .map_err(|error| format!("the network's profile cannot be used: {error}").into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stoa_types::{Address, NetworkProfile};

    fn file(chain_id: u64) -> JoinFile {
        JoinFile {
            rpc: "http://127.0.0.1:1".to_owned(),
            chain_id,
            contracts: Contracts::of_deployer(Address([7; 20])),
            profile: NetworkProfile::builtin_text("stoa")
                .expect("built in")
                .to_owned(),
        }
    }

    #[test]
    fn a_folder_keeps_its_network_and_takes_another_address_of_the_same_chain() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let data = DataDir::open(&folder.path().join("role")).expect("opens");
        let nothing = JoinFile::settle(&data, None, None).expect_err("no network yet");
        assert!(nothing.to_string().contains("--join"), "{nothing}");

        let handed = folder.path().join("handed.json");
        let write = |file: &JoinFile| {
            std::fs::write(&handed, serde_json::to_vec(file).expect("plain")).expect("writes");
        };
        write(&file(5));
        write(&file(4));
        JoinFile::settle(&data, Some(&handed), None).expect("read");
        write(&file(5));
        let settled = JoinFile::settle(&data, Some(&handed), None).expect("the first was not kept");
        assert_eq!(settled, file(5));
        settled.save(&data).expect("kept");
        let moved = JoinFile::settle(&data, None, Some("http://10.0.0.1:8545")).expect("kept");
        assert_eq!(moved.rpc, "http://10.0.0.1:8545");
        assert_eq!(JoinFile::settle(&data, None, None).expect("kept"), file(5));
        moved.save(&data).expect("kept");
        assert_eq!(JoinFile::settle(&data, None, None).expect("kept"), moved);

        write(&file(6));
        let other = JoinFile::settle(&data, Some(&handed), None).expect_err("another network");
        assert!(other.to_string().contains("chain 5"), "{other}");
        assert_eq!(JoinFile::settle(&data, None, None).expect("kept"), moved);
    }

    #[test]
    fn what_describes_no_network_is_refused_and_told_where_one_comes_from() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("join.json");
        let mut broken = serde_json::to_value(file(1)).expect("plain");
        broken["profile"] = "name = 'x'".into();
        for text in ["", "{}", "[1]", &broken.to_string()] {
            std::fs::write(&path, text).expect("writes");
            let error = JoinFile::read(&path).expect_err(text).to_string();
            assert!(
                error.contains("stoa chain") || error.contains("profile"),
                "{error}"
            );
        }
    }
}
