//! One connection's requests: each is decided, then answered or made a socket.

use std::convert::Infallible;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::time;
use tokio::time::Instant;

use crate::handler::Respond;
use crate::listener::{Accepted, ConnInfo, Stream};
use crate::request::access_log::{AccessLog, Seen};
use crate::request::{Admitted, Limits, Live, Metrics, Rejection, RouteMetrics, Snapshot, TargetKind, admit};
use crate::scope::{ClientAddr, Scope};
use crate::session::{Admission, Profile, Work, Worker};
use crate::websocket::Handshake;
use crate::websocket::handshake::wants_upgrade;

/// From the accept, or from an answer, until the next request head is complete.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// What hyper may buffer of a connection. `admit` has the exact bound of a request head.
const BUFFER_BYTES_MAX: usize = 64 << 10;
/// How long the 101 waits for the channel layer to confirm that the room is joined. A layer that takes
/// longer is on its way out; the socket opens then, and hears the room as soon as the layer is back.
const JOIN_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the 101 may take to leave.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(10);

/// What a client is told to wait before it comes again, in seconds.
pub(super) const RETRY_AFTER_S: u32 = 5;

type Answer = Response<Full<Bytes>>;

/// Serves the connections of one worker.
#[derive(Debug)]
pub struct Service {
    shared: Rc<Shared>,
}

#[derive(Debug)]
struct Shared {
    live: Arc<Live>,
    limits: Arc<Limits>,
    metrics: Arc<Metrics>,
    log: AccessLog,
}

impl Service {
    /// A service for one worker; what it is given is shared by all of them.
    pub fn new(live: Arc<Live>, limits: Arc<Limits>, metrics: Arc<Metrics>) -> Self {
        Self { shared: Rc::new(Shared { live, limits, metrics, log: AccessLog::default() }) }
    }
}

impl Work for Service {
    fn serve(&self, worker: Rc<Worker>, accepted: Accepted) -> impl Future<Output = ()> + 'static {
        let shared = Rc::clone(&self.shared);
        async move {
            match accepted.greet().await {
                Ok((stream, conn)) => serve(shared, worker, stream, Rc::new(conn)).await,
                Err(error) => tracing::error!(%error, "a connection could not be watched for readiness"),
            }
        }
    }
}

async fn serve(shared: Rc<Shared>, worker: Rc<Worker>, stream: Stream, conn: Rc<ConnInfo>) {
    // Whoever still comes while the process drains is answered, once.
    let is_late = worker.draining().is_cancelled();
    let ending = if is_late { worker.finishing() } else { worker.draining() }.clone();
    let (id, peer) = (conn.id, conn.peer);
    let serving = Rc::clone(&shared);
    let service = service_fn(move |request| {
        let (shared, worker, conn) = (Rc::clone(&serving), Rc::clone(&worker), Rc::clone(&conn));
        async move { Ok::<_, Infallible>(answer(&shared, &worker, conn, request).await) }
    });
    let http = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .keep_alive(!is_late)
        .max_buf_size(BUFFER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut http = pin!(http);
    let served = tokio::select! {
        served = http.as_mut() => served,
        () = ending.cancelled() => {
            // What is being answered still is; a connection between two requests ends.
            http.as_mut().graceful_shutdown();
            http.await
        }
    };
    if let Err(error) = served {
        // A head that hyper refused by itself never was a request, but it was answered.
        let answered = if error.is_parse_too_large() {
            Some((StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "too_large"))
        } else if error.is_parse() {
            Some((StatusCode::BAD_REQUEST, "bad_request"))
        } else {
            None
        };
        if let Some((status, reason)) = answered {
            shared.metrics.no_route().unreadable(status);
            shared.log.unreadable(id, peer, status, reason, &error);
        }
        tracing::debug!(conn = id, %error, "the connection ended with an error");
    }
}

async fn answer(
    shared: &Shared,
    worker: &Rc<Worker>,
    conn: Rc<ConnInfo>,
    mut request: Request<Incoming>,
) -> Answer {
    let started_at = Instant::now();
    let snapshot = shared.live.load();
    let upgrade = hyper::upgrade::on(&mut request);
    let (head, _body) = request.into_parts();
    let visit = Visit { shared, worker, conn: &conn, snapshot: &snapshot, head: &head, started_at };
    let Admitted { target, scope, upgrade: handshake, .. } = match admit(&snapshot.rules, conn.peer, &head) {
        Ok(admitted) => admitted,
        Err(refused) => {
            let route = refused.route.and_then(|index| snapshot.rules.routes().get(index));
            let metrics = route.map_or(shared.metrics.no_route(), |route| &route.target.metrics);
            return visit.refuse(metrics, refused.client, &refused.rejection, wants_upgrade(&head));
        }
    };
    match (&target.kind, handshake) {
        (TargetKind::WebSocket(profile), Some(handshake)) => {
            let client = scope.client;
            match visit.open(profile, scope, &handshake, upgrade).await {
                Ok(answer) => visit.accept(&target.metrics, client, answer),
                Err(rejection) => visit.refuse(&target.metrics, client, &rejection, true),
            }
        }
        (TargetKind::Respond(respond), _) => {
            target.metrics.answered(respond.status, started_at.elapsed());
            fixed(respond, &head.method)
        }
        // `admit` gives a WebSocket route nothing but handshakes.
        (TargetKind::WebSocket(_), None) => {
            visit.refuse(&target.metrics, scope.client, &Rejection::UpgradeRequired, false)
        }
    }
}

/// One request on its way to an answer.
struct Visit<'a> {
    shared: &'a Shared,
    worker: &'a Rc<Worker>,
    conn: &'a Rc<ConnInfo>,
    snapshot: &'a Snapshot,
    head: &'a Parts,
    started_at: Instant,
}

impl Visit<'_> {
    /// The checks that need more than the request, then the room, then the 101.
    async fn open(
        &self,
        profile: &Arc<Profile>,
        scope: Scope,
        handshake: &Handshake,
        upgrade: OnUpgrade,
    ) -> Result<Answer, Rejection> {
        if self.worker.draining().is_cancelled() {
            return Err(Rejection::Draining { retry_after_s: RETRY_AFTER_S });
        }
        let hold = self.shared.limits.admit(&self.snapshot.limits, scope.client)?;
        let group = profile.handler.group(&scope).map_err(|name| Rejection::GroupName { name })?;
        let seat = group.map(|group| self.worker.seat(group));
        if let Some(seat) = &seat
            && time::timeout(JOIN_TIMEOUT, seat.confirmed()).await.is_err()
        {
            // The layer's own lines say what is wrong with it.
            tracing::debug!(
                conn = self.conn.id,
                route = &*profile.route,
                "the channel layer did not confirm a room in time"
            );
        }
        let answer = switching(handshake, scope.subprotocol.as_deref());
        let admission = Admission {
            profile: Arc::clone(profile),
            scope,
            seat,
            conn_id: self.conn.id,
            open: Arc::clone(&self.conn.open),
            hold: Box::new(hold),
        };
        let worker = Rc::clone(self.worker);
        self.worker.spawn(async move { start(&worker, upgrade, admission).await });
        Ok(answer)
    }

    fn accept(&self, metrics: &RouteMetrics, client: ClientAddr, answer: Answer) -> Answer {
        metrics.accepted(self.started_at.elapsed());
        self.seen(metrics.name(), client).log_accepted(self.snapshot.generation);
        answer
    }

    fn refuse(
        &self,
        metrics: &RouteMetrics,
        client: ClientAddr,
        rejection: &Rejection,
        websocket: bool,
    ) -> Answer {
        if websocket {
            metrics.refused(rejection);
        } else {
            metrics.answered(rejection.status(), self.started_at.elapsed());
        }
        self.shared.log.refused(&self.seen(metrics.name(), client), rejection, websocket);
        refusal(rejection)
    }

    fn seen<'a>(&'a self, route: &'a str, client: ClientAddr) -> Seen<'a> {
        Seen { conn: self.conn, route, client, head: self.head, took: self.started_at.elapsed() }
    }
}

/// Takes the stream back out of the HTTP connection, whose buffers go, and starts the socket.
async fn start(worker: &Rc<Worker>, upgrade: OnUpgrade, admission: Admission) {
    let upgraded = match time::timeout(UPGRADE_TIMEOUT, upgrade).await {
        Ok(Ok(upgraded)) => upgraded,
        Ok(Err(error)) => return tracing::debug!(%error, "the client left before the 101"),
        Err(_) => return tracing::debug!("the client did not take the 101 in time"),
    };
    if let Ok(parts) = upgraded.downcast::<TokioIo<Stream>>() {
        worker.start(parts.io.into_inner().into(), parts.read_buf.into(), admission);
    } else {
        tracing::error!("an upgraded connection is not over a stream of ours");
    }
}

/// Rule: RFC 6455 section 4.2.2.
fn switching(handshake: &Handshake, subprotocol: Option<&str>) -> Answer {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = answer.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, handshake.accept.clone());
    if let Some(Ok(subprotocol)) = subprotocol.map(HeaderValue::from_str) {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, subprotocol);
    }
    answer
}

fn refusal(rejection: &Rejection) -> Answer {
    let mut answer = Response::new(Full::from(format!("{}: {}\n", rejection.label(), rejection.public())));
    *answer.status_mut() = rejection.status();
    let headers = answer.headers_mut();
    headers.extend(rejection.headers());
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}

fn fixed(respond: &Respond, method: &Method) -> Answer {
    let mut answer = Response::new(Full::new(respond.body.clone()));
    *answer.status_mut() = respond.status;
    *answer.headers_mut() = respond.headers.clone();
    if method == Method::HEAD {
        *answer.body_mut() = Full::default();
        answer.headers_mut().insert(header::CONTENT_LENGTH, respond.body.len().into());
    }
    answer
}
