//! The reference page, out of the table of keys.

use evenkeel_plan::ACCESS_FIELDS;

use crate::schema::{CHECK_WORDS, CheckWord, Key, Kind, Section};
use crate::value::{DurationText, SizeText};

/// The page `docs/configuration.md`: every key with type, unit, default, range and help.
#[must_use]
pub fn reference_markdown() -> String {
    let mut page = String::from(INTRODUCTION);
    for section in Section::ALL {
        page.push_str(&format!(
            "\n## {}\n\n{}\n\n",
            heading(section),
            section.help()
        ));
        page.push_str("| key | type | unit | default | range | example | help |\n");
        page.push_str("|---|---|---|---|---|---|---|\n");
        for key in section.keys() {
            page.push_str(&row(key));
        }
        if section == Section::AccessLog {
            page.push_str(FIELDS);
            for (name, help) in ACCESS_FIELDS {
                page.push_str(&format!("| `{name}` | {help} |\n"));
            }
        }
        if section == Section::Check {
            page.push_str(KINDS);
            for kind in &CHECK_WORDS {
                page.push_str(&kind_row(kind));
            }
        }
    }
    page
}

const INTRODUCTION: &str = "\
# Configuration

<!-- Generated from the table of keys in crates/config; changes made here are lost. -->

One TOML file. `evenkeel check FILE` reports every mistake in it at once, each with its line, and changes nothing.

The shortest one:

```toml
version = 1

[services.web]
listen = \"0.0.0.0:80\"
backends = [\"10.0.0.2:80\", \"10.0.0.3:80\"]
```

* **Durations** are strings with units, longest first: `\"500ms\"`, `\"2s\"`, `\"5m\"`, `\"1h\"`, `\"1m30s\"`. A bare number is
  refused.
* **Sizes** are strings with a unit: `\"512KiB\"`, `\"1MiB\"`.
* **Networks** are an address and the number of bits that count, `\"10.0.0.0/8\"`, `\"fd00::/8\"`, or one address alone.
* **Limits** say how far they can be trusted: *exact* over all workers; *exact from above*, never more, while one may be turned
  away too early; or by each worker.
* **Addresses** are IPv4 or IPv6 with port: `\"10.0.0.2:80\"`, `\"[fd00::2]:80\"`. A backend's port may be left to its pool or
  service.
* **Host names** may stand for the addresses of backends, `\"couchdb-1.local:5984\"`, and SRV names too,
  `\"srv:_couchdb._tcp.example.org\"`: those without a port, for their records say it. They are resolved while the daemon runs,
  and followed when they change.
* **Backends without a name** are called by their address as it is written: `10.0.0.2`, or `10.0.0.2-80` where it has a port;
  `couchdb-1.local-5984`; `fd00::2` is called `fd00--2`, `srv:_a._tcp.b` is called `srv-_a._tcp.b`. The name is what a reload
  goes by: give names to servers that may move.
* A backend's port is the service's `port`, else its own, else its pool's.
* Every pool is checked by TCP unless it says otherwise.
* **Secrets** are not written in the file: keys such as `password_env` and `password_file` say where they come from.
* **Paths** are absolute.
";

const FIELDS: &str = "
Fields, in the order of `json` and `logfmt`:

| field | what it is |
|---|---|
";

const KINDS: &str = "
Kinds, and what they have where it is not written:

| kind | interval | fast_interval | timeout | rise | fall | port | own keys | passes when |
|---|---|---|---|---|---|---|---|---|
";

fn kind_row(kind: &CheckWord) -> String {
    let CheckWord {
        word,
        interval,
        fast_interval,
        timeout,
        rise,
        fall,
        port,
        keys,
        help,
    } = kind;
    if *word == "none" {
        return format!("| `{word}` | | | | | | | | {help} |\n");
    }
    let fast = fast_interval.map_or("the interval".to_owned(), |fast| {
        DurationText(fast).to_string()
    });
    let port = match (*word, port) {
        ("agent", _) => "required".to_owned(),
        (_, Some(port)) => port.to_string(),
        (_, None) => "the backend's".to_owned(),
    };
    let keys: Vec<_> = keys.iter().map(|key| format!("`{key}`")).collect();
    let (interval, timeout) = (DurationText(*interval), DurationText(*timeout));
    let keys = keys.join(", ");
    format!(
        "| `{word}` | {interval} | {fast} | {timeout} | {rise} | {fall} | {port} | {keys} | {help} |\n"
    )
}

fn heading(section: Section) -> String {
    match section {
        Section::Root => "Top of the file".to_owned(),
        Section::Backend => "Entries of `backends`".to_owned(),
        Section::Listen => "Entries of `listen`".to_owned(),
        Section::Request => "Entries of `requests`".to_owned(),
        Section::RouteHeader => "Entries of `headers` of a route".to_owned(),
        Section::Redirect => "`redirect` of a route".to_owned(),
        Section::FixedAnswer => "`answer` of a route".to_owned(),
        Section::BodyByType => "Entries of `body_by_type`".to_owned(),
        Section::Edits => "`request` and `response`".to_owned(),
        section => format!("`{}`", section.title()),
    }
}

fn row(key: &Key) -> String {
    let (shape, unit, default, range) = match key.kind {
        Kind::Integer {
            min,
            max,
            default,
            unit,
        } => (
            "integer".to_owned(),
            unit.to_owned(),
            format!("`{default}`"),
            format!("{min} to {max}"),
        ),
        Kind::Number {
            min,
            max,
            default,
            unit,
        } => (
            "integer".to_owned(),
            unit.to_owned(),
            default.to_owned(),
            format!("{min} to {max}"),
        ),
        Kind::Size { min, max, default } => (
            "size".to_owned(),
            "written with it".to_owned(),
            format!("`\"{}\"`", SizeText(default.into())),
            format!(
                "`\"{}\"` to `\"{}\"`",
                SizeText(min.into()),
                SizeText(max.into())
            ),
        ),
        Kind::Duration { min, max, default } => (
            "duration".to_owned(),
            "written with it".to_owned(),
            format!("`\"{}\"`", DurationText(default)),
            format!("`\"{}\"` to `\"{}\"`", DurationText(min), DurationText(max)),
        ),
        Kind::Percent { max, default } => (
            "share".to_owned(),
            "%".to_owned(),
            format!("`\"{default}%\"`"),
            format!("`\"0%\"` to `\"{max}%\"`"),
        ),
        Kind::Boolean { default } => (
            "boolean".to_owned(),
            String::new(),
            format!("`{default}`"),
            "`true`, `false`".to_owned(),
        ),
        Kind::Choice { words } => {
            let all: Vec<_> = words.iter().map(|word| format!("`\"{word}\"`")).collect();
            (
                "string".to_owned(),
                String::new(),
                all[0].clone(),
                all.join(", "),
            )
        }
        Kind::Other {
            shape,
            range,
            default,
        } => (
            shape.to_owned(),
            String::new(),
            default.to_owned(),
            range.to_owned(),
        ),
    };
    let Key {
        name,
        example,
        help,
        ..
    } = key;
    format!("| `{name}` | {shape} | {unit} | {default} | {range} | `{example}` | {help} |\n")
}
