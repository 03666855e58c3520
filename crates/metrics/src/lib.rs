//! Metrics: the table, the exposition, the endpoint.
#![forbid(unsafe_code)]

mod exposition;
mod scrape;
mod server;
pub mod table;

pub use scrape::scrape;
pub use server::{CONNECTIONS_MAX, Pages, serve};
pub use table::reference_markdown;
