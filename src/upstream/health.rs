//! Asks the servers of an upstream how they are, on the control plane.

use std::sync::{Arc, Weak};

use bytes::Bytes;
use http::header::{HOST, USER_AGENT};
use http::{HeaderValue, Request, StatusCode};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use tokio::time;
use tokio::time::Instant;

use crate::upstream::UpstreamError;
use crate::upstream::client::{builder, classify};
use crate::upstream::connect::connect;
use crate::upstream::metrics::{Kind, Outcome};
use crate::upstream::server::{Server, Upstream};
use crate::upstream::{HealthCheck, ServerAddress};

/// Checks one server until nobody uses its upstream any more.
pub(super) async fn watch(upstream: Weak<Upstream>, server: Arc<Server>) {
    loop {
        let Some(upstream) = upstream.upgrade() else { return };
        let Some(check) = &upstream.settings.health else { return };
        let started_at = Instant::now();
        let (outcome, found) = match time::timeout(check.timeout, ask(&upstream, &server, check)).await {
            Ok(Ok(status)) if status.as_u16() == check.status => (Outcome::Ok, Ok(())),
            Ok(Ok(status)) => (Outcome::Refused, Err(format!("it answers {}", status.as_u16()))),
            Ok(Err(error)) => (error.outcome(), Err(error.to_string())),
            Err(_) => (Outcome::Timeout, Err("it does not answer in time".to_owned())),
        };
        upstream.metrics.count(Kind::Health, outcome, started_at.elapsed());
        upstream.checked(&server, found);
        let next_at = started_at + check.every;
        // Not held meanwhile: a reload may be the end of it.
        drop(upstream);
        time::sleep_until(next_at).await;
    }
}

async fn ask(upstream: &Upstream, server: &Server, check: &HealthCheck) -> Result<StatusCode, UpstreamError> {
    let stream = connect(upstream, server).await?;
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = check.path.parse().map_err(|_| UpstreamError::BadResponse("the path is none"))?;
    let host = match &server.address {
        ServerAddress::Tcp { host, port, .. } if host.contains(':') => format!("[{host}]:{port}"),
        ServerAddress::Tcp { host, port, .. } => format!("{host}:{port}"),
        ServerAddress::Unix(_) => "localhost".to_owned(),
    };
    let host = HeaderValue::from_str(&host).unwrap_or(HeaderValue::from_static("localhost"));
    request.headers_mut().insert(HOST, host);
    request.headers_mut().insert(USER_AGENT, HeaderValue::from_static("anteroom-health"));
    let (mut sender, connection) =
        builder().handshake(TokioIo::new(stream)).await.map_err(|error| classify(&error))?;
    // Both end here: the connection goes with the answer's head.
    tokio::select! {
        answer = sender.send_request(request) => {
            answer.map(|answer| answer.status()).map_err(|error| classify(&error))
        }
        ended = connection => Err(ended.map_or_else(|error| classify(&error), |()| UpstreamError::Closed)),
    }
}
