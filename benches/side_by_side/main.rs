//! evenkeel beside HAProxy and nginx on this machine: `cargo bench --bench side_by_side -- --help`, and `docs/benchmarks.md`.
//!
//! Every peer has the same HTTP servers behind it, as many workers or threads as the others, the same time-outs, and writes one log
//! line a connection, or a request where it speaks HTTP, into a pipe that is read. Rounds are interleaved, with another peer first each time, so that whatever else
//! the machine does falls on all alike; medians are shown. The rate depends on who else uses the cores; the CPU time per
//! request, read from the peer's own schedstat, hardly does.
//!
//! Needs Debian's `haproxy`, `nginx`, `libnginx-mod-stream` and `wrk`. The peers' configurations lie in `benches/peers/`.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a measurement stops at the first surprise, and prints what it found"
)]

mod answer;
mod arguments;
mod chart;
mod client;
mod growth;
mod idle;
mod load;
mod machine;
mod peers;
mod plot;
mod processes;
mod results;
mod table;
mod template;
mod works;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::SystemTime;

use serde_json::Value;

use arguments::{Arguments, USAGE};
use peers::{Running, free_port};
use results::Results;
use template::{Mode, Setup};
use works::Bench;

fn main() -> ExitCode {
    // `cargo test` builds and starts benches too, so that they cannot rot; measuring is for `cargo bench`.
    if !std::env::args().any(|argument| argument == "--bench") {
        println!("skipped: measuring takes `cargo bench --bench side_by_side`");
        return ExitCode::SUCCESS;
    }
    let arguments = match Arguments::parse(std::env::args().skip(1)) {
        Ok(Some(arguments)) => arguments,
        Ok(None) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(mistake) => {
            println!("{mistake}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    if let Some(reason) = missing() {
        println!("skipped: {reason} (apt-get install haproxy nginx libnginx-mod-stream wrk)");
        return ExitCode::SUCCESS;
    }
    run(&arguments);
    ExitCode::SUCCESS
}

/// What there is not.
fn missing() -> Option<String> {
    let tools = ["haproxy", "nginx", "wrk"];
    let absent = |tool: &&str| Command::new(tool).arg("-v").output().is_err();
    if let Some(tool) = tools.into_iter().find(absent) {
        return Some(format!("{tool} is not installed"));
    }
    let module = "/usr/lib/nginx/modules/ngx_stream_module.so";
    (!Path::new(module).exists()).then(|| format!("there is no {module}"))
}

fn run(arguments: &Arguments) {
    let descriptors = machine::raise_descriptors();
    let mut facts = machine::facts(SystemTime::now());
    let directory = Directory::new();
    let bench = prepare(&directory.0, arguments, descriptors);
    facts["rounds"] = arguments.rounds.into();
    facts["seconds"] = arguments.seconds.into();
    println!("{facts:#}");
    let mut results = Results::default();
    for work in &arguments.works {
        println!("measuring {} ...", work.name());
        bench.measure(*work, &mut results);
        // After each, so that a run that ends early leaves something.
        write(arguments, &facts, &results);
    }
    println!("\n{}", table::render(&results));
}

fn write(arguments: &Arguments, facts: &Value, results: &Results) {
    if let Some(path) = &arguments.json {
        let mut all = facts.clone();
        let measured = results.json();
        for part in ["results", "targets", "notes"] {
            all[part] = measured[part].clone();
        }
        fs::write(path, format!("{all:#}\n")).unwrap();
    }
    if let Some(path) = &arguments.plot {
        fs::write(path, plot::render(results, facts)).unwrap();
    }
}

/// The HTTP servers, and what this build of the daemon knows.
fn prepare(directory: &Path, arguments: &Arguments, descriptors: u64) -> Bench {
    let backend_port = free_port();
    let backend = Running::start_backend(
        &Setup {
            mode: Mode::Http,
            workers: 1,
            listens: Vec::new(),
            backends: vec![([0, 0, 0, 0], backend_port).into()],
            hold: false,
            reloadable: false,
            clients: descriptors.saturating_sub(1_000).min(65_536),
        },
        directory,
    );
    Bench {
        directory: directory.to_owned(),
        rounds: arguments.rounds,
        seconds: arguments.seconds,
        peers: arguments.peers.clone(),
        descriptors,
        backend_port,
        _backend: backend,
    }
}

/// What the run's processes need, removed at its end.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("evenkeel-bench-{}", std::process::id()));
        fs::create_dir_all(path.join("root")).unwrap();
        fs::write(path.join("root/bulk"), vec![b'x'; 1 << 20]).unwrap();
        fs::write(path.join("root/16k"), vec![b'x'; 16 << 10]).unwrap();
        // nginx's workers run as another user.
        for part in [path.clone(), path.join("root")] {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            fs::set_permissions(part, mode).unwrap();
        }
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}
