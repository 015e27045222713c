//! How much memory is in use, and how much there is, as the kernel says it that would end the process.
//!
//! In a container that is the control group's: what it has charged, without files that it can drop at any
//! time. Elsewhere it is what the process has in memory, and what the machine has.

use std::fs;
use std::path::{Path, PathBuf};

/// What of the memory there is may be used, in percent. Between two looks, and in buffers of the kernel that
/// are charged later, the rest is soon gone.
const USABLE: u64 = 90;
/// A control group without a limit says a number near the largest.
const NO_LIMIT: u64 = 1 << 60;

/// What is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bound {
    /// What the process has in memory, with this many bytes at most.
    Process(u64),
    /// What a control group has been charged, in these files, with this many bytes at most.
    Group {
        /// What is charged.
        usage: PathBuf,
        /// What of it can be dropped.
        stat: PathBuf,
        /// The most.
        most: u64,
    },
}

impl Bound {
    /// Of the container, or of the machine.
    pub fn find() -> Option<Self> {
        Self::find_below(Path::new("/"))
    }

    fn find_below(root: &Path) -> Option<Self> {
        let machine = machine(root);
        let group = group(root);
        match (group, machine) {
            (Some(Self::Group { usage, stat, most }), machine)
                if machine.is_none_or(|machine| most < machine) =>
            {
                let most = usable(most);
                Some(Self::Group { usage, stat, most })
            }
            (_, machine) => machine.map(|bytes| Self::Process(usable(bytes))),
        }
    }

    /// The most bytes that may be in use.
    pub fn most(&self) -> u64 {
        match self {
            Self::Process(most) | Self::Group { most, .. } => *most,
        }
    }

    /// Bytes in use now; `None`: the kernel does not say it.
    pub fn used(&self) -> Option<u64> {
        match self {
            Self::Process(_) => resident(),
            Self::Group { usage, stat, .. } => {
                let charged = number(usage)?;
                let droppable = fs::read_to_string(stat).map_or(0, |stat| droppable(&stat));
                Some(charged.saturating_sub(droppable))
            }
        }
    }
}

/// Bytes that the process has in memory.
pub fn resident() -> Option<u64> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

fn usable(bytes: u64) -> u64 {
    bytes / 100 * USABLE
}

/// The memory of the machine.
fn machine(root: &Path) -> Option<u64> {
    let text = fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// The tightest control group that the process is in; of either version.
fn group(root: &Path) -> Option<Bound> {
    let own = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let mut tightest: Option<(u64, PathBuf, bool)> = None;
    for line in own.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        let is_second = controllers.is_empty();
        if !is_second && !controllers.split(',').any(|name| name == "memory") {
            continue;
        }
        let (mount, file) = match is_second {
            true => ("sys/fs/cgroup", "memory.max"),
            false => ("sys/fs/cgroup/memory", "memory.limit_in_bytes"),
        };
        let mount = root.join(mount);
        // In a container the path may be the host's; then what is mounted is the group itself.
        for at in mount.join(path.trim_start_matches('/')).ancestors() {
            if !at.starts_with(&mount) {
                break;
            }
            let most = number(&at.join(file)).filter(|most| *most < NO_LIMIT);
            if let Some(most) = most
                && tightest.as_ref().is_none_or(|known| most < known.0)
            {
                tightest = Some((most, at.to_owned(), is_second));
            }
        }
    }
    let (most, at, is_second) = tightest?;
    let usage = if is_second {
        "memory.current"
    } else {
        "memory.usage_in_bytes"
    };
    Some(Bound::Group {
        usage: at.join(usage),
        stat: at.join("memory.stat"),
        most,
    })
}

/// A file that has one number; `max` is none.
fn number(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// Bytes of a control group's memory that the kernel drops before it ends anybody: files, and its own
/// caches. The first version says them with what is below, too.
fn droppable(stat: &str) -> u64 {
    let value = |name: &str| {
        let lines = stat.lines();
        let mut values = lines.filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        values
            .next()
            .and_then(|value| value.trim().parse::<u64>().ok())
    };
    let one = |name: &str| {
        value(&format!("total_{name}"))
            .or_else(|| value(name))
            .unwrap_or(0)
    };
    one("inactive_file") + one("active_file") + one("slab_reclaimable")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step is a failed test")]
mod tests {
    use super::*;

    /// A file system with these files.
    fn system(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    const MACHINE: (&str, &str) = ("proc/meminfo", "MemTotal:  1000 kB\nMemFree: 5 kB\n");

    #[test]
    fn the_tightest_group_above_the_process_counts() {
        let root = system(&[
            MACHINE,
            ("proc/self/cgroup", "0::/pods/gateway\n"),
            ("sys/fs/cgroup/pods/gateway/memory.max", "max\n"),
            ("sys/fs/cgroup/pods/memory.max", "100000\n"),
            ("sys/fs/cgroup/pods/memory.current", "70000\n"),
            (
                "sys/fs/cgroup/pods/memory.stat",
                "anon 40000\nfile 30000\ninactive_file 10000\nactive_file 4000\nslab_reclaimable 1000\n",
            ),
        ]);
        let bound = Bound::find_below(root.path()).unwrap();
        assert_eq!((bound.most(), bound.used()), (90_000, Some(55_000)));
    }

    #[test]
    fn a_group_of_the_first_version_counts_by_its_mount() {
        let root = system(&[
            MACHINE,
            ("proc/self/cgroup", "5:cpu:/x\n4:memory:/docker/abc\n0::/\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "200000\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "90000\n"),
            (
                "sys/fs/cgroup/memory/memory.stat",
                "inactive_file 1\ntotal_inactive_file 20000\ntotal_active_file 0\n",
            ),
        ]);
        let bound = Bound::find_below(root.path()).unwrap();
        assert_eq!((bound.most(), bound.used()), (180_000, Some(70_000)));
    }

    #[test]
    fn without_a_tighter_group_it_is_the_machine() {
        let none = "9223372036854771712\n";
        for limit in [none, "2000000000\n", "what\n"] {
            let root = system(&[
                MACHINE,
                ("proc/self/cgroup", "4:memory:/a\n"),
                ("sys/fs/cgroup/memory/a/memory.limit_in_bytes", limit),
            ]);
            let bound = Bound::find_below(root.path());
            assert_eq!(bound, Some(Bound::Process(921_600)), "{limit}");
        }
        assert_eq!(Bound::find_below(system(&[]).path()), None);
    }

    #[test]
    fn the_process_knows_what_it_has() {
        let used = Bound::Process(1).used().unwrap();
        assert!((1 << 20..1 << 40).contains(&used), "{used}");
    }
}
