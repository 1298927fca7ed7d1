use std::future::poll_fn;

use prometheus::{IntCounter, Registry};
use tokio::io::AsyncReadExt as _;
use tokio::time;

use super::*;
use crate::channel_layer::{ChannelLayer, LayerConfig, LayerMetrics, WorkerId};
use crate::handler::Handler;
use crate::session::transport::tests::{Fake, tls_pair, transport};
use crate::session::{Metrics, Ping, Queue, Worker, WorkerInbox};

/// How long anything may take to come.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// A socket that nobody but the test attends to.
fn socket(transport: Transport, queue: Queue) -> Rc<Socket> {
    let registry = Registry::new();
    let layer_metrics = LayerMetrics::register(&registry).unwrap();
    let metrics = Metrics::register(&registry).unwrap();
    let inbox = {
        let counter = |name: &str| IntCounter::new(name, name).unwrap();
        WorkerInbox::new(counter("dropped"), counter("gone"))
    };
    let (layer, _) = ChannelLayer::new(LayerConfig::Memory, vec![inbox.clone()], layer_metrics);
    let worker = Worker::new(WorkerId(0), layer, inbox);
    let profile = Profile {
        route: "echo".into(),
        handler: Handler::Echo,
        ping: Ping { every: Duration::from_secs(20), timeout: Duration::from_secs(30) },
        message_bytes_max: 64 << 10,
        queue,
        rate: None,
        age_max: None,
        idle_max: None,
        metrics: metrics.route(&"echo".into()),
    };
    Socket::new(1, transport, Arc::new(profile), Rc::clone(worker.turn()), None, State::default())
}

fn queue(bytes_max: usize, full: FullQueue) -> Queue {
    Queue { bytes_max, full }
}

/// Attends to the socket until it may read, or has ended.
async fn attend(socket: &Socket, wanted: Readiness) {
    let attending = poll_fn(|context| match socket.poll_ready(context) {
        readiness if readiness == wanted && !socket.transport.is_behind() => Poll::Ready(()),
        _ => Poll::Pending,
    });
    time::timeout(WAIT_MAX, attending).await.expect("the client takes what waits");
}

/// A frame of a room, of which each has another first byte.
fn frame(at: usize) -> Bytes {
    let mut frame = BytesMut::new();
    write_frame(&mut frame, OpCode::Binary, &vec![u8::try_from(at % 251).unwrap(); 5_000]);
    frame.freeze()
}

#[tokio::test]
async fn a_tls_client_that_reads_too_slowly_gets_all_that_it_was_promised_and_1013() {
    let (server, mut client) = tls_pair(&rustls::version::TLS13).await;
    let socket = socket(transport(server), queue(100_000, FullQueue::Close));
    let mut delivered = Vec::new();
    let mut waited = 0;
    for at in 0.. {
        let frame = frame(at);
        if !socket.deliver(&frame, 1, 5_000) {
            break;
        }
        delivered.extend_from_slice(&frame);
        waited = socket.outbox.borrow().bytes;
        assert!(waited <= 100_000);
    }
    assert!(95_000 < waited, "{waited}");
    assert!(matches!(socket.phase(), Phase::Closing { cause: Cause::Slow, .. }));
    // What is queued is forgotten, but for the frame that is torn, and the close frame follows.
    let kept = socket.outbox.borrow().bytes;
    assert!(kept < 2 * 5_010, "{kept}");

    let mut received = Vec::new();
    let reading = async {
        loop {
            let mut bytes = vec![0; 64 << 10];
            let len = time::timeout(WAIT_MAX, client.read(&mut bytes)).await.unwrap().unwrap();
            received.extend_from_slice(&bytes[..len]);
            if received.ends_with(b"\x03\xf5too slow") {
                return;
            }
        }
    };
    tokio::join!(attend(&socket, Readiness::Read), reading);
    let frames = received.len() - b"\x88\x0a\x03\xf5too slow".len();
    assert_eq!(frames % frame(0).len(), 0);
    assert!(received[..frames] == delivered[..frames]);
}

#[tokio::test]
async fn a_tls_client_misses_what_does_not_fit_and_is_whole_again() {
    let (server, mut client) = tls_pair(&rustls::version::TLS13).await;
    let socket = socket(transport(server), queue(20_000, FullQueue::Drop));
    let mut delivered = Vec::new();
    let mut missed = 0;
    for at in 0.. {
        let frame = frame(at);
        if socket.deliver(&frame, 1, 5_000) {
            delivered.extend_from_slice(&frame);
        } else {
            missed += 1;
        }
        if missed == 3 {
            break;
        }
    }
    let heard_at = socket.heard_at.get();
    let mut received = vec![0; delivered.len()];
    let (read, ()) = tokio::join!(
        time::timeout(WAIT_MAX, client.read_exact(&mut received)),
        attend(&socket, Readiness::Read)
    );
    read.unwrap().unwrap();
    assert!(received == delivered);
    assert!(heard_at < socket.heard_at.get(), "it was slow, not dead");
    assert_eq!(socket.outbox.borrow().bytes, 0);
    assert!(!socket.outbox.borrow().blocked);
    let heard_at = socket.heard_at.get();
    assert!(socket.deliver(&frame(0), 1, 5_000));
    assert_eq!(socket.heard_at.get(), heard_at, "what the kernel takes at once is no sign of the client");
}

#[tokio::test]
async fn a_batch_of_several_records_arrives_whole() {
    let (server, mut client) = tls_pair(&rustls::version::TLS13).await;
    let socket = socket(transport(server), queue(1 << 20, FullQueue::Close));
    let batch = Bytes::from(vec![5; 60_000]);
    for _ in 0..5 {
        let mut received = vec![0; batch.len()];
        assert!(socket.deliver(&batch, 1, 60_000));
        let (read, ()) = tokio::join!(client.read_exact(&mut received), attend(&socket, Readiness::Read));
        read.unwrap();
        assert!(received == batch);
    }
}

#[tokio::test]
async fn a_socket_does_not_end_before_its_last_record_has_left() {
    let (server, mut client) = tls_pair(&rustls::version::TLS13).await;
    let socket = socket(transport(server), queue(1 << 20, FullQueue::Close));
    let mut promised = 0;
    let mut at = 0;
    while !socket.outbox.borrow().blocked {
        assert!(socket.deliver(&frame(at), 1, 5_000));
        promised += frame(at).len();
        at += 1;
    }
    socket.close_answer(Some(CloseCode::NORMAL));
    let mut context = Context::from_waker(Waker::noop());
    assert_eq!(socket.poll_ready(&mut context), Readiness::Wait);
    let mut received = vec![0; promised + 4];
    let (read, ()) = tokio::join!(client.read_exact(&mut received), attend(&socket, Readiness::Ended));
    read.unwrap();
    assert!(received.ends_with(b"\x88\x02\x03\xe8"));
    let left = poll_fn(|context| socket.poll_left(context, |_| panic!("a TLS client is not waited for")));
    let (read, ()) = tokio::join!(client.read(&mut received), left);
    // The end that TLS has a word for.
    assert_eq!(read.unwrap(), 0);
}

#[tokio::test]
async fn who_does_not_take_the_last_record_in_time_is_given_up() {
    let (server, _client) = tls_pair(&rustls::version::TLS13).await;
    let socket = socket(transport(server), queue(1 << 20, FullQueue::Close));
    while !socket.outbox.borrow().blocked {
        assert!(socket.deliver(&frame(0), 1, 5_000));
    }
    socket.close_answer(None);
    let mut context = Context::from_waker(Waker::noop());
    assert_eq!(socket.poll_ready(&mut context), Readiness::Wait);
    socket.abandon();
    assert_eq!(socket.poll_ready(&mut context), Readiness::Ended);
    let left = socket.poll_left(&mut context, |_| panic!("a TLS client is not waited for"));
    assert!(left.is_ready());
    assert!(matches!(socket.phase(), Phase::Ended { cause: Cause::Client, .. }));
}

#[tokio::test(start_paused = true)]
async fn a_busy_room_keeps_no_dead_http2_peer_alive() {
    let cases = [
        // refusals before a write is taken, whether the client must have read
        (&[0, 0, 0][..], false),
        (&[1, 2, 1], false),
        (&[0, 3, 0], true),
        (&[7], true),
    ];
    for (refusals, is_heard) in cases {
        let fake = Fake { refusals: refusals.iter().copied().collect(), ..Fake::default() };
        let socket = socket(Transport::polled(fake), queue(1 << 20, FullQueue::Close));
        let heard_at = socket.heard_at.get();
        let mut context = Context::from_waker(Waker::noop());
        for at in 0..20 {
            time::advance(Duration::from_millis(10)).await;
            if at < refusals.len() {
                assert!(socket.deliver(&frame(at), 1, 5_000));
            }
            assert_eq!(socket.poll_ready(&mut context), Readiness::Read);
        }
        assert_eq!(socket.outbox.borrow().bytes, 0, "{refusals:?}");
        assert_eq!(heard_at < socket.heard_at.get(), is_heard, "{refusals:?}");
    }
}

#[tokio::test]
async fn an_http2_client_is_left_by_the_end_of_the_stream_and_its_own_is_awaited() {
    let (ours, mut theirs) = tokio::io::duplex(64 << 10);
    let socket = socket(Transport::polled(ours), queue(1 << 20, FullQueue::Close));
    socket.close(CloseCode::GOING_AWAY, "", Cause::Application);
    let mut context = Context::from_waker(Waker::noop());
    assert_eq!(socket.poll_ready(&mut context), Readiness::Read);
    socket.close_answer(Some(CloseCode::GOING_AWAY));
    assert_eq!(socket.poll_ready(&mut context), Readiness::Ended);
    assert!(socket.poll_left(&mut context, |_| Poll::Pending).is_pending());
    let mut received = Vec::new();
    theirs.read_to_end(&mut received).await.unwrap();
    assert_eq!(received, b"\x88\x02\x03\xe9");
    assert!(socket.poll_left(&mut context, |_| Poll::Ready(())).is_ready());
    // Nor is it waited for without end.
    assert!(socket.poll_left(&mut context, |_| Poll::Pending).is_pending());
    socket.abandon();
    assert!(socket.poll_left(&mut context, |_| Poll::Pending).is_ready());
}
