//! As much of an HTTP/1.1 server as the doubles need.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use socket2::{Domain, Socket, Type};

/// Longest body that is read.
const BODY_BYTES_MAX: usize = 32 * 1024 * 1024;

/// A request, whole.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) method: String,
    /// Without the query.
    pub(super) path: String,
    /// By name in small letters.
    pub(super) fields: BTreeMap<String, String>,
    pub(super) body: Vec<u8>,
}

/// An answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) fields: Vec<(&'static str, String)>,
    pub(super) body: String,
    /// Whether the connection stays.
    pub(super) keep: bool,
}

impl Answer {
    pub(super) fn new(status: u16, body: impl Into<String>) -> Self {
        Self {
            status,
            fields: Vec::new(),
            body: body.into(),
            keep: true,
        }
    }
}

/// What was asked so far.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Connections accepted.
    pub(super) connections: AtomicU64,
    /// Those that ended without a byte.
    pub(super) silent: AtomicU64,
    requests: Mutex<BTreeMap<String, u64>>,
}

impl Counts {
    fn count(&self, path: &str) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        *requests.entry(path.to_owned()).or_default() += 1;
    }

    /// As a line of `name=count`, connections and silent ones among them.
    pub(super) fn line(&self) -> String {
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let mut words = vec![
            format!("connections={}", self.connections.load(Ordering::SeqCst)),
            format!("silent={}", self.silent.load(Ordering::SeqCst)),
        ];
        words.extend(
            requests
                .iter()
                .map(|(path, count)| format!("{path}={count}")),
        );
        words.join(" ")
    }
}

/// Reads what [`Counts::line`] has written.
pub(super) fn counts(line: &str) -> BTreeMap<String, u64> {
    let words = line.split(' ');
    words
        .filter_map(|word| {
            let (name, count) = word.rsplit_once('=')?;
            Some((name.to_owned(), count.parse().ok()?))
        })
        .collect()
}

/// A listening socket at `address`, also right after another one there was closed.
pub(super) fn listen(address: SocketAddr, backlog: i32) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.cloexec(), None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(backlog)?;
    Ok(socket.into())
}

/// Accepts for ever, each connection in a thread of its own.
pub(super) fn accept(
    listener: TcpListener,
    counts: Arc<Counts>,
    converse: impl Fn(TcpStream) + Send + Sync + 'static,
) {
    let converse = Arc::new(converse);
    let run = move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { continue };
            counts.connections.fetch_add(1, Ordering::SeqCst);
            // An answer is several small writes, over TLS too.
            drop(stream.set_nodelay(true));
            let converse = Arc::clone(&converse);
            let talk = move || converse(stream);
            drop(std::thread::Builder::new().spawn(talk).expect("a thread"));
        }
    };
    drop(std::thread::Builder::new().spawn(run).expect("a thread"));
}

/// Answers one request after another. `answer` gives none where the connection is to be left as it is, for ever.
pub(super) fn converse(
    stream: impl Read + Write,
    counts: &Counts,
    answer: impl Fn(&Request) -> Option<Answer>,
) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut first = true;
    loop {
        let request = match request(&mut stream) {
            Ok(Some(request)) => request,
            end => {
                if first {
                    counts.silent.fetch_add(1, Ordering::SeqCst);
                }
                return end.map(|_| ());
            }
        };
        first = false;
        counts.count(&request.path);
        let Some(answer) = answer(&request) else {
            loop {
                std::thread::park();
            }
        };
        let asked_to_close = request
            .fields
            .get("connection")
            .is_some_and(|value| value.eq_ignore_ascii_case("close"));
        let keep = answer.keep && !asked_to_close;
        let mut head = format!("HTTP/1.1 {} X\r\n", answer.status);
        for (name, value) in &answer.fields {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if !keep {
            head.push_str("Connection: close\r\n");
        }
        head.push_str(&format!("Content-Length: {}\r\n\r\n", answer.body.len()));
        if request.method != "HEAD" {
            head.push_str(&answer.body);
        }
        stream.get_mut().write_all(head.as_bytes())?;
        stream.get_mut().flush()?;
        if !keep {
            return Ok(());
        }
    }
}

/// `None` at the end of the connection, and for what is not HTTP.
fn request(stream: &mut impl BufRead) -> io::Result<Option<Request>> {
    let mut line = String::new();
    stream.read_line(&mut line)?;
    let mut words = line.split_ascii_whitespace();
    let (Some(method), Some(target)) = (words.next(), words.next()) else {
        return Ok(None);
    };
    let path = target.split('?').next().unwrap_or(target);
    let mut request = Request {
        method: method.to_owned(),
        path: path.to_owned(),
        fields: BTreeMap::new(),
        body: Vec::new(),
    };
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        let name = name.to_ascii_lowercase();
        request.fields.insert(name, value.trim().to_owned());
    }
    let length = request.fields.get("content-length");
    let length = length
        .and_then(|length| length.parse().ok())
        .unwrap_or(0_usize);
    request.body = vec![0; length.min(BODY_BYTES_MAX)];
    stream.read_exact(&mut request.body)?;
    Ok(Some(request))
}
