//! What a program's file holds, as a hash.
//!
//! SHA-256 names the contents to everybody; MD5 is there for one purpose: it is what Debian's packages tell of their
//! files, so both are made in one reading. One thread serves all probes. It takes no more than 2 MiB a second, 16 MiB in
//! one go, so that the programs of a host that has just started are read over a minute rather than at the cost of what
//! runs there; and it remembers 4,096 results by device, inode, size and times, so that a file is read once. Files beyond
//! 256 MiB are not read. Questions that are urgent, because a row is about to be written, go before the others.
//!
//! Reading may hang, on a dead mount. Then this thread hangs, and everybody who asks is told nothing.

use std::collections::{HashMap, VecDeque};
use std::fmt::Write;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use md5::Md5;
use parking_lot::{Condvar, Mutex};
use sha2::{Digest, Sha256};

use super::FileKey;

/// Larger files are not read.
pub(crate) const MAX_FILE: u64 = 256 << 20;

const BYTES_PER_SECOND: f64 = (2 << 20) as f64;

/// What may be read at once after a pause.
const BURST: f64 = (16 << 20) as f64;

const CHUNK: usize = 128 << 10;

/// Results remembered.
const MAX_RESULTS: usize = 4096;

/// Questions that wait.
const MAX_WAITING: usize = 256;

/// Why there is no hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoHash {
    /// It has not been read yet.
    Pending,
    /// It is beyond [`MAX_FILE`].
    TooLarge,
    /// It cannot be opened or read; often because the process has ended.
    Unreadable,
    /// Somebody wrote to it meanwhile.
    Changing,
}

impl NoHash {
    /// As it is written in rows.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::TooLarge => "too_large",
            Self::Unreadable => "unreadable",
            Self::Changing => "changing",
        }
    }
}

/// What was found in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hashed {
    pub(crate) key: FileKey,
    /// Hexadecimal, lower case.
    pub(crate) sha256: Box<str>,
    pub(crate) md5: Box<str>,
}

/// The answer to one question.
pub(crate) type Answer = Result<Hashed, NoHash>;

struct Question {
    path: PathBuf,
    answer: SyncSender<Answer>,
}

/// What the thread has to do.
#[derive(Default)]
struct Inbox {
    questions: Mutex<VecDeque<Question>>,
    is_there_one: Condvar,
}

/// The thread that hashes.
#[derive(Clone)]
pub(crate) struct HashThread(Option<Arc<Inbox>>);

impl HashThread {
    /// The one that all probes share.
    pub(crate) fn shared() -> Self {
        static SHARED: LazyLock<HashThread> = LazyLock::new(HashThread::start);
        SHARED.clone()
    }

    /// Another one. It stays for as long as the process lives.
    pub(crate) fn start() -> Self {
        let inbox = Arc::new(Inbox::default());
        let questions = inbox.clone();
        let thread = std::thread::Builder::new().name("hasher".to_owned()).spawn(move || {
            let mut hasher = Hasher::new();
            loop {
                let question = {
                    let mut waiting = questions.questions.lock();
                    loop {
                        match waiting.pop_front() {
                            Some(question) => break question,
                            None => questions.is_there_one.wait(&mut waiting),
                        }
                    }
                };
                // Whoever asked may have lost interest.
                let _ = question.answer.send(hasher.hash(&question.path));
            }
        });
        Self(thread.ok().map(|_| inbox))
    }

    /// Asks for the hashes of a file. `None` when too many questions wait already: ask again at another time.
    fn ask(&self, path: PathBuf, is_urgent: bool) -> Option<Receiver<Answer>> {
        let inbox = self.0.as_ref()?;
        let mut questions = inbox.questions.lock();
        if questions.len() >= MAX_WAITING {
            return None;
        }
        let (answer, answered) = sync_channel(1);
        let question = Question { path, answer };
        if is_urgent {
            questions.push_front(question);
        } else {
            questions.push_back(question);
        }
        inbox.is_there_one.notify_one();
        Some(answered)
    }
}

/// A hash that somebody waits for, or has.
#[derive(Debug, Default)]
pub(crate) enum Waiting {
    /// Not asked for.
    #[default]
    Not,
    /// Asked for.
    For(Receiver<Answer>),
    /// Here it is.
    Done(Answer),
}

impl Waiting {
    /// Asks, unless that was done.
    pub(crate) fn ask(&mut self, thread: &HashThread, is_urgent: bool, path: impl FnOnce() -> PathBuf) {
        if matches!(self, Self::Not)
            && let Some(answered) = thread.ask(path(), is_urgent)
        {
            *self = Self::For(answered);
        }
    }

    /// Takes the answer, if it comes before the deadline.
    pub(crate) fn wait_until(&mut self, deadline: Instant) {
        if let Self::For(answered) = self {
            match answered.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(answer) => *self = Self::Done(answer),
                Err(RecvTimeoutError::Timeout) => {}
                // The thread is gone, and was in the middle of this file.
                Err(RecvTimeoutError::Disconnected) => *self = Self::Done(Err(NoHash::Unreadable)),
            }
        }
    }

    /// The result, if there is one.
    pub(crate) fn hashed(&self) -> Option<&Hashed> {
        if let Self::Done(Ok(hashed)) = self { Some(hashed) } else { None }
    }

    /// Why there is none.
    pub(crate) fn missing(&self) -> Option<NoHash> {
        match self {
            Self::Done(Ok(_)) => None,
            Self::Done(Err(why)) => Some(*why),
            Self::Not | Self::For(_) => Some(NoHash::Pending),
        }
    }
}

/// Does the work.
struct Hasher {
    results: HashMap<FileKey, Hashed>,
    pace: Pace,
    chunk: Vec<u8>,
}

impl Hasher {
    fn new() -> Self {
        Self { results: HashMap::new(), pace: Pace { left: BURST, at: Instant::now() }, chunk: vec![0; CHUNK] }
    }

    fn hash(&mut self, path: &Path) -> Answer {
        let unreadable = |_| NoHash::Unreadable;
        let mut file = File::open(path).map_err(unreadable)?;
        let metadata = file.metadata().map_err(unreadable)?;
        if !metadata.is_file() {
            return Err(NoHash::Unreadable);
        }
        let key = FileKey::of(&metadata);
        if let Some(hashed) = self.results.get(&key) {
            return Ok(hashed.clone());
        }
        if key.size > MAX_FILE {
            return Err(NoHash::TooLarge);
        }
        let (mut sha256, mut md5) = (Sha256::new(), Md5::new());
        let mut read = 0;
        loop {
            let length = file.read(&mut self.chunk).map_err(unreadable)?;
            let Some(bytes) = self.chunk.get(..length).filter(|bytes| !bytes.is_empty()) else { break };
            read += bytes.len() as u64;
            if read > key.size {
                return Err(NoHash::Changing);
            }
            sha256.update(bytes);
            md5.update(bytes);
            std::thread::sleep(self.pace.wait_for(bytes.len(), Instant::now()));
        }
        if read != key.size || FileKey::of(&file.metadata().map_err(unreadable)?) != key {
            return Err(NoHash::Changing);
        }
        let hashed = Hashed { key, sha256: hexadecimal(&sha256.finalize()), md5: hexadecimal(&md5.finalize()) };
        if self.results.len() >= MAX_RESULTS {
            self.results.clear();
        }
        self.results.insert(key, hashed.clone());
        Ok(hashed)
    }
}

/// How fast it may go.
struct Pace {
    /// Bytes that may be read now.
    left: f64,
    at: Instant,
}

impl Pace {
    /// How long to wait after so many bytes.
    #[allow(clippy::cast_precision_loss, reason = "a chunk is small")]
    fn wait_for(&mut self, bytes: usize, now: Instant) -> Duration {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now;
        self.left = (self.left + passed * BYTES_PER_SECOND).min(BURST) - bytes as f64;
        Duration::from_secs_f64((-self.left / BYTES_PER_SECOND).max(0.0))
    }
}

fn hexadecimal(bytes: &[u8]) -> Box<str> {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text.into_boxed_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn answer(path: &Path) -> Answer {
        HashThread::start().ask(path.to_owned(), false).unwrap().recv_timeout(PATIENCE).unwrap()
    }

    #[test]
    fn the_hashes_are_those_of_everybody() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        std::fs::write(&path, "abc").unwrap();
        let hashed = answer(&path).unwrap();
        assert_eq!(&*hashed.sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(&*hashed.md5, "900150983cd24fb0d6963f7d28e17f72");
        assert_eq!(hashed.key, FileKey::of(&std::fs::metadata(&path).unwrap()));
        std::fs::write(&path, "abcd").unwrap();
        assert_ne!(answer(&path).unwrap().sha256, hashed.sha256);
    }

    #[test]
    fn what_cannot_be_read_says_why() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(answer(&directory.path().join("none")), Err(NoHash::Unreadable));
        assert_eq!(answer(directory.path()), Err(NoHash::Unreadable));
        let large = directory.path().join("large");
        File::create(&large).unwrap().set_len(MAX_FILE + 1).unwrap();
        assert_eq!(answer(&large), Err(NoHash::TooLarge));
    }

    #[test]
    fn a_result_is_remembered_and_the_memory_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        std::fs::write(&path, vec![7; CHUNK * 2 + 1]).unwrap();
        let mut hasher = Hasher::new();
        let first = hasher.hash(&path).unwrap();
        let left = hasher.pace.left;
        assert_eq!(hasher.hash(&path).unwrap(), first);
        assert!((hasher.pace.left - left).abs() < f64::EPSILON, "nothing was read");
        for inode in 0..MAX_RESULTS as u64 {
            let key = FileKey { device: 0, inode, size: 0, mtime: (0, 0), ctime: (0, 0) };
            hasher.results.insert(key, Hashed { key, ..first.clone() });
        }
        std::fs::write(&path, "b").unwrap();
        assert!(hasher.hash(&path).is_ok());
        assert_eq!(hasher.results.len(), 1);
    }

    #[test]
    fn the_pace_allows_a_burst_and_then_two_mebibytes_a_second() {
        let begin = Instant::now();
        let mut pace = Pace { left: BURST, at: begin };
        assert_eq!(pace.wait_for(16 << 20, begin), Duration::ZERO);
        assert_eq!(pace.wait_for(2 << 20, begin), Duration::from_secs(1));
        let later = begin + Duration::from_secs(100);
        assert_eq!(pace.wait_for(16 << 20, later), Duration::ZERO);
    }

    #[test]
    fn questions_are_bounded() {
        let inbox = Arc::new(Inbox::default());
        let nobody = HashThread(Some(inbox.clone()));
        let asked = |name: &str, is_urgent| nobody.ask(PathBuf::from(name), is_urgent).is_some();
        for _ in 1..MAX_WAITING {
            assert!(asked("a", false));
        }
        assert!(asked("urgent", true));
        assert!(!asked("a", true));
        assert_eq!(inbox.questions.lock().front().unwrap().path, Path::new("urgent"));
        assert!(HashThread(None).ask(PathBuf::from("a"), true).is_none());
    }

    #[test]
    fn waiting_ends_with_an_answer_or_the_deadline() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        std::fs::write(&path, "abc").unwrap();
        let mut waiting = Waiting::default();
        assert_eq!(waiting.missing(), Some(NoHash::Pending));
        waiting.ask(&HashThread::start(), true, || path);
        waiting.wait_until(Instant::now() + PATIENCE);
        assert_eq!(waiting.missing(), None);
        let (kept, answered) = sync_channel(1);
        let mut never = Waiting::For(answered);
        never.wait_until(Instant::now());
        assert!(matches!(never, Waiting::For(_)));
        drop(kept);
        never.wait_until(Instant::now());
        assert_eq!(never.missing(), Some(NoHash::Unreadable));
    }
}
