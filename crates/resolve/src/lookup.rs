//! One look-up: what a name stands for now.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use evenkeel_plan::{Address, ENDPOINTS_MAX};
use tokio::time::Instant;

use crate::client::{Answer, Client, Target};

/// Most targets of an SRV name that are asked for.
const TARGETS_MAX: usize = ENDPOINTS_MAX;

/// What was found before for each host and family, for when only one of several questions fails.
pub(crate) type Memory = HashMap<(String, Family), Vec<IpAddr>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Family {
    V4,
    V6,
}

/// What a look-up has found: endpoints, at least one, and for how long; else why not, in words.
pub(crate) type Found = Result<(Vec<SocketAddr>, Duration), String>;

pub(crate) async fn look_up(
    client: &Client,
    address: &Address,
    memory: &mut Memory,
    deadline: Instant,
) -> Found {
    let (found, ttl) = match address {
        Address::Socket(address) => (vec![*address], Duration::MAX),
        Address::Name { host, port } => {
            let (addresses, ttl) = host_addresses(client, host, memory, deadline).await?;
            (with_port(addresses, *port).collect(), ttl)
        }
        Address::Service { name } => service(client, name, memory, deadline).await?,
    };
    Ok((in_order(found), ttl))
}

/// Sorted, each once, and not more than there is room for.
pub(crate) fn in_order(mut endpoints: Vec<SocketAddr>) -> Vec<SocketAddr> {
    endpoints.sort_unstable();
    endpoints.dedup();
    endpoints.truncate(ENDPOINTS_MAX);
    endpoints
}

fn with_port(addresses: Vec<IpAddr>, port: u16) -> impl Iterator<Item = SocketAddr> {
    addresses
        .into_iter()
        .map(move |address| SocketAddr::new(address, port))
}

async fn service(client: &Client, name: &str, memory: &mut Memory, deadline: Instant) -> Found {
    let (targets, mut ttl) = match client.service(name, deadline).await {
        Answer::Found(targets, ttl) => (first_choice(targets), ttl),
        Answer::Nothing(why) => return Err(why.to_owned()),
        Answer::Failed(why) => return Err(why),
    };
    memory.retain(|(host, _), _| targets.iter().any(|target| target.host == *host));
    let (mut found, mut old) = (Vec::new(), Vec::new());
    let mut why = None;
    // One after the other: most answers come with the first, from the name server's cache.
    for target in targets {
        match host_addresses(client, &target.host, memory, deadline).await {
            Ok((addresses, kept)) => {
                ttl = ttl.min(kept);
                found.extend(with_port(addresses, target.port));
            }
            // What was last known of it stays, and it is asked for again soon.
            Err(words) => {
                why = Some(format!("{}: {words}", target.host));
                ttl = Duration::ZERO;
                for family in [Family::V4, Family::V6] {
                    let known = memory.get(&(target.host.clone(), family));
                    old.extend(with_port(known.cloned().unwrap_or_default(), target.port));
                }
            }
        }
    }
    match why {
        Some(why) if found.is_empty() => Err(why),
        _ => {
            found.append(&mut old);
            Ok((found, ttl))
        }
    }
}

/// Targets of the lowest priority number, which are to be used while they can be reached (RFC 2782). Whether they can be is
/// not known here.
fn first_choice(mut targets: Vec<Target>) -> Vec<Target> {
    let first = targets.iter().map(|target| target.priority).min();
    targets.retain(|target| Some(target.priority) == first);
    targets.sort_unstable_by(|a, b| (&a.host, a.port).cmp(&(&b.host, b.port)));
    targets.truncate(TARGETS_MAX);
    targets
}

async fn host_addresses(
    client: &Client,
    host: &str,
    memory: &mut Memory,
    deadline: Instant,
) -> Result<(Vec<IpAddr>, Duration), String> {
    if let Ok(address) = host.parse() {
        return Ok((vec![address], Duration::MAX));
    }
    if let Some(Answer::Found(addresses, ttl)) = client.fixed(host) {
        return Ok((addresses, ttl));
    }
    let (v4, v6) = tokio::join!(client.v4(host, deadline), client.v6(host, deadline));
    let answers = [(Family::V4, v4), (Family::V6, v6)];
    merge(host, answers, memory)
}

/// Both families' answers to one. With one of them failed and the other not, what was known of the failed one stays.
fn merge(
    host: &str,
    answers: [(Family, Answer<IpAddr>); 2],
    memory: &mut Memory,
) -> Result<(Vec<IpAddr>, Duration), String> {
    let (mut found, mut ttl) = (Vec::new(), None);
    let (mut old, mut nothing, mut failed) = (Vec::new(), None, None);
    for (family, answer) in answers {
        let key = (host.to_owned(), family);
        match answer {
            Answer::Found(addresses, kept) => {
                found.extend_from_slice(&addresses);
                memory.insert(key, addresses);
                ttl = Some(ttl.unwrap_or(kept).min(kept));
            }
            Answer::Nothing(why) => nothing = Some(why.to_owned()),
            Answer::Failed(why) => {
                old.extend(memory.get(&key).into_iter().flatten());
                failed = Some(why);
            }
        }
    }
    match ttl {
        Some(ttl) => {
            found.append(&mut old);
            Ok((found, ttl))
        }
        None => Err(failed.or(nothing).unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn found(address: &str) -> Answer<IpAddr> {
        Answer::Found(vec![address.parse().unwrap()], SECOND)
    }

    #[test]
    fn a_family_that_fails_keeps_what_is_known_of_it_and_one_that_is_gone_does_not() {
        let mut memory = Memory::new();
        let mut ask = |v4, v6| {
            let answers = [(Family::V4, v4), (Family::V6, v6)];
            let merged = merge("host", answers, &mut memory);
            merged.map(|(addresses, _)| addresses.len())
        };
        let failed = || Answer::Failed("timeout".to_owned());
        let nothing = || Answer::Nothing("no addresses");
        assert_eq!(ask(found("10.0.0.1"), failed()), Ok(1));
        assert_eq!(ask(found("10.0.0.1"), found("::1")), Ok(2));
        assert_eq!(ask(failed(), found("::1")), Ok(2));
        assert_eq!(ask(nothing(), found("::1")), Ok(1));
        assert_eq!(ask(nothing(), nothing()), Err("no addresses".to_owned()));
        assert_eq!(ask(nothing(), failed()), Err("timeout".to_owned()));
    }

    #[test]
    fn targets_of_the_first_choice_are_used() {
        let target = |priority, host: &str| Target {
            priority,
            host: host.to_owned(),
            port: 1,
        };
        let targets = vec![target(2, "c"), target(1, "b"), target(1, "a")];
        assert_eq!(first_choice(targets), [target(1, "a"), target(1, "b")]);
        assert_eq!(first_choice(Vec::new()), []);
    }

    proptest! {
        #[test]
        fn the_order_of_an_answer_does_not_matter(
            addresses in prop::collection::vec((any::<IpAddr>(), 1_u16..3), 1..40),
            turn in 0_usize..40,
        ) {
            let mut endpoints: Vec<SocketAddr> = addresses.into_iter().map(Into::into).collect();
            let once = in_order(endpoints.clone());
            let length = endpoints.len();
            endpoints.rotate_left(turn % length);
            endpoints.extend_from_within(..);
            prop_assert_eq!(&in_order(endpoints), &once);
            prop_assert!(once.is_sorted() && once.len() <= ENDPOINTS_MAX && !once.is_empty());
            prop_assert_eq!(&in_order(once.clone()), &once);
        }
    }
}
