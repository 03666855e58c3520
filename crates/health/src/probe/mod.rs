//! One question to one backend, within a time limit. One file a kind of check.

mod agent;
mod connect;
mod couchdb;
mod exchange;
mod exec;
mod http;
mod outcome;
mod talk;
mod tls;

use std::net::SocketAddr;
use std::rc::Rc;

use evenkeel_plan::CheckKind;
use tokio::time::{Instant, timeout_at};

pub use outcome::Outcome;

use self::connect::connect;
use self::couchdb::CouchDbCheck;
use self::exchange::Route;
use self::http::HttpCheck;
use self::talk::Talk;
use crate::question::Question;
use crate::secrets::Secrets;
use crate::tls::{TlsClient, TlsClients};
use crate::verdict::Observation;
use crate::wake::Wake;

/// Asks one question again and again, and keeps what helps to ask it: connections, sessions, compiled settings.
#[derive(Debug)]
pub(crate) struct Prober {
    question: Rc<Question>,
    /// Or in words why it cannot be asked.
    asker: Result<Asker, String>,
}

/// What is ready to ask with.
#[derive(Debug)]
enum Asker {
    Tcp,
    Tls(TlsClient),
    Http(HttpCheck),
    CouchDb(CouchDbCheck),
    Agent(Option<String>),
    Exec(Vec<String>),
}

impl Prober {
    pub(crate) fn new(question: Rc<Question>, clients: &TlsClients, wake: Rc<Wake>) -> Self {
        let asker = match &question.check.kind {
            CheckKind::Tcp => Ok(Asker::Tcp),
            CheckKind::Tls(spec) => clients.client(spec, &question.name, false).map(Asker::Tls),
            CheckKind::Http { tls, requests } => {
                HttpCheck::new(&question, tls.as_ref(), requests, clients).map(Asker::Http)
            }
            CheckKind::CouchDb(spec) => {
                CouchDbCheck::new(&question, spec, clients, wake).map(Asker::CouchDb)
            }
            CheckKind::Agent { send } => Ok(Asker::Agent(send.clone())),
            CheckKind::Exec { command } => Ok(Asker::Exec(command.clone())),
        };
        Self { question, asker }
    }

    /// Asks once. Takes no longer than the check's timeout, as far as this process is given the CPU. Endpoints are asked in
    /// turn, each within an equal part of what is left of the time, so that one that hangs does not hide the next.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    pub(crate) async fn probe(&mut self, secrets: &Secrets) -> Outcome {
        let question = Rc::clone(&self.question);
        let started = Instant::now();
        let deadline = started + question.check.timeout;
        let mut left = u32::try_from(question.endpoints.len()).unwrap_or(u32::MAX);
        let mut decided: Option<Outcome> = None;
        for endpoint in &question.endpoints {
            let now = Instant::now();
            let share = match decided {
                None => question.check.timeout / left,
                Some(_) => (deadline - now) / left,
            };
            left -= 1;
            let talk = Talk::default();
            let until = now + share;
            // When both are due at once, as after a pause of this process, the answer is looked at before the deadline.
            let asked = timeout_at(until, self.ask(*endpoint, secrets, &talk)).await;
            let mut outcome = asked
                .unwrap_or_else(|_| Outcome::timed_out(share, Instant::now() - until, talk.step()));
            let (sent, received) = talk.into_texts();
            (outcome.sent, outcome.received) = (sent.into(), received.into());
            if question.endpoints.len() > 1 {
                outcome.answer = format!("{endpoint}: {}", outcome.answer).into();
            }
            let is_over = outcome.observation == Observation::Passed;
            decided = Some(match decided {
                Some(mut before) if weight(&before) == weight(&outcome) => {
                    before.answer = format!("{}; {}", before.answer, outcome.answer).into();
                    before
                }
                Some(before) if weight(&before) > weight(&outcome) => before,
                _ => outcome,
            });
            if is_over {
                break;
            }
        }
        let mut outcome =
            decided.unwrap_or_else(|| Outcome::inconclusive("its name has no address yet"));
        outcome.duration = started.elapsed();
        outcome
    }

    async fn ask(&mut self, endpoint: SocketAddr, secrets: &Secrets, talk: &Talk) -> Outcome {
        let source = self.question.check.source;
        let route = || Route {
            endpoint,
            source,
            tls: None,
            wake: None,
        };
        let asker = match &mut self.asker {
            Ok(asker) => asker,
            Err(error) => return Outcome::failed(error.clone()),
        };
        // The rare and large ones are boxed, so that a thousand of the small ones stay small.
        let asked = match asker {
            Asker::Tcp => connect(endpoint, source, talk)
                .await
                .map(|_closed| Outcome::passed("connected")),
            Asker::Tls(client) => Box::pin(tls::probe(endpoint, source, client, talk)).await,
            Asker::Http(check) => Box::pin(check.probe(route(), talk)).await,
            Asker::CouchDb(check) => Box::pin(check.probe(route(), secrets, talk)).await,
            Asker::Agent(send) => {
                Box::pin(agent::probe(endpoint, source, send.as_deref(), talk)).await
            }
            Asker::Exec(command) => {
                Box::pin(exec::probe(command, endpoint, &self.question.name, talk)).await
            }
        };
        asked.unwrap_or_else(|outcome| outcome)
    }
}

/// Which of the answers of several endpoints decides: only if all failed has the backend failed.
fn weight(outcome: &Outcome) -> u8 {
    match outcome.observation {
        Observation::Failed => 0,
        Observation::Inconclusive => 1,
        Observation::Maint => 2,
        Observation::Drain => 3,
        Observation::Passed => 4,
    }
}
