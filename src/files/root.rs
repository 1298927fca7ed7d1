//! Opening what lies below a folder, and nothing else.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use tokio::task::spawn_blocking;
use tower_http::services::fs::{Backend, File as ServedFile};

/// A folder out of which no path leads: neither `..` nor a link.
///
/// Rule: `RESOLVE_BENEATH` in openat2(2). Links that stay below the folder are followed if they are relative.
#[derive(Clone, Debug)]
pub(super) struct Root(PathBuf);

impl Root {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self(folder)
    }

    /// Opens what is at a path. Anything but a regular file can only be looked at.
    fn open_beneath(&self, path: &Path, flags: OFlags) -> io::Result<std::fs::File> {
        let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, &self.0, directory, Mode::empty())?;
        // An empty path would be none at all.
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let flags = flags | OFlags::CLOEXEC;
        Ok(rustix::fs::openat2(&root, path, flags, Mode::empty(), resolve)?.into())
    }

    fn open_file(&self, path: &Path) -> io::Result<std::fs::File> {
        // A pipe without a writer would keep us waiting.
        let file = self.open_beneath(path, OFlags::RDONLY | OFlags::NONBLOCK)?;
        if file.metadata()?.is_file() { Ok(file) } else { Err(io::ErrorKind::NotFound.into()) }
    }

    fn look_at(&self, path: &Path) -> io::Result<std::fs::Metadata> {
        let metadata = self.open_beneath(path, OFlags::PATH)?.metadata()?;
        let is_served = metadata.is_file() || metadata.is_dir();
        if is_served { Ok(metadata) } else { Err(io::ErrorKind::NotFound.into()) }
    }
}

type Opening<T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send>>;

impl Backend for Root {
    type File = File;
    type Metadata = std::fs::Metadata;
    type OpenFuture = Opening<File>;
    type MetadataFuture = Opening<std::fs::Metadata>;

    fn open(&self, path: PathBuf) -> Opening<File> {
        let root = self.clone();
        Box::pin(async move {
            let opened = spawn_blocking(move || root.open_file(&path)).await??;
            Ok(File(tokio::fs::File::from_std(opened)))
        })
    }

    fn metadata(&self, path: PathBuf) -> Opening<std::fs::Metadata> {
        let root = self.clone();
        Box::pin(async move { spawn_blocking(move || root.look_at(&path)).await? })
    }
}

/// A regular file.
#[derive(Debug)]
pub(super) struct File(tokio::fs::File);

impl tokio::io::AsyncRead for File {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl tokio::io::AsyncSeek for File {
    fn start_seek(mut self: Pin<&mut Self>, position: io::SeekFrom) -> io::Result<()> {
        Pin::new(&mut self.0).start_seek(position)
    }

    fn poll_complete(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<u64>> {
        Pin::new(&mut self.0).poll_complete(context)
    }
}

impl ServedFile for File {
    type Metadata = std::fs::Metadata;
    type MetadataFuture<'a> = Pin<Box<dyn Future<Output = io::Result<std::fs::Metadata>> + Send + 'a>>;

    fn metadata(&self) -> Self::MetadataFuture<'_> {
        Box::pin(self.0.metadata())
    }
}
