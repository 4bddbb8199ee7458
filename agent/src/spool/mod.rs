//! The spool: records on disk, in front of Kafka.
//!
//! Every record is appended here first and leaves when the broker has acknowledged it. Kafka's client library is only
//! a short window on the spool: what it gives up on is offered again from here, for ever. So an agent may be killed
//! and a broker may be away, and nothing is lost short of the spool's size.
//!
//! The spool is a row of files on a [`Disk`], each a row of frames (see `frame`). A file is deleted when all its
//! records are acknowledged. What was acknowledged in a file that is still there is forgotten at a restart, and those
//! records are sent again: the collector takes each once.
//!
//! **Nothing goes unsaid.** A frame that was torn by a crash, and what follows it, is cut off and counted. When the
//! spool is full it is *thinned* before anything is dropped: of the oldest files only the samples of every tenth
//! second stay, then those of whole minutes, and events always; only when there is nothing left to thin does the oldest
//! file go. The numbers of what went become rows of `loss`. They are written down (the disk's *note*) before the
//! records are removed, so that a crash in between does not make a loss silent.
//!
//! **When the disk refuses**, records are kept in memory for as long as the queue of new ones allows, thinned in the
//! same way, and written down once the disk takes them again.
//!
//! New records come first, so that a dashboard is current within a second of a broker's return; the backlog follows.

mod disk;
mod frame;

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

pub use self::disk::{Disk, Folder};
pub use self::frame::Spooled;
use self::frame::{decode, encode, frames, label, whole};

/// A file is closed at this size. One file at a time is held in memory while the backlog is sent.
const FILE_BYTES: u64 = 1 << 20;

/// A file whose records are all acknowledged is replaced once it is this large.
const SMALL_FILE: u64 = 256 << 10;

/// A file that cannot be read back is tried again after this; the others are sent meanwhile.
const READ_AGAIN: Duration = Duration::from_secs(60);

/// What stays when records are thinned, first by the one and then by the other: samples of ticks that are multiples.
const CADENCES: [Duration; 2] = [Duration::from_secs(10), Duration::from_secs(60)];

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

/// Where a record is kept. `None` for one that is only in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    file: u64,
    /// How often the file had been thinned: places move when it is.
    level: u8,
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
    /// One of [`REASONS`].
    pub reason: &'static str,
}

/// Why records are lost: the spool was full, they were too old, thinned out, damaged, nowhere to be written, or refused
/// by Kafka for ever.
pub const REASONS: [&str; 6] = ["full", "old", "thinned", "damaged", "disk", "refused"];

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

/// A file. Of its records only one byte each is held: a full spool has hundreds of thousands.
#[derive(Debug)]
struct Kept {
    bytes: u64,
    written: SystemTime,
    states: Vec<State>,
    pending: usize,
    open: usize,
    level: u8,
    /// Boot and number of the first record and of the last. A file is of one boot.
    ends: Option<((u64, u64), (u64, u64))>,
    /// It could not be read back; when to try again.
    read_again: Option<Instant>,
}

/// The spool of one agent. One thread owns it.
#[derive(Debug)]
pub struct Spool<D = Folder> {
    disk: D,
    agent: String,
    limits: SpoolLimits,
    files: BTreeMap<u64, Kept>,
    /// Bytes and open records of all files.
    bytes: u64,
    open: u64,
    /// The file that is being appended to.
    writing: Option<u64>,
    dirty: bool,
    /// Files that the disk has refused to make durable.
    doubtful: Vec<u64>,
    last_file: u64,
    queue: VecDeque<(Option<Place>, Arc<Spooled>)>,
    queued_bytes: usize,
    /// Records in the queue that no disk keeps.
    memory_only: u64,
    draining: Option<Draining>,
    /// Lost, and nobody has asked yet.
    lost: Vec<LostStretch>,
    /// Asked for, and not yet declared for good.
    told: Vec<LostStretch>,
    has_note: bool,
    /// The note says all there is to say.
    is_noted: bool,
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
        let path = folder.display().to_string();
        Folder::open(folder)
            .and_then(|disk| Self::on(disk, agent, limits))
            .map_err(|source| SpoolError { path, source })
    }
}

impl<D: Disk> Spool<D> {
    /// Takes stock of what an earlier run left on this disk.
    ///
    /// # Errors
    /// When its files cannot be listed. Damaged ones are no error.
    pub fn on(mut disk: D, agent: &str, limits: SpoolLimits) -> io::Result<Self> {
        let mut numbers = disk.list()?;
        numbers.sort_unstable();
        let note = disk.read_note().unwrap_or_else(|error| {
            tracing::warn!(%error, "the spool's note of what was lost cannot be read");
            Vec::new()
        });
        let mut spool = Self {
            disk,
            agent: agent.to_owned(),
            limits,
            files: BTreeMap::new(),
            bytes: 0,
            open: 0,
            writing: None,
            dirty: false,
            doubtful: Vec::new(),
            last_file: 0,
            queue: VecDeque::new(),
            queued_bytes: 0,
            memory_only: 0,
            draining: None,
            lost: parse_note(&String::from_utf8_lossy(&note)),
            told: Vec::new(),
            has_note: !note.is_empty(),
            is_noted: true,
            damaged: 0,
            refused: 0,
        };
        // The last whole record, and whether anything behind it was damaged.
        let (mut end, mut was_cut) = (None, false);
        for number in numbers {
            let before = std::mem::replace(&mut spool.last_file, number);
            if before + 1 != number {
                (end, was_cut) = (None, false);
            }
            let damaged = spool.damaged;
            if let Err(error) = spool.take_stock(number) {
                spool.damaged += 1;
                tracing::warn!(file = number, %error, "a file of the spool cannot be read and is left alone");
            }
            let ends = spool.files.get(&number).and_then(|kept| kept.ends);
            if let (Some((first, last)), before) = (ends, end) {
                if was_cut && let Some(before) = before {
                    spool.lose_between(before, first);
                }
                (end, was_cut) = (Some(last), false);
            }
            was_cut |= spool.damaged > damaged;
        }
        Ok(spool)
    }

    fn take_stock(&mut self, number: u64) -> io::Result<()> {
        let data = self.disk.read(number)?;
        let written = self.disk.written(number);
        let (frames, good) = frames(&data);
        if good < data.len() {
            self.damaged += 1;
            tracing::warn!(
                file = number,
                bytes = data.len() - good,
                "the end of a file of the spool was torn, and is cut off"
            );
            self.disk.cut(number, good as u64)?;
        }
        if frames.is_empty() {
            return self.disk.remove(number);
        }
        // The process that wrote it may have been killed before it made it durable.
        if self.disk.sync(number).is_err() {
            self.doubtful.push(number);
        }
        let kept = Kept {
            bytes: good as u64,
            written,
            states: vec![State::Pending; frames.len()],
            pending: frames.len(),
            open: frames.len(),
            level: 0,
            ends: ends(&data, &frames),
            read_again: None,
        };
        self.bytes += kept.bytes;
        self.open += kept.open as u64;
        self.files.insert(number, kept);
        Ok(())
    }

    /// What stood at the damaged end of one file, and in files behind it that were damaged from their beginning: the
    /// numbers between the last whole record and the first of the next file. At the end of the newest file there is only
    /// what was being written when the process died.
    fn lose_between(&mut self, (boot, last): (u64, u64), (next_boot, next): (u64, u64)) {
        if boot == next_boot && next.saturating_sub(last) > 1 {
            self.is_noted = false;
            self.lost.push(LostStretch { boot, first: last + 1, last: next - 1, rows: None, reason: "damaged" });
        }
    }

    /// Appends a record, and puts it in the queue of new ones.
    pub fn append(&mut self, record: Spooled) {
        let written = self.write_down().and_then(|()| self.write(&record));
        let place = match written {
            Ok(place) => Some(place),
            Err(error) => {
                if self.memory_only == 0 {
                    tracing::error!(%error, "the spool cannot be written; records are kept in memory");
                }
                self.refused += 1;
                self.memory_only += 1;
                None
            }
        };
        if let Some(place) = place {
            self.set(place, State::Queued);
        }
        self.queued_bytes += record.value.len();
        self.queue.push_back((place, Arc::new(record)));
        self.shorten_queue();
        self.evict();
    }

    /// Writes what was kept in memory while the disk refused, the oldest first.
    fn write_down(&mut self) -> io::Result<()> {
        if self.memory_only == 0 {
            return Ok(());
        }
        for at in 0..self.queue.len() {
            let Some((None, record)) = self.queue.get(at) else { continue };
            let record = record.clone();
            let place = self.write(&record)?;
            self.set(place, State::Queued);
            self.memory_only -= 1;
            if let Some((kept, _)) = self.queue.get_mut(at) {
                *kept = Some(place);
            }
        }
        tracing::info!("the spool can be written again");
        Ok(())
    }

    /// Keeps the queue within its bytes: what the disk has need not be in it.
    fn shorten_queue(&mut self) {
        while self.queued_bytes > self.limits.queue_bytes && self.queue.len() > 1 {
            if matches!(self.queue.front(), Some((None, _))) && self.thin_queue() {
                continue;
            }
            let Some((place, oldest)) = self.queue.pop_front() else { break };
            self.queued_bytes -= oldest.value.len();
            match place {
                Some(place) => self.set(place, State::Pending),
                None => {
                    self.memory_only -= 1;
                    let id = &oldest.envelope.id;
                    self.lose(id.boot, id.seq, oldest.rows, "disk");
                }
            }
        }
    }

    /// Thins what only memory has, at the coarsest cadence needed. `false` when there is nothing left to thin.
    fn thin_queue(&mut self) -> bool {
        let mut thinned = false;
        for cadence in CADENCES {
            let mut gone = Vec::new();
            self.queue.retain(|(place, record)| {
                let goes = place.is_none() && record.thinnable && !is_kept(record.tick_micros, cadence);
                if goes {
                    gone.push((record.envelope.id.boot, record.envelope.id.seq, record.rows, record.value.len()));
                }
                !goes
            });
            for (boot, seq, rows, bytes) in gone {
                thinned = true;
                self.queued_bytes -= bytes;
                self.memory_only -= 1;
                self.lose(boot, seq, rows, "thinned");
            }
            if self.queued_bytes <= self.limits.queue_bytes {
                break;
            }
        }
        thinned
    }

    fn write(&mut self, record: &Spooled) -> io::Result<Place> {
        let number = match self.writing {
            Some(number) => number,
            None => {
                let number = self.last_file + 1;
                self.disk.create(number)?;
                self.last_file = number;
                // The name is durable with the next sync; a name lost to a power cut is a second of records.
                let kept = Kept {
                    bytes: 0,
                    written: SystemTime::now(),
                    states: Vec::new(),
                    pending: 0,
                    open: 0,
                    level: 0,
                    ends: None,
                    read_again: None,
                };
                self.files.insert(number, kept);
                self.writing = Some(number);
                number
            }
        };
        let frame = encode(record);
        let kept = self.files.get_mut(&number).ok_or(io::ErrorKind::NotFound)?;
        if let Err(error) = self.disk.append(number, &frame) {
            // A frame may be half written: it is cut off, and the file goes on. Where even that is refused, what
            // follows goes into another file.
            if self.disk.cut(number, kept.bytes).is_err() {
                self.doubtful.push(number);
                self.close();
                if self.files.get(&number).is_some_and(|kept| kept.open == 0) {
                    self.delete(number);
                }
            }
            return Err(error);
        }
        self.dirty = true;
        let name = (record.envelope.id.boot, record.envelope.id.seq);
        kept.ends = Some((kept.ends.map_or(name, |(first, _)| first), name));
        kept.bytes += frame.len() as u64;
        kept.states.push(State::Pending);
        kept.pending += 1;
        kept.open += 1;
        let is_full = kept.bytes >= FILE_BYTES;
        let place = Place {
            file: number,
            level: kept.level,
            index: u32::try_from(kept.states.len() - 1).map_err(io::Error::other)?,
        };
        self.bytes += frame.len() as u64;
        self.open += 1;
        if is_full {
            // The record is written, whatever becomes of the sync.
            if let Err(error) = self.sync() {
                tracing::warn!(%error, "a file of the spool cannot be made durable");
            }
            self.close();
        }
        Ok(place)
    }

    fn close(&mut self) {
        if let Some(number) = self.writing.take() {
            self.disk.close(number);
        }
        self.dirty = false;
    }

    /// Makes what was appended durable, and what was lost known for good.
    ///
    /// # Errors
    /// When the disk refuses. Nobody knows then what it holds of that file, and asking again may be answered well
    /// though nothing was written. So what follows goes into another file, and this one is written anew the next time.
    pub fn sync(&mut self) -> io::Result<()> {
        // A file that cannot be made good must not keep the newest from becoming durable.
        let renewed = self.renew();
        let noted = if self.is_noted { Ok(()) } else { self.try_note() };
        let written = self.sync_writing();
        renewed.and(noted).and(written)
    }

    /// Writes anew what the disk has refused to make durable, until it refuses again.
    fn renew(&mut self) -> io::Result<()> {
        while let Some(number) = self.doubtful.pop() {
            let Some(kept) = self.files.get(&number) else { continue };
            let renewed = self.disk.read(number).and_then(|mut data| {
                data.truncate(usize::try_from(kept.bytes).unwrap_or(usize::MAX));
                self.disk.replace(number, &data)
            });
            if renewed.is_err() {
                // The next time another one is tried first.
                self.doubtful.insert(0, number);
                return renewed;
            }
        }
        Ok(())
    }

    fn sync_writing(&mut self) -> io::Result<()> {
        if let Some(number) = self.writing.filter(|_| self.dirty) {
            let synced = self.disk.sync(number);
            if synced.is_err() {
                self.doubtful.push(number);
                self.close();
            }
            self.dirty = false;
            return synced;
        }
        Ok(())
    }

    /// The next new record to send.
    pub fn next_new(&mut self) -> Option<(Option<Place>, Arc<Spooled>)> {
        let (place, record) = self.queue.pop_front()?;
        self.queued_bytes -= record.value.len();
        match place {
            Some(place) => self.set(place, State::Sent),
            None => self.memory_only -= 1,
        }
        Some((place, record))
    }

    /// The next record of the backlog to send, the oldest first.
    pub fn next_old(&mut self) -> Option<(Option<Place>, Arc<Spooled>)> {
        loop {
            let draining = match &mut self.draining {
                Some(draining) => draining,
                None => {
                    let is_readable = |kept: &Kept| kept.read_again.is_none_or(|at| at <= Instant::now());
                    let (&file, _) = self.files.iter().find(|(_, kept)| kept.pending > 0 && is_readable(kept))?;
                    match self.read_back(file) {
                        Ok((data, frames)) => self.draining.insert(Draining { file, data, frames, next: 0 }),
                        Err(error) if is_gone(&error) => {
                            self.damaged += 1;
                            tracing::error!(file, %error, "a file of the spool cannot be read back");
                            self.drop_file(file, "damaged");
                            continue;
                        }
                        Err(error) => {
                            tracing::warn!(file, %error, "a file of the spool cannot be read back now");
                            if let Some(kept) = self.files.get_mut(&file) {
                                kept.read_again = Some(Instant::now() + READ_AGAIN);
                            }
                            continue;
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
            let Some(kept) = self.files.get(&file) else {
                self.draining = None;
                continue;
            };
            let Ok(index) = u32::try_from(at) else { continue };
            let place = Place { file, level: kept.level, index };
            if kept.states.get(at) != Some(&State::Pending) {
                continue;
            }
            let body = self.draining.as_ref().and_then(|d| d.data.get(range));
            if let Some(record) = body.and_then(|body| decode(&self.agent, body)) {
                self.set(place, State::Sent);
                return Some((Some(place), Arc::new(record)));
            }
            // Its checksum is right and it is no record: nothing of ours wrote it. Not asked for again.
            self.damaged += 1;
            self.acknowledged(place);
        }
    }

    fn read_back(&mut self, file: u64) -> io::Result<(Vec<u8>, Vec<Range<usize>>)> {
        let data = self.disk.read(file)?;
        let (frames, _) = frames(&data);
        let known = self.files.get(&file).map_or(0, |kept| kept.states.len());
        if frames.len() < known {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "records that were written are gone"));
        }
        Ok((data, frames))
    }

    /// The broker has the record.
    pub fn acknowledged(&mut self, place: Place) {
        self.set(place, State::Acknowledged);
        let is_writing = self.writing == Some(place.file);
        let Some(kept) = self.files.get(&place.file) else { return };
        if kept.open > 0 || (is_writing && kept.bytes < SMALL_FILE) {
            return;
        }
        if is_writing {
            self.close();
        }
        self.delete(place.file);
    }

    /// The record was not sent after all. One that was only in memory goes back to the queue's front.
    pub fn returned(&mut self, place: Option<Place>, record: &Arc<Spooled>) {
        // Its file may have been given up meanwhile: then this is all there is of it.
        match place.filter(|place| self.state(*place).is_some()) {
            Some(place) => {
                self.set(place, State::Pending);
                // Whoever is reading that file back may be past it already.
                if self.draining.as_ref().is_some_and(|d| d.file >= place.file) {
                    self.draining = None;
                }
            }
            None => {
                self.queued_bytes += record.value.len();
                self.memory_only += 1;
                self.queue.push_front((None, record.clone()));
            }
        }
    }

    fn state(&self, place: Place) -> Option<State> {
        let kept = self.files.get(&place.file).filter(|kept| kept.level == place.level)?;
        kept.states.get(place.index as usize).copied()
    }

    fn set(&mut self, place: Place, state: State) {
        let Some(kept) = self.files.get_mut(&place.file).filter(|kept| kept.level == place.level) else { return };
        let Some(slot) = kept.states.get_mut(place.index as usize) else { return };
        if *slot == State::Acknowledged {
            return;
        }
        kept.pending -= usize::from(*slot == State::Pending);
        kept.pending += usize::from(state == State::Pending);
        if state == State::Acknowledged {
            kept.open -= 1;
            self.open -= 1;
        }
        *slot = state;
    }

    /// Keeps the spool within its limits: what is too old goes, and when it is too much it is thinned, the oldest
    /// first, before the oldest goes.
    fn evict(&mut self) {
        while let Some((&oldest, kept)) = self.files.first_key_value()
            && self.writing != Some(oldest)
            && kept.written.elapsed().is_ok_and(|age| age > self.limits.age)
        {
            self.drop_file(oldest, "old");
        }
        while self.bytes > self.limits.bytes {
            if self.thin_one() {
                continue;
            }
            let Some((&oldest, _)) = self.files.first_key_value() else { return };
            self.drop_file(oldest, "full");
        }
    }

    /// Thins the oldest file that can be. `false` when there is none.
    fn thin_one(&mut self) -> bool {
        for (level, cadence) in (0u8..).zip(CADENCES) {
            // Records that somebody holds keep their place.
            let file = self.files.iter().find(|(number, kept)| {
                kept.level == level && self.writing != Some(**number) && kept.pending > 0 && kept.pending == kept.open
            });
            if let Some((&file, _)) = file {
                if let Err(error) = self.thin(file, cadence) {
                    tracing::warn!(file, %error, "a file of the spool cannot be thinned");
                    if is_gone(&error) {
                        self.damaged += 1;
                    }
                    self.drop_file(file, if is_gone(&error) { "damaged" } else { "full" });
                }
                return true;
            }
        }
        false
    }

    fn thin(&mut self, file: u64, cadence: Duration) -> io::Result<()> {
        let (data, found) = self.read_back(file)?;
        let Some(kept) = self.files.get(&file) else { return Ok(()) };
        let (mut stays, mut goes) = (Vec::with_capacity(data.len() / 4), Vec::new());
        for (range, state) in found.iter().zip(&kept.states) {
            let (Some(label), Some(frame)) = (data.get(range.clone()).and_then(label), data.get(whole(range))) else {
                continue;
            };
            if *state == State::Acknowledged {
                continue;
            }
            if label.thinnable && !is_kept(label.tick_micros, cadence) {
                goes.push(label);
            } else {
                stays.extend_from_slice(frame);
            }
        }
        if goes.is_empty() {
            if let Some(kept) = self.files.get_mut(&file) {
                kept.level += 1;
            }
            // Nothing has moved, but whoever reads the file back knows it by its level.
            self.draining = None;
            return Ok(());
        }
        let before = self.lost.clone();
        for label in &goes {
            self.lose(label.boot, label.seq, label.rows, "thinned");
        }
        if stays.is_empty() {
            self.write_note();
            self.delete(file);
            return Ok(());
        }
        self.write_note();
        if let Err(error) = self.disk.replace(file, &stays) {
            self.lost = before;
            self.write_note();
            return Err(error);
        }
        if self.draining.as_ref().is_some_and(|d| d.file == file) {
            self.draining = None;
        }
        let (found, _) = frames(&stays);
        if let Some(kept) = self.files.get_mut(&file) {
            self.bytes = self.bytes - kept.bytes + stays.len() as u64;
            self.open = self.open - kept.open as u64 + found.len() as u64;
            kept.bytes = stays.len() as u64;
            kept.states = vec![State::Pending; found.len()];
            kept.pending = found.len();
            kept.open = found.len();
            kept.level += 1;
            kept.ends = ends(&stays, &found);
        }
        Ok(())
    }

    /// Gives up a file, and notes what that loses: the records that nobody has yet.
    fn drop_file(&mut self, file: u64, reason: &'static str) {
        let read = self.read_back(file);
        let Some(kept) = self.files.get(&file) else { return };
        match read {
            Ok((data, frames)) => {
                let pending = frames.iter().zip(&kept.states).filter(|(_, state)| **state == State::Pending);
                let lost: Vec<_> = pending.filter_map(|(range, _)| label(data.get(range.clone())?)).collect();
                for label in lost {
                    self.lose(label.boot, label.seq, label.rows, reason);
                }
            }
            // Nobody can tell any more which: all there were between the first and the last.
            Err(_) if kept.pending > 0 => {
                if let Some(((boot, first), (_, last))) = kept.ends {
                    self.lost.push(LostStretch { boot, first, last: last.max(first), rows: None, reason });
                }
            }
            Err(_) => {}
        }
        self.write_note();
        if self.writing == Some(file) {
            self.close();
        }
        // What of it waits in the queue is in memory alone from now on.
        for (place, _) in &mut self.queue {
            if place.is_some_and(|place| place.file == file) {
                *place = None;
                self.memory_only += 1;
            }
        }
        self.delete(file);
    }

    /// The record can never be sent.
    pub fn give_up(&mut self, place: Option<Place>, record: &Spooled, reason: &'static str) {
        let id = &record.envelope.id;
        self.lose(id.boot, id.seq, record.rows, reason);
        self.write_note();
        if let Some(place) = place {
            self.acknowledged(place);
        }
    }

    /// Whether there are records that no disk keeps.
    pub fn has_memory_only(&self) -> bool {
        self.memory_only > 0
    }

    fn delete(&mut self, file: u64) {
        if self.draining.as_ref().is_some_and(|d| d.file == file) {
            self.draining = None;
        }
        let Some(kept) = self.files.remove(&file) else { return };
        self.bytes -= kept.bytes;
        self.open -= kept.open as u64;
        if let Err(error) = self.disk.remove(file) {
            tracing::warn!(file, %error, "a file of the spool cannot be deleted");
        }
    }

    fn lose(&mut self, boot: u64, seq: u64, rows: u32, reason: &'static str) {
        self.is_noted = false;
        match self.lost.last_mut() {
            Some(last) if last.boot == boot && last.last.checked_add(1) == Some(seq) && last.reason == reason => {
                last.last = seq;
                last.rows = last.rows.map(|known| known + u64::from(rows));
            }
            _ => self.lost.push(LostStretch { boot, first: seq, last: seq, rows: Some(u64::from(rows)), reason }),
        }
    }

    /// Writes down what is lost and not declared. Where the disk refuses that too, only memory knows.
    fn write_note(&mut self) {
        if let Err(error) = self.try_note() {
            tracing::warn!(%error, "the spool's note of what was lost cannot be written");
        }
    }

    fn try_note(&mut self) -> io::Result<()> {
        let mut text = String::new();
        for stretch in self.told.iter().chain(&self.lost) {
            let LostStretch { boot, first, last, rows, reason } = stretch;
            let rows = rows.map_or_else(|| "-".to_owned(), |rows| rows.to_string());
            // Writing to a string does not fail.
            let _ = writeln!(text, "{boot} {first} {last} {rows} {reason}");
        }
        self.disk.note(text.as_bytes())?;
        self.has_note = !text.is_empty();
        self.is_noted = true;
        Ok(())
    }

    /// What has been lost since this was last asked. Say so with [`Spool::declared`] once it is written elsewhere.
    pub fn take_lost(&mut self) -> Vec<LostStretch> {
        let lost = std::mem::take(&mut self.lost);
        self.told.extend(lost.iter().cloned());
        lost
    }

    /// What [`Spool::take_lost`] gave is durable elsewhere: it need not be noted here any more.
    pub fn declared(&mut self) {
        self.told.clear();
        if self.has_note {
            self.write_note();
        }
    }

    /// Whether something that [`Spool::take_lost`] gave is not durable elsewhere yet, as far as is known here.
    pub fn has_told(&self) -> bool {
        !self.told.is_empty()
    }

    /// What there is.
    pub fn facts(&self) -> SpoolFacts {
        SpoolFacts {
            bytes: self.bytes,
            records: self.open + self.memory_only,
            oldest: self.files.values().find(|f| f.open > 0).and_then(|f| f.written.elapsed().ok()),
            damaged: self.damaged,
            refused: self.refused,
        }
    }
}

/// Whether a sample of that tick stays at a cadence.
fn is_kept(tick_micros: Option<i64>, cadence: Duration) -> bool {
    let micros = i64::try_from(cadence.as_micros()).unwrap_or(i64::MAX);
    tick_micros.is_none_or(|tick| tick % micros == 0)
}

/// Whether a file's records are gone for good, and not only now.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData)
}

/// Boot and number of the first record and the last.
fn ends(data: &[u8], frames: &[Range<usize>]) -> Option<((u64, u64), (u64, u64))> {
    let name = |range: &Range<usize>| label(data.get(range.clone())?).map(|label| (label.boot, label.seq));
    Some((frames.first().and_then(name)?, frames.last().and_then(name)?))
}

fn parse_note(text: &str) -> Vec<LostStretch> {
    let stretch = |line: &str| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let [boot, first, last, rows, reason] = words.as_slice() else { return None };
        let (boot, first, last) = (boot.parse().ok()?, first.parse().ok()?, last.parse().ok()?);
        let reason = REASONS.into_iter().find(|known| known == reason)?;
        (first <= last).then_some(LostStretch { boot, first, last, rows: rows.parse().ok(), reason })
    };
    text.lines().filter_map(stretch).collect()
}

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod tests;
