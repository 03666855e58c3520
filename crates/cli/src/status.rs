//! `status`: once, or until a service serves.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use evenkeel_control::operator;
use tokio::time::Instant;

use crate::arguments::Status;
use crate::check::json;
use crate::client::{self, AskError};
use crate::failure::{Exit, Failure};
use crate::{output, runtime_dir, status_screen, text};

/// Between two questions while waiting.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Shows the status, after waiting if so asked.
pub(crate) fn execute(arguments: Status) -> Result<ExitCode, Failure> {
    let Status {
        json: as_json,
        wait,
        timeout,
        runtime_dir,
    } = arguments;
    let directory = runtime_dir::choose(runtime_dir.runtime_dir);
    let waited = wait.is_some();
    let status = client::block_on(async {
        match &wait {
            None => Ok(client::status(&directory).await?),
            Some(service) => wait_for(&directory, service.as_deref(), timeout).await,
        }
    })?;
    if as_json {
        output::print(&json(&status)?)?;
    } else if waited {
        let service = wait.flatten();
        output::print(&serving_lines(&status, service.as_deref()))?;
    } else {
        let screen = status_screen::render(
            &status,
            now_unix(),
            output::paint_stdout(),
            output::columns_stdout(),
        );
        output::print(&screen)?;
    }
    Ok(Exit::Ok.into())
}

/// Unix seconds.
pub(crate) fn now_unix() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// Asks until `service` (or every one) serves. A daemon that is not there yet is waited for too.
async fn wait_for(
    directory: &Path,
    service: Option<&str>,
    timeout: Duration,
) -> Result<Box<operator::Status>, Failure> {
    let deadline = Instant::now() + timeout;
    let mut noted = false;
    let mut missing = "there was no answer yet".to_owned();
    loop {
        match tokio::time::timeout_at(deadline, client::status(directory)).await {
            Err(_) => {}
            Ok(Ok(status)) => match lacking(&status, service) {
                None => return Ok(status),
                Some(lack) => {
                    if lack.unknown_service && !noted {
                        noted = true;
                        output::eprint(&format!("note: {}; waiting for a reload\n", lack.words));
                    }
                    missing = lack.words;
                }
            },
            // Time does not help against this.
            Ok(Err(error @ AskError::NotAllowed { .. })) => return Err(error.into()),
            Ok(Err(error)) => missing = error.to_string(),
        }
        if Instant::now() + POLL_INTERVAL >= deadline {
            let words = format!(
                "waited {} in vain: {missing}",
                evenkeel_config::DurationText(timeout)
            );
            return Err(
                Failure::new(Exit::TimedOut, words).help("`evenkeel status` shows what is wrong")
            );
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// What is still missing.
#[derive(Debug, PartialEq, Eq)]
struct Lack {
    words: String,
    unknown_service: bool,
}

fn lacking(status: &operator::Status, service: Option<&str>) -> Option<Lack> {
    let lack = |words| {
        Some(Lack {
            words,
            unknown_service: false,
        })
    };
    if let Some(name) = service
        && !status.services.iter().any(|found| found.name == name)
    {
        let names: Vec<&str> = status.services.iter().map(|s| s.name.as_str()).collect();
        let words = format!(
            "there is no service `{name}`; there are: {}",
            names.join(", ")
        );
        return Some(Lack {
            words,
            unknown_service: true,
        });
    }
    if status.phase != "running" {
        return lack(format!("the daemon is {}", status.phase));
    }
    let waiting = chosen(status, service).find(|found| !found.serving)?;
    if waiting.gate == "closed" {
        let reason = text::one_line(&waiting.gate_reason, 4 * status_screen::WORDS_CHARS_MAX);
        return lack(format!(
            "service `{}` is closed by its policy: {reason}",
            waiting.name
        ));
    }
    lack(format!(
        "service `{}` has no eligible backend",
        waiting.name
    ))
}

fn serving_lines(status: &operator::Status, service: Option<&str>) -> String {
    chosen(status, service)
        .map(|found| {
            if found.backends.is_empty() {
                return format!("{}: serving\n", found.name);
            }
            let up = status_screen::backends_up(found);
            let all = text::count(found.backends.len() as u64, "backend");
            format!("{}: serving, {up} of {all} up\n", found.name)
        })
        .collect()
}

fn chosen<'a>(
    status: &'a operator::Status,
    service: Option<&'a str>,
) -> impl Iterator<Item = &'a operator::ServiceStatus> {
    let wanted = move |name: &str| service.is_none_or(|service| service == name);
    status
        .services
        .iter()
        .filter(move |found| wanted(&found.name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status_screen::tests::sample;

    #[test]
    fn waiting_ends_when_the_service_has_a_backend_and_the_daemon_runs() {
        let mut status = sample();
        assert_eq!(lacking(&status, Some("web")), None);
        let words = lacking(&status, None).unwrap().words;
        assert_eq!(words, "service `api` has no eligible backend");
        let lack = lacking(&status, Some("wbe")).unwrap();
        assert!(lack.unknown_service);
        assert_eq!(lack.words, "there is no service `wbe`; there are: web, api");
        status.phase = "draining".to_owned();
        let words = lacking(&status, Some("web")).unwrap().words;
        assert_eq!(words, "the daemon is draining");
        let lines = serving_lines(&status, Some("web"));
        assert_eq!(lines, "web: serving, 2 of 3 backends up\n");
        status.services[0].backends.clear();
        let lines = serving_lines(&status, Some("web"));
        assert_eq!(
            lines, "web: serving\n",
            "its routes send requests elsewhere"
        );
    }
}
