//! Answers of our own.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::text::{FieldName, FieldValue};

/// Largest page in bytes.
pub const PAGE_BYTES_MAX: usize = 65_536;

/// Form of an answer of our own.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub enum AnswerFormat {
    /// `application/json`: an object with `error`, `reason` and `server`.
    #[default]
    Json,
    /// `text/html`: a page with the status line as its title.
    Html,
    /// `text/plain`: two lines.
    Text,
}

impl AnswerFormat {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Json, Self::Html, Self::Text];

    /// The type that `Accept` names.
    #[must_use]
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Html => "text/html",
            Self::Text => "text/plain",
        }
    }
}

/// How a listener words answers of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnswersSpec {
    /// Form for clients that want none or several equally. Default `Json`.
    pub default: AnswerFormat,
    /// What answers say of who answers. Default `evenkeel`.
    pub server: String,
    /// Pages in place of the built-in ones; the first that matches status and form counts.
    pub pages: Vec<AnswerPageSpec>,
    /// `Retry-After` of 429 and 503 where nothing better is known, whole seconds, 1 s..=1 day; `None` = left out. Default 5 s.
    pub retry_after: Option<Duration>,
    /// A field that says backend, phase, error and attempt; `None` = none. Default `None`.
    pub error_field: Option<FieldName>,
}

/// A page in place of a built-in one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnswerPageSpec {
    /// For these; empty = all.
    pub statuses: Vec<u16>,
    /// For this form.
    pub format: AnswerFormat,
    /// Content-Type; `None` = the form's.
    pub content_type: Option<FieldValue>,
    /// The body, with `{status}`, `{title}`, `{reason}`, `{server}` and `{request_id}`, escaped as the form wants it; other braces
    /// stand for themselves. At most [`PAGE_BYTES_MAX`] bytes.
    pub body: String,
}

impl Default for AnswersSpec {
    fn default() -> Self {
        Self {
            default: AnswerFormat::default(),
            server: "evenkeel".to_owned(),
            pages: Vec::new(),
            retry_after: Some(Duration::from_secs(5)),
            error_field: None,
        }
    }
}
