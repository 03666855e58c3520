//! What machine it was, with which programs: what a figure means nothing without.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};

use crate::peers::OWN;

/// Descriptors that the largest works want of a process.
const DESCRIPTORS: u64 = 262_144;

/// Sysctls that change what a TCP relay can do.
const SYSCTLS: [&str; 12] = [
    "net/core/somaxconn",
    "net/core/netdev_max_backlog",
    "net/core/rmem_max",
    "net/core/wmem_max",
    "net/ipv4/ip_local_port_range",
    "net/ipv4/tcp_congestion_control",
    "net/ipv4/tcp_max_syn_backlog",
    "net/ipv4/tcp_max_tw_buckets",
    "net/ipv4/tcp_rmem",
    "net/ipv4/tcp_tw_reuse",
    "net/ipv4/tcp_wmem",
    "net/netfilter/nf_conntrack_max",
];

/// Where the run takes place, and when: `now` is passed in.
pub(crate) fn facts(now: SystemTime) -> Value {
    let sysctls: serde_json::Map<String, Value> = SYSCTLS
        .iter()
        .map(|name| {
            let value = fs::read_to_string(Path::new("/proc/sys").join(name));
            let value = value.map_or(Value::Null, |text| squeezed(&text).into());
            (name.replace('/', "."), value)
        })
        .collect();
    let file = |path: &str| squeezed(&fs::read_to_string(path).unwrap_or_default());
    let field = |path: &str, name: &str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(name));
        let value = line.and_then(|line| line.split_once(':'));
        value.map_or_else(String::new, |(_, value)| value.trim().to_owned())
    };
    json!({
        "date": date(now),
        "machine": {
            "cpu": field("/proc/cpuinfo", "model name"),
            "cpus": std::thread::available_parallelism().map_or(1, |cpus| cpus.get()),
            "memory": field("/proc/meminfo", "MemTotal"),
            "kernel": file("/proc/sys/kernel/osrelease"),
            "transparent_hugepages": file("/sys/kernel/mm/transparent_hugepage/enabled"),
            "load_before": file("/proc/loadavg"),
        },
        "sysctls": sysctls,
        "versions": {
            "evenkeel": first_line(OWN, "--version"),
            "haproxy": first_line("haproxy", "-v"),
            "nginx": first_line("nginx", "-v"),
            "wrk": first_line("wrk", "-v"),
        },
    })
}

/// Raises the limit on descriptors, for this process and those that it starts, as far as it may. Returns the limit.
pub(crate) fn raise_descriptors() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(DESCRIPTORS).max(DESCRIPTORS);
    let wanted = |number| Rlimit {
        current: Some(number),
        maximum: Some(number),
    };
    if setrlimit(Resource::Nofile, wanted(most)).is_err() {
        // Not root: what the administrator allows.
        let allowed = Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        };
        setrlimit(Resource::Nofile, allowed).unwrap();
    }
    getrlimit(Resource::Nofile).current.unwrap_or(DESCRIPTORS)
}

/// `2026-01-31 12:00:00 UTC`. Days to a civil date as in Howard Hinnant's `chrono-Compatible Low-Level Date Algorithms`.
fn date(now: SystemTime) -> String {
    let seconds = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or(Duration::ZERO)
        .as_secs();
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!(
        "{year}-{month:02}-{day:02} {:02}:{:02}:{:02} UTC",
        second / 3_600,
        second / 60 % 60,
        second % 60
    )
}

/// nginx says its version on standard error.
fn first_line(program: &str, option: &str) -> String {
    let Ok(output) = Command::new(program).arg(option).output() else {
        return String::new();
    };
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    text.lines().next().unwrap_or_default().trim().to_owned()
}

fn squeezed(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
