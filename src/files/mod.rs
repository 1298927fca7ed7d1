//! Answers from a folder of files, as nginx gives them by `root` and `try_files`.
//!
//! tower-http knows what HTTP wants of a file: types, ranges, conditions, siblings that are compressed already. What
//! may be opened at all is decided here.

mod body;
mod root;

use std::fmt;
use std::io;
use std::path::PathBuf;

use http::header::{CACHE_CONTROL, CONTENT_LENGTH, ETAG, IF_RANGE, LAST_MODIFIED, LOCATION, RANGE, VARY};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body::Body as _;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tower_http::services::ServeDir;
use tower_http::services::fs::{DefaultServeDirFallback, ServeFileSystemResponseBody};

use self::root::Root;

pub use self::body::FileBody;

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
        let is_head = head.method == Method::HEAD;
        // What is said of a file is read off the open file, for `HEAD` too.
        let method = if is_head { Method::GET } else { head.method.clone() };
        let target = format!("/{}", utf8_percent_encode(path, ENCODED));
        let Ok(mut request) = Request::builder().method(method).uri(target).body(()) else {
            return Ok(Found::Nothing);
        };
        *request.headers_mut() = head.headers.clone();
        if is_head || !is_in_bytes(&head.headers) {
            request.headers_mut().remove(RANGE);
        }
        let mut answer = self.ask(request.clone()).await?;
        if !is_of_asked_version(&head.headers, &answer) {
            request.headers_mut().remove(RANGE);
            answer = self.ask(request).await?;
        }
        if answer.status() == StatusCode::NOT_FOUND {
            return Ok(Found::Nothing);
        }
        if answer.headers().contains_key(LOCATION) {
            let Some(location) = with_slash(head) else { return Ok(Found::Nothing) };
            answer.headers_mut().insert(LOCATION, location);
        } else {
            self.tell_caches(&mut answer);
        }
        let (parts, file) = answer.into_parts();
        let bytes = match file.size_hint().exact() {
            _ if is_head => 0,
            Some(bytes) => bytes,
            None => content_length(&parts.headers),
        };
        Ok(Found::Answer(Response::from_parts(parts, FileBody::new(file, bytes))))
    }

    /// The answer of the library; one with 404 if there is nothing.
    async fn ask(&self, request: Request<()>) -> io::Result<Response<ServeFileSystemResponseBody>> {
        match self.service().try_call(request).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut answer = Response::new(ServeFileSystemResponseBody::default());
                *answer.status_mut() = StatusCode::NOT_FOUND;
                Ok(answer)
            }
            other => other,
        }
    }

    fn tell_caches(&self, answer: &mut Response<ServeFileSystemResponseBody>) {
        let status = answer.status();
        let headers = answer.headers_mut();
        // A 304 has them as the 200 would (RFC 9110, 15.4.5).
        if !self.precompressed.is_empty() {
            headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
        }
        if let Some(cache_control) = &self.cache_control
            && (status.is_success() || status == StatusCode::NOT_MODIFIED)
        {
            headers.insert(CACHE_CONTROL, cache_control.clone());
        }
    }

    fn service(&self) -> ServeDir<DefaultServeDirFallback, Root> {
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

/// Whether a part is asked for in a unit that we know; others are not to be answered (RFC 9110, 14.2).
fn is_in_bytes(headers: &HeaderMap) -> bool {
    let unit = headers.get(RANGE).and_then(|range| range.as_bytes().split(|&byte| byte == b'=').next());
    unit.is_some_and(|unit| unit.eq_ignore_ascii_case(b"bytes"))
}

/// Whether a part, or the word that there is none, is of the file that the client has the beginning of
/// (RFC 9110, 13.1.5). It is asked of the answer: the file may be another by now than at any time before.
fn is_of_asked_version<B>(asked: &HeaderMap, answer: &Response<B>) -> bool {
    let is_of_part =
        matches!(answer.status(), StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE);
    match asked.get(IF_RANGE) {
        Some(validator) if is_of_part => {
            [ETAG, LAST_MODIFIED].iter().any(|name| answer.headers().get(name) == Some(validator))
        }
        _ => true,
    }
}

/// Where a folder without its slash leads. The route may have mapped the path, so it is that of the request.
fn with_slash(head: &Parts) -> Option<HeaderValue> {
    let path = head.uri.path();
    // What begins with two slashes, or with what browsers take for them, is a host.
    if path.starts_with("//") || path.contains('\\') {
        return None;
    }
    let query = head.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    HeaderValue::from_str(&format!("{path}/{query}")).ok()
}

fn content_length(headers: &HeaderMap) -> u64 {
    headers.get(CONTENT_LENGTH).and_then(|len| len.to_str().ok()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests;
