//! What is taken out of our own inbox on a host.

use redis::aio::MultiplexedConnection;
use redis::{Pipeline, Value};
use tokio::time::{self, Duration};

use crate::channel_layer::redis::core::Shard;
use crate::channel_layer::redis::core::connection::ask;
use crate::channel_layer::redis::core::post::CLEAR_INBOX;
use crate::channel_layer::redis::supervisor::End;

/// How long Redis waits for a message before it says that there is none.
const POP_WAIT: Duration = Duration::from_secs(2);
/// How much later that answer may come.
const POP_SPARE: Duration = Duration::from_millis(1500);
/// Messages that are taken out of the inbox at once.
const POP_MAX: usize = 64;

impl Shard {
    /// Takes messages out of the inbox, as many as there are, and hands them over.
    pub(super) async fn read(&self, mut connection: MultiplexedConnection, epoch: u64) -> End {
        let mut way = Pop::Many;
        loop {
            let commands = way.commands(&self.inbox);
            let asked = connection.send_packed_commands(&commands, 0, 1);
            let answers = match time::timeout(POP_WAIT + POP_SPARE, asked).await {
                Ok(Ok(answers)) => answers,
                Ok(Err(error)) => return End::Lost(error.to_string()),
                Err(_) => return End::Lost("Redis does not answer at the inbox".to_owned()),
            };
            let popped = match answers.into_iter().next() {
                Some(Value::ServerError(error)) if error.code() == "WRONGTYPE" => {
                    if let Err(reason) = self.clear_inbox(&mut connection).await {
                        return End::Lost(reason);
                    }
                    continue;
                }
                // Redis before 7 does not know the command.
                Some(Value::ServerError(_)) if way == Pop::Many => {
                    way = Pop::One;
                    continue;
                }
                Some(Value::ServerError(error)) => return End::Lost(error.to_string()),
                Some(answer) => messages(answer),
                None => Vec::new(),
            };
            way = match way {
                // Where one was there may be more.
                Pop::One if !popped.is_empty() => Pop::Rest,
                Pop::Rest if popped.len() < POP_MAX => Pop::One,
                way => way,
            };
            if popped.is_empty() {
                continue;
            }
            self.taken.notify_one();
            self.metrics.received.inc();
            for (member, sent_at) in popped {
                self.deliver(epoch, &member, sent_at);
            }
            // A full inbox must not keep the runtime from everything else.
            tokio::task::yield_now().await;
        }
    }

    /// Makes room for an inbox where somebody has put something else: nobody but us could, and all who send to us
    /// would fail for ever.
    async fn clear_inbox(&self, connection: &mut MultiplexedConnection) -> Result<(), String> {
        let mut commands = Pipeline::with_capacity(1);
        commands.cmd("EVAL").arg(CLEAR_INBOX).arg(1).arg(&self.inbox);
        match ask(connection, &commands).await?.into_iter().next() {
            Some(Value::ServerError(error)) => Err(error.to_string()),
            cleared => {
                if cleared == Some(Value::Int(1)) {
                    self.host.all.dropped_decode.inc();
                    self.host.complain(&self.inbox, "it was not put into the inbox but in its place");
                }
                Ok(())
            }
        }
    }
}

/// How messages are taken out of the inbox.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pop {
    /// Many, and it waits for the first.
    Many,
    /// One, and it waits for it.
    One,
    /// Those that are there.
    Rest,
}

impl Pop {
    fn commands(self, inbox: &str) -> Pipeline {
        let mut commands = Pipeline::with_capacity(1);
        let wait = POP_WAIT.as_secs();
        match self {
            Self::Many => {
                let command = commands.cmd("BZMPOP").arg(wait).arg(1).arg(inbox);
                command.arg("MIN").arg("COUNT").arg(POP_MAX)
            }
            Self::One => commands.cmd("BZPOPMIN").arg(inbox).arg(wait),
            Self::Rest => commands.cmd("ZPOPMIN").arg(inbox).arg(POP_MAX),
        };
        commands
    }
}

/// The messages and their times in an answer to any of the commands: `[key, [[message, time]…]]`,
/// `[key, message, time]` or `[[message, time]…]`.
fn messages(answer: Value) -> Vec<(Vec<u8>, f64)> {
    fn pair(value: Value) -> Option<(Vec<u8>, f64)> {
        let Value::Array(pair) = value else { return None };
        match <[Value; 2]>::try_from(pair).ok()? {
            [Value::BulkString(member), time] => Some((member, seconds(&time)?)),
            _ => None,
        }
    }
    let Value::Array(items) = answer else { return Vec::new() };
    match items.as_slice() {
        [Value::BulkString(_), Value::BulkString(member), time] => {
            seconds(time).map(|time| (member.clone(), time)).into_iter().collect()
        }
        [Value::BulkString(_), Value::Array(pairs)] => pairs.iter().cloned().filter_map(pair).collect(),
        _ => items.into_iter().filter_map(pair).collect(),
    }
}

fn seconds(time: &Value) -> Option<f64> {
    match time {
        Value::Double(time) => Some(*time),
        Value::BulkString(text) => std::str::from_utf8(text).ok()?.parse().ok(),
        _ => None,
    }
}
