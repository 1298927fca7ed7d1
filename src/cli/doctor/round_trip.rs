//! A message from one node to another, over each host.

use tokio::time::{self, Duration, Instant};

use crate::channel_layer::{GroupName, HostFacts, Join, Joined, LayerConfig, Message};
use crate::cli::doctor::finding::{Code, Finding};
use crate::cli::guest::{Guest, News};

/// Each step on a host may take this long.
const STEP_MAX: Duration = Duration::from_secs(2);
/// All hosts together.
const ALL_MAX: Duration = Duration::from_secs(8);
/// A round trip above this is slow.
const SLOW: Duration = Duration::from_millis(100);
/// How many names are tried to find one on a host. One in as many as there are hosts fits.
const NAMES_MAX: usize = 10_000;

/// Has one node join a group on each host that answers, and another one send to it.
///
/// # Errors
///
/// Ours: metrics do not go together.
pub(super) async fn round_trips(config: &LayerConfig, hosts: &[HostFacts]) -> anyhow::Result<Vec<Finding>> {
    let answers = |host: &HostFacts| host.connected.is_ok() && host.silent_at.is_none();
    if !hosts.iter().any(answers) {
        return Ok(Vec::new());
    }
    let (mut hearer, mut sender) = (Guest::arrive(config.clone())?, Guest::arrive(config.clone())?);
    // A host that is away is found out by its own steps.
    let patience = Guest::patience(config);
    tokio::join!(hearer.is_up_within(patience), sender.is_up_within(patience));
    let deadline = Instant::now() + ALL_MAX;
    let mut findings = Vec::new();
    for (index, host) in hosts.iter().enumerate().filter(|(_, host)| answers(host)) {
        let finding = match time::timeout_at(deadline, over(config, index, &mut hearer, &mut sender)).await {
            Ok(Ok(took)) => took_so_long(took),
            Ok(Err(reason)) => failed(&reason),
            Err(_) => failed("there was no time left for it"),
        };
        findings.push(finding.at(&host.address));
    }
    tokio::join!(hearer.leave(), sender.leave());
    Ok(findings)
}

fn took_so_long(took: Duration) -> Finding {
    let milliseconds = took.as_secs_f64() * 1e3;
    let message = format!("a message from one node to another took {milliseconds:.1} ms");
    if took < SLOW {
        return Finding::ok(Code::RoundTrip, message);
    }
    Finding::warning(Code::RoundTrip, message)
        .help("look at the way to Redis (`redis-cli --latency`) and for long commands in `SLOWLOG GET`")
}

fn failed(reason: &str) -> Finding {
    Finding::failure(Code::RoundTrip, format!("no message got from one node to another: {reason}"))
        .help("see the other findings on this host first; `anteroom_layer_up` and `/readyz` of a server say the same")
}

/// How long a message takes over one host, or why there is none.
async fn over(
    config: &LayerConfig,
    host: usize,
    hearer: &mut Guest,
    sender: &mut Guest,
) -> Result<Duration, String> {
    let group = group_on(config, host).ok_or("no name of a group was found that is on this host")?;
    let joined = joined(hearer, &group).await;
    let heard = match joined {
        Ok(()) => heard(&group, hearer, sender).await,
        Err(reason) => Err(reason),
    };
    hearer.layer.leave(Guest::WORKER, &group);
    heard
}

async fn joined(hearer: &Guest, group: &GroupName) -> Result<(), String> {
    let confirmed = match hearer.layer.join(Guest::WORKER, group) {
        Join::Ready => true,
        Join::Pending(joining) => time::timeout(STEP_MAX, joining).await == Ok(Joined::Confirmed),
        Join::LayerDown => false,
    };
    if confirmed { Ok(()) } else { Err(hearer.reason("a group could not be joined")) }
}

async fn heard(group: &GroupName, hearer: &mut Guest, sender: &mut Guest) -> Result<Duration, String> {
    let since = Instant::now();
    sender
        .layer
        .group_send(group, Message::new("anteroom.doctor"), Guest::TICKET)
        .map_err(|refusal| refusal.to_string())?;
    let heard = async {
        loop {
            tokio::select! {
                news = hearer.next() => match news {
                    Some(News::Delivered(delivery)) if delivery.group == *group => return Ok(since.elapsed()),
                    Some(_) => {}
                    None => return Err("the layer ended".to_owned()),
                },
                news = sender.next() => match news {
                    Some(News::Refused(refusal)) => return Err(sender.reason(&refusal.to_string())),
                    Some(_) => {}
                    None => return Err("the layer ended".to_owned()),
                },
            }
        }
    };
    let heard = time::timeout(STEP_MAX, heard).await;
    heard.unwrap_or_else(|_| Err(hearer.reason("it was sent and did not arrive")))
}

/// The name of a group that nobody else is in, on one of the hosts.
fn group_on(config: &LayerConfig, host: usize) -> Option<GroupName> {
    let names = (0..NAMES_MAX).map(|_| format!("anteroom-doctor-{:032x}", fastrand::u128(..)));
    names.filter_map(|name| name.parse().ok()).find(|group| config.host_of(group) == host)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel_layer::{CoreConfig, PubSubConfig, RedisHost};

    #[test]
    fn there_is_a_group_on_each_host() {
        let hosts = vec![RedisHost::default(); 5];
        let core = LayerConfig::Core(CoreConfig { hosts: hosts.clone(), ..CoreConfig::default() });
        let pubsub = LayerConfig::PubSub(PubSubConfig { hosts, ..PubSubConfig::default() });
        for config in [core, pubsub] {
            for host in 0..5 {
                assert_eq!(config.host_of(&group_on(&config, host).unwrap()), host);
            }
            assert_eq!(group_on(&config, 5), None);
        }
    }
}
