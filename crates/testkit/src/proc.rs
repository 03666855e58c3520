//! What the kernel says of processes and sockets, and signals to them.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use rustix::process::{Pid, Resource, Rlimit, Signal};

/// State letter of a process (`R`, `S`, `T`, `Z`, ...); `None` when there is none of this number.
#[must_use]
pub fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

/// Whether it runs, is stopped or sleeps: there, and not a zombie.
#[must_use]
pub fn alive(pid: u32) -> bool {
    state(pid).is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

/// Sends a signal; whether there was somebody to send it to.
pub fn signal(pid: u32, signal: Signal) -> bool {
    to_pid(pid).is_some_and(|pid| rustix::process::kill_process(pid, signal).is_ok())
}

/// Anonymous memory that is resident, in KiB (`RssAnon`).
#[must_use]
pub fn memory_kib(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// CPU time used so far, in clock ticks of 10 ms.
#[must_use]
pub fn cpu_ticks(pid: u32) -> Option<u64> {
    Some(evenkeel_sys::process::vitals(pid)?.cpu_ticks)
}

/// Open descriptors; `None` where they may not be looked at.
#[must_use]
pub fn descriptors(pid: u32) -> Option<usize> {
    Some(fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count())
}

/// Inodes of the sockets that a process holds.
#[must_use]
pub fn sockets(pid: u32) -> BTreeSet<u64> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten();
    let targets = entries.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    targets
        .filter_map(|target| {
            let text = target.to_str()?.strip_prefix("socket:[")?;
            text.strip_suffix(']')?.parse().ok()
        })
        .collect()
}

/// Inodes of the sockets that listen on an IPv4 address.
#[must_use]
pub fn listening(address: SocketAddr) -> BTreeSet<u64> {
    listeners(address).map(|(inode, _)| inode).collect()
}

/// Connections that wait to be accepted on an IPv4 address, over all sockets that listen there.
#[must_use]
pub fn queued(address: SocketAddr) -> u64 {
    listeners(address).map(|(_, queued)| queued).sum()
}

/// Inode and length of the accept queue, which stands in the column of received bytes (proc_net_tcp of the kernel's
/// documentation).
fn listeners(address: SocketAddr) -> impl Iterator<Item = (u64, u64)> {
    const LISTEN: &str = "0A";
    let SocketAddr::V4(address) = address else {
        panic!("only IPv4 is looked up here, not {address}")
    };
    let [a, b, c, d] = address.ip().octets();
    let wanted = format!("{d:02X}{c:02X}{b:02X}{a:02X}:{:04X}", address.port());
    let table = fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    let found: Vec<_> = table
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let local = words.nth(1)?;
            let state = words.nth(1)?;
            let (_, queued) = words.next()?.split_once(':')?;
            let queued = u64::from_str_radix(queued, 16).ok()?;
            let inode = words.nth(4)?.parse().ok()?;
            (local == wanted && state == LISTEN).then_some((inode, queued))
        })
        .collect();
    found.into_iter()
}

/// Limits the descriptors of a running child, or a child's child, to numbers below `count`.
///
/// # Errors
/// What the kernel says.
pub fn limit_descriptors(pid: u32, count: u64) -> std::io::Result<()> {
    let limit = Rlimit {
        current: Some(count),
        // Inherited from here, and lowering it could not be undone.
        maximum: rustix::process::getrlimit(Resource::Nofile).maximum,
    };
    rustix::process::prlimit(to_pid(pid), Resource::Nofile, limit)?;
    Ok(())
}

/// Lets this process have as many descriptors as it may: how many that is.
#[must_use]
pub fn raise_descriptors() -> u64 {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let most = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    match rustix::process::setrlimit(Resource::Nofile, most) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    }
    .unwrap_or(u64::MAX)
}

/// Processes whose parent is `parent`.
#[must_use]
pub fn children(parent: u32) -> BTreeSet<u32> {
    let parent = parent.to_string();
    all()
        .filter(|pid| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let found = stat
                .rsplit_once(')')
                .and_then(|(_, rest)| rest.split_whitespace().nth(1));
            found == Some(parent.as_str())
        })
        .collect()
}

/// Processes that were started with `name=value` in their environment, as far as it may be looked at.
#[must_use]
pub fn with_environment(name: &str, value: &Path) -> BTreeSet<u32> {
    let wanted = format!("{name}={}", value.display());
    all()
        .filter(|pid| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment
                .split(|byte| *byte == 0)
                .any(|entry| entry == wanted.as_bytes())
        })
        .filter(|pid| alive(*pid))
        .collect()
}

fn all() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

fn to_pid(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_listening_socket_is_found_in_both_places() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let found = listening(listener.local_addr().unwrap());
        assert_eq!(found.len(), 1);
        assert!(found.is_subset(&sockets(std::process::id())));
        let address = listener.local_addr().unwrap();
        let _waits: Vec<_> = (0..3)
            .map(|_| TcpStream::connect(address).unwrap())
            .collect();
        assert_eq!(queued(address), 3);
    }

    #[test]
    fn this_process_is_alive_and_has_memory() {
        let me = std::process::id();
        assert!(alive(me) && memory_kib(me).unwrap() > 0 && descriptors(me).unwrap() > 2);
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        assert!(children(me).contains(&child.id()));
        assert!(signal(child.id(), Signal::KILL));
        child.wait().unwrap();
        assert!(!alive(child.id()));
    }
}
