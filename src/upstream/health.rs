//! Asks the servers of an upstream how they are, on the control plane.

use std::sync::{Arc, Weak};

use bytes::Bytes;
use http::{StatusCode, Uri};
use http_body_util::Empty;
use tokio::time;
use tokio::time::Instant;

use crate::upstream::conn::Conn;
use crate::upstream::connect::connect;
use crate::upstream::metrics::{Kind, Outcome};
use crate::upstream::outgoing::Outgoing;
use crate::upstream::server::{Server, Upstream};
use crate::upstream::{HealthCheck, ServerAddress, UpstreamError, Upstreams, forward};

/// Checks one server until nobody uses its upstream any more. One that a reload has replaced, and that has tunnels
/// still, gets no request any more, and has nothing to say of a server.
pub(super) async fn watch(upstreams: Upstreams, upstream: Weak<Upstream>, server: Arc<Server>) {
    loop {
        let Some(upstream) = upstream.upgrade() else { return };
        let Some(check) = &upstream.settings.health else { return };
        let started_at = Instant::now();
        let next_at = started_at + check.every;
        if !upstreams.is_latest(&upstream) {
            drop(upstream);
            time::sleep_until(next_at).await;
            continue;
        }
        let (outcome, found) = match time::timeout(check.timeout, ask(&upstream, &server, check)).await {
            Ok(Ok(status)) if status.as_u16() == check.status => (Outcome::Ok, Some(Ok(()))),
            Ok(Ok(status)) => (Outcome::Refused, Some(Err(format!("it answers {}", status.as_u16())))),
            Ok(Err(error @ UpstreamError::Shortage(_))) => (error.outcome(), None),
            Ok(Err(error)) => (error.outcome(), Some(Err(error.to_string()))),
            Err(_) => (Outcome::Timeout, Some(Err("it does not answer in time".to_owned()))),
        };
        upstream.metrics.count(Kind::Health, outcome, started_at.elapsed());
        if let Some(found) = found {
            upstream.checked(&server, found);
        }
        // Not held meanwhile: a reload may be the end of it.
        drop(upstream);
        time::sleep_until(next_at).await;
    }
}

async fn ask(upstream: &Upstream, server: &Server, check: &HealthCheck) -> Result<StatusCode, UpstreamError> {
    // The addresses of a name share the time that there is.
    let connect_timeout = upstream.settings.connect_timeout.min(check.timeout);
    let mut conn = Conn::new(connect(upstream, server, connect_timeout).await?);
    let target: Uri = check.path.parse().map_err(|_| UpstreamError::BadResponse("the path is none"))?;
    let host = match (&check.host, &server.address) {
        (Some(host), _) => host.clone(),
        (None, ServerAddress::Tcp { host, port, .. }) if host.contains(':') => format!("[{host}]:{port}"),
        (None, ServerAddress::Tcp { host, port, .. }) => format!("{host}:{port}"),
        (None, ServerAddress::Unix(_)) => "localhost".to_owned(),
    };
    let head = |_, out: &mut Vec<u8>| forward::check_head(&target, &host, out);
    let now = Instant::now();
    let mut outgoing = Outgoing::new(Empty::<Bytes>::new(), now, head);
    // The connection ends here: it goes with the answer's head.
    Ok(conn.exchange(&mut outgoing, false, now, check.timeout).await?.status)
}
