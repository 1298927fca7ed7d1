//! Requests to servers that do as they are told.

mod connections;
mod servers;
mod bodies;
mod answers;
mod tunnels;

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use http_body::Frame;
use http_body_util::BodyExt as _;
use prometheus::{Registry, TextEncoder};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, LocalSet};

use super::*;
use crate::listener::DescriptorLimit;
use crate::upstream::{Metrics, Settings, Upstreams};

/// A body for requests: pieces, and then an end or an error.
#[derive(Debug)]
enum Pieces {
    Of(Vec<&'static str>),
    Broken,
    Silent,
    /// As they are sent.
    Channel(mpsc::Receiver<&'static str>),
    /// As they are sent, and then an error.
    BrokenOff(mpsc::Receiver<&'static str>),
    /// For ever, counted.
    Flood(Rc<Cell<usize>>),
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match self.get_mut() {
            Self::Channel(pieces) => {
                pieces.poll_recv(context).map(|piece| piece.map(|piece| Ok(Frame::data(piece.into()))))
            }
            Self::BrokenOff(pieces) => pieces.poll_recv(context).map(|piece| {
                Some(
                    piece
                        .map(|piece| Frame::data(piece.into()))
                        .ok_or_else(|| io::Error::other("the client left")),
                )
            }),
            Self::Of(pieces) if pieces.is_empty() => Poll::Ready(None),
            Self::Of(pieces) => Poll::Ready(Some(Ok(Frame::data(pieces.remove(0).into())))),
            Self::Broken => Poll::Ready(Some(Err(io::Error::other("the client left")))),
            Self::Silent => Poll::Pending,
            Self::Flood(bytes) => {
                bytes.set(bytes.get() + (64 << 10));
                Poll::Ready(Some(Ok(Frame::data(vec![0; 64 << 10].into()))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Of(pieces) if pieces.is_empty())
    }
}

const NO_BODY: fn() -> Pieces = || Pieces::Of(Vec::new());
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

struct Bed {
    client: Rc<Client>,
    upstreams: Upstreams,
    registry: Registry,
}

impl Bed {
    fn new() -> Self {
        let registry = Registry::new();
        let metrics = Arc::new(Metrics::register(&registry).unwrap());
        let upstreams = Upstreams::new(metrics, Handle::current(), DescriptorLimit::new(None));
        Self { client: Client::new(), upstreams, registry }
    }

    fn upstream(&self, servers: &[String], change: impl FnOnce(&mut Settings)) -> Arc<Upstream> {
        let servers = servers.iter().map(|server| server.parse().unwrap()).collect();
        let mut settings = Settings::new(servers);
        change(&mut settings);
        self.upstreams.get("app", &settings).unwrap()
    }

    async fn send(
        &self,
        upstream: &Arc<Upstream>,
        method: &Method,
        body: Pieces,
    ) -> Result<Response<AnswerBody<Pieces>>, UpstreamError> {
        self.client
            .send(upstream, method, |length, out| write_head(method, length, out), body, Instant::now())
            .await
    }

    async fn get(&self, upstream: &Arc<Upstream>) -> Result<String, UpstreamError> {
        self.ask(upstream, Method::GET, NO_BODY()).await
    }

    async fn ask(
        &self,
        upstream: &Arc<Upstream>,
        method: Method,
        body: Pieces,
    ) -> Result<String, UpstreamError> {
        Ok(read_body(self.send(upstream, &method, body).await?).await)
    }

    /// A `GET` in a task of its own.
    fn spawn_get(&self, upstream: &Arc<Upstream>) -> JoinHandle<Result<String, UpstreamError>> {
        let (client, upstream) = (Rc::clone(&self.client), Arc::clone(upstream));
        spawn_local(async move {
            let head = |length, out: &mut Vec<u8>| write_head(&Method::GET, length, out);
            let answer = client.send(&upstream, &Method::GET, head, NO_BODY(), Instant::now()).await?;
            Ok(read_body(answer).await)
        })
    }

    fn metric(&self, line: &str) -> bool {
        let page = TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap();
        page.lines().any(|one| one == line)
    }
}

/// Waits until this holds.
async fn until(mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            time::sleep(Duration::from_millis(2)).await;
        }
    };
    time::timeout(Duration::from_secs(10), waiting).await.expect("it holds within 10 s");
}

async fn read_body(answer: Response<AnswerBody<Pieces>>) -> String {
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

fn write_head(method: &Method, length: BodyLength, out: &mut Vec<u8>) {
    let length = match length {
        BodyLength::Empty => String::new(),
        BodyLength::Known(len) => format!("content-length: {len}\r\n"),
        BodyLength::Unknown => "transfer-encoding: chunked\r\n".to_owned(),
    };
    out.extend_from_slice(format!("{method} / HTTP/1.1\r\nhost: example.com\r\n{length}\r\n").as_bytes());
}

/// A socket for a server, and the server's address.
async fn bind() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (listener, url)
}

/// What a server does with one connection.
enum Does {
    /// Answers each request with this.
    Answers(&'static str),
    /// Answers one request and closes.
    AnswersOnce(&'static str),
    /// Answers one request, reads another one and closes.
    DropsSecond,
    /// Never answers.
    Sits,
}

/// A server whose connections, in turn, do this; the last one's way is that of all others.
async fn serve(does: Vec<Does>) -> (String, Rc<RefCell<Vec<String>>>) {
    let (listener, url) = bind().await;
    let seen: Rc<RefCell<Vec<String>>> = Rc::default();
    let all = Rc::clone(&seen);
    spawn_local(async move {
        let does: Rc<[Does]> = does.into();
        for connection in 0.. {
            let (stream, _) = listener.accept().await.unwrap();
            let (does, seen) = (Rc::clone(&does), Rc::clone(&all));
            spawn_local(async move {
                let at = connection.min(does.len() - 1);
                behave(stream, &does[at], connection, &seen).await;
            });
        }
    });
    (url, seen)
}

async fn behave(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    does: &Does,
    connection: usize,
    seen: &RefCell<Vec<String>>,
) {
    let mut answered = 0;
    while let Some(head) = read_head(&mut stream).await {
        let line = head.lines().next().unwrap_or_default();
        seen.borrow_mut().push(format!("{connection}: {line}"));
        match does {
            Does::Answers(answer) => stream.write_all(answer.as_bytes()).await.unwrap(),
            Does::AnswersOnce(answer) => return stream.write_all(answer.as_bytes()).await.unwrap(),
            Does::DropsSecond if answered == 0 => stream.write_all(OK.as_bytes()).await.unwrap(),
            Does::DropsSecond => return,
            Does::Sits => std::future::pending().await,
        }
        answered += 1;
    }
}

async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    let mut body = Vec::new();
    while head.contains("transfer-encoding: chunked") && !body.ends_with(b"0\r\n\r\n") {
        body.push(stream.read_u8().await.ok()?);
    }
    Some(head)
}

/// An address that refuses connections.
async fn refusing() -> String {
    bind().await.1
}

async fn local<T>(test: impl Future<Output = T>) -> T {
    LocalSet::new().run_until(time::timeout(Duration::from_secs(20), test)).await.unwrap()
}
