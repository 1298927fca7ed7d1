//! Handshakes, and the tunnels that they open.

use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::*;
use crate::listener::NetStream;
use crate::upstream::{Cause, tunnel};

const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
     Sec-WebSocket-Accept: right\r\n\r\nearly";

impl Bed {
    pub(super) async fn handshake(&self, upstream: &Arc<Upstream>) -> Result<Handshaken, UpstreamError> {
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

/// A server that switches and hands its stream out.
async fn switching(answer: &'static str) -> (String, oneshot::Receiver<TcpStream>) {
    let (listener, url) = bind().await;
    let (sender, receiver) = oneshot::channel();
    spawn_local(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_head(&mut stream).await.unwrap();
        stream.write_all(answer.as_bytes()).await.unwrap();
        sender.send(stream).unwrap();
    });
    (url, receiver)
}

/// Both ends of a connection on this machine.
async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (one, other) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (one.unwrap(), other.unwrap().0)
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
        let running =
            spawn_local(tunnel(NetStream::Tcp(ours), Bytes::from("first"), open, std::future::pending()));
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
        spawn_local(tunnel(NetStream::Tcp(ours), Bytes::new(), open, std::future::pending()));
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
            let running = spawn_local(tunnel(NetStream::Tcp(ours), Bytes::new(), open, stop));
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
async fn a_101_says_no_length() {
    local(async {
        let answer = SWITCH.replace("\r\n\r\n", "\r\nContent-Length: 5\r\n\r\n").leak();
        let (bed, (url, _stream)) = (Bed::new(), switching(answer).await);
        let upstream = bed.upstream(&[url], |_| ());
        let Ok(Handshaken::Open(head, _)) = bed.handshake(&upstream).await else { panic!("no tunnel") };
        assert_eq!(head.headers.get(CONTENT_LENGTH), None);
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
