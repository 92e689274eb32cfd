//! How much memory this process may have.

use std::path::{Path, PathBuf};

/// Bytes: the machine's, or what the service manager allows (`MemoryMax`) where that is less. None where nothing tells.
pub fn memory_limit() -> Option<u64> {
    limit_below(Path::new("/"))
}

fn limit_below(root: &Path) -> Option<u64> {
    let text = |path: PathBuf| std::fs::read_to_string(path).ok();
    let meminfo = text(root.join("proc/meminfo"))?;
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let total = line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()?.checked_mul(1024)?;
    // Control groups of version 2, as systemd makes them; each group above may have a limit of its own.
    let group = text(root.join("proc/self/cgroup")).unwrap_or_default();
    let group = group.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    let dirs = Path::new(group).ancestors().map(|dir| root.join("sys/fs/cgroup").join(dir).join("memory.max"));
    // "max" is no number.
    let limits = dirs.filter_map(|path| text(path)?.trim().parse::<u64>().ok());
    Some(limits.fold(total, u64::min))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_narrowest_limit_of_all_groups_above_counts() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        assert_eq!(limit_below(dir.path()), None);
        write("proc/meminfo", "MemFree:  5 kB\nMemTotal:        1000 kB\nMemAvailable: 3 kB\n");
        assert_eq!(limit_below(dir.path()), Some(1_024_000));
        write("proc/self/cgroup", "0::/system.slice/selvedge-engine.service\n");
        write("sys/fs/cgroup/system.slice/selvedge-engine.service/memory.max", "max\n");
        assert_eq!(limit_below(dir.path()), Some(1_024_000));
        write("sys/fs/cgroup/system.slice/memory.max", "700000\n");
        assert_eq!(limit_below(dir.path()), Some(700_000));
        write("sys/fs/cgroup/system.slice/selvedge-engine.service/memory.max", "800000\n");
        assert_eq!(limit_below(dir.path()), Some(700_000));
        assert!(memory_limit().is_some_and(|bytes| bytes > 1 << 20), "of this machine");
    }
}
