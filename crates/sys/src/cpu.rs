//! Which CPUs this process may use, and how much of them.

use std::path::{Path, PathBuf};

use rustix::process::Pid;
use rustix::thread::CpuSet;

/// CPUs of the affinity mask, in rising order; never empty.
#[must_use]
pub fn affinity() -> Vec<usize> {
    let cpus: Vec<usize> = rustix::thread::sched_getaffinity(None)
        .map(|set| {
            (0..CpuSet::MAX_CPU)
                .filter(|&cpu| set.is_set(cpu))
                .collect()
        })
        .unwrap_or_default();
    if cpus.is_empty() { vec![0] } else { cpus }
}

/// Pins the calling thread to `cpu`. Threads made afterwards inherit it.
///
/// # Errors
/// When the kernel refuses, as it does for a CPU outside the cpuset.
pub fn pin(cpu: usize) -> std::io::Result<()> {
    let mut set = CpuSet::new();
    if cpu >= CpuSet::MAX_CPU {
        return Err(std::io::ErrorKind::InvalidInput.into());
    }
    set.set(cpu);
    Ok(rustix::thread::sched_setaffinity(None::<Pid>, &set)?)
}

/// CPU time per wall time that the cgroup allows, e.g. 1.5; `None` = no quota. Reads cgroup v2 `cpu.max` up to the root,
/// or v1 `cpu.cfs_quota_us`.
#[must_use]
pub fn quota() -> Option<f64> {
    let own = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let mut least: Option<f64> = None;
    let mut take = |found: Option<f64>| {
        if let Some(found) = found {
            least = Some(least.map_or(found, |so_far| so_far.min(found)));
        }
    };
    for line in own.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let path = path.trim_start_matches('/');
        if controllers.is_empty() {
            for directory in ancestors(Path::new("/sys/fs/cgroup"), path) {
                take(read(&directory.join("cpu.max")).and_then(|text| parse_v2(&text)));
            }
        } else if controllers.split(',').any(|name| name == "cpu") {
            for directory in ancestors(Path::new("/sys/fs/cgroup/cpu"), path) {
                let quota = read(&directory.join("cpu.cfs_quota_us"));
                let period = read(&directory.join("cpu.cfs_period_us"));
                if let (Some(quota), Some(period)) = (quota, period) {
                    take(parse_v1(&quota, &period));
                }
            }
        }
    }
    least
}

fn ancestors(root: &Path, path: &str) -> Vec<PathBuf> {
    let full = root.join(path);
    full.ancestors()
        .take_while(|directory| directory.starts_with(root))
        .map(Path::to_path_buf)
        .collect()
}

fn read(path: &Path) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

fn parse_v2(text: &str) -> Option<f64> {
    let mut fields = text.split_whitespace();
    let quota: f64 = fields.next()?.parse().ok()?;
    let period: f64 = fields.next()?.parse().ok()?;
    (quota > 0.0 && period > 0.0).then(|| quota / period)
}

fn parse_v1(quota: &str, period: &str) -> Option<f64> {
    let quota: f64 = quota.trim().parse().ok()?;
    let period: f64 = period.trim().parse().ok()?;
    (quota > 0.0 && period > 0.0).then(|| quota / period)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas_are_read_as_the_kernel_writes_them() {
        assert_eq!(parse_v2("max 100000\n"), None);
        assert_eq!(parse_v2("150000 100000\n"), Some(1.5));
        assert_eq!(parse_v1("-1\n", "100000\n"), None);
        assert_eq!(parse_v1("200000\n", "100000\n"), Some(2.0));
        assert_eq!(ancestors(Path::new("/a"), "b/c").len(), 3);
    }

    #[test]
    fn there_is_at_least_one_cpu() {
        assert!(!affinity().is_empty());
    }
}
