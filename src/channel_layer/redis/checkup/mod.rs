//! Finding out how the Redis servers of a layer are, from outside of the layer.
//!
//! What is found is judged elsewhere. Each question has a limit, and so has the whole.

mod facts;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use redis::{FromRedisValue, Pipeline, ServerErrorKind, Value};
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tokio::time::{self, Duration, Instant};

use crate::channel_layer::LayerConfig;
use crate::channel_layer::redis::RedisHost;
use crate::channel_layer::redis::connect::Connection;
use crate::channel_layer::redis::core::names::{CoreKeys, node_of, non_local};
use crate::channel_layer::redis::keys::Keys;
use crate::channel_layer::redis::shard::host_index;
use crate::channel_layer::redis::way::Way;

pub use self::facts::{
    Answer, ClientFacts, ClockFacts, Denied, GroupFacts, HostFacts, InboxFacts, Info, Store, Traffic,
    Unreached, Why,
};

/// Connecting and logging in may take this long, whatever is configured; Sentinels are asked within it.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// An answer may take this long.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// All answers of a host together.
const EXAMINE_MAX: Duration = Duration::from_secs(8);
/// The clocks are compared this often; the quickest answer counts.
const CLOCK_LOOKS: usize = 5;
/// How long it is watched how connections come and go.
const WATCH: Duration = Duration::from_secs(1);
/// With more connections than these they are not listed.
const CLIENTS_MAX: u64 = 5000;
/// How many keys are looked at, and how many at once.
const KEYS_MAX: usize = 50_000;
const KEYS_AT_ONCE: usize = 1000;
/// How long keys are looked at.
const KEYS_TIME: Duration = Duration::from_millis(1500);
/// So many inboxes, groups, and members of a group are looked at.
const INBOXES_MAX: usize = 500;
const GROUPS_MAX: usize = 100;
const MEMBERS_MAX: usize = 500;
/// A message that waits for so many seconds is taken by nobody.
const STALE: f64 = 10.0;
/// What we write lives no longer than so many seconds.
const SCRATCH_LIFE: usize = 10;

/// Looks at all hosts of a layer at once. Empty for a layer in memory.
pub async fn examine(config: &LayerConfig) -> Vec<HostFacts> {
    let hosts = config.hosts();
    // No connection of ours is to be opened while it is watched how many are.
    let all_connected = Arc::new(Barrier::new(hosts.len()));
    // A set aborts its tasks when this future is dropped.
    let mut tasks = JoinSet::new();
    for (index, host) in hosts.iter().enumerate() {
        let (host, config, all_connected) = (host.clone(), config.clone(), Arc::clone(&all_connected));
        tasks.spawn(async move { (index, examine_host(index, &host, &config, &all_connected).await) });
    }
    let mut found = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        match ended {
            Ok(facts) => found.push(facts),
            Err(broken) if broken.is_panic() => std::panic::resume_unwind(broken.into_panic()),
            Err(_) => {}
        }
    }
    found.sort_by_key(|(index, _)| *index);
    found.into_iter().map(|(_, facts)| facts).collect()
}

async fn examine_host(
    index: usize,
    host: &RedisHost,
    config: &LayerConfig,
    all_connected: &Barrier,
) -> HostFacts {
    let user = host.server().and_then(|server| server.login.user.clone());
    let user = user.unwrap_or_else(|| "default".to_owned());
    let mut facts = HostFacts::unknown(host.address(), user);
    let way = Way::new(host);
    let since = Instant::now();
    let opened = time::timeout(CONNECT_MAX, open(&way)).await.unwrap_or(Err(Unreached::Silent));
    let took = since.elapsed();
    // Each of the others comes here within the same time, unless it broke.
    time::timeout(CONNECT_MAX, all_connected.wait()).await.ok();
    let (connection, server) = match opened {
        Ok(opened) => opened,
        Err(unreached) => {
            facts.connected = Err(unreached);
            return facts;
        }
    };
    facts.connected = Ok(took);
    facts.server = server;
    let deadline = Instant::now() + EXAMINE_MAX;
    let mut examiner = Examiner { connection, deadline, index, hosts: config.hosts().len() };
    // Who does not answer once is asked nothing more.
    facts.silent_at = examiner.fill(&mut facts, config).await.err().map(|Silent(what)| what);
    facts
}

/// A connection for commands, to whatever server there is, and its address.
async fn open(way: &Way) -> Result<(Connection, String), Unreached> {
    let target = way.find().await.map_err(Unreached::Away)?;
    let limit = target.timeout();
    match time::timeout(limit, target.open_any(|_| {})).await {
        Ok(Ok(connection)) if connection.greeting.is_sentinel => Err(Unreached::Sentinel),
        Ok(Ok(connection)) => Ok((connection, target.address().to_string())),
        Ok(Err(reason)) => Err(Unreached::new(reason)),
        Err(_) => Err(Unreached::Silent),
    }
}

/// No answer to this question came in time.
struct Silent(&'static str);

struct Examiner {
    connection: Connection,
    deadline: Instant,
    /// The place of the host, and how many there are.
    index: usize,
    hosts: usize,
}

impl Examiner {
    async fn fill(&mut self, facts: &mut HostFacts, config: &LayerConfig) -> Result<(), Silent> {
        facts.clock = self.clock().await?;
        facts.info = self.one::<String>("INFO", &[]).await?.map(|text| Info::parse(&text));
        facts.commands = match config {
            LayerConfig::Memory => Vec::new(),
            LayerConfig::PubSub(config) => self.try_pubsub(&config.prefix).await?,
            LayerConfig::Core(config) => {
                let version = facts.info.as_ref().ok().and_then(Info::version);
                self.try_core(&config.prefix, version.is_none_or(|version| (7, 0) <= version)).await?
            }
        };
        if let Ok(info) = &facts.info {
            facts.traffic = self.traffic().await?;
            let few = info.number("connected_clients").is_some_and(|clients| clients <= CLIENTS_MAX);
            if few && matches!(config, LayerConfig::Core(_)) {
                facts.clients =
                    self.one::<String>("CLIENT", &["LIST"]).await?.map(|text| facts::clients(&text));
            }
        }
        if let LayerConfig::Core(config) = config {
            let capacity = |process: &str| config.capacities.of(process);
            facts.store = self.store(&config.prefix, capacity).await?;
        }
        Ok(())
    }

    /// Sends commands; the errors of Redis are among the answers.
    async fn ask(&mut self, what: &'static str, commands: &Pipeline) -> Result<Vec<Value>, Silent> {
        let asked = self.connection.commands.send_packed_commands(commands, 0, commands.len());
        match time::timeout_at(self.deadline.min(Instant::now() + ANSWER_MAX), asked).await {
            Ok(Ok(answers)) => Ok(answers),
            Ok(Err(_)) | Err(_) => Err(Silent(what)),
        }
    }

    async fn one<T: FromRedisValue>(
        &mut self,
        command: &'static str,
        arguments: &[&str],
    ) -> Result<Answer<T>, Silent> {
        let mut commands = Pipeline::with_capacity(1);
        commands.cmd(command).arg(arguments);
        let answers = self.ask(command, &commands).await?;
        Ok(read(answers.into_iter().next().unwrap_or(Value::Nil)))
    }

    async fn clock(&mut self) -> Result<Answer<ClockFacts>, Silent> {
        let mut best: Option<ClockFacts> = None;
        for _ in 0..CLOCK_LOOKS {
            let before = now();
            let (seconds, micros) = match self.one::<(f64, f64)>("TIME", &[]).await? {
                Ok(time) => time,
                Err(reason) => return Ok(Err(reason)),
            };
            let round_trip = (now() - before).max(0.0);
            let ahead = seconds + micros / 1e6 - before - round_trip / 2.0;
            if best.is_none_or(|best| round_trip < best.round_trip) {
                best = Some(ClockFacts { ahead, round_trip });
            }
        }
        Ok(best.ok_or(None))
    }

    /// Tries what `channels_redis.pubsub` says, on channels that nobody hears.
    async fn try_pubsub(&mut self, prefix: &str) -> Result<Vec<(&'static str, Result<(), Denied>)>, Silent> {
        let keys = Keys::new(prefix, fastrand::u128(..));
        let group = keys.group_channel(&scratch());
        let tries: [(&'static str, String); 6] = [
            ("SUBSCRIBE", group.clone()),
            ("PUBLISH", group.clone()),
            ("UNSUBSCRIBE", group),
            ("PSUBSCRIBE", keys.sockets_pattern()),
            ("PUBLISH", keys.socket_channel("0")),
            ("PUNSUBSCRIBE", keys.sockets_pattern()),
        ];
        let mut commands = Pipeline::with_capacity(tries.len());
        for (name, channel) in &tries {
            let command = commands.cmd(name).arg(channel);
            if *name == "PUBLISH" {
                command.arg("");
            }
        }
        let answers = self.ask("PUBLISH", &commands).await?;
        Ok(tries.iter().map(|(name, _)| *name).zip(answers.iter().map(denied)).collect())
    }

    /// Tries what `channels_redis.core` says, on keys of a node that there is not, and takes them away again.
    async fn try_core(
        &mut self,
        prefix: &str,
        pops_many: bool,
    ) -> Result<Vec<(&'static str, Result<(), Denied>)>, Silent> {
        let keys = CoreKeys::new(prefix);
        let node = format!("{:032x}", fastrand::u128(..));
        let (group, lease) = (keys.group(&scratch()), keys.lease(&node));
        let inbox = keys.inbox(&format!("specific.{node}!"));
        let mut commands = Pipeline::new();
        let mut names = Vec::new();
        let mut add = |name: &'static str, arguments: &[&str]| {
            names.push(name);
            commands.cmd(name).arg(arguments);
        };
        let life = SCRATCH_LIFE.to_string();
        add("SET", &[&lease, "1", "EX", &life]);
        add("EXPIRE", &[&lease, &life]);
        add("EXISTS", &[&lease]);
        add("ZADD", &[&group, "1", "x"]);
        add("EXPIRE", &[&group, &life]);
        add("ZRANGE", &[&group, "0", "-1"]);
        add("ZREM", &[&group, "x"]);
        add("ZADD", &[&inbox, "1", "x", "2", "y", "3", "z"]);
        add("EXPIRE", &[&inbox, &life]);
        add("ZREMRANGEBYSCORE", &[&inbox, "0", "0"]);
        add("ZCARD", &[&inbox]);
        add("EVAL", &["return redis.call('ZCARD', KEYS[1])", "1", &inbox]);
        if pops_many {
            add("BZMPOP", &["0.01", "1", &inbox, "MIN", "COUNT", "1"]);
        }
        // These are what Python says, and what we say to a Redis before version 7.
        add("ZCOUNT", &[&inbox, "-inf", "+inf"]);
        add("BZPOPMIN", &[&inbox, "0.01"]);
        add("ZPOPMIN", &[&inbox, "1"]);
        add("DEL", &[&inbox, &lease, &group]);
        let answers = self.ask("EVAL", &commands).await?;
        Ok(names.into_iter().zip(answers.iter().map(denied)).collect())
    }

    /// Watches for a while how connections come and go.
    async fn traffic(&mut self) -> Result<Answer<Traffic>, Silent> {
        let Ok((opened, open)) = self.connections().await? else { return Ok(Err(None)) };
        let since = Instant::now();
        time::sleep(WATCH).await;
        let Ok((opened_later, open_later)) = self.connections().await? else { return Ok(Err(None)) };
        Ok(Ok(Traffic {
            seconds: since.elapsed().as_secs_f64(),
            opened: opened_later.saturating_sub(opened),
            grown: open_later.saturating_sub(open),
        }))
    }

    /// How many connections there were so far, and how many there are.
    async fn connections(&mut self) -> Result<Answer<(u64, u64)>, Silent> {
        let mut commands = Pipeline::with_capacity(2);
        commands.cmd("INFO").arg("stats").cmd("INFO").arg("clients");
        let answers = self.ask("INFO", &commands).await?;
        let texts: Result<Vec<String>, _> = answers.into_iter().map(read).collect();
        Ok(texts.and_then(|texts| {
            let info = Info::parse(&texts.join("\n"));
            info.number("total_connections_received").zip(info.number("connected_clients")).ok_or(None)
        }))
    }

    /// Looks at inboxes and groups.
    async fn store(&mut self, prefix: &str, capacity: impl Fn(&str) -> u64) -> Result<Answer<Store>, Silent> {
        let keys = CoreKeys::new(prefix);
        let group_prefix = keys.group("");
        let inbox_prefix = keys.inbox("specific.");
        let (mut inboxes, mut groups) = (HashSet::new(), HashSet::new());
        let pattern = format!("{}*", facts::literal(prefix));
        let (mut cursor, mut seen, since) = ("0".to_owned(), 0, Instant::now());
        let mut whole = true;
        loop {
            let count = KEYS_AT_ONCE.to_string();
            let arguments = [&*cursor, "MATCH", &pattern, "COUNT", &count, "TYPE", "zset"];
            let (next, found): (String, Vec<Vec<u8>>) = match self.one("SCAN", &arguments).await? {
                Ok(answer) => answer,
                Err(reason) => return Ok(Err(reason)),
            };
            for key in found.into_iter().filter_map(|key| String::from_utf8(key).ok()) {
                if let Some(name) = key.strip_prefix(&group_prefix) {
                    groups.insert(name.to_owned());
                } else if key.starts_with(&inbox_prefix) && key.ends_with('!') {
                    inboxes.insert(key);
                }
            }
            seen += KEYS_AT_ONCE;
            cursor = next;
            if cursor == "0" {
                break;
            }
            let room = inboxes.len() < INBOXES_MAX && groups.len() < GROUPS_MAX;
            if KEYS_MAX <= seen || KEYS_TIME <= since.elapsed() || !room {
                whole = false;
                break;
            }
        }
        whole &= inboxes.len() <= INBOXES_MAX && groups.len() <= GROUPS_MAX;
        let inboxes: Vec<_> = inboxes.into_iter().take(INBOXES_MAX).collect();
        let groups: Vec<_> = groups.into_iter().take(GROUPS_MAX).collect();
        let inboxes = self.inboxes(inboxes, prefix, capacity).await?;
        let groups = self.groups(groups, &keys).await?;
        Ok(Ok(Store { whole, inboxes, groups }))
    }

    async fn inboxes(
        &mut self,
        found: Vec<String>,
        prefix: &str,
        capacity: impl Fn(&str) -> u64,
    ) -> Result<Vec<InboxFacts>, Silent> {
        let mut commands = Pipeline::with_capacity(2 * found.len());
        let stale = format!("({}", now() - STALE);
        for key in &found {
            commands.cmd("ZCARD").arg(key);
            commands.cmd("ZCOUNT").arg(key).arg("-inf").arg(&stale);
        }
        if found.is_empty() {
            return Ok(Vec::new());
        }
        let answers: Vec<u64> = numbers(self.ask("ZCOUNT", &commands).await?);
        let counts = answers.chunks_exact(2);
        let mut inboxes: Vec<_> = found
            .into_iter()
            .zip(counts)
            .filter_map(|(key, counts)| match *counts {
                [waiting, stale] if waiting != 0 => {
                    let capacity = capacity(key.strip_prefix(prefix).unwrap_or(&key));
                    Some(InboxFacts { key, capacity, waiting, stale })
                }
                _ => None,
            })
            .collect();
        inboxes.sort_by(|a, b| b.waiting.cmp(&a.waiting).then_with(|| a.key.cmp(&b.key)));
        Ok(inboxes)
    }

    async fn groups(&mut self, names: Vec<String>, keys: &CoreKeys) -> Result<Vec<GroupFacts>, Silent> {
        let mut groups = Vec::new();
        let mut nodes: HashMap<String, Vec<usize>> = HashMap::new();
        for name in names {
            let key = keys.group(&name);
            let mut commands = Pipeline::with_capacity(2);
            commands.cmd("ZCARD").arg(&key);
            commands.cmd("ZRANGE").arg(&key).arg(0).arg(MEMBERS_MAX - 1);
            let mut answers = self.ask("ZRANGE", &commands).await?.into_iter();
            let (Some(Ok(members)), Some(Ok(sample))) =
                (answers.next().map(read::<u64>), answers.next().map(read::<Vec<Vec<u8>>>))
            else {
                continue;
            };
            let mut group = GroupFacts { name, members, ..GroupFacts::default() };
            let mut inboxes: HashMap<String, u64> = HashMap::new();
            for member in sample.into_iter().filter_map(|member| String::from_utf8(member).ok()) {
                group.seen += 1;
                if non_local(&member).ends_with('!') {
                    *inboxes.entry(keys.inbox(&member)).or_default() += 1;
                }
                // A node shows on the host of its inbox that it lives.
                let here = host_index(non_local(&member).as_bytes(), self.hosts) == self.index;
                if let Some(node) = node_of(&member).filter(|_| here) {
                    nodes.entry(node.to_owned()).or_default().push(groups.len());
                }
            }
            group.inboxes = inboxes.into_iter().collect();
            group.inboxes.sort();
            groups.push(group);
        }
        if nodes.is_empty() {
            return Ok(groups);
        }
        let mut commands = Pipeline::with_capacity(nodes.len());
        for node in nodes.keys() {
            commands.cmd("EXISTS").arg(keys.lease(node));
        }
        let answers = self.ask("EXISTS", &commands).await?;
        for (in_groups, answer) in nodes.into_values().zip(answers) {
            for group in in_groups.into_iter().filter(|_| matches!(answer, Value::Int(0))) {
                if let Some(group) = groups.get_mut(group) {
                    group.of_dead_nodes += 1;
                }
            }
        }
        Ok(groups)
    }
}

/// The name of a group that nobody else is in.
fn scratch() -> String {
    format!("anteroom-doctor-{:032x}", fastrand::u128(..))
}

/// What Redis had against a command.
fn denied(answer: &Value) -> Result<(), Denied> {
    let Value::ServerError(error) = answer else { return Ok(()) };
    Err(Denied::new(error.kind() == Some(ServerErrorKind::NoPerm), error.to_string()))
}

fn read<T: FromRedisValue>(answer: Value) -> Answer<T> {
    match answer {
        Value::ServerError(error) => Err(Some(error.to_string())),
        answer => redis::from_redis_value(answer).map_err(|error| Some(error.to_string())),
    }
}

fn numbers(answers: Vec<Value>) -> Vec<u64> {
    answers.into_iter().map(|answer| read(answer).unwrap_or(0)).collect()
}

/// The time, in seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
