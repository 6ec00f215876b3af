//! Memory, as the operating system reports it.
//!
//! Responsible for: the memory that this process uses, and how much more it may allocate. Limits are free memory,
//! control groups (containers, batch systems) and the process's own limit.
//! Must not depend on: the use of the memory.

use std::fs;
use std::path::{Path, PathBuf};

/// Peak resident set size of this process, in bytes (Linux: `VmHWM`); `None` on other systems.
pub fn peak_rss() -> Option<u64> {
    field(Path::new("/proc/self/status"), "VmHWM:")
}

/// Resident set size of this process in bytes (Linux: `VmRSS`), including pages of mapped files; `None` on other
/// systems.
pub fn rss() -> Option<u64> {
    field(Path::new("/proc/self/status"), "VmRSS:")
}

/// Memory of the machine in bytes (Linux: `MemTotal`); `None` on other systems.
pub fn total() -> Option<u64> {
    field(Path::new("/proc/meminfo"), "MemTotal:")
}

/// Bytes that this process may still allocate: the minimum of the machine's free memory (`MemAvailable`), the remainder
/// of each of its control groups, and its address space limit (`ulimit -v`). `None` if nothing is known.
pub fn available() -> Option<u64> {
    available_below(Path::new("/"))
}

/// [`available`] with the directory `root` instead of `/`.
fn available_below(root: &Path) -> Option<u64> {
    let free = field(&root.join("proc/meminfo"), "MemAvailable:");
    free.into_iter().chain(control_groups(root)).chain(address_space(root)).min()
}

/// The bytes after `name` in a file of lines such as `MemTotal:  8123456 kB`.
fn field(file: &Path, name: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// A version of control groups: the directory of its memory controller and the names of its files.
struct ControlGroups {
    /// The controllers in a line of `/proc/self/cgroup`: `0::/path`, `4:memory:/path`.
    controllers: &'static str,
    mount: &'static str,
    limit: &'static str,
    used: &'static str,
    /// Key in `memory.stat`: file pages that the kernel reclaims when memory is needed.
    reclaimable: &'static str,
}

/// <https://docs.kernel.org/admin-guide/cgroup-v2.html>, <https://docs.kernel.org/admin-guide/cgroup-v1/memory.html>
const CONTROL_GROUPS: [ControlGroups; 2] = [
    ControlGroups {
        controllers: "",
        mount: "sys/fs/cgroup",
        limit: "memory.max",
        used: "memory.current",
        reclaimable: "inactive_file ",
    },
    ControlGroups {
        controllers: "memory",
        mount: "sys/fs/cgroup/memory",
        limit: "memory.limit_in_bytes",
        used: "memory.usage_in_bytes",
        reclaimable: "total_inactive_file ",
    },
];

/// The remainder of each control group, from the process's own group up to the root. In a container, the path may be a
/// path on the host. Then the group's files are at the mount point, where the search ends.
fn control_groups(root: &Path) -> Vec<u64> {
    let membership = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let mut left = Vec::new();
    for line in membership.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let known =
            CONTROL_GROUPS.iter().filter(|groups| controllers.split(',').any(|name| name == groups.controllers));
        for groups in known {
            let mount = root.join(groups.mount);
            let own = mount.join(path.trim_start_matches('/'));
            let above = own.ancestors().take_while(|dir| dir.starts_with(&mount)).map(Path::to_owned);
            left.extend(above.filter_map(|dir: PathBuf| groups.left(&dir)));
        }
    }
    left
}

impl ControlGroups {
    /// The remainder of the group in `dir`; `None` if it has no limit.
    fn left(&self, dir: &Path) -> Option<u64> {
        let read = |name: &str| fs::read_to_string(dir.join(name)).ok();
        let number = |name: &str| read(name)?.trim().parse::<u64>().ok();
        // "max" (v2) and the largest page-aligned number (v1) mean no limit.
        let limit = number(self.limit).filter(|limit| *limit < i64::MAX as u64 / 2)?;
        let stat = read("memory.stat").unwrap_or_default();
        let reclaimable = stat.lines().find_map(|line| line.strip_prefix(self.reclaimable)?.trim().parse::<u64>().ok());
        let used = number(self.used)?.saturating_sub(reclaimable.unwrap_or(0));
        Some(limit.saturating_sub(used))
    }
}

/// The remainder of the process's address space limit; `None` if it has no limit.
fn address_space(root: &Path) -> Option<u64> {
    let limits = fs::read_to_string(root.join("proc/self/limits")).ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max address space"))?;
    let limit: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(limit.saturating_sub(field(&root.join("proc/self/status"), "VmSize:")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A root directory with the given files.
    fn system(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a directory");
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
            fs::write(path, text).expect("a file");
        }
        root
    }

    const MEMINFO: (&str, &str) = ("proc/meminfo", "MemTotal:  8000 kB\nMemAvailable:    6000 kB\n");

    #[test]
    fn the_memory_of_this_process_is_measured() {
        let (peak, now) = (peak_rss().expect("Linux"), rss().expect("Linux"));
        assert!(peak >= now && now > 1 << 20, "{now} of at most {peak} bytes");
        assert!(available().expect("Linux") <= total().expect("Linux"));
    }

    #[test]
    fn free_memory_is_the_limit_without_other_limits() {
        assert_eq!(available_below(system(&[MEMINFO]).path()), Some(6000 * 1024));
        assert_eq!(available_below(system(&[]).path()), None);
        let unlimited =
            ("proc/self/limits", "Max address space         unlimited            unlimited            bytes\n");
        let none = ("sys/fs/cgroup/memory.max", "max\n");
        let group = ("proc/self/cgroup", "0::/\n");
        assert_eq!(available_below(system(&[MEMINFO, unlimited, group, none]).path()), Some(6000 * 1024));
    }

    #[test]
    fn the_tightest_control_group_of_version_2_counts_without_its_reclaimable_pages() {
        let files = [
            MEMINFO,
            ("proc/self/cgroup", "0::/job/step\n"),
            ("sys/fs/cgroup/job/memory.max", "1000000\n"),
            ("sys/fs/cgroup/job/memory.current", "700000\n"),
            ("sys/fs/cgroup/job/memory.stat", "anon 1\ninactive_file 200000\n"),
            ("sys/fs/cgroup/job/step/memory.max", "max\n"),
        ];
        assert_eq!(available_below(system(&files).path()), Some(500_000));
    }

    #[test]
    fn control_groups_of_version_1_are_found_at_the_mount_of_a_container() {
        let files = [
            MEMINFO,
            ("proc/self/cgroup", "9:name=systemd:/\n4:cpu,memory:/docker/1f\n0::/\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "900000\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "100000\n"),
        ];
        assert_eq!(available_below(system(&files).path()), Some(800_000));
    }

    #[test]
    fn a_limit_on_addresses_counts() {
        let files = [
            MEMINFO,
            (
                "proc/self/limits",
                "Limit   Soft Limit  Hard Limit  Units\nMax address space   5000000  unlimited  bytes\n",
            ),
            ("proc/self/status", "VmSize:\t    1000 kB\n"),
        ];
        assert_eq!(available_below(system(&files).path()), Some(5_000_000 - 1_024_000));
    }
}
