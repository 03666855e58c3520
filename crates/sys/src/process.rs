//! Children, users and limits.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use rustix::process::{
    DumpableBehavior, Pid, PidfdFlags, Resource, Rlimit, Signal, WaitId, WaitIdOptions,
};

pub use crate::rights::{become_user, give_up_rights, has_net_raw};

/// Environment variable that tells a process that it is a child, and of which kind.
pub const ROLE_VARIABLE: &str = "EVENKEEL_ROLE";

/// All that children get of this process's environment: where programs are (for checks that run one), how to log, how to speak.
/// Secrets that were given to the supervisor by its environment stay there.
const CHILD_VARIABLES: [&str; 6] = [
    "PATH",
    "JOURNAL_STREAM",
    "RUST_BACKTRACE",
    "RUST_LIB_BACKTRACE",
    "LANG",
    "TZ",
];

/// The running image, also after its file was replaced or removed.
const SELF_IMAGE: &str = "/proc/self/exe";

/// A child process and the supervisor's end of its socket.
#[derive(Debug)]
pub struct Child {
    /// Process id, valid until it is reaped.
    pub pid: u32,
    /// Refers to this process and no later one with the same id; readable when it has ended.
    pub pidfd: OwnedFd,
    /// Sequenced packets to and from the child.
    pub socket: OwnedFd,
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    /// It returned this code.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
}

/// Starts the running image again as `role`, with one end of a new socket pair as descriptor 0 and nothing else but
/// standard output and error. `title` is what `ps` shows. It is put in a process group of its own, so that a Ctrl-C in the
/// terminal reaches the supervisor only.
///
/// # Errors
/// When there are no descriptors or processes left.
pub fn spawn(role: &str, title: &str) -> io::Result<Child> {
    let (ours, theirs) = crate::packet::pair()?;
    let child = Command::new(SELF_IMAGE)
        .arg0(title)
        .env_clear()
        .envs(
            CHILD_VARIABLES
                .iter()
                .filter_map(|name| Some((name, std::env::var_os(name)?))),
        )
        .env(ROLE_VARIABLE, role)
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .process_group(0)
        .spawn()?;
    let pid = child.id();
    expose_to_oom_killer(pid);
    let pidfd = rustix::process::pidfd_open(to_pid(pid)?, PidfdFlags::NONBLOCK)?;
    Ok(Child {
        pid,
        pidfd,
        socket: ours,
    })
}

/// A supervisor that is protected from the out-of-memory killer does not pass that on: a child is what can be started again.
fn expose_to_oom_killer(pid: u32) {
    let own = std::fs::read_to_string("/proc/self/oom_score_adj");
    let protected = own.is_ok_and(|score| score.starts_with('-'));
    if protected {
        // One that ended already, or a kernel that refuses, changes nothing else.
        drop(std::fs::write(format!("/proc/{pid}/oom_score_adj"), "0"));
    }
}

/// In a child: takes the socket from descriptor 0 and leaves `/dev/null` there.
///
/// # Errors
/// When descriptor 0 is not open.
pub fn inherited_socket() -> io::Result<OwnedFd> {
    let socket = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    let null = std::fs::File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    Ok(socket)
}

/// Lets the process that `command` starts find `descriptors` at 3, 4 and so on, as socket activation has it
/// (sd_listen_fds(3)). The same numbers of this process are not touched, and nothing is left open to other children.
///
/// A command that cannot be executed may be reported as started, and ends at once: the pipe on which the child would say
/// so can have one of these numbers.
///
/// # Errors
/// When no descriptor is left.
pub fn pass_descriptors(command: &mut Command, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    const FIRST: i32 = 3;
    let count = i32::try_from(descriptors.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // Copies beyond the range that is written to, so that no source is overwritten before its turn.
    let sources: Vec<OwnedFd> = descriptors
        .iter()
        .map(|fd| rustix::io::fcntl_dupfd_cloexec(fd, FIRST + count))
        .collect::<Result<_, _>>()?;
    let place = move || {
        for (source, target) in sources.iter().zip(FIRST..) {
            // SAFETY: no descriptor of this address space that somebody owns is closed: `target` is one of the child's own
            // table, which ends with the exec. The call is async-signal-safe and allocates nothing.
            if unsafe { libc::dup2(source.as_raw_fd(), target) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: between fork and exec `place` only calls dup2, which is async-signal-safe, and reads its own captured list.
    unsafe { command.pre_exec(place) };
    Ok(())
}

/// How the child behind `pidfd` ended; `None` while it runs. Reaps it.
///
/// # Errors
/// When it is not a child of this process, or was reaped before.
pub fn reap(pidfd: BorrowedFd<'_>) -> io::Result<Option<ExitStatus>> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    match rustix::process::waitid(WaitId::PidFd(pidfd), options) {
        Ok(None) | Err(rustix::io::Errno::AGAIN) => Ok(None),
        Ok(Some(status)) => Ok(Some(
            match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => ExitStatus::Code(code),
                (None, Some(signal)) => ExitStatus::Signal(signal),
                (None, None) => ExitStatus::Code(-1),
            },
        )),
        Err(error) => Err(error.into()),
    }
}

/// Kills the process behind `pidfd` at once. One that has ended already is no error.
///
/// # Errors
/// When the kernel refuses.
pub fn kill(pidfd: BorrowedFd<'_>) -> io::Result<()> {
    signal(pidfd, Signal::KILL)
}

/// Asks the process behind `pidfd` to end (`SIGTERM`).
///
/// # Errors
/// When the kernel refuses.
pub fn terminate(pidfd: BorrowedFd<'_>) -> io::Result<()> {
    signal(pidfd, Signal::TERM)
}

fn signal(pidfd: BorrowedFd<'_>, signal: Signal) -> io::Result<()> {
    match rustix::process::pidfd_send_signal(pidfd, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// What the kernel says of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vitals {
    /// Stopped by a signal or a debugger.
    pub stopped: bool,
    /// CPU time used so far, user and system, in clock ticks of 10 ms.
    pub cpu_ticks: u64,
}

/// Reads the vitals of process `pid`; `None` when there is no such process.
#[must_use]
pub fn vitals(pid: u32) -> Option<Vitals> {
    parse_stat(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// proc_pid_stat(5): `pid (comm) state ppid ... utime stime`; comm may hold anything, so what counts begins after the last `)`.
fn parse_stat(text: &str) -> Option<Vitals> {
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    let stopped = matches!(fields.next()?, "T" | "t");
    let user: u64 = fields.nth(10)?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(Vitals {
        stopped,
        cpu_ticks: user + system,
    })
}

/// The name that `top` and the kernel's own messages show, at most 15 bytes.
pub fn set_name(name: &str) {
    if let Ok(name) = std::ffi::CString::new(name) {
        // Only cosmetic: a kernel that refuses changes nothing.
        rustix::thread::set_name(&name).unwrap_or(());
    }
}

/// Raises the soft limit on descriptors to the hard limit; the limit now in force.
#[must_use]
pub fn raise_descriptor_limit() -> u64 {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let now = match rustix::process::setrlimit(Resource::Nofile, raised) {
        Ok(()) => raised,
        Err(_) => limit,
    };
    now.current.unwrap_or(u64::MAX)
}

/// User and group that children run as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Name, for messages.
    pub name: String,
}

/// Looks up a user by name, or by number.
///
/// # Errors
/// When the user data base cannot be read. `Ok(None)` = no such user.
pub fn user(name_or_number: &str) -> io::Result<Option<Identity>> {
    use nix::unistd::{Uid, User};
    let found = match name_or_number.parse::<u32>() {
        Ok(number) => User::from_uid(Uid::from_raw(number))?,
        Err(_) => User::from_name(name_or_number)?,
    };
    Ok(found.map(|user| Identity {
        uid: user.uid.as_raw(),
        gid: user.gid.as_raw(),
        name: user.name,
    }))
}

/// This process's effective user id.
#[must_use]
pub fn effective_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// No new privileges by exec, no core file and no debugger of another user: a worker's memory holds patients' data.
///
/// # Errors
/// When the kernel refuses.
pub fn lock_down() -> io::Result<()> {
    rustix::thread::set_no_new_privs(true)?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}

/// Value of a sysctl such as `net/ipv4/tcp_migrate_req`, trimmed; `None` where the kernel has it not.
#[must_use]
pub fn sysctl(path: &str) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/sys/{path}")).ok()?;
    Some(text.trim().to_owned())
}

/// A second descriptor for what `fd` refers to, close-on-exec.
///
/// # Errors
/// When no descriptor is left.
pub fn duplicate(fd: impl AsFd) -> io::Result<OwnedFd> {
    fd.as_fd().try_clone_to_owned()
}

/// Path of the running image, for messages and for doubles that start it again.
#[must_use]
pub fn image() -> &'static OsStr {
    OsStr::new(SELF_IMAGE)
}

fn to_pid(pid: u32) -> io::Result<Pid> {
    i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vitals_survive_any_process_name() {
        let text = "42 (a) T 1) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14";
        let vitals = parse_stat(text).unwrap();
        assert!(!vitals.stopped);
        assert_eq!(vitals.cpu_ticks, 11 + 12);
        assert!(super::vitals(std::process::id()).is_some());
        assert!(super::vitals(u32::MAX).is_none());
    }

    #[test]
    fn root_is_in_the_user_data_base() {
        assert_eq!(user("root").unwrap().unwrap().uid, 0);
        assert_eq!(user("0").unwrap().unwrap().name, "root");
        assert_eq!(user("no-such-user-here").unwrap(), None);
    }

    #[test]
    fn passed_descriptors_lie_at_three_and_up_whatever_their_numbers_are_here() {
        let (a, b) = crate::packet::pair().unwrap();
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "echo one >&4; echo two >&3"]);
        pass_descriptors(&mut command, &[a.as_fd(), b.as_fd()]).unwrap();
        assert!(command.status().unwrap().success());
        let mut buffer = [0; 16];
        let (length, _) = crate::packet::receive(a.as_fd(), &mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"one\n");
        let (length, _) = crate::packet::receive(b.as_fd(), &mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"two\n");
    }
}
