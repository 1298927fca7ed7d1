//! For how long an answer over HTTP/2 waits for its client.
//!
//! A connection whose client takes nothing ends by its `Pace`. Over HTTP/2 it may be as lively as any while one stream
//! of it stands still, for the client opens no window for more: its answer would wait for ever, and with it the
//! connection to the application.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use crate::request::pace::Pace;

/// A piece of an answer may wait for so long.
const PIECE_WAIT_MAX: Duration = Duration::from_secs(30);

tokio::task_local! {
    /// Of the stream that this task answers.
    static OFFER: Rc<Offer>;
}

/// Whether a piece of an answer waits for its client, and since when. hyper asks for the next one when the client's
/// windows have room for any of the last one.
#[derive(Debug, Default)]
pub(super) struct Offer(Cell<Option<Instant>>);

/// The client has taken nothing of an answer for too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotTaken;

impl Offer {
    /// Of the stream that this task answers; `None` over HTTP/1.1.
    pub(super) fn of_task() -> Option<Rc<Self>> {
        OFFER.try_with(Rc::clone).ok()
    }

    /// hyper has asked for a piece, and has got one or waits for the application now.
    pub(super) fn asked(&self, got_one: bool) {
        self.0.set(got_one.then(Instant::now));
    }
}

/// Answers a stream, unless the client does not take the answer. Dropping this resets the stream.
///
/// A client whose connection is full is not to blame for the stream whose turn has not come.
pub(super) fn answer(
    task: impl Future<Output = ()>,
    pace: Arc<Pace>,
) -> impl Future<Output = Result<(), NotTaken>> {
    let offer = Rc::<Offer>::default();
    // Boxed, as it is large and would be moved otherwise.
    let mut task = Box::pin(OFFER.scope(Rc::clone(&offer), task));
    // Made for an answer that had to wait, and left running from then on.
    let mut timer: Option<Pin<Box<Sleep>>> = None;
    poll_fn(move |context| {
        if task.as_mut().poll(context).is_ready() {
            return Poll::Ready(Ok(()));
        }
        while let Some(since) = offer.0.get() {
            let until = since.max(pace.flushed_since()) + PIECE_WAIT_MAX;
            let timer = timer.get_or_insert_with(|| Box::pin(sleep_until(until)));
            ready!(timer.as_mut().poll(context));
            if until <= Instant::now() {
                return Poll::Ready(Err(NotTaken));
            }
            timer.as_mut().reset(until);
        }
        Poll::Pending
    })
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;
    use std::task::Context;

    use bytes::Bytes;
    use h2::{Reason, RecvStream};
    use http::{Request, Response};
    use http_body::{Body, Frame};
    use hyper::rt::Executor;
    use hyper::server::conn::http2;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use tokio::task::{LocalSet, spawn_local};
    use tokio::time;

    use super::*;

    const PIECE_LEN: usize = 32 << 10;

    /// An application that says each piece after a pause.
    struct Slow {
        pauses: VecDeque<Duration>,
        pausing: Option<Pin<Box<Sleep>>>,
        offer: Option<Rc<Offer>>,
    }

    impl Body for Slow {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            let Some(&pause) = self.pauses.front() else { return Poll::Ready(None) };
            let pausing = self.pausing.get_or_insert_with(|| Box::pin(time::sleep(pause)));
            let polled = pausing.as_mut().poll(context);
            self.offer.as_ref().unwrap().asked(polled.is_ready());
            ready!(polled);
            self.pausing = None;
            self.pauses.pop_front();
            Poll::Ready(Some(Ok(Frame::data(vec![b'x'; PIECE_LEN].into()))))
        }
    }

    #[derive(Clone)]
    struct Spawner(Arc<Pace>);

    impl<F: Future<Output = ()> + 'static> Executor<F> for Spawner {
        fn execute(&self, task: F) {
            let answering = answer(task, Arc::clone(&self.0));
            spawn_local(async move { answering.await.unwrap_or(()) });
        }
    }

    /// The answer of an application that pauses so before its pieces, for a client whose window is of this size.
    async fn ask(pace: &Arc<Pace>, window: u32, pauses: &[u64]) -> RecvStream {
        let (here, there) = tokio::io::duplex(1 << 20);
        let pauses: VecDeque<_> = pauses.iter().map(|&pause_s| Duration::from_secs(pause_s)).collect();
        let service = service_fn(move |_| {
            let pauses = pauses.clone();
            async {
                Ok::<_, Infallible>(Response::new(Slow { pauses, pausing: None, offer: Offer::of_task() }))
            }
        });
        let connection =
            http2::Builder::new(Spawner(Arc::clone(pace))).serve_connection(TokioIo::new(here), service);
        spawn_local(async move { connection.await.unwrap_or_default() });
        let mut client = h2::client::Builder::new();
        let client = client.initial_window_size(window).handshake::<_, Bytes>(there).await;
        let (mut send, connection) = client.unwrap();
        spawn_local(async move { connection.await.unwrap_or_default() });
        let request = Request::get("https://localhost/").body(()).unwrap();
        let (answer, _) = send.send_request(request, true).unwrap();
        answer.await.unwrap().into_body()
    }

    /// How much comes when so much is taken each second, and how the stream ends.
    async fn take(mut body: RecvStream, bytes_a_second: usize) -> (usize, Option<Reason>) {
        let (mut came, mut untaken) = (0, 0);
        loop {
            tokio::select! {
                piece = body.data() => match piece {
                    Some(Ok(piece)) => {
                        came += piece.len();
                        untaken += piece.len();
                    }
                    Some(Err(error)) => return (came, error.reason()),
                    None => return (came, None),
                },
                () = time::sleep(Duration::from_secs(1)) => {
                    let taken = untaken.min(bytes_a_second);
                    body.flow_control().release_capacity(taken).unwrap();
                    untaken -= taken;
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_waits_thirty_seconds_for_a_client_that_takes_nothing() {
        let cases = [
            // the client's window, what it takes each second; the pauses of the application; what comes and when it
            // is broken off, if it is
            (0, 0, &[0][..], 0, Some(30)),
            (0, 0, &[20], 0, Some(50)),
            (65_535, 0, &[0, 0, 0], 65_535, Some(30)),
            (65_535, 0, &[0, 0, 100], 65_535, Some(130)),
            (65_535, 2_048, &[0; 20], 20 * PIECE_LEN, None),
            // The application is waited for as long as it is to be; that is not for here.
            (65_535, 65_535, &[100, 0, 100, 100], 4 * PIECE_LEN, None),
        ];
        let run = async {
            for (window, taken, pauses, bytes, broken_s) in cases {
                let begun = Instant::now();
                let body = ask(&Pace::new(true, false, Arc::default()), window, pauses).await;
                let taking = time::timeout(Duration::from_secs(1_000), take(body, taken));
                let case = format!("{window}, {taken}, {pauses:?}");
                let Ok((came, reason)) = taking.await else { panic!("{case}: it has no end") };
                assert_eq!(came, bytes, "{case}");
                assert_eq!(reason, broken_s.map(|_| Reason::CANCEL), "{case}");
                if let Some(broken_s) = broken_s {
                    assert_eq!(begun.elapsed().as_secs(), broken_s, "{case}");
                }
            }
        };
        LocalSet::new().run_until(run).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_is_not_blamed_for_a_connection_that_is_full() {
        let run = async {
            let (pace, begun) = (Pace::new(true, false, Arc::default()), Instant::now());
            let mut taking = std::pin::pin!(async { take(ask(&pace, 0, &[0]).await, 0).await });
            pace.on_flush(false);
            assert!(time::timeout(Duration::from_secs(100), taking.as_mut()).await.is_err());
            pace.on_flush(true);
            assert_eq!(taking.await, (0, Some(Reason::CANCEL)));
            assert_eq!(begun.elapsed().as_secs(), 130);
        };
        LocalSet::new().run_until(run).await;
    }
}
