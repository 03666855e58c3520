//! Which route a request takes, and why.
//!
//! # Order
//!
//! The most specific route that a request fits is taken. Routes are compared by these, the first difference decides:
//!
//! 1. host: a name, then the wildcard with the longest name, then any;
//! 2. path: exact, then regular expression (in the order of the file), then the longest prefix, then any;
//! 3. method: some, then any;
//! 4. fields: more conditions before fewer;
//! 5. the order of the file.
//!
//! When no route for the request's very host fits, those of wildcards are asked, then those for any host. This is the order of
//! the Kubernetes Gateway API, which leaves the place of regular expressions open: they stand where nginx has them. A regular
//! expression thus takes requests from prefixes that are longer than what it says; `explain` shows it.
//!
//! # What a path is compared as
//!
//! The danger is a path in which the router sees one thing and the backend another: `/public/..%2fadmin`. The path
//! goes to the backend as the client wrote it, so:
//!
//! * Codes of letters, digits and `-._~` are decoded, other codes get capital letters: both spellings are the same path for
//!   everybody (RFC 3986 section 6.2.2). The result is what routes are compared with.
//! * Refused are incomplete codes, NUL, control bytes, and segments `.` and `..`, plain or encoded: clients resolve these before
//!   they ask.
//! * Paths that backends read in different ways (`//`, `%2F`, `\`, `;x=y`, `%3F`, codes of codes, overlong UTF-8) are routed in every one of these
//!   ways ([`path::Readings`]). When all take the same route, the request goes there; when not, it is refused as ambiguous.
//!
//! So nobody reaches a backend on a route that his path, as that backend may read it, does not take. Where no route looks at paths
//! and none rewrites them, the readings are not gone through.
//!
//! What is not covered: backends that ignore case, or a slash at the end (routes for such use prefixes), and backends that
//! take a method from a field (`X-HTTP-Method-Override`; remove it where a route goes by method).

mod edits;
mod explain;
mod host;
mod matcher;
pub mod path;
mod redirect;
mod rewrite;
mod table;

pub use edits::Edits;
pub use explain::{Candidate, Explanation, Reading, Verdict};
pub use host::{HOST_BYTES_MAX, HostBuffer, normal_host};
pub use redirect::{Redirect, RedirectInput};
pub use rewrite::rewrite_path;
pub use table::{CompileError, CompileErrorKind, REGEX_BYTES_MAX, Router};

/// What of a request decides its route.
///
/// `fields` are the head's, in order, as often as they come; the iterator is cloned for each condition on a field.
#[derive(Clone, Debug)]
pub struct Request<'a, F> {
    /// The authority: the target's in absolute form, else the value of `Host`; with or without port.
    pub host: Option<&'a [u8]>,
    /// The target's path, without query, or `*`.
    pub path: &'a [u8],
    /// The method.
    pub method: &'a [u8],
    /// Name and value of each field.
    pub fields: F,
}

/// Why a request has no route and gets none: 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The host is no name and no address.
    #[error("the host is malformed")]
    Host,
    /// The path does not start with `/` and is not `*`.
    #[error("the path does not start with a slash")]
    NotAbsolute,
    /// A control byte, a space, `?` or `#` in the path.
    #[error("the path has a byte that no path has")]
    Byte,
    /// A `%` without two hexadecimal digits.
    #[error("the path has an incomplete percent code")]
    Escape,
    /// A NUL, encoded.
    #[error("the path has an encoded NUL")]
    Nul,
    /// A segment `.` or `..`, in one of the ways to read the path.
    #[error("the path has a dot segment")]
    DotSegment,
    /// Two ways to read the path take two routes.
    #[error("the path can be read in two ways that take two routes")]
    Ambiguous,
    /// More ways to read the path than are tried.
    #[error("the path can be read in too many ways")]
    TooAmbiguous,
}
