use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use http_body::Frame;
use http_body_util::BodyExt as _;
use prometheus::{Registry, TextEncoder};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::runtime::Handle;
use tokio::task::LocalSet;

use super::*;
use crate::upstream::{Cause, HealthCheck, Metrics, Settings, Upstreams, tunnel};

/// A body for requests: pieces, and then an end or an error.
#[derive(Debug)]
enum Pieces {
    Of(Vec<&'static str>),
    Broken,
    Silent,
    /// As they are sent.
    Channel(tokio::sync::mpsc::Receiver<&'static str>),
    /// For ever, counted.
    Flood(Rc<std::cell::Cell<usize>>),
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
        Self { client: Client::new(), upstreams: Upstreams::new(metrics, Handle::current()), registry }
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

    async fn send_channel(
        &self,
        upstream: &Arc<Upstream>,
        pieces: tokio::sync::mpsc::Receiver<&'static str>,
    ) -> AnswerBody<Pieces> {
        self.send(upstream, &Method::POST, Pieces::Channel(pieces)).await.unwrap().into_body()
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
        let answer = self.send(upstream, &method, body).await?;
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        Ok(String::from_utf8(body.to_vec()).unwrap())
    }

    fn metric(&self, line: &str) -> bool {
        let page = TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap();
        page.lines().any(|one| one == line)
    }
}

fn write_head(method: &Method, length: BodyLength, out: &mut Vec<u8>) {
    let length = match length {
        BodyLength::Empty => String::new(),
        BodyLength::Known(len) => format!("content-length: {len}\r\n"),
        BodyLength::Unknown => "transfer-encoding: chunked\r\n".to_owned(),
    };
    out.extend_from_slice(format!("{method} / HTTP/1.1\r\nhost: example.com\r\n{length}\r\n").as_bytes());
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
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
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
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

async fn local<T>(test: impl Future<Output = T>) -> T {
    LocalSet::new().run_until(time::timeout(Duration::from_secs(20), test)).await.unwrap()
}

#[tokio::test]
async fn a_connection_is_used_again() {
    local(async {
        let (bed, (url, seen)) = (Bed::new(), serve(vec![Does::Answers(OK)]).await);
        let upstream = bed.upstream(&[url], |_| ());
        for _ in 0..3 {
            assert_eq!(bed.get(&upstream).await.unwrap(), "ok");
        }
        assert_eq!(*seen.borrow(), ["0: GET / HTTP/1.1"; 3]);
        assert!(bed.metric("anteroom_upstream_inflight_requests{upstream=\"app\"} 0"));
        assert!(
            bed.metric("anteroom_upstream_requests_total{kind=\"http\",result=\"ok\",upstream=\"app\"} 3")
        );
    })
    .await;
}

#[tokio::test]
async fn a_connection_that_died_is_replaced_for_what_may_be_repeated() {
    local(async {
        let (bed, (url, seen)) = (Bed::new(), serve(vec![Does::DropsSecond, Does::Answers(OK)]).await);
        let upstream = bed.upstream(&[url], |_| ());
        assert_eq!(bed.get(&upstream).await.unwrap(), "ok");
        assert_eq!(bed.get(&upstream).await.unwrap(), "ok");
        assert_eq!(*seen.borrow(), ["0: GET / HTTP/1.1", "0: GET / HTTP/1.1", "1: GET / HTTP/1.1"]);
        assert!(bed.metric("anteroom_upstream_retries_total{upstream=\"app\"} 1"));
    })
    .await;
}

#[tokio::test]
async fn a_post_that_was_sent_is_not_sent_again() {
    local(async {
        for body in [NO_BODY(), Pieces::Of(vec!["a"])] {
            let (bed, (url, seen)) = (Bed::new(), serve(vec![Does::DropsSecond, Does::Answers(OK)]).await);
            let upstream = bed.upstream(&[url], |_| ());
            assert_eq!(bed.get(&upstream).await.unwrap(), "ok");
            let error = bed.ask(&upstream, Method::POST, body).await.unwrap_err();
            assert!(matches!(error, UpstreamError::Closed), "{error}");
            assert_eq!(*seen.borrow(), ["0: GET / HTTP/1.1", "0: POST / HTTP/1.1"]);
        }
    })
    .await;
}

#[tokio::test]
async fn a_post_goes_over_a_new_connection_when_the_old_one_is_closed() {
    local(async {
        let (bed, (url, seen)) = (Bed::new(), serve(vec![Does::AnswersOnce(OK), Does::Answers(OK)]).await);
        let upstream = bed.upstream(&[url], |_| ());
        assert_eq!(bed.get(&upstream).await.unwrap(), "ok");
        time::sleep(Duration::from_millis(50)).await;
        assert_eq!(bed.ask(&upstream, Method::POST, Pieces::Of(vec!["a"])).await.unwrap(), "ok");
        assert_eq!(*seen.borrow(), ["0: GET / HTTP/1.1", "1: POST / HTTP/1.1"]);
    })
    .await;
}

#[tokio::test]
async fn a_server_that_refuses_is_passed_over_with_the_body_in_hand() {
    local(async {
        let (bed, (url, seen)) = (Bed::new(), serve(vec![Does::Answers(OK)]).await);
        let down = refusing().await;
        let upstream = bed.upstream(&[down.clone(), url], |_| ());
        for _ in 0..4 {
            assert_eq!(bed.ask(&upstream, Method::POST, Pieces::Of(vec!["a"])).await.unwrap(), "ok");
        }
        assert_eq!(seen.borrow().len(), 4);
        let gauge = format!("anteroom_upstream_server_up{{server=\"{down}\",upstream=\"app\"}} 0");
        assert!(bed.metric(&gauge));
    })
    .await;
}

#[tokio::test]
async fn without_a_server_there_is_a_502_at_once() {
    local(async {
        let bed = Bed::new();
        let upstream = bed.upstream(&[refusing().await, refusing().await], |_| ());
        for _ in 0..3 {
            let error = bed.get(&upstream).await.unwrap_err();
            assert!(matches!(error, UpstreamError::Connect(_)), "{error}");
            assert_eq!(error.status(), StatusCode::BAD_GATEWAY);
        }
        assert!(bed.metric("anteroom_upstream_inflight_requests{upstream=\"app\"} 0"));
    })
    .await;
}

#[tokio::test]
async fn a_restarted_server_is_back_when_all_were_out() {
    local(async {
        let (bed, (url, _)) = (Bed::new(), serve(vec![Does::AnswersOnce(""), Does::Answers(OK)]).await);
        let upstream = bed.upstream(&[url, refusing().await], |_| ());
        // Whichever comes first, both have failed after this.
        assert!(bed.get(&upstream).await.is_err());
        assert_eq!(bed.get(&upstream).await.unwrap(), "ok");
    })
    .await;
}

#[tokio::test]
async fn a_stuck_server_is_a_504_and_a_silent_client_is_not() {
    local(async {
        let (bed, (url, _)) = (Bed::new(), serve(vec![Does::Sits]).await);
        let upstream = bed.upstream(&[url], |settings| settings.response_timeout = Duration::from_millis(60));
        let error = bed.get(&upstream).await.unwrap_err();
        assert_eq!((error.status(), error.label()), (StatusCode::GATEWAY_TIMEOUT, "response_timeout"));
        let silent = bed.ask(&upstream, Method::POST, Pieces::Silent);
        assert!(time::timeout(Duration::from_millis(300), silent).await.is_err());
        let sent = bed.ask(&upstream, Method::POST, Pieces::Of(vec!["a"])).await.unwrap_err();
        assert!(matches!(sent, UpstreamError::ResponseTimeout), "{sent}");
    })
    .await;
}

#[tokio::test]
async fn a_server_has_all_its_time_after_another_has_failed() {
    const LONG: Duration = Duration::from_millis(300);
    local(async {
        let kept = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let poor = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let bed = Bed::new();
        let servers = [&kept, &poor].map(|server| format!("http://{}", server.local_addr().unwrap()));
        let upstream = bed.upstream(&servers, |settings| settings.response_timeout = LONG * 3 / 2);
        let serving = spawn_local(async move {
            let (mut stream, _) = kept.accept().await.unwrap();
            read_head(&mut stream).await.unwrap();
            stream.write_all(OK.as_bytes()).await.unwrap();
            let (mut other, _) = poor.accept().await.unwrap();
            read_head(&mut other).await.unwrap();
            time::sleep(LONG).await;
            drop(other);
            read_head(&mut stream).await.unwrap();
            time::sleep(LONG).await;
            stream.write_all(OK.as_bytes()).await.unwrap();
        });
        for _ in 0..2 {
            assert_eq!(bed.get(&upstream).await.unwrap(), "ok");
        }
        serving.await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_broken_body_is_the_clients_fault() {
    local(async {
        let (bed, (url, _)) = (Bed::new(), serve(vec![Does::Sits]).await);
        let upstream = bed.upstream(&[url, refusing().await], |_| ());
        let error = bed.ask(&upstream, Method::POST, Pieces::Broken).await.unwrap_err();
        assert!(matches!(&error, UpstreamError::ClientBody(why) if why.to_string() == "the client left"));
        assert_eq!(error.status(), StatusCode::BAD_REQUEST);
        assert!(
            bed.metric(
                "anteroom_upstream_requests_total{kind=\"http\",result=\"client\",upstream=\"app\"} 1"
            )
        );
    })
    .await;
}

#[tokio::test]
async fn an_answer_that_is_cut_off_is_an_error() {
    let cases = [
        "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nok\r\n",
    ];
    local(async {
        for answer in cases {
            let (bed, (url, _)) = (Bed::new(), serve(vec![Does::AnswersOnce(answer)]).await);
            let upstream = bed.upstream(&[url], |_| ());
            let answer = bed.send(&upstream, &Method::GET, NO_BODY()).await.unwrap();
            let error = answer.into_body().collect().await.unwrap_err();
            assert_eq!(error, crate::upstream::BrokenAnswer::Truncated);
            assert!(bed.metric("anteroom_upstream_broken_answers_total{upstream=\"app\"} 1"));
        }
    })
    .await;
}

#[tokio::test]
async fn what_is_no_answer_is_a_502() {
    let cases = [
        "SMTP ready\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
        "",
    ];
    local(async {
        for answer in cases {
            let (bed, (url, _)) = (Bed::new(), serve(vec![Does::AnswersOnce(answer)]).await);
            let upstream = bed.upstream(&[url], |_| ());
            let error = bed.get(&upstream).await.unwrap_err();
            assert_eq!(error.status(), StatusCode::BAD_GATEWAY, "{answer}: {error}");
        }
    })
    .await;
}

/// The status and the body, or how it went wrong.
type Got = Result<(u16, &'static str), &'static str>;

#[tokio::test]
async fn an_answer_is_read_in_one_way_and_its_connection_kept_when_nothing_is_left_of_it() {
    const BROKEN: Got = Err("the answer of the upstream is broken off");
    let no = |reason: &'static str| Err(reason);
    let cases: &[(&str, Method, Got, bool)] = &[
        // what the server answers and keeps its connection, to what; what the client gets, whether it is used again
        ("HTTP/1.1 200 OK\nContent-Length: 2\n\nok", Method::GET, Ok((200, "ok")), true),
        ("HTTP/1.1 200 OK\nContent-Length: 0\n\n", Method::GET, Ok((200, "")), true),
        ("HTTP/1.1 200 OK\nContent-Length: 2\n\nok\n", Method::GET, Ok((200, "ok")), false),
        ("HTTP/1.1 200 OK\nContent-Length: 2\n\nokHTTP/1.1 200 OK\n\n", Method::GET, Ok((200, "ok")), false),
        ("HTTP/1.1 200 OK\nContent-Length: 2\nConnection: close\n\nok", Method::GET, Ok((200, "ok")), false),
        ("HTTP/1.0 200 OK\nContent-Length: 2\n\nok", Method::GET, Ok((200, "ok")), false),
        (
            "HTTP/1.0 200 OK\nContent-Length: 2\nConnection: keep-alive\n\nok",
            Method::GET,
            Ok((200, "ok")),
            true,
        ),
        ("HTTP/1.1 200 OK\nContent-Length: 9\n\n", Method::HEAD, Ok((200, "")), true),
        ("HTTP/1.1 200 OK\nContent-Length: 2\n\nok", Method::HEAD, Ok((200, "")), false),
        ("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n", Method::HEAD, Ok((200, "")), true),
        ("HTTP/1.1 204 No Content\n\n", Method::GET, Ok((204, "")), true),
        ("HTTP/1.1 204 No Content\n\n0\n\n", Method::GET, Ok((204, "")), false),
        ("HTTP/1.1 304 Not Modified\nContent-Length: 9\n\n", Method::GET, Ok((304, "")), true),
        ("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n2\nok\n0\n\n", Method::GET, Ok((200, "ok")), true),
        (
            "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n2\nok\n0\nX: y\n\n",
            Method::GET,
            Ok((200, "ok")),
            true,
        ),
        (
            "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n2\nok\n0\n\n\n",
            Method::GET,
            Ok((200, "ok")),
            false,
        ),
        ("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n2\nokk\n0\n\n", Method::GET, BROKEN, false),
        ("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\nzz\n", Method::GET, BROKEN, false),
        (
            "HTTP/1.1 100 Continue\n\nHTTP/1.1 200 OK\nContent-Length: 2\n\nok",
            Method::GET,
            Ok((200, "ok")),
            true,
        ),
        ("HTTP/1.1 103 H\nLink: </a>\n\nHTTP/1.1 204 No Content\n\n", Method::GET, Ok((204, "")), true),
        (
            "HTTP/1.1 200 OK\nContent-Length: 2\nTransfer-Encoding: chunked\n\n2\nok\n0\n\n",
            Method::GET,
            no("its length is none, or there are two"),
            false,
        ),
        (
            "HTTP/1.1 200 OK\nTransfer-Encoding: gzip, chunked\n\n0\n\n",
            Method::GET,
            no("its transfer coding is not `chunked` alone"),
            false,
        ),
        ("HTTP/1.1 200 OK\nContent-Length : 2\n\nok", Method::GET, no("it is malformed"), false),
        ("HTTP/1.1 200 OK\nX: a\n b\n\n", Method::GET, no("it is malformed"), false),
        ("SMTP ready\n", Method::GET, no("it is malformed"), false),
    ];
    local(async {
        for (answer, method, expected, is_kept) in cases {
            let answer: &'static str = answer.replace('\n', "\r\n").leak();
            let (bed, (url, seen)) = (Bed::new(), serve(vec![Does::Answers(answer)]).await);
            let upstream = bed.upstream(&[url], |_| ());
            let got = match bed.send(&upstream, method, NO_BODY()).await {
                Ok(response) => {
                    let status = response.status().as_u16();
                    let body = response.into_body().collect().await.map(http_body_util::Collected::to_bytes);
                    body.map_err(|error| error.to_string())
                        .map(|body| (status, String::from_utf8(body.to_vec()).unwrap()))
                }
                Err(UpstreamError::BadResponse(reason)) => Err(reason.to_owned()),
                Err(error) => panic!("{answer:?}: {error}"),
            };
            let expected = expected.map(|(status, body)| (status, body.to_owned())).map_err(str::to_owned);
            assert_eq!(got, expected, "{method} {answer:?}");
            drop(bed.send(&upstream, method, NO_BODY()).await);
            let connection = u8::from(!*is_kept);
            assert_eq!(
                *seen.borrow(),
                [format!("0: {method} / HTTP/1.1"), format!("{connection}: {method} / HTTP/1.1")],
                "{answer:?}"
            );
        }
    })
    .await;
}

#[tokio::test]
async fn what_a_server_says_unasked_is_nobodys_answer() {
    local(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let bed = Bed::new();
        let upstream = bed.upstream(&[format!("http://{}", listener.local_addr().unwrap())], |_| ());
        let serving = spawn_local(async move {
            let (mut first, _) = listener.accept().await.unwrap();
            read_head(&mut first).await.unwrap();
            first.write_all(OK.as_bytes()).await.unwrap();
            time::sleep(Duration::from_millis(20)).await;
            first.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil").await.unwrap();
            let (second, _) = listener.accept().await.unwrap();
            behave(second, &Does::Answers(OK), 1, &RefCell::default()).await;
        });
        assert_eq!(bed.get(&upstream).await.unwrap(), "ok");
        time::sleep(Duration::from_millis(60)).await;
        assert_eq!(bed.get(&upstream).await.unwrap(), "ok");
        serving.abort();
    })
    .await;
}

#[tokio::test]
async fn an_early_answer_is_passed_on_while_the_body_still_comes() {
    local(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let bed = Bed::new();
        let upstream = bed.upstream(&[format!("http://{}", listener.local_addr().unwrap())], |_| ());
        let serving = spawn_local(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut byte = [0];
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                stream.read_exact(&mut byte).await.unwrap();
                head.extend_from_slice(&byte);
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nea").await.unwrap();
            // The rest of the answer comes behind the whole request.
            let mut body = Vec::new();
            while !body.ends_with(b"0\r\n\r\n") {
                stream.read_exact(&mut byte).await.unwrap();
                body.extend_from_slice(&byte);
            }
            stream.write_all(b"rl").await.unwrap();
            String::from_utf8(body).unwrap()
        });
        let (sender, receiver) = tokio::sync::mpsc::channel(2);
        let mut answer = bed.send_channel(&upstream, receiver).await;
        assert_eq!(answer.frame().await.unwrap().unwrap().into_data().unwrap(), "ea");
        sender.send("abc").await.unwrap();
        sender.send("defg").await.unwrap();
        drop(sender);
        assert_eq!(answer.frame().await.unwrap().unwrap().into_data().unwrap(), "rl");
        assert!(answer.frame().await.is_none());
        assert_eq!(serving.await.unwrap(), "3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n");
    })
    .await;
}

#[tokio::test]
async fn a_server_that_refuses_a_body_before_it_has_read_it_is_heard() {
    local(async {
        let refusal = "HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nno!";
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let bed = Bed::new();
        let upstream = bed.upstream(&[format!("http://{}", listener.local_addr().unwrap())], |_| ());
        let serving = spawn_local(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(refusal.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
            // It reads no more, and does not reset what it has said either.
            std::future::pending::<()>().await;
        });
        let sent = Rc::new(std::cell::Cell::new(0));
        let answer = bed.send(&upstream, &Method::POST, Pieces::Flood(Rc::clone(&sent))).await.unwrap();
        assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "no!");
        serving.abort();
    })
    .await;
}

#[tokio::test]
async fn an_answer_that_stops_coming_times_out() {
    local(async {
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok";
        let (bed, (url, _)) = (Bed::new(), serve(vec![Does::Answers(answer)]).await);
        let upstream = bed.upstream(&[url], |settings| settings.response_timeout = Duration::from_millis(50));
        let answer = bed.send(&upstream, &Method::GET, NO_BODY()).await.unwrap();
        let error = answer.into_body().collect().await.unwrap_err();
        assert_eq!(error, crate::upstream::BrokenAnswer::Timeout);
    })
    .await;
}

#[tokio::test]
async fn the_server_with_the_fewest_requests_is_next() {
    local(async {
        let bed = Bed::new();
        let (one, seen_one) = serve(vec![Does::Sits]).await;
        let (two, seen_two) = serve(vec![Does::Sits]).await;
        let upstream = bed.upstream(&[one, two], |_| ());
        for _ in 0..6 {
            let (client, upstream) = (Rc::clone(&bed.client), Arc::clone(&upstream));
            spawn_local(async move {
                client
                    .send(
                        &upstream,
                        &Method::GET,
                        |length, out| write_head(&Method::GET, length, out),
                        NO_BODY(),
                        Instant::now(),
                    )
                    .await
                    .map(|_| ())
            });
        }
        time::sleep(Duration::from_millis(200)).await;
        assert_eq!((seen_one.borrow().len(), seen_two.borrow().len()), (3, 3));
    })
    .await;
}

#[tokio::test]
async fn beyond_max_inflight_requests_are_refused() {
    local(async {
        let (bed, (url, _)) = (Bed::new(), serve(vec![Does::Sits]).await);
        let upstream = bed.upstream(&[url], |settings| settings.inflight_max = Some(1));
        let (client, other) = (Rc::clone(&bed.client), Arc::clone(&upstream));
        let first = spawn_local(async move {
            client
                .send(
                    &other,
                    &Method::GET,
                    |length, out| write_head(&Method::GET, length, out),
                    NO_BODY(),
                    Instant::now(),
                )
                .await
                .map(|_| ())
        });
        time::sleep(Duration::from_millis(50)).await;
        let error = bed.get(&upstream).await.unwrap_err();
        assert_eq!((error.status(), error.label()), (StatusCode::SERVICE_UNAVAILABLE, "busy"));
        first.abort();
        time::sleep(Duration::from_millis(50)).await;
        assert!(upstream.enter().is_ok());
    })
    .await;
}

#[tokio::test]
async fn a_server_that_is_taken_out_comes_back() {
    local(async {
        let (bed, (good, _)) = (Bed::new(), serve(vec![Does::Answers(OK)]).await);
        let (poor, seen) = serve(vec![Does::AnswersOnce(""), Does::Answers(OK)]).await;
        let upstream = bed.upstream(&[poor.clone(), good], |settings| {
            settings.fail_timeout = Duration::from_millis(200);
        });
        let up =
            |value: u8| format!("anteroom_upstream_server_up{{server=\"{poor}\",upstream=\"app\"}} {value}");
        for _ in 0..6 {
            assert_eq!(bed.get(&upstream).await.unwrap(), "ok");
        }
        assert_eq!(seen.borrow().len(), 1);
        assert!(bed.metric(&up(0)));
        time::sleep(Duration::from_millis(250)).await;
        for _ in 0..2 {
            assert_eq!(bed.get(&upstream).await.unwrap(), "ok");
        }
        assert!(bed.metric(&up(1)));
        assert_eq!(seen.borrow().len(), 2);
    })
    .await;
}

#[tokio::test]
async fn a_health_check_takes_a_server_out_and_back_in() {
    local(async {
        let bed = Bed::new();
        let bad = "HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n";
        let (url, _) = serve(vec![Does::Answers(bad), Does::Answers(bad), Does::Answers(OK)]).await;
        let upstream = bed.upstream(&[url], |settings| {
            settings.health = Some(HealthCheck {
                path: "/healthz".to_owned(),
                every: Duration::from_millis(100),
                timeout: Duration::from_secs(1),
                status: 200,
            });
        });
        time::sleep(Duration::from_millis(50)).await;
        let error = bed.get(&upstream).await.unwrap_err();
        assert!(matches!(error, UpstreamError::NoServer), "{error}");
        time::sleep(Duration::from_millis(300)).await;
        assert_eq!(bed.get(&upstream).await.unwrap(), "ok");
        assert!(bed.metric(
            "anteroom_upstream_requests_total{kind=\"health\",result=\"refused\",upstream=\"app\"} 2"
        ));
    })
    .await;
}

#[tokio::test]
async fn a_server_behind_a_unix_socket_is_reached() {
    local(async {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.sock");
        let listener = UnixListener::bind(&path).unwrap();
        spawn_local(async move {
            let (stream, _) = listener.accept().await.unwrap();
            behave(stream, &Does::Answers(OK), 0, &RefCell::default()).await;
        });
        let bed = Bed::new();
        let upstream = bed.upstream(&[format!("unix:{}", path.display())], |_| ());
        assert_eq!(bed.get(&upstream).await.unwrap(), "ok");
    })
    .await;
}

#[tokio::test]
async fn a_server_shows_a_certificate_for_its_name() {
    use rustls::pki_types::PrivateKeyDer;
    local(async {
        let ca_key = rcgen::KeyPair::generate().unwrap();
        let mut ca = rcgen::CertificateParams::new(Vec::new()).unwrap();
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let pem = ca.self_signed(&ca_key).unwrap().pem();
        let issuer = rcgen::Issuer::new(ca, ca_key);
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(vec!["app.internal".to_owned()])
            .unwrap()
            .signed_by(&key, &issuer)
            .unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::Pkcs8(key.serialize_der().into()),
            )
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        spawn_local(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let acceptor = acceptor.clone();
                spawn_local(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        behave(stream, &Does::Answers(OK), 0, &RefCell::default()).await;
                    }
                });
            }
        });
        let ca = Some(crate::tls::CaFile { path: "ca.pem".to_owned(), pem });
        let cases = [
            (ca.clone(), Some("app.internal"), true, true),
            (ca.clone(), Some("other.internal"), true, false),
            (ca, None, true, false),
            (None, None, false, true),
        ];
        for (ca, name, verify, reached) in cases {
            let bed = Bed::new();
            let upstream = bed.upstream(std::slice::from_ref(&url), |settings| {
                settings.tls =
                    crate::upstream::TlsSettings { ca, server_name: name.map(str::to_owned), verify };
            });
            let got = bed.get(&upstream).await;
            assert_eq!(got.is_ok(), reached, "{name:?} {got:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn neither_way_is_more_held_than_the_slower_side_takes() {
    local(async {
        let (bed, (url, _)) = (Bed::new(), serve(vec![Does::Sits]).await);
        let upstream = bed.upstream(&[url], |_| ());
        let sent = Rc::new(std::cell::Cell::new(0));
        let flood = bed.send(&upstream, &Method::POST, Pieces::Flood(Rc::clone(&sent)));
        assert!(time::timeout(Duration::from_millis(300), flood).await.is_err());
        // The buffers of two sockets, and not much of ours.
        let (before, now) = (sent.get(), 16 << 20);
        assert!((1..now).contains(&before), "{before}");

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let written = Rc::new(std::cell::Cell::new(0));
        let count = Rc::clone(&written);
        spawn_local(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            read_head(&mut stream).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 999999999\r\n\r\n").await.unwrap();
            let piece = vec![0; 64 << 10];
            while stream.write_all(&piece).await.is_ok() {
                count.set(count.get() + (64 << 10));
            }
        });
        let bed = Bed::new();
        let upstream = bed.upstream(&[url], |_| ());
        let mut answer = bed.send(&upstream, &Method::GET, NO_BODY()).await.unwrap().into_body();
        assert!(answer.frame().await.unwrap().is_ok());
        time::sleep(Duration::from_millis(300)).await;
        assert!((1..16 << 20).contains(&written.get()), "{}", written.get());
    })
    .await;
}

#[tokio::test]
async fn idle_connections_are_bounded_in_number_and_time() {
    local(async {
        let (bed, (url, seen)) = (Bed::new(), serve(vec![Does::Answers(OK)]).await);
        let upstream = bed.upstream(&[url], |settings| {
            settings.keepalive = 2;
            settings.idle_timeout = Duration::from_millis(100);
        });
        // All have begun before the first is answered.
        let all: Vec<_> = (0..4)
            .map(|_| {
                let (client, upstream) = (Rc::clone(&bed.client), Arc::clone(&upstream));
                spawn_local(async move {
                    let head = |length, out: &mut Vec<u8>| write_head(&Method::GET, length, out);
                    let answer = client.send(&upstream, &Method::GET, head, NO_BODY(), Instant::now()).await;
                    answer.unwrap().into_body().collect().await.unwrap();
                })
            })
            .collect();
        for one in all {
            one.await.unwrap();
        }
        assert_eq!(seen.borrow().len(), 4);
        let kept = || bed.client.idle.borrow().values().map(Vec::len).sum::<usize>();
        assert_eq!(kept(), 2);
        time::sleep(SWEEP + Duration::from_millis(200)).await;
        assert_eq!(kept(), 0);
        assert!(!*bed.client.swept.borrow());
    })
    .await;
}

#[tokio::test]
async fn an_upstream_stays_the_same_over_a_reload_that_does_not_change_it() {
    local(async {
        let bed = Bed::new();
        let (one, two) = ("http://127.0.0.1:1".to_owned(), "http://127.0.0.1:2".to_owned());
        let first = bed.upstream(std::slice::from_ref(&one), |_| ());
        assert!(Arc::ptr_eq(&first, &bed.upstream(std::slice::from_ref(&one), |_| ())));
        let second = bed.upstream(&[one, two], |_| ());
        assert!(!Arc::ptr_eq(&first, &second));
        assert!(Arc::ptr_eq(&first.servers[0], &second.servers[0]));
        assert_eq!(bed.upstreams.gone(), Vec::<Arc<str>>::new());
        drop((first, second));
        let gone = bed.upstreams.gone();
        assert_eq!(gone, [Arc::from("app")]);
        bed.upstreams.forget(&gone);
        assert!(bed.registry.gather().iter().all(|family| family.get_metric().is_empty()));
    })
    .await;
}

const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
     Sec-WebSocket-Accept: right\r\n\r\nearly";

/// Both ends of a connection on this machine.
async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (one, other) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (one.unwrap(), other.unwrap().0)
}

/// A server that switches and hands its stream out.
async fn switching(answer: &'static str) -> (String, tokio::sync::oneshot::Receiver<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (sender, receiver) = tokio::sync::oneshot::channel();
    spawn_local(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_head(&mut stream).await.unwrap();
        stream.write_all(answer.as_bytes()).await.unwrap();
        sender.send(stream).unwrap();
    });
    (url, receiver)
}

impl Bed {
    async fn handshake(&self, upstream: &Arc<Upstream>) -> Result<Handshaken, UpstreamError> {
        let head = |out: &mut Vec<u8>| {
            out.extend_from_slice(
                b"GET / HTTP/1.1\r\nhost: example.com\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\r\n",
            );
        };
        self.client.handshake(upstream, head, &HeaderValue::from_static("right"), &[]).await
    }

    async fn tunnel(&self, upstream: &Arc<Upstream>) -> Tunnel {
        match self.handshake(upstream).await.unwrap() {
            Handshaken::Open(_, tunnel) => tunnel,
            Handshaken::Answer(answer) => panic!("{answer:?}"),
        }
    }
}

async fn read_some(stream: &mut TcpStream) -> String {
    let mut bytes = vec![0; 1 << 16];
    let len = stream.read(&mut bytes).await.unwrap();
    String::from_utf8(bytes[..len].to_vec()).unwrap()
}

#[tokio::test]
async fn bytes_and_ends_go_both_ways_through_a_tunnel() {
    local(async {
        let (bed, (url, server)) = (Bed::new(), switching(SWITCH).await);
        let upstream = bed.upstream(&[url], |_| ());
        let open = bed.tunnel(&upstream).await;
        let (mut client, ours) = pair().await;
        let running = spawn_local(tunnel(ours, Bytes::from("first"), open, std::future::pending()));
        let mut server = server.await.unwrap();
        assert_eq!(read_some(&mut client).await, "early");
        assert_eq!(read_some(&mut server).await, "first");
        client.write_all(b"ping").await.unwrap();
        assert_eq!(read_some(&mut server).await, "ping");
        server.write_all(b"pong").await.unwrap();
        assert_eq!(read_some(&mut client).await, "pong");
        assert!(bed.metric("anteroom_upstream_tunnels{upstream=\"app\"} 1"));
        client.shutdown().await.unwrap();
        assert_eq!(read_some(&mut server).await, "");
        server.write_all(b"last").await.unwrap();
        assert_eq!(read_some(&mut client).await, "last");
        drop(server);
        assert_eq!(read_some(&mut client).await, "");
        let ended = running.await.unwrap();
        assert_eq!((ended.cause, ended.bytes_to_server, ended.bytes_to_client), (Cause::Closed, 9, 13));
        assert!(bed.metric("anteroom_upstream_tunnels{upstream=\"app\"} 0"));
        assert!(bed.metric("anteroom_upstream_inflight_requests{upstream=\"app\"} 0"));
    })
    .await;
}

#[tokio::test]
async fn a_tunnel_carries_more_than_it_holds() {
    local(async {
        let (bed, (url, server)) = (Bed::new(), switching(SWITCH).await);
        let upstream = bed.upstream(&[url], |_| ());
        let open = bed.tunnel(&upstream).await;
        let (mut client, ours) = pair().await;
        spawn_local(tunnel(ours, Bytes::new(), open, std::future::pending()));
        let mut server = server.await.unwrap();
        let sent: Vec<u8> = (0..8 << 20).map(|at: u32| at.to_le_bytes()[1]).collect();
        let expected = sent.clone();
        spawn_local(async move {
            client.write_all(&sent).await.unwrap();
            client.shutdown().await.unwrap();
            std::future::pending::<()>().await;
        });
        // The writer must have met a full buffer.
        time::sleep(Duration::from_millis(200)).await;
        let mut received = Vec::new();
        server.read_to_end(&mut received).await.unwrap();
        assert!(received == expected);
    })
    .await;
}

#[tokio::test]
async fn a_tunnel_ends_when_nothing_moves_or_it_is_told_to() {
    local(async {
        for (stop_after, cause) in [(500, Cause::Idle), (50, Cause::Stopped)] {
            let (bed, (url, server)) = (Bed::new(), switching(SWITCH).await);
            let upstream = bed.upstream(&[url], |settings| {
                settings.tunnel_timeout = Duration::from_millis(200);
            });
            let open = bed.tunnel(&upstream).await;
            let (mut client, ours) = pair().await;
            let stop = time::sleep(Duration::from_millis(stop_after));
            let started_at = Instant::now();
            let running = spawn_local(tunnel(ours, Bytes::new(), open, stop));
            let mut server = server.await.unwrap();
            assert_eq!(read_some(&mut client).await, "early");
            time::sleep(Duration::from_millis(20)).await;
            server.write_all(b"more").await.unwrap();
            assert_eq!(read_some(&mut client).await, "more");
            assert_eq!(read_some(&mut client).await, "");
            assert_eq!(read_some(&mut server).await, "");
            assert_eq!(running.await.unwrap().cause, cause);
            assert!(cause == Cause::Stopped || Duration::from_millis(215) <= started_at.elapsed());
        }
    })
    .await;
}

#[tokio::test]
async fn a_wrong_101_is_a_502_and_another_answer_an_answer() {
    let wrong = [
        "HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: wrong\r\n\r\n",
        "HTTP/1.1 101 S\r\nUpgrade: h2c\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: right\r\n\r\n",
        "HTTP/1.1 101 S\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: right\r\n\r\n",
    ];
    local(async {
        for answer in wrong {
            let (bed, (url, _server)) = (Bed::new(), switching(answer).await);
            let upstream = bed.upstream(&[url], |_| ());
            let error = bed.handshake(&upstream).await.unwrap_err();
            assert!(matches!(error, UpstreamError::BadResponse(_)), "{error}");
        }
        let (bed, (url, _server)) =
            (Bed::new(), switching("HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno").await);
        let upstream = bed.upstream(&[url], |_| ());
        let Handshaken::Answer(answer) = bed.handshake(&upstream).await.unwrap() else { panic!() };
        assert_eq!(answer.status(), StatusCode::FORBIDDEN);
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "no");
        assert!(bed.metric(
            "anteroom_upstream_requests_total{kind=\"tunnel\",result=\"refused\",upstream=\"app\"} 1"
        ));
    })
    .await;
}
