//! Reads journal files of systemd-journald: what chosen programs logged, from a known place on.
//!
//! A journal file is a database of its own. A header says where things begin; then come objects: a *data* object for
//! each distinct `FIELD=value`, an *entry* for each message, which lists the data objects it consists of, and *entry
//! arrays*, which list entries in order. A hash table finds a data object, and each data object has a chain of entry
//! arrays of its own, with the entries it is part of. So the messages of one program are found without looking at
//! those of others: look up `SYSLOG_IDENTIFIER=sshd`, see how many entries it has, read those beyond the last known.
//! A host may log a thousand lines in a second and cost nothing here.
//!
//! Traps. The hash is SipHash-2-4 keyed with the file's id in files that are flagged so (since systemd 246) and Jenkins'
//! lookup3 in others. Compact files (since 252) have 32-bit offsets. Values of 512 bytes and more may be compressed:
//! zstd and LZ4 are read here, XZ (before systemd 220) is not. The file is written while it is read: a reader relies on
//! nothing it reads. Here every offset is checked by the read itself, every chain is bounded, and what makes no sense is
//! passed over.
//!
//! The format is documented at <https://systemd.io/JOURNAL_FILE_FORMAT/>. A flag that is not known there means a format
//! that is not known here: the file is not read.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// A longest chain of any kind. Entry arrays double in size, hash chains are rebuilt when they grow past some tens.
const MAX_CHAIN: usize = 4_096;

/// Of a value so many bytes are read; a line that tells of a login has some hundred.
const MAX_VALUE: usize = 4_096;

/// A compressed value larger than this is not looked into.
const MAX_COMPRESSED: u64 = 64 << 10;

/// Fields of one entry. A program may log thousands; the lines looked for here have some thirty.
const MAX_FIELDS: usize = 256;

/// Data objects known to be of no interest, so that they are not read again with every entry.
const MAX_BORING: usize = 1_024;

/// Where bytes can be read from: a file, or a test's.
pub(crate) trait ReadAt {
    /// Reads what there is, up to the buffer's length.
    fn read_some(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
}

impl ReadAt for File {
    fn read_some(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.read_at(buffer, offset)
    }
}

impl ReadAt for &[u8] {
    fn read_some(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|offset| self.get(offset..)).unwrap_or_default();
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

const KEYED_HASH: u32 = 1 << 2;
const COMPACT: u32 = 1 << 4;
/// Compressions 0 to 3, keyed hash and compact.
const KNOWN_FLAGS: u32 = 0b1_1111;

const COMPRESSED_XZ: u8 = 1;
const COMPRESSED_LZ4: u8 = 2;
const COMPRESSED_ZSTD: u8 = 4;

const DATA: u8 = 1;
const ENTRY: u8 = 3;
const ENTRY_ARRAY: u8 = 6;

/// The beginning of the file: all that every version has.
const HEADER: usize = 208;

/// Fixed part of an object, of a data object, of an entry and of an entry array.
const OBJECT_HEAD: usize = 16;
const DATA_HEAD: usize = 64;
const ENTRY_HEAD: usize = 64;
const ARRAY_HEAD: usize = 24;

/// What the header says and does not change while the file lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    /// Tells files apart, also after they were renamed.
    pub(crate) file_id: [u8; 16],
    is_keyed: bool,
    is_compact: bool,
    hash_table: u64,
    buckets: u64,
}

fn parse_header(bytes: &[u8]) -> Result<Header, &'static str> {
    if bytes.get(..8) != Some(b"LPKSHHRH") {
        return Err("a journal begins with LPKSHHRH");
    }
    let read = || {
        let flags = u32_at(bytes, 12)?;
        let file_id = bytes.get(24..40)?.try_into().ok()?;
        Some((flags, file_id, u64_at(bytes, 104)?, u64_at(bytes, 112)? / 16))
    };
    let (flags, file_id, hash_table, buckets) = read().ok_or("a journal has a header of 208 bytes")?;
    if flags & !KNOWN_FLAGS != 0 {
        return Err("a journal of a newer format: read by a newer agent");
    }
    if buckets == 0 {
        return Err("a journal has a hash table");
    }
    Ok(Header { file_id, is_keyed: flags & KEYED_HASH != 0, is_compact: flags & COMPACT != 0, hash_table, buckets })
}

/// Where reading begins in a file that has not been read before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum From {
    /// After the entry of that number.
    After(u64),
    /// At that time, microseconds since 1970.
    Since(u64),
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    /// Grows from message to message, over all files of one journald.
    pub(crate) number: u64,
    /// Microseconds since 1970.
    pub(crate) at: u64,
    /// Which of the identifiers asked for.
    pub(crate) identifier: usize,
    /// The process that logged it, as the kernel says, or as it says itself.
    pub(crate) pid: Option<i64>,
    /// The user it ran as, and its program, as the kernel says: any user can log under any identifier.
    pub(crate) uid: Option<i64>,
    pub(crate) program: Option<String>,
    /// What it says.
    pub(crate) text: String,
}

/// An entry's fields that are of interest.
#[derive(Debug, Default)]
struct Fields {
    text: Option<String>,
    kernels_pid: Option<i64>,
    own_pid: Option<i64>,
    uid: Option<i64>,
    program: Option<String>,
}

/// One program's chain of entries, and how far it was read.
#[derive(Debug, Default, Clone)]
struct Chain {
    /// Its data object, once there is one.
    data: Option<u64>,
    /// Entries read.
    seen: u64,
    /// Entry array that holds the next one, and how many entries are before it. Saves walking the chain.
    array: Option<(u64, u64)>,
}

/// A journal file that is followed.
#[derive(Debug)]
pub(crate) struct Journal<S> {
    source: S,
    header: Header,
    values: Vec<String>,
    chains: Vec<Chain>,
    from: From,
    boring: HashSet<u64>,
    /// Number of the last message given.
    last: u64,
}

/// A data object's part in the chains.
struct DataHead {
    flags: u8,
    size: u64,
    hash: u64,
    next_in_bucket: u64,
    first_entry: u64,
    array: u64,
    entries: u64,
}

impl<S: ReadAt> Journal<S> {
    /// Opens a file for the messages of those identifiers.
    ///
    /// # Errors
    /// When it is no journal, or of a format that is not known.
    pub(crate) fn open(source: S, identifiers: &[&str], from: From) -> Result<Self, &'static str> {
        let mut bytes = [0u8; HEADER];
        let length = read_full(&source, &mut bytes, 0);
        let header = parse_header(&bytes[..length])?;
        Ok(Self {
            source,
            header,
            values: identifiers.iter().map(|identifier| format!("SYSLOG_IDENTIFIER={identifier}")).collect(),
            chains: vec![Chain::default(); identifiers.len()],
            from,
            boring: HashSet::new(),
            last: 0,
        })
    }

    /// What does not change in the file.
    pub(crate) fn header(&self) -> &Header {
        &self.header
    }

    /// The file.
    pub(crate) fn source(&self) -> &S {
        &self.source
    }

    /// Begins after the entry of that number, where nothing has been read yet.
    pub(crate) fn begin_after(&mut self, number: u64) {
        self.from = From::After(number);
    }

    /// Begins at another time, where that is how it was told to begin and nothing has been read yet.
    pub(crate) fn begin_since(&mut self, micros: u64) {
        if let From::Since(since) = &mut self.from {
            *since = micros;
        }
    }

    /// Number of the last message given, or of the one reading began after.
    pub(crate) fn last(&self) -> u64 {
        match self.from {
            From::After(number) => self.last.max(number),
            From::Since(_) => self.last,
        }
    }

    /// Gives messages that were not given before, in order, `limit` at the most; the rest comes next time. Where more
    /// than `backlog` wait, the oldest are passed over: their number comes back.
    pub(crate) fn read(&mut self, limit: usize, backlog: u64, mut give: impl FnMut(Message)) -> u64 {
        let mut skipped = 0;
        // Number, time, identifier, place of the entry.
        let mut found: Vec<(u64, u64, usize, u64)> = Vec::new();
        for identifier in 0..self.chains.len() {
            let Some(head) = self.locate(identifier) else { continue };
            let waiting = head.entries.saturating_sub(self.chains[identifier].seen);
            if waiting > backlog {
                skipped += waiting - backlog;
                self.chains[identifier].seen = head.entries - backlog;
            }
            let first = self.chains[identifier].seen;
            let last = head.entries.min(first.saturating_add(limit as u64));
            let mut array = self.chains[identifier].array;
            for at in first..last {
                let entry = self.entry_offset(&head, at, &mut array);
                // A place that leads nowhere is passed over like a message read: it must not hold up those behind it.
                let times = entry.and_then(|entry| self.entry_times(entry));
                let (number, time) = times.unwrap_or((found.last().map_or(0, |f| f.0), 0));
                found.push((number, time, identifier, entry.filter(|_| times.is_some()).unwrap_or(0)));
            }
            self.chains[identifier].array = array;
        }
        found.sort_by_key(|(number, ..)| *number);
        found.truncate(limit);
        for (number, at, identifier, entry) in found {
            self.chains[identifier].seen += 1;
            self.last = self.last.max(number);
            if entry != 0
                && let Some(fields) = self.fields(entry)
                && let Some(text) = fields.text
            {
                let pid = fields.own_pid.or(fields.kernels_pid);
                give(Message { number, at, identifier, pid, uid: fields.uid, program: fields.program, text });
            }
        }
        skipped
    }

    /// The data object of an identifier as it is now. When first found, reading begins where it was told to.
    fn locate(&mut self, identifier: usize) -> Option<DataHead> {
        if let Some(data) = self.chains[identifier].data {
            return self.data_head(data);
        }
        let value = self.values[identifier].clone();
        let (offset, head) = self.find(value.as_bytes())?;
        self.chains[identifier] = Chain { data: Some(offset), seen: self.first_wanted(&head), array: None };
        Some(head)
    }

    /// Bisects for the first entry that is wanted.
    fn first_wanted(&self, head: &DataHead) -> u64 {
        let is_before = |at: u64| {
            let times = self.entry_offset(head, at, &mut None).and_then(|entry| self.entry_times(entry));
            times.is_some_and(|(number, time)| match self.from {
                From::After(last) => number <= last,
                From::Since(since) => time < since,
            })
        };
        let (mut low, mut high) = (0, head.entries);
        while low < high {
            let middle = low + (high - low) / 2;
            if is_before(middle) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    /// Looks a `FIELD=value` up.
    fn find(&self, value: &[u8]) -> Option<(u64, DataHead)> {
        let hash = if self.header.is_keyed { siphash24(&self.header.file_id, value) } else { jenkins_lookup3(value) };
        let bucket = (hash % self.header.buckets).checked_mul(16)?;
        let mut bytes = [0u8; 8];
        self.exact(&mut bytes, self.header.hash_table.checked_add(bucket)?)?;
        let mut offset = u64::from_le_bytes(bytes);
        for _ in 0..MAX_CHAIN {
            if offset == 0 {
                return None;
            }
            let head = self.data_head(offset)?;
            if head.hash == hash && self.payload(offset, &head).is_some_and(|payload| payload == value) {
                return Some((offset, head));
            }
            offset = head.next_in_bucket;
        }
        None
    }

    fn data_head(&self, offset: u64) -> Option<DataHead> {
        let mut bytes = [0u8; DATA_HEAD];
        self.exact(&mut bytes, offset)?;
        if bytes[0] != DATA {
            return None;
        }
        Some(DataHead {
            flags: bytes[1],
            size: u64_at(&bytes, 8)?,
            hash: u64_at(&bytes, 16)?,
            next_in_bucket: u64_at(&bytes, 24)?,
            first_entry: u64_at(&bytes, 40)?,
            array: u64_at(&bytes, 48)?,
            entries: u64_at(&bytes, 56)?,
        })
    }

    /// `FIELD=value`, its first [`MAX_VALUE`] bytes.
    fn payload(&self, offset: u64, head: &DataHead) -> Option<Vec<u8>> {
        let before = if self.header.is_compact { DATA_HEAD + 8 } else { DATA_HEAD } as u64;
        let size = head.size.checked_sub(before)?;
        let compression = head.flags & (COMPRESSED_XZ | COMPRESSED_LZ4 | COMPRESSED_ZSTD);
        let wanted = if compression == 0 { size.min(MAX_VALUE as u64) } else { size };
        if compression != 0 && size > MAX_COMPRESSED {
            return None;
        }
        let mut bytes = vec![0; usize::try_from(wanted).ok()?];
        self.exact(&mut bytes, offset.checked_add(before)?)?;
        match compression {
            0 => Some(bytes),
            COMPRESSED_LZ4 => decompress_lz4(&bytes),
            COMPRESSED_ZSTD => decompress_zstd(&bytes),
            _ => None,
        }
    }

    /// Place of the n-th entry of a data object: the first stands in the object itself, the others in its arrays.
    fn entry_offset(&self, head: &DataHead, n: u64, hint: &mut Option<(u64, u64)>) -> Option<u64> {
        if n == 0 {
            return Some(head.first_entry);
        }
        let n = n - 1;
        let (mut array, mut before) = hint.filter(|(_, before)| *before <= n).unwrap_or((head.array, 0));
        for _ in 0..MAX_CHAIN {
            let mut bytes = [0u8; ARRAY_HEAD];
            self.exact(&mut bytes, array)?;
            if bytes[0] != ENTRY_ARRAY {
                return None;
            }
            let width: u64 = if self.header.is_compact { 4 } else { 8 };
            let items = u64_at(&bytes, 8)?.checked_sub(ARRAY_HEAD as u64)? / width;
            if n - before < items {
                *hint = Some((array, before));
                let place = array.checked_add(ARRAY_HEAD as u64)?.checked_add((n - before).checked_mul(width)?)?;
                let mut item = [0u8; 8];
                self.exact(&mut item[..usize::try_from(width).ok()?], place)?;
                return Some(u64::from_le_bytes(item)).filter(|offset| *offset != 0);
            }
            before = before.checked_add(items)?;
            if before > n {
                return None;
            }
            array = u64_at(&bytes, 16)?;
        }
        None
    }

    /// Number and time of an entry.
    fn entry_times(&self, offset: u64) -> Option<(u64, u64)> {
        let mut bytes = [0u8; 32];
        self.exact(&mut bytes, offset)?;
        (bytes[0] == ENTRY).then_some((u64_at(&bytes, 16)?, u64_at(&bytes, 24)?))
    }

    /// What an entry says, and who says it.
    fn fields(&mut self, offset: u64) -> Option<Fields> {
        let mut head = [0u8; OBJECT_HEAD];
        self.exact(&mut head, offset)?;
        let width = if self.header.is_compact { 4 } else { 16 };
        let fields = usize::try_from(u64_at(&head, 8)?.checked_sub(ENTRY_HEAD as u64)?).ok()? / width;
        let mut items = vec![0; fields.min(MAX_FIELDS) * width];
        self.exact(&mut items, offset.checked_add(ENTRY_HEAD as u64)?)?;
        let mut found = Fields::default();
        for item in items.chunks_exact(width) {
            let data = if self.header.is_compact { u64::from(u32_at(item, 0)?) } else { u64_at(item, 0)? };
            if self.boring.contains(&data) {
                continue;
            }
            let Some(payload) = self.data_head(data).and_then(|head| self.payload(data, &head)) else { continue };
            let number = |value: &[u8]| std::str::from_utf8(value).ok()?.parse().ok();
            let text = |value: &[u8]| Some(String::from_utf8_lossy(value).into_owned());
            if let Some(value) = payload.strip_prefix(b"MESSAGE=") {
                found.text = text(value);
            } else if let Some(value) = payload.strip_prefix(b"_PID=") {
                found.kernels_pid = number(value);
            } else if let Some(value) = payload.strip_prefix(b"SYSLOG_PID=") {
                found.own_pid = number(value);
            } else if let Some(value) = payload.strip_prefix(b"_UID=") {
                found.uid = number(value);
            } else if let Some(value) = payload.strip_prefix(b"_EXE=") {
                found.program = text(value);
            } else {
                if self.boring.len() >= MAX_BORING {
                    self.boring.clear();
                }
                self.boring.insert(data);
            }
        }
        Some(found)
    }

    fn exact(&self, buffer: &mut [u8], offset: u64) -> Option<()> {
        (read_full(&self.source, buffer, offset) == buffer.len()).then_some(())
    }
}

/// How many bytes could be read.
fn read_full(source: &impl ReadAt, buffer: &mut [u8], offset: u64) -> usize {
    let mut done = 0;
    while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
        let Some(place) = offset.checked_add(done as u64).filter(|place| i64::try_from(*place).is_ok()) else { break };
        match source.read_some(rest, place) {
            Ok(0) => break,
            Ok(more) => done += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    done
}

/// journald puts the length before the block: 64 bits.
fn decompress_lz4(bytes: &[u8]) -> Option<Vec<u8>> {
    let length = usize::try_from(u64_at(bytes, 0)?).ok()?;
    if length as u64 > 4 * MAX_COMPRESSED {
        return None;
    }
    let mut value = lz4_flex::block::decompress(bytes.get(8..)?, length).ok()?;
    value.truncate(MAX_VALUE);
    Some(value)
}

/// A frame as it is. Of what it holds, the first bytes.
fn decompress_zstd(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut value = Vec::new();
    let decoder = zstd::stream::read::Decoder::new(bytes).ok()?;
    io::Read::read_to_end(&mut io::Read::take(decoder, MAX_VALUE as u64), &mut value).ok()?;
    Some(value)
}

/// SipHash-2-4 with that key.
fn siphash24(key: &[u8; 16], bytes: &[u8]) -> u64 {
    let (k0, k1) = (u64_at(key, 0).unwrap_or(0), u64_at(key, 8).unwrap_or(0));
    let mut v = [
        k0 ^ 0x736f_6d65_7073_6575,
        k1 ^ 0x646f_7261_6e64_6f6d,
        k0 ^ 0x6c79_6765_6e65_7261,
        k1 ^ 0x7465_6462_7974_6573,
    ];
    let round = |v: &mut [u64; 4]| {
        v[0] = v[0].wrapping_add(v[1]);
        v[1] = v[1].rotate_left(13) ^ v[0];
        v[0] = v[0].rotate_left(32);
        v[2] = v[2].wrapping_add(v[3]);
        v[3] = v[3].rotate_left(16) ^ v[2];
        v[0] = v[0].wrapping_add(v[3]);
        v[3] = v[3].rotate_left(21) ^ v[0];
        v[2] = v[2].wrapping_add(v[1]);
        v[1] = v[1].rotate_left(17) ^ v[2];
        v[2] = v[2].rotate_left(32);
    };
    let take = |v: &mut [u64; 4], word: u64| {
        v[3] ^= word;
        round(v);
        round(v);
        v[0] ^= word;
    };
    let chunks = bytes.chunks_exact(8);
    let rest = chunks.remainder();
    for chunk in chunks {
        take(&mut v, u64_at(chunk, 0).unwrap_or(0));
    }
    let mut last = [0u8; 8];
    last[..rest.len()].copy_from_slice(rest);
    take(&mut v, u64::from_le_bytes(last) | (bytes.len() as u64) << 56);
    v[2] ^= 0xff;
    for _ in 0..4 {
        round(&mut v);
    }
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

/// Bob Jenkins' lookup3 (`hashlittle2`) from nought: the first word is the upper half.
fn jenkins_lookup3(bytes: &[u8]) -> u64 {
    let start = 0xdead_beef_u32.wrapping_add(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    let (mut a, mut b, mut c) = (start, start, start);
    let word = |chunk: &[u8], at: usize| {
        let mut word = [0u8; 4];
        let part = chunk.get(at..).unwrap_or_default();
        let length = part.len().min(4);
        word[..length].copy_from_slice(&part[..length]);
        u32::from_le_bytes(word)
    };
    let mut rest = bytes;
    while rest.len() > 12 {
        let (chunk, more) = rest.split_at(12);
        a = a.wrapping_add(word(chunk, 0));
        b = b.wrapping_add(word(chunk, 4));
        c = c.wrapping_add(word(chunk, 8));
        // Each step: one loses another and is mixed with it, the other gains the third.
        a = a.wrapping_sub(c) ^ c.rotate_left(4);
        c = c.wrapping_add(b);
        b = b.wrapping_sub(a) ^ a.rotate_left(6);
        a = a.wrapping_add(c);
        c = c.wrapping_sub(b) ^ b.rotate_left(8);
        b = b.wrapping_add(a);
        a = a.wrapping_sub(c) ^ c.rotate_left(16);
        c = c.wrapping_add(b);
        b = b.wrapping_sub(a) ^ a.rotate_left(19);
        a = a.wrapping_add(c);
        c = c.wrapping_sub(b) ^ b.rotate_left(4);
        b = b.wrapping_add(a);
        rest = more;
    }
    if !rest.is_empty() {
        a = a.wrapping_add(word(rest, 0));
        b = b.wrapping_add(word(rest, 4));
        c = c.wrapping_add(word(rest, 8));
        c = (c ^ b).wrapping_sub(b.rotate_left(14));
        a = (a ^ c).wrapping_sub(c.rotate_left(11));
        b = (b ^ a).wrapping_sub(a.rotate_left(25));
        c = (c ^ b).wrapping_sub(b.rotate_left(16));
        a = (a ^ c).wrapping_sub(c.rotate_left(4));
        b = (b ^ a).wrapping_sub(a.rotate_left(14));
        c = (c ^ b).wrapping_sub(b.rotate_left(24));
    }
    u64::from(c) << 32 | u64::from(b)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Files that systemd 252 wrote from the same 403 messages: compact with keyed hashes, and the older form with
    /// 64-bit offsets and Jenkins' hash. The last message is longer than 512 bytes, which is when values are compressed.
    fn recorded(name: &str) -> Vec<u8> {
        let path = format!("{}/tests/fixtures/journal/{name}.journal.zst", env!("CARGO_MANIFEST_DIR"));
        zstd::decode_all(std::fs::File::open(path).unwrap()).unwrap()
    }

    fn read_all(bytes: &[u8], from: From) -> Vec<Message> {
        let mut journal = Journal::open(bytes, &["sshd", "sudo", "none"], from).unwrap();
        let mut messages = Vec::new();
        assert_eq!(journal.read(1_000, 10_000, |message| messages.push(message)), 0);
        assert_eq!(journal.read(1_000, 10_000, |message| panic!("{message:?} comes twice")), 0);
        messages
    }

    #[test]
    fn messages_of_chosen_programs_come_in_order_from_both_forms_of_the_file() {
        let all: Vec<_> =
            ["compact-zstd", "regular-jenkins"].iter().map(|f| read_all(&recorded(f), From::Since(0))).collect();
        assert_eq!(all[0].len(), 103);
        assert_eq!(all[0], all[1]);
        let messages = &all[0];
        assert!(messages.is_sorted_by_key(|m| m.number));
        assert_eq!(messages[0].text, "Failed password for invalid user admin from 203.0.113.0 port 40000 ssh2");
        assert_eq!((messages[0].pid, messages[0].uid), (Some(1_000), Some(0)));
        assert_eq!(messages[0].at, 1_764_050_001_000_000);
        assert_eq!(messages.iter().filter(|m| m.identifier == 1).count(), 1);
        let long = messages.last().unwrap();
        assert!(long.text.starts_with("Accepted publickey for carol") && long.text.len() > 900, "{}", long.text.len());
    }

    #[test]
    fn reading_begins_where_it_is_told_to() {
        let bytes = recorded("compact-zstd");
        let all = read_all(&bytes, From::Since(0));
        assert_eq!(read_all(&bytes, From::After(all[50].number)), all[51..]);
        assert_eq!(read_all(&bytes, From::Since(all[50].at)), all[50..]);
        assert!(read_all(&bytes, From::Since(u64::MAX)).is_empty());
    }

    #[test]
    fn the_rest_comes_next_time_and_a_long_backlog_is_cut() {
        let bytes = recorded("regular-jenkins");
        let all = read_all(&bytes, From::Since(0));
        let mut journal = Journal::open(&bytes[..], &["sshd", "sudo"], From::Since(0)).unwrap();
        let mut messages = Vec::new();
        while messages.len() < all.len() {
            let before = messages.len();
            journal.read(10, 10_000, |message| messages.push(message));
            assert!(messages.len() - before <= 10 && messages.len() > before);
        }
        assert_eq!(messages, all);
        assert_eq!(journal.last(), all[102].number);
        let mut journal = Journal::open(&bytes[..], &["sshd"], From::Since(0)).unwrap();
        let mut count = 0;
        assert_eq!(journal.read(1_000, 20, |_| count += 1), 82);
        assert_eq!(count, 20);
    }

    #[test]
    fn the_hashes_are_the_published_ones() {
        let key: [u8; 16] = std::array::from_fn(|at| at as u8);
        let bytes: Vec<u8> = (0..15).collect();
        assert_eq!(siphash24(&key, &bytes), 0xa129_ca61_49be_45e5);
        assert_eq!(jenkins_lookup3(b""), 0xdead_beef_dead_beef);
        assert_eq!(jenkins_lookup3(b"Four score and seven years ago"), 0x1777_0551_ce72_26e6);
    }

    #[test]
    fn lz4_blocks_have_their_length_before_them() {
        let value = b"MESSAGE=".repeat(100);
        let mut bytes = (value.len() as u64).to_le_bytes().to_vec();
        bytes.extend(lz4_flex::block::compress(&value));
        assert_eq!(decompress_lz4(&bytes), Some(value));
        assert_eq!(decompress_lz4(&u64::MAX.to_le_bytes()), None);
    }

    #[test]
    fn what_is_no_journal_is_refused() {
        assert!(Journal::open(&b"LPKSHHRH"[..], &[], From::Since(0)).is_err());
        assert!(Journal::open(&[0u8; 400][..], &[], From::Since(0)).is_err());
        let mut newer = recorded("compact-zstd");
        newer[13] = 1;
        assert!(Journal::open(&newer[..], &[], From::Since(0)).unwrap_err().contains("newer"));
    }

    proptest! {
        #[test]
        fn any_bytes_can_be_a_journal(
            bytes in prop::collection::vec(any::<u8>(), 208..600), keyed in any::<bool>(), compact in any::<bool>()
        ) {
            let mut bytes = bytes;
            bytes[..8].copy_from_slice(b"LPKSHHRH");
            bytes[8..16].fill(0);
            bytes[12] = u8::from(keyed) << 2 | u8::from(compact) << 4;
            bytes[104..120].fill(0);
            bytes[104] = 200;
            bytes[112] = 16;
            let mut journal = Journal::open(&bytes[..], &["sshd", "sudo"], From::Since(0)).unwrap();
            journal.read(100, 1_000, |_| {});
        }

        #[test]
        fn any_damage_can_be_in_a_journal(damage in prop::collection::vec((0usize..4_000_000, any::<u8>()), 1..40)) {
            thread_local! { static BYTES: Vec<u8> = recorded("compact-zstd"); }
            let mut bytes = BYTES.with(Clone::clone);
            // Most of the file is an empty hash table; the objects lie behind it.
            let objects = bytes.len() - bytes.iter().rev().take_while(|b| **b == 0).count();
            for (at, byte) in damage {
                let place = objects.saturating_sub(at % 200_000 + 1);
                bytes[place] = byte;
            }
            if let Ok(mut journal) = Journal::open(&bytes[..], &["sshd", "sudo"], From::Since(0)) {
                journal.read(1_000, 10_000, |_| {});
            }
        }

        #[test]
        fn any_bytes_can_be_compressed(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            decompress_lz4(&bytes);
            decompress_zstd(&bytes);
        }
    }
}
