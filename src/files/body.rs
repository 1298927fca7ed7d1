//! The body of a file's answer.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tower_http::services::fs::ServeFileSystemResponseBody;

/// As many bytes of a file as its answer has announced, or an error in their place.
///
/// A file may change its length while it is sent. HTTP/2 would take the end of a shorter one for the end of the
/// answer, and what a longer one has more for a fault.
pub struct FileBody {
    file: ServeFileSystemResponseBody,
    bytes_left: u64,
}

impl FileBody {
    pub(super) fn new(file: ServeFileSystemResponseBody, bytes: u64) -> Self {
        Self { file, bytes_left: bytes }
    }
}

impl Body for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if self.bytes_left == 0 {
            return Poll::Ready(None);
        }
        let frame = match ready!(Pin::new(&mut self.file).poll_frame(context)) {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return Poll::Ready(Some(Err(broken(error)))),
            None => {
                let why = "it became shorter while it was sent";
                return Poll::Ready(Some(Err(broken(io::Error::new(io::ErrorKind::UnexpectedEof, why)))));
            }
        };
        let Ok(mut data) = frame.into_data() else { return Poll::Ready(None) };
        let bytes_left = usize::try_from(self.bytes_left).unwrap_or(usize::MAX);
        data.truncate(bytes_left);
        self.bytes_left -= data.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes_left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes_left)
    }
}

impl fmt::Debug for FileBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileBody").field("bytes_left", &self.bytes_left).finish_non_exhaustive()
    }
}

/// Logged here: whoever sends the body takes its errors for those of the connection.
fn broken(error: io::Error) -> io::Error {
    tracing::warn!(%error, "an answer is broken off, for its file cannot be read on");
    error
}
