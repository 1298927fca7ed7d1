//! Opening a connection to a host.

use std::convert::Infallible;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, ProtocolVersion,
    PushInfo, RedisConnectionInfo, RedisError,
};

use crate::channel_layer::redis::{RedisUrl, Secret};

/// Connects and logs in, in the protocol RESP3. `on_push` is called for every push in the order of arrival;
/// the task of the connection waits meanwhile.
///
/// Nothing here and nothing that is asked on the connection has a limit: that is set where it is known what
/// the wait means.
pub(super) async fn connect(
    url: &RedisUrl,
    on_push: impl Fn(&PushInfo) + Send + Sync + 'static,
) -> Result<MultiplexedConnection, RedisError> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(None)
        .set_response_timeout(None)
        .set_push_sender(move |push: PushInfo| {
            on_push(&push);
            Ok::<_, Infallible>(())
        });
    Client::open(place(url)?)?.get_multiplexed_async_connection_with_config(&config).await
}

/// Where the host is and as whom to log in.
fn place(url: &RedisUrl) -> Result<ConnectionInfo, RedisError> {
    let mut login = RedisConnectionInfo::default()
        .set_protocol(ProtocolVersion::RESP3)
        .set_db(url.database.into())
        .set_lib_name(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
    if let Some(user) = &url.user {
        login = login.set_username(user);
    }
    if let Some(password) = url.password.as_ref().map(Secret::reveal) {
        login = login.set_password(password);
    }
    let place = ConnectionAddr::Tcp(url.host.clone(), url.port).into_connection_info()?;
    Ok(place.set_redis_settings(login).set_tcp_settings(TcpSettings::default().set_nodelay(true)))
}
