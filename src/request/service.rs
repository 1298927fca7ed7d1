//! One connection's requests: each is decided, then answered or made a socket.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header};
use hyper::body::{Body as _, Incoming};
use hyper::ext::Protocol;
use hyper::rt::Executor;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::time;
use tokio::time::Instant;

use crate::files::{Files, Found};
use crate::handler::Respond;
use crate::listener::{Accepted, ConnInfo, GreetError, Stream};
use crate::request::access_log::Seen;
use crate::request::body::{Body, BoxError, SharedBody, linger};
use crate::request::keeper::Keeper;
use crate::request::pace::{InFlight, Order, Pace, Paced};
use crate::request::patience;
use crate::request::patience::NotTaken;
use crate::request::{
    Admittance, Arrival, Limits, Live, Metrics, Rejection, RouteMetrics, Snapshot, TargetKind, admit,
};
use crate::scope::{ClientAddr, Scope};
use crate::session::{Admission, Profile, Transport, Work, Worker};
use crate::upstream;
use crate::websocket::Handshake;

/// Headers that hyper reads without an allocation of its own.
const HEADERS_INLINE_MAX: usize = 100;
/// Requests and sockets at once on one connection of HTTP/2.
const STREAMS_MAX: u32 = 128;
/// What a client may send ahead of its reader, on one stream and on all of a connection.
const STREAM_WINDOW_BYTES: u32 = 256 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 1 << 20;
/// What waits on one stream for a client that reads slowly.
const SEND_BUFFER_BYTES_MAX: usize = 64 << 10;
/// A connection of HTTP/2 is pinged after this, and ends without an answer in that time.
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the 101 waits for the channel layer to confirm that the room is joined. A layer that takes
/// longer is on its way out; the socket opens then, and hears the room as soon as the layer is back.
const JOIN_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the 101 may take to leave.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) type Answer = Response<Body>;

/// Serves the connections of one worker.
#[derive(Debug)]
pub struct Service {
    shared: Rc<Shared>,
}

#[derive(Debug)]
pub(super) struct Shared {
    live: Arc<Live>,
    limits: Arc<Limits>,
    metrics: Arc<Metrics>,
    keeper: Rc<Keeper>,
    /// The connections of this worker to applications.
    pub(super) client: Rc<upstream::Client>,
}

impl Service {
    /// A service for one worker; what it is given is shared by all of them.
    pub fn new(live: Arc<Live>, limits: Arc<Limits>, metrics: Arc<Metrics>) -> Self {
        let (keeper, client) = (Rc::default(), upstream::Client::new());
        Self { shared: Rc::new(Shared { live, limits, metrics, keeper, client }) }
    }
}

impl Work for Service {
    fn serve(&self, worker: Rc<Worker>, accepted: Accepted) -> impl Future<Output = ()> + 'static {
        let shared = Rc::clone(&self.shared);
        async move {
            // Half a handshake must not hold up the end of the process.
            let greeted = tokio::select! {
                greeted = accepted.greet() => greeted,
                () = worker.finishing().cancelled() => return,
            };
            match greeted {
                Ok((stream, conn)) => serve(shared, worker, stream, Rc::new(conn)).await,
                Err(GreetError::Refused) => (),
                Err(error @ GreetError::Unwatched(_)) => tracing::error!("{error}"),
            }
        }
    }
}

async fn serve(shared: Rc<Shared>, worker: Rc<Worker>, stream: Stream, conn: Rc<ConnInfo>) {
    let is_http2 = conn.tls.as_ref().is_some_and(|tls| tls.http2);
    let (id, peer) = (conn.id, conn.peer);
    let watched = shared.keeper.watch(&worker, id, is_http2);
    let pace = &watched.pace;
    let io = TokioIo::new(Paced::new(stream, Arc::clone(pace)));
    let sizes = shared.live.load().rules.sizes();
    let serving = Rc::clone(&shared);
    let executor = Spawner {
        worker: Rc::clone(&worker),
        pace: Arc::clone(pace),
        metrics: Arc::clone(&shared.metrics),
        conn_id: id,
    };
    let beginning = Arc::clone(pace);
    let service = service_fn(move |request| {
        let (shared, worker, conn) = (Rc::clone(&serving), Rc::clone(&worker), Rc::clone(&conn));
        let in_flight = beginning.begin();
        async move { Ok::<_, Infallible>(answer(&shared, &worker, conn, request, in_flight).await) }
    });
    let served = if is_http2 {
        let http = http2::Builder::new(executor)
            .timer(TokioTimer::new())
            .enable_connect_protocol()
            .max_concurrent_streams(STREAMS_MAX)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_send_buf_size(SEND_BUFFER_BYTES_MAX)
            .max_header_list_size(sizes.header_list_max())
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_TIMEOUT)
            .serve_connection(io, service);
        // Each connection has room for the largest of these; this one is larger by far.
        Box::pin(run(http, pace)).await
    } else {
        let mut builder = http1::Builder::new();
        builder
            // The pace has both times, of which hyper has one.
            .header_read_timeout(None)
            .keep_alive(!pace.is_late())
            // `admit` has the exact bounds.
            .max_buf_size(sizes.head_bytes_max + sizes.target_bytes_max);
        if HEADERS_INLINE_MAX < sizes.headers_max {
            builder.max_headers(sizes.headers_max);
        }
        run(builder.serve_connection(io, service).with_upgrades(), pace).await
    };
    if pace.has_stalled() {
        shared.metrics.not_taken.inc();
        tracing::debug!(conn = id, "the connection is broken off, for its client takes nothing");
    }
    let Err(error) = served else { return };
    if let Some((status, reason)) = answered_by_hyper(&error) {
        shared.metrics.no_route().unreadable(status);
        shared.keeper.log.unreadable(id, peer, status, reason, &error);
    } else if error.is_parse_version_h2() {
        shared.keeper.log.http2_in_clear(id, peer);
    }
    tracing::debug!(conn = id, %error, "the connection ended with an error");
}

/// What hyper has answered by itself to a head that it did not take. It never was a request.
fn answered_by_hyper(error: &hyper::Error) -> Option<(StatusCode, &'static str)> {
    if error.is_parse_too_large() {
        // Nothing but its words (those of hyper 1.12) tells a long target from a long head.
        let is_target = error.to_string() == "URI too long";
        let too_large =
            if is_target { StatusCode::URI_TOO_LONG } else { StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE };
        return Some((too_large, "too_large"));
    }
    // The preface of HTTP/2 gets no answer.
    let is_answered = error.is_parse() && !error.is_parse_version_h2();
    is_answered.then_some((StatusCode::BAD_REQUEST, "bad_request"))
}

/// A connection of hyper, of either version of HTTP.
trait Http: Future<Output = hyper::Result<()>> {
    /// Lets it end once what is being answered is.
    fn finish(self: Pin<&mut Self>);
}

impl<I, S> Http for http1::UpgradeableConnection<I, S>
where
    Self: Future<Output = hyper::Result<()>>,
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
    S: hyper::service::HttpService<Incoming, ResBody = Body>,
    S::Error: Into<BoxError>,
{
    fn finish(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<I, S, E> Http for http2::Connection<I, S, E>
where
    Self: Future<Output = hyper::Result<()>>,
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
    S: hyper::service::HttpService<Incoming, ResBody = Body>,
    S::Error: Into<BoxError>,
    E: hyper::rt::bounds::Http2ServerConnExec<S::Future, Body>,
{
    fn finish(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

/// Serves a connection to its end, which comes when nothing is asked of it any more, too.
async fn run(http: impl Http, pace: &Pace) -> hyper::Result<()> {
    let mut http = pin!(http);
    let mut order = Order::Serve;
    poll_fn(|context| {
        loop {
            if let Poll::Ready(served) = http.as_mut().poll(context) {
                return Poll::Ready(served);
            }
            if order == Order::End {
                return Poll::Ready(Ok(()));
            }
            order = ready!(pace.poll_order(order, context));
            match order {
                // What waits in the kernel is to go with it: the write that is tried once more has it reset.
                Order::End if pace.has_stalled() => pace.mark_fragile(),
                Order::End => return Poll::Ready(Ok(())),
                Order::Serve | Order::Finish => http.as_mut().finish(),
            }
        }
    })
    .await
}

/// Runs the tasks of HTTP/2 connections among those of the worker.
#[derive(Clone)]
struct Spawner {
    worker: Rc<Worker>,
    pace: Arc<Pace>,
    metrics: Arc<Metrics>,
    conn_id: u64,
}

impl<F: Future<Output = ()> + 'static> Executor<F> for Spawner {
    fn execute(&self, task: F) {
        let answering = patience::answer(task, Arc::clone(&self.pace));
        let (metrics, conn_id) = (Arc::clone(&self.metrics), self.conn_id);
        self.worker.spawn(async move {
            if let Err(NotTaken) = answering.await {
                metrics.not_taken.inc();
                tracing::debug!(conn = conn_id, "an answer is broken off, for its client does not take it");
            }
        });
    }
}

async fn answer(
    shared: &Shared,
    worker: &Rc<Worker>,
    conn: Rc<ConnInfo>,
    mut request: Request<Incoming>,
    in_flight: InFlight,
) -> Answer {
    let started_at = Instant::now();
    let snapshot = shared.live.load();
    let upgrade = hyper::upgrade::on(&mut request);
    let (head, body) = request.into_parts();
    if head.version == Version::HTTP_10 {
        // Its client may take the end of the connection for that of the answer.
        in_flight.mark_fragile();
    }
    let visit = Visit {
        shared,
        worker,
        conn: &conn,
        snapshot: &snapshot,
        head: &head,
        started_at,
        in_flight: Cell::new(Some(in_flight)),
        body: Rc::new(RefCell::new(body)),
        awaits: Cell::new(None),
    };
    let mut answer = visit.answer(upgrade).await;
    visit.awaits.set(None);
    if Rc::strong_count(&visit.body) == 1 && !visit.body.borrow().is_end_stream() {
        worker.spawn(linger(Rc::clone(&visit.body)));
    }
    // If not, a socket has it.
    if let Some(in_flight) = visit.in_flight.take() {
        answer.body_mut().hold(in_flight, Rc::clone(&visit.body));
    }
    answer
}

/// One request on its way to an answer.
pub(super) struct Visit<'a> {
    pub(super) shared: &'a Shared,
    pub(super) worker: &'a Rc<Worker>,
    pub(super) conn: &'a Rc<ConnInfo>,
    pub(super) snapshot: &'a Snapshot,
    pub(super) head: &'a Parts,
    pub(super) started_at: Instant,
    in_flight: Cell<Option<InFlight>>,
    pub(super) body: SharedBody,
    /// What is counted if the client leaves while its answer is awaited.
    awaits: Cell<Option<Awaited<'a>>>,
}

/// A request that was let in and is not answered yet.
#[derive(Clone, Copy)]
struct Awaited<'a> {
    metrics: &'a RouteMetrics,
    client: ClientAddr,
    websocket: bool,
}

/// hyper drops a request whose client has left.
impl Drop for Visit<'_> {
    fn drop(&mut self) {
        // At the end of the process it is we who leave.
        if let Some(Awaited { metrics, client, websocket }) = self.awaits.take()
            && !self.worker.is_stopping()
        {
            self.count_refusal(metrics, client, &Rejection::ClientGone, websocket);
        }
    }
}

impl Visit<'_> {
    async fn answer(&self, upgrade: OnUpgrade) -> Answer {
        let Self { shared, conn, head, .. } = self;
        let rules = &self.snapshot.rules;
        let arrival = Arrival {
            peer: conn.peer,
            tls: conn.tls.is_some(),
            server_name: conn.tls.as_ref().and_then(|tls| tls.server_name.as_deref()),
            protocol: head.extensions.get::<Protocol>().map(Protocol::as_str),
        };
        let mut admitted = match admit(rules, &arrival, head) {
            Ok(admitted) => admitted,
            Err(refused) => {
                let route = refused.route.and_then(|index| rules.routes().get(index));
                let metrics = route.map_or(shared.metrics.no_route(), |route| &route.target.metrics);
                let websocket = arrival.wants_upgrade(head);
                return self.refuse(metrics, refused.client, &refused.rejection, websocket);
            }
        };
        let (target, client) = (admitted.target, admitted.scope.client);
        let websocket = admitted.upgrade.is_some();
        self.awaits.set(Some(Awaited { metrics: &target.metrics, client, websocket }));
        match (&target.kind, admitted.upgrade.take()) {
            (TargetKind::WebSocket(profile), Some(handshake)) => {
                match self.open(profile, admitted.scope, &handshake, upgrade).await {
                    Ok(answer) => self.accept(&target.metrics, client, answer),
                    Err(rejection) => self.refuse(&target.metrics, client, &rejection, true),
                }
            }
            (TargetKind::Proxy(proxy), Some(handshake)) => {
                // Boxed, as files are below: it is rare, and its room would be taken, and moved, with each request.
                Box::pin(self.open_tunnel(proxy, &admitted, &handshake, upgrade)).await
            }
            (TargetKind::Proxy(proxy), None) => self.pass_on(proxy, &admitted).await,
            (TargetKind::Static(files), _) => {
                let answer = Box::pin(self.file(files, &admitted.scope)).await;
                target.metrics.answered(answer.status(), self.started_at.elapsed());
                answer
            }
            (TargetKind::Respond(respond), _) => {
                target.metrics.answered(respond.status, self.started_at.elapsed());
                fixed(respond, &head.method)
            }
            // `admit` gives a WebSocket route nothing but handshakes.
            (TargetKind::WebSocket(_), None) => {
                self.refuse(&target.metrics, client, &Rejection::UpgradeRequired, false)
            }
        }
    }

    /// Counts a socket or tunnel in, unless the process stops or there are too many.
    pub(super) fn admit_socket(&self, client: ClientAddr) -> Result<Admittance, Rejection> {
        if self.worker.draining().is_cancelled() {
            return Err(Rejection::Draining);
        }
        self.shared.limits.admit(&self.snapshot.limits, client)
    }

    /// What keeps the connection from being idle as long as a stream of it is a socket. Over HTTP/1.1 the
    /// connection itself becomes the socket, and nothing need be kept.
    pub(super) fn take_in_flight(&self) -> Option<InFlight> {
        if self.head.version == Version::HTTP_2 { self.in_flight.take() } else { None }
    }

    /// A file, or that there is none.
    async fn file(&self, files: &Files, scope: &Scope) -> Answer {
        if self.head.method != Method::GET && self.head.method != Method::HEAD {
            let mut answer =
                plain(StatusCode::METHOD_NOT_ALLOWED, "method: files are read with GET or HEAD\n");
            answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return answer;
        }
        match self.find_file(files, scope).await {
            Ok(Found::Answer(answer)) => answer.map(Body::from),
            Ok(Found::Nothing) => plain(StatusCode::NOT_FOUND, "not_found: there is no such file\n"),
            Err(answer) => answer,
        }
    }

    /// Looks for the file that the request is for: what the route captured as `path`, or else its whole path.
    pub(super) async fn find_file(&self, files: &Files, scope: &Scope) -> Result<Found, Answer> {
        let path = scope.params.get("path").unwrap_or(&scope.path);
        files.find(self.head, path).await.map_err(|error| {
            tracing::error!(conn = self.conn.id, root = %files.root.display(), path, %error, "a file cannot be read");
            plain(StatusCode::INTERNAL_SERVER_ERROR, "internal: the file cannot be read\n")
        })
    }

    /// The checks that need more than the request, then the room, then the 101.
    async fn open(
        &self,
        profile: &Arc<Profile>,
        scope: Scope,
        handshake: &Handshake,
        upgrade: OnUpgrade,
    ) -> Result<Answer, Rejection> {
        let hold = self.admit_socket(scope.client)?;
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
            hold: match self.take_in_flight() {
                Some(in_flight) => Box::new((hold, in_flight)),
                None => Box::new(hold),
            },
        };
        let worker = Rc::clone(self.worker);
        self.worker.spawn(async move { start(&worker, upgrade, admission).await });
        Ok(answer)
    }

    pub(super) fn accept(&self, metrics: &RouteMetrics, client: ClientAddr, answer: Answer) -> Answer {
        metrics.accepted(self.started_at.elapsed());
        self.seen(metrics.name(), client).log_accepted(self.snapshot.generation);
        answer
    }

    pub(super) fn refuse(
        &self,
        metrics: &RouteMetrics,
        client: ClientAddr,
        rejection: &Rejection,
        websocket: bool,
    ) -> Answer {
        self.count_refusal(metrics, client, rejection, websocket);
        let mut answer = refusal(rejection);
        // Somebody in between may have read it otherwise, and so taken its body, or what is behind it, for something
        // else. HTTP/2 has frames, and no such header.
        if answer.status() == StatusCode::BAD_REQUEST && self.head.version != Version::HTTP_2 {
            answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        answer
    }

    /// Counts and logs a refusal that is answered elsewhere.
    pub(super) fn count_refusal(
        &self,
        metrics: &RouteMetrics,
        client: ClientAddr,
        rejection: &Rejection,
        websocket: bool,
    ) {
        if websocket {
            metrics.refused(rejection);
        } else {
            metrics.answered(rejection.status(), self.started_at.elapsed());
        }
        self.shared.keeper.log.refused(&self.seen(metrics.name(), client), rejection, websocket);
    }

    fn seen<'s>(&'s self, route: &'s str, client: ClientAddr) -> Seen<'s> {
        Seen { conn: self.conn, route, client, head: self.head, took: self.started_at.elapsed() }
    }
}

/// Takes the stream back out of the HTTP connection, whose buffers go, and starts the socket.
async fn start(worker: &Rc<Worker>, upgrade: OnUpgrade, admission: Admission) {
    let Some(upgraded) = upgraded(upgrade).await else { return };
    match upgraded.downcast::<TokioIo<Paced>>() {
        Ok(parts) => {
            let stream = parts.io.into_inner().into_inner();
            worker.start(stream.into(), parts.read_buf.into(), admission);
        }
        // A stream of HTTP/2, which stays within its connection.
        Err(upgraded) => worker.start(Transport::polled(TokioIo::new(upgraded)), Vec::new(), admission),
    }
}

/// The connection, or the stream of it, once the client has the answer to its handshake.
pub(super) async fn upgraded(upgrade: OnUpgrade) -> Option<Upgraded> {
    match time::timeout(UPGRADE_TIMEOUT, upgrade).await {
        Ok(Ok(upgraded)) => return Some(upgraded),
        Ok(Err(error)) => tracing::debug!(%error, "the client left before the answer to its handshake"),
        Err(_) => tracing::debug!("the client did not take the answer to its handshake in time"),
    }
    None
}

/// Rule: RFC 6455 section 4.2.2, and RFC 8441 section 5 for HTTP/2, where the answer is a 200 and no more.
fn switching(handshake: &Handshake, subprotocol: Option<&str>) -> Answer {
    let mut answer = Response::new(Body::default());
    let headers = answer.headers_mut();
    if let Some(accept) = &handshake.accept {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept.clone());
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    }
    let headers = answer.headers_mut();
    if let Some(Ok(subprotocol)) = subprotocol.map(HeaderValue::from_str) {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, subprotocol);
    }
    answer
}

fn refusal(rejection: &Rejection) -> Answer {
    let text = format!("{}: {}\n", rejection.label(), rejection.public());
    let mut answer = plain(rejection.status(), text);
    answer.headers_mut().extend(rejection.headers());
    answer
}

fn plain(status: StatusCode, text: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Body::from(text.into()));
    *answer.status_mut() = status;
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(header::CONTENT_TYPE, text);
    answer
}

fn fixed(respond: &Respond, method: &Method) -> Answer {
    let mut answer = Response::new(Body::from(respond.body.clone()));
    *answer.status_mut() = respond.status;
    *answer.headers_mut() = respond.headers.clone();
    if method == Method::HEAD {
        *answer.body_mut() = Body::default();
        answer.headers_mut().insert(header::CONTENT_LENGTH, respond.body.len().into());
    }
    answer
}
