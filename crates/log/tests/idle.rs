//! Outputs that are gone cost nothing while nothing is to be written. Alone in its process, whose CPU time it measures.

use std::fs::OpenOptions;
use std::os::fd::AsFd as _;
use std::time::Duration;

use evenkeel_log::{Receiver, Writer, channel};
use evenkeel_sys::packet;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::time::{ClockId, clock_gettime};

#[test]
fn a_gone_reader_and_a_full_disk_do_not_keep_the_writer_busy() {
    let cpu = || Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap();
    let (reader, output) = std::io::pipe().unwrap();
    drop(reader);
    let (sender, fd) = channel().unwrap();
    let source = "worker-0".to_owned();
    let writer = Writer::start(vec![Receiver { source, fd }], output.into(), |_| {}).unwrap();
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    writer.set_access_output(Some(full.into()));
    packet::send(sender.as_fd(), b"nobody reads this\n", &[]).unwrap();
    packet::send(sender.as_fd(), b"\x01no room\nfor these\n", &[]).unwrap();
    while writer.unwritten_log_lines() < 1 || writer.unwritten_access_lines() < 2 {
        std::thread::yield_now();
    }
    let before = cpu();
    // Nothing is polled for: this is a pause on purpose, in which a thread that spins would burn all of it.
    let pause = Timespec {
        tv_sec: 0,
        tv_nsec: 300_000_000,
    };
    let mut nothing = [PollFd::new(&sender, PollFlags::empty())];
    rustix::event::poll(&mut nothing, Some(&pause)).unwrap();
    let burnt = cpu() - before;
    assert!(burnt < Duration::from_millis(50), "{burnt:?}");
    assert!(writer.stop(Duration::from_secs(10)));
}
