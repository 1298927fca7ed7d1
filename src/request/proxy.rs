//! Passing plain requests and handshakes on to an application.

use std::rc::Rc;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use http::{HeaderValue, Method, Response, StatusCode, Version};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use crate::files::{Files, Found};
use crate::listener::{OpenConn, Readable};
use crate::request::body::{Body, BodyError, RequestBody};
use crate::request::pace::Paced;
use crate::request::service::{Answer, Visit, upgraded};
use crate::request::{Admitted, BadRequest, Rejection, Scheme, Target, TooLarge};
use crate::scope::ClientAddr;
use crate::session::Worker;
use crate::upstream;
use crate::upstream::forward::{Facts, handshake_head, request_head};
use crate::upstream::{Handshaken, Traceparent, Upstream, UpstreamError};
use crate::websocket::Handshake;
use crate::websocket::handshake::accept_key;

/// An application behind.
#[derive(Debug)]
pub struct Proxy {
    /// Its servers.
    pub upstream: Arc<Upstream>,
    /// The longest body of a request, in bytes.
    pub body_bytes_max: u64,
    /// Files that are answered in its place.
    pub try_files: Option<Files>,
}

/// What the application says to a handshake.
enum Switched {
    /// The answer for the client, after which its bytes go through.
    Tunnel(Answer),
    /// It will not have the WebSocket.
    Refused(Answer),
}

impl Visit<'_> {
    /// The file that is there for a plain request, or else the answer of the application.
    pub(super) async fn pass_on(&self, proxy: &Proxy, admitted: &Admitted<'_, Target>) -> Answer {
        let metrics = &admitted.target.metrics;
        let reads = self.head.method == Method::GET || self.head.method == Method::HEAD;
        let found = match &proxy.try_files {
            Some(files) if reads => Box::pin(self.find_file(files, &admitted.scope)).await,
            _ => Ok(Found::Nothing),
        };
        let answer = match found {
            Ok(Found::Answer(answer)) => answer.map(Body::from),
            Err(answer) => answer,
            Ok(Found::Nothing) => {
                let body = RequestBody::new(Rc::clone(&self.body), proxy.body_bytes_max);
                let facts = self.facts(proxy, admitted);
                let head = |length, out: &mut Vec<u8>| request_head(self.head, &facts, length, out);
                // Looking for a file takes its time; otherwise the request has just begun.
                let began_at = if proxy.try_files.is_some() { Instant::now() } else { self.started_at };
                let (client, method) = (&self.shared.client, &self.head.method);
                let answer = client.send(&proxy.upstream, method, head, body, began_at).await;
                match answer {
                    Ok(answer) => answer.map(Body::from),
                    Err(error) => {
                        return self.refuse(metrics, admitted.scope.client, &error.into(), false);
                    }
                }
            }
        };
        metrics.answered(answer.status(), self.started_at.elapsed());
        answer
    }

    /// The 101 of the application, after which bytes go both ways, or its other answer.
    pub(super) async fn open_tunnel(
        &self,
        proxy: &Proxy,
        admitted: &Admitted<'_, Target>,
        handshake: &Handshake,
        upgrade: OnUpgrade,
    ) -> Answer {
        let (metrics, client) = (&admitted.target.metrics, admitted.scope.client);
        match self.switch(proxy, admitted, handshake, upgrade).await {
            Ok(Switched::Tunnel(answer)) => self.accept(metrics, client, answer),
            Ok(Switched::Refused(answer)) => {
                let rejection = not_switched(answer.status(), answer.status());
                self.count_refusal(metrics, client, &rejection, true);
                answer
            }
            Err(rejection) => self.refuse(metrics, client, &rejection, true),
        }
    }

    async fn switch(
        &self,
        proxy: &Proxy,
        admitted: &Admitted<'_, Target>,
        handshake: &Handshake,
        upgrade: OnUpgrade,
    ) -> Result<Switched, Rejection> {
        let hold = self.admit_socket(admitted.scope.client)?;
        // Over HTTP/2 there is no key, so the application gets one of ours.
        let key = match self.head.headers.get(SEC_WEBSOCKET_KEY) {
            Some(key) if handshake.accept.is_some() => key.clone(),
            _ => fresh_key()?,
        };
        let accept = accept_key(&key).map_err(BadRequest::Handshake)?;
        let facts = self.facts(proxy, admitted);
        let head = |out: &mut Vec<u8>| handshake_head(self.head, &facts, Some(&key), out);
        let client = &self.shared.client;
        let handshaken = client.handshake(&proxy.upstream, head, &accept, &handshake.subprotocols).await?;
        let (head, tunnel) = match handshaken {
            Handshaken::Open(head, tunnel) => (head, tunnel),
            // In HTTP/2 any 2xx would be the agreement that the application has not given.
            Handshaken::Answer(answer)
                if self.head.version == Version::HTTP_2 && answer.status().is_success() =>
            {
                return Err(not_switched(StatusCode::BAD_GATEWAY, answer.status()));
            }
            Handshaken::Answer(answer) => return Ok(Switched::Refused(answer.map(Body::from))),
        };
        let mut answer = Response::from_parts(head, Body::default());
        let headers = answer.headers_mut();
        headers.remove(SEC_WEBSOCKET_ACCEPT);
        if let Some(accept) = &handshake.accept {
            headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
            headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(SEC_WEBSOCKET_ACCEPT, accept.clone());
            *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        } else {
            *answer.status_mut() = StatusCode::OK;
        }
        let passage = Passage {
            worker: Rc::clone(self.worker),
            conn_id: self.conn.id,
            open: Arc::clone(&self.conn.open),
            route: Arc::clone(admitted.target.metrics.name()),
            client: admitted.scope.client,
            hold: (hold, self.take_in_flight()),
        };
        self.worker.spawn(async move { passage.run(upgrade, tunnel).await });
        Ok(Switched::Tunnel(answer))
    }

    fn facts<'h>(&self, proxy: &Proxy, admitted: &'h Admitted<'_, Target>) -> Facts<'h> {
        let creates_trace = proxy.upstream.settings().traceparent == Traceparent::Create;
        Facts {
            client: admitted.scope.client,
            proxies: &admitted.proxies,
            peer_trusted: admitted.from_proxy,
            port_trusted: admitted.from_proxy && self.snapshot.rules.reads_x_forwarded(),
            https: admitted.scheme == Scheme::Https,
            // The one that was checked, and no other.
            host: admitted.host.as_str(),
            fresh_id: fastrand::u128(..),
            fresh_trace: creates_trace.then(|| (fastrand::u128(1..), fastrand::u64(1..))),
        }
    }
}

/// A tunnel, and what it keeps counted as long as it is there.
struct Passage<H> {
    worker: Rc<Worker>,
    conn_id: u64,
    open: Arc<OpenConn>,
    route: Arc<str>,
    client: ClientAddr,
    hold: H,
}

impl<H> Passage<H> {
    async fn run(self, upgrade: OnUpgrade, tunnel: upstream::Tunnel) {
        let Self { worker, conn_id, open, route, client, hold } = self;
        let Some(upgraded) = upgraded(upgrade).await else { return };
        let began_at = Instant::now();
        let stop = worker.farewell();
        let ended = match upgraded.downcast::<TokioIo<Paced>>() {
            Ok(parts) => {
                let stream = parts.io.into_inner().into_inner();
                upstream::tunnel(stream, parts.read_buf, tunnel, stop).await
            }
            Err(upgraded) => upstream::tunnel(TokioIo::new(upgraded), Bytes::new(), tunnel, stop).await,
        };
        tracing::info!(
            target: "anteroom::close",
            kind = "tunnel",
            conn = conn_id,
            route = &*route,
            client = %client,
            cause = ended.cause.label(),
            seconds = (began_at.elapsed().as_secs_f64() * 1_000.0).round() / 1_000.0,
            received_bytes = ended.bytes_to_server,
            sent_bytes = ended.bytes_to_client,
            "closed",
        );
        drop((open, hold));
    }
}

/// A stream of HTTP/2.
impl Readable for TokioIo<Upgraded> {}

/// The client gets `status`, for the application answers the handshake with `answered` and switches nothing.
fn not_switched(status: StatusCode, answered: StatusCode) -> Rejection {
    let reason = format!("the application answers {} to the handshake", answered.as_u16());
    Rejection::Upstream { status, reason }
}

/// Rule: RFC 6455, 4.1: 16 random bytes in base64.
fn fresh_key() -> Result<HeaderValue, Rejection> {
    let key = STANDARD.encode(fastrand::u128(..).to_be_bytes());
    HeaderValue::try_from(key)
        .map_err(|error| Rejection::Upstream { status: StatusCode::BAD_GATEWAY, reason: error.to_string() })
}

impl From<UpstreamError> for Rejection {
    fn from(error: UpstreamError) -> Self {
        let UpstreamError::ClientBody(body) = error else {
            return Self::Upstream { status: error.status(), reason: error.to_string() };
        };
        match body.downcast_ref::<BodyError>() {
            Some(BodyError::TooLarge(max)) => TooLarge::Body(*max).into(),
            Some(BodyError::TooSlow) => Self::SlowBody,
            Some(BodyError::Broken) | None => BadRequest::BrokenBody.into(),
        }
    }
}
