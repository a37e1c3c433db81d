//! Roles on hosts of their own: network namespaces, providers behind NAT, every role killed and cut off under load.

use std::process::Command;

use crate::ci::{plain, root, target};

/// Runs `tests/e2e/hosts.py` in namespaces of its own. Needs a release build, iproute2, nftables and util-linux; no privileges.
pub fn run() -> Result<(), String> {
    let folder = std::env::temp_dir().join(format!("stoa-hosts-{}", std::process::id()));
    std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut hosts = Command::new("unshare");
    hosts
        .args([
            "--map-root-user",
            "--net",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "python3",
        ])
        .arg(root().join("tests/e2e/hosts.py"))
        .arg("--stoa")
        .arg(target("release").join("stoa"))
        .arg("--folder")
        .arg(&folder);
    let status = plain(&mut hosts).status();
    let status = status.map_err(|error| format!("`unshare` did not start: {error}"))?;
    if status.success() {
        let removed = std::fs::remove_dir_all(&folder);
        return removed.map_err(|error| format!("{}: {error}", folder.display()));
    }
    Err(format!(
        "roles on hosts of their own: failed; the logs are in {}",
        folder.display()
    ))
}
