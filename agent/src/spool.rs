//! The spool: records on disk, in front of Kafka.
//!
//! Every record is appended here first and leaves when the broker has acknowledged it. Kafka's client library is only
//! a short window on the spool: what it gives up on is offered again from here, for ever. So an agent may be killed
//! and a broker may be away, and nothing is lost short of the spool's size.
//!
//! The spool is a folder of files, `<number>.spool`, each a row of frames:
//!
//! ```text
//! length u32 | CRC32C u32 | table length u8 | table | schema u32 | boot u64 | seq u64 | rows u32 | clock (flag u8, i64) | value
//! ```
//!
//! A file is deleted when all its records are acknowledged. What was acknowledged in a file that is still there is
//! forgotten at a restart, and those records are sent again: the collector takes each once.
//!
//! A frame that was torn by a crash, and what follows it, is cut off and counted. When the spool is full the oldest
//! file goes, and the numbers of its records become rows of `loss`. When the disk refuses, records are kept in memory
//! for as long as the queue of new ones allows.
//!
//! New records come first, so that a dashboard is current within a second of a broker's return; the backlog follows.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use nodescope_model::identity::RecordId;
use nodescope_model::record::Envelope;

/// A file is closed at this size.
const FILE_BYTES: u64 = 4 << 20;

/// A file whose records are all acknowledged is replaced once it is this large.
const SMALL_FILE: u64 = 256 << 10;

/// Frames are no longer than this; a longer length is damage.
const MAX_FRAME: usize = 16 << 20;

/// Bytes before a frame's body.
const FRAME_HEAD: usize = 8;

/// How large the spool may become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpoolLimits {
    /// Bytes on disk.
    pub bytes: u64,
    /// Age of a file.
    pub age: Duration,
    /// Bytes of new records kept in memory, ready to be sent.
    pub queue_bytes: usize,
}

/// One record as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spooled {
    /// Its headers.
    pub envelope: Envelope,
    /// Its rows.
    pub rows: u32,
    /// Its value.
    pub value: Vec<u8>,
}

/// Where a record is kept. `None` for one that is only in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    file: u64,
    index: u32,
}

/// Records that will not be sent: a stretch of one boot's numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostStretch {
    /// The boot.
    pub boot: u64,
    /// First number.
    pub first: u64,
    /// Last number, inclusive.
    pub last: u64,
    /// Rows in them; `None` when nobody can tell any more.
    pub rows: Option<u64>,
    /// `full`, `old` or `disk`.
    pub reason: &'static str,
}

/// Why the spool cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the spool at {path}")]
pub struct SpoolError {
    /// The folder or file.
    pub path: String,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// What the spool holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SpoolFacts {
    /// Bytes on disk.
    pub bytes: u64,
    /// Records not acknowledged.
    pub records: u64,
    /// Age of the oldest file with such records.
    pub oldest: Option<Duration>,
    /// Torn or damaged frames cut off so far.
    pub damaged: u64,
    /// Writes the disk refused so far.
    pub refused: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// On disk only, to be sent.
    Pending,
    /// In the queue of new records.
    Queued,
    /// With the client library.
    Sent,
    /// Done.
    Acknowledged,
}

#[derive(Debug)]
struct Kept {
    path: PathBuf,
    bytes: u64,
    made: SystemTime,
    states: Vec<State>,
    /// Boot, number and rows of each record: what must be told when the file has to go.
    names: Vec<(u64, u64, u32)>,
    open: usize,
}

/// The spool of one agent. One thread owns it.
#[derive(Debug)]
pub struct Spool {
    folder: PathBuf,
    agent: String,
    limits: SpoolLimits,
    files: BTreeMap<u64, Kept>,
    writing: Option<File>,
    dirty: bool,
    /// A file was made whose name is not durable yet.
    new_name: bool,
    last_file: u64,
    queue: VecDeque<(Option<Place>, Arc<Spooled>)>,
    queued_bytes: usize,
    draining: Option<Draining>,
    lost: Vec<LostStretch>,
    damaged: u64,
    refused: u64,
}

/// A file being read back.
#[derive(Debug)]
struct Draining {
    file: u64,
    data: Vec<u8>,
    frames: Vec<Range<usize>>,
    next: usize,
}

impl Spool {
    /// Opens the folder and takes stock of what an earlier run left.
    ///
    /// # Errors
    /// When the folder cannot be made or listed. Damaged files are no error.
    pub fn open(folder: impl Into<PathBuf>, agent: &str, limits: SpoolLimits) -> Result<Self, SpoolError> {
        let folder = folder.into();
        let failed = |source| SpoolError { path: folder.display().to_string(), source };
        std::fs::create_dir_all(&folder).map_err(failed)?;
        let mut spool = Self {
            agent: agent.to_owned(),
            limits,
            files: BTreeMap::new(),
            writing: None,
            dirty: false,
            new_name: false,
            last_file: 0,
            queue: VecDeque::new(),
            queued_bytes: 0,
            draining: None,
            lost: Vec::new(),
            damaged: 0,
            refused: 0,
            folder: folder.clone(),
        };
        let mut numbers: Vec<u64> = std::fs::read_dir(&folder)
            .map_err(failed)?
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_suffix(".spool")?.parse().ok())
            .collect();
        numbers.sort_unstable();
        let mut was_cut = false;
        for number in numbers {
            let before = std::mem::replace(&mut spool.last_file, number);
            let damaged = spool.damaged;
            if let Err(error) = spool.take_stock(number) {
                spool.damaged += 1;
                tracing::warn!(file = number, %error, "a file of the spool cannot be read and is left alone");
            }
            if before + 1 == number && was_cut {
                spool.lose_between(before, number);
            }
            was_cut = spool.damaged > damaged;
        }
        Ok(spool)
    }

    fn path(&self, number: u64) -> PathBuf {
        self.folder.join(format!("{number:020}.spool"))
    }

    fn take_stock(&mut self, number: u64) -> io::Result<()> {
        let path = self.path(number);
        let data = std::fs::read(&path)?;
        let (frames, good) = frames(&data);
        if good < data.len() {
            self.damaged += 1;
            tracing::warn!(
                file = number,
                bytes = data.len() - good,
                "the end of a file of the spool was torn, and is cut off"
            );
            let file = OpenOptions::new().write(true).open(&path)?;
            file.set_len(good as u64)?;
            file.sync_all()?;
        }
        if frames.is_empty() {
            return std::fs::remove_file(&path);
        }
        let made = std::fs::metadata(&path)?.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        let states = vec![State::Pending; frames.len()];
        let names = frames
            .iter()
            .filter_map(|range| decode(&self.agent, data.get(range.clone())?))
            .map(|record| (record.envelope.id.boot, record.envelope.id.seq, record.rows))
            .collect();
        self.files.insert(number, Kept { path, bytes: good as u64, made, open: states.len(), states, names });
        Ok(())
    }

    /// What stood at the damaged end of one file: the numbers between its last whole record and the first of the next
    /// file. At the end of the newest file there is only what was being written when the process died.
    fn lose_between(&mut self, before: u64, after: u64) {
        let name = |file: Option<&Kept>, last: bool| {
            let names = &file?.names;
            if last { names.last() } else { names.first() }.copied()
        };
        let (Some((boot, last, _)), Some((next_boot, next, _))) =
            (name(self.files.get(&before), true), name(self.files.get(&after), false))
        else {
            return;
        };
        if boot == next_boot && next > last + 1 {
            self.lost.push(LostStretch { boot, first: last + 1, last: next - 1, rows: None, reason: "damaged" });
        }
    }

    /// Appends a record, and puts it in the queue of new ones.
    pub fn append(&mut self, record: Spooled) {
        let place = match self.write(&record) {
            Ok(place) => Some(place),
            Err(error) => {
                if self.refused == 0 {
                    tracing::error!(%error, folder = %self.folder.display(), "the spool cannot be written; records are kept in memory");
                }
                self.refused += 1;
                None
            }
        };
        if let Some(place) = place {
            self.set(place, State::Queued);
        }
        self.queued_bytes += record.value.len();
        self.queue.push_back((place, Arc::new(record)));
        while self.queued_bytes > self.limits.queue_bytes && self.queue.len() > 1 {
            let Some((place, oldest)) = self.queue.pop_front() else { break };
            self.queued_bytes -= oldest.value.len();
            match place.filter(|place| self.files.contains_key(&place.file)) {
                Some(place) => self.set(place, State::Pending),
                None => self.lose([(oldest.envelope.id.boot, oldest.envelope.id.seq, oldest.rows)].into_iter(), "disk"),
            }
        }
        self.evict();
    }

    fn write(&mut self, record: &Spooled) -> io::Result<Place> {
        if self.writing.is_none() {
            self.last_file += 1;
            let path = self.path(self.last_file);
            self.writing = Some(OpenOptions::new().append(true).create_new(true).open(&path)?);
            self.new_name = true;
            // The name is durable with the next sync; a name lost to a power cut is a second of records.
            let kept = Kept { path, bytes: 0, made: SystemTime::now(), states: Vec::new(), names: Vec::new(), open: 0 };
            self.files.insert(self.last_file, kept);
        }
        let frame = encode(record);
        let Some(file) = &mut self.writing else { return Err(io::ErrorKind::NotFound.into()) };
        let number = self.last_file;
        let Some(kept) = self.files.get_mut(&number) else { return Err(io::ErrorKind::NotFound.into()) };
        if let Err(error) = file.write_all(&frame) {
            // A frame may be half written: it is cut off, and the file goes on. Where even that is refused, what
            // follows goes into another file.
            if file.set_len(kept.bytes).is_err() {
                self.writing = None;
                if kept.open == 0 {
                    self.delete(number);
                }
            }
            return Err(error);
        }
        self.dirty = true;
        kept.bytes += frame.len() as u64;
        kept.states.push(State::Pending);
        kept.names.push((record.envelope.id.boot, record.envelope.id.seq, record.rows));
        kept.open += 1;
        let index = u32::try_from(kept.states.len() - 1).map_err(io::Error::other)?;
        if kept.bytes >= FILE_BYTES {
            // The record is written, whatever becomes of the sync.
            if let Err(error) = self.sync() {
                tracing::warn!(%error, "a file of the spool cannot be made durable");
            }
            self.writing = None;
        }
        Ok(Place { file: number, index })
    }

    /// Makes what was appended durable.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn sync(&mut self) -> io::Result<()> {
        if self.dirty
            && let Some(file) = &self.writing
        {
            file.sync_data()?;
            if self.new_name {
                File::open(&self.folder)?.sync_all()?;
                self.new_name = false;
            }
            self.dirty = false;
        }
        Ok(())
    }

    /// The next new record to send.
    pub fn next_new(&mut self) -> Option<(Option<Place>, Arc<Spooled>)> {
        let (place, record) = self.queue.pop_front()?;
        self.queued_bytes -= record.value.len();
        if let Some(place) = place {
            self.set(place, State::Sent);
        }
        Some((place, record))
    }

    /// The next record of the backlog to send, the oldest first.
    pub fn next_old(&mut self) -> Option<(Option<Place>, Arc<Spooled>)> {
        loop {
            let draining = match &mut self.draining {
                Some(draining) => draining,
                None => {
                    let (&file, _) = self.files.iter().find(|(_, f)| f.states.contains(&State::Pending))?;
                    match self.read_back(file) {
                        Ok(draining) => self.draining.insert(draining),
                        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) => {
                            self.damaged += 1;
                            tracing::error!(file, %error, "a file of the spool cannot be read back");
                            self.drop_file(file, "damaged");
                            continue;
                        }
                        Err(error) => {
                            tracing::warn!(file, %error, "a file of the spool cannot be read back now");
                            return None;
                        }
                    }
                }
            };
            let (file, at) = (draining.file, draining.next);
            let Some(range) = draining.frames.get(at).cloned() else {
                self.draining = None;
                continue;
            };
            draining.next += 1;
            let Ok(index) = u32::try_from(at) else { continue };
            let place = Place { file, index };
            let pending = self.files.get(&file).and_then(|f| f.states.get(at)) == Some(&State::Pending);
            let frame = self.draining.as_ref().and_then(|d| d.data.get(range));
            if !pending {
                continue;
            }
            if let Some(record) = frame.and_then(|f| decode(&self.agent, f)) {
                self.set(place, State::Sent);
                return Some((Some(place), Arc::new(record)));
            }
            // Its checksum is right and it is no record: nothing of ours wrote it. Not asked for again.
            self.damaged += 1;
            self.acknowledged(place);
        }
    }

    fn read_back(&self, file: u64) -> io::Result<Draining> {
        let mut data = Vec::new();
        File::open(self.path(file))?.read_to_end(&mut data)?;
        let (frames, _) = frames(&data);
        let known = self.files.get(&file).map_or(0, |f| f.states.len());
        if frames.len() < known {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "records that were written are gone"));
        }
        Ok(Draining { file, data, frames, next: 0 })
    }

    /// The broker has the record.
    pub fn acknowledged(&mut self, place: Place) {
        self.set(place, State::Acknowledged);
        let writing = self.writing.is_some().then_some(self.last_file);
        let Some(kept) = self.files.get(&place.file) else { return };
        if kept.open > 0 || (writing == Some(place.file) && kept.bytes < SMALL_FILE) {
            return;
        }
        if writing == Some(place.file) {
            self.writing = None;
            self.dirty = false;
        }
        self.delete(place.file);
    }

    /// The record was not sent after all. One that was only in memory goes back to the queue's front.
    pub fn returned(&mut self, place: Option<Place>, record: &Arc<Spooled>) {
        // Its file may have been given up meanwhile: then this is all there is of it.
        match place.filter(|place| self.files.contains_key(&place.file)) {
            Some(place) => {
                self.set(place, State::Pending);
                // Whoever is reading that file back may be past it already.
                if self.draining.as_ref().is_some_and(|d| d.file >= place.file) {
                    self.draining = None;
                }
            }
            None => {
                self.queued_bytes += record.value.len();
                self.queue.push_front((None, record.clone()));
            }
        }
    }

    fn set(&mut self, place: Place, state: State) {
        let Some(kept) = self.files.get_mut(&place.file) else { return };
        let Some(slot) = kept.states.get_mut(place.index as usize) else { return };
        if *slot != State::Acknowledged && state == State::Acknowledged {
            kept.open -= 1;
        }
        if *slot != State::Acknowledged {
            *slot = state;
        }
    }

    /// Keeps the spool within its limits: the oldest file goes.
    fn evict(&mut self) {
        while let Some((&oldest, kept)) = self.files.first_key_value() {
            let total: u64 = self.files.values().map(|f| f.bytes).sum();
            let is_old = kept.made.elapsed().is_ok_and(|age| age > self.limits.age);
            let reason = if total > self.limits.bytes {
                "full"
            } else if is_old && oldest != self.last_file {
                "old"
            } else {
                return;
            };
            self.drop_file(oldest, reason);
        }
    }

    /// Gives up a file, and notes what that loses: the records that nobody has yet.
    fn drop_file(&mut self, file: u64, reason: &'static str) {
        let Some(kept) = self.files.get(&file) else { return };
        let lost: Vec<(u64, u64, u32)> = kept
            .names
            .iter()
            .zip(&kept.states)
            .filter(|(_, state)| **state == State::Pending)
            .map(|(name, _)| *name)
            .collect();
        self.lose(lost.into_iter(), reason);
        if file == self.last_file {
            self.writing = None;
            self.dirty = false;
        }
        self.delete(file);
    }

    /// The record can never be sent.
    pub fn give_up(&mut self, place: Option<Place>, record: &Spooled, reason: &'static str) {
        let id = &record.envelope.id;
        self.lose([(id.boot, id.seq, record.rows)].into_iter(), reason);
        if let Some(place) = place {
            self.acknowledged(place);
        }
    }

    /// Whether there are records that no disk keeps.
    pub fn has_memory_only(&self) -> bool {
        self.queue.iter().any(|(place, _)| place.is_none())
    }

    fn delete(&mut self, file: u64) {
        if self.draining.as_ref().is_some_and(|d| d.file == file) {
            self.draining = None;
        }
        if let Some(kept) = self.files.remove(&file)
            && let Err(error) = std::fs::remove_file(&kept.path)
        {
            tracing::warn!(path = %kept.path.display(), %error, "a file of the spool cannot be deleted");
        }
    }

    fn lose(&mut self, records: impl Iterator<Item = (u64, u64, u32)>, reason: &'static str) {
        for (boot, seq, rows) in records {
            match self.lost.last_mut() {
                Some(last) if last.boot == boot && last.last.checked_add(1) == Some(seq) && last.reason == reason => {
                    last.last = seq;
                    last.rows = last.rows.map(|known| known + u64::from(rows));
                }
                _ => self.lost.push(LostStretch { boot, first: seq, last: seq, rows: Some(u64::from(rows)), reason }),
            }
        }
    }

    /// What has been lost since this was last asked.
    pub fn take_lost(&mut self) -> Vec<LostStretch> {
        std::mem::take(&mut self.lost)
    }

    /// What there is.
    pub fn facts(&self) -> SpoolFacts {
        let memory_only = self.queue.iter().filter(|(place, _)| place.is_none()).count() as u64;
        SpoolFacts {
            bytes: self.files.values().map(|f| f.bytes).sum(),
            records: self.files.values().map(|f| f.open as u64).sum::<u64>() + memory_only,
            oldest: self.files.values().find(|f| f.open > 0).and_then(|f| f.made.elapsed().ok()),
            damaged: self.damaged,
            refused: self.refused,
        }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

fn encode(record: &Spooled) -> Vec<u8> {
    let e = &record.envelope;
    let mut body = Vec::with_capacity(record.value.len() + 64);
    let table = &e.table.as_bytes()[..e.table.len().min(255)];
    body.push(u8::try_from(table.len()).unwrap_or(u8::MAX));
    body.extend_from_slice(table);
    body.extend_from_slice(&e.schema.to_le_bytes());
    body.extend_from_slice(&e.id.boot.to_le_bytes());
    body.extend_from_slice(&e.id.seq.to_le_bytes());
    body.extend_from_slice(&record.rows.to_le_bytes());
    body.push(u8::from(e.clock_offset_us.is_some()));
    body.extend_from_slice(&e.clock_offset_us.unwrap_or(0).to_le_bytes());
    body.extend_from_slice(&record.value);
    let mut frame = Vec::with_capacity(body.len() + FRAME_HEAD);
    frame.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
    frame.extend_from_slice(&crc32c::crc32c(&body).to_le_bytes());
    frame.extend_from_slice(&body);
    frame
}

/// Bodies of the whole frames at the beginning of `data`, and where they end.
fn frames(data: &[u8]) -> (Vec<Range<usize>>, usize) {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(head) = data.get(at..at + FRAME_HEAD) {
        let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let checksum = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
        let start = at + FRAME_HEAD;
        let body = if length <= MAX_FRAME { data.get(start..start + length) } else { None };
        match body {
            Some(body) if crc32c::crc32c(body) == checksum => {
                found.push(start..start + length);
                at = start + length;
            }
            _ => break,
        }
    }
    (found, at)
}

fn decode(agent: &str, body: &[u8]) -> Option<Spooled> {
    let (length, rest) = body.split_first()?;
    let (table, rest) = rest.split_at_checked(usize::from(*length))?;
    let (schema, rest) = rest.split_first_chunk::<4>()?;
    let (boot, rest) = rest.split_first_chunk::<8>()?;
    let (seq, rest) = rest.split_first_chunk::<8>()?;
    let (rows, rest) = rest.split_first_chunk::<4>()?;
    let (flag, rest) = rest.split_first()?;
    let (clock, value) = rest.split_first_chunk::<8>()?;
    Some(Spooled {
        envelope: Envelope {
            table: String::from_utf8(table.to_vec()).ok()?,
            schema: u32::from_le_bytes(*schema),
            id: RecordId { agent: agent.to_owned(), boot: u64::from_le_bytes(*boot), seq: u64::from_le_bytes(*seq) },
            clock_offset_us: (*flag != 0).then(|| i64::from_le_bytes(*clock)),
        },
        rows: u32::from_le_bytes(*rows),
        value: value.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const LIMITS: SpoolLimits = SpoolLimits { bytes: 1 << 20, age: Duration::from_secs(3_600), queue_bytes: 1_000 };

    fn record(seq: u64, size: usize) -> Spooled {
        Spooled {
            envelope: Envelope {
                table: "cpu".into(),
                schema: 1,
                id: RecordId { agent: "a".into(), boot: 1, seq },
                clock_offset_us: seq.is_multiple_of(2).then_some(-5),
            },
            rows: 1,
            value: vec![u8::try_from(seq % 251).unwrap(); size],
        }
    }

    fn seqs(spool: &mut Spool) -> Vec<u64> {
        let mut found = Vec::new();
        while let Some((_, record)) = spool.next_new().or_else(|| spool.next_old()) {
            assert_eq!(*record, self::record(record.envelope.id.seq, record.value.len()));
            found.push(record.envelope.id.seq);
        }
        found
    }

    #[test]
    fn new_records_come_first_and_the_rest_follows() {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(folder.path(), "a", LIMITS).unwrap();
        (0..10).for_each(|seq| spool.append(record(seq, 300)));
        // Three records of 300 bytes fit in the queue.
        assert_eq!(seqs(&mut spool), [7, 8, 9, 0, 1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn what_was_not_acknowledged_is_offered_again_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(folder.path(), "a", LIMITS).unwrap();
        (0..10).for_each(|seq| spool.append(record(seq, 50)));
        spool.next_new();
        drop(spool);
        let mut spool = Spool::open(folder.path(), "a", LIMITS).unwrap();
        assert_eq!(spool.facts().records, 10);
        assert_eq!(seqs(&mut spool), (0..10).collect::<Vec<_>>());
    }

    #[test]
    fn a_file_goes_when_all_its_records_are_acknowledged() {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(folder.path(), "a", SpoolLimits { bytes: 1 << 30, ..LIMITS }).unwrap();
        let count = 2 * FILE_BYTES / 100_000;
        (0..count).for_each(|seq| spool.append(record(seq, 100_000)));
        while let Some((place, _)) = spool.next_new().or_else(|| spool.next_old()) {
            spool.acknowledged(place.unwrap());
        }
        assert_eq!(spool.facts().records, 0);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_returned_record_is_offered_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(folder.path(), "a", LIMITS).unwrap();
        (0..3).for_each(|seq| spool.append(record(seq, 50)));
        let (place, first) = spool.next_new().unwrap();
        assert_eq!(seqs(&mut spool), [1, 2]);
        spool.returned(place, &first);
        assert_eq!(seqs(&mut spool), [0]);
    }

    #[test]
    fn a_full_spool_loses_the_oldest_and_says_which() {
        let folder = tempfile::tempdir().unwrap();
        let limits = SpoolLimits { bytes: 3 * FILE_BYTES, ..LIMITS };
        let mut spool = Spool::open(folder.path(), "a", limits).unwrap();
        let count = 5 * FILE_BYTES / 100_000;
        (0..count).for_each(|seq| spool.append(record(seq, 100_000)));
        assert!(spool.facts().bytes <= limits.bytes);
        let lost: BTreeSet<u64> = spool.take_lost().iter().flat_map(|l| l.first..=l.last).collect();
        let kept: BTreeSet<u64> = seqs(&mut spool).into_iter().collect();
        assert!(lost.is_disjoint(&kept) && !lost.is_empty());
        assert_eq!(lost.union(&kept).copied().collect::<Vec<_>>(), (0..count).collect::<Vec<_>>());
        assert!(spool.take_lost().is_empty());
    }

    #[test]
    fn a_disk_that_refuses_leaves_memory() {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(folder.path().join("spool"), "a", LIMITS).unwrap();
        std::fs::remove_dir_all(folder.path()).unwrap();
        (0..10).for_each(|seq| spool.append(record(seq, 300)));
        assert_eq!(spool.facts().refused, 10);
        assert_eq!(seqs(&mut spool), [7, 8, 9]);
        let lost = spool.take_lost();
        assert_eq!((lost.len(), lost[0].first, lost[0].last, lost[0].reason), (1, 0, 6, "disk"));
    }

    #[test]
    fn what_a_damaged_file_held_is_declared_lost() {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(folder.path(), "a", LIMITS).unwrap();
        for seq in 0..10 {
            spool.append(record(seq, 100));
        }
        let first = spool.last_file;
        spool.writing = None;
        spool.append(record(10, 100));
        let path = spool.path(first);
        drop(spool);
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let mut spool = Spool::open(folder.path(), "a", LIMITS).unwrap();
        let lost = spool.take_lost();
        let [stretch] = lost.as_slice() else { panic!("{lost:?}") };
        assert_eq!((stretch.last, stretch.rows, stretch.reason), (9, None, "damaged"));
        let mut offered = seqs(&mut spool);
        offered.sort_unstable();
        let whole: Vec<u64> = (0..stretch.first).chain([10]).collect();
        assert_eq!(offered, whole);
    }

    #[test]
    fn what_comes_back_after_its_file_was_given_up_is_not_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let limits = SpoolLimits { bytes: 4_000, ..LIMITS };
        let mut spool = Spool::open(folder.path(), "a", limits).unwrap();
        spool.append(record(0, 500));
        let (place, sent) = spool.next_new().unwrap();
        // Each start begins another file, so the first one is the oldest and goes.
        for seq in 1..10 {
            spool.writing = None;
            spool.append(record(seq, 900));
        }
        assert!(!spool.files.contains_key(&place.unwrap().file), "the spool is full");
        spool.returned(place, &sent);
        let offered = seqs(&mut spool);
        let lost: BTreeSet<u64> = spool.take_lost().iter().flat_map(|l| l.first..=l.last).collect();
        for seq in 0..10 {
            assert!(offered.contains(&seq) || lost.contains(&seq), "{seq} is neither offered nor declared lost");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_torn_or_changed_file_keeps_what_is_before(
            cut in any::<prop::sample::Index>(), change in prop::option::of(any::<prop::sample::Index>())
        ) {
            let folder = tempfile::tempdir().unwrap();
            let mut spool = Spool::open(folder.path(), "a", LIMITS).unwrap();
            (0..10).for_each(|seq| spool.append(record(seq, 50)));
            drop(spool);
            let path = std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
            let mut data = std::fs::read(&path).unwrap();
            let frame = data.len() / 10;
            let good = match change {
                Some(at) => { let at = at.index(data.len()); data[at] ^= 0x55; at / frame }
                None => { let at = cut.index(data.len()); data.truncate(at); at / frame }
            };
            std::fs::write(&path, &data).unwrap();
            let mut spool = Spool::open(folder.path(), "a", LIMITS).unwrap();
            let expected: Vec<u64> = (0..good as u64).collect();
            prop_assert_eq!(seqs(&mut spool), expected);
            // And it goes on working.
            spool.append(record(77, 50));
            prop_assert_eq!(seqs(&mut spool), [77]);
        }

        #[test]
        fn random_bytes_are_no_frames(data in prop::collection::vec(any::<u8>(), 0..300)) {
            let (found, end) = frames(&data);
            prop_assert!(end <= data.len());
            for range in found { let _ = decode("a", &data[range]); }
        }

        #[test]
        fn nothing_is_lost_or_forgotten_through_restarts(ops in prop::collection::vec(0u8..6, 1..120)) {
            let folder = tempfile::tempdir().unwrap();
            let mut spool = Spool::open(folder.path(), "a", LIMITS).unwrap();
            let (mut seq, mut owed) = (0, BTreeSet::new());
            let mut sent: Vec<(Option<Place>, Arc<Spooled>)> = Vec::new();
            for op in ops {
                match op {
                    0 | 1 => { spool.append(record(seq, 200)); owed.insert(seq); seq += 1; }
                    2 => sent.extend(spool.next_new()),
                    3 => sent.extend(spool.next_old()),
                    4 => if let Some((place, record)) = sent.pop() {
                        spool.acknowledged(place.unwrap());
                        owed.remove(&record.envelope.id.seq);
                    },
                    _ => if seq % 3 == 0 {
                        spool = Spool::open(folder.path(), "a", LIMITS).unwrap();
                        sent.clear();
                    } else if let Some((place, record)) = sent.pop() {
                        spool.returned(place, &record);
                    },
                }
            }
            drop(spool);
            let mut spool = Spool::open(folder.path(), "a", LIMITS).unwrap();
            let offered: BTreeSet<u64> = seqs(&mut spool).into_iter().collect();
            prop_assert!(offered.is_superset(&owed), "owed {:?}, offered {:?}", owed, offered);
        }
    }
}
