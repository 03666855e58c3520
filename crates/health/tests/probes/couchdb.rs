//! A scripted CouchDB node.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use evenkeel_health::{Checker, Health, Observation, Outcome, Secrets};
use evenkeel_plan::{CheckKind, CheckSpec, CouchDbSpec, CredentialsSpec, SecretSource};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, spawn_local};

use crate::{BACKEND, IDENTITY, NEVER, Notes, answer, check, request, run, target};

/// With everything that a form, JSON or a URL would stumble over.
const PASSWORD: &str = "open/se same&%\"\\+=é";
const PASSWORD_IN_FORM: &str = "open%2Fse%20same%26%25%22%5C%2B%3D%C3%A9";
const USER: &str = "medic:x";
const USER_IN_FORM: &str = "medic%3Ax";

struct Node {
    up: Cell<&'static str>,
    up_body: Cell<&'static str>,
    membership: RefCell<String>,
    logins: Cell<u32>,
    rounds: Cell<u32>,
    connections: RefCell<Vec<AbortHandle>>,
    /// Sessions up to this one have run out.
    expired: Cell<u32>,
    refuses_all: Cell<bool>,
    needs_session: bool,
}

impl Node {
    async fn start(needs_session: bool) -> (Rc<Self>, SocketAddr, AbortHandle) {
        let node = Rc::new(Self {
            up: Cell::new("200 OK"),
            up_body: Cell::new("{\"status\":\"ok\",\"seeds\":{}}"),
            membership: RefCell::new(membership(&["a", "b", "c"], &["a", "b", "c"])),
            logins: Cell::new(0),
            rounds: Cell::new(0),
            connections: RefCell::default(),
            expired: Cell::new(0),
            refuses_all: Cell::new(false),
            needs_session,
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let served = Rc::clone(&node);
        let task = spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let task = spawn_local(Rc::clone(&served).talk(stream));
                served.connections.borrow_mut().push(task.abort_handle());
            }
        });
        (node, address, task.abort_handle())
    }

    async fn talk(self: Rc<Self>, mut stream: TcpStream) {
        while let Some((head, body)) = request(&mut stream).await {
            let head = head.to_ascii_lowercase();
            if head.starts_with("post /_session") {
                let right = format!("name={USER_IN_FORM}&password={PASSWORD_IN_FORM}");
                if body != right {
                    answer(&mut stream, "401 Unauthorized", &body).await;
                    continue;
                }
                self.logins.set(self.logins.get() + 1);
                let head = format!(
                    "200 OK\r\nSet-Cookie: AuthSession=hush{}; Version=1; Path=/; HttpOnly",
                    self.logins.get()
                );
                // A server that sends back what it was told.
                answer(&mut stream, &head, PASSWORD).await;
                continue;
            }
            let is_known = head
                .split("authsession=hush")
                .nth(1)
                .and_then(|rest| rest.lines().next()?.parse::<u32>().ok())
                .is_some_and(|session| session > self.expired.get());
            if self.needs_session && !is_known || self.refuses_all.get() {
                answer(&mut stream, "401 Unauthorized", PASSWORD).await;
            } else if head.starts_with("get /_up") {
                self.rounds.set(self.rounds.get() + 1);
                answer(&mut stream, self.up.get(), self.up_body.get()).await;
            } else {
                let body = self.membership.borrow().clone();
                answer(&mut stream, "200 OK", &body).await;
            }
        }
    }
}

fn membership(all: &[&str], cluster: &[&str]) -> String {
    format!("{{\"all_nodes\":{all:?},\"cluster_nodes\":{cluster:?}}}")
}

fn source(name: &str) -> SecretSource {
    SecretSource::Environment(name.to_owned())
}

fn couchdb(with_credentials: bool) -> CheckSpec {
    CheckSpec {
        interval: Duration::from_millis(10),
        fast_interval: Duration::from_millis(10),
        rise: 1,
        fall: 1,
        ..check(CheckKind::CouchDb(CouchDbSpec {
            tls: None,
            credentials: with_credentials.then(|| CredentialsSpec {
                user: source("COUCHDB_USER"),
                password: source("COUCHDB_PASSWORD"),
            }),
            nodes: 3,
            names: Vec::new(),
        }))
    }
}

fn secrets(password: &str) -> Rc<Secrets> {
    let value = |text: &str| Ok(text.as_bytes().to_vec());
    let values = [
        (source("COUCHDB_USER"), value(USER)),
        (source("COUCHDB_PASSWORD"), value(password)),
    ];
    Rc::new(values.into_iter().collect())
}

fn silent(outcome: &Outcome) {
    let text = format!("{outcome:?}");
    for secret in [PASSWORD, "open/se", "hush", USER, PASSWORD_IN_FORM] {
        assert!(!text.contains(secret), "{text}");
    }
}

#[test]
fn one_session_and_one_connection_serve_many_rounds() {
    run(async {
        let (node, address, _) = Node::start(true).await;
        let notes = Notes::default();
        let mut checker = Checker::new(notes.clone());
        checker.set_secrets(secrets(PASSWORD));
        checker.apply([target(&couchdb(true), &[address])]);
        let seen = notes.count(5).await;
        for seen in &seen {
            assert_eq!(seen.outcome.answer, "up, sees 3 nodes", "{seen:?}");
            assert_eq!(seen.state.health, Health::Up);
            silent(&seen.outcome);
        }
        assert!(seen[0].outcome.sent.starts_with("POST /_session; GET /_up"));
        assert_eq!(seen[1].outcome.sent, "GET /_up; GET /_membership");
        assert_eq!((node.logins.get(), node.connections.borrow().len()), (1, 1));
        // The session has run out: a new one is made within the same round.
        node.expired.set(1);
        let rounds = seen.len();
        let seen = notes.count(rounds + 3).await;
        assert!(
            seen.iter()
                .all(|seen| seen.outcome.observation == Observation::Passed)
        );
        assert_eq!(node.logins.get(), 2);
        // A session that is refused for ever.
        node.refuses_all.set(true);
        let seen = notes
            .until(|seen| seen.last().unwrap().state.health == Health::Down)
            .await;
        let last = &seen.last().unwrap().outcome;
        assert_eq!(
            last.answer,
            "401 unauthorized: the user or password is wrong"
        );
        silent(last);
        let text = format!(
            "{checker:?} {:?} {:?}",
            secrets(PASSWORD),
            checker.history(BACKEND, IDENTITY)
        );
        assert!(
            !text.contains("open/se") && !text.contains("hush"),
            "{text}"
        );
    });
}

#[test]
fn wrong_and_missing_credentials_are_told_apart_and_put_right_at_once() {
    run(async {
        let (_node, address, _) = Node::start(true).await;
        let notes = Notes::default();
        let mut checker = Checker::new(notes.clone());
        let slow = CheckSpec {
            interval: NEVER,
            fast_interval: NEVER,
            ..couchdb(true)
        };
        checker.apply([target(&slow, &[address])]);
        let seen = notes.count(1).await;
        assert_eq!(
            seen[0].outcome.answer,
            "no user: environment variable COUCHDB_USER was not read"
        );
        checker.set_secrets(secrets("opensesame2"));
        let seen = notes.count(2).await;
        let outcome = &seen[1].outcome;
        assert_eq!(
            outcome.answer,
            "401 unauthorized: the user or password is wrong"
        );
        assert!(!format!("{outcome:?}").contains("opensesame2"));
        checker.set_secrets(secrets(PASSWORD));
        let seen = notes.count(3).await;
        assert_eq!(seen[2].state.health, Health::Up, "{seen:?}");
        checker.apply([target(&couchdb(false), &[address])]);
        let seen = notes.count(4).await;
        assert!(
            seen[3].outcome.answer.contains("none are configured"),
            "{seen:?}"
        );
    });
}

#[test]
fn what_a_node_says_of_itself_and_of_its_cluster_decides() {
    run(async {
        let (node, address, _) = Node::start(false).await;
        let notes = Notes::default();
        let mut checker = Checker::new(notes.clone());
        checker.apply([target(&couchdb(false), &[address])]);
        let until = async |health: Health, words: &str| {
            let found = |seen: &[crate::Seen]| {
                let last = seen.last();
                last.is_some_and(|seen| seen.state.health == health && seen.outcome.answer == words)
            };
            notes.until(found).await;
        };
        until(Health::Up, "up, sees 3 nodes").await;
        node.up.set("404 Object Not Found");
        node.up_body.set("{\"status\":\"maintenance_mode\"}");
        until(Health::Drain, "maintenance mode").await;
        node.up_body.set("{\"status\":\"nolb\"}");
        until(Health::Drain, "maintenance mode nolb").await;
        node.up.set("200 OK");
        until(Health::Up, "up, sees 3 nodes").await;
        node.membership
            .replace(membership(&["a", "b"], &["a", "b", "c"]));
        until(
            Health::Down,
            "all_nodes and cluster_nodes differ: c is missing from all_nodes; 2 nodes, 3 are configured",
        )
        .await;
        node.membership.replace("<html>".to_owned());
        until(
            Health::Down,
            "/_membership answered no JSON with all_nodes and cluster_nodes",
        )
        .await;
        node.up.set("500 Oops");
        until(Health::Down, "/_up answered 500").await;
    });
}

#[test]
fn a_node_that_is_killed_is_noticed_by_the_end_of_its_connection() {
    run(async {
        let (node, address, listening) = Node::start(false).await;
        let check = CheckSpec {
            interval: NEVER,
            fast_interval: NEVER,
            ..couchdb(false)
        };
        let notes = Notes::default();
        let mut checker = Checker::new(notes.clone());
        checker.apply([target(&check, &[address])]);
        let seen = notes.count(1).await;
        assert_eq!(seen[0].state.health, Health::Up);
        let killed = std::time::Instant::now();
        listening.abort();
        for connection in node.connections.take() {
            connection.abort();
        }
        let seen = notes.count(2).await;
        assert_eq!(seen[1].state.health, Health::Down, "{seen:?}");
        let took = seen[1].at - killed;
        assert!(took < Duration::from_secs(1), "{took:?}");
    });
}

#[test]
fn a_server_that_closes_every_connection_is_not_asked_without_end() {
    run(async {
        let (node, address, _) = Node::start(false).await;
        node.up.set("200 OK\r\nConnection: close");
        let check = CheckSpec {
            interval: NEVER,
            fast_interval: NEVER,
            ..couchdb(false)
        };
        let notes = Notes::default();
        let mut checker = Checker::new(notes.clone());
        checker.apply([target(&check, &[address])]);
        notes.count(1).await;
        // Both of its connections end, the second by our side of the test, and one check is made for it at most.
        for connection in node.connections.take() {
            connection.abort();
        }
        notes.count(2).await;
        for connection in node.connections.take() {
            connection.abort();
        }
        let more = tokio::time::timeout(Duration::from_millis(200), notes.count(3)).await;
        assert!(more.is_err(), "asked again and again");
        assert_eq!(node.rounds.get(), 2);
    });
}
