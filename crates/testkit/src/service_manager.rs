//! systemd's side of sd_notify(3), sd_listen_fds(3) and the descriptor store (FDSTORE=1, sd_pid_notify_with_fds(3)).

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use evenkeel_sys::{packet, process};
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::TempDir;

/// Receives notifications and keeps the descriptors that come with them.
#[derive(Debug)]
pub struct ServiceManager {
    dir: TempDir,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    notices: Vec<Notice>,
    store: Vec<(String, OwnedFd)>,
}

/// One datagram: its assignments by name.
pub type Notice = BTreeMap<String, String>;

/// FileDescriptorStoreMax of the unit.
const STORE_MAX: usize = 4_096;

impl Default for ServiceManager {
    fn default() -> Self {
        Self::new()
    }
}

impl ServiceManager {
    /// Listens on a socket of its own.
    #[must_use]
    pub fn new() -> Self {
        let dir = TempDir::new();
        let socket = UnixDatagram::bind(dir.join("notify")).expect("bind in a fresh directory");
        let shared = Arc::new(Shared::default());
        let thread = std::thread::Builder::new().name("service manager".to_owned());
        let receiver = Arc::clone(&shared);
        let run = move || receiver.run(&socket);
        Self {
            dir,
            shared,
            thread: Some(thread.spawn(run).expect("a thread")),
        }
    }

    /// Value of `NOTIFY_SOCKET`.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.dir.join("notify")
    }

    /// What was received so far.
    #[must_use]
    pub fn notices(&self) -> Vec<Notice> {
        self.shared.state().notices.clone()
    }

    /// How many datagrams said `name=value`.
    #[must_use]
    pub fn count(&self, name: &str, value: &str) -> usize {
        let state = self.shared.state();
        let said = |notice: &&Notice| notice.get(name).is_some_and(|found| found == value);
        state.notices.iter().filter(said).count()
    }

    /// Names in the store, one for each descriptor.
    #[must_use]
    pub fn stored(&self) -> Vec<String> {
        let state = self.shared.state();
        state.store.iter().map(|(name, _)| name.clone()).collect()
    }

    /// Forgets what was received; the store stays.
    pub fn forget_notices(&self) {
        self.shared.state().notices.clear();
    }

    /// A command that starts `binary` as systemd starts a service: with the socket for notifications, and with what is in
    /// the store as descriptors 3 and up.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn command(&self, binary: &Path) -> io::Result<Command> {
        // Only the process itself can know its LISTEN_PID before it runs.
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", "export LISTEN_PID=$$; exec \"$0\" \"$@\""])
            .arg(binary)
            .env("NOTIFY_SOCKET", self.socket())
            .env("FDSTORE", STORE_MAX.to_string());
        let state = self.shared.state();
        if !state.store.is_empty() {
            let names: Vec<_> = state.store.iter().map(|(name, _)| name.as_str()).collect();
            command
                .env("LISTEN_FDS", state.store.len().to_string())
                .env("LISTEN_FDNAMES", names.join(":"));
            let descriptors: Vec<_> = state.store.iter().map(|(_, fd)| fd.as_fd()).collect();
            process::pass_descriptors(&mut command, &descriptors)?;
        }
        Ok(command)
    }
}

impl Drop for ServiceManager {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of it has been printed.
            drop(thread.join());
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, socket: &UnixDatagram) {
        const LOOK: Timespec = Timespec {
            tv_sec: 0,
            tv_nsec: 50_000_000,
        };
        let mut buffer = vec![0; packet::MESSAGE_BYTES_MAX];
        while !self.stop.load(Ordering::Relaxed) {
            let mut waiting = [PollFd::new(socket, PollFlags::IN)];
            // Interrupted or timed out: nothing is there to receive, which the next line finds.
            rustix::event::poll(&mut waiting, Some(&LOOK)).unwrap_or(0);
            while let Ok((length, descriptors)) = packet::receive(socket.as_fd(), &mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
                self.state().take(&text, descriptors);
            }
        }
    }
}

impl State {
    fn take(&mut self, text: &str, descriptors: Vec<OwnedFd>) {
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        let notice: Notice = pairs
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let says = |name: &str| notice.get(name).is_some_and(|value| value == "1");
        let name = notice.get("FDNAME").map_or("stored", String::as_str);
        assert!(
            !name.is_empty()
                && name.len() <= 255
                && name
                    .bytes()
                    .all(|byte| matches!(byte, b' '..=b'~') && byte != b':'),
            "not a name for a stored descriptor (fdname_is_valid of systemd): {name:?}"
        );
        if says("FDSTOREREMOVE") {
            self.store.retain(|(stored, _)| stored != name);
        } else if says("FDSTORE") {
            for descriptor in descriptors {
                // systemd keeps one descriptor of each open file (kcmp); sockets are told apart by their inode.
                let is_new = !self
                    .store
                    .iter()
                    .any(|(_, stored)| inode(stored) == inode(&descriptor));
                if is_new {
                    self.store.push((name.to_owned(), descriptor));
                }
            }
            assert!(self.store.len() <= STORE_MAX, "the store is full");
        }
        self.notices.push(notice);
    }
}

fn inode(descriptor: &OwnedFd) -> Option<u64> {
    Some(rustix::fs::fstat(descriptor).ok()?.st_ino)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    use super::*;
    use crate::eventually;

    const SOON: Duration = Duration::from_secs(5);

    #[test]
    fn what_is_stored_comes_back_by_name() {
        let manager = ServiceManager::new();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let socket = UnixDatagram::unbound().unwrap();
        socket.connect(manager.socket()).unwrap();
        packet::send(
            socket.as_fd(),
            b"FDSTORE=1\nFDNAME=web",
            &[listener.as_fd()],
        )
        .unwrap();
        drop(listener);
        eventually(SOON, "the listener is stored", || {
            (manager.stored() == ["web"]).then_some(())
        });
        // The store keeps it listening.
        drop(TcpStream::connect(address).unwrap());
        let script =
            "test $LISTEN_PID = $$ && test -S /proc/self/fd/3 && echo $LISTEN_FDS $LISTEN_FDNAMES";
        let output = manager
            .command(Path::new("/bin/sh"))
            .unwrap()
            .args(["-c", script])
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "1 web\n");

        socket.send(b"FDSTOREREMOVE=1\nFDNAME=web").unwrap();
        eventually(SOON, "it is removed", || {
            manager.stored().is_empty().then_some(())
        });
        eventually(SOON, "nobody listens any more", || {
            TcpStream::connect(address).err()
        });
        assert_eq!(manager.count("FDSTORE", "1"), 1);
    }
}
