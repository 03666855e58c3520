//! Where lines of the access log go, from plan to plan.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;

use evenkeel_control::child::{Descriptor, OrphanRule, ToChild};
use evenkeel_scoreboard::GlobalCount;
use evenkeel_sys::{append, packet};

use crate::double::{Supervisor, board, eventually, plan, quiet, run, service};
use crate::listener;

/// A file and its path, which goes with the test.
struct Place {
    path: PathBuf,
}

impl Place {
    fn new(name: &str) -> Self {
        let name = format!("evenkeel-monitor-{name}-{}", std::process::id());
        Self {
            path: std::env::temp_dir().join(name),
        }
    }

    fn open(&self) -> OwnedFd {
        append::open(&self.path).unwrap()
    }

    fn text(&self) -> String {
        let mut text = String::new();
        let file = File::open(&self.path);
        file.unwrap().read_to_string(&mut text).unwrap();
        text
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        std::fs::remove_file(&self.path).unwrap();
    }
}

/// A packet of access lines, as a worker sends it.
fn say(sender: &OwnedFd, text: &str) {
    packet::send(sender.as_fd(), format!("\u{1}{text}\n").as_bytes(), &[]).unwrap();
}

fn file(generation: u64, place: &Place) -> (Descriptor, OwnedFd) {
    (Descriptor::AccessLog { generation }, place.open())
}

#[test]
fn lines_go_to_the_file_of_the_plan_in_force_and_those_that_wait_for_a_monitor_too() {
    run(async {
        let (_server, alive) = listener();
        let (first, second) = (Place::new("first"), Place::new("second"));
        let (worker, receiver) = evenkeel_log::channel().unwrap();
        // From before this monitor.
        say(&worker, "one");
        let source = "worker-0".to_owned();
        let descriptors = vec![(Descriptor::LogReceiver { source }, receiver)];
        let mut supervisor = Supervisor::start(board(), OrphanRule::Drain, descriptors).await;
        let of = |generation| {
            let web = service("web", 0, &[("b1", 1, alive, None)]);
            plan(generation, quiet(), [web])
        };
        supervisor.switch(of(1), vec![file(1, &first)]).await;
        eventually("what waited is written", || first.text() == "one\n").await;
        // Prepared, and then not put in force.
        let next = of(2);
        supervisor.prepare(&next, vec![file(2, &second)]).await;
        supervisor.prepared(2).await;
        say(&worker, "two");
        eventually("where it went before", || first.text() == "one\ntwo\n").await;
        supervisor.send(ToChild::Abort { generation: 2 }).await;
        say(&worker, "three");
        eventually("as if nothing had been", || {
            first.text().ends_with("three\n")
        })
        .await;
        assert_eq!(second.text(), "");
        supervisor.switch(of(3), vec![file(3, &second)]).await;
        say(&worker, "four");
        eventually("to the other file", || second.text() == "four\n").await;
        // The same file again, under its own name.
        supervisor.switch(of(4), vec![file(4, &second)]).await;
        say(&worker, "five");
        eventually("on and on", || second.text() == "four\nfive\n").await;
        // Rotated: only the file is another one.
        std::fs::rename(&second.path, &first.path).unwrap();
        supervisor.switch(of(5), vec![file(5, &second)]).await;
        say(&worker, "six");
        eventually("to the new file", || second.text() == "six\n").await;
        assert_eq!(first.text(), "four\nfive\n");
    });
}

#[test]
fn lines_without_room_are_counted_over_the_lives_of_monitors() {
    run(async {
        let (_server, alive) = listener();
        let (worker, receiver) = evenkeel_log::channel().unwrap();
        let (board, fd) = board();
        board.set(GlobalCount::AccessLogUnwritten, 40);
        let source = "worker-0".to_owned();
        let descriptors = vec![(Descriptor::LogReceiver { source }, receiver)];
        let mut supervisor = Supervisor::start((board, fd), OrphanRule::Drain, descriptors).await;
        let full = append::open("/dev/full".as_ref()).unwrap();
        let web = service("web", 0, &[("b1", 1, alive, None)]);
        let descriptors = vec![(Descriptor::AccessLog { generation: 1 }, full)];
        let first = plan(1, quiet(), [web]);
        supervisor.switch(first, descriptors).await;
        say(&worker, "one\ntwo");
        eventually("both are counted", || {
            board.get(GlobalCount::AccessLogUnwritten) == 42
        })
        .await;
    });
}
