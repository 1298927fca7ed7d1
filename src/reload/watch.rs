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
use tokio::task;

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
    seen: Sight,
}

/// What a look at a file and the way to it has found.
#[derive(Debug)]
struct Sight {
    folders: Vec<Identity>,
    looks: Option<Looks>,
    at: SystemTime,
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

/// Each look is taken where it may block: a network file system may take its time, and the accept loops must not wait
/// for it. The reload does: a look that fails is no sign of a change, and one that never ends is waited for.
impl Watch {
    pub(super) async fn new(path: &Path, errors: IntCounter) -> Self {
        let seen = Sight { folders: Vec::new(), looks: None, at: UNIX_EPOCH };
        let mut watch = Self { path: path.to_owned(), changed: Arc::default(), errors, watcher: None, seen };
        watch.renew().await;
        watch
    }

    /// Waits for a sign of a change. Cancel safe.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Whether the file, or a directory on the way to it, looks different from what it was at
    /// [`Watch::renew`].
    pub(super) async fn differs(&self) -> bool {
        self.look().await.is_some_and(|sight| !sight.is_like(&self.seen))
    }

    /// Whether the file is certainly what it was at [`Watch::renew`], whatever has happened beside it.
    ///
    /// What was written shortly before that look may have been written again since, without looking
    /// different: time stamps have steps.
    pub(super) async fn is_same(&self) -> bool {
        let settled = self.seen.looks.as_ref().is_some_and(|looks| looks.is_older_than(self.seen.at));
        settled && self.look().await.is_some_and(|sight| sight.is_like(&self.seen))
    }

    /// Watches the directories that the path leads through now.
    pub(super) async fn renew(&mut self) {
        let Some(sight) = self.look().await else { return };
        let is_watched = self.watcher.is_some() && sight.folders == self.seen.folders;
        self.seen = sight;
        if is_watched {
            return;
        }
        let folders = self.seen.folders.clone();
        let (changed, errors) = (Arc::clone(&self.changed), self.errors.clone());
        let made = task::spawn_blocking(move || watcher(&folders, changed, errors)).await;
        self.watcher = match made.unwrap_or_else(|error| Err(notify::Error::generic(&error.to_string()))) {
            Ok(watcher) => Some(watcher),
            Err(error) => {
                self.errors.inc();
                tracing::warn!(%error, "cannot watch the configuration for events, looking at it each second");
                None
            }
        };
    }

    async fn look(&self) -> Option<Sight> {
        let path = self.path.clone();
        task::spawn_blocking(move || Sight::of(&path)).await.ok()
    }
}

fn watcher(
    folders: &[Identity],
    changed: Arc<Notify>,
    errors: IntCounter,
) -> notify::Result<RecommendedWatcher> {
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

impl Sight {
    fn of(path: &Path) -> Self {
        let folders = folders(path);
        // Before the file: what is written while it is looked at must not pass for what was there long ago.
        let at = SystemTime::now();
        Self { folders, looks: Looks::of(path), at }
    }

    fn is_like(&self, other: &Self) -> bool {
        self.looks == other.looks && self.folders == other.folders
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use tokio::runtime;
    use tokio::time;

    use super::*;

    #[test]
    fn a_file_system_that_takes_its_time_holds_up_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("routes.toml");
        fs::write(&path, "").unwrap();
        let runtime =
            runtime::Builder::new_current_thread().enable_all().max_blocking_threads(1).build().unwrap();
        runtime.block_on(async {
            let mut watch = Watch::new(&path, IntCounter::new("errors", "-").unwrap()).await;
            // As a look that does not end keeps the thread that takes it.
            let (end, ended) = mpsc::channel::<()>();
            let held_up = task::spawn_blocking(move || ended.recv());
            let moment = Duration::from_millis(20);
            assert!(time::timeout(moment, watch.differs()).await.is_err());
            assert!(time::timeout(moment, watch.renew()).await.is_err());
            fs::write(&path, "version = 1\n").unwrap();
            drop(end);
            assert!(held_up.await.unwrap().is_err());
            assert!(watch.differs().await);
            watch.renew().await;
            assert!(!watch.differs().await);
        });
    }
}
