//! HTTP requests in a closed loop, by one thread, which looks at every answer. `wrk` checks no length, and cannot leave a connection
//! idle after its request.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::SocketFlags;
use rustix::time::Timespec;

use crate::answer::{Answer, Wrong};
use crate::idle::{self, Idle};

/// How long what is under way may take when time is up; what is not there then is an error.
const GRACE: Duration = Duration::from_secs(10);

/// How often time is looked at when nothing comes.
const TICK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Order {
    pub(crate) path: &'static str,
    /// Bytes of the answer's body.
    pub(crate) body_bytes: usize,
    /// Requests at a time, each on a connection of its own.
    pub(crate) connections: usize,
    pub(crate) after: After,
}

/// What becomes of a connection after its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    /// The next request.
    Next,
    /// The server closes it, for it was asked to; another is opened then.
    Close,
    /// It lies idle in place of the one that has done so for the longest time; another is opened.
    Hold,
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Microseconds of each request, from when it was sent, or its connection asked for, to its whole answer.
    pub(crate) latencies_us: Vec<u32>,
    /// Until the last answer.
    pub(crate) took: Duration,
    /// Connections that failed and answers that were wrong.
    pub(crate) errors: u32,
    /// What the first error was.
    pub(crate) first_error: Option<Wrong>,
}

/// Asks for `time`, and waits for the answers to what was asked by then.
pub(crate) fn run(order: Order, address: SocketAddr, time: Duration, idle: &mut Idle) -> Outcome {
    let begin = Instant::now();
    let close = match order.after {
        After::Close => "Connection: close\r\n",
        After::Next | After::Hold => "",
    };
    let mut client = Client {
        order,
        address,
        request: format!(
            "GET {} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: side-by-side\r\nAccept: */*\r\n{close}\r\n",
            order.path
        ),
        epoll: epoll::create(epoll::CreateFlags::CLOEXEC).unwrap(),
        buffer: vec![0; 256 << 10],
        until: begin + time,
        idle,
        outcome: Outcome::default(),
    };
    let mut open: Vec<Option<Connection>> = (0..order.connections)
        .map(|number| client.begin(number))
        .collect();
    let mut events = Vec::with_capacity(order.connections);
    while open.iter().any(Option::is_some) {
        match epoll::wait(&client.epoll, spare_capacity(&mut events), Some(&TICK)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => unreachable!("epoll_wait: {error}"),
        }
        for event in events.drain(..) {
            let number = usize::try_from(event.data.u64()).unwrap();
            open[number] = open[number]
                .take()
                .and_then(|connection| client.ready(number, connection));
        }
        if Instant::now() > client.until + GRACE {
            for _ in open.drain(..).flatten() {
                client.fail("no answer".to_owned());
            }
        }
    }
    client.outcome.took = begin.elapsed();
    client.outcome
}

struct Client<'a> {
    order: Order,
    address: SocketAddr,
    request: String,
    epoll: OwnedFd,
    /// For what is read; nothing stays in it.
    buffer: Vec<u8>,
    until: Instant,
    idle: &'a mut Idle,
    outcome: Outcome,
}

struct Connection {
    stream: TcpStream,
    asked: Instant,
    stage: Stage,
}

enum Stage {
    /// The request was not sent yet.
    Connecting,
    Waiting(Answer),
    /// The answer is there, the server's end is not.
    Ending,
}

impl Client<'_> {
    /// A new connection with its request, unless time is up.
    fn begin(&mut self, number: usize) -> Option<Connection> {
        while Instant::now() < self.until {
            match self.open(number) {
                Ok(connection) => return Some(connection),
                Err(error) => self.fail(format!("cannot connect: {error}")),
            }
        }
        None
    }

    fn open(&mut self, number: usize) -> io::Result<Connection> {
        let source = match self.order.after {
            After::Hold => Some(idle::source()),
            After::Next | After::Close => None,
        };
        let asked = Instant::now();
        let mut connection = Connection {
            stream: idle::connect(source, self.address, SocketFlags::NONBLOCK)?,
            asked,
            stage: Stage::Connecting,
        };
        // By loopback the connection is mostly there already.
        let flags = if self.ask(&mut connection)? {
            EventFlags::IN
        } else {
            EventFlags::OUT
        };
        let data = EventData::new_u64(u64::try_from(number).unwrap());
        epoll::add(&self.epoll, &connection.stream, data, flags)?;
        Ok(connection)
    }

    /// Sends the request. `false`: the connection is not there yet.
    fn ask(&self, connection: &mut Connection) -> io::Result<bool> {
        match connection.stream.write(self.request.as_bytes()) {
            Ok(length) if length == self.request.len() => {
                connection.stage = Stage::Waiting(Answer::new(self.order.body_bytes));
                Ok(true)
            }
            Ok(_) => Err(ErrorKind::WriteZero.into()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Goes on with a connection, or with another in its place.
    fn ready(&mut self, number: usize, mut connection: Connection) -> Option<Connection> {
        match self.step(number, &mut connection) {
            Ok(Step::Stay) => Some(connection),
            Ok(Step::Closed) => self.begin(number),
            Ok(Step::Answered) => match self.order.after {
                After::Next if Instant::now() < self.until => {
                    connection.asked = Instant::now();
                    match self.ask(&mut connection) {
                        Ok(true) => Some(connection),
                        Ok(false) => unreachable!("no room for a request after a whole answer"),
                        Err(error) => {
                            self.fail(format!("cannot send: {error}"));
                            self.begin(number)
                        }
                    }
                }
                After::Next => None,
                After::Close => unreachable!("it ends first"),
                After::Hold => {
                    epoll::delete(&self.epoll, &connection.stream).unwrap();
                    self.idle.replace_oldest(connection.stream);
                    self.begin(number)
                }
            },
            Err(wrong) => {
                self.fail(wrong);
                self.begin(number)
            }
        }
    }

    fn step(&mut self, number: usize, connection: &mut Connection) -> Result<Step, Wrong> {
        if matches!(connection.stage, Stage::Connecting) {
            let asked = self.ask(connection).map_err(|error| error.to_string())?;
            if asked {
                let data = EventData::new_u64(u64::try_from(number).unwrap());
                epoll::modify(&self.epoll, &connection.stream, data, EventFlags::IN).unwrap();
            }
            return Ok(Step::Stay);
        }
        loop {
            let length = match connection.stream.read(&mut self.buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Step::Stay),
                Err(error) => return Err(format!("cannot read: {error}")),
            };
            match &mut connection.stage {
                Stage::Connecting => return Ok(Step::Stay),
                Stage::Ending if length == 0 => return Ok(Step::Closed),
                Stage::Ending => return Err("bytes after the answer".to_owned()),
                Stage::Waiting(_) if length == 0 => {
                    return Err("closed before the whole answer".to_owned());
                }
                Stage::Waiting(answer) => {
                    if answer.take(&self.buffer[..length])? {
                        let micros = connection.asked.elapsed().as_micros();
                        let micros = u32::try_from(micros).unwrap_or(u32::MAX);
                        self.outcome.latencies_us.push(micros);
                        if self.order.after != After::Close {
                            return Ok(Step::Answered);
                        }
                        connection.stage = Stage::Ending;
                    } else if length < self.buffer.len() {
                        return Ok(Step::Stay);
                    }
                }
            }
        }
    }

    fn fail(&mut self, wrong: Wrong) {
        self.outcome.errors += 1;
        self.outcome.first_error.get_or_insert(wrong);
    }
}

enum Step {
    /// More is to come.
    Stay,
    /// The answer is whole.
    Answered,
    /// And the server has closed, as it was asked to.
    Closed,
}
