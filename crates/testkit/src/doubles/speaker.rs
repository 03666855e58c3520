//! A server that speaks first: its name, or any other line.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::Signal;
use socket2::SockRef;

use super::Role;
use super::http::{self, Counts};
use super::process::{Process, pass};

/// Between two bytes of [`Speech::Drip`].
const DRIP: Duration = Duration::from_millis(30);

/// How long a client of HTTP may take to ask.
const QUESTION: Duration = Duration::from_millis(50);

/// How long a client may take to close after us.
const LINGER: Duration = Duration::from_secs(2);

/// Stands for a line feed within a command.
const LINE_FEED: &str = "\u{1}";

/// What a speaker does with a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Speech {
    /// Writes this and a line feed, and closes. An agent's words too.
    Line(String),
    /// The same, one byte at a time.
    Drip(String),
    /// The same, and keeps the connection.
    Hold(String),
    /// Resets at once.
    Reset,
}

/// A speaker, from the test's side.
#[derive(Debug)]
pub struct Speaker {
    process: Process,
    wrapper: Vec<String>,
    address: SocketAddr,
    backlog: i32,
    speech: Mutex<Speech>,
}

impl Speaker {
    /// Starts one that says `name`, at an address of its own.
    #[must_use]
    pub fn start(name: &str) -> Self {
        Self::start_at(super::loopback().into(), 1_024, name, &[])
    }

    /// With an accept queue of `backlog`, and through `wrapper`, such as `ip netns exec NAME`.
    #[must_use]
    pub fn start_at(ip: IpAddr, backlog: i32, name: &str, wrapper: &[&str]) -> Self {
        Self::new((ip, 0).into(), backlog, name, wrapper)
    }

    /// At this very address.
    #[must_use]
    pub fn start_at_port(address: SocketAddr, name: &str) -> Self {
        Self::new(address, 1_024, name, &[])
    }

    fn new(address: SocketAddr, backlog: i32, name: &str, wrapper: &[&str]) -> Self {
        let mut speaker = Self {
            process: Process::start("speaker", wrapper),
            wrapper: wrapper.iter().map(|word| (*word).to_owned()).collect(),
            address,
            backlog,
            speech: Mutex::new(Speech::Line(name.to_owned())),
        };
        speaker.begin();
        speaker
    }

    /// Starts one that answers HTTP with 200 and the reason `name`, whatever is asked, so that a check of HTTP finds it well.
    #[must_use]
    pub fn start_http(name: &str) -> Self {
        let speaker = Self::start(name);
        speaker.say(Speech::Line(http_line(name)));
        speaker
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it does with connections from now on.
    pub fn say(&self, speech: Speech) {
        *lock(&self.speech) = speech;
        self.tell_speech();
    }

    /// Connections accepted since its last start.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        let counts: BTreeMap<_, _> = http::counts(&self.process.tell("counts"));
        counts["connections"]
    }

    /// Stops its CPU time: it does not accept any more, until [`Self::thaw`].
    pub fn freeze(&self) {
        self.process.freeze();
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.process.thaw();
    }

    /// Kills its process. Returns when it is gone.
    pub fn kill(&mut self) {
        self.process.end(Signal::KILL);
    }

    /// Starts it again where it was, after [`Self::kill`].
    pub fn restart(&mut self) {
        let wrapper: Vec<&str> = self.wrapper.iter().map(String::as_str).collect();
        self.process = Process::start("speaker", &wrapper);
        self.begin();
    }

    /// As [`Self::restart`], at another address and the same port.
    pub fn restart_at(&mut self, ip: IpAddr) {
        self.address.set_ip(ip);
        self.restart();
    }

    fn begin(&mut self) {
        self.tell_speech();
        let answer = self
            .process
            .tell(&format!("listen {} {}", self.backlog, self.address));
        self.address = answer.parse().expect("an address");
    }

    fn tell_speech(&self) {
        let command = match &*lock(&self.speech) {
            Speech::Line(line) => format!("line {line}"),
            Speech::Drip(line) => format!("drip {line}"),
            Speech::Hold(line) => format!("hold {line}"),
            Speech::Reset => "reset".to_owned(),
        };
        // A command is a line, and what is said may be several.
        self.process.tell(&command.replace('\n', LINE_FEED));
    }
}

/// What [`Speaker::start_http`] says. A client that only reads gets it without its last line feed.
#[must_use]
pub fn http_line(name: &str) -> String {
    format!("HTTP/1.0 200 {name}\r\n\r")
}

/// The speaker itself.
pub(super) struct Server {
    speech: Arc<Mutex<Speech>>,
    counts: Arc<Counts>,
}

impl Server {
    pub(super) fn new() -> Self {
        Self {
            speech: Arc::new(Mutex::new(Speech::Reset)),
            counts: Arc::default(),
        }
    }
}

impl Role for Server {
    fn command(&self, line: &str) -> Result<String, String> {
        let line = line.replace(LINE_FEED, "\n");
        let (what, value) = line.split_once(' ').unwrap_or((&line, ""));
        let mut speech = lock(&self.speech);
        match what {
            "line" => *speech = Speech::Line(value.to_owned()),
            "drip" => *speech = Speech::Drip(value.to_owned()),
            "hold" => *speech = Speech::Hold(value.to_owned()),
            "reset" => *speech = Speech::Reset,
            "counts" => return Ok(self.counts.line()),
            "listen" => {
                let (backlog, address) = value.split_once(' ').ok_or("listen BACKLOG ADDRESS")?;
                let backlog = backlog.parse().map_err(|_| "not a number")?;
                let address: SocketAddr = address.parse().map_err(|_| "not an address")?;
                let listener = http::listen(address, backlog).map_err(|error| error.to_string())?;
                let address = listener.local_addr().map_err(|error| error.to_string())?;
                let speech = Arc::clone(&self.speech);
                http::accept(listener, Arc::clone(&self.counts), move |stream| {
                    let speech = lock(&speech).clone();
                    // The client may be gone.
                    drop(speak(stream, &speech));
                });
                return Ok(address.to_string());
            }
            other => return Err(format!("what is {other}?")),
        }
        Ok(String::new())
    }
}

fn speak(mut stream: TcpStream, speech: &Speech) -> std::io::Result<()> {
    if let Speech::Line(line) | Speech::Drip(line) | Speech::Hold(line) = speech
        && line.starts_with("HTTP/")
    {
        // An answer before the question is none to those who ask; who only reads gets it a little later.
        stream.set_read_timeout(Some(QUESTION))?;
        drop(stream.peek(&mut [0]));
        stream.set_read_timeout(None)?;
    }
    match speech {
        Speech::Line(line) => {
            stream.write_all(format!("{line}\n").as_bytes())?;
            close(stream)
        }
        Speech::Drip(line) => {
            for byte in format!("{line}\n").bytes() {
                stream.write_all(&[byte])?;
                pass(DRIP);
            }
            close(stream)
        }
        Speech::Hold(line) => {
            stream.write_all(format!("{line}\n").as_bytes())?;
            // Until the client is gone.
            std::io::copy(&mut stream, &mut std::io::sink()).map(|_| ())
        }
        Speech::Reset => SockRef::from(&stream).set_linger(Some(Duration::ZERO)),
    }
}

/// Closes in order, although the client may have sent what was not read: closing at once would reset the connection.
fn close(mut stream: TcpStream) -> std::io::Result<()> {
    stream.shutdown(Shutdown::Write)?;
    stream.set_read_timeout(Some(LINGER))?;
    std::io::copy(&mut stream, &mut std::io::sink()).map(|_| ())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{Failure, one_shot};

    #[test]
    fn it_says_what_it_was_told() {
        let mut speaker = Speaker::start("s1");
        assert_eq!(one_shot(speaker.address()).as_deref(), Ok("s1"));
        speaker.say(Speech::Drip("slow".to_owned()));
        assert_eq!(one_shot(speaker.address()).as_deref(), Ok("slow"));
        speaker.say(Speech::Reset);
        assert_eq!(
            one_shot(speaker.address()),
            Err(Failure::ResetBeforeFirstByte)
        );
        assert_eq!(speaker.accepted(), 3);
        speaker.say(Speech::Line("s1".to_owned()));
        let address = speaker.address();
        speaker.kill();
        assert_eq!(one_shot(address), Err(Failure::Refused));
        speaker.restart();
        assert_eq!(one_shot(address).as_deref(), Ok("s1"));
    }
}
