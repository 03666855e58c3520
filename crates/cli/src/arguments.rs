//! The commands and their options. Every help ends with an example and names the exit codes.

use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

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
    /// docs/metrics.md.
    Metrics,
}

/// The same durations as in the configuration.
fn duration(text: &str) -> Result<Duration, String> {
    evenkeel_config::parse_duration(text)
}
