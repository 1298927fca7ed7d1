//! Opening a connection to a server.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Cmd, Pipeline, ProtocolVersion, PushInfo, RedisConnectionInfo, Value, cmd,
};
use rustls::pki_types::ServerName;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinSet;
use tokio::time::{self, Duration};
use tokio_rustls::TlsConnector;

use crate::channel_layer::redis::host::lock;
use crate::channel_layer::redis::{RedisAddress, RedisServer, RedisTls, Secret};
use crate::tls::client_config;

/// How to reach servers that differ in nothing but their address.
pub(super) struct Connector {
    server: RedisServer,
    /// Made when it is needed first, for files of the system are read for it.
    tls: Mutex<Option<TlsConnector>>,
}

impl Connector {
    pub(super) fn new(server: RedisServer) -> Self {
        Self { server, tls: Mutex::default() }
    }

    /// The address that was configured.
    pub(super) fn address(&self) -> &RedisAddress {
        &self.server.address
    }

    /// How long [`Connector::open`] may take, which does not look at it.
    pub(super) fn timeout(&self) -> Duration {
        self.server.connect_timeout
    }

    /// Does something with a server that others could do as well: that takes half as long at most.
    pub(super) async fn limited<T>(
        &self,
        asked: impl Future<Output = Result<T, String>>,
    ) -> Result<T, String> {
        let limit = self.timeout() / 2;
        time::timeout(limit, asked).await.unwrap_or_else(|_| Err("it does not answer".to_owned()))
    }

    /// Connects and logs in, in the protocol RESP3. `on_push` is called for every push in the order of
    /// arrival; the task of the connection waits meanwhile.
    ///
    /// Nothing here and nothing that is asked on the connection has a limit: that is set where it is known
    /// what the wait means.
    ///
    /// # Errors
    ///
    /// Why there is no connection, without anything secret.
    pub(super) async fn open(
        &self,
        address: &RedisAddress,
        on_push: impl Fn(&PushInfo) + Send + Sync + 'static,
    ) -> Result<Connection, String> {
        match address {
            RedisAddress::Unix(path) => {
                let stream = UnixStream::connect(path).await.map_err(|error| error.to_string())?;
                self.log_in(stream, on_push).await
            }
            RedisAddress::Tcp(host, port) => {
                let stream = self.tcp(host, *port).await.map_err(|error| error.to_string())?;
                let Some(tls) = &self.server.tls else { return self.log_in(stream, on_push).await };
                let name = ServerName::try_from(host.clone())
                    .map_err(|_| format!("`{host}` is no name that a certificate can have"))?;
                let stream = self.tls(tls)?.connect(name, stream).await;
                self.log_in(stream.map_err(|error| format!("TLS: {error}"))?, on_push).await
            }
        }
    }

    async fn tcp(&self, host: &str, port: u16) -> std::io::Result<TcpStream> {
        let stream = TcpStream::connect((host, port)).await?;
        stream.set_nodelay(true)?;
        if self.server.keepalive {
            SockRef::from(&stream).set_keepalive(true)?;
        }
        Ok(stream)
    }

    fn tls(&self, settings: &RedisTls) -> Result<TlsConnector, String> {
        if let Some(connector) = &*lock(&self.tls) {
            return Ok(connector.clone());
        }
        let ca = settings.authorities();
        let config = client_config(settings.verify, ca.as_ref(), settings.identity.as_ref())?;
        let connector = TlsConnector::from(Arc::new(config));
        Ok(lock(&self.tls).insert(connector).clone())
    }

    async fn log_in(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        on_push: impl Fn(&PushInfo) + Send + Sync + 'static,
    ) -> Result<Connection, String> {
        let config =
            AsyncConnectionConfig::new().set_response_timeout(None).set_push_sender(move |push: PushInfo| {
                on_push(&push);
                Ok::<_, Infallible>(())
            });
        let opened = MultiplexedConnection::new_with_config(&self.login(), stream, config).await;
        let (commands, driver) = opened.map_err(|error| error.to_string())?;
        let mut connection = Connection { commands, greeting: Greeting::default(), driver: JoinSet::new() };
        connection.driver.spawn(driver);
        connection.greeting = self.greet(&mut connection.commands).await?;
        Ok(connection)
    }

    fn login(&self) -> RedisConnectionInfo {
        let mut login = RedisConnectionInfo::default()
            .set_protocol(ProtocolVersion::RESP3)
            .set_db(self.server.database.into())
            .set_lib_name(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
        if let Some(user) = &self.server.login.user {
            // Without a password the user may need none; nobody is asked to log in without a word.
            login = login.set_username(user).set_password("");
        }
        if let Some(password) = self.server.login.password.as_ref().map(Secret::reveal) {
            login = login.set_password(password);
        }
        login
    }

    async fn greet(&self, connection: &mut MultiplexedConnection) -> Result<Greeting, String> {
        let mut commands = Pipeline::with_capacity(2);
        commands.add_command(greeting());
        if let Some(name) = &self.server.client_name {
            commands.cmd("CLIENT").arg("SETNAME").arg(name);
        }
        let answers = connection.send_packed_commands(&commands, 0, commands.len()).await;
        let answers = answers.map_err(|error| error.to_string())?;
        Ok(answers.into_iter().next().map(Greeting::from).unwrap_or_default())
    }
}

/// A connection. It ends with this value, whatever clones of `commands` there still are.
pub(super) struct Connection {
    pub(super) commands: MultiplexedConnection,
    pub(super) greeting: Greeting,
    /// Aborts its task when it is dropped.
    driver: JoinSet<()>,
}

/// Asks for a [`Greeting`]. No access list can forbid it.
pub(super) fn greeting() -> Cmd {
    cmd("HELLO")
}

/// What a server says about itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Greeting {
    /// It is a node of a Redis Cluster.
    pub(super) is_cluster: bool,
    /// It is a Sentinel, which carries no messages.
    pub(super) is_sentinel: bool,
    /// It follows a master.
    pub(super) is_replica: bool,
}

impl Greeting {
    /// What is published here is heard nowhere else. Nodes of a cluster pass it on, whatever they are.
    pub(super) fn is_lone_replica(self) -> bool {
        self.is_replica && !self.is_cluster
    }
}

/// Whoever answers something else, a proxy perhaps, is taken for a master on its own.
impl From<Value> for Greeting {
    fn from(answer: Value) -> Self {
        let Value::Map(entries) = answer else { return Self::default() };
        let is = |key: &str, word: &str| {
            entries.iter().any(|(name, value)| text(name) == Some(key) && text(value) == Some(word))
        };
        Self {
            is_cluster: is("mode", "cluster"),
            is_sentinel: is("mode", "sentinel"),
            is_replica: is("role", "replica"),
        }
    }
}

/// The text of a value that is one.
pub(super) fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_says_about_itself_is_understood() {
        let word = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let map = |entries: &[(&str, Value)]| {
            Value::Map(entries.iter().map(|(key, value)| (word(key), value.clone())).collect())
        };
        let cases = [
            // answer, cluster, sentinel, replica
            (map(&[("mode", word("standalone")), ("role", word("master"))]), (false, false, false)),
            (map(&[("proto", Value::Int(3)), ("role", word("replica"))]), (false, false, true)),
            (map(&[("mode", Value::SimpleString("cluster".to_owned()))]), (true, false, false)),
            (map(&[("mode", word("sentinel"))]), (false, true, false)),
            (Value::Okay, (false, false, false)),
        ];
        for (answer, (is_cluster, is_sentinel, is_replica)) in cases {
            let greeting = Greeting { is_cluster, is_sentinel, is_replica };
            assert_eq!(Greeting::from(answer.clone()), greeting, "{answer:?}");
        }
    }
}
