//! `reload`: the changed configuration in force, or every reason why not.

use std::process::ExitCode;

use evenkeel_control::operator::Answer;

use crate::arguments::Reload;
use crate::failure::{Exit, Failure};
use crate::output::{self, Paint};
use crate::{client, runtime_dir};

/// Asks the daemon to reload and tells what came of it.
pub(crate) fn execute(reload: Reload) -> Result<ExitCode, Failure> {
    let directory = runtime_dir::choose(reload.runtime_dir.runtime_dir);
    let answer = client::block_on(async { Ok(client::reload(&directory).await?) })?;
    match answer {
        Answer::Reloaded {
            generation,
            changes,
            warnings,
        } => {
            let paint = output::paint_stdout();
            output::print(&reloaded(generation, &changes, &warnings, paint))?;
            Ok(Exit::Ok.into())
        }
        Answer::Invalid { problems, report } => {
            if report.is_empty() {
                output::eprint(&(problems.join("\n") + "\n"));
            } else {
                output::eprint(&report);
            }
            Err(Failure::new(
                Exit::Configuration,
                "the configuration has errors; the daemon goes on with what it had",
            ))
        }
        Answer::Failed { reason } => Err(Failure::new(
            Exit::Refused,
            "the configuration is valid but could not be put in force; the daemon goes on with what it had",
        )
        .cause(&Reason(reason))),
        Answer::Denied { reason } => {
            Err(Failure::new(Exit::Refused, "the daemon refused to reload").cause(&Reason(reason)))
        }
        Answer::Status(_)
        | Answer::Backend { .. }
        | Answer::Why(_)
        | Answer::Event(_)
        | Answer::EventsEnd => Err(Failure::new(
            Exit::Refused,
            "the daemon answered another question",
        )),
    }
}

fn reloaded(generation: u64, changes: &[String], warnings: &[String], paint: Paint) -> String {
    let mut text = String::new();
    for change in changes {
        text.push_str(&format!("  {change}\n"));
    }
    for warning in warnings {
        text.push_str(&format!("{} {warning}\n", paint.yellow("warning:")));
    }
    if changes.is_empty() {
        text.push_str(&format!(
            "{}: nothing changed, generation {generation} is in force\n",
            paint.green("reloaded")
        ));
    } else {
        text.push_str(&format!(
            "{}: generation {generation} is in force\n",
            paint.green("reloaded")
        ));
    }
    text
}

/// The daemon's words as a cause.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Reason(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_difference_stands_line_by_line() {
        let changes = ["+ service api".to_owned(), "- backend web/b3".to_owned()];
        let warnings = ["a.toml:3:1: weight is 0".to_owned()];
        assert_eq!(
            reloaded(4, &changes, &warnings, Paint::OFF),
            "  + service api\n  - backend web/b3\nwarning: a.toml:3:1: weight is 0\n\
             reloaded: generation 4 is in force\n"
        );
        assert_eq!(
            reloaded(4, &[], &[], Paint::OFF),
            "reloaded: nothing changed, generation 4 is in force\n"
        );
    }
}
