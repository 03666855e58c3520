//! Routes, compiled: tables by host, in each tables by path.

use std::collections::HashMap;

use evenkeel_plan::http::{
    ActionSpec, HeaderValueMatch, HostPattern, Method, PathMatch, ROUTES_MAX, RouteSpec,
};
use regex::bytes::{Regex, RegexBuilder, RegexSet, RegexSetBuilder};

use super::path;

/// Longest regular expression in bytes.
pub const REGEX_BYTES_MAX: usize = 1_024;

/// Most memory of one compiled regular expression, in bytes.
const REGEX_SIZE_MAX: usize = 1 << 20;

/// From so many regular expressions in a table on, one look at all of them comes first.
const REGEX_SET_MIN: usize = 3;

/// Why routes cannot be compiled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("failed to compile route {route}")]
pub struct CompileError {
    /// Index of the route.
    pub route: usize,
    /// What is wrong with it.
    #[source]
    pub kind: CompileErrorKind,
}

/// What is wrong with a route.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompileErrorKind {
    /// Beyond [`ROUTES_MAX`].
    #[error("there are more than {ROUTES_MAX} routes")]
    TooMany,
    /// An exact path that no request has.
    #[error("no request that is served has this path: {0}")]
    Path(super::Refusal),
    /// A regular expression that is none, or is too large.
    #[error("the regular expression is not valid: {0}")]
    Regex(String),
    /// The same requests as an earlier route, so that it is never taken.
    #[error("route {0} takes all of its requests")]
    Shadowed(usize),
}

/// Routes of a listener, ready to be asked. Never changed.
#[derive(Debug)]
pub struct Router {
    pub(super) routes: Vec<Conditions>,
    pub(super) hosts: HashMap<Box<[u8]>, Table>,
    pub(super) wildcards: HashMap<Box<[u8]>, Table>,
    pub(super) any_host: Table,
    /// Longest name among the wildcards, in bytes.
    pub(super) wildcard_bytes_max: usize,
    /// Whether the path of a request changes anything: it chooses a route, or is rewritten.
    pub(super) paths_matter: bool,
}

/// What a route says beside host and path, and for `explain` these too.
#[derive(Debug)]
pub(super) struct Conditions {
    pub(super) hosts: Vec<HostPattern>,
    pub(super) path: Option<PathCondition>,
    /// Order among equal hosts and paths: lower first.
    pub(super) rank: (bool, std::cmp::Reverse<usize>, usize),
    /// Place of a regular expression among the others: that of the first route that has it.
    pub(super) regex_place: usize,
    methods: Vec<Method>,
    fields: Vec<FieldCondition>,
}

#[derive(Debug)]
pub(super) enum PathCondition {
    Exact(Box<[u8]>),
    Prefix(Box<[u8]>),
    Regex(Regex),
}

#[derive(Debug)]
struct FieldCondition {
    name: Box<[u8]>,
    value: ValueCondition,
}

#[derive(Debug)]
enum ValueCondition {
    Present,
    Equals(Box<[u8]>),
    Regex(Regex),
}

/// Routes of one host: indices of [`Router::routes`] by path, in their order.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) exact: HashMap<Box<[u8]>, Vec<u32>>,
    pub(super) regexes: Vec<RegexEntry>,
    pub(super) regex_set: Option<RegexSet>,
    /// By prefix without a slash at its end; `/` is empty.
    pub(super) prefixes: HashMap<Box<[u8]>, Vec<u32>>,
    /// Most segments of a prefix.
    pub(super) segments_max: usize,
    pub(super) any_path: Vec<u32>,
}

#[derive(Debug)]
pub(super) struct RegexEntry {
    /// [`Conditions::regex_place`], the same for all of `routes`.
    place: usize,
    pub(super) regex: Regex,
    pub(super) routes: Vec<u32>,
}

impl Router {
    /// Compiles `routes`; what a request takes is an index into them.
    ///
    /// # Errors
    /// All that is wrong, each with its route.
    pub fn new(routes: &[RouteSpec]) -> Result<Self, Vec<CompileError>> {
        let mut errors = Vec::new();
        if routes.len() > ROUTES_MAX {
            let (route, kind) = (ROUTES_MAX, CompileErrorKind::TooMany);
            return Err(vec![CompileError { route, kind }]);
        }
        let mut compiled = Vec::with_capacity(routes.len());
        let mut places: HashMap<&str, usize> = HashMap::new();
        for (index, route) in routes.iter().enumerate() {
            let place = match &route.path {
                Some(PathMatch::Regex(text)) => *places.entry(text).or_insert(index),
                _ => 0,
            };
            match Conditions::new(index, place, route) {
                Ok(conditions) => compiled.push(conditions),
                Err(kind) => errors.push(CompileError { route: index, kind }),
            }
        }
        errors.extend(shadowed(routes));
        if !errors.is_empty() {
            errors.sort_by_key(|error| error.route);
            return Err(errors);
        }
        let mut router = Self {
            routes: compiled,
            hosts: HashMap::new(),
            wildcards: HashMap::new(),
            any_host: Table::default(),
            wildcard_bytes_max: 0,
            paths_matter: routes.iter().any(path_matters),
        };
        router.fill();
        Ok(router)
    }

    fn fill(&mut self) {
        let mut order: Vec<usize> = (0..self.routes.len()).collect();
        order.sort_by_key(|index| self.routes[*index].rank);
        for index in order {
            let conditions = &self.routes[index];
            if conditions.hosts.is_empty() {
                self.any_host.add(index, conditions);
            }
            for host in &conditions.hosts {
                let name = host.name().as_bytes();
                let tables = if host.is_wildcard() {
                    self.wildcard_bytes_max = self.wildcard_bytes_max.max(name.len());
                    &mut self.wildcards
                } else {
                    &mut self.hosts
                };
                tables
                    .entry(name.into())
                    .or_default()
                    .add(index, conditions);
            }
        }
        let tables = self.hosts.values_mut().chain(self.wildcards.values_mut());
        for table in tables.chain([&mut self.any_host]) {
            table.finish();
        }
    }

    /// How many routes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.routes.len()
    }

    /// Whether there are none, so that no request has a route.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }
}

impl Table {
    fn add(&mut self, index: usize, conditions: &Conditions) {
        let number = u32::try_from(index).expect("there are at most ROUTES_MAX routes");
        let list = match &conditions.path {
            None => &mut self.any_path,
            Some(PathCondition::Exact(path)) => self.exact.entry(path.clone()).or_default(),
            Some(PathCondition::Prefix(prefix)) => {
                let segments = prefix.iter().filter(|byte| **byte == b'/').count();
                self.segments_max = self.segments_max.max(segments);
                self.prefixes.entry(prefix.clone()).or_default()
            }
            Some(PathCondition::Regex(compiled)) => {
                let place = conditions.regex_place;
                let known = self.regexes.iter().position(|entry| entry.place == place);
                let at = known.unwrap_or_else(|| {
                    self.regexes.push(RegexEntry {
                        place,
                        regex: compiled.clone(),
                        routes: Vec::new(),
                    });
                    self.regexes.len() - 1
                });
                &mut self.regexes[at].routes
            }
        };
        // The same host may stand twice in a route.
        if list.last() != Some(&number) {
            list.push(number);
        }
    }

    fn finish(&mut self) {
        self.regexes.sort_by_key(|entry| entry.place);
        if self.regexes.len() >= REGEX_SET_MIN {
            let texts = self.regexes.iter().map(|entry| entry.regex.as_str());
            // Only to say "none of them" faster: where it would be too large, each is asked.
            self.regex_set = RegexSetBuilder::new(texts)
                .size_limit(16 * REGEX_SIZE_MAX)
                .build()
                .ok();
        }
    }
}

impl Conditions {
    fn new(index: usize, regex_place: usize, route: &RouteSpec) -> Result<Self, CompileErrorKind> {
        let path = match &route.path {
            None => None,
            Some(PathMatch::Exact(text)) => {
                let normal = path::normal(text.as_bytes()).map_err(CompileErrorKind::Path)?;
                Some(PathCondition::Exact(normal.path.into()))
            }
            Some(PathMatch::Prefix(prefix)) => {
                let text = prefix.as_str().strip_suffix('/').unwrap_or(prefix.as_str());
                Some(PathCondition::Prefix(text.as_bytes().into()))
            }
            Some(PathMatch::Regex(text)) => Some(PathCondition::Regex(compile(text)?)),
        };
        let mut fields = Vec::with_capacity(route.headers.len());
        for header in &route.headers {
            let value = match &header.value {
                HeaderValueMatch::Present => ValueCondition::Present,
                HeaderValueMatch::Equals(text) => ValueCondition::Equals(text.as_bytes().into()),
                HeaderValueMatch::Regex(text) => ValueCondition::Regex(compile(text)?),
            };
            let name = header.name.as_str().as_bytes().into();
            fields.push(FieldCondition { name, value });
        }
        Ok(Self {
            hosts: route.hosts.clone(),
            path,
            rank: (
                route.methods.is_empty(),
                std::cmp::Reverse(fields.len()),
                index,
            ),
            regex_place,
            methods: route.methods.clone(),
            fields,
        })
    }

    pub(super) fn allows_method(&self, method: &[u8]) -> bool {
        let is = |allowed: &Method| allowed.as_str().as_bytes() == method;
        self.methods.is_empty() || self.methods.iter().any(is)
    }

    /// The name of the first condition on a field that `fields` do not meet.
    pub(super) fn unmet_field<'a, F>(&self, fields: &F) -> Option<&[u8]>
    where
        F: Iterator<Item = (&'a [u8], &'a [u8])> + Clone,
    {
        let unmet = |condition: &&FieldCondition| !condition.is_met(fields);
        self.fields.iter().find(unmet).map(|unmet| &*unmet.name)
    }
}

impl FieldCondition {
    fn is_met<'a, F>(&self, fields: &F) -> bool
    where
        F: Iterator<Item = (&'a [u8], &'a [u8])> + Clone,
    {
        let mut lines = fields
            .clone()
            .filter(|(name, _)| name.eq_ignore_ascii_case(&self.name))
            .map(|(_, value)| value);
        let Some(first) = lines.next() else {
            return false;
        };
        let fits = |value: &[u8]| match &self.value {
            ValueCondition::Present => true,
            ValueCondition::Equals(wanted) => **wanted == *value,
            ValueCondition::Regex(regex) => regex.is_match(value),
        };
        let Some(second) = lines.next() else {
            return fits(first);
        };
        // Several lines are one list: who hides a line behind another meets no condition with it.
        let mut joined = first.to_vec();
        for value in std::iter::once(second).chain(lines) {
            joined.extend_from_slice(b", ");
            joined.extend_from_slice(value);
        }
        fits(&joined)
    }
}

fn path_matters(route: &RouteSpec) -> bool {
    let chooses = match &route.path {
        None => false,
        Some(PathMatch::Prefix(prefix)) => prefix.as_str() != "/",
        Some(PathMatch::Exact(_) | PathMatch::Regex(_)) => true,
    };
    let rewrites = matches!(route.action, ActionSpec::Service(_))
        && (route.transform.strip_prefix.is_some() || route.transform.add_prefix.is_some());
    chooses || rewrites
}

fn anchored(text: &str) -> String {
    format!(r"\A(?:{text})\z")
}

fn compile(text: &str) -> Result<Regex, CompileErrorKind> {
    if text.len() > REGEX_BYTES_MAX {
        let words = format!("it has more than {REGEX_BYTES_MAX} bytes");
        return Err(CompileErrorKind::Regex(words));
    }
    let build = |text: &str| {
        RegexBuilder::new(text)
            .size_limit(REGEX_SIZE_MAX)
            .build()
            .map_err(|error| CompileErrorKind::Regex(error.to_string()))
    };
    // Alone first: `a)|(?:b` is valid only between our anchors, and would undo them.
    build(text)?;
    build(&anchored(text))
}

/// Routes whose conditions an earlier one has too, word for word.
fn shadowed(routes: &[RouteSpec]) -> Vec<CompileError> {
    let mut seen: HashMap<String, usize> = HashMap::new();
    let mut errors = Vec::new();
    for (index, route) in routes.iter().enumerate() {
        let mut methods: Vec<&str> = route.methods.iter().map(Method::as_str).collect();
        methods.sort_unstable();
        let mut headers: Vec<String> = route
            .headers
            .iter()
            .map(|header| {
                let name = header.name.as_str().to_ascii_lowercase();
                format!("{name:?} {:?}", header.value)
            })
            .collect();
        headers.sort_unstable();
        let mut hosts: Vec<Option<&HostPattern>> = route.hosts.iter().map(Some).collect();
        if hosts.is_empty() {
            hosts.push(None);
        }
        let mut first = None;
        let mut is_new = false;
        for host in hosts {
            let key = format!("{host:?} {:?} {methods:?} {headers:?}", route.path);
            match seen.get(&key) {
                Some(earlier) => first = first.or(Some(*earlier)),
                None => {
                    is_new = true;
                    seen.insert(key, index);
                }
            }
        }
        if let (Some(earlier), false) = (first, is_new) {
            let kind = CompileErrorKind::Shadowed(earlier);
            errors.push(CompileError { route: index, kind });
        }
    }
    errors
}
