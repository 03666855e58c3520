//! Why we answer ourselves: status and words of each cause.

/// Why a request gets an answer of our own. Closed on purpose: every cause says its status and its words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The request is malformed, or can be understood in two ways.
    Malformed,
    /// The path can be read in two ways that lead to different places.
    AmbiguousPath,
    /// A route or limit forbids it.
    Forbidden,
    /// No route takes it.
    NoRoute,
    /// The head did not come in time.
    HeadTimeout,
    /// The body did not come in time.
    BodyTimeout,
    /// A body without a length where one is needed.
    LengthRequired,
    /// The body is larger than allowed.
    BodyTooLarge,
    /// The target is longer than allowed.
    UriTooLong,
    /// An expectation other than `100-continue`.
    ExpectationFailed,
    /// The host belongs to another listener or certificate.
    Misdirected,
    /// The source asks too often.
    TooManyRequests,
    /// The head is larger, or has more fields, than allowed.
    HeadTooLarge,
    /// A fault of ours.
    Internal,
    /// A method or coding that is not served.
    NotImplemented,
    /// No backend could be connected to.
    ConnectFailed,
    /// The backend closed the connection before its answer was whole.
    BackendClosed,
    /// The backend's answer is malformed.
    BackendMalformed,
    /// The backend's head is too large.
    BackendHeadTooLarge,
    /// No backend is eligible.
    NoBackend,
    /// As many requests are served, or wait, as may.
    Overloaded,
    /// It waited for a backend for too long.
    QueueTimeout,
    /// The daemon is about to end.
    Draining,
    /// The backend did not answer in time.
    BackendTimeout,
    /// A version of HTTP that is not served.
    Version,
}

impl Cause {
    /// Every cause.
    pub const ALL: [Self; 25] = [
        Self::Malformed,
        Self::AmbiguousPath,
        Self::Forbidden,
        Self::NoRoute,
        Self::HeadTimeout,
        Self::BodyTimeout,
        Self::LengthRequired,
        Self::BodyTooLarge,
        Self::UriTooLong,
        Self::ExpectationFailed,
        Self::Misdirected,
        Self::TooManyRequests,
        Self::HeadTooLarge,
        Self::Internal,
        Self::NotImplemented,
        Self::ConnectFailed,
        Self::BackendClosed,
        Self::BackendMalformed,
        Self::BackendHeadTooLarge,
        Self::NoBackend,
        Self::Overloaded,
        Self::QueueTimeout,
        Self::Draining,
        Self::BackendTimeout,
        Self::Version,
    ];

    /// The status, RFC 9110 section 15; 429 and 431: RFC 6585.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::Malformed | Self::AmbiguousPath => 400,
            Self::Forbidden => 403,
            Self::NoRoute => 404,
            Self::HeadTimeout | Self::BodyTimeout => 408,
            Self::LengthRequired => 411,
            Self::BodyTooLarge => 413,
            Self::UriTooLong => 414,
            Self::ExpectationFailed => 417,
            Self::Misdirected => 421,
            Self::TooManyRequests => 429,
            Self::HeadTooLarge => 431,
            Self::Internal => 500,
            Self::NotImplemented => 501,
            Self::BackendClosed | Self::BackendMalformed | Self::BackendHeadTooLarge => 502,
            Self::ConnectFailed
            | Self::NoBackend
            | Self::Overloaded
            | Self::QueueTimeout
            | Self::Draining => 503,
            Self::BackendTimeout => 504,
            Self::Version => 505,
        }
    }

    /// Why, for a person. Stable, in English, without what a client sent and without a backend's name.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Malformed => "the request is malformed",
            Self::AmbiguousPath => "the path can be read in more than one way",
            Self::Forbidden => "the request is not allowed",
            Self::NoRoute => "nothing is served under this address",
            Self::HeadTimeout => "the request's head did not arrive in time",
            Self::BodyTimeout => "the request's body did not arrive in time",
            Self::LengthRequired => "the request needs a length",
            Self::BodyTooLarge => "the request's body is too large",
            Self::UriTooLong => "the request's address is too long",
            Self::ExpectationFailed => "the request expects what is not served",
            Self::Misdirected => "this host is not served on this connection",
            Self::TooManyRequests => "too many requests, try again later",
            Self::HeadTooLarge => "the request's head is too large",
            Self::Internal => "an internal error",
            Self::NotImplemented => "the request asks for what is not implemented",
            Self::ConnectFailed => "no backend could be reached",
            Self::BackendClosed => "the backend closed the connection without a whole answer",
            Self::BackendMalformed => "the backend's answer is malformed",
            Self::BackendHeadTooLarge => "the head of the backend's answer is too large",
            Self::NoBackend => "no backend is available",
            Self::Overloaded => "all backends are busy, try again later",
            Self::QueueTimeout => "no backend became free in time",
            Self::Draining => "the service is about to stop",
            Self::BackendTimeout => "the backend did not answer in time",
            Self::Version => "this version of HTTP is not served",
        }
    }
}

/// The words of a status, RFC 9110 section 15; `Unknown` for others.
#[must_use]
pub fn status_title(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        205 => "Reset Content",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        418 => "I'm a teapot",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        425 => "Too Early",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        451 => "Unavailable For Legal Reasons",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        511 => "Network Authentication Required",
        _ => "Unknown",
    }
}
