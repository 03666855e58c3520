//! HTTP, agents and programs: what they answer, and what they do when they do not.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use evenkeel_health::{Observation, Outcome};
use evenkeel_plan::{CheckKind, CheckSpec, HttpRequestSpec};
use tokio::io::AsyncWriteExt as _;

use crate::{PATIENCE, answer, ask, ask_in_vain, check, drip, flood, request, run, say, serve};

fn http(requests: Vec<HttpRequestSpec>) -> CheckSpec {
    check(CheckKind::Http {
        tls: None,
        requests,
    })
}

fn get(path: &str) -> HttpRequestSpec {
    HttpRequestSpec {
        path: path.to_owned(),
        ..HttpRequestSpec::default()
    }
}

fn words(outcome: &Outcome) -> (Observation, &str) {
    (outcome.observation, &outcome.answer)
}

#[test]
fn requests_go_out_in_order_on_one_connection_with_the_fields_that_are_configured() {
    run(async {
        let connections = Rc::new(Cell::new(0));
        let heads = Rc::new(RefCell::new(Vec::new()));
        let (counted, kept) = (Rc::clone(&connections), Rc::clone(&heads));
        let address = serve(move |mut stream| {
            counted.set(counted.get() + 1);
            let kept = Rc::clone(&kept);
            async move {
                while let Some((head, _)) = request(&mut stream).await {
                    kept.borrow_mut().push(head);
                    answer(&mut stream, "200 OK", "{\"master\":1}").await;
                }
            }
        })
        .await;
        let second = HttpRequestSpec {
            method: "HEAD".to_owned(),
            headers: vec![(
                "Authorization".to_owned(),
                "Basic b3BlbnNlc2FtZQ==".to_owned(),
            )],
            host: Some("other.example".to_owned()),
            ..get("/second?key=opensesame")
        };
        let outcome = ask(&http(vec![get("/first"), second]), &[address]).await;
        assert_eq!(
            words(&outcome),
            (Observation::Passed, "HEAD /second?... answered 200")
        );
        assert_eq!(outcome.sent, "GET /first; HEAD /second?...");
        assert!(
            outcome
                .received
                .starts_with("200; 12 bytes: {\"master\":1}")
        );
        assert_eq!(connections.get(), 1);
        let heads = heads.borrow();
        assert!(heads[0].starts_with("GET /first HTTP/1.1"), "{heads:?}");
        let host = format!("host: b1.example:{}", address.port());
        assert!(heads[0].to_ascii_lowercase().contains(&host), "{heads:?}");
        assert!(heads[1].starts_with("HEAD /second?key=opensesame HTTP/1.1"));
        assert!(heads[1].contains("host: other.example"), "{heads:?}");
        assert!(heads[1].contains("authorization: Basic b3BlbnNlc2FtZQ=="));
    });
}

#[test]
fn a_server_that_closes_after_each_answer_is_asked_on_new_connections() {
    run(async {
        let address = serve(|mut stream| async move {
            if request(&mut stream).await.is_some() {
                answer(&mut stream, "200 OK", "fine").await;
            }
        })
        .await;
        let outcome = ask(&http(vec![get("/1"), get("/2"), get("/3")]), &[address]).await;
        assert_eq!(
            words(&outcome),
            (Observation::Passed, "GET /3 answered 200")
        );
    });
}

#[test]
fn status_and_body_are_held_against_what_is_expected() {
    run(async {
        let address = serve(|mut stream| async move {
            while let Some((head, _)) = request(&mut stream).await {
                let status = head.split(['/', ' ']).nth(2).unwrap_or_default().to_owned();
                let secret = "Authorization: Bearer opensesame";
                answer(&mut stream, &format!("{status} Whatever"), secret).await;
            }
        })
        .await;
        let with = |path: &str, contains: Option<&str>, regex: Option<&str>| {
            http(vec![HttpRequestSpec {
                expect: vec![(200, 299), (404, 404)],
                drain: vec![(503, 503)],
                body_contains: contains.map(str::to_owned),
                body_regex: regex.map(str::to_owned),
                headers: vec![("Authorization".to_owned(), "Bearer opensesame".to_owned())],
                ..get(path)
            }])
        };
        use Observation::{Drain, Failed, Passed};
        for (check, expected) in [
            (with("/200", None, None), (Passed, "GET /200 answered 200")),
            (with("/404", None, None), (Passed, "GET /404 answered 404")),
            (
                with("/500", None, None),
                (Failed, "GET /500 answered 500, expected is 200-299, 404"),
            ),
            (with("/503", None, None), (Drain, "GET /503 answered 503")),
            (
                with("/200", Some("Bearer"), Some("^A.*: B")),
                (Passed, "GET /200 answered 200"),
            ),
            (
                with("/200", Some("bearer"), None),
                (
                    Failed,
                    "GET /200 answered 200, but \"bearer\" is not in the body",
                ),
            ),
            (
                with("/200", None, Some("^B")),
                (
                    Failed,
                    "GET /200 answered 200, but the body does not match \"^B\"",
                ),
            ),
        ] {
            let outcome = ask(&check, &[address]).await;
            assert_eq!(words(&outcome), expected);
            assert!(
                !format!("{outcome:?}").contains("opensesame"),
                "{outcome:?}"
            );
        }
        let outcome = ask(&with("/200", None, Some("(")), &[address]).await;
        assert_eq!(outcome.observation, Failed);
        assert!(
            outcome
                .answer
                .starts_with("the regular expression is wrong")
        );
    });
}

#[test]
fn http_that_hangs_drips_or_babbles_has_failed_in_time() {
    run(async {
        let check = http(vec![get("/")]);
        let outcome = ask_in_vain(&check, &[say(b"").await]).await;
        assert_eq!(
            outcome.answer,
            "no answer within 200 ms: the head of the answer"
        );
        let outcome = ask_in_vain(&check, &[drip(b"HTTP/1.1 200 OK\r\nX: ", b'x').await]).await;
        assert_eq!(
            outcome.answer,
            "no answer within 200 ms: the head of the answer"
        );
        let body = b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n";
        let outcome = ask_in_vain(&check, &[drip(body, b'x').await]).await;
        assert_eq!(
            outcome.answer,
            "no answer within 200 ms: the body of the answer"
        );
        assert_eq!(outcome.received, "200");
        let outcome = ask_in_vain(&check, &[say(b"SSH-2.0-OpenSSH_9.9\r\n").await]).await;
        assert!(
            outcome.answer.starts_with("not an answer in HTTP/1"),
            "{outcome:?}"
        );
        let outcome = ask_in_vain(&check, &[flood(b"HTTP/1.1 200 OK\r\nX: ", b'x').await]).await;
        assert_eq!(outcome.answer, "the head of the answer is too large");
        let closed = serve(|stream| async move { drop(stream) }).await;
        let outcome = ask_in_vain(&check, &[closed]).await;
        assert!(
            outcome.answer.contains("closed") || outcome.answer.contains("reset"),
            "{outcome:?}"
        );
    });
}

#[test]
fn a_body_without_end_is_read_to_its_limit() {
    run(async {
        let text = b"HTTP/1.1 200 OK\r\n\r\nneedle";
        let address = flood(text, b'x').await;
        let found = HttpRequestSpec {
            body_contains: Some("needlexxx".to_owned()),
            ..get("/")
        };
        let outcome = ask(&http(vec![found]), &[address]).await;
        assert_eq!(outcome.observation, Observation::Passed, "{outcome:?}");
        assert!(
            outcome.received.contains("more than 65536 bytes: needlexx"),
            "{outcome:?}"
        );
        assert!(outcome.received.len() < 600);
    });
}

#[test]
fn an_agent_says_how_it_is_and_how_much_it_wants() {
    run(async {
        let check = check(CheckKind::Agent {
            send: Some("b1\n".to_owned()),
        });
        let address = serve(|mut stream| async move {
            let mut line = [0; 3];
            drop(tokio::io::AsyncReadExt::read_exact(&mut stream, &mut line).await);
            assert_eq!(&line, b"b1\n");
            drop(stream.write_all(b"up 75% maxconn:20\nrest").await);
        })
        .await;
        let outcome = ask(&check, &[address]).await;
        assert_eq!(
            words(&outcome),
            (Observation::Passed, "the agent said \"up 75% maxconn:20\"")
        );
        assert_eq!(
            (outcome.weight_percent, outcome.maxconn),
            (Some(75), Some(20))
        );
        assert_eq!(
            (&*outcome.sent, &*outcome.received),
            ("b1", "up 75% maxconn:20")
        );
        let closing = |text: &'static [u8]| {
            serve(move |mut stream| async move {
                drop(stream.write_all(text).await);
                // Reads to the end, so that what was written is not cut off by a reset.
                while request(&mut stream).await.is_some() {}
            })
        };
        for (text, observation) in [
            (b"maint\n".as_slice(), Observation::Maint),
            (b"drain\r\n", Observation::Drain),
            (b"down#disk\n", Observation::Failed),
        ] {
            let outcome = ask(&check, &[closing(text).await]).await;
            assert_eq!(outcome.observation, observation, "{outcome:?}");
        }
    });
}

#[test]
fn an_agent_that_hangs_drips_or_babbles_has_failed_in_time() {
    run(async {
        let check = check(CheckKind::Agent { send: None });
        let hanging = ask_in_vain(&check, &[say(b"").await]).await;
        assert_eq!(hanging.answer, "no answer within 200 ms: the agent's line");
        let dripping = ask_in_vain(&check, &[drip(b"up", b' ').await]).await;
        assert_eq!(dripping.answer, "no answer within 200 ms: the agent's line");
        let flooding = ask_in_vain(&check, &[flood(b"up", b' ').await]).await;
        assert_eq!(
            flooding.answer,
            "the agent's line is longer than 4096 bytes"
        );
        let garbage = ask_in_vain(&check, &[say(b"\x00\xff\x1b[31m\n").await]).await;
        assert!(!garbage.answer.chars().any(char::is_control), "{garbage:?}");
        let closing = serve(|stream| async move { drop(stream) }).await;
        assert_eq!(
            ask_in_vain(&check, &[closing]).await.answer,
            "the agent said nothing"
        );
    });
}

fn exec(command: &[&str]) -> CheckSpec {
    check(CheckKind::Exec {
        command: command.iter().map(|&word| word.to_owned()).collect(),
    })
}

#[test]
fn a_program_passes_with_exit_code_0_and_its_first_line_is_the_answer() {
    run(async {
        let address = "127.0.0.1:9".parse().unwrap();
        let shell = |script: &str| exec(&["/bin/sh", "-c", script]);
        let outcome = ask(
            &shell("echo \"$EVENKEEL_ADDRESS $EVENKEEL_BACKEND [$HOME] [$USER]\"; echo second"),
            &[address],
        )
        .await;
        assert_eq!(
            words(&outcome),
            (Observation::Passed, "exit code 0: 127.0.0.1:9 b1 [] []")
        );
        let outcome = ask(&shell("echo disk full; exit 3"), &[address]).await;
        assert_eq!(
            words(&outcome),
            (Observation::Failed, "exit code 3: disk full")
        );
        let outcome = ask(&shell("kill -9 $$"), &[address]).await;
        assert_eq!(words(&outcome), (Observation::Failed, "killed by signal 9"));
        let outcome = ask(&shell("head -c 1000000 /dev/zero | tr '\\0' x"), &[address]).await;
        assert_eq!(outcome.observation, Observation::Passed);
        assert!(outcome.answer.len() < 300, "{outcome:?}");
        let outcome = ask(&exec(&["/nowhere/at/all"]), &[address]).await;
        assert_eq!(outcome.observation, Observation::Failed);
        assert!(outcome.answer.starts_with("cannot run /nowhere/at/all"));
        // What it leaves behind with its output open does not hold the answer up.
        let outcome = ask(&shell("echo fine; sleep 30 & exit 0"), &[address]).await;
        assert_eq!(words(&outcome), (Observation::Passed, "exit code 0: fine"));
        assert!(outcome.duration < Duration::from_secs(4));
    });
}

#[test]
fn a_program_that_hangs_is_killed_with_all_that_it_started() {
    run(async {
        let check = exec(&["/bin/sh", "-c", "sleep 600.731 & echo $!; wait"]);
        let outcome = ask_in_vain(&check, &["127.0.0.1:9".parse().unwrap()]).await;
        assert_eq!(outcome.answer, "no answer within 200 ms: the program's end");
        // The sleeper has no parent any more; it is gone as soon as somebody has reaped it.
        let marker = b"sleep\x00600.731\x00";
        let is_gone = || {
            let processes = std::fs::read_dir("/proc").unwrap().flatten();
            !processes
                .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
                .any(|line| line == marker)
        };
        let wait = async {
            while !is_gone() {
                tokio::task::yield_now().await;
            }
        };
        assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok());
    });
}
