//! The embedded demo configuration.

use std::net::SocketAddr;

/// The demo configuration, `config/demo.toml`.
pub const DEMO: &str = include_str!("../../../config/demo.toml");

/// Lines that [`demo`] replaces stand between these two.
const BACKENDS_BEGIN: &str = "backends = [\n";
const BACKENDS_END: &str = "]\n";

/// The demo configuration with `backends` in place of its three.
#[must_use]
pub fn demo(backends: &[SocketAddr]) -> String {
    let cut = DEMO
        .split_once(BACKENDS_BEGIN)
        .and_then(|(head, rest)| Some((head, rest.split_once(BACKENDS_END)?.1)));
    let (head, tail) = cut.unwrap_or_else(|| unreachable!("the demo has a list of backends"));
    let lines: String = backends
        .iter()
        .enumerate()
        .map(|(index, address)| {
            format!(
                "  {{ name = \"b{}\", address = \"{address}\" }},\n",
                index + 1
            )
        })
        .collect();
    format!("{head}{BACKENDS_BEGIN}{lines}{BACKENDS_END}{tail}")
}
