//! Answers from a folder of files, as nginx gives them by `root` and `try_files`.
//!
//! tower-http knows what HTTP wants of a file: types, ranges, conditions, siblings that are compressed already. What
//! may be opened at all is decided here.

mod root;

use std::fmt;
use std::io;
use std::path::PathBuf;

use http::header::{CACHE_CONTROL, IF_RANGE, LAST_MODIFIED, LOCATION, RANGE};
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rustix::io::Errno;
use tower_http::services::ServeDir;

use self::root::Root;

pub use tower_http::services::fs::ServeFileSystemResponseBody as FileBody;

/// What is read of a file at once, in bytes.
const CHUNK_BYTES: usize = 64 << 10;

/// A folder and how its files are answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The folder. It is looked up at each request, so that a link to it may be turned while the server runs.
    pub root: PathBuf,
    /// Whether a folder below it is answered by its `index.html`; otherwise there is no file for it.
    pub index: bool,
    /// Which siblings stand for a file, to clients that take them.
    pub precompressed: Vec<Compression>,
    /// `Cache-Control` of every file.
    pub cache_control: Option<HeaderValue>,
}

/// A form in which a file lies beside the plain one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// `.br`.
    Brotli,
    /// `.zst`.
    Zstandard,
    /// `.gz`.
    Gzip,
}

/// What a folder has for a request.
pub enum Found {
    /// An answer; also one that says that the client has the file already, or wants a part that it does not have.
    Answer(Response<FileBody>),
    /// No file that may be answered.
    Nothing,
}

impl fmt::Debug for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answer(answer) => f.debug_tuple("Answer").field(&answer.status()).finish(),
            Self::Nothing => f.write_str("Nothing"),
        }
    }
}

impl Files {
    /// Answers a `GET` or `HEAD` with the file at a decoded path below the root.
    ///
    /// There is nothing at a path that has an encoded slash, an empty, hidden or relative part, or that leaves the
    /// root by a link. `.well-known` is not hidden (RFC 8615).
    ///
    /// # Errors
    ///
    /// The file is there, but cannot be read: the operator's fault, or the disk's.
    pub async fn find(&self, head: &Parts, path: &str) -> io::Result<Found> {
        if !is_plain(path) || has_encoded_slash(head.uri.path()) {
            return Ok(Found::Nothing);
        }
        let path = path.trim_start_matches('/');
        let Ok(mut request) = Request::builder()
            .method(&head.method)
            .uri(format!("/{}", utf8_percent_encode(path, ENCODED)))
            .body(())
        else {
            return Ok(Found::Nothing);
        };
        *request.headers_mut() = head.headers.clone();
        if request.headers().contains_key(IF_RANGE) && !self.is_current(&request).await? {
            // The part is of a file that is another now.
            request.headers_mut().remove(RANGE);
        }
        let mut answer = match self.service().try_call(request).await {
            Ok(answer) => answer,
            Err(error) if is_nothing(&error) => return Ok(Found::Nothing),
            Err(error) => return Err(error),
        };
        if answer.status() == StatusCode::NOT_FOUND {
            return Ok(Found::Nothing);
        }
        if let Some(location) = answer.headers_mut().get_mut(LOCATION) {
            // A folder without its slash. The route may have mapped the path.
            let query = head.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
            match HeaderValue::from_str(&format!("{}/{query}", head.uri.path())) {
                Ok(with_slash) => *location = with_slash,
                Err(_) => return Ok(Found::Nothing),
            }
        } else if let Some(cache_control) = &self.cache_control
            && answer.status() != StatusCode::RANGE_NOT_SATISFIABLE
        {
            answer.headers_mut().insert(CACHE_CONTROL, cache_control.clone());
        }
        Ok(Found::Answer(answer))
    }

    /// Whether the validator of `If-Range` is that of the file as it is now (RFC 9110, 13.1.5).
    async fn is_current(&self, request: &Request<()>) -> io::Result<bool> {
        let mut head = Request::new(());
        *head.method_mut() = Method::HEAD;
        *head.uri_mut() = request.uri().clone();
        if let Some(accepted) = request.headers().get(header::ACCEPT_ENCODING) {
            head.headers_mut().insert(header::ACCEPT_ENCODING, accepted.clone());
        }
        let now = match self.service().try_call(head).await {
            Ok(now) => now,
            Err(error) if is_nothing(&error) => return Ok(false),
            Err(error) => return Err(error),
        };
        let validator = request.headers().get(IF_RANGE);
        Ok([header::ETAG, LAST_MODIFIED].iter().any(|name| now.headers().get(name) == validator))
    }

    fn service(&self) -> ServeDir<tower_http::services::fs::DefaultServeDirFallback, Root> {
        let mut service = ServeDir::with_backend("", Root::new(self.root.clone()))
            .append_index_html_on_directories(self.index)
            .ignore_multi_range_requests(true)
            .with_buf_chunk_size(CHUNK_BYTES);
        for compression in &self.precompressed {
            service = match compression {
                Compression::Brotli => service.precompressed_br(),
                Compression::Zstandard => service.precompressed_zstd(),
                Compression::Gzip => service.precompressed_gzip(),
            };
        }
        service
    }
}

/// Everything but what a path may have as it is.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Whether each part of the path is the name of something that is not hidden; the last may be empty.
fn is_plain(path: &str) -> bool {
    let path = path.strip_prefix('/').unwrap_or(path);
    let mut parts = path.split('/').peekable();
    let mut first = true;
    while let Some(part) = parts.next() {
        let is_last = parts.peek().is_none();
        let hidden = part.starts_with('.') && !(first && part == ".well-known");
        if hidden || part.contains(['\\', '\0']) || (part.is_empty() && !is_last) {
            return false;
        }
        first = false;
    }
    true
}

/// An encoded slash is part of a name, and no file has such a one.
fn has_encoded_slash(raw: &str) -> bool {
    raw.as_bytes()
        .windows(3)
        .any(|three| matches!(three, [b'%', b'2', b'f' | b'F'] | [b'%', b'5', b'c' | b'C']))
}

/// Whether the error says that there is no file at the path, rather than that it cannot be read.
fn is_nothing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound
            | io::ErrorKind::PermissionDenied
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::IsADirectory
            | io::ErrorKind::InvalidFilename
            | io::ErrorKind::InvalidInput
            // A link out of the folder.
            | io::ErrorKind::CrossesDevices
    ) || error.raw_os_error() == Some(Errno::LOOP.raw_os_error())
}

#[cfg(test)]
mod tests;
