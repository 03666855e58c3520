//! Network namespaces: hosts of a test's own, with cables between them.
//!
//! ```text
//!   Namespace --cable (a veth pair)-- Namespace        nothing of it is connected to the host's network
//! ```
//!
//! A socket belongs to the namespace of the thread that makes it, whoever uses it later: [`Namespace::enter`].

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A network namespace with its loopback up. Removed when dropped, with all that is in it.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes one; why not, where it cannot be made (only root may, and not on every host).
    ///
    /// # Errors
    /// What went wrong, in words.
    pub fn new() -> Result<Self, String> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("ek{}-{number}", std::process::id());
        if !rustix::process::geteuid().is_root() {
            return Err("only root may make network namespaces".to_owned());
        }
        run("ip", &["netns", "add", &name], "")?;
        let space = Self { name };
        space.try_ip("link set lo up")?;
        // An interface asks nobody for neighbours while it waits for an answer to whether its own address is free, a second or
        // two after it came up. A host without IPv6 has nothing to wait for.
        let no_wait = || std::fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0");
        space.enter(no_wait).unwrap_or(());
        Ok(space)
    }

    /// Joins two of them: an interface of one name at each end. What is then done to it is up to the caller.
    ///
    /// # Errors
    /// What went wrong, in words.
    pub fn cable(&self, end: &str, other: &Self, other_end: &str) -> Result<(), String> {
        let (here, there) = (&self.name, &other.name);
        let line =
            format!("link add {end} netns {here} type veth peer name {other_end} netns {there}");
        run("ip", &line.split(' ').collect::<Vec<_>>(), "")
    }

    /// Gives an interface its addresses, and takes it into use. IPv6 addresses can be used at once.
    pub fn address(&self, interface: &str, addresses: &[&str]) {
        for address in addresses {
            let nodad = if address.contains(':') { " nodad" } else { "" };
            self.ip(&format!("address add {address} dev {interface}{nodad}"));
        }
        self.ip(&format!("link set {interface} up"));
    }

    /// Runs `ip` in it.
    pub fn ip(&self, line: &str) {
        self.try_ip(line).unwrap_or_else(|error| panic!("{error}"));
    }

    fn try_ip(&self, line: &str) -> Result<(), String> {
        let words = ["-n", &self.name].into_iter().chain(line.split(' '));
        run("ip", &words.collect::<Vec<_>>(), "")
    }

    /// Runs a program in it, with `input` to read.
    ///
    /// # Errors
    /// What went wrong, in words.
    pub fn exec(&self, program: &str, arguments: &[&str], input: &str) -> Result<(), String> {
        let mut words = self.wrapper();
        words.push(program.to_owned());
        words.extend(arguments.iter().map(|word| (*word).to_owned()));
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let (first, rest) = words.split_first().expect("it is not empty");
        run(first, rest, input)
    }

    /// Sets `/proc/sys/net/...`, which each namespace has for itself.
    pub fn set(&self, name: &str, value: &str) {
        let path = format!("/proc/sys/net/{name}");
        self.enter(|| std::fs::write(&path, value))
            .unwrap_or_else(|error| panic!("{path}: {error}"));
    }

    /// Reads such a file.
    #[must_use]
    pub fn read(&self, path: &str) -> String {
        self.enter(|| std::fs::read_to_string(path))
            .unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// The words that a program is started through, so that it runs in it. The process is still the one that was started.
    #[must_use]
    pub fn wrapper(&self) -> Vec<String> {
        vec!["nsenter".to_owned(), format!("--net={}", self.path())]
    }

    /// Runs `f` in a thread that is in it, to its end. Sockets, and threads, that it makes stay there.
    pub fn enter<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                let file = File::open(self.path()).expect("it lives as long as this");
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                    .expect("who could make it can enter it");
                f()
            });
            match inside.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    fn path(&self) -> String {
        format!("/run/netns/{}", self.name)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(run("ip", &["netns", "del", &self.name], ""));
    }
}

fn run(program: &str, arguments: &[&str], input: &str) -> Result<(), String> {
    let words = || format!("{program} {}", arguments.join(" "));
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", words());
    let child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.map_err(|error| failed(&error))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that does not read what it was given says why by its exit code.
        drop(stdin.write_all(input.as_bytes()));
    }
    let output = child.wait_with_output().map_err(|error| failed(&error))?;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    match output.status.success() {
        true => Ok(()),
        false => Err(failed(&error)),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_socket_belongs_to_the_namespace_of_the_thread_that_made_it() {
        let made = Namespace::new().and_then(|one| Ok((one, Namespace::new()?)));
        let (one, other) = match made {
            Ok(both) => both,
            Err(reason) => return eprintln!("skipped: {reason}"),
        };
        one.cable("east", &other, "west").unwrap();
        one.address("east", &["10.0.0.1/24", "fd00::1/64"]);
        other.address("west", &["10.0.0.2/24", "fd00::2/64"]);
        for address in ["10.0.0.2:7", "[fd00::2]:7"] {
            let address: SocketAddr = address.parse().unwrap();
            let listener = other.enter(|| TcpListener::bind(address)).unwrap();
            let client = one.enter(|| TcpStream::connect(address)).unwrap();
            let (_, peer) = listener.accept().unwrap();
            assert_eq!(client.local_addr().unwrap(), peer);
        }
        let path = one.path();
        assert!(std::path::Path::new(&path).exists());
        drop(one);
        assert!(!std::path::Path::new(&path).exists());
    }
}
