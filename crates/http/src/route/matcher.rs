//! Asking the tables.

use super::host::{HostBuffer, normal_host};
use super::path::{self, Readings};
use super::table::{Router, Table};
use super::{Refusal, Request};

/// Most segments of a prefix (`PathPrefix` of the plan allows 16), and one for `/`.
const PREFIXES_MAX: usize = 17;

impl Router {
    /// The route that `request` takes, as an index into the routes that the router was made of; `None` = 404.
    ///
    /// # Errors
    /// [`Refusal`] = 400.
    pub fn route<'a, F>(&self, request: &Request<'a, F>) -> Result<Option<usize>, Refusal>
    where
        F: Iterator<Item = (&'a [u8], &'a [u8])> + Clone,
    {
        if self.is_empty() {
            return Ok(None);
        }
        let mut buffer = HostBuffer::new();
        let host = match request.host {
            Some(raw) => normal_host(raw, &mut buffer)?,
            None => None,
        };
        if !self.paths_matter {
            // Where nobody looks at the path, no reading of it leads elsewhere.
            return Ok(self.find(host, request.path, request));
        }
        let normal = path::normal(request.path)?;
        let route = self.find(host, &normal.path, request);
        if normal.has_readings {
            let mut readings = Readings::new(request.path)?;
            while let Some(reading) = readings.next()? {
                if self.find(host, reading, request) != route {
                    return Err(Refusal::Ambiguous);
                }
            }
        }
        Ok(route)
    }

    /// The most specific route for a host and path in their normal forms.
    pub(super) fn find<'a, F>(
        &self,
        host: Option<&[u8]>,
        path: &[u8],
        request: &Request<'a, F>,
    ) -> Option<usize>
    where
        F: Iterator<Item = (&'a [u8], &'a [u8])> + Clone,
    {
        let fits = |list: &Vec<u32>| {
            list.iter().map(|index| *index as usize).find(|index| {
                let conditions = &self.routes[*index];
                conditions.allows_method(request.method)
                    && conditions.unmet_field(&request.fields).is_none()
            })
        };
        if let Some(host) = host {
            if let Some(table) = self.hosts.get(host)
                && let Some(route) = table.find(path, fits)
            {
                return Some(route);
            }
            if let Some(route) = self.find_wildcard(host, |table| table.find(path, fits)) {
                return Some(route);
            }
        }
        self.any_host.find(path, fits)
    }

    /// Asks the tables of the wildcards that `host` is under, the longest first.
    fn find_wildcard(&self, host: &[u8], ask: impl Fn(&Table) -> Option<usize>) -> Option<usize> {
        if self.wildcards.is_empty() {
            return None;
        }
        let mut rest = host;
        while let Some(dot) = rest.iter().position(|byte| *byte == b'.') {
            rest = rest.get(dot + 1..)?;
            if rest.len() <= self.wildcard_bytes_max
                && let Some(table) = self.wildcards.get(rest)
                && let Some(route) = ask(table)
            {
                return Some(route);
            }
        }
        None
    }
}

impl Table {
    /// The first list, in the order of paths, from which `fits` takes a route.
    fn find(&self, path: &[u8], fits: impl Fn(&Vec<u32>) -> Option<usize>) -> Option<usize> {
        if !self.exact.is_empty()
            && let Some(list) = self.exact.get(path)
            && let Some(route) = fits(list)
        {
            return Some(route);
        }
        let may_match = |set: &regex::bytes::RegexSet| set.is_match(path);
        if self.regex_set.as_ref().is_none_or(may_match) {
            for entry in &self.regexes {
                if entry.regex.is_match(path)
                    && let Some(route) = fits(&entry.routes)
                {
                    return Some(route);
                }
            }
        }
        if !self.prefixes.is_empty()
            && path.first() == Some(&b'/')
            && let Some(route) = self.find_prefix(path, &fits)
        {
            return Some(route);
        }
        fits(&self.any_path)
    }

    fn find_prefix(&self, path: &[u8], fits: impl Fn(&Vec<u32>) -> Option<usize>) -> Option<usize> {
        // Where segments end, as far as there are prefixes of so many.
        let mut ends = [0; PREFIXES_MAX];
        let mut number = 0;
        let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        let all = slashes
            .map(|(at, _)| at)
            .chain([path.len()])
            .take(self.segments_max + 1);
        for (end, at) in ends.iter_mut().zip(all) {
            *end = at;
            number += 1;
        }
        let longest_first = ends.get(..number)?.iter().rev();
        longest_first
            .filter_map(|end| self.prefixes.get(path.get(..*end)?))
            .find_map(fits)
    }
}
