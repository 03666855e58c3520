//! The reference page, out of the table of keys.

use crate::schema::{Key, Kind, Section};
use crate::value::DurationText;

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
* **Addresses** are IPv4 or IPv6 with port: `\"10.0.0.2:80\"`, `\"[fd00::2]:80\"`. A backend's port may be left to its pool or
  service. Names are not resolved yet.
* **Backends without a name** are called by their address as it is written: `10.0.0.2`, or `10.0.0.2-80` where it has a port;
  `fd00::2` is called `fd00--2`. The name is what a reload goes by: give names to servers that may move.
* A backend's port is the service's `port`, else its own, else its pool's.
* Every pool is checked by TCP unless it says otherwise.
";

fn heading(section: Section) -> String {
    match section {
        Section::Root => "Top of the file".to_owned(),
        Section::Backend => "Entries of `backends`".to_owned(),
        Section::Listen => "Entries of `listen`".to_owned(),
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
