//! A program of the operator's. No shell: the arguments are what the configuration says.

use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, ChildStdout, Command};

use super::outcome::Outcome;
use super::talk::{Talk, short};

/// Longest answer that is taken from the program's first line.
const ANSWER_BYTES_MAX: usize = 256;

/// Where programs that a check runs are looked for when this process has no `PATH`.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Runs `command` for `endpoint`. Exit code 0 passes.
///
/// # Cancel safety
/// Dropping the future kills the program and all that it has started, as far as that stayed in its process group.
pub(super) async fn probe(
    command: &[String],
    endpoint: SocketAddr,
    backend: &str,
    talk: &Talk,
) -> Result<Outcome, Outcome> {
    let Some((program, arguments)) = command.split_first() else {
        return Err(Outcome::failed("no program is configured"));
    };
    talk.sent(&format!("{program} for {endpoint}"));
    talk.begin("the program's end");
    let path = std::env::var_os("PATH").unwrap_or_else(|| PATH.into());
    let child = Command::new(program)
        .args(arguments)
        .env_clear()
        .env("PATH", path)
        .env("EVENKEEL_ADDRESS", endpoint.to_string())
        .env("EVENKEEL_BACKEND", backend)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn();
    let mut child = child.map_err(|error| cannot_run(program, &error))?;
    let mut stdout = child.stdout.take();
    let mut running = Running(child);
    let mut line = FirstLine::default();
    let status = loop {
        tokio::select! {
            biased;
            () = line.read(&mut stdout) => {}
            status = running.0.wait() => break status.map_err(|error| Outcome::error(&error))?,
        }
    };
    // What it has started may hold its output open for ever: only what is there already is taken.
    let rest = std::time::Duration::ZERO;
    while !line.is_over && stdout.is_some() {
        if tokio::time::timeout(rest, line.read(&mut stdout))
            .await
            .is_err()
        {
            break;
        }
    }
    let text = String::from_utf8_lossy(&line.bytes);
    let answer = short(&text, ANSWER_BYTES_MAX);
    talk.received(&text);
    Ok(judge(status, &answer))
}

fn judge(status: ExitStatus, answer: &str) -> Outcome {
    let answer = match answer {
        "" => String::new(),
        answer => format!(": {answer}"),
    };
    match (status.code(), status.signal()) {
        (Some(0), _) => Outcome::passed(format!("exit code 0{answer}")),
        (Some(code), _) => Outcome::failed(format!("exit code {code}{answer}")),
        (None, Some(signal)) => Outcome::failed(format!("killed by signal {signal}{answer}")),
        (None, None) => Outcome::failed(format!("ended without an exit code{answer}")),
    }
}

fn cannot_run(program: &str, error: &std::io::Error) -> Outcome {
    let mut outcome = Outcome::error(error);
    outcome.answer = format!("cannot run {program}: {error}").into();
    outcome
}

/// A program that runs, killed with its group when it is dropped before its end was seen. Until then its process id, and so
/// its group's, belongs to nobody else.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // `None` once its end was seen.
        let id = self.0.id().and_then(|id| i32::try_from(id).ok());
        if let Some(group) = id.and_then(Pid::from_raw) {
            // It may have ended just now.
            let _gone = kill_process_group(group, Signal::KILL);
        }
    }
}

/// The beginning of the output, up to the first line feed.
#[derive(Default)]
struct FirstLine {
    bytes: Vec<u8>,
    is_over: bool,
}

impl FirstLine {
    /// Reads on, so that a program that says much is not held up; keeps what belongs to the first line. Waits for ever once
    /// the output has ended.
    async fn read(&mut self, stdout: &mut Option<ChildStdout>) {
        let Some(open) = stdout else {
            return std::future::pending().await;
        };
        let mut bytes = [0; 1_024];
        let count = open.read(&mut bytes).await.unwrap_or(0);
        if count == 0 {
            *stdout = None;
            return;
        }
        for &byte in &bytes[..count] {
            self.is_over |= byte == b'\n' || self.bytes.len() > ANSWER_BYTES_MAX;
            if self.is_over {
                break;
            }
            self.bytes.push(byte);
        }
    }
}
