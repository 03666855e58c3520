//! What the processes of a peer have used: a process with all its descendants, from `/proc`.

use std::fs;
use std::time::{Duration, Instant};

/// A tree of processes at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// Time on a CPU in ns, of every thread (first field of proc_pid_schedstat).
    pub(crate) cpu_ns: f64,
    /// Proportional share of all pages in bytes (`Pss` of proc_pid_smaps_rollup): what one would miss if the peer were gone.
    pub(crate) memory: f64,
    /// The part of it that no file is behind (`Pss_Anon` and `Pss_Shmem`): heap, stacks, shared zones.
    pub(crate) own_memory: f64,
    /// Open descriptors.
    pub(crate) descriptors: f64,
}

/// CPU time alone, which is quick to read.
pub(crate) fn cpu_ns(pid: u32) -> f64 {
    tree(pid).into_iter().map(cpu_of).sum()
}

/// Everything.
pub(crate) fn usage(pid: u32) -> Usage {
    let mut usage = Usage::default();
    for pid in tree(pid) {
        usage.cpu_ns += cpu_of(pid);
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let field = |name: &str| {
            let line = rollup.lines().find(|line| line.starts_with(name));
            let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
            kib.unwrap_or(0.0) * 1024.0
        };
        usage.memory += field("Pss:");
        usage.own_memory += field("Pss_Anon:") + field("Pss_Shmem:");
        let open = fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
        usage.descriptors += f64::from(u32::try_from(open).unwrap_or(u32::MAX));
    }
    usage
}

/// Waits until the processes have come to rest, and says what they use then: at least 2 s, so that what is put away after a
/// second is away; then until memory has stayed within 16 KiB, and the CPU below 2 %, for a second. At most 20 s.
pub(crate) fn settled(pid: u32) -> Usage {
    const STEP: Duration = Duration::from_millis(250);
    let begin = Instant::now();
    let mut last = usage(pid);
    let mut quiet = 0;
    loop {
        pause(STEP);
        let now = usage(pid);
        let rested = (now.own_memory - last.own_memory).abs() <= 16.0 * 1024.0
            && now.cpu_ns - last.cpu_ns < STEP.as_secs_f64() * 1e9 * 0.02;
        quiet = if rested { quiet + 1 } else { 0 };
        last = now;
        let waited = begin.elapsed();
        if (quiet >= 4 && waited >= Duration::from_secs(2)) || waited > Duration::from_secs(20) {
            return last;
        }
    }
}

/// Lets time pass while something is measured or waited for that gives no sign of itself.
pub(crate) fn pause(time: Duration) {
    let until = Instant::now() + time;
    while let Some(left) = until.checked_duration_since(Instant::now()) {
        std::thread::park_timeout(left);
    }
}

fn cpu_of(pid: u32) -> f64 {
    fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("schedstat")).ok())
        .filter_map(|text| text.split_whitespace().next()?.parse::<f64>().ok())
        .sum()
}

/// The process and all below it.
fn tree(root: u32) -> Vec<u32> {
    let mut pids = vec![root];
    let mut next = 0;
    while let Some(&pid) = pids.get(next) {
        next += 1;
        let tasks = fs::read_dir(format!("/proc/{pid}/task"))
            .into_iter()
            .flatten()
            .flatten();
        for task in tasks {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            pids.extend(
                children
                    .split_whitespace()
                    .filter_map(|pid| pid.parse::<u32>().ok()),
            );
        }
    }
    pids
}
