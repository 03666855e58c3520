//! Why a request takes the route it takes, in words, for `evenkeel explain`.

use super::host::{HostBuffer, normal_host};
use super::path::{self, Readings};
use super::table::{Conditions, PathCondition, Router};
use super::{Refusal, Request};

/// What becomes of a request, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The same as [`Router::route`] says.
    pub outcome: Result<Option<usize>, Refusal>,
    /// The host that routes were compared with.
    pub host: Option<String>,
    /// The path that routes were compared with.
    pub path: Option<String>,
    /// Other ways to read the path, and where each leads. Empty where it can be read in one way, or where paths do not
    /// matter to the routes.
    pub readings: Vec<Reading>,
    /// All routes: those for the host in the order in which they are asked, then the others in the order of the file. Empty
    /// when the request was refused before.
    pub candidates: Vec<Candidate>,
}

/// A way to read a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The path.
    pub path: String,
    /// The route that it would take.
    pub route: Option<usize>,
}

/// A route, and what was found of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Index of the route.
    pub route: usize,
    /// What was found.
    pub verdict: Verdict,
}

/// Why a route was taken or not: the first part that does not fit, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is for other hosts.
    Host,
    /// It is for other paths.
    Path,
    /// It is for other methods.
    Method,
    /// Its condition on this field is not met.
    Field(String),
    /// It fits, and is taken.
    Taken,
    /// It fits, but this one comes first.
    After(usize),
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Host => f.write_str("is for other hosts"),
            Self::Path => f.write_str("is for other paths"),
            Self::Method => f.write_str("is for other methods"),
            Self::Field(name) => write!(f, "its condition on `{name}` is not met"),
            Self::Taken => f.write_str("fits, and is taken"),
            Self::After(_) => f.write_str("fits too, but a more specific one comes first"),
        }
    }
}

impl Router {
    /// What becomes of `request`, and why. Slow: every route is looked at.
    #[must_use]
    pub fn explain<'a, F>(&self, request: &Request<'a, F>) -> Explanation
    where
        F: Iterator<Item = (&'a [u8], &'a [u8])> + Clone,
    {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mut explanation = Explanation {
            outcome: self.route(request),
            host: None,
            path: None,
            readings: Vec::new(),
            candidates: Vec::new(),
        };
        let mut buffer = HostBuffer::new();
        let Ok(host) = normal_host(request.host.unwrap_or_default(), &mut buffer) else {
            return explanation;
        };
        explanation.host = host.map(text);
        let Ok(normal) = path::normal(request.path) else {
            return explanation;
        };
        explanation.path = Some(text(&normal.path));
        if normal.has_readings && self.paths_matter {
            explanation.readings = self.readings(host, request);
        }
        explanation.candidates = self.candidates(host, &normal.path, request);
        explanation
    }

    fn readings<'a, F>(&self, host: Option<&[u8]>, request: &Request<'a, F>) -> Vec<Reading>
    where
        F: Iterator<Item = (&'a [u8], &'a [u8])> + Clone,
    {
        let mut found: Vec<Reading> = Vec::new();
        let Ok(mut readings) = Readings::new(request.path) else {
            return found;
        };
        while let Ok(Some(path)) = readings.next() {
            let reading = Reading {
                path: String::from_utf8_lossy(path).into_owned(),
                route: self.find(host, path, request),
            };
            if !found.contains(&reading) {
                found.push(reading);
            }
        }
        found
    }

    fn candidates<'a, F>(
        &self,
        host: Option<&[u8]>,
        path: &[u8],
        request: &Request<'a, F>,
    ) -> Vec<Candidate>
    where
        F: Iterator<Item = (&'a [u8], &'a [u8])> + Clone,
    {
        let mut ranked: Vec<_> = self
            .routes
            .iter()
            .enumerate()
            .map(|(route, conditions)| (conditions.rank_for(host), route, conditions))
            .collect();
        ranked.sort_by_key(|(rank, route, _)| (rank.is_none(), *rank, *route));
        let mut taken = None;
        let mut candidates = Vec::with_capacity(ranked.len());
        for (rank, route, conditions) in ranked {
            let unmet = || conditions.unmet_field(&request.fields);
            let verdict = if rank.is_none() {
                Verdict::Host
            } else if !conditions.allows_path(path) {
                Verdict::Path
            } else if !conditions.allows_method(request.method) {
                Verdict::Method
            } else if let Some(name) = unmet() {
                Verdict::Field(String::from_utf8_lossy(name).into_owned())
            } else if let Some(taken) = taken {
                Verdict::After(taken)
            } else {
                taken = Some(route);
                Verdict::Taken
            };
            candidates.push(Candidate { route, verdict });
        }
        candidates
    }
}

/// Lower comes first: host, kind of path, place or length of it, then the rest.
type Rank = (usize, u8, usize, (bool, std::cmp::Reverse<usize>, usize));

impl Conditions {
    /// Where it stands among the routes that are asked for `host`; `None` when it is not asked.
    fn rank_for(&self, host: Option<&[u8]>) -> Option<Rank> {
        let host_rank = if self.hosts.is_empty() {
            Some(usize::MAX)
        } else {
            self.hosts
                .iter()
                .filter_map(|pattern| {
                    let (host, name) = (host?, pattern.name().as_bytes());
                    if !pattern.is_wildcard() {
                        return (host == name).then_some(0);
                    }
                    let before = host.strip_suffix(name)?;
                    // Longer names first; 0 is for names in full.
                    (before.len() > 1 && before.ends_with(b"."))
                        .then(|| usize::MAX - 1 - name.len())
                })
                .min()
        };
        let (kind, place) = match &self.path {
            Some(PathCondition::Exact(_)) => (0, 0),
            Some(PathCondition::Regex(_)) => (1, self.regex_place),
            Some(PathCondition::Prefix(prefix)) => (2, usize::MAX - prefix.len()),
            None => (3, 0),
        };
        Some((host_rank?, kind, place, self.rank))
    }

    fn allows_path(&self, path: &[u8]) -> bool {
        match &self.path {
            None => true,
            Some(PathCondition::Exact(exact)) => **exact == *path,
            Some(PathCondition::Regex(regex)) => regex.is_match(path),
            Some(PathCondition::Prefix(prefix)) => path
                .strip_prefix(&**prefix)
                .is_some_and(|rest| rest.first().is_none_or(|byte| *byte == b'/') && path != b"*"),
        }
    }
}
