//! Roles on hosts of their own: network namespaces, providers behind NAT, every role killed and cut off under load.

use std::process::Command;

use crate::ci::{plain, root, target};

/// What the test needs of the kernel, tried out in namespaces of its own.
const PROBE: &str = "ip link add probe type bridge && ip link add one type veth peer name two \
    && nft add table ip nat && nft 'add chain ip nat post { type nat hook postrouting priority 100; }' \
    && nft add rule ip nat post masquerade && mount -t tmpfs tmpfs /run";

fn namespaces() -> Command {
    let mut unshare = Command::new("unshare");
    unshare.args([
        "--map-root-user",
        "--net",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
    ]);
    unshare
}

/// Runs `tests/e2e/hosts.py` in namespaces of its own. Needs a release build, iproute2, nftables and util-linux; no privileges. Where the
/// kernel lets nobody make such namespaces it says that nothing was tried.
pub fn run() -> Result<(), String> {
    let probe = namespaces().args(["sh", "-c", PROBE]).output();
    let probe = probe.map_err(|error| format!("`unshare` did not start: {error}"))?;
    if !probe.status.success() {
        println!(
            "NOT RUN: this machine lets nobody make network namespaces with NAT: {}",
            String::from_utf8_lossy(&probe.stderr).trim()
        );
        return Ok(());
    }
    let folder = std::env::temp_dir().join(format!("stoa-hosts-{}", std::process::id()));
    std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut hosts = namespaces();
    hosts
        .arg("python3")
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
