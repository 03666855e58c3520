//! Why a backend is in its state: what this process knows, and what the monitor says when it is asked.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use evenkeel_control::child::{Explanation, ToChild};
use evenkeel_control::operator::{Answer, Why};
use evenkeel_plan::{BackendCell, Sealed};
use tokio::sync::oneshot;

use crate::admin;
use crate::life::Who;
use crate::operators::{Reply, reply};
use crate::perform::Supervisor;

/// The monitor has this long for its answer; without it the rest is told.
const MONITOR_PATIENCE: Duration = Duration::from_secs(1);

/// Events that are shown.
const EVENTS_MAX: usize = 20;

/// Questions that wait for the monitor, by ticket.
pub(crate) type Questions = BTreeMap<u64, Question>;

/// Somebody waits for an answer.
#[derive(Debug)]
pub(crate) struct Question {
    identity: String,
    answer: oneshot::Sender<Reply>,
    until: Instant,
}

impl Supervisor {
    /// Asks the monitor about the backend called `name`; answers at once where that makes no sense.
    pub(crate) fn ask_why(&mut self, name: &str, answer: oneshot::Sender<Reply>) {
        let found = admin::matching(name, &self.plan);
        let [identity] = found.as_slice() else {
            let reason = match found.len() {
                0 => admin::unknown(name, &self.plan, false),
                _ => format!(
                    "`{name}` stands for several backends, and one can be told of at a time: {}",
                    found.join(", ")
                ),
            };
            reply(answer, Answer::Denied { reason });
            return;
        };
        let Some((sealed, index)) = self.find_backend(identity) else {
            return;
        };
        let record = sealed.record();
        let cell = record.backend_cells[index];
        let question = Question {
            identity: record.identity(&record.spec.backends[index].name),
            answer,
            until: Instant::now() + MONITOR_PATIENCE,
        };
        let ticket = self.next_question;
        self.next_question += 1;
        match self.children.get_mut(Who::Monitor) {
            Some(monitor) => {
                monitor.send(ToChild::Explain {
                    ticket,
                    backend: cell,
                });
                self.questions.insert(ticket, question);
            }
            None => self.answer_why(question, None),
        }
    }

    /// The monitor has answered.
    pub(crate) fn explained(&mut self, ticket: u64, explanation: Option<Box<Explanation>>) {
        if let Some(question) = self.questions.remove(&ticket) {
            self.answer_why(question, explanation);
        }
    }

    /// Answers those for whom the monitor took too long; all of them when it has ended.
    pub(crate) fn answer_overdue(&mut self, monitor_ended: bool) {
        let now = Instant::now();
        let overdue: Vec<Question> = self
            .questions
            .extract_if(.., |_, question| monitor_ended || question.until <= now)
            .map(|(_, question)| question)
            .collect();
        for question in overdue {
            self.answer_why(question, None);
        }
    }

    fn answer_why(&self, question: Question, explanation: Option<Box<Explanation>>) {
        let Question {
            identity, answer, ..
        } = question;
        // It may have gone since it was asked about.
        let Some((sealed, index)) = self.find_backend(&identity) else {
            let reason = admin::unknown(&identity, &self.plan, false);
            reply(answer, Answer::Denied { reason });
            return;
        };
        let record = sealed.record();
        let Some(backend) = record.backends().nth(index) else {
            return;
        };
        let service = record.name().as_str();
        let address = backend.spec.address.name();
        let events = self.events.last(EVENTS_MAX, |event| {
            event.subject == identity
                || event.subject == service
                || address.is_some_and(|name| event.subject == name)
        });
        let why = Why {
            service: service.to_owned(),
            backend: self.backend_status(record, &backend),
            eligible: self.eligible_words(record, index),
            explanation: explanation.filter(|found| found.identity == identity),
            events,
        };
        reply(answer, Answer::Why(Box::new(why)));
    }

    /// The service and the position of the backend called `service/backend`.
    fn find_backend(&self, identity: &str) -> Option<(Arc<Sealed>, usize)> {
        let (service, backend) = identity.split_once('/')?;
        let sealed = self.plan.service(service)?;
        let mut backends = sealed.record().spec.backends.iter();
        let index = backends.position(|spec| spec.name.as_str() == backend)?;
        Some((Arc::clone(sealed), index))
    }

    /// What the monitor last said of the backend in `cell`.
    pub(crate) fn report(
        &self,
        cell: BackendCell,
        identity: &str,
    ) -> Option<&evenkeel_control::child::Report> {
        self.reports
            .get(&cell)
            .filter(|report| report.identity == identity)
    }
}
