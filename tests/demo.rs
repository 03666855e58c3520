//! The demo as a person runs it: `evenkeel demo`, with its daemon, its workers and its servers.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use evenkeel_testkit::{Signal, TempDir, eventually, proc};

const PATIENCE: Duration = Duration::from_secs(20);

/// A demo without a terminal, in a temporary directory of its own.
struct Demo {
    child: Child,
    output: BufReader<ChildStdout>,
    address: SocketAddr,
    directory: TempDir,
}

impl Demo {
    fn start() -> Self {
        let directory = TempDir::new();
        let mut child = Command::new(env!("CARGO_BIN_EXE_evenkeel"))
            .arg("demo")
            .env("TMPDIR", directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut first = String::new();
        output.read_line(&mut first).unwrap();
        let address = first
            .strip_prefix("http://")
            .and_then(|rest| rest.strip_suffix("/\n"));
        let address = address.unwrap_or_else(|| unreachable!("the first line is {first:?}"));
        Self {
            address: address.parse().unwrap(),
            child,
            output,
            directory,
        }
    }

    /// The body of an answer, over a connection of its own.
    fn get(&self) -> String {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let request = b"GET / HTTP/1.1\r\nhost: demo\r\nconnection: close\r\n\r\n";
        stream.write_all(request).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.split_once("\r\n\r\n").unwrap().1.to_owned()
    }

    /// Everybody whom the demo started, and itself.
    fn everybody(&self) -> usize {
        proc::with_environment("TMPDIR", self.directory.path()).len()
    }

    fn entries(&self) -> usize {
        std::fs::read_dir(self.directory.path()).unwrap().count()
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn the_demo_serves_in_turn_and_leaves_nothing_behind() {
    let mut demo = Demo::start();
    let mut answers: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..6 {
        *answers.entry(demo.get()).or_default() += 1;
    }
    assert_eq!(answers.len(), 3, "{answers:?}");
    assert!(answers.values().all(|&count| count == 2), "{answers:?}");
    assert!(
        answers
            .keys()
            .all(|answer| answer.starts_with("hello from b"))
    );

    assert!(demo.entries() > 0, "the runtime directory is in TMPDIR");
    assert!(proc::signal(demo.child.id(), Signal::INT));
    let mut rest = String::new();
    demo.output.read_to_string(&mut rest).unwrap();
    let ended = demo.child.wait().unwrap();
    assert_eq!(ended.code(), Some(0), "{rest}");
    assert_eq!(demo.everybody(), 0, "processes were left behind");
    assert_eq!(demo.entries(), 0, "files were left behind");
}

#[test]
fn nobody_outlives_a_demo_that_is_killed() {
    let mut demo = Demo::start();
    assert!(
        demo.everybody() > 4,
        "itself, a supervisor and three servers at least"
    );
    demo.child.kill().unwrap();
    demo.child.wait().unwrap();
    eventually(PATIENCE, "everybody to end", || {
        (demo.everybody() == 0).then_some(())
    });
}
