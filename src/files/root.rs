//! Opening what lies below a folder, and nothing else.

use std::io;
use std::io::{Cursor, IoSliceMut};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::{Errno, ReadWriteFlags};
use tokio::io::{AsyncRead, AsyncSeek, ReadBuf};
use tokio::task::spawn_blocking;
use tower_http::services::fs::{Backend, File as ServedFile};

/// A file of up to this length is read whole when it is opened, if the kernel has it in memory.
const WHOLE_BYTES_MAX: u64 = 64 << 10;

/// How often a path is looked up again while folders are being renamed somewhere.
const TRIES_MAX: usize = 16;

/// A folder out of which no path leads: neither `..` nor a link.
///
/// Rule: `RESOLVE_BENEATH` in openat2(2). Links that stay below the folder are followed if they are relative.
///
/// What the kernel has in memory is opened and read at once; a worker never waits for a disk, which is left to other
/// threads.
#[derive(Clone, Debug)]
pub(super) struct Root(PathBuf);

impl Root {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self(folder)
    }

    /// Opens what is at a path.
    ///
    /// # Errors
    ///
    /// Those of the system; with [`Disk::Never`] also `EAGAIN`, when that would take the disk.
    fn open_beneath(&self, path: &Path, flags: OFlags, disk: Disk) -> io::Result<std::fs::File> {
        let cached = match disk {
            Disk::Never => ResolveFlags::CACHED,
            Disk::IfNeeded => ResolveFlags::empty(),
        };
        let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat2(CWD, &self.0, directory, Mode::empty(), cached)?;
        // An empty path would be none at all.
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | cached;
        let flags = flags | OFlags::CLOEXEC;
        let mut tries = 1;
        loop {
            match rustix::fs::openat2(&root, path, flags, Mode::empty(), resolve) {
                // A `..` in a link could not be followed for certain, as something was renamed meanwhile.
                Err(Errno::AGAIN) if disk == Disk::IfNeeded && tries < TRIES_MAX => tries += 1,
                opened => return Ok(opened?.into()),
            }
        }
    }

    fn open_file(&self, path: &Path, disk: Disk) -> io::Result<File> {
        // A pipe without a writer would keep us waiting, and a terminal could become ours.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = self.open_beneath(path, flags, disk)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::ErrorKind::NotFound.into());
        }
        let bytes = match read_whole(&file, metadata.len()) {
            Some(whole) => Bytes::Whole(Cursor::new(whole)),
            None => Bytes::Streamed(tokio::fs::File::from_std(file)),
        };
        Ok(File { bytes, metadata })
    }

    fn look_at(&self, path: &Path, disk: Disk) -> io::Result<std::fs::Metadata> {
        let metadata = self.open_beneath(path, OFlags::PATH, disk)?.metadata()?;
        let is_served = metadata.is_file() || metadata.is_dir();
        if is_served { Ok(metadata) } else { Err(io::ErrorKind::NotFound.into()) }
    }
}

/// Whether a thread may wait for the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Disk {
    Never,
    IfNeeded,
}

/// Does something at once if it takes no disk, and otherwise on another thread.
async fn at_once_or_aside<T: Send + 'static>(
    work: impl Fn(Disk) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let done = match work(Disk::Never) {
        // `EINVAL` is what a kernel before 5.12 says to the question.
        Err(error) if is_one_of(&error, &[Errno::AGAIN, Errno::INVAL]) => {
            spawn_blocking(move || work(Disk::IfNeeded)).await?
        }
        done => done,
    };
    // Only for `NotFound` the library looks for another form of the file.
    done.map_err(|error| if is_nothing(&error) { io::ErrorKind::NotFound.into() } else { error })
}

/// Whether the error says that there is no file for us at the path, rather than that it cannot be read.
fn is_nothing(error: &io::Error) -> bool {
    // The last are a socket, and a device that is not there.
    let others = [Errno::LOOP, Errno::NXIO, Errno::NODEV];
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
    ) || is_one_of(error, &others)
}

fn is_one_of(error: &io::Error, these: &[Errno]) -> bool {
    these.iter().any(|one| error.raw_os_error() == Some(one.raw_os_error()))
}

/// All of a short file, if the kernel has it in memory. Rule: `RWF_NOWAIT` in preadv2(2).
fn read_whole(file: &std::fs::File, len: u64) -> Option<Vec<u8>> {
    let len = usize::try_from(len).ok().filter(|_| len <= WHOLE_BYTES_MAX)?;
    let mut bytes = vec![0; len];
    let read =
        rustix::io::preadv2(file, &mut [IoSliceMut::new(&mut bytes)], 0, ReadWriteFlags::NOWAIT).ok()?;
    (read == len).then_some(bytes)
}

type Opening<T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send>>;

impl Backend for Root {
    type File = File;
    type Metadata = std::fs::Metadata;
    type OpenFuture = Opening<File>;
    type MetadataFuture = Opening<std::fs::Metadata>;

    fn open(&self, path: PathBuf) -> Opening<File> {
        let root = self.clone();
        Box::pin(at_once_or_aside(move |disk| root.open_file(&path, disk)))
    }

    fn metadata(&self, path: PathBuf) -> Opening<std::fs::Metadata> {
        let root = self.clone();
        Box::pin(at_once_or_aside(move |disk| root.look_at(&path, disk)))
    }
}

/// A regular file.
#[derive(Debug)]
pub(super) struct File {
    bytes: Bytes,
    /// As it was when the file was opened.
    metadata: std::fs::Metadata,
}

#[derive(Debug)]
enum Bytes {
    Whole(Cursor<Vec<u8>>),
    Streamed(tokio::fs::File),
}

impl AsyncRead for File {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.bytes {
            Bytes::Whole(bytes) => Pin::new(bytes).poll_read(context, buffer),
            Bytes::Streamed(file) => Pin::new(file).poll_read(context, buffer),
        }
    }
}

impl AsyncSeek for File {
    fn start_seek(mut self: Pin<&mut Self>, position: io::SeekFrom) -> io::Result<()> {
        match &mut self.bytes {
            Bytes::Whole(bytes) => Pin::new(bytes).start_seek(position),
            Bytes::Streamed(file) => Pin::new(file).start_seek(position),
        }
    }

    fn poll_complete(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<u64>> {
        match &mut self.bytes {
            Bytes::Whole(bytes) => Pin::new(bytes).poll_complete(context),
            Bytes::Streamed(file) => Pin::new(file).poll_complete(context),
        }
    }
}

impl ServedFile for File {
    type Metadata = std::fs::Metadata;
    type MetadataFuture<'a> = std::future::Ready<io::Result<std::fs::Metadata>>;

    fn metadata(&self) -> Self::MetadataFuture<'_> {
        std::future::ready(Ok(self.metadata.clone()))
    }
}
