//! The commands and their options. Every help ends with an example and names the exit codes.

use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::explain::{self, HeaderLine, Url};

/// The program's version with what it was built for.
static VERSION: LazyLock<String> = LazyLock::new(|| {
    let environment = if cfg!(target_env = "musl") {
        "musl"
    } else if cfg!(target_env = "gnu") {
        "gnu"
    } else {
        "other"
    };
    let profile = if cfg!(debug_assertions) {
        "debug"
    } else {
        "release"
    };
    format!(
        "{} ({}-{}-{environment}, {profile} build)",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::ARCH,
        std::env::consts::OS,
    )
});

const TOP_HELP: &str = "\
Exit codes:
  0  done
  1  the daemon failed while it ran
  2  the arguments make no sense
  3  the configuration has errors
  4  no daemon answers in the runtime directory
  5  a reload was refused for another reason than errors in the configuration
  6  the time to wait is over
  7  another daemon runs in this runtime directory

Examples:
  evenkeel demo
  evenkeel check /etc/evenkeel/evenkeel.toml
  evenkeel run --config /etc/evenkeel/evenkeel.toml";

const RUN_HELP: &str = "\
SIGTERM or Ctrl-C: stop accepting, let connections end until drain.deadline, exit. SIGHUP: as `evenkeel reload`.

Exit codes: 0 stopped as asked, 1 failed while it ran, 3 the configuration has errors, 7 another daemon runs in the \
runtime directory.

Example:
  evenkeel run --config /etc/evenkeel/evenkeel.toml";

const CHECK_HELP: &str = "\
Exit codes: 0 valid (perhaps with warnings), 3 the configuration has errors.

Examples:
  evenkeel check /etc/evenkeel/evenkeel.toml
  evenkeel check --json evenkeel.toml | jq -r '.problems[].message'";

const RELOAD_HELP: &str = "\
Exit codes: 0 in force, 3 the configuration has errors, 4 no daemon answers, 5 refused for another reason. After \
anything but 0 the daemon goes on with what it had.

Example:
  evenkeel check /etc/evenkeel/evenkeel.toml && evenkeel reload";

const STATUS_HELP: &str = "\
Exit codes: 0 answered (also when something is wrong: see the first lines), 4 no daemon answers, 6 the time to wait is \
over.

Examples:
  evenkeel status
  evenkeel status --json | jq '.services[].backends[] | select(.state == \"down\") | .name'
  evenkeel status --wait web --timeout 30s";

const BACKENDS_HELP: &str = "\
NAME is `service/backend`, `*/backend` for one server in all services, or `service/*` for all of a service. What is said \
outlives reloads and restarts, until `enable` or `weight NAME auto`.

Exit codes: 0 done, 1 refused (there is no such backend), 4 no daemon answers, 6 the time to wait is over.

Examples:
  evenkeel backend drain web/b1 --wait --timeout 2m
  evenkeel backend enable web/b1";

const DRAIN_HELP: &str = "\
Exit codes: 0 done, 1 refused (there is no such backend), 4 no daemon answers, 6 the time to wait is over, and the \
connections that are left were named.

Examples:
  evenkeel backend drain web/b1
  evenkeel backend drain '*/openhim-1' --wait --timeout 5m";

const DISABLE_HELP: &str = "\
Exit codes: 0 done, 1 refused (there is no such backend), 4 no daemon answers.

Example:
  evenkeel backend disable web/b1";

const ENABLE_HELP: &str = "\
Exit codes: 0 done, 1 refused (there is no such backend), 4 no daemon answers.

Examples:
  evenkeel backend enable web/b1
  evenkeel backend enable 'web/*'";

const WEIGHT_HELP: &str = "\
Exit codes: 0 done, 1 refused (there is no such backend), 4 no daemon answers.

Examples:
  evenkeel backend weight web/b1 5
  evenkeel backend weight web/b1 auto";

const WHY_HELP: &str = "\
Exit codes: 0 answered, 1 refused (there is no such backend), 4 no daemon answers.

Examples:
  evenkeel why web/b1
  evenkeel why web/b1 --json | jq -r '.explanation.checks[].received'";

const EVENTS_HELP: &str = "\
Exit codes: 0 all told, 1 refused, 4 no daemon answers, or it ended while it was followed.

Examples:
  evenkeel events
  evenkeel events --follow --json | jq -r 'select(.kind == \"health\") | .text'";

const EXPLAIN_HELP: &str = "\
By the configuration as the file has it now; names are not looked up, and nothing is sent.

Exit codes: 0 told, whatever becomes of the request, 2 the URL makes no sense, 3 the configuration has errors, 4 no daemon \
answers and no file was named.

Examples:
  evenkeel explain http://example.org/api/v1
  evenkeel explain http://127.0.0.1/ -H Host:example.org --method POST --config evenkeel.toml
  evenkeel explain http://example.org/ --json | jq '.takers[].outcome.service'";

const DEMO_HELP: &str = "\
Exit codes: 0 ended with q or Ctrl-C, 1 it could not start.

Examples:
  evenkeel demo
  evenkeel demo --plain
  evenkeel demo --print-config > evenkeel.toml";

const COMPLETIONS_HELP: &str = "\
Exit codes: 0 written.

Example:
  evenkeel completions bash > /etc/bash_completion.d/evenkeel";

const MAN_HELP: &str = "\
Exit codes: 0 written, 1 the directory cannot be written to.

Examples:
  evenkeel man | man -l -
  evenkeel man --dir /usr/local/share/man/man1";

const REFERENCE_HELP: &str = "\
Exit codes: 0 written.

Example:
  evenkeel reference config > docs/configuration.md";

const BACKEND_HELP: &str = "\
Exit codes: 0 standard input was closed, 1 it could not start.

Example:
  evenkeel demo-backend --name b1";

/// Multi-process load balancer for Linux.
#[derive(Debug, Parser)]
#[command(name = "evenkeel", version = VERSION.as_str(), after_help = TOP_HELP, max_term_width = 100)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the daemon in the foreground.
    #[command(after_help = RUN_HELP)]
    Run(Run),
    /// Say everything that is wrong with a configuration; changes and binds nothing.
    #[command(after_help = CHECK_HELP)]
    Check(Check),
    /// Put the changed configuration in force, without losing a connection.
    #[command(after_help = RELOAD_HELP)]
    Reload(Reload),
    /// Show what is wrong, then workers, services and backends.
    #[command(after_help = STATUS_HELP)]
    Status(Status),
    /// Drain, disable or enable backends, or change their weight; until further notice, over reloads and restarts.
    #[command(after_help = BACKENDS_HELP)]
    Backend(Backend),
    /// Say why a backend is in its state: its last checks and answers, who drained it, what its service's policy says.
    #[command(after_help = WHY_HELP)]
    Why(Why),
    /// Show what happened lately: health, policy, limits, names, operators, reloads, processes.
    #[command(after_help = EVENTS_HELP)]
    Events(Events),
    /// Say what becomes of a request: which listener and route take it and why, where it goes, how it looks there.
    #[command(after_help = EXPLAIN_HELP)]
    Explain(Explain),
    /// Start a daemon in front of three small servers on this host, and show what goes where.
    #[command(after_help = DEMO_HELP)]
    Demo(Demo),
    /// Print completions for a shell.
    #[command(after_help = COMPLETIONS_HELP)]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write the pages of all commands.
    #[command(after_help = MAN_HELP)]
    Man {
        /// Write a page for each command into this directory.
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
    /// Print a generated page of docs/.
    #[command(after_help = REFERENCE_HELP, hide = true)]
    Reference {
        /// Which.
        page: Page,
    },
    /// One of the demo's servers.
    #[command(after_help = BACKEND_HELP, hide = true)]
    DemoBackend(DemoBackend),
}

/// Where the daemon is found.
#[derive(Args, Debug)]
pub(crate) struct RuntimeDir {
    /// Directory of the daemon's lock and control socket. Default: the directory that systemd made, /run/evenkeel for root,
    /// else $XDG_RUNTIME_DIR/evenkeel or /tmp/evenkeel-UID.
    #[arg(
        long,
        value_name = "DIR",
        env = "EVENKEEL_RUNTIME_DIR",
        hide_env_values = true
    )]
    pub(crate) runtime_dir: Option<PathBuf>,
}

/// `run`.
#[derive(Args, Debug)]
pub(crate) struct Run {
    /// The configuration; read at the start and at each reload.
    #[arg(long, short, value_name = "FILE")]
    pub(crate) config: PathBuf,
    #[command(flatten)]
    pub(crate) runtime_dir: RuntimeDir,
    /// Directory of what outlives the daemon: what operators said of backends, last verdicts and names. Default: the
    /// directory that systemd made, else the runtime directory.
    #[arg(
        long,
        value_name = "DIR",
        env = "EVENKEEL_STATE_DIR",
        hide_env_values = true
    )]
    pub(crate) state_dir: Option<PathBuf>,
    /// Stop when the process that started this one ends.
    #[arg(long, hide = true)]
    pub(crate) end_with_parent: bool,
}

/// `check`.
#[derive(Args, Debug)]
pub(crate) struct Check {
    /// The configuration.
    pub(crate) file: PathBuf,
    /// For programs: one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `reload`.
#[derive(Args, Debug)]
pub(crate) struct Reload {
    #[command(flatten)]
    pub(crate) runtime_dir: RuntimeDir,
}

/// `status`.
#[derive(Args, Debug)]
pub(crate) struct Status {
    /// For programs: one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
    /// Wait until the daemon runs and SERVICE has an eligible backend; without SERVICE, all services.
    #[arg(long, value_name = "SERVICE", num_args = 0..=1)]
    pub(crate) wait: Option<Option<String>>,
    /// How long to wait, such as 30s or 2m.
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = duration, requires = "wait")]
    pub(crate) timeout: Duration,
    #[command(flatten)]
    pub(crate) runtime_dir: RuntimeDir,
}

/// `backend`.
#[derive(Args, Debug)]
pub(crate) struct Backend {
    #[command(subcommand)]
    pub(crate) command: BackendCommand,
}

/// What to say of backends.
#[derive(Debug, Subcommand)]
pub(crate) enum BackendCommand {
    /// Give it no new connections or requests; those it has go on.
    #[command(after_help = DRAIN_HELP)]
    Drain(Drain),
    /// Do not use it at all; connections and requests it has go on.
    #[command(after_help = DISABLE_HELP)]
    Disable(Named),
    /// Use it again.
    #[command(after_help = ENABLE_HELP)]
    Enable(Named),
    /// Give it another weight than the configuration's.
    #[command(after_help = WEIGHT_HELP)]
    Weight(Weight),
}

/// `backend drain`.
#[derive(Args, Debug)]
pub(crate) struct Drain {
    /// `service/backend`, `*/backend` or `service/*`.
    pub(crate) name: String,
    /// Return when the last connection is gone; idle ones of HTTP do not count.
    #[arg(long)]
    pub(crate) wait: bool,
    /// How long to wait, such as 30s or 2m.
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = duration, requires = "wait")]
    pub(crate) timeout: Duration,
    #[command(flatten)]
    pub(crate) runtime_dir: RuntimeDir,
}

/// `backend disable` and `backend enable`.
#[derive(Args, Debug)]
pub(crate) struct Named {
    /// `service/backend`, `*/backend` or `service/*`.
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) runtime_dir: RuntimeDir,
}

/// `backend weight`.
#[derive(Args, Debug)]
pub(crate) struct Weight {
    /// `service/backend`, `*/backend` or `service/*`.
    pub(crate) name: String,
    /// 0 to 65535, 0 = no new connections; `auto` = as the configuration says.
    #[arg(value_parser = weight)]
    pub(crate) weight: WeightValue,
    #[command(flatten)]
    pub(crate) runtime_dir: RuntimeDir,
}

/// A weight; `None` = the configuration's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WeightValue(pub(crate) Option<u16>);

/// `why`.
#[derive(Args, Debug)]
pub(crate) struct Why {
    /// `service/backend`.
    #[arg(value_name = "BACKEND")]
    pub(crate) name: String,
    /// For programs: one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) runtime_dir: RuntimeDir,
}

/// `explain`.
#[derive(Args, Debug)]
pub(crate) struct Explain {
    /// What is asked for, such as `http://example.org/path`.
    #[arg(value_parser = explain::url)]
    pub(crate) url: Url,
    /// The configuration. Default: the file of the daemon that runs.
    #[arg(long, short, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The method.
    #[arg(long, short, default_value = "GET", value_parser = explain::method)]
    pub(crate) method: String,
    /// A field of the request; may be there several times. `Host` counts before the URL's host.
    #[arg(long = "header", short = 'H', value_name = "NAME: VALUE", value_parser = explain::header_line)]
    pub(crate) headers: Vec<HeaderLine>,
    /// For programs: one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) runtime_dir: RuntimeDir,
}

/// `events`.
#[derive(Args, Debug)]
pub(crate) struct Events {
    /// Go on with what happens from now on.
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// For programs: one JSON object a line.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) runtime_dir: RuntimeDir,
}

/// `demo`.
#[derive(Args, Debug)]
pub(crate) struct Demo {
    /// Print the configuration that the demo runs, and do nothing else.
    #[arg(long)]
    pub(crate) print_config: bool,
    /// Lines instead of a screen; so it is too without a terminal.
    #[arg(long)]
    pub(crate) plain: bool,
}

/// `demo-backend`.
#[derive(Args, Debug)]
pub(crate) struct DemoBackend {
    /// What it calls itself.
    #[arg(long)]
    pub(crate) name: String,
    /// Port on 127.0.0.1; 0 = a free one.
    #[arg(long, default_value_t = 0)]
    pub(crate) port: u16,
}

/// Generated pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Page {
    /// docs/configuration.md.
    Config,
    /// docs/http-rules.md.
    HttpRules,
    /// docs/metrics.md.
    Metrics,
}

fn weight(text: &str) -> Result<WeightValue, String> {
    match text {
        "auto" => Ok(WeightValue(None)),
        number => number
            .parse()
            .map(|weight| WeightValue(Some(weight)))
            .map_err(|_| "a number from 0 to 65535, or `auto`".to_owned()),
    }
}

/// The same durations as in the configuration.
fn duration(text: &str) -> Result<Duration, String> {
    evenkeel_config::parse_duration(text)
}
