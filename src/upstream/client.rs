//! One worker's way to the upstreams: its connections, and what is sent over them.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode, response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use tokio::task::spawn_local;
use tokio::time;
use tokio::time::Instant;

use crate::upstream::body::Progress;
use crate::upstream::connect::connect;
use crate::upstream::metrics::{Kind, Outcome};
use crate::upstream::server::{Flight, Server, Tried, Upstream};
use crate::upstream::{AnswerBody, BoxError, Outgoing, Tunnel, UpstreamError, UpstreamStream, forward};

/// The largest head of an answer, in bytes.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// The most headers of an answer.
const HEADERS_MAX: usize = 100;
/// The most servers that one request goes to.
const SERVERS_TRIED_MAX: usize = 3;

/// The connections of one worker. It lives within a `LocalSet`.
pub struct Client<B> {
    /// Idle ones by server, the latest last.
    idle: RefCell<HashMap<u64, Vec<Idle<B>>>>,
    /// Whether a task looks after them.
    swept: RefCell<bool>,
}

struct Idle<B> {
    sender: SendRequest<Outgoing<B>>,
    until: Instant,
}

impl<B> fmt::Debug for Client<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

/// A connection that is in use and can be used again.
pub(super) struct Lease<B> {
    client: Weak<Client<B>>,
    sender: SendRequest<Outgoing<B>>,
    server: u64,
    upstream: Arc<Upstream>,
}

/// What became of a WebSocket handshake.
#[derive(Debug)]
pub enum Handshaken<B> {
    /// The upstream agreed. The head is for the client, with the accept of the client's own key to be set.
    Open(response::Parts, Tunnel),
    /// Any other answer.
    Answer(Response<AnswerBody<B>>),
}

/// What a request over one connection came to, when to no answer.
struct Failure<B> {
    error: UpstreamError,
    /// The request, if nothing of it was written.
    unsent: Option<Request<Outgoing<B>>>,
}

impl<B> Client<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    /// A client without connections.
    pub fn new() -> Rc<Self> {
        Rc::new(Self { idle: RefCell::default(), swept: RefCell::new(false) })
    }

    /// Sends a request and waits for the head of its answer, which is cleaned of hop-by-hop headers.
    ///
    /// `head` gives the head as [`forward::request_head`] makes it; it is called once more for each repetition.
    /// A request is repeated if nothing of it was written, or if it has no body, its method is idempotent and
    /// its connection ended without an answer; each server gets it at most once over a new connection.
    ///
    /// # Errors
    ///
    /// There is no answer; [`UpstreamError`] says whose fault that is.
    pub async fn send(
        self: &Rc<Self>,
        upstream: &Arc<Upstream>,
        head: impl Fn() -> Parts,
        body: B,
    ) -> Result<Response<AnswerBody<B>>, UpstreamError> {
        let started_at = Instant::now();
        let answer = self.send_uncounted(upstream, head, body, started_at).await;
        let outcome = answer.as_ref().map_or_else(UpstreamError::outcome, |_| Outcome::Ok);
        upstream.metrics.count(Kind::Http, outcome, started_at.elapsed());
        answer
    }

    async fn send_uncounted(
        self: &Rc<Self>,
        upstream: &Arc<Upstream>,
        head: impl Fn() -> Parts,
        body: B,
        started_at: Instant,
    ) -> Result<Response<AnswerBody<B>>, UpstreamError> {
        let mut entered = upstream.enter()?;
        let (mut outgoing, progress) = if body.is_end_stream() {
            (Some(Outgoing::empty()), None)
        } else {
            let (outgoing, progress) = Outgoing::streaming(body);
            (Some(outgoing), Some(progress))
        };
        let mut tried = Tried::default();
        let mut error = UpstreamError::NoServer;
        for attempt in 0..SERVERS_TRIED_MAX {
            let Some(server) = upstream.pick(&mut tried) else { break };
            if 0 < attempt {
                upstream.metrics.retries.inc();
            }
            let flight = Flight::new(server, entered);
            let mut reused = self.take_idle(server.id, started_at);
            loop {
                let is_reused = reused.is_some();
                let sender = match reused.take() {
                    Some(sender) => Ok(sender),
                    None => self.open(upstream, server).await,
                };
                let mut sender = match sender {
                    Ok(sender) => sender,
                    Err(failed) => {
                        upstream.failed(server, &failed);
                        error = failed;
                        break;
                    }
                };
                let Some(body) = outgoing.take() else { return Err(error) };
                let mut parts = head();
                if body.is_empty() && [Method::POST, Method::PUT, Method::PATCH].contains(&parts.method) {
                    // Some servers answer 411 to those without a length.
                    parts.headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
                }
                let repeatable = body.is_empty() && is_idempotent(&parts.method);
                let request = Request::from_parts(parts, body);
                let silence_max = upstream.settings.response_timeout;
                match exchange(&mut sender, request, silence_max, progress.as_deref()).await {
                    Ok(answer) if answer.status() == StatusCode::SWITCHING_PROTOCOLS => {
                        let error = UpstreamError::BadResponse("a 101 that was not asked for");
                        upstream.failed(server, &error);
                        return Err(error);
                    }
                    Ok(mut answer) => {
                        upstream.succeeded(server);
                        let lease = Lease {
                            client: Rc::downgrade(self),
                            sender,
                            server: server.id,
                            upstream: Arc::clone(upstream),
                        };
                        forward::clean_answer(answer.headers_mut());
                        return Ok(answer.map(|body| AnswerBody::new(body, Some(lease), flight, silence_max)));
                    }
                    Err(failure) => {
                        error = failure.error;
                        let again = match (failure.unsent, &error) {
                            (_, UpstreamError::ClientBody(_)) => return Err(error),
                            (Some(request), _) => {
                                outgoing = Some(request.into_body());
                                true
                            }
                            (None, UpstreamError::Closed) if repeatable => {
                                outgoing = Some(Outgoing::empty());
                                true
                            }
                            (None, _) => false,
                        };
                        if is_reused && again {
                            // A server that was restarted has closed them all.
                            self.idle.borrow_mut().remove(&server.id);
                            upstream.metrics.retries.inc();
                            continue;
                        }
                        upstream.failed(server, &error);
                        if !again {
                            return Err(error);
                        }
                        break;
                    }
                }
            }
            entered = flight.into_entered();
        }
        Err(error)
    }

    /// Sends a WebSocket handshake over a connection of its own.
    ///
    /// `head` gives the head as [`forward::handshake_head`] makes it, `accept` is what its key asks for, and
    /// `offered` are the subprotocols in it. A 101 that is not right is an error, any other answer an answer.
    ///
    /// # Errors
    ///
    /// There is no answer; [`UpstreamError`] says whose fault that is.
    pub async fn handshake(
        self: &Rc<Self>,
        upstream: &Arc<Upstream>,
        head: impl Fn() -> Parts,
        accept: &HeaderValue,
        offered: &[String],
    ) -> Result<Handshaken<B>, UpstreamError> {
        let started_at = Instant::now();
        let answer = self.handshake_uncounted(upstream, head, accept, offered).await;
        let outcome = match &answer {
            Ok(Handshaken::Open(..)) => Outcome::Ok,
            Ok(Handshaken::Answer(_)) => Outcome::Refused,
            Err(error) => error.outcome(),
        };
        upstream.metrics.count(Kind::Tunnel, outcome, started_at.elapsed());
        answer
    }

    async fn handshake_uncounted(
        self: &Rc<Self>,
        upstream: &Arc<Upstream>,
        head: impl Fn() -> Parts,
        accept: &HeaderValue,
        offered: &[String],
    ) -> Result<Handshaken<B>, UpstreamError> {
        let mut entered = upstream.enter()?;
        let mut tried = Tried::default();
        let mut error = UpstreamError::NoServer;
        for attempt in 0..SERVERS_TRIED_MAX {
            let Some(server) = upstream.pick(&mut tried) else { break };
            if 0 < attempt {
                upstream.metrics.retries.inc();
            }
            let flight = Flight::new(server, entered);
            let stream = match connect(upstream, server).await {
                Ok(stream) => stream,
                Err(failed) => {
                    upstream.failed(server, &failed);
                    error = failed;
                    entered = flight.into_entered();
                    continue;
                }
            };
            let settings = &upstream.settings;
            let failed = |error: UpstreamError| {
                upstream.failed(server, &error);
                error
            };
            let (mut sender, connection) = builder()
                .handshake::<_, Outgoing<B>>(TokioIo::new(stream))
                .await
                .map_err(|error| failed(classify(&error)))?;
            spawn_local(connection.with_upgrades());
            let request = Request::from_parts(head(), Outgoing::empty());
            let mut answer = exchange(&mut sender, request, settings.response_timeout, None)
                .await
                .map_err(|failure| failed(failure.error))?;
            if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
                upstream.succeeded(server);
                forward::clean_answer(answer.headers_mut());
                let silence_max = settings.response_timeout;
                return Ok(Handshaken::Answer(
                    answer.map(|body| AnswerBody::new(body, None, flight, silence_max)),
                ));
            }
            forward::check_switch(answer.headers(), accept, offered)
                .map_err(|reason| failed(UpstreamError::BadResponse(reason)))?;
            let upgraded = time::timeout(settings.response_timeout, hyper::upgrade::on(&mut answer)).await;
            let upgraded = match upgraded {
                Ok(Ok(upgraded)) => upgraded,
                Ok(Err(error)) => return Err(failed(classify(&error))),
                Err(_) => return Err(failed(UpstreamError::ResponseTimeout)),
            };
            let Ok(parts) = upgraded.downcast::<TokioIo<UpstreamStream>>() else {
                return Err(UpstreamError::Closed);
            };
            upstream.succeeded(server);
            let tunnel = Tunnel::new(parts.io.into_inner(), parts.read_buf, flight);
            let (mut head, _) = answer.into_parts();
            forward::clean_answer(&mut head.headers);
            return Ok(Handshaken::Open(head, tunnel));
        }
        Err(error)
    }

    async fn open(
        &self,
        upstream: &Upstream,
        server: &Server,
    ) -> Result<SendRequest<Outgoing<B>>, UpstreamError> {
        let stream = connect(upstream, server).await?;
        let (sender, connection) =
            builder().handshake(TokioIo::new(stream)).await.map_err(|error| classify(&error))?;
        spawn_local(async move {
            // Who waits for an answer is told, too.
            connection.await.unwrap_or_else(|error| tracing::debug!(%error, "a connection has failed"));
        });
        Ok(sender)
    }
}

/// Idle connections.
impl<B: 'static> Client<B> {
    /// A connection that is ready and as young as can be.
    fn take_idle(&self, server: u64, now: Instant) -> Option<SendRequest<Outgoing<B>>> {
        let mut idle = self.idle.borrow_mut();
        let connections = idle.get_mut(&server)?;
        // Old and closed ones are left to the sweep: there may be many, and the latest is most likely fit.
        let fit = |one: &Idle<B>| one.sender.is_ready() && now < one.until;
        let at = connections.iter().rposition(fit)?;
        Some(connections.remove(at).sender)
    }

    fn keep(self: &Rc<Self>, lease: Lease<B>) {
        let settings = &lease.upstream.settings;
        if lease.sender.is_closed() || settings.keepalive == 0 {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        let connections = idle.entry(lease.server).or_default();
        if settings.keepalive <= connections.len() {
            connections.remove(0);
        }
        let until = Instant::now() + settings.idle_timeout;
        connections.push(Idle { sender: lease.sender, until });
        if !self.swept.replace(true) {
            spawn_local(sweep(Rc::downgrade(self)));
        }
    }

    /// Drops what has been idle for too long; tells whether anything is left.
    fn drop_old(&self) -> bool {
        let now = Instant::now();
        let mut idle = self.idle.borrow_mut();
        idle.retain(|_, connections| {
            connections.retain(|one| !one.sender.is_closed() && now < one.until);
            !connections.is_empty()
        });
        if idle.is_empty() {
            *self.swept.borrow_mut() = false;
        }
        !idle.is_empty()
    }
}

/// How often idle connections are looked at.
const SWEEP: Duration = Duration::from_secs(1);

/// Runs while there are idle connections, so that an idle worker has nothing to do.
async fn sweep<B: 'static>(client: Weak<Client<B>>) {
    loop {
        time::sleep(SWEEP).await;
        if !client.upgrade().is_some_and(|client| client.drop_old()) {
            return;
        }
    }
}

impl<B: 'static> Lease<B> {
    pub(super) fn give_back(self) {
        if let Some(client) = self.client.upgrade() {
            client.keep(self);
        }
    }
}

pub(super) fn builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.max_headers(HEADERS_MAX).max_buf_size(HEAD_BYTES_MAX);
    builder
}

/// Sends a request over one connection and waits for the head of the answer.
///
/// Only silence that is the server's counts: while the client is waited for, it does not.
async fn exchange<B>(
    sender: &mut SendRequest<Outgoing<B>>,
    request: Request<Outgoing<B>>,
    silence_max: Duration,
    progress: Option<&Progress>,
) -> Result<Response<Incoming>, Failure<B>>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let answer = sender.try_send_request(request);
    tokio::pin!(answer);
    let silence = time::sleep(silence_max);
    tokio::pin!(silence);
    loop {
        tokio::select! {
            biased;
            answer = &mut answer => return answer.map_err(|mut failed| {
                let client = progress.and_then(|progress| progress.error.borrow_mut().take());
                let error = client.map_or_else(|| classify(failed.error()), UpstreamError::ClientBody);
                Failure { error, unsent: failed.take_message() }
            }),
            () = &mut silence => {
                let now = Instant::now();
                let until = match progress {
                    Some(progress) if progress.awaited.get() => now + silence_max,
                    Some(progress) => progress.moved_at.get() + silence_max,
                    None => now,
                };
                if until <= now {
                    return Err(Failure { error: UpstreamError::ResponseTimeout, unsent: None });
                }
                silence.as_mut().reset(until);
            }
        }
    }
}

pub(super) fn classify(error: &hyper::Error) -> UpstreamError {
    if error.is_parse_too_large() {
        UpstreamError::BadResponse("its head is too large")
    } else if error.is_parse() {
        UpstreamError::BadResponse("it is malformed")
    } else {
        UpstreamError::Closed
    }
}

/// Rule: RFC 9110, 9.2.2.
fn is_idempotent(method: &Method) -> bool {
    [Method::GET, Method::HEAD, Method::OPTIONS, Method::PUT, Method::DELETE, Method::TRACE].contains(method)
}

#[cfg(test)]
mod tests;
