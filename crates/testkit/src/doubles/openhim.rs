//! An instance of OpenHIM core 8, as far as a balancer sees it.
//!
//! * API port: HTTPS with a certificate that it signed itself; `GET /heartbeat` is 200, 500, or not answered at all while its
//!   database is down.
//! * Router port: HTTP; 200 and the instance's name, with the connection closed, as routed answers are. With the database down
//!   404 at once. `/slow/MS` takes that long.
//! * It never drains: a signal ends it at once, with everything in flight.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::Signal;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use rustls_pki_types::PrivatePkcs8KeyDer;

use super::Role;
use super::http::{self, Answer, Counts, Request};
use super::process::{Process, pass};

/// How an instance answers its heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heartbeat {
    /// 200: all is well.
    Fine,
    /// 500: the database is down.
    Failing,
    /// Not at all: the database is down and the driver still tries.
    Hanging,
}

/// An instance, from the test's side.
#[derive(Debug)]
pub struct OpenHim {
    process: Process,
    name: String,
    host: Ipv4Addr,
    ports: [u16; 2],
}

impl OpenHim {
    /// Starts an instance at an address of its own. `ports`: of the API and of the router; 0 = free ones.
    #[must_use]
    pub fn start(name: &str, ports: [u16; 2]) -> Self {
        let mut instance = Self {
            process: Process::start("openhim", &[]),
            name: name.to_owned(),
            host: super::loopback(),
            ports,
        };
        instance.listen();
        instance
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where its API is.
    #[must_use]
    pub fn api(&self) -> SocketAddr {
        (self.host, self.ports[0]).into()
    }

    /// Where its router is.
    #[must_use]
    pub fn router(&self) -> SocketAddr {
        (self.host, self.ports[1]).into()
    }

    /// Whether its database is there, and how that shows.
    pub fn set_heartbeat(&self, heartbeat: Heartbeat) {
        self.process.tell(match heartbeat {
            Heartbeat::Fine => "heartbeat fine",
            Heartbeat::Failing => "heartbeat failing",
            Heartbeat::Hanging => "heartbeat hanging",
        });
    }

    /// Requests so far by path, and `connections`, and `silent` for those that came without a request.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<String, u64> {
        http::counts(&self.process.tell("counts"))
    }

    /// Ends it as `docker stop` does; what is in flight is cut. Then starts it again where it was.
    pub fn restart(&mut self) {
        self.process.end(Signal::TERM);
        self.process = Process::start("openhim", &[]);
        self.listen();
    }

    /// Ends it as `docker stop` does.
    pub fn stop(&mut self) {
        self.process.end(Signal::TERM);
    }

    fn listen(&mut self) {
        self.process.tell(&format!("name {}", self.name));
        for (index, what) in ["api", "router"].iter().enumerate() {
            let wanted = SocketAddr::from((self.host, self.ports[index]));
            let answer = self.process.tell(&format!("{what} {wanted}"));
            let address: SocketAddr = answer.parse().expect("an address");
            self.ports[index] = address.port();
        }
    }
}

/// The instance itself.
pub(super) struct Core {
    state: Arc<Mutex<State>>,
    counts: Arc<Counts>,
    tls: Arc<ServerConfig>,
}

struct State {
    name: String,
    heartbeat: Heartbeat,
}

impl Core {
    pub(super) fn new() -> Self {
        let made =
            rcgen::generate_simple_self_signed(["openhim".to_owned()]).expect("a certificate");
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider has them")
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key.into())
            .expect("a key that fits");
        Self {
            state: Arc::new(Mutex::new(State {
                name: String::new(),
                heartbeat: Heartbeat::Fine,
            })),
            counts: Arc::default(),
            tls: Arc::new(tls),
        }
    }

    fn listen(
        &self,
        address: &str,
        converse: impl Fn(TcpStream, &Counts, &Mutex<State>) + Send + Sync + 'static,
    ) -> Result<String, String> {
        let address: SocketAddr = address.parse().map_err(|_| "not an address")?;
        let listener = http::listen(address, 1_024).map_err(|error| error.to_string())?;
        let address = listener.local_addr().map_err(|error| error.to_string())?;
        let (state, counts) = (Arc::clone(&self.state), Arc::clone(&self.counts));
        http::accept(listener, Arc::clone(&self.counts), move |stream| {
            converse(stream, &counts, &state);
        });
        Ok(address.to_string())
    }
}

impl Role for Core {
    fn command(&self, line: &str) -> Result<String, String> {
        match line.split_once(' ').unwrap_or((line, "")) {
            ("name", name) => name.clone_into(&mut lock(&self.state).name),
            ("heartbeat", word) => {
                lock(&self.state).heartbeat = match word {
                    "fine" => Heartbeat::Fine,
                    "failing" => Heartbeat::Failing,
                    _ => Heartbeat::Hanging,
                };
            }
            ("counts", _) => return Ok(self.counts.line()),
            ("api", address) => {
                let tls = Arc::clone(&self.tls);
                return self.listen(address, move |stream, counts, state| {
                    let Ok(connection) = ServerConnection::new(Arc::clone(&tls)) else {
                        return;
                    };
                    let stream = StreamOwned::new(connection, stream);
                    // The client may be gone.
                    drop(http::converse(stream, counts, |request| {
                        api(request, state)
                    }));
                });
            }
            ("router", address) => {
                return self.listen(address, |stream, counts, state| {
                    drop(http::converse(stream, counts, |request| {
                        Some(route(request, state))
                    }));
                });
            }
            (other, _) => return Err(format!("what is {other}?")),
        }
        Ok(String::new())
    }
}

fn api(request: &Request, state: &Mutex<State>) -> Option<Answer> {
    if request.path != "/heartbeat" {
        return Some(Answer::new(404, "Not Found"));
    }
    match lock(state).heartbeat {
        Heartbeat::Fine => Some(Answer::new(200, "{\"master\":12.3,\"now\":1763640000000}")),
        Heartbeat::Failing => Some(Answer::new(500, "Internal Server Error")),
        Heartbeat::Hanging => None,
    }
}

fn route(request: &Request, state: &Mutex<State>) -> Answer {
    let (name, heartbeat) = {
        let state = lock(state);
        (state.name.clone(), state.heartbeat)
    };
    if heartbeat != Heartbeat::Fine {
        // No channel is known without the database.
        return Answer::new(404, "Not Found");
    }
    if let Some(time) = request.path.strip_prefix("/slow/") {
        pass(Duration::from_millis(time.parse().unwrap_or(0)));
    }
    Answer {
        keep: false,
        ..Answer::new(200, format!("{name}\n"))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;
    use crate::client::connect;

    fn ask(address: SocketAddr, path: &str) -> String {
        let mut stream = connect(address).unwrap();
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn routers_answer_fast_without_a_database_and_ends_cut_what_runs() {
        let mut instance = OpenHim::start("openhim-1", [0, 0]);
        assert!(ask(instance.router(), "/").ends_with("openhim-1\n"));
        instance.set_heartbeat(Heartbeat::Hanging);
        assert!(ask(instance.router(), "/").starts_with("HTTP/1.1 404"));
        instance.set_heartbeat(Heartbeat::Fine);
        let mut stream = connect(instance.router()).unwrap();
        write!(stream, "GET /slow/60000 HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        crate::eventually(Duration::from_secs(10), "it was asked", || {
            instance.counts().contains_key("/slow/60000").then_some(())
        });
        let router = instance.router();
        instance.restart();
        let mut answer = String::new();
        assert!(
            !matches!(stream.read_to_string(&mut answer), Ok(1..)),
            "{answer}"
        );
        assert_eq!(instance.router(), router);
        assert!(ask(router, "/").ends_with("openhim-1\n"));
    }
}
