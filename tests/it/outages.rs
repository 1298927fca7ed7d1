//! What the whole server does while Redis is away or at fault, and after it.
//!
//! In each scene echo sockets, rooms and a proxied route are open at once, over a link to Redis that can be spoiled.

use std::collections::HashSet;
use std::fs;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use crate::channel_layer::both;
use crate::support::application::{Application, Reply};
use crate::support::client::{Client, Frame};
use crate::support::link::{Cut, Link};
use crate::support::redis::RedisServer;
use crate::support::server::TestServer;
use crate::support::{pause, wait_until};

/// Within this time of the end of a fault rooms must work again.
const RETURN_MAX: Duration = Duration::from_secs(10);
/// How long the processor is watched, and how many ticks of 10 ms it may spend: 2 % of a core.
const WATCHED: Duration = Duration::from_secs(3);
const TICKS_MAX: u64 = 6;
/// Connections to Redis that are being made or ended, and those of this test.
const SPARE_DESCRIPTORS: usize = 6;
/// An outage says what it is and when it ends, not each attempt.
const LINES_MAX: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    PubSub,
    Core,
}

both! {
    a_redis_that_is_killed
    a_redis_that_is_restarted_at_once
    a_redis_that_is_emptied
    a_redis_that_is_frozen
    a_redis_that_is_read_only
    a_redis_without_memory
    a_redis_without_room_for_clients
    a_redis_that_pauses_its_clients
    a_redis_that_is_busy_with_a_script
    a_link_that_is_cut
    a_link_that_is_reset
    a_link_that_swallows_everything
    a_link_that_is_far_too_slow
}

struct Member {
    client: Client,
    heard: Vec<u64>,
    errors: usize,
}

impl Member {
    /// Takes what has come.
    fn listen(&mut self) {
        while !self.client.is_silent_for(Duration::from_millis(20)) {
            let Frame::Text(text) = self.client.next() else { panic!("a room says no such thing") };
            let frame: Value = serde_json::from_str(&text).unwrap();
            match frame["message"].as_u64() {
                Some(number) => self.heard.push(number),
                None => self.errors += usize::from(frame["error"].is_string()),
            }
        }
    }
}

struct Scene {
    kind: Kind,
    redis: RedisServer,
    link: Link,
    server: TestServer,
    echoes: Vec<Client>,
    /// Two in one room and one in another. The first of each room speaks.
    members: Vec<Member>,
    next: u64,
    descriptors: usize,
    log_len: usize,
    gaps: f64,
}

impl Scene {
    async fn start(kind: Kind) -> Self {
        let redis = RedisServer::start().await;
        let link = Link::to(redis.port());
        let application = Application::start(|_| Reply::ok("from the application"));
        let backend = match kind {
            Kind::PubSub => "channels_redis.pubsub",
            Kind::Core => "channels_redis.core",
        };
        let server = TestServer::start(&format!(
            r#"
            [layer]
            backend = "{backend}"
            hosts = ["{}"]
            [upstream.app]
            servers = ["http://{}"]
            [[route]]
            name = "chat"
            path = '/chat/(?P<room>[a-z]+)/'
            handler = "room"
            group = "chat_{{room}}"
            receive = {{ type = "chat.message", pick = ["message"] }}
            deliver = {{ "chat.message" = {{ pick = ["message"] }} }}
            [[route]]
            name = "echo"
            path = '/echo/'
            handler = "echo"
            [[route]]
            name = "site"
            path = '/.*'
            handler = "proxy"
            upstream = "app"
            "#,
            link.url(),
            application.address,
        ));
        wait_until("the layer is up", || server.admin("/readyz").status == 200);
        let echoes = (0..3).map(|_| server.connect("/echo/")).collect();
        let member = |room| Member { client: server.connect(room), heard: Vec::new(), errors: 0 };
        let members = ["/chat/lobby/", "/chat/lobby/", "/chat/kitchen/"].map(member).into();
        let mut scene = Self {
            kind,
            redis,
            link,
            server,
            echoes,
            members,
            next: 0,
            descriptors: 0,
            log_len: 0,
            gaps: 0.0,
        };
        scene.rooms_work();
        scene.others_work();
        scene.descriptors = scene.open_descriptors();
        scene.log_len = scene.server.log().len();
        scene
    }

    fn proc(&self, name: &str) -> String {
        format!("/proc/{}/{name}", self.server.pid().as_raw_nonzero())
    }

    fn open_descriptors(&self) -> usize {
        fs::read_dir(self.proc("fd")).unwrap().count()
    }

    /// Processor time so far, in ticks of 10 ms.
    fn ticks(&self) -> u64 {
        let stat = fs::read_to_string(self.proc("stat")).unwrap();
        let fields: Vec<_> = stat.rsplit(") ").next().unwrap().split(' ').collect();
        // The 14th and 15th of all fields, of which the first two are cut off.
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }

    fn gaps(&self) -> f64 {
        self.server.metric("anteroom_layer_gaps_total{shard=\"0\"}")
    }

    /// One who speaks in each room.
    fn say(&mut self) -> [u64; 2] {
        [0, 2].map(|speaker| {
            let number = self.next;
            self.next += 1;
            self.members[speaker].client.send_text(&format!("{{\"message\":{number}}}"));
            number
        })
    }

    fn others_work(&mut self) {
        for echo in &mut self.echoes {
            echo.send_text("still here");
            assert_eq!(echo.next_text(), "still here");
        }
        let answer = self.server.get("/page");
        assert_eq!((answer.status, answer.body.as_str()), (200, "from the application"));
    }

    /// Speaks until all hear the same words, which must be soon.
    fn rooms_work(&mut self) {
        let since = Instant::now();
        loop {
            let [lobby, kitchen] = self.say();
            pause(Duration::from_millis(100));
            self.members.iter_mut().for_each(Member::listen);
            let heard = |member: usize, number| self.members[member].heard.contains(&number);
            if heard(0, lobby) && heard(1, lobby) && heard(2, kitchen) {
                return;
            }
            let health = self.server.admin("/readyz").body;
            assert!(since.elapsed() < RETURN_MAX, "rooms do not work again: {health}\n{}", self.server.log());
        }
    }

    /// Looks at everything while the fault lasts. `down` is whether the server should know of it.
    fn endure(&mut self, down: bool) {
        self.others_work();
        if down {
            wait_until("the server is not ready", || self.server.admin("/readyz").status == 503);
        }
        // A client is told what became of its words, unless they can wait for the end of the fault.
        self.say();
        self.members.iter_mut().for_each(Member::listen);
        let mut late = self.server.connect("/chat/lobby/");
        let before = self.ticks();
        pause(WATCHED);
        let spent = self.ticks() - before;
        assert!(spent <= TICKS_MAX, "{spent} ticks of 10 ms in {WATCHED:?}");
        let open = self.open_descriptors();
        assert!(open <= self.descriptors + SPARE_DESCRIPTORS, "{open} of {}", self.descriptors);
        assert!(late.is_silent_for(Duration::from_millis(1)) || matches!(late.next(), Frame::Text(_)));
        late.close(1000);
        self.others_work();
    }

    /// Looks at everything after the fault. `gap` is whether messages may have been missed.
    fn recover(mut self, gap: bool) {
        self.rooms_work();
        self.others_work();
        wait_until("the server is ready", || self.server.admin("/readyz").status == 200);
        let log = self.server.log().split_off(self.log_len);
        let missed = self.gaps() - self.gaps;
        if gap {
            assert!(1.0 <= missed, "{missed}");
            let words = ["may be missed", "they are renewed"];
            assert!(words.iter().any(|words| log.contains(words)), "{log}");
        } else {
            assert!(missed < 0.5, "{missed}\n{log}");
        }
        let lines = log.lines().filter(|line| line.contains("channel_layer"));
        assert!(lines.clone().count() <= LINES_MAX, "{log}");
        // What was said during the fault may still come. Each word comes back to who said it, or it is told that it does
        // not.
        wait_until("each word is answered, and a room hears the same", || {
            self.members.iter_mut().for_each(Member::listen);
            let answered = |speaker: usize| self.members[speaker].heard.len() + self.members[speaker].errors;
            let all = self.next <= u64::try_from(answered(0) + answered(2)).unwrap();
            (all || gap) && self.members[0].heard == self.members[1].heard
        });
        for member in &self.members {
            let heard: HashSet<_> = member.heard.iter().collect();
            assert_eq!(heard.len(), member.heard.len(), "twice: {:?}", member.heard);
            assert!(member.heard.is_sorted(), "out of order: {:?}", member.heard);
        }
        wait_until("no descriptor is left open", || self.open_descriptors() <= self.descriptors + 1);
        drop((self.echoes, self.members));
        self.server.stop();
    }

    /// Asks Redis directly, for some commands over a connection that stays.
    fn ask(&self, commands: &str) -> redis::Connection {
        let mut redis = redis::Client::open(self.redis.url()).unwrap().get_connection().unwrap();
        tell(&mut redis, commands);
        redis
    }
}

fn tell(redis: &mut redis::Connection, commands: &str) {
    for command in commands.split("; ") {
        let mut words = command.split(' ');
        let mut command = redis::cmd(words.next().unwrap());
        words.for_each(|word| {
            command.arg(word);
        });
        command.exec(redis).unwrap();
    }
}

async fn a_redis_that_is_killed(kind: Kind) {
    let mut scene = Scene::start(kind).await;
    scene.redis.kill();
    scene.endure(true);
    scene.redis.restart().await;
    scene.recover(true);
}

async fn a_redis_that_is_restarted_at_once(kind: Kind) {
    let mut scene = Scene::start(kind).await;
    for _ in 0..3 {
        scene.redis.kill();
        scene.say();
        scene.redis.restart().await;
        scene.rooms_work();
    }
    scene.endure(false);
    scene.recover(true);
}

async fn a_redis_that_is_emptied(kind: Kind) {
    let mut scene = Scene::start(kind).await;
    scene.ask("FLUSHALL");
    scene.endure(false);
    scene.recover(kind == Kind::Core);
}

async fn a_redis_that_is_frozen(kind: Kind) {
    let mut scene = Scene::start(kind).await;
    scene.redis.pause();
    scene.endure(true);
    scene.redis.resume();
    scene.recover(true);
}

async fn a_redis_that_is_read_only(kind: Kind) {
    let mut scene = Scene::start(kind).await;
    scene.ask("REPLICAOF 127.0.0.1 1");
    scene.endure(true);
    scene.ask("REPLICAOF NO ONE");
    scene.recover(true);
}

async fn a_redis_without_memory(kind: Kind) {
    let mut scene = Scene::start(kind).await;
    scene.ask("CONFIG SET maxmemory 1");
    scene.endure(false);
    scene.ask("CONFIG SET maxmemory 0");
    scene.recover(false);
}

async fn a_redis_without_room_for_clients(kind: Kind) {
    let mut scene = Scene::start(kind).await;
    // Which takes the only place.
    let mut redis =
        scene.ask("CONFIG SET maxclients 1; CLIENT KILL TYPE normal SKIPME yes; CLIENT KILL TYPE pubsub");
    scene.endure(true);
    tell(&mut redis, "CONFIG SET maxclients 1000");
    scene.recover(true);
}

async fn a_redis_that_pauses_its_clients(kind: Kind) {
    let mut scene = Scene::start(kind).await;
    scene.ask("CLIENT PAUSE 8000 ALL");
    scene.endure(true);
    scene.recover(true);
}

async fn a_redis_that_is_busy_with_a_script(kind: Kind) {
    let mut scene = Scene::start(kind).await;
    scene.ask("CONFIG SET lua-time-limit 100");
    let url = scene.redis.url();
    let endless = std::thread::spawn(move || {
        let mut redis = redis::Client::open(url).unwrap().get_connection().unwrap();
        redis::cmd("EVAL").arg(&["while true do end", "0"]).exec(&mut redis).unwrap_err()
    });
    scene.endure(kind == Kind::Core);
    scene.ask("SCRIPT KILL");
    endless.join().unwrap();
    scene.recover(kind == Kind::Core);
}

async fn a_link_that_is_cut(kind: Kind) {
    let mut scene = Scene::start(kind).await;
    scene.link.cut(Cut::Close);
    scene.endure(false);
    scene.recover(true);
}

async fn a_link_that_is_reset(kind: Kind) {
    let mut scene = Scene::start(kind).await;
    scene.link.cut(Cut::Reset);
    scene.endure(false);
    scene.recover(true);
}

async fn a_link_that_swallows_everything(kind: Kind) {
    let mut scene = Scene::start(kind).await;
    scene.link.deafen();
    scene.endure(true);
    scene.link.heal();
    scene.recover(true);
}

async fn a_link_that_is_far_too_slow(kind: Kind) {
    let mut scene = Scene::start(kind).await;
    scene.link.slow(Duration::from_secs(3));
    scene.endure(true);
    scene.link.heal();
    scene.recover(true);
}
