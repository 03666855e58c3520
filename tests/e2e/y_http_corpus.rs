//! Strictness, through the real daemon: the corpus of `crates/http1`.
//!
//! How: a server answers each request with its target, so that a client knows which answer is whose. What the server saw of an entry is
//! compared to the byte; bodies in chunks as one chunk, since they may be cut elsewhere on their way. What stands behind a bad request
//! must never be a request.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;

use evenkeel_http::strict::{Rule, Side};
use evenkeel_testkit::http::{
    Answer, Broken, Ended, Exchange, HttpBackend, HttpClient, Seen, upgrade_answer, upgrade_request,
};
use evenkeel_testkit::{Daemon, eventually};

use crate::SOON;
use crate::x_http::{connection_of, web};

/// Nothing is added to what goes on, so that it can be compared to the byte; the limits are those of the corpus.
pub(crate) const PLAIN: &str = "[services.web.http.forwarded]\nx_forwarded_for = \"off\"\nx_forwarded_proto = \"off\"\n\
                     x_forwarded_host = \"off\"\nforwarded = \"off\"\nrequest_id = false\n\
                     [services.web.http.limits]\nuri_bytes = \"16KiB\"\n";

/// What a message that is refused tries to bring along.
pub(crate) const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nHost: a.example\r\n\r\n";

/// An entry of the corpus; its format is described in `crates/http1/tests/common`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) has_limits: bool,
    pub(crate) context: String,
    pub(crate) sent: Vec<u8>,
    pub(crate) seen: Option<Vec<u8>>,
    pub(crate) ending: String,
}

pub(crate) fn corpus(directory: &str) -> Vec<Entry> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/http1/tests/corpus");
    let files = std::fs::read_dir(path.join(directory)).unwrap();
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    let mut entries: Vec<Entry> = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(file).unwrap();
        for line in text
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
        {
            if let Some(name) = line.strip_prefix('[') {
                entries.push(Entry {
                    name: name.trim_end_matches(']').to_owned(),
                    context: "GET 1.1".to_owned(),
                    ..Entry::default()
                });
            } else {
                entries.last_mut().unwrap().take(line);
            }
        }
    }
    entries
}

impl Entry {
    pub(crate) fn take(&mut self, line: &str) {
        let (key, rest) = line.split_once(' ').unwrap_or((line, ""));
        match key {
            "same" => self.seen = Some(self.sent.clone()),
            "for" => rest.clone_into(&mut self.context),
            "=" => rest.clone_into(&mut self.ending),
            "limits" => self.has_limits = true,
            ">" => self
                .sent
                .extend([unescaped(rest), b"\r\n".to_vec()].concat()),
            ">|" => self.sent.extend(unescaped(rest)),
            "<" => {
                let line = [unescaped(rest), b"\r\n".to_vec()].concat();
                self.seen.get_or_insert_default().extend(line);
            }
            "<|" => self.seen.get_or_insert_default().extend(unescaped(rest)),
            "source" => {}
            other => panic!("{}: {other}", self.name),
        }
    }

    pub(crate) fn rule(&self) -> Option<&'static Rule> {
        let id = self.ending.strip_prefix("bad ")?;
        Some(Rule::named(id).unwrap_or_else(|| panic!("no rule {id}")))
    }

    pub(crate) fn expected(&self) -> &[u8] {
        self.seen.as_deref().unwrap_or_default()
    }
}

pub(crate) fn unescaped(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        out.extend(before.bytes());
        let (kind, after) = after.split_at(1);
        rest = after;
        match kind {
            "r" => out.push(b'\r'),
            "n" => out.push(b'\n'),
            "t" => out.push(b'\t'),
            "s" => out.push(b' '),
            "0" => out.push(0),
            "\\" => out.push(b'\\'),
            "x" => {
                out.push(u8::from_str_radix(&after[..2], 16).unwrap());
                rest = &after[2..];
            }
            "{" => {
                let (count, after) = after.split_once('*').unwrap();
                let (what, after) = after.split_once('}').unwrap();
                out.extend(unescaped(what).repeat(count.parse().unwrap()));
                rest = after;
            }
            other => panic!("\\{other}"),
        }
    }
    out.extend(rest.bytes());
    out
}

/// Answers without a body, whatever the method, and names the target.
pub(crate) fn answer_target(exchange: &mut Exchange<'_>) {
    if exchange.head.names("upgrade", "websocket") {
        exchange.send(upgrade_answer());
        exchange.wait_end();
        return;
    }
    let target = format!("X-Target: {}\r\n", exchange.target());
    exchange.answer(200, &target, "");
}

/// A daemon, and what stands behind it.
pub(crate) struct Strict {
    pub(crate) server: HttpBackend,
    pub(crate) address: SocketAddr,
    pub(crate) _daemon: Daemon,
}

impl Strict {
    pub(crate) fn new() -> Self {
        let server = HttpBackend::start("b1", answer_target);
        let (daemon, address) = web(&[&server], PLAIN);
        Self {
            server,
            address,
            _daemon: daemon,
        }
    }

    /// Sends an entry, at once or in single bytes, and what is `behind` it. What is wrong, in words.
    pub(crate) fn request(
        &self,
        entry: &Entry,
        bytewise: bool,
        behind: &str,
    ) -> Result<(), String> {
        let mark = self.server.requests();
        let mut client = HttpClient::connect(self.address);
        let is_open = entry.ending == "ok";
        let next = format!("GET /next HTTP/1.1\r\nHost: next.example\r\n\r\n{behind}");
        // Where the daemon has refused, the rest is not taken.
        if bytewise {
            client.send_bytewise(&entry.sent);
        } else {
            client.send(&entry.sent);
        }
        match entry.ending.as_str() {
            "need" => client.end_writing(),
            "websocket" => {}
            _ if is_open => drop(client.send(next)),
            _ => drop(client.send(behind)),
        }
        let answers = answers_until(&mut client, is_open);
        let statuses: Vec<_> = answers.0.iter().map(Answer::status).collect();
        let last = statuses.last().copied();
        let mut seen = self.server.seen_since(mark);
        let wrong = |what: &str| {
            Err(format!(
                "{what}: statuses {statuses:?}, then {:?}",
                answers.1
            ))
        };
        match (entry.ending.as_str(), entry.rule()) {
            ("ok", _) => {
                if answers.1.is_some() {
                    return wrong("the connection does not stay");
                }
                seen.pop();
            }
            ("close", _) => {
                if last != Some(200) || !answers.0.last().is_some_and(Answer::closes) {
                    return wrong("no answer that closes");
                }
            }
            ("websocket", _) => {
                if last != Some(101) {
                    return wrong("no tunnel");
                }
            }
            ("need", _) => {
                if last == Some(200) && entry.seen.is_none() {
                    return wrong("an answer to what is not whole");
                }
            }
            (_, Some(rule)) => {
                if last != rule.status(Side::Request) {
                    return wrong(&format!(
                        "not refused by {} of {}",
                        rule.status(Side::Request).unwrap_or(0),
                        rule.id
                    ));
                }
                if !answers.0.last().is_some_and(Answer::closes) {
                    return wrong("refused, and no Connection: close");
                }
            }
            (other, None) => return Err(format!("unknown ending {other}")),
        }
        if !is_open
            && entry.ending != "websocket"
            && !matches!(answers.1, Some(Ended::Fin | Ended::Reset))
        {
            return wrong("the connection stays");
        }
        drop(client);
        let whole: Vec<&Seen> = seen.iter().filter(|seen| seen.body.is_some()).collect();
        let got: Vec<u8> = whole.iter().flat_map(|seen| seen.bytes()).collect();
        if got != entry.expected() {
            let (is, should) = (got.escape_ascii(), entry.expected().escape_ascii());
            return Err(format!(
                "the backend saw\n    {is}\n  and should have seen\n    {should}"
            ));
        }
        for part in seen.iter().filter(|seen| seen.body.is_none()) {
            eventually(
                SOON,
                &format!("{}: half a request is cancelled", entry.name),
                || self.server.ended(part.connection),
            );
        }
        self.good_next(mark)
    }

    /// The next good request of another client is served, and nothing hidden was.
    pub(crate) fn good_next(&self, mark: usize) -> Result<(), String> {
        let mut client = HttpClient::connect(self.address);
        let good = client.ask("GET /good HTTP/1.1\r\nHost: good.example\r\n\r\n");
        let target = good
            .as_ref()
            .ok()
            .and_then(|answer| answer.field("x-target"));
        if target.as_deref() != Some("/good") {
            return Err(format!("the next good request gets {good:?}"));
        }
        let mut seen = self.server.seen_since(mark).into_iter();
        match seen.find(|seen| seen.head.target().contains("hidden")) {
            Some(hidden) => Err(format!("hidden in it: {hidden:?}")),
            None => Ok(()),
        }
    }

    /// Entries of the requests by name, with something hidden behind those that are refused.
    #[track_caller]
    pub(crate) fn requests(&self, names: &[&str]) {
        let all = corpus("requests");
        let mut wrong = String::new();
        for name in names {
            let entry = all.iter().find(|entry| entry.name == *name);
            let entry = entry.unwrap_or_else(|| panic!("no entry [{name}]"));
            let behind = if entry.rule().is_some() || entry.ending == "close" {
                HIDDEN
            } else {
                ""
            };
            for bytewise in [false, true] {
                if let Err(what) = self.request(entry, bytewise, behind) {
                    writeln!(wrong, "[{name}] {what}").unwrap();
                }
            }
        }
        assert!(wrong.is_empty(), "\n{wrong}");
    }

    /// A request of our own, refused by this status and by nothing else; what is hidden in it is not served.
    #[track_caller]
    pub(crate) fn refused(&self, request: &str, status: u16) {
        let mark = self.server.requests();
        let mut client = HttpClient::connect(self.address);
        client.send(format!("{request}{HIDDEN}"));
        let (answers, end) = answers_until(&mut client, false);
        let statuses: Vec<_> = answers.iter().map(Answer::status).collect();
        assert_eq!(
            statuses.last(),
            Some(&status),
            "{request:?}: {statuses:?} {end:?}"
        );
        self.good_next(mark).unwrap();
    }

    /// What the backend saw of a request that is served, and whose connection stays.
    #[track_caller]
    pub(crate) fn served(&self, request: &str) -> Seen {
        let mark = self.server.requests();
        let mut client = HttpClient::connect(self.address);
        let answer = client.ask(request);
        assert!(
            answer.as_ref().is_ok_and(|answer| answer.status() == 200),
            "{request:?}: {answer:?}"
        );
        let seen = self.server.seen_since(mark);
        assert_eq!(
            client.get("/next").field("x-target").as_deref(),
            Some("/next")
        );
        assert_eq!(
            self.server.requests(),
            mark + 2,
            "one request and the next: {seen:?}"
        );
        seen[0].clone()
    }
}

/// Answers until one to `/next` (`to_next`), a 101, or the end; how it ended, if it did.
pub(crate) fn answers_until(
    client: &mut HttpClient,
    to_next: bool,
) -> (Vec<Answer>, Option<Ended>) {
    let mut answers = Vec::new();
    loop {
        match client.answer("GET") {
            Ok(answer) => {
                let is_next = answer.field("x-target").as_deref() == Some("/next");
                let is_tunnel = answer.status() == 101;
                answers.push(answer);
                if is_tunnel || (to_next && is_next) {
                    return (answers, None);
                }
            }
            Err(broken) => return (answers, Some(broken.by)),
        }
    }
}

/// Where the daemon does more than read and write: who names no host means the backend.
pub(crate) fn beyond_parsing(mut entry: Entry, server: &HttpBackend) -> Entry {
    if let "http10-no-host" | "http10-nothing" | "cl-http10-get-0" = entry.name.as_str() {
        let text = String::from_utf8(entry.seen.unwrap()).unwrap();
        let named = format!("Host: {}\r\n", server.address());
        entry.seen = Some(text.replace("Host: \r\n", &named).into_bytes());
    }
    entry
}

#[test]
fn requests_of_the_corpus_go_on_or_are_refused_as_they_should() {
    let strict = Strict::new();
    let mut wrong = String::new();
    let (mut tried, mut skipped) = (0, 0);
    for entry in corpus("requests") {
        // Limits that a configuration cannot set so low.
        if entry.has_limits {
            skipped += 1;
            continue;
        }
        tried += 1;
        let entry = beyond_parsing(entry, &strict.server);
        for bytewise in [false, true] {
            if bytewise && entry.sent.len() > 2_000 {
                continue;
            }
            if let Err(what) = strict.request(&entry, bytewise, "") {
                let how = if bytewise { "byte by byte" } else { "at once" };
                writeln!(wrong, "[{}] {how}: {what}", entry.name).unwrap();
            }
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
    assert!(
        tried > 350 && skipped < 12,
        "{tried} tried, {skipped} skipped"
    );
}

/// A daemon whose backend answers `/entry/N` by the bytes of an entry.
pub(crate) struct Answers {
    pub(crate) strict: Strict,
    pub(crate) entries: Vec<Entry>,
}

impl Answers {
    pub(crate) fn new() -> Self {
        let entries = corpus("answers");
        let strict = Strict::new();
        let all = entries.clone();
        strict.server.set(move |exchange| {
            let target = exchange.target();
            let number = target
                .strip_prefix("/entry/")
                .and_then(|number| number.parse::<usize>().ok());
            let Some(entry) = number.and_then(|number| all.get(number)) else {
                return answer_target(exchange);
            };
            exchange.send(&entry.sent);
            if entry.ending == "cut" || entry.name.starts_with("r-to-end") {
                exchange.close();
            } else if entry.ending == "switch" {
                exchange.wait_end();
            }
        });
        Self { strict, entries }
    }

    /// What is wrong with what becomes of an entry, in words.
    pub(crate) fn answer(&self, number: usize) -> Result<(), String> {
        let entry = &self.entries[number];
        let target = format!("/entry/{number}");
        let mut client = HttpClient::connect(self.strict.address);
        let (request, method) = request_for(&entry.context, &target);
        client.send(request);
        let outcome = client.answer(method);
        let connection = connection_of(&self.strict.server, &target);
        match (entry.ending.as_str(), entry.rule()) {
            ("cut", _) => match &outcome {
                Ok(answer) if answer.status() != 502 => return Err(format!("whole: {answer:?}")),
                _ => {}
            },
            (_, Some(rule)) => match &outcome {
                Ok(answer) if Some(answer.status()) == rule.status(Side::Answer) => {}
                // Its head had gone on when the bad chunk came.
                Err(_) if entry.name.starts_with("r-ch-") => {}
                other => return Err(format!("{} gives {other:?}", rule.id)),
            },
            _ => compare(entry, &outcome, &mut client)?,
        }
        let stays =
            outcome.as_ref().is_ok_and(|answer| !answer.closes()) && entry.ending != "switch";
        if !stays {
            client = HttpClient::connect(self.strict.address);
        }
        let next = client.ask("GET /next HTTP/1.1\r\nHost: a\r\n\r\n");
        let named = next
            .as_ref()
            .ok()
            .and_then(|answer| answer.field("x-target"));
        if named.as_deref() != Some("/next") {
            return Err(format!("the next request gets {next:?}"));
        }
        let is_reused = connection_of(&self.strict.server, "/next") == connection;
        match entry.ending.as_str() {
            "keep" if !is_reused => Err("the backend's connection is not used again".to_owned()),
            "keep" => Ok(()),
            _ if is_reused => Err("the backend's connection is used again".to_owned()),
            _ => Ok(()),
        }
    }

    #[track_caller]
    pub(crate) fn all(&self, names: &[&str]) {
        let mut wrong = String::new();
        for name in names {
            let number = self.entries.iter().position(|entry| entry.name == *name);
            let number = number.unwrap_or_else(|| panic!("no entry [{name}]"));
            if let Err(what) = self.answer(number) {
                writeln!(wrong, "[{name}] {what}").unwrap();
            }
        }
        assert!(wrong.is_empty(), "\n{wrong}");
    }
}

pub(crate) fn request_for(context: &str, target: &str) -> (String, &'static str) {
    if context == "websocket" {
        return (upgrade_request(target), "GET");
    }
    let (method, version) = context.split_once(' ').unwrap_or((context, "1.1"));
    let (version, fields) = match version {
        "1.0-keep" => ("1.0", "Connection: keep-alive\r\n"),
        "1.1-close" => ("1.1", "Connection: close\r\n"),
        other => (other, ""),
    };
    let method = match method {
        "HEAD" => "HEAD",
        "PUT" => "PUT",
        _ => "GET",
    };
    let request = format!("{method} {target} HTTP/{version}\r\nHost: a\r\n{fields}\r\n");
    (request, method)
}

/// Whether the client saw what it should.
pub(crate) fn compare(
    entry: &Entry,
    outcome: &Result<Answer, Broken>,
    client: &mut HttpClient,
) -> Result<(), String> {
    let answer = outcome.as_ref().map_err(|broken| format!("{broken:?}"))?;
    let mut got: Vec<u8> = answer
        .interim
        .iter()
        .flat_map(|head| head.bytes().to_vec())
        .collect();
    got.extend(answer.head.bytes());
    got.extend(answer.body.in_one_chunk());
    let expected = entry.expected();
    if got != expected {
        let (is, should) = (got.escape_ascii(), expected.escape_ascii());
        return Err(format!(
            "the client saw\n    {is}\n  and should have seen\n    {should}"
        ));
    }
    if entry.name == "r-101" && client.exactly(7).as_deref() != Ok(b"\x81\x05hello") {
        return Err("the first bytes of the tunnel are lost".to_owned());
    }
    Ok(())
}

#[test]
fn answers_of_the_corpus_go_on_or_become_a_502_as_they_should() {
    let answers = Answers::new();
    let mut wrong = String::new();
    let mut tried = 0;
    for (number, entry) in answers.entries.iter().enumerate() {
        if entry.has_limits {
            continue;
        }
        tried += 1;
        if let Err(what) = answers.answer(number) {
            writeln!(wrong, "[{}] {what}", entry.name).unwrap();
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
    assert!(tried > 100, "{tried}");
}
