//! The process of a double: both sides of its control connection.
//!
//! ```text
//!   test ---- spawn (environment: kind, path of a socket) ----> double
//!        <--- connects to the socket
//!        ---- a line: a command -----> <---- a line: `ok ...` or `error ...`
//! ```
//!
//! A double lives no longer than its test: it ends when the connection does.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::Role;
use crate::{TempDir, eventually, proc};

const KIND: &str = "EVENKEEL_TEST_DOUBLE";
const SOCKET: &str = "EVENKEEL_TEST_DOUBLE_SOCKET";

/// Longest wait for the process, and for each of its answers.
const PATIENCE: Duration = Duration::from_secs(20);

/// A double, from the test's side. Killed when dropped.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    control: Mutex<BufReader<UnixStream>>,
    _dir: TempDir,
}

impl Process {
    /// Starts one. `wrapper`: a program and its arguments that the process is started through, such as `ip netns exec NAME`.
    pub(super) fn start(kind: &str, wrapper: &[&str]) -> Self {
        let dir = TempDir::new();
        let path = dir.join("control");
        let listener = UnixListener::bind(&path).expect("a fresh directory");
        let program = std::env::current_exe().expect("this program has a path");
        let mut command = match wrapper.split_first() {
            None => Command::new(program),
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(program);
                command
            }
        };
        command
            .args(["--ignored", "--exact", "double_process", "--nocapture"])
            .env(KIND, kind)
            .env(SOCKET, &path)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let mut child = command.spawn().expect("this program starts");
        listener.set_nonblocking(true).expect("a fresh socket");
        let stream = eventually(PATIENCE, "the double has connected", || {
            let ended = child.try_wait().expect("it is our child");
            assert!(ended.is_none(), "the double {kind} ended: {ended:?}");
            Some(listener.accept().ok()?.0)
        });
        let ready = stream
            .set_nonblocking(false)
            .and_then(|()| stream.set_read_timeout(Some(PATIENCE)));
        ready.expect("a fresh socket");
        Self {
            child,
            control: Mutex::new(BufReader::new(stream)),
            _dir: dir,
        }
    }

    /// Sends a command: the answer.
    pub(super) fn tell(&self, line: &str) -> String {
        let mut control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        let mut answer = String::new();
        let talked = writeln!(control.get_mut(), "{line}")
            .and_then(|()| control.read_line(&mut answer).map(|_| ()));
        if let Err(error) = talked {
            panic!("told a double `{line}`: {error}");
        }
        match answer.trim_end_matches('\n').split_once(' ') {
            Some(("ok", answer)) => answer.to_owned(),
            _ => panic!("told a double `{line}` and it said `{answer}`"),
        }
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Stops its CPU time. Returns when it stands.
    pub(super) fn freeze(&self) {
        assert!(proc::signal(self.pid(), Signal::STOP));
        eventually(PATIENCE, "the double stands", || {
            (proc::state(self.pid()) == Some('T')).then_some(())
        });
    }

    /// Lets it go on.
    pub(super) fn thaw(&self) {
        assert!(proc::signal(self.pid(), Signal::CONT));
    }

    /// Sends `signal`, and waits until it has ended by it.
    pub(super) fn end(&mut self, signal: Signal) -> ExitStatus {
        proc::signal(self.pid(), signal);
        eventually(PATIENCE, "the double has ended", || {
            self.child.try_wait().expect("it is our child")
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The double's side: serves commands until the test is gone.
pub(super) fn live(role: impl FnOnce(&str) -> Box<dyn Role>) {
    let (Ok(kind), Some(path)) = (std::env::var(KIND), std::env::var_os(SOCKET)) else {
        return;
    };
    let stream = UnixStream::connect(path).expect("the test listens");
    let mut answers = stream.try_clone().expect("descriptors left");
    let role = role(&kind);
    let mut commands = BufReader::new(stream);
    let mut line = String::new();
    while matches!(commands.read_line(&mut line), Ok(1..)) {
        // Not its carriage returns: what is said may have them.
        let command = line.strip_suffix('\n').unwrap_or(&line);
        let answer = match role.command(command) {
            Ok(answer) => format!("ok {answer}\n"),
            Err(why) => format!("error {why}\n"),
        };
        if answers.write_all(answer.as_bytes()).is_err() {
            return;
        }
        line.clear();
    }
}

/// Lets time pass in a double.
pub(super) fn pass(time: Duration) {
    crate::pause_until(Instant::now() + time);
}
