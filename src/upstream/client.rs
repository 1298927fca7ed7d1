//! One worker's way to the upstreams: its connections, and what is sent over them.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{HeaderValue, Method, Response, StatusCode, response};
use http_body::Body;
use http_body_util::Empty;
use hyper::ext::ReasonPhrase;
use tokio::task::spawn_local;
use tokio::time;
use tokio::time::Instant;

use crate::upstream::answer::{Decoder, Head};
use crate::upstream::body::Link;
use crate::upstream::conn::Conn;
use crate::upstream::connect::connect;
use crate::upstream::forward::BodyLength;
use crate::upstream::metrics::{Asked, Kind, Outcome};
use crate::upstream::outgoing::Outgoing;
use crate::upstream::server::{Entered, Flight, Tried, Upstream};
use crate::upstream::{AnswerBody, BoxError, Tunnel, UpstreamError, forward};

/// The most servers that one request goes to.
const SERVERS_TRIED_MAX: usize = 3;

/// The connections of one worker. It lives within a `LocalRuntime`.
#[derive(Default)]
pub struct Client {
    /// Idle ones by server, the latest last.
    idle: RefCell<BTreeMap<u64, Vec<Idle>>>,
    /// Whether a task looks after them.
    swept: Cell<bool>,
}

struct Idle {
    conn: Box<Conn>,
    until: Instant,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

/// What became of a WebSocket handshake.
#[derive(Debug)]
pub enum Handshaken {
    /// The upstream agreed. The head is for the client, with the accept of the client's own key to be set.
    Open(response::Parts, Tunnel),
    /// Any other answer.
    Answer(Response<AnswerBody<Empty<Bytes>>>),
}

impl Client {
    /// A client without connections.
    pub fn new() -> Rc<Self> {
        Rc::default()
    }

    /// Sends a request and waits for the head of its answer, which is cleaned of hop-by-hop headers.
    ///
    /// `head` writes the head as [`forward::request_head`] does, for a body of this length. The request is taken to
    /// have begun at `started_at`.
    ///
    /// A request is repeated if nothing of it was written, or if it has no body, its method is idempotent and
    /// its connection ended without an answer; each server gets it at most once over a new connection.
    ///
    /// # Errors
    ///
    /// There is no answer; [`UpstreamError`] says whose fault that is.
    pub async fn send<B>(
        self: &Rc<Self>,
        upstream: &Arc<Upstream>,
        method: &Method,
        head: impl FnOnce(BodyLength, &mut Vec<u8>),
        body: B,
        started_at: Instant,
    ) -> Result<Response<AnswerBody<B>>, UpstreamError>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
    {
        let asked = Asked::new(&upstream.metrics, Kind::Http, started_at);
        let outgoing = Outgoing::new(body, started_at, head);
        match self.send_to_any(upstream, method, outgoing, started_at).await {
            Ok((answer, now)) => {
                asked.end(Outcome::Ok, now);
                Ok(answer)
            }
            Err(error) => {
                asked.end(error.outcome(), Instant::now());
                Err(error)
            }
        }
    }

    /// The answer of the server that gives one, and when it came.
    async fn send_to_any<B>(
        self: &Rc<Self>,
        upstream: &Arc<Upstream>,
        method: &Method,
        mut outgoing: Outgoing<B>,
        started_at: Instant,
    ) -> Result<(Response<AnswerBody<B>>, Instant), UpstreamError>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
    {
        let mut attempts = Attempts::begin(upstream)?;
        let repeatable = outgoing.is_bare() && is_idempotent(method);
        let to_head = method == Method::HEAD;
        let mut began_at = started_at;
        while let Some(flight) = attempts.next() {
            let error = match self.ask(&flight, &mut outgoing, repeatable, to_head, began_at).await {
                Ok((_, answer)) if answer.status == StatusCode::SWITCHING_PROTOCOLS => {
                    UpstreamError::BadResponse("a 101 that was not asked for")
                }
                Ok((conn, answer)) => {
                    upstream.succeeded(flight.server());
                    let now = Instant::now();
                    let home = answer.keeps.then(|| Rc::downgrade(self));
                    let silence_max = upstream.settings.response_timeout;
                    let link = Link { conn, outgoing, home, silence_max };
                    let answer = respond(answer, |body| AnswerBody::new(body, link, flight, now));
                    return Ok((answer, now));
                }
                Err(error) => error,
            };
            attempts.failed(flight, error, repeatable || outgoing.is_untouched())?;
            // The server before has taken its time.
            began_at = Instant::now();
        }
        Err(attempts.error)
    }

    /// Asks a server over a kept connection, and over a new one if that turns out to be closed, or if there is none.
    async fn ask<B>(
        &self,
        flight: &Flight,
        outgoing: &mut Outgoing<B>,
        repeatable: bool,
        to_head: bool,
        began_at: Instant,
    ) -> Result<(Box<Conn>, Head), UpstreamError>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
    {
        let Upstream { settings, metrics, .. } = &**flight.upstream();
        if let Some(mut conn) = self.take_idle(flight.server().id, began_at) {
            match conn.exchange(outgoing, to_head, began_at, settings.response_timeout).await {
                Err(UpstreamError::Closed) if repeatable || outgoing.is_untouched() => {
                    // A server that was restarted has closed them all.
                    self.idle.borrow_mut().remove(&flight.server().id);
                    metrics.retries.inc();
                }
                answer => return Ok((conn, answer?)),
            }
        }
        // Boxed: it is rare, and its room would be taken, and moved, with each request.
        Box::pin(ask_anew(flight, outgoing, to_head)).await
    }

    /// Sends a WebSocket handshake over a connection of its own.
    ///
    /// `head` writes the head as [`forward::handshake_head`] does, `accept` is what its key asks for, and
    /// `offered` are the subprotocols in it. A 101 that is not right is an error, any other answer an answer.
    ///
    /// # Errors
    ///
    /// There is no answer; [`UpstreamError`] says whose fault that is.
    pub async fn handshake(
        &self,
        upstream: &Arc<Upstream>,
        head: impl FnOnce(&mut Vec<u8>),
        accept: &HeaderValue,
        offered: &[String],
    ) -> Result<Handshaken, UpstreamError> {
        let started_at = Instant::now();
        let asked = Asked::new(&upstream.metrics, Kind::Tunnel, started_at);
        let outgoing = Outgoing::new(Empty::new(), started_at, |_, out| head(out));
        let answer = handshake_uncounted(upstream, outgoing, accept, offered).await;
        let outcome = match &answer {
            Ok(Handshaken::Open(..)) => Outcome::Ok,
            Ok(Handshaken::Answer(_)) => Outcome::Refused,
            Err(error) => error.outcome(),
        };
        asked.end(outcome, Instant::now());
        answer
    }
}

/// Idle connections.
impl Client {
    /// A connection that is ready and as young as can be.
    fn take_idle(&self, server: u64, now: Instant) -> Option<Box<Conn>> {
        let mut idle = self.idle.borrow_mut();
        let connections = idle.get_mut(&server)?;
        // The latest is most likely fit, and behind one that is too old are only older ones.
        while let Some(Idle { mut conn, .. }) = connections.pop_if(|one| now < one.until) {
            if conn.is_fit() {
                return Some(conn);
            }
        }
        None
    }

    /// Keeps the connection of a request that has been answered for the next one.
    pub(super) fn keep(self: &Rc<Self>, conn: Box<Conn>, flight: &Flight, now: Instant) {
        let settings = &flight.upstream().settings;
        // What comes unasked would be taken for the next answer.
        if !conn.input.is_empty() || settings.keepalive == 0 {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        let connections = idle.entry(flight.server().id).or_default();
        if settings.keepalive <= connections.len() {
            connections.remove(0);
        }
        let until = now + settings.idle_timeout;
        connections.push(Idle { conn, until });
        if !self.swept.replace(true) {
            spawn_local(sweep(Rc::downgrade(self)));
        }
    }

    /// Drops what has been idle for too long; tells whether anything is left.
    fn drop_old(&self) -> bool {
        let now = Instant::now();
        let mut idle = self.idle.borrow_mut();
        idle.retain(|_, connections| {
            connections.retain_mut(|one| now < one.until && one.conn.is_fit());
            !connections.is_empty()
        });
        if idle.is_empty() {
            self.swept.set(false);
        }
        !idle.is_empty()
    }
}

/// How often idle connections are looked at.
const SWEEP: Duration = Duration::from_secs(1);

/// Runs while there are idle connections, so that an idle worker has nothing to do.
async fn sweep(client: Weak<Client>) {
    loop {
        time::sleep(SWEEP).await;
        if !client.upgrade().is_some_and(|client| client.drop_old()) {
            return;
        }
    }
}

async fn handshake_uncounted(
    upstream: &Arc<Upstream>,
    mut outgoing: Outgoing<Empty<Bytes>>,
    accept: &HeaderValue,
    offered: &[String],
) -> Result<Handshaken, UpstreamError> {
    let mut attempts = Attempts::begin(upstream)?;
    while let Some(flight) = attempts.next() {
        let error = match Box::pin(ask_anew(&flight, &mut outgoing, false)).await {
            Ok((conn, answer)) if answer.status != StatusCode::SWITCHING_PROTOCOLS => {
                upstream.succeeded(flight.server());
                let silence_max = upstream.settings.response_timeout;
                let link = Link { conn, outgoing, home: None, silence_max };
                let body = |body| AnswerBody::new(body, link, flight, Instant::now());
                return Ok(Handshaken::Answer(respond(answer, body)));
            }
            Ok((conn, answer)) => match forward::check_switch(&answer.headers, accept, offered) {
                Ok(()) => {
                    upstream.succeeded(flight.server());
                    let tunnel = Tunnel::new(conn.stream, conn.input, flight);
                    let (head, ()) = respond(answer, |_| ()).into_parts();
                    return Ok(Handshaken::Open(head, tunnel));
                }
                Err(reason) => UpstreamError::BadResponse(reason),
            },
            Err(error) => error,
        };
        attempts.failed(flight, error, outgoing.is_untouched())?;
    }
    Err(attempts.error)
}

/// Asks a server over a new connection.
async fn ask_anew<B>(
    flight: &Flight,
    outgoing: &mut Outgoing<B>,
    to_head: bool,
) -> Result<(Box<Conn>, Head), UpstreamError>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    let upstream = flight.upstream();
    let stream = connect(upstream, flight.server(), upstream.settings.connect_timeout).await?;
    let mut conn = Box::new(Conn::new(stream));
    let answer = conn.exchange(outgoing, to_head, Instant::now(), upstream.settings.response_timeout).await?;
    Ok((conn, answer))
}

/// A request on its way from one server to the next.
struct Attempts<'a> {
    upstream: &'a Arc<Upstream>,
    tried: Tried,
    left: usize,
    /// While it is with no server.
    entered: Option<Entered>,
    /// What became of the last one.
    error: UpstreamError,
}

impl<'a> Attempts<'a> {
    fn begin(upstream: &'a Arc<Upstream>) -> Result<Self, UpstreamError> {
        let entered = Some(upstream.enter()?);
        let (tried, left, error) = (Tried::default(), SERVERS_TRIED_MAX, UpstreamError::NoServer);
        Ok(Self { upstream, tried, left, entered, error })
    }

    /// It goes to the next server, if there is one.
    fn next(&mut self) -> Option<Flight> {
        self.left = self.left.checked_sub(1)?;
        let server = self.upstream.pick(&mut self.tried)?;
        let is_first = self.left + 1 == SERVERS_TRIED_MAX;
        // Where nothing is left for a connection, nothing was sent.
        if !is_first && !matches!(self.error, UpstreamError::Shortage(_)) {
            self.upstream.metrics.retries.inc();
        }
        Some(Flight::new(server, self.entered.take()?))
    }

    /// A server gives no answer. An error if that is the end, as it is where the request may have been worked on.
    fn failed(
        &mut self,
        flight: Flight,
        error: UpstreamError,
        may_repeat: bool,
    ) -> Result<(), UpstreamError> {
        self.upstream.failed(flight.server(), &error);
        let goes_on = match &error {
            UpstreamError::Connect(_) | UpstreamError::ConnectTimeout | UpstreamError::Shortage(_) => true,
            UpstreamError::Closed => may_repeat,
            _ => false,
        };
        if !goes_on {
            return Err(error);
        }
        (self.entered, self.error) = (Some(flight.into_entered()), error);
        Ok(())
    }
}

/// The answer for the client, without what is of the connection to the server only.
///
/// Rule: RFC 9110, 8.6: no length with a 1xx or a 204.
fn respond<T>(head: Head, body: impl FnOnce(Decoder) -> T) -> Response<T> {
    let mut answer = Response::new(body(head.body));
    *answer.status_mut() = head.status;
    *answer.headers_mut() = head.headers;
    forward::clean_answer(answer.headers_mut());
    if head.status.is_informational() || head.status == StatusCode::NO_CONTENT {
        answer.headers_mut().remove(CONTENT_LENGTH);
    }
    if let Some(reason) = head.reason.and_then(|reason| ReasonPhrase::try_from(reason).ok()) {
        answer.extensions_mut().insert(reason);
    }
    answer
}

/// Rule: RFC 9110, 9.2.2.
fn is_idempotent(method: &Method) -> bool {
    [Method::GET, Method::HEAD, Method::OPTIONS, Method::PUT, Method::DELETE, Method::TRACE].contains(method)
}

#[cfg(test)]
mod tests;
