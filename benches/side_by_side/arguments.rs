//! What was asked for on the command line.

use std::path::PathBuf;

use crate::peers::Kind;
use crate::works::Work;

/// What `--help` prints, and what follows a mistake.
pub(crate) const USAGE: &str = "\
cargo bench --bench side_by_side -- [options]
  --works A,B,..   only these, in this order (default: small,connection,bulk,idle,relay-memory,client-memory)
  --http           the http-... ones
  --all            all of them; the growth-... ones take minutes each
  --peers A,B,..   only these of evenkeel, haproxy and nginx
  --rounds N       each peer is measured this often, interleaved; medians are shown (default 3, or ROUNDS)
  --seconds N      of load each time (default 3, or SECONDS_EACH)
  --json FILE      write every round, and what machine it was
  --plot FILE.svg  draw it
Works: small connection bulk idle relay-memory client-memory
       http-small http-16k http-1m http-connection http-cht http-client-memory
       growth-workers growth-backends growth-idle growth-reload";

/// What to measure, how long, and where the results go.
#[derive(Debug)]
pub(crate) struct Arguments {
    pub(crate) works: Vec<Work>,
    pub(crate) peers: Vec<Kind>,
    pub(crate) rounds: u32,
    pub(crate) seconds: u32,
    pub(crate) json: Option<PathBuf>,
    pub(crate) plot: Option<PathBuf>,
}

impl Arguments {
    /// Parses arguments, without the program's name. What `cargo bench` adds is passed over. `Ok(None)`: help was asked for.
    pub(crate) fn parse(arguments: impl Iterator<Item = String>) -> Result<Option<Self>, String> {
        let mut parsed = Self {
            works: Work::USUAL.to_vec(),
            peers: Kind::ALL.to_vec(),
            rounds: number("ROUNDS", std::env::var("ROUNDS").ok(), 3)?,
            seconds: number("SECONDS_EACH", std::env::var("SECONDS_EACH").ok(), 3)?,
            json: None,
            plot: None,
        };
        let mut arguments = arguments.flat_map(|argument| match argument.split_once('=') {
            Some((name, value)) if name.starts_with("--") => {
                vec![name.to_owned(), value.to_owned()]
            }
            _ => vec![argument],
        });
        while let Some(argument) = arguments.next() {
            let mut value = || {
                arguments
                    .next()
                    .ok_or_else(|| format!("{argument} wants a value"))
            };
            match argument.as_str() {
                "--bench" => {}
                "--help" | "-h" => return Ok(None),
                "--all" => parsed.works = Work::ALL.to_vec(),
                "--http" => parsed.works = Work::HTTP.to_vec(),
                "--peers" => {
                    let peer = |name: &str| {
                        Kind::named(name).ok_or_else(|| format!("there is no peer called `{name}`"))
                    };
                    parsed.peers = value()?.split(',').map(peer).collect::<Result<_, _>>()?;
                }
                "--works" => {
                    let work = |name: &str| {
                        Work::named(name).ok_or_else(|| format!("there is no work called `{name}`"))
                    };
                    parsed.works = value()?.split(',').map(work).collect::<Result<_, _>>()?;
                }
                "--rounds" => parsed.rounds = number("--rounds", Some(value()?), 0)?,
                "--seconds" => parsed.seconds = number("--seconds", Some(value()?), 0)?,
                "--json" => parsed.json = Some(value()?.into()),
                "--plot" => parsed.plot = Some(value()?.into()),
                other => return Err(format!("`{other}` is no option")),
            }
        }
        Ok(Some(parsed))
    }
}

fn number(name: &str, text: Option<String>, default: u32) -> Result<u32, String> {
    match text {
        None => Ok(default),
        Some(text) => match text.parse() {
            Ok(number) if number > 0 => Ok(number),
            _ => Err(format!("{name} wants a number from 1, not `{text}`")),
        },
    }
}
