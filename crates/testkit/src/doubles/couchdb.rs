//! A CouchDB node, as far as a balancer and its checks see it: CouchDB 3.5 with `require_valid_user`, as CHT runs it.
//!
//! | asked | answered |
//! | --- | --- |
//! | any path without valid credentials | 401 |
//! | `/_up` | 200; 404 in maintenance |
//! | `/_membership` | 200 and both lists as told; nothing at all while another node of the cluster hangs |
//! | `POST /_session` | 200 and a cookie that every node takes; 401 |
//! | `/probe` | 200 and the node's name, without credentials: for the tests' clients |
//! | else | 200 |

use std::collections::{BTreeMap, hash_map::DefaultHasher};
use std::hash::{Hash as _, Hasher as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::process::Signal;
use serde_json::{Value, json};

use super::Role;
use super::http::{self, Answer, Counts, Request};
use super::process::Process;

/// A node, from the test's side.
#[derive(Debug)]
pub struct CouchDb {
    process: Process,
    address: SocketAddr,
    /// Everything that it was told, for the next process.
    told: Mutex<BTreeMap<String, String>>,
}

impl CouchDb {
    /// Starts a node called `name` (as `couchdb@couchdb-1`) at an address of its own, and waits until it answers.
    #[must_use]
    pub fn start(name: &str, user: &str, password: &str) -> Self {
        let process = Process::start("couchdb", &[]);
        let mut node = Self {
            process,
            address: SocketAddr::from((super::loopback(), 0)),
            told: Mutex::default(),
        };
        node.tell("name", name);
        node.tell("user", user);
        node.tell("password", password);
        node.listen();
        node
    }

    /// A whole cluster of nodes that know each other: `couchdb@couchdb-1` and so on.
    #[must_use]
    pub fn cluster(count: usize, user: &str, password: &str) -> Vec<Self> {
        let names: Vec<String> = (1..=count)
            .map(|number| format!("couchdb@couchdb-{number}"))
            .collect();
        let nodes: Vec<Self> = names
            .iter()
            .map(|name| Self::start(name, user, password))
            .collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        for node in &nodes {
            node.set_membership(&names, &names);
        }
        nodes
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Requests so far by path, and `connections`, and `silent` for those that came without a byte.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<String, u64> {
        http::counts(&self.process.tell("counts"))
    }

    /// Requests so far for `path`.
    #[must_use]
    pub fn count(&self, path: &str) -> u64 {
        self.counts().get(path).copied().unwrap_or(0)
    }

    /// What it says of the cluster: the nodes connected now, and the nodes configured.
    pub fn set_membership(&self, all: &[&str], cluster: &[&str]) {
        self.tell("all_nodes", &all.join(" "));
        self.tell("cluster_nodes", &cluster.join(" "));
    }

    /// The password that it takes from now on.
    pub fn set_password(&self, password: &str) {
        self.tell("password", password);
    }

    /// Whether it is in maintenance.
    pub fn set_maintenance(&self, maintenance: bool) {
        self.tell("maintenance", if maintenance { "true" } else { "false" });
    }

    /// Whether it has to wait for a peer that hangs: then it does not answer what needs the cluster.
    pub fn set_waiting(&self, waiting: bool) {
        self.tell("waiting", if waiting { "true" } else { "false" });
    }

    /// Stops its CPU time, as a machine that hangs.
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

    /// Starts it again where it was and as it was told to be, after [`Self::kill`]. Returns when it answers.
    pub fn restart(&mut self) {
        self.process = Process::start("couchdb", &[]);
        for (what, value) in &*lock(&self.told) {
            self.process.tell(&format!("{what} {value}"));
        }
        self.listen();
    }

    /// As [`Self::restart`], at another address and the same port.
    pub fn restart_at(&mut self, address: Ipv4Addr) {
        self.address.set_ip(address.into());
        self.restart();
    }

    fn listen(&mut self) {
        let answer = self.process.tell(&format!("listen {}", self.address));
        self.address = answer.parse().expect("an address");
    }

    fn tell(&self, what: &str, value: &str) {
        self.process.tell(&format!("{what} {value}"));
        lock(&self.told).insert(what.to_owned(), value.to_owned());
    }
}

/// The node itself.
pub(super) struct Node {
    state: Arc<Mutex<State>>,
    counts: Arc<Counts>,
}

#[derive(Clone, Debug, Default)]
struct State {
    name: String,
    user: String,
    password: String,
    maintenance: bool,
    waiting: bool,
    all_nodes: Vec<String>,
    cluster_nodes: Vec<String>,
}

impl Node {
    pub(super) fn new() -> Self {
        Self {
            state: Arc::default(),
            counts: Arc::default(),
        }
    }
}

impl Role for Node {
    fn command(&self, line: &str) -> Result<String, String> {
        let (what, value) = line.split_once(' ').unwrap_or((line, ""));
        let mut state = lock(&self.state);
        match what {
            "name" => value.clone_into(&mut state.name),
            "user" => value.clone_into(&mut state.user),
            "password" => value.clone_into(&mut state.password),
            "maintenance" => state.maintenance = value == "true",
            "waiting" => state.waiting = value == "true",
            "all_nodes" => state.all_nodes = words(value),
            "cluster_nodes" => state.cluster_nodes = words(value),
            "counts" => return Ok(self.counts.line()),
            "listen" => {
                let address: SocketAddr = value.parse().map_err(|_| "not an address")?;
                let listener = http::listen(address, 1_024).map_err(|error| error.to_string())?;
                let address = listener.local_addr().map_err(|error| error.to_string())?;
                let (state, counts) = (Arc::clone(&self.state), Arc::clone(&self.counts));
                http::accept(listener, Arc::clone(&self.counts), move |stream| {
                    let answer = |request: &Request| {
                        let state = lock(&state).clone();
                        state.answer(request)
                    };
                    // The client may be gone.
                    drop(http::converse(stream, &counts, answer));
                });
                return Ok(address.to_string());
            }
            other => return Err(format!("what is {other}?")),
        }
        Ok(String::new())
    }
}

impl State {
    fn answer(&self, request: &Request) -> Option<Answer> {
        let mut answer = match (request.method.as_str(), request.path.as_str()) {
            (_, "/probe") => Answer::new(200, format!("{}\n", self.name)),
            ("POST", "/_session") => self.log_in(request),
            _ if !self.knows(request) => refused("You are not authorized."),
            (_, "/_up") if self.maintenance => {
                Answer::new(404, "{\"status\":\"maintenance_mode\"}\n")
            }
            (_, "/_up") => Answer::new(200, "{\"status\":\"ok\",\"seeds\":{}}\n"),
            (_, "/_membership") if self.waiting => return None,
            (_, "/_membership") => {
                let lists =
                    json!({ "all_nodes": self.all_nodes, "cluster_nodes": self.cluster_nodes });
                Answer::new(200, format!("{lists}\n"))
            }
            _ => Answer::new(200, "{\"couchdb\":\"Welcome\",\"version\":\"3.5.0\"}\n"),
        };
        answer
            .fields
            .push(("Server", "CouchDB/3.5.0 (Erlang OTP/26)".to_owned()));
        answer
            .fields
            .push(("Content-Type", "application/json".to_owned()));
        Some(answer)
    }

    fn log_in(&self, request: &Request) -> Answer {
        let kind = request.fields.get("content-type");
        let body = String::from_utf8_lossy(&request.body);
        let is_json = kind.is_some_and(|kind| kind.contains("json"));
        let (name, password) = if is_json {
            let value: Value = serde_json::from_str(&body).unwrap_or_default();
            let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
            (text("name"), text("password"))
        } else {
            let value = |key: &str| {
                let mut pairs = body.split('&').filter_map(|pair| pair.split_once('='));
                let found = pairs.find(|(name, _)| *name == key);
                found.map(|(_, value)| percent_decoded(value))
            };
            let text = |key: &str| value(key).unwrap_or_default();
            (text("name"), text("password"))
        };
        if (name, password) != (self.user.clone(), self.password.clone()) {
            return refused("Name or password is incorrect.");
        }
        let mut answer = Answer::new(200, format!("{{\"ok\":true,\"name\":\"{}\"}}\n", self.user));
        let cookie = format!("{}; Version=1; Path=/; HttpOnly", self.cookie());
        answer.fields.push(("Set-Cookie", cookie));
        answer
    }

    fn knows(&self, request: &Request) -> bool {
        let basic = format!(
            "Basic {}",
            base64(format!("{}:{}", self.user, self.password).as_bytes())
        );
        let cookies = request.fields.get("cookie");
        let mut cookies = cookies.iter().flat_map(|cookies| cookies.split(';'));
        request.fields.get("authorization") == Some(&basic)
            || cookies.any(|cookie| cookie.trim() == self.cookie())
    }

    /// The same on every node, as in a cluster whose secret was copied.
    fn cookie(&self) -> String {
        let mut hasher = DefaultHasher::new();
        (&self.user, &self.password).hash(&mut hasher);
        format!("AuthSession={:016x}", hasher.finish())
    }
}

/// CouchDB refuses early, and closes.
fn refused(reason: &str) -> Answer {
    let body = format!("{{\"error\":\"unauthorized\",\"reason\":\"{reason}\"}}\n");
    Answer {
        keep: false,
        ..Answer::new(401, body)
    }
}

fn words(line: &str) -> Vec<String> {
    line.split_ascii_whitespace().map(str::to_owned).collect()
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let code = after
            .get(..2)
            .and_then(|code| std::str::from_utf8(code).ok());
        let code = code.and_then(|code| u8::from_str_radix(code, 16).ok());
        (rest, _) = match (first, code) {
            (b'%', Some(code)) => (&after[2..], bytes.push(code)),
            (b'+', _) => (after, bytes.push(b' ')),
            _ => (after, bytes.push(*first)),
        };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let at = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for place in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * place) & 0x3f) as usize];
            let is_padding = place > chunk.len();
            text.push(if is_padding { '=' } else { char::from(letter) });
        }
    }
    text
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;
    use crate::client::{Failure, connect};

    fn ask(node: &CouchDb, request: &str) -> String {
        let mut stream = connect(node.address()).unwrap();
        write!(
            stream,
            "{request}\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn log_in(node: &CouchDb, kind: &str, body: &str) -> String {
        let mut stream = connect(node.address()).unwrap();
        let length = body.len();
        write!(
            stream,
            "POST /_session HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (plain, coded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
        assert_eq!(percent_decoded("a%2Fb+c%"), "a/b c%");
    }

    #[test]
    fn it_answers_as_the_real_one() {
        let nodes = CouchDb::cluster(2, "admin", "pass/word");
        let basic = format!("Authorization: Basic {}", base64(b"admin:pass/word"));
        assert!(ask(&nodes[0], "GET /_up HTTP/1.1").starts_with("HTTP/1.1 401"));
        let up = ask(&nodes[0], &format!("GET /_up HTTP/1.1\r\n{basic}"));
        assert!(
            up.starts_with("HTTP/1.1 200") && up.contains("\"ok\""),
            "{up}"
        );
        let form = log_in(
            &nodes[0],
            "application/x-www-form-urlencoded",
            "name=admin&password=pass%2Fword",
        );
        let json = "{\"name\":\"admin\",\"password\":\"pass/word\"}";
        let json = log_in(&nodes[1], "application/json", json);
        let wrong = log_in(&nodes[1], "application/json", "{\"name\":\"admin\"}");
        assert!(wrong.starts_with("HTTP/1.1 401"), "{wrong}");
        let cookie = |answer: &str| {
            let (_, rest) = answer.split_once("Set-Cookie: ").expect(answer);
            rest.split(';').next().unwrap().to_owned()
        };
        assert_eq!(cookie(&form), cookie(&json));
        let cookie = cookie(&form);
        let members = ask(
            &nodes[1],
            &format!("GET /_membership HTTP/1.1\r\nCookie: {cookie}"),
        );
        assert_eq!(members.matches("couchdb@couchdb-2").count(), 2, "{members}");
        nodes[1].set_maintenance(true);
        let up = ask(&nodes[1], &format!("GET /_up HTTP/1.1\r\n{basic}"));
        assert!(up.starts_with("HTTP/1.1 404"), "{up}");
        assert_eq!(nodes[1].count("/_up"), 1);
        assert_eq!(nodes[1].count("/_session"), 2);
    }

    #[test]
    fn it_is_killed_and_comes_back_as_it_was() {
        let mut node = CouchDb::start("couchdb@a", "u", "p");
        node.set_maintenance(true);
        let address = node.address();
        node.kill();
        assert_eq!(connect(address).unwrap_err(), Failure::Refused);
        node.restart();
        assert_eq!(node.address(), address);
        let basic = format!("Authorization: Basic {}", base64(b"u:p"));
        let up = ask(&node, &format!("GET /_up HTTP/1.1\r\n{basic}"));
        assert!(up.starts_with("HTTP/1.1 404"), "{up}");
        node.kill();
        let other = super::super::loopback();
        node.restart_at(other);
        assert_eq!(node.address(), SocketAddr::from((other, address.port())));
        assert!(ask(&node, "GET /probe HTTP/1.1").ends_with("couchdb@a\n"));
    }
}
