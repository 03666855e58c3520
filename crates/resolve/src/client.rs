//! Asking the name servers, and where they come from.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use evenkeel_plan::ResolveSpec;
use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::{Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::system_conf::parse_resolv_conf;
use hickory_resolver::{Hosts, TokioResolver};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

/// Most questions under way at once; each holds a descriptor. Further ones wait for their turn.
const QUESTIONS_MAX: usize = 128;

/// Above all questions under way, since the library tries again at once, and so without end, where this is reached.
const ACTIVE_MAX: usize = 4 * QUESTIONS_MAX;

/// A question is sent this many times within the time of a look-up.
const TRIES: u32 = 3;

/// Larger files are cut: whatever is behind that is no list of name servers.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Lifetime of what a file says. It is asked again when the file changes.
const FILE_TTL: Duration = Duration::from_secs(86_400);

/// The system's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// Name servers and search list.
    pub resolv_conf: PathBuf,
    /// Names with fixed addresses.
    pub hosts: PathBuf,
}

impl Default for Files {
    fn default() -> Self {
        Self {
            resolv_conf: "/etc/resolv.conf".into(),
            hosts: "/etc/hosts".into(),
        }
    }
}

/// What the files say now. A file that cannot be read is an empty one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Contents {
    resolv_conf: Vec<u8>,
    hosts: Vec<u8>,
}

impl Files {
    /// Blocks for as long as a small local file takes.
    pub(crate) fn read(&self) -> Contents {
        Contents {
            resolv_conf: read(&self.resolv_conf),
            hosts: read(&self.hosts),
        }
    }
}

fn read(path: &Path) -> Vec<u8> {
    use io::Read as _;
    let read = || -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        std::fs::File::open(path)?
            .take(FILE_BYTES_MAX)
            .read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().unwrap_or_default()
}

/// An answer to one question.
#[derive(Debug)]
pub(crate) enum Answer<T> {
    /// These records, good for this long.
    Found(Vec<T>, Duration),
    /// There are none, in words.
    Nothing(&'static str),
    /// Nobody knows, in words.
    Failed(String),
}

/// A target of an SRV record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) priority: u16,
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// One set of name servers.
pub(crate) struct Client {
    resolver: TokioResolver,
    hosts: Hosts,
    questions: Semaphore,
}

impl Client {
    /// # Errors
    /// When the library refuses the settings, in words.
    pub(crate) fn new(spec: &ResolveSpec, contents: &Contents) -> Result<Self, String> {
        let (config, mut options) = settings(spec, contents);
        options.timeout = spec.timeout / TRIES;
        options.attempts = (TRIES - 1) as usize;
        // We keep answers ourselves, and for how long is our decision.
        options.cache_size = 0;
        options.use_hosts_file = ResolveHosts::Never;
        options.max_active_requests = ACTIVE_MAX;
        let provider = TokioRuntimeProvider::default();
        let resolver = TokioResolver::builder_with_config(config, provider)
            .with_options(options)
            .build()
            .map_err(|error| error.to_string())?;
        let mut hosts = Hosts::default();
        // Lines that say nothing are passed over; reading from memory does not fail.
        drop(hosts.read_hosts_conf(contents.hosts.as_slice()));
        Ok(Self {
            resolver,
            hosts,
            questions: Semaphore::new(QUESTIONS_MAX),
        })
    }

    /// The addresses that the hosts file has for `host`. Where it has one, of whatever family, nobody else is asked.
    pub(crate) fn fixed(&self, host: &str) -> Option<Answer<IpAddr>> {
        let name = Name::from_utf8(host).ok()?;
        let look = |kind| {
            let found = self
                .hosts
                .lookup_static_host(&Query::query(name.clone(), kind))?;
            let addresses = found.answers().iter().filter_map(|r| r.data.ip_addr());
            Some(addresses.collect::<Vec<_>>())
        };
        let found = [look(RecordType::A), look(RecordType::AAAA)];
        let addresses: Vec<_> = found.into_iter().flatten().flatten().collect();
        (!addresses.is_empty()).then_some(Answer::Found(addresses, FILE_TTL))
    }

    pub(crate) async fn v4(&self, host: &str, deadline: Instant) -> Answer<IpAddr> {
        self.ask(host, RecordType::A, deadline, RData::ip_addr)
            .await
    }

    pub(crate) async fn v6(&self, host: &str, deadline: Instant) -> Answer<IpAddr> {
        self.ask(host, RecordType::AAAA, deadline, RData::ip_addr)
            .await
    }

    pub(crate) async fn service(&self, name: &str, deadline: Instant) -> Answer<Target> {
        let target = |data: &RData| match data {
            // The root says that the service is decidedly not there (RFC 2782).
            RData::SRV(srv) if !srv.target.is_root() => Some(Target {
                priority: srv.priority,
                host: srv.target.to_utf8(),
                port: srv.port,
            }),
            _ => None,
        };
        self.ask(name, RecordType::SRV, deadline, target).await
    }

    async fn ask<T>(
        &self,
        name: &str,
        kind: RecordType,
        deadline: Instant,
        wanted: impl Fn(&RData) -> Option<T>,
    ) -> Answer<T> {
        let asked = async {
            // The semaphore is never closed.
            let _turn = self.questions.acquire().await;
            self.resolver.lookup(name, kind).await
        };
        let lookup = match timeout_at(deadline, asked).await {
            Ok(Ok(lookup)) => lookup,
            Ok(Err(error)) => return refusal(&error),
            Err(_) => return Answer::Failed("timeout".to_owned()),
        };
        let records = lookup.answers();
        let found: Vec<_> = records.iter().filter_map(|r| wanted(&r.data)).collect();
        if found.is_empty() {
            return Answer::Nothing("no addresses");
        }
        // Aliases on the way count: whoever changes one means it.
        let ttl = records.iter().map(|record| record.ttl).min();
        Answer::Found(found, Duration::from_secs(ttl.unwrap_or(0).into()))
    }
}

/// An error that says that there is nothing, or that nobody knows.
fn refusal<T>(error: &NetError) -> Answer<T> {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none)) => match none.response_code {
            ResponseCode::NXDomain => Answer::Nothing("there is no such name (NXDOMAIN)"),
            ResponseCode::NoError => Answer::Nothing("no addresses"),
            code => Answer::Failed(code_words(code)),
        },
        NetError::Dns(DnsError::ResponseCode(code)) => Answer::Failed(code_words(*code)),
        NetError::Timeout => Answer::Failed("timeout".to_owned()),
        // Without numbers that differ from time to time: the same failure is told once.
        NetError::Io(error) if error.kind() == io::ErrorKind::TimedOut => {
            Answer::Failed("timeout".to_owned())
        }
        NetError::Io(error) => Answer::Failed(error.kind().to_string()),
        NetError::NoConnections => Answer::Failed("no name server can be reached".to_owned()),
        error => Answer::Failed(error.to_string()),
    }
}

fn code_words(code: ResponseCode) -> String {
    match code {
        ResponseCode::ServFail => "the name server failed (SERVFAIL)".to_owned(),
        ResponseCode::Refused => "the name server refuses to answer (REFUSED)".to_owned(),
        code => format!("the name server says {code}"),
    }
}

fn settings(spec: &ResolveSpec, contents: &Contents) -> (ResolverConfig, ResolverOpts) {
    let system = parse_resolv_conf(&contents.resolv_conf);
    if !spec.servers.is_empty() {
        // Names are asked for as they stand: a search list belongs to the servers that it was written beside.
        let servers = spec.servers.iter().map(|server| name_server(*server));
        return bare(servers.collect());
    }
    // As the C library does it where the file is missing or names none.
    system.unwrap_or_else(|_| {
        let local = SocketAddr::from((Ipv4Addr::LOCALHOST, 53));
        bare(vec![name_server(local)])
    })
}

fn bare(servers: Vec<NameServerConfig>) -> (ResolverConfig, ResolverOpts) {
    let mut options = ResolverOpts::default();
    // As without `options edns0` in the file: not every small name server knows it.
    options.edns0 = false;
    (
        ResolverConfig::from_parts(None, Vec::new(), servers),
        options,
    )
}

fn name_server(address: SocketAddr) -> NameServerConfig {
    let mut server = NameServerConfig::udp_and_tcp(address.ip());
    for connection in &mut server.connections {
        connection.port = address.port();
    }
    server
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(resolv_conf: &str, hosts: &str) -> Contents {
        Contents {
            resolv_conf: resolv_conf.into(),
            hosts: hosts.into(),
        }
    }

    fn servers(spec: &ResolveSpec, contents: &Contents) -> Vec<SocketAddr> {
        let (config, _) = settings(spec, contents);
        let servers = config.name_servers().iter();
        servers
            .flat_map(|s| s.connections.iter().map(|c| (s.ip, c.port).into()))
            .collect()
    }

    #[test]
    fn servers_come_from_the_configuration_else_from_the_file_else_it_is_this_host() {
        let spec = ResolveSpec::default();
        let file = contents("search lan\nnameserver 10.0.0.53\n", "");
        let [system, none] = [servers(&spec, &file), servers(&spec, &Contents::default())];
        assert_eq!(system, ["10.0.0.53:53".parse().unwrap(); 2]);
        assert_eq!(none, ["127.0.0.1:53".parse().unwrap(); 2]);
        let own = ResolveSpec {
            servers: vec!["[::1]:5353".parse().unwrap()],
            ..spec
        };
        assert_eq!(servers(&own, &file), ["[::1]:5353".parse().unwrap(); 2]);
        assert_eq!(settings(&own, &file).0.search(), []);
    }

    #[test]
    fn the_hosts_file_answers_for_both_families() {
        let file = contents(
            "",
            "# a comment\n10.0.0.1 one One.Example # here\n::1 one\nnonsense\n",
        );
        let client = Client::new(&ResolveSpec::default(), &file).unwrap();
        let found = |host| match client.fixed(host) {
            Some(Answer::Found(addresses, _)) => addresses,
            _ => Vec::new(),
        };
        let both: [IpAddr; 2] = ["10.0.0.1".parse().unwrap(), "::1".parse().unwrap()];
        assert_eq!(found("one"), both);
        assert_eq!(found("one.example"), both[..1]);
        assert!(found("two").is_empty());
    }
}
