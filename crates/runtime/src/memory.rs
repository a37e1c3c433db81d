//! How much memory this process may use: the machine's, less what its control group forbids.

use std::fs;
use std::path::{Path, PathBuf};

/// Memory as the kernel reports it, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryView {
    /// Usable in all: the machine's memory or the control group's limit, whichever is less.
    pub total: u64,
    /// Usable now without driving anybody out.
    pub available: u64,
}

/// Bytes that can be taken now; `None` where the kernel does not say (not Linux).
pub fn available_memory() -> Option<u64> {
    MemoryView::read(Path::new("/")).map(|view| view.available)
}

impl MemoryView {
    /// Reads `/proc` and `/sys` below `root`.
    pub(crate) fn read(root: &Path) -> Option<Self> {
        let text = fs::read_to_string(root.join("proc/meminfo")).ok()?;
        let mut view = Self::of_machine(&text)?;
        for group in groups(root) {
            view.limit(&group);
        }
        Some(view)
    }

    fn of_machine(meminfo: &str) -> Option<Self> {
        let field = |name: &str| {
            let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
            let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
            kib.checked_mul(1024)
        };
        let total = field("MemTotal:")?;
        Some(Self {
            total,
            available: field("MemAvailable:").unwrap_or(total),
        })
    }

    /// Applies one control group: its limit, and what is left of it. Page cache that can be dropped counts as left.
    fn limit(&mut self, group: &Group) {
        let Some(limit) = number(&group.limit) else {
            return;
        };
        let used = number(&group.used).unwrap_or(0);
        let droppable = fs::read_to_string(&group.stat)
            .ok()
            .and_then(|text| stat(&text, group.droppable))
            .unwrap_or(0);
        self.total = self.total.min(limit);
        let left = limit.saturating_sub(used.saturating_sub(droppable));
        self.available = self.available.min(left);
    }
}

/// Files of one control group.
struct Group {
    limit: PathBuf,
    used: PathBuf,
    stat: PathBuf,
    droppable: &'static str,
}

/// The process's memory control groups and all above them, version 2 and 1. In a container the outer path may be invisible; the
/// mount's own root then is the group.
fn groups(root: &Path) -> Vec<Group> {
    let own = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let mut groups = Vec::new();
    for line in own.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let version_2 = controllers.is_empty();
        if !version_2 && !controllers.split(',').any(|c| c == "memory") {
            continue;
        }
        let mount = root.join(if version_2 {
            "sys/fs/cgroup"
        } else {
            "sys/fs/cgroup/memory"
        });
        let inner = mount.join(path.trim_start_matches('/'));
        groups.extend(
            inner
                .ancestors()
                .take_while(|folder| folder.starts_with(&mount))
                .map(|folder| Group::of(folder, version_2)),
        );
    }
    groups
}

impl Group {
    fn of(folder: &Path, version_2: bool) -> Self {
        let (limit, used, droppable) = if version_2 {
            ("memory.max", "memory.current", "inactive_file")
        } else {
            (
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
                "total_inactive_file",
            )
        };
        Self {
            limit: folder.join(limit),
            used: folder.join(used),
            stat: folder.join("memory.stat"),
            droppable,
        }
    }
}

/// The number in a file; `max` and absent files are no number.
fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn stat(text: &str, name: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMINFO: &str =
        "MemTotal:        1000 kB\nMemFree:           10 kB\nMemAvailable:     600 kB\n";

    fn machine(files: &[(&str, &str)]) -> MemoryView {
        let root = tempfile::tempdir().expect("folder");
        for (path, text) in [("proc/meminfo", MEMINFO)].iter().chain(files) {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("below the root")).expect("folder");
            fs::write(path, text).expect("file");
        }
        MemoryView::read(root.path()).expect("readable")
    }

    fn view(total_kib: u64, available_kib: u64) -> MemoryView {
        MemoryView {
            total: total_kib << 10,
            available: available_kib << 10,
        }
    }

    #[test]
    fn without_a_control_group_the_machine_counts() {
        assert_eq!(machine(&[]), view(1000, 600));
        let unlimited = [
            ("proc/self/cgroup", "0::/\n"),
            ("sys/fs/cgroup/memory.max", "max\n"),
        ];
        assert_eq!(machine(&unlimited), view(1000, 600));
    }

    #[test]
    fn the_tightest_group_on_the_way_up_counts_and_droppable_cache_is_free() {
        let files = [
            ("proc/self/cgroup", "0::/a/b\n"),
            ("sys/fs/cgroup/a/memory.max", "409600\n"),
            ("sys/fs/cgroup/a/memory.current", "307200\n"),
            (
                "sys/fs/cgroup/a/memory.stat",
                "anon 1\ninactive_file 102400\nfile 5\n",
            ),
            ("sys/fs/cgroup/a/b/memory.max", "max\n"),
        ];
        assert_eq!(machine(&files), view(400, 200));
    }

    #[test]
    fn version_1_and_a_container_whose_outer_path_is_invisible_work() {
        let files = [
            (
                "proc/self/cgroup",
                "5:cpu,cpuacct:/x\n4:memory:/docker/abc\n",
            ),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "204800\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "102400\n"),
            (
                "sys/fs/cgroup/memory/memory.stat",
                "inactive_file 1\ntotal_inactive_file 51200\n",
            ),
        ];
        assert_eq!(machine(&files), view(200, 150));
    }

    #[test]
    fn this_machine_says_something_plausible() {
        if cfg!(target_os = "linux") {
            let free = available_memory().expect("Linux says");
            assert!(free > 1 << 20, "{free} bytes");
        }
    }
}
