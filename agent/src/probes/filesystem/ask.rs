//! Asking file systems for their sizes, when any of them may never answer.
//!
//! `statvfs(2)` on a dead network mount sleeps in the kernel where no signal and no deadline reaches it. So threads do
//! the asking: one at first, another for each that seems to hang, all taking from one queue. When the time of the tick
//! is up, the threads still waiting are left behind, each with its one mount point, which is not asked again until
//! its answer comes. At most [`MAX_THREADS`] threads exist, waiting ones included; once that many hang, the mounts
//! nobody could be sent to say so.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::io::Errno;

/// Threads that may exist at once. Each that hangs holds some kilobytes and nothing else.
const MAX_THREADS: usize = 16;

/// How long all file systems together may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long nobody answers before another thread goes on with the rest.
const NUDGE: Duration = Duration::from_millis(50);

/// How large a file system is and what is left of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Space {
    pub(super) size_bytes: u64,
    pub(super) free_bytes: u64,
    pub(super) available_bytes: u64,
    pub(super) files: u64,
    pub(super) files_free: u64,
}

/// Why a file system's sizes are not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    /// It has not answered in time, or still has not answered from an earlier tick.
    Timeout,
    /// It was not asked, because too many others hang.
    Crowded,
    /// It answered with an error.
    System(Errno),
}

impl Trouble {
    /// The word for the column `error`.
    pub(super) fn as_text(self) -> Cow<'static, str> {
        match self {
            Self::Timeout => "timeout".into(),
            Self::Crowded => "crowded".into(),
            Self::System(errno) if errno == Errno::STALE => "stale".into(),
            Self::System(errno) if errno == Errno::ACCESS || errno == Errno::PERM => "denied".into(),
            Self::System(errno) if errno == Errno::NOENT || errno == Errno::NOTDIR => "gone".into(),
            Self::System(errno) => errno.to_string().into(),
        }
    }
}

type Question = (String, PathBuf);
type Answer = (String, Result<Space, Errno>);
type Statvfs = dyn Fn(&Path) -> Result<Space, Errno> + Send + Sync;

/// Asks file systems for their sizes, within bounds of time and threads.
pub(super) struct Asker {
    statvfs: Arc<Statvfs>,
    patience: Duration,
    sender: Sender<Answer>,
    receiver: Receiver<Answer>,
    /// Mount points whose thread waits for an answer since an earlier tick.
    stuck: HashSet<String>,
}

impl Asker {
    /// Asks the kernel.
    pub(super) fn new() -> Self {
        Self::with(Arc::new(statvfs), PATIENCE)
    }

    fn with(statvfs: Arc<Statvfs>, patience: Duration) -> Self {
        let (sender, receiver) = channel();
        Self { statvfs, patience, sender, receiver, stuck: HashSet::new() }
    }

    /// Asks for each mount point, given with the path to ask at, and returns when all have answered or time is up.
    /// There is a result for every mount point.
    pub(super) fn ask(&mut self, questions: impl Iterator<Item = Question>) -> HashMap<String, Result<Space, Trouble>> {
        while let Ok((mountpoint, _)) = self.receiver.try_recv() {
            self.stuck.remove(&mountpoint);
        }
        let mut results = HashMap::new();
        let mut queue = VecDeque::new();
        for (mountpoint, path) in questions {
            if self.stuck.contains(&mountpoint) {
                results.insert(mountpoint, Err(Trouble::Timeout));
            } else {
                queue.push_back((mountpoint, path));
            }
        }
        let mut waiting: HashSet<String> = queue.iter().map(|(mountpoint, _)| mountpoint.clone()).collect();
        let queue = Arc::new(Mutex::new(queue));
        let deadline = Instant::now() + self.patience;
        let mut threads = 0;
        let mut another = true;
        while !waiting.is_empty() {
            if another && threads + self.stuck.len() < MAX_THREADS && !queue.lock().is_empty() && self.spawn(&queue) {
                threads += 1;
            }
            if threads == 0 {
                break;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.receiver.recv_timeout(left.min(NUDGE)) {
                Ok((mountpoint, answer)) => {
                    another = false;
                    if waiting.remove(&mountpoint) {
                        results.insert(mountpoint, answer.map_err(Trouble::System));
                    } else {
                        self.stuck.remove(&mountpoint);
                    }
                }
                Err(_) if Instant::now() >= deadline => break,
                Err(_) => another = true,
            }
        }
        // What is taken back here, no thread will take: the others have been asked.
        for (mountpoint, _) in queue.lock().drain(..) {
            waiting.remove(&mountpoint);
            results.insert(mountpoint, Err(Trouble::Crowded));
        }
        for mountpoint in waiting {
            results.insert(mountpoint.clone(), Err(Trouble::Timeout));
            self.stuck.insert(mountpoint);
        }
        results
    }

    /// Starts a thread that asks until the queue is empty. False where the system gives no thread.
    fn spawn(&self, queue: &Arc<Mutex<VecDeque<Question>>>) -> bool {
        let (queue, answers, statvfs) = (Arc::clone(queue), self.sender.clone(), Arc::clone(&self.statvfs));
        let work = move || {
            loop {
                // Taken in a statement of its own, so that the lock is free while the file system is asked.
                let question = queue.lock().pop_front();
                let Some((mountpoint, path)) = question else { return };
                let answer = statvfs(path.as_path());
                if answers.send((mountpoint, answer)).is_err() {
                    return;
                }
            }
        };
        thread::Builder::new().name("statvfs".to_owned()).spawn(work).is_ok()
    }
}

fn statvfs(path: &Path) -> Result<Space, Errno> {
    let found = rustix::fs::statvfs(path)?;
    let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
    Ok(Space {
        size_bytes: bytes(found.f_blocks),
        free_bytes: bytes(found.f_bfree),
        available_bytes: bytes(found.f_bavail),
        files: found.f_files,
        files_free: found.f_ffree,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::SyncSender;
    use std::sync::mpsc::sync_channel;

    use super::*;

    const SPACE: Space = Space { size_bytes: 10, free_bytes: 5, available_bytes: 4, files: 3, files_free: 2 };

    /// Time enough for what answers at once, and soon over for what never does.
    const SHORT: Duration = Duration::from_millis(400);

    fn questions(names: &[&str]) -> impl Iterator<Item = Question> {
        names.iter().map(|n| ((*n).to_owned(), PathBuf::from(n))).collect::<Vec<_>>().into_iter()
    }

    /// File systems of which those called `hung…` answer only when released, one for each message sent.
    fn some_hang() -> (Asker, SyncSender<()>, Receiver<String>) {
        let (release, released) = sync_channel::<()>(100);
        let (asked, asked_of) = channel();
        let (released, asked) = (Mutex::new(released), Mutex::new(asked));
        let statvfs = move |path: &Path| {
            let name = path.display().to_string();
            let hangs = name.starts_with("hung");
            asked.lock().send(name).map_err(|_| Errno::IO)?;
            if hangs {
                released.lock().recv().map_err(|_| Errno::IO)?;
            }
            Ok(SPACE)
        };
        (Asker::with(Arc::new(statvfs), SHORT), release, asked_of)
    }

    #[test]
    fn one_that_hangs_costs_only_itself_and_is_not_asked_again_until_it_answers() {
        let (mut asker, release, asked_of) = some_hang();
        let names = ["a", "hung", "b", "c"];
        for tick in 0..3 {
            let results = asker.ask(questions(&names));
            assert_eq!(results.len(), 4, "tick {tick}");
            for name in ["a", "b", "c"] {
                assert_eq!(results[name], Ok(SPACE), "{name} at tick {tick}");
            }
            assert_eq!(results["hung"], Err(Trouble::Timeout), "tick {tick}");
        }
        let asked: Vec<String> = asked_of.try_iter().collect();
        assert_eq!(asked.iter().filter(|name| *name == "hung").count(), 1, "{asked:?}");

        // It answers at last, and the next time at once.
        release.send(()).unwrap();
        release.send(()).unwrap();
        let late = asker.receiver.recv_timeout(Duration::from_secs(30)).unwrap();
        asker.sender.send(late).unwrap();
        assert_eq!(asker.ask(questions(&names))["hung"], Ok(SPACE));
        assert!(asker.stuck.is_empty());
    }

    #[test]
    fn threads_left_behind_are_bounded_and_the_rest_says_so() {
        let (mut asker, release, _asked_of) = some_hang();
        let names: Vec<String> = (0..20).map(|n| format!("hung{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        // A tick may be too short to send all threads; none may send more, and some tick sends the last.
        for tick in 0..MAX_THREADS {
            let results = asker.ask(questions(&names));
            let crowded = results.values().filter(|r| **r == Err(Trouble::Crowded)).count();
            assert_eq!(results.len(), 20);
            assert_eq!(crowded, 20 - asker.stuck.len());
            assert!(asker.stuck.len() <= MAX_THREADS, "tick {tick}");
            if asker.stuck.len() == MAX_THREADS {
                break;
            }
        }
        assert_eq!(asker.stuck.len(), MAX_THREADS);
        assert_eq!(asker.ask(questions(&["fine"]))["fine"], Err(Trouble::Crowded));
        for _ in 0..MAX_THREADS {
            release.send(()).unwrap();
            let (mountpoint, _) = asker.receiver.recv_timeout(Duration::from_secs(30)).unwrap();
            asker.stuck.remove(&mountpoint);
        }
        assert_eq!(asker.ask(questions(&["fine"]))["fine"], Ok(SPACE));
    }

    #[test]
    fn the_kernel_is_asked() {
        let mut asker = Asker::new();
        let results = asker.ask(questions(&["/", "/no/such/place"]));
        let space = results["/"].unwrap();
        assert!(space.size_bytes > 0 && space.free_bytes <= space.size_bytes, "{space:?}");
        assert_eq!(results["/no/such/place"].unwrap_err().as_text(), "gone");
        assert!(asker.ask(std::iter::empty()).is_empty());
    }

    #[test]
    fn errors_have_words() {
        let cases =
            [(Errno::STALE, "stale"), (Errno::ACCESS, "denied"), (Errno::PERM, "denied"), (Errno::NOTDIR, "gone")];
        for (errno, word) in cases {
            assert_eq!(Trouble::System(errno).as_text(), word);
        }
        assert!(Trouble::System(Errno::IO).as_text().contains("os error 5"));
    }
}
