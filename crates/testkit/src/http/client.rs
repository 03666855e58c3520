//! A client that sends bytes and sees bytes.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use super::message::{Body, Head};
use super::reader::{Broken, Ended, Reader};
use super::websocket::Frame;
use crate::client::{self, Failure};

/// A connection of a client.
#[derive(Debug)]
pub struct HttpClient {
    reader: Reader,
}

/// An answer, whole.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Interim answers before it, but for a 101.
    pub interim: Vec<Head>,
    /// Its head.
    pub head: Head,
    /// Its body.
    pub body: Body,
    /// All of it as it came, interim answers too.
    pub raw: Vec<u8>,
}

impl HttpClient {
    /// Connects.
    ///
    /// # Panics
    /// Where that fails.
    #[must_use]
    pub fn connect(address: SocketAddr) -> Self {
        Self::try_connect(address).unwrap_or_else(|failure| panic!("{address}: {failure:?}"))
    }

    /// Connects.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn try_connect(address: SocketAddr) -> Result<Self, Failure> {
        client::connect(address).map(Self::new)
    }

    /// Connects from this address of this host.
    ///
    /// # Panics
    /// Where that fails.
    #[must_use]
    pub fn connect_from(source: IpAddr, address: SocketAddr) -> Self {
        let stream = client::connect_from(source, address);
        Self::new(stream.unwrap_or_else(|failure| panic!("{address}: {failure:?}")))
    }

    /// Speaks over this connection.
    #[must_use]
    pub fn new(stream: TcpStream) -> Self {
        Self {
            reader: Reader::new(stream),
        }
    }

    /// The connection.
    #[must_use]
    pub fn stream(&self) -> &TcpStream {
        &self.reader.stream
    }

    /// Sends bytes; whether the connection took them.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.reader.send(bytes.as_ref()).is_ok()
    }

    /// Sends each byte in a packet of its own; whether the connection took them.
    pub fn send_bytewise(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        let mut bytes = bytes.as_ref().iter();
        bytes.all(|byte| self.reader.send(&[*byte]).is_ok())
    }

    /// Ends the direction to the server.
    pub fn end_writing(&self) {
        self.reader.end_writing();
    }

    /// Ends the connection by a reset.
    pub fn reset(self) {
        client::reset(self.reader.stream);
    }

    /// Reads the answer to a request with this method, interim answers before it too.
    ///
    /// # Errors
    /// What came of it, and what came instead of the rest.
    pub fn answer(&mut self, method: &str) -> Result<Answer, Broken> {
        let mut interim = Vec::new();
        loop {
            let head = self.reader.head()?;
            if matches!(head.status(), 100..=199) && head.status() != 101 {
                interim.push(head);
                continue;
            }
            let framing = head.answer_framing(method);
            let body = self.reader.body(framing)?;
            return Ok(Answer {
                interim,
                head,
                body,
                raw: self.reader.message(),
            });
        }
    }

    /// Reads one head, of an interim answer too.
    ///
    /// # Errors
    /// As [`Self::answer`].
    pub fn head(&mut self) -> Result<Head, Broken> {
        let head = self.reader.head()?;
        self.reader.message();
        Ok(head)
    }

    /// Sends a request and reads its answer.
    ///
    /// # Errors
    /// As [`Self::answer`]; the bytes may have been refused before they were all sent.
    pub fn ask(&mut self, request: impl AsRef<[u8]>) -> Result<Answer, Broken> {
        let request = request.as_ref();
        let method = request
            .split(|byte| *byte == b' ')
            .next()
            .unwrap_or(request);
        let method = String::from_utf8_lossy(method).into_owned();
        // Where that fails there may be an answer all the same.
        self.send(request);
        self.answer(&method)
    }

    /// The answer to `GET path` at `a.example`.
    ///
    /// # Panics
    /// Where there is none.
    pub fn get(&mut self, path: &str) -> Answer {
        self.get_with(path, "")
    }

    /// The same with further lines of fields, each with its line end.
    ///
    /// # Panics
    /// Where there is none.
    pub fn get_with(&mut self, path: &str, fields: &str) -> Answer {
        let request = format!("GET {path} HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n");
        self.ask(&request)
            .unwrap_or_else(|broken| panic!("{request:?}: {broken:?}"))
    }

    /// The answer to `POST path` at `a.example` with a body.
    ///
    /// # Panics
    /// Where there is none.
    pub fn post(&mut self, path: &str, body: &str) -> Answer {
        let length = body.len();
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: a.example\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        self.ask(&request)
            .unwrap_or_else(|broken| panic!("{request:?}: {broken:?}"))
    }

    /// What there is: at least a byte.
    ///
    /// # Errors
    /// As [`Self::answer`].
    pub fn some(&mut self) -> Result<Vec<u8>, Broken> {
        self.reader.some()
    }

    /// So many bytes.
    ///
    /// # Errors
    /// As [`Self::answer`].
    pub fn exactly(&mut self, length: usize) -> Result<Vec<u8>, Broken> {
        let bytes = self.reader.exactly(length)?;
        self.reader.message();
        Ok(bytes)
    }

    /// Reads so many bytes and forgets them.
    ///
    /// # Errors
    /// As [`Self::answer`].
    pub fn skip(&mut self, length: usize) -> Result<(), Broken> {
        self.reader.skip(length)
    }

    /// A frame of a tunnel.
    ///
    /// # Errors
    /// As [`Self::answer`].
    pub fn frame(&mut self) -> Result<Frame, Broken> {
        self.reader.frame()
    }

    /// How the connection ends within `time`; `None`: a byte came instead.
    pub fn end(&mut self, time: Duration) -> Option<Ended> {
        self.reader.end(time)
    }

    /// Checks that the connection ends in order, and soon, without a byte more.
    ///
    /// # Panics
    /// Where it does not.
    #[track_caller]
    pub fn assert_ends(&mut self) {
        let end = self.end(client::PATIENCE);
        assert_eq!(end, Some(Ended::Fin), "the connection ends in order");
    }
}

impl Answer {
    /// Its status.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.head.status()
    }

    /// A field of it.
    ///
    /// # Panics
    /// As [`Head::field`].
    #[must_use]
    pub fn field(&self, name: &str) -> Option<String> {
        self.head.field(name)
    }

    /// Its body as text.
    #[must_use]
    pub fn text(&self) -> String {
        self.body.text()
    }

    /// Whether it says that the connection ends.
    #[must_use]
    pub fn closes(&self) -> bool {
        self.head.names("connection", "close")
    }
}
