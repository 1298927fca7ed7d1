use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Waker;

use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, SupportedProtocolVersion};
use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::*;

/// The head of a record, and what TLS 1.3 adds to its content.
const HEAD_LEN: usize = 5;
const RECORD_OVERHEAD: usize = HEAD_LEN + 17;

/// How long anything may take to come.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// A server and a client on the loopback, past their handshake.
pub(in crate::session) async fn tls_pair(
    version: &'static SupportedProtocolVersion,
) -> (server::TlsStream<NetStream>, client::TlsStream<TcpStream>) {
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certified.cert.der().clone()).unwrap();
    let server = ServerConfig::builder_with_protocol_versions(&[version])
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)
        .unwrap();
    let client = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (dialed, accepted) =
        tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    let (dialed, (accepted, _)) = (dialed.unwrap(), accepted.unwrap());
    dialed.set_nodelay(true).unwrap();
    // A window that is soon full.
    SockRef::from(&accepted).set_send_buffer_size(4 << 10).unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let (accepted, dialed) = tokio::join!(
        TlsAcceptor::from(Arc::new(server)).accept(NetStream::Tcp(accepted)),
        TlsConnector::from(Arc::new(client)).connect(name, dialed),
    );
    let (mut accepted, mut dialed) = (accepted.unwrap(), dialed.unwrap());
    // The tickets come before anything else.
    accepted.write_all(b"!").await.unwrap();
    assert_eq!(dialed.read_u8().await.unwrap(), b'!');
    (accepted, dialed)
}

pub(in crate::session) fn transport(stream: server::TlsStream<NetStream>) -> Transport {
    Transport::from(Stream::Tls(Box::new(stream)))
}

/// Reads once.
async fn read(transport: &Transport) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 64 << 10];
    let mut buffer = ReadBuf::new(&mut bytes);
    let reading = poll_fn(|context| transport.poll_read(context, &mut buffer));
    tokio::time::timeout(WAIT_MAX, reading).await.expect("something comes")?;
    Ok(buffer.filled().to_vec())
}

/// Reads until as many bytes have come.
async fn read_len(transport: &Transport, len: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < len {
        let some = read(transport).await.unwrap();
        assert!(!some.is_empty(), "{} of {len} bytes", all.len());
        all.extend(some);
    }
    all
}

/// Sends on what is held.
async fn flush(transport: &Transport) {
    poll_fn(|context| match transport.flush(Some(context)) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
        flushed => Poll::Ready(flushed),
    })
    .await
    .unwrap();
}

/// What a client's TLS makes of these messages, a record each.
fn encrypted(session: &mut ClientConnection, messages: &[&[u8]]) -> Vec<u8> {
    use std::io::Write as _;
    let mut bytes = Vec::new();
    for message in messages {
        session.writer().write_all(message).unwrap();
        while session.wants_write() {
            session.write_tls(&mut bytes).unwrap();
        }
    }
    bytes
}

#[tokio::test]
async fn a_batch_leaves_as_one_record_in_one_call_without_a_task() {
    let (server, client) = tls_pair(&rustls::version::TLS13).await;
    let transport = transport(server);
    let (mut stream, _) = client.into_inner();
    for pieces in [&[&b"hello"[..]][..], &[b"one", b" and ", b"two"]] {
        let slices: Vec<_> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        let len = pieces.concat().len();
        assert_eq!(transport.write(None, &slices).unwrap(), len);
        assert!(!transport.is_behind());
        let mut record = vec![0; 1024];
        let read = stream.read(&mut record).await.unwrap();
        assert_eq!(read, len + RECORD_OVERHEAD);
        assert_eq!(usize::from(u16::from_be_bytes([record[3], record[4]])), read - HEAD_LEN);
    }
}

#[tokio::test]
async fn what_a_slow_client_leaves_behind_is_bounded_and_arrives_whole() {
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let (server, mut client) = tls_pair(version).await;
        let transport = transport(server);
        let batch: Vec<u8> = (0..=u8::MAX).cycle().take(40_000).collect();
        let mut taken = Vec::new();
        loop {
            let from = taken.len() % batch.len();
            match transport.write(None, &[IoSlice::new(&batch[from..])]) {
                Ok(len) => {
                    // A record at most, and none while one waits.
                    assert!(0 < len && len <= 16 << 10, "{len}");
                    taken.extend_from_slice(&batch[from..from + len]);
                }
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                    break;
                }
            }
        }
        assert!(transport.is_behind());
        let sent = transport.sent();
        let again = transport.write(None, &[IoSlice::new(b"more")]).unwrap_err();
        assert_eq!((again.kind(), transport.sent()), (io::ErrorKind::WouldBlock, sent));

        let mut received = vec![0; taken.len()];
        tokio::join!(flush(&transport), async { client.read_exact(&mut received).await.unwrap() });
        assert!(!transport.is_behind());
        assert!(sent < transport.sent());
        assert!(received == taken);
    }
}

#[tokio::test]
async fn messages_are_read_however_their_records_are_cut() {
    let messages: Vec<Vec<u8>> = (0..50).map(|at| vec![at; usize::from(at) * 40]).collect();
    let slices: Vec<_> = messages.iter().map(Vec::as_slice).collect();
    for piece_len in [1, 7, 1000, usize::MAX] {
        let (server, client) = tls_pair(&rustls::version::TLS13).await;
        let transport = transport(server);
        let (mut stream, mut session) = client.into_inner();
        let bytes = encrypted(&mut session, if piece_len == 1 { &slices[..10] } else { &slices });
        let wanted = if piece_len == 1 { messages[..10].concat() } else { messages.concat() };
        let sending = async {
            for piece in bytes.chunks(piece_len.min(bytes.len())) {
                stream.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        let (read, ()) = tokio::join!(read_len(&transport, wanted.len()), sending);
        assert!(read == wanted, "in pieces of {piece_len}");
    }
}

#[tokio::test]
async fn a_long_message_is_read_whole() {
    let (server, mut client) = tls_pair(&rustls::version::TLS13).await;
    let transport = transport(server);
    let message = vec![7; 200_000];
    let sending = async {
        client.write_all(&message).await.unwrap();
        client.flush().await.unwrap();
    };
    let (read, ()) = tokio::join!(read_len(&transport, message.len()), sending);
    assert!(read == message);
}

#[tokio::test]
async fn what_was_decrypted_before_the_upgrade_is_read_first() {
    let (mut server, mut client) = tls_pair(&rustls::version::TLS13).await;
    client.write_all(b"head and early").await.unwrap();
    let mut head = [0; 9];
    server.read_exact(&mut head).await.unwrap();
    let transport = transport(server);
    // Nothing more comes from the network, and nobody is woken: the first look has it.
    let mut bytes = [0; 64];
    let mut buffer = ReadBuf::new(&mut bytes);
    let mut context = Context::from_waker(Waker::noop());
    assert!(transport.poll_read(&mut context, &mut buffer).is_ready());
    assert_eq!(buffer.filled(), b"early");
}

#[tokio::test]
async fn the_end_of_a_client_is_told_from_a_cut() {
    let (server, mut client) = tls_pair(&rustls::version::TLS13).await;
    let closed = transport(server);
    client.write_all(b"bye").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(read(&closed).await.unwrap(), b"bye");
    assert_eq!(read(&closed).await.unwrap(), b"");
    assert_eq!(read(&closed).await.unwrap(), b"");

    let (server, client) = tls_pair(&rustls::version::TLS13).await;
    let cut = transport(server);
    let (mut stream, mut session) = client.into_inner();
    stream.write_all(&encrypted(&mut session, &[b"by"])).await.unwrap();
    drop(stream);
    assert_eq!(read(&cut).await.unwrap(), b"by");
    assert_eq!(read(&cut).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn a_client_is_told_our_end_after_all_that_was_taken() {
    let (server, mut client) = tls_pair(&rustls::version::TLS13).await;
    let transport = transport(server);
    let mut taken = 0;
    while let Ok(len) = transport.write(None, &[IoSlice::new(&[1; 10_000])]) {
        taken += len;
    }
    assert!(transport.is_behind());
    let mut received = Vec::new();
    let (told, read) =
        tokio::join!(poll_fn(|context| transport.poll_shutdown(context)), client.read_to_end(&mut received));
    told.unwrap();
    // An end without a `close_notify` is an error here.
    assert_eq!(read.unwrap(), taken);
}

#[tokio::test]
async fn new_keys_of_a_client_are_taken_and_answered() {
    let (server, client) = tls_pair(&rustls::version::TLS13).await;
    let transport = transport(server);
    let (mut stream, mut session) = client.into_inner();
    for round in 0..3 {
        session.refresh_traffic_keys().unwrap();
        let bytes = encrypted(&mut session, &[b"under new keys"]);
        stream.write_all(&bytes).await.unwrap();
        assert_eq!(read(&transport).await.unwrap(), b"under new keys", "{round}");
        transport.write(None, &[IoSlice::new(b"understood")]).unwrap();
        let mut answer = Vec::new();
        while answer.len() < 10 {
            let mut bytes = [0; 1024];
            let len = stream.read(&mut bytes).await.unwrap();
            session.read_tls(&mut &bytes[..len]).unwrap();
            let state = session.process_new_packets().unwrap();
            let mut plain = vec![0; state.plaintext_bytes_to_read()];
            io::Read::read_exact(&mut session.reader(), &mut plain).unwrap();
            answer.extend(plain);
        }
        assert_eq!(answer, b"understood", "{round}");
    }
}

#[tokio::test]
async fn a_record_that_is_not_the_clients_ends_the_connection_with_an_alert() {
    let (server, client) = tls_pair(&rustls::version::TLS13).await;
    let transport = transport(server);
    let (mut stream, mut session) = client.into_inner();
    let mut bytes = encrypted(&mut session, &[b"good", b"bad"]);
    *bytes.last_mut().unwrap() ^= 1;
    stream.write_all(&bytes).await.unwrap();
    assert_eq!(read(&transport).await.unwrap(), b"good");
    assert_eq!(read(&transport).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
    let mut alert = [0; 64];
    let len = stream.read(&mut alert).await.unwrap();
    session.read_tls(&mut &alert[..len]).unwrap();
    let refused = session.process_new_packets().unwrap_err();
    assert!(matches!(refused, rustls::Error::AlertReceived(_)), "{refused}");
}

#[tokio::test]
async fn a_unix_socket_is_written_and_read_as_tcp_is() {
    let (ours, mut theirs) = tokio::net::UnixStream::pair().unwrap();
    let transport = Transport::from(Stream::Plain(NetStream::Unix(ours)));
    assert!(transport.is_direct());
    assert_eq!(transport.write(None, &[IoSlice::new(b"one"), IoSlice::new(b"two")]).unwrap(), 6);
    let mut bytes = [0; 6];
    theirs.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"onetwo");
    theirs.write_all(b"back").await.unwrap();
    assert_eq!(read(&transport).await.unwrap(), b"back");
    let mut taken = 0;
    while let Ok(len) = transport.write(None, &[IoSlice::new(&[1; 10_000])]) {
        taken += len;
    }
    let mut received = vec![0; taken + 4];
    let (written, _) = tokio::join!(
        poll_fn(|context| match transport.write(Some(context), &[IoSlice::new(b"last")]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
            written => Poll::Ready(written),
        }),
        theirs.read_exact(&mut received)
    );
    assert_eq!(written.unwrap(), 4);
    assert!(received.ends_with(b"last"));
    poll_fn(|context| transport.poll_shutdown(context)).await.unwrap();
    assert_eq!(theirs.read(&mut bytes).await.unwrap(), 0);
}

/// A stream that keeps what it is given, and takes it only when its turn is to come.
#[derive(Default)]
pub(in crate::session) struct Fake {
    pub(in crate::session) written: Vec<Vec<u8>>,
    /// How many writes are refused before one is taken, one number after the other; then all are taken.
    pub(in crate::session) refusals: VecDeque<usize>,
}

impl AsyncRead for Fake {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

impl AsyncWrite for Fake {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(left) = self.refusals.front_mut() {
            if 0 < *left {
                *left -= 1;
                return Poll::Pending;
            }
            self.refusals.pop_front();
        }
        self.written.push(bytes.to_vec());
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn a_polled_stream_is_given_all_that_waits_in_one_buffer_by_the_task_alone() {
    let (ours, mut theirs) = tokio::io::duplex(64 << 10);
    let transport = Transport::polled(ours);
    assert!(!transport.is_direct());
    let long = vec![3; 40_000];
    let pieces = [IoSlice::new(b"one"), IoSlice::new(b"two"), IoSlice::new(&long)];
    let refused = transport.write(None, &pieces).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
    let mut context = Context::from_waker(Waker::noop());
    assert_eq!(transport.write(Some(&mut context), &pieces).unwrap(), 16 << 10);
    assert!(transport.is_behind());
    transport.flush(Some(&mut context)).unwrap();
    assert!(!transport.is_behind());
    let mut bytes = [0; 16 << 10];
    theirs.read_exact(&mut bytes).await.unwrap();
    assert!(bytes.starts_with(b"onetwo\x03\x03"));
    theirs.write_all(b"back").await.unwrap();
    assert_eq!(read(&transport).await.unwrap(), b"back");
    poll_fn(|context| transport.poll_shutdown(context)).await.unwrap();
    assert_eq!(theirs.read(&mut bytes).await.unwrap(), 0);
}

#[test]
fn who_has_not_had_its_turn_yet_is_not_blocked_by_the_client() {
    let cases = [
        // refusals in a row, blocked after them
        (0, false),
        (1, false),
        (2, false),
        (3, true),
        (9, true),
    ];
    let mut context = Context::from_waker(Waker::noop());
    for (refusals, is_blocked) in cases {
        let transport = Transport::polled(Fake { refusals: [refusals].into(), ..Fake::default() });
        for _ in 0..refusals {
            let refused = transport.write(Some(&mut context), &[IoSlice::new(b"x")]).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
        }
        assert_eq!(transport.is_blocked(), is_blocked, "after {refusals}");
        assert_eq!(transport.write(Some(&mut context), &[IoSlice::new(b"x")]).unwrap(), 1);
        assert!(!transport.is_blocked());
    }
}

#[tokio::test]
async fn what_is_left_of_a_socket_that_has_ended_has_thirty_seconds() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (dialed, accepted) =
        tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    let (_dialed, (accepted, _)) = (dialed.unwrap(), accepted.unwrap());
    let same = SockRef::from(&accepted).try_clone().unwrap();
    let transport = Transport::from(Stream::Plain(NetStream::Tcp(accepted)));
    assert_eq!(same.tcp_user_timeout().unwrap(), None);
    drop(transport);
    assert_eq!(same.tcp_user_timeout().unwrap(), Some(FAREWELL_TIMEOUT));
}
