//! What is seen from outside: metrics, health, the configuration in force.
//!
//! On a listener of its own, so that it answers however busy the others are, and for GET alone.

use std::convert::Infallible;
use std::error::Error;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::{IntGauge, Registry, TextEncoder};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::channel_layer::ChannelLayer;
use crate::reload::{Assembly, Status};
use crate::request::Live;

/// From one answer until the next request head is complete.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection is asked for nothing more after this, and ends without its last answer after as long again: a peer that
/// reads nothing would keep others from health and metrics.
const GOODBYE_AFTER: Duration = Duration::from_secs(30);
/// Connections at once; more wait in the kernel.
const CONNECTIONS_MAX: usize = 64;
/// First and longest pause after an error of `accept`.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// What the admin listener shows.
#[derive(Debug)]
pub struct Admin {
    /// All metrics.
    pub registry: Registry,
    /// The table in force.
    pub live: Arc<Live>,
    /// Knows which series a removed route leaves behind.
    pub assembly: Assembly,
    /// The last reload.
    pub status: Arc<Status>,
    /// For readiness.
    pub layer: ChannelLayer,
    /// The file of the configuration; `None` for the built-in one.
    pub file: Option<String>,
    /// Cancelled when the process is asked to stop: from then on it is not ready.
    pub draining: CancellationToken,
    /// `anteroom_draining`.
    pub draining_gauge: IntGauge,
    /// `anteroom_drain_pending_connections`.
    pub drain_pending: IntGauge,
}

impl Admin {
    /// Serves until stopped.
    pub async fn run(self, listener: TcpListener, stop: CancellationToken) {
        tokio::select! {
            () = self.accept(listener, &stop) => (),
            () = stop.cancelled() => (),
        }
    }

    async fn accept(self, listener: TcpListener, stop: &CancellationToken) {
        let admin = Arc::new(self);
        let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let scrapes = Arc::new(Semaphore::new(1));
        let tasks = TaskTracker::new();
        let mut pause = PAUSE_MIN;
        loop {
            let Ok(permit) = Arc::clone(&connections).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    pause = PAUSE_MIN;
                    let (admin, scrapes) = (Arc::clone(&admin), Arc::clone(&scrapes));
                    let answer = service_fn(move |request| {
                        let (admin, scrapes) = (Arc::clone(&admin), Arc::clone(&scrapes));
                        async move { Ok::<_, Infallible>(admin.answer(scrapes, &request).await) }
                    });
                    let serving = serve(stream, answer);
                    let stop = stop.clone();
                    tasks.spawn(async move {
                        tokio::select! {
                            () = serving => (),
                            () = stop.cancelled() => (),
                        }
                        drop(permit);
                    });
                }
                Err(error) => {
                    let pause_ms = pause.as_millis();
                    tracing::warn!(%error, pause_ms, "the admin listener cannot accept");
                    time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    }

    async fn answer(
        self: Arc<Self>,
        scrapes: Arc<Semaphore>,
        request: &Request<Incoming>,
    ) -> Response<Full<Bytes>> {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
            answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return answer;
        }
        match request.uri().path() {
            "/metrics" => self.scrape(scrapes).await,
            "/healthz" => text(StatusCode::OK, "ok\n"),
            "/readyz" => self.ready(),
            "/config" => self.config(),
            _ => text(StatusCode::NOT_FOUND, "there are /metrics, /healthz, /readyz and /config\n"),
        }
    }

    /// A thousand routes make a page of megabytes, which takes longer than what comes from Redis may wait. So
    /// it is written on another thread, one page at a time.
    async fn scrape(self: Arc<Self>, scrapes: Arc<Semaphore>) -> Response<Full<Bytes>> {
        let permit = scrapes.acquire_owned().await;
        let page = move || {
            let page = self.metrics();
            drop(permit);
            page
        };
        tokio::task::spawn_blocking(page).await.unwrap_or_else(|error| unwritten(&error))
    }

    /// Rule: Prometheus text format 0.0.4.
    fn metrics(&self) -> Response<Full<Bytes>> {
        let draining = self.draining.is_cancelled();
        self.draining_gauge.set(draining.into());
        self.drain_pending.set(if draining { self.assembly.open_sockets() } else { 0 });
        let gone = self.assembly.gone(&self.live.load());
        match TextEncoder::new().encode_to_string(&self.registry.gather()) {
            Ok(page) => {
                self.assembly.forget(&gone, &self.live);
                with_type(StatusCode::OK, page, "text/plain; version=0.0.4; charset=utf-8")
            }
            Err(error) => unwritten(&error),
        }
    }

    /// Ready when all of it holds: a table is in force, the layer is up, nobody has asked us to stop. A file
    /// that was rejected is told, but the last good one serves as well as ever.
    fn ready(&self) -> Response<Full<Bytes>> {
        let health = self.layer.health();
        let draining = self.draining.is_cancelled();
        let ready = health.up && !draining;
        let page = json!({
            "ready": ready,
            "checks": {
                "config": {
                    "ok": true,
                    "generation": self.live.load().generation,
                    "last_reload_successful": self.status.last().error.is_none(),
                },
                "layer": { "ok": health.up, "backend": health.backend, "error": health.error },
                "draining": { "ok": !draining },
            },
        });
        json(if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, &page)
    }

    fn config(&self) -> Response<Full<Bytes>> {
        let snapshot = self.live.load();
        let last = self.status.last();
        let page = json!({
            "file": self.file,
            "generation": snapshot.generation,
            "sha256": snapshot.hash,
            "routes": snapshot.rules.routes().iter().map(|route| &*route.name).collect::<Vec<_>>(),
            "last_reload": {
                "at": last.at,
                "successful": last.error.is_none(),
                "errors": last.error,
            },
            "restart_pending": last.restart_pending,
            "certificate_errors": last
                .certificates
                .iter()
                .map(|one| json!({ "listener": one.listener, "file": one.file, "error": one.error }))
                .collect::<Vec<_>>(),
        });
        json(StatusCode::OK, &page)
    }
}

/// Serves one connection for no longer than it may take.
async fn serve<S>(stream: impl AsyncRead + AsyncWrite + Unpin, service: S)
where
    S: HttpService<Incoming, ResBody = Full<Bytes>>,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    let mut http = pin!(http.serve_connection(TokioIo::new(stream), service));
    let served = tokio::select! {
        served = &mut http => served,
        () = time::sleep(GOODBYE_AFTER) => {
            http.as_mut().graceful_shutdown();
            let Ok(served) = time::timeout(GOODBYE_AFTER, http).await else {
                return tracing::debug!("an admin connection is broken off, for its peer takes nothing");
            };
            served
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "an admin connection ended with an error");
    }
}

fn unwritten(error: &dyn Error) -> Response<Full<Bytes>> {
    tracing::error!(%error, "the metrics cannot be written");
    text(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be written\n")
}

fn text(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    with_type(status, text, "text/plain; charset=utf-8")
}

fn json(status: StatusCode, page: &serde_json::Value) -> Response<Full<Bytes>> {
    with_type(status, format!("{page:#}\n"), "application/json")
}

fn with_type(status: StatusCode, body: impl Into<Bytes>, kind: &'static str) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
    use tokio::time::Instant;

    use super::*;

    /// For how long a connection is served whose peer writes requests, `pause` after the last, and reads or not.
    async fn life(pause: Duration, reads: bool) -> Duration {
        let (mut peer, stream) = duplex(1 << 10);
        let page = Bytes::from(vec![b'x'; 4 << 10]);
        let answer = service_fn(move |_| {
            let page = page.clone();
            async move { Ok::<_, Infallible>(Response::new(Full::new(page))) }
        });
        let begun = Instant::now();
        let asking = async {
            let mut sink = vec![0; 8 << 10];
            loop {
                peer.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await?;
                let mut left = if reads { 4 << 10 } else { 0 };
                while 0 < left {
                    match peer.read(&mut sink).await? {
                        0 => return Ok::<_, std::io::Error>(()),
                        len => left = usize::saturating_sub(left, len),
                    }
                }
                time::sleep(pause).await;
            }
        };
        tokio::select! {
            () = serve(stream, answer) => (),
            _ = asking => panic!("the peer stays"),
        }
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_ends_between_two_answers_or_else_without_the_last() {
        let s = Duration::from_secs;
        assert_eq!(life(s(7), true).await, s(30));
        // Its next head is late.
        assert_eq!(life(s(60), true).await, s(10));
        assert_eq!(life(s(1), false).await, s(60));
    }
}
