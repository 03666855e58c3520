//! Connections one by one through fewer ports than there are connections: those in TIME_WAIT are in nobody's way. In a
//! network namespace of its own, which needs root, so the test re-executes itself there.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#![expect(clippy::panic, reason = "a test stops at the first surprise")]

use std::io::Read as _;
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::process::Command;
use std::time::Duration;

use evenkeel_net::connect::{ConnectError, Fault, Options, connect};
use evenkeel_net::driver;
use tokio::task::LocalSet;

/// Set in the process within the namespace.
const INSIDE: &str = "EVENKEEL_TEST_NAMESPACE";

/// Connections, three times the ports.
const CONNECTIONS: usize = 1_500;

#[test]
fn ports_do_not_run_out_because_of_time_wait() {
    if std::env::var_os(INSIDE).is_some() {
        return inside();
    }
    let script = "ip link set lo up \
        && echo 20000 20499 > /proc/sys/net/ipv4/ip_local_port_range \
        && echo 0 > /proc/sys/net/ipv4/tcp_tw_reuse \
        && exec \"$0\" --exact ports_do_not_run_out_because_of_time_wait --nocapture";
    let test = std::env::current_exe().unwrap();
    let output = Command::new("unshare")
        .args(["--net", "sh", "-c", script])
        .arg(test)
        .env(INSIDE, "1")
        .output();
    match output {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            let errors = String::from_utf8_lossy(&output.stderr);
            let can_not = errors.contains("unshare failed") || errors.contains("RTNETLINK");
            assert!(
                can_not,
                "{errors}\n{}",
                String::from_utf8_lossy(&output.stdout)
            );
            println!("skipped, no network namespace: {errors}");
        }
        Err(error) => println!("skipped, no unshare: {error}"),
    }
}

fn inside() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, async {
        driver::start().unwrap();
        let sources = [None, Some(SocketAddr::from(([127, 0, 0, 2], 0)))];
        for (number, source) in sources.into_iter().enumerate() {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let options = Options {
                source,
                ..Options::default()
            };
            for round in 0..CONNECTIONS {
                let connected = connect(address, &options, Duration::from_secs(5)).await;
                let ours = connected.unwrap_or_else(|error| {
                    let source = std::error::Error::source(&error).map(ToString::to_string);
                    panic!("{number}, connection {round}: {error}: {source:?}")
                });
                let (mut peer, from) = listener.accept().unwrap();
                assert!((20_000..20_500).contains(&from.port()), "{from}");
                // We end first, so that TIME_WAIT is ours.
                ours.shutdown_write().unwrap();
                assert_eq!(peer.read(&mut [0; 1]).unwrap(), 0);
                peer.shutdown(Shutdown::Both).unwrap();
                drop(peer);
                ours.readable().await;
            }
        }

        // With nearly every port in use for real there is none left, and that is our own fault. They are found by chance: below
        // 350, one run in ten thousand fails.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut held = Vec::new();
        let error = loop {
            match connect(address, &Options::default(), Duration::from_secs(5)).await {
                Ok(stream) => held.push((stream, listener.accept().unwrap())),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, ConnectError::Exhausted(_)), "{error:?}");
        assert_eq!(error.fault(), Fault::Own);
        assert!(held.len() >= 350, "{} connections at once", held.len());
    });
}
