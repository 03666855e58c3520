//! The peers' configurations, filled in. They lie in `benches/peers/` and are nearly what one would write by hand:
//!
//! * `@WORD@` stands for a value;
//! * what stands between `#+service` and `#-service` is written once for each service, and a line with `@BACKEND@` once for each
//!   backend, with its number from 1 as `@NUMBER@`;
//! * what follows `#hold ` counts when clients that have sent nothing are to wait without a backend, and what follows `#many `
//!   when a service has several backends.

use std::net::SocketAddr;
use std::path::Path;

use crate::peers::Kind;

/// HAProxy 2.6's `roundrobin` takes this many servers and no more; `static-rr` takes any number.
const HAPROXY_ROUNDROBIN: usize = 4_095;

/// What a peer understands of what it passes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Tcp,
    Http,
}

/// What a peer is started for.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) mode: Mode,
    /// Worker processes, or threads.
    pub(crate) workers: u32,
    /// One service each.
    pub(crate) listens: Vec<SocketAddr>,
    /// Of every service.
    pub(crate) backends: Vec<SocketAddr>,
    /// Clients that have sent nothing wait without a backend; with `Mode::Tcp`, for HTTP they always do.
    pub(crate) hold: bool,
    /// With whatever the peer needs to be reloaded.
    pub(crate) reloadable: bool,
    /// Clients that the peer makes room for.
    pub(crate) clients: u64,
}

/// The peer's configuration for this set-up. `label` tells processes of one run apart, `directory` takes their files.
pub(crate) fn fill(kind: Kind, setup: &Setup, label: &str, directory: &Path) -> String {
    let template = match (kind, setup.mode) {
        (Kind::Evenkeel, Mode::Tcp) => include_str!("../peers/evenkeel.toml"),
        (Kind::Evenkeel, Mode::Http) => include_str!("../peers/evenkeel-http.toml"),
        (Kind::Haproxy, Mode::Tcp) => include_str!("../peers/haproxy.cfg"),
        (Kind::Haproxy, Mode::Http) => include_str!("../peers/haproxy-http.cfg"),
        (Kind::Nginx, Mode::Tcp) => include_str!("../peers/nginx-stream.conf"),
        (Kind::Nginx, Mode::Http) => include_str!("../peers/nginx-http.conf"),
    };
    render(template, setup, label, directory)
}

/// The configuration of the HTTP servers behind the peers.
pub(crate) fn fill_backend(setup: &Setup, directory: &Path) -> String {
    let template = include_str!("../peers/backend.conf");
    render(template, setup, "backend", directory)
}

fn render(template: &str, setup: &Setup, label: &str, directory: &Path) -> String {
    let services = setup.listens.len();
    let listens = u64::try_from(services).unwrap_or(u64::MAX);
    let balance = if setup.backends.len() > HAPROXY_ROUNDROBIN {
        "static-rr"
    } else {
        "roundrobin"
    };
    // What services and listeners have room for by default, or more where more is configured.
    let capacity = 4_096
        .max(services + 16)
        .max(services * setup.backends.len() + 16);
    let mut text = String::new();
    let mut service = None;
    for line in template.lines() {
        let line = match line.split_once(' ') {
            Some(("#hold", _)) if !setup.hold => continue,
            Some(("#many", _)) if setup.backends.len() < 2 => continue,
            Some(("#hold" | "#many", rest)) => rest,
            _ => line,
        };
        match (line, &mut service) {
            ("#+service", _) => service = Some(String::new()),
            ("#-service", body) => {
                let body = body.take().unwrap_or_default();
                for (number, listen) in setup.listens.iter().enumerate() {
                    text.push_str(
                        &body
                            .replace("@NAME@", &format!("s{number}"))
                            .replace("@LISTEN@", &listen.to_string()),
                    );
                }
            }
            (line, Some(body)) => push(body, line, setup),
            (line, None) => push(&mut text, line, setup),
        }
    }
    text.replace("@DIR@", &directory.display().to_string())
        .replace("@LABEL@", label)
        .replace("@WORKERS@", &setup.workers.to_string())
        .replace("@CLIENTS@", &setup.clients.to_string())
        // nginx counts both sides of a relay, and listening sockets; while it is reloaded those of two generations.
        .replace(
            "@CONNECTIONS@",
            &(2 * setup.clients + 4 * listens).to_string(),
        )
        // One socket for all workers where there are thousands of services, or descriptors run out.
        .replace("@REUSEPORT@", if services > 1 { "" } else { " reuseport" })
        .replace("@CAPACITY@", &capacity.to_string())
        .replace("@BALANCE@", balance)
        // A backend takes about half a KiB of the zone.
        .replace("@ZONE_KIB@", &(64 + 2 * setup.backends.len()).to_string())
}

fn push(text: &mut String, line: &str, setup: &Setup) {
    if !line.contains("@BACKEND@") {
        text.push_str(line);
        text.push('\n');
        return;
    }
    for (index, backend) in setup.backends.iter().enumerate() {
        text.push_str(
            &line
                .replace("@BACKEND@", &backend.to_string())
                .replace("@NUMBER@", &(index + 1).to_string()),
        );
        text.push('\n');
    }
}
