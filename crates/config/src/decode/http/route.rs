//! Decoding of routes. Each is compiled here, so that what is wrong with it has its place.

use evenkeel_http::route::{CompileErrorKind, Router};
use evenkeel_plan::ServiceName;
use evenkeel_plan::http::{
    ActionSpec, FieldName, FixedSpec, HeaderMatch, HeaderValueMatch, HostPattern, Method,
    PAGE_BYTES_MAX, PathMatch, ROUTES_MAX, RedirectSpec, RedirectStatus, RouteSpec, parse_redirect,
};
use toml::de::DeValue;

use super::text::{exact, field_name, field_table, field_value, parsed, prefix, read, regex, some};
use super::transform::transform;
use crate::fields::{Fields, Node, article, integer_of, narrow};
use crate::problem::{Sink, shown};
use crate::schema::Section;
use crate::written::{Placed, Route};

/// Most hosts of one route.
const HOSTS_MAX: usize = 1_024;

/// Most methods of one route.
const METHODS_MAX: usize = 64;

/// Most conditions on fields of one route.
const HEADERS_MAX: usize = 32;

/// Statuses whose answers have no body.
const WITHOUT_BODY: [u16; 3] = [204, 205, 304];

/// The routes of a service, in file order; empty where none is written.
pub(super) fn routes(fields: &Fields<'_>, label: &str, sink: &mut Sink<'_>) -> Vec<Route> {
    const RIGHT: &str = "write each as `[[services.NAME.routes]]`";
    let Some(node) = fields.get("routes") else {
        return Vec::new();
    };
    let Some(array) = node.value.as_array() else {
        let found = article(node.value);
        let message = format!("expected an array of routes, found {found}");
        node.error(sink, message, RIGHT);
        return Vec::new();
    };
    if array.len() > ROUTES_MAX {
        let message = format!("{} routes, at most {ROUTES_MAX} are possible", array.len());
        node.error(
            sink,
            message,
            "divide them over several services with addresses of their own",
        );
        return Vec::new();
    }
    if array.is_empty() {
        let message = format!("service {} has no route in `routes`", shown(label));
        sink.missing(node.at, &node.key, message, RIGHT);
    }
    let routes: Vec<Route> = node.one_or_many().map(|node| route(&node, sink)).collect();
    compile(&routes, sink);
    routes
}

/// What can be said of all routes together. Each alone was compiled when it was read.
fn compile(routes: &[Route], sink: &mut Sink<'_>) {
    let specs: Option<Vec<RouteSpec>> = routes.iter().map(|route| route.spec.clone()).collect();
    let Some(specs) = specs else {
        return;
    };
    for error in Router::new(&specs).err().into_iter().flatten() {
        let Some(route) = routes.get(error.route) else {
            continue;
        };
        let (message, help) = match error.kind {
            CompileErrorKind::Shadowed(earlier) => {
                let first = routes.get(earlier).map_or(0, |first| sink.line(first.at));
                (
                    "this route is never taken: another has the same conditions".to_owned(),
                    format!("the first is in line {first}; remove one, or change its conditions"),
                )
            }
            kind @ (CompileErrorKind::TooMany
            | CompileErrorKind::Path(_)
            | CompileErrorKind::Regex(_)) => (kind.to_string(), String::new()),
        };
        sink.error(route.at, &route.key, message, help);
    }
}

fn route(node: &Node<'_>, sink: &mut Sink<'_>) -> Route {
    let mut route = Route {
        spec: None,
        service: None,
        at: node.at,
        key: node.key.clone(),
    };
    let Some(fields) = node.fields(Section::Route, sink) else {
        return route;
    };
    let conditions = conditions(&fields, sink);
    let transform = transform(&fields, "host_header", sink);
    let action = action(&fields, &mut route.service, sink);
    let answers = fields.get("redirect").is_some() || fields.get("answer").is_some();
    if answers && fields.get("service").is_none() {
        without_service(&fields, sink);
    }
    if let Some((hosts, path, methods, headers)) = conditions
        && let Some(action) = action
    {
        route.spec = Some(RouteSpec {
            hosts,
            path,
            methods,
            headers,
            action,
            transform,
        });
    }
    route
}

type Conditions = (
    Vec<HostPattern>,
    Option<PathMatch>,
    Vec<Method>,
    Vec<HeaderMatch>,
);

/// `None` when a part could not be read: without it the route would be for more than is meant.
fn conditions(fields: &Fields<'_>, sink: &mut Sink<'_>) -> Option<Conditions> {
    let host = |node: &Node<'_>, sink: &mut Sink<'_>| {
        let new = |text: &str| match HostPattern::new(text) {
            Err(_) if text == "*" => Err("leave `hosts` out to mean any host".to_owned()),
            other => other.map_err(|error| error.to_string()),
        };
        parsed(node, "\"a.example.org\"", "a host", new, sink)
    };
    let method = |node: &Node<'_>, sink: &mut Sink<'_>| {
        let method = parsed(node, "\"GET\"", "a method", |text| Method::new(text), sink)?;
        if method
            .as_str()
            .bytes()
            .any(|byte| byte.is_ascii_lowercase())
        {
            let message = format!("the method {} is not in capitals", shown(method.as_str()));
            let help = "methods are compared with case, and clients send capitals";
            sink.warning(node.at, &node.key, message, help);
        }
        Some(method)
    };
    let hosts = optional(fields, "hosts", sink, |node, sink| {
        some(node, HOSTS_MAX, sink, host)
    });
    let methods = optional(fields, "methods", sink, |node, sink| {
        some(node, METHODS_MAX, sink, method)
    });
    let headers = optional(fields, "headers", sink, headers);
    let path = path(fields, sink);
    Some((
        hosts?.unwrap_or_default(),
        path?,
        methods?.unwrap_or_default(),
        headers?.unwrap_or_default(),
    ))
}

/// `None` = written and wrong.
fn optional<'a, T>(
    fields: &Fields<'a>,
    name: &'static str,
    sink: &mut Sink<'_>,
    read: impl FnOnce(&Node<'a>, &mut Sink<'_>) -> Option<T>,
) -> Option<Option<T>> {
    match fields.get(name) {
        None => Some(None),
        Some(node) => read(&node, sink).map(Some),
    }
}

fn path(fields: &Fields<'_>, sink: &mut Sink<'_>) -> Option<Option<PathMatch>> {
    let paths = [
        optional(fields, "path", sink, exact).map(|text| text.map(PathMatch::Exact)),
        optional(fields, "prefix", sink, prefix).map(|prefix| prefix.map(PathMatch::Prefix)),
        optional(fields, "regex", sink, regex).map(|text| text.map(PathMatch::Regex)),
    ];
    one_of(fields, &["path", "prefix", "regex"], sink)?;
    let paths: Option<Vec<_>> = paths.into_iter().collect();
    Some(paths?.into_iter().flatten().next())
}

/// Whether at most one of `names` is written; the other ones are reported.
fn one_of(fields: &Fields<'_>, names: &[&'static str], sink: &mut Sink<'_>) -> Option<()> {
    let mut written = names.iter().filter_map(|name| fields.get(name));
    let first = written.next();
    let mut good = Some(());
    for node in written {
        let first = first.as_ref().map_or("", |first| first.label);
        let message = format!("`{}` beside `{first}`", node.label);
        node.error(sink, message, "keep one of the two");
        good = None;
    }
    good
}

fn headers(node: &Node<'_>, sink: &mut Sink<'_>) -> Option<Vec<HeaderMatch>> {
    let count = match node.value {
        DeValue::Table(table) => table.len(),
        DeValue::Array(array) => array.len(),
        _ => 1,
    };
    if count == 0 || count > HEADERS_MAX {
        let message = format!("{count} conditions are out of range");
        node.error(sink, message, format!("from 1 to {HEADERS_MAX}"));
        return None;
    }
    if node.value.is_array() {
        return some(node, HEADERS_MAX, sink, header);
    }
    let any = |text: &str| FieldName::new(text);
    let table = field_table(node, "{ X-Tenant = \"a\" }", any, field_value, sink)?;
    let equals = |(name, value): (FieldName, evenkeel_plan::http::FieldValue)| HeaderMatch {
        name,
        value: HeaderValueMatch::Equals(value.as_str().to_owned()),
    };
    Some(table.into_iter().map(equals).collect())
}

fn header(node: &Node<'_>, sink: &mut Sink<'_>) -> Option<HeaderMatch> {
    const KINDS: [&str; 3] = ["equals", "regex", "present"];
    let fields = node.fields(Section::RouteHeader, sink)?;
    if fields.get("name").is_none() {
        let help = "write `{ name = \"X-Tenant\", equals = \"a\" }`";
        sink.missing(node.at, &node.key, "a condition without `name`", help);
    }
    let name = read(&fields, "name", sink, field_name);
    let equals = read(&fields, "equals", sink, field_value);
    let regex = read(&fields, "regex", sink, regex);
    let present = read(&fields, "present", sink, present);
    one_of(&fields, &KINDS, sink)?;
    if KINDS.iter().all(|kind| fields.get(kind).is_none()) {
        let help = "write `equals`, `regex`, or `present = true`";
        sink.missing(
            node.at,
            &node.key,
            "a condition that says nothing of the field",
            help,
        );
    }
    let value = equals
        .map(|value| HeaderValueMatch::Equals(value.as_str().to_owned()))
        .or_else(|| regex.map(HeaderValueMatch::Regex))
        .or_else(|| present.map(|()| HeaderValueMatch::Present))?;
    Some(HeaderMatch { name: name?, value })
}

fn present(node: &Node<'_>, sink: &mut Sink<'_>) -> Option<()> {
    match node.value.as_bool() {
        Some(true) => Some(()),
        Some(false) => {
            let message = "`present = false`: there is no route for requests without a field";
            let help = "leave the condition out: a route that has it is asked first anyway";
            node.error(sink, message, help);
            None
        }
        None => {
            let message = format!("expected `true`, found {}", article(node.value));
            node.error(sink, message, "write `present = true`");
            None
        }
    }
}

/// What becomes of requests; `service` is where they go.
fn action(
    fields: &Fields<'_>,
    service: &mut Option<Placed<String>>,
    sink: &mut Sink<'_>,
) -> Option<ActionSpec> {
    const ACTIONS: [&str; 3] = ["service", "redirect", "answer"];
    if ACTIONS.iter().all(|name| fields.get(name).is_none()) {
        let message = "a route that does not say what becomes of its requests";
        let help = "write `service = \"NAME\"`, `redirect = { location = \"…\" }` or `answer = { status = 404 }`";
        sink.missing(fields.at, &fields.key, message, help);
    }
    *service = read(fields, "service", sink, |node, sink| {
        let text = node.text(sink, "\"api\"")?;
        Some(node.placed(text.to_owned()))
    });
    let redirect = fields
        .section("redirect", Section::Redirect, sink)
        .and_then(|fields| redirect(&fields, sink));
    let answer = fields
        .section("answer", Section::FixedAnswer, sink)
        .and_then(|fields| answer(&fields, sink));
    one_of(fields, &ACTIONS, sink)?;
    // A name that no service can have is reported with those that are not there.
    let name = service.as_ref();
    let name = name.and_then(|name| ServiceName::new(name.value.as_str()).ok());
    name.map(ActionSpec::Service)
        .or_else(|| redirect.map(ActionSpec::Redirect))
        .or_else(|| answer.map(ActionSpec::Fixed))
}

fn redirect(fields: &Fields<'_>, sink: &mut Sink<'_>) -> Option<RedirectSpec> {
    const EXAMPLE: &str = "\"https://{host}{path}{query}\"";
    if fields.get("location").is_none() {
        let help = format!("write `location = {EXAMPLE}`");
        sink.missing(
            fields.at,
            &fields.key,
            "a redirect without `location`",
            help,
        );
    }
    let status = match fields.get("status") {
        None => Some(RedirectStatus::default()),
        Some(node) => redirect_status(&node, sink),
    };
    let location = read(fields, "location", sink, |node, sink| {
        let checked = |text: &str| parse_redirect(text).map(|_| text.to_owned());
        parsed(node, EXAMPLE, "a location", checked, sink)
    });
    Some(RedirectSpec {
        status: status?,
        location: location?,
    })
}

fn redirect_status(node: &Node<'_>, sink: &mut Sink<'_>) -> Option<RedirectStatus> {
    const RIGHT: &str = "301, 302, 307 or 308";
    let DeValue::Integer(number) = node.value else {
        let found = article(node.value);
        let message = format!("expected the integer of a status, found {found}");
        node.error(sink, message, RIGHT);
        return None;
    };
    let code = integer_of(number).and_then(|number| u16::try_from(number).ok());
    let status = code.and_then(RedirectStatus::from_code);
    if status.is_none() {
        let number = shown(number.as_str());
        let message = format!(
            "{} is not the status of a redirect",
            number.trim_matches('`')
        );
        node.error(sink, message, RIGHT);
    }
    status
}

fn answer(fields: &Fields<'_>, sink: &mut Sink<'_>) -> Option<FixedSpec> {
    let status = fields.integer("status", None, sink);
    let status_value = narrow(status.value);
    let body = match fields.get("body") {
        None => Some(String::new()),
        Some(node) => body(&node, sink),
    };
    let bodyless = status.good && WITHOUT_BODY.contains(&status_value);
    for name in ["body", "content_type"] {
        if bodyless && let Some(node) = fields.get(name) {
            let message = format!("an answer {status_value} has no body");
            node.error(
                sink,
                message,
                format!("leave `{name}` out, or write another status"),
            );
        }
    }
    Some(FixedSpec {
        status: status_value,
        content_type: read(fields, "content_type", sink, field_value),
        body: body?,
    })
}

/// The body of an answer of our own.
pub(super) fn body(node: &Node<'_>, sink: &mut Sink<'_>) -> Option<String> {
    let text = node.text(sink, "\"ok\"")?;
    if text.len() > PAGE_BYTES_MAX {
        let message = format!("a text of {} bytes is out of range", text.len());
        node.error(sink, message, format!("at most {PAGE_BYTES_MAX}"));
        return None;
    }
    Some(text.to_owned())
}

/// Keys that change what a backend gets, in a route that leads to none.
fn without_service(fields: &Fields<'_>, sink: &mut Sink<'_>) {
    for name in ["strip_prefix", "add_prefix", "host_header", "request"] {
        if let Some(node) = fields.get(name) {
            let message = format!("`{name}` means nothing here: no backend gets the request");
            node.error(sink, message, "remove it; `response` changes the answer");
        }
    }
}
