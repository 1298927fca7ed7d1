//! Noticing that a file has changed, however it was written.
//!
//! Editors replace files, deployments swap links and whole directories. So the directory of the file is
//! watched, and that of every link on the way; any event there is a sign. A look at the metadata each
//! second is the net for file systems without events.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use prometheus::IntCounter;
use tokio::sync::Notify;

/// The coarsest steps of time stamps, in seconds.
const STEP_MAX: i64 = 2;
/// As many links as the kernel follows.
const LINKS_MAX: usize = 40;

/// A watched file.
#[derive(Debug)]
pub(super) struct Watch {
    path: PathBuf,
    changed: Arc<Notify>,
    errors: IntCounter,
    /// `None` where the system has no watcher to give; then polling is all there is.
    watcher: Option<RecommendedWatcher>,
    folders: Vec<Identity>,
    looks: Option<Looks>,
    looked_at: SystemTime,
}

/// A directory that is watched. Another one under the same name is not it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Identity {
    path: PathBuf,
    device: u64,
    inode: u64,
}

/// What metadata tells of a file's content.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Looks {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Watch {
    pub(super) fn new(path: &Path, errors: IntCounter) -> Self {
        let path = path.to_owned();
        let changed = Arc::default();
        let mut watch = Self {
            path,
            changed,
            errors,
            watcher: None,
            folders: Vec::new(),
            looks: None,
            looked_at: UNIX_EPOCH,
        };
        watch.renew();
        watch
    }

    /// Waits for a sign of a change. Cancel safe.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Whether the file, or a directory on the way to it, looks different from what it was at
    /// [`Watch::renew`].
    pub(super) fn differs(&self) -> bool {
        Looks::of(&self.path) != self.looks || folders(&self.path) != self.folders
    }

    /// Whether the file is certainly what it was at [`Watch::renew`], whatever has happened beside it.
    ///
    /// What was written shortly before that look may have been written again since, without looking
    /// different: time stamps have steps.
    pub(super) fn is_same(&self) -> bool {
        let settled = self.looks.as_ref().is_some_and(|looks| looks.is_older_than(self.looked_at));
        settled && !self.differs()
    }

    /// Watches the directories that the path leads through now.
    pub(super) fn renew(&mut self) {
        let folders = folders(&self.path);
        self.looked_at = SystemTime::now();
        self.looks = Looks::of(&self.path);
        if self.watcher.is_some() && folders == self.folders {
            return;
        }
        self.watcher = match self.watcher(&folders) {
            Ok(watcher) => Some(watcher),
            Err(error) => {
                self.errors.inc();
                tracing::warn!(%error, "cannot watch the configuration for events, looking at it each second");
                None
            }
        };
        self.folders = folders;
    }

    fn watcher(&self, folders: &[Identity]) -> notify::Result<RecommendedWatcher> {
        let changed = Arc::clone(&self.changed);
        let errors = self.errors.clone();
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| match event {
            Ok(event) if is_reading(event.kind) => (),
            Ok(_) => changed.notify_one(),
            Err(error) => {
                errors.inc();
                tracing::debug!(%error, "the watcher of the configuration");
                changed.notify_one();
            }
        })?;
        for folder in folders {
            watcher.watch(&folder.path, RecursiveMode::NonRecursive)?;
        }
        Ok(watcher)
    }
}

impl Looks {
    /// `None` if there is nothing at the end of the path.
    fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }

    /// Whether the last change came so long before a time that another one after it would show.
    fn is_older_than(&self, time: SystemTime) -> bool {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (seconds, _) = self.changed;
        i64::try_from(since.as_secs()).is_ok_and(|now| seconds + STEP_MAX < now)
    }
}

/// Whether an event tells of no change; our own reading of the file makes such events too.
fn is_reading(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => false,
        EventKind::Access(_) => true,
        _ => false,
    }
}

/// The directories of the file and of every link on the way to it.
fn folders(path: &Path) -> Vec<Identity> {
    let mut folders = Vec::new();
    let mut at = path.to_owned();
    for _ in 0..LINKS_MAX {
        let folder = match at.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
            _ => PathBuf::from("."),
        };
        if let Ok(metadata) = fs::metadata(&folder) {
            let identity = Identity { path: folder.clone(), device: metadata.dev(), inode: metadata.ino() };
            if !folders.contains(&identity) {
                folders.push(identity);
            }
        }
        let Ok(target) = fs::read_link(&at) else { break };
        at = folder.join(target);
    }
    folders
}
