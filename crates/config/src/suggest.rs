//! What was meant by a word that is not known.

use crate::fields::Node;
use crate::problem::{Sink, shown};
use crate::schema::{KEYS, SYNONYMS, Section, WORD_SYNONYMS};

/// What to say of a key that is not known.
pub(crate) enum Suggestion {
    /// This one, in the same section.
    Name(&'static str),
    /// This one, in other sections.
    Elsewhere(&'static str, String),
    /// How long a connect may take, which is not among the timeouts.
    ConnectTimeout,
    /// A port that has no key of its own.
    Port,
    /// A secret, which is never written in the file.
    Secret,
    /// A key for cookies, which is one too.
    CookieKey,
    None,
}

pub(crate) fn suggestion(section: Section, key: &str) -> Suggestion {
    let synonyms = || {
        let meant = SYNONYMS
            .iter()
            .filter(|(theirs, _)| key.eq_ignore_ascii_case(theirs));
        meant.map(|(_, ours)| *ours)
    };
    let synonym = synonyms().next();
    let names = || section.keys().map(|key| key.name);
    if let Some(name) = synonyms().find(|name| names().any(|known| known == *name)) {
        return Suggestion::Name(name);
    }
    let connect = ["connect", "connect_timeout", "timeout_connect"];
    let times = matches!(section, Section::Timeouts | Section::HttpTimeouts);
    if times && connect.contains(&key) {
        return Suggestion::ConnectTimeout;
    }
    if key == "port" && matches!(section, Section::Backend | Section::Listen) {
        return Suggestion::Port;
    }
    let secret = ["user", "username", "password", "auth", "token"];
    if matches!(section, Section::Check | Section::Credentials) && secret.contains(&key) {
        return Suggestion::Secret;
    }
    if section == Section::HttpPersistence && ["key", "secret", "previous_key"].contains(&key) {
        return Suggestion::CookieKey;
    }
    let elsewhere = |name: &str| {
        let titles: Vec<_> = Section::ALL
            .into_iter()
            .filter(|other| *other != section && other.key(name).is_some())
            .map(Section::title)
            .collect();
        titles.join(" or ")
    };
    // All limits are plural, and so are `services`, `pools` and `timeouts`; the singular is a slip, whatever it means elsewhere.
    if matches!(section, Section::Limits | Section::Root | Section::Http)
        && let Some(name) = names().find(|name| name.strip_suffix('s') == Some(key))
    {
        return Suggestion::Name(name);
    }
    let exact = KEYS.iter().find(|known| known.name == key);
    // What other programs call something of ours is more likely meant than our own word of that name elsewhere.
    if let Some(known) = exact.filter(|_| synonym.is_none()) {
        return Suggestion::Elsewhere(known.name, elsewhere(known.name));
    }
    if let Some(name) = nearest(key, names()) {
        return Suggestion::Name(name);
    }
    match synonym {
        Some(name) => Suggestion::Elsewhere(name, elsewhere(name)),
        None => Suggestion::None,
    }
}

/// The candidate that `word` is a slip of, if there is one.
pub(crate) fn nearest<'a>(
    word: &str,
    candidates: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    let length = word.chars().count();
    if length > 64 {
        return None;
    }
    let word = word.to_lowercase();
    let distance = |candidate: &str| {
        let candidate = candidate.to_lowercase();
        let shorter = length.min(candidate.len());
        let distance = strsim::osa_distance(&word, &candidate);
        let extended =
            shorter >= 3 && (word.starts_with(&candidate) || candidate.starts_with(&word));
        let close = distance <= (shorter / 3).max(1) || extended;
        // Of equals the one with the same first letter: `wr` is `wrr` and not `rr`.
        close.then(|| (distance, word.chars().next() != candidate.chars().next()))
    };
    candidates
        .filter_map(|candidate| Some((distance(candidate)?, candidate)))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

pub(crate) fn unknown_word(
    node: &Node<'_>,
    what: &str,
    text: &str,
    words: &[&str],
    sink: &mut Sink<'_>,
) {
    unknown_word_or(node, what, text, words, "", sink);
}

/// The same where something else is possible `besides` the words.
pub(crate) fn unknown_word_or(
    node: &Node<'_>,
    what: &str,
    text: &str,
    words: &[&str],
    besides: &str,
    sink: &mut Sink<'_>,
) {
    let mut message = format!("unknown {what} {}", shown(text));
    let synonym = WORD_SYNONYMS
        .iter()
        .find(|(theirs, ours)| text.eq_ignore_ascii_case(theirs) && words.contains(ours))
        .map(|(_, ours)| *ours);
    if let Some(word) = synonym.or_else(|| nearest(text, words.iter().copied())) {
        message.push_str(&format!("; did you mean `{word}`?"));
    }
    let known: Vec<_> = words.iter().map(|word| format!("`\"{word}\"`")).collect();
    node.error(
        sink,
        message,
        format!("one of {}{besides}", known.join(", ")),
    );
}
