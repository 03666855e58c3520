//! `explain`: what becomes of a request by the configuration, and why; with the states of backends where a daemon tells.

mod answer;
mod screen;
mod url;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;

use evenkeel_control::operator::Status;
use evenkeel_plan::{ServiceSpec, Spec};

use self::answer::{Told, Took};
pub(crate) use self::url::{HeaderLine, Url, header_line, method, url};
use crate::arguments::Explain as Arguments;
use crate::check::json;
use crate::client::{self, AskError};
use crate::failure::{Exit, Failure};
use crate::status::now_unix;
use crate::{output, runtime_dir};

/// Reads the configuration, asks the daemon for states, and tells.
pub(crate) fn execute(arguments: Arguments) -> Result<ExitCode, Failure> {
    let directory = runtime_dir::choose(arguments.runtime_dir.runtime_dir.clone());
    let status = client::block_on(async { Ok(client::status(&directory).await) })?;
    let (file, status) = match (arguments.config, status) {
        (Some(file), status) => (file, status),
        (None, Ok(status)) => (status.config.clone().into(), Ok(status)),
        (None, Err(error)) => {
            let help = "without a daemon name the file: `evenkeel explain URL --config FILE`";
            return Err(Failure::from(error).help(help));
        }
    };
    let loaded = match evenkeel_config::load(&file) {
        Ok(loaded) => loaded,
        Err(errors) => {
            output::eprint(&errors.render(output::paint_stderr().is_on()));
            return Ok(Exit::Configuration.into());
        }
    };
    let request = Asked {
        url: arguments.url,
        method: arguments.method,
        headers: arguments.headers,
    };
    let told = tell(&request, &loaded.spec, &file, status.as_deref());
    if arguments.json {
        output::print(&json(&told)?)?;
    } else {
        output::print(&screen::render(&told, now_unix(), output::paint_stdout()))?;
    }
    Ok(Exit::Ok.into())
}

/// The request that is asked about.
#[derive(Debug)]
struct Asked {
    url: Url,
    method: String,
    headers: Vec<HeaderLine>,
}

impl Asked {
    /// What the request says as `Host`: a line of its own counts before the URL.
    fn host(&self) -> &str {
        let own = self.headers.iter().find(|line| line.is("host"));
        own.map_or(&self.url.authority, |line| &line.value)
    }

    /// The other fields, as routes see them.
    fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> + Clone {
        let lines = self.headers.iter().filter(|line| !line.is("host"));
        lines.map(|line| (line.name.as_bytes(), line.value.as_bytes()))
    }
}

fn tell(asked: &Asked, spec: &Spec, file: &Path, status: Result<&Status, &AskError>) -> Told {
    let known = status.ok();
    let services: BTreeMap<&str, &ServiceSpec> = spec
        .services
        .iter()
        .map(|service| (service.name.as_str(), service))
        .collect();
    let mut takers: Vec<Took> = Vec::new();
    for service in &spec.services {
        let listeners = listening(service, &asked.url, known);
        if let Some(first) = listeners.first() {
            let port = first.port();
            let listeners = listeners.iter().map(ToString::to_string).collect();
            let took = answer::took(asked, service, port, &services, known);
            takers.push(Took { listeners, ..took });
        }
    }
    if asked.url.is_https {
        takers.clear();
    }
    Told {
        method: asked.method.clone(),
        url: asked.url.text.clone(),
        config: file.display().to_string(),
        without_daemon: match status {
            Ok(_) => None,
            Err(error) => Some(error.to_string()),
        },
        other_listeners: match takers.is_empty() {
            true => others(spec),
            false => Vec::new(),
        },
        takers,
    }
}

/// Addresses of `service` where the request may come in. Which address a name stands for is not looked up.
fn listening(service: &ServiceSpec, url: &Url, known: Option<&Status>) -> Vec<SocketAddr> {
    let configured = service.listeners.iter().map(|listener| listener.address);
    // What the kernel chose is for the daemon to tell.
    let chosen = known
        .and_then(|status| status_of(status, service.name.as_str()))
        .filter(|_| configured.clone().any(|address| address.port() == 0));
    let chosen = chosen.map_or(&[][..], |status| &status.listeners);
    let mut found: Vec<SocketAddr> = Vec::new();
    for address in configured.chain(chosen.iter().copied()) {
        let is_here = match url.ip {
            None => true,
            Some(ip) => takes(address.ip(), ip),
        };
        if address.port() == url.port && is_here && !found.contains(&address) {
            found.push(address);
        }
    }
    found
}

/// Whether a listener at `own` takes connections to `ip`.
fn takes(own: IpAddr, ip: IpAddr) -> bool {
    let (own, ip) = (own.to_canonical(), ip.to_canonical());
    own == ip || own.is_unspecified() && own.is_ipv4() == ip.is_ipv4()
}

fn status_of<'a>(
    status: &'a Status,
    service: &str,
) -> Option<&'a evenkeel_control::operator::ServiceStatus> {
    status.services.iter().find(|found| found.name == service)
}

/// Addresses of HTTP, for whoever asked where nothing listens.
fn others(spec: &Spec) -> Vec<String> {
    const SHOWN_MAX: usize = 8;
    let of_http = spec
        .services
        .iter()
        .filter(|service| service.http.is_some());
    let addresses = of_http.flat_map(|service| &service.listeners);
    let addresses = addresses.map(|listener| listener.address.to_string());
    addresses.take(SHOWN_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Paint;
    use crate::status_screen::tests::sample;

    const NOW: u64 = 1_700_000_000;

    const CONFIG: &str = r#"version = 1
[services.web]
mode = "http"
listen = ["10.0.0.1:80", "127.0.0.1:8080"]
backends = [{ name = "b1", address = "10.0.0.2:80" }, { name = "b3", address = "10.0.0.4:80" }, { name = "b9", address = "10.0.0.9:80", backup = true }]
scheduler = "lc"
[services.web.http]
persistence = { by = "header", header = "X-Tenant" }
presets = "couchdb"
transform = { response = { remove = "Server" } }
[[services.web.routes]]
prefix = "/api"
service = "api"
strip_prefix = "/api"
host_header = { set = "api.internal" }
request = { set = { X-A = "1" } }
[[services.web.routes]]
prefix = "/api"
methods = "POST"
headers = { X-Tenant = "a" }
answer = { status = 403, body = "no" }
[[services.web.routes]]
hosts = "old.example.org"
redirect = { location = "https://{host}{path}{query}" }
[[services.web.routes]]
path = "/login"
service = "web"
[services.api]
mode = "http"
backends = ["10.0.0.2:80"]
[services.routed]
mode = "http"
listen = "127.0.0.1:8081"
routes = [{ path = "/", answer = { status = 204 } }]
[services.tcp]
listen = "127.0.0.1:8082"
backends = ["10.0.0.2:80"]
"#;

    fn told(line: &[&str], status: Option<&Status>) -> Told {
        let asked = Asked {
            url: url(line[0]).unwrap(),
            method: line.get(1).map_or("GET", |method| method).to_owned(),
            headers: line
                .iter()
                .skip(2)
                .map(|h| header_line(h).unwrap())
                .collect(),
        };
        let loaded = evenkeel_config::parse("x.toml", CONFIG).unwrap();
        let gone = AskError::Denied("it is not there".to_owned());
        tell(
            &asked,
            &loaded.spec,
            Path::new("x.toml"),
            status.ok_or(&gone),
        )
    }

    fn page(line: &[&str]) -> String {
        screen::render(&told(line, None), NOW, Paint::OFF)
    }

    #[test]
    fn the_route_the_way_and_the_backends_are_told() {
        assert_eq!(
            page(&["http://example.org/api/v1?x=1", "POST", "X-Tenant: b"]),
            "\
POST http://example.org/api/v1?x=1

listener  10.0.0.1:80 of service web
route     1 (prefix /api): service api
service   api
path      /v1?x=1
host      api.internal
request   set X-A: 1

routes, in the order in which they are asked
  ROUTE  REQUESTS                                        ACTION           RESULT
      4  path /login                                     service web      is for other paths
      2  prefix /api, method POST, field X-Tenant = \"a\"  answer 403 \"no\"  its condition on `X-Tenant` is not met
      1  prefix /api                                     service api      fits, and is taken
  and 1 route for other hosts

service api  rr
  BACKEND      ADDRESS      WEIGHT
  10.0.0.2-80  10.0.0.2:80       1

from x.toml alone: the daemon refused: it is not there
"
        );
        let page = page(&["http://example.org/api", "POST", "x-tenant: a"]);
        assert!(page.contains("\nanswer    403, no\n"), "{page}");
        assert!(
            page.contains("service api      fits too, but route 2 comes first\n"),
            "{page}"
        );
    }

    #[test]
    fn the_daemon_tells_how_backends_are() {
        let status = sample();
        let told = told(&["http://10.0.0.1/login"], Some(&status));
        let page = screen::render(&told, NOW, Paint::OFF);
        let (_, end) = page.split_once("\nservice web  ").unwrap();
        assert_eq!(
            end,
            "\
lc, by header X-Tenant  serving
  BACKEND      ADDRESS      WEIGHT  STATE                    ACTIVE
  b1           10.0.0.2:80       1  up for 3 min                  4
  b3           10.0.0.4:80       1  down for 3 min                4
  b9 (backup)  10.0.0.9:80       1  not known to the daemon

from x.toml, with the states of the daemon that runs
"
        );
        assert!(
            page.contains("\nrequest   remove X-Auth-CouchDB-*\nresponse  remove Server\n"),
            "{page}"
        );
        let json: serde_json::Value = serde_json::from_str(&json(&told).unwrap()).unwrap();
        let outcome = &json["takers"][0]["outcome"];
        assert_eq!(outcome["kind"], "service");
        assert_eq!(outcome["backends"][1]["now"]["state"], "down");
        assert_eq!(json["takers"][0]["routes"][0]["taken"], true);
    }

    #[test]
    fn what_the_daemon_itself_answers_is_told() {
        let found = page(&["http://Old.example.org:8080/a?b", "GET"]);
        assert!(
            found.contains("\nlistener  127.0.0.1:8080 of service web\n"),
            "{found}"
        );
        assert!(
            found.contains("\nredirect  308 to https://old.example.org/a?b\n"),
            "{found}"
        );
        let by_field = page(&["http://127.0.0.1:8080/a", "GET", "Host: old.example.org"]);
        assert!(
            by_field.contains("\nredirect  308 to https://old.example.org/a\n"),
            "{by_field}"
        );
        let found = page(&["http://127.0.0.1:8081/"]);
        assert!(
            found.contains("\nanswer    204, without a body\n"),
            "{found}"
        );
        let found = page(&["http://127.0.0.1:8081/a"]);
        assert!(
            found.contains("\nroute     none takes it\nanswer    404: "),
            "{found}"
        );
    }

    #[test]
    fn route_and_service_change_in_turns() {
        let text = "version = 1\n[services.a]\nmode = \"http\"\nlisten = \"10.0.0.1:80\"\nbackends = [\"10.0.0.2:80\"]\n\
                    [services.a.http.transform]\nadd_prefix = \"/y\"\nrequest = { remove = \"X-B\" }\nresponse = { remove = \"X-B\" }\n\
                    host = { set = \"b\" }\n\
                    [[services.a.routes]]\nservice = \"a\"\nadd_prefix = \"/x\"\nrequest = { remove = \"X-A\" }\nresponse = { add = { X-A = \"1\" } }\nhost_header = HOST\n";
        for (written, host) in [
            ("\"keep\"", "b"),
            ("{ set = \"a\" }", "b"),
            ("\"backend\"", "the backend's address"),
        ] {
            let loaded = evenkeel_config::parse("x", &text.replace("HOST", written)).unwrap();
            let asked = Asked {
                url: url("http://10.0.0.1/p").unwrap(),
                method: "GET".to_owned(),
                headers: Vec::new(),
            };
            let gone = AskError::Denied(String::new());
            let told = tell(&asked, &loaded.spec, Path::new("x"), Err(&gone));
            let page = screen::render(&told, NOW, Paint::OFF);
            let expected = format!(
                "\npath      /y/x/p\nhost      {host}\nrequest   remove X-A, remove X-B\nresponse  remove X-B, add X-A: 1\n"
            );
            assert!(page.contains(&expected), "{page}");
        }
    }

    #[test]
    fn refusals_are_told() {
        let found = page(&["http://127.0.0.1:8080/api/../x"]);
        assert!(
            found.contains("\nrefused   400: the path has a dot segment\n"),
            "{found}"
        );
        let found = page(&["http://127.0.0.1:8080/a%2flogin/..%2f..%2flogin"]);
        assert!(found.contains("\nrefused   400: "), "{found}");
        let found = page(&["http://127.0.0.1:8080//login"]);
        assert!(
            found.contains("refused   400: the path can be read in two ways"),
            "{found}"
        );
        assert!(found.contains("  /login takes route 4\n"), "{found}");
        assert!(found.contains("  //login takes no route\n"), "{found}");
    }

    #[test]
    fn where_nobody_listens_is_told() {
        let found = page(&["http://10.0.0.1:81/"]);
        assert!(
            found.contains("no listener of this configuration takes it; there is HTTP at 10.0.0.1:80, 127.0.0.1:8080, 127.0.0.1:8081"),
            "{found}"
        );
        assert!(page(&["http://127.0.0.2:8080/"]).contains("no listener of this"));
        assert!(page(&["https://10.0.0.1:80/"]).contains("no listener takes https"));
        let found = page(&["http://127.0.0.1:8082/"]);
        assert!(
            found.contains("route     none: the service relays connections"),
            "{found}"
        );
        assert!(found.contains("\nservice tcp  rr\n"), "{found}");
    }

    #[test]
    fn ports_that_the_kernel_chose_are_the_daemons_to_tell() {
        let text = CONFIG.replace("\"10.0.0.1:80\", ", "\"10.0.0.1:0\", ");
        let loaded = evenkeel_config::parse("x.toml", &text).unwrap();
        let url = url("http://10.0.0.1/").unwrap();
        let status = sample();
        assert_eq!(listening(&loaded.spec.services[0], &url, None), []);
        let found = listening(&loaded.spec.services[0], &url, Some(&status));
        assert_eq!(found, ["10.0.0.1:80".parse().unwrap()]);
    }
}
