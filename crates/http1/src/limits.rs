//! How much of a message is accepted.

/// Most fields that a head may have, whatever [`Limits`] say. They are split on the stack, 32 bytes each.
pub const FIELDS_MAX: usize = 256;

/// Limits of one side of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest head in bytes, from its first line to the empty one, both included. Above it: `head-long`.
    pub head_bytes: usize,
    /// Most fields in a head, at most [`FIELDS_MAX`]. Above it: `fields-many`.
    pub fields: usize,
    /// Longest request target in bytes. Above it: `target-long`.
    pub target_bytes: usize,
    /// Most bytes of extensions in one chunked body. Above it: `chunk-extensions-many`.
    pub extension_bytes: usize,
    /// Longest trailers in bytes. Above it: `trailers-long`.
    pub trailer_bytes: usize,
    /// What becomes of request fields with an underscore in their name.
    pub underscores: Underscores,
}

/// What becomes of request fields with an underscore in their name (`remove-underscore`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Underscores {
    /// They are removed, as nginx does: many servers cannot tell them from the same name with a hyphen.
    Remove,
    /// They pass, but for those of framing and connection.
    Keep,
}

impl Limits {
    /// What clients may send: 32 KiB, 100 fields, a target of 16 KiB.
    pub const REQUESTS: Self = Self {
        head_bytes: 32 * 1024,
        fields: 100,
        target_bytes: 16 * 1024,
        extension_bytes: 16 * 1024,
        trailer_bytes: 8 * 1024,
        underscores: Underscores::Remove,
    };

    /// What backends may send: 64 KiB, 200 fields.
    pub const ANSWERS: Self = Self {
        head_bytes: 64 * 1024,
        fields: 200,
        underscores: Underscores::Keep,
        ..Self::REQUESTS
    };
}

const _: () =
    assert!(Limits::ANSWERS.fields <= FIELDS_MAX && Limits::REQUESTS.fields <= FIELDS_MAX);
