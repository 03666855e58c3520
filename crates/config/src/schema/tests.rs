use std::net::SocketAddr;

use evenkeel_plan::{
    BackendName, BackendSpec, CheckKind, CheckSpec, Globals, ListenerSpec, ServiceSpec,
};

use super::*;
use crate::parse;
use crate::value::{DurationText, SizeText};

/// A configuration in which `line` is the only thing of interest.
fn around(section: Section, line: &str) -> String {
    let service = "[services.s]\nlisten = \"127.0.0.1:8000\"\nbackends = [\"10.0.0.9:80\"]\n";
    let pools =
        "[pools.p]\nbackends = [\"10.0.0.2:80\"]\n[pools.openhim]\nbackends = [\"10.0.0.2:80\"]\n";
    let listen = if line.starts_with("address") {
        ""
    } else {
        "address = \"127.0.0.1:8001\", "
    };
    let backend = if line.starts_with("address") {
        ""
    } else {
        "address = \"127.0.0.1:8001\", "
    };
    let api = "[services.api]\nmode = \"http\"\nbackends = [\"10.0.0.2:80\"]\n";
    let web = format!(
        "version = 1\n{service}{api}[services.h]\nmode = \"http\"\nlisten = \"127.0.0.1:8001\"\nbackends = [\"10.0.0.2:80\"]\n"
    );
    let action = match line.split(' ').next().unwrap_or("") {
        "service" | "redirect" | "answer" => "",
        _ => "service = \"api\"\n",
    };
    let with = match line.split(' ').next().unwrap_or("") {
        "routes" | "http" => {
            return format!("{web}{line}\n");
        }
        "rate_burst" => "rate = 1",
        "source_burst" => "source_rate = 1",
        "frame_max" => "framing = \"mllp\"",
        _ => "",
    };
    match section {
        Section::Root if line.starts_with("version") => format!("{line}\n{service}"),
        Section::Root if line.starts_with("services") => format!("version = 1\n{line}\n"),
        Section::Root if line.starts_with("pools") => format!("version = 1\n{line}\n{service}"),
        Section::Root => format!("version = 1\n{line}\n{service}{pools}"),
        Section::Pool => {
            let backends = if line.starts_with("backends") {
                ""
            } else {
                "backends = [\"10.0.0.2:80\"]\n"
            };
            format!("version = 1\n{service}[pools.q]\n{backends}{line}\n")
        }
        Section::Service => {
            let listen = if line.starts_with("listen") {
                ""
            } else {
                "listen = \"127.0.0.1:8001\"\n"
            };
            let backends = match line.starts_with("pool ") || line.starts_with("backends") {
                true => "",
                false => "backends = [\"10.0.0.2:80\"]\n",
            };
            let maintenance = "[services.maintenance]\nlisten = \"127.0.0.1:8003\"\nbackends = [\"10.0.0.9:80\"]\n";
            format!(
                "version = 1\n{service}{maintenance}{pools}[services.t]\n{listen}{backends}{with}\n{line}\n"
            )
        }
        Section::Backend => format!(
            "version = 1\n{service}[pools.q]\nbackends = [\"10.0.0.3:80\", {{ {backend}{line} }}]\n"
        ),
        Section::Check => {
            let name = line.split(' ').next().unwrap_or("");
            let kind = CHECK_WORDS.iter().find(|kind| kind.keys.contains(&name));
            let kind = kind.map_or("", |kind| kind.word);
            let rest = match kind {
                "" => "",
                "agent" => "kind = \"agent\"\nport = 1\n",
                "couchdb" => "kind = \"couchdb\"\n",
                "exec" => "kind = \"exec\"\n",
                "tls" => "kind = \"tls\"\n",
                _ => "kind = \"http\"\n",
            };
            format!(
                "version = 1\nallow_exec = true\n{service}[pools.q]\nbackends = [\"10.0.0.2:80\"]\n[pools.q.check]\n{rest}{line}\n"
            )
        }
        Section::Request => format!(
            "version = 1\n{service}[pools.q]\nbackends = [\"10.0.0.2:80\"]\n[pools.q.check]\nkind = \"http\"\nrequests = [{{ {line} }}]\n"
        ),
        Section::Credentials => {
            let other = match line.starts_with("user") {
                true => "password_env = \"P\"",
                false => "user_env = \"U\"",
            };
            format!(
                "version = 1\n{service}[pools.q]\nbackends = [\"10.0.0.2:80\"]\n[pools.q.check]\nkind = \"couchdb\"\n\
                 [pools.q.check.credentials]\n{other}\n{line}\n"
            )
        }
        Section::Listen => format!(
            "version = 1\n{service}[services.t]\nbackends = [\"10.0.0.2:80\"]\n{with}\nlisten = [{{ {listen}{line} }}]\n"
        ),
        Section::Connect | Section::Timeouts | Section::Keepalive | Section::Queue => {
            let title = section.title().replace("NAME", "s");
            format!("version = 1\n{service}{title}\n{line}\n")
        }
        Section::Route => format!("{web}[[services.h.routes]]\n{action}{line}\n"),
        Section::RouteHeader => {
            let other = match line.starts_with("name") {
                true => "present = true",
                false => "name = \"X-A\"",
            };
            format!("{web}[[services.h.routes]]\n{action}headers = [{{ {other}, {line} }}]\n")
        }
        Section::Redirect => {
            let location = match line.starts_with("location") {
                true => "",
                false => "location = \"/\", ",
            };
            format!("{web}[[services.h.routes]]\nredirect = {{ {location}{line} }}\n")
        }
        Section::FixedAnswer => {
            format!("{web}[[services.h.routes]]\nanswer = {{ {line} }}\n")
        }
        Section::Edits => format!("{web}[[services.h.routes]]\n{action}request = {{ {line} }}\n"),
        Section::BodyByType => {
            let other = match line.starts_with("type") {
                true => "bytes = \"1B\"",
                false => "type = \"a/b\"",
            };
            format!("{web}[services.h.http.limits]\nbody_by_type = [{{ {other}, {line} }}]\n")
        }
        Section::HttpPersistence => {
            let name = line.split(' ').next().unwrap_or("");
            let before = match name {
                "by" => "",
                "header" => "by = \"header\"",
                "query" => "by = \"uri\"",
                "previous_key_env" | "previous_key_file" => "by = \"cookie\"\nkey_env = \"K\"",
                _ => "by = \"cookie\"",
            };
            let after = match line {
                "by = \"header\"" => "header = \"X-A\"",
                _ => "",
            };
            format!("{web}[services.h.http.persistence]\n{before}\n{line}\n{after}\n")
        }
        Section::HttpCompression => {
            let codings = match line.starts_with("codings") {
                true => "",
                false => "codings = \"gzip\"",
            };
            format!("{web}[services.h.http.compression]\n{codings}\n{line}\n")
        }
        Section::HttpPage => {
            let body = match line.starts_with("body") {
                true => "",
                false => "body = \"\", ",
            };
            format!("{web}[services.h.http.answers]\npages = [{{ {body}{line} }}]\n")
        }
        Section::HttpLimits if line.starts_with("source_burst") => {
            format!("{web}[services.h.http.limits]\nsource_rate = 1\n{line}\n")
        }
        Section::Http
        | Section::HttpLimits
        | Section::HttpTimeouts
        | Section::HttpForwarded
        | Section::HttpRetry
        | Section::HttpPool
        | Section::HttpAnswers
        | Section::HttpTransform => {
            let title = section.title().replace("NAME", "h");
            format!("{web}{title}\n{line}\n")
        }
        Section::Metrics if line.starts_with("public") => {
            format!("version = 1\n{service}[metrics]\nlisten = \"127.0.0.1:1\"\n{line}\n")
        }
        section => format!("version = 1\n{service}{}\n{line}\n", section.title()),
    }
}

#[test]
fn every_key_is_read_its_example_accepted_and_a_wrong_type_refused() {
    for key in KEYS {
        let text = around(key.section, &format!("{} = {}", key.name, key.example));
        if let Err(errors) = parse("x", &text) {
            panic!("{key:?}\n{text}\n{errors}");
        }
        // Nothing is a date: a key that is read refuses it, at its value.
        let text = around(key.section, &format!("{} = 1979-05-27", key.name));
        let errors = parse("x", &text).expect_err(key.name);
        let line = text.lines().position(|line| line.contains("1979")).unwrap();
        let found = errors
            .problems()
            .iter()
            .any(|problem| problem.line == line + 1 && problem.message.contains("found a date"));
        assert!(found, "{key:?}\n{text}\n{errors}");
    }
}

/// Values of `kind` as they are written: the smallest and the largest, and those beyond them.
fn bounds(kind: Kind) -> Option<(Vec<String>, Vec<String>)> {
    let integers = |min: u32, max: u32| {
        let texts = |numbers: [i64; 2]| numbers.map(|number| number.to_string()).to_vec();
        let (min, max) = (i64::from(min), i64::from(max));
        (texts([min, max]), texts([min - 1, max + 1]))
    };
    let quoted = |text: String| format!("\"{text}\"");
    match kind {
        Kind::Integer { min, max, .. } | Kind::Number { min, max, .. } => Some(integers(min, max)),
        Kind::Duration { min, max, .. } => {
            let text = |duration| quoted(DurationText(duration).to_string());
            let beyond = min.checked_sub(ms(1)).into_iter().chain([max + ms(1)]);
            Some((vec![text(min), text(max)], beyond.map(text).collect()))
        }
        Kind::Size { min, max, .. } => {
            let text = |size: u32| quoted(SizeText(size.into()).to_string());
            let beyond = min.checked_sub(1).into_iter().chain([max + 1]);
            Some((vec![text(min), text(max)], beyond.map(text).collect()))
        }
        Kind::Percent { max, .. } => {
            let text = |share: u8| quoted(format!("{share}%"));
            Some((vec![text(0), text(max)], vec![text(max + 1)]))
        }
        Kind::Boolean { .. } | Kind::Choice { .. } | Kind::Other { .. } => None,
    }
}

/// What a bound means together with other keys is not looked at: only whether it counts as out of range.
#[test]
fn every_range_has_its_bounds_and_nothing_beyond() {
    let refused = |key: &Key, value: &str| {
        let written = format!("{} = {value}", key.name);
        let text = around(key.section, &written);
        let line = text.lines().position(|line| line.contains(&written));
        let line = line.unwrap();
        let errors = parse("x", &text).err();
        let problems = errors.iter().flat_map(|errors| errors.problems());
        let mut here = problems.filter(|problem| problem.line == line + 1);
        here.any(|p| {
            p.message.contains("out of range") || p.message.contains("not a share in range")
        })
    };
    let mut count = 0;
    for key in KEYS {
        let Some((good, bad)) = bounds(key.kind) else {
            continue;
        };
        for value in good {
            assert!(!refused(key, &value), "{key:?} {value}");
        }
        for value in bad {
            assert!(refused(key, &value), "{key:?} {value}");
        }
        count += 1;
    }
    assert!(count >= 50, "{count}");
}

#[test]
fn every_word_is_accepted() {
    for key in KEYS.iter().filter(|key| key.section != Section::Check) {
        let Kind::Choice { words } = key.kind else {
            continue;
        };
        for word in words {
            let text = around(key.section, &format!("{} = \"{word}\"", key.name));
            assert!(parse("x", &text).is_ok(), "{key:?} {word}");
        }
    }
}

#[test]
fn synonyms_lead_to_keys_and_words_that_are_there() {
    for (theirs, ours) in SYNONYMS {
        assert!(KEYS.iter().any(|key| key.name == *ours), "{theirs} {ours}");
    }
    let known = |ours: &str| {
        let access = ["off", "logfmt"].contains(&ours);
        access
            || KEYS
                .iter()
                .any(|key| matches!(key.kind, Kind::Choice { words } if words.contains(&ours)))
    };
    for (theirs, ours) in WORD_SYNONYMS {
        assert!(known(ours), "{theirs} {ours}");
    }
}

#[test]
fn every_key_is_in_the_reference_page() {
    let page = crate::reference_markdown();
    for section in Section::ALL {
        assert!(page.contains(section.help()), "{section:?}");
    }
    for key in KEYS {
        let row = page.lines().find(|line| {
            line.starts_with(&format!("| `{}` |", key.name)) && line.contains(key.help)
        });
        let row = row.unwrap_or_else(|| panic!("{key:?}"));
        // A bar within a cell would start a new one.
        assert_eq!(row.matches('|').count(), 8, "{row}");
    }
}

#[test]
fn names_are_unique_in_their_section() {
    for section in Section::ALL {
        let mut names: Vec<_> = section.keys().map(|key| key.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), section.keys().count(), "{section:?}");
    }
}

#[test]
fn defaults_are_those_of_the_plan() {
    let text = "version = 1\n[services.s]\nlisten = \"127.0.0.1:8000\"\nbackends = [\"10.0.0.2:80\"]\n\
                connect = {}\ntimeouts = {}\nkeepalive = {}\nframing = \"none\"\n[drain]\n[log]\n[access_log]\n[limits]\n[watchdog]\n[resolve]\n[metrics]\n";
    let loaded = parse("x", text).unwrap();
    let globals = Globals::default();
    assert_eq!(loaded.spec.globals, globals);
    let service = &loaded.spec.services[0];
    let backend = BackendSpec {
        check: Some(CheckSpec::of(CheckKind::Tcp).into()),
        ..BackendSpec::at(
            BackendName::new("10.0.0.2-80").unwrap(),
            "10.0.0.2:80".parse::<SocketAddr>().unwrap().into(),
        )
    };
    let listener = ListenerSpec::at("127.0.0.1:8000".parse().unwrap());
    let expected = ServiceSpec::new(service.name.clone(), vec![listener], vec![backend]);
    assert_eq!(*service, expected);
}

#[test]
fn kinds_are_in_the_order_of_their_words_and_their_keys_are_keys() {
    let words: Vec<_> = CHECK_WORDS.iter().map(|kind| kind.word).collect();
    assert_eq!(words, kinds::WORDS);
    for kind in &CHECK_WORDS {
        assert!(!kind.help.is_empty() && !kind.help.contains('|'));
        assert!(kind.timeout <= kind.interval, "{}", kind.word);
        for key in kind.keys {
            assert!(Section::Check.key(key).is_some(), "{key}");
        }
    }
    for key in REQUEST_KEYS {
        assert!(CHECK_WORDS[2].keys.contains(&key) && CHECK_WORDS[3].keys.contains(&key));
        assert!(Section::Request.key(key).is_some());
    }
    assert_eq!(Section::Request.keys().count(), REQUEST_KEYS.len());
}
